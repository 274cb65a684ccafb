"""The monitor on a real broker: alerts become notices, notices reach a webhook, and a deliverer killed at any point neither loses nor doubles a receipt."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition

from connectors.webhooks import DEAD, DELIVERIES, GROUP
from flows.supervisor import EXIT_FENCED, EXIT_OK
from schemas.canary import DeliveryMessage, NoticeMessage, WebhookDeadLetterMessage
from tests.conftest import fresh_topics
from tests.connectors.webhook_receiver import KEY, Receiver
from tests.operators.monitor_bench import ALERTS, MINUTE, NOTICES, T0, Bench, message, result
from tests.operators.monitor_bench import signal as fired

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(180)]

LANES = 2
MODELS: dict[str, Any] = {NOTICES: NoticeMessage, DELIVERIES: DeliveryMessage, DEAD: WebhookDeadLetterMessage}


class Stage:
    """Topics on a broker, receivers, and deliverers as processes."""

    def __init__(self, bootstrap: str, folder: Path) -> None:
        self.bootstrap, self.folder = bootstrap, folder
        fresh_topics(bootstrap, LANES)
        self.producer = Producer({"bootstrap.servers": bootstrap, "partitioner": "murmur2_random"})
        self.processes: list[subprocess.Popen[str]] = []
        self.logs: dict[int, Path] = {}
        self.receivers: list[Receiver] = []
        (folder / "secret").write_text("whsec_" + base64.b64encode(KEY).decode())
        self.targets = folder / "targets.toml"

    def receiver(self, answer: Any = 204) -> Receiver:
        """Start another receiver and write the file of all of them."""
        self.receivers.append(Receiver(answer))
        self.targets.write_text(
            "".join(
                f'[[target]]\nname = "t{n}"\nurl = "{one.url}"\nsecrets = ["file:{self.folder}/secret"]\n'
                for n, one in enumerate(self.receivers)
            )
        )
        return self.receivers[-1]

    def say(self, count: int = 1, first: int = 0) -> None:
        """Publish the notices of as many accounts: a baseline and a page each."""
        bench = Bench()
        for n in range(first, first + count):
            bench.say(account=f"U{n}")
            bench.say(fired("margin_cushion_low", "act"), account=f"U{n}")
        for value, key in zip(bench.values[NOTICES], bench.keys[NOTICES], strict=True):
            self.producer.produce(NOTICES, value, key)
        assert self.producer.flush(20) == 0

    def start(self, **told: Any) -> subprocess.Popen[str]:
        argument = json.dumps({"bootstrap": self.bootstrap, "targets": str(self.targets), **told})
        return self.run([sys.executable, "-m", "tests.broker.webhook_child", argument])

    def run(self, command: list[str], **environment: str) -> subprocess.Popen[str]:
        log = self.folder / f"{len(self.processes)}.log"
        with open(log, "w") as err:
            process = subprocess.Popen(command, stderr=err, text=True, env=os.environ | environment)
        self.processes.append(process)
        self.logs[process.pid] = log
        return process

    def log(self, process: subprocess.Popen[str]) -> str:
        return self.logs[process.pid].read_text()[-3000:]

    def stop(self, process: subprocess.Popen[str]) -> None:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == EXIT_OK, self.log(process)

    def topic(self, name: str) -> list[dict[str, Any]]:
        """Return the payloads of a topic, checked against its model, partition by partition; tombstones left out."""
        reader = Consumer(
            {"bootstrap.servers": self.bootstrap, "group.id": "test", "isolation.level": "read_committed", "enable.partition.eof": True,
             "enable.auto.commit": False}
        )  # fmt: skip
        reader.assign([TopicPartition(name, lane, 0) for lane in range(LANES)])
        left, found = set(range(LANES)), []
        while left:
            for record in reader.consume(1000, 0.1):
                fault = record.error()
                if fault is None and record.value():
                    found.append(MODELS[name].model_validate_json(record.value()).payload.model_dump())
                elif fault is not None and fault.code() == KafkaError._PARTITION_EOF:
                    left.discard(record.partition())
        reader.close()
        return found

    def histories(self) -> dict[str, list[str]]:
        """Return the states each delivery went through."""
        found: dict[str, list[str]] = defaultdict(list)
        for one in self.topic(DELIVERIES):
            found[one["delivery_id"]].append(one["state"])
        return found

    def wait(self, done: Callable[[], bool], *running: subprocess.Popen[str], timeout_s: float = 90.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not done():
            told = "\n".join(f"{process.poll()}: {self.log(process)}" for process in running)
            assert time.monotonic() < deadline, told
            assert all(process.poll() is None for process in running), told
            time.sleep(0.05)

    def close(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
                process.wait()
        for receiver in self.receivers:
            receiver.close()


@pytest.fixture
def stage(kafka: str, tmp_path: Path) -> Iterator[Stage]:
    made = Stage(kafka, tmp_path)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("point", "requests", "states"),
    [
        ("before_reserve", 1, ["reserved", "accepted"]),
        ("before_send", 1, ["reserved", "interrupted_uncertain", "reserved", "accepted"]),
        ("before_record", 2, ["reserved", "interrupted_uncertain", "reserved", "accepted"]),
        ("after_record", 1, ["reserved", "accepted"]),
    ],
)
def test_kill_at_any_point_leaves_one_receipt(stage: Stage, point: str, requests: int, states: list[str]) -> None:
    receiver = stage.receiver()
    stage.say()
    first = stage.start(point=point)
    assert first.wait(60) == -signal.SIGKILL, stage.log(first)
    again = stage.start()
    stage.wait(lambda: [history[-1] for history in stage.histories().values()] == ["accepted"], again)
    stage.say(first=1)  # what comes later is delivered, and nothing is said twice
    stage.wait(lambda: len(stage.histories()) == 2 and all(h[-1] == "accepted" for h in stage.histories().values()), again)
    stage.stop(again)
    assert sorted(stage.histories().values(), key=len)[-1] == states
    assert len(receiver.ids) == requests + 1
    assert len(set(receiver.ids)) == 2
    assert receiver.bad == []
    third = stage.start()
    stage.say(first=2)
    stage.wait(lambda: len(stage.histories()) == 3 and all(h[-1] == "accepted" for h in stage.histories().values()), third)
    stage.stop(third)
    assert len(receiver.ids) == requests + 2


def test_failing_targets_hold_up_nobody_and_end_as_dead_letters(stage: Stage) -> None:
    good, stalled = stage.receiver(), stage.receiver("stall")
    for answer in (410, 302, 500):
        stage.receiver(answer)
    process = stage.start()
    stage.say(count=4)
    good.wait(4)
    stage.wait(lambda: len(stage.topic(DEAD)) == 8, process)  # the 410 and the 302; the 500 and the stalled are tried again
    assert good.bad == []
    stalled.released.set()
    stage.stop(process)
    dead = stage.topic(DEAD)
    assert {(one["target"], one["state"]) for one in dead} == {("t2", "target_disabled"), ("t3", "rejected")}
    last = {one["delivery_id"]: one for one in stage.topic(DELIVERIES)}.values()
    assert {one["state"] for one in last if one["target"] == "t0"} == {"accepted"}
    assert {one["state"] for one in last if one["target"] == "t4"} == {"retrying"}
    assert len(last) == 20


def test_the_second_deliverer_fences_the_first(stage: Stage) -> None:
    receiver = stage.receiver()
    first = stage.start()
    stage.say()
    receiver.wait(1)
    stage.wait(lambda: [history[-1] for history in stage.histories().values()] == ["accepted"], first)
    second = stage.start()
    stage.wait(lambda: "webhooks: {" in stage.log(second), second)  # it is at work
    stage.say(first=1, count=3)
    stage.wait(lambda: first.poll() is not None, second)
    assert first.returncode == EXIT_FENCED, stage.log(first)
    stage.wait(lambda: len(set(receiver.ids)) == 4, second)
    stage.stop(second)
    assert len(receiver.ids) == 4


def test_alerts_reach_the_webhook_through_the_command_and_a_killed_deliverer_comes_back(stage: Stage) -> None:
    receiver = stage.receiver()
    command = [sys.executable, "-m", "flows", "monitor", "--kafka", stage.bootstrap, "--targets", str(stage.targets)]
    process = stage.run(command, HEDGEROW_COMMIT_INTERVAL_MS="25")
    for minute, signals in enumerate(([], [fired("margin_cushion_low", "act")], [fired("margin_cushion_low", "urgent")])):
        stage.producer.produce(ALERTS, message(result(signals, as_of_ns=T0 + minute * MINUTE), seq=minute + 1), b"A1")
    stage.producer.flush()
    receiver.wait(2, 300)
    data = [body["data"] for _, body, _ in receiver.got]
    assert sorted((one["notification_seq"], one["reason"], one["severity"]) for one in data) == [
        (1, "first_notification", "act"), (2, "escalated", "urgent"),
    ]  # fmt: skip
    assert receiver.bad == []
    stage.wait(lambda: [h[-1] for h in stage.histories().values()] == ["accepted", "accepted"], process)
    assert [n["reason"] for n in stage.topic(NOTICES)] == ["baseline", "first_notification", "escalated"]
    os.kill(_child(process, "--deliver"), signal.SIGKILL)
    stage.say(first=7)
    receiver.wait(3, 120)
    stage.wait(lambda: sorted(h[-1] for h in stage.histories().values()) == ["accepted"] * 3, process)
    stage.stop(process)


def _child(process: subprocess.Popen[str], word: str) -> int:
    """Return the process id of the child that was started with this argument."""
    for task in Path(f"/proc/{process.pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            if word.encode() in Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0"):
                return int(child)
    raise AssertionError(f"no child with {word}")


def test_the_group_has_offsets_from_the_first_start(stage: Stage) -> None:
    stage.receiver()
    process = stage.start()
    reader = Consumer({"bootstrap.servers": stage.bootstrap, "group.id": GROUP})

    def committed() -> bool:
        return all(part.offset >= 0 for part in reader.committed([TopicPartition(NOTICES, lane) for lane in range(LANES)], 10))

    stage.wait(committed, process)
    reader.close()
    stage.stop(process)
