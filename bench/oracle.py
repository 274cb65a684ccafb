"""A second, independent implementation of docs/reconciliation.md: plain dicts, dataclasses and Fractions, one record at a time.

It is what the execution flow is checked against, so it may share only schemas/ with it, never operators/ or state/; clarity goes before
speed everywhere. `LaneOracle` is one lane; `Oracle` is many lanes and the records they send each other.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

from pydantic import ValidationError

from bench.oracle_benchmark import Found, Quote, benchmark, slippage_bps, spread_capture
from bench.oracle_fold import (
    Ack,
    Chain,
    Intent,
    Report,
    VenueOrder,
    Version,
    cum,
    day_quantities,
    decimal,
    difference,
    effective,
    leaves,
    order_quantity,
    overfilled,
    published_avg,
    splits,
    status,
    terminal,
    undone,
)
from schemas.execution import AliasMessage, ExecutionReport, ExecutionReportMessage, HoldDecisionMessage
from schemas.layout import Column, Layout, layout_of
from schemas.orders import OrderAckMessage, RouteIntentMessage
from schemas.reasons import Reason
from schemas.reference import Reference, VenueRules
from schemas.registry import MAX_RECORD_BYTES, TOPICS

__all__ = [
    "DeadLetter",
    "FillVersion",
    "Found",
    "LaneOracle",
    "Oracle",
    "Outcome",
    "Quote",
    "benchmark",
    "lane_of",
    "slippage_bps",
    "spread_capture",
]

REPORT = "venue.execution.report.v1"
ROUTE = "order.intent.route.v1"
ACK = "order.event.ack.v1"
HOLD = "execution.intent.hold.v1"
ALIAS = "execution.state.alias.v1"

SECOND = 1_000_000_000
QUERY_AFTER = 5 * SECOND
UNKNOWN_EXPIRES = 120 * SECOND
REF_EXPIRES = 24 * 3600 * SECOND
GAP_WARNS = 30 * SECOND
GAP_EXPIRES = 120 * SECOND
FUTURE = 60 * SECOND

MOVES = ("TRADE", "BUST", "CORRECT")
UNKEYED = ("STATUS", "CANCEL_REJECT", "FEE_UPDATE")
CLIENT_ID = re.compile(r"([0-9a-fA-F]{32})(?:-[0-9A-Za-z]{1,3})?")
CORRELATION_KEY = re.compile(rb"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")

Place = tuple[str, int]


@dataclass(frozen=True)
class Outcome:
    """Where an input stands. `reasons`: every reason that would be right (several field faults: any of them)."""

    outcome: str
    reason: str
    reasons: frozenset[str] = frozenset()


@dataclass(frozen=True)
class DeadLetter:
    """An input that could not be used."""

    reasons: frozenset[str]
    topic: str
    offset: int
    key: bytes
    value: bytes


@dataclass(frozen=True)
class FillVersion:
    """One published version of one fill. `fill_id` is the execution key as text (the product's is a UUIDv5 of it)."""

    fill_id: str
    version: int
    status: str
    signed_delta: Decimal
    filled_size: Decimal
    price: Decimal
    cum_size: Decimal
    leaves_size: Decimal
    avg_price: Decimal
    correlation_id: str
    order_id: str
    symbol: str
    side: str
    venue: str
    account: str
    book: str
    exec_id: str
    exec_ts_ns: int
    provisional: bool
    commission: Decimal | None
    commission_ccy: str | None
    liquidity: str | None
    latency_ms: Fraction
    residual_size: Decimal
    residual_notional: Decimal
    first_exec_id: str


@dataclass
class _Input:
    """One input record on its way. `arrived_ns` starts the clock of what it waits for."""

    place: Place
    key: bytes
    value: bytes
    arrived_ns: int
    queried: bool = False


class _RejectedError(Exception):
    def __init__(self, *reasons: Reason) -> None:
        self.reasons = frozenset(reason.name for reason in reasons)


def murmur2(data: bytes) -> int:
    """Return the Kafka Java client's murmur2 of a key as an unsigned 32-bit number."""
    mask, m = 0xFFFFFFFF, 0x5BD1E995
    h = (0x9747B28C ^ len(data)) & mask
    whole = len(data) // 4 * 4
    for i in range(0, whole, 4):
        k = int.from_bytes(data[i : i + 4], "little") * m & mask
        k = (k ^ (k >> 24)) * m & mask
        h = (h * m & mask) ^ k
    if data[whole:]:
        h = (h ^ int.from_bytes(data[whole:], "little")) * m & mask
    h = (h ^ (h >> 13)) * m & mask
    return h ^ (h >> 15)


def lane_of(key: str | bytes, n_lanes: int) -> int:
    """Return the lane (partition) a key belongs to."""
    return (murmur2(key.encode() if isinstance(key, str) else key) & 0x7FFFFFFF) % n_lanes


def _column(layout: Layout, loc: tuple[Any, ...]) -> Column | None:
    """Return the column a pydantic error location is about."""
    path, found = "", None
    for part in loc:
        if isinstance(part, int) or part in ("function-after", "constrained-str"):
            if found is not None and found.item is not None and isinstance(part, int):
                layout, path = found.item, ""
            continue
        path = f"{path}.{part}" if path else part
        found = next((column for column in layout.columns if column.path == path), found)
    return found


def decode(topic: str, value: bytes) -> Any:
    """Return the validated message of a topic; raises _RejectedError with every reason that would be right."""
    if len(value) > MAX_RECORD_BYTES:
        raise _RejectedError(Reason.oversize)
    model = TOPICS[topic].model
    assert model is not None
    try:
        value.decode()
    except UnicodeDecodeError:
        try:
            json.loads(value.decode(errors="replace"))
        except (ValueError, RecursionError):
            raise _RejectedError(Reason.encoding_invalid, Reason.json_malformed) from None
        raise _RejectedError(Reason.encoding_invalid) from None
    try:
        return model.model_validate_json(value)
    except ValidationError as error:
        reasons: list[Reason] = []
        for fault in error.errors(include_url=False, include_input=False, include_context=False):
            if fault["type"] == "json_invalid" or (fault["type"] == "model_type" and not fault["loc"]):
                raise _RejectedError(Reason.json_malformed) from None
            if fault["type"] == "missing":
                reasons.append(Reason.field_missing)
                continue
            column = _column(layout_of(model), fault["loc"])
            reasons.append(column.spec.reason if column is not None else Reason.field_invalid)
        raise _RejectedError(*reasons) from None


def _number(text: str | None) -> Fraction | None:
    return None if text is None else Fraction(Decimal(text))


def _date(yyyymmdd: int) -> date:
    return date(yyyymmdd // 10_000, yyyymmdd // 100 % 100, yyyymmdd % 100)


def _correlation_of(client_id: str | None) -> str | None:
    """Return the correlation a client order id of ours carries, as a lower-case UUID."""
    match = CLIENT_ID.fullmatch(client_id or "")
    if not match or not match[1].strip("0"):
        return None
    h = match[1].lower()
    return "-".join((h[:8], h[8:12], h[12:16], h[16:20], h[20:]))


class LaneOracle:
    """One lane. Feed records in lane order with the lane's clock; everything it decided can be asked for afterwards."""

    def __init__(self, lane: int, n_lanes: int, reference: Reference) -> None:
        self.lane, self.n_lanes = lane, n_lanes
        self.venues = {venue.name: venue for venue in reference.venues}
        self.instruments = {instrument.symbol: instrument for instrument in reference.instruments}
        self.outcomes: dict[Place, Outcome] = {}
        self.fills: list[FillVersion] = []
        self.dead: list[DeadLetter] = []
        self.alerts: list[tuple[str, str, str]] = []
        """(rule_id, severity, order_id)."""
        self.reroutes: list[tuple[str, bytes, bytes]] = []
        """(topic, key, value) of every record sent to another lane."""
        self.aliases: list[tuple[str, str, str]] = []
        """(venue, venue_order_id, correlation) told to the lanes where reports may wait."""
        self.notes: list[tuple[str, str]] = []
        """(audit reason, correlation): remarks without an outcome of their own."""
        self._inputs: dict[Place, _Input] = {}
        self._intents: dict[str, Intent] = {}
        self._acks: dict[str, list[object]] = {}
        self._known_aliases: dict[tuple[str, str], str] = {}
        self._parked: list[Report] = []
        self._unrouted: list[Report] = []
        self._waiting: list[Report] = []
        self._orders: dict[str, list[VenueOrder]] = {}
        self._known: dict[tuple[object, ...], Report] = {}
        self._seconds: dict[tuple[object, ...], Report] = {}
        self._decided: set[str] = set()
        self._newest_date: int = 0
        self._arrivals = 0
        self._now = 0

    # ---- inputs -------------------------------------------------------------------------------------------------------------

    def feed(self, topic: str, offset: int, key: bytes, value: bytes, now_ns: int) -> Outcome:
        """Take one record; return where it stands now (a pending one may move later)."""
        self._now = max(self._now, now_ns)
        self._arrivals += 1
        place = (topic, offset)
        self._inputs[place] = _Input(place, key, value, now_ns)
        try:
            message = decode(topic, value)
            if topic == REPORT:
                self._report(place, message)
            elif topic == ROUTE:
                self._route(place, message)
            elif topic == ACK:
                self._ack(place, message)
            elif topic == HOLD:
                self._decide(place, message)
            else:
                self._alias(place, message)
        except _RejectedError as rejected:
            self._bury(place, *sorted(rejected.reasons))
        return self.outcomes[place]

    def _set(self, place: Place, outcome: str, reason: Reason | str, reasons: frozenset[str] = frozenset()) -> None:
        name = reason if isinstance(reason, str) else reason.name
        self.outcomes[place] = Outcome(outcome, name, reasons or frozenset((name,)))

    def _bury(self, place: Place, *reasons: str) -> None:
        found = self._inputs[place]
        self._set(place, "dlq", reasons[0], frozenset(reasons))
        self.dead.append(DeadLetter(frozenset(reasons), place[0], place[1], found.key, found.value))

    def _pass_on(self, place: Place, key: str, reason: Reason) -> None:
        self._set(place, "rerouted", reason)
        self.reroutes.append((place[0], key.encode(), self._inputs[place].value))

    def _mine(self, place: Place, key: str, reason: Reason = Reason.misrouted) -> bool:
        """Return whether a key belongs to this lane; if not, send the record where it does."""
        if lane_of(key, self.n_lanes) == self.lane:
            return True
        self._pass_on(place, key, reason)
        return False

    def _route(self, place: Place, message: RouteIntentMessage) -> None:
        payload, correlation = message.payload, message.correlation_id
        instrument = self.instruments.get(payload.symbol)
        if instrument is None:
            raise _RejectedError(Reason.instrument_unknown)
        self._scaled(payload.size, instrument.qty_scale)
        if not self._mine(place, correlation):
            return
        size = _number(payload.size)
        assert size is not None
        side = 1 if payload.side == "BUY" else -1
        content = (
            payload.order_id,
            payload.symbol,
            payload.side,
            size,
            payload.time_in_force,
            payload.book,
            payload.account,
            payload.decision_ts_ns,
        )
        known = self._intents.get(correlation)
        if known is not None:
            if known.content != content:
                raise _RejectedError(Reason.intent_conflict)
            self._set(place, "duplicate", Reason.duplicate_transport)
            return
        self._intents[correlation] = Intent(
            payload.order_id, payload.symbol, side, size, payload.time_in_force, payload.book, payload.account, content
        )
        self._set(place, "published", Reason.order_recorded)
        waited = [report for report in self._unrouted if report.correlation == correlation]
        self._unrouted = [report for report in self._unrouted if report.correlation != correlation]
        for report in waited:
            self._take(report)

    def _ack(self, place: Place, message: OrderAckMessage) -> None:
        payload, correlation = message.payload, message.correlation_id
        venue = self.venues.get(payload.venue)
        if venue is None:
            raise _RejectedError(Reason.venue_unknown)
        if not self._mine(place, correlation):
            return
        content = (payload.venue, payload.client_order_id, payload.venue_order_id, payload.status, _number(payload.size), payload.ack_ts_ns)
        if content in self._acks.get(correlation, []):
            self._set(place, "duplicate", Reason.duplicate_transport)
            return
        if payload.venue_order_id is not None:
            other = self._known_aliases.get((venue.name, payload.venue_order_id))
            if other is not None and other != correlation:
                raise _RejectedError(Reason.correlation_conflict)
        self._acks.setdefault(correlation, []).append(content)
        self._set(place, "published", Reason.accepted)
        order = self._find_order(correlation, venue, payload.venue_order_id, payload.client_order_id, None)
        if order is None:
            order = self._new_order(correlation, venue)
        self._join_ids(order, payload.venue_order_id, payload.client_order_id, None)
        size = _number(payload.size)
        assert size is not None
        before = {chain: effective(order, chain)[:2] for chain in order.chains}
        order.acks.append(Ack(payload.client_order_id, payload.status, size, (payload.ack_ts_ns, 0), self._arrivals))
        # a split may have waited for the older order quantity an acknowledgement tells
        self._settle(order, self._rescale(order, before))
        if payload.venue_order_id is not None:
            if not venue.carries_client_order_id:
                self.aliases.append((venue.name, payload.venue_order_id, correlation))
            self._learn(venue.name, payload.venue_order_id, correlation)

    def _alias(self, place: Place, message: AliasMessage) -> None:
        payload = message.payload
        if payload.venue not in self.venues:
            raise _RejectedError(Reason.venue_unknown)
        if not self._mine(place, f"{payload.venue}|{payload.venue_order_id}"):
            return
        known = self._known_aliases.get((payload.venue, payload.venue_order_id))
        if known is not None:
            if known != message.correlation_id:
                raise _RejectedError(Reason.correlation_conflict)
            self._set(place, "duplicate", Reason.duplicate_transport)
            return
        self._set(place, "published", Reason.alias_recorded)
        self._learn(payload.venue, payload.venue_order_id, message.correlation_id)

    def _learn(self, venue: str, venue_order_id: str, correlation: str) -> None:
        """Remember an alias and take up, or send on, the reports that waited for it."""
        if (venue, venue_order_id) in self._known_aliases:
            return
        self._known_aliases[venue, venue_order_id] = correlation
        waited = [r for r in self._parked if (r.venue.name, r.venue_order_id) == (venue, venue_order_id)]
        self._parked = [r for r in self._parked if r not in waited]
        for report in waited:
            report.correlation = correlation
            if self._mine(report.place, correlation, Reason.rerouted):
                self._take(report)

    # ---- reports: normalise and correlate -----------------------------------------------------------------------------------

    def _report(self, place: Place, message: ExecutionReportMessage) -> None:
        report = self._normalise(place, message.payload)
        found = [message.correlation_id, _correlation_of(report.client_order_id), _correlation_of(report.orig_client_order_id)]
        alias = self._known_aliases.get((report.venue.name, report.venue_order_id)) if report.venue_order_id is not None else None
        keyed = None if any(found) else self._correlation_of_key(self._inputs[place].key)
        said = [c for c in (*found, alias, keyed) if c is not None]
        if len(set(said)) > 1:
            raise _RejectedError(Reason.correlation_conflict)
        if not said:
            if self._mine(place, f"{report.venue.name}|{report.venue_order_id or ''}"):
                self._set(place, "pending", Reason.uncorrelated)
                self._parked.append(report)
            return
        report.correlation = said[0]
        only_alias = not any(found)
        if self._mine(place, said[0], Reason.rerouted if only_alias else Reason.misrouted):
            self._take(report)

    def _correlation_of_key(self, key: bytes) -> str | None:
        """Return the correlation of this lane a record is keyed by; nothing for any other key."""
        if not CORRELATION_KEY.fullmatch(key) or not key.strip(b"0-") or lane_of(key, self.n_lanes) != self.lane:
            return None
        return key.decode()

    def _scaled(self, text: str | None, scale: int) -> None:
        """Refuse more decimals than the scale, and what would not fit a scaled int64 with room to spare."""
        value = _number(text)
        if value is None:
            return
        if (value * 10**scale).denominator != 1:
            raise _RejectedError(Reason.precision_exceeds_scale)
        if abs(value * 10**scale) >= 2**62:
            raise _RejectedError(Reason.field_invalid)

    def _normalise(self, place: Place, p: ExecutionReport) -> Report:
        venue = self.venues.get(p.venue)
        if venue is None:
            raise _RejectedError(Reason.venue_unknown)
        if venue.accounts and p.account not in venue.accounts:
            raise _RejectedError(Reason.account_unknown)
        instrument = self.instruments.get(p.instrument)
        if instrument is None:
            raise _RejectedError(Reason.instrument_unknown)
        states = p.kind in ("TRADE", "CORRECT")
        self._scaled(p.order_qty, instrument.qty_scale)
        if states:
            self._scaled(p.last_qty, instrument.qty_scale)
        self._scaled(p.cum_qty, instrument.qty_scale)
        self._scaled(p.leaves_qty, instrument.qty_scale)
        if states:
            self._scaled(p.last_px, instrument.px_scale)
        if p.event_ts_ns > p.recv_ts_ns + FUTURE or p.recv_ts_ns > self._now + FUTURE:
            raise _RejectedError(Reason.event_ts_future)
        try:
            trade_date = _date(p.trade_date)
        except ValueError:
            raise _RejectedError(Reason.timestamp_invalid) from None
        if trade_date > datetime.fromtimestamp(p.event_ts_ns // SECOND, UTC).date() + timedelta(days=1):
            raise _RejectedError(Reason.timestamp_invalid)
        if p.kind in (*MOVES, "FEE_UPDATE") and p.exec_id is None:
            raise _RejectedError(Reason.exec_id_missing)
        if (p.kind in ("BUST", "CORRECT") and p.exec_ref_id is None) or (states and p.last_qty is None):
            raise _RejectedError(Reason.field_missing)
        if p.kind == "TRADE" and p.side is None:
            raise _RejectedError(Reason.side_invalid)
        last_qty, last_px = (_number(p.last_qty), _number(p.last_px)) if states else (None, None)
        if states:
            if not last_qty:
                raise _RejectedError(Reason.zero_qty_trade)
            if last_px is None:
                raise _RejectedError(Reason.price_missing)
            if last_px <= 0:
                raise _RejectedError(Reason.price_out_of_contract)
        if self._newest_date and trade_date < _date(self._newest_date) - timedelta(days=venue.dedup_horizon_days):
            raise _RejectedError(Reason.beyond_dedup_horizon)
        self._newest_date = max(self._newest_date, p.trade_date)
        fee = _number(p.fee_amount)
        return Report(
            place=place, arrival=self._arrivals, kind=p.kind, venue=venue, account=p.account, instrument=instrument, correlation=None,
            exec_id=p.exec_id, exec_ref_id=p.exec_ref_id, secondary_exec_id=p.secondary_exec_id, trade_match_id=p.trade_match_id,
            trade_date=p.trade_date, client_order_id=p.client_order_id, orig_client_order_id=p.orig_client_order_id,
            venue_order_id=p.venue_order_id, side={"BUY": 1, "SELL": -1, None: None}[p.side], ord_status=p.ord_status,
            order_qty=_number(p.order_qty), last_qty=last_qty, cum_qty=_number(p.cum_qty), last_px=last_px,
            time=(p.event_ts_ns, p.seq_num or 0), recv_ts_ns=p.recv_ts_ns, estimate=bool(p.inferred or p.provisional) and p.kind == "TRADE",
            restatement_reason=p.restatement_reason, fee=None if fee is None else (fee, p.fee_ccy),
            liquidity=p.liquidity,
        )  # fmt: skip

    # ---- reports: one that belongs here -------------------------------------------------------------------------------------

    def _take(self, report: Report) -> None:
        """Step 4 on: a report whose correlation is this lane's."""
        assert report.correlation is not None
        if report.correlation not in self._intents:
            self._set(report.place, "pending", Reason.order_unknown)
            self._unrouted.append(report)
            found = self._inputs[report.place]
            found.arrived_ns, found.queried = self._now, False
            return
        try:
            self._identify(report)
        except _RejectedError as rejected:
            self._bury(report.place, *rejected.reasons)

    def _key(self, venue: VenueRules, account: str, symbol: str, exec_id: str, order_id: str | None, trade_date: int) -> tuple[object, ...]:
        parts: dict[str, object] = {"V": venue.name, "A": account, "I": symbol, "E": exec_id, "O": order_id}
        return (venue.name, *(parts[name] for name in venue.key), trade_date if venue.dated_key else None)

    def _identify(self, report: Report) -> None:
        if report.kind == "FEE_UPDATE":
            self._fee_update(report)
            return
        if report.kind not in UNKEYED and report.exec_id is not None:
            report.key = self._key(
                report.venue, report.account, report.instrument.symbol, report.exec_id, report.venue_order_id, report.trade_date
            )
            known = self._known.get(report.key)
            if known is not None:
                if not self._same(known, report):
                    self._conflict(known.leg, Reason.exec_conflict)
                    raise _RejectedError(Reason.exec_conflict)
                self._set(report.place, "duplicate", Reason.duplicate_transport)
                self._enrich(known, report)
                return
        if report.kind == "TRADE":
            first = self._seconds.get(self._second(report) or ())
            if first is not None:
                if (first.last_qty, first.last_px) != (report.last_qty, report.last_px):
                    self._conflict(first.leg, Reason.exec_conflict)
                    raise _RejectedError(Reason.exec_conflict)
                self._set(report.place, "duplicate", Reason.duplicate_secondary)
                self._enrich(first, report)
                return
        self._place(report)

    def _same(self, known: Report, report: Report) -> bool:
        """Return whether a report with a known key says the same."""
        if known.kind != report.kind or known.correlation != report.correlation:
            return False
        if report.kind in ("TRADE", "CORRECT"):
            if None not in (known.side, report.side) and known.side != report.side:
                return False
            if (known.last_qty, known.last_px) != (report.last_qty, report.last_px):
                return False
        return report.kind not in ("BUST", "CORRECT") or known.exec_ref_id == report.exec_ref_id

    def _second(self, report: Report) -> tuple[object, ...] | None:
        """Return the second dedup key of a TRADE, if it has one and its venue order is known."""
        match = report.trade_match_id if report.trade_match_id is not None else report.secondary_exec_id
        assert report.correlation is not None
        order = report.leg or self._find_order(
            report.correlation, report.venue, report.venue_order_id, report.client_order_id, report.orig_client_order_id
        )
        if match is None or order is None:
            return None
        return (report.venue.name, report.account, report.instrument.symbol, match, report.side, id(order))

    def _find_order(
        self, correlation: str, venue: VenueRules, venue_id: str | None, client_id: str | None, orig: str | None
    ) -> VenueOrder | None:
        for name in (("v", venue_id), ("c", client_id), ("c", orig)):
            for order in self._orders.get(correlation, []):
                if name[1] is not None and order.venue.name == venue.name and name in order.ids:
                    return order
        return None

    def _new_order(self, correlation: str, venue: VenueRules) -> VenueOrder:
        order = VenueOrder(correlation, venue)
        self._orders.setdefault(correlation, []).append(order)
        return order

    def _join_ids(self, order: VenueOrder, venue_id: str | None, client_id: str | None, orig: str | None) -> None:
        taken = {name for other in self._orders[order.correlation] if other.venue.name == order.venue.name for name in other.ids}
        for kind, value in (("v", venue_id), ("c", client_id), ("c", orig)):
            if value is not None and (kind, value) not in taken:
                order.ids.add((kind, value))

    def _mismatch(self, report: Report) -> Reason | None:
        assert report.correlation is not None
        intent = self._intents[report.correlation]
        if report.instrument.symbol != intent.symbol:
            return Reason.instrument_mismatch
        if report.account != intent.account:
            return Reason.account_mismatch
        if report.side is not None and report.side != intent.side:
            return Reason.side_mismatch
        return None

    def _place(self, report: Report) -> None:
        """Steps 6 and 7: the venue order, and whether the report fits the intent."""
        assert report.correlation is not None
        mismatch = self._mismatch(report)
        ids = (report.venue_order_id, report.client_order_id, report.orig_client_order_id)
        order = self._find_order(report.correlation, report.venue, *ids)
        if order is None and report.kind not in ("STATUS", "CANCEL_REJECT"):
            order = self._new_order(report.correlation, report.venue)
        if order is not None:
            self._join_ids(order, *ids)
            report.leg = order
        if report.kind not in MOVES and mismatch is not None:
            if order is not None:
                self._remember(report)
            self._note(Reason.attribute_mismatch, report)
            self._set(report.place, "published", Reason.attribute_mismatch)
            return
        if order is None:
            self._set(report.place, "published", Reason.accepted)
            return
        if mismatch is None:
            self._remember(report)
        if report.kind not in MOVES:
            self._fold_state(report)
        elif mismatch is not None:
            self._remember(report)
            self._hold(order, mismatch, "WARN")
            order.held.append(report)
            self._set(report.place, "pending", Reason.held)
        else:
            self._fold_execution(report)

    def _remember(self, report: Report) -> None:
        if report.key is not None:
            self._known[report.key] = report
        if report.kind == "TRADE":
            second = self._second(report)
            if second is not None:
                self._seconds[second] = report

    def _forget(self, report: Report) -> None:
        if report.key is not None and self._known.get(report.key) is report:
            del self._known[report.key]

    # ---- chains -------------------------------------------------------------------------------------------------------------

    def _referred(self, link: Report) -> Report | None:
        """Return the known execution a BUST or CORRECT refers to: its own venue order's first, then the latest trade date."""
        horizon = timedelta(days=link.venue.dedup_horizon_days)
        own = _date(link.trade_date)
        found = []
        for report in self._known.values():
            same = (report.venue.name, report.account, report.instrument.symbol, report.exec_id)
            if report is link or same != (link.venue.name, link.account, link.instrument.symbol, link.exec_ref_id):
                continue
            if "O" in link.venue.key and report.venue_order_id != link.venue_order_id:
                continue
            if not link.venue.dated_key or own - horizon <= _date(report.trade_date) <= own + timedelta(days=1):
                found.append(report)
        return max(found, key=lambda report: (report.leg is link.leg, report.trade_date), default=None)

    def _waits_for(self, waiting: Report, link: Report) -> bool:
        """Return whether a waiting link waits, at first or at last, for `link`."""
        seen: list[Report] = []
        step: Report | None = waiting
        while step is not None and step not in seen and step in self._waiting:
            seen.append(step)
            here = (step.venue.name, step.account, step.instrument.symbol, step.exec_ref_id)
            if here == (link.venue.name, link.account, link.instrument.symbol, link.exec_id):
                return True
            step = self._referred(step)
        return False

    def _fold_execution(self, report: Report) -> None:
        """Steps 8 to 10 for a TRADE, BUST or CORRECT that fits its order."""
        order = report.leg
        assert order is not None
        if report.kind == "TRADE":
            chain = Chain(report, fee=report.fee, liquidity=report.liquidity)
        else:
            try:
                found = self._resolve(report)
            except _RejectedError as conflict:
                self._forget(report)
                if report in self._waiting:
                    self._waiting.remove(report)
                self._conflict(order, Reason[next(iter(conflict.reasons))])
                if not report.expired:
                    self._bury(report.place, *conflict.reasons)
                return
            if found is None:
                if report not in self._waiting:
                    self._waiting.append(report)
                    self._inputs[report.place].arrived_ns = self._now
                    self._set(report.place, "pending", Reason.ref_unknown)
                return
            chain = found
        if report in self._waiting:
            self._waiting.remove(report)
        if report.kind == "TRADE" and terminal(order):
            self._note(Reason.fill_after_terminal, report)
        versions = self._add(order, chain, report)
        self._settle(order, versions, report)
        assert report.exec_id is not None
        for waiter in list(self._waiting):
            here = (waiter.venue.name, waiter.account, waiter.instrument.symbol, waiter.exec_ref_id)
            if waiter in self._waiting and here == (report.venue.name, report.account, report.instrument.symbol, report.exec_id):
                self._fold_execution(waiter)

    def _resolve(self, link: Report) -> Chain | None:
        """Return the chain a BUST or CORRECT follows on, None while it must wait; raises _RejectedError for a conflict."""
        if link.exec_ref_id == link.exec_id:
            raise _RejectedError(Reason.chain_cycle)
        parent = self._referred(link)
        if parent is None:
            return None
        if parent.leg is not link.leg:
            raise _RejectedError(Reason.ref_cross_order)
        if parent in self._waiting:
            if self._waits_for(parent, link):
                raise _RejectedError(Reason.chain_cycle)
            return None
        if parent.kind in MOVES and not parent.folded:
            return None
        if parent.kind not in MOVES:
            raise _RejectedError(Reason.ref_not_trade)
        if parent.kind == "BUST":
            raise _RejectedError(Reason.chain_dead)
        chain = parent.chain
        assert chain is not None
        if link.venue.ref_style != "ROOT" and [chain.root, *chain.links][-1] is not parent:
            raise _RejectedError(Reason.chain_fork)
        return chain

    def _add(self, order: VenueOrder, chain: Chain, report: Report) -> list[Version]:
        """Make a report a fact of its order; return the versions of fills that follow from it."""
        assert report.exec_id is not None
        versions: list[Version] = []
        if report.kind == "TRADE" and not report.estimate:
            versions += self._replace_estimates(order, report)
        before, _, _ = effective(order, chain) if chain in order.chains else (Fraction(0), Fraction(0), None)
        report.chain, report.folded = chain, True
        order.facts.append(report)
        side = chain.root.side
        assert side is not None
        if chain not in order.chains:
            order.chains.append(chain)
            assert report.last_qty is not None
            assert report.last_px is not None
            quantity, price = report.last_qty, report.last_px
            versions.append(Version(chain, report, report, "FILLED", quantity, price, side * quantity, report.exec_id))
            versions += self._rescale(order, {chain: (quantity, price)}, report)
            return versions
        chain.links.append(report)
        after, price, link = effective(order, chain)
        assert link is not None
        assert link.exec_id is not None
        if link.kind == "BUST":
            size, price = undone(order, chain)
            versions.append(Version(chain, link, report, "BUSTED", size, price, side * (after - before), link.exec_id))
        else:
            versions.append(Version(chain, link, report, "CORRECTED", after, price, side * (after - before), link.exec_id))
        return versions

    def _replace_estimates(self, order: VenueOrder, real: Report) -> list[Version]:
        """A real trade stands for what estimates said before: take it from the oldest first."""
        assert real.last_qty is not None
        left, versions = real.last_qty, []
        estimates = [c for c in order.chains if c.root.estimate]
        for chain in sorted(estimates, key=lambda c: (c.root.time, c.root.arrival)):
            quantity, price, link = effective(order, chain)
            taken = min(quantity, left)
            if not taken:
                continue
            assert link is not None
            assert chain.root.side is not None
            assert real.exec_id is not None
            left -= taken
            link.taken.append((real, taken))
            rest = quantity - taken
            name, size = ("CORRECTED", rest) if rest else ("BUSTED", quantity)
            versions.append(Version(chain, link, real, name, size, price, -chain.root.side * taken, real.exec_id))
            self._note(Reason.provisional_reversed, real)
        return versions

    def _rescale(self, order: VenueOrder, before: dict[Chain, tuple[Fraction, Fraction]], late: Report | None = None) -> list[Version]:
        """Return a CORRECTED version for every chain that a split moved away from what it was. late: the fill that came after its split."""
        versions = []
        for chain, (quantity, price) in before.items():
            now, now_price, link = effective(order, chain)
            if link is None or link.kind == "BUST" or (now, now_price) == (quantity, price):
                continue
            restated = [report for report, _ in splits(order) if link.time[0] < report.time[0]][-1]
            cause = late or restated
            exec_id = cause.exec_id or link.exec_id
            assert exec_id is not None
            assert chain.root.side is not None
            versions.append(Version(chain, link, cause, "CORRECTED", now, now_price, chain.root.side * (now - quantity), exec_id))
        return versions

    def _fold_state(self, report: Report) -> None:
        """Fold a state-only report."""
        order = report.leg
        assert order is not None
        before = {chain: effective(order, chain)[:2] for chain in order.chains}
        report.folded = True
        order.facts.append(report)
        self._set(report.place, "published", Reason.accepted)
        versions = self._rescale(order, before)
        if versions:
            self._note(Reason.split_applied, report)
        if order.holds:
            # what consumers already have must be rescaled at once, held or not
            for version in [v for v in versions if v.chain.version]:
                self._publish(order, version)
                versions.remove(version)
        self._settle(order, versions)
        if report.exec_id is not None and report.key is not None:
            for waiter in list(self._waiting):
                here = (waiter.venue.name, waiter.account, waiter.instrument.symbol, waiter.exec_ref_id)
                if waiter in self._waiting and here == (report.venue.name, report.account, report.instrument.symbol, report.exec_id):
                    self._fold_execution(waiter)

    # ---- totals, holds, publication -----------------------------------------------------------------------------------------

    def _settle(self, order: VenueOrder, versions: list[Version], report: Report | None = None) -> None:
        """After a fold: totals and holds, then publish what may be published. `report` is the execution just folded, if any."""
        self._check_totals(order)
        intent = self._intents.get(order.correlation)
        order.holds.discard("overfill")
        if intent is not None and overfilled(order, intent):
            self._alert(order, Reason.overfill, "CRITICAL")
            if order.venue.overfill_policy == "hold":
                order.holds.add("overfill")
        order.holds.discard("cum_regression")
        if difference(order) < 0:
            self._hold(order, Reason.cum_regression, "CRITICAL")
        order.queue += versions
        if report is not None:
            order.held.append(report)
            if not report.expired:
                self._set(report.place, "pending", Reason.held)
            self._skew(order, report)
        self._flush(order)

    def _skew(self, order: VenueOrder, report: Report) -> None:
        if report.time[0] > report.recv_ts_ns and not order.skew_noted:
            order.skew_noted = True
            self._note(Reason.clock_skew, report)

    def _flush(self, order: VenueOrder) -> None:
        """Publish everything that waits, unless the order is held."""
        if order.holds:
            return
        queue, order.queue = order.queue, []
        for version in queue:
            self._publish(order, version)
        for report in order.held:
            if report.folded and not report.expired:
                self._set(report.place, "published", Reason.accepted)
        order.held = [report for report in order.held if not report.folded]

    def _check_totals(self, order: VenueOrder) -> None:
        gap = difference(order)
        if gap > 0 and order.gap_since is None:
            order.gap_since, order.gap_alerts = self._now, 0
            self.notes.append((Reason.gap_opened.name, order.correlation))
        elif gap <= 0 and order.gap_since is not None:
            order.gap_since = None
            if gap == 0:
                self.notes.append((Reason.gap_closed.name, order.correlation))

    def _note(self, reason: Reason, report: Report) -> None:
        self.notes.append((reason.name, report.correlation or ""))

    def _alert(self, order: VenueOrder, reason: Reason, severity: str) -> None:
        intent = self._intents.get(order.correlation)
        alert = (reason.name, severity, intent.order_id if intent else order.correlation)
        if alert not in self.alerts:
            self.alerts.append(alert)

    def _hold(self, order: VenueOrder, reason: Reason, severity: str) -> None:
        order.holds.add(reason.name)
        self._alert(order, reason, severity)

    def _conflict(self, order: VenueOrder | None, reason: Reason) -> None:
        if order is not None:
            self._hold(order, reason, "CRITICAL")

    def _publish(self, order: VenueOrder, version: Version) -> None:
        chain, root, intent = version.chain, version.chain.root, self._intents[order.correlation]
        chain.version += 1
        chain.shown = (Fraction(0) if version.status == "BUSTED" else version.size, version.price)
        version.link.published = True
        version.cause.published = True
        if version.link.kind == "CORRECT" and version.link is version.cause:
            chain.fee = version.link.fee or chain.fee
            chain.liquidity = version.link.liquidity or chain.liquidity
        filled = sum((cum(other) for other in self._orders[order.correlation]), Fraction(0))
        assert root.side is not None
        assert root.exec_id is not None
        self.fills.append(FillVersion(
            fill_id="|".join("" if part is None else str(part) for part in root.key or ()), version=chain.version, status=version.status,
            signed_delta=decimal(version.delta), filled_size=decimal(version.size), price=decimal(version.price),
            cum_size=decimal(cum(order)), leaves_size=decimal(leaves(order, intent)), avg_price=decimal(published_avg(order)),
            correlation_id=order.correlation, order_id=intent.order_id, symbol=root.instrument.symbol,
            side="BUY" if root.side > 0 else "SELL", venue=root.venue.name, account=root.account, book=intent.book,
            exec_id=version.exec_id, exec_ts_ns=version.link.time[0], provisional=root.estimate,
            commission=decimal(chain.fee[0]) if chain.fee else None, commission_ccy=chain.fee[1] if chain.fee else None,
            liquidity=chain.liquidity, latency_ms=Fraction(max(0, version.link.recv_ts_ns - version.link.time[0]), 1_000_000),
            residual_size=decimal(max(intent.size - filled, Fraction(0))),
            residual_notional=decimal(version.delta * version.price * root.instrument.multiplier), first_exec_id=root.exec_id,
        ))  # fmt: skip

    def _enrich(self, known: Report, repeat: Report) -> None:
        """A repeat of an effective, published TRADE or CORRECT may bring the fee or the liquidity the fill lacked."""
        order, chain = known.leg, known.chain
        if known.kind not in ("TRADE", "CORRECT") or order is None or chain is None or not known.published or order.holds:
            return
        quantity, price, link = effective(order, chain)
        if link is not known or not quantity:
            return
        fee_differs = repeat.fee is not None and chain.fee is not None and chain.fee != repeat.fee
        liquidity_differs = repeat.liquidity is not None and chain.liquidity is not None and chain.liquidity != repeat.liquidity
        if fee_differs or liquidity_differs:
            self._note(Reason.attribute_mismatch, repeat)
            return
        brought = (repeat.fee is not None and chain.fee is None) or (repeat.liquidity is not None and chain.liquidity is None)
        chain.fee = chain.fee or repeat.fee
        chain.liquidity = chain.liquidity or repeat.liquidity
        if brought:
            assert link.exec_id is not None
            name = "FILLED" if link is chain.root else "CORRECTED"
            self._publish(order, Version(chain, link, link, name, quantity, price, Fraction(0), link.exec_id))

    def _fee_update(self, report: Report) -> None:
        assert report.exec_id is not None
        self._set(report.place, "published", Reason.accepted)
        key = self._key(report.venue, report.account, report.instrument.symbol, report.exec_id, report.venue_order_id, report.trade_date)
        known = self._known.get(key)
        if known is not None:
            self._enrich(known, report)

    # ---- decisions and clocks -----------------------------------------------------------------------------------------------

    def _decide(self, place: Place, message: HoldDecisionMessage) -> None:
        if not self._mine(place, message.correlation_id):
            return
        if message.correlation_id not in self._intents:
            raise _RejectedError(Reason.order_unknown_expired)
        if message.msg_id in self._decided:
            self._set(place, "duplicate", Reason.duplicate_transport)
            return
        self._decided.add(message.msg_id)
        self._set(place, "published", Reason.hold_released)
        orders = self._orders.get(message.correlation_id, [])
        if message.payload.action == "RELEASE":
            self._release(orders)
        else:
            for order in orders:
                self._reject(order)

    def _release(self, orders: list[VenueOrder]) -> None:
        by_first = sorted((order for order in orders if order.held), key=lambda order: order.held[0].arrival)
        held = [report for order in by_first for report in order.held]
        waiting = [version for order in orders for version in order.queue]
        for order in orders:
            order.holds.clear()
            order.held, order.queue = [], []
        for report in held:
            order = report.leg
            assert order is not None
            if report.folded:
                order.held.append(report)
                order.queue += [version for version in waiting if version.cause is report]
                self._flush_one(order, report)
                continue
            if self._mismatch(report) is Reason.instrument_mismatch:
                order.holds.add(Reason.instrument_mismatch.name)
                order.held.append(report)
                continue
            self._fold_execution(report)
        for order in orders:
            self._flush(order)

    def _flush_one(self, order: VenueOrder, report: Report) -> None:
        """Publish the versions of one report, unless the order is held (again)."""
        if order.holds:
            return
        for version in [v for v in order.queue if v.cause is report]:
            order.queue.remove(version)
            self._publish(order, version)
        order.held.remove(report)
        if not report.expired:
            self._set(report.place, "published", Reason.hold_released)

    def _reject(self, order: VenueOrder) -> None:
        order.holds.clear()
        held, order.held = order.held, []
        for report in held:
            if not report.expired:
                self._bury(report.place, Reason.operator_rejected.name)
            if not report.folded:
                continue
            report.folded = False
            order.facts.remove(report)
            order.refused.append(report)
            chain = report.chain
            assert chain is not None
            if chain.root is report:
                order.chains.remove(chain)
            elif report in chain.links:
                chain.links.remove(report)
            for other in order.chains:
                for link in in_links(other):
                    link.taken = [pair for pair in link.taken if pair[0] is not report]
        # what is left to say is what splits did meanwhile to the fills that are out
        order.queue = self._rescale(order, {chain: chain.shown for chain in order.chains if chain.version})
        self._settle(order, [])

    def advance(self, now_ns: int) -> None:
        """Let the clocks act."""
        self._now = max(self._now, now_ns)
        for waiting, reason in ((self._parked, Reason.uncorrelated_expired), (self._unrouted, Reason.order_unknown_expired)):
            for report in list(waiting):
                arrived = self._inputs[report.place]
                if self._now - arrived.arrived_ns >= UNKNOWN_EXPIRES:
                    waiting.remove(report)
                    self._bury(report.place, reason.name)
                elif self._now - arrived.arrived_ns >= QUERY_AFTER and not arrived.queried:
                    arrived.queried = True
                    self._note(Reason.pending_query, report)
        for report in self._waiting:
            if not report.expired and self._now - self._inputs[report.place].arrived_ns >= REF_EXPIRES:
                report.expired = True
                assert report.leg is not None
                self._alert(report.leg, Reason.ref_unknown_expired, "CRITICAL")
                self._bury(report.place, Reason.ref_unknown_expired.name)
        for orders in self._orders.values():
            for order in orders:
                if order.gap_since is None:
                    continue
                if self._now - order.gap_since >= GAP_WARNS and order.gap_alerts == 0:
                    order.gap_alerts = 1
                    self._alert(order, Reason.gap_opened, "WARN")
                if self._now - order.gap_since >= GAP_EXPIRES and order.gap_alerts == 1:
                    order.gap_alerts = 2
                    self._alert(order, Reason.gap_expired, "CRITICAL")
                    self.notes.append((Reason.gap_expired.name, order.correlation))

    # ---- questions ----------------------------------------------------------------------------------------------------------

    def balance(self) -> dict[str, int]:
        """Return how many inputs were received and how many stand at each outcome."""
        counts = Counter(outcome.outcome for outcome in self.outcomes.values())
        names = ("published", "duplicate", "pending", "dlq", "rerouted")
        return {"received": len(self.outcomes), **{name: counts[name] for name in names}}

    def order_state(self, correlation: str) -> list[dict[str, Any]]:
        """Return the state of every venue order of a correlation, in the order they were first heard of; nothing before its route."""
        if correlation not in self._intents:
            return []
        return [self._state(order) for order in self._orders.get(correlation, [])]

    def correlations(self) -> list[str]:
        """Return every correlation the lane knows a venue order of."""
        return list(self._orders)

    def _state(self, order: VenueOrder) -> dict[str, Any]:
        intent = self._intents.get(order.correlation)
        day_order, day_cum = day_quantities(order, intent)
        return {
            "venue": order.venue.name,
            "order_qty": decimal(order_quantity(order, intent)),
            "cum": decimal(cum(order)),
            "leaves": decimal(leaves(order, intent)),
            "avg_price": decimal(published_avg(order)),
            "status": status(order, intent),
            "day_order_qty": decimal(day_order),
            "day_cum": decimal(day_cum),
            "held": sorted(order.holds),
            "gap": decimal(max(difference(order), Fraction(0))),
        }


def in_links(chain: Chain) -> list[Report]:
    """Return the first execution and every link of a chain."""
    return [chain.root, *chain.links]


class Oracle:
    """All lanes of the flow. Records a lane sends on, and the aliases it tells, are fed to the lane they belong to at once."""

    def __init__(self, n_lanes: int, reference: Reference) -> None:
        self.lanes = [LaneOracle(lane, n_lanes, reference) for lane in range(n_lanes)]
        self._sent = [[0, 0] for _ in self.lanes]
        self._internal = -1

    def feed(self, topic: str, lane: int, offset: int, key: bytes, value: bytes, now_ns: int, follow: bool = True) -> None:
        """Feed one record of a partition. With `follow` False the caller feeds re-published records itself (as read from the topic)."""
        self.lanes[lane].feed(topic, offset, key, value, now_ns)
        if follow:
            self._follow(now_ns)

    def advance(self, now_ns: int, follow: bool = True) -> None:
        """Let the clocks of every lane act."""
        for lane in self.lanes:
            lane.advance(now_ns)
        if follow:
            self._follow(now_ns)

    def _follow(self, now_ns: int) -> None:
        moved = True
        while moved:
            moved = False
            for lane, sent in zip(self.lanes, self._sent, strict=True):
                while sent[0] < len(lane.reroutes) or sent[1] < len(lane.aliases):
                    moved = True
                    if sent[0] < len(lane.reroutes):
                        topic, key, value = lane.reroutes[sent[0]]
                        sent[0] += 1
                    else:
                        topic, (key, value) = ALIAS, alias_record(*lane.aliases[sent[1]], now_ns)
                        sent[1] += 1
                    target = self.lanes[lane_of(key, len(self.lanes))]
                    # offsets below zero: the oracle's own records, which no topic holds
                    target.feed(topic, self._internal, key, value, now_ns)
                    self._internal -= 1

    def fills(self) -> list[FillVersion]:
        """Return every published version."""
        return [fill for lane in self.lanes for fill in lane.fills]

    def final_fills(self) -> dict[str, FillVersion]:
        """Return the last version of every fill by fill_id."""
        return {fill.fill_id: fill for fill in self.fills()}

    def effective(self) -> dict[str, tuple[Decimal, Decimal]]:
        """Return (quantity, price) of every fill as consumers should now see it; a busted fill has quantity 0."""
        return {
            fill_id: (Decimal(0) if fill.status == "BUSTED" else fill.filled_size, fill.price)
            for fill_id, fill in self.final_fills().items()
        }

    def positions(self) -> dict[tuple[str, str], Decimal]:
        """Return the position per (account, symbol): the sum of every published signed_delta."""
        found: dict[tuple[str, str], Decimal] = {}
        for fill in self.fills():
            name = (fill.account, fill.symbol)
            found[name] = found.get(name, Decimal(0)) + fill.signed_delta
        return found

    def order_state(self, correlation: str) -> list[dict[str, Any]]:
        """Return the states of a correlation's venue orders."""
        return self.lanes[lane_of(correlation, len(self.lanes))].order_state(correlation)

    def balance(self) -> dict[str, int]:
        """Return the balance summed over lanes (an input that was passed on counts once more where it went)."""
        total: Counter[str] = Counter()
        for lane in self.lanes:
            total.update(lane.balance())
        return dict(total)


def alias_record(venue: str, venue_order_id: str, correlation: str, now_ns: int) -> tuple[bytes, bytes]:
    """Return (key, value) of a record that tells an alias."""
    message = {
        "msg_id": correlation, "type": ALIAS, "version": "v1", "ts": "2020-01-01T00:00:00Z", "ts_ns": now_ns, "ttl_ms": 600_000,
        "correlation_id": correlation, "sender": "agent.execution", "idempotency_key": correlation,
        "payload": {"venue": venue, "venue_order_id": venue_order_id, "order_id": correlation},
    }  # fmt: skip
    return f"{venue}|{venue_order_id}".encode(), json.dumps(message, ensure_ascii=False).encode()
