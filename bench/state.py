"""What a lane's state costs: a commit by executions kept, memory per execution, a restore, and the changelog after an hour of traffic.

Run `python -m bench.state`; the last line is JSON. On the tables and the changelog of the flow itself (state/ledger.py, operators/execution.py).
Commits are timed as processor time of one thread, the sizes in turn within one run, so that growth is a ratio; restores by the clock. What the
figures mean: docs/benchmarks-state-latency.md.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table as Grid

import schemas
from bench.load import ACK, FILLS_EACH, REPORT, ROUTE, Load, chunk_of, interleaved
from operators.execution import ExecutionLogic
from schemas.chunk import Capture, Ints
from schemas.jit import njit
from schemas.reference import load_reference
from state.changelog import Changelog
from state.ledger import ExecutionLedger
from state.table import TableArrays, insert, remove, touch

SIZES = (10_000, 100_000, 1_000_000, 5_000_000)
DIRTY = 250
"""Executions per commit; 25 ms of 10,000 reports/s."""
OPEN_ORDERS = 1_250
"""Orders that still get executions, the newest ones: as many at every size."""
RESTORED = 1_000_000
START_NS = 1_767_614_400_000_000_000
NEVER = 60_000
"""A day beyond any horizon."""
TARGETS = {"commit_cost_growth": 1.10, "bytes_per_execution": 100.0, "restore_1m_s": 2.0, "changelog_ratio": 2.5}


@njit
def add_rows(table: TableArrays, first: int, count: int) -> int:
    """Insert rows under keys made of the numbers from `first`; return the row of the last."""
    row = -1
    for number in range(first, first + count):
        z = np.uint64(number) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        row = insert(table, z, np.uint64(number) ^ (z >> np.uint64(31)))
    return row


@njit
def touch_rows(table: TableArrays, rows: Ints) -> None:
    """Change rows, as a fold does."""
    for row in rows:
        table.rows[row].live = 1
        touch(table, row)


@njit
def remove_rows(table: TableArrays, rows: NDArray[np.int32]) -> None:
    """Delete rows."""
    for row in rows:
        remove(table, row)


@dataclass
class Log:
    """The changelog partition: values by offset, and what may be deleted of it deleted."""

    values: deque[tuple[int, bytes]] = field(default_factory=deque)
    end: int = 0
    size: int = 0
    most: int = 0

    def append(self, owner: Changelog | ExecutionLogic, capture: Capture) -> None:
        """Commit a capture and delete what is obsolete after it."""
        if not capture.values:
            return
        first = self.end
        for value in capture.values:
            self.values.append((self.end, value))
            self.end += 1
            self.size += len(value)
        owner.committed(capture.seq, first)
        before = owner.obsolete_before() or 0
        while self.values[0][0] < before:
            self.size -= len(self.values.popleft()[1])
        self.most = max(self.most, self.size)


@dataclass
class Kept:
    """A ledger that keeps `executions` of `executions / FILLS_EACH` orders, filled by the tables' own kernels and committed as it grew."""

    executions: int
    ledger: ExecutionLedger = field(default_factory=ExecutionLedger)
    log: Log | None = None
    bytes_each: list[float] = field(default_factory=list)
    pause_s: float = 0.0
    """The longest that making room took."""

    def __post_init__(self) -> None:
        ledger, step = self.ledger, 2_000
        for first in range(0, self.executions, step):
            orders = step // FILLS_EACH
            for table, number, count in (
                (ledger.intents, first // FILLS_EACH, orders),
                (ledger.orders, first // FILLS_EACH, orders),
                (ledger.ids, first // FILLS_EACH * 2, 2 * orders),
                (ledger.aliases, first // FILLS_EACH, orders),
                (ledger.execs, first, step),
            ):
                began = time.perf_counter()
                table.reserve(count, 4 * count)
                self.pause_s = max(self.pause_s, time.perf_counter() - began)
                row = int(add_rows(table.arrays, number, count))
                if table is ledger.execs:
                    table.arrays.rows["expires"][row + 1 - count : row + 1] = NEVER
            self.bytes_each.append(ledger.execs.nbytes / len(ledger.execs))
            capture = ledger.changelog.capture()
            if self.log is not None:
                self.log.append(ledger.changelog, capture)
            else:
                ledger.changelog.committed(capture.seq, capture.seq)


def state_bytes(ledger: ExecutionLedger) -> int:
    """Return the size of all rows in use."""
    return sum(table.rows.nbytes for table in ledger.tables.values())


# ---- a commit -------------------------------------------------------------------------------------------------------------------


class Committer:
    """Changes a ledger and times the capture of it, always from the same size."""

    def __init__(self, kept: Kept, seed: int = 1) -> None:
        self.kept = kept
        self._rng = np.random.default_rng(seed)
        self._number = 1 << 40
        self._seq = 0

    def commit(self, old: bool) -> tuple[float, int]:
        """Return (seconds, bytes) of a commit of `DIRTY` executions and their orders.

        old: executions and orders from anywhere in the state, as late corrections would; else new ones of open orders.
        """
        ledger, rng = self.kept.ledger, self._rng
        execs, orders = ledger.execs, ledger.orders
        fresh = np.zeros(0, np.int32)
        if old:
            touch_rows(execs.arrays, rng.choice(execs.high, DIRTY, replace=False))
            touch_rows(orders.arrays, rng.choice(orders.high, DIRTY, replace=False))
        else:
            execs.reserve(DIRTY)
            before = int(execs.arrays.meta[3])
            add_rows(execs.arrays, self._number, DIRTY)
            fresh = execs.arrays.changed[before : before + DIRTY].copy()
            execs.arrays.rows["expires"][fresh] = NEVER
            touch_rows(orders.arrays, orders.high - 1 - rng.choice(min(OPEN_ORDERS, orders.high), DIRTY, replace=False))
            self._number += DIRTY
        ledger.scalars[0] += 1
        began = time.thread_time()
        capture = ledger.changelog.capture()
        took = time.thread_time() - began
        ledger.changelog.committed(capture.seq, capture.seq)
        if not old:
            remove_rows(execs.arrays, fresh)
            ledger.changelog.committed(ledger.changelog.capture().seq, capture.seq + 1)
        return took, sum(map(len, capture.values))


def time_commits(sizes: list[Kept], commits: int) -> dict[str, dict[int, tuple[float, float]]]:
    """Return per pattern and size (median µs, mean bytes) of a commit; the sizes take turns."""
    committers = [Committer(kept) for kept in sizes]
    taken: dict[str, dict[int, list[tuple[float, int]]]] = {"new": {}, "old": {}}
    for turn in range(commits + 5):
        for committer in committers:
            for name in taken:
                figures = committer.commit(name == "old")
                if turn >= 5:
                    taken[name].setdefault(committer.kept.executions, []).append(figures)
    return {
        name: {size: (float(np.median([t for t, _ in some])) * 1e6, float(np.mean([b for _, b in some]))) for size, some in by.items()}
        for name, by in taken.items()
    }


# ---- a restore ------------------------------------------------------------------------------------------------------------------


def time_restore(kept: Kept, repeats: int) -> dict[str, float]:
    """Return how long an empty ledger takes to become this one from its changelog, the best of some, and what that was."""
    assert kept.log is not None
    best = float("inf")
    for _ in range(repeats):
        ledger = ExecutionLedger()
        began = time.perf_counter()
        ledger.changelog.restore(kept.log.values)
        best = min(best, time.perf_counter() - began)
        for table, other in zip(ledger.tables.values(), kept.ledger.tables.values(), strict=True):
            if table.high != other.high or not np.array_equal(table.rows, other.rows):
                raise SystemExit(f"table {table.name} differs after the restore")
    return {"seconds": best, "values": len(kept.log.values), "mb": kept.log.size / 1e6}


# ---- an hour of traffic ---------------------------------------------------------------------------------------------------------


def hour_of_traffic(rate: float, seconds: float, commit_ms: float) -> Iterator[tuple[ExecutionLogic, Log]]:
    """Yield (lane, its changelog) after every commit of so many seconds of trade reports, replayed as fast as it goes through the flow's logic.

    Routes and acknowledgements come with the orders they belong to, `OPEN_ORDERS` at a time.
    """
    logic = ExecutionLogic(0, 1, load_reference(Path(schemas.__path__[0]) / "simulation.toml"))
    load, log = Load(), Log()
    each = max(1, round(rate * commit_ms / 1e3))
    group = max(1, min(OPEN_ORDERS, int(rate * 10) // FILLS_EACH))
    offset = first_order = 0
    now_ns, end_ns = START_NS, START_NS + int(seconds * 1e9)
    while now_ns < end_ns:
        orders = np.arange(first_order, first_order + group)
        keys = load.keys(orders)
        executions, part = interleaved(first_order, group, group)
        reports = load.reports(executions, part, now_ns + (np.arange(len(executions)) / rate * 1e9).astype(np.int64))
        report_keys = load.keys(executions // FILLS_EACH)
        logic.process(chunk_of(ROUTE, 0, load.routes(orders, now_ns), keys, first_order, now_ns), now_ns)
        logic.process(chunk_of(ACK, 0, load.acks(orders, now_ns), keys, first_order, now_ns), now_ns)
        for at in range(0, len(reports), each):
            now_ns += int(commit_ms * 1e6)
            logic.process(chunk_of(REPORT, 0, reports[at : at + each], report_keys[at : at + each], offset, now_ns), now_ns)
            offset += len(reports[at : at + each])
            logic.tick(now_ns)
            log.append(logic, logic.capture())
            yield logic, log
        first_order += group


def replay_hour(rate: float, seconds: float, commit_ms: float) -> dict[str, Any]:
    """Replay it; return sizes of changelog and state, and what share of the state each table has."""
    ratios, commits, began = [], 0, time.perf_counter()
    for logic, log in hour_of_traffic(rate, seconds, commit_ms):
        commits += 1
        tables = logic.ledger.tables
        if commits % 400 == 0:
            ratios.append(log.size / state_bytes(logic.ledger))
    state = state_bytes(logic.ledger)
    counters = logic.counters()
    if counters["published"] != counters["received"] or counters["balance_mismatch"]:
        raise SystemExit(f"not all of the traffic was published: {counters}")
    return {
        "reports": counters["fills_published"],
        "rows": {name: len(table) for name, table in tables.items() if len(table)},
        "commits": commits,
        "state_mb": state / 1e6,
        "memory_mb": sum(table.nbytes for table in tables.values()) / 1e6,
        "memory_per_report": sum(table.nbytes for table in tables.values()) / counters["fills_published"],
        "log_mb": log.size / 1e6,
        "ratio": log.size / state,
        "ratio_most": max(ratios[len(ratios) // 4 :], default=log.size / state),
        "seconds": time.perf_counter() - began,
    }


# ---- the command ----------------------------------------------------------------------------------------------------------------


def show(title: str, rows: list[tuple[str, ...]]) -> None:
    """Print a table; the first row is its head."""
    grid = Grid(title=title, title_justify="left")
    for i, name in enumerate(rows[0]):
        grid.add_column(name, justify="left" if i == 0 else "right")
    for row in rows[1:]:
        grid.add_row(*row)
    Console(width=110).print(grid)


def verdict(name: str, value: float) -> str:
    """Return the target and whether it is met."""
    return f"{'met' if value <= TARGETS[name] else 'MISSED'} (at most {TARGETS[name]:g})"


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.state", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--max-rows", type=int, default=SIZES[-1], metavar="N", help="most executions kept (5000000)")
    parser.add_argument("--commits", type=int, default=200, metavar="N", help="commits timed at each size (200)")
    parser.add_argument("--hour-rate", type=float, default=100.0, metavar="N", help="reports per second in the lane, of the hour (100)")
    parser.add_argument("--hour-seconds", type=float, default=3_600.0, metavar="S", help="how much traffic is replayed (3600)")
    parser.add_argument("--commit-ms", type=float, default=25.0, metavar="MS", help="time between commits in it (25)")
    args = parser.parse_args()
    sizes = sorted({size for size in SIZES if size < args.max_rows} | {args.max_rows})
    kept = [Kept(size) for size in sizes]

    commits = time_commits(kept, args.commits)
    growth = {name: by[sizes[-1]][0] / by[sizes[0]][0] for name, by in commits.items()}
    head = ("executions kept", "µs, new ones", "µs, old ones", "bytes, new ones", "MB of state")
    show(
        f"a commit of {DIRTY} executions and {DIRTY} orders; median of {args.commits}",
        [head]
        + [
            (f"{k.executions:,}", *(f"{commits[name][k.executions][0]:.0f}" for name in ("new", "old")),
             f"{commits['new'][k.executions][1]:,.0f}", f"{state_bytes(k.ledger) / 1e6:,.1f}")
            for k in kept
        ]
        + [("largest / smallest", f"{growth['new']:.2f}", f"{growth['old']:.2f}", "", verdict("commit_cost_growth", growth["new"]))],
    )  # fmt: skip

    largest = kept[-1]
    fills = np.array([each for at, each in enumerate(largest.bytes_each) if (at + 1) * 2_000 >= 100_000] or largest.bytes_each)
    # a table is met at any size: every size between the smallest and ten times it counts by its share of the way there
    sized = np.arange(1, len(fills) + 1)
    typical, worst, least = float(np.average(fills, weights=1 / (sized + len(largest.bytes_each) - len(fills)))), fills.max(), fills.min()
    execs = largest.ledger.execs
    show(
        "memory per kept execution, bytes: row, index slots, dirty flag, list of changed rows",
        [
            ("fill level", "bytes", ""),
            ("row alone", f"{execs.dtype.itemsize}", ""),
            ("fullest", f"{least:.1f}", ""),
            ("typical", f"{typical:.1f}", verdict("bytes_per_execution", typical)),
            ("just grown", f"{worst:.1f}", verdict("bytes_per_execution", worst)),
            ("longest pause to make room, ms", f"{largest.pause_s * 1e3:.0f}", f"up to {largest.executions:,}"),
        ],
    )
    del kept, largest

    some = Kept(min(RESTORED, args.max_rows), log=Log())
    restored = time_restore(some, 3)
    restore_1m_s = restored["seconds"] * RESTORED / some.executions
    show(
        f"restore of {some.executions:,} executions with their orders, from the changelog as truncated",
        [
            ("", "", ""),
            ("seconds", f"{restored['seconds']:.2f}", verdict("restore_1m_s", restore_1m_s)),
            ("values", f"{restored['values']:,.0f}", ""),
            ("changelog, MB", f"{restored['mb']:,.1f}", f"{restored['mb'] * 1e6 / state_bytes(some.ledger):.2f} of the state"),
        ],
    )
    del some

    hour = replay_hour(args.hour_rate, args.hour_seconds, args.commit_ms)
    show(
        f"{args.hour_seconds:,.0f} s of {args.hour_rate:g} reports/s in one lane, {hour['commits']:,} commits, in {hour['seconds']:.0f} s",
        [
            ("", "", ""),
            ("executions", f"{hour['reports']:,}", ""),
            *((f"rows in {name}", f"{count:,}", "") for name, count in hour["rows"].items()),
            ("state, MB", f"{hour['state_mb']:,.1f}", f"{hour['memory_per_report']:.0f} bytes of memory per execution, all tables"),
            ("changelog, MB", f"{hour['log_mb']:,.1f}", ""),
            ("changelog / state", f"{hour['ratio']:.2f}", verdict("changelog_ratio", hour["ratio"])),
            ("the most, once a quarter is through", f"{hour['ratio_most']:.2f}", ""),
        ],
    )
    result = {
        "benchmark": "state",
        "max_rows": sizes[-1],
        "commit_us": {name: {str(size): round(by[size][0], 1) for size in sizes} for name, by in commits.items()},
        "commit_bytes": {name: {str(size): round(by[size][1]) for size in sizes} for name, by in commits.items()},
        "commit_cost_growth": round(growth["new"], 2),
        "commit_cost_growth_old_rows": round(growth["old"], 2),
        "bytes_per_execution": round(float(worst), 1),
        "bytes_per_execution_row": execs.dtype.itemsize,
        "bytes_per_execution_fullest": round(float(least), 1),
        "bytes_per_execution_typical": round(typical, 1),
        "restore_1m_s": round(restore_1m_s, 3),
        "changelog_ratio": round(hour["ratio"], 2),
        "restore": {name: round(value, 3) for name, value in restored.items()},
        "hour": {name: round(value, 2) if isinstance(value, float) else value for name, value in hour.items()},
    }  # fmt: skip
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
