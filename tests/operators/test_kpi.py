"""The hedger's figures: buckets, quantiles, sums over windows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators import kpi
from state.hedges import BUCKETS, MINUTE


def minutes(*rows: dict[str, Any]) -> Any:
    result = np.zeros(len(rows), MINUTE)
    for row, fields in zip(result, rows, strict=True):
        for name, value in fields.items():
            row[name] = value
    return result


def counts(**at: int) -> Any:
    result = np.zeros(BUCKETS, np.uint32)
    for name, value in at.items():
        result[int(name[1:])] = value
    return result


def test_buckets_are_powers_of_two_from_a_millisecond_to_minutes() -> None:
    assert kpi.LATENCY_MS[0] == 1.0
    assert kpi.COMPLETION_S[0] == 1 / 64
    for bounds in (kpi.LATENCY_MS, kpi.COMPLETION_S):
        assert len(bounds) == BUCKETS
        assert (bounds[1:] / bounds[:-1] == 2.0).all()


@pytest.mark.parametrize(
    ("value", "at"), [(-1.0, 0), (0.0, 0), (1.0, 0), (1.0001, 1), (2.0, 1), (180.0, 8), (2.0**19, 19), (1e12, 19), (np.inf, 19)]
)
def test_a_value_is_in_the_first_bucket_whose_bound_is_not_below_it(value: float, at: int) -> None:
    assert kpi.bucket(kpi.LATENCY_MS, value) == at


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0.001, 2.0**19), min_size=1, max_size=60), st.sampled_from([0.5, 0.95, 0.99, 1.0]))
def test_quantile_is_an_upper_bound_at_most_twice_the_value(values: list[float], q: float) -> None:
    histogram = np.zeros(BUCKETS, np.uint32)
    for value in values:
        histogram[kpi.bucket(kpi.LATENCY_MS, value)] += 1
    exact = sorted(values)[max(int(np.ceil(q * len(values) - 1e-9)) - 1, 0)]
    found = kpi.quantile(kpi.LATENCY_MS, histogram, q)
    assert found is not None
    assert exact <= found <= max(2.0 * exact, kpi.LATENCY_MS[0])


def test_quantile_of_nothing_is_none() -> None:
    assert kpi.quantile(kpi.LATENCY_MS, counts(), 0.5) is None


def test_quantiles_of_a_few() -> None:
    histogram = counts(_0=1, _3=1, _19=1)
    assert [kpi.quantile(kpi.LATENCY_MS, histogram, q) for q in (0.0, 1 / 3, 0.5, 0.67, 1.0)] == [1.0, 1.0, 8.0, 2.0**19, 2.0**19]


def test_nothing_measured_is_null_not_zero() -> None:
    for rows in (minutes(), minutes({}, {})):
        found = kpi.summed(rows)
        nulls = {name for name, value in found.items() if value is None}
        assert nulls == {
            "coverage_time_pct", "coverage_mean_pct", "completion_p50_s", "completion_p95_s", "failure_pct", "slippage_bps", "churn",
            "latency_p50_ms", "latency_p95_ms",
        }  # fmt: skip
        assert (found["episodes"], found["hedges_sent"], found["hedged_notional"]) == (0, 0, 0.0)


def test_a_window_is_the_sum_of_its_minutes_not_the_mean_of_their_shares() -> None:
    rows = minutes(
        {"known_s": 60.0, "covered_s": 60.0, "coverage_s": 59.4, "hedged": 100.0, "slippage": 300.0, "moved": 50.0, "sent": 1, "ended": 1,
         "episodes": 1, "met": 1, "latency": counts(_5=1), "completion": counts(_7=1)},
        {"known_s": 20.0, "covered_s": 0.0, "coverage_s": 10.0, "hedged": 300.0, "slippage": -100.0, "moved": 350.0, "sent": 3, "ended": 2,
         "failed": 1, "episodes": 1, "latency": counts(_7=3)},
    )  # fmt: skip
    found = kpi.summed(rows)
    assert found["coverage_time_pct"] == pytest.approx(75.0)
    assert found["coverage_mean_pct"] == pytest.approx(100 * 69.4 / 80)
    assert found["slippage_bps"] == pytest.approx(0.5)
    assert found["churn"] == pytest.approx(1.0)
    assert found["failure_pct"] == pytest.approx(25.0)
    assert (found["episodes"], found["episodes_met"], found["hedges_sent"], found["hedges_ended"], found["hedges_failed"]) == (
        2,
        1,
        4,
        3,
        1,
    )
    assert (found["latency_p50_ms"], found["latency_p95_ms"]) == (128.0, 128.0)
    assert (found["completion_p50_s"], found["completion_p95_s"]) == (2.0, 2.0)


def test_shares_never_exceed_the_whole() -> None:
    found = kpi.summed(minutes({"known_s": 1.0, "covered_s": 1.0 + 1e-12, "coverage_s": 1.0 + 1e-12, "sent": 1, "failed": 2}))
    assert found["coverage_time_pct"] == found["coverage_mean_pct"] == found["failure_pct"] == 100.0


def test_negative_coverage_is_told_as_it_is() -> None:
    assert kpi.summed(minutes({"known_s": 10.0, "coverage_s": -5.0}))["coverage_mean_pct"] == pytest.approx(-50.0)


def test_order_of_minutes_makes_no_difference_and_windows_add_up() -> None:
    random = np.random.default_rng(3)
    rows = minutes(*({"known_s": float(n), "sent": n, "ended": n, "latency": counts(**{f"_{n}": 2})} for n in random.integers(0, 19, 30)))
    assert kpi.summed(rows) == kpi.summed(rows[::-1])
    parts = [kpi.summed(rows[:11]), kpi.summed(rows[11:])]
    assert kpi.summed(rows)["hedges_sent"] == sum(part["hedges_sent"] for part in parts)


def test_what_is_kept_covers_the_longest_window() -> None:
    assert max(kpi.WINDOWS_S) // 60 < kpi.KEEP_MINUTES
