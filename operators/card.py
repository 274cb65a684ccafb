"""The human view of a result (canary §12): lines of (label, text, style), plain data for a terminal, a page or a mail. Decides nothing.

style: `ok`, `warn`, `alarm` or `plain`; observe is ok, watch warn, act and urgent alarm. A line that is all clear is never styled as an alert.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from schemas.canary import CanaryResult, WindowFigures

STYLES = {"observe": "ok", "watch": "warn", "act": "alarm", "urgent": "alarm"}
"""Style of each severity."""
POSTURES = {
    "threat": "Threat", "rebalance": "Rebalance", "opportunity": "Opportunity", "threat_opportunity": "Threat + opportunity",
    "confirm_data": "Confirm data", "neutral": "Neutral",
}  # fmt: skip
DIRECTIONS = {
    "": "None", "defensive": "Defensive", "constructive": "Constructive", "rebalance": "Rebalance", "mixed": "Mixed", "data_quality": "Data quality",
}  # fmt: skip
DRIVERS = {
    "margin_cushion_low": "margin cushion", "lookahead_cushion_low": "look-ahead cushion", "portfolio_pnl_shock": "day's result",
    "market_selloff_violent": "market sell-off", "market_rally_violent": "market rally", "vol_spike_confirmed": "volatility spike",
    "vol_crush_confirmed": "volatility crush", "regime_stress_confirmed": "confirmed market stress", "fx_carry_unwind": "carry unwind",
    "regime_stress_early": "early market stress", "gamma_red": "dealer gamma", "gross_exposure_high": "gross exposure", "net_delta_high": "net delta",
    "gross_delta_high": "gross delta", "single_name_exposure_high": "one name's value", "single_name_delta_high": "one name's delta",
    "option_greeks_degraded": "option greeks", "short_convexity_high": "short gamma", "risk_data_degraded": "missing or weak data",
    "market_data_stale": "stale market data",
}  # fmt: skip
"""Friendly names of the signals."""
SOURCES = {"account": "account", "positions": "positions", "regime": "market"}


class Line(NamedTuple):
    """One line of the card."""

    label: str
    text: str
    style: str


def driver_name(signal_id: str) -> str:
    """Return the friendly name of a signal."""
    return DRIVERS.get(signal_id, signal_id.replace("_", " "))


def next_step(result: CanaryResult) -> str:
    """Return what to do next, in a few words (canary §12)."""
    mode, readiness = result.planner_mode_hint, result.planner_readiness
    if mode == "defend":
        return "Confirm data before defend" if readiness == "blocked" else "Run risk-plan defend"
    if mode == "stage":
        return "Stage risk-plan"
    if mode in ("deploy", "rebalance"):
        return f"Run risk-plan {mode}"
    if mode == "confirm_data":
        return "Confirm data"
    return "Watch" if readiness == "watch" else "No risk-plan"


def _age(seconds: float | None) -> str:
    if seconds is None:
        return "age not known"
    whole, unit = int(seconds), 60  # seconds in a minute, minutes in an hour
    if whole < unit:
        return f"{whole} s old"
    return f"{whole // unit} min old" if whole < unit * unit else f"{whole // (unit * unit)} h old"


def _window_text(window: WindowFigures) -> str:
    figures = (
        ("result", window.pnl_pct_nlv, "+.1f"),
        ("drawdown", window.drawdown_pct_nlv, ".1f"),
        ("lowest cushion", window.min_cushion_pct, ".1f"),
        ("highest gross", window.max_gross_exposure_pct_nlv, ".0f"),
        ("highest net delta", window.max_net_delta_pct_nlv, ".0f"),
    )
    parts = [f"{name} {value:{digits}} %" for name, value, digits in figures if value is not None]
    if window.fills:
        parts.append(f"{window.fills} fills")
    return f"{window.window} ({window.state}): {', '.join(parts) or 'nothing known'}"


def card(result: CanaryResult, windows: Iterable[WindowFigures] = ()) -> list[Line]:
    """Return the lines of a result, in the order they are read. windows: of the account, one line each."""
    style = STYLES[result.severity]
    cycle = result.lifecycle
    stage = " · ".join((cycle.stage.replace("_", " "), cycle.severity, cycle.readiness, cycle.timing.replace("_", " "), cycle.confidence))
    weak = result.data_confidence != "high"
    lines = [
        Line("Risk state", f"{DIRECTIONS[result.direction]} / {result.severity.capitalize()}", style),
        Line("Posture", POSTURES[result.portfolio_posture], style),
        Line("Lifecycle", stage, STYLES[cycle.severity]),
        Line("Alert ID", f"{result.fingerprint.version} {result.fingerprint.key}", "plain"),
        Line("Guidance", result.summary, style),
        Line("Drivers", ", ".join(map(driver_name, result.primary_drivers)) or "none", style if result.primary_drivers else "ok"),
        Line("Quality", f"data {result.data_confidence} / signals {result.signal_confidence}", "warn" if weak else "ok"),
    ]
    for source in result.source_health:
        good = source.status == "ok"
        lines.append(Line("Sources", f"{SOURCES[source.source]} {source.status}, {_age(source.age_seconds)}", "ok" if good else "warn"))
    if result.margin_alert is not None and result.margin_alert.state != "clear":
        alert = result.margin_alert
        lines.append(
            Line("Margin", f"{alert.state}: {alert.metric.replace('_', ' ')}, level {alert.threshold:g} %", STYLES[alert.severity])
        )
    # What calls for attention, worst first; rows that are all clear are not reasons.
    order = list(STYLES)
    alerts = sorted((row for row in result.rows[1:] if row.severity != "observe"), key=lambda row: -order.index(row.severity))
    for row in alerts:
        lines.append(Line("Why", f"{row.title}: {row.guidance} ({row.evidence})", STYLES[row.severity]))
    if not alerts:
        lines.append(Line("Why", "every check is clear", "ok"))
    lines += [Line("Warning", text, "warn") for text in result.warnings]
    for window in windows:
        lines.append(Line("Window", _window_text(window), "plain" if window.state == "ok" else "warn"))
    lines.append(Line("Next step", next_step(result), style))
    return lines
