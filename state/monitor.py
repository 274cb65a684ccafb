"""The ledger of the monitor: what was said of each scope, with its changelog. Columns and pieces of text only; no rules.

Rules: docs/canary.md. An account under a profile is a row; what its episodes are is one JSON text of a kilobyte or two, kept in pieces, because it
changes seldom and as a whole. Times that move with every alert are columns of the row, so that an alert without news writes that row alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from state.changelog import Changelog
from state.table import Table, row_type

PIECE_BYTES = 960
SCOPE = row_type(
    [("as_of_ns", "i8"), ("due_ns", "i8"), ("stored_ns", "i8"), ("last_ns", "i8", (3,)), ("size", "u4"), ("pieces", "u4")]
)  # fmt: skip
"""One scope, key = hash of account, mode and profile. as_of_ns: of its newest alert. due_ns: when a clock acts on it, 0 for never. stored_ns: when a
notice of it was last published. last_ns: as_of of each episode's newest firing observation. size: bytes of its text, in so many pieces."""
PIECE = row_type([("data", "u1", (PIECE_BYTES,))])
"""A piece of a scope's text, key = the scope's, its low word plus the number of the piece."""

# Scalars of a lane: the balance first (names in BALANCE), then where it stands.
BALANCE = (
    "received", "applied", "duplicate", "late", "dlq", "rerouted",
    "notices", "notified", "heartbeats", "policy_drift",
)  # fmt: skip
S_RECEIVED, S_APPLIED, S_DUPLICATE, S_LATE, S_DLQ, S_REROUTED, S_NOTICES, S_NOTIFIED, S_HEARTBEATS, S_DRIFT = range(len(BALANCE))
S_REASONS = 20  # decisions by reason, in the order of schemas.canary.NoticeReason
S_DEAD = 40  # dead letters by reason: S_DEAD + reason, reasons below 92
S_POSITION = 134  # next offset + 1, 0 for none read yet
SCALARS = 136


class MonitorLedger:
    """Everything the monitor keeps for one lane, with its changelog."""

    def __init__(self) -> None:
        self.scopes = Table("scopes", SCOPE)
        self.pieces = Table("pieces", PIECE)
        self.scalars = np.zeros(SCALARS, np.int64)
        self.tables = {table.name: table for table in (self.scopes, self.pieces)}
        """The tables by name, in changelog order."""
        self.changelog = Changelog(self.tables, self.scalars)

    def scope_row(self, khi: int, klo: int) -> int:
        """Return the row of a scope, made if there is none."""
        row = self.scopes.find(khi, klo)
        return self.scopes.insert(khi, klo) if row < 0 else row

    def text(self, row: int) -> bytes:
        """Return a scope's text; empty when nothing was kept. Raises KeyError when a piece is missing."""
        scope: Any = self.scopes.arrays.rows[row]
        khi, klo, size = int(scope["khi"]), int(scope["klo"]), int(scope["size"])
        found = []
        for number in range(int(scope["pieces"])):
            at = self.pieces.find(khi, (klo + number) % 2**64)
            if at < 0:
                raise KeyError((khi, klo, number))
            found.append(self.pieces.arrays.rows[at]["data"].tobytes())
        return b"".join(found)[:size]

    def keep(self, row: int, text: bytes) -> None:
        """Set a scope's text; pieces that are as they were are not written again. The caller marks the row itself as changed."""
        scope: Any = self.scopes.arrays.rows[row]
        khi, klo, before = int(scope["khi"]), int(scope["klo"]), int(scope["pieces"])
        count = -(-len(text) // PIECE_BYTES)
        for number in range(max(count, before)):
            key = khi, (klo + number) % 2**64
            at = self.pieces.find(*key)
            if number >= count:
                self.pieces.remove(at)
                continue
            data = np.zeros(PIECE_BYTES, np.uint8)
            part = np.frombuffer(text, np.uint8)[number * PIECE_BYTES : (number + 1) * PIECE_BYTES]
            data[: len(part)] = part
            if at < 0:
                at = self.pieces.insert(*key)
            elif np.array_equal(self.pieces.arrays.rows[at]["data"], data):
                continue
            self.pieces.arrays.rows[at]["data"] = data
            self.pieces.touch(at)
        scope["size"], scope["pieces"] = len(text), count
