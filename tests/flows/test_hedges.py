"""`hedgerow hedges` on the embedded broker: what it shows of the hedges, what it sends, and what it refuses."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition

from connectors.kafka_server import free_port
from connectors.mock_broker import MockBroker
from connectors.simulator.sender import murmur2
from connectors.topics import connect, partitions_of
from flows import hedges
from flows.cli import main
from flows.hedges import DESK, EVENTS, OPEN_STATES, decision
from flows.settings import SettingsError
from flows.supervisor import EXIT_SETTINGS, EXIT_STARTUP, EXIT_UNREACHABLE
from schemas.hedging import DeskDecision, DeskDecisionMessage, HedgeEventMessage
from schemas.parse import parse
from schemas.registry import TOPICS
from schemas.times import rfc3339
from state import hedges as ledger
from tests.conftest import fresh_topics

LANES = 4
MINUTE = 60 * 10**9
NOW = 1_767_614_400_000_000_000
DONE = tuple(state for state in ledger.STATES if state not in OPEN_STATES)
COUNTS = {name: partitions_of(TOPICS[name], LANES) for name in (EVENTS, DESK)}


def identity(name: str) -> str:
    """Return the id of a hedge that a test calls by a name."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, name))


def leg(instrument: str, side: str, size: str, filled: str = "0", state: str = "SENT") -> dict[str, Any]:
    return {
        "order_id": identity(instrument), "instrument": instrument, "side": side, "state": state, "size": size, "filled_size": filled,
        "filled_notional": 0.0,
    }  # fmt: skip


def event(name: str, state: str, ts_ns: int = NOW, book: str = "B1", legs: list[dict[str, Any]] | None = None, **fields: Any) -> bytes:
    """Return a hedge event as the hedger publishes it."""
    legs = [leg("BTC-PERP", "SELL", "2.5", state=state)] if legs is None else legs
    payload = {"hedge_id": identity(name), "book": book, "state": state, "legs": legs, **fields}
    message = {
        "msg_id": identity(f"{name}{state}{ts_ns}"), "type": EVENTS, "version": "v1", "ts": rfc3339(ts_ns), "ts_ns": ts_ns, "ttl_ms": 600_000,
        "sender": "agent.hedger", "idempotency_key": identity(name), "payload": payload,
    }  # fmt: skip
    value = json.dumps(message).encode()
    assert isinstance(parse(HedgeEventMessage, value), HedgeEventMessage)
    return value


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Iterator[MockBroker]:
    """Yield a broker with the two topics; the commands find it."""
    with MockBroker(COUNTS) as broker:
        monkeypatch.setenv("HEDGEROW_KAFKA", broker.bootstrap)
        yield broker


def publish(broker: MockBroker, *values: bytes, key: bytes = b"B1", timestamp_ms: int | None = None) -> None:
    """Put events on the topic, keyed by book."""
    producer = Producer({"bootstrap.servers": broker.bootstrap, "partitioner": "murmur2_random", "acks": "all", "log_level": 0})
    for value in values:
        producer.produce(EVENTS, value, key, timestamp=int(time.time() * 1000) if timestamp_ms is None else timestamp_ms)
    assert producer.flush(10) == 0


def read(broker: MockBroker, topic: str) -> list[tuple[int, bytes, bytes]]:
    """Return (partition, key, value) of every record of a topic."""
    consumer = Consumer({"bootstrap.servers": broker.bootstrap, "group.id": "test", "enable.partition.eof": True, "log_level": 0})
    consumer.assign([TopicPartition(topic, partition, 0) for partition in range(COUNTS[topic])])
    found, left = [], COUNTS[topic]
    while left:
        message = consumer.poll(10)
        assert message is not None
        error = message.error()
        if error is None:
            found.append((message.partition() or 0, message.key() or b"", message.value() or b""))
        else:
            assert error.code() == KafkaError._PARTITION_EOF
            left -= 1
    consumer.close()
    return found


class Told:
    """Runs commands and keeps what they say."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys
        self.out = self.err = ""

    def __call__(self, *words: str) -> int:
        self.capsys.readouterr()
        try:
            code = main(["hedges", *words])
        except SystemExit as end:
            code = int(end.code or 0)
        self.out, self.err = self.capsys.readouterr()
        return code

    def rows(self) -> list[list[str]]:
        """Return the lines below the table's head, as words."""
        lines = [line.split() for line in self.out.splitlines() if line.strip()]
        assert lines[0][:3] == ["book", "hedge", "state"]
        return lines[2:]


@pytest.fixture
def hedgerow(capsys: pytest.CaptureFixture[str]) -> Told:
    return Told(capsys)


# ---- list ------------------------------------------------------------------------------------------------------------------------


def test_list_shows_the_newest_state_of_each_hedge(broker: MockBroker, hedgerow: Told) -> None:
    now = time.time_ns()
    both = [leg("BTC-PERP", "SELL", "2.5", "1", "PARTIAL"), leg("ETH-PERP", "BUY", "10", "10", "FILLED")]
    publish(
        broker,
        event("a", "SENT", now - 3 * MINUTE),
        event("b", "SENT", now - 2 * MINUTE),
        event("a", "PARTIAL", now - MINUTE, legs=both, coverage=0.4567, slippage_bps=-1.234),
        event("b", "REFUSED", now - MINUTE),
    )
    publish(broker, event("c", "UNKNOWN", now - 30 * 60 * MINUTE, book="A9"), key=b"A9")
    assert hedgerow("list") == 0
    assert hedgerow.err == ""
    rows = hedgerow.rows()
    assert [row[:3] for row in rows if len(row) > 6] == [
        ["A9", identity("c"), "UNKNOWN"], ["B1", identity("a"), "PARTIAL"], ["B1", identity("b"), "REFUSED"],
    ]  # fmt: skip
    first, second = rows[1], rows[2]
    assert first[3:7] == ["SELL", "BTC-PERP", "2.5", "1"]
    assert first[7::2][:2] == ["3m", "1m"]
    assert first[-3:] == ["45.7", "%", "-1.23"]
    assert second == ["BUY", "ETH-PERP", "(FILLED)", "10", "10"]
    assert rows[0][7:] == ["1d", "6h", "1d", "6h", "–", "–"]


def test_list_takes_only_what_is_asked_for(broker: MockBroker, hedgerow: Told) -> None:
    for number, state in enumerate(ledger.STATES):
        publish(broker, event(f"s{number}", state))
    publish(broker, event("other", "SENT", book="B2"), key=b"B2")

    def listed(*words: str) -> dict[str, str]:
        assert hedgerow("list", "--json", *words) == 0
        found = [json.loads(line) for line in hedgerow.out.splitlines()]
        return {one["hedge_id"]: one["state"] for one in found}

    assert len(listed()) == len(ledger.STATES) + 1
    assert listed("--book", "B2") == {identity("other"): "SENT"}
    assert sorted(listed("--open", "--book", "B1").values()) == sorted(OPEN_STATES)
    assert listed("--book", "B3") == {}


def test_list_as_json_has_the_newest_event_and_its_times(broker: MockBroker, hedgerow: Told) -> None:
    publish(broker, event("a", "SENT", NOW), event("a", "FILLED", NOW + MINUTE, coverage=0.99, residual={"ACME": -5.0}))
    assert hedgerow("list", "--json") == 0
    (line,) = hedgerow.out.splitlines()
    told = json.loads(line)
    assert (told["first_ts_ns"], told["last_ts_ns"]) == (NOW, NOW + MINUTE)
    assert (told["hedge_id"], told["state"], told["coverage"], told["residual"]) == (identity("a"), "FILLED", 0.99, {"ACME": -5.0})
    assert told["legs"][0]["size"] == "2.5"


def test_list_since_leaves_out_what_was_told_before(broker: MockBroker, hedgerow: Told) -> None:
    now_ms = int(time.time() * 1000)
    publish(broker, event("old", "SENT"), timestamp_ms=now_ms - 3 * 3_600_000)
    publish(broker, event("young", "SENT"), timestamp_ms=now_ms - 1_800_000)
    for since, names in (("4h", ("old", "young")), ("1h", ("young",)), ("240m", ("old", "young")), ("90s", ())):
        assert hedgerow("list", "--json", "--since", since) == 0
        assert {json.loads(line)["hedge_id"] for line in hedgerow.out.splitlines()} == {identity(name) for name in names}


def test_list_begins_where_kafka_says_that_time_is(monkeypatch: pytest.MonkeyPatch, broker: MockBroker) -> None:
    """The embedded broker knows no times; a real one answers with an offset, or -1 for nothing that young."""
    publish(broker, event("a", "SENT"), event("a", "ACKED"), event("a", "FILLED"))
    lane = murmur2(b"B1") % LANES
    real = connect

    class Admin:
        def __init__(self, *args: Any) -> None:
            self.admin = real(*args)

        def list_topics(self, *args: Any, **more: Any) -> Any:
            return self.admin.list_topics(*args, **more)

        def list_offsets(self, asked: dict[TopicPartition, Any], **more: Any) -> Any:
            answers = self.admin.list_offsets(asked, **more)
            if "Timestamp" in type(next(iter(asked.values()))).__name__:
                for part, answer in answers.items():
                    answer.result()._offset = answer.result().offset = 2 if part.partition == lane else -1
            return answers

    monkeypatch.setattr(hedges, "connect", Admin)
    starts = hedges._starts(broker.bootstrap, {}, EVENTS, 1)
    assert starts == {partition: 2 if partition == lane else 0 for partition in range(LANES)}
    found, _ = hedges.read_hedges(broker.bootstrap, {}, 1)
    assert [(hedge.event.state, hedge.first_ns) for hedge in found] == [("FILLED", NOW)]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), f"{EVENTS} tells of no hedge"),
        (("--open",), f"{EVENTS} tells of no open hedge"),
        (("--book", "B7", "--open", "--since", "2h"), f"{EVENTS} tells of no open hedge of book B7 in the last 2h 0m"),
    ],
)
def test_list_says_when_there_is_none(broker: MockBroker, hedgerow: Told, words: tuple[str, ...], said: str) -> None:
    assert hedgerow("list", *words) == 0
    assert (hedgerow.out, hedgerow.err) == (said + "\n", "")
    assert hedgerow("list", "--json", *words) == 0
    assert (hedgerow.out, hedgerow.err) == ("", said + "\n")


def test_list_counts_records_that_cannot_be_read(broker: MockBroker, hedgerow: Told) -> None:
    publish(broker, b"", b"{", event("a", "SENT").replace(b'"SENT"', b'"LOST"'), event("a", "SENT"))
    assert hedgerow("list", "--json") == 0
    assert len(hedgerow.out.splitlines()) == 1
    assert hedgerow.err == f"hedgerow: 3 records of {EVENTS} are not as the contract says and are left out\n"


@pytest.mark.parametrize("text", ["0s", "2", "h", "-1h", "1w", "1.5h", "", "٣h"])
def test_list_refuses_a_duration_that_is_none(broker: MockBroker, hedgerow: Told, text: str) -> None:
    assert hedgerow("list", f"--since={text}") == EXIT_SETTINGS
    assert "argument --since: must be a number above 0 and s, m, h or d" in hedgerow.err


def test_list_keeps_ids_whole_on_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch, broker: MockBroker, hedgerow: Told) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    publish(broker, event("a", "SENT", book="B" * 48, legs=[]))
    assert hedgerow("list") == 0
    (row,) = hedgerow.rows()
    assert row[:4] == ["B" * 48, identity("a"), "SENT", "–"]


def test_ages_have_two_units() -> None:
    seconds = 10**9
    ages = {-5: "0s", 0: "0s", 59: "59s", 60: "1m 0s", 3_599: "59m 59s", 3_600: "1h 0m", 90_000: "1d 1h", 8_640_000: "100d 0h"}
    assert {given: hedges._age(given * seconds) for given in ages} == ages


# ---- the desk's word -------------------------------------------------------------------------------------------------------------

WHO = ("--operator", "A. Trader", "--why", "by phone: ünïcode [bold]")


@pytest.mark.parametrize(
    ("words", "action", "instrument"),
    [
        (("hold", "B1"), "HOLD", None),
        (("release", "B1"), "RELEASE", None),
        (("hold", "B1", "--instrument", "BTC-PERP"), "HOLD", "BTC-PERP"),
        (("release", "B1", "--instrument", "BTC-PERP"), "RELEASE", "BTC-PERP"),
    ],
)
def test_hold_and_release_are_published_before_they_are_told(
    broker: MockBroker, hedgerow: Told, words: tuple[str, ...], action: str, instrument: str | None
) -> None:
    before = time.time_ns()
    assert hedgerow(*words, *WHO) == 0
    assert hedgerow.err == ""
    ((partition, key, value),) = read(broker, DESK)
    message = parse(DeskDecisionMessage, value)
    assert isinstance(message, DeskDecisionMessage)
    assert (partition, key) == (murmur2(b"B1") % LANES, b"B1")
    assert message.payload.model_dump() == {
        "book": "B1", "action": action, "instrument": instrument, "hedge_id": None, "operator": "A. Trader", "justification": WHO[3],
        "decided_ns": message.ts_ns,
    }  # fmt: skip
    assert before <= message.ts_ns <= time.time_ns()
    assert (message.sender, message.ttl_ms, message.idempotency_key) == ("agent.desk", 600_000, message.msg_id)
    what = f"{action} of B1" + (f" in {instrument}" if instrument else "")
    assert hedgerow.out.startswith(f"{what} is on {DESK}[{partition}] at offset 0 as {message.msg_id}; ")


@pytest.mark.parametrize("state", sorted(OPEN_STATES))
def test_mark_manual_finds_the_book_of_an_open_hedge(broker: MockBroker, hedgerow: Told, state: str) -> None:
    publish(broker, event("z", "SENT", book="B2"), key=b"B2")
    publish(broker, event("a", "SENT", book="B7"), event("a", state, book="B7"), key=b"B7")
    assert hedgerow("mark-manual", identity("a").upper(), *WHO) == 0
    ((partition, key, value),) = read(broker, DESK)
    message = parse(DeskDecisionMessage, value)
    assert isinstance(message, DeskDecisionMessage)
    assert (partition, key) == (murmur2(b"B7") % LANES, b"B7")
    assert (message.payload.book, message.payload.action, message.payload.hedge_id) == ("B7", "MARK_MANUAL", identity("a"))
    assert hedgerow.out.startswith(f"MARK_MANUAL of hedge {identity('a')} of B7 is on {DESK}[{partition}]")


def test_mark_manual_refuses_an_id_it_does_not_find(broker: MockBroker, hedgerow: Told) -> None:
    publish(broker, event("a", "SENT", annotations=[identity("b")]))
    assert hedgerow("mark-manual", identity("b"), *WHO) == 1
    assert (hedgerow.out, hedgerow.err) == ("", f"hedgerow: {EVENTS} tells of no hedge {identity('b')}\n")
    assert read(broker, DESK) == []


@pytest.mark.parametrize("state", DONE)
def test_mark_manual_refuses_a_hedge_that_has_ended(broker: MockBroker, hedgerow: Told, state: str) -> None:
    publish(broker, event("a", "SENT"), event("a", state))
    assert hedgerow("mark-manual", identity("a"), *WHO) == 1
    assert hedgerow.err == f"hedgerow: hedge {identity('a')} of B1 has ended: {state}\n"
    assert read(broker, DESK) == []


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("hold", "B 1", *WHO), "BOOK: must be 1 to 48 letters, digits or _.:@/-, not 'B 1'"),
        (("hold", "B1", "--instrument", "btc", *WHO), "--instrument: must be 1 to 20 capital letters, digits or _.-, not 'btc'"),
        (("hold", "B1", "--operator", "", "--why", "x"), "--operator: must be 1 to 64 characters, not ''"),
        (("release", "B1", "--operator", "A", "--why", "x" * 257), "--why: must be 1 to 256 characters, not 'x"),
        (("hold", "B1", "--operator", "\udcff", "--why", "x"), "--operator: must be 1 to 64 characters, not "),
        (("mark-manual", "B1", *WHO), "HEDGE_ID: must be a UUID, not 'B1'"),
    ],
)
def test_what_the_contract_does_not_take_is_told_and_not_sent(
    broker: MockBroker, hedgerow: Told, words: tuple[str, ...], line: str
) -> None:
    assert hedgerow(*words) == EXIT_SETTINGS
    assert hedgerow.err.startswith(f"hedgerow: {line}")
    assert hedgerow.err.count("\n") == 1
    assert read(broker, DESK) == []


@pytest.mark.parametrize(
    "words", [(), ("hold",), ("hold", "B1"), ("hold", "B1", "--operator", "A"), ("mark-manual", *WHO), ("forget", "B1")]
)
def test_commands_that_are_not_whole_are_a_usage_error(hedgerow: Told, words: tuple[str, ...]) -> None:
    assert hedgerow(*words) == EXIT_SETTINGS
    assert hedgerow.err.startswith("usage: hedgerow hedges")


def test_decision_is_a_function_of_what_is_said() -> None:
    said = ("B1", "HOLD", "A", "because", NOW)
    assert decision(*said) == decision(*said)
    others = [
        decision("B2", *said[1:]),
        decision("B1", "RELEASE", *said[2:]),
        decision("B1", "HOLD", "B", "because", NOW),
        decision("B1", "HOLD", "A", "since", NOW),
        decision(*said[:4], NOW + 1),
        decision(*said, instrument="X"),
        decision(*said, hedge_id=identity("a")),
    ]
    assert len({message.msg_id for message in (decision(*said), *others)}) == 8


def test_decision_tells_every_part_that_is_wrong() -> None:
    with pytest.raises(SettingsError) as told:
        decision("", "HOLD", "", "", NOW, instrument="x", hedge_id="y")
    assert [line.partition(":")[0] for line in told.value.problems] == ["BOOK", "--instrument", "HEDGE_ID", "--operator", "--why"]
    assert hedges._RULES.keys() == DeskDecision.model_fields.keys() - {"action", "decided_ns"}


# ---- on a real broker ------------------------------------------------------------------------------------------------------------


@pytest.mark.kafka
def test_list_on_a_real_broker_begins_at_a_time_and_shows_what_is_committed(
    kafka: str, monkeypatch: pytest.MonkeyPatch, hedgerow: Told
) -> None:
    fresh_topics(kafka, 2)
    monkeypatch.setenv("HEDGEROW_KAFKA", kafka)
    now_ms = int(time.time() * 1000)
    producer = Producer(
        {"bootstrap.servers": kafka, "partitioner": "murmur2_random", "transactional.id": f"t-{uuid.uuid4()}", "log_level": 0}
    )
    producer.init_transactions(30)

    def put(name: str, hours: int, book: str = "B1") -> None:
        producer.produce(EVENTS, event(name, "SENT", book=book), book.encode(), timestamp=now_ms - hours * 3_600_000)

    producer.begin_transaction()
    put("old", 5)
    put("young", 1)
    put("elsewhere", 5, "A9")
    producer.commit_transaction(30)
    producer.begin_transaction()
    put("aborted", 0)
    producer.flush(30)
    producer.abort_transaction(30)
    producer.begin_transaction()
    put("open", 0)
    producer.flush(30)
    try:
        for since, names in (((), {"old", "young", "elsewhere"}), (("--since", "2h"), {"young"}), (("--since", "1m"), set())):
            assert hedgerow("list", "--json", *since) == 0
            assert {json.loads(line)["hedge_id"] for line in hedgerow.out.splitlines()} == {identity(name) for name in names}
        assert hedgerow("mark-manual", identity("open"), *WHO) == 1
        assert hedgerow("mark-manual", identity("elsewhere"), *WHO) == 0
        assert f"{DESK}[{murmur2(b'A9') % 2}] at offset 0" in hedgerow.out
    finally:
        producer.abort_transaction(30)


# ---- Kafka is not as it should be ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "topic"), [(("list",), EVENTS), (("mark-manual", identity("a"), *WHO), EVENTS), (("hold", "B1", *WHO), DESK)]
)
def test_a_missing_topic_is_told(monkeypatch: pytest.MonkeyPatch, hedgerow: Told, words: tuple[str, ...], topic: str) -> None:
    with MockBroker({name: count for name, count in COUNTS.items() if name != topic}) as broker:
        monkeypatch.setenv("HEDGEROW_KAFKA", broker.bootstrap)
        assert hedgerow(*words) == EXIT_STARTUP
    assert hedgerow.err == f"hedgerow: topic {topic} is missing: `hedgerow topics create` makes it\n"


def test_a_word_that_is_not_confirmed_is_not_told_as_said(monkeypatch: pytest.MonkeyPatch, hedgerow: Told) -> None:
    monkeypatch.setenv("HEDGEROW_KAFKA", f"127.0.0.1:{free_port()}")
    monkeypatch.setattr(hedges, "_need", lambda *_: None)  # it was there a moment ago
    monkeypatch.setattr(hedges, "CONFIRM_S", 1.0)
    assert hedgerow("hold", "B1", *WHO) == EXIT_UNREACHABLE
    assert hedgerow.out == ""
    assert hedgerow.err.startswith(f"hedgerow: HEDGEROW_KAFKA: {DESK}: not confirmed (")
    assert hedgerow.err.endswith("); it may be there all the same\n")


def test_a_topic_that_falls_silent_is_told(monkeypatch: pytest.MonkeyPatch, hedgerow: Told) -> None:
    monkeypatch.setenv("HEDGEROW_KAFKA", f"127.0.0.1:{free_port()}")
    monkeypatch.setattr(hedges, "_need", lambda *_: None)
    monkeypatch.setattr(hedges, "_starts", lambda *_: {0: 0})
    monkeypatch.setattr(hedges, "QUIET_S", 0.5)
    assert hedgerow("list") == EXIT_UNREACHABLE
    assert "could not be read to its end: nothing came for" in hedgerow.err


def test_options_of_the_client_that_it_refuses_are_told(monkeypatch: pytest.MonkeyPatch, broker: MockBroker, hedgerow: Told) -> None:
    monkeypatch.setenv("HEDGEROW_KAFKA_OPTIONS", '{"no.such": "1"}')
    assert hedgerow("hold", "B1", *WHO) == EXIT_UNREACHABLE
    assert hedgerow.err.startswith("hedgerow: HEDGEROW_KAFKA_OPTIONS: the Kafka client refuses its settings: ")


def test_kafka_may_be_given_before_or_after_the_action(monkeypatch: pytest.MonkeyPatch, broker: MockBroker, hedgerow: Told) -> None:
    monkeypatch.delenv("HEDGEROW_KAFKA")
    assert hedgerow("--kafka", broker.bootstrap, "list") == 0
    assert hedgerow("list", "--kafka", broker.bootstrap) == 0
    assert hedgerow("list") == EXIT_SETTINGS
    assert hedgerow.err.startswith("hedgerow: HEDGEROW_KAFKA: not set")
