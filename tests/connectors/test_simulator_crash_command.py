"""`hedgerow simulate --crash`: to the embedded broker, and to a file; the same records either way."""

from __future__ import annotations

import argparse
import json
from base64 import b64decode
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, TopicPartition

from connectors.mock_broker import MockBroker
from connectors.simulator import crash_command
from connectors.simulator.crash import TOPICS, Crash, Record, Scenario
from connectors.simulator.sender import Sender
from flows.settings import Settings


def arguments(**given: Any) -> argparse.Namespace:
    return argparse.Namespace(**({"seconds": None, "seed": 3, "out": None, "settings": Settings(kafka="127.0.0.1:1")} | given))


def test_a_file_holds_every_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "crash.ndjson"
    assert crash_command.run(arguments(out=path)) == 0
    written = [json.loads(line) for line in path.read_text().splitlines()]
    records = list(Crash(Scenario(3)).records())
    assert [Record(w["t_ns"], w["topic"], w["key"].encode(), b64decode(w["value"])) for w in written] == records
    assert json.loads(capsys.readouterr().out)["written"] == len(records)


def test_what_cannot_be_done_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert crash_command.run(arguments(out=tmp_path / "missing" / "crash.ndjson")) == 2
    assert crash_command.run(arguments(seconds=0.5)) == 2
    said = capsys.readouterr().err
    assert "No such file" in said
    assert "--seconds must be" in said


def test_moments_are_sent_in_order_and_stopping_ends_them() -> None:
    scenario = Scenario(3, step_s=600, calm_step_s=600, chain_s=3600, members=10, history=60)
    moments = list(crash_command.batches(Crash(scenario).records()))
    assert [t for t, _ in moments] == sorted({t for t, _ in moments})
    assert sum(len(messages) for _, messages in moments) == len(list(Crash(scenario).records()))
    with MockBroker(dict.fromkeys(TOPICS, 1)) as broker:
        sender, asked = Sender(broker.bootstrap, {}, {}), iter(range(100))
        crash_command.tell(sender, moments, None, 0.0, lambda: next(asked) >= 20)
        assert sender.close() == 0
        wanted = [m for _, messages in moments[:20] for m in messages]
        assert sum(sender.sent.values()) == sum(sender.acked.values()) == len(wanted)
        for topic in TOPICS:
            reader = Consumer({"bootstrap.servers": broker.bootstrap, "group.id": "test", "auto.offset.reset": "earliest"})
            reader.assign([TopicPartition(topic, 0, 0)])
            expected = [(m.key, m.value) for m in wanted if m.topic == topic]
            found: list[tuple[bytes | None, bytes | None]] = []
            for _ in range(200):
                found += [(m.key(), m.value()) for m in reader.consume(1000, 0.1) if m.error() is None]
                if len(found) >= len(expected):
                    break
            reader.close()
            assert found == expected
