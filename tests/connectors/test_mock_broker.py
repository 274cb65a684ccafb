"""The embedded broker: chosen partition counts, groups and transactional producers of other processes, clean stop."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient

from connectors import mock_broker
from connectors.kafka_server import broker_answers
from connectors.mock_broker import MockBroker

ROOT = Path(mock_broker.__file__).parents[1]

OTHER_PROCESS = """
import json, sys
from confluent_kafka import Consumer, Producer

bootstrap = sys.argv[1]
producer = Producer({"bootstrap.servers": bootstrap, "transactional.id": "w-0", "partitioner": "murmur2_random"})
producer.init_transactions(20)
consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "g", "group.instance.id": "g-0", "auto.offset.reset": "earliest",
                     "enable.auto.commit": False, "partition.assignment.strategy": "range", "isolation.level": "read_committed"})
consumer.subscribe(["in"])
seen = 0
while seen < 30:
    for message in consumer.consume(100, 0.2):
        assert message.error() is None, message.error()
        if not seen:
            producer.begin_transaction()
        producer.produce("out", message.value().upper(), partition=message.partition())
        seen += 1
producer.send_offsets_to_transaction(consumer.position(consumer.assignment()), consumer.consumer_group_metadata())
producer.commit_transaction(20)
print(json.dumps(sorted(p.partition for p in consumer.assignment())))
consumer.close()
"""


def test_mock_broker_topics_have_the_chosen_partition_counts() -> None:
    with MockBroker({"in": 3, "changelog": 16}) as broker:
        assert broker.bootstrap.startswith("127.0.0.1:")
        topics = AdminClient({"bootstrap.servers": broker.bootstrap}).list_topics(timeout=10).topics
        assert {name: len(topic.partitions) for name, topic in topics.items()} == {"in": 3, "changelog": 16}


def test_mock_broker_group_and_transaction_of_another_process_pass_records_through() -> None:
    with MockBroker({"in": 3, "out": 3}) as broker:
        producer = Producer({"bootstrap.servers": broker.bootstrap})
        for number in range(30):
            producer.produce("in", f"r{number}".encode(), partition=number % 3)
        assert producer.flush(20) == 0
        command = [sys.executable, "-c", OTHER_PROCESS, broker.bootstrap]
        other = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
        assert other.returncode == 0, other.stderr
        assert json.loads(other.stdout) == [0, 1, 2]
        consumer = Consumer({"bootstrap.servers": broker.bootstrap, "group.id": "reader", "auto.offset.reset": "earliest"})
        consumer.subscribe(["out"])
        values: dict[int, list[bytes]] = {}
        while sum(map(len, values.values())) < 30:
            for message in consumer.consume(100, 0.2):
                assert message.error() is None
                values.setdefault(message.partition(), []).append(message.value())
        consumer.close()
        assert values == {lane: [f"R{number}".encode() for number in range(lane, 30, 3)] for lane in range(3)}


def test_mock_broker_stopped_does_not_answer_and_another_can_start() -> None:
    with MockBroker({"in": 1}) as broker:
        assert broker_answers(broker.bootstrap)
        with MockBroker({"in": 2}) as second:
            assert second.bootstrap != broker.bootstrap
    assert not broker_answers(broker.bootstrap, 1.0)
    broker.stop()


def test_mock_broker_zero_partitions_is_refused() -> None:
    with pytest.raises(ValueError, match="topic in: 0 partitions"):
        MockBroker({"in": 0})
