"""The commit protocol under a simulated Kafka and an unkind scheduler: fixed seeds, every planted bug, and the model's own rules.

HEDGEROW_NIGHTLY=1 runs for HEDGEROW_SOAK_S seconds (300) from a random seed, which is printed; HEDGEROW_SEED sets it.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from itertools import count

import pytest
from confluent_kafka import KafkaError

from bench.simulated_kafka import ABORTED, COMMITTED, NOBODY, Broker, Group, Membership, Refused
from bench.simulation import PLANTS, Result, kept_seeds, main, simulate

NIGHTLY = os.environ.get("HEDGEROW_NIGHTLY") == "1"


def told(result: Result) -> str:
    return f"seed {result.seed}, step {result.step}: {result.problem}\n" + "\n".join(result.trace)


def test_toy_lanes_through_every_fault_lose_and_repeat_nothing() -> None:
    result = simulate(range(100, 145))
    assert result.seed is None, told(result)
    assert result.episodes == 45
    assert result.commits > 2_000
    # the faults this is about did happen
    for what in ("is killed", "stands still", "goes on", "broker away", "truncations", "ends: Fenced", "ends: Aborted", "is asked to stop"):
        assert result.counts[what] > 10, (what, result.counts)


def test_execution_lanes_through_every_fault_come_to_the_same_bytes() -> None:
    result = simulate(range(100, 112), "execution")
    assert result.seed is None, told(result)
    assert result.commits > 200
    assert result.inputs > 1_000


def test_hedger_lanes_through_every_fault_come_to_the_same_bytes() -> None:
    result = simulate(range(100, 108), "hedger")
    assert result.seed is None, told(result)
    assert result.commits > 300
    assert result.inputs > 1_000


@pytest.mark.parametrize("kept", kept_seeds(), ids=lambda kept: f"{kept['logic']}-{kept['seed']}")
def test_seed_that_once_failed_is_well(kept: dict[str, object]) -> None:
    result = simulate([int(str(kept["seed"]))], str(kept["logic"]))
    assert result.seed is None, told(result)


FIRST = {"clock_unfenced": 40, "taken_for_broken": 10}
"""Where to begin for the bugs that need a rare story."""


@pytest.mark.parametrize("plant", [name for name in PLANTS if name != "none"])
def test_planted_bug_is_found(plant: str) -> None:
    first = FIRST.get(plant, 0)
    result = simulate(range(first, first + 300), plant=plant)
    assert result.seed is not None, f"{plant}: not found in {result.steps} steps"
    assert result.trace
    again = simulate([result.seed], plant=plant)
    assert (again.step, again.problem) == (result.step, result.problem)


@pytest.mark.parametrize("plant", ["tombstone_dropped", "late_flush"])
def test_planted_bug_is_found_in_the_execution_flow(plant: str) -> None:
    assert simulate(range(100), "execution", plant).seed is not None


@pytest.mark.parametrize("plant", ["late_flush", "restore_uncommitted", "delta_lost"])
def test_planted_bug_is_found_in_the_hedger(plant: str) -> None:
    assert simulate(range(100), "hedger", plant).seed is not None


def test_same_seed_is_the_same_run() -> None:
    first, second = simulate(range(3)), simulate(range(3))
    assert (first.digest, first.steps, first.commits, first.counts) == (second.digest, second.steps, second.commits, second.counts)
    assert simulate(range(3, 6)).digest != first.digest


def test_command_prints_its_seed_and_how_to_repeat_a_violation(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--episodes", "1", "--seed", "5"]) == 0
    assert "seed 5, logic toy" in capsys.readouterr().out
    assert main(["--episodes", "20", "--seed", "0", "--plant", "truncated_early"]) == 1
    out = capsys.readouterr().out
    assert "VIOLATION  seed " in out
    assert "last steps:" in out
    assert "repeat: python -m bench.simulation --episodes 1 --seed " in out


@pytest.mark.nightly
@pytest.mark.skipif(not NIGHTLY, reason="long run: set HEDGEROW_NIGHTLY=1")
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("logic", ["toy", "execution", "hedger"])
def test_random_seeds_for_long(logic: str) -> None:
    seed = int(os.environ.get("HEDGEROW_SEED") or random.SystemRandom().randrange(10**9))
    print(f"HEDGEROW_SEED={seed}")
    result = simulate(count(seed), logic, seconds=float(os.environ.get("HEDGEROW_SOAK_S", "300")))
    assert result.seed is None, told(result)


# ---- the model's own rules, each as Kafka has it ---------------------------------------------------------------------------------


class Alive:
    name = "host"
    chance = random.Random(0)
    silent_since: float | None = None

    def now(self) -> float:
        return 0.0

    def step(self, what: str) -> None: ...

    def wait(self, ready: Callable[[], bool], timeout_s: float, what: str) -> bool:
        return ready()


def broker() -> Broker:
    return Broker({"in": 2, "out": 2}, Group(2, 0.2), lambda txn: None, lambda topic, key: 0)


def opened(there: Broker, tid: str = "t") -> int:
    epoch = there.init_producer(tid, 1.0)
    assert epoch is not None
    return epoch


def test_reader_stops_before_an_open_transaction_and_never_sees_an_aborted_one() -> None:
    there = broker()
    epoch = opened(there)
    log = there.logs["out", 0]
    there.append_plain(("out", 0), b"", b"0")
    there.append("t", epoch, "p", ("out", 0), [(b"", b"1")])
    there.append_plain(("out", 0), b"", b"2")
    assert [entry.value for _, entry in log.committed(0, log.stable())] == [b"0"]
    there.end("t", epoch, ABORTED)
    assert log.stable() == 1  # the marker is not written yet
    there.mark(random.Random(0))
    assert [entry.value for _, entry in log.committed(0, log.stable())] == [b"0", b"2"]
    assert len(log.entries) == 4  # the marker takes an offset


def test_second_producer_of_an_id_aborts_the_first_ones_transaction_and_fences_it() -> None:
    there = broker()
    epoch = opened(there)
    there.append("t", epoch, "p", ("out", 0), [(b"", b"1")])
    assert there.init_producer("t", 1.0) is None  # markers first
    there.mark(random.Random(0))
    later = opened(there)
    assert later > epoch
    for call in (
        lambda: there.append("t", epoch, "p", ("out", 0), [(b"", b"2")]),
        lambda: there.add_offsets("t", epoch, "p", [(("in", 0), 1, "")], NOBODY),
        lambda: there.end("t", epoch, COMMITTED),
    ):
        with pytest.raises(Refused):
            call()
    log = there.logs["out", 0]
    assert not list(log.committed(0, log.stable()))


def test_transaction_open_for_too_long_is_aborted_and_its_producer_fenced() -> None:
    there = broker()
    epoch = opened(there)
    there.append("t", epoch, "p", ("out", 0), [(b"", b"1")])
    there.now = 2.0
    there.expire()
    with pytest.raises(Refused):
        there.end("t", epoch, COMMITTED)


def test_commit_asked_for_twice_is_one_commit_and_the_other_way_round_is_refused() -> None:
    there = broker()
    epoch = opened(there)
    there.append("t", epoch, "p", ("out", 0), [(b"", b"1")])
    there.end("t", epoch, COMMITTED)
    there.end("t", epoch, COMMITTED)
    with pytest.raises(Refused):
        there.end("t", epoch, ABORTED)


def test_offsets_are_pending_until_their_marker_and_gone_after_an_abort() -> None:
    there = broker()
    epoch = opened(there)
    there.add_offsets("t", epoch, "p", [(("in", 0), 7, "")], NOBODY)
    assert there.pending["in", 0] == 1
    there.end("t", epoch, COMMITTED)
    assert ("in", 0) not in there.offsets
    there.mark(random.Random(0))
    assert there.offsets["in", 0][:2] == (7, "")
    assert there.pending["in", 0] == 0


def test_offset_written_later_stays_whatever_order_the_markers_come_in() -> None:
    there = broker()
    first, second = opened(there, "t"), opened(there, "u")
    there.add_offsets("t", first, "p", [(("in", 0), 7, "")], NOBODY)
    there.end("t", first, COMMITTED)
    there.add_offsets("u", second, "p", [(("in", 0), 8, "")], NOBODY)
    there.end("u", second, COMMITTED)
    there.deciding.reverse()
    while there.deciding:
        there.mark(random.Random(0))
    assert there.offsets["in", 0][:2] == (8, "")
    assert there.pending["in", 0] == 0


def test_group_refuses_offsets_of_older_generations_and_of_replaced_members() -> None:
    group = Group(2, 0.2)
    first = group.join("a", "", Alive())
    group.check(Membership(group.generation, first, "a"))
    old = Membership(group.generation, first, "a")
    group.join("b", "", Alive())
    group.check(old)  # until the rebalance is over
    group.join("a", first, Alive())
    with pytest.raises(Refused) as refused:
        group.check(old)
    assert refused.value.code == KafkaError.ILLEGAL_GENERATION
    assert [group.members[name].lanes for name in "ab"] == [[0], [1]]
    second = group.join("a", "", Alive())  # another process of the same name: no rebalance
    with pytest.raises(Refused) as refused:
        group.check(Membership(group.generation, first, "a"))
    assert refused.value.code == KafkaError.FENCED_INSTANCE_ID
    group.check(Membership(group.generation, second, "a"))


def test_group_gives_the_lanes_of_a_silent_member_to_the_others() -> None:
    group = Group(2, 0.2)
    quiet = Alive()
    group.join("a", "", quiet)
    other = group.join("b", "", Alive())
    group.join("a", group.members["a"].id, quiet)
    quiet.silent_since = 0.0
    group.expire(1.0)
    assert group.joining
    group.join("b", other, Alive())
    assert group.members["b"].lanes == [0, 1]
