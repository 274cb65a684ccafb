"""The codec and pydantic: the same bytes accepted, the same values, whatever the bytes; and decoding undoes encoding.

HEDGEROW_NIGHTLY=1 runs 100 times as many examples.
"""

from __future__ import annotations

import json
import math
import os
import random
from typing import Annotated, Any, Literal

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field

from schemas.chunk import join, split
from schemas.codec import Rows, compile_decoder, compile_encoder
from schemas.envelope import Strict
from schemas.fields import (
    Base64,
    Decimal,
    Id64,
    JsonObject,
    NonNegativeDecimal,
    PositiveDecimal,
    Rfc3339,
    Sender,
    Spec,
    Symbol,
    TimestampNs,
    Uuid,
    integer,
    real,
    string,
)
from schemas.layout import layout_of
from schemas.reasons import Reason
from schemas.registry import TOPICS
from tests.codec_oracle import check_chunk, decoded, make_message, mutate, render

TIMES = 100 if os.environ.get("HEDGEROW_NIGHTLY") == "1" else 1
MODELS: list[type[BaseModel]] = [topic.model for topic in TOPICS.values() if topic.model is not None and topic.columnar]


def examples(n: int) -> settings:
    return settings(max_examples=n * TIMES, deadline=None, suppress_health_check=list(HealthCheck))


class Closed(BaseModel):
    """An object that takes no other fields."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)
    a: Annotated[int, integer(-5, 5)]
    b: Decimal | None = None


class Part(Strict):
    """An element of a list, with an object of its own."""

    name: Id64
    weight: Annotated[float, real(0.0, 1.0)] | None = None
    closed: Closed | None = None
    pick: Literal["x", "y\u00e9", "z"]


class Other(Strict):
    """An element of another width."""

    n: Annotated[int, integer(-(2**63) + 1, 2**63 - 1)]


class Everything(Strict):
    """Every kind of field, required and not, and two lists."""

    text: Annotated[str, string(5, min_len=0)]
    any_float: Annotated[float, real()]
    some_float: Annotated[float, real(-1.5, 1e300)] | None = None
    small: Annotated[int, integer(-10, 99)]
    large: Annotated[int, integer(-(2**63) + 1, 2**63 - 1)] | None = None
    when: TimestampNs | None = None
    stamp: Rfc3339 | None = None
    flag: bool
    maybe: bool | None = None
    choice: Literal["a", "bb", "c\u00e9\u00df"]
    side: Annotated[Literal["BUY", "SELL"], Spec("enum", reason=Reason.side_invalid)] | None = None
    any_decimal: Decimal | None = None
    positive: PositiveDecimal | None = None
    not_negative: NonNegativeDecimal
    id: Uuid
    other_id: Uuid | None = None
    symbol: Symbol
    sender: Sender | None = None
    raw: Base64 | None = None
    free: JsonObject | None = None
    sure: JsonObject
    closed: Closed
    maybe_closed: Closed | None = None
    parts: Annotated[list[Part], Field(min_length=1, max_length=3)]
    others: Annotated[list[Other], Field(max_length=2)] | None = None


@pytest.mark.parametrize("model", [*MODELS, Everything], ids=lambda model: model.__name__)
def test_decode_altered_messages_agrees_with_pydantic(model: type[BaseModel]) -> None:
    @examples(25)
    @given(st.integers(0, 2**63), st.floats(0, 1), st.integers(1, 30))
    def check(seed: int, fill: float, n: int) -> None:
        rng = random.Random(seed)
        raws = []
        for _ in range(n):
            raw = render(rng, make_message(rng, layout_of(model), fill))
            for _ in range(rng.choice([0, 1, 1, 1, 2])):
                raw = mutate(rng, raw)
            raws.append(raw)
        check_chunk(model, raws)

    check()


numbers = st.one_of(
    st.integers().map(str),
    st.integers(-(2**65), 2**65).map(str),
    st.floats(allow_nan=True).map(lambda x: {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}.get(repr(x), repr(x))),
    st.from_regex(r"-?[0-9]{1,25}(\.[0-9]{1,25})?([eE][+-]?[0-9]{1,4})?", fullmatch=True),
    st.builds(lambda d, e: f"{d}e{e}", st.integers(0, 10**19), st.integers(-345, 310)),
    st.text("0123456789+-.eENaInfity", max_size=12),
)


@examples(1500)
@given(
    st.lists(st.tuples(st.sampled_from(["any_float", "some_float", "small", "large", "when", "ignored"]), numbers), min_size=1, max_size=4)
)
def test_decode_numbers_of_every_kind_agrees_with_pydantic(members: list[tuple[str, str]]) -> None:
    base = json.loads(MINIMAL)
    names = [name for name, _ in members]
    rest = json.dumps({key: value for key, value in base.items() if key not in names})[1:]
    check_chunk(Everything, [("{" + "".join(f'"{name}": {value},' for name, value in members) + rest).encode()])


MINIMAL = json.dumps(
    {
        "text": "", "any_float": 1.5, "small": 3, "flag": True, "choice": "a", "not_negative": "0",
        "id": "0f8fad5b-d9cb-469f-a165-70867728950e", "symbol": "X", "sure": {}, "closed": {"a": 1}, "parts": [{"name": "p", "pick": "z"}],
    }
)  # fmt: skip


def halfway(bits: int, power: int) -> str:
    """Return the decimal of the middle between two neighbouring float64, which rounds to the even one."""
    exact = (2 * bits + 1) * 2 ** (power - 1) if power >= 1 else None
    return str(exact) if exact is not None else str((2 * bits + 1) * 5 ** (1 - power)) + f"e-{1 - power}"


@examples(400)
@given(st.integers(2**52, 2**53 - 1), st.integers(-40, 11), st.sampled_from([-1, 0, 1]))
def test_decode_floats_next_to_a_tie_agrees_with_pydantic(bits: int, power: int, off: int) -> None:
    text, _, exponent = halfway(bits, power).partition("e")
    near = str(int(text) + off) + (f"e{exponent}" if exponent else ".0")
    check_chunk(Everything, [MINIMAL.replace("1.5", near).encode(), MINIMAL.replace("1.5", near[:17] + "e" + str(power)).encode()])


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5) | st.sampled_from(["payload", "type", "text"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@examples(300)
@given(json_values, st.booleans(), st.sampled_from([Everything, *MODELS]))
def test_decode_arbitrary_json_agrees_with_pydantic(value: Any, ascii_only: bool, model: type[BaseModel]) -> None:
    raw = json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    beside = MINIMAL.replace('"sure": {}', f'"sure": {{"x": {json.dumps(value, ensure_ascii=ascii_only)}}}').encode(
        "utf-8", "surrogatepass"
    )
    check_chunk(model, [raw])
    check_chunk(Everything, [beside, raw, b"[" + raw + b"]"])


@examples(300)
@given(st.binary(max_size=60) | st.text('{}[]":,\\ntrue\u00e9 0', max_size=40).map(str.encode))
def test_decode_arbitrary_bytes_agrees_with_pydantic(raw: bytes) -> None:
    check_chunk(Everything, [raw, b'{"text":"' + raw + b'"}', b'{"zz":' + raw + b"," + MINIMAL[1:].encode()])


@examples(300)
@given(
    st.text(max_size=8),
    st.sampled_from(["text", "choice", "symbol", "sender", "raw", "side", "stamp", "id", "positive", "zz"]),
    st.booleans(),
)
def test_decode_unicode_text_agrees_with_pydantic(text: str, name: str, ascii_only: bool) -> None:
    value = json.dumps(text, ensure_ascii=ascii_only)
    members = json.loads(MINIMAL) | {name: 0}
    check_chunk(Everything, [json.dumps(members).replace(f'"{name}": 0', f'"{name}": {value}').encode("utf-8", "surrogatepass")])


@pytest.mark.parametrize("depth", [1, 190, 197, 198, 199, 200, 201, 202, 5000])
def test_decode_nesting_agrees_with_pydantic(depth: int) -> None:
    inner = [b"", b"1", b"[]", b"{}", b" "]
    arrays = [b"[" * depth + x + b"]" * depth for x in inner]
    objects = [b'{"a":' * depth + (x or b"{}") + b"}" * depth for x in inner]
    mixed = [b'[{"a":' * (depth // 2) + (x or b"0") + b"}]" * (depth // 2) for x in inner]
    unclosed = [b"[" * depth, b'{"a":' * depth]
    values = arrays + objects + mixed + unclosed
    raws = [b'{"zz":' + value + b"," + MINIMAL[1:].encode() for value in values]
    raws += [MINIMAL.replace('"sure": {}', '"sure": {"x": V}').encode().replace(b"V", value) for value in values]
    raws += [MINIMAL.replace('"pick"', '"zz": V, "pick"').encode().replace(b"V", value) for value in values]
    check_chunk(Everything, raws)


@pytest.mark.parametrize("model", [*MODELS, Everything], ids=lambda model: model.__name__)
def test_encode_decoded_rows_gives_the_same_values(model: type[BaseModel]) -> None:
    layout = layout_of(model)
    decoder, encoder = compile_decoder(model), compile_encoder(model)

    @examples(25)
    @given(st.integers(0, 2**63), st.floats(0, 1), st.integers(1, 30))
    def check(seed: int, fill: float, n: int) -> None:
        rng = random.Random(seed)
        data, bounds = join([render(rng, make_message(rng, layout, fill)) for _ in range(n)])
        batch = decoder.decode(data, bounds)
        assert batch.ok.all()
        once, once_bounds = encoder.encode(raw_base64(layout, batch.rows), batch.arena, children=batch.children)
        again = decoder.decode(once, once_bounds)
        assert again.ok.all(), decoder.explain(again, int(np.flatnonzero(~again.ok)[0]), once, once_bounds)
        for i in range(n):
            want = rounded(layout, batch.rows, batch.arena, batch.children, i)
            assert rounded(layout, again.rows, again.arena, again.children, i) == want
        for text in split(once, once_bounds):
            model.model_validate_json(text)
            assert b": " not in text or json.loads(text) is not None
        twice, twice_bounds = encoder.encode(raw_base64(layout, again.rows), again.arena, children=again.children)
        assert split(twice, twice_bounds) == split(once, once_bounds)

    check()


def raw_base64(layout: Any, rows: Any) -> Any:
    """Return rows whose base64 fields are empty: the encoder takes raw bytes there, a batch holds the text."""
    rows = rows.copy()
    for column in layout.columns:
        if column.kind == "base64":
            rows[:, column.slot + 1] = np.minimum(rows[:, column.slot + 1], 0)
    return rows


def rounded(layout: Any, rows: Any, arena: Any, children: Any, i: int) -> dict[str, Any]:
    """Return the values of a row with floats as the encoder rounds them."""
    rows = rows.copy()
    children = {path: Rows(child.rows.copy(), child.arena) for path, child in children.items()}
    round_floats(layout, rows)
    for column in layout.columns:
        if column.item is not None:
            round_floats(column.item, children[column.path].rows)
    return decoded(layout, raw_base64(layout, rows), arena, children, i)


def round_floats(layout: Any, rows: Any) -> None:
    for column in layout.columns:
        if column.kind == "float":
            values = rows[:, column.slot].copy().view(np.float64)
            near = [x if math.isnan(x) or abs(x) >= 1e15 else float(f"{x:.6f}") + 0.0 for x in values.tolist()]
            rows[:, column.slot] = np.array(near, np.float64).view(np.int64)
