"""Orders on their way out: the routed intent and the order agent's acknowledgement."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from schemas.envelope import Envelope, Strict
from schemas.fields import (
    Account,
    Book,
    Decimal,
    Id64,
    Leg,
    PositiveDecimal,
    Spec,
    Symbol,
    TimestampNs,
    Uuid,
    Venue,
    integer,
    real,
    string,
)
from schemas.reasons import Reason

Side = Annotated[Literal["BUY", "SELL"], Spec("enum", reason=Reason.side_invalid)]
TimeInForce = Literal["IOC", "FOK", "GTC", "DAY"]


class RouteLeg(Strict):
    """One venue of a routing plan. `max_latency_ms` is the fill confirmation SLA of that venue for this order."""

    venue: Venue
    weight: Annotated[float, real(0.0, 1.0)]
    min_fill: PositiveDecimal | None = None
    max_latency_ms: Annotated[int, integer(1, 86_400_000)] | None = None


class RiskContext(Strict):
    """What the policy decided when it let the order through."""

    policy_decision_id: Annotated[str, string(64)]
    risk_score: Annotated[float, real(0.0, 1.0)] | None = None


class RouteIntent(Strict):
    """An order as routed. `size` in base units, `decision_px` and `price_limit` in quote per base."""

    order_id: Uuid
    symbol: Symbol
    side: Side
    size: PositiveDecimal
    time_in_force: TimeInForce
    routing_plan: Annotated[list[RouteLeg], Field(min_length=1, max_length=64)]
    price_limit: Decimal | None = None
    risk_context: RiskContext | None = None
    book: Book
    account: Account
    decision_ts_ns: TimestampNs
    decision_px: PositiveDecimal | None = None


class RouteIntentMessage(Envelope):
    """order.intent.route.v1, keyed by correlation_id."""

    type: Literal["order.intent.route.v1"]
    correlation_id: Uuid
    payload: RouteIntent


AckStatus = Literal["ACKED", "REJECTED", "REPLACED", "CANCELED"]


class OrderAck(Strict):
    """A venue's answer to one of our requests. `size` is the order quantity it now stands at."""

    order_id: Uuid
    venue: Venue
    client_order_id: Id64
    venue_order_id: Id64 | None = None
    leg: Leg | None = None
    status: AckStatus
    size: PositiveDecimal
    ack_ts_ns: TimestampNs


class OrderAckMessage(Envelope):
    """order.event.ack.v1, keyed by correlation_id."""

    type: Literal["order.event.ack.v1"]
    correlation_id: Uuid
    payload: OrderAck
