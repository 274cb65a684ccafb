"""Topics on a real broker: created as the registry has them, once; every difference is told in a sentence."""

from __future__ import annotations

import time

import pytest
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, NewTopic, ResourceType

from connectors.kafka_server import BrokerUnavailable, free_port
from connectors.mock_broker import MockBroker
from connectors.topics import TopicsError, blocking_problems, check_topics, config_of, connect, create_topics, partitions_of
from schemas.registry import EXECUTION_CHANGELOG, TOPICS
from tests.conftest import fresh_topics

ACK = "order.event.ack.v1"


@pytest.mark.kafka
def test_create_topics_twice_creates_once_and_check_is_content(kafka: str) -> None:
    fresh_topics(kafka, 4)
    assert create_topics(kafka, 4) == []
    assert check_topics(kafka, 4) == []
    assert check_topics(kafka) == []
    topics = connect(kafka).list_topics(timeout=10).topics
    assert {name: len(topics[name].partitions) for name in TOPICS} == {name: partitions_of(topic, 4) for name, topic in TOPICS.items()}


@pytest.mark.kafka
def test_check_topics_tells_missing_counts_and_settings(kafka: str) -> None:
    fresh_topics(kafka, 4)
    admin = connect(kafka)
    for future in admin.delete_topics([ACK, "dlq.execution"], operation_timeout=30).values():
        future.result()
    admin.create_topics([NewTopic(ACK, 3, 1, config=config_of(TOPICS[ACK]))], operation_timeout=30)[ACK].result()
    changed = ConfigResource(
        ResourceType.TOPIC,
        EXECUTION_CHANGELOG,
        incremental_configs=[
            ConfigEntry("cleanup.policy", "compact", incremental_operation=AlterConfigOpType.SET),
            ConfigEntry("max.message.bytes", "1000", incremental_operation=AlterConfigOpType.SET),
        ],
    )
    for future in admin.incremental_alter_configs([changed]).values():
        future.result()
    blocking = [
        "topic dlq.execution is missing: `hedgerow topics create` makes it",
        f"topic {ACK} has 3 partitions, HEDGEROW_PARTITIONS is 4: co-partitioned topics need equal counts",
    ]
    expected = [
        *blocking,
        f"topic {EXECUTION_CHANGELOG}: cleanup.policy is compact, the registry has delete",
        f"topic {EXECUTION_CHANGELOG}: max.message.bytes is 1000, the registry has 2097152",
    ]
    deadline = time.monotonic() + 30  # the controller has the change, the broker takes it over a moment later
    while (told := check_topics(kafka, 4)) != expected and time.monotonic() < deadline:
        time.sleep(0.1)
    assert told == expected
    first = next(name for name, topic in TOPICS.items() if topic.lanes)
    assert blocking_problems(kafka) == [
        blocking[0],
        f"topic {ACK} has 3 partitions, {first} has 4: co-partitioned topics need equal counts",
    ]
    assert blocking_problems(kafka, names=[first]) == []
    assert create_topics(kafka, 4) == ["dlq.execution"]


@pytest.mark.kafka
def test_create_topics_more_copies_than_brokers_is_refused_with_the_reason(kafka: str) -> None:
    fresh_topics(kafka, 2)
    admin = connect(kafka)  # kept: a client that is collected takes its open requests along
    admin.delete_topics([ACK], operation_timeout=30)[ACK].result()
    with pytest.raises(TopicsError, match=rf"{ACK}: .*replication"):
        create_topics(kafka, 2, replication=3)
    create_topics(kafka, 2)


def test_changelog_config_keeps_everything() -> None:
    assert config_of(TOPICS[EXECUTION_CHANGELOG]) == {
        "cleanup.policy": "delete",
        "retention.ms": "-1",
        "retention.bytes": "-1",
        "max.message.bytes": "2097152",
    }


def test_create_topics_zero_partitions_is_refused() -> None:
    with pytest.raises(TopicsError, match="1 or more"):
        create_topics("127.0.0.1:1", 0)


def test_connect_nobody_there_names_the_setting_and_the_cause() -> None:
    with pytest.raises(BrokerUnavailable, match=r"HEDGEROW_KAFKA: no Kafka broker answers at .* within 1 s: .*refused"):
        connect(f"127.0.0.1:{free_port()}", timeout_s=1)


def test_connect_unknown_client_option_names_the_setting() -> None:
    with pytest.raises(BrokerUnavailable, match=r'HEDGEROW_KAFKA_OPTIONS: .*"no.such"'):
        connect("127.0.0.1:1", {"no.such": "1"})


def test_blocking_problems_on_the_embedded_broker_are_told() -> None:
    with MockBroker({name: partitions_of(topic, 4) for name, topic in TOPICS.items() if name != ACK}) as broker:
        assert blocking_problems(broker.bootstrap) == [f"topic {ACK} is missing: `hedgerow topics create` makes it"]
