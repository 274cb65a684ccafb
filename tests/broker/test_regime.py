"""The regime flow on a real broker: dashboards exactly once through kills in the middle of a commit, and the memory comes back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from schemas.canary import RegimeMessage
from schemas.registry import REGIME_INPUTS
from tests.conftest import fresh_topics
from tests.operators.regime_bench import Bench

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(180)]


class Worker:
    """A worker of the flow as a process."""

    def __init__(self, bootstrap: str, folder: Path) -> None:
        self.env = os.environ | {"HEDGEROW_KAFKA": bootstrap, "HEDGEROW_TRANSACTION_TIMEOUT_MS": "2000"}
        self.log = folder / "worker.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, fault: str = "") -> None:
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "flows", "run", "regime"], env=self.env | {"HEDGEROW_FAULT": fault}, stdout=log, stderr=log
            )

    def wait(self) -> int:
        assert self.process is not None
        return self.process.wait(60)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait(30)

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(30)


@pytest.fixture
def worker(kafka: str, tmp_path: Path) -> Iterator[Worker]:
    fresh_topics(kafka, 4)
    found = Worker(kafka, tmp_path)
    yield found
    found.stop()


def inputs() -> list[bytes]:
    """Return what a bench would be told: a quiet history, then a day that turns."""
    bench = Bench()
    told: list[bytes] = []
    bench.feed = lambda *values: told.extend(values)  # type: ignore[method-assign]
    bench.history()
    bench.quiet()
    for vix in (16.0, 17.5, 19.0, 22.0, 17.0):
        bench.minutes(1)
        bench.say("vix", vix, prev_close=15.0)
        bench.say("spy", 500.0 - 2 * (vix - 15.0), prev_close=500.0, high_52w=520.0)
    told.append(b"{")
    return told


def read(bootstrap: str, topic: str, until: Any, seconds: float = 60.0) -> list[dict[str, Any]]:
    """Return what is committed on a topic's only partition, as soon as `until(found)` holds."""
    consumer = Consumer(
        {"bootstrap.servers": bootstrap, "group.id": "reader", "enable.auto.commit": False, "isolation.level": "read_committed"}
    )
    consumer.assign([TopicPartition(topic, 0, 0)])
    found: list[dict[str, Any]] = []
    deadline = time.monotonic() + seconds
    while not until(found):
        assert time.monotonic() < deadline, f"{len(found)} records of {topic} after {seconds} s"
        message = consumer.poll(0.5)
        if message is not None:
            assert message.error() is None
            value = message.value()
            assert isinstance(value, bytes)
            found.append({"key": message.key()} | json.loads(value))
    consumer.close()
    return found


def test_dashboards_come_exactly_once_through_kills(kafka: str, worker: Worker) -> None:
    told = inputs()
    producer = Producer({"bootstrap.servers": kafka})

    def send(values: list[bytes]) -> None:
        for value in values:
            producer.produce(REGIME_INPUTS[0], value=value, key=b"k")
        assert producer.flush(20) == 0

    half = len(told) // 2
    send(told[:half])
    worker.start("before_commit:1")
    assert worker.wait() == -signal.SIGKILL
    worker.start()
    read(kafka, "risk.regime.v1", lambda found: any(one["payload"]["rows"][1]["values"].get("last") == 85.0 for one in found))
    worker.kill()
    send(told[half:])
    worker.start("before_send_offsets:1")
    assert worker.wait() == -signal.SIGKILL
    worker.start()
    dead = read(kafka, "dlq.regime", lambda found: len(found) >= 1)
    assert [letter["payload"]["source"]["offset"] for letter in dead] == [len(told) - 1]

    def whole(found: list[dict[str, Any]]) -> bool:
        last = [one["payload"] for one in found if one["payload"]["profile"] == "canary-default"]
        return bool(last) and last[-1]["rows"][0]["values"].get("vix") == 17.0

    found = read(kafka, "risk.regime.v1", whole)
    assert len({one["msg_id"] for one in found}) == len(found)
    assert {one["key"] for one in found} == {b"regime|canary-calibrated", b"regime|canary-default", b"regime|canary-guarded"}
    for one in found:
        key = one.pop("key")
        assert key.decode() == "regime|" + RegimeMessage.model_validate_json(json.dumps(one)).payload.profile
    last = found[-1]["payload"]["rows"]
    assert last[1]["values"]["last"] == 85.0  # what the first worker learned, known to the last
    assert last[5]["values"]["close_7d_ago"] == 150.0
