"""Rounding to lots: what comes out can be sent, breaks nothing, beats no trade, and is as good as any in whole lots nearby."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from bench.lifted import value
from operators.lots import Rounding, round_to_lots
from operators.optimiser import Problem, empty_problem, infeasibility, space_for
from tests.operators.test_optimiser import random_problem, solved


def rounded(problem: Problem, h: np.ndarray, lot: np.ndarray, least: np.ndarray) -> tuple[int, np.ndarray]:
    out = h.copy()
    return round_to_lots(problem, out, lot, least, space_for(len(h), len(problem.room))), out


def sendable(lot: float, least: float, lower: float, upper: float) -> list[float]:
    counts = range(int(np.ceil(lower / lot)), int(np.floor(upper / lot)) + 1)
    return [n * lot for n in counts if n == 0 or abs(n * lot) >= least]


def direct(k: float = 0.1, g: float = -3.0, upper: float = 10.0) -> Problem:
    problem = empty_problem(1, 0)
    problem.q[0, 0], problem.g[0], problem.k[0], problem.lower[0], problem.upper[0] = 1.0, g, k, -10.0, upper
    return problem


@pytest.mark.parametrize("seed", range(4))
def test_rounded_trades_can_be_sent_and_beat_no_trade(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(150):
        problem = random_problem(rng, most=20, hard=bool(seed % 2))
        m = len(problem.g)
        width = np.maximum(problem.upper, -problem.lower) + 1e-9
        lot, least = rng.uniform(0.02, 0.4, m) * width, rng.choice([0.0, 0.2, 0.5]) * width
        result, h = rounded(problem, solved(problem)[1].h, lot, least)
        assert ((problem.lower <= h) & (h <= problem.upper)).all()
        assert infeasibility(problem, h) <= 1e-9
        np.testing.assert_allclose(h / lot, np.rint(h / lot), atol=1e-9)
        assert ((h == 0) | (np.abs(h) >= least * (1 - 1e-9))).all()
        nothing = value(problem, np.zeros(m))
        assert value(problem, h) <= nothing + 1e-12 * abs(nothing)
        assert (h == 0).all() == (result != Rounding.traded)


def test_rounded_trades_equal_the_exhaustive_search_for_up_to_three_legs() -> None:
    """Every combination of whole lots within the bounds; a local search may miss the best, so nearly all must be equal and none much worse."""
    rng = np.random.default_rng(5)
    missed, tried = 0, 0
    for _ in range(200):
        problem = random_problem(rng, most=3, hard=False)
        m = len(problem.g)
        lot, least = rng.uniform(0.05, 0.6, m), np.full(m, rng.choice([0.0, 0.3, 0.5]))
        grids = [sendable(*x) for x in zip(lot, least, problem.lower, problem.upper, strict=True)]
        if np.prod([len(grid) for grid in grids]) > 30_000:
            continue
        _, h = rounded(problem, solved(problem)[1].h, lot, least)
        every = np.array(list(itertools.product(*grids)))
        j = 0.5 * np.einsum("ni,ij,nj->n", every, problem.q, every) + every @ problem.g
        j += np.abs(every) @ problem.k + np.abs(problem.p + every) @ problem.c
        # what the bounds and lots allow but the coupling constraints do not
        limit = max(problem.capital[0], problem.margin_rate @ np.abs(problem.p))
        allowed = np.abs(problem.p + every) @ problem.margin_rate <= limit + 1e-12
        allowed &= (every @ problem.stress.T <= problem.room + 1e-12).all(axis=1)
        tried += 1
        missed += bool(value(problem, h) > j[allowed].min() + 1e-9)
    assert tried > 100
    assert missed <= tried * 0.02


def test_rounding_goes_toward_zero_unless_one_more_lot_pays() -> None:
    assert rounded(direct(), np.array([2.9]), np.array([1.0]), np.zeros(1))[1] == 3.0  # J(3) = −4.2 < J(2) = −3.8
    assert rounded(direct(k=0.6), np.array([2.4]), np.array([1.0]), np.zeros(1))[1] == 2.0
    assert rounded(direct(upper=2.9), np.array([2.9]), np.array([1.0]), np.zeros(1))[1] == 2.0, "not beyond the bound"


def test_leg_under_the_least_notional_goes_to_nothing_or_to_the_least() -> None:
    assert rounded(direct(g=-1.5), np.array([1.4]), np.array([0.1]), np.array([2.0])) == (Rounding.traded, [2.0])  # J(2) = −0.8
    assert rounded(direct(g=-0.8), np.array([0.7]), np.array([0.1]), np.array([2.0])) == (Rounding.below_min_notional, [0.0])


def test_lot_that_was_computed_a_little_short_is_whole() -> None:
    assert rounded(direct(), np.array([0.3]) * 9.999999999999, np.array([0.1]) * 3, np.zeros(1))[1] == pytest.approx(3.0)


def test_nothing_asked_is_nothing_and_a_lot_too_large_is_not_sent() -> None:
    assert rounded(direct(), np.zeros(1), np.ones(1), np.zeros(1))[0] == Rounding.nothing
    assert rounded(direct(g=-1.0), np.array([0.9]), np.array([5.0]), np.zeros(1))[0] == Rounding.below_min_notional


def test_leg_without_lots_keeps_its_size() -> None:
    result, h = rounded(direct(), np.array([2.9]), np.zeros(1), np.array([1.0]))
    assert (result, h[0]) == (Rounding.traded, 2.9)


def test_offsetting_leg_that_rounds_away_does_not_break_a_stress_limit() -> None:
    """Long one leg and short the other with equal losses and no room: rounding them apart would overrun."""
    problem = empty_problem(2, 1)
    problem.q[:] = np.array([[1.0, -0.5], [-0.5, 1.0]])
    problem.g[:], problem.k[:] = [-2.0, 2.5], 0.01
    problem.lower[:], problem.upper[:] = -5, 5
    problem.stress[:], problem.room[:] = [[1.0, 1.0]], 0.0
    _, found = solved(problem)
    _, h = rounded(problem, found.h, np.array([0.25, 0.4]), np.zeros(2))
    assert infeasibility(problem, h) <= 1e-12
    assert value(problem, h) < 0
