"""What one venue order's state is, recomputed from scratch from its facts: the slow, obvious half of the reconciliation oracle.

It keeps nothing between calls, decides nothing about messages (bench/oracle.py does) and must not import operators/ or state/.
Rules: docs/reconciliation.md, "The fold of a venue order". Quantities and prices are Fractions in natural units.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction

from schemas.reference import Instrument, VenueRules

ZERO = Fraction(0)
Time = tuple[int, int]
"""(event_ts_ns, seq_num or 0): what "older" and "newer" mean."""


@dataclass(eq=False)
class Report:
    """One venue report that passed the normalise step. Sides are +1 and -1; None means the venue did not say."""

    place: tuple[str, int]
    arrival: int
    kind: str
    venue: VenueRules
    account: str
    instrument: Instrument
    correlation: str | None
    exec_id: str | None
    exec_ref_id: str | None
    secondary_exec_id: str | None
    trade_match_id: str | None
    trade_date: int
    client_order_id: str | None
    orig_client_order_id: str | None
    venue_order_id: str | None
    side: int | None
    ord_status: str | None
    order_qty: Fraction | None
    last_qty: Fraction | None
    cum_qty: Fraction | None
    last_px: Fraction | None
    time: Time
    recv_ts_ns: int
    estimate: bool
    restatement_reason: int | None
    fee: tuple[Fraction, str | None] | None
    liquidity: str | None
    key: tuple[object, ...] | None = None
    leg: VenueOrder | None = None
    chain: Chain | None = None
    folded: bool = False
    expired: bool = False
    published: bool = False
    taken: list[tuple[Report, Fraction]] = field(default_factory=list)
    """Of an estimate: the real trades that came since and how much of it each stands for."""


@dataclass(eq=False)
class Chain:
    """A first execution and the busts and corrects that follow it, in the order they joined."""

    root: Report
    links: list[Report] = field(default_factory=list)
    version: int = 0
    fee: tuple[Fraction, str | None] | None = None
    liquidity: str | None = None
    shown: tuple[Fraction, Fraction] = (ZERO, ZERO)
    """(quantity, price) its last published version leaves standing."""


@dataclass(frozen=True)
class Ack:
    """An acknowledgement as a fact of a venue order."""

    client_order_id: str
    status: str
    size: Fraction
    time: Time
    arrival: int


@dataclass(eq=False)
class VenueOrder:
    """One order at one venue: its ids, its facts and what the lane decided about it."""

    correlation: str
    venue: VenueRules
    ids: set[tuple[str, str]] = field(default_factory=set)
    facts: list[Report] = field(default_factory=list)
    refused: list[Report] = field(default_factory=list)
    """Facts an operator refused: the date and the order quantity they told stay told."""
    chains: list[Chain] = field(default_factory=list)
    acks: list[Ack] = field(default_factory=list)
    holds: set[str] = field(default_factory=set)
    held: list[Report] = field(default_factory=list)
    """Pending reports, in the order they came: folded ones whose versions wait, and mismatching ones that are not folded."""
    queue: list[Version] = field(default_factory=list)
    gap_since: int | None = None
    gap_alerts: int = 0
    skew_noted: bool = False


@dataclass
class Version:
    """One version of one fill, as it is to be published. `delta` is signed by the side."""

    chain: Chain
    link: Report
    cause: Report
    status: str
    size: Fraction
    price: Fraction
    delta: Fraction
    exec_id: str


@dataclass(frozen=True)
class Intent:
    """The part of a route intent the fold needs."""

    order_id: str
    symbol: str
    side: int
    size: Fraction
    time_in_force: str
    book: str
    account: str
    content: tuple[object, ...]


def half_even(value: Fraction, scale: int) -> Fraction:
    """Return `value` rounded half to even at `scale` decimals."""
    return Fraction(round(value * 10**scale), 10**scale)


def decimal(value: Fraction) -> Decimal:
    """Return an exact Decimal; ValueError if the value has no finite decimal form."""
    scale = 0
    while (value * 10**scale).denominator != 1:
        scale += 1
        if scale > 60:
            raise ValueError(f"{value} is not a decimal")
    return Decimal(int(value * 10**scale)).scaleb(-scale)


def in_order(chain: Chain) -> list[Report]:
    """Return the chain's links, the first execution first and the effective one last."""
    links = list(chain.links)
    if chain.root.venue.ref_style == "ROOT":
        links.sort(key=lambda link: (link.time, link.arrival))
    return [chain.root, *links]


def splits(order: VenueOrder, until: Time | None = None) -> list[tuple[Report, Fraction]]:
    """Return the (RESTATED, ratio) of every split of the order, oldest first."""
    found = []
    for report in order.facts:
        if report.kind != "RESTATED" or report.restatement_reason != 0 or not report.order_qty:
            continue
        if until is not None and report.time > until:
            continue
        before = stated_quantity(order, report.time)
        if before:
            found.append((report, report.order_qty / before))
    return sorted(found, key=lambda pair: pair[0].time)


def stated_quantity(order: VenueOrder, before: Time | None = None) -> Fraction | None:
    """Return the order quantity the facts (older than `before`, if given) state, without the intent's size."""
    stated = _newest_statement(order, before)
    return stated[1] if stated else None


def _newest_statement(order: VenueOrder, before: Time | None) -> tuple[str, Fraction, Time] | None:
    """Return (kind, order quantity, time) of the statement in force."""
    strong: list[tuple[Time, int, str, Fraction]] = []
    weak: list[tuple[Time, int, str, Fraction]] = []
    for report in (*order.facts, *order.refused):
        if report.order_qty is None:
            continue
        row = (report.time, report.arrival, report.kind, report.order_qty)
        (strong if report.kind in ("NEW", "REPLACED", "RESTATED") else weak).append(row)
    for ack in order.acks:
        if ack.status in ("ACKED", "REPLACED"):
            strong.append((ack.time, ack.arrival, ack.status, ack.size))
    for rows in (strong, weak):
        rows = [row for row in rows if before is None or row[0] < before]
        if rows:
            time, _, kind, quantity = max(rows, key=lambda row: (row[0], row[1]))
            return kind, quantity, time
    return None


def scaled_link(order: VenueOrder, link: Report, until: Time | None = None) -> tuple[Fraction, Fraction]:
    """Return (quantity, price) a TRADE or CORRECT states, after the splits newer than it and the real trades that replace it."""
    assert link.last_qty is not None
    assert link.last_px is not None
    quantity, price = link.last_qty, link.last_px
    for restated, ratio in splits(order, until):
        if link.time[0] < restated.time[0]:
            quantity = half_even(quantity * ratio, link.instrument.qty_scale)
            price = half_even(price / ratio, link.instrument.px_scale)
    for taker, amount in link.taken:
        if until is None or taker.time <= until:
            quantity -= amount
    return quantity, price


def effective(order: VenueOrder, chain: Chain, until: Time | None = None) -> tuple[Fraction, Fraction, Report | None]:
    """Return (quantity, price, effective link) of a chain, of the facts not newer than `until`; (0, 0, None) if there is none.

    A correction that is older than the execution it corrects (clocks differ) stands by itself in between.
    """
    links = [link for link in in_order(chain) if until is None or link.time <= until]
    if not links:
        return ZERO, ZERO, None
    last = links[-1]
    if last.kind == "BUST":
        return ZERO, ZERO, last
    quantity, price = scaled_link(order, last, until)
    return quantity, price, last


def undone(order: VenueOrder, chain: Chain) -> tuple[Fraction, Fraction]:
    """Return (quantity, price) the effective BUST of a chain undoes."""
    stood = [link for link in in_order(chain) if link.kind != "BUST"]
    return scaled_link(order, stood[-1])


def cum(order: VenueOrder, until: Time | None = None) -> Fraction:
    """Return the filled quantity, of the facts not newer than `until`."""
    return sum((effective(order, chain, until)[0] for chain in order.chains), ZERO)


def avg_price(order: VenueOrder) -> Fraction:
    """Return the exact average price, 0 when nothing is filled."""
    filled = cum(order)
    if not filled:
        return ZERO
    rows = [effective(order, chain) for chain in order.chains]
    return sum((quantity * price for quantity, price, _ in rows), ZERO) / filled


def published_avg(order: VenueOrder) -> Fraction:
    """Return the average price as published: half to even at px_scale + 4 decimals."""
    if not order.chains:
        return ZERO
    return half_even(avg_price(order), order.chains[0].root.instrument.px_scale + 4)


def order_quantity(order: VenueOrder, intent: Intent | None) -> Fraction:
    """Return the order quantity now in force."""
    stated = _newest_statement(order, None)
    if stated is None:
        return intent.size if intent else ZERO
    kind, quantity, time = stated
    if kind in ("REPLACED", "RESTATED"):
        return max(quantity, cum(order, time))
    return quantity


def has(order: VenueOrder, kind: str) -> bool:
    """Return whether a report of this kind is among the facts."""
    return any(report.kind == kind for report in order.facts)


def canceled(order: VenueOrder) -> bool:
    """Return whether the order was canceled."""
    return has(order, "CANCELED") or any(ack.status == "CANCELED" for ack in order.acks)


def rejected(order: VenueOrder) -> bool:
    """Return whether the order (not a request about it) was rejected."""
    said = any(r.kind == "REJECTED" and r.ord_status in (None, "REJECTED") for r in order.facts)
    return said or any(ack.status == "REJECTED" for ack in order.acks)


def terminal(order: VenueOrder) -> bool:
    """Return whether nothing can be executed any more, as far as the venue said."""
    return canceled(order) or has(order, "EXPIRED") or rejected(order)


def done_for_day(order: VenueOrder) -> bool:
    """Return whether the order rests until its next trading day."""
    for done in order.facts:
        if done.kind != "DONE_FOR_DAY":
            continue
        restated = any(r.kind == "RESTATED" and r.time > done.time for r in order.facts)
        later_day = any(r.trade_date > done.trade_date for r in (*order.facts, *order.refused))
        if not restated and not later_day:
            return True
    return False


def leaves(order: VenueOrder, intent: Intent | None) -> Fraction:
    """Return what is still open."""
    if terminal(order):
        return ZERO
    if done_for_day(order) and intent is not None and intent.time_in_force in ("DAY", "IOC", "FOK"):
        return ZERO
    return max(order_quantity(order, intent) - cum(order), ZERO)


def pending_requests(order: VenueOrder, kind: str) -> set[str]:
    """Return the client order ids of the requests still unanswered; `kind` is PENDING_CANCEL or PENDING_REPLACE.

    A report that names no client order id asks for nothing that could be answered; an acknowledged replace is answered.
    """
    if terminal(order):
        return set()
    asked = {r.client_order_id for r in order.facts if r.kind == kind and r.client_order_id is not None}
    answered = {r.client_order_id for r in order.facts if r.kind in ("CANCEL_REJECT", "REPLACED")}
    return asked - answered - {ack.client_order_id for ack in order.acks if ack.status == "REPLACED"}


def suspended(order: VenueOrder) -> bool:
    """Return whether the venue suspended the order and has not taken it up again."""
    for report in order.facts:
        if report.kind == "SUSPENDED":
            if not any(r.kind in ("NEW", "RESTATED", "REPLACED") and r.time > report.time for r in order.facts):
                return True
    return False


def status(order: VenueOrder, intent: Intent | None) -> str:
    """Return the order status: the highest that applies."""
    filled, quantity = cum(order), order_quantity(order, intent)
    acked = has(order, "NEW") or any(ack.status == "ACKED" for ack in order.acks)
    ladder = (
        ("PENDING_CANCEL", bool(pending_requests(order, "PENDING_CANCEL"))),
        ("PENDING_REPLACE", bool(pending_requests(order, "PENDING_REPLACE"))),
        ("DONE_FOR_DAY", done_for_day(order)),
        ("CALCULATED", has(order, "CALCULATED")),
        ("FILLED", filled >= quantity > 0),
        ("STOPPED", has(order, "STOPPED")),
        ("SUSPENDED", suspended(order)),
        ("CANCELED", canceled(order)),
        ("EXPIRED", has(order, "EXPIRED")),
        ("PARTIALLY_FILLED", filled > 0),
        # the published matrices show a rejected order as Rejected whether or not a New was seen before (D1 row 3, D3..D8)
        ("REJECTED", rejected(order)),
        ("NEW", acked),
        ("PENDING_NEW", True),
    )
    return next(name for name, applies in ladder if applies)


def day_quantities(order: VenueOrder, intent: Intent | None) -> tuple[Fraction, Fraction]:
    """Return (day_order_qty, day_cum): an execution belongs to the trade date of its chain's first link."""
    if not order.facts and not order.refused:
        return order_quantity(order, intent), ZERO
    newest = max(report.trade_date for report in (*order.facts, *order.refused))
    today = sum((effective(order, c)[0] for c in order.chains if c.root.trade_date == newest), ZERO)
    return order_quantity(order, intent) - (cum(order) - today), today


def difference(order: VenueOrder) -> Fraction:
    """Return the venue's total minus ours: above 0 a gap, below 0 a regression."""
    totals = [report for report in order.facts if report.cum_qty is not None]
    if not totals:
        return ZERO
    newest = max(totals, key=lambda report: (report.time, report.arrival))
    assert newest.cum_qty is not None
    # facts newer than the statement move it as they move our own total, so only what is not newer can differ
    found = newest.cum_qty - cum(order, newest.time)
    for restated, ratio in splits(order):  # both were in the units of before the split
        if newest.time[0] < restated.time[0]:
            found *= ratio
    return found


def overfilled(order: VenueOrder, intent: Intent | None) -> bool:
    """Return whether more is filled than was ordered."""
    return cum(order) > order_quantity(order, intent)
