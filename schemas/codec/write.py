"""Writing JSON values, in kernels: floats, decimals, times, escaped text, base64.

No field rules (encode.py) and no I/O. Rules: RFC 8259, RFC 4648 (base64), RFC 3339. All kernels write `out[pos:]` and return the
position after; the caller keeps room for what they may write and `words.PAD` bytes more.
"""

from __future__ import annotations

import numpy as np

from schemas.chunk import Bytes
from schemas.hashing import write_int_into
from schemas.jit import bare
from schemas.words import bits_of_float, copy32, i64, mulhi, stack_u64x40, to_escape32, trailing_zeros

MAX_NUMBER = 48
"""Bytes any number, UUID or time needs at most, quotes included."""
FLOAT_DECIMALS = 6
PLAIN_FLOAT_BELOW = 1e15

_HEX = np.frombuffer(b"0123456789abcdef", np.uint8).copy()
_BASE64 = np.frombuffer(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/", np.uint8).copy()


@bare
def write_padded(value: int, width: int, out: Bytes, pos: int) -> int:
    """Write a number of at most `width` digits with leading zeros; return the position after."""
    for i in range(width - 1, -1, -1):
        rest = value // 10
        out[pos + i] = 48 + value - rest * 10
        value = rest
    return pos + width


@bare
def write_decimal(mantissa: int, scale: int, out: Bytes, pos: int) -> int:
    """Write mantissa × 10^-scale (scale 0 to 18) in plain notation in quotes, without trailing zeros of the fraction."""
    out[pos] = 34
    pos += 1
    while scale > 0 and mantissa % 10 == 0:
        mantissa //= 10
        scale -= 1
    if scale == 0:
        pos += write_int_into(mantissa, out, pos)
    else:
        if mantissa < 0:
            out[pos] = 45
            pos += 1
            mantissa = -mantissa
        power = 1
        for _ in range(scale):
            power *= 10
        whole = mantissa // power
        pos += write_int_into(whole, out, pos)
        out[pos] = 46
        pos = write_padded(mantissa - whole * power, scale, out, pos + 1)
    out[pos] = 34
    return pos + 1


@bare
def write_big_float(value: float, out: Bytes, pos: int) -> int:
    """Write a finite float64 of at least 1e15 to 17 significant digits, which give back the same float64, as `1.25e+300`.

    Exact: the float is the integer mantissa × 2^exponent, multiplied out in limbs of 9 decimal digits.
    """
    bits = np.uint64(bits_of_float(value))
    exponent = i64((bits >> np.uint64(52)) & np.uint64(0x7FF)) - 1075
    mantissa = (bits & np.uint64(0xFFFFFFFFFFFFF)) | np.uint64(0x10000000000000)
    billion = np.uint64(1_000_000_000)
    limbs = stack_u64x40()
    shifted = 0
    if exponent < 0:  # below 2^53: up to 3 bits of fraction, so a thousand times the value is an integer, below 2^63
        mantissa = (mantissa * np.uint64(1000)) >> np.uint64(-exponent)
        shifted = 3
    n = 0
    while mantissa > np.uint64(0):
        limbs[n] = mantissa % billion
        mantissa = mantissa // billion
        n += 1
    while exponent > 0:
        step = min(exponent, 32)
        carry = np.uint64(0)
        for k in range(n):
            total = (limbs[k] << np.uint64(step)) + carry
            carry = total // billion
            limbs[k] = total - carry * billion
        while carry > np.uint64(0):
            limbs[n] = carry % billion
            carry = carry // billion
            n += 1
        exponent -= step
    # the leading limb has 1 to 9 digits; take digits until there are 17, then round half to even on what is left
    lead = 1
    power = np.uint64(10)
    while limbs[n - 1] >= power:
        lead += 1
        power *= np.uint64(10)
    size = lead + 9 * (n - 1)
    digits = np.uint64(0)
    taken = 0
    half = 0  # -1, 0, 1: what is left against a half of the last digit taken
    first_left = True
    rest = False
    for k in range(n - 1, -1, -1):
        count = lead if k == n - 1 else 9
        scale = np.uint64(1)
        for _ in range(count - 1):
            scale *= np.uint64(10)
        limb = limbs[k]
        for _ in range(count):
            digit = limb // scale
            limb -= digit * scale
            scale //= np.uint64(10)
            if taken < 17:
                digits = digits * np.uint64(10) + digit
                taken += 1
            elif first_left:
                first_left = False
                half = 1 if digit > np.uint64(5) else (0 if digit == np.uint64(5) else -1)
            elif digit != np.uint64(0):
                rest = True
    up = not first_left and (half > 0 or (half == 0 and (rest or (digits & np.uint64(1)) == np.uint64(1))))
    tens = size - 1 - shifted
    if up:
        digits += np.uint64(1)
        if digits == np.uint64(100_000_000_000_000_000):
            digits //= np.uint64(10)
            tens += 1
    while taken < 17:
        digits *= np.uint64(10)
        taken += 1
    fraction = 16
    while fraction > 0 and digits % np.uint64(10) == np.uint64(0):
        digits //= np.uint64(10)
        fraction -= 1
    scale = np.uint64(1)
    for _ in range(fraction):
        scale *= np.uint64(10)
    whole = digits // scale
    out[pos] = np.uint8(np.uint64(48) + whole)
    pos += 1
    if fraction > 0:
        out[pos] = 46
        pos = write_padded(i64(digits - whole * scale), fraction, out, pos + 1)
    out[pos] = 101
    out[pos + 1] = 43
    return pos + 2 + write_int_into(tens, out, pos + 2)


@bare
def write_float(value: float, out: Bytes, pos: int) -> int:
    """Write a finite float64 rounded to 6 decimals, half to even on its exact binary value; from 1e15 on with an exponent."""
    if value < 0.0:
        out[pos] = 45
        value = -value
        before = pos
        pos += 1
    else:
        before = -1
    if value >= PLAIN_FLOAT_BELOW:
        return write_big_float(value, out, pos)
    bits = np.uint64(bits_of_float(value))
    mantissa = bits & np.uint64(0xFFFFFFFFFFFFF)
    shift = 1075 - i64((bits >> np.uint64(52)) & np.uint64(0x7FF))
    if shift == 1075:
        shift = 1074
    else:
        mantissa |= np.uint64(0x10000000000000)
    # value = mantissa / 2^shift, shift ≥ 3 as value < 2^50; the fraction × 10^6 needs up to 73 bits
    whole = np.uint64(0)
    if shift < 53:
        whole = mantissa >> np.uint64(shift)
        mantissa -= whole << np.uint64(shift)
    million = np.uint64(1_000_000)
    high = mulhi(mantissa, million)
    low = mantissa * million
    one = np.uint64(1)
    micros = np.uint64(0)
    if shift < 64:
        left = low & ((one << np.uint64(shift)) - one)
        micros = (low >> np.uint64(shift)) | (high << np.uint64(64 - shift))
        half = one << np.uint64(shift - 1)
        up = left > half or (left == half and (micros & one) == one)
    elif shift == 64:
        micros = high
        half = one << np.uint64(63)
        up = low > half or (low == half and (micros & one) == one)
    elif shift < 96:
        micros = high >> np.uint64(shift - 64)
        left = high & ((one << np.uint64(shift - 64)) - one)
        half = one << np.uint64(shift - 65)
        up = left > half or (left == half and (low != np.uint64(0) or (micros & one) == one))
    else:
        up = False
    if up:
        micros += one
        if micros == million:
            micros = np.uint64(0)
            whole += one
    if before >= 0 and whole == np.uint64(0) and micros == np.uint64(0):
        pos = before  # no minus zero
    pos += write_int_into(i64(whole), out, pos)
    if micros != np.uint64(0):
        out[pos] = 46
        decimals = FLOAT_DECIMALS
        while micros % np.uint64(10) == np.uint64(0):
            micros //= np.uint64(10)
            decimals -= 1
        pos = write_padded(i64(micros), decimals, out, pos + 1)
    return pos


@bare
def write_rfc3339(ns: int, out: Bytes, pos: int) -> int:
    """Write ns since the epoch as an RFC 3339 UTC time with 9 decimals, in quotes (32 bytes)."""
    seconds = ns // 1_000_000_000
    nanos = ns - seconds * 1_000_000_000
    days = seconds // 86_400
    second = seconds - days * 86_400
    shifted = days + 719_468
    era = shifted // 146_097
    doe = shifted - era * 146_097
    yoe = (doe - doe // 1460 + doe // 36_524 - doe // 146_096) // 365
    doy = doe - (365 * yoe + yoe // 4 - yoe // 100)
    mp = (5 * doy + 2) // 153
    day = doy - (153 * mp + 2) // 5 + 1
    month = mp + 3 if mp < 10 else mp - 9
    year = yoe + era * 400 + (1 if month <= 2 else 0)
    out[pos] = 34
    pos = write_padded(year, 4, out, pos + 1)
    out[pos] = 45
    pos = write_padded(month, 2, out, pos + 1)
    out[pos] = 45
    pos = write_padded(day, 2, out, pos + 1)
    out[pos] = 84
    pos = write_padded(second // 3600, 2, out, pos + 1)
    out[pos] = 58
    pos = write_padded(second // 60 % 60, 2, out, pos + 1)
    out[pos] = 58
    pos = write_padded(second % 60, 2, out, pos + 1)
    out[pos] = 46
    pos = write_padded(nanos, 9, out, pos + 1)
    out[pos] = 90
    out[pos + 1] = 34
    return pos + 2


@bare
def _escape(c: int, out: Bytes, pos: int) -> int:
    out[pos] = 92
    short = 0
    if c == 34 or c == 92:
        short = c
    elif c == 8:
        short = 98
    elif c == 9:
        short = 116
    elif c == 10:
        short = 110
    elif c == 12:
        short = 102
    elif c == 13:
        short = 114
    if short != 0:
        out[pos + 1] = short
        return pos + 2
    out[pos + 1] = 117
    out[pos + 2] = 48
    out[pos + 3] = 48
    out[pos + 4] = _HEX[c >> 4]
    out[pos + 5] = _HEX[c & 15]
    return pos + 6


@bare
def write_text(arena: Bytes, size: int, at: int, length: int, out: Bytes, pos: int) -> int:
    """Write UTF-8 text as a JSON string: up to `6 * length + 2` bytes. `size` is the arena's, so that no block is read beyond it."""
    out[pos] = 34
    pos += 1
    end = at + length
    while at < end:
        if at + 32 <= size:
            copy32(out, pos, arena, at)
            run = trailing_zeros(to_escape32(arena, at) | (np.uint64(1) << np.uint64(32)))
            if run > end - at:
                run = end - at
            at += run
            pos += run
            if run == 32 or at >= end:
                continue
        c = i64(arena[at])
        at += 1
        if c < 32 or c == 34 or c == 92:
            pos = _escape(c, out, pos)
        else:
            out[pos] = c
            pos += 1
    out[pos] = 34
    return pos + 1


@bare
def write_raw(arena: Bytes, size: int, at: int, length: int, out: Bytes, pos: int) -> int:
    """Copy bytes as they are."""
    end = at + length
    while at < end and at + 32 <= size:
        copy32(out, pos, arena, at)
        at += 32
        pos += 32
    while at < end:
        out[pos] = arena[at]
        at += 1
        pos += 1
    return pos - (at - end)


@bare
def write_base64(arena: Bytes, at: int, length: int, out: Bytes, pos: int) -> int:
    """Write bytes as padded standard base64 in quotes: `4 * ceil(length / 3) + 2` bytes."""
    out[pos] = 34
    pos += 1
    whole = length - length % 3
    for i in range(at, at + whole, 3):
        word = (i64(arena[i]) << 16) | (i64(arena[i + 1]) << 8) | i64(arena[i + 2])
        out[pos] = _BASE64[word >> 18]
        out[pos + 1] = _BASE64[(word >> 12) & 63]
        out[pos + 2] = _BASE64[(word >> 6) & 63]
        out[pos + 3] = _BASE64[word & 63]
        pos += 4
    rest = length - whole
    if rest > 0:
        word = i64(arena[at + whole]) << 16
        if rest == 2:
            word |= i64(arena[at + whole + 1]) << 8
        out[pos] = _BASE64[word >> 18]
        out[pos + 1] = _BASE64[(word >> 12) & 63]
        out[pos + 2] = _BASE64[(word >> 6) & 63] if rest == 2 else 61
        out[pos + 3] = 61
        pos += 4
    out[pos] = 34
    return pos + 1
