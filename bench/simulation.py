"""Deterministic simulation of the commit protocol: the real runtime and session, a Kafka in memory, and a seeded scheduler that is unkind.

    python -m bench.simulation --seconds 60 --seed 1 [--logic toy|execution|hedger] [--plant BUG] [--list]

Real: flows.runtime.Runtime (all of `run`, with Bytewax's part replaced by `Process.engine`), connectors.kafka.Session, the lane logics,
state.table and state.changelog. Simulated: librdkafka's clients and the broker (bench/simulated_kafka.py), processes, threads, time.
`Process.engine` mirrors what Bytewax does with one worker: each batch of the source goes through the lanes, key by key in order, and
into the sink before the source is asked again (measured on 0.21.1).

An episode is one seed: workers are started, fed, crashed, stopped, revoked and deprived of answers for a number of steps, then left in
peace until everything is consumed. `Judge` looks at every transaction at the moment it is committed and keeps one calm lane per lane,
which never crashes: it must come to the same bytes. The page docs/simulation.md says more.
"""

from __future__ import annotations

import _thread
import argparse
import contextlib
import io
import json
import logging
import os
import sys
import threading
import time
import tomllib
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any, ClassVar

from confluent_kafka import KafkaException

from bench.simulated_flows import EPOCH_NS, KITS, Kit
from bench.simulated_kafka import COMMITTED, NOBODY, Broker, Group, Place, Refused, SimAdmin, SimConsumer, SimProducer, Txn
from connectors.kafka import START_MARK, Aborted, Clients, Delta, Fenced, Interrupted, OffsetsDisagree, Session, SessionConfig, SessionError
from flows.runtime import Outside, Runtime
from operators.lane import LaneLogic
from schemas.chunk import Capture, Chunk, Records, split

SEEDS = Path(__file__).resolve().parent.parent / "tests" / "faults" / "seeds.toml"
WORKERS = ("0", "1", "2")
STEPS = {"toy": 6_000, "execution": 3_000, "hedger": 3_000}
"""Unkind steps of an episode."""
DRAIN = 60_000
"""Steps within which everything must be consumed once it is calm."""
PASSING = (
    "committed offsets of group",
    "offsets of ",
    "a transaction of another worker is still open",
    "could not be read within",
    "a commit did not end within",
)
"""How the message of a SessionError begins (or what it holds) that a long absence of the broker explains."""


class Violation(Exception):
    """Something happened that must never happen."""


class Killed(BaseException):
    """Raised in a fiber whose process was killed; no handler may act on it, every further call raises it again."""


# ---- fibers: threads of which exactly one runs -----------------------------------------------------------------------------------


class Fiber:
    """A thread that runs only when it is handed the turn. Threads are kept for the next job."""

    idle: ClassVar[list[Fiber]] = []

    def __init__(self) -> None:
        self.lock = _thread.allocate_lock()
        self.lock.acquire()
        self.world: World
        self.process: Process
        self.job: Callable[[], None]
        self.ready: Callable[[], bool] | None = None
        self.until = 0.0

    @classmethod
    def of(cls, world: World, process: Process, job: Callable[[], None]) -> Fiber:
        """Return a fiber that will run a job when its turn comes."""
        fresh = not cls.idle
        fiber = cls() if fresh else cls.idle.pop()
        fiber.world, fiber.process, fiber.job, fiber.ready = world, process, job, None
        if fresh:
            threading.Thread(target=fiber._loop, name="fiber", daemon=True).start()
        return fiber

    def _loop(self) -> None:
        while True:
            self.lock.acquire()
            world = self.world
            try:
                if not self.process.dead:
                    self.job()
            except Killed:
                pass
            except BaseException as error:
                world.fail(error)
            world.fibers.remove(self)
            self.process.fibers.remove(self)
            self.idle.append(self)
            world.hand_over(world.next_fiber())


class SimFuture:
    """The outcome of a background call. What waits for it lets others go."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._over = False
        self._value: Any = None
        self._error: BaseException | None = None

    def settle(self, call: Callable[[], Any]) -> None:
        """Run the call and keep what came of it."""
        try:
            self._value = call()
        except Killed:
            raise
        except BaseException as error:
            self._error = error
        self._over = True

    def done(self) -> bool:
        """Return whether it is over."""
        return self._over

    def result(self, timeout: float) -> Any:
        """Wait for the outcome."""
        if not self._over and not self._process.wait(lambda: self._over, timeout, "commit"):
            raise TimeoutError
        if self._error is not None:
            raise self._error
        return self._value


class SimBackground:
    """Stands for the runtime's commit thread: one call at a time."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._calls: deque[tuple[SimFuture, Callable[[], Any]]] = deque()
        self._busy = False

    def submit(self, call: Callable[[], Any]) -> Future[Any]:
        """Run a call beside the caller."""
        future = SimFuture(self._process)
        self._calls.append((future, call))
        if not self._busy:
            self._busy = True
            self._process.spawn(self._run)
        return future  # type: ignore[return-value]

    def _run(self) -> None:
        while self._calls:
            future, call = self._calls.popleft()
            future.settle(call)
        self._busy = False

    def close(self) -> None:
        """Nothing to end."""


class Process:
    """One life of one worker: a real Runtime on a real Session on simulated clients. Also the `Host` its clients live in."""

    def __init__(self, world: World, worker: str, life: int) -> None:
        self.world, self.worker = world, worker
        self.name = f"{worker}.{life}"
        self.chance = world.chance
        self.silent_since: float | None = None
        self.dead = self.paused = self.ended = False
        self.fibers: list[Fiber] = []
        self.producers: list[SimProducer] = []
        self.runtime: Runtime | None = None
        self.spawn(self._live)

    def spawn(self, job: Callable[[], None]) -> None:
        """Start a thread of this process."""
        fiber = Fiber.of(self.world, self, job)
        self.fibers.append(fiber)
        self.world.fibers.append(fiber)

    # -- Host

    def now(self) -> float:
        """Return the simulated time."""
        return self.world.now

    def step(self, what: str) -> None:
        """Let others go first."""
        if self.dead:
            raise Killed
        world = self.world
        if what != "poll":
            world.trace.append((world.steps, self.name, what))
        world.switch()
        if self.dead:
            raise Killed

    def wait(self, ready: Callable[[], bool], timeout_s: float, what: str) -> bool:
        """Let others go until something is so or the time is over."""
        fiber = self.world.running
        fiber.ready, fiber.until = ready, self.world.now + timeout_s
        try:
            self.step(f"wait: {what}")
        finally:
            fiber.ready = None
        return ready()

    # -- the process

    def _live(self) -> None:
        world = self.world
        outside = Outside(
            lambda config, on_revoke, stopping: world.plant.session(config, on_revoke, stopping, self._clients()),
            lambda: SimBackground(self),
            world.monotonic,
            self.engine,
        )
        self.runtime = world.plant.runtime(world.flow, world.config(self.worker), world.clock_ns, self._fault, outside)
        code = self.runtime.run()
        if self.dead:
            raise Killed
        self.ended = True
        if self.silent_since is None:
            self.silent_since = world.now
        world.ended(self, code, self.runtime._failure)
        self.dead = True  # a commit that still runs in its thread ends with the process
        world.unwinding += [fiber for fiber in self.fibers if fiber is not world.running]

    def _fault(self, point: str) -> None:
        self.step(point)

    def _clients(self) -> Clients:
        world = self.world

        def producer(settings: dict[str, Any]) -> SimProducer:
            made = SimProducer(world.broker, self, settings)
            self.producers.append(made)
            return made

        return Clients(
            lambda settings: SimConsumer(world.broker, self, settings),
            producer,
            lambda settings: SimAdmin(world.broker, self, settings),
            world.monotonic,
            self._sleep,
        )

    def _sleep(self, seconds: float) -> None:
        self.wait(lambda: False, seconds, "sleep")

    def engine(self, runtime: Runtime) -> None:
        """Do what Bytewax does: source, lanes, sink, again and again."""
        while True:
            try:
                items = runtime.source_step()
            except StopIteration:
                return
            if items:
                by_key: dict[str, list[Any]] = {}
                for key, work in items:
                    by_key.setdefault(key, []).append(work)
                outs = []
                for key in sorted(by_key):
                    outs += runtime.lane_step(by_key[key])
                if outs:
                    runtime.sink_step(outs)

    def is_member(self) -> bool:
        """Return whether the group would take this process's offsets."""
        assert self.runtime is not None
        member = self.runtime._session._group_metadata
        try:
            self.world.broker.group.check(member)
        except Refused:
            return False
        return member is not None

    def kill(self) -> None:
        """End at once, as SIGKILL does; what was sent may still arrive."""
        self.dead = True
        if self.silent_since is None:
            self.silent_since = self.world.now
        if self.chance.random() < 0.3:
            for producer in self.producers:
                producer.deliver()
        self.world.unwinding += self.fibers

    def pause(self) -> None:
        """Stop, as SIGSTOP does."""
        self.paused = True
        if self.silent_since is None:
            self.silent_since = self.world.now

    def resume(self) -> None:
        """Go on, as if nothing had happened."""
        self.paused = False
        if not self.ended:
            self.silent_since = None


# ---- the judge ------------------------------------------------------------------------------------------------------------------


@dataclass
class Note:
    """What a lane did between two captures, and the bytes it wrote."""

    lane: int
    values: list[bytes]
    work: list[tuple[Chunk | None, int]]
    """(chunk, time), (None, time) for a tick, (None, AGAIN) for the first tick after a restore."""


AGAIN = -1


class Watched:
    """A lane logic that notes what is done to it, so that the judge can do the same to the calm lane (operators.lane.LaneLogic)."""

    def __init__(self, world: World, lane: int, inner: LaneLogic) -> None:
        self.world, self.lane, self.inner = world, lane, inner
        self.work: list[tuple[Chunk | None, int]] = []
        self.fresh = False
        self.counters, self.dirty, self.positions = inner.counters, inner.dirty, inner.positions
        self.committed, self.obsolete_before = inner.committed, inner.obsolete_before

    def process(self, chunk: Chunk, now_ns: int) -> list[Records]:
        """Fold a chunk."""
        self.work.append((chunk, now_ns))
        return self.inner.process(chunk, now_ns)

    def tick(self, now_ns: int) -> list[Records]:
        """Let clocks act."""
        out = self.inner.tick(now_ns)
        if self.work or self.inner.dirty():
            self.work += [(None, AGAIN), (None, now_ns)] if self.fresh else [(None, now_ns)]
        self.fresh = False
        return out

    def capture(self) -> Capture:
        """Capture, and remember what for."""
        capture = self.inner.capture()
        if capture.values:
            note = Note(self.lane, capture.values, self.work)
            self.work = []
            self.world.judge.notes[id(capture.values[0])] = note
        return capture

    def restore(self, records: Iterable[tuple[int, bytes]]) -> None:
        """Restore; the state must be the calm lane's, unless the lane went to somebody else meanwhile."""
        process = self.world.running.process
        self.inner.restore(records)
        self.fresh = True
        if process.is_member():
            self.world.judge.same_state(self.lane, self.inner, f"{process.name} restored lane {self.lane}")


class Judge:
    """Looks at every committed transaction: nothing lost, nothing repeated, nothing that the calm lanes would not have done."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.calm: list[LaneLogic] = [world.kit.logic(lane) for lane in range(world.kit.n_lanes)]
        self.at: dict[Place, int] = {}
        self.ends: dict[tuple[str, Place], int] = {}
        self.notes: dict[int, Note] = {}
        self.commits = 0
        self.inputs = 0

    def decided(self, txn: Txn) -> None:
        """Take a transaction at the moment its outcome is decided."""
        if txn.state != COMMITTED or txn.client == "outside":
            return
        try:
            self._committed(txn)
        except Violation as violation:
            self.world.fail(violation)

    def _committed(self, txn: Txn) -> None:
        world = self.world
        self.commits += 1
        values: dict[int, list[bytes]] = {}
        published: Counter[tuple[str, int, bytes, bytes]] = Counter()
        for place, first in txn.first.items():
            if first < self.ends.get((txn.client, place), 0):
                raise Violation(f"{txn.client} wrote to {place} at {first}, before the end of its own transaction before")
        for topic, number, at, key, value in txn.records:
            self.ends[txn.client, (topic, number)] = at
            if topic == world.flow.changelog:
                values.setdefault(number, []).append(value)
            else:
                published[topic, number, key, value] += 1
        expected: Counter[tuple[str, int, bytes, bytes]] = Counter()
        moved: dict[Place, int] = {}
        for lane in sorted(values):
            self._follow(txn, lane, values[lane], expected, moved)
        if published != expected:
            extra, missing = published - expected, expected - published
            raise Violation(
                f"{txn.client} published {extra.total()} records its state changes do not account for, and {missing.total()} too few; "
                f"e.g. {list((extra or missing).items())[:2]}"
            )
        for (topic, lane), (offset, metadata, _) in txn.offsets.items():
            stands = self.at.get((topic, lane))
            if metadata == START_MARK:
                if stands is not None:
                    raise Violation(f"{txn.client} set {topic}[{lane}] back to its beginning ({offset}), the state stands at {stands}")
            elif stands != offset:
                raise Violation(f"{txn.client} committed offset {offset} of {topic}[{lane}], the state stands at {stands}")
        for place, offset in moved.items():
            if place not in txn.offsets:
                raise Violation(f"{txn.client} moved the state to {offset} of {place} without the group's offset")

    def _follow(self, txn: Txn, lane: int, values: list[bytes], expected: Counter[Any], moved: dict[Place, int]) -> None:
        """Do to the calm lane what was done to the committed one."""
        world = self.world
        note = self.notes.pop(id(values[0]), None)
        if note is None or note.lane != lane or note.values != values:
            raise Violation(f"{txn.client} wrote {len(values)} changelog values to lane {lane} that are no whole capture, or one twice")
        calm = self.calm[lane]
        for chunk, now_ns in note.work:
            if chunk is None and now_ns == AGAIN:
                world.kit.again(calm)
                continue
            if chunk is None:
                out = calm.tick(now_ns)
            else:
                place = (chunk.topic, lane)
                offsets = chunk.offsets.tolist()
                start = self.at.get(place, 0)
                due = [offset for offset, _ in world.broker.logs[place].committed(start, offsets[-1] + 1)]
                if due != offsets:
                    raise Violation(
                        f"{txn.client} folded {offsets} of {chunk.topic}[{lane}], where {due} were to follow {start}: "
                        + ("repeated" if offsets[0] < start else "lost")
                    )
                self.inputs += len(offsets)
                moved[place] = self.at[place] = offsets[-1] + 1
                out = calm.process(chunk, now_ns)
            for records in out:
                keys = split(records.keys, records.key_bounds)
                for key, value in zip(keys, split(records.data, records.bounds), strict=True):
                    to = world.kit.partition(records.topic, key) if records.partition is None else records.partition
                    expected[records.topic, to, key, value] += 1
        counters = calm.counters()
        if counters["balance_mismatch"]:
            raise Violation(f"lane {lane} is out of balance: {counters}")
        for table in world.kit.changelog(calm).tables:
            if table.dirty:
                table.take_changes()

    def same_state(self, lane: int, logic: Any, what: str) -> None:
        """Compare a restored state with the calm lane's."""
        mine, theirs = self.world.kit.state(logic), self.world.kit.state(self.calm[lane])
        if mine != theirs:
            self.world.fail(Violation(f"{what}: the state is not the uninterrupted lane's\n{_difference(mine, theirs)}"))

    def restorable(self, lane: int, what: str) -> None:
        """Restore a lane from what its changelog holds at this moment."""
        world = self.world
        log = world.broker.logs[world.flow.changelog, lane]
        logic = world.kit.logic(lane)
        try:
            logic.restore((offset, entry.value) for offset, entry in log.committed(log.start, len(log.entries)))
        except Exception as error:
            raise Violation(f"{what}: lane {lane} cannot be restored from offset {log.start}: {error!r}") from error
        self.same_state(lane, logic, f"{what}: lane {lane} restored from offset {log.start}")

    def consumed(self) -> bool:
        """Return whether nothing visible is left unread, nothing is open, and the group's offsets are settled."""
        broker = self.world.broker
        if broker.deciding or any(broker.pending.values()) or any(log.open for log in broker.logs.values()):
            return False
        for topic in self.world.flow.inputs:
            for lane in range(self.world.kit.n_lanes):
                log = broker.logs[topic, lane]
                if next(log.committed(self.at.get((topic, lane), 0), len(log.entries)), None) is not None:
                    return False
        return True


def _difference(mine: Any, theirs: Any) -> str:
    """Return the innermost pair of lists that differ, without what they share."""
    if isinstance(mine, list | tuple) and isinstance(theirs, list | tuple):
        if len(mine) == len(theirs):
            odd = [(one, other) for one, other in zip(mine, theirs, strict=True) if one != other]
            if len(odd) == 1 and isinstance(odd[0][0], list | tuple):
                return _difference(*odd[0])
            return f"  restored {[one for one, _ in odd]}\n  calm     {[other for _, other in odd]}"
        return f"  restored {[one for one in mine if one not in theirs]}\n  calm     {[one for one in theirs if one not in mine]}"
    return f"  restored {mine}\n  calm     {theirs}"


# ---- the world ------------------------------------------------------------------------------------------------------------------


class World:
    """One episode: a broker, workers that come and go, and the scheduler whose every choice comes from the seed."""

    def __init__(self, seed: int, logic: str, plant: Plant, steps: int) -> None:
        self.seed, self.plant, self.limit = seed, plant, steps
        self.chance = Random(f"{seed} {logic}")
        self.kit: Kit = KITS[logic](self.chance)
        self.flow = self._watched()
        n = self.kit.n_lanes
        topics = dict.fromkeys((*self.flow.inputs, *self.flow.outputs, self.flow.changelog), n)
        self.broker = Broker(topics, Group(n, 0.2), self._decided, self.kit.partition)
        self.now = self.broker.now = 0.0
        self.steps = 0
        self.digest = 0
        self.calm = False
        self.counts: Counter[str] = Counter()
        self.trace: deque[tuple[int, str, str]] = deque(maxlen=60)
        self.fibers: list[Fiber] = []
        self.unwinding: list[Fiber] = []
        self.processes: list[Process] = []
        self.failure: BaseException | None = None
        self.over = False
        self.lives: Counter[str] = Counter()
        self.due: dict[str, float] = dict.fromkeys(WORKERS[: 2 + (self.chance.random() < 0.5)], 0.0)
        # episodes differ in how fast time passes, how often something unkind happens, and how little a lane may hold
        self.pace = (0.0008, 0.002, 0.003)[int(self.chance.random() * 3)]
        self.unkind = (0.25, 0.5, 1.0)[int(self.chance.random() * 3)]
        self.small = self.chance.random() < 0.2
        self.quiet_until = 0.0
        self.main = Fiber()
        self.main.world = self
        self.running = self.main
        self.judge = Judge(self)

    def _watched(self) -> Any:
        kit = self.kit
        return replace(kit.flow, make_logic=lambda lane, n, _: Watched(self, lane, self.plant.logic(kit, kit.logic(lane))))

    def config(self, worker: str) -> SessionConfig:
        """Return settings under which everything happens often."""
        return SessionConfig(
            bootstrap="memory",
            group_id="g",
            worker=worker,
            inputs=self.flow.inputs,
            outputs=self.flow.outputs,
            changelog=self.flow.changelog,
            commit_interval_ms=10,
            idle_tick_ms=25,
            session_timeout_ms=200,
            transaction_timeout_ms=400,
            truncate_interval_ms=40,
            lane_pause_bytes=150 if self.small else 1 << 24,
        )

    def clock_ns(self) -> int:
        """Return the wall clock."""
        return EPOCH_NS + int(self.now * 1e9)

    def monotonic(self) -> float:
        """Return the monotonic clock."""
        return self.now

    def _decided(self, txn: Txn) -> None:
        self.judge.decided(txn)

    def fail(self, error: BaseException) -> None:
        """End the episode with an error; the first one counts."""
        if self.failure is None:
            self.failure = error

    # -- turns

    def run(self) -> None:
        """Run the episode. Raises Violation, or whatever else went wrong."""
        self.hand_over_and_wait(self.next_fiber())
        try:
            if self.failure is not None:
                raise self.failure
            for lane in range(self.kit.n_lanes):
                self.judge.restorable(lane, "at the end")
            if self.failure is not None:
                raise self.failure
            wrong = self.kit.verdict(self.broker)
            if wrong:
                raise Violation(f"at the end: {wrong}")
        finally:
            self._end()

    def _end(self) -> None:
        """Unwind every fiber that is left."""
        for process in self.processes:
            process.dead = True
        while self.fibers:
            self.unwinding = list(self.fibers)
            self.over = True
            self.hand_over_and_wait(self.next_fiber())

    def hand_over(self, fiber: Fiber) -> None:
        """Give a fiber the turn."""
        self.running = fiber
        fiber.lock.release()

    def hand_over_and_wait(self, fiber: Fiber) -> None:
        """Give a fiber the turn and wait until the main thread has it again."""
        if fiber is not self.main:
            self.hand_over(fiber)
            self.main.lock.acquire()
        self.running = self.main

    def switch(self) -> None:
        """Let the scheduler choose who goes on; returns when it is the caller's turn again."""
        me = self.running
        chosen = self.next_fiber()
        if chosen is not me:
            self.hand_over(chosen)
            me.lock.acquire()
            self.running = me

    def next_fiber(self) -> Fiber:
        """Let things happen until it is a fiber's turn, and return it; the main thread's when the episode is over."""
        while True:
            if self.unwinding:
                return self.unwinding.pop()
            if self.failure is not None or self.over:
                return self.main
            try:
                fiber = self._choose()
            except BaseException as error:
                self.fail(error)
                continue
            if fiber is not None:
                return fiber

    def _choose(self) -> Fiber | None:
        self.steps += 1
        random = self.chance.random
        luck = random()
        self.now += luck * self.pace
        self.broker.now = self.now
        fibers = self.fibers
        if luck < 0.72 and fibers:
            count = len(fibers)
            at = int(random() * count)
            for n in range(count):
                fiber = fibers[(at + n) % count]
                if not fiber.process.paused and (fiber.ready is None or self.now >= fiber.until or fiber.ready()):
                    self.digest = (self.digest * 31 + self.steps + at + n) & 0xFFFFFFFFFFFF
                    return fiber
            self.now += 0.002
        self._happen(random())
        return None

    # -- what happens by itself

    def _happen(self, luck: float) -> None:
        broker, chance = self.broker, self.chance
        if self.steps >= self.limit and not self.calm and self.kit.fed():
            self._calm_down()
        if self.calm and self.steps % 16 == 0 and self.judge.consumed():
            self.over = True
            return
        if self.steps > self.limit + DRAIN + (0 if self.kit.fed() else DRAIN):
            raise Violation(f"not everything was consumed {DRAIN} steps after it had become calm: {self.judge.at}")
        if luck < 0.42:
            if broker.deciding and not broker.away():
                broker.mark(chance)
        elif luck < 0.6:
            process = self._some(self.processes)
            if process is not None and not process.dead and process.producers and not process.paused:
                process.producers[int(chance.random() * len(process.producers))].deliver()
        elif luck < 0.75:
            if not self.calm and self.now >= self.quiet_until:
                self.kit.feed(broker, chance)
                if chance.random() < 0.02:
                    self.quiet_until = self.now + chance.random() * 0.4  # only clocks act, then
        elif luck < 0.85:
            if not broker.away():
                broker.expire()
            self._start_due()
            if broker.away_until > self.now + 1:
                self.now += chance.random() * 4  # a long absence is made short for the reader
        elif luck < 0.88:
            if broker.deletions:
                topic, lane = broker.delete_some(chance)
                self.counts["truncations"] += 1
                self.trace.append((self.steps, "broker", f"{topic}[{lane}] now begins at {broker.logs[topic, lane].start}"))
                self.judge.restorable(lane, "after a truncation")
        elif luck < 0.89:
            self.now += chance.random() * 0.05
        elif luck < 0.893:
            self.judge.restorable(int(chance.random() * self.kit.n_lanes), "by chance")
        elif luck < 0.94 and not self.calm and chance.random() < self.unkind:
            self._fault(chance.random())

    def _some(self, processes: Sequence[Process]) -> Process | None:
        return processes[int(self.chance.random() * len(processes))] if processes else None

    def _start_due(self) -> None:
        for worker, when in list(self.due.items()):
            if self.now >= when:
                del self.due[worker]
                self._start(worker)

    def _start(self, worker: str) -> None:
        self.lives[worker] += 1
        process = Process(self, worker, self.lives[worker])
        self.processes.append(process)
        self._tell(process, "starts")

    def _tell(self, process: Process, what: str) -> None:
        self.counts[what] += 1
        self.trace.append((self.steps, process.name, what.upper()))

    def _fault(self, luck: float) -> None:
        """Do something unkind."""
        chance, broker = self.chance, self.broker
        process = self._some([p for p in self.processes if not p.dead])
        if process is None:
            return
        if luck < 0.25:
            self._kill(process)
        elif luck < 0.5:
            if process.paused:
                process.resume()
                self._tell(process, "goes on")
            else:
                process.pause()
                self._tell(process, "stands still")
                if chance.random() < 0.4:
                    # somebody else starts under the same name, or the supervisor takes it for dead
                    self.due.setdefault(process.worker, self.now + chance.random() * 0.3)
        elif luck < 0.62:
            for other in self.processes:
                if other.paused and not other.dead:
                    other.resume()
                    self._tell(other, "goes on")
        elif luck < 0.7:
            if process.runtime is not None:
                process.runtime.stop()
                self._tell(process, "is asked to stop")
        elif luck < 0.78:
            self.due.setdefault(WORKERS[int(chance.random() * len(WORKERS))], self.now) if self._few() else None
        elif luck < 0.86:
            # short, or longer than any call waits
            broker.away_until = self.now + (0.02 + chance.random() * 0.2 if chance.random() < 0.85 else 17 + chance.random() * 5)
            self.counts["broker away"] += 1
            self.trace.append((self.steps, "broker", f"AWAY until {broker.away_until:.3f}, now {self.now:.3f}"))
        elif luck < 0.92:
            if process.producers and process.producers[-1].lose_some():
                self._tell(process, "cannot deliver")
        else:
            self.now += chance.random() * 0.5

    def _few(self) -> bool:
        return sum(not p.dead for p in self.processes) < len(WORKERS) + 1

    def _kill(self, process: Process) -> None:
        self._tell(process, "is killed")
        process.paused = False
        process.kill()
        self.processes.remove(process)
        if not any(p.worker == process.worker for p in self.processes):
            self.due.setdefault(process.worker, self.now + (self.chance.random() * 0.05 if self.chance.random() < 0.6 else 0.5))

    def ended(self, process: Process, code: int, failure: BaseException | None) -> None:
        """Learn that a worker ended by itself, and judge its reason."""
        self._tell(process, f"ends: {type(failure).__name__}" if failure else "ends")
        self.processes.remove(process)
        if not any(p.worker == process.worker for p in self.processes):
            self.due.setdefault(process.worker, self.now + self.chance.random() * 0.1)
        if failure is None or isinstance(failure, Fenced | Aborted | Interrupted):
            return
        if type(failure) is SessionError and any(told in str(failure) for told in PASSING):
            return
        told = "".join(traceback.format_exception(failure)[-6:])
        raise Violation(f"{process.name} ended with exit code {code}: {failure!r}\n{told}")

    def _calm_down(self) -> None:
        """From now on nothing unkind happens."""
        self.calm = True
        self.broker.away_until = 0.0
        for process in self.processes:
            process.resume()
        for worker in WORKERS[:2]:
            if not any(p.worker == worker for p in self.processes):
                self.due.setdefault(worker, self.now)
        self.trace.append((self.steps, "world", "CALM"))


# ---- planted bugs ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plant:
    """A bug put into the simulated workers, and nowhere else."""

    what: str
    session: Any = Session
    runtime: Any = Runtime
    logic: Callable[[Kit, Any], Any] = lambda kit, logic: logic


def _broker(session: Session) -> Broker:
    consumer: Any = session._consumer
    found: Broker = consumer.broker
    return found


class _Sent(Session):
    """Remembers what it published in the open transaction, and in the one handed over for its commit."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.sent: list[Records] = []
        self.closed: list[Records] = []

    def produce(self, records: Records) -> None:
        self.sent.append(records)
        super().produce(records)

    def hand_over(self) -> None:
        super().hand_over()
        self.closed, self.sent = self.sent, []


class _OffsetsFirst(Session):
    def commit(self, deltas: Sequence[Delta], fault: Callable[[str], None]) -> dict[int, int]:
        broker = _broker(self)
        for delta in deltas:
            for topic, offset in delta.moved.items():
                broker.written += 1
                broker.offsets[topic, delta.lane] = (offset, "", broker.written)
        fault("offsets are committed, alone")
        return super().commit(deltas, fault)


class _DeltaLost(_Sent):
    def commit(self, deltas: Sequence[Delta], fault: Callable[[str], None]) -> dict[int, int]:
        try:
            return super().commit(deltas, fault)
        except Aborted:
            for records in self.closed:
                self._put(self._need(self._closing), records)
            super().commit([Delta(delta.lane, [], delta.moved) for delta in deltas], fault)
            return {delta.lane: 0 for delta in deltas}


class _LateFlush(Runtime):
    def _revoked(self, lost: bool) -> None:
        session = self._session
        abort = session.abort
        session.abort = lambda: None  # type: ignore[method-assign]
        try:
            super()._revoked(lost)
        finally:
            session.abort = abort  # type: ignore[method-assign]


class _FenceIgnored(Session):
    def commit(self, deltas: Sequence[Delta], fault: Callable[[str], None]) -> dict[int, int]:
        self._group_metadata = NOBODY
        return super().commit(deltas, fault)


class _CommitAgain(_Sent):
    def commit(self, deltas: Sequence[Delta], fault: Callable[[str], None]) -> dict[int, int]:
        self._again = lambda: Session.commit(self, deltas, fault)
        return super().commit(deltas, fault)

    def _transactional(self, sender: Any, call: Any, deadline: float, what: str, abortable: bool = True) -> Any:
        if what != "commit_transaction":
            return super()._transactional(sender, call, deadline, what, abortable)
        try:
            return call(0.2)
        except KafkaException as error:
            if not error.args[0].retriable():
                return super()._transactional(sender, call, deadline, what, abortable)
        super()._transactional(sender, sender.client.init_transactions, deadline + 60, "init_transactions")
        sender.client._committing = sender.open = False
        for records in self.closed:
            self._put(sender, records)
        self._again()
        return None


class _NoWait(Session):
    def wait_settled(self, lanes: Sequence[int]) -> dict[int, tuple[int, int]]:
        logs = _broker(self).logs
        return {lane: (logs[self.config.changelog, lane].start, logs[self.config.changelog, lane].stable()) for lane in lanes}


class _NoMark(Session):
    def commit(self, deltas: Sequence[Delta], fault: Callable[[str], None]) -> dict[int, int]:
        if any(delta.moved for delta in deltas):
            return super().commit(deltas, fault)
        sender = self._need(self._closing)
        self._begin(sender)
        self._first_offsets = {}
        for delta in deltas:
            for index, value in enumerate(delta.values):
                self._put_changelog(sender, delta.lane, value, report=index == 0)
        self._transactional(sender, sender.client.commit_transaction, self._monotonic() + 1, "commit_transaction")
        sender.open, self.flushed = False, True
        return self._first_offsets


class _Overtakes(Session):
    flushed = property(lambda self: True, lambda self, value: None)  # type: ignore[assignment]


class _Uncommitted(Session):
    def read_changelog(self, lane: int, first: int, end: int) -> Iterator[tuple[int, bytes]]:
        entries = _broker(self).logs[self.config.changelog, lane].entries
        return ((at, entries[at].value) for at in range(first, end) if not entries[at].marker)


class _FirstLook(Runtime):
    def _check_positions(self, lane: int, positions: dict[str, int], committed: dict[Place, int]) -> None:
        for topic in self.flow.inputs:
            if committed.get((topic, lane), positions.get(topic)) != positions.get(topic):
                raise OffsetsDisagree(f"lane {lane}: the state ends at {positions}, the group has committed {committed}")


def _truncated_early(kit: Kit, logic: Any) -> Any:
    learn = logic.committed
    newest: list[int] = []

    def committed(seq: int, offset: int) -> None:
        newest[:] = [offset]
        learn(seq, offset)

    logic.committed = committed
    logic.obsolete_before = lambda: newest[0] if newest else None
    return logic


def _tombstones_dropped(kit: Kit, logic: Any) -> Any:
    for table in kit.changelog(logic).tables:

        def take(whole: Any = table.take_changes) -> Any:
            numbers, rows = whole()
            live = rows["live"] == 1
            return numbers[live], rows[live]

        table.take_changes = take  # type: ignore[method-assign]
    return logic


PLANTS = {
    "none": Plant("nothing is wrong"),
    "offsets_first": Plant("input offsets are committed before the state delta's transaction", _OffsetsFirst),
    "delta_lost": Plant("after an abort the process goes on and commits without the delta", _DeltaLost),
    "truncated_early": Plant("the changelog is truncated at the newest capture", logic=_truncated_early),
    "tombstone_dropped": Plant("deleted rows are missing from the delta", logic=_tombstones_dropped),
    "fence_ignored": Plant("offsets are sent without the group's generation, so that a zombie goes on", _FenceIgnored),
    "late_flush": Plant("what was open of revoked lanes stays open and is committed with the next tick", runtime=_LateFlush),
    "commit_again": Plant("a commit of unknown outcome is done once more", _CommitAgain),
    "restore_without_wait": Plant("a new owner reads the changelog while a transaction is open on it", _NoWait),
    "clock_unfenced": Plant("a commit without new offsets does not ask the group coordinator", _NoMark),
    "overtaken": Plant("records of the next transaction are sent before the last of this one are in their topics", _Overtakes),
    "restore_uncommitted": Plant("a restore reads aborted deltas as well", _Uncommitted),
    "taken_for_broken": Plant("a lane that went to another worker while it was being restored is taken for broken", runtime=_FirstLook),
}


# ---- running --------------------------------------------------------------------------------------------------------------------


@dataclass
class Result:
    """What a run of episodes came to."""

    episodes: int = 0
    steps: int = 0
    commits: int = 0
    inputs: int = 0
    seconds: float = 0.0
    digest: int = 0
    seed: int | None = None
    """The seed of the episode that failed."""
    step: int = 0
    problem: str = ""
    trace: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep on one core (handing turns between cores costs five times as much), and keep what dying workers say to themselves."""
    logger = logging.getLogger("hedgerow")
    level, cores = logger.level, os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    logger.setLevel(logging.CRITICAL + 1)
    if cores:
        os.sched_setaffinity(0, {sorted(cores)[os.getpid() % len(cores)]})
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
        if cores:
            os.sched_setaffinity(0, cores)


def episode(seed: int, result: Result, logic: str = "toy", plant: str = "none", steps: int | None = None) -> bool:
    """Run one episode and add to the result; return whether all was well."""
    began = time.perf_counter()
    world = World(seed, logic, PLANTS[plant], steps or STEPS[logic])
    try:
        with quiet():
            world.run()
    except Exception as error:
        result.seed, result.step = seed, world.steps
        result.problem = str(error) if isinstance(error, Violation) else "".join(traceback.format_exception(error))
        result.trace = [f"{step:>8}  {who:<8} {what}" for step, who, what in world.trace]
    result.episodes += 1
    result.steps += world.steps
    result.commits += world.judge.commits
    result.inputs += world.judge.inputs
    result.counts.update(world.counts)
    result.digest = (result.digest * 1_000_003 + world.digest) & 0xFFFFFFFFFFFFFFFF
    result.seconds += time.perf_counter() - began
    return result.seed is None


def simulate(seeds: Iterable[int], logic: str = "toy", plant: str = "none", seconds: float = 1e9, steps: int | None = None) -> Result:
    """Run episodes until one fails, the seeds are used up or the time is over."""
    result = Result()
    for seed in seeds:
        if not episode(seed, result, logic, plant, steps) or result.seconds >= seconds:
            break
    return result


def kept_seeds() -> list[dict[str, Any]]:
    """Return the regression list: `{seed, logic, why}`."""
    return list(tomllib.loads(SEEDS.read_text(encoding="utf-8")).get("seed", []))


def _count(first: int) -> Iterator[int]:
    while True:
        yield first
        first += 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run episodes for a while; the exit code is 1 when one failed."""
    parser = argparse.ArgumentParser(prog="python -m bench.simulation", description="Deterministic simulation of the commit protocol.")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long to go on")
    parser.add_argument("--seed", type=int, default=None, help="the first episode's seed; the next ones count up (default: random)")
    parser.add_argument("--episodes", type=int, default=None, help="end after so many episodes")
    parser.add_argument("--logic", choices=sorted(KITS), default="toy")
    parser.add_argument(
        "--plant", choices=sorted(PLANTS), default="none", metavar="BUG", help="put a known bug into the workers: see --list"
    )
    parser.add_argument("--list", action="store_true", help="list the bugs that can be planted")
    options = parser.parse_args(arguments)
    if options.list:
        for name, plant in PLANTS.items():
            print(f"{name:22} {plant.what}")
        return 0
    seed = options.seed if options.seed is not None else Random().randrange(10**9)
    print(f"seed {seed}, logic {options.logic}, plant {options.plant}", flush=True)
    seeds = _count(seed) if options.episodes is None else range(seed, seed + options.episodes)
    result = simulate(seeds, options.logic, options.plant, options.seconds)
    per_minute = result.steps / max(result.seconds, 1e-9) * 60
    if result.seed is not None:
        print(
            f"VIOLATION  seed {result.seed}  step {result.step}  ({result.episodes} episodes, {result.steps:,} steps, {result.seconds:.1f} s)"
        )
        print(result.problem)
        print("\n".join(["last steps:", *result.trace]))
        planted = f" --plant {options.plant}" if options.plant != "none" else ""
        print(f"repeat: python -m bench.simulation --episodes 1 --seed {result.seed} --logic {options.logic}{planted}")
    else:
        print(f"{result.episodes:,} episodes, {result.steps:,} steps, {result.commits:,} commits, {result.inputs:,} inputs: all well")
        print(", ".join(f"{name} {n:,}" for name, n in sorted(result.counts.items())))
    print(f"{per_minute:,.0f} steps a minute")
    line = {
        "bench": "simulation", "seed": seed, "logic": options.logic, "plant": options.plant, "episodes": result.episodes,
        "steps": result.steps, "steps_per_minute": round(per_minute), "violation_seed": result.seed, "digest": f"{result.digest:016x}",
    }  # fmt: skip
    print(json.dumps(line))
    return 0 if result.seed is None else 1


if __name__ == "__main__":
    sys.exit(main())
