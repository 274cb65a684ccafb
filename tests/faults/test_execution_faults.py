"""The execution flow on a real Kafka through kills and rescaling, small: the same driver and judge as `python -m bench.acceptance`.

Nothing may be lost, repeated or out of balance, and every fill and venue order must be the slow oracle's. No timing decides anything.
"""

from __future__ import annotations

import json
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple, cast

import pytest
from confluent_kafka import KafkaError

from bench.acceptance import Options, Outcome, accept
from bench.driver import warm
from bench.ledger import Cluster, Record, read_ledger
from bench.oracle import REPORT, ROUTE, LaneOracle
from bench.verdict import (
    AUDIT,
    GENESIS,
    Audit,
    Fill,
    LaneTask,
    LaneVerdict,
    Letter,
    Problems,
    check_fills,
    check_letters,
    check_sent,
    play,
    read_audits,
)
from connectors.simulator.messages import Message
from connectors.simulator.sender import Sender
from flows.run import fault_of
from flows.settings import SettingsError
from tests.conftest import fresh_topics
from tests.support import REFERENCE, T0, correlation, report, route


@pytest.fixture(scope="module")
def cluster(kafka: str) -> Cluster:
    there = Cluster(kafka)
    warm(there)
    return there


def run(scenario: str, cluster: Cluster, folder: Path) -> Outcome:
    options = Options(scenario, rate=600, seconds=8, seed=7, partitions=4)
    fresh_topics(cluster.bootstrap, options.partitions)
    return accept(options, cluster, folder)


def assert_good(outcome: Outcome) -> None:
    assert outcome.verdict.good, (outcome.line(), outcome.verdict.problems.texts)
    assert all(held for _, _, held in outcome.verdict.checks), outcome.verdict.checks
    assert outcome.verdict.inputs > 4_000
    assert outcome.verdict.fills > 1_000
    assert outcome.verdict.balance["dlq"] > 0
    assert outcome.verdict.balance["duplicate"] > 0
    assert outcome.verdict.balance["rerouted"] > 0


@pytest.mark.kafka
@pytest.mark.timeout(240)
def test_execution_flow_without_faults_equals_the_oracle(cluster: Cluster, tmp_path: Path) -> None:
    assert_good(run("clean", cluster, tmp_path))


@pytest.mark.kafka
@pytest.mark.timeout(240)
def test_execution_flow_killed_in_commits_and_between_loses_and_repeats_nothing(cluster: Cluster, tmp_path: Path) -> None:
    outcome = run("kill", cluster, tmp_path)
    assert_good(outcome)
    assert outcome.notes["killed_outside"] >= 1
    assert outcome.notes["killed_in_commit"] >= 1


@pytest.mark.kafka
@pytest.mark.timeout(240)
def test_execution_flow_from_one_worker_to_two_and_back_loses_and_repeats_nothing(cluster: Cluster, tmp_path: Path) -> None:
    assert_good(run("scale", cluster, tmp_path))


# ---- the judge judged, without a broker -----------------------------------------------------------------------------------------


class Listener:
    """Stands in for a lane's oracle and remembers what it was fed."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, int, int]] = []

    def feed(self, topic: str, offset: int, key: bytes, value: bytes, now_ns: int) -> None:
        self.heard.append((topic, offset, now_ns))

    def advance(self, now_ns: int) -> None:
        self.heard.append(("clock", -1, now_ns))


def records(*offsets: int) -> list[Record]:
    return [Record(offset, b"", b"") for offset in offsets]


def test_play_feeds_inputs_as_audited_and_repeats_right_after_what_they_follow() -> None:
    inputs = {REPORT: records(0, 1, 2, 4), ROUTE: records(0, 1)}
    audits = [
        Audit(REPORT, 0, "order_unknown", "pending", 10),
        Audit(ROUTE, 0, "order_recorded", "published", 20),
        Audit(REPORT, 0, "accepted", "published", 20),
        Audit(REPORT, 2, "accepted", "published", 30),
        Audit(REPORT, 2, "order_unknown_expired", "dlq", 40),
        Audit(REPORT, 4, "accepted", "published", 50),
    ]
    wrong: list[str] = []
    listener = Listener()
    play(listener, inputs, audits, wrong.append)  # type: ignore[arg-type]
    assert not wrong
    assert listener.heard == [
        (REPORT, 0, 10), (REPORT, 1, 10), (ROUTE, 0, 20), (ROUTE, 1, 20), (REPORT, 2, 30),
        ("clock", -1, 40), (REPORT, 4, 50), ("clock", -1, 50),
    ]  # fmt: skip


def test_play_audits_out_of_offset_order_are_told() -> None:
    audits = [Audit(REPORT, 1, "accepted", "published", 10), Audit(REPORT, 0, "accepted", "published", 20)]
    wrong: list[str] = []
    play(Listener(), {REPORT: records(0, 1)}, audits, wrong.append)  # type: ignore[arg-type]
    assert wrong


def lane_with_one_fill() -> tuple[LaneOracle, LaneTask]:
    """Return an oracle that published one fill and buried one report, and a task in which the flow did the same."""
    oracle = LaneOracle(0, 1, REFERENCE)
    oracle.feed(ROUTE, 0, b"", route(correlation(1)), T0)
    oracle.feed(REPORT, 0, b"", report("TRADE", correlation(1), T0, exec_id="E1", venue_order_id="V1", last_qty="5", last_px="10"), T0)
    oracle.feed(REPORT, 1, b"k", b"{", T0)
    (fill,) = oracle.fills
    numbers = ("signed_delta", "filled_size", "price", "cum_size", "leaves_size", "avg_price", "residual_size", "residual_notional")
    same = ("status", "order_id", "symbol", "side", "venue", "account", "book", "exec_id", "provisional", "commission", "commission_ccy")
    shown: dict[str, Any] = {name: str(getattr(fill, name)) for name in numbers} | {name: getattr(fill, name) for name in same}
    shown |= {"liquidity_flag": fill.liquidity, "latency_ms": float(fill.latency_ms)}
    first = (fill.venue, fill.account, fill.symbol, fill.exec_id, str(fill.exec_ts_ns), fill.correlation_id)
    published = Fill("id", 1, fill.correlation_id, first, shown)
    task = LaneTask(Cluster(""), 0, 1, Path(), {}, [published], [Letter(REPORT, 1, "json_malformed", b"k", b"{")])
    return oracle, task


def test_check_fills_same_fill_is_no_problem() -> None:
    oracle, task = lane_with_one_fill()
    verdict = LaneVerdict(0)
    check_fills(task, oracle, verdict)
    assert not verdict.problems.counts, verdict.problems.texts


def test_check_fills_missing_fill_is_lost_and_its_order_suspect() -> None:
    oracle, task = lane_with_one_fill()
    task.fills.clear()
    verdict = LaneVerdict(0)
    check_fills(task, oracle, verdict)
    assert verdict.problems.counts == {"lost": 1}
    assert verdict.suspects == {correlation(1)}


@pytest.mark.parametrize(("name", "value"), [("price", "10.01"), ("cum_size", "6"), ("side", "SELL"), ("latency_ms", 0.0)])
def test_check_fills_one_figure_off_is_a_mismatch(name: str, value: object) -> None:
    oracle, task = lane_with_one_fill()
    task.fills[0].shown[name] = value
    verdict = LaneVerdict(0)
    check_fills(task, oracle, verdict)
    assert verdict.problems.counts == {"state_mismatch": 1}


def test_check_fills_exec_id_is_excused_only_where_nothing_else_changes() -> None:
    oracle, task = lane_with_one_fill()
    for offset, (exec_id, px, ts) in enumerate((("E2", "11", T0 + 2), ("E3", "12", T0 + 3)), 2):
        refers = {"exec_ref_id": "E1" if exec_id == "E2" else "E2", "venue_order_id": "V1", "last_qty": "5", "last_px": px}
        oracle.feed(REPORT, offset, b"", report("CORRECT", correlation(1), ts, exec_id=exec_id, **refers), T0)
    first = task.fills[0]
    for fill in oracle.fills[1:]:
        shown = first.shown | {"status": "CORRECTED", "price": str(fill.price), "signed_delta": "0", "avg_price": str(fill.avg_price)}
        shown |= {"exec_id": "wrong", "residual_notional": "0"}
        task.fills.append(first._replace(version=fill.version, shown=shown))
    verdict = LaneVerdict(0)
    check_fills(task, oracle, verdict)
    assert verdict.unsettled == 0
    assert verdict.problems.counts == {"state_mismatch": 2}, verdict.problems.texts
    assert all("exec_id wrong" in text for text in verdict.problems.texts)


@pytest.mark.parametrize(
    ("letters", "kinds"),
    [
        ([Letter(REPORT, 1, "json_malformed", b"k", b"{")], {}),
        ([Letter(REPORT, 1, "json_malformed", b"k", b"}")], {"lost": 1}),
        ([Letter(REPORT, 1, "oversize", b"k", b"{")], {"state_mismatch": 1}),
        ([], {"lost": 1}),
    ],
)
def test_check_letters_tells_what_is_wrong(letters: list[Letter], kinds: dict[str, int]) -> None:
    oracle, task = lane_with_one_fill()
    task.letters[:] = letters
    problems = Problems()
    check_letters(task, {REPORT: [Record(0, b"", b""), Record(1, b"k", b"{")]}, oracle, problems)
    assert problems.counts == kinds


def test_read_audits_record_taken_out_breaks_the_chain() -> None:
    chain, previous = [], GENESIS
    for number in range(3):
        payload = {
            "lane": 0, "seq": number, "prev_sha256": previous, "reason": "accepted", "outcome": "published",
            "input": {"topic": REPORT, "partition": 0, "offset": number},
        }  # fmt: skip
        value = json.dumps({"type": AUDIT, "ts_ns": T0, "payload": payload}).encode()
        previous = sha256(value).hexdigest()
        chain.append(Record(number, b"0", value))
    _, task = lane_with_one_fill()
    whole, broken = Problems(), Problems()
    assert len(read_audits(task, chain, whole)) == 3
    read_audits(task, [chain[0], chain[2]], broken)
    assert not whole.counts
    assert broken.counts["lost"] >= 1


def test_problems_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="late"):
        Problems().add("late", "no such kind")


def test_read_ledger_one_place_told_twice_is_refused(tmp_path: Path) -> None:
    line = '{"topic":"t","partition":0,"offset":3,"key":"k","sha256":"00","due_ns":0,"kind":"NEW","order":"","fault":""}\n'
    file = tmp_path / "ledger.ndjson"
    file.write_text(line + line)
    with pytest.raises(ValueError, match="twice"):
        read_ledger(file)


class Delivered(NamedTuple):
    """What the Kafka client says of a message it delivered, or gave up."""

    at: int | None

    def topic(self) -> str:
        return REPORT

    def partition(self) -> int:
        return 0

    def offset(self) -> int | None:
        return self.at


def test_message_delivered_at_an_offset_nobody_told_is_found_by_its_bytes(tmp_path: Path) -> None:
    file = tmp_path / "ledger.ndjson"
    with file.open("w", encoding="utf-8") as ledger:
        sender = Sender("127.0.0.1:1", {}, {}, ledger)
        for value, error, at in (
            (b"placed", None, 3),
            (b"unplaced", None, None),
            (b"given up", KafkaError(KafkaError._MSG_TIMED_OUT), None),
        ):
            sender._record(Message(REPORT, b"k", value, 0, "NEW"), error, cast(Any, Delivered(at)))
    found = read_ledger(file)
    digest = sha256(b"unplaced").digest()
    assert found.undelivered == 1
    assert list(found.sent[REPORT, 0]) == [3]
    assert found.unplaced == {(REPORT, 0): {digest: 1}}
    _, task = lane_with_one_fill()
    task = replace(task, sent=found.of_lane([REPORT], 0), unplaced={REPORT: found.unplaced[REPORT, 0]})
    there = [Record(3, b"k", b"placed"), Record(4, b"k", b"unplaced")]
    right, absent, twice = LaneVerdict(0), LaneVerdict(0), LaneVerdict(0)
    check_sent(task, REPORT, there, right)
    check_sent(task, REPORT, there[:1], absent)
    check_sent(task, REPORT, [*there, Record(5, b"k", b"unplaced")], twice)
    assert (right.problems.counts, right.arrived) == ({}, {})
    assert absent.problems.counts == {"lost": 1}
    assert twice.arrived == {(REPORT, b"k", digest, 0): 1}


@pytest.mark.parametrize("text", ["before_commit", "before_commit:0", "sometime:3", "w/before_commit:x"])
def test_fault_of_unreadable_text_names_the_variable(text: str) -> None:
    with pytest.raises(SettingsError, match="HEDGEROW_FAULT"):
        fault_of(text, "execution-0")


def test_fault_of_another_worker_is_nothing() -> None:
    assert fault_of("execution-1/before_commit:3", "execution-0") is None
    assert fault_of("", "execution-0") is None
    assert fault_of("execution-0/before_commit:3,in_revoke:1", "execution-0") is not None
