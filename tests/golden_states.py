"""Reads tests/golden/order_states.txt and turns each line into messages and what must be true after each.

The notation is described in tests/golden/README.md. No rule of the fold may be here: what is expected comes from the file only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from bench.oracle import REPORT, ROUTE
from tests.support import DAY, SECOND, T0, Harness, client_id, correlation, report, route

PATH = Path(__file__).parent / "golden" / "order_states.txt"

STATUS = {
    "0": "NEW", "1": "PARTIALLY_FILLED", "2": "FILLED", "3": "DONE_FOR_DAY", "4": "CANCELED", "6": "PENDING_CANCEL", "7": "STOPPED",
    "8": "REJECTED", "9": "SUSPENDED", "A": "PENDING_NEW", "B": "CALCULATED", "C": "EXPIRED", "E": "PENDING_REPLACE",
}  # fmt: skip
KIND = {
    "0": "NEW", "F": "TRADE", "H": "BUST", "G": "CORRECT", "5": "REPLACED", "D": "RESTATED", "E": "PENDING_REPLACE", "6": "PENDING_CANCEL",
    "7": "STOPPED", "L": "TRIGGERED", "8": "REJECTED", "I": "STATUS", "9": "CANCEL_REJECT", "4": "CANCELED", "3": "DONE_FOR_DAY",
}  # fmt: skip
REQUEST = re.compile(
    r"(?P<what>[NRCS]) (?P<id>[A-Z])(?:<(?P<old>[A-Z]))?(?: (?:cash)?(?P<qty>\d+))?(?: (?P<tif>DAY|GTC|IOC|FOK))?"
    r"(?P<flags>(?: again| unknown| 97=Y)*)"
)
EVENT = re.compile(
    r"(?P<event>[0-9A-Z])(?: (?P<id>[A-Z])(?:<(?P<old>[A-Z]))?:?)? ?(?:(?P<qty>\d+)(?:@(?P<px>[\d.]+))?)?(?: (?P<split>split2))?"
)
EXPECT = re.compile(
    r"(?P<loose>~?)(?P<status>[0-9A-Z])(?: (?P<cum>\d+)/(?P<open>~?)(?P<leaves>\d*)(?:@(?P<avg>[\d.]+))?)?"
    r"(?: d(?P<day_order>\d+)/(?P<day_cum>\d+))?"
)


@dataclass(frozen=True)
class Expect:
    """What the table prints after a report; None is not to be asserted."""

    status: str | None
    cum: Decimal | None = None
    leaves: Decimal | None = None
    avg: Decimal | None = None
    day: tuple[Decimal, Decimal] | None = None


@dataclass(frozen=True)
class Step:
    """One message, the correlation of the order it is about, and what must be true after it. `chain` names its chain of executions."""

    text: str
    topic: str
    value: bytes
    correlation: str
    expect: Expect | None = None
    chain: str | None = None
    keyed: bool = False


@dataclass
class Line:
    """One history: its steps, and the alternatives as (how many steps come before, step)."""

    name: str
    steps: list[Step] = field(default_factory=list)
    alternatives: list[tuple[int, Step]] = field(default_factory=list)
    sizes: dict[str, Decimal] = field(default_factory=dict)


@dataclass
class _Order:
    correlation: str
    tif: str = "DAY"
    working: str = ""
    quantity: str | None = None
    day: int = 0
    rested: bool = False
    executions: dict[str, tuple[str, str, str]] = field(default_factory=dict)
    """exec id to (quantity, price, first exec id of its chain)."""


def _expand(texts: dict[str, str], text: str) -> str:
    match = re.match(r"as (\S+) up to ([^;]+); ", text)
    if not match:
        return text
    whole = texts[match[1]]
    end = whole.index(match[2]) + len(match[2])
    return f"{whole[:end]}; {text[match.end() :]}"


def load() -> list[Line]:
    """Return every line of the file as messages and expectations."""
    rows = [row.split("|", 1) for row in PATH.read_text().splitlines() if row and not row.startswith("#")]
    named = [(head.split(), text.strip()) for head, text in rows]
    texts = {head[0]: text for head, text in named}
    return [
        _Writer(f"{head[0].strip('-')}{head[1]}_{n}".replace(".", ""), n).write(_expand(texts, text))
        for n, (head, text) in enumerate(named)
    ]


class _Writer:
    def __init__(self, name: str, number: int) -> None:
        self.line = Line(name)
        self.number = number
        self.orders: dict[str, _Order] = {}
        self.latest: tuple[str, str, str | None] = ("N", "", None)
        self.clock = 0
        self.execs = 0

    def write(self, text: str) -> Line:
        for item in text.split(";"):
            item = item.strip()
            alternative = item.startswith("{")
            item = item.strip("{}")
            request = REQUEST.fullmatch(item)
            if request:
                self._request(item, request)
                continue
            if not self.orders:
                # an order nobody routed (D18): it is adopted, so its intent is there
                self._open("X", "10000", "DAY", item)
            left, right = item.rsplit(">", 1)
            event, expect = EVENT.fullmatch(left.strip()), EXPECT.fullmatch(right.strip())
            assert event, item
            assert expect, item
            self._event(item, event, expect, alternative)
        return self.line

    def _open(self, order_id: str, size: str, tif: str, item: str, order: _Order | None = None) -> None:
        if order is None:
            order = _Order(correlation(1000 * self.number + len(self.orders) + 1), tif, order_id, size)
            self.orders[order_id] = order
            self.line.sizes[order.correlation] = Decimal(size)
        value = route(order.correlation, size, time_in_force=tif)
        self.line.steps.append(Step(item, ROUTE, value, order.correlation, keyed=True))

    def _request(self, item: str, match: re.Match[str]) -> None:
        what, name, old = match["what"], match["id"], match["old"]
        self.latest = (what, name, old)
        if what == "N":
            self._open(name, match["qty"], match["tif"] or "DAY", item, self.orders.get(name))
        elif old in self.orders:
            self.orders[name] = self.orders[old]
        elif name not in self.orders:
            # an id never routed: its reports have a correlation of their own, and no intent
            self.orders[name] = _Order(correlation(1000 * self.number + 900), working=name)

    def _ids(self, event: str, name: str | None, old: str | None) -> tuple[str, str | None]:
        """Return (client order id, original one) a report carries: its own, the latest request's, or the working one."""
        what, asked, asked_old = self.latest
        if event not in "FGH" and name is not None:
            return name, old
        if (event in "569" and what in "RC") or (event == "4" and what == "C") or event == "I":
            return asked, asked_old
        order = self.orders[asked] if asked else next(iter(self.orders.values()))
        return order.working, None

    def _event(self, item: str, match: re.Match[str], expected: re.Match[str], alternative: bool) -> None:
        event = match["event"]
        name, old = self._ids(event, match["id"], match["old"])
        if event == "E" and match["id"] is None:
            name, old = self.latest[1], self.latest[2]
        order = self.orders[name]
        self.clock += 1
        if order.rested and order.tif == "GTC":
            order.day, order.rested = order.day + 1, False
        ts = T0 + self.clock * SECOND + order.day * DAY
        self.execs += 1
        exec_id = match["id"] if event in "FGH" and match["id"] else f"e{self.execs}"
        fields: dict[str, Any] = {
            "exec_id": exec_id, "client_order_id": client_id(order.correlation, name),
            "venue_order_id": f"V{self.number}{order.correlation[7]}",
            "orig_client_order_id": client_id(order.correlation, old) if old else None, "ord_status": STATUS[expected["status"]],
            "cum_qty": expected["cum"], "leaves_qty": expected["leaves"] or None, "last_qty": "0",
        }  # fmt: skip
        chain = None
        if event == "F":
            order.executions[exec_id] = (match["qty"], match["px"] or "50", exec_id)
            fields.update(last_qty=match["qty"], last_px=match["px"] or "50")
            chain = exec_id
        elif event in "GH":
            ref = match["old"]
            quantity, price, chain = order.executions[ref]
            quantity, price = match["qty"] or quantity, match["px"] or price
            order.executions[exec_id] = (quantity, price, chain)
            fields["exec_ref_id"] = ref
            if event == "G":
                fields.update(last_qty=quantity, last_px=price)
        elif event in "05D" and match["qty"]:
            order.quantity = match["qty"]
        elif event == "7":
            fields.update(last_qty=match["qty"], last_px=match["px"])
        if event == "5":
            order.working = name
        if match["split"]:
            fields["restatement_reason"] = 0
        fields["order_qty"] = order.quantity
        if event == "E" and expected["leaves"]:
            # some venues show the requested quantity on a pending replace (D.2.b): it must be ignored there
            fields["order_qty"] = str(int(expected["cum"]) + int(expected["leaves"]))
        if event == "9":
            # a cancel reject is no execution report: no totals and no exec id in FIX
            fields.update(exec_id=None, cum_qty=None, leaves_qty=None, last_qty=None, order_qty=None)
        if event == "3":
            order.rested = not alternative
        value = report(KIND[event], order.correlation, ts, **fields)
        step = Step(item, REPORT, value, order.correlation, _expectation(expected), chain, keyed=event not in "I9")
        if alternative:
            self.line.alternatives.append((len(self.line.steps), step))
        else:
            self.line.steps.append(step)


def _expectation(match: re.Match[str]) -> Expect:
    return Expect(
        status=None if match["loose"] else STATUS[match["status"]],
        cum=Decimal(match["cum"]) if match["cum"] else None,
        leaves=Decimal(match["leaves"]) if match["leaves"] and not match["open"] else None,
        avg=Decimal(match["avg"]) if match["avg"] else None,
        day=(Decimal(match["day_order"]), Decimal(match["day_cum"])) if match["day_order"] else None,
    )


def check(harness: Harness, line: Line, step: Step) -> None:
    """Assert what the table prints after a step."""
    expect = step.expect
    if expect is None:
        return
    states = harness.order_state(step.correlation)
    where = f"{line.name}: {step.text}"
    if step.correlation not in line.sizes:
        assert states == [], f"{where}: an order out of nowhere"
        return
    if states:
        assert len(states) == 1, f"{where}: {len(states)} venue orders"
        state = states[0]
    else:
        # before the venue says anything the order is its intent
        size = line.sizes[step.correlation]
        state = {"status": "PENDING_NEW", "cum": Decimal(0), "leaves": size, "avg_price": Decimal(0), "held": [], "gap": Decimal(0)}
    assert expect.status in (None, state["status"]), f"{where}: status is {state['status']}"
    assert expect.cum in (None, state["cum"]), f"{where}: cum is {state['cum']}"
    assert expect.leaves in (None, state["leaves"]), f"{where}: leaves is {state['leaves']}"
    assert expect.avg in (None, state["avg_price"]), f"{where}: average is {state['avg_price']}"
    if expect.day is not None:
        assert expect.day == (state["day_order_qty"], state["day_cum"]), f"{where}: day is {state['day_order_qty']}/{state['day_cum']}"
    assert state["held"] == [], f"{where}: held"
    assert state["gap"] == 0, f"{where}: gap"
