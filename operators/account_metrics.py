"""The metrics of an account that every rule reads (canary §4), from its facts (state/accounts.py). Kernels; no thresholds.

In percent of net liquidation unless said otherwise; NaN: absent, because a figure was not delivered or there is no net liquidation to divide by.
"""

from __future__ import annotations

from typing import Any

from schemas.jit import bare
from state.accounts import F_ACCOUNT, F_PORTFOLIO, F_POSITIONS

METRICS = [
    ("cushion_pct", "f8"), ("look_ahead_cushion_pct", "f8"), ("worst_cushion_pct", "f8"), ("gross_exposure_pct", "f8"), ("net_delta_pct", "f8"),
    ("gross_delta_pct", "f8"), ("largest_exposure_pct", "f8"), ("largest_delta_pct", "f8"), ("daily_pnl_pct", "f8"), ("greeks_pct", "f8"),
]  # fmt: skip
"""Fields `measure` fills in. worst_cushion_pct: the smaller of the two that exist. largest_exposure_pct: signed. greeks_pct: option legs with greeks, % of legs."""

NAN = float("nan")


@bare
def given(value: float) -> bool:
    """Return whether a figure was delivered."""
    return value == value


@bare
def filled(value: float) -> bool:
    """Return whether a margin figure says anything: feeds send 0 for absent."""
    return value == value and value != 0.0


@bare
def margin_context(row: Any) -> bool:
    """Return whether an account shows that it uses margin, so that a cushion of 0 is a figure and not an absent one."""
    return bool(
        row.excess_liquidity < 0.0 or row.available_funds < 0.0 or row.maintenance_margin > 0.0 or row.initial_margin > 0.0
    )  # fmt: skip


@bare
def measure(row: Any, out: Any) -> None:
    """Fill in the METRICS of an account. row: a record with the fields FACTS; out: one with the fields METRICS."""
    out.cushion_pct = NAN
    out.look_ahead_cushion_pct = NAN
    out.worst_cushion_pct = NAN
    out.gross_exposure_pct = NAN
    out.net_delta_pct = NAN
    out.gross_delta_pct = NAN
    out.largest_exposure_pct = NAN
    out.largest_delta_pct = NAN
    out.daily_pnl_pct = NAN
    out.greeks_pct = NAN
    aggregate = (row.facts & F_POSITIONS) != 0 and (row.facts & F_PORTFOLIO) != 0
    if aggregate and row.greeks_total > 0:
        out.greeks_pct = max(row.greeks_coverage, 0) / row.greeks_total * 100.0
    net = row.net_liquidation
    if (row.facts & F_ACCOUNT) == 0 or not net > 0.0:
        return
    if filled(row.cushion):
        out.cushion_pct = row.cushion * 100.0
    elif filled(row.excess_liquidity):
        out.cushion_pct = row.excess_liquidity / net * 100.0
    elif margin_context(row):
        out.cushion_pct = 0.0
    if filled(row.look_ahead_excess_liquidity):
        out.look_ahead_cushion_pct = row.look_ahead_excess_liquidity / net * 100.0
    elif row.look_ahead_maint_margin > 0.0 or row.look_ahead_init_margin > 0.0 or row.look_ahead_available_funds < 0.0:
        out.look_ahead_cushion_pct = 0.0
    out.worst_cushion_pct = out.cushion_pct
    if given(out.look_ahead_cushion_pct) and not out.cushion_pct <= out.look_ahead_cushion_pct:
        out.worst_cushion_pct = out.look_ahead_cushion_pct
    if row.gross_position_value > 0.0:
        out.gross_exposure_pct = row.gross_position_value / net * 100.0
    if given(row.daily_pnl):
        out.daily_pnl_pct = row.daily_pnl / net * 100.0
    if not aggregate:
        return
    if given(row.dollar_delta):
        out.net_delta_pct = abs(row.dollar_delta) / net * 100.0
    if given(row.gross_delta):
        out.gross_delta_pct = row.gross_delta / net * 100.0
    out.largest_exposure_pct = row.largest_exposure_pct
    if given(row.largest_delta):
        out.largest_delta_pct = abs(row.largest_delta) / net * 100.0
