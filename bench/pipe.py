"""A pipe with the execution flow's inputs, outputs and guarantee and nothing in between: what Kafka, its client and the machine cost by themselves.

`python -m bench.latency --pipe` starts it in the place of a worker: a member of its group that reads the inputs by lane (not the quotes), and for each
record publishes as many bytes as a worker does, in transactions with offsets, by two producers that take turns. It folds and keeps nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import time
from concurrent.futures import Future, ThreadPoolExecutor

from confluent_kafka import Consumer, Message, Producer, TopicPartition

from bench.load import BOOK, EXEC_DIGITS, EXEC_MARK, FILL, REPORT
from schemas.registry import EXECUTION_CHANGELOG, EXECUTION_INPUTS

AUDIT = "audit.event.execution"
FILL_BYTES, AUDIT_BYTES, CHANGE_BYTES = 1_143, 762, 1_859
"""What the execution flow makes of a report of `bench.load`: its fill, its audit record, the change of the state (30 reports a commit)."""
CHANGE_MOST = 900_000
"""One record of a lane's change, as librdkafka takes it; what is beyond that is left out."""
POLL_S = 0.002
TIMEOUT_S = 30.0


class Pipe:
    """One member of the group and its two producers; `run` until stopped."""

    def __init__(self, bootstrap: str, options: dict[str, str], fetch_ms: int, commit_ms: float) -> None:
        common = {**options, "bootstrap.servers": bootstrap}
        self._commit_s = commit_ms / 1e3
        self._consumer = Consumer(
            {
                **common, "group.id": "hedgerow-execution", "group.instance.id": "hedgerow-execution-execution-0",
                "partition.assignment.strategy": "range", "isolation.level": "read_committed", "enable.auto.commit": False,
                "auto.offset.reset": "earliest", "session.timeout.ms": 6_000, "fetch.min.bytes": 65_536, "fetch.wait.max.ms": fetch_ms,
                "fetch.queue.backoff.ms": 5,
            }
        )  # fmt: skip
        self._consumer.subscribe(list(EXECUTION_INPUTS))
        settings = {"compression.type": "lz4", **common, "linger.ms": 2, "retry.backoff.ms": 2, "retry.backoff.max.ms": 50}
        self._producers = [Producer(settings | {"transactional.id": f"pipe-{n}", "partitioner": "murmur2_random"}) for n in (0, 1)]
        for producer in self._producers:
            producer.init_transactions(TIMEOUT_S)
        self._waiting: list[list[Message]] = []
        """Polls whose records nobody has published: the transaction before may still be on its way."""
        self._at: dict[tuple[str, int], int] = {}
        self._changed: dict[int, int] = {}
        """Bytes of the change of each lane in the open transaction."""
        self.stopped = False

    def run(self) -> None:
        """Read, publish and commit until `stopped`."""
        filling, open_, began = 0, False, time.monotonic()
        commit: Future[None] | None = None
        with ThreadPoolExecutor(1) as pool:
            while not self.stopped:
                first = self._consumer.poll(POLL_S)
                if first is not None:
                    self._waiting.append([first, *self._consumer.consume(10_000, 0)])
                if commit is not None:
                    if not commit.done():
                        continue
                    commit.result()
                    commit = None
                producer = self._producers[filling]
                if self._waiting and not open_:
                    producer.begin_transaction()
                    open_ = True
                for messages in self._waiting:
                    self._publish(producer, messages)
                self._waiting = []
                if open_ and time.monotonic() - began >= self._commit_s:
                    began, open_, filling = time.monotonic(), False, 1 - filling
                    commit = pool.submit(self._commit, producer, self._at, self._changed, self._consumer.consumer_group_metadata())
                    self._at, self._changed = {}, {}
            if commit is not None:
                commit.result()
        self._consumer.unsubscribe()
        self._consumer.consume(1, 0.2)
        self._consumer.close()

    def _publish(self, producer: Producer, messages: list[Message]) -> None:
        fills, audits, now_ns = [], dict[int, list[dict[str, bytes]]](), time.time_ns()
        for message in messages:
            topic, lane, offset, value = message.topic(), message.partition(), message.offset(), message.value() or b""
            if message.error() is not None or topic is None or lane is None or offset is None:
                continue
            self._at[topic, lane] = offset + 1
            if topic == REPORT:
                at = value.find(EXEC_MARK)
                told = b'{"ts_ns":%d,%s"' % (now_ns, value[at : at + len(EXEC_MARK) + EXEC_DIGITS])
                fills.append({"value": told + value[: FILL_BYTES - len(told)], "key": BOOK})
                self._changed[lane] = self._changed.get(lane, 0) + CHANGE_BYTES
            audits.setdefault(lane, []).append({"value": value[:AUDIT_BYTES]})
        if fills:
            producer.produce_batch(FILL, fills)
        for lane, records in audits.items():
            producer.produce_batch(AUDIT, records, partition=lane)
        producer.poll(0)

    @staticmethod
    def _commit(producer: Producer, at: dict[tuple[str, int], int], changed: dict[int, int], member: object) -> None:
        for lane, size in changed.items():
            # numbers press less well than text: half of it is taken for noise
            size = min(size, CHANGE_MOST) // 2
            producer.produce(EXECUTION_CHANGELOG, value=os.urandom(size) + bytes(size), partition=lane)
        producer.send_offsets_to_transaction([TopicPartition(*where, after) for where, after in at.items()], member, TIMEOUT_S)
        producer.commit_transaction(TIMEOUT_S)


def main(argv: list[str] | None = None) -> None:
    """Run a pipe on HEDGEROW_KAFKA until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m bench.pipe", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--fetch-ms", type=int, default=5, metavar="MS", help="how long a fetch waits for records to gather (5)")
    parser.add_argument("--commit-ms", type=float, default=10.0, metavar="MS", help="least time between two commits (10)")
    args = parser.parse_args(argv)
    options = json.loads(os.environ.get("HEDGEROW_KAFKA_OPTIONS") or "{}")
    pipe = Pipe(os.environ["HEDGEROW_KAFKA"], options, args.fetch_ms, args.commit_ms)

    def stop(number: int, frame: object) -> None:
        pipe.stopped = True

    signal.signal(signal.SIGTERM, stop)
    pipe.run()


if __name__ == "__main__":
    main()
