"""What the hedger reads beside fills, and what it publishes (contracts; hedging §2 to §8).

All but fills come at a low rate: these models are parsed one by one (schemas/parse.py), not in columns, so their lists may hold plain values.
Notionals are in the book's base currency unless said otherwise.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from schemas.envelope import Envelope, Strict
from schemas.execution import DeadLetter, InputRef
from schemas.fields import (
    Account,
    Base64,
    Book,
    Currency,
    Decimal,
    HexDigest,
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
from schemas.orders import Side, TimeInForce
from schemas.reasons import Reason

_HEX = b"0123456789abcdef"
Digest16 = Annotated[str, token(_HEX, 64, min_len=16)]
"""16 to 64 hex digits of a content's hash."""
Label = Annotated[str, string(64)]
DurationMs = Annotated[int, integer(1, 86_400_000)]
Target = Annotated[str, Spec("decimal", reason=Reason.target_not_finite)]


# --- what is to be hedged: read by every worker whole, or keyed by book -----------------------------------------------------------


class AllocationConstraints(Strict):
    """Limits the portfolio was built under; carried along, not enforced by the hedger."""

    leverage: Annotated[float, real(0.0)] | None = None
    var: Annotated[float, real(0.0)] | None = None
    liquidity_tier: Annotated[int, integer(1, 3)] | None = None


class Allocation(Strict):
    """What a book shall hold of a symbol. `target_size` is a signed notional in the book's base currency, not a quantity.

    Past `ttl_ms` after `ts_ns` (of the envelope; default: never) it stays the last known target, flagged `stale_allocation`.
    """

    book: Book
    symbol: Symbol
    target_size: Target
    current_size: Decimal | None = None
    confidence: Annotated[float, real(0.0, 1.0)]
    risk_score: Annotated[float, real(0.0, 1.0)]
    utility: Annotated[float, real()] | None = None
    constraints: AllocationConstraints | None = None
    ttl_ms: DurationMs | None = None


class AllocationMessage(Envelope):
    """portfolio.intent.allocate.v1, keyed by book."""

    type: Literal["portfolio.intent.allocate.v1"]
    payload: Allocation


class InstrumentLimit(Strict):
    """How much of an instrument a book may hold, and by how much it may still grow."""

    instrument: Symbol
    max_notional: Annotated[float, real(0.0)]
    headroom_notional: Annotated[float, real()]


class RiskContext(Strict):
    """The risk agent's state of a book; book null: of every book that has none of its own."""

    book: Book | None = None
    portfolio_var: Annotated[float, real(0.0)]
    daily_drawdown_pct: Annotated[float, real(0.0, 100.0)]
    treasury_utilisation: Annotated[float, real(0.0, 1.0)]
    volatility: Annotated[float, real(0.0)]
    risk_level: Literal["LOW", "MEDIUM", "HIGH", "CRITICAL"]
    breach_flags: list[Label] | None = None
    policy_version: Label | None = None
    limits: Annotated[list[InstrumentLimit], Field(max_length=4096)] = []
    max_capital: Annotated[float, real(0.0)] | None = None
    headroom_capital: Annotated[float, real()] | None = None
    var_limit: Annotated[float, real(0.0)] | None = None


class RiskContextMessage(Envelope):
    """risk.state.context.v1, keyed by book, or `*` for all books."""

    type: Literal["risk.state.context.v1"]
    payload: RiskContext


class DoNotTrade(Strict):
    """A window in which an instrument is not traded: from_ns ≤ now < to_ns. It wins over everything, also over unwinds."""

    instrument: Symbol
    from_ns: TimestampNs
    to_ns: TimestampNs
    reason: Annotated[str, string(256)]


class StressScenario(Strict):
    """A scenario the book must survive: `shocks` gives the return (0.01 is 1 %) by symbol, underlying or `*`; `max_loss` is a notional."""

    id: Label
    shocks: dict[str, Annotated[float, real(-1.0, 10.0)]]
    max_loss: Annotated[float, real(0.0)]


class Unwind(Strict):
    """A position PolicyGuard wants taken down, also under HALT: reduce-only, up to `max_notional`, until `expires_ns`."""

    id: Label
    instrument: Symbol
    max_notional: Annotated[float, real(0.0)]
    expires_ns: TimestampNs


class GuardPolicy(Strict):
    """PolicyGuard's policy for a book; book null: for every book that has none of its own. `policy_hash` names its content."""

    book: Book | None = None
    policy_hash: Digest16
    do_not_trade: Annotated[list[DoNotTrade], Field(max_length=4096)] = []
    stress_scenarios: Annotated[list[StressScenario], Field(max_length=64)] = []
    unwind: Annotated[list[Unwind], Field(max_length=4096)] = []
    max_residual_exposure_pct: Annotated[float, real(0.0, 100.0)] = 1.0
    max_cost_bps: Annotated[float, real(0.0)] = 10.0
    no_target_no_hedge: bool = False
    fallback_strategy: Label | None = None


class GuardPolicyMessage(Envelope):
    """policy.state.guard.v1, keyed by book, or `*` for all books."""

    type: Literal["policy.state.guard.v1"]
    payload: GuardPolicy


class HedgeInstrument(Strict):
    """An instrument a book may hedge with. `lot` in units of quantity, amounts in the book's base currency.

    secondary_of: only used when the primary cannot take enough. underlying: instruments on one underlying hedge each other about 1:1.
    """

    symbol: Symbol
    venue: Venue
    kind: Literal["LINEAR", "INVERSE", "FX"] = "LINEAR"
    multiplier: Annotated[float, real(1e-9)] = 1.0
    currency: Currency
    lot: PositiveDecimal
    min_notional: Annotated[float, real(0.0)] = 0.0
    margin_rate: Annotated[float, real(0.0)] = 0.0
    tier: Annotated[int, integer(1, 3)] = 1
    cost_bps: Annotated[float, real(0.0)]
    adv_notional: Annotated[float, real(0.0)]
    max_adv_pct: Annotated[float, real(0.0, 100.0)] = 12.0
    secondary_of: Symbol | None = None
    underlying: Symbol | None = None


class ExposureInstrument(Strict):
    """What must be known of a symbol a book has exposure in and does not hedge with: how its quantity becomes a notional."""

    symbol: Symbol
    kind: Literal["LINEAR", "INVERSE", "FX"] = "LINEAR"
    multiplier: Annotated[float, real(1e-9)] = 1.0
    currency: Currency
    underlying: Symbol | None = None


class Universe(Strict):
    """What a book hedges with, and its base currency. A symbol in neither list is hedged as LINEAR with the reference data's multiplier and quote.

    `reference_notional`: below this much exposure the cost of trading, not the exposure, sets the no-trade band. `desk_accounts`: fills there are
    hedges of the desk, not exposure.
    """

    book: Book
    base_currency: Currency
    instruments: Annotated[list[HedgeInstrument], Field(min_length=1, max_length=256)]
    exposures: Annotated[list[ExposureInstrument], Field(max_length=4096)] = []
    reference_notional: Annotated[float, real(0.0)] | None = None
    desk_accounts: Annotated[list[Account], Field(max_length=64)] = []


class UniverseMessage(Envelope):
    """hedge.state.universe.v1, keyed by book."""

    type: Literal["hedge.state.universe.v1"]
    payload: Universe


# --- HALT, channels, orders, the desk ---------------------------------------------------------------------------------------------


class Approval(Strict):
    """Who agreed, in what role (`risk`, `compliance`, …)."""

    role: Label
    approver: Label


class Halt(Strict):
    """Stop, or go on. scope ALL, BOOK, SYMBOL or VENUE with the `id` of what is meant; a scope nobody knows stops ALL.

    Effective at `effective_ns`, at once without. A resume needs approvals of the roles risk and compliance and the halt's own scope and id.
    """

    scope: Annotated[str, string(32)]
    id: Label | None = None
    reason: Annotated[str, string(256)]
    issued_by: Label
    effective_ns: TimestampNs | None = None
    approvals: Annotated[list[Approval], Field(max_length=16)] = []


class HaltMessage(Envelope):
    """system.halt.intent.v1, keyed by `scope|id`."""

    type: Literal["system.halt.intent.v1"]
    payload: Halt


class ResumeMessage(Envelope):
    """system.resume.intent.v1, keyed by `scope|id`."""

    type: Literal["system.resume.intent.v1"]
    payload: Halt


class HaltAck(Strict):
    """A lane has stopped: nothing that this worker's lane publishes after this record is a new hedge."""

    halt_msg_id: Uuid
    scope: Annotated[str, string(32)]
    agent: Label
    worker: Label
    lane: Annotated[int, integer(0, 1_000_000)]
    ack_ns: TimestampNs
    latency_ms: Annotated[float, real()]


class HaltAckMessage(Envelope):
    """system.halt.ack.v1, keyed by `scope|id`."""

    type: Literal["system.halt.ack.v1"]
    payload: HaltAck


class ChannelStatus(Strict):
    """Whether orders can be sent to a venue."""

    venue: Venue
    status: Literal["UP", "DEGRADED", "DOWN"]
    since_ns: TimestampNs


class ChannelStatusMessage(Envelope):
    """order.channel.status.v1, keyed by venue."""

    type: Literal["order.channel.status.v1"]
    payload: ChannelStatus


class HedgeOrderEvent(Strict):
    """The order agent's word on one leg of a hedge. `filled_size` is what the venue has filled in all.

    ACKED: at the venue. DONE, REJECTED, CANCELED, EXPIRED: ended there; what is filled and has not come as a fill yet still counts as in flight.
    UNKNOWN: the order agent cannot tell either.
    """

    hedge_id: Uuid
    order_id: Uuid
    book: Book
    instrument: Symbol
    status: Literal["ACKED", "REJECTED", "CANCELED", "EXPIRED", "DONE", "UNKNOWN"]
    filled_size: NonNegativeDecimal
    reason: Annotated[str, string(256)] | None = None
    event_ts_ns: TimestampNs


class HedgeOrderEventMessage(Envelope):
    """order.event.hedge.v1, keyed by book."""

    type: Literal["order.event.hedge.v1"]
    payload: HedgeOrderEvent


class HedgeRequest(Strict):
    """A question about, or a request to cancel, one leg of a hedge that was sent."""

    hedge_id: Uuid
    order_id: Uuid
    book: Book
    instrument: Symbol
    action: Literal["QUERY", "CANCEL"]
    attempt: Annotated[int, integer(1, 1_000_000)]
    asked_ns: TimestampNs


class HedgeRequestMessage(Envelope):
    """hedger.request.order.v1, keyed by book."""

    type: Literal["hedger.request.order.v1"]
    payload: HedgeRequest


class DeskDecision(Strict):
    """The desk's word. HOLD: no new hedge of the book (or in the instrument) until RELEASE. MARK_MANUAL: the desk has taken the hedge of `hedge_id`
    over; nothing more of it is in flight, and what the desk trades comes back as fills."""

    book: Book
    action: Literal["HOLD", "RELEASE", "MARK_MANUAL"]
    instrument: Symbol | None = None
    hedge_id: Uuid | None = None
    operator: Label
    justification: Annotated[str, string(256)]
    decided_ns: TimestampNs


class DeskDecisionMessage(Envelope):
    """hedger.intent.desk.v1, keyed by book."""

    type: Literal["hedger.intent.desk.v1"]
    payload: DeskDecision


# --- what the hedger publishes ----------------------------------------------------------------------------------------------------


class CoverLeg(Strict):
    """One order of a hedge. `notional` is positive, in the book's base currency; order_id is a function of hedge and instrument."""

    order_id: Uuid
    instrument: Symbol
    venue: Venue
    side: Side
    size: PositiveDecimal
    notional: Annotated[float, real(0.0)]
    mid: PositiveDecimal | None = None
    limit_px: PositiveDecimal | None = None
    time_in_force: TimeInForce


class CoverRatio(Strict):
    """The ratio in use of one exposure to one instrument of the hedge, with its standard error."""

    exposure: Symbol
    instrument: Symbol
    h: Annotated[float, real()]
    se: Annotated[float, real(0.0)] | None = None


class CoverExpected(Strict):
    """What the hedge should do."""

    variance_reduction: Annotated[float, real()]
    cost_bps: Annotated[float, real(0.0)]
    coverage_before: Annotated[float, real()] | None = None
    coverage_after: Annotated[float, real()] | None = None


RatioSource = Literal["direct", "ewma", "prior", "long_window", "manual"]


class Cover(Strict):
    """A hedge to be made. From agent.portfolio it is a request: the hedger answers with a decision of its own."""

    hedge_id: Uuid
    book: Book
    legs: Annotated[list[CoverLeg], Field(min_length=1, max_length=256)]
    expires_ns: TimestampNs
    reduce_only: bool
    ratio_source: RatioSource
    ratios: Annotated[list[CoverRatio], Field(max_length=1024)] = []
    expected: CoverExpected
    policy_hash: Digest16 | None = None
    decision_ts_ns: TimestampNs
    exposure_version: Digest16
    attempt: Annotated[int, integer(0, 1_000_000)]
    unwind_id: Label | None = None
    supersedes: Uuid | None = None


class CoverMessage(Envelope):
    """hedger.intent.cover, keyed by book."""

    type: Literal["hedger.intent.cover"]
    payload: Cover


HedgeState = Literal[
    "PROPOSED", "BLOCKED", "QUEUED", "SENT", "ACKED", "PARTIAL", "UNKNOWN", "FILLED", "REFUSED", "CANCELED", "EXPIRED", "SUPERSEDED", "MANUAL",
]  # fmt: skip


class LegState(Strict):
    """One order of a hedge as it stands. Slippage is cost-positive bps against the mid at decision; null before the first fill."""

    order_id: Uuid
    instrument: Symbol
    side: Side
    state: HedgeState
    size: PositiveDecimal
    filled_size: NonNegativeDecimal
    filled_notional: Annotated[float, real(0.0)]
    slippage_bps: Annotated[float, real()] | None = None


class HedgeEvent(Strict):
    """A hedge changed its state. coverage counts filled hedges only, coverage_expected those in flight too; effectiveness and its bound R²
    are variance reductions (hedging §7), null without exposure or covariance. residual: distance d by instrument."""

    hedge_id: Uuid
    book: Book
    state: HedgeState
    legs: Annotated[list[LegState], Field(max_length=256)]
    slippage_bps: Annotated[float, real()] | None = None
    coverage: Annotated[float, real()] | None = None
    coverage_expected: Annotated[float, real()] | None = None
    effectiveness: Annotated[float, real()] | None = None
    bound_r2: Annotated[float, real()] | None = None
    residual: dict[str, float] = {}
    completion_ms: Annotated[float, real(0.0)] | None = None
    annotations: list[Label] = []


class HedgeEventMessage(Envelope):
    """hedger.event.cover, keyed by book."""

    type: Literal["hedger.event.cover"]
    payload: HedgeEvent


class BookMetric(Strict):
    """The figures of a book over a window that ends at `to_ns` (hedging §7). Null where nothing happened that could be measured."""

    book: Book
    window_s: Annotated[int, integer(60, 86_400)]
    to_ns: TimestampNs
    exposure_notional: Annotated[float, real(0.0)]
    needed_risk: Annotated[float, real(0.0)]
    coverage: Annotated[float, real()] | None = None
    coverage_time_pct: Annotated[float, real(0.0, 100.0)] | None = None
    coverage_mean_pct: Annotated[float, real(-1e6, 100.0)] | None = None
    episodes: Annotated[int, integer(0, 2**53)]
    episodes_met: Annotated[int, integer(0, 2**53)]
    completion_p50_s: Annotated[float, real(0.0)] | None = None
    completion_p95_s: Annotated[float, real(0.0)] | None = None
    bound_r2: Annotated[float, real()] | None = None
    effectiveness: Annotated[float, real()] | None = None
    hedges_sent: Annotated[int, integer(0, 2**53)]
    hedges_ended: Annotated[int, integer(0, 2**53)]
    hedges_failed: Annotated[int, integer(0, 2**53)]
    failure_pct: Annotated[float, real(0.0, 100.0)] | None = None
    slippage_bps: Annotated[float, real()] | None = None
    hedged_notional: Annotated[float, real(0.0)]
    churn: Annotated[float, real(0.0)] | None = None
    latency_p50_ms: Annotated[float, real(0.0)] | None = None
    latency_p95_ms: Annotated[float, real(0.0)] | None = None
    coverage_gap: bool


class BookMetricMessage(Envelope):
    """hedger.metric.book.v1, keyed by book."""

    type: Literal["hedger.metric.book.v1"]
    payload: BookMetric


class Escalation(Strict):
    """Something the hedger cannot settle alone. residual: distance d by instrument. tried: what was tried, in order."""

    book: Book
    severity: Literal["INFO", "WARN", "CRITICAL"]
    reason: ReasonName
    detail: Annotated[str, string(512, min_len=0)]
    to: list[Label]
    hedge_id: Uuid | None = None
    residual: dict[str, float] = {}
    proposed: Annotated[list[CoverLeg], Field(max_length=256)] = []
    tried: list[Label] = []
    fallback_strategy: Label | None = None


class EscalationMessage(Envelope):
    """hedger.event.escalation.v1, keyed by book."""

    type: Literal["hedger.event.escalation.v1"]
    payload: Escalation


class AuditExposure(Strict):
    """An exposure as it was seen: notional of fills that are no hedges less the target."""

    symbol: Symbol
    notional: Annotated[float, real()] | None = None
    target: Annotated[float, real()] = 0.0
    reason: ReasonName | None = None


class AuditLeg(Strict):
    """An instrument as it was seen. trade 0: not chosen; `reason` says what bound it, `multiplier` how hard."""

    instrument: Symbol
    held: Annotated[float, real()]
    in_flight: Annotated[float, real()]
    distance: Annotated[float, real()] | None = None
    trade: Annotated[float, real()] = 0.0
    distance_after: Annotated[float, real()] | None = None
    lower: Annotated[float, real()] | None = None
    upper: Annotated[float, real()] | None = None
    reason: ReasonName | None = None
    multiplier: Annotated[float, real()] | None = None


class AuditRatio(Strict):
    """A ratio as it was used."""

    exposure: Symbol
    instrument: Symbol
    raw: Annotated[float, real()] | None = None
    shrunk: Annotated[float, real()] | None = None
    used: Annotated[float, real()]
    se: Annotated[float, real()] | None = None
    n_eff: Annotated[float, real()] | None = None
    rho_fast: Annotated[float, real()] | None = None
    rho_slow: Annotated[float, real()] | None = None


class AuditAges(Strict):
    """How old what was known was, in ms; null where there was none."""

    quote_ms: Annotated[float, real()] | None = None
    covariance_ms: Annotated[float, real()] | None = None
    allocation_ms: Annotated[float, real()] | None = None
    risk_state_ms: Annotated[float, real()] | None = None
    policy_ms: Annotated[float, real()] | None = None


class HedgerAudit(Strict):
    """One decision of the hedger, also one to do nothing, or one word of the desk. Equal `inputs_sha256` means an equal decision.

    prev_sha256: SHA-256 of the record before it in its lane (64 zeros for the first). Lists are cut to the 64 largest entries.
    """

    lane: Annotated[int, integer(0, 1_000_000)]
    seq: Annotated[int, integer(0, 2**62)]
    prev_sha256: HexDigest
    book: Book
    decision_id: Uuid
    hedge_id: Uuid | None = None
    triggers: list[ReasonName]
    outcome: Literal["sent", "queued", "blocked", "nothing", "note"]
    reasons: list[ReasonName]
    state: Literal["ACTIVE", "REDUCING", "HALTED"]
    exposure_version: Digest16
    decision_ts_ns: TimestampNs
    policy_hash: Digest16 | None = None
    universe_version: Digest16 | None = None
    ratio_source: RatioSource | None = None
    covariance_ts_ns: TimestampNs | None = None
    ages: AuditAges
    exposures: list[AuditExposure] = []
    legs: list[AuditLeg] = []
    ratios: list[AuditRatio] = []
    expected: dict[str, float | None] = {}
    risk_aversion: Annotated[float, real(0.0)] | None = None
    binding: list[dict[str, Any]] = []
    kkt_violation: Annotated[float, real(0.0)] | None = None
    input: InputRef | None = None
    operator: Label | None = None
    justification: Annotated[str, string(256)] | None = None
    inputs_sha256: HexDigest


class HedgerAuditMessage(Envelope):
    """audit.event.hedger, keyed by the lane's number so that one lane's chain is one partition's sequence."""

    type: Literal["audit.event.hedger"]
    payload: HedgerAudit


class HedgerDeadLetterMessage(Envelope):
    """dlq.hedger, keyed as its input was."""

    type: Literal["dlq.hedger"]
    payload: DeadLetter


# --- covariance and ratios, kept for stores and for restarts ----------------------------------------------------------------------


class MatrixRow(Strict):
    """One series' row of the covariances: with itself and with the series before it in `symbols`.

    The arrays are little-endian and packed: `n` int64 `(j,)`, `cov`, `var_row`, `var_col` float64 `(memories, j)` (docs/ratios.md, "Covariance").
    For readers: volatility and correlations of the memory in use, null where bars are too few. All rows of one `bar_end_ns` belong together.
    """

    symbol: Symbol
    bar_end_ns: TimestampNs
    bar_ns: Annotated[int, integer(1, 86_400_000_000_000)]
    symbols: list[Symbol]
    lambdas: list[float]
    n: Base64
    cov: Base64
    var_row: Base64
    var_col: Base64
    volatility_bps: Annotated[float, real(0.0)] | None = None
    correlations: list[float | None]
    close: Annotated[float, real(0.0)] | None = None


class MatrixRowMessage(Envelope):
    """hedge.state.matrix.v1, keyed by symbol; written by the owner of lane 0."""

    type: Literal["hedge.state.matrix.v1"]
    payload: MatrixRow


class BookRatio(Strict):
    """The ratio in use of an exposure to an instrument, and what it rests on."""

    exposure: Symbol
    instrument: Symbol
    used: Annotated[float, real()]
    shrunk: Annotated[float, real()] | None = None
    raw: Annotated[float, real()] | None = None
    se: Annotated[float, real()] | None = None
    n_eff: Annotated[float, real()] | None = None
    source: RatioSource
    breakdown: bool = False


class BookRatios(Strict):
    """The ratios of a book as of a bar; those that are 0 are left out."""

    book: Book
    bar_end_ns: TimestampNs
    universe_version: Digest16
    ratios: list[BookRatio]


class BookRatiosMessage(Envelope):
    """hedge.state.ratios.v1, keyed by book."""

    type: Literal["hedge.state.ratios.v1"]
    payload: BookRatios
