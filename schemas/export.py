"""`hedgerow schemas`: JSON Schemas and the AsyncAPI document, from the models and the registry; what changed since the last release.

Holds no rule about a field: the models do. What counts as compatible: docs/schema-evolution.md; formats: JSON Schema 2020-12, AsyncAPI 3.0.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from schemas import registry
from schemas.fields import DECIMAL_PATTERNS
from schemas.registry import SCHEMA_VERSION, TOPICS, Topic

Json: TypeAlias = dict[str, Any]

HERE = Path(__file__).resolve().parent
GENERATED = HERE / "generated"
RELEASED = HERE / "released"
ASYNCAPI = "asyncapi.json"
_FLOWS = {
    "execution": (
        registry.EXECUTION_INPUTS + registry.EXECUTION_BROADCAST,
        registry.EXECUTION_OUTPUTS,
    ),
    "hedger": (
        registry.HEDGER_INPUTS + registry.HEDGER_BROADCAST,
        registry.HEDGER_OUTPUTS,
    ),
    "regime": (registry.REGIME_INPUTS, registry.REGIME_OUTPUTS),
    "canary": (registry.CANARY_INPUTS + registry.CANARY_BROADCAST, registry.CANARY_OUTPUTS),
    "monitor": (registry.MONITOR_INPUTS, registry.MONITOR_OUTPUTS),
    "deliverer": (registry.DELIVERY_TOPICS[:2], registry.DELIVERY_TOPICS[1:]),
}
"""Flow → topics it receives, topics it sends."""


# --- what is written --------------------------------------------------------------------------------------------------------------


def json_schema(topic: Topic) -> Json:
    """Return the JSON Schema of a topic's records. Raises ValueError for a topic without a model."""
    if topic.model is None:
        raise ValueError(f"{topic.name} has no model")
    made = topic.model.model_json_schema()
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": f"urn:hedgerow:{topic.name}", "x-key": topic.key}
    return head | made


def asyncapi() -> Json:
    """Return the AsyncAPI document of all topics: channels with their Kafka settings, and what each flow receives and sends."""
    channels: Json = {}
    messages: Json = {}
    for topic in TOPICS.values():
        kept = topic.cleanup in ("offset", "compact")
        settings = {
            "cleanup.policy": ["compact" if topic.cleanup == "compact" else "delete"],
            "retention.ms": -1 if kept else topic.retention_ms,
            "max.message.bytes": topic.max_message_bytes,
        }
        kafka: Json = {"topic": topic.name, "topicConfiguration": settings, "bindingVersion": "0.5.0"}
        if not topic.lanes and topic.partitions is not None:
            kafka["partitions"] = topic.partitions
        channel: Json = {"address": topic.name, "description": topic.doc, "messages": {}, "bindings": {"kafka": kafka}}
        channel["x-partitions"] = "HEDGEROW_PARTITIONS" if topic.lanes or topic.partitions is None else topic.partitions
        channel["x-senders"] = list(topic.senders)
        channels[topic.name] = channel
        if topic.model is None:
            continue
        channel["messages"]["record"] = {"$ref": f"#/components/messages/{topic.name}"}
        messages[topic.name] = {
            "name": topic.name,
            "summary": topic.doc,
            "payload": {"schemaFormat": "application/schema+json;version=draft-2020-12", "schema": {"$ref": f"./{topic.name}.json"}},
            "bindings": {"kafka": {"key": {"type": "string", "description": topic.key}, "bindingVersion": "0.5.0"}},
        }
    operations: Json = {}
    for flow, (received, sent) in _FLOWS.items():
        for action, names in (("receive", received), ("send", sent)):
            for name in names:
                operations[f"{flow}.{action}.{name}"] = {"action": action, "channel": {"$ref": f"#/channels/{name}"}}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "hedgerow",
            "version": str(SCHEMA_VERSION),
            "description": "Topics of the hedgerow flows. Keys are partitioned with murmur2; one JSON object per record.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": operations,
        "components": {"messages": messages},
    }


def render() -> dict[str, str]:
    """Return file name → text of everything generated: one JSON Schema per topic with a model, and the AsyncAPI document."""
    made = {f"{topic.name}.json": json_schema(topic) for topic in TOPICS.values() if topic.model is not None}
    made[ASYNCAPI] = asyncapi()
    return {name: json.dumps(content, indent=2, ensure_ascii=False) + "\n" for name, content in made.items()}


def export(folder: Path = GENERATED) -> list[str]:
    """Write what is generated into `folder` and remove what no longer is; return the names of the files that changed."""
    folder.mkdir(parents=True, exist_ok=True)
    changed = drift(folder)
    texts = render()
    for name in changed:
        if name in texts:
            (folder / name).write_text(texts[name], encoding="utf-8")
        else:
            (folder / name).unlink()
    return changed


def drift(folder: Path = GENERATED) -> list[str]:
    """Return the names of files in `folder` that are missing, out of date or no longer generated."""
    texts = render()
    there = {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.json")} if folder.is_dir() else {}
    return sorted(name for name in texts.keys() | there.keys() if texts.get(name) != there.get(name))


# --- what changed -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Change:
    """One difference between two schemas of a topic.

    effect: `narrower` (something accepted before no longer is), `wider` (something is accepted that was not), `other` (both, or it
    cannot be told). A narrower input breaks its senders, a wider output its readers.
    """

    path: str
    text: str
    effect: str


def changes(old: Json, new: Json) -> list[Change]:
    """Return the differences between two JSON Schemas as `json_schema` makes them that matter to senders or readers."""
    found = list(_node(old, new, old, new, ""))
    if old.get("x-key") != new.get("x-key"):
        found.append(Change("", f"key {old.get('x-key')!r} became {new.get('x-key')!r}", "other"))
    return found


def problems(old: Json, new: Json, read: bool, written: bool) -> list[str]:
    """Return one line for each change that breaks what was released.

    read: others send records of this topic to hedgerow, so it may not become narrower. written: hedgerow sends them to others (who may
    run the released version), so it may not become wider.
    """
    breaking = {"other"} | ({"narrower"} if read else set()) | ({"wider"} if written else set())
    return [f"{change.path}: {change.text}" if change.path else change.text for change in changes(old, new) if change.effect in breaking]


def directions(topic: Topic) -> tuple[bool, bool]:
    """Return (others send it to us or to our other workers, others read it of us).

    A topic only hedgerow's own agents may send to is an output; when a flow also receives it, old and new workers talk through it during an
    upgrade. A foreign input that is re-published does not count as written: its bytes stay as they came.
    """
    received = {name for names, _ in _FLOWS.values() for name in names}
    return topic.name in received, bool(topic.senders)


def compatibility(released: Path) -> list[str]:
    """Compare the models with the schemas in `released`; return one line for each change that breaks somebody, none if all is well."""
    lines = []
    for path in sorted(released.glob("*.json")):
        topic = TOPICS.get(path.stem)
        if path.name == ASYNCAPI:
            continue
        if topic is None or topic.model is None:
            lines.append(f"{path.stem}: the topic was released and is gone")
            continue
        old = json.loads(path.read_text(encoding="utf-8"))
        lines += [f"{topic.name}: {line}" for line in problems(old, json_schema(topic), *directions(topic))]
    return lines


_LOWER = {"minimum": float("-inf"), "minLength": 0, "minItems": 0}
_UPPER = {"maximum": float("inf"), "maxLength": float("inf"), "maxItems": float("inf")}


def _resolve(node: Json, root: Json) -> tuple[Json, bool]:
    """Follow references and take `null` out of a union; return (schema, whether null is allowed)."""
    while "$ref" in node:
        node = root["$defs"][node["$ref"].rpartition("/")[2]]
    options = [option for option in node.get("anyOf", ()) if option != {"type": "null"}]
    if "anyOf" in node and len(options) == 1:
        inner, null = _resolve(options[0], root)
        return inner, null or len(options) < len(node["anyOf"])
    return node, False


def _node(old: Json, new: Json, old_root: Json, new_root: Json, path: str) -> Iterator[Change]:
    old, old_null = _resolve(old, old_root)
    new, new_null = _resolve(new, new_root)
    if old_null != new_null:
        yield Change(path, "may now be null" if new_null else "may no longer be null", "wider" if new_null else "narrower")
    if "anyOf" in old or "anyOf" in new:
        if old != new:
            yield Change(path, "the union changed", "other")
        return
    before, after = old.get("type"), new.get("type")
    if before != after:
        number = {"integer", "number"}
        wider = after is None or (before == "integer" and after == "number")
        narrower = before is None or (before == "number" and after == "integer")
        yield Change(path, f"type {before or 'any'} became {after or 'any'}", "wider" if wider else "narrower" if narrower else "other")
        if {before, after} != number:
            return
    if _choices(old) is not None or _choices(new) is not None:
        yield from _values(old, new, path)
        return
    yield from _bounds(old, new, path)
    if old.get("pattern") != new.get("pattern"):
        yield Change(path, f"pattern {old.get('pattern')} became {new.get('pattern')}", _compare(old.get("pattern"), new.get("pattern")))
    if "items" in old and "items" in new:
        yield from _node(old["items"], new["items"], old_root, new_root, path + "[]")
    if before == "object":
        yield from _object(old, new, old_root, new_root, path)


def _object(old: Json, new: Json, old_root: Json, new_root: Json, path: str) -> Iterator[Change]:
    was, now = old.get("properties", {}), new.get("properties", {})
    must, must_now = set(old.get("required", ())), set(new.get("required", ()))
    for name in [*was, *(name for name in now if name not in was)]:
        where = f"{path}.{name}".lstrip(".")
        if name not in now:
            yield Change(where, "the field was removed", "other")
        elif name not in was:
            if name in must_now:
                yield Change(where, "a new field is required; senders of what was released do not know it", "narrower")
        else:
            if (name in must) != (name in must_now):
                required = name in must_now
                yield Change(where, "is now required" if required else "is no longer always there", "narrower" if required else "wider")
            yield from _node(was[name], now[name], old_root, new_root, where)
    open_before, open_now = old.get("additionalProperties", True) is not False, new.get("additionalProperties", True) is not False
    if open_before != open_now:
        yield Change(
            path, "unknown fields are now allowed" if open_now else "unknown fields are now refused", "wider" if open_now else "narrower"
        )


def _choices(node: Json) -> list[Any] | None:
    if "const" in node:
        return [node["const"]]
    found: list[Any] | None = node.get("enum")
    return found


def _values(old: Json, new: Json, path: str) -> Iterator[Change]:
    was, now = _choices(old), _choices(new)
    if now is None:
        yield Change(path, "is no longer one of a list", "wider")
    if was is None:
        yield Change(path, f"must now be one of {now}", "narrower")
    for value in was or ():
        if not _takes(new, value):
            yield Change(path, f"value {value!r} was removed", "narrower")
    for value in now or ():
        if not _takes(old, value):
            yield Change(path, f"value {value!r} is new", "wider")


def _takes(node: Json, value: Any) -> bool:
    """Return whether a schema of one type takes a value of that type."""
    choices = _choices(node)
    if choices is not None:
        return value in choices
    if not isinstance(value, str):
        return bool(node.get("minimum", value) <= value <= node.get("maximum", value))
    fits = node.get("minLength", 0) <= len(value) <= node.get("maxLength", len(value))
    return bool(fits and re.search(node.get("pattern", ""), value))


def _bounds(old: Json, new: Json, path: str) -> Iterator[Change]:
    for bounds, sign in ((_LOWER, 1), (_UPPER, -1)):
        for name, absent in bounds.items():
            before, after = old.get(name, absent), new.get(name, absent)
            if before != after:
                yield Change(path, f"{name} {before} became {after}", "narrower" if sign * after > sign * before else "wider")


def _compare(old: str | None, new: str | None) -> str:
    """Return what it means that a pattern changed."""
    if old is None or new is None:
        return "wider" if new is None else "narrower"
    if old in DECIMAL_PATTERNS and new in DECIMAL_PATTERNS:
        return "narrower" if DECIMAL_PATTERNS.index(new) > DECIMAL_PATTERNS.index(old) else "wider"
    token = re.compile(r"\^((?:[^\[\\]|\\.)*)\[((?:[^\]\\]|\\.)*)\]\{(\d+),(\d+)\}\$")
    a, b = token.fullmatch(old), token.fullmatch(new)
    if a is None or b is None or a[1] != b[1]:
        return "other"
    one, two = ({c for c in map(chr, range(128)) if re.fullmatch(f"[{m[2]}]", c)} for m in (a, b))
    spans = (int(a[3]), int(a[4])), (int(b[3]), int(b[4]))
    if one >= two and spans[0][0] <= spans[1][0] and spans[0][1] >= spans[1][1]:
        return "narrower"
    if one <= two and spans[0][0] >= spans[1][0] and spans[0][1] <= spans[1][1]:
        return "wider"
    return "other"


# --- the command ------------------------------------------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `hedgerow schemas`."""
    parser.add_argument(
        "action",
        choices=("export", "check", "release"),
        help="write schemas/generated; compare it with the models, and the models with the last release; make the models the release",
    )


def run(args: argparse.Namespace) -> int:
    """Export, check or release; return 0, or 1 when the files are out of date or a change breaks what was released."""
    released = RELEASED / f"v{SCHEMA_VERSION}"
    if args.action == "export":
        changed = export()
        print("\n".join(f"wrote schemas/generated/{name}" for name in changed) or "schemas/generated is as the models have it")
        return 0
    lines = compatibility(released)
    if args.action == "check":
        lines = [f"schemas/generated/{name} differs from the models: run `hedgerow schemas export`" for name in drift()] + lines
    for line in lines:
        print(f"hedgerow: {line}", file=sys.stderr)
    if lines:
        return 1
    if args.action == "release":
        changed = export(released)
        print("\n".join(f"released {name} as v{SCHEMA_VERSION}" for name in changed) or f"v{SCHEMA_VERSION} is released as it is")
        return 0
    n = sum(topic.model is not None for topic in TOPICS.values())
    against = f"compatible with released v{SCHEMA_VERSION}" if released.is_dir() else f"v{SCHEMA_VERSION} is not released yet"
    print(f"{n} schemas and the AsyncAPI document are as the models have them; {against}")
    return 0
