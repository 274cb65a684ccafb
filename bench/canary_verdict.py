"""Judges a run of the canary under faults: every input, every alert, every notice and every webhook, from the topics and from what the receiver heard.

An alert names the snapshots it rests on by their `as_of_ns`; what it says is held against a slow evaluation of just those (tests/canary_oracle.py), which
knows nothing of lanes, ledgers and kernels. Reads only. The flows must have stopped.
"""

from __future__ import annotations

import json
import multiprocessing
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any

from bench.canary_load import ACCOUNT, FILLS, POSITION, REGIME
from bench.ledger import Cluster, Sent, SimulatorLedger
from bench.oracle import lane_of
from bench.verdict import Problems, Verdict, check_open_transactions, say
from operators.canary_lane import CanaryLogic, RegimeBoard
from schemas.policy import load_policies
from schemas.registry import CANARY_CHANGELOG, CANARY_INPUTS, CANARY_OUTPUTS, DELIVERY_TOPICS, MONITOR_OUTPUTS
from state import canary as g

ALERTS, NOTICES, LETTERS, ACTIVITY, DELIVERIES = (
    "canary.alert.v1", "canary.notice.v1", "dlq.canary", "canary.state.activity.v1", "canary.state.delivery.v1",
)  # fmt: skip
STATE_FIELDS = ("net_liquidation", "cushion", "gross_position_value", "daily_pnl")
Json = dict[str, Any]


@dataclass
class CanaryVerdict(Verdict):
    """The judgement of a run of the canary."""

    alerts: Counter[str] = field(default_factory=Counter)
    notices: Counter[str] = field(default_factory=Counter)
    deliveries: Counter[str] = field(default_factory=Counter)
    requests: int = 0
    sent_again: int = 0
    """Requests under an id that had been answered well before: of an answer that was lost with a killed deliverer."""


@dataclass(frozen=True)
class Told:
    """What the receiver heard: (time, webhook-id, whether the signature was right, the answer), in order."""

    requests: Sequence[tuple[float, str, bool, int]]


@dataclass(frozen=True)
class LaneTask:
    """What the judge of one lane is given. sent: topic → offset → message, of this lane; spoiled: SHA-256 → reason, of all lanes; regimes: by
    profile and `as_of_ns`."""

    cluster: Cluster
    lane: int
    n_lanes: int
    policies: tuple[Path, ...]
    sent: Mapping[str, Mapping[int, Sent]]
    spoiled: Mapping[bytes, str]
    regimes: Mapping[tuple[str, int], Json]


@dataclass
class LaneVerdict:
    """What a lane's judge found. Only what can be added up leaves it: a lane may hold millions of records."""

    lane: int
    problems: Problems = field(default_factory=Problems)
    inputs: int = 0
    as_sent: int = 0
    compared: int = 0
    differ: int = 0
    streams: int = 0
    accounts: int = 0
    fills: set[str] = field(default_factory=set)
    told_fills: int = 0
    balance: Counter[str] = field(default_factory=Counter)
    alerts: Counter[str] = field(default_factory=Counter)
    spoiled: Counter[tuple[str, str]] = field(default_factory=Counter)
    burning: list[tuple[str, str, str]] = field(default_factory=list)
    """(account, profile, direction/severity) of the accounts that are at act or worse at the end."""


def judge(cluster: Cluster, ledger: SimulatorLedger, policies: Sequence[Path], told: Told | None, processes: int = 2) -> CanaryVerdict:
    """Compare everything. told None: what the receiver heard is not known. processes 0: all in this one. Raises ReadError when the broker cannot be read."""
    begun = time.monotonic()
    verdict = CanaryVerdict()
    n_lanes = len(cluster.places([CANARY_CHANGELOG]))
    check_open_transactions(cluster, (*CANARY_INPUTS, *CANARY_OUTPUTS, *MONITOR_OUTPUTS, *DELIVERY_TOPICS, CANARY_CHANGELOG), verdict)
    if ledger.undelivered:
        verdict.problems.add("lost", f"{ledger.undelivered} messages could not be delivered to Kafka", ledger.undelivered)
    spoiled = {
        one.sha256: one.fault.removeprefix("spoiled:")
        for there in ledger.sent.values()
        for one in there.values()
        if one.fault.startswith("spoiled:")
    }
    regimes = {(m["payload"]["profile"], m["payload"]["as_of_ns"]): m["payload"] for _, m in _messages(cluster, REGIME)}
    tasks = [
        LaneTask(cluster, lane, n_lanes, tuple(policies), ledger.of_lane(CANARY_INPUTS, lane), spoiled, regimes) for lane in range(n_lanes)
    ]
    found = []
    for lane in _each(tasks, processes):
        say(f"lane {lane.lane}: {lane.inputs:,} inputs, {lane.compared:,} alerts compared, {lane.problems.counts.total()} problems")
        found.append(lane)
    _sum_up(verdict, found)
    _check_letters(cluster, found, verdict)
    _unique(ACTIVITY, (message for _, message in _messages(cluster, ACTIVITY)), verdict)
    pages = _check_notices(cluster, found, verdict)
    _check_webhooks(cluster, pages, told, verdict)
    verdict.seconds = time.monotonic() - begun
    return verdict


def _each(tasks: Sequence[LaneTask], processes: int) -> Iterator[LaneVerdict]:
    """Judge the lanes, so many at a time."""
    if not processes:
        yield from map(judge_lane, tasks)
        return
    # spawn: a forked child would share this process's Kafka clients
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        for done in as_completed([pool.submit(judge_lane, task) for task in tasks]):
            yield done.result()


def _messages(cluster: Cluster, topic: str, lane: int | None = None) -> Iterator[tuple[int, Json]]:
    """Yield (partition, message) of a topic, or of one partition of it."""
    places = cluster.places([topic]) if lane is None else [(topic, lane)]
    for (_, partition), record in cluster.read(places):
        yield partition, json.loads(record.value)


def _unique(topic: str, messages: Iterable[Json], verdict: Verdict) -> list[Json]:
    """Return the messages' payloads, seeing to it that no msg_id is there twice."""
    counts: Counter[str] = Counter()
    payloads = []
    for message in messages:
        counts[message["msg_id"]] += 1
        payloads.append(message["payload"])
    twice = len(payloads) - len(counts)
    if twice:
        verdict.problems.add("repeated", f"{topic}: {twice} records are there twice", twice)
    verdict.checks.append((f"msg_id twice in {topic}", f"{twice} of {len(counts):,}", not twice))
    return payloads


def _sum_up(verdict: CanaryVerdict, found: Sequence[LaneVerdict]) -> None:
    for one in found:
        verdict.problems.merge(one.problems)
        verdict.inputs += one.inputs
        verdict.balance += one.balance
        verdict.alerts += one.alerts
    problems = verdict.problems.counts
    fills = len(set().union(*(one.fills for one in found)))
    told = sum(one.told_fills for one in found)
    if told != fills:
        verdict.problems.add(
            "lost" if told < fills else "repeated", f"{told} fills reached accounts, there were {fills}", abs(told - fills)
        )
    alerts, differ = verdict.alerts.total(), sum(one.differ for one in found)
    verdict.fills = alerts
    verdict.checks += [
        ("inputs as sent", f"{sum(one.as_sent for one in found):,}", not problems["lost"]),
        ("alerts of an account and profile count from 1, none repeats", f"{alerts:,} of {sum(one.streams for one in found):,} streams",
         not problems["lost"] and not problems["repeated"]),
        ("alerts equal to the oracle's on what they name, the last on the newest", f"{sum(one.compared for one in found):,} compared, {differ} differ", not differ),
        ("balance of every lane", f"{verdict.balance['received']:,} received", not problems["unbalanced"]),
        ("accounts restored as said last", f"{sum(one.accounts for one in found):,}", not problems["state_mismatch"]),
        ("fills told to their accounts' lanes", f"{told:,} of {fills:,}", told == fills),
    ]  # fmt: skip


# ---- one lane -------------------------------------------------------------------------------------------------------------------


def judge_lane(task: LaneTask) -> LaneVerdict:
    """Judge one lane. Of its inputs only those are kept that an alert names, and the newest of each account."""
    verdict = LaneVerdict(task.lane)
    streams: dict[tuple[str, str], list[Json]] = defaultdict(list)
    named: set[tuple[str, str, int]] = set()
    for _, message in _messages(task.cluster, ALERTS, task.lane):
        payload = message["payload"]
        at = payload["result"]["source_as_of_ns"]
        verdict.alerts[payload["reason"]] += 1
        named |= {(topic, payload["account"], at[name]) for topic, name in ((ACCOUNT, "account"), (POSITION, "positions")) if at[name]}
        result = payload["result"]
        kept = {name: result[name] for name in ("direction", "severity", "source_as_of_ns", "as_of_ns")}
        streams[payload["account"], result["policy"]].append(
            {"seq": payload["seq"], "reason": payload["reason"], "key": result["fingerprint"]["key"], **kept}
        )
    snapshots, newest, received = _read_inputs(task, named, verdict)
    cases = _check_streams(task, streams, snapshots, newest, verdict)
    for text in _wrong_keys(cases, task.policies):
        verdict.differ += 1
        verdict.problems.add("lost" if "the last" in text else "state_mismatch", text)
    verdict.compared, verdict.streams = len(cases), len(streams)
    _check_state(task, newest, received, verdict)
    return verdict


def _read_inputs(
    task: LaneTask, named: set[tuple[str, str, int]], verdict: LaneVerdict
) -> tuple[dict[tuple[str, str, int], Json], dict[tuple[str, str], Json], int]:
    """Return (the snapshots alerts name, the newest of each kind and account, how many inputs there are)."""
    snapshots: dict[tuple[str, str, int], Json] = {}
    newest: dict[tuple[str, str], tuple[int, bytes]] = {}
    received = 0
    for topic in CANARY_INPUTS:
        sent, wrong = task.sent.get(topic, {}), 0
        left = len(sent)
        for _, record in task.cluster.read([(topic, task.lane)]):
            received += 1
            digest = sha256(record.value).digest()
            told = sent.get(record.offset)
            if told is not None:
                left -= 1
                verdict.as_sent += 1
                wrong += told.sha256 != digest
            if topic == FILLS:
                verdict.fills.add(_between(record.value, b'"fill_id":"', b'"').decode())
            elif topic == ACTIVITY:
                verdict.told_fills += json.loads(record.value)["payload"]["fills"]
            elif topic in (ACCOUNT, POSITION):
                reason = task.spoiled.get(digest)
                if reason is not None:
                    verdict.spoiled[topic, reason] += 1
                    continue
                account, as_of_ns = _between(record.value, b'"account":"', b'"').decode(), int(_between(record.value, b'"as_of_ns":', b","))
                if lane_of(account, task.n_lanes) != task.lane:
                    continue  # sent on to its own lane, and met there
                if (topic, account, as_of_ns) in named:
                    snapshots[topic, account, as_of_ns] = json.loads(record.value)["payload"]
                if as_of_ns >= newest.get((topic, account), (0, b""))[0]:
                    newest[topic, account] = as_of_ns, record.value
        if wrong or left:
            verdict.problems.add("lost", f"{topic}[{task.lane}]: {wrong + left} inputs are not there as they were sent", wrong + left)
    verdict.inputs = received
    return snapshots, {name: json.loads(value)["payload"] for name, (_, value) in newest.items()}, received


def _between(text: bytes, begin: bytes, end: bytes) -> bytes:
    at = text.index(begin) + len(begin)
    return text[at : text.index(end, at)]


def _check_streams(
    task: LaneTask, streams: Mapping[tuple[str, str], Sequence[Json]], snapshots: Mapping[tuple[str, str, int], Json],
    newest: Mapping[tuple[str, str], Json], verdict: LaneVerdict,
) -> list[tuple[Any, ...]]:  # fmt: skip
    """Every stream counts from 1 and none repeats what it said; return what the oracle must find the same of."""
    problems = verdict.problems
    last_regime = {profile: max(at for name, at in task.regimes if name == profile) for profile in {name for name, _ in task.regimes}}
    for account in {account for _, account in newest}:
        for profile in last_regime:
            if (account, profile) not in streams:
                problems.add("lost", f"{account} under {profile}: no alert at all")
    cases: list[tuple[Any, ...]] = []
    for (account, profile), alerts in streams.items():
        seqs = [alert["seq"] for alert in alerts]
        if seqs != list(range(1, len(seqs) + 1)):
            problems.add("repeated" if len(seqs) > len(set(seqs)) else "lost", f"{account} under {profile}: alerts {seqs[:20]}")
        for before, after in pairwise(alerts):
            if after["reason"] == "changed" and before["key"] == after["key"]:
                problems.add("repeated", f"{account} under {profile}: alert {after['seq']} says what the one before said")
        for alert in alerts:
            at = alert["source_as_of_ns"]
            rests_on = (
                snapshots.get((ACCOUNT, account, at["account"])), snapshots.get((POSITION, account, at["positions"])),
                task.regimes.get((profile, at["regime"])),
            )  # fmt: skip
            if any(one is None and at[name] is not None for one, name in zip(rests_on, ("account", "positions", "regime"), strict=True)):
                problems.add("state_mismatch", f"{account} under {profile}: alert {alert['seq']} rests on snapshots nobody sent: {at}")
                continue
            cases.append((account, profile, alert["seq"], *rests_on, alert["as_of_ns"], alert["key"]))
        # what the newest snapshots say must be what was said last
        final = (newest.get((ACCOUNT, account)), newest.get((POSITION, account)), task.regimes[profile, last_regime[profile]])
        cases.append((account, profile, -1, *final, max(one["as_of_ns"] for one in final if one) + 1, alerts[-1]["key"]))
        if alerts[-1]["direction"] not in ("", "data_quality") and alerts[-1]["severity"] in ("act", "urgent"):
            verdict.burning.append((account, profile, f"{alerts[-1]['direction']}/{alerts[-1]['severity']}"))
    return cases


def _plain(payload: Json | None) -> Json | None:
    """Return a snapshot of a topic as the reference's files have them: numbers for decimal strings, `as_of` for `as_of_ns`."""
    if payload is None:
        return None

    def number(value: Any) -> Any:
        if isinstance(value, dict):
            return {
                name: item if name in ("underlying", "symbol", "account", "mode", "base_currency", "account_type") else number(item)
                for name, item in value.items()
            }
        if isinstance(value, list):
            return [number(item) for item in value]
        if isinstance(value, str):
            return float(value)
        return value

    plain: Json = number({name: value for name, value in payload.items() if name not in ("account", "mode", "as_of_ns")})
    return plain | {"as_of_ns": payload["as_of_ns"], "as_of": _iso(payload["as_of_ns"])}


def _iso(at_ns: int) -> str:
    from schemas.times import rfc3339

    return rfc3339(at_ns)


def _regime(payload: Json | None) -> Json | None:
    """Return a dashboard of the topic as the reference's files have them."""
    if payload is None:
        return None
    found: Json = {
        "as_of": _iso(payload["as_of_ns"]),
        "as_of_ns": payload["as_of_ns"],
        "lifecycle": payload["lifecycle"],
        "composite": payload["composite"],
    }
    for row in payload["rows"]:
        found[row["row"]] = {**row, **(row.get("values") or {})}
    found["hyg_spy_divergence"]["spy_change_pct"] = payload["spy_change_pct"]
    found["vix_term_structure"]["vix_change_pct"] = payload["vix_change_pct"]
    found["source_health"] = payload["source_health"]
    found["summary"] = {"confidence": payload["confidence"]}
    return found


def _wrong_keys(cases: Sequence[tuple[Any, ...]], policies: Sequence[Path]) -> list[str]:
    """Return in words which of the cases the oracle has another key for."""
    from tests import canary_oracle

    loaded = load_policies(policies)
    wrong = []
    for account, profile, seq, facts, positions, regime, at_ns, key in cases:
        result = canary_oracle.evaluate(_plain(facts), _plain(positions), _regime(regime), loaded[profile], at_ns)
        expected = canary_oracle.key_of(canary_oracle.project_canary(result))
        if expected != key:
            which = f"alert {seq}" if seq > 0 else "the last alert"
            wrong.append(
                f"{account} under {profile}: {which} has key {key[7:19]}, the oracle {expected[7:19]} ({result['direction']}/{result['severity']})"
            )
    return wrong


def _check_state(task: LaneTask, newest: Mapping[tuple[str, str], Json], received: int, verdict: LaneVerdict) -> None:
    """The changelog restores to the newest snapshots of every account, and the lane's counts balance."""
    problems = verdict.problems
    logic = CanaryLogic(task.lane, task.n_lanes, RegimeBoard(load_policies(task.policies)))
    logic.restore((record.offset, record.value) for _, record in task.cluster.read([(CANARY_CHANGELOG, task.lane)]))
    counters = logic.counters()
    verdict.balance += Counter({name: counters[name] for name in g.BALANCE[: g.S_FORWARDED + 1]})
    if counters["balance_mismatch"] or counters["received"] != received:
        problems.add(
            "unbalanced", f"lane {task.lane}: received {counters['received']} of {received}, mismatch {counters['balance_mismatch']}"
        )
    for account in sorted({account for _, account in newest}):
        verdict.accounts += 1
        try:
            facts = logic.account_state(account)["facts"]
        except KeyError:
            problems.add("state_mismatch", f"{account} is not kept")
            continue
        said = newest.get((ACCOUNT, account), {})
        for name in STATE_FIELDS:
            wanted, kept = said.get(name), float(facts[name])
            if (wanted is None) != (kept != kept) or (wanted is not None and abs(float(wanted) - kept) > 1e-9 * max(1.0, abs(kept))):
                problems.add("state_mismatch", f"{account}: {name} is kept as {kept}, said last as {wanted}")
        positions_ns = newest.get((POSITION, account), {}).get("as_of_ns", 0)
        if int(facts["positions_ns"]) != positions_ns:
            problems.add("state_mismatch", f"{account}: positions are of {facts['positions_ns']}, the newest of {positions_ns}")


# ---- all lanes ------------------------------------------------------------------------------------------------------------------


def _check_letters(cluster: Cluster, lanes: Sequence[LaneVerdict], verdict: CanaryVerdict) -> None:
    """The dead letters are what was spoiled on purpose, each once, with its reason."""
    expected: Counter[tuple[str, str]] = sum((one.spoiled for one in lanes), Counter())
    letters = _unique(LETTERS, (message for _, message in _messages(cluster, LETTERS)), verdict)
    found = Counter((one["source"]["topic"], one["reason"]) for one in letters)
    places = Counter((one["source"]["topic"], one["source"]["partition"], one["source"]["offset"]) for one in letters)
    twice = len(letters) - len(places)
    if twice:
        verdict.problems.add("repeated", f"{twice} inputs are in the DLQ twice", twice)
    for what, n in (expected - found).items():
        verdict.problems.add("lost", f"{n} spoiled inputs {what} are not in the DLQ", n)
    for what, n in (found - expected).items():
        verdict.problems.add("state_mismatch", f"{n} dead letters {what} of what was not spoiled so", n)
    verdict.checks.append(("dead letters: what was spoiled, each once", f"{found.total():,}", found == expected and not twice))


def _check_notices(cluster: Cluster, lanes: Sequence[LaneVerdict], verdict: CanaryVerdict) -> set[tuple[Any, ...]]:
    """Episodes have no holes: pages and occurrences count on by one, nothing is told twice, and what burns at the end is open. Return the pages."""
    broken = 0

    def wrong(text: str) -> None:
        nonlocal broken
        broken += 1
        verdict.problems.add("episodes_broken", text)

    seen: dict[str, tuple[int, int]] = {}
    last: dict[tuple[str, str], str] = {}
    episodes, ids, pages, count = set(), set(), set(), 0
    for _, message in _messages(cluster, NOTICES):
        notice = message["payload"]
        count += 1
        ids.add(message["msg_id"])
        episodes.add(notice["episode_id"])
        verdict.notices[notice["reason"]] += 1
        # occurrences and pages are numbered over the scope
        occurrence, page = seen.get(notice["scope_id"], (0, 0))
        if notice["occurrence_seq"] > occurrence + 1:
            wrong(f"{notice['scope_id']}: occurrence {notice['occurrence_seq']} after {occurrence}")
        if notice["notify"]:
            pages.add((notice["account"], notice["episode_id"], notice["occurrence_seq"], notice["notification_seq"]))
            if notice["notification_seq"] != page + 1:
                wrong(f"{notice['scope_id']}: page {notice['notification_seq']} after {page}")
            page = max(page, notice["notification_seq"])
        seen[notice["scope_id"]] = max(occurrence, notice["occurrence_seq"]), page
        if notice["kind"] == "portfolio_risk":
            last[notice["account"], notice["profile"]] = notice["episode_state"]
    if count != len(ids):
        verdict.problems.add("repeated", f"{NOTICES}: {count - len(ids)} records are there twice", count - len(ids))
    for lane in lanes:
        for account, profile, headline in lane.burning:
            if last.get((account, profile), "recovered") == "recovered":
                wrong(f"{account} under {profile}: {headline} at the end, and no episode is open")
    verdict.checks.append(
        (
            "episodes: pages and occurrences without holes",
            f"{count:,} notices of {len(episodes):,} episodes",
            not broken and count == len(ids),
        )
    )
    return pages


def _check_webhooks(cluster: Cluster, pages: set[tuple[Any, ...]], told: Told | None, verdict: CanaryVerdict) -> None:
    """Every page has one delivery that ended by the rules; the receiver heard of each accepted one, never oftener than it was tried."""
    last: dict[str, Json] = {}
    for _, record in cluster.read(cluster.places([DELIVERIES])):
        if record.value:  # else a tombstone
            payload = json.loads(record.value)["payload"]
            last[payload["delivery_id"]] = {name: value for name, value in payload.items() if name != "body"}
    problems = verdict.problems
    delivered = Counter((d["account"], d["episode_id"], d["occurrence_seq"], d["notification_seq"]) for d in last.values())
    for page in pages - delivered.keys():
        problems.add("webhooks_lost", f"page {page} has no delivery")
    for page, count in delivered.items():
        if count > 1 or page not in pages:
            problems.add("webhooks_repeated", f"page {page} has {count} deliveries" + ("" if page in pages else " and is none"))
    for one in last.values():
        verdict.deliveries[one["state"]] += 1
        if one["state"] not in ("accepted", "gave_up"):
            problems.add("webhooks_lost", f"{one['webhook_id']} ended as {one['state']}")
    if told is not None:
        _check_requests(last.values(), told, verdict)
    good = not (problems.counts["webhooks_lost"] or problems.counts["webhooks_repeated"])
    heard = f"{verdict.requests:,} requests" if told is not None else "requests not known"
    verdict.checks.append(("pages delivered by the rules, signed", f"{len(pages):,} pages, {heard}", good))


def _check_requests(deliveries: Iterable[Json], told: Told, verdict: CanaryVerdict) -> None:
    problems = verdict.problems
    requests = Counter(webhook_id for _, webhook_id, _, _ in told.requests)
    well = Counter(webhook_id for _, webhook_id, _, answer in told.requests if 200 <= answer < 300)
    verdict.requests, verdict.sent_again = len(told.requests), sum(n - 1 for n in well.values())
    unsigned = sum(not signed for _, _, signed, _ in told.requests)
    if unsigned:
        problems.add("webhooks_lost", f"{unsigned} requests had a wrong signature", unsigned)
    names = set()
    for one in deliveries:
        name = one["webhook_id"]
        names.add(name)
        if one["state"] == "accepted" and not well[name]:
            problems.add("webhooks_lost", f"{name} counts as accepted, the receiver does not know it")
        if requests[name] > one["attempts"]:
            problems.add("webhooks_repeated", f"{name} came {requests[name]} times, it was tried {one['attempts']} times")
    for name in requests.keys() - names:
        problems.add("webhooks_repeated", f"{name} came and no delivery is of that name")
