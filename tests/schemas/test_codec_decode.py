"""The decoder on chunks: which record is rejected, with which reason, field and byte, and that no other record notices."""

from __future__ import annotations

import json
import random
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, Literal

import numpy as np
import pytest
from pydantic import BaseModel, ConfigDict, Field

from schemas.chunk import join
from schemas.codec import compile_decoder
from schemas.envelope import Strict
from schemas.execution import ComplianceAlertMessage, ExecutionReportMessage
from schemas.fields import Id64, JsonObject, Spec, integer, real, string
from schemas.layout import layout_of
from schemas.orders import RouteIntentMessage
from schemas.reasons import Reason
from schemas.registry import MAX_RECORD_BYTES
from tests.codec_oracle import check_chunk, decoded, expected, make_message, render

REPORT: dict[str, Any] = {
    "msg_id": "0f8fad5b-d9cb-469f-a165-70867728950e", "type": "venue.execution.report.v1", "version": "v1",
    "ts": "2026-01-31T23:59:59.123Z",
    "ts_ns": 1769903999123000000, "ttl_ms": 60000, "correlation_id": "7c9e6679-7425-40de-944b-e07fc1f90ae7", "sender": "agent.gateway",
    "idempotency_key": "BINANCE|A1|123456",
    "payload": {
        "source": "WEBSOCKET", "venue": "BINANCE", "account": "acc-1", "instrument": "BTCUSDT", "kind": "TRADE", "exec_id": "T123456",
        "trade_date": 20260131, "side": "BUY", "last_qty": "0.25", "last_px": "43210.55", "event_ts_ns": 1769903999120000000,
        "recv_ts_ns": 1769903999123000000, "raw": "eyJlIjoxfQ==", "dialect": "binance-ws",
    },
}  # fmt: skip


def report(**changes: Any) -> bytes:
    """Return a report with fields of the payload changed; `...` leaves one out."""
    payload = {key: value for key, value in (REPORT["payload"] | changes).items() if value is not ...}
    return json.dumps(REPORT | {"payload": payload}, separators=(",", ":")).encode()


def outer(**changes: Any) -> bytes:
    """Return a report with fields of the envelope changed."""
    return json.dumps({key: value for key, value in (REPORT | changes).items() if value is not ...}, separators=(",", ":")).encode()


GOOD = report()
# (record, reason, path of the field or "", text its explanation must hold)
BAD: list[tuple[bytes, Reason, str, str]] = [
    (b"", Reason.json_malformed, "", "unexpected the end at byte 0 of 0"),
    (b"  ", Reason.json_malformed, "", "the end"),
    (b"null", Reason.json_malformed, "", "null"),
    (b"[" + GOOD + b"]", Reason.json_malformed, "", "not a JSON object"),
    (GOOD[:-1], Reason.json_malformed, "", f"the end at byte {len(GOOD) - 1}"),
    (GOOD[: len(GOOD) // 2], Reason.json_malformed, "", "the end"),
    (GOOD + b"}", Reason.json_malformed, "", "byte"),
    (b"\xef\xbb\xbf" + GOOD, Reason.json_malformed, "", "byte 0"),
    (GOOD.replace(b'"T123456"', b'"T\x01"'), Reason.json_malformed, "", "\\x01"),
    (GOOD.replace(b'"T123456"', b'"\\ud800"'), Reason.json_malformed, "", "byte"),
    (GOOD.replace(b'"T123456"', b'"\xff"'), Reason.encoding_invalid, "", "byte 0xff"),
    (GOOD.replace(b"20260131", b"020260131"), Reason.json_malformed, "", "byte"),
    (GOOD[:-1] + b',"x":' + b"[" * 300 + b"]" * 300 + b"}", Reason.json_malformed, "", "byte"),
    (GOOD[:-1] + b',"x":"' + b"y" * MAX_RECORD_BYTES + b'"}', Reason.oversize, "", "bytes, at most 1048576"),
    (outer(version="v2"), Reason.version_unknown, "version", 'must be one of v1; found "v2"'),
    (outer(version=1), Reason.version_unknown, "version", "found 1"),
    (outer(type="order.event.ack.v1"), Reason.enum_unknown, "type", "order.event.ack.v1"),
    (outer(msg_id="00000000-0000-0000-0000-000000000000"), Reason.field_invalid, "msg_id", "not nil"),
    (outer(ts="2026-02-30T00:00:00Z"), Reason.timestamp_invalid, "ts", "RFC 3339"),
    (outer(ts_ns=1769903999), Reason.timestamp_invalid, "ts_ns", "an integer from"),
    (outer(ts_ns=...), Reason.field_missing, "ts_ns", "ts_ns is missing"),
    (outer(payload=...), Reason.field_missing, "payload", "is missing"),
    (outer(payload=None), Reason.field_invalid, "payload", "must be an object; found null"),
    (outer(payload=[]), Reason.field_invalid, "payload", "must be an object"),
    (outer(sender="gateway"), Reason.field_invalid, "sender", "agent"),
    (report(side="LONG"), Reason.side_invalid, "payload.side", 'must be one of BUY, SELL or null; found "LONG"'),
    (report(kind=7), Reason.enum_unknown, "payload.kind", "found 7"),
    (report(venue=...), Reason.field_missing, "payload.venue", "payload.venue is missing"),
    (report(last_qty="-1"), Reason.field_invalid, "payload.last_qty", 'not negative or null; found "-1"'),
    (report(last_qty=0.25), Reason.field_invalid, "payload.last_qty", "found 0.25"),
    (report(last_px="1e5"), Reason.field_invalid, "payload.last_px", "plain notation"),
    (report(last_px="1234567890123456789"), Reason.field_invalid, "payload.last_px", "18 digits"),
    (report(trade_date=20260131.0), Reason.field_invalid, "payload.trade_date", "found 20260131.0"),
    (report(seq_num=2**63), Reason.field_invalid, "payload.seq_num", "found 9223372036854775808"),
    (report(poss_dup=1), Reason.field_invalid, "payload.poss_dup", "true or false"),
    (report(raw="abc"), Reason.field_invalid, "payload.raw", "padded base64"),
    (report(exec_id="x" * 65), Reason.field_invalid, "payload.exec_id", "text of 1 to 64 characters"),
    (report(instrument="btc"), Reason.field_invalid, "payload.instrument", 'found "btc"'),
    (report(attributes=[1]), Reason.field_invalid, "payload.attributes", "an object or null"),
]  # fmt: skip


@pytest.mark.parametrize(("raw", "reason", "path", "text"), BAD, ids=[f"{i}-{bad[1].name}-{bad[2]}" for i, bad in enumerate(BAD)])
def test_decode_bad_record_gets_reason_field_and_explanation(raw: bytes, reason: Reason, path: str, text: str) -> None:
    decoder = compile_decoder(ExecutionReportMessage)
    data, bounds = join([GOOD, raw, GOOD])
    batch = decoder.decode(data, bounds)
    assert batch.ok.tolist() == [True, False, True]
    assert Reason(int(batch.reason[1])) is reason
    column = int(batch.column[1])
    assert (decoder.layout.columns[column].path if column >= 0 else "") == path
    message = decoder.explain(batch, 1, data, bounds)
    assert text in message
    assert len(message) <= 200
    assert path in message
    assert decoder.explain(batch, 0, data, bounds) == ""


def test_decode_ten_thousand_records_rejects_exactly_the_bad_ones() -> None:
    decoder = compile_decoder(ExecutionReportMessage)
    rng = random.Random(7)
    layout = decoder.layout
    raws = [render(rng, make_message(rng, layout, 0.6)) if i % 10 == 0 else report(exec_id=f"T{i}", seq_num=i) for i in range(10_000)]
    places = rng.sample(range(10_000), len(BAD))
    for place, (raw, *_) in zip(places, BAD, strict=True):
        raws[place] = raw
    data, bounds = join(raws)
    batch = decoder.decode(data, bounds)
    assert sorted(places) == np.flatnonzero(~batch.ok).tolist()
    for place, (_, reason, path, _) in zip(places, BAD, strict=True):
        assert int(batch.reason[place]) == reason
        column = int(batch.column[place])
        assert (layout.columns[column].path if column >= 0 else "") == path
    slot = layout.slot("payload.exec_id")
    plain = [i for i in range(10_000) if i % 10 and i not in places]
    assert [batch.text(i, slot) for i in plain] == [f"T{i}" for i in plain]
    for i in range(0, 10_000, 10):
        if i not in places:
            model = layout.model.model_validate_json(raws[i])
            assert decoded(layout, batch.rows, batch.arena, batch.children, i) == expected(layout, model)


def test_decode_fault_at_byte_is_where_the_value_begins() -> None:
    decoder = compile_decoder(ExecutionReportMessage)
    raw = report(last_qty="x").replace(b",", b" ,\n ")
    batch = decoder.decode(*join([GOOD, raw]))
    assert raw[batch.at[1] :].startswith(b'"x"')


def test_decode_several_faults_reports_first_in_byte_order_and_missing_last() -> None:
    decoder = compile_decoder(ExecutionReportMessage)
    raws = [
        outer(ts_ns=1, payload=REPORT["payload"] | {"side": "LONG"}, type=...),
        report(venue=..., dialect=5),
        report(venue=..., dialect=5)[:-1],
        report(venue=..., exec_id="\x00" * 65),
    ]
    batch = decoder.decode(*join(raws))
    paths = [decoder.layout.columns[c].path if c >= 0 else "" for c in batch.column.tolist()]
    assert paths == ["ts_ns", "payload.dialect", "", "payload.exec_id"]


def test_decode_no_records_gives_an_empty_batch() -> None:
    batch = compile_decoder(RouteIntentMessage).decode(np.zeros(0, np.uint8), np.zeros(1, np.int64))
    assert len(batch) == 0
    assert batch.rows.shape == (0, layout_of(RouteIntentMessage).width)
    assert batch.children["payload.routing_plan"].rows.shape[0] == 0


def test_decode_read_only_and_larger_data_is_taken_as_it_is() -> None:
    data, bounds = join([b"junk", GOOD, b"junk"])
    batch = compile_decoder(ExecutionReportMessage).decode(data, bounds[1:3] - 0)
    assert batch.ok.tolist() == [True]
    assert not data.flags.writeable


def test_decode_rare_records_take_the_last_value_like_pydantic() -> None:
    twice = GOOD.replace(b'"side":"BUY"', b'"side":7,"side":"SELL","text":"a\\u00e9"')
    odd = GOOD.replace(b'"side":"BUY"', b'"attributes":{"a":NaN,"b":[1e999]},"side":"BUY"')
    long = GOOD[:-1] + b',"later":' + b"1" * 4300 + b"}"
    too_long = GOOD[:-1] + b',"later":' + b"1" * 4301 + b"}"
    bad_twice = GOOD.replace(b'"side":"BUY"', b'"side":"BUY","side":"LONG"')
    batch = check_chunk(ExecutionReportMessage, [GOOD, twice, odd, GOOD, long, too_long, bad_twice, GOOD])
    assert batch.ok.tolist() == [True, True, True, True, True, False, False, True]
    assert batch.reason[5:7].tolist() == [Reason.json_malformed, Reason.side_invalid]
    slot = layout_of(ExecutionReportMessage).slot("payload.attributes")
    assert json.loads(batch.text(2, slot) or "") == {"a": None, "b": [None]}


def test_decode_repeated_lists_keep_every_record_its_own_elements() -> None:
    rng = random.Random(3)
    raws = []
    for i in range(200):
        raw = json.dumps(make_message(rng, layout_of(RouteIntentMessage), 1.0)).encode()
        if i % 7 == 0:  # the second routing_plan counts: a record for pydantic
            raw = raw.replace(b'"routing_plan"', b'"routing_plan": [{"venue": "X", "weight": 1}], "routing_plan"')
        raws.append(raw)
    batch = check_chunk(RouteIntentMessage, raws)
    assert batch.ok.all()


@pytest.mark.parametrize("n", [0, 1, 16, 17, 64, 65])
def test_decode_list_length_bounds_agree_with_pydantic(n: int) -> None:
    rng = random.Random(n)
    route = make_message(rng, layout_of(RouteIntentMessage), 0.5)
    route["payload"]["routing_plan"] = [{"venue": "V", "weight": 0.5}] * n
    check_chunk(RouteIntentMessage, [json.dumps(route).encode()])
    alert = make_message(rng, layout_of(ComplianceAlertMessage), 0.5)
    alert["payload"]["attachments"] = [{"type": "t", "location": "l"}] * n
    batch = check_chunk(ComplianceAlertMessage, [json.dumps(alert).encode()])
    assert bool(batch.ok[0]) == (n <= 16)


class Point(Strict):
    x: Annotated[int, integer(0, 10**6)]


class Cloud(Strict):
    name: Id64
    points: list[Point]
    free: JsonObject | None = None


def test_decode_long_lists_grow_the_room_for_elements() -> None:
    raws = [json.dumps({"name": "é\n", "points": [{"x": i * k} for i in range(k * 997 % 3000)]}).encode() for k in range(40)]
    raws[11] = b'{"name": "a", "points": [{"x": 1}, {"x": "1"}]}'
    raws[12] = b'{"name": "a", "points": [{"x": 1}, {"x": 2}], "points": [{"x": 3}]}'
    batch = check_chunk(Cloud, raws)
    decoder = compile_decoder(Cloud)
    data, bounds = join(raws)
    assert decoder.layout.columns[batch.column[11]].path == "points"
    assert decoder.explain(batch, 11, data, bounds).startswith('points[].x must be an integer from 0 to 1000000; found "1"')


class Sealed(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    a: Annotated[int, integer(0, 9)]


class Box(Strict):
    sealed: Sealed


def test_decode_unknown_field_in_closed_object_is_rejected_there_only() -> None:
    raws = [b'{"sealed":{"a":1}}', b'{"sealed":{"a":1,"b":[2]}}', b'{"sealed":{"a":1},"b":2}', b'{"sealed":{"b":2}}']
    batch = check_chunk(Box, raws)
    assert batch.ok.tolist() == [True, False, True, False]
    assert batch.column[1] == 0
    data, bounds = join(raws)
    assert compile_decoder(Box).explain(batch, 1, data, bounds) == ('sealed has a field that is not in its schema, at byte 17: "b"')


def test_decode_from_several_threads_gives_the_same_as_from_one() -> None:
    decoder = compile_decoder(ExecutionReportMessage)
    rng = random.Random(1)
    chunks = [join([render(rng, make_message(rng, decoder.layout, 0.5)) for _ in range(50)]) for _ in range(8)]
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(lambda chunk: decoder.decode(*chunk), chunks))
    for chunk, batch in zip(chunks, got, strict=True):
        again = decoder.decode(*chunk)
        assert np.array_equal(batch.rows, again.rows)
        assert np.array_equal(batch.arena[: len(chunk[0])], chunk[0])


class NotNull(Strict):
    n: Annotated[int, integer(0, 1)] = 0


class NestedLists(Strict):
    rows: list[Cloud]


class Loose(Strict):
    n: Annotated[int, Spec("int")]


class Renamed(Strict):
    n: Annotated[str, string(3)] = Field(alias="m")


class NullElements(Strict):
    items: list[Point | None]


class Ranged(Strict):
    pick: Literal["a", "b"]
    w: Annotated[float, real(0.0, 1.0)]


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (NotNull, "n: a default other than null"),
        (NestedLists, "rows[].points: a list inside a list"),
        (Loose, "n: an integer needs both bounds"),
        (Renamed, "n: aliases have no columnar form"),
        (NullElements, "items: a list with null elements"),
    ],
)
def test_compile_model_without_columnar_form_names_the_field(model: type[BaseModel], text: str) -> None:
    with pytest.raises(TypeError) as error:
        compile_decoder(model)
    assert text in str(error.value)
