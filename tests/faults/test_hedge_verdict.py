"""The judge of the hedger's faults: a run in memory is good, and whatever is planted in it is found, by its right name."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from typing import Any

import numpy as np
import pytest

from bench.hedge_load import ALLOCATIONS, COVERS, DESK, FILLS, ORDERS
from bench.hedge_memory import Run, play
from bench.hedge_oracle import Leg, hedge_id, order_id
from bench.hedge_verdict import AUDIT, DLQ, EVENTS, covariances_of, read_mids, share_hedged
from bench.ledger import Record
from operators.hedger import HedgerLogic
from schemas.registry import HEDGER_CHANGELOG


@pytest.fixture(scope="module")
def good() -> Run:
    return play(seconds=5.0, lanes=2, books=6, rate=150.0, seed=3, restart_every_s=2.0)


@pytest.fixture
def run(good: Run) -> Run:
    topics = replace(good.topics, there=copy.copy(good.topics.there))
    topics.there.update({place: list(records) for place, records in good.topics.there.items()})
    return Run(topics, copy.deepcopy(good.ledger), list(good.told), good.counters)


def found(run: Run) -> dict[str, int]:
    return dict(run.verdict().problems.counts)


def place_of(run: Run, topic: str, wanted: Callable[[Record], bool]) -> tuple[list[Record], int]:
    """Return (the records of a partition, the place in it) of the first record that is wanted."""
    for place in run.topics.places([topic]):
        records = run.topics.there[place]
        for at, record in enumerate(records):
            if wanted(record):
                return records, at
    raise LookupError(topic)


def own(record: Record) -> bool:
    return b'"sender":"agent.hedger"' in record.value


def test_a_run_in_memory_with_restarts_is_good_and_has_everything_in_it(good: Run) -> None:
    verdict = good.verdict()
    assert verdict.good, verdict.problems.texts
    assert {"FILLED", "REFUSED"} <= verdict.hedges.keys()
    assert verdict.decisions["sent"] == verdict.hedges.total() > 30
    assert all(verdict.balance[name] > 0 for name in ("applied", "duplicate", "echo", "dlq", "rerouted"))
    assert all(good.topics.there[topic, 0] for topic in (FILLS, ALLOCATIONS, ORDERS, DESK, COVERS))


def test_the_covariances_a_share_is_judged_by_are_those_the_hedger_had(good: Run) -> None:
    """The judge makes them of all quotes, one by one; with restarts, which read the quotes again, they are the same."""
    by_bar, judged = covariances_of(read_mids(good.topics)), 0
    for place in good.topics.places([AUDIT]):
        for record in good.topics.there[place]:
            p = json.loads(record.value)["payload"]
            if p["outcome"] != "sent" or p["expected"].get("overhedge_share") is None:
                continue
            exposure = {row["symbol"]: row["notional"] for row in p["exposures"]}
            needed = {row["instrument"]: 0.0 for row in p["legs"]}
            for ratio in p["ratios"]:
                needed[ratio["instrument"]] += ratio["used"] * exposure[ratio["exposure"]]
            after = {row["instrument"]: row["held"] + row["in_flight"] + row["trade"] for row in p["legs"]}
            share = share_hedged(by_bar[p["covariance_ts_ns"]], needed, after)
            assert share == pytest.approx(p["expected"]["overhedge_share"], rel=1e-9)
            judged += 1
    assert judged > 30


def test_a_hedge_sent_twice_is_found(run: Run) -> None:
    records, at = place_of(run, COVERS, own)
    records.append(Record(len(records), records[at].key, records[at].value))
    assert found(run)["hedged_twice"] >= 1


def test_a_second_hedge_of_a_version_that_is_open_is_found(run: Run) -> None:
    """What two owners of a lane would do: the same exposure is hedged under the next attempt while the first is under way."""
    records, at = place_of(run, COVERS, own)
    cover = json.loads(records[at].value)
    sent = cover["payload"]
    chain, number = place_of(run, AUDIT, lambda r: json.loads(r.value)["payload"].get("hedge_id") == sent["hedge_id"])
    audit = json.loads(chain[number].value)
    second = hedge_id(sent["book"], sent["exposure_version"], 1)
    cover["payload"] = sent | {"hedge_id": second, "attempt": 1}
    cover["payload"]["legs"] = [leg | {"order_id": order_id(second, leg["instrument"])} for leg in sent["legs"]]
    audit["payload"]["hedge_id"] = second
    records.append(Record(len(records), records[at].key, json.dumps(cover, separators=(",", ":")).encode()))
    chain.insert(number + 1, Record(-1, b"", json.dumps(audit, separators=(",", ":")).encode()))
    assert found(run)["hedged_twice"] >= 1


def test_a_hedge_that_never_reached_the_order_agent_is_found(run: Run) -> None:
    run.told.remove(next(row for row in run.told if row["kind"] == "cover"))
    assert found(run) == {"hedges_lost": 1}


def test_a_hedge_the_order_agent_was_told_of_twice_is_found(run: Run) -> None:
    run.told.append(next(row for row in run.told if row["kind"] == "cover"))
    assert found(run) == {"hedged_twice": 1}


def test_a_hedge_that_was_decided_and_is_not_in_the_topic_is_found(run: Run) -> None:
    records, at = place_of(run, COVERS, own)
    name = json.loads(records[at].value)["payload"]["hedge_id"]
    sent = {leg["order_id"] for leg in json.loads(records[at].value)["payload"]["legs"]}
    del records[at]
    for lane in range(2):  # or there would be answers to nothing
        there = run.topics.there[ORDERS, lane]
        there[:] = [r for r in there if not any(order.encode() in r.value for order in sent)]
        kept = {record.offset for record in there}
        run.ledger.sent[ORDERS, lane] = {offset: told for offset, told in run.ledger.sent[ORDERS, lane].items() if offset in kept}
        run.topics.there[DESK, lane] = [r for r in run.topics.there[DESK, lane] if name.encode() not in r.value]
    assert found(run)["hedges_lost"] >= 1


def test_a_fill_that_was_lost_is_found(run: Run) -> None:
    records, at = place_of(run, FILLS, lambda r: b'"version":1,' in r.value and b'"HEDGE-' not in r.value)
    del records[at]
    counts = found(run)
    assert counts["lost"] >= 1
    assert counts["state_mismatch"] >= 1


def test_a_fill_that_was_booked_twice_is_found(run: Run) -> None:
    """As if the state had one fill more than the topic: the record is there, the ledger says it was another."""
    records, at = place_of(run, FILLS, lambda r: b'"version":1,' in r.value and b'"signed_delta":"0' in r.value)
    fill = json.loads(records[at].value)
    double = "1.000" if fill["payload"]["symbol"] == "SOL-USD" else "0.50000"
    changed = records[at].value.replace(
        f'"signed_delta":"{fill["payload"]["signed_delta"]}"'.encode(), f'"signed_delta":"{double}"'.encode()
    )
    records[at] = records[at]._replace(value=changed)
    lane = next(lane for lane in range(2) if run.topics.there[FILLS, lane] is records)
    told = run.ledger.sent[FILLS, lane]
    told[at] = told[at]._replace(sha256=sha256(changed).digest())
    assert found(run)["state_mismatch"] >= 2  # the decisions after it, and the state


def test_a_fill_nobody_sent_is_found(run: Run) -> None:
    records, at = place_of(run, FILLS, lambda r: b'"version":1,' in r.value)
    records.append(Record(len(records), records[at].key, records[at].value))
    assert found(run)["repeated"] >= 1


@pytest.mark.parametrize("what", ["gone", "twice", "altered"])
def test_a_broken_chain_is_found(run: Run, what: str) -> None:
    records = run.topics.there[AUDIT, 0]
    if what == "gone":
        del records[5]
    elif what == "twice":
        records.insert(5, records[5])
    else:
        records[5] = records[5]._replace(value=records[5].value.replace(b'"state":"', b'"state" :"'))
    counts = found(run)
    assert counts["repeated" if what == "twice" else "lost"] >= 1


def test_what_was_in_flight_and_forgotten_is_found(run: Run) -> None:
    """Every decision that forgets what was in flight is a finding, but those about legs whose end without a fill may have been heard already."""
    forgotten = 0
    for place in run.topics.places([AUDIT]):
        records = run.topics.there[place]
        for at, record in enumerate(records):
            audit = json.loads(record.value)
            legs = audit["payload"].get("legs", [])
            forgotten += any(leg["in_flight"] for leg in legs)
            for leg in legs:
                leg["in_flight"] = 0.0
            records[at] = record._replace(value=json.dumps(audit, separators=(",", ":")).encode())
    assert forgotten > 20
    assert found(run)["hedged_twice"] > 2


def test_an_end_that_was_never_told_is_found(run: Run) -> None:
    records, at = place_of(run, EVENTS, lambda r: b'"state":"FILLED"' in r.value and b'"late_fill"' not in r.value)
    name = json.loads(records[at].value)["payload"]["hedge_id"].encode()
    records[:] = [record for record in records if name not in record.value or b'"annotations":["hedge_sent' in record.value]
    assert found(run)["hedges_lost"] >= 1


def test_a_dead_letter_that_is_missing_or_there_twice_is_found(run: Run) -> None:
    records = run.topics.there[DLQ, 0] or run.topics.there[DLQ, 1]
    kept = records.pop()
    assert found(run) == {"lost": 1}
    records += [kept, kept]
    assert found(run)["repeated"] == 2  # its msg_id, and the input


def test_a_state_that_lost_its_last_change_is_found(run: Run) -> None:
    del run.topics.there[HEDGER_CHANGELOG, 0][-200:]
    counts = found(run)
    assert counts["unbalanced"] >= 1


def test_of_an_ended_order_nothing_is_in_flight_that_a_bust_took_back() -> None:
    leg = Leg("o", "h", "BTC-PERP", 1, 10, filled=10)
    leg.filled, leg.undone = 0, 10
    assert leg.state == "FILLED"
    leg = Leg("o", "h", "BTC-PERP", 1, 10, filled=0, undone=4, end="CANCELED", venue_filled=4)
    assert (leg.state, leg.remaining) == ("CANCELED", 0)
    leg = Leg("o", "h", "BTC-PERP", 1, 10, filled=3, end="CANCELED", venue_filled=4)
    assert (leg.state, leg.remaining) == ("OPEN", 1)


def test_a_hedger_that_forgets_what_is_in_flight_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    real = HedgerLogic._in_flight

    def forgets(self: HedgerLogic, book: Any, frame: Any) -> Any:
        flight, unknown, _ = real(self, book, frame)
        return flight * 0.0, unknown & False, set()

    monkeypatch.setattr(HedgerLogic, "_in_flight", forgets)
    assert found(play(seconds=6.0, lanes=1, books=8, rate=400.0, seed=3))["hedged_twice"] >= 3


def test_a_hedger_that_books_a_repeat_again_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a fill taken from the topic twice would do to the state."""
    real, once = HedgerLogic._take_fills, [False]

    def again(self: HedgerLogic, chunk: Any, now_ns: int) -> None:
        real(self, chunk, now_ns)
        rows = self.ledger.positions.arrays.rows
        if not once[0] and len(self.ledger.positions) > 3:
            once[0] = True
            at = int(np.flatnonzero(rows["exposure"])[0])
            rows["exposure"][at] *= 2
            self.ledger.positions.touch(at)

    monkeypatch.setattr(HedgerLogic, "_take_fills", again)
    assert found(play(seconds=3.0, lanes=1, books=3, rate=150.0, seed=3))["state_mismatch"] >= 3


def test_a_hedger_that_forgets_its_open_hedges_at_a_restart_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    real = HedgerLogic.restore

    def forgets(self: HedgerLogic, records: Any) -> None:
        real(self, records)
        for book in self._books.values():
            book.hedges.clear()

    monkeypatch.setattr(HedgerLogic, "restore", forgets)
    run = play(seconds=4.0, lanes=1, books=6, rate=150.0, seed=3, restart_every_s=0.5)
    assert found(run)["hedged_twice"] >= 1
