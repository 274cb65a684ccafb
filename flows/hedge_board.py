"""What `hedgerow demo --hedge` shows: books and how far they are covered, what is going on, hedges and the reasons not to hedge; one plain line; the levels.

Only turns figures into text: reads no topic, no clock, decides nothing. Aims are those of the hedger (docs/hedging-world.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from connectors.simulator.hedge_account import COVERED
from connectors.simulator.hedge_summary import Bars
from flows.board import QUIET, WIDTH, Level, pairs, panel, progress, side_by_side

_BAR = 8
HEDGES_SHOWN = 8
_REASONS_SHOWN = 7


@dataclass(frozen=True)
class BookNow:
    """One book at one moment; amounts in its base currency, coverage None when there is too little to hedge."""

    name: str
    currency: str
    exposure: float
    hedged: float
    coverage: float | None
    hedges: int
    reason: str


@dataclass(frozen=True)
class HedgeLine:
    """A leg of a hedge as the board lists it."""

    at: str
    book: str
    symbol: str
    side: str
    size: str
    notional: float
    status: str


@dataclass(frozen=True)
class HedgeFigures:
    """Everything the board shows at one moment. `going_on`: the upsets in force. reasons: first reasons of all decisions, by count."""

    phase: str = "starting"
    about: str = ""
    elapsed_s: float = 0.0
    total_s: float = 1.0
    going_on: str = ""
    books: Sequence[BookNow] = ()
    client_fills: int = 0
    hedge_fills: int = 0
    hedges: int = 0
    decisions: int = 0
    completion_p50_s: float | None = None
    completion_p95_s: float | None = None
    slippage_bps: float | None = None
    coverage_pct: float | None = None
    reasons: Mapping[str, int] = field(default_factory=dict)
    last: Sequence[HedgeLine] = ()


def hedge_board(f: HedgeFigures) -> RenderableType:
    """Return the board: 100 columns, 30 lines at most."""
    going_on = Text(f.going_on or "nothing upsets the market", style="yellow" if f.going_on else QUIET, no_wrap=True, overflow="ellipsis")
    return Group(
        progress(f.about, f.elapsed_s, f.total_s, f.phase),
        going_on,
        _books(f),
        side_by_side(_totals(f), _reasons(f), 46, WIDTH - 46),
        _hedges(f),
    )


def _books(f: HedgeFigures) -> RenderableType:
    table = Table(box=None, padding=(0, 1), header_style=QUIET, pad_edge=False)
    table.add_column("book", width=10, no_wrap=True)
    for name, width in (("exposure", 13), ("hedges", 13), ("covered", 8)):
        table.add_column(name, justify="right", width=width, no_wrap=True)
    table.add_column("", width=_BAR, no_wrap=True)
    table.add_column("sent", justify="right", width=5, no_wrap=True)
    table.add_column("last decision", width=24, no_wrap=True, overflow="ellipsis")
    for book in f.books:
        good = book.coverage is None or book.coverage >= COVERED
        filled = 0 if book.coverage is None else round(_BAR * min(1.0, max(0.0, book.coverage)))
        table.add_row(
            book.name, f"{book.exposure:,.0f} {book.currency}", f"{book.hedged:,.0f} {book.currency}",
            Text(_percent(book.coverage), style="" if good else "yellow"),
            Text.assemble(("━" * filled, "green" if good else "yellow"), ("━" * (_BAR - filled), "grey30")), f"{book.hedges:,}", book.reason,
        )  # fmt: skip
    return panel(table, "books: gross amounts, and how much of the risk is hedged", 7)


def _totals(f: HedgeFigures) -> RenderableType:
    rows = (
        ("of clients", f"{f.client_fills:,}", "fills, exposures"),
        ("decisions", f"{f.decisions:,}", "each has a reason"),
        ("hedges", f"{f.hedges:,}", f"{f.hedge_fills:,} fills of them"),
        ("covered", "–" if f.coverage_pct is None else f"{f.coverage_pct:.1f} %", "by time and risk"),
        ("back p50", _seconds(f.completion_p50_s), "to 95 % covered"),
        ("back p95", _seconds(f.completion_p95_s), ""),
        ("slippage", "–" if f.slippage_bps is None else f"{f.slippage_bps:+.2f}", "bps, + is a cost"),
    )
    return panel(pairs(20, *rows), "the loop: fill → hedge → fill", _REASONS_SHOWN + 2)


def _reasons(f: HedgeFigures) -> RenderableType:
    table = Table.grid(padding=(0, 1))
    table.add_column(width=38, overflow="ellipsis", no_wrap=True)
    table.add_column(justify="right", width=7)
    for reason, count in sorted(f.reasons.items(), key=lambda item: (-item[1], item[0]))[:_REASONS_SHOWN]:
        table.add_row(reason, f"{count:,}")
    return panel(table, "decisions by first reason", _REASONS_SHOWN + 2)


def _hedges(f: HedgeFigures) -> RenderableType:
    table = Table.grid(padding=(0, 1))
    for width in (13, 10, 9, 5):
        table.add_column(width=width, no_wrap=True, overflow="ellipsis")
    table.add_column(width=12, justify="right", no_wrap=True)
    table.add_column(width=14, justify="right", no_wrap=True)
    table.add_column(width=17, no_wrap=True)
    for line in f.last[:HEDGES_SHOWN]:
        side = Text(line.side, style="green" if line.side == "BUY" else "magenta")
        style = "bold red" if line.status in ("REJECTED", "EXPIRED", "UNKNOWN") else ""
        table.add_row(line.at, line.book, line.symbol, side, line.size, f"{line.notional:,.0f}", Text(line.status, style=style))
    return panel(table, "last hedges", HEDGES_SHOWN + 2)


def hedge_line(f: HedgeFigures) -> str:
    """Return the figures on one line without colours: for logs, pipes and `--plain`."""
    books = " ".join(f"{book.name} {_percent(book.coverage)}" for book in f.books)
    parts = [
        f"{f.elapsed_s:5.1f}s {f.phase}", f"covered {books}", f"fills {f.client_fills} hedges {f.hedges} filled {f.hedge_fills} decisions {f.decisions}",
        f"back p50 {_seconds(f.completion_p50_s)} p95 {_seconds(f.completion_p95_s)}",
    ]  # fmt: skip
    return " | ".join([*parts, f.going_on] if f.going_on else parts)


def hedge_levels(figures: Mapping[str, Any], balances: Mapping[str, int | None], dead: Mapping[str, int]) -> list[Level]:
    """Return the closing rows. figures: of connectors.simulator.hedge_summary. balances: by flow, None when its worker did not say."""
    bars = Bars()

    def correct(metric: str, aim: str, good: bool, reached: str) -> Level:
        return Level(metric, aim, reached, "ok" if good else "missed", correct=True)

    def quality(metric: str, name: str, aim: str, unit: str, good: bool) -> Level:
        if figures[name] is None:
            return Level(metric, aim, "nothing to measure", "not measured here")
        return Level(metric, aim, f"{figures[name]:,} {unit}", "ok" if good else "missed")

    def most(name: str, limit: float) -> bool:
        return figures[name] is not None and figures[name] <= limit

    wanted = "what really happened"
    rows = [
        correct("positions by published fills", wanted, figures["position_gaps"] == 0, f"{figures['position_gaps']} differ"),
        correct("orders sent twice", "0", figures["repeated_orders"] == 0, f"{figures['repeated_orders']} of {figures['legs']:,}"),
        correct("hedges decided during HALT", "0", figures["orders_during_halt"] == 0, f"{figures['orders_during_halt']}"),
        correct("HALT acknowledged", "by every lane in 5 s", figures["halt_acks_pct"] == 100.0, f"{figures['halt_acks_pct']} %"),
        correct("decisions explained", "all", figures["reasons_pct"] == 100.0, f"{figures['reasons_pct']} % of {figures['decisions']:,}"),
        correct("dead letters", "0", not dead, ", ".join(f"{name} {n:,}" for name, n in sorted(dead.items())) or "0"),
    ]
    for flow, off in balances.items():
        rows.append(
            correct(
                f"balance of the {flow} flow",
                "closes",
                off == 0,
                "not told" if off is None else "closes" if off == 0 else f"off by {off:,}",
            )
        )
    covered = figures["coverage_pct"] is not None and figures["coverage_pct"] >= bars.coverage_pct
    return [
        *rows,
        quality("hedgeable risk covered, by time", "coverage_pct", f"{bars.coverage_pct:g} % in the usual hour", "%", covered),
        quality("back to 95 % covered, p95", "completion_p95_s", f"{bars.completion_p95_s:g} s", "s", most("completion_p95_s", bars.completion_p95_s)),
        quality("covered again after the outage", "recovery_s", f"{bars.recovery_s:g} s", "s", most("recovery_s", bars.recovery_s)),
        quality("slippage against the mid at decision", "slippage_bps", f"{bars.slippage_bps:g} bps", "bps", most("slippage_bps", bars.slippage_bps)),
        quality("hedges failed outside the outage", "failure_outside_outage_pct", f"{bars.failure_pct:g} %", "%",
                most("failure_outside_outage_pct", bars.failure_pct)),
    ]  # fmt: skip


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f} %"


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f} s"
