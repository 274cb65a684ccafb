"""Benchmark of commits by one transactional producer, and by two that take turns: how long a transaction takes.

Run `python -m bench.transactions`; the last line is JSON. Needs Java 17 and Maven. A transaction is what a worker's is: records for two topics of 16
partitions, the changelog's, the group's offsets. The two ways alternate within one run on one broker; the broker's first round is not counted.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]
from rich.console import Console
from rich.table import Table

from connectors.kafka_server import BrokerUnavailable, KafkaServer

LANES = 16
OUTPUTS = ("out", "audit")
VALUE = b"x" * 600
STAGES = ("records", "offsets", "commit", "all")


class Worker:
    """A member of a group with some transactional producers."""

    def __init__(self, bootstrap: str, producers: int) -> None:
        name = f"bench-{producers}"
        self.consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": name, "enable.auto.commit": False})
        self.consumer.subscribe([f"in-{producers}"])
        while not self.consumer.assignment():
            self.consumer.poll(0.1)
        self.member = self.consumer.consumer_group_metadata()
        common = {"bootstrap.servers": bootstrap, "linger.ms": 2, "retry.backoff.ms": 2, "retry.backoff.max.ms": 50}
        self.producers = [Producer(common | {"transactional.id": f"{name}.{n}"}) for n in range(producers)]
        for producer in self.producers:
            producer.init_transactions(30)
        self.offset = 0

    def transaction(self, fold_s: float) -> tuple[float, ...]:
        """Make one transaction; return its stages in ms. fold_s: pause between the first records and the last, as folding makes it."""
        producer = self.producers[self.offset % len(self.producers)]
        self.offset += 1
        began = time.perf_counter()
        producer.begin_transaction()
        for topic in OUTPUTS:
            for lane in range(LANES):
                producer.produce_batch(topic, [{"value": VALUE}, {"value": VALUE}], partition=lane)
        time.sleep(fold_s)
        for lane in range(LANES):
            producer.produce("changelog", value=VALUE, partition=lane)
        sent = time.perf_counter()
        offsets = [TopicPartition(f"in-{len(self.producers)}", lane, self.offset) for lane in range(LANES)]
        producer.send_offsets_to_transaction(offsets, self.member, 30)
        told = time.perf_counter()
        producer.commit_transaction(30)
        ended = time.perf_counter()
        self.consumer.poll(0)
        return tuple(1e3 * s for s in (sent - began, told - sent, ended - told, ended - began))


def main(argv: list[str] | None = None) -> int:
    """Time both ways in turns and print the stages' quantiles."""
    parser = argparse.ArgumentParser(prog="python -m bench.transactions", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="rounds of each way, the first not counted (5)")
    parser.add_argument("--count", type=int, default=150, metavar="N", help="transactions of a round (150)")
    parser.add_argument("--fold-ms", type=float, default=10.0, metavar="MS", help="pause between the first records and the last (10)")
    args = parser.parse_args(argv)
    if args.rounds < 2 or args.count < 1:
        parser.error("--rounds must be at least 2, --count at least 1")
    with tempfile.TemporaryDirectory(prefix="hedgerow-transactions-") as folder:
        try:
            with KafkaServer(Path(folder) / "kafka") as server:
                took = measure(server.bootstrap, args.rounds, args.count, args.fold_ms / 1e3)
        except BrokerUnavailable as error:
            parser.exit(1, f"transactions: {error}\n")
    table = Table(title=f"one transaction, ms; {args.fold_ms:g} ms of it are a pause")
    for head in ("stage", "one producer p50", "p95", "two in turn p50", "p95"):
        table.add_column(head, justify="left" if head == "stage" else "right")
    figures: dict[str, Any] = {"benchmark": "transactions", "fold_ms": args.fold_ms}
    for number, stage in enumerate(STAGES):
        quantiles = {n: np.percentile([each[number] for each in took[n]], [50, 95]) for n in (1, 2)}
        table.add_row(stage, *(f"{ms:.1f}" for n in (1, 2) for ms in quantiles[n]))
        figures[stage] = {f"{n}_{q}_ms": round(float(ms), 1) for n in (1, 2) for q, ms in zip(("p50", "p95"), quantiles[n], strict=True)}
    Console().print(table)
    print(json.dumps(figures))
    return 0


def measure(bootstrap: str, rounds: int, count: int, fold_s: float) -> dict[int, list[tuple[float, ...]]]:
    """Return the stages of every counted transaction by the number of producers."""
    topics = (*OUTPUTS, "changelog", "in-1", "in-2")
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for created in admin.create_topics([NewTopic(topic, LANES, 1) for topic in topics]).values():
        created.result()
    workers = {n: Worker(bootstrap, n) for n in (1, 2)}
    took: dict[int, list[tuple[float, ...]]] = {1: [], 2: []}
    for number in range(rounds):
        for n, worker in workers.items():
            each = [worker.transaction(fold_s) for _ in range(count)]
            took[n] += each if number else []
    for worker in workers.values():
        worker.consumer.close()
    return took


if __name__ == "__main__":
    raise SystemExit(main())
