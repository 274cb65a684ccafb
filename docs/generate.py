"""Writes the pages of docs/ that are data elsewhere: reason codes, settings, topics, metrics. With `--check` it only compares.

Holds no fact but the wording of what reason codes and counters mean; a test holds that each has one and that the pages are current.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

from pydantic_core import PydanticUndefined

from flows.metrics import METRICS
from flows.settings import FILE_VARIABLE, RESERVED_KAFKA_OPTIONS, Settings, variable
from schemas import registry as r
from schemas.reasons import HedgeReason, Reason, Stage, hedge_group_of, replayable, stage_of
from schemas.registry import DAY_MS, TOPICS
from state import hedges
from state.ledger import BALANCE

HERE = Path(__file__).resolve().parent
MADE = "<!-- Written by docs/generate.py; change what it is made from instead. -->"

REASONS: dict[Reason, str] = {
    Reason.garbled: "a FIX message with a wrong body length or checksum; for gateways, no flow writes it yet",
    Reason.json_malformed: "not one JSON object: broken, truncated, nested too deep (of a field given twice the last counts)",
    Reason.encoding_invalid: "bytes that are not UTF-8",
    Reason.version_unknown: "the envelope's version is not one this release knows",
    Reason.field_missing: "a field required by the contract, or by the kind of report, is not there",
    Reason.field_invalid: "a field of another type, length or range than the contract allows",
    Reason.enum_unknown: "a value that is not in the field's list",
    Reason.timestamp_invalid: "a time outside 2000 to 2100 (often another unit than nanoseconds), or a trade date after its event",
    Reason.precision_exceeds_scale: "more decimals than the instrument has; nothing is ever rounded",
    Reason.oversize: "a record of more than 1 MiB",
    Reason.venue_unknown: "the venue is not in the reference data",
    Reason.account_unknown: "the venue lists its accounts and this is not one of them",
    Reason.instrument_unknown: "the instrument is not in the reference data",
    Reason.side_invalid: "a TRADE without a side, or a side that is none",
    Reason.exec_id_missing: "a TRADE, BUST, CORRECT or FEE_UPDATE without exec_id",
    Reason.price_missing: "a TRADE or CORRECT without last_px",
    Reason.price_out_of_contract: "last_px is not above zero",
    Reason.zero_qty_trade: "last_qty is 0",
    Reason.book_unknown: "kept for a closed list of books; no flow writes it: the hedger takes every book it is told of",
    Reason.target_not_finite: "a target_size that is no decimal string of at most 18 digits",
    Reason.universe_missing: "kept; no flow writes it: a book without a universe is booked and told of under the hedger's reason of this name",
    Reason.order_unknown_expired: "no routed order with its correlation came within 120 s",
    Reason.uncorrelated_expired: "nothing told within 120 s which order it belongs to",
    Reason.correlation_conflict: "correlation_id, client_order_id, the alias of the venue's order id and the record's key do not agree",
    Reason.intent_conflict: "another order was already routed under this correlation_id",
    Reason.sender_not_allowed: "the topic lists who may send to it, and this sender is not one of them",
    Reason.approvals_missing: "a resume without the approvals of risk and compliance, by two people; read whole by every worker, "
    "so it is counted (`resume_rejected_approvals_missing`) and makes no dead letter",
    Reason.hedge_unknown: "the lane knows no hedge, or no order of a hedge, with this id",
    Reason.exec_conflict: "the execution id is known with other content; the first fact stands and the order is held",
    Reason.chain_fork: "what it refers to was already corrected or busted by another report",
    Reason.chain_cycle: "it refers to itself, or to a report that waits for it",
    Reason.chain_dead: "what it refers to was busted",
    Reason.ref_unknown_expired: "what it refers to did not come within 24 h; should it come, it is still met",
    Reason.ref_not_trade: "what it refers to is not an execution",
    Reason.ref_cross_order: "what it refers to belongs to another order",
    Reason.beyond_dedup_horizon: "the trade date is older than the venue's dedup horizon, so a repeat could not be told from a new fill",
    Reason.event_ts_future: "the event is more than 60 s after its receipt, or the receipt more than 60 s after now",
    Reason.ttl_expired: "a decision of the desk, or a hedge asked for, that is older than its `ttl_ms`",
    Reason.operator_rejected: "an operator rejected it (`execution.intent.hold.v1`)",
    Reason.internal_error: "kept for faults of hedgerow's own; no flow writes it: such a fault ends the worker instead",
    Reason.order_unknown: "waits for the routed order",
    Reason.uncorrelated: "waits for an acknowledgement that ties the venue's order id to an order",
    Reason.ref_unknown: "a bust or correct that waits for what it refers to",
    Reason.held: "its order is held",
    Reason.overfill: "more was filled than ordered; ends by itself when that is over",
    Reason.cum_regression: "the venue's total is below what we counted; ends by itself when that is over",
    Reason.side_mismatch: "a fill on the other side than the order's; needs a decision",
    Reason.instrument_mismatch: "a fill in another instrument than the order's; can only be rejected",
    Reason.account_mismatch: "a fill in another account than the order's; needs a decision",
    Reason.accepted: "taken and folded",
    Reason.gap_opened: "the venue's total is above what we counted: a fill is missing (alert after 30 s)",
    Reason.gap_closed: "the missing fill came",
    Reason.gap_expired: "it did not come within 120 s (alert)",
    Reason.attribute_mismatch: "a repeat or a state report contradicts what is known; the first fact stands",
    Reason.avg_px_mismatch: "the venue's average price is not the one of its fills",
    Reason.fill_after_terminal: "a fill of an order that had ended; it counts",
    Reason.clock_skew: "an event after its receipt, within the 60 s allowed; once per order",
    Reason.provisional_reversed: "an estimate was replaced by the real fill",
    Reason.feed_switched: "kept for the change between a venue's feeds; no flow writes it yet",
    Reason.hold_released: "an operator released a held order",
    Reason.external_adopted: "kept for orders made outside; no flow writes it yet",
    Reason.confirm_late: "no report within the confirmation time of the venue",
    Reason.confirm_expired: "none within twice that time: alert, and a request to stop routing there",
    Reason.order_recorded: "a routed order or an acknowledgement was taken",
    Reason.alias_recorded: "a venue's order id was tied to its order",
    Reason.order_held: "an order was held; the alert's rule_id says why",
    Reason.rerouted: "sent on to the lane it belongs to, which an alias told",
    Reason.misrouted: "came in the wrong partition and was sent on to its own",
    Reason.pending_query: "a report waits for more than 5 s, or a gap is open: time to ask the venue",
    Reason.split_applied: "earlier fills were rescaled by a split",
    Reason.duplicate_transport: "the same execution again, marked as possibly sent twice (`poss_dup`)",
    Reason.duplicate_resend: "the same execution again, marked as possibly resent (`poss_resend`)",
    Reason.duplicate_feed_overlap: "the same execution again, from another feed",
    Reason.duplicate_secondary: "the same fill under another execution id, told by the match id",
    Reason.duplicate_superseded: "kept for repeats of what a correct or bust has replaced; they count under the other kinds",
    Reason.duplicate_replay: "the same execution, route, acknowledgement or decision again, without any mark",
    Reason.duplicate_enriched: "of the repeats, those that brought a fee or liquidity the fill lacked",
}  # fmt: skip
"""What each reason code means, in one line."""

HEDGE_REASONS: dict[HedgeReason, str] = {
    HedgeReason.hedge_sent: "a hedge was sent",
    HedgeReason.hedge_reduced_by_limit: "it is smaller than wanted, because a limit bound it",
    HedgeReason.limit_forced: "a limit that was already broken forced the way back, though risk grows by it",
    HedgeReason.unwind_by_policy: "PolicyGuard's policy names the position to be taken down",
    HedgeReason.secondary_used: "instruments kept for when the primary ones cannot take enough were opened",
    HedgeReason.envelope_forced: "sent at a wide spread, because the residual had waited longer than 60 s",
    HedgeReason.dust: "the risk left is too small to trade",
    HedgeReason.within_no_trade_band: "what trading costs is more than the risk it would take away",
    HedgeReason.within_ratio_buffer: "the ratio has moved by less than its standard error",
    HedgeReason.inflight_covers: "hedges under way cover it when they fill",
    HedgeReason.same_version: "a hedge of exactly this exposure was sent and has not ended",
    HedgeReason.cooldown: "too soon after the last hedge in the instrument",
    HedgeReason.no_exposure: "nothing is to be hedged and nothing is held",
    HedgeReason.halted: "a HALT is in effect",
    HedgeReason.reducing_only: "only trades that lower the risk are taken now",
    HedgeReason.dnt: "a do-not-trade window is open",
    HedgeReason.limit_bound: "the position limit of the instrument",
    HedgeReason.headroom_zero: "no headroom is left in the instrument",
    HedgeReason.capital_cap: "the capital the positions may take",
    HedgeReason.adv_cap: "the share of the day's usual volume that may be traded",
    HedgeReason.liquidity_tier: "the share of the quoted size that the instrument's tier allows",
    HedgeReason.stress_bound: "a stress scenario's loss",
    HedgeReason.sender_not_allowed: "who asked may not; no flow writes it: such a request is a dead letter",
    HedgeReason.held_by_desk: "the manual desk holds the book or the instrument",
    HedgeReason.stale_quote: "the newest quote is too old",
    HedgeReason.stale_covariance: "no bar has closed for too long",
    HedgeReason.stale_allocation: "the target is past its time to live; the last one known is used, and only reducing is allowed",
    HedgeReason.stale_risk_state: "the risk state is too old, or there is none",
    HedgeReason.warmup: "too few bars for ratios of their own",
    HedgeReason.weak_relation: "the instrument explains too little of the exposure, or its covariance cannot be solved",
    HedgeReason.unknown_inflight: "a hedge was sent and nobody knows what became of it; it counts as in flight",
    HedgeReason.policy_hash_mismatch: "the policy is not the one that was expected",
    HedgeReason.price_missing: "no price, or no rate to the book's base currency",
    HedgeReason.zero_variance: "the series does not move",
    HedgeReason.universe_missing: "nothing says what the book may hedge with",
    HedgeReason.policy_missing: "no policy for the book",
    HedgeReason.allocation_missing: "no target, and the policy says not to hedge without one",
    HedgeReason.not_profitable: "in whole lots it would cost more than it is worth",
    HedgeReason.predicate_min_var: "it would take away less than 1 % of the variance",
    HedgeReason.predicate_spread: "the spread is wider than in four fifths of the last hour",
    HedgeReason.predicate_cost: "it would cost more than the policy's max_cost_bps",
    HedgeReason.below_min_notional: "it is less than the instrument's least notional",
    HedgeReason.predicate_coverage: "coverage would not be better after it; no flow writes it yet",
    HedgeReason.predicate_var_limit: "the value at risk would still be over its limit",
    HedgeReason.solver_inexact: "the answer did not pass the optimality check",
    HedgeReason.channel_down: "no orders can be sent to the venue",
    HedgeReason.channel_queued: "all that would help is behind a closed channel; decided afresh when it opens",
    HedgeReason.no_instrument: "no instrument may be traded for it",
    HedgeReason.escalated: "what is open to the hedger is not enough; others were told",
    HedgeReason.correlation_breakdown: "exposure and instrument no longer move together as they did",
    HedgeReason.overhedged: "more is held than is needed",
    HedgeReason.coverage_gap: "coverage under 95 % for five minutes",
    HedgeReason.liquidity_shortfall: "the primary instruments cannot take enough",
    HedgeReason.completion_late: "coverage under 95 % after two minutes",
    HedgeReason.acked: "the order agent has it at the venue; no flow writes it yet, the state says it",
    HedgeReason.refused: "the venue or the order agent refused it; no flow writes it yet, the state says it",
    HedgeReason.canceled: "it was canceled; no flow writes it yet, the state says it",
    HedgeReason.expired: "its time was over",
    HedgeReason.filled: "it was filled; no flow writes it yet, the state says it",
    HedgeReason.superseded: "it waited, and what is needed is decided afresh",
    HedgeReason.manual: "the desk took it over",
    HedgeReason.late_fill: "a fill came after it had ended; it counts",
    HedgeReason.hedge_fill_busted: "a fill of it was busted; the residual is open again; no flow writes it yet",
    HedgeReason.fill: "a fill",
    HedgeReason.allocation: "a target",
    HedgeReason.risk_state: "a risk state",
    HedgeReason.policy: "a policy",
    HedgeReason.universe: "a universe",
    HedgeReason.bar: "a bar closed",
    HedgeReason.hedge_state: "a hedge changed its state",
    HedgeReason.channel: "an order channel opened or closed",
    HedgeReason.resume: "a HALT ended; no flow writes it yet, `halt` stands for both",
    HedgeReason.halt: "a HALT began or ended",
    HedgeReason.timer: "the time had come to look again",
    HedgeReason.request: "somebody asked for a hedge",
    HedgeReason.desk: "the desk spoke",
    HedgeReason.restart: "the worker took the lane over",
}  # fmt: skip
"""What each of the hedger's reasons means, in one line."""

COUNTERS: dict[str, str] = {
    "received": "inputs taken in",
    "published": "inputs that ended as published, state changes included",
    "duplicate": "inputs that were repeats",
    "pending": "inputs that wait now",
    "dlq": "inputs that ended as dead letters",
    "rerouted": "inputs sent on to another lane",
    "fills_published": "fill versions published",
    "fills_enriched": "of these, versions that only brought a fee or liquidity",
    "alerts": "compliance alerts raised",
    "audit_records": "audit records written",
    "misrouted": "inputs that came in the wrong partition",
    "dlq_resolved": "dead letters whose missing reference came after all",
    "pending_order_unknown": "waiting for their order",
    "pending_uncorrelated": "waiting for an alias",
    "pending_ref_unknown": "waiting for what they refer to",
    "pending_held": "waiting because their order is held",
    **{r.name: REASONS[r] for r in Reason if r.name.startswith("duplicate_")},
    "gaps_open": "orders with a fill missing now",
    "orders_held": "orders held now",
    "late_benchmarks": "fills published before the tape had passed them",
    "balance_mismatch": "received − published − duplicate − pending − dlq − rerouted: must be 0",
    "dlq_<reason>": "dead letters of a reason",
    "executions_kept": "executions in state",
    "orders_kept": "venue orders in state",
}
"""What a lane of the execution flow counts, as `hedgerow_lane_count{name=…}`."""

HEDGER_COUNTERS: dict[str, str] = {
    "received": "inputs taken in",
    "applied": "inputs that were taken",
    "duplicate": "inputs that were repeats, or targets older than the one known",
    "echo": "the hedger's own intents, read back",
    "dlq": "inputs that ended as dead letters",
    "rerouted": "inputs of another lane's books, sent on to it",
    "decisions": "decisions, also those to do nothing",
    "hedges_sent": "hedges sent",
    "hedges_queued": "hedges that had to wait for an order channel",
    "hedges_blocked": "of these, dropped by a HALT",
    "hedges_ended": "hedges sent that ended",
    "hedges_failed": "hedges that were refused or expired with less than 95 % filled, or UNKNOWN for two minutes",
    "hedge_fills": "fills of hedges",
    "audit_records": "audit records written",
    "escalations": "escalations sent",
    "halt_acks": "HALTs acknowledged",
    "balance_mismatch": "received − applied − duplicate − echo − dlq − rerouted: must be 0",
    "dlq_<reason>": "dead letters of a reason",
    "books": "books in state",
    "positions_kept": "positions in state",
    "fills_kept": "fills in state, by which a repeat is known",
    "hedges_open": "hedges that have not ended, those that wait included",
    "coverage_gaps": "books whose coverage is under its target now",
}
"""What a lane of the hedger counts."""


def table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """Return a Markdown table."""
    lines = [list(head), *([str(cell).replace("|", "\\|") for cell in row] for row in rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def page(title: str, *parts: str) -> str:
    """Return a page: title, who writes it, then paragraphs (their line breaks do not matter) and tables."""
    flat = [part if part.startswith(("|", "#")) else " ".join(part.split()) for part in parts]
    return "\n\n".join([f"# {title}", MADE, *flat]) + "\n"


def reasons() -> str:
    """Return docs/reasons.md."""
    titles = {
        Stage.decode: "Decode: the bytes are not a message of the contract",
        Stage.normalise: "Normalise: the message does not fit the reference data, or says too little",
        Stage.identity: "Identity: which order or hedge it belongs to, and whether who sent it may",
        Stage.chain: "Chain: what it repeats, corrects or busts",
        Stage.time: "Time",
        Stage.release: "Release",
        Stage.hold: "Waiting and held: nothing is lost, something is missing",
        Stage.audit: "Audit: remarks and kinds of repeats",
    }
    parts = [
        """Why an input was rejected, held or remarked on. The name is what leaves the system (dead letters, audit records, alerts'
        `rule_id`, metrics); the number is used in state and never changes. *Replay* says whether a dead letter can succeed when it is
        sent again after its cause is fixed. The rules behind them: [How a report becomes a fill](reconciliation.md)."""
    ]
    for stage, title in titles.items():
        dead = stage < Stage.hold
        found = [r for r in Reason if r and stage_of(r) is stage]
        rows = [[f"`{r.name}`", int(r), *(["yes" if replayable(r) else "no"] if dead else []), REASONS[r]] for r in found]
        parts += [f"## {title}", table(["name", "number", *(["replay"] if dead else []), "meaning"], rows)]
    groups: dict[str, list[list[object]]] = {}
    for reason in HedgeReason:
        if reason:
            groups.setdefault(hedge_group_of(reason), []).append([f"`{reason.name}`", int(reason), HEDGE_REASONS[reason]])
    parts += [
        "## Why the hedger acted, or did not",
        """The hedger rejects an input with the codes above. Those below are the `reasons` and `triggers` of its audit records, the `reason`
        and `tried` of its escalations, and the `annotations` of its hedge events. Their numbers are a list of their own.""",
    ]
    for group, title in _GROUPS.items():
        parts += [f"### {title}", table(["name", "number", "meaning"], groups.pop(group))]
    if groups:
        raise ValueError(f"groups without a title: {sorted(groups)}")
    return page("Reason codes", *parts)


_GROUPS = {
    "acted": "Acted",
    "nothing to do": "Nothing to do",
    "not allowed": "Not allowed, or bound by a limit",
    "not known": "Not known",
    "not worth it": "Not worth it",
    "outside": "Outside the hedger",
    "of a hedge": "What became of a hedge",
    "trigger": "Triggers: what made the hedger look",
}
"""Titles of the groups of the hedger's reasons."""


def settings() -> str:
    """Return docs/settings.md."""
    rows = []
    for name, info in Settings.model_fields.items():
        bounds = {type(m).__name__: getattr(m, type(m).__name__.lower(), None) for m in info.metadata}
        low, high = bounds.get("Ge"), bounds.get("Le")
        span = f"{low} to {high}" if low is not None and high is not None else f"{low} or more" if low is not None else ""
        unset = info.default is PydanticUndefined or info.default is None
        shown = "–" if unset else "built in" if name == "reference" else f"`{info.default}`"
        rows.append([f"`{variable(name)}`", shown, span, info.description])
    reserved = ", ".join(f"`{name}`" for name in sorted(RESERVED_KAFKA_OPTIONS))
    return page(
        "Settings",
        f"""Each is an environment variable; in a TOML file (`--settings FILE`, or `{FILE_VARIABLE}`) the same name in lower case without
        `HEDGEROW_`. The command line wins over the environment, the environment over the file. All problems are told at once, one
        line each, with exit code 2.""",
        table(["setting", "default", "allowed", "meaning"], rows),
        f"`HEDGEROW_KAFKA_OPTIONS` cannot set these, because the guarantees rest on them: {reserved}.",
        """Beside the settings: `HEDGEROW_NUMBA_CACHE` is the folder compiled kernels are kept in (default: `hedgerow/numba` in the
        user's cache folder); `JAVA_HOME` the Java of `hedgerow broker`.""",
    )


FLOW_TOPICS = (
    ("execution", {*r.EXECUTION_INPUTS, *r.EXECUTION_BROADCAST}, set(r.EXECUTION_OUTPUTS), r.EXECUTION_CHANGELOG),
    ("hedger", {*r.HEDGER_INPUTS, *r.HEDGER_BROADCAST}, set(r.HEDGER_OUTPUTS), r.HEDGER_CHANGELOG),
    ("regime", set(r.REGIME_INPUTS), set(r.REGIME_OUTPUTS), r.REGIME_CHANGELOG),
    ("canary", {*r.CANARY_INPUTS, *r.CANARY_BROADCAST}, set(r.CANARY_OUTPUTS), r.CANARY_CHANGELOG),
    ("monitor", set(r.MONITOR_INPUTS), set(r.MONITOR_OUTPUTS), r.MONITOR_CHANGELOG),
    ("deliverer", set(r.DELIVERY_TOPICS[:2]), set(r.DELIVERY_TOPICS[1:]), None),
)
"""Flow, the topics it receives and sends, its changelog."""


def topics() -> str:
    """Return docs/topics.md."""
    rows = []
    for topic in TOPICS.values():
        uses = []
        for flow, received, sent, changelog in FLOW_TOPICS:
            use = " and ".join(word for word, names in (("in", received), ("out", sent)) if topic.name in names)
            if use or topic.name == changelog:
                uses.append(f"{flow}: {use or 'state'}")
        days = topic.retention_ms // DAY_MS
        keeps = "1 day" if days == 1 else f"{days} days"
        keeps = {"offset": "what a restore needs", "compact": "the newest of each key"}.get(topic.cleanup, keeps)
        count = "lanes" if topic.lanes or topic.partitions is None else topic.partitions
        schema = f"[schema](../schemas/generated/{topic.name}.json)" if topic.model is not None else "–"
        rows.append(
            [f"`{topic.name}`", topic.key, "; ".join(uses), count, keeps, f"{topic.max_message_bytes >> 20} MiB", schema, topic.doc]
        )
    return page(
        "Topics",
        """`hedgerow topics create` makes them, `hedgerow topics check` compares what is there. *lanes* is `HEDGEROW_PARTITIONS`; those
        topics must have equal counts. Keys are partitioned with murmur2, the Java clients' default; with librdkafka set
        `partitioner=murmur2_random`. The same as an AsyncAPI document: [asyncapi.json](../schemas/generated/asyncapi.json). What may
        change in a record: [Schema evolution](schema-evolution.md). *flows* says what each does with a topic; an input that is
        also sent is one that came to the wrong lane, or tells another lane something.""",
        table(["topic", "key", "flows", "partitions", "kept", "largest record", "record", "what it is"], rows),
    )


def metrics() -> str:
    """Return docs/metrics.md."""
    runtime = [[f"`{name}{'_total' if kind == 'counter' else ''}`", kind, text] for name, (kind, text) in METRICS.items()]
    return page(
        "Metrics",
        """`HEDGEROW_METRICS_PORT` (or `run --metrics-port`) serves them in Prometheus' format at `/metrics`; worker n of `--workers` has
        port + n. Every one carries `flow` and `worker`.""",
        table(["metric", "kind", "what it counts"], runtime),
        "## What a lane counts",
        """As `hedgerow_lane_count{lane=…,name=…}`. Counts of what happened are part of the lane's state, so they go on over restarts; several
        lanes are added up.""",
        "### Execution",
        table(["name", "what it counts"], [[f"`{name}`", text] for name, text in COUNTERS.items()]),
        "### Hedger",
        table(["name", "what it counts"], [[f"`{name}`", text] for name, text in HEDGER_COUNTERS.items()]),
        "## What a worker's broadcast table counts",
        """`hedgerow_broadcast_count{name=…}` has the worker's tape: `snapshots`, `snapshots_rejected`, `snapshots_rejected_<reason>` and
        what happened to quotes ([What a fill cost](tca.md)); these begin anew with the process. In the hedger also the records of the other
        topics every worker reads whole, under `risk`, `policy`, `universe`, `channel`, `halt`, `resume` and `matrix`: how many were read, and with
        `_rejected` and `_rejected_<reason>` those left out.""",
    )


PAGES = {"reasons.md": reasons, "settings.md": settings, "topics.md": topics, "metrics.md": metrics}


def missing() -> list[str]:
    """Return the names of reason codes and counters that have no wording, and of wordings that stand for nothing."""
    codes = {r for r in Reason if r} ^ REASONS.keys()
    hedge_codes = {r for r in HedgeReason if r} ^ HEDGE_REASONS.keys()
    shared = {"balance_mismatch", "dlq_<reason>"}
    counters = ({name for name in BALANCE if name} | shared | {"executions_kept", "orders_kept"}) ^ COUNTERS.keys()
    kept = {"books", "positions_kept", "fills_kept", "hedges_open", "coverage_gaps"}
    hedger_counters = ({name for name in hedges.BALANCE if name} | shared | kept) ^ HEDGER_COUNTERS.keys()
    return sorted([*(r.name for r in codes), *(r.name for r in hedge_codes), *counters, *hedger_counters])


def out_of_date(folder: Path = HERE) -> list[str]:
    """Return the names of the pages that differ from what is written now."""
    return [name for name, make in PAGES.items() if not (folder / name).is_file() or (folder / name).read_text(encoding="utf-8") != make()]


def main() -> int:
    """Write the pages, or with `--check` name those out of date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; end with 1 when a page is out of date")
    args = parser.parse_args()
    for name in missing():
        print(f"docs/generate.py: {name} has no wording, or is no more", file=sys.stderr)
    changed = out_of_date()
    for name in changed:
        if args.check:
            print(f"docs/{name} is out of date: run `make docs`", file=sys.stderr)
        else:
            (HERE / name).write_text(PAGES[name](), encoding="utf-8")
            print(f"wrote docs/{name}")
    return 1 if missing() or (changed and args.check) else 0


if __name__ == "__main__":
    raise SystemExit(main())
