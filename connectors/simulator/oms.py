"""The order agent and the venues it sends hedges to: takes cover intents and requests, answers with events, and lets fills come as venues report them.

Knows what order agents do wrong: answers that never come, refusals, partial fills, a channel that is down. Executes nothing twice (an order_id is
executed once, whatever comes again). May not decide what to hedge. Virtual time, seeded; what becomes of an order depends on its id and the market, not
on what else is under way, but for the size others took from the book a moment before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from random import Random
from typing import Literal

from connectors.simulator.factors import FactorMarket
from connectors.simulator.history import World
from connectors.simulator.messages import (
    ACK,
    REPORT,
    ROUTE,
    Message,
    Report,
    ack_bytes,
    date_of,
    decimal,
    json_bytes,
    report_bytes,
    route_bytes,
)
from schemas.fields import decimal_parts
from schemas.hedging import CoverLeg, CoverMessage, HedgeRequest, HedgeRequestMessage
from schemas.parse import parse

COVER = "hedger.intent.cover"
REQUEST = "hedger.request.order.v1"
HEDGE_EVENT = "order.event.hedge.v1"
CHANNEL = "order.channel.status.v1"

MS = 1_000_000
SECOND = 1_000_000_000
RETRIES = 3
_PARTIAL = "PARTIALLY_FILLED"

State = Literal["HELD", "WORKING", "DONE", "CANCELED", "EXPIRED", "REJECTED"]


@dataclass(frozen=True)
class Outage:
    """A time in which the channel to a venue is down: nothing is answered, what happens at the venue is told afterwards."""

    venue: str
    from_ns: int
    to_ns: int


@dataclass(frozen=True)
class OmsRules:
    """How the order agent and its venues behave. Latencies are (least, most) in ns; rates are shares of orders.

    refuse_rate: refused by the venue. lost_ack_rate: no answer until asked. partial_rate: an IOC order finds less than it looked for. bust_rate: of
    fills. unknown_rate: of first questions. impact_bps: by symbol, cost of an order as large as the touch; grows with the square root of size.
    depth: how many touch sizes an order can take at once. used_half_life_ns: how fast the book fills up again after one.
    """

    agent_ns: tuple[int, int] = (1 * MS, 4 * MS)
    venue_ns: tuple[int, int] = (3 * MS, 15 * MS)
    report_ns: tuple[int, int] = (2 * MS, 12 * MS)
    event_ns: tuple[int, int] = (3 * MS, 20 * MS)
    refuse_rate: float = 0.003
    lost_ack_rate: float = 0.005
    partial_rate: float = 0.02
    bust_rate: float = 0.0
    unknown_rate: float = 0.1
    impact_bps: dict[str, float] = field(default_factory=dict)
    usual_impact_bps: float = 0.6
    depth: float = 8.0
    used_half_life_ns: int = 2 * SECOND
    work_ns: tuple[int, int] = (80 * MS, 400 * MS)
    detect_ns: int = 800 * MS
    back_off_ns: int = 200 * MS


@dataclass(slots=True)
class HedgeOrder:
    """One leg as the order agent has it. size = filled + open + gone at all times; quantities in the instrument's units.

    `silent`: its answer was lost, and nothing is told until somebody asks.
    """

    hedge_id: str
    order_id: str
    book: str
    account: str
    instrument: int
    venue: str
    side: str
    size: int
    limit_px: int
    tif: str
    decided_ns: int
    expires_ns: int
    rng: Random
    state: State = "HELD"
    filled: int = 0
    gone: int = 0
    silent: bool = False
    reason: str = ""
    venue_order_id: str = ""
    told: int = 0
    notional: int = 0
    """Sum of price times quantity, both in units."""
    last_event_ns: int = 0
    last_report_ns: int = 0
    last_told_ns: int = 0

    @property
    def open(self) -> int:
        """Return what may still be filled."""
        return self.size - self.filled - self.gone

    @property
    def ended(self) -> bool:
        """Return whether nothing will be filled any more."""
        return self.state not in ("HELD", "WORKING")


class OrderAgent:
    """The order agent and its venues. `orders` by order_id is the truth; `counts` says what came and what was done."""

    def __init__(self, world: World, market: FactorMarket, rules: OmsRules, outages: tuple[Outage, ...], seed: int, start_ns: int) -> None:
        self.world = world
        self.market = market
        self.rules = rules
        self.outages = outages
        self.orders: dict[str, HedgeOrder] = {}
        self.counts: Counter[str] = Counter()
        self.positions: Counter[tuple[str, int]] = Counter()
        """Filled hedges by (book, instrument), signed units."""
        self._seed = seed
        self._never: set[str] = set()
        self._venues = {v.name: v for v in world.venues}
        self._place = {i.symbol: n for n, i in enumerate(world.reference.instruments)}
        self._used: dict[int, tuple[float, int]] = {}
        self._heap: list[tuple[int, int, Message | Callable[[], None]]] = []
        self._pushed = 0
        self._named = 0
        self._now = start_ns
        for venue in self._venues:
            self._status(venue, "UP", start_ns, start_ns)
        for outage in outages:
            if outage.venue not in self._venues:
                raise ValueError(f"outage: venue {outage.venue!r} is not in the reference data")
            self._status(outage.venue, "DOWN", outage.from_ns, min(outage.from_ns + rules.detect_ns, outage.to_ns))
            self._status(outage.venue, "UP", outage.to_ns, outage.to_ns + 20 * MS)

    # --- what comes in --------------------------------------------------------------------------------------------------------------

    def receive(self, topic: str, value: bytes, now_ns: int) -> None:
        """Take a record of `hedger.intent.cover` or `hedger.request.order.v1`; what cannot be read is counted and left."""
        self._now = max(self._now, now_ns)
        if topic == COVER:
            cover = parse(CoverMessage, value)
            if isinstance(cover, tuple):
                self.counts["unreadable"] += 1
            elif cover.sender != "agent.hedger":
                self.counts["not_from_hedger"] += 1
            else:
                self._cover(cover)
        elif topic == REQUEST:
            request = parse(HedgeRequestMessage, value)
            if isinstance(request, tuple):
                self.counts["unreadable"] += 1
            else:
                self.counts[request.payload.action.lower()] += 1
                self._later(self.rules.agent_ns, Random(value), lambda: self._asked(request.payload))

    def advance(self, until_ns: int) -> list[Message]:
        """Let everything happen that is due before `until_ns`; return what is sent, in due order."""
        out: list[Message] = []
        heap = self._heap
        while heap and heap[0][0] < until_ns:
            due, _, what = heappop(heap)
            if isinstance(what, Message):
                out.append(what)
            else:
                self._now = max(self._now, due)
                what()
        self._now = max(self._now, until_ns)
        return out

    def next_ns(self) -> int | None:
        """Return when something is due next, None for never."""
        return self._heap[0][0] if self._heap else None

    def down(self, venue: str, ts_ns: int) -> Outage | None:
        """Return the outage of a venue at a time, if there is one."""
        return next((o for o in self.outages if o.venue == venue and o.from_ns <= ts_ns < o.to_ns), None)

    def _cover(self, cover: CoverMessage) -> None:
        self.counts["covers"] += 1
        known = [leg for leg in cover.payload.legs if leg.order_id in self.orders]
        if known:
            self.counts["covers_repeated"] += 1
        for leg in cover.payload.legs:
            if leg.order_id in self.orders:
                self.counts["legs_repeated"] += 1
                continue
            order = self._order(cover, leg)
            self.orders[leg.order_id] = order
            self.counts["legs"] += 1
            if order.ended or leg.order_id in self._never:
                order.state, order.reason, order.gone = "REJECTED", order.reason or "asked for before it came", order.size
                self.counts["legs_impossible"] += 1
                self._tell(order)
            else:
                order.silent = order.rng.random() < self.rules.lost_ack_rate
                self._later(self.rules.agent_ns, order.rng, self._doing(self._route, order))

    def _order(self, cover: CoverMessage, leg: CoverLeg) -> HedgeOrder:
        """Return the order of a leg; one that cannot be sent as it is has ended as REJECTED, with the reason."""
        payload = cover.payload
        n = self._place.get(leg.instrument, -1)
        size = limit = -1
        reason = "" if n >= 0 else "the instrument is not known"
        if not reason:
            instrument = self.world.reference.instruments[n]
            size = _scaled(leg.size, instrument.qty_scale)
            limit = -1 if leg.limit_px is None else _scaled(leg.limit_px, instrument.px_scale)
            if size < 0 or (leg.limit_px is not None and limit < 0):
                reason = "more decimals than the instrument allows"
            elif leg.venue not in self._venues:
                reason = "the venue is not known"
        order = HedgeOrder(
            payload.hedge_id, leg.order_id, payload.book, f"HEDGE-{payload.book}", n, leg.venue, leg.side, max(size, 0), limit,
            leg.time_in_force, payload.decision_ts_ns, payload.expires_ns, Random(f"{self._seed}|{leg.order_id}"),
        )  # fmt: skip
        if reason:
            order.state, order.reason = "REJECTED", reason
        order.venue_order_id = f"{self.world.run}-H{self._next():X}"
        return order

    def _asked(self, request: HedgeRequest) -> None:
        order = self.orders.get(request.order_id)
        if order is None:
            self._never.add(request.order_id)
            self.counts["asked_unknown"] += 1
            self._say(
                request.hedge_id, request.order_id, request.book, request.instrument, "REJECTED", "0", "no such order", request.attempt
            )
            return
        if self.down(order.venue, self._now):
            self.counts["asked_in_vain"] += 1
            return
        order.silent = False
        if request.action == "CANCEL" and not order.ended:
            self._later(self.rules.venue_ns, order.rng, lambda: self._cancel(order))
        elif order.state == "HELD" or (request.action == "QUERY" and request.attempt == 1 and order.rng.random() < self.rules.unknown_rate):
            self.counts["cannot_tell"] += 1
            self._tell(order, "UNKNOWN", "no answer from the venue yet")
        else:
            self._tell(order)

    # --- an order's life ------------------------------------------------------------------------------------------------------------

    def _route(self, order: HedgeOrder) -> None:
        instrument = self.world.reference.instruments[order.instrument]
        touch = self.market.book(order.instrument, min(order.decided_ns, self._now))
        p = instrument.px_scale
        due = self._now
        value = route_bytes(
            self._name(order), order.order_id, due, instrument.symbol, order.side, decimal(order.size, instrument.qty_scale), order.tif,
            [(order.venue, 1.0)], order.book, order.account, order.decided_ns, decimal((touch.bid + touch.ask) // 2, p),
            decimal(order.limit_px, p) if order.limit_px > 0 else "", 0.0,
        )  # fmt: skip
        self._push(Message(ROUTE, order.order_id.encode(), value, due, "ROUTE", order.order_id))
        self._submit(order, 0)

    def _submit(self, order: HedgeOrder, attempt: int) -> None:
        if order.ended:
            return
        if self._now >= order.expires_ns:
            self._end(order, "EXPIRED", "expired before it was sent", told_by_venue=False)
        elif self.down(order.venue, self._now) is None:
            self._later(self.rules.venue_ns, order.rng, self._doing(self._arrive, order))
        elif attempt < RETRIES:
            self.counts["retries"] += 1
            wait = int(self.rules.back_off_ns * 2**attempt * (1 + order.rng.random() / 2))
            self._at(self._now + wait, lambda: self._submit(order, attempt + 1))
        else:
            self.counts["given_up"] += 1
            self._end(order, "REJECTED", "the channel is down", told_by_venue=False)

    def _arrive(self, order: HedgeOrder) -> None:
        if order.ended:
            return
        outage = self.down(order.venue, self._now)
        if outage is not None and order.rng.random() < 0.5:
            self.counts["lost_in_channel"] += 1
            self._at(outage.to_ns, lambda: self._end(order, "REJECTED", "it never reached the venue", told_by_venue=False))
            return
        order.state = "WORKING"
        if order.rng.random() < self.rules.refuse_rate:
            self.counts["refused"] += 1
            self._end(order, "REJECTED", "price exceeds current band")
            return
        self._report(order, "NEW")
        self._ack(order, "ACKED")
        if order.silent:
            self.counts["acks_lost"] += 1
        self._tell(order)
        if order.tif in ("GTC", "DAY"):
            self._at(max(order.expires_ns, self._now), lambda: self._expire(order))
        self._match(order)

    def _match(self, order: HedgeOrder) -> None:
        """Take what the book gives: at once for IOC and FOK, slice by slice for the others."""
        if order.ended:
            return
        quick = order.tif in ("IOC", "FOK")
        room = min(order.open, self._capacity(order))
        if order.tif == "FOK":
            room = room if room >= order.open else 0
        elif order.tif == "IOC" and order.rng.random() < self.rules.partial_rate:
            room = int(room * order.rng.uniform(0.3, 0.9))
        elif not quick:
            room = min(room, max(1, int(self._touch_size(order) * order.rng.uniform(0.5, 1.5))))
        pieces = 1 if order.tif == "FOK" else order.rng.choice((1, 1, 2, 3))
        for piece in range(pieces, 0, -1):
            part = room if piece == 1 else min(room, room // piece + 1)
            if part > 0:
                self._fill(order, part)
                room -= part
        if order.open == 0:
            self._end(order, "DONE", "")
        elif quick:
            self._end(order, "CANCELED", "no more to be had at once")
        else:
            self._later(self.rules.work_ns, order.rng, self._doing(self._match, order))

    def _expire(self, order: HedgeOrder) -> None:
        if not order.ended:
            self._end(order, "EXPIRED", "time in force")

    def _cancel(self, order: HedgeOrder) -> None:
        if order.ended:
            self._tell(order)
        else:
            self.counts["canceled_on_request"] += 1
            self._end(order, "CANCELED", "as asked", told_by_venue=order.state == "WORKING")

    def _end(self, order: HedgeOrder, state: State, reason: str, *, told_by_venue: bool = True) -> None:
        if order.ended:
            return
        order.state, order.reason, order.gone = state, reason, order.size - order.filled
        self.counts[f"ended_{state.lower()}"] += 1
        if told_by_venue and state != "DONE":
            self._report(order, state)
            if state in ("CANCELED", "REJECTED"):
                self._ack(order, state)
        self._tell(order)

    # --- the venue's book -----------------------------------------------------------------------------------------------------------

    def _impact(self, order: HedgeOrder) -> float:
        symbol = self.world.reference.instruments[order.instrument].symbol
        return self.rules.impact_bps.get(symbol, self.rules.usual_impact_bps)

    def _touch_size(self, order: HedgeOrder) -> int:
        touch = self.market.book(order.instrument, self._now)
        return touch.ask_size if order.side == "BUY" else touch.bid_size

    def _used_now(self, instrument: int) -> float:
        """Return the size taken from the book that has not come back yet."""
        size, at = self._used.get(instrument, (0.0, self._now))
        return float(size * 0.5 ** ((self._now - at) / self.rules.used_half_life_ns))

    def _capacity(self, order: HedgeOrder) -> int:
        """Return how much can be had now within the order's limit."""
        touch, size = self.market.book(order.instrument, self._now), self._touch_size(order)
        most = self.rules.depth * size
        if order.limit_px > 0:
            side, px = (1, touch.ask) if order.side == "BUY" else (-1, touch.bid)
            room_bps = side * (order.limit_px - px) / px * 1e4
            if room_bps < 0:
                return 0
            most = min(most, size * (room_bps / max(self._impact(order), 1e-9)) ** 2 + 1)
        return max(0, int(most - self._used_now(order.instrument)))

    def _fill(self, order: HedgeOrder, qty: int) -> None:
        touch, size = self.market.book(order.instrument, self._now), self._touch_size(order)
        used = self._used_now(order.instrument)
        self._used[order.instrument] = (used + qty, self._now)
        bps = self._impact(order) * ((used + qty / 2) / size) ** 0.5
        side, px = (1, touch.ask) if order.side == "BUY" else (-1, touch.bid)
        px = max(1, px + side * round(px * bps * 1e-4))
        if order.limit_px > 0:  # the touch may have been rounded past what the limit allows by a unit
            px = min(px, order.limit_px) if side > 0 else max(px, order.limit_px)
        order.filled += qty
        order.notional += qty * px
        self.positions[order.book, order.instrument] += side * qty
        self.counts["fills"] += 1
        exec_id = f"{self.world.run}-F{self._next():x}"
        report = self._report(order, "TRADE", exec_id, qty, px)
        if order.rng.random() < self.rules.bust_rate:
            self._at(self._now + order.rng.randint(SECOND, 5 * SECOND), lambda: self._bust(order, exec_id, report))

    def _bust(self, order: HedgeOrder, exec_id: str, report: Report) -> None:
        if not order.ended:  # once all is told: a bust in between would reopen the order
            self._at(self._now + SECOND, lambda: self._bust(order, exec_id, report))
            return
        order.filled -= report.last_qty
        order.gone += report.last_qty
        order.notional -= report.last_qty * report.last_px
        self.positions[order.book, order.instrument] -= (1 if order.side == "BUY" else -1) * report.last_qty
        self.counts["busts"] += 1
        self._report(order, "BUST", f"{self.world.run}-B{self._next():x}", report.last_qty, report.last_px, exec_id)
        self._tell(order)

    # --- what goes out --------------------------------------------------------------------------------------------------------------

    def _report(self, order: HedgeOrder, kind: str, exec_id: str = "", qty: int = -1, px: int = -1, ref: str = "") -> Report:
        instrument, venue = self.world.reference.instruments[order.instrument], self._venues[order.venue]
        status = (
            order.state
            if order.ended and order.state != "DONE"
            else "FILLED"
            if order.filled >= order.size
            else _PARTIAL
            if order.filled
            else "NEW"
        )
        order.last_event_ns = event_ns = max(self._now, order.last_event_ns + 1)
        due = event_ns + self._between(self.rules.report_ns, order.rng)
        report = Report(
            kind, order.venue, venue.source, order.account, instrument.symbol, instrument.px_scale, instrument.qty_scale, order.side,
            date_of(order.decided_ns), event_ns, due, 1, self.world.seq(order.venue), f"{order.venue}-1", status, order.order_id, order.order_id,
            order.order_id.replace("-", ""), "", order.venue_order_id, "", exec_id, ref, order_qty=order.size, last_qty=qty, last_px=px,
            cum_qty=order.filled, leaves_qty=0 if order.ended else order.open,
            avg_px=(order.notional * 20_000 // order.filled + 1) // 2 if order.filled else 0, liquidity="TAKER" if kind == "TRADE" else "",
        )  # fmt: skip
        order.last_report_ns = report.due_ns = max(
            self._answered(order.venue, due), order.last_report_ns
        )  # one session, one order of things
        value = report_bytes(report, self._name(order))
        self._push(Message(REPORT, order.order_id.encode(), value, report.due_ns, kind, order.order_id))
        return report

    def _ack(self, order: HedgeOrder, status: str) -> None:
        due = self._answered(order.venue, self._now + self._between(self.rules.event_ns, order.rng))
        scale = self.world.reference.instruments[order.instrument].qty_scale
        value = ack_bytes(self._name(order), order.order_id, due, order.venue, order.order_id.replace("-", ""), order.venue_order_id, "",
                          status, decimal(order.size, scale), self._now)  # fmt: skip
        self._push(Message(ACK, order.order_id.encode(), value, due, status, order.order_id))

    def _tell(self, order: HedgeOrder, status: str = "", reason: str = "") -> None:
        """Tell the hedger how an order stands, unless its answers are lost."""
        if order.silent:
            return
        symbol = self.world.reference.instruments[order.instrument].symbol if order.instrument >= 0 else "UNKNOWN"
        scale = self.world.reference.instruments[order.instrument].qty_scale if order.instrument >= 0 else 0
        status = status or ("ACKED" if order.state == "WORKING" else order.state)
        order.told += 1
        self._say(
            order.hedge_id,
            order.order_id,
            order.book,
            symbol,
            status,
            decimal(order.filled, scale),
            reason or order.reason,
            order.told,
            order,
        )

    def _say(
        self,
        hedge_id: str,
        order_id: str,
        book: str,
        symbol: str,
        status: str,
        filled: str,
        reason: str,
        number: int,
        order: HedgeOrder | None = None,
    ) -> None:
        due = self._now + self._between(self.rules.event_ns, order.rng if order else Random(f"{order_id}|{number}"))
        if order is not None and order.venue in self._venues:
            order.last_told_ns = due = max(self._answered(order.venue, due), order.last_told_ns)
        payload = {"hedge_id": hedge_id, "order_id": order_id, "book": book, "instrument": symbol, "status": status, "filled_size": filled}
        payload |= {"reason": reason} if reason else {}
        value = json_bytes(HEDGE_EVENT, f"{order_id}|{number}", due, "order", {**payload, "event_ts_ns": self._now})
        self._push(Message(HEDGE_EVENT, book.encode(), value, due, status, order_id))

    def _status(self, venue: str, status: str, since_ns: int, due_ns: int) -> None:
        payload = {"venue": venue, "status": status, "since_ns": since_ns}
        value = json_bytes(CHANNEL, f"{self.world.run}|{venue}|{status}|{since_ns}", due_ns, "order", payload)
        self._push(Message(CHANNEL, venue.encode(), value, due_ns, status))

    def _answered(self, venue: str, due_ns: int) -> int:
        """Return when a venue's word gets through: in order after the outage, if there is one."""
        outage = self.down(venue, due_ns)
        return due_ns if outage is None else outage.to_ns + 50 * MS + (due_ns - outage.from_ns) // 1000

    def _next(self) -> int:
        self._named += 1
        return self._named

    def _name(self, order: HedgeOrder) -> str:
        return f"{self.world.run}-{order.order_id[:8]}-{self._next()}"

    def _push(self, what: Message) -> None:
        self._pushed += 1
        heappush(self._heap, (what.due_ns, self._pushed, what))

    def _at(self, due_ns: int, action: Callable[[], None]) -> None:
        self._pushed += 1
        heappush(self._heap, (due_ns, self._pushed, action))

    def _later(self, span: tuple[int, int], rng: Random, action: Callable[[], None]) -> None:
        self._at(self._now + self._between(span, rng), action)

    @staticmethod
    def _doing(step: Callable[[HedgeOrder], None], order: HedgeOrder) -> Callable[[], None]:
        return lambda: step(order)

    @staticmethod
    def _between(span: tuple[int, int], rng: Random) -> int:
        return rng.randint(*span)


def _scaled(text: str, scale: int) -> int:
    """Return a decimal string in units of 10^-scale, -1 when it does not fit them."""
    mantissa, digits = decimal_parts(text)
    return mantissa * 10 ** (scale - digits) if digits <= scale else -1
