"""Makes a broker that was just started as fast as it gets, before anything is timed.

A JVM runs its code slowly until its compilers are through with it, and while they work they take processor time from what is measured. So the broker
is given what flows give it (transactions over many partitions, single records, readers that wait) until its compilers rest. A broker somebody else runs
is left alone.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from confluent_kafka import Consumer, KafkaException, Producer
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from bench.driver import say
from bench.stages import parse_stat
from bench.transactions import LANES, OUTPUTS, VALUE, Worker

TOPICS = (*OUTPUTS, "changelog", "in-2")
LOOK_S = 5.0
RESTS_AT = 0.1
"""Share of a core below which the compilers rest; twice in a row."""
MOST_S = 180.0
RECORDS_PER_S = 2_000


def child_java() -> int | None:
    """Return the process id of the broker this process started, if it did."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError, ValueError):
            name, fields = parse_stat((folder / "stat").read_text())
            if int(fields[1]) == os.getpid() and name == "java":
                return int(folder.name)
    return None


def compiler_s(pid: int) -> float:
    """Return the processor time a JVM's compiler threads have had, as far as they still live."""
    ticks = 0
    for stat in Path(f"/proc/{pid}/task").glob("*/stat"):
        with contextlib.suppress(OSError, IndexError, ValueError):
            name, fields = parse_stat(stat.read_text())
            if name.startswith(("C1 Compiler", "C2 Compiler")):
                ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def warm_broker(bootstrap: str) -> None:
    """Work the broker this process started until its compilers rest, `MOST_S` at most, and say how long it took."""
    pid = child_java()
    if pid is None:
        return
    began = time.monotonic()
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for created in admin.create_topics([NewTopic(topic, LANES, 1) for topic in TOPICS]).values():
        created.result(30)
    stop = threading.Event()
    failures: list[BaseException] = []
    threads = [threading.Thread(target=_kept, args=(work, bootstrap, stop, failures)) for work in (_transact, _send, _read)]
    for thread in threads:
        thread.start()
    resting, share = 0, 0.0
    while resting < 2 and time.monotonic() - began < MOST_S and not failures:
        before = compiler_s(pid)
        time.sleep(LOOK_S)
        share = max(0.0, compiler_s(pid) - before) / LOOK_S
        resting = resting + 1 if share < RESTS_AT else 0
    stop.set()
    for thread in threads:
        thread.join(60)
    for deleted in admin.delete_topics(list(TOPICS)).values():
        deleted.result(30)
    if failures:
        raise failures[0]
    say(f"the broker was made warm in {time.monotonic() - began:.0f} s; its compilers took {share:.2f} of a core at the end")


def _kept(work: Callable[[str, threading.Event], None], bootstrap: str, stop: threading.Event, failures: list[BaseException]) -> None:
    try:
        work(bootstrap, stop)
    except BaseException as error:
        failures.append(error)


def _transact(bootstrap: str, stop: threading.Event) -> None:
    worker = Worker(bootstrap, 2)
    while not stop.is_set():
        worker.transaction(0.01)
    worker.consumer.close()


def _send(bootstrap: str, stop: threading.Event) -> None:
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 1})
    began, sent = time.monotonic(), 0
    while not stop.is_set():
        due = int((time.monotonic() - began) * RECORDS_PER_S)
        for number in range(sent, due):
            producer.produce("in-2", VALUE, partition=number % LANES)
        sent = due
        producer.poll(0.001)
    producer.flush(30)


def _read(bootstrap: str, stop: threading.Event) -> None:
    consumer = Consumer({
        "bootstrap.servers": bootstrap, "group.id": "bench-warm", "isolation.level": "read_committed", "enable.auto.commit": False,
        "fetch.wait.max.ms": 5,
    })  # fmt: skip
    consumer.subscribe(list(OUTPUTS))
    while not stop.is_set():
        with contextlib.suppress(KafkaException):
            consumer.consume(1_000, 0.05)
    consumer.close()
