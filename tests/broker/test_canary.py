"""The canary on a real broker: killed in the middle of commits it says every alert once, and another worker goes on where it stood."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from flows.run import FAULT_VARIABLE
from flows.settings import variable
from flows.supervisor import EXIT_OK
from flows.warm import canary_accounts
from schemas.canary import CanaryAlertMessage
from tests.conftest import fresh_topics
from tests.operators.canary_bench import ACCOUNT_TOPIC, DEFAULT, POSITION_TOPIC, account_state, message, position_state, regime_state

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(900)]

LANES = 4
ACCOUNTS = [f"U{n}" for n in range(20)]
ALERTS = "canary.alert.v1"
CUSHIONS = ("0.62", "0.30", "0.15", "0.05")


class Canary:
    """The flow's topics, its worker as a process, and what it said."""

    def __init__(self, bootstrap: str, folder: Path) -> None:
        self.bootstrap, self.folder = bootstrap, folder
        fresh_topics(bootstrap, LANES)
        self.producer = Producer({"bootstrap.servers": bootstrap, "partitioner": "murmur2_random", "linger.ms": 1})
        self.workers: list[subprocess.Popen[bytes]] = []
        self.step = 0
        self._reader = Consumer(
            {"bootstrap.servers": bootstrap, "group.id": "test", "isolation.level": "read_committed", "fetch.wait.max.ms": 10}
        )
        self._reader.assign([TopicPartition(ALERTS, lane, 0) for lane in range(LANES)])
        self.alerts: list[dict[str, Any]] = []

    def start(self, name: str = "canary-0", fault: str = "") -> subprocess.Popen[bytes]:
        environment = {
            **os.environ,
            variable("kafka"): self.bootstrap,
            variable("canary_profiles"): DEFAULT,
            **({FAULT_VARIABLE: fault} if fault else {}),
        }
        with (self.folder / f"{len(self.workers)}.log").open("wb") as log:
            words = [sys.executable, "-m", "flows", "run", "canary", "--worker", name]
            process = subprocess.Popen(words, env=environment, stdout=log, stderr=log)
        self.workers.append(process)
        return process

    def market(self, **changes: Any) -> None:
        now = time.time_ns()
        value = message("risk.regime.v1", regime_state(DEFAULT, now, **changes), now, now, "agent.regime")
        self.producer.produce("risk.regime.v1", value=value, key=b"regime|canary-default")
        self.producer.flush(20)

    def say(self) -> None:
        """Let every account be seen once more; each step all of them change what is to be said."""
        self.step += 1
        for number, name in enumerate(ACCOUNTS):
            now = time.time_ns()
            cushion = CUSHIONS[(self.step + number) % len(CUSHIONS)]
            for topic, payload in (
                (ACCOUNT_TOPIC, account_state(name, now, cushion=cushion, look_ahead_excess_liquidity=None)),
                (POSITION_TOPIC, position_state(name, now)),
            ):
                self.producer.produce(topic, value=message(topic, payload, now, f"{name}:{self.step}:{topic}"), key=name.encode())
        assert self.producer.flush(20) == 0

    def read(self) -> list[dict[str, Any]]:
        while messages := self._reader.consume(10_000, 0.2):
            for one in messages:
                assert one.error() is None
                CanaryAlertMessage.model_validate_json(one.value() or b"")
                self.alerts.append(json.loads(one.value() or b"")["payload"])
        return self.alerts

    def wait_last(self, timeout_s: float = 300) -> None:
        """Wait until the newest alert of every account is of what was said last."""
        deadline = time.monotonic() + timeout_s
        while True:
            last = {alert["account"]: alert["result"]["portfolio"]["cushion_pct"] for alert in self.read()}
            wanted = {name: float(CUSHIONS[(self.step + n) % len(CUSHIONS)]) * 100 for n, name in enumerate(ACCOUNTS)}
            if {name: round(value, 6) for name, value in last.items() if value is not None} == {n: round(v, 6) for n, v in wanted.items()}:
                return
            if time.monotonic() > deadline or all(worker.poll() is not None for worker in self.workers):
                logs = "\n".join((self.folder / f"{i}.log").read_text()[-2_000:] for i in range(len(self.workers)))
                raise AssertionError(f"after {len(self.alerts)} alerts: {last}, not {wanted}\n{logs}")
            time.sleep(0.05)

    def assert_said_once(self) -> None:
        """Each account's alerts are numbered 1, 2, 3, … and no two in a row say the same but for a heartbeat."""
        time.sleep(0.5)
        streams: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for alert in self.read():
            streams[alert["account"]].append(alert)
        assert set(streams) == set(ACCOUNTS)
        for alerts in streams.values():
            assert [alert["seq"] for alert in alerts] == list(range(1, len(alerts) + 1))
            keys = [alert["result"]["fingerprint"]["key"] for alert in alerts]
            assert all(a != b for a, b in pairwise(keys))
            assert [alert["reason"] for alert in alerts] == ["first"] + ["changed"] * (len(alerts) - 1)

    def close(self) -> None:
        for process in self.workers:
            if process.poll() is None:
                process.kill()
                process.wait()
        self._reader.close()


@pytest.fixture(scope="module")
def compiled() -> None:
    """Have the kernels in the cache, so that no worker spends its time on that."""
    canary_accounts()


@pytest.fixture
def sentinel(compiled: None, kafka: str, tmp_path: Path) -> Iterator[Canary]:
    made = Canary(kafka, tmp_path)
    yield made
    made.close()


@pytest.mark.parametrize("point", ["before_produce", "before_commit", "after_commit"])
def test_killed_in_a_commit_every_alert_is_said_once(sentinel: Canary, point: str) -> None:
    sentinel.market()
    first = sentinel.start(fault=f"{point}:3")
    deadline = time.monotonic() + 400
    while first.poll() is None:
        sentinel.say()
        time.sleep(0.2)
        assert time.monotonic() < deadline
    assert first.returncode == -signal.SIGKILL
    sentinel.say()
    again = sentinel.start()
    sentinel.wait_last()
    sentinel.say()
    sentinel.wait_last()
    before = len(sentinel.read())
    sentinel.market(red=("vix_term_structure", "vol_of_vol", "hyg_spy_divergence", "credit_spreads"), spy=-3.0, vix=25.0)
    while len(sentinel.read()) < before + len(ACCOUNTS):
        assert time.monotonic() < deadline + 100
        time.sleep(0.05)
    sentinel.assert_said_once()
    assert len(sentinel.alerts) == before + len(ACCOUNTS)
    again.send_signal(signal.SIGTERM)
    assert again.wait(60) == EXIT_OK


def test_another_worker_goes_on_where_the_first_stood(sentinel: Canary) -> None:
    sentinel.market()
    first = sentinel.start("canary-0")
    sentinel.say()
    sentinel.wait_last()
    said = len(sentinel.alerts)
    second = sentinel.start("canary-1")
    for _ in range(10):
        sentinel.say()
        time.sleep(0.3)
    sentinel.wait_last()
    first.send_signal(signal.SIGTERM)
    assert first.wait(60) == EXIT_OK
    sentinel.say()
    sentinel.wait_last()
    sentinel.assert_said_once()
    assert len(sentinel.alerts) > said
    second.send_signal(signal.SIGTERM)
    assert second.wait(60) == EXIT_OK
