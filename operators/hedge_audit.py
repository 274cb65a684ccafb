"""What a decision's audit record says of it (schemas.hedging.HedgerAudit): lists cut to their largest entries, what is not known as null.

Holds no rule. The record is for people and for compliance: enough to see what was known, what bound, and what was given up.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from operators.book_frame import BookFrame, BookView, largest_pairs, zero_for_nan
from operators.book_value import Decision
from operators.hedge_market import HedgeMarket
from operators.ratios import FAST, SLOW, correlation
from schemas.reasons import HedgeReason

MOST = 64
"""Entries of a list; the largest are kept."""


def known(value: Any) -> float | None:
    """Return a number, None where it is not finite."""
    number = float(value)
    return number if math.isfinite(number) else None


def zero(value: Any) -> float:
    """Return a number, 0 where it is not finite."""
    return known(value) or 0.0


def record_of(decision: Decision, frame: BookFrame, view: BookView, ratios: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the fields of the audit record that come from the decision itself. ratios: as `ratios_of` has them."""
    exposures = [
        {
            "symbol": frame.exposures[i],
            "notional": known(decision.e[i]),
            "target": zero(view.target[i]),
            "reason": _name(decision.exposure_reasons[i]),
        }
        for i in _largest(np.where(np.isnan(decision.e), np.inf, np.abs(decision.e)))
    ]
    size = (
        np.abs(zero_for_nan(decision.p))
        + np.abs(zero_for_nan(decision.in_flight))
        + np.abs(zero_for_nan(decision.d))
        + np.abs(decision.proposed)
    )
    legs = [
        {
            "instrument": frame.instruments[j],
            "held": zero(decision.p[j]),
            "in_flight": zero(decision.in_flight[j]),
            "distance": known(decision.d[j]),
            "trade": float(decision.h[j]),
            "distance_after": known(decision.d_after[j]),
            "lower": known(decision.lower[j]),
            "upper": known(decision.upper[j]),
            "reason": _name(decision.leg_reasons[j]),
            "multiplier": known(decision.multipliers[j]),
        }
        for j in _largest(size, everything=len(frame.instruments) <= MOST)
    ]
    payload: dict[str, Any] = {
        "ratio_source": decision.ratio_source,
        "covariance_ts_ns": decision.covariance_ts_ns or None,
        "ages": {f"{name}_ms": age for name, age in decision.ages_ms.items()},
        "exposures": exposures,
        "legs": legs,
        "ratios": ratios,
        "expected": {name: known(value) for name, value in decision.expected.items()}
        | {
            "coverage": known(decision.coverage),
            "coverage_expected": known(decision.coverage_expected),
            "bound_r2": known(decision.bound_r2),
        },
        "risk_aversion": known(decision.risk_aversion),
        "binding": [{"name": one.name, "reason": one.reason.name, "multiplier": known(one.multiplier)} for one in decision.binding[:MOST]],
        "kkt_violation": known(decision.kkt_violation),
    }
    return payload


def ratios_of(decision: Decision, frame: BookFrame, view: BookView, market: HedgeMarket) -> list[dict[str, Any]]:
    """Return the ratios that moved most notional: of exposures there are, to the instruments they are hedged with."""
    state = view.ratios
    result = []
    for i, j in largest_pairs(frame, state, decision.e, MOST):
        y, x = int(frame.exposure_series[i]), int(frame.instrument_series[j])
        pair = y >= 0 and x >= 0 and frame.direct[i] != j
        result.append(
            {
                "exposure": frame.exposures[i],
                "instrument": frame.instruments[j],
                "raw": known(state.raw[j, i]),
                "shrunk": known(state.b[j, i]),
                "used": zero(state.used[j, i]),
                "se": known(state.se[j, i]),
                "n_eff": known(state.n_eff[i]),
                "rho_fast": known(correlation(market.moments, FAST, y, x)) if pair else None,
                "rho_slow": known(correlation(market.moments, SLOW, y, x)) if pair else None,
            }
        )
    return result


def residual_of(decision: Decision, frame: BookFrame) -> dict[str, float]:
    """Return the distance of filled hedges from what is needed, by instrument; nothing of it while it is not known."""
    return {frame.instruments[j]: float(decision.d_filled[j]) for j in np.flatnonzero(zero_for_nan(decision.d_filled)).tolist()[:MOST]}


def _largest(size: Any, everything: bool = False) -> list[int]:
    order = np.argsort(-size, kind="stable")
    return [int(i) for i in order[:MOST] if everything or size[i] > 0.0]


def _name(reason: Any) -> str | None:
    return HedgeReason(int(reason)).name if int(reason) else None
