"""The one-node broker: starts, keeps its data, is killed and restarted, does not outlive its parent; `hedgerow broker`."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient

from connectors import kafka_server
from connectors.kafka_server import BrokerUnavailable, KafkaServer, broker_answers, free_port
from connectors.topics import check_topics
from schemas.registry import TOPICS
from tests.conftest import fresh_topics, no_broker

ROOT = Path(kafka_server.__file__).parents[1]
TOPIC = "order.event.ack.v1"


def produce(bootstrap: str, values: list[bytes], transactional_id: str | None = None) -> Producer:
    config: dict[str, object] = {"bootstrap.servers": bootstrap, "acks": "all"}
    failures: list[str] = []
    if transactional_id:
        config |= {"transactional.id": transactional_id, "transaction.timeout.ms": 2000, "message.timeout.ms": 2000}
    producer = Producer(config)
    if transactional_id:
        producer.init_transactions(30)
        producer.begin_transaction()
    for value in values:
        producer.produce(TOPIC, value, partition=0, on_delivery=lambda error, _: failures.append(str(error)) if error else None)
    assert producer.flush(30) == 0
    assert not failures
    return producer


def read(bootstrap: str, count: int, timeout_s: float = 60.0) -> list[bytes]:
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "reader",
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
        }
    )
    values: list[bytes] = []
    deadline = time.monotonic() + timeout_s
    try:
        consumer.subscribe([TOPIC])
        while len(values) < count and time.monotonic() < deadline:
            values += [m.value() for m in consumer.consume(100, 0.2) if m.error() is None]
    finally:
        consumer.close()
    return values


def alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    return False


def wait_until_dead(pid: int, timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not alive(pid)


@pytest.mark.kafka
def test_kafka_server_restarted_and_crashed_keeps_acknowledged_records(kafka_server: KafkaServer) -> None:
    bootstrap = kafka_server.bootstrap
    fresh_topics(bootstrap, 2)
    produce(bootstrap, [b"1"])
    kafka_server.restart()
    assert kafka_server.bootstrap == bootstrap
    produce(bootstrap, [b"2"])
    kafka_server.restart(crash=True)
    assert read(bootstrap, 2) == [b"1", b"2"]


@pytest.mark.kafka
def test_kafka_server_abandoned_transaction_is_aborted_soon_after_its_timeout(kafka: str) -> None:
    fresh_topics(kafka, 2)
    abandoned = produce(kafka, [b"never committed"], "t-1")
    produce(kafka, [b"behind it"])
    assert read(kafka, 1) == [b"behind it"]
    del abandoned


@pytest.mark.kafka
def test_kafka_server_committed_transaction_is_read(kafka: str) -> None:
    fresh_topics(kafka, 2)
    produce(kafka, [b"a", b"b"], "t-2").commit_transaction(30)
    assert read(kafka, 2) == [b"a", b"b"]


@pytest.mark.kafka
def test_fresh_topics_with_old_records_and_group_leaves_neither(kafka: str) -> None:
    fresh_topics(kafka, 3)
    produce(kafka, [b"old"])
    assert read(kafka, 1) == [b"old"]
    fresh_topics(kafka, 5)
    assert read(kafka, 1, timeout_s=2) == []
    assert check_topics(kafka, 5) == []
    admin = AdminClient({"bootstrap.servers": kafka})
    assert len(admin.list_topics(timeout=10).topics[TOPIC].partitions) == 5
    assert set(TOPICS) <= set(admin.list_topics(timeout=10).topics)


@pytest.mark.kafka
@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux")
def test_kafka_server_parent_killed_dies_too(tmp_path: Path) -> None:
    code = (
        "import sys, time; from connectors.kafka_server import KafkaServer; k = KafkaServer(sys.argv[1]); k.start(); "
        "print(k.pid, flush=True); time.sleep(99)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "k")]
    parent = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    line = parent.stdout.readline()
    if not line:
        no_broker(BrokerUnavailable(parent.communicate()[1][-300:]))
    parent.kill()
    parent.wait()
    assert wait_until_dead(int(line), 10)


def test_find_java_without_java_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BrokerUnavailable, match=r"Java 17.*HEDGEROW_KAFKA"):
        kafka_server.find_java()


def test_find_java_too_old_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    java = tmp_path / "bin" / "java"
    java.parent.mkdir()
    java.write_text("#!/bin/sh\necho 'openjdk version \"11.0.2\"' >&2\n")
    java.chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(BrokerUnavailable, match=r"needs Java 17 or later, .* is 11"):
        kafka_server.find_java()


def test_fetch_jars_without_maven_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BrokerUnavailable, match="install Maven"):
        kafka_server.fetch_jars()


def test_fetch_jars_maven_fails_shows_its_words_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    maven = tmp_path / "mvn"
    maven.write_text("#!/bin/sh\necho 'could not resolve'\nexit 1\n")
    maven.chmod(0o755)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(BrokerUnavailable, match="could not resolve"):
        kafka_server.fetch_jars()
    assert [p.name for p in (tmp_path / "cache" / "hedgerow").iterdir()] == ["kafka.lock"]


@pytest.mark.kafka
def test_broker_command_start_status_stop_runs_one_process(tmp_path: Path) -> None:
    port = free_port()
    env = os.environ | {"XDG_STATE_HOME": str(tmp_path)}

    def hedgerow(*args: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "flows", "broker", *args]
        return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120, check=False)

    assert hedgerow("status").returncode == 1
    started = hedgerow("start", "--port", str(port))
    if started.returncode != 0:
        no_broker(BrokerUnavailable(started.stderr))
    pid = int(started.stdout.split("process ")[1].split(",")[0])
    try:
        assert f"export HEDGEROW_KAFKA=127.0.0.1:{port}" in started.stdout
        assert broker_answers(f"127.0.0.1:{port}")
        assert hedgerow("status").returncode == 0
        assert f"process {pid}" in hedgerow("start", "--port", str(port)).stdout
        refused = hedgerow("start", "--port", str(free_port()))
        assert refused.returncode == 4
        assert "already runs" in refused.stderr
        assert hedgerow("stop").returncode == 0
        assert not alive(pid)
    finally:
        if alive(pid):
            os.kill(pid, signal.SIGKILL)
    assert hedgerow("status").returncode == 1
    assert "no broker was running" in hedgerow("stop").stdout


def test_kafka_server_port_taken_says_which(tmp_path: Path) -> None:
    try:
        kafka_server.find_java()
        kafka_server.fetch_jars()
    except BrokerUnavailable as error:
        no_broker(error)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(BrokerUnavailable, match=f"port {port} .*already in use"):
            KafkaServer(tmp_path, port).start()
