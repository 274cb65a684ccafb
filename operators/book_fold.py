"""Fills into positions: the hedger's hot path. One kernel call a chunk; which fill is a hedge's, which was seen before, which belongs elsewhere.

May not decide anything: it books and marks. Rules: docs/hedging.md, "Positions". Sums of `signed_delta` are order-insensitive: busts and
corrections are in them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from operators.scaled import POW10, TOO_LARGE, TOO_PRECISE, rescale
from operators.snapshots import find_symbol
from schemas.chunk import Bytes, Ints
from schemas.execution import FillMessage
from schemas.hashing import _fmix64, hash128, partition_of
from schemas.jit import bare
from schemas.layout import layout_of
from schemas.reasons import HedgeReason, Reason
from schemas.words import move
from state.table import TableArrays, find, insert, touch

FILL = layout_of(FillMessage)

APPLIED, DUPLICATE, REROUTED, REJECTED = range(4)
"""What became of a fill."""


class Slots(NamedTuple):
    """Where the fields of a fill are in a batch row."""

    order: int
    fill: int
    symbol: int
    book: int
    account: int
    version: int
    delta: int
    price: int
    exec_ts: int


SLOTS = Slots(*(FILL.slot(f"payload.{name}") for name in (
    "order_id", "fill_id", "symbol", "book", "account", "version", "signed_delta", "price", "exec_ts_ns",
)))  # fmt: skip

_FILL_TRIGGER = np.uint64(1 << (HedgeReason.fill - HedgeReason.fill))
_UNKNOWN = int(Reason.instrument_unknown)
_PRECISION = int(Reason.precision_exceeds_scale)
_INVALID = int(Reason.field_invalid)
_K1 = np.uint64(0x9E3779B97F4A7C15)
_K2 = np.uint64(0xC2B2AE3D27D4EB4F)
_LAST = 64


@bare
def position_key(book_hi: Any, book_lo: Any, symbol_hi: Any, symbol_lo: Any) -> tuple[Any, Any]:
    """Return the key of a book's symbol from the hashes of both."""
    return (np.uint64(book_hi) * _K1) ^ np.uint64(symbol_hi), (np.uint64(book_lo) * _K2) ^ np.uint64(symbol_lo)


@bare
def seen_before(fills: TableArrays, hi: Any, lo: Any, version: int, day: int) -> bool:
    """Return whether a version of a fill (state.hedges.FILL) was booked before; if not, note it. Memory for a row must be reserved."""
    bit = np.uint64(1) << np.uint64(min(version, _LAST) - 1)
    at = find(fills, hi, lo)
    if at >= 0 and (fills.rows[at].versions & bit) != 0:
        return True
    if at < 0:
        at = insert(fills, hi, lo)
    fills.rows[at].versions = fills.rows[at].versions | bit
    fills.rows[at].day = day
    touch(fills, at)
    return False


@bare
def book_row(books: TableArrays, arena: Bytes, start: int, length: int, hi: Any, lo: Any) -> int:
    """Return the row of a book, made if it is not there."""
    at = find(books, hi, lo)
    if at >= 0:
        return int(at)
    at = insert(books, hi, lo)
    row = books.rows[at]
    row.head = -1
    row.name_len = length
    move(row.name, 0, arena, start, length)
    return int(at)


@bare
def position_row(
    positions: TableArrays, books: TableArrays, book: int, arena: Bytes, start: int, length: int, symbol_hi: Any, symbol_lo: Any, series: int,
    scale: int,
) -> int:  # fmt: skip
    """Return the row of a book's symbol, made if it is not there and put on the book's list."""
    owner = books.rows[book]
    hi, lo = position_key(owner.khi, owner.klo, symbol_hi, symbol_lo)
    at = find(positions, hi, lo)
    if at >= 0:
        return int(at)
    at = insert(positions, hi, lo)
    row = positions.rows[at]
    row.book = book
    row.series = series
    row.qty_scale = scale
    row.symbol_len = length
    move(row.symbol, 0, arena, start, length)
    row.next = owner.head
    owner.head = at
    touch(books, book)
    return int(at)


@bare
def fold_fills(
    rows: Ints, arena: Bytes, ok: Any, slots: Slots, where: Ints, index: Any, qty_scale: Ints, desk: Any,
    books: TableArrays, positions: TableArrays, fills: TableArrays, legs: TableArrays, outcome: Ints, reason: Ints, leg_of: Ints,
) -> int:  # fmt: skip
    """Book a chunk's fills, record by record in order; return how many positions were made.

    rows, arena, ok: the decoded batch. where `(4,)`: lane, lanes, receive time (ns), day. index: symbols to series; qty_scale `(k,)`. desk `(d, 2)`
    uint64: `position_key` of (book, account) whose fills are the desk's hedges. Filled in, `(n,)` each: outcome (APPLIED, …), reason (of a
    rejected one), leg_of (row of the hedge's leg the fill belongs to, −1 for none). Memory for n books, positions and fills must be reserved.
    """
    lane, lanes, received, day = where[0], where[1], where[2], where[3]
    made = positions.meta[0]
    for i in range(len(ok)):
        leg_of[i] = -1
        reason[i] = 0
        if not ok[i]:
            outcome[i] = REJECTED
            continue
        row = rows[i]
        start, length = row[slots.book], row[slots.book + 1]
        if partition_of(arena, start, length, lanes) != lane:
            outcome[i] = REROUTED
            continue
        symbol_start, symbol_length = row[slots.symbol], row[slots.symbol + 1]
        series = find_symbol(index, arena, symbol_start, symbol_length)
        if series < 0:
            outcome[i], reason[i] = REJECTED, _UNKNOWN
            continue
        delta = rescale(row[slots.delta], row[slots.delta + 1], qty_scale[series])
        if delta in (TOO_PRECISE, TOO_LARGE):
            outcome[i], reason[i] = REJECTED, _PRECISION if delta == TOO_PRECISE else _INVALID
            continue
        fill_hi, fill_lo = np.uint64(row[slots.fill]), np.uint64(row[slots.fill + 1])
        version = row[slots.version]
        if seen_before(fills, fill_hi, fill_lo, version, day):
            outcome[i] = DUPLICATE
            continue
        book_hi, book_lo = hash128(arena, start, length, 0)
        book = book_row(books, arena, start, length, book_hi, book_lo)
        symbol_hi, symbol_lo = hash128(arena, symbol_start, symbol_length, 0)
        at = position_row(positions, books, book, arena, symbol_start, symbol_length, symbol_hi, symbol_lo, series, qty_scale[series])
        position = positions.rows[at]
        leg = find(legs, np.uint64(row[slots.order]), np.uint64(row[slots.order + 1]))
        outcome[i] = APPLIED
        if delta == 0:
            continue
        if leg >= 0:
            leg_of[i] = leg
            own = legs.rows[leg]
            own.filled += delta * own.side
            if delta * own.side < 0:
                own.undone -= delta * own.side
            units = delta / POW10[qty_scale[series]]
            own.bought += units
            own.paid += units * (row[slots.price] / POW10[row[slots.price + 1]])
            touch(legs, leg)
            position.hedge += delta
        else:
            manual = False
            if len(desk) > 0:
                account_hi, account_lo = hash128(arena, row[slots.account], row[slots.account + 1], 0)
                key_hi, key_lo = position_key(book_hi, book_lo, account_hi, account_lo)
                for d in range(len(desk)):
                    if desk[d, 0] == key_hi and desk[d, 1] == key_lo:
                        manual = True
            if manual:
                position.hedge += delta
            else:
                position.exposure += delta
                position.moved += abs(delta) / POW10[qty_scale[series]]
        touch(positions, at)
        owner = books.rows[book]
        first = _fmix64(fill_hi + np.uint64(version) * _K1)
        owner.set_hi += first
        owner.set_lo += _fmix64(fill_lo ^ first)
        owner.fills += 1
        if owner.triggers == 0:
            owner.first_ns = received
        owner.triggers = owner.triggers | _FILL_TRIGGER
        touch(books, book)
    return int(positions.meta[0] - made)
