"""What a book should do, and why: every guard, limit and predicate by the reason it gives, and users' stories (H01 to H22) at decision level."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from operators.book_frame import HedgeRules, carried_over, frame_of, update_ratios
from operators.decision import Decision, decide, limit_price
from schemas.hedging import DoNotTrade, ExposureInstrument, StressScenario, Unwind
from schemas.reasons import HedgeReason, hedge_group_of
from tests.market_stand_in import (
    BAR_NS,
    BOOK,
    HASH,
    NOW_NS,
    Channel,
    Desk,
    HaltView,
    StandIn,
    State,
    book_of,
    factor_returns,
    instrument,
    new_view,
    policy,
    risk,
    universe,
)

R = HedgeReason
SYMBOLS = ["BTC", "PERP", "ETH", "SPARE", "FLAT", "NOISE"]
EVER, FOREVER = NOW_NS - 10**12, NOW_NS + 10**12


def returns(seed: int = 1, bars: int = 200) -> np.ndarray:
    """BTC, PERP and SPARE move as one, ETH with them and by itself, FLAT never, NOISE alone."""
    rng = np.random.default_rng(seed)
    loadings = np.array([[1.0], [1.0], [1.2], [1.0], [0.0], [0.0]])
    own = np.array([2e-5, 2e-5, 6e-4, 4e-5, 0.0, 1e-3])
    return factor_returns(rng, bars, loadings, own)


def market_of(bars: int = 200, rows: np.ndarray | None = None) -> StandIn:
    market = StandIn(SYMBOLS)
    if bars:
        market.bars(returns(bars=bars) if rows is None else rows)
    return market


def legs_of(**perp: Any) -> State:
    """PERP for BTC, ETH for itself."""
    return universe(
        [instrument("PERP", underlying="BTC", **perp), instrument("ETH", venue="W")],
        [ExposureInstrument(symbol="BTC", currency="USD", underlying="BTC")],
    )


LIMITS = {"PERP": 1e6, "ETH": 1e6, "SPARE": 1e6}


def desk(exposures: dict[str, float] | None = None, told: State | None = None, market: StandIn | None = None, **given: Any) -> Desk:
    given.setdefault("risk_state", risk(LIMITS))
    return book_of(market or market_of(), told or legs_of(), {"BTC": 1000.0} if exposures is None else exposures, **given)


def run(one: Desk, now_ns: int = NOW_NS) -> Decision:
    """Decide, and check what holds of every decision."""
    decision = decide(one.view, one.market, now_ns, one.rules)
    assert decision.reasons
    assert R.none not in decision.reasons
    assert decision.outcome in ("sent", "blocked", "nothing")
    assert bool(decision.legs) == (decision.outcome == "sent" or decision.reasons[0] == R.channel_queued)
    if decision.outcome == "nothing":
        assert hedge_group_of(decision.reasons[0]) == "nothing to do"
    else:
        assert hedge_group_of(decision.reasons[0]) != "nothing to do"
    if not decision.legs:
        assert not decision.h.any()
    return decision


def sent(one: Desk, decision: Decision) -> None:
    """Put the legs of a decision in flight, as the lane does."""
    for leg in decision.legs:
        one.view.flight_qty[leg.instrument] += leg.qty if leg.side == "BUY" else -leg.qty
        one.view.traded_today[leg.instrument] += leg.notional


def filled(one: Desk) -> None:
    one.view.held_qty += one.view.flight_qty
    one.view.flight_qty[:] = 0.0


# --- reasons ----------------------------------------------------------------------------------------------------------------------


def with_(change: Callable[[Desk], None], **given: Any) -> Desk:
    one = desk(**given)
    change(one)
    return one


def in_flight(one: Desk) -> None:
    one.view.flight_qty[0] = -1000.0


def reducing(**given: Any) -> Desk:
    return desk(**given, risk_state=risk(LIMITS, risk_level="CRITICAL"))


def _cooling() -> Desk:
    """Just sent, and a small rest is left."""
    one = desk(held={"PERP": -900.0}, rules=HedgeRules(risk_cut=2.0))
    one.view.last_send_ns[:] = NOW_NS - 1
    return one


def _ratio_buffer() -> Desk:
    """Hedged to the edge at the ratio in use; the newest estimate, within its error, wants more."""
    one = desk()
    sent(one, run(one))
    filled(one)
    assert run(one).reasons[0] == R.within_no_trade_band
    one.view.ratios.b[0, 0] = one.view.ratios.used[0, 0] + 0.1
    return one


def _band() -> Desk:
    one = desk()
    sent(one, run(one))
    filled(one)
    return one


def _covered() -> Desk:
    """In flight is what leads to the edge of the band, not into dust."""
    one = desk()
    sent(one, run(one))
    return one


def _warm() -> Desk:
    return desk(market=market_of(bars=20))


def _nan_price(one: Desk) -> None:
    one.market.mid[one.market.index["BTC"]] = math.nan


def _hash(one: Desk) -> None:
    one.market.risks[BOOK] = risk(LIMITS, policy_version="v2")


def _without(what: str) -> Callable[[Desk], None]:
    def change(one: Desk) -> None:
        if what == "frame":
            one.view.frame = None
        else:
            getattr(one.market, what).clear()

    return change


def _stale(symbol: str) -> Callable[[Desk], None]:
    return lambda one: one.market.quote(symbol, 100.0, age_ns=3_000_000_001)


def _set(name: str, value: Any) -> Callable[[Desk], None]:
    def change(one: Desk) -> None:
        if isinstance(getattr(one.view, name), np.ndarray):
            getattr(one.view, name)[:] = value
        else:
            setattr(one.view, name, value)

    return change


def _halt(**given: Any) -> Callable[[Desk], None]:
    return lambda one: setattr(one.market, "halted", HaltView(**given))


def _spread(one: Desk) -> None:
    one.market.half_spread_bps[:] = 3.0


def _one_leg(**given: Any) -> State:
    return universe([instrument("PERP", underlying="BTC", **given)], [ExposureInstrument(symbol="BTC", currency="USD", underlying="BTC")])


def _conflict() -> Desk:
    """The hedge is above its limit, and without it the VaR is above its own."""
    given = risk({"PERP": 50_000.0}, var_limit=1.0)
    return desk(held={"PERP": -1000.0}, told=_one_leg(), risk_state=given)


CASES: list[tuple[R, Callable[[], Desk]]] = [
    (R.dust, lambda: desk(held={"PERP": -1000.0}, rules=HedgeRules(dust=0.01))),
    (R.within_no_trade_band, _band),
    (R.within_ratio_buffer, _ratio_buffer),
    (R.inflight_covers, _covered),
    (R.inflight_covers, lambda: with_(in_flight, rules=HedgeRules(dust=0.01))),
    (R.same_version, lambda: with_(_set("open_versions", {"ef" * 8}))),
    (R.cooldown, _cooling),
    (R.no_exposure, lambda: desk({"BTC": 0.0})),
    (R.halted, lambda: with_(_halt(all=True))),
    (R.halted, lambda: with_(_halt(books=frozenset({BOOK})))),
    (R.halted, lambda: with_(_halt(symbols=frozenset({"PERP", "ETH"})))),
    (R.halted, lambda: with_(_halt(venues=frozenset({"V", "W"})))),
    (R.reducing_only, reducing),
    (R.dnt, lambda: desk(told=_one_leg(), policy_state=policy(do_not_trade=[DoNotTrade(instrument="PERP", from_ns=EVER, to_ns=FOREVER, reason="results")]))),
    (R.limit_bound, lambda: desk(told=_one_leg(), held={"PERP": -500.0}, risk_state=risk({"PERP": (50_000.0, 1e6)}))),
    (R.headroom_zero, lambda: desk(told=_one_leg(), risk_state=risk({"PERP": (1e6, 0.0)}))),
    (R.capital_cap, lambda: desk(told=_one_leg(), risk_state=risk(LIMITS, max_capital=0.0))),
    (R.adv_cap, lambda: desk(told=_one_leg(adv_notional=0.0))),
    (R.liquidity_tier, lambda: with_(lambda one: one.market.quote("PERP", 100.0, size=0.0), told=_one_leg())),
    (R.stress_bound, lambda: desk(
        told=_one_leg(), policy_state=policy(stress_scenarios=[StressScenario(id="squeeze", shocks={"PERP": 0.5}, max_loss=0.0)]))),
    (R.held_by_desk, lambda: with_(_set("held_by_desk", True))),
    (R.held_by_desk, lambda: with_(_set("desk_held", True))),
    (R.stale_quote, lambda: with_(_stale("BTC"))),
    (R.stale_quote, lambda: with_(_stale("PERP"), told=_one_leg())),
    (R.stale_covariance, lambda: with_(lambda one: setattr(one.market, "bar_end_ns", NOW_NS - 3 * BAR_NS - 1))),
    (R.stale_allocation, lambda: with_(_set("target_stale", True))),
    (R.stale_risk_state, lambda: desk(risk_state=risk(LIMITS, ts_ns=NOW_NS - 60_000_000_001))),
    (R.stale_risk_state, lambda: with_(_without("risks"))),
    (R.warmup, _warm),
    (R.warmup, lambda: desk(market=market_of(bars=0))),
    (R.weak_relation, lambda: desk({"NOISE": 1000.0})),
    (R.unknown_inflight, lambda: with_(_set("unknown", True))),
    (R.policy_hash_mismatch, lambda: with_(_hash)),
    (R.price_missing, lambda: with_(_nan_price)),
    (R.price_missing, lambda: desk({"NOWHERE": 1.0})),
    (R.zero_variance, lambda: desk({"FLAT": 1000.0})),
    (R.zero_variance, lambda: desk({"FLAT": 1000.0}, told=universe([instrument("FLAT")]))),
    (R.universe_missing, lambda: with_(_without("frame"))),
    (R.policy_missing, lambda: with_(_without("policies"))),
    (R.allocation_missing, lambda: with_(_set("target_known", False), policy_state=policy(no_target_no_hedge=True))),
    (R.predicate_min_var, lambda: with_(lambda one: one.market.quote("PERP", 100.0, size=0.5), told=_one_leg())),
    (R.predicate_spread, lambda: with_(_spread)),
    (R.predicate_cost, lambda: desk(told=_one_leg(cost_bps=9.7))),
    (R.below_min_notional, lambda: desk(told=_one_leg(min_notional=5e5))),
    (R.predicate_var_limit, _conflict),
    (R.solver_inexact, lambda: desk(rules=HedgeRules(funding_per_year=-1.0))),
    (R.below_min_notional, lambda: desk({"BTC": 0.8}, told=_one_leg(lot="1"), rules=HedgeRules(dust=1e-9), risk_state=risk({"PERP": 1000.0}))),
    (R.channel_queued, lambda: with_(lambda one: one.market.channels.update(V=Channel("DOWN"), W=Channel("DOWN")))),
    (R.no_instrument, lambda: desk(told=universe([instrument("ELSEWHERE")]))),
]  # fmt: skip


@pytest.mark.parametrize(("reason", "made"), CASES, ids=[f"{reason.name}-{at}" for at, (reason, _) in enumerate(CASES)])
def test_every_reason_not_to_act_is_given_by_a_case(reason: HedgeReason, made: Callable[[], Desk]) -> None:
    decision = run(made())
    assert decision.outcome != "sent"
    assert reason in decision.reasons, (decision.reasons, decision.binding, decision.expected)


ELSEWHERE = {R.sender_not_allowed, R.predicate_coverage, R.not_profitable}
"""The lane judges senders; coverage rises exactly when the variance falls; not_profitable has a test of its own."""


def test_no_reason_not_to_act_is_without_a_case() -> None:
    told = {reason for reason, _ in CASES}
    groups = {"nothing to do", "not allowed", "not known", "not worth it"}
    assert {one for one in R if hedge_group_of(one) in groups and one != R.none} - told == ELSEWHERE


@pytest.mark.parametrize("reason", [R.reducing_only, R.stale_risk_state, R.stale_allocation, R.warmup, R.headroom_zero])
def test_reducing_names_why(reason: HedgeReason) -> None:
    made = {
        R.reducing_only: reducing, R.stale_risk_state: lambda: with_(_without("risks")), R.stale_allocation: lambda: with_(_set("target_stale", True)),
        R.warmup: _warm, R.headroom_zero: lambda: desk(risk_state=risk(LIMITS, headroom_capital=0.0)),
    }  # fmt: skip
    decision = run(made[reason]())
    assert decision.state == "REDUCING"
    assert reason in decision.state_reasons
    assert decision.outcome == "blocked"
    assert reason in decision.reasons
    assert decision.reasons[0] in (R.reducing_only, R.capital_cap)


def test_reducing_book_closes_a_hedge_it_no_longer_needs() -> None:
    one = reducing(exposures={"BTC": 0.0}, held={"PERP": -1000.0})
    decision = run(one)
    assert decision.outcome == "sent"
    assert decision.reduce_only
    assert decision.legs[0].side == "BUY"
    assert decision.expected["variance_reduction"] > 0.99


# --- what is sent -----------------------------------------------------------------------------------------------------------------


def test_hedge_covers_what_is_asked_and_says_so() -> None:
    decision = run(desk({"BTC": 1000.0, "ETH": 300.0}))
    assert decision.outcome == "sent"
    assert decision.reasons[0] == R.hedge_sent
    assert decision.expected["coverage_after"] > 0.95
    assert decision.kkt_violation <= 1e-9
    assert decision.ratio_source == "ewma"
    assert decision.policy_hash == HASH
    for leg in decision.legs:
        assert leg.qty == pytest.approx(leg.lots * 0.01)
        assert leg.notional == pytest.approx(leg.qty * 100.0)


def test_figures_are_the_formulas() -> None:
    one = desk({"BTC": 1000.0, "ETH": 300.0}, held={"PERP": -400.0})
    decision = run(one)
    bar = one.frame.per_bar
    assert bar is not None
    s, be = bar.s_xx, one.view.ratios.used @ decision.e
    d = decision.p + be
    norm2 = be @ s @ be
    assert decision.coverage == pytest.approx(1 - math.sqrt(d @ s @ d / norm2), rel=1e-12)
    assert decision.needed_risk == pytest.approx(math.sqrt(norm2), rel=1e-12)
    assert decision.effectiveness == pytest.approx(decision.bound_r2 * (1 - (1 - decision.coverage) ** 2), rel=1e-12)
    assert decision.exposure_notional == pytest.approx(130_000.0)
    np.testing.assert_allclose(decision.d_after, d + decision.h, rtol=1e-12)


def test_small_open_rest_is_the_edge_of_the_band() -> None:
    """With one direct hedge what is left open is k/(A·T·σ²), the edge of the no-trade band; then nothing more is done."""
    one = desk({"ETH": 1000.0}, told=universe([instrument("ETH", lot="0.0001")]))
    decision = run(one)
    bar = one.frame.per_bar
    assert bar is not None
    edge = decision.k[0] / (decision.risk_aversion * 24 * bar.s_xx[0, 0])
    assert decision.d_after[0] == pytest.approx(edge, abs=0.02)
    assert decision.ratio_source == "direct"


def test_legs_without_a_position_limit_are_bounded() -> None:
    decision = run(desk({"BTC": 1e9}, risk_state=risk({})))
    assert np.isfinite(decision.lower).all()
    assert np.isfinite(decision.upper).all()
    assert decision.binding
    assert R.hedge_reduced_by_limit in decision.reasons or decision.outcome == "blocked"


@pytest.mark.parametrize(
    ("mid", "buy", "away", "scale", "expected"),
    [(100.0, True, 10.5, 2, "100.11"), (100.0, False, 10.5, 2, "99.89"), (100.0, True, 10.0, 2, "100.10"), (100.0, False, 10.0, 2, "99.90"),
     (0.5, False, 10.0, 0, None), (math.nan, True, 1.0, 2, None), (1.08003, True, 1.0, 5, "1.08014")],
)  # fmt: skip
def test_limit_price_is_rounded_away_from_the_mid(mid: float, buy: bool, away: float, scale: int, expected: str | None) -> None:
    assert limit_price(mid, buy, away, scale) == (None if expected is None else Decimal(expected))


def test_not_profitable_is_said_where_no_whole_lots_are_better_than_none() -> None:
    """Two lots of different size that only help together, and together are too much for the capital."""
    rng = np.random.default_rng(3)
    found = None
    for _ in range(300):
        lots = [f"{x:.2f}" for x in rng.uniform(100, 900, size=3)]
        names = ("PERP", "ETH", "SPARE")
        told = universe([instrument(name, lot=lot) for name, lot in zip(names, lots, strict=True)])
        held = {name: float(lot) * float(rng.integers(-2, 3)) for name, lot in zip(names, lots, strict=True)}
        exposures = dict(zip(names, (float(x) for x in rng.normal(size=3) * 700), strict=True))
        one = desk(
            exposures, told=told, held=held, rules=HedgeRules(overhedge=1e9), risk_state=risk({}, max_capital=float(rng.uniform(0, 2e4)))
        )
        decision = run(one)
        if decision.reasons[0] == R.not_profitable:
            found = decision
            break
    assert found is not None
    assert found.outcome == "blocked"


def test_equal_inputs_give_equal_bits_and_another_input_another_hash() -> None:
    first, second = run(desk({"BTC": 1000.0, "ETH": 300.0})), run(desk({"BTC": 1000.0, "ETH": 300.0}))
    assert first.inputs_sha256 == second.inputs_sha256
    assert first.h.tobytes() == second.h.tobytes()
    one = desk({"BTC": 1000.0, "ETH": 300.0})
    seen = {first.inputs_sha256}
    changes: list[Callable[[], None]] = [
        lambda: one.view.exposure_qty.__setitem__(0, 1001.0), lambda: one.view.held_qty.__setitem__(0, 1.0), lambda: one.view.ratios.used.__setitem__((0, 0), 0.9),
        lambda: one.market.quote("PERP", 101.0), lambda: one.view.open_versions.add("aa" * 8), lambda: setattr(one.view, "held_by_desk", True),
        lambda: setattr(one.market, "halted", HaltView(symbols=frozenset({"X"}))), lambda: one.market.channels.update(V=Channel("DEGRADED")),
        lambda: setattr(one, "rules", HedgeRules(uncovered=0.03)), lambda: one.market.policies.update({BOOK: policy(max_cost_bps=9.0)}),
        lambda: one.market.risks.update({BOOK: risk({"PERP": 5e5})}), lambda: one.market.bars(returns(9, 1)),
    ]  # fmt: skip
    for change in changes:
        change()
        digest = run(one).inputs_sha256
        assert digest not in seen
        seen.add(digest)
    assert run(one, NOW_NS + 1).inputs_sha256 not in seen


# --- guards with a second side ----------------------------------------------------------------------------------------------------


def test_cooldown_does_not_hold_a_large_risk_cut_back() -> None:
    one = _cooling()
    one.rules = HedgeRules()
    assert run(one).outcome == "sent"


def test_old_residual_is_hedged_at_any_spread_within_the_cost_cap() -> None:
    one = with_(_spread)
    one.view.residual_since_ns = NOW_NS - 60_000_000_001
    decision = run(one)
    assert decision.outcome == "sent"
    assert R.envelope_forced in decision.reasons
    one.market.half_spread_bps[:] = 20.0
    assert run(one).reasons[0] == R.predicate_cost


def test_degraded_channel_doubles_the_costs() -> None:
    plain, dear = desk(), desk()
    dear.market.channels["V"] = Channel("DEGRADED")
    assert run(dear).k[0] == pytest.approx(2 * run(plain).k[0])


def test_channel_down_is_queued_with_the_legs_that_wait() -> None:
    one = desk(told=_one_leg())
    one.market.channels["V"] = Channel("DOWN")
    decision = run(one)
    assert decision.outcome == "blocked"
    assert decision.reasons == (R.channel_queued, R.channel_down)
    assert decision.legs[0].side == "SELL"
    assert decision.escalations[0].reason == R.channel_queued


def test_what_else_closes_a_leg_is_not_queued_for_its_channel() -> None:
    one = desk(told=_one_leg())
    one.market.channels["V"] = Channel("DOWN")
    one.view.unknown[:] = True
    decision = run(one)
    assert not decision.legs
    assert decision.reasons == (R.channel_down,)


def test_another_venue_takes_what_a_closed_one_cannot() -> None:
    told = universe(
        [instrument("PERP", underlying="BTC"), instrument("SPARE", underlying="BTC", venue="W")],
        [ExposureInstrument(symbol="BTC", currency="USD", underlying="BTC")],
    )
    one = desk(told=told)
    one.market.channels["V"] = Channel("DOWN")
    decision = run(one)
    assert decision.outcome == "sent"
    assert [leg.symbol for leg in decision.legs] == ["SPARE"]


def secondaries(**given: Any) -> Desk:
    told = universe(
        [instrument("PERP", underlying="BTC"), instrument("SPARE", underlying="BTC", secondary_of="PERP", cost_bps=0.8)],
        [ExposureInstrument(symbol="BTC", currency="USD", underlying="BTC")],
    )
    return desk(told=told, **given)


def test_secondary_waits_while_the_primary_can_take_enough() -> None:
    assert [leg.symbol for leg in run(secondaries()).legs] == ["PERP"]


def test_secondary_is_used_when_the_primary_is_full() -> None:
    decision = run(secondaries(risk_state=risk({"PERP": 40_000.0, "SPARE": 1e6})))
    assert [leg.symbol for leg in decision.legs] == ["PERP", "SPARE"]
    assert R.secondary_used in decision.reasons
    assert (R.liquidity_shortfall, "INFO") in [(one.reason, one.severity) for one in decision.escalations]
    assert decision.tried == ("primary", "secondary")
    assert decision.expected["coverage_after"] > 0.95


def test_still_short_is_escalated_with_the_fallback_by_name() -> None:
    one = secondaries(risk_state=risk({"PERP": 40_000.0, "SPARE": 10_000.0}), policy_state=policy(fallback_strategy="synthetic_future"))
    decision = run(one)
    assert decision.outcome == "sent"
    assert decision.expected["coverage_after"] < 0.95
    assert R.escalated in [alert.reason for alert in decision.escalations]
    assert decision.fallback_strategy == "synthetic_future"


def test_target_is_a_notional_and_what_is_held_beyond_it_is_hedged() -> None:
    one = desk()
    one.view.target[0] = 100_000.0
    assert run(one).reasons[0] == R.no_exposure
    one.view.target[0] = 40_000.0
    decision = run(one)
    assert decision.e[0] == pytest.approx(60_000.0)


def test_missing_target_is_zero_unless_the_policy_says_otherwise() -> None:
    assert run(with_(_set("target_known", False))).outcome == "sent"


def test_breakdown_widens_the_buffer_and_is_told() -> None:
    rng = np.random.default_rng(5)
    one = desk(market=market_of(rows=returns(5, 400)))
    broken = returns(6, 60)
    broken[:, 0] = 1e-3 * rng.normal(size=60)
    events = []
    for number, row in enumerate(broken):
        one.market.bars(row[None])
        one.market.bar_end_ns += number  # each bar has an end of its own
        events += update_ratios(one.frame, one.view.ratios, one.market, one.rules)
    assert next(event for event in events if event.instrument == "PERP")[:3] == ("BTC", "PERP", True)
    assert one.view.ratios.broken[0, 0]


def test_second_update_for_a_bar_changes_nothing() -> None:
    one = desk()
    before = one.view.ratios.used.copy()
    assert update_ratios(one.frame, one.view.ratios, one.market, one.rules) == []
    np.testing.assert_array_equal(one.view.ratios.used, before)


def test_ratios_are_carried_over_to_another_frame_by_name() -> None:
    one = desk({"BTC": 1000.0})
    wider = frame_of(one.market.universes[BOOK], ["ETH", "BTC"], one.market.reference, one.market)
    state = carried_over(one.frame, one.view.ratios, wider)
    at = wider.exposure_index["BTC"]
    np.testing.assert_array_equal(state.used[:, at], one.view.ratios.used[:, 0])
    np.testing.assert_array_equal(state.used[:, wider.exposure_index["ETH"]], [0.0, 1.0])


# --- unwinding and broken limits --------------------------------------------------------------------------------------------------


def unwinding(**given: Any) -> Desk:
    order = Unwind(id="U1", instrument="PERP", max_notional=30_000.0, expires_ns=NOW_NS + 1)
    return desk(held={"PERP": -1000.0}, policy_state=policy(unwind=[order], **given))


@pytest.mark.parametrize("halted", [False, True])
def test_policy_unwind_goes_also_under_halt(halted: bool) -> None:
    one = unwinding()
    one.market.halted = HaltView(all=halted)
    decision = run(one)
    assert decision.outcome == "sent"
    assert decision.reasons[0] == R.unwind_by_policy
    assert decision.unwind_id == "U1"
    assert decision.reduce_only
    assert [(leg.symbol, leg.side) for leg in decision.legs] == [("PERP", "BUY")]
    assert decision.legs[0].notional == pytest.approx(30_000.0)
    one.view.unwound["U1"] = 30_000.0
    assert run(one).outcome != "sent"


def test_do_not_trade_beats_unwind() -> None:
    one = unwinding(do_not_trade=[DoNotTrade(instrument="PERP", from_ns=EVER, to_ns=FOREVER, reason="results")])
    one.market.halted = HaltView(all=True)
    decision = run(one)
    assert decision.outcome == "blocked"
    assert decision.reasons == (R.halted, R.dnt)


def test_unwind_never_takes_more_than_is_filled_or_left() -> None:
    one = unwinding()
    one.market.halted = HaltView(all=True)
    one.view.flight_qty[0] = 900.0
    assert run(one).legs[0].notional == pytest.approx(10_000.0)
    one.view.flight_qty[0] = 1000.0
    assert run(one).outcome == "blocked"


def test_expired_unwind_is_none() -> None:
    one = unwinding()
    one.market.halted = HaltView(all=True)
    assert run(one, NOW_NS + 1).reasons == (R.halted,)


# --- users' stories ---------------------------------------------------------------------------------------------------------------


def test_h01_three_fills_in_a_burst_are_one_net_hedge() -> None:
    one = desk({"BTC": 0.0}, told=_one_leg())
    for qty in (400.0, 300.0, 300.0):
        one.view.exposure_qty[0] += qty
    decision = run(one)
    assert [leg.side for leg in decision.legs] == ["SELL"]
    assert decision.legs[0].notional == pytest.approx(100_000.0, rel=0.06)
    sent(one, decision)
    assert run(one).reasons[0] == R.inflight_covers


def test_h05_flattened_exposure_closes_the_hedge_and_opens_none() -> None:
    one = desk({"BTC": 0.0}, held={"PERP": -990.0})
    decision = run(one)
    assert [leg.side for leg in decision.legs] == ["BUY"]
    assert decision.reduce_only
    assert decision.p[0] + decision.h[0] <= 0.0
    sent(one, decision)
    assert run(one).outcome == "nothing"


def test_h06_unexpected_size_meets_the_bounds_and_the_record_says_so() -> None:
    decision = run(desk({"BTC": 1_000_000.0}, told=_one_leg()))
    assert decision.outcome == "sent"
    assert abs(decision.h[0]) <= 1e6
    assert {R.hedge_reduced_by_limit, R.limit_bound} <= set(decision.reasons)
    assert decision.binding[0].name == "PERP"
    assert R.escalated in [alert.reason for alert in decision.escalations]


def test_h07_exposure_that_grows_while_a_hedge_is_open_is_topped_up() -> None:
    one = desk()
    first = run(one)
    sent(one, first)
    one.view.open_versions.add(one.view.exposure_version)
    one.view.exposure_qty[0] = 1500.0
    one.view.exposure_version = "aa" * 8
    second = run(one)
    assert second.outcome == "sent"
    assert second.legs[0].notional == pytest.approx(50_000.0, rel=0.05)


def test_h08_limit_below_the_position_allows_only_the_way_back() -> None:
    for exposure in (1000.0, 5000.0):
        one = desk({"BTC": exposure}, held={"PERP": -1000.0}, told=_one_leg(), risk_state=risk({"PERP": 60_000.0}))
        decision = run(one)
        assert decision.outcome == "sent"
        assert decision.reasons[0] == R.limit_forced
        assert decision.h[0] == pytest.approx(40_000.0)
        assert decision.reduce_only


def test_h08_no_limit_is_forced_while_the_leg_is_closed() -> None:
    one = desk(held={"PERP": -1000.0}, told=_one_leg(), risk_state=risk({"PERP": 60_000.0}))
    one.market.halted = HaltView(symbols=frozenset({"PERP"}))
    assert run(one).outcome != "sent"


def test_h09_identical_instruments_share_one_hedge() -> None:
    rows = returns()
    rows[:, 3] = rows[:, 1]
    told = universe(
        [instrument("PERP", underlying="BTC"), instrument("SPARE", underlying="BTC")],
        [ExposureInstrument(symbol="BTC", currency="USD", underlying="BTC")],
    )
    one = desk(told=told, market=market_of(rows=rows))
    decision = run(one)
    assert decision.kkt_violation <= 1e-9
    assert (decision.h <= 0).all()
    assert -decision.h.sum() == pytest.approx(100_000.0, rel=0.05)
    sent(one, decision)
    filled(one)
    for _ in range(3):
        again = run(one)
        assert again.outcome != "sent", again.reasons


def test_h13_window_that_opens_mid_flight_stops_what_follows() -> None:
    window = DoNotTrade(instrument="PERP", from_ns=NOW_NS + 1, to_ns=NOW_NS + 2, reason="results")
    one = desk(told=_one_leg(), policy_state=policy(do_not_trade=[window]))
    sent(one, run(one, NOW_NS))
    one.view.exposure_qty[0] = 3000.0
    assert R.dnt in run(one, NOW_NS + 1).reasons
    assert run(one, NOW_NS + 2).outcome == "sent"


def test_h14_no_covariance_and_no_quote_is_no_crash() -> None:
    bare = desk(market=market_of(bars=0))
    assert run(bare).reasons[0] == R.warmup
    assert run(bare).state == "REDUCING"
    bare.market.mid[:] = math.nan
    assert run(bare).reasons[0] == R.price_missing
    bare.market.ts_ns[:] = np.iinfo(np.int64).min
    assert run(bare).reasons[0] == R.price_missing
    early = run(_warm())
    assert early.ratio_source == "prior"
    assert R.warmup in early.reasons


def test_h15_leg_is_priced_at_its_own_quote() -> None:
    one = desk()
    one.market.quote("BTC", 100.0)
    one.market.quote("PERP", 250.0)
    leg = run(one).legs[0]
    assert leg.mid == 250.0
    assert leg.notional == pytest.approx(leg.qty * 250.0)
    assert leg.notional == pytest.approx(100_000.0, rel=0.06)
    assert leg.limit_px == Decimal("249.73")


def test_h16_series_without_variance_is_left_out_with_the_reason() -> None:
    told = universe(
        [instrument("PERP", underlying="BTC"), instrument("FLAT")], [ExposureInstrument(symbol="BTC", currency="USD", underlying="BTC")]
    )
    one = desk({"BTC": 1000.0, "FLAT": 500.0}, told=told)
    decision = run(one)
    assert [leg.symbol for leg in decision.legs] == ["PERP"]
    assert decision.exposure_reasons[one.frame.exposure_index["FLAT"]] == R.zero_variance


def test_h17_gold_by_silver_is_never_one_to_one() -> None:
    rng = np.random.default_rng(17)
    market = StandIn(["GOLD", "SILVER"])
    market.bars(factor_returns(rng, 300, np.array([[1.0], [1.9]]), np.array([8e-4, 9e-4])))
    one = book_of(market, universe([instrument("SILVER")]), {"GOLD": 1000.0}, risk_state=risk({"SILVER": 1e6}))
    decision = run(one)
    assert decision.outcome == "sent"
    assert 0.25 < decision.legs[0].notional / 100_000.0 < 0.6
    assert decision.expected["variance_reduction"] > 0.9


def test_h18_inverse_contract_counts_its_value_and_keeps_its_sign() -> None:
    """A contract of 10 USD is 10 USD whatever the coin costs; long coin is hedged by selling contracts."""
    told = universe([instrument("PERP", kind="INVERSE", multiplier=10.0, lot="1", underlying="BTC")],
                    [ExposureInstrument(symbol="BTC", currency="USD", underlying="BTC")])  # fmt: skip
    for mid in (100.0, 50_000.0):
        one = desk({"BTC": 100_000.0 / mid}, told=told)
        one.market.quote("BTC", mid)
        one.market.quote("PERP", mid)
        leg = run(one).legs[0]
        assert leg.side == "SELL"
        assert leg.qty == pytest.approx(10_000.0, rel=0.06)
        assert leg.notional == pytest.approx(10.0 * leg.qty)


def test_h19_cross_that_changes_changes_the_exposure() -> None:
    rng = np.random.default_rng(19)
    market = StandIn(["DAX", "FDAX", "EURUSD"])
    market.bars(factor_returns(rng, 200, np.array([[1.0], [1.0], [0.1]]), np.array([2e-5, 2e-5, 2e-4])))
    told = universe(
        [instrument("FDAX", currency="EUR", underlying="DAX")], [ExposureInstrument(symbol="DAX", currency="EUR", underlying="DAX")]
    )
    one = book_of(market, told, {"DAX": 1000.0}, risk_state=risk({"FDAX": 1e6}))
    market.quote("EURUSD", 1.10)
    first = run(one)
    assert first.e[0] == pytest.approx(110_000.0)
    assert first.legs[0].notional == pytest.approx(first.legs[0].qty * 110.0)
    market.quote("EURUSD", 1.20)
    assert run(one).e[0] == pytest.approx(120_000.0)
    market.quote("EURUSD", 1.20, age_ns=4_000_000_000)
    assert run(one).reasons == (R.stale_quote,)
    market.mid[market.index["EURUSD"]] = math.nan
    assert run(one).reasons == (R.price_missing,)


def test_h19_currency_pair_is_its_base_amount() -> None:
    rng = np.random.default_rng(20)
    market = StandIn(["USDJPY", "EURUSD"])
    market.bars(factor_returns(rng, 200, np.array([[1.0], [-0.8]]), np.array([2e-4, 2e-4])))
    market.quote("USDJPY", 150.0)
    market.quote("EURUSD", 1.10)
    told = universe([instrument("EURUSD", kind="FX", currency="USD")], [ExposureInstrument(symbol="USDJPY", kind="FX", currency="JPY")])
    decision = run(book_of(market, told, {"USDJPY": 5000.0, "EURUSD": 1000.0}, risk_state=risk({"EURUSD": 1e6})))
    np.testing.assert_allclose(decision.e, [1100.0, 5000.0])


def test_h22_halt_of_one_symbol_lets_the_others_go_on() -> None:
    one = desk({"BTC": 1000.0, "ETH": 1000.0})
    one.market.halted = HaltView(symbols=frozenset({"PERP"}))
    decision = run(one)
    assert decision.outcome == "sent"
    assert [leg.symbol for leg in decision.legs] == ["ETH"]
    assert (R.halted, "PERP") in [(one.reason, one.name) for one in decision.binding]


def test_empty_view_is_aligned_with_its_frame() -> None:
    one = desk()
    view = new_view(one.frame)
    assert run(replace(one, view=view)).reasons == (R.no_exposure,)
