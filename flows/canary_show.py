"""What the canary's commands print: cards, tables and lines of results, and the explanation of one. Only turns figures into text.

Reads no topic and no clock, decides nothing: every outcome shown was decided by operators.clusters and operators.canary; edges come from the policy.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich import box
from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from operators.card import card, driver_name
from schemas.canary import CanaryAlert, CanaryResult, Regime, WindowFigures
from schemas.policy import CLUSTERS

QUIET = "grey62"
"""For what explains; what counts is in the terminal's own colours."""
SEVERITY_STYLES = {"observe": "green", "watch": "yellow", "act": "red", "urgent": "bold red"}
_CARD_STYLES = {"ok": "green", "warn": "yellow", "alarm": "red", "plain": ""}
BAND_STYLES = {"green": "green", "yellow": "yellow", "red": "red"}
_RANK = {name: n for n, name in enumerate(SEVERITY_STYLES)}
CARD_WIDTH = 100
_WIDE = 130
_NAME = 12


@dataclass(frozen=True)
class Entry:
    """A result, and where it comes from. told_ns: when it was said. reason, seq: of the alert; None for a result that is none.

    alert: the whole of it.
    """

    account: str
    mode: str
    result: CanaryResult
    told_ns: int
    windows: tuple[WindowFigures, ...] = ()
    reason: str | None = None
    seq: int | None = None
    alert: CanaryAlert | None = None


@dataclass(frozen=True)
class MarketHead:
    """The market in short, of one profile. clusters: (name, band before downgrades or None) in order; unconfirmed: those whose red does not confirm."""

    profile: str
    verdict: str
    stage: str
    severity: str
    clusters: tuple[tuple[str, str | None], ...]
    unconfirmed: frozenset[str]
    spy: float | None
    vix: float | None
    score: float | None
    as_of_ns: int


def head_of(regime: Regime) -> MarketHead:
    """Return the head of a regime snapshot."""
    bands = {one.source: one.bucket for one in regime.lifecycle.evidence if one.signal == "cluster"}
    return MarketHead(
        regime.profile, regime.composite.verdict, regime.lifecycle.stage, regime.lifecycle.severity,
        tuple((name, bands.get(name)) for name in CLUSTERS), frozenset(regime.lifecycle.unconfirmed), regime.spy_change_pct,
        regime.vix_change_pct, regime.score, regime.as_of_ns,
    )  # fmt: skip


# ---- figures as text ---------------------------------------------------------------------------------------------------------------


def number(value: float | None, signed: bool = False) -> str:
    """Return a figure with at most four decimals, – for none."""
    if value is None:
        return "–"
    text = f"{value:+,.4f}" if signed else f"{value:,.4f}"
    return text.rstrip("0").rstrip(".")


def percent(value: float | None, signed: bool = True) -> str:
    """Return a figure in percent units with two decimals, – for none."""
    return "–" if value is None else (f"{value:+.2f} %" if signed else f"{value:.2f} %")


def age(ns: int) -> str:
    """Return a duration in its largest unit, 0s for one that has not begun."""
    seconds = max(ns, 0) // 10**9
    for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= length:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"


def risk_state(result: CanaryResult) -> Text:
    """Return `direction / severity` in the colour of the severity."""
    return Text(f"{result.direction or 'none'} / {result.severity}", style=SEVERITY_STYLES[result.severity])


def _words(names: Iterable[str]) -> str:
    return ", ".join(names) or "–"


# ---- cards, tables, lines ----------------------------------------------------------------------------------------------------------


def card_of(entry: Entry, now_ns: int | None, width: int, title: str | None = None) -> RenderableType:
    """Return the card of one result, framed in the colour of its severity. now_ns: to say how old it is; None: do not."""
    result = entry.result
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style=QUIET, no_wrap=True)
    grid.add_column(overflow="fold")
    for label, text, style in card(result, entry.windows):
        grid.add_row(label, Text(text, style=_CARD_STYLES[style]))
    if title is None:
        title = " · ".join(part for part in (entry.account, entry.mode, result.policy) if part)
    told = [] if entry.reason is None else [f"alert {entry.seq}, {entry.reason}"]
    if now_ns is not None:
        told.append(f"{age(now_ns - entry.told_ns)} ago")
    return Panel(
        grid, title=Text(title), subtitle=Text(", ".join(told)) if told else None, title_align="left", subtitle_align="left", box=box.ROUNDED,
        border_style=SEVERITY_STYLES[result.severity], width=min(width, CARD_WIDTH), padding=(0, 1),
    )  # fmt: skip


def ordered(entries: Iterable[Entry]) -> list[Entry]:
    """Return entries with the most severe first, equals by account, mode and profile."""
    return sorted(entries, key=lambda one: (-_RANK[one.result.severity], one.account, one.mode, one.result.policy))


def accounts_table(
    entries: Sequence[Entry], now_ns: int | None, width: int, room: int | None = None, first: str = "account"
) -> RenderableType:
    """Return entries as a table, one line each. width: columns there are; plan and data are left out where it is narrow. room: lines there are;
    None: no end. What has no room is counted by severity below it."""
    wide = width >= _WIDE
    shown = entries if room is None or len(entries) <= room else entries[: room - 1]
    several = len({one.result.policy for one in entries}) > 1
    lines: list[dict[str, Text]] = []
    for one in shown:
        r = one.result
        line = {first: Text(one.account if one.mode in ("", "live") else f"{one.account} ({one.mode})")}
        if several:
            line["profile"] = Text(r.policy.removeprefix("canary-"))
        line["risk state"] = risk_state(r)
        if wide or not several:
            line["stage"] = Text(r.lifecycle.stage)
        if wide:
            line |= {"plan": Text(f"{r.planner_mode_hint} / {r.planner_readiness}"), "data": Text(r.data_confidence)}
        if now_ns is not None:
            line["age"] = Text(age(now_ns - one.told_ns))
        lines.append(line)
    widths = {head: max([cell_len(head), *(line[head].cell_len for line in lines)]) for head in lines[0]}
    widths[first] = min(widths[first], max(_NAME, width // 4))
    left = max(_NAME, width - sum(widths.values()) - 2 * len(widths) - 3)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for head, size in widths.items():
        table.add_column(head, no_wrap=True, overflow="ellipsis", max_width=size, justify="right" if head == "age" else "left")
    table.add_column("drivers", no_wrap=True, overflow="ellipsis", max_width=left)
    for one, line in zip(shown, lines, strict=True):
        table.add_row(*line.values(), _words(map(driver_name, one.result.primary_drivers)))
    if len(shown) == len(entries):
        return table
    rest = entries[len(shown) :]
    counts = {name: sum(one.result.severity == name for one in rest) for name in reversed(SEVERITY_STYLES)}
    more = " · ".join(f"{count:,} {name}" for name, count in counts.items() if count)
    return Group(table, Text(f"and {len(rest):,} more: {more}", style=QUIET))


MARKET_LINES = 3
"""Lines of each profile's market."""


def market_lines(regimes: Iterable[MarketHead], now_ns: int) -> RenderableType:
    """Return the market as profiles see it, MARKET_LINES lines for each."""
    lines: list[Text] = []
    for m in sorted(regimes, key=lambda one: one.profile):
        head = Text.assemble((m.verdict, "bold"), f" · {m.profile} · ", (f"{m.stage} / {m.severity}", SEVERITY_STYLES[m.severity]))
        bands = Text("  ")
        for n, (cluster, band) in enumerate(m.clusters):
            sure = band != "red" or cluster not in m.unconfirmed
            bands.append(" · " if n else "", style=QUIET)
            bands.append(
                f"{cluster} {band or '–'}{'' if sure else ', unconfirmed'}",
                style=BAND_STYLES[band if sure else "yellow"] if band else QUIET,
            )
        tape = f"  SPY {percent(m.spy)}, VIX {percent(m.vix)}" + ("" if m.score is None else f", score {number(m.score)}")
        lines += [head, bands, Text(f"{tape}, {age(now_ns - m.as_of_ns)} old", style=QUIET)]
    for line in lines:
        line.no_wrap, line.overflow = True, "ellipsis"
    return Group(*lines)


def line_of(entry: Entry) -> str:
    """Return a result on one line without colours: for logs and pipes."""
    r = entry.result
    parts = [
        " ".join(part for part in (entry.account, "" if entry.mode == "live" else entry.mode, r.policy) if part),
        f"{r.direction or 'none'}/{r.severity}",
        r.lifecycle.stage,
        f"{r.planner_mode_hint}/{r.planner_readiness}",
        f"data {r.data_confidence}",
        _words(r.primary_drivers),
        r.fingerprint.key[:19],
    ]
    if entry.reason is not None:
        parts.append(f"alert {entry.seq} {entry.reason}")
    return " | ".join(parts)
