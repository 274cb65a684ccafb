"""The hedger's problem as a quadratic program for other people's solvers: the exact oracle of tests/operators/test_optimiser.py and the peers of
bench.hedge_speed. Shares no code with the optimiser. Not part of the product.

Every |x| becomes a variable t with −t ≤ x ≤ t. Variables are [h, t of trading where k > 0, t of holding where it is priced or limited].
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import clarabel
import numpy as np
import osqp
from scipy import sparse

from operators.optimiser import Problem


@dataclass(frozen=True)
class Lifted:
    """Minimise ½x'Px + q'x + constant, lower ≤ Ax ≤ upper; the first m of x are h. P is upper triangular, both are CSC."""

    p: Any
    q: np.ndarray
    a: Any
    lower: np.ndarray
    upper: np.ndarray
    m: int


@dataclass(frozen=True)
class Answer:
    """What a peer found: h (m,), brought into the bounds it may miss by its tolerance, its objective, whether it says solved; processor seconds."""

    h: np.ndarray
    objective: float
    solved: bool
    setup_s: float
    solve_s: float


def lift(problem: Problem) -> Lifted:
    """Return the quadratic program of a problem."""
    m = len(problem.g)
    used = float(problem.margin_rate @ np.abs(problem.p))
    limited = bool(np.isfinite(problem.capital[0]))
    trade = np.flatnonzero(problem.k > 0)
    hold = np.flatnonzero((problem.c > 0) | ((problem.margin_rate > 0) & limited))
    size = m + len(trade) + len(hold)
    rows: list[tuple[dict[int, float], float, float]] = []
    for j in range(m):
        rows.append(({j: 1.0}, float(problem.lower[j]), float(problem.upper[j])))
    for i, j in enumerate(trade):
        rows.append(({int(j): 1.0, m + i: -1.0}, -np.inf, 0.0))
        rows.append(({int(j): 1.0, m + i: 1.0}, 0.0, np.inf))
    first = m + len(trade)
    for i, j in enumerate(hold):
        rows.append(({int(j): 1.0, first + i: -1.0}, -np.inf, -float(problem.p[j])))
        rows.append(({int(j): 1.0, first + i: 1.0}, -float(problem.p[j]), np.inf))
    if limited:
        # a leg without a priced holding has no margin either, or is in `hold`
        rows.append(({first + i: float(problem.margin_rate[j]) for i, j in enumerate(hold)}, -np.inf, max(float(problem.capital[0]), used)))
    for s in np.flatnonzero(np.isfinite(problem.room)):
        rows.append(({j: float(problem.stress[s, j]) for j in range(m)}, -np.inf, float(problem.room[s])))
    values = [(r, c, v) for r, (row, _, _) in enumerate(rows) for c, v in row.items() if v != 0.0]
    a = sparse.csc_matrix(
        ([v for _, _, v in values], ([r for r, _, _ in values], [c for _, c, _ in values])), shape=(len(rows), size)
    )  # fmt: skip
    p = sparse.block_diag([sparse.csc_matrix(np.triu(problem.q)), sparse.csc_matrix((size - m, size - m))], format="csc")
    q = np.concatenate([problem.g, problem.k[trade], problem.c[hold]])
    return Lifted(p, q, a, np.array([row[1] for row in rows]), np.array([row[2] for row in rows]), m)


def normalised(problem: Problem) -> tuple[Problem, float]:
    """Return (the problem with each leg in units of its wider bound and money in units of the largest g·bound, that unit of money).

    The solvers' tolerances are absolute and relative by turns; in these units they mean the same for every problem.
    """
    width = np.maximum(problem.upper, -problem.lower)
    width[width <= 0.0] = 1.0
    money = float(np.max(np.maximum(np.maximum(np.abs(problem.g), problem.k), problem.c) * width)) or 1.0
    used, limit = np.abs(problem.p) @ problem.margin_rate, problem.capital
    margin = problem.margin_rate * width
    rows = problem.stress * width
    largest = np.max(np.abs(rows), axis=1, initial=0.0)
    largest[largest <= 0.0] = 1.0
    steepest = float(margin.max()) or 1.0
    scaled = Problem(
        problem.q * np.outer(width, width) / money, problem.g * width / money, problem.k * width / money, problem.c * width / money,
        problem.p / width, problem.lower / width, problem.upper / width, margin / steepest, np.maximum(limit, used) / steepest,
        rows / largest[:, None], problem.room / largest,
    )  # fmt: skip
    return scaled, money


def cones(lifted: Lifted) -> tuple[Any, np.ndarray, list[Any]]:
    """Return (A, b, cones) of the form b − Ax in a cone, which Clarabel takes."""
    up, down = np.isfinite(lifted.upper), np.isfinite(lifted.lower)
    same = up & down & (lifted.lower == lifted.upper)
    up, down = up & ~same, down & ~same
    rows = lifted.a.tocsr()
    a = sparse.vstack([rows[same], rows[up], -rows[down]], format="csc")
    b = np.concatenate([lifted.upper[same], lifted.upper[up], -lifted.lower[down]])
    kinds: list[Any] = []
    if same.any():
        kinds.append(clarabel.ZeroConeT(int(same.sum())))
    kinds.append(clarabel.NonnegativeConeT(int(up.sum() + down.sum())))
    return a, b, kinds


def value(problem: Problem, h: np.ndarray) -> float:
    """Return J(h) by numpy."""
    return float(0.5 * h @ problem.q @ h + problem.g @ h + problem.k @ np.abs(h) + problem.c @ np.abs(problem.p + h))


def by_clarabel(problem: Problem, lifted: Lifted, tolerance: float = 1e-10) -> Answer:
    """Solve by Clarabel's interior point method. Making its sparse matrices is not in the times."""
    a, b, kinds = cones(lifted)
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    settings.max_threads = 1
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = tolerance
    begun = time.thread_time()
    solver = clarabel.DefaultSolver(lifted.p, lifted.q, a, b, kinds, settings)
    ready = time.thread_time()
    found = solver.solve()
    done = time.thread_time()
    h = np.clip(np.array(found.x)[: lifted.m], problem.lower, problem.upper)
    return Answer(h, value(problem, h), str(found.status) in ("Solved", "AlmostSolved"), ready - begun, done - ready)


def by_osqp(problem: Problem, lifted: Lifted, tolerance: float = 1e-9, most: int = 20_000) -> Answer:
    """Solve by OSQP with polishing. Making its sparse matrices is not in the times."""
    solver = osqp.OSQP()
    begun = time.thread_time()
    solver.setup(
        lifted.p, lifted.q, lifted.a, lifted.lower, lifted.upper, verbose=False, polishing=True, eps_abs=tolerance, eps_rel=tolerance, max_iter=most
    )  # fmt: skip
    ready = time.thread_time()
    found = solver.solve()
    done = time.thread_time()
    h = np.clip(np.array(found.x)[: lifted.m], problem.lower, problem.upper)
    return Answer(h, value(problem, h), found.info.status == "solved", ready - begun, done - ready)
