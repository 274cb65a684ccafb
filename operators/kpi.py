"""The hedger's own figures: coverage over time, episodes, completion, slippage, failures, latency; by the minute, summed over windows.

May not decide. Definitions: hedging §7; docs/hedging.md, "Figures". Histograms have buckets of powers of two: their quantiles are upper bounds,
at most twice the value.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from state.hedges import BUCKETS

MINUTE_NS = 60_000_000_000
WINDOWS_S = (300, 3_600, 86_400)
KEEP_MINUTES = 1_441
LATENCY_MS = 2.0 ** np.arange(BUCKETS)
"""Upper bounds of the latency's buckets, ms: 1 ms to 9 min."""
COMPLETION_S = 2.0 ** (np.arange(BUCKETS) - 6)
"""Upper bounds of the completion's buckets, s: 16 ms to 2.3 h."""


def bucket(bounds: Any, value: float) -> int:
    """Return the bucket of a value: the first bound that is not below it, the last for all above."""
    return min(int(np.searchsorted(bounds, value)), BUCKETS - 1)


def quantile(bounds: Any, counts: Any, q: float) -> float | None:
    """Return the upper bound of the bucket the quantile is in, None for no values."""
    total = int(counts.sum())
    if total == 0:
        return None
    at = int(np.searchsorted(np.cumsum(counts), q * total))
    return float(bounds[min(at, BUCKETS - 1)])


def summed(rows: Any) -> dict[str, Any]:
    """Return the figures of a window from its minutes' rows (state.hedges.MINUTE): null where nothing happened that could be measured."""
    known, covered, weighted = (float(rows[name].sum()) for name in ("known_s", "covered_s", "coverage_s"))
    hedged, slippage, moved = (float(rows[name].sum()) for name in ("hedged", "slippage", "moved"))
    sent, ended, failed = (int(rows[name].sum()) for name in ("sent", "ended", "failed"))
    latency = rows["latency"].sum(axis=0) if len(rows) else np.zeros(BUCKETS)
    completion = rows["completion"].sum(axis=0) if len(rows) else np.zeros(BUCKETS)
    return {
        "coverage_time_pct": min(100.0 * covered / known, 100.0) if known > 0 else None,
        "coverage_mean_pct": min(100.0 * weighted / known, 100.0) if known > 0 else None,
        "episodes": int(rows["episodes"].sum()),
        "episodes_met": int(rows["met"].sum()),
        "completion_p50_s": quantile(COMPLETION_S, completion, 0.5),
        "completion_p95_s": quantile(COMPLETION_S, completion, 0.95),
        "hedges_sent": sent,
        "hedges_ended": ended,
        "hedges_failed": failed,
        "failure_pct": min(100.0 * failed / sent, 100.0) if sent else None,
        "slippage_bps": slippage / hedged if hedged > 0 else None,
        "hedged_notional": hedged,
        "churn": hedged / moved if moved > 0 else None,
        "latency_p50_ms": quantile(LATENCY_MS, latency, 0.5),
        "latency_p95_ms": quantile(LATENCY_MS, latency, 0.95),
    }
