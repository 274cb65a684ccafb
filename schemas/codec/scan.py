"""Scanning JSON bytes, in kernels: white space, strings, numbers, whole values. What is JSON here is what pydantic's parser takes.

No field rules (decode.py) and no I/O. Rules: RFC 8259 and RFC 3629, plus the parser's own: `NaN`, `Infinity` and `-Infinity` are
values, containers nest 200 deep (an empty one may be deeper). The float conversion follows D. Lemire, "Number parsing at a
gigabyte per second" (2021); with at most 19 digits it is exact (Mushtak and Lemire, 2023).

All kernels read `buf[i:end]`; the caller keeps `words.PAD` readable bytes after `end`. A position below 0 is a syntax error,
noticed at `-position - 1`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from schemas.chunk import Bytes
from schemas.jit import bare
from schemas.words import i64, leading_zeros, load64, mulhi, not_plain32, trailing_zeros

MAX_DEPTH = 200
LONG_NUMBER = 300
"""A number of more characters gets a second look by pydantic, whose limit on digits is not ours to repeat."""

_QUOTE, _BACKSLASH = 34, 92


@bare
def skip_space(buf: Bytes, i: int, end: int) -> int:
    """Return the position of the first byte from `i` that is not JSON white space, at most `end`."""
    while i < end and (buf[i] == 32 or buf[i] == 10 or buf[i] == 13 or buf[i] == 9):
        i += 1
    return i


@bare
def utf8_step(buf: Bytes, i: int, end: int) -> int:
    """Return the length (2 to 4) of the UTF-8 sequence that begins at `i` with a byte beyond ASCII, 0 if it is not one."""
    c = buf[i]
    if c < 0xC2:
        return 0
    if c < 0xE0:
        n = 2
    elif c < 0xF0:
        n = 3
    elif c < 0xF5:
        n = 4
    else:
        return 0
    if i + n > end:
        return 0
    for k in range(1, n):
        if buf[i + k] & 0xC0 != 0x80:
            return 0
    d = buf[i + 1]
    if (c == 0xE0 and d < 0xA0) or (c == 0xED and d > 0x9F) or (c == 0xF0 and d < 0x90) or (c == 0xF4 and d > 0x8F):
        return 0
    return n


@bare
def utf8_fault(buf: Bytes, i: int, end: int) -> int:
    """Return the position of the first byte that makes `buf[i:end]` invalid UTF-8, -1 if it is valid."""
    while i < end:
        if buf[i] < 0x80:
            i += 1
        else:
            n = utf8_step(buf, i, end)
            if n == 0:
                return i
            i += n
    return -1


@bare
def _hex4(buf: Bytes, i: int, end: int) -> int:
    """Return the number 4 hexadecimal digits at `i` stand for, -1 if they do not."""
    if i + 4 > end:
        return -1
    value = 0
    for k in range(4):
        c = i64(buf[i + k])
        if 48 <= c <= 57:
            c -= 48
        elif 65 <= c <= 70:
            c -= 55
        elif 97 <= c <= 102:
            c -= 87
        else:
            return -1
        value = value * 16 + c
    return value


@bare
def _escape(buf: Bytes, i: int, end: int) -> tuple[int, int]:
    """Return (position after, code point) of the escape whose backslash is at `i`; (-position - 1, 0) if it is not one."""
    if i + 1 >= end:
        return -end - 1, 0
    c = buf[i + 1]
    if c == 34 or c == 92 or c == 47:
        return i + 2, i64(c)
    if c == 98:
        return i + 2, 8
    if c == 102:
        return i + 2, 12
    if c == 110:
        return i + 2, 10
    if c == 114:
        return i + 2, 13
    if c == 116:
        return i + 2, 9
    if c != 117:
        return -(i + 1) - 1, 0
    high = _hex4(buf, i + 2, end)
    if high < 0 or 0xDC00 <= high <= 0xDFFF:
        return -(i + 2) - 1, 0
    if high < 0xD800 or high > 0xDFFF:
        return i + 6, high
    if i + 8 > end or buf[i + 6] != 92 or buf[i + 7] != 117:
        return -(i + 6) - 1, 0
    low = _hex4(buf, i + 8, end)
    if low < 0xDC00 or low > 0xDFFF:
        return -(i + 6) - 1, 0
    return i + 12, 0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00)


@bare
def _put(buf: Bytes, at: int, point: int) -> int:
    """Write a code point as UTF-8 at `at`; return the position after."""
    if point < 0x80:
        buf[at] = point
        return at + 1
    if point < 0x800:
        buf[at] = 0xC0 | (point >> 6)
        buf[at + 1] = 0x80 | (point & 63)
        return at + 2
    if point < 0x10000:
        buf[at] = 0xE0 | (point >> 12)
        buf[at + 1] = 0x80 | ((point >> 6) & 63)
        buf[at + 2] = 0x80 | (point & 63)
        return at + 3
    buf[at] = 0xF0 | (point >> 18)
    buf[at + 1] = 0x80 | ((point >> 12) & 63)
    buf[at + 2] = 0x80 | ((point >> 6) & 63)
    buf[at + 3] = 0x80 | (point & 63)
    return at + 4


@bare
def _escaped_string(buf: Bytes, start: int, i: int, end: int, tail: int) -> tuple[int, int, int]:
    """Go on with a string that has its first backslash at `i`, writing its text at `tail`; return (position, length, extra)."""
    for k in range(start, i):
        buf[tail + k - start] = buf[k]
    extra = 0
    for k in range(start, i):
        if buf[k] & 0xC0 == 0x80:
            extra += 1
    at = tail + i - start
    while True:
        if i >= end:
            return -end - 1, 0, 0
        c = buf[i]
        if c == _QUOTE:
            return i + 1, at - tail, extra
        if c == _BACKSLASH:
            i, point = _escape(buf, i, end)
            if i < 0:
                return i, 0, 0
            after = _put(buf, at, point)
            extra += after - at - 1
            at = after
        elif c < 32:
            return -i - 1, 0, 0
        elif c < 0x80:
            buf[at] = c
            at += 1
            i += 1
        else:
            n = utf8_step(buf, i, end)
            if n == 0:
                return -i - 1, 0, 0
            for k in range(n):
                buf[at + k] = buf[i + k]
            extra += n - 1
            at += n
            i += n


@bare
def scan_string(buf: Bytes, i: int, end: int, tail: int) -> tuple[int, int, int, int]:
    """Read the string whose opening quote is at `i - 1`; return (position after, start, length in bytes, extra).

    `length - extra` is the number of code points. A string with escapes is written out at `tail`, and begins there; it is never
    longer than it was. The caller moves its tail to keep it.
    """
    start = i
    extra = 0
    while True:
        stop = not_plain32(buf, i)
        if stop == np.uint64(0):
            i += 32
            if i >= end:
                return -end - 1, 0, 0, 0
            continue
        i += trailing_zeros(stop)
        if i >= end:
            return -end - 1, 0, 0, 0
        c = buf[i]
        if c == _QUOTE:
            return i + 1, start, i - start, extra
        if c >= 0x80:
            n = utf8_step(buf, i, end)
            if n == 0:
                return -i - 1, 0, 0, 0
            extra += n - 1
            i += n
        elif c == _BACKSLASH:
            after, length, more = _escaped_string(buf, start, i, end, tail)
            return after, tail, length, more
        else:
            return -i - 1, 0, 0, 0


@bare
def skip_string(buf: Bytes, i: int, end: int) -> int:
    """Return the position after the string whose opening quote is at `i - 1`."""
    while True:
        stop = not_plain32(buf, i)
        if stop == np.uint64(0):
            i += 32
            if i >= end:
                return -end - 1
            continue
        i += trailing_zeros(stop)
        if i >= end:
            return -end - 1
        c = buf[i]
        if c == _QUOTE:
            return i + 1
        if c >= 0x80:
            n = utf8_step(buf, i, end)
            if n == 0:
                return -i - 1
            i += n
        elif c == _BACKSLASH:
            i, _ = _escape(buf, i, end)
            if i < 0:
                return i
        else:
            return -i - 1


@bare
def _digits(buf: Bytes, i: int, end: int) -> int:
    while i < end and 48 <= buf[i] <= 57:
        i += 1
    return i


@bare
def skip_number(buf: Bytes, i: int, end: int) -> tuple[int, bool]:
    """Return (position after the number at `i`, whether it is an integer)."""
    if buf[i] == 45:
        i += 1
    first = i
    i = _digits(buf, i, end)
    if i == first:
        return -i - 1, False
    if buf[first] == 48 and i > first + 1:
        return -(first + 1) - 1, False
    whole = True
    if i < end and buf[i] == 46:
        whole = False
        first = i + 1
        i = _digits(buf, first, end)
        if i == first:
            return -i - 1, False
    if i < end and (buf[i] | 32) == 101:
        whole = False
        i += 1
        if i < end and (buf[i] == 43 or buf[i] == 45):
            i += 1
        first = i
        i = _digits(buf, first, end)
        if i == first:
            return -i - 1, False
    return i, whole


@bare
def _word(buf: Bytes, i: int, end: int, text: bytes) -> int:
    """Return the position after `text` at `i`; a syntax error where it differs."""
    for k in range(len(text)):
        if i + k >= end or buf[i + k] != text[k]:
            return -min(i + k, end) - 1
    return i + len(text)


ODD_NUMBER = 1
"""Flag of `skip_value`: it passed a number longer than `LONG_NUMBER`."""
NOT_FINITE = 2
"""Flag of `skip_value`: it passed NaN, Infinity or -Infinity."""


@bare
def skip_value(buf: Bytes, i: int, end: int, depth: int, stack: Bytes) -> tuple[int, int]:
    """Return (position after the value that begins at or after `i`, flags). `depth` containers are open around it.

    stack: `(MAX_DEPTH + 2,)` uint8 scratch.
    """
    flags = 0
    d = depth
    while True:
        i = skip_space(buf, i, end)
        if i >= end:
            return -end - 1, flags
        c = buf[i]
        opened = False
        if c == _QUOTE:
            i = skip_string(buf, i + 1, end)
        elif c == 123 or c == 91:
            i = skip_space(buf, i + 1, end)
            if i < end and buf[i] == c + 2:
                i += 1
            elif d >= MAX_DEPTH:
                return -i - 1, flags
            else:
                d += 1
                stack[d] = c
                opened = True
        elif 48 <= c <= 57 or (c == 45 and i + 1 < end and buf[i + 1] != 73):
            start = i
            i, _ = skip_number(buf, i, end)
            if i - start > LONG_NUMBER:
                flags |= ODD_NUMBER
        elif c == 116:
            i = _word(buf, i, end, b"true")
        elif c == 102:
            i = _word(buf, i, end, b"false")
        elif c == 110:
            i = _word(buf, i, end, b"null")
        elif c == 78:
            i = _word(buf, i, end, b"NaN")
            flags |= NOT_FINITE
        elif c == 73:
            i = _word(buf, i, end, b"Infinity")
            flags |= NOT_FINITE
        elif c == 45:
            i = _word(buf, i, end, b"-Infinity")
            flags |= NOT_FINITE
        else:
            return -i - 1, flags
        if i < 0:
            return i, flags
        while not opened:
            if d == depth:
                return i, flags
            i = skip_space(buf, i, end)
            if i >= end:
                return -end - 1, flags
            c = buf[i]
            if c == 44:
                i = skip_space(buf, i + 1, end)
                break
            if c != stack[d] + 2:
                return -i - 1, flags
            i += 1
            d -= 1
        if stack[d] == 123:
            if i >= end or buf[i] != _QUOTE:
                return -min(i, end) - 1, flags
            i = skip_string(buf, i + 1, end)
            if i < 0:
                return i, flags
            i = skip_space(buf, i, end)
            if i >= end or buf[i] != 58:
                return -min(i, end) - 1, flags
            i += 1


NUMBER_OK, NUMBER_FRACTION, NUMBER_BIG = 0, 1, 2


@bare
def scan_int(buf: Bytes, i: int, end: int) -> tuple[int, int, int]:
    """Read the number at `i`; return (position after, value, NUMBER_OK / _FRACTION (not an integer) / _BIG (beyond int64))."""
    start = i
    negative = buf[i] == 45
    if negative:
        i += 1
    first = i
    value = np.uint64(0)
    word = load64(buf, i)
    while i + 8 <= end and _all_digits(word):
        value = value * np.uint64(100_000_000) + _eight(word)
        i += 8
        if i - first > 16:
            break
        word = load64(buf, i)
    while i < end and 48 <= buf[i] <= 57:
        value = value * np.uint64(10) + np.uint64(buf[i] - 48)
        i += 1
    n = i - first
    if n == 0 or (n > 1 and buf[first] == 48) or (i < end and (buf[i] == 46 or (buf[i] | 32) == 101)):
        after, _ = skip_number(buf, start, end)
        return after, 0, NUMBER_FRACTION
    if n > 19 or value > np.uint64(0x7FFFFFFFFFFFFFFF):
        return i, 0, NUMBER_BIG
    signed = i64(value)
    return i, (-signed if negative else signed), NUMBER_OK


@bare
def _all_digits(word: np.uint64) -> bool:
    """Return whether 8 bytes are ASCII digits: the high nibbles are 3, also after adding 6."""
    high = np.uint64(0xF0F0F0F0F0F0F0F0)
    three = np.uint64(0x3030303030303030)
    return bool((word & high) == three and ((word + np.uint64(0x0606060606060606)) & high) == three)


@bare
def _eight(word: np.uint64) -> np.uint64:
    """Return the number 8 ASCII digits stand for, by pairs, fours and eights."""
    word -= np.uint64(0x3030303030303030)
    word = word * np.uint64(10) + (word >> np.uint64(8))
    low = (word & np.uint64(0x000000FF000000FF)) * np.uint64(0x000F424000000064)
    high = ((word >> np.uint64(16)) & np.uint64(0x000000FF000000FF)) * np.uint64(0x0000271000000001)
    return ((low + high) & np.uint64(0xFFFFFFFFFFFFFFFF)) >> np.uint64(32)


_LOWEST_POWER, _HIGHEST_POWER = -342, 308


def _powers_of_five() -> NDArray[np.uint64]:
    """Return `(n, 2)` uint64: the leading 128 bits of 5^q, q from -342 to 308 (rounded up where q is negative)."""
    rows = []
    for q in range(_LOWEST_POWER, _HIGHEST_POWER + 1):
        if q >= 0:
            power = 5**q
            shift = 128 - power.bit_length()
            bits = power << shift if shift >= 0 else power >> -shift
        else:
            power = 5**-q
            # 2^(bit_length + 127) / 5^-q has 128 bits, as a power of 5 is never a power of 2
            bits = (1 << (power.bit_length() + 127)) // power + 1
        rows.append((bits >> 64, bits & 0xFFFFFFFFFFFFFFFF))
    return np.array(rows, np.uint64)


_POWERS = _powers_of_five()


@bare
def compose_float(mantissa: np.uint64, q: int, negative: bool) -> int:
    """Return the bits of the float64 nearest to ±mantissa × 10^q (ties to even); the bits of infinity if it is too big."""
    sign = np.uint64(0x8000000000000000) if negative else np.uint64(0)
    one = np.uint64(1)
    if mantissa == np.uint64(0) or q < _LOWEST_POWER:
        return i64(sign)
    if q > _HIGHEST_POWER:
        return i64(sign | np.uint64(0x7FF0000000000000))
    zeros = leading_zeros(mantissa)
    w = mantissa << np.uint64(zeros)
    high = mulhi(w, _POWERS[q - _LOWEST_POWER, 0])
    low = w * _POWERS[q - _LOWEST_POWER, 0]
    if (high & np.uint64(0x1FF)) == np.uint64(0x1FF):
        more = mulhi(w, _POWERS[q - _LOWEST_POWER, 1])
        low = low + more
        if more > low:
            high += one
    upper = i64(high >> np.uint64(63))
    m = high >> np.uint64(upper + 9)
    exponent = ((217_706 * q) >> 16) + 63 + upper - zeros + 1023
    if exponent <= 0:
        if 1 - exponent >= 64:
            return i64(sign)
        m = m >> np.uint64(1 - exponent)
        m = (m + (m & one)) >> one
        return i64(sign | m)  # a carry into bit 52 makes it the smallest normal number
    if low <= one and -4 <= q <= 23 and (m & np.uint64(3)) == one and (m << np.uint64(upper + 9)) == high:
        m &= ~one
    m = (m + (m & one)) >> one
    if m >= np.uint64(0x20000000000000):
        m = np.uint64(0x10000000000000)
        exponent += 1
    if exponent >= 0x7FF:
        return i64(sign | np.uint64(0x7FF0000000000000))
    return i64(sign | (np.uint64(exponent) << np.uint64(52)) | (m & np.uint64(0xFFFFFFFFFFFFF)))


@bare
def scan_float(buf: Bytes, i: int, end: int) -> tuple[int, int, bool]:
    """Read the number at `i`; return (position after, bits of the float64, whether these are exact).

    They are not when it has more than 19 significant digits or more than `LONG_NUMBER` characters.
    """
    start = i
    after, whole = skip_number(buf, i, end)
    if after < 0:
        return after, 0, True
    if after - start > LONG_NUMBER:
        return after, 0, False
    negative = buf[i] == 45
    if negative:
        i += 1
    mantissa = np.uint64(0)
    n = 0
    q = 0
    fraction = False
    while i < after:
        c = buf[i]
        if c == 46:
            fraction = True
        elif c >= 48 and c <= 57:
            if mantissa != np.uint64(0) or c != 48:
                n += 1
            if n <= 19:
                mantissa = mantissa * np.uint64(10) + np.uint64(c - 48)
            if fraction:
                q -= 1
        else:
            break
        i += 1
    if n > 19:
        return after, 0, False
    if i < after:
        i += 1
        minus = buf[i] == 45
        if minus or buf[i] == 43:
            i += 1
        exponent = 0
        while i < after:
            exponent = min(exponent * 10 + i64(buf[i] - 48), 100_000)
            i += 1
        q += -exponent if minus else exponent
    if whole and mantissa == np.uint64(0):
        negative = False  # the integer -0 is 0
    return after, compose_float(mantissa, q, negative), True


@bare
def days_from_civil(year: int, month: int, day: int) -> int:
    """Return days since 1970-01-01 of a date of the Gregorian calendar, years 1 and later."""
    y = year - 1 if month <= 2 else year
    shifted = month + 9 if month <= 2 else month - 3
    era = y // 400
    yoe = y - era * 400
    doy = (153 * shifted + 2) // 5 + day - 1
    return era * 146_097 + yoe * 365 + yoe // 4 - yoe // 100 + doy - 719_468
