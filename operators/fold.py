"""The state of one venue order as a function of its facts: quantities, status, totals, holds. Kernels.

Every step is written so that the same facts in any order of arrival give the same state. Rules: docs/reconciliation.md, "The fold of a
venue order"; reconciliation §3 (precedence), §5. Publishes nothing.
"""

from __future__ import annotations

import numpy as np

from operators import memory as mem
from operators import slots as s
from operators.memory import Map
from operators.scaled import add_product, mul_div
from schemas.fields import NULL
from schemas.jit import bare
from state import ledger as g
from state.table import find, touch

RANK_REPORT, RANK_STATED = 1, 2


@bare
def newer(ts: int, seq: int, than_ts: int, than_seq: int) -> bool:
    """Return whether (ts, seq) is at or after (than_ts, than_seq) in time order."""
    return ts > than_ts or (ts == than_ts and seq >= than_seq)


@bare
def order_qty(m: Map, order: int) -> int:
    """Return the order quantity: the newest statement, at least the floor a replace left; without one the intent's size; 0 unknown."""
    o = mem.orders(m)[order]
    qty = o.qty
    if o.qty_rank == 0:
        qty = 0
        if o.intent >= 0:
            qty = mem.intents(m)[o.intent].size
    if o.repl_ts > 0 and o.floor > qty:
        qty = o.floor
    return qty


@bare
def done_for_day(m: Map, order: int) -> bool:
    """Return whether the order is done for the day: nothing newer restated it and no later trade date was seen."""
    o = mem.orders(m)[order]
    return o.dfd_ts > 0 and newer(o.dfd_ts, o.dfd_seq, o.restated_ts, o.restated_seq) and o.day <= o.dfd_day


@bare
def is_terminal(m: Map, order: int) -> bool:
    """Return whether the venue ended the order (cancel, expiry, rejection)."""
    return (mem.orders(m)[order].flags & (g.O_CANCELED | g.O_EXPIRED | g.O_REJECTED)) != 0


@bare
def leaves(m: Map, order: int) -> int:
    """Return what may still be filled."""
    o = mem.orders(m)[order]
    if is_terminal(m, order):
        return 0
    if done_for_day(m, order):
        tif = s.TIF_DAY
        if o.intent >= 0:
            tif = mem.intents(m)[o.intent].tif
        if tif != s.TIF_GTC:
            return 0
    rest = order_qty(m, order) - o.cum
    return rest if rest > 0 else 0


@bare
def status(m: Map, order: int) -> int:
    """Return the order status by precedence, as a number of `OrdStatus`."""
    o = mem.orders(m)[order]
    flags = o.flags
    ended = (flags & (g.O_CANCELED | g.O_EXPIRED)) != 0
    qty = order_qty(m, order)
    if not ended:
        if o.n_cancel > 0:
            return s.OS_PENDING_CANCEL
        if o.n_replace > 0:
            return s.OS_PENDING_REPLACE
    if done_for_day(m, order):
        return s.OS_DONE
    if flags & g.O_CALCULATED:
        return s.OS_CALCULATED
    if qty > 0 and o.cum >= qty:
        return s.OS_FILLED
    if flags & g.O_STOPPED:
        return s.OS_STOPPED
    if o.susp_ts > 0 and not newer(o.resume_ts, o.resume_seq, o.susp_ts, o.susp_seq):
        return s.OS_SUSPENDED
    if flags & g.O_CANCELED:
        return s.OS_CANCELED
    if flags & g.O_EXPIRED:
        return s.OS_EXPIRED
    if o.cum > 0:
        return s.OS_PARTIAL
    if flags & g.O_REJECTED:
        return s.OS_REJECTED
    if flags & g.O_ACKED:
        return s.OS_NEW
    return s.OS_PENDING_NEW


@bare
def state_qty(m: Map, order: int, qty: int, ts: int, seq: int, rank: int) -> None:
    """Take a statement of the order quantity: a better kind wins, then the newest, of equal time the larger."""
    if qty == NULL or qty <= 0:
        return
    o = mem.orders(m)[order]
    same = ts == o.qty_ts and seq == o.qty_seq
    if rank > o.qty_rank or (rank == o.qty_rank and newer(ts, seq, o.qty_ts, o.qty_seq) and not (same and qty <= o.qty)):
        o.qty = qty
        o.qty_ts = ts
        o.qty_seq = seq
        o.qty_rank = rank
        touch(mem.orders_table(m), order)


@bare
def tail_of(m: Map, root: int) -> int:
    """Return the last link of a chain: what is effective."""
    rows = mem.execs(m)
    at = root
    while rows[at].child >= 0:
        at = np.int64(rows[at].child)
    return at


@bare
def take_replace(m: Map, order: int, ts: int, seq: int) -> None:
    """Note a REPLACED or RESTATED; the newest one sets the floor."""
    o = mem.orders(m)[order]
    if newer(ts, seq, o.repl_ts, o.repl_seq):
        o.repl_ts = ts
        o.repl_seq = seq
        o.floor = total_as_of(m, order, ts, seq)
        touch(mem.orders_table(m), order)


@bare
def see_day(m: Map, order: int, date: int) -> None:
    """Note a trade date; a new one starts the day's quantities afresh."""
    o = mem.orders(m)[order]
    if date > o.day:
        o.day = date
        o.day_cum = 0
        touch(mem.orders_table(m), order)


@bare
def add_effect(m: Map, order: int, old_qty: int, old_px: int, new_qty: int, new_px: int, root_date: int) -> None:
    """Replace the effect of a chain on the sums: (old_qty, old_px) by (new_qty, new_px). `root_date`: trade date of the chain's first link."""
    o = mem.orders(m)[order]
    hi, lo = o.not_hi, o.not_lo
    if old_qty > 0:
        hi, lo = add_product(hi, lo, old_qty, old_px, -1)
    if new_qty > 0:
        hi, lo = add_product(hi, lo, new_qty, new_px, 1)
    o.not_hi = hi
    o.not_lo = lo
    delta = new_qty - old_qty
    o.cum += delta
    if root_date == o.day:
        o.day_cum += delta
    if o.intent >= 0:
        mem.intents(m)[o.intent].cum += delta
        touch(mem.intents_table(m), o.intent)
    touch(mem.orders_table(m), order)


@bare
def link_execution(m: Map, order: int, row: int) -> None:
    """Put a chain's first link on its order's list."""
    o = mem.orders(m)[order]
    x = mem.execs(m)[row]
    x.next_exec = o.head
    o.head = row
    o.nexec += 1
    touch(mem.execs_table(m), row)
    touch(mem.orders_table(m), order)


@bare
def unlink_execution(m: Map, order: int, row: int) -> None:
    """Take a chain's first link off its order's list."""
    rows = mem.execs(m)
    o = mem.orders(m)[order]
    if o.head == row:
        o.head = rows[row].next_exec
    else:
        at = np.int64(o.head)
        while rows[at].next_exec != row:
            at = np.int64(rows[at].next_exec)
        rows[at].next_exec = rows[row].next_exec
        touch(mem.execs_table(m), at)
    o.nexec -= 1
    touch(mem.orders_table(m), order)


@bare
def sooner(m: Map, a: int, b: int) -> bool:
    """Return whether link a is before link b: event time, then sequence number, then key."""
    x, y = mem.execs(m)[a], mem.execs(m)[b]
    if x.ts != y.ts:
        return x.ts < y.ts
    if x.seq != y.seq:
        return x.seq < y.seq
    if x.khi != y.khi:
        return x.khi < y.khi
    return x.klo < y.klo


@bare
def place_for(m: Map, root: int, row: int) -> int:
    """Return the link a sibling of a ROOT-style chain goes after, in time order."""
    rows = mem.execs(m)
    at = root
    while rows[at].child >= 0 and sooner(m, np.int64(rows[at].child), row):
        at = np.int64(rows[at].child)
    return at


@bare
def chain_in(m: Map, row: int, after: int) -> None:
    """Make `row` the link after `after`, before whatever followed."""
    rows = mem.execs(m)
    following = np.int64(rows[after].child)
    rows[row].parent = after
    rows[row].child = following
    rows[row].root = rows[after].root
    rows[after].child = row
    touch(mem.execs_table(m), after)
    touch(mem.execs_table(m), row)
    if following >= 0:
        rows[following].parent = row
        touch(mem.execs_table(m), following)


@bare
def chain_out(m: Map, row: int) -> None:
    """Undo `chain_in`."""
    rows = mem.execs(m)
    before, after = np.int64(rows[row].parent), np.int64(rows[row].child)
    rows[before].child = after
    touch(mem.execs_table(m), before)
    if after >= 0:
        rows[after].parent = before
        touch(mem.execs_table(m), after)
    rows[row].parent = -1
    rows[row].child = -1
    touch(mem.execs_table(m), row)


@bare
def keep_chain(m: Map, row: int) -> None:
    """Let every link of a chain live as long as its youngest one."""
    rows = mem.execs(m)
    latest = rows[row].expires
    at = np.int64(rows[row].root)
    while at >= 0:
        if rows[at].expires > latest:
            latest = rows[at].expires
        at = np.int64(rows[at].child)
    at = np.int64(rows[row].root)
    while at >= 0:
        if rows[at].expires != latest:
            rows[at].expires = latest
            touch(mem.execs_table(m), at)
        at = np.int64(rows[at].child)


@bare
def split_qty(m: Map, order: int, qty: int) -> int:
    """Return a quantity from before the split in today's units."""
    o = mem.orders(m)[order]
    return mul_div(qty, o.split_num, o.split_den)


@bare
def split_px(m: Map, order: int, px: int) -> int:
    """Return a price from before the split in today's units."""
    o = mem.orders(m)[order]
    return mul_div(px, o.split_den, o.split_num)


@bare
def total_as_of(m: Map, order: int, ts: int, seq: int) -> int:
    """Return the effective quantity of an order's facts not newer than a time."""
    o = mem.orders(m)[order]
    rows = mem.execs(m)
    total = 0
    at = np.int64(o.head)
    while at >= 0:
        link = at
        effective = 0
        while link >= 0:
            if newer(ts, seq, rows[link].ts, np.int64(rows[link].seq)):
                effective = rows[link].qty
            link = np.int64(rows[link].child)
        total += effective
        at = np.int64(rows[at].next_exec)
    return total


@bare
def note_fact(m: Map, order: int, row: int, delta: int) -> None:
    """Keep `as_of` and `floor` right after a fact was folded: what is newer than the statement or the replace does not count in them."""
    o = mem.orders(m)[order]
    x = mem.execs(m)[row]
    seq = np.int64(x.seq)
    if newer(x.ts, seq, o.last_ts, o.last_seq):
        o.last_ts = x.ts
        o.last_seq = seq
    first = np.int64(x.root) == row
    if o.totals & g.T_STATED and newer(o.st_ts, o.st_seq, x.ts, seq):
        o.as_of = o.as_of + delta if first else total_as_of(m, order, o.st_ts, o.st_seq)
    if o.repl_ts > 0 and newer(o.repl_ts, o.repl_seq, x.ts, seq):
        o.floor = o.floor + delta if first else total_as_of(m, order, o.repl_ts, o.repl_seq)
    touch(mem.orders_table(m), order)


@bare
def restate(m: Map, order: int) -> None:
    """Recompute `as_of` and `floor` after quantities on file were changed."""
    o = mem.orders(m)[order]
    if o.totals & g.T_STATED:
        o.as_of = total_as_of(m, order, o.st_ts, o.st_seq)
    if o.repl_ts > 0:
        o.floor = total_as_of(m, order, o.repl_ts, o.repl_seq)
    touch(mem.orders_table(m), order)


@bare
def outdates(cum: int, ts: int, seq: int, stated: int, st_ts: int, st_seq: int) -> bool:
    """Return whether a total takes the place of another: it is newer, or of equal time and larger."""
    return newer(ts, seq, st_ts, st_seq) and (ts != st_ts or seq != st_seq or cum > stated)


@bare
def state_total(m: Map, order: int, cum: int, ts: int, seq: int, firm: bool) -> None:
    """Take the venue's total of a report (NULL: not said) if it is the newest.

    firm: the report waits for nothing, so its total stays whatever an operator refuses; the newest of these is remembered beside the newest.
    """
    o = mem.orders(m)[order]
    if cum == NULL:
        return
    if o.split_ts > 0 and ts < o.split_ts:
        cum = split_qty(m, order, cum)
    if firm and (o.totals & g.T_FIRM == 0 or outdates(cum, ts, seq, o.firm, o.firm_ts, o.firm_seq)):
        o.firm, o.firm_ts, o.firm_seq = cum, ts, seq
        o.totals |= g.T_FIRM
        touch(mem.orders_table(m), order)
    if o.totals & g.T_STATED == 0 or outdates(cum, ts, seq, o.stated, o.st_ts, o.st_seq):
        o.stated, o.st_ts, o.st_seq = cum, ts, seq
        o.totals |= g.T_STATED
        o.as_of = o.cum if newer(ts, seq, o.last_ts, o.last_seq) else total_as_of(m, order, o.st_ts, o.st_seq)
        touch(mem.orders_table(m), order)


@bare
def back_to_firm_total(m: Map, order: int) -> None:
    """Let the newest firm total stand again, when what waited was refused; none if there is none."""
    o = mem.orders(m)[order]
    if o.totals & g.T_FIRM:
        o.stated, o.st_ts, o.st_seq = o.firm, o.firm_ts, o.firm_seq
        o.as_of = total_as_of(m, order, o.st_ts, o.st_seq)
    else:
        o.totals = 0
    touch(mem.orders_table(m), order)


@bare
def request_pending(m: Map, order: int, row: int, flag: int) -> None:
    """Note that a cancel or replace request is pending, unless it is known to be answered."""
    x = mem.ids(m)[row]
    if x.flags & (g.ID_RESOLVED | flag):
        return
    x.flags |= flag
    touch(mem.ids_table(m), row)
    o = mem.orders(m)[order]
    if flag == g.ID_CANCEL:
        o.n_cancel += 1
    else:
        o.n_replace += 1
    touch(mem.orders_table(m), order)


@bare
def request_answered(m: Map, order: int, row: int) -> None:
    """Note that a request was answered (replaced, canceled or refused); for good, whatever comes late."""
    x = mem.ids(m)[row]
    if x.flags & g.ID_RESOLVED:
        return
    o = mem.orders(m)[order]
    if x.flags & g.ID_CANCEL:
        o.n_cancel -= 1
    if x.flags & g.ID_REPLACE:
        o.n_replace -= 1
    x.flags |= g.ID_RESOLVED
    touch(mem.ids_table(m), row)
    touch(mem.orders_table(m), order)


@bare
def clock_row(m: Map, order: int, what: int) -> int:
    """Return the running clock of an order, or -1."""
    o = mem.orders(m)[order]
    return find(mem.clocks_table(m), o.khi, o.klo ^ np.uint64(what))
