"""The windows against a slow oracle that keeps every sample, and their states by hand. Rules: docs/canary.md, "Windows"."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators import windows as w
from operators.windows import SECOND_NS, WindowRules
from schemas.canary import WindowFigures
from state.canary import BUCKET, TRADED
from state.table import Table

NEW_YORK = ZoneInfo("America/New_York")
HI, LO = np.uint64(0x1234_5678_9ABC_DEF0), np.uint64(0x0FED_CBA9_8765_4321)
START_NS = int(datetime(2026, 1, 5, 10, 0, tzinfo=NEW_YORK).timestamp()) * SECOND_NS
RULES = WindowRules()
LENGTH_S = {"1m": (10, 6), "5m": (30, 10), "1h": (300, 12)}


def date_of(at_ns: int) -> Any:
    return datetime.fromtimestamp(at_ns / 1e9, NEW_YORK).date()


@dataclass
class Ring:
    """The account's buckets, written as the kernels of the fold do."""

    buckets: Table = field(default_factory=lambda: Table("buckets", BUCKET))
    traded: Table = field(default_factory=lambda: Table("traded", TRADED))
    mark_ns: int = 0
    watermark_ns: int = 0
    session: tuple[int, int] = (0, 0)

    def account(self, at_ns: int, pnl: float, cushion: float, gross: float) -> None:
        self.buckets.reserve(4)
        day = int(w.new_york(at_ns)[0])
        since = at_ns - self.mark_ns if day == self.session[0] else -1
        if since < 0:
            self.session = (day, at_ns)
        w.sample_account(self.buckets.arrays, HI, LO, at_ns, day, since, pnl, cushion, gross, RULES.gap_ns)
        self.mark_ns = at_ns
        self.watermark_ns = max(self.watermark_ns, at_ns)

    def positions(self, at_ns: int, net: float, gross: float) -> None:
        self.buckets.reserve(4)
        w.sample_positions(self.buckets.arrays, HI, LO, at_ns, int(w.new_york(at_ns)[0]), net, gross)
        self.watermark_ns = max(self.watermark_ns, at_ns)

    def activity(self, at_ns: int, fills: int, traded: float, net: float, cost: float, coverage: float) -> None:
        self.traded.reserve(4)
        w.sample_activity(self.traded.arrays, HI, LO, at_ns, int(w.new_york(at_ns)[0]), fills, traded, net, cost, coverage)
        self.watermark_ns = max(self.watermark_ns, at_ns)

    def figures(self, net_liquidation: float, now_ns: int) -> dict[str, dict[str, Any]]:
        day, midnight = (int(found) for found in w.new_york(self.watermark_ns))
        out = np.zeros((4, len(w.FIGURES)))
        w.read(self.buckets.arrays, HI, LO, self.traded.arrays, HI, LO, self.watermark_ns, day, midnight, out)
        began = self.session[1] if self.session[0] == day else 0
        found = w.figures(out, net_liquidation, self.watermark_ns, midnight, began, now_ns, RULES)
        return {one["window"]: WindowFigures.model_validate(one).model_dump() for one in found}


# --- the oracle: every sample is kept, every window is looked through ------------------------------------------------------------


@dataclass
class Oracle:
    """All samples as they came: (time, kind, values)."""

    samples: list[tuple[int, str, tuple[float, ...]]] = field(default_factory=list)

    def figures(self, net_liquidation: float, now_ns: int) -> dict[str, dict[str, Any]]:
        watermark = max(at for at, _, _ in self.samples)
        return {name: self._window(name, watermark, net_liquidation, now_ns) for name in w.NAMES}

    def _window(self, name: str, watermark: int, net_liquidation: float, now_ns: int) -> dict[str, Any]:
        today = date_of(watermark)
        midnight = int(datetime(today.year, today.month, today.day, tzinfo=NEW_YORK).timestamp()) * SECOND_NS
        start = midnight
        if name in LENGTH_S:
            size_s, count = LENGTH_S[name]
            size = size_s * SECOND_NS
            start = max(midnight, watermark - watermark % size - (count - 1) * size)
        inside = []
        newest_of_place: dict[int, int] = {}
        for at, kind, values in self.samples:  # a place that a newer stretch has taken does not go back to an older one
            if name in LENGTH_S:
                number = at // (LENGTH_S[name][0] * SECOND_NS)
                place = (number % LENGTH_S[name][1]) * 2 + (kind == "activity")
                if newest_of_place.get(place, -1) > number:
                    continue
                newest_of_place[place] = number
            if at >= start and date_of(at) == today:
                inside.append((at, kind, values))
        accounts = [(at, v) for at, kind, v in inside if kind == "account"]
        every = [(at, v) for at, kind, v in self.samples if kind == "account"]
        observed, gaps = 0, 0
        for at, _ in accounts:
            before = [other for other, _ in every if other < at and date_of(other) == today]
            if before:
                gap = at - max(before)
                gaps += gap > RULES.gap_ns
                observed += gap if gap <= RULES.gap_ns else 0
        path = [v[0] for _, v in accounts if not math.isnan(v[0])]
        fall = max((a - b for i, a in enumerate(path) for b in path[i:]), default=math.nan)
        positions = [v for _, kind, v in inside if kind == "positions"]
        acts = [v for _, kind, v in inside if kind == "activity"]
        first_today = min((at for at, _ in every if date_of(at) == today), default=0)
        state = "ok"
        if not accounts:
            state = "empty"
        elif now_ns - watermark > RULES.stale_ns:
            state = "stale"
        elif gaps:
            state = "gap"
        elif name != "session" and first_today > start:
            state = "warming"
        traded = sum(v[1] for v in acts)
        return {
            "window": name,
            "state": state,
            "span_s": min(observed, watermark - start) / SECOND_NS,
            "samples": len(accounts),
            "pnl_pct_nlv": share(path[-1] - path[0] if path else math.nan, net_liquidation),
            "drawdown_pct_nlv": share(fall, net_liquidation),
            "min_cushion_pct": extreme(min, [v[1] for _, v in accounts]),
            "max_gross_exposure_pct_nlv": extreme(max, [v[2] for _, v in accounts]),
            "max_net_delta_pct_nlv": extreme(max, [v[0] for v in positions]),
            "max_gross_delta_pct_nlv": extreme(max, [v[1] for v in positions]),
            "fills": sum(int(v[0]) for v in acts),
            "traded_pct_nlv": share(traded, net_liquidation),
            "net_traded_pct_nlv": share(sum(v[2] for v in acts), net_liquidation),
            "cost_bps": sum(v[3] for v in acts) / traded * 1e4 if traded > 0 else None,
            "min_coverage": extreme(min, [v[4] for v in acts]),
        }


def share(value: float, whole: float) -> float | None:
    return None if math.isnan(value) or not whole > 0 else value / whole * 100


def extreme(choose: Any, values: list[float]) -> float | None:
    known = [value for value in values if not math.isnan(value)]
    return choose(known) if known else None


def same(ours: dict[str, dict[str, Any]], theirs: dict[str, dict[str, Any]]) -> None:
    for name, expected in theirs.items():
        for key, value in expected.items():
            got = ours[name][key]
            if isinstance(value, float) and not isinstance(value, bool):
                assert got is not None, (name, key, value)
                assert got == pytest.approx(value, rel=1e-9, abs=1e-9), (name, key)
            else:
                assert got == value, (name, key, got, value)


some = st.one_of(st.just(math.nan), st.integers(-10_000, 10_000).map(float))
steps = st.one_of(st.integers(1, 40), st.sampled_from([60, 119, 120, 121, 300, 600, 3_600, 40_000]))


@settings(max_examples=150)
@given(
    st.lists(st.tuples(steps, st.sampled_from(["account", "positions", "activity"]), st.lists(some, min_size=5, max_size=5), st.integers(0, 400)), max_size=60),
    st.sampled_from([100_000.0, 0.0, math.nan]),
    st.integers(0, 700),
)  # fmt: skip
def test_every_figure_is_that_of_the_slow_oracle(story: list[Any], net_liquidation: float, later_s: int) -> None:
    ring, oracle = Ring(), Oracle()
    now = START_NS
    for step_s, kind, values, back_s in story:
        now += step_s * SECOND_NS
        if kind == "account":
            ring.account(now, *values[:3])
            oracle.samples.append((now, kind, tuple(values[:3])))
        else:
            at = now - back_s * SECOND_NS  # positions and fills may be older than what is known of the account
            if kind == "positions":
                deltas = tuple(abs(v) for v in values[:2])
                ring.positions(at, *deltas)
                if not all(math.isnan(v) for v in deltas):
                    oracle.samples.append((at, kind, deltas))
                continue
            act = (3.0, abs(values[0]), values[0], values[1], abs(values[2]) / 10_000)
            act = tuple(0.0 if math.isnan(v) and i < 4 else v for i, v in enumerate(act))
            ring.activity(at, int(act[0]), *act[1:])
            oracle.samples.append((at, kind, act))
    if oracle.samples:
        watermark = max(at for at, _, _ in oracle.samples)
        if watermark == ring.watermark_ns:
            same(
                ring.figures(net_liquidation, watermark + later_s * SECOND_NS),
                oracle.figures(net_liquidation, watermark + later_s * SECOND_NS),
            )


def test_states_of_a_window() -> None:
    ring = Ring()
    for second in range(0, 130, 10):
        ring.account(START_NS + second * SECOND_NS, float(second), 40.0, 60.0)
    at = ring.watermark_ns
    states = {name: one["state"] for name, one in ring.figures(1e5, at).items()}
    assert states == {"1m": "ok", "5m": "warming", "1h": "warming", "session": "ok"}
    assert {one["state"] for one in ring.figures(1e5, at + RULES.stale_ns + 1).values()} == {"stale"}
    assert ring.figures(1e5, at + RULES.stale_ns)["1m"]["state"] == "ok"
    ring.account(at + RULES.gap_ns + 1, 0.0, 40.0, 60.0)
    assert {one["state"] for one in ring.figures(1e5, ring.watermark_ns).values()} == {"gap"}


def test_a_pause_of_the_flow_makes_nothing_late_and_what_was_missed_is_a_gap() -> None:
    ring = Ring()
    ring.account(START_NS, 0.0, 40.0, 60.0)
    much_later = START_NS + 3 * 3_600 * SECOND_NS  # now; the snapshots of the pause come all at once
    for minute in range(1, 121):
        ring.account(START_NS + minute * 60 * SECOND_NS, -float(minute), 40.0 - minute / 10, 60.0)
    found = ring.figures(1e5, much_later)
    assert found["1h"]["samples"] == 61 - 5  # 12 buckets of 5 minutes: the one the watermark is in has just begun
    assert found["session"]["samples"] == 121
    assert found["session"]["pnl_pct_nlv"] == pytest.approx(-0.12)
    assert found["session"]["min_cushion_pct"] == pytest.approx(28.0)
    assert found["1h"]["state"] == "stale"


def test_no_window_reaches_over_midnight_in_new_york() -> None:
    midnight = int(datetime(2026, 1, 6, tzinfo=NEW_YORK).timestamp()) * SECOND_NS
    ring = Ring()
    ring.account(midnight - 20 * SECOND_NS, -900.0, 5.0, 300.0)
    ring.activity(midnight - 15 * SECOND_NS, 4, 1e6, 1e6, 10.0, 0.2)
    ring.account(midnight + 5 * SECOND_NS, 0.0, 40.0, 60.0)
    for one in ring.figures(1e5, midnight).values():
        assert (one["samples"], one["min_cushion_pct"], one["fills"], one["span_s"]) == (1, 40.0, 0, 0.0)


@pytest.mark.parametrize("moment", ["2026-03-08T01:59:59", "2026-03-08T03:00:00", "2026-11-01T00:00:00", "2026-11-01T23:59:59", "2006-04-02T12:00:00",
                                    "2000-01-01T00:00:00", "2100-12-31T23:59:59", "2026-07-01T00:00:00", "2026-03-08T00:00:00", "2026-11-02T00:00:00"])  # fmt: skip
def test_new_york_dates_and_midnights(moment: str) -> None:
    at = datetime.fromisoformat(moment).replace(tzinfo=NEW_YORK)
    day, midnight = w.new_york(int(at.timestamp()) * SECOND_NS)
    assert int(day) == (at.date() - datetime(1970, 1, 1).date()).days
    assert int(midnight) == int(datetime(at.year, at.month, at.day, tzinfo=NEW_YORK).timestamp()) * SECOND_NS
    assert w.new_york_at(int(at.timestamp()) * SECOND_NS, *w.new_york_offsets()) == (int(day), int(midnight))


def test_buckets_are_bounded_whatever_comes() -> None:
    ring = Ring()
    for step in range(3_000):
        ring.account(START_NS + step * 7 * SECOND_NS, 0.0, 40.0, 60.0)
    assert len(ring.buckets) <= w.BUCKETS
