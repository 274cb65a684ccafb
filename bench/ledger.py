"""What really is in the topics, read from the broker as any read_committed consumer would, and what the simulator says it sent.

Reads only and judges nothing; bench/verdict.py compares. Kafka's own rules: offsets have holes where transactions end.
"""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from confluent_kafka import OFFSET_BEGINNING, Consumer, IsolationLevel, KafkaError, Message, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]

Place = tuple[str, int]
"""(topic, partition)."""

_QUIET_S = 30.0
"""A read that brings nothing for so long is given up."""


class ReadError(RuntimeError):
    """A topic cannot be read to its end; the message says which and why."""


class Record(NamedTuple):
    """One record as a consumer sees it."""

    offset: int
    key: bytes
    value: bytes


@dataclass
class Cluster:
    """How to reach the broker. `options`: further librdkafka settings. Can be sent to other processes."""

    bootstrap: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def admin(self) -> AdminClient:
        """The admin client; kept, because the answers of one that is gone never come."""
        # strategy: the default loses the coordinators when the only broker is restarted (connectors/kafka.py)
        settings = {"log_level": 0, "metadata.recovery.strategy": "none", **self.options, "bootstrap.servers": self.bootstrap}
        return AdminClient(settings)

    def renew(self) -> None:
        """Let the admin client go; the next question makes a new one. To be called before the only broker is stopped."""
        self.__dict__.pop("admin", None)

    def __reduce__(self) -> tuple[Any, ...]:
        return Cluster, (self.bootstrap, self.options)

    def places(self, topics: Collection[str]) -> list[Place]:
        """Return every partition of the topics."""
        there = self.admin.list_topics(timeout=10.0).topics
        return [(topic, partition) for topic in topics for partition in sorted(there[topic].partitions)]

    def ends(self, places: Collection[Place], committed: bool = False) -> dict[Place, int]:
        """Return the end offset of every partition; `committed`: up to the first transaction that is still open."""
        level = IsolationLevel.READ_COMMITTED if committed else IsolationLevel.READ_UNCOMMITTED
        asked = {TopicPartition(*place): OffsetSpec.latest() for place in places}  # type: ignore[no-untyped-call]
        answers = self.admin.list_offsets(asked, isolation_level=level, request_timeout=10)
        return {(part.topic, part.partition): answer.result(20).offset for part, answer in answers.items()}

    def read(self, places: Collection[Place]) -> Iterator[tuple[Place, Record]]:
        """Yield every committed record of some partitions, up to where they end now; in offset order within each. Raises ReadError."""
        for message in self._consume(dict.fromkeys(places, OFFSET_BEGINNING), lambda _: False):
            place = (message.topic() or "", message.partition() or 0)
            yield place, Record(message.offset() or 0, message.key() or b"", message.value() or b"")

    def read_lane(self, topics: Collection[str], lane: int) -> dict[str, list[Record]]:
        """Return every committed record of one partition number of some topics."""
        found: dict[str, list[Record]] = {topic: [] for topic in topics}
        for (topic, _), record in self.read([(topic, lane) for topic in topics]):
            found[topic].append(record)
        return found

    def stamps(self, topic: str) -> dict[int, list[int]]:
        """Return the timestamps (ms) of every committed record of a topic: partition → in offset order. Raises ReadError."""
        places = self.places([topic])
        found: dict[int, list[int]] = {partition: [] for _, partition in places}
        for message in self._consume(dict.fromkeys(places, OFFSET_BEGINNING), lambda _: False):
            found[message.partition() or 0].append(message.timestamp()[1])
        return found

    def first_after(self, starts: Mapping[Place, int]) -> dict[Place, int]:
        """Return the offset of the first committed record at or after `starts` in each partition that has one. Raises ReadError."""
        found: dict[Place, int] = {}
        for message in self._consume(starts, lambda place: place in found):
            found.setdefault((message.topic() or "", message.partition() or 0), message.offset() or 0)
        return found

    def _consume(self, starts: Mapping[Place, int], enough: Callable[[Place], bool]) -> Iterator[Message]:
        """Yield messages until every partition is at its end, or `enough` was read of it."""
        names = ", ".join(f"{topic}[{partition}]" for topic, partition in starts)
        consumer = Consumer(
            {
                "log_level": 0,
                "queued.max.messages.kbytes": 32_768,
                "fetch.message.max.bytes": 8_388_608,
                "fetch.wait.max.ms": 10,
                **self.options,
                "bootstrap.servers": self.bootstrap,
                "group.id": "hedgerow-acceptance-reader",
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "auto.offset.reset": "earliest",
                "isolation.level": "read_committed",
                "enable.partition.eof": True,
            }
        )
        left = set(starts)
        try:
            consumer.assign([TopicPartition(*place, start) for place, start in starts.items()])
            heard = time.monotonic()
            while left:
                for message in consumer.consume(10_000, 0.05):
                    heard = time.monotonic()
                    error = message.error()
                    place = (message.topic() or "", message.partition() or 0)
                    if error is None:
                        yield message
                        if enough(place):
                            left.discard(place)
                    elif error.code() == KafkaError._PARTITION_EOF:
                        left.discard(place)
                    elif not error.retriable():
                        raise ReadError(f"{names}: {error.str()}")
                if time.monotonic() - heard > _QUIET_S:
                    raise ReadError(f"{names} could not be read to the end: nothing came for {_QUIET_S:.0f} s")
        finally:
            consumer.close()


class Sent(NamedTuple):
    """One message as the simulator's ledger has it."""

    sha256: bytes
    fault: str


@dataclass
class SimulatorLedger:
    """What the simulator sent: by partition, offset → message. `undelivered`: messages Kafka never acknowledged.

    `unplaced`: by partition, SHA-256 of messages Kafka has without having said at which offset, and how often.
    """

    sent: dict[Place, dict[int, Sent]]
    undelivered: int
    unplaced: dict[Place, Counter[bytes]] = field(default_factory=dict)

    def of_lane(self, topics: Collection[str], lane: int) -> dict[str, dict[int, Sent]]:
        """Return what was sent to one partition number of some topics."""
        return {topic: self.sent.get((topic, lane), {}) for topic in topics}


def read_ledger(*paths: Path) -> SimulatorLedger:
    """Read the files `hedgerow simulate --ledger` wrote. Raises ValueError when one place was told twice."""
    sent: dict[Place, dict[int, Sent]] = defaultdict(dict)
    undelivered = 0
    unplaced: dict[Place, Counter[bytes]] = defaultdict(Counter)
    for path in paths:
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                told = json.loads(line)
                if told["partition"] is None:
                    undelivered += 1
                    continue
                if told["offset"] is None:
                    unplaced[told["topic"], told["partition"]][bytes.fromhex(told["sha256"])] += 1
                    continue
                place = sent[told["topic"], told["partition"]]
                if told["offset"] in place:
                    raise ValueError(f"{path}: {told['topic']}[{told['partition']}] offset {told['offset']} is there twice")
                place[told["offset"]] = Sent(bytes.fromhex(told["sha256"]), told["fault"])
    return SimulatorLedger(dict(sent), undelivered, dict(unplaced))
