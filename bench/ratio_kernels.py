"""What the ratio kernels cost, what missing bars and priors do to a ratio, how often and how fast a breakdown is seen. Synthetic data.

Run `python -m bench.ratio_kernels`; the last line is JSON. Times are processor time of one thread, the least of several runs by turns; a
numpy update of full matrices beside it makes them comparable. Random numbers come from `--seed`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

import numpy as np
from rich.console import Console
from rich.table import Table

from bench.hedge_quality import ALL, Hedge, ours
from operators import ratios as rt
from schemas.chunk import Ints
from schemas.jit import njit

SERIES = 240
BARS = 50
MISSING = (0.0, 0.05, 0.1, 0.3)
TRIALS = 400


def least_us(calls: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Return the least processor time of each call in µs, taken by turns."""
    least = dict.fromkeys(calls, float("inf"))
    for _ in range(repeats):
        for name, call in calls.items():
            begun = time.thread_time_ns()
            call()
            least[name] = min(least[name], (time.thread_time_ns() - begun) / 1e3)
    return least


def update_times(rng: np.random.Generator, repeats: int) -> dict[str, float]:
    """Return µs a bar of SERIES series: four memories, one memory, with stale quotes, and numpy's own on full matrices."""
    returns = rng.normal(size=(BARS, SERIES)) * 1e-3
    whole, some = np.ones((BARS, SERIES), np.bool_), rng.random((BARS, SERIES)) >= 0.1
    four, one = rt.new_moments(SERIES), rt.new_moments(SERIES, (0.97,))
    full = np.zeros((len(rt.LAMBDAS), SERIES, SERIES))

    def by_numpy() -> None:
        for r in returns:
            outer = np.outer(r, r)
            for k, lam in enumerate(rt.LAMBDAS):
                full[k] = lam * full[k] + (1 - lam) * outer

    calls: dict[str, Callable[[], object]] = {
        "four_memories": lambda: rt.update_all(four, returns, whole),
        "one_memory": lambda: rt.update_all(one, returns, whole),
        "four_memories_tenth_stale": lambda: rt.update_all(four, returns, some),
        "numpy_covariances_only": by_numpy,
    }
    return {name: us / BARS for name, us in least_us(calls, repeats).items()}


def estimate_times(rng: np.random.Generator, repeats: int) -> dict[str, float]:
    """Return µs to estimate the ratios of one exposure to 1, 3, 10 and 40 instruments, and to check a matrix of SERIES series."""
    common = rng.normal(size=(300, 1))
    returns = (common + 0.7 * rng.normal(size=(300, 41))) * 1e-3
    moments = rt.new_moments(41)
    rt.update_all(moments, returns, np.ones(returns.shape, np.bool_))
    calls: dict[str, Callable[[], object]] = {}
    for m in (1, 3, 10, 40):
        out, room, none, calm, xs = rt.new_ratios(m), rt.new_room(m), np.full(m, np.nan), np.ones(m), np.arange(1, m + 1)
        calls[f"estimate_{m}"] = lambda xs=xs, none=none, calm=calm, out=out, room=room: rt.estimate(  # type: ignore[misc]
            moments, 0, xs, none, none, calm, rt.Rules(), out, room
        )
    large = rng.normal(size=(SERIES, 2 * SERIES))
    cov, factor = large @ large.T, np.zeros((SERIES, SERIES))
    calls["condition_psd_240"] = lambda: rt.condition_psd(cov, factor)
    for call in calls.values():
        call()
    return least_us(calls, repeats)


def missing_bars(rng: np.random.Generator) -> list[dict[str, float]]:
    """Return per share of missing quotes the error of a tight ratio (correlation 0.98) by how its covariance is made, and what sets look like.

    Errors are root mean squares against the true ratio of 1, of the product's (regression over common bars) and of plain
    pairwise figures (covariance over common bars by variance over own bars). pulled: share of sets of six related series whose
    correlations contradict each other; pull: the mean of how far these are pulled together.
    """
    rows = []
    none, out, room = np.full(1, np.nan), rt.new_ratios(1), rt.new_room(1)
    for missing in MISSING:
        errors, plain, pulls = [], [], []
        for _ in range(TRIALS):
            x = rng.normal(size=(300, 1))
            near = x + 0.2 * rng.normal(size=(300, 1))
            others = x + 0.5 * rng.normal(size=(300, 4))
            data = np.hstack([near, x, others]) * 1e-3
            moments = rt.new_moments(6)
            rt.update_all(moments, data, rng.random(data.shape) >= missing)
            rt.estimate(moments, 0, np.array([1]), none, none, np.ones(1), rt.Rules(), out, room)
            errors.append(out.raw[0] - 1)
            at = rt.pair_place(0, 1)
            left = 1 - rt.power(0.97, int(moments.n[at]))
            plain.append(moments.cov[rt.IN_USE, at] / left / rt.variance(moments, rt.IN_USE, 1) - 1)
            cov = np.zeros((6, 6))
            rt.covariance(moments, rt.IN_USE, np.arange(6), cov)
            pulls.append(rt.condition_psd(cov, np.zeros((6, 6))))
        pulled = np.array([pull for pull in pulls if pull > 0])
        rows.append(
            {
                "missing": missing,
                "error": round(float(np.sqrt(np.mean(np.square(errors)))), 4),
                "error_plain": round(float(np.sqrt(np.mean(np.square(plain)))), 4),
                "pulled": round(len(pulled) / TRIALS, 3),
                "pull": round(float(pulled.mean()), 4) if len(pulled) else 0.0,
            }
        )
    return rows


def priors(rng: np.random.Generator) -> list[dict[str, object]]:
    """Return the error of a ratio around 1 (correlation 0.8) that stays, wanders or jumps by 0.5: raw, and in use by the two priors."""
    rows: list[dict[str, object]] = []
    bars, trials = 1_500, 40
    for path in ("stays", "wanders", "jumps"):
        errors: dict[str, list[float]] = {"raw": [], "long_error": [], "widened": []}
        for _ in range(trials):
            truth = np.ones(bars)
            if path == "wanders":
                truth += np.cumsum(0.02 * rng.normal(size=bars))
            elif path == "jumps":
                truth[750:] = 1.5
            x = rng.normal(size=(bars, 1)) * 0.01
            hedge = Hedge(truth * x[:, 0] + 0.0075 * rng.normal(size=bars), x, 250)
            raw, _, widened = ours(hedge, ALL)
            by_rule = ours(hedge, ALL._replace(widen=0.0))[2]
            for name, ratio in zip(errors, (raw, by_rule, widened), strict=True):
                errors[name].append(float(((ratio[250:, 0] - truth[250:]) ** 2).mean()))
        rows.append({"ratio": path, **{name: round(float(np.sqrt(np.mean(found))), 4) for name, found in errors.items()}})
    return rows


@njit
def _alarms(y: rt.Floats, x: rt.Floats, rules: rt.Rules, moments: rt.Moments, watch: rt.Watch, begins: Ints) -> int:
    """Return how many bars are in a breakdown; write the bars at which one begins, and their number at the end."""
    fresh = np.ones(2, np.bool_)
    both = np.zeros(2)
    zero, one, event = np.zeros(1, np.int64), np.ones(1, np.int64), np.zeros(1, np.int64)
    count, active = 0, 0
    for t in range(len(y)):
        both[0], both[1] = y[t], x[t]
        rt.update(moments, both, fresh)
        rt.watch_correlations(watch, moments, rt.FAST, rt.SLOW, zero, one, fresh, rules, event)
        if event[0] == 1 and count < len(begins) - 1:
            begins[count] = t
            count += 1
        active += 1 if watch.active[0, rt.CORRELATION] else 0
    begins[-1] = count
    return active


def breakdowns(rng: np.random.Generator) -> list[dict[str, object]]:
    """Return per correlation and tail how often a relation that never changes is called broken, and how soon one that falls by 0.6 is."""
    rows: list[dict[str, object]] = []
    bars, falls = 100_000, 200

    def shocks(n: int, tail: str) -> rt.Floats:
        scale = 1.0 if tail == "normal" else 1 / np.sqrt(3.0)
        out: rt.Floats = (rng.normal(size=(n, 2)) if tail == "normal" else rng.standard_t(3, size=(n, 2))) * scale
        return out

    def alarms(z: rt.Floats, rho: rt.Floats) -> tuple[int, Ints]:
        begins = np.zeros(len(z) + 1, np.int64)
        y = rho * z[:, 0] + np.sqrt(1 - rho * rho) * z[:, 1]
        active = _alarms(y, z[:, 0].copy(), rt.Rules(), rt.new_moments(2), rt.new_watch(1), begins)
        return active, begins[: begins[-1]]

    for tail in ("normal", "student_t3"):
        for rho in (0.6, 0.8, 0.95):
            active, begins = alarms(shocks(bars, tail), np.full(bars, rho))
            delays = []
            for _ in range(falls):
                path = np.full(600, rho)
                path[300:] = rho - 0.6
                _, found = alarms(shocks(600, tail), path)
                after = found[found >= 300]
                delays.append(int(after[0]) - 299 if len(after) else 999)
            rows.append(
                {
                    "shocks": tail,
                    "rho": rho,
                    "false_per_10000_bars": round(1e4 * len(begins) / bars, 2),
                    "false_share_of_bars": round(active / bars, 4),
                    "median_delay_bars": float(np.median(delays)),
                    "seen_in_100_bars": round(float(np.mean(np.array(delays) <= 100)), 3),
                }
            )
    return rows


def show(title: str, rows: list[dict[str, object]], console: Console) -> None:
    """Print rows as a table."""
    table = Table(*rows[0], box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(f"{value:,.4g}" if isinstance(value, float) else str(value) for value in row.values()))
    console.print(f"[bold]{title}[/]", table, "")


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=40, help="runs of each timing, the least counts")
    parser.add_argument("--seed", type=int, default=1, help="of the random numbers")
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    console = Console(width=120)
    times = {name: round(us, 1) for name, us in {**update_times(rng, args.repeats), **estimate_times(rng, args.repeats)}.items()}
    show(f"processor time, µs; updates: a bar of {SERIES} series", [{"what": name, "us": us} for name, us in times.items()], console)
    missing = missing_bars(rng)
    show("quotes missing at random", [dict(row) for row in missing], console)
    drawn = priors(rng)
    show("error of a ratio by its prior", drawn, console)
    broken = breakdowns(rng)
    show("correlation breakdown", broken, console)
    print(
        json.dumps({"benchmark": "ratio_kernels", "series": SERIES, "us": times, "missing": missing, "priors": drawn, "breakdown": broken})
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
