"""Judges a run of the canary under faults: every input, every alert, every notice and every webhook, from the topics and from what the receiver heard.

An alert names the snapshots it rests on by their `as_of_ns`; what it says is held against a slow evaluation of just those (tests/canary_oracle.py), which
knows nothing of lanes, ledgers and kernels. Reads only. The flows must have stopped.
"""

from __future__ import annotations

import json
import multiprocessing
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any

from bench.canary_load import ACCOUNT, FILLS, POSITION, REGIME
from bench.ledger import Cluster, Record, SimulatorLedger
from bench.verdict import Verdict, check_open_transactions, say
from operators.canary_lane import CanaryLogic, RegimeBoard
from schemas.policy import RiskPolicy, load_policies
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


def judge(cluster: Cluster, ledger: SimulatorLedger, policies: Sequence[Path], told: Told, processes: int = 2) -> CanaryVerdict:
    """Compare everything. processes 0: all in this one. Raises ReadError when the broker cannot be read."""
    begun = time.monotonic()
    verdict = CanaryVerdict()
    n_lanes = len(cluster.places([CANARY_CHANGELOG]))
    check_open_transactions(cluster, (*CANARY_INPUTS, *CANARY_OUTPUTS, *MONITOR_OUTPUTS, *DELIVERY_TOPICS, CANARY_CHANGELOG), verdict)
    inputs = {topic: _read(cluster, topic) for topic in CANARY_INPUTS}
    verdict.inputs = sum(len(there) for lanes in inputs.values() for there in lanes.values())
    _check_sent(ledger, inputs, verdict)
    spoiled = {sent.sha256 for there in ledger.sent.values() for sent in there.values() if sent.fault.startswith("spoiled:")}
    _check_letters(cluster, ledger, inputs, verdict)
    alerts = _check_alerts(cluster, inputs, policies, spoiled, verdict, processes)
    _check_state(cluster, policies, inputs, spoiled, n_lanes, verdict)
    _check_activity(inputs, verdict)
    notices = _check_notices(cluster, alerts, verdict)
    _check_webhooks(cluster, notices, told, verdict)
    verdict.seconds = time.monotonic() - begun
    return verdict


def _read(cluster: Cluster, topic: str) -> dict[int, list[Record]]:
    found: dict[int, list[Record]] = defaultdict(list)
    for (_, lane), record in cluster.read(cluster.places([topic])):
        found[lane].append(record)
    return found


def _messages(lanes: Mapping[int, Sequence[Record]]) -> list[tuple[int, Json]]:
    return [(lane, json.loads(record.value)) for lane in sorted(lanes) for record in lanes[lane]]


def _unique(topic: str, messages: Sequence[tuple[int, Json]], verdict: Verdict) -> None:
    counts = Counter(message["msg_id"] for _, message in messages)
    twice = sum(count - 1 for count in counts.values())
    if twice:
        verdict.problems.add("repeated", f"{topic}: {twice} records are there twice", twice)
    verdict.checks.append((f"msg_id twice in {topic}", f"{twice} of {len(counts):,}", not twice))


def _check_sent(ledger: SimulatorLedger, inputs: Mapping[str, Mapping[int, Sequence[Record]]], verdict: Verdict) -> None:
    """What Kafka acknowledged is there as it was sent."""
    if ledger.undelivered:
        verdict.problems.add("lost", f"{ledger.undelivered} messages could not be delivered to Kafka", ledger.undelivered)
    wrong, seen = 0, 0
    for topic in (ACCOUNT, POSITION, FILLS):
        for lane, there in inputs[topic].items():
            by_offset = {record.offset: sha256(record.value).digest() for record in there}
            sent = ledger.sent.get((topic, lane), {})
            seen += len(sent)
            wrong += sum(by_offset.get(offset) != one.sha256 for offset, one in sent.items())
    if wrong:
        verdict.problems.add("lost", f"{wrong} inputs are not as they were sent", wrong)
    verdict.checks.append(("inputs as sent", f"{seen:,}", not wrong))


def _check_letters(
    cluster: Cluster, ledger: SimulatorLedger, inputs: Mapping[str, Mapping[int, Sequence[Record]]], verdict: Verdict
) -> None:
    """The dead letters are what was spoiled on purpose, each once, with its reason."""
    expected: Counter[tuple[str, str]] = Counter()
    spoiled = {
        one.sha256: one.fault.removeprefix("spoiled:")
        for there in ledger.sent.values()
        for one in there.values()
        if one.fault.startswith("spoiled:")
    }
    for topic in (ACCOUNT, POSITION):
        for there in inputs[topic].values():
            for record in there:
                reason = spoiled.get(sha256(record.value).digest())
                if reason is not None:
                    expected[topic, reason] += 1
    messages = _messages(_read(cluster, LETTERS))
    _unique(LETTERS, messages, verdict)
    found = Counter((m["payload"]["source"]["topic"], m["payload"]["reason"]) for _, m in messages)
    places = Counter(
        (m["payload"]["source"]["topic"], m["payload"]["source"]["partition"], m["payload"]["source"]["offset"]) for _, m in messages
    )
    twice = sum(n - 1 for n in places.values())
    if twice:
        verdict.problems.add("repeated", f"{twice} inputs are in the DLQ twice", twice)
    for what, n in (expected - found).items():
        verdict.problems.add("lost", f"{n} spoiled inputs {what} are not in the DLQ", n)
    for what, n in (found - expected).items():
        verdict.problems.add("state_mismatch", f"{n} dead letters {what} of what was not spoiled so", n)
    verdict.checks.append(("dead letters: what was spoiled, each once", f"{found.total():,}", found == expected and not twice))


# ---- alerts ---------------------------------------------------------------------------------------------------------------------


def _snapshots(inputs: Mapping[int, Sequence[Record]], spoiled: set[bytes]) -> dict[str, dict[int, Json]]:
    """Return account → as_of_ns → snapshot, of all that can be used."""
    found: dict[str, dict[int, Json]] = defaultdict(dict)
    for there in inputs.values():
        for record in there:
            if sha256(record.value).digest() in spoiled:
                continue
            payload = json.loads(record.value)["payload"]
            found[payload["account"]][payload["as_of_ns"]] = payload
    return found


def _check_alerts(
    cluster: Cluster, inputs: Mapping[str, Mapping[int, Sequence[Record]]], policies: Sequence[Path], spoiled: set[bytes], verdict: CanaryVerdict,
    processes: int,
) -> dict[tuple[str, str], list[Json]]:  # fmt: skip
    """Every stream of alerts counts from 1 without a hole, every alert is the oracle's on the snapshots it names, the last one rests on the last ones."""
    messages = _messages(_read(cluster, ALERTS))
    _unique(ALERTS, messages, verdict)
    streams: dict[tuple[str, str], list[Json]] = defaultdict(list)
    for _, message in messages:
        payload = message["payload"]
        verdict.alerts[payload["reason"]] += 1
        streams[payload["account"], payload["result"]["policy"]].append(payload)
    accounts, positions = _snapshots(inputs[ACCOUNT], spoiled), _snapshots(inputs[POSITION], spoiled)
    regimes = {(m["payload"]["profile"], m["payload"]["as_of_ns"]): m["payload"] for _, m in _messages(_read(cluster, REGIME))}
    last_regime: dict[str, int] = {}
    for profile, as_of_ns in regimes:
        last_regime[profile] = max(as_of_ns, last_regime.get(profile, 0))
    holes = same = stale = 0
    cases: list[tuple[Any, ...]] = []
    known = {**dict.fromkeys(accounts), **dict.fromkeys(positions)}
    loaded = load_policies(policies)
    for account in known:
        for profile in loaded:
            if profile in last_regime and (account, profile) not in streams:
                verdict.problems.add("lost", f"{account} under {profile}: no alert at all")
    for (account, profile), alerts in streams.items():
        seqs = [alert["seq"] for alert in alerts]
        if seqs != list(range(1, len(seqs) + 1)):
            holes += 1
            twice = len(seqs) - len(set(seqs))
            kind = "repeated" if twice else "lost"
            verdict.problems.add(kind, f"{account} under {profile}: alerts {seqs[:20]}")
        for before, after in pairwise(alerts):
            if after["reason"] == "changed" and before["result"]["fingerprint"] == after["result"]["fingerprint"]:
                same += 1
                verdict.problems.add("repeated", f"{account} under {profile}: alert {after['seq']} says what the one before said")
        for alert in alerts:
            at = alert["result"]["source_as_of_ns"]
            named = (
                accounts.get(account, {}).get(at["account"]),
                positions.get(account, {}).get(at["positions"]),
                regimes.get((profile, at["regime"])),
            )
            if any(
                one is None and when is not None for one, when in zip(named, (at["account"], at["positions"], at["regime"]), strict=True)
            ):
                verdict.problems.add(
                    "state_mismatch", f"{account} under {profile}: alert {alert['seq']} rests on snapshots nobody sent: {at}"
                )
                continue
            cases.append((account, profile, alert["seq"], *named, alert["result"]["as_of_ns"], alert["result"]["fingerprint"]["key"], True))
        newest = (max(accounts.get(account, {}), default=None), max(positions.get(account, {}), default=None), last_regime.get(profile))
        final = (
            accounts.get(account, {}).get(newest[0]) if newest[0] else None,
            positions.get(account, {}).get(newest[1]) if newest[1] else None,
            regimes.get((profile, newest[2])) if newest[2] else None,
        )
        # what the newest snapshots say must be what was said last
        cases.append((account, profile, -1, *final, max(n for n in newest if n) + 1, alerts[-1]["result"]["fingerprint"]["key"], False))
    wrong: list[str] = [] if processes else _wrong_keys(cases, policies)
    if processes:
        parts = [cases[n :: 2 * processes] for n in range(2 * processes)]
        with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
            for found in pool.map(_wrong_keys, parts, [list(policies)] * len(parts)):
                wrong += found
    for text in wrong:
        verdict.problems.add("lost" if "the last" in text else "state_mismatch", text)
    verdict.fills = len(messages)
    verdict.checks += [
        ("alerts of an account and profile count from 1", f"{len(messages):,} of {len(streams):,} streams, {holes} with holes", not holes),
        ("alerts that repeat the one before", f"{same}", not same),
        (
            "alerts equal to the oracle's on what they name, the last ones on the newest",
            f"{len(cases):,} compared, {len(wrong)} differ",
            not wrong and not stale,
        ),
    ]
    say(f"{len(messages):,} alerts of {len(streams):,} streams compared, {len(wrong)} differ")
    return streams


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
    for account, profile, seq, facts, positions, regime, at_ns, key, _ in cases:
        result = canary_oracle.evaluate(_plain(facts), _plain(positions), _regime(regime), loaded[profile], at_ns)
        expected = canary_oracle.key_of(canary_oracle.project_canary(result))
        if expected != key:
            which = f"alert {seq}" if seq > 0 else "the last alert"
            wrong.append(
                f"{account} under {profile}: {which} has key {key[7:19]}, the oracle {expected[7:19]} ({result['direction']}/{result['severity']})"
            )
    return wrong


# ---- state and balance ----------------------------------------------------------------------------------------------------------


def _check_state(
    cluster: Cluster, policies: Sequence[Path], inputs: Mapping[str, Mapping[int, Sequence[Record]]], spoiled: set[bytes], n_lanes: int,
    verdict: CanaryVerdict,
) -> None:  # fmt: skip
    """The changelog restores to the newest snapshots of every account, every lane's counts balance, and its offsets are the topics'."""
    loaded: dict[str, RiskPolicy] = load_policies(policies)
    accounts, positions = _snapshots(inputs[ACCOUNT], spoiled), _snapshots(inputs[POSITION], spoiled)
    differ = compared = 0
    for lane in range(n_lanes):
        logic = CanaryLogic(lane, n_lanes, RegimeBoard(loaded))
        logic.restore([(record.offset, record.value) for record in cluster.read_lane([CANARY_CHANGELOG], lane)[CANARY_CHANGELOG]])
        counters = logic.counters()
        for name in g.BALANCE[: g.S_FORWARDED + 1]:
            verdict.balance[name] += counters[name]
        received = sum(len(inputs[topic].get(lane, ())) for topic in CANARY_INPUTS)
        if counters["balance_mismatch"] or counters["received"] != received:
            verdict.problems.add(
                "unbalanced", f"lane {lane}: received {counters['received']} of {received}, mismatch {counters['balance_mismatch']}"
            )
        for account in list(accounts):
            try:
                facts = logic.account_state(account)["facts"]
            except KeyError:
                continue
            newest = accounts[account][max(accounts[account])]
            compared += 1
            for name in STATE_FIELDS:
                said, kept = newest.get(name), float(facts[name])
                if (said is None) != (kept != kept) or (said is not None and abs(float(said) - kept) > 1e-9 * max(1.0, abs(kept))):
                    differ += 1
                    verdict.problems.add("state_mismatch", f"{account}: {name} is kept as {kept}, said last as {said}")
            if positions.get(account) and int(facts["positions_ns"]) != max(positions[account]):
                differ += 1
                verdict.problems.add(
                    "state_mismatch", f"{account}: positions are of {facts['positions_ns']}, the newest of {max(positions[account])}"
                )
    if compared != len(accounts):
        verdict.problems.add("state_mismatch", f"{compared} accounts are kept, {len(accounts)} were told of", abs(compared - len(accounts)))
    unbalanced = verdict.problems.counts["unbalanced"]
    verdict.checks += [
        ("balance of every lane", f"{verdict.balance['received']:,} received", not unbalanced),
        ("accounts restored as said last", f"{compared:,}", not differ and compared == len(accounts)),
    ]


def _check_activity(inputs: Mapping[str, Mapping[int, Sequence[Record]]], verdict: CanaryVerdict) -> None:
    """Every fill reached its account's lane once."""
    sent = {json.loads(record.value)["payload"]["fill_id"] for there in inputs[FILLS].values() for record in there}
    messages = _messages(inputs[ACTIVITY])
    _unique(ACTIVITY, messages, verdict)
    told = sum(message["payload"]["fills"] for _, message in messages)
    if told != len(sent):
        verdict.problems.add(
            "lost" if told < len(sent) else "repeated", f"{told} fills reached accounts, there were {len(sent)}", abs(told - len(sent))
        )
    verdict.checks.append(("fills told to their accounts' lanes", f"{told:,} of {len(sent):,}", told == len(sent)))


# ---- notices and webhooks -------------------------------------------------------------------------------------------------------


def _check_notices(cluster: Cluster, alerts: Mapping[tuple[str, str], Sequence[Json]], verdict: CanaryVerdict) -> list[Json]:
    """Episodes have no holes: pages and occurrences count on by one, nothing is told twice, and what burns at the end is open."""
    messages = _messages(_read(cluster, NOTICES))
    _unique(NOTICES, messages, verdict)
    broken = 0

    def wrong(text: str) -> None:
        nonlocal broken
        broken += 1
        verdict.problems.add("episodes_broken", text)

    scopes: dict[str, list[Json]] = defaultdict(list)
    episodes: set[str] = set()
    last: dict[tuple[str, str], Json] = {}
    for _, message in messages:
        payload = message["payload"]
        verdict.notices[payload["reason"]] += 1
        scopes[payload["scope_id"]].append(payload)
        episodes.add(payload["episode_id"])
        if payload["kind"] == "portfolio_risk":
            last[payload["account"], payload["profile"]] = payload
    for scope, notices in scopes.items():  # occurrences and pages are numbered over the scope
        occurrence = pages = 0
        for notice in notices:
            if notice["occurrence_seq"] > occurrence + 1:
                wrong(f"{scope}: occurrence {notice['occurrence_seq']} after {occurrence}")
            if notice["notify"] and notice["notification_seq"] != pages + 1:
                wrong(f"{scope}: page {notice['notification_seq']} after {pages}")
            occurrence = max(occurrence, notice["occurrence_seq"])
            pages = max(pages, notice["notification_seq"] if notice["notify"] else 0)
    for (account, profile), said in alerts.items():
        result = said[-1]["result"]
        burning = result["direction"] not in ("", "data_quality") and result["severity"] in ("act", "urgent")
        notice = last.get((account, profile))
        if burning and (notice is None or notice["episode_state"] == "recovered"):
            wrong(f"{account} under {profile}: {result['direction']}/{result['severity']} at the end, and no episode is open")
    verdict.checks.append(
        ("episodes: pages and occurrences without holes", f"{len(messages):,} notices of {len(episodes):,} episodes", not broken)
    )
    return [message["payload"] for _, message in messages]


def _check_webhooks(cluster: Cluster, notices: Sequence[Json], told: Told, verdict: CanaryVerdict) -> None:
    """Every page has one delivery that ended by the rules; the receiver heard of each accepted one, never oftener than it was tried."""
    last: dict[str, Json] = {}
    for _, message in _messages(_read(cluster, DELIVERIES)):
        if message:
            last[message["payload"]["delivery_id"]] = message["payload"]
    requests = Counter(webhook_id for _, webhook_id, _, _ in told.requests)
    well = Counter(webhook_id for _, webhook_id, _, answer in told.requests if 200 <= answer < 300)
    verdict.requests, verdict.sent_again = len(told.requests), sum(n - 1 for n in well.values())
    unsigned = sum(not signed for _, _, signed, _ in told.requests)
    problems = verdict.problems
    if unsigned:
        problems.add("webhooks_lost", f"{unsigned} requests had a wrong signature", unsigned)
    pages = {(n["account"], n["episode_id"], n["occurrence_seq"], n["notification_seq"]) for n in notices if n["notify"]}
    delivered = Counter((d["account"], d["episode_id"], d["occurrence_seq"], d["notification_seq"]) for d in last.values())
    for page in pages - delivered.keys():
        problems.add("webhooks_lost", f"page {page} has no delivery")
    for page, count in delivered.items():
        if count > 1 or page not in pages:
            problems.add("webhooks_repeated", f"page {page} has {count} deliveries" + ("" if page in pages else " and is none"))
    for one in last.values():
        verdict.deliveries[one["state"]] += 1
        heard, name = requests[one["webhook_id"]], one["webhook_id"]
        if one["state"] not in ("accepted", "gave_up"):
            problems.add("webhooks_lost", f"{name} ended as {one['state']}")
        if one["state"] == "accepted" and not well[name]:
            problems.add("webhooks_lost", f"{name} counts as accepted, the receiver does not know it")
        if heard > one["attempts"]:
            problems.add("webhooks_repeated", f"{name} came {heard} times, it was tried {one['attempts']} times")
    for name in requests.keys() - {one["webhook_id"] for one in last.values()}:
        problems.add("webhooks_repeated", f"{name} came and no delivery is of that name")
    good = not (problems.counts["webhooks_lost"] or problems.counts["webhooks_repeated"])
    verdict.checks.append(("pages delivered by the rules, signed", f"{len(pages):,} pages, {len(told.requests):,} requests", good))
