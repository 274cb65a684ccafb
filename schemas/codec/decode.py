"""Chunk of bytes → columns and rejects: one pass of one kernel over all records of a chunk, driven by a compiled table.

It accepts and rejects what the pydantic model does, and gives the same values; a record that needs rare machinery (a repeated
field, a number of hostile length, NaN kept as data) is put to pydantic itself. Nothing is raised for bad data. Rules:
schemas/fields.py, schemas/layout.py, reason codes of schemas/reasons.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError

from schemas.chunk import Bytes, Ints, join
from schemas.codec.scan import (
    LONG_NUMBER,
    NOT_FINITE,
    NUMBER_OK,
    ODD_NUMBER,
    days_from_civil,
    scan_float,
    scan_int,
    scan_string,
    skip_space,
    skip_value,
    utf8_fault,
)
from schemas.codec.table import (
    BOOL,
    DECIMAL,
    ENUM,
    F_CHARSET,
    F_COLUMN,
    F_HI,
    F_KIND,
    F_LO,
    F_MAX,
    F_MIN,
    F_NAME,
    F_NAME_LEN,
    F_NODE,
    F_NULLABLE,
    F_PREFIX,
    F_PREFIX_LEN,
    F_REASON,
    F_REQUIRED,
    F_SIZE,
    F_SLOT,
    FLOAT,
    INT,
    JSON,
    LIST,
    N_COLUMN,
    N_COUNT,
    N_FIRST,
    N_FORBID,
    N_REQUIRED,
    N_SIZE,
    OBJECT,
    RFC3339,
    TEXT,
    TOKEN,
    UUID,
    Compiled,
    Table,
    View,
    compile_layout,
    find,
    same,
    view,
)
from schemas.fields import Spec
from schemas.jit import bare
from schemas.layout import Layout, layout_of
from schemas.reasons import Reason
from schemas.registry import MAX_RECORD_BYTES
from schemas.words import PAD, float_of_bits, i64, load32, load64, not_base64_32, not_hex32, pointer

_MALFORMED, _ENCODING = int(Reason.json_malformed), int(Reason.encoding_invalid)
_MISSING, _INVALID, _OVERSIZE = int(Reason.field_missing), int(Reason.field_invalid), int(Reason.oversize)

# what the kernel says of a record, beside its reason
_DONE, _SLOW = 0, 1
# columns of a frame: one per open container that the table knows
_LISTING, _NODE, _COUNT, _LAST, _BASE, _STAMP, _FIELD = range(7)
_FRAME = 8
# what comes next
_OPEN, _MEMBER, _ELEMENT, _AFTER, _CLOSE = range(5)


@bare
def _decimal(buf: Bytes, at: int, length: int) -> tuple[bool, int, int]:
    """Return (whether it is one, mantissa, scale) of a decimal string in plain notation."""
    i = at
    end = at + length
    negative = length > 0 and buf[i] == 45
    if negative:
        i += 1
    first = i
    mantissa = 0
    n = 0
    while i < end and 48 <= buf[i] <= 57:
        digit = i64(buf[i]) - 48
        if mantissa != 0 or digit != 0:
            n += 1
        if n <= 18:
            mantissa = mantissa * 10 + digit
        i += 1
    whole = i - first
    if whole == 0 or whole > 18 or (whole > 1 and buf[first] == 48):
        return False, 0, 0
    scale = 0
    if i < end:
        if buf[i] != 46:
            return False, 0, 0
        i += 1
        first = i
        zeros = 0
        while i < end and 48 <= buf[i] <= 57:
            digit = i64(buf[i]) - 48
            if digit == 0:
                zeros += 1
            else:
                while zeros > 0:
                    if mantissa != 0:
                        n += 1
                    if n <= 18:
                        mantissa *= 10
                    zeros -= 1
                n += 1
                if n <= 18:
                    mantissa = mantissa * 10 + digit
                scale = i - first + 1
            i += 1
        if i < end or i == first or i - first > 18:
            return False, 0, 0
    return n <= 18, (-mantissa if negative else mantissa), scale


@bare
def _nibbles(word: np.uint64) -> np.uint64:
    """Return the 32 bit number 8 hexadecimal digits (valid ones, first in the lowest byte) stand for."""
    x = (word & np.uint64(0x0F0F0F0F0F0F0F0F)) + np.uint64(9) * ((word >> np.uint64(6)) & np.uint64(0x0101010101010101))
    x = ((x << np.uint64(4)) | (x >> np.uint64(8))) & np.uint64(0x00FF00FF00FF00FF)
    x = (
        ((x & np.uint64(0xFF)) << np.uint64(24))
        | (x & np.uint64(0xFF0000))
        | ((x >> np.uint64(24)) & np.uint64(0xFF00))
        | (x >> np.uint64(48))
    )
    return x


@bare
def _uuid(buf: Bytes, at: int, length: int) -> tuple[bool, int, int]:
    """Return (whether it is a UUID in the 8-4-4-4-12 form and not the nil one, high, low)."""
    if (
        length != 36
        or not_hex32(buf, at) != np.uint64(0x842100)
        or (not_hex32(buf, at + 4) >> np.uint64(28)) & np.uint64(15) != np.uint64(0)
    ):
        return False, 0, 0
    if buf[at + 8] != 45 or buf[at + 13] != 45 or buf[at + 18] != 45 or buf[at + 23] != 45:
        return False, 0, 0
    high = _nibbles(load64(buf, at)) << np.uint64(32)
    high |= _nibbles(load32(buf, at + 9) | (load32(buf, at + 14) << np.uint64(32)))
    low = _nibbles(load32(buf, at + 19) | (load32(buf, at + 24) << np.uint64(32))) << np.uint64(32)
    low |= _nibbles(load64(buf, at + 28))
    return (high | low) != np.uint64(0), i64(high), i64(low)


@bare
def _two(buf: Bytes, at: int) -> int:
    """Return the number two digits stand for, -1 if they are not digits."""
    a, b = i64(buf[at]) - 48, i64(buf[at + 1]) - 48
    if a < 0 or a > 9 or b < 0 or b > 9:
        return -1
    return a * 10 + b


@bare
def _rfc3339(buf: Bytes, at: int, length: int) -> tuple[bool, int]:
    """Return (whether it is an RFC 3339 UTC time of the years 2000 to 2099, ns since the epoch)."""
    if length < 20 or length > 30 or length == 21 or buf[at + length - 1] != 90:
        return False, 0
    if buf[at] != 50 or buf[at + 1] != 48 or buf[at + 4] != 45 or buf[at + 7] != 45 or buf[at + 10] != 84:
        return False, 0
    if buf[at + 13] != 58 or buf[at + 16] != 58:
        return False, 0
    year, month, day = _two(buf, at + 2), _two(buf, at + 5), _two(buf, at + 8)
    hour, minute, second = _two(buf, at + 11), _two(buf, at + 14), _two(buf, at + 17)
    if year < 0 or month < 1 or month > 12 or day < 1 or hour < 0 or hour > 23 or minute < 0 or minute > 59 or second < 0 or second > 59:
        return False, 0
    last = 31
    if month == 2:
        last = 29 if year % 4 == 0 else 28  # 2000 is a leap year
    elif month == 4 or month == 6 or month == 9 or month == 11:
        last = 30
    if day > last:
        return False, 0
    nanos = 0
    if length > 20:
        if buf[at + 19] != 46:
            return False, 0
        for i in range(at + 20, at + length - 1):
            digit = i64(buf[i]) - 48
            if digit < 0 or digit > 9:
                return False, 0
            nanos = nanos * 10 + digit
        for _ in range(30 - length):
            nanos *= 10
    seconds = days_from_civil(2000 + year, month, day) * 86_400 + hour * 3600 + minute * 60 + second
    return True, seconds * 1_000_000_000 + nanos


@bare
def _is_base64(buf: Bytes, at: int, length: int) -> bool:
    """Return whether it is padded standard base64."""
    if length & 3 != 0:
        return False
    n = length
    if n > 0 and buf[at + n - 1] == 61:
        n -= 2 if buf[at + n - 2] == 61 else 1
    i = 0
    while i < n:
        bad = not_base64_32(buf, at + i)
        if n - i < 32:
            bad &= (np.uint64(1) << np.uint64(n - i)) - np.uint64(1)
        if bad != np.uint64(0):
            return False
        i += 32
    return True


@bare
def _is_token(t: View, f: int, buf: Bytes, at: int, length: int) -> bool:
    prefix = t.fields[f * F_SIZE + F_PREFIX_LEN]
    n = length - prefix
    if n < t.fields[f * F_SIZE + F_MIN] or n > t.fields[f * F_SIZE + F_MAX]:
        return False
    if prefix > 0 and not same(buf, at, t.names, t.fields[f * F_SIZE + F_PREFIX], prefix):
        return False
    row = t.fields[f * F_SIZE + F_CHARSET]
    fine = np.uint8(1)
    for i in range(at + prefix, at + length):
        fine &= t.charsets[row * 256 + buf[i]]
    return bool(fine != 0)


@bare
def _literal(buf: Bytes, i: int, end: int, first: int, rest: int) -> bool:
    """Return whether 4 bytes at `i` are the word given as a little-endian number (`rest` more must fit before `end`)."""
    return bool(i + 4 + rest <= end and load32(buf, i) == np.uint64(first))


_NULL, _TRUE, _FALS = (int.from_bytes(word, "little") for word in (b"null", b"true", b"fals"))


@bare
def _value(t: View, f: int, buf: Bytes, i: int, end: int, tail: int, row: Ints, base: int) -> tuple[int, int, bool, bool]:
    """Read the scalar of field f whose first byte is at `i` into `row[base:]`.

    Return (position after, tail, whether it is good, whether it needs a second look). A value of another type is not read: the
    position is then `i` itself.
    """
    kind = t.fields[f * F_SIZE + F_KIND]
    slot = base + t.fields[f * F_SIZE + F_SLOT]
    c = buf[i]
    if c == 34:
        if kind in (INT, FLOAT, BOOL, JSON):
            return i, tail, False, False
        after, at, length, extra = scan_string(buf, i + 1, end, tail)
        if after < 0:
            return after, tail, False, False
        if kind == ENUM:
            code = find(t, -1 - f, buf, at, length)
            if code < 0:
                return after, tail, False, False
            row[slot] = code
            return after, tail, True, False
        if kind == DECIMAL:
            good, mantissa, scale = _decimal(buf, at, length)
            if not good or mantissa < t.fields[f * F_SIZE + F_LO]:
                return after, tail, False, False
            row[slot] = mantissa
            row[slot + 1] = scale
            return after, tail, True, False
        if kind == UUID:
            good, high, low = _uuid(buf, at, length)
            row[slot] = high
            row[slot + 1] = low
            return after, tail, good, False
        if kind == RFC3339:
            good, ns = _rfc3339(buf, at, length)
            row[slot] = ns
            return after, tail, good, False
        if kind == TEXT:
            points = length - extra
            good = points >= t.fields[f * F_SIZE + F_MIN] and points <= t.fields[f * F_SIZE + F_MAX]
        elif kind == TOKEN:
            good = _is_token(t, f, buf, at, length)
        else:
            good = _is_base64(buf, at, length)
        row[slot] = at
        row[slot + 1] = length
        if at == tail:
            tail += length
        return after, tail, good, False
    if c == 110 and t.fields[f * F_SIZE + F_NULLABLE] != 0 and _literal(buf, i, end, _NULL, 0):
        return i + 4, tail, True, False
    if kind == INT and (48 <= c <= 57 or c == 45):
        after, number, state = scan_int(buf, i, end)
        if after < 0:
            return i, tail, False, False  # it may be -Infinity
        good = state == NUMBER_OK and number >= t.fields[f * F_SIZE + F_LO] and number <= t.fields[f * F_SIZE + F_HI]
        row[slot] = number
        return after, tail, good, after - i > LONG_NUMBER
    if kind == FLOAT and (48 <= c <= 57 or c == 45):
        after, bits, exact = scan_float(buf, i, end)
        if after < 0:
            return i, tail, False, False
        row[slot] = bits
        if not exact:
            return after, tail, True, True
        number64 = float_of_bits(bits)
        good = np.isfinite(number64) and number64 >= t.bounds[2 * f] and number64 <= t.bounds[2 * f + 1]
        return after, tail, good, False
    if kind == BOOL:
        if _literal(buf, i, end, _TRUE, 0):
            row[slot] = 1
            return i + 4, tail, True, False
        if _literal(buf, i, end, _FALS, 1) and buf[i + 4] == 101:
            row[slot] = 0
            return i + 5, tail, True, False
    return i, tail, False, False


@bare
def _fill(out: Any, at: int, template: Any, width: int) -> None:
    for k in range(width):
        out[at + k] = template[k]


class Scratch(NamedTuple):
    """What the kernel keeps between calls of one chunk.

    follow: `(n_fields + n_nodes,)` int64, which field came after which the last time. seen: `(n_fields + 1,)` int64, stamp of the
    object a field was last seen in, and the last stamp given. frames: `(depth, 8)` int64. stack: `(256,)` uint8.
    """

    follow: Ints
    seen: Ints
    frames: Ints
    stack: Bytes


@bare
def _scan(
    table: Table,
    scratch: Scratch,
    arena: Bytes,
    bounds: Ints,
    start: int,
    slots: Ints,
    next_item: int,
    tail: int,
    trusted: bool,
    reason: NDArray[np.int16],
    where: NDArray[np.int32],
    state: NDArray[np.uint8],
) -> tuple[int, int, int]:
    """Read records from `start` on; return (the record it stopped before, n when all are read; next item; tail).

    slots: rows `(n, width)` flat, then list elements of equal stride; when these are used up it stops and wants a longer one. where:
    `(n, 3)` int32: position, column, field.
    """
    n = len(bounds) - 1
    t = view(table)
    buf = pointer(arena)
    out = pointer(slots)
    frames = pointer(scratch.frames)
    seen = pointer(scratch.seen)
    follow = pointer(scratch.follow)
    stack = pointer(scratch.stack)
    room = len(slots)
    width = t.width
    stride = t.stride
    n_fields = t.n_fields
    stamp = seen[n_fields]
    for r in range(start, n):
        origin = bounds[r]
        end = bounds[r + 1]
        row = r * width
        _fill(out, row, t.template, t.width)
        if end - origin > MAX_RECORD_BYTES and not trusted:
            reason[r] = _OVERSIZE
            where[r, 0] = MAX_RECORD_BYTES
            where[r, 1] = -1
            where[r, 2] = -1
            continue
        tail0 = tail
        item0 = next_item
        slow = False
        fault = 0
        fault_at = -1
        fault_column = -1
        fault_field = -1
        missing = -1
        missing_at = -1
        error = -1
        sp = 0
        doing = _OPEN
        i = skip_space(buf, origin, end)
        if i < end and buf[i] == 123:
            i += 1
            stamp += 1
            frames[0 * _FRAME + _LISTING] = 0
            frames[0 * _FRAME + _NODE] = 0
            frames[0 * _FRAME + _COUNT] = 0
            frames[0 * _FRAME + _LAST] = n_fields
            frames[0 * _FRAME + _BASE] = row
            frames[0 * _FRAME + _STAMP] = stamp
        else:
            error = i
        while error < 0:
            if doing == _OPEN:
                if i < end and buf[i] == 125:
                    doing = _CLOSE
                else:
                    i = skip_space(buf, i, end)
                    doing = _CLOSE if i < end and buf[i] == 125 else _MEMBER
            if doing == _MEMBER:
                last = frames[sp * _FRAME + _LAST]
                f = follow[last]
                if (
                    f >= 0
                    and i + t.fields[f * F_SIZE + F_NAME_LEN] <= end
                    and same(buf, i, t.names, t.fields[f * F_SIZE + F_NAME], t.fields[f * F_SIZE + F_NAME_LEN])
                ):
                    i += t.fields[f * F_SIZE + F_NAME_LEN]
                    key = i
                else:
                    key = i
                    if i >= end or buf[i] != 34:
                        error = i
                        break
                    i, at, length, _ = scan_string(buf, i + 1, end, tail)
                    if i < 0:
                        error = -i - 1
                        break
                    f = find(t, frames[sp * _FRAME + _NODE], buf, at, length)
                    i = skip_space(buf, i, end)
                    if i >= end or buf[i] != 58:
                        error = i
                        break
                    i += 1
                    if f >= 0:
                        follow[last] = f
                if i < end and buf[i] <= 32:
                    i = skip_space(buf, i, end)
                if i >= end:
                    error = end
                    break
                if f < 0:
                    if t.nodes[frames[sp * _FRAME + _NODE] * N_SIZE + N_FORBID] != 0 and fault_at < 0:
                        fault = _INVALID
                        fault_at = key
                        fault_column = t.nodes[frames[sp * _FRAME + _NODE] * N_SIZE + N_COLUMN]
                        fault_field = -1
                    i, flags = skip_value(buf, i, end, sp + 1, stack)
                    if i < 0:
                        error = -i - 1
                        break
                    slow = slow or (flags & ODD_NUMBER) != 0
                    doing = _AFTER
                else:
                    frames[sp * _FRAME + _LAST] = f
                    kind = t.fields[f * F_SIZE + F_KIND]
                    if seen[f] == frames[sp * _FRAME + _STAMP]:
                        slow = True
                    else:
                        seen[f] = frames[sp * _FRAME + _STAMP]
                        frames[sp * _FRAME + _COUNT] += t.fields[f * F_SIZE + F_REQUIRED]
                    good = False
                    skip = True
                    value_at = i
                    if kind in (OBJECT, LIST):
                        if buf[i] == (123 if kind == OBJECT else 91):
                            slot = frames[sp * _FRAME + _BASE] + t.fields[f * F_SIZE + F_SLOT]
                            base = frames[sp * _FRAME + _BASE]
                            i += 1
                            sp += 1
                            frames[sp * _FRAME + _BASE] = base
                            frames[sp * _FRAME + _NODE] = t.fields[f * F_SIZE + F_NODE]
                            frames[sp * _FRAME + _COUNT] = 0
                            frames[sp * _FRAME + _FIELD] = f
                            if kind == OBJECT:
                                out[slot] = 1
                                stamp += 1
                                frames[sp * _FRAME + _LISTING] = 0
                                frames[sp * _FRAME + _LAST] = n_fields + t.fields[f * F_SIZE + F_NODE]
                                frames[sp * _FRAME + _STAMP] = stamp
                                doing = _OPEN
                            else:
                                out[slot] = (next_item - n * width) // stride
                                out[slot + 1] = 0
                                frames[sp * _FRAME + _LISTING] = 1
                                i = skip_space(buf, i, end)
                                doing = _CLOSE if i < end and buf[i] == 93 else _ELEMENT
                            continue
                        if buf[i] == 110 and t.fields[f * F_SIZE + F_NULLABLE] != 0 and _literal(buf, i, end, _NULL, 0):
                            i += 4
                            good = True
                            skip = False
                    elif kind == JSON:
                        if buf[i] == 123:
                            i, flags = skip_value(buf, i, end, sp + 1, stack)
                            if i < 0:
                                error = -i - 1
                                break
                            slow = slow or (flags & NOT_FINITE) != 0 or ((flags & ODD_NUMBER) != 0 and not trusted)
                            out[frames[sp * _FRAME + _BASE] + t.fields[f * F_SIZE + F_SLOT]] = value_at
                            out[frames[sp * _FRAME + _BASE] + t.fields[f * F_SIZE + F_SLOT] + 1] = i - value_at
                            good = True
                            skip = False
                        elif buf[i] == 110 and t.fields[f * F_SIZE + F_NULLABLE] != 0 and _literal(buf, i, end, _NULL, 0):
                            i += 4
                            good = True
                            skip = False
                    else:
                        i, tail, good, odd = _value(t, f, buf, i, end, tail, out, frames[sp * _FRAME + _BASE])
                        if i < 0:
                            error = -i - 1
                            break
                        slow = slow or odd
                        skip = i == value_at
                    if not good and fault_at < 0:
                        fault = t.fields[f * F_SIZE + F_REASON]
                        fault_at = value_at
                        fault_column = t.fields[f * F_SIZE + F_COLUMN]
                        fault_field = f
                    if skip:
                        i, flags = skip_value(buf, i, end, sp + 1, stack)
                        if i < 0:
                            error = -i - 1
                            break
                        slow = slow or (flags & ODD_NUMBER) != 0
                    doing = _AFTER
            if doing == _ELEMENT:
                f = frames[sp * _FRAME + _FIELD]
                frames[sp * _FRAME + _COUNT] += 1
                most = t.fields[f * F_SIZE + F_MAX]
                if i < end and buf[i] == 123 and (most == 0 or frames[sp * _FRAME + _COUNT] <= most):
                    if next_item + stride > room:
                        seen[n_fields] = stamp
                        return r, item0, tail0
                    item = frames[sp * _FRAME + _NODE]
                    for k in range(stride):
                        out[next_item + k] = t.template_item[item * t.stride + k]
                    i += 1
                    sp += 1
                    stamp += 1
                    frames[sp * _FRAME + _LISTING] = 0
                    frames[sp * _FRAME + _NODE] = item
                    frames[sp * _FRAME + _COUNT] = 0
                    frames[sp * _FRAME + _LAST] = n_fields + item
                    frames[sp * _FRAME + _BASE] = next_item
                    frames[sp * _FRAME + _STAMP] = stamp
                    next_item += stride
                    doing = _OPEN
                    continue
                if fault_at < 0:
                    fault = t.fields[f * F_SIZE + F_REASON]
                    fault_at = i
                    fault_column = t.fields[f * F_SIZE + F_COLUMN]
                    fault_field = f
                i, flags = skip_value(buf, i, end, sp + 1, stack)
                if i < 0:
                    error = -i - 1
                    break
                slow = slow or (flags & ODD_NUMBER) != 0
                doing = _AFTER
            if doing == _AFTER:
                if i < end and buf[i] <= 32:
                    i = skip_space(buf, i, end)
                if i >= end:
                    error = end
                    break
                if buf[i] == 44:
                    i += 1
                    if i < end and buf[i] <= 32:
                        i = skip_space(buf, i, end)
                    doing = _ELEMENT if frames[sp * _FRAME + _LISTING] != 0 else _MEMBER
                    continue
                if buf[i] != (93 if frames[sp * _FRAME + _LISTING] != 0 else 125):
                    error = i
                    break
                doing = _CLOSE
            if doing == _CLOSE:  # at the closing bracket
                if frames[sp * _FRAME + _LISTING] != 0:
                    f = frames[sp * _FRAME + _FIELD]
                    out[frames[sp * _FRAME + _BASE] + t.fields[f * F_SIZE + F_SLOT] + 1] = frames[sp * _FRAME + _COUNT]
                    if frames[sp * _FRAME + _COUNT] < t.fields[f * F_SIZE + F_MIN] and fault_at < 0:
                        fault = t.fields[f * F_SIZE + F_REASON]
                        fault_at = i
                        fault_column = t.fields[f * F_SIZE + F_COLUMN]
                        fault_field = f
                else:
                    node = frames[sp * _FRAME + _NODE]
                    if frames[sp * _FRAME + _COUNT] < t.nodes[node * N_SIZE + N_REQUIRED] and missing < 0:
                        missing_at = i
                        first = t.nodes[node * N_SIZE + N_FIRST]
                        for f in range(first, first + t.nodes[node * N_SIZE + N_COUNT]):
                            if t.fields[f * F_SIZE + F_REQUIRED] != 0 and seen[f] != frames[sp * _FRAME + _STAMP]:
                                missing = f
                                break
                i += 1
                sp -= 1
                if sp < 0:
                    i = skip_space(buf, i, end)
                    if i < end:
                        error = i
                    break
                doing = _AFTER
        code = 0
        at = -1
        column = -1
        leaf = -1
        if error >= 0:
            bad = utf8_fault(buf, origin, end)
            code = _MALFORMED if bad < 0 else _ENCODING
            at = (error if bad < 0 else bad) - origin
            slow = False
        elif fault_at >= 0:
            code = fault
            at = fault_at - origin
            column = fault_column
            leaf = fault_field
        elif missing >= 0:
            code = _MISSING
            at = missing_at - origin
            column = t.fields[missing * F_SIZE + F_COLUMN]
            leaf = missing
        reason[r] = code
        where[r, 0] = at
        where[r, 1] = column
        where[r, 2] = leaf
        state[r] = _SLOW if slow else _DONE
        if slow or code != 0:
            _fill(out, row, t.template, t.width)
            tail = tail0
            next_item = item0
    seen[n_fields] = stamp
    return n, next_item, tail


@dataclass(frozen=True, slots=True)
class Rows:
    """The elements of a list field: rows `(m, width)` int64 of the element's layout, and the arena their texts point into."""

    rows: Ints
    arena: Bytes


@dataclass(frozen=True, slots=True)
class Batch:
    """A decoded chunk of n records.

    rows: `(n, layout.width)` int64, C-contiguous; schemas/layout.py says what a slot holds. arena: uint8, what text slots point
    into (the input bytes come first, at their own positions). ok: `(n,)` bool. reason: `(n,)` int16, a `Reason`, 0 when ok. column:
    `(n,)` int16, index into `layout.columns` of the offending field (of a list's, the list), -1 if there is none. at: `(n,)` int32,
    the byte within the record where the fault was noticed, -1 when ok. children: list fields by path. leaf: `(n,)` int16, for
    `Decoder.explain`. A row that is not ok is all nulls.
    """

    rows: Ints
    arena: Bytes
    ok: NDArray[np.bool_]
    reason: NDArray[np.int16]
    column: NDArray[np.int16]
    at: NDArray[np.int32]
    children: dict[str, Rows] = field(default_factory=dict)
    leaf: NDArray[np.int16] = field(default_factory=lambda: np.zeros(0, np.int16))

    def __len__(self) -> int:
        return len(self.ok)

    def text(self, row: int, slot: int) -> str | None:
        """Return a text field as a string, None if null: for tests and people, not for the hot path."""
        start, length = self.rows[row, slot : slot + 2].tolist()
        return None if length < 0 else self.arena[start : start + length].tobytes().decode()


class Decoder:
    """Decodes chunks of one model's messages; get one from `compile_decoder`. Keeps nothing between chunks, and is thread-safe."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.compiled: Compiled = compile_layout(layout)
        self._names = {info.path: i for i, info in enumerate(self.compiled.fields)}
        self._columns = {column.path: i for i, column in enumerate(layout.columns)}

    def decode(self, data: Bytes, bounds: Ints) -> Batch:
        """Decode n records end to end: record i is `data[bounds[i]:bounds[i + 1]]`. Never raises for bad data."""
        batch, slow = self._scan(data, bounds, trusted=False)
        return self._second_look(batch, slow, data, bounds) if slow.size else batch

    def _scan(self, data: Bytes, bounds: Ints, trusted: bool) -> tuple[Batch, Ints]:
        table = self.compiled.table
        bounds = np.array(bounds, np.int64)  # a copy, so that the kernel sees one type whatever it was a view of
        n, width = len(bounds) - 1, self.layout.width
        size = int(bounds[-1]) if n else 0
        # texts with escapes go behind the input; all of them together are never longer than it. Untouched pages cost nothing.
        arena = np.empty(2 * size + 2 * PAD, np.uint8)
        arena[:size] = data[:size]
        arena[size : size + PAD] = 0
        stride = table.template_item.shape[1]
        out = np.empty(n * width + (2 * n + 64 if self.compiled.lists else 0) * stride, np.int64)
        scratch = Scratch(
            self.compiled.follow.copy(),
            np.zeros(len(table.fields) + 1, np.int64),
            np.zeros((len(table.nodes) + len(self.compiled.lists) + 2, _FRAME), np.int64),
            np.empty(256, np.uint8),
        )
        reason = np.zeros(n, np.int16)
        where = np.empty((n, 3), np.int32)
        state = np.zeros(n, np.uint8)
        done, next_item, tail = 0, n * width, size + PAD
        while True:
            done, next_item, tail = _scan(table, scratch, arena, bounds, done, out, next_item, tail, trusted, reason, where, state)
            if done == n:
                break
            longer = np.empty(2 * len(out) + 1024 * stride, np.int64)
            longer[:next_item] = out[:next_item]
            out = longer
        rows = out[: n * width].reshape(n, width)
        slow = np.flatnonzero(state == _SLOW)
        reason[slow] = 0
        where[slow, 1:] = -1
        ok = reason == 0
        ok[slow] = False
        arena = arena[:tail]
        children = self._children(rows, out[n * width : next_item].reshape(-1, stride), arena)
        columns = where[:, 1].astype(np.int16)
        return Batch(rows, arena, ok, reason, columns, where[:, 0].copy(), children, where[:, 2].astype(np.int16)), slow

    def _children(self, rows: Ints, items: Ints, arena: Bytes) -> dict[str, Rows]:
        """Part the elements by list, and number those of each from 0."""
        if len(self.compiled.lists) <= 1:
            return {path: Rows(np.ascontiguousarray(items[:, :width]), arena) for path, _, _, width in self.compiled.lists}
        children = {}
        for path, _, slot, width in self.compiled.lists:
            firsts, counts = rows[:, slot], rows[:, slot + 1]
            own = np.flatnonzero(counts > 0)
            total = counts[own].cumsum()
            begin = total - counts[own]
            picks = np.repeat(firsts[own] - begin, counts[own]) + np.arange(total[-1] if own.size else 0)
            firsts[own] = begin
            children[path] = Rows(np.ascontiguousarray(items[picks, :width]), arena)
        return children

    def _second_look(self, batch: Batch, slow: Ints, data: Bytes, bounds: Ints) -> Batch:
        """Put the rare records to pydantic: one that validates is written out anew and decoded, any other is rejected."""
        good: list[int] = []
        texts: list[bytes] = []
        for i in slow.tolist():
            raw = data[bounds[i] : bounds[i + 1]].tobytes()
            try:
                texts.append(self.layout.model.model_validate_json(raw).model_dump_json().encode())
                good.append(i)
            except ValidationError as error:
                self._reject(batch, i, error)
        if not good:
            return batch
        other, _ = self._scan(*join(texts), trusted=True)
        shift = len(batch.arena)
        arena = np.concatenate([batch.arena, other.arena])
        for slot in self.compiled.text_slots:
            other.rows[:, slot] += np.where(other.rows[:, slot + 1] >= 0, shift, 0)
        children = {}
        for path, _, slot, _ in self.compiled.lists:
            mine, theirs = batch.children[path], other.children[path]
            for text in self.compiled.item_text_slots[path]:
                theirs.rows[:, text] += np.where(theirs.rows[:, text + 1] >= 0, shift, 0)
            other.rows[:, slot] += np.where(other.rows[:, slot + 1] >= 0, len(mine.rows), 0)
            children[path] = Rows(np.concatenate([mine.rows, theirs.rows]), arena)
        where = np.array(good, np.int64)
        batch.rows[where] = other.rows
        batch.ok[where] = other.ok
        batch.at[where] = -1
        # what pydantic wrote must pass; if it ever does not, the record is a dead letter and not a wrong value
        failed = where[~other.ok]
        batch.ok[failed] = False
        batch.reason[failed] = int(Reason.internal_error)
        batch.at[failed] = 0
        return Batch(batch.rows, arena, batch.ok, batch.reason, batch.column, batch.at, children, batch.leaf)

    def _reject(self, batch: Batch, i: int, error: ValidationError) -> None:
        errors = error.errors(include_url=False, include_context=False, include_input=False)
        first = next((e for e in errors if e["type"] != "missing"), errors[0])
        names = [str(part) for part in first["loc"]]
        batch.at[i] = max(int(batch.at[i]), 0)
        if first["type"] == "json_invalid" or not names:
            # the kernel has found no fault in it, so it is UTF-8 and its syntax is that of JSON but for a limit of the parser
            batch.reason[i] = _MALFORMED
            return
        if first["type"] == "extra_forbidden":
            names = names[:-1]
        path = ""
        column = leaf = -1
        for name in names:
            path += "[]" if name.isdigit() else ("." + name if path else name)
            column = self._columns.get(path, column)
            leaf = self._names.get(path, leaf)
        spec = self.compiled.fields[leaf].column.spec if leaf >= 0 else None
        batch.column[i], batch.leaf[i] = column, leaf
        if first["type"] == "missing":
            batch.reason[i] = _MISSING
        elif first["type"] == "extra_forbidden" or spec is None:
            batch.reason[i] = _INVALID
        else:
            batch.reason[i] = int(spec.reason)

    def explain(self, batch: Batch, i: int, data: Bytes, bounds: Ints) -> str:
        """Return one line of at most 200 characters: which field, what was expected, what was found, at which byte. `""` when ok."""
        if batch.ok[i]:
            return ""
        reason, at = Reason(int(batch.reason[i])), int(batch.at[i])
        size = int(bounds[i + 1] - bounds[i])
        if reason is Reason.oversize:
            return f"{size} bytes, at most {MAX_RECORD_BYTES} are accepted"
        if reason is Reason.encoding_invalid:
            byte = data[bounds[i] + at] if at < size else 0
            return f"not UTF-8: byte 0x{byte:02x} at byte {at}"
        found = _snippet(data[bounds[i] + at : bounds[i + 1]][:48].tobytes())
        if reason is Reason.json_malformed:
            what = "the end" if at >= size else found
            return f"not a JSON object: unexpected {what} at byte {at} of {size}"[:200]
        leaf = int(batch.leaf[i])
        path = self.compiled.fields[leaf].path if leaf >= 0 else "the message"
        if leaf < 0 and batch.column[i] >= 0:
            path = self.layout.columns[int(batch.column[i])].path
        if reason is Reason.field_missing:
            return _short(path, "is missing", f"; the object ends at byte {at}")
        if reason is Reason.internal_error:
            return _short(path, "could not be decoded again after validation", "")
        if leaf < 0:
            return _short(path, "has a field that is not in its schema", f", at byte {at}: {found}")
        column = self.compiled.fields[leaf].column
        null = " or null" if column.nullable else ""
        return _short(path, f"must be {_expected(column.spec, column.values)}{null}", f"; found {found} at byte {at}")


def _short(path: str, what: str, where: str) -> str:
    room = 200 - len(path) - 1 - len(where)
    return f"{path[-100:]} {what if len(what) <= room else what[: max(room - 1, 0)] + '…'}{where}"[:200]


def _snippet(raw: bytes) -> str:
    """Return the beginning of what was found, on one line and printable."""
    text = raw.decode("utf-8", "replace").rstrip("\ufffd")
    if text[:1] == '"':
        close = text.find('"', 1)
        text = text[: close + 1] if close > 0 else text
    elif text[:1] not in ("{", "[", ""):
        text = text.split(",")[0].split("}")[0].split("]")[0] or text[:1]
    text = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)
    return text if len(text) <= 40 else text[:39] + "…"


def _expected(spec: Spec, values: tuple[str, ...]) -> str:
    if spec.kind == "text":
        return f"text of {spec.min_len} to {spec.max_len} characters"
    if spec.kind == "token":
        return f"text matching {spec.pattern}"
    if spec.kind == "int":
        return f"an integer from {spec.lo} to {spec.hi}"
    if spec.kind == "float":
        low = "" if spec.lo is None else f" from {spec.lo:g}"
        return f"a finite number{low}" + ("" if spec.hi is None else f" up to {spec.hi:g}")
    if spec.kind == "enum":
        return "one of " + ", ".join(values)
    if spec.kind == "decimal":
        sign = {None: "", 0: ", not negative", 1: ", above zero"}.get(spec.lo if spec.lo is None else int(spec.lo), "")
        return f"a decimal string in plain notation of at most 18 digits{sign}"
    if spec.kind == "list":
        return f"a list of {spec.min_len} to {spec.max_len} objects" if spec.max_len else f"a list of at least {spec.min_len} objects"
    return {
        "bool": "true or false", "uuid": "a UUID in the 8-4-4-4-12 form, not nil", "base64": "padded base64",
        "rfc3339": "an RFC 3339 UTC time as 2026-01-31T23:59:59.123Z", "json": "an object", "object": "an object",
    }[spec.kind]  # fmt: skip


@cache
def compile_decoder(model: type[BaseModel]) -> Decoder:
    """Return the decoder of a model. Raises TypeError for a field without a columnar form."""
    return Decoder(layout_of(model))
