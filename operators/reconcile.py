"""The reconciliation of one lane: reports, routes and acknowledgements against the ledger, record by record, in one kernel call a chunk.

Decides every input's outcome and what is published; holds no rule of its own about quantities (operators/fold.py) or wording
(operators/publish.py). Rules: docs/reconciliation.md, step by step in the order of that page.
"""

from __future__ import annotations

import numpy as np

from operators import context as c
from operators import fold
from operators import memory as mem
from operators import slots as s
from operators.memory import Map, copy_bytes, copy_row, put_word
from operators.normalise import civil_from_days, correlate, exec_key, lookup, normalise
from operators.parking import go_ahead
from operators.publish import (
    DUP_FEED,
    DUP_REPLAY,
    DUP_RESEND,
    DUP_TRANSPORT,
    R_HELD,
    R_ORDER_UNKNOWN,
    R_REF_UNKNOWN,
    R_UNCORRELATED,
    SECOND_NS,
    alert,
    audit,
    day_of_ns,
    dead_letter,
    derived_id,
    name_key,
    park,
    publish,
    put_uuid_text,
    settle,
    wake,
)
from operators.scaled import POW10, rescale
from schemas.chunk import Bytes
from schemas.fields import NULL
from schemas.hashing import hash128, partition_of, uuid_text_into
from schemas.jit import bare
from schemas.reasons import Reason
from state import ledger as g
from state.table import find, insert, remove, touch

R = {reason.name: int(reason) for reason in Reason}
ACCEPTED, RECORDED, ALIAS_RECORDED = R["accepted"], R["order_recorded"], R["alias_recorded"]
REROUTED, MISROUTED = R["rerouted"], R["misrouted"]
EXEC_CONFLICT, INTENT_CONFLICT, CORRELATION_CONFLICT = R["exec_conflict"], R["intent_conflict"], R["correlation_conflict"]
CHAIN_FORK, CHAIN_CYCLE, CHAIN_DEAD = R["chain_fork"], R["chain_cycle"], R["chain_dead"]
REF_NOT_TRADE, REF_CROSS_ORDER = R["ref_not_trade"], R["ref_cross_order"]
OVERFILL, REGRESSION = R["overfill"], R["cum_regression"]
SIDE_MISMATCH, INSTRUMENT_MISMATCH, ACCOUNT_MISMATCH = R["side_mismatch"], R["instrument_mismatch"], R["account_mismatch"]
GAP_OPENED, GAP_CLOSED, ATTRIBUTE_MISMATCH, AVG_PX_MISMATCH = (
    R["gap_opened"],
    R["gap_closed"],
    R["attribute_mismatch"],
    R["avg_px_mismatch"],
)
AFTER_TERMINAL, CLOCK_SKEW, REVERSED, SPLIT = R["fill_after_terminal"], R["clock_skew"], R["provisional_reversed"], R["split_applied"]
HOLD_RELEASED, ORDER_HELD = R["hold_released"], R["order_held"]
DUP_SECONDARY, DUP_ENRICHED = R["duplicate_secondary"], R["duplicate_enriched"]
INSTRUMENT_UNKNOWN, PRECISION, FIELD_INVALID = R["instrument_unknown"], R["precision_exceeds_scale"], R["field_invalid"]
VENUE_UNKNOWN = R["venue_unknown"]

WAIT_ORDER_NS = 120 * SECOND_NS
WAIT_REF_NS = 86_400 * SECOND_NS
QUERY_NS = 5 * SECOND_NS
"""Clocks of reconciliation §9. Reports that wait for an order or an alias ring at 5 s (query), then at `WAIT_ORDER_NS`."""

ALERT_REASONS = np.array(
    [
        OVERFILL, REGRESSION, EXEC_CONFLICT, SIDE_MISMATCH, INSTRUMENT_MISMATCH, ACCOUNT_MISMATCH, CHAIN_FORK, CHAIN_CYCLE, CHAIN_DEAD,
        REF_NOT_TRADE, REF_CROSS_ORDER, GAP_OPENED, R["gap_expired"], R["ref_unknown_expired"], R["confirm_expired"], INTENT_CONFLICT,
    ],
    np.int64,
)  # fmt: skip

TAG_CLIENT, TAG_VENUE, TAG_ALIAS, TAG_LEG = 67, 86, 65, 76
KEY_DAYS_ON = 1


@bare
def hold_reason(bit: int) -> int:
    """Return the reason of a hold bit."""
    if bit == g.H_OVERFILL:
        return OVERFILL
    if bit == g.H_REGRESSION:
        return REGRESSION
    if bit == g.H_CONFLICT:
        return EXEC_CONFLICT
    if bit == g.H_SIDE:
        return SIDE_MISMATCH
    if bit == g.H_INSTRUMENT:
        return INSTRUMENT_MISMATCH
    return ACCOUNT_MISMATCH


@bare
def alert_bit(reason: int) -> int:
    """Return the bit that remembers that an alert of this reason was raised."""
    for i in range(len(ALERT_REASONS)):
        if ALERT_REASONS[i] == reason:
            return 1 << i
    return 0


@bare
def alert_once(m: Map, reason: int, severity: int, order: int) -> None:
    """Raise an alert unless one of this reason was raised for the order."""
    o = mem.orders(m)[order]
    bit = alert_bit(reason)
    if o.alerted & bit == 0:
        o.alerted |= bit
        touch(mem.orders_table(m), order)
        alert(m, reason, severity, order)


@bare
def hold(m: Map, order: int, bit: int, reason: int) -> None:
    """Hold a venue order for a reason; alert once per order and reason."""
    o = mem.orders(m)[order]
    if o.holds == 0:
        mem.scalars(m)[g.S_HELD] += 1
        audit(m, ORDER_HELD, s.OUT_NOTE, order, -1, 0, NULL, NULL)
    if o.holds & bit == 0:
        o.holds |= bit
        touch(mem.orders_table(m), order)
    critical = bit == g.H_OVERFILL or bit == g.H_REGRESSION or bit == g.H_CONFLICT
    alert_once(m, reason, s.SEV_CRITICAL if critical else s.SEV_WARN, order)


@bare
def unhold(m: Map, order: int, bits: int) -> None:
    """Take holds off. With the last one gone the caller lets what was held be taken (`wake_held`)."""
    o = mem.orders(m)[order]
    if o.holds & bits == 0:
        return
    o.holds &= ~bits
    touch(mem.orders_table(m), order)
    if o.holds == 0:
        mem.scalars(m)[g.S_HELD] -= 1
        audit(m, HOLD_RELEASED, s.OUT_NOTE, order, -1, 0, NULL, NULL)


@bare
def wake_held(m: Map, order: int) -> None:
    """Have what an order that is no longer held was holding taken next."""
    o = mem.orders(m)[order]
    if o.holds == 0:
        wake(m, o.khi, o.klo ^ np.uint64(g.TAG_HELD))


@bare
def start_clock(m: Map, order: int, what: int, now: int, due: int) -> None:
    """Start a clock of an order unless it runs."""
    o = mem.orders(m)[order]
    if fold.clock_row(m, order, what) >= 0:
        return
    row = insert(mem.clocks_table(m), o.khi, o.klo ^ np.uint64(what))
    k = mem.clocks(m)[row]
    k.order = order
    k.what = what
    k.since_ns = now
    k.due_ns = due
    k.level = 0


@bare
def stop_clock(m: Map, order: int, what: int) -> bool:
    """Stop a clock; return whether it ran."""
    row = fold.clock_row(m, order, what)
    if row < 0:
        return False
    remove(mem.clocks_table(m), row)
    return True


@bare
def check_totals(m: Map, order: int) -> None:
    """Compare with the venue's total and with the order's size: gaps, regressions, overfills, and what they hold."""
    o = mem.orders(m)[order]
    now = mem.in_where(m)[3]
    d = o.stated - o.as_of if o.totals & g.T_STATED else 0
    gap = d if d > 0 else 0
    if gap > 0 and o.gap == 0:
        mem.scalars(m)[g.S_GAPS] += 1
        audit(m, GAP_OPENED, s.OUT_NOTE, order, -1, 0, gap, o.stated)
        start_clock(m, order, g.CLOCK_GAP, now, now + QUERY_NS)
    if gap == 0 and o.gap > 0:
        mem.scalars(m)[g.S_GAPS] -= 1
        audit(m, GAP_CLOSED, s.OUT_NOTE, order, -1, 0, o.gap, o.stated)
        stop_clock(m, order, g.CLOCK_GAP)
    if gap != o.gap:
        o.gap = gap
        touch(mem.orders_table(m), order)
    if d < 0:
        hold(m, order, g.H_REGRESSION, REGRESSION)
    else:
        unhold(m, order, g.H_REGRESSION)
    qty = fold.order_qty(m, order)
    if qty > 0 and o.cum > qty:
        if o.venue >= 0 and mem.venues(m)[o.venue, c.V_HOLD] == 1:
            hold(m, order, g.H_OVERFILL, OVERFILL)
        else:
            alert_once(m, OVERFILL, s.SEV_CRITICAL, order)
    else:
        unhold(m, order, g.H_OVERFILL)
    if fold.leaves(m, order) == 0:
        stop_clock(m, order, g.CLOCK_CONFIRM)


@bare
def find_id(m: Map, venue_slot: int, id_slot: int, record: int, tag: int) -> tuple[np.uint64, np.uint64, int]:
    """Return (key, key, row or -1) of an id the record names under its correlation and venue; (0, 0, -1) when it names none."""
    if mem.in_rows(m)[record, id_slot + 1] < 1:
        return np.uint64(0), np.uint64(0), -1
    w = mem.work(m)
    hi, lo = name_key(m, w[c.W_CORR_HI], w[c.W_CORR_LO], venue_slot, id_slot, record, tag)
    return hi, lo, find(mem.ids_table(m), hi, lo)


@bare
def add_id(m: Map, order: int, hi: np.uint64, lo: np.uint64) -> int:
    """Let an order be known by one more id; return its row."""
    row = insert(mem.ids_table(m), hi, lo)
    mem.ids(m)[row].order = order
    mem.ids(m)[row].next_id = mem.orders(m)[order].first_id
    mem.orders(m)[order].first_id = row
    touch(mem.orders_table(m), order)
    return row


@bare
def new_order(m: Map, khi: np.uint64, klo: np.uint64, venue: int, venue_slot: int, record: int) -> int:
    """Add a venue order under the record's correlation, tied to its intent if that is known."""
    w = mem.work(m)
    order = insert(mem.orders_table(m), khi, klo)
    o = mem.orders(m)[order]
    o.corr_hi = np.uint64(w[c.W_CORR_HI])
    o.corr_lo = np.uint64(w[c.W_CORR_LO])
    o.head = -1
    o.first_id = -1
    o.clock = -1
    o.venue = venue
    o.split_num = 1
    o.split_den = 1
    o.intent = -1
    o.next_order = -1
    start, n = mem.in_rows(m)[record, venue_slot], mem.in_rows(m)[record, venue_slot + 1]
    o.venue_len = n
    for j in range(n):
        o.venue_name[j] = mem.in_arena(m)[start + j]
    intent = find(mem.intents_table(m), o.corr_hi, o.corr_lo)
    if intent >= 0:
        tie(m, order, intent)
    return order


@bare
def tie(m: Map, order: int, intent: int) -> None:
    """Tie a venue order to its intent."""
    o = mem.orders(m)[order]
    o.intent = intent
    o.next_order = mem.intents(m)[intent].first_order
    mem.intents(m)[intent].first_order = order
    if o.early_ts > 0:
        t = mem.intents(m)[intent]
        size = rescale(o.early_size, np.int64(o.early_scale), np.int64(t.qty_scale))
        if size > 0:
            fold.state_qty(m, order, size, o.early_ts, 0, fold.RANK_STATED)
    touch(mem.orders_table(m), order)
    touch(mem.intents_table(m), intent)


@bare
def resolve_order(m: Map, record: int, venue: int, may_create: bool) -> int:
    """Return the venue order a report is about: the one that knows an id it names, else a new one (or -1). New ids join it."""
    w = mem.work(m)
    vh, vl, by_venue = find_id(m, s.R_VENUE, s.R_VENUE_ORDER, record, TAG_VENUE)
    ch, cl, by_client = find_id(m, s.R_VENUE, s.R_CLIENT, record, TAG_CLIENT)
    oh, ol, by_orig = find_id(m, s.R_VENUE, s.R_ORIG_CLIENT, record, TAG_CLIENT)
    order = -1
    if by_venue >= 0:
        order = np.int64(mem.ids(m)[by_venue].order)
    elif by_client >= 0:
        order = np.int64(mem.ids(m)[by_client].order)
    elif by_orig >= 0:
        order = np.int64(mem.ids(m)[by_orig].order)
    if order < 0:
        if not may_create:
            return -1
        khi, klo = vh, vl
        if mem.in_rows(m)[record, s.R_VENUE_ORDER + 1] < 1:
            khi, klo = ch, cl
            if mem.in_rows(m)[record, s.R_CLIENT + 1] < 1:
                khi, klo = name_key(m, w[c.W_CORR_HI], w[c.W_CORR_LO], s.R_VENUE, s.R_VENUE_ORDER, record, TAG_LEG)
                found = find(mem.orders_table(m), khi, klo)
                if found >= 0:
                    return found
        order = new_order(m, khi, klo, venue, s.R_VENUE, record)
    if by_venue < 0 and mem.in_rows(m)[record, s.R_VENUE_ORDER + 1] > 0:
        add_id(m, order, vh, vl)
    if by_client < 0 and mem.in_rows(m)[record, s.R_CLIENT + 1] > 0:
        add_id(m, order, ch, cl)
    if by_orig < 0 and mem.in_rows(m)[record, s.R_ORIG_CLIENT + 1] > 0 and find(mem.ids_table(m), oh, ol) < 0:
        add_id(m, order, oh, ol)
    return order


@bare
def reroute(m: Map, key_start: int, key_length: int, reason: int) -> None:
    """Re-publish the record at hand unchanged under another key."""
    w = mem.work(m)
    n = mem.n(m)[c.N_REROUTE]
    mem.reroutes(m)[n, 0] = w[c.W_REC]
    mem.reroutes(m)[n, 1] = w[c.W_PEND]
    mem.reroutes(m)[n, 2] = key_start
    mem.reroutes(m)[n, 3] = key_length
    mem.reroutes(m)[n, 4] = reason
    mem.n(m)[c.N_REROUTE] = n + 1
    if reason == MISROUTED:
        mem.scalars(m)[g.S_MISROUTED] += 1
    audit(m, reason, s.OUT_REROUTED, -1, -1, 0, NULL, NULL)
    settle(m, g.S_REROUTED)


@bare
def lane_of_correlation(m: Map, hi: int, lo: int, lanes: int) -> int:
    """Return the lane a correlation belongs to."""
    uuid_text_into(hi, lo, mem.scratch(m), 0)
    return partition_of(mem.scratch(m), 0, 36, lanes)


@bare
def put_alias_key(m: Map, venue_slot: int, id_slot: int, record: int) -> tuple[int, int]:
    """Write `venue|venue_order_id` into the outputs' text; return (start, length) there."""
    row = mem.in_rows(m)[record]
    start = mem.n(m)[c.N_TEXT]
    c.put_text(m, mem.in_arena(m), row[venue_slot], row[venue_slot + 1])
    mem.text(m)[mem.n(m)[c.N_TEXT]] = 124
    mem.n(m)[c.N_TEXT] += 1
    if row[id_slot + 1] > 0:
        c.put_text(m, mem.in_arena(m), row[id_slot], row[id_slot + 1])
    return start, mem.n(m)[c.N_TEXT] - start


@bare
def route_by_correlation(m: Map, record: int) -> bool:
    """Return whether the record belongs here by its correlation; else re-publish it where it belongs."""
    w = mem.work(m)
    if lane_of_correlation(m, w[c.W_CORR_HI], w[c.W_CORR_LO], mem.in_where(m)[1]) == mem.in_where(m)[0]:
        return True
    slot = put_uuid_text(m, w[c.W_CORR_HI], w[c.W_CORR_LO])
    reason = REROUTED if w[c.W_CORR_FROM] == 2 else MISROUTED
    if w[c.W_PEND] >= 0:
        reason = REROUTED
    reroute(m, -slot - 1, 36, reason)
    return False


@bare
def wait_for_alias(m: Map, record: int, key_hi: np.uint64, key_lo: np.uint64) -> None:
    """Park a report without a correlation in the lane of its `venue|venue_order_id`, or send it there."""
    w = mem.work(m)
    start, length = put_alias_key(m, s.R_VENUE, s.R_VENUE_ORDER, record)
    if partition_of(mem.text(m), start, length, mem.in_where(m)[1]) != mem.in_where(m)[0]:
        reroute(m, start, length, MISROUTED)
        return
    w[c.W_INTENT] = -1
    audit(m, R_UNCORRELATED, s.OUT_PENDING, -1, -1, 0, NULL, NULL)
    park(m, R_UNCORRELATED, key_hi, key_lo ^ np.uint64(g.TAG_ALIAS), -1, -1, mem.in_where(m)[3] + QUERY_NS)


@bare
def refuse(m: Map, reason: int) -> None:
    """Send the record at hand to the DLQ for a reason that is its own, no venue order's."""
    audit(m, reason, s.OUT_DLQ, -1, -1, 0, NULL, NULL)
    dead_letter(m, reason)


@bare
def begin(m: Map, i: int) -> bool:
    """Make record i the one at hand; return whether it can be taken, that is, was decoded. What waits already was counted as received."""
    w = mem.work(m)
    pend = mem.in_pend(m)[i]
    w[c.W_REC], w[c.W_PEND], w[c.W_SETTLED] = i, pend, -1
    w[c.W_INTENT], w[c.W_ORDER], w[c.W_MOVES] = -1, -1, 0
    if pend < 0:
        mem.scalars(m)[g.S_RECEIVED] += 1
    if mem.in_ok(m)[i]:
        return True
    refuse(m, np.int64(mem.in_reason(m)[i]))
    return False


@bare
def same_content(m: Map, row: int) -> bool:
    """Return whether the record at hand says what the execution on file says."""
    w = mem.work(m)
    x = mem.execs(m)[row]
    kind = w[c.W_KIND]
    if np.int64(x.kind) != kind:
        return False
    if x.order >= 0:
        o = mem.orders(m)[x.order]
        if np.int64(o.corr_hi) != w[c.W_CORR_HI] or np.int64(o.corr_lo) != w[c.W_CORR_LO]:
            return False
    if w[c.W_MOVES] == 0:
        return True
    if kind != s.K_BUST:
        qty, px = w[c.W_QTY], w[c.W_PX]
        o = mem.orders(m)[x.order]
        if o.split_ts > 0 and x.ts < o.split_ts:
            qty = fold.split_qty(m, np.int64(x.order), qty)
            px = fold.split_px(m, np.int64(x.order), px)
        if x.px != px:
            return False
        if x.qty != qty and x.flags & g.X_ESTIMATE == 0:
            return False
        if x.flags & g.X_SIDE and w[c.W_SIDE] != NULL:
            sell = (x.flags & g.X_SELL) != 0
            if sell != (w[c.W_SIDE] == s.SIDE_SELL):
                return False
    return kind == s.K_TRADE or np.int64(x.next_exec) == reference_print(m, w[c.W_REC])


@bare
def reference_print(m: Map, record: int) -> int:
    """Return a 31-bit print of the id a bust or correct refers to: what a repeat of it must name too."""
    row = mem.in_rows(m)[record]
    hi, _ = hash128(mem.in_arena(m), row[s.R_REF_ID], row[s.R_REF_ID + 1], 0)
    return np.int64(hi >> np.uint64(33))


@bare
def key_of(m: Map, record: int, slot: int, date: int) -> tuple[int, int]:
    """Return the execution key of the id in a slot of the record (its own, or what it refers to), on a trade date (0: without one)."""
    row = mem.in_rows(m)[record]
    return exec_key(
        m, row, mem.in_arena(m), mem.scratch(m), mem.work(m)[c.W_VENUE], row[slot], row[slot + 1], row[s.R_VENUE_ORDER],
        row[s.R_VENUE_ORDER + 1], date,
    )  # fmt: skip


@bare
def find_reference(m: Map, record: int, order: int) -> tuple[int, bool]:
    """Return (row or -1, same venue order) of what a bust or correct refers to: from its own date + 1 back over the horizon."""
    w = mem.work(m)
    venue = w[c.W_VENUE]
    dated = mem.venues(m)[venue, c.V_DATED] == 1
    days = mem.venues(m)[venue, c.V_HORIZON] + KEY_DAYS_ON if dated else 0
    other = -1
    for back in range(days + 1):
        date = 0
        if dated:
            date = civil_from_days(w[c.W_DAY] + KEY_DAYS_ON - back)
        hi, lo = key_of(m, record, s.R_REF_ID, date)
        row = find(mem.execs_table(m), np.uint64(hi), np.uint64(lo))
        if row >= 0:
            if np.int64(mem.execs(m)[row].order) == order:
                return row, True
            if other < 0:
                other = row
    return other, False


@bare
def repeat(m: Map, row: int) -> None:
    """Settle a repeat of what is known: count its kind; publish a missing attribute it brings; remark on one it contradicts."""
    w = mem.work(m)
    record = w[c.W_REC]
    source = mem.in_rows(m)[record]
    x = mem.execs(m)[row]
    kind = DUP_REPLAY
    if source[s.R_POSS_DUP] == 1:
        kind = DUP_TRANSPORT
    elif source[s.R_POSS_RESEND] == 1:
        kind = DUP_RESEND
    elif np.int64(x.flags & g.X_SOURCE) >> g.X_SOURCE_SHIFT != source[s.R_SOURCE]:
        kind = DUP_FEED
    enrich(m, row)
    mem.scalars(m)[g.S_DUP_KIND + kind - DUP_TRANSPORT] += 1
    settle(m, g.S_DUPLICATE)


@bare
def fee_print(m: Map, record: int) -> int:
    """Return a non-zero 32-bit print of a record's fee, 0 when it has none."""
    row = mem.in_rows(m)[record]
    if row[s.R_FEE + 1] < 0:
        return 0
    mixed = np.uint64(row[s.R_FEE]) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(row[s.R_FEE + 1])
    if row[s.R_FEE_CCY + 1] > 0:
        hi, _ = hash128(mem.in_arena(m), row[s.R_FEE_CCY], row[s.R_FEE_CCY + 1], 0)
        mixed ^= hi
    return np.int64((mixed >> np.uint64(32)) | np.uint64(1))


@bare
def liquidity_code(m: Map, record: int) -> int:
    """Return 1 maker, 2 taker, 3 another kind, 0 not said."""
    value = mem.in_rows(m)[record, s.R_LIQUIDITY]
    if value == NULL:
        return 0
    return min(value, 2) + 1


@bare
def enrich(m: Map, row: int) -> None:
    """Take fee and liquidity from a repeat: publish what was missing (signed_delta 0), remark on a contradiction."""
    w = mem.work(m)
    record = w[c.W_REC]
    x = mem.execs(m)[row]
    if np.int64(x.kind) != s.K_TRADE and np.int64(x.kind) != s.K_CORRECT:
        return
    fee = fee_print(m, record)
    known_liquidity = np.int64(x.flags & g.X_LIQUIDITY) >> g.X_LIQUIDITY_SHIFT
    liquidity = liquidity_code(m, record)
    mismatch = (fee != 0 and x.flags & g.X_FEE != 0 and np.int64(x.fee) != fee) or (
        liquidity != 0 and known_liquidity != 0 and liquidity != known_liquidity
    )
    if mismatch:
        w[c.W_INTENT] = np.int64(mem.orders(m)[x.order].intent)
        audit(m, ATTRIBUTE_MISMATCH, s.OUT_NOTE, np.int64(x.order), np.int64(x.root), 0, NULL, NULL)
        return
    brings = (fee != 0 and x.flags & g.X_FEE == 0) or (liquidity != 0 and known_liquidity == 0)
    if not brings or x.flags & (g.X_WAITING | g.X_UNFOLDED) or x.root < 0:
        return
    root = np.int64(x.root)
    if x.flags & g.X_PUBLISHED == 0 or published_tail(m, root, -1) != row or mem.orders(m)[x.order].holds != 0:
        return
    note_attributes(m, record, row)
    mem.scalars(m)[g.S_ENRICHED] += 1
    mem.scalars(m)[g.S_DUP_KIND + DUP_ENRICHED - DUP_TRANSPORT] += 1
    state = s.ST_FILLED if np.int64(x.kind) == s.K_TRADE else s.ST_CORRECTED
    publish(m, np.int64(x.order), root, state, x.qty, x.px, 0, True)
    audit(m, DUP_ENRICHED, s.OUT_NOTE, np.int64(x.order), root, np.int64(mem.execs(m)[root].version), NULL, NULL)


@bare
def note_attributes(m: Map, record: int, row: int) -> None:
    """Remember the fee and liquidity a fill came with, where not known yet."""
    x = mem.execs(m)[row]
    fee = fee_print(m, record)
    if fee != 0 and x.flags & g.X_FEE == 0:
        x.fee = fee
        x.flags |= g.X_FEE
    if x.flags & g.X_LIQUIDITY == 0:
        x.flags |= liquidity_code(m, record) << g.X_LIQUIDITY_SHIFT
    touch(mem.execs_table(m), row)


@bare
def new_execution(m: Map, order: int) -> int:
    """Enter the record at hand into the execution ledger; return its row."""
    w = mem.work(m)
    record = w[c.W_REC]
    source = mem.in_rows(m)[record]
    row = insert(mem.execs_table(m), np.uint64(w[c.W_KEY_HI]), np.uint64(w[c.W_KEY_LO]))
    x = mem.execs(m)[row]
    x.kind = w[c.W_KIND]
    x.order = order
    x.root = row
    x.parent = -1
    x.child = -1
    x.next_exec = -1
    x.ts = w[c.W_TS]
    x.seq = w[c.W_SEQ] & 0xFFFFFFFF
    x.day = max(w[c.W_DAY], 0)
    x.expires = x.day + mem.venues(m)[w[c.W_VENUE], c.V_HORIZON]
    x.flags = source[s.R_SOURCE] << g.X_SOURCE_SHIFT
    if w[c.W_KIND] == s.K_TRADE or w[c.W_KIND] == s.K_CORRECT:
        x.qty = w[c.W_QTY]
        x.px = w[c.W_PX]
        if source[s.R_INFERRED] == 1 or source[s.R_PROVISIONAL] == 1:
            x.flags |= g.X_ESTIMATE
    if w[c.W_KIND] == s.K_BUST or w[c.W_KIND] == s.K_CORRECT:
        x.next_exec = reference_print(m, record)
    if w[c.W_SIDE] != NULL:
        x.flags |= g.X_SIDE
        if w[c.W_SIDE] == s.SIDE_SELL:
            x.flags |= g.X_SELL
    if w[c.W_DAY] > mem.scalars(m)[g.S_NEWEST_DAY]:
        mem.scalars(m)[g.S_NEWEST_DAY] = w[c.W_DAY]
    return row


@bare
def match_key(m: Map, record: int, order: int) -> tuple[np.uint64, np.uint64, bool]:
    """Return the key of the venue's id of the trade (trade_match_id, else secondary_exec_id) with side and venue order; False: none said."""
    row = mem.in_rows(m)[record]
    slot = s.R_MATCH
    if row[slot + 1] < 1:
        slot = s.R_SECONDARY
    if row[slot + 1] < 1:
        return np.uint64(0), np.uint64(0), False
    o = mem.orders(m)[order]
    buffer = mem.scratch(m)
    put_word(buffer, 0, np.int64(o.khi))
    put_word(buffer, 8, np.int64(o.klo))
    buffer[16] = 1 if row[s.R_SIDE] == s.SIDE_SELL else 0
    at = 17
    for part in (s.R_ACCOUNT, s.R_INSTRUMENT, slot):
        n = row[part + 1]
        buffer[at] = n & 255
        at += 1
        copy_bytes(buffer, at, mem.in_arena(m), row[part], n)
        at += n
    hi, lo = hash128(buffer, 0, at, 11)
    return hi, lo, True


@bare
def conflict(m: Map, order: int, reason: int) -> None:
    """Quarantine the record at hand: DLQ, and the order behind it is held."""
    mem.work(m)[c.W_INTENT] = np.int64(mem.orders(m)[order].intent)
    audit(m, reason, s.OUT_DLQ, order, -1, 0, NULL, NULL)
    hold(m, order, g.H_CONFLICT, reason)
    dead_letter(m, reason)


@bare
def hold_pending(m: Map, order: int, row: int) -> None:
    """Let the record at hand wait for its order's release."""
    o = mem.orders(m)[order]
    audit(m, R_HELD, s.OUT_PENDING, order, np.int64(mem.execs(m)[row].root), 0, NULL, NULL)
    park(m, R_HELD, o.khi, o.klo ^ np.uint64(g.TAG_HELD), row, order, 0)


@bare
def put_version(m: Map, row: int) -> None:
    """Publish what the record at hand, execution `row`, did to its fill, and settle it as published."""
    rows = mem.execs(m)
    x = rows[row]
    order, root = np.int64(x.order), np.int64(x.root)
    w = mem.work(m)
    record = w[c.W_REC]
    qty = x.qty
    if row == root:
        note_attributes(m, record, row)
        o = mem.orders(m)[order]
        if o.split_ts > 0 and x.ts < o.split_ts and x.flags & g.X_ESTIMATE == 0:
            # A fill from before a split that comes after it: as it was, then as the split made it.
            publish(m, order, root, s.ST_FILLED, w[c.W_QTY], w[c.W_PX], w[c.W_QTY], True)
            publish(m, order, root, s.ST_CORRECTED, qty, x.px, qty - w[c.W_QTY], False)
        else:
            publish(m, order, root, s.ST_FILLED, qty, x.px, qty, True)
    else:
        before = published_tail(m, root, -1)
        tail = published_tail(m, root, row)
        if tail == row and np.int64(x.kind) != s.K_BUST:
            note_attributes(m, record, row)
        x.flags |= g.X_PUBLISHED
        put_tail(m, root, tail, rows[tail].qty - rows[before].qty, tail == row)
    fold.state_total(m, order, w[c.W_CUM], w[c.W_TS], w[c.W_SEQ], True)
    x.flags |= g.X_PUBLISHED
    touch(mem.execs_table(m), row)
    audit(m, ACCEPTED, s.OUT_PUBLISHED, order, root, np.int64(rows[root].version), qty, NULL)
    settle(m, g.S_PUBLISHED)


@bare
def published_tail(m: Map, root: int, besides: int) -> int:
    """Return the last link of a chain that is published or is `besides`: what consumers take for effective, before or after it."""
    rows = mem.execs(m)
    last = root
    at = np.int64(rows[root].child)
    while at >= 0:
        if at == besides or rows[at].flags & g.X_PUBLISHED:
            last = at
        at = np.int64(rows[at].child)
    return last


@bare
def put_tail(m: Map, root: int, tail: int, delta: int, own: bool) -> None:
    """Publish a chain's effective link: a correction with its values, or a bust with those it undoes."""
    rows = mem.execs(m)
    order = np.int64(rows[root].order)
    if np.int64(rows[tail].kind) == s.K_BUST:
        undone = published_before(m, root, tail)
        publish(m, order, root, s.ST_BUSTED, rows[undone].qty, rows[undone].px, delta, False)
    else:
        publish(m, order, root, s.ST_CORRECTED, rows[tail].qty, rows[tail].px, delta, own)


@bare
def published_before(m: Map, root: int, row: int) -> int:
    """Return the last published link before `row`, the first one if there is none."""
    rows = mem.execs(m)
    last = root
    at = np.int64(rows[root].child)
    while at >= 0 and at != row:
        if rows[at].flags & g.X_PUBLISHED and np.int64(rows[at].kind) != s.K_BUST:
            last = at
        at = np.int64(rows[at].child)
    return last


@bare
def date_of(m: Map, row: int) -> int:
    """Return an execution's trade date as yyyymmdd."""
    return civil_from_days(np.int64(mem.execs(m)[row].day))


@bare
def fold_trade(m: Map, order: int, row: int) -> None:
    """Add a new execution to its order, first taking back estimates it replaces."""
    w = mem.work(m)
    o = mem.orders(m)[order]
    x = mem.execs(m)[row]
    if o.split_ts > 0 and x.ts < o.split_ts:
        x.qty = fold.split_qty(m, order, x.qty)
        x.px = fold.split_px(m, order, x.px)
    fold.see_day(m, order, w[c.W_DATE])
    if x.flags & g.X_ESTIMATE:
        o.est_open += x.qty
        mem.scalars(m)[g.S_ESTIMATES] += 1
    elif o.est_open > 0:
        reverse_estimates(m, order, x.qty)
    if fold.is_terminal(m, order):
        audit(m, AFTER_TERMINAL, s.OUT_NOTE, order, row, 0, x.qty, NULL)
    fold.link_execution(m, order, row)
    fold.add_effect(m, order, 0, 0, x.qty, x.px, w[c.W_DATE])


@bare
def reverse_estimates(m: Map, order: int, qty: int) -> None:
    """Take min(open estimate, qty) from the oldest estimates of an order and publish what is left of them."""
    rows = mem.execs(m)
    o = mem.orders(m)[order]
    rest = min(qty, o.est_open)
    while rest > 0:
        oldest = -1
        at = np.int64(o.head)
        while at >= 0:
            if rows[at].flags & g.X_ESTIMATE and rows[at].qty > 0 and rows[at].child < 0 and (oldest < 0 or fold.sooner(m, at, oldest)):
                oldest = at
            at = np.int64(rows[at].next_exec)
        if oldest < 0:
            break
        x = rows[oldest]
        taken = min(rest, x.qty)
        old = x.qty
        fold.add_effect(m, order, old, x.px, old - taken, x.px, date_of(m, oldest))
        x.qty = old - taken
        touch(mem.execs_table(m), oldest)
        o.est_open -= taken
        rest -= taken
        fold.restate(m, order)
        audit(m, REVERSED, s.OUT_NOTE, order, oldest, 0, taken, NULL)
        if x.flags & g.X_PUBLISHED:
            if x.qty == 0:
                publish(m, order, oldest, s.ST_BUSTED, old, x.px, -old, False)
            else:
                publish(m, order, oldest, s.ST_CORRECTED, x.qty, x.px, -taken, False)


@bare
def fold_link(m: Map, order: int, row: int, after: int) -> int:
    """Put a bust or correct into its chain after `after` and carry its effect to the sums; return the change of quantity."""
    rows = mem.execs(m)
    root = np.int64(rows[after].root)
    tail = fold.tail_of(m, root)
    x = rows[row]
    o = mem.orders(m)[order]
    if x.qty > 0 and o.split_ts > 0 and x.ts < o.split_ts:
        x.qty = fold.split_qty(m, order, x.qty)
        x.px = fold.split_px(m, order, x.px)
    if rows[root].flags & g.X_SELL:
        x.flags |= g.X_SELL
    old_qty, old_px = rows[tail].qty, rows[tail].px
    fold.chain_in(m, row, after)
    fold.keep_chain(m, row)
    if tail != after:
        return 0
    fold.add_effect(m, order, old_qty, old_px, x.qty, x.px, date_of(m, root))
    return x.qty - old_qty


@bare
def wake_followers(m: Map, record: int) -> None:
    """Have busts and corrects that wait for the record at hand taken next."""
    if mem.waits_table(m).meta[0] > 0:
        hi, lo = key_of(m, record, s.R_EXEC_ID, 0)
        wake(m, np.uint64(hi), np.uint64(lo) ^ np.uint64(g.TAG_REF))


@bare
def waits_for_me(m: Map, record: int, ancestor: int) -> bool:
    """Return whether the (waiting) link `ancestor` waits, itself or through links before it, for the record at hand."""
    rows = mem.execs(m)
    hi, lo = key_of(m, record, s.R_EXEC_ID, 0)
    wait = find(mem.waits_table(m), np.uint64(hi), np.uint64(lo) ^ np.uint64(g.TAG_REF))
    if wait < 0:
        return False
    top = ancestor
    steps = 0
    while rows[top].parent >= 0 and steps < 10_000:
        top = np.int64(rows[top].parent)
        steps += 1
    at = np.int64(mem.waits(m)[wait].head)
    while at >= 0:
        if np.int64(mem.pendings(m)[at].exec) == top:
            return True
        at = np.int64(mem.pendings(m)[at].next_pending)
    return False


@bare
def know_parent(m: Map, record: int, row: int) -> None:
    """Tell the links that wait for the record at hand, which waits itself, what row it has: so that a cycle can be seen."""
    hi, lo = key_of(m, record, s.R_EXEC_ID, 0)
    wait = find(mem.waits_table(m), np.uint64(hi), np.uint64(lo) ^ np.uint64(g.TAG_REF))
    if wait < 0:
        return
    at = np.int64(mem.waits(m)[wait].head)
    while at >= 0:
        link = np.int64(mem.pendings(m)[at].exec)
        if link >= 0:
            mem.execs(m)[link].parent = row
            touch(mem.execs_table(m), link)
        at = np.int64(mem.pendings(m)[at].next_pending)


@bare
def take_link(m: Map, order: int, known: int) -> None:
    """Take a bust or correct; `known` is its row when it has waited, else -1."""
    w = mem.work(m)
    record = w[c.W_REC]
    source = mem.in_rows(m)[record]
    rows = mem.execs(m)
    if source[s.R_REF_ID + 1] == source[s.R_EXEC_ID + 1]:
        same = True
        for j in range(source[s.R_REF_ID + 1]):
            if mem.in_arena(m)[source[s.R_REF_ID] + j] != mem.in_arena(m)[source[s.R_EXEC_ID] + j]:
                same = False
                break
        if same:
            conflict(m, order, CHAIN_CYCLE)
            return
    parent, here = find_reference(m, record, order)
    root_style = mem.venues(m)[w[c.W_VENUE], c.V_ROOT] == 1
    waited = known >= 0 and rows[known].flags & g.X_WAITING != 0
    reason = 0
    waiting = False
    if parent < 0:
        waiting = True
    elif not here:
        reason = REF_CROSS_ORDER
    else:
        kind = np.int64(rows[parent].kind)
        if rows[parent].flags & g.X_WAITING:
            if not waited and waits_for_me(m, record, parent):
                reason = CHAIN_CYCLE
            else:
                waiting = True
        elif rows[parent].flags & g.X_UNFOLDED:
            waiting = True
        elif kind == s.K_BUST:
            reason = CHAIN_DEAD
        elif kind != s.K_TRADE and kind != s.K_CORRECT and kind != s.K_BUST:
            reason = REF_NOT_TRADE
        elif rows[parent].child >= 0 and not root_style:
            reason = CHAIN_FORK
    if waiting:
        row = known
        if row < 0:
            row = new_execution(m, order)
        if not waited:
            rows[row].flags |= g.X_WAITING
            know_parent(m, record, row)
        rows[row].parent = parent
        touch(mem.execs_table(m), row)
        hi, lo = key_of(m, record, s.R_REF_ID, 0)
        audit(m, R_REF_UNKNOWN, s.OUT_PENDING, order, -1, 0, NULL, NULL)
        park(m, R_REF_UNKNOWN, np.uint64(hi), np.uint64(lo) ^ np.uint64(g.TAG_REF), row, order, mem.in_where(m)[3] + WAIT_REF_NS)
        return
    row = known
    after = parent
    if reason == 0:
        if row < 0:
            row = new_execution(m, order)
        if root_style:
            after = fold.place_for(m, np.int64(rows[parent].root), row)
    if reason != 0:
        if known >= 0:
            remove(mem.execs_table(m), known)
        conflict(m, order, reason)
        return
    rows[row].flags &= ~(g.X_WAITING)
    delta = fold_link(m, order, row, after)
    fold.see_day(m, order, w[c.W_DATE])
    finish_fact(m, order, row, delta)


@bare
def finish_fact(m: Map, order: int, row: int, delta: int) -> None:
    """After a fact is folded: totals, holds, publication or waiting, and whoever waited for it."""
    w = mem.work(m)
    record = w[c.W_REC]
    source = mem.in_rows(m)[record]
    fold.note_fact(m, order, row, delta)
    fold.state_total(m, order, w[c.W_CUM], w[c.W_TS], w[c.W_SEQ], False)
    o = mem.orders(m)[order]
    was_held = o.holds != 0
    check_totals(m, order)
    check_average(m, order)
    if source[s.R_RECV_TS] < w[c.W_TS] and o.flags & g.O_SKEW == 0:
        o.flags |= g.O_SKEW
        audit(m, CLOCK_SKEW, s.OUT_NOTE, order, -1, 0, NULL, NULL)
    if o.holds != 0:
        hold_pending(m, order, row)
    elif was_held:
        # It released the order: it is published in its turn, after what was held before it.
        park(m, R_HELD, o.khi, o.klo ^ np.uint64(g.TAG_HELD), row, order, 0)
        wake_held(m, order)
    else:
        put_version(m, row)
    wake_followers(m, record)


@bare
def check_average(m: Map, order: int) -> None:
    """Compare the venue's average price, if it speaks of the same quantity: half a unit of its precision per fill; audit only."""
    w = mem.work(m)
    source = mem.in_rows(m)[w[c.W_REC]]
    o = mem.orders(m)[order]
    places = source[s.R_AVG_PX + 1]
    if places < 0 or w[c.W_CUM] == NULL or w[c.W_CUM] != o.cum or o.cum == 0 or o.intent < 0:
        return
    px_scale = np.int64(mem.intents(m)[o.intent].px_scale)
    ours = (float(o.not_hi) * 18446744073709551616.0 + float(o.not_lo)) / float(o.cum) / float(POW10[px_scale])
    theirs = float(source[s.R_AVG_PX]) / float(POW10[min(places, 18)])
    unit = 1.0 / float(POW10[min(max(places, px_scale), 18)])
    if abs(ours - theirs) > 0.5 * unit * max(1, np.int64(o.nexec)) + 1e-9 * abs(ours):
        audit(m, AVG_PX_MISMATCH, s.OUT_NOTE, order, -1, 0, NULL, NULL)


@bare
def take_trade(m: Map, order: int, row: int) -> None:
    """Fold a new execution and publish it, or hold it."""
    w = mem.work(m)
    fold_trade(m, order, row)
    fold.state_qty(m, order, w[c.W_ORDER_QTY], w[c.W_TS], w[c.W_SEQ], fold.RANK_REPORT)
    x = mem.execs(m)[row]
    finish_fact(m, order, row, x.qty)


@bare
def take_split(m: Map, order: int, num: int, den: int) -> None:
    """Rescale the executions before a split and re-publish them."""
    w = mem.work(m)
    o = mem.orders(m)[order]
    rows = mem.execs(m)
    o.split_num = num
    o.split_den = den
    o.split_ts = w[c.W_TS]
    touch(mem.orders_table(m), order)
    if o.totals & g.T_STATED and o.st_ts < o.split_ts:
        o.stated = fold.split_qty(m, order, o.stated)
    if o.totals & g.T_FIRM and o.firm_ts < o.split_ts:
        o.firm = fold.split_qty(m, order, o.firm)
    audit(m, SPLIT, s.OUT_NOTE, order, -1, 0, num, den)
    # What consumers were shown before is put aside at the free end of `done` (room_for counted the order's executions).
    aside = mem.done(m)
    end = len(aside) - 1
    at = np.int64(o.head)
    while at >= 0:
        if rows[at].ts < o.split_ts:
            tail = fold.tail_of(m, at)
            aside[end] = rows[published_tail(m, at, -1)].qty
            end -= 1
            old_qty, old_px = rows[tail].qty, rows[tail].px
            link = at
            while link >= 0:
                rows[link].qty = fold.split_qty(m, order, rows[link].qty)
                rows[link].px = fold.split_px(m, order, rows[link].px)
                touch(mem.execs_table(m), link)
                link = np.int64(rows[link].child)
            fold.add_effect(m, order, old_qty, old_px, rows[tail].qty, rows[tail].px, date_of(m, at))
        at = np.int64(rows[at].next_exec)
    fold.restate(m, order)


@bare
def put_split(m: Map, order: int) -> None:
    """Re-publish what `take_split` rescaled, once the order's quantity is stated anew."""
    o = mem.orders(m)[order]
    rows = mem.execs(m)
    aside = mem.done(m)
    end = len(aside) - 1
    at = np.int64(o.head)
    while at >= 0:
        if rows[at].ts < o.split_ts:
            shown = published_tail(m, at, -1)
            if rows[shown].qty > 0 and rows[at].flags & g.X_PUBLISHED:
                put_tail(m, at, shown, rows[shown].qty - aside[end], False)
            end -= 1
        at = np.int64(rows[at].next_exec)


@bare
def resume(m: Map, order: int, ts: int, seq: int) -> None:
    """Note what ends a suspension."""
    o = mem.orders(m)[order]
    if fold.newer(ts, seq, o.resume_ts, o.resume_seq):
        o.resume_ts, o.resume_seq = ts, seq


@bare
def take_state(m: Map, order: int) -> None:
    """Apply a report that moves no quantity."""
    w = mem.work(m)
    record = w[c.W_REC]
    kind, ts, seq = w[c.W_KIND], w[c.W_TS], w[c.W_SEQ]
    o = mem.orders(m)[order]
    source = mem.in_rows(m)[record]
    qty = w[c.W_ORDER_QTY]
    fold.see_day(m, order, w[c.W_DATE])
    touch(mem.orders_table(m), order)
    _, _, client = find_id(m, s.R_VENUE, s.R_CLIENT, record, TAG_CLIENT)
    if kind == s.K_NEW:
        o.flags |= g.O_ACKED
        resume(m, order, ts, seq)
        fold.state_qty(m, order, qty, ts, seq, fold.RANK_STATED)
    elif kind == s.K_CANCELED:
        o.flags |= g.O_CANCELED
    elif kind == s.K_EXPIRED:
        o.flags |= g.O_EXPIRED
    elif kind == s.K_REPLACED or kind == s.K_RESTATED:
        resume(m, order, ts, seq)
        old = fold.order_qty(m, order)
        split = False
        if kind == s.K_RESTATED:
            if fold.newer(ts, seq, o.restated_ts, o.restated_seq):
                o.restated_ts, o.restated_seq = ts, seq
            if source[s.R_RESTATEMENT] == 0 and qty != NULL and qty > 0 and o.qty_rank > 0 and ts > o.qty_ts and qty != old:
                take_split(m, order, qty, old)
                split = True
        elif client >= 0:
            fold.request_answered(m, order, client)
        fold.state_qty(m, order, qty, ts, seq, fold.RANK_STATED)
        fold.take_replace(m, order, ts, seq)
        if split:
            put_split(m, order)
    elif kind == s.K_DONE_FOR_DAY:
        if fold.newer(ts, seq, o.dfd_ts, o.dfd_seq):
            o.dfd_ts, o.dfd_seq = ts, seq
            o.dfd_day = w[c.W_DATE]
    elif kind == s.K_REJECTED:
        if source[s.R_ORD_STATUS] == NULL or source[s.R_ORD_STATUS] == s.OS_REJECTED:
            o.flags |= g.O_REJECTED
    elif kind == s.K_PENDING_CANCEL:
        if client >= 0:
            fold.request_pending(m, order, client, g.ID_CANCEL)
    elif kind == s.K_PENDING_REPLACE:
        if client >= 0:
            fold.request_pending(m, order, client, g.ID_REPLACE)
    elif kind == s.K_CANCEL_REJECT:
        if client >= 0:
            fold.request_answered(m, order, client)
    elif kind == s.K_STOPPED:
        o.flags |= g.O_STOPPED
    elif kind == s.K_SUSPENDED:
        if fold.newer(ts, seq, o.susp_ts, o.susp_seq):
            o.susp_ts, o.susp_seq = ts, seq
    elif kind == s.K_CALCULATED:
        o.flags |= g.O_CALCULATED
    if kind != s.K_PENDING_REPLACE and kind != s.K_CANCEL_REJECT:
        fold.state_qty(m, order, qty, ts, seq, fold.RANK_REPORT)
    fold.state_total(m, order, w[c.W_CUM], ts, seq, True)
    check_totals(m, order)
    wake_held(m, order)


@bare
def mismatch_of(m: Map, record: int, intent: int) -> int:
    """Return the hold bit of what a report says otherwise than its intent, 0 if nothing."""
    t = mem.intents(m)[intent]
    row = mem.in_rows(m)[record]
    if row[s.R_INSTRUMENT + 1] != np.int64(t.symbol_len):
        return g.H_INSTRUMENT
    for j in range(t.symbol_len):
        if t.symbol[j] != mem.in_arena(m)[row[s.R_INSTRUMENT] + j]:
            return g.H_INSTRUMENT
    if row[s.R_ACCOUNT + 1] != np.int64(t.account_len):
        return g.H_ACCOUNT
    for j in range(t.account_len):
        if t.account[j] != mem.in_arena(m)[row[s.R_ACCOUNT] + j]:
            return g.H_ACCOUNT
    if row[s.R_SIDE] != NULL and row[s.R_SIDE] != np.int64(t.side):
        return g.H_SIDE
    return 0


@bare
def take_report(m: Map, i: int, again: int) -> None:
    """Take record i: steps 1 to 10 of docs/reconciliation.md. `again`: 1 when it was released by an operator (mismatches are let through)."""
    if not begin(m, i):
        return
    w = mem.work(m)
    pend = w[c.W_PEND]
    known = -1
    waited_for = 0
    if pend >= 0:
        known = np.int64(mem.pendings(m)[pend].exec)
        waited_for = np.int64(mem.pendings(m)[pend].reason)
    lane_day = mem.scalars(m)[g.S_NEWEST_DAY]
    reason = normalise(lane_day if known < 0 else 0, m, i)
    if reason != 0:
        refuse(m, reason)
        return
    # Correlation, and whether the record belongs to this lane.
    alias_hi, alias_lo, alias_known = 0, 0, False
    ahi, alo = np.uint64(0), np.uint64(0)
    if mem.in_rows(m)[i, s.R_VENUE_ORDER + 1] >= 0 or (mem.in_rows(m)[i, s.R_CORR] == 0 and mem.in_rows(m)[i, s.R_CORR + 1] == 0):
        ahi, alo = name_key(m, 0, 0, s.R_VENUE, s.R_VENUE_ORDER, i, TAG_ALIAS)
        row = find(mem.aliases_table(m), ahi, alo)
        if row >= 0:
            alias_hi = np.int64(mem.aliases(m)[row].corr_hi)
            alias_lo = np.int64(mem.aliases(m)[row].corr_lo)
            alias_known = True
    reason = correlate(m, i, alias_hi, alias_lo, alias_known)
    if reason != 0:
        refuse(m, reason)
        return
    if w[c.W_CORR_FROM] == 0:
        wait_for_alias(m, i, ahi, alo)
        return
    if not route_by_correlation(m, i):
        return
    chi, clo = np.uint64(w[c.W_CORR_HI]), np.uint64(w[c.W_CORR_LO])
    intent = find(mem.intents_table(m), chi, clo)
    if intent < 0:
        audit(m, R_ORDER_UNKNOWN, s.OUT_PENDING, -1, -1, 0, NULL, NULL)
        park(m, R_ORDER_UNKNOWN, chi, clo ^ np.uint64(g.TAG_CORRELATION), -1, -1, mem.in_where(m)[3] + QUERY_NS)
        return
    w[c.W_INTENT] = intent
    kind = w[c.W_KIND]
    keyed = kind != s.K_STATUS and kind != s.K_CANCEL_REJECT and kind != s.K_FEE_UPDATE and mem.in_rows(m)[i, s.R_EXEC_ID + 1] > 0
    if kind == s.K_FEE_UPDATE:
        take_fee(m, i)
        return
    # Repeat or conflict.
    if known < 0 and keyed:
        date = w[c.W_DATE] if mem.venues(m)[w[c.W_VENUE], c.V_DATED] == 1 else 0
        w[c.W_KEY_HI], w[c.W_KEY_LO] = key_of(m, i, s.R_EXEC_ID, date)
        row = find(mem.execs_table(m), np.uint64(w[c.W_KEY_HI]), np.uint64(w[c.W_KEY_LO]))
        if row >= 0:
            if same_content(m, row):
                repeat(m, row)
            else:
                conflict(m, np.int64(mem.execs(m)[row].order), EXEC_CONFLICT)
            return
    order = -1
    if known >= 0:
        order = np.int64(mem.execs(m)[known].order)
    else:
        order = resolve_order(m, i, w[c.W_VENUE], kind != s.K_STATUS and kind != s.K_CANCEL_REJECT)
    w[c.W_ORDER] = order
    if order >= 0:
        o = mem.orders(m)[order]
        if w[c.W_DAY] > np.int64(o.last_day):
            o.last_day = w[c.W_DAY]
            touch(mem.orders_table(m), order)
    if w[c.W_MOVES] == 0:
        if order < 0 or mismatch_of(m, i, intent) != 0:
            if order >= 0:
                audit(m, ATTRIBUTE_MISMATCH, s.OUT_NOTE, order, -1, 0, NULL, NULL)
        else:
            take_state(m, order)
        if keyed and order >= 0:
            new_execution(m, order)
        audit(m, ACCEPTED, s.OUT_PUBLISHED, order, -1, 0, NULL, NULL)
        settle(m, g.S_PUBLISHED)
        if keyed:
            wake_followers(m, i)
        return
    if kind == s.K_TRADE and known < 0:
        mhi, mlo, said = match_key(m, i, order)
        if said:
            row = find(mem.matches_table(m), mhi, mlo)
            if row >= 0:
                first = np.int64(mem.matches(m)[row].exec)
                if mem.execs(m)[first].qty == w[c.W_QTY] and mem.execs(m)[first].px == w[c.W_PX]:
                    enrich(m, first)
                    mem.scalars(m)[g.S_DUP_KIND + DUP_SECONDARY - DUP_TRANSPORT] += 1
                    settle(m, g.S_DUPLICATE)
                else:
                    conflict(m, order, EXEC_CONFLICT)
                return
    if waited_for == R_HELD and known >= 0 and mem.execs(m)[known].flags & g.X_UNFOLDED == 0:
        # Folded while the order was held; now it is published, or goes on waiting.
        if mem.orders(m)[order].holds != 0:
            park(m, R_HELD, mem.orders(m)[order].khi, mem.orders(m)[order].klo ^ np.uint64(g.TAG_HELD), known, order, 0)
        else:
            put_version(m, known)
        return
    bit = mismatch_of(m, i, intent)
    if known >= 0 and mem.execs(m)[known].flags & g.X_WAITING:
        bit = 0  # it fitted, or was released, before it began to wait for what it refers to
    if bit != 0 and (again == 0 or bit == g.H_INSTRUMENT):
        if known < 0:
            known = new_execution(m, order)
            mem.execs(m)[known].flags |= g.X_UNFOLDED
            remember_match(m, i, order, known)
        hold(m, order, bit, hold_reason(bit))
        hold_pending(m, order, known)
        return
    if kind == s.K_TRADE:
        row = known
        if row < 0:
            row = new_execution(m, order)
            remember_match(m, i, order, row)
        mem.execs(m)[row].flags &= ~(g.X_UNFOLDED)
        take_trade(m, order, row)
    else:
        if known >= 0:
            mem.execs(m)[known].flags &= ~(g.X_UNFOLDED)
        take_link(m, order, known)


@bare
def remember_match(m: Map, record: int, order: int, row: int) -> None:
    """Remember the venue's id of a trade."""
    if mem.work(m)[c.W_KIND] != s.K_TRADE:
        return
    hi, lo, said = match_key(m, record, order)
    if said:
        x = insert(mem.matches_table(m), hi, lo)
        mem.matches(m)[x].exec = row
        mem.matches(m)[x].expires = mem.execs(m)[row].expires


@bare
def take_fee(m: Map, i: int) -> None:
    """Add a fee that came by itself to its fill, or wait for the fill."""
    w = mem.work(m)
    date = w[c.W_DATE] if mem.venues(m)[w[c.W_VENUE], c.V_DATED] == 1 else 0
    hi, lo = key_of(m, i, s.R_EXEC_ID, date)
    row = find(mem.execs_table(m), np.uint64(hi), np.uint64(lo))
    if row < 0 or mem.execs(m)[row].flags & (g.X_WAITING | g.X_UNFOLDED):
        hi, lo = key_of(m, i, s.R_EXEC_ID, 0)
        audit(m, R_REF_UNKNOWN, s.OUT_PENDING, -1, -1, 0, NULL, NULL)
        park(m, R_REF_UNKNOWN, np.uint64(hi), np.uint64(lo) ^ np.uint64(g.TAG_REF), -1, -1, mem.in_where(m)[3] + WAIT_REF_NS)
        return
    order = np.int64(mem.execs(m)[row].order)
    enrich(m, row)
    audit(m, ACCEPTED, s.OUT_PUBLISHED, order, np.int64(mem.execs(m)[row].root), 0, NULL, NULL)
    settle(m, g.S_PUBLISHED)


@bare
def room_for(m: Map, i: int) -> int:
    """Return how many rows of output record i may need beyond the usual: what its order's size adds (splits, estimates)."""
    if not mem.in_ok(m)[i]:
        return 0
    kind = mem.in_rows(m)[i, s.R_KIND]
    w = mem.work(m)
    if kind != s.K_RESTATED and (kind != s.K_TRADE or mem.scalars(m)[g.S_ESTIMATES] == 0):
        return 0
    hi, lo = name_key(m, 0, 0, s.R_VENUE, s.R_VENUE_ORDER, i, TAG_ALIAS)
    alias = find(mem.aliases_table(m), hi, lo)
    corr_hi, corr_lo = 0, 0
    if alias >= 0:
        corr_hi, corr_lo = np.int64(mem.aliases(m)[alias].corr_hi), np.int64(mem.aliases(m)[alias].corr_lo)
    if correlate(m, i, corr_hi, corr_lo, alias >= 0) != 0 or w[c.W_CORR_FROM] == 0:
        return 0
    biggest = 0
    intent = find(mem.intents_table(m), np.uint64(w[c.W_CORR_HI]), np.uint64(w[c.W_CORR_LO]))
    if intent < 0:
        return 0
    at = np.int64(mem.intents(m)[intent].first_order)
    while at >= 0:
        if kind == s.K_RESTATED or mem.orders(m)[at].est_open > 0:
            biggest = max(biggest, np.int64(mem.orders(m)[at].nexec))
        at = np.int64(mem.orders(m)[at].next_order)
    return biggest


@bare
def copy_text(target: np.ndarray, data: Bytes, start: int, length: int) -> None:
    """Copy a text into a field of a row."""
    for j in range(length):
        target[j] = data[start + j]


@bare
def same_text(field: np.ndarray, length: int, data: Bytes, start: int, other: int) -> bool:
    """Return whether a field of a row holds a text."""
    if length != other:
        return False
    for j in range(length):
        if field[j] != data[start + j]:
            return False
    return True


@bare
def await_fills(m: Map, order: int) -> None:
    """Start the fill confirmation clock of an acknowledged IOC or FOK order."""
    o = mem.orders(m)[order]
    t = mem.intents(m)[o.intent]
    quick = np.int64(t.tif) == s.TIF_IOC or np.int64(t.tif) == s.TIF_FOK
    if quick and o.flags & g.O_ACKED and fold.leaves(m, order) > 0:
        sla = t.sla_ns if t.sla_ns > 0 else mem.venues(m)[o.venue, c.V_SLA]
        start_clock(m, order, g.CLOCK_CONFIRM, mem.in_where(m)[3], mem.in_where(m)[3] + sla)


@bare
def take_route(m: Map, i: int) -> None:
    """Take a routed order: record it, tie venue orders that came before it, and let waiting reports be taken."""
    if not begin(m, i):
        return
    w = mem.work(m)
    row = mem.in_rows(m)[i]
    w[c.W_CORR_HI], w[c.W_CORR_LO], w[c.W_CORR_FROM] = row[s.O_CORR], row[s.O_CORR + 1], 1
    hi, lo = hash128(mem.in_arena(m), row[s.O_SYMBOL], row[s.O_SYMBOL + 1], c.SEED_INSTRUMENT)
    position = find(mem.reference_table(m), hi, lo)
    reason = 0
    size = 0
    instrument = -1
    if position < 0:
        reason = INSTRUMENT_UNKNOWN
    else:
        instrument = np.int64(mem.reference(m)[position].position)
        size = rescale(row[s.O_SIZE], row[s.O_SIZE + 1], mem.instruments(m)[instrument, c.I_QTY])
        if size < 0:
            reason = PRECISION if size == NULL + 1 else FIELD_INVALID
    if reason != 0:
        refuse(m, reason)
        return
    if not route_by_correlation(m, i):
        return
    chi, clo = np.uint64(row[s.O_CORR]), np.uint64(row[s.O_CORR + 1])
    intent = find(mem.intents_table(m), chi, clo)
    if intent >= 0:
        t = mem.intents(m)[intent]
        same = (
            t.order_hi == row[s.O_ORDER] and t.order_lo == row[s.O_ORDER + 1] and t.size == size and np.int64(t.side) == row[s.O_SIDE]
            and same_text(t.symbol, np.int64(t.symbol_len), mem.in_arena(m), row[s.O_SYMBOL], row[s.O_SYMBOL + 1])
            and same_text(t.account, np.int64(t.account_len), mem.in_arena(m), row[s.O_ACCOUNT], row[s.O_ACCOUNT + 1])
            and same_text(t.book, np.int64(t.book_len), mem.in_arena(m), row[s.O_BOOK], row[s.O_BOOK + 1])
        )  # fmt: skip
        w[c.W_INTENT] = intent
        if same:
            mem.scalars(m)[g.S_DUP_KIND + DUP_REPLAY - DUP_TRANSPORT] += 1
            settle(m, g.S_DUPLICATE)
        else:
            refuse(m, INTENT_CONFLICT)
        return
    intent = insert(mem.intents_table(m), chi, clo)
    t = mem.intents(m)[intent]
    t.msg_hi, t.msg_lo = row[s.O_MSG], row[s.O_MSG + 1]
    t.order_hi, t.order_lo = row[s.O_ORDER], row[s.O_ORDER + 1]
    t.size = size
    t.decision_ts = row[s.O_DECISION]
    t.instrument = instrument
    t.multiplier = mem.instruments(m)[instrument, c.I_MULT]
    t.px_scale = mem.instruments(m)[instrument, c.I_PX]
    t.qty_scale = mem.instruments(m)[instrument, c.I_QTY]
    t.first_order = -1
    t.day = max(day_of_ns(row[s.O_DECISION]), 0)
    t.side = row[s.O_SIDE]
    t.tif = row[s.O_TIF]
    t.arr_status = -1
    t.arr_detail = -1
    t.symbol_len = row[s.O_SYMBOL + 1]
    t.account_len = row[s.O_ACCOUNT + 1]
    t.book_len = row[s.O_BOOK + 1]
    copy_text(t.symbol, mem.in_arena(m), row[s.O_SYMBOL], row[s.O_SYMBOL + 1])
    copy_text(t.account, mem.in_arena(m), row[s.O_ACCOUNT], row[s.O_ACCOUNT + 1])
    copy_text(t.book, mem.in_arena(m), row[s.O_BOOK], row[s.O_BOOK + 1])
    sla = 0
    for leg in range(row[s.O_PLAN], row[s.O_PLAN] + row[s.O_PLAN + 1]):
        latency = mem.legs(m)[leg, s.O_LEG_LATENCY]
        if latency != NULL:
            sla = max(sla, latency)
    t.sla_ns = sla * 1_000_000
    w[c.W_INTENT] = intent
    audit(m, RECORDED, s.OUT_PUBLISHED, -1, -1, 0, size, NULL)
    settle(m, g.S_PUBLISHED)
    # Acknowledged before it was routed here: such venue orders wait in the ledger under the correlation.
    early = find(mem.waits_table(m), chi, clo)
    if early >= 0:
        order = np.int64(mem.waits(m)[early].head)
        remove(mem.waits_table(m), early)
        while order >= 0:
            following = np.int64(mem.orders(m)[order].next_order)
            tie(m, order, intent)
            await_fills(m, order)
            order = following
    wake(m, chi, clo ^ np.uint64(g.TAG_CORRELATION))


@bare
def set_alias(m: Map, hi: np.uint64, lo: np.uint64, corr_hi: int, corr_lo: int, day: int) -> int:
    """Remember an alias; return 1 if it is new, 0 if known, -1 if known with another correlation."""
    row = find(mem.aliases_table(m), hi, lo)
    if row >= 0:
        a = mem.aliases(m)[row]
        if np.int64(a.corr_hi) == corr_hi and np.int64(a.corr_lo) == corr_lo:
            return 0
        return -1
    row = insert(mem.aliases_table(m), hi, lo)
    mem.aliases(m)[row].corr_hi = np.uint64(corr_hi)
    mem.aliases(m)[row].corr_lo = np.uint64(corr_lo)
    mem.aliases(m)[row].day = max(day, 0)
    return 1


@bare
def take_ack(m: Map, i: int) -> None:
    """Take an acknowledgement: the venue order's ids, size and status; and tell the lane where its alias is waited for."""
    if not begin(m, i):
        return
    w = mem.work(m)
    row = mem.in_rows(m)[i]
    w[c.W_CORR_HI], w[c.W_CORR_LO], w[c.W_CORR_FROM] = row[s.A_CORR], row[s.A_CORR + 1], 1
    vhi, vlo = hash128(mem.in_arena(m), row[s.A_VENUE], row[s.A_VENUE + 1], c.SEED_VENUE)
    position = find(mem.reference_table(m), vhi, vlo)
    if position < 0:
        refuse(m, VENUE_UNKNOWN)
        return
    venue = np.int64(mem.reference(m)[position].position)
    if not route_by_correlation(m, i):
        return
    if find(mem.execs_table(m), np.uint64(row[s.A_MSG]), np.uint64(row[s.A_MSG + 1])) >= 0:
        mem.scalars(m)[g.S_DUP_KIND + DUP_REPLAY - DUP_TRANSPORT] += 1
        settle(m, g.S_DUPLICATE)
        return
    chi, clo = np.uint64(row[s.A_CORR]), np.uint64(row[s.A_CORR + 1])
    intent = find(mem.intents_table(m), chi, clo)
    w[c.W_INTENT] = intent
    day = max(day_of_ns(row[s.A_TS]), 0)
    known = np.int64(0)
    ahi, alo = np.uint64(0), np.uint64(0)
    if row[s.A_VENUE_ORDER + 1] > 0:
        ahi, alo = name_key(m, 0, 0, s.A_VENUE, s.A_VENUE_ORDER, i, TAG_ALIAS)
        known = set_alias(m, ahi, alo, row[s.A_CORR], row[s.A_CORR + 1], day)
        if known < 0:
            refuse(m, CORRELATION_CONFLICT)
            return
    mark = insert(mem.execs_table(m), np.uint64(row[s.A_MSG]), np.uint64(row[s.A_MSG + 1]))
    x = mem.execs(m)[mark]
    x.kind = s.K_ACK
    x.order, x.root, x.parent, x.child, x.next_exec = -1, -1, -1, -1, -1
    x.ts = row[s.A_TS]
    x.day = day
    x.expires = day + mem.venues(m)[venue, c.V_HORIZON]
    vh, vl, by_venue = find_id(m, s.A_VENUE, s.A_VENUE_ORDER, i, TAG_VENUE)
    ch, cl, by_client = find_id(m, s.A_VENUE, s.A_CLIENT, i, TAG_CLIENT)
    order = -1
    if by_venue >= 0:
        order = np.int64(mem.ids(m)[by_venue].order)
    elif by_client >= 0:
        order = np.int64(mem.ids(m)[by_client].order)
    else:
        khi, klo = (vh, vl) if row[s.A_VENUE_ORDER + 1] > 0 else (ch, cl)
        order = new_order(m, khi, klo, venue, s.A_VENUE, i)
        if intent < 0:
            early = find(mem.waits_table(m), chi, clo)
            if early < 0:
                early = insert(mem.waits_table(m), chi, clo)
                mem.waits(m)[early].head = -1
                mem.waits(m)[early].tail = -1
            mem.orders(m)[order].next_order = mem.waits(m)[early].head
            mem.waits(m)[early].head = order
            touch(mem.waits_table(m), early)
            touch(mem.orders_table(m), order)
    if by_venue < 0 and row[s.A_VENUE_ORDER + 1] > 0:
        add_id(m, order, vh, vl)
    if by_client < 0:
        add_id(m, order, ch, cl)
    o = mem.orders(m)[order]
    o.last_day = max(np.int64(o.last_day), day)
    touch(mem.orders_table(m), order)
    status = row[s.A_STATUS]
    # The size is at the instrument's scale, which the intent tells; until then it is kept as it came.
    if status == s.ACK_ACKED or status == s.ACK_REPLACED:
        if intent >= 0:
            t = mem.intents(m)[intent]
            size = rescale(row[s.A_SIZE], row[s.A_SIZE + 1], np.int64(t.qty_scale))
            if size > 0:
                fold.state_qty(m, order, size, row[s.A_TS], 0, fold.RANK_STATED)
        elif row[s.A_TS] > o.early_ts:
            o.early_size, o.early_scale, o.early_ts = row[s.A_SIZE], row[s.A_SIZE + 1], row[s.A_TS]
    if status == s.ACK_ACKED:
        o.flags |= g.O_ACKED
    elif status == s.ACK_REJECTED:
        o.flags |= g.O_REJECTED
    elif status == s.ACK_CANCELED:
        o.flags |= g.O_CANCELED
    if status == s.ACK_REPLACED:
        _, _, client = find_id(m, s.A_VENUE, s.A_CLIENT, i, TAG_CLIENT)
        if client >= 0:
            fold.request_answered(m, order, client)
        fold.take_replace(m, order, row[s.A_TS], 0)
    if intent >= 0:
        check_totals(m, order)
        wake_held(m, order)
        await_fills(m, order)
    audit(m, RECORDED, s.OUT_PUBLISHED, order, -1, 0, NULL, NULL)
    settle(m, g.S_PUBLISHED)
    if known == 1 and mem.venues(m)[venue, c.V_CARRIES] == 0:
        send_alias(m, i)
    if row[s.A_VENUE_ORDER + 1] > 0:
        wake(m, ahi, alo ^ np.uint64(g.TAG_ALIAS))


@bare
def send_alias(m: Map, i: int) -> None:
    """Tell the lane of `venue|venue_order_id` what correlation it stands for, unless that lane is this one."""
    start, length = put_alias_key(m, s.A_VENUE, s.A_VENUE_ORDER, i)
    if partition_of(mem.text(m), start, length, mem.in_where(m)[1]) == mem.in_where(m)[0]:
        return
    row = mem.in_rows(m)[i]
    n = mem.n(m)[c.N_ALIAS]
    mem.n(m)[c.N_ALIAS] = n + 1
    a = mem.alias_rows(m)[n]
    copy_row(a, mem.blank_alias(m))
    now = mem.in_where(m)[3]
    id_hi, id_lo = derived_id(m, row[s.A_MSG], row[s.A_MSG + 1], 0, 108)
    a[s.L_MSG], a[s.L_MSG + 1] = id_hi, id_lo
    a[s.L_TS] = now
    a[s.L_TS_NS] = now
    a[s.L_CORR], a[s.L_CORR + 1] = row[s.A_CORR], row[s.A_CORR + 1]
    a[s.L_KEY], a[s.L_KEY + 1] = put_uuid_text(m, id_hi, id_lo), 36
    a[s.L_VENUE], a[s.L_VENUE + 1] = row[s.A_VENUE], row[s.A_VENUE + 1]
    a[s.L_VENUE_ORDER], a[s.L_VENUE_ORDER + 1] = row[s.A_VENUE_ORDER], row[s.A_VENUE_ORDER + 1]
    a[s.L_ORDER], a[s.L_ORDER + 1] = row[s.A_ORDER], row[s.A_ORDER + 1]


@bare
def take_alias(m: Map, i: int) -> None:
    """Take an alias told by another lane; reports that wait for it are sent there."""
    if not begin(m, i):
        return
    row = mem.in_rows(m)[i]
    if lookup(m, mem.in_arena(m), row[s.L_VENUE], row[s.L_VENUE + 1], c.SEED_VENUE) < 0:
        refuse(m, VENUE_UNKNOWN)
        return
    start, length = put_alias_key(m, s.L_VENUE, s.L_VENUE_ORDER, i)
    if partition_of(mem.text(m), start, length, mem.in_where(m)[1]) != mem.in_where(m)[0]:
        reroute(m, start, length, MISROUTED)
        return
    hi, lo = name_key(m, 0, 0, s.L_VENUE, s.L_VENUE_ORDER, i, TAG_ALIAS)
    known = set_alias(m, hi, lo, row[s.L_CORR], row[s.L_CORR + 1], day_of_ns(row[s.L_TS_NS]))
    if known == 0:
        mem.scalars(m)[g.S_DUP_KIND + DUP_REPLAY - DUP_TRANSPORT] += 1
        settle(m, g.S_DUPLICATE)
        return
    if known < 0:
        refuse(m, CORRELATION_CONFLICT)
        return
    audit(m, ALIAS_RECORDED, s.OUT_PUBLISHED, -1, -1, 0, NULL, NULL)
    settle(m, g.S_PUBLISHED)
    wake(m, hi, lo ^ np.uint64(g.TAG_ALIAS))


@bare
def take_one(m: Map, i: int, again: int) -> bool:
    """Take record i of the inputs at hand; return False, and do nothing, if there may be no room for what comes of it."""
    topic = mem.in_where(m)[2]
    if not c.has_room(m, room_for(m, i) if topic == c.REPORTS else 0):
        return False
    if topic == c.REPORTS:
        take_report(m, i, again)
    elif topic == c.ROUTES:
        take_route(m, i)
    elif topic == c.ACKS:
        take_ack(m, i)
    else:
        take_alias(m, i)
    return True


@bare
def take(m: Map, start: int, again: int) -> int:
    """Take the inputs at hand from `start` on; return where it stopped: at the end, for lack of room, or right after one that woke others.

    Others that were decoded ahead are taken at once, without a stop; if it stops among them, it goes on there when called again.
    again: 1 when an operator released the inputs (`take_report`).
    """
    n = len(mem.in_ok(m))
    ahead = mem.ahead_at(m)
    i = start
    while True:
        if ahead[0] < ahead[1]:
            mem.swap_inputs(m)
            taken = take_one(m, ahead[0], again)
            mem.swap_inputs(m)
            if not taken:
                return i
            ahead[0] += 1
        elif i < n:
            if not take_one(m, i, again):
                return i
            i += 1
            if go_ahead(m):
                continue
        else:
            return i
        if mem.n(m)[c.N_WAKE] > 0:
            return i


@bare
def release(m: Map, intent: int) -> int:
    """Take every hold off the venue orders of an intent; return how many were held. What they held is handed out to be taken."""
    released = 0
    at = np.int64(mem.intents(m)[intent].first_order)
    while at >= 0:
        if mem.orders(m)[at].holds != 0:
            released += 1
            unhold(m, at, np.int64(mem.orders(m)[at].holds))
            wake_held(m, at)
        at = np.int64(mem.orders(m)[at].next_order)
    return released


@bare
def take_back(m: Map, row: int) -> None:
    """Undo the fold of an unpublished execution an operator refused. Later links of its chain must be gone already. Its key stays known."""
    rows = mem.execs(m)
    x = rows[row]
    order = np.int64(x.order)
    if x.flags & (g.X_UNFOLDED | g.X_WAITING) == 0:
        root, parent = np.int64(x.root), np.int64(x.parent)
        if root == row:
            fold.add_effect(m, order, x.qty, x.px, 0, 0, date_of(m, row))
            fold.unlink_execution(m, order, row)
            if x.flags & g.X_ESTIMATE:
                mem.orders(m)[order].est_open -= x.qty
        else:
            if x.child < 0:
                before = rows[parent]
                fold.add_effect(m, order, x.qty, x.px, before.qty, before.px, date_of(m, root))
            fold.chain_out(m, row)
            x.parent = parent
    x.flags = (x.flags & ~(g.X_WAITING)) | g.X_UNFOLDED | g.X_REFUSED
    touch(mem.execs_table(m), row)
    fold.restate(m, order)


@bare
def leave_list(m: Map, pend: int) -> None:
    """Take a waiting report out of the list it waits in."""
    p = mem.pendings(m)[pend]
    wait = np.int64(p.wait)
    if wait < 0:
        return
    x = mem.waits(m)[wait]
    if np.int64(x.head) == pend:
        x.head = p.next_pending
        if x.head < 0:
            remove(mem.waits_table(m), wait)
        else:
            touch(mem.waits_table(m), wait)
    else:
        at = np.int64(x.head)
        while np.int64(mem.pendings(m)[at].next_pending) != pend:
            at = np.int64(mem.pendings(m)[at].next_pending)
        mem.pendings(m)[at].next_pending = p.next_pending
        touch(mem.pendings_table(m), at)
        if np.int64(x.tail) == pend:
            x.tail = at
        touch(mem.waits_table(m), wait)
    p.wait = -1
    p.next_pending = -1
    touch(mem.pendings_table(m), pend)


@bare
def evict_executions(m: Map, start: int, stop: int) -> int:
    """Forget executions past their horizon among rows `start` to `stop`; return how many. A chain goes as a whole, with its first link."""
    rows = mem.execs(m)
    today = mem.scalars(m)[g.S_NEWEST_DAY]
    gone = 0
    for row in range(start, min(stop, mem.execs_table(m).meta[1])):
        x = rows[row]
        if x.live == 0 or np.int64(x.expires) >= today:
            continue
        if x.flags & g.X_REFUSED or np.int64(x.kind) == s.K_ACK:
            remove(mem.execs_table(m), row)
            gone += 1
            continue
        if np.int64(x.root) != row:
            continue
        if x.flags & (g.X_WAITING | g.X_UNFOLDED):
            continue
        if np.int64(x.kind) == s.K_TRADE:
            order = np.int64(x.order)
            if mem.orders(m)[order].holds != 0:
                continue
            fold.unlink_execution(m, order, row)
        at = row
        while at >= 0:
            following = np.int64(rows[at].child)
            remove(mem.execs_table(m), at)
            gone += 1
            at = following
    return gone


@bare
def evict_matches(m: Map, start: int, stop: int) -> None:
    """Forget venues' trade ids past their horizon."""
    today = mem.scalars(m)[g.S_NEWEST_DAY]
    for row in range(start, min(stop, mem.matches_table(m).meta[1])):
        x = mem.matches(m)[row]
        if x.live == 1 and (np.int64(x.expires) < today or mem.execs(m)[x.exec].live == 0):
            remove(mem.matches_table(m), row)


@bare
def evict_orders(m: Map, start: int, stop: int, keep_days: int) -> int:
    """Forget intents whose venue orders are all ended, empty of executions and older than `keep_days`; return how many."""
    today = mem.scalars(m)[g.S_NEWEST_DAY]
    gone = 0
    for intent in range(start, min(stop, mem.intents_table(m).meta[1])):
        t = mem.intents(m)[intent]
        if t.live == 0 or np.int64(t.day) + keep_days >= today:
            continue
        idle = True
        at = np.int64(t.first_order)
        while at >= 0:
            o = mem.orders(m)[at]
            busy = o.nexec > 0 or o.holds != 0 or np.int64(o.last_day) + keep_days >= today or fold.leaves(m, at) > 0
            if busy or fold.clock_row(m, at, g.CLOCK_GAP) >= 0 or fold.clock_row(m, at, g.CLOCK_CONFIRM) >= 0:
                idle = False
                break
            at = np.int64(o.next_order)
        if not idle:
            continue
        at = np.int64(t.first_order)
        while at >= 0:
            following = np.int64(mem.orders(m)[at].next_order)
            name = np.int64(mem.orders(m)[at].first_id)
            while name >= 0:
                next_name = np.int64(mem.ids(m)[name].next_id)
                remove(mem.ids_table(m), name)
                name = next_name
            remove(mem.orders_table(m), at)
            at = following
        remove(mem.intents_table(m), intent)
        gone += 1
    return gone


@bare
def evict_aliases(m: Map, start: int, stop: int, keep_days: int) -> None:
    """Forget aliases older than `keep_days` whose order is forgotten."""
    today = mem.scalars(m)[g.S_NEWEST_DAY]
    for row in range(start, min(stop, mem.aliases_table(m).meta[1])):
        a = mem.aliases(m)[row]
        if a.live == 1 and np.int64(a.day) + keep_days < today and find(mem.intents_table(m), a.corr_hi, a.corr_lo) < 0:
            remove(mem.aliases_table(m), row)


@bare
def remap(m: Map) -> int:
    """After a restore, look reference positions up again by name; return the row of an intent or (-2 - row) of an order without one, else -1."""
    for row in range(mem.intents_table(m).meta[1]):
        t = mem.intents(m)[row]
        if t.live == 1:
            for j in range(t.symbol_len):
                mem.scratch(m)[j] = t.symbol[j]
            hi, lo = hash128(mem.scratch(m), 0, np.int64(t.symbol_len), c.SEED_INSTRUMENT)
            found = find(mem.reference_table(m), hi, lo)
            if found < 0:
                return row
            position = np.int64(mem.reference(m)[found].position)
            if position != np.int64(t.instrument):
                t.instrument = position
                touch(mem.intents_table(m), row)
    for row in range(mem.orders_table(m).meta[1]):
        o = mem.orders(m)[row]
        if o.live == 1:
            for j in range(o.venue_len):
                mem.scratch(m)[j] = o.venue_name[j]
            hi, lo = hash128(mem.scratch(m), 0, np.int64(o.venue_len), c.SEED_VENUE)
            found = find(mem.reference_table(m), hi, lo)
            if found < 0:
                return -2 - row
            position = np.int64(mem.reference(m)[found].position)
            if position != np.int64(o.venue):
                o.venue = position
                touch(mem.orders_table(m), row)
    return -1
