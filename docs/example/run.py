"""The README's example without Kafka: three quotes, a routed order and a venue's report through one lane. `python docs/example/run.py`.

Prints the fill; `--write` keeps it as fill.json, which a test compares with what comes out. Holds no rule.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from operators.execution import ExecutionLogic
from operators.tape import Tape
from schemas import registry
from schemas.chunk import Chunk, join, split
from schemas.reference import load_reference

HERE = Path(__file__).resolve().parent
NOW_NS = 1_767_614_400_310_000_000


def read(name: str) -> list[dict[str, Any]]:
    """Return the messages of an example file."""
    found = json.loads((HERE / name).read_text(encoding="utf-8"))
    return found if isinstance(found, list) else [found]


def chunk(topic: str, messages: list[dict[str, Any]]) -> Chunk:
    """Return messages as one poll would bring them."""
    data, bounds = join([json.dumps(message).encode() for message in messages])
    keys, key_bounds = join([str(message.get("correlation_id", "")).encode() for message in messages])
    return Chunk(topic, 0, data, bounds, np.arange(len(messages)), keys, key_bounds, NOW_NS)


def fill() -> dict[str, Any]:
    """Return the fill that the report becomes."""
    reference = load_reference(Path(registry.__file__).parent / "simulation.toml")
    tape = Tape(reference)
    tape.apply(chunk("marketdata.snapshot.v1", read("quotes.json")))
    logic = ExecutionLogic(0, 1, reference, tape.quotes)
    logic.process(chunk("order.intent.route.v1", read("route.json")), NOW_NS)
    outputs = logic.process(chunk("venue.execution.report.v1", read("report.json")), NOW_NS)
    made = [value for records in outputs if records.topic == "execution.event.fill.v1" for value in split(records.data, records.bounds)]
    found: dict[str, Any] = json.loads(made[0])
    return found


if __name__ == "__main__":
    text = json.dumps(fill(), indent=2)
    if sys.argv[1:] == ["--write"]:
        (HERE / "fill.json").write_text(text + "\n", encoding="utf-8")
    print(text)
