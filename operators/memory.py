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
from numba.np.arrayobj import populate_array
from numpy.typing import NDArray

from schemas.chunk import Bytes, Ints
from schemas.jit import bare, njit
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
    "q_overwritten", "q_tape", "q_counters", "in_rows", "in_arena", "in_ok", "in_reason", "in_offsets", "in_pend", "in_keys", "in_key_bounds",
    "in_where", "ahead_rows", "ahead_arena", "ahead_ok", "ahead_reason", "ahead_offsets", "ahead_pend", "ahead_keys", "ahead_key_bounds",
    "ahead_where", "ahead_lists", "ahead_at",
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


def _view(dimensions: int) -> Any:
    def typed(typingctx: Any, m: Any, at: Any, kind: Any) -> Any:
        result = types.Array(kind.dtype, dimensions, "C")

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            entries = context.make_array(signature.args[0])(context, builder, arguments[0]).data
            first = context.cast(builder, arguments[1], signature.args[1], types.int64)
            entry = [builder.load(builder.gep(entries, [builder.add(first, ir.Constant(_WORD, i))])) for i in range(1 + dimensions)]
            array = context.make_array(result)(context, builder)
            size = ir.Constant(_WORD, context.get_abi_sizeof(context.get_data_type(result.dtype)))
            shape = tuple(entry[1:])
            strides = (builder.mul(shape[-1], size), size)[-dimensions:] if dimensions > 1 else (size,)
            place = builder.inttoptr(entry[0], array.data.type)
            populate_array(array, data=place, shape=shape, strides=strides, itemsize=size, meminfo=None)
            return array._getvalue()

        return result(m, at, kind), generate

    return typed


@intrinsic
def view(typingctx: Any, m: Any, at: Any, kind: Any) -> Any:
    """Return the array `(n,)` of row type `kind` whose entry of the map begins at `at`.

    As `carray` of the entry's words, which costs four times as much to compile.
    """
    return _view(1)(typingctx, m, at, kind)


@intrinsic
def view2(typingctx: Any, m: Any, at: Any, kind: Any) -> Any:
    """Return the array `(n, width)` whose entry of the map begins at `at`."""
    return _view(2)(typingctx, m, at, kind)


_WORD = ir.IntType(64)
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
_AT_IN_KEYS = AT["in_keys"]
_AT_IN_KEY_BOUNDS = AT["in_key_bounds"]
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
    return view(m, _AT_INTENTS, _INTENT)


@bare
def intents_table(m: Map) -> Any:
    """Return the table of routed orders."""
    return TableArrays(
        view(m, _AT_INTENTS, _INTENT),
        view(m, _AT_INTENTS + 3, _I32),
        view(m, _AT_INTENTS + 6, _I64),
        view(m, _AT_INTENTS + 9, _U8),
        view(m, _AT_INTENTS + 12, _I32),
    )


@njit
def orders(m: Map) -> Any:
    """Return the rows of venue orders."""
    return view(m, _AT_ORDERS, _ORDER)


@bare
def orders_table(m: Map) -> Any:
    """Return the table of venue orders."""
    return TableArrays(
        view(m, _AT_ORDERS, _ORDER),
        view(m, _AT_ORDERS + 3, _I32),
        view(m, _AT_ORDERS + 6, _I64),
        view(m, _AT_ORDERS + 9, _U8),
        view(m, _AT_ORDERS + 12, _I32),
    )


@njit
def ids(m: Map) -> Any:
    """Return the rows of ids of venue orders."""
    return view(m, _AT_IDS, _ID)


@bare
def ids_table(m: Map) -> Any:
    """Return the table of ids of venue orders."""
    return TableArrays(
        view(m, _AT_IDS, _ID),
        view(m, _AT_IDS + 3, _I32),
        view(m, _AT_IDS + 6, _I64),
        view(m, _AT_IDS + 9, _U8),
        view(m, _AT_IDS + 12, _I32),
    )


@njit
def aliases(m: Map) -> Any:
    """Return the rows of aliases."""
    return view(m, _AT_ALIASES, _ALIAS)


@bare
def aliases_table(m: Map) -> Any:
    """Return the table of aliases."""
    return TableArrays(
        view(m, _AT_ALIASES, _ALIAS),
        view(m, _AT_ALIASES + 3, _I32),
        view(m, _AT_ALIASES + 6, _I64),
        view(m, _AT_ALIASES + 9, _U8),
        view(m, _AT_ALIASES + 12, _I32),
    )


@njit
def execs(m: Map) -> Any:
    """Return the rows of executions."""
    return view(m, _AT_EXECS, _EXEC)


@bare
def execs_table(m: Map) -> Any:
    """Return the table of executions."""
    return TableArrays(
        view(m, _AT_EXECS, _EXEC),
        view(m, _AT_EXECS + 3, _I32),
        view(m, _AT_EXECS + 6, _I64),
        view(m, _AT_EXECS + 9, _U8),
        view(m, _AT_EXECS + 12, _I32),
    )


@njit
def matches(m: Map) -> Any:
    """Return the rows of venues' trade ids."""
    return view(m, _AT_MATCHES, _MATCH)


@bare
def matches_table(m: Map) -> Any:
    """Return the table of venues' trade ids."""
    return TableArrays(
        view(m, _AT_MATCHES, _MATCH),
        view(m, _AT_MATCHES + 3, _I32),
        view(m, _AT_MATCHES + 6, _I64),
        view(m, _AT_MATCHES + 9, _U8),
        view(m, _AT_MATCHES + 12, _I32),
    )


@njit
def waits(m: Map) -> Any:
    """Return the rows of what is waited for."""
    return view(m, _AT_WAITS, _WAIT)


@bare
def waits_table(m: Map) -> Any:
    """Return the table of what is waited for."""
    return TableArrays(
        view(m, _AT_WAITS, _WAIT),
        view(m, _AT_WAITS + 3, _I32),
        view(m, _AT_WAITS + 6, _I64),
        view(m, _AT_WAITS + 9, _U8),
        view(m, _AT_WAITS + 12, _I32),
    )


@njit
def pendings(m: Map) -> Any:
    """Return the rows of waiting reports."""
    return view(m, _AT_PENDINGS, _PENDING)


@bare
def pendings_table(m: Map) -> Any:
    """Return the table of waiting reports."""
    return TableArrays(
        view(m, _AT_PENDINGS, _PENDING),
        view(m, _AT_PENDINGS + 3, _I32),
        view(m, _AT_PENDINGS + 6, _I64),
        view(m, _AT_PENDINGS + 9, _U8),
        view(m, _AT_PENDINGS + 12, _I32),
    )


@njit
def pages(m: Map) -> Any:
    """Return the rows of pieces of waiting reports."""
    return view(m, _AT_PAGES, _PAGE)


@njit
def pages_bytes(m: Map) -> Bytes:
    """Return the same rows as bytes end to end."""
    return carray(_address(m[_AT_PAGES]), (m[_AT_PAGES + 1] * g.PAGE_SIZE,), _U8)


@bare
def pages_table(m: Map) -> Any:
    """Return the table of pieces of waiting reports."""
    return TableArrays(
        view(m, _AT_PAGES, _PAGE),
        view(m, _AT_PAGES + 3, _I32),
        view(m, _AT_PAGES + 6, _I64),
        view(m, _AT_PAGES + 9, _U8),
        view(m, _AT_PAGES + 12, _I32),
    )


@njit
def clocks(m: Map) -> Any:
    """Return the rows of running clocks."""
    return view(m, _AT_CLOCKS, _CLOCK)


@bare
def clocks_table(m: Map) -> Any:
    """Return the table of running clocks."""
    return TableArrays(
        view(m, _AT_CLOCKS, _CLOCK),
        view(m, _AT_CLOCKS + 3, _I32),
        view(m, _AT_CLOCKS + 6, _I64),
        view(m, _AT_CLOCKS + 9, _U8),
        view(m, _AT_CLOCKS + 12, _I32),
    )


@njit
def reference(m: Map) -> Any:
    """Return the rows of names of the reference data."""
    return view(m, _AT_REFERENCE, _REF)


@bare
def reference_table(m: Map) -> Any:
    """Return the table of names of the reference data."""
    return TableArrays(
        view(m, _AT_REFERENCE, _REF),
        view(m, _AT_REFERENCE + 3, _I32),
        view(m, _AT_REFERENCE + 6, _I64),
        view(m, _AT_REFERENCE + 9, _U8),
        view(m, _AT_REFERENCE + 12, _I32),
    )


@njit
def scalars(m: Map) -> Ints:
    """Return `scalars` (operators/context.py)."""
    return view(m, _AT_SCALARS, _I64)


@njit
def in_arena(m: Map) -> Bytes:
    """Return `in_arena` (operators/context.py)."""
    return view(m, _AT_IN_ARENA, _U8)


@njit
def in_ok(m: Map) -> Any:
    """Return `in_ok` (operators/context.py)."""
    return view(m, _AT_IN_OK, _BOOL)


@njit
def in_reason(m: Map) -> Any:
    """Return `in_reason` (operators/context.py)."""
    return view(m, _AT_IN_REASON, _I16)


@njit
def in_offsets(m: Map) -> Ints:
    """Return `in_offsets` (operators/context.py)."""
    return view(m, _AT_IN_OFFSETS, _I64)


@njit
def in_pend(m: Map) -> Ints:
    """Return `in_pend` (operators/context.py)."""
    return view(m, _AT_IN_PEND, _I64)


@njit
def in_keys(m: Map) -> Bytes:
    """Return `in_keys` (operators/context.py)."""
    return view(m, _AT_IN_KEYS, _U8)


@njit
def in_key_bounds(m: Map) -> Ints:
    """Return `in_key_bounds` (operators/context.py)."""
    return view(m, _AT_IN_KEY_BOUNDS, _I64)


@njit
def in_where(m: Map) -> Ints:
    """Return `in_where` (operators/context.py)."""
    return view(m, _AT_IN_WHERE, _I64)


@njit
def ahead_lists(m: Map) -> Ints:
    """Return `lists` of the reports decoded ahead (operators/context.py)."""
    return view2(m, _AT_AHEAD_LISTS, _I64)


@njit
def ahead_at(m: Map) -> Ints:
    """Return `at` of the reports decoded ahead (operators/context.py)."""
    return view(m, _AT_AHEAD_AT, _I64)


@njit
def ahead_pend(m: Map) -> Ints:
    """Return the waiting rows of the reports decoded ahead."""
    return view(m, _AT_AHEAD_PEND, _I64)


@bare
def swap_inputs(m: Map) -> None:
    """Let the reports decoded ahead and the batch change places, until called again."""
    for i in range(_IN_WORDS):
        m[_AT_IN + i], m[_AT_AHEAD + i] = m[_AT_AHEAD + i], m[_AT_IN + i]


@njit
def from_data(m: Map) -> Bytes:
    """Return the values the batch was decoded from."""
    return view(m, _AT_FROM_DATA, _U8)


@njit
def from_bounds(m: Map) -> Ints:
    """Return the bounds of these values."""
    return view(m, _AT_FROM_BOUNDS, _I64)


@njit
def from_keys(m: Map) -> Bytes:
    """Return the keys of the batch."""
    return view(m, _AT_FROM_KEYS, _U8)


@njit
def from_key_bounds(m: Map) -> Ints:
    """Return the bounds of these keys."""
    return view(m, _AT_FROM_KEY_BOUNDS, _I64)


@njit
def wakes(m: Map) -> Ints:
    """Return `wakes` (operators/context.py)."""
    return view(m, _AT_WAKES, _I64)


@njit
def done(m: Map) -> Ints:
    """Return `done` (operators/context.py)."""
    return view(m, _AT_DONE, _I64)


@njit
def text(m: Map) -> Bytes:
    """Return `text` (operators/context.py)."""
    return view(m, _AT_TEXT, _U8)


@njit
def n(m: Map) -> Ints:
    """Return `n` (operators/context.py)."""
    return view(m, _AT_N, _I64)


@njit
def scratch(m: Map) -> Bytes:
    """Return `scratch` (operators/context.py)."""
    return view(m, _AT_SCRATCH, _U8)


@njit
def work(m: Map) -> Ints:
    """Return `work` (operators/context.py)."""
    return view(m, _AT_WORK, _I64)


@njit
def blank_fill(m: Map) -> Ints:
    """Return `blank_fill` (operators/context.py)."""
    return view(m, _AT_BLANK_FILL, _I64)


@njit
def blank_audit(m: Map) -> Ints:
    """Return `blank_audit` (operators/context.py)."""
    return view(m, _AT_BLANK_AUDIT, _I64)


@njit
def blank_alert(m: Map) -> Ints:
    """Return `blank_alert` (operators/context.py)."""
    return view(m, _AT_BLANK_ALERT, _I64)


@njit
def blank_alias(m: Map) -> Ints:
    """Return `blank_alias` (operators/context.py)."""
    return view(m, _AT_BLANK_ALIAS, _I64)


@njit
def venues(m: Map) -> Ints:
    """Return `venues` (operators/context.py)."""
    return view2(m, _AT_VENUES, _I64)


@njit
def instruments(m: Map) -> Ints:
    """Return `instruments` (operators/context.py)."""
    return view2(m, _AT_INSTRUMENTS, _I64)


@njit
def in_rows(m: Map) -> Ints:
    """Return `in_rows` (operators/context.py)."""
    return view2(m, _AT_IN_ROWS, _I64)


@njit
def legs(m: Map) -> Ints:
    """Return `legs` (operators/context.py)."""
    return view2(m, _AT_LEGS, _I64)


@njit
def fills(m: Map) -> Ints:
    """Return `fills` (operators/context.py)."""
    return view2(m, _AT_FILLS, _I64)


@njit
def audits(m: Map) -> Ints:
    """Return `audits` (operators/context.py)."""
    return view2(m, _AT_AUDITS, _I64)


@njit
def dlqs(m: Map) -> Ints:
    """Return `dlqs` (operators/context.py)."""
    return view2(m, _AT_DLQS, _I64)


@njit
def alerts(m: Map) -> Ints:
    """Return `alerts` (operators/context.py)."""
    return view2(m, _AT_ALERTS, _I64)


@njit
def alias_rows(m: Map) -> Ints:
    """Return `alias_rows` (operators/context.py)."""
    return view2(m, _AT_ALIAS_ROWS, _I64)


@njit
def reroutes(m: Map) -> Ints:
    """Return `reroutes` (operators/context.py)."""
    return view2(m, _AT_REROUTES, _I64)


@njit
def parks(m: Map) -> Ints:
    """Return `parks` (operators/context.py)."""
    return view2(m, _AT_PARKS, _I64)


@njit
def topics(m: Map) -> Ints:
    """Return `topics` (operators/context.py)."""
    return view2(m, _AT_TOPICS, _I64)


@njit
def names(m: Map) -> Ints:
    """Return `names` (operators/context.py)."""
    return view2(m, _AT_NAMES, _I64)


@bare
def quotes(m: Map) -> Any:
    """Return the tape."""
    return QuoteArrays(
        view2(m, _AT_QUOTES + 0, _I64),
        view2(m, _AT_QUOTES + 3, _I64),
        view2(m, _AT_QUOTES + 6, _I64),
        view2(m, _AT_QUOTES + 9, _I64),
        view2(m, _AT_QUOTES + 12, _I64),
        view2(m, _AT_QUOTES + 15, _BOOL),
        view(m, _AT_QUOTES + 18, _I64),
        view(m, _AT_QUOTES + 21, _I64),
        view(m, _AT_QUOTES + 24, _I64),
        view(m, _AT_QUOTES + 27, _I64),
        view(m, _AT_QUOTES + 30, _I64),
        view(m, _AT_QUOTES + 33, _I64),
    )


@bare
def copy_bytes(target: Bytes, at: int, source: Bytes, start: int, length: int) -> None:
    """Copy bytes. A loop, because a slice assignment costs seconds to compile in every kernel that has one."""
    for i in range(length):
        target[at + i] = source[start + i]


@bare
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


@bare
def float_word(value: float) -> int:
    """Return the bits of a float64 as an int64, as a float slot holds them."""
    return _bits(value)


@bare
def put_word(target: Bytes, at: int, word: int) -> None:
    """Write the eight bytes of a word, lowest first."""
    bits = np.uint64(word)
    for i in range(8):
        target[at + i] = np.uint8((bits >> np.uint64(8 * i)) & np.uint64(255))
