"""What the regime flow, the canary and its monitor read and publish (contracts; canary §3, §12, §14, §15).

Account and position snapshots come at a high rate and are read in columns; all else is parsed one by one (schemas/parse.py). On topics money is
decimal strings and machine times are nanoseconds; percents are in percent units (0.7 = 0.7 %), `cushion` alone is a ratio. Null means "not
delivered", never zero.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from schemas.envelope import Envelope, Strict
from schemas.execution import DeadLetter
from schemas.fields import Account, Book, Currency, Decimal, NonNegativeDecimal, Symbol, TimestampNs, integer, real, string, token
from schemas.policy import Cluster, Row
from schemas.policy import Severity as Severity

Label = Annotated[str, string(64)]
Text = Annotated[str, string(1024, min_len=0)]
Key = Annotated[str, token(b"0123456789abcdef", 64, min_len=64, prefix=b"sha256:")]
"""A fingerprint's key."""
Profile = Annotated[str, token(b"abcdefghijklmnopqrstuvwxyz0123456789-", 40)]
Date = Annotated[str, token(b"0123456789-", 10, min_len=10)]
"""A New York trading date, YYYY-MM-DD."""
Name = Annotated[str, token(b"abcdefghijklmnopqrstuvwxyz0123456789_", 40)]
Mode = Literal["live", "paper"]
Finite = Annotated[float, real()]
Count = Annotated[int, integer(0, 64)]

Band = Literal["green", "yellow", "red"]
RowStatus = Literal["ok", "stale", "computing", "unavailable", "error"]
FreshnessClass = Literal["fresh", "not_due", "pending", "stale", "overdue"]
Direction = Literal["defensive", "constructive", "rebalance", "mixed", "data_quality", ""]
Posture = Literal["threat", "opportunity", "rebalance", "threat_opportunity", "confirm_data", "neutral"]
PlannerMode = Literal["defend", "rebalance", "deploy", "stage", "confirm_data", "none"]
Readiness = Literal["ready", "blocked", "prestage", "watch", "degraded", "none"]
Confidence = Literal["high", "medium", "medium-low", "low"]
Stage = Literal[
    "data_quality", "forced_defense", "panic", "confirmed_stress", "early_warning", "opportunity", "stabilization", "quiet"
]  # fmt: skip
Timing = Literal["data_quality", "contemporaneous", "forward_warning", "recovery", "current"]


# --- indicators: what the regime flow reads -------------------------------------------------------------------------------------

INDICATORS = (
    "vix", "vix3m", "vvix", "hyg", "spy", "hy_oas", "ig_oas", "cp_3m", "tbill_3m", "usd_jpy",
    "spy_options", "spx_options", "sp500_closes", "session",
)  # fmt: skip
"""The indicators the dashboard is made of; others are counted and left out."""


class OptionQuote(Strict):
    """One line of an option chain. iv: implied volatility as a ratio (0.2 = 20 %); open_interest in contracts."""

    expiry: Date
    strike: Annotated[float, real(1e-6)]
    right: Literal["C", "P"]
    open_interest: Annotated[float, real(0.0)]
    iv: Annotated[float, real(0.0, 20.0)] | None = None
    multiplier: Annotated[float, real(1e-6)] = 100.0


class OptionChain(Strict):
    """An index's options at one time. rate, dividend_yield: continuously compounded, as ratios."""

    spot: Annotated[float, real(1e-6)]
    rate: Finite = 0.0
    dividend_yield: Finite = 0.0
    options: Annotated[list[OptionQuote], Field(max_length=20_000)]


class ConstituentClose(Strict):
    """A member's daily close, adjusted for splits."""

    symbol: Label
    close: Annotated[float, real(0.0)]


class Indicator(Strict):
    """One observation. Exactly one of `value`, `chain`, `closes`, `open` says what was observed; null with a status that is not ok.

    as_of_ns: when it was true at the source, not when it was sent. as_of_date: the New York trading date it belongs to. close: True for a day's
    official close, False for a value within the day. prev_close: the close before, for day changes. open: of the indicator `session`, whether
    the US equity market has a session on `as_of_date`.
    """

    indicator: Name
    source: Label
    status: RowStatus = "ok"
    as_of_ns: TimestampNs | None = None
    as_of_date: Date | None = None
    close: bool = False
    value: Finite | None = None
    prev_close: Finite | None = None
    high_52w: Finite | None = None
    chain: OptionChain | None = None
    closes: Annotated[list[ConstituentClose], Field(max_length=4096)] | None = None
    open: bool | None = None
    due: FreshnessClass | None = None


class IndicatorMessage(Envelope):
    """market.indicator.v1, keyed by indicator."""

    type: Literal["market.indicator.v1"]
    payload: Indicator


# --- regime ---------------------------------------------------------------------------------------------------------------------


class Fingerprint(Strict):
    """A key and the version of the projection it is the hash of."""

    version: Label
    key: Key


class RegimeWarning(Strict):
    """Something about the data that a person should know."""

    code: Label
    scope: Text = ""
    severity: Label = "warning"
    message: Text = ""
    impact: Text = ""
    action: Text = ""


class DataQuality(Strict):
    """What is wrong with a surface's data, by cluster."""

    surface: Label
    status: Label
    stale_clusters: list[Label] = []
    partial_clusters: list[Label] = []
    degraded_clusters: list[Label] = []


class RegimeRow(Strict):
    """A row of the dashboard. band null: unranked. values: what it was computed from, by the field names of canary §3. envelope: gamma's and breadth's.

    depth: how deep in red, in the unit of the row's gate; sessions: trading dates it has been red on fresh readings; eligibility: `eligible`, or
    why its red may not confirm; held: the band is of `held_date`, nothing newer was measured.
    """

    row: Row
    band: Band | None = None
    status: RowStatus
    as_of_ns: TimestampNs | None = None
    as_of_date: Date | None = None
    fields_missing: list[Label] = []
    freshness_class: Label | None = None
    depth: Finite | None = None
    sessions: Annotated[int, integer(0, 100_000)] | None = None
    eligibility: Label | None = None
    band_held: bool = False
    held_date: Date | None = None
    values: dict[str, Finite | None] = {}
    envelope: dict[str, Any] | None = None
    why: Text = ""


class Composite(Strict):
    """Verdict and counts of rows and clusters, clusters after downgrades (canary §5.3)."""

    verdict: Label
    green_count: Count
    yellow_count: Count
    red_count: Count
    ranked_count: Count
    unranked_count: Count
    cluster_green_count: Count
    cluster_yellow_count: Count
    cluster_red_count: Count
    cluster_ranked_count: Count
    cluster_unranked_count: Count


class Evidence(Strict):
    """One thing a stage rests on."""

    source: Label
    signal: Label
    bucket: Label | None = None
    timing: Label | None = None
    severity: Label | None = None
    confirmed: bool = False


class Governor(Strict):
    """A cap on severity or readiness that was applied."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, populate_by_name=True)

    action: Label
    from_: Annotated[str, Field(alias="from")] = ""
    to: Text = ""
    reason: Label
    clusters: list[Label] = []


class Lifecycle(Strict):
    """Where a regime or a portfolio stands."""

    stage: Stage
    severity: Severity
    readiness: Readiness
    timing: Timing
    confidence: Confidence
    evidence: list[Evidence] = []
    confirmed_by: list[Label] = []
    unconfirmed: list[Label] = []
    suppressed: list[Label] = []
    rejected_by: list[Label] = []
    governors: list[Governor] = []
    fingerprint: Fingerprint | None = None


class SourceHealth(Strict):
    """How far a source can be believed."""

    source: Label
    status: Label
    confidence: Label
    as_of_ns: TimestampNs | None = None
    age_seconds: Finite | None = None
    max_age_seconds: Finite | None = None
    fingerprint: Key | None = None
    fingerprint_stability: Label = "semantic_buckets_only"
    notes: list[Label] = []
    refresh_state: Label | None = None
    last_failure: dict[str, Any] | None = None


class Regime(Strict):
    """The dashboard of one profile at one time (canary §3, §5). closed: the date is no trading date, so day changes are frozen."""

    profile: Profile
    policy_version: Label
    policy_fingerprint: Key
    as_of_ns: TimestampNs
    session_date: Date | None = None
    closed: bool = False
    rows: Annotated[list[RegimeRow], Field(min_length=8, max_length=8)]
    spy_change_pct: Finite | None = None
    vix_change_pct: Finite | None = None
    composite: Composite
    lifecycle: Lifecycle
    confidence: Confidence
    score: Finite | None = None
    score_terms: list[dict[str, Any]] = []
    source_health: list[SourceHealth]
    warning_details: list[RegimeWarning] = []
    data_quality: list[DataQuality] = []
    fingerprint: Fingerprint


class RegimeMessage(Envelope):
    """risk.regime.v1, keyed by `regime|` and the profile."""

    type: Literal["risk.regime.v1"]
    payload: Regime


# --- accounts -------------------------------------------------------------------------------------------------------------------


class AccountState(Strict):
    """An account as the broker shows it. Zero and null are alike for the margin figures (feeds send 0 for absent), not for `daily_pnl`."""

    account: Account
    mode: Mode
    base_currency: Currency | None = None
    account_type: Label | None = None
    net_liquidation: Decimal | None = None
    cushion: Decimal | None = None
    excess_liquidity: Decimal | None = None
    available_funds: Decimal | None = None
    maintenance_margin: Decimal | None = None
    initial_margin: Decimal | None = None
    look_ahead_excess_liquidity: Decimal | None = None
    look_ahead_available_funds: Decimal | None = None
    look_ahead_maint_margin: Decimal | None = None
    look_ahead_init_margin: Decimal | None = None
    gross_position_value: Decimal | None = None
    daily_pnl: Decimal | None = None
    as_of_ns: TimestampNs | None = None


class AccountStateMessage(Envelope):
    """portfolio.state.account.v1, keyed by account."""

    type: Literal["portfolio.state.account.v1"]
    payload: AccountState


class Exposure(Strict):
    """What an account has of one underlying. Null: not known, which is not 0."""

    underlying: Symbol
    market_value_base: Decimal | None = None
    market_value_pct_nlv: Finite | None = None
    dollar_delta_base: Decimal | None = None
    daily_pnl_base: Decimal | None = None


class Aggregate(Strict):
    """The book in sums. greeks_coverage of greeks_total option legs have greeks; total 0: no option legs."""

    dollar_delta_base: Decimal | None = None
    gamma: Finite | None = None
    greeks_coverage: Annotated[int, integer(0, 1_000_000)] | None = None
    greeks_total: Annotated[int, integer(0, 1_000_000)] | None = None
    exposure_base: Annotated[list[Exposure], Field(max_length=4096)] | None = None


class StockRow(Strict):
    """A stock position."""

    symbol: Symbol
    quantity: Decimal
    market_value_base: Decimal | None = None
    unrealized_pnl_base: Decimal | None = None


class OptionRow(Strict):
    """An option position, in contracts."""

    symbol: Symbol
    expiry: Date
    strike: NonNegativeDecimal
    right: Literal["C", "P"]
    quantity: Decimal
    multiplier: Annotated[float, real(1e-6)] | None = None
    delta: Finite | None = None
    gamma: Finite | None = None
    market_value_base: Decimal | None = None
    unrealized_pnl_base: Decimal | None = None


class PositionState(Strict):
    """An account's positions. A null list was never fetched, which is not an empty one; portfolio null: not aggregated."""

    account: Account
    mode: Mode
    as_of_ns: TimestampNs | None = None
    stocks: Annotated[list[StockRow], Field(max_length=8192)] | None = None
    options: Annotated[list[OptionRow], Field(max_length=8192)] | None = None
    portfolio: Aggregate | None = None


class PositionStateMessage(Envelope):
    """portfolio.state.position.v1, keyed by account."""

    type: Literal["portfolio.state.position.v1"]
    payload: PositionState


class Activity(Strict):
    """What fills and hedges of one chunk did to an account: sent by the lane that read them (keyed by book) to the account's own.

    signed_notional: Σ signed_delta × price, traded_notional: Σ of its absolute values, in the fills' quote currency as the account's base; cost:
    Σ slippage_bps × notional / 10⁴ of the fills that tell one. last_ns: newest execution time among them. coverage: of a book's hedges, as last told.
    """

    account: Account
    book: Book
    fills: Annotated[int, integer(0, 2**31)]
    signed_notional: Finite
    traded_notional: Annotated[float, real(0.0)]
    cost: Finite
    coverage: Annotated[float, real(0.0, 1.0)] | None = None
    first_ns: TimestampNs
    last_ns: TimestampNs


class ActivityMessage(Envelope):
    """canary.state.activity.v1, keyed by account. Internal to the canary."""

    type: Literal["canary.state.activity.v1"]
    payload: Activity


# --- alerts ---------------------------------------------------------------------------------------------------------------------


class _Closed(BaseModel):
    """Base of what a sentinel says: nothing may be in it that is not named here (canary §12)."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ClosedFingerprint(_Closed):
    """A key and its version."""

    version: Label
    key: Key


class ClosedEvidence(_Closed):
    """One thing a stage rests on."""

    source: Label
    signal: Label
    bucket: Text = ""
    timing: Text = ""
    severity: Text = ""
    confirmed: bool = False


class ClosedGovernor(_Closed):
    """A cap that was applied."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, populate_by_name=True)

    action: Label
    from_: Annotated[str, Field(alias="from")] = ""
    to: Text = ""
    reason: Label
    clusters: list[Label] = []


class ClosedLifecycle(_Closed):
    """Where the portfolio stands."""

    stage: Stage
    severity: Severity
    readiness: Readiness
    timing: Timing
    confidence: Confidence
    evidence: list[ClosedEvidence] = []
    confirmed_by: list[Label] = []
    unconfirmed: list[Label] = []
    suppressed: list[Label] = []
    rejected_by: list[Label] = []
    governors: list[ClosedGovernor] = []
    fingerprint: ClosedFingerprint


class SourceTimes(_Closed):
    """When each source was true; null for never seen."""

    account: TimestampNs | None = None
    positions: TimestampNs | None = None
    regime: TimestampNs | None = None


class SourceKeys(_Closed):
    """What each source looked like in buckets."""

    account: ClosedFingerprint
    positions: ClosedFingerprint
    regime: ClosedFingerprint


class LastFailure(_Closed):
    """Why a source could not be read, from a closed list."""

    code: Label
    stage: Label
    failed_at_ns: TimestampNs
    retryable: bool


class ClosedSourceHealth(_Closed):
    """How far a source can be believed."""

    source: Literal["account", "positions", "regime"]
    status: Label
    confidence: Confidence
    as_of_ns: TimestampNs | None = None
    age_seconds: Finite | None = None
    max_age_seconds: Finite
    fingerprint: Key
    fingerprint_stability: Literal["semantic_buckets_only"] = "semantic_buckets_only"
    notes: list[Label] = []
    refresh_state: Literal["current", "not_due", "pending", "fetch_failed", "fetch_failed_backoff"] | None = None
    last_failure: LastFailure | None = None


class Signal(_Closed):
    """One criterion of the policy that fired (canary §9). threshold: the level that matched; target: the state after action."""

    id: Label
    direction: Direction
    posture: Posture
    severity: Severity
    subject: Label | None = None
    metric: Label | None = None
    observed: Finite | None = None
    threshold: Finite | None = None
    target: Finite | None = None
    unit: Label | None = None
    evidence: Text = ""
    confidence: Confidence
    confidence_impact: Label | None = None
    blocked_by: list[Label] = []


class EvidenceRow(_Closed):
    """One line of the card."""

    title: Label
    direction: Direction
    severity: Severity
    guidance: Text = ""
    evidence: Text = ""


class Portfolio(_Closed):
    """The metrics of canary §4, in percent of net liquidation; null: absent."""

    base_currency: Text = ""
    net_liquidation: Finite | None = None
    cushion_pct: Finite | None = None
    look_ahead_cushion_pct: Finite | None = None
    gross_exposure_pct_nlv: Finite | None = None
    net_delta_pct_nlv: Finite | None = None
    gross_delta_pct_nlv: Finite | None = None
    largest_exposure: Label | None = None
    largest_exposure_pct_nlv: Finite | None = None
    largest_delta_exposure: Label | None = None
    largest_delta_pct_nlv: Finite | None = None
    daily_pnl_pct_nlv: Finite | None = None
    option_greeks: Text = ""


class Market(_Closed):
    """The market as canary §7 reads it. Lists are sorted."""

    regime_verdict: Text
    red_clusters: Count
    yellow_clusters: Count
    ranked_clusters: Count
    unranked_clusters: Count
    red_cluster_names: list[Cluster] = []
    yellow_cluster_names: list[Cluster] = []
    unconfirmed_red_cluster_names: list[Cluster] = []
    ambiguous_clusters: list[Cluster] = []
    partial_clusters: list[Cluster] = []
    computing_clusters: list[Cluster] = []
    stale_clusters: list[Cluster] = []
    degraded_clusters: list[Cluster] = []
    spy_change_pct: Finite | None = None
    vix_change_pct: Finite | None = None
    score: Finite | None = None


class MarginAlert(_Closed):
    """The account's own margin trouble, which never confirms the market."""

    severity: Severity
    metric: Label
    threshold: Finite
    state: Label


class WindowFigures(_Closed):
    """An account over a window that ends at its watermark. span_s: seconds of it that were observed; state: `ok`, or what is wrong with it."""

    window: Literal["1m", "5m", "1h", "session"]
    state: Literal["ok", "gap", "stale", "warming", "empty"]
    span_s: Finite
    samples: Annotated[int, integer(0, 2**40)]
    pnl_pct_nlv: Finite | None = None
    drawdown_pct_nlv: Finite | None = None
    min_cushion_pct: Finite | None = None
    max_gross_exposure_pct_nlv: Finite | None = None
    max_net_delta_pct_nlv: Finite | None = None
    max_gross_delta_pct_nlv: Finite | None = None
    fills: Annotated[int, integer(0, 2**40)] = 0
    traded_pct_nlv: Finite | None = None
    net_traded_pct_nlv: Finite | None = None
    cost_bps: Finite | None = None
    min_coverage: Finite | None = None


class CanaryResult(_Closed):
    """What the sentinel says of one account under one policy (canary §12). It never says what to trade."""

    as_of_ns: TimestampNs
    source_as_of_ns: SourceTimes
    fingerprint: ClosedFingerprint
    source_fingerprints: SourceKeys
    source_health: list[ClosedSourceHealth]
    policy: Profile
    policy_version: Label
    policy_fingerprint: Key
    lifecycle: ClosedLifecycle
    direction: Direction
    portfolio_posture: Posture
    severity: Severity
    planner_mode_hint: PlannerMode
    planner_readiness: Readiness
    summary: Text
    confidence: Confidence
    data_confidence: Confidence
    signal_confidence: Confidence
    confidence_reasons: list[Label] = []
    primary_drivers: list[Label] = []
    signals: list[Signal] = []
    rows: list[EvidenceRow]
    portfolio: Portfolio
    market: Market
    margin_alert: MarginAlert | None = None
    warnings: list[Text] = []
    not_execution: Literal[True] = True


class CanaryAlert(_Closed):
    """A result on its way: of which account, why now, and what its windows say. seq counts the alerts of (account, mode, profile)."""

    account: Account
    mode: Mode
    reason: Literal["first", "changed", "heartbeat"]
    seq: Annotated[int, integer(1, 2**53)]
    result: CanaryResult
    windows: list[WindowFigures] = []


class CanaryAlertMessage(Envelope):
    """canary.alert.v1, keyed by account."""

    type: Literal["canary.alert.v1"]
    payload: CanaryAlert


# --- monitor --------------------------------------------------------------------------------------------------------------------

Kind = Literal["portfolio_risk", "margin_safety", "data_health"]
NoticeReason = Literal[
    "first_notification", "reopened", "escalated", "recovered", "new_signal", "stage_changed", "repeat",
    "baseline", "held_no_coverage", "quiet", "de_escalated", "evidence", "unchanged", "rejected_out_of_order",
]  # fmt: skip


class NoticeKeys(_Closed):
    """What each source looked like in buckets."""

    account: Key
    positions: Key
    regime: Key


class NoticeStatus(_Closed):
    """How far each source could be believed."""

    account: Label
    positions: Label
    regime: Label


class Notice(_Closed):
    """A decision of the monitor (canary §14). notify: somebody is told; without it the notice is the feed's record of what changed.

    scope_id, episode_id: hashes, so that a receiver sees no account number. Times: of the episode.
    """

    account: Account
    mode: Mode
    scope_id: Label
    profile: Profile
    policy_version: Label
    policy_fingerprint: Key
    episode_id: Label
    kind: Kind
    episode_state: Literal["open", "escalated", "held", "recovered"]
    occurrence_seq: Annotated[int, integer(0, 2**53)]
    notification_seq: Annotated[int, integer(0, 2**53)]
    notify: bool
    reason: NoticeReason
    severity: Severity
    direction: Direction
    portfolio_posture: Posture
    lifecycle_stage: Stage
    planner_mode_hint: PlannerMode
    planner_readiness: Readiness
    signal_ids: list[Label] = []
    subjects: list[Label] = []
    fingerprint: Key
    lifecycle_fingerprint: Key
    source_fingerprints: NoticeKeys
    source_status: NoticeStatus
    as_of_ns: TimestampNs
    first_seen_ns: TimestampNs
    last_seen_ns: TimestampNs
    occurrences: Annotated[int, integer(0, 2**53)] = 1
    text_code: Label

    @field_validator("signal_ids", "subjects")
    @classmethod
    def _sorted(cls, value: list[str]) -> list[str]:
        return sorted(set(value))


class NoticeMessage(Envelope):
    """canary.notice.v1, keyed by account."""

    type: Literal["canary.notice.v1"]
    payload: Notice


class Delivery(_Closed):
    """What became of one notification at one target. state `reserved` is written before it is sent: after a crash it is `interrupted_uncertain`
    and sent again under the same webhook_id."""

    delivery_id: Label
    webhook_id: Label
    target: Label
    account: Account
    episode_id: Label
    occurrence_seq: Annotated[int, integer(0, 2**53)]
    notification_seq: Annotated[int, integer(0, 2**53)]
    state: Literal["reserved", "accepted", "retrying", "rejected", "gave_up", "target_disabled", "interrupted_uncertain"]
    attempts: Annotated[int, integer(0, 1_000)]
    http_status: Annotated[int, integer(0, 999)] | None = None
    error: Label | None = None
    next_ns: TimestampNs | None = None
    changed_ns: TimestampNs
    body: dict[str, Any]


class DeliveryMessage(Envelope):
    """canary.state.delivery.v1, keyed by delivery_id. Internal to the deliverer, and its receipts."""

    type: Literal["canary.state.delivery.v1"]
    payload: Delivery


class WebhookDeadLetterMessage(Envelope):
    """dlq.webhook, keyed by account: a notification that no target's rules allow to be sent any more."""

    type: Literal["dlq.webhook"]
    payload: Delivery


class RegimeDeadLetterMessage(Envelope):
    """dlq.regime, keyed as the input."""

    type: Literal["dlq.regime"]
    payload: DeadLetter


class MonitorDeadLetterMessage(Envelope):
    """dlq.monitor, keyed as the input."""

    type: Literal["dlq.monitor"]
    payload: DeadLetter


class CanaryDeadLetterMessage(Envelope):
    """dlq.canary, keyed as the input."""

    type: Literal["dlq.canary"]
    payload: DeadLetter


DENIED = (
    "order", "orders", "order_draft", "order_drafts", "draft", "drafts", "quantity", "quantities", "qty", "size", "strike", "strikes", "expiry", "expiries",
    "expiration", "candidate_id", "candidate_ids", "candidates", "intent", "previewable_intent", "previewable_intents", "preview_token", "preview_tokens",
    "token", "nonce", "nonces", "authorisation", "authorization", "order_authorisation", "order_authorization", "submit_eligible", "submit_eligibility",
    "broker_order_id", "broker_order_ids", "order_id", "order_ids", "limit_price", "legs", "side",
)  # fmt: skip
"""Names no field of what the sentinel says may have, at any depth (canary §12, "must never carry")."""
