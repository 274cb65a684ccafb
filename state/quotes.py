"""Best bid and ask per instrument over recent time, and what the market was just before a moment.

Holds no clock and knows no topic: event time comes in with the quotes. Rules: tca §2 (look-up, statuses, lateness); see docs/tca.md.
"""

from __future__ import annotations

from typing import NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from schemas.execution import BenchmarkDetail, BenchmarkStatus
from schemas.fields import NULL
from schemas.jit import bare

_STATUSES: tuple[str, ...] = get_args(BenchmarkStatus)
_DETAILS: tuple[str, ...] = get_args(BenchmarkDetail)

OK = _STATUSES.index("ok")
STALE = _STATUSES.index("stale")
MISSING = _STATUSES.index("missing")
NO_DETAIL = -1
AGED = _DETAILS.index("aged")
LOW_CONFIDENCE = _DETAILS.index("low_confidence")
LOCKED_OR_CROSSED = _DETAILS.index("locked_or_crossed")
TAPE_BEHIND = _DETAILS.index("tape_behind")
CLOCK_OFFSET = _DETAILS.index("clock_offset")

DEFAULT_CAPACITY = 4096
DEFAULT_LATENESS_NS = 1_000_000_000
COUNTERS = ("quotes", "quotes_reordered", "late_quote", "quotes_overwritten", "benchmark_overrun")
_QUOTES, _REORDERED, _LATE, _OVERWRITTEN, _OVERRUN = range(len(COUNTERS))


class QuoteArrays(NamedTuple):
    """The rings, as an argument of kernels: n instruments of `capacity` places each (a power of two), oldest at `head`.

    ts, bid, ask, snap_hi, snap_lo: `(n, capacity)` int64; bid and ask scaled by the instrument's px_scale, NULL where the side is empty.
    full: `(n, capacity)` bool, confidence is 1. head, kept, watermark: `(n,)` int64; the watermark is the newest ts seen.
    overwritten: `(n,)` int64, quotes a full ring has lost. tape_watermark: `(1,)` int64. counters: see `COUNTERS`.
    """

    ts: NDArray[np.int64]
    bid: NDArray[np.int64]
    ask: NDArray[np.int64]
    snap_hi: NDArray[np.int64]
    snap_lo: NDArray[np.int64]
    full: NDArray[np.bool_]
    head: NDArray[np.int64]
    kept: NDArray[np.int64]
    watermark: NDArray[np.int64]
    overwritten: NDArray[np.int64]
    tape_watermark: NDArray[np.int64]
    counters: NDArray[np.int64]


@bare
def _first_at_or_after(q: QuoteArrays, instrument: int, tau: int) -> int:
    """Return how many kept quotes have ts < tau: the rank, from the oldest, of the first one at or after."""
    mask = q.ts.shape[1] - 1
    ts = q.ts[instrument]
    head = q.head[instrument]
    low, high = 0, q.kept[instrument]
    while low < high:
        middle = (low + high) >> 1
        if ts[(head + middle) & mask] < tau:
            low = middle + 1
        else:
            high = middle
    return low


@bare
def as_of(q: QuoteArrays, instrument: int, tau: int) -> int:
    """Return the place of the last quote with ts < tau (strictly: no look-ahead), -1 if none is kept."""
    rank = _first_at_or_after(q, instrument, tau)
    if rank == 0:
        return -1
    return int((q.head[instrument] + rank - 1) & (q.ts.shape[1] - 1))


@bare
def benchmark(
    q: QuoteArrays, instrument: int, tau: int, max_age_ns: int, same_clock: bool, watermark_check: bool
) -> tuple[int, int, int, int, int, int, int]:
    """Return (status, detail, mid2, ts, snap_hi, snap_lo, place) of the market at `tau`; status and detail index the schema's literals.

    mid2 is bid + ask, exact. A missing benchmark has mid2 and ts NULL, place -1, no detail. Of several reasons to be stale the first of
    clock_offset, tape_behind, aged, low_confidence, locked_or_crossed is given. With `watermark_check` the tape must have passed tau.
    """
    place = as_of(q, instrument, tau)
    if place < 0:
        if q.overwritten[instrument] > 0:
            q.counters[_OVERRUN] += 1
        return MISSING, NO_DETAIL, NULL, NULL, 0, 0, -1
    bid = q.bid[instrument, place]
    ask = q.ask[instrument, place]
    if bid <= 0 or ask <= 0:  # NULL, an empty side, is below zero too
        return MISSING, NO_DETAIL, NULL, NULL, 0, 0, -1
    ts = q.ts[instrument, place]
    status, detail = OK, NO_DETAIL
    if not same_clock:
        status, detail = STALE, CLOCK_OFFSET
    elif watermark_check and q.tape_watermark[0] < tau:
        status, detail = STALE, TAPE_BEHIND
    elif tau - ts > max_age_ns:
        status, detail = STALE, AGED
    elif not q.full[instrument, place]:
        status, detail = STALE, LOW_CONFIDENCE
    elif bid >= ask:
        status, detail = STALE, LOCKED_OR_CROSSED
    return status, detail, bid + ask, ts, q.snap_hi[instrument, place], q.snap_lo[instrument, place], place


@bare
def insert_rows(
    q: QuoteArrays,
    allowed_lateness_ns: int,
    instrument: NDArray[np.int64],
    ts: NDArray[np.int64],
    bid: NDArray[np.int64],
    ask: NDArray[np.int64],
    snap_hi: NDArray[np.int64],
    snap_lo: NDArray[np.int64],
    full: NDArray[np.bool_],
) -> None:
    """Insert rows in tape order; a negative instrument is skipped. Late ones are put in order, or dropped and counted."""
    capacity = q.ts.shape[1]
    mask = capacity - 1
    for i in range(len(ts)):
        k = instrument[i]
        if k < 0:
            continue
        moment = ts[i]
        if moment > q.tape_watermark[0]:
            q.tape_watermark[0] = moment
        count = q.kept[k]
        rank = count
        if moment >= q.watermark[k]:
            q.watermark[k] = moment
        elif q.watermark[k] - moment > allowed_lateness_ns:
            q.counters[_LATE] += 1
            continue
        else:
            rank = _first_at_or_after(q, k, moment + 1)
            q.counters[_REORDERED] += 1
        q.counters[_QUOTES] += 1
        if count == capacity:
            q.counters[_OVERWRITTEN] += 1
            q.overwritten[k] += 1
            if rank == 0:
                continue  # older than all that is kept: it is the one that is lost
            q.head[k] = (q.head[k] + 1) & mask
            rank -= 1
        else:
            q.kept[k] = count + 1
        head = q.head[k]
        for j in range(q.kept[k] - 1, rank, -1):  # a late one is at most `allowed_lateness_ns` of quotes from the end
            to, source = (head + j) & mask, (head + j - 1) & mask
            q.ts[k, to] = q.ts[k, source]
            q.bid[k, to] = q.bid[k, source]
            q.ask[k, to] = q.ask[k, source]
            q.snap_hi[k, to] = q.snap_hi[k, source]
            q.snap_lo[k, to] = q.snap_lo[k, source]
            q.full[k, to] = q.full[k, source]
        place = (head + rank) & mask
        q.ts[k, place] = moment
        q.bid[k, place] = bid[i]
        q.ask[k, place] = ask[i]
        q.snap_hi[k, place] = snap_hi[i]
        q.snap_lo[k, place] = snap_lo[i]
        q.full[k, place] = full[i]


class Quotes:
    """The recent quotes of every instrument (index = position in `Reference.instruments`). One writer; readers in the same thread.

    n_instruments: how many. capacity: quotes kept per instrument, a power of two; a place takes 41 bytes, memory is taken as it is used.
    allowed_lateness_ns: how far behind its instrument's newest quote a quote may come. Raises ValueError for settings that make no sense.
    """

    def __init__(self, n_instruments: int, capacity: int = DEFAULT_CAPACITY, allowed_lateness_ns: int = DEFAULT_LATENESS_NS) -> None:
        if n_instruments < 1:
            raise ValueError(f"quotes: n_instruments must be at least 1, not {n_instruments}")
        if capacity < 2 or capacity & (capacity - 1):
            raise ValueError(f"quotes: capacity must be a power of two of at least 2, not {capacity}")
        if allowed_lateness_ns < 0:
            raise ValueError(f"quotes: allowed_lateness_ns must not be negative, not {allowed_lateness_ns}")
        shape = (n_instruments, capacity)
        self.allowed_lateness_ns = allowed_lateness_ns
        self.arrays = QuoteArrays(
            ts=np.zeros(shape, np.int64),
            bid=np.zeros(shape, np.int64),
            ask=np.zeros(shape, np.int64),
            snap_hi=np.zeros(shape, np.int64),
            snap_lo=np.zeros(shape, np.int64),
            full=np.zeros(shape, np.bool_),
            head=np.zeros(n_instruments, np.int64),
            kept=np.zeros(n_instruments, np.int64),
            watermark=np.full(n_instruments, NULL, np.int64),
            overwritten=np.zeros(n_instruments, np.int64),
            tape_watermark=np.full(1, NULL, np.int64),
            counters=np.zeros(len(COUNTERS), np.int64),
        )

    def insert(
        self,
        instrument: NDArray[np.int64],
        ts: NDArray[np.int64],
        bid: NDArray[np.int64],
        ask: NDArray[np.int64],
        snap_hi: NDArray[np.int64],
        snap_lo: NDArray[np.int64],
        full: NDArray[np.bool_],
    ) -> None:
        """Insert n quotes in tape order, all `(n,)`: int64, `full` bool. Of equal ts the later in tape order is after.

        Rows with a negative instrument are skipped. Raises ValueError when lengths differ or an instrument is out of range.
        """
        lengths = {len(column) for column in (instrument, ts, bid, ask, snap_hi, snap_lo, full)}
        if len(lengths) != 1:
            raise ValueError(f"quotes: columns of different lengths: {sorted(lengths)}")
        if len(instrument) and instrument.max() >= len(self.arrays.head):
            raise ValueError(f"quotes: instrument {instrument.max()} of {len(self.arrays.head)}")
        insert_rows(self.arrays, self.allowed_lateness_ns, instrument, ts, bid, ask, snap_hi, snap_lo, full)

    def counters(self) -> dict[str, int]:
        """Return what was inserted, put in order, dropped as late, overwritten, and asked for after it was overwritten."""
        return {name: int(value) for name, value in zip(COUNTERS, self.arrays.counters, strict=True)}
