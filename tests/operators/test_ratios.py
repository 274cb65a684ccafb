"""Hedge ratios: golden vectors, exact identities, and every fast kernel against a slow loop over pairs that shares no code with it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numba import typeof
from numba.core.runtime import _nrt_python as nrt
from numpy.typing import NDArray

from operators import ratios as rt
from schemas.jit import njit
from schemas.parts import Kernel

Floats = NDArray[np.float64]
GOLDEN: dict[str, Any] = json.loads((Path(__file__).resolve().parents[1] / "golden" / "hedge_ratios.json").read_text())
S = 1_000_000_000
SEEDS = st.integers(0, 2**32 - 1)
ANY = rt.Rules(r2_least=0.0, rho_least=0.0, n_ready=0.0, widen=0.0)


def printed(value: float, text: str) -> bool:
    """Return whether a value rounds to a printed figure, in all its digits."""
    figure = Decimal(text)
    return Decimal(value).quantize(Decimal((0, (1,), figure.as_tuple().exponent))) == figure  # type: ignore[arg-type]


def factor_returns(rng: np.random.Generator, bars: int, k: int, noise: float = 0.5) -> Floats:
    """Return related returns `(bars, k)`: two common factors and noise, volatilities a hundredfold apart."""
    loadings = rng.normal(size=(2, k))
    return (rng.normal(size=(bars, 2)) @ loadings + noise * rng.normal(size=(bars, k))) * 10.0 ** rng.uniform(-4, -2, k)


def moments_of(returns: Floats, fresh: NDArray[np.bool_] | None = None, lams: tuple[float, ...] = rt.LAMBDAS) -> rt.Moments:
    moments = rt.new_moments(returns.shape[1], lams)
    rt.update_all(moments, returns, np.ones(returns.shape, np.bool_) if fresh is None else fresh)
    return moments


def same_bits(a: Iterable[NDArray[Any]], b: Iterable[NDArray[Any]]) -> bool:
    return all(x.tobytes() == y.tobytes() for x, y in zip(a, b, strict=True))


# --- numbers ----------------------------------------------------------------------------------------------------------------------


@given(st.floats(1e-12, 1e12), st.one_of(st.floats(1e-12, 1e12), st.floats(0.999, 1.001).map(lambda x: -x)))
def test_log_ratio_is_the_logarithm(a: float, b: float) -> None:
    b = -b * a if b < 0 else b
    exact = (Decimal(b) / Decimal(a)).ln()
    assert rt.log_ratio(a, b) == pytest.approx(float(exact), rel=1e-15, abs=2e-16)


def test_log_ratio_of_extremes() -> None:
    assert rt.log_ratio(3.0, 3.0) == 0.0
    assert rt.log_ratio(1e-300, 1e300) == pytest.approx(600 * math.log(10), rel=1e-14)
    assert rt.log_ratio(2.0, 2.5) == -rt.log_ratio(2.5, 2.0)


@pytest.mark.parametrize("lam", [0.5, *rt.LAMBDAS])
@pytest.mark.parametrize("n", [1, 2, 5, 33, 100, 2000])
def test_n_eff_is_the_square_of_the_sum_of_weights_over_the_sum_of_squares(lam: float, n: int) -> None:
    w = lam ** np.arange(n)
    assert rt.n_eff(lam, n) == pytest.approx(w.sum() ** 2 / (w**2).sum(), rel=1e-11)
    assert rt.power(lam, n) == pytest.approx(lam**n, rel=1e-12)


def test_n_eff_of_the_default_memory() -> None:
    assert rt.n_eff(0.97, 0) == 0.0
    assert rt.n_eff(0.97, 32) < 30.0 <= rt.n_eff(0.97, 33)
    assert rt.n_eff(0.97, 2**62) == pytest.approx(1.97 / 0.03)
    assert 0.97**22 > 0.5 > 0.97**23


@given(st.floats(-1.0, 1.0))
def test_fisher_z_is_the_inverse_hyperbolic_tangent(rho: float) -> None:
    assert rt.fisher_z(rho) == pytest.approx(math.atanh(min(max(rho, -1 + 1e-12), 1 - 1e-12)), rel=1e-9, abs=1e-15)


# --- bars -------------------------------------------------------------------------------------------------------------------------


def slow_bars(quotes: list[tuple[int, int, float]], k: int, bar_ns: int, fresh_ns: int) -> tuple[Floats, NDArray[np.bool_]]:
    """Return returns and fresh, looking every bar end up in the whole list of quotes."""
    first = (quotes[0][0] // bar_ns + 1) * bar_ns
    ends = range(first - bar_ns, (quotes[-1][0] // bar_ns + 1) * bar_ns + 1, bar_ns)

    def mid_at(end: int, s: int) -> float | None:
        before = [(t, n, mid) for n, (t, series, mid) in enumerate(quotes) if series == s and t < end and mid > 0 and math.isfinite(mid)]
        if not before or max(before)[0] < end - fresh_ns:
            return None
        return max(before)[2]

    mids = [[mid_at(end, s) for s in range(k)] for end in ends]
    returns, fresh = np.zeros((len(mids) - 1, k)), np.zeros((len(mids) - 1, k), np.bool_)
    for t in range(1, len(mids)):
        for s in range(k):
            a, b = mids[t - 1][s], mids[t][s]
            if a is not None and b is not None:
                fresh[t - 1, s] = True
                returns[t - 1, s] = math.log(b / a)
    return returns, fresh


quote_lists = st.lists(
    st.tuples(st.integers(0, 60), st.integers(0, 2), st.sampled_from([1.0, 1.01, 2.0, 0.5, 0.0, -1.0, math.nan, math.inf])),
    min_size=1,
    max_size=60,
)


@given(quote_lists, st.integers(1, 12), st.integers(1, 20))
def test_bars_are_those_of_a_look_up_in_all_quotes(quotes: list[tuple[int, int, float]], bar_ns: int, fresh_ns: int) -> None:
    quotes.sort(key=lambda quote: quote[0])
    columns = [np.array(column) for column in zip(*quotes, strict=True)]
    returns, fresh, first = rt.bar_returns(columns[0], columns[1], columns[2].astype(float), 3, bar_ns, fresh_ns)
    expected, known = slow_bars(quotes, 3, bar_ns, fresh_ns)
    assert first == (quotes[0][0] // bar_ns + 1) * bar_ns
    assert fresh.tolist() == known.tolist()
    assert returns == pytest.approx(expected, rel=1e-14, abs=1e-15)


def quotes_of(*rows: tuple[float, int, float]) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
    return np.array([int(t * S) for t, _, _ in rows]), np.array([s for _, s, _ in rows]), np.array([mid for _, _, mid in rows])


def test_bars_quote_at_the_end_belongs_to_the_next_bar() -> None:
    returns, fresh, _ = rt.bar_returns(*quotes_of((1, 0, 100.0), (6, 0, 101.0), (10, 0, 150.0)), 1, 5 * S)
    assert fresh.tolist() == [[False], [True], [True]]
    assert returns[1, 0] == pytest.approx(math.log(1.01))


def test_bars_return_never_spans_a_gap() -> None:
    returns, fresh, _ = rt.bar_returns(*quotes_of((1, 0, 100.0), (6, 0, 101.0), (16, 0, 200.0), (21, 0, 202.0)), 1, 5 * S)
    assert fresh[:, 0].tolist() == [False, True, False, False, True]
    assert returns[4, 0] == pytest.approx(math.log(1.01))
    assert returns[2:4].tolist() == [[0.0], [0.0]]


def test_bars_by_chunks_are_those_of_the_whole() -> None:
    rng = np.random.default_rng(3)
    n = 5_000
    ts, series = np.sort(rng.integers(0, 600 * S, n)), rng.integers(-1, 5, n)
    mid = np.exp(rng.normal(size=n) * 0.01)
    returns, fresh, first = rt.bar_returns(ts, series, mid, 4, 5 * S, 3 * S)
    bars = rt.new_bars(4, first)
    got, known = np.zeros((len(returns), 4)), np.zeros((len(returns), 4), np.bool_)
    t = 0
    for a in range(0, n, 37):
        part = slice(a, a + 37)
        at = 0
        while (at := rt.take_quotes(bars, ts[part], series[part], mid[part], at)) < len(ts[part]):
            rt.close_bar(bars, 5 * S, 3 * S, got[t], known[t])
            t += 1
    assert rt.close_bar(bars, 5 * S, 3 * S, got[t], known[t]) == known[t].sum()
    assert t + 1 == len(returns)
    assert same_bits((got, known), (returns, fresh))


def test_bars_late_quote_of_a_series_changes_nothing() -> None:
    bars = rt.new_bars(1, 5 * S)
    one = np.zeros(1, np.int64)
    rt.take_quotes(bars, np.array([4 * S]), one, np.array([100.0]), 0)
    rt.take_quotes(bars, np.array([3 * S]), one, np.array([90.0]), 0)
    assert bars.mid[0] == 100.0
    rt.take_quotes(bars, np.array([4 * S]), one, np.array([math.nan]), 0)
    assert (bars.mid[0], bars.refused[0]) == (100.0, 1)


def test_bars_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="n_series"):
        rt.new_bars(0, S)
    with pytest.raises(ValueError, match="time order"):
        rt.bar_returns(*quotes_of((2, 0, 1.0), (1, 0, 1.0)), 1, S)
    with pytest.raises(ValueError, match="above zero"):
        rt.bar_returns(*quotes_of((2, 0, 1.0)), 1, 0)
    none = np.zeros(0, np.int64)
    assert rt.bar_returns(none, none, np.zeros(0), 2)[0].shape == (0, 2)


# --- covariance -------------------------------------------------------------------------------------------------------------------


def slow_pair(returns: Floats, fresh: NDArray[np.bool_], lam: float, i: int, j: int) -> tuple[float, float, float, int]:
    """Return (Σw·r_i·r_j, Σw·r_i², Σw·r_j²)/Σw over the bars both have, and how many: the weights written out."""
    common = np.flatnonzero(fresh[:, i] & fresh[:, j])
    w = lam ** np.arange(len(common) - 1, -1, -1.0)
    a, b = returns[common, i], returns[common, j]
    total = w.sum() if len(common) else 1.0
    return float((w * a * b).sum() / total), float((w * a * a).sum() / total), float((w * b * b).sum() / total), len(common)


def slow_covariance(returns: Floats, fresh: NDArray[np.bool_], lam: float, series: Iterable[int]) -> Floats:
    series = list(series)
    own = {i: slow_pair(returns, fresh, lam, i, i) for i in series}
    out = np.zeros((len(series), len(series)))
    for a, i in enumerate(series):
        for b, j in enumerate(series):
            c, vi, vj, n = slow_pair(returns, fresh, lam, i, j)
            if n == own[i][3] == own[j][3]:
                out[a, b] = c
            elif vi > 0 and vj > 0:
                out[a, b] = c / math.sqrt(vi * vj) * math.sqrt(own[i][0] * own[j][0])
    return out


@pytest.mark.parametrize("missing", [0.0, 0.1, 0.6])
@pytest.mark.parametrize("bars", [1, 7, 150])
def test_ewma_is_that_of_a_loop_over_pairs(bars: int, missing: float) -> None:
    rng = np.random.default_rng(bars)
    k = 9
    returns, fresh = factor_returns(rng, bars, k), rng.random((bars, k)) >= missing
    moments = moments_of(returns, fresh)
    for which, lam in enumerate(rt.LAMBDAS):
        for i in range(k):
            assert rt.variance(moments, which, i) == pytest.approx(slow_pair(returns, fresh, lam, i, i)[0], rel=1e-10)
            for j in range(k):
                c, vi, vj, n = slow_pair(returns, fresh, lam, i, j)
                rho = c / math.sqrt(vi * vj) if vi * vj > 0 else 0.0
                assert moments.n[rt.pair_place(i, j)] == n
                assert rt.correlation(moments, which, i, j) == pytest.approx(rho, abs=1e-10)
                assert abs(rt.correlation(moments, which, i, j)) <= 1.0
        out = np.zeros((k, k))
        least, same = rt.covariance(moments, which, np.arange(k), out)
        assert out == pytest.approx(slow_covariance(returns, fresh, lam, range(k)), rel=1e-9, abs=1e-22)
        counts = (fresh.T.astype(int) @ fresh.astype(int)).ravel()
        assert least == counts.min()
        assert same == (counts.min() == counts.max())


@given(SEEDS, st.integers(1, 8), st.integers(0, 40), st.floats(0, 1))
def test_ewma_by_batch_is_by_bar_bit_by_bit(seed: int, k: int, bars: int, missing: float) -> None:
    rng = np.random.default_rng(seed)
    returns, fresh = rng.normal(size=(bars, k)), rng.random((bars, k)) >= missing
    one = rt.new_moments(k)
    for t in range(bars):
        rt.update(one, returns[t], fresh[t])
    assert same_bits(one, moments_of(returns, fresh))


@given(SEEDS, st.integers(2, 40))
def test_ewma_of_permuted_series_is_permuted_bit_by_bit(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    returns, fresh = factor_returns(rng, 30, k), rng.random((30, k)) >= 0.2
    order = rng.permutation(k)
    whole, mixed = moments_of(returns, fresh), moments_of(returns[:, order], fresh[:, order])
    for a in range(k):
        for b in range(a + 1):
            at, there = rt.pair_place(a, b), rt.pair_place(order[a], order[b])
            swapped = order[a] < order[b]
            assert mixed.n[at] == whole.n[there]
            assert same_bits([mixed.cov[:, at]], [whole.cov[:, there]])
            assert same_bits([mixed.var_row[:, at]], [(whole.var_col if swapped else whole.var_row)[:, there]])


def test_ewma_with_one_series_missing_leaves_the_others_the_same_bits() -> None:
    rng = np.random.default_rng(5)
    returns = factor_returns(rng, 60, 33)
    fresh = np.ones((60, 33), np.bool_)
    fresh[::2, 32] = False
    all_of, some = moments_of(returns), moments_of(returns, fresh)
    pairs = 32 * 33 // 2
    assert same_bits((all_of.n[:pairs], all_of.cov[:, :pairs]), (some.n[:pairs], some.cov[:, :pairs]))


def test_ewma_further_series_are_further_rows() -> None:
    returns = factor_returns(np.random.default_rng(6), 20, 5)
    small, large = moments_of(returns[:, :3]), moments_of(returns)
    assert same_bits((small.n, small.cov), (large.n[:6], large.cov[:, :6]))


@given(SEEDS, st.floats(0.01, 100))
def test_ewma_scales_with_the_returns(seed: int, c: float) -> None:
    returns = factor_returns(np.random.default_rng(seed), 20, 3)
    a, b = moments_of(returns), moments_of(returns * np.array([1.0, c, 1.0]))
    assert b.cov[:, rt.pair_place(1, 1)] == pytest.approx(c * c * a.cov[:, rt.pair_place(1, 1)])
    assert b.cov[:, rt.pair_place(0, 1)] == pytest.approx(c * a.cov[:, rt.pair_place(0, 1)], abs=1e-15)
    assert rt.correlation(b, 1, 0, 1) == pytest.approx(rt.correlation(a, 1, 0, 1), abs=1e-12)


def test_moments_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="n_series"):
        rt.new_moments(0)
    with pytest.raises(ValueError, match="lambda"):
        rt.new_moments(2, (0.97, 1.0))
    with pytest.raises(ValueError, match="lambda"):
        rt.new_moments(2, ())


@given(SEEDS, st.integers(1, 12), st.booleans())
def test_is_psd_is_the_sign_of_the_least_eigenvalue(seed: int, k: int, spoil: bool) -> None:
    rng = np.random.default_rng(seed)
    half = rng.normal(size=(k, rng.integers(1, k + 1))) * 10.0 ** rng.uniform(-4, 2, (k, 1))
    matrix = half @ half.T
    scale = np.sqrt(np.diag(matrix))
    if spoil and k > 1:
        i, j = rng.choice(k, 2, replace=False)
        matrix[i, j] = matrix[j, i] = -matrix[i, j]
    least = np.linalg.eigvalsh(matrix / np.outer(scale, scale)).min()
    if least > -1e-13:
        assert rt.is_psd(matrix, np.zeros((k, k)), 1e-10)
    elif least < -1e-4:
        assert not rt.is_psd(matrix, np.zeros((k, k)), 1e-10)


def test_condition_psd_leaves_a_covariance_as_it_is_also_a_singular_one() -> None:
    returns = factor_returns(np.random.default_rng(8), 4, 9)
    out = np.zeros((9, 9))
    rt.covariance(moments_of(returns), rt.IN_USE, np.arange(9), out)
    before = out.copy()
    assert rt.condition_psd(out, np.zeros((9, 9))) == 0.0
    assert same_bits([out], [before])


def test_pairs_with_bars_of_their_own_may_contradict_each_other_and_are_pulled_together() -> None:
    rng = np.random.default_rng(4)
    pulled = 0
    for _ in range(40):
        returns = factor_returns(rng, 40, 8, noise=0.05)
        moments = moments_of(returns, rng.random((40, 8)) >= 0.4)
        matrix = np.zeros((8, 8))
        rt.covariance(moments, rt.IN_USE, np.arange(8), matrix)
        before = matrix.copy()
        pull = rt.condition_psd(matrix, np.zeros((8, 8)))
        scale = np.sqrt(np.diag(matrix))
        assert np.linalg.eigvalsh(matrix / np.outer(scale, scale)).min() > -1e-8
        assert same_bits([np.diag(matrix).copy()], [np.diag(before).copy()])
        off = ~np.eye(8, dtype=bool)
        assert matrix[off] == pytest.approx((1 - pull) * before[off], rel=1e-9)
        pulled += pull > 0
    assert pulled > 0, "the case this is about was met"


# --- golden vectors ---------------------------------------------------------------------------------------------------------------


def golden_returns(*names: str) -> Floats:
    closes = np.array([GOLDEN["closes"][name] for name in names]).T
    out: Floats = closes[1:] / closes[:-1] - 1.0
    return out


def regress(cov: Floats, n: float = 5.0) -> tuple[Floats, Floats, float, float]:
    """Return (b, se, R², condition) of the first series on the others."""
    m = len(cov) - 1
    b, se = np.zeros(m), np.zeros(m)
    r2, condition = rt.ols(cov[1:, 1:].copy(), cov[1:, 0].copy(), cov[0, 0], n, b, se, rt.new_room(m))
    return b, se, r2, condition


def wrong_effectiveness(cov: Floats, h: float) -> float:
    return rt.expected_effectiveness(cov[1:, 1:].copy(), cov[1:, 0].copy(), cov[0, 0], np.array([h]))


@pytest.mark.parametrize("name", GOLDEN["single"])
def test_golden_single(name: str) -> None:
    row = GOLDEN["single"][name]
    cov = np.cov(golden_returns("EURUSD", name).T)
    b, _, r2, _ = regress(cov)
    volatilities = math.sqrt(cov[0, 0] / cov[1, 1])
    rho = cov[0, 1] / math.sqrt(cov[0, 0] * cov[1, 1])
    assert printed(rho, row["rho"])
    assert printed(b[0], row["h"])
    assert printed(r2, row["r2"])
    assert printed(wrong_effectiveness(cov, b[0]), row["r2"])
    assert printed(wrong_effectiveness(cov, b[0] * volatilities), row["twice_volatility"])
    assert printed(wrong_effectiveness(cov, rho / volatilities), row["inverted"])


@pytest.mark.parametrize("name", GOLDEN["single"])
def test_golden_single_exponentially_weighted(name: str) -> None:
    row = GOLDEN["single"][name]
    moments = moments_of(golden_returns("EURUSD", name))
    out = rt.new_ratios(1)
    none, calm = np.full(1, np.nan), np.ones(1)
    assert rt.estimate(moments, 0, np.array([1]), none, none, calm, ANY, out, rt.new_room(1)) == 1
    assert printed(out.raw[0], row["ewma_h"])
    assert printed(rt.correlation(moments, rt.IN_USE, 0, 1), row["ewma_rho"])


@pytest.mark.parametrize("case", GOLDEN["joint"], ids=lambda case: "+".join(case["by"]))
def test_golden_joint(case: dict[str, Any]) -> None:
    b, _, r2, _ = regress(np.cov(golden_returns("EURUSD", *case["by"]).T))
    assert all(printed(value, text) for value, text in zip(b, case["h"], strict=True))
    assert printed(r2, case["r2"])


def test_golden_joint_ratios_are_not_the_single_ones() -> None:
    joint = next(case for case in GOLDEN["joint"] if len(case["by"]) == 2)
    assert Decimal(GOLDEN["single"]["USDCHF"]["h"]) < 0 < Decimal(joint["h"][1])


@pytest.mark.parametrize("kappa", GOLDEN["shrunk"]["kappa"])
def test_golden_shrunk(kappa: str) -> None:
    cov = np.cov(golden_returns("EURUSD", GOLDEN["shrunk"]["by"]).T)
    b, _ = shrunk(cov, [float(kappa)], [GOLDEN["shrunk"]["b0"]])
    assert printed(b[0], GOLDEN["shrunk"]["kappa"][kappa])


def test_golden_ewma_variance() -> None:
    moments = moments_of(golden_returns("EURUSD"))
    assert rt.LAMBDAS[rt.IN_USE] == GOLDEN["ewma"]["lambda"]
    assert printed(moments.cov[rt.IN_USE, 0], GOLDEN["ewma"]["variance_raw"])
    assert printed(rt.variance(moments, rt.IN_USE, 0), GOLDEN["ewma"]["variance"])


# --- regression and shrinkage -----------------------------------------------------------------------------------------------------


def shrunk(cov: Floats, kappa: Iterable[float], b0: Iterable[float], n: float = 40.0) -> tuple[Floats, Floats]:
    m = len(cov) - 1
    b, se = np.zeros(m), np.zeros(m)
    xx, xy = cov[1:, 1:].copy(), cov[1:, 0].copy()
    r2 = regress(cov, n)[2]
    assert rt.shrink(xx, xy, cov[0, 0], np.array(list(kappa)), np.array(list(b0)), n, r2, b, se, rt.new_room(m))
    return b, se


def some_cov(seed: int, m: int) -> Floats:
    returns = factor_returns(np.random.default_rng(seed), 60, m + 1)
    cov: Floats = returns.T @ returns / 60
    return cov


@given(SEEDS, st.integers(1, 6), st.floats(10, 200))
def test_ols_is_that_of_the_normal_equations(seed: int, m: int, n: float) -> None:
    cov = some_cov(seed, m)
    b, se, r2, condition = regress(cov, n)
    scale = np.sqrt(np.diag(cov))
    corr = (cov / np.outer(scale, scale))[1:, 1:]
    by = np.linalg.solve(cov[1:, 1:], cov[1:, 0])
    s2 = cov[0, 0] - 2 * by @ cov[1:, 0] + by @ cov[1:, 1:] @ by
    assert b == pytest.approx(by, rel=1e-6)
    assert se == pytest.approx(np.sqrt(s2 * np.diag(np.linalg.inv(cov[1:, 1:])) / (n - m)), rel=1e-6)
    assert r2 == pytest.approx(1 - s2 / cov[0, 0], abs=1e-9)
    assert condition == pytest.approx(np.linalg.cond(corr, 1), rel=1e-6)


def test_ols_standard_errors_are_those_seen_over_many_samples() -> None:
    rng = np.random.default_rng(9)
    found, told = [], []
    for _ in range(2_000):
        x = rng.normal(size=(40, 2)) @ np.array([[1.0, 0.6], [0.0, 0.8]])
        y = x @ np.array([0.7, -0.3]) + 0.5 * rng.normal(size=40)
        data = np.column_stack([y, x])
        b, se, _, _ = regress(data.T @ data / 40, 40.0)
        found.append(b)
        told.append(se**2)
    assert np.sqrt(np.mean(told, axis=0)) == pytest.approx(np.std(found, axis=0), rel=0.06)


@given(SEEDS, st.integers(1, 6))
def test_shrink_without_weight_is_the_regression_and_with_all_weight_the_prior(seed: int, m: int) -> None:
    cov = some_cov(seed, m)
    b0 = np.random.default_rng(seed).normal(size=m) * np.sqrt(cov[0, 0] / np.diag(cov)[1:])
    b, se, _, _ = regress(cov, 40.0)
    none, none_se = shrunk(cov, [0.0] * m, b0)
    assert none == pytest.approx(b, rel=1e-12)
    assert none_se == pytest.approx(se, rel=1e-9)
    all_b, all_se = shrunk(cov, [1e12] * m, b0)
    unit = np.sqrt(cov[0, 0] / np.diag(cov)[1:])
    assert all_b / unit == pytest.approx(b0 / unit, abs=1e-9)
    assert (all_se < 1e-5 * unit).all()


@given(SEEDS, st.integers(1, 5), st.floats(0.01, 30))
def test_shrink_is_the_written_formula(seed: int, m: int, kappa: float) -> None:
    cov = some_cov(seed, m)
    rng = np.random.default_rng(seed)
    k, b0 = kappa * rng.uniform(0.1, 2, m), rng.normal(size=m)
    xx, xy = cov[1:, 1:], cov[1:, 0]
    weight = np.diag(k * np.diag(xx))
    b, se = shrunk(cov, k, b0)
    assert b == pytest.approx(np.linalg.solve(xx + weight, xy + weight @ b0), rel=1e-7, abs=1e-12)
    s2 = cov[0, 0] - xy @ np.linalg.solve(xx, xy)
    assert se == pytest.approx(np.sqrt(s2 * np.diag(np.linalg.inv(xx + weight)) / (40 - m)), rel=1e-6)


@given(SEEDS, st.floats(-2, 3), st.floats(0.01, 10))
def test_shrink_of_one_pair_is_the_posterior_mean(seed: int, b0: float, tau: float) -> None:
    cov = some_cov(seed, 1)
    b, se, _, _ = regress(cov, 40.0)
    kappa = np.zeros(1)
    rt.kappas(se, np.array([tau]), kappa)
    one, one_se = shrunk(cov, kappa, [b0])
    assert one[0] == pytest.approx((b[0] / se[0] ** 2 + b0 / tau**2) / (1 / se[0] ** 2 + 1 / tau**2), rel=1e-9, abs=1e-12)
    assert one_se[0] == pytest.approx(se[0] / math.sqrt(1 + kappa[0]), rel=1e-9)
    assert one_se[0] == pytest.approx(1 / math.sqrt(1 / se[0] ** 2 + 1 / tau**2), rel=1e-9)


@given(SEEDS, st.floats(-2, 3))
def test_shrink_of_one_pair_moves_steadily_to_the_prior(seed: int, b0: float) -> None:
    cov = some_cov(seed, 1)
    path = np.array([shrunk(cov, [kappa], [b0])[0][0] for kappa in (0.0, 0.01, 0.1, 0.5, 1.0, 3.0, 10.0, 1e3, 1e9)])
    toward = np.sign(b0 - path[0])
    assert (toward * np.diff(path) >= -1e-12 * max(abs(b0), abs(path[0]))).all()
    errors = [shrunk(cov, [kappa], [b0])[1][0] for kappa in (0.0, 0.1, 1.0, 10.0)]
    assert errors == sorted(errors, reverse=True)


def test_kappas_without_doubt_or_without_width() -> None:
    kappa = np.zeros(4)
    rt.kappas(np.array([0.0, 1.0, 2.0, 3.0]), np.array([0.0, 0.0, np.inf, 1.5]), kappa)
    assert kappa.tolist() == [0.0, 1e12, 0.0, 4.0]


@given(SEEDS, st.integers(1, 5), st.floats(0.01, 100))
def test_ratio_of_scaled_returns_is_divided(seed: int, m: int, c: float) -> None:
    returns = factor_returns(np.random.default_rng(seed), 80, m + 1)
    b0, tau = np.full(m, 0.8), np.full(m, 0.3)
    xs = np.arange(1, m + 1)
    plain, scaled = rt.new_ratios(m), rt.new_ratios(m)
    rt.estimate(moments_of(returns), 0, xs, b0, tau, np.ones(m), ANY, plain, rt.new_room(m))
    returns[:, 1:] *= c
    rt.estimate(moments_of(returns), 0, xs, b0 / c, tau / c, np.ones(m), ANY, scaled, rt.new_room(m))
    for a, b in ((plain.raw, scaled.raw), (plain.se, scaled.se), (plain.b, scaled.b), (plain.b_se, scaled.b_se)):
        assert b * c == pytest.approx(a, rel=1e-6, abs=1e-9 * np.abs(a).max())
    assert scaled.figures == pytest.approx(plain.figures, rel=1e-8)


@given(SEEDS, st.integers(2, 6), st.booleans(), st.floats(0, 0.3))
def test_ratio_of_permuted_instruments_is_permuted(seed: int, m: int, own_prior: bool, missing: float) -> None:
    rng = np.random.default_rng(seed)
    returns = factor_returns(rng, 120, m + 1)
    moments = moments_of(returns, rng.random((120, m + 1)) >= missing)
    order, xs = rng.permutation(m), np.arange(1, m + 1)
    b0, tau = (rng.normal(size=m), rng.uniform(0.1, 1, m)) if own_prior else (np.full(m, np.nan), np.full(m, np.nan))
    plain, mixed = rt.new_ratios(m), rt.new_ratios(m)
    rules, tighten = rt.Rules(), rng.choice([0.5, 1.0], m)
    assert rt.estimate(moments, 0, xs, b0, tau, tighten, rules, plain, rt.new_room(m)) == rt.estimate(
        moments, 0, xs[order], b0[order], tau[order], tighten[order], rules, mixed, rt.new_room(m)
    )
    assert same_bits([field[order] for field in plain[:8]], mixed[:8])
    assert same_bits([plain.figures], [mixed.figures])


# --- estimates --------------------------------------------------------------------------------------------------------------------


def slow_estimate(
    returns: Floats, fresh: NDArray[np.bool_], xs: list[int], b0: Floats, tau: Floats, tighten: float, rules: rt.Rules
) -> dict[int, tuple[float, float, float]]:
    """Return candidate → (raw, b, se of b) of the eligible ones, for data in which no candidate is redundant, by numpy and loops."""
    lam, lam_long = rt.LAMBDAS[rules.memory], rt.LAMBDAS[rules.long]

    def enough(i: int, j: int) -> bool:
        n = int((fresh[:, i] & fresh[:, j]).sum())
        w = lam ** np.arange(n)
        return n > 0 and w.sum() ** 2 / (w**2).sum() >= rules.n_ready

    def rho(j: int) -> float:
        c, vi, vj, _ = slow_pair(returns, fresh, lam_long, 0, j)
        return abs(c) / math.sqrt(vi * vj)

    chosen: list[int] = []
    for j in sorted((j for j in xs if enough(0, j) and rho(j) >= rules.rho_least), key=lambda j: (-rho(j), j)):
        if all(enough(j, other) for other in chosen):
            chosen.append(j)
    if not chosen:
        return {}

    def fit(which: float) -> tuple[Floats, Floats, float, float, Floats]:
        cov = slow_covariance(returns, fresh, which, [0, *chosen])
        scale = np.ones(len(cov))
        for a, j in enumerate(chosen, 1):
            _, of_y, of_j, _ = slow_pair(returns, fresh, which, 0, j)
            scale[a] = math.sqrt(cov[0, 0] * of_j / of_y / cov[a, a])
        cov = cov * np.outer(scale, scale)
        n = min(int((fresh[:, i] & fresh[:, j]).sum()) for i in [0, *chosen] for j in [0, *chosen])
        w = which ** np.arange(n)
        left = w.sum() ** 2 / (w**2).sum() - len(chosen)
        by = np.linalg.solve(cov[1:, 1:], cov[1:, 0])
        s2 = cov[0, 0] - by @ cov[1:, 0]
        return by, np.sqrt(s2 * np.diag(np.linalg.inv(cov[1:, 1:])) / left), s2 / left, 1 - s2 / cov[0, 0], cov

    raw, se, s2, _, cov = fit(lam)
    far, far_se, _, r2, _ = fit(lam_long)
    if r2 < rules.r2_least:
        return {}
    kappa, drawn = np.zeros(len(chosen)), np.zeros(len(chosen))
    sharing = sum(not math.isnan(b0[xs.index(j)]) for j in chosen)
    for a, j in enumerate(chosen):
        at = xs.index(j)
        if math.isnan(b0[at]):
            drawn[a] = far[a]
            width2 = max(far_se[a] ** 2, rules.widen * ((raw[a] - far[a]) ** 2 - se[a] ** 2))
        else:
            drawn[a], width2 = b0[at] / sharing, tau[at] ** 2
        kappa[a] = se[a] ** 2 / (width2 * tighten**2)
    weight = np.diag(kappa * np.diag(cov)[1:])
    inverse = np.linalg.inv(cov[1:, 1:] + weight)
    b = inverse @ (cov[1:, 0] + weight @ drawn)
    errors = np.sqrt(s2 * np.diag(inverse))
    return {j: (raw[a], b[a], errors[a]) for a, j in enumerate(chosen)}


@given(SEEDS, st.integers(1, 5), st.sampled_from([0.0, 0.05]), st.booleans(), st.sampled_from([1.0, 0.5]), st.sampled_from([0.0, 1.0]))
def test_estimate_is_that_of_a_slow_one(seed: int, m: int, missing: float, own_prior: bool, tighten: float, widen: float) -> None:
    rng = np.random.default_rng(seed)
    bars = int(rng.integers(20, 150))
    returns, fresh = factor_returns(rng, bars, m + 1), rng.random((bars, m + 1)) >= missing
    b0, tau = np.full(m, np.nan), np.full(m, np.nan)
    if own_prior:
        b0[:2], tau[:2] = 1.0, 0.25
    rules = rt.Rules(widen=widen)
    out = rt.new_ratios(m)
    count = rt.estimate(moments_of(returns, fresh), 0, np.arange(1, m + 1), b0, tau, np.full(m, tighten), rules, out, rt.new_room(m))
    if out.figures[rt.PULL] > 0:
        return  # a set that was pulled together has a test of its own
    slow = slow_estimate(returns, fresh, list(range(1, m + 1)), b0, tau, tighten, rules)
    assert {j + 1 for j in range(m) if out.reason[j] == rt.ELIGIBLE} == set(slow)
    assert count == len(slow)
    for j, (raw, b, se) in slow.items():
        assert out.raw[j - 1] == pytest.approx(raw, rel=1e-6)
        assert out.b[j - 1] == pytest.approx(b, rel=1e-6)
        assert out.b_se[j - 1] == pytest.approx(se, rel=1e-5)


def test_estimate_of_one_instrument_is_the_regression_over_the_bars_both_have() -> None:
    returns = hedgeable(20, 300, [0.8], noise=0.2)
    fresh = np.random.default_rng(20).random(returns.shape) >= 0.3
    both = fresh.all(axis=1)
    out, common = rt.new_ratios(1), estimated(returns[both])
    none, calm = np.full(1, np.nan), np.ones(1)
    rt.estimate(moments_of(returns, fresh), 0, np.array([1]), none, none, calm, rt.Rules(), out, rt.new_room(1))
    assert out.raw[0] == pytest.approx(common.raw[0], rel=1e-12)
    assert out.se[0] == pytest.approx(common.se[0], rel=1e-9)
    assert out.figures[rt.N_EFF] == common.figures[rt.N_EFF]


def estimated(returns: Floats, rules: rt.Rules | None = None, prior: float = math.nan, tighten: float = 1.0) -> rt.Ratios:
    m = returns.shape[1] - 1
    out = rt.new_ratios(m)
    b0, tau = np.full(m, prior), np.full(m, math.nan if math.isnan(prior) else rt.TAU_SAME_UNDERLYING)
    rt.estimate(moments_of(returns), 0, np.arange(1, m + 1), b0, tau, np.full(m, tighten), rules or rt.Rules(), out, rt.new_room(m))
    return out


def reasons(out: rt.Ratios) -> list[str]:
    return [rt.REASONS[reason] for reason in out.reason]


def hedgeable(seed: int, bars: int, b: Iterable[float], noise: float = 0.3) -> Floats:
    """Return an exposure and what it is made of."""
    rng = np.random.default_rng(seed)
    ratios = np.array(list(b))
    x = rng.normal(size=(bars, len(ratios))) * 0.01
    return np.column_stack([x @ ratios + noise * 0.01 * rng.normal(size=bars), x])


def test_h14_before_there_is_data_it_is_warmup_and_no_crash() -> None:
    none = np.zeros((0, 3))
    assert reasons(estimated(none)) == ["warmup", "warmup"]
    assert estimated(none).b.tolist() == [0.0, 0.0], "without a prior: never 1:1"
    same = estimated(none, prior=1.0)
    assert (same.b.tolist(), same.b_se.tolist()) == ([0.5, 0.5], [0.25, 0.25]), "one hedge, shared"
    used, of_prior = np.full(2, np.nan), np.full(2, np.nan)
    rt.move_all(used, estimated(none), np.ones(2), rt.Rules())
    rt.move_all(of_prior, same, np.ones(2), rt.Rules())
    assert np.isnan(used).all(), "nothing is known, nothing is used"
    assert of_prior.tolist() == [0.5, 0.5]
    bars = rt.new_bars(2, S)
    returns, fresh = np.zeros(2), np.ones(2, np.bool_)
    assert rt.close_bar(bars, S, S, returns, fresh) == 0
    assert (fresh.any(), returns.any()) == (False, False)


def test_pair_is_ready_at_its_thirty_third_bar() -> None:
    returns = hedgeable(1, 33, [0.5])
    assert reasons(estimated(returns[:32])) == ["warmup"]
    assert reasons(estimated(returns)) == ["eligible"]
    fresh = np.ones((33, 2), np.bool_)
    fresh[7, 1] = False
    out = rt.new_ratios(1)
    none, calm = np.full(1, np.nan), np.ones(1)
    assert rt.estimate(moments_of(returns, fresh), 0, np.array([1]), none, none, calm, rt.Rules(), out, rt.new_room(1)) == 0
    assert reasons(out) == ["warmup"], "a bar that one of them missed does not count"


@pytest.mark.parametrize("moved", [0, 1])
def test_h16_series_that_does_not_move_is_excluded_with_a_reason(moved: int) -> None:
    returns = hedgeable(2, 100, [0.5, 0.5])
    returns[:, 1 + moved] = 0.0
    out = estimated(returns)
    assert [reasons(out)[moved], reasons(out)[1 - moved]] == ["zero_variance", "eligible"]
    assert out.b[moved] == 0.0
    assert math.isfinite(out.b[1 - moved])
    returns[:, 0] = 0.0
    assert set(reasons(estimated(returns))) == {"zero_variance"}


def test_h16_series_that_has_stopped_moving_is_excluded() -> None:
    returns = hedgeable(2, 2_000, [0.5])
    returns[200:, 1] = 0.0
    assert reasons(estimated(returns)) == ["zero_variance"]


def test_h17_naive_cross_hedge_is_avoided() -> None:
    """Gold by silver: the hedge moves twice as much, so 1:1 adds risk. It is never near it, also not while warming up."""
    rng = np.random.default_rng(17)
    bars, rho, gold, silver = 2_000, 0.73, 0.010, 0.019
    x = silver * rng.normal(size=bars)
    y = rho * gold / silver * x + gold * math.sqrt(1 - rho * rho) * rng.normal(size=bars)
    data = np.column_stack([y, x])
    moments, out, room = rt.new_moments(2), rt.new_ratios(1), rt.new_room(1)
    used, ratio, none, calm = np.full(1, np.nan), np.zeros(bars), np.full(1, np.nan), np.ones(1)
    both = np.ones(2, np.bool_)
    for t in range(bars):
        ratio[t] = 0.0 if math.isnan(used[0]) else used[0]
        rt.update(moments, data[t], both)
        rt.estimate(moments, 0, np.array([1]), none, none, calm, rt.Rules(), out, room)
        rt.move_all(used, out, calm, rt.Rules())
    assert np.abs(ratio).max() < 0.7
    assert ratio[100:] == pytest.approx(rho * gold / silver, abs=0.25)

    def reduction(hedged: Floats) -> float:
        return 1.0 - float(hedged[100:].var() / y[100:].var())

    assert reduction(y - x) < 0.0 < 0.48 < reduction(y - ratio * x)


def test_weak_relation_of_one_instrument_is_neutral() -> None:
    out = estimated(hedgeable(3, 400, [0.8, 0.0]))
    assert reasons(out) == ["eligible", "weak_relation"]
    assert out.b[1] == 0.0
    assert abs(out.rho[1]) < 0.25


def test_weak_relation_of_the_whole_set_leaves_nothing_eligible() -> None:
    out = estimated(hedgeable(4, 800, [0.4], noise=1.0))
    assert 0.25 < abs(out.rho[0]) < math.sqrt(0.2)
    assert reasons(out) == ["weak_relation"]
    assert (out.b[0], out.figures[rt.R2_LONG] < 0.2) == (0.0, True)
    assert math.isfinite(out.raw[0]), "the audit still sees it"


@pytest.mark.parametrize("c", [1.0, -2.5])
def test_instrument_that_is_another_one_joins_once(c: float) -> None:
    returns = hedgeable(5, 200, [0.7, 0.4])
    twins = np.column_stack([returns, c * returns[:, 1]])
    out = estimated(twins)
    assert reasons(out) == ["eligible", "eligible", "weak_relation"]
    alone = estimated(returns)
    assert out.b[:2] == pytest.approx(alone.b, rel=1e-12)


def test_instrument_the_set_explains_is_not_eligible() -> None:
    returns = hedgeable(6, 200, [0.7, 0.7])
    sum_of = (returns[:, 1] + returns[:, 2]) / 2
    out = estimated(np.column_stack([returns, sum_of]))
    assert sorted(reasons(out)) == ["eligible", "eligible", "weak_relation"]
    assert np.isfinite(out.b).all()


def test_condition_decides_who_goes() -> None:
    returns = hedgeable(7, 300, [0.7, 0.3])
    returns[:, 2] = returns[:, 1] + 1e-3 * returns[:, 2]
    assert reasons(estimated(returns)).count("eligible") == 2
    strict = estimated(returns, rt.Rules(condition_most=1e5))
    assert sorted(reasons(strict)) == ["eligible", "weak_relation"]
    assert np.abs(strict.b).max() < 2.0


def test_prior_holds_in_a_breakdown_more_than_otherwise() -> None:
    returns = hedgeable(8, 100, [0.5])
    free, tight = estimated(returns, prior=1.0), estimated(returns, prior=1.0, tighten=0.5)
    assert free.raw[0] < free.b[0] < tight.b[0] < 1.0
    assert tight.tau[0] == free.tau[0] / 2


def test_long_prior_gives_way_to_data_that_contradict_it() -> None:
    returns = np.vstack([hedgeable(9, 900, [0.5]), hedgeable(10, 60, [1.5])])
    by_rule, wide = estimated(returns, rt.Rules(widen=0.0)), estimated(returns)
    assert wide.tau[0] ** 2 == pytest.approx((wide.raw[0] - wide.prior[0]) ** 2 - wide.se[0] ** 2)
    assert wide.tau[0] > by_rule.tau[0]
    assert by_rule.b[0] < wide.b[0] < wide.raw[0]
    agree = hedgeable(9, 900, [0.5])
    assert estimated(agree).b[0] == estimated(agree, rt.Rules(widen=0.0)).b[0]


def test_given_priors_are_shared_by_the_eligible_ones_only() -> None:
    returns = hedgeable(16, 200, [0.5, 0.5])
    assert estimated(returns, prior=1.0).prior.tolist() == [0.5, 0.5]
    fresh = np.ones(returns.shape, np.bool_)
    fresh[:190, 2] = False
    out = rt.new_ratios(2)
    b0, tau, calm = np.ones(2), np.full(2, 0.25), np.ones(2)
    rt.estimate(moments_of(returns, fresh), 0, np.array([1, 2]), b0, tau, calm, rt.Rules(), out, rt.new_room(2))
    assert reasons(out) == ["eligible", "warmup"]
    assert out.prior[0] == 1.0
    assert out.b[1] == 0.0, "the other one carries the hedge: a prior beside it would hedge twice"


def test_estimate_of_a_contradicting_set_is_finite_and_bounded() -> None:
    rng = np.random.default_rng(11)
    met = 0
    for _ in range(60):
        returns = factor_returns(rng, 80, 6, noise=0.02)
        out = rt.new_ratios(5)
        none, calm = np.full(5, np.nan), np.ones(5)
        moments = moments_of(returns, rng.random((80, 6)) >= 0.25)
        rt.estimate(moments, 0, np.arange(1, 6), none, none, calm, rt.Rules(n_ready=10.0), out, rt.new_room(5))
        assert np.isfinite(out.b).all()
        assert 0.0 <= out.figures[rt.R2] <= 1.0
        met += out.figures[rt.PULL] > 0
    assert met > 0, "the case this is about was met"


@njit
def _drive(
    moments: rt.Moments, watch: rt.Watch, returns: Floats, fresh: NDArray[np.bool_], none: Floats, calm: Floats, xs: NDArray[np.int64], ys: NDArray[np.int64],
    rules: rt.Rules, out: rt.Ratios, room: rt.Room, used: Floats, events: NDArray[np.int64],
) -> None:  # fmt: skip
    for t in range(len(returns)):
        rt.update(moments, returns[t], fresh[t])
        rt.estimate(moments, 0, xs, none, none, calm, rules, out, room)
        rt.move_all(used, out, calm, rules)
        rt.watch_correlations(watch, moments, rt.FAST, rt.SLOW, ys, xs, fresh[t], rules, events)


def test_update_is_vectorised() -> None:
    """The columns of a row are contiguous for this: without it an update takes three times as long."""
    kernel: Any = Kernel(rt.update.py_func, targetoptions={"nopython": True, "nogil": True, "_nrt": False})  # type: ignore[attr-defined]
    kernel.compile(tuple(typeof(value) for value in (rt.new_moments(2), np.zeros(2), np.ones(2, np.bool_))))
    (made,) = kernel.overloads.values()
    assert len(re.findall(r"fmul <\d+ x double>", made.library.get_llvm_str())) >= 10


def test_a_bar_allocates_nothing() -> None:
    k = 5
    rng = np.random.default_rng(15)
    returns, fresh = factor_returns(rng, 300, k), rng.random((300, k)) >= 0.1
    moments, watch = moments_of(returns), rt.new_watch(k - 1)
    none, calm, xs, ys = np.full(k - 1, np.nan), np.ones(k - 1), np.arange(1, k), np.zeros(k - 1, np.int64)
    out, room, used, events = rt.new_ratios(k - 1), rt.new_room(k - 1), none.copy(), np.zeros(k - 1, np.int64)

    def allocations(bars: int) -> int:
        """Return how many arrays a drive over bars makes; those handed over count as one each."""
        before = nrt.memsys_get_stats_mi_alloc()
        _drive(moments, watch, returns[:bars], fresh[:bars], none, calm, xs, ys, rt.Rules(), out, room, used, events)
        return int(nrt.memsys_get_stats_mi_alloc() - before)

    known = nrt.memsys_stats_enabled()
    nrt.memsys_enable_stats()
    try:
        assert allocations(300) == allocations(1) > 0
    finally:
        if not known:
            nrt.memsys_disable_stats()
    assert np.isfinite(used).any()


# --- the ratio in use -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("used", "b", "se", "c", "now"),
    [
        (1.0, 1.05, 0.0625, 1.0, 1.0),  # within the buffer
        (1.0, 1.0625, 0.0625, 1.0, 1.0),  # exactly on its edge
        (1.0, 1.07, 0.0625, 1.0, 1.07),
        (1.0, 1.07, 0.0625, 2.0, 1.0),  # wider in a breakdown
        (1.0, 2.0, 0.0625, 1.0, 1.3),  # at most a step
        (1.0, -2.0, 0.0625, 1.0, 0.7),
        (1.0, 0.0, math.nan, 1.0, 0.7),  # not eligible any more
        (math.nan, 2.0, 0.1, 1.0, 2.0),  # the first one
        (1.0, math.nan, math.nan, 1.0, 1.0),
    ],
)
def test_move(used: float, b: float, se: float, c: float, now: float) -> None:
    assert rt.move(used, b, se, c, 0.3) == pytest.approx(now, abs=1e-15)


@given(st.floats(-3, 3), st.floats(-3, 3), st.floats(0, 2), st.sampled_from([1.0, 2.0]))
def test_move_is_within_step_and_ends_within_the_buffer(used: float, b: float, se: float, c: float) -> None:
    for _ in range(40):
        now = rt.move(used, b, se, c, 0.3)
        assert abs(now - used) <= 0.3 + 1e-12
        assert abs(b - now) <= abs(b - used) + 1e-12
        used = now
    assert abs(b - used) <= c * se + 1e-12


# --- books ------------------------------------------------------------------------------------------------------------------------


class Book:
    """A random book: n exposures, m instruments, any ratios, any positions."""

    def __init__(self, seed: int, n: int, m: int, by_regression: bool = False) -> None:
        rng = np.random.default_rng(seed)
        returns = factor_returns(rng, 30, n + m)
        self.cov = returns.T @ returns / 30
        self.yy, self.xx = self.cov[:n, :n].copy(), self.cov[n:, n:].copy()
        self.xy = self.cov[n:, :n].copy()
        self.b = np.linalg.solve(self.xx, self.xy) if by_regression else rng.normal(size=(m, n)) * 2
        self.e = rng.normal(size=n) * 1e6
        self.p = rng.normal(size=m) * 1e6
        self.omega, self.be = np.zeros((n, n)), np.zeros(m)
        rt.residual_covariance(self.yy, self.xy, self.xx, self.b, self.omega)
        rt.needed(self.b, self.e, self.be)


SIZES = st.integers(1, 6)


@given(SEEDS, SIZES, SIZES)
def test_residual_covariance_is_semidefinite_whatever_the_ratios(seed: int, n: int, m: int) -> None:
    book = Book(seed, n, m)
    stacked = np.vstack([np.eye(n), -book.b])
    assert book.omega == pytest.approx(stacked.T @ book.cov @ stacked, rel=1e-9, abs=1e-9 * np.abs(book.omega).max())
    scale = np.sqrt(np.diag(book.omega))
    assert np.linalg.eigvalsh(book.omega / np.outer(scale, scale)).min() > -1e-9
    assert book.be == pytest.approx(book.b @ book.e)


@given(SEEDS, SIZES, SIZES)
def test_book_variance_is_the_raw_one_when_the_ratios_are_the_regressions(seed: int, n: int, m: int) -> None:
    book = Book(seed, n, m, by_regression=True)
    held = np.concatenate([book.e, book.p])
    raw = held @ book.cov @ held
    assert rt.book_variance(book.xx, book.omega, book.be, book.e, book.p) == pytest.approx(raw, rel=1e-6)


@given(SEEDS, SIZES, SIZES)
def test_h26_effectiveness_is_the_bound_times_what_is_covered(seed: int, n: int, m: int) -> None:
    book = Book(seed, n, m)
    c = rt.coverage(book.xx, book.be, book.p, 0.0)
    r2 = rt.bound(book.xx, book.omega, book.be, book.e)
    he = rt.effectiveness(book.xx, book.omega, book.be, book.e, book.p)
    assert he == pytest.approx(r2 * (1 - (1 - c) ** 2), rel=1e-9, abs=1e-9)
    assert 0.0 <= r2 <= 1.0
    whole = rt.book_variance(book.xx, book.omega, book.be, book.e, -book.be)
    assert rt.effectiveness(book.xx, book.omega, book.be, book.e, -book.be) == pytest.approx(r2, rel=1e-9)
    assert whole <= rt.book_variance(book.xx, book.omega, book.be, book.e, book.p) * (1 + 1e-12)


@given(SEEDS, SIZES, SIZES, st.floats(-1, 3))
def test_coverage_of_a_share_of_the_needed_hedge(seed: int, n: int, m: int, share: float) -> None:
    book = Book(seed, n, m)
    assert rt.coverage(book.xx, book.be, -share * book.be, 0.0) == pytest.approx(1 - abs(1 - share), abs=1e-7)


def test_coverage_without_exposure() -> None:
    xx = np.eye(2)
    zero, held = np.zeros(2), np.array([3.0, 4.0])
    assert rt.coverage(xx, zero, zero, 1e-9) == 1.0
    assert math.isnan(rt.coverage(xx, zero, held, 1.0)), "overhedged"
    assert rt.coverage(xx, zero, held, 5.0) == 1.0
    assert math.isnan(rt.bound(xx, np.zeros((1, 1)), zero, np.zeros(1)))
    assert math.isnan(rt.effectiveness(xx, np.zeros((1, 1)), zero, np.zeros(1), zero))


@given(SEEDS, SIZES)
def test_expected_effectiveness_is_largest_at_the_regression(seed: int, m: int) -> None:
    cov = some_cov(seed, m)
    b, _, r2, _ = regress(cov)
    xx, xy = cov[1:, 1:].copy(), cov[1:, 0].copy()
    assert rt.expected_effectiveness(xx, xy, cov[0, 0], b) == pytest.approx(r2, abs=1e-7)
    assert rt.expected_effectiveness(xx, xy, cov[0, 0], b * 1.1) <= r2 + 1e-9
    assert math.isnan(rt.expected_effectiveness(xx, xy, 0.0, b))


# --- correlation breakdown --------------------------------------------------------------------------------------------------------


def watch_all(fast: Iterable[float], slow: float, n_fast: float = 32.0) -> tuple[list[int], rt.Watch]:
    watch = rt.new_watch(1, 4)
    return [rt.watch_correlation(watch, 0, rho, slow, n_fast, 100.0, rt.Rules()) for rho in fast], watch


def test_breakdown_begins_on_the_third_bar_and_clears_on_the_tenth() -> None:
    events, watch = watch_all([0.2] * 3 + [0.75] * 9 + [0.69] + [0.75] * 10, 0.8)
    assert [i for i, event in enumerate(events) if event] == [2, 22]
    assert (events[2], events[22]) == (1, -1)
    assert not watch.active.any()


def test_breakdown_two_bars_are_not_enough_and_a_quiet_bar_starts_anew() -> None:
    assert not any(watch_all([0.2, 0.2, 0.8] * 5, 0.8)[0])


def test_breakdown_does_not_clear_between_the_levels() -> None:
    events, watch = watch_all([0.2] * 3 + [0.68] * 100, 0.8)
    assert (sum(map(abs, events)), watch.active[0, rt.CORRELATION]) == (1, True)


def test_breakdown_needs_the_gap_and_the_standard_errors() -> None:
    assert not any(watch_all([0.86] * 20, 0.999)[0]), "far in z, but a gap under the level"
    assert not any(watch_all([0.2] * 20, 0.5)[0]), "a gap of 0.3, but within two standard errors"
    z = math.atanh(0.8) - math.atanh(0.64)
    assert z * math.sqrt(32 - 3) < 2 < z * math.sqrt(60 - 3)
    assert not any(watch_all([0.64] * 20, 0.8)[0])
    assert any(watch_all([0.64] * 20, 0.8, n_fast=60.0)[0])


def test_breakdown_is_not_judged_before_both_are_known() -> None:
    assert not any(watch_all([-0.9] * 20, 0.9, n_fast=29.9)[0])


@given(st.lists(st.tuples(st.floats(-1, 1), st.floats(-1, 1)), max_size=120))
def test_breakdown_is_that_of_a_slow_count(rhos: list[tuple[float, float]]) -> None:
    watch = rt.new_watch(3, 4)
    active, over, under = False, 0, 0
    for fast, slow in rhos:
        gap = abs(fast - slow)
        f, s = (math.atanh(min(max(rho, -1 + 1e-12), 1 - 1e-12)) for rho in (fast, slow))
        broken = gap > 0.15 and abs(f - s) > 2 / math.sqrt(29)
        over = over + 1 if broken else 0
        under = under + 1 if gap < 0.10 else 0
        event = 0
        if not active and over >= 3:
            active, under, event = True, 0, 1
        elif active and under >= 10:
            active, over, event = False, 0, -1
        assert rt.watch_correlation(watch, 1, fast, slow, 32.0, 90.0, rt.Rules()) == event
        assert watch.active[1, rt.CORRELATION] == active
    assert not watch.active[[0, 2]].any()


def test_breakdown_of_watched_pairs_is_seen_in_the_moments() -> None:
    rng = np.random.default_rng(12)
    x = rng.normal(size=(1200, 1))
    y = 0.9 * x + 0.3 * rng.normal(size=(1200, 1))
    y[600:700] = rng.normal(size=(100, 1))
    returns = np.hstack([y, x, 0.9 * x + 0.3 * rng.normal(size=(1200, 1))])
    moments, watch = rt.new_moments(3), rt.new_watch(2)
    ys, xs, events = np.array([0, 2]), np.array([1, 1]), np.zeros(2, np.int64)
    fresh = np.ones(3, np.bool_)
    seen: list[tuple[int, int]] = []
    for t in range(1200):
        fresh[0] = t != 650
        rt.update(moments, returns[t], fresh)
        rt.watch_correlations(watch, moments, rt.FAST, rt.SLOW, ys, xs, fresh, rt.Rules(), events)
        assert events[0] == 0 or fresh[0]
        seen += [(t, int(event)) for event in events if event]
        assert events[1] == 0
    first = seen[0]
    assert first[1] == 1
    assert 600 < first[0] < 630
    assert seen[-1][1] == -1
    assert rt.caution(watch, 0) == (1.0, 1.0)


def test_breakdown_by_effectiveness() -> None:
    rng = np.random.default_rng(13)
    watch = rt.new_watch(1)
    events = []
    for t in range(900):
        x, noise = rng.normal(), rng.normal()
        y = x + 0.3 * noise if t < 400 or t >= 600 else noise
        events.append(rt.watch_effectiveness(watch, 0, y, y - x, 0.9, rt.Rules()))
        if t < 249:
            assert math.isnan(rt.realised_over_expected(watch, 0))
        assert rt.caution(watch, 0) == ((2.0, 0.5) if watch.active[0, rt.EFFECTIVENESS] else (1.0, 1.0))
    assert [event for event in events if event] == [1, -1]
    assert 400 < events.index(1) < 500
    assert 600 < events.index(-1) < 900
    assert rt.watch_effectiveness(watch, 0, 1.0, 1.0, math.nan, rt.Rules()) == 0


def test_realised_effectiveness_is_that_of_the_last_bars() -> None:
    rng = np.random.default_rng(14)
    watch = rt.new_watch(2, 50)
    rows = [(rng.normal(), 0.5 * rng.normal(), rng.uniform(0.5, 1)) for _ in range(173)]
    for unhedged, hedged, expected in rows:
        rt.watch_effectiveness(watch, 1, unhedged, hedged, expected, rt.Rules())
    u, h, ex = np.array(rows[-50:]).T
    assert rt.realised_over_expected(watch, 1) == pytest.approx((1 - (h**2).sum() / (u**2).sum()) / ex.mean())
