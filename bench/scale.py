"""`python -m bench.scale`: the same backlog drained by one, two, four workers: fills per second and per processor second, fairness, what limits it.

One real broker, 16 lanes; load, start signal and clock as in bench/execution.py: the backlog becomes visible at once, the clock stops when the
last fill can be read. Every fill is compared with what the load must come to. One line of JSON for each number of workers.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaException
from rich.console import Console
from rich.table import Table

from bench.backlog import RATE, Load, Maker
from bench.driver import REFERENCE, Driver, DriverError, broker, children, put_away, warm
from bench.execution import FILLS, QUIET_S, SECOND, WARM_RECORDS, BenchError, Drain, cpu_seconds, send, told
from bench.ledger import Cluster, ReadError
from bench.open_loop import busy_s
from bench.oracle import lane_of
from bench.verdict import say
from bench.warm_broker import child_java, warm_broker
from connectors.kafka_server import BrokerUnavailable
from schemas.reference import load_reference
from tests.conftest import fresh_topics

LAG_EVERY_S = 0.25
SHOWN_LAGS = 10
BUSY = 0.9
"""Of the machine's cores, or of one core: above this share it is what limits."""
_CORRELATION = b'"correlation_id":"'


@dataclass
class Result:
    """What so many workers did with the backlog. By worker: `lanes`, `fills`, `cpu_s`. `lags`: (seconds since the start, records left)."""

    workers: int
    seconds: float
    lanes: dict[str, list[int]]
    fills: dict[str, int]
    cpu_s: dict[str, float]
    broker_cpu_s: float | None
    others_cpu_s: float
    right: bool
    lags: list[tuple[float, int]] = field(default_factory=list)

    @property
    def per_s(self) -> float:
        """Fills published per second."""
        return sum(self.fills.values()) / self.seconds

    @property
    def per_cpu_s(self) -> float:
        """Fills per processor second of all workers."""
        return sum(self.fills.values()) / max(0.01, sum(self.cpu_s.values()))

    @property
    def fairness(self) -> float:
        """Fills of the worker with the fewest to those of the one with the most."""
        return min(self.fills.values()) / max(1, max(self.fills.values()))

    def cores(self, cpu_s: float | None) -> float | None:
        """Return processor seconds as cores in use all the time."""
        return None if cpu_s is None else round(cpu_s / self.seconds, 2)

    def line(self) -> dict[str, Any]:
        """Return the figures of the line."""
        return {
            "benchmark": "scale",
            "workers": self.workers,
            "fills_per_s": round(self.per_s),
            "fills_per_cpu_s": round(self.per_cpu_s),
            "worker_cores": self.cores(sum(self.cpu_s.values())),
            "busiest_worker_cores": self.cores(max(self.cpu_s.values())),
            "broker_cores": self.cores(self.broker_cpu_s),
            "others_cores": self.cores(self.others_cpu_s),
            "cores": os.cpu_count(),
            "fairness": round(self.fairness, 3),
            "lanes": {worker: len(lanes) for worker, lanes in sorted(self.lanes.items())},
            "fills": dict(sorted(self.fills.items())),
            "seconds": round(self.seconds, 2),
            "lag": [(round(at, 1), left) for at, left in thinned(self.lags, SHOWN_LAGS)],
            "limit": limit(self),
            "equal": self.right,
        }


def thinned(rows: Sequence[tuple[float, int]], count: int) -> list[tuple[float, int]]:
    """Return at most `count` rows, the first and the last among them."""
    if len(rows) <= count:
        return list(rows)
    return [rows[round(i * (len(rows) - 1) / (count - 1))] for i in range(count)]


def limit(result: Result) -> str:
    """Return what the figures say limits the throughput."""
    cores = os.cpu_count() or 1
    ours, theirs = sum(result.cpu_s.values()) / result.seconds, (result.broker_cpu_s or 0.0) / result.seconds
    rest = result.others_cpu_s / result.seconds
    busiest = max(result.cpu_s.values()) / result.seconds
    told = f"workers {ours:.2f}, broker {theirs:.2f}, others {rest:.2f} of {cores} cores"
    if ours + theirs + rest >= BUSY * cores:
        return f"the machine: no core is left ({told})"
    if busiest >= BUSY:
        return f"the worker: the busiest uses {busiest:.2f} cores and folds in one thread ({told})"
    return f"waiting, not processors: commits and fetches of the broker ({told})"


def by_worker(lanes: Mapping[str, Sequence[int]], by_lane: Mapping[int, int]) -> dict[str, int]:
    """Return worker → fills of its lanes."""
    return {worker: sum(by_lane.get(lane, 0) for lane in owned) for worker, owned in lanes.items()}


@dataclass(frozen=True)
class Bench:
    """What is the same for all numbers of workers; the loads as in bench/execution.py."""

    cluster: Cluster
    folder: Path
    partitions: int
    warm_up: Load
    backlog: Load
    timeout_s: float
    broker_pid: int | None

    def run(self, workers: int) -> Result:
        """Let so many workers drain the backlog. Raises BenchError or DriverError when they do not."""
        fresh_topics(self.cluster.bootstrap, self.partitions)
        folder = self.folder / f"{workers}-workers"
        folder.mkdir()
        driver = Driver(self.cluster, folder)
        try:
            flow = driver.start_workers(workers)
            send(self.cluster, self.warm_up.records)
            drain = Drain(flow, folder / "flow.err", self.cluster, self.cluster.places([FILLS]), self.broker_pid)
            drain.wait_for(self.warm_up.truth.count, self.timeout_s, 1.0)
            loader = send(self.cluster, self.backlog.records, transactional=True)
            lanes, pids = driver.wait_for_members(workers), children(flow.pid)
            ends = self.cluster.ends(driver.inputs)
            time.sleep(1.0)  # let page writes and the workers come to rest
            before, broker_before, machine_before = self._cpu(pids)
            begun = time.monotonic()
            loader.commit_transaction(60)
            lags: list[tuple[float, int]] = []
            last: tuple[Any, ...] = ()

            def look() -> None:
                nonlocal last
                last = self._cpu(pids)
                now = time.monotonic() - begun
                if not lags or now - lags[-1][0] >= LAG_EVERY_S:
                    done = driver.committed()
                    lags.append((now, sum(max(0, end - done[place]) for place, end in ends.items())))

            truth = self.warm_up.truth + self.backlog.truth
            ended, _ = drain.wait_for(truth.count, self.timeout_s, QUIET_S, look)
            after, broker_after, machine_after = last
            if children(flow.pid) != pids or driver.owners() != lanes:
                raise BenchError(f"workers fell or lanes moved while the backlog was drained:\n{driver.logs()}")
            driver.stop("flow")
        finally:
            driver.end()
        found, repeated = told(self.cluster, drain.places)
        cpu = {worker: after[worker] - before[worker] for worker in pids}
        broker_s = None if self.broker_pid is None else broker_after - broker_before
        return Result(
            workers,
            ended - begun,
            lanes,
            by_worker(lanes, self._fills_by_lane(drain)),
            cpu,
            broker_s,
            max(0.0, machine_after - machine_before - sum(cpu.values()) - (broker_s or 0.0)),
            found.same(truth) and not repeated,
            lags,
        )

    def _cpu(self, pids: Mapping[str, int]) -> tuple[dict[str, float], float, float]:
        """Return processor seconds so far: by worker, the broker's, the machine's."""
        broker_s = 0.0 if self.broker_pid is None else cpu_seconds([self.broker_pid])
        return {worker: cpu_seconds([pid]) for worker, pid in pids.items()}, broker_s, busy_s()

    def _fills_by_lane(self, drain: Drain) -> Counter[int]:
        """Return lane → fills of the backlog: fills are keyed by book, so the lane is that of their correlation."""
        before = {record.key for record in self.warm_up.records}
        found: Counter[int] = Counter()
        for _, record in self.cluster.read(drain.places):
            at = record.value.find(_CORRELATION) + len(_CORRELATION)
            correlation = record.value[at : record.value.find(b'"', at)]
            if correlation not in before:
                found[lane_of(correlation, self.partitions)] += 1
        return found


def show(results: Sequence[Result], load: Load) -> None:
    """Print the table."""
    table = Table(title=f"{len(load.records):,} records ({load.bytes / 1e6:.0f} MB) → {load.truth.count:,} fills", title_justify="left")
    for name in ("workers", "fills/s", "to one", "fills/CPU s", "worker cores", "broker cores", "others", "lanes", "fairness", "output"):
        table.add_column(name, justify="right")
    for r in results:
        line = r.line()
        table.add_row(
            str(r.workers),
            f"{r.per_s:,.0f}",
            f"{r.per_s / results[0].per_s:.2f} ×",
            f"{r.per_cpu_s:,.0f}",
            f"{line['worker_cores']:.2f}",
            "" if line["broker_cores"] is None else f"{line['broker_cores']:.2f}",
            f"{line['others_cores']:.2f}",
            "/".join(str(n) for n in line["lanes"].values()),
            f"{r.fairness:.2f}",
            "equal" if r.right else "[red]WRONG[/red]",
        )
    Console(width=120 if not sys.stdout.isatty() else None).print(table)
    for r in results:
        print(f"{r.workers} workers are limited by {limit(r)}")
        print("  left after: " + ", ".join(f"{at:.1f} s {left:,}" for at, left in thinned(r.lags, SHOWN_LAGS)))


def main(argv: list[str] | None = None) -> int:
    """Drain the backlog with every number of workers; return 0 only if every output was what the load must come to."""
    parser = argparse.ArgumentParser(prog="python -m bench.scale", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--workers", default="1,2,4", metavar="LIST", help="numbers of workers, with commas (1,2,4)")
    parser.add_argument("--records", type=int, default=200_000, metavar="N", help="input records of the backlog, quotes too (200000)")
    parser.add_argument("--partitions", type=int, default=16, metavar="N", help="lanes (16)")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of the load (1)")
    parser.add_argument("--timeout", type=float, default=600.0, metavar="S", help="most seconds for one drain (600)")
    parser.add_argument("--wipe", action="store_true", help="delete hedgerow's topics and all consumer groups at HEDGEROW_KAFKA first")
    parser.add_argument("--keep", action="store_true", help="keep the logs and our own broker's data, and say where")
    args = parser.parse_args(argv)
    try:
        counts = [int(count) for count in args.workers.split(",")]
    except ValueError:
        parser.error("--workers must be numbers, separated by commas")
    if not all(1 <= count <= args.partitions for count in counts) or not 1 <= args.partitions <= 256:
        parser.error("--workers must be 1 to the number of lanes, --partitions 1 to 256")
    if not 1_000 <= args.records <= 5_000_000 or not 1 <= args.seed < 1_000:
        parser.error("--records must be 1,000 to 5,000,000, --seed 1 to 999")
    if os.environ.get("HEDGEROW_KAFKA") and not args.wipe:
        parser.error("HEDGEROW_KAFKA is set: give --wipe to let hedgerow's topics and all consumer groups there be deleted")
    folder = Path(tempfile.mkdtemp(prefix="hedgerow-scale-"))
    good = False
    try:
        maker = Maker(load_reference(REFERENCE), args.seed)
        start_ns = time.time_ns() - int((args.records + 2 * WARM_RECORDS) / RATE * SECOND) - 20 * SECOND
        warm_up, backlog = maker.load(WARM_RECORDS, start_ns), maker.load(args.records, start_ns + 5 * SECOND)
        with broker(folder, args.wipe) as (cluster, _):
            warm(cluster)
            warm_broker(cluster.bootstrap)
            bench = Bench(cluster, folder, args.partitions, warm_up, backlog, args.timeout, child_java())
            results = []
            for count in counts:
                results.append(bench.run(count))
                say(f"{count} workers: {results[-1].per_s:,.0f} fills/s{'' if results[-1].right else ', WRONG'}")
        show(results, backlog)
        for result in results:
            print(json.dumps(result.line()), flush=True)
        good = all(result.right for result in results)
    except (DriverError, BenchError, BrokerUnavailable, ReadError, KafkaException) as error:
        say(str(error))
    put_away(folder, args.keep, good)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
