"""Writing decisions into the outputs: fill versions, audit records, alerts, dead letters, parked reports. Kernels.

May not decide anything about facts. What each record says: docs/reconciliation.md, "What is published"; benchmarks: docs/tca.md.
"""

from __future__ import annotations

import numpy as np

from operators import context as c
from operators import fold
from operators import memory as mem
from operators import slots as s
from operators.memory import Map, copy_bytes, copy_row, float_word, put_word
from operators.normalise import DAY_NS, EPOCH_DAY_2000, NS_MESSAGE_HI, NS_MESSAGE_LO
from operators.scaled import average, product, trim
from operators.slippage import slippage_vs_mid2_bps, spread_capture
from schemas.fields import NULL
from schemas.hashing import hash128, uuid5, uuid_text_into, write_int_into
from schemas.jit import bare
from schemas.reasons import Reason
from state import ledger as g
from state.quotes import benchmark
from state.table import find, insert, touch
from state.table import remove as remove_row

MAX_AGE_NS = 3_000_000_000
TAPE_BEHIND = 3

R_HELD, R_ORDER_UNKNOWN, R_UNCORRELATED, R_REF_UNKNOWN = (
    int(Reason.held), int(Reason.order_unknown), int(Reason.uncorrelated), int(Reason.ref_unknown),
)  # fmt: skip
DUP_TRANSPORT, DUP_RESEND, DUP_FEED, DUP_REPLAY = (
    int(Reason.duplicate_transport), int(Reason.duplicate_resend),
    int(Reason.duplicate_feed_overlap), int(Reason.duplicate_replay),
)  # fmt: skip
SECOND_NS = QUERIES = 1_000_000_000
LEVEL_EXPIRED = 9
"""Level of a waiting report whose clock ran out: it is in the DLQ, but what it waits for would still be met."""


@bare
def derived_id(m: Map, hi: int, lo: int, number: int, tag: int) -> tuple[int, int]:
    """Return UUIDv5(message namespace, `<uuid>:<tag letter><number>`): the id of a message about a thing."""
    uuid_text_into(hi, lo, mem.scratch(m), 0)
    mem.scratch(m)[36] = 58
    mem.scratch(m)[37] = tag
    n = 38 + write_int_into(number, mem.scratch(m), 38)
    return uuid5(NS_MESSAGE_HI, NS_MESSAGE_LO, mem.scratch(m), 0, n)


@bare
def put_uuid_text(m: Map, hi: int, lo: int) -> int:
    """Write a UUID's 36 characters into the outputs' text and return the slot value."""
    at = mem.n(m)[c.N_TEXT]
    uuid_text_into(hi, lo, mem.text(m), at)
    mem.n(m)[c.N_TEXT] = at + 36
    return -at - 1


@bare
def put_order_venue(m: Map, order: int) -> int:
    """Copy a venue order's venue name and return the slot value."""
    o = mem.orders(m)[order]
    at = mem.n(m)[c.N_TEXT]
    for j in range(o.venue_len):
        mem.text(m)[at + j] = o.venue_name[j]
    mem.n(m)[c.N_TEXT] = at + np.int64(o.venue_len)
    return -at - 1


@bare
def audit(m: Map, reason: int, outcome: int, order: int, root: int, version: int, size: int, other: int) -> None:
    """Write an audit record about the record at hand. order, root: rows or -1; size, other: scaled quantities or NULL."""
    w = mem.work(m)
    n = mem.n(m)[c.N_AUDIT]
    mem.n(m)[c.N_AUDIT] = n + 1
    row = mem.audits(m)[n]
    copy_row(row, mem.blank_audit(m))
    seq = mem.scalars(m)[g.S_AUDIT_SEQ]
    mem.scalars(m)[g.S_AUDIT_SEQ] = seq + 1
    mem.scalars(m)[g.S_AUDITS] += 1
    now = mem.in_where(m)[3]
    row[s.U_TS] = now
    row[s.U_TS_NS] = now
    row[s.U_PAYLOAD] = 1
    row[s.U_LANE] = mem.in_where(m)[0]
    row[s.U_SEQ] = seq
    row[s.U_PREV] = -mem.topics(m)[len(mem.topics(m)) - 1, 0] - 1
    row[s.U_PREV + 1] = 64
    row[s.U_REASON] = -mem.names(m)[reason, 0] - 1
    row[s.U_REASON + 1] = mem.names(m)[reason, 1]
    row[s.U_OUTCOME] = outcome
    row[s.U_INPUT] = 1
    topic = mem.in_where(m)[2]
    row[s.U_TOPIC] = -mem.topics(m)[topic, 0] - 1
    row[s.U_TOPIC + 1] = mem.topics(m)[topic, 1]
    row[s.U_PARTITION] = mem.in_where(m)[0]
    record = w[c.W_REC]
    row[s.U_OFFSET] = mem.in_offsets(m)[record] if record >= 0 else -1
    if version > 0:
        row[s.U_VERSION] = version
    scale = 0
    if topic == 0 and record >= 0 and mem.in_ok(m)[record]:
        source = mem.in_rows(m)[record]
        age = float(now - source[s.R_RECV_TS]) / 1e6
        row[s.U_AGE] = float_word(age)
        row[s.U_VENUE] = source[s.R_VENUE]
        row[s.U_VENUE + 1] = source[s.R_VENUE + 1]
        row[s.U_EXEC_ID] = source[s.R_EXEC_ID]
        row[s.U_EXEC_ID + 1] = source[s.R_EXEC_ID + 1]
        if source[s.R_EXEC_ID + 1] < 1:
            row[s.U_EXEC_ID + 1] = -1
    elif order >= 0:
        row[s.U_VENUE] = put_order_venue(m, order)
        row[s.U_VENUE + 1] = np.int64(mem.orders(m)[order].venue_len)
    intent = w[c.W_INTENT]
    if order >= 0:
        intent = np.int64(mem.orders(m)[order].intent)
        row[s.U_CORR] = np.int64(mem.orders(m)[order].corr_hi)
        row[s.U_CORR + 1] = np.int64(mem.orders(m)[order].corr_lo)
    elif intent >= 0:
        row[s.U_CORR] = np.int64(mem.intents(m)[intent].khi)
        row[s.U_CORR + 1] = np.int64(mem.intents(m)[intent].klo)
    if intent >= 0:
        t = mem.intents(m)[intent]
        row[s.U_ORDER] = t.order_hi
        row[s.U_ORDER + 1] = t.order_lo
        scale = np.int64(t.qty_scale)
        if size != NULL:
            row[s.U_SIZE], row[s.U_SIZE + 1] = trim(size, scale)
        if other != NULL:
            row[s.U_OTHER], row[s.U_OTHER + 1] = trim(other, scale)
    if root >= 0:
        row[s.U_FILL] = np.int64(mem.execs(m)[root].khi)
        row[s.U_FILL + 1] = np.int64(mem.execs(m)[root].klo)
    id_hi, id_lo = derived_id(m, mem.in_where(m)[0], 0, seq, 97)
    row[s.U_MSG] = id_hi
    row[s.U_MSG + 1] = id_lo
    row[s.U_KEY] = put_uuid_text(m, id_hi, id_lo)
    row[s.U_KEY + 1] = 36


@bare
def alert(m: Map, reason: int, severity: int, order: int) -> None:
    """Raise a compliance alert about a venue order with a known intent. The caller sees to it that one is raised once."""
    o = mem.orders(m)[order]
    if o.intent < 0:
        return
    n = mem.n(m)[c.N_ALERT]
    mem.n(m)[c.N_ALERT] = n + 1
    mem.scalars(m)[g.S_ALERTS] += 1
    t = mem.intents(m)[o.intent]
    row = mem.alerts(m)[n]
    copy_row(row, mem.blank_alert(m))
    now = mem.in_where(m)[3]
    row[s.C_TS] = now
    row[s.C_TS_NS] = now
    row[s.C_CORR] = np.int64(t.khi)
    row[s.C_CORR + 1] = np.int64(t.klo)
    row[s.C_CAUSE] = t.msg_hi
    row[s.C_CAUSE + 1] = t.msg_lo
    row[s.C_PAYLOAD] = 1
    row[s.C_ORDER] = t.order_hi
    row[s.C_ORDER + 1] = t.order_lo
    row[s.C_SYMBOL] = put_intent_text(m, np.int64(o.intent), 0)
    row[s.C_SYMBOL + 1] = np.int64(t.symbol_len)
    row[s.C_SEVERITY] = severity
    row[s.C_RULE] = -mem.names(m)[reason, 0] - 1
    row[s.C_RULE + 1] = mem.names(m)[reason, 1]
    at = mem.n(m)[c.N_TEXT]
    row[s.C_TEXT] = -at - 1
    length = mem.names(m)[reason, 1]
    copy_bytes(mem.text(m), at, mem.text(m), mem.names(m)[reason, 0], length)
    mem.text(m)[at + length] = 32
    mem.text(m)[at + length + 1] = 64
    mem.text(m)[at + length + 2] = 32
    for j in range(o.venue_len):
        mem.text(m)[at + length + 3 + j] = o.venue_name[j]
    length += 3 + np.int64(o.venue_len)
    mem.n(m)[c.N_TEXT] = at + length
    row[s.C_TEXT + 1] = length
    row[s.C_REMEDY] = 0 if severity == s.SEV_INFO else 1
    # One alert per (venue order, reason): its id is a function of both.
    id_hi, id_lo = derived_id(m, np.int64(o.khi), np.int64(o.klo), reason, 99)
    row[s.C_MSG] = id_hi
    row[s.C_MSG + 1] = id_lo
    row[s.C_ALERT] = id_hi
    row[s.C_ALERT + 1] = id_lo
    row[s.C_KEY] = put_uuid_text(m, id_hi, id_lo)
    row[s.C_KEY + 1] = 36


@bare
def put_intent_text(m: Map, intent: int, which: int) -> int:
    """Copy a text of an intent (0 symbol, 1 account, 2 book) and return the slot value."""
    t = mem.intents(m)[intent]
    at = mem.n(m)[c.N_TEXT]
    n = 0
    if which == 0:
        n = np.int64(t.symbol_len)
        for j in range(n):
            mem.text(m)[at + j] = t.symbol[j]
    elif which == 1:
        n = np.int64(t.account_len)
        for j in range(n):
            mem.text(m)[at + j] = t.account[j]
    else:
        n = np.int64(t.book_len)
        for j in range(n):
            mem.text(m)[at + j] = t.book[j]
    mem.n(m)[c.N_TEXT] = at + n
    return -at - 1


@bare
def put_benchmark(
    m: Map, row: np.ndarray, base: int, kind: int, px_scale: int, tau: int, status: int, detail: int, mid2: int, ts: int, hi: int, lo: int
) -> None:
    """Write a benchmark's columns; mid2 is in half units of 10^-px_scale."""
    row[base] = 1
    row[base + s.B_KIND] = kind
    row[base + s.B_STATUS] = status
    if detail >= 0:
        row[base + s.B_DETAIL] = detail
    if status != s.BENCH_MISSING:
        row[base + s.B_PX], row[base + s.B_PX + 1] = trim(mid2 * 5, px_scale + 1)
        row[base + s.B_TS] = ts
        row[base + s.B_SNAPSHOT] = hi
        row[base + s.B_SNAPSHOT + 1] = lo
        row[base + s.B_AGE] = float_word(float(tau - ts) / 1e6)


@bare
def arrival(m: Map, intent: int, same_clock: bool) -> None:
    """Look the arrival benchmark up, once the tape has passed the decision; until then it is looked up at every fill."""
    t = mem.intents(m)[intent]
    if t.arr_status >= 0 and t.arr_detail != TAPE_BEHIND:
        return
    status, detail, mid2, ts, hi, lo, _ = benchmark(mem.quotes(m), np.int64(t.instrument), t.decision_ts, MAX_AGE_NS, same_clock, True)
    if status == s.BENCH_MISSING and mem.quotes(m).tape_watermark[0] < t.decision_ts:
        detail = TAPE_BEHIND
    t.arr_status = status
    t.arr_detail = detail
    t.arr_mid2 = mid2
    t.arr_ts = ts
    t.arr_snap_hi = hi
    t.arr_snap_lo = lo
    touch(mem.intents_table(m), intent)


@bare
def publish(
    m: Map, order: int, root: int,
    state: int, size: int, px: int, delta: int, own: bool,
) -> None:  # fmt: skip
    """Publish the next version of the fill whose chain begins at `root`. delta: change of quantity (unsigned by side).

    own: the record at hand is the execution itself (its fee and liquidity go with it), not another one that changes this fill.
    """
    w = mem.work(m)
    o = mem.orders(m)[order]
    intent = np.int64(o.intent)
    t = mem.intents(m)[intent]
    x = mem.execs(m)[root]
    x.version += 1
    touch(mem.execs_table(m), root)
    version = np.int64(x.version)
    n = mem.n(m)[c.N_FILL]
    mem.n(m)[c.N_FILL] = n + 1
    mem.scalars(m)[g.S_FILLS] += 1
    row = mem.fills(m)[n]
    copy_row(row, mem.blank_fill(m))
    source = mem.in_rows(m)[w[c.W_REC]]
    now = mem.in_where(m)[3]
    fill_hi, fill_lo = np.int64(x.khi), np.int64(x.klo)
    id_hi, id_lo = derived_id(m, fill_hi, fill_lo, version, 118)
    row[s.F_MSG], row[s.F_MSG + 1] = id_hi, id_lo
    row[s.F_TS] = now
    row[s.F_TS_NS] = now
    row[s.F_CORR], row[s.F_CORR + 1] = np.int64(t.khi), np.int64(t.klo)
    row[s.F_CAUSE], row[s.F_CAUSE + 1] = t.msg_hi, t.msg_lo
    key = put_uuid_text(m, id_hi, id_lo)
    row[s.F_KEY], row[s.F_KEY + 1] = key, 36
    row[s.F_PAYLOAD_KEY], row[s.F_PAYLOAD_KEY + 1] = key, 36
    row[s.F_PAYLOAD] = 1
    row[s.F_ORDER], row[s.F_ORDER + 1] = t.order_hi, t.order_lo
    row[s.F_FILL], row[s.F_FILL + 1] = fill_hi, fill_lo
    row[s.F_SYMBOL], row[s.F_SYMBOL + 1] = put_intent_text(m, intent, 0), np.int64(t.symbol_len)
    row[s.F_ACCOUNT], row[s.F_ACCOUNT + 1] = source[s.R_ACCOUNT], source[s.R_ACCOUNT + 1]
    row[s.F_BOOK], row[s.F_BOOK + 1] = put_intent_text(m, intent, 2), np.int64(t.book_len)
    sell = (x.flags & g.X_SELL) != 0
    row[s.F_SIDE] = s.SIDE_SELL if sell else s.SIDE_BUY
    sign = -1 if sell else 1
    px_scale, qty_scale = np.int64(t.px_scale), np.int64(t.qty_scale)
    row[s.F_SIZE], row[s.F_SIZE + 1] = trim(size, qty_scale)
    row[s.F_PRICE], row[s.F_PRICE + 1] = trim(px, px_scale)
    row[s.F_VENUE], row[s.F_VENUE + 1] = source[s.R_VENUE], source[s.R_VENUE + 1]
    lag = source[s.R_RECV_TS] - source[s.R_EVENT_TS]
    row[s.F_LATENCY] = float_word(float(max(lag, 0)) / 1e6)
    if own:
        row[s.F_FEE], row[s.F_FEE + 1] = source[s.R_FEE], source[s.R_FEE + 1]
        row[s.F_FEE_CCY], row[s.F_FEE_CCY + 1] = source[s.R_FEE_CCY], source[s.R_FEE_CCY + 1]
        if 0 <= source[s.R_LIQUIDITY] <= 1:
            row[s.F_LIQUIDITY] = source[s.R_LIQUIDITY]
    row[s.F_EXEC_ID], row[s.F_EXEC_ID + 1] = source[s.R_EXEC_ID], source[s.R_EXEC_ID + 1]
    if source[s.R_EXEC_ID + 1] < 1:  # a restatement without an id of its own: the fill's
        row[s.F_EXEC_ID], row[s.F_EXEC_ID + 1] = put_uuid_text(m, fill_hi, fill_lo), 36
    row[s.F_EXEC_TS] = source[s.R_EVENT_TS]
    row[s.F_STATUS] = state
    row[s.F_VERSION] = version
    row[s.F_DELTA], row[s.F_DELTA + 1] = trim(sign * delta, qty_scale)
    row[s.F_CUM], row[s.F_CUM + 1] = trim(o.cum, qty_scale)
    row[s.F_LEAVES], row[s.F_LEAVES + 1] = trim(fold.leaves(m, order), qty_scale)
    row[s.F_AVG], row[s.F_AVG + 1] = average(o.not_hi, o.not_lo, o.cum, px_scale)
    row[s.F_PROVISIONAL] = 1 if (x.flags & g.X_ESTIMATE) != 0 else 0
    same_clock = mem.venues(m)[w[c.W_VENUE], c.V_CLOCK] == 1
    arrival(m, intent, same_clock)
    put_benchmark(
        m, row, s.F_BENCH, 0, px_scale, t.decision_ts, np.int64(t.arr_status), np.int64(t.arr_detail), t.arr_mid2, t.arr_ts,
        t.arr_snap_hi, t.arr_snap_lo,
    )  # fmt: skip
    status, detail, mid2, ts, snap_hi, snap_lo, place = benchmark(mem.quotes(m), np.int64(t.instrument), x.ts, MAX_AGE_NS, same_clock, True)
    put_benchmark(m, row, s.F_BENCH_MID, 1, px_scale, x.ts, status, detail, mid2, ts, snap_hi, snap_lo)
    row[s.F_SLIPPAGE] = 1
    if t.arr_status != s.BENCH_MISSING:
        bits = float_word(slippage_vs_mid2_bps(sign, px, t.arr_mid2))
        row[s.F_ARRIVAL] = bits
        row[s.F_SLIPPAGE_BPS] = bits
    if status != s.BENCH_MISSING:
        row[s.F_MID] = float_word(slippage_vs_mid2_bps(sign, px, mid2))
        instrument = np.int64(t.instrument)
        row[s.F_CAPTURE] = float_word(spread_capture(sign, px, mem.quotes(m).bid[instrument, place], mem.quotes(m).ask[instrument, place]))
        if detail == TAPE_BEHIND:
            mem.scalars(m)[g.S_LATE_BENCHMARKS] += 1
    row[s.F_RESIDUAL] = 1
    rest = t.size - t.cum
    row[s.F_RES_SIZE], row[s.F_RES_SIZE + 1] = trim(rest if rest > 0 else 0, qty_scale)
    row[s.F_RES_NOTIONAL], row[s.F_RES_NOTIONAL + 1] = product(sign * delta * np.int64(t.multiplier), px, qty_scale + px_scale)


@bare
def wait_counter(reason: int) -> int:
    """Return the scalar that counts pending reports of a reason."""
    if reason == R_ORDER_UNKNOWN:
        return g.S_WAIT_ORDER
    if reason == R_UNCORRELATED:
        return g.S_WAIT_ALIAS
    if reason == R_REF_UNKNOWN:
        return g.S_WAIT_REF
    return g.S_WAIT_HELD


@bare
def is_expired(m: Map, pend: int) -> bool:
    """Return whether a waiting report is in the DLQ already: its outcome stays that, whatever it still does."""
    return pend >= 0 and np.int64(mem.pendings(m)[pend].level) == LEVEL_EXPIRED


@bare
def leave_pending(m: Map, pend: int) -> None:
    """Count a waiting report that was taken again out of the pending ones, and have it forgotten."""
    if is_expired(m, pend):
        mem.scalars(m)[g.S_RESOLVED] += 1
    else:
        mem.scalars(m)[g.S_PENDING] -= 1
        mem.scalars(m)[wait_counter(np.int64(mem.pendings(m)[pend].reason))] -= 1
    n = mem.n(m)[c.N_DONE]
    mem.done(m)[n] = pend
    mem.n(m)[c.N_DONE] = n + 1


@bare
def settle(m: Map, counter: int) -> None:
    """Give the record at hand its one outcome: published, duplicate, dlq or rerouted (a number of the scalars)."""
    w = mem.work(m)
    w[c.W_SETTLED] = counter
    if not is_expired(m, w[c.W_PEND]):
        mem.scalars(m)[counter] += 1
    if w[c.W_PEND] >= 0:
        leave_pending(m, w[c.W_PEND])


@bare
def dead_letter(m: Map, reason: int) -> None:
    """Send the record at hand to the DLQ, unless it is there already."""
    w = mem.work(m)
    if not is_expired(m, w[c.W_PEND]):
        n = mem.n(m)[c.N_DLQ]
        mem.dlqs(m)[n, 0] = w[c.W_REC]
        mem.dlqs(m)[n, 1] = reason
        mem.dlqs(m)[n, 2] = w[c.W_PEND]
        mem.n(m)[c.N_DLQ] = n + 1
        mem.scalars(m)[g.S_DEAD + reason] += 1
    settle(m, g.S_DLQ)


@bare
def append_waiting(m: Map, key_hi: np.uint64, key_lo: np.uint64, pend: int) -> None:
    """Put a waiting report at the end of the list of what it waits for."""
    row = find(mem.waits_table(m), key_hi, key_lo)
    if row < 0:
        row = insert(mem.waits_table(m), key_hi, key_lo)
        mem.waits(m)[row].head = pend
    else:
        last = np.int64(mem.waits(m)[row].tail)
        mem.pendings(m)[last].next_pending = pend
        touch(mem.pendings_table(m), last)
    mem.waits(m)[row].tail = pend
    touch(mem.waits_table(m), row)
    mem.pendings(m)[pend].wait = row
    mem.pendings(m)[pend].next_pending = -1


@bare
def park(m: Map, reason: int, key_hi: np.uint64, key_lo: np.uint64, execution: int, order: int, due_ns: int) -> int:
    """Let the record at hand wait for a thing; return its pending row. due_ns 0: no clock."""
    w = mem.work(m)
    now = mem.in_where(m)[3]
    pend = w[c.W_PEND]
    if pend < 0:
        serial = mem.scalars(m)[g.S_SERIAL] + 1
        mem.scalars(m)[g.S_SERIAL] = serial
        pend = insert(mem.pendings_table(m), np.uint64(serial), np.uint64(1))
        p = mem.pendings(m)[pend]
        p.first_ns = now
        p.offset = mem.in_offsets(m)[w[c.W_REC]]
        p.page = -1
        n = mem.n(m)[c.N_PARK]
        mem.parks(m)[n, 0] = pend
        mem.parks(m)[n, 1] = w[c.W_REC]
        mem.n(m)[c.N_PARK] = n + 1
        mem.scalars(m)[g.S_PENDING] += 1
        mem.scalars(m)[wait_counter(reason)] += 1
    elif not is_expired(m, pend):
        mem.scalars(m)[wait_counter(np.int64(mem.pendings(m)[pend].reason))] -= 1
        mem.scalars(m)[wait_counter(reason)] += 1
    p = mem.pendings(m)[pend]
    if np.int64(p.reason) != reason:  # else the same wait goes on, and its clock
        p.reason = reason
        p.since_ns = now
        if p.level != LEVEL_EXPIRED:
            p.due_ns = due_ns
            p.level = 0
    p.exec = execution
    p.order = order
    touch(mem.pendings_table(m), pend)
    append_waiting(m, key_hi, key_lo, pend)
    w[c.W_SETTLED] = g.S_PENDING
    return pend


@bare
def wake(m: Map, key_hi: np.uint64, key_lo: np.uint64) -> None:
    """Have everything that waits for a thing taken next, in the order it came: hand out the head of its list."""
    row = find(mem.waits_table(m), key_hi, key_lo)
    if row < 0:
        return
    n = mem.n(m)[c.N_WAKE]
    mem.wakes(m)[n] = np.int64(mem.waits(m)[row].head)
    mem.n(m)[c.N_WAKE] = n + 1
    remove_row(mem.waits_table(m), row)


@bare
def day_of_ns(ns: int) -> int:
    """Return the UTC day of a time, counted from 2000-01-01."""
    return ns // DAY_NS - EPOCH_DAY_2000


@bare
def name_key(m: Map, hi: int, lo: int, venue_slot: int, id_slot: int, record: int, tag: int) -> tuple[np.uint64, np.uint64]:
    """Return the key of an id (`tag`: what kind) under a correlation and a venue; correlation 0, 0 for an alias."""
    row = mem.in_rows(m)[record]
    buffer = mem.scratch(m)
    put_word(buffer, 0, hi)
    put_word(buffer, 8, lo)
    buffer[16] = tag
    at = 17
    n = row[venue_slot + 1]
    buffer[at] = n
    copy_bytes(buffer, at + 1, mem.in_arena(m), row[venue_slot], n)
    at += 1 + n
    n = row[id_slot + 1]
    if n > 0:
        copy_bytes(buffer, at, mem.in_arena(m), row[id_slot], n)
        at += n
    return hash128(buffer, 0, at, 7)
