"""How well hedges with the product's ratios work: rolling, out of sample, on public data, beside the usual methods; and what they trade.

Run `python -m bench.hedge_quality`; it prints a table and a line of JSON a row, and ends with 1 if a row misses its bar. The data sets are files
inside the PyPI packages arch and skfolio: pip fetches the two wheels once into the user's cache (requirements-data.lock), nothing is installed or
imported. A ratio is always one that was known before the bar it hedges. Methods and figures: docs/ratios.md.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Table

from connectors.kafka_server import cache_dir
from connectors.recordings import RecordingError, read_recording
from operators.ratios import (
    IN_USE,
    LAMBDAS,
    PRIOR_SAME_UNDERLYING,
    TAU_SAME_UNDERLYING,
    Floats,
    Moments,
    Ratios,
    Room,
    Rules,
    bar_returns,
    estimate,
    move_all,
    n_eff,
    new_moments,
    new_ratios,
    new_room,
    update,
)
from schemas.chunk import Ints
from schemas.jit import njit

LOCK = Path(__file__).resolve().parent.parent / "requirements-data.lock"
METHODS = ("naive", "ols", "lw_identity", "ewma", "dcc_lite")
OURS = "in_use"
VARIANTS = ("unbuffered", "rule_prior", "eligible_only")
DAILY, MONTHLY = 250, 60
RECENT = 2_600
COSTS_BPS = (1.0, 5.0)
MOST_BELOW = 0.5
"""Points of variance reduction the ratio in use may be under the best method, and under OLS."""
MOST_LOST = 1.0
"""Points the buffer may cost."""
MOST_TURNOVER = 0.5
ALL = Rules(r2_least=0.0, rho_least=0.0)
"""Every instrument stays in: the ratio is judged here, not the choice of instruments."""
_DCC_SEED = 20
_PHASES = 10
"""Grids of bars, evenly shifted, a recording of minutes is cut by: one grid's figures are chance."""
_PLOT_MOST = 3.0
_PLOTS_MISSING = "--plot needs matplotlib: install hedgerow with the extra `plots`"


class DataError(Exception):
    """A data set is not there; the message says why."""


@dataclass(frozen=True)
class Hedge:
    """An exposure's returns y `(n,)` and its instruments' x `(n, m)`; the first `window` bars are for learning."""

    y: Floats
    x: Floats
    window: int
    same_underlying: bool = False


@dataclass(frozen=True)
class Row:
    """One line of the table: the median over its hedges.

    minutes: a recording of minutes, too short to judge turnover by. ols_only: nor does the best of several methods mean anything there.
    """

    name: str
    hedges: list[Hedge]
    minutes: bool = False
    ols_only: bool = False


@dataclass
class Result:
    """Per method, the variance reduction in % (of each hedge) and of ours the turnover by unbuffered turnover."""

    row: Row
    reduction: dict[str, list[float]] = field(default_factory=dict)
    net: dict[tuple[str, float], list[float]] = field(default_factory=dict)
    traded: float = 0.0
    traded_unbuffered: float = 0.0

    def median(self, method: str) -> float | None:
        """Return the variance reduction of a method, None where it cannot be applied."""
        found = self.reduction.get(method)
        return float(np.median(found)) if found else None

    def lost(self, cost_bps: float) -> float:
        """Return the points of variance reduction, after costs, that the buffer takes away."""
        return float(np.median(self.net["unbuffered", cost_bps]) - np.median(self.net[OURS, cost_bps]))


# --- data -------------------------------------------------------------------------------------------------------------------------


def fetch(folder: Path) -> None:
    """Have pip put the wheels of requirements-data.lock into a folder. Raises DataError with what pip said."""
    folder.mkdir(parents=True, exist_ok=True)
    print(f"bench.hedge_quality: fetching public data into {folder}", file=sys.stderr)
    asked = (
        sys.executable,
        "-m",
        "pip",
        "download",
        "--disable-pip-version-check",
        "--quiet",
        "--no-deps",
        "--only-binary",
        ":all:",
        "--require-hashes",
    )
    done = subprocess.run([*asked, "-r", str(LOCK), "-d", str(folder)], capture_output=True, text=True)
    if done.returncode != 0:
        raise DataError(f"pip could not fetch the public data: {done.stderr.strip()}")


def wheel(package: str, folder: Path) -> Path:
    """Return the wheel of a package of requirements-data.lock in a folder, fetched if it is not there."""
    pinned = re.search(rf"^{package}==(\S+)", LOCK.read_text(encoding="utf-8"), re.M)
    if pinned is None:
        raise DataError(f"{LOCK.name} has no {package}")
    if not any(folder.glob(f"{package}-{pinned[1]}-*.whl")):
        fetch(folder)
    return next(folder.glob(f"{package}-{pinned[1]}-*.whl"))


def _packaged(package: str, path: str) -> pl.DataFrame:
    """Return a CSV file (gzip) that lies inside a package, without installing the package."""
    with zipfile.ZipFile(wheel(package, cache_dir() / "data")) as files:
        return pl.read_csv(files.read(f"{package}/{path}"))


def _returns(prices: pl.DataFrame, names: list[str]) -> Floats:
    values = prices.select(names).to_numpy().astype(np.float64)
    out: Floats = np.diff(np.log(values), axis=0)
    return out


def daily_rows() -> Iterator[Row]:
    """Yield the rows whose data lie in the packages."""
    index = _packaged("arch", "data/sp500/sp500.csv.gz").select("Date", sp="Adj Close")
    both = _packaged("arch", "data/nasdaq/nasdaq.csv.gz").select("Date", nasdaq="Adj Close").join(index, on="Date", maintain_order="left")
    r = _returns(both, ["nasdaq", "sp"])
    yield Row("NASDAQ by S&P 500, daily 1999-2018", [Hedge(r[:, 0], r[:, 1:], DAILY)])
    crude = _packaged("arch", "data/crude/crude.csv.gz")
    r = _returns(crude.drop_nulls(), ["Brent", "WTI"])
    yield Row("Brent by WTI, monthly 1987-2020", [Hedge(r[:, 0], r[:, 1:], MONTHLY)])
    stocks = _packaged("skfolio", "datasets/data/sp500_dataset.csv.gz")
    names = [name for name in stocks.columns if name != "Date"]
    index = _packaged("skfolio", "datasets/data/sp500_index.csv.gz")
    r = _returns(stocks.join(index, on="Date", maintain_order="left"), [*names, "SP500"])
    yield Row("equal-weight 20 stocks by S&P 500, 1990-2022", [Hedge(r[:, :-1].mean(axis=1), r[:, -1:], DAILY)])
    factors = _packaged("skfolio", "datasets/data/factors_dataset.csv.gz")
    factor_names = [name for name in factors.columns if name != "Date"]
    f = _returns(stocks.join(factors, on="Date", maintain_order="left"), [*names, *factor_names])
    yield Row("same basket by 5 factor ETFs, 2014-22", [Hedge(f[:, : len(names)].mean(axis=1), f[:, len(names) :], DAILY)])
    r = r[-RECENT:]
    yield Row("single stocks by S&P 500, median of 20", [Hedge(r[:, i], r[:, -1:], DAILY) for i in range(len(names))])
    by = [names.index("CVX"), names.index("RRC"), len(names)]
    yield Row("XOM by CVX, RRC, S&P 500", [Hedge(r[:, names.index("XOM")], r[:, by], DAILY)])


def tick_rows(folder: Path) -> Iterator[Row]:
    """Yield the rows of recorded ticks: spot/btcusdt*, usdm/btcusdt* and usdm/ethusdt* of a folder, as `hedgerow replay` reads them."""
    quotes = []
    for number, pattern in enumerate(("spot/btcusdt*.gz", "usdm/btcusdt*.gz", "usdm/ethusdt*.gz")):
        found = sorted(folder.glob(pattern))
        if not found:
            raise DataError(f"{folder}: no {pattern}")
        mid = (pl.col("bid").cast(pl.Float64) + pl.col("ask").cast(pl.Float64)) / 2
        quotes.append(read_recording(found[0]).quotes.select("receive_ns", pl.lit(number, pl.Int64).alias("series"), mid.alias("mid")))
    tape = pl.concat(quotes).sort("receive_ns", maintain_order=True)
    columns = [tape[name].to_numpy() for name in ("receive_ns", "series", "mid")]
    for seconds, window, instruments in ((5, 20, (1, 2)), (1, 60, (1,))):
        bar_ns = seconds * 1_000_000_000
        cut = [bar_returns(columns[0] + phase * bar_ns // _PHASES, columns[1], columns[2], 3, bar_ns) for phase in range(_PHASES)]
        for by in instruments:
            kept = [returns[fresh[:, 0] & fresh[:, by]] for returns, fresh, _ in cut]
            name = f"BTC spot by {'BTC' if by == 1 else 'ETH'} perp, {seconds} s, median of {_PHASES} grids"
            yield Row(
                name, [Hedge(r[:, 0], r[:, by : by + 1], window, same_underlying=by == 1) for r in kept], minutes=True, ols_only=by == 2
            )


# --- methods ----------------------------------------------------------------------------------------------------------------------


def rolling(hedge: Hedge, fit: Callable[[Floats], Floats]) -> Floats:
    """Return ratios `(n, m)` fitted to the `window` bars before each bar, NaN before there are as many."""
    data = np.column_stack([hedge.y, hedge.x])
    out = np.full(hedge.x.shape, np.nan)
    for t in range(hedge.window, len(data)):
        part = data[t - hedge.window : t]
        cov = fit(part - part.mean(axis=0))
        out[t] = np.linalg.solve(cov[1:, 1:], cov[1:, 0])
    return out


def sample(x: Floats) -> Floats:
    """Return the sample covariance of centred returns."""
    out: Floats = x.T @ x / len(x)
    return out


def ledoit_wolf(x: Floats) -> Floats:
    """Return the covariance of centred returns shrunk toward a multiple of the identity (Ledoit and Wolf 2004)."""
    n, p = x.shape
    cov = sample(x)
    target = np.trace(cov) / p * np.eye(p)
    distance = ((cov - target) ** 2).sum()
    spread = (((x**2).T @ (x**2)).sum() / n - (cov**2).sum()) / n
    share = min(spread / distance, 1.0) if distance > 0 else 0.0
    out: Floats = (1 - share) * cov + share * target
    return out


def dcc_lite(hedge: Hedge, a: float = 0.03, b: float = 0.95, lam: float = 0.94) -> Floats:
    """Return ratios of a dynamic conditional correlation with fixed a and b on exponentially weighted volatilities, one instrument."""
    data = np.column_stack([hedge.y, hedge.x])
    n = len(data)
    variance = np.zeros((n, 2))
    total = np.zeros(2)
    for t in range(1, n):
        total = lam * total + (1 - lam) * data[t - 1] ** 2
        variance[t] = total / (1 - lam**t)
    seed = data[:_DCC_SEED].var(axis=0)
    variance[0] = seed
    variance = np.maximum(variance, 0.01 * seed)  # the first few bars may hold no move at all
    shocks = data / np.sqrt(variance)
    shocks[0] = 0.0
    base = np.corrcoef(shocks[1 : hedge.window].T)
    q = base.copy()
    out = np.zeros((n, 1))
    for t in range(n):
        out[t, 0] = q[0, 1] / np.sqrt(q[0, 0] * q[1, 1]) * np.sqrt(variance[t, 0] / variance[t, 1])
        q = (1 - a - b) * base + a * np.outer(shocks[t], shocks[t]) + b * q
    out[: hedge.window] = np.nan
    return out


@njit
def _history(
    returns: Floats,
    b0: Floats,
    tau: Floats,
    rules: Rules,
    moments: Moments,
    xs: Ints,
    out: Ratios,
    room: Room,
    raw: Floats,
    b: Floats,
    used: Floats,
) -> None:
    """Write the ratios known before each bar: raw, shrunk and in use, all `(n, m)`."""
    fresh = np.ones(returns.shape[1], np.bool_)
    now, calm = np.full(len(xs), np.nan), np.ones(len(xs))
    for t in range(len(returns)):
        raw[t] = out.raw
        b[t] = out.b
        used[t] = now
        update(moments, returns[t], fresh)
        estimate(moments, 0, xs, b0, tau, calm, rules, out, room)
        move_all(now, out, calm, rules)


def ours(hedge: Hedge, rules: Rules) -> tuple[Floats, Floats, Floats]:
    """Return the product's raw, shrunk and used ratios `(n, m)`; with shorter windows than 33 bars a pair counts as known after the window."""
    n, m = hedge.x.shape
    rules = rules._replace(n_ready=min(rules.n_ready, n_eff(LAMBDAS[IN_USE], hedge.window)))
    b0, tau = np.full(m, np.nan), np.full(m, np.nan)
    if hedge.same_underlying:
        b0[:], tau[:] = PRIOR_SAME_UNDERLYING, TAU_SAME_UNDERLYING
    raw, b, used = np.zeros((3, n, m))
    returns = np.column_stack([hedge.y, hedge.x])
    _history(returns, b0, tau, rules, new_moments(m + 1), np.arange(1, m + 1), new_ratios(m), new_room(m), raw, b, used)
    return raw, b, used


# --- judging ----------------------------------------------------------------------------------------------------------------------


def reduction(hedge: Hedge, b: Floats) -> float:
    """Return 100·(1 − var(y − bᵀx)/var(y)) over the bars after the window. A ratio that is not known yet is no hedge."""
    first = hedge.window
    left = hedge.y - (np.nan_to_num(b) * hedge.x).sum(axis=1)
    return float(100 * (1 - left[first:].var() / hedge.y[first:].var()))


def traded(hedge: Hedge, b: Floats) -> Floats:
    """Return per bar after the window how much is traded per unit of exposure because the ratios moved."""
    known = np.nan_to_num(b[hedge.window :])
    out: Floats = np.abs(np.diff(known, axis=0, prepend=known[:1])).sum(axis=1)
    return out


def net_reduction(hedge: Hedge, b: Floats, cost_bps: float) -> float:
    """As `reduction`, on mean squares of profit and loss after the costs of trading, so that a steady cost counts too."""
    first = hedge.window
    left = (hedge.y - (np.nan_to_num(b) * hedge.x).sum(axis=1))[first:] - cost_bps * 1e-4 * traded(hedge, b)
    return float(100 * (1 - (left**2).mean() / (hedge.y[first:] ** 2).mean()))


def judge(row: Row) -> Result:
    """Apply every method to a row."""
    result = Result(row)
    for hedge in row.hedges:
        raw, b, used = ours(hedge, ALL)
        found = {
            "ols": rolling(hedge, sample),
            "lw_identity": rolling(hedge, ledoit_wolf),
            "ewma": raw,
            OURS: used,
            "unbuffered": b,
            "rule_prior": ours(hedge, ALL._replace(widen=0.0))[2],
            "eligible_only": ours(hedge, Rules())[2],
        }
        if hedge.x.shape[1] == 1:
            found["naive"] = np.ones(hedge.x.shape)
            found["dcc_lite"] = dcc_lite(hedge)
        for method, ratios in found.items():
            result.reduction.setdefault(method, []).append(reduction(hedge, ratios))
        for cost in COSTS_BPS:
            for method in (OURS, "unbuffered"):
                result.net.setdefault((method, cost), []).append(net_reduction(hedge, found[method], cost))
        result.traded += float(traded(hedge, used).sum())
        result.traded_unbuffered += float(traded(hedge, b).sum())
    return result


def as_json(result: Result) -> dict[str, object]:
    """Return the row's line of JSON."""
    methods = {method: result.median(method) for method in METHODS}
    mine = result.median(OURS)
    best = max(value for value in methods.values() if value is not None)
    ols = methods["ols"]
    assert mine is not None
    assert ols is not None
    turnover = result.traded / result.traded_unbuffered
    lost = {cost: result.lost(cost) for cost in COSTS_BPS}
    near = mine >= ols - MOST_BELOW and (result.row.ols_only or mine >= best - MOST_BELOW)
    cheap = max(lost.values()) <= MOST_LOST and (result.row.minutes or turnover <= MOST_TURNOVER)
    return {
        "benchmark": "hedge_quality",
        "row": result.row.name,
        "method": OURS,
        "variance_reduction_pct": round(mine, 2),
        "best_method_pct": round(best, 2),
        "ols_pct": round(ols, 2),
        "turnover_vs_unbanded": round(turnover, 3),
        **{f"lost_at_{cost:g}_bps_pct": round(value, 2) for cost, value in lost.items()},
        **{f"{method}_pct": None if value is None else round(value, 2) for method, value in methods.items() if method != "ols"},
        **{f"{name}_pct": round(result.median(name) or 0.0, 2) for name in VARIANTS},
        "bars": sum(len(hedge.y) - hedge.window for hedge in result.row.hedges),
        "pass": bool(near and cheap),
    }


def show(lines: list[dict[str, object]], console: Console) -> None:
    """Print the table."""
    heads = (
        "naive",
        "OLS",
        "LW-identity",
        "EWMA",
        "DCC-lite",
        "in use",
        "unbuffered",
        "rule's prior",
        "eligible only",
        "turnover",
        "passes",
    )
    table = Table("variance reduction out of sample, %", *heads, box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    keys = (
        "naive_pct",
        "ols_pct",
        "lw_identity_pct",
        "ewma_pct",
        "dcc_lite_pct",
        "variance_reduction_pct",
        *(f"{name}_pct" for name in VARIANTS),
    )
    for line in lines:
        shown = ["–" if line[key] is None else f"{line[key]:.1f}" for key in keys]
        table.add_row(str(line["row"]), *shown, f"{line['turnover_vs_unbanded']:.2f}", "yes" if line["pass"] else "[bold red]no[/]")
    console.print(table)


def plot(results: list[Result], path: Path) -> None:
    """Draw each method's distance to OLS, and the ratios of the first row. Needs the extra `plots`."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(16, 6), layout="constrained")
    names = [result.row.name for result in results]
    shown = {"lw_identity": ("LW-identity", "C7"), "dcc_lite": ("DCC-lite", "C0"), "ewma": ("EWMA, raw", "C1"), OURS: ("in use", "C2")}
    for k, (method, (label, colour)) in enumerate(shown.items()):
        gains = [(result.median(method) or np.nan) - (result.median("ols") or 0.0) for result in results]
        left.barh(np.arange(len(names)) + 0.2 * (k - 1.5), gains, 0.2, label=label, color=colour)
    left.set_yticks(range(len(names)), names, fontsize=9)
    left.invert_yaxis()
    left.axvline(0, color="black", linewidth=0.8)
    least, most = left.get_xlim()
    left.set_xlim(max(least, -_PLOT_MOST), min(most, _PLOT_MOST))
    left.set(title="variance reduction out of sample", xlabel=f"points more than rolling OLS (cut at ±{_PLOT_MOST:g})")
    left.grid(axis="x", alpha=0.3)
    left.legend(fontsize=9)
    hedge = results[0].row.hedges[0]
    raw, _, used = ours(hedge, ALL)
    right.plot(raw[hedge.window :, 0], label="EWMA, raw", color="C1", linewidth=0.6)
    right.plot(rolling(hedge, sample)[hedge.window :, 0], label="OLS", color="black", linewidth=0.9)
    right.plot(used[hedge.window :, 0], label="in use", color="C2", linewidth=1.6)
    right.set(title=f"ratios: {names[0]}", xlabel="bars after the window", ylabel="units of the instrument per unit of exposure")
    right.grid(alpha=0.3)
    right.legend(fontsize=9)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def main() -> int:
    """Measure and print: 0, 1 when a row misses its bar, 2 when data or matplotlib are missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw the figures (needs the extra `plots`)")
    parser.add_argument("--ticks", type=Path, metavar="DIR", help="also rows of recorded ticks: a folder with spot/ and usdm/")
    args = parser.parse_args()
    if args.plot is not None and importlib.util.find_spec("matplotlib") is None:
        print(f"bench.hedge_quality: {_PLOTS_MISSING}", file=sys.stderr)
        return 2
    try:
        rows = [*daily_rows(), *(tick_rows(args.ticks) if args.ticks else ())]
    except (DataError, RecordingError) as error:
        print(f"bench.hedge_quality: {error}", file=sys.stderr)
        return 2
    results = [judge(row) for row in rows]
    lines = [as_json(result) for result in results]
    console = Console(width=None if sys.stdout.isatty() else 200)
    show(lines, console)
    if args.plot is not None:
        plot(results, args.plot)
        console.print(f"wrote {args.plot}", soft_wrap=True)
    for line in lines:
        print(json.dumps(line))
    return 0 if all(line["pass"] for line in lines) else 1


if __name__ == "__main__":
    raise SystemExit(main())
