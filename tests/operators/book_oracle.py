"""What the fold of fills must come to, slowly: plain dicts and Decimals, one record after the other. Shares nothing with the kernel but its inputs."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from bench.oracle import lane_of

MOST = 2**62


@dataclass
class Leg:
    """An order of a hedge: which way it goes, and what came of it."""

    side: int
    filled: Decimal = Decimal(0)
    undone: Decimal = Decimal(0)
    paid: float = 0.0
    bought: float = 0.0


@dataclass
class BookOracle:
    """One lane's positions. scales: qty_scale by symbol. desk: (book, account) whose fills are the desk's hedges."""

    lane: int
    lanes: int
    scales: dict[str, int]
    desk: set[tuple[str, str]] = field(default_factory=set)
    legs: dict[str, Leg] = field(default_factory=dict)
    positions: dict[tuple[str, str], list[Decimal]] = field(default_factory=dict)
    """By (book, symbol): exposure, hedge, moved."""
    seen: dict[str, set[int]] = field(default_factory=dict)
    applied: dict[str, set[tuple[str, int]]] = field(default_factory=dict)
    """By book: (fill, version) that changed something."""
    books: set[str] = field(default_factory=set)

    def fold(self, value: bytes) -> tuple[str, str | None]:
        """Take one fill; return what became of it and, if it is a leg's, the order."""
        fill: dict[str, Any] = json.loads(value)["payload"]
        book, symbol, order = fill["book"], fill["symbol"], fill["order_id"]
        if lane_of(book.encode(), self.lanes) != self.lane:
            return "rerouted", None
        if symbol not in self.scales:
            return "instrument_unknown", None
        delta = Decimal(fill["signed_delta"])
        scaled = delta.scaleb(self.scales[symbol])
        if scaled != scaled.to_integral_value():
            return "precision_exceeds_scale", None
        if abs(scaled) >= MOST:
            return "field_invalid", None
        versions = self.seen.setdefault(fill["fill_id"], set())
        version = min(fill["version"], 64)
        if version in versions:
            return "duplicate", None
        versions.add(version)
        self.books.add(book)
        position = self.positions.setdefault((book, symbol), [Decimal(0)] * 3)
        if delta == 0:
            return "applied", None
        self.applied.setdefault(book, set()).add((fill["fill_id"], fill["version"]))
        leg = self.legs.get(order)
        if leg is not None:
            leg.filled += delta * leg.side
            leg.undone += max(-delta * leg.side, Decimal(0))
            leg.bought += float(delta)
            leg.paid += float(delta) * float(fill["price"])
            position[1] += delta
            return "applied", order
        if (book, fill["account"]) in self.desk:
            position[1] += delta
        else:
            position[0] += delta
            position[2] += abs(delta)
        return "applied", None
