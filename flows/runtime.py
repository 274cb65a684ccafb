"""The lane runtime: one Bytewax worker that polls Kafka, folds chunks lane by lane, and commits outputs, state and offsets as one.

Knows no domain: a flow brings lane logics (operators.lane) and topic names. What it must hold is the design page, section 3: everything
a lane did between two commits becomes visible together or not at all, and nothing of a lane that was taken away is ever published.
"""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import queue
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, field
from datetime import timedelta
from types import FrameType
from typing import Any, Protocol, TypeAlias

import bytewax.operators as op
from bytewax.dataflow import Dataflow
from bytewax.inputs import DynamicSource, StatelessSourcePartition
from bytewax.operators import StatefulBatchLogic
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.run import cli_main

from connectors.kafka import (
    BroadcastReader,
    BrokerUnreachable,
    Delta,
    Fenced,
    Interrupted,
    OffsetsDisagree,
    Session,
    SessionConfig,
    SessionError,
    StartupError,
)
from flows.supervisor import EXIT_FAILED, EXIT_FENCED, EXIT_OK, EXIT_STARTUP, EXIT_STATE, EXIT_UNREACHABLE
from operators.lane import BroadcastLogic, LaneLogic
from schemas.chunk import Chunk, Records
from state.changelog import StateMismatch

log = logging.getLogger("hedgerow.runtime")

STEP_IDS = ("input", "lanes", "output")
"""The dataflow's step ids: a public contract in tools and metrics."""

_ENDLESS = timedelta(days=3650)
_REFRESH_S = 1.0
_KEEP_LATENCIES = 2_000
LATENCY_BUCKETS_MS = (2.0, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 640.0, 1_280.0, 5_120.0, 20_480.0)
CHUNK_BUCKETS = (1.0, 10.0, 100.0, 500.0, 1_000.0, 2_000.0, 5_000.0, 10_000.0)

Clock: TypeAlias = Callable[[], int]
Fault: TypeAlias = Callable[[str], None]


@dataclass(frozen=True)
class Flow:
    """What the runtime must know of a flow. `make_logic(lane, n_lanes, broadcast)` builds an empty lane.

    hold(chunks, broadcast): called with what one poll brought in; returns what says at a time (ns) whether the chunks should wait on for
    broadcast data they need. It is asked again and again while they wait; at most `tape_wait_ms` is granted, to all of them together.
    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    broadcast: tuple[str, ...]
    changelog: str
    make_logic: Callable[[int, int, BroadcastLogic | None], LaneLogic]
    make_broadcast: Callable[[], BroadcastLogic | None]
    hold: Callable[[Sequence[Chunk], BroadcastLogic], Callable[[int], bool]] | None = None
    broadcast_whole: tuple[str, ...] = ()
    """Broadcast topics that are read from their beginning, however far back market data is read."""


@dataclass(slots=True)
class _Work:
    """An item on its way to its lane: a chunk, or (chunk None) the barrier of a tick."""

    epoch: int
    lane: int
    chunk: Chunk | None


@dataclass(slots=True)
class _Out:
    """An item on its way to the sink: records, or (records None) the lane's part of the tick."""

    epoch: int
    lane: int
    records: Records | None
    delta: Delta | None = None
    seq: int = -1


@dataclass(slots=True)
class _Lane:
    """One lane this worker owns, from its restore to its revocation."""

    number: int
    logic: LaneLogic
    read: dict[str, int]
    """Next offset of each input topic, as handed to the logic."""
    durable: dict[str, int]
    """The same, as last committed."""
    open_bytes: int = 0
    """Bytes in and out since the last barrier."""
    flight_bytes: int = 0
    """Bytes in and out of the commit that is under way."""
    paused: bool = False


@dataclass(slots=True)
class _Histogram:
    """Counts per bucket (upper bounds, the last is infinity) and a sum."""

    bounds: tuple[float, ...]
    counts: list[int] = field(default_factory=list)
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def add(self, value: float) -> None:
        """Count one value."""
        index = 0
        while index < len(self.bounds) and value > self.bounds[index]:
            index += 1
        self.counts[index] += 1
        self.total += value


class Background(Protocol):
    """Runs calls one at a time beside the caller."""

    def submit(self, call: Callable[[], Any]) -> Future[Any]:
        """Run a call; its result or exception comes with the future."""
        ...

    def close(self) -> None:
        """End after the call that is under way."""
        ...


class _Background:
    """One daemon thread that runs one call at a time: a client call that never returns must not keep the process from ending."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="commit", daemon=True).start()

    def submit(self, call: Callable[[], Any]) -> Future[Any]:
        """Run a call; its result or exception comes with the future."""
        future: Future[Any] = Future()
        self._calls.put((future, call))
        return future

    def close(self) -> None:
        """End the thread after the call it is in."""
        self._calls.put(None)

    def _run(self) -> None:
        while (item := self._calls.get()) is not None:
            future, call = item
            try:
                future.set_result(call())
            except BaseException as error:
                future.set_exception(error)


def _no_fault(point: str) -> None:
    """Do nothing: where a fault test kills the process."""


def _on_bytewax(runtime: Runtime) -> None:
    cli_main(runtime._dataflow(), epoch_interval=_ENDLESS)


@contextlib.contextmanager
def ends_within(seconds: float) -> Iterator[None]:
    """End this process with EXIT_FAILED, the stacks of its threads on stderr, if what is done inside takes longer.

    A client can hang for good while it is closed, and keep Python's lock meanwhile (seen: a rebalance that comes while librdkafka 2.16 closes a
    consumer; confluent-kafka's `assign` does not release the lock). No thread of Python's notices that; faulthandler's needs no lock. What was
    committed stays so: the worker ends as if it had been killed, and the supervisor has something to start again.
    """
    faulthandler.dump_traceback_later(seconds, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


@dataclass(frozen=True)
class Outside:
    """What a worker stands on: Kafka, a thread, a clock, the engine that calls its three steps, who ends it when its own end takes too long. A
    simulation (bench/simulation.py) brings its own, and drives the same code."""

    session: Callable[[SessionConfig, Callable[[bool], None], Callable[[], bool]], Session] = Session
    background: Callable[[], Background] = _Background
    monotonic: Callable[[], float] = time.monotonic
    engine: Callable[[Runtime], None] = _on_bytewax
    last_resort: Callable[[float], contextlib.AbstractContextManager[object]] = contextlib.nullcontext


def run_flow(flow: Flow, config: SessionConfig, clock: Clock = time.time_ns, fault: Fault = _no_fault) -> int:
    """Run one worker of a flow, all there is in this process, until it is stopped by SIGTERM or SIGINT, or fails; return the exit code."""
    return Runtime(flow, config, clock, fault, Outside(last_resort=ends_within)).run()


class Runtime:
    """One worker of one flow. `run` returns its exit code; `stop` (any thread) ends it in good order; `snapshot` tells how it does.

    All work happens in the thread that calls `run`, except the waiting part of a commit, which overlaps with the next poll and fold.
    `fault(point)` is called at before_produce, before_send_offsets, before_commit, after_commit, during_restore and in_revoke.
    """

    def __init__(
        self,
        flow: Flow,
        config: SessionConfig,
        clock: Clock = time.time_ns,
        fault: Fault = _no_fault,
        outside: Outside = Outside(),
    ) -> None:
        self.flow = flow
        self.config = config
        self._clock = clock
        self._fault = fault
        self._monotonic = outside.monotonic
        self._engine = outside.engine
        self._last_resort = outside.last_resort
        self._session = outside.session(config, self._revoked, lambda: self._stop_asked)
        self._pool = outside.background()
        self._broadcast: BroadcastLogic | None = None
        self._reader: BroadcastReader | None = None
        self._lanes: dict[int, _Lane] = {}
        self._epoch = 0
        self._n_lanes = 0
        self._stop_asked = False
        self._last_barrier = False
        self._left = False
        self._failure: BaseException | None = None
        # the open tick
        self._barrier_out: set[int] = set()
        self._parts: list[_Out] = []
        self._took_in = False
        self._last_tick = self._monotonic()
        # the commit under way
        self._commit: Future[dict[int, int]] | None = None
        self._commit_parts: list[_Out] = []
        self._commit_began = 0.0
        # librdkafka's send_offsets_to_transaction may outlast its own timeout when the coordinator is away; so may the end of a worker
        self._patience_s = 2 * config.transaction_timeout_ms / 1000 + 30
        self._backlog: list[Records] = []
        # pace and figures
        self._record_bytes = 512.0
        self._last_truncate = self._monotonic()
        self._recount: Future[None] | None = None
        self._last_recount = self._monotonic()
        self._last_refresh = 0.0
        self._counts = dict.fromkeys(COUNTERS, 0)
        self._restore_s = 0.0
        self._broadcast_wait_s = 0.0
        self._commit_ms = _Histogram(LATENCY_BUCKETS_MS)
        self._chunk_records = _Histogram(CHUNK_BUCKETS)
        self._recent_ms: deque[float] = deque(maxlen=_KEEP_LATENCIES)
        self._lane_counters: dict[int, dict[str, int]] = {}
        self._lane_lag: dict[int, int] = {}
        self._broadcast_counters: dict[str, int] = {}

    # --- life ---

    def run(self) -> int:
        """Run until stopped or failed; return the exit code."""
        with self._signals():
            close_metrics: Callable[[], None] = lambda: None  # noqa: E731
            try:
                close_metrics = self._start()
                self._engine(self)
            except BaseException as error:
                self._fail(error)
            finally:
                with self._last_resort(self._patience_s):
                    code = self._finish()
                    close_metrics()
        return code

    def stop(self) -> None:
        """Ask for a stop in good order: what was read is committed, the group is left. Returns at once; may be called anywhere."""
        self._stop_asked = True

    def _start(self) -> Callable[[], None]:
        close_metrics: Callable[[], None] = lambda: None  # noqa: E731
        if self.config.metrics_port:
            from flows.metrics import serve_metrics  # a worker that serves none need not load prometheus_client

            close_metrics = serve_metrics(self.snapshot, self.config.metrics_port, self.config.metrics_host)
        try:
            self._n_lanes = self._session.check()
            self._session.fence_earlier_lives()
            self._broadcast = self.flow.make_broadcast()
            if self._broadcast is not None:
                # Before the group is joined: no lane may stand still while this worker reads market data.
                self._reader = self._session.broadcast_reader(self._clock())
                if self._reader is not None:
                    self._reader.catch_up(self._broadcast.apply, self._clock, self.config.restore_timeout_ms / 1000)
            self._session.open()
        except BaseException:
            close_metrics()
            raise
        return close_metrics

    def _dataflow(self) -> Dataflow:
        flow = Dataflow(self.flow.name.replace(".", "_"))
        items = op.input(STEP_IDS[0], flow, _Source(self))
        outs = op.stateful_batch(STEP_IDS[1], items, lambda resume: _LaneStep(self))
        op.output(STEP_IDS[2], outs, _Sink(self))
        return flow

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def on_signal(number: int, frame: FrameType | None) -> None:
            self._stop_asked = True

        before = {number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _fail(self, error: BaseException) -> None:
        """Keep the first failure; Bytewax ends at the next poll. Its own way, a Rust panic, would bury the traceback."""
        if self._failure is None:
            self._failure = error
            if not isinstance(error, Interrupted | StartupError | OffsetsDisagree | StateMismatch):  # their message says it all
                log.error("%s stops: %s", self.config.instance, type(error).__name__, exc_info=error)

    def _finish(self) -> int:
        if self._failure is not None:
            if self._commit is not None:
                with contextlib.suppress(Exception):
                    self._commit.result(self.config.transaction_timeout_ms / 1000)
            with contextlib.suppress(SessionError):
                self._session.abort()
        if self._recount is not None:  # a thread inside the client while the process ends can bring it down
            with contextlib.suppress(Exception):
                self._recount.result(3)
        self._pool.close()
        if self._reader is not None:
            self._reader.close()
        if isinstance(self._failure, Interrupted) and not self._left:
            # stopped while waiting or restoring: nothing is open, and others should not wait for the session timeout
            with contextlib.suppress(Exception):
                self._session.leave()
        self._session.close()
        code = _exit_code(self._failure)
        if code != EXIT_OK:
            advice = '; another start would not help: docs/operations.md, "When something is wrong"' if code == EXIT_STATE else ""
            print(f"hedgerow: {self.flow.name}: {self._failure}{advice}", file=sys.stderr, flush=True)
        return code

    # --- source ---

    def source_step(self) -> list[tuple[str, _Work]]:
        """Return the next items for the lanes: chunks, and a barrier per lane when a commit is due. Raises StopIteration at the end."""
        if self._failure is not None:
            raise StopIteration
        try:
            return self._next_items()
        except StopIteration:
            raise
        except BaseException as error:
            self._fail(error)
            raise StopIteration from None

    def _next_items(self) -> list[tuple[str, _Work]]:
        self._finish_commit(wait=False)
        self._release()
        if self._stop_asked:
            return self._stop_items()
        config = self.config
        now = self._monotonic()
        if self._commit is not None:
            timeout_s = min(config.poll_ms, 2) / 1000  # its end is noticed at the next poll only: look more often
        else:
            due = self._last_tick + (config.commit_interval_ms if self._took_in else config.idle_tick_ms) / 1000
            timeout_s = min(config.poll_ms / 1000, max(0.0, due - now))
        # a count limit that also bounds the bytes: the mean size of late is good enough, the fetch queues bound the rest
        limit = max(1, min(config.max_chunk_records, int(config.max_uncommitted_bytes / self._record_bytes)))
        chunks = self._session.poll(limit, timeout_s, self._clock, committing=self._commit is not None)
        self._poll_broadcast(0)  # after the poll: what was broadcast while it gathered belongs before its chunks
        lanes = self._session.offered()
        if lanes is not None:
            self._take_over(lanes)
            return []
        if chunks:
            self._hold(chunks)
        items = [(str(chunk.lane), self._take_in(chunk)) for chunk in chunks]
        items += self._barrier_if_due()
        self._housekeeping()
        return items

    def _take_in(self, chunk: Chunk) -> _Work:
        lane = self._lanes.get(chunk.lane)
        if lane is None:
            raise SessionError(f"records of {chunk.topic}[{chunk.lane}] came in, a lane this worker does not own")
        first, after = int(chunk.offsets[0]), int(chunk.offsets[-1]) + 1
        expected = lane.read.get(chunk.topic)
        if expected is not None and first < expected:
            raise SessionError(f"{chunk.topic}[{chunk.lane}] went back from offset {expected} to {first}")
        lane.read[chunk.topic] = after
        size = chunk.data.nbytes + chunk.keys.nbytes
        self._record_bytes += 0.1 * (max(64.0, size / len(chunk)) - self._record_bytes)
        self._count_bytes(lane, size)
        self._took_in = True
        counts = self._counts
        counts["records_in"] += len(chunk)
        counts["bytes_in"] += size
        counts["chunks"] += 1
        self._chunk_records.add(len(chunk))
        return _Work(self._epoch, chunk.lane, chunk)

    def _count_bytes(self, lane: _Lane, size: int) -> None:
        lane.open_bytes += size
        if not lane.paused and lane.open_bytes + lane.flight_bytes > self.config.lane_pause_bytes:
            lane.paused = True
            self._counts["pauses"] += 1
            self._session.pause(lane.number)

    def _hold(self, chunks: Sequence[Chunk]) -> None:
        """Let chunks wait for the broadcast data they need, all together, for `tape_wait_ms` at most."""
        hold, broadcast = self.flow.hold, self._broadcast
        if hold is None or broadcast is None or self._reader is None:
            return
        began = self._monotonic()
        should_wait = hold(chunks, broadcast)
        while (left := began + self.config.tape_wait_ms / 1000 - self._monotonic()) > 0 and should_wait(self._clock()):
            self._poll_broadcast(min(0.001, left))
        self._broadcast_wait_s += self._monotonic() - began

    def _poll_broadcast(self, timeout_s: float) -> None:
        if self._reader is not None and self._broadcast is not None:
            for chunk in self._reader.poll(self.config.max_chunk_records, timeout_s, self._clock):
                self._broadcast.apply(chunk)
                self._counts["broadcast_records"] += len(chunk)

    def _barrier_if_due(self, force: bool = False) -> list[tuple[str, _Work]]:
        """Return one barrier per lane if a commit is due and none is under way."""
        if not self._lanes or self._barrier_out or self._commit is not None:
            return []
        waited_ms = (self._monotonic() - self._last_tick) * 1000
        config = self.config
        due = (
            force
            or (self._took_in and waited_ms >= config.commit_interval_ms)
            or waited_ms >= config.idle_tick_ms
            or sum(lane.open_bytes for lane in self._lanes.values()) >= config.max_uncommitted_bytes
        )
        if not due:
            return []
        self._last_tick = self._monotonic()
        self._took_in = False
        self._barrier_out = set(self._lanes)
        self._parts = []
        return [(str(lane), _Work(self._epoch, lane, None)) for lane in self._lanes]

    def _stop_items(self) -> list[tuple[str, _Work]]:
        """Commit what was read, leave, end."""
        self._finish_commit(wait=True)
        if self._barrier_out:
            return []
        if not self._last_barrier:
            self._last_barrier = True
            barriers = self._barrier_if_due(force=True)
            if barriers:
                return barriers
        if self._session.in_transaction:
            self._session.abort()  # only when the lanes were taken away meanwhile
        self._left = True
        self._session.leave()
        raise StopIteration

    # --- assignment ---

    def _take_over(self, lanes: Sequence[int]) -> None:
        """Restore the lanes the group offers and start reading them where their state ends."""
        began = self._monotonic()
        session = self._session
        # First the offsets, then the changelog: once no transaction holds offsets back, none of an earlier owner can still commit.
        committed = session.committed(lanes)
        spans = session.wait_settled(lanes)
        owned: dict[int, _Lane] = {}
        known: dict[tuple[str, int], int] = {}
        for lane in lanes:
            self._fault("during_restore")
            logic = self.flow.make_logic(lane, self._n_lanes, self._broadcast)
            try:
                with contextlib.closing(session.read_changelog(lane, *spans[lane])) as records:
                    logic.restore(records)
            except StateMismatch as error:
                raise StateMismatch(f"{self.flow.changelog}[{lane}]: {error}") from error
            positions = dict(logic.positions())
            self._check_positions(lane, positions, committed)
            owned[lane] = _Lane(lane, logic, dict(positions), positions)
            known |= {(topic, lane): position for topic, position in positions.items()}
        session.start_at(known)
        self._lanes = owned
        self._epoch += 1
        self._last_tick = self._monotonic()
        self._took_in = False
        took = self._monotonic() - began
        self._counts["rebalances"] += 1
        self._counts["lanes_restored"] += len(lanes)
        self._restore_s += took
        self._refresh()
        log.info("%s owns lanes %s, restored in %.3f s", self.config.instance, _ranges(lanes), took)

    def _check_positions(self, lane: int, positions: dict[str, int], committed: dict[tuple[str, int], int]) -> None:
        """State and offsets are committed together: when they differ, one was changed or lost, and going on would lose or repeat."""
        for topic in self.flow.inputs:
            state, group = positions.get(topic), committed.get((topic, lane))
            if group is not None and state != group:
                if self._session.committed([lane]).get((topic, lane)) != group:
                    # This process stood still between its two reads, and the lane is somebody else's by now: nothing is corrupt.
                    raise Fenced(f"lane {lane} went to another worker while it was being restored")
                raise OffsetsDisagree(
                    f"lane {lane}: the state in {self.flow.changelog} ends at offset {state} of {topic}, group {self.config.group_id} has "
                    f"committed {group}: the changelog or the group's offsets were changed from outside. Restore the one that is wrong; "
                    "deleting both starts the flow anew"
                )

    def _revoked(self, lost: bool) -> None:
        """Drop everything uncommitted with the lanes; the next owner does it again from the last commit. Nothing is flushed late."""
        self._fault("in_revoke")
        self._backlog = []
        try:
            self._finish_commit(wait=True)
        finally:
            self._epoch += 1
            self._lanes = {}
            self._barrier_out = set()
            self._parts = []
            self._took_in = False
            self._lane_counters = {}
            self._lane_lag = {}
        if self._session.in_transaction:
            self._counts["aborts"] += 1
            self._session.abort()
        if lost:
            log.warning("%s lost its lanes: it was silent for longer than the session timeout", self.config.instance)

    # --- lanes ---

    def lane_step(self, items: Sequence[_Work]) -> list[_Out]:
        """Fold chunks, or answer a barrier with what the clock brings and the lane's state change."""
        outs: list[_Out] = []
        if self._failure is not None:
            return outs
        try:
            for work in items:
                lane = self._lanes.get(work.lane)
                if work.epoch != self._epoch or lane is None:
                    continue
                if work.chunk is not None:
                    records = lane.logic.process(work.chunk, self._clock())
                    outs += self._outs(lane, records)
                else:
                    outs += self._outs(lane, lane.logic.tick(self._clock()))
                    outs.append(self._capture(lane))
        except BaseException as error:
            self._fail(error)
            return []
        return outs

    def _outs(self, lane: _Lane, records: list[Records]) -> list[_Out]:
        for out in records:
            self._count_bytes(lane, out.data.nbytes + out.keys.nbytes)
        return [_Out(self._epoch, lane.number, out) for out in records if len(out)]

    def _capture(self, lane: _Lane) -> _Out:
        positions = lane.logic.positions()
        moved = {topic: position for topic, position in positions.items() if lane.durable.get(topic) != position}
        wrong = {topic for topic, position in lane.read.items() if positions.get(topic) != position}
        if wrong:
            raise SessionError(f"lane {lane.number}: the logic stands at {positions}, but was given everything up to {lane.read}")
        seq, values = -1, []
        if moved or lane.logic.dirty():
            capture = lane.logic.capture()
            seq, values = capture.seq, capture.values
            if moved and not values:
                raise SessionError(f"lane {lane.number}: offsets moved to {moved} but the state wrote nothing that says so")
        return _Out(self._epoch, lane.number, None, Delta(lane.number, values, moved), seq)

    # --- sink ---

    def sink_step(self, items: Sequence[_Out]) -> None:
        """Publish records into the open transaction; commit it when the last lane of a tick has answered."""
        if self._failure is not None:
            return
        try:
            for out in items:
                if out.epoch != self._epoch:
                    continue
                if out.records is not None:
                    self._counts["records_out"] += len(out.records)
                    self._counts["bytes_out"] += out.records.data.nbytes
                    self._backlog.append(out.records)
                else:
                    self._parts.append(out)
                    self._barrier_out.discard(out.lane)
                    if not self._barrier_out:
                        self._begin_commit()
            self._release()
        except BaseException as error:
            self._fail(error)

    def _release(self) -> None:
        """Produce what waits, if nothing of the transaction before can come after it any more."""
        if self._backlog and self._session.flushed:
            backlog, self._backlog = self._backlog, []
            for records in backlog:
                self._fault("before_produce")
                self._session.produce(records)

    def _begin_commit(self) -> None:
        self._release()  # no commit is under way
        parts, self._parts = self._parts, []
        deltas = [out.delta for out in parts if out.delta is not None and (out.delta.values or out.delta.moved)]
        if not deltas and not self._session.in_transaction:
            return
        for lane in self._lanes.values():
            lane.flight_bytes, lane.open_bytes = lane.open_bytes, 0
        self._commit_parts = parts
        self._commit_began = self._monotonic()
        # The broker's part takes 5 to 20 ms, during which this thread polls and folds on. What that publishes belongs to the next transaction.
        self._session.hand_over()
        self._commit = self._pool.submit(lambda: self._session.commit(deltas, self._fault))

    def _finish_commit(self, wait: bool) -> None:
        """If the commit under way is through (or `wait`): tell the lanes, and publish what has gathered meanwhile."""
        commit = self._commit
        if commit is None or not (wait or commit.done()):
            return
        try:
            first_offsets = commit.result(self._patience_s)
        except FutureTimeoutError:
            raise SessionError(f"a commit did not end within {self._patience_s:g} s") from None
        except SessionError:
            self._counts["aborts"] += 1
            raise
        finally:
            self._commit = None
        self._fault("after_commit")
        took_ms = (self._monotonic() - self._commit_began) * 1000
        self._commit_ms.add(took_ms)
        self._recent_ms.append(took_ms)
        self._counts["commits"] += 1
        for out in self._commit_parts:
            lane = self._lanes.get(out.lane)
            if lane is None or out.delta is None:
                continue
            lane.durable |= out.delta.moved
            if out.delta.values:
                lane.logic.committed(out.seq, first_offsets[out.lane])
        self._commit_parts = []
        for lane in self._lanes.values():
            lane.flight_bytes = 0
            if lane.paused and lane.open_bytes <= self.config.lane_pause_bytes:
                lane.paused = False
                self._session.resume(lane.number)

    # --- now and then ---

    def _housekeeping(self) -> None:
        now = self._monotonic()
        if now - self._last_refresh >= _REFRESH_S:
            self._refresh()
        if self._recount is not None and self._recount.done():
            recount, self._recount = self._recount, None
            recount.result()
        elif self._recount is None and now - self._last_recount >= self.config.recount_interval_ms / 1000:
            self._last_recount = now
            self._recount = self._pool.submit(self._session.recount)
        if now - self._last_truncate >= self.config.truncate_interval_ms / 1000:
            self._last_truncate = now
            for lane in self._lanes.values():
                before = lane.logic.obsolete_before()
                if before is not None and before > 0:
                    self._counts["truncations"] += 1
                    self._session.truncate(lane.number, before)

    def _refresh(self) -> None:
        """Copy the lanes' counters for readers in other threads."""
        self._last_refresh = self._monotonic()
        counters, lags = {}, {}
        for number, lane in self._lanes.items():
            counters[number] = dict(lane.logic.counters())
            ends = self._session.ends(number)
            lags[number] = sum(max(0, end - lane.read.get(topic, 0)) for topic, end in ends.items())
        self._lane_counters, self._lane_lag = counters, lags
        if self._broadcast is not None:
            self._broadcast_counters = dict(self._broadcast.counters())

    def snapshot(self) -> dict[str, Any]:
        """Return figures for metrics and boards; cheap, may be called from any thread. Lane figures are at most a second old."""
        recent = sorted(self._recent_ms.copy())
        return {
            "flow": self.flow.name,
            "worker": self.config.worker,
            "counts": self._counts
            | {"kafka_errors": self._session.errors, "truncate_errors": self._session.truncate_errors}
            | {"restore_seconds": self._restore_s, "broadcast_wait_seconds": self._broadcast_wait_s},
            "lanes": {number: {"lag": self._lane_lag.get(number, 0), **counters} for number, counters in self._lane_counters.items()},
            "lanes_total": self._n_lanes,
            "uncommitted_bytes": sum(lane.open_bytes + lane.flight_bytes for lane in list(self._lanes.values())),
            "paused": sum(lane.paused for lane in list(self._lanes.values())),
            "broadcast": dict(self._broadcast_counters),
            "commit_ms": {"p50": _quantile(recent, 0.5), "p95": _quantile(recent, 0.95), "p99": _quantile(recent, 0.99)},
            "histograms": {
                "commit_ms": (self._commit_ms.bounds, list(self._commit_ms.counts), self._commit_ms.total),
                "chunk_records": (self._chunk_records.bounds, list(self._chunk_records.counts), self._chunk_records.total),
            },
        }


COUNTERS = (
    "records_in",
    "bytes_in",
    "chunks",
    "records_out",
    "bytes_out",
    "broadcast_records",
    "commits",
    "aborts",
    "rebalances",
    "lanes_restored",
    "pauses",
    "truncations",
)
"""The runtime's own counters, as in `snapshot()["counts"]`."""


def _exit_code(failure: BaseException | None) -> int:
    if failure is None or isinstance(failure, Interrupted):
        return EXIT_OK
    for kind, code in (
        (BrokerUnreachable, EXIT_UNREACHABLE),
        (StartupError, EXIT_STARTUP),
        (Fenced, EXIT_FENCED),
        (OffsetsDisagree, EXIT_STATE),
        (StateMismatch, EXIT_STATE),
    ):
        if isinstance(failure, kind):
            return code
    return EXIT_FAILED


def _quantile(ordered: Sequence[float], q: float) -> float:
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))] if ordered else 0.0


def _ranges(numbers: Sequence[int]) -> str:
    """Return e.g. `0-3,7` for sorted numbers; `none` for none."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and spans[-1][1] == number - 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in spans) or "none"


# --- Bytewax's side: three thin classes -----------------------------------------------------------------------------------------


class _Partition(StatelessSourcePartition[tuple[str, _Work]]):
    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def next_batch(self) -> list[tuple[str, _Work]]:
        return self._runtime.source_step()


class _Source(DynamicSource[tuple[str, _Work]]):
    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def build(self, step_id: str, worker_index: int, worker_count: int) -> _Partition:
        if worker_count != 1:
            raise StartupError("one process is one Bytewax worker: start more processes instead")
        return _Partition(self._runtime)


class _LaneStep(StatefulBatchLogic[_Work, _Out, None]):
    """Keyed by lane. The lane's state lives in the runtime, because Kafka, not Bytewax, says who owns it."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def on_batch(self, values: list[_Work]) -> tuple[list[_Out], bool]:
        return self._runtime.lane_step(values), StatefulBatchLogic.RETAIN

    def snapshot(self) -> None:
        return None


class _SinkPartition(StatelessSinkPartition[tuple[str, _Out]]):
    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def write_batch(self, items: list[tuple[str, _Out]]) -> None:
        self._runtime.sink_step([out for _, out in items])


class _Sink(DynamicSink[tuple[str, _Out]]):
    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def build(self, step_id: str, worker_index: int, worker_count: int) -> _SinkPartition:
        return _SinkPartition(self._runtime)
