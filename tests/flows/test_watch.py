"""What the demo concludes: the tally over the topics, loss that is noticed, and a verdict that turns on each single fault."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from confluent_kafka import Producer
from prometheus_client import CollectorRegistry, generate_latest

from connectors.mock_broker import MockBroker
from flows.board import Level, passed
from flows.demo_process import DemoError
from flows.metrics import RuntimeCollector
from flows.watch import (
    ALIASES,
    AUDIT,
    DEAD,
    FILLS,
    READ,
    REPORTS,
    Metrics,
    Reader,
    Sent,
    Tally,
    dead_reasons,
    parse_metrics,
    read_sent,
    service_levels,
    since,
    spread_of,
)

T0 = 1_767_614_400_000_000_000
NOW = T0 + 30_000_000


def fill(exec_id: str = "E1", version: int = 1, **fields: Any) -> bytes:
    """Return a fill as the flow publishes it; `fill_id` follows from the exec_id unless said otherwise."""
    payload = {
        "fill_id": f"fill-{exec_id}", "version": version, "exec_id": exec_id, "venue": "ALPHA", "account": "A", "symbol": "ACME",
        "side": "BUY", "order_id": "O1", "filled_size": "10", "price": "100", "status": "FILLED", "exec_ts_ns": T0, "latency_ms": 5.0,
        "benchmark": {"status": "ok", "px": "99"}, "benchmark_mid": {"status": "stale", "px": "100"},
        "slippage": {"arrival_bps": 101.0, "mid_bps": 0.0}, "residual": {"exposure_notional": "1000"},
    }  # fmt: skip
    return json.dumps({"payload": {**payload, **fields}}).encode()


def audit(exec_id: str, outcome: str, reason: str = "order_unknown") -> bytes:
    return json.dumps({"payload": {"outcome": outcome, "reason": reason, "venue": "ALPHA", "exec_id": exec_id}}).encode()


def trade(exec_id: str) -> bytes:
    return json.dumps({"payload": {"kind": "TRADE", "venue": "ALPHA", "exec_id": exec_id}}, separators=(",", ":")).encode()


def letter(offset: int, original: bytes, reason: str = "json_malformed") -> bytes:
    source = {"topic": REPORTS, "partition": 0, "offset": offset}
    return json.dumps({"payload": {"reason": reason, "original": base64.b64encode(original).decode(), "source": source}}).encode()


def tallied(*records: tuple[str, bytes]) -> Tally:
    tally = Tally()
    offsets: Counter[str] = Counter()
    for topic, value in records:
        tally.take(topic, 0, offsets[topic], value, NOW)
        offsets[topic] += 1
    return tally


# ---- the tally -------------------------------------------------------------------------------------------------------


def test_tally_first_version_is_timed_from_the_gateways_receive_time() -> None:
    tally = tallied((FILLS, fill()))
    assert tally.latencies == [pytest.approx(25.0)]
    assert tally.last[0].latency_ms == pytest.approx(25.0)


def test_tally_fill_that_was_pending_or_of_a_fast_clock_is_not_timed() -> None:
    tally = tallied((AUDIT, audit("E1", "pending")), (FILLS, fill("E1")), (FILLS, fill("E2", latency_ms=0.0)), (FILLS, fill("E2", 2)))
    assert (tally.latencies, tally.waited) == ([], 1)


def test_tally_repeats_gaps_and_duplicates_let_through_are_counted_apart() -> None:
    tally = tallied((FILLS, fill("E1")), (FILLS, fill("E1", 2)), (FILLS, fill("E1", 2)), (FILLS, fill("E2")), (FILLS, fill("E2", 3)))
    assert (tally.repeated, tally.gaps(), tally.let_through) == (1, 1, 0)
    tally = tallied((FILLS, fill("E1")), (FILLS, fill("RE1")), (FILLS, fill("E1", order_id="O2", fill_id="other side")))
    assert (tally.repeated, tally.gaps(), tally.let_through) == (0, 0, 1)


def test_tally_slippage_is_weighted_by_benchmark_notional_of_ok_benchmarks() -> None:
    other = {
        "benchmark": {"status": "ok", "px": "198"},
        "price": "200",
        "residual": {"exposure_notional": "-6000"},
        "slippage": {"arrival_bps": 1.0},
    }
    tally = tallied((FILLS, fill("E1")), (FILLS, fill("E2", **other)), (FILLS, fill("E3", benchmark={"status": "missing"}, slippage={})))
    (venue,) = tally.slippage()
    assert (venue.fills, venue.arrival_missing, venue.mid_stale, venue.mid_bps) == (3, 1, 3, None)
    assert venue.arrival_bps == pytest.approx((990 * 101.0 + 5940 * 1.0) / (990 + 5940))


def test_tally_what_cannot_be_read_never_stops_it() -> None:
    tally = tallied((FILLS, b"{"), (FILLS, b"[]"), (AUDIT, b'{"payload":{}}'), (REPORTS, b'"TRADE" cut short'), (REPORTS, b"\xff" * 10))
    assert tally.unreadable == 3
    assert tally.trades == {}


def test_spread_of_no_latencies_is_empty() -> None:
    assert spread_of([]).p50 is None
    assert spread_of([1.0, 2.0, 3.0]).p50 == 2.0


# ---- the reader ------------------------------------------------------------------------------------------------------


def test_reader_begins_at_the_end_and_counts_what_the_broker_dropped_unread() -> None:
    with MockBroker(dict.fromkeys(READ, 1)) as broker:
        producer = Producer({"bootstrap.servers": broker.bootstrap, "log_level": 0})
        producer.produce(FILLS, fill("before"))
        producer.flush(10)
        tally = Tally()
        reader = Reader(broker.bootstrap, {}, tally)
        for number in range(120):  # 12 MB: more than the embedded broker keeps of a partition
            producer.produce(REPORTS, b"%100000d" % number)
        producer.produce(FILLS, fill("after"))
        producer.flush(30)
        reader.start()
        deadline = time.monotonic() + 20
        while (tally.read[REPORTS] + reader.lost < 120 or not tally.read[FILLS]) and time.monotonic() < deadline:
            time.sleep(0.05)
        reader.end()
    assert reader.failure is None
    assert reader.lost > 0
    assert tally.read[REPORTS] + reader.lost == 120
    assert list(tally.versions) == ["fill-after"]


# ---- the worker's metrics --------------------------------------------------------------------------------------------


def test_parse_metrics_sums_lanes_and_since_takes_the_beginning_off() -> None:
    def exposition(received: int, commits: int) -> str:
        snapshot = {
            "flow": "execution", "worker": "w", "counts": {"commits": commits}, "uncommitted_bytes": 0, "paused": 0,
            "broadcast": {"snapshots": 9}, "lanes": {0: {"lag": 1, "received": received}, 3: {"lag": 0, "received": 2}},
            "histograms": {"commit_ms": ((2.0,), [commits, 0], 1_000.0 * commits), "chunk_records": ((1.0,), [0, 0], 0.0)},
        }  # fmt: skip
        registry = CollectorRegistry()
        registry.register(RuntimeCollector(lambda: snapshot))
        return generate_latest(registry).decode()

    began, now = parse_metrics(exposition(5, 1), 1.0), parse_metrics(exposition(50, 4), 2.0)
    assert (now.lanes["received"], now.broadcast["snapshots"], now.runtime["hedgerow_lanes_owned"]) == (52, 9, 2)
    passed_by = since(now, began)
    assert (passed_by.lanes["received"], passed_by.broadcast["snapshots"]) == (45, 0)
    assert (passed_by.runtime["hedgerow_commits_total"], passed_by.runtime["hedgerow_commit_seconds_sum"]) == (3, 3.0)


def test_dead_reasons_leave_the_other_counters_out() -> None:
    assert dead_reasons({"dlq": 5, "dlq_resolved": 1, "dlq_field_invalid": 2, "dlq_json_malformed": 3, "dlq_x": 0}) == {
        "json_malformed": 3,
        "field_invalid": 2,
    }


def test_read_sent_unfinished_simulator_is_told(tmp_path: Any) -> None:
    (tmp_path / "out").write_text("topic x sent 5\n")
    (tmp_path / "ledger").write_text("")
    with pytest.raises(DemoError, match="without telling what it sent"):
        read_sent(tmp_path / "out", tmp_path / "ledger")


# ---- the verdict -----------------------------------------------------------------------------------------------------

GOOD, SPOILED = trade("E1"), b"{not json"
LEDGER = {
    (REPORTS, 0, 0): (hashlib.sha256(GOOD).hexdigest(), "TRADE", ""),
    (REPORTS, 0, 1): (hashlib.sha256(SPOILED).hexdigest(), "TRADE", "malformed_json"),
    (REPORTS, 0, 2): (hashlib.sha256(trade("RE1")).hexdigest(), "TRADE", "duplicate_renumbered"),
    (REPORTS, 0, 3): (hashlib.sha256(trade("E2")).hexdigest(), "TRADE", "overfill"),
}
SENT = Sent({"sent": {REPORTS: 4, "marketdata.snapshot.v1": 7}, "undelivered": 0}, LEDGER)
WORKER = Metrics(
    0.0,
    Counter(),
    Counter(
        received=5, published=2, duplicate=1, pending=1, dlq=1, rerouted=0, balance_mismatch=0, fills_published=1, dlq_json_malformed=1
    ),
    Counter(snapshots=7),
)
TOPICS = [
    (REPORTS, GOOD), (REPORTS, SPOILED), (REPORTS, trade("RE1")), (REPORTS, trade("E2")), (AUDIT, audit("E2", "pending", "held")),
    (FILLS, fill("E1")), (DEAD, letter(1, SPOILED)), (ALIASES, b"{}"),
]  # fmt: skip


def verdict(records: list[tuple[str, bytes]] = TOPICS, lost: int = 0, sent: Sent = SENT, **counts: int) -> list[Level]:
    worker = replace(WORKER, lanes=Counter({**WORKER.lanes, **counts}))
    return service_levels(sent, tallied(*records), worker, lost, embedded=True)


def without(value: bytes) -> list[tuple[str, bytes]]:
    """Return the records without one value, its place kept by an empty one."""
    return [(topic, b"" if v == value and topic == REPORTS else v) for topic, v in TOPICS if v != value or topic == REPORTS]


def test_service_levels_all_accounted_for_passes() -> None:
    levels = verdict()
    assert [level.metric for level in levels if level.correct and level.verdict != "ok"] == []
    assert passed(levels)
    assert next(level.reached for level in levels if level.metric.startswith("good fills")) == "1 out, 1 waiting, 0 lost"


@pytest.mark.parametrize(
    ("metric", "levels"),
    [
        ("inputs taken in", verdict(received=4)),
        ("inputs taken in", verdict(sent=replace(SENT, closing={**SENT.closing, "undelivered": 1}))),
        ("each ends in one outcome", verdict(balance_mismatch=-1)),
        ("good fills sent", verdict(without(audit("E2", "pending", "held")))),
        ("good fills sent", verdict(without(GOOD))),
        ("fills on the topic", verdict(fills_published=2)),
        ("fills on the topic", verdict([*TOPICS, (FILLS, b"{")], fills_published=2)),
        ("versions repeated", verdict([*TOPICS, (FILLS, fill("E1"))], fills_published=2)),
        ("versions repeated", verdict([*TOPICS, (FILLS, fill("E1", 3))], fills_published=2)),
        ("duplicates let through", verdict([*TOPICS, (FILLS, fill("RE1"))], fills_published=2)),
        ("spoiled kept", verdict(without(letter(1, SPOILED)))),
        ("spoiled kept", verdict([(topic, letter(1, b"{other") if topic == DEAD else value) for topic, value in TOPICS])),
        ("dead letters", verdict(dlq_json_malformed=2)),
        ("market data", verdict(sent=replace(SENT, closing={**SENT.closing, "sent": {REPORTS: 4, "marketdata.snapshot.v1": 8}}))),
        ("dropped unread", verdict(lost=1)),
    ],
)
def test_service_levels_a_single_fault_turns_its_own_row_and_fails(metric: str, levels: list[Level]) -> None:
    missed = [level.metric for level in levels if level.correct and level.verdict == "missed"]
    assert len(missed) == 1
    assert missed[0].startswith(metric)
    assert not passed(levels)


def test_service_levels_slow_fills_are_missed_but_do_not_fail() -> None:
    levels = verdict([*TOPICS[:-3], (FILLS, fill("E1", exec_ts_ns=T0 - 10**9)), *TOPICS[-2:]])
    assert [level.metric for level in levels if level.verdict == "missed"] == ["fill → published, p50", "fill → published, p95"]
    assert passed(levels)


def test_service_levels_slippage_without_its_benchmark_is_missed() -> None:
    levels = verdict([*TOPICS[:-3], (FILLS, fill("E1", benchmark={"status": "missing"})), *TOPICS[-2:]])
    assert {level.metric: level.verdict for level in levels if level.metric.startswith("slippage")} == {
        "slippage against arrival": "missed",
        "slippage against mid": "ok",
    }
