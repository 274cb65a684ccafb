"""How many members of an index are above their mean, and what is read from daily series: means, highs, changes. Pure; rules: docs/canary.md.

Daily closes have gaps (NaN): a member halted, a feed that missed a day. A gap is no price and is never carried forward.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from schemas.jit import bare

Floats = NDArray[np.float64]
Days = NDArray[np.datetime64]


@bare
def above_mean(closes: Floats, bars: int) -> tuple[int, int]:
    """Return (members above their mean, members counted); see `pct_above_mean`."""
    above, counted = 0, 0
    n_bars = closes.shape[1]
    for member in range(closes.shape[0]):
        last = closes[member, n_bars - 1] if n_bars > 0 else np.nan
        if not (last > 0.0 and last < np.inf):
            continue
        found, lead = 0, 0.0
        at = n_bars - 1
        while at >= 0 and found < bars:
            close = closes[member, at]
            if close > 0.0 and close < np.inf:
                lead += last - close  # the sum of differences is 0 for a price that stood still, bars·last − Σ need not be
                found += 1
            at -= 1
        if found == bars:
            counted += 1
            above += 1 if lead > 0.0 else 0
    return above, counted


def pct_above_mean(closes: Floats, bars: int) -> tuple[float, int]:
    """Return (percent of members whose last close is above the mean of their last `bars` closes, members counted).

    closes `(n_members, n_bars)` float64, oldest first, the last column the date's; NaN, and what is not above zero, is a gap. A member counts when it has
    a close in the last column and `bars` closes in all, that one included; gaps between are passed over. At the mean is not above. NaN when none
    counts. Raises ValueError for fewer bars than 1.
    """
    if bars < 1:
        raise ValueError(f"breadth: bars must be 1 or more, not {bars}")
    above, counted = above_mean(np.ascontiguousarray(closes, np.float64), bars)
    return (above * 100.0 / counted if counted else np.nan), counted


# --- daily series -----------------------------------------------------------------------------------------------------------------


class Daily(NamedTuple):
    """Observations by trading date, oldest first, one a date. days `(n,)` datetime64[D], values `(n,)` float64, never NaN."""

    days: Days
    values: Floats


def new_daily() -> Daily:
    """Return a series without observations."""
    return Daily(np.zeros(0, "datetime64[D]"), np.zeros(0))


def put(series: Daily, day: str, value: float, keep: int) -> Daily:
    """Return the series with an observation of a date (YYYY-MM-DD), in its place, instead of an older one of that date; the newest `keep` stay.

    Raises ValueError for a value that is not finite and for what is no date.
    """
    if not np.isfinite(value):
        raise ValueError(f"series: {day} has no finite value")
    at = np.datetime64(day, "D")
    if np.isnat(at):
        raise ValueError(f"series: {day!r} is no date")
    place = int(np.searchsorted(series.days, at))
    if place < len(series.days) and series.days[place] == at:
        values = series.values.copy()
        values[place] = value
        return Daily(series.days, values)
    days, values = np.insert(series.days, place, at), np.insert(series.values, place, value)
    return Daily(days[-keep:], values[-keep:])


def trailing_mean(values: Floats, bars: int) -> float:
    """Return the mean of the last `bars` values, NaN when there are fewer. The sum is over differences to the last: exact for a flat series."""
    if bars < 1 or len(values) < bars:
        return np.nan
    last = values[-1]
    return float(last + np.sum(values[-bars:] - last) / bars)


def change_over(values: Floats, observations: int) -> float:
    """Return the last value less the one so many observations earlier, NaN when there is none."""
    return float(values[-1] - values[-1 - observations]) if 0 < observations < len(values) else np.nan


def change_pct_over(values: Floats, observations: int) -> float:
    """Return the change over so many observations in percent of the earlier value, NaN when there is none or it is 0."""
    change = change_over(values, observations)
    earlier = values[-1 - observations] if 0 < observations < len(values) else 0.0
    return float(change / earlier * 100.0) if earlier else np.nan


def high_52w(series: Daily, day: str, least_days: int = 0) -> float:
    """Return the highest value of the 52 weeks (364 days) that end with a date, both ends included; NaN when there is none.

    least_days: NaN also when the series does not reach so many days back from the date: the high of a short history is not a year's.
    """
    end = np.datetime64(day, "D")
    within = (series.days <= end) & (series.days >= end - np.timedelta64(364, "D"))
    if not within.any() or series.days[0] > end - np.timedelta64(least_days, "D"):
        return np.nan
    return float(series.values[within].max())
