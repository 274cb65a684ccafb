"""The pure parts of `bench.execution`: the load says truly what must come of it, the peers' core comes to it, figures add up."""

from __future__ import annotations

import ast
import json
from decimal import Decimal
from pathlib import Path
from random import Random

import pytest

import schemas
from bench.backlog import Load, Maker, Record, Truth
from bench.peers import reconcile
from bench.peers.reconcile import ACK, REPORT, ROUTE, Order, Report
from bench.stages import STAGES, Timers, parse_stat, us_per
from connectors.simulator.messages import QUOTE
from connectors.simulator.sender import murmur2
from schemas.execution import ExecutionReportMessage
from schemas.market import MarketSnapshotMessage
from schemas.orders import OrderAckMessage, RouteIntentMessage
from schemas.reference import load_reference

START_NS = 1_767_614_400_000_000_000
MODELS = {REPORT: ExecutionReportMessage, ROUTE: RouteIntentMessage, ACK: OrderAckMessage, QUOTE: MarketSnapshotMessage}


def maker(seed: int = 1) -> Maker:
    return Maker(load_reference(Path(schemas.__path__[0]) / "simulation.toml"), seed)


@pytest.fixture(scope="module")
def load() -> Load:
    return maker().load(8_000, START_NS)


def fold(records: list[Record], through_json: bool = False) -> Truth:
    """Return what the peers' core makes of records."""
    orders: dict[str, Order] = {}
    truth = Truth()
    for record in records:
        if record.topic not in reconcile.INPUTS:
            continue
        message = json.loads(record.value)
        key, payload = message["correlation_id"], message["payload"]
        order = orders.setdefault(key, Order())
        fills = []
        if record.topic == REPORT:
            fills = order.take_report(Report.of(payload))
        elif record.topic == ROUTE:
            fills = order.take_route({"order_id": payload["order_id"], "book": payload["book"], "size": payload["size"]})
        else:
            order.take_ack(payload.get("venue_order_id"))
        for fill in fills:
            truth.add(fill["status"], fill["symbol"], fill["signed_delta"])
            assert fill["cum_size"] >= 0
            assert fill["leaves_size"] >= 0
        if through_json:
            orders[key] = Order.from_json(json.loads(json.dumps(order.to_json())))
    return truth


def test_load_of_the_same_seed_is_the_same(load: Load) -> None:
    again = maker().load(8_000, START_NS)
    assert again.records == load.records
    assert again.truth.same(load.truth)
    assert not maker(2).load(8_000, START_NS).truth.same(load.truth)


def test_load_has_everything_in_it(load: Load) -> None:
    assert set(load.counts) == set(MODELS)
    assert set(load.truth.fills) == {"FILLED", "BUSTED", "CORRECTED"}
    reports = [record.value for record in load.records if record.topic == REPORT]
    assert len(set(reports)) < len(reports)  # repeats
    assert [record.sent_ns for record in load.records] == sorted(record.sent_ns for record in load.records)


def test_records_are_what_the_contracts_say(load: Load) -> None:
    for record in load.records[::7]:
        MODELS[record.topic].model_validate_json(record.value)


def test_peers_core_comes_to_the_truth(load: Load) -> None:
    assert fold(load.records).same(load.truth)


def test_peers_core_comes_to_the_truth_through_its_stored_state(load: Load) -> None:
    assert fold(load.records[:2_000], through_json=True).same(fold(load.records[:2_000]))


@pytest.mark.parametrize("topics", [(REPORT, ROUTE, ACK), (REPORT, ACK, ROUTE), (ROUTE, REPORT, ACK)])
def test_peers_core_takes_topics_in_any_order(load: Load, topics: tuple[str, ...]) -> None:
    mixed = [record for topic in topics for record in load.records if record.topic == topic]
    assert fold(mixed).same(load.truth)


def test_peers_core_takes_an_orders_records_in_any_order() -> None:
    one = maker().load(400, START_NS)
    records = list(one.records)
    Random(1).shuffle(records)
    assert fold(records).same(one.truth)


def test_one_per_lane_reaches_every_lane_of_every_topic() -> None:
    closing = maker().one_per_lane(16, START_NS)
    for topic in (REPORT, ROUTE, ACK):
        assert {murmur2(record.key) % 16 for record in closing.records if record.topic == topic} == set(range(16))
    assert fold(closing.records).same(closing.truth)


def test_truth_tells_a_missing_fill_and_another_quantity() -> None:
    truth, fewer, other = Truth(), Truth(), Truth()
    truth.add("FILLED", "ACME", Decimal(3))
    truth.add("BUSTED", "ACME", Decimal(-3))
    fewer.add("FILLED", "ACME", Decimal(3))
    other.add("FILLED", "ACME", Decimal(4))
    other.add("BUSTED", "ACME", Decimal(-3))
    assert truth.same(truth)
    assert not truth.same(fewer)
    assert not truth.same(other)
    assert (fewer + other).count == 3
    assert (fewer + other).position == {"ACME": Decimal(4)}


def test_peers_import_nothing_of_hedgerow() -> None:
    for path in Path(reconcile.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            ours = [name for name in names if name.partition(".")[0] in ("schemas", "state", "operators", "connectors", "flows", "tests")]
            assert ours == []


def test_timers_count_a_stage_within_a_stage_once() -> None:
    timers = Timers()

    def burn() -> int:
        return sum(range(200_000))

    inner = timers.wrap("fold", burn)
    timers.wrap("output", lambda: (inner(), burn()))()
    assert timers.calls == {"fold": 1, "output": 1}
    assert 0.3 < timers.total_ns["fold"] / timers.total_ns["output"] < 3


def test_stages_add_up_to_the_processor_time() -> None:
    before = {"stages_ns": {"fold": 1_000}, "librdkafka_s": 0.5, "cpu_s": 1.0}
    after = {"stages_ns": {"fold": 3_001_000, "engine": 1_000_000}, "librdkafka_s": 0.7, "cpu_s": 2.0}
    found = us_per(before, after, 1_000)
    assert set(found) == set(STAGES)
    assert found["fold"] == 3.0
    assert found["librdkafka"] == pytest.approx(200.0)
    assert sum(found.values()) == pytest.approx(1_000.0)


def test_parse_stat_reads_names_with_brackets() -> None:
    name, fields = parse_stat("42 (rdk:main (x) y) S 1 42 42")
    assert name == "rdk:main (x) y"
    assert fields[:2] == ["S", "1"]
