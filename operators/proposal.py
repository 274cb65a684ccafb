"""From a book's exposures and limits to the hedger's problem: Q, g, prices, bounds with the reason of each, capital and stress. Kernels.

May not look anything up: exposures, ratios, covariance and limits come in. Rules: docs/hedging.md, "What it is built from".
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import numpy as np

from operators.optimiser import Floats, Ints, Problem, Solution, Space, solve
from schemas.jit import bare

BPS = 1e4
PERCENT = 100.0
TIER_SHARES = np.array([1.0, 0.5, 0.2])
"""Default share of the depth that a leg of liquidity tier 1, 2, 3 may take."""
TOUCHES = 5.0
"""The depth is this many times the size at the touch."""
BINDING = 1e-9
"""A multiplier is told as binding when above this, in units of max(|g|, k, c): below it is rounding."""


class Bound(IntEnum):
    """Which constraint set a bound, or binds. The names are the audit record's reason codes."""

    none = 0
    dnt = 1
    halted = 2
    channel_down = 3
    stale_quote = 4
    reducing_only = 5
    limit_bound = 6
    headroom_zero = 7
    liquidity_tier = 8
    adv_cap = 9
    capital_cap = 10
    stress_bound = 11


_NONE, _DNT, _HALTED, _CHANNEL_DOWN, _STALE_QUOTE, _REDUCING_ONLY, _LIMIT_BOUND, _HEADROOM_ZERO, _LIQUIDITY_TIER, _ADV_CAP = range(10)
_CAPITAL_CAP, _STRESS_BOUND = 10, 11


class Exposures(NamedTuple):
    """What is to be hedged, and by what; float64, n exposures, m instruments, s scenarios. Notionals in the book's base currency."""

    e: Floats
    """(n,) signed exposure."""
    ratios: Floats
    """(m, n) ratios in use, B: hedge notional needed, with opposite sign, per unit of exposure."""
    s_xx: Floats
    """(m, m) covariance of the instruments' returns per bar."""
    p: Floats
    """(m,) hedges held, in-flight ones at full remaining size."""
    carry: Floats
    """(m,) expected carry per notional over the horizon."""
    cost_bps: Floats
    """(m,)"""
    half_spread_bps: Floats
    """(m,)"""
    impact_bps: Floats
    """(m,)"""
    margin_rate: Floats
    """(m,)"""
    exposure_shock: Floats
    """(s, n) return of the exposure in the scenario."""
    hedge_shock: Floats
    """(s, m) return of the instrument in the scenario."""
    max_loss: Floats
    """(s,) notional."""


class Limits(NamedTuple):
    """What each instrument may be traded, (m,) each; float64 unless said otherwise. inf for no limit, but one of them must be finite."""

    max_notional: Floats
    """Largest |p + h|."""
    headroom_notional: Floats
    """Largest increase of |p|."""
    tier: Ints
    """int64, 1 to 3; 0 for no tier."""
    touch_notional: Floats
    """Size at the touch, the smaller side."""
    adv_notional: Floats
    """Average daily volume at the leg's venue."""
    max_adv_pct: Floats
    """Largest share of it, 12 by default."""
    traded_notional: Floats
    """Hedge volume of today at the leg's venue."""
    dnt_from_ns: Ints
    """int64; closed while dnt_from_ns ≤ now < dnt_to_ns."""
    dnt_to_ns: Ints
    """int64"""
    closed: Ints
    """int64: 0, or the `Bound` (halted, channel_down, stale_quote) for which the leg is closed."""
    reduce_only: Ints
    """int64: not 0 where a trade may only bring p toward 0."""


class Terms(NamedTuple):
    """The scalars of a decision."""

    risk_aversion: float
    """A, from `risk_aversion`."""
    bars: float
    """T, bars in the hedge horizon."""
    carry_weight: float
    """α; 0 by default."""
    cost_weight: float
    """γ; 1 by default."""
    funding: float
    """Price of a unit of margin over the horizon."""
    max_capital: float
    """inf for none."""
    headroom_capital: float
    """inf for none."""
    reducing: bool
    """Whether the book is REDUCING: capital may then not rise."""


class Reasons(NamedTuple):
    """Which `Bound` set each bound, int64 (m,) each."""

    lower: Ints
    upper: Ints


@bare
def risk_aversion(cost_bps: float, volatility: float, bars: float, uncovered: float, reference_notional: float) -> float:
    """Return A so that a direct hedge at `cost_bps` leaves at most the share `uncovered` of `reference_notional` open.

    A = k/(T·σ²·w·E_ref): the no-trade band ends where A·T·σ²·|residual| = k. `volatility` is per bar. NaN unless all are above 0.
    """
    if not (cost_bps > 0.0 and volatility > 0.0 and bars > 0.0 and uncovered > 0.0 and reference_notional > 0.0):
        return np.nan
    return cost_bps / BPS / (bars * volatility * volatility * uncovered * reference_notional)


@bare
def build_objective(exposures: Exposures, terms: Terms, problem: Problem, distance: Floats) -> None:
    """Fill q, g, k, c, p and margin_rate of `problem`, and `distance` (m,) = p + B·e.

    Q = A·T·S_xx, g = Q·distance − α·carry, k = γ·(cost + half spread + impact), c = γ·margin_rate·funding.
    """
    e, ratios, s_xx, p = exposures.e, exposures.ratios, exposures.s_xx, exposures.p
    m, n = len(p), len(e)
    scale = terms.risk_aversion * terms.bars
    for j in range(m):
        row = ratios[j]
        # four sums beside each other: one alone waits for its own additions
        a, b, c, d = 0.0, 0.0, 0.0, 0.0
        whole = n - n % 4
        for i in range(0, whole, 4):
            a += row[i] * e[i]
            b += row[i + 1] * e[i + 1]
            c += row[i + 2] * e[i + 2]
            d += row[i + 3] * e[i + 3]
        for i in range(whole, n):
            a += row[i] * e[i]
        distance[j] = p[j] + ((a + b) + (c + d))
        problem.g[j] = -terms.carry_weight * exposures.carry[j]
        problem.p[j] = p[j]
        rate = exposures.margin_rate[j]
        problem.margin_rate[j] = rate
        problem.k[j] = terms.cost_weight * (exposures.cost_bps[j] + exposures.half_spread_bps[j] + exposures.impact_bps[j]) / BPS
        problem.c[j] = terms.cost_weight * rate * terms.funding
    for j in range(m):
        to, covariance, at = problem.q[j], s_xx[j], distance[j]
        for i in range(m):
            x = scale * covariance[i]
            to[i] = x
            problem.g[i] += at * x


@bare
def build_coupling(exposures: Exposures, terms: Terms, problem: Problem) -> None:
    """Fill capital, stress and room of `problem`.

    Capital: min(max_capital, used + headroom), and what is used when REDUCING. loss_s(h) = −Σ e·shock − Σ (p + h)·shock may rise by
    max(max_loss − loss_s(0), 0): met, or at least not worse.
    """
    e, p = exposures.e, exposures.p
    used = 0.0
    for j in range(len(p)):
        used += exposures.margin_rate[j] * abs(p[j])
    limit = min(terms.max_capital, used + max(terms.headroom_capital, 0.0))
    problem.capital[0] = max(min(limit, used) if terms.reducing else limit, 0.0)
    for s in range(len(exposures.max_loss)):
        loss = 0.0
        shock = exposures.exposure_shock[s]
        for i in range(len(e)):
            loss -= shock[i] * e[i]
        shock = exposures.hedge_shock[s]
        for j in range(len(p)):
            loss -= shock[j] * p[j]
            problem.stress[s, j] = -shock[j]
        room = exposures.max_loss[s] - loss
        problem.room[s] = room if not room < 0.0 else 0.0


@bare
def build_bounds(limits: Limits, now_ns: int, shares: Floats, touches: float, problem: Problem, reasons: Reasons) -> None:
    """Fill lower and upper of `problem` (p must be there) as the intersection of all limits with 0 inside, and which limit set each.

    A limit already broken allows only the way back. Do-not-trade wins over everything; of equal limits the first in the order of the
    constraint table stands. shares (3,), `touches`: see TIER_SHARES and TOUCHES.
    """
    for j in range(len(problem.p)):
        p = problem.p[j]
        lower, upper, down, up = -np.inf, np.inf, _NONE, _NONE
        reach = limits.max_notional[j]
        if -reach - p > lower:
            lower, down = -reach - p, _LIMIT_BOUND
        if reach - p < upper:
            upper, up = reach - p, _LIMIT_BOUND
        room = limits.headroom_notional[j]
        reason = _LIMIT_BOUND if room > 0.0 else _HEADROOM_ZERO
        reach = abs(p) + max(room, 0.0)
        if -reach - p > lower:
            lower, down = -reach - p, reason
        if reach - p < upper:
            upper, up = reach - p, reason
        tier = limits.tier[j]
        if tier >= 1:
            size = shares[min(tier, len(shares)) - 1] * touches * limits.touch_notional[j]
            if -size > lower:
                lower, down = -size, _LIQUIDITY_TIER
            if size < upper:
                upper, up = size, _LIQUIDITY_TIER
        size = max(limits.max_adv_pct[j] / PERCENT * limits.adv_notional[j] - limits.traded_notional[j], 0.0)
        if -size > lower:
            lower, down = -size, _ADV_CAP
        if size < upper:
            upper, up = size, _ADV_CAP
        if limits.reduce_only[j] != 0:
            if min(-p, 0.0) > lower:
                lower, down = min(-p, 0.0), _REDUCING_ONLY
            if max(-p, 0.0) < upper:
                upper, up = max(-p, 0.0), _REDUCING_ONLY
        sizes = limits.max_notional[j] + limits.headroom_notional[j] + limits.max_adv_pct[j] + limits.adv_notional[j]
        if np.isnan(sizes + limits.traded_notional[j]) or (tier >= 1 and np.isnan(limits.touch_notional[j])):
            # comparisons pass over a limit that is not a number: the solver must refuse it instead
            lower, upper = np.nan, np.nan
        closed = limits.closed[j]
        if limits.dnt_from_ns[j] <= now_ns < limits.dnt_to_ns[j]:
            closed = _DNT
        if closed != 0:
            lower, upper, down, up = 0.0, 0.0, closed, closed
        problem.lower[j] = 0.0 if lower > 0.0 else lower
        problem.upper[j] = 0.0 if upper < 0.0 else upper
        reasons.lower[j] = down
        reasons.upper[j] = up


@bare
def propose(
    exposures: Exposures,
    limits: Limits,
    terms: Terms,
    now_ns: int,
    shares: Floats,
    touches: float,
    problem: Problem,
    reasons: Reasons,
    distance: Floats,
    solution: Solution,
    space: Space,
) -> int:
    """Build the problem and solve it from solution.h; return the solver's `Status`. Everything after `touches` is filled in."""
    build_objective(exposures, terms, problem, distance)
    build_coupling(exposures, terms, problem)
    build_bounds(limits, now_ns, shares, touches, problem, reasons)
    return solve(problem, solution, space)


@bare
def binding(problem: Problem, solution: Solution, reasons: Reasons, legs: Ints, couplings: Ints) -> int:
    """Fill which `Bound` binds at each leg, (m,) int64, and at each stress constraint and capital, (s + 1,) int64; return how many.

    Binding means that the constraint has a multiplier: without it the trade would be another one.
    """
    m, count = len(legs), len(problem.room)
    unit = 0.0
    for j in range(m):
        unit = max(unit, abs(problem.g[j]), problem.k[j], problem.c[j])
    found = 0
    for j in range(m):
        legs[j] = _NONE
        if solution.bound[j] > BINDING * unit:
            legs[j] = reasons.upper[j]
        elif solution.bound[j] < -BINDING * unit:
            legs[j] = reasons.lower[j]
        if legs[j] != _NONE:
            found += 1
    for s in range(count + 1):
        steepest = 0.0
        for j in range(m):
            steepest = max(steepest, abs(problem.margin_rate[j] if s == count else problem.stress[s, j]))
        multiplier = solution.nu[0] if s == count else solution.mu[s]
        couplings[s] = _NONE
        if multiplier * steepest > BINDING * unit:
            couplings[s] = _CAPITAL_CAP if s == count else _STRESS_BOUND
            found += 1
    return found
