"""`hedgerow warm`: compiles every numba kernel of the flows into the cache, so that no first record waits a minute for it.

Drives the flow's own logic with a few seconds of the built-in simulator, and the hedger's kernels with a small book, because a kernel is
compiled per type of argument and only real calls have the real types. May not keep or publish anything of what comes out.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from connectors.child_process import die_with_parent
from flows.settings import Settings
from schemas.chunk import Chunk, Records, join, split
from schemas.reference import Reference, load_reference
from schemas.registry import CANARY_INPUTS, EXECUTION_BROADCAST, EXECUTION_INPUTS, HEDGER_BROADCAST, HEDGER_INPUTS
from schemas.times import rfc3339

_SECOND = 1_000_000_000
_START_NS = 1_767_614_400 * _SECOND
_STEP_NS = _SECOND // 20
_SIM_SECONDS = 2.0
_RATE = 500.0
_LANES = 2
_RARE = (
    "all,mismatch=0.05,conflict=0.05,overfill=0.03,split=0.03,gap=0.03,regression=0.03,unknown_order=0.02,uncorrelated=0.02,"
    "conflicting_route=0.02,misrouted=0.02,hold_decision=1,oversize=0,hostile_depth=0"
)
"""Every fault, the rare ones often enough to be met within the seconds simulated; the two that only cost time left out."""
_LATER_S = (6, 31, 121, 90_000)
"""Seconds after the history at which the clocks are asked once more: every level of every clock (docs/reconciliation.md) is passed."""
_HEDGE_LEAD_S = 45.0
"""Seconds of quotes before the hedger's fill: bars of a second, so that covariances are known."""
_HEDGED = 4
"""Series of the small book: one exposure and the instruments it is hedged with."""
_KERNEL_PACKAGES = ("schemas.", "state.", "operators.")


@dataclass(frozen=True)
class Warmed:
    """What a warming did: signatures compiled now, signatures taken from the cache, and the seconds it took."""

    compiled: int
    cached: int
    seconds: float


def run(args: argparse.Namespace) -> int:
    """Carry out `hedgerow warm`: compile, show how far it is, print how long it took and where the cache is."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from schemas.jit import cache_dir

    console = Console(stderr=True)
    columns = (
        TextColumn("compiling the kernels"),
        BarColumn(40),
        TextColumn("{task.completed} of about {task.total}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=None)
        done = warm(lambda ready, total: progress.update(task, completed=ready, total=total))
    print(f"the kernels are warm after {done.seconds:.1f} s: {done.compiled} compiled, {done.cached} taken from the cache at {cache_dir()}")
    return 0


def is_warm() -> bool:
    """Return whether this Python on this kind of processor was warmed since the last change to a kernel."""
    return _marker().is_file()


def warm(tell: Callable[[int, int], None] = lambda ready, total: None) -> Warmed:
    """Compile what is not in the cache yet; `tell(kernels ready, kernels there are)` is called as it goes on."""
    began = time.monotonic()
    from operators import reconcile

    before = _tally()
    tell(0, len(_kernels()))
    with _after_each_compilation(lambda: tell(sum(bool(k.parts or k.overloads) for k in _kernels()), len(_kernels()))):
        beside = 0
        if not is_warm() and len(os.sched_getaffinity(0)) > 1:
            with _rest_beside() as rest:
                # what `rest` leaves out: two processes that save signatures of one kernel may lose one
                _compile(reconcile.take)
                hedge_trades()
                beside = rest()
        load("execution")
        hedge_ratios()
        hedge_trades()
        hedge_lots()
        load("hedger")
        load("canary")
    compiled, cached = (after - earlier for after, earlier in zip(_tally(), before, strict=True))
    compiled, cached = compiled + beside, cached - beside
    marker = _marker()
    marker.parent.mkdir(parents=True, exist_ok=True)
    marker.touch()
    return Warmed(compiled, cached, time.monotonic() - began)


def load(flow: str) -> None:
    """Take a flow's kernels into this process, so that its first records do not wait for that."""
    if flow == "execution":
        from operators.execution import ExecutionLogic
        from operators.tape import Tape

        reference = load_reference(Path(Settings.model_fields["reference"].default))
        tape = Tape(reference)
        drive(reference, tape, lambda lane: ExecutionLogic(lane, _LANES, reference, tape.quotes))
    elif flow == "hedger":
        hedge_book()
    elif flow == "canary":
        canary_accounts()


def rest() -> int:
    """Compile everything but the two largest kernels; return how many signatures. Called in a process of its own, beside `warm`."""
    from operators import fold, parking, publish, reconcile
    from operators.execution import ExecutionLogic
    from operators.tape import Tape
    from schemas.codec import compile_decoder, compile_encoder
    from schemas.execution import AuditMessage

    before, _ = _tally()
    batch = compile_decoder(AuditMessage).decode(*join([b"{}"]))
    compile_encoder(AuditMessage).encode(batch.rows[:0], batch.arena)
    called = (
        publish.audit, reconcile.alert_once, reconcile.check_totals, reconcile.release, reconcile.take_back, reconcile.leave_list,
        reconcile.route_by_correlation, reconcile.evict_executions, reconcile.evict_matches, reconcile.evict_orders,
        reconcile.evict_aliases, reconcile.remap, fold.back_to_firm_total, parking.pages_needed, parking.keep, parking.forget,
        parking.forget_done, parking.due, parking.listed, parking.foresee,
    )  # fmt: skip
    for kernel in called:
        _compile(kernel)
    reference = load_reference(Path(Settings.model_fields["reference"].default))
    tape = Tape(reference)
    tape.apply(_chunk(next(iter(EXECUTION_BROADCAST)), 0, [(b"", b"{}")], 0, _START_NS))
    lane = ExecutionLogic(0, 1, reference, tape.quotes)
    lane.tick(_START_NS)
    lane.capture()
    ExecutionLogic(0, 1, reference, tape.quotes).restore([])
    hedge_ratios()
    hedge_lots()
    hedge_book(decide=False)
    canary_accounts()
    return _tally()[0] - before


def signatures() -> dict[str, int]:
    """Return how many signatures of each kernel this process has, by name: equal before and after when nothing new was needed."""
    return {f"{kernel.py_func.__module__}.{kernel.py_func.__qualname__}": len(kernel.overloads) for kernel in _kernels()}


def drive(reference: Reference, tape: Any, make: Callable[[int], Any], seed: int = 1) -> list[Any]:
    """Put a simulated history through the tape and two lanes as the runtime does: chunks, ticks, captures, a restore of each lane.

    tape: a BroadcastLogic; make(lane): a new LaneLogic. Returns the lanes. Raises AssertionError when a restored lane counts otherwise.
    """
    lanes = [make(lane) for lane in range(_LANES)]
    changelogs: list[list[bytes]] = [[] for _ in lanes]
    offsets: Counter[tuple[str, int]] = Counter()
    now_ns = _START_NS
    for now_ns, records in _history(reference, seed):
        while records:
            moved: dict[tuple[str, int], list[tuple[bytes, bytes]]] = {}
            for (topic, lane), part in records.items():
                chunk = _chunk(topic, lane, part, offsets[topic, lane], now_ns)
                offsets[topic, lane] += len(part)
                if topic in EXECUTION_BROADCAST:
                    tape.apply(chunk)
                else:
                    _collect(lanes[lane].process(chunk, now_ns), moved)
            records = moved
        for lane, logic in enumerate(lanes):
            _commit(logic, now_ns, changelogs[lane])
    for later_s in _LATER_S:
        for lane, logic in enumerate(lanes):
            _commit(logic, now_ns + later_s * _SECOND, changelogs[lane])
    for lane, logic in enumerate(lanes):
        restored = make(lane)
        restored.restore(enumerate(changelogs[lane]))
        if restored.counters() != logic.counters():
            raise AssertionError(f"lane {lane}, restored from its changelog, differs from the lane that wrote it")
    return lanes


def hedge_ratios(seed: int = 1) -> int:
    """Put an hour of quotes through the hedger's kernels of operators.ratios, each called as from Python; return how many ratios are in use.

    Matrices are whole ones, not views: a kernel is compiled anew for arrays of another layout.
    """
    from operators import ratios as rt

    m, rules, bar_ns = _HEDGED - 1, rt.Rules(), rt.BAR_NS
    rng = np.random.default_rng(seed)
    bars, moments, watch = rt.new_bars(_HEDGED, bar_ns), rt.new_moments(_HEDGED), rt.new_watch(m)
    found, room, used = rt.new_ratios(m), rt.new_room(m), np.full(m, np.nan)
    returns, fresh = np.zeros(_HEDGED), np.zeros(_HEDGED, np.bool_)
    series, xs, ys, events = np.arange(_HEDGED), np.arange(1, _HEDGED), np.zeros(m, np.int64), np.zeros(m, np.int64)
    given, tau, tighten, patience = np.full(m, np.nan), np.full(m, np.nan), np.ones(m), np.ones(m)
    mid = np.full(_HEDGED, 100.0)
    for bar in range(60):
        mid *= np.exp(1e-3 * (rng.normal() + 0.5 * rng.normal(size=_HEDGED)))
        rt.take_quotes(bars, np.full(_HEDGED, bar * bar_ns), series, mid, 0)
        rt.close_bar(bars, bar_ns, bar_ns, returns, fresh)
        rt.update(moments, returns, fresh)
        rt.estimate(moments, 0, xs, given, tau, tighten, rules, found, room)
        rt.watch_correlations(watch, moments, rt.FAST, rt.SLOW, ys, xs, fresh, rules, events)
        for row in range(m):
            rt.watch_effectiveness(watch, row, float(returns[0]), float(returns[0]), 0.5, rules)
            patience[row], tighten[row] = rt.caution(watch, row)
        rt.move_all(used, found, patience, rules)
    rt.update_all(moments, returns[None], fresh[None])
    rt.bar_returns(np.zeros(1, np.int64), np.zeros(1, np.int64), mid[:1], _HEDGED)
    rt.n_eff(float(moments.lams[rt.IN_USE]), int(moments.n[0]))
    rt.correlation(moments, rt.FAST, 0, 1)
    rt.variance(moments, rt.FAST, 0)
    cov = np.zeros((_HEDGED, _HEDGED))
    rt.covariance(moments, rt.IN_USE, series, cov)
    rt.condition_psd(cov, np.zeros_like(cov))
    s_yy, s_xy, s_xx = cov[:1, :1].copy(), cov[1:, :1].copy(), cov[1:, 1:].copy()
    ratios, e, p, be, omega = used.reshape(m, 1).copy(), np.array([1e6]), np.zeros(m), np.zeros(m), np.zeros((1, 1))
    rt.needed(ratios, e, be)
    rt.residual_covariance(s_yy, s_xy, s_xx, ratios, omega)
    rt.coverage(s_xx, be, p, 1.0)
    rt.bound(s_xx, omega, be, e)
    rt.effectiveness(s_xx, omega, be, e, p)
    rt.expected_effectiveness(s_xx, s_xy[:, 0].copy(), float(s_yy[0, 0]), used)
    return int(np.isfinite(used).sum())


def hedge_trades(seed: int = 1) -> int:
    """Put a small book through operators.proposal, called as from Python; return the solver's status."""
    from operators import optimiser, proposal

    m = _HEDGED - 1
    rng = np.random.default_rng(seed)
    zero, one, large, no = np.zeros(m), np.ones(m), np.full(m, 1e7), np.zeros(m, np.int64)
    s_xx = 1e-6 * (np.eye(m) + rng.uniform(0.5, 1.0))
    exposures = proposal.Exposures(
        rng.normal(size=1) * 1e6, np.full((m, 1), 1.0 / m), s_xx, zero, zero, one, one, one, 0.1 * one,
        np.array([[-0.1]]), np.full((1, m), -0.1), np.full(1, 5e4),
    )  # fmt: skip
    limits = proposal.Limits(large, large, no + 1, large, large, 12.0 * one, zero, no, no, no, no)
    aversion = proposal.risk_aversion(2.0, float(np.sqrt(s_xx[0, 0])), 2.0, 0.02, 1e6)
    terms = proposal.Terms(aversion, 2.0, 0.0, 1.0, 1e-6, np.inf, np.inf, False)
    problem, solution, space = optimiser.empty_problem(m, 1), optimiser.empty_solution(m, 1), optimiser.space_for(m, 1)
    reasons = proposal.Reasons(no.copy(), no.copy())
    shares, touches = proposal.TIER_SHARES, proposal.TOUCHES
    status = proposal.propose(exposures, limits, terms, _START_NS, shares, touches, problem, reasons, np.zeros(m), solution, space)
    # one by one, as where a limit is broken already
    proposal.build_objective(exposures, terms, problem, np.zeros(m))
    proposal.build_coupling(exposures, terms, problem)
    proposal.build_bounds(limits, _START_NS, shares, touches, problem, reasons)
    optimiser.solve(problem, solution, space)
    optimiser.objective(problem, solution.h)
    optimiser.capital_used(problem, solution.h)
    optimiser.capital_limit(problem)
    return int(status)


def hedge_lots() -> int:
    """Round trades to lots and ask what binds them, as from Python; return what came of rounding."""
    from operators import lots, optimiser, proposal

    m = _HEDGED - 1
    problem, solution, space = optimiser.empty_problem(m, 1), optimiser.empty_solution(m, 1), optimiser.space_for(m, 1)
    proposal.binding(problem, solution, proposal.Reasons(*np.zeros((2, m), np.int64)), np.zeros(m, np.int64), np.zeros(2, np.int64))
    problem.g[:], problem.upper[:] = -1.0, 10.0
    return int(lots.round_to_lots(problem, np.full(m, 2.5), np.ones(m), np.ones(m), space))


def hedge_book(decide: bool = True) -> int:
    """Put a fill through the hedger's own market and lane, as the runtime does, and restore it; return how many hedges it sent.

    decide: with a universe, so that there is a decision; without one positions are only kept. Raises AssertionError when the restored lane counts otherwise.
    """
    from connectors.simulator.hedging import HedgeWorld, calm
    from operators.hedge_market import HedgeMarket, MarketRules
    from operators.hedger import HedgerLogic

    world = HedgeWorld(calm(1, 1.0, _HEDGE_LEAD_S, _START_NS))
    market = HedgeMarket(world.reference, MarketRules(bar_ns=_SECOND, fresh_ns=_SECOND))
    lane = HedgerLogic(0, 1, world.reference, market)
    changelog: list[bytes] = []
    offsets: Counter[str] = Counter()
    quotes: list[tuple[bytes, bytes]] = []
    book, now_ns = "", _START_NS
    for step in range(int(_HEDGE_LEAD_S) + 1):
        now_ns = _START_NS + step * _SECOND
        found: dict[str, list[tuple[bytes, bytes]]] = {}
        for message in world.advance(now_ns):
            if message.topic in HEDGER_BROADCAST and (decide or message.topic != "hedge.state.universe.v1"):
                found.setdefault(message.topic, []).append((message.key, message.value))
            if message.topic == "hedge.state.universe.v1":
                book = book or message.key.decode()
        quotes = quotes or found.get("marketdata.snapshot.v1", [])
        for topic, records in found.items():
            market.apply(_chunk(topic, 0, records, offsets[topic], now_ns))
            offsets[topic] += len(records)
        if step == 1:
            market.begin()
            lane.process(_chunk(HEDGER_INPUTS[0], 0, [(b"", b"{}")], 0, now_ns), now_ns)
        if step == int(_HEDGE_LEAD_S):
            symbol = world.reference.instruments[0].symbol
            lane.process(_chunk(HEDGER_INPUTS[0], 0, [(book.encode(), _fill(book, symbol, now_ns))], 1, now_ns), now_ns)
        if step:
            _commit(lane, now_ns, changelog)
    restored = HedgerLogic(0, 1, world.reference, market)
    restored.restore(enumerate(changelog))
    if restored.counters() != lane.counters():
        raise AssertionError("the hedger's lane, restored from its changelog, differs from the lane that wrote it")
    begun = HedgeMarket(world.reference, market.rules)
    begun.apply(_chunk("hedge.state.matrix.v1", 0, market.matrix_records(), 0, now_ns))
    begun.apply(_chunk("marketdata.snapshot.v1", 0, quotes, 0, now_ns))
    begun.begin()
    return lane.counters()["hedges_sent"]


def canary_accounts() -> int:
    """Put an account's snapshots and a fill through the canary's own lane, as the runtime does, and restore it; return how many alerts it published.

    Raises AssertionError when the restored lane counts otherwise.
    """
    from operators.canary_lane import CanaryLogic, RegimeBoard
    from schemas.policy import load_policies

    board = RegimeBoard(load_policies())
    lane = CanaryLogic(0, 1, board)
    changelog: list[bytes] = []
    same = {"account": "ACC", "mode": "live", "as_of_ns": _START_NS}
    exposure = {"underlying": "SPY", "market_value_base": "1", "dollar_delta_base": "1"}
    option = {"symbol": "SPY", "expiry": "2026-03-20", "strike": "1", "right": "C", "quantity": "1"}
    payloads = (
        same | {"net_liquidation": "10", "cushion": "0.5", "daily_pnl": "1"},
        same | {"stocks": [{"symbol": "SPY", "quantity": "1"}], "options": [option], "portfolio": {"exposure_base": [exposure]}},
    )
    records = [(topic, _canary_input(topic, payload)) for topic, payload in zip(CANARY_INPUTS, payloads, strict=False)]
    records.append((HEDGER_INPUTS[0], _fill("BOOK", "SPY", _START_NS)))
    while records:
        topic, value = records.pop(0)
        for made in lane.process(_chunk(topic, 0, [(b"ACC", value)], len(changelog), _START_NS), _START_NS):
            records += [(made.topic, one) for one in split(made.data, made.bounds) if made.topic in CANARY_INPUTS]
        _commit(lane, _START_NS, changelog)
    restored = CanaryLogic(0, 1, board)
    restored.restore(enumerate(changelog))
    counted = [{k: v for k, v in one.counters().items() if k != "evaluations"} for one in (lane, restored)]
    if counted[0] != counted[1]:
        raise AssertionError("the canary's lane, restored from its changelog, differs from the lane that wrote it")
    return lane.counters()["alerts_first"]


def _canary_input(topic: str, payload: dict[str, Any]) -> bytes:
    name = "5c1f7a52-3c8e-5d0a-9b5e-0a4d6c2f1e77"
    message = {
        "msg_id": name, "type": topic, "version": "v1", "ts": rfc3339(_START_NS), "ts_ns": _START_NS, "ttl_ms": 60_000, "sender": "agent.warm",
        "idempotency_key": name, "payload": payload,
    }  # fmt: skip
    return json.dumps(message).encode()


def _fill(book: str, symbol: str, now_ns: int) -> bytes:
    """Return a fill that changes a book's position by 10."""
    name = "5c1f7a52-3c8e-5d0a-9b5e-0a4d6c2f1e77"
    absent = {"kind": "arrival", "status": "missing"}
    payload = {
        "order_id": name, "fill_id": name, "symbol": symbol, "side": "BUY", "filled_size": "10", "price": "100", "venue": "SPOT", "latency_ms": 1.0,
        "idempotency_key": name, "book": book, "account": "ACC", "exec_id": "1", "exec_ts_ns": now_ns, "status": "FILLED", "version": 1,
        "signed_delta": "10", "cum_size": "10", "leaves_size": "0", "avg_price": "100", "provisional": False, "benchmark": absent,
        "benchmark_mid": absent | {"kind": "mid"}, "slippage": {}, "residual": {"order_size": "0", "exposure_notional": "0"},
    }  # fmt: skip
    message = {
        "msg_id": name, "type": HEDGER_INPUTS[0], "version": "v1", "ts": rfc3339(now_ns), "ts_ns": now_ns, "ttl_ms": 60_000, "correlation_id": name,
        "sender": "agent.execution", "idempotency_key": name, "payload": payload,
    }  # fmt: skip
    return json.dumps(message).encode()


def _history(reference: Reference, seed: int) -> Iterator[tuple[int, dict[tuple[str, int], list[tuple[bytes, bytes]]]]]:
    """Yield (time in ns, records by topic and lane) of a simulated history, a step of time at once."""
    from connectors.simulator import SimConfig, Simulator, parse_faults
    from connectors.simulator.sender import murmur2

    simulator = Simulator(SimConfig(seed, _RATE, _START_NS, life_s=0.2, faults=parse_faults(_RARE)), reference)
    waiting: dict[tuple[str, int], list[tuple[bytes, bytes]]] = {}
    now_ns = until = _START_NS
    for batch in simulator.steps(_SIM_SECONDS):
        for message in batch:
            lane = (murmur2(message.key) + message.misrouted) % _LANES
            waiting.setdefault((message.topic, lane), []).append((message.key, message.value))
        now_ns = batch[-1].due_ns
        if now_ns >= until:
            until = now_ns + _STEP_NS
            yield now_ns, waiting
            waiting = {}
    yield now_ns, waiting


def _chunk(topic: str, lane: int, records: list[tuple[bytes, bytes]], first: int, now_ns: int) -> Chunk:
    """Return a chunk with arrays of the same types as those of a poll: `join` makes both."""
    data, bounds = join([value for _, value in records])
    keys, key_bounds = join([key for key, _ in records])
    return Chunk(topic, lane, data, bounds, np.arange(first, first + len(records), dtype=np.int64), keys, key_bounds, now_ns)


def _collect(outputs: list[Records], moved: dict[tuple[str, int], list[tuple[bytes, bytes]]]) -> None:
    """Put what a lane sends to other lanes (aliases, reports that came to the wrong one) where it belongs."""
    from connectors.simulator.sender import murmur2

    for records in outputs:
        if records.topic in EXECUTION_INPUTS:
            keys, values = split(records.keys, records.key_bounds), split(records.data, records.bounds)
            for key, value in zip(keys, values, strict=True):
                moved.setdefault((records.topic, murmur2(key) % _LANES), []).append((key, value))


def _commit(logic: Any, now_ns: int, changelog: list[bytes]) -> None:
    logic.tick(now_ns)
    if logic.dirty():
        capture = logic.capture()
        first = len(changelog)
        changelog += capture.values
        logic.committed(capture.seq, first)
        logic.obsolete_before()


def _compile(kernel: Any) -> None:
    """Compile a kernel of a map and integers as Python calls it."""
    from numba import types

    kinds = {"Map": types.int64[::1], "int": types.int64}
    kernel.compile(tuple(kinds[hint] for name, hint in kernel.py_func.__annotations__.items() if name != "return"))


@contextmanager
def _rest_beside() -> Iterator[Callable[[], int]]:
    """Run `rest` in another process meanwhile; what is yielded waits for it and returns its result. Raises RuntimeError when it failed."""
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).resolve().parent.parent)!r}); from flows import warm; print(warm.rest())"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, preexec_fn=die_with_parent(signal.SIGKILL))

    def wait() -> int:
        told, _ = process.communicate()
        if process.returncode != 0:
            raise RuntimeError(f"compiling the other kernels ended with {process.returncode}")
        return int(told)

    try:
        yield wait
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _marker() -> Path:
    from llvmlite import binding

    from schemas.jit import cache_dir

    # numba keeps what it compiles under the path of the source: a copy of the tree elsewhere is cold
    here = hashlib.sha256(str(Path(__file__).resolve().parent.parent).encode()).hexdigest()[:8]
    return cache_dir() / f"warm-{sys.implementation.cache_tag}-{binding.get_host_cpu_name()}-{here}"


def _kernels() -> list[Any]:
    """Return the kernels (numba dispatchers) of every module loaded so far."""
    from numba.core.dispatcher import Dispatcher

    found: dict[int, Any] = {}
    for name, module in list(sys.modules.items()):
        if name.startswith(_KERNEL_PACKAGES):
            for value in vars(module).values():
                if isinstance(value, Dispatcher):
                    found[id(value)] = value
    return list(found.values())


def _tally() -> tuple[int, int]:
    """Return (signatures compiled, signatures taken from the cache) by this process so far."""
    stats = [kernel.stats for kernel in _kernels()]
    return sum(sum(s.cache_misses.values()) for s in stats), sum(sum(s.cache_hits.values()) for s in stats)


@contextmanager
def _after_each_compilation(told: Callable[[], None]) -> Iterator[None]:
    from numba.core import event

    class Listener(event.Listener):
        def on_start(self, event: Any) -> None:
            pass

        def on_end(self, event: Any) -> None:
            told()

    with event.install_listener("numba:compile", Listener()):
        yield
