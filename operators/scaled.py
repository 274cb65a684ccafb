"""Exact arithmetic on scaled integers: rescaling, 128-bit notionals, averages. Kernels; no rounding but where a name says so.

A quantity times a price does not fit 64 bits once it is summed over an order, and AvgPx must be exact (reconciliation §5), so notionals are
128-bit two's complement in two uint64 words.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from schemas.fields import NULL
from schemas.jit import bare

POW10 = np.array([10**i for i in range(19)], np.int64)
LIMIT = 2**62
"""Scaled values at or above this are refused, so that sums of two and doubled prices stay in int64."""
TOO_PRECISE = NULL + 1
TOO_LARGE = NULL + 2


@bare
def rescale(mantissa: int, scale: int, target: int) -> int:
    """Return mantissa·10^-scale in units of 10^-target; NULL for a null (scale -1), TOO_PRECISE or TOO_LARGE if it has no such form.

    `scale` must be the least possible one, as decoded batches have it.
    """
    if scale < 0:
        return NULL
    if mantissa == 0:
        return 0
    if scale > target:
        return TOO_PRECISE
    factor = POW10[target - scale]
    bound = LIMIT // factor
    if mantissa >= bound or mantissa <= -bound:
        return TOO_LARGE
    return mantissa * factor


@bare
def trim(mantissa: int, scale: int) -> tuple[int, int]:
    """Return (mantissa, scale) without trailing zeros in the fraction."""
    if mantissa == 0:
        return 0, 0
    while scale > 0 and mantissa % 10 == 0:
        mantissa = mantissa // 10
        scale -= 1
    return mantissa, scale


@bare
def mul128(a: Any, b: Any) -> tuple[Any, Any]:
    """Return (high, low) of the product of two uint64."""
    mask = np.uint64(0xFFFFFFFF)
    shift = np.uint64(32)
    a0, a1 = a & mask, a >> shift
    b0, b1 = b & mask, b >> shift
    low = a0 * b0
    middle = a1 * b0 + (low >> shift)
    other = a0 * b1 + (middle & mask)
    return a1 * b1 + (middle >> shift) + (other >> shift), (other << shift) | (low & mask)


@bare
def add_product(hi: Any, lo: Any, qty: int, px: int, sign: int) -> tuple[Any, Any]:
    """Return (hi, lo) + sign·qty·px for qty, px ≥ 0, in 128 bits."""
    phi, plo = mul128(np.uint64(qty), np.uint64(px))
    if sign >= 0:
        total = lo + plo
        carry = np.uint64(1) if total < lo else np.uint64(0)
        return hi + phi + carry, total
    borrow = np.uint64(1) if lo < plo else np.uint64(0)
    return hi - phi - borrow, lo - plo


@bare
def divmod128(hi: Any, lo: Any, divisor: Any) -> tuple[Any, Any]:
    """Return (quotient, remainder) of hi:lo by a divisor below 2^63 when the quotient fits 64 bits (hi < divisor)."""
    if hi == np.uint64(0):
        return lo // divisor, lo % divisor
    one = np.uint64(1)
    rest = hi
    quotient = np.uint64(0)
    for i in range(63, -1, -1):
        rest = (rest << one) | ((lo >> np.uint64(i)) & one)
        quotient = quotient << one
        if rest >= divisor:
            rest = rest - divisor
            quotient = quotient | one
    return quotient, rest


@bare
def average(hi: Any, lo: Any, cum: int, px_scale: int) -> tuple[int, int]:
    """Return (mantissa, scale) of notional / cum rounded half to even at px_scale + 4 decimals, trimmed; (0, 0) when cum is 0.

    An average too large for that many decimals is given at px_scale decimals.
    """
    if cum <= 0:
        return 0, 0
    divisor = np.uint64(cum)
    whole, rest = divmod128(hi, lo, divisor)
    extra = 10_000
    scale = px_scale + 4
    if whole > np.uint64(LIMIT // 10_000):
        extra = 1
        scale = px_scale
    fhi, flo = mul128(rest, np.uint64(extra))
    part, left = divmod128(fhi, flo, divisor)
    value = np.int64(whole) * extra + np.int64(part)
    twice = left + left
    if twice > divisor or (twice == divisor and value % 2 == 1):
        value += 1
    return trim(value, scale)


@bare
def product(a: int, b: int, scale: int) -> tuple[int, int]:
    """Return (mantissa, scale) of a·b·10^-scale, trimmed; past 18 significant digits it is rounded, half to even, to fewer decimals."""
    negative = (a < 0) != (b < 0)
    hi, lo = mul128(np.uint64(abs(a)), np.uint64(abs(b)))
    bound = np.uint64(POW10[18])
    ten = np.uint64(10)
    last = np.uint64(0)
    sticky = False
    while (hi > np.uint64(0) or lo >= bound) and scale > 0:
        top = hi // ten
        carry = hi - top * ten
        low, digit = divmod128(carry, lo, ten)
        sticky = sticky or last != np.uint64(0)
        last = digit
        hi, lo = top, low
        scale -= 1
    value = np.int64(lo)
    if last > np.uint64(5) or (last == np.uint64(5) and (sticky or value % 2 == 1)):
        value += 1
    return trim(-value if negative else value, scale)


@bare
def mul_div(value: int, num: int, den: int) -> int:
    """Return value·num/den for non-negative numbers, rounded half to even."""
    hi, lo = mul128(np.uint64(value), np.uint64(num))
    whole, rest = divmod128(hi, lo, np.uint64(den))
    result = np.int64(whole)
    twice = rest + rest
    if twice > np.uint64(den) or (twice == np.uint64(den) and result % 2 == 1):
        result += 1
    return result
