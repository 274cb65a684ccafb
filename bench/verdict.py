"""Whether a finished run of the execution flow was right: every topic on the broker against the simulator's ledger and the slow oracle.

Every lane is judged by itself, in a process of its own: its inputs are fed to the oracle in the order of arrival its audit chain tells
(checked: offset order within every topic), so nothing need be left out for depending on that order. Rules: docs/reconciliation.md.
"""

from __future__ import annotations

import base64
import json
import multiprocessing
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from decimal import Decimal
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from bench.ledger import Cluster, Record, Sent, SimulatorLedger
from bench.oracle import ALIAS, REPORT, FillVersion, LaneOracle, lane_of
from schemas.reasons import Reason
from schemas.reference import load_reference
from schemas.registry import EXECUTION_BROADCAST, EXECUTION_CHANGELOG, EXECUTION_INPUTS, EXECUTION_OUTPUTS

FILL, AUDIT, DLQ, ALERT, HALT = (
    "execution.event.fill.v1", "audit.event.execution", "dlq.execution", "compliance.event.alert.v1", "execution.request.halt.v1",
)  # fmt: skip
PUBLISHED = (FILL, AUDIT, DLQ, ALERT, HALT, ALIAS)
"""Topics in which no msg_id may be there twice; a re-published input keeps the one it came with."""
KINDS = ("lost", "repeated", "unbalanced", "state_mismatch")
HEDGE_KINDS = ("hedged_twice", "hedges_lost")
"""Of the hedger, beside the others."""
CANARY_KINDS = ("episodes_broken", "webhooks_lost", "webhooks_repeated")
"""Of the canary, its monitor and the webhooks."""
BALANCE = ("received", "published", "duplicate", "pending", "dlq", "rerouted")
GENESIS = "0" * 64
KEPT_TEXTS = 12
KEPT_SUSPECTS = 10
REPORT_EVERY_S = 10.0
CLOCKED = frozenset(("order_unknown_expired", "uncorrelated_expired", "ref_unknown_expired", "gap_expired"))
"""Audit reasons that tell when a clock of the lane rang."""
UNCLOCKED_ALERTS = frozenset(("gap_opened", "gap_expired", "confirm_expired"))
"""Alerts of clocks; when they ring depends on how long the run lasts, and the confirmation clock is not the oracle's."""


@dataclass
class Problems:
    """What was found wrong: how often by kind, and the first few in words."""

    counts: Counter[str] = field(default_factory=Counter)
    texts: list[str] = field(default_factory=list)

    def add(self, kind: str, text: str, times: int = 1) -> None:
        """Count a problem of a kind (one of KINDS, HEDGE_KINDS and CANARY_KINDS)."""
        if kind not in (*KINDS, *HEDGE_KINDS, *CANARY_KINDS):
            raise ValueError(kind)
        self.counts[kind] += times
        if len(self.texts) < KEPT_TEXTS:
            self.texts.append(f"{kind}: {text}")

    def merge(self, other: Problems) -> None:
        """Take over what another found."""
        self.counts += other.counts
        self.texts += other.texts


class Fill(NamedTuple):
    """One published version as the topic has it; numbers as text. `name`: its first execution in words, equal for flow and oracle."""

    fill_id: str
    version: int
    correlation_id: str
    first: tuple[str, ...]
    shown: dict[str, Any]


class Letter(NamedTuple):
    """One dead letter as the topic has it."""

    topic: str
    offset: int
    reason: str
    key: bytes
    value: bytes


@dataclass(frozen=True)
class LaneTask:
    """What a lane's judge must be given; everything else it reads from the broker."""

    cluster: Cluster
    lane: int
    n_lanes: int
    reference: Path
    sent: dict[str, dict[int, Sent]]
    fills: list[Fill]
    letters: list[Letter]
    unplaced: dict[str, Counter[bytes]] = field(default_factory=dict)


@dataclass
class LaneVerdict:
    """What a lane's judge found. `arrived`, `passed_on`: records (topic, key, sha256, lane) that came from, and went to, other lanes."""

    lane: int
    problems: Problems = field(default_factory=Problems)
    inputs: Counter[str] = field(default_factory=Counter)
    balance: dict[str, int] = field(default_factory=dict)
    counters: dict[str, int] = field(default_factory=dict)
    arrived: Counter[tuple[str, bytes, bytes, int]] = field(default_factory=Counter)
    passed_on: Counter[tuple[str, bytes, bytes, int]] = field(default_factory=Counter)
    aliases: set[tuple[str, str, str]] = field(default_factory=set)
    alerts: set[tuple[str, str, str]] = field(default_factory=set)
    positions: dict[tuple[str, str], Decimal] = field(default_factory=dict)
    suspects: set[str] = field(default_factory=set)
    """Correlations of which a fill or a venue order differs."""
    evidence: list[dict[str, Any]] = field(default_factory=list)
    """Their inputs, in the order the oracle was fed: topic, lane, offset, now_ns, key, value."""
    unsettled: int = 0
    """Fill versions whose exec_id differs where the rules leave it open."""
    orders: int = 0
    audits: int = 0
    seconds: float = 0.0


@dataclass
class Verdict:
    """The judgement of a run: `problems`, and the figures that say how much was looked at."""

    problems: Problems = field(default_factory=Problems)
    checks: list[tuple[str, str, bool]] = field(default_factory=list)
    """(what was compared, with which figures, whether it held)."""
    evidence: list[dict[str, Any]] = field(default_factory=list)
    """Every input of the first orders that differ: what a failing case can be made of."""
    inputs: int = 0
    balance: Counter[str] = field(default_factory=Counter)
    fills: int = 0
    unsettled: int = 0
    """Fill versions whose exec_id differs where the rules leave open whose it is; everything else in them is equal."""
    seconds: float = 0.0

    @property
    def good(self) -> bool:
        """Whether nothing at all was wrong."""
        return not self.problems.counts


def judge(cluster: Cluster, ledger: SimulatorLedger, reference: Path, processes: int = 2) -> Verdict:
    """Compare everything; the flow must have stopped. Runs `processes` lanes at a time, each in a process of its own.

    Raises ReadError when the broker cannot be read.
    """
    begun = time.monotonic()
    verdict = Verdict()
    problems = verdict.problems
    n_lanes = len(cluster.places([EXECUTION_CHANGELOG]))
    check_open_transactions(cluster, (*EXECUTION_INPUTS, *EXECUTION_OUTPUTS, EXECUTION_CHANGELOG), verdict)
    fills = _read_fills(cluster, verdict)
    letters = _read_letters(cluster, verdict)
    aliases = _read_aliases(cluster, verdict)
    alerts = _read_alerts(cluster, verdict)
    _check_quotes(cluster, ledger, verdict)
    of_lane: dict[int, list[Fill]] = defaultdict(list)
    lanes: dict[str, int] = {}
    for fill in fills:
        lane = lanes.setdefault(fill.correlation_id, lane_of(fill.correlation_id, n_lanes))
        of_lane[lane].append(fill)
    if ledger.undelivered:
        problems.add("lost", f"{ledger.undelivered} messages the simulator could not deliver", ledger.undelivered)
    tasks = [
        LaneTask(
            cluster,
            lane,
            n_lanes,
            reference,
            ledger.of_lane(EXECUTION_INPUTS, lane),
            of_lane[lane],
            letters.get(lane, []),
            {topic: found for (topic, partition), found in ledger.unplaced.items() if partition == lane},
        )
        for lane in range(n_lanes)
    ]
    found: list[LaneVerdict] = []
    # spawn: a forked child would share this process's Kafka clients
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        for done in as_completed([pool.submit(judge_lane, task) for task in tasks]):
            judged = done.result()
            found.append(judged)
            say(
                f"lane {judged.lane}: {sum(judged.inputs.values()):,} inputs, {judged.audits:,} audit records, {judged.orders:,} "
                f"venue orders compared in {judged.seconds:.0f} s, {sum(judged.problems.counts.values())} problems"
            )
    _sum_up(verdict, found, fills, aliases, alerts, n_lanes)
    verdict.seconds = time.monotonic() - begun
    return verdict


def say(text: str) -> None:
    """Tell how it goes."""
    print(f"{Path(sys.argv[0]).stem}: {text}", file=sys.stderr, flush=True)


# ---- topics as a whole ----------------------------------------------------------------------------------------------------------


def check_open_transactions(cluster: Cluster, topics: Collection[str], verdict: Verdict) -> None:
    """No transaction may hang: it would keep read_committed consumers from what comes after it."""
    places = cluster.places(dict.fromkeys(topics))
    ends, stable = cluster.ends(places), cluster.ends(places, committed=True)
    hanging = [place for place in places if ends[place] != stable[place]]
    for topic, partition in hanging:
        verdict.problems.add("lost", f"a transaction hangs in {topic}[{partition}]")
    verdict.checks.append(("transactions that hang", f"{len(hanging)} of {len(places)} partitions", not hanging))


def _messages(cluster: Cluster, topic: str, verdict: Verdict) -> Iterable[dict[str, Any]]:
    """Yield the messages of an output topic, seeing to it that no msg_id is there twice."""
    seen: set[str] = set()
    twice = 0
    for _, record in cluster.read(cluster.places([topic])):
        message = json.loads(record.value)
        if message["msg_id"] in seen:
            twice += 1
            verdict.problems.add("repeated", f"{topic}: msg_id {message['msg_id']} is there twice")
        seen.add(message["msg_id"])
        yield message
    verdict.checks.append((f"msg_id twice in {topic}", f"{twice} of {len(seen):,}", not twice))


FILL_NUMBERS = ("signed_delta", "filled_size", "price", "cum_size", "leaves_size", "avg_price")
FILL_TEXTS = ("status", "order_id", "symbol", "side", "venue", "account", "book", "exec_id", "provisional")


def _read_fills(cluster: Cluster, verdict: Verdict) -> list[Fill]:
    """Return every fill version; each must be there once, and the versions of a fill count from 1."""
    fills: list[Fill] = []
    firsts: dict[str, tuple[str, ...]] = {}
    versions: dict[str, list[int]] = defaultdict(list)
    for message in _messages(cluster, FILL, verdict):
        p = message["payload"]
        shown = {name: p[name] for name in (*FILL_NUMBERS, *FILL_TEXTS)}
        shown |= {
            "residual_size": p["residual"]["order_size"],
            "residual_notional": p["residual"]["exposure_notional"],
            "commission": p.get("commission"),
            "commission_ccy": p.get("commission_ccy"),
            "liquidity_flag": p.get("liquidity_flag"),
            "latency_ms": p["latency_ms"],
        }
        name = (p["venue"], p["account"], p["symbol"], p["exec_id"], str(p["exec_ts_ns"]), message["correlation_id"])
        if p["version"] == 1:
            firsts[p["fill_id"]] = name
        versions[p["fill_id"]].append(p["version"])
        fills.append(Fill(p["fill_id"], p["version"], message["correlation_id"], (), shown))
    holes = 0
    for fill_id, numbers in versions.items():
        twice = len(numbers) - len(set(numbers))
        if twice:
            verdict.problems.add("repeated", f"fill {fill_id}: versions {sorted(numbers)}", twice)
        missing = max(numbers) - len(set(numbers))
        if missing:
            holes += missing
            verdict.problems.add("lost", f"fill {fill_id}: versions {sorted(numbers)} have a hole", missing)
    verdict.fills = len(fills)
    verdict.checks.append(
        ("fill versions: each once, from 1 on", f"{len(fills):,} of {len(versions):,} fills, {holes} missing",
         not holes and all(len(n) == len(set(n)) for n in versions.values())),
    )  # fmt: skip
    return [fill._replace(first=firsts.get(fill.fill_id, (fill.fill_id,))) for fill in fills]


def _read_letters(cluster: Cluster, verdict: Verdict) -> dict[int, list[Letter]]:
    """Return the dead letters by the lane they were read in; no input may be in the DLQ twice."""
    letters: dict[int, list[Letter]] = defaultdict(list)
    seen: set[tuple[str, int, int]] = set()
    twice = 0
    for message in _messages(cluster, DLQ, verdict):
        p = message["payload"]
        source = p["source"]
        place = (source["topic"], source["partition"], source["offset"])
        if place in seen:
            twice += 1
            verdict.problems.add("repeated", f"the DLQ has {place} twice")
        seen.add(place)
        key, value = base64.b64decode(p.get("source_key") or ""), base64.b64decode(p["original"])
        letters[source["partition"]].append(Letter(source["topic"], source["offset"], p["reason"], key, value))
    verdict.checks.append(("inputs in the DLQ twice", f"{twice} of {len(seen):,}", not twice))
    return letters


def _read_aliases(cluster: Cluster, verdict: Verdict) -> Counter[tuple[str, str, str]]:
    return Counter(
        (message["payload"]["venue"], message["payload"]["venue_order_id"], message["correlation_id"])
        for message in _messages(cluster, ALIAS, verdict)
    )


def _read_alerts(cluster: Cluster, verdict: Verdict) -> set[tuple[str, str, str]]:
    alerts = {
        (message["payload"]["rule_id"], message["payload"]["severity"], message["payload"]["order_id"])
        for message in _messages(cluster, ALERT, verdict)
    }
    for _ in _messages(cluster, HALT, verdict):
        pass
    return {alert for alert in alerts if alert[0] not in UNCLOCKED_ALERTS}


def _check_quotes(cluster: Cluster, ledger: SimulatorLedger, verdict: Verdict) -> None:
    places = cluster.places(EXECUTION_BROADCAST)
    sent = {(place, offset): told.sha256 for place in places for offset, told in ledger.sent.get(place, {}).items()}
    unplaced = Counter((place, digest) for place in places for digest in ledger.unplaced.get(place, Counter()).elements())
    there = {(place, record.offset): sha256(record.value).digest() for place, record in cluster.read(places)}
    others = Counter((place, digest) for (place, offset), digest in there.items() if (place, offset) not in sent)
    bad = sum(there.get(name) != digest for name, digest in sent.items())
    bad += (others - unplaced).total() + (unplaced - others).total()
    if bad:
        verdict.problems.add("lost", f"{bad} quotes are not as the simulator's ledger has them", bad)
    verdict.checks.append(("quotes as sent", f"{len(there):,}", not bad))


# ---- one lane -------------------------------------------------------------------------------------------------------------------


class Audit(NamedTuple):
    """The part of an audit record that is used here."""

    topic: str
    offset: int
    reason: str
    outcome: str
    ts_ns: int


def judge_lane(task: LaneTask) -> LaneVerdict:
    """Judge one lane: inputs, audit chain, dead letters, the oracle's fills and states against the flow's."""
    begun = time.monotonic()
    verdict = LaneVerdict(task.lane)
    problems = verdict.problems
    inputs = task.cluster.read_lane((*EXECUTION_INPUTS, AUDIT, EXECUTION_CHANGELOG), task.lane)
    chain, changelog = inputs.pop(AUDIT), inputs.pop(EXECUTION_CHANGELOG)
    for topic, records in inputs.items():
        verdict.inputs[topic] = len(records)
        check_sent(task, topic, records, verdict)
    audits = read_audits(task, chain, problems)
    chain.clear()
    verdict.audits = len(audits)
    oracle = LaneOracle(task.lane, task.n_lanes, load_reference(task.reference))
    order = play(oracle, inputs, audits, lambda text: problems.add("state_mismatch", f"lane {task.lane}: {text}"), task.lane)
    check_letters(task, inputs, oracle, problems)
    check_fills(task, oracle, verdict)
    _check_state(task, inputs, changelog, oracle, audits, verdict)
    for topic, key, value in oracle.reroutes:
        verdict.passed_on[topic, key, sha256(value).digest(), lane_of(key, task.n_lanes)] += 1
    verdict.aliases = {a for a in oracle.aliases if lane_of(f"{a[0]}|{a[1]}", task.n_lanes) != task.lane}
    verdict.alerts = {alert for alert in oracle.alerts if alert[0] not in UNCLOCKED_ALERTS}
    for fill in oracle.fills:
        name = (fill.account, fill.symbol)
        verdict.positions[name] = verdict.positions.get(name, Decimal(0)) + fill.signed_delta
    if verdict.suspects:
        verdict.evidence = _evidence(task.lane, inputs, oracle, order, sorted(verdict.suspects)[:KEPT_SUSPECTS])
    verdict.seconds = time.monotonic() - begun
    return verdict


def check_sent(task: LaneTask, topic: str, records: list[Record], verdict: LaneVerdict) -> None:
    """What the simulator sent must be there, byte for byte; anything else must have come from another lane."""
    sent = dict(task.sent.get(topic, {}))
    unplaced = Counter(task.unplaced.get(topic))
    for record in records:
        told = sent.pop(record.offset, None)
        digest = sha256(record.value).digest()
        if told is None and unplaced[digest]:
            unplaced[digest] -= 1
        elif told is None:
            verdict.arrived[topic, record.key, digest, task.lane] += 1
        elif told.sha256 != digest:
            verdict.problems.add("lost", f"{topic}[{task.lane}] offset {record.offset} holds other bytes than were sent")
    if sent:
        verdict.problems.add("lost", f"{topic}[{task.lane}]: {len(sent)} records sent are not there, first {min(sent)}", len(sent))
    if missing := unplaced.total():
        verdict.problems.add("lost", f"{topic}[{task.lane}]: {missing} records sent without a word of their offset are not there", missing)


def read_audits(task: LaneTask, chain: list[Record], problems: Problems) -> list[Audit]:
    """Return the lane's audit records; their hashes and numbers must chain without a break."""
    audits: list[Audit] = []
    for number, message in enumerate(read_chain(task.lane, chain, problems)):
        p = message["payload"]
        source = p["input"]
        if source["partition"] != task.lane:
            problems.add("state_mismatch", f"audit record {number} of lane {task.lane} is about partition {source['partition']}")
        audits.append(Audit(source["topic"], source["offset"], p["reason"], p["outcome"], message["ts_ns"]))
    return audits


def read_chain(lane: int, chain: Iterable[Record], problems: Problems) -> Iterator[dict[str, Any]]:
    """Yield a lane's audit messages; their hashes and numbers must chain without a break."""
    previous = GENESIS
    for number, record in enumerate(chain):
        message = json.loads(record.value)
        p = message["payload"]
        if p["seq"] != number or p["prev_sha256"] != previous or p["lane"] != lane:
            kind = "repeated" if p["seq"] < number else "lost"
            problems.add(kind, f"audit chain of lane {lane} breaks at offset {record.offset}: number {p['seq']}, expected {number}")
        previous = sha256(record.value).hexdigest()
        yield message


def play(
    oracle: LaneOracle, inputs: dict[str, list[Record]], audits: list[Audit], wrong: Callable[[str], None], lane: int = 0
) -> list[tuple[str, int, int]]:
    """Feed a lane's inputs to the oracle in the order and at the times its audit records tell; return (topic, position, now_ns) as fed.

    A repeat leaves no audit record: it is fed right after the record before it in its topic. An order that is not offset order within
    a topic is told to `wrong`.
    """
    audited = {(audit.topic, audit.offset) for audit in audits}
    at = dict.fromkeys(inputs, 0)
    now = 0
    begun = told = time.monotonic()
    total = sum(map(len, inputs.values()))
    fed: list[tuple[str, int, int]] = []

    def feed(topic: str) -> None:
        record = inputs[topic][at[topic]]
        fed.append((topic, at[topic], now))
        at[topic] += 1
        oracle.feed(topic, record.offset, record.key, record.value, now)

    def feed_repeats(topic: str) -> None:
        while at[topic] < len(inputs[topic]) and (topic, inputs[topic][at[topic]].offset) not in audited:
            feed(topic)

    last_rung = 0
    seen: set[tuple[str, int]] = set()
    for audit in audits:
        now = max(now, audit.ts_ns)
        place = (audit.topic, audit.offset)
        if audit.reason in CLOCKED and (place in seen or audit.offset < 0):
            if now != last_rung:
                last_rung = now
                oracle.advance(now)
            continue
        if audit.offset < 0 or place in seen:
            continue
        seen.add(place)
        feed_repeats(audit.topic)
        records, position = inputs[audit.topic], at[audit.topic]
        if position == len(records) or records[position].offset != audit.offset:
            following = f"offset {records[position].offset}" if position < len(records) else "its end"
            wrong(f"the audit chain first speaks of {place} when {following} is next")
            continue
        feed(audit.topic)
        feed_repeats(audit.topic)
        if time.monotonic() - told > REPORT_EVERY_S:
            told = time.monotonic()
            say(f"lane {lane}: oracle at {len(fed):,} of {total:,} inputs after {told - begun:.0f} s")
    for topic, records in inputs.items():
        feed_repeats(topic)
        if at[topic] < len(records):
            wrong(f"{topic} was read to offset {records[at[topic]].offset} only")
    oracle.advance(now)
    return fed


def _evidence(
    lane: int, inputs: dict[str, list[Record]], oracle: LaneOracle, fed: list[tuple[str, int, int]], suspects: list[str]
) -> list[dict[str, Any]]:
    """Return every input that speaks of the suspects, or was taken for theirs, in the order the oracle was fed."""
    names = [text.encode() for name in suspects for text in (name, name.replace("-", ""))]
    facts = {fact.place for name in suspects for order in oracle._orders.get(name, []) for fact in order.facts}
    rows = []
    for topic, position, now in fed:
        record = inputs[topic][position]
        if (topic, record.offset) in facts or any(name in record.value or name in record.key for name in names):
            told = {"topic": topic, "lane": lane, "offset": record.offset, "now_ns": now}
            rows.append(told | {"key": record.key.decode(errors="replace"), "value": record.value.decode(errors="replace")})
    return rows


def check_letters(task: LaneTask, inputs: dict[str, list[Record]], oracle: LaneOracle, problems: Problems) -> None:
    """Every dead letter is an existing input with its bytes, and an input the oracle buries for the same reason; none is missing."""
    expected = {(letter.topic, letter.offset): letter.reasons for letter in oracle.dead}
    there = {topic: {record.offset: record for record in records} for topic, records in inputs.items()}
    for letter in task.letters:
        place = (letter.topic, letter.offset)
        source = there.get(letter.topic, {}).get(letter.offset)
        where = f"{letter.topic}[{task.lane}] offset {letter.offset}"
        if source is None:
            problems.add("state_mismatch", f"the DLQ has {where}, where no input is")
        elif (source.key, source.value) != (letter.key, letter.value):
            problems.add("lost", f"the DLQ has other bytes than {where}")
        reasons = expected.pop(place, None)
        if reasons is None:
            problems.add("state_mismatch", f"the DLQ has {where} ({letter.reason}), the oracle has it {oracle.outcomes.get(place)}")
        elif letter.reason not in reasons:
            problems.add("state_mismatch", f"the DLQ has {where} as {letter.reason}, the oracle as {sorted(reasons)}")
    for (topic, offset), reasons in expected.items():
        problems.add("lost", f"{topic}[{task.lane}] offset {offset} ({sorted(reasons)}) is not in the DLQ")


def _shown(fill: FillVersion) -> dict[str, Any]:
    return {
        "signed_delta": fill.signed_delta, "filled_size": fill.filled_size, "price": fill.price, "cum_size": fill.cum_size,
        "leaves_size": fill.leaves_size, "avg_price": fill.avg_price, "status": fill.status, "order_id": fill.order_id,
        "symbol": fill.symbol, "side": fill.side, "venue": fill.venue, "account": fill.account, "book": fill.book,
        "exec_id": fill.exec_id, "provisional": fill.provisional, "residual_size": fill.residual_size,
        "residual_notional": fill.residual_notional, "commission": fill.commission, "commission_ccy": fill.commission_ccy,
        "liquidity_flag": fill.liquidity if fill.liquidity in ("MAKER", "TAKER") else None, "latency_ms": float(fill.latency_ms),
    }  # fmt: skip


NUMBERS = (*FILL_NUMBERS, "residual_size", "residual_notional", "commission")
ATTRIBUTES = ("commission", "commission_ccy", "liquidity_flag")
"""Compared while a fill has only been filled or enriched: whose fee a corrected fill carries is not laid down."""


def check_fills(task: LaneTask, oracle: LaneOracle, verdict: LaneVerdict) -> None:
    """Every version of every fill, with every figure in it, is the oracle's."""
    problems = verdict.problems
    names: dict[str, tuple[str, ...]] = {}
    expected: dict[tuple[tuple[str, ...], int], dict[str, Any]] = {}
    for fill in oracle.fills:
        if fill.version == 1:
            names[fill.fill_id] = (fill.venue, fill.account, fill.symbol, fill.exec_id, str(fill.exec_ts_ns), fill.correlation_id)
        expected[names[fill.fill_id], fill.version] = _shown(fill)
    shown = dict(expected)
    for published in task.fills:
        theirs = expected.pop((published.first, published.version), None)
        what = f"{'|'.join(published.first)} version {published.version}"
        if theirs is None:
            verdict.suspects.add(published.correlation_id)
            problems.add("state_mismatch", f"published, not by the oracle: {what} {published.shown}")
            continue
        ours = {name: Decimal(v) if name in NUMBERS and v is not None else v for name, v in published.shown.items()}
        skipped = (() if theirs["status"] == "FILLED" else ATTRIBUTES) + (() if published.version == 1 else ("latency_ms",))
        odd = [name for name in theirs if name not in skipped and ours[name] != theirs[name]]
        if odd == ["exec_id"] and _unsettled(published, ours, shown.get((published.first, published.version - 1))):
            verdict.unsettled += 1
        elif odd:
            told = ", ".join(f"{name} {ours[name]} (oracle {theirs[name]})" for name in odd)
            verdict.suspects.add(published.correlation_id)
            problems.add("state_mismatch", f"{what}: {told}")
    for (name, version), missing in expected.items():
        verdict.suspects.add(name[-1])
        problems.add("lost", f"never published: {'|'.join(name)} version {version} {missing['status']} {missing['signed_delta']}")


def _unsettled(published: Fill, ours: dict[str, Any], before: dict[str, Any] | None) -> bool:
    """Whether the rules leave open whose exec_id a version carries: a correction that comes late and changes neither size nor price of the
    version before, and a restatement without an id, where the flow puts the fill's."""
    same = before is not None and all(ours[name] == before[name] for name in ("filled_size", "price"))
    return bool(ours["status"] == "CORRECTED" and (same or ours["exec_id"] == published.fill_id))


def _check_state(
    task: LaneTask,
    inputs: dict[str, list[Record]],
    changelog: list[Record],
    oracle: LaneOracle,
    audits: list[Audit],
    verdict: LaneVerdict,
) -> None:
    """The state restored from the changelog: its balance, positions, what waits, and every venue order, against the oracle."""
    from operators.execution import ExecutionLogic

    problems, lane = verdict.problems, task.lane
    logic = ExecutionLogic(lane, task.n_lanes, load_reference(task.reference))
    logic.restore((record.offset, record.value) for record in changelog)
    counters = verdict.counters = logic.counters()
    verdict.balance = {name: counters[name] for name in BALANCE}
    received = sum(map(len, inputs.values()))
    if counters["received"] != received:
        problems.add("unbalanced", f"lane {lane} received {counters['received']} of {received} inputs")
    if counters["balance_mismatch"]:
        problems.add("unbalanced", f"lane {lane}: {verdict.balance} do not add up")
    positions = logic.positions()
    for topic, records in inputs.items():
        end = records[-1].offset + 1 if records else positions.get(topic, 0)
        if positions.get(topic, 0) != end:
            problems.add("state_mismatch", f"lane {lane}: the state ends at {positions.get(topic)} of {topic}, the topic at {end}")
    theirs = oracle.balance()
    if theirs != verdict.balance:
        problems.add("state_mismatch", f"lane {lane}: balance {verdict.balance}, oracle {theirs}")
    waiting = _waiting(logic)
    expected = {place[1]: told.reason for place, told in oracle.outcomes.items() if told.outcome == "pending"}
    for offset in sorted(waiting.keys() ^ expected.keys()):
        ours = waiting.get(offset, "nothing")
        problems.add(
            "state_mismatch", f"lane {lane}: report {offset} waits for {ours}, in the oracle for {expected.get(offset, 'nothing')}"
        )
    for offset, reason in waiting.items():
        if offset in expected and expected[offset] != reason:
            problems.add("state_mismatch", f"lane {lane}: report {offset} waits for {reason}, in the oracle for {expected[offset]}")
    _check_outcomes(task, oracle, audits, waiting, problems)
    for correlation in oracle.correlations():
        mine, other = _by_venue_order(logic.order_state(correlation)), _by_venue_order(oracle.order_state(correlation))
        verdict.orders += len(other)
        if mine != other:
            verdict.suspects.add(correlation)
            problems.add("state_mismatch", f"lane {lane}: order {correlation}: {_difference(mine, other)}")
    if len(logic.ledger.intents) != len(oracle._intents):
        problems.add("state_mismatch", f"lane {lane}: {len(logic.ledger.intents)} routed orders, oracle {len(oracle._intents)}")


def _waiting(logic: Any) -> dict[int, str]:
    """Return offset → reason of every report the restored state has waiting (those whose clock ran out are in the DLQ)."""
    from operators.publish import LEVEL_EXPIRED

    rows = logic.ledger.pendings.rows
    live = rows[(rows["live"] == 1) & (rows["level"] != LEVEL_EXPIRED)]
    return {int(offset): Reason(int(reason)).name for offset, reason in zip(live["offset"], live["reason"], strict=True)}


def _check_outcomes(task: LaneTask, oracle: LaneOracle, audits: list[Audit], waiting: dict[int, str], problems: Problems) -> None:
    """Every single input ended where the oracle has it: the last word of the audit, or none for a repeat."""
    said = {(audit.topic, audit.offset): audit.outcome for audit in audits if audit.outcome != "note" and audit.offset >= 0}
    said |= {(letter.topic, letter.offset): "dlq" for letter in task.letters}  # what an operator rejects is audited as his decision
    for place, theirs in oracle.outcomes.items():
        ours = said.get(place, "duplicate")
        if ours == "pending" and place[0] == REPORT and place[1] not in waiting:
            ours = "duplicate"  # it waited, and turned out to be a repeat when it was taken again
        if ours != theirs.outcome:
            problems.add("state_mismatch", f"{place[0]}[{task.lane}] offset {place[1]} is {ours}, oracle {theirs.outcome}, {theirs.reason}")


_CONFLICTS = frozenset(
    ("exec_conflict", "chain_fork", "chain_cycle", "chain_dead", "ref_cross_order", "ref_not_trade", "correlation_conflict", "conflict")
)


def _by_venue_order(states: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the states in an order of their own; every conflict is shown as `conflict`: which one is on the alert and the dead letter."""
    shown = [{**state, "held": sorted({"conflict" if name in _CONFLICTS else name for name in state["held"]})} for state in states]
    return sorted(shown, key=lambda state: [str(state[name]) for name in ("venue", "cum", "avg_price", "order_qty", "status")])


def _difference(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> str:
    if len(ours) != len(theirs):
        return f"{len(ours)} venue orders, oracle {len(theirs)}"
    odd = []
    for mine, other in zip(ours, theirs, strict=True):
        odd += [f"{mine['venue']} {name} {mine[name]} (oracle {other[name]})" for name in other if mine[name] != other[name]]
    return ", ".join(odd)


# ---- all lanes ------------------------------------------------------------------------------------------------------------------


def check_passed_on(
    passed_on: Counter[tuple[str, bytes, bytes, int]], arrived: Counter[tuple[str, bytes, bytes, int]], verdict: Verdict
) -> None:
    """What nobody of ours sent to a lane must have been passed on to it by another, once for each time it was."""
    missing, extra = passed_on - arrived, arrived - passed_on
    for (topic, key, _, lane_number), times in missing.items():
        verdict.problems.add("lost", f"{topic}: a record passed on to lane {lane_number} (key {key!r}) did not arrive", times)
    for (topic, key, _, lane_number), times in extra.items():
        verdict.problems.add("repeated", f"{topic}[{lane_number}] has a record (key {key!r}) nobody sent there", times)
    verdict.checks.append(("records passed on to other lanes", f"{passed_on.total():,}", not missing and not extra))


def _sum_up(
    verdict: Verdict,
    lanes: list[LaneVerdict],
    fills: list[Fill],
    aliases: Counter[tuple[str, str, str]],
    alerts: set[tuple[str, str, str]],
    n_lanes: int,
) -> None:
    problems, checks = verdict.problems, verdict.checks
    arrived: Counter[tuple[str, bytes, bytes, int]] = Counter()
    passed_on: Counter[tuple[str, bytes, bytes, int]] = Counter()
    told: set[tuple[str, str, str]] = set()
    raised: set[tuple[str, str, str]] = set()
    positions: dict[tuple[str, str], Decimal] = {}
    for lane in lanes:
        verdict.balance.update(lane.balance)
        verdict.inputs += sum(lane.inputs.values())
        verdict.unsettled += lane.unsettled
        arrived.update({row: n for row, n in lane.arrived.items() if row[0] != ALIAS})
        passed_on.update(lane.passed_on)
        told |= lane.aliases
        raised |= lane.alerts
        for name, value in lane.positions.items():
            positions[name] = positions.get(name, Decimal(0)) + value
    lane_problems = sum((lane.problems.counts for lane in lanes), Counter[str]())
    checks.append(("inputs in the topics; sent = there", f"{verdict.inputs:,} in {n_lanes} lanes", not lane_problems["lost"]))
    checks.append(
        ("audit chains, dead letters, fill versions = oracle's", f"{sum(v.audits for v in lanes):,} audit records", not lane_problems)
    )
    if verdict.unsettled:
        checks.append(("exec_id of a version where it is not laid down whose", f"{verdict.unsettled:,} not compared", True))
    checks.append(("venue orders = oracle's", f"{sum(lane.orders for lane in lanes):,}", not lane_problems["state_mismatch"]))
    checks.append(("lanes out of balance", f"{lane_problems['unbalanced']} of {n_lanes}", not lane_problems["unbalanced"]))
    for lane in sorted(lanes, key=lambda lane: lane.lane):
        problems.merge(lane.problems)
        verdict.evidence += lane.evidence
    check_passed_on(passed_on, arrived, verdict)
    for alias in told - aliases.keys():
        problems.add("lost", f"alias {alias} was never told")
    for alias in aliases.keys() - told:
        problems.add("state_mismatch", f"alias {alias} was told, not by the oracle")
    checks.append(("aliases told = oracle's", f"{len(told):,}", told == aliases.keys()))
    for alert in raised - alerts:
        problems.add("lost", f"alert {alert} was never raised")
    for alert in alerts - raised:
        problems.add("state_mismatch", f"alert {alert} was raised, not by the oracle")
    checks.append(("alerts = oracle's (without clocks)", f"{len(raised):,}", raised == alerts))
    published: dict[tuple[str, str], Decimal] = {}
    for fill in fills:
        name = (fill.shown["account"], fill.shown["symbol"])
        published[name] = published.get(name, Decimal(0)) + Decimal(fill.shown["signed_delta"])
    wrong = [name for name in published.keys() | positions.keys() if published.get(name, 0) != positions.get(name, 0)]
    for name in wrong:
        problems.add("state_mismatch", f"position {name} is {published.get(name)}, oracle {positions.get(name)}")
    checks.append(("positions = oracle's", f"{len(positions)} of (account, symbol)", not wrong))
