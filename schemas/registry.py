"""The topics: name, key, partitions, retention, model, who may send. The one place a topic is defined (contracts, "Topics")."""

from __future__ import annotations

from dataclasses import dataclass

from schemas.envelope import Envelope
from schemas.execution import (
    AliasMessage,
    AuditMessage,
    ComplianceAlertMessage,
    DeadLetterMessage,
    ExecutionReportMessage,
    FillMessage,
    HaltRequestMessage,
    HoldDecisionMessage,
)
from schemas.market import MarketSnapshotMessage
from schemas.orders import OrderAckMessage, RouteIntentMessage

DAY_MS = 86_400_000
WEEK_MS = 7 * DAY_MS
YEAR_MS = 365 * DAY_MS

SCHEMA_VERSION = 1
"""Version of the released schemas under schemas/released/; a change that is not backward compatible needs a new one."""

MAX_RECORD_BYTES = 1_048_576
"""Inputs above 1 MiB go to the DLQ (`oversize`); their topics accept twice that so that the bytes can be kept."""


@dataclass(frozen=True)
class Topic:
    """One topic. `lanes`: True when its partition count must equal the flow's lanes (co-partitioned); `cleanup`: `delete`, `compact`,
    or `offset` (a changelog: nothing expires, the flow deletes what it no longer needs). `senders`: agents that may produce to it (empty: anyone)."""

    name: str
    key: str
    model: type[Envelope] | None
    lanes: bool = True
    partitions: int | None = None
    retention_ms: int = WEEK_MS
    cleanup: str = "delete"
    max_message_bytes: int = MAX_RECORD_BYTES
    senders: tuple[str, ...] = ()
    doc: str = ""


TOPICS: dict[str, Topic] = {
    topic.name: topic
    for topic in (
        Topic("venue.execution.report.v1", "correlation_id, else venue|venue_order_id", ExecutionReportMessage,
              max_message_bytes=2 * MAX_RECORD_BYTES, doc="Canonical execution reports of the venues, from the gateways."),
        Topic("order.intent.route.v1", "correlation_id", RouteIntentMessage, max_message_bytes=2 * MAX_RECORD_BYTES,
              doc="Orders as routed."),
        Topic("order.event.ack.v1", "correlation_id", OrderAckMessage, max_message_bytes=2 * MAX_RECORD_BYTES,
              doc="Venues' answers to our requests; also where a venue's order id is tied to its correlation."),
        Topic("execution.intent.hold.v1", "correlation_id", HoldDecisionMessage, max_message_bytes=2 * MAX_RECORD_BYTES,
              doc="Operators' decisions on held orders."),
        Topic("execution.state.alias.v1", "venue|venue_order_id", AliasMessage, max_message_bytes=2 * MAX_RECORD_BYTES,
              senders=("agent.execution",), doc="Internal: tells the lane where uncorrelated reports wait what they belong to."),
        Topic("marketdata.snapshot.v1", "symbol", MarketSnapshotMessage, lanes=False, partitions=4, retention_ms=DAY_MS,
              doc="Best bid and ask; read whole by every worker."),
        Topic("execution.event.fill.v1", "book", FillMessage, lanes=False, senders=("agent.execution",),
              doc="Fills, tied to their orders and measured; one record per version."),
        Topic("audit.event.execution", "lane", AuditMessage, retention_ms=7 * YEAR_MS, senders=("agent.execution",),
              doc="Who, what, why; hash-chained per lane (record partition = lane)."),
        Topic("dlq.execution", "key of the input", DeadLetterMessage, max_message_bytes=4 * MAX_RECORD_BYTES,
              senders=("agent.execution",), doc="Inputs that could not be used, with reason and original bytes."),
        Topic("compliance.event.alert.v1", "order_id", ComplianceAlertMessage, lanes=False, partitions=4,
              senders=("agent.execution",), doc="Mismatches somebody must look at."),
        Topic("execution.request.halt.v1", "venue", HaltRequestMessage, lanes=False, partitions=1,
              senders=("agent.execution",), doc="Requests to PolicyGuard to stop routing to a venue."),
        Topic("hedgerow.execution.changelog", "lane", None, cleanup="offset", max_message_bytes=2 * MAX_RECORD_BYTES,
              senders=("agent.execution",), doc="Internal: the execution flow's state."),
    )
}  # fmt: skip

EXECUTION_INPUTS = (
    "venue.execution.report.v1",
    "order.intent.route.v1",
    "order.event.ack.v1",
    "execution.intent.hold.v1",
    "execution.state.alias.v1",
)
EXECUTION_BROADCAST = ("marketdata.snapshot.v1",)
EXECUTION_OUTPUTS = (
    "execution.event.fill.v1",
    "audit.event.execution",
    "dlq.execution",
    "compliance.event.alert.v1",
    "execution.request.halt.v1",
    "execution.state.alias.v1",
    "venue.execution.report.v1",
)
EXECUTION_CHANGELOG = "hedgerow.execution.changelog"
