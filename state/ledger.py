"""The ledgers of the execution flow: which tables there are, what a row holds, and the flags in it. Columns only; no rules.

Rules: docs/reconciliation.md. Quantities and prices are int64 at the instrument's scale, times are ns, days count from 2000-01-01.
Row numbers refer between tables (-1 for none): they are stable for a row's life and across restores (state/table.py).
"""

from __future__ import annotations

import numpy as np

from state.changelog import Changelog
from state.table import Table, row_type

INTENT = row_type(
    [
        ("msg_hi", "i8"), ("msg_lo", "i8"), ("order_hi", "i8"), ("order_lo", "i8"),
        ("size", "i8"), ("cum", "i8"), ("decision_ts", "i8"),
        ("arr_mid2", "i8"), ("arr_ts", "i8"), ("arr_snap_hi", "i8"), ("arr_snap_lo", "i8"),
        ("sla_ns", "i8"), ("instrument", "i4"), ("multiplier", "i4"), ("first_order", "i4"),
        ("day", "u2"), ("side", "i1"), ("tif", "i1"), ("px_scale", "i1"), ("qty_scale", "i1"),
        ("arr_status", "i1"), ("arr_detail", "i1"), ("symbol_len", "u1"), ("account_len", "u1"), ("book_len", "u1"),
        ("symbol", "u1", (20,)), ("account", "u1", (48,)), ("book", "u1", (48,)),
    ]
)  # fmt: skip
"""One routed order, key = correlation_id. arr_*: the arrival benchmark (arr_status -1: not looked up yet). first_order: its venue orders."""

ORDER = row_type(
    [
        ("corr_hi", "u8"), ("corr_lo", "u8"),
        ("qty", "i8"), ("qty_ts", "i8"), ("qty_seq", "i8"), ("floor", "i8"), ("repl_ts", "i8"), ("repl_seq", "i8"),
        ("cum", "i8"), ("not_hi", "u8"), ("not_lo", "u8"), ("day_cum", "i8"), ("est_open", "i8"),
        ("stated", "i8"), ("as_of", "i8"), ("last_ts", "i8"), ("last_seq", "i8"), ("st_ts", "i8"), ("st_seq", "i8"), ("gap", "i8"),
        ("firm", "i8"), ("firm_ts", "i8"), ("firm_seq", "i8"),
        ("dfd_ts", "i8"), ("restated_ts", "i8"), ("susp_ts", "i8"), ("resume_ts", "i8"),
        ("dfd_seq", "i8"), ("restated_seq", "i8"), ("susp_seq", "i8"), ("resume_seq", "i8"),
        ("split_num", "i8"), ("split_den", "i8"), ("split_ts", "i8"), ("early_size", "i8"), ("early_ts", "i8"),
        ("intent", "i4"), ("next_order", "i4"), ("head", "i4"), ("first_id", "i4"),
        ("day", "i4"), ("dfd_day", "i4"), ("nexec", "i4"), ("clock", "i4"), ("venue", "i4"),
        ("n_cancel", "u2"), ("n_replace", "u2"), ("flags", "u2"), ("holds", "u2"), ("alerted", "u2"),
        ("last_day", "u2"), ("early_scale", "i1"), ("qty_rank", "u1"), ("totals", "u1"), ("venue_len", "u1"), ("venue_name", "u1", (20,)),
    ]
)  # fmt: skip
"""One venue order (leg). cum and notional (128 bits, not_hi:not_lo) are the effective sums; `floor` is the cum a replace cannot go below; early_*: the
size an acknowledgement gave before the intent was known. stated, st_*: the venue's newest total, firm, firm_*: the newest one that no
waiting report made (T_STATED, T_FIRM in `totals`: there is one); as_of: what our facts not newer than `stated` come to."""
T_STATED, T_FIRM = 1, 2

ORDER_ID = row_type([("order", "i4"), ("next_id", "i4"), ("flags", "u1")])
"""An id a venue order is known by: key = hash of (correlation, venue, kind of id, text)."""
ID_CANCEL, ID_REPLACE, ID_RESOLVED = 1, 2, 4

ALIAS = row_type([("corr_hi", "u8"), ("corr_lo", "u8"), ("day", "u2")])
"""(venue, venue_order_id) → correlation, key = hash of both."""

EXEC = row_type(
    [
        ("qty", "i8"), ("px", "i8"), ("ts", "i8"),
        ("order", "i4"), ("root", "i4"), ("parent", "i4"), ("child", "i4"), ("next_exec", "i4"),
        ("fee", "u4"), ("seq", "u4"),
        ("day", "u2"), ("expires", "u2"), ("version", "u2"), ("flags", "u2"), ("kind", "u1"),
    ]
)  # fmt: skip
"""One execution or other report with an exec id, key = UUIDv5 of the execution key. 80 bytes. `order` is -1 for what is no report (an ack).

next_exec: of a chain's first link the next one on its order's list; of a bust or correct a print of the id it refers to."""
X_PUBLISHED, X_WAITING, X_UNFOLDED, X_ESTIMATE, X_FEE = 1, 2, 4, 8, 16
X_LIQUIDITY, X_LIQUIDITY_SHIFT = 96, 5
X_SELL, X_SIDE = 128, 256
X_SOURCE, X_SOURCE_SHIFT = 7168, 10
X_REFUSED = 8192

MATCH = row_type([("exec", "i4"), ("expires", "u2")])
"""A venue's id of the trade, key = hash of (venue, account, instrument, id, side, venue order)."""

WAIT = row_type([("head", "i4"), ("tail", "i4")])
"""What pending reports wait for, key = the thing; head and tail are rows of `PENDING`."""

PENDING = row_type(
    [
        ("first_ns", "i8"), ("since_ns", "i8"), ("due_ns", "i8"), ("offset", "i8"),
        ("wait", "i4"), ("next_pending", "i4"), ("exec", "i4"), ("order", "i4"), ("page", "i4"), ("length", "i4"), ("key_length", "i4"),
        ("reason", "u1"), ("level", "u1"),
    ]
)  # fmt: skip
"""A report that waits; its key and value are kept in `PAGE`s. `exec` is its row when it is known to the ledger already."""

PAGE_BYTES = 200
PAGE = row_type([("next_page", "i4"), ("data", "u1", (PAGE_BYTES,))])
"""A piece of a waiting report's bytes: its key, then its value."""
PAGE_SIZE = PAGE.itemsize
PAGE_DATA = int(PAGE.fields["data"][1]) if PAGE.fields else 0
"""Where the bytes begin in a row."""

CLOCK = row_type([("due_ns", "i8"), ("since_ns", "i8"), ("order", "i4"), ("what", "u1"), ("level", "u1")])
"""A running clock of a venue order, key = (order's key, what)."""
CLOCK_GAP, CLOCK_CONFIRM = 1, 2

O_ACKED, O_CANCELED, O_EXPIRED, O_REJECTED, O_STOPPED, O_CALCULATED, O_SKEW = 1, 2, 4, 8, 16, 32, 64

H_OVERFILL, H_REGRESSION, H_CONFLICT, H_SIDE, H_INSTRUMENT, H_ACCOUNT = 1, 2, 4, 8, 16, 32

TAG_CORRELATION = 0x1B873593C2B2AE35
TAG_ALIAS = 0x5851F42D4C957F2D
TAG_REF = 0x2545F4914F6CDD1D
TAG_HELD = 0x369DEA0F31A53F85
"""Mixed into keys of `WAIT`, so that different things that happen to have equal keys stay apart."""

# Scalars of a lane: the balance first (names in BALANCE), then where it stands.
BALANCE = (
    "received", "published", "duplicate", "pending", "dlq", "rerouted",
    "fills_published", "fills_enriched", "alerts", "audit_records", "misrouted", "dlq_resolved",
    "pending_order_unknown", "pending_uncorrelated", "pending_ref_unknown", "pending_held",
    "duplicate_transport", "duplicate_resend", "duplicate_feed_overlap", "duplicate_secondary", "duplicate_superseded",
    "duplicate_replay", "duplicate_enriched", "gaps_open", "orders_held", "late_benchmarks",
)  # fmt: skip
S = {name: i for i, name in enumerate(BALANCE)}
S_RECEIVED, S_PUBLISHED, S_DUPLICATE, S_PENDING, S_DLQ, S_REROUTED = 0, 1, 2, 3, 4, 5
S_FILLS, S_ENRICHED, S_ALERTS, S_AUDITS, S_MISROUTED, S_RESOLVED = 6, 7, 8, 9, 10, 11
S_WAIT_ORDER, S_WAIT_ALIAS, S_WAIT_REF, S_WAIT_HELD = 12, 13, 14, 15
S_DUP_KIND = 16  # + (reason - duplicate_transport)
S_GAPS, S_HELD, S_LATE_BENCHMARKS = 23, 24, 25
S_NEWEST_DAY = 30
S_SERIAL = 31  # numbers pending reports and pages
S_AUDIT_SEQ = 32
S_AUDIT_HASH = 33  # four words
S_ESTIMATES = 38  # estimates ever taken
S_DEAD = 40  # dead letters by reason: S_DEAD + reason, reasons below 92
S_POSITIONS = 134  # next offset + 1 per input topic, 0 for none read yet
SCALARS = 144


class ExecutionLedger:
    """Everything the execution flow keeps for one lane, with its changelog."""

    def __init__(self) -> None:
        self.intents = Table("intents", INTENT)
        self.orders = Table("orders", ORDER)
        self.ids = Table("ids", ORDER_ID)
        self.aliases = Table("aliases", ALIAS)
        self.execs = Table("execs", EXEC)
        self.matches = Table("matches", MATCH)
        self.waits = Table("waits", WAIT)
        self.pendings = Table("pendings", PENDING)
        self.pages = Table("pages", PAGE)
        self.clocks = Table("clocks", CLOCK)
        self.scalars = np.zeros(SCALARS, np.int64)
        self.tables = {
            t.name: t
            for t in (
                self.intents, self.orders, self.ids, self.aliases, self.execs, self.matches, self.waits, self.pendings,
                self.pages, self.clocks,
            )
        }  # fmt: skip
        """The tables by name, in changelog order."""
        self.changelog = Changelog(self.tables, self.scalars)

    def reserve(self, records: int) -> None:
        """Make room for what `records` reports can add at most."""
        for table, each in (
            (self.intents, 1), (self.orders, 1), (self.ids, 3), (self.aliases, 1), (self.execs, 1), (self.matches, 1),
            (self.waits, 1), (self.pendings, 1), (self.clocks, 2),
        ):  # fmt: skip
            table.reserve(each * records, 4 * each * records)
