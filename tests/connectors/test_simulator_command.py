"""`hedgerow simulate` on the embedded broker: what is sent is what the ledger says, where murmur2 says."""

from __future__ import annotations

import argparse
import hashlib
import json
import signal
import threading
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import Consumer, TopicPartition

import schemas
from connectors.mock_broker import MockBroker
from connectors.simulator import command
from connectors.simulator.messages import REPORT
from connectors.simulator.sender import murmur2
from connectors.topics import TopicsError

PARTITIONS = 3


def arguments(bootstrap: str, *words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    args = parser.parse_args(words)
    reference = Path(schemas.__path__[0]) / "simulation.toml"
    args.settings = SimpleNamespace(bootstrap=bootstrap, reference=reference, client_config=dict)
    return args


def read_all(bootstrap: str) -> dict[tuple[str, int, int], tuple[bytes, bytes]]:
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "check", "enable.auto.commit": False})
    found = {}
    try:
        places = [TopicPartition(topic, partition, 0) for topic in command.TOPICS for partition in range(PARTITIONS)]
        expected = sum(consumer.get_watermark_offsets(place, timeout=10)[1] for place in places)
        consumer.assign(places)
        while len(found) < expected:
            for m in consumer.consume(1_000, timeout=0.5):
                assert m.error() is None
                found[m.topic(), m.partition(), m.offset()] = (m.key() or b"", m.value() or b"")
    finally:
        consumer.close()
    return found


def last_line(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    return dict(json.loads(capsys.readouterr().out.splitlines()[-1]))


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_murmur2_known_keys_hash_as_in_the_java_client(key: bytes, expected: int) -> None:
    assert murmur2(key) == expected & 0x7FFFFFFF


def test_simulate_sends_what_the_ledger_says_where_murmur2_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ledger = tmp_path / "ledger.ndjson"
    with MockBroker(dict.fromkeys(command.TOPICS, PARTITIONS)) as broker:
        words = ("--count", "2000", "--speed", "0", "--faults", "all,misrouted=0.05,oversize=0,hostile_depth=0", "--ledger", str(ledger))
        assert command.run(arguments(broker.bootstrap, *words)) == 0
        found = read_all(broker.bootstrap)
    closing = last_line(capsys)
    rows = [json.loads(line) for line in ledger.read_text().splitlines()]
    assert len(rows) == len(found) == sum(closing["sent"].values())
    assert closing["undelivered"] == 0
    assert closing["sent"][REPORT] >= 2_000
    misrouted = 0
    for row in rows:
        key, value = found[row["topic"], row["partition"], row["offset"]]
        assert key.decode() == row["key"]
        assert hashlib.sha256(value).hexdigest() == row["sha256"]
        astray = row["partition"] != murmur2(key) % PARTITIONS
        assert astray == ("misrouted" in row["fault"])
        misrouted += astray
    assert misrouted == closing["faults"]["misrouted"] > 0
    assert Counter(row["topic"] for row in rows) == Counter(closing["sent"])


def test_simulate_paced_run_keeps_to_real_time_and_tells_each_topic(capsys: pytest.CaptureFixture[str]) -> None:
    with MockBroker(dict.fromkeys(command.TOPICS, PARTITIONS)) as broker:
        assert command.run(arguments(broker.bootstrap, "--rate", "300", "--seconds", "0.5", "--life", "0.05")) == 0
    out = capsys.readouterr().out
    assert all(f"topic {topic} " in out for topic in command.TOPICS)
    assert json.loads(out.splitlines()[-1])["faults"] == {}


def test_simulate_interrupted_stops_routing_and_finishes(capsys: pytest.CaptureFixture[str]) -> None:
    with MockBroker(dict.fromkeys(command.TOPICS, PARTITIONS)) as broker:
        timer = threading.Timer(1.5, signal.raise_signal, (signal.SIGINT,))
        timer.start()
        try:
            assert command.run(arguments(broker.bootstrap, "--rate", "300", "--life", "0.05")) == 0
        finally:
            timer.cancel()
    closing = last_line(capsys)
    assert closing["stopped"] is True
    assert closing["sent"][REPORT] > 0


def test_simulate_missing_topic_says_how_to_make_it() -> None:
    with (
        MockBroker({REPORT: PARTITIONS}) as broker,
        pytest.raises(TopicsError, match=r"order\.intent\.route\.v1 is missing: `hedgerow topics create`"),
    ):
        command.run(arguments(broker.bootstrap, "--seconds", "1"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--rate", "0"), "rate must be above 0"),
        (("--seconds", "-1"), "--seconds must be above 0"),
        (("--count", "0"), "--count must be 1 or more"),
        (("--speed", "0"), "needs --seconds or --count"),
        (("--seed", "-1"), "seed must be"),
        (("--seconds", "1", "--ledger", "/nonexistent/ledger"), "--ledger /nonexistent/ledger"),
    ],
)
def test_simulate_bad_arguments_give_one_line_and_code_2(words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with MockBroker(dict.fromkeys(command.TOPICS, PARTITIONS)) as broker:
        assert command.run(arguments(broker.bootstrap, *words)) == 2
    err = capsys.readouterr().err
    assert said in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [(("--hedging", "--crash"), "--crash"), (("--hedging", "--out", "x"), "--out"), (("--hedging", "--seconds", "3"), "--seconds")],
)
def test_simulate_hedging_goes_with_nothing_else(words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.run(arguments("127.0.0.1:1", *words)) == 2
    assert said in capsys.readouterr().err
