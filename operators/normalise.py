"""From a decoded report to facts: reference look-ups, scales, plausibility, correlation, execution key. Kernels.

May not look at any order. Rules: docs/reconciliation.md, steps 2, 3 and 5; the first fault in that order is the reason.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from operators import context as c
from operators import memory as mem
from operators import slots as s
from operators.memory import Map, copy_bytes
from operators.scaled import TOO_LARGE, TOO_PRECISE, rescale
from schemas.chunk import Bytes, Ints
from schemas.fields import NULL
from schemas.hashing import hash128, partition_of, uuid5, uuid_text_into, write_int_into
from schemas.jit import bare
from schemas.reasons import Reason
from state.table import find

NONE = int(Reason.none)
VENUE_UNKNOWN, ACCOUNT_UNKNOWN, INSTRUMENT_UNKNOWN = (
    int(Reason.venue_unknown), int(Reason.account_unknown), int(Reason.instrument_unknown),
)  # fmt: skip
PRECISION, FIELD_INVALID, FIELD_MISSING = int(Reason.precision_exceeds_scale), int(Reason.field_invalid), int(Reason.field_missing)
EVENT_TS_FUTURE, TIMESTAMP_INVALID = int(Reason.event_ts_future), int(Reason.timestamp_invalid)
EXEC_ID_MISSING, SIDE_INVALID, ZERO_QTY = int(Reason.exec_id_missing), int(Reason.side_invalid), int(Reason.zero_qty_trade)
PRICE_MISSING, PRICE_CONTRACT = int(Reason.price_missing), int(Reason.price_out_of_contract)
BEYOND_HORIZON, CORRELATION_CONFLICT = int(Reason.beyond_dedup_horizon), int(Reason.correlation_conflict)
UNCORRELATED = int(Reason.uncorrelated)

FUTURE_NS = 60_000_000_000
DAY_NS = 86_400_000_000_000
EPOCH_DAY_2000 = 10_957

# UUIDv5 namespaces: fixed for ever, ids are part of the contract (docs/reconciliation.md, "Ids").
NS_EXEC_HI, NS_EXEC_LO = 0x6F2D5C8E1B3A4F70, -0x6A1C3E5F7B9D0E24
NS_MESSAGE_HI, NS_MESSAGE_LO = 0x2B7E151628AED2A6, -0x54080757A1B2C3D4


@bare
def days_from_civil(date: int) -> int:
    """Return days since 2000-01-01 of a yyyymmdd number, -1 when there is no such day."""
    year, month, day = date // 10_000, date // 100 % 100, date % 100
    if month < 1 or month > 12 or day < 1:
        return -1
    leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    last = 31
    if month == 4 or month == 6 or month == 9 or month == 11:
        last = 30
    elif month == 2:
        last = 29 if leap else 28
    if day > last:
        return -1
    shifted = year - 1 if month <= 2 else year
    era = shifted // 400
    of_era = shifted - era * 400
    of_year = (153 * (month + (-3 if month > 2 else 9)) + 2) // 5 + day - 1
    of_four = of_era * 365 + of_era // 4 - of_era // 100 + of_year
    return era * 146_097 + of_four - 719_468 - EPOCH_DAY_2000


@bare
def civil_from_days(days: int) -> int:
    """Return the yyyymmdd number of a day counted from 2000-01-01."""
    z = days + EPOCH_DAY_2000 + 719_468
    era = z // 146_097
    doe = z - era * 146_097
    yoe = (doe - doe // 1460 + doe // 36_524 - doe // 146_096) // 365
    doy = doe - (365 * yoe + yoe // 4 - yoe // 100)
    mp = (5 * doy + 2) // 153
    day = doy - (153 * mp + 2) // 5 + 1
    month = mp + 3 if mp < 10 else mp - 9
    year = yoe + era * 400 + (1 if month <= 2 else 0)
    return year * 10_000 + month * 100 + day


@bare
def lookup(m: Map, data: Bytes, start: int, length: int, seed: int) -> int:
    """Return the position of a name in the reference data, or -1."""
    hi, lo = hash128(data, start, length, seed)
    row = find(mem.reference_table(m), hi, lo)
    return -1 if row < 0 else np.int64(mem.reference(m)[row].position)


@bare
def scale_fault(value: int) -> int:
    """Return the reason a rescaled number has no form, or none."""
    if value == TOO_PRECISE:
        return PRECISION
    if value == TOO_LARGE:
        return FIELD_INVALID
    return NONE


@bare
def hex_digit(byte: Any) -> int:
    """Return the value of a hexadecimal digit, -1 for any other byte."""
    b = np.int64(byte)
    if 48 <= b <= 57:
        return b - 48
    if 97 <= b <= 102:
        return b - 87
    if 65 <= b <= 70:
        return b - 55
    return -1


@bare
def correlation_in(data: Bytes, start: int, length: int) -> tuple[int, int, bool]:
    """Return (high, low, found) of the correlation a client order id carries: 32 hex digits, then nothing or "-" and 1 to 3 alphanumerics."""
    if length != 32 and (length < 34 or length > 36):
        return 0, 0, False
    hi = np.uint64(0)
    lo = np.uint64(0)
    for i in range(32):
        digit = hex_digit(data[start + i])
        if digit < 0:
            return 0, 0, False
        if i < 16:
            hi = (hi << np.uint64(4)) | np.uint64(digit)
        else:
            lo = (lo << np.uint64(4)) | np.uint64(digit)
    if length > 32:
        if data[start + 32] != 45:
            return 0, 0, False
        for i in range(33, length):
            b = np.int64(data[start + i])
            if not (48 <= b <= 57 or 65 <= b <= 90 or 97 <= b <= 122):
                return 0, 0, False
    found = hi != np.uint64(0) or lo != np.uint64(0)
    return np.int64(hi), np.int64(lo), found


@bare
def put_part(out: Bytes, at: int, data: Bytes, start: int, length: int) -> int:
    """Append a netstring (`length:bytes,`: no two different keys read the same) and return the new end."""
    at += write_int_into(length, out, at)
    out[at] = 58
    at += 1
    copy_bytes(out, at, data, start, length)
    at += length
    out[at] = 44
    return at + 1


@bare
def exec_key(
    m: Map,
    row: Ints,
    arena: Bytes,
    scratch: Bytes,
    venue: int,
    id_start: int,
    id_length: int,
    order_start: int,
    order_length: int,
    date: int,
) -> tuple[int, int]:
    """Return the UUIDv5 of an execution key: the venue's parts as netstrings in the order V A I E O, then the date (0: left out)."""
    mask = mem.venues(m)[venue, c.V_KEY]
    at = 0
    if mask & c.KEY_V:
        at = put_part(scratch, at, arena, row[s.R_VENUE], row[s.R_VENUE + 1])
    if mask & c.KEY_A:
        at = put_part(scratch, at, arena, row[s.R_ACCOUNT], row[s.R_ACCOUNT + 1])
    if mask & c.KEY_I:
        at = put_part(scratch, at, arena, row[s.R_INSTRUMENT], row[s.R_INSTRUMENT + 1])
    at = put_part(scratch, at, arena, id_start, id_length)
    if mask & c.KEY_O:
        at = put_part(scratch, at, arena, order_start, max(order_length, 0))
    if date > 0:
        at += write_int_into(date, scratch, at)
    return uuid5(NS_EXEC_HI, NS_EXEC_LO, scratch, 0, at)


@bare
def normalise(lane_day: int, m: Map, i: int) -> int:
    """Parse record i into `mem.work(m)`; return the reason it cannot be used, or none. `lane_day`: newest trade date accepted, as days."""
    row = mem.in_rows(m)[i]
    arena = mem.in_arena(m)
    w = mem.work(m)
    kind = row[s.R_KIND]
    w[c.W_KIND] = kind
    venue = lookup(m, arena, row[s.R_VENUE], row[s.R_VENUE + 1], c.SEED_VENUE)
    w[c.W_VENUE] = venue
    if venue < 0:
        return VENUE_UNKNOWN
    if mem.venues(m)[venue, c.V_ACCOUNTS] == 1:
        if lookup(m, arena, row[s.R_ACCOUNT], row[s.R_ACCOUNT + 1], c.SEED_ACCOUNT + 16 * (venue + 1)) < 0:
            return ACCOUNT_UNKNOWN
    instrument = lookup(m, arena, row[s.R_INSTRUMENT], row[s.R_INSTRUMENT + 1], c.SEED_INSTRUMENT)
    w[c.W_INSTRUMENT] = instrument
    if instrument < 0:
        return INSTRUMENT_UNKNOWN
    qty_scale = mem.instruments(m)[instrument, c.I_QTY]
    px_scale = mem.instruments(m)[instrument, c.I_PX]
    moves = kind == s.K_TRADE or kind == s.K_CORRECT or kind == s.K_BUST
    priced = kind == s.K_TRADE or kind == s.K_CORRECT
    w[c.W_MOVES] = 1 if moves else 0
    order_qty = rescale(row[s.R_ORDER_QTY], row[s.R_ORDER_QTY + 1], qty_scale)
    qty = np.int64(NULL)
    px = np.int64(NULL)
    if priced:
        qty = rescale(row[s.R_LAST_QTY], row[s.R_LAST_QTY + 1], qty_scale)
        px = rescale(row[s.R_LAST_PX], row[s.R_LAST_PX + 1], px_scale)
    cum = rescale(row[s.R_CUM], row[s.R_CUM + 1], qty_scale)
    leaves = rescale(row[s.R_LEAVES], row[s.R_LEAVES + 1], qty_scale)
    too_large = False
    for value in (order_qty, qty, cum, leaves, px):
        fault = scale_fault(value)
        if fault == PRECISION:
            return PRECISION
        too_large = too_large or fault != NONE
    if too_large:
        return FIELD_INVALID
    w[c.W_QTY], w[c.W_PX], w[c.W_CUM], w[c.W_ORDER_QTY] = qty, px, cum, order_qty
    event, recv, now = row[s.R_EVENT_TS], row[s.R_RECV_TS], mem.in_where(m)[3]
    if event > recv + FUTURE_NS or recv > now + FUTURE_NS:
        return EVENT_TS_FUTURE
    date = row[s.R_DATE]
    day = days_from_civil(date)
    if day < 0 or day > event // DAY_NS - EPOCH_DAY_2000 + 1:
        return TIMESTAMP_INVALID
    w[c.W_DATE], w[c.W_DAY], w[c.W_TS] = date, day, event
    w[c.W_SEQ] = 0 if row[s.R_SEQ] == NULL else row[s.R_SEQ]
    w[c.W_SIDE] = row[s.R_SIDE]
    if (moves or kind == s.K_FEE_UPDATE) and row[s.R_EXEC_ID + 1] < 0:
        return EXEC_ID_MISSING
    if (kind == s.K_BUST or kind == s.K_CORRECT) and row[s.R_REF_ID + 1] < 0:
        return FIELD_MISSING
    if priced and qty == NULL:
        return FIELD_MISSING
    if kind == s.K_TRADE and row[s.R_SIDE] == NULL:
        return SIDE_INVALID
    if priced and qty == 0:
        return ZERO_QTY
    if priced and px == NULL:
        return PRICE_MISSING
    if priced and px <= 0:
        return PRICE_CONTRACT
    if day < lane_day - mem.venues(m)[venue, c.V_HORIZON]:
        return BEYOND_HORIZON
    return NONE


@bare
def correlation_of_key(m: Map, i: int) -> tuple[int, int, bool]:
    """Return (high, low, found) of the correlation record i is keyed by: a UUID as lanes write it, which belongs to this lane by that key."""
    start = mem.in_key_bounds(m)[i]
    if mem.in_key_bounds(m)[i + 1] - start != 36:
        return 0, 0, False
    hi, lo = np.uint64(0), np.uint64(0)
    for j in range(36):
        digit = hex_digit(mem.in_keys(m)[start + j])
        if digit >= 0:
            hi = (hi << np.uint64(4)) | (lo >> np.uint64(60))
            lo = (lo << np.uint64(4)) | np.uint64(digit)
    text = mem.scratch(m)
    uuid_text_into(np.int64(hi), np.int64(lo), text, 0)
    for j in range(36):
        if mem.in_keys(m)[start + j] != text[j]:
            return 0, 0, False
    found = (hi != np.uint64(0) or lo != np.uint64(0)) and partition_of(text, 0, 36, mem.in_where(m)[1]) == mem.in_where(m)[0]
    return np.int64(hi), np.int64(lo), found


@bare
def correlate(m: Map, i: int, alias_hi: int, alias_lo: int, alias_known: bool) -> int:
    """Put the record's correlation into `mem.work(m)` (W_CORR_FROM: 0 none, 1 the record itself, 2 alias or key); return a reason or none."""
    row = mem.in_rows(m)[i]
    w = mem.work(m)
    hi, lo = row[s.R_CORR], row[s.R_CORR + 1]
    known = hi != 0 or lo != 0
    for slot in (s.R_CLIENT, s.R_ORIG_CLIENT):
        if row[slot + 1] >= 0:
            other_hi, other_lo, found = correlation_in(mem.in_arena(m), row[slot], row[slot + 1])
            if found:
                if known and (other_hi != hi or other_lo != lo):
                    return CORRELATION_CONFLICT
                hi, lo, known = other_hi, other_lo, True
    w[c.W_CORR_FROM] = 1 if known else 0
    pend = mem.in_pend(m)[i]
    # What waits for anything but its alias has its correlation, and may be folded under it: an alias that came later changes nothing.
    decided = pend >= 0 and np.int64(mem.pendings(m)[pend].reason) != UNCORRELATED
    if alias_known:
        if known and not decided and (alias_hi != hi or alias_lo != lo):
            return CORRELATION_CONFLICT
        if not known:
            hi, lo = alias_hi, alias_lo
            w[c.W_CORR_FROM] = 2
    if not known:
        # A lane that was told the alias put its correlation into the key. Only here may it be unheard of: sent on, it would come back.
        key_hi, key_lo, keyed = correlation_of_key(m, i)
        if keyed:
            if alias_known and not decided and (alias_hi != key_hi or alias_lo != key_lo):
                return CORRELATION_CONFLICT
            hi, lo = key_hi, key_lo
            w[c.W_CORR_FROM] = 2
    w[c.W_CORR_HI], w[c.W_CORR_LO] = hi, lo
    return NONE
