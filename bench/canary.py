"""Benchmark of the canary: evaluations a second on one worker, where their processor time goes, and on a real Kafka how long a snapshot takes to be an alert.

Run `python -m bench.canary [--accounts 20000] [--profiles canary-default] [--skip-kafka]`; the last line is JSON. First part: chunks of mixed account and
position snapshots through a lane's own logic, with a commit after each, in processor time; every snapshot makes its account be judged once under each
profile. Second part: the flow in a process of its own, exactly once, an open loop of snapshots that change nothing and among them probes, whose
account's margin goes from good to bad or back; told is the time from the moment the broker took the probe until a read_committed consumer has the
alert in hand. Method and figures: docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import shutil
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from confluent_kafka import TopicPartition
from numpy.typing import NDArray

from bench.driver import Driver, DriverError, broker, empty_topics
from bench.ledger import Cluster, ReadError
from bench.open_loop import LEAD_S, READY_TIMEOUT_S, Gate, Meter, broker_times, producer_of, quantiles, reader_of, send_all
from bench.stages import Timers
from bench.warm_broker import warm_broker
from connectors.kafka_server import BrokerUnavailable, free_port
from flows.settings import variable
from operators import canary, canary_lane
from operators.canary_lane import CanaryLogic, RegimeBoard
from operators.clusters import from_snapshot, market_of
from schemas.chunk import Chunk, join
from schemas.codec import Decoder
from schemas.policy import ROWS, RiskPolicy, load_policies
from schemas.registry import CANARY_BROADCAST, CANARY_CHANGELOG, CANARY_INPUTS
from schemas.times import rfc3339

ACCOUNT, POSITIONS = CANARY_INPUTS[:2]
REGIME = CANARY_BROADCAST[0]
ALERT = "canary.alert.v1"
SECOND = 1_000_000_000
KINDS = 7
"""Largest names of the first part's accounts beside NAMES come in so many hundreds; with cushion, gearing and greeks they make thousands of different keys."""
CUSHIONS = ("0.62", "0.48", "0.33", "0.27")
GEARING = (0.6, 1.2, 1.7)
NAMES = ("SPY", "QQQ", "IWM", "AAPL", "MSFT", "NVDA", "AMZN", "META", "TSLA", "GOOG", "XOM", "JPM", "TLT", "GLD", "HYG", "EFA")
GOOD, BAD = "0.62", "0.15"
"""Cushions in two buckets."""
TARGET_PER_S = 50_000
TARGET_P95_MS = 100.0
STAGES = ("decode", "fold and windows", "evaluate", "keys", "publish", "capture", "rest")
QUIET_S = 5.0


# ---- messages -------------------------------------------------------------------------------------------------------------------


def _envelope(topic: str, number: int, at_ns: int, sender: str, payload: str) -> bytes:
    name = f"{number & 0xFFFFFFFF:08x}-0000-4000-8000-{(number >> 32) + 1:012x}"
    return (
        f'{{"msg_id":"{name}","type":"{topic}","version":"v1","ts":"{rfc3339(at_ns)}","ts_ns":{at_ns},"ttl_ms":600000,"sender":"{sender}",'
        f'"idempotency_key":"{name}","payload":{payload}}}'
    ).encode()


def account_message(account: str, number: int, at_ns: int, cushion: str, pnl: float, gearing: float = 0.6) -> bytes:
    """Return an account snapshot; cushion as a ratio, pnl the day's, gearing the gross value, of a net liquidation of a million."""
    payload = (
        f'{{"account":"{account}","mode":"live","base_currency":"USD","account_type":"margin","net_liquidation":"{1_000_000 + pnl:.2f}",'
        f'"cushion":"{cushion}","excess_liquidity":"610342.18","available_funds":"598110.40","maintenance_margin":"389657.82","initial_margin":"401889.60",'
        f'"look_ahead_excess_liquidity":"608342.18","look_ahead_available_funds":"590110.40","look_ahead_maint_margin":"391657.82",'
        f'"look_ahead_init_margin":"409889.60","gross_position_value":"{1e6 * gearing + pnl:.2f}","daily_pnl":"{pnl:.2f}","as_of_ns":{at_ns}}}'
    )
    return _envelope(ACCOUNT, number, at_ns, "agent.broker", payload)


def positions_message(account: str, number: int, at_ns: int, names: Sequence[str], move: float, greeks: int | None = None) -> bytes:
    """Return a position snapshot with a stock and an option in each name; greeks: how many options have them, all if not given."""
    covered = len(names) if greeks is None else min(greeks, len(names))
    each = 600_000 / len(names)
    exposures = ",".join(
        f'{{"underlying":"{name}","market_value_base":"{each + move:.2f}","market_value_pct_nlv":{(each + move) / 1e4:.4f},'
        f'"dollar_delta_base":"{each * 0.9 + move:.2f}","daily_pnl_base":"{move:.2f}"}}'
        for name in names
    )
    stocks = ",".join(
        f'{{"symbol":"{name}","quantity":"120","market_value_base":"{each + move:.2f}","unrealized_pnl_base":null}}' for name in names
    )
    options = ",".join(
        f'{{"symbol":"{name}","expiry":"2026-03-20","strike":"450","right":"C","quantity":"-2","multiplier":100.0,"delta":0.31,"gamma":0.002,'
        f'"market_value_base":"-1240.5","unrealized_pnl_base":"31.5"}}'
        for name in names
    )  # fmt: skip
    payload = (
        f'{{"account":"{account}","mode":"live","as_of_ns":{at_ns},"stocks":[{stocks}],"options":[{options}],"portfolio":{{'
        f'"dollar_delta_base":"{540_000 + move:.2f}","gamma":-12.5,"greeks_coverage":{covered},"greeks_total":{len(names)},"exposure_base":[{exposures}]}}}}'
    )
    return _envelope(POSITIONS, number, at_ns, "agent.broker", payload)


def regime_message(policy: RiskPolicy, at_ns: int) -> bytes:
    """Return a calm dashboard of a profile."""
    envelopes = {"gamma_zero": {"status": "ready", "result": {"quality": {"rankability": "rankable"}}}, "breadth": {"state": "ready"}}
    rows = [
        {"row": name, "band": "green", "status": "ok", "as_of_ns": at_ns, "freshness_class": "fresh", "envelope": envelopes.get(name)}
        for name in ROWS
    ]
    view = market_of(from_snapshot({str(row["row"]): row for row in rows} | {"as_of": rfc3339(at_ns)}), policy, at_ns)
    key = {"version": "regime-fp-v1", "key": "sha256:" + "0" * 64}
    payload = {
        "profile": policy.profile, "policy_version": policy.version, "policy_fingerprint": policy.fingerprint, "as_of_ns": at_ns, "rows": rows,
        "spy_change_pct": 0.1, "vix_change_pct": -1.0, "composite": view.composite, "lifecycle": view.lifecycle | {"governors": []},
        "confidence": "high", "source_health": [], "fingerprint": key,
    }  # fmt: skip
    return _envelope(REGIME, uuid.uuid4().int & 0xFFFF_FFFF, at_ns, "agent.regime", json.dumps(payload))


def chunk_of(topic: str, values: list[bytes], keys: list[bytes], first: int, now_ns: int) -> Chunk:
    """Return a chunk as a poll makes it."""
    data, bounds = join(values)
    key_data, key_bounds = join(keys)
    return Chunk(topic, 0, data, bounds, np.arange(first, first + len(values), dtype=np.int64), key_data, key_bounds, now_ns)


# ---- first part: evaluations a second ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Round:
    """What comes in between two commits."""

    chunks: list[Chunk]
    now_ns: int


class Load:
    """Accounts in turns: each round some of them, each with an account or a position snapshot; now and then a cushion that changes what is said."""

    def __init__(self, accounts: int, names: int, share: float, changed: float, seed: int) -> None:
        self.names = [f"U{n:07d}" for n in range(accounts)]
        self.keys = [name.encode() for name in self.names]
        self._held, self._share, self._changed = names, share, changed
        self._random = np.random.default_rng(seed)
        self._bad = np.zeros(accounts, np.bool_)
        self._number = 0
        self._offset = {ACCOUNT: 0, POSITIONS: 0}

    def round(self, which: NDArray[np.int64], now_ns: int, both: bool = False) -> Round:
        """Return a round in which every account of `which` says one thing; `both`: two."""
        account = np.ones(len(which), np.bool_) if both else self._random.random(len(which)) >= self._share
        flips = account & (self._random.random(len(which)) < self._changed)
        self._bad[which[flips]] ^= True
        pnl = self._random.normal(0, 3_000, len(which))
        made: dict[str, tuple[list[bytes], list[bytes]]] = {ACCOUNT: ([], []), POSITIONS: ([], [])}
        for i, at in enumerate(which.tolist()):
            self._number += 1
            if account[i]:
                value = account_message(
                    self.names[at], self._number, now_ns, BAD if self._bad[at] else CUSHIONS[at % 4], float(pnl[i]), GEARING[at % 3]
                )
                made[ACCOUNT][0].append(value)
                made[ACCOUNT][1].append(self.keys[at])
            if both or not account[i]:
                held = [f"N{at % (100 * KINDS)}", *(NAMES[(at + k) % len(NAMES)] for k in range(1, self._held))]
                made[POSITIONS][0].append(
                    positions_message(self.names[at], self._number, now_ns, held, float(pnl[i]) / 10, 2 if at % 5 == 0 else None)
                )
                made[POSITIONS][1].append(self.keys[at])
        chunks = []
        for topic, (values, keys) in made.items():
            if values:
                chunks.append(chunk_of(topic, values, keys, self._offset[topic], now_ns))
                self._offset[topic] += len(values)
        return Round(chunks, now_ns)


@dataclass(frozen=True)
class Speed:
    """Processor time of the rounds: evaluations of each a second, and µs per evaluation by stage."""

    per_s: list[float]
    stages_us: dict[str, float]
    evaluations: int
    alerts: int
    snapshots: int
    bytes_in: int
    bytes_kept: int
    keys_known: int
    keys_made: int

    @property
    def median_per_s(self) -> float:
        """Return the median of the rounds."""
        return statistics.median(self.per_s)


def timed() -> Timers:
    """Wrap what a round calls; its own code knows nothing of it."""
    timers = Timers()
    timers.method("decode", Decoder, "decode")
    for name in ("fold_accounts", "fold_positions"):
        timers.method("fold and windows", canary_lane, name)
    timers.method("evaluate", canary, "evaluate_rows")
    timers.method("keys", canary, "keys")
    timers.method("publish", CanaryLogic, "_publish")
    timers.method("capture", CanaryLogic, "capture")
    return timers


def speed(policies: dict[str, RiskPolicy], o: argparse.Namespace) -> Speed:
    """Put rounds of snapshots through one lane and return what they took."""
    load = Load(o.accounts, o.names, o.positions_share, o.changed, o.seed)
    board = RegimeBoard(policies)
    logic = CanaryLogic(0, 1, board)
    begun_ns = 1_767_625_200 * SECOND  # a Monday at 10:00 in New York
    values = [regime_message(policy, begun_ns) for policy in policies.values()]
    board.apply(chunk_of(REGIME, values, [b"regime"] * len(values), 0, begun_ns))
    everyone = np.arange(o.accounts)
    kept = 0
    timers = timed()

    def put(one: Round, drain: bool = False) -> tuple[int, int]:
        """Return (processor time ns, evaluations) of a round."""
        nonlocal kept
        before, begun = logic.counters()["evaluations"], time.thread_time_ns()
        for chunk in one.chunks:
            logic.process(chunk, one.now_ns)
        while True:
            logic.tick(one.now_ns)
            capture = logic.capture()
            if capture.values:
                kept += sum(map(len, capture.values))
                logic.committed(capture.seq, kept)
            if not drain or not logic.counters()["alerts_waiting"]:
                break
        took = time.thread_time_ns() - begun
        return took, logic.counters()["evaluations"] - before

    now_ns = begun_ns
    for at in range(0, o.accounts, o.chunk):  # every account is known and has been said once before anything is timed
        now_ns += SECOND // 10
        put(load.round(everyone[at : at + o.chunk], now_ns, both=True), drain=True)
    per_s, evaluations, snapshots, bytes_in, whole_ns = [], 0, 0, 0, 0
    alerts = sum(logic.counters()[name] for name in ("alerts_first", "alerts_changed", "alerts_heartbeat"))
    kept = known = 0
    at = 0
    for number in range(o.rounds + 2):
        now_ns += SECOND // 40
        which = np.take(everyone, np.arange(at, at + o.chunk), mode="wrap")
        at = (at + o.chunk) % o.accounts
        one = load.round(which, now_ns)
        gc.collect()
        if number == 2:  # the first two bring what is cold
            timers.total_ns.clear()
            kept = 0
            known = logic._memo.made
        took, count = put(one)
        if number >= 2:
            per_s.append(count / took * 1e9)
            evaluations += count
            whole_ns += took
            snapshots += sum(map(len, one.chunks))
            bytes_in += sum(chunk.data.nbytes for chunk in one.chunks)
    counters = logic.counters()
    if counters["balance_mismatch"] or counters["folded"] != counters["received"]:
        raise SystemExit(f"bench.canary: the lane's balance does not close: {counters}")
    said = sum(counters[name] for name in ("alerts_first", "alerts_changed", "alerts_heartbeat")) - alerts
    stages = {name: timers.total_ns[name] / evaluations / 1e3 for name in STAGES[:-1]}
    stages["rest"] = max(0.0, whole_ns / evaluations / 1e3 - sum(stages.values()))
    return Speed(per_s, stages, evaluations, said, snapshots, bytes_in, kept, known, logic._memo.made - known)


# ---- second part: from the snapshot to the alert -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """An open loop: `rate` snapshots a second of `accounts` accounts in turns, and `probes` a second of accounts of their own."""

    accounts: int
    probe_accounts: int
    rate: float
    probes: float
    seconds: float
    warmup_s: float
    seed: int
    folder: Path

    def due(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return (ns at which each is due, its account; probes' accounts are those from `accounts` on)."""
        rng = np.random.default_rng(self.seed)
        span = self.seconds + self.warmup_s
        plain = np.arange(int(span * self.rate)) / self.rate
        probes = self.warmup_s + (np.arange(int(self.seconds * self.probes)) + rng.random(int(self.seconds * self.probes))) / self.probes
        due = np.concatenate([plain, probes])
        which = np.concatenate([np.arange(len(plain)) % self.accounts, self.accounts + np.arange(len(probes)) % self.probe_accounts])
        order = np.argsort(due, kind="stable")
        return (due[order] * 1e9).astype(np.int64), which[order]


def generate(cluster: Cluster, plan: Plan, profiles: Sequence[str], known: Gate, gate: Gate) -> None:
    """Process: dashboards and every account once, then each snapshot when it is due."""
    producer = producer_of(cluster, "hedgerow-bench-load")
    policies = load_policies()
    now_ns = time.time_ns()
    send_all(producer, REGIME, [regime_message(policies[p], now_ns) for p in profiles], [f"regime|{p}".encode() for p in profiles])
    producer.flush(60)
    known.wait()
    names = [f"U{n:07d}" for n in range(plan.accounts + plan.probe_accounts)]
    keys = [name.encode() for name in names]
    number = 0
    for at in range(0, len(names), 200):
        now_ns = time.time_ns()
        part = range(at, min(at + 200, len(names)))
        send_all(producer, POSITIONS, [positions_message(names[i], i, now_ns, NAMES[:5], 0.0) for i in part], [keys[i] for i in part])
        send_all(producer, ACCOUNT, [account_message(names[i], i, now_ns, GOOD, 0.0) for i in part], [keys[i] for i in part])
        producer.poll(0.05)
    producer.flush(60)
    due_ns, which = plan.due()
    bad = np.zeros(len(names), np.bool_)
    sent_probes: list[tuple[int, int]] = []
    late = np.zeros(len(due_ns))
    gc.collect()
    gc.freeze()
    start_ns = gate.wait()
    sent = 0
    while sent < len(due_ns):
        now_ns = time.time_ns()
        ready = min(int(np.searchsorted(due_ns, now_ns - start_ns, "right")), sent + 500)
        if ready <= sent:
            producer.poll(0)
            time.sleep(0.0005)
            continue
        for topic in (ACCOUNT, POSITIONS):
            values, their_keys = [], []
            for i in range(sent, ready):
                at, probe = int(which[i]), which[i] >= plan.accounts
                if (topic == POSITIONS) != (not probe and i % 3 == 0):
                    continue
                number += 1
                as_of = now_ns + i - sent  # unique, so that an alert tells which snapshot it is of
                if probe:
                    bad[at] ^= True
                    sent_probes.append((at, as_of))
                if topic == ACCOUNT:
                    values.append(account_message(names[at], number, as_of, BAD if bad[at] else GOOD, float(number % 997)))
                else:
                    values.append(positions_message(names[at], number, as_of, NAMES[:5], float(number % 97)))
                their_keys.append(keys[at])
            if values:
                send_all(producer, topic, values, their_keys)
        late[sent:ready] = time.time_ns() - (start_ns + due_ns[sent:ready])
        sent = ready
    if producer.flush(60):
        raise SystemExit("bench.canary: not every snapshot could be delivered")
    np.savez(plan.folder / "sent.npz", probes=np.array(sent_probes, np.int64).reshape(-1, 2), late_ms=late / 1e6)


def check(cluster: Cluster, plan: Plan, gate: Gate) -> None:
    """Process: read the alerts as anybody would, read_committed, and note when each is in hand."""
    consumer = reader_of(cluster)
    ends = cluster.ends(cluster.places([ALERT]), committed=True)
    consumer.assign([TopicPartition(topic, partition, end) for (topic, partition), end in ends.items()])
    consumer.consume(1, 0.5)
    gate.wait()
    seen: list[tuple[int, bytes, int]] = []
    until = time.monotonic() + LEAD_S + plan.seconds + plan.warmup_s + QUIET_S
    gc.collect()
    gc.disable()
    while time.monotonic() < until:
        first = consumer.poll(0.05)
        if first is None:
            continue
        messages = [first, *consumer.consume(1_000, 0)]
        at_ns = time.time_ns()
        seen += [(at_ns, message.value() or b"", message.timestamp()[1]) for message in messages if message.error() is None]
    consumer.close()
    rows = []
    for at_ns, value, written_ms in seen:
        payload = json.loads(value)["payload"]
        as_of = payload["result"]["source_as_of_ns"]["account"] or 0
        rows.append((int(payload["account"][1:]), as_of, at_ns, written_ms * 1_000_000, payload["result"]["as_of_ns"]))
    np.savez(plan.folder / "seen.npz", alerts=np.array(rows, np.int64).reshape(-1, 5))


class KafkaRun:
    """The flow in a process of its own, the load and the checker in theirs."""

    def __init__(self, cluster: Cluster, folder: Path, options: argparse.Namespace) -> None:
        self.cluster, self.folder, self.options = cluster, folder, options
        self.run = Driver(cluster, folder, "canary")
        self._context = multiprocessing.get_context("spawn")

    def measure(self) -> dict[str, Any]:
        """Return the figures of one run."""
        o = self.options
        plan = Plan(o.kafka_accounts, o.probe_accounts, o.rate, o.probes, o.seconds, o.warmup, o.seed, self.folder)
        profiles = o.profiles.split(",")
        starts = self.cluster.ends(self.cluster.places([ACCOUNT]))
        known, gate, checked = (Gate(self._context) for _ in range(3))
        load = self._process(generate, self.cluster, plan, profiles, known, gate)
        self._await(known, load)
        settings = {variable("canary_profiles"): o.profiles}
        port = free_port()
        worker = self.run.command("canary", "run", "canary", "--worker", "canary-0", "--metrics-port", str(port), **settings)
        self.run.wait_for_members(1)
        known.open(0)
        self._await(gate, load)
        self.run.recover("the accounts")
        time.sleep(2.0)
        checker = self._process(check, self.cluster, plan, checked)
        self._await(checked, checker)
        start_ns = time.time_ns() + int(LEAD_S * 1e9)
        checked.open(start_ns)
        gate.open(start_ns)
        time.sleep(LEAD_S + plan.warmup_s)
        pids = {"worker": worker.pid, "load": load.pid or 0, "checker": checker.pid or 0}
        meter = Meter(f"http://127.0.0.1:{port}/metrics", pids, ("evaluations",))
        time.sleep(max(0.0, plan.seconds - 1.0))
        metrics = meter.read()
        for process, what in ((load, "the load"), (checker, "the checker")):
            process.join(plan.seconds + plan.warmup_s + 180)
            if process.exitcode != 0:
                raise DriverError(f"{what} ended with code {process.exitcode}\n{self.run.logs()}")
        self.run.stop("canary")
        return self._judge(plan, starts) | {
            f"kafka_{name}" if name.startswith("evaluations") else name: value for name, value in metrics.items()
        }

    def _judge(self, plan: Plan, starts: dict[tuple[str, int], int]) -> dict[str, Any]:
        sent, seen = np.load(self.folder / "sent.npz"), np.load(self.folder / "seen.npz")["alerts"]
        taken: dict[tuple[int, int], int] = {}
        for ms, value in broker_times(self.cluster, starts):
            at, mark = value.find(b'"account":"U') + 12, value.rfind(b'"as_of_ns":') + 11
            taken[int(value[at : at + 7]), int(value[mark : mark + 19])] = ms * 1_000_000
        first: dict[tuple[int, int], tuple[int, int, int]] = {}
        for account, as_of, at_ns, written_ns, judged_ns in seen.tolist():
            first.setdefault((account, as_of), (at_ns, written_ns, judged_ns))
        probes = [(int(a), int(b)) for a, b in sent["probes"]]
        answered = [probe for probe in probes if probe in first and probe in taken]
        total = np.array([(first[p][0] - taken[p]) / 1e6 for p in answered])
        stages = {
            "taken to judged": [(first[p][2] - taken[p]) / 1e6 for p in answered],
            "judged to written": [(first[p][1] - first[p][2]) / 1e6 for p in answered],
            "written to visible": [(first[p][0] - first[p][1]) / 1e6 for p in answered],
        }
        late_p99 = float(np.percentile(sent["late_ms"], 99))
        wrong = {
            f"{len(probes) - len(answered)} of {len(probes)} probes were not answered": len(answered) < len(probes),
            f"one snapshot in a hundred was sent {late_p99:.0f} ms late or more": late_p99 > 20.0,
        }
        return {
            "valid": not any(wrong.values()),
            "invalid_because": [text for text, holds in wrong.items() if holds],
            **quantiles(total),
            "probes": len(probes),
            "snapshots_per_s": plan.rate + plan.probes,
            "stages_p50_ms": {name: quantiles(np.array(values))["p50_ms"] for name, values in stages.items()},
            "stages_p95_ms": {name: quantiles(np.array(values))["p95_ms"] for name, values in stages.items()},
        }

    def end(self) -> None:
        """End whatever still runs."""
        self.run.end()

    def _process(self, work: Any, *words: Any) -> Any:
        process = self._context.Process(target=work, args=words, daemon=True)
        process.start()
        return process

    def _await(self, gate: Gate, process: Any) -> None:
        deadline = time.monotonic() + READY_TIMEOUT_S
        while not gate.ready():
            if process.exitcode is not None or time.monotonic() > deadline:
                raise DriverError(f"a process of the benchmark did not get ready (exit code {process.exitcode})")
            time.sleep(0.05)


# ---- the command -------------------------------------------------------------------------------------------------------------------


def show(found: Speed, o: argparse.Namespace) -> None:
    """Print the first part."""
    whole = sum(found.stages_us.values())
    print(
        f"{o.accounts:,} accounts under {o.profiles}: {found.median_per_s:,.0f} evaluations/s of one core, median of {len(found.per_s)} rounds "
        f"({min(found.per_s):,.0f} to {max(found.per_s):,.0f}); {found.alerts} alerts of {found.evaluations:,} evaluations"
    )
    print(f"  {found.keys_known:,} different keys were known before, {found.keys_made:,} came up")
    for name, us in found.stages_us.items():
        print(f"  {name:<18}{us:7.2f} µs {us / whole:6.1%}")
    print(
        f"  {found.bytes_in / found.snapshots:,.0f} bytes in and {found.bytes_kept / found.snapshots:,.0f} bytes of state written per snapshot"
    )


def main(argv: list[str] | None = None) -> int:
    """Measure; return 0 if what was measured is valid."""
    parser = argparse.ArgumentParser(prog="python -m bench.canary", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--accounts", type=int, default=20_000, metavar="N", help="accounts of the first part (20000)")
    parser.add_argument(
        "--names", type=int, default=5, metavar="N", help="underlyings an account holds, 1 to 16, each as stock and option (5)"
    )
    parser.add_argument("--positions-share", type=float, default=0.33, metavar="S", help="share of position snapshots among all (0.33)")
    parser.add_argument(
        "--changed", type=float, default=0.002, metavar="S", help="share of account snapshots that change what is said (0.002)"
    )
    parser.add_argument("--chunk", type=int, default=4_000, metavar="N", help="snapshots between two commits of the first part (4000)")
    parser.add_argument("--rounds", type=int, default=30, metavar="N", help="commits of the first part (30)")
    parser.add_argument("--profiles", default="canary-default", metavar="P,P", help="policy profiles (canary-default)")
    parser.add_argument("--kafka-accounts", type=int, default=5_000, metavar="N", help="accounts of the second part (5000)")
    parser.add_argument("--probe-accounts", type=int, default=500, metavar="N", help="accounts of probes (500)")
    parser.add_argument("--rate", type=float, default=2_000.0, metavar="N", help="snapshots a second of the second part (2000)")
    parser.add_argument("--probes", type=float, default=50.0, metavar="N", help="probes a second (50)")
    parser.add_argument("--seconds", type=float, default=20.0, metavar="S", help="how long the second part is measured (20)")
    parser.add_argument("--warmup", type=float, default=5.0, metavar="S", help="how long it runs before that (5)")
    parser.add_argument("--partitions", type=int, default=4, metavar="N", help="lanes of the second part (4)")
    parser.add_argument("--seed", type=int, default=1, metavar="N")
    parser.add_argument("--skip-kafka", action="store_true", help="only the first part")
    parser.add_argument("--wipe", action="store_true", help="delete hedgerow's topics and all consumer groups at HEDGEROW_KAFKA first")
    args = parser.parse_args(argv)
    known = load_policies()
    if not set(args.profiles.split(",")) <= set(known):
        parser.error(f"--profiles must be of {', '.join(known)}")
    if not 1 <= args.names <= len(NAMES) or not 1 <= args.chunk <= args.accounts:
        parser.error("--names must be 1 to 16, --chunk at most --accounts")
    found = speed({profile: known[profile] for profile in args.profiles.split(",")}, args)
    show(found, args)
    line: dict[str, Any] = {
        "benchmark": "canary",
        "accounts": args.accounts,
        "profiles": args.profiles.split(","),
        "evaluations_per_s": round(found.median_per_s),
        "evaluations_target_met": found.median_per_s >= TARGET_PER_S,
        "us_per_evaluation": {name: round(us, 2) for name, us in found.stages_us.items()},
        "alerts": found.alerts,
        "keys_known": found.keys_known,
        "keys_made": found.keys_made,
        "state_bytes_per_snapshot": round(found.bytes_kept / found.snapshots),
    }
    good = True
    if not args.skip_kafka:
        folder = Path(tempfile.mkdtemp(prefix="hedgerow-canary-"))
        try:
            with broker(folder, args.wipe) as (cluster, may_delete):
                from bench.latency import stamp_topics

                warm_broker(cluster.bootstrap)
                empty_topics(cluster, args.partitions, may_delete)
                stamp_topics(cluster, (ACCOUNT, ALERT, CANARY_CHANGELOG))
                kafka = KafkaRun(cluster, folder, args)
                try:
                    figures = kafka.measure()
                finally:
                    kafka.end()
            line |= figures | {"latency_target_met": figures["p95_ms"] <= TARGET_P95_MS}
            good = bool(figures["valid"])
            print(
                f"snapshot taken to alert visible: p50 {figures['p50_ms']:.1f} ms, p95 {figures['p95_ms']:.1f} ms, p99 {figures['p99_ms']:.1f} ms"
            )
        except (DriverError, BrokerUnavailable, ReadError) as error:
            print(f"canary: {error}", file=sys.stderr)
            good = False
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(line), flush=True)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
