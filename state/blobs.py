"""Keyed JSON documents with a changelog: the state of flows that see few records. Rules know nothing of it, it knows no rules.

A capture writes the documents that changed. When what was written since the last full copy is a multiple of the state, the next capture writes all
of it, and everything older is obsolete: a restore reads one full copy and what came after. All values of a capture go into one Kafka transaction.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from schemas.chunk import Capture
from state.changelog import VALUE_BYTES, StateMismatch

FORMAT = 1
COPY_RATIO = 4
"""A full copy is due once so many times its size was written since the last one: the log stays below 1 + 4 times the state, plus `COPY_FLOOR`."""
COPY_FLOOR = 65_536


class Blobs:
    """Documents by key, each a JSON value; at most `VALUE_BYTES` long in UTF-8. kind: whose they are, checked at a restore."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.docs: dict[str, Any] = {}
        self.seq = 0
        self._changed: dict[str, None] = {}
        self._sizes: dict[str, int] = {}
        self._since_copy: int | None = None
        self._copies: set[int] = set()
        self._obsolete: int | None = None

    def put(self, key: str, doc: Any) -> None:
        """Set a document; nothing is noted when it is what it was. The document must not be altered afterwards."""
        if key not in self.docs or self.docs[key] != doc:
            self.docs[key] = doc
            self._changed[key] = None

    def remove(self, key: str) -> None:
        """Forget a document, if it is there."""
        if self.docs.pop(key, None) is not None:
            self._changed[key] = None

    @property
    def dirty(self) -> bool:
        """Return whether a capture now would write anything."""
        return bool(self._changed)

    def capture(self) -> Capture:
        """Return what changed since the last capture, or everything when a full copy is due. Raises ValueError for a document that is too long."""
        if not self._changed:
            return Capture(self.seq)
        self.seq += 1
        lines = {key: _line(key, self.docs.get(key)) for key in self._changed}
        for key, line in lines.items():
            if len(line) > VALUE_BYTES:
                raise ValueError(f"document {key} of {self.kind} is {len(line)} bytes, at most {VALUE_BYTES} can be kept")
            self._sizes[key] = len(line)
            if key not in self.docs:
                del self._sizes[key]
        self._changed = {}
        total = sum(self._sizes.values())
        copy = self._since_copy is None or self._since_copy > COPY_RATIO * total + COPY_FLOOR
        if copy:
            lines = {key: _line(key, doc) for key, doc in self.docs.items()}
            self._since_copy = 0
            self._copies.add(self.seq)
        values: list[bytes] = []
        part: list[bytes] = []
        size = 0
        for line in lines.values():
            if part and size + len(line) > VALUE_BYTES:
                values.append(self._value(part, copy and not values))
                part, size = [], 0
            part.append(line)
            size += len(line) + 1
        values.append(self._value(part, copy and not values))
        self._since_copy = (self._since_copy or 0) + sum(map(len, values))
        return Capture(self.seq, values)

    def _value(self, lines: list[bytes], copy: bool) -> bytes:
        head = {"format": FORMAT, "kind": self.kind, "seq": self.seq, "copy": copy}
        return b"\n".join((json.dumps(head, separators=(",", ":")).encode(), *lines))

    def committed(self, seq: int, offset: int) -> None:
        """Learn at which offset capture `seq` begins in the log."""
        if seq in self._copies:
            self._copies.discard(seq)
            self._obsolete = offset

    def obsolete_before(self) -> int | None:
        """Return the offset below which a restore needs nothing."""
        return self._obsolete

    def restore(self, records: Iterable[tuple[int, bytes]]) -> None:
        """Rebuild the documents from (offset, value) pairs, oldest first. Raises StateMismatch for a log of another kind or format."""
        self.docs, self._sizes, self._changed, self._copies = {}, {}, {}, set()
        self._since_copy = None
        for offset, value in records:
            head, *lines = value.split(b"\n")
            try:
                found = json.loads(head)
                wrong = found["format"] != FORMAT or found["kind"] != self.kind
                seq, copy = int(found["seq"]), bool(found["copy"])
            except (ValueError, KeyError, TypeError) as error:
                raise StateMismatch(f"changelog offset {offset} is no record of {self.kind}: {error}") from error
            if wrong:
                raise StateMismatch(
                    f"changelog offset {offset} is of {found['kind']} format {found['format']}, not {self.kind} format {FORMAT}"
                )
            if copy:
                self.docs, self._sizes = {}, {}
                self._since_copy = 0
            self.seq = seq
            self._since_copy = (self._since_copy or 0) + len(value)
            for line in lines:
                key, doc = json.loads(line)
                if doc is None:
                    self.docs.pop(key, None)
                    self._sizes.pop(key, None)
                else:
                    self.docs[key] = doc
                    self._sizes[key] = len(line)


def _line(key: str, doc: Any) -> bytes:
    return json.dumps([key, doc], separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
