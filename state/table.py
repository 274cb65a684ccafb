"""One keyed table: 128-bit key index, rows of fixed fields, free list, dirty set. Numba kernels and the class that owns the memory.

Rows are a numpy structured array: a fold touches one or two cache lines of an order instead of one per column, and a commit gathers its dirty
rows in one take (docs/decisions/0002). Row numbers are stable for a row's life, also across a restore, so ledgers refer to each other
by row number. What leaves a table (dirty rows, slices) and comes back is state/changelog.py's business.

A row type begins with `HEAD`: khi, klo (the key, u8) and ends up with `live` (u1). Kernels may not grow memory: call `reserve` first.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from schemas.jit import bare
from schemas.words import clear_row

HEAD = [("khi", "u8"), ("klo", "u8")]
TAIL = [("live", "u1")]

LIVE = 0  # rows in use
HIGH = 1  # rows ever used: every live row is below
FREE = 2  # first row of the free list, -1 for none; the next one is in klo
DIRTY = 3  # entries in the dirty list
LOST = 4  # 1 when the dirty list was full: the dirty flags alone tell
CURSOR = 5  # next row of the slice
SLICED = 6  # rows sliced in this table's life
META = 8

GROWTH = 1.09
"""Of a full table's rows: with index slots at half their load still below 100 bytes for each execution kept (bench/state.py)."""
MIN_ROWS = 256
LOAD = 0.7


class TableArrays(NamedTuple):
    """What kernels see of a table. rows `(capacity,)` structured; slots `(power of two,)` int32 row or -1; meta `(META,)` int64;
    dirty `(capacity,)` uint8; changed `(m,)` int32 rows dirtied since the last capture."""

    rows: NDArray[Any]
    slots: NDArray[np.int32]
    meta: NDArray[np.int64]
    dirty: NDArray[np.uint8]
    changed: NDArray[np.int32]


@bare
def home(khi: Any, klo: Any, mask: int) -> int:
    """Return the slot a key would like. Keys are hashes or UUIDs; the multiply spreads UUIDs made by counters."""
    mixed = (np.uint64(khi) ^ (np.uint64(klo) >> np.uint64(32)) ^ np.uint64(klo)) * np.uint64(0x9E3779B97F4A7C15)
    return np.int64((mixed >> np.uint64(20)) & np.uint64(mask))


@bare
def find(table: TableArrays, khi: Any, klo: Any) -> int:
    """Return the row of a key, or -1."""
    slots = table.slots
    rows = table.rows
    mask = len(slots) - 1
    at = home(khi, klo, mask)
    while True:
        row = slots[at]
        if row < 0:
            return -1
        if rows[row].khi == khi and rows[row].klo == klo:
            return np.int64(row)
        at = (at + 1) & mask


@bare
def touch(table: TableArrays, row: int) -> None:
    """Mark a row as changed since the last capture."""
    if table.dirty[row] == 0:
        table.dirty[row] = 1
        n = table.meta[3]
        if n < len(table.changed):
            table.changed[n] = row
            table.meta[3] = n + 1
        else:
            table.meta[4] = 1


@bare
def place(slots: NDArray[np.int32], khi: Any, klo: Any, row: int) -> None:
    """Enter a row into the index under its key."""
    mask = len(slots) - 1
    at = home(khi, klo, mask)
    while slots[at] >= 0:
        at = (at + 1) & mask
    slots[at] = row


@bare
def insert(table: TableArrays, khi: Any, klo: Any) -> int:
    """Add a row for a key that is not there and return it: fields zero except the key and `live`. Memory must be reserved."""
    row = table.meta[2]
    rows = table.rows
    if row >= 0:
        table.meta[2] = np.int64(rows[row].klo)
    else:
        row = table.meta[1]
        if row >= len(rows):
            raise MemoryError("table is full: reserve() was not called for this many rows")
        table.meta[1] = row + 1
    clear_row(rows, row)
    rows[row].khi = khi
    rows[row].klo = klo
    rows[row].live = 1
    table.meta[0] += 1
    place(table.slots, rows[row].khi, rows[row].klo, row)
    touch(table, row)
    return row


@bare
def remove(table: TableArrays, row: int) -> None:
    """Delete a row: out of the index by backward shift (no tombstones), onto the free list."""
    slots = table.slots
    rows = table.rows
    mask = len(slots) - 1
    at = home(rows[row].khi, rows[row].klo, mask)
    while slots[at] != row:
        at = (at + 1) & mask
    gap = at
    nxt = (at + 1) & mask
    while slots[nxt] >= 0:
        wish = home(rows[slots[nxt]].khi, rows[slots[nxt]].klo, mask)
        if ((nxt - wish) & mask) >= ((nxt - gap) & mask):
            slots[gap] = slots[nxt]
            gap = nxt
        nxt = (nxt + 1) & mask
    slots[gap] = -1
    touch(table, row)
    rows[row].live = 0
    rows[row].khi = 0
    rows[row].klo = np.uint64(table.meta[2])
    table.meta[2] = row
    table.meta[0] -= 1


@bare
def reindex(words: NDArray[np.uint64], flags: NDArray[np.uint8], live: int, slots: NDArray[np.int32], meta: NDArray[np.int64]) -> None:
    """Rebuild index, free list and live count from the rows' `live` flags, after the slots were replaced or rows restored.

    words `(rows, words of a row)` and flags `(rows, bytes of a row)` are the rows' memory, live the byte of the flag: compiled once for
    all tables, not once for each.
    """
    for at in range(len(slots)):
        slots[at] = -1
    meta[2] = -1
    meta[0] = 0
    for row in range(meta[1] - 1, -1, -1):
        if flags[row, live] == 1:
            place(slots, words[row, 0], words[row, 1], row)
            meta[0] += 1
        else:
            words[row, 1] = np.uint64(meta[2])
            meta[2] = row


@bare
def settle(meta: NDArray[np.int64], dirty: NDArray[np.uint8], changed: NDArray[np.int32], out: NDArray[np.int32]) -> int:
    """Write the dirty rows into `out` in the order they were dirtied, clear the dirty set, return how many.

    When the list had overflowed they come in row order, found by their flags. Takes a table's arrays without its rows: compiled once
    for all tables.
    """
    n = 0
    if meta[4] == 1:
        for row in range(meta[1]):
            if dirty[row] == 1:
                out[n] = row
                n += 1
    else:
        n = meta[3]
        for i in range(n):
            out[i] = changed[i]
    for i in range(n):
        dirty[out[i]] = 0
    meta[3] = 0
    meta[4] = 0
    return n


# --- the same for Python: the table's rows come as words and bytes, so that one kernel serves every row type ---------------------------


@bare
def find_key(words: NDArray[np.uint64], slots: NDArray[np.int32], khi: Any, klo: Any) -> int:
    """Return the row of a key, or -1."""
    mask = len(slots) - 1
    at = home(khi, klo, mask)
    while slots[at] >= 0:
        row = np.int64(slots[at])
        if words[row, 0] == khi and words[row, 1] == klo:
            return row
        at = (at + 1) & mask
    return -1


@bare
def touch_row(meta: NDArray[np.int64], dirty: NDArray[np.uint8], changed: NDArray[np.int32], row: int) -> None:
    """Mark a row as changed since the last capture."""
    if dirty[row] == 0:
        dirty[row] = 1
        n = meta[3]
        if n < len(changed):
            changed[n] = row
            meta[3] = n + 1
        else:
            meta[4] = 1


@bare
def insert_key(
    words: NDArray[np.uint64], flags: NDArray[np.uint8], live: int, slots: NDArray[np.int32], meta: NDArray[np.int64], khi: Any, klo: Any
) -> int:
    """Add a row for a key that is not there and return it, as `insert`; `touch_row` must follow."""
    row = meta[2]
    if row >= 0:
        meta[2] = np.int64(words[row, 1])
    else:
        row = meta[1]
        meta[1] = row + 1
    for i in range(words.shape[1]):
        words[row, i] = 0
    words[row, 0] = khi
    words[row, 1] = klo
    flags[row, live] = 1
    meta[0] += 1
    place(slots, words[row, 0], words[row, 1], row)
    return row


@bare
def remove_key(
    words: NDArray[np.uint64], flags: NDArray[np.uint8], live: int, slots: NDArray[np.int32], meta: NDArray[np.int64], row: int
) -> None:
    """Delete a row, as `remove`; `touch_row` must follow."""
    mask = len(slots) - 1
    at = home(words[row, 0], words[row, 1], mask)
    while slots[at] != row:
        at = (at + 1) & mask
    gap = at
    nxt = (at + 1) & mask
    while slots[nxt] >= 0:
        wish = home(words[slots[nxt], 0], words[slots[nxt], 1], mask)
        if ((nxt - wish) & mask) >= ((nxt - gap) & mask):
            slots[gap] = slots[nxt]
            gap = nxt
        nxt = (nxt + 1) & mask
    slots[gap] = -1
    flags[row, live] = 0
    words[row, 0] = 0
    words[row, 1] = np.uint64(meta[2])
    meta[2] = row
    meta[0] -= 1


def row_type(fields: list[tuple[Any, ...]]) -> np.dtype[Any]:
    """Return the row type of a ledger: key, the fields, the live flag; aligned, so give wide fields first."""
    return np.dtype([*HEAD, *fields, *TAIL], align=True)


class Table:
    """Owns one table's memory. `arrays` is what kernels take; it is replaced when the table grows, so fetch it per call."""

    def __init__(self, name: str, dtype: np.dtype[Any], rows: int = MIN_ROWS) -> None:
        self.name = name
        self.dtype = dtype
        capacity = max(rows, MIN_ROWS)
        self._live = int(dtype.fields["live"][1])  # type: ignore[index]  # a row type has fields
        meta = np.zeros(META, np.int64)
        meta[FREE] = -1
        self.arrays = TableArrays(
            np.zeros(capacity, dtype),
            np.full(_slots_for(capacity), -1, np.int32),
            meta,
            np.zeros(capacity, np.uint8),
            np.zeros(capacity, np.int32),
        )

    def __len__(self) -> int:
        return int(self.arrays.meta[LIVE])

    @property
    def high(self) -> int:
        """Return how many rows were ever used: all live rows are below."""
        return int(self.arrays.meta[HIGH])

    @property
    def rows(self) -> NDArray[Any]:
        """Return the used rows, live or not: `(high,)`."""
        return self.arrays.rows[: self.high]

    @property
    def nbytes(self) -> int:
        """Return the memory the table holds, index and dirty set included."""
        return sum(int(a.nbytes) for a in self.arrays)

    def reserve(self, extra: int, touches: int | None = None) -> None:
        """Make room for `extra` inserts, and for `touches` (default as many again, at least 1024) further dirty rows without a scan."""
        rows, slots, meta, dirty, changed = self.arrays
        need = self.high + extra
        grown = False
        if need > len(rows):
            capacity = max(need, int(len(rows) * GROWTH) + 1)
            rows = _grown(rows, capacity)
            dirty = _grown(dirty, capacity)
            grown = True
        listed = min(len(rows), int(meta[DIRTY]) + (touches if touches is not None else max(2 * extra, 1024)))
        if listed > len(changed):
            changed = _grown(changed, max(listed, int(len(changed) * GROWTH) + 1))
            grown = True
        if _slots_for(need) > len(slots):
            slots = np.full(_slots_for(need), -1, np.int32)
            self.arrays = TableArrays(rows, slots, meta, dirty, changed)
            self._reindex()
        elif grown:
            self.arrays = TableArrays(rows, slots, meta, dirty, changed)

    def find(self, khi: int, klo: int) -> int:
        """Return the row of a key, or -1."""
        return int(find_key(_words(self.arrays.rows), self.arrays.slots, np.uint64(khi), np.uint64(klo)))

    def insert(self, khi: int, klo: int) -> int:
        """Add a row for a new key and return it. Raises KeyError if the key is there."""
        if self.find(khi, klo) >= 0:
            raise KeyError((khi, klo))
        self.reserve(1)
        words, flags = self._memory()
        row = int(insert_key(words, flags, self._live, self.arrays.slots, self.arrays.meta, np.uint64(khi), np.uint64(klo)))
        self.touch(row)
        return row

    def touch(self, row: int) -> None:
        """Mark a row as changed."""
        _, _, meta, dirty, changed = self.arrays
        touch_row(meta, dirty, changed, row)

    def remove(self, row: int) -> None:
        """Delete a live row. Raises KeyError if it is not live."""
        if not (0 <= row < self.high and self.arrays.rows[row]["live"]):
            raise KeyError(row)
        words, flags = self._memory()
        remove_key(words, flags, self._live, self.arrays.slots, self.arrays.meta, row)
        self.touch(row)

    @property
    def dirty(self) -> bool:
        """Return whether anything changed since the last capture."""
        return bool(self.arrays.meta[DIRTY] or self.arrays.meta[LOST])

    def take_changes(self) -> tuple[NDArray[np.int32], NDArray[Any]]:
        """Return (row numbers, rows) changed since the last call, deleted rows (live 0) included, and clear the dirty set."""
        size = self.high if self.arrays.meta[LOST] else int(self.arrays.meta[DIRTY])
        numbers = np.empty(size, np.int32)
        n = int(settle(self.arrays.meta, self.arrays.dirty, self.arrays.changed, numbers))
        numbers = numbers[:n]
        return numbers, self.arrays.rows.take(numbers)  # indexing a structured array is several times slower

    def take_slice(self, count: int) -> tuple[int, NDArray[Any]]:
        """Return (first row, rows) of the next `count` rows round and round, never past the end in one piece."""
        meta = self.arrays.meta
        start = int(meta[CURSOR])
        if start >= self.high:
            start = 0
        end = min(start + count, self.high)
        meta[CURSOR] = end
        meta[SLICED] += end - start
        return start, self.arrays.rows[start:end]

    @property
    def sliced(self) -> int:
        """Return how many rows were ever sliced; once it has grown by `high` the table has been written whole."""
        return int(self.arrays.meta[SLICED])

    def put_rows(self, numbers: NDArray[np.int32] | slice, rows: NDArray[Any], high: int) -> None:
        """Set rows as they were captured. `finish_restore` must follow before anything else is done."""
        if high > len(self.arrays.rows):
            self.reserve(high - self.high)
        _words(self.arrays.rows)[numbers] = _words(rows)
        self.arrays.meta[HIGH] = max(self.high, high)

    def finish_restore(self) -> None:
        """Rebuild the index and the free list after `put_rows`."""
        needed = _slots_for(self.high)
        if needed > len(self.arrays.slots):
            self.arrays = self.arrays._replace(slots=np.full(needed, -1, np.int32))
        self._reindex()

    def _reindex(self) -> None:
        words, flags = self._memory()
        reindex(words, flags, self._live, self.arrays.slots, self.arrays.meta)

    def _memory(self) -> tuple[NDArray[np.uint64], NDArray[np.uint8]]:
        rows = self.arrays.rows
        return _words(rows), rows.view(np.uint8).reshape(len(rows), self.dtype.itemsize)


def _slots_for(rows: int) -> int:
    size = 64
    while size * LOAD < rows:
        size *= 2
    return size


def _words(rows: NDArray[Any]) -> NDArray[np.uint64]:
    """Return rows as words, `(n, words)`: numpy copies structured rows field by field, words as memory."""
    return rows.view(np.uint64).reshape(len(rows), rows.dtype.itemsize // 8)


def _grown(array: NDArray[Any], size: int) -> NDArray[Any]:
    bigger = np.zeros(size, array.dtype)
    bigger.view(np.uint8)[: array.nbytes] = array.view(np.uint8)
    return bigger
