"""How long a report takes to be a fill: on a real Kafka, exactly once, by rate of reports, and where the time goes.

Run `python -m bench.latency [--rates 1000,20000] [--seconds 20] [--rebalance]`; one line of JSON per rate. The load is an open loop: when each report is
to be sent is settled before the run, and a slow worker never slows the load. Latency is told twice: from the moment the broker took the report
(`p50_ms` …, what the service level says) and from the moment it was due to be sent (`due_…`), which hides no stall of anybody. It ends when a
read_committed consumer in a process of its own has the fill in hand. Method and figures: docs/benchmarks-state-latency.md.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from confluent_kafka import Consumer, Message, Producer, TopicPartition
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType  # type: ignore[attr-defined]
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from bench.driver import Driver, DriverError, broker, empty_topics, warm
from bench.ledger import Cluster, ReadError
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
    TIME_DIGITS,
    Load,
    interleaved,
    patch_times,
)
from connectors.kafka_server import BrokerUnavailable, free_port
from flows.settings import Settings, variable
from schemas.chunk import Ints
from schemas.registry import EXECUTION_CHANGELOG

GROUP_OF_ORDERS = 250
"""Orders worked at a time: an execution of each in turn."""
QUOTES_PER_S = 1_000.0
"""A fill waits until the tape has passed it: the time between two quotes is part of its latency. Real markets quote more often than this."""
TICK_S = 0.001
LEAD_S = 1.0
PREPARE_RATE = 2_000.0
"""Of the load that is not counted, in which a broker just started compiles its code."""
READY_TIMEOUT_S = 120.0
QUIET_S = 20.0
"""The checker gives up when no fill has come for so long."""
FELL_BEHIND = 0.99
"""A line is invalid below this share of the rate asked for."""
LATE_MS = 20.0
"""A line is invalid when one in a hundred reports was handed to the client later than this."""
TARGETS = {1_000: {"p95_ms": 30.0}, 20_000: {"p50_ms": 20.0, "p95_ms": 40.0, "p99_ms": 80.0}}
QUANTILES = {"p50": 50.0, "p95": 95.0, "p99": 99.0, "max": 100.0}
STAGES = ("due to taken by the broker", "taken to folded", "folded to written", "written to commit", "commit to visible")
"""Broker times are whole milliseconds, cut off: a stage that begins with one reads up to 1 ms too long, one that ends with one too short."""
Times = NDArray[np.int64]


@dataclass(frozen=True)
class Step:
    """One rate: which executions, and where the processes leave what they saw."""

    rate: float
    quotes_per_s: float
    first_order: int
    orders: int
    folder: Path

    @property
    def executions(self) -> Ints:
        """Return the executions' numbers in the order they are sent."""
        return interleaved(self.first_order, self.orders, GROUP_OF_ORDERS)[0]


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

    def ready(self) -> bool:
        """Return whether the process is ready."""
        return bool(self._ready.is_set())

    def open(self, start_ns: int) -> None:
        """Let it begin."""
        self._start.value = start_ns
        self._go.set()


# ---- the load -------------------------------------------------------------------------------------------------------------------


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


def generate(cluster: Cluster, step: Step, seed: int, known: Gate, gate: Gate) -> None:
    """Process: make the orders known, then send every report when it is due. All bytes but the times are made beforehand."""
    producer = Producer(
        {
            "linger.ms": 1,
            "queue.buffering.max.messages": 2_000_000,
            "queue.buffering.max.kbytes": 1_048_576,
            **cluster.options,
            "bootstrap.servers": cluster.bootstrap,
            "client.id": "hedgerow-bench-load",
            "partitioner": "murmur2_random",
            "enable.idempotence": True,
        }
    )
    load = Load(seed)
    orders = np.arange(step.first_order, step.first_order + step.orders)
    order_keys = cut(load.keys(orders))
    known.wait()
    now_ns = time.time_ns()
    for topic, records in ((ROUTE, load.routes(orders, now_ns)), (ACK, load.acks(orders, now_ns))):
        values = cut(records)
        for at in range(0, len(values), 1_000):
            send_all(producer, topic, values[at : at + 1_000], order_keys[at : at + 1_000])
            time.sleep(0.02)
    producer.flush(60)
    executions, part = interleaved(step.first_order, step.orders, GROUP_OF_ORDERS)
    reports = load.reports(executions, part, np.array([now_ns]))
    keys = [order_keys[i] for i in (executions // FILLS_EACH - step.first_order).tolist()]
    quotes = load.quotes(np.arange(int(len(executions) / step.rate * step.quotes_per_s) + 1) + step.first_order, np.array([now_ns]))
    late = np.zeros(len(executions))
    gc.collect()
    gc.freeze()
    start_ns = gate.wait()
    sent = quoted = 0
    while sent < len(executions):
        now_ns = time.time_ns()
        due = min(len(executions), int((now_ns - start_ns) * step.rate / 1e9) + 1) if now_ns >= start_ns else 0
        if due <= sent:
            producer.poll(0)
            time.sleep(TICK_S / 2)
            continue
        due = min(due, sent + 5_000)
        patch_times(reports[sent:due], REPORT, np.array([now_ns]))
        send_all(producer, REPORT, cut(reports[sent:due]), keys[sent:due])
        late[sent:due] = time.time_ns() - (start_ns + np.arange(sent, due) / step.rate * 1e9)
        sent = due
        wanted = min(len(quotes), int((now_ns - start_ns) * step.quotes_per_s / 1e9) + 1)
        if wanted > quoted:
            patch_times(quotes[quoted:wanted], QUOTE, np.array([now_ns]))
            send_all(producer, QUOTE, cut(quotes[quoted:wanted]), [b"BTC-USD"] * (wanted - quoted))
            quoted = wanted
        time.sleep(TICK_S)
    if producer.flush(60):
        raise SystemExit("bench.latency: not every report could be delivered")
    np.savez(step.folder / "sent.npz", late_ms=late / 1e6)


# ---- the checker ----------------------------------------------------------------------------------------------------------------


def check(cluster: Cluster, step: Step, gate: Gate) -> None:
    """Process: read the fills as anybody would, read_committed, and note when each is in hand."""
    consumer = reader_of(cluster)
    ends = cluster.ends(cluster.places([FILL]), committed=True)
    consumer.assign([TopicPartition(topic, partition, end) for (topic, partition), end in ends.items()])
    consumer.consume(1, 0.5)
    wanted = step.orders * FILLS_EACH
    seen: list[tuple[int, list[Message]]] = []
    gc.collect()
    gc.disable()  # messages by the hundred thousand are kept; looking through them all would be a stall of ours
    gate.wait()
    count, heard = 0, time.monotonic() + LEAD_S
    while count < wanted and time.monotonic() - heard < QUIET_S:
        first = consumer.poll(0.1)
        if first is None:
            continue
        # consume(n, t) would gather for the whole of t: one message is waited for, the rest is taken as it lies
        messages = [first, *consumer.consume(10_000, 0)]
        seen.append((time.time_ns(), messages))
        count += len(messages)
        heard = time.monotonic()
    rows = [(number, fold, at, message.timestamp()[1]) for at, batch in seen for message in batch for number, fold in told(message)]
    consumer.close()
    table = np.array(rows, np.int64).reshape(-1, 4)
    np.savez(step.folder / "seen.npz", execution=table[:, 0], folded=table[:, 1], visible=table[:, 2], written=table[:, 3])


def told(message: Message) -> Iterator[tuple[int, int]]:
    """Yield (execution, when it was folded) of a fill; nothing of an error."""
    error, value = message.error(), message.value() or b""
    if error is not None:
        print(f"latency: the checker: {error.str()}", file=sys.stderr)
        return
    yield execution_of(value), int(value[(at := value.find(b'"ts_ns":') + 8) : at + TIME_DIGITS])


def execution_of(value: bytes) -> int:
    """Return the number of the execution a report or a fill is about."""
    at = value.find(EXEC_MARK) + len(EXEC_MARK)
    return int(value[at : at + EXEC_DIGITS]) - EXEC_BASE


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


# ---- what came of it ------------------------------------------------------------------------------------------------------------


def broker_times(cluster: Cluster, starts: Mapping[tuple[str, int], int]) -> Iterator[tuple[int, bytes]]:
    """Yield (ms the broker took it, value) of every committed record of some partitions from `starts` on."""
    for message in cluster._consume(starts, lambda _: False):
        yield message.timestamp()[1], message.value() or b""


@dataclass
class Figures:
    """One line of the result."""

    rate: float
    line: dict[str, Any]
    stages: dict[str, NDArray[np.float64]]
    notes: dict[str, str]

    @property
    def valid(self) -> bool:
        """Return whether the load was what it should have been."""
        return self.line["valid"] is True


def quantiles(values: NDArray[Any], prefix: str = "") -> dict[str, float]:
    """Return the quantiles in ms, by name."""
    found = np.percentile(values, list(QUANTILES.values())) if len(values) else np.full(len(QUANTILES), np.nan)
    return {f"{prefix}{name}_ms": round(float(value), 1) for name, value in zip(QUANTILES, found, strict=True)}


def judge(step: Step, start_ns: int, warmup_s: float, taken: Times, changelog: Times, metrics: dict[str, float]) -> Figures:
    """Return the figures of a rate. taken: when the broker took each report (ns), in the order sent; changelog: the same of changelog records."""
    executions = step.executions
    n = len(executions)
    place = np.empty(n, np.int64)
    place[executions - step.first_order * FILLS_EACH] = np.arange(n)
    seen = np.load(step.folder / "seen.npz")
    late = np.load(step.folder / "sent.npz")["late_ms"]
    numbers = seen["execution"] - step.first_order * FILLS_EACH
    ours = (numbers >= 0) & (numbers < n)
    order, first = np.unique(place[numbers[ours]], return_index=True)
    repeated = int(ours.sum()) - len(order)
    visible, folded, written = (seen[name][ours][first] for name in ("visible", "folded", "written"))
    due = start_ns + (order / step.rate * 1e9).astype(np.int64)
    counted = order >= warmup_s * step.rate
    taken_ns, written_ns = taken[order], written * 1_000_000
    at = np.minimum(np.searchsorted(changelog, written_ns), len(changelog) - 1)
    began = np.clip(changelog[at], written_ns, np.maximum(visible, written_ns))
    stages = {
        name: ((b - a) / 1e6)[counted]
        for name, a, b in zip(
            STAGES, (due, taken_ns, folded, written_ns, began), (taken_ns, folded, written_ns, began, visible), strict=True
        )
    }
    span_s = (taken.max() - taken.min()) / 1e9
    achieved = (n - 1) / span_s if span_s else 0.0
    late_p99 = float(np.percentile(late, 99))
    valid = len(order) == n and not repeated and achieved >= FELL_BEHIND * step.rate and late_p99 <= LATE_MS
    line = {
        "benchmark": "latency",
        "rate": step.rate,
        "valid": valid,
        **quantiles(((visible - taken_ns) / 1e6)[counted]),
        **quantiles(((visible - due) / 1e6)[counted], "due_"),
        "achieved_rate": round(achieved, 1),
        "fills": len(order),
        "missing": n - len(order),
        "repeated": repeated,
        "generator_late_p99_ms": round(late_p99, 1),
        **metrics,
        "stages_p50_ms": {name: round(float(np.percentile(values, 50)), 1) for name, values in stages.items()},
        "stages_p95_ms": {name: round(float(np.percentile(values, 95)), 1) for name, values in stages.items()},
    }
    return Figures(step.rate, line, stages, {})


class Meter:
    """The worker's own figures and the processor time of processes, between two moments."""

    def __init__(self, url: str, pids: Mapping[str, int]) -> None:
        self._url, self._pids = url, pids
        self._before, self._cpu, self._busy, self._when = self._scrape(), self._times(), busy_s(), time.monotonic()

    def _scrape(self) -> dict[str, float]:
        with contextlib.suppress(OSError), urllib.request.urlopen(self._url, timeout=5) as answer:
            lines = [line for line in answer.read().decode().splitlines() if not line.startswith("#")]
            return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}
        return {}

    def _times(self) -> dict[str, float]:
        found = {}
        for name, pid in self._pids.items():
            with contextlib.suppress(OSError, IndexError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                found[name] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        return found

    def read(self) -> dict[str, float]:
        """Return commits per second, their mean time, records per chunk, and cores used by each process."""
        took = time.monotonic() - self._when
        after, cpu = self._scrape(), self._times()

        def grown(metric: str) -> float:
            return sum(value - self._before.get(name, 0.0) for name, value in after.items() if name.partition("{")[0] == metric)

        ours = {name: (cpu[name] - self._cpu.get(name, 0.0)) / took for name in cpu}
        commits, chunks = grown("hedgerow_commit_seconds_count"), grown("hedgerow_chunk_records_count")
        return {
            "commits_per_s": round(commits / took, 1),
            "commit_mean_ms": round(1e3 * grown("hedgerow_commit_seconds_sum") / commits, 1) if commits else 0.0,
            "records_per_chunk": round(grown("hedgerow_chunk_records_sum") / chunks, 1) if chunks else 0.0,
            **{f"{name}_cores": round(used, 2) for name, used in ours.items()},
            "others_cores": round(max(0.0, (busy_s() - self._busy) / took - sum(ours.values())), 2),
        }


def busy_s() -> float:
    """Return the processor time of everything on this machine, what a hypervisor took away included; 0 where it is not told."""
    with contextlib.suppress(OSError):
        fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
        return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")
    return 0.0


# ---- a run ----------------------------------------------------------------------------------------------------------------------


def stamp_topics(cluster: Cluster, names: tuple[str, ...]) -> None:
    """Let the broker write when it took each record of these topics."""
    entry = ConfigEntry("message.timestamp.type", "LogAppendTime", incremental_operation=AlterConfigOpType.SET)
    asked = [ConfigResource(ResourceType.TOPIC, name, incremental_configs=[entry]) for name in names]
    for answer in cluster.admin.incremental_alter_configs(asked).values():
        answer.result(30)


class Bench:
    """One worker, and the load at one rate after the other."""

    def __init__(self, cluster: Cluster, folder: Path, options: argparse.Namespace, broker_pid: int | None) -> None:
        self.cluster, self.folder, self.options = cluster, folder, options
        self.run = Driver(cluster, folder)
        self._context = multiprocessing.get_context("spawn")
        self._metrics_port = free_port()
        self._broker_pid = broker_pid
        self._first_order = 0
        self._settings = dict(options.set)
        self._worker: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the worker and return when it owns every lane."""
        words = ("run", "execution", "--worker", "execution-0", "--metrics-port", str(self._metrics_port))
        self._worker = self.run.command("worker", *words, **self._settings)
        self.run.wait_for_members(1)

    def stop(self) -> None:
        """Stop the worker in good order."""
        self.run.stop("worker")

    def measure(self, rate: float, seconds: float, rebalance: bool) -> Figures:
        """Put the load on and return what came of it."""
        o = self.options
        folder = Path(tempfile.mkdtemp(prefix=f"{rate:g}-", dir=self.folder))
        groups = -(-int(rate * (seconds + o.warmup)) // (FILLS_EACH * GROUP_OF_ORDERS))
        step = Step(rate, o.quotes, self._first_order, groups * GROUP_OF_ORDERS, folder)
        self._first_order += step.orders
        starts = self.cluster.ends(self.cluster.places([REPORT, EXECUTION_CHANGELOG]))
        known, gate, checked = (Gate(self._context) for _ in range(3))
        load = self._process(generate, self.cluster, step, o.seed, known, gate)
        self._await(known, load)
        known.open(0)
        self._await(gate, load)
        self.run.recover("the orders")  # every route and acknowledgement is in
        checker = self._process(check, self.cluster, step, checked)
        self._await(checked, checker)
        assert self._worker is not None
        pids = {"worker": self._worker.pid, "load": load.pid or 0, "checker": checker.pid or 0}
        if self._broker_pid:
            pids["broker"] = self._broker_pid
        start_ns = time.time_ns() + int(LEAD_S * 1e9)
        checked.open(start_ns)
        gate.open(start_ns)
        time.sleep(max(0.0, start_ns / 1e9 + o.warmup - time.time()))
        meter = Meter(f"http://127.0.0.1:{self._metrics_port}/metrics", pids)
        notes = self._rebalance(start_ns, step) if rebalance else {}
        end_s = start_ns / 1e9 + step.orders * FILLS_EACH / rate
        time.sleep(max(0.0, end_s - time.time() - 0.2))
        metrics = meter.read()
        for process, what in ((load, "the load"), (checker, "the checker")):
            process.join(seconds + 120)
            if process.exitcode != 0:
                raise DriverError(f"{what} ended with code {process.exitcode}\n{self.run.logs()}")
        self.run.recover("the run")
        taken = np.zeros(step.orders * FILLS_EACH, np.int64)
        place = {int(number): i for i, number in enumerate(step.executions)}
        for ms, value in broker_times(self.cluster, {where: at for where, at in starts.items() if where[0] == REPORT}):
            taken[place[execution_of(value)]] = ms * 1_000_000
        log = {where: at for where, at in starts.items() if where[0] == EXECUTION_CHANGELOG}
        changelog = np.sort(np.array([ms * 1_000_000 for ms, _ in broker_times(self.cluster, log)], np.int64))
        figures = judge(step, start_ns, o.warmup, taken, changelog, metrics)
        figures.notes.update(notes)
        figures.line.update({"settings": self._settings} if self._settings else {})
        figures.line.update(notes)
        return figures

    def _rebalance(self, start_ns: int, step: Step) -> dict[str, Any]:
        """Let a second worker join at a third of the time and leave at two."""
        span = step.orders * FILLS_EACH / step.rate

        def wait(share: float) -> None:
            time.sleep(max(0.0, start_ns / 1e9 + share * span - time.time()))

        wait(1 / 3)
        began = time.monotonic()
        self.run.command("extra", "run", "execution", "--worker", "execution-1", **self._settings)
        self.run.wait_for_members(2)
        joined = time.monotonic() - began
        wait(2 / 3)
        began = time.monotonic()
        self.run.stop("extra")
        self.run.wait_for_members(1)
        return {"joined_s": round(joined, 1), "left_s": round(time.monotonic() - began, 1)}

    def _process(self, work: Callable[..., None], *words: Any) -> Any:
        process = self._context.Process(target=work, args=words, daemon=True)
        process.start()
        return process

    def _await(self, gate: Gate, process: Any) -> None:
        deadline = time.monotonic() + READY_TIMEOUT_S
        while not gate.ready():
            if process.exitcode is not None or time.monotonic() > deadline:
                raise DriverError(f"a process of the benchmark did not get ready (exit code {process.exitcode})")
            time.sleep(0.05)


# ---- the command ----------------------------------------------------------------------------------------------------------------


def show(figures: Figures, rebalance: bool) -> None:
    """Print the figures of a rate and where the time goes."""
    line = figures.line
    told = "" if figures.valid else "   INVALID: the load or the fills are not what they should be"
    table = Table(
        title=f"{figures.rate:,.0f} reports/s asked, {line['achieved_rate']:,.0f} taken by the broker{told}", title_justify="left"
    )
    for name in ("ms", "p50", "p95", "p99", "max"):
        table.add_column(name, justify="left" if name == "ms" else "right")

    def add(name: str, values: Mapping[str, float], prefix: str = "") -> None:
        table.add_row(name, *(f"{values[f'{prefix}{q}_ms']:.1f}" for q in QUANTILES))

    add("taken by the broker to visible", line)
    add("due to visible", line, "due_")
    table.add_section()
    for stage, values in figures.stages.items():
        add(f"  {stage}", quantiles(values))
    Console(width=110).print(table)
    targets = {} if rebalance else TARGETS.get(round(figures.rate), {})
    for name, most in targets.items():
        print(f"  {name} {line[name]:.1f}: {'met' if line[name] <= most else 'MISSED'} (at most {most:g})")
    shown = (
        "commits_per_s",
        "commit_mean_ms",
        "records_per_chunk",
        "worker_cores",
        "broker_cores",
        "load_cores",
        "checker_cores",
        "others_cores",
    )
    print("  " + ", ".join(f"{name} {line[name]:g}" for name in shown if name in line))
    for name, note in figures.notes.items():
        print(f"  {name} {note}")


def setting(text: str) -> tuple[str, str]:
    """Return the environment variable and value of a setting of hedgerow."""
    name, equals, value = text.partition("=")
    if not equals or name not in Settings.model_fields:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE with a name from docs/settings.md")
    return variable(name), value


def main(argv: list[str] | None = None) -> int:
    """Measure each rate; return 0 only if every line is valid."""
    parser = argparse.ArgumentParser(prog="python -m bench.latency", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rates", default="1000,20000", metavar="N,N", help="reports per second, one after the other (1000,20000)")
    parser.add_argument("--quotes", type=float, default=QUOTES_PER_S, metavar="N", help="market quotes per second (1000)")
    parser.add_argument("--seconds", type=float, default=20.0, metavar="S", help="how long each rate is measured (20)")
    parser.add_argument("--warmup", type=float, default=3.0, metavar="S", help="how long it runs before that (3)")
    parser.add_argument("--prepare", type=float, default=15.0, metavar="S", help="how long the broker is made warm first, 0 for not (15)")
    parser.add_argument("--partitions", type=int, default=8, metavar="N", help="lanes (8)")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of the ids (1)")
    parser.add_argument(
        "--set", type=setting, action="append", default=[], metavar="NAME=VALUE", help="a setting of the worker, as commit_interval_ms=10"
    )
    parser.add_argument("--rebalance", action="store_true", help="a second worker joins and leaves during each run")
    parser.add_argument("--wipe", action="store_true", help="delete hedgerow's topics and all consumer groups at HEDGEROW_KAFKA first")
    parser.add_argument("--keep", action="store_true", help="keep logs and times, and say where")
    args = parser.parse_args(argv)
    try:
        rates = [float(rate) for rate in args.rates.split(",")]
    except ValueError:
        parser.error("--rates must be numbers, separated by commas")
    if not all(10 <= rate <= 1e6 for rate in rates) or args.seconds * min(rates) < 100:
        parser.error("--rates must be 10 to 1,000,000, and --seconds long enough for 100 reports")
    folder = Path(tempfile.mkdtemp(prefix="hedgerow-latency-"))
    good, kept = True, args.keep
    try:
        with broker(folder, args.wipe) as (cluster, may_delete):
            warm(cluster)
            empty_topics(cluster, args.partitions, may_delete)
            stamp_topics(cluster, (REPORT, FILL, EXECUTION_CHANGELOG))
            bench = Bench(cluster, folder, args, java_of(folder))
            try:
                bench.start()
                if args.prepare:
                    bench.measure(PREPARE_RATE, args.prepare, rebalance=False)
                for rate in rates:
                    figures = bench.measure(rate, args.seconds, args.rebalance)
                    show(figures, args.rebalance)
                    print(json.dumps(figures.line), flush=True)
                    good = good and figures.valid
                bench.stop()
            finally:
                bench.run.end()
    except (DriverError, BrokerUnavailable, ReadError) as error:
        print(f"latency: {error}", file=sys.stderr)
        good, kept = False, True
    finally:
        shutil.rmtree(folder / "kafka", ignore_errors=True)
        if kept:
            print(f"latency: logs and times are in {folder}", file=sys.stderr)
        else:
            shutil.rmtree(folder, ignore_errors=True)
    return 0 if good else 1


def java_of(folder: Path) -> int | None:
    """Return the process of our own broker, told by its settings file; None when it is somebody else's."""
    mine = str(folder / "kafka" / "server.properties").encode()
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mine in (entry / "cmdline").read_bytes().split(b"\0"):
                return int(entry.name)
    return None


if __name__ == "__main__":
    sys.exit(main())
