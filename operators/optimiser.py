"""Which trades to make: the hedger's convex problem with two kinks per leg, solved to rounding. Kernels without allocation, clock or chance.

May not know where the figures come from (operators.proposal builds them) or what a lot is (operators.lots). Rules: docs/hedging.md, "The
optimiser". Method: feasible coordinate descent to guess which legs rest, then a primal active set with a Cholesky factor of the legs that move.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from schemas.jit import bare

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

RIDGE = 1e-9
"""Share of the diagonal added to Q in the step matrix only, so that identical instruments do not stop the factor. The gradient is of Q itself."""
FREE_TOLERANCE = 1e-12
"""Gradient left on the legs that move, in units of max(|g|, k, c)."""
RELEASE_TOLERANCE = 1e-10
"""A resting leg, or a coupling constraint, is let go when its multiplier is wrong by more than this, in units of max(|g|, k, c)."""
OPTIMAL_TOLERANCE = 1e-9
"""Violation up to which a solution is called optimal, in units of max(|g|, k, c)."""
DRIFT = 1e-13
"""Slack of an active constraint that is taken as rounding, in units of the constraint's size."""
DEPENDENT = 1e-11
"""Sine of the angle below which an active constraint's row counts as a combination of the others; it takes ten times that to become active."""
APART = 1e-11
"""How far constraints are moved apart when the search stalls where they meet, in units of the constraint's size."""
MOST_APART = 10
"""How often that is done before the search gives up."""
DESCENT_SWEEPS = 16
"""Most sweeps of coordinate descent before the active set takes over. A sweep costs about as much as a step; with 16 a decision on a book without
a hedge took a quarter less time than with 4."""
REFINEMENTS = 30
"""Full steps on one set of legs after which what is left of the gradient is taken as rounding."""


class Status(IntEnum):
    """What came of a solve. Only `optimal` may be traded without a second look; `invalid` leaves h at 0."""

    optimal = 0
    inexact = 1
    """The violation is above OPTIMAL_TOLERANCE; h is feasible and J(h) ≤ J(0)."""
    invalid = 2
    """A figure is not finite, a cost or room is negative, a bound does not contain 0."""


class Problem(NamedTuple):
    """Minimise ½h'Qh + g'h + Σ k|h| + Σ c|p + h| in h, float64; m legs, s stress scenarios. Notionals in the book's base currency.

    Feasible: lower ≤ h ≤ upper, Σ margin_rate·|p + h| ≤ max(capital, its value at h = 0), stress·h ≤ room. h = 0 always is.
    """

    q: Floats
    """(m, m), symmetric, positive semidefinite, C order."""
    g: Floats
    """(m,)"""
    k: Floats
    """(m,) ≥ 0, price of trading, per notional."""
    c: Floats
    """(m,) ≥ 0, price of holding, per notional."""
    p: Floats
    """(m,) held now."""
    lower: Floats
    """(m,) ≤ 0, finite."""
    upper: Floats
    """(m,) ≥ 0, finite."""
    margin_rate: Floats
    """(m,) ≥ 0."""
    capital: Floats
    """(1,), inf for none."""
    stress: Floats
    """(s, m): loss of scenario s per notional of leg j."""
    room: Floats
    """(s,) ≥ 0: how much the loss may rise, inf for any."""


class Solution(NamedTuple):
    """What `solve` fills in, float64. `h` is read first: it is where the search starts (zeros, or the last solution; it need not be feasible)."""

    h: Floats
    """(m,) trades."""
    bound: Floats
    """(m,) multiplier of the bound h rests on: positive at `upper`, negative at `lower`, 0 where no bound binds."""
    mu: Floats
    """(s,) ≥ 0, multipliers of the stress constraints; 0 where not binding."""
    nu: Floats
    """(1,) ≥ 0, multiplier of the capital constraint; 0 where not binding."""
    figures: Floats
    """(4,): J(h), J(0), violation of the optimality check in units of max(|g|, k, c), number of active-set steps."""


class Space(NamedTuple):
    """Working memory of `solve` for up to m legs and s scenarios; contents mean nothing between calls."""

    matrices: Floats
    """(2, m, m): factor of the moving legs, and its transpose."""
    rows: Floats
    """(2·(s + 1), m): coupling rows, each scaled to a largest entry of 1, and their images under the factor."""
    legs: Floats
    """(11, m + 1)"""
    couplings: Floats
    """(8, s + 1)"""
    small: Floats
    """(s + 1, s + 1)"""
    order: Ints
    """(4, max(m, s + 1))"""


def empty_problem(m: int, s: int) -> Problem:
    """Return a problem of m legs and s scenarios without terms and without constraints but h = 0."""
    z = np.zeros
    return Problem(
        z((m, m)), z(m), z(m), z(m), z(m), z(m), z(m), z(m), np.full(1, np.inf), z((s, m)), np.full(s, np.inf)
    )  # fmt: skip


def empty_solution(m: int, s: int) -> Solution:
    """Return a solution of m legs and s scenarios that starts at h = 0."""
    return Solution(np.zeros(m), np.zeros(m), np.zeros(s), np.zeros(1), np.zeros(4))


def space_for(m: int, s: int) -> Space:
    """Return working memory for m legs and s scenarios."""
    return Space(
        np.zeros((2, m, m)), np.zeros((2 * (s + 1), m)), np.zeros((11, m + 1)), np.zeros((8, s + 1)), np.zeros((s + 1, s + 1)),
        np.zeros((4, max(m, s + 1)), np.int64),
    )  # fmt: skip


# --- the problem's figures ----------------------------------------------------------------------------------------------------------


@bare
def objective(problem: Problem, h: Floats) -> float:
    """Return J(h). h (m,) float64, feasible or not."""
    q, g, k, c, p = problem.q, problem.g, problem.k, problem.c, problem.p
    total = 0.0
    for j in range(len(g)):
        if h[j] != 0.0:
            curve = 0.0
            for i in range(len(g)):
                curve += q[j, i] * h[i]
            total += h[j] * (0.5 * curve + g[j]) + k[j] * abs(h[j])
        total += c[j] * abs(p[j] + h[j])
    return total


@bare
def capital_used(problem: Problem, h: Floats) -> float:
    """Return Σ margin_rate·|p + h|."""
    total = 0.0
    for j in range(len(h)):
        total += problem.margin_rate[j] * abs(problem.p[j] + h[j])
    return total


@bare
def capital_limit(problem: Problem) -> float:
    """Return max(capital, what is used at h = 0): met, or at least not worse."""
    used = 0.0
    for j in range(len(problem.p)):
        used += problem.margin_rate[j] * abs(problem.p[j])
    return float(max(problem.capital[0], used))


@bare
def infeasibility(problem: Problem, h: Floats) -> float:
    """Return by how much h breaks its constraints, each in units of its own size; 0 when it meets all.

    The size of a bound is the width of its interval, that of a coupling constraint the largest figure the bounds allow.
    """
    worst = 0.0
    size = 0.0
    for j in range(len(h)):
        width = problem.upper[j] - problem.lower[j]
        over = max(problem.lower[j] - h[j], h[j] - problem.upper[j])
        if over > 0.0:
            worst = max(worst, over / width if width > 0.0 else np.inf)
        size += problem.margin_rate[j] * max(abs(problem.p[j] + problem.lower[j]), abs(problem.p[j] + problem.upper[j]))
    over = capital_used(problem, h) - capital_limit(problem)
    if over > 0.0:
        worst = max(worst, over / size if size > 0.0 else np.inf)
    for s in range(len(problem.room)):
        over = -problem.room[s]
        size = 0.0
        for j in range(len(h)):
            over += problem.stress[s, j] * h[j]
            size += abs(problem.stress[s, j]) * max(-problem.lower[j], problem.upper[j])
        if over > 0.0:
            worst = max(worst, over / size if size > 0.0 else np.inf)
    return worst


@bare
def optimality_violation(problem: Problem, h: Floats, mu: Floats, nu: float) -> float:
    """Return by how much h, with multipliers mu (s,) and nu, misses optimality, in units of max(|g|, k, c); h is optimal iff it is 0.

    The largest over legs of D⁻ and −D⁺: slopes of the Lagrangian to the left and to the right, ∓inf at a bound, kinks by their one-sided
    slopes (exactly at 0 and −p: there is no tolerance). inf when a multiplier is negative. Whether h is feasible, and multipliers stand only
    at binding constraints, is told by `infeasibility` and `complementarity`.
    """
    q, g, k, c, p = problem.q, problem.g, problem.k, problem.c, problem.p
    m = len(g)
    unit = 0.0
    for j in range(m):
        unit = max(unit, abs(g[j]), k[j], c[j])
    for s in range(len(mu)):
        if not mu[s] >= 0.0:
            return np.inf
    if not nu >= 0.0:
        return np.inf
    worst = 0.0
    for j in range(m):
        slope = g[j]
        for i in range(m):
            slope += q[j, i] * h[i]
        for s in range(len(mu)):
            slope += mu[s] * problem.stress[s, j]
        hold = c[j] + nu * problem.margin_rate[j]
        right = slope + (k[j] if h[j] >= 0.0 else -k[j]) + (hold if p[j] + h[j] >= 0.0 else -hold)
        left = slope + (k[j] if h[j] > 0.0 else -k[j]) + (hold if p[j] + h[j] > 0.0 else -hold)
        if h[j] != problem.upper[j]:
            worst = max(worst, -right)
        if h[j] != problem.lower[j]:
            worst = max(worst, left)
    if worst == 0.0:
        return 0.0
    return worst / unit if unit > 0.0 else np.inf


@bare
def complementarity(problem: Problem, h: Floats, mu: Floats, nu: float) -> float:
    """Return the largest slack, in the units of `infeasibility`, of a coupling constraint that has a multiplier; 0 when none has."""
    worst = 0.0
    if nu > 0.0:
        size = 0.0
        for j in range(len(h)):
            size += problem.margin_rate[j] * max(abs(problem.p[j] + problem.lower[j]), abs(problem.p[j] + problem.upper[j]))
        worst = max(worst, abs(capital_limit(problem) - capital_used(problem, h)) / size if size > 0.0 else 0.0)
    for s in range(len(mu)):
        if mu[s] > 0.0:
            slack = problem.room[s]
            size = 0.0
            for j in range(len(h)):
                slack -= problem.stress[s, j] * h[j]
                size += abs(problem.stress[s, j]) * max(-problem.lower[j], problem.upper[j])
            worst = max(worst, abs(slack) / size if size > 0.0 else 0.0)
    return worst


# --- one leg ------------------------------------------------------------------------------------------------------------------------


@bare
def leg_minimum(a: float, b: float, k: float, c: float, p: float, lower: float, upper: float, at: float) -> float:
    """Return the x in [lower, upper] with least ½ax² + bx + k|x| + c|p + x|; the one nearest to `at` where several have. a ≥ 0."""
    kink1, weight1, kink2, weight2 = 0.0, k, -p, c
    if kink2 < kink1:
        kink1, weight1, kink2, weight2 = kink2, weight2, kink1, weight1
    start = lower
    slope = b - weight1 - weight2
    for piece in range(3):
        if piece == 1:
            slope += 2.0 * weight1
        elif piece == 2:
            slope += 2.0 * weight2
        end = upper
        if piece == 0:
            end = min(end, kink1)
        elif piece == 1:
            end = min(end, kink2)
        if end <= start:
            continue
        if a * end + slope >= 0.0:
            if a * start + slope >= 0.0:
                if a == 0.0 and slope == 0.0:
                    return min(max(at, start), end)
                return start
            return min(max(-slope / a, start), end)
        start = end
    return start


@bare
def _piece(
    x: float, towards: int, k: float, c: float, p: float, lower: float, upper: float, margin: float
) -> tuple[float, float, float, float]:
    """Return (start, end, slope of the kinks, slope of capital) of the smooth piece x is in; from a kink the one `towards` +1 or −1.

    A kink without weight is none.
    """
    start, end = lower, upper
    above = x > 0.0 or (x == 0.0 and towards > 0)
    if k > 0.0:
        if above:
            start = max(start, 0.0)
        else:
            end = min(end, 0.0)
    slope = k if above else -k
    above = x > -p or (x == -p and towards > 0)
    if c > 0.0 or margin > 0.0:
        if above:
            start = max(start, -p)
        else:
            end = min(end, -p)
    slope += c if above else -c
    return start, end, slope, margin if above else -margin


@bare
def _rests(x: float, k: float, c: float, p: float, lower: float, upper: float, margin: float) -> bool:
    """Return whether x is at a bound or at a kink that has weight."""
    return x <= lower or x >= upper or (x == 0.0 and k > 0.0) or (x == -p and (c > 0.0 or margin > 0.0))


# --- the factor of the moving legs --------------------------------------------------------------------------------------------------


@bare
def _forward(upper: Floats, n: int, x: Floats) -> None:
    """Solve U'y = x in place, U the leading n rows of `upper`."""
    for i in range(n):
        row = upper[i]
        y = x[i] / row[i]
        x[i] = y
        for j in range(i + 1, n):
            x[j] -= y * row[j]


@bare
def _backward(transposed: Floats, n: int, x: Floats) -> None:
    """Solve Uy = x in place; `transposed` holds U' by rows."""
    for i in range(n - 1, -1, -1):
        row = transposed[i]
        y = x[i] / row[i]
        x[i] = y
        for j in range(i):
            x[j] -= y * row[j]


@bare
def _append(upper: Floats, transposed: Floats, n: int, column: Floats, diagonal: float, least: float) -> None:
    """Extend the factor by a leg: `column` (n,) its covariances with those in it (overwritten), `diagonal` its own; pivot² at least `least`."""
    _forward(upper, n, column)
    rest = diagonal
    for i in range(n):
        rest -= column[i] * column[i]
        upper[i, n] = column[i]
        transposed[n, i] = column[i]
    pivot = np.sqrt(max(rest, least))
    upper[n, n] = pivot
    transposed[n, n] = pivot


@bare
def _remove(upper: Floats, transposed: Floats, n: int, at: int) -> None:
    """Take leg `at` out of a factor of n legs, by rotations of neighbouring rows."""
    for i in range(at):
        row = upper[i]
        for j in range(at, n - 1):
            row[j] = row[j + 1]
    for i in range(at, n - 1):
        row, below = upper[i], upper[i + 1]
        a, b = row[i + 1], below[i + 1]
        radius = np.hypot(a, b)
        cos, sin = a / radius, b / radius
        row[i] = radius
        for j in range(i + 2, n):
            x, y = row[j], below[j]
            row[j - 1] = cos * x + sin * y
            below[j] = cos * y - sin * x
    for i in range(n - 1):
        for j in range(max(i, at), n - 1):
            transposed[j, i] = upper[i, j]


# --- the search ---------------------------------------------------------------------------------------------------------------------
# Names of the rows of `Space`, so that kernels read as the formulas do.

_GRADIENT, _SLOPE, _START, _END, _MARGIN, _STEP, _LEFT, _CURVE, _COLUMN, _RIDGE, _BEFORE = range(11)
_SCALE, _SLACK, _WEIGHT, _TARGET, _ALONG, _STIFF, _SIZE, _EXTRA = range(8)
_MOVING, _POSITION, _ACTIVE, _PLACE = range(4)


@bare
def _usable(problem: Problem) -> bool:
    """Return whether all figures are finite, costs and rooms not negative, and 0 within the bounds."""
    q, m = problem.q, len(problem.g)
    for j in range(m):
        if not (problem.lower[j] <= 0.0 <= problem.upper[j] and problem.upper[j] - problem.lower[j] < np.inf):
            return False
        if not (0.0 <= problem.k[j] < np.inf and 0.0 <= problem.c[j] < np.inf and 0.0 <= problem.margin_rate[j] < np.inf):
            return False
        if not (abs(problem.g[j]) < np.inf and abs(problem.p[j]) < np.inf and q[j, j] >= 0.0):
            return False
        for i in range(m):
            if not abs(q[j, i]) < np.inf:
                return False
    if not problem.capital[0] >= 0.0:
        return False
    for s in range(len(problem.room)):
        if not problem.room[s] >= 0.0:
            return False
        for j in range(m):
            if not abs(problem.stress[s, j]) < np.inf:
                return False
    return True


@bare
def _scale_rows(problem: Problem, space: Space) -> None:
    """Fill the coupling rows, scaled to a largest entry of 1 over the legs that may move. Scale 0: the constraint cannot bind."""
    m, count = len(problem.g), len(problem.room)
    rows, scale = space.rows, space.couplings[_SCALE]
    for s in range(count + 1):
        given = problem.margin_rate if s == count else problem.stress[s]
        limit = problem.capital[0] if s == count else problem.room[s]
        largest = 0.0
        if limit < np.inf:
            for j in range(m):
                if problem.lower[j] < problem.upper[j]:
                    largest = max(largest, abs(given[j]))
        scale[s] = largest
        size = 0.0
        for j in range(m):
            rows[s, j] = given[j] / largest if largest > 0.0 else 0.0
            lower, upper = problem.lower[j], problem.upper[j]
            if s == count:
                size += rows[s, j] * max(abs(problem.p[j] + lower), abs(problem.p[j] + upper))
            else:
                size += abs(rows[s, j]) * max(-lower, upper)
        space.couplings[_SIZE, s] = size
        space.couplings[_EXTRA, s] = 0.0


@bare
def _refresh(problem: Problem, h: Floats, space: Space) -> None:
    """Compute the gradient Qh + g and the scaled slacks from h."""
    m, count = len(h), len(problem.room)
    gradient, scale, slack = space.legs[_GRADIENT], space.couplings[_SCALE], space.couplings[_SLACK]
    for j in range(m):
        gradient[j] = problem.g[j]
    for i in range(m):
        x = h[i]
        if x != 0.0:
            row = problem.q[i]
            for j in range(m):
                gradient[j] += x * row[j]
    for s in range(count):
        slack[s] = np.inf
        if scale[s] > 0.0:
            row = space.rows[s]
            used = 0.0
            for j in range(m):
                used += row[j] * h[j]
            slack[s] = problem.room[s] / scale[s] + space.couplings[_EXTRA, s] - used
    slack[count] = np.inf
    if scale[count] > 0.0:
        row = space.rows[count]
        used, before = 0.0, 0.0
        for j in range(m):
            used += row[j] * abs(problem.p[j] + h[j])
            before += row[j] * abs(problem.p[j])
        slack[count] = max(problem.capital[0] / scale[count], before) + space.couplings[_EXTRA, count] - used


@bare
def _start(problem: Problem, h: Floats, space: Space) -> None:
    """Bring h into the bounds and, by shrinking it toward 0, within the coupling constraints; compute gradient and slacks."""
    m, count = len(h), len(problem.room)
    slack = space.couplings[_SLACK]
    for j in range(m):
        x = h[j]
        h[j] = min(max(x, problem.lower[j]), problem.upper[j]) if abs(x) < np.inf else 0.0
    _refresh(problem, h, space)
    share = 1.0
    for s in range(count + 1):
        if slack[s] < 0.0:
            # losses are linear and capital is convex in h: what h = t·h0 uses is at most t of what h0 uses beyond h = 0
            room = problem.room[s] / space.couplings[_SCALE, s] if s < count else 0.0
            if s == count:
                row = space.rows[count]
                used = 0.0
                for j in range(m):
                    used += row[j] * (abs(problem.p[j] + h[j]) - abs(problem.p[j]))
                room = slack[s] + used
            if room - slack[s] > 0.0:
                share = min(share, max(0.0, room / (room - slack[s])))
    if share < 1.0:
        for j in range(m):
            h[j] = share * h[j]
        _refresh(problem, h, space)
        for s in range(count + 1):
            if slack[s] < 0.0 and share > 0.0:
                # what is left is rounding
                slack[s] = 0.0


@bare
def _descend(problem: Problem, h: Floats, space: Space, sweeps: int) -> None:
    """Cyclic coordinate descent that stays feasible, each leg exactly to its least; gradient and slacks are kept up to date."""
    m, count = len(h), len(problem.room)
    gradient, slack, scale, rows = space.legs[_GRADIENT], space.couplings[_SLACK], space.couplings[_SCALE], space.rows
    first = 0.0
    for _ in range(sweeps):
        gained = 0.0
        for j in range(m):
            lower, upper = problem.lower[j], problem.upper[j]
            if lower == upper:
                continue
            x, a = h[j], problem.q[j, j]
            k, c, p = problem.k[j], problem.c[j], problem.p[j]
            for s in range(count):
                if scale[s] > 0.0:
                    w = rows[s, j]
                    if w > 0.0:
                        upper = min(upper, x + max(slack[s], 0.0) / w)
                    elif w < 0.0:
                        lower = max(lower, x + max(slack[s], 0.0) / w)
            w = rows[count, j]
            if w > 0.0:
                reach = max(slack[count], 0.0) / w + abs(p + x)
                upper = min(upper, max(x, reach - p))
                lower = max(lower, min(x, -reach - p))
            y = leg_minimum(a, gradient[j] - a * x, k, c, p, lower, upper, x)
            move = y - x
            if move == 0.0:
                continue
            gained -= move * (gradient[j] + 0.5 * a * move) + k * (abs(y) - abs(x)) + c * (abs(p + y) - abs(p + x))
            h[j] = y
            row = problem.q[j]
            for i in range(m):
                gradient[i] += move * row[i]
            for s in range(count):
                if scale[s] > 0.0:
                    slack[s] -= rows[s, j] * move
            slack[count] -= w * (abs(p + y) - abs(p + x))
        first = max(first, gained)
        if gained <= 1e-3 * first:
            break


@bare
def _extend(problem: Problem, space: Space, n: int, active: int, leg: int) -> None:
    """Append a leg to the factor of Q + ridge + stiff·A'A, A the rows of the active constraints.

    Where A step = 0 the last term changes nothing; without it the multipliers would be divided by the ridge where Q alone is singular.
    """
    legs, index, count = space.legs, space.order, len(problem.room)
    column, covariance = legs[_COLUMN], problem.q[leg]
    for i in range(n):
        column[i] = covariance[index[_MOVING, i]]
    ridge, diagonal = legs[_RIDGE, leg], covariance[leg]
    for a in range(active):
        s = index[_ACTIVE, a]
        row = legs[_MARGIN] if s == count else space.rows[s]
        weight = space.couplings[_STIFF, count] * row[leg]
        diagonal += weight * row[leg]
        for i in range(n):
            column[i] += weight * row[index[_MOVING, i]]
    _append(space.matrices[0], space.matrices[1], n, column, diagonal + ridge, 0.5 * ridge)


@bare
def _move(problem: Problem, h: Floats, space: Space, n: int, active: int, leg: int, towards: int) -> int:
    """Let a leg move; return the number of moving legs."""
    _settle(problem, h, space, leg, towards)
    _extend(problem, space, n, active, leg)
    space.order[_MOVING, n] = leg
    space.order[_POSITION, leg] = n
    return n + 1


@bare
def _refactor(problem: Problem, space: Space, n: int, active: int) -> None:
    """Compute the factor anew, after the active constraints changed."""
    for i in range(n):
        _extend(problem, space, i, active, space.order[_MOVING, i])


@bare
def _settle(problem: Problem, h: Floats, space: Space, leg: int, towards: int) -> None:
    """Note the smooth piece a moving leg is in."""
    legs, count = space.legs, len(problem.room)
    start, end, slope, margin = _piece(
        h[leg], towards, problem.k[leg], problem.c[leg], problem.p[leg], problem.lower[leg], problem.upper[leg], space.rows[count, leg]
    )  # fmt: skip
    legs[_START, leg], legs[_END, leg], legs[_SLOPE, leg], legs[_MARGIN, leg] = start, end, slope, margin


@bare
def _rest(space: Space, n: int, leg: int) -> int:
    """Let a moving leg rest where it is; return the number of moving legs."""
    index = space.order
    at = index[_POSITION, leg]
    _remove(space.matrices[0], space.matrices[1], n, at)
    for i in range(at, n - 1):
        index[_MOVING, i] = index[_MOVING, i + 1]
        index[_POSITION, index[_MOVING, i]] = i
    index[_POSITION, leg] = -1
    return n - 1


@bare
def _drop(space: Space, active: int, place: int) -> int:
    """Take a coupling constraint out of the active ones; return their number."""
    index = space.order
    index[_PLACE, index[_ACTIVE, place]] = -1
    for i in range(place, active - 1):
        index[_ACTIVE, i] = index[_ACTIVE, i + 1]
        index[_PLACE, index[_ACTIVE, i]] = i
    return active - 1


@bare
def _newton(problem: Problem, space: Space, n: int, active: int) -> tuple[int, float, float]:
    """Compute the step of the moving legs along the active constraints, and the multipliers; return (active, gradient left, slack left).

    Solves [Q + ridge, A'; A, 0][step; weight] = [−gradient; slack]. (−1 − its place, 0, 0) when an active constraint depends on those before it.
    """
    legs, index, count = space.legs, space.order, len(problem.room)
    factor, transposed = space.matrices[0], space.matrices[1]
    left, step = legs[_LEFT], legs[_STEP]
    weight, target, small = space.couplings[_WEIGHT], space.couplings[_TARGET], space.small
    for i in range(n):
        leg = index[_MOVING, i]
        left[i] = -(legs[_GRADIENT, leg] + legs[_SLOPE, leg])
        step[i] = left[i]
    _forward(factor, n, step)
    a = 0
    while a < active:
        s = index[_ACTIVE, a]
        image = space.rows[count + 1 + a]
        row = legs[_MARGIN] if s == count else space.rows[s]
        for i in range(n):
            image[i] = row[index[_MOVING, i]]
        _forward(factor, n, image)
        own = 0.0
        for i in range(n):
            own += image[i] * image[i]
        for b in range(a):
            small[a, b] = 0.0
        for _ in range(2):  # twice is enough to be orthogonal to rounding
            for b in range(a):
                other = space.rows[count + 1 + b]
                product = 0.0
                for i in range(n):
                    product += image[i] * other[i]
                small[a, b] += product
                for i in range(n):
                    image[i] -= product * other[i]
        rest = 0.0
        for i in range(n):
            rest += image[i] * image[i]
        if not rest > DEPENDENT * DEPENDENT * own:
            return -a - 1, 0.0, 0.0
        rest = np.sqrt(rest)
        small[a, a] = rest
        target[a] = space.couplings[_SLACK, s]
        for b in range(a):
            target[a] -= small[a, b] * target[b]
        target[a] /= rest
        product = 0.0
        for i in range(n):
            image[i] /= rest
            product += image[i] * step[i]
        weight[a] = product - target[a]
        for i in range(n):
            step[i] -= weight[a] * image[i]
        a += 1
    for a in range(active - 1, -1, -1):
        for b in range(a + 1, active):
            weight[a] -= small[b, a] * weight[b]
        weight[a] /= small[a, a]
    _backward(transposed, n, step)
    if active > 0:
        _mend(problem, space, n, active)
    for a in range(active):
        target[a] = weight[a]
    for again in range(3):
        for a in range(active):
            s, w = index[_ACTIVE, a], target[a]
            row = legs[_MARGIN] if s == count else space.rows[s]
            for i in range(n):
                left[i] -= w * row[index[_MOVING, i]]
        if active < n or active == 0 or again == 2:
            break
        # In a corner no further step makes the multipliers better, so that is done here.
        more = legs[_CURVE]
        for i in range(n):
            more[i] = left[i]
        _forward(factor, n, more)
        for a in range(active):
            target[a] = 0.0
            for i in range(n):
                target[a] += space.rows[count + 1 + a, i] * more[i]
        for a in range(active - 1, -1, -1):
            for b in range(a + 1, active):
                target[a] -= small[b, a] * target[b]
            target[a] /= small[a, a]
            weight[a] += target[a]
    worst, drift, rounding = 0.0, 0.0, 0.0
    for i in range(n):
        worst = max(worst, abs(left[i]))
    for a in range(active):
        s = index[_ACTIVE, a]
        rounding += 2e-15 * abs(weight[a])
        drift = max(drift, abs(space.couplings[_SLACK, s]) / space.couplings[_SIZE, s])
    # in a corner nothing can move, and constraints that are nearly parallel have large multipliers: what seems left is rounding
    return active, 0.0 if active >= n else max(worst - rounding, 0.0), drift


@bare
def _mend(problem: Problem, space: Space, n: int, active: int) -> None:
    """Bring the step back onto the active constraints, which it left by rounding: where Q is singular it is so long that this counts."""
    legs, index, count = space.legs, space.order, len(problem.room)
    step, more, target, small = legs[_STEP], legs[_CURVE], space.couplings[_TARGET], space.small
    for i in range(n):
        more[i] = 0.0
    wrong = False
    for a in range(active):
        s = index[_ACTIVE, a]
        row = legs[_MARGIN] if s == count else space.rows[s]
        off, size = space.couplings[_SLACK, s], 0.0
        for i in range(n):
            part = row[index[_MOVING, i]] * step[i]
            off -= part
            size += abs(part)
        wrong = wrong or abs(off) > 1e-15 * size
        target[a] = off
        for b in range(a):
            target[a] -= small[a, b] * target[b]
        target[a] /= small[a, a]
        image = space.rows[count + 1 + a]
        for i in range(n):
            more[i] += target[a] * image[i]
    if wrong:
        _backward(space.matrices[1], n, more)
        for i in range(n):
            step[i] += more[i]


@bare
def _most_wrong(problem: Problem, h: Floats, space: Space, active: int, tolerance: float) -> tuple[int, int]:
    """Return (leg, +1 or −1) of the resting leg that should move, the one with most to gain; (−1, 0) when none should."""
    m, count = len(h), len(problem.room)
    legs, index, weight = space.legs, space.order, space.couplings[_WEIGHT]
    gradient = legs[_CURVE]
    for j in range(m):
        gradient[j] = legs[_GRADIENT, j]
    nu = 0.0
    for a in range(active):
        s, w = index[_ACTIVE, a], weight[a]
        if s == count:
            nu = w
            continue
        row = space.rows[s]
        for j in range(m):
            gradient[j] += w * row[j]
    best, found, towards = 0.0, -1, 0
    for j in range(m):
        if index[_POSITION, j] >= 0 or problem.lower[j] == problem.upper[j]:
            continue
        x, k, p = h[j], problem.k[j], problem.p[j]
        hold = problem.c[j] + nu * space.rows[count, j]
        wrong, side = 0.0, 0
        if x != problem.upper[j]:
            wrong = -(gradient[j] + (k if x >= 0.0 else -k) + (hold if p + x >= 0.0 else -hold))
            side = 1
        if x != problem.lower[j]:
            left = gradient[j] + (k if x > 0.0 else -k) + (hold if p + x > 0.0 else -hold)
            if left > wrong:
                wrong, side = left, -1
        if wrong > tolerance:
            gain = wrong * wrong / (problem.q[j, j] + legs[_RIDGE, j])
            if gain > best:
                best, found, towards = gain, j, side
    return found, towards


@bare
def _advance(problem: Problem, h: Floats, space: Space, n: int, active: int, left: float, refined: int, further: bool) -> tuple[int, int]:
    """Go along the step to its least or to what stops it first; return (moving legs, active constraints).

    The step minimises with the ridge; along it the problem itself may still fall `further`, without end where Q is singular. Steps on the
    same legs and constraints (`refined` of them) are conjugate to one another: the factor serves as preconditioner, and a few of them do
    what the ridge has hidden. `left` is the gradient left, in units of max(|g|, k, c).
    """
    m, count = len(h), len(problem.room)
    legs, index, couplings = space.legs, space.order, space.couplings
    step, curve = legs[_STEP], legs[_CURVE]
    fall = 0.0
    for i in range(n):
        leg = index[_MOVING, i]
        fall -= step[i] * (legs[_GRADIENT, leg] + legs[_SLOPE, leg])
    before, length, slope, bend = legs[_BEFORE], 0.0, 0.0, 0.0
    share = fall / before[n] if further and refined > 0 and before[n] > 0.0 and fall > 0.0 else 0.0
    for attempt in range(2):
        # the second time without a share of the step before, should that have spoiled the direction
        curve[:] = 0.0
        slope = 0.0
        for i in range(n):
            leg = index[_MOVING, i]
            d = step[i] + share * before[i]
            slope += d * (legs[_GRADIENT, leg] + legs[_SLOPE, leg])
            row = problem.q[leg]
            for j in range(m):
                curve[j] += d * row[j]
        bend, rounding = 0.0, 0.0
        for i in range(n):
            part = (step[i] + share * before[i]) * curve[index[_MOVING, i]]
            bend += part
            rounding += 1e-15 * abs(part)
        length = 1.0
        if share > 0.0:
            if attempt == 0 and not (slope < 0.0 and bend > rounding):
                share = 0.0
                continue
            length = -slope / bend
        elif further and slope < 0.0:
            # below its own rounding the bend is none; go to the end only for more than rounding too
            if bend > rounding:
                length = max(1.0, -slope / bend)
            elif left > RELEASE_TOLERANCE:
                length = np.inf
        break
    longest = 0.0
    for i in range(n):
        step[i] += share * before[i]
        before[i] = step[i]
        longest = max(longest, abs(step[i]))
    before[n] = fall if further else 0.0
    stop, coupling = -1, -1
    for i in range(n):
        leg, d = index[_MOVING, i], step[i]
        if abs(d) <= 1e-14 * longest:
            continue
        room = (legs[_END, leg] - h[leg]) / d if d > 0.0 else (legs[_START, leg] - h[leg]) / d
        if room < length:
            length, stop = max(room, 0.0), leg
    for s in range(count + 1):
        couplings[_ALONG, s] = 0.0
        if couplings[_SCALE, s] == 0.0:
            continue
        row = legs[_MARGIN] if s == count else space.rows[s]
        along, size = 0.0, 0.0
        for i in range(n):
            part = row[index[_MOVING, i]] * step[i]
            along += part
            size += abs(part)
        couplings[_ALONG, s] = along
        if index[_PLACE, s] < 0 and along > 10.0 * DEPENDENT * size:
            room = couplings[_SLACK, s] / along
            if room < length:
                length, stop, coupling = max(room, 0.0), -1, s
    if length == np.inf:
        return n, active
    for i in range(n):
        leg = index[_MOVING, i]
        h[leg] = min(max(h[leg] + length * step[i], legs[_START, leg]), legs[_END, leg])
    if length > 0.0:
        for j in range(m):
            legs[_GRADIENT, j] += length * curve[j]
        for s in range(count + 1):
            couplings[_SLACK, s] -= length * couplings[_ALONG, s]
    if coupling >= 0 or stop >= 0:
        before[n] = 0.0
    if coupling >= 0:
        index[_ACTIVE, active] = coupling
        index[_PLACE, coupling] = active
        return n, active + 1
    if stop < 0:
        return n, active
    d = step[index[_POSITION, stop]]
    h[stop] = legs[_END, stop] if d > 0.0 else legs[_START, stop]
    x = h[stop]
    if length > 0.0 and problem.lower[stop] < x < problem.upper[stop]:
        # At a kink, not at a bound: go through it where that still pays, unless an active capital constraint would bend there.
        jump = 2.0 * problem.k[stop] if x == 0.0 else 0.0
        bends = x == -problem.p[stop] and space.rows[count, stop] > 0.0 and index[_PLACE, count] >= 0
        if x == -problem.p[stop]:
            jump += 2.0 * problem.c[stop]
        if not bends and slope + length * bend + jump * abs(d) < 0.0:
            _settle(problem, h, space, stop, 1 if d > 0.0 else -1)
            return n, active
    return _rest(space, n, stop), active


@bare
def _relax(space: Space, couplings: int, salt: int) -> None:
    """Give every coupling constraint a little more room, each another amount (the golden ratio's multiples are as uneven as can be)."""
    for s in range(couplings):
        uneven = (s + 1 + salt) * 0.6180339887498949
        space.couplings[_EXTRA, s] += APART * space.couplings[_SIZE, s] * (0.5 + uneven - np.floor(uneven))


@bare
def _conclude(problem: Problem, solution: Solution, space: Space, active: int) -> float:
    """Write the multipliers from the active constraints; return the violation."""
    m, count = len(problem.g), len(problem.room)
    h, mu, nu, bound = solution.h, solution.mu, solution.nu, solution.bound
    mu[:] = 0.0
    nu[0] = 0.0
    for a in range(active):
        s = space.order[_ACTIVE, a]
        w = max(space.couplings[_WEIGHT, a], 0.0) / space.couplings[_SCALE, s]
        if s == count:
            nu[0] = w
        else:
            mu[s] = w
    gradient = space.legs[_CURVE]
    for j in range(m):
        gradient[j] = space.legs[_GRADIENT, j]
    for s in range(count):
        if mu[s] > 0.0:
            for j in range(m):
                gradient[j] += mu[s] * problem.stress[s, j]
    for j in range(m):
        hold = problem.c[j] + nu[0] * problem.margin_rate[j]
        x, k, p = h[j], problem.k[j], problem.p[j]
        right = gradient[j] + (k if x >= 0.0 else -k) + (hold if p + x >= 0.0 else -hold)
        left = gradient[j] + (k if x > 0.0 else -k) + (hold if p + x > 0.0 else -hold)
        bound[j] = 0.0
        if x == problem.upper[j] and right < 0.0:
            bound[j] = -right
        elif x == problem.lower[j] and left > 0.0:
            bound[j] = -left
    return optimality_violation(problem, h, mu, nu[0])


@bare
def solve(problem: Problem, solution: Solution, space: Space) -> int:
    """Minimise; return a `Status`. Reads solution.h as the start, fills the whole solution. Allocates nothing.

    h is 0 or better than no trade. Where several h are optimal (instruments without variance or cost, identical ones) the start decides which.
    Not reentrant on one `space`.
    """
    m, count = len(problem.g), len(problem.room)
    h, legs, index = solution.h, space.legs, space.order
    if not _usable(problem):
        h[:] = 0.0
        solution.bound[:] = 0.0
        solution.mu[:] = 0.0
        solution.nu[0] = 0.0
        solution.figures[0] = solution.figures[1] = solution.figures[2] = np.nan
        solution.figures[3] = 0.0
        return 2
    unit, most, width = 0.0, 0.0, 0.0
    nothing = 0.0
    for j in range(m):
        unit = max(unit, abs(problem.g[j]), problem.k[j], problem.c[j])
        most = max(most, problem.q[j, j])
        width = max(width, problem.upper[j] - problem.lower[j])
        nothing += problem.c[j] * abs(problem.p[j])
        index[_POSITION, j] = -1
    for s in range(count + 1):
        index[_PLACE, s] = -1
    for j in range(m):
        diagonal = problem.q[j, j]
        if diagonal <= 0.0:
            diagonal = most if most > 0.0 else unit / width if unit > 0.0 and width > 0.0 else 1.0
        legs[_RIDGE, j] = RIDGE * diagonal
        space.couplings[_STIFF, count] = most if most > 0.0 else diagonal
    if unit == 0.0:
        h[:] = 0.0
        unit = 1.0
    _scale_rows(problem, space)
    _start(problem, h, space)
    _descend(problem, h, space, DESCENT_SWEEPS)
    n, active = 0, 0
    for j in range(m):
        if not _rests(h[j], problem.k[j], problem.c[j], problem.p[j], problem.lower[j], problem.upper[j], space.rows[count, j]):
            n = _move(problem, h, space, n, 0, j, 0)
    steps, refined, relaxed, fresh, patience = 0, 0, 0, False, 4 * (m + count)
    while True:
        steps += 1
        if steps > patience:
            # Constraints that meet in one point can keep the search there: move them apart by less than the tolerance.
            if relaxed == MOST_APART:
                break
            relaxed += 1
            _relax(space, count + 1, steps)
            while active > 0:
                active = _drop(space, active, active - 1)
            _refactor(problem, space, n, active)
            _refresh(problem, h, space)
            patience += (4 + relaxed) * (m + count)
        found, left, drift = _newton(problem, space, n, active)
        if found < 0:
            active = _drop(space, active, -1 - found)
            _refactor(problem, space, n, active)
            refined, fresh = 0, False
            continue
        if (left > FREE_TOLERANCE * unit or drift > DRIFT) and refined < REFINEMENTS:
            before = (n, active)
            n, active = _advance(problem, h, space, n, active, left / unit, refined, drift <= DRIFT and refined < REFINEMENTS - 5)
            if active != before[1]:
                _refactor(problem, space, n, active)
            refined = refined + 1 if (n, active) == before else 0
            fresh = False
            continue
        if not fresh:
            # sums of many steps have drifted by rounding: look again at the figures computed from h
            _refresh(problem, h, space)
            fresh = True
            continue
        worst, place = -RELEASE_TOLERANCE * unit, -1
        for a in range(active):
            if space.couplings[_WEIGHT, a] < worst:
                worst, place = space.couplings[_WEIGHT, a], a
        if place >= 0:
            active = _drop(space, active, place)
            _refactor(problem, space, n, active)
            refined, fresh = 0, False
            continue
        leg, towards = _most_wrong(problem, h, space, active, RELEASE_TOLERANCE * unit)
        if leg < 0:
            break
        n = _move(problem, h, space, n, active, leg, towards)
        refined, fresh = 0, False
    _refresh(problem, h, space)
    violation = _conclude(problem, solution, space, active)
    value = objective(problem, h)
    if value >= nothing:
        # trades of the size of rounding, trades that gain nothing from where it started, or a search that gave up
        h[:] = 0.0
        _refresh(problem, h, space)
        violation = _conclude(problem, solution, space, active)
        value = nothing
    solution.figures[0] = value
    solution.figures[1] = nothing
    solution.figures[2] = violation
    solution.figures[3] = steps
    return 0 if violation <= OPTIMAL_TOLERANCE else 1
