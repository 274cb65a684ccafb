"""Books to hedge, from a seed: a factor model of exposures and instruments, limits, costs and stress scenarios. For bench.hedge_speed and tests.

Returns have five factors (a broad one and four of groups), instruments a part of their own too; every figure is per bar of a minute, notionals in USD.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from operators.optimiser import Problem, Solution, Space, empty_problem, empty_solution, space_for
from operators.proposal import Exposures, Limits, Reasons, Terms, propose, risk_aversion

NOW_NS = 1_769_904_000_000_000_000
FACTORS = 5
FACTOR_VOLATILITY = np.array([6e-4, 3e-4, 3e-4, 2e-4, 2e-4])
"""Per minute; 6 bps is 12 % a year for a market that is always open, 40 % with the groups and the own part."""
REFERENCE_NOTIONAL = 2e7


@dataclass
class Book:
    """One book: what comes in, and the memory decisions are made in."""

    exposures: Exposures
    limits: Limits
    terms: Terms
    problem: Problem
    reasons: Reasons
    distance: np.ndarray
    solution: Solution
    space: Space
    lot: np.ndarray
    min_notional: np.ndarray
    shares: np.ndarray
    rng: np.random.Generator

    def decide(self) -> int:
        """Propose trades from solution.h; return the status."""
        return propose(
            self.exposures, self.limits, self.terms, NOW_NS, self.shares, 5.0,
            self.problem, self.reasons, self.distance, self.solution, self.space,
        )  # fmt: skip

    def fill(self, notional: float = 2e5) -> None:
        """A fill comes in: one exposure moves by about `notional`."""
        i = int(self.rng.integers(len(self.exposures.e)))
        self.exposures.e[i] += notional * self.rng.normal()

    def bar(self) -> None:
        """A bar closes: the covariance moves by a few percent."""
        s_xx = self.exposures.s_xx
        turn = np.exp(0.02 * self.rng.normal(size=len(s_xx)))
        s_xx[:] = s_xx * np.outer(turn, turn)

    def send(self) -> None:
        """The proposed trades are sent and count as held; the next search starts at no trade."""
        self.exposures.p[:] += self.solution.h
        self.solution.h[:] = 0.0


def make_book(seed: int, n: int = 200, m: int = 40, s: int = 8, stressed: float = 0.5) -> Book:
    """Return a book of n exposures, m instruments, s scenarios, not yet hedged.

    `stressed` is the share of scenarios whose limit is tight: between a quarter and a half of the loss without a hedge.
    """
    rng = np.random.default_rng(seed)
    load_x, load_y = _loadings(rng, m), _loadings(rng, n)
    own_x = rng.uniform(1e-4, 4e-4, m)
    s_xx = (load_x * FACTOR_VOLATILITY**2) @ load_x.T + np.diag(own_x**2)
    s_xy = (load_x * FACTOR_VOLATILITY**2) @ load_y.T
    ratios = np.linalg.solve(s_xx + 0.02 * np.diag(np.diag(s_xx)), s_xy)
    e = rng.normal(size=n) * REFERENCE_NOTIONAL / np.sqrt(n)
    cost = rng.uniform(1.0, 5.0, m)
    factor_shock = rng.normal(size=(s, FACTORS)) * FACTOR_VOLATILITY * np.sqrt(1440.0) * 4.0
    exposure_shock, hedge_shock = factor_shock @ load_y.T, factor_shock @ load_x.T
    loss = -exposure_shock @ e
    tight = rng.random(s) < stressed
    max_loss = np.abs(loss) * np.where(tight, rng.uniform(0.25, 0.5, s), 2.0) + 1e4
    volume = 10.0 ** rng.uniform(7.0, 9.5, m)
    exposures = Exposures(
        e, np.ascontiguousarray(ratios), s_xx, np.zeros(m), np.zeros(m), 0.5 * cost, 0.3 * cost, 0.2 * cost,
        rng.uniform(0.02, 0.15, m), exposure_shock, hedge_shock, max_loss,
    )  # fmt: skip
    whole = np.zeros(m, np.int64)
    limits = Limits(
        rng.uniform(1e6, 2e7, m), rng.uniform(5e5, 2e7, m), rng.integers(1, 4, m), volume * 2e-3, volume, np.full(m, 12.0),
        volume * rng.uniform(0.0, 0.1, m), whole.copy(), whole.copy(), whole.copy(), whole.copy(),
    )  # fmt: skip
    aversion = risk_aversion(2.0, float(np.sqrt(np.median(np.diag(s_xx)))), 2.0, 0.02, REFERENCE_NOTIONAL)
    terms = Terms(aversion, 2.0, 0.0, 1.0, 1e-6, 5e6, np.inf, False)
    return Book(
        exposures, limits, terms, empty_problem(m, s), Reasons(whole.copy(), whole.copy()), np.zeros(m), empty_solution(m, s),
        space_for(m, s), np.full(m, 1e3), np.full(m, 5e3), np.array([1.0, 0.5, 0.2]), rng,
    )  # fmt: skip


def _loadings(rng: np.random.Generator, count: int) -> np.ndarray:
    """Return (count, FACTORS): everybody on the broad factor, each on one group."""
    found = np.zeros((count, FACTORS))
    found[:, 0] = rng.uniform(0.6, 1.4, count)
    found[np.arange(count), 1 + rng.integers(FACTORS - 1, size=count)] = rng.uniform(0.5, 1.5, count)
    return found
