"""The golden tests as functions of a harness, so that one text judges the oracle and the real logic alike."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from decimal import Decimal

from tests.golden_states import Line, Step, check, load
from tests.support import DAY, T0, Harness, last_versions, positions

LINES = load()
NAMES = [line.name for line in LINES]
CHAINED = [line for line in LINES if any(step.chain for step in line.steps)]
COUNTS = (288, 267)

MakeHarness = Callable[[], Harness]
END = T0 + 30 * DAY


def play(harness: Harness, steps: list[Step]) -> Harness:
    """Send every message, without looking."""
    for step in steps:
        harness.send(step.topic, step.value)
    return harness


def step_by_step(make: MakeHarness, line: Line) -> None:
    """After every report the state is the printed one; alternatives are played on a copy."""
    harness = make()
    for n, step in enumerate([*line.steps, None]):
        for _, other in (pair for pair in line.alternatives if pair[0] == n):
            copy = harness.fork()
            copy.send(other.topic, other.value)
            check(copy, line, other)
        if step is not None:
            harness.send(step.topic, step.value)
            check(harness, line, step)
    balance = harness.balance()
    unknown = [step for step in line.steps if step.correlation not in line.sizes]
    assert balance["received"] == len(line.steps)
    assert balance["pending"] == len(unknown)
    assert [alert for alert in harness.alerts if alert[0] != "intent_conflict"] == []


def doubled(make: MakeHarness, line: Line) -> None:
    """A message that comes twice changes nothing and publishes nothing more."""
    once, twice = make(), make()
    for step in line.steps:
        once.send(step.topic, step.value)
        twice.send(step.topic, step.value)
        twice.send(step.topic, step.value)
        check(twice, line, step)
    assert [fill["fill"] for fill in twice.fills] == [fill["fill"] for fill in once.fills]
    assert twice.fills == once.fills
    more = twice.balance()["duplicate"] - 2 * once.balance()["duplicate"]
    taken = sum(step.keyed and step.correlation in line.sizes for step in line.steps)
    conflicts = len(once.dead)
    assert len(twice.dead) == 2 * conflicts
    assert more == taken - conflicts - once.balance()["duplicate"]


def every_chain_order(make: MakeHarness, line: Line) -> None:
    """The messages of one chain in any order among their own places: the same end, the same last versions, the same position."""
    straight = play(make(), line.steps)
    chains = {step.chain for step in line.steps if step.chain is not None}
    for chain in sorted(chains):
        places = [n for n, step in enumerate(line.steps) if step.chain == chain]
        for order in itertools.permutations(places):
            steps = list(line.steps)
            for place, source in zip(places, order, strict=True):
                steps[place] = line.steps[source]
            _same_end(play_late(make, steps), straight, line)


def play_late(make: MakeHarness, steps: list[Step]) -> Harness:
    """Send messages out of their order: the lane's clock is past all of them from the start."""
    harness = make()
    for step in steps:
        harness.send(step.topic, step.value, now_ns=END)
    return harness


def _same_end(harness: Harness, straight: Harness, line: Line) -> None:
    for name in line.sizes:
        assert harness.order_state(name) == straight.order_state(name)
    mine, theirs = last_versions(harness), last_versions(straight)
    assert mine.keys() == theirs.keys()
    for fill, last in mine.items():
        for what in ("version", "status", "filled_size", "price", "exec_id", "side"):
            assert last[what] == theirs[fill][what], (fill, what)
    assert positions(harness) == positions(straight)
    assert harness.balance()["pending"] == straight.balance()["pending"]
    assert harness.balance()["published"] == straight.balance()["published"]


def derived_averages(make: MakeHarness) -> None:
    """What the lines imply and do not print: D35 averages 50, 0, 51; L.1.b 20.16."""
    d35 = next(line for line in LINES if line.name.startswith("D35"))
    l1b = next(line for line in LINES if line.name.startswith("L1b"))
    seen: list[Decimal] = []
    harness = make()
    for step in d35.steps:
        harness.send(step.topic, step.value)
        for state in harness.order_state(step.correlation):
            if not seen or state["avg_price"] != seen[-1]:
                seen.append(state["avg_price"])
    assert seen == [Decimal(0), Decimal(50), Decimal(0), Decimal(51)]
    harness = play(make(), l1b.steps)
    assert harness.order_state(l1b.steps[0].correlation)[0]["avg_price"] == Decimal("20.16")
