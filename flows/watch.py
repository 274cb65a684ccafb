"""What the demo knows and what it concludes: topics read, the worker's metrics, the simulator's ledger, and the verdict over the three.

Starts nothing and shows nothing. What a fill must be is not decided here, only whether what was sent, published and counted agree.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections import Counter, defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from prometheus_client.parser import text_string_to_metric_families

from connectors.simulator.damage import TRADES as SPOILED
from flows.board import LastFill, Level, Spread, VenueSlippage
from flows.demo_process import DemoError
from schemas.registry import EXECUTION_BROADCAST, EXECUTION_INPUTS

REPORTS, ALIASES = "venue.execution.report.v1", "execution.state.alias.v1"
FILLS, AUDIT, DEAD, ALERTS = "execution.event.fill.v1", "audit.event.execution", "dlq.execution", "compliance.event.alert.v1"
READ = (REPORTS, ALIASES, FILLS, AUDIT, DEAD, ALERTS)
"""What the demo reads: the outputs, and the reports so that every fill sent can be looked for among them."""

_SPOILED = frozenset(SPOILED) - {"duplicate_keys"}  # a field given twice, the last one the true one, is a repeat and not a dead letter
_AIM_P50_MS, _AIM_P95_MS = 20.0, 40.0


# ---- what is read from the topics ------------------------------------------------------------------------------------


class Tally:
    """Everything the demo knows from reading the topics. `take` is called by one thread, the rest by another, under `lock`.

    Latency is our clock when the fill could be read minus the time the gateway received the report (`exec_ts_ns` + `latency_ms`). First
    versions only; fills whose report was pending before (audit says so) are counted in `waited`: they waited for others, not for us.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.read: Counter[str] = Counter()
        self.versions: dict[str, tuple[int, int]] = {}
        """fill_id → (records, highest version)."""
        self.repeated = 0
        self.first_ids: dict[tuple[str, ...], str] = {}
        self.let_through = 0
        self.filled: set[tuple[str, str]] = set()
        self.explained: dict[tuple[str, str], str] = {}
        """(venue, exec_id) → the reason it is pending or dead."""
        self.trades: dict[tuple[int, int], tuple[str, str]] = {}
        """Place on the report topic → (venue, exec_id) of every TRADE that could be read."""
        self.dead: dict[tuple[str, int, int], str] = {}
        """Place of an input → SHA-256 of the bytes its dead letter holds."""
        self.dead_reasons: Counter[str] = Counter()
        self.latencies: list[float] = []
        self.recent: deque[tuple[int, float]] = deque()
        self.waited = 0
        self.statuses: Counter[tuple[str, str]] = Counter()
        """(benchmark, status) → fills."""
        self.unflagged: Counter[str] = Counter()
        """Benchmark → fills whose figure is there without it, or not there with it."""
        self.venues: dict[str, _Venue] = defaultdict(_Venue)
        self.last: deque[LastFill] = deque(maxlen=8)
        self.unreadable = 0
        self._seen: set[tuple[str, int]] = set()
        self._pending: set[tuple[str, str]] = set()

    def take(self, topic: str, partition: int, offset: int, value: bytes, now_ns: int) -> None:
        """Take one record of one of the topics in `READ`, read at `now_ns`."""
        self.read[topic] += 1
        if topic == REPORTS:
            self._report(partition, offset, value)
        if topic not in (FILLS, AUDIT, DEAD):
            return
        try:
            payload = json.loads(value)["payload"]
            if topic == FILLS:
                self._fill(payload, now_ns)
            elif topic == AUDIT:
                self._audit(payload)
            else:
                self._dead(payload)
        except (ValueError, KeyError, TypeError):
            self.unreadable += 1  # our own outputs must be readable; the verdict tells when they are not

    def _report(self, partition: int, offset: int, value: bytes) -> None:
        if b'"TRADE"' not in value or len(value) > 100_000:
            return
        try:
            payload = json.loads(value)["payload"]
            if payload["kind"] == "TRADE":
                self.trades[partition, offset] = (str(payload["venue"]), _exec_name(payload["exec_id"]))
        except (ValueError, KeyError, TypeError, RecursionError, AttributeError):
            return  # spoiled on purpose: the dead letters are checked against the ledger

    def _audit(self, payload: Mapping[str, Any]) -> None:
        if payload["outcome"] in ("pending", "dlq") and payload.get("exec_id"):
            name = (payload["venue"], _exec_name(payload["exec_id"]))
            self.explained[name] = payload["reason"]
            if payload["outcome"] == "pending":
                self._pending.add(name)

    def _dead(self, payload: Mapping[str, Any]) -> None:
        source = payload["source"]
        original = base64.b64decode(payload["original"])
        self.dead[source["topic"], source["partition"], source["offset"]] = hashlib.sha256(original).hexdigest()
        self.dead_reasons[payload["reason"]] += 1

    def _fill(self, payload: Mapping[str, Any], now_ns: int) -> None:
        fill_id, version = payload["fill_id"], payload["version"]
        if (fill_id, version) in self._seen:
            self.repeated += 1
            return
        self._seen.add((fill_id, version))
        records, highest = self.versions.get(fill_id, (0, 0))
        self.versions[fill_id] = (records + 1, max(highest, version))
        name = (payload["venue"], _exec_name(payload["exec_id"]))
        self.filled.add(name)
        bps, latency_ms = payload["slippage"].get("arrival_bps"), None
        if version == 1:
            key = (*name, payload["account"], payload["symbol"], payload["order_id"])
            if self.first_ids.setdefault(key, fill_id) != fill_id:
                self.let_through += 1
            latency_ms = self._time(payload, name, now_ns)
            self._measure(payload)
        at = datetime.fromtimestamp(payload["exec_ts_ns"] / 1e9, UTC).strftime("%H:%M:%S.%f")[:12]
        self.last.appendleft(
            LastFill(at, payload["venue"], payload["symbol"], payload["side"], payload["filled_size"], payload["price"],
                     payload["status"], version, bps, latency_ms)
        )  # fmt: skip

    def _time(self, payload: Mapping[str, Any], name: tuple[str, str], now_ns: int) -> float | None:
        if name in self._pending:
            self.waited += 1
            return None
        if payload["latency_ms"] <= 0:
            return None  # the venue's clock is ahead of the gateway's: when the gateway had the report cannot be told from the fill
        took_ms = float((now_ns - payload["exec_ts_ns"]) / 1e6 - payload["latency_ms"])
        self.latencies.append(took_ms)
        self.recent.append((now_ns, took_ms))
        return took_ms

    def _measure(self, payload: Mapping[str, Any]) -> None:
        venue = self.venues[payload["venue"]]
        venue.fills += 1
        notional, price = abs(float(payload["residual"]["exposure_notional"])), float(payload["price"])
        for name, benchmark, bps in (
            ("arrival", payload["benchmark"], payload["slippage"].get("arrival_bps")),
            ("mid", payload["benchmark_mid"], payload["slippage"].get("mid_bps")),
        ):
            status = benchmark["status"]
            self.statuses[name, status] += 1
            self.unflagged[name] += (bps is None) != (status == "missing")
            venue.statuses[name, status] += 1
            if status == "ok" and bps is not None:
                weight = notional / price * float(benchmark["px"])  # quantity × multiplier × benchmark price (docs/tca.md)
                venue.weights[name] += weight
                venue.costs[name] += weight * bps

    def spread(self, since_ns: int | None = None) -> Spread:
        """Return the percentiles of all latencies, or of those read since a moment."""
        if since_ns is None:
            return spread_of(self.latencies)
        while self.recent and self.recent[0][0] < since_ns:
            self.recent.popleft()
        return spread_of([took for _, took in self.recent])

    def slippage(self) -> list[VenueSlippage]:
        """Return the slippage by venue, in the order of their names."""
        return [
            VenueSlippage(name, v.fills, v.bps("arrival"), v.bps("mid"), v.statuses["arrival", "stale"], v.statuses["arrival", "missing"],
                          v.statuses["mid", "stale"], v.statuses["mid", "missing"])
            for name, v in sorted(self.venues.items())
        ]  # fmt: skip

    def gaps(self) -> int:
        """Return how many fills lack a version between 1 and their highest."""
        return sum(records != highest for records, highest in self.versions.values())


@dataclass
class _Venue:
    fills: int = 0
    weights: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    costs: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    statuses: Counter[tuple[str, str]] = field(default_factory=Counter)

    def bps(self, benchmark: str) -> float | None:
        weight = self.weights[benchmark]
        return self.costs[benchmark] / weight if weight else None


def _exec_name(exec_id: str) -> str:
    """Return the execution an id names: the simulator repeats a fill under a new id by putting an R before the old one."""
    return exec_id.removeprefix("R")


def spread_of(latencies: list[float]) -> Spread:
    """Return the percentiles of latencies in ms."""
    if not latencies:
        return Spread()
    p50, p95, p99 = np.percentile(np.array(latencies), (50, 95, 99)).tolist()
    return Spread(len(latencies), p50, p95, p99)


class Reader(threading.Thread):
    """Reads the topics from where they end now, read_committed, into a tally.

    `lost`: records that the broker had deleted before they were read. Holes in the offsets tell nothing: transaction markers take some.
    """

    def __init__(self, bootstrap: str, client: Mapping[str, Any], tally: Tally) -> None:
        super().__init__(name="reader", daemon=True)
        self.tally = tally
        self.lost = 0
        self.failure: Exception | None = None
        self.last_read = time.monotonic()
        self._over = threading.Event()
        self._consumer = Consumer(
            {
                "log_level": 0,
                **client,
                "bootstrap.servers": bootstrap,
                "group.id": f"hedgerow-demo-{uuid.uuid4()}",  # librdkafka wants one; nothing is ever committed under it
                "enable.auto.commit": False,
                "auto.offset.reset": "error",  # a position that is gone must be told, not skipped
                "isolation.level": "read_committed",
                "fetch.wait.max.ms": 5,
                "fetch.queue.backoff.ms": 5,
            }
        )
        topics = self._consumer.list_topics(timeout=10.0).topics
        places = [TopicPartition(topic, p) for topic in READ for p in topics[topic].partitions]
        self._next = {(p.topic, p.partition): self._consumer.get_watermark_offsets(p, timeout=10.0)[1] for p in places}

    def run(self) -> None:
        """Read until `end`."""
        try:
            self._assign()
            while not self._over.is_set():
                first = self._consumer.poll(0.1)
                if first is None:
                    continue
                messages = [first, *self._consumer.consume(2_000, 0)]
                now_ns = time.time_ns()
                self.last_read = time.monotonic()
                with self.tally.lock:
                    gone = [message for message in messages if not self._take(message, now_ns)]
                if gone:
                    self._go_on(gone)
        except (KafkaException, RuntimeError) as error:
            self.failure = error

    def _assign(self) -> None:
        self._consumer.assign([TopicPartition(topic, partition, offset) for (topic, partition), offset in self._next.items()])

    def _take(self, message: Any, now_ns: int) -> bool:
        """Put a message into the tally; return False when it says that the place to read from is not in the topic any more."""
        topic, partition, error = message.topic(), message.partition(), message.error()
        if error is not None:
            return error.code() not in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE)
        self._next[topic, partition] = message.offset() + 1
        self.tally.take(topic, partition, message.offset(), message.value() or b"", now_ns)
        return True

    def _go_on(self, gone: list[Any]) -> None:
        """Count what was deleted unread, and go on where those partitions begin now."""
        for place in {(message.topic(), message.partition()) for message in gone}:
            first = self._consumer.get_watermark_offsets(TopicPartition(*place), timeout=5.0)[0]
            self.lost += max(0, first - self._next[place])
            self._next[place] = max(first, self._next[place])
        self._assign()  # librdkafka refuses to seek after this error

    def end(self) -> None:
        """Stop reading and close the consumer."""
        if not self._over.is_set():
            self._over.set()
            self.join(timeout=5.0)
            self._consumer.close()


# ---- what the worker says --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Metrics:
    """One scrape: the runtime's figures by name, the lanes' counters summed over lanes, the broadcast table's."""

    at: float
    runtime: Mapping[str, float]
    lanes: Mapping[str, int]
    broadcast: Mapping[str, int]


def scrape(port: int) -> Metrics | None:
    """Read the worker's metrics from loopback; None while it does not answer."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=2.0) as answer:
            text = answer.read().decode()
    except (urllib.error.URLError, OSError):
        return None
    return parse_metrics(text, time.monotonic())


def parse_metrics(text: str, at: float) -> Metrics:
    """Return the metrics in a Prometheus exposition."""
    runtime: dict[str, float] = defaultdict(float)
    lanes: dict[str, int] = defaultdict(int)
    broadcast: dict[str, int] = defaultdict(int)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == "hedgerow_lane_count":
                lanes[sample.labels["name"]] += int(sample.value)
            elif sample.name == "hedgerow_broadcast_count":
                broadcast[sample.labels["name"]] += int(sample.value)
            elif "le" not in sample.labels:
                runtime[sample.name] += sample.value
    return Metrics(at, runtime, lanes, broadcast)


def since(found: Metrics, began: Metrics) -> Metrics:
    """Return the metrics without what was there when the demo began; gauges likewise."""

    def less(now: Mapping[str, Any], then: Mapping[str, Any]) -> dict[str, Any]:
        return defaultdict(int, {name: value - then.get(name, 0) for name, value in now.items()})

    runtime = less(found.runtime, began.runtime)
    return Metrics(found.at, runtime, less(found.lanes, began.lanes), less(found.broadcast, began.broadcast))


# ---- what was sent ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sent:
    """The simulator's account: its closing line, and (topic, partition, offset) → (SHA-256, kind, fault) of every message Kafka took."""

    closing: Mapping[str, Any]
    ledger: Mapping[tuple[str, int, int], tuple[str, str, str]]

    @property
    def inputs(self) -> int:
        """Return how many messages went to the flow's own inputs."""
        return sum(count for topic, count in self.closing["sent"].items() if topic in EXECUTION_INPUTS)

    @property
    def quotes(self) -> int:
        """Return how many went to its market data."""
        return sum(count for topic, count in self.closing["sent"].items() if topic in EXECUTION_BROADCAST)


def read_sent(output: Path, ledger: Path) -> Sent:
    """Read what the simulator printed and its ledger. Raises DemoError when it did not come to its end."""
    lines = output.read_text().splitlines()
    try:
        closing = json.loads(lines[-1])
    except (IndexError, ValueError):
        raise DemoError("the simulator ended without telling what it sent") from None
    rows = {}
    with ledger.open() as file:
        for line in file:
            row = json.loads(line)
            if row["offset"] is not None:
                rows[row["topic"], row["partition"], row["offset"]] = (row["sha256"], row["kind"], row["fault"])
    return Sent(closing, rows)


# ---- the verdict -----------------------------------------------------------------------------------------------------


def service_levels(sent: Sent, tally: Tally, worker: Metrics, lost: int, embedded: bool) -> list[Level]:
    """Return the closing table. `worker`: its metrics since the demo began; `lost`: records the embedded broker dropped unread."""
    counts = worker.lanes
    received, internal = counts["received"], counts["rerouted"] + tally.read[ALIASES]
    whole = tally.spread()
    rows = [
        _check("inputs taken in", "all sent", received == sent.inputs + internal and not sent.closing["undelivered"],
               f"{received:,} of {sent.inputs:,} + {internal:,} re-sent"),
        _check("each ends in one outcome", "balance closes", counts["balance_mismatch"] == 0, f"off by {counts['balance_mismatch']:,}"),
        _fills_sent(sent, tally),
        _check("fills on the topic", "all it counts", tally.read[FILLS] == counts["fills_published"] and not tally.unreadable,
               f"{tally.read[FILLS]:,} of {counts['fills_published']:,}"),
        _check("versions repeated, skipped", "0", not tally.repeated and not tally.gaps(),
               f"{tally.repeated} repeated, {tally.gaps()} skipped"),
        _repeats(sent, tally),
        _spoiled(sent, tally),
        _check("dead letters", "each with its reason", sum(dead_reasons(counts).values()) == counts["dlq"], _dead_share(counts, received)),
        _check("market data taken in", "all sent", worker.broadcast["snapshots"] == sent.quotes,
               f"{worker.broadcast['snapshots']:,} of {sent.quotes:,}"),
    ]  # fmt: skip
    if embedded:
        rows.append(_check("dropped unread by the broker", "0", not lost, f"{lost:,} records"))
    rows += [
        _timing("fill → published, p50", _AIM_P50_MS, whole.p50),
        _timing("fill → published, p95", _AIM_P95_MS, whole.p95),
        _slippage("slippage against arrival", tally, "arrival"),
        _slippage("slippage against mid", tally, "mid"),
        Level("exactly once through crashes", "none lost or twice", "not measured here", "not measured here"),
        Level("fills per second and worker", "100,000", "not measured here", "not measured here"),
    ]
    return rows


def _check(metric: str, aim: str, holds: bool, reached: str) -> Level:
    return Level(metric, aim, reached, "ok" if holds else "missed", correct=True)


def _fills_sent(sent: Sent, tally: Tally) -> Level:
    """Every TRADE sent undamaged is on the fill topic, or the audit says why not."""
    trades = set()
    for (partition, offset), name in tally.trades.items():
        row = sent.ledger.get((REPORTS, partition, offset))
        if row is not None and row[2] not in _SPOILED:
            trades.add(name)
    expected = sum(
        kind == "TRADE" and fault not in _SPOILED and topic == REPORTS for (topic, _, _), (_, kind, fault) in sent.ledger.items()
    )
    seen = sum(
        (REPORTS, *place) in sent.ledger and sent.ledger[REPORTS, *place][2] not in _SPOILED for place in tally.trades
    )  # what was sent and this reader did not see would otherwise pass unnoticed
    published = trades & tally.filled
    missing = trades - published - tally.explained.keys()
    holds = not missing and seen == expected
    waiting = len(trades) - len(published) - len(missing)
    reached = f"{len(published):,} out, {waiting:,} waiting, {len(missing) + expected - seen:,} lost"
    return _check("good fills sent are published", "or audited why not", holds, reached)


def _repeats(sent: Sent, tally: Tally) -> Level:
    sent_again = sum(fault.startswith("duplicate_") and fault != "duplicate_keys" for _, _, fault in sent.ledger.values())
    return _check("duplicates let through", "0", not tally.let_through, f"{tally.let_through} of {sent_again:,} sent")


def _spoiled(sent: Sent, tally: Tally) -> Level:
    spoiled = {place: row[0] for place, row in sent.ledger.items() if row[2] in _SPOILED and place[0] in EXECUTION_INPUTS}
    kept = sum(tally.dead.get(place) == digest for place, digest in spoiled.items())
    return _check("spoiled kept as dead letters", "all, byte for byte", kept == len(spoiled), f"{kept:,} of {len(spoiled):,}")


def _timing(metric: str, aim_ms: float, reached_ms: float | None) -> Level:
    if reached_ms is None:
        return Level(metric, f"{aim_ms:.0f} ms at 20,000/s", "no fill to time", "not measured here")
    return Level(metric, f"{aim_ms:.0f} ms at 20,000/s", f"{reached_ms:.1f} ms", "ok" if reached_ms <= aim_ms else "missed")


def _dead_share(counts: Mapping[str, int], received: int) -> str:
    reasons = dead_reasons(counts)
    return f"{100 * counts['dlq'] / received if received else 0.0:.2f}% of inputs, {len(reasons)} reasons"


def dead_reasons(counts: Mapping[str, int]) -> dict[str, int]:
    """Return dead letters by reason, most first, from a worker's counters."""
    found = named(counts, "dlq_")
    found.pop("resolved", None)
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def named(counts: Mapping[str, int], prefix: str) -> dict[str, int]:
    """Return the counters that begin with `prefix` and are not 0, without it."""
    return {name.removeprefix(prefix): n for name, n in counts.items() if name.startswith(prefix) and n}


def _slippage(metric: str, tally: Tally, benchmark: str) -> Level:
    total = sum(n for (name, _), n in tally.statuses.items() if name == benchmark)
    if not total:
        return Level(metric, "given, or flagged", "no fill to measure", "not measured here")
    shares = {status: 100 * tally.statuses[benchmark, status] / total for status in ("ok", "stale", "missing")}
    return Level(metric, "given, or flagged", " ".join(f"{status} {share:.1f}%" for status, share in shares.items()),
                 "missed" if tally.unflagged[benchmark] else "ok")  # fmt: skip
