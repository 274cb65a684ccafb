"""What happens to one order at one venue: acknowledgements and execution reports, with the totals the venue itself would print.

Written from the venue's side (reconciliation §3 and the golden matrices). Without faults a history closes: the sum of the fills is the
last cumulative quantity. May not decide what the flow makes of it.
"""

from __future__ import annotations

import json
from copy import copy
from dataclasses import dataclass, field
from random import Random

from connectors.simulator.faults import Dice
from connectors.simulator.market import Touches
from connectors.simulator.messages import Report, next_date
from schemas.reference import Instrument, Reference, VenueRules

MS = 1_000_000
SECOND = 1_000_000_000
AVG_DECIMALS = 4
"""Decimals of the printed average price beyond px_scale."""

_CANCEL_TEXTS = [
    json.dumps(t, ensure_ascii=False)
    for t in ("Unsolicited", 'by "desk 7"', "back\\slash\tand tab", "Auftrag gelöscht – späte Order", "取消 ✓")
]
_TAKER_TENTH_BPS = 50
_MAKER_TENTH_BPS = -10


@dataclass(frozen=True)
class Venue:
    """A venue and its habits. `match_field`: where it prints the id both sides of a trade share, empty for nowhere."""

    rules: VenueRules
    source: str
    other_source: str
    precision_ns: int
    latency_ns: int
    match_field: str
    state_exec_ids: bool
    attributes: str

    @property
    def name(self) -> str:
        """Return its name."""
        return self.rules.name


_SOURCES = (("FIX_DROP_COPY", "FIX_ORDER"), ("WEBSOCKET", "REST_POLL"), ("REST_CALLBACK", "REST_POLL"), ("FIX_ORDER", "FIX_DROP_COPY"))
_PRECISION = (1, MS, 1_000, 1)


def venue_of(rules: VenueRules, index: int) -> Venue:
    """Return the habits of the reference data's `index`-th venue: what its rules imply, the rest by position."""
    source, other = _SOURCES[index % 4]
    if not rules.carries_client_order_id or "O" in rules.key:
        match = ""
    else:
        match = "secondary_exec_id" if rules.ref_style == "ROOT" else "trade_match_id"
    return Venue(
        rules,
        source,
        other,
        _PRECISION[index % 4],
        (1 + index % 4) * MS,
        match,
        state_exec_ids="O" not in rules.key,
        attributes='{"lastMkt":"XSIM","algo":{"id":7,"tags":["a","b"]}}' if rules.ref_style == "ROOT" else "",
    )


@dataclass(slots=True)
class World:
    """What all histories share: the market, the dice, and the counters ids are made of."""

    reference: Reference
    venues: list[Venue]
    market: Touches
    rng: Random
    dice: Dice
    run: str
    """Six hex digits that tell this run's ids from another's."""
    life_ns: int
    counter: int = 0
    seqs: dict[str, int] = field(default_factory=dict)
    crossed: dict[tuple[str, str, str, str], Report] = field(default_factory=dict)
    """The last fill of (venue, account, symbol, side): the other side of a self-trade carries its exec_id."""

    def number(self) -> int:
        """Return the next number of the run."""
        self.counter += 1
        return self.counter

    def seq(self, venue: str) -> int:
        """Return the venue session's next sequence number."""
        value = self.seqs[venue] = self.seqs.get(venue, 0) + 1
        return value


@dataclass(slots=True)
class Order:
    """A routed order. `size` in quantity units, `limit_px` in price units (-1 for a market order)."""

    correlation: str
    instrument: Instrument
    index: int
    side: str
    size: int
    tif: str
    account: str
    book: str
    limit_px: int
    route_ns: int
    trade_date: int


@dataclass(slots=True)
class Fill:
    """One fill and what became of it: `qty` 0 once busted, `last_id` the newest link of its chain."""

    root_id: str
    last_id: str
    qty: int
    px: int
    report: Report
    chained: bool = False


@dataclass(slots=True)
class Ack:
    """An acknowledgement before it is written."""

    due_ns: int
    ack_ns: int
    client_id: str
    leg: str
    venue_order_id: str
    status: str
    size: int


class Leg:
    """One venue order from its birth to its end; `reports` and `acks` are in the order they happened."""

    def __init__(self, world: World, order: Order, venue: Venue, index: int, qty: int, start_ns: int, external: bool = False) -> None:
        self.world, self.order, self.venue = world, order, venue
        self.rng, self.dice = world.rng, world.dice
        self.index = index
        self.external = external
        self.order_qty = qty
        self.cum = 0
        self.fills: list[Fill] = []
        self.reports: list[Report] = []
        self.acks: list[Ack] = []
        self.decisions: list[int] = []
        self.ended = ""
        self.trade_date = order.trade_date
        self.nights = 0
        self.t = start_ns
        self.skew_ns = 0
        if self.dice.hit("clock_skew"):
            self.skew_ns = venue.latency_ns + int(self.rng.random() * 1.3 * SECOND)
            self.dice.counts["clock_skew"] += 1
        n = world.number()
        self.venue_order_id = f"{int(world.run, 16)}{n:09d}" if "O" in venue.rules.key else f"{world.run}-{n:X}"
        self.requests = 0
        self.suffix = str(index)
        self.client_id = f"{order.correlation.replace('-', '')}-{index}"
        self.last_due = 0
        self.last_event = 0

    # --- the course of events ------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Let the order live its life."""
        rng = self.rng
        carries = self.venue.rules.carries_client_order_id
        if carries and rng.random() < 0.05:
            self._emit("PENDING_NEW", status="PENDING_NEW")
        self._wait(0.3 * MS)
        if rng.random() < 0.02:
            self.ended = "REJECTED"
            self._emit("REJECTED", text='"Price exceeds current band"')
            self._ack("REJECTED", known=not carries)  # elsewhere a refused order gets no id of the venue
            return
        self._emit("NEW", limit=True)
        self._ack("ACKED")
        if rng.random() < 0.01:
            self._emit("TRIGGERED")
        if rng.random() < 0.005:
            guarantee = self._emit("STOPPED", status="STOPPED")
            guarantee.last_qty, guarantee.last_px = min(self.order_qty, 1), self._price(True)  # a guarantee, not a fill (D37)
        self._trade()
        self._finish()

    def run_external(self) -> None:
        """Let the venue, or a person at a telephone, make an order of its own: NEW and a fill."""
        self._emit("NEW")
        self._wait(2 * MS)
        self._fill(self.order_qty)

    def _trade(self) -> None:
        rng, order, dice = self.rng, self.order, self.dice
        quick = order.tif in ("IOC", "FOK")
        complete = rng.random() < (0.6 if quick else 0.65)
        if order.tif == "FOK":
            pieces = 1 if complete else 0
        else:
            pieces = rng.choice((1, 1, 2, 2, 3, 4, 5)) if complete or rng.random() < 0.7 else 0
        chain_at = {name: (rng.randrange(max(1, pieces)), rng.random() < 0.5) for name in ("bust", "correct") if dice.hit(name)}
        replace_at = rng.randrange(pieces) if pieces and not quick and rng.random() < 0.12 else -1
        cross_at = rng.randrange(pieces) if pieces and not quick and dice.hit("replace_crossing") else -1
        night_at = rng.randrange(pieces) if pieces > 1 and order.tif == "GTC" and rng.random() < 0.1 else -1
        later: list[tuple[str, Fill]] = []
        for piece in range(pieces):
            self._wait(0.05 * MS if quick else self.world.life_ns / pieces)
            if piece == replace_at:
                self._replace(crossing=False)
            if piece == cross_at:
                self._replace(crossing=True)
            if piece == night_at:
                self._night()
            left = self.order_qty - self.cum
            if left <= 0:
                break
            last = complete and piece == pieces - 1
            fill = self._fill(left if last else min(left, max(1, int(left * rng.uniform(0.15, 0.6)))))
            for name, (at, now) in chain_at.items():
                if at == piece:
                    if now:
                        self._chain(name, fill)
                    else:
                        later.append((name, fill))
            if rng.random() < 0.03:
                self._status()
            if rng.random() < 0.02:
                self._cancel(rejected=True)
        self._end(quick)
        for name, fill in later:
            self._wait(self.world.life_ns / 2)
            self._chain(name, fill)

    def _end(self, quick: bool) -> None:
        rng, order = self.rng, self.order
        left = self.order_qty - self.cum
        if left <= 0:
            return
        self._wait(0.05 * MS if quick else self.world.life_ns / 4)
        roll = rng.random()
        if quick:
            self.ended = "CANCELED" if roll < 0.8 else "EXPIRED"
            self._emit(self.ended)
        elif order.tif == "GTC" and self.nights == 0 and self.fills and not any(f.chained for f in self.fills) and self.dice.hit("split"):
            self._split()
            self._cancel()
        elif roll < 0.6:
            self._cancel()
        elif roll < 0.75:
            self.ended = "EXPIRED"
            self._emit("EXPIRED")
        elif roll < 0.9 and order.tif == "DAY":
            self.ended = "DONE_FOR_DAY"
            self._emit("DONE_FOR_DAY")
        # else it stays open

    def _finish(self) -> None:
        """Let the faults of the whole leg happen, once its own story is told."""
        dice, rng = self.dice, self.rng
        if self.ended == "CANCELED" and self.order_qty > self.cum and dice.hit("late_fill"):
            self._wait(20 * MS)
            self._fill(rng.randint(1, self.order_qty - self.cum)).report.fault = "late_fill"
            dice.counts["late_fill"] += 1
        if self.cum >= self.order_qty > 0 and dice.hit("overfill"):
            self._wait(20 * MS)
            fill = self._fill(max(1, self.order_qty // 10))
            fill.report.fault = "overfill"
            dice.counts["overfill"] += 1
            if rng.random() < 0.5:
                self._wait(400 * MS)
                self._link("BUST", fill, 0, 0).fault = "overfill"
        plain = [f for f in self.fills if not f.chained and f.qty > 0 and not f.report.fault]
        if plain and dice.hit("conflict"):
            fill = rng.choice(plain)
            other = copy(fill.report)
            other.last_px += 1 + rng.randrange(5)
            other.due_ns += rng.randint(1 * MS, 300 * MS)
            other.fault = "conflict"
            self._add_copy(other, decide=True)
            plain.remove(fill)
        if plain and dice.hit("mismatch"):
            self._mismatch(rng.choice(plain))
        if plain and dice.hit("gap"):
            self._lose(plain.pop(rng.randrange(len(plain))).report, "gap")
        if plain and dice.hit("regression"):
            self._lose(self._link("BUST", plain.pop(rng.randrange(len(plain))), 0, 0), "regression")

    # --- single events -------------------------------------------------------------------------------------------------------------

    def _wait(self, mean_ns: float) -> None:
        self.t += 50_000 + int(self.rng.expovariate(1.0) * mean_ns)

    def _status_now(self) -> str:
        if self.ended:
            return self.ended
        if self.cum >= self.order_qty > 0:
            return "FILLED"
        return "PARTIALLY_FILLED" if self.cum else "NEW"

    def _emit(self, kind: str, *, status: str = "", exec_id: str = "", limit: bool = False, text: str = "") -> Report:
        venue, order, carries = self.venue, self.order, self.venue.rules.carries_client_order_id
        if not exec_id and venue.state_exec_ids and kind != "CANCEL_REJECT":
            exec_id = self._exec_id()
        total = 0
        for fill in self.fills:
            total += fill.qty * fill.px
        # Where the clock is fine no two events of an order share a time; where it is coarse the sequence number tells them apart.
        apart = venue.precision_ns if venue.precision_ns < MS else 0
        event_ns = max((self.t + self.skew_ns) // venue.precision_ns * venue.precision_ns, self.last_event + apart)
        self.last_event = event_ns
        latency = venue.latency_ns + int(self.rng.expovariate(1.0) * venue.latency_ns / 2)
        self.last_due = due_ns = max(self.last_due, self.t + latency)
        report = Report(
            kind,
            venue.name,
            venue.source,
            order.account,
            order.instrument.symbol,
            order.instrument.px_scale,
            order.instrument.qty_scale,
            order.side,
            self.trade_date,
            event_ns,
            due_ns,
            venue.precision_ns,
            self.world.seq(venue.name),
            f"{venue.name}-1",
            status or self._status_now(),
            order.correlation if carries else "",
            order.correlation,
            self.client_id if carries else "",
            "",
            self.venue_order_id,
            self.suffix if carries else "",
            exec_id,
            order_qty=self.order_qty,
            cum_qty=self.cum,
            leaves_qty=0 if self.ended else max(self.order_qty - self.cum, 0),
            avg_px=_half_even(total * 10**AVG_DECIMALS, self.cum) if self.cum else 0,
            limit_px=order.limit_px if limit else -1,
            text=text,
            attributes=venue.attributes,
        )
        if self.nights and not self.ended:
            today = sum(f.qty for f in self.fills if f.report.trade_date == self.trade_date)
            report.day_order_qty, report.day_cum_qty = self.order_qty - (self.cum - today), today
        self.reports.append(report)
        return report

    def _exec_id(self) -> str:
        n = self.world.number()
        if not self.venue.rules.dated_key:
            return f"{int(self.world.run, 16)}{n:09d}"
        return f"{self.world.run}{n:07d}" if self.index % 2 else f"{self.world.run}-{n:x}"

    def _ack(self, status: str, client_id: str = "", leg: str = "", known: bool = True) -> None:
        if self.external:
            return
        ack_ns = self.t + 20_000
        self.acks.append(
            Ack(
                ack_ns + 300_000 + int(self.rng.expovariate(1.0) * 300_000),
                ack_ns,
                client_id or self.client_id,
                leg or self.suffix,
                self.venue_order_id if known else "",
                status,
                self.order_qty,
            )
        )

    def _price(self, taker: bool) -> int:
        bid, ask = self.world.market.touch(self.order.index, self.t)
        return ask if (self.order.side == "BUY") == taker else bid

    def _fill(self, qty: int) -> Fill:
        rng, venue, order = self.rng, self.venue, self.order
        taker = order.tif in ("IOC", "FOK") or rng.random() < 0.5
        px, exec_id = self._price(taker), self._exec_id()
        shared = False
        if "O" in venue.rules.key:  # ids name the trade there: now and then the other side is ours too
            other_side = (venue.name, order.account, order.instrument.symbol, "SELL" if order.side == "BUY" else "BUY")
            other = self.world.crossed.get(other_side)
            if (
                other is not None
                and other.last_qty <= self.order_qty - self.cum
                and other.order != order.correlation
                and rng.random() < 0.1
            ):
                qty, px, exec_id = other.last_qty, other.last_px, other.exec_id
                del self.world.crossed[other_side]  # a trade has two sides, not three
                shared = True
        self.cum += qty
        fill = Fill(exec_id, exec_id, qty, px, _NO_REPORT)
        self.fills.append(fill)
        report = fill.report = self._emit("TRADE", exec_id=exec_id)
        if self.nights and not self.ended:
            report.day_cum_qty += qty
            report.day_order_qty += qty
        report.last_qty, report.last_px = qty, px
        report.liquidity = "TAKER" if taker else "MAKER"
        self._fee(report, taker)
        if venue.match_field:
            report.match_field, report.match_id = venue.match_field, f"M{self.world.run}{self.world.number():x}"
        if "O" in venue.rules.key and not shared:
            self.world.crossed[venue.name, order.account, order.instrument.symbol, order.side] = copy(report)
        return fill

    def _fee(self, report: Report, taker: bool) -> None:
        instrument = self.order.instrument
        notional = report.last_qty * report.last_px * instrument.multiplier
        rate = _TAKER_TENTH_BPS if taker else _MAKER_TENTH_BPS
        report.fee_micros = notional * rate * 10**6 // 10 ** (5 + instrument.px_scale + instrument.qty_scale)
        report.fee_ccy = instrument.quote or "USD"

    def _status(self) -> None:
        self._wait(1 * MS)
        self._emit("STATUS", exec_id="0")

    def _request(self) -> tuple[str, str, str]:
        """Return (its client order id, its leg, the client order id it is about)."""
        self.requests += 1
        leg = f"{self.index % 10}{'abcdefghijklmnopqrstuvwxyz'[self.requests % 26]}"
        return f"{self.order.correlation.replace('-', '')}-{leg}", leg, self.client_id

    def _about(self, report: Report, client_id: str, leg: str, orig: str) -> None:
        if self.venue.rules.carries_client_order_id:
            report.client_id, report.leg, report.orig_client_id = client_id, leg, orig

    def _cancel(self, rejected: bool = False) -> None:
        carries = self.venue.rules.carries_client_order_id
        if rejected and not carries:
            return  # nobody could tell which request was meant
        client_id, leg, orig = self._request()
        if carries and self.rng.random() < 0.5:
            self._about(self._emit("PENDING_CANCEL", status="PENDING_CANCEL"), client_id, leg, orig)
            self._wait(1 * MS)
        if rejected:
            report = self._emit("CANCEL_REJECT", text='"Too late to cancel"')
        else:
            self.ended = "CANCELED"
            report = self._emit("CANCELED", text=self.rng.choice(_CANCEL_TEXTS) if self.rng.random() < 0.2 else "")
            self._ack("CANCELED", client_id, leg)
        self._about(report, client_id, leg, orig)

    def _replace(self, crossing: bool) -> None:
        rng, carries = self.rng, self.venue.rules.carries_client_order_id
        client_id, leg, orig = self._request()
        left = self.order_qty - self.cum
        if left <= 1:
            return
        if carries and (crossing or rng.random() < 0.5):
            self._about(self._emit("PENDING_REPLACE", status="PENDING_REPLACE"), client_id, leg, orig)
            self._wait(1 * MS)
        wanted = self.order_qty + left if rng.random() < 0.5 else self.cum + max(1, left // 2)
        if crossing:  # the fill carries the old id; what was asked for may be less than what is filled by now (D11, D12)
            self._fill(max(1, left * 3 // 4)).report.fault = "replace_crossing"
            self.dice.counts["replace_crossing"] += 1
            self._wait(1 * MS)
        self.order_qty = max(wanted, self.cum)
        self.client_id, self.suffix = client_id, leg
        report = self._emit("REPLACED")
        report.order_qty = wanted
        self._about(report, client_id, leg, orig)
        self._ack("REPLACED")

    def _night(self) -> None:
        """Done for day, and the next morning's restatement (D27)."""
        self._emit("DONE_FOR_DAY", status="DONE_FOR_DAY")
        self._wait(100 * MS)
        self.trade_date = next_date(self.order.route_ns)
        self.nights += 1
        self._emit("RESTATED").restatement_reason = 1

    def _split(self) -> None:
        for fill in self.fills:
            fill.qty, fill.px = fill.qty * 2, _half_even(fill.px, 2)
        self.cum, self.order_qty = self.cum * 2, self.order_qty * 2
        report = self._emit("RESTATED")
        report.restatement_reason, report.fault = 0, "split"
        self.dice.counts["split"] += 1
        for fill in self.fills:
            fill.chained = True  # no faults on top of it: a copy of the old fill would be in the old units
        self._wait(5 * MS)

    def _chain(self, name: str, fill: Fill) -> None:
        if fill.qty == 0:
            return
        if name == "bust":
            self._wait(5 * MS)
            self._link("BUST", fill, 0, 0)
            self.dice.counts["bust"] += 1
        else:
            for _ in range(self.rng.choice((1, 1, 2, 3))):
                self._wait(5 * MS)
                qty, px = fill.qty, max(1, fill.px + self.rng.choice((-3, -2, -1, 1, 2, 3)))
                if self.rng.random() < 0.3 and qty > 1:
                    qty -= max(1, qty // 5)
                elif self.rng.random() < 0.1 and not self.ended and self.cum < self.order_qty:
                    qty += 1
                self._link("CORRECT", fill, qty, px)
                self.dice.counts["correct"] += 1
        if self.dice.hit("reorder_chain"):
            fill.report.due_ns = self.last_due + self.rng.randint(50 * MS, 2 * SECOND)
            fill.report.fault = fill.report.fault or "reorder_chain"
            self.dice.counts["reorder_chain"] += 1

    def _link(self, kind: str, fill: Fill, qty: int, px: int) -> Report:
        before = (fill.qty, fill.px)
        self.cum += qty - fill.qty
        fill.qty, fill.px, fill.chained = qty, px, True
        report = self._emit(kind, exec_id=self._exec_id())
        report.exec_ref_id = fill.root_id if self.venue.rules.ref_style == "ROOT" else fill.last_id
        report.last_qty, report.last_px = (before if self.rng.random() < 0.5 else (0, 0)) if kind == "BUST" else (qty, px)
        report.fault = kind.lower()
        fill.last_id = report.exec_id
        return report

    def _mismatch(self, fill: Fill) -> None:
        order, rng, reference = self.order, self.rng, self.world.reference
        other = copy(fill.report)
        other.exec_id, other.fault, other.match_id = self._exec_id(), "mismatch", ""
        other.cum_qty = other.day_order_qty = -1
        other.due_ns += rng.randint(1 * MS, 300 * MS)
        other.event_ns += self.venue.precision_ns
        form = rng.randrange(3)
        accounts = [a for a in self.venue.rules.accounts if a != order.account]
        instruments = [i for i in reference.instruments if i.symbol != order.instrument.symbol]
        if form == 0 and accounts:
            other.account = rng.choice(accounts)
        elif form == 1 and instruments:
            instrument = rng.choice(instruments)
            other.symbol, other.px_scale, other.qty_scale = instrument.symbol, instrument.px_scale, instrument.qty_scale
            other.order_qty = -1
        else:
            other.side = "SELL" if order.side == "BUY" else "BUY"
        self._add_copy(other, decide=True)

    def _add_copy(self, report: Report, decide: bool) -> None:
        self.reports.append(report)
        self.dice.counts[report.fault] += 1
        if decide and self.dice.hit("hold_decision"):
            self.decisions.append(report.due_ns + self.rng.randint(2 * SECOND, 6 * SECOND))
            self.dice.counts["hold_decision"] += 1

    def _lose(self, report: Report, fault: str) -> None:
        """Let a report not come, or come seconds late, and the venue's total tell of it."""
        report.fault = fault
        self.dice.counts[fault] += 1
        if self.rng.random() < 0.5:
            report.withheld = True
        else:
            report.due_ns += self.rng.randint(2 * SECOND, 8 * SECOND)
        self._wait(5 * MS)
        self._status()


def _half_even(value: int, by: int) -> int:
    """Return value / by rounded half to even, for values that are not negative."""
    quotient, rest = divmod(value, by)
    return quotient + (2 * rest > by or (2 * rest == by and quotient % 2 == 1))


_NO_REPORT = Report("", "", "", "", "", 0, 0, "", 0, 0, 0, 1, 0, "", "", "", "")
