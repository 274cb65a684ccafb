"""Waiting reports: their bytes are kept exactly, taken in the order they came, and leave nothing behind."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable

import numpy as np
import pytest

from bench.oracle import REPORT, ROUTE
from operators import context, execution
from operators.execution import TOPICS, ExecutionLogic
from schemas.chunk import Records, split
from state.ledger import PAGE_BYTES
from tests.support import DLQ, FILL, REFERENCE, SECOND, T0, chunk_of, correlation, report, route

NOW = T0 + 10 * SECOND
Bytes = dict[str, list[tuple[bytes, bytes]]]


def trade(order: int, number: int, **fields: object) -> bytes:
    return report("TRADE", correlation(order), T0 + number, exec_id=f"x{order}-{number}", last_qty="10", last_px="5", **fields)


def keyed(order: int, values: list[bytes]) -> list[tuple[bytes, bytes]]:
    return [(correlation(order).encode(), value) for value in values]


def put(out: Bytes, batches: list[Records]) -> None:
    for batch in batches:
        pairs = zip(split(batch.keys, batch.key_bounds), split(batch.data, batch.bounds), strict=True)
        out.setdefault(batch.topic, []).extend(pairs)


def feed(lane: ExecutionLogic, topic: str, records: list[tuple[bytes, bytes]], out: Bytes, size: int = 10_000) -> None:
    for first in range(0, len(records), size):
        part = [(first + n, key, value) for n, (key, value) in enumerate(records[first : first + size])]
        put(out, lane.process(chunk_of(topic, 0, part, NOW), NOW))


def mixed() -> tuple[list[tuple[bytes, bytes]], list[tuple[bytes, bytes]]]:
    """Return (reports, routes): lists of several lengths, links before what they refer to, repeats, letters, and routes that wake nobody."""
    reports = []
    routes = []
    for order in range(12):
        values = [trade(order, n) for n in range(order % 5)]
        if order % 3 == 0:
            link = {"exec_id": f"b{order}", "exec_ref_id": f"x{order}-9"}
            values.append(report("BUST", correlation(order), T0 + 20, **link))
            values.append(trade(order, 9))
        if order % 4 == 1 and values:
            values.append(values[0])
            values.append(trade(order, 0, recv_ts_ns=T0 + 77)[:-2])
            values.append(report("TRADE", correlation(order), T0, exec_id=f"x{order}-0", last_qty="11", last_px="5"))
        if order % 4 == 2:
            values.append(report("TRADE", correlation(order), T0, exec_id="?", last_qty="0", last_px="5", instrument="ACME"))
        reports += keyed(order, values)
        routes += keyed(order, [route(correlation(order)), *([route(correlation(order))] if order % 2 else [])])
    reports += keyed(40, [trade(40, 0)])
    routes.insert(5, (b"?", b"{"))
    return reports, routes


def outcome(arrange: Callable[[ExecutionLogic], None] = lambda lane: None, size: int = 10_000) -> tuple[Bytes, list[bytes], dict[str, int]]:
    """Return (everything sent, the rows of all tables, the counters) of the mixed reports and then their routes."""
    lane = ExecutionLogic(0, 1, REFERENCE)
    arrange(lane)
    out: Bytes = {}
    reports, routes = mixed()
    feed(lane, REPORT, reports, out)
    feed(lane, ROUTE, routes, out, size)
    return out, [table.rows.tobytes() for table in lane.ledger.tables.values()], lane.counters()


def no_foresight(m: object, most: int) -> tuple[np.ndarray, np.ndarray, int]:
    return np.zeros((0, 3), np.int64), np.zeros(0, np.int64), 0


def small_outputs(lane: ExecutionLogic) -> None:
    lane._out = context.make_output(lane._names, TOPICS, context.ROWS_PER_RECORD + 1)
    lane._lay_output()


def test_reports_decoded_ahead_of_their_routes_end_as_those_taken_with_a_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    ahead = outcome()
    assert ahead[2]["pending"] == ahead[2]["pending_order_unknown"] == 1
    assert {json.loads(value)["payload"]["status"] for _, value in ahead[0][FILL]} == {"FILLED", "BUSTED"}
    assert {json.loads(value)["payload"]["reason"] for _, value in ahead[0][DLQ]} >= {"exec_conflict", "zero_qty_trade", "json_malformed"}
    monkeypatch.setattr(execution.parking, "foresee", no_foresight)
    assert outcome() == ahead


@pytest.mark.parametrize("most", [1, 2, 5])
def test_reports_are_decoded_ahead_in_pieces_of_any_size_alike(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = outcome()
    monkeypatch.setattr(execution, "BATCH", most)
    assert outcome()[0] == whole[0]
    assert outcome()[2] == whole[2]


def test_reports_taken_ahead_go_on_where_the_outputs_were_full() -> None:
    assert outcome(small_outputs)[0] == outcome()[0]


@pytest.mark.parametrize("size", [1, 2, 7])
def test_routes_in_chunks_of_any_size_wake_alike(size: int) -> None:
    assert outcome(size=size)[0] == outcome()[0]


def test_what_has_waited_is_taken_without_a_stop_and_leaves_no_row_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ExecutionLogic, "_take_again", None)
    lane = ExecutionLogic(0, 1, REFERENCE)
    out: Bytes = {}
    for order in range(30):
        feed(lane, REPORT, keyed(order, [trade(order, n, text="t" * 37 * n) for n in range(5)]), out)
    assert (len(lane.ledger.pendings), len(lane.ledger.waits)) == (150, 30)
    assert len(lane.ledger.pages) > 300
    feed(lane, ROUTE, [pair for order in range(30) for pair in keyed(order, [route(correlation(order))])], out)
    assert len(out[FILL]) == 150
    assert [len(lane.ledger.tables[name]) for name in ("pendings", "pages", "waits")] == [0, 0, 0]


def test_waiting_bytes_of_every_length_come_back_as_they_were() -> None:
    lane = ExecutionLogic(0, 1, REFERENCE)
    out: Bytes = {}
    sent = [pair for n in range(PAGE_BYTES + 2) for pair in keyed(7, [trade(7, n, text="é" + "x" * n)])]
    sent += [(b"k" * n, trade(7, 1000 + n)) for n in (0, 1, PAGE_BYTES - 1, PAGE_BYTES, PAGE_BYTES + 1, 3 * PAGE_BYTES)]
    feed(lane, REPORT, sent, out)
    assert lane.counters()["pending_order_unknown"] == len(sent)
    captured = lane.capture()
    restored = ExecutionLogic(0, 1, REFERENCE)
    restored.restore(enumerate(captured.values))
    for each in (lane, restored):
        late: Bytes = {}
        for seconds in (6, 121):
            put(late, each.tick(NOW + seconds * SECOND))
        letters = [json.loads(value)["payload"] for _, value in late[DLQ]]
        assert [(base64.b64decode(one["source_key"]), base64.b64decode(one["original"])) for one in letters] == sent
        assert {one["reason"] for one in letters} == {"order_unknown_expired"}
        assert [key for key, _ in late[DLQ]] == [key for key, _ in sent]
        notes = [json.loads(value)["payload"] for _, value in late["audit.event.execution"]]
        assert [one["input"]["offset"] for one in notes] == 2 * list(range(len(sent)))
        assert len(each.ledger.pages) == 0
