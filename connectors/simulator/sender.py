"""Sends the simulator's messages to Kafka: paced by their due times, placed by murmur2, each one accounted for in the ledger.

May not decide what is sent. An open loop: a late send never moves the ones after it.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from typing import Any, TextIO

from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka import Message as KafkaMessage

from connectors.kafka_server import BrokerUnavailable
from connectors.simulator.messages import REPORT, Message
from schemas.registry import MAX_RECORD_BYTES

FLUSH_TIMEOUT_S = 130.0
"""A little more than librdkafka's delivery timeout: after it every message is either acknowledged or given up."""
_LONGEST_SLEEP_S = 0.05
_BY_KEY = -1
"""RD_KAFKA_PARTITION_UA: the partitioner decides."""


def murmur2(key: bytes) -> int:
    """Return the Kafka Java client's murmur2 of a key, made positive: modulo the partition count it is the key's partition."""
    h = 0x9747B28C ^ len(key)
    whole = len(key) & ~3
    for at in range(0, whole, 4):
        k = int.from_bytes(key[at : at + 4], "little") * 0x5BD1E995 & 0xFFFFFFFF
        k = (k ^ k >> 24) * 0x5BD1E995 & 0xFFFFFFFF
        h = (h * 0x5BD1E995 & 0xFFFFFFFF) ^ k
    if whole < len(key):
        h = (h ^ int.from_bytes(key[whole:], "little")) * 0x5BD1E995 & 0xFFFFFFFF
    h = (h ^ h >> 13) * 0x5BD1E995 & 0xFFFFFFFF
    return (h ^ h >> 15) & 0x7FFFFFFF


@contextlib.contextmanager
def stop_on_signals(stop: Callable[[], None]) -> Iterator[list[int]]:
    """Let SIGINT and SIGTERM call `stop`; yields the signals received, of which the second should end all at once."""
    received: list[int] = []

    def on_signal(number: int, frame: object) -> None:
        received.append(number)
        stop()

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@dataclass
class Sender:
    """A producer and its accounts. `partitions`: topic → partition count (for what goes to the wrong one on purpose).

    `ledger`: one JSON line per message that was handed to Kafka, written as it is acknowledged (`partition` and `offset` null when it never
    was; `offset` alone when Kafka has it and did not say where, as in an answer to a retry).
    `sent` counts what was handed over, `acked` what Kafka has, by topic. `behind_ns`: the most a batch was late. `rate`: reports per second
    of wall time while orders were routed.
    """

    bootstrap: str
    options: Mapping[str, Any]
    partitions: Mapping[str, int]
    ledger: TextIO | None = None
    sent: Counter[str] = field(default_factory=Counter)
    acked: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    behind_ns: int = 0
    rate: float = 0.0
    _told: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        config: dict[str, Any] = {
            "client.id": "hedgerow-simulator",
            "linger.ms": 2,
            "queue.buffering.max.messages": 500_000,
            "queue.buffering.max.kbytes": 262_144,
            "log_level": 0,
            **self.options,
            "bootstrap.servers": self.bootstrap,
            "partitioner": "murmur2_random",
            "enable.idempotence": True,  # a retry must not repeat a message the ledger has once
            "acks": "all",
            "message.max.bytes": 2 * MAX_RECORD_BYTES,
            "error_cb": self._tell,
        }
        try:
            self.producer = Producer(config)
        except (KafkaException, ValueError, TypeError) as error:
            raise BrokerUnavailable(f"HEDGEROW_KAFKA_OPTIONS: the Kafka client refuses its settings: {error}") from error

    def pace(
        self, batches: Iterable[list[Message]], start_ns: int, speed: float, over: Callable[[], bool], aborted: Callable[[], bool]
    ) -> None:
        """Send every batch when its last message is due: `start_ns` of the simulation is now, `speed` simulated seconds pass in one.

        `speed` 0 sends as fast as Kafka takes them. Returns early when `aborted()`. While not `over()`, orders are routed.
        """
        begun = time.monotonic_ns()
        opening: tuple[int, int] | None = None
        for batch in batches:
            if speed:
                due = begun + int((batch[-1].due_ns - start_ns) / speed)
                while (early := due - time.monotonic_ns()) > 0 and not aborted():
                    self.producer.poll(0)
                    time.sleep(min(early / 1e9, _LONGEST_SLEEP_S))
                self.behind_ns = max(self.behind_ns, time.monotonic_ns() - due)
            if aborted():
                return
            self.send(batch)
            if self.sent[REPORT] and not over():
                opening = opening or (time.monotonic_ns(), self.sent[REPORT])
                elapsed = time.monotonic_ns() - opening[0]
                self.rate = (self.sent[REPORT] - opening[1]) * 1e9 / elapsed if elapsed else 0.0

    def send(self, batch: list[Message]) -> None:
        """Hand a batch to the producer; waits while its queue is full."""
        groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
        for message in batch:
            record: dict[str, Any] = {"key": message.key, "value": message.value}
            if self.ledger is not None:
                record["callback"] = partial(self._record, message)
            partition = _BY_KEY
            if message.misrouted:
                partition = (murmur2(message.key) + 1) % self.partitions[message.topic]
            groups.setdefault((message.topic, partition), []).append(record)
        # One call per partition: confluent-kafka 2.16 ignores the partition given with a single message (tried on the mock cluster).
        for (topic, partition), records in groups.items():
            waiting = records
            while waiting:
                self.producer.produce_batch(topic, waiting, partition, on_delivery=self._count)
                refused = [r for r in waiting if "_error" in r]
                for record in refused:
                    error = record.pop("_error")
                    code = error.code() if isinstance(error, KafkaError) else None
                    if code != KafkaError._QUEUE_FULL:
                        raise BrokerUnavailable(f"topic {topic}: the Kafka client refuses a message: {error}")
                waiting = refused
                if waiting:
                    self.producer.poll(0.01)
            self.sent[topic] += len(records)
        self.producer.poll(0)

    def close(self, timeout_s: float = FLUSH_TIMEOUT_S) -> int:
        """Wait for what is under way, give up what is not delivered by then, and return how many messages Kafka does not have."""
        if self.producer.flush(timeout_s):
            self.producer.purge()
            self.producer.flush(1.0)
        if self.ledger is not None:
            self.ledger.flush()
        return sum(self.sent.values()) - sum(self.acked.values())

    def _tell(self, error: KafkaError) -> None:
        """Pass on what ails the connection, each thing once."""
        name = str(error.name())
        if name not in self._told:
            self._told.add(name)
            print(f"hedgerow: Kafka: {error.str()}", file=sys.stderr)

    def _count(self, error: KafkaError | None, record: KafkaMessage) -> None:
        if error is None:
            self.acked[record.topic() or ""] += 1
        else:
            self.errors[str(error.name())] += 1

    def _record(self, message: Message, error: KafkaError | None, record: KafkaMessage) -> None:
        self._count(error, record)
        assert self.ledger is not None
        place = (None, None) if error is not None else (record.partition(), record.offset())
        partition, offset = ("null" if number is None else number for number in place)
        self.ledger.write(
            f'{{"topic":"{message.topic}","partition":{partition},"offset":{offset},"key":"{message.key.decode()}","sha256":"{sha256(message.value).hexdigest()}",'
            f'"due_ns":{message.due_ns},"kind":"{message.kind}","order":"{message.order}","fault":"{message.fault}"}}\n'
        )
