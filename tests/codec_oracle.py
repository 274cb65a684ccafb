"""What the codec is compared with: pydantic's verdict and values, and valid messages made from a model's layout by a seeded generator.

Slow and plain on purpose; holds no rule of its own beyond schemas/fields.py.
"""

from __future__ import annotations

import base64
import json
import math
import random
import re
import struct
import uuid
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, ValidationError

from schemas.chunk import join
from schemas.codec import Batch, Decoder, compile_decoder
from schemas.fields import decimal_parts
from schemas.layout import Column, Layout
from schemas.reasons import Reason

CHARACTERS = ["a", "Z", "0", " ", "é", "ß", "漢", "😀", "\u0000", "\n", '"', "\\", "/", "\x7f", "\u2028", "\ufffd", "\U0010ffff"]

LONGEST_LIST = 128
"""Elements made at most, so that a message with several long lists is not oversize."""


def make_text(rng: random.Random, low: int, high: int) -> str:
    """Return text of `low` to `high` code points, now and then at a bound or full of rare characters."""
    n = rng.choice([low, high, rng.randint(low, min(high, low + 40)), rng.randint(low, min(high, low + 12))])
    pool = CHARACTERS if rng.random() < 0.3 else ["a", "b", "-", "7", "X"]
    return "".join(rng.choice(pool) for _ in range(n))


def make_decimal(rng: random.Random, lo: float | None) -> str:
    """Return a decimal string that a field of this `lo` takes."""
    digits = rng.randint(1, 18)
    mantissa = rng.randint(1 if lo == 1 else 0, 10**digits - 1)
    scale = rng.randint(0, 18 if rng.random() < 0.2 else min(digits, 8))
    text = str(mantissa).rjust(scale + 1, "0")
    text = text if scale == 0 else f"{text[:-scale]}.{text[-scale:]}"
    return "-" + text if lo is None and rng.random() < 0.4 else text


def make_value(rng: random.Random, column: Column) -> Any:
    """Return a valid value of a scalar column."""
    spec = column.spec
    if column.kind == "text":
        return make_text(rng, spec.min_len, spec.max_len)
    if column.kind == "token":
        n = rng.randint(spec.min_len, spec.max_len)
        return spec.prefix.decode() + "".join(chr(rng.choice(spec.charset)) for _ in range(n))
    if column.kind == "int":
        assert isinstance(spec.lo, int)
        assert isinstance(spec.hi, int)
        return rng.choice([spec.lo, spec.hi, rng.randint(spec.lo, spec.hi)])
    if column.kind == "float":
        low, high = -1e6 if spec.lo is None else spec.lo, 1e6 if spec.hi is None else spec.hi
        value = rng.choice([rng.uniform(low, high), round(rng.uniform(low, high), 3), low, high, max(low, min(0.0, high))])
        wild = struct.unpack("<d", rng.randbytes(8))[0]
        return wild if rng.random() < 0.2 and math.isfinite(wild) and low <= wild <= high else value
    if column.kind == "bool":
        return rng.random() < 0.5
    if column.kind == "enum":
        return rng.choice(column.values)
    if column.kind == "decimal":
        return make_decimal(rng, spec.lo)
    if column.kind == "uuid":
        text = str(uuid.UUID(int=rng.getrandbits(128) | 1))
        return text.upper() if rng.random() < 0.2 else text
    if column.kind == "rfc3339":
        moment = datetime.fromtimestamp(rng.randint(946_684_800, 4_102_444_799), UTC).strftime("%Y-%m-%dT%H:%M:%S")
        n = rng.randint(0, 9)
        return moment + (f".{rng.randrange(10**n):0{n}d}" if n else "") + "Z"
    if column.kind == "base64":
        return base64.b64encode(rng.randbytes(rng.randint(0, 90))).decode()
    assert column.kind == "json"
    return rng.choice([{}, {"a": 1}, {"b": [1.5, None, {"c": "é\n"}], "": True}, {"n": 10**25, "f": -0.0, "e": 1e300}])


def make_message(rng: random.Random, layout: Layout, fill: float = 0.5) -> dict[str, Any]:
    """Return a valid message as a dict; nullable fields are there with probability `fill`, now and then as null."""

    def members(layout: Layout, parent: int) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for i, column in enumerate(layout.columns):
            if column.parent != parent:
                continue
            if not column.required and rng.random() > fill:
                continue
            if column.nullable and rng.random() < 0.1:
                made[column.name] = None
            elif column.kind == "object":
                made[column.name] = members(layout, i)
            elif column.item is not None:
                most = min(column.spec.max_len or 5, max(column.spec.min_len, LONGEST_LIST))
                n = rng.choice(
                    [column.spec.min_len, rng.randint(column.spec.min_len, min(most, 4)), rng.randint(column.spec.min_len, most)]
                )
                made[column.name] = [members(column.item, -1) for _ in range(n)]
            else:
                made[column.name] = make_value(rng, column)
        if rng.random() < 0.2:
            keys = list(made)
            rng.shuffle(keys)
            made = {key: made[key] for key in keys}
        return made

    return members(layout, -1)


def render(rng: random.Random, message: Any) -> bytes:
    """Return JSON of a message in one of several spellings."""
    separators = rng.choice([(",", ":"), (",", ":"), (", ", ": "), (" ,\n", "\t: ")])
    return json.dumps(message, separators=separators, ensure_ascii=rng.random() < 0.3).encode()


def nanoseconds(text: str) -> int:
    """Return the ns since the epoch of an RFC 3339 UTC time."""
    whole, _, fraction = text[:-1].partition(".")
    return int(datetime.fromisoformat(whole + "+00:00").timestamp()) * 10**9 + int(fraction.ljust(9, "0") or 0)


def plain(column: Column, value: Any) -> Any:
    """Return pydantic's value of a scalar in the form `decoded` gives it in."""
    if value is None:
        return None
    if column.kind == "decimal":
        return decimal_parts(value)
    if column.kind == "rfc3339":
        return nanoseconds(value)
    if column.kind == "float":
        return struct.pack("<d", value)
    if column.kind == "json":
        return finite(value)
    return value


def finite(value: Any) -> Any:
    """Return free-form data with what JSON has no number for as null, which is how the codec keeps it; -0 kept apart from 0."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    if isinstance(value, float):
        return ("float", struct.pack("<d", value)) if math.isfinite(value) else None
    return value


def decoded(layout: Layout, rows: Any, arena: Any, children: Any, row: int) -> dict[str, Any]:
    """Return {path: value} of one row of a batch."""
    found: dict[str, Any] = {}
    for column in layout.columns:
        a, *more = rows[row, column.slot : column.slot + column.width].tolist()
        kind = column.kind
        if kind in ("text", "token", "base64", "json"):
            text = None if more[0] < 0 else arena[a : a + more[0]].tobytes().decode()
            value: Any = text if kind != "json" or text is None else finite(json.loads(text))
        elif kind == "decimal":
            value = None if more[0] < 0 else (a, more[0])
        elif kind == "uuid":
            value = None if a == 0 and more[0] == 0 else str(uuid.UUID(int=(a % 2**64) << 64 | more[0] % 2**64))
        elif kind == "float":
            value = struct.pack("<q", a)
            value = None if math.isnan(struct.unpack("<d", value)[0]) else value
        elif kind == "object":
            value = bool(a)
        elif column.item is not None:
            child = children[column.path]
            value = None if more[0] < 0 else [decoded(column.item, child.rows, child.arena, {}, a + k) for k in range(more[0])]
        else:
            value = None if a == -(2**63) else a
            if value is not None and kind == "enum":
                value = column.values[value]
            if value is not None and kind == "bool":
                value = bool(value)
        found[column.path] = value
    return found


def expected(layout: Layout, model: BaseModel) -> dict[str, Any]:
    """Return {path: value} of a model, comparable with `decoded`."""
    found: dict[str, Any] = {}

    def walk(parent: int, holder: Any) -> None:
        for i, column in enumerate(layout.columns):
            if column.parent != parent:
                continue
            value = None if holder is None else getattr(holder, column.name)
            if column.kind == "object":
                found[column.path] = value is not None
                walk(i, value)
            elif column.item is not None:
                found[column.path] = None if value is None else [expected(column.item, item) for item in value]
            else:
                found[column.path] = plain(column, value)

    walk(-1, model)
    return found


def validated(model: type[BaseModel], raw: bytes) -> tuple[BaseModel | None, ValidationError | None]:
    """Return pydantic's model, or its error."""
    try:
        return model.model_validate_json(raw), None
    except ValidationError as error:
        return None, error


def first_bad_byte(raw: bytes) -> int:
    """Return where the bytes stop being UTF-8, -1 if they are."""
    try:
        raw.decode()
    except UnicodeDecodeError as error:
        return error.start
    return -1


def check_record(decoder: Decoder, batch: Batch, i: int, raw: bytes, data: Any, bounds: Any) -> None:
    """Assert that record i of a batch got pydantic's verdict and values, and a reason that fits pydantic's errors."""
    layout = decoder.layout
    model, error = validated(layout.model, raw)
    if error is not None:
        assert not batch.ok[i], (raw, "the codec accepts what pydantic rejects", error)
        check_reason(decoder, batch, i, raw, error)
        message = decoder.explain(batch, i, data, bounds)
        assert 0 < len(message) <= 200, message
        assert message.isprintable(), message
        return
    assert model is not None
    assert batch.ok[i], (raw, "the codec rejects what pydantic accepts", decoder.explain(batch, i, data, bounds))
    assert batch.reason[i] == 0
    assert batch.column[i] == -1
    assert batch.at[i] == -1
    got, want = decoded(layout, batch.rows, batch.arena, batch.children, i), expected(layout, model)
    assert got == want, (raw, {key: (got[key], want[key]) for key in want if got[key] != want[key]})


def check_reason(decoder: Decoder, batch: Batch, i: int, raw: bytes, error: ValidationError) -> None:
    """Assert that the reason is one that pydantic's errors allow."""
    reason, column = Reason(int(batch.reason[i])), int(batch.column[i])
    errors = error.errors(include_url=False)
    assert 0 <= batch.at[i] <= len(raw)
    if any(e["type"] == "json_invalid" or not e["loc"] for e in errors):
        bad = first_bad_byte(raw)
        assert reason is (Reason.json_malformed if bad < 0 else Reason.encoding_invalid), raw
        assert bad < 0 or batch.at[i] == bad, raw
        assert column == -1
        return
    faults = {path_of(e["loc"][:-1] if e["type"] == "extra_forbidden" else e["loc"]): e for e in errors if e["type"] != "missing"}
    absent = {path_of(e["loc"]) for e in errors if e["type"] == "missing"}
    path = decoder.layout.columns[column].path if column >= 0 else ""
    if not faults:
        assert reason is Reason.field_missing, (raw, reason)
        assert any(p == path or p.startswith(path + ".") for p in absent), (raw, path, absent)
        return
    inside = [p for p in faults if p == path or p.startswith(path + ".")]
    assert inside, (raw, reason, path, faults)
    if path in faults and column >= 0 and faults[path]["type"] != "extra_forbidden":
        assert reason is decoder.layout.columns[column].spec.reason, (raw, reason, path)


def path_of(loc: tuple[Any, ...]) -> str:
    """Return the dotted path of a pydantic location, without list positions."""
    return ".".join(str(part) for part in loc if not isinstance(part, int))


def check_chunk(model: type[BaseModel], raws: list[bytes]) -> Batch:
    """Decode records as one chunk and compare each with pydantic."""
    decoder = compile_decoder(model)
    data, bounds = join(raws)
    batch = decoder.decode(data, bounds)
    assert len(batch) == len(raws)
    for i, raw in enumerate(raws):
        check_record(decoder, batch, i, raw, data, bounds)
    return batch


JUNK = [
    b"NaN", b"Infinity", b"-Infinity", b"-NaN", b"null", b"true", b"false", b"1e400", b"-1e400", b"1e-400", b"-0", b"-0.0",
    b"1.0", b"01", b"+1", b".5", b"1.", b"1e", b"1e5", b"1e-3", b"5e-324", b"2.4703282292062327e-324",
    b"1.7976931348623159e308", b"0.1234567890123456789012", b"9007199254740993", b"9223372036854775807", b"9223372036854775808",
    b"-9223372036854775808", b"123456789012345678", b"0", b"2", b"0.5", b"1" * 310, b"1" * 4300, b"1" * 4301,
    b"-" + b"1" * 4301, b"0." + b"1" * 5000, b"\xd9\xa1", b"[]", b"{}", b"[{}]", b"[null]", b'""', b'"x"', b'"\\ud800"',
    b'"\\ud83d\\ude00"', b'"\\udc00\\ud83d"', b'"\\u0041"', b'"\\u0000"', b'"\\x41"', b'"a\x01"', b'"\x7f"', b"\xff", b'"\xff"',
    b'"\xed\xa0\x80"', b'"\xc0\x80"', b'"\xf4\x90\x80\x80"', b'"\xf0\x9f\x98\x80"', b'[[1,2],{"a":NaN}]', b'{"a":{"b":[{}]}}',
    b'{"a":1,"a":2}', b"[" * 199 + b"]" * 199, b"[" * 200 + b"]" * 200, b"[" * 201 + b"]" * 201,
    b'{"a":' * 199 + b"{}" + b"}" * 199, b'{"a":' * 199 + b"1" + b"}" * 199, b'"1.5"', b'"-1.5"', b'"0"', b'"-0"', b'"1e5"',
    b'"01"', b'"1."', b'"1234567890123456789"', b'"0.0000000000000000001"', b'"999999999999999999.9"', b'"v2"', b'"BUY"',
    b'"buy"', b'"00000000-0000-0000-0000-000000000000"', b'"0f8fad5bd9cb469fa16570867728950e"', b'"2024-02-30T00:00:00Z"',
    b'"2024-02-29T23:59:60Z"', b'"2023-02-29T00:00:00Z"', b'"2100-01-01T00:00:00Z"', b'"2024-02-29T00:00:00.Z"',
    b'"2024-02-29T00:00:00+00:00"', b'"YQ=="', b'"YQ="', b'"YQ"', b'"=YQ="', b'"YWJj\\/w=="',
]  # fmt: skip
BITS = [
    b'"',
    b",",
    b"{",
    b"}",
    b" ",
    b"\\",
    b":",
    b"[",
    b"]",
    b"0",
    b"\xc3",
    b"\n",
    b"-",
    b".",
    b"e",
    b"\x00",
    b"\xef\xbb\xbf",
    b"\x0b",
    b"null",
]
MEMBER = re.compile(rb'"(\w+)"\s*:\s*')


def value_end(raw: bytes, at: int) -> int:
    """Return where the JSON value that begins at `at` ends, as far as Python can read it."""
    text = raw[at:].decode("utf-8", "surrogateescape")
    try:
        return at + len(text[: json.JSONDecoder().raw_decode(text)[1]].encode("utf-8", "surrogateescape"))
    except (ValueError, RecursionError):
        return min(at + 1, len(raw))


def mutate(rng: random.Random, raw: bytes) -> bytes:
    """Return a message with one fault, or one rarity, put into it."""
    if not raw:
        return rng.choice(JUNK)
    kind = rng.randrange(12)
    at = rng.randrange(len(raw))
    if kind == 0:
        return raw[:at]
    if kind == 1:
        return raw[:at] + bytes([raw[at] ^ 1 << rng.randrange(8)]) + raw[at + 1 :]
    if kind == 2:
        return raw[:at] + raw[at + rng.randint(1, 5) :]
    members = list(MEMBER.finditer(raw))
    if kind == 3 or not members:
        return raw[:at] + rng.choice(BITS) + raw[at:]
    member = rng.choice(members)
    end = value_end(raw, member.end())
    junk = rng.choice(JUNK)
    if kind <= 6:  # another value
        return raw[: member.end()] + junk + raw[end:]
    if kind <= 8:  # the field twice, first with another value or the same one
        first = rng.choice([junk, raw[member.end() : end]])
        return raw[: member.start()] + member.group(0) + first + b"," + raw[member.start() :]
    if kind == 9:  # a field that is not known here
        name = rng.choice(
            [b"zz", b"\\u0070ayload", b"sig", b"order_id", b"venue", member.group(1)[:-1], b"", b"\\ud800", b"\xff", b"a" * 40]
        )
        return raw[: member.start()] + b'"' + name + b'":' + junk + b"," + raw[member.start() :]
    if kind == 10:  # the name in escapes
        escaped = b"".join(b"\\u%04x" % c for c in member.group(1))
        return raw[: member.start() + 1] + escaped + raw[member.end(1) :]
    return raw[: member.start()] + raw[end:].lstrip(b" \n,")
