"""The canary over accounts: unit vectors of the rules, every threshold exactly and one step either side, keys, health, and what a result may never say."""

from __future__ import annotations

import copy
import json
import math
import random
from typing import Any, get_args

import numpy as np
import pytest
from pydantic import BaseModel, ValidationError

from operators import canary_kernel as kernel
from operators.canary import KeyMemo, Scene, evaluate, evaluate_rows, facts_of, keys, max_age_s, render, verdicts
from operators.canary_render import describe, sanitised
from operators.canonical import EMPTY_KEY, key_of, project_canary, project_lifecycle
from operators.clusters import from_snapshot, market_of
from schemas import canary as contracts
from schemas.canary import DENIED, CanaryResult
from schemas.policy import CLUSTERS, ROWS, Confirmation, RiskPolicy, Term, load_policies
from state.accounts import FACTS

POLICIES = load_policies()
DEFAULT, GUARDED = (POLICIES[f"canary-{name}"] for name in ("default", "guarded"))
BY_SCORE = Confirmation(
    watch=2,
    act=4,
    urgent=8,
    terms=(
        Term(id="vix_term", feature="vix_term", side="above", levels=(0.92, 1.0), points=(1, 3)),
        Term(id="spy_day", feature="spy_change_pct", side="below", levels=(-1.5, -2.5), points=(1, 3)),
    ),
)
SCORED = DEFAULT.model_copy(update={"policy": DEFAULT.policy.model_copy(update={"confirmation": BY_SCORE})})
NS = 1_000_000_000
NOW = 1_700_150_400 * NS  # Thursday 2023-11-16, 11:00 in New York
SATURDAY = NOW + 2 * 86_400 * NS
TIME = NOW - 10 * NS
ACCOUNT = {
    "as_of_ns": TIME, "base_currency": "USD", "net_liquidation": 100_000, "excess_liquidity": 50_000, "cushion": 0.50,
    "gross_position_value": 60_000,
}  # fmt: skip
NOTHING = {"as_of_ns": TIME}
"""Base of the unit vectors: an account, no positions."""
GOLDEN_CANARY = "sha256:a14520b631004d57062da7ce878df6f1dbcd6488980011ba173d9a993edf695f"
GOLDEN_LIFECYCLE = "sha256:93301243a63966e6fe2a7817c27a3f000fe98b371342524cbcd572ec17f8579a"


def regime(spy: float | None = None, vix: float | None = None, **rows: Any) -> dict[str, Any]:
    """Return a dashboard with all rows green and ok but those given: a band, or fields."""
    snapshot: dict[str, Any] = {"as_of_ns": TIME, "session_date": "2023-11-16"}
    for name in ROWS:
        change = rows.get(name, {})
        fields = {"band": change} if isinstance(change, str) else dict(change)
        snapshot[name] = {"band": "green", "status": "ok", "freshness_class": "fresh", "as_of_ns": TIME, "sessions": 5, **fields}
    snapshot["hyg_spy_divergence"]["spy_change_pct"] = spy
    snapshot["vix_term_structure"]["vix_change_pct"] = vix
    return snapshot


def eligible(**more: Any) -> dict[str, Any]:
    return {"band": "red", "eligibility": "eligible", **more}


COMPUTING = {"band": None, "status": "computing"}
R2 = {"vix_term_structure": "red", "vol_of_vol": "red", "hyg_spy_divergence": "red", "credit_spreads": "red", "gamma_zero": COMPUTING,
      "breadth": COMPUTING}  # fmt: skip


def names(*entries: tuple[str, float | None, float | None]) -> list[dict[str, Any]]:
    """Return exposures of (name, value in % of 100 000, dollar delta)."""
    return [
        {
            "underlying": name,
            "market_value_pct_nlv": pct,
            "market_value_base": None if pct is None else pct * 1_000,
            "dollar_delta_base": delta,
        }
        for name, pct, delta in entries
    ]


def book(*entries: tuple[str, float | None, float | None], delta: float | None = None, **more: Any) -> dict[str, Any]:
    net = sum(d or 0 for _, _, d in entries) if delta is None else delta
    stocks = [{"symbol": name} for name, _, _ in entries]
    return {
        "as_of_ns": TIME,
        "stocks": stocks,
        "options": [],
        "portfolio": {"dollar_delta_base": net, "exposure_base": names(*entries), **more},
    }


def judge(
    market: dict[str, Any] | None, positions: dict[str, Any] | None = NOTHING, policy: RiskPolicy = DEFAULT, now: int = NOW, **account: Any
) -> CanaryResult:
    return evaluate({**ACCOUNT, **account}, positions, market, policy, now)


def headline(result: CanaryResult) -> tuple[str, str, str]:
    return result.direction, result.severity, result.lifecycle.stage


def planner(result: CanaryResult) -> tuple[str, str]:
    return result.planner_mode_hint, result.planner_readiness


def signal(result: CanaryResult, name: str) -> contracts.Signal:
    found = [s for s in result.signals if s.id == name]
    assert len(found) == 1, (name, [s.id for s in result.signals])
    return found[0]


def ids(result: CanaryResult) -> list[str]:
    return [s.id for s in result.signals]


def row(result: CanaryResult, title: str) -> tuple[str, str]:
    found = next(r for r in result.rows if r.title == title)
    return found.direction, found.severity


def calm(**rows: Any) -> dict[str, Any]:
    return regime(0.1, -1, **rows)


# --- unit vectors, canary-default -------------------------------------------------------------------------------------------------


def test_a_null_tape_is_a_question_about_data_and_a_quiet_one_is_quiet() -> None:
    unknown = judge(regime())
    assert headline(unknown) == ("data_quality", "watch", "data_quality")
    assert planner(unknown) == ("confirm_data", "blocked")
    assert row(unknown, "Index tape shock") == ("data_quality", "watch")
    quiet = judge(calm())
    assert headline(quiet) == ("", "observe", "quiet")
    assert planner(quiet) == ("none", "none")
    assert quiet.portfolio_posture == "neutral"


def test_data_that_are_missing_or_stale() -> None:
    nothing = {name: {"band": None, "status": "unavailable"} for name in ROWS}
    cold = judge(regime(**{**nothing, "gamma_zero": COMPUTING, "breadth": COMPUTING}))
    stale = judge(calm(vix_term_structure={"status": "stale"}))
    for result in (cold, stale):
        assert headline(result) == ("data_quality", "watch", "data_quality")
        assert planner(result) == ("confirm_data", "blocked")
        assert result.data_confidence == result.confidence == "medium-low"
    assert cold.market.ranked_clusters == 0
    assert stale.market.stale_clusters == ["vol"]
    assert ids(stale) == ["market_data_stale"]
    assert signal(stale, "market_data_stale").blocked_by == ["vol"]


def test_two_reds_with_weak_data_defend_but_blocked() -> None:
    result = judge(
        regime(**R2), book(("SPY", 60, 95_000), greeks_coverage=2, greeks_total=2), gross_position_value=130_000
    )  # fmt: skip
    assert headline(result) == ("defensive", "act", "confirmed_stress")
    assert planner(result) == ("defend", "blocked")
    gross = judge(regime(**R2), gross_position_value=110_000)
    assert (signal(gross, "gross_exposure_high").severity, signal(gross, "gross_exposure_high").threshold) == ("act", 100)
    pair = judge(regime(**R2), book(("AAPL", None, 90_000), ("MSFT", None, -90_000)))
    assert headline(pair) == ("defensive", "urgent", "forced_defense")
    assert pair.portfolio.gross_delta_pct_nlv == 180
    assert pair.portfolio.net_delta_pct_nlv == 0


@pytest.mark.parametrize(
    "account",
    [{"cushion": 0.07}, {"cushion": 0, "excess_liquidity": 0, "maintenance_margin": 80_000}, {"look_ahead_excess_liquidity": 8_000}],
)
def test_immediate_danger_outranks_bad_data(account: dict[str, Any]) -> None:
    nothing = {name: {"band": None, "status": "unavailable"} for name in ROWS}
    for market in (regime(**{**nothing, "usd_jpy": {}}), regime()):
        result = judge(market, **account)
        assert headline(result) == ("defensive", "urgent", "forced_defense")
        assert planner(result) == ("defend", "ready")


def test_a_margin_watch_has_no_target_and_an_act_has() -> None:
    watch = judge(calm(), cushion=0.30)
    assert headline(watch) == ("defensive", "watch", "early_warning")
    found = signal(watch, "margin_cushion_low")
    assert (found.severity, found.threshold, found.target, found.unit, found.confidence) == ("watch", 35, None, "pct_nlv", "high")
    act = judge(calm(), cushion=0.15)
    assert (signal(act, "margin_cushion_low").threshold, signal(act, "margin_cushion_low").target) == (20, 25)
    assert headline(act) == ("defensive", "act", "confirmed_stress")


def test_early_stress_is_filtered() -> None:
    result = judge(calm(vix_term_structure="red", vol_of_vol="red", breadth="yellow"))
    assert headline(result) == ("defensive", "watch", "early_warning")
    assert planner(result) == ("stage", "prestage")
    assert row(result, "Early stress filtered") == ("defensive", "watch")
    assert signal(result, "regime_stress_early").threshold == 1


def test_the_tape_alone_confirms_nothing() -> None:
    fall, spike = judge(regime(-2.7, 2)), judge(regime(-0.2, 18))
    for result in (fall, spike):
        assert headline(result)[:2] == ("defensive", "watch")
    found = signal(fall, "market_selloff_violent")
    assert (found.severity, found.threshold, found.blocked_by, found.confidence_impact) == (
        "watch", -2.5, ["confirmation"], "needs_independent_confirmation",
    )  # fmt: skip
    hard = signal(judge(regime(-0.2, 25)), "vol_spike_confirmed")
    assert (hard.severity, hard.threshold, hard.blocked_by) == ("watch", 20, ["confirmation"])


def test_a_confirmed_fall() -> None:
    result = judge(regime(-2.6, 12, gamma_zero="red"))
    assert headline(result) == ("defensive", "act", "confirmed_stress")
    assert planner(result) == ("defend", "ready")
    found = signal(result, "market_selloff_violent")
    assert (found.severity, found.blocked_by) == ("act", [])
    assert signal(result, "gamma_red").confidence_impact == "weaker_if_gamma_degraded"


def test_carry_unwind() -> None:
    result = judge(regime(-2, 16, usd_jpy="red", vix_term_structure="yellow", breadth="yellow"))
    assert headline(result)[:2] == ("defensive", "act")
    assert planner(result) == ("defend", "ready")
    assert signal(result, "fx_carry_unwind").subject == "fx"
    assert row(result, "Fast carry unwind") == ("defensive", "act")


def test_a_rally_deploys_and_with_thin_margin_is_mixed() -> None:
    rally = judge(regime(3, -25))
    assert headline(rally) == ("constructive", "act", "opportunity")
    assert planner(rally) == ("deploy", "ready")
    mixed = judge(regime(3, -25), cushion=0.30)
    assert headline(mixed) == ("mixed", "watch", "early_warning")
    assert planner(mixed) == ("stage", "prestage")
    assert mixed.portfolio_posture == "threat_opportunity"
    weak = judge(regime(3, -25, vol_of_vol={"status": "stale"}))
    assert (headline(weak), planner(weak)) == (("constructive", "act", "stabilization"), ("none", "none"))


def test_one_large_name() -> None:
    delta = judge(calm(), book(("NVDA", 20, 45_000)))
    assert headline(delta)[:2] == ("rebalance", "watch")
    assert planner(delta) == ("rebalance", "ready")
    assert delta.signal_confidence == "high"
    both = judge(calm(), book(("NVDA", 40, 140_000)))
    assert ids(both) == ["net_delta_high", "single_name_exposure_high", "single_name_delta_high"]
    found = signal(both, "single_name_exposure_high")
    assert (found.subject, found.observed, found.threshold, found.target, found.direction) == ("NVDA", 40, 35, 25, "rebalance")
    short = judge(calm(), book(("NVDA", -40, -10_000)))
    assert signal(short, "single_name_exposure_high").observed == 40
    assert short.portfolio.largest_exposure_pct_nlv == -40


def test_gains_protect_and_losses_warn() -> None:
    gain, loss = judge(calm(), daily_pnl=12_000), judge(calm(), daily_pnl=-12_000)
    assert headline(gain)[:2] == headline(loss)[:2] == ("defensive", "watch")
    found = signal(gain, "portfolio_pnl_shock")
    assert (found.severity, found.threshold, found.confidence_impact) == ("watch", 10, "protect_gains_not_deployable")
    assert signal(loss, "portfolio_pnl_shock").severity == "act"
    assert row(loss, "Portfolio P&L shock") == ("defensive", "act")
    assert signal(judge(calm(), daily_pnl=6_000), "portfolio_pnl_shock").confidence_impact is None
    assert judge(calm(), daily_pnl=0).portfolio.daily_pnl_pct_nlv == 0


def test_weak_clusters_are_named() -> None:
    degraded = {"band": "red", "envelope": {"status": "ready", "result": {"summary": {"confidence": "degraded"}}}}
    result = judge(calm(gamma_zero=degraded))
    assert (result.market.degraded_clusters, result.market.ambiguous_clusters) == (["gamma"], [])
    assert result.data_confidence == "medium-low"
    broken = {"band": None, "status": "error"}
    result = judge(calm(credit_spreads=broken, funding_stress=broken))
    assert (result.market.ambiguous_clusters, result.market.partial_clusters) == (["funding"], ["credit"])
    found = signal(result, "risk_data_degraded")
    assert (found.blocked_by, found.observed, found.confidence) == (["credit", "funding"], 2, "medium-low")
    assert row(result, "Ambiguity filter") == ("data_quality", "watch")


def test_greeks_and_short_gamma() -> None:
    options = {"options": [{"symbol": "SPY"}] * 10}
    weak = judge(calm(), {**book(("SPY", 10, 10_000), greeks_coverage=7, greeks_total=10), **options})
    found = signal(weak, "option_greeks_degraded")
    assert (found.observed, found.threshold, found.confidence_impact) == (70, 80, "blocks_option_planning")
    assert row(weak, "Options convexity") == ("data_quality", "watch")
    assert weak.portfolio.option_greeks == "7/10 legs"
    reds = dict.fromkeys(("vix_term_structure", "credit_spreads"), "red")
    short = judge(calm(**reds), {**book(("SPY", 10, 10_000), greeks_coverage=10, greeks_total=10, gamma=-3.5), **options})
    assert (signal(short, "short_convexity_high").severity, signal(short, "short_convexity_high").observed) == ("act", -3.5)
    assert row(short, "Options convexity") == ("defensive", "act")
    assert "short_convexity_high" not in ids(judge(calm(), {**book(greeks_coverage=1, greeks_total=1, gamma=-1.0), **options}))


def test_warnings_about_data_are_signals_and_never_carry_upstream_text() -> None:
    market = calm()
    market["warning_details"] = [
        {
            "code": "gamma_old",
            "scope": "gamma",
            "severity": "Data_quality",
            "message": "GET https://x/y timed out",
            "impact": "gamma is old",
        },
        {"code": "c", "scope": "", "severity": "data"},
        {"code": "d", "scope": "fx", "severity": "warning", "message": "fine"},
    ]
    result = judge(market)
    found = signal(result, "risk_data_degraded")
    assert (found.subject, found.confidence_impact, found.evidence) == ("gamma", "source_warning", "gamma: gamma is old")
    assert result.warnings == ["gamma: gamma is old", "c", "fx: fine"]


@pytest.mark.parametrize(
    ("warning", "expected"),
    [
        ({"message": "m", "scope": "s"}, "s: m"), ({"message": "see http://a", "impact": "i"}, "i"), ({"message": "HTTP 503", "action": "a"}, "a"),
        ({"message": "context deadline exceeded", "code": "c"}, "c"), ({"message": "read timeout", "impact": "timed out", "code": "c9"}, "c9"),
        ({"message": "www.example.org down"}, "source unavailable"), ({}, ""), ({"message": "time of day"}, "time of day"),
        ({"message": "ftp://a", "code": "HTTP_500"}, "HTTP_500"),
    ],
)  # fmt: skip
def test_upstream_text_is_replaced(warning: dict[str, str], expected: str) -> None:
    assert sanitised(warning) == expected or (expected == "HTTP_500" and sanitised(warning) == "HTTP_500: source unavailable")
    assert "http:" not in sanitised(warning)


# --- unit vectors, canary-guarded -------------------------------------------------------------------------------------------------


def test_own_margin_never_confirms_the_market() -> None:
    market = regime(-2.7, 2)
    guarded = judge(market, policy=GUARDED, cushion=0.15)
    assert headline(guarded) == ("defensive", "act", "forced_defense")
    assert signal(guarded, "market_selloff_violent").blocked_by == ["confirmation"]
    assert guarded.margin_alert is not None
    assert guarded.margin_alert.model_dump() == {"severity": "act", "metric": "cushion", "threshold": 20, "state": "firing"}
    default = judge(market, cushion=0.15)
    assert headline(default) == ("defensive", "act", "confirmed_stress")
    assert signal(default, "market_selloff_violent").severity == "act"
    assert default.margin_alert is None
    low = judge(calm(), policy=GUARDED, cushion=0.07)
    assert headline(low) == ("defensive", "urgent", "forced_defense")
    assert low.margin_alert is not None
    assert low.margin_alert.severity == "urgent"


def governed(spy: float, vix: float = -1) -> dict[str, Any]:
    return regime(
        spy, vix,
        funding_stress=eligible(depth=80.0, sessions=2, spread_bps=80), breadth=eligible(depth=5.0, sessions=2),
        vix_term_structure={"vix": 17.0, "vix3m": 20.0, "ratio": 0.85},
    )  # fmt: skip


def test_the_governor_holds_the_canary_at_watch_until_the_tape_signs() -> None:
    held = judge(governed(0.2), policy=GUARDED, gross_position_value=110_000)
    assert signal(held, "regime_stress_confirmed").severity == "watch"
    assert row(held, "Confirmed market stress") == ("defensive", "watch")
    assert "gross_exposure_high" not in ids(held)
    assert headline(held)[:2] == ("defensive", "watch")
    assert [(g.action, g.reason) for g in held.lifecycle.governors] == [("cap_severity", "pending_backtest_no_tape_cosign")]
    signed = judge(governed(-1.6), policy=GUARDED, gross_position_value=110_000)
    assert (signal(signed, "gross_exposure_high").severity, signal(signed, "regime_stress_confirmed").severity) == ("act", "act")
    assert headline(signed)[:2] == ("defensive", "act")
    assert judge(governed(0.2), gross_position_value=110_000).severity == "act"


def test_short_gamma_waits_for_the_governor() -> None:
    positions = {**book(("SPY", 10, 10_000), greeks_coverage=1, greeks_total=1, gamma=-1.0), "options": [{"symbol": "SPY"}]}
    assert "short_convexity_high" not in ids(judge(governed(0.2), positions, GUARDED))
    assert "short_convexity_high" in ids(judge(governed(-1.6), positions, GUARDED))


def test_one_eligible_red_and_two_that_only_warn() -> None:
    market = calm(
        hyg_spy_divergence={"band": "red", "depth": 0.07, "sessions": 1},
        gamma_zero={"band": "red", "depth": 9.0, "freshness_class": "stale"},
    )
    result = judge(market, policy=GUARDED)
    assert result.market.unconfirmed_red_cluster_names == ["credit", "gamma"]
    assert result.severity == "watch"
    assert result.lifecycle.confirmed_by == []


HELD = book(("SPY", 30, 30_000))


@pytest.mark.parametrize(
    ("account", "positions", "named", "title"),
    [
        (None, HELD, ["account"], "Immediate margin safety"),
        ({"net_liquidation": None}, HELD, ["net_liquidation"], "US equity/options exposure"),
        ({"net_liquidation": 0}, HELD, ["net_liquidation"], "Largest concentration"),
        ({"cushion": None, "excess_liquidity": None}, HELD, ["cushion"], "Immediate margin safety"),
        ({"gross_position_value": None}, HELD, ["gross_position_value"], "US equity/options exposure"),
        ({"daily_pnl": None}, HELD, ["daily_pnl"], "Portfolio P&L shock"),
        ({"as_of_ns": None}, HELD, ["account_as_of"], "Portfolio canary"),
        ({}, None, ["positions"], "Options convexity"),
        ({}, None, ["positions"], "Largest concentration"),
        ({}, {**HELD, "portfolio": None, "stocks": []}, ["portfolio"], "US equity/options exposure"),
        ({}, {**HELD, "as_of_ns": None}, ["positions_as_of"], "Portfolio canary"),
        ({}, {**HELD, "stocks": [{"symbol": "SPY"}, {"symbol": "XYZ"}]}, ["xyz"], "Largest concentration"),
        ({}, book(("SPY", 30, 30_000), ("B", None, 1), ("A", 1, None)), ["a", "b"], "US equity/options exposure"),
        ({}, book(*[(f"N{i}", None, None) for i in range(5)]), ["more_names", "n0", "n1", "n2"], "US equity/options exposure"),
        ({}, {**book(("SPY", 30, 30_000), greeks_coverage=0, greeks_total=0), "options": [{"symbol": "SPY"}]}, ["option_greeks"], "Options convexity"),
        ({}, {**book(("SPY", 30, 30_000), greeks_coverage=0, greeks_total=2), "options": [{"symbol": "SPY"}]}, ["option_greeks"], "Options convexity"),
    ],
)  # fmt: skip
def test_what_is_missing_is_never_quiet(
    account: dict[str, Any] | None, positions: dict[str, Any] | None, named: list[str], title: str
) -> None:
    snapshot = None if account is None else {**ACCOUNT, "daily_pnl": 0, **account}
    result = evaluate(snapshot, positions, calm(), GUARDED, NOW)
    assert headline(result) == ("data_quality", "watch", "data_quality")
    assert planner(result) == ("confirm_data", "blocked")
    assert result.confidence == "medium-low"
    assert sorted(name.lower() for name in signal(result, "risk_data_degraded").blocked_by) == named
    assert row(result, title) == ("data_quality", "watch")
    complete = evaluate({**ACCOUNT, "daily_pnl": 0}, HELD, calm(), GUARDED, NOW)
    assert headline(complete) == ("", "observe", "quiet")


def test_missing_figures_fire_and_never_clear() -> None:
    positions = {**book(("NVDA", 60, 160_000), ("XYZ", None, None))}
    result = judge(calm(), positions, GUARDED, daily_pnl=0)
    assert row(result, "Largest concentration") == ("rebalance", "watch")
    assert row(result, "US equity/options exposure") == ("rebalance", "watch")
    assert signal(result, "risk_data_degraded").blocked_by == ["XYZ"]
    assert judge(regime(3, -25), positions, GUARDED, daily_pnl=0).planner_mode_hint != "deploy"


def test_a_daily_result_is_due_while_new_york_trades() -> None:
    for now, due in ((NOW, True), (NOW + 6 * 3_600 * NS, False), (SATURDAY, False)):
        late = {"as_of_ns": now}
        market = {**calm(), "as_of_ns": now}
        result = evaluate({**ACCOUNT, **late}, {**HELD, **late}, market, GUARDED, now)
        assert ("daily_pnl" in [name for s in result.signals for name in s.blocked_by]) == due
    closed = {**calm(), "closed": True}
    assert row(judge(closed, HELD, GUARDED), "Portfolio P&L shock") == ("", "observe")


def test_a_closed_date_has_no_tape() -> None:
    market = {**regime(-3, 25), "closed": True}
    guarded, default = judge(market, HELD, GUARDED), judge(market, HELD)
    assert {"market_selloff_violent", "vol_spike_confirmed"} & set(ids(guarded)) == set()
    assert row(guarded, "Index tape shock") == ("", "observe")
    assert guarded.market.spy_change_pct is None
    assert headline(guarded)[0] == ""
    assert {"market_selloff_violent", "vol_spike_confirmed"} <= set(ids(default))


def test_an_unobserved_cushion_is_said() -> None:
    result = judge(calm(), HELD, GUARDED, cushion=None, excess_liquidity=None)
    assert result.margin_alert is not None
    assert (result.margin_alert.state, result.margin_alert.severity) == ("unobserved", "observe")
    clear = judge(calm(), HELD, GUARDED).margin_alert
    assert clear is not None
    assert clear.state == "clear"
    ahead = judge(calm(), HELD, GUARDED, look_ahead_excess_liquidity=8_000).margin_alert
    assert ahead is not None
    assert (ahead.metric, ahead.severity, ahead.threshold) == ("lookahead_cushion", "urgent", 10)


def test_a_regime_never_seen_is_its_own_state() -> None:
    for policy in POLICIES.values():
        result = judge(None, HELD, policy, daily_pnl=0)
        assert headline(result) == ("data_quality", "watch", "data_quality")
        assert result.source_fingerprints.regime.key == EMPTY_KEY
        assert result.source_health[2].status == "unknown"
    assert "regime" in signal(judge(None, HELD, GUARDED, daily_pnl=0), "risk_data_degraded").blocked_by


# --- every threshold, exactly and one step either side ----------------------------------------------------------------------------


def toward(value: float, other: float) -> float:
    return float(np.nextafter(value, other))


def percent(**figures: Any) -> dict[str, Any]:
    """Return account figures for a net liquidation of 100, so that they are percents exactly."""
    return {"net_liquidation": 100, "cushion": None, "excess_liquidity": 60, "gross_position_value": 10, **figures}


@pytest.mark.parametrize("policy", [DEFAULT, GUARDED], ids=lambda p: p.profile)
@pytest.mark.parametrize(
    ("figure", "name"), [("excess_liquidity", "margin_cushion_low"), ("look_ahead_excess_liquidity", "lookahead_cushion_low")]
)
def test_margin_levels_fire_below(policy: RiskPolicy, figure: str, name: str) -> None:
    p = policy.policy
    for level, below, at in (
        (p.margin_watch_pct, "watch", None),
        (p.margin_act_pct, "act", "watch"),
        (p.margin_urgent_pct, "urgent", "act"),
    ):
        for value, expected in ((toward(level, 0), below), (level, at), (toward(level, 100), at)):
            result = judge(calm(), HELD, policy, **percent(**{figure: value, "daily_pnl": 0}))
            assert ([s.severity for s in result.signals if s.id == name] or [None])[0] == expected, value
            assert row(result, "Immediate margin safety")[1] == (expected or "observe")


STRESSED = {"vix_term_structure": eligible(), "vol_of_vol": eligible(), "credit_spreads": eligible(depth=7.0)}


@pytest.mark.parametrize("policy", [DEFAULT, GUARDED], ids=lambda p: p.profile)
@pytest.mark.parametrize("figure", ["gross_exposure", "net_delta", "gross_delta"])
def test_exposure_levels_fire_at(policy: RiskPolicy, figure: str) -> None:
    p = policy.policy

    def severity(value: float, market: dict[str, Any]) -> tuple[str, float | None]:
        entries = {"gross_exposure": [], "net_delta": [], "gross_delta": [("A", 1, value)]}[figure]
        positions = book(*entries, delta=value if figure == "net_delta" else 0)
        account = percent(daily_pnl=0, **({"gross_position_value": value} if figure == "gross_exposure" else {}))
        result = judge(market, positions, policy, **account)
        found = [s for s in result.signals if s.id == f"{figure}_high"]
        assert row(result, "US equity/options exposure")[1] == (found[0].severity if found else "observe")
        return (found[0].severity, found[0].threshold) if found else ("observe", None)

    stressed = regime(-1.6, 12, **STRESSED)
    watch, act, urgent = (getattr(p, f"{figure}_{name}_pct") for name in ("watch", "stress_act", "stress_urgent"))
    assert [severity(v, calm()) for v in (toward(watch, 0), watch, toward(watch, 999))] == [
        ("observe", None),
        ("watch", watch),
        ("watch", watch),
    ]
    assert [severity(v, stressed) for v in (toward(act, 0), act, toward(urgent, 0), urgent)] == [
        ("observe", None), ("act", act), ("act", act), ("urgent", urgent),
    ]  # fmt: skip


@pytest.mark.parametrize("policy", [DEFAULT, GUARDED], ids=lambda p: p.profile)
def test_single_name_levels_fire_at(policy: RiskPolicy) -> None:
    p = policy.policy
    for level, name, entry in (
        (p.single_name_exposure_watch_pct, "single_name_exposure_high", lambda v: ("A", v, 1)),
        (p.single_name_delta_watch_pct, "single_name_delta_high", lambda v: ("A", 1, v)),
    ):
        for value, fires in ((toward(level, 0), False), (level, True), (toward(level, 99), True)):
            for sign in (1, -1):
                result = judge(calm(), book(entry(sign * value), delta=0), policy, **percent(daily_pnl=0))
                assert (name in ids(result)) == fires
                assert row(result, "Largest concentration")[1] == ("watch" if fires else "observe")


def test_coverage_fires_below() -> None:
    level = int(DEFAULT.policy.option_greeks_min_coverage_pct)
    for have, fires in ((level - 1, True), (level, False), (level + 1, False)):
        positions = {**book(("A", 1, 1), greeks_coverage=have, greeks_total=100, gamma=1.0), "options": [{"symbol": "A"}] * 100}
        for policy in (DEFAULT, GUARDED):
            assert ("option_greeks_degraded" in ids(judge(calm(), positions, policy))) == fires


def test_daily_result_levels_fire_at() -> None:
    p = DEFAULT.policy
    for level, below, loss in ((p.daily_pnl_watch_pct, None, "watch"), (p.daily_pnl_act_pct, "watch", "act")):
        for value, down, up in ((toward(level, 0), below, below), (level, loss, "watch"), (toward(level, 99), loss, "watch")):
            for pnl, expected in ((-value, down), (value, up)):
                result = judge(calm(), **percent(daily_pnl=pnl))
                assert ([s.severity for s in result.signals if s.id == "portfolio_pnl_shock"] or [None])[0] == expected
                assert row(result, "Portfolio P&L shock")[1] == (expected or "observe")


@pytest.mark.parametrize(
    ("field", "name", "levels"),
    [
        ("spy", "market_selloff_violent", ("spy_drop_pct", "spy_hard_drop_pct", "spy_crash_pct")),
        ("spy", "market_rally_violent", ("spy_rally_pct", "spy_hard_rally_pct")),
        ("vix", "vol_spike_confirmed", ("vix_spike_pct", "vix_hard_spike_pct")),
        ("vix", "vol_crush_confirmed", ("vix_crush_pct", "vix_hard_crush_pct")),
    ],
)
@pytest.mark.parametrize("policy", [DEFAULT, GUARDED], ids=lambda p: p.profile)
def test_tape_levels_are_inclusive(policy: RiskPolicy, field: str, name: str, levels: tuple[str, ...]) -> None:
    before: float | None = None
    for number, level_name in enumerate(levels):
        level = float(getattr(policy.policy, level_name))
        # one red confirms, so that the hard levels act
        for value, expected in ((toward(level, 0), before), (level, level), (toward(level, level * 9), level)):
            tape = {"spy": 0.0, "vix": 0.0, field: value}
            result = judge(regime(**tape, funding_stress=eligible(depth=110.0)), policy=policy)
            found = [s for s in result.signals if s.id == name]
            assert ([s.threshold for s in found] or [None])[0] == expected
            assert all(s.severity == ("act" if expected != getattr(policy.policy, levels[0]) else "watch") for s in found)
        before = level
        assert number < len(levels)


def test_levels_come_from_the_policy() -> None:
    """Halving or doubling a level moves where it fires: nothing is written into the code."""
    base = DEFAULT.model_dump(mode="json", by_alias=True)

    def changed(**levels: float) -> RiskPolicy:
        other = copy.deepcopy(base)
        other["policy"] |= levels
        return RiskPolicy.model_validate_json(json.dumps(other))

    assert ids(judge(calm(), policy=changed(margin_watch_pct=60), cushion=0.5)) == ["margin_cushion_low"]
    assert signal(judge(calm(), policy=changed(margin_watch_pct=60), cushion=0.5), "margin_cushion_low").threshold == 60
    assert ids(judge(calm(), policy=changed(gross_exposure_watch_pct=50))) == ["gross_exposure_high"]
    assert ids(judge(calm(), policy=changed(daily_pnl_watch_pct=1), daily_pnl=1_000)) == ["portfolio_pnl_shock"]
    assert ids(judge(regime(-0.5, 0), policy=changed(spy_drop_pct=-0.5))) == ["market_selloff_violent"]
    assert ids(judge(calm(), book(("A", 10, 1)), changed(single_name_exposure_watch_pct=10, single_name_target_pct=5))) == [
        "single_name_exposure_high"
    ]
    few = copy.deepcopy(base)
    few["policy"]["rules"]["max_drivers"] = 1
    result = judge(calm(), book(("A", 90, 90_000)), RiskPolicy.model_validate_json(json.dumps(few)), daily_pnl=-20_000)
    assert result.primary_drivers == ["portfolio_pnl_shock"]


# --- aggregation ------------------------------------------------------------------------------------------------------------------


def test_drivers_are_the_most_severe_and_about_data_only_alone() -> None:
    broken = {"band": None, "status": "error"}
    result = judge(calm(funding_stress=broken), book(("A", 90, 90_000)), daily_pnl=-20_000)
    assert result.primary_drivers == ["portfolio_pnl_shock", "single_name_exposure_high", "single_name_delta_high"]
    assert judge(calm(funding_stress=broken)).primary_drivers == ["risk_data_degraded"]
    many = judge(regime(-3, 25, **STRESSED), book(("A", 90, 190_000)), daily_pnl=-20_000, gross_position_value=190_000, cushion=0.3)
    assert many.primary_drivers == [
        "gross_exposure_high",
        "net_delta_high",
        "gross_delta_high",
        "portfolio_pnl_shock",
        "market_selloff_violent",
    ]
    assert many.severity == "urgent"


def test_urgent_needs_two_reds_and_a_known_market() -> None:
    book_now = book(("A", 10, 190_000))
    tape = regime(-2.6, 12)
    assert judge(tape, book_now).severity == "act"  # confirmed tape, no red
    assert judge(regime(-2.6, 12, **STRESSED), book_now).severity == "urgent"
    gone = {"band": None, "status": "error"}
    weak = regime(-2.6, 12, **STRESSED, funding_stress=gone, usd_jpy=gone, gamma_zero=gone)
    assert judge(weak, book_now).severity == "act"


def test_reasons_name_each_cause() -> None:
    result = judge(calm(vol_of_vol={"status": "stale"}, funding_stress={"band": None, "status": "error"}), cushion=0.3)
    assert result.confidence_reasons == ["unranked_clusters", "ambiguous_clusters", "stale_clusters", "no_independent_market_confirmation"]
    assert judge(calm(), policy=GUARDED).confidence_reasons[0].startswith("missing_")


def test_lifecycle_evidence_and_confirmations() -> None:
    result = judge(regime(-2.6, 12, **STRESSED, usd_jpy={"status": "stale"}), cushion=0.3)
    cycle = result.lifecycle
    assert {e.signal: e.source for e in cycle.evidence} == {
        "margin_cushion_low": "margin", "market_selloff_violent": "market_tape", "vol_spike_confirmed": "market_tape",
        "regime_stress_confirmed": "regime", "market_data_stale": "data_quality",
    }  # fmt: skip
    assert cycle.confirmed_by == ["credit", "market_selloff_violent", "regime_stress_confirmed", "vol"]
    assert all(e.bucket == e.severity for e in cycle.evidence)
    assert {e.timing for e in cycle.evidence if e.confirmed} == {"contemporaneous"}
    alone = judge(calm(usd_jpy="red"))
    assert (alone.lifecycle.unconfirmed, alone.lifecycle.suppressed) == (["fx"], ["fx"])


# --- health and time --------------------------------------------------------------------------------------------------------------


def at(text: str) -> int:
    from datetime import datetime
    from zoneinfo import ZoneInfo

    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo("America/New_York")).timestamp()) * NS


@pytest.mark.parametrize(
    ("moment", "seconds"),
    [
        ("2024-01-08T03:59:59", 5400), ("2024-01-08T04:00:00", 600), ("2024-01-08T15:59:59", 600), ("2024-01-08T16:00:00", 5400),
        ("2024-01-06T12:00:00", 5400), ("2024-07-08T04:00:00", 600), ("2024-07-08T03:59:59", 5400), ("2024-11-04T15:59:59", 600),
    ],
)  # fmt: skip
def test_the_maximum_age_follows_new_york(moment: str, seconds: int) -> None:
    assert max_age_s(DEFAULT.policy.health, at(moment)) == seconds


def test_sources_age_strictly_and_the_future_is_new() -> None:
    limit = 600 * NS
    for age, status, confidence in ((limit, "ok", "high"), (limit + 1, "stale", "medium"), (-5 * NS, "ok", "high")):
        time = NOW - age
        result = evaluate({**ACCOUNT, "as_of_ns": time}, {**HELD, "as_of_ns": time}, {**calm(), "as_of_ns": time}, DEFAULT, NOW)
        assert [(s.status, s.confidence) for s in result.source_health] == [(status, confidence)] * 3
        assert {s.age_seconds for s in result.source_health} == {max(age, 0) / NS}
        assert ("as_of_in_future" in result.source_health[0].notes) == (age < 0)
        assert ("older_than_max_age" in result.source_health[0].notes) == (status == "stale")


def test_a_source_that_does_not_say_when_is_unknown() -> None:
    market = calm()
    del market["as_of_ns"]
    result = evaluate({**ACCOUNT, "as_of_ns": None}, {"stocks": []}, market, DEFAULT, NOW)
    assert [(s.status, s.confidence, s.age_seconds) for s in result.source_health] == [("unknown", "medium-low", None)] * 3
    assert headline(result) == ("", "observe", "quiet")  # it informs; of guarded it is a gap
    guarded = evaluate({**ACCOUNT, "as_of_ns": None, "daily_pnl": 0}, {**HELD, "as_of_ns": None}, market, GUARDED, NOW)
    assert signal(guarded, "risk_data_degraded").blocked_by == ["account_as_of", "positions_as_of", "regime_as_of"]
    assert guarded.source_health[0].refresh_state == "pending"
    assert judge(calm(), policy=GUARDED).source_health[0].refresh_state == "current"
    assert judge(calm(), net_liquidation=0).source_health[0].status == "partial"


def test_the_regime_has_the_status_of_its_worst_clusters() -> None:
    stale, gone = {"status": "stale"}, {"band": None, "status": "error"}
    degraded = {"envelope": {"result": {"summary": {"confidence": "degraded"}}}}
    cases = (
        ({"vol_of_vol": stale}, "stale", "stale"), ({"vol_of_vol": stale, "gamma_zero": degraded}, "stale", "degraded"),
        ({"gamma_zero": degraded, "funding_stress": gone}, "degraded", "partial"), ({"funding_stress": gone, "vol_of_vol": stale}, "stale", "partial"),
        ({"funding_stress": gone}, "partial", "partial"), ({}, "ok", "ok"),
    )  # fmt: skip
    for rows, default, guarded in cases:
        for policy, expected in ((DEFAULT, default), (GUARDED, guarded)):
            found = judge(calm(**rows), HELD, policy, daily_pnl=0).source_health[2]
            assert (found.status, found.confidence) == (expected, "high" if expected == "ok" else "medium-low")


# --- keys -------------------------------------------------------------------------------------------------------------------------


def worked() -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    account = {"as_of_ns": TIME, "base_currency": "USD", "net_liquidation": 100_000, "cushion": 0.30, "gross_position_value": 60_000}
    positions = book(("SPY", 30, 30_000), ("QQQ", 20, 20_000), greeks_coverage=0, greeks_total=0)
    positions["stocks"] = [{"symbol": "SPY"}]
    market = regime(0.1, -1)
    market["source_health"] = [
        {"source": name, "status": "ok", "confidence": "high", "fingerprint_stability": "semantic_buckets_only"} for name in CLUSTERS
    ]
    view = market_of(from_snapshot(market), DEFAULT, NOW)
    return account, positions, {**market, "composite": view.composite, "lifecycle": view.lifecycle}


def test_the_worked_example() -> None:
    account, positions, market = worked()
    result = evaluate(account, positions, market, DEFAULT, NOW)
    assert result.fingerprint.key == GOLDEN_CANARY
    assert result.lifecycle.fingerprint.key == GOLDEN_LIFECYCLE
    assert result.source_fingerprints.account.key == "sha256:f6f08bdf7c41213e14b579779a71d514bc8ed91d4c5c970cf2156d829ed4bccb"
    assert result.source_fingerprints.positions.key == "sha256:d24f043da1ceeb4b96b86ff210bf2bcd700ba6c4c94cf428c34da9de495dd951"
    assert result.source_fingerprints.regime.key == "sha256:f893445bf2e823d75d3e9f00314a7940b28d90520cbfa50110b7c4f58a548e28"

    def key(**changes: Any) -> str:
        return evaluate({**account, **changes}, positions, market, DEFAULT, NOW).fingerprint.key

    assert key(cushion=0.29) == GOLDEN_CANARY
    assert key(cushion=0.19) != GOLDEN_CANARY
    assert key(base_currency=" usd") == key(net_liquidation="100500.00") == key(as_of_ns=TIME - 60 * NS) == GOLDEN_CANARY
    later = evaluate(account, positions, {**market, "as_of_ns": TIME + 1}, DEFAULT, NOW + NS)
    assert later.fingerprint.key == GOLDEN_CANARY
    small = copy.deepcopy(market)
    small["hyg_spy_divergence"]["spy_change_pct"] = 0.4
    assert evaluate(account, positions, small, DEFAULT, NOW).fingerprint.key == GOLDEN_CANARY
    assert evaluate(account, positions, market, DEFAULT, NOW + 700 * NS).fingerprint.key != GOLDEN_CANARY  # sources stale


def sample(rng: random.Random) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    net = rng.choice([0, 50_000, 100_000, 2_000_000])
    account = {
        "as_of_ns": rng.choice([None, NOW - rng.randrange(1_200) * NS]), "base_currency": rng.choice(["USD", "EUR", ""]),
        "account_type": rng.choice([None, "margin", "P&L <x>"]), "net_liquidation": net, "cushion": rng.choice([None, 0, 0.05, 0.15, 0.3, 0.5]),
        "excess_liquidity": rng.choice([None, net * 0.4]), "maintenance_margin": rng.choice([0, 5.0]),
        "look_ahead_excess_liquidity": rng.choice([None, net * 0.08, net * 0.5]), "gross_position_value": rng.choice([None, net * rng.uniform(0, 2)]),
        "daily_pnl": rng.choice([None, net * rng.gauss(0, 0.06)]),
    }  # fmt: skip
    symbols = rng.sample(["SPY", "QQQ", "A&B", "A<B", "BRK.B", "X"], rng.randint(0, 4))
    entries = [
        {"underlying": s, "market_value_pct_nlv": rng.choice([None, rng.uniform(-80, 80)]), "dollar_delta_base": rng.choice([None, net * rng.uniform(-2, 2)])}
        for s in symbols
    ]  # fmt: skip
    total = rng.choice([0, 0, 4])
    portfolio = {
        "dollar_delta_base": rng.choice([None, net * rng.uniform(-2, 2)]), "gamma": rng.choice([None, -1.0, 0.0, 2.0]), "greeks_total": total,
        "greeks_coverage": rng.randint(0, total), "exposure_base": entries,
    }  # fmt: skip
    positions = {
        "as_of_ns": rng.choice([None, NOW - rng.randrange(1_200) * NS]), "stocks": rng.choice([None, [{"symbol": s} for s in symbols]]),
        "options": [{"symbol": "SPY"}] * total, "portfolio": rng.choice([None, portfolio, portfolio, portfolio]),
    }  # fmt: skip
    return (None if rng.random() < 0.05 else account), (None if rng.random() < 0.05 else positions)


def market_sample(rng: random.Random) -> dict[str, Any] | None:
    if rng.random() < 0.05:
        return None
    rows = {
        name: {
            "band": (band := rng.choice(["green", "green", "yellow", "red", None])),
            "status": rng.choice(["ok", "ok", "ok", "stale"]) if band else rng.choice(["error", "computing", "unavailable"]),
            "freshness_class": rng.choice(["fresh", "fresh", "stale"]), "depth": rng.choice([None, 0.3, 8.0, 120.0]), "sessions": rng.choice([1, 2, 3]),
        }
        for name in ROWS
    }  # fmt: skip
    market = regime(rng.choice([None, 0.1, -1.6, -2.6, -4.1, 1.6, 2.6]), rng.choice([None, -1, 11, 21, -12, -22]), **rows)
    market["closed"] = rng.random() < 0.1
    if rng.random() < 0.3:
        market["warning_details"] = [{"code": "x", "scope": rng.choice(["gamma", "fx & co", "\x01"]), "severity": "data", "message": "m"}]
    return market


def gathered(n: int, seed: int) -> tuple[Any, list[Any]]:
    rng = random.Random(seed)
    snapshots = [sample(rng) for _ in range(n)]
    return np.array([facts_of(*pair) for pair in snapshots], np.dtype(FACTS)), snapshots


@pytest.mark.parametrize("policy", list(POLICIES.values()), ids=lambda p: p.profile)
def test_keys_are_those_of_the_results_in_any_order_and_memory(policy: RiskPolicy) -> None:
    rng = random.Random(11)
    rows, _ = gathered(60, 5)
    memo, small = KeyMemo(), KeyMemo()
    small.ENTRIES = 3  # type: ignore[misc]
    for _ in range(12):
        snapshot = market_sample(rng)
        scene = Scene(None if snapshot is None else from_snapshot(snapshot), policy, NOW)
        which = np.array(rng.sample(range(len(rows)), 40), np.int64)
        out = verdicts(len(which))
        evaluate_rows(rows, which, scene, out)
        found = keys(out, rows, scene, memo)
        assert (keys(out, rows, scene, memo) == found).all()
        assert (keys(out, rows, scene, small) == found).all()
        for i, number in enumerate(which):
            result = render(rows[number], out[i], scene)
            assert result.fingerprint.key == "sha256:" + found[i].tobytes().hex()
            plain = json.loads(result.model_dump_json(by_alias=True))
            assert key_of(project_canary(plain)) == result.fingerprint.key
            assert key_of(project_lifecycle(plain["lifecycle"])) == result.lifecycle.fingerprint.key
    assert len(keys(verdicts(0), rows, Scene(None, policy, NOW), memo)) == 0


def test_many_at_once_are_as_one_by_one() -> None:
    rng = random.Random(3)
    rows, snapshots = gathered(50, 9)
    for policy in POLICIES.values():
        snapshot = market_sample(rng)
        scene = Scene(None if snapshot is None else from_snapshot(snapshot), policy, NOW)
        out = verdicts(len(rows))
        evaluate_rows(rows, np.arange(len(rows), dtype=np.int64), scene, out)
        for i, (account, positions) in enumerate(snapshots):
            alone = evaluate(account, positions, snapshot, policy, NOW)
            assert alone.model_dump_json() == render(rows[i], out[i], scene).model_dump_json()
            assert alone == CanaryResult.model_validate_json(alone.model_dump_json(by_alias=True))


def test_order_and_case_of_lists_never_matter() -> None:
    rng = random.Random(2)
    for _ in range(40):
        account, positions = sample(rng)
        market = market_sample(rng)
        base = evaluate(account, positions, market, GUARDED, NOW).fingerprint.key
        if positions is not None and positions["portfolio"] is not None:
            entries = positions["portfolio"]["exposure_base"]
            values = [abs(e["market_value_pct_nlv"] or 0) for e in entries]
            assert len(set(values)) == len(values) or 0 in values
            positions = copy.deepcopy(positions)
            positions["portfolio"]["exposure_base"].reverse()
        if market is not None:
            market = dict(reversed(market.items()))
        assert evaluate(account, positions, market, GUARDED, NOW).fingerprint.key == base


def test_a_name_and_a_band_change_the_key() -> None:
    one = judge(calm(), book(("NVDA", 40, 1)))
    other = judge(calm(), book(("TSLA", 40, 1)))
    assert one.fingerprint.key != other.fingerprint.key
    assert judge(calm(vol_of_vol="yellow"), book(("NVDA", 40, 1))).fingerprint.key != one.fingerprint.key
    assert judge(calm(), book(("NVDA", 41, 1))).fingerprint.key == one.fingerprint.key


# --- score ------------------------------------------------------------------------------------------------------------------------


def test_a_score_confirms_in_place_of_counts() -> None:
    quiet = judge(calm(vix_term_structure={"ratio": 0.8}), policy=SCORED, gross_position_value=120_000)
    assert quiet.market.score == 0
    assert "gross_exposure_high" not in ids(quiet)
    term = {"ratio": 1.05, "band": "red"}
    hit = judge(regime(-1.6, 5, vix_term_structure=term), policy=SCORED, gross_position_value=120_000)
    assert hit.market.score == 4
    found = signal(hit, "regime_stress_confirmed")
    assert (found.severity, found.observed, found.threshold) == ("act", 4, 4)
    assert signal(hit, "gross_exposure_high").severity == "act"
    early = judge(calm(vix_term_structure=term), policy=SCORED)
    assert signal(early, "regime_stress_early").threshold == 2
    assert early.lifecycle.stage == "early_warning"


# --- what a result may never say --------------------------------------------------------------------------------------------------


def models(model: type[BaseModel], seen: set[type[BaseModel]]) -> set[type[BaseModel]]:
    """Return a model and every model in it."""
    seen.add(model)
    ahead = [field.annotation for field in model.model_fields.values()]
    while ahead:
        part = ahead.pop()
        if isinstance(part, type) and issubclass(part, BaseModel) and part not in seen:
            models(part, seen)
        ahead += get_args(part)
    return seen


def test_no_field_of_a_result_has_a_denied_name() -> None:
    found = models(contracts.CanaryAlert, set())
    assert len(found) > 15
    for model in found:
        assert model.model_config.get("extra") == "forbid", model
        for name, field in model.model_fields.items():
            assert name not in DENIED, (model, name)
            assert field.alias not in DENIED, (model, name)
            # a field that takes any object would take a denied name with it
            assert field.annotation is not Any, (model, name)
            assert "dict" not in str(field.annotation), (model, name)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return where the objects of a JSON value are."""
    found = []
    if isinstance(value, dict):
        found.append(path)
        for name, item in value.items():
            found += places(item, (*path, name))
    elif isinstance(value, list) and value:
        found += places(value[0], (*path, 0))
    return found


def test_denied_names_are_rejected_at_every_depth() -> None:
    market = {**governed(-1.6), "warning_details": []}
    result = judge(market, book(("NVDA", 60, 190_000)), GUARDED, cushion=0.15, daily_pnl=0)
    plain = json.loads(result.model_dump_json(by_alias=True))
    found = places(plain)
    assert {path[0] for path in found if path} == {
        "source_as_of_ns", "fingerprint", "source_fingerprints", "source_health", "lifecycle", "signals", "rows", "portfolio", "market", "margin_alert",
    }  # fmt: skip
    for path in found:
        for name in DENIED:
            bad = copy.deepcopy(plain)
            target = bad
            for part in path:
                target = target[part]
            target[name] = 1
            with pytest.raises(ValidationError):
                CanaryResult.model_validate_json(json.dumps(bad))
    CanaryResult.model_validate_json(json.dumps(plain))


def test_texts_of_the_catalogue_are_stable() -> None:
    assert len(set(kernel.SIGNALS)) == len(kernel.SIGNALS) - 1
    assert not set(kernel.RESERVED) & set(kernel.SIGNALS)
    assert len(kernel.MISSING) <= np.iinfo(kernel.VERDICT["missing"].type).bits


def test_bad_snapshots_are_refused() -> None:
    for account, positions in (
        ({"cushion": "a lot"}, None), ({"cushion": True}, None), ({"cushion": "inf"}, None), ({"net_liquidation": math.inf}, None),
        ({"base_currency": "x" * 13}, None), ({"as_of": "yesterday"}, None), (None, book(("A" * 21, 1, 1))),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"\w"):
            facts_of(account, positions)


def test_describe_is_what_render_validates() -> None:
    rows, _ = gathered(5, 1)
    scene = Scene(from_snapshot(calm()), DEFAULT, NOW)
    out = verdicts(5)
    evaluate_rows(rows, np.arange(5, dtype=np.int64), scene, out)
    for i in range(5):
        plain = describe(rows[i], out[i], scene)
        assert render(rows[i], out[i], scene).model_dump(include=set(plain) - {"lifecycle", "signals"}).keys() == plain.keys() - {
            "lifecycle",
            "signals",
        }
