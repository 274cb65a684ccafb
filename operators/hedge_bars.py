"""The quotes of all series as the hedger keeps them: the newest of each, bars of mids, covariances, spreads at bar ends. Kernels.

A bar needs of each series only its newest usable quote before the bar's end. So quotes are not kept and sorted but folded at once into a grid of
bars by series, which gives the same whatever their order; a bar is closed when the tape's watermark is past its end by a grace. A quote for
a bar that was closed is late. Bars and covariances themselves: operators/ratios.py; docs/ratios.md, "Bars".
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from operators.ratios import Bars, Bools, Floats, Ints, Moments, close_bar, new_bars, new_moments, update
from operators.snapshots import Slots, SymbolIndex, find_symbol
from schemas.chunk import Bytes
from schemas.fields import NULL
from schemas.jit import njit
from schemas.reasons import Reason

POW10 = np.array([float(10**i) for i in range(19)])
"""Exact: a mantissa below 2^53 over one of these is the float64 nearest to the decimal."""
_FREE = -1
_UNKNOWN = int(Reason.instrument_unknown)
_FUTURE = int(Reason.event_ts_future)

COUNTERS = ("quotes", "quotes_reordered", "quotes_without_mid", "quotes_late", "quotes_lost")
_QUOTES, _REORDERED, _WITHOUT_MID, _LATE, _LOST = range(len(COUNTERS))
"""Taken; older than their series' newest; one-sided, locked, crossed or doubtful; for a closed bar; too old for the bars kept before the begin."""

BEGUN, NEWEST, WATERMARK, CLOSED, BAR_END = range(5)
"""Places in `HedgeTape.at`."""


class Levels(NamedTuple):
    """Lengths in ns, ints: of a bar; how old a quote may be at a bar end; what the watermark must be past it; for how long a partition that
    has fallen silent holds the watermark back."""

    bar_ns: int
    fresh_ns: int
    grace_ns: int
    patience_ns: int


class Latest(NamedTuple):
    """The newest quote of each series by event time, all `(k,)`: floats with NaN for what is not there; ts_ns int64, NULL before the first."""

    bid: Floats
    ask: Floats
    bid_size: Floats
    ask_size: Floats
    mid: Floats
    half_bps: Floats
    ts_ns: Ints


class Grid(NamedTuple):
    """The newest usable quote of each series in each of the w bars that are not closed: bar b is in place b mod w.

    bar `(w,)` int64: number of the bar there (its end is (b + 1)·bar_ns), -1 for a free place. ts_ns int64, mid, half_bps float64 `(w, k)`.
    """

    bar: Ints
    ts_ns: Ints
    mid: Floats
    half_bps: Floats


class HedgeTape(NamedTuple):
    """All of it, as an argument of kernels.

    half_bps `(k,)`: half spread of the quotes in `bars`. returns, fresh `(k,)`: of the last closed bar. spreads `(window, k)`: half spreads at
    bar ends, bar b in row b mod window, NaN where not fresh. lanes `(n,)` int64: newest event time of each partition, NULL before the
    first. at `(5,)` int64: whether bars are closed yet; newest event time; watermark; bars closed; end of the last closed bar (0: none).
    """

    latest: Latest
    grid: Grid
    bars: Bars
    half_bps: Floats
    moments: Moments
    returns: Floats
    fresh: Bools
    spreads: Floats
    lanes: Ints
    at: Ints
    counters: Ints


def new_tape(n_series: int, lams: tuple[float, ...], bar_buffer: int, spread_window: int) -> HedgeTape:
    """Return the tape before the first quote. Raises ValueError for sizes below 1."""
    if bar_buffer < 1 or spread_window < 1:
        raise ValueError(f"hedge tape: sizes must be at least 1, not {bar_buffer} and {spread_window}")
    shape = (bar_buffer, n_series)
    at = np.zeros(5, np.int64)
    at[NEWEST] = at[WATERMARK] = NULL
    nan = np.full((6, n_series), np.nan)
    return HedgeTape(
        latest=Latest(nan[0], nan[1], nan[2], nan[3], nan[4], nan[5], np.full(n_series, NULL)),
        grid=Grid(np.full(bar_buffer, _FREE), np.zeros(shape, np.int64), np.zeros(shape), np.zeros(shape)),
        bars=new_bars(n_series, 0),
        half_bps=np.full(n_series, np.nan),
        moments=new_moments(n_series, lams),
        returns=np.zeros(n_series),
        fresh=np.zeros(n_series, np.bool_),
        spreads=np.full((spread_window, n_series), np.nan),
        lanes=np.full(0, NULL),
        at=at,
        counters=np.zeros(len(COUNTERS), np.int64),
    )


@njit
def _number(mantissa: int, scale: int) -> float:
    """Return a decoded decimal as a float, NaN for null."""
    return mantissa / POW10[scale] if scale >= 0 else np.nan


@njit
def _put(grid: Grid, b: int, s: int, ts: int, mid: float, half: float) -> bool:
    """Fold a usable quote into its bar; of equal times the later one counts. Return False when a newer bar has the place."""
    place = b % len(grid.bar)
    if grid.bar[place] > b:
        return False
    if grid.bar[place] < b:
        grid.bar[place] = b
        for i in range(grid.ts_ns.shape[1]):
            grid.ts_ns[place, i] = NULL
    if ts >= grid.ts_ns[place, s]:
        grid.ts_ns[place, s] = ts
        grid.mid[place, s] = mid
        grid.half_bps[place, s] = half
    return True


@njit
def _fresh_left(bars: Bars, fresh_ns: int) -> bool:
    """Return whether the open bar could have a return, or a mid at its end, without any further quote."""
    for s in range(len(bars.close)):
        if not math.isnan(bars.close[s]) or bars.ts_ns[s] >= bars.end_ns[0] - fresh_ns:
            return True
    return False


@njit
def _next_bar(grid: Grid, b: int, stop: int) -> int:
    """Return the number of the first bar after b that has quotes, at most `stop`."""
    found = stop
    for other in grid.bar:
        if b < other and other < found:
            found = other
    return int(found)


@njit
def close_until(tape: HedgeTape, levels: Levels, stop: int, learn: bool) -> None:
    """Close the open bar and those after it; bar number `stop` stays open. learn False: for the newest mids and the spreads only.

    A stretch without quotes is passed in one step: its bars are closed, have no returns and change no covariance.
    """
    bars, grid, spreads = tape.bars, tape.grid, tape.spreads
    b = bars.end_ns[0] // levels.bar_ns - 1
    while b < stop:
        place = b % len(grid.bar)
        if grid.bar[place] != b and not _fresh_left(bars, levels.fresh_ns):
            to = _next_bar(grid, b, stop)
            if to - b >= len(spreads):
                spreads[:, :] = np.nan
            else:
                for gap in range(b, to):
                    spreads[gap % len(spreads), :] = np.nan
            tape.returns[:] = 0.0
            tape.fresh[:] = False
            bars.end_ns[0] = (to + 1) * levels.bar_ns
            if learn:
                tape.at[CLOSED] += to - b
                tape.at[BAR_END] = to * levels.bar_ns
            b = to
            continue
        if grid.bar[place] == b:
            for s in range(len(bars.mid)):
                if grid.ts_ns[place, s] != NULL and grid.ts_ns[place, s] >= bars.ts_ns[s]:
                    bars.ts_ns[s] = grid.ts_ns[place, s]
                    bars.mid[s] = grid.mid[place, s]
                    tape.half_bps[s] = grid.half_bps[place, s]
            grid.bar[place] = _FREE
        close_bar(bars, levels.bar_ns, levels.fresh_ns, tape.returns, tape.fresh)
        row = spreads[b % len(spreads)]
        for s in range(len(row)):
            row[s] = np.nan if math.isnan(bars.close[s]) else tape.half_bps[s]
        b += 1
        if learn:
            update(tape.moments, tape.returns, tape.fresh)
            tape.at[CLOSED] += 1
            tape.at[BAR_END] = b * levels.bar_ns


@njit
def advance(tape: HedgeTape, levels: Levels) -> None:
    """Move the watermark to where the partitions are, and close the bars it is past; nothing before the market has begun.

    The watermark is the newest event time of the partition that is furthest behind, but at most the patience behind that of all. It never
    goes back.
    """
    if tape.at[BEGUN] == 0 or tape.at[NEWEST] == NULL:
        return
    behind = tape.at[NEWEST]
    for newest in tape.lanes:
        if newest != NULL and newest < behind:
            behind = newest
    mark = max(behind, tape.at[NEWEST] - levels.patience_ns)
    if mark <= tape.at[WATERMARK]:
        return
    tape.at[WATERMARK] = mark
    if tape.bars.end_ns[0] > 0 and mark >= tape.bars.end_ns[0] + levels.grace_ns:
        close_until(tape, levels, (mark - levels.grace_ns) // levels.bar_ns, True)


@njit
def take_rows(
    tape: HedgeTape,
    levels: Levels,
    lane: int,
    received_ns: int,
    ahead_ns: int,
    rows: Ints,
    arena: Bytes,
    ok: Bools,
    slots: Slots,
    index: SymbolIndex,
    rejected: Ints,
) -> None:
    """Take decoded snapshots in their order; one that cannot be used is counted in `rejected` by reason. lane: a place of `tape.lanes`.

    A quote's time counts for the watermark up to its arrival only, so that one clock that is ahead closes no bar early. After the begin each
    quote closes the bars it is past before the next is looked at: how records are cut into chunks makes no difference.
    """
    latest, at, counters = tape.latest, tape.at, tape.counters
    for i in range(len(ok)):
        if not ok[i]:
            continue
        row = rows[i]
        s = find_symbol(index, arena, row[slots.symbol], row[slots.symbol + 1])
        ts = row[slots.ts]
        if s < 0:
            rejected[_UNKNOWN] += 1
            continue
        if ts > received_ns + ahead_ns:
            rejected[_FUTURE] += 1
            continue
        counters[_QUOTES] += 1
        bid, ask = _number(row[slots.bid], row[slots.bid + 1]), _number(row[slots.ask], row[slots.ask + 1])
        full = row[slots.confidence : slots.confidence + 1].view(np.float64)[0] == 1.0
        usable = full and bid > 0.0 and ask > bid
        mid = 0.5 * (bid + ask) if usable else np.nan
        half = (ask - bid) / (ask + bid) * 1e4 if usable else np.nan
        if ts >= latest.ts_ns[s]:
            latest.ts_ns[s] = ts
            latest.bid[s] = bid
            latest.ask[s] = ask
            latest.bid_size[s] = _number(row[slots.bid_size], row[slots.bid_size + 1])
            latest.ask_size[s] = _number(row[slots.ask_size], row[slots.ask_size + 1])
            latest.mid[s] = mid
            latest.half_bps[s] = half
        else:
            counters[_REORDERED] += 1
        seen = min(ts, received_ns)
        at[NEWEST] = max(at[NEWEST], seen)
        if seen > tape.lanes[lane]:
            tape.lanes[lane] = seen
        b = ts // levels.bar_ns
        if at[BEGUN] != 0:
            if tape.bars.end_ns[0] == 0:  # the first bar is the first that would not be closed at this time
                tape.bars.end_ns[0] = ((seen - levels.grace_ns) // levels.bar_ns + 1) * levels.bar_ns
            advance(tape, levels)
        if not usable:
            counters[_WITHOUT_MID] += 1
        elif ts < tape.bars.end_ns[0] - levels.bar_ns:
            counters[_LATE] += 1
        elif not _put(tape.grid, b, s, ts, mid, half):
            counters[_LOST] += 1
