"""The processes of a latency benchmark: a load that sends when it is due, a checker that notes when each record is in hand, meters.

Open loop: when each report is to be sent is settled before the run, and a slow worker never slows the load. Judges nothing (bench/latency.py).
"""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from confluent_kafka import Consumer, Message, Producer, TopicPartition
from numpy.typing import NDArray

from bench.ledger import Cluster
from bench.load import (
    ACK,
    EXEC_BASE,
    EXEC_DIGITS,
    EXEC_MARK,
    FILL,
    FILLS_EACH,
    QUOTE,
    REPORT,
    ROUTE,
    SYMBOL,
    TIME_DIGITS,
    Load,
    interleaved,
    mix,
    patch_times,
)
from schemas.chunk import Ints

GROUP_OF_ORDERS = 250
"""Orders worked at a time: an execution of each in turn."""
TICK_S = 0.001
LEAD_S = 1.0
READY_TIMEOUT_S = 120.0
QUIET_S = 20.0
"""The checker gives up when nothing it waits for has come for so long."""
QUANTILES = {"p50": 50.0, "p95": 95.0, "p99": 99.0, "max": 100.0}
PROBE_BASE = 10_000_000
"""Orders from this number on are probes: one execution each, in the probes' books in turn."""
SETTLE_S = 0.5
"""The checker reads on for so long: an answer may have come twice."""
COVER = "hedger.intent.cover"
_BOOK_MARK, _DECIDED_MARK = b'"book":"', b'"decision_ts_ns":'


class Plan(NamedTuple):
    """What is sent: executions in the order they are due, part of its order of each, and when, in ns after the start."""

    executions: Ints
    part: Ints
    due_ns: Ints


@dataclass(frozen=True)
class Step:
    """One rate: which executions, and where the processes leave what they saw.

    quotes_per_s 0: somebody else sends them. probes, probe_rate: orders PROBE_BASE + first_probe and on, one execution each, from the end of
    the warm-up; unevenly spaced, so that they fall into all phases of whatever is periodic. probe_books: how many books they take turns in.
    """

    rate: float
    quotes_per_s: float
    first_order: int
    orders: int
    folder: Path
    warmup_s: float = 0.0
    first_probe: int = 0
    probes: int = 0
    probe_rate: float = 1.0
    probe_books: int = 1

    @property
    def order_numbers(self) -> Ints:
        """Return the orders' numbers, ascending."""
        busy, probes = np.arange(self.orders), np.arange(self.probes)
        return np.concatenate([self.first_order + busy, PROBE_BASE + self.first_probe + probes])

    def plan(self) -> Plan:
        """Return what is sent when."""
        executions, part = interleaved(self.first_order, self.orders, GROUP_OF_ORDERS)
        due_ns = np.arange(len(executions)) / self.rate * 1e9
        if self.probes:
            numbers = np.arange(self.probes)
            probes = (PROBE_BASE + self.first_probe + numbers) * FILLS_EACH
            apart = (mix(probes) >> np.uint64(11)).astype(np.float64) / 2.0**53
            executions, part = np.concatenate([executions, probes]), np.concatenate([part, np.zeros_like(numbers)])
            due_ns = np.concatenate([due_ns, (self.warmup_s + (numbers + apart) / self.probe_rate) * 1e9])
            order = np.argsort(due_ns, kind="stable")
            executions, part, due_ns = executions[order], part[order], due_ns[order]
        return Plan(executions, part, due_ns.astype(np.int64))


class Gate:
    """Lets a process say that it is ready, and be told when time begins (ns since the epoch)."""

    def __init__(self, context: Any) -> None:
        self._ready, self._go, self._start = context.Event(), context.Event(), context.Value("q", 0)

    def wait(self) -> int:
        """In the process: say ready, wait, return when to begin."""
        self._ready.set()
        if not self._go.wait(2 * READY_TIMEOUT_S):
            raise SystemExit("bench.latency: nobody is there any more")
        return int(self._start.value)

    def announce(self) -> None:
        """In the process: say ready and go on."""
        self._ready.set()

    def ready(self) -> bool:
        """Return whether the process is ready."""
        return bool(self._ready.is_set())

    def open(self, start_ns: int) -> None:
        """Let it begin."""
        self._start.value = start_ns
        self._go.set()


# ---- the load -------------------------------------------------------------------------------------------------------------------


def producer_of(cluster: Cluster, name: str, idempotent: bool = True) -> Producer:
    """Return a producer that places keys as hedgerow does. An idempotent one spins until a broker just started gives it an id."""
    return Producer(
        {
            # librdkafka's default. It sends a request for each partition: with 1 ms the broker has as many requests as there are records.
            "linger.ms": 5,
            "queue.buffering.max.messages": 2_000_000,
            "queue.buffering.max.kbytes": 1_048_576,
            **cluster.options,
            "bootstrap.servers": cluster.bootstrap,
            "client.id": name,
            "partitioner": "murmur2_random",
            "enable.idempotence": idempotent,
        }
    )


def send_all(producer: Producer, topic: str, values: list[bytes], keys: list[bytes]) -> None:
    """Hand records to the producer; waits while its queue is full."""
    waiting: list[dict[str, Any]] = [{"value": value, "key": key} for value, key in zip(values, keys, strict=True)]
    while waiting:
        producer.produce_batch(topic, waiting)
        waiting = [record for record in waiting if record.pop("_error", None) is not None]
        producer.poll(0.01 if waiting else 0)


def cut(records: NDArray[np.uint8]) -> list[bytes]:
    """Return each row as bytes."""
    whole, length = records.tobytes(), records.shape[1]
    return [whole[at : at + length] for at in range(0, len(whole), length)]


def generate(cluster: Cluster, step: Step, load: Load, known: Gate, gate: Gate) -> None:
    """Process: make the orders known, then send every report when it is due. All bytes but the times are made beforehand."""
    producer = producer_of(cluster, "hedgerow-bench-load")
    orders = step.order_numbers
    order_keys = cut(load.keys(orders))
    known.wait()
    now_ns = time.time_ns()
    for topic, records in ((ROUTE, load.routes(orders, now_ns)), (ACK, load.acks(orders, now_ns))):
        values = cut(records)
        for at in range(0, len(values), 1_000):
            send_all(producer, topic, values[at : at + 1_000], order_keys[at : at + 1_000])
            time.sleep(0.02)
    producer.flush(60)
    executions, part, due_ns = step.plan()
    reports = load.reports(executions, part, np.array([now_ns]))
    keys = [order_keys[i] for i in np.searchsorted(orders, executions // FILLS_EACH).tolist()]
    n_quotes = int(len(executions) / step.rate * step.quotes_per_s) + 1 if step.quotes_per_s else 0
    quotes = load.quotes(np.arange(n_quotes) + step.first_order, np.array([now_ns]))
    late = np.zeros(len(executions))
    gc.collect()
    gc.freeze()
    start_ns = gate.wait()
    sent = quoted = 0
    while sent < len(executions):
        now_ns = time.time_ns()
        due = int(np.searchsorted(due_ns, now_ns - start_ns, "right"))
        if due <= sent:
            producer.poll(0)
            time.sleep(TICK_S / 2)
            continue
        due = min(due, sent + 5_000)
        patch_times(reports[sent:due], REPORT, np.array([now_ns]))
        send_all(producer, REPORT, cut(reports[sent:due]), keys[sent:due])
        late[sent:due] = time.time_ns() - (start_ns + due_ns[sent:due])
        sent = due
        wanted = min(len(quotes), int((now_ns - start_ns) * step.quotes_per_s / 1e9) + 1)
        if wanted > quoted:
            patch_times(quotes[quoted:wanted], QUOTE, np.array([now_ns]))
            send_all(producer, QUOTE, cut(quotes[quoted:wanted]), [SYMBOL] * (wanted - quoted))
            quoted = wanted
        time.sleep(TICK_S)
    if producer.flush(60):
        raise SystemExit("bench.latency: not every report could be delivered")
    np.savez(step.folder / "sent.npz", late_ms=late / 1e6)


# ---- the checker ----------------------------------------------------------------------------------------------------------------


def check(cluster: Cluster, step: Step, gate: Gate) -> None:
    """Process: read the fills, and with probes the hedges, as anybody would, read_committed, and note when each is in hand."""
    consumer = reader_of(cluster)
    ends = cluster.ends(cluster.places([FILL, COVER] if step.probes else [FILL]), committed=True)
    consumer.assign([TopicPartition(topic, partition, end) for (topic, partition), end in ends.items()])
    consumer.consume(1, 0.5)
    fills_left, unanswered = step.orders * FILLS_EACH + step.probes, Counter(probe_books(step))
    seen: list[tuple[int, list[Message]]] = []
    gc.collect()
    gc.disable()  # messages by the hundred thousand are kept; looking through them all would be a stall of ours
    gate.wait()
    heard = time.monotonic() + LEAD_S
    while time.monotonic() - heard < (QUIET_S if fills_left > 0 or unanswered else SETTLE_S):
        first = consumer.poll(0.1)
        if first is None:
            continue
        # consume(n, t) would gather for the whole of t: one message is waited for, the rest is taken as it lies
        messages = [first, *consumer.consume(10_000, 0)]
        seen.append((time.time_ns(), messages))
        left = fills_left + unanswered.total()
        for message in messages:
            value = message.value() or b""
            if message.topic() == COVER:
                unanswered -= Counter((book_of(value),))
            else:
                fills_left -= is_ours(value)
        if fills_left + unanswered.total() < left:
            heard = time.monotonic()
    fills = [(number, fold, at, message.timestamp()[1]) for at, batch in seen for message in batch for number, fold in told(message)]
    hedges = [(book, decided, at, message.timestamp()[1]) for at, batch in seen for message in batch for book, decided in covered(message)]
    consumer.close()
    for name, rows in (("seen", fills), ("covers", hedges)):
        table = np.array(rows, np.int64).reshape(-1, 4)
        np.savez(step.folder / f"{name}.npz", number=table[:, 0], made=table[:, 1], visible=table[:, 2], written=table[:, 3])


def told(message: Message) -> Iterator[tuple[int, int]]:
    """Yield (execution, when it was folded) of a fill of the load; nothing of an error."""
    error, value = message.error(), message.value() or b""
    if error is not None:
        print(f"latency: the checker: {error.str()}", file=sys.stderr)
    elif message.topic() == FILL and is_ours(value):
        yield execution_of(value), int(value[(at := value.find(b'"ts_ns":') + 8) : at + TIME_DIGITS])


def covered(message: Message) -> Iterator[tuple[int, int]]:
    """Yield (number of the book, when it was decided) of a hedge of a probes' book; -1 for the number of a busy one."""
    value = message.value() or b""
    if message.error() is None and message.topic() == COVER:
        book = book_of(value)
        at = value.find(_DECIDED_MARK) + len(_DECIDED_MARK)
        yield int(book[1:]) if book[:1] == b"P" else -1, int(value[at : at + TIME_DIGITS])


def is_ours(value: bytes) -> bool:
    """Return whether a fill is one of the load's: what answers hedges gives its executions no number."""
    return value[(at := value.find(EXEC_MARK) + len(EXEC_MARK)) : at + EXEC_DIGITS].isdigit()


def execution_of(value: bytes) -> int:
    """Return the number of the execution a report or a fill is about."""
    at = value.find(EXEC_MARK) + len(EXEC_MARK)
    return int(value[at : at + EXEC_DIGITS]) - EXEC_BASE


def book_of(value: bytes) -> bytes:
    """Return the first book a message names."""
    at = value.find(_BOOK_MARK) + len(_BOOK_MARK)
    return value[at : value.find(b'"', at)]


def probe_books(step: Step) -> list[bytes]:
    """Return the book of each of a step's probes."""
    return [b"P%05d" % ((step.first_probe + i) % step.probe_books) for i in range(step.probes)]


def reader_of(cluster: Cluster) -> Consumer:
    """Return a consumer of committed records that assigns itself."""
    return Consumer(
        {
            "fetch.wait.max.ms": 10,
            "queued.max.messages.kbytes": 262_144,
            **cluster.options,
            "bootstrap.servers": cluster.bootstrap,
            "client.id": "hedgerow-bench-check",
            "group.id": "hedgerow-bench-check",
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "error",
            "isolation.level": "read_committed",
        }
    )


def broker_times(cluster: Cluster, starts: Mapping[tuple[str, int], int]) -> Iterator[tuple[int, bytes]]:
    """Yield (ms the broker took it, value) of every committed record of some partitions from `starts` on."""
    for message in cluster._consume(starts, lambda _: False):
        yield message.timestamp()[1], message.value() or b""


# ---- figures --------------------------------------------------------------------------------------------------------------------


def quantiles(values: NDArray[Any], prefix: str = "") -> dict[str, float]:
    """Return the quantiles in ms, by name."""
    found = np.percentile(values, list(QUANTILES.values())) if len(values) else np.full(len(QUANTILES), np.nan)
    return {f"{prefix}{name}_ms": round(float(value), 1) for name, value in zip(QUANTILES, found, strict=True)}


def scrape(url: str) -> dict[str, float]:
    """Return a worker's metrics by name and labels; nothing when it does not answer."""
    with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5) as answer:
        lines = [line for line in answer.read().decode().splitlines() if not line.startswith("#")]
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}
    return {}


def summed(metrics: Mapping[str, float], metric: str, name: str = "") -> float:
    """Return the sum of a metric over its labels; with `name` only where that is the label `name`."""
    label = f'name="{name}"' if name else ""
    return sum(value for key, value in metrics.items() if key.partition("{")[0] == metric and label in key)


class Meter:
    """The worker's own figures and the processor time of processes, between two moments."""

    def __init__(self, url: str, pids: Mapping[str, int], counted: tuple[str, ...] = ()) -> None:
        self._url, self._pids, self._counted = url, pids, counted
        self._before, self._cpu, self._busy, self._when = scrape(url), self._times(), busy_s(), time.monotonic()

    def _times(self) -> dict[str, float]:
        found = {}
        for name, pid in self._pids.items():
            with contextlib.suppress(OSError, IndexError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                found[name] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        return found

    def read(self) -> dict[str, float]:
        """Return commits per second, their mean time, records per chunk, lane counters per second, and cores used by each process."""
        took = time.monotonic() - self._when
        after, cpu = scrape(self._url), self._times()

        def grown(metric: str, name: str = "") -> float:
            return summed(after, metric, name) - summed(self._before, metric, name)

        ours = {name: (cpu[name] - self._cpu.get(name, 0.0)) / took for name in cpu}
        commits, chunks = grown("hedgerow_commit_seconds_count"), grown("hedgerow_chunk_records_count")
        return {
            "commits_per_s": round(commits / took, 1),
            "commit_mean_ms": round(1e3 * grown("hedgerow_commit_seconds_sum") / commits, 1) if commits else 0.0,
            "records_per_chunk": round(grown("hedgerow_chunk_records_sum") / chunks, 1) if chunks else 0.0,
            **{f"{name}_per_s": round(grown("hedgerow_lane_count", name) / took, 1) for name in self._counted},
            **{f"{name}_cores": round(used, 2) for name, used in ours.items()},
            "others_cores": round(max(0.0, (busy_s() - self._busy) / took - sum(ours.values())), 2),
        }


def busy_s() -> float:
    """Return the processor time of everything on this machine, what a hypervisor took away included; 0 where it is not told."""
    with contextlib.suppress(OSError):
        fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
        return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")
    return 0.0
