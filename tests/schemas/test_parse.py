"""Messages parsed one by one get the reason codes the columnar codec gives: reason by reason, and on messages with one fault put in."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import parse as module
from schemas.chunk import join
from schemas.codec import compile_decoder
from schemas.envelope import Envelope
from schemas.execution import ExecutionReportMessage, FillMessage
from schemas.hedging import AllocationMessage, GuardPolicyMessage, UniverseMessage
from schemas.layout import layout_of
from schemas.orders import OrderAckMessage
from schemas.parse import parse
from schemas.reasons import Reason
from schemas.registry import MAX_RECORD_BYTES
from tests.codec_oracle import make_message, mutate, render

MODELS: tuple[type[Envelope], ...] = (FillMessage, OrderAckMessage, ExecutionReportMessage)


def reason_of(model: type[Envelope], value: bytes) -> Reason:
    """Return the reason a value is refused with, `none` for one that is taken."""
    found = parse(model, value)
    return found[0] if isinstance(found, tuple) else Reason.none


def codecs(model: type[Envelope], values: list[bytes]) -> list[Reason]:
    """Return the codec's reasons."""
    return [Reason(int(reason)) for reason in compile_decoder(model).decode(*join(values)).reason]


ACK: dict[str, Any] = {
    "msg_id": "0f8fad5b-d9cb-469f-a165-70867728950e", "type": "order.event.ack.v1", "version": "v1", "ts": "2026-01-31T23:59:59.123Z",
    "ts_ns": 1769903999123000000, "ttl_ms": 60000, "correlation_id": "7c9e6679-7425-40de-944b-e07fc1f90ae7", "sender": "agent.orders",
    "idempotency_key": "ALPHA|V-77|ACKED",
    "payload": {
        "order_id": "7c9e6679-7425-40de-944b-e07fc1f90ae7", "venue": "ALPHA", "client_order_id": "7c9e6679742540de944be07fc1f90ae7",
        "status": "ACKED", "size": "0.5", "ack_ts_ns": 1769903999120000000,
    },
}  # fmt: skip


def ack(**changes: Any) -> bytes:
    """Return an acknowledgement with fields of the envelope changed; `...` leaves one out."""
    return json.dumps({name: value for name, value in (ACK | changes).items() if value is not ...}).encode()


def inner(**changes: Any) -> bytes:
    """Return an acknowledgement with fields of the payload changed."""
    return ack(payload={name: value for name, value in (ACK["payload"] | changes).items() if value is not ...})


GOOD = ack()
CASES: dict[str, tuple[bytes, Reason]] = {
    "good": (GOOD, Reason.none),
    "unknown fields": (ack(more=[{"x": None}]), Reason.none),
    "optional null": (inner(venue_order_id=None), Reason.none),
    "empty": (b"", Reason.json_malformed),
    "blank": (b" \n", Reason.json_malformed),
    "null": (b"null", Reason.json_malformed),
    "a list": (b"[" + GOOD + b"]", Reason.json_malformed),
    "a number": (b"12", Reason.json_malformed),
    "truncated": (GOOD[:-1], Reason.json_malformed),
    "trailing": (GOOD + b"}", Reason.json_malformed),
    "byte order mark": (b"\xef\xbb\xbf" + GOOD, Reason.json_malformed),
    "control character": (GOOD.replace(b"ALPHA|", b"ALPHA\x01"), Reason.json_malformed),
    "lone surrogate": (GOOD.replace(b"ALPHA|", b"\\ud800"), Reason.json_malformed),
    "nested too deep": (GOOD[:-1] + b',"x":' + b"[" * 300 + b"]" * 300 + b"}", Reason.json_malformed),
    "not UTF-8": (GOOD.replace(b"ALPHA|", b"\xff"), Reason.encoding_invalid),
    "not UTF-8 where it is not JSON either": (b"{\xff", Reason.encoding_invalid),
    "as long as may be": (GOOD[:-1] + b" " * (MAX_RECORD_BYTES - len(GOOD)) + b"}", Reason.none),
    "a byte longer": (GOOD[:-1] + b" " * (MAX_RECORD_BYTES - len(GOOD) + 1) + b"}", Reason.oversize),
    "oversize and not UTF-8": (b"\xff" * (MAX_RECORD_BYTES + 1), Reason.oversize),
    "version": (ack(version="v2"), Reason.version_unknown),
    "version of another type": (ack(version=1), Reason.version_unknown),
    "another topic's type": (ack(type="execution.event.fill.v1"), Reason.enum_unknown),
    "missing in the envelope": (ack(ts_ns=...), Reason.field_missing),
    "missing payload": (ack(payload=...), Reason.field_missing),
    "missing in the payload": (inner(venue=...), Reason.field_missing),
    "payload null": (ack(payload=None), Reason.field_invalid),
    "payload a list": (ack(payload=[]), Reason.field_invalid),
    "required null": (inner(venue=None), Reason.field_invalid),
    "another unit of time": (ack(ts_ns=1769903999), Reason.timestamp_invalid),
    "time of another type": (inner(ack_ts_ns="soon"), Reason.timestamp_invalid),
    "day that is none": (ack(ts="2026-02-30T00:00:00Z"), Reason.timestamp_invalid),
    "status nobody knows": (inner(status="LOST"), Reason.enum_unknown),
    "status of another type": (inner(status=7), Reason.enum_unknown),
    "status null": (inner(status=None), Reason.enum_unknown),
    "size not above zero": (inner(size="0"), Reason.field_invalid),
    "size a number": (inner(size=0.5), Reason.field_invalid),
    "nil id": (ack(msg_id="00000000-0000-0000-0000-000000000000"), Reason.field_invalid),
    "sender of another form": (ack(sender="orders"), Reason.field_invalid),
    "wrong before missing": (ack(msg_id=..., version="v2"), Reason.version_unknown),
    "wrong in the payload before missing in the envelope": (inner(status="LOST").replace(b'"ttl_ms"', b'"ttl"'), Reason.enum_unknown),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_parse_gives_the_reason_and_the_codec_the_same(name: str) -> None:
    value, reason = CASES[name]
    assert reason_of(OrderAckMessage, value) is reason
    assert codecs(OrderAckMessage, [value]) == [reason]


@pytest.mark.parametrize(
    ("side", "reason"), [("BUY", Reason.none), ("LONG", Reason.side_invalid), (1, Reason.side_invalid), (None, Reason.side_invalid)]
)
def test_parse_gives_reasons_of_a_fields_own(side: Any, reason: Reason) -> None:
    message = make_message(random.Random(1), layout_of(FillMessage))
    message["payload"]["side"] = side
    value = json.dumps(message).encode()
    assert reason_of(FillMessage, value) is reason
    assert codecs(FillMessage, [value]) == [reason]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_parse_agrees_with_the_codec_on_messages_with_one_fault(model: type[Envelope]) -> None:
    rng = random.Random(11)
    layout = layout_of(model)
    values = [mutate(rng, render(rng, make_message(rng, layout))) for _ in range(1_500)]
    told = codecs(model, values)
    assert [(value, reason_of(model, value)) for value in values] == list(zip(values, told, strict=True))
    assert len(set(told)) > 6, "the faults are too much alike"


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_parse_refuses_what_the_codec_refuses_when_there_are_several_faults(model: type[Envelope]) -> None:
    rng = random.Random(12)
    layout = layout_of(model)
    values = [mutate(rng, mutate(rng, render(rng, make_message(rng, layout)))) for _ in range(1_000)]
    of_values = {Reason.field_invalid, Reason.enum_unknown, Reason.timestamp_invalid, Reason.version_unknown, Reason.side_invalid}
    for value, told in zip(values, codecs(model, values), strict=True):
        found = reason_of(model, value)
        assert found is told or {found, told} <= of_values, value  # which of two wrong fields is named may differ


ALLOCATION: dict[str, Any] = ACK | {
    "type": "portfolio.intent.allocate.v1",
    "payload": {"book": "B1", "symbol": "ACME", "target_size": "-1000.5", "confidence": 0.5, "risk_score": 0.1},
}


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("-1000.5", Reason.none),
        ("NaN", Reason.target_not_finite),
        ("1e3", Reason.target_not_finite),
        ("1234567890123456789", Reason.target_not_finite),
        (1000.5, Reason.target_not_finite),
        (None, Reason.target_not_finite),
        (..., Reason.field_missing),
    ],
)
def test_parse_tells_targets_that_are_no_number(target: Any, reason: Reason) -> None:
    payload = {name: value for name, value in (ALLOCATION["payload"] | {"target_size": target}).items() if value is not ...}
    assert reason_of(AllocationMessage, json.dumps(ALLOCATION | {"payload": payload}).encode()) is reason


def test_parse_takes_no_number_that_json_has_none_for() -> None:
    value = json.dumps(ALLOCATION).encode()
    for junk in (b"NaN", b"Infinity", b"1e999"):
        assert reason_of(AllocationMessage, value.replace(b'"confidence": 0.5', b'"confidence": ' + junk)) is Reason.field_invalid


def test_parse_says_where_it_is_wrong_and_how_much_more_is() -> None:
    found = parse(OrderAckMessage, inner(status="LOST", size=1, venue=...))
    assert isinstance(found, tuple)
    assert found[1].startswith("payload.status: Input should be 'ACKED'")
    assert found[1].endswith("(and 2 more)")
    instrument = {"symbol": "ACME", "venue": "ALPHA", "currency": "USD", "lot": "0", "cost_bps": 1.0, "adv_notional": 1.0}
    universe = ACK | {"type": "hedge.state.universe.v1", "payload": {"book": "B", "base_currency": "USD", "instruments": [instrument]}}
    assert parse(UniverseMessage, json.dumps(universe).encode()) == (
        Reason.field_invalid,
        "payload.instruments.0.lot: Value error, must be above zero",
    )


def test_parse_explanations_are_short() -> None:
    scenario = {"id": "s", "shocks": {"x" * 10_000: -5.0}, "max_loss": 1.0}
    policy = ACK | {"type": "policy.state.guard.v1", "payload": {"policy_hash": "0" * 16, "stress_scenarios": [scenario]}}
    found = parse(GuardPolicyMessage, json.dumps(policy).encode())
    assert isinstance(found, tuple)
    assert found[0] is Reason.field_invalid
    assert len(found[1]) == 512


def test_parse_knows_the_registrys_size() -> None:
    assert module.MAX_BYTES == MAX_RECORD_BYTES


@given(st.binary(max_size=200))
def test_parse_never_raises_on_bytes(value: bytes) -> None:
    assert isinstance(parse(AllocationMessage, value), tuple)


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_parse_never_raises_on_payloads(payload: Any) -> None:
    found = parse(AllocationMessage, json.dumps(ALLOCATION | {"payload": payload}).encode())
    assert isinstance(found, tuple)
    assert found[0] in (Reason.field_invalid, Reason.field_missing)
