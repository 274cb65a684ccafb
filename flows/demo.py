"""`hedgerow demo`: embedded broker, one execution worker, the simulator and a live board, ending in a table of what was reached.

Starts, shows and stops; what is concluded is in watch.py. The embedded broker has no real transactions, so exactly-once is not proven here
(connectors/mock_broker.py lists its limits).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient
from rich.console import Console
from rich.live import Live

from connectors.kafka_server import free_port
from connectors.mock_broker import MockBroker
from connectors.simulator.faults import parse_faults
from connectors.topics import TopicsError, connect, create_topics, partitions_of
from flows.board import Figures, board, level_lines, level_table, passed, plain_line
from flows.demo_process import Child, DemoError, compile_kernels, environment_with, to_its_end
from flows.run import FLOWS
from flows.settings import load_settings
from flows.watch import (
    ALERTS,
    ALIASES,
    FILLS,
    REPORTS,
    Metrics,
    Reader,
    Sent,
    Tally,
    dead_reasons,
    named,
    read_sent,
    scrape,
    service_levels,
    since,
)
from schemas.registry import TOPICS

LANES = 4
FLOW = "execution"
LEDGER = "ledger.ndjson"

USUAL_SECONDS = 30.0
MOST_RATE, MOST_SECONDS = 4_000.0, 600.0
"""Above this rate two cores do not keep up, and the embedded broker drops what is not read within 5 MB of a partition."""
QUOTES_RATE = 100.0
"""Per instrument and second. A fill waits a little for the next quote; without it, it is flagged `tape_behind` (docs/tca.md)."""
READY_S = 45.0
SETTLE_S = 20.0
STOP_S = 20.0
REFRESH_S, PLAIN_S = 0.5, 2.0
RECENT_S = 5.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `hedgerow demo`."""
    parser.add_argument(
        "--crash", action="store_true", help="a scripted market crash through the dashboard, the canary, its monitor and a webhook"
    )
    parser.add_argument(
        "--hedge",
        action="store_true",
        help="clients, the hedger and an order agent, with breaks of correlation, an outage and a HALT: fill, hedge and fill again",
    )
    parser.add_argument(
        "--seconds",
        type=float,
        metavar="S",
        help="route orders for S seconds, then finish them (30); of a crash: all of it (75); clients who are hedged: 60",
    )
    parser.add_argument("--rate", type=float, default=1_500.0, metavar="N", help="venue reports per second, faulty ones included (1500)")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="the simulator's seed (1)")
    parser.add_argument("--faults", default="all", metavar="LIST", help="as of `hedgerow simulate`: all, none, or names and groups (all)")
    parser.add_argument("--plain", action="store_true", help="a line every 2 s instead of the board (so without a terminal)")
    parser.add_argument("--kafka", metavar="HOST:PORT", help="use this Kafka instead of the embedded broker")


def run(args: argparse.Namespace) -> int:
    """Carry out `hedgerow demo`; return 0 when every correctness row holds, 1 when not, 2 for bad arguments, 130 when interrupted."""
    if args.crash and args.hedge:
        print("hedgerow: --crash and --hedge are two demos: one at a time", file=sys.stderr)
        return 2
    if args.crash:
        if args.kafka is not None:
            print("hedgerow: --crash runs on the embedded broker only, in a time of its own", file=sys.stderr)
            return 2
        from flows import crash_demo

        return crash_demo.run(args)
    if args.hedge:
        if args.kafka is not None:
            print(
                "hedgerow: --hedge runs on the embedded broker; on a Kafka, run the flows and `hedgerow simulate --hedging`",
                file=sys.stderr,
            )
            return 2
        from flows import hedge_demo

        return hedge_demo.run(args)
    args.seconds = USUAL_SECONDS if args.seconds is None else args.seconds
    problem = _bad_arguments(args)
    if problem:
        print(f"hedgerow: {problem}", file=sys.stderr)
        return 2
    console = Console(highlight=False)
    plain = args.plain or not console.is_terminal
    return to_its_end(_Demo(args, console, plain).run)


def _bad_arguments(args: argparse.Namespace) -> str:
    if not 1 <= args.seconds <= MOST_SECONDS:
        return f"--seconds must be from 1 to {MOST_SECONDS:.0f}"
    if not 1 <= args.rate <= MOST_RATE:
        return f"--rate must be from 1 to {MOST_RATE:.0f}; `hedgerow simulate` goes higher, on a real Kafka"
    if not 0 <= args.seed < 2**63:
        return "--seed must be from 0 to 2^63 - 1"
    try:
        parse_faults(args.faults)
    except ValueError as error:
        return f"--{error}"
    return ""


# ---- the run ---------------------------------------------------------------------------------------------------------


class _Demo:
    """One run of the demo."""

    def __init__(self, args: argparse.Namespace, console: Console, plain: bool) -> None:
        self.args = args
        self.console = console
        self.plain = plain
        self.embedded = args.kafka is None
        self.tally = Tally()
        self.figures = Figures(total_s=args.seconds)
        self.history: list[float] = []
        self.p95_history: list[float] = []
        self.lanes = LANES
        self.port = free_port()
        self.last: Metrics | None = None
        self.shown = 0.0

    def run(self) -> int:
        """Run it; return the exit code."""
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hedgerow-demo-")))
            compile_kernels(self._say)
            bootstrap, client = self._broker(stack)
            environment = self._environment(bootstrap)
            self._say(f"starting one worker of the {FLOW} flow")
            worker = Child("worker", ("run", FLOW), environment, folder)
            stack.callback(worker.kill)
            began = self._wait_ready(worker)
            reader = Reader(bootstrap, client, self.tally)
            stack.callback(reader.end)
            reader.start()
            simulator = Child("simulator", self._simulation(folder), environment, folder)
            stack.callback(simulator.kill)
            sent, final, settled = self._watch(worker, simulator, reader, began, folder / LEDGER)
            code = worker.stop(STOP_S)
            reader.end()
            return self._tell(sent, final, reader, settled, code, worker)

    # -- set-up --

    def _say(self, text: str) -> None:
        self.console.print(text if self.plain else f"[green]▸[/] {text}")

    def _broker(self, stack: ExitStack) -> tuple[str, dict[str, Any]]:
        """Return bootstrap and client settings of the broker: the embedded one, started here, or the one that was named."""
        if self.embedded:
            broker = stack.enter_context(MockBroker({name: partitions_of(TOPICS[name], LANES) for name in FLOWS["execution"][1]}))
            self._say(f"the embedded broker listens at {broker.bootstrap}: {len(FLOWS['execution'][1])} topics, {LANES} lanes")
            return broker.bootstrap, {}
        settings = load_settings(kafka=self.args.kafka)
        client = settings.client_config()
        admin = connect(settings.bootstrap, client)
        group = settings.group_of(FLOW)
        members = _members(admin, group)
        if members:
            raise TopicsError(
                f"the group {group} at {settings.bootstrap} has {members} running worker(s): the demo runs its own; stop them first"
            )
        made = create_topics(settings.bootstrap, settings.partitions, settings.replication, client)
        self.lanes = len(admin.list_topics(timeout=10.0).topics[REPORTS].partitions)
        self._say(f"using Kafka at {settings.bootstrap}: {self.lanes} lanes, {len(made)} topics created")
        return settings.bootstrap, client

    def _environment(self, bootstrap: str) -> dict[str, str]:
        own = {"KAFKA": bootstrap, "METRICS_PORT": str(self.port), "METRICS_HOST": "127.0.0.1", "LOG_LEVEL": "WARNING"}
        return environment_with(own, settings=not self.embedded)

    def _simulation(self, folder: Path) -> tuple[str, ...]:
        a = self.args
        numbers = ("--seconds", str(a.seconds), "--rate", str(a.rate), "--seed", str(a.seed))
        return ("simulate", *numbers, "--quotes-rate", str(QUOTES_RATE), "--faults", a.faults, "--ledger", str(folder / LEDGER))

    def _wait_ready(self, worker: Child) -> Metrics:
        """Wait until the worker owns every lane and is through with what an earlier run left; return its metrics then.

        Its lag does not tell: transaction markers at the end of a partition count in it. That its counters stand still does.
        """
        deadline = time.monotonic() + READY_S + (0 if self.embedded else 60)
        still, taken = 0.0, -1.0
        with nullcontext() if self.plain else self.console.status("waiting until it owns its lanes"):
            while time.monotonic() < deadline:
                worker.check()
                found = scrape(self.port)
                if found is not None and found.runtime["hedgerow_lanes_owned"] == self.lanes:
                    records = found.runtime["hedgerow_records_in_total"] + found.runtime["hedgerow_broadcast_records_total"]
                    still, taken = (still + 0.2 if records == taken else 0.0), records
                    if still >= (0.2 if self.embedded else 3.0):
                        return found
                time.sleep(0.2)
        raise DemoError(f"the worker was not ready within {READY_S:.0f} s: {worker.said()}")

    # -- while it runs --

    def _watch(self, worker: Child, simulator: Child, reader: Reader, began: Metrics, ledger: Path) -> tuple[Sent, Metrics, bool]:
        """Show how it goes until the simulator has ended and everything it sent was taken in, or SETTLE_S later.

        Returns what was sent, the worker's metrics since the start, and whether all had settled.
        """
        self.last, self.started = began, time.monotonic()
        with self._display() as show:
            while simulator.process.poll() is None:
                routing = time.monotonic() - self.started < self.args.seconds
                self._look("orders are routed" if routing else "orders are finished", worker, reader, began)
                show(self.figures)
                time.sleep(REFRESH_S)
            simulator.check()
            sent = read_sent(simulator.output, ledger)
            deadline = time.monotonic() + SETTLE_S
            while True:
                now = self._look("the last ones settle", worker, reader, began)
                show(self.figures)
                settled = self._settled(sent, now, reader)
                if settled or time.monotonic() > deadline:
                    return sent, now, settled
                time.sleep(REFRESH_S)

    def _settled(self, sent: Sent, now: Metrics, reader: Reader) -> bool:
        with self.tally.lock:
            internal = now.lanes["rerouted"] + self.tally.read[ALIASES]
            taken = now.lanes["received"] == sent.inputs + internal and now.broadcast["snapshots"] == sent.quotes
            return taken and self.tally.read[FILLS] == now.lanes["fills_published"] and time.monotonic() - reader.last_read > 1.0

    @contextmanager
    def _display(self) -> Iterator[Any]:
        if self.plain:
            yield self._line
            return
        with Live(board(self.figures), console=self.console, screen=True, auto_refresh=False) as live:
            yield lambda figures: live.update(board(figures), refresh=True)

    def _line(self, figures: Figures) -> None:
        if time.monotonic() - self.shown >= PLAIN_S:
            self.shown = time.monotonic()
            print(plain_line(figures), flush=True)

    def _look(self, phase: str, worker: Child, reader: Reader, began: Metrics) -> Metrics:
        """Scrape the worker and put the figures together; return its metrics since the start. Raises DemoError when a part has failed."""
        worker.check()
        if reader.failure is not None:
            raise DemoError(f"the outputs cannot be read: {reader.failure}")
        found = scrape(self.port) or self.last
        assert found is not None
        now, before = since(found, began), since(self.last or began, began)
        pace = _pace(since(now, before), now.at - before.at)
        self.last = found
        with self.tally.lock:
            tally = self.tally
            recent = tally.spread(time.time_ns() - int(RECENT_S * 1e9))
            if pace:
                self.history.append(pace["rate_in"])
                self.p95_history.append(recent.p95 or 0.0)
            self.figures = replace(
                self.figures,
                phase=phase,
                about=self._about(),
                note=self._note(reader.lost),
                elapsed_s=time.monotonic() - self.started,
                total_s=self.args.seconds,
                history=tuple(self.history),
                p95_history=tuple(self.p95_history),
                latency=recent if recent.count else self.figures.latency,
                latency_of=f" in {RECENT_S:.0f} s",
                waited=tally.waited,
                fills=tally.read[FILLS],
                counts=now.lanes,
                pending=named(now.lanes, "pending_"),
                duplicates=named(now.lanes, "duplicate_"),
                dead=dead_reasons(now.lanes),
                alerts=tally.read[ALERTS],
                lost=reader.lost,
                venues=tally.slippage(),
                last_fills=tuple(tally.last),
                **pace,
            )
        return now

    def _about(self) -> str:
        where = "embedded broker" if self.embedded else self.args.kafka
        return f"demo: {where}, {self.lanes} lanes, {self.args.rate:,.0f} reports/s"

    def _note(self, lost: int) -> str:
        if lost:
            return f"The embedded broker dropped {lost:,} records before they were read: lower --rate, or use a real Kafka with --kafka."
        readable = "here before its commit" if self.embedded else "committed"
        return f"latency: fill readable ({readable}) on our clock, minus recv_ts_ns of its report"

    # -- the end --

    def _tell(self, sent: Sent, final: Metrics, reader: Reader, settled: bool, code: int | None, worker: Child) -> int:
        with self.tally.lock:
            self.figures = replace(
                self.figures, phase="done: the whole run", latency=self.tally.spread(), latency_of="",
                **_pace(final, self.figures.elapsed_s),
            )  # fmt: skip
        levels = service_levels(sent, self.tally, final, reader.lost, self.embedded)
        if self.plain:
            print(plain_line(self.figures))
            print("dead letters by reason: " + ", ".join(f"{reason} {n}" for reason, n in self.figures.dead.items()))
            for line in level_lines(levels):
                print(line)
        else:
            self.console.print(board(self.figures))
            self.console.print(level_table(levels))
        notes = [
            f"Timings are of {self.args.rate:,.0f} reports/s on this machine, with broker, simulator and board beside the worker; they "
            "never decide the exit code.",
        ]
        if self.embedded:
            notes.append(
                "The embedded broker has no real transactions: exactly-once is not proven here, and records are readable before their "
                "commit. On a real Kafka `make test` proves it and `make bench` measures it."
            )
        if not settled:
            notes.append(f"Not everything had settled {SETTLE_S:.0f} s after the simulator ended.")
        if sent.closing["behind_ms_max"] > 100:
            notes.append(
                f"The simulator was up to {sent.closing['behind_ms_max']:,.0f} ms behind: the machine is busy, and latencies show it."
            )
        if code != 0:
            how = "had to be killed" if code is None else f"ended with code {code}"
            notes.append(f"The worker {how} when asked to stop: {worker.said()}")
        for note in notes:
            self.console.print(note, soft_wrap=self.plain)
        good = passed(levels) and settled and code == 0
        self.console.print(
            "every correctness row holds" if good else "NOT every correctness row holds", style="green" if good else "bold red"
        )
        return 0 if good else 1


def _members(admin: AdminClient, group: str) -> int:
    """Return how many consumers are in a group, 0 when there is no such group. Raises DemoError when the broker does not say."""
    deadline = time.monotonic() + 15.0
    while True:
        try:
            return len(admin.describe_consumer_groups([group], request_timeout=5.0)[group].result().members)
        except KafkaException as error:
            if error.args[0].code() == KafkaError.GROUP_ID_NOT_FOUND:
                return 0
            if time.monotonic() > deadline:  # a broker that has just started has no coordinators for a while
                raise DemoError(f"the group {group} cannot be described: {error.args[0].str()}") from error
            time.sleep(0.2)


def _pace(metrics: Metrics, seconds: float) -> dict[str, Any]:
    """Return rates and means over `seconds`, as fields of the figures: none when hardly any time has passed."""
    if seconds < 0.1:
        return {}
    r = metrics.runtime
    commits, chunks = r.get("hedgerow_commit_seconds_count", 0.0), r.get("hedgerow_chunk_records_count", 0.0)
    found = {
        "rate_in": r.get("hedgerow_records_in_total", 0.0) / seconds,
        "rate_out": r.get("hedgerow_records_out_total", 0.0) / seconds,
        "commits_rate": commits / seconds,
    }
    if commits > 0:
        found["commit_ms"] = 1_000 * r.get("hedgerow_commit_seconds_sum", 0.0) / commits
    if chunks > 0:
        found["chunk"] = r.get("hedgerow_chunk_records_sum", 0.0) / chunks
    return found
