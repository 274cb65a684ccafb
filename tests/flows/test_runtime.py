"""The lane runtime without a broker: epochs, ticks and commits against a session that only notes what it is told; and its wiring."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from prometheus_client import CollectorRegistry, generate_latest

from connectors.kafka import Aborted, Delta, Fenced, OffsetsDisagree, Session, SessionConfig, StartupError
from connectors.mock_broker import MockBroker
from flows import runtime
from flows.metrics import METRICS, RuntimeCollector
from flows.runtime import COUNTERS, STEP_IDS, Runtime, _Out, _ranges, _Work, ends_within
from flows.supervisor import EXIT_FAILED, EXIT_OK, EXIT_STARTUP, EXIT_STATE
from schemas.chunk import Chunk, Records, join
from state.changelog import StateMismatch
from tests.broker.runtime_toy import ToyTape, names, toy_config, toy_flow


def chunk(topic: str, lane: int, first: int, values: list[bytes]) -> Chunk:
    data, bounds = join(values)
    keys, key_bounds = join([b"k"] * len(values))
    return Chunk(topic, lane, data, bounds, np.arange(first, first + len(values), dtype=np.int64), keys, key_bounds, 0)


class NotingSession:
    """Stands where the Kafka session stands: gives what a test puts in, notes what the runtime does."""

    def __init__(self) -> None:
        self.incoming: list[list[Chunk]] = []
        self.offer: list[int] | None = [0, 1]
        self.did: list[Any] = []
        self.in_transaction = False
        self.flushed = True
        self.hold_flush = threading.Event()
        self.hold_flush.set()
        self.errors = self.truncate_errors = 0
        self.hold_commit = threading.Event()
        self.hold_commit.set()
        self.fail_commit: Exception | None = None
        self.revoke: Callable[[bool], None] | None = None
        self.recounts = 0

    def poll(self, limit: int, timeout_s: float, clock: Any, committing: bool = False) -> list[Chunk]:
        return self.incoming.pop(0) if self.incoming else []

    def offered(self) -> list[int] | None:
        return self.offer

    def committed(self, lanes: list[int]) -> dict[tuple[str, int], int]:
        return {}

    def wait_settled(self, lanes: list[int]) -> dict[int, tuple[int, int]]:
        return dict.fromkeys(lanes, (0, 0))

    def read_changelog(self, lane: int, first: int, end: int) -> Iterator[tuple[int, bytes]]:
        yield from ()

    def start_at(self, known: dict[tuple[str, int], int]) -> None:
        self.offer = None

    def ends(self, lane: int) -> dict[str, int]:
        return {}

    def pause(self, lane: int) -> None:
        self.did.append(("pause", lane))

    def resume(self, lane: int) -> None:
        self.did.append(("resume", lane))

    def produce(self, records: Records) -> None:
        self.in_transaction = True
        self.did.append(("produce", len(records)))

    def hand_over(self) -> None:
        self.flushed = False

    def commit(self, deltas: list[Delta], fault: Any) -> dict[int, int]:
        assert self.hold_flush.wait(60)
        self.flushed = True
        assert self.hold_commit.wait(60)
        if self.fail_commit is not None:
            raise self.fail_commit
        self.in_transaction = False
        self.did.append(("commit", [(delta.lane, delta.moved) for delta in deltas]))
        return {delta.lane: 0 for delta in deltas}

    def abort(self) -> None:
        self.in_transaction = False
        self.did.append(("abort",))

    def recount(self) -> None:
        self.recounts += 1

    def close(self) -> None:
        self.did.append(("close",))

    def leave(self) -> bool:
        self.did.append(("leave",))
        return True

    def broadcast_reader(self, now_ns: int) -> None:
        return None


class Bench:
    """A runtime on a noting session, driven step by step as Bytewax drives it."""

    def __init__(self, **more: Any) -> None:
        settings = {"commit_interval_ms": 10, "idle_tick_ms": 10_000} | more
        self.runtime = Runtime(toy_flow("t"), toy_config("nowhere:1", "t", "0", **settings))
        self.session = NotingSession()
        self.runtime._session = self.session  # type: ignore[assignment]
        self.source()  # takes the lanes over

    def source(self) -> list[_Work]:
        return [work for _, work in self.runtime.source_step()]

    def lanes(self, works: list[_Work]) -> list[_Out]:
        return [out for work in works for out in self.runtime.lane_step([work])]

    def step(self) -> None:
        self.runtime.sink_step(self.lanes(self.source()))

    def to_end(self) -> None:
        """Step until the source says it is done."""
        try:
            while True:
                self.step()
        except StopIteration:
            return

    def until(self, what: str, timeout_s: float = 30) -> None:
        deadline = time.monotonic() + timeout_s
        while not any(done[0] == what for done in self.session.did):
            assert time.monotonic() < deadline, self.session.did
            self.step()
            time.sleep(0.002)


def test_commit_covers_every_lane_and_moves_only_what_was_read() -> None:
    bench = Bench()
    bench.session.incoming = [[chunk("t.a", 0, 0, [b"1", b"2"]), chunk("t.b", 1, 5, [b"3"])]]
    bench.until("commit")
    assert bench.session.did == [("produce", 2), ("produce", 1), ("commit", [(0, {"t.a": 2}), (1, {"t.b": 6})])]


def test_idle_lanes_make_no_transaction() -> None:
    bench = Bench(idle_tick_ms=1)
    for _ in range(20):
        bench.step()
        time.sleep(0.001)
    assert bench.session.did == []


def test_items_of_an_older_epoch_are_dropped_everywhere() -> None:
    bench = Bench()
    bench.session.incoming = [[chunk("t.a", 0, 0, [b"1"])], [chunk("t.a", 0, 1, [b"2"])]]
    before_lanes = bench.source()
    before_sink = bench.lanes(bench.source())
    assert before_lanes
    assert before_sink
    bench.runtime._revoked(False)
    assert bench.lanes(before_lanes) == []
    bench.runtime.sink_step(before_sink)
    assert bench.session.did == []


def test_revocation_aborts_what_is_open_and_drops_the_lanes() -> None:
    bench = Bench()
    bench.session.incoming = [[chunk("t.a", 0, 0, [b"1"])]]
    bench.step()
    assert bench.session.in_transaction
    bench.runtime._revoked(False)
    assert bench.session.did == [("produce", 1), ("abort",)]
    assert bench.runtime.snapshot()["lanes"] == {}


def test_revocation_during_a_commit_waits_for_it_and_publishes_nothing_more() -> None:
    bench = Bench()
    bench.session.hold_flush.clear()
    bench.session.incoming = [[chunk("t.a", 0, 0, [b"1"])]]
    while bench.runtime._commit is None:
        bench.step()
    bench.session.incoming = [[chunk("t.a", 0, 1, [b"2"])]]
    bench.step()  # folded while records of the commit under way are not in their topics yet: waits in the backlog
    assert bench.session.did == [("produce", 1)]
    threading.Timer(0.05, bench.session.hold_flush.set).start()
    bench.runtime._revoked(False)
    assert bench.session.did == [("produce", 1), ("commit", [(0, {"t.a": 1})])]


def test_records_folded_during_a_commit_go_into_the_next_one() -> None:
    bench = Bench()
    bench.session.hold_flush.clear()
    bench.session.incoming = [[chunk("t.a", 0, 0, [b"1"])]]
    while bench.runtime._commit is None:
        bench.step()
    bench.session.incoming = [[chunk("t.a", 0, 1, [b"2", b"3"])]]
    bench.step()
    bench.session.hold_flush.set()
    while ("commit", [(0, {"t.a": 3})]) not in bench.session.did:
        bench.step()
    assert [did for did in bench.session.did if did[0] == "commit"] == [("commit", [(0, {"t.a": 1})]), ("commit", [(0, {"t.a": 3})])]
    assert bench.session.did.count(("produce", 2)) == 1


def test_records_are_sent_during_a_commit_once_its_own_are_in_their_topics() -> None:
    bench = Bench()
    bench.session.hold_commit.clear()
    bench.session.incoming = [[chunk("t.a", 0, 0, [b"1"])]]
    while bench.runtime._commit is None or not bench.session.flushed:
        bench.step()
    bench.session.incoming = [[chunk("t.a", 0, 1, [b"2", b"3"])]]
    bench.step()
    assert bench.session.did == [("produce", 1), ("produce", 2)]
    bench.session.hold_commit.set()
    while ("commit", [(0, {"t.a": 3})]) not in bench.session.did:
        bench.step()


def test_failed_commit_ends_the_worker() -> None:
    bench = Bench()
    bench.session.fail_commit = Aborted("no")
    bench.session.incoming = [[chunk("t.a", 0, 0, [b"1"])]]
    bench.to_end()
    assert isinstance(bench.runtime._failure, Aborted)
    assert bench.lanes([_Work(bench.runtime._epoch, 0, chunk("t.a", 0, 1, [b"2"]))]) == []


def test_stop_commits_what_was_read_then_leaves_then_ends() -> None:
    bench = Bench(commit_interval_ms=2_000)
    bench.session.incoming = [[chunk("t.a", 0, 0, [b"1"])]]
    bench.step()
    bench.runtime.stop()
    bench.to_end()
    assert bench.session.did == [("produce", 1), ("commit", [(0, {"t.a": 1})]), ("leave",)]
    assert bench.runtime._failure is None


def test_lane_above_its_limit_is_paused_until_the_commit() -> None:
    bench = Bench(lane_pause_bytes=100, commit_interval_ms=2_000)
    bench.session.incoming = [[chunk("t.a", 0, 0, [b"1" + b" " * 200])]]
    bench.step()
    assert bench.session.did[0] == ("pause", 0)
    bench.runtime._last_tick -= 3
    bench.until("resume")
    assert bench.session.did[-2:] == [("commit", [(0, {"t.a": 1})]), ("resume", 0)]


def test_many_uncommitted_bytes_do_not_wait_for_the_interval() -> None:
    bench = Bench(max_uncommitted_bytes=100, commit_interval_ms=2_000)
    bench.session.incoming = [[chunk("t.a", 0, 0, [b"1" + b" " * 200])]]
    bench.until("commit", timeout_s=1)


def test_logic_that_loses_its_position_ends_the_worker() -> None:
    bench = Bench()
    bench.session.incoming = [[chunk("t.a", 0, 0, [b"1"])]]
    bench.step()
    bench.runtime._lanes[0].logic.read["t.a"] = 7  # type: ignore[attr-defined]
    bench.to_end()
    assert "was given everything up to" in str(bench.runtime._failure)


def test_offsets_that_go_back_end_the_worker() -> None:
    bench = Bench()
    bench.session.incoming = [[chunk("t.a", 0, 5, [b"1"])], [chunk("t.a", 0, 5, [b"1"])]]
    bench.to_end()
    assert "went back from offset 6 to 5" in str(bench.runtime._failure)


class TapeReader:
    """A broadcast reader with one record at every poll."""

    def poll(self, limit: int, timeout_s: float, clock: Any) -> list[Chunk]:
        return [chunk("t.tape", 0, 0, [b"x"])]


def test_chunks_wait_for_their_tape_no_longer_than_allowed() -> None:
    asked: list[int] = []
    enough = 3

    def hold(pieces: Sequence[Chunk], tape: Any) -> Callable[[int], bool]:
        def wait(now_ns: int) -> bool:
            asked.append(tape.seen)
            return bool(tape.seen < enough)

        return wait

    for enough, wait_ms, reached in ((3, 5_000, True), (10**9, 30, False), (3, 0, False)):
        runtime = Runtime(replace(toy_flow("t", tape=True), hold=hold), toy_config("nowhere:1", "t", "0", tape=True, tape_wait_ms=wait_ms))
        runtime._broadcast, runtime._reader = ToyTape(), TapeReader()  # type: ignore[assignment]
        asked.clear()
        runtime._hold([chunk("t.a", 0, 0, [b"1"])])
        assert bool(asked and asked[-1] >= enough) == reached
        assert (runtime.snapshot()["counts"]["broadcast_wait_seconds"] >= 0.03) == (wait_ms == 30)


def test_what_was_broadcast_during_a_poll_is_applied_before_its_chunks() -> None:
    bench = Bench()
    tape = ToyTape()
    bench.runtime._broadcast, bench.runtime._reader = tape, TapeReader()  # type: ignore[assignment]
    seen_at_poll: list[int] = []
    poll = bench.session.poll

    def polling(*args: Any, **more: Any) -> list[Chunk]:
        seen_at_poll.append(tape.seen)
        return poll(*args, **more)

    bench.session.poll = polling  # type: ignore[method-assign]
    bench.session.incoming = [[chunk("t.a", 0, 0, [b"1"])]]
    assert [work.chunk is not None for work in bench.source()] == [True]
    assert (seen_at_poll, tape.seen) == ([0], 1)


@pytest.mark.parametrize("failure", [StateMismatch("other row types: run the old version"), OffsetsDisagree("offsets were moved")])
def test_state_that_does_not_fit_ends_with_one_line_and_its_own_code(
    failure: Exception, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    def logic(*args: Any) -> Any:
        lane = toy_flow("t").make_logic(0, 2, None)
        lane.restore = lambda records: (_ for _ in ()).throw(failure)  # type: ignore[method-assign]
        return lane

    bench = Bench()
    bench.session.offer = [0, 1]
    bench.runtime.flow = replace(bench.runtime.flow, make_logic=logic)
    with pytest.raises(StopIteration):
        bench.source()
    assert bench.runtime._finish() == EXIT_STATE
    assert [record for record in caplog.records if record.exc_info] == []
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert str(failure) in told[0]
    assert ("t.changelog[0]: " in told[0]) == isinstance(failure, StateMismatch)
    assert "docs/operations.md" in told[0]


def test_partition_counts_are_asked_for_now_and_then() -> None:
    bench = Bench(recount_interval_ms=60_000)
    bench.step()
    assert bench.session.recounts == 0
    bench.runtime._last_recount -= 61
    for _ in range(20):
        bench.step()
        time.sleep(0.005)
    assert bench.session.recounts == 1


@pytest.mark.parametrize(("then", "kind"), [(7, OffsetsDisagree), (9, Fenced)])
def test_state_and_offsets_that_disagree_are_corrupt_unless_the_offsets_moved_meanwhile(then: int, kind: type[Exception]) -> None:
    bench = Bench()
    answers = [{("t.a", 0): 7}, {("t.a", 0): then}]
    bench.session.committed = lambda lanes: answers.pop(0)  # type: ignore[method-assign]
    bench.session.offer = [0]
    bench.to_end()
    assert isinstance(bench.runtime._failure, kind)


# --- names and settings -----------------------------------------------------------------------------------------------------------


def test_step_ids_are_the_published_ones() -> None:
    flow = Bench().runtime._dataflow()
    assert STEP_IDS == ("input", "lanes", "output")
    assert [step.step_id.removeprefix("toy.") for step in flow.substeps] == list(STEP_IDS)


def test_lane_ranges_are_told_shortly() -> None:
    assert _ranges([0, 1, 2, 5, 7, 8]) == "0-2,5,7-8"
    assert _ranges([]) == "none"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"worker": ""}, "worker must not be empty"),
        ({"inputs": ()}, "at least one input"),
        ({"commit_interval_ms": 1}, "commit_interval_ms must be between 10"),
        ({"commit_interval_ms": 10_000}, "commit_interval_ms must be between 10"),
        ({"lane_pause_bytes": 0}, "lane_pause_bytes must be positive"),
        ({"max_chunk_records": 2_000_000}, "max_chunk_records must be at most"),
    ],
)
def test_bad_config_is_refused_by_name(change: dict[str, Any], told: str) -> None:
    good: dict[str, Any] = {"bootstrap": "h:1", "group_id": "g", "worker": "0", "inputs": ("a",), "changelog": "c"}
    with pytest.raises(StartupError, match=told):
        SessionConfig(**(good | change))


def test_name_of_instance_is_stable() -> None:
    assert toy_config("h:1", "group", "w3").instance == "group-w3"


def test_metrics_cover_counters_lanes_and_histograms() -> None:
    bench = Bench()
    bench.session.incoming = [[chunk("t.a", 0, 0, [b"1", b"2"])]]
    bench.until("commit")
    while bench.runtime._commit is not None:
        bench.step()
    bench.runtime._refresh()
    registry = CollectorRegistry()
    registry.register(RuntimeCollector(bench.runtime.snapshot))
    told = generate_latest(registry).decode()
    assert 'hedgerow_records_in_total{flow="toy",worker="0"} 2.0' in told
    assert 'hedgerow_lane_count{flow="toy",lane="0",name="records",worker="0"} 2.0' in told
    assert 'hedgerow_chunk_records_bucket{flow="toy",le="10.0",worker="0"} 1.0' in told
    assert 'hedgerow_commit_seconds_count{flow="toy",worker="0"} 1.0' in told
    for metric, (kind, doc) in METRICS.items():
        assert f"# HELP {metric}{'_total' if kind == 'counter' else ''} {doc}" in told
    for counter in COUNTERS:
        assert f"hedgerow_{counter}" in METRICS


def test_counts_that_cannot_be_asked_for_are_no_finding() -> None:
    session = Session(toy_config("127.0.0.1:1", "t", "0"), lambda lost: None, lambda: False)
    session.n_lanes = 4
    session.recount()
    assert session.errors >= 1


def test_session_refuses_nothing_it_was_not_asked() -> None:
    session = Session(toy_config("127.0.0.1:1", "t", "0"), lambda lost: None, lambda: False)
    assert session.leave()
    session.abort()
    session.close()


# --- the embedded broker: wiring only, it has no real transactions ----------------------------------------------------------------


def test_recount_of_another_number_names_topic_and_both_counts() -> None:
    topics = names("t")
    with MockBroker(dict.fromkeys(topics.values(), 4) | {topics["b"]: 5}) as broker:
        session = Session(toy_config(broker.bootstrap, "t", "0"), lambda lost: None, lambda: False)
        session.n_lanes = 4
        with pytest.raises(StartupError, match=r"topic t\.b has 5 partitions now, 4 were expected"):
            session.recount()


@pytest.mark.timeout(60)
def test_flow_runs_on_the_embedded_broker_and_stops_from_another_thread() -> None:
    topics = names("toy")
    with MockBroker(dict.fromkeys(topics.values(), 4)) as broker:
        producer = Producer({"bootstrap.servers": broker.bootstrap, "partitioner": "murmur2_random"})
        runtime = Runtime(toy_flow("toy", tape=True), toy_config(broker.bootstrap, "toy", "0", tape=True, session_timeout_ms=6000))
        codes: list[int] = []
        thread = threading.Thread(target=lambda: codes.append(runtime.run()), daemon=True)
        thread.start()
        for number in range(1000):
            producer.produce(topics["ab"[number % 2]], value=b"%d" % number, key=b"k%d" % (number % 20))
        producer.flush(10)
        reader = Consumer({"bootstrap.servers": broker.bootstrap, "group.id": "r", "auto.offset.reset": "earliest"})
        reader.assign([TopicPartition(topics["out"], lane, 0) for lane in range(4)])
        got: list[int] = []
        deadline = time.monotonic() + 30
        while len(got) < 1000:
            assert time.monotonic() < deadline, (len(got), runtime.snapshot(), runtime._failure)
            got += [json.loads(message.value() or b"")["id"] for message in reader.consume(1000, 0.1) if message.error() is None]
        reader.close()
        assert sorted(got) == list(range(1000))
        runtime.stop()
        thread.join(20)
        assert codes == [EXIT_OK]


@pytest.mark.timeout(60)
def test_partition_count_that_changed_ends_the_flow(capfd: pytest.CaptureFixture[str]) -> None:
    topics = names("grown")
    with MockBroker(dict.fromkeys(topics.values(), 4)) as broker:
        runtime = Runtime(toy_flow("grown"), toy_config(broker.bootstrap, "grown", "0", recount_interval_ms=100))
        codes: list[int] = []
        thread = threading.Thread(target=lambda: codes.append(runtime.run()), daemon=True)
        thread.start()
        deadline = time.monotonic() + 30
        while not runtime.snapshot()["lanes"]:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        runtime._session.n_lanes = 3  # the mock cluster cannot add partitions: let the flow have begun with fewer
        thread.join(20)
        assert codes == [EXIT_STARTUP]
    told = [line for line in capfd.readouterr().err.splitlines() if line.startswith("hedgerow: ")]
    assert len(told) == 1
    assert "has 4 partitions now, 3 were expected" in told[0]


_HUNG = """
import ctypes, sys
from flows.runtime import Outside, Runtime, ends_within
from tests.flows.test_runtime import NotingSession
from tests.broker.runtime_toy import toy_config, toy_flow

class Hung(NotingSession):
    def check(self): return 1
    def fence_earlier_lives(self): pass
    def open(self): pass
    def close(self): ctypes.PyDLL(None).sleep(60)  # which keeps Python's lock

outside = Outside(session=lambda *_: Hung(), engine=lambda runtime: None, last_resort=lambda seconds: ends_within(0.5))
sys.exit(Runtime(toy_flow("t"), toy_config("nowhere:1", "t", "0"), outside=outside).run())
"""


def test_a_worker_that_hangs_while_it_closes_its_clients_ends_all_the_same() -> None:
    done = subprocess.run([sys.executable, "-c", _HUNG], capture_output=True, text=True, timeout=50)
    assert done.returncode == EXIT_FAILED, done.stderr
    assert "in close" in done.stderr


def test_a_worker_that_is_all_there_is_in_its_process_has_the_last_resort(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []
    monkeypatch.setattr(runtime, "Runtime", lambda *words: given.extend(words) or SimpleNamespace(run=lambda: EXIT_OK))
    assert runtime.run_flow(toy_flow("t"), toy_config("nowhere:1", "t", "0")) == EXIT_OK
    assert given[-1].last_resort is ends_within


def test_the_last_resort_is_over_when_the_worker_is() -> None:
    with ends_within(0.2):
        pass
    time.sleep(0.4)  # or this process is gone
