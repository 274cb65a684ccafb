"""The ledger of the hedger: books, positions, fills seen, hedges and their legs, ratios in use, figures by the minute. Columns only; no rules.

Rules: docs/hedging.md. Quantities are int64 at the instrument's scale, notionals float64 in the book's base currency, times ns.
Row numbers refer between tables (-1 for none); they are stable for a row's life and across restores (state/table.py).
"""

from __future__ import annotations

import numpy as np

from state.changelog import Changelog
from state.table import Table, row_type

BOOK = row_type(
    [
        ("set_hi", "u8"), ("set_lo", "u8"), ("fills", "i8"), ("first_ns", "i8"), ("decided_ns", "i8"),
        ("gap_ns", "i8"), ("since_ns", "i8"), ("rest_ns", "i8"), ("retry_ns", "i8"), ("idle_ns", "i8"), ("bar_ns", "i8"), ("desk_ns", "i8"),
        ("desk_order", "u8"), ("triggers", "u8"), ("escalated", "u8"), ("expected", "f8"),
        ("coverage", "f8"), ("exposure_notional", "f8"), ("bound_r2", "f8"), ("effectiveness", "f8"), ("needed", "f8"),
        ("head", "i4"), ("flags", "u4"), ("refusals", "u4"), ("attempts", "u4"), ("name_len", "u1"), ("name", "u1", (48,)),
    ]
)  # fmt: skip
"""One book, key = hash of its name. set_*: sum of the hashes of (fill, version) applied, whatever their order. first_ns: since when a trigger
waits; triggers: bits of what triggered. gap_ns: since when coverage is under its target, 0 for not; since_ns: until when the figures by the minute
are kept. refusals: hedges refused or expired in a row, rest_ns: until when the book rests for it. retry_ns: when to decide without a trigger, 0
for not; idle_ns: until when nothing may be decided. bar_ns: end of the bar its ratios last moved at. desk_*: the desk's newest word on the book.
escalated: bits of what was told in this episode. expected (coverage with hedges in flight), coverage, …: as of the last decision. attempts: one more
than the highest attempt of its hedges forgotten. head: first of its positions."""
B_HELD, B_KNOWN, B_COVERED = 1, 2, 4

POSITION = row_type(
    [
        ("exposure", "i8"), ("hedge", "i8"), ("target", "f8"), ("target_ns", "i8"), ("target_ttl_ns", "i8"), ("target_order", "u8"),
        ("sent_ns", "i8"), ("traded", "f8"), ("traded_day", "i8"), ("moved", "f8"), ("start", "f8"), ("residual", "f8"), ("desk_ns", "i8"),
        ("desk_order", "u8"),
        ("book", "i4"), ("next", "i4"), ("series", "i4"), ("qty_scale", "i1"), ("flags", "u1"), ("symbol_len", "u1"), ("symbol", "u1", (20,)),
    ]
)  # fmt: skip
"""One book's symbol, key = (book, symbol). exposure: fills that are no hedges; hedge: fills of hedges and of the desk. target, target_ns: the newest
allocation. sent_ns: last hedge sent; traded: hedge notional of the day. moved: Σ |change of exposure| in units since the minute began.
start: where the next search begins. residual: as of the last decision. desk_*: the desk's newest word on it. P_EXPOSED: an exposure of the book's problem."""
P_TARGET, P_HELD, P_EXPOSED = 1, 2, 4

FILL = row_type([("versions", "u8"), ("day", "u2")])
"""A fill seen, key = fill_id: bit v − 1 for version v; from version 64 on the last bit stands for all."""

HEDGE = row_type(
    [
        ("version_hi", "u8"), ("version_lo", "u8"), ("decided_ns", "i8"), ("trigger_ns", "i8"), ("expires_ns", "i8"), ("changed_ns", "i8"),
        ("query_ns", "i8"), ("unknown_ns", "i8"), ("coverage", "f8"), ("told_cost", "f8"), ("told_notional", "f8"),
        ("book", "i4"), ("head", "i4"), ("attempt", "u4"), ("queries", "u4"), ("day", "u2"), ("state", "u1"), ("flags", "u1"), ("source", "u1"),
    ]
)  # fmt: skip
"""One hedge, key = hedge_id. query_ns: when to ask about it next, 0 for not; unknown_ns: since when it is UNKNOWN. told_*: bps × notional and notional of
its fills that are in the figures by the minute."""
H_REDUCE_ONLY, H_UNWIND, H_ESCALATED, H_COUNTED, H_MANUAL = 1, 2, 4, 8, 16

LEG = row_type(
    [
        ("size", "i8"), ("filled", "i8"), ("venue_filled", "i8"), ("notional", "f8"), ("mid", "f8"), ("paid", "f8"), ("bought", "f8"),
        ("undone", "i8"), ("event_ns", "i8"), ("event_order", "u8"),
        ("hedge", "i4"), ("position", "i4"), ("next", "i4"), ("side", "i1"), ("state", "u1"), ("end", "u1"),
    ]
)  # fmt: skip
"""One order of a hedge, key = order_id. filled: as fills say; venue_filled: as the order agent said at its end. undone: what
busts and corrections took off it. event_*: the order agent's newest word. paid: Σ price·size of its fills,
bought: Σ size in units. side 1 buys, −1 sells. end: how the venue ended it (a state), 0 while it has not."""

RATIO = row_type(
    [("used", "f8"), ("book", "i4"), ("exposure", "i4"), ("instrument", "i4"), ("run", "u4"), ("calm", "u4"), ("broken", "u1")]
)
"""The ratio in use (NaN for none), key = (book, exposure, instrument). broken, run, calm: of its correlation, as operators.ratios.Watch counts them."""

BUCKETS = 20
MINUTE = row_type(
    [
        ("minute", "i8"), ("known_s", "f8"), ("covered_s", "f8"), ("coverage_s", "f8"),
        ("hedged", "f8"), ("slippage", "f8"), ("moved", "f8"),
        ("episodes", "u4"), ("met", "u4"), ("sent", "u4"), ("ended", "u4"), ("failed", "u4"),
        ("latency", "u4", (BUCKETS,)), ("completion", "u4", (BUCKETS,)), ("book", "i4"),
    ]
)  # fmt: skip
"""What happened in a book in a minute, key = (book, minute). *_s: seconds with exposure above dust, of these covered, and weighted by coverage; slippage: Σ
notional × bps; moved: Σ |change of exposure|."""

ACK = row_type([("day", "u2")])
"""A HALT this lane has acknowledged, key = its msg_id."""

UNWIND = row_type([("sent", "f8"), ("day", "u2")])
"""What was sent of a policy's unwind instruction, key = (book, instruction)."""

STATES = (
    "PROPOSED", "BLOCKED", "QUEUED", "SENT", "ACKED", "PARTIAL", "UNKNOWN", "FILLED", "REFUSED", "CANCELED", "EXPIRED", "SUPERSEDED", "MANUAL",
)  # fmt: skip
"""Numbers of schemas.hedging.HedgeState, part of the persisted state."""
PROPOSED, BLOCKED, QUEUED, SENT, ACKED, PARTIAL, UNKNOWN, FILLED, REFUSED, CANCELED, EXPIRED, SUPERSEDED, MANUAL = range(len(STATES))
OPEN = frozenset((SENT, ACKED, PARTIAL, UNKNOWN))
"""States in which something of a hedge may be in flight."""

# Scalars of a lane: the balance first (names in BALANCE), then where it stands.
BALANCE = (
    "received", "applied", "duplicate", "echo", "dlq", "rerouted",
    "decisions", "hedges_sent", "hedges_queued", "hedges_blocked", "hedges_ended", "hedges_failed", "hedge_fills", "audit_records", "escalations", "halt_acks",
)  # fmt: skip
S_RECEIVED, S_APPLIED, S_DUPLICATE, S_ECHO, S_DLQ, S_REROUTED = range(6)
S_DECISIONS, S_SENT, S_QUEUED, S_BLOCKED, S_ENDED, S_FAILED, S_HEDGE_FILLS, S_AUDITS, S_ESCALATIONS, S_HALT_ACKS = range(6, 16)
S_NEWEST_DAY = 30
S_AUDIT_HASH = 32  # four words
S_AUDIT_SEQ = 36
S_MATRIX_BAR = 37
S_DEAD = 40  # dead letters by reason: S_DEAD + reason, reasons below 92
S_POSITIONS = 134  # next offset + 1 per input topic, 0 for none read yet
S_EVICT_DAY = 140  # the day whose search for rows past their time is under way, or done
S_EVICTED = 141  # how far it is: fills, hedges, acknowledgements
SCALARS = 144


class HedgeLedger:
    """Everything the hedger keeps for one lane, with its changelog."""

    def __init__(self) -> None:
        self.books = Table("books", BOOK)
        self.positions = Table("positions", POSITION)
        self.fills = Table("fills", FILL)
        self.hedges = Table("hedges", HEDGE)
        self.legs = Table("legs", LEG)
        self.ratios = Table("ratios", RATIO)
        self.minutes = Table("minutes", MINUTE)
        self.acks = Table("acks", ACK)
        self.unwinds = Table("unwinds", UNWIND)
        self.scalars = np.zeros(SCALARS, np.int64)
        self.tables = {
            t.name: t
            for t in (self.books, self.positions, self.fills, self.hedges, self.legs, self.ratios, self.minutes, self.acks, self.unwinds)
        }  # fmt: skip
        """The tables by name, in changelog order."""
        self.changelog = Changelog(self.tables, self.scalars)

    def reserve(self, records: int) -> None:
        """Make room for what `records` fills can add at most."""
        for table in (self.books, self.positions, self.fills):
            table.reserve(records, 2 * records)
        self.legs.reserve(0, records)
