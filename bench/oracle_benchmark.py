"""The market at a moment and slippage against it, straight from the rule and exactly: the slow half of every benchmark test.

Quotes are a plain list in tape order. Rules: docs/tca.md (look-up rule, statuses, signs). Nothing here may import operators/ or state/.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal
from fractions import Fraction

MAX_AGE_NS = 3_000_000_000


@dataclass(frozen=True)
class Quote:
    """One quote of one symbol; a None side is an empty side of the book."""

    ts_ns: int
    bid: Fraction | None
    ask: Fraction | None
    confidence: Fraction = Fraction(1)


@dataclass(frozen=True)
class Found:
    """What the look-up says: `status` ok, stale or missing; every reason for stale in `details`; `mid` None when missing."""

    status: str
    details: frozenset[str]
    mid: Fraction | None
    quote: Quote | None


def benchmark(quotes: Sequence[Quote], tau: int, max_age_ns: int = MAX_AGE_NS, same_clock: bool = True, wait: bool = False) -> Found:
    """Return the market at `tau`: the last quote strictly before it, the last in tape order among equal times.

    wait: also ask whether the tape has passed `tau` (a quote at or after it was seen); if not the answer is stale, `tape_behind`.
    """
    before = [(quote.ts_ns, position, quote) for position, quote in enumerate(quotes) if quote.ts_ns < tau]
    if not before:
        return Found("missing", frozenset(), None, None)
    quote = max(before, key=lambda row: row[:2])[2]
    if quote.bid is None or quote.ask is None or quote.bid <= 0 or quote.ask <= 0:
        return Found("missing", frozenset(), None, quote)
    details = set()
    if tau - quote.ts_ns > max_age_ns:
        details.add("aged")
    if quote.confidence < 1:
        details.add("low_confidence")
    if quote.bid >= quote.ask:
        details.add("locked_or_crossed")
    if not same_clock:
        details.add("clock_offset")
    if wait and not any(other.ts_ns >= tau for other in quotes):
        details.add("tape_behind")
    return Found("stale" if details else "ok", frozenset(details), (quote.bid + quote.ask) / 2, quote)


def rounded(value: Fraction, decimals: int = 6) -> Decimal:
    """Return `value` rounded half to even."""
    scaled = round(value * 10**decimals)
    return Decimal(scaled).scaleb(-decimals).quantize(Decimal(1).scaleb(-decimals), rounding=ROUND_HALF_EVEN)


def slippage_bps(side: int, price: Fraction, mid: Fraction | None) -> Decimal | None:
    """Return the cost-positive slippage against a mid in bps; None without a benchmark. `side` is +1 for a buy and -1 for a sell."""
    return None if mid is None else rounded(side * (price - mid) / mid * 10_000)


def spread_capture(side: int, price: Fraction, quote: Quote | None) -> Decimal | None:
    """Return +1 for a passive fill at the touch, -1 for one that crossed; None for an unusable book."""
    if quote is None or quote.bid is None or quote.ask is None or quote.bid <= 0 or quote.bid >= quote.ask:
        return None
    return rounded(side * ((quote.bid + quote.ask) / 2 - price) / ((quote.ask - quote.bid) / 2))
