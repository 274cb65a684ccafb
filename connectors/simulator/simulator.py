"""The simulator itself: routes orders, lets their histories happen, spoils and delays some messages, and hands all out in due order.

Pure and seeded: the same configuration gives the same bytes. No clock, no Kafka; command.py paces and sends.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass, field
from hashlib import sha256
from heapq import heappop, heappush
from random import Random

from connectors.simulator.damage import ANY_MESSAGE, ANY_REPORT, TRADES, damage
from connectors.simulator.faults import FAULTS, Dice
from connectors.simulator.history import MS, SECOND, Leg, Order, Venue, World, venue_of
from connectors.simulator.market import Market
from connectors.simulator.messages import (
    ACK,
    HOLD,
    QUOTE,
    REPORT,
    ROUTE,
    Message,
    Report,
    ack_bytes,
    date_of,
    decimal,
    hold_bytes,
    quote_bytes,
    report_bytes,
    route_bytes,
)
from schemas.reference import Reference

LEAD_NS = 500 * MS
"""Quotes alone, so that the first orders find an arrival price."""
TAIL_NS = 200 * MS
"""Quotes alone after the last message, so that the tape passes the last fill."""
DRAIN_NS = 30 * SECOND
"""Longer than what is under way takes to end: an order's life, then 8 s of delay, then 6 s to a hold decision."""

_TRANSPORT = ("reorder_report", "delay", "duplicate_exact", "duplicate_resend", "duplicate_feed")
_TRANSPORT_FILL = (*_TRANSPORT, "duplicate_fee", "duplicate_renumbered")
_LEFT_ALONE = {"conflict", "mismatch", "gap", "regression"}
_LOT_VALUE = 100
"""A lot is a power of ten of quantity units worth about this much."""
_SPOILED_REPORT = {
    (trade, carries): tuple(f for f in (TRADES if trade else ANY_REPORT) if carries or f != "correlation_conflict")
    for trade in (False, True)
    for carries in (False, True)
}
_SPOILED_QUOTE = tuple(f for f in ANY_MESSAGE if f != "oversize")  # its topic takes no more than 1 MiB


@dataclass(frozen=True)
class SimConfig:
    """What to simulate. `rate`: venue reports per second, spoiled and repeated ones included. `quotes_rate`: per instrument and second.

    `life_s`: mean time a resting order is worked. `faults`: name → rate, see faults.py. `slice_ns`: span of one batch.
    Raises ValueError naming every bad value.
    """

    seed: int = 1
    rate: float = 1_000.0
    start_ns: int = 1_767_225_600_000_000_000
    quotes_rate: float = 20.0
    life_s: float = 0.8
    legs_max: int = 3
    books: tuple[str, ...] = ("BOOK-1", "BOOK-2", "BOOK-3", "BOOK-4")
    faults: dict[str, float] = field(default_factory=dict)
    slice_ns: int = 5 * MS

    def __post_init__(self) -> None:
        problems = [
            f"{name} must be above 0" for name in ("rate", "quotes_rate", "life_s", "slice_ns", "legs_max") if getattr(self, name) <= 0
        ]
        if not 0 <= self.seed < 2**63:
            problems.append("seed must be from 0 to 2^63 - 1")
        if self.rate > 1e6 or self.quotes_rate > 1e5 or self.life_s > 60:
            problems.append("rate may be at most 1,000,000, quotes_rate 100,000, life_s 60")
        if not self.books:
            problems.append("books must name at least one book")
        problems += [f"fault {name!r} is not known" for name in self.faults if name not in FAULTS]
        problems += [f"fault {name!r} must have a rate from 0 to 1" for name, rate in self.faults.items() if not 0 <= rate <= 1]
        if problems:
            raise ValueError("simulator: " + "; ".join(problems))


class Simulator:
    """A market, an order system and the venues of the reference data. `sent` and `faults` count what was handed out and done so far.

    `over`: no more orders are routed, what is left is under way."""

    def __init__(self, config: SimConfig, reference: Reference) -> None:
        self.config = config
        self.reference = reference
        self.rng = Random(f"{config.seed}")
        self.dice = Dice(config.faults, self.rng)
        run = sha256(f"{config.seed}|{config.start_ns}".encode()).hexdigest()[:6]
        self.ids = Random(f"{config.seed}|{config.start_ns}")  # two runs of one seed must not share correlations
        interval = max(1, round(SECOND / config.quotes_rate))
        self.market = Market(reference.instruments, config.start_ns, interval, config.seed)
        venues = [venue_of(rules, i) for i, rules in enumerate(reference.venues)]
        self.world = World(reference, venues, self.market, self.rng, self.dice, run, int(config.life_s * SECOND))
        self.sent: Counter[str] = Counter()
        self.messages = 0
        self.over = False
        self._heap: list[tuple[int, int, Message]] = []
        self._order = 0
        self._reports = 0
        self._quote = [0] * len(reference.instruments)
        self._stopped = False
        self._accounts = sorted({a for v in reference.venues for a in v.accounts}) or ["ACC-1", "ACC-2"]
        self._at = {
            account: found
            for account in self._accounts
            if (found := [v for v in venues if not v.rules.accounts or account in v.rules.accounts])
        }
        self._accounts = sorted(self._at)
        self._lots = []
        for n, instrument in enumerate(reference.instruments):
            unit = self.market.quote(n, 0)[0] * instrument.multiplier
            self._lots.append(10 ** (len(str(_LOT_VALUE * 10 ** (instrument.px_scale + instrument.qty_scale) // unit)) - 1))

    @property
    def faults(self) -> Counter[str]:
        """Return how often each fault was committed."""
        return self.dice.counts

    @property
    def reports(self) -> int:
        """Return how many reports have been planned."""
        return self._reports

    def stop(self) -> None:
        """Route no more orders; what is under way is brought to its end."""
        self._stopped = True

    def steps(self, seconds: float | None = None, count: int | None = None) -> Iterator[list[Message]]:
        """Yield batches in due order, each of one slice of time, until orders have been routed for `seconds` or for `count` reports
        (or `stop` was called) and everything under way, however delayed, has been handed out."""
        config, heap = self.config, self._heap
        born = config.start_ns + LEAD_NS
        last = None if seconds is None else born + int(seconds * SECOND)
        end = config.start_ns
        open_until = 0
        while True:
            end += config.slice_ns
            while not self._stopped and born < end and (last is None or born < last) and (count is None or self._reports < count):
                before = self._reports
                self._route(born)
                born += max(1, int((self._reports - before) * SECOND / config.rate))
            over = self.over = self._stopped or (last is not None and born >= last) or (count is not None and self._reports >= count)
            if heap:
                open_until = end + TAIL_NS
            if over and not heap and end > open_until:
                return
            batch = []
            while heap and heap[0][0] < end:
                batch.append(heappop(heap)[2])
            batch += self._quotes(end)
            if batch:
                batch.sort(key=_due)
                self.messages += len(batch)
                for message in batch:
                    self.sent[message.topic] += 1
                yield batch
            self.market.forget(end)

    # --- what is sent --------------------------------------------------------------------------------------------------------------

    def _push(self, message: Message) -> None:
        self._order += 1
        if message.topic == REPORT:
            self._reports += 1
        heappush(self._heap, (message.due_ns, self._order, message))

    def _send(self, message: Message, faults: tuple[str, ...] = ANY_MESSAGE) -> None:
        """Send a good message: perhaps to the wrong partition, perhaps with a spoiled copy before it."""
        dice = self.dice
        if dice.hit("misrouted"):
            dice.counts["misrouted"] += 1
            message = message._replace(misrouted=True, fault=_join(message.fault, "misrouted"))
        self._push(message)
        fault = dice.one_of(faults)
        if fault:
            self._spoil(fault, message)

    def _spoil(self, fault: str, good: Message) -> None:
        self.dice.counts[fault] += 1
        value = damage(fault, good.topic, good.value, self.rng, self._name())
        due = good.due_ns - self.rng.randint(0, MS)
        self._push(Message(good.topic, good.key, value, due, good.kind, good.order, fault))

    def _name(self) -> str:
        return f"{self.world.run}-{self.world.number()}"

    def _route(self, at: int) -> None:
        """Route one order at time `at`, with everything that follows from it."""
        rng, dice, world = self.rng, self.dice, self.world
        n = rng.randrange(len(self.reference.instruments))
        instrument = self.reference.instruments[n]
        account = rng.choice(self._accounts)
        known = self._at[account]
        venues = rng.sample(known, min(rng.choice((1, 1, 1, 2, 2, 3)), len(known), self.config.legs_max))
        side = "BUY" if rng.random() < 0.5 else "SELL"
        size = self._lots[n] * max(len(venues) * 3, int(10 * rng.lognormvariate(2.0, 0.8)))
        tif = rng.choice(("DAY", "DAY", "DAY", "DAY", "GTC", "GTC", "GTC", "IOC", "IOC", "FOK"))
        bid, ask = self.market.touch(n, at)
        limit = -1
        if rng.random() < 0.6:
            limit = ask + ask // 100 if side == "BUY" else max(1, bid - bid // 100)
        correlation = self._uuid()
        order = Order(correlation, instrument, n, side, size, tif, account, rng.choice(self.config.books), limit, at, date_of(at))
        weights = [rng.uniform(0.5, 1.5) for _ in venues]
        legs: list[Leg] = []
        left = size
        for i, venue in enumerate(venues):
            qty = (
                left if i == len(venues) - 1 else max(self._lots[n], int(size * weights[i] / sum(weights)) // self._lots[n] * self._lots[n])
            )
            left -= qty
            leg = Leg(world, order, venue, i, qty, at + rng.randint(200_000, 2 * MS))
            leg.run()
            legs.append(leg)
        self._send_route(order, [(v.name, w / sum(weights)) for v, w in zip(venues, weights, strict=True)], (bid + ask) // 2, legs)
        for leg in legs:
            self._send_leg(leg)
        if dice.hit("unknown_order"):
            self._foreign(order, [v for v in known if v.rules.carries_client_order_id] or known, "unknown_order")
        if dice.hit("uncorrelated"):
            self._foreign(order, known, "uncorrelated")

    def _uuid(self) -> str:
        h = f"{self.ids.getrandbits(128):032x}"
        return f"{h[:8]}-{h[8:12]}-4{h[13:16]}-a{h[17:20]}-{h[20:]}"

    def _send_route(self, order: Order, plan: list[tuple[str, float]], mid: int, legs: list[Leg]) -> None:
        rng, dice, p = self.rng, self.dice, order.instrument.px_scale
        key, due, fault = order.correlation.encode(), order.route_ns, ""
        if dice.hit("reorder_route"):
            dice.counts["reorder_route"] += 1
            due += rng.randint(200 * MS, 3 * SECOND)
            fault = "reorder_route"
        decision = order.route_ns - rng.randint(100_000, 2 * MS)

        def render(side: str, size: int, ts_ns: int) -> bytes:
            limit = decimal(order.limit_px, p) if order.limit_px > 0 else ""
            quantity = decimal(size, order.instrument.qty_scale)
            return route_bytes(self._name(), order.correlation, ts_ns, order.instrument.symbol, side, quantity, order.tif, plan,
                               order.book, order.account, decision, decimal(mid, p), limit, rng.random())  # fmt: skip

        message = Message(ROUTE, key, render(order.side, order.size, due), due, "ROUTE", order.correlation, fault)
        self._send(message)
        if dice.hit("duplicate_route"):
            dice.counts["duplicate_route"] += 1
            self._push(message._replace(due_ns=due + rng.randint(MS, SECOND), fault="duplicate_route", misrouted=False))
        if dice.hit("conflicting_route"):
            dice.counts["conflicting_route"] += 1
            later = due + rng.randint(MS, SECOND)
            side = order.side if rng.random() < 0.5 else ("SELL" if order.side == "BUY" else "BUY")
            value = render(side, order.size * (2 if side == order.side else 1), later)
            self._push(Message(ROUTE, key, value, later, "ROUTE", order.correlation, "conflicting_route"))

    def _send_leg(self, leg: Leg) -> None:
        rng, dice, order = self.rng, self.dice, leg.order
        key, scale = order.correlation.encode(), order.instrument.qty_scale
        late = 0
        if leg.acks and dice.hit("reorder_ack"):
            dice.counts["reorder_ack"] += 1
            late = rng.randint(200 * MS, 3 * SECOND)
        for ack in leg.acks:
            due = ack.due_ns + late
            value = ack_bytes(self._name(), order.correlation, due, leg.venue.name, ack.client_id, ack.venue_order_id, ack.leg, ack.status,
                              decimal(ack.size, scale), ack.ack_ns)  # fmt: skip
            message = Message(ACK, key, value, due, ack.status, order.correlation, "reorder_ack" if late else "")
            self._send(message)
            if dice.hit("duplicate_ack"):
                dice.counts["duplicate_ack"] += 1
                self._push(message._replace(due_ns=due + rng.randint(MS, SECOND), fault="duplicate_ack", misrouted=False))
        self._disturb(leg)
        for report in leg.reports:
            if not report.withheld:
                self._send_report(report)
        for due in leg.decisions:
            value = hold_bytes(self._name(), order.correlation, due, "RELEASE" if rng.random() < 0.6 else "REJECT")
            self._send(Message(HOLD, key, value, due, "HOLD", order.correlation, "hold_decision"), ())

    def _send_report(self, report: Report) -> None:
        key = report.key.encode()
        message = Message(REPORT, key, report_bytes(report, self._name()), report.due_ns, report.kind, report.order, report.fault)
        if report.fault.startswith("duplicate"):
            self._push(message)
        else:
            self._send(message, _SPOILED_REPORT[report.kind == "TRADE", bool(report.correlation and report.client_id)])
        if report.again_ns:
            self._push(message._replace(due_ns=report.again_ns, fault="duplicate_exact"))

    def _disturb(self, leg: Leg) -> None:
        """Delay, reorder and repeat reports of a leg; repeats are appended to its reports."""
        rng, dice, reports = self.rng, self.dice, leg.reports
        fills = [r for r in reports if r.kind == "TRADE" and r.fault not in _LEFT_ALONE]
        new = next((r for r in reports if r.kind == "NEW"), None)
        if new is not None and fills and dice.hit("reorder_new"):
            dice.counts["reorder_new"] += 1
            new.due_ns, new.fault = fills[0].due_ns + rng.randint(MS, SECOND), "reorder_new"
        chained = {f.root_id for f in leg.fills if f.chained}
        if leg.skew_ns:
            for report in reports:
                report.fault = _join(report.fault, "clock_skew")
        copies: list[Report] = []
        for i, report in enumerate(reports):
            if report.fault.partition("+")[0] in _LEFT_ALONE:
                continue
            fault = dice.one_of(_TRANSPORT_FILL if report.kind == "TRADE" else _TRANSPORT)
            if not fault:
                continue
            if fault == "reorder_report":
                report.due_ns += rng.randint(50 * MS, 3 * SECOND)
                report.fault = _join(report.fault, fault)
            elif fault == "delay":
                held = report.due_ns + rng.randint(50 * MS, 2 * SECOND)
                for later in reports[i:]:
                    later.due_ns = max(later.due_ns, held)
                report.fault = _join(report.fault, fault)
            else:
                if not report.exec_id or report.exec_id == "0":
                    continue  # without an exec_id nobody could tell it from a new one
                if fault == "duplicate_renumbered" and (not report.match_id or report.exec_id in chained):
                    continue
                if fault == "duplicate_exact":
                    report.again_ns = report.due_ns + rng.randint(MS, 3 * SECOND)
                else:
                    copies.append(self._copy(report, fault, leg.venue))
            dice.counts[fault] += 1
        reports += copies

    def _copy(self, report: Report, fault: str, venue: Venue) -> Report:
        rng, other = self.rng, copy(report)
        other.fault = fault
        other.due_ns = report.due_ns + rng.randint(MS, 3 * SECOND)
        if fault == "duplicate_resend":
            if rng.random() < 0.5 or venue.precision_ns >= MS:  # a new number would upset the order of events of one time
                other.flags = f'"poss_dup":true,"orig_sent_ts_ns":{report.event_ns},"sent_ts_ns":{report.event_ns},'
            else:
                other.flags, other.seq = '"poss_resend":true,', self.world.seq(venue.name)
        elif fault == "duplicate_feed":
            other.source, other.session = venue.other_source, ""
            other.due_ns = report.due_ns + rng.randint(-MS, 500 * MS)
            if rng.random() < 0.5:
                other.fee_ccy = other.liquidity = ""
        elif fault == "duplicate_fee":
            report.fee_ccy = report.liquidity = ""
        elif fault == "duplicate_renumbered":
            other.exec_id = f"R{other.exec_id}"
        return other

    def _foreign(self, order: Order, venues: list[Venue], fault: str) -> None:
        """An order of the venue's own making, or one made by telephone: no route, no acknowledgement."""
        stranger = copy(order)
        stranger.correlation = self._uuid()
        leg = Leg(self.world, stranger, self.rng.choice(venues), 0, order.size, order.route_ns, external=True)
        leg.run_external()
        self.dice.counts[fault] += 1
        for report in leg.reports:
            report.fault = fault
            if fault == "unknown_order":
                report.source, report.correlation = "MANUAL", stranger.correlation
            else:
                report.correlation = report.client_id = report.leg = ""
            self._send_report(report)

    def _quotes(self, end: int) -> list[Message]:
        rng, market, out = self.rng, self.market, []
        for n, instrument in enumerate(self.reference.instruments):
            k = self._quote[n]
            event = market.first_ns[n] + k * market.interval_ns
            while event < end:
                bid, ask = market.quote(n, k)
                p, q, lot = instrument.px_scale, instrument.qty_scale, self._lots[n]
                roll = rng.random()
                name = f"{self.world.run}-{instrument.symbol}-{k}"
                due = event + MS // 2
                value = quote_bytes(
                    name,
                    due,
                    instrument.symbol,
                    "" if roll < 0.0005 else decimal(bid, p),
                    "" if 0.0005 <= roll < 0.001 else decimal(ask, p),
                    decimal(lot * rng.randrange(1, 500), q),
                    decimal(lot * rng.randrange(1, 500), q),
                    event,
                    0.5 if roll > 0.998 else 1.0,
                )
                out.append(Message(QUOTE, instrument.symbol.encode(), value, due, "QUOTE"))
                fault = self.dice.one_of(_SPOILED_QUOTE)
                if fault:
                    self.dice.counts[fault] += 1
                    out.append(Message(QUOTE, instrument.symbol.encode(), damage(fault, QUOTE, value, rng, name), due, "QUOTE", "", fault))
                k += 1
                event += market.interval_ns
            self._quote[n] = k
        return out


def _due(message: Message) -> int:
    return message.due_ns


def _join(first: str, second: str) -> str:
    return f"{first}+{second}" if first else second
