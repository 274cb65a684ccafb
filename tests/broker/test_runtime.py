"""The lane runtime on a real broker: exactly once through kills, zombies, rebalances and broker restarts; clear ends; bounded memory."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, IsolationLevel, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic, OffsetSpec

from connectors.kafka_server import KafkaServer, free_port
from flows.supervisor import EXIT_FAILED, EXIT_FENCED, EXIT_OK, EXIT_STARTUP, EXIT_STATE, EXIT_UNREACHABLE
from tests.broker.runtime_toy import names

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(90)]

LANES = 4
KEYS = 40


class Toy:
    """The toy flow's topics on a broker, its workers as processes, and the count of what it published."""

    def __init__(self, bootstrap: str, folder: Path, lanes: int = LANES) -> None:
        self.bootstrap, self.folder, self.lanes = bootstrap, folder, lanes
        self.prefix = f"toy{uuid4().hex[:8]}"
        self.topics = names(self.prefix)
        self.admin = AdminClient({"bootstrap.servers": bootstrap})
        self.producer = Producer({"bootstrap.servers": bootstrap, "partitioner": "murmur2_random", "linger.ms": 1})
        self.sent = 0
        self.workers: list[subprocess.Popen[str]] = []
        self.logs: dict[int, Path] = {}
        self._reader: Consumer | None = None
        self._got: list[dict[str, Any]] = []
        self.create(self.topics.values())

    def create(self, topics: Any, lanes: int | None = None) -> None:
        for future in self.admin.create_topics([NewTopic(name, lanes or self.lanes, 1) for name in topics]).values():
            future.result()
        deadline = time.monotonic() + 20
        while not self._ready(topics):
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def _ready(self, topics: Any) -> bool:
        known = self.admin.list_topics(timeout=5).topics
        if not all(name in known for name in topics):
            return False
        asked = self.admin.list_offsets({TopicPartition(name, p): OffsetSpec.latest() for name in topics for p in known[name].partitions})
        return all(future.exception() is None for future in asked.values())

    def feed(self, count: int, pause_s: float = 0.0, topic: str | None = None) -> None:
        """Send `count` new ids over both inputs, keyed; a pause after every 50."""
        for _ in range(count):
            target = topic or self.topics["ab"[self.sent % 2]]
            self.producer.produce(target, value=b"%d" % self.sent, key=b"k%d" % (self.sent * 7 % KEYS))
            self.sent += 1
            if pause_s and self.sent % 50 == 0:
                self.producer.poll(pause_s)
                time.sleep(pause_s)
        assert self.producer.flush(20) == 0

    def start(self, worker: str = "0", **told: Any) -> subprocess.Popen[str]:
        argument = {"bootstrap": self.bootstrap, "prefix": self.prefix, "worker": worker, **told}
        log = self.folder / f"{worker}-{len(self.workers)}.log"
        command = [sys.executable, "-m", "tests.broker.runtime_toy", json.dumps(argument)]
        with open(log.with_suffix(".out"), "w") as out, open(log, "w") as err:
            process = subprocess.Popen(command, stdout=out, stderr=err, text=True)
        self.workers.append(process)
        self.logs[process.pid] = log
        return process

    def log(self, process: subprocess.Popen[str]) -> str:
        return self.logs[process.pid].read_text()

    def out(self, process: subprocess.Popen[str]) -> str:
        return self.logs[process.pid].with_suffix(".out").read_text()

    def figures(self, process: subprocess.Popen[str]) -> dict[str, Any]:
        """Return the last figures a worker printed, or an empty dict."""
        lines = [line for line in self.out(process).splitlines() if line.startswith('{"counts"') and line.endswith("}")]
        return json.loads(lines[-1]) if lines else {}

    def wait_lanes(self, process: subprocess.Popen[str], count: int, timeout_s: float = 60) -> None:
        deadline = time.monotonic() + timeout_s
        while len(self.figures(process).get("lanes", [])) != count:
            assert time.monotonic() < deadline, self.log(process)[-3000:]
            assert process.poll() is None, self.log(process)[-3000:]
            time.sleep(0.05)

    def stop(self, process: subprocess.Popen[str], timeout_s: float = 60, ends: tuple[int, ...] = (EXIT_OK,)) -> None:
        """Stop a worker once it is at work: before, it has no handler for the signal yet."""
        deadline = time.monotonic() + timeout_s
        while process.poll() is None and not self.figures(process).get("counts", {}).get("rebalances"):
            assert time.monotonic() < deadline, self.log(process)[-3000:]
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout_s) in ends, self.log(process)[-3000:]

    def published(self) -> list[dict[str, Any]]:
        """Return everything a read_committed consumer can see on the output by now."""
        if self._reader is None:
            settings = {
                "bootstrap.servers": self.bootstrap,
                "group.id": "test",
                "isolation.level": "read_committed",
                "fetch.wait.max.ms": 10,
            }
            self._reader = Consumer(settings)
            self._reader.assign([TopicPartition(self.topics["out"], lane, 0) for lane in range(self.lanes)])
        while messages := self._reader.consume(10_000, 0.1):
            assert all(message.error() is None for message in messages)
            self._got += [json.loads(message.value() or b"") for message in messages]
        return self._got

    def wait_published(self, count: int, timeout_s: float = 120) -> None:
        deadline = time.monotonic() + timeout_s
        while len(self.published()) < count:
            if time.monotonic() > deadline or all(p.poll() is not None for p in self.workers):
                told = "\n".join(f"--- {p.args[-1]}: {p.poll()}\n{self.log(p)[-2500:]}" for p in self.workers)
                raise AssertionError(f"{len(self._got)} of {count} published\n{told}")

    def assert_counted_once(self) -> None:
        """Each input was published once, and each key's counts run 1, 2, 3, … without a gap."""
        self.wait_published(self.sent)
        time.sleep(0.3)
        got = self.published()
        assert sorted(record["id"] for record in got) == list(range(self.sent))
        counts: dict[str, list[int]] = defaultdict(list)
        for record in got:
            counts[record["key"]].append(record["count"])
        assert all(sorted(seen) == list(range(1, len(seen) + 1)) for seen in counts.values())

    def members(self) -> set[str]:
        answer = self.admin.describe_consumer_groups([self.prefix])[self.prefix].result()
        return {member.group_instance_id for member in answer.members}

    def close(self) -> None:
        for process in self.workers:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
                process.wait()
        if self._reader is not None:
            self._reader.close()
        for future in self.admin.delete_topics(list(self.topics.values()), operation_timeout=10).values():
            future.exception()  # kept brokers should not fill up; a topic a test has deleted is fine


@pytest.fixture
def toy(kafka: str, tmp_path: Path) -> Iterator[Toy]:
    made = Toy(kafka, tmp_path)
    yield made
    made.close()


# --- exactly once ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("point", "nth"), [("before_produce", 5), ("before_send_offsets", 3), ("before_commit", 3), ("after_commit", 3)])
def test_kill_in_a_commit_then_restart_counts_each_input_once(toy: Toy, point: str, nth: int) -> None:
    first = toy.start(point=point, nth=nth)
    while first.poll() is None:
        toy.feed(100, pause_s=0.02)
        assert toy.sent < 100_000
    assert first.returncode == -signal.SIGKILL
    toy.feed(200)
    again = toy.start()
    toy.feed(500, pause_s=0.01)
    toy.assert_counted_once()
    toy.stop(again)


def test_kill_while_restoring_then_restart_counts_each_input_once(toy: Toy) -> None:
    first = toy.start()
    toy.feed(500, pause_s=0.01)
    toy.wait_published(500)
    first.kill()
    first.wait()
    second = toy.start(point="during_restore", nth=2)
    assert second.wait(60) == -signal.SIGKILL
    toy.feed(500)
    third = toy.start()
    toy.assert_counted_once()
    toy.stop(third)


def test_kill_in_a_revocation_then_restart_counts_each_input_once(toy: Toy) -> None:
    first = toy.start(point="in_revoke", nth=1)
    toy.wait_lanes(first, LANES)
    toy.feed(500, pause_s=0.01)
    other = toy.start("1")
    while first.poll() is None:
        toy.feed(50, pause_s=0.02)
        assert toy.sent < 100_000
    assert first.returncode == -signal.SIGKILL
    again = toy.start()
    toy.feed(500, pause_s=0.01)
    toy.assert_counted_once()
    toy.stop(again)
    toy.stop(other)


@pytest.mark.parametrize("point", ["before_send_offsets", "before_commit"])
def test_zombie_waking_after_its_lanes_moved_is_fenced_and_commits_nothing(toy: Toy, point: str) -> None:
    zombie = toy.start(point=point, nth=4, action="stop")
    while "fault" not in toy.out(zombie):
        toy.feed(100, pause_s=0.02)
        assert toy.sent < 100_000
    heir = toy.start("1")  # takes over after the session timeout, and after the zombie's transaction timed out
    toy.feed(500)
    toy.wait_published(toy.sent)
    zombie.send_signal(signal.SIGCONT)
    assert zombie.wait(60) == EXIT_FENCED, toy.log(zombie)
    toy.feed(200)
    toy.assert_counted_once()
    toy.stop(heir)


def test_zombie_waking_while_its_heir_waits_for_its_transaction_counts_each_input_once(toy: Toy) -> None:
    zombie = toy.start(point="before_commit", nth=4, action="stop", config={"transaction_timeout_ms": 12_000})
    while "fault" not in toy.out(zombie):
        toy.feed(100, pause_s=0.02)
        assert toy.sent < 100_000
    heir = toy.start("1")
    toy.feed(500)
    time.sleep(6)  # its session (3 s) is over, its transaction (12 s) is not: the commit it is in the middle of still counts
    zombie.send_signal(signal.SIGCONT)
    toy.assert_counted_once()
    heir_code, zombie_code = heir.poll(), zombie.poll()
    assert heir_code is None, toy.log(heir)
    assert zombie_code in (None, EXIT_FENCED), toy.log(zombie)


def test_worker_paused_between_commits_rejoins_and_counts_each_input_once(toy: Toy) -> None:
    first, second = toy.start("0"), toy.start("1")
    for worker in (first, second):
        toy.wait_lanes(worker, LANES // 2)
    toy.feed(1000, pause_s=0.01)
    first.send_signal(signal.SIGSTOP)
    toy.feed(1000, pause_s=0.01)
    toy.wait_published(toy.sent)  # the other one has taken over
    first.send_signal(signal.SIGCONT)
    toy.feed(1000, pause_s=0.01)
    toy.assert_counted_once()
    toy.stop(first, ends=(EXIT_OK, EXIT_FENCED))
    toy.stop(second)


def test_second_process_of_the_same_name_fences_the_first(toy: Toy) -> None:
    first = toy.start()
    toy.feed(500, pause_s=0.01)
    toy.wait_published(500)
    second = toy.start()
    toy.feed(500, pause_s=0.02)
    assert first.wait(60) == EXIT_FENCED, toy.log(first)
    toy.assert_counted_once()
    toy.stop(second)


def test_workers_one_two_one_count_each_input_once(toy: Toy) -> None:
    first = toy.start("0")
    toy.wait_lanes(first, LANES)
    toy.feed(1000, pause_s=0.01)
    second = toy.start("1")
    while len(toy.figures(second).get("lanes", [])) != LANES // 2:
        toy.feed(50, pause_s=0.02)
        assert second.poll() is None, toy.log(second)
    toy.wait_lanes(first, LANES // 2)
    toy.feed(1000, pause_s=0.01)
    toy.stop(first)
    toy.feed(500, pause_s=0.01)
    toy.wait_lanes(second, LANES)
    toy.feed(500, pause_s=0.01)
    toy.assert_counted_once()
    toy.stop(second)


def test_broker_crash_and_restart_counts_each_input_once(kafka_server: KafkaServer, tmp_path: Path) -> None:
    toy = Toy(kafka_server.bootstrap, tmp_path)
    try:
        worker = toy.start()
        toy.feed(1000, pause_s=0.01)
        kafka_server.restart(crash=True)
        toy.feed(500, pause_s=0.01)
        deadline = time.monotonic() + 60
        while len(toy.published()) < toy.sent and time.monotonic() < deadline:
            if worker.poll() is not None:  # a supervisor would do this
                assert worker.returncode in (EXIT_FAILED, EXIT_FENCED, EXIT_UNREACHABLE), toy.log(worker)
                worker = toy.start()
        toy.assert_counted_once()
        toy.stop(worker)
    finally:
        toy.close()


@pytest.mark.nightly
@pytest.mark.skipif(os.environ.get("HEDGEROW_NIGHTLY") != "1", reason="long run: set HEDGEROW_NIGHTLY=1")
@pytest.mark.timeout(900)
def test_random_kills_and_pauses_count_each_input_once(toy: Toy) -> None:
    seed = int(os.environ.get("HEDGEROW_SEED", random.SystemRandom().randrange(10**6)))
    print(f"HEDGEROW_SEED={seed}")
    chance = random.Random(seed)
    workers = {name: toy.start(name) for name in "01"}
    until = time.monotonic() + float(os.environ.get("HEDGEROW_SOAK_S", "300"))
    paused: tuple[str, float] | None = None
    strokes = working = 0
    due = time.monotonic() + 5
    while time.monotonic() < until:
        toy.feed(chance.randrange(20, 200), pause_s=0.05)
        if paused and time.monotonic() > paused[1]:
            workers[paused[0]].send_signal(signal.SIGCONT)
            paused = None
        elif time.monotonic() > due:
            due = time.monotonic() + chance.uniform(0.3, 6.0)  # a start takes about a second: most strokes must meet a worker at work
            name = chance.choice("01")
            if paused and paused[0] == name:
                continue
            strokes += 1
            working += bool(toy.figures(workers[name]).get("counts", {}).get("commits"))
            stroke = chance.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP])
            workers[name].send_signal(stroke)
            if stroke == signal.SIGSTOP:
                if paused:
                    workers[name].send_signal(signal.SIGCONT)
                else:
                    paused = (name, time.monotonic() + chance.choice([0.5, 2.8, 3.2, 4.0, 6.5, 9.0]))
        for name, process in workers.items():
            if process.poll() is not None:
                ends = (EXIT_OK, EXIT_FAILED, EXIT_UNREACHABLE, EXIT_FENCED, -signal.SIGKILL, -signal.SIGTERM)
                assert process.returncode in ends, toy.log(process)
                workers[name] = toy.start(name)
    meanwhile = len(toy.published())
    if paused:
        workers[paused[0]].send_signal(signal.SIGCONT)
    deadline = time.monotonic() + 60
    while len(toy.published()) < toy.sent and time.monotonic() < deadline:
        for name, process in workers.items():
            if process.poll() is not None:
                workers[name] = toy.start(name)
    toy.assert_counted_once()
    codes = Counter(process.poll() for process in toy.workers)
    print(f"{strokes} strokes, {working} at a worker that had committed; {len(toy.workers)} lives ended {dict(codes)}")
    print(f"{toy.sent} inputs, {meanwhile} published before the strokes ended")
    print(*(toy.log(process) for process in toy.workers if process.poll() == EXIT_FAILED), sep="\n")
    assert working > strokes / 3, "the strokes met workers that were not at work"
    assert meanwhile > toy.sent / 2, "little was done between the strokes"


# --- stopping -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_graceful_stop_commits_and_leaves_the_group_at_once(toy: Toy, number: signal.Signals) -> None:
    worker = toy.start(config={"session_timeout_ms": 90_000})
    toy.wait_lanes(worker, LANES)
    assert toy.members() == {f"{toy.prefix}-0"}
    toy.feed(300)
    worker.send_signal(number)
    assert worker.wait(60) == EXIT_OK
    assert toy.members() == set()
    other = toy.start("1", config={"session_timeout_ms": 90_000})
    toy.wait_lanes(other, LANES)  # sooner than the session timeout
    toy.assert_counted_once()
    toy.stop(other)


def test_failing_logic_ends_with_its_traceback_and_publishes_nothing_of_it(toy: Toy) -> None:
    worker = toy.start()
    toy.feed(100)
    toy.wait_published(100)
    toy.producer.produce(toy.topics["a"], value=b"boom", key=b"k1")
    toy.producer.flush()
    assert worker.wait(60) == EXIT_FAILED
    told = toy.log(worker)
    assert "ValueError: a defect in the logic" in told
    assert "runtime_toy.py" in told
    assert "panicked" not in told
    toy.assert_counted_once()


# --- start ------------------------------------------------------------------------------------------------------------------------


def _ends_at_once(toy: Toy, code: int, *told: str, **more: Any) -> None:
    worker = toy.start(**more)
    assert worker.wait(60) == code, toy.log(worker)  # 10 s by design; the rest is for a busy machine
    lines = toy.log(worker).splitlines()
    assert len([line for line in lines if line.startswith("hedgerow: ")]) == 1, lines
    for text in told:
        assert text in lines[-1]
    if code in (EXIT_STARTUP, EXIT_UNREACHABLE):
        assert len(lines) == 1, lines


def test_unreachable_broker_ends_with_one_message(toy: Toy) -> None:
    toy.bootstrap = f"127.0.0.1:{free_port()}"
    _ends_at_once(toy, EXIT_UNREACHABLE, "no Kafka broker answered", toy.bootstrap, "HEDGEROW_KAFKA")


def test_missing_topic_ends_with_one_message_naming_it(toy: Toy) -> None:
    toy.admin.delete_topics([toy.topics["b"]])[toy.topics["b"]].result()
    time.sleep(0.5)
    _ends_at_once(toy, EXIT_STARTUP, toy.topics["b"], "hedgerow topics create")


@pytest.mark.parametrize("which", ["b", "changelog"])
def test_unequal_partition_counts_end_with_one_message_naming_them(toy: Toy, which: str) -> None:
    toy.admin.delete_topics([toy.topics[which]])[toy.topics[which]].result()
    time.sleep(0.5)
    toy.create([toy.topics[which]], LANES + 1)
    _ends_at_once(toy, EXIT_STARTUP, f"{toy.topics[which]} has {LANES + 1}", f"{toy.topics['a']} has {LANES}")


def test_partitions_added_while_it_runs_end_it_naming_topic_and_counts(toy: Toy) -> None:
    worker = toy.start(config={"recount_interval_ms": 300})
    toy.wait_lanes(worker, LANES)
    for future in toy.admin.create_partitions([NewPartitions(toy.topics["b"], LANES + 1)]).values():
        future.result()
    assert worker.wait(60) == EXIT_STARTUP, toy.log(worker)
    told = [line for line in toy.log(worker).splitlines() if line.startswith("hedgerow: ")]
    assert len(told) == 1
    assert f"topic {toy.topics['b']} has {LANES + 1} partitions now, {LANES} were expected" in told[0]


def _run_and_stop(toy: Toy, count: int = 400) -> None:
    worker = toy.start()
    toy.feed(count, pause_s=0.01)
    toy.wait_published(toy.sent)
    toy.stop(worker)


def test_lost_changelog_with_committed_offsets_is_refused(toy: Toy) -> None:
    _run_and_stop(toy)
    toy.admin.delete_topics([toy.topics["changelog"]])[toy.topics["changelog"]].result()
    time.sleep(0.5)
    toy.create([toy.topics["changelog"]])
    _ends_at_once(toy, EXIT_STATE, "ends at offset None", toy.topics["changelog"], "has committed")


def test_moved_group_offsets_are_refused(toy: Toy) -> None:
    _run_and_stop(toy)
    moved = ConsumerGroupTopicPartitions(toy.prefix, [TopicPartition(toy.topics["a"], lane, 1) for lane in range(LANES)])
    for future in toy.admin.alter_consumer_group_offsets([moved]).values():
        future.result()
    _ends_at_once(toy, EXIT_STATE, "has committed 1", toy.topics["a"])


def test_lost_group_offsets_start_where_the_state_ends(toy: Toy) -> None:
    _run_and_stop(toy)
    toy.admin.delete_consumer_groups([toy.prefix])[toy.prefix].result()
    worker = toy.start()
    toy.feed(400)
    toy.assert_counted_once()
    toy.stop(worker)


def test_input_deleted_before_it_was_read_is_refused(toy: Toy) -> None:
    _run_and_stop(toy)
    toy.feed(400)
    parts = [TopicPartition(toy.topics["a"], lane, -1) for lane in range(LANES)]
    for future in toy.admin.delete_records(parts).values():
        future.result()
    _ends_at_once(toy, EXIT_STATE, "were deleted (retention)", toy.topics["a"])


# --- the rest -----------------------------------------------------------------------------------------------------------------------


def test_broadcast_is_read_to_its_end_before_lanes_start(toy: Toy) -> None:
    for number in range(5000):
        toy.producer.produce(toy.topics["tape"], value=b"%d" % number)
    toy.feed(100)
    worker = toy.start(flow={"tape": True}, config={"tape": True})
    toy.wait_published(100)
    assert {record["tape"] for record in toy.published()} == {5000}
    for number in range(10):
        toy.producer.produce(toy.topics["tape"], value=b"%d" % number)
    toy.producer.flush()
    deadline = time.monotonic() + 20
    while not toy.published() or toy.published()[-1]["tape"] != 5010:
        assert time.monotonic() < deadline
        toy.feed(1)
    toy.stop(worker)


@pytest.mark.parametrize("whole", [False, True])
def test_broadcast_is_read_from_a_while_back_and_states_from_their_beginning(toy: Toy, whole: bool) -> None:
    """A HALT of last week must be known; quotes of last week need not be."""
    now_ms = time.time_ns() // 1_000_000
    for number in range(20):
        toy.producer.produce(toy.topics["tape"], value=b"%d" % number, timestamp=now_ms - (7_200_000 if number < 15 else 0))
    toy.feed(100)
    config = {"tape": True, "broadcast_lookback_ms": 3_600_000, "broadcast_whole": [toy.topics["tape"]] if whole else []}
    worker = toy.start(flow={"tape": True}, config=config)
    toy.wait_published(100)
    assert {record["tape"] for record in toy.published()} == {20 if whole else 5}
    toy.stop(worker)


def test_slow_lane_is_paused_and_uncommitted_bytes_stay_bounded(toy: Toy) -> None:
    padding = b" " * 2000
    for _ in range(4000):
        toy.producer.produce(toy.topics["a"], value=b"%d" % toy.sent + padding, key=b"k%d" % (toy.sent % KEYS))
        toy.sent += 1
    toy.producer.flush()
    limit = 256 * 1024
    worker = toy.start(
        flow={"slow_s": 0.05},
        config={"lane_pause_bytes": limit, "max_chunk_records": 50, "commit_interval_ms": 2000},
    )
    toy.assert_counted_once()
    figures = toy.figures(worker)
    assert figures["counts"]["pauses"] > 0
    assert figures["peak"]["uncommitted_bytes"] < LANES * (2 * limit + 50 * 2_200), figures
    toy.stop(worker)


def test_changelog_is_truncated_and_still_restores(toy: Toy) -> None:
    worker = toy.start(config={"truncate_interval_ms": 200})
    deadline = time.monotonic() + 40
    parts = {TopicPartition(toy.topics["changelog"], lane): OffsetSpec.earliest() for lane in range(LANES)}
    while not all(future.result().offset > 0 for future in toy.admin.list_offsets(parts).values()):
        assert time.monotonic() < deadline
        toy.feed(100, pause_s=0.02)
    assert toy.figures(worker)["counts"]["truncate_errors"] == 0
    toy.stop(worker)
    again = toy.start()
    toy.feed(300)
    toy.assert_counted_once()
    toy.stop(again)


def test_full_send_queue_keeps_order_and_loses_nothing(toy: Toy) -> None:
    toy.feed(3000)
    worker = toy.start(config={"client": {"queue.buffering.max.messages": 100}})
    toy.assert_counted_once()
    order: dict[str, list[int]] = defaultdict(list)
    for record in toy.published():
        order[record["key"]].append(record["count"])
    assert all(seen == sorted(seen) for seen in order.values())
    toy.stop(worker)


def test_record_too_large_to_send_ends_with_its_topic_and_size(toy: Toy) -> None:
    toy.feed(100)
    worker = toy.start(config={"max_record_bytes": 1000, "client": {}}, flow={})
    toy.wait_published(100)
    toy.producer.produce(toy.topics["a"], value=b"100", key=b"k" * 1200)
    toy.producer.flush()
    assert worker.wait(60) == EXIT_FAILED
    assert "was refused" in toy.log(worker)
    assert toy.topics["out"] in toy.log(worker)


def test_records_of_the_clock_alone_are_published_and_do_not_pass_for_progress(toy: Toy) -> None:
    worker = toy.start(flow={"ticking": True})
    toy.wait_published(LANES)
    assert sorted(record["tick"] for record in toy.published()) == list(range(LANES))
    toy.stop(worker)
    again = toy.start()
    toy.wait_lanes(again, LANES)
    toy.feed(200)
    toy.wait_published(200 + LANES)
    assert sorted(record["id"] for record in toy.published() if "id" in record) == list(range(200))
    toy.stop(again)
    third = toy.start()
    toy.wait_lanes(third, LANES)
    toy.stop(third)


def test_nothing_stays_open_after_a_stop(toy: Toy) -> None:
    _run_and_stop(toy)
    parts = [TopicPartition(topic, lane) for topic in (toy.topics["out"], toy.topics["changelog"]) for lane in range(LANES)]
    ends = []
    for isolation in (IsolationLevel.READ_COMMITTED, IsolationLevel.READ_UNCOMMITTED):
        asked = toy.admin.list_offsets({part: OffsetSpec.latest() for part in parts}, isolation_level=isolation)
        ends.append([future.result().offset for future in asked.values()])
    assert ends[0] == ends[1]


def test_metrics_are_served_on_loopback(toy: Toy) -> None:
    from urllib.request import urlopen

    port = free_port()
    worker = toy.start(config={"metrics_port": port})
    toy.feed(200)
    toy.wait_published(200)
    told = ""
    deadline = time.monotonic() + 20
    while 'hedgerow_records_in_total{flow="toy",worker="0"} 200.0' not in told:
        assert time.monotonic() < deadline, told
        with contextlib.suppress(OSError), urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            told = answer.read().decode()
        time.sleep(0.1)
    assert 'hedgerow_commit_seconds_count{flow="toy",worker="0"}' in told
    toy.stop(worker)
