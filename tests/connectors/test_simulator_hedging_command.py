"""`hedgerow simulate --hedging`: the world on the embedded broker, its order agent answering what is on the topics, HALT seen through acknowledgements."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer

from connectors.kafka_server import BrokerUnavailable
from connectors.mock_broker import MockBroker
from connectors.simulator import hedging_command as command
from connectors.simulator.factors import SECOND
from connectors.simulator.hedge_summary import Bars, missed, table_rows
from connectors.simulator.hedging import BOOKS, HALT, HaltPlan, drill
from connectors.simulator.hedging_command import ACKS, READ, SENT, HedgeLoop, scenario_of
from connectors.simulator.oms import COVER
from connectors.topics import TopicsError, partitions_of
from flows.settings import Settings
from schemas.registry import TOPICS
from tests.connectors.test_simulator_hedging import cover, message

LANES = 2


@pytest.fixture(scope="module")
def broker() -> Iterator[MockBroker]:
    with MockBroker({name: partitions_of(TOPICS[name], LANES) for name in (*SENT, *READ)}) as made:
        yield made


@pytest.fixture
def loop(broker: MockBroker) -> Iterator[HedgeLoop]:
    made = HedgeLoop(broker.bootstrap, {}, scenario_of(1, 60.0, time.time_ns()))
    yield made
    made.close()


def until(loop: HedgeLoop, true: Any, seconds: float = 20.0) -> None:
    """Step until something holds."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        loop.step(time.time_ns())


def put(broker: MockBroker, topic: str, key: bytes, value: bytes) -> None:
    producer = Producer({"bootstrap.servers": broker.bootstrap})
    producer.produce(topic, value, key)
    assert producer.flush(10.0) == 0


# --- what happens when ------------------------------------------------------------------------------------------------------------


def test_under_ten_minutes_it_is_the_drill_and_then_the_hour() -> None:
    now_ns = 1_800_000_000 * SECOND
    short, long = scenario_of(3, 60.0, now_ns, "-7"), scenario_of(3, 600.0, now_ns, "-7")
    for scenario, seconds in ((short, 60), (long, 600)):
        assert now_ns - scenario.start_ns == command.LEAD_S * SECOND
        assert scenario.open_ns - now_ns == command.WAIT_S * SECOND
        assert scenario.close_ns == scenario.open_ns + seconds * SECOND
        assert [book.name for book in scenario.books] == [f"{book.name}-7" for book in BOOKS]
        assert {push.book for push in scenario.pushes} <= {book.name for book in scenario.books}
        assert all(scenario.open_ns < o.from_ns < o.to_ns < scenario.close_ns for o in (*scenario.outages, *scenario.halts))
    assert short.outages[0].to_ns - short.outages[0].from_ns == 6 * SECOND
    assert short.books[0].flows[0].per_minute == 10 * long.books[0].flows[0].per_minute


@pytest.mark.parametrize("seconds", [10.0, 4_000.0])
def test_a_drill_that_is_too_short_or_too_long_is_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match="seconds must be"):
        drill(1, seconds)


# --- the loop ---------------------------------------------------------------------------------------------------------------------


def test_the_lead_tells_books_and_history(loop: HedgeLoop) -> None:
    loop.lead()
    assert sorted(loop.account.books) == sorted(book.name for book in BOOKS)
    assert loop.sender.sent["marketdata.snapshot.v1"] > 5_000
    assert loop.sender.acked == loop.sender.sent
    assert missed(loop.figures(), Bars())  # nothing was hedged: that must not pass


def test_a_hedge_on_the_topic_is_executed_once_and_told(broker: MockBroker, loop: HedgeLoop) -> None:
    loop.lead()
    value = cover(1, time.time_ns(), [{"size": "0.5", "limit_px": None}])
    order_id = json.loads(value)["payload"]["legs"][0]["order_id"]
    for _ in range(2):
        put(broker, COVER, b"CRYPTO-1", value)
    until(loop, lambda: loop.world.agent.counts["legs_repeated"] == 1)
    until(loop, lambda: loop.world.agent.orders[order_id].ended)
    until(loop, lambda: loop.account.legs[order_id].status in ("DONE", "CANCELED", "REJECTED"))
    figures = loop.figures()
    assert (figures["hedges"], figures["legs"], figures["repeated_orders"]) == (1, 1, 1)
    assert "repeated_orders" in missed(figures, Bars())
    assert loop.account.books["CRYPTO-1"].sent == 1


def test_a_halt_counts_from_the_last_lanes_word(broker: MockBroker, loop: HedgeLoop) -> None:
    now_ns = time.time_ns()
    loop.lead()
    loop.world._halt(HaltPlan(now_ns, now_ns + 60 * SECOND))
    until(loop, lambda: loop._halting)
    halt_id = next(iter(loop._halting))
    told = loop._halting[halt_id].effective_ns
    for lane in range(LANES):
        before = cover(10 + lane, told + lane * SECOND // 1_000 + 1, [{"size": "0.1", "limit_px": None}])
        put(broker, COVER, b"CRYPTO-1", before)
        ack = {"halt_msg_id": halt_id, "scope": "ALL", "agent": "hedger", "worker": "w", "lane": lane,
               "ack_ns": told + (lane + 1) * SECOND // 1_000, "latency_ms": 1.0 + lane}  # fmt: skip
        put(broker, ACKS, b"ALL|", message(ACKS, ack, told, "agent.hedger"))
    until(loop, lambda: not loop._halting)
    until(loop, lambda: len(loop.account.hedges) == 2)
    assert loop.account.during_halt == []  # the second lane had not said that it stopped
    put(broker, COVER, b"CRYPTO-1", cover(20, told + SECOND, [{"size": "0.1", "limit_px": None}]))
    until(loop, lambda: loop.account.during_halt)
    assert loop.figures()["orders_during_halt"] == 1


def test_books_of_others_are_not_in_the_account(broker: MockBroker, loop: HedgeLoop) -> None:
    """Their orders are executed, because the order agent is everybody's; the figures are those of this run."""
    loop.lead()
    value = cover(30, time.time_ns(), [{"size": "0.5", "limit_px": None}], book="SOMEBODY-1")
    put(broker, COVER, b"SOMEBODY-1", value)
    until(loop, lambda: loop.world.agent.counts["covers"])
    assert loop.figures()["hedges"] == 0
    assert not loop.unreadable


def test_what_cannot_be_read_is_counted_and_stops_nothing(broker: MockBroker, loop: HedgeLoop) -> None:
    for value in (b"not JSON", b"{}", b'{"payload": {}}'):
        put(broker, COVER, b"CRYPTO-1", value)
    until(loop, lambda: loop.unreadable[COVER] == 3)


def test_stop_ends_it(loop: HedgeLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "DRAIN_S", 0.5)
    loop.lead()
    loop.stop()
    began = time.monotonic()
    loop.run()
    assert time.monotonic() - began < 30
    assert loop.world.client_orders < 50


class Leaderless(Consumer):
    """A consumer that finds a topic without a leader, so many times."""

    left = 0

    def get_watermark_offsets(self, *args: Any, **more: Any) -> Any:
        if Leaderless.left:
            Leaderless.left -= 1
            raise KafkaException(KafkaError(KafkaError.NOT_LEADER_FOR_PARTITION))
        return super().get_watermark_offsets(*args, **more)


def test_a_topic_that_was_just_made_is_waited_for(broker: MockBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "Consumer", Leaderless)
    Leaderless.left = 3
    HedgeLoop(broker.bootstrap, {}, scenario_of(1, 60.0, time.time_ns())).close()
    assert Leaderless.left == 0
    Leaderless.left = 10**6
    monkeypatch.setattr(command, "LEADER_S", 0.2)
    with pytest.raises(BrokerUnavailable, match=r"marketdata\.snapshot\.v1\[0\]: "):
        HedgeLoop(broker.bootstrap, {}, scenario_of(1, 60.0, time.time_ns()))


def test_an_aborted_loop_ends_at_once_whatever_is_under_way(loop: HedgeLoop) -> None:
    asked = iter([False, False, True])
    loop.run(lambda: next(asked))
    assert next(asked, None) is None
    assert loop.world.scenario.end_ns > time.time_ns()


# --- the command ------------------------------------------------------------------------------------------------------------------


def arguments(**given: Any) -> argparse.Namespace:
    return argparse.Namespace(**({"seconds": None, "seed": 3, "settings": Settings(kafka="127.0.0.1:1")} | given))


def test_bad_arguments_end_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.run(arguments(seconds=5.0)) == 2
    assert "--seconds must be from 40 to 86400" in capsys.readouterr().err


def test_missing_topics_are_named() -> None:
    with MockBroker(dict.fromkeys(SENT, 1)) as other, pytest.raises(TopicsError, match=r"hedger\.intent\.cover"):
        command.run(arguments(settings=Settings(kafka=other.bootstrap)))


def test_quotes_of_an_earlier_market_are_told_of(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "DRAIN_S", 0.2)
    monkeypatch.setattr(HedgeLoop, "run", lambda self, aborted: self.stop())
    with MockBroker({name: partitions_of(TOPICS[name], LANES) for name in (*SENT, *READ)}) as other:
        for expected in (False, True):
            assert command.run(arguments(seconds=60.0, settings=Settings(kafka=other.bootstrap))) == 0
            assert ("quotes of an earlier market" in capsys.readouterr().err) == expected


def test_the_summary_says_what_is_missed(broker: MockBroker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a hedger nothing is hedged, and the command says so."""
    monkeypatch.setattr(command, "DRAIN_S", 0.2)
    monkeypatch.setattr(HedgeLoop, "run", lambda self, aborted: (self.step(time.time_ns()), self.stop()))
    assert command.run(arguments(seconds=60.0, settings=Settings(kafka=broker.bootstrap))) == 0
    lines = capsys.readouterr().out.splitlines()
    closing = json.loads(lines[-1])
    assert closing["hedges"] == 0
    assert {"coverage_pct", "halt_acks_pct", "reasons_pct"} <= set(closing["missed"])
    assert closing["undelivered"] == 0
    assert closing["sent"][HALT] == 0
    assert len(lines) - 1 == len(table_rows(closing, Bars()))
    assert any(line.endswith("MISSED") for line in lines)
