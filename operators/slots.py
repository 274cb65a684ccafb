"""Where the fields of a batch row are: slot numbers of the messages the execution kernels read and write, as constants.

Kernels are compiled with these frozen in; the kernel cache is keyed on all sources, so a changed model recompiles them.
"""

from __future__ import annotations

from typing import get_args

from schemas.execution import (
    AliasMessage,
    Audit,
    AuditMessage,
    BenchmarkStatus,
    ComplianceAlertMessage,
    ExecutionReportMessage,
    Fill,
    FillMessage,
    HoldDecisionMessage,
    OrdStatus,
    ReportKind,
    Source,
)
from schemas.layout import layout_of
from schemas.orders import OrderAckMessage, RouteIntentMessage

REPORT = layout_of(ExecutionReportMessage)
ROUTE = layout_of(RouteIntentMessage)
ACK = layout_of(OrderAckMessage)
ALIAS_IN = layout_of(AliasMessage)
HOLD = layout_of(HoldDecisionMessage)
FILL = layout_of(FillMessage)
AUDIT = layout_of(AuditMessage)
ALERT = layout_of(ComplianceAlertMessage)

_r = REPORT.slot
R_CORR = _r("correlation_id")
R_SOURCE, R_VENUE, R_ACCOUNT, R_INSTRUMENT, R_KIND = (
    _r("payload.source"), _r("payload.venue"), _r("payload.account"), _r("payload.instrument"), _r("payload.kind"),
)  # fmt: skip
R_EXEC_ID, R_REF_ID, R_SECONDARY, R_MATCH = (
    _r("payload.exec_id"), _r("payload.exec_ref_id"), _r("payload.secondary_exec_id"), _r("payload.trade_match_id"),
)  # fmt: skip
R_DATE, R_CLIENT, R_ORIG_CLIENT, R_VENUE_ORDER, R_SIDE = (
    _r("payload.trade_date"), _r("payload.client_order_id"), _r("payload.orig_client_order_id"),
    _r("payload.venue_order_id"), _r("payload.side"),
)  # fmt: skip
R_ORD_STATUS, R_ORDER_QTY, R_LAST_QTY, R_CUM, R_LEAVES = (
    _r("payload.ord_status"), _r("payload.order_qty"), _r("payload.last_qty"), _r("payload.cum_qty"), _r("payload.leaves_qty"),
)  # fmt: skip
R_LAST_PX, R_AVG_PX, R_FEE, R_FEE_CCY, R_LIQUIDITY = (
    _r("payload.last_px"), _r("payload.avg_px"), _r("payload.fee_amount"), _r("payload.fee_ccy"), _r("payload.liquidity"),
)  # fmt: skip
R_EVENT_TS, R_RECV_TS, R_SEQ, R_POSS_DUP, R_POSS_RESEND = (
    _r("payload.event_ts_ns"), _r("payload.recv_ts_ns"), _r("payload.seq_num"), _r("payload.poss_dup"), _r("payload.poss_resend"),
)  # fmt: skip
R_PROVISIONAL, R_INFERRED, R_RESTATEMENT = (
    _r("payload.provisional"), _r("payload.inferred"), _r("payload.restatement_reason"),
)  # fmt: skip

KINDS: tuple[str, ...] = get_args(ReportKind)
(
    K_NEW, K_TRADE, K_BUST, K_CORRECT, K_CANCELED, K_REPLACED, K_EXPIRED, K_DONE_FOR_DAY, K_REJECTED, K_RESTATED, K_PENDING_NEW,
    K_PENDING_CANCEL, K_PENDING_REPLACE, K_STOPPED, K_SUSPENDED, K_CALCULATED, K_TRIGGERED, K_STATUS, K_CANCEL_REJECT, K_FEE_UPDATE,
) = range(len(KINDS))  # fmt: skip
K_ACK = 40
"""Row kind of an acknowledgement, a hold decision: remembered so that a repeat is known."""

ORD_STATUSES: tuple[str, ...] = get_args(OrdStatus)
(
    OS_PENDING_NEW, OS_NEW, OS_PARTIAL, OS_FILLED, OS_DONE, OS_CANCELED, OS_REPLACED, OS_PENDING_CANCEL, OS_STOPPED, OS_REJECTED,
    OS_SUSPENDED, OS_CALCULATED, OS_EXPIRED, OS_PENDING_REPLACE,
) = range(len(ORD_STATUSES))  # fmt: skip

SOURCES: tuple[str, ...] = get_args(Source)
SIDE_BUY, SIDE_SELL = 0, 1
TIF_IOC, TIF_FOK, TIF_GTC, TIF_DAY = 0, 1, 2, 3

_o = ROUTE.slot
O_MSG, O_CORR, O_ORDER, O_SYMBOL, O_SIDE, O_SIZE, O_TIF = (
    _o("msg_id"), _o("correlation_id"), _o("payload.order_id"), _o("payload.symbol"), _o("payload.side"), _o("payload.size"),
    _o("payload.time_in_force"),
)  # fmt: skip
O_BOOK, O_ACCOUNT, O_DECISION, O_PLAN = _o("payload.book"), _o("payload.account"), _o("payload.decision_ts_ns"), _o("payload.routing_plan")
_plan = ROUTE.column("payload.routing_plan").item
assert _plan is not None
O_LEG_LATENCY = _plan.slot("max_latency_ms")

_a = ACK.slot
A_MSG, A_CORR, A_ORDER, A_VENUE, A_CLIENT, A_VENUE_ORDER, A_STATUS, A_SIZE, A_TS = (
    _a("msg_id"), _a("correlation_id"), _a("payload.order_id"), _a("payload.venue"), _a("payload.client_order_id"),
    _a("payload.venue_order_id"), _a("payload.status"), _a("payload.size"), _a("payload.ack_ts_ns"),
)  # fmt: skip
ACK_ACKED, ACK_REJECTED, ACK_REPLACED, ACK_CANCELED = range(4)

_l = ALIAS_IN.slot
L_MSG, L_TS, L_TS_NS, L_CORR, L_KEY, L_VENUE, L_VENUE_ORDER, L_ORDER = (
    _l("msg_id"), _l("ts"), _l("ts_ns"), _l("correlation_id"), _l("idempotency_key"), _l("payload.venue"), _l("payload.venue_order_id"),
    _l("payload.order_id"),
)  # fmt: skip

_f = FILL.slot
F_WIDTH = FILL.width
F_MSG, F_TS, F_TS_NS, F_CORR, F_CAUSE, F_KEY = (
    _f("msg_id"), _f("ts"), _f("ts_ns"), _f("correlation_id"), _f("causation_id"), _f("idempotency_key"),
)  # fmt: skip
_p = "payload."
F_ORDER, F_FILL, F_SYMBOL, F_SIDE, F_SIZE, F_PRICE, F_VENUE, F_LATENCY, F_PAYLOAD_KEY = (
    _f(_p + "order_id"), _f(_p + "fill_id"), _f(_p + "symbol"), _f(_p + "side"), _f(_p + "filled_size"), _f(_p + "price"),
    _f(_p + "venue"), _f(_p + "latency_ms"), _f(_p + "idempotency_key"),
)  # fmt: skip
F_SLIPPAGE_BPS, F_FEE, F_FEE_CCY, F_LIQUIDITY, F_BOOK, F_ACCOUNT, F_EXEC_ID, F_EXEC_TS, F_STATUS, F_VERSION = (
    _f(_p + "slippage_bps"), _f(_p + "commission"), _f(_p + "commission_ccy"), _f(_p + "liquidity_flag"), _f(_p + "book"),
    _f(_p + "account"), _f(_p + "exec_id"), _f(_p + "exec_ts_ns"), _f(_p + "status"), _f(_p + "version"),
)  # fmt: skip
F_DELTA, F_CUM, F_LEAVES, F_AVG, F_PROVISIONAL = (
    _f(_p + "signed_delta"), _f(_p + "cum_size"), _f(_p + "leaves_size"), _f(_p + "avg_price"), _f(_p + "provisional"),
)  # fmt: skip
F_BENCH, F_BENCH_MID = _f(_p + "benchmark"), _f(_p + "benchmark_mid")
B_KIND, B_PX, B_TS, B_STATUS, B_DETAIL, B_SNAPSHOT, B_AGE = (
    _f(_p + "benchmark." + name) - F_BENCH for name in ("kind", "px", "ts_ns", "status", "detail", "snapshot_id", "age_ms")
)
F_SLIPPAGE, F_ARRIVAL, F_MID, F_CAPTURE = (
    _f(_p + "slippage"), _f(_p + "slippage.arrival_bps"), _f(_p + "slippage.mid_bps"), _f(_p + "slippage.spread_capture"),
)  # fmt: skip
F_RESIDUAL, F_RES_SIZE, F_RES_NOTIONAL = _f(_p + "residual"), _f(_p + "residual.order_size"), _f(_p + "residual.exposure_notional")
F_PAYLOAD = _f("payload")
ST_FILLED, ST_BUSTED, ST_CORRECTED = (get_args(Fill.model_fields["status"].annotation).index(s) for s in ("FILLED", "BUSTED", "CORRECTED"))
BENCH_OK, BENCH_STALE, BENCH_MISSING = (get_args(BenchmarkStatus).index(s) for s in ("ok", "stale", "missing"))

_u = AUDIT.slot
U_WIDTH = AUDIT.width
U_MSG, U_TS, U_TS_NS, U_CORR, U_CAUSE, U_KEY, U_PAYLOAD = (
    _u("msg_id"), _u("ts"), _u("ts_ns"), _u("correlation_id"), _u("causation_id"), _u("idempotency_key"), _u("payload"),
)  # fmt: skip
U_LANE, U_SEQ, U_PREV, U_REASON, U_OUTCOME, U_INPUT, U_TOPIC, U_PARTITION, U_OFFSET = (
    _u(_p + "lane"), _u(_p + "seq"), _u(_p + "prev_sha256"), _u(_p + "reason"), _u(_p + "outcome"), _u(_p + "input"),
    _u(_p + "input.topic"), _u(_p + "input.partition"), _u(_p + "input.offset"),
)  # fmt: skip
U_AGE, U_VENUE, U_ORDER, U_FILL, U_VERSION, U_EXEC_ID, U_SIZE, U_OTHER = (
    _u(_p + "input_age_ms"), _u(_p + "venue"), _u(_p + "order_id"), _u(_p + "fill_id"), _u(_p + "version"), _u(_p + "exec_id"),
    _u(_p + "size"), _u(_p + "other_size"),
)  # fmt: skip
OUTCOMES: tuple[str, ...] = get_args(Audit.model_fields["outcome"].annotation)
OUT_PUBLISHED, OUT_DUPLICATE, OUT_PENDING, OUT_DLQ, OUT_REROUTED, OUT_NOTE = range(6)

_c = ALERT.slot
C_WIDTH = ALERT.width
C_MSG, C_TS, C_TS_NS, C_CORR, C_CAUSE, C_KEY, C_PAYLOAD, C_ALERT, C_ORDER, C_SYMBOL, C_SEVERITY, C_RULE, C_TEXT, C_REMEDY, C_ATTACH = (
    _c("msg_id"), _c("ts"), _c("ts_ns"), _c("correlation_id"), _c("causation_id"), _c("idempotency_key"), _c("payload"),
    _c(_p + "alert_id"), _c(_p + "order_id"), _c(_p + "symbol"), _c(_p + "severity"), _c(_p + "rule_id"), _c(_p + "description"),
    _c(_p + "remediation_required"), _c(_p + "attachments"),
)  # fmt: skip
SEV_INFO, SEV_WARN, SEV_CRITICAL = 0, 1, 2
