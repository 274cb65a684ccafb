"""The load of `bench.execution`: orders and their life at three venues, as records ready to be sent, and what must come of them.

Seeded; bytes follow from the arguments. Written with the simulator's templates, but with many fills per order and no fault other than busts,
corrections and repeats, so that a peer without our rules for broken input has the same work. May not look at what anybody makes of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from random import Random
from typing import NamedTuple

from connectors.simulator.history import MS, SECOND, Venue, venue_of
from connectors.simulator.market import Market
from connectors.simulator.messages import (
    ACK,
    QUOTE,
    REPORT,
    ROUTE,
    Report,
    ack_bytes,
    date_of,
    decimal,
    quote_bytes,
    report_bytes,
    route_bytes,
)
from connectors.simulator.sender import murmur2
from schemas.reference import Reference

FILLS_MEAN = 8
"""Fills of an order, from 1 to twice this less one, all as likely."""
BUST, CORRECT, REPEAT = 0.005, 0.005, 0.01
"""Of every fill: the shares that are undone, changed, and sent twice."""
COMPLETE = 0.7
"""Orders that are filled; the others are canceled with a rest."""
RATE = 20_000.0
"""Records per second of the load's own time."""
QUOTES_PER_S = 20.0
"""Quotes per second and instrument."""
LIFE_NS = 800 * MS
LEAD_NS = SECOND
"""Quotes alone at the beginning, so that the first orders find an arrival price."""
_BOOKS = ("BOOK-1", "BOOK-2", "BOOK-3", "BOOK-4")
_LOT_VALUE = 100


class Record(NamedTuple):
    """One record. `sent_ns` is when it would have been sent: the record's Kafka timestamp."""

    topic: str
    key: bytes
    value: bytes
    sent_ns: int


@dataclass
class Truth:
    """What whoever reconciles a load must come to: fill messages by status, and the position they add up to, by instrument."""

    fills: Counter[str] = field(default_factory=Counter)
    position: dict[str, Decimal] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """Return the number of fill messages."""
        return sum(self.fills.values())

    def add(self, status: str, symbol: str, signed: Decimal) -> None:
        """Count one fill message."""
        self.fills[status] += 1
        self.position[symbol] = self.position.get(symbol, Decimal(0)) + signed

    def __add__(self, other: Truth) -> Truth:
        both = Truth(self.fills + other.fills, dict(self.position))
        for symbol, signed in other.position.items():
            both.position[symbol] = both.position.get(symbol, Decimal(0)) + signed
        return both

    def same(self, other: Truth) -> bool:
        """Return whether both are the same: every status's count, every instrument's position."""
        return self.fills == other.fills and all(
            self.position.get(symbol, 0) == other.position.get(symbol, 0) for symbol in self.position | other.position
        )


@dataclass
class Load:
    """Records in the order they would have been sent, and what must come of them."""

    records: list[Record]
    truth: Truth

    @property
    def counts(self) -> Counter[str]:
        """Return the number of records by topic."""
        return Counter(record.topic for record in self.records)

    @property
    def bytes(self) -> int:
        """Return the size of all values."""
        return sum(len(record.value) for record in self.records)


class Maker:
    """Makes loads over one reference. Venues that cannot carry a client order id are left out: joining by alias is not every peer's."""

    def __init__(self, reference: Reference, seed: int) -> None:
        self.reference = reference
        self.seed = seed
        self.venues: list[Venue] = [venue_of(v, i) for i, v in enumerate(reference.venues) if v.carries_client_order_id]
        self._number = 0
        self._seq: Counter[str] = Counter()

    def load(self, records: int, start_ns: int) -> Load:
        """Return about so many records (at least one order), the first of them sent at `start_ns`."""
        rng, market = self._begin(start_ns)
        made: list[Record] = []
        truth = Truth()
        born = start_ns + LEAD_NS
        while len(made) < records:
            before = len(made)
            made += self._order(rng, market, truth, born, self._correlation(rng), self._pieces(rng))
            born += int((len(made) - before) * SECOND / RATE)
        made += self._quotes(market, start_ns, born + LIFE_NS)
        made.sort(key=lambda record: record.sent_ns)
        return Load(made, truth)

    def one_per_lane(self, lanes: int, start_ns: int) -> Load:
        """Return an order of one fill for every lane."""
        rng, market = self._begin(start_ns)
        made: list[Record] = []
        truth = Truth()
        for lane in range(lanes):
            correlation = self._correlation(rng)
            while murmur2(correlation.encode()) % lanes != lane:
                correlation = self._correlation(rng)
            made += self._order(rng, market, truth, start_ns, correlation, 1)
        made.sort(key=lambda record: record.sent_ns)
        return Load(made, truth)

    def _begin(self, start_ns: int) -> tuple[Random, Market]:
        interval = round(SECOND / QUOTES_PER_S)
        return Random(f"{self.seed}|{start_ns}"), Market(self.reference.instruments, start_ns, interval, self.seed)

    @staticmethod
    def _correlation(rng: Random) -> str:
        h = f"{rng.getrandbits(128):032x}"
        return f"{h[:8]}-{h[8:12]}-4{h[13:16]}-a{h[17:20]}-{h[20:]}"

    @staticmethod
    def _pieces(rng: Random) -> int:
        return rng.randint(1, 2 * FILLS_MEAN - 1)

    def _name(self) -> str:
        self._number += 1
        return f"b{self.seed}-{self._number:x}"

    def _quotes(self, market: Market, start_ns: int, end_ns: int) -> Iterator[Record]:
        fresh = Market(self.reference.instruments, start_ns, market.interval_ns, self.seed)
        for k in range((end_ns - start_ns) // market.interval_ns + 1):
            for n, instrument in enumerate(self.reference.instruments):
                bid, ask = fresh.quote(n, k)
                event_ns = fresh.first_ns[n] + k * fresh.interval_ns
                size = decimal(5 * 10**instrument.qty_scale, instrument.qty_scale)
                p = instrument.px_scale
                value = quote_bytes(self._name(), event_ns, instrument.symbol, decimal(bid, p), decimal(ask, p), size, size, event_ns, 1.0)
                yield Record(QUOTE, instrument.symbol.encode(), value, event_ns)

    def _order(self, rng: Random, market: Market, truth: Truth, at: int, correlation: str, pieces: int) -> Iterator[Record]:
        """Yield everything about one order: route, acknowledgement, NEW, its fills and what becomes of them, its end."""
        n = rng.randrange(len(self.reference.instruments))
        instrument, venue = self.reference.instruments[n], rng.choice(self.venues)
        p, q = instrument.px_scale, instrument.qty_scale
        bid, ask = market.touch(n, at)
        lot = 10 ** (len(str(_LOT_VALUE * 10 ** (p + q) // (bid * instrument.multiplier))) - 1)
        side, account, book = rng.choice(("BUY", "SELL")), rng.choice(venue.rules.accounts), rng.choice(_BOOKS)
        sizes = [lot * rng.randint(2, 9) for _ in range(pieces)]
        size = sum(sizes) if rng.random() < COMPLETE else sum(sizes) + lot * rng.randint(1, 9)
        key, trade_date, new_ns = correlation.encode(), date_of(at), at + rng.randint(400_000, 2 * MS)
        limit = ask + ask // 100 if side == "BUY" else bid - bid // 100
        client_id, number = f"{correlation.replace('-', '')}-0", self._name()
        venue_order_id = number if "O" not in venue.rules.key else f"{self.seed}{self._number:012d}"
        yield Record(
            ROUTE, key,
            route_bytes(number, correlation, at, instrument.symbol, side, decimal(size, q), "DAY", [(venue.name, 1.0)], book, account,
                        at - 200_000, decimal((bid + ask) // 2, p), decimal(limit, p), 0.25),
            at,
        )  # fmt: skip
        ack_ns = new_ns + 20_000
        yield Record(
            ACK, key,
            ack_bytes(self._name(), correlation, ack_ns + 300_000, venue.name, client_id, venue_order_id, "0", "ACKED", decimal(size, q), ack_ns),
            ack_ns + 300_000,
        )  # fmt: skip

        cum, paid, last_ns = 0, 0, 0

        def report(kind: str, t: int, exec_id: str, status: str, **more: int | str) -> Report:
            """Return a report of what stands after `cum` and `paid`; event times of an order never repeat."""
            nonlocal last_ns
            step = venue.precision_ns
            event_ns = last_ns = max(t // step * step, last_ns + step)
            self._seq[venue.name] += 1
            return Report(
                kind, venue.name, venue.source, account, instrument.symbol, p, q, side, trade_date, event_ns,
                event_ns + venue.latency_ns + rng.randrange(MS), step, self._seq[venue.name], f"{venue.name}-1", status, correlation,
                correlation, client_id, "", venue_order_id, "0", exec_id, order_qty=size, cum_qty=cum,
                leaves_qty=0 if kind == "CANCELED" else size - cum, avg_px=_average(paid, cum), attributes=venue.attributes, **more,  # type: ignore[arg-type]
            )  # fmt: skip

        def send(r: Report) -> Record:
            return Record(REPORT, key, report_bytes(r, self._name()), r.due_ns)

        def exec_id() -> str:
            name = self._name()
            return name if venue.rules.dated_key else f"{self.seed}{self._number:012d}"

        def state_id() -> str:
            return exec_id() if venue.state_exec_ids else ""

        yield send(report("NEW", new_ns, state_id(), "NEW", limit_px=limit))
        t = new_ns
        sign = 1 if side == "BUY" else -1
        for piece in sizes:
            t += MS + int(rng.expovariate(1.0) * LIFE_NS / pieces)
            bid, ask = market.touch(n, t)
            px, filled = (ask if side == "BUY" else bid), exec_id()
            cum, paid = cum + piece, paid + piece * px
            liquid = rng.choice(("MAKER", "TAKER"))
            status = "FILLED" if cum >= size else "PARTIALLY_FILLED"
            trade = report("TRADE", t, filled, status, last_qty=piece, last_px=px, liquidity=liquid,
                           fee_micros=piece * px // 10_000 % 1_000_000, fee_ccy="USD")  # fmt: skip
            first = send(trade)
            yield first
            truth.add("FILLED", instrument.symbol, sign * Decimal(piece).scaleb(-q))
            if rng.random() < REPEAT:
                yield first._replace(sent_ns=first.sent_ns + rng.randint(MS, 300 * MS))
            roll = rng.random()
            if roll < BUST:
                t += 5 * MS
                cum, paid = cum - piece, paid - piece * px
                yield send(report("BUST", t, exec_id(), "PARTIALLY_FILLED" if cum else "NEW", last_qty=0, last_px=0, exec_ref_id=filled))
                truth.add("BUSTED", instrument.symbol, -sign * Decimal(piece).scaleb(-q))
            elif roll < BUST + CORRECT:
                t += 5 * MS
                less = lot  # a correction by one lot, so that the order never holds more than it asked for
                cum, paid = cum - less, paid - less * px
                yield send(report("CORRECT", t, exec_id(), "PARTIALLY_FILLED", last_qty=piece - less, last_px=px, exec_ref_id=filled))
                truth.add("CORRECTED", instrument.symbol, -sign * Decimal(less).scaleb(-q))
        if cum < size:
            yield send(report("CANCELED", t + 20 * MS, state_id(), "CANCELED"))


def _average(paid: int, cum: int) -> int:
    """Return paid / cum with four more decimals, half to even; 0 for nothing."""
    if cum == 0:
        return 0
    quotient, rest = divmod(paid * 10_000, cum)
    return quotient + (2 * rest > cum or (2 * rest == cum and quotient % 2 == 1))
