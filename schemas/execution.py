"""What the execution flow reads from gateways and what it publishes (contracts; reconciliation §2; tca §2 and §3)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from schemas.envelope import Envelope, Strict
from schemas.fields import (
    Account,
    Base64,
    Book,
    Currency,
    Decimal,
    HexDigest,
    Id64,
    JsonObject,
    Leg,
    NonNegativeDecimal,
    PositiveDecimal,
    ReasonName,
    Spec,
    Symbol,
    TimestampNs,
    Uuid,
    Venue,
    integer,
    real,
    string,
    token,
)
from schemas.orders import Side

Source = Literal["FIX_DROP_COPY", "FIX_ORDER", "WEBSOCKET", "REST_CALLBACK", "REST_POLL", "REPLAY", "MANUAL"]
ReportKind = Literal[
    "NEW", "TRADE", "BUST", "CORRECT", "CANCELED", "REPLACED", "EXPIRED", "DONE_FOR_DAY", "REJECTED", "RESTATED",
    "PENDING_NEW", "PENDING_CANCEL", "PENDING_REPLACE", "STOPPED", "SUSPENDED", "CALCULATED", "TRIGGERED", "STATUS",
    "CANCEL_REJECT", "FEE_UPDATE",
]  # fmt: skip
OrdStatus = Literal[
    "PENDING_NEW", "NEW", "PARTIALLY_FILLED", "FILLED", "DONE_FOR_DAY", "CANCELED", "REPLACED", "PENDING_CANCEL", "STOPPED",
    "REJECTED", "SUSPENDED", "CALCULATED", "EXPIRED", "PENDING_REPLACE",
]  # fmt: skip
Liquidity = Literal["MAKER", "TAKER", "AUCTION", "ROUTED"]
FeeStatus = Literal["FINAL", "PENDING", "ESTIMATED"]


class ExecutionReport(Strict):
    """One canonical report of a venue. Null means the venue did not say.

    Only TRADE, BUST and CORRECT move quantity. Quantities in base units, prices in quote per base, `fee_amount` positive for a
    cost and negative for a rebate. A CORRECT carries new absolute values; a BUST's last_qty and last_px are ignored.
    `trade_date` is the venue's (yyyymmdd), never derived from the receive time. `ord_status` is the venue's word, used only to
    tell a rejected request from a rejected order. `raw` is the venue's own message.
    """

    source: Source
    venue: Venue
    account: Account
    instrument: Symbol
    kind: ReportKind
    exec_id: Id64 | None = None
    exec_ref_id: Id64 | None = None
    secondary_exec_id: Id64 | None = None
    trade_match_id: Id64 | None = None
    trade_date: Annotated[int, integer(20000101, 20991231)]
    client_order_id: Id64 | None = None
    orig_client_order_id: Id64 | None = None
    venue_order_id: Id64 | None = None
    leg: Leg | None = None
    side: Side | None = None
    short: bool | None = None
    ord_status: OrdStatus | None = None
    order_qty: NonNegativeDecimal | None = None
    last_qty: NonNegativeDecimal | None = None
    cum_qty: NonNegativeDecimal | None = None
    leaves_qty: NonNegativeDecimal | None = None
    day_order_qty: NonNegativeDecimal | None = None
    day_cum_qty: NonNegativeDecimal | None = None
    last_px: Decimal | None = None
    avg_px: Decimal | None = None
    limit_px: Decimal | None = None
    fee_amount: Decimal | None = None
    fee_ccy: Currency | None = None
    fee_status: FeeStatus | None = None
    liquidity: Liquidity | None = None
    event_ts_ns: TimestampNs
    sent_ts_ns: TimestampNs | None = None
    recv_ts_ns: TimestampNs
    ts_precision_ns: Annotated[int, integer(1, 1_000_000_000)] | None = None
    session_id: Id64 | None = None
    seq_num: Annotated[int, integer(0, 2**62)] | None = None
    poss_dup: bool | None = None
    poss_resend: bool | None = None
    orig_sent_ts_ns: TimestampNs | None = None
    provisional: bool | None = None
    inferred: bool | None = None
    restatement_reason: Annotated[int, integer(0, 99)] | None = None
    reject_reason: Annotated[int, integer(0, 9999)] | None = None
    text: Annotated[str, string(256, min_len=0)] | None = None
    attributes: JsonObject | None = None
    item: Annotated[int, integer(0, 100_000)] | None = None
    raw: Base64
    raw_sha256: HexDigest | None = None
    dialect: Annotated[str, string(64)]


class ExecutionReportMessage(Envelope):
    """venue.execution.report.v1, keyed by correlation_id, else by `venue|venue_order_id`."""

    type: Literal["venue.execution.report.v1"]
    payload: ExecutionReport


BenchmarkStatus = Literal["ok", "stale", "missing"]
BenchmarkDetail = Literal["aged", "low_confidence", "locked_or_crossed", "tape_behind", "clock_offset", "failover"]


class Benchmark(Strict):
    """The price a fill is measured against. `px` is a mid; `age_ms` is look-up time minus quote time."""

    kind: Literal["arrival", "mid"]
    px: Decimal | None = None
    ts_ns: TimestampNs | None = None
    status: BenchmarkStatus
    detail: BenchmarkDetail | None = None
    snapshot_id: Uuid | None = None
    age_ms: Annotated[float, real()] | None = None


class Slippage(Strict):
    """Cost-positive bps (tca §3). Null when the benchmark is missing."""

    arrival_bps: Annotated[float, real()] | None = None
    mid_bps: Annotated[float, real()] | None = None
    spread_capture: Annotated[float, real()] | None = None


class Residual(Strict):
    """What is still to do. `order_size`: unfilled size of the whole order (all its legs); `exposure_notional`: signed quote
    notional this message adds to the book and nobody has hedged yet (signed_delta × price × multiplier)."""

    order_size: NonNegativeDecimal
    exposure_notional: Decimal


class Fill(Strict):
    """One version of one fill. Consumers get the position as the sum of `signed_delta`.

    version 1 is FILLED (+q); a correction is a new version with the new absolute size and price; a bust repeats the size and price
    it undoes. A version with signed_delta 0 brings a missing attribute (fee, liquidity). `cum_size`, `leaves_size` and `avg_price` are the
    venue order's after this message.
    """

    order_id: Uuid
    fill_id: Uuid
    symbol: Symbol
    side: Side
    filled_size: PositiveDecimal
    price: PositiveDecimal
    venue: Venue
    latency_ms: Annotated[float, real(0.0)]
    idempotency_key: Annotated[str, string(64, min_len=16)]
    slippage_bps: Annotated[float, real()] | None = None
    commission: Decimal | None = None
    commission_ccy: Currency | None = None
    liquidity_flag: Literal["MAKER", "TAKER"] | None = None
    book: Book
    account: Account
    exec_id: Id64
    exec_ts_ns: TimestampNs
    status: Literal["FILLED", "BUSTED", "CORRECTED"]
    version: Annotated[int, integer(1, 1_000_000)]
    signed_delta: Decimal
    cum_size: NonNegativeDecimal
    leaves_size: NonNegativeDecimal
    avg_price: Decimal
    provisional: bool
    benchmark: Benchmark
    benchmark_mid: Benchmark
    slippage: Slippage
    residual: Residual


class FillMessage(Envelope):
    """execution.event.fill.v1, keyed by book."""

    type: Literal["execution.event.fill.v1"]
    correlation_id: Uuid
    payload: Fill


class InputRef(Strict):
    """Where an input was read."""

    topic: Annotated[str, string(128)]
    partition: Annotated[int, integer(0, 1_000_000)]
    offset: Annotated[int, integer(-1, 2**62)]


class Audit(Strict):
    """Who, what, why: one record per decision. `prev_sha256` is the SHA-256 of the record before it in its lane (64 zeros for the
    first), so a removed or altered record breaks the chain. `input_age_ms` is receive time to decision time."""

    lane: Annotated[int, integer(0, 1_000_000)]
    seq: Annotated[int, integer(0, 2**62)]
    prev_sha256: HexDigest
    reason: ReasonName
    outcome: Literal["published", "duplicate", "pending", "dlq", "rerouted", "note"]
    input: InputRef
    input_age_ms: Annotated[float, real()] | None = None
    venue: Venue | None = None
    order_id: Uuid | None = None
    fill_id: Uuid | None = None
    version: Annotated[int, integer(0, 1_000_000)] | None = None
    exec_id: Id64 | None = None
    size: Decimal | None = None
    other_size: Decimal | None = None
    policy_hash: Annotated[str, token(b"0123456789abcdef", 16, min_len=16)]


class AuditMessage(Envelope):
    """audit.event.execution, keyed by the lane's number so that one lane's chain is one partition's sequence."""

    type: Literal["audit.event.execution"]
    payload: Audit


class DeadLetter(Strict):
    """An input that could not be used: its original bytes, where it was read, and why."""

    reason: ReasonName
    stage: ReasonName
    detail: Annotated[str, string(512, min_len=0)]
    retryable: bool
    original: Base64
    source: InputRef
    source_key: Base64 | None = None
    first_ts_ns: TimestampNs
    last_ts_ns: TimestampNs
    attempts: Annotated[int, integer(1, 1_000_000)]
    correlation_id: Uuid | None = None


class DeadLetterMessage(Envelope):
    """dlq.execution, keyed as its input was."""

    type: Literal["dlq.execution"]
    payload: DeadLetter


class Alias(Strict):
    """A venue's order id and the correlation it stands for, told to the lane where reports without a correlation wait."""

    venue: Venue
    venue_order_id: Id64
    order_id: Uuid


class AliasMessage(Envelope):
    """execution.state.alias.v1 (internal to the flow), keyed by `venue|venue_order_id`."""

    type: Literal["execution.state.alias.v1"]
    correlation_id: Uuid
    payload: Alias


class HaltRequest(Strict):
    """A request to stop routing to a venue, for PolicyGuard to decide on."""

    venue: Venue
    reason: ReasonName
    order_id: Uuid | None = None
    requested_ns: TimestampNs


class HaltRequestMessage(Envelope):
    """execution.request.halt.v1, keyed by venue."""

    type: Literal["execution.request.halt.v1"]
    payload: HaltRequest


class HoldDecision(Strict):
    """An operator's word on a held order: RELEASE publishes what the fold says, REJECT sends the held inputs to the DLQ."""

    action: Literal["RELEASE", "REJECT"]
    operator: Annotated[str, string(64)]
    justification: Annotated[str, string(256)]
    decided_ns: TimestampNs


class HoldDecisionMessage(Envelope):
    """execution.intent.hold.v1, keyed by correlation_id."""

    type: Literal["execution.intent.hold.v1"]
    correlation_id: Uuid
    payload: HoldDecision


class Attachment(Strict):
    """Where evidence can be read."""

    type: Annotated[str, string(64)]
    location: Annotated[str, string(512)]


class ComplianceAlert(Strict):
    """A mismatch somebody must look at. `rule_id` is the reason code."""

    alert_id: Uuid
    order_id: Uuid
    symbol: Symbol
    severity: Annotated[Literal["INFO", "WARN", "CRITICAL"], Spec("enum")]
    rule_id: ReasonName
    description: Annotated[str, string(2048)]
    remediation_required: bool | None = None
    attachments: Annotated[list[Attachment], Field(max_length=16)] | None = None


class ComplianceAlertMessage(Envelope):
    """compliance.event.alert.v1, keyed by order_id."""

    type: Literal["compliance.event.alert.v1"]
    payload: ComplianceAlert
