"""Creates and checks the topics of schemas.registry on a Kafka cluster.

May not define a topic or alter one that exists: the registry defines, people alter. Settings follow Kafka's topic configuration reference.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, ClusterMetadata, ConfigResource, NewTopic, ResourceType  # type: ignore[attr-defined]

from connectors.kafka_server import BrokerUnavailable
from schemas.registry import TOPICS, Topic

DEFAULT_PARTITIONS = 16
CONNECT_TIMEOUT_S = 8.0
"""Unreachable brokers are told of within 10 s, start-up included."""
REQUEST_TIMEOUT_S = 30.0


class TopicsError(RuntimeError):
    """The cluster refused to create or describe topics; the message says which and why."""


def partitions_of(topic: Topic, partitions: int) -> int:
    """Return how many partitions `topic` gets when the flows have `partitions` lanes."""
    return partitions if topic.lanes or topic.partitions is None else topic.partitions


def config_of(topic: Topic) -> dict[str, str]:
    """Return the topic's Kafka configuration: what is created, and what `check_topics` compares."""
    # A changelog ("offset") keeps everything; its flow deletes what it no longer needs by offset (delete_records).
    kept_for_ever = topic.cleanup in ("offset", "compact")
    return {
        "cleanup.policy": "compact" if topic.cleanup == "compact" else "delete",
        "retention.ms": "-1" if kept_for_ever else str(topic.retention_ms),
        "retention.bytes": "-1",
        "max.message.bytes": str(topic.max_message_bytes),
    }


def connect(bootstrap: str, client_config: Mapping[str, Any] | None = None, timeout_s: float = CONNECT_TIMEOUT_S) -> AdminClient:
    """Return an admin client that has reached the cluster; raise BrokerUnavailable naming HEDGEROW_KAFKA after `timeout_s`."""
    told: list[str] = []
    config = {"log_level": 0, **(client_config or {}), "bootstrap.servers": bootstrap, "error_cb": lambda error: told.append(error.str())}
    try:
        admin = AdminClient(config)
    except (KafkaException, ValueError, TypeError) as error:
        raise BrokerUnavailable(f"HEDGEROW_KAFKA_OPTIONS: the Kafka client refuses its settings: {_reason(error)}") from error
    try:
        admin.list_topics(timeout=timeout_s)
    except KafkaException as error:
        admin.poll(0)  # serves error_cb: the connection's own words say more than "timed out"
        cause = next((text for text in told if "brokers are down" not in text), _reason(error))
        raise BrokerUnavailable(f"HEDGEROW_KAFKA: no Kafka broker answers at {bootstrap} within {timeout_s:.0f} s: {cause}") from error
    return admin


def create_topics(
    bootstrap: str,
    partitions: int = DEFAULT_PARTITIONS,
    replication: int = 1,
    client_config: Mapping[str, Any] | None = None,
    names: Collection[str] | None = None,
) -> list[str]:
    """Create the registry's topics that are missing and return their names; those that exist are left as they are.

    partitions: lanes, the partition count of every co-partitioned topic. replication: copies of each partition.
    names: only these (default: all). Returns when every one is visible with a leader.
    Raises BrokerUnavailable (not reachable) or TopicsError (refused).
    """
    if partitions < 1 or replication < 1:
        raise TopicsError(f"partitions and replication must be 1 or more, not {partitions} and {replication}")
    admin = connect(bootstrap, client_config)
    wanted = {name: TOPICS[name] for name in (TOPICS if names is None else names)}
    there = _describe(admin).topics
    # With copies, a write counts once all but one of them have it: one broker may be down and nothing acknowledged is lost.
    in_sync = {"min.insync.replicas": str(max(1, replication - 1))}
    new = [
        NewTopic(name, partitions_of(topic, partitions), replication, config=config_of(topic) | in_sync)
        for name, topic in wanted.items()
        if name not in there
    ]
    if not new:
        return []
    created, refused = [], []
    for name, future in admin.create_topics(new, operation_timeout=REQUEST_TIMEOUT_S, request_timeout=REQUEST_TIMEOUT_S).items():
        try:
            future.result()
            created.append(name)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                refused.append(f"{name}: {_reason(error)}")
    if refused:
        raise TopicsError("the cluster refused to create " + "; ".join(refused))
    wait_for_topics(admin, wanted)
    return created


def wait_for_topics(admin: AdminClient, names: Collection[str], timeout_s: float = REQUEST_TIMEOUT_S) -> None:
    """Return when every named topic is visible and every partition has a leader; raise TopicsError after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while True:
        topics = _describe(admin).topics
        waiting = [n for n in names if n not in topics or topics[n].error or any(p.leader < 0 for p in topics[n].partitions.values())]
        if not waiting:
            return
        if time.monotonic() > deadline:
            raise TopicsError(f"no leader within {timeout_s:.0f} s for {', '.join(sorted(waiting))}")
        time.sleep(0.05)


def check_topics(
    bootstrap: str,
    partitions: int | None = None,
    client_config: Mapping[str, Any] | None = None,
    names: Collection[str] | None = None,
) -> list[str]:
    """Compare the cluster's topics with the registry; return one sentence per problem, none when all is well.

    partitions: lanes expected; None: what the first co-partitioned topic has. names: only these (default: all).
    Raises BrokerUnavailable (not reachable) or TopicsError (may not describe).
    """
    admin = connect(bootstrap, client_config)
    problems, found = _blocking(admin, partitions, names)
    return problems + _config_problems(admin, {name: TOPICS[name] for name in found})


def blocking_problems(
    bootstrap: str,
    client_config: Mapping[str, Any] | None = None,
    names: Collection[str] | None = None,
    partitions: int | None = None,
) -> list[str]:
    """Return only the problems with which no flow can run: topics missing, co-partitioned topics of unequal counts.

    names: only these (default: all). partitions: lanes expected; None: as many as the first co-partitioned topic has.
    Raises BrokerUnavailable (not reachable).
    """
    return _blocking(connect(bootstrap, client_config), partitions, names)[0]


def _blocking(admin: AdminClient, partitions: int | None, names: Collection[str] | None) -> tuple[list[str], list[str]]:
    """Return the problems with existence and counts, and the names of the topics that are there."""
    wanted = {name: TOPICS[name] for name in (TOPICS if names is None else names)}
    there = {name: meta for name, meta in _describe(admin).topics.items() if meta.error is None}
    found = {name: len(there[name].partitions) for name in wanted if name in there}
    problems = [f"topic {name} is missing: `hedgerow topics create` makes it" for name in wanted if name not in there]
    lane_counts = {name: count for name, count in found.items() if wanted[name].lanes}
    first = next(iter(lane_counts), "")
    for name, count in lane_counts.items():
        expected, whose = (partitions, "HEDGEROW_PARTITIONS is") if partitions else (lane_counts[first], f"{first} has")
        if count != expected:
            problems.append(f"topic {name} has {count} partitions, {whose} {expected}: co-partitioned topics need equal counts")
    return problems, list(found)


def _config_problems(admin: AdminClient, topics: Mapping[str, Topic]) -> list[str]:
    if not topics:
        return []
    problems = []
    asked = admin.describe_configs([ConfigResource(ResourceType.TOPIC, name) for name in topics], request_timeout=REQUEST_TIMEOUT_S)
    for resource, future in asked.items():
        try:
            told = future.result()
        except KafkaException as error:
            raise TopicsError(f"the settings of {resource.name} cannot be read: {_reason(error)}") from error
        for setting, expected in config_of(topics[resource.name]).items():
            actual = told[setting].value if setting in told else None
            if actual is not None and _normal(actual) != _normal(expected):
                problems.append(f"topic {resource.name}: {setting} is {actual}, the registry has {expected}")
    return problems


def _normal(value: str) -> str:
    return ",".join(sorted(part.strip() for part in value.split(",")))


def _describe(admin: AdminClient) -> ClusterMetadata:
    try:
        return admin.list_topics(timeout=CONNECT_TIMEOUT_S)
    except KafkaException as error:
        raise BrokerUnavailable(f"HEDGEROW_KAFKA: the broker stopped answering: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    cause = error.args[0] if error.args else error
    return str(cause.str()) if isinstance(cause, KafkaError) else str(cause)
