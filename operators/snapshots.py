"""What every reader of `marketdata.snapshot.v1` needs: where a batch row holds its fields, and which instrument a symbol is. Knows no state."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from schemas.chunk import Bytes
from schemas.hashing import hash128
from schemas.jit import bare
from schemas.layout import layout_of
from schemas.market import MarketSnapshotMessage

MAX_AHEAD_NS = 60_000_000_000
"""A quote stamped further ahead of its arrival is refused: it would make all that follows late."""

_LAYOUT = layout_of(MarketSnapshotMessage)


class Slots(NamedTuple):
    """Where the fields of a snapshot are in a batch row."""

    symbol: int
    bid: int
    ask: int
    bid_size: int
    ask_size: int
    ts: int
    snapshot: int
    confidence: int


SLOTS = Slots(
    *(
        _LAYOUT.slot(f"payload.{name}")
        for name in ("symbol", "bid", "ask", "bid_size", "ask_size", "event_ts_ns", "snapshot_id", "confidence")
    )
)


class SymbolIndex(NamedTuple):
    """Open addressing by the 128 bit hash of the symbol; place -1 is free."""

    high: NDArray[np.uint64]
    low: NDArray[np.uint64]
    place: NDArray[np.int64]


@bare
def find_symbol(index: SymbolIndex, arena: Bytes, start: int, length: int) -> int:
    """Return the place of a symbol, -1 if there is none."""
    high, low = hash128(arena, start, length, 0)
    mask = len(index.place) - 1
    at = np.int64(low & np.uint64(mask))
    while index.place[at] >= 0:
        if index.high[at] == high and index.low[at] == low:
            return int(index.place[at])
        at = (at + 1) & mask
    return -1


def symbol_index(symbols: Iterable[str]) -> SymbolIndex:
    """Build the index of the symbols in their order."""
    names = list(symbols)
    size = 8
    while size < 2 * len(names):
        size *= 2
    index = SymbolIndex(np.zeros(size, np.uint64), np.zeros(size, np.uint64), np.full(size, -1, np.int64))
    for place, symbol in enumerate(names):
        text = np.frombuffer(bytearray(symbol.encode()), np.uint8)
        high, low = hash128(text, 0, len(text), 0)
        at = int(low) & (size - 1)
        while index.place[at] >= 0:
            at = (at + 1) & (size - 1)
        index.high[at], index.low[at], index.place[at] = high, low, place
    return index
