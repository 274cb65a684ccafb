"""What a fill cost against the market: signed, cost-positive, in bps. Pure kernels over scaled integers.

May not look anything up: benchmarks come in. Formulas and signs: tca §1 and §3; see docs/tca.md.
"""

from __future__ import annotations

import numpy as np

from schemas.jit import bare

BPS = 1e4
PRECISION = 1e6
"""Published ratios are rounded to 1e-6, half to even."""


@bare
def round6(x: float) -> float:
    """Round to 1e-6; never gives a negative zero."""
    return float(np.rint(x * PRECISION) / PRECISION + 0.0)


@bare
def slippage_vs_mid2_bps(side: int, px: int, mid2: int) -> float:
    """Return side·(2·px − mid2)/mid2 in bps. side +1 buy, −1 sell; 0 < px < 2^62; mid2 = bid + ask > 0, both at the same scale.

    Positive is a cost. NaN (no figure) when mid2 is not above zero: a missing benchmark is never 0.
    """
    if mid2 <= 0:
        return np.nan
    return round6(side * (2 * px - mid2) / mid2 * BPS)


@bare
def spread_capture(side: int, px: int, bid: int, ask: int) -> float:
    """Return side·(mid − px) in half spreads: 1 passive at the touch, 0 at the mid, −1 crossing. NaN for a locked or crossed book."""
    if bid <= 0 or ask <= bid:
        return np.nan
    return round6(side * (bid + ask - 2 * px) / (ask - bid))


@bare
def outside_touch(side: int, px: int, bid: int, ask: int) -> bool:
    """Return whether the price is worse than the touch it would cross (`slippage_anomalous`); false on exactly the touch."""
    return side * (2 * px - bid - ask) > ask - bid
