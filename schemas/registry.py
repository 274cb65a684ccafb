"""The topics: name, key, partitions, retention, model, who may send. The one place a topic is defined (contracts, "Topics")."""

from __future__ import annotations

from dataclasses import dataclass

from schemas.canary import (
    AccountStateMessage,
    ActivityMessage,
    CanaryAlertMessage,
    CanaryDeadLetterMessage,
    DeliveryMessage,
    IndicatorMessage,
    MonitorDeadLetterMessage,
    NoticeMessage,
    PositionStateMessage,
    RegimeDeadLetterMessage,
    RegimeMessage,
    WebhookDeadLetterMessage,
)
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
from schemas.hedging import (
    AllocationMessage,
    BookMetricMessage,
    BookRatiosMessage,
    ChannelStatusMessage,
    CoverMessage,
    DeskDecisionMessage,
    EscalationMessage,
    GuardPolicyMessage,
    HaltAckMessage,
    HaltMessage,
    HedgeEventMessage,
    HedgeOrderEventMessage,
    HedgerAuditMessage,
    HedgerDeadLetterMessage,
    HedgeRequestMessage,
    MatrixRowMessage,
    ResumeMessage,
    RiskContextMessage,
    UniverseMessage,
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
    or `offset` (a changelog: nothing expires, the flow deletes what it no longer needs). `senders`: agents that may produce to it (empty: anyone).
    `columnar`: read in columns by the codec; else at a low rate, one by one (schemas/parse.py)."""

    name: str
    key: str
    model: type[Envelope] | None
    lanes: bool = True
    partitions: int | None = None
    retention_ms: int = WEEK_MS
    cleanup: str = "delete"
    max_message_bytes: int = MAX_RECORD_BYTES
    senders: tuple[str, ...] = ()
    columnar: bool = True
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
        Topic("execution.event.fill.v1", "book", FillMessage, senders=("agent.execution",),
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
        Topic("portfolio.intent.allocate.v1", "book", AllocationMessage, columnar=False, max_message_bytes=2 * MAX_RECORD_BYTES,
              doc="What a book shall hold: signed notionals."),
        Topic("risk.state.context.v1", "book, or *", RiskContextMessage, lanes=False, partitions=1, columnar=False,
              doc="Risk level, limits and headroom of a book; read whole by every worker."),
        Topic("policy.state.guard.v1", "book, or *", GuardPolicyMessage, lanes=False, partitions=1, cleanup="compact", columnar=False,
              doc="PolicyGuard's policy: do-not-trade windows, stress scenarios, unwinds."),
        Topic("hedge.state.universe.v1", "book", UniverseMessage, lanes=False, partitions=1, cleanup="compact", columnar=False,
              doc="What a book hedges with."),
        Topic("system.halt.intent.v1", "scope|id", HaltMessage, lanes=False, partitions=1, retention_ms=YEAR_MS, columnar=False,
              doc="HALT: nothing new until resumed."),
        Topic("system.resume.intent.v1", "scope|id", ResumeMessage, lanes=False, partitions=1, retention_ms=YEAR_MS, columnar=False,
              doc="Ends a HALT, with the approvals of risk and compliance."),
        Topic("system.halt.ack.v1", "scope|id", HaltAckMessage, lanes=False, partitions=1, retention_ms=YEAR_MS, columnar=False,
              senders=("agent.hedger",), doc="Each lane's word that it has stopped."),
        Topic("order.channel.status.v1", "venue", ChannelStatusMessage, lanes=False, partitions=1, columnar=False,
              doc="Whether orders can be sent to a venue."),
        Topic("order.event.hedge.v1", "book", HedgeOrderEventMessage, columnar=False, max_message_bytes=2 * MAX_RECORD_BYTES,
              doc="The order agent's answers on the legs of hedges."),
        Topic("hedger.intent.desk.v1", "book", DeskDecisionMessage, columnar=False, max_message_bytes=2 * MAX_RECORD_BYTES,
              doc="The manual desk's word: hold, release, taken over."),
        Topic("hedger.intent.cover", "book", CoverMessage, columnar=False, max_message_bytes=2 * MAX_RECORD_BYTES, senders=("agent.hedger", "agent.portfolio"),
              doc="Hedges to be made; from agent.portfolio a request, which the hedger reads."),
        Topic("hedger.request.order.v1", "book", HedgeRequestMessage, columnar=False, senders=("agent.hedger",),
              doc="Questions about, and cancels of, hedges that were sent."),
        Topic("hedger.event.cover", "book", HedgeEventMessage, columnar=False, senders=("agent.hedger",),
              doc="States of hedges, with coverage, effectiveness and slippage."),
        Topic("hedger.metric.book.v1", "book", BookMetricMessage, columnar=False, senders=("agent.hedger",),
              doc="Figures of a book over windows of 5 minutes, an hour and a day."),
        Topic("hedger.event.escalation.v1", "book", EscalationMessage, columnar=False, senders=("agent.hedger",),
              doc="What the hedger cannot settle alone."),
        Topic("audit.event.hedger", "lane", HedgerAuditMessage, retention_ms=7 * YEAR_MS, columnar=False, senders=("agent.hedger",),
              doc="Every decision of the hedger, also those to do nothing; hash-chained per lane (record partition = lane)."),
        Topic("dlq.hedger", "key of the input", HedgerDeadLetterMessage, max_message_bytes=4 * MAX_RECORD_BYTES, columnar=False,
              senders=("agent.hedger",), doc="Inputs of the hedger that could not be used."),
        Topic("hedge.state.matrix.v1", "symbol", MatrixRowMessage, lanes=False, partitions=1, cleanup="compact", columnar=False,
              senders=("agent.hedger",), doc="Covariances of all series; for stores, and for restarts."),
        Topic("hedge.state.ratios.v1", "book", BookRatiosMessage, lanes=False, partitions=1, cleanup="compact", columnar=False,
              max_message_bytes=2 * MAX_RECORD_BYTES, senders=("agent.hedger",), doc="Hedge ratios in use, by book; for stores."),
        Topic("hedgerow.hedger.changelog", "lane", None, cleanup="offset", max_message_bytes=2 * MAX_RECORD_BYTES,
              senders=("agent.hedger",), doc="Internal: the hedger's state."),
        Topic("market.indicator.v1", "indicator", IndicatorMessage, lanes=False, partitions=1, columnar=False, max_message_bytes=4 * MAX_RECORD_BYTES,
              doc="Observations the regime dashboard is made of."),
        Topic("risk.regime.v1", "regime|profile", RegimeMessage, lanes=False, partitions=1, cleanup="compact", columnar=False,
              senders=("agent.regime",), doc="The dashboard of each policy profile; read whole by every worker of the canary."),
        Topic("dlq.regime", "key of the input", RegimeDeadLetterMessage, lanes=False, partitions=1, max_message_bytes=8 * MAX_RECORD_BYTES, columnar=False,
              senders=("agent.regime",), doc="Observations that could not be used."),
        Topic("hedgerow.regime.changelog", "lane", None, lanes=False, partitions=1, cleanup="offset", max_message_bytes=2 * MAX_RECORD_BYTES,
              senders=("agent.regime",), doc="Internal: the regime flow's memory."),
        Topic("portfolio.state.account.v1", "account", AccountStateMessage, cleanup="compact", max_message_bytes=2 * MAX_RECORD_BYTES,
              doc="Accounts as the broker shows them."),
        Topic("portfolio.state.position.v1", "account", PositionStateMessage, cleanup="compact", max_message_bytes=2 * MAX_RECORD_BYTES,
              doc="Positions of accounts as the broker shows them, with their sums."),
        Topic("canary.state.activity.v1", "account", ActivityMessage, max_message_bytes=2 * MAX_RECORD_BYTES, senders=("agent.canary",),
              doc="Internal to the canary: fills and hedges of a book, by account."),
        Topic("canary.alert.v1", "account", CanaryAlertMessage, columnar=False, senders=("agent.canary",),
              doc="What the sentinel says of an account: on change, and on heartbeat."),
        Topic("dlq.canary", "key of the input", CanaryDeadLetterMessage, max_message_bytes=4 * MAX_RECORD_BYTES, columnar=False,
              senders=("agent.canary",), doc="Inputs of the canary that could not be used."),
        Topic("hedgerow.canary.changelog", "lane", None, cleanup="offset", max_message_bytes=2 * MAX_RECORD_BYTES,
              senders=("agent.canary",), doc="Internal: the canary's state."),
        Topic("canary.notice.v1", "account", NoticeMessage, retention_ms=90 * DAY_MS, columnar=False, senders=("agent.monitor",),
              doc="The monitor's decisions: who is told, and what changed."),
        Topic("dlq.monitor", "key of the input", MonitorDeadLetterMessage, max_message_bytes=4 * MAX_RECORD_BYTES, columnar=False,
              senders=("agent.monitor",), doc="Alerts the monitor could not use."),
        Topic("hedgerow.monitor.changelog", "lane", None, cleanup="offset", max_message_bytes=2 * MAX_RECORD_BYTES,
              senders=("agent.monitor",), doc="Internal: the monitor's state."),
        Topic("canary.state.delivery.v1", "delivery_id", DeliveryMessage, cleanup="compact", columnar=False, senders=("agent.monitor",),
              doc="Deliveries of notices to webhooks: reserved before they are sent, then what became of them."),
        Topic("dlq.webhook", "account", WebhookDeadLetterMessage, retention_ms=90 * DAY_MS, columnar=False, senders=("agent.monitor",),
              doc="Notices no webhook took."),
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

HEDGER_INPUTS = (
    "execution.event.fill.v1",
    "portfolio.intent.allocate.v1",
    "order.event.hedge.v1",
    "hedger.intent.desk.v1",
    "hedger.intent.cover",
)
HEDGER_STATES = (
    "risk.state.context.v1",
    "policy.state.guard.v1",
    "hedge.state.universe.v1",
    "system.halt.intent.v1",
    "system.resume.intent.v1",
    "order.channel.status.v1",
    "hedge.state.matrix.v1",
)
"""Broadcast topics that are read from their beginning: what they say holds until it is said otherwise."""
HEDGER_BROADCAST = ("marketdata.snapshot.v1", *HEDGER_STATES)
HEDGER_OUTPUTS = (
    "hedger.intent.cover",
    "hedger.request.order.v1",
    "hedger.event.cover",
    "hedger.metric.book.v1",
    "hedger.event.escalation.v1",
    "audit.event.hedger",
    "dlq.hedger",
    "system.halt.ack.v1",
    "hedge.state.matrix.v1",
    "hedge.state.ratios.v1",
    "execution.event.fill.v1",
    "portfolio.intent.allocate.v1",
    "order.event.hedge.v1",
    "hedger.intent.desk.v1",
)
"""The last four: inputs that came to the wrong lane, sent to the right one."""
HEDGER_CHANGELOG = "hedgerow.hedger.changelog"

REGIME_INPUTS = ("market.indicator.v1",)
REGIME_OUTPUTS = ("risk.regime.v1", "dlq.regime")
REGIME_CHANGELOG = "hedgerow.regime.changelog"

CANARY_INPUTS = (
    "portfolio.state.account.v1",
    "portfolio.state.position.v1",
    "canary.state.activity.v1",
    "execution.event.fill.v1",
    "hedger.event.cover",
)
"""The last two are keyed by book: what they say of an account goes to its lane on canary.state.activity.v1."""
CANARY_BROADCAST = ("risk.regime.v1",)
CANARY_OUTPUTS = ("canary.alert.v1", "canary.state.activity.v1", "dlq.canary", "portfolio.state.account.v1", "portfolio.state.position.v1")
"""The last two: inputs that came to the wrong lane, sent to the right one."""
CANARY_CHANGELOG = "hedgerow.canary.changelog"

MONITOR_INPUTS = ("canary.alert.v1",)
MONITOR_OUTPUTS = ("canary.notice.v1", "dlq.monitor", "canary.alert.v1")
"""The last: alerts that came to the wrong lane, sent to the right one."""
MONITOR_CHANGELOG = "hedgerow.monitor.changelog"
DELIVERY_TOPICS = ("canary.notice.v1", "canary.state.delivery.v1", "dlq.webhook")
"""What the webhook deliverer reads and writes."""
