"""operators/scaled.py against Python's unbounded integers and fractions."""

from fractions import Fraction

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from operators import scaled
from schemas.fields import NULL

words = st.integers(0, 2**62 - 1) | st.integers(0, 10**6)
u64 = np.uint64


def half_even(value: Fraction) -> int:
    return round(value)


@given(words, words)
def test_mul128_any_words_is_the_product(a: int, b: int) -> None:
    hi, lo = scaled.mul128(u64(a), u64(b))
    assert (int(hi) << 64) + int(lo) == a * b


@given(st.lists(st.tuples(words, words), max_size=4))
def test_add_product_added_and_taken_back_is_zero(parts: list[tuple[int, int]]) -> None:
    hi, lo = 0, 0
    for qty, px in parts:
        hi, lo = scaled.add_product(u64(hi), u64(lo), qty, px, 1)
    assert (int(hi) << 64) + int(lo) == sum(q * p for q, p in parts) % 2**128
    for qty, px in parts:
        hi, lo = scaled.add_product(u64(hi), u64(lo), qty, px, -1)
    assert (int(hi), int(lo)) == (0, 0)


@given(words, words, st.integers(1, 2**62 - 1))
def test_divmod128_quotient_in_range_is_exact(a: int, b: int, divisor: int) -> None:
    hi, lo = divmod(a * b, 2**64)
    if hi < divisor:
        quotient, rest = scaled.divmod128(u64(hi), u64(lo), u64(divisor))
        assert (int(quotient), int(rest)) == divmod(a * b, divisor)


@given(st.integers(1, 2**61), st.integers(1, 10**15), st.integers(0, 6))
def test_average_of_a_notional_is_rounded_half_even(qty: int, px: int, px_scale: int) -> None:
    hi, lo = divmod(qty * px + qty // 3, 2**64)
    mantissa, scale = scaled.average(u64(hi), u64(lo), qty, px_scale)
    exact = Fraction(qty * px + qty // 3, qty)
    decimals = px_scale + 4 if px <= scaled.LIMIT // 10_000 - 1 else px_scale
    assert Fraction(mantissa, 10**scale) == Fraction(half_even(exact * 10 ** (decimals - px_scale)), 10**decimals)


@given(st.integers(-(2**61), 2**61), st.integers(0, 2**61), st.integers(0, 18))
def test_product_up_to_18_digits_is_exact_else_rounded(a: int, b: int, scale: int) -> None:
    if abs(a * b) >= 10**18 * 10**scale:
        return  # no decimal string can carry it
    mantissa, places = scaled.product(a, b, scale)
    exact = Fraction(a * b, 10**scale)
    assert abs(mantissa) <= 10**18
    if abs(a * b) < 10**18:
        assert Fraction(mantissa, 10**places) == exact
    else:
        assert abs(Fraction(mantissa, 10**places) - exact) <= Fraction(1, 2) * abs(exact) / 10**16


@given(st.integers(-(10**18) + 1, 10**18 - 1), st.integers(0, 18), st.integers(0, 9))
def test_rescale_fits_or_says_why(mantissa: int, scale: int, target: int) -> None:
    while scale and mantissa % 10 == 0:
        mantissa, scale = mantissa // 10, scale - 1
    got = scaled.rescale(mantissa, scale if mantissa else 0, target)
    if mantissa == 0:
        assert got == 0
    elif scale > target:
        assert got == scaled.TOO_PRECISE
    elif abs(mantissa * 10 ** (target - scale)) < scaled.LIMIT - 10**18:
        assert got == mantissa * 10 ** (target - scale)


def test_rescale_null_stays_null() -> None:
    assert scaled.rescale(0, -1, 4) == NULL


@given(st.integers(0, 2**60), st.integers(1, 1000), st.integers(1, 1000))
def test_mul_div_is_rounded_half_even(value: int, num: int, den: int) -> None:
    if value * num // den < 2**62:
        assert scaled.mul_div(value, num, den) == half_even(Fraction(value * num, den))
