"""The ledger of the canary: accounts with their newest facts, what was published of them, their windows, and who trades in which book. No rules.

Rules: docs/canary.md. Facts are state.accounts.FACTS. Times ns, money in the account's base currency, percents in percent units; NaN, 0 and −1 say
"not known" as there. Row numbers refer between tables (-1 for none); they are stable for a row's life and across restores (state/table.py).
"""

from __future__ import annotations

import numpy as np

from state.accounts import FACTS
from state.changelog import Changelog
from state.hedges import FILL
from state.table import Table, row_type

ACCOUNT = row_type(
    [
        ("account_mark", "i8"), ("positions_mark", "i8"), ("account_hash", "u8"), ("positions_hash", "u8"), ("session_ns", "i8"),
        ("given_pct", "f8"), ("value", "f8"), ("given_at", "i4"), ("value_at", "i4"), ("session_day", "i4"),
        *FACTS,
        ("given_len", "u1"), ("given_name", "u1", (20,)), ("value_len", "u1"), ("value_name", "u1", (20,)),
        ("name_len", "u1"), ("name", "u1", (48,)),
    ]
)  # fmt: skip
"""One account in one mode, key = hash of its name seeded with the mode. *_mark: newest `as_of_ns` ever folded of a kind, 0 for none; *_hash: of the content
of the newest snapshot of a kind, 0 for none seen. session_day: New York date (days since the epoch) of its newest account snapshot, session_ns: first
`as_of_ns` of an account snapshot on that date. given_pct: largest |market_value_pct_nlv| that was delivered, sign kept; value: largest
|market_value_base| of the names without one; *_at: their places in the list: the two are one figure as soon as net liquidation is known."""

STREAM = row_type(
    [("digest", "u8", (4,)), ("published_ns", "i8"), ("seq", "i8"), ("account", "i4"), ("severity", "u1")]
)  # fmt: skip
"""What was last published of an account under a profile, key = that of the account ^ hash of the profile. digest: the canary key's 32 bytes; seq: alerts so far."""

BUCKET = row_type(
    [
        ("number", "i8"), ("observed_ns", "i8"), ("pnl_first", "f8"), ("pnl_last", "f8"), ("pnl_max", "f8"), ("pnl_min", "f8"), ("drawdown", "f8"),
        ("cushion", "f8"), ("gross", "f8"), ("net_delta", "f8"), ("gross_delta", "f8"), ("samples", "u4"), ("gaps", "u4"),
    ]
)  # fmt: skip
"""A stretch of time of an account, key = that of the account ^ place in a ring. number: of the stretch, counted from the epoch; a newer one takes the place
over. pnl_*: path of the daily P&L, in money; drawdown: largest fall within it. cushion: least, the others: greatest, in % of net liquidation.
observed_ns: Σ of the times between two account snapshots, at the later one; gaps: how many were too long to count."""

TRADER = row_type([("mark", "i8")])
"""An account fills came of, key = hash of its name. mark: newest time of a fill or hedge."""

TRADED = row_type(
    [("number", "i8"), ("fills", "i8"), ("traded", "f8"), ("net", "f8"), ("cost", "f8"), ("coverage", "f8")]
)  # fmt: skip
"""A stretch of time of a trader, as BUCKET. traded, net: Σ notional, absolute and signed; cost: Σ slippage in money; coverage: least told, NaN for none."""

BOOK = row_type([("told_ns", "i8"), ("head", "i4"), ("name_len", "u1"), ("name", "u1", (48,))])
"""A book of this lane, key = hash of its name. told_ns: newest word on its hedges, 0 for none; head: first of its pairs."""

PAIR = row_type([("book", "i4"), ("next", "i4"), ("name_len", "u1"), ("name", "u1", (48,))])
"""An account that has fills in a book, key = both hashes; name: the account's."""

# Scalars of a lane: the balance first (names in BALANCE), then where it stands.
BALANCE = (
    "received", "folded", "duplicate", "late", "dlq", "rerouted", "forwarded", "activities", "alerts_first", "alerts_changed", "alerts_heartbeat",
)  # fmt: skip
"""received = folded + duplicate + late + dlq + rerouted + forwarded. forwarded: fills and hedges, sent to their accounts' lanes in `activities` records."""
S_RECEIVED, S_FOLDED, S_DUPLICATE, S_LATE, S_DLQ, S_REROUTED, S_FORWARDED, S_ACTIVITIES, S_FIRST, S_CHANGED, S_HEARTBEAT = range(11)
S_NEWEST_DAY = 30
S_EVICT_DAY = 31  # the day whose search for fills past their time is under way, or done
S_EVICTED = 32  # how far it is
S_DEAD = 40  # dead letters by reason: S_DEAD + reason, reasons below 168
S_POSITIONS = 208  # next offset + 1 per input topic, 0 for none read yet
SCALARS = 216


class CanaryLedger:
    """Everything the canary keeps for one lane, with its changelog."""

    def __init__(self) -> None:
        self.accounts = Table("accounts", ACCOUNT)
        self.streams = Table("streams", STREAM)
        self.buckets = Table("buckets", BUCKET)
        self.traders = Table("traders", TRADER)
        self.traded = Table("traded", TRADED)
        self.books = Table("books", BOOK)
        self.pairs = Table("pairs", PAIR)
        self.fills = Table("fills", FILL)
        self.scalars = np.zeros(SCALARS, np.int64)
        self.tables = {
            t.name: t
            for t in (self.accounts, self.streams, self.buckets, self.traders, self.traded, self.books, self.pairs, self.fills)
        }  # fmt: skip
        """The tables by name, in changelog order."""
        self.changelog = Changelog(self.tables, self.scalars)
