"""One int64 array that tells kernels where everything is: the lane's tables, the reference data, the tape, the batch, room for decisions.

Kernels get this map and nothing else, and ask it for views. Handing tables around as arguments instead costs minutes of compilation (a call
with ninety arrays has six hundred machine arguments) and a reference count per array and call (docs/decisions/0003). A view owns nothing:
the map's maker keeps the arrays alive for the length of the call and lays the map anew when one of them is replaced.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numba
import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numpy.typing import NDArray

from schemas.chunk import Bytes, Ints
from schemas.jit import njit
from schemas.words import intrinsic
from state import ledger as g
from state.quotes import QuoteArrays
from state.table import TableArrays, row_type

carray: Any = numba.carray  # type: ignore[attr-defined]  # numba exports it without saying so
Map: TypeAlias = NDArray[np.int64]

REFERENCE = row_type([("position", "i4")])

TABLES = ("intents", "orders", "ids", "aliases", "execs", "matches", "waits", "pendings", "pages", "clocks", "reference")
_TABLE_PARTS = ("rows", "slots", "meta", "dirty", "changed")
OTHERS = (
    "scalars", "venues", "instruments", "q_ts", "q_bid", "q_ask", "q_snap_hi", "q_snap_lo", "q_full", "q_head", "q_kept", "q_watermark",
    "q_overwritten", "q_tape", "q_counters", "in_rows", "in_arena", "in_ok", "in_reason", "in_offsets", "in_pend", "in_where",
    "ahead_rows", "ahead_arena", "ahead_ok", "ahead_reason", "ahead_offsets", "ahead_pend", "ahead_where", "ahead_lists", "ahead_at",
    "from_data", "from_bounds", "from_keys", "from_key_bounds", "legs", "fills", "audits", "dlqs", "alerts", "alias_rows", "reroutes",
    "parks", "wakes", "done", "text", "n", "topics", "names", "scratch", "work", "blank_fill", "blank_audit", "blank_alert", "blank_alias",
)  # fmt: skip
ENTRIES = [f"{t}.{p}" for t in TABLES for p in _TABLE_PARTS] + list(OTHERS)
AT = {name: 3 * i for i, name in enumerate(ENTRIES)}
"""Where an array's entry begins: address, length, second length."""


class Memory:
    """Lays the map out. `put` enters an array (and keeps it alive); `map` is what kernels take."""

    def __init__(self) -> None:
        self.map: Map = np.zeros(3 * len(ENTRIES), np.int64)
        self._kept: dict[str, Any] = {}

    def put(self, name: str, array: NDArray[Any]) -> None:
        """Enter a C-contiguous array. Entering the same one again costs nothing."""
        if self._kept.get(name) is array:
            return
        if not array.flags.c_contiguous:
            raise ValueError(f"{name}: kernels need a C-contiguous array")
        self._kept[name] = array
        at = AT[name]
        self.map[at] = array.__array_interface__["data"][0]
        self.map[at + 1] = array.shape[0]
        self.map[at + 2] = array.shape[1] if array.ndim > 1 else 1

    def put_table(self, name: str, arrays: TableArrays) -> None:
        """Enter a table. A table that grew has other `arrays`; entering the same ones again costs nothing."""
        if self._kept.get(name) is arrays:
            return
        self._kept[name] = arrays
        for part, array in zip(_TABLE_PARTS, arrays, strict=True):
            self.put(f"{name}.{part}", array)


@intrinsic
def _address(typingctx: Any, address: Any) -> Any:
    """Return an integer as a pointer."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], ir.IntType(8).as_pointer())

    return types.voidptr(types.int64), generate


_I16, _I32, _I64, _U8, _BOOL = np.dtype("i2"), np.dtype("i4"), np.dtype("i8"), np.dtype("u1"), np.dtype("?")
_INTENT, _ORDER, _ID, _ALIAS, _EXEC = g.INTENT, g.ORDER, g.ORDER_ID, g.ALIAS, g.EXEC
_MATCH, _WAIT, _PENDING, _PAGE, _CLOCK, _REF = g.MATCH, g.WAIT, g.PENDING, g.PAGE, g.CLOCK, REFERENCE
_AT_INTENTS = AT["intents.rows"]
_AT_ORDERS = AT["orders.rows"]
_AT_IDS = AT["ids.rows"]
_AT_ALIASES = AT["aliases.rows"]
_AT_EXECS = AT["execs.rows"]
_AT_MATCHES = AT["matches.rows"]
_AT_WAITS = AT["waits.rows"]
_AT_PENDINGS = AT["pendings.rows"]
_AT_PAGES = AT["pages.rows"]
_AT_CLOCKS = AT["clocks.rows"]
_AT_REFERENCE = AT["reference.rows"]
_AT_SCALARS = AT["scalars"]
_AT_IN = AT["in_rows"]
_AT_IN_ARENA = AT["in_arena"]
_AT_IN_OK = AT["in_ok"]
_AT_IN_REASON = AT["in_reason"]
_AT_IN_OFFSETS = AT["in_offsets"]
_AT_IN_PEND = AT["in_pend"]
_AT_IN_WHERE = AT["in_where"]
_AT_AHEAD = AT["ahead_rows"]
_IN_WORDS = AT["ahead_lists"] - _AT_AHEAD
_AT_AHEAD_LISTS = AT["ahead_lists"]
_AT_AHEAD_AT = AT["ahead_at"]
_AT_AHEAD_PEND = AT["ahead_pend"]
_AT_FROM_DATA = AT["from_data"]
_AT_FROM_BOUNDS = AT["from_bounds"]
_AT_FROM_KEYS = AT["from_keys"]
_AT_FROM_KEY_BOUNDS = AT["from_key_bounds"]
_AT_WAKES = AT["wakes"]
_AT_DONE = AT["done"]
_AT_TEXT = AT["text"]
_AT_N = AT["n"]
_AT_SCRATCH = AT["scratch"]
_AT_WORK = AT["work"]
_AT_BLANK_FILL = AT["blank_fill"]
_AT_BLANK_AUDIT = AT["blank_audit"]
_AT_BLANK_ALERT = AT["blank_alert"]
_AT_BLANK_ALIAS = AT["blank_alias"]
_AT_VENUES = AT["venues"]
_AT_INSTRUMENTS = AT["instruments"]
_AT_IN_ROWS = AT["in_rows"]
_AT_LEGS = AT["legs"]
_AT_FILLS = AT["fills"]
_AT_AUDITS = AT["audits"]
_AT_DLQS = AT["dlqs"]
_AT_ALERTS = AT["alerts"]
_AT_ALIAS_ROWS = AT["alias_rows"]
_AT_REROUTES = AT["reroutes"]
_AT_PARKS = AT["parks"]
_AT_TOPICS = AT["topics"]
_AT_NAMES = AT["names"]
_AT_QUOTES = AT["q_ts"]


@njit
def intents(m: Map) -> Any:
    """Return the rows of routed orders."""
    return carray(_address(m[_AT_INTENTS]), (m[_AT_INTENTS + 1],), _INTENT)


@njit
def intents_table(m: Map) -> Any:
    """Return the table of routed orders."""
    return TableArrays(
        carray(_address(m[_AT_INTENTS]), (m[_AT_INTENTS + 1],), _INTENT),
        carray(_address(m[_AT_INTENTS + 3]), (m[_AT_INTENTS + 4],), _I32),
        carray(_address(m[_AT_INTENTS + 6]), (m[_AT_INTENTS + 7],), _I64),
        carray(_address(m[_AT_INTENTS + 9]), (m[_AT_INTENTS + 10],), _U8),
        carray(_address(m[_AT_INTENTS + 12]), (m[_AT_INTENTS + 13],), _I32),
    )


@njit
def orders(m: Map) -> Any:
    """Return the rows of venue orders."""
    return carray(_address(m[_AT_ORDERS]), (m[_AT_ORDERS + 1],), _ORDER)


@njit
def orders_table(m: Map) -> Any:
    """Return the table of venue orders."""
    return TableArrays(
        carray(_address(m[_AT_ORDERS]), (m[_AT_ORDERS + 1],), _ORDER),
        carray(_address(m[_AT_ORDERS + 3]), (m[_AT_ORDERS + 4],), _I32),
        carray(_address(m[_AT_ORDERS + 6]), (m[_AT_ORDERS + 7],), _I64),
        carray(_address(m[_AT_ORDERS + 9]), (m[_AT_ORDERS + 10],), _U8),
        carray(_address(m[_AT_ORDERS + 12]), (m[_AT_ORDERS + 13],), _I32),
    )


@njit
def ids(m: Map) -> Any:
    """Return the rows of ids of venue orders."""
    return carray(_address(m[_AT_IDS]), (m[_AT_IDS + 1],), _ID)


@njit
def ids_table(m: Map) -> Any:
    """Return the table of ids of venue orders."""
    return TableArrays(
        carray(_address(m[_AT_IDS]), (m[_AT_IDS + 1],), _ID),
        carray(_address(m[_AT_IDS + 3]), (m[_AT_IDS + 4],), _I32),
        carray(_address(m[_AT_IDS + 6]), (m[_AT_IDS + 7],), _I64),
        carray(_address(m[_AT_IDS + 9]), (m[_AT_IDS + 10],), _U8),
        carray(_address(m[_AT_IDS + 12]), (m[_AT_IDS + 13],), _I32),
    )


@njit
def aliases(m: Map) -> Any:
    """Return the rows of aliases."""
    return carray(_address(m[_AT_ALIASES]), (m[_AT_ALIASES + 1],), _ALIAS)


@njit
def aliases_table(m: Map) -> Any:
    """Return the table of aliases."""
    return TableArrays(
        carray(_address(m[_AT_ALIASES]), (m[_AT_ALIASES + 1],), _ALIAS),
        carray(_address(m[_AT_ALIASES + 3]), (m[_AT_ALIASES + 4],), _I32),
        carray(_address(m[_AT_ALIASES + 6]), (m[_AT_ALIASES + 7],), _I64),
        carray(_address(m[_AT_ALIASES + 9]), (m[_AT_ALIASES + 10],), _U8),
        carray(_address(m[_AT_ALIASES + 12]), (m[_AT_ALIASES + 13],), _I32),
    )


@njit
def execs(m: Map) -> Any:
    """Return the rows of executions."""
    return carray(_address(m[_AT_EXECS]), (m[_AT_EXECS + 1],), _EXEC)


@njit
def execs_table(m: Map) -> Any:
    """Return the table of executions."""
    return TableArrays(
        carray(_address(m[_AT_EXECS]), (m[_AT_EXECS + 1],), _EXEC),
        carray(_address(m[_AT_EXECS + 3]), (m[_AT_EXECS + 4],), _I32),
        carray(_address(m[_AT_EXECS + 6]), (m[_AT_EXECS + 7],), _I64),
        carray(_address(m[_AT_EXECS + 9]), (m[_AT_EXECS + 10],), _U8),
        carray(_address(m[_AT_EXECS + 12]), (m[_AT_EXECS + 13],), _I32),
    )


@njit
def matches(m: Map) -> Any:
    """Return the rows of venues' trade ids."""
    return carray(_address(m[_AT_MATCHES]), (m[_AT_MATCHES + 1],), _MATCH)


@njit
def matches_table(m: Map) -> Any:
    """Return the table of venues' trade ids."""
    return TableArrays(
        carray(_address(m[_AT_MATCHES]), (m[_AT_MATCHES + 1],), _MATCH),
        carray(_address(m[_AT_MATCHES + 3]), (m[_AT_MATCHES + 4],), _I32),
        carray(_address(m[_AT_MATCHES + 6]), (m[_AT_MATCHES + 7],), _I64),
        carray(_address(m[_AT_MATCHES + 9]), (m[_AT_MATCHES + 10],), _U8),
        carray(_address(m[_AT_MATCHES + 12]), (m[_AT_MATCHES + 13],), _I32),
    )


@njit
def waits(m: Map) -> Any:
    """Return the rows of what is waited for."""
    return carray(_address(m[_AT_WAITS]), (m[_AT_WAITS + 1],), _WAIT)


@njit
def waits_table(m: Map) -> Any:
    """Return the table of what is waited for."""
    return TableArrays(
        carray(_address(m[_AT_WAITS]), (m[_AT_WAITS + 1],), _WAIT),
        carray(_address(m[_AT_WAITS + 3]), (m[_AT_WAITS + 4],), _I32),
        carray(_address(m[_AT_WAITS + 6]), (m[_AT_WAITS + 7],), _I64),
        carray(_address(m[_AT_WAITS + 9]), (m[_AT_WAITS + 10],), _U8),
        carray(_address(m[_AT_WAITS + 12]), (m[_AT_WAITS + 13],), _I32),
    )


@njit
def pendings(m: Map) -> Any:
    """Return the rows of waiting reports."""
    return carray(_address(m[_AT_PENDINGS]), (m[_AT_PENDINGS + 1],), _PENDING)


@njit
def pendings_table(m: Map) -> Any:
    """Return the table of waiting reports."""
    return TableArrays(
        carray(_address(m[_AT_PENDINGS]), (m[_AT_PENDINGS + 1],), _PENDING),
        carray(_address(m[_AT_PENDINGS + 3]), (m[_AT_PENDINGS + 4],), _I32),
        carray(_address(m[_AT_PENDINGS + 6]), (m[_AT_PENDINGS + 7],), _I64),
        carray(_address(m[_AT_PENDINGS + 9]), (m[_AT_PENDINGS + 10],), _U8),
        carray(_address(m[_AT_PENDINGS + 12]), (m[_AT_PENDINGS + 13],), _I32),
    )


@njit
def pages(m: Map) -> Any:
    """Return the rows of pieces of waiting reports."""
    return carray(_address(m[_AT_PAGES]), (m[_AT_PAGES + 1],), _PAGE)


@njit
def pages_bytes(m: Map) -> Bytes:
    """Return the same rows as bytes end to end."""
    return carray(_address(m[_AT_PAGES]), (m[_AT_PAGES + 1] * g.PAGE_SIZE,), _U8)


@njit
def pages_table(m: Map) -> Any:
    """Return the table of pieces of waiting reports."""
    return TableArrays(
        carray(_address(m[_AT_PAGES]), (m[_AT_PAGES + 1],), _PAGE),
        carray(_address(m[_AT_PAGES + 3]), (m[_AT_PAGES + 4],), _I32),
        carray(_address(m[_AT_PAGES + 6]), (m[_AT_PAGES + 7],), _I64),
        carray(_address(m[_AT_PAGES + 9]), (m[_AT_PAGES + 10],), _U8),
        carray(_address(m[_AT_PAGES + 12]), (m[_AT_PAGES + 13],), _I32),
    )


@njit
def clocks(m: Map) -> Any:
    """Return the rows of running clocks."""
    return carray(_address(m[_AT_CLOCKS]), (m[_AT_CLOCKS + 1],), _CLOCK)


@njit
def clocks_table(m: Map) -> Any:
    """Return the table of running clocks."""
    return TableArrays(
        carray(_address(m[_AT_CLOCKS]), (m[_AT_CLOCKS + 1],), _CLOCK),
        carray(_address(m[_AT_CLOCKS + 3]), (m[_AT_CLOCKS + 4],), _I32),
        carray(_address(m[_AT_CLOCKS + 6]), (m[_AT_CLOCKS + 7],), _I64),
        carray(_address(m[_AT_CLOCKS + 9]), (m[_AT_CLOCKS + 10],), _U8),
        carray(_address(m[_AT_CLOCKS + 12]), (m[_AT_CLOCKS + 13],), _I32),
    )


@njit
def reference(m: Map) -> Any:
    """Return the rows of names of the reference data."""
    return carray(_address(m[_AT_REFERENCE]), (m[_AT_REFERENCE + 1],), _REF)


@njit
def reference_table(m: Map) -> Any:
    """Return the table of names of the reference data."""
    return TableArrays(
        carray(_address(m[_AT_REFERENCE]), (m[_AT_REFERENCE + 1],), _REF),
        carray(_address(m[_AT_REFERENCE + 3]), (m[_AT_REFERENCE + 4],), _I32),
        carray(_address(m[_AT_REFERENCE + 6]), (m[_AT_REFERENCE + 7],), _I64),
        carray(_address(m[_AT_REFERENCE + 9]), (m[_AT_REFERENCE + 10],), _U8),
        carray(_address(m[_AT_REFERENCE + 12]), (m[_AT_REFERENCE + 13],), _I32),
    )


@njit
def scalars(m: Map) -> Ints:
    """Return `scalars` (operators/context.py)."""
    return carray(_address(m[_AT_SCALARS]), (m[_AT_SCALARS + 1],), _I64)


@njit
def in_arena(m: Map) -> Bytes:
    """Return `in_arena` (operators/context.py)."""
    return carray(_address(m[_AT_IN_ARENA]), (m[_AT_IN_ARENA + 1],), _U8)


@njit
def in_ok(m: Map) -> Any:
    """Return `in_ok` (operators/context.py)."""
    return carray(_address(m[_AT_IN_OK]), (m[_AT_IN_OK + 1],), _BOOL)


@njit
def in_reason(m: Map) -> Any:
    """Return `in_reason` (operators/context.py)."""
    return carray(_address(m[_AT_IN_REASON]), (m[_AT_IN_REASON + 1],), _I16)


@njit
def in_offsets(m: Map) -> Ints:
    """Return `in_offsets` (operators/context.py)."""
    return carray(_address(m[_AT_IN_OFFSETS]), (m[_AT_IN_OFFSETS + 1],), _I64)


@njit
def in_pend(m: Map) -> Ints:
    """Return `in_pend` (operators/context.py)."""
    return carray(_address(m[_AT_IN_PEND]), (m[_AT_IN_PEND + 1],), _I64)


@njit
def in_where(m: Map) -> Ints:
    """Return `in_where` (operators/context.py)."""
    return carray(_address(m[_AT_IN_WHERE]), (m[_AT_IN_WHERE + 1],), _I64)


@njit
def ahead_lists(m: Map) -> Ints:
    """Return `lists` of the reports decoded ahead (operators/context.py)."""
    return carray(_address(m[_AT_AHEAD_LISTS]), (m[_AT_AHEAD_LISTS + 1], m[_AT_AHEAD_LISTS + 2]), _I64)


@njit
def ahead_at(m: Map) -> Ints:
    """Return `at` of the reports decoded ahead (operators/context.py)."""
    return carray(_address(m[_AT_AHEAD_AT]), (m[_AT_AHEAD_AT + 1],), _I64)


@njit
def ahead_pend(m: Map) -> Ints:
    """Return the waiting rows of the reports decoded ahead."""
    return carray(_address(m[_AT_AHEAD_PEND]), (m[_AT_AHEAD_PEND + 1],), _I64)


@njit
def swap_inputs(m: Map) -> None:
    """Let the reports decoded ahead and the batch change places, until called again."""
    for i in range(_IN_WORDS):
        m[_AT_IN + i], m[_AT_AHEAD + i] = m[_AT_AHEAD + i], m[_AT_IN + i]


@njit
def from_data(m: Map) -> Bytes:
    """Return the values the batch was decoded from."""
    return carray(_address(m[_AT_FROM_DATA]), (m[_AT_FROM_DATA + 1],), _U8)


@njit
def from_bounds(m: Map) -> Ints:
    """Return the bounds of these values."""
    return carray(_address(m[_AT_FROM_BOUNDS]), (m[_AT_FROM_BOUNDS + 1],), _I64)


@njit
def from_keys(m: Map) -> Bytes:
    """Return the keys of the batch."""
    return carray(_address(m[_AT_FROM_KEYS]), (m[_AT_FROM_KEYS + 1],), _U8)


@njit
def from_key_bounds(m: Map) -> Ints:
    """Return the bounds of these keys."""
    return carray(_address(m[_AT_FROM_KEY_BOUNDS]), (m[_AT_FROM_KEY_BOUNDS + 1],), _I64)


@njit
def wakes(m: Map) -> Ints:
    """Return `wakes` (operators/context.py)."""
    return carray(_address(m[_AT_WAKES]), (m[_AT_WAKES + 1],), _I64)


@njit
def done(m: Map) -> Ints:
    """Return `done` (operators/context.py)."""
    return carray(_address(m[_AT_DONE]), (m[_AT_DONE + 1],), _I64)


@njit
def text(m: Map) -> Bytes:
    """Return `text` (operators/context.py)."""
    return carray(_address(m[_AT_TEXT]), (m[_AT_TEXT + 1],), _U8)


@njit
def n(m: Map) -> Ints:
    """Return `n` (operators/context.py)."""
    return carray(_address(m[_AT_N]), (m[_AT_N + 1],), _I64)


@njit
def scratch(m: Map) -> Bytes:
    """Return `scratch` (operators/context.py)."""
    return carray(_address(m[_AT_SCRATCH]), (m[_AT_SCRATCH + 1],), _U8)


@njit
def work(m: Map) -> Ints:
    """Return `work` (operators/context.py)."""
    return carray(_address(m[_AT_WORK]), (m[_AT_WORK + 1],), _I64)


@njit
def blank_fill(m: Map) -> Ints:
    """Return `blank_fill` (operators/context.py)."""
    return carray(_address(m[_AT_BLANK_FILL]), (m[_AT_BLANK_FILL + 1],), _I64)


@njit
def blank_audit(m: Map) -> Ints:
    """Return `blank_audit` (operators/context.py)."""
    return carray(_address(m[_AT_BLANK_AUDIT]), (m[_AT_BLANK_AUDIT + 1],), _I64)


@njit
def blank_alert(m: Map) -> Ints:
    """Return `blank_alert` (operators/context.py)."""
    return carray(_address(m[_AT_BLANK_ALERT]), (m[_AT_BLANK_ALERT + 1],), _I64)


@njit
def blank_alias(m: Map) -> Ints:
    """Return `blank_alias` (operators/context.py)."""
    return carray(_address(m[_AT_BLANK_ALIAS]), (m[_AT_BLANK_ALIAS + 1],), _I64)


@njit
def venues(m: Map) -> Ints:
    """Return `venues` (operators/context.py)."""
    return carray(_address(m[_AT_VENUES]), (m[_AT_VENUES + 1], m[_AT_VENUES + 2]), _I64)


@njit
def instruments(m: Map) -> Ints:
    """Return `instruments` (operators/context.py)."""
    return carray(_address(m[_AT_INSTRUMENTS]), (m[_AT_INSTRUMENTS + 1], m[_AT_INSTRUMENTS + 2]), _I64)


@njit
def in_rows(m: Map) -> Ints:
    """Return `in_rows` (operators/context.py)."""
    return carray(_address(m[_AT_IN_ROWS]), (m[_AT_IN_ROWS + 1], m[_AT_IN_ROWS + 2]), _I64)


@njit
def legs(m: Map) -> Ints:
    """Return `legs` (operators/context.py)."""
    return carray(_address(m[_AT_LEGS]), (m[_AT_LEGS + 1], m[_AT_LEGS + 2]), _I64)


@njit
def fills(m: Map) -> Ints:
    """Return `fills` (operators/context.py)."""
    return carray(_address(m[_AT_FILLS]), (m[_AT_FILLS + 1], m[_AT_FILLS + 2]), _I64)


@njit
def audits(m: Map) -> Ints:
    """Return `audits` (operators/context.py)."""
    return carray(_address(m[_AT_AUDITS]), (m[_AT_AUDITS + 1], m[_AT_AUDITS + 2]), _I64)


@njit
def dlqs(m: Map) -> Ints:
    """Return `dlqs` (operators/context.py)."""
    return carray(_address(m[_AT_DLQS]), (m[_AT_DLQS + 1], m[_AT_DLQS + 2]), _I64)


@njit
def alerts(m: Map) -> Ints:
    """Return `alerts` (operators/context.py)."""
    return carray(_address(m[_AT_ALERTS]), (m[_AT_ALERTS + 1], m[_AT_ALERTS + 2]), _I64)


@njit
def alias_rows(m: Map) -> Ints:
    """Return `alias_rows` (operators/context.py)."""
    return carray(_address(m[_AT_ALIAS_ROWS]), (m[_AT_ALIAS_ROWS + 1], m[_AT_ALIAS_ROWS + 2]), _I64)


@njit
def reroutes(m: Map) -> Ints:
    """Return `reroutes` (operators/context.py)."""
    return carray(_address(m[_AT_REROUTES]), (m[_AT_REROUTES + 1], m[_AT_REROUTES + 2]), _I64)


@njit
def parks(m: Map) -> Ints:
    """Return `parks` (operators/context.py)."""
    return carray(_address(m[_AT_PARKS]), (m[_AT_PARKS + 1], m[_AT_PARKS + 2]), _I64)


@njit
def topics(m: Map) -> Ints:
    """Return `topics` (operators/context.py)."""
    return carray(_address(m[_AT_TOPICS]), (m[_AT_TOPICS + 1], m[_AT_TOPICS + 2]), _I64)


@njit
def names(m: Map) -> Ints:
    """Return `names` (operators/context.py)."""
    return carray(_address(m[_AT_NAMES]), (m[_AT_NAMES + 1], m[_AT_NAMES + 2]), _I64)


@njit
def quotes(m: Map) -> Any:
    """Return the tape."""
    return QuoteArrays(
        carray(_address(m[_AT_QUOTES + 0]), (m[_AT_QUOTES + 1], m[_AT_QUOTES + 2]), _I64),
        carray(_address(m[_AT_QUOTES + 3]), (m[_AT_QUOTES + 4], m[_AT_QUOTES + 5]), _I64),
        carray(_address(m[_AT_QUOTES + 6]), (m[_AT_QUOTES + 7], m[_AT_QUOTES + 8]), _I64),
        carray(_address(m[_AT_QUOTES + 9]), (m[_AT_QUOTES + 10], m[_AT_QUOTES + 11]), _I64),
        carray(_address(m[_AT_QUOTES + 12]), (m[_AT_QUOTES + 13], m[_AT_QUOTES + 14]), _I64),
        carray(_address(m[_AT_QUOTES + 15]), (m[_AT_QUOTES + 16], m[_AT_QUOTES + 17]), _BOOL),
        carray(_address(m[_AT_QUOTES + 18]), (m[_AT_QUOTES + 19],), _I64),
        carray(_address(m[_AT_QUOTES + 21]), (m[_AT_QUOTES + 22],), _I64),
        carray(_address(m[_AT_QUOTES + 24]), (m[_AT_QUOTES + 25],), _I64),
        carray(_address(m[_AT_QUOTES + 27]), (m[_AT_QUOTES + 28],), _I64),
        carray(_address(m[_AT_QUOTES + 30]), (m[_AT_QUOTES + 31],), _I64),
        carray(_address(m[_AT_QUOTES + 33]), (m[_AT_QUOTES + 34],), _I64),
    )


@njit
def copy_bytes(target: Bytes, at: int, source: Bytes, start: int, length: int) -> None:
    """Copy bytes. A loop, because a slice assignment costs seconds to compile in every kernel that has one."""
    for i in range(length):
        target[at + i] = source[start + i]


@njit
def copy_row(target: Ints, source: Ints) -> None:
    """Copy a row of slots."""
    for i in range(len(source)):
        target[i] = source[i]


@intrinsic
def _bits(typingctx: Any, value: Any) -> Any:
    """Return the bits of a float64."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.IntType(64))

    return types.int64(types.float64), generate


@njit
def float_word(value: float) -> int:
    """Return the bits of a float64 as an int64, as a float slot holds them."""
    return _bits(value)


@njit
def put_word(target: Bytes, at: int, word: int) -> None:
    """Write the eight bytes of a word, lowest first."""
    bits = np.uint64(word)
    for i in range(8):
        target[at + i] = np.uint8((bits >> np.uint64(8 * i)) & np.uint64(255))
