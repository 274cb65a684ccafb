"""The judge of the canary's faults: a run in memory is good, and whatever is planted in it is found, by its right name."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

import numpy as np
import pytest

from bench.canary_load import ACCOUNT, FILLS, POSITION, PROFILES, REGIME, SECOND, Load
from bench.canary_verdict import ALERTS, DELIVERIES, LETTERS, NOTICES, CanaryVerdict, Told, judge
from bench.hedge_memory import START_NS, Topics
from bench.ledger import Record, Sent, SimulatorLedger
from connectors.webhooks import body_of, delivery_ids
from operators.canary_lane import CanaryLogic, RegimeBoard
from operators.monitor_lane import MonitorLogic
from schemas.canary import Delivery, DeliveryMessage, NoticeMessage
from schemas.chunk import Chunk, Records, join, split
from schemas.parse import parse
from schemas.policy import BUILT_IN, load_policies
from schemas.registry import CANARY_CHANGELOG, CANARY_INPUTS, TOPICS
from schemas.times import rfc3339

POLICIES = [BUILT_IN / f"{profile}.json" for profile in PROFILES]
LANES = 2


@dataclass
class Run:
    topics: Topics
    ledger: SimulatorLedger
    told: Told

    def verdict(self) -> CanaryVerdict:
        return judge(self.topics, self.ledger, POLICIES, self.told, 0)  # type: ignore[arg-type]


def chunk(topic: str, lane: int, records: list[Record], now_ns: int) -> Chunk:
    data, bounds = join([record.value for record in records])
    keys, key_bounds = join([record.key for record in records])
    return Chunk(topic, lane, data, bounds, np.array([record.offset for record in records], np.int64), keys, key_bounds, now_ns)


def play(seconds: int = 12) -> Run:
    """Let the load run, restart every lane now and then, and let the monitor and a faultless deliverer follow."""
    policies = load_policies(POLICIES)
    load = Load(5, {name: (policy.version, policy.fingerprint) for name, policy in policies.items()}, 40)
    topics, sent, read = Topics(LANES), SimulatorLedger({}, 0), dict.fromkeys([(t, n) for t in CANARY_INPUTS for n in range(LANES)], 0)
    board = RegimeBoard(policies)
    lanes = [CanaryLogic(lane, LANES, board) for lane in range(LANES)]
    monitors = [MonitorLogic(lane, LANES, policies) for lane in range(LANES)]
    heard = dict.fromkeys(range(LANES), 0)

    def publish(records: list[Records]) -> None:
        for out in records:
            for key, value in zip(split(out.keys, out.key_bounds), split(out.data, out.bounds), strict=True):
                topics.append(out.topic, key, value, out.partition)

    now_ns = START_NS
    for step in range(seconds * 4 + 4):
        now_ns += SECOND // 4
        last = step == seconds * 4
        messages = load.regimes(now_ns) if step % 8 == 0 else []
        if step < seconds * 4:
            messages += load.snapshots(30, now_ns)
        for one in messages + (load.ending(now_ns) if last else []):
            if one.topic == REGIME:
                topics.there[REGIME, 0].append(Record(len(topics.there[REGIME, 0]), one.key, one.value))
                board.apply(chunk(REGIME, 0, topics.there[REGIME, 0][-1:], now_ns))
                continue
            place = topics.append(one.topic, one.key, one.value)
            if one.misrouted:
                record = topics.there[place].pop()
                place = topics.append(one.topic, one.key, record.value, 1 - place[1])
            sent.sent.setdefault(place, {})[len(topics.there[place]) - 1] = Sent(sha256(one.value).digest(), one.fault)
        for lane, logic in enumerate(lanes):
            for topic in CANARY_INPUTS:
                new = topics.there[topic, lane][read[topic, lane] :]
                read[topic, lane] += len(new)
                if new:
                    publish(logic.process(chunk(topic, lane, new, now_ns), now_ns))
            publish(logic.tick(now_ns))
            for value in logic.capture().values:
                topics.append(CANARY_CHANGELOG, b"", value, lane)
        if step % 11 == 10:
            lanes = [CanaryLogic(lane, LANES, board) for lane in range(LANES)]
            for lane, logic in enumerate(lanes):
                logic.restore((record.offset, record.value) for record in topics.there[CANARY_CHANGELOG, lane])
        for lane, monitor in enumerate(monitors):
            new = topics.there[ALERTS, lane][heard[lane] :]
            heard[lane] += len(new)
            if new:
                publish(monitor.process(chunk(ALERTS, lane, new, now_ns), now_ns))
            publish(monitor.tick(now_ns))
    return Run(topics, sent, Told(deliver(topics, now_ns)))


def deliver(topics: Topics, now_ns: int) -> list[tuple[float, str, bool, int]]:
    """Deliver every page, each at the first attempt."""
    requests = []
    for _, record in list(topics.read(topics.places([NOTICES]))):
        message = parse(NoticeMessage, record.value)
        assert not isinstance(message, tuple), message
        notice = message.payload
        if not notice.notify:
            continue
        delivery_id, webhook_id = delivery_ids(notice, "pager")
        one = Delivery(
            delivery_id=delivery_id, webhook_id=webhook_id, target="pager", account=notice.account, episode_id=notice.episode_id,
            occurrence_seq=notice.occurrence_seq, notification_seq=notice.notification_seq, state="accepted", attempts=1, http_status=204,
            changed_ns=now_ns, body=body_of(notice, now_ns, False),
        )  # fmt: skip
        envelope = {
            "msg_id": message.msg_id, "type": DELIVERIES, "version": "v1", "ts": rfc3339(now_ns), "ts_ns": now_ns, "ttl_ms": 600_000,
            "sender": "agent.monitor", "idempotency_key": delivery_id, "payload": one.model_dump(mode="json"),
        }  # fmt: skip
        topics.append(DELIVERIES, delivery_id.encode(), json.dumps(envelope).encode())
        assert not isinstance(parse(DeliveryMessage, json.dumps(envelope).encode()), tuple)
        requests.append((float(now_ns), webhook_id, True, 204))
    return requests


@pytest.fixture(scope="module")
def good() -> Run:
    return play()


@pytest.fixture
def run(good: Run) -> Run:
    topics = replace(good.topics, there=copy.copy(good.topics.there))
    topics.there.update({place: list(records) for place, records in good.topics.there.items()})
    return Run(topics, copy.deepcopy(good.ledger), Told(list(good.told.requests)))


def found(run: Run) -> dict[str, int]:
    return dict(run.verdict().problems.counts)


def place_of(run: Run, topic: str, wanted: Callable[[dict[str, Any]], bool] = lambda _: True) -> tuple[list[Record], int]:
    """Return (the records of a partition, the place in it) of the last record that is wanted."""
    for place in run.topics.places([topic]):
        records = run.topics.there[place]
        for at in range(len(records) - 1, -1, -1):
            if wanted(json.loads(records[at].value)["payload"]):
                return records, at
    raise LookupError(topic)


def test_a_run_in_memory_with_restarts_is_good_and_has_everything_in_it(good: Run) -> None:
    verdict = good.verdict()
    assert verdict.good, verdict.problems.texts
    assert all(verdict.balance[name] > 0 for name in ("folded", "duplicate", "late", "dlq", "rerouted", "forwarded"))
    assert verdict.alerts["changed"] > 50
    assert verdict.deliveries["accepted"] == verdict.requests > 5


def test_an_alert_that_is_gone_is_lost(run: Run) -> None:
    records, at = place_of(run, ALERTS, lambda payload: payload["seq"] == 2)
    del records[at]
    assert found(run) == {"lost": 1}


def test_the_newest_alert_that_is_gone_is_lost(run: Run) -> None:
    records, at = place_of(run, ALERTS, lambda payload: payload["reason"] == "changed")
    del records[at]
    assert found(run)["lost"] == 1


def test_an_alert_that_is_there_twice_is_repeated(run: Run) -> None:
    records, at = place_of(run, ALERTS)
    records.append(records[at])
    assert found(run)["repeated"] >= 2  # by its msg_id and by its number


def test_an_alert_of_another_state_is_a_mismatch(run: Run) -> None:
    records, at = place_of(run, ALERTS, lambda payload: payload["seq"] == 3)
    message = json.loads(records[at].value)
    message["payload"]["result"]["fingerprint"]["key"] = "sha256:" + "0" * 64
    records[at] = records[at]._replace(value=json.dumps(message).encode())
    assert found(run) == {"state_mismatch": 1}


def test_an_input_that_was_not_sent_so_or_has_no_dead_letter_is_lost(run: Run) -> None:
    records, at = place_of(run, LETTERS)
    del records[at]
    assert found(run) == {"lost": 1}


def test_a_fill_that_did_not_reach_its_account_is_lost(run: Run) -> None:
    run.topics.there[FILLS, 0].append(
        run.topics.there[FILLS, 0][0]._replace(
            offset=len(run.topics.there[FILLS, 0]), value=run.topics.there[FILLS, 0][0].value.replace(b'"fill_id":"', b'"fill_id":"f')
        )
    )
    assert {"lost", "unbalanced"} <= found(run).keys()


def test_a_hole_in_an_episode_is_found(run: Run) -> None:
    second, at = place_of(run, NOTICES, lambda payload: payload["notify"] and payload["notification_seq"] == 2)
    scope = json.loads(second[at].value)["payload"]["scope_id"]
    records, at = place_of(run, NOTICES, lambda p: p["notify"] and p["notification_seq"] == 1 and p["scope_id"] == scope)
    del records[at]
    assert {"episodes_broken", "webhooks_repeated"} <= found(run).keys()


def test_a_page_without_a_delivery_is_lost(run: Run) -> None:
    records, at = place_of(run, DELIVERIES)
    del records[at]
    counts = found(run)
    assert counts == {"webhooks_lost": 1, "webhooks_repeated": 1}


def test_a_receiver_that_heard_more_or_less_than_was_tried(run: Run) -> None:
    run.told = Told([*run.told.requests, run.told.requests[0]])
    assert found(run) == {"webhooks_repeated": 1}
    run.told = Told(run.told.requests[2:])
    assert found(run)["webhooks_lost"] >= 1


def test_a_wrong_signature_is_found(run: Run) -> None:
    at, name, _, answer = run.told.requests[0]
    run.told = Told([(at, name, False, answer), *run.told.requests[1:]])
    assert found(run) == {"webhooks_lost": 1}


def test_what_the_load_says_is_of_the_contracts() -> None:
    policies = load_policies(POLICIES)
    names = {name: (policy.version, policy.fingerprint) for name, policy in policies.items()}
    one, other = Load(1, names, 20), Load(1, names, 20)
    for step in range(20):
        now_ns = START_NS + step * SECOND
        messages = one.regimes(now_ns) + one.snapshots(60, now_ns)
        assert messages == other.regimes(now_ns) + other.snapshots(60, now_ns)
        for message in messages:
            model = TOPICS[message.topic].model
            assert model is not None
            parsed = parse(model, message.value)
            spoiled = message.fault.startswith("spoiled:")
            assert isinstance(parsed, tuple) == spoiled
            if isinstance(parsed, tuple):
                assert parsed[0].name == message.fault.removeprefix("spoiled:")
    assert {ACCOUNT, POSITION, FILLS} <= {message.topic for message in one.snapshots(400, START_NS + 60 * SECOND)}
