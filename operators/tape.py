"""The tape: `marketdata.snapshot.v1` folded into the quotes every lane of a worker looks benchmarks up in.

Holds no clock (a chunk says when it was received); a bad record is counted and left out, never raised. Rules: tca §2; docs/tca.md.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from operators.scaled import TOO_LARGE, TOO_PRECISE, rescale
from operators.snapshots import MAX_AHEAD_NS, SLOTS, Slots, SymbolIndex, find_symbol, symbol_index
from schemas.chunk import Bytes, Chunk, Ints
from schemas.codec import compile_decoder
from schemas.jit import bare
from schemas.market import MarketSnapshotMessage
from schemas.reasons import Reason
from schemas.reference import Reference
from state.quotes import DEFAULT_CAPACITY, DEFAULT_LATENESS_NS, Quotes

_UNKNOWN = int(Reason.instrument_unknown)
_PRECISION = int(Reason.precision_exceeds_scale)
_INVALID = int(Reason.field_invalid)
_FUTURE = int(Reason.event_ts_future)
_BAD = -1


@bare
def _quotes_of(
    rows: Ints,
    arena: Bytes,
    ok: NDArray[np.bool_],
    slots: Slots,
    index: SymbolIndex,
    px_scale: Ints,
    latest_ns: int,
    rejected: Ints,
    instrument: Ints,
    ts: Ints,
    bid: Ints,
    ask: Ints,
    snap_hi: Ints,
    snap_lo: Ints,
    full: NDArray[np.bool_],
) -> None:
    """Fill the quote columns from decoded rows; a row that cannot be used gets instrument -1 and is counted by reason."""
    for i in range(len(ok)):
        instrument[i] = _BAD
        if not ok[i]:
            continue
        row = rows[i]
        k = find_symbol(index, arena, row[slots.symbol], row[slots.symbol + 1])
        if k < 0:
            rejected[_UNKNOWN] += 1
            continue
        bid[i] = rescale(row[slots.bid], row[slots.bid + 1], px_scale[k])
        ask[i] = rescale(row[slots.ask], row[slots.ask + 1], px_scale[k])
        fault = 0
        if bid[i] == TOO_PRECISE or ask[i] == TOO_PRECISE:
            fault = _PRECISION
        elif bid[i] == TOO_LARGE or ask[i] == TOO_LARGE:
            fault = _INVALID
        elif row[slots.ts] > latest_ns:
            fault = _FUTURE
        if fault:
            rejected[fault] += 1
            continue
        instrument[i] = k
        ts[i] = row[slots.ts]
        snap_hi[i], snap_lo[i] = row[slots.snapshot], row[slots.snapshot + 1]
        full[i] = row[slots.confidence : slots.confidence + 1].view(np.float64)[0] == 1.0


class Tape:
    """The broadcast logic of the execution flow. `quotes` is what the lanes read; a snapshot's venue is recorded, not told apart.

    reference: instruments and their price scales. capacity, allowed_lateness_ns: see `Quotes`, which raises ValueError for bad ones.
    """

    def __init__(self, reference: Reference, capacity: int = DEFAULT_CAPACITY, allowed_lateness_ns: int = DEFAULT_LATENESS_NS) -> None:
        self.quotes = Quotes(len(reference.instruments), capacity, allowed_lateness_ns)
        self._decoder = compile_decoder(MarketSnapshotMessage)
        self._index = symbol_index(i.symbol for i in reference.instruments)
        self._px_scale = np.array([i.px_scale for i in reference.instruments], np.int64)
        self._rejected = np.zeros(max(Reason) + 1, np.int64)
        self._records = 0

    def apply(self, chunk: Chunk) -> None:
        """Fold a chunk of snapshots in, in its order. Bad records are counted by reason and left out."""
        n = len(chunk)
        if n == 0:
            return
        batch = self._decoder.decode(chunk.data, chunk.bounds)
        self._records += n
        self._rejected += np.bincount(batch.reason[~batch.ok], minlength=len(self._rejected))
        instrument, ts, bid, ask, high, low = np.empty((6, n), np.int64)
        full = np.empty(n, np.bool_)
        _quotes_of(
            batch.rows, batch.arena, batch.ok, SLOTS, self._index, self._px_scale, chunk.received_ns + MAX_AHEAD_NS, self._rejected,
            instrument, ts, bid, ask, high, low, full,
        )  # fmt: skip
        self.quotes.insert(instrument, ts, bid, ask, high, low, full)

    def counters(self) -> dict[str, int]:
        """Return `snapshots` read, `snapshots_rejected`, one `snapshots_rejected_<reason>` for each reason met, and those of `Quotes`."""
        found = {"snapshots": self._records, "snapshots_rejected": int(self._rejected.sum())}
        found |= {f"snapshots_rejected_{Reason(i).name}": int(self._rejected[i]) for i in np.flatnonzero(self._rejected).tolist()}
        return found | self.quotes.counters()
