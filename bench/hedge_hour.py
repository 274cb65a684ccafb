"""An hour of hedging in virtual time: simulated clients, markets and an order agent, the execution lanes and the hedger's lanes, in one process.

Run `python -m bench.hedge_hour`; it prints a table and, as its last line, JSON, and ends with 1 if a bar is missed. Nothing of a run depends on the
speed of the machine: the clock is the simulation's. What is measured is measured from the records (connectors/simulator/hedge_account.py). Kafka is left out; of it
only the time a record takes is modelled (`HOP_NS`, and commits that come at every tick).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from heapq import heappop, heappush
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from connectors.simulator.hedge_account import HedgeAccount
from connectors.simulator.hedge_summary import Bars, hedge_figures, missed, position_gaps, table_rows
from connectors.simulator.hedging import HALT, RESUME, HedgeWorld, Scenario, hour
from connectors.simulator.messages import QUOTE
from connectors.simulator.oms import COVER, REQUEST
from connectors.simulator.sender import murmur2
from operators.execution import ExecutionLogic
from operators.tape import Tape
from schemas.chunk import Chunk, Records, join, split
from schemas.registry import EXECUTION_INPUTS, HEDGER_INPUTS, HEDGER_STATES, TOPICS

MS = 1_000_000
SECOND = 1_000_000_000
HOP_NS = 3 * MS
"""From a record's write to its reader, through Kafka."""
COMMIT_NS = 6 * MS
"""From a lane's tick until what it published can be read."""
LANES = 2
SAMPLE_NS = SECOND
_PLOTS_MISSING = "--plot needs matplotlib: install hedgerow with the extra `plots`"
COLOURS = {"break": "tab:purple", "regime": "tab:orange", "shortfall": "tab:brown", "outage": "tab:red", "halt": "black"}


class Run:
    """The world, the lanes and the account, driven tick by tick. make_hedger(lane, n_lanes): the hedger's LaneLogic; market: its BroadcastLogic."""

    def __init__(
        self, scenario: Scenario, make_hedger: Callable[[int, int], Any], market: Any, world: HedgeWorld, tick_ns: int = 50 * MS
    ) -> None:
        self.scenario = scenario
        self.world = world
        self.market = market
        self.tick_ns = tick_ns
        self.now_ns = scenario.start_ns
        self.tape = Tape(world.reference)
        self.execution = [ExecutionLogic(lane, LANES, world.reference, self.tape.quotes) for lane in range(LANES)]
        self.hedgers = [make_hedger(lane, LANES) for lane in range(LANES)]
        self.account = HedgeAccount(world.reference, world.market.covariance)
        self.written: Counter[str] = Counter()
        self.seconds: dict[str, float] = {}
        self._queue: list[tuple[int, int, str, bytes, bytes, int | None]] = []
        self._outbox: list[tuple[int, int, str, bytes, bytes]] = []
        self._number = 0
        self._offsets: Counter[tuple[str, str, int]] = Counter()
        self._logs: Counter[tuple[str, int]] = Counter()
        self._begun = False
        self._sampled = 0

    def write(self, topic: str, key: bytes, value: bytes, visible_ns: int, partition: int | None = None) -> None:
        """Put a record into a topic; it can be read from `visible_ns` on."""
        self._number += 1
        self.written[topic] += 1
        heappush(self._queue, (visible_ns, self._number, topic, key, value, partition))
        if topic in (COVER, REQUEST):
            heappush(self._outbox, (visible_ns, self._number, topic, key, value))

    def tick(self) -> None:
        """Let one commit interval pass."""
        self.now_ns += self.tick_ns
        now = self.now_ns
        began = time.perf_counter()
        chunks: dict[tuple[str, int], list[tuple[bytes, bytes]]] = {}
        self._happen(now)
        while self._queue and self._queue[0][0] <= now:
            visible, _, topic, key, value, partition = heappop(self._queue)
            if topic != COVER:
                self.account.observe(topic, value, visible)
            lane = partition if partition is not None else murmur2(key) % self._partitions(topic)
            chunks.setdefault((topic, lane), []).append((key, value))
        began = self._spent("world", began)
        self._broadcast(chunks, now)
        began = self._spent("market", began)
        for n, logic in enumerate(self.execution):
            self._lane("execution", EXECUTION_INPUTS, n, logic, chunks, now)
        began = self._spent("execution", began)
        for n, logic in enumerate(self.hedgers):
            self._lane("hedger", HEDGER_INPUTS, n, logic, chunks, now)
        began = self._spent("hedger", began)
        everything = now - self._sampled >= SAMPLE_NS
        if everything:
            self._sampled = now
        self.account.sample(now, everything)
        self._spent("account", began)

    def _happen(self, now: int) -> None:
        """Let the world go on to `now`; what the hedger sent reaches it at its own time."""
        while self._outbox and self._outbox[0][0] <= now:
            visible, _, topic, key, value = heappop(self._outbox)
            self._take_in(visible)
            self.world.receive(topic, key, value, visible)
        self._take_in(now)

    def _take_in(self, until: int) -> None:
        for message in self.world.advance(until):
            self.write(message.topic, message.key, message.value, message.due_ns + HOP_NS)

    @staticmethod
    def _partitions(topic: str) -> int:
        return LANES if TOPICS[topic].lanes else TOPICS[topic].partitions or LANES

    def _broadcast(self, chunks: dict[tuple[str, int], list[tuple[bytes, bytes]]], now: int) -> None:
        for (topic, lane), records in chunks.items():
            if topic == QUOTE:
                self.tape.apply(self._chunk("execution", topic, lane, records, now))
            if topic == QUOTE or topic in HEDGER_STATES:
                self.market.apply(self._chunk("hedger", topic, lane, records, now))
            for _, value in records if topic in (HALT, RESUME) else ():
                self._halt(topic, value, now)
        if not self._begun:
            self._begun = True
            self.market.begin()

    def _halt(self, topic: str, value: bytes, now: int) -> None:
        payload = json.loads(value)["payload"]
        scope = f"{payload['scope']}|{payload.get('id') or ''}"
        if topic == HALT:
            self.account.halt(scope, now, on=True)
        elif {a["role"].lower() for a in payload["approvals"]} >= {"risk", "compliance"}:
            self.account.halt(scope, now, on=False)

    def _lane(
        self, flow: str, inputs: tuple[str, ...], lane: int, logic: Any, chunks: dict[tuple[str, int], list[tuple[bytes, bytes]]], now: int
    ) -> None:
        for topic in inputs:
            records = chunks.get((topic, lane))
            if records:
                self._publish(logic.process(self._chunk(flow, topic, lane, records, now), now))
        self._publish(logic.tick(now))
        if logic.dirty():
            capture = logic.capture()
            logic.committed(capture.seq, self._logs[flow, lane])
            self._logs[flow, lane] += len(capture.values)
            logic.obsolete_before()

    def _publish(self, outputs: list[Records]) -> None:
        for records in outputs:
            keys, values = split(records.keys, records.key_bounds), split(records.data, records.bounds)
            for key, value in zip(keys, values, strict=True):
                self.write(records.topic, key, value, self.now_ns + COMMIT_NS + HOP_NS, records.partition)
                if records.topic == COVER:  # with the mids of the moment of decision, not of its arrival
                    self.account.observe(COVER, value, self.now_ns)

    def _chunk(self, flow: str, topic: str, lane: int, records: list[tuple[bytes, bytes]], now: int) -> Chunk:
        data, bounds = join([value for _, value in records])
        keys, key_bounds = join([key for key, _ in records])
        first = self._offsets[flow, topic, lane]
        self._offsets[flow, topic, lane] += len(records)
        return Chunk(topic, lane, data, bounds, np.arange(first, first + len(records), dtype=np.int64), keys, key_bounds, now)

    def _spent(self, part: str, began: float) -> float:
        """Note the wall time of a part; the processor's clock would cost more than the parts on some machines."""
        now = time.perf_counter()
        self.seconds[part] = self.seconds.get(part, 0.0) + now - began
        return now

    # --- figures --------------------------------------------------------------------------------------------------------------------

    def figures(self) -> dict[str, Any]:
        """Return what the run came to."""
        told = hedge_figures(self.world, self.account, self.now_ns, wanted_acks=len(self.scenario.halts) * LANES)
        pace = (self.now_ns - self.scenario.start_ns) / SECOND / max(1e-9, sum(self.seconds.values()))
        return {"benchmark": "hedge_hour", **told, "virtual_over_wall": round(pace, 1)}

    def gaps(self) -> list[tuple[str, str, float, float]]:
        """Return (book, symbol, the account's position, the truth) where they differ."""
        return position_gaps(self.world, self.account)


def show(run: Run, figures: dict[str, Any], bars: Bars, console: Console) -> None:
    """Print the tables: what happened, what came of it, why nothing was done."""
    bad = set(missed(figures, bars))
    table = Table(
        "figure", "value", "bar", box=None, pad_edge=False, title="an hour of hedging, measured from the records", title_justify="left"
    )
    table.columns[1].justify = table.columns[2].justify = "right"
    for name, label, value, bar in table_rows(figures, bars):
        table.add_row(label, f"[bold red]{value}[/]" if name in bad else value, bar)
    console.print(table)
    why = Table("first reason", "decisions", box=None, pad_edge=False)
    why.columns[1].justify = "right"
    for reason, count in run.account.reasons.most_common(12):
        why.add_row(reason, f"{count:,}")
    console.print(why)
    books = Table("book", "coverage %", "exposure, mean", "hedges, mean", box=None, pad_edge=False)
    for column in books.columns[1:]:
        column.justify = "right"
    for name, book in run.account.books.items():
        judged = [s for s in book.samples if s.coverage == s.coverage and s.ts_ns >= run.scenario.open_ns]
        if judged:
            mean = [np.mean([getattr(s, figure) for s in judged]) for figure in ("coverage", "exposure", "hedged")]
            books.add_row(name, f"{100 * mean[0]:.1f}", f"{mean[1]:,.0f}", f"{mean[2]:,.0f}")
    console.print(books)
    for event in run.world.events():
        minutes = [(t - run.scenario.open_ns) / 60 / SECOND for t in (event.from_ns, event.to_ns)]
        console.print(f"{minutes[0]:6.1f} to {minutes[1]:5.1f} min  {event.kind:<10} {event.detail}")
    whole = sum(run.seconds.values())
    console.print("share of the wall time: " + ", ".join(f"{part} {100 * seconds / whole:.0f} %" for part, seconds in run.seconds.items()))


def plot(run: Run, path: Path) -> None:
    """Draw coverage, exposure and distance by book, and the hedges, with the events marked. Needs the extra `plots`."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    start = run.scenario.open_ns
    figure, axes = pyplot.subplots(4, 1, figsize=(16, 14), sharex=True, layout="constrained")
    for n, (name, book) in enumerate(run.account.books.items()):
        at = [(s.ts_ns - start) / 60 / SECOND for s in book.samples]
        colour = f"C{n}"
        axes[0].step(at, [100 * max(s.coverage, -0.2) for s in book.samples], where="post", color=colour, label=name, linewidth=0.8)
        axes[1].step(at, [s.exposure / 1e6 for s in book.samples], where="post", color=colour, label=f"{name}: exposure", linewidth=1.0)
        axes[1].step(
            at, [s.hedged / 1e6 for s in book.samples], where="post", color=colour, linestyle=":", label=f"{name}: hedges", linewidth=1.0
        )
        axes[2].step(at, [s.needed for s in book.samples], where="post", color=colour, label=f"{name}: needed", linewidth=1.0)
        axes[2].step(
            at, [s.distance for s in book.samples], where="post", color=colour, linestyle=":", label=f"{name}: left", linewidth=1.0
        )
        legs = [leg for leg in run.account.legs.values() if leg.book == name]
        axes[3].scatter([(leg.decided_ns - start) / 60 / SECOND for leg in legs], [np.sign(leg.size) * leg.notional / 1e3 for leg in legs],
                        s=8, color=colour, label=name)  # fmt: skip
    for axis in axes:
        for event in run.world.events():
            axis.axvspan(
                *((t - start) / 60 / SECOND for t in (event.from_ns, event.to_ns)), color=COLOURS[event.kind], alpha=0.12, linewidth=0
            )
        axis.legend(fontsize=7, ncols=4, loc="lower left")
        axis.grid(alpha=0.3)
    for event in run.world.events():
        axes[0].text((event.from_ns - start) / 60 / SECOND, 104, f"{event.kind}\n{event.detail}", fontsize=7, color=COLOURS[event.kind])
    axes[0].set(ylim=(0, 112), ylabel="coverage, %")
    axes[0].axhline(95, color="black", linewidth=0.6, linestyle="--")
    axes[1].set(ylabel="notional, millions")
    axes[2].set(ylabel="risk per root second")
    axes[3].set(ylabel="hedges sent, thousands", xlabel="minutes", yscale="symlog")
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


def make_run(scenario: Scenario, tick_ns: int = 50 * MS) -> Run:
    """Return a run with the product's own hedger."""
    from operators.hedge_market import HedgeMarket
    from operators.hedger import HedgerLogic

    world = HedgeWorld(scenario)
    market = HedgeMarket(world.reference)
    return Run(scenario, lambda lane, n: HedgerLogic(lane, n, world.reference, market), market, world, tick_ns)


def main() -> int:
    """Drive an hour and print: 0, 1 when a bar is missed, 2 when matplotlib is missing or an argument does not fit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="same seed, same hour (1)")
    parser.add_argument("--minutes", type=float, default=60.0, metavar="M", help="how long clients trade, 10 or more (60)")
    parser.add_argument("--tick-ms", type=int, default=50, metavar="T", help="virtual time between commits (50)")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw coverage, exposure and hedges (needs the extra `plots`)")
    args = parser.parse_args()
    if args.plot is not None and importlib.util.find_spec("matplotlib") is None:
        print(f"bench.hedge_hour: {_PLOTS_MISSING}", file=sys.stderr)
        return 2
    try:
        scenario = hour(args.seed, args.minutes)
    except ValueError as error:
        print(f"bench.hedge_hour: {error}", file=sys.stderr)
        return 2
    run = make_run(scenario, args.tick_ms * MS)
    console = Console(width=None if sys.stdout.isatty() else 160)
    told = Console(stderr=True)
    columns = (TextColumn("hedging"), BarColumn(40), TextColumn("{task.completed:.0f} of {task.total:.0f} min"), TimeElapsedColumn())
    with Progress(*columns, console=told, transient=True, disable=not told.is_terminal) as progress:
        task = progress.add_task("", total=(scenario.end_ns - scenario.start_ns) / 60 / SECOND)
        while run.now_ns < scenario.end_ns:
            run.tick()
            if run.now_ns % SECOND < run.tick_ns:
                progress.update(task, completed=(run.now_ns - scenario.start_ns) / 60 / SECOND)
    figures = run.figures()
    bars = Bars()
    show(run, figures, bars, console)
    if args.plot is not None:
        plot(run, args.plot)
        console.print(f"wrote {args.plot}", soft_wrap=True)
    bad = missed(figures, bars)
    print(json.dumps({**figures, "missed": bad, "pass": not bad}))
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
