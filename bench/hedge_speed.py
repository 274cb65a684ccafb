"""Benchmark of the hedge decision: from exposures, ratios, covariance and limits to trades, in processor time, beside OSQP and Clarabel.

Run `python -m bench.hedge_speed`; the last line is JSON; `--plot` draws the times. Books are made from seeds (bench.hedge_market). A decision is the whole of
operators.proposal.propose: it builds Q, g, prices, bounds, capital and stress, and solves. The peers get the finished problem, scaled, as sparse
matrices; each is given the loosest of its tolerances that reaches our objective within 1e-6, and only that run's time; where none does the
decision is counted but in no ratio. Set-up and solve are told apart; a ratio counts both, as every decision is a new problem. The time of
building is in ours, not in theirs. Beside them: what a bar costs the covariances a decision starts from (ewma_ms).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bench.hedge_market import Book, make_book
from bench.lifted import Answer, Lifted, by_clarabel, by_osqp, lift, normalised, value
from operators import ratios
from operators.optimiser import Problem, infeasibility

EQUAL = 1e-6
"""Objectives closer than this, relative to what trading gains or to J, are equal."""
CLARABEL_TOLERANCES = (1e-4, 1e-6, 1e-8, 1e-10)
OSQP_TOLERANCES = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9)
SERIES, BARS = 240, 500
_PLOTS_MISSING = "--plot needs matplotlib: install hedgerow with the extra `plots`"


@dataclass
class Measured:
    """Times in ms, one per decision; those of a peer with the decision's own beside it."""

    ours: list[float] = field(default_factory=list)
    steps: list[float] = field(default_factory=list)
    legs: list[int] = field(default_factory=list)
    coupled: list[bool] = field(default_factory=list)
    peers: dict[str, list[tuple[float, float, float]]] = field(default_factory=lambda: {"osqp": [], "clarabel": []})
    unequal: dict[str, int] = field(default_factory=lambda: {"osqp": 0, "clarabel": 0})


def decide(book: Book, measured: Measured) -> float:
    """Make one decision, note what it took; return ms of processor time."""
    begun = time.thread_time_ns()
    status = book.decide()
    took = (time.thread_time_ns() - begun) / 1e6
    found = book.solution
    if status != 0 or infeasibility(book.problem, found.h) > 1e-9:
        raise SystemExit(f"a decision was not optimal: status {status}, violation {found.figures[2]}")
    measured.ours.append(took)
    measured.steps.append(float(found.figures[3]))
    measured.legs.append(int(np.count_nonzero(found.h)))
    measured.coupled.append(bool(found.nu[0] > 0 or (found.mu > 0).any()))
    return took


def ask(
    solver: Callable[[Problem, Lifted, float], Answer], tolerances: tuple[float, ...], problem: Problem, lifted: Lifted, ours: float
) -> tuple[Answer, bool]:
    """Return (the answer of the loosest tolerance that is equal to our objective, or the last one, whether it is equal)."""
    nothing = value(problem, np.zeros(lifted.m))
    answer = None
    for tolerance in tolerances:
        answer = solver(problem, lifted, tolerance)
        if abs(answer.objective - ours) <= EQUAL * max(abs(ours), abs(ours - nothing)) and infeasibility(problem, answer.h) <= EQUAL:
            return answer, True
    assert answer is not None
    return answer, False


def compare(book: Book, took: float, measured: Measured) -> None:
    """Solve the decision's problem by the peers."""
    problem, _ = normalised(book.problem)
    width = np.maximum(book.problem.upper, -book.problem.lower)
    ours = value(problem, book.solution.h / np.where(width > 0, width, 1.0))
    lifted = lift(problem)
    for name, solver, tolerances in (("osqp", by_osqp, OSQP_TOLERANCES), ("clarabel", by_clarabel, CLARABEL_TOLERANCES)):
        answer, equal = ask(solver, tolerances, problem, lifted, ours)
        if equal:
            measured.peers[name].append((took, answer.setup_s * 1e3, answer.solve_s * 1e3))
        else:
            measured.unequal[name] += 1


def run(seeds: list[int], decisions: int, every: int, shape: tuple[int, int, int]) -> dict[str, Measured]:
    """Return what was measured of first decisions on books without a hedge (cold) and of those that follow from fills (warm)."""
    result = {"cold": Measured(), "warm": Measured()}
    make_book(0, *shape).decide()
    for seed in seeds:
        for fresh in range(seed * 1_000, seed * 1_000 + 5):
            book = make_book(fresh, *shape)
            compare(book, decide(book, result["cold"]), result["cold"])
        book = make_book(seed, *shape)
        book.decide()
        book.send()
        for i in range(1, decisions + 1):
            book.fill()
            if i % 10 == 0:
                book.bar()
            took = decide(book, result["warm"])
            if i % every == 0:
                compare(book, took, result["warm"])
            if book.rng.random() < 0.5:
                book.send()
    return result


def ewma_ms(seed: int) -> float:
    """Return the median processor time, in ms, of one bar of SERIES series in the four memories."""
    moments, fresh = ratios.new_moments(SERIES), np.ones(SERIES, np.bool_)
    took = []
    for returns in np.random.default_rng(seed).normal(size=(BARS, SERIES)) * 1e-3:
        begun = time.thread_time_ns()
        ratios.update(moments, returns, fresh)
        took.append(time.thread_time_ns() - begun)
    return float(np.median(took)) / 1e6


def plot(measured: dict[str, Measured], path: Path) -> None:
    """Draw which share of the decisions takes how long, ours and the peers'. Needs the extra `plots`."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    titles = {"cold": "books without a hedge", "warm": "decisions after fills"}
    peers = {"osqp": "OSQP", "clarabel": "Clarabel"}
    figure, places = pyplot.subplots(1, len(measured), figsize=(12, 5), sharey=True, sharex=True, layout="constrained")
    for place, (kind, one) in zip(places, measured.items(), strict=True):
        times = {
            "hedgerow": np.array(one.ours),
            **{peers[name]: np.array(rows)[:, 1:].sum(axis=1) for name, rows in one.peers.items() if rows},
        }
        for name, values in times.items():
            shares = np.arange(1, len(values) + 1) / len(values) * 100
            place.step(np.sort(values), shares, where="post", label=name, linewidth=2 if name == "hedgerow" else 1.2)
        reached = ", ".join(f"{peers[name]} {len(rows)} of {len(rows) + one.unequal[name]}" for name, rows in one.peers.items())
        place.set_title(f"{len(one.ours)} {titles[kind]}\nequal objective reached: {reached}", fontsize=10)
        place.set(xlabel="processor time, ms", xscale="log", ylim=(0, 101))
        place.grid(alpha=0.3)
    places[0].set_ylabel("decisions that take no longer, %")
    handles, labels = places[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=9, frameon=False)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def table(kind: str, one: Measured) -> dict[str, float]:
    """Print what was measured; return the figures."""
    ours = np.array(one.ours)
    figures = {"p50_ms": float(np.percentile(ours, 50)), "p95_ms": float(np.percentile(ours, 95)), "max_ms": float(ours.max())}
    print(
        f"{kind}: {len(ours)} decisions, p50 {figures['p50_ms']:.3f} ms, p95 {figures['p95_ms']:.3f} ms, max {figures['max_ms']:.3f} ms; "
        f"{np.median(one.steps):.0f} steps, {np.median(one.legs):.0f} legs traded, coupling constraints bind in {np.mean(one.coupled):.0%}"
    )
    for name, rows in one.peers.items():
        if not rows:
            print(f"  {name:9} an equal objective was reached in none of {one.unequal[name]}")
            continue
        took, setup, solve = np.array(rows).T
        whole, alone = float(np.median((setup + solve) / took)), float(np.median(solve / took))
        figures[f"vs_{name}"], figures[f"vs_{name}_solve"] = whole, alone
        print(
            f"  {name:9} {len(rows)} of them: set-up {np.median(setup):6.3f} ms, solve {np.median(solve):6.3f} ms; "
            f"{whole:.0f} times ours, {alone:.0f} times without set-up; an equal objective was not reached in {one.unequal[name]} more"
        )
    return figures


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(1, 13)), help="what books are made from")
    parser.add_argument("--decisions", type=int, default=100, help="of each book")
    parser.add_argument(
        "--every", type=int, default=20, help="one decision in so many is cold; it and a warm one half-way to the next go to the peers"
    )
    parser.add_argument("--exposures", type=int, default=200)
    parser.add_argument("--instruments", type=int, default=40)
    parser.add_argument("--scenarios", type=int, default=8)
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw the times (needs the extra `plots`)")
    args = parser.parse_args()
    if args.plot is not None and importlib.util.find_spec("matplotlib") is None:
        print(f"bench.hedge_speed: {_PLOTS_MISSING}", file=sys.stderr)
        return 2
    print(f"seeds {args.seeds}; {args.exposures} exposures, {args.instruments} instruments, {args.scenarios} scenarios; processor time")
    measured = run(args.seeds, args.decisions, args.every, (args.exposures, args.instruments, args.scenarios))
    bar_ms = ewma_ms(args.seeds[0])
    told = {kind: table(kind, one) for kind, one in measured.items()}
    print(f"covariances: a bar of {SERIES} series in {len(ratios.LAMBDAS)} memories takes {bar_ms * 1e3:.0f} µs")
    if args.plot is not None:
        plot(measured, args.plot)
        print(f"wrote {args.plot}")
    both = np.concatenate([measured["cold"].ours, measured["warm"].ours])
    result: dict[str, object] = {
        "benchmark": "hedge_speed", "p50_ms": round(float(np.percentile(both, 50)), 4), "p95_ms": round(float(np.percentile(both, 95)), 4),
    }  # fmt: skip
    for name in ("osqp", "clarabel"):
        rows = np.array(measured["cold"].peers[name] + measured["warm"].peers[name])
        result[f"vs_{name}"] = round(float(np.median((rows[:, 1] + rows[:, 2]) / rows[:, 0])), 1) if len(rows) else None
    result["ewma_ms"] = round(bar_ms, 4)
    result["unequal"] = sum(sum(one.unequal.values()) for one in measured.values())
    for kind, figures in told.items():
        result[kind] = {name: round(figure, 4) for name, figure in figures.items()}
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
