"""Peer: a stock Bytewax flow, as its documentation writes one: KafkaSource, a pydantic model per record, `stateful_map`, KafkaSink, recovery.

Run by bench.execution as `python -m bytewax.run bench.peers.stock_bytewax:flow -r DIR`; settings come from BENCH_KAFKA and BENCH_OUTPUT.
At-least-once by design: its sink writes without transactions, so what follows the last snapshot is published again after a crash.
"""

from __future__ import annotations

import os
from decimal import Decimal
from typing import Any

import bytewax.operators as op
from bytewax.connectors.kafka import KafkaSinkMessage
from bytewax.connectors.kafka import operators as kop
from bytewax.dataflow import Dataflow
from pydantic import BaseModel

from bench.peers.reconcile import ACK, INPUTS, REPORT, ROUTE, Order


class RoutePayload(BaseModel):
    """What of a routed order is needed."""

    order_id: str
    symbol: str
    side: str
    size: Decimal
    book: str
    account: str


class AckPayload(BaseModel):
    """What of an acknowledgement is needed."""

    venue: str
    client_order_id: str
    venue_order_id: str | None = None
    status: str


class ReportPayload(BaseModel):
    """What of an execution report is needed."""

    venue: str
    account: str
    instrument: str
    kind: str
    exec_id: str | None = None
    exec_ref_id: str | None = None
    trade_date: int
    side: str | None = None
    order_qty: Decimal | None = None
    last_qty: Decimal | None = None
    last_px: Decimal | None = None
    event_ts_ns: int
    recv_ts_ns: int
    fee_amount: Decimal | None = None
    fee_ccy: str | None = None
    liquidity: str | None = None


class RouteMessage(BaseModel):
    """A routed order."""

    correlation_id: str
    payload: RoutePayload


class AckMessage(BaseModel):
    """An acknowledgement."""

    correlation_id: str
    payload: AckPayload


class ReportMessage(BaseModel):
    """An execution report."""

    correlation_id: str
    payload: ReportPayload


class Fill(BaseModel):
    """What is published."""

    order_id: str
    fill_id: str
    symbol: str
    side: str
    filled_size: Decimal
    price: Decimal
    venue: str
    latency_ms: float
    idempotency_key: str
    commission: Decimal | None
    commission_ccy: str | None
    liquidity_flag: str | None
    book: str
    account: str
    exec_id: str
    exec_ts_ns: int
    status: str
    version: int
    signed_delta: Decimal
    cum_size: Decimal
    leaves_size: Decimal
    avg_price: Decimal


class FillMessage(BaseModel):
    """The envelope of a fill."""

    type: str = "execution.event.fill.v1"
    correlation_id: str
    payload: Fill


MODELS: dict[str, type[RouteMessage] | type[AckMessage] | type[ReportMessage]] = {
    ROUTE: RouteMessage,
    ACK: AckMessage,
    REPORT: ReportMessage,
}


def parse(message: Any) -> tuple[str, RouteMessage | AckMessage | ReportMessage]:
    """Return (key, model) of a Kafka message."""
    model = MODELS[message.topic].model_validate_json(message.value)
    return model.correlation_id, model


def reconcile(order: Order | None, message: RouteMessage | AckMessage | ReportMessage) -> tuple[Order, list[dict[str, Any]]]:
    """Fold one record into its order; return the order and the fills."""
    order = order or Order()
    fills: list[dict[str, Any]] = []
    if isinstance(message, ReportMessage):
        fills = order.take_report(message.payload)
    elif isinstance(message, RouteMessage):
        route = message.payload
        fills = order.take_route({"order_id": route.order_id, "book": route.book, "size": str(route.size)})
    else:
        order.take_ack(message.payload.venue_order_id)
    return order, fills


def serialize(item: tuple[str, dict[str, Any]]) -> KafkaSinkMessage[bytes, bytes]:
    """Return a fill as a Kafka message."""
    correlation, told = item
    fill = Fill(**told)
    return KafkaSinkMessage(fill.book.encode(), FillMessage(correlation_id=correlation, payload=fill).model_dump_json().encode())


def build(brokers: list[str], output: str) -> Dataflow:
    """Return the flow."""
    flow = Dataflow("stock_execution")
    source = kop.input("input", flow, brokers=brokers, topics=list(INPUTS))
    op.raises("errors", source.errs)
    orders = op.map("parse", source.oks, parse)
    fills = op.flat_map("each", op.stateful_map("reconcile", orders, reconcile), lambda item: [(item[0], fill) for fill in item[1]])
    kop.output("output", op.map("serialize", fills, serialize), brokers=brokers, topic=output)
    return flow


if "BENCH_KAFKA" in os.environ:
    flow = build(os.environ["BENCH_KAFKA"].split(","), os.environ["BENCH_OUTPUT"])
