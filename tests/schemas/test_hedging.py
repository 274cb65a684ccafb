"""The hedger's messages: good ones are taken and keep what they say, bad ones are refused at the field that is wrong."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.export import directions
from schemas.hedging import HedgeEvent, LegState
from schemas.parse import parse
from schemas.reasons import HedgeReason, Reason, Stage, hedge_group_of, replayable, stage_of
from schemas.registry import HEDGER_BROADCAST, HEDGER_CHANGELOG, HEDGER_INPUTS, HEDGER_OUTPUTS, HEDGER_STATES, TOPICS
from tests.schemas.made import make_model

T0 = 1_767_614_400_000_000_000
ID = "7c9e6679-7425-40de-944b-e07fc1f90ae7"
HASH = "0123456789abcdef"
LEG = {
    "order_id": ID, "instrument": "BTC-PERP", "venue": "ALPHA", "side": "SELL", "size": "0.25", "notional": 15_000.0, "mid": "60000.5",
    "limit_px": None, "time_in_force": "DAY",
}  # fmt: skip
AUDIT = {
    "lane": 0, "seq": 0, "prev_sha256": "0" * 64, "book": "B1", "decision_id": ID, "triggers": ["fill", "bar"], "outcome": "nothing",
    "reasons": ["dust"], "state": "ACTIVE", "exposure_version": HASH, "decision_ts_ns": T0, "ages": {"quote_ms": 12.5}, "inputs_sha256": "0" * 64,
}  # fmt: skip
METRIC = {
    "book": "B1", "window_s": 300, "to_ns": T0, "exposure_notional": 1e6, "needed_risk": 0.0, "episodes": 0, "episodes_met": 0, "hedges_sent": 0,
    "hedges_ended": 0, "hedges_failed": 0, "hedged_notional": 0.0, "coverage_gap": False,
}  # fmt: skip
INSTRUMENT = {"symbol": "BTC-PERP", "venue": "ALPHA", "currency": "USD", "lot": "0.001", "cost_bps": 1.5, "adv_notional": 1e9}

GOOD: dict[str, dict[str, Any]] = {
    "portfolio.intent.allocate.v1": {"book": "B1", "symbol": "ACME", "target_size": "-1000.5", "confidence": 1.0, "risk_score": 0.0},
    "risk.state.context.v1": {
        "portfolio_var": 0.0, "daily_drawdown_pct": 100.0, "treasury_utilisation": 1.0, "volatility": 0.2, "risk_level": "LOW",
        "limits": [{"instrument": "BTC-PERP", "max_notional": 1e6, "headroom_notional": -5.0}],
    },
    "policy.state.guard.v1": {
        "policy_hash": HASH, "do_not_trade": [{"instrument": "ACME", "from_ns": T0, "to_ns": T0 + 1, "reason": "halt"}],
        "stress_scenarios": [{"id": "crash", "shocks": {"*": -0.2}, "max_loss": 1e6}],
        "unwind": [{"id": "u1", "instrument": "ACME", "max_notional": 1e5, "expires_ns": T0}],
    },
    "hedge.state.universe.v1": {"book": "B1", "base_currency": "USD", "instruments": [INSTRUMENT], "desk_accounts": ["DESK-1"]},
    "system.halt.intent.v1": {"scope": "PLANET", "reason": "whatever", "issued_by": "guard"},
    "system.resume.intent.v1": {"scope": "BOOK", "id": "B1", "reason": "over", "issued_by": "guard",
                                "approvals": [{"role": "risk", "approver": "A"}, {"role": "compliance", "approver": "B"}]},
    "system.halt.ack.v1": {"halt_msg_id": ID, "scope": "ALL", "agent": "agent.hedger", "worker": "hedger-0", "lane": 3, "ack_ns": T0, "latency_ms": -0.5},
    "order.channel.status.v1": {"venue": "ALPHA", "status": "DEGRADED", "since_ns": T0},
    "order.event.hedge.v1": {"hedge_id": ID, "order_id": ID, "book": "B1", "instrument": "ACME", "status": "DONE", "filled_size": "0", "event_ts_ns": T0},
    "hedger.intent.desk.v1": {"book": "B1", "action": "HOLD", "operator": "A. Trader", "justification": "by phone", "decided_ns": T0},
    "hedger.intent.cover": {
        "hedge_id": ID, "book": "B1", "legs": [LEG], "expires_ns": T0, "reduce_only": False, "ratio_source": "ewma", "policy_hash": None,
        "ratios": [{"exposure": "ACME", "instrument": "BTC-PERP", "h": -0.5, "se": 0.01}],
        "expected": {"variance_reduction": 0.5, "cost_bps": 1.0, "coverage_before": None}, "decision_ts_ns": T0, "exposure_version": HASH * 2, "attempt": 0,
    },
    "hedger.request.order.v1": {"hedge_id": ID, "order_id": ID, "book": "B1", "instrument": "ACME", "action": "QUERY", "attempt": 1, "asked_ns": T0},
    "hedger.event.cover": {
        "hedge_id": ID, "book": "B1", "state": "PARTIAL", "residual": {"ACME": -12.5}, "coverage": 0.4,
        "legs": [{"order_id": ID, "instrument": "ACME", "side": "BUY", "state": "PARTIAL", "size": "5", "filled_size": "2", "filled_notional": 20.0}],
    },
    "hedger.metric.book.v1": METRIC,
    "hedger.event.escalation.v1": {"book": "B1", "severity": "WARN", "reason": "escalated", "detail": "", "to": ["desk"], "proposed": [LEG]},
    "audit.event.hedger": AUDIT,
    "dlq.hedger": {
        "reason": "hedge_unknown", "stage": "identity", "detail": "", "retryable": True, "original": "e30=",
        "source": {"topic": "order.event.hedge.v1", "partition": 0, "offset": 0}, "first_ts_ns": T0, "last_ts_ns": T0, "attempts": 1,
    },
    "hedge.state.matrix.v1": {
        "symbol": "ACME", "bar_end_ns": T0, "bar_ns": 5_000_000_000, "symbols": ["ACME"], "lambdas": [0.97], "n": "", "cov": "", "var_row": "",
        "var_col": "", "correlations": [None],
    },
    "hedge.state.ratios.v1": {
        "book": "B1", "bar_end_ns": T0, "universe_version": HASH,
        "ratios": [{"exposure": "ACME", "instrument": "BTC-PERP", "used": -1.0, "source": "direct"}],
    },
}  # fmt: skip
"""A good payload of each of the hedger's topics: what is required, and some of what is not."""

OURS = tuple(
    name
    for name in dict.fromkeys((*HEDGER_INPUTS, *HEDGER_BROADCAST, *HEDGER_OUTPUTS))
    if TOPICS[name].model is not None and not TOPICS[name].columnar
)


def message(topic: str, payload: Any, **envelope: Any) -> dict[str, Any]:
    """Return an enveloped message."""
    head = {
        "msg_id": ID, "type": topic, "version": "v1", "ts": "2026-01-05T12:00:00Z", "ts_ns": T0, "ttl_ms": 60_000, "sender": "agent.test",
        "idempotency_key": ID,
    }  # fmt: skip
    return {**head, **envelope, "payload": payload}


def taken(topic: str, payload: Any) -> Any:
    """Return what parsing gives: the message, or (reason, explanation)."""
    model = TOPICS[topic].model
    assert model is not None
    return parse(model, json.dumps(message(topic, payload)).encode())


def test_there_is_an_example_of_every_topic() -> None:
    assert sorted(GOOD) == sorted(OURS)


@pytest.mark.parametrize("topic", OURS)
def test_good_message_is_taken_and_keeps_what_it_says(topic: str) -> None:
    found = taken(topic, GOOD[topic])
    assert not isinstance(found, tuple), found
    kept = found.payload.model_dump(mode="json")

    def holds(said: Any, kept: Any) -> None:
        if isinstance(said, dict):
            for name, value in said.items():
                holds(value, kept[name])
        elif isinstance(said, list):
            assert len(said) == len(kept)
            for one, other in zip(said, kept, strict=True):
                holds(one, other)
        else:
            assert kept == said

    holds(GOOD[topic], kept)
    assert taken(topic, kept).payload == found.payload


@pytest.mark.parametrize("topic", OURS)
def test_message_of_another_topic_or_without_a_payload_is_refused(topic: str) -> None:
    model = TOPICS[topic].model
    assert model is not None
    other = message(topic, GOOD[topic]) | {"type": "order.event.ack.v1"}
    assert parse(model, json.dumps(other).encode())[0] is Reason.enum_unknown  # type: ignore[index]
    assert taken(topic, {})[0] is Reason.field_missing
    assert taken(topic, None)[0] is Reason.field_invalid


@pytest.mark.parametrize("topic", OURS)
def test_required_fields_are_required_and_unknown_ones_ignored(topic: str) -> None:
    model = TOPICS[topic].model
    assert model is not None
    fields = model.model_fields["payload"].annotation.model_fields  # type: ignore[union-attr]
    for name, info in fields.items():
        if info.is_required():
            told = taken(topic, {field: value for field, value in GOOD[topic].items() if field != name})
            assert told[0] is Reason.field_missing, name
            assert told[1].startswith(f"payload.{name}: "), name
    assert not isinstance(taken(topic, GOOD[topic] | {"brand_new": [1]}), tuple)


def put(payload: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """Return a payload with the value at a dotted path changed; a number is a place in a list."""
    changed = copy.deepcopy(payload)
    *way, last = path.split(".")
    at: Any = changed
    for part in way:
        at = at[int(part)] if part.isdigit() else at[part]
    at[last] = value
    return changed


BAD: list[tuple[str, str, Any, Reason]] = [
    ("portfolio.intent.allocate.v1", "target_size", "inf", Reason.target_not_finite),
    ("portfolio.intent.allocate.v1", "target_size", 1000, Reason.target_not_finite),
    ("portfolio.intent.allocate.v1", "current_size", "inf", Reason.field_invalid),
    ("portfolio.intent.allocate.v1", "confidence", 1.01, Reason.field_invalid),
    ("portfolio.intent.allocate.v1", "risk_score", -0.01, Reason.field_invalid),
    ("portfolio.intent.allocate.v1", "ttl_ms", 0, Reason.field_invalid),
    ("portfolio.intent.allocate.v1", "symbol", "acme", Reason.field_invalid),
    ("portfolio.intent.allocate.v1", "book", "", Reason.field_invalid),
    ("portfolio.intent.allocate.v1", "book", "B" * 49, Reason.field_invalid),
    ("risk.state.context.v1", "risk_level", "SEVERE", Reason.enum_unknown),
    ("risk.state.context.v1", "daily_drawdown_pct", 100.5, Reason.field_invalid),
    ("risk.state.context.v1", "limits.0.max_notional", -1.0, Reason.field_invalid),
    ("risk.state.context.v1", "limits.0.headroom_notional", "5", Reason.field_invalid),
    ("policy.state.guard.v1", "policy_hash", "0123456789abcde", Reason.field_invalid),
    ("policy.state.guard.v1", "policy_hash", HASH.upper(), Reason.field_invalid),
    ("policy.state.guard.v1", "do_not_trade.0.from_ns", 1_767_614_400, Reason.timestamp_invalid),
    ("policy.state.guard.v1", "stress_scenarios.0.shocks", {"*": -1.5}, Reason.field_invalid),
    ("policy.state.guard.v1", "stress_scenarios.0.max_loss", None, Reason.field_invalid),
    ("policy.state.guard.v1", "unwind.0.id", "", Reason.field_invalid),
    ("policy.state.guard.v1", "max_residual_exposure_pct", 101.0, Reason.field_invalid),
    ("hedge.state.universe.v1", "instruments", [], Reason.field_invalid),
    ("hedge.state.universe.v1", "instruments.0.kind", "OPTION", Reason.enum_unknown),
    ("hedge.state.universe.v1", "instruments.0.lot", "0", Reason.field_invalid),
    ("hedge.state.universe.v1", "instruments.0.tier", 4, Reason.field_invalid),
    ("hedge.state.universe.v1", "instruments.0.multiplier", 0.0, Reason.field_invalid),
    ("hedge.state.universe.v1", "instruments.0.max_adv_pct", 100.1, Reason.field_invalid),
    ("hedge.state.universe.v1", "base_currency", "usd", Reason.field_invalid),
    ("system.halt.intent.v1", "scope", "", Reason.field_invalid),
    ("system.halt.intent.v1", "effective_ns", 5, Reason.timestamp_invalid),
    ("system.resume.intent.v1", "approvals.0.role", "", Reason.field_invalid),
    ("order.channel.status.v1", "status", "SIDEWAYS", Reason.enum_unknown),
    ("order.event.hedge.v1", "status", "FILLED", Reason.enum_unknown),
    ("order.event.hedge.v1", "filled_size", "-1", Reason.field_invalid),
    ("order.event.hedge.v1", "order_id", "1", Reason.field_invalid),
    ("hedger.intent.desk.v1", "action", "hold", Reason.enum_unknown),
    ("hedger.intent.desk.v1", "operator", "", Reason.field_invalid),
    ("hedger.intent.desk.v1", "justification", "x" * 257, Reason.field_invalid),
    ("hedger.intent.cover", "legs", [], Reason.field_invalid),
    ("hedger.intent.cover", "legs.0.side", "LONG", Reason.side_invalid),
    ("hedger.intent.cover", "legs.0.size", "0", Reason.field_invalid),
    ("hedger.intent.cover", "legs.0.time_in_force", "GFD", Reason.enum_unknown),
    ("hedger.intent.cover", "ratio_source", "guess", Reason.enum_unknown),
    ("hedger.intent.cover", "attempt", -1, Reason.field_invalid),
    ("hedger.intent.cover", "reduce_only", 1, Reason.field_invalid),
    ("hedger.event.cover", "state", "DONE", Reason.enum_unknown),
    ("hedger.event.cover", "legs.0.filled_size", "-2", Reason.field_invalid),
    ("hedger.event.escalation.v1", "severity", "LOUD", Reason.enum_unknown),
    ("audit.event.hedger", "prev_sha256", "0" * 63, Reason.field_invalid),
    ("audit.event.hedger", "outcome", "done", Reason.enum_unknown),
    ("hedger.metric.book.v1", "window_s", 59, Reason.field_invalid),
    ("hedge.state.matrix.v1", "cov", "abc", Reason.field_invalid),
    ("hedge.state.ratios.v1", "universe_version", "x", Reason.field_invalid),
]  # fmt: skip


@pytest.mark.parametrize(("topic", "path", "value", "reason"), BAD, ids=[f"{topic}-{path}-{n}" for n, (topic, path, *_) in enumerate(BAD)])
def test_bad_field_is_refused_and_named(topic: str, path: str, value: Any, reason: Reason) -> None:
    told = taken(topic, put(GOOD[topic], path, value))
    assert isinstance(told, tuple)
    assert told[0] is reason
    assert told[1].startswith(f"payload.{path}")


@given(st.sampled_from(OURS), st.integers(0, 2**32), st.floats(0.0, 1.0))
def test_made_messages_are_taken_and_survive_a_second_writing(topic: str, seed: int, fill: float) -> None:
    model = TOPICS[topic].model
    assert model is not None
    first = parse(model, json.dumps(make_model(random.Random(seed), model, fill)).encode())
    assert not isinstance(first, tuple), first
    again = parse(model, json.dumps(first.model_dump(mode="json")).encode())
    assert again == first


@given(st.floats(allow_nan=True), st.sampled_from(("coverage", "coverage_expected", "slippage_bps", "effectiveness", "bound_r2")))
def test_figures_of_an_event_are_finite(value: float, name: str) -> None:
    told = taken("hedger.event.cover", GOOD["hedger.event.cover"] | {name: value})
    finite = value - value == 0
    assert isinstance(told, tuple) != finite
    if finite:
        assert getattr(told.payload, name) == value
    else:
        assert told[0] is Reason.field_invalid


def test_states_of_hedges_and_legs_are_the_same() -> None:
    assert HedgeEvent.model_fields["state"].annotation == LegState.model_fields["state"].annotation


# --- registry and reasons ---------------------------------------------------------------------------------------------------------


def test_topics_of_the_hedger_fit_together() -> None:
    assert {*HEDGER_INPUTS, *HEDGER_BROADCAST, *HEDGER_OUTPUTS, HEDGER_CHANGELOG} <= TOPICS.keys()
    assert set(HEDGER_STATES) < set(HEDGER_BROADCAST)
    assert not set(HEDGER_INPUTS) & set(HEDGER_BROADCAST)
    assert all(TOPICS[name].lanes and TOPICS[name].key == "book" for name in HEDGER_INPUTS)
    assert all(not TOPICS[name].lanes for name in HEDGER_BROADCAST)
    assert {name for name in HEDGER_INPUTS + HEDGER_OUTPUTS + HEDGER_BROADCAST if TOPICS[name].columnar} == {
        "execution.event.fill.v1", "marketdata.snapshot.v1",
    }  # fmt: skip


def test_what_only_the_hedger_sends_says_so() -> None:
    own = [name for name in HEDGER_OUTPUTS if name not in HEDGER_INPUTS]
    assert all(TOPICS[name].senders == ("agent.hedger",) for name in own)
    assert set(TOPICS["hedger.intent.cover"].senders) == {"agent.hedger", "agent.portfolio"}
    assert all(directions(TOPICS[name])[0] for name in (*HEDGER_INPUTS, *HEDGER_BROADCAST))


def test_new_reasons_have_the_stage_that_fits_and_say_whether_to_replay() -> None:
    stages = {
        Reason.book_unknown: Stage.normalise, Reason.target_not_finite: Stage.normalise, Reason.universe_missing: Stage.normalise,
        Reason.sender_not_allowed: Stage.identity, Reason.approvals_missing: Stage.identity, Reason.hedge_unknown: Stage.identity,
        Reason.ttl_expired: Stage.time,
    }  # fmt: skip
    assert {reason: stage_of(reason) for reason in stages} == stages
    assert {reason for reason in stages if not replayable(reason)} == {Reason.sender_not_allowed, Reason.ttl_expired}


def test_groups_of_the_hedgers_reasons() -> None:
    groups = {
        HedgeReason.envelope_forced: "acted", HedgeReason.dust: "nothing to do", HedgeReason.held_by_desk: "not allowed",
        HedgeReason.allocation_missing: "not known", HedgeReason.solver_inexact: "not worth it", HedgeReason.completion_late: "outside",
        HedgeReason.hedge_fill_busted: "of a hedge", HedgeReason.fill: "trigger", HedgeReason.restart: "trigger",
    }  # fmt: skip
    assert {reason: hedge_group_of(reason) for reason in groups} == groups
