"""The encoder: what it writes, byte for byte, and what it refuses."""

from __future__ import annotations

import base64
import json
import math
import random
import struct
from typing import Annotated, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.chunk import join, split
from schemas.codec import Rows, compile_decoder, compile_encoder
from schemas.codec.decode import _scan
from schemas.codec.encode import _write
from schemas.codec.table import null_row
from schemas.envelope import Strict
from schemas.execution import DeadLetterMessage
from schemas.fields import Base64, Decimal, Id64, JsonObject, Rfc3339, Uuid, integer, real, string
from schemas.layout import layout_of
from schemas.orders import RouteIntentMessage
from tests.codec_oracle import make_message


class Inner(Strict):
    code: Annotated[int, integer(-9, 9)] | None = None
    note: Id64 | None = None


class Leaf(Strict):
    name: Id64
    w: Annotated[float, real()] | None = None


class Thing(Strict):
    number: Annotated[float, real()] | None = None
    amount: Decimal | None = None
    text: Annotated[str, string(64, min_len=0)] | None = None
    raw: Base64 | None = None
    free: JsonObject | None = None
    at: Rfc3339 | None = None
    id: Uuid | None = None
    flag: bool | None = None
    inner: Inner | None = None
    leaves: list[Leaf] | None = None
    last: Id64


LAYOUT = layout_of(Thing)


def thing(arena: bytes = b"z", arena2: bytes | None = None, children: Any = None, **values: Any) -> str:
    """Encode one row: a value is a number, or a tuple of the slots; `last` is the arena's first byte unless given."""
    row = null_row(LAYOUT)
    for path, value in ({"last": (0, 1)} | values).items():
        slots = value if isinstance(value, tuple) else (value,)
        slot = LAYOUT.slot(path)
        row[slot : slot + len(slots)] = slots
    second = None if arena2 is None else np.frombuffer(arena2, np.uint8)
    data, bounds = compile_encoder(Thing).encode(row.reshape(1, -1), np.frombuffer(arena, np.uint8), second, children)
    assert bounds.tolist() == [0, len(data)]
    return data.tobytes().decode()


def bits(value: float) -> int:
    return struct.unpack("<q", struct.pack("<d", value))[0]


def reference(value: float) -> str:
    if abs(value) < 1e15:
        text = f"{value:.6f}".rstrip("0").rstrip(".")
        return "0" if text == "-0" else text
    mantissa, exponent = f"{value:.16e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{exponent}"


EDGES = [
    0.0, -0.0, 0.5, 5e-7, 1.5e-6, 2.5e-6, 4.9999999e-7, 1e-300, 5e-324, 999999.9999995, 0.9999995, 0.9999999999, -1e-9, 1e15,
    999999999999999.9, 1e15 + 0.125, 2.0**53, 2.0**53 - 1, 1e22, 1e300, 1.7976931348623157e308, 9999999999999999.0, 99999999999999999.0,
    -1e15,
]  # fmt: skip


@given(
    st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(EDGES)
    | st.floats(-1e7, 1e7)
    | st.integers(-(10**9), 10**9).map(lambda n: n / 2e6)
)
def test_encode_float_is_rounded_to_six_decimals_half_even(value: float) -> None:
    assert thing(number=bits(value)) == f'{{"number":{reference(value)},"last":"z"}}'


@pytest.mark.parametrize("value", EDGES)
def test_encode_float_edges_equal_the_reference(value: float) -> None:
    assert thing(number=bits(value)) == f'{{"number":{reference(value)},"last":"z"}}'


def test_encode_nan_in_nullable_float_is_left_out() -> None:
    assert thing(number=bits(math.nan)) == '{"last":"z"}'
    assert thing(number=bits(-math.nan)) == '{"last":"z"}'


@pytest.mark.parametrize(
    ("mantissa", "scale", "text"),
    [(0, 0, "0"), (0, 8, "0"), (15, 1, "1.5"), (150, 2, "1.5"), (-1, 18, "-0.000000000000000001"), (100, 0, "100"), (-1200, 1, "-120"),
     (999_999_999_999_999_999, 18, "0.999999999999999999"), (5, 3, "0.005")],
)  # fmt: skip
def test_encode_decimal_is_plain_without_trailing_zeros(mantissa: int, scale: int, text: str) -> None:
    assert thing(amount=(mantissa, scale)) == f'{{"amount":"{text}","last":"z"}}'


@given(st.text(max_size=80), st.text(max_size=40))
def test_encode_text_from_either_arena_is_the_same_text(text: str, before: str) -> None:
    raw, head = text.encode(), before.encode()
    for values in (
        {"arena": head + raw, "last": (len(head), len(raw))},
        {"arena": b"", "arena2": head + raw, "last": (-1 - len(head), len(raw))},
    ):
        made = thing(**values)
        assert json.loads(made) == {"last": text}
        assert made == json.dumps({"last": text}, ensure_ascii=False, separators=(",", ":")).replace("\\u007f", "\x7f")


@given(st.binary(max_size=200), st.binary(max_size=5))
def test_encode_base64_takes_raw_bytes(raw: bytes, before: bytes) -> None:
    made = thing(arena=b"z" + before + raw, raw=(1 + len(before), len(raw)))
    assert json.loads(made)["raw"] == base64.b64encode(raw).decode()


def test_encode_every_kind_writes_the_shortest_form() -> None:
    made = thing(
        arena=b'z{"a": [1]}', free=(1, 10), at=1_767_225_600_000_000_001, id=(1, -1), flag=0, inner=1, **{"inner.code": -3}, leaves=(0, 0)
    )
    assert made == (
        '{"free":{"a": [1]},"at":"2026-01-01T00:00:00.000000001Z","id":"00000000-0000-0001-ffff-ffffffffffff","flag":false,'
        '"inner":{"code":-3},"leaves":[],"last":"z"}'
    )


def test_encode_absent_object_writes_none_of_its_fields() -> None:
    assert thing(inner=0, **{"inner.code": 5}) == '{"last":"z"}'
    assert thing(inner=1) == '{"inner":{},"last":"z"}'


def test_encode_list_elements_from_another_arena_are_found() -> None:
    layout = layout_of(Leaf)
    rows = np.stack([null_row(layout) for _ in range(3)])
    rows[:, layout.slot("name")] = [0, 1, -1]
    rows[:, layout.slot("name") + 1] = 1
    children = {"leaves": Rows(rows, np.frombuffer(b"ab", np.uint8))}
    made = thing(children=children, arena2=b"Q", leaves=(0, 3))
    assert made == '{"leaves":[{"name":"a"},{"name":"b"},{"name":"Q"}],"last":"z"}'
    assert thing(children=children, leaves=(1, 1)) == '{"leaves":[{"name":"b"}],"last":"z"}'


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"last": (0, -1)}, "row 0: last is required but null"),
        ({"last": (0, 2)}, "row 0: last points outside its arena"),
        ({"last": (2**62, 2)}, "last points outside"),
        ({"last": (-1, 1)}, "last points outside"),
        ({"number": bits(math.inf)}, "number holds a number that cannot be written"),
        ({"amount": (1, 19)}, "amount holds a number"),
        ({"at": 0}, "at holds a number"),
        ({"leaves": (0, 1)}, "leaves points outside"),
        ({"leaves": (-1, 1)}, "leaves points outside"),
    ],
)
def test_encode_row_that_cannot_be_written_names_the_field(values: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match="row 0") as error:
        thing(**values)
    assert text in str(error.value)


def test_encode_nan_in_required_float_or_unknown_enum_number_raises() -> None:
    layout = layout_of(RouteIntentMessage)
    data, bounds = join([json.dumps(make_message(random.Random(1), layout, 1.0)).encode()])
    batch = compile_decoder(RouteIntentMessage).decode(data, bounds)
    plan = batch.children["payload.routing_plan"]
    encoder = compile_encoder(RouteIntentMessage)
    bad = Rows(plan.rows.copy(), plan.arena)
    item = layout.column("payload.routing_plan").item
    assert item is not None
    bad.rows[0, item.slot("weight")] = bits(math.nan)
    with pytest.raises(ValueError, match=r"payload\.routing_plan\[\]\.weight is required but null"):
        encoder.encode(batch.rows, batch.arena, children={"payload.routing_plan": bad})
    rows = batch.rows.copy()
    rows[0, layout.slot("payload.side")] = 2
    with pytest.raises(ValueError, match=r"payload\.side holds a number"):
        encoder.encode(rows, batch.arena, children=batch.children)
    with pytest.raises(ValueError, match="rows must be"):
        encoder.encode(rows[:, :-1], batch.arena)


def test_encode_constants_are_written_and_their_slots_ignored() -> None:
    const = {"last": 'é"', "flag": True, "number": 1.5, "inner.code": 3, "text": None}
    encoder = compile_encoder(Thing, const)
    row = null_row(LAYOUT).reshape(1, -1)
    row[0, LAYOUT.slot("inner")] = 1
    row[0, LAYOUT.slot("last") : LAYOUT.slot("last") + 2] = 10**9
    data, _ = encoder.encode(row, np.zeros(0, np.uint8))
    assert data.tobytes().decode() == '{"number":1.5,"flag":true,"inner":{"code":3},"last":"é\\""}'
    assert compile_encoder(Thing, dict(const)) is encoder


@pytest.mark.parametrize("const", [{"nothing": 1}, {"flag": 1}, {"inner.code": 10}, {"last": 5}, {"inner": {}}])
def test_compile_constant_that_does_not_fit_raises(const: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"constant"):
        compile_encoder(Thing, const)


def test_encode_long_texts_grow_the_output() -> None:
    rng = random.Random(2)
    originals = [rng.randbytes(rng.choice([0, 10, 200_000])) for _ in range(30)]
    layout = layout_of(DeadLetterMessage)
    message = make_message(rng, layout, 0.0)
    message["payload"]["original"] = ""
    data, bounds = join([json.dumps(message).encode()] * 30)
    batch = compile_decoder(DeadLetterMessage).decode(data, bounds)
    raw, edges = join(originals)
    rows = batch.rows.copy()
    rows[:, layout.slot("payload.original")] = -1 - edges[:-1]
    rows[:, layout.slot("payload.original") + 1] = np.diff(edges)
    made = split(*compile_encoder(DeadLetterMessage).encode(rows, batch.arena, raw))
    assert [base64.b64decode(json.loads(one)["payload"]["original"]) for one in made] == originals


def test_encode_no_rows_gives_no_bytes() -> None:
    data, bounds = compile_encoder(Thing).encode(np.zeros((0, LAYOUT.width), np.int64), np.zeros(0, np.uint8))
    assert len(data) == 0
    assert bounds.tolist() == [0]


def test_encode_views_and_read_only_arrays_use_one_compiled_kernel() -> None:
    data, bounds = join([b'{"last":"ab","leaves":[{"name":"n"}]}'] * 4)
    batch = compile_decoder(Thing).decode(data, bounds[::1])
    want = [b'{"leaves":[{"name":"n"}],"last":"ab"}'] * 4
    frozen = batch.arena.copy()
    frozen.setflags(write=False)
    wide = np.zeros((4, LAYOUT.width + 3), np.int64)
    wide[:, : LAYOUT.width] = batch.rows
    encoder = compile_encoder(Thing)
    for rows, arena in ((batch.rows, batch.arena), (wide[:, : LAYOUT.width], frozen), (batch.rows, np.repeat(frozen, 2)[::2])):
        assert split(*encoder.encode(rows, arena, frozen, batch.children)) == want
    assert len(_write.signatures) == 1
    strided = np.repeat(bounds, 2)[::2]
    strided.setflags(write=False)
    assert compile_decoder(Thing).decode(data, strided).ok.all()
    assert len(_scan.signatures) == 1
    with pytest.raises(ValueError, match="an arena must be"):
        encoder.encode(batch.rows, batch.arena.astype(np.int64), children=batch.children)
