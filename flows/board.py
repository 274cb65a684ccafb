"""What the demo shows: the live board for a terminal of 100 by 30, one plain line for everything else, and the closing tables.

Only turns figures into text: reads no topic, no clock, decides nothing. Aims are those of the design's service levels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

from rich import box
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

WIDTH, HEIGHT = 100, 30
_BARS = "▁▂▃▄▅▆▇█"
_BAR = 12
_MOST_REASONS = 7
_FILLS_SHOWN = 6
_TOP = 10
QUIET = "grey62"
"""For what explains; what counts is in the terminal's own colours."""


@dataclass(frozen=True)
class Spread:
    """Percentiles of the latencies of `count` fills, ms; None while there are none."""

    count: int = 0
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None


@dataclass(frozen=True)
class VenueSlippage:
    """Slippage at one venue: fills, bps weighted by benchmark notional over those with an `ok` benchmark (None: no such fill), and how many
    were `stale` and `missing` against each of the two benchmarks."""

    venue: str
    fills: int
    arrival_bps: float | None
    mid_bps: float | None
    arrival_stale: int = 0
    arrival_missing: int = 0
    mid_stale: int = 0
    mid_missing: int = 0


@dataclass(frozen=True)
class LastFill:
    """A fill as the board lists it; sizes and prices as they were on the topic."""

    at: str
    venue: str
    symbol: str
    side: str
    size: str
    price: str
    status: str
    version: int
    arrival_bps: float | None
    latency_ms: float | None


@dataclass(frozen=True)
class Figures:
    """Everything the board shows at one moment.

    counts: the worker's balance over all lanes, by the names of its counters. pending, dead, duplicates: counts by reason. Rates are
    records a second over the last refresh; `history` and `p95_history` hold the input rates and p95 so far. chunk: mean records in one.
    latency_of: says which fills the percentiles are of.
    """

    phase: str = "starting"
    about: str = ""
    note: str = ""
    elapsed_s: float = 0.0
    total_s: float = 1.0
    rate_in: float = 0.0
    rate_out: float = 0.0
    history: Sequence[float] = ()
    p95_history: Sequence[float] = ()
    commits_rate: float = 0.0
    chunk: float | None = None
    commit_ms: float | None = None
    latency: Spread = Spread()
    latency_of: str = ""
    waited: int = 0
    fills: int = 0
    counts: Mapping[str, int] = field(default_factory=dict)
    pending: Mapping[str, int] = field(default_factory=dict)
    duplicates: Mapping[str, int] = field(default_factory=dict)
    dead: Mapping[str, int] = field(default_factory=dict)
    alerts: int = 0
    lost: int = 0
    venues: Sequence[VenueSlippage] = ()
    last_fills: Sequence[LastFill] = ()


@dataclass(frozen=True)
class Level:
    """One row of the closing table. A `correct` row that is missed makes the demo fail; a timing never does."""

    metric: str
    aim: str
    reached: str
    verdict: Literal["ok", "missed", "not measured here"]
    correct: bool = False


# ---- the live board --------------------------------------------------------------------------------------------------


def board(f: Figures) -> RenderableType:
    """Return the board: 100 columns, 30 lines at most."""
    top = side_by_side(_flow(f), _balance(f), 42, 58)
    middle = side_by_side(_slippage(f), _dead(f), 64, 36)
    return Group(
        progress(f.about, f.elapsed_s, f.total_s, f.phase),
        top,
        middle,
        _fills(f),
        Text(f.note, style=QUIET, no_wrap=True, overflow="ellipsis"),
    )


def progress(about: str, elapsed_s: float, total_s: float, phase: str) -> RenderableType:
    """Return the head of a board: what runs, how far it is, what it does."""
    done = min(1.0, elapsed_s / total_s if total_s else 1.0)
    filled = round(_BAR * done)
    line = Text.assemble(
        ("hedgerow ", "bold green"), about, " ", ("━" * filled, "green"), ("━" * (_BAR - filled), "grey30"),
        f" {elapsed_s:.0f} s ", (phase, "bold"), no_wrap=True, overflow="ellipsis",
    )  # fmt: skip
    line.truncate(WIDTH, overflow="ellipsis")
    return line


def side_by_side(left: RenderableType, right: RenderableType, left_width: int, right_width: int) -> Table:
    """Return two things beside each other."""
    grid = Table.grid()
    grid.add_column(width=left_width)
    grid.add_column(width=right_width)
    grid.add_row(left, right)
    return grid


def pairs(width: int, *rows: tuple[str, RenderableType, RenderableType]) -> Table:
    """Return a table of label, value, and remark of the given width."""
    table = Table.grid(padding=(0, 1))
    table.add_column(style=QUIET, width=11, no_wrap=True)
    table.add_column(justify="right", width=8, no_wrap=True)
    table.add_column(style=QUIET, width=width, overflow="ellipsis", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


def panel(content: RenderableType, title: str, height: int) -> Panel:
    """Return a part of a board, `height` lines with its frame."""
    return Panel(content, title=title, title_align="left", box=box.ROUNDED, border_style="grey50", height=height, padding=(0, 1))


def _flow(f: Figures) -> Panel:
    rows = (
        ("records in", f"{f.rate_in:,.0f}/s", spark(f.history, 17)),
        ("records out", f"{f.rate_out:,.0f}/s", "" if f.chunk is None else f"chunks of {f.chunk:.1f}"),
        ("latency p50", _ms(f.latency.p50), "report → readable"),
        ("        p95", _ms(f.latency.p95), spark(f.p95_history, 17)),
        ("        p99", _ms(f.latency.p99), f"of {f.latency.count:,}{f.latency_of}"),
        ("waited", f"{f.waited:,}", "fills, for others"),
        ("commit", _ms(f.commit_ms), "one transaction"),
        ("commits", f"{f.commits_rate:,.0f}/s", ""),
    )
    return panel(pairs(17, *rows), "flow", _TOP)


def _balance(f: Figures) -> Panel:
    c = f.counts
    mismatch = c.get("balance_mismatch", 0)
    closed = Text("closes", style="green") if not mismatch else Text(f"off by {mismatch:,}", style="bold red")
    waits = [f"{name.replace('_', ' ')} {f.pending.get(name, 0):,}" for name in ("order_unknown", "held", "uncorrelated", "ref_unknown")]
    rows: tuple[tuple[str, RenderableType, RenderableType], ...] = (
        ("inputs", f"{c.get('received', 0):,}", Text.assemble("balance ", closed)),
        ("published", f"{c.get('published', 0):,}", f"{f.fills:,} fills read"),
        ("duplicate", f"{c.get('duplicate', 0):,}", _words(f.duplicates)),
        ("pending", f"{c.get('pending', 0):,}", " · ".join(waits[:2])),
        ("", "", " · ".join(waits[2:])),
        ("dead letter", f"{c.get('dlq', 0):,}", f"{_share(c.get('dlq', 0), c.get('received', 0))} of inputs"),
        ("rerouted", f"{c.get('rerouted', 0):,}", "sent to their right lane"),
        ("orders held", f"{c.get('orders_held', 0):,}", f"{c.get('gaps_open', 0):,} open gaps · {f.alerts:,} alerts"),
    )
    return panel(pairs(33, *rows), "every input ends in one of", _TOP)


def _slippage(f: Figures) -> Panel:
    table = Table(box=None, padding=(0, 0, 0, 1), header_style=QUIET, pad_edge=False)
    table.add_column("venue", width=9, no_wrap=True, overflow="ellipsis")
    for name, width in (("fills", 6), ("arrival", 7), ("stale", 6), ("miss.", 6), ("mid", 7), ("stale", 6), ("miss.", 6)):
        table.add_column(name, justify="right", width=width, no_wrap=True, overflow="crop")
    for v in f.venues[:6]:
        table.add_row(
            v.venue, f"{v.fills:,}", _bps(v.arrival_bps), _share(v.arrival_stale, v.fills), _share(v.arrival_missing, v.fills),
            _bps(v.mid_bps), _share(v.mid_stale, v.fills), _share(v.mid_missing, v.fills),
        )  # fmt: skip
    return panel(table, "slippage by venue, bps, + is a cost", 9)


def _dead(f: Figures) -> Panel:
    table = Table.grid(padding=(0, 1))
    table.add_column(width=24, overflow="ellipsis", no_wrap=True)
    table.add_column(justify="right", width=6)
    ranked = sorted(f.dead.items(), key=lambda item: (-item[1], item[0]))
    shown = ranked if len(ranked) <= _MOST_REASONS else ranked[: _MOST_REASONS - 1]
    for reason, count in shown:
        table.add_row(reason, f"{count:,}")
    if len(ranked) > len(shown):
        rest = ranked[len(shown) :]
        table.add_row(Text(f"{len(rest)} other reasons", style=QUIET), f"{sum(count for _, count in rest):,}")
    return panel(table, "dead letters by reason", 9)


def _fills(f: Figures) -> Panel:
    table = Table.grid(padding=(0, 1))
    for width, justify in ((13, "left"), (8, "left"), (8, "left"), (4, "left"), (13, "right"), (12, "right"), (13, "left"), (10, "right")):
        table.add_column(width=width, justify=justify, no_wrap=True, overflow="ellipsis")  # type: ignore[arg-type]
    for fill in f.last_fills[:_FILLS_SHOWN]:
        side = Text(fill.side, style="green" if fill.side == "BUY" else "magenta")
        status = Text(fill.status if fill.version == 1 else f"{fill.status} v{fill.version}", style="" if fill.version == 1 else "yellow")
        table.add_row(fill.at, fill.venue, fill.symbol, side, fill.size, fill.price, status, f"{_bps(fill.arrival_bps)} bps")
    return panel(table, "last fills", _FILLS_SHOWN + 2)


def spark(values: Sequence[float], width: int) -> str:
    """Return the values as at most `width` bars, each the mean of its share of them, from 0 to the largest."""
    n = len(values)
    edges = [round(i * n / min(width, n)) for i in range(min(width, n) + 1)] if n else []
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    top = max(means, default=0.0)
    return "".join(_BARS[min(7, int(8 * mean / top))] if top > 0 else _BARS[0] for mean in means)


# ---- without a terminal ----------------------------------------------------------------------------------------------


def plain_line(f: Figures) -> str:
    """Return the figures on one line without colours: for logs, pipes and `--plain`."""
    c, latency = f.counts, f.latency
    quality = "closes" if not c.get("balance_mismatch", 0) else f"OFF BY {c['balance_mismatch']}"
    parts = [
        f"{f.elapsed_s:5.1f}s {f.phase}",
        f"in {f.rate_in:.0f}/s out {f.rate_out:.0f}/s commit {_ms(f.commit_ms)}",
        f"latency p50 {_ms(latency.p50)} p95 {_ms(latency.p95)} p99 {_ms(latency.p99)}",
        f"inputs {c.get('received', 0)} published {c.get('published', 0)} duplicate {c.get('duplicate', 0)} pending {c.get('pending', 0)} "
        f"dlq {c.get('dlq', 0)} rerouted {c.get('rerouted', 0)} balance {quality}",
        f"fills {f.fills} held {c.get('orders_held', 0)} gaps {c.get('gaps_open', 0)}",
    ]
    if f.lost:
        parts.append(f"LOST {f.lost}")
    return " | ".join(parts)


# ---- the end ---------------------------------------------------------------------------------------------------------


def level_table(levels: Sequence[Level]) -> Table:
    """Return the closing table: metric, aim, what was reached, the verdict."""
    table = Table(box=box.SIMPLE_HEAD, title="service levels of this run", title_justify="left", pad_edge=False)
    table.add_column("metric")
    table.add_column("aim")
    table.add_column("reached")
    table.add_column("", min_width=6, no_wrap=True)
    styles = {"ok": "green", "missed": "bold red", "not measured here": QUIET}
    for before, level in zip([None, *levels], levels, strict=False):
        if before is not None and before.correct and not level.correct:
            table.add_section()
        style = styles[level.verdict] if level.correct or level.verdict != "missed" else "yellow"
        words = {"not measured here": "–"}
        table.add_row(level.metric, level.aim, level.reached, Text(words.get(level.verdict, level.verdict), style=style))
    return table


def level_lines(levels: Sequence[Level]) -> list[str]:
    """Return the closing table as plain lines."""
    return [f"{level.verdict:<18}{level.metric}: {level.reached} (aim: {level.aim})" for level in levels]


def passed(levels: Sequence[Level]) -> bool:
    """Return whether every correctness row holds; timings do not count."""
    return all(level.verdict == "ok" for level in levels if level.correct)


def _ms(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.1f} ms" if value < 1_000 else f"{value / 1_000:.2f} s"


def _bps(value: float | None) -> str:
    return "–" if value is None else f"{value:+.2f}"


def _share(part: int, whole: int) -> str:
    if not whole or not part:
        return "0%"
    share = 100 * part / whole
    return f"{share:.1f}%" if share >= 0.05 else "<0.1%"


def _words(counts: Mapping[str, int]) -> str:
    """Return the largest counts with their names, most first."""
    ranked = sorted(((n, name) for name, n in counts.items() if n), key=lambda item: (-item[0], item[1]))
    return " · ".join(f"{name.replace('_', ' ')} {n:,}" for n, name in ranked)
