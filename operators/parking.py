"""The bytes and lists of waiting reports: kept in pages, found again, taken off their lists, forgotten. Kernels.

A report waits with its key and value, not with what they were decoded to: a row of slots is longer than the bytes, and another version may
read them otherwise. May not decide who waits or wakes: operators/publish.py parks and wakes, operators/reconcile.py takes.
"""

from __future__ import annotations

import numpy as np

from operators import context as c
from operators import memory as mem
from operators import slots as s
from operators.memory import Map
from operators.publish import R_REF_UNKNOWN, audit
from schemas.chunk import Bytes, Ints
from schemas.fields import NULL
from schemas.jit import bare, njit
from schemas.reasons import Reason
from schemas.words import move
from state import ledger as g
from state.table import HIGH, LIVE, find, insert, touch
from state.table import remove as remove_row

PENDING_QUERY = int(Reason.pending_query)


@bare
def pages_needed(m: Map, first: int) -> int:
    """Return how many pages `keep` will insert."""
    need = 0
    for k in range(mem.n(m)[c.N_PARK]):
        i = first + mem.parks(m)[k, 1]
        length = mem.from_key_bounds(m)[i + 1] - mem.from_key_bounds(m)[i] + mem.from_bounds(m)[i + 1] - mem.from_bounds(m)[i]
        need += max(1, (length + g.PAGE_BYTES - 1) // g.PAGE_BYTES)
    return need


@bare
def keep(m: Map, first: int) -> None:
    """Copy key and value of every report in `parks` into pages; record 0 of the batch was `first` of the bytes it was decoded from.

    Room for `pages_needed` must be reserved.
    """
    table = mem.pages_table(m)
    raw = mem.pages_bytes(m)
    keys, values = mem.from_keys(m), mem.from_data(m)
    for k in range(mem.n(m)[c.N_PARK]):
        p = mem.pendings(m)[mem.parks(m)[k, 0]]
        i = first + mem.parks(m)[k, 1]
        key, value = mem.from_key_bounds(m)[i], mem.from_bounds(m)[i]
        key_length = mem.from_key_bounds(m)[i + 1] - key
        length = key_length + mem.from_bounds(m)[i + 1] - value
        p.length = length
        p.key_length = key_length
        at = 0
        previous = -1
        while at < length or previous < 0:
            serial = mem.scalars(m)[g.S_SERIAL] + 1
            mem.scalars(m)[g.S_SERIAL] = serial
            row = insert(table, np.uint64(serial), np.uint64(0))
            table.rows[row].next_page = -1
            if previous < 0:
                p.page = row
            else:
                table.rows[previous].next_page = row
            previous = row
            count = min(g.PAGE_BYTES, length - at)
            of_key = min(max(key_length - at, 0), count)
            to = row * g.PAGE_SIZE + g.PAGE_DATA
            move(raw, to, keys, key + at, of_key)
            move(raw, to + of_key, values, value + at + of_key - key_length, count - of_key)
            at += count


@njit
def kept(m: Map, waiting: Ints, before: Bytes) -> tuple[Bytes, Ints, Bytes, Ints]:
    """Return (values, bounds, keys, key bounds) of waiting reports, by their rows. The values stand behind the bytes of `before`."""
    n = len(waiting)
    bounds = np.empty(n + 1, np.int64)
    key_bounds = np.empty(n + 1, np.int64)
    bounds[0], key_bounds[0] = len(before), 0
    for i in range(n):
        p = mem.pendings(m)[waiting[i]]
        key_bounds[i + 1] = key_bounds[i] + np.int64(p.key_length)
        bounds[i + 1] = bounds[i] + np.int64(p.length) - np.int64(p.key_length)
    data = np.empty(bounds[n], np.uint8)
    keys = np.empty(key_bounds[n], np.uint8)
    move(data, 0, before, 0, len(before))
    pages = mem.pages(m)
    raw = mem.pages_bytes(m)
    for i in range(n):
        p = mem.pendings(m)[waiting[i]]
        key_length, length = np.int64(p.key_length), np.int64(p.length)
        page = np.int64(p.page)
        at = 0
        while at < length:
            count = min(g.PAGE_BYTES, length - at)
            of_key = min(max(key_length - at, 0), count)
            origin = page * g.PAGE_SIZE + g.PAGE_DATA
            move(keys, key_bounds[i] + at, raw, origin, of_key)
            move(data, bounds[i] + at + of_key - key_length, raw, origin + of_key, count - of_key)
            at += count
            page = np.int64(pages[page].next_page)
    return data, bounds, keys, key_bounds


@bare
def forget(m: Map, pend: int) -> None:
    """Delete a waiting report and its pages. It must be out of its list already."""
    page = np.int64(mem.pendings(m)[pend].page)
    while page >= 0:
        following = np.int64(mem.pages(m)[page].next_page)
        remove_row(mem.pages_table(m), page)
        page = following
    remove_row(mem.pendings_table(m), pend)


@bare
def forget_done(m: Map) -> None:
    """Delete the waiting reports that are done."""
    for i in range(mem.n(m)[c.N_DONE]):
        forget(m, mem.done(m)[i])


@njit
def unlist(m: Map, heads: Ints) -> Ints:
    """Take lists of waiting reports apart; return their rows in the order they will be taken."""
    rows = mem.pendings(m)
    count = 0
    for i in range(len(heads)):
        at = heads[i]
        while at >= 0:
            count += 1
            at = np.int64(rows[at].next_pending)
    waiting = np.empty(count, np.int64)
    count = 0
    for i in range(len(heads)):
        at = heads[i]
        while at >= 0:
            waiting[count] = at
            count += 1
            at = leave(m, at)
    return waiting


@bare
def leave(m: Map, pend: int) -> int:
    """Take the first report of a list that is no more off it; return the next one or -1."""
    p = mem.pendings(m)[pend]
    following = np.int64(p.next_pending)
    p.wait = -1
    p.next_pending = -1
    touch(mem.pendings_table(m), pend)
    return following


@njit
def listed(m: Map, wait: int) -> Ints:
    """Return the rows of the reports that wait for a thing, in order; none for row -1."""
    count = 0
    at = np.int64(mem.waits(m)[wait].head) if wait >= 0 else -1
    head = at
    while at >= 0:
        count += 1
        at = np.int64(mem.pendings(m)[at].next_pending)
    waiting = np.empty(count, np.int64)
    at = head
    for i in range(count):
        waiting[i] = at
        at = np.int64(mem.pendings(m)[at].next_pending)
    return waiting


@njit
def foresee(m: Map, most: int) -> tuple[Ints, Ints, int]:
    """Return the reports that wait for the routes at hand: (`lists` of an Ahead, pending rows, the route after the last looked at).

    It looks at no further route once there are `most` reports: what is decoded ahead must fit the memory.
    """
    n = len(mem.in_ok(m))
    lists = np.empty((n, 3), np.int64)
    k = 0
    count = 0
    i = 0
    while i < n and count < most:
        if mem.in_ok(m)[i]:
            row = mem.in_rows(m)[i]
            wait = find(mem.waits_table(m), np.uint64(row[s.O_CORR]), np.uint64(row[s.O_CORR + 1]) ^ np.uint64(g.TAG_CORRELATION))
            if wait >= 0:
                at = np.int64(mem.waits(m)[wait].head)
                lists[k, 0], lists[k, 1] = at, count
                while at >= 0:
                    count += 1
                    at = np.int64(mem.pendings(m)[at].next_pending)
                lists[k, 2] = count
                k += 1
        i += 1
    waiting = np.empty(count, np.int64)
    for j in range(k):
        at = lists[j, 0]
        for x in range(lists[j, 1], lists[j, 2]):
            waiting[x] = at
            at = np.int64(mem.pendings(m)[at].next_pending)
    return lists[:k], waiting, i


@bare
def go_ahead(m: Map) -> bool:
    """Return whether the one list just woken was decoded ahead and is what it was then; if so its reports are the next to be taken."""
    n = mem.n(m)
    lists = mem.ahead_lists(m)
    if n[c.N_WAKE] != 1:
        return False
    head = mem.wakes(m)[0]
    ahead_at = mem.ahead_at(m)
    for step in range(len(lists)):
        k = (ahead_at[2] + step) % len(lists)
        if lists[k, 0] == head:
            at = head
            for i in range(lists[k, 1], lists[k, 2]):
                if at != mem.ahead_pend(m)[i]:
                    return False
                at = np.int64(mem.pendings(m)[at].next_pending)
            if at >= 0:
                return False
            while head >= 0:
                head = leave(m, head)
            ahead_at[0], ahead_at[1], ahead_at[2] = lists[k, 1], lists[k, 2], k + 1
            n[c.N_WAKE] = 0
            return True
    return False


@njit
def due(m: Map, now: int) -> tuple[Ints, Ints]:
    """Return the rows of waiting reports, and of clocks, whose time has come."""
    pendings, clocks = mem.pendings(m), mem.clocks(m)
    waiting = np.empty(mem.pendings_table(m).meta[LIVE], np.int64)
    rung = np.empty(mem.clocks_table(m).meta[LIVE], np.int64)
    n_waiting = 0
    n_rung = 0
    for row in range(mem.pendings_table(m).meta[HIGH]):
        if pendings[row].live == 1 and 0 < pendings[row].due_ns <= now:
            waiting[n_waiting] = row
            n_waiting += 1
    for row in range(mem.clocks_table(m).meta[HIGH]):
        if clocks[row].live == 1 and 0 < clocks[row].due_ns <= now:
            rung[n_rung] = row
            n_rung += 1
    return waiting[:n_waiting], rung[:n_rung]


@bare
def ask(m: Map, due: Ints, start: int, next_ns: int) -> int:
    """Note of due waiting reports, from `start` on, that their order or alias is asked about; return the first that has been, or has no room.

    next_ns: when their clocks ring again, counted from when they began to wait.
    """
    w = mem.work(m)
    for i in range(start, len(due)):
        p = mem.pendings(m)[due[i]]
        if np.int64(p.reason) == R_REF_UNKNOWN or p.level != 0 or not c.has_room(m, 0):
            return i
        p.level = 1
        p.due_ns = p.since_ns + next_ns
        touch(mem.pendings_table(m), due[i])
        w[c.W_REC], w[c.W_INTENT] = -1, -1
        audit(m, PENDING_QUERY, s.OUT_NOTE, np.int64(p.order), -1, 0, NULL, NULL)
        mem.audits(m)[mem.n(m)[c.N_AUDIT] - 1, s.U_OFFSET] = p.offset
    return len(due)
