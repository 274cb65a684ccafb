"""From trades of any size to trades that can be sent: whole lots, not under the least notional, never beyond a limit. Kernels.

May not decide whether to trade at all beyond "worse than nothing is nothing". Rules: docs/hedging.md, "Lots".
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np

from operators.optimiser import Floats, Problem, Space, _refresh, _scale_rows, objective
from schemas.jit import bare

WHOLE = 1e-9
"""A size this close, in lots, below a whole lot is that lot: 2.9999999999 lots are three that were computed."""
SLACK = 1e-12
"""A coupling constraint may be overrun by this share of its own size: by rounding, not by trading."""
ROUNDS = 64
"""Most moves of the local search per leg."""

_GRADIENT, _SLACK = 0, 1


class Rounding(IntEnum):
    """What came of rounding. The names of the last two are the audit record's reason codes."""

    traded = 0
    nothing = 1
    """h was 0 already."""
    below_min_notional = 2
    """Every leg of h is smaller than the least that can be sent, and none is worth the least."""
    not_profitable = 3
    """No trade in whole lots was found that is better than none."""


@bare
def _least(lot: float, min_notional: float) -> float:
    """Return the smallest size that can be sent: a whole number of lots, at least min_notional."""
    if lot <= 0.0:
        return min_notional
    return float(max(1.0, np.ceil(min_notional / lot - WHOLE)) * lot)


@bare
def _neighbour(x: float, side: int, lot: float, least: float, lower: float, upper: float) -> float:
    """Return the next size that can be sent from x toward `side`; x itself when there is none within the bounds."""
    if x == 0.0:
        y = side * least
    elif lot <= 0.0:
        y = 0.0 if x * side < 0.0 else x
    else:
        y = (np.rint(x / lot) + side) * lot
        if abs(y) < least - WHOLE * lot:
            y = 0.0 if x * side < 0.0 else side * least
    return float(y) if lower <= y <= upper else x


@bare
def _change(problem: Problem, space: Space, x: float, y: float, j: int) -> float:
    """Return J's change when leg j goes from x to y."""
    move = y - x
    p = problem.p[j]
    traded = problem.k[j] * (abs(y) - abs(x)) + problem.c[j] * (abs(p + y) - abs(p + x))
    return float(move * (space.legs[_GRADIENT, j] + 0.5 * problem.q[j, j] * move) + traded)


@bare
def _excess(problem: Problem, space: Space, sizes: Floats, h: Floats, i: int, x: float, j: int, y: float) -> float:
    """Return by how much the coupling constraints are overrun in all when leg i goes to x and leg j (−1 for none) to y."""
    count = len(problem.room)
    total = 0.0
    for s in range(count + 1):
        slack = space.couplings[_SLACK, s]
        if slack == np.inf:
            continue
        row = space.rows[s]
        if s < count:
            slack -= row[i] * (x - h[i])
            if j >= 0:
                slack -= row[j] * (y - h[j])
        else:
            slack -= row[i] * (abs(problem.p[i] + x) - abs(problem.p[i] + h[i]))
            if j >= 0:
                slack -= row[j] * (abs(problem.p[j] + y) - abs(problem.p[j] + h[j]))
        if slack < -SLACK * sizes[s]:
            total -= slack
    return total


@bare
def _set(problem: Problem, space: Space, h: Floats, j: int, y: float) -> None:
    """Put leg j to y; gradient and slacks follow."""
    count, move = len(problem.room), y - h[j]
    held = abs(problem.p[j] + y) - abs(problem.p[j] + h[j])
    h[j] = y
    for i in range(len(h)):
        space.legs[_GRADIENT, i] += move * problem.q[j, i]
    for s in range(count):
        space.couplings[_SLACK, s] -= space.rows[s, j] * move
    space.couplings[_SLACK, count] -= space.rows[count, j] * held


@bare
def round_to_lots(problem: Problem, h: Floats, lot: Floats, min_notional: Floats, space: Space) -> int:
    """Round h in place to what can be sent; return a `Rounding`. Allocates nothing.

    h (m,) within the bounds; lot (m,) notional of one lot, 0 for any size; min_notional (m,) ≥ 0. Each leg is rounded toward zero to a whole
    lot; then one leg, or two at once where no single one helps, moves by one lot (to and from the least size where that is more) as
    long as J falls and no bound or coupling constraint is passed. J of the result is below J(0), or h is 0.
    """
    m, count = len(h), len(problem.room)
    _scale_rows(problem, space)
    sizes = space.couplings[2]
    unit, asked, sendable = 0.0, False, False
    for j in range(m):
        unit = max(unit, abs(problem.g[j]), problem.k[j], problem.c[j])
        x, least = h[j], _least(lot[j], min_notional[j])
        asked = asked or x != 0.0
        size = abs(x)
        if lot[j] > 0.0:
            lots = np.floor(size / lot[j] + WHOLE)
            size = lots * lot[j]
            if size > (problem.upper[j] if x > 0.0 else -problem.lower[j]):
                size = max(lots - 1.0, 0.0) * lot[j]
        if size < least - WHOLE * lot[j]:
            size = 0.0
        sendable = sendable or size > 0.0
        h[j] = size if x > 0.0 else -size if x < 0.0 else 0.0
    if not asked:
        return 1
    for s in range(count + 1):
        sizes[s] = 0.0
        for j in range(m):
            reach = abs(problem.p[j]) if s == count else max(-problem.lower[j], problem.upper[j])
            sizes[s] += abs(space.rows[s, j]) * reach
    _refresh(problem, h, space)
    _repair(problem, h, lot, min_notional, space, sizes)
    for _ in range(ROUNDS * m):
        first, x, second, y = _best_move(problem, h, lot, min_notional, space, sizes, unit)
        if first < 0:
            break
        _set(problem, space, h, first, x)
        if second >= 0:
            _set(problem, space, h, second, y)
    nothing = 0.0
    traded = False
    for j in range(m):
        nothing += problem.c[j] * abs(problem.p[j])
        traded = traded or h[j] != 0.0
    if traded and objective(problem, h) < nothing:
        return 0
    h[:] = 0.0
    return 3 if sendable or traded else 2


@bare
def _repair(problem: Problem, h: Floats, lot: Floats, min_notional: Floats, space: Space, sizes: Floats) -> None:
    """Bring a rounded h back within the coupling constraints: the move of one leg that mends most, again and again; 0 where none does."""
    m = len(h)
    excess = _excess(problem, space, sizes, h, 0, h[0], -1, 0.0)
    for _ in range(ROUNDS * m):
        if excess == 0.0:
            return
        best, found, to = excess, -1, 0.0
        for j in range(m):
            for side in (-1, 1):
                x = _neighbour(h[j], side, lot[j], _least(lot[j], min_notional[j]), problem.lower[j], problem.upper[j])
                if x != h[j]:
                    left = _excess(problem, space, sizes, h, j, x, -1, 0.0)
                    if left < best:
                        best, found, to = left, j, x
        if found < 0:
            break
        _set(problem, space, h, found, to)
        excess = best
    if excess > 0.0:
        h[:] = 0.0
        _refresh(problem, h, space)


@bare
def _best_move(
    problem: Problem, h: Floats, lot: Floats, min_notional: Floats, space: Space, sizes: Floats, unit: float
) -> tuple[int, float, int, float]:
    """Return (leg, its new size, second leg or −1, its new size) of the move J falls most by; leg −1 when J falls by none."""
    m = len(h)
    best, first, x, second, y = 0.0, -1, 0.0, -1, 0.0
    for j in range(m):
        for side in (-1, 1):
            to = _neighbour(h[j], side, lot[j], _least(lot[j], min_notional[j]), problem.lower[j], problem.upper[j])
            if to == h[j]:
                continue
            change = _change(problem, space, h[j], to, j) + 1e-12 * unit * abs(to - h[j])
            if change < best and _excess(problem, space, sizes, h, j, to, -1, 0.0) == 0.0:
                best, first, x = change, j, to
    if first >= 0:
        return first, x, second, y
    for i in range(m):
        for side in (-1, 1):
            one = _neighbour(h[i], side, lot[i], _least(lot[i], min_notional[i]), problem.lower[i], problem.upper[i])
            if one == h[i]:
                continue
            change_i = _change(problem, space, h[i], one, i) + 1e-12 * unit * abs(one - h[i])
            for j in range(i):
                across = problem.q[i, j] * (one - h[i])
                for other in (-1, 1):
                    two = _neighbour(h[j], other, lot[j], _least(lot[j], min_notional[j]), problem.lower[j], problem.upper[j])
                    if two == h[j]:
                        continue
                    change = change_i + _change(problem, space, h[j], two, j) + across * (two - h[j]) + 1e-12 * unit * abs(two - h[j])
                    if change < best and _excess(problem, space, sizes, h, i, one, j, two) == 0.0:
                        best, first, x, second, y = change, i, one, j, two
    return first, x, second, y
