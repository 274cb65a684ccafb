"""The pure parts of `bench.faults` and `bench.scale`: schedules follow from the seed, recovery is read off outputs' times; and the ordered fault."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from bench.faults import KILLS, Blow, Step, quantile, recovery_s, schedule, sum_up
from bench.scale import Result, by_worker, limit, thinned
from flows.run import FAULT_POINTS, fault_of


@pytest.mark.parametrize("kills", [1, 2, 3, 7, 50, 200])
def test_schedule_holds_the_kills_asked_for_and_follows_from_the_seed(kills: int) -> None:
    for seed in range(20):
        steps = schedule(seed, kills)
        assert sum(step.kills for step in steps) == kills
        assert steps == schedule(seed, kills)
    assert schedule(1, kills, 2) != schedule(1, kills, 3) or kills < 3
    assert len({tuple(schedule(seed, kills)) for seed in range(20)}) > 10


def test_schedule_of_fifty_has_every_kind_and_only_known_points() -> None:
    for seed in range(10):
        steps = schedule(seed, 50)
        kinds = Counter(step.kind for step in steps)
        assert set(kinds) == {*KILLS, "zombie", "scale", "broker stop", "broker crash"}
        assert kinds["zombie"] == 5
        assert {step.point for step in steps} - {""} <= set(FAULT_POINTS)
        assert all(step.worker < 2 or step.kind == "rebalancing" for step in steps)
        assert all(step.pause_s > 6 for step in steps if step.kind == "zombie")
        assert {step.restart for step in steps if step.kills} == {True, False}


def test_schedule_with_a_broker_that_is_not_ours_leaves_it_alone() -> None:
    kinds = {step.kind for step in schedule(1, 50, with_broker=False)}
    assert not kinds & {"broker stop", "broker crash"}
    steps = [step for step in schedule(1, 50) if not step.kind.startswith("broker")]
    assert Counter(steps) == Counter(schedule(1, 50, with_broker=False))


def blow(at_ms: float, lanes: tuple[int, ...] = (0, 1), kind: str = "random", restart: bool = True) -> Blow:
    return Blow(kind, "execution-0", at_ms, lanes, 5_000.0, restart)


def test_recovery_is_when_the_last_lane_puts_out_again() -> None:
    stamps = {0: [900, 1_010, 3_000, 3_100], 1: [990, 4_250, 4_300], 2: [1_200]}
    assert recovery_s(blow(1_000), stamps) == pytest.approx(3.25)
    assert recovery_s(blow(1_000, (0,)), stamps) == pytest.approx(2.0)  # 1,010 may be what the dead one had sent


def test_recovery_of_a_lane_that_never_came_back_is_none() -> None:
    assert recovery_s(blow(1_000), {0: [900, 3_000], 1: [990]}) is None
    assert recovery_s(blow(1_000, ()), {0: [900, 3_000]}) is None


def test_recovery_with_another_blow_before_is_none() -> None:
    stamps = {0: [900, 3_000], 1: [900, 3_000], 2: [900, 3_000]}
    first, second, elsewhere = blow(1_000), blow(2_000), blow(2_000, (2,))
    assert recovery_s(first, stamps, [first, second]) is None
    assert recovery_s(first, stamps, [first, elsewhere]) == pytest.approx(2.0)
    assert recovery_s(second, stamps, [first, second]) == pytest.approx(1.0)


def test_quantile_is_a_value_that_was_there() -> None:
    values = [float(n) for n in range(1, 21)]
    assert quantile(values, 0.95) == 19.0
    assert quantile(values, 0.5) == 10.0
    assert quantile([4.0], 0.95) == 4.0
    assert quantile([], 0.95) is None


def test_sum_up_counts_kills_apart_from_other_blows() -> None:
    zombie = Blow("zombie", "execution-1", 5_000, (1,), 4_000.0, kill=False)
    blows = [blow(1_000, (0,)), blow(8_000, (0,), restart=False), zombie]
    stamps = {0: [900, 3_000, 18_000], 1: [900, 20_000]}
    line, rows = sum_up(argparse.Namespace(seed=7, rate=5_000.0), blows, stamps)
    assert line["kills"] == 2
    assert line["recovery_p95_s"] == 10.0
    assert line["recovery_restarted_p95_s"] == 2.0
    assert line["recovery_taken_over_p95_s"] == 10.0
    assert line["load_min_per_s"] == 4_000
    assert line["blows_below_rate"] == 1
    assert line["by_kind"] == {"random": 1, "random, not restarted": 1, "zombie": 1}
    assert len(rows) == 3


def test_step_in_words_names_whom_where_and_how_long() -> None:
    assert str(Step("inside", 1, "before_commit", 3, 0.005, restart=False)) == (
        "inside execution-1 at before_commit, time 3 5.0 ms later not restarted"
    )
    assert str(Step("zombie", 0, pause_s=9.0)) == "zombie execution-0 for 9.0 s"


ORDERED = """
import sys
from flows.run import fault_of
fault = fault_of("@" + sys.argv[1], "w")
for _ in range(5):
    fault("after_commit"); fault("before_commit")
    print("commit", flush=True)
"""


@pytest.mark.parametrize(("order", "commits", "code"), [("3 SIGKILL 0", 2, -signal.SIGKILL), ("9 SIGKILL 0", 5, 0), (None, 5, 0)])
def test_ordered_fault_falls_at_the_nth_time(tmp_path: Path, order: str | None, commits: int, code: int) -> None:
    if order:
        (tmp_path / "w.before_commit").write_text(order)
        (tmp_path / "other.after_commit").write_text("1 SIGKILL 0")
    done = subprocess.run(
        [sys.executable, "-c", ORDERED, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout.count("commit")) == (code, commits), done.stderr
    assert (tmp_path / "w.before_commit.done").exists() == (code != 0)


def test_ordered_fault_later_lets_the_point_go_on(tmp_path: Path) -> None:
    (tmp_path / "w.before_commit").write_text("1 SIGUSR1 0.05")
    heard: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: heard.append(number))
    try:
        fault = fault_of(f"@{tmp_path}", "w")
        assert fault is not None
        fault("before_commit")
        assert not heard
        time.sleep(0.5)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert heard == [signal.SIGUSR1]


def result(cpu: dict[str, float], broker: float, others: float) -> Result:
    lanes = {"execution-0": [0, 1], "execution-1": [2, 3]}
    return Result(2, 10.0, lanes, by_worker(lanes, {0: 300, 1: 200, 2: 400, 3: 0, 9: 7}), cpu, broker, others, True)


def test_fairness_is_the_fewest_to_the_most() -> None:
    r = result({"execution-0": 2.0, "execution-1": 3.0}, 5.0, 0.0)
    assert r.fills == {"execution-0": 500, "execution-1": 400}
    assert r.fairness == pytest.approx(0.8)
    assert r.per_s == pytest.approx(90.0)
    assert r.per_cpu_s == pytest.approx(180.0)


def test_limit_tells_machine_worker_and_waiting_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    assert limit(result({"execution-0": 9.0, "execution-1": 9.0}, 20.0, 0.0)).startswith("the machine")
    assert limit(result({"execution-0": 9.5, "execution-1": 3.0}, 5.0, 0.0)).startswith("the worker")
    assert limit(result({"execution-0": 4.0, "execution-1": 3.0}, 5.0, 0.0)).startswith("waiting")


def test_thinned_keeps_both_ends() -> None:
    rows = [(float(n), 100 - n) for n in range(100)]
    few = thinned(rows, 10)
    assert len(few) == 10
    assert few[0] == rows[0]
    assert few[-1] == rows[-1]
    assert thinned(rows[:3], 10) == rows[:3]
