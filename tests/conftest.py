"""Fixtures shared by all tests: a real Kafka broker, fresh topics. May not hold domain knowledge.

Topic names are fixed (schemas.registry), so tests that share a broker isolate themselves with `fresh_topics`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NoReturn

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]
from hypothesis import HealthCheck, settings

from connectors.kafka_server import BrokerUnavailable, KafkaServer
from connectors.topics import connect, create_topics
from schemas.registry import TOPICS

# A busy machine is no failure, and the first call of a kernel may compile it.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yield the bootstrap of a real broker: HEDGEROW_KAFKA if set, else one started here (one per xdist worker).

    Without Java or Maven the test is skipped, loudly; under CI (CI=true) it fails, because there nobody reads skips.
    """
    given = os.environ.get("HEDGEROW_KAFKA")
    if given:
        yield given
        return
    server = KafkaServer(tmp_path_factory.mktemp("kafka"))
    try:
        server.start()
    except BrokerUnavailable as error:
        no_broker(error)
    yield server.bootstrap
    server.stop()


@pytest.fixture
def kafka_server(tmp_path: Path) -> Iterator[KafkaServer]:
    """Yield a broker of this test's own, for tests that stop, kill or restart it. Ignores HEDGEROW_KAFKA."""
    server = KafkaServer(tmp_path / "kafka")
    try:
        server.start()
    except BrokerUnavailable as error:
        no_broker(error)
    yield server
    server.stop()


def no_broker(error: BrokerUnavailable) -> NoReturn:
    """Skip the test because there is no real Kafka, or fail it under CI."""
    reason = f"NOT TESTED, no real Kafka here: {error}"
    if os.environ.get("CI", "").lower() in ("1", "true"):
        pytest.fail(reason)
    pytest.skip(reason)


def fresh_topics(bootstrap: str, partitions: int = 16, timeout_s: float = 60.0) -> None:
    """Delete every registry topic and every consumer group, and create the topics again, empty, with `partitions` lanes.

    Raises when a group still has members: a test left a worker running. Returns when metadata and offsets agree that all is new.
    """
    admin = connect(bootstrap)
    deadline = time.monotonic() + timeout_s
    groups = [group.group_id for group in admin.list_consumer_groups().result().valid]
    while groups:
        left = [(name, error) for name, error in _results(admin.delete_consumer_groups(groups)) if error != KafkaError.GROUP_ID_NOT_FOUND]
        groups = [name for name, _ in left]
        if groups and time.monotonic() > deadline:
            raise RuntimeError(f"consumer groups still in use: {left}")
        time.sleep(0.1 if groups else 0)
    names = [name for name in TOPICS if name in admin.list_topics(timeout=10).topics]
    if names:
        for name, error in _results(admin.delete_topics(names, operation_timeout=30)):
            if error != KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise RuntimeError(f"{name} could not be deleted: {error}")
        while any(name in admin.list_topics(timeout=10).topics for name in names):
            if time.monotonic() > deadline:
                raise RuntimeError(f"topics are still there after deletion: {names}")
            time.sleep(0.05)
    create_topics(bootstrap, partitions)
    _wait_empty(admin, deadline)


def _results(futures: Mapping[str, Future[Any]]) -> list[tuple[str, int]]:
    """Return (name, error code) of those that failed."""
    failed = []
    for name, future in futures.items():
        try:
            future.result()
        except KafkaException as error:
            failed.append((name, error.args[0].code()))
    return failed


def _wait_empty(admin: AdminClient, deadline: float) -> None:
    parts = [
        TopicPartition(name, p) for name, topic in admin.list_topics(timeout=10).topics.items() if name in TOPICS for p in topic.partitions
    ]
    while True:
        try:
            asked = admin.list_offsets({part: OffsetSpec.latest() for part in parts}, request_timeout=10)  # type: ignore[no-untyped-call]
            if all(future.result().offset == 0 for future in asked.values()):
                return
        except KafkaException:
            pass  # a new partition's leader is not ready yet
        if time.monotonic() > deadline:
            raise RuntimeError("new topics are not empty and readable in time")
        time.sleep(0.05)
