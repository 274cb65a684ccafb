"""From exposures and limits to the problem: the formulas, the constraint table row by row, what binds and why."""

from __future__ import annotations

import numpy as np
import pytest

from bench.hedge_market import Book, make_book
from operators.optimiser import Status, empty_problem, infeasibility
from operators.proposal import (
    TIER_SHARES,
    TOUCHES,
    Bound,
    Limits,
    Reasons,
    Terms,
    binding,
    build_bounds,
    build_coupling,
    build_objective,
    propose,
)
from operators.proposal import risk_aversion as aversion_of

NOW_NS = 1_000
FREE = {
    "max_notional": 1e9, "headroom_notional": 1e9, "tier": 0, "touch_notional": 0.0, "adv_notional": 1e12, "max_adv_pct": 12.0,
    "traded_notional": 0.0, "dnt_from_ns": 0, "dnt_to_ns": 0, "closed": 0, "reduce_only": 0,
}  # fmt: skip
WHOLE = ("tier", "dnt_from_ns", "dnt_to_ns", "closed", "reduce_only")


def bounds(p: float, **given: float) -> tuple[float, str, float, str]:
    """Return (lower, its reason, upper, its reason) of one leg."""
    told = {**FREE, **given}
    limits = Limits(**{name: np.array([x], np.int64 if name in WHOLE else np.float64) for name, x in told.items()})
    problem, reasons = empty_problem(1, 0), Reasons(np.zeros(1, np.int64), np.zeros(1, np.int64))
    problem.p[0] = p
    build_bounds(limits, NOW_NS, TIER_SHARES, TOUCHES, problem, reasons)
    return problem.lower[0], Bound(reasons.lower[0]).name, problem.upper[0], Bound(reasons.upper[0]).name


@pytest.mark.parametrize(
    ("p", "given", "expected"),
    [
        (0.0, {"max_notional": 100.0}, (-100, "limit_bound", 100, "limit_bound")),
        (30.0, {"max_notional": 100.0}, (-130, "limit_bound", 70, "limit_bound")),
        (150.0, {"max_notional": 100.0}, (-250, "limit_bound", 0, "limit_bound")),
        (-150.0, {"max_notional": 100.0}, (0, "limit_bound", 250, "limit_bound")),
        (30.0, {"headroom_notional": 5.0}, (-65, "limit_bound", 5, "limit_bound")),
        (30.0, {"headroom_notional": 0.0}, (-60, "headroom_zero", 0, "headroom_zero")),
        (30.0, {"headroom_notional": -7.0}, (-60, "headroom_zero", 0, "headroom_zero")),
        (0.0, {"tier": 1, "touch_notional": 10.0}, (-50, "liquidity_tier", 50, "liquidity_tier")),
        (0.0, {"tier": 2, "touch_notional": 10.0}, (-25, "liquidity_tier", 25, "liquidity_tier")),
        (0.0, {"tier": 3, "touch_notional": 10.0}, (-10, "liquidity_tier", 10, "liquidity_tier")),
        (0.0, {"adv_notional": 1000.0, "traded_notional": 90.0}, (-30, "adv_cap", 30, "adv_cap")),
        (0.0, {"adv_notional": 1000.0, "traded_notional": 130.0}, (0, "adv_cap", 0, "adv_cap")),
        (30.0, {"reduce_only": 1}, (-30, "reducing_only", 0, "reducing_only")),
        (-30.0, {"reduce_only": 1}, (0, "reducing_only", 30, "reducing_only")),
        (0.0, {"reduce_only": 1}, (0, "reducing_only", 0, "reducing_only")),
        (30.0, {"dnt_from_ns": 1_000, "dnt_to_ns": 1_001}, (0, "dnt", 0, "dnt")),
        (30.0, {"dnt_from_ns": 900, "dnt_to_ns": 1_000, "max_notional": 40.0}, (-70, "limit_bound", 10, "limit_bound")),
        (150.0, {"dnt_from_ns": 0, "dnt_to_ns": 2_000, "max_notional": 100.0, "closed": 2}, (0, "dnt", 0, "dnt")),
        (0.0, {"closed": int(Bound.halted)}, (0, "halted", 0, "halted")),
        (0.0, {"closed": int(Bound.channel_down)}, (0, "channel_down", 0, "channel_down")),
        (0.0, {"closed": int(Bound.stale_quote)}, (0, "stale_quote", 0, "stale_quote")),
        (30.0, {"max_notional": 100.0, "tier": 1, "touch_notional": 10.0}, (-50, "liquidity_tier", 50, "liquidity_tier")),
        (80.0, {"max_notional": 100.0, "tier": 1, "touch_notional": 10.0}, (-50, "liquidity_tier", 20, "limit_bound")),
    ],
)
def test_bounds_are_the_constraint_table(p: float, given: dict[str, float], expected: tuple[float, str, float, str]) -> None:
    assert bounds(p, **given) == expected


@pytest.mark.parametrize("name", [name for name in FREE if name not in WHOLE])
def test_limit_that_is_not_a_number_does_not_open_the_leg(name: str) -> None:
    lower, _, upper, _ = bounds(0.0, **{"tier": 1, "touch_notional": 1.0, name: np.nan})
    assert np.isnan(lower)
    assert np.isnan(upper)


def test_bounds_always_contain_no_trade() -> None:
    rng = np.random.default_rng(1)
    for _ in range(2_000):
        given = {
            "max_notional": rng.uniform(0, 50), "headroom_notional": rng.uniform(-10, 50), "tier": int(rng.integers(0, 4)),
            "touch_notional": rng.uniform(0, 10), "adv_notional": rng.uniform(0, 500), "traded_notional": rng.uniform(0, 50),
            "reduce_only": int(rng.random() < 0.3),
        }  # fmt: skip
        lower, _, upper, _ = bounds(float(rng.normal() * 40), **given)
        assert lower <= 0 <= upper


def test_objective_terms_are_the_formulas() -> None:
    book = make_book(3)
    e, x, t = book.exposures.e, book.exposures, book.terms._replace(carry_weight=0.5, cost_weight=2.0)
    x.p[:] = book.rng.normal(size=40) * 1e6
    x.carry[:] = book.rng.normal(size=40) * 1e-5
    build_objective(x, t, book.problem, book.distance)
    distance = x.p + x.ratios @ e
    q = t.risk_aversion * t.bars * x.s_xx
    np.testing.assert_allclose(book.distance, distance, rtol=1e-10, atol=1e-3)
    np.testing.assert_allclose(book.problem.q, q, rtol=1e-14)
    np.testing.assert_allclose(book.problem.g, q @ distance - 0.5 * x.carry, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(book.problem.k, 2.0 * (x.cost_bps + x.half_spread_bps + x.impact_bps) / 1e4, rtol=1e-14)
    np.testing.assert_allclose(book.problem.c, 2.0 * x.margin_rate * t.funding, rtol=1e-14)


@pytest.mark.parametrize(
    ("max_capital", "headroom", "reducing", "limit"),
    [(500.0, np.inf, False, 500.0), (500.0, 20.0, False, 120.0), (50.0, 20.0, False, 50.0), (500.0, -5.0, False, 100.0),
     (500.0, 20.0, True, 100.0), (np.inf, np.inf, False, np.inf), (np.inf, np.inf, True, 100.0)],
)  # fmt: skip
def test_capital_limit_is_the_lesser_of_both(max_capital: float, headroom: float, reducing: bool, limit: float) -> None:
    book = make_book(1, n=3, m=2, s=1)
    book.exposures.p[:], book.exposures.margin_rate[:] = [600.0, -400.0], 0.1
    build_coupling(book.exposures, book.terms._replace(max_capital=max_capital, headroom_capital=headroom, reducing=reducing), book.problem)
    assert book.problem.capital[0] == pytest.approx(limit)


def test_stress_room_is_what_the_loss_may_rise_by() -> None:
    book = make_book(2, n=20, m=5, s=4)
    x = book.exposures
    x.p[:] = 1e5
    build_coupling(x, book.terms, book.problem)
    loss = -x.exposure_shock @ x.e - x.hedge_shock @ x.p
    np.testing.assert_allclose(book.problem.room, np.maximum(x.max_loss - loss, 0.0), rtol=1e-9, atol=1e-6)
    np.testing.assert_array_equal(book.problem.stress, -x.hedge_shock)


def test_loss_that_is_not_a_number_is_refused() -> None:
    book = make_book(2, n=20, m=5, s=4)
    book.exposures.max_loss[1] = np.nan
    assert book.decide() == Status.invalid
    assert (book.solution.h == 0).all()


def decided(book: Book) -> tuple[np.ndarray, np.ndarray]:
    assert book.decide() == Status.optimal
    legs, couplings = np.zeros(len(book.exposures.p), np.int64), np.zeros(len(book.exposures.max_loss) + 1, np.int64)
    assert binding(book.problem, book.solution, book.reasons, legs, couplings) == np.count_nonzero(legs) + np.count_nonzero(couplings)
    return legs, couplings


def test_binding_names_what_holds_a_trade_back() -> None:
    seen = set()
    for seed in range(12):
        book = make_book(seed)
        if seed % 3 == 0:
            book.terms = book.terms._replace(max_capital=2e4)
        legs, couplings = decided(book)
        assert infeasibility(book.problem, book.solution.h) <= 1e-9
        for j in np.flatnonzero(legs):
            assert book.solution.h[j] in (book.problem.lower[j], book.problem.upper[j])
        seen |= {Bound(x).name for x in (*legs, *couplings)}
    assert {"limit_bound", "liquidity_tier", "capital_cap", "stress_bound"} <= seen


def test_relaxing_what_binds_gains_and_the_rest_does_not() -> None:
    book = make_book(5)
    decided(book)
    best = book.solution.figures[0]
    free = book.solution.bound == 0
    for array in (book.limits.max_notional, book.limits.headroom_notional, book.limits.touch_notional, book.limits.adv_notional):
        array[free] *= 2
    book.solution.h[:] = 0
    decided(book)
    assert book.solution.figures[0] == pytest.approx(best, rel=1e-9)
    for array in (book.limits.max_notional, book.limits.headroom_notional, book.limits.touch_notional, book.limits.adv_notional):
        array[~free] *= 2
    decided(book)
    assert book.solution.figures[0] < best - 1e-6 * abs(best)


def test_closed_legs_are_not_traded() -> None:
    book = make_book(4)
    book.limits.closed[::2] = Bound.channel_down
    book.limits.dnt_to_ns[1] = 2**62
    legs, _ = decided(book)
    assert (book.solution.h[::2] == 0).all()
    assert book.solution.h[1] == 0
    assert {Bound(x).name for x in legs[::2]} <= {"none", "channel_down"}


def test_risk_aversion_leaves_the_share_uncovered() -> None:
    a = aversion_of(2.0, 6e-4, 2.0, 0.02, 1e7)
    assert 2e-4 / (a * 2.0 * 6e-4**2) == pytest.approx(0.02 * 1e7)
    assert np.isnan(aversion_of(2.0, 0.0, 2.0, 0.02, 1e7))


def test_direct_hedge_at_reference_cost_leaves_the_share_uncovered() -> None:
    """One exposure hedged by itself: what stays open is w of the reference exposure, whatever the exposure."""
    book = make_book(1, n=1, m=1, s=0)
    x, vol = book.exposures, 6e-4
    x.e[:], x.ratios[:], x.s_xx[:], x.margin_rate[:] = 3e7, 1.0, vol**2, 0.0
    x.cost_bps[:], x.half_spread_bps[:], x.impact_bps[:] = 1.0, 0.5, 0.5
    limits = Limits(**{name: np.array([v], np.int64 if name in WHOLE else np.float64) for name, v in FREE.items()})
    terms = Terms(aversion_of(2.0, vol, 2.0, 0.02, 1e7), 2.0, 0.0, 1.0, 0.0, np.inf, np.inf, False)
    status = propose(x, limits, terms, NOW_NS, TIER_SHARES, TOUCHES, book.problem, book.reasons, book.distance, book.solution, book.space)
    assert status == Status.optimal
    assert 3e7 + book.solution.h[0] == pytest.approx(0.02 * 1e7)
