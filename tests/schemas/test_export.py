"""Generated schemas: current, valid, and telling drift and changes that break senders or readers from those that do not."""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import Annotated, Any, Literal

import jsonschema
import pytest
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from connectors.topics import config_of
from schemas import export
from schemas.envelope import Strict
from schemas.fields import Decimal, Id64, JsonObject, NonNegativeDecimal, PositiveDecimal, integer, real, string, token
from schemas.layout import layout_of
from schemas.registry import (
    CANARY_BROADCAST,
    CANARY_INPUTS,
    CANARY_OUTPUTS,
    DELIVERY_TOPICS,
    EXECUTION_INPUTS,
    EXECUTION_OUTPUTS,
    HEDGER_BROADCAST,
    HEDGER_INPUTS,
    HEDGER_OUTPUTS,
    MONITOR_INPUTS,
    MONITOR_OUTPUTS,
    REGIME_INPUTS,
    REGIME_OUTPUTS,
    SCHEMA_VERSION,
    TOPICS,
)
from tests.codec_oracle import make_message
from tests.schemas.made import make_model

WITH_MODEL = [topic for topic in TOPICS.values() if topic.model is not None]


def test_generated_files_are_as_the_models_have_them() -> None:
    assert export.drift() == [], "run `hedgerow schemas export`"


def test_models_break_nothing_that_was_released() -> None:
    assert export.compatibility(export.RELEASED / f"v{SCHEMA_VERSION}") == []


def test_every_topic_with_a_model_is_released() -> None:
    released = {path.stem for path in (export.RELEASED / f"v{SCHEMA_VERSION}").glob("*.json")}
    assert released == {topic.name for topic in WITH_MODEL} | {"asyncapi"}


def test_export_writes_what_is_missing_changed_or_gone(tmp_path: Path) -> None:
    folder = tmp_path / "generated"
    assert export.export(folder) == sorted(export.render())
    assert export.drift(folder) == []
    (folder / "order.event.ack.v1.json").unlink()
    (folder / "dlq.execution.json").write_text("{}")
    (folder / "old.topic.v1.json").write_text("{}")
    told = ["dlq.execution.json", "old.topic.v1.json", "order.event.ack.v1.json"]
    assert export.drift(folder) == told
    assert export.export(folder) == told
    assert not (folder / "old.topic.v1.json").exists()
    assert export.export(folder) == []


@pytest.mark.parametrize("topic", WITH_MODEL, ids=lambda topic: topic.name)
def test_json_schema_accepts_what_the_model_accepts(topic: Any) -> None:
    schema = export.json_schema(topic)
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    rng = random.Random(2)
    for _ in range(50):
        message = make_message(rng, layout_of(topic.model)) if topic.columnar else make_model(rng, topic.model)
        topic.model.model_validate_json(json.dumps(message))
        assert [error.message for error in validator.iter_errors(message)] == []


@pytest.mark.parametrize("kind", [Decimal, NonNegativeDecimal, PositiveDecimal])
@pytest.mark.parametrize(
    "value", ["0", "-0", "0.0", "-0.00", "1", "-1", "0.01", "-0.01", "10.0", "0.10", "01", "1.", ".5", "+1", "1e3", "", " 1", "-", "1\n"]
)
def test_json_schema_of_decimals_agrees_with_pydantic(kind: Any, value: str) -> None:
    adapter: TypeAdapter[str] = TypeAdapter(kind)
    try:
        adapter.validate_python(value)
        accepted = True
    except ValidationError:
        accepted = False
    # Python's $ also matches before a final newline, JSON Schema's does not: ask for the end of the text as the latter means it
    schema = adapter.json_schema()
    schema["pattern"] = schema["pattern"].removesuffix("$") + r"\Z"
    assert jsonschema.Draft202012Validator(schema).is_valid(value) == accepted


def test_asyncapi_references_exist_and_settings_are_the_topics_own() -> None:
    texts = export.render()
    document = json.loads(texts[export.ASYNCAPI])
    assert list(document["channels"]) == list(TOPICS)
    for name, channel in document["channels"].items():
        config = channel["bindings"]["kafka"]["topicConfiguration"]
        expected = config_of(TOPICS[name])
        assert config["cleanup.policy"] == [expected["cleanup.policy"]]
        assert str(config["retention.ms"]) == expected["retention.ms"]
        assert str(config["max.message.bytes"]) == expected["max.message.bytes"]
        for message in channel["messages"].values():
            found = document["components"]["messages"][message["$ref"].rpartition("/")[2]]
            assert found["payload"]["schema"]["$ref"].removeprefix("./") in texts
    received = {op["channel"]["$ref"].rpartition("/")[2] for op in document["operations"].values() if op["action"] == "receive"}
    sent = {op["channel"]["$ref"].rpartition("/")[2] for op in document["operations"].values() if op["action"] == "send"}
    assert received >= {
        *EXECUTION_INPUTS,
        *HEDGER_INPUTS,
        *HEDGER_BROADCAST,
        *REGIME_INPUTS,
        *CANARY_INPUTS,
        *CANARY_BROADCAST,
        *MONITOR_INPUTS,
    }
    assert sent == {*EXECUTION_OUTPUTS, *HEDGER_OUTPUTS, *REGIME_OUTPUTS, *CANARY_OUTPUTS, *MONITOR_OUTPUTS, *DELIVERY_TOPICS[1:]}


# --- which changes break whom: a base model, and what is done to its schema ---------------------------------------------------------


class Inner(Strict):
    """An object."""

    a: Id64
    b: Annotated[int, integer(0, 9)] | None = None


class Base(Strict):
    """What was released."""

    kind: Literal["NEW", "TRADE"]
    size: PositiveDecimal
    limit: NonNegativeDecimal | None = None
    count: Annotated[int, integer(1, 100)]
    weight: Annotated[float, real(0.0, 1.0)] | None = None
    name: Annotated[str, string(64)]
    symbol: Annotated[str, token(b"ABC", 20)]
    legs: Annotated[list[Inner], Field(min_length=1, max_length=8)]
    inner: Inner | None = None
    more: JsonObject | None = None


def without(model: type[BaseModel], *names: str, **changes: Any) -> dict[str, Any]:
    """Return the schema of a model with fields left out, changed (a type, or (type, default)) or added."""
    fields: dict[str, Any] = {name: (info.annotation, info) for name, info in model.model_fields.items() if name not in names}
    for name, change in changes.items():
        kind, default = change if isinstance(change, tuple) else (change, ...)
        fields[name] = (kind, default)
    made = type("Changed", (Strict,), {
        "__annotations__": {name: kind for name, (kind, _) in fields.items()},
        **{name: default for name, (_, default) in fields.items() if default is not ...},
        "__module__": __name__,
    })  # fmt: skip
    return made.model_json_schema()  # type: ignore[attr-defined, no-any-return]


class Closed(Base):
    """Refuses unknown fields."""

    model_config = ConfigDict(extra="forbid")


class Wide(Strict):
    """Inner with more."""

    a: Id64
    b: Annotated[int, integer(0, 99)] | None = None


OLD = Base.model_json_schema()
# (new schema, breaks senders of an input, breaks readers of an output, words of the line)
TABLE: dict[str, tuple[dict[str, Any], bool, bool, str]] = {
    "nothing": (OLD, False, False, ""),
    "optional field added": (without(Base, note=(Id64 | None, None)), False, False, ""),
    "required field added": (without(Base, note=Id64), True, False, "note: a new field is required"),
    "optional field removed": (without(Base, "limit"), True, True, "limit: the field was removed"),
    "required field removed": (without(Base, "name"), True, True, "name: the field was removed"),
    "optional became required": (without(Base, inner=(Inner | None)), True, False, "inner: is now required"),
    "required became optional": (without(Base, name=(Annotated[str, string(64)], "x")), False, True, "name: is no longer always there"),
    "null no longer allowed": (without(Base, limit=(NonNegativeDecimal, "0")), True, False, "limit: may no longer be null"),
    "null now allowed": (without(Base, size=PositiveDecimal | None), False, True, "size: may now be null"),
    "enum value added": (without(Base, kind=Literal["NEW", "TRADE", "BUST"]), False, True, "kind: value 'BUST' is new"),
    "enum value removed": (without(Base, kind=Literal["NEW"]), True, False, "kind: "),
    "enum became text": (without(Base, kind=Id64), False, True, "kind: is no longer one of a list"),
    "enum became text that is too short": (without(Base, kind=Annotated[str, string(3)]), True, True, "kind: "),
    "text became enum": (without(Base, name=Literal["x"]), True, False, "name: must now be one of ['x']"),
    "minimum raised": (without(Base, count=Annotated[int, integer(2, 100)]), True, False, "count: minimum 1 became 2"),
    "minimum lowered": (without(Base, count=Annotated[int, integer(0, 100)]), False, True, "count: minimum 1 became 0"),
    "maximum lowered": (without(Base, count=Annotated[int, integer(1, 99)]), True, False, "count: maximum 100 became 99"),
    "maximum raised": (without(Base, count=Annotated[int, integer(1, 101)]), False, True, "count: maximum 100 became 101"),
    "bound dropped": (without(Base, weight=(Annotated[float, real(0.0)] | None, None)), False, True, "weight: maximum 1.0 became inf"),
    "integer became number": (without(Base, count=Annotated[float, real(1, 100)]), False, True, "count: type integer became number"),
    "number became integer": (without(Base, weight=(Annotated[int, integer(0, 1)] | None, None)), True, False, "number became integer"),
    "integer became text": (without(Base, count=Id64), True, True, "count: type integer became string"),
    "text longer": (without(Base, name=Annotated[str, string(65)]), False, True, "name: maxLength 64 became 65"),
    "text shorter": (without(Base, name=Annotated[str, string(63)]), True, False, "name: maxLength 64 became 63"),
    "token longer": (without(Base, symbol=Annotated[str, token(b"ABC", 32)]), False, True, "symbol: pattern"),
    "token shorter": (without(Base, symbol=Annotated[str, token(b"ABC", 8)]), True, False, "symbol: pattern"),
    "token of more characters": (without(Base, symbol=Annotated[str, token(b"ABCD-", 20)]), False, True, "symbol: pattern"),
    "token of fewer characters": (without(Base, symbol=Annotated[str, token(b"AB", 20)]), True, False, "symbol: pattern"),
    "token of other characters": (without(Base, symbol=Annotated[str, token(b"ABD", 20)]), True, True, "symbol: pattern"),
    "token with a prefix": (without(Base, symbol=Annotated[str, token(b"ABC", 20, prefix=b"x.")]), True, True, "symbol: pattern"),
    "decimal may be zero": (without(Base, size=NonNegativeDecimal), False, True, "size: pattern"),
    "decimal may be negative": (without(Base, size=Decimal), False, True, "size: pattern"),
    "decimal above zero": (without(Base, limit=(PositiveDecimal | None, None)), True, False, "limit: pattern"),
    "list longer": (without(Base, legs=Annotated[list[Inner], Field(min_length=1, max_length=9)]), False, True, "maxItems 8 became 9"),
    "list may be empty": (without(Base, legs=Annotated[list[Inner], Field(max_length=8)]), False, True, "legs: minItems 1 became 0"),
    "within a list": (without(Base, legs=Annotated[list[Wide], Field(min_length=1, max_length=8)]), False, True, "legs[].b: max"),
    "within an object": (without(Base, inner=(Wide | None, None)), False, True, "inner.b: maximum 9 became 99"),
    "unknown fields refused": (Closed.model_json_schema(), True, False, "unknown fields are now refused"),
    "key changed": (OLD | {"x-key": "book"}, True, True, "key None became 'book'"),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLE)
def test_problems_of_a_change_are_told_to_whom_it_breaks(name: str) -> None:
    new, breaks_senders, breaks_readers, words = TABLE[name]
    as_input = export.problems(OLD, new, read=True, written=False)
    as_output = export.problems(OLD, new, read=False, written=True)
    both = export.problems(OLD, new, read=True, written=True)
    assert bool(as_input) == breaks_senders
    assert bool(as_output) == breaks_readers
    assert bool(both) == (breaks_senders or breaks_readers)
    for lines in (as_input, as_output):
        assert not lines or any(words in line for line in lines), lines


def test_directions_of_the_registry() -> None:
    told = {topic.name: export.directions(topic) for topic in WITH_MODEL}
    assert told["venue.execution.report.v1"] == (True, False)
    assert told["execution.event.fill.v1"] == (True, True)
    assert told["execution.state.alias.v1"] == (True, True)
    assert told["audit.event.hedger"] == (False, True)
    assert told["hedger.intent.desk.v1"] == (True, False)
    assert told["hedger.intent.cover"] == (True, True)
    assert all(any(pair) for pair in told.values())


def test_schemas_check_names_drift_and_breaking_change_and_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    generated, released = tmp_path / "generated", tmp_path / "released"
    monkeypatch.setattr(export, "GENERATED", generated)
    monkeypatch.setattr(export, "RELEASED", released)
    monkeypatch.setattr(export.drift, "__defaults__", (generated,))
    monkeypatch.setattr(export.export, "__defaults__", (generated,))

    def hedgerow_schemas(action: str) -> tuple[int, str]:
        code = export.run(argparse.Namespace(action=action))
        told = capsys.readouterr()
        return code, told.out + told.err

    assert hedgerow_schemas("check")[0] == 1
    assert hedgerow_schemas("export") == (0, "".join(f"wrote schemas/generated/{name}\n" for name in sorted(export.render())))
    assert hedgerow_schemas("check")[1].endswith("v1 is not released yet\n")
    assert hedgerow_schemas("release")[0] == 0
    assert hedgerow_schemas("check")[1].endswith("compatible with released v1\n")
    path = released / f"v{SCHEMA_VERSION}" / "order.event.ack.v1.json"
    schema = json.loads(path.read_text())
    schema["$defs"]["OrderAck"]["properties"]["status"]["enum"].append("EXPIRED")
    path.write_text(json.dumps(schema))
    assert hedgerow_schemas("check") == (1, "hedgerow: order.event.ack.v1: payload.status: value 'EXPIRED' was removed\n")
    assert hedgerow_schemas("release")[0] == 1
    path.write_text(export.render()["order.event.ack.v1.json"])
    (path.parent / "old.topic.v1.json").write_text("{}")
    assert hedgerow_schemas("check") == (1, "hedgerow: old.topic.v1: the topic was released and is gone\n")
