"""What no decision may ever do, on random books: add risk, pass a limit, trade under HALT, over-hedge, send what is in flight again (hedging §1 to §7)."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.book_frame import HedgeRules
from operators.decision import Decision, decide
from schemas.hedging import DoNotTrade, ExposureInstrument, StressScenario, Unwind
from schemas.reasons import HedgeReason, hedge_group_of
from tests.market_stand_in import (
    BOOK,
    NOW_NS,
    Channel,
    Desk,
    HaltView,
    StandIn,
    book_of,
    factor_returns,
    instrument,
    policy,
    risk,
    universe,
)

R = HedgeReason
TIMES = 20 if os.environ.get("HEDGEROW_NIGHTLY") else 1
CLOSE = 1e-9
SEEDS = st.integers(0, 2**32 - 1)


def examples(n: int) -> settings:
    return settings(max_examples=n * TIMES, deadline=None)


def draw_book(seed: int, *, wild: bool = True, fine: bool = False) -> Desk:
    """Return a random book: 1 to 8 exposures, 1 to 6 instruments, some exposures instruments themselves, limits often tight. wild: things may be
    closed, stale, warming up. fine: lots are small and nothing limits the trade."""
    rng = np.random.default_rng(seed)
    n, m = int(rng.integers(1, 9)), int(rng.integers(1, 7))
    exposures, hedges = [f"E{i}" for i in range(n)], [f"H{j}" for j in range(m)]
    market = StandIn([*exposures, *hedges])
    k, factors = n + m, int(rng.integers(1, 4))
    loadings = rng.normal(size=(k, factors)) * np.where(rng.random(factors) < 0.5, 1.0, 0.3)
    loadings[:, 0] += rng.choice([0.0, 1.5])
    own = 10.0 ** rng.uniform(-5.5, -3, size=k)
    if m > 1 and rng.random() < 0.2:
        loadings[n + 1], own[n + 1] = loadings[n], 0.0
    bars = int(rng.choice([0, 1, 10, 32, 60, 300], p=[0.02, 0.02, 0.04, 0.04, 0.28, 0.6])) if wild else 300
    rows = factor_returns(rng, max(bars, 1), loadings, own)
    if bars:
        fresh = rng.random(rows.shape) < (0.9 if rng.random() < 0.3 else 1.0)
        market.bars(np.where(fresh, rows, 0.0), fresh)
    for name in market.index:
        market.quote(
            name, float(10.0 ** rng.uniform(0, 4)), half_spread_bps=float(rng.uniform(0, 3)), size=float(10.0 ** rng.uniform(2, 8))
        )
    if fine:
        market.bid_size[:] = market.ask_size[:] = 1e12
        market.half_spread_bps[:] = np.minimum(market.half_spread_bps, 1.9)
    told = []
    for j, name in enumerate(hedges):
        told.append(
            instrument(
                name, venue=f"V{j % 3}", lot="0.0001" if fine else f"{10.0 ** rng.uniform(-3, 1):.4f}", tier=int(rng.integers(1, 4)),
                min_notional=0.0 if fine else float(rng.choice([0.0, 50.0, 2000.0])), cost_bps=float(rng.uniform(0, 5)),
                margin_rate=float(rng.choice([0.0, 0.1, 0.3])), adv_notional=1e15 if fine else float(10.0 ** rng.uniform(4, 9)),
                underlying=f"U{int(rng.integers(3))}" if rng.random() < 0.5 else None,
                kind="INVERSE" if rng.random() < 0.1 else "LINEAR", secondary_of=hedges[0] if j and rng.random() < 0.2 else None,
            )
        )  # fmt: skip
    listed = [
        ExposureInstrument(symbol=name, currency="USD", underlying=f"U{int(rng.integers(3))}" if rng.random() < 0.5 else None)
        for name in exposures
    ]
    names = exposures + [name for name in hedges if rng.random() < 0.3]
    notional = {name: float(rng.normal() * 10.0 ** rng.uniform(2, 6)) * (rng.random() < 0.85) for name in names}
    qty = {name: notional[name] / float(market.mid[market.index[name]]) for name in names}
    held = {
        name: float(rng.normal() * 10.0 ** rng.uniform(1, 5)) / float(market.mid[market.index[name]])
        for name in hedges
        if rng.random() < 0.5
    }
    limits: dict[str, Any] = {}
    if not fine:
        limits = {name: (float(10.0 ** rng.uniform(3, 7)), float(rng.normal() * 1e5 + 1e5)) for name in hedges if rng.random() < 0.8}
    level: dict[str, Any] = {"risk_level": "CRITICAL" if wild and rng.random() < 0.15 else "LOW"}
    if not fine and rng.random() < 0.5:
        level |= {"max_capital": float(10.0 ** rng.uniform(2, 6)), "headroom_capital": float(rng.normal() * 1e4 + 1e4)}
    shocks = [
        StressScenario(id=f"s{s}", shocks={"*": float(rng.uniform(-0.3, 0.3)), hedges[0]: float(rng.uniform(-0.3, 0.3))},
                       max_loss=float(10.0 ** rng.uniform(1, 6)))
        for s in range(0 if fine else int(rng.integers(0, 4)))
    ]  # fmt: skip
    windows = [
        DoNotTrade(instrument=name, from_ns=NOW_NS - 5, to_ns=NOW_NS + 5, reason="x") for name in hedges if wild and rng.random() < 0.05
    ]
    one = book_of(
        market, universe(told, listed, reference_notional=float(rng.choice([1e3, 1e5]))), qty, held, risk(limits, **level),
        policy(stress_scenarios=shocks, do_not_trade=windows), HedgeRules(dust=0.0 if fine else 1e-4),
    )  # fmt: skip
    if wild:
        for name in hedges:
            if rng.random() < 0.08:
                market.quote(name, 5.0, age_ns=4_000_000_000)
        for v in range(3):
            market.channels[f"V{v}"] = Channel(str(rng.choice(["UP", "DOWN", "DEGRADED"], p=[0.85, 0.05, 0.1])))
        one.view.flight_qty[:] = np.where(rng.random(m) < 0.2, rng.normal(size=m), 0.0)
        one.view.traded_today[:] = np.where(rng.random(m) < 0.2, 10.0 ** rng.uniform(2, 7, size=m), 0.0)
        one.view.unknown[:] = rng.random(m) < 0.05
        one.view.last_send_ns[:] = np.where(rng.random(m) < 0.1, NOW_NS - 1, 0)
        if rng.random() < 0.1:
            market.halted = HaltView(symbols=frozenset({hedges[0]}), venues=frozenset({"V1"} if rng.random() < 0.5 else ()))
    return one


def run(one: Desk) -> Decision:
    decision = decide(one.view, one.market, NOW_NS, one.rules)
    assert decision.reasons
    assert R.none not in decision.reasons
    assert (decision.outcome == "nothing") == (hedge_group_of(decision.reasons[0]) == "nothing to do")
    return decision


def variance(one: Desk, d: np.ndarray) -> float:
    assert one.frame.per_bar is not None
    return float(d @ one.frame.per_bar.s_xx @ d)


@examples(150)
@given(SEEDS)
def test_h27_a_sent_hedge_never_adds_risk_and_takes_a_hundredth_of_it(seed: int) -> None:
    one = draw_book(seed)
    decision = run(one)
    if decision.outcome == "sent" and R.limit_forced not in decision.reasons:
        before, after = variance(one, decision.d), variance(one, decision.d_after)
        assert after <= before * (1 - 0.01) * (1 + CLOSE)
        if np.abs(decision.e).sum() and decision.needed_risk > decision.dust_risk:
            assert decision.expected["coverage_after"] >= decision.coverage_expected


@examples(150)
@given(SEEDS)
def test_no_limit_is_exceeded(seed: int) -> None:
    one = draw_book(seed)
    decision = run(one)
    h, p, frame = decision.h, decision.p + decision.in_flight, one.frame
    if not h.any() or decision.outcome != "sent":
        return
    state = one.market.risks[BOOK].payload
    limits = {limit.instrument: limit for limit in state.limits}
    close = 1 + CLOSE
    for j in np.flatnonzero(h):
        name = frame.instruments[j]
        before, after = abs(p[j]), abs(p[j] + h[j])
        if name in limits:
            assert after <= max(limits[name].max_notional, before) * close
            assert after <= (before + max(limits[name].headroom_notional, 0.0)) * close
        series = one.market.index[name]
        unit = abs(decision.legs[0].notional / decision.legs[0].qty) if len(decision.legs) == 1 else None
        touch = min(one.market.bid_size[series], one.market.ask_size[series]) * (
            unit if unit is not None else next(leg.notional / leg.qty for leg in decision.legs if leg.instrument == j)
        )
        assert abs(h[j]) <= one.rules.tier_shares[frame.tier[j] - 1] * one.rules.touches * touch * close
        assert abs(h[j]) + one.view.traded_today[j] <= frame.max_adv_pct[j] / 100 * frame.adv_notional[j] * close
    rate = frame.margin_rate
    used, uses = float((rate * np.abs(p)).sum()), float((rate * np.abs(p + h)).sum())
    most = math.inf if state.max_capital is None else state.max_capital
    if state.headroom_capital is not None:
        most = min(most, used + max(state.headroom_capital, 0.0))
    if decision.state == "REDUCING":
        most = used
    assert uses <= max(most, used) * close
    names, others = frame.exposures, frame.instruments
    for scenario in one.market.policies[BOOK].payload.stress_scenarios:
        shock = scenario.shocks
        of_e = np.array([shock.get(name, shock["*"]) for name in names])
        of_p = np.array([shock.get(name, shock["*"]) for name in others])
        loss = -(of_e @ decision.e) - of_p @ p
        size = np.abs(of_p * h).sum() + abs(loss)
        assert loss - of_p @ h <= max(scenario.max_loss, loss) + CLOSE * size


@examples(100)
@given(SEEDS)
def test_legs_are_whole_lots_on_open_instruments(seed: int) -> None:
    one = draw_book(seed)
    decision = run(one)
    for leg in decision.legs:
        j = leg.instrument
        assert leg.lots >= 1
        assert leg.qty == float(one.frame.lot_units[j] * leg.lots)
        assert leg.notional >= one.frame.min_notional[j] * (1 - CLOSE)
        assert leg.limit_px is not None
        assert (leg.limit_px - leg.limit_px.from_float(leg.mid)) * (1 if leg.side == "BUY" else -1) >= 0
        if decision.outcome == "sent":
            assert one.market.channels.get(one.frame.venues[j], Channel()).status != "DOWN"
        assert leg.symbol not in one.market.halted.symbols
        assert one.frame.venues[j] not in one.market.halted.venues
        assert leg.symbol not in {window.instrument for window in one.market.policies[BOOK].payload.do_not_trade}
        assert not one.view.unknown[j]
        assert NOW_NS - one.market.ts_ns[one.market.index[leg.symbol]] <= 3_000_000_000


@examples(60)
@given(SEEDS, st.booleans(), st.booleans())
def test_halt_means_none_but_unwinds_and_do_not_trade_beats_them(seed: int, unwinds: bool, forbidden: bool) -> None:
    one = draw_book(seed)
    one.market.halted = HaltView(all=True) if seed % 2 else HaltView(books=frozenset({BOOK}))
    told = one.market.policies[BOOK].payload
    orders = [Unwind(id=f"U{j}", instrument=name, max_notional=5e3, expires_ns=NOW_NS + 1) for j, name in enumerate(one.frame.instruments)]
    windows = [DoNotTrade(instrument=name, from_ns=NOW_NS, to_ns=NOW_NS + 1, reason="x") for name in one.frame.instruments]
    one.market.policies[BOOK] = policy(
        stress_scenarios=told.stress_scenarios, unwind=orders if unwinds else [], do_not_trade=windows if forbidden else []
    )
    decision = run(one)
    assert decision.state == "HALTED"
    assert R.halted in decision.reasons
    if not unwinds or forbidden:
        assert decision.outcome == "blocked"
        assert not decision.legs
    for leg in decision.legs:
        assert decision.reasons[0] == R.unwind_by_policy
        assert decision.reduce_only
        assert leg.notional <= 5e3 * (1 + CLOSE)
        assert leg.notional <= abs(decision.p[leg.instrument]) * (1 + CLOSE)


@examples(100)
@given(SEEDS)
def test_nothing_is_hedged_twice_over(seed: int) -> None:
    one = draw_book(seed)
    decision = run(one)
    if decision.outcome != "sent" or not decision.needed_risk > decision.dust_risk or R.limit_forced in decision.reasons:
        return
    assert one.frame.per_bar is not None
    s, be = one.frame.per_bar.s_xx, decision.d - decision.p - decision.in_flight
    before = -(be @ s @ (decision.p + decision.in_flight)) / (be @ s @ be)
    assert decision.expected["overhedge_share"] <= max(1.02, before) * (1 + CLOSE)


def in_flight(one: Desk, decision: Decision) -> None:
    for leg in decision.legs:
        one.view.flight_qty[leg.instrument] += leg.qty if leg.side == "BUY" else -leg.qty


@examples(80)
@given(SEEDS)
def test_what_is_in_flight_is_not_sent_again(seed: int) -> None:
    one = draw_book(seed, wild=False, fine=True)
    first = run(one)
    if first.outcome == "sent":
        in_flight(one, first)
        second = run(one)
        assert second.outcome != "sent", (second.legs, second.expected, first.expected)
        assert second.coverage == first.coverage or (math.isnan(second.coverage) and math.isnan(first.coverage))
        one.view.open_versions.add(one.view.exposure_version)
        assert R.same_version in run(one).reasons


@examples(40)
@given(SEEDS)
def test_equal_inputs_give_equal_bits(seed: int) -> None:
    one, other = draw_book(seed), draw_book(seed)
    decide(other.view, other.market, NOW_NS + 7, replace(other.rules, uncovered=0.01))  # memory that was used before makes no difference
    first, second, third = run(one), run(other), run(one)
    for again in (second, third):
        assert again.inputs_sha256 == first.inputs_sha256
        assert again.reasons == first.reasons
        assert again.h.tobytes() == first.h.tobytes()
        assert repr(again.legs) == repr(first.legs)
        assert repr(again.expected) == repr(first.expected)
        assert again.binding == first.binding


@examples(100)
@given(SEEDS)
def test_effectiveness_is_the_bound_by_the_coverage(seed: int) -> None:
    decision = run(draw_book(seed))
    if math.isfinite(decision.coverage) and math.isfinite(decision.effectiveness) and decision.needed_risk > decision.dust_risk:
        told = decision.bound_r2 * (1 - (1 - decision.coverage) ** 2)
        assert math.isclose(decision.effectiveness, told, rel_tol=1e-8, abs_tol=1e-9 * max(1.0, (1 - decision.coverage) ** 2))


@examples(30)
@given(SEEDS)
def test_correlated_book_is_hedged_jointly(seed: int) -> None:
    """Two exposures that offset each other: each alone would be hedged nearly whole, together only what is left of them."""
    rng = np.random.default_rng(seed)
    market = StandIn(["E0", "E1", "H0"])
    market.bars(factor_returns(rng, 300, np.array([[1.0], [1.0], [1.0]]), np.full(3, 2e-5)))
    told = universe([instrument("H0")], reference_notional=1e3)
    offset = float(rng.uniform(0.3, 1.0))
    joint = run(book_of(market, told, {"E0": 1000.0, "E1": -1000.0 * offset}))
    single = [run(book_of(market, told, {name: qty})) for name, qty in (("E0", 1000.0), ("E1", -1000.0 * offset))]
    assert all(decision.outcome == "sent" for decision in single)
    alone = sum(float(np.abs(decision.h).sum()) for decision in single)
    assert float(np.abs(joint.h).sum()) <= (1 - offset + 0.05) / (1 + offset) * alone + 2e3


@examples(60)
@given(SEEDS)
def test_every_open_leg_has_a_finite_bound(seed: int) -> None:
    one = draw_book(seed)
    one.market.risks[BOOK] = risk({})
    decision = run(one)
    assert np.isfinite(decision.lower).all()
    assert np.isfinite(decision.upper).all()
