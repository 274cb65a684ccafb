"""A lane's state as a log: every capture writes the rows that changed, the scalars, and the next slice of every table.

Slices go round and round, so after one round everything older than the round's start is obsolete: the log stays near
(1 + 1/SLICE_RATIO) times the state, a restore is one sequential read, and a capture costs what changed, not what is kept.
Every table gets its share of the slice by its size, so that all rounds end together: the log is as long as the slowest round.

A value is: header (magic, format, fingerprint of all row types, capture number) and sections (table, kind, count, first, high; then row numbers
for `ROWS`; then raw rows). All values of a capture go into one Kafka transaction, so a restore sees all of a capture or none of it.
"""

from __future__ import annotations

import hashlib
import struct
from collections import deque
from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from schemas.chunk import Capture
from state.table import Table

MAGIC = b"HGCL"
FORMAT = 1
_HEADER = struct.Struct("<4sHHQQ")
_SECTION = struct.Struct("<HHIQQ")
ROWS = 1
SLICE = 2
SCALARS = 3

SLICE_RATIO = 1.5
"""Bytes sliced for every byte of rows changed: the log's steady size is (1 + 1/1.5) = 1.67 times the state."""
SLICE_FLOOR = 4096
"""Bytes sliced at every capture at least: several times what a capture of a few rows costs anyway (the scalars), or that would fill the log."""
VALUE_BYTES = 900_000
"""Values are cut at this size, below the broker's default limit of 1 MiB."""


class StateMismatch(RuntimeError):
    """The changelog was written by other row types than this version has, or by something else; the message says what to do."""


class Changelog:
    """Capture and restore of a set of tables and one array of int64 scalars."""

    def __init__(self, tables: Mapping[str, Table], scalars: NDArray[np.int64]) -> None:
        self.tables = list(tables.values())
        self.scalars = scalars
        self.seq = 0
        self._saved = scalars.copy()
        self._captured: dict[int, list[int]] = {}
        self._history: deque[tuple[int, list[int]]] = deque()
        self._obsolete: int | None = None
        self._due = [0.0] * len(self.tables)
        described = repr([(t.name, t.dtype.descr) for t in self.tables]) + repr(len(scalars))
        self.fingerprint = int.from_bytes(hashlib.sha256(described.encode()).digest()[:8], "little")

    @property
    def dirty(self) -> bool:
        """Return whether a capture now would write anything that changed."""
        return any(t.dirty for t in self.tables) or not np.array_equal(self.scalars, self._saved)

    def capture(self) -> Capture:
        """Return everything that changed since the last capture, and the next slices; nothing if nothing changed."""
        if not self.dirty:
            return Capture(self.seq)
        self.seq += 1
        sections: list[bytes] = []
        changed = 0
        for number, table in enumerate(self.tables):
            if not table.dirty:
                continue
            rows, values = table.take_changes()
            changed += values.nbytes
            step = max(1, VALUE_BYTES // (table.dtype.itemsize + 4))
            for at in range(0, len(rows), step):
                part = rows[at : at + step]
                head = _SECTION.pack(number, ROWS, len(part), 0, table.high)
                sections.append(head + part.tobytes() + values[at : at + step].tobytes())
        sections += self._slices(max(SLICE_FLOOR, int(SLICE_RATIO * changed)))
        sections.append(_SECTION.pack(0, SCALARS, len(self.scalars), 0, 0) + self.scalars.tobytes())
        self._saved[:] = self.scalars
        self._captured[self.seq] = [t.sliced for t in self.tables]
        return Capture(self.seq, _values(_HEADER.pack(MAGIC, FORMAT, 0, self.fingerprint, self.seq), sections))

    def _slices(self, budget: int) -> list[bytes]:
        """Return the next slices, about `budget` bytes of rows, each table's share as its size; what is less than a row is kept for later."""
        sizes = [table.high * table.dtype.itemsize for table in self.tables]
        total = sum(sizes)
        sections: list[bytes] = []
        for number, (table, size) in enumerate(zip(self.tables, sizes, strict=True)):
            if not size:
                continue
            width = table.dtype.itemsize
            self._due[number] += budget * size / total
            wanted = int(self._due[number] // width)
            self._due[number] -= wanted * width
            wanted = min(wanted, table.high)
            while wanted > 0:
                first, piece = table.take_slice(min(wanted, VALUE_BYTES // width))
                sections.append(_SECTION.pack(number, SLICE, len(piece), first, table.high) + piece.tobytes())
                wanted -= len(piece)
        return sections

    def committed(self, seq: int, offset: int) -> None:
        """Learn at which offset capture `seq` begins in the log."""
        self._history.append((offset, self._captured.pop(seq)))
        while len(self._history) > 1 and self._covered(self._history[0][1]):
            self._history.popleft()
            self._obsolete = self._history[0][0]

    def obsolete_before(self) -> int | None:
        """Return the offset below which a restore needs nothing."""
        return self._obsolete

    def _covered(self, sliced: list[int]) -> bool:
        return all(t.sliced - s >= t.high for t, s in zip(self.tables, sliced, strict=True))

    def restore(self, records: Iterable[tuple[int, bytes]]) -> int:
        """Rebuild the tables from (offset, value) pairs, oldest first; return how many values were read."""
        count = 0
        for offset, value in records:
            self._apply(offset, value)
            count += 1
        for table in self.tables:
            table.finish_restore()
        self._saved[:] = self.scalars
        self._history.clear()
        self._captured.clear()
        self._history.append((-1, [t.sliced for t in self.tables]))
        return count

    def _apply(self, offset: int, value: bytes) -> None:
        if len(value) < _HEADER.size or _HEADER.unpack_from(value)[:2] != (MAGIC, FORMAT):
            raise StateMismatch(f"changelog offset {offset} is not a state record of format {FORMAT}: is the topic used by something else?")
        _, _, _, fingerprint, seq = _HEADER.unpack_from(value)
        if fingerprint != self.fingerprint:
            raise StateMismatch(
                f"changelog offset {offset} was written with other row types than this version has: run the version that wrote it, "
                'or let it drain and start with an empty changelog (docs/guarantees.md, "Upgrades")'
            )
        at = _HEADER.size
        while at < len(value):
            number, kind, n, first, high = _SECTION.unpack_from(value, at)
            at += _SECTION.size
            if kind == SCALARS:
                self.scalars[:] = np.frombuffer(value, np.int64, n, at)
                at += 8 * n
                continue
            table = self.tables[number]
            where: NDArray[np.int32] | slice = slice(first, first + n)
            if kind == ROWS:
                where = np.frombuffer(value, np.int32, n, at)
                at += 4 * n
            table.put_rows(where, np.frombuffer(value, table.dtype, n, at), high)
            at += table.dtype.itemsize * n
        self.seq = max(self.seq, seq)


def _values(header: bytes, sections: list[bytes]) -> list[bytes]:
    values: list[bytes] = []
    current = [header]
    size = len(header)
    for section in sections:
        if size + len(section) > VALUE_BYTES and len(current) > 1:
            values.append(b"".join(current))
            current, size = [header], len(header)
        current.append(section)
        size += len(section)
    values.append(b"".join(current))
    return values
