"""How long a report takes to be a fill, or a hedge: on a real Kafka, exactly once, by rate of reports, and where the time goes.

Run `python -m bench.latency [--flow hedger] [--rates 1000,20000] [--seconds 20] [--rebalance] [--pipe]`; one line of JSON per rate. The load is an open loop:
when each report is to be sent is settled before the run, and a slow worker never slows the load. Latency is told twice: from the moment the broker took
the report (`p50_ms` …, what the service level says) and from the moment it was due to be sent (`due_…`), which hides no stall of anybody. It ends when a
read_committed consumer in a process of its own has the fill (with `--flow hedger`: the hedge) in hand. Method and figures: docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType  # type: ignore[attr-defined]
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from bench import hedged
from bench.driver import Driver, DriverError, broker, empty_topics, warm
from bench.ledger import Cluster, ReadError
from bench.load import FILL, FILLS_EACH, REPORT, Load
from bench.open_loop import (
    COVER,
    GROUP_OF_ORDERS,
    LEAD_S,
    QUANTILES,
    READY_TIMEOUT_S,
    Gate,
    Meter,
    Step,
    broker_times,
    check,
    execution_of,
    generate,
    quantiles,
)
from bench.warm_broker import child_java, warm_broker
from connectors.kafka_server import BrokerUnavailable, free_port
from flows.settings import Settings, variable
from schemas.registry import EXECUTION_CHANGELOG

QUOTES_PER_S = 1_000.0
"""A fill waits until the tape has passed it: the time between two quotes is part of its latency. Real markets quote more often than this."""
PREPARE_RATE = 2_000.0
"""Of the load that is not counted, in which a broker just started compiles its code."""
FELL_BEHIND = 0.99
"""A line is invalid below this share of the rate asked for."""
LATE_MS = 20.0
"""A line is invalid when one in a hundred reports was handed to the client later than this."""
RATES = {"execution": "1000,20000", "hedger": "5000"}
TARGETS = {"execution": {1_000: {"p95_ms": 30.0}, 20_000: {"p50_ms": 20.0, "p95_ms": 40.0, "p99_ms": 80.0}}, "hedger": hedged.TARGETS}
STAGES = ("due to taken by the broker", "taken to folded", "folded to written", "written to commit", "commit to visible")
"""Broker times are whole milliseconds, cut off: a stage that begins with one reads up to 1 ms too long, one that ends with one too short."""
Times = NDArray[np.int64]


# ---- what came of it ------------------------------------------------------------------------------------------------------------


@dataclass
class Figures:
    """One line of the result."""

    rate: float
    line: dict[str, Any]
    stages: dict[str, NDArray[np.float64]]
    notes: dict[str, Any]
    what: str = "visible"

    @property
    def valid(self) -> bool:
        """Return whether the load was what it should have been."""
        return self.line["valid"] is True


def judge(step: Step, start_ns: int, warmup_s: float, taken: Times, changelog: Times, metrics: dict[str, float]) -> Figures:
    """Return the figures of a rate. taken: when the broker took each report (ns), in the order sent; changelog: the same of changelog records."""
    executions, _, due_ns = step.plan()
    n = len(executions)
    by_number = np.argsort(executions)
    sorted_numbers = executions[by_number]
    seen = np.load(step.folder / "seen.npz")
    late = np.load(step.folder / "sent.npz")["late_ms"]
    at = np.minimum(np.searchsorted(sorted_numbers, seen["number"]), n - 1)
    ours = sorted_numbers[at] == seen["number"]
    order, first = np.unique(by_number[at[ours]], return_index=True)
    repeated = int(ours.sum()) - len(order)
    visible, folded, written = (seen[name][ours][first] for name in ("visible", "made", "written"))
    due = start_ns + due_ns[order]
    counted = due_ns[order] >= warmup_s * 1e9
    taken_ns, written_ns = taken[order], written * 1_000_000
    at = np.minimum(np.searchsorted(changelog, written_ns), len(changelog) - 1)
    began = np.clip(changelog[at], written_ns, np.maximum(visible, written_ns))
    stages = {
        name: ((b - a) / 1e6)[counted]
        for name, a, b in zip(
            STAGES, (due, taken_ns, folded, written_ns, began), (taken_ns, folded, written_ns, began, visible), strict=True
        )
    }
    span_s = (taken.max() - taken.min()) / 1e9
    achieved = (n - 1) / span_s if span_s else 0.0
    asked = (n - 1) / (int(due_ns[-1]) / 1e9)
    late_p99 = float(np.percentile(late, 99))
    wrong = {
        f"{n - len(order)} fills are missing": len(order) < n,
        f"{repeated} fills came twice": repeated > 0,
        f"the broker took {achieved / asked:.0%} of the rate": achieved < FELL_BEHIND * asked,
        f"one report in a hundred was sent {late_p99:.0f} ms late or more": late_p99 > LATE_MS,
    }
    line: dict[str, Any] = {
        "benchmark": "latency",
        "flow": "execution",
        "rate": step.rate,
        "valid": not any(wrong.values()),
        "invalid_because": [text for text, true in wrong.items() if true],
        **quantiles(((visible - taken_ns) / 1e6)[counted]),
        **quantiles(((visible - due) / 1e6)[counted], "due_"),
        "achieved_rate": round(achieved, 1),
        "fills": len(order),
        "missing": n - len(order),
        "repeated": repeated,
        "generator_late_p99_ms": round(late_p99, 1),
        **metrics,
        "stages_p50_ms": {name: round(float(np.percentile(values, 50)), 1) for name, values in stages.items()},
        "stages_p95_ms": {name: round(float(np.percentile(values, 95)), 1) for name, values in stages.items()},
    }
    return Figures(step.rate, line, stages, {})


# ---- a run ----------------------------------------------------------------------------------------------------------------------


def stamp_topics(cluster: Cluster, names: tuple[str, ...]) -> None:
    """Let the broker write when it took each record of these topics."""
    entry = ConfigEntry("message.timestamp.type", "LogAppendTime", incremental_operation=AlterConfigOpType.SET)
    asked = [ConfigResource(ResourceType.TOPIC, name, incremental_configs=[entry]) for name in names]
    for answer in cluster.admin.incremental_alter_configs(asked).values():
        answer.result(30)


class Bench:
    """One worker of the execution flow, and the load at one rate after the other."""

    def __init__(self, cluster: Cluster, folder: Path, options: argparse.Namespace, broker_pid: int | None) -> None:
        self.cluster, self.folder, self.options = cluster, folder, options
        self.run = Driver(cluster, folder)
        self.load = Load(options.seed)
        self._context = multiprocessing.get_context("spawn")
        self._metrics_port = free_port()
        self._broker_pid = broker_pid
        self._first_order = 0
        self._settings = dict(options.set)
        self._worker: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the worker and return when it owns every lane."""
        self._worker = self._start_worker()
        self.run.wait_for_members(1)

    def _start_worker(self) -> subprocess.Popen[bytes]:
        words = ("run", "execution", "--worker", "execution-0", "--metrics-port", str(self._metrics_port))
        return self.run.command("worker", *words, **self._settings)

    def stop(self) -> None:
        """Stop the worker in good order."""
        self.run.stop("worker")

    def end(self) -> None:
        """End whatever still runs."""
        self.run.end()

    def measure(self, rate: float, seconds: float, rebalance: bool) -> Figures:
        """Put the load on and return what came of it."""
        o = self.options
        step = self._step(rate, seconds)
        starts = self.cluster.ends(self.cluster.places([REPORT, EXECUTION_CHANGELOG]))
        known, gate, checked = (Gate(self._context) for _ in range(3))
        load = self._process(generate, self.cluster, step, self.load, known, gate)
        self._await(known, load)
        known.open(0)
        self._await(gate, load)
        self._recover("the orders")  # every route and acknowledgement is in
        checker = self._process(check, self.cluster, step, checked)
        self._await(checked, checker)
        start_ns = time.time_ns() + int(LEAD_S * 1e9)
        checked.open(start_ns)
        gate.open(start_ns)
        time.sleep(max(0.0, start_ns / 1e9 + o.warmup - time.time()))
        meters = self._meters({"load": load.pid or 0, "checker": checker.pid or 0})
        notes = self._rebalance(start_ns, step) if rebalance else {}
        end_s = start_ns / 1e9 + step.orders * FILLS_EACH / rate
        time.sleep(max(0.0, end_s - time.time() - 0.2))
        metrics = {name: value for meter in meters for name, value in meter.read().items()}
        for process, what in ((load, "the load"), (checker, "the checker")):
            process.join(seconds + 120)
            if process.exitcode != 0:
                raise DriverError(f"{what} ended with code {process.exitcode}\n{self.run.logs()}")
        self._recover("the run")
        executions = step.plan().executions
        taken = np.zeros(len(executions), np.int64)
        place = {int(number): i for i, number in enumerate(executions)}
        for ms, value in broker_times(self.cluster, {where: at for where, at in starts.items() if where[0] == REPORT}):
            taken[place[execution_of(value)]] = ms * 1_000_000
        log = {where: at for where, at in starts.items() if where[0] == EXECUTION_CHANGELOG}
        changelog = np.sort(np.array([ms * 1_000_000 for ms, _ in broker_times(self.cluster, log)], np.int64))
        figures = self._judge(step, start_ns, taken, changelog, metrics)
        figures.notes.update(notes)
        figures.line.update({"settings": self._settings} if self._settings else {})
        figures.line.update(notes)
        return figures

    def _step(self, rate: float, seconds: float) -> Step:
        folder = Path(tempfile.mkdtemp(prefix=f"{rate:g}-", dir=self.folder))
        groups = -(-int(rate * (seconds + self.options.warmup)) // (FILLS_EACH * GROUP_OF_ORDERS))
        step = Step(rate, self.options.quotes, self._first_order, groups * GROUP_OF_ORDERS, folder, self.options.warmup)
        self._first_order += step.orders
        return step

    def _recover(self, what: str) -> None:
        self.run.recover(what)

    def _meters(self, pids: dict[str, int]) -> list[Meter]:
        assert self._worker is not None
        pids = {"worker": self._worker.pid, **pids} | ({"broker": self._broker_pid} if self._broker_pid else {})
        return [Meter(self._metrics(self._metrics_port), pids)]

    def _metrics(self, port: int) -> str:
        return f"http://127.0.0.1:{port}/metrics"

    def _judge(self, step: Step, start_ns: int, taken: Times, changelog: Times, metrics: dict[str, float]) -> Figures:
        return judge(step, start_ns, self.options.warmup, taken, changelog, metrics)

    def _rebalance(self, start_ns: int, step: Step) -> dict[str, Any]:
        """Let a second worker join at a third of the time and leave at two."""
        span = step.orders * FILLS_EACH / step.rate

        def wait(share: float) -> None:
            time.sleep(max(0.0, start_ns / 1e9 + share * span - time.time()))

        wait(1 / 3)
        began = time.monotonic()
        self.run.command("extra", "run", "execution", "--worker", "execution-1", **self._settings)
        self.run.wait_for_members(2)
        joined = time.monotonic() - began
        wait(2 / 3)
        began = time.monotonic()
        self.run.stop("extra")
        self.run.wait_for_members(1)
        return {"joined_s": round(joined, 1), "left_s": round(time.monotonic() - began, 1)}

    def _process(self, work: Callable[..., None], *words: Any) -> Any:
        process = self._context.Process(target=work, args=words, daemon=True)
        process.start()
        return process

    def _await(self, gate: Gate, process: Any) -> None:
        deadline = time.monotonic() + READY_TIMEOUT_S
        while not gate.ready():
            if process.exitcode is not None or time.monotonic() > deadline:
                raise DriverError(f"a process of the benchmark did not get ready (exit code {process.exitcode})")
            time.sleep(0.05)


class PipeBench(Bench):
    """The same load through a bare pipe: what there is left when the worker costs nothing (bench/pipe.py)."""

    def _start_worker(self) -> subprocess.Popen[bytes]:
        pace = (("commit_interval_ms", "--commit-ms"), ("fetch_wait_ms", "--fetch-ms"))
        words = [word for name, option in pace if variable(name) in self._settings for word in (option, self._settings[variable(name)])]
        return self.run.command("pipe", *words, module="bench.pipe")

    def stop(self) -> None:
        """Stop the pipe in good order."""
        self.run.stop("pipe")

    def _judge(self, step: Step, start_ns: int, taken: Times, changelog: Times, metrics: dict[str, float]) -> Figures:
        cores = {name: value for name, value in metrics.items() if name.endswith("_cores")}  # it tells nothing else of itself
        figures = super()._judge(step, start_ns, taken, changelog, cores)
        figures.line["flow"] = "pipe"
        return figures


class HedgedBench(Bench):
    """Both flows, a worker each; beside the load a market, the risk agent, and an order agent that fills every hedge. Probes are measured."""

    def __init__(self, cluster: Cluster, folder: Path, options: argparse.Namespace, broker_pid: int | None) -> None:
        super().__init__(cluster, folder, options, broker_pid)
        self.load: hedged.HedgedLoad = hedged.HedgedLoad(options.seed, options.busy_books, options.probe_books)
        self.hedger_run = Driver(cluster, folder, "hedger")
        reference = folder / "reference.toml"
        reference.write_text(hedged.REFERENCE)
        self._settings[variable("reference")] = str(reference)
        self._hedger_port = free_port()
        self._stop_agents = self._context.Event()
        self._quoted, self._answered = self._context.Value("q", 0), self._context.Value("q", 0)
        self._agents: dict[str, Any] = {}
        self._first_probe = 0
        self._hedger: subprocess.Popen[bytes] | None = None
        self._quotes_before = (0, 0.0)

    def start(self) -> None:
        """Start the market and those who answer; when an hour's quotes are there both workers; return when they own every lane."""
        o = self.options
        hedged.publish_universes(self.cluster, self.load)
        market, orders = Gate(self._context), Gate(self._context)
        self._agents["market"] = self._process(hedged.run_market, self.cluster, o.seed, o.quotes, market, self._stop_agents, self._quoted)
        self._agents["orders"] = self._process(hedged.answer_hedges, self.cluster, orders, self._stop_agents, self._answered)
        self._await(market, self._agents["market"])
        self._await(orders, self._agents["orders"])
        self._worker = self._start_worker()
        words = [str(o.profile)] if o.profile else []
        words += ["run", "hedger", "--worker", "hedger-0", "--metrics-port", str(self._hedger_port)]
        self._hedger = self.hedger_run.command("hedger", *words, module="bench.profiled" if o.profile else "flows", **self._settings)
        self.run.wait_for_members(1)
        self.hedger_run.wait_for_members(1)

    def stop(self) -> None:
        """Stop the workers in good order."""
        self.run.stop("worker")
        self.hedger_run.stop("hedger")

    def end(self) -> None:
        """End whatever still runs."""
        self._stop_agents.set()
        self.run.end()
        self.hedger_run.end()
        for process in self._agents.values():
            process.join(15)
            if process.exitcode is None:
                process.terminate()

    def _step(self, rate: float, seconds: float) -> Step:
        plain, o = super()._step(rate, seconds), self.options
        probes = int((plain.orders * FILLS_EACH / rate - plain.warmup_s) * o.probes)
        self._first_probe += probes
        return replace(
            plain, quotes_per_s=0.0, first_probe=self._first_probe - probes, probes=probes, probe_rate=o.probes, probe_books=o.probe_books
        )

    def _recover(self, what: str) -> None:
        super()._recover(what)
        self.hedger_run.recover(f"{what}, in the hedger")

    def _meters(self, pids: dict[str, int]) -> list[Meter]:
        assert self._hedger is not None
        pids = {**pids, "hedger": self._hedger.pid, **{name: process.pid or 0 for name, process in self._agents.items()}}
        self._quotes_before = (int(self._quoted.value), time.monotonic())
        return [*super()._meters(pids), HedgerMeter(self._metrics(self._hedger_port), {}, hedged.COUNTED)]

    def _judge(self, step: Step, start_ns: int, taken: Times, changelog: Times, metrics: dict[str, float]) -> Figures:
        before, when = self._quotes_before
        quotes_per_s = (self._quoted.value - before) / (time.monotonic() - when)
        base = super()._judge(step, start_ns, taken, changelog, metrics)
        probed, stages, wrong, lost = hedged.judge_probes(step, start_ns, taken)
        if quotes_per_s < FELL_BEHIND * self.options.quotes:
            wrong.append(f"only {quotes_per_s:.0f} quotes a second")
        for name, process in self._agents.items():
            if process.exitcode is not None:
                wrong.append(f"{name} ended with code {process.exitcode}")
        wrong = [*base.line.pop("invalid_because"), *wrong]
        of_fills = {f"all_fills_{name}": base.line.pop(name) for name in [f"{prefix}{q}_ms" for prefix in ("", "due_") for q in QUANTILES]}
        line = base.line | {
            "flow": "hedger",
            "valid": not wrong,
            "invalid_because": wrong,
            **probed,
            "quotes_per_s": round(quotes_per_s, 1),
            "legs_filled_so_far": int(self._answered.value),
            "busy_books": self.options.busy_books,
            "probe_books": self.options.probe_books,
            **of_fills,
            "stages_p50_ms": {name: quantiles(values)["p50_ms"] for name, values in stages.items()},
            "stages_p95_ms": {name: quantiles(values)["p95_ms"] for name, values in stages.items()},
        }
        if lost:
            line["unanswered"] = hedged.why_unanswered(self.cluster, lost)
        return Figures(step.rate, line, stages, {}, "the hedge visible")


class HedgerMeter(Meter):
    """The hedger worker's own figures, under names of their own."""

    def read(self) -> dict[str, float]:
        """Return them, `others_cores` left out."""
        return {
            name if name.startswith("hedge") else f"hedger_{name}": value
            for name, value in super().read().items()
            if name != "others_cores"
        }


# ---- the command ----------------------------------------------------------------------------------------------------------------


def show(figures: Figures, rebalance: bool) -> None:
    """Print the figures of a rate and where the time goes."""
    line = figures.line
    told = "" if figures.valid else f"   INVALID: {'; '.join(line['invalid_because'])}"
    table = Table(
        title=f"{line['flow']}: {figures.rate:,.0f} reports/s asked, {line['achieved_rate']:,.0f} taken by the broker{told}",
        title_justify="left",
    )
    for name in ("ms", "p50", "p95", "p99", "max"):
        table.add_column(name, justify="left" if name == "ms" else "right")

    def add(name: str, values: Mapping[str, float], prefix: str = "") -> None:
        table.add_row(name, *(f"{values[f'{prefix}{q}_ms']:.1f}" for q in QUANTILES))

    add(f"taken by the broker to {figures.what}", line)
    add(f"due to {figures.what}", line, "due_")
    table.add_section()
    for stage, values in figures.stages.items():
        add(f"  {stage}", quantiles(values))
    Console(width=110).print(table)
    targets = {} if rebalance or line["flow"] == "pipe" else TARGETS[line["flow"]].get(round(figures.rate), {})
    for name, most in targets.items():
        print(f"  {name} {line[name]:.1f}: {'met' if line[name] <= most else 'MISSED'} (at most {most:g})")
    shown = (
        "commits_per_s",
        "commit_mean_ms",
        "records_per_chunk",
        "probes",
        "answered",
        "answered_again",
        "hedger_decisions_per_s",
        "busy_hedges",
    )
    names = [*shown, *(name for name in line if name.endswith("_cores"))]
    print("  " + ", ".join(f"{name} {line[name]:g}" for name in names if name in line))
    for name, note in figures.notes.items():
        print(f"  {name} {note}")


def setting(text: str) -> tuple[str, str]:
    """Return the environment variable and value of a setting of hedgerow."""
    name, equals, value = text.partition("=")
    if not equals or name not in Settings.model_fields:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE with a name from docs/settings.md")
    return variable(name), value


def main(argv: list[str] | None = None) -> int:
    """Measure each rate; return 0 only if every line is valid."""
    parser = argparse.ArgumentParser(prog="python -m bench.latency", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--flow", choices=tuple(RATES), default="execution", help="to the fill (execution), or through both flows to the hedge"
    )
    parser.add_argument("--rates", metavar="N,N", help="reports per second, one after the other (1000,20000; hedger: 5000)")
    parser.add_argument("--quotes", type=float, default=QUOTES_PER_S, metavar="N", help="market quotes per second (1000)")
    parser.add_argument("--seconds", type=float, default=20.0, metavar="S", help="how long each rate is measured (20)")
    parser.add_argument("--warmup", type=float, default=3.0, metavar="S", help="how long it runs before that (3)")
    parser.add_argument("--prepare", type=float, default=15.0, metavar="S", help="how long the flows run before all, 0 for not (15)")
    parser.add_argument("--partitions", type=int, default=4, metavar="N", help="lanes (4)")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of the ids (1)")
    parser.add_argument(
        "--set", type=setting, action="append", default=[], metavar="NAME=VALUE", help="a setting of the worker, as commit_interval_ms=25"
    )
    parser.add_argument("--probes", type=float, default=25.0, metavar="N", help="hedger: probes per second (25)")
    parser.add_argument("--probe-books", type=int, default=100, metavar="N", help="hedger: books they take turns in (100)")
    parser.add_argument("--busy-books", type=int, default=16, metavar="N", help="hedger: books the load goes to (16)")
    parser.add_argument(
        "--profile", type=Path, metavar="FOLDER", help="hedger: its worker tells there where its time goes (bench/profiled.py)"
    )
    parser.add_argument("--rebalance", action="store_true", help="a second worker joins and leaves during each run")
    parser.add_argument(
        "--pipe", action="store_true", help="execution: then the same through a bare pipe, which is what the platform costs"
    )
    parser.add_argument("--wipe", action="store_true", help="delete hedgerow's topics and all consumer groups at HEDGEROW_KAFKA first")
    parser.add_argument("--keep", action="store_true", help="keep logs and times, and say where")
    args = parser.parse_args(argv)
    try:
        rates = [float(rate) for rate in (args.rates or RATES[args.flow]).split(",")]
    except ValueError:
        parser.error("--rates must be numbers, separated by commas")
    if not all(10 <= rate <= 1e6 for rate in rates) or args.seconds * min(rates) < 100:
        parser.error("--rates must be 10 to 1,000,000, and --seconds long enough for 100 reports")
    if not 1 <= args.busy_books <= 10_000 or not 1 <= args.probes <= 1_000 or not 2 * args.probes <= args.probe_books <= 10_000:
        parser.error(
            "--busy-books must be 1 to 10,000, --probes 1 to 1,000, --probe-books 2 × --probes to 10,000 (a book rests between two)"
        )
    if args.flow == "hedger" and args.rebalance:
        parser.error("--rebalance is for the execution flow")
    if args.pipe and (args.flow != "execution" or args.rebalance):
        parser.error("--pipe is for the execution flow, without --rebalance")
    kinds: list[type[Bench]] = [HedgedBench if args.flow == "hedger" else Bench, *([PipeBench] if args.pipe else [])]
    folder = Path(tempfile.mkdtemp(prefix="hedgerow-latency-"))
    good, kept = True, args.keep
    try:
        with broker(folder, args.wipe) as (cluster, may_delete):
            warm(cluster)
            warm_broker(cluster.bootstrap)
            empty_topics(cluster, args.partitions, may_delete)
            stamp_topics(cluster, (REPORT, FILL, EXECUTION_CHANGELOG, COVER))
            for kind in kinds:
                bench = kind(cluster, folder, args, child_java())
                try:
                    bench.start()
                    if args.prepare:
                        bench.measure(PREPARE_RATE, args.prepare, rebalance=False)
                    for rate in rates:
                        figures = bench.measure(rate, args.seconds, args.rebalance)
                        show(figures, args.rebalance)
                        print(json.dumps(figures.line), flush=True)
                        good = good and figures.valid
                    bench.stop()
                finally:
                    bench.end()
    except (DriverError, BrokerUnavailable, ReadError) as error:
        print(f"latency: {error}", file=sys.stderr)
        good, kept = False, True
    finally:
        shutil.rmtree(folder / "kafka", ignore_errors=True)
        if kept:
            print(f"latency: logs and times are in {folder}", file=sys.stderr)
        else:
            shutil.rmtree(folder, ignore_errors=True)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
