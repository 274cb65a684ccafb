"""Zero-gamma level of an index: the spot at which the gamma of option dealers would change its sign. Pure kernels; rules: docs/canary.md.

Dealers are taken to be long every call and short every put, of all open interest. Their gamma is the Black–Scholes one with a continuous dividend
yield, at every spot of a grid around the market's, implied volatilities and times to expiry held; the level is the sign change nearest to the spot.
One path for every index: SPY and SPX differ in their inputs only. A kernel uses sums, products, divisions and square roots only, so that equal inputs
give equal bits on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import date, datetime
from typing import NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from operators.ratios import log_ratio
from schemas.canary import OptionChain
from schemas.jit import bare

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

INVALID, EXPIRED, NO_OPEN_INTEREST, NO_IV, IV_RANGE, STRIKE_FAR = range(6)
DROPPED = ("invalid", "expired", "no_open_interest", "no_iv", "iv_out_of_range", "strike_too_far")
"""Why an option is left out, by the numbers above; the first that holds is counted."""

WEAK = ("few_options", "little_open_interest", "one_sided", "strikes_one_sided", "unpriced_open_interest", "no_sign", "no_spot")
"""Why a level may not be ranked: too few options; too little open interest; only calls or only puts; strikes on one side of the spot only; too much
of the open interest has no usable volatility; calls and puts cancel everywhere; no spot."""

_NEW_YORK = ZoneInfo("America/New_York")
_CLOSE_HOUR = 16
_YEAR_S = 365.0 * 86_400.0
_PHI0 = 0.3989422804014327
"""1/√2π."""
_LEAST = 72.0
"""Exponents stop here (12 standard deviations): an option's gamma is below 1e-31 of its most there."""


class Rules(NamedTuple):
    """What decides, as an argument of kernels; every level is a setting.

    reach: the grid goes from spot·e^−reach to spot·e^reach. points: of the grid, odd, so that the spot is one; the step is 2·reach/(points − 1), and two
    sign changes within one step are not seen. tolerance: of the level, as a ratio to the spot. flat: a net gamma at or under this share of the grid's
    largest gross gamma has no sign, so that rounding far from all strikes makes no level. least_years: shorter times to expiry are taken as this one:
    an option on its last day would else be a spike at its strike; one business day of 262. least_iv, most_iv: volatilities outside are left out, as
    ratios. strike_reach: strikes further from the spot in logarithms are left out (half to double). least_options, least_open_interest (contracts),
    most_unpriced (share of the open interest within strike_reach): what a level needs to be ranked.
    """

    reach: float = 0.2
    points: int = 121
    tolerance: float = 1e-9
    flat: float = 1e-9
    least_years: float = 1.0 / 262.0
    least_iv: float = 0.01
    most_iv: float = 5.0
    strike_reach: float = 0.6931471805599453
    least_options: int = 20
    least_open_interest: float = 1_000.0
    most_unpriced: float = 0.25


class Gamma(NamedTuple):
    """What a chain says.

    status: `ready`, or `error` when there is no spot, no usable option or no sign. zero: the level, NaN when the profile has no sign change on the grid; gap_pct:
    (spot − zero)/zero × 100, NaN without a level. sign: of dealers' gamma at the spot, 1 long, −1 short, 0 none; without a level that of the whole
    profile. net, total_abs: dealers' gamma and all open interest's, in money per move of 1 % at the spot (of the index's currency). n_used, n_dropped,
    dropped: options by what became of them; reasons with a count only. rankability: `rankable`, or `not_rankable` for `reasons` (`WEAK`).
    """

    status: str
    gap_pct: float
    zero: float
    sign: int
    total_abs: float
    n_used: int
    n_dropped: int
    dropped: dict[str, int]
    net: float
    open_interest: float
    rankability: str
    reasons: tuple[str, ...]


@bare
def exp(x: float) -> float:
    """Return e^x for |x| ≤ 80 to a few parts in 1e14: the series on x/2⁸, squared eight times.

    Without branches and tables, so that a loop over it runs on vectors; the C library's may differ by machine.
    """
    t = x * 0.00390625
    s = 1.0 + t * (1.0 / 12.0)
    s = 1.0 + t * s * (1.0 / 11.0)
    s = 1.0 + t * s * (1.0 / 10.0)
    s = 1.0 + t * s * (1.0 / 9.0)
    s = 1.0 + t * s * (1.0 / 8.0)
    s = 1.0 + t * s * (1.0 / 7.0)
    s = 1.0 + t * s * (1.0 / 6.0)
    s = 1.0 + t * s * (1.0 / 5.0)
    s = 1.0 + t * s * (1.0 / 4.0)
    s = 1.0 + t * s * (1.0 / 3.0)
    s = 1.0 + t * s * 0.5
    s = 1.0 + t * s
    s *= s
    s *= s
    s *= s
    s *= s
    s *= s
    s *= s
    s *= s
    return s * s


@bare
def prepare(
    spot: float, rate: float, dividend_yield: float, years: Floats, strike: Floats, is_call: Bools, open_interest: Floats, iv: Floats, multiplier: Floats,
    rules: Rules, terms: Floats, dropped: Ints, held: Floats,
) -> int:  # fmt: skip
    """Write what the sweep needs of each usable option to the front of `terms`; return how many there are.

    years, strike, open_interest, iv, multiplier `(n,)` float64 and is_call `(n,)` bool, NaN for not known; spot finite and above zero. terms `(4, n)`: the
    logarithm of spot at which d1 is 0, relative to the market's; 1/(σ√T); the gamma's weight, negative for a put; room for `net_at`. dropped `(6,)`:
    counts by reason. held `(5,)`: open interest of the used, of those without a usable volatility, of used calls, and strikes below and above the spot.
    """
    used = 0
    for i in range(len(dropped)):
        dropped[i] = 0
    for i in range(len(held)):
        held[i] = 0.0
    for i in range(len(strike)):
        t, k, oi, sigma = years[i], strike[i], open_interest[i], iv[i]
        if not (k > 0.0 and k < np.inf and multiplier[i] > 0.0 and multiplier[i] < np.inf and abs(t) < np.inf and oi != np.inf):
            dropped[INVALID] += 1
            continue
        if not t > 0.0:
            dropped[EXPIRED] += 1
            continue
        if not oi > 0.0:
            dropped[NO_OPEN_INTEREST] += 1
            continue
        m = log_ratio(spot, k)
        far = not abs(m) <= rules.strike_reach
        if not sigma > 0.0 or sigma < rules.least_iv or sigma > rules.most_iv:
            dropped[IV_RANGE if sigma > 0.0 else NO_IV] += 1
            held[1] += 0.0 if far else oi
            continue
        if far:
            dropped[STRIKE_FAR] += 1
            continue
        t = max(t, rules.least_years)
        steep = 1.0 / (sigma * math.sqrt(t))
        weight = oi * multiplier[i] * steep * _PHI0 * exp(min(max(-dividend_yield * t, -_LEAST), _LEAST))
        terms[0, used] = m - (rate - dividend_yield + 0.5 * sigma * sigma) * t
        terms[1, used] = steep
        terms[2, used] = weight if is_call[i] else -weight
        held[0] += oi
        held[2] += oi if is_call[i] else 0.0
        held[3] += 1.0 if k < spot else 0.0
        held[4] += 1.0 if k > spot else 0.0
        used += 1
    return used


@bare
def _add_bell(side: Floats, grid: Floats, centre: float, steep: float, weight: float) -> None:
    """Add weight·e^(−d1²/2) at every point. A loop of its own and nothing but arithmetic: this is what the machine does eight at a time."""
    for i in range(len(grid)):
        d1 = (grid[i] - centre) * steep
        y = 0.5 * d1 * d1
        side[i] += weight * exp(-y if y < _LEAST else -_LEAST)


@bare
def sweep(terms: Floats, used: int, grid: Floats, calls: Floats, puts: Floats) -> None:
    """Write the gamma of calls and of puts `(g,)` at spot·e^grid `(g,)`, over the spot: Σ weight·e^(−d1²/2). Allocates nothing."""
    for i in range(len(grid)):
        calls[i] = 0.0
        puts[i] = 0.0
    for k in range(used):
        if terms[2, k] > 0.0:
            _add_bell(calls, grid, terms[0, k], terms[1, k], terms[2, k])
        else:
            _add_bell(puts, grid, terms[0, k], terms[1, k], -terms[2, k])


@bare
def _bells(centre: Floats, steep: Floats, weight: Floats, out: Floats, used: int, x: float) -> None:
    for k in range(used):
        d1 = (x - centre[k]) * steep[k]
        y = 0.5 * d1 * d1
        out[k] = weight[k] * exp(-y if y < _LEAST else -_LEAST)


@bare
def net_at(terms: Floats, used: int, x: float) -> float:
    """Return calls − puts as `sweep` gives them, at spot·e^x. Uses the last row of `terms`."""
    _bells(terms[0], terms[1], terms[2], terms[3], used, x)
    net = 0.0
    for k in range(used):
        net += terms[3, k]
    return net


@bare
def bisect(terms: Floats, used: int, low: float, high: float, rising: bool, tolerance: float) -> float:
    """Return x where calls − puts changes its sign, between `low` and `high`; rising: it is negative at `low`."""
    while high - low > tolerance:
        x = 0.5 * (low + high)
        if x <= low or x >= high:
            break
        net = net_at(terms, used, x)
        if net == 0.0:
            return x
        if (net < 0.0) == rising:
            low = x
        else:
            high = x
    return 0.5 * (low + high)


@bare
def level(terms: Floats, used: int, grid: Floats, calls: Floats, puts: Floats, rules: Rules) -> tuple[float, int]:
    """Return (level over spot, sign of the profile): NaN and the one sign it has (0: none at all) without a sign change, else a level and 0.

    Of two levels at one distance the higher is taken: the spot is below it.
    """
    g = len(grid)
    most = 0.0
    for i in range(g):
        most = max(most, calls[i] + puts[i])
    least = rules.flat * most
    before, where, found = 0, 0, np.nan
    low, low_sign, low_end = -1, 0, -1  # the last change that ends at or below the spot: only the nearest of each side is refined
    half = g // 2
    for i in range(g):
        net = calls[i] - puts[i]
        sign = 1 if net > least else (-1 if net < -least else 0)
        if sign == 0:
            continue
        if before != 0 and sign != before:
            if i <= half:
                low, low_sign, low_end = where, before, i
            else:
                x = bisect(terms, used, grid[where], grid[i], before < 0, rules.tolerance)
                ratio = exp(x)
                if not abs(ratio - 1.0) >= abs(found - 1.0):
                    found = ratio
                if where >= half:
                    break
        before, where = sign, i
    if low >= 0:
        x = bisect(terms, used, grid[low], grid[low_end], low_sign < 0, rules.tolerance)
        ratio = exp(x)
        if not abs(ratio - 1.0) >= abs(found - 1.0):
            found = ratio
    return found, before if math.isnan(found) else 0


def zero_gamma(
    spot: float,
    rate: float,
    dividend_yield: float,
    expiry_years: Floats,
    strike: Floats,
    is_call: Bools,
    open_interest: Floats,
    iv: Floats,
    multiplier: Floats,
    rules: Rules | None = None,
) -> Gamma:
    """Return the zero-gamma level of a chain.

    expiry_years, strike, open_interest (contracts), iv (ratio), multiplier `(n,)` float64, is_call `(n,)` bool; NaN for not known. rate, dividend_yield:
    continuously compounded, as ratios. An expiry at or before now is dropped as expired. Raises ValueError for arrays of different lengths and
    for rules that make no grid.
    """
    rules = Rules() if rules is None else rules
    n = len(strike)
    if any(len(column) != n for column in (expiry_years, is_call, open_interest, iv, multiplier)):
        raise ValueError("gamma: the columns of a chain must be of one length")
    if rules.points < 3 or rules.points % 2 == 0 or not 0.0 < rules.reach <= 2.0 or not rules.tolerance > 0.0:
        raise ValueError("gamma: needs an odd number of points, 3 or more, a reach above 0 and up to 2, and a tolerance above 0")
    terms, dropped, held = np.empty((4, n)), np.zeros(len(DROPPED), np.int64), np.zeros(5)
    if not (0.0 < spot < math.inf and math.isfinite(rate) and math.isfinite(dividend_yield)):
        return Gamma(
            "error", math.nan, math.nan, 0, math.nan, 0, n, {"no_spot": n} if n else {}, math.nan, 0.0, "not_rankable", ("no_spot",)
        )
    used = prepare(
        float(spot), float(rate), float(dividend_yield), expiry_years, strike, is_call, open_interest, iv, multiplier, rules, terms, dropped, held
    )  # fmt: skip
    counts = {name: int(count) for name, count in zip(DROPPED, dropped, strict=True) if count}
    if used == 0:
        return Gamma(
            "error", math.nan, math.nan, 0, math.nan, 0, n, counts, math.nan, 0.0, "not_rankable", _reasons(used, held, rules, False)
        )
    at_spot = rules.points // 2
    grid: Floats = rules.reach / at_spot * np.arange(-at_spot, at_spot + 1, dtype=np.float64)
    calls, puts = np.empty(rules.points), np.empty(rules.points)
    sweep(terms, used, grid, calls, puts)
    ratio, whole = level(terms, used, grid, calls, puts, rules)
    net, gross = calls[at_spot] - puts[at_spot], calls[at_spot] + puts[at_spot]
    sign = whole if math.isnan(ratio) else int(net > 0.0) - int(net < 0.0)
    money = 0.01 * float(spot)
    gap = (1.0 - ratio) / ratio * 100.0
    signless = math.isnan(ratio) and whole == 0
    reasons = _reasons(used, held, rules, signless)
    return Gamma(
        "error" if signless else "ready", gap, spot * ratio, sign, float(gross) * money, used, n - used, counts,
        float(net) * money, float(held[0]), "not_rankable" if reasons else "rankable", reasons,
    )  # fmt: skip


def _reasons(used: int, held: Floats, rules: Rules, signless: bool) -> tuple[str, ...]:
    whole, unpriced, of_calls, below, above = (float(value) for value in held)
    fails = (
        used < rules.least_options,
        whole < rules.least_open_interest,
        of_calls in (0.0, whole),
        not (below and above),
        unpriced > rules.most_unpriced * (whole + unpriced),
        signless,
        False,
    )
    return tuple(name for name, failed in zip(WEAK, fails, strict=True) if failed)


# --- chains -----------------------------------------------------------------------------------------------------------------------


def years_to(expiries: Iterable[str], as_of_ns: int) -> Floats:
    """Return the times in years of 365 days from a moment to the close (16:00 New York) of each expiry date (YYYY-MM-DD), `(n,)`; negative is past.

    Which options settle at the open is not in a chain; they too are taken to the close of their date. NaN for what is no date.
    """
    seen: dict[str, float] = {}
    out = []
    for text in expiries:
        if text not in seen:
            try:
                day = date.fromisoformat(text)
                close = datetime(day.year, day.month, day.day, _CLOSE_HOUR, tzinfo=_NEW_YORK)
                seen[text] = (int(close.timestamp()) - as_of_ns / 1_000_000_000) / _YEAR_S
            except ValueError:
                seen[text] = math.nan
        out.append(seen[text])
    return np.array(out, np.float64)


def gamma_of(chain: OptionChain, as_of_ns: int, rules: Rules | None = None) -> Gamma:
    """Return the zero-gamma level of a chain as it was at `as_of_ns`."""
    options = chain.options
    n = len(options)
    return zero_gamma(
        chain.spot,
        chain.rate,
        chain.dividend_yield,
        years_to((option.expiry for option in options), as_of_ns),
        np.fromiter((option.strike for option in options), np.float64, n),
        np.fromiter((option.right == "C" for option in options), np.bool_, n),
        np.fromiter((option.open_interest for option in options), np.float64, n),
        np.fromiter((math.nan if option.iv is None else option.iv for option in options), np.float64, n),
        np.fromiter((option.multiplier for option in options), np.float64, n),
        rules,
    )
