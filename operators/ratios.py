"""Hedge ratios: bars of asynchronous mids, exponentially weighted covariances, shrunk ratios, coverage, correlation breakdown. Pure kernels.

May not look anything up, know a topic or grow: the caller holds every array, the `new_…` functions make them. Formulas, defaults and what
was measured: docs/ratios.md. Returns are per bar and plain numbers (0.01 is 1 %), amounts are signed notionals in one currency, float64.
A kernel uses sums, products, divisions and square roots only, so that equal inputs give equal bits on every machine.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from schemas.jit import bare

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

LAMBDAS = (0.94, 0.97, 0.99, 0.995)
"""Memory per bar: fast, in use, slow, long."""
FAST, IN_USE, SLOW, LONG = range(4)
BAR_NS = 60_000_000_000
"""Length of a bar; below 5 s quotes that are not simultaneous cost correlation."""

ELIGIBLE, WARMUP, ZERO_VARIANCE, WEAK_RELATION = range(4)
"""Why an instrument is or is not part of a ratio."""
REASONS = ("eligible", "warmup", "zero_variance", "weak_relation")

CORRELATION, EFFECTIVENESS = range(2)
"""The causes of a breakdown: columns of Watch.active."""

PRIOR_SAME_UNDERLYING, TAU_SAME_UNDERLYING = 1.0, 0.25
"""Ratio and width that are given for an instrument on the exposure's own underlying."""
WINDOW = 250
"""Bars over which realised effectiveness is held against the expected."""
_KAPPA_MOST = 1e12
"""Above this the prior is taken as it is; keeps the solve finite for τ = 0."""
_LN2 = 0.6931471805599453
_FIRST_STEP = 2.0**-10
"""The least by which correlations are pulled together when they contradict each other."""


class Rules(NamedTuple):
    """What decides, as an argument of kernels; every level is a setting.

    Floats are floats and ints are ints: a kernel is compiled for each mix of types.

    memory, long: which lambda the ratio comes from, and which its prior and the verdict on its instruments. n_ready: effective bars from which a
    pair is known. r2_least, rho_least: below them a relation is weak (of a set, of an instrument), over the long memory. condition_most: of the
    correlations of a set, 1-norm. variance_least: at or under it a series does not move (per bar). widen: how far a prior from the long
    memory gives way to data it contradicts: 1 as docs/ratios.md says, 0 never.
    buffer: standard errors a ratio in use may be off. step_most: its largest move per bar. gap_on, z_on, bars_on: fast and slow correlation
    differ by more, also in standard errors of Fisher's z, for so many bars. gap_off, bars_off: how it clears. effectiveness_least: realised
    over expected.
    """

    memory: int = IN_USE
    long: int = LONG
    n_ready: float = 30.0
    r2_least: float = 0.2
    rho_least: float = 0.25
    condition_most: float = 1e8
    variance_least: float = 1e-18
    widen: float = 1.0
    buffer: float = 1.0
    step_most: float = 0.3
    gap_on: float = 0.15
    z_on: float = 2.0
    bars_on: int = 3
    gap_off: float = 0.10
    bars_off: int = 10
    effectiveness_least: float = 0.85


# --- numbers ----------------------------------------------------------------------------------------------------------------------


@bare
def log_ratio(a: float, b: float) -> float:
    """Return ln(b / a) for finite a, b > 0 by the series of atanh; good to a few units in the last place, also for b near a.

    The C library's logarithm may differ by machine; this one does not.
    """
    z = (b - a) / (b + a)
    doubled = 0
    if z > 0.2 or z < -0.2:
        while b > 1.5 * a:  # halving is exact
            b *= 0.5
            doubled += 1
        while b < 0.75 * a:
            a *= 0.5
            doubled -= 1
        z = (b - a) / (b + a)
    y = z * z
    s = 1.0 / 25.0
    for k in range(11, -1, -1):
        s = s * y + 1.0 / (2.0 * k + 1.0)
    return doubled * _LN2 + 2.0 * z * s


@bare
def power(x: float, n: int) -> float:
    """Return x to the n-th, n ≥ 0, by squaring."""
    result = 1.0
    while n > 0:
        if n & 1:
            result *= x
        x *= x
        n >>= 1
    return result


@bare
def n_eff(lam: float, n: int) -> float:
    """Return how many equally weighted bars n bars of memory lam are worth: (Σw)²/Σw² = (1 − λⁿ)/(1 + λⁿ)·(1 + λ)/(1 − λ)."""
    if n <= 0:
        return 0.0
    left = power(lam, n)
    return (1.0 - left) / (1.0 + left) * (1.0 + lam) / (1.0 - lam)


@bare
def fisher_z(rho: float) -> float:
    """Return atanh(rho), rho held within 1 − 1e-12 of zero."""
    r = min(max(rho, -1.0 + 1e-12), 1.0 - 1e-12)
    return 0.5 * log_ratio(1.0 - r, 1.0 + r)


# --- bars -------------------------------------------------------------------------------------------------------------------------


class Bars(NamedTuple):
    """The newest mids of k series, and those of the last bar end.

    mid `(k,)` float64, ts_ns `(k,)` int64: the newest quote, NaN and the least integer before there is one. close `(k,)` float64: the mid at
    the last bar end, NaN if it was not fresh. end_ns `(1,)` int64: the end of the open bar, which is not part of it. refused `(1,)` int64:
    quotes whose mid is not finite and above zero.
    """

    mid: Floats
    ts_ns: Ints
    close: Floats
    end_ns: Ints
    refused: Ints


def new_bars(n_series: int, first_end_ns: int) -> Bars:
    """Return the bars of series without quotes. Raises ValueError for no series."""
    if n_series < 1:
        raise ValueError(f"bars: n_series must be at least 1, not {n_series}")
    return Bars(
        mid=np.full(n_series, np.nan),
        ts_ns=np.full(n_series, np.iinfo(np.int64).min),
        close=np.full(n_series, np.nan),
        end_ns=np.array([first_end_ns], np.int64),
        refused=np.zeros(1, np.int64),
    )


@bare
def take_quotes(bars: Bars, ts_ns: Ints, series: Ints, mid: Floats, first: int) -> int:
    """Take the quotes from number `first` on, until one belongs to a later bar; return its number, or how many there are.

    ts_ns, series, mid: `(n,)`; a series outside 0..k−1 is passed over. A quote older than its series' newest changes nothing.
    """
    end = bars.end_ns[0]
    k = len(bars.mid)
    for i in range(first, len(ts_ns)):
        if ts_ns[i] >= end:
            return i
        s = series[i]
        if s < 0 or s >= k:
            continue
        if not (mid[i] > 0.0 and mid[i] < np.inf):
            bars.refused[0] += 1
        elif ts_ns[i] >= bars.ts_ns[s]:
            bars.ts_ns[s] = ts_ns[i]
            bars.mid[s] = mid[i]
    return len(ts_ns)


@bare
def close_bar(bars: Bars, bar_ns: int, fresh_ns: int, returns: Floats, fresh: Bools) -> int:
    """End the open bar and open the next; return how many series have a return.

    returns `(k,)`: log returns of mids from bar end to bar end, 0 where there is none. fresh `(k,)`: whether there is one: the newest quotes
    at both ends were at most fresh_ns old, so that no return spans a gap or lags another.
    """
    end = bars.end_ns[0]
    found = 0
    for s in range(len(bars.mid)):
        before = bars.close[s]
        now = bars.mid[s] if bars.ts_ns[s] >= end - fresh_ns else np.nan
        fresh[s] = not (math.isnan(before) or math.isnan(now))
        returns[s] = log_ratio(before, now) if fresh[s] else 0.0
        bars.close[s] = now
        found += fresh[s]
    bars.end_ns[0] = end + bar_ns
    return found


@bare
def _bar_returns(bars: Bars, ts_ns: Ints, series: Ints, mid: Floats, bar_ns: int, fresh_ns: int, returns: Floats, fresh: Bools) -> None:
    at = 0
    for t in range(len(returns)):
        at = take_quotes(bars, ts_ns, series, mid, at)
        close_bar(bars, bar_ns, fresh_ns, returns[t], fresh[t])


def bar_returns(
    ts_ns: Ints, series: Ints, mid: Floats, n_series: int, bar_ns: int = BAR_NS, fresh_ns: int | None = None
) -> tuple[Floats, Bools, int]:
    """Return (returns `(T, k)`, fresh `(T, k)`, end of the first bar in ns) of a whole table of quotes in time order, bars on the clock's grid.

    The last bar is the one the last quote is in. fresh_ns: see `close_bar`; a bar's length unless given. Raises ValueError for quotes out of
    order or lengths that make no sense.
    """
    if bar_ns < 1 or (fresh_ns is not None and fresh_ns < 1):
        raise ValueError(f"bars: lengths must be above zero, not {bar_ns} and {fresh_ns}")
    if len(ts_ns) and bool((np.diff(ts_ns) < 0).any()):
        raise ValueError("bars: quotes are not in time order")
    first = (int(ts_ns[0]) // bar_ns + 1) * bar_ns if len(ts_ns) else bar_ns
    n_bars = int(ts_ns[-1]) // bar_ns - first // bar_ns + 2 if len(ts_ns) else 0
    returns, fresh = np.zeros((n_bars, n_series)), np.zeros((n_bars, n_series), np.bool_)
    _bar_returns(new_bars(n_series, first), ts_ns, series, mid, bar_ns, bar_ns if fresh_ns is None else fresh_ns, returns, fresh)
    return returns, fresh, first


# --- covariance -------------------------------------------------------------------------------------------------------------------


class Moments(NamedTuple):
    """Exponentially weighted second moments of k series for L memories: what is held between bars.

    Pair (i, j ≤ i) is at i(i + 1)/2 + j of P = k(k + 1)/2: a further series is a further row at the end. lams `(L,)`. n `(P,)` int64: bars that
    counted for the pair. cov `(L, P)`: Σw·r_i·r_j over these bars, without bias correction. var_row, var_col `(L, P)`: Σw·r_i² and Σw·r_j²
    over the same bars, so that a correlation is one of simultaneous returns and never beyond ±1.
    """

    lams: Floats
    n: Ints
    cov: Floats
    var_row: Floats
    var_col: Floats


def new_moments(n_series: int, lams: tuple[float, ...] = LAMBDAS) -> Moments:
    """Return moments before the first bar. Raises ValueError for no series or a memory outside (0, 1)."""
    if n_series < 1:
        raise ValueError(f"moments: n_series must be at least 1, not {n_series}")
    if not lams or not all(0.0 < lam < 1.0 for lam in lams):
        raise ValueError(f"moments: every lambda must be above 0 and below 1: {lams}")
    pairs = n_series * (n_series + 1) // 2
    shape = (len(lams), pairs)
    return Moments(np.array(lams, np.float64), np.zeros(pairs, np.int64), np.zeros(shape), np.zeros(shape), np.zeros(shape))


@bare
def update(moments: Moments, returns: Floats, fresh: Bools) -> None:
    """Take one bar. returns, fresh `(k,)`; a pair is left as it is unless both are fresh. Allocates nothing."""
    n, cov, var_row, var_col = moments.n, moments.cov, moments.var_row, moments.var_col
    k = len(returns)
    whole = True
    for i in range(k):
        whole = whole and fresh[i]
    for i in range(k):
        if not fresh[i]:
            continue
        at = i * (i + 1) // 2
        ri = returns[i]
        square = ri * ri
        for j in range(i + 1):
            n[at + j] += 1 if fresh[j] else 0
        for which in range(len(moments.lams)):
            keep = moments.lams[which]
            gain = 1.0 - keep
            c, a, b = cov[which], var_row[which], var_col[which]
            if whole:
                for j in range(i + 1):
                    c[at + j] = keep * c[at + j] + gain * (ri * returns[j])
                for j in range(i + 1):
                    a[at + j] = keep * a[at + j] + gain * square
                for j in range(i + 1):
                    b[at + j] = keep * b[at + j] + gain * (returns[j] * returns[j])
            else:
                for j in range(i + 1):
                    c[at + j] = keep * c[at + j] + gain * (ri * returns[j]) if fresh[j] else c[at + j]
                for j in range(i + 1):
                    a[at + j] = keep * a[at + j] + gain * square if fresh[j] else a[at + j]
                for j in range(i + 1):
                    b[at + j] = keep * b[at + j] + gain * (returns[j] * returns[j]) if fresh[j] else b[at + j]


@bare
def update_all(moments: Moments, returns: Floats, fresh: Bools) -> None:
    """Take bars one after the other. returns, fresh `(T, k)`."""
    for t in range(len(returns)):
        update(moments, returns[t], fresh[t])


@bare
def pair_place(i: int, j: int) -> int:
    """Return where the pair is in Moments."""
    return i * (i + 1) // 2 + j if i >= j else j * (j + 1) // 2 + i


@bare
def variance(moments: Moments, which: int, i: int) -> float:
    """Return the bias-corrected variance of a series over all its own bars, 0 before the first."""
    at = pair_place(i, i)
    n = moments.n[at]
    return float(moments.cov[which, at] / (1.0 - power(moments.lams[which], n))) if n > 0 else 0.0


@bare
def correlation(moments: Moments, which: int, i: int, j: int) -> float:
    """Return the correlation over the bars the two have in common; 0 where one of them did not move or there is no such bar."""
    at = pair_place(i, j)
    scale = moments.var_row[which, at] * moments.var_col[which, at]
    if scale <= 0.0:
        return 0.0
    return min(max(float(moments.cov[which, at] / math.sqrt(scale)), -1.0), 1.0)


@bare
def volatility_ratio(moments: Moments, which: int, i: int, j: int) -> float:
    """Return σ_i/σ_j over the bars the two have in common, 0 where j did not move in them."""
    at = pair_place(i, j)
    of_i, of_j = moments.var_row[which, at], moments.var_col[which, at]
    if i < j:
        of_i, of_j = of_j, of_i
    return math.sqrt(of_i / of_j) if of_j > 0.0 else 0.0


@bare
def covariance(moments: Moments, which: int, series: Ints, out: Floats) -> tuple[int, bool]:
    """Write the covariance matrix of some series, bias-corrected; return (bars of the pair with fewest, whether all pairs have the same bars).

    series `(q,)`, out `(q, q)`. With all bars in common it is the exponentially weighted covariance itself. A pair that misses bars its
    members have gets ρ·σ_i·σ_j, ρ over the common bars and each σ over all its own: variances of other bars than the covariance's would
    make a tight relation loose. Such a matrix need not be positive: see `condition_psd`.
    """
    lam = moments.lams[which]
    least, same = np.iinfo(np.int64).max, True
    seen, left = -1, 1.0
    for a in range(len(series)):
        out[a, a] = variance(moments, which, series[a])
        own_a = moments.n[pair_place(series[a], series[a])]
        least = min(least, own_a)
        for b in range(a):
            at = pair_place(series[a], series[b])
            n = moments.n[at]
            least = min(least, n)
            if n == own_a and n == moments.n[pair_place(series[b], series[b])]:
                if n != seen:
                    seen, left = n, power(lam, n)
                value = float(moments.cov[which, at] / (1.0 - left)) if n > 0 else 0.0
            else:
                same = False
                value = correlation(moments, which, series[a], series[b]) * math.sqrt(out[a, a] * out[b, b])
            out[a, b] = value
            out[b, a] = value
    return least, same


@bare
def is_psd(matrix: Floats, factor: Floats, tolerance: float) -> bool:
    """Return whether a covariance matrix `(q, q)` is positive semidefinite, in units of its own variances. factor `(q, q)` is overwritten.

    A pivot within the tolerance of 0 is a 0: a matrix from fewer bars than series is singular and all right.
    """
    q = len(matrix)
    for i in range(q):
        for j in range(i + 1):
            scale = math.sqrt(matrix[i, i] * matrix[j, j])
            s = matrix[i, j] / scale if scale > 0.0 else 0.0
            for t in range(j):
                s -= factor[i, t] * factor[j, t]
            if j == i:
                if s < -tolerance:
                    return False
                factor[i, i] = math.sqrt(s) if s > tolerance else 0.0
            elif factor[j, j] > 0.0:
                factor[i, j] = s / factor[j, j]
            else:
                if s * s > tolerance:  # both remainders would have to be at least |s| for this to be a covariance
                    return False
                factor[i, j] = 0.0
    return True


@bare
def condition_psd(matrix: Floats, factor: Floats) -> float:
    """Make a covariance matrix `(q, q)` positive semidefinite in place; return by how much its correlations were pulled toward 0.

    0 leaves it as it is; else the least of 2⁻¹⁰, 2⁻⁹, …, 1 that is enough. Variances are kept. factor `(q, q)`: room, overwritten.
    Raises ZeroDivisionError for a variance below 0.
    """
    pull = 0.0
    while not is_psd(matrix, factor, 1e-10):
        further = _FIRST_STEP if pull == 0.0 else min(2.0 * pull, 1.0)
        shrink = (1.0 - further) / (1.0 - pull)
        for i in range(len(matrix)):
            for j in range(len(matrix)):
                if i != j:
                    matrix[i, j] *= shrink
        pull = further
    return pull


# --- ratios -----------------------------------------------------------------------------------------------------------------------


class Room(NamedTuple):
    """Scratch of the ratio kernels for at most M instruments: nothing in it outlives a call. Matrices `(M + 1, M + 1)`, vectors `(M + 1,)`."""

    cov: Floats
    long_cov: Floats
    corr: Floats
    factor: Floats
    inverse: Floats
    xy: Floats
    sigma: Floats
    x: Floats
    kappa: Floats
    raw: Floats
    se: Floats
    long: Floats
    long_se: Floats
    strength: Floats
    order: Ints
    members: Ints


def new_room(instruments_most: int) -> Room:
    """Return scratch for sets of up to so many instruments."""
    m = instruments_most + 1
    cov, long_cov, corr, factor, inverse = np.zeros((5, m, m))
    xy, sigma, x, kappa, raw, se, long, long_se, strength = np.zeros((9, m))
    order, members = np.zeros((2, m), np.int64)
    return Room(cov, long_cov, corr, factor, inverse, xy, sigma, x, kappa, raw, se, long, long_se, strength, order, members)


@bare
def _invert(corr: Floats, q: int, factor: Floats, inverse: Floats) -> bool:
    """Invert a symmetric positive definite matrix (its q × q corner) by Cholesky; False, and nothing of use, if it is not one."""
    for i in range(q):
        for j in range(i + 1):
            s = corr[i, j]
            for t in range(j):
                s -= factor[i, t] * factor[j, t]
            if j < i:
                factor[i, j] = s / factor[j, j]
            elif s > 1e-15:
                factor[i, i] = math.sqrt(s)
            else:
                return False
    for c in range(q):  # the inverse of the factor, in the lower half
        for i in range(c, q):
            s = 1.0 if i == c else 0.0
            for t in range(c, i):
                s -= factor[i, t] * inverse[t, c]
            inverse[i, c] = s / factor[i, i]
    for i in range(q):  # its transpose times itself; row i needs rows i.. only
        for j in range(i + 1):
            s = 0.0
            for t in range(i, q):
                s += inverse[t, i] * inverse[t, j]
            inverse[i, j] = s
        for j in range(i):
            inverse[j, i] = inverse[i, j]
    return True


@bare
def _standardise(s_xx: Floats, s_xy: Floats, s_yy: float, q: int, room: Room) -> bool:
    """Put correlations and standard deviations into the room; False if a variance is not above zero."""
    if not s_yy > 0.0:
        return False
    room.sigma[q] = math.sqrt(s_yy)
    for i in range(q):
        if not s_xx[i, i] > 0.0:
            return False
        room.sigma[i] = math.sqrt(s_xx[i, i])
    for i in range(q):
        room.corr[i, i] = 1.0
        room.xy[i] = s_xy[i] / (room.sigma[i] * room.sigma[q])
        for j in range(i):
            room.corr[i, j] = s_xx[i, j] / (room.sigma[i] * room.sigma[j])
            room.corr[j, i] = room.corr[i, j]
    return True


@bare
def ols(s_xx: Floats, s_xy: Floats, s_yy: float, n: float, b: Floats, se: Floats, room: Room) -> tuple[float, float]:
    """Regress an exposure on m instruments: b = S_xx⁻¹S_xy, se² the diagonal of s²·S_xx⁻¹/(n − m), s² = S_yy − 2bᵀS_xy + bᵀS_xx·b.

    s_xx `(m, m)`, s_xy `(m,)`, n effective bars; b, se `(m,)` are written, se NaN unless n > m. Returns (R², condition of the correlations in
    the 1-norm). Singular or without variance: b and se NaN, R² 0, condition infinite. Units do not matter: returns × c give b / c.
    """
    q = len(b)
    good = _standardise(s_xx, s_xy, s_yy, q, room) and _invert(room.corr, q, room.factor, room.inverse)
    if not good:
        b[:] = np.nan
        se[:] = np.nan
        return 0.0, np.inf
    r2, norm, norm_inverse = 0.0, 0.0, 0.0
    for i in range(q):
        s, width, width_inverse = 0.0, 0.0, 0.0
        for j in range(q):
            s += room.inverse[i, j] * room.xy[j]
            width += abs(room.corr[i, j])
            width_inverse += abs(room.inverse[i, j])
        r2 += s * room.xy[i]
        norm = max(norm, width)
        norm_inverse = max(norm_inverse, width_inverse)
        b[i] = s * room.sigma[q] / room.sigma[i]
    r2 = min(max(r2, 0.0), 1.0)
    for i in range(q):
        if n > q:
            se[i] = room.sigma[q] / room.sigma[i] * math.sqrt((1.0 - r2) * room.inverse[i, i] / (n - q))
        else:
            se[i] = np.nan
    return r2, norm * norm_inverse


@bare
def kappas(se: Floats, tau: Floats, kappa: Floats) -> None:
    """Write κ_j = se_j²/τ_j², the weight of the prior; 0 where the data leave no doubt (se 0)."""
    for j in range(len(se)):
        if se[j] <= 0.0:
            kappa[j] = 0.0
        elif tau[j] * tau[j] * _KAPPA_MOST <= se[j] * se[j]:
            kappa[j] = _KAPPA_MOST
        else:
            kappa[j] = (se[j] / tau[j]) ** 2


@bare
def shrink(
    s_xx: Floats, s_xy: Floats, s_yy: float, kappa: Floats, b0: Floats, n: float, r2: float, b: Floats, se: Floats, room: Room
) -> bool:
    """Write b = (S_xx + K·D)⁻¹(S_xy + K·D·b0), D = diag(S_xx), K = diag(κ), and its standard errors; False (and NaN) if that cannot be.

    For one instrument it is the posterior mean (b/se² + b0/τ²)/(1/se² + 1/τ²), its error se/√(1 + κ). In general the errors are the diagonal of
    s²·(S_xx + K·D)⁻¹/(n − m), with s² = S_yy·(1 − r2) of the regression that was shrunk.
    """
    q = len(b)
    good = _standardise(s_xx, s_xy, s_yy, q, room)
    if good:
        for i in range(q):
            # rows and columns over √(1 + κ): a diagonal of ones, whatever κ
            room.x[i] = math.sqrt(1.0 + kappa[i])
            room.xy[i] = (room.xy[i] + kappa[i] * b0[i] * room.sigma[i] / room.sigma[q]) / room.x[i]
        for i in range(q):
            for j in range(q):
                if i != j:
                    room.corr[i, j] /= room.x[i] * room.x[j]
        good = _invert(room.corr, q, room.factor, room.inverse)
    if not good:
        b[:] = np.nan
        se[:] = np.nan
        return False
    for i in range(q):
        s = 0.0
        for j in range(q):
            s += room.inverse[i, j] * room.xy[j]
        unit = room.sigma[q] / (room.sigma[i] * room.x[i])
        b[i] = s * unit
        se[i] = unit * math.sqrt(max(1.0 - r2, 0.0) * room.inverse[i, i] / (n - q)) if n > q else np.nan
    return True


class Ratios(NamedTuple):
    """The ratios of one exposure to m candidates, as written by `estimate`. All `(m,)`, in the order of the candidates.

    raw, se: regression on the set, NaN for those not in it. prior, tau: what they were drawn to, and how loosely. b, b_se: the shrunk ratio and
    its error; 0 and NaN where the candidate is not eligible, the prior where it only warms up and has one. rho: correlation with the exposure
    over the long memory. reason: see `REASONS`. figures `(5,)`: effective bars and R² of the memory in use, R² of the long one, condition, and
    by how much contradicting correlations were pulled toward 0.
    """

    raw: Floats
    se: Floats
    prior: Floats
    tau: Floats
    b: Floats
    b_se: Floats
    rho: Floats
    reason: Ints
    figures: Floats


N_EFF, R2, R2_LONG, CONDITION, PULL = range(5)
"""The figures of Ratios."""


def new_ratios(instruments: int) -> Ratios:
    """Return room for the ratios of one exposure."""
    raw, se, prior, tau, b, b_se, rho = np.full((7, instruments), np.nan)
    return Ratios(raw, se, prior, tau, b, b_se, rho, np.full(instruments, WARMUP), np.zeros(5))


@bare
def _judge(moments: Moments, y: int, x: int, rules: Rules, out: Ratios, j: int) -> int:
    """Return what speaks against one candidate alone."""
    at = pair_place(y, x)
    which = rules.memory
    out.rho[j] = correlation(moments, rules.long, y, x)
    if n_eff(moments.lams[which], moments.n[at]) < rules.n_ready:
        return WARMUP
    own = min(variance(moments, which, y), variance(moments, which, x))
    common = min(moments.var_row[which, at], moments.var_col[which, at])
    if own <= rules.variance_least or common <= rules.variance_least:
        return ZERO_VARIANCE
    return ELIGIBLE if abs(out.rho[j]) >= rules.rho_least else WEAK_RELATION


@bare
def _rank(xs: Ints, out: Ratios, room: Room) -> int:
    """Put the candidates that are eligible alone into room.members, closest relation first, then by number of the series; return how many."""
    count = 0
    for j in range(len(xs)):
        if out.reason[j] != ELIGIBLE:
            continue
        strength = np.rint(abs(out.rho[j]) * 1e6)  # rounded, so that rounding errors do not make twins take turns
        at = count
        while at > 0 and (room.strength[at - 1] < strength or (room.strength[at - 1] == strength and xs[room.members[at - 1]] > xs[j])):
            room.strength[at] = room.strength[at - 1]
            room.members[at] = room.members[at - 1]
            at -= 1
        room.strength[at] = strength
        room.members[at] = j
        count += 1
    return count


@bare
def _admit(moments: Moments, xs: Ints, q: int, candidate: int, rules: Rules, room: Room) -> int:
    """Return whether a candidate can join the q members of room.order: ready with each of them, and no combination of them.

    Extends the Cholesky factor of the members' correlations, which holds q rows.
    """
    lam = moments.lams[rules.memory]
    pivot = 1.0
    for a in range(q):
        other = xs[room.order[a]]
        if n_eff(lam, moments.n[pair_place(xs[candidate], other)]) < rules.n_ready:
            return WARMUP
        s = correlation(moments, rules.memory, xs[candidate], other)
        for t in range(a):
            s -= room.factor[q, t] * room.factor[a, t]
        room.factor[q, a] = s / room.factor[a, a]
        pivot -= room.factor[q, a] ** 2
    if pivot * rules.condition_most < 1.0:
        return WEAK_RELATION
    room.factor[q, q] = math.sqrt(pivot)
    return ELIGIBLE


@bare
def _regress(
    moments: Moments, which: int, y: int, xs: Ints, cov: Floats, b: Floats, se: Floats, room: Room
) -> tuple[float, float, float, float]:
    """Regress y on the first q of room.order, b and se `(q,)`; return (effective bars, R², condition, pull). cov `(q + 1, q + 1)` is left, y last.

    Where pairs have bars of their own, each instrument's volatility is y's own by the ratio over the bars the two have in common: then
    the ratio to a single instrument is the regression over common bars.
    """
    q = len(b)
    for a in range(q):
        room.members[a] = xs[room.order[a]]
    room.members[q] = y
    least, same = covariance(moments, which, room.members[: q + 1], cov)
    pull = 0.0
    if not same:
        for a in range(q):
            change = math.sqrt(cov[q, q] / cov[a, a]) * volatility_ratio(moments, which, room.members[a], y)
            for c in range(q + 1):
                cov[a, c] *= change
                cov[c, a] *= change
        pull = condition_psd(cov, room.factor[: q + 1, : q + 1])
    n = n_eff(moments.lams[which], least)
    r2, condition = ols(cov[:q, :q], cov[q, :q], cov[q, q], n, b, se, room)
    return n, r2, condition, pull


@bare
def _choose(moments: Moments, y: int, xs: Ints, rules: Rules, out: Ratios, room: Room) -> int:
    """Put the hedge set into room.order and its regression into room and figures; return its size. Every candidate gets its reason."""
    for j in range(len(xs)):
        out.reason[j] = _judge(moments, y, xs[j], rules, out, j)
    count = _rank(xs, out, room)
    q = 0
    for a in range(count):
        j = room.members[a]
        out.reason[j] = _admit(moments, xs, q, j, rules, room)
        if out.reason[j] == ELIGIBLE:
            room.order[q] = j
            q += 1
    while q > 0:
        n, r2, condition, pull = _regress(moments, rules.memory, y, xs, room.cov[: q + 1, : q + 1], room.raw[:q], room.se[:q], room)
        if condition <= rules.condition_most and n > q:
            out.figures[N_EFF] = n
            out.figures[R2] = r2
            out.figures[CONDITION] = condition
            out.figures[PULL] = pull
            break
        q -= 1  # the one that relates least goes
        out.reason[room.order[q]] = WEAK_RELATION if n > q + 1 else WARMUP
    return q


@bare
def _given(b0: Floats, tau: Floats, j: int) -> bool:
    return not (math.isnan(b0[j]) or math.isnan(tau[j]))


@bare
def _warm_up(b0: Floats, tau: Floats, tighten: Floats, out: Ratios) -> None:
    """Nothing is eligible: candidates that only warm up have their given priors, which share one hedge among them."""
    sharing = 0
    for j in range(len(b0)):
        sharing += 1 if out.reason[j] == WARMUP and _given(b0, tau, j) else 0
    for j in range(len(b0)):
        if out.reason[j] == WARMUP and _given(b0, tau, j):
            out.prior[j] = b0[j] / sharing
            out.tau[j] = tau[j] * tighten[j]
            out.b[j] = out.prior[j]
            out.b_se[j] = out.tau[j]


@bare
def estimate(moments: Moments, y: int, xs: Ints, b0: Floats, tau: Floats, tighten: Floats, rules: Rules, out: Ratios, room: Room) -> int:
    """Estimate the ratios of exposure y to the candidates xs `(m,)` (numbers of series) jointly; return how many are eligible.

    b0, tau `(m,)`: a given prior of the instrument as the only hedge, and its width; the eligible ones that have one share it. NaN takes
    the regression over the long memory and its standard error, widened to τ² = (b − b0)² − se² where that is more: data that contradict the
    past by more than both errors say that the ratio has changed. tighten `(m,)`: factor on τ, 0.5 in a correlation breakdown, else 1.
    room: for at least m.
    Candidates are judged alone (`warmup`, `zero_variance`, `weak_relation`), then join the set closest relation first; one that the
    set already explains is `weak_relation`, as are all when the set explains too little of the exposure.
    """
    out.figures[:] = 0.0
    q = _choose(moments, y, xs, rules, out, room)
    for j in range(len(xs)):
        out.raw[j] = np.nan
        out.se[j] = np.nan
        out.prior[j] = np.nan
        out.tau[j] = np.nan
        out.b[j] = 0.0
        out.b_se[j] = np.nan
    if q == 0:
        _warm_up(b0, tau, tighten, out)
        return 0
    sharing = 0
    for a in range(q):
        j = room.order[a]
        out.raw[j] = room.raw[a]
        out.se[j] = room.se[a]
        sharing += 1 if _given(b0, tau, j) else 0
    _, r2_long, _, _ = _regress(moments, rules.long, y, xs, room.long_cov[: q + 1, : q + 1], room.long[:q], room.long_se[:q], room)
    out.figures[R2_LONG] = r2_long
    if r2_long < rules.r2_least or math.isnan(room.long[0]):
        for a in range(q):
            out.reason[room.order[a]] = WEAK_RELATION
        return 0
    for a in range(q):
        j = room.order[a]
        if _given(b0, tau, j):
            room.long[a] = b0[j] / sharing
            room.long_se[a] = tau[j]
        else:
            wide = rules.widen * ((room.raw[a] - room.long[a]) ** 2 - room.se[a] ** 2)
            room.long_se[a] = math.sqrt(max(room.long_se[a] ** 2, wide))
        room.long_se[a] *= tighten[j]
        out.prior[j] = room.long[a]
        out.tau[j] = room.long_se[a]
    kappas(room.se[:q], room.long_se[:q], room.kappa[:q])
    cov, n, r2 = room.cov[: q + 1, : q + 1], out.figures[N_EFF], out.figures[R2]
    shrink(cov[:q, :q], cov[q, :q], cov[q, q], room.kappa[:q], room.long[:q], n, r2, room.raw[:q], room.se[:q], room)
    for a in range(q):
        out.b[room.order[a]] = room.raw[a]
        out.b_se[room.order[a]] = room.se[a]
    return q


@bare
def move(used: float, b: float, se: float, buffer: float, step_most: float) -> float:
    """Return the ratio in use after a bar: b once abs(b − used) > buffer·se, but at most step_most away; used as it is otherwise.

    used NaN: there was none, b is taken. se NaN (no estimate): as 0. b NaN: used stays.
    """
    if math.isnan(used):
        return b
    gap = b - used
    width = 0.0 if math.isnan(se) else buffer * se
    if math.isnan(gap) or abs(gap) <= width:
        return used
    return used + min(max(gap, -step_most), step_most)


@bare
def move_all(used: Floats, ratios: Ratios, patience: Floats, rules: Rules) -> None:
    """Move the ratios in use `(m,)` of an exposure in place. patience `(m,)`: factor on the buffer, 2 in a correlation breakdown, else 1.

    A candidate that warms up has its prior in use; while there is nothing to use, NaN stays NaN.
    """
    for j in range(len(used)):
        if not (math.isnan(used[j]) and ratios.reason[j] == WARMUP and math.isnan(ratios.prior[j])):
            used[j] = move(used[j], ratios.b[j], ratios.b_se[j], patience[j] * rules.buffer, rules.step_most)


# --- books ------------------------------------------------------------------------------------------------------------------------


@bare
def residual_covariance(s_yy: Floats, s_xy: Floats, s_xx: Floats, ratios: Floats, out: Floats) -> None:
    """Write Ω = S_yy − BᵀS_xy − S_yxB + BᵀS_xxB `(n, n)`: the risk of n exposures that their hedges cannot take away.

    s_yy `(n, n)`, s_xy `(m, n)`, s_xx `(m, m)`, ratios B `(m, n)`. Semidefinite for every B if the covariance of all n + m series is.
    """
    m, n = s_xy.shape
    for i in range(n):
        for k in range(i + 1):
            s = s_yy[i, k]
            for a in range(m):
                inner = -s_xy[a, k]
                for b in range(m):
                    inner += s_xx[a, b] * ratios[b, k]
                s += ratios[a, i] * inner - ratios[a, k] * s_xy[a, i]
            out[i, k] = s
            out[k, i] = s


@bare
def needed(ratios: Floats, e: Floats, out: Floats) -> None:
    """Write B·e `(m,)`: exposures `(n,)` in units of the hedge instruments; the hedge needed is its negative."""
    m, n = ratios.shape
    for a in range(m):
        s = 0.0
        for i in range(n):
            s += ratios[a, i] * e[i]
        out[a] = s


@bare
def quadratic(matrix: Floats, x: Floats) -> float:
    """Return xᵀ·matrix·x."""
    total = 0.0
    for i in range(len(x)):
        s = 0.0
        for j in range(len(x)):
            s += matrix[i, j] * x[j]
        total += x[i] * s
    return total


@bare
def book_variance(s_xx: Floats, omega: Floats, be: Floats, e: Floats, p: Floats) -> float:
    """Return Var(e, p) = (p + Be)ᵀS_xx(p + Be) + eᵀΩe. p, be `(m,)`; e `(n,)`. Equal to the plain variance when B is the regression's."""
    total = quadratic(omega, e)
    for i in range(len(p)):
        s = 0.0
        for j in range(len(p)):
            s += s_xx[i, j] * (p[j] + be[j])
        total += (p[i] + be[i]) * s
    return total


@bare
def coverage(s_xx: Floats, be: Floats, p: Floats, dust: float) -> float:
    """Return 1 − ‖p + Be‖/‖Be‖, ‖x‖ = √(xᵀS_xx·x): 1 is all, below 0 the hedge adds risk. dust: σ at or under which there is nothing.

    Without exposure it is 1 when there is no hedge either, and NaN, `overhedged`, when there is one.
    """
    whole = math.sqrt(max(quadratic(s_xx, be), 0.0))
    if whole <= dust:
        return 1.0 if math.sqrt(max(quadratic(s_xx, p), 0.0)) <= dust else np.nan
    total = 0.0
    for i in range(len(p)):
        s = 0.0
        for j in range(len(p)):
            s += s_xx[i, j] * (p[j] + be[j])
        total += (p[i] + be[i]) * s
    return 1.0 - math.sqrt(max(total, 0.0)) / whole


@bare
def bound(s_xx: Floats, omega: Floats, be: Floats, e: Floats) -> float:
    """Return R² = ‖Be‖²/(‖Be‖² + eᵀΩe), the effectiveness full coverage would have; NaN for a book without risk."""
    hedgeable = quadratic(s_xx, be)
    whole = hedgeable + quadratic(omega, e)
    return hedgeable / whole if whole > 0.0 else np.nan


@bare
def effectiveness(s_xx: Floats, omega: Floats, be: Floats, e: Floats, p: Floats) -> float:
    """Return 1 − Var(e, p)/Var(e, 0) = R²·(1 − (1 − C)²); NaN for a book without risk."""
    whole = quadratic(s_xx, be) + quadratic(omega, e)
    return 1.0 - book_variance(s_xx, omega, be, e, p) / whole if whole > 0.0 else np.nan


@bare
def expected_effectiveness(s_xx: Floats, s_xy: Floats, s_yy: float, b: Floats) -> float:
    """Return 1 − Var(y − bᵀx)/Var(y) of one exposure hedged with ratios b `(m,)`, whatever b is; NaN without variance."""
    if not s_yy > 0.0:
        return np.nan
    cross = 0.0
    for j in range(len(b)):
        cross += b[j] * s_xy[j]
    return (2.0 * cross - quadratic(s_xx, b)) / s_yy


# --- correlation breakdown --------------------------------------------------------------------------------------------------------


class Watch(NamedTuple):
    """What is remembered of watched pairs (exposure, instrument), one row a pair, to see a relation break.

    active `(q, 2)` bool: broken, by cause (`CORRELATION`, `EFFECTIVENESS`). run, calm `(q, 2)` int64: bars in a row over the level, and under
    the level that clears. unhedged, hedged, expected `(q, W)`: the last W bars' returns without and with the hedge, and the effectiveness
    expected of it. seen `(q,)` int64: bars put in.
    """

    active: Bools
    run: Ints
    calm: Ints
    unhedged: Floats
    hedged: Floats
    expected: Floats
    seen: Ints


def new_watch(pairs: int, window: int = WINDOW) -> Watch:
    """Return the state of pairs not watched yet."""
    run, calm = np.zeros((2, pairs, 2), np.int64)
    unhedged, hedged, expected = np.zeros((3, pairs, window))
    return Watch(np.zeros((pairs, 2), np.bool_), run, calm, unhedged, hedged, expected, np.zeros(pairs, np.int64))


@bare
def _step(watch: Watch, row: int, cause: int, over: bool, under: bool, bars_on: int, bars_off: int) -> int:
    """Count a bar; return 1 when the breakdown begins, −1 when it ends, else 0."""
    watch.run[row, cause] = watch.run[row, cause] + 1 if over else 0
    watch.calm[row, cause] = watch.calm[row, cause] + 1 if under else 0
    if not watch.active[row, cause] and watch.run[row, cause] >= bars_on:
        watch.active[row, cause] = True
        watch.calm[row, cause] = 0
        return 1
    if watch.active[row, cause] and watch.calm[row, cause] >= bars_off:
        watch.active[row, cause] = False
        watch.run[row, cause] = 0
        return -1
    return 0


@bare
def watch_correlation(watch: Watch, row: int, rho_fast: float, rho_slow: float, n_fast: float, n_slow: float, rules: Rules) -> int:
    """Take the two correlations of a bar that counted for the pair; return 1 when a breakdown begins, −1 when it ends, else 0.

    n_fast, n_slow: their effective bars; below n_ready nothing is judged. Over the level is a difference beyond gap_on that is also beyond
    z_on standard errors 1/√(n_fast − 3) in Fisher's z; under it, one below gap_off.
    """
    if n_fast < rules.n_ready or n_slow < rules.n_ready or n_fast <= 3.0:
        return 0
    gap = abs(rho_fast - rho_slow)
    z = abs(fisher_z(rho_fast) - fisher_z(rho_slow)) * math.sqrt(n_fast - 3.0)
    return _step(watch, row, CORRELATION, gap > rules.gap_on and z > rules.z_on, gap < rules.gap_off, rules.bars_on, rules.bars_off)


@bare
def watch_correlations(
    watch: Watch, moments: Moments, fast: int, slow: int, ys: Ints, xs: Ints, fresh: Bools, rules: Rules, events: Ints
) -> None:
    """Take the bar just put into the moments for every watched pair. ys, xs, events `(q,)`: series of the pairs, and what `watch_correlation` says."""
    for row in range(len(ys)):
        events[row] = 0
        if fresh[ys[row]] and fresh[xs[row]]:
            n = moments.n[pair_place(ys[row], xs[row])]
            rho_fast, rho_slow = correlation(moments, fast, ys[row], xs[row]), correlation(moments, slow, ys[row], xs[row])
            n_fast, n_slow = n_eff(moments.lams[fast], n), n_eff(moments.lams[slow], n)
            events[row] = watch_correlation(watch, row, rho_fast, rho_slow, n_fast, n_slow, rules)


@bare
def realised_over_expected(watch: Watch, row: int) -> float:
    """Return realised over expected effectiveness of the window: (1 − Σhedged²/Σunhedged²) / mean of the expected; NaN before it is full."""
    window = watch.unhedged.shape[1]
    if watch.seen[row] < window:
        return np.nan
    without, left, mean = 0.0, 0.0, 0.0
    for i in range(window):  # summed anew every time: nothing drifts, and the order of the sum is that of the ring
        without += watch.unhedged[row, i] ** 2
        left += watch.hedged[row, i] ** 2
        mean += watch.expected[row, i]
    if without <= 0.0 or mean <= 0.0:
        return np.nan
    return float((1.0 - left / without) / (mean / window))


@bare
def watch_effectiveness(watch: Watch, row: int, unhedged: float, hedged: float, expected: float, rules: Rules) -> int:
    """Take a bar's returns of an exposure alone and with its hedge at the ratio used in that bar; return 1, −1 or 0 as above.

    expected: effectiveness as it was expected before the bar; a bar with NaN is not taken.
    """
    if math.isnan(expected):
        return 0
    at = watch.seen[row] % watch.unhedged.shape[1]
    watch.unhedged[row, at] = unhedged
    watch.hedged[row, at] = hedged
    watch.expected[row, at] = expected
    watch.seen[row] += 1
    share = realised_over_expected(watch, row)
    if math.isnan(share):
        return 0
    over = share < rules.effectiveness_least
    return _step(watch, row, EFFECTIVENESS, over, not over, 1, rules.bars_off)


@bare
def caution(watch: Watch, row: int) -> tuple[float, float]:
    """Return (factor on the buffer, factor on τ): (1, 1), or (2, 0.5) while the pair's relation is broken."""
    if watch.active[row, CORRELATION] or watch.active[row, EFFECTIVENESS]:
        return 2.0, 0.5
    return 1.0, 1.0
