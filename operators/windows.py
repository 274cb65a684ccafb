"""Windows over an account: the last minute, five minutes, hour and New York session, as rings of buckets; a sample costs the same however long they are.

A window ends at the account's watermark: the newest time among its snapshots, fills and hedges. No clock moves it, so nothing is late because a flow was down.
A ring of n buckets of s seconds covers the bucket the watermark is in and the n − 1 before it, never anything before midnight in New York: the daily P&L
begins anew there. What is older than its ring's place has gone by; it is left out of that window only. Rules: docs/canary.md, "Windows".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from schemas.chunk import Ints
from schemas.jit import bare
from schemas.words import i64
from state.table import TableArrays, find, insert, touch

SECOND_NS = 1_000_000_000
DAY_NS = 86_400 * SECOND_NS
NAMES = ("1m", "5m", "1h", "session")
SESSION = 3
"""The window that is one bucket, numbered by its New York date."""
SIZES_NS = np.array([10 * SECOND_NS, 30 * SECOND_NS, 300 * SECOND_NS, DAY_NS], np.int64)
COUNTS = np.array([6, 10, 12, 1], np.int64)
BUCKETS = int(COUNTS.sum())
"""Buckets a sample may make at most: one in each ring; an account has at most so many."""
ACTIVITY_NS = int(SIZES_NS[0])
"""Fills are gathered by stretches of this: every ring's bucket is a whole number of them."""

_K = np.uint64(0x9E3779B97F4A7C15)
_PLACES = np.uint64(64)
FIGURES = (
    "samples", "gaps", "observed_ns", "pnl_first", "pnl_last", "drawdown", "cushion", "gross", "net_delta", "gross_delta",
    "fills", "traded", "net", "cost", "coverage",
)  # fmt: skip
"""Columns of what `read` gives; NaN for none."""
(
    R_SAMPLES, R_GAPS, R_OBSERVED, R_FIRST, R_LAST, R_DRAWDOWN, R_CUSHION, R_GROSS, R_NET, R_DELTA, R_FILLS, R_TRADED, R_NET_TRADED, R_COST, R_COVERAGE,
) = range(len(FIGURES))  # fmt: skip


@dataclass(frozen=True)
class WindowRules:
    """gap_ns: two account snapshots further apart have a gap between them (twice the cadence of evaluation). stale_ns: a window whose watermark is
    further back is stale (the maximum age of a source in trading hours)."""

    gap_ns: int = 120 * SECOND_NS
    stale_ns: int = 600 * SECOND_NS


# ---- New York ---------------------------------------------------------------------------------------------------------------------

_FIRST_YEAR, _LAST_YEAR = 2000, 2101
_EPOCH = datetime(1970, 1, 1, tzinfo=ZoneInfo("UTC"))


@cache
def new_york_offsets() -> tuple[Ints, Ints]:
    """Return (UTC times ns at which New York's offset changes, the offset from then on in ns), beginning before the first time allowed."""
    zone = ZoneInfo("America/New_York")

    def offset_s(at_s: int) -> int:
        found = (_EPOCH + timedelta(seconds=at_s)).astimezone(zone).utcoffset()
        assert found is not None
        return int(found.total_seconds())

    start = int(datetime(_FIRST_YEAR - 1, 12, 1, tzinfo=ZoneInfo("UTC")).timestamp())
    end = int(datetime(_LAST_YEAR, 1, 2, tzinfo=ZoneInfo("UTC")).timestamp())
    step = int(timedelta(days=28).total_seconds())
    times, offsets = [start], [offset_s(start)]
    at = start
    while at < end:
        low, high = at, min(at + step, end)
        if offset_s(high) != offsets[-1]:
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (middle, high) if offset_s(middle) == offsets[-1] else (low, middle)
            times.append(high)
            offsets.append(offset_s(high))
        at += step
    return np.array(times, np.int64) * SECOND_NS, np.array(offsets, np.int64) * SECOND_NS


def new_york(at_ns: Any) -> tuple[Any, Any]:
    """Return (date as days since the epoch, UTC time ns its midnight was) in New York of UTC times ns, 2000 to 2100; a number or an array of them."""
    times, offsets = new_york_offsets()
    at = np.asarray(at_ns, np.int64)
    offset = offsets[np.maximum(np.searchsorted(times, at, "right") - 1, 0)]
    day = (at + offset) // DAY_NS
    midnight = day * DAY_NS
    # the offset at midnight, which on two days of the year is not the one at `at`
    before = offsets[np.maximum(np.searchsorted(times, midnight - offset, "right") - 1, 0)]
    return day, midnight - before


@bare
def new_york_at(at_ns: int, times: Ints, offsets: Ints) -> tuple[int, int]:
    """Return what `new_york` does, of one time; times, offsets: as `new_york_offsets` gives them."""
    offset = offsets[max(i64(np.searchsorted(times, at_ns, side="right")) - 1, 0)]
    day = (at_ns + offset) // DAY_NS
    midnight = day * DAY_NS
    before = offsets[max(i64(np.searchsorted(times, midnight - offset, side="right")) - 1, 0)]
    return day, midnight - before


# ---- writing ----------------------------------------------------------------------------------------------------------------------


@bare
def _place(table: TableArrays, hi: Any, lo: Any, level: int, number: int) -> int:
    """Return the row of an account's bucket for a stretch of time, cleared if it was an older one's; −1 when a newer one has its place.

    A new row's or a cleared one's figures are all 0 with number as given: the caller fills in what begins with something else.
    """
    slot = number % COUNTS[level]
    key = np.uint64(hi) ^ (np.uint64(level) * _PLACES + np.uint64(slot) + np.uint64(1)) * _K
    at = find(table, key, np.uint64(lo))
    if at < 0:
        at = insert(table, key, np.uint64(lo))
        table.rows[at].number = -1
    elif table.rows[at].number > number:
        return -1
    touch(table, at)
    return int(at)


@bare
def _least(a: float, b: float) -> float:
    """Return the smaller of two, a NaN counting as nothing."""
    return b if np.isnan(a) or b < a else a


@bare
def _most(a: float, b: float) -> float:
    """Return the greater of two, a NaN counting as nothing."""
    return b if np.isnan(a) or b > a else a


@bare
def _bucket(buckets: TableArrays, hi: Any, lo: Any, level: int, number: int) -> int:
    at = _place(buckets, hi, lo, level, number)
    if at >= 0 and buckets.rows[at].number != number:
        row = buckets.rows[at]
        row.number = number
        row.observed_ns = 0
        row.samples = 0
        row.gaps = 0
        row.drawdown = 0.0
        row.pnl_first = np.nan
        row.pnl_last = np.nan
        row.pnl_max = np.nan
        row.pnl_min = np.nan
        row.cushion = np.nan
        row.gross = np.nan
        row.net_delta = np.nan
        row.gross_delta = np.nan
    return at


@bare
def sample_account(
    buckets: TableArrays, hi: Any, lo: Any, at_ns: int, day: int, since_ns: int, pnl: float, cushion: float, gross: float, gap_ns: int
) -> None:
    """Take an account snapshot into the four windows. hi, lo: the account's key; day: its New York date; since_ns: time since the one before on this
    date, −1 for the first. pnl: daily P&L in money; cushion, gross: in % of net liquidation; NaN for not known."""
    for level in range(len(COUNTS)):
        at = _bucket(buckets, hi, lo, level, day if level == SESSION else at_ns // SIZES_NS[level])
        if at < 0:
            continue
        row = buckets.rows[at]
        row.samples += 1
        if since_ns > gap_ns:
            row.gaps += 1
        elif since_ns > 0:
            row.observed_ns += since_ns
        if not np.isnan(pnl):
            if np.isnan(row.pnl_first):
                row.pnl_first = pnl
            row.pnl_last = pnl
            row.pnl_max = _most(row.pnl_max, pnl)
            row.pnl_min = _least(row.pnl_min, pnl)
            row.drawdown = max(row.drawdown, row.pnl_max - pnl)
        row.cushion = _least(row.cushion, cushion)
        row.gross = _most(row.gross, gross)


@bare
def sample_positions(buckets: TableArrays, hi: Any, lo: Any, at_ns: int, day: int, net_delta: float, gross_delta: float) -> None:
    """Take a position snapshot into the four windows: deltas in % of net liquidation, NaN for not known."""
    if np.isnan(net_delta) and np.isnan(gross_delta):
        return
    for level in range(len(COUNTS)):
        at = _bucket(buckets, hi, lo, level, day if level == SESSION else at_ns // SIZES_NS[level])
        if at >= 0:
            row = buckets.rows[at]
            row.net_delta = _most(row.net_delta, net_delta)
            row.gross_delta = _most(row.gross_delta, gross_delta)


@bare
def sample_activity(
    traded: TableArrays, hi: Any, lo: Any, at_ns: int, day: int, fills: int, absolute: float, signed: float, cost: float, coverage: float
) -> None:
    """Take what fills and hedges did into the four windows: notionals and cost in money; coverage NaN for not told."""
    for level in range(len(COUNTS)):
        number = day if level == SESSION else at_ns // SIZES_NS[level]
        at = _place(traded, hi, lo, level, number)
        if at < 0:
            continue
        row = traded.rows[at]
        if row.number != number:
            row.number = number
            row.fills = 0
            row.traded = 0.0
            row.net = 0.0
            row.cost = 0.0
            row.coverage = np.nan
        row.fills += fills
        row.traded += absolute
        row.net += signed
        row.cost += cost
        row.coverage = _least(row.coverage, coverage)


# ---- reading ----------------------------------------------------------------------------------------------------------------------


@bare
def read(
    buckets: TableArrays, hi: Any, lo: Any, traded: TableArrays, trader_hi: Any, trader_lo: Any, watermark_ns: int, day: int,
    midnight_ns: int, out: Any,
) -> None:  # fmt: skip
    """Fill `out (4, 15)` float64, columns as FIGURES, with what an account's windows hold at its watermark, of the date `day` begun at midnight_ns."""
    for level in range(len(COUNTS)):
        for column in range(out.shape[1]):
            out[level, column] = np.nan
        out[level, R_SAMPLES] = 0.0
        out[level, R_GAPS] = 0.0
        out[level, R_OBSERVED] = 0.0
        out[level, R_FILLS] = 0.0
        out[level, R_TRADED] = 0.0
        out[level, R_NET_TRADED] = 0.0
        out[level, R_COST] = 0.0
        last = day if level == SESSION else watermark_ns // SIZES_NS[level]
        first = last - COUNTS[level] + 1
        if level != SESSION:
            first = max(first, midnight_ns // SIZES_NS[level])
        peak = np.nan
        for number in range(first, last + 1):
            place = (np.uint64(level) * _PLACES + np.uint64(number % COUNTS[level]) + np.uint64(1)) * _K
            at = find(buckets, np.uint64(hi) ^ place, np.uint64(lo))
            if at >= 0 and buckets.rows[at].number == number:
                row = buckets.rows[at]
                out[level, R_SAMPLES] += row.samples
                out[level, R_GAPS] += row.gaps
                out[level, R_OBSERVED] += row.observed_ns
                if not np.isnan(row.pnl_first):
                    if np.isnan(out[level, R_FIRST]):
                        out[level, R_FIRST] = row.pnl_first
                        out[level, R_DRAWDOWN] = 0.0
                    out[level, R_LAST] = row.pnl_last
                    fall = row.drawdown
                    if not np.isnan(peak):
                        fall = max(fall, peak - row.pnl_min)
                    out[level, R_DRAWDOWN] = max(out[level, R_DRAWDOWN], fall)
                    peak = _most(peak, row.pnl_max)
                out[level, R_CUSHION] = _least(out[level, R_CUSHION], row.cushion)
                out[level, R_GROSS] = _most(out[level, R_GROSS], row.gross)
                out[level, R_NET] = _most(out[level, R_NET], row.net_delta)
                out[level, R_DELTA] = _most(out[level, R_DELTA], row.gross_delta)
            at = find(traded, np.uint64(trader_hi) ^ place, np.uint64(trader_lo))
            if at >= 0 and traded.rows[at].number == number:
                act = traded.rows[at]
                out[level, R_FILLS] += act.fills
                out[level, R_TRADED] += act.traded
                out[level, R_NET_TRADED] += act.net
                out[level, R_COST] += act.cost
                out[level, R_COVERAGE] = _least(out[level, R_COVERAGE], act.coverage)


def start_of(level: int, watermark_ns: int, midnight_ns: int) -> int:
    """Return when a window begins that ends at a watermark, whose New York date began at midnight_ns."""
    if level == SESSION:
        return midnight_ns
    size, count = int(SIZES_NS[level]), int(COUNTS[level])
    return max((watermark_ns // size - count + 1) * size, midnight_ns)


def figures(
    found: NDArray[np.float64], net_liquidation: float, watermark_ns: int, midnight_ns: int, began_ns: int, now_ns: int, rules: WindowRules
) -> list[dict[str, Any]]:
    """Return what an alert says of the windows, each as schemas.canary.WindowFigures. found `(4, 15)`: as `read` gives it; began_ns: first account
    snapshot of the session, 0 for none.

    Without a net liquidation above zero no share of it is told. State, first that holds: empty (no account snapshot), stale (the watermark is old), gap
    (a pause that was too long), warming (it was not watched from its beginning), ok.
    """
    share = 100 / net_liquidation if net_liquidation > 0 else math.nan
    result = []
    for level, name in enumerate(NAMES):
        row: Sequence[float] = found[level].tolist()
        start = start_of(level, watermark_ns, midnight_ns)
        if row[R_SAMPLES] == 0:
            state = "empty"
        elif now_ns - watermark_ns > rules.stale_ns:
            state = "stale"
        elif row[R_GAPS] > 0:
            state = "gap"
        elif level != SESSION and began_ns > start:
            state = "warming"
        else:
            state = "ok"
        traded = row[R_TRADED]
        result.append({
            "window": name,
            "state": state,
            "span_s": min(row[R_OBSERVED], max(watermark_ns - start, 0)) / SECOND_NS,
            "samples": int(row[R_SAMPLES]),
            "pnl_pct_nlv": _known((row[R_LAST] - row[R_FIRST]) * share),
            "drawdown_pct_nlv": _known(row[R_DRAWDOWN] * share),
            "min_cushion_pct": _known(row[R_CUSHION]),
            "max_gross_exposure_pct_nlv": _known(row[R_GROSS]),
            "max_net_delta_pct_nlv": _known(row[R_NET]),
            "max_gross_delta_pct_nlv": _known(row[R_DELTA]),
            "fills": int(row[R_FILLS]),
            "traded_pct_nlv": _known(traded * share),
            "net_traded_pct_nlv": _known(row[R_NET_TRADED] * share),
            "cost_bps": _known(row[R_COST] / traded * 1e4) if traded > 0 else None,
            "min_coverage": _known(row[R_COVERAGE]),
        })  # fmt: skip
    return result


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None
