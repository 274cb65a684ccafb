"""A lane of the hedger, slowly: what its inputs come to, in plain Python with whole numbers, written from the rules and not from the product.

Takes what the topics hold and what the senders say was wrong on purpose. It does not decide what to hedge: it knows each book after every single fill, so
that a decision can be held against exactly what it says it rests on (its exposure version). Rules: docs/hedging.md; schemas/hedging.py.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.hedge_load import ALLOCATIONS, COVERS, DESK, DESK_ACCOUNT, FILLS, ORDERS, SCALES, units
from bench.ledger import Record
from bench.oracle import lane_of

NAMESPACE = uuid.UUID("8d3a8a3e-58a2-4b7e-9a55-0c6f0b8a4d11")
ENDS = {"REJECTED": "REFUSED", "CANCELED": "CANCELED", "EXPIRED": "EXPIRED", "DONE": "FILLED"}
OPEN = ("SENT", "ACKED", "PARTIAL", "UNKNOWN")
_MASK = 2**64 - 1
NEAR = 4


def mix(z: int) -> int:
    """Return murmur3's last step of 64 bits."""
    z = (z ^ z >> 33) * 0xFF51AFD7ED558CCD & _MASK
    z = (z ^ z >> 33) * 0xC4CEB9FE1A85EC53 & _MASK
    return z ^ z >> 33


@dataclass(slots=True)
class Leg:
    """An order of a hedge; sizes in units of the instrument's quantity, positive. filled is net of undone: what busts and corrections took."""

    order_id: str
    hedge_id: str
    instrument: str
    side: int
    size: int
    filled: int = 0
    undone: int = 0
    end: str = ""
    venue_filled: int = 0
    said: tuple[int, int] = (0, 0)
    """Time and id of the order agent's newest word."""

    @property
    def remaining(self) -> int:
        """Return what may still be filled."""
        return max((self.venue_filled - self.undone if self.end else self.size) - self.filled, 0)

    @property
    def state(self) -> str:
        """Return the state it ends in, `OPEN` while it has not."""
        if self.filled + self.undone >= self.size:
            return "FILLED"
        if self.end and self.remaining == 0:
            return "CANCELED" if self.end == "FILLED" else self.end
        return "OPEN"


@dataclass(slots=True)
class Hedge:
    """A hedge as its intent has it."""

    hedge_id: str
    book: str
    version: str
    attempt: int
    decided_ns: int
    legs: list[Leg]
    payload: dict[str, Any]
    manual: bool = False

    @property
    def state(self) -> str:
        """Return the state it ends in, `OPEN` while it has not."""
        states = [leg.state for leg in self.legs]
        if self.manual:
            return "MANUAL"
        if "OPEN" in states:
            return "OPEN"
        return next((end for end in ("REFUSED", "EXPIRED", "CANCELED") if end in states), "FILLED")


@dataclass(slots=True)
class Step:
    """A fill that moved a book."""

    symbol: str
    delta: int
    order_id: str
    """Of a hedge's leg; empty for an exposure, `desk` for the desk's."""
    set_hi: int
    set_lo: int
    """The sums of the book's hashes after it."""


@dataclass
class Book:
    """A book: every step it took, and where it ended."""

    name: str
    steps: list[Step] = field(default_factory=list)
    targets: list[dict[str, float]] = field(default_factory=lambda: [{}])
    """Of each symbol, before the first allocation and after every one that counted."""
    exposure: Counter[str] = field(default_factory=Counter)
    hedge: Counter[str] = field(default_factory=Counter)
    hedges: list[Hedge] = field(default_factory=list)
    symbols: set[str] = field(default_factory=set)


class LaneOracle:
    """Folds a lane's inputs. `balance` counts what became of them; `dead` has each input that must be in the DLQ with its reason.

    spoiled: SHA-256 of a value → the reason it must be refused for, as whoever sent it says.
    """

    def __init__(self, lane: int, n_lanes: int, spoiled: Mapping[bytes, str]) -> None:
        self.lane, self.n_lanes = lane, n_lanes
        self._spoiled = spoiled
        self.balance: Counter[str] = Counter()
        self.dead: dict[tuple[str, int], str] = {}
        self.rerouted: list[tuple[str, bytes, bytes]] = []
        """(topic, key, value) of what belongs to another lane."""
        self.books: dict[str, Book] = {}
        self.legs: dict[str, Leg] = {}
        self.hedges: dict[str, Hedge] = {}
        self.repeated_fills: list[str] = []
        self._seen: set[tuple[str, int]] = set()
        self._newest: dict[tuple[str | None, ...], tuple[int, int]] = {}
        self._sums: dict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))

    def fold(self, inputs: Mapping[str, Sequence[Record]]) -> None:
        """Fold everything: hedges first, so that their fills and events are known for theirs; within a topic in order."""
        for topic in (COVERS, FILLS, ALLOCATIONS, ORDERS, DESK):
            for record in inputs[topic]:
                self.balance["received"] += 1
                self.balance[self._take(topic, record)] += 1

    def _take(self, topic: str, record: Record) -> str:
        reason = self._spoiled.get(hashlib.sha256(record.value).digest())
        if reason is not None:
            self.dead[topic, record.offset] = reason
            return "dlq"
        message = json.loads(record.value)
        payload = message["payload"]
        if lane_of(payload["book"], self.n_lanes) != self.lane:
            self.rerouted.append((topic, payload["book"].encode(), record.value))
            return "rerouted"
        if topic == FILLS:
            return self._fill(payload)
        if topic == ALLOCATIONS:
            return self._allocation(message)
        if topic == ORDERS:
            return self._event(message)
        if topic == DESK:
            return self._desk(message)
        if message["sender"] == "agent.hedger":
            self._cover(payload)
            return "echo"
        self._book(payload["book"])
        return "applied"

    def _book(self, name: str) -> Book:
        return self.books.setdefault(name, Book(name))

    def _fill(self, p: dict[str, Any]) -> str:
        name = (p["fill_id"], p["version"])
        if name in self._seen:
            return "duplicate"
        self._seen.add(name)
        book, symbol = self._book(p["book"]), p["symbol"]
        book.symbols.add(symbol)
        delta = units(p["signed_delta"], symbol)
        if delta == 0:
            return "applied"
        leg = self.legs.get(p["order_id"])
        if leg is not None:
            leg.filled += delta * leg.side
            leg.undone += max(-delta * leg.side, 0)
            book.hedge[symbol] += delta
        elif p["account"] == DESK_ACCOUNT:
            book.hedge[symbol] += delta
        else:
            book.exposure[symbol] += delta
        number = uuid.UUID(p["fill_id"]).int
        first = mix((number >> 64) + p["version"] * 0x9E3779B97F4A7C15 & _MASK)
        hi, lo = self._sums[book.name]
        self._sums[book.name] = hi, lo = hi + first & _MASK, lo + mix(number & _MASK ^ first) & _MASK
        what = leg.order_id if leg is not None else "desk" if p["account"] == DESK_ACCOUNT else ""
        book.steps.append(Step(symbol, delta, what, hi, lo))
        return "applied"

    def _allocation(self, message: dict[str, Any]) -> str:
        p = message["payload"]
        order = (message["ts_ns"], uuid.UUID(message["msg_id"]).int >> 64)
        book = self._book(p["book"])
        book.symbols.add(p["symbol"])
        if order <= self._newest.get((p["book"], p["symbol"]), (-1, -1)):
            return "duplicate"
        self._newest[p["book"], p["symbol"]] = order
        book.targets.append(book.targets[-1] | {p["symbol"]: float(p["target_size"])})
        return "applied"

    def _event(self, message: dict[str, Any]) -> str:
        p = message["payload"]
        leg = self.legs[p["order_id"]]
        filled = units(p["filled_size"], leg.instrument)
        said = (message["ts_ns"], uuid.UUID(message["msg_id"]).int >> 64)
        if said[0] < leg.said[0] or said == leg.said:
            if p["status"] not in ENDS or (leg.end and filled <= leg.venue_filled):
                return "duplicate"
        else:
            leg.said = said
        if p["status"] in ENDS:
            leg.venue_filled = max(leg.venue_filled, filled) if leg.end else filled
            leg.end = leg.end or ENDS[p["status"]]
        return "applied"

    def _desk(self, message: dict[str, Any]) -> str:
        p = message["payload"]
        self._book(p["book"])
        if p["action"] == "MARK_MANUAL":
            hedge = self.hedges[p["hedge_id"]]
            if hedge.manual:
                return "duplicate"
            hedge.manual = True
            for leg in hedge.legs:
                if not leg.end or leg.remaining:
                    leg.end, leg.venue_filled = "MANUAL", leg.filled
            return "applied"
        said = (message["ts_ns"], uuid.UUID(message["msg_id"]).int >> 64)
        what = ("desk", p["book"], p["instrument"])
        if said <= self._newest.get(what, (0, 0)):
            return "duplicate"
        self._newest[what] = said
        return "applied"

    def _cover(self, p: dict[str, Any]) -> None:
        if p["hedge_id"] in self.hedges:
            return  # told of by whoever reads the topic as a whole
        legs = [
            Leg(leg["order_id"], p["hedge_id"], leg["instrument"], 1 if leg["side"] == "BUY" else -1, units(leg["size"], leg["instrument"]))
            for leg in p["legs"]
        ]
        hedge = Hedge(p["hedge_id"], p["book"], p["exposure_version"], p["attempt"], p["decision_ts_ns"], legs, p)
        self.hedges[hedge.hedge_id] = hedge
        self._book(p["book"]).hedges.append(hedge)
        self.legs |= {leg.order_id: leg for leg in legs}

    # ---- what a decision rests on -----------------------------------------------------------------------------------------------

    def version(self, book: Book, steps: int, targets: int, universe: str, policy: str) -> str:
        """Return the exposure version of a book after so many steps and allocations that counted."""
        hi, lo = (book.steps[steps - 1].set_hi, book.steps[steps - 1].set_lo) if steps else (0, 0)
        told = ";".join(f"{symbol}={target!r}" for symbol, target in sorted(book.targets[targets].items()))
        return hashlib.sha256(f"{book.name}|{hi:x}.{lo:x}|{told}|{universe}|{policy}".encode()).hexdigest()[:32]

    def find(self, book: Book, version: str, universe: str, policy: str, steps: int, targets: int) -> tuple[int, int] | None:
        """Return (steps, allocations) at or after those given that have this version; the nearest; None when there are none."""
        end = len(book.targets)
        for most in (min(targets + NEAR, end), end):  # it is hardly ever further ahead, and there may be many
            for ahead in range(len(book.steps) - steps + 1):
                for number in range(targets, most):
                    if self.version(book, steps + ahead, number, universe, policy) == version:
                        return steps + ahead, number
        return None


def hedge_id(book: str, version: str, attempt: int) -> str:
    """Return the id a hedge must have."""
    return str(uuid.uuid5(NAMESPACE, f"hedge:{book}:{version}:{attempt}"))


def order_id(hedge: str, instrument: str) -> str:
    """Return the id a leg's order must have."""
    return str(uuid.uuid5(uuid.UUID(hedge), instrument))


def in_units(size: int, symbol: str) -> float:
    """Return a size as the number it is."""
    return size / 10 ** SCALES[symbol]
