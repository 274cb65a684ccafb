"""The regime builder and its lane: rows of raw observations, classes, gates over days, outages, and a restart that nobody notices."""

from __future__ import annotations

import base64
import json
import random
from typing import Any

import numpy as np
import pytest

from operators import regime as builder
from operators.clusters import DAY_NS, GAMMA, HYG, MINUTE_NS, NS, from_snapshot, rebanded
from operators.regime import RegimeBuilder, Sessions, replayed
from operators.regime_lane import DEAD_LETTERS, REGIMES, RegimeLogic
from schemas.canary import Regime
from schemas.policy import ROWS
from state.changelog import StateMismatch
from tests.operators.regime_bench import DAY, DEFAULT, GUARDED, POLICIES, Bench, at, chain, indicator


@pytest.fixture
def bench() -> Bench:
    found = Bench()
    found.history()
    found.quiet()
    return found


# --- rows -----------------------------------------------------------------------------------------------------------------------


def test_a_quiet_market_is_ranked_and_every_row_says_why(bench: Bench) -> None:
    regime = bench.regime()
    assert [row.row for row in regime.rows] == list(ROWS)
    assert {row.band for row in regime.rows} == {"green"}
    assert {row.freshness_class for row in regime.rows} == {"fresh"}
    assert (regime.lifecycle.stage, regime.composite.verdict, regime.confidence) == ("quiet", "Normal regime", "high")
    assert [health.status for health in regime.source_health] == ["ok"] * 6
    assert regime.rows[0].why.startswith("green: VIX 15 / VIX3M 18 = 0.833333 (yellow from 0.92, red from 1)")
    assert regime.rows[7].values["pct_above_50dma"] == 70.0
    assert (regime.spy_change_pct, regime.session_date, regime.closed) == (0.0, DAY, False)


def test_nothing_is_known_before_anything_was_said() -> None:
    bench = Bench()
    regime = bench.regime()
    assert {row.band for row in regime.rows} == {None}
    assert {row.status for row in regime.rows} == {"unavailable"}
    assert regime.lifecycle.stage == "data_quality"
    assert all(value is None for row in regime.rows for value in row.values.values())


def test_changes_and_anchors_come_from_the_series(bench: Bench) -> None:
    bench.say("usd_jpy", 147.0)
    assert bench.row("usd_jpy").values == {"last": 147.0, "close_7d_ago": 150.0, "weekly_change_pct": -2.0}
    assert bench.row("usd_jpy").band == "red"
    bench.say("hy_oas", 3.5, as_of_date=DAY, close=True)
    assert bench.row("credit_spreads").values["hy_oas_20d_change"] == 0.5
    assert bench.row("credit_spreads").band == "yellow"
    bench.say("cp_3m", 5.25, as_of_date=DAY, close=True)
    row = bench.row("funding_stress")
    assert (row.values["spread_bps"], row.band, row.as_of_date) == (75.0, "red", "2026-03-03")  # the older leg's
    bench.say("spy", 484.0, prev_close=500.0)  # no high in the message, no year of closes
    assert bench.row(HYG).values["spy_52w_high"] is None
    assert (bench.row(HYG).band, bench.row(HYG).fields_missing) == ("green", ["spy_52w_high"])
    bench.say("hyg", 79.0)
    assert (bench.row(HYG, "canary-guarded").band, bench.row(HYG).band_held) == ("green", True)  # SPY's anchor is missing: not measured
    bench.say("spy", 485.0, high_52w=500.0)
    assert bench.row(HYG).band == "red"
    assert bench.regime().spy_change_pct == -3.0  # against the last close of the series


def test_a_year_of_closes_makes_a_high() -> None:
    seen = RegimeBuilder({"canary-default": DEFAULT})
    days = [str(day) for day in np.arange("2025-01-01", "2026-03-04", dtype="datetime64[D]")]
    for i, day in enumerate(days[-260:]):
        seen.take(
            indicator(indicator="spy", value=400.0 + (i == 100) * 50, as_of_ns=at(day, "16:00"), as_of_date=day, close=True),
            at(day),
            at(DAY),
        )
    assert builder.YEAR_BARS == 252
    row, _ = seen.rows_of(DEFAULT, at(DAY))[HYG]
    assert row.values["spy_52w_high"] == 450.0


def test_vvix_is_the_official_close_only(bench: Bench) -> None:
    bench.say("vvix", 130.0)
    assert bench.counts()["ignored"] == 1
    assert bench.row("vol_of_vol").values["last"] == 85.0


def test_a_day_change_of_an_earlier_session_is_none(bench: Bench) -> None:
    bench.say("spy", 490.0, prev_close=500.0, as_of_date=DAY)
    assert bench.regime().spy_change_pct == -2.0
    bench.to(DAY, "16:00")
    bench.say("spy", 490.0, close=True, as_of_date=DAY)  # of the same date: the close before it is the day before's
    assert bench.regime().spy_change_pct == -2.0
    bench.to("2026-03-05", "09:00")
    assert bench.regime().spy_change_pct == -2.0  # before the open the last session's still stands
    bench.to("2026-03-05", "09:31")
    assert bench.regime().spy_change_pct is None


# --- gamma and breadth ----------------------------------------------------------------------------------------------------------


def test_combined_gamma_follows_gross_gamma_and_depth_too(bench: Bench) -> None:
    """L8: the small index deep in red, the big one near its level."""
    bench.say("spy_options", chain=chain(460.0, 500.0))
    bench.say("spx_options", chain=chain(5000.0, 4990.0, 30.0))
    row = bench.row(GAMMA)
    small, big = row.envelope["result"]["per_index"]["SPY"], row.envelope["result"]["per_index"]["SPX"]
    assert small["gap_pct"] < -2 < big["gap_pct"]
    assert big["gamma_total_abs"] > 100 * small["gamma_total_abs"]
    assert row.band == "yellow"
    assert row.envelope["result"]["regime_agreement"] == "disagree"
    assert row.depth == pytest.approx(-big["gap_pct"], abs=0.2)


def test_a_wholly_short_leg_counts_as_deep_as_can_be() -> None:
    legs = {"SPY": {"gamma_sign": "short", "gamma_total_abs": 10.0}, "SPX": {"gap_pct": -1.0, "gamma_total_abs": 90.0}}
    row = from_snapshot({GAMMA: {"status": "ok", "envelope": {"result": {"per_index": legs}}}}).rows[GAMMA]
    assert builder.depth_of(GAMMA, row, GUARDED) == pytest.approx(0.1 * 100 + 0.9 * 1)
    legs["SPX"] = {"gamma_sign": "long", "gamma_total_abs": 90.0}
    row = from_snapshot({GAMMA: {"status": "ok", "envelope": {"result": {"per_index": legs}}}}).rows[GAMMA]
    assert builder.depth_of(GAMMA, row, GUARDED) == 100.0


def test_gamma_of_an_earlier_session_is_held_and_says_why(bench: Bench) -> None:
    assert bench.row(GAMMA).freshness_class == "fresh"
    bench.to("2026-03-05", "08:00")
    assert (bench.row(GAMMA).status, bench.row(GAMMA).freshness_class) == ("ok", "not_due")
    bench.to("2026-03-05", "09:45")
    row = bench.row(GAMMA)
    assert (row.status, row.freshness_class, row.band, row.band_held, row.held_date) == ("stale", "pending", "green", True, DAY)
    bench.to("2026-03-05", "10:00")
    assert bench.row(GAMMA).freshness_class == "pending"
    bench.now_ns += 1
    assert bench.row(GAMMA).freshness_class == "stale"
    bench.to("2026-03-09", "15:00")
    assert bench.row(GAMMA).freshness_class == "overdue"
    assert "band held" in bench.row(GAMMA).why


def test_gamma_is_as_old_as_its_older_leg(bench: Bench) -> None:
    bench.to("2026-03-05", "11:00")
    bench.say("spx_options", chain=chain(5000.0, 4800.0, 10.0))
    assert bench.row(GAMMA).status == "stale"
    bench.say("spy_options", chain=chain(500.0, 480.0))
    assert (bench.row(GAMMA).status, bench.row(GAMMA).freshness_class) == ("ok", "fresh")


def test_one_broken_leg_degrades_gamma_and_does_not_hide_the_other(bench: Bench) -> None:
    bench.say("spy_options", status="error")
    regime = bench.regime()
    row = regime.rows[6]
    assert (row.band, row.status, row.envelope["result"]["summary"]["confidence"]) == ("green", "ok", "degraded")  # type: ignore[index]
    assert row.fields_missing == ["spy_options"]
    assert regime.source_health[4].status == "degraded"
    bench.say("spx_options", chain={"spot": 5000.0, "options": []})
    row = bench.row(GAMMA)
    assert (row.status, row.band_held, row.envelope["status"]) == ("error", True, "error")


def test_breadth_needs_most_of_the_members(bench: Bench) -> None:
    assert bench.row("breadth").band == "green"
    bench.to("2026-03-04", "16:30")
    new = [{"symbol": f"N{i}", "close": 10.0} for i in range(20)]
    bench.say("sp500_closes", closes=[{"symbol": f"S{i}", "close": 120.0} for i in range(1, 51)] + new, as_of_date=DAY)
    row = bench.row("breadth")
    assert (row.band_held, row.envelope["state"], row.envelope["counted"], row.envelope["members"]) == (True, "degraded", 50, 70)
    assert bench.regime().data_quality[0].degraded_clusters == ["breadth"]
    bench.say("sp500_closes", closes=[{"symbol": f"S{i}", "close": 120.0} for i in range(1, 51)] + new[:12], as_of_date=DAY)
    row = bench.row("breadth")
    assert (row.band, row.band_held, row.envelope["state"], row.values["pct_above_50dma"]) == ("green", False, "ready", 100.0)


def test_breadth_grows_stale_by_the_hour(bench: Bench) -> None:
    bench.to("2026-03-04", "22:00")
    assert bench.row("breadth").status == "ok"
    bench.now_ns += 1
    assert (bench.row("breadth").status, bench.row("breadth").band) == ("stale", "green")


# --- freshness ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("day", "clock", "row", "found"),
    [
        (DAY, "15:05", "vix_term_structure", "fresh"),
        (DAY, "15:06", "vix_term_structure", "stale"),
        (DAY, "16:01", "vix_term_structure", "stale"),  # no closing price came
        ("2026-03-05", "09:29", "vix_term_structure", "not_due"),
        ("2026-03-05", "09:30", "vix_term_structure", "stale"),
        ("2026-03-07", "12:00", "vix_term_structure", "not_due"),
        ("2026-03-08", "15:00", "vix_term_structure", "not_due"),
        ("2026-03-08", "16:01", "vix_term_structure", "overdue"),
        (DAY, "17:59", "vol_of_vol", "fresh"),
        (DAY, "18:00", "vol_of_vol", "stale"),  # today's close is due
        (DAY, "18:00", "credit_spreads", "fresh"),
        ("2026-03-05", "17:59", "credit_spreads", "fresh"),
        ("2026-03-05", "18:00", "credit_spreads", "stale"),
        (DAY, "15:59", "breadth", "fresh"),
        (DAY, "17:30", "breadth", "pending"),
        (DAY, "17:31", "breadth", "stale"),
        ("2026-03-07", "12:00", "breadth", "not_due"),
        (DAY, "15:06", "usd_jpy", "stale"),
        ("2026-03-07", "12:00", "usd_jpy", "not_due"),
    ],
)
def test_freshness(bench: Bench, day: str, clock: str, row: str, found: str) -> None:
    bench.to(day, clock)
    assert bench.row(row).freshness_class == found


def test_a_closing_price_is_fresh_for_the_rest_of_the_day(bench: Bench) -> None:
    bench.to(DAY, "16:00")
    for name, value in (("vix", 15.0), ("vix3m", 18.0)):
        bench.say(name, value, close=True, as_of_date=DAY)
    bench.to(DAY, "23:00")
    assert bench.row("vix_term_structure").freshness_class == "fresh"


def test_vix3m_may_stand_a_while_when_the_vix_does(bench: Bench) -> None:
    bench.minutes(14)
    bench.say("vix", 15.14)
    assert bench.row("vix_term_structure").freshness_class == "fresh"
    bench.say("vix", 15.15)  # by 1 %
    assert bench.row("vix_term_structure").freshness_class == "stale"
    bench.say("vix", 15.0)
    bench.minutes(1)
    assert bench.row("vix_term_structure").freshness_class == "fresh"
    bench.now_ns += 1
    assert bench.row("vix_term_structure").freshness_class == "stale"


def test_a_frozen_price_is_not_refreshed_by_messages(bench: Bench) -> None:
    """L10: the feed goes on sending, its price is of an hour ago."""
    frozen = bench.now_ns
    for _ in range(12):
        bench.minutes(5)
        bench.say("vix", 15.0, prev_close=15.0, as_of_ns=frozen, as_of_date=DAY)
    assert bench.counts()["duplicate"] == 12
    assert bench.row("vix_term_structure").freshness_class == "stale"


def test_a_feed_may_say_what_is_due_for_the_day(bench: Bench) -> None:
    bench.say("hy_oas", 3.0, as_of_date="2026-02-20", as_of_ns=bench.now_ns, close=True, due="not_due")
    assert bench.row("credit_spreads").freshness_class == "not_due"
    bench.to("2026-03-05")
    assert bench.row("credit_spreads").freshness_class == "stale"


def test_unknown_calendar_is_open_and_known_holidays_are_not() -> None:
    sessions = Sessions({"2026-03-06": False}, GUARDED.policy.freshness)
    assert [sessions.is_open(day) for day in ("2026-03-05", "2026-03-06", "2026-03-07", "2026-03-09")] == [True, False, False, True]
    assert sessions.before("2026-03-09") == "2026-03-05"
    assert sessions.current(at("2026-03-09", "09:29")) == "2026-03-05"
    assert sessions.current(at("2026-03-09", "09:30")) == "2026-03-09"
    assert sessions.ended(at("2026-03-09", "15:59")) == "2026-03-05"
    assert sessions.due(at("2026-03-10", "18:00"), 1, 120) == "2026-03-09"


# --- gates over days ------------------------------------------------------------------------------------------------------------


def funding(bench: Bench, day: str, cp: float, bill: float = 4.0) -> Any:
    """Let a day's funding rates come in the evening; return the row the evening after, when they are the newest there can be."""
    for name, value in (("cp_3m", cp), ("tbill_3m", bill)):
        bench.say(name, value, as_of_ns=at(day, "16:00"), as_of_date=day, close=True)
    return bench.row("funding_stress")


def hyg(bench: Bench, day: str, price: float, polls: int = 3) -> Any:
    for minute in range(polls):
        bench.to(day, f"15:{minute:02}")
        bench.say("hyg", price, as_of_date=day)
        bench.say("spy", 500.0, prev_close=500.0, high_52w=505.0, as_of_date=day)
        row = bench.row(HYG)
    return row


def test_a_streak_counts_trading_dates_not_polls(bench: Bench) -> None:
    row = hyg(bench, DAY, 79.6)  # half a percent below its mean
    assert (row.band, row.sessions, row.eligibility) == ("red", 1, "streak_1_of_2")
    assert (row.as_of_date, round(row.depth, 3)) == (DAY, 0.5)
    row = hyg(bench, "2026-03-05", 79.6)
    assert (row.sessions, row.eligibility) == (2, "eligible")
    assert "red eligible, session 2" in row.why
    assert hyg(bench, "2026-03-06", 79.9).eligibility == "eligible"  # shallow, but latched


def test_a_shallow_red_waits_and_a_deep_one_does_not(bench: Bench) -> None:
    assert hyg(bench, DAY, 79.95).eligibility == "depth_below_min"
    assert hyg(bench, "2026-03-05", 79.95).eligibility == "depth_below_min"
    assert hyg(bench, "2026-03-06", 79.1).eligibility == "eligible"  # in its third session anyway
    other = Bench()
    other.history()
    assert hyg(other, DAY, 78.9).eligibility == "eligible"  # 1.4 % on the first day


def test_weekend_polls_bank_no_session(bench: Bench) -> None:
    """L5."""
    friday = hyg(bench, "2026-03-06", 79.6)
    assert (friday.sessions, friday.eligibility) == (1, "streak_1_of_2")
    for day in ("2026-03-07", "2026-03-08"):
        for clock in ("10:00", "12:00", "15:00"):
            bench.to(day, clock)
            bench.say("hyg", 79.6, as_of_date=day)
            bench.say("spy", 500.0, prev_close=500.0, high_52w=505.0, as_of_date=day)
            row = bench.row(HYG)
            assert (row.sessions, row.freshness_class, row.eligibility) == (1, "not_due", "data_not_due")
    regime = bench.regime()
    assert regime.closed
    assert regime.lifecycle.confirmed_by == []
    assert hyg(bench, "2026-03-09", 79.6).sessions == 2


def test_a_red_first_seen_on_a_closed_date_has_its_first_session_on_the_next(bench: Bench) -> None:
    assert hyg(bench, "2026-03-06", 80.5).band == "green"
    assert (hyg(bench, "2026-03-07", 79.6).sessions, hyg(bench, "2026-03-07", 79.6).eligibility) == (1, "data_not_due")
    monday = hyg(bench, "2026-03-09", 79.6)
    assert (monday.sessions, monday.eligibility) == (1, "streak_1_of_2")
    assert hyg(bench, "2026-03-10", 79.6).sessions == 2


def test_leaving_red_takes_more_than_the_edge(bench: Bench) -> None:
    bench.say("vix", 20.2, prev_close=15.0)
    bench.say("vix3m", 20.0)
    assert bench.row("vix_term_structure").band == "red"
    for vix, band in ((19.7, "red"), (19.6, "red"), (19.59, "yellow"), (19.7, "yellow")):
        bench.say("vix", vix, prev_close=15.0)
        row = bench.row("vix_term_structure")
        assert row.band == band, vix
    assert row.sessions == 1


def test_hyg_stays_red_when_only_spy_leaves_its_high(bench: Bench) -> None:
    assert hyg(bench, DAY, 79.6).band == "red"
    bench.say("spy", 475.0, prev_close=500.0, high_52w=500.0, as_of_date=DAY)
    row = bench.row(HYG)
    assert row.band == "red"
    assert "measured yellow, but it has not left red yet" in row.why
    bench.say("hyg", 80.0, as_of_date=DAY)
    assert bench.row(HYG).band == "green"


@pytest.mark.parametrize(
    ("name", "stays", "leaves"),
    [
        ("vol_of_vol", {"last": 105.0}, {"last": 104.99}),
        ("credit_spreads", {"hy_oas": 5.24, "hy_oas_20d_change": 0.85}, {"hy_oas": 5.24, "hy_oas_20d_change": 0.84}),
        ("credit_spreads", {"hy_oas": 5.25, "hy_oas_20d_change": 0.0}, {"hy_oas": 5.2499, "hy_oas_20d_change": 0.0}),
        ("credit_spreads", {"hy_oas": 3.0}, {"hy_oas": 3.0, "hy_oas_20d_change": 0.0}),  # a change that is not known does not clear
        ("funding_stress", {"cp_3m_rate": 1.65, "tbill_3m_rate": 1.0}, {"cp_3m_rate": 1.64, "tbill_3m_rate": 1.0}),
        ("usd_jpy", {"last": 98.5, "close_7d_ago": 100.0}, {"last": 98.51, "close_7d_ago": 100.0}),
        ("gamma_zero", {"gap_pct": 0.5}, {"gap_pct": 0.51}),
        ("gamma_zero", {"gamma_sign": -1.0}, {"gamma_sign": 1.0}),
        ("breadth", {"pct_above_50dma": 44.99}, {"pct_above_50dma": 45.0}),
    ],
)
def test_exits(name: str, stays: dict[str, float], leaves: dict[str, float]) -> None:
    memory = {"band": "red", "date": DAY, "sessions": 1, "counted": DAY, "latched": True}
    for values, band in ((stays, "red"), (leaves, None)):
        row = rebanded(from_snapshot({name: {"status": "ok", "freshness_class": "fresh"} | values}), GUARDED).rows[name]
        if row.values.get("gap_pct") is None and name == "breadth":
            row = builder._with(row, values=values)
        served, kept = builder.gated(name, row, GUARDED, memory, DAY, at(DAY))
        assert (served.band == "red") == (band == "red")
        assert kept is not None
        assert kept["latched"] == (band == "red")


def test_an_outage_holds_the_band_and_confirms_nothing(bench: Bench) -> None:
    row = hyg(bench, DAY, 78.0)
    assert (row.band, row.eligibility) == ("red", "eligible")
    bench.say("hyg", status="error")
    row = bench.row(HYG)
    assert (row.band, row.band_held, row.held_date, row.status, row.eligibility) == ("red", True, DAY, "error", "data_overdue")
    assert row.sessions == 1
    regime = bench.regime()
    assert regime.lifecycle.confirmed_by == []
    assert [w.code for w in regime.warning_details] == ["band_held"]
    assert next(h.status for h in regime.source_health if h.source == "credit") == "partial"
    bench.say("hyg", 79.97, as_of_date=DAY)  # back, and shallow: the latch was kept
    assert (bench.row(HYG).eligibility, bench.row(HYG).band_held) == ("eligible", False)


def test_the_default_profile_holds_and_gates_nothing() -> None:
    bench = Bench(POLICIES)
    bench.history()
    bench.quiet()
    assert hyg(bench, DAY, 79.6).band == "red"
    bench.say("hyg", status="error")
    row = bench.row(HYG, "canary-default")
    assert (row.band, row.band_held, row.freshness_class, row.eligibility, row.sessions, row.depth) == (None, False, None, None, None, None)
    assert not any(key.startswith("row|canary-default") for key in bench.lane.docs.docs)


def test_a_source_that_speaks_again_is_back_even_with_the_old_value(bench: Bench) -> None:
    close = {"as_of_ns": at("2026-03-03", "16:00"), "as_of_date": "2026-03-03", "close": True}
    bench.say("vvix", status="unavailable", as_of_ns=None)
    assert bench.row("vol_of_vol").status == "unavailable"
    bench.minutes(1)
    bench.say("vvix", 85.0, **close)
    assert (bench.row("vol_of_vol").status, bench.row("vol_of_vol").band_held) == ("ok", False)
    bench.minutes(1)
    bench.say("vvix", status="error")
    bench.say("vvix", 86.0, ts_ns=bench.now_ns - NS, **close)  # sent before the error
    assert bench.row("vol_of_vol").status == "error"
    bench.say("vvix", 86.0, **close)
    assert (bench.row("vol_of_vol").status, bench.row("vol_of_vol").values["last"]) == ("ok", 86.0)
    bench.say("vvix", status="error", ts_ns=bench.now_ns - 10 * NS)  # sent before it
    assert bench.row("vol_of_vol").status == "ok"
    assert bench.counts()["late"] == 1


def test_other_levels_forget_what_was_judged_by_the_old(bench: Bench) -> None:
    assert hyg(bench, DAY, 78.0).eligibility == "eligible"
    gate = GUARDED.policy.gates.hyg_spy_divergence.model_copy(update={"fast_depth": 3})
    gates = GUARDED.policy.gates.model_copy(update={"hyg_spy_divergence": gate})
    bench.policies = {
        "canary-guarded": GUARDED.model_copy(update={"policy": GUARDED.policy.model_copy(update={"gates": gates}), "version": "2"})
    }
    assert bench.row(HYG).eligibility == "streak_1_of_2"


def test_a_replay_of_snapshots_remembers_like_the_builder() -> None:
    memory: dict[str, Any] = {}
    found = []
    for day, price in (("2026-03-03", 79.6), ("2026-03-04", 79.6), ("2026-03-05", 79.99), ("2026-03-06", 81.0)):
        values = {"hyg_price": price, "hyg_50dma": 80.0, "spy_price": 500.0, "spy_52w_high": 505.0}
        served = replayed(rebanded(from_snapshot({HYG: values}), GUARDED), GUARDED, memory, day, at(day))
        found.append((served.rows[HYG].band, served.rows[HYG].sessions, served.rows[HYG].eligibility))
    assert found == [("red", 1, "streak_1_of_2"), ("red", 2, "eligible"), ("red", 3, "eligible"), ("green", 1, None)]


# --- the lane -------------------------------------------------------------------------------------------------------------------


def test_observations_that_cannot_be_used_are_dead_letters(bench: Bench) -> None:
    before = bench.counts()["received"]
    bad = [
        b"",
        b"{",
        bench.message({"indicator": "vix", "source": "t"}),
        bench.message({"indicator": "vix", "source": "t", "value": -1.0}),
        bench.message({"indicator": "vix", "source": "t", "value": 15.0, "prev_close": 0.0}),
        bench.message({"indicator": "vix", "source": "t", "value": 15.0, "open": True}),
        bench.message({"indicator": "spy_options", "source": "t", "value": 15.0}),
        bench.message({"indicator": "session", "source": "t", "open": True}),
        bench.message({"indicator": "session", "source": "t", "open": True, "as_of_date": "2026-13-01"}),
        bench.message({"indicator": "vix", "source": "t", "value": 15.0, "as_of_ns": bench.now_ns + MINUTE_NS + 1}),
        bench.message({"indicator": "vix", "source": "t", "value": 15.0, "as_of_date": "2026-02-30"}),
    ]
    bench.feed(*bad)
    bench.tick()
    assert [letter["reason"] for letter in bench.out[DEAD_LETTERS]] == [
        "json_malformed", "json_malformed", "field_missing", "field_invalid", "field_invalid", "field_invalid", "field_invalid", "field_missing",
        "field_invalid", "event_ts_future", "field_invalid",
    ]  # fmt: skip
    assert base64.b64decode(bench.out[DEAD_LETTERS][3]["original"]) == bad[3]
    assert bench.out[DEAD_LETTERS][3]["source"]["offset"] == before + 3
    counts = bench.counts()
    assert (counts["dlq"], counts["dlq_field_invalid"], counts["received"]) == (11, 6, before + 11)
    assert bench.regime().rows[0].values["vix"] == 15.0


def test_old_observations_are_counted_and_change_nothing_but_their_date(bench: Bench) -> None:
    bench.say("vix", 99.0, as_of_ns=bench.now_ns - NS)
    bench.say("hyg", 75.0, as_of_ns=at("2026-03-02", "16:00"), as_of_date="2026-03-02", close=True)
    assert (bench.counts()["late"], bench.row("vix_term_structure").values["vix"]) == (2, 15.0)
    assert bench.row(HYG).values["hyg_50dma"] == 80.0
    fresh = Bench()
    fresh.say("hyg", 80.0, close=True, as_of_date=DAY)
    fresh.say("hyg", 79.0, close=True, as_of_ns=at("2026-03-03", "16:00"), as_of_date="2026-03-03")
    assert fresh.counts()["late"] == 0
    assert [day for day, _ in fresh.lane.builder._series("hyg", None)] == ["2026-03-03", DAY]


def test_others_are_ignored_and_repeats_are_duplicates(bench: Bench) -> None:
    bench.say("gold", 2000.0)
    message = bench.say("vix", 15.5, prev_close=15.0)
    bench.feed(message)
    bench.say("session", open=True, as_of_date=DAY)
    bench.say("session", open=True, as_of_date=DAY)
    counts = bench.counts()
    assert (counts["ignored"], counts["duplicate"], counts["balance_mismatch"]) == (1, 2, 0)


def test_a_dashboard_goes_out_on_change_and_with_the_heartbeat() -> None:
    bench = Bench(POLICIES)
    bench.history()
    bench.quiet()
    bench.tick()
    assert len(bench.out[REGIMES]) == 3
    bench.tick(1)
    bench.say("vix", 15.01, prev_close=15.0, tick=True)  # nothing that matters
    assert len(bench.out[REGIMES]) == 3
    bench.say("spy", 492.4, prev_close=500.0, high_52w=520.0, as_of_date=DAY, tick=True)  # −1.52 %
    assert len(bench.out[REGIMES]) == 6
    assert bench.out[REGIMES][-1]["lifecycle"]["stage"] == "early_warning"
    bench.tick(59.9)
    assert len(bench.out[REGIMES]) == 6
    bench.tick(0.2)
    assert len(bench.out[REGIMES]) == 9
    assert [key for key, _ in bench.values].count(REGIMES) == 9
    first = Regime.model_validate(bench.out[REGIMES][0] | {"x": 1})
    assert first.lifecycle.fingerprint is not None
    assert first.lifecycle.fingerprint.version == "lifecycle-fp-v1"


def scripted(bench: Bench, seed: int, restart_at: set[int]) -> None:
    """Let five trading days and a weekend pass, with outages, repeats and late values; restart before the given steps."""
    noise = random.Random(seed)
    step = 0
    for day in ("2026-03-05", "2026-03-06", "2026-03-07", "2026-03-09", "2026-03-10", "2026-03-11"):
        for hour in range(8, 20, 2):
            bench.to(day, f"{hour:02}:{noise.randrange(60):02}")
            for name, level in (("vix", 19.0), ("vix3m", 20.0), ("hyg", 79.5), ("spy", 495.0), ("usd_jpy", 148.0)):
                draw = noise.random()
                if draw < 0.1:
                    bench.say(name, status="error")
                elif draw < 0.8:
                    late = noise.choice([0, 0, 0, 300 * NS])
                    bench.say(name, round(level * noise.uniform(0.95, 1.05), 3), as_of_ns=bench.now_ns - late, as_of_date=day)
            if noise.random() < 0.3:
                bench.say("spy_options", chain=chain(500.0, noise.uniform(470.0, 530.0)))
            if hour == 18:
                stamp = {"as_of_ns": at(day, "16:00"), "as_of_date": day, "close": True}
                for name, low, high in (("vvix", 80.0, 125.0), ("hy_oas", 3.0, 6.0), ("cp_3m", 4.6, 5.5), ("tbill_3m", 4.5, 4.6)):
                    bench.say(name, round(noise.uniform(low, high), 2), **stamp)
                bench.say("sp500_closes", closes=[{"symbol": f"S{i}", "close": noise.uniform(90, 110)} for i in range(1, 51)], **stamp)
            if noise.random() < 0.2:
                bench.feed(b"{}")
            bench.tick(noise.random())
            bench.tick(61)
            step += 1
            if step in restart_at:
                bench.restart()


@pytest.mark.parametrize("seed", [1, 2])
def test_a_restart_changes_nothing(seed: int) -> None:
    calm, restless = Bench(POLICIES), Bench(POLICIES)
    for bench, restarts in ((calm, set[int]()), (restless, {1, 2, 5, 9, 10, 17, 25, 33})):
        bench.history()
        bench.quiet()
        bench.tick()
        scripted(bench, seed, restarts)
    assert restless.values == calm.values
    assert restless.lane.docs.docs == calm.lane.docs.docs
    assert len(calm.out[REGIMES]) > 100
    stages = {regime["lifecycle"]["stage"] for regime in calm.out[REGIMES]}
    assert {"early_warning", "confirmed_stress"} <= stages


def test_what_was_not_committed_is_made_again_the_same() -> None:
    """A lane that dies after a tick repeats it from the last commit: same bytes, so same message ids."""
    bench = Bench()
    bench.history()
    bench.tick()
    log = list(bench.log)
    message = bench.say("vix", 30.0, prev_close=15.0)
    offset = bench._offset
    bench.tick()
    first = [value for topic, value in bench.values if topic == REGIMES][-1]
    bench.lane = RegimeLogic(0, 1, bench.policies)
    bench.lane.restore(log)
    bench.log, bench.values, bench._offset = log, [], offset - 1
    bench.feed(message)
    bench.tick()
    assert [value for topic, value in bench.values if topic == REGIMES] == [first]


def test_the_log_stays_short() -> None:
    bench = Bench()
    bench.history()
    for i in range(700):
        bench.say("vix", 15.0 + i % 7, tick=True)
        bench.now_ns += NS
    first = bench.lane.obsolete_before() or 0
    needed = sum(len(value) for _, value in bench.log[first:])
    assert first > 0
    assert needed < 6 * len(json.dumps(bench.lane.docs.docs)) + 600_000
    bench.restart()


def test_a_foreign_changelog_is_refused() -> None:
    lane = RegimeLogic(0, 1, {"canary-guarded": GUARDED})
    for value in (
        b"HGCL",
        b'{"format":1,"kind":"monitor","seq":1,"copy":true}',
        b'{"format":9,"kind":"regime","seq":1,"copy":true}',
        b"[]",
    ):
        with pytest.raises(StateMismatch):
            lane.restore([(0, value)])
    with pytest.raises(ValueError, match="at least one policy"):
        RegimeLogic(0, 1, {})


def test_asking_twice_changes_nothing(bench: Bench) -> None:
    hyg(bench, DAY, 79.6)
    first = bench.regime()
    docs = dict(bench.lane.docs.docs)
    assert bench.regime() == first
    assert bench.lane.docs.docs == docs


def test_the_age_of_daily_series(bench: Bench) -> None:
    bench.now_ns = at("2026-03-03", "16:00") + 7 * DAY_NS
    assert bench.row("funding_stress").status == "ok"
    bench.now_ns += 1
    assert bench.row("funding_stress").status == "stale"
