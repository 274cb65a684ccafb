"""The pure parts of `bench.latency`: loads are messages the flows take, schedules hold their rates, and figures come from the right moments."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import hedged
from bench.latency import judge
from bench.load import ACK, FILL, FILLS_EACH, QUOTE, REPORT, ROUTE, Load, interleaved
from bench.open_loop import GROUP_OF_ORDERS, PROBE_BASE, Step, book_of, cut, execution_of, is_ours, probe_books, summed
from schemas.execution import ExecutionReportMessage, FillMessage
from schemas.hedging import GuardPolicyMessage, HedgeOrderEventMessage, RiskContextMessage, UniverseMessage
from schemas.market import MarketSnapshotMessage
from schemas.orders import OrderAckMessage, RouteIntentMessage
from schemas.reference import load_reference

START_NS = 1_767_614_400_000_000_000
MS = 1_000_000


def step(folder: Path = Path(), probes: int = 40, orders: int = GROUP_OF_ORDERS) -> Step:
    return Step(2_000.0, 0.0, 500, orders, folder, 0.25, 7, probes, 80.0, 30)


@pytest.mark.parametrize("load", [Load(1), hedged.HedgedLoad(1, 16, 30)])
def test_records_are_messages_of_their_topics(load: Load) -> None:
    orders = step().order_numbers[-60:]
    executions, part, _ = step().plan()
    now = np.array([START_NS])
    for topic, records, model in (
        (ROUTE, load.routes(orders, START_NS), RouteIntentMessage),
        (ACK, load.acks(orders, START_NS), OrderAckMessage),
        (REPORT, load.reports(executions[-60:], part[-60:], now), ExecutionReportMessage),
        (QUOTE, load.quotes(np.arange(9), now), MarketSnapshotMessage),
    ):
        for value in cut(records):
            assert model.model_validate_json(value).type == topic


def test_reports_agree_with_their_routes() -> None:
    load = hedged.HedgedLoad(3, 16, 30)
    executions, part = interleaved(0, GROUP_OF_ORDERS, GROUP_OF_ORDERS)
    routes = [json.loads(value)["payload"] for value in cut(load.routes(np.arange(GROUP_OF_ORDERS), START_NS))]
    for value, execution in zip(cut(load.reports(executions, part, np.array([START_NS]))), executions.tolist(), strict=True):
        report, route = json.loads(value)["payload"], routes[execution // FILLS_EACH]
        assert (report["instrument"], report["side"]) == (route["symbol"], route["side"])
        assert execution_of(value) == execution
    assert Counter(route["side"] for route in routes)["BUY"] > 90
    assert {route["book"] for route in routes} == {name.decode() for name in load.names() if name.startswith(b"B")}


def test_load_without_books_is_one_book_that_buys() -> None:
    values = cut(Load(1).routes(np.arange(9), START_NS))
    assert {(p["book"], p["side"], p["symbol"]) for p in (json.loads(v)["payload"] for v in values)} == {("BOOK-1", "BUY", "BTC-USD")}


def test_plan_is_in_time_and_holds_its_rates() -> None:
    one = step()
    executions, part, due_ns = one.plan()
    assert (np.diff(due_ns) >= 0).all()
    probes = executions >= PROBE_BASE * FILLS_EACH
    assert probes.sum() == 40
    assert (part[probes] == 0).all()
    assert len(np.unique(executions)) == len(executions) == GROUP_OF_ORDERS * FILLS_EACH + 40
    assert due_ns[probes].min() >= 0.25e9
    assert np.ptp(due_ns[probes]) == pytest.approx(40 / 80.0 * 1e9, rel=0.1)
    assert len(np.unique(due_ns[probes] // (12_500_000))) == 40  # one in each of its slots, but not always at the same place in it
    assert np.ptp(due_ns[probes] % 12_500_000) > 6_000_000
    busy = due_ns[~probes]
    assert (busy == (np.arange(len(busy)) / 2_000.0 * 1e9).astype(np.int64)).all()
    assert set((executions // FILLS_EACH).tolist()) == set(one.order_numbers.tolist())


def test_probes_take_turns_in_their_books_and_sell_what_was_bought() -> None:
    one, load = step(), hedged.HedgedLoad(1, 16, 30)
    values = cut(load.routes(one.order_numbers[-40:], START_NS))
    assert [book_of(value) for value in values] == probe_books(one)
    routes = [json.loads(value)["payload"] for value in values]
    assert [route["side"] for route in routes] == ["BUY"] * 23 + ["SELL"] * 17
    assert {(a["book"], a["symbol"]) for a in routes[30:]} == {(a["book"], a["symbol"]) for a in routes[:10]}
    assert load.names()[b"P00029"] < load.names()[b"B00000"]


def test_hedger_is_told_what_it_must_know() -> None:
    UniverseMessage.model_validate_json(hedged.universe(b"P00001", 5e3, START_NS))
    RiskContextMessage.model_validate_json(hedged.message(hedged.RISK, "a", hedged.RISK_STATE, START_NS))
    GuardPolicyMessage.model_validate_json(hedged.message(hedged.POLICY, "*", {"policy_hash": "0123456789abcdef"}, START_NS))


def test_reference_lists_what_is_traded(tmp_path: Path) -> None:
    (tmp_path / "reference.toml").write_text(hedged.REFERENCE)
    assert tuple(one.symbol.encode() for one in load_reference(tmp_path / "reference.toml").instruments) == hedged.SYMBOLS


def test_prices_move_together() -> None:
    mids = np.log(hedged.Prices(1).move(5.0, 4_000) / 1e6)
    moves = np.diff(mids, axis=0)
    correlation = np.corrcoef(moves.T)
    k = len(hedged.SPOTS)
    assert correlation[0, k] > 0.95  # a future and its spot
    assert correlation[0, 1] == pytest.approx(hedged.COMMON, abs=0.05)
    assert moves[:, 0].std() == pytest.approx(hedged.BAR_VOLATILITY, rel=0.05)


def test_answers_fill_a_leg_and_are_not_taken_for_the_load() -> None:
    cover = {"hedge_id": "00000000-0000-4000-8000-000000000001", "book": "P00001"}
    leg = {
        "order_id": "00000000-0000-4000-8000-000000000002", "instrument": "BTC-FUT", "venue": "ALPHA", "side": "SELL", "size": "0.125", "mid": "60000.5",
    }  # fmt: skip
    (one, done), (other, fill) = hedged.answers(cover, leg, START_NS)
    assert (one, other) == (hedged.ANSWER, FILL)
    assert HedgeOrderEventMessage.model_validate_json(done).payload.filled_size == "0.125"
    assert FillMessage.model_validate_json(fill).payload.signed_delta == "-0.125"
    assert not is_ours(fill)
    assert is_ours(cut(Load(1).reports(np.array([3]), np.array([0]), np.array([START_NS])))[0])


def left_behind(one: Step, lost_probe: int | None = None, lost_fill: int | None = None) -> tuple[int, np.ndarray[Any, Any]]:
    """Write what the processes of a run would have left: 3 ms to the broker, fills visible after 40 ms, hedges after 70."""
    executions, _, due_ns = one.plan()
    taken = START_NS + due_ns + 3 * MS
    there = np.arange(len(executions)) != (-1 if lost_fill is None else lost_fill)
    np.savez(one.folder / "sent.npz", late_ms=np.full(len(executions), 0.5))
    np.savez(
        one.folder / "seen.npz",
        number=executions[there], made=taken[there] + 10 * MS, written=(taken[there] + 20 * MS) // MS, visible=taken[there] + 40 * MS,
    )  # fmt: skip
    probes = np.flatnonzero(executions >= PROBE_BASE * FILLS_EACH)
    number = executions[probes] // FILLS_EACH - PROBE_BASE - one.first_probe
    probes, number = probes[number != lost_probe], number[number != lost_probe]
    at, books = taken[probes], (one.first_probe + number) % one.probe_books
    made, written, visible = at + 50 * MS, (at + 60 * MS) // MS, at + 70 * MS
    extra = [-1, books[0]]  # a hedge of a busy book, and a second one of the first probe
    np.savez(
        one.folder / "covers.npz",
        number=np.append(books, extra), made=np.append(made, [0, made[0] + MS]), written=np.append(written, [0, written[0] + 1]),
        visible=np.append(visible, [0, visible[0] + MS]),
    )  # fmt: skip
    return START_NS, taken


def test_figures_of_a_good_run(tmp_path: Path) -> None:
    one = step(tmp_path)
    start_ns, taken = left_behind(one)
    figures = judge(one, start_ns, 0.25, taken, np.sort(taken + 25 * MS), {})
    assert figures.valid
    assert (figures.line["p50_ms"], figures.line["due_p95_ms"]) == (40.0, 43.0)
    assert figures.line["invalid_because"] == []
    line, stages, wrong, lost = hedged.judge_probes(one, start_ns, taken)
    assert (wrong, lost) == ([], [])
    assert (line["p50_ms"], line["p95_ms"], line["due_p99_ms"]) == (70.0, 70.0, 73.0)
    assert (line["probes"], line["answered"], line["answered_again"], line["busy_hedges"]) == (40, 40, 1, 1)
    assert (line["report_to_fill_p50_ms"], line["fill_to_intent_p50_ms"]) == (40.0, 40.0)
    assert sum(values.mean() for values in stages.values()) == pytest.approx(73.0)


def test_lost_probes_and_fills_are_told(tmp_path: Path) -> None:
    one = step(tmp_path)
    start_ns, taken = left_behind(one, lost_probe=9, lost_fill=3)
    figures = judge(one, start_ns, 0.25, taken, np.sort(taken), {})
    assert not figures.valid
    assert figures.line["invalid_because"] == ["1 fills are missing"]
    line, _, wrong, lost = hedged.judge_probes(one, start_ns, taken)
    assert line["answered"] == 39
    assert lost == [probe_books(one)[9]]
    assert wrong == ["1 of 40 probes were not answered by a hedge"]


def test_a_broker_that_took_less_than_the_rate_makes_a_line_invalid(tmp_path: Path) -> None:
    one = step(tmp_path)
    start_ns, taken = left_behind(one)
    slow = start_ns + ((taken - start_ns) * 1.1).astype(np.int64)
    figures = judge(one, start_ns, 0.25, slow, np.sort(slow), {})
    assert figures.line["invalid_because"] == ["the broker took 91% of the rate"]


def test_metrics_are_summed_by_name() -> None:
    told = {
        'hedgerow_lane_count{lane="0",name="decisions"}': 3.0,
        'hedgerow_lane_count{lane="1",name="decisions"}': 4.0,
        'hedgerow_lane_count{name="x"}': 9.0,
    }
    assert summed(told, "hedgerow_lane_count", "decisions") == 7.0
    assert summed(told, "hedgerow_lane_count") == 16.0
