"""Zero gamma: closed forms, exact symmetries, and the kernels against a slow loop in prices that shares no code with them."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numba import typeof

from operators import gamma as gm
from schemas.canary import OptionChain, OptionQuote
from schemas.parts import Kernel

LOOSE = gm.Rules(least_options=1, least_open_interest=0.0)
Option = tuple[float, float, bool, float, float, float]
"""years, strike, is_call, open interest, iv, multiplier."""


def run(spot: float, options: list[Option], rate: float = 0.0, dividend_yield: float = 0.0, rules: gm.Rules = LOOSE) -> gm.Gamma:
    columns = [np.array([float(o[n]) for o in options]) for n in range(6)]
    return gm.zero_gamma(spot, rate, dividend_yield, *columns[:2], columns[2] > 0, *columns[3:], rules)


# --- the oracle -------------------------------------------------------------------------------------------------------------------


def price(spot: float, strike: float, years: float, iv: float, rate: float, dividend_yield: float) -> float:
    """Return the Black–Scholes price of a call."""
    root = iv * math.sqrt(years)
    d1 = (math.log(spot / strike) + (rate - dividend_yield + iv * iv / 2) * years) / root
    up, down = (0.5 * (1 + math.erf(d / math.sqrt(2))) for d in (d1, d1 - root))
    return spot * math.exp(-dividend_yield * years) * up - strike * math.exp(-rate * years) * down


def slow_gamma(spot: float, strike: float, years: float, iv: float, rate: float, dividend_yield: float) -> float:
    """Return the second derivative of the price, by its formula."""
    root = iv * math.sqrt(years)
    d1 = (math.log(spot / strike) + (rate - dividend_yield + iv * iv / 2) * years) / root
    return math.exp(-dividend_yield * years) * math.exp(-d1 * d1 / 2) / math.sqrt(2 * math.pi) / (spot * root)


def slow_money(spot: float, options: list[Option], rate: float, dividend_yield: float, gross: bool = False) -> float:
    """Return dealers' gamma in money per 1 % at a spot; gross: all of it, whoever holds it."""
    return math.fsum(
        (1 if call or gross else -1)
        * slow_gamma(spot, strike, max(years, 1 / 262), iv, rate, dividend_yield) * open_interest * multiplier * spot * spot / 100
        for years, strike, call, open_interest, iv, multiplier in options
    )  # fmt: skip


def slow_level(spot: float, options: list[Option], rate: float, dividend_yield: float) -> tuple[float | None, int]:
    """Return (level nearest to the spot, 0), or (None, the profile's one sign), on the same grid, refined in prices."""
    grid = [spot * math.exp(0.2 * k / 60) for k in range(-60, 61)]
    gross = [slow_money(s, options, rate, dividend_yield, gross=True) / s for s in grid]
    signs = []
    for s in grid:
        net = slow_money(s, options, rate, dividend_yield) / s
        signs.append(0 if abs(net) <= 1e-9 * max(gross) else int(math.copysign(1, net)))
    known = [k for k, sign in enumerate(signs) if sign]
    levels = []
    for a, b in pairwise(known):
        if signs[a] == signs[b]:
            continue
        low, high = grid[a], grid[b]
        for _ in range(60):
            middle = (low + high) / 2
            if slow_money(middle, options, rate, dividend_yield) * signs[a] > 0:
                low = middle
            else:
                high = middle
        levels.append((low + high) / 2)
    if levels:
        return min(levels, key=lambda z: abs(z - spot)), 0
    return None, signs[known[0]] if known else 0


def test_the_oracles_gamma_is_the_prices_second_derivative() -> None:
    for strike, years, iv, rate, dividend_yield in (
        (100, 0.25, 0.2, 0.03, 0.01),
        (110, 1.5, 0.35, -0.01, 0.0),
        (95, 0.02, 0.15, 0.05, 0.02),
    ):
        h = 0.01
        around = [price(100 + k * h, strike, years, iv, rate, dividend_yield) for k in (-1, 0, 1)]
        assert slow_gamma(100, strike, years, iv, rate, dividend_yield) == pytest.approx(
            (around[0] - 2 * around[1] + around[2]) / h**2, rel=1e-4
        )


option = st.tuples(
    st.sampled_from([0.001, 0.004, 0.02, 0.08, 0.25, 1.0, 2.0]),
    st.floats(0.75, 1.3),
    st.booleans(),
    st.floats(1.0, 1e5),
    st.floats(0.05, 1.2),
    st.sampled_from([1.0, 100.0]),
)
rates = st.floats(-0.02, 0.08)


@given(st.floats(10, 6000), st.lists(option, min_size=1, max_size=9), rates, st.floats(0.0, 0.03))
def test_as_the_slow_loop_in_prices(spot: float, options: list[Option], rate: float, dividend_yield: float) -> None:
    options = [(years, strike * spot, *rest) for years, strike, *rest in options]  # type: ignore[misc]
    found = run(spot, options, rate, dividend_yield)
    level, sign = slow_level(spot, options, rate, dividend_yield)
    nothing = 1e-25 * spot * sum(o[3] * o[5] for o in options)  # the kernel's exponents end
    assert found.total_abs == pytest.approx(slow_money(spot, options, rate, dividend_yield, gross=True), rel=1e-11, abs=nothing)
    assert found.net == pytest.approx(slow_money(spot, options, rate, dividend_yield), rel=1e-9, abs=1e-11 * found.total_abs + nothing)
    if level is None:
        assert math.isnan(found.zero)
        assert math.isnan(found.gap_pct)
        assert found.sign == sign
    else:
        slope = slow_money(level * 1.0001, options, rate, dividend_yield) - slow_money(level / 1.0001, options, rate, dividend_yield)
        assume(
            abs(slope) > 1e-7 * slow_money(level, options, rate, dividend_yield, gross=True) + nothing
        )  # else where it crosses is rounding
        assert found.zero == pytest.approx(level, rel=1e-8)
        assert found.gap_pct == pytest.approx((spot - level) / level * 100, abs=1e-6)


# --- closed forms -----------------------------------------------------------------------------------------------------------------


def test_one_put_and_one_call_cross_at_the_geometric_mean_of_their_strikes() -> None:
    years, iv, rate, dividend_yield = 0.25, 0.2, 0.03, 0.01
    found = run(100.0, [(years, 95.0, False, 500.0, iv, 100.0), (years, 108.0, True, 500.0, iv, 100.0)], rate, dividend_yield)
    level = math.sqrt(95 * 108) * math.exp(-(rate - dividend_yield + iv**2 / 2) * years)
    assert found.zero == pytest.approx(level, rel=1e-9)
    assert found.gap_pct == pytest.approx((100 - level) / level * 100, abs=1e-7)
    assert found.status == "ready"
    assert found.sign == -1  # below the level the put is nearer
    assert run(104.0, [(years, 95.0, False, 500.0, iv, 100.0), (years, 108.0, True, 500.0, iv, 100.0)]).sign == 1


@given(st.floats(1.05, 20.0), st.floats(0.05, 0.4), st.floats(0.02, 0.5))
def test_more_puts_below_raise_the_level(times: float, iv: float, years: float) -> None:
    put, call = (years, 97.0, False, 500.0, iv, 100.0), (years, 103.0, True, 500.0, iv, 100.0)
    few = run(100.0, [put, call])
    many = run(100.0, [(*put[:3], 500.0 * times, *put[4:]), call])  # type: ignore[list-item]
    assert many.net < few.net
    if not math.isnan(many.zero):
        assert many.zero > few.zero
        width = iv * iv * years / math.log(103 / 97)  # ln of the ratio of two bells is a line
        assert math.log(many.zero / few.zero) == pytest.approx(math.log(times) * width, rel=1e-5, abs=1e-8)
    else:
        assert many.sign == -1


def test_wholly_long_and_wholly_short() -> None:
    years = [0.1, 0.2]
    calls: list[Option] = [(t, 100.0 + 3 * k, True, 100.0, 0.2, 100.0) for t in years for k in range(-5, 6)]
    puts: list[Option] = [(t, k, False, *rest) for t, k, _, *rest in calls]  # type: ignore[misc]
    for options, sign in ((calls, 1), (puts, -1)):
        found = run(100.0, options)
        assert (found.sign, found.status, found.reasons) == (sign, "ready", ("one_sided",))
        assert math.isnan(found.zero)
        assert found.net == sign * found.total_abs


def test_calls_and_puts_that_cancel_have_no_sign() -> None:
    found = run(100.0, [(0.1, 100.0, True, 100.0, 0.2, 100.0), (0.1, 100.0, False, 100.0, 0.2, 100.0)])
    assert (found.sign, found.status) == (0, "error")
    assert "no_sign" in found.reasons
    assert found.total_abs > 0


def test_the_nearest_of_several_levels_is_taken() -> None:
    """Short at both ends and long in the middle: two levels."""
    far: list[Option] = [
        (0.02, 90.0, False, 100.0, 0.15, 100.0),
        (0.02, 112.0, False, 100.0, 0.15, 100.0),
        (0.02, 100.0, True, 100.0, 0.15, 100.0),
    ]
    below, above = run(96.0, far), run(104.0, far)
    assert 94 < below.zero < 96
    assert 104 < above.zero < 107
    assert below.gap_pct > 0 > above.gap_pct
    assert run(99.0, far).zero == pytest.approx(below.zero, rel=1e-8)


def test_the_spot_on_its_level_has_a_gap_of_zero() -> None:
    level = math.sqrt(95 * 108) * math.exp(-(0.2**2 / 2) * 0.25)
    found = run(level, [(0.25, 95.0, False, 500.0, 0.2, 100.0), (0.25, 108.0, True, 500.0, 0.2, 100.0)])
    assert found.gap_pct == pytest.approx(0.0, abs=1e-7)


def test_rounding_far_from_all_strikes_makes_no_level() -> None:
    """Thirty times the puts, but so far away that neither has any gamma between: no change of sign to speak of."""
    options: list[Option] = [(0.004, 100.0, True, 100.0, 0.1, 100.0), (0.004, 60.0, False, 3000.0, 0.1, 100.0)]
    found = run(100.0, options)
    assert (found.status, found.sign) == ("ready", 1)
    assert math.isnan(found.zero)
    assert run(100.0, options, rules=LOOSE._replace(flat=0.0)).zero > 0  # without the rule there would be one


def test_nearest_is_nearest_in_price() -> None:
    """The kernel alone, on two bells that cross at 0.9 and 1.1 of the spot, a little more or less: in logarithms 1.1 is always the nearer."""
    for shift, level in ((-1e-4, 1.1), (1e-4, 0.9)):
        up, down = math.log(1.1), math.log(0.9)
        centre, half = (up + down) / 2 + shift, (up - down) / 2
        terms = np.array([[centre, centre], [4.0, 8.0], [1.0, -math.exp(0.5 * half**2 * (64 - 16))], [0, 0]], np.float64)
        grid = 0.005 * np.arange(-100, 101)
        calls, puts = np.empty(201), np.empty(201)
        gm.sweep(terms, 2, grid, calls, puts)
        ratio, whole = gm.level(terms, 2, grid, calls, puts, gm.Rules(tolerance=1e-12))
        assert whole == 0
        assert ratio == pytest.approx(level * math.exp(shift), rel=1e-9)


# --- symmetries -------------------------------------------------------------------------------------------------------------------


@given(st.lists(option, min_size=1, max_size=30), rates, st.integers(-20, 20))
def test_open_interest_has_no_unit(options: list[Option], rate: float, power: int) -> None:
    """Twice the contracts (a power of two, so that rounding is the same): the same level to the bit, and twice the money."""
    scale = 2.0**power
    one, other = run(1.0, options, rate), run(1.0, [(*o[:3], o[3] * scale, *o[4:]) for o in options], rate)  # type: ignore[list-item]
    assert np.array_equal([one.zero, one.gap_pct, one.sign], [other.zero, other.gap_pct, other.sign], equal_nan=True)
    assert (one.net * scale, one.total_abs * scale) == (other.net, other.total_abs)


@given(st.lists(option, min_size=1, max_size=30), rates, st.integers(-4, 14))
def test_the_index_has_no_unit(options: list[Option], rate: float, power: int) -> None:
    """SPX in points of another size: the same gap to the bit, and a level and money that scale."""
    scale = 2.0**power
    one, other = run(1.0, options, rate), run(scale, [(o[0], o[1] * scale, *o[2:]) for o in options], rate)  # type: ignore[list-item]
    assert np.array_equal([one.gap_pct, one.sign], [other.gap_pct, other.sign], equal_nan=True)
    assert np.array_equal(
        [one.zero * scale, one.net * scale, one.total_abs * scale], [other.zero, other.net, other.total_abs], equal_nan=True
    )


@given(st.lists(option, min_size=1, max_size=30), rates)
def test_puts_for_calls_turn_the_sign_and_keep_the_level(options: list[Option], rate: float) -> None:
    one, other = run(1.0, options, rate), run(1.0, [(*o[:2], not o[2], *o[3:]) for o in options], rate)  # type: ignore[list-item]
    assert np.array_equal([one.zero, one.gap_pct, one.total_abs], [other.zero, other.gap_pct, other.total_abs], equal_nan=True)
    assert (one.sign, one.net) == (-other.sign, -other.net)


@given(st.lists(option, min_size=2, max_size=30), st.randoms(use_true_random=False))
def test_the_order_of_options_does_not_matter(options: list[Option], rng: Any) -> None:
    mixed = list(options)
    rng.shuffle(mixed)
    one, other = run(1.0, options), run(1.0, mixed)
    assert one.total_abs == pytest.approx(other.total_abs, rel=1e-12)
    assert one.net == pytest.approx(other.net, rel=1e-9, abs=1e-12 * one.total_abs)


# --- which options count ----------------------------------------------------------------------------------------------------------


def chain(n: int = 30) -> list[Option]:
    return [(0.1, 86.0 + k, k % 2 == 0, 100.0, 0.2, 100.0) for k in range(n)]


@pytest.mark.parametrize(
    ("option", "reason"),
    [
        ((0.1, 100.0, True, 100.0, 0.2, 0.0), "invalid"),
        ((0.1, math.nan, True, 100.0, 0.2, 100.0), "invalid"),
        ((0.1, -1.0, True, 100.0, 0.2, 100.0), "invalid"),
        ((math.nan, 100.0, True, 100.0, 0.2, 100.0), "invalid"),
        ((0.1, 100.0, True, math.inf, 0.2, 100.0), "invalid"),
        ((0.0, 100.0, True, 100.0, 0.2, 100.0), "expired"),
        ((-0.1, 100.0, True, 0.0, math.nan, 100.0), "expired"),
        ((0.1, 100.0, True, 0.0, 0.2, 100.0), "no_open_interest"),
        ((0.1, 100.0, True, math.nan, 0.2, 100.0), "no_open_interest"),
        ((0.1, 100.0, True, -5.0, 0.2, 100.0), "no_open_interest"),
        ((0.1, 100.0, True, 100.0, math.nan, 100.0), "no_iv"),
        ((0.1, 100.0, True, 100.0, 0.0, 100.0), "no_iv"),
        ((0.1, 100.0, True, 100.0, 0.0099, 100.0), "iv_out_of_range"),
        ((0.1, 100.0, True, 100.0, 5.1, 100.0), "iv_out_of_range"),
        ((0.1, 49.9, True, 100.0, 0.2, 100.0), "strike_too_far"),
        ((0.1, 200.1, True, 100.0, 0.2, 100.0), "strike_too_far"),
    ],
)
def test_what_is_left_out_is_counted_and_changes_nothing(option: Option, reason: str) -> None:
    one, other = run(100.0, chain()), run(100.0, [*chain(), option, option])
    assert other.dropped == {reason: 2}
    assert (other.n_used, other.n_dropped) == (30, 2)
    assert other._replace(dropped={}, n_dropped=0, reasons=(), rankability="rankable") == one


@pytest.mark.parametrize(
    "option", [(0.1, 100.0, True, 100.0, 0.01, 100.0), (0.1, 100.0, True, 100.0, 5.0, 100.0), (0.1, 50.5, True, 1.0, 0.2, 1.0)]
)
def test_the_edges_count(option: Option) -> None:
    assert run(100.0, [*chain(), option]).n_used == 31


def test_an_option_on_its_last_day_is_taken_as_one_of_a_day() -> None:
    def at(years: float) -> gm.Gamma:
        return run(100.0, [*chain(), (years, 100.5, False, 5000.0, 0.15, 100.0)])

    day = at(1 / 262)
    assert at(1e-9) == at(1e-4) == day
    assert at(2 / 262).total_abs < day.total_abs


def test_rankability() -> None:
    strict = gm.Rules()
    assert run(100.0, chain(), rules=strict).rankability == "rankable"
    assert run(100.0, chain(19), rules=strict).reasons == ("few_options",)
    thin: list[Option] = [(*o[:3], 33.0, *o[4:]) for o in chain()]  # type: ignore[misc]
    assert run(100.0, thin, rules=strict).reasons == ("little_open_interest",)
    above: list[Option] = [(o[0], o[1] + 20, *o[2:]) for o in chain()]  # type: ignore[misc]
    assert run(100.0, above, rules=strict).reasons == ("strikes_one_sided",)
    unpriced: Option = (0.1, 100.0, True, 1000.0, math.nan, 100.0)
    assert run(100.0, [*chain(), unpriced], rules=strict).rankability == "rankable"  # a quarter is not more than a quarter
    assert run(100.0, [*chain(), (*unpriced[:3], 1001.0, *unpriced[4:])], rules=strict).reasons == ("unpriced_open_interest",)  # type: ignore[list-item]
    assert run(100.0, [*chain(), (0.1, 20.0, True, 1e6, math.nan, 100.0)], rules=strict).rankability == "rankable"  # far away anyhow


@pytest.mark.parametrize("spot", [0.0, -1.0, math.nan, math.inf])
def test_without_a_spot_there_is_nothing(spot: float) -> None:
    found = run(spot, chain())
    assert (found.status, found.reasons, found.n_used, found.dropped) == ("error", ("no_spot",), 0, {"no_spot": 30})


def test_without_options_there_is_nothing() -> None:
    found = run(100.0, [])
    assert (found.status, found.n_used, found.n_dropped, found.rankability) == ("error", 0, 0, "not_rankable")
    assert math.isnan(found.total_abs)


def test_bad_arguments_are_refused() -> None:
    one = np.ones(1)
    with pytest.raises(ValueError, match="one length"):
        gm.zero_gamma(1.0, 0.0, 0.0, one, one, np.ones(2, np.bool_), one, one, one)
    for bad in (gm.Rules(points=120), gm.Rules(points=1), gm.Rules(reach=0.0), gm.Rules(tolerance=0.0)):
        with pytest.raises(ValueError, match="odd number of points"):
            run(1.0, [], rules=bad)


# --- numbers ----------------------------------------------------------------------------------------------------------------------


@given(st.floats(-80.0, 80.0))
def test_exp_is_the_exponential(x: float) -> None:
    assert gm.exp(x) == pytest.approx(math.exp(x), rel=1e-13)


def test_the_sweep_runs_on_vectors_and_creates_nothing() -> None:
    """Without vectors it takes seven times as long. Kernels compiled without the run time that counts references cannot create arrays."""
    kernel: Any = Kernel(gm._add_bell.py_func, targetoptions={"nopython": True, "nogil": True, "_nrt": False})  # type: ignore[attr-defined]
    kernel.compile(tuple(typeof(value) for value in (np.zeros(3), np.zeros(3), 0.0, 1.0, 1.0)))
    (made,) = kernel.overloads.values()
    assert len(re.findall(r"fmul <\d+ x double>", made.library.get_llvm_str())) >= 10
    for name in ("sweep", "prepare", "level", "net_at", "bisect"):
        assert getattr(gm, name).targetoptions["_nrt"] is False


# --- chains -----------------------------------------------------------------------------------------------------------------------


def ns(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1_000_000_000


def test_time_to_the_close_in_new_york() -> None:
    years = gm.years_to(["2026-01-16", "2026-07-17", "2026-01-16", "2026-02-30"], ns("2026-01-16T20:00:00"))
    assert years[0] == years[2] == pytest.approx(3600 / (365 * 86_400))  # 16:00 in winter is 21:00 UTC
    assert years[1] == pytest.approx((182 * 86_400) / (365 * 86_400))  # and 20:00 UTC in summer
    assert math.isnan(years[3])
    assert gm.years_to(["2026-01-16"], ns("2026-01-16T21:00:00"))[0] == 0.0
    assert len(gm.years_to([], 0)) == 0


def test_a_chain_is_read_as_its_columns() -> None:
    as_of = ns("2026-01-15T21:00:00")
    quotes = [
        OptionQuote(expiry="2026-02-20", strike=6800.0 + 10 * k, right="C" if k > 18 else "P", open_interest=100.0 + k, iv=None if k == 5 else 0.15 + k / 1000)
        for k in range(40)
    ] + [OptionQuote(expiry="2026-01-15", strike=7000.0, right="C", open_interest=50.0, iv=0.2)]  # fmt: skip
    found = gm.gamma_of(OptionChain(spot=7000.0, rate=0.04, dividend_yield=0.013, options=quotes), as_of)
    options: list[Option] = [(36 / 365, q.strike, q.right == "C", q.open_interest, q.iv or math.nan, 100.0) for q in quotes[:40]]
    options.append((0.0, 7000.0, True, 50.0, 0.2, 100.0))
    assert found == run(7000.0, options, 0.04, 0.013, gm.Rules())
    assert found.dropped == {"expired": 1, "no_iv": 1}
    assert (found.status, found.rankability) == ("ready", "rankable")
