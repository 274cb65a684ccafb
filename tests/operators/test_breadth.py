"""Breadth and daily series: against plain loops, exact edges, gaps that are never filled."""

from __future__ import annotations

import math
from datetime import date, timedelta
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators import breadth as br

GAPS = (math.nan, 0.0, -1.0, math.inf)


def slow(closes: list[list[float]], bars: int) -> tuple[float | None, int]:
    """Return percent and count in exact numbers, member by member."""
    above = counted = 0
    for row in closes:
        found = [Fraction(c) for c in row if math.isfinite(c) and c > 0]
        if not row or not (math.isfinite(row[-1]) and row[-1] > 0) or len(found) < bars:
            continue
        counted += 1
        above += found[-1] > sum(found[-bars:]) / bars
    return (above * 100 / counted if counted else None), counted


rows = st.integers(1, 8).flatmap(
    lambda n: st.lists(
        st.lists(st.one_of(st.integers(1, 2**20).map(lambda k: k / 64), st.sampled_from(GAPS)), min_size=n, max_size=n), max_size=12
    )
)


@given(rows, st.integers(1, 6))
def test_as_the_slow_loop(closes: list[list[float]], bars: int) -> None:
    table = np.array(closes, np.float64).reshape(len(closes), len(closes[0]) if closes else 0)
    pct, counted = br.pct_above_mean(table, bars)
    expected, count = slow(closes, bars)
    assert counted == count
    assert math.isnan(pct) if expected is None else pct == expected


def test_a_price_that_stood_still_is_not_above_its_mean() -> None:
    for price in (0.1, 1 / 3, 1e-8, 123.456):
        assert br.pct_above_mean(np.full((1, 50), price), 50) == (0.0, 1)


def test_who_counts() -> None:
    n = math.nan
    closes = np.array([
        [1.0, 2.0, 3.0, 4.0],  # above
        [4.0, 3.0, 2.0, 1.0],  # below
        [1.0, n, 2.0, 3.0],  # a gap between is passed over: three closes
        [n, n, 2.0, 3.0],  # not enough
        [1.0, 2.0, 3.0, n],  # none on the date
        [9.0, 3.0, 3.0, 3.0],  # the first is before the window: at the mean
    ])  # fmt: skip
    assert br.pct_above_mean(closes, 3) == (50.0, 4)
    assert br.pct_above_mean(closes, 4) == (100 / 3, 3)
    assert br.pct_above_mean(closes[:, ::-1], 3)[1] == 5  # a view, not contiguous


def test_nobody_counts() -> None:
    for closes in (np.zeros((0, 5)), np.zeros((3, 0)), np.full((3, 5), np.nan)):
        pct, counted = br.pct_above_mean(closes, 2)
        assert math.isnan(pct)
        assert counted == 0
    with pytest.raises(ValueError, match="bars must be 1 or more"):
        br.pct_above_mean(np.ones((1, 1)), 0)


@given(rows, st.integers(1, 6), st.integers(-8, 8))
def test_prices_have_no_unit(closes: list[list[float]], bars: int, power: int) -> None:
    table = np.array(closes, np.float64).reshape(len(closes), len(closes[0]) if closes else 0)
    assert np.array_equal(br.pct_above_mean(table, bars), br.pct_above_mean(table * 2.0**power, bars), equal_nan=True)


# --- daily series -----------------------------------------------------------------------------------------------------------------


DAY = date(2026, 1, 2)
observations = st.lists(st.tuples(st.integers(0, 30), st.floats(-1e6, 1e6)), max_size=60)


@given(observations, st.integers(1, 20))
def test_a_series_is_a_sorted_dictionary_that_keeps_the_newest(given_: list[tuple[int, float]], keep: int) -> None:
    series, known = br.new_daily(), dict[int, float]()
    for n, value in given_:
        series = br.put(series, (DAY + timedelta(n)).isoformat(), value, keep)
        known[n] = value
        known = dict(sorted(known.items())[-keep:])
    assert [str(day) for day in series.days] == [(DAY + timedelta(n)).isoformat() for n in known]
    assert series.values.tolist() == list(known.values())


def test_put_leaves_the_series_it_was_given() -> None:
    one = br.put(br.new_daily(), "2026-01-02", 1.0, 5)
    two = br.put(one, "2026-01-02", 2.0, 5)
    assert (one.values.tolist(), two.values.tolist()) == ([1.0], [2.0])
    for bad in (math.nan, math.inf):
        with pytest.raises(ValueError, match="no finite value"):
            br.put(one, "2026-01-03", bad, 5)
    for text in ("2026-13-01", "", "NaT"):
        with pytest.raises(ValueError):  # noqa: PT011 — numpy's own words
            br.put(one, text, 1.0, 5)


@given(st.lists(st.floats(0.01, 1e4), max_size=30), st.integers(1, 12))
def test_means_and_changes(values: list[float], n: int) -> None:
    array = np.array(values)
    mean, change, percent = br.trailing_mean(array, n), br.change_over(array, n), br.change_pct_over(array, n)
    assert math.isnan(mean) == (len(values) < n)
    assert math.isnan(change) == math.isnan(percent) == (len(values) <= n)
    if len(values) >= n:
        assert mean == pytest.approx(float(sum(map(Fraction, values[-n:])) / n), rel=1e-12)
    if len(values) > n:
        assert change == values[-1] - values[-1 - n]
        assert percent == pytest.approx(100 * (values[-1] / values[-1 - n] - 1), rel=1e-9, abs=1e-11)


def test_means_and_changes_at_their_edges() -> None:
    flat = np.full(50, 0.1)
    assert br.trailing_mean(flat, 50) == 0.1
    assert math.isnan(br.trailing_mean(flat, 51))
    assert math.isnan(br.trailing_mean(flat, 0))
    assert br.change_over(np.array([3.0, 3.5]), 1) == 0.5
    assert math.isnan(br.change_over(np.array([3.0, 3.5]), 0))
    assert math.isnan(br.change_pct_over(np.array([0.0, 3.5]), 1))


def test_the_high_of_52_weeks() -> None:
    series = br.new_daily()
    for back, value in ((365, 99.0), (364, 50.0), (100, 40.0), (0, 10.0), (-1, 77.0)):
        series = br.put(series, (DAY - timedelta(back)).isoformat(), value, 100)
    day = DAY.isoformat()
    assert br.high_52w(series, day) == 50.0
    assert br.high_52w(series, day, 365) == 50.0
    assert math.isnan(br.high_52w(series, day, 366))
    assert br.high_52w(series, (DAY - timedelta(1)).isoformat()) == 99.0
    assert math.isnan(br.high_52w(series, (DAY - timedelta(800)).isoformat()))
    assert math.isnan(br.high_52w(br.new_daily(), day))
