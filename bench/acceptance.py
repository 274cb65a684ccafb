"""`python -m bench.acceptance`: the real commands on a real Kafka under load and faults, then every record and state against the oracle.

Starts `hedgerow run` and `hedgerow simulate` as child processes, kills, pauses and adds workers as the scenario says, waits until all is
taken in, stops the workers and lets bench/verdict.py judge. Prints a table and a last line of JSON; ends with 0 only if nothing was wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from confluent_kafka import ConsumerGroupState, ConsumerGroupTopicPartitions, KafkaException, TopicPartition
from rich.console import Console
from rich.table import Table

import schemas
from bench.ledger import Cluster, Place, ReadError, read_ledger
from bench.verdict import KINDS, Verdict, judge
from connectors.child_process import die_with_parent
from connectors.kafka_server import BrokerUnavailable, KafkaServer
from connectors.topics import create_topics
from schemas.registry import EXECUTION_INPUTS, EXECUTION_OUTPUTS

ROOT = Path(__file__).resolve().parent.parent
GROUP = "hedgerow-execution"
SCENARIOS = ("clean", "kill", "pause", "scale")
READY_TIMEOUT_S = 90.0
RECOVER_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 60.0
WARM_TIMEOUT_S = 900.0
MARKERS = 64
"""Offsets that may be transaction markers and no records: closer than this to the end, the partition is read to know."""


class AcceptanceError(RuntimeError):
    """The run itself did not work, so that there is nothing to judge; the message says what."""


@dataclass(frozen=True)
class Options:
    """One run. `pause_s`: how long the zombie sleeps; must be longer than the session timeout (6 s)."""

    scenario: str
    rate: float = 5_000.0
    seconds: float = 60.0
    seed: int = 1
    partitions: int = 8
    pause_s: float = 30.0


@dataclass
class Outcome:
    """What a run came to. `recoveries`: seconds from each fault until everything that was there at the time had been committed."""

    options: Options
    verdict: Verdict
    recoveries: list[float] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)

    def line(self) -> dict[str, Any]:
        """Return the figures of the last line."""
        verdict = self.verdict
        return {
            "scenario": self.options.scenario,
            "inputs": verdict.inputs,
            "published": verdict.balance["published"],
            "duplicates": verdict.balance["duplicate"],
            "pending": verdict.balance["pending"],
            "dlq": verdict.balance["dlq"],
            "rerouted": verdict.balance["rerouted"],
            "fills": verdict.fills,
            "exec_id_not_compared": verdict.unsettled,
            **{kind: verdict.problems.counts[kind] for kind in KINDS},
            "recovery_s": round(max(self.recoveries, default=0.0), 2),
            **self.notes,
            "judged_s": round(verdict.seconds, 1),
        }


class Run:
    """The processes of one run and what the broker says of them. `folder` takes the ledger and the logs."""

    def __init__(self, options: Options, cluster: Cluster, folder: Path) -> None:
        self.options, self.cluster, self.folder = options, cluster, folder
        self.random = Random(options.seed)
        self.recoveries: list[float] = []
        self.notes: dict[str, Any] = {}
        self._processes: list[subprocess.Popen[bytes]] = []
        self._admin = cluster.admin
        self._inputs = cluster.places(EXECUTION_INPUTS)
        self._simulator: subprocess.Popen[bytes] | None = None
        self._began = 0.0

    # ---- processes ----------------------------------------------------------------------------------------------------------

    def command(self, name: str, *words: str, **environment: str) -> subprocess.Popen[bytes]:
        """Start `hedgerow WORDS` with its output in NAME.out and NAME.err."""
        with (self.folder / f"{name}.out").open("ab") as out, (self.folder / f"{name}.err").open("ab") as err:
            process = subprocess.Popen(
                [sys.executable, "-m", "flows", *words],
                cwd=ROOT,
                env=environment_of(self.cluster, **environment),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                preexec_fn=die_with_parent(signal.SIGTERM),
            )
        self._processes.append(process)
        return process

    def start_workers(self, count: int, fault: str = "") -> subprocess.Popen[bytes]:
        """Start the supervised workers and return when they own every lane."""
        environment = {"HEDGEROW_FAULT": fault} if fault else {}
        flow = self.command("flow", "run", "execution", "--workers", str(count), "--give-up-after", "0", **environment)
        self.wait_for_members(count, flow)
        return flow

    def start_simulator(self) -> None:
        """Start the simulator; the scenario's clock begins."""
        o = self.options
        words = ("--rate", f"{o.rate:g}", "--seconds", f"{o.seconds:g}", "--seed", str(o.seed), "--faults", "all")
        self._simulator = self.command("simulate", "simulate", *words, "--ledger", str(self.folder / "ledger.ndjson"))
        self._began = time.monotonic()

    def finish_simulator(self) -> None:
        """Wait until the simulator has sent everything. Raises AcceptanceError when it could not."""
        assert self._simulator is not None
        code = self._simulator.wait(self.options.seconds + 180)
        if code != 0:
            raise AcceptanceError(f"`hedgerow simulate` ended with code {code}:\n{self.tail('simulate.err')}")
        told = json.loads((self.folder / "simulate.out").read_text().splitlines()[-1])
        self.notes |= {"sent_per_s": told["rate"], "behind_ms_max": told["behind_ms_max"]}

    def stop(self, process: subprocess.Popen[bytes], name: str) -> None:
        """Stop a worker or a supervisor in good order. Raises AcceptanceError when that goes badly."""
        process.send_signal(signal.SIGTERM)
        try:
            code = process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise AcceptanceError(f"{name} did not stop within {STOP_TIMEOUT_S:.0f} s of SIGTERM:\n{self.tail(f'{name}.err')}") from None
        if code != 0:
            raise AcceptanceError(f"{name} ended with code {code} when it was stopped:\n{self.tail(f'{name}.err')}")

    def end(self) -> None:
        """End whatever of ours still runs."""
        for process in self._processes:
            if process.poll() is None:
                for pid in children(process.pid).values():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGCONT)  # a paused worker hears nothing
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(STOP_TIMEOUT_S)
                if process.poll() is None:
                    process.kill()
                    process.wait()

    def tail(self, name: str, lines: int = 25) -> str:
        """Return the end of a log."""
        return "\n".join((self.folder / name).read_text(errors="replace").splitlines()[-lines:])

    def restarts(self) -> int:
        """Return how often the supervisor had to start a worker again."""
        return len(re.findall(r"starting it again in", (self.folder / "flow.err").read_text(errors="replace")))

    def killed(self) -> int:
        """Return how many workers the supervisor saw ended by SIGKILL."""
        return len(re.findall(r"was ended by SIGKILL", (self.folder / "flow.err").read_text(errors="replace")))

    # ---- time ---------------------------------------------------------------------------------------------------------------

    def wait_until(self, share: float) -> None:
        """Sleep until this share of the simulated time has passed; returns at once when it has."""
        time.sleep(max(0.0, self._began + share * self.options.seconds - time.monotonic()))

    def wait_for(self, ready: Callable[[], bool], timeout_s: float, what: str) -> float:
        """Poll until `ready`; return the seconds it took. Raises AcceptanceError after `timeout_s`."""
        begun = time.monotonic()
        while not ready():
            for process in self._processes:
                if process.poll() not in (None, 0):
                    raise AcceptanceError(f"a process ended with code {process.returncode} while waiting until {what}: {self.logs()}")
            if time.monotonic() - begun > timeout_s:
                raise AcceptanceError(f"after {timeout_s:.0f} s still not: {what}. {self.lag()}\n{self.logs()}")
            time.sleep(0.1)
        return time.monotonic() - begun

    def logs(self) -> str:
        """Return the ends of the error logs."""
        return "\n".join(f"--- {file.name}\n{self.tail(file.name)}" for file in sorted(self.folder.glob("*.err")))

    # ---- the group ----------------------------------------------------------------------------------------------------------

    def wait_for_members(self, count: int, process: subprocess.Popen[bytes]) -> float:
        """Wait until so many workers own all lanes between them."""
        return self.wait_for(
            lambda: process.poll() is None and self.members() == count, READY_TIMEOUT_S, f"{count} workers own all lanes between them"
        )

    def members(self) -> int:
        """Return how many workers own lanes, 0 while the group is not settled."""
        try:
            group = self._admin.describe_consumer_groups([GROUP], request_timeout=5)[GROUP].result()
        except KafkaException:
            return 0
        owned = [len(member.assignment.topic_partitions) for member in group.members if member.assignment]
        stable = group.state == ConsumerGroupState.STABLE and sum(owned) == len(self._inputs)
        return sum(count > 0 for count in owned) if stable else 0

    def committed(self) -> dict[Place, int]:
        """Return the group's committed offset of every input partition; 0 for none."""
        asked = ConsumerGroupTopicPartitions(GROUP, [TopicPartition(*place) for place in self._inputs])
        answer = self._admin.list_consumer_group_offsets([asked], request_timeout=10)[GROUP].result()
        return {(part.topic, part.partition): max(part.offset, 0) for part in answer.topic_partitions}

    def behind(self, ends: Mapping[Place, int]) -> list[Place]:
        """Return the input partitions of which not every record below `ends` is committed."""
        committed = self.committed()
        behind = [place for place in self._inputs if committed[place] < ends[place]]
        if not behind or any(ends[place] - committed[place] > MARKERS for place in behind):
            return behind
        first = self.cluster.first_after({place: committed[place] for place in behind})
        return [place for place in behind if first.get(place, ends[place]) < ends[place]]

    def lag(self) -> str:
        """Return in words how far behind the group is."""
        try:
            committed, ends = self.committed(), self.cluster.ends(self._inputs)
        except KafkaException as error:
            return f"The broker does not say how far the workers are: {error}"
        rows = [f"{topic}[{p}] {committed[topic, p]} of {end}" for (topic, p), end in ends.items() if committed[topic, p] < end]
        return f"Behind: {', '.join(rows) or 'nothing'}"

    def recover(self, what: str) -> None:
        """Wait until everything that is in the inputs now is committed; note how long that took."""
        ends = self.cluster.ends(self._inputs)
        took = self.wait_for(lambda: not self.behind(ends), RECOVER_TIMEOUT_S, f"recovered after {what}")
        self.recoveries.append(took)
        say(f"{what}: everything there at the time was committed {took:.1f} s later")

    def settle(self) -> None:
        """Wait until every input is taken in, nothing new comes of it, and no transaction is open."""
        places = list(dict.fromkeys((*self._inputs, *self.cluster.places(EXECUTION_OUTPUTS))))

        def settled() -> bool:
            ends = self.cluster.ends(places)
            if self.cluster.ends(places, committed=True) != ends or self.behind({p: ends[p] for p in self._inputs}):
                return False
            time.sleep(1.0)
            return self.cluster.ends(places) == ends

        took = self.wait_for(settled, RECOVER_TIMEOUT_S + 2 * self.options.seconds, "all input is taken in")
        say(f"all input was taken in {took:.1f} s after the last was sent")


def environment_of(cluster: Cluster, **more: str) -> dict[str, str]:
    """Return the environment of a child: ours without hedgerow's settings, but for those that say where things are."""
    kept = ("HEDGEROW_NUMBA_CACHE", "HEDGEROW_KAFKA_OPTIONS")
    ours = {name: value for name, value in os.environ.items() if not name.startswith("HEDGEROW_") or name in kept}
    return {**ours, "PYTHONUNBUFFERED": "1", "HEDGEROW_KAFKA": cluster.bootstrap, **more}


def children(parent: int) -> dict[str, int]:
    """Return worker name → process id of the workers a supervisor runs (from /proc)."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError, ValueError):
            after_name = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(after_name[1]) != parent or after_name[0] == "Z":
                continue
            variables = (folder / "environ").read_bytes().split(b"\0")
            name = next((v.partition(b"=")[2].decode() for v in variables if v.startswith(b"HEDGEROW_WORKER=")), "")
            if name:
                found[name] = int(folder.name)
    return found


def say(text: str) -> None:
    """Tell how it goes."""
    print(f"acceptance: {text}", file=sys.stderr, flush=True)


# ---- the scenarios --------------------------------------------------------------------------------------------------------------


def clean(run: Run) -> None:
    """Two workers, no fault but those in the data."""
    flow = run.start_workers(2)
    run.start_simulator()
    run.finish_simulator()
    run.settle()
    if run.restarts():
        raise AcceptanceError(f"{run.restarts()} workers fell, though nothing was done to them:\n{run.tail('flow.err')}")
    run.stop(flow, "flow")


def kill(run: Run) -> None:
    """One worker dies in the middle of every Nth commit; either is killed from outside at moments of the seed."""
    o, random = run.options, run.random
    nth = random.randint(25, 75)  # of each of its lives: a worker under load commits 5 to 25 times a second
    flow = run.start_workers(2, f"execution-0/before_commit:{nth}")
    count = max(1, round(o.seconds / 20))
    moments = [0.15 + 0.7 * (i + random.random()) / count for i in range(count)]
    run.start_simulator()
    outside = 0
    for moment in moments:
        run.wait_until(moment)
        victims = children(flow.pid)
        name = random.choice(("execution-0", "execution-1"))
        if name not in victims:
            name = next(iter(victims), "")
        if not name:
            say("both workers are down already")
            continue
        os.kill(victims[name], signal.SIGKILL)
        outside += 1
        run.recover(f"kill -9 of {name}")
    run.finish_simulator()
    run.settle()
    inside = run.killed() - outside
    run.notes |= {"killed_outside": outside, "killed_in_commit": inside}
    if inside < 1 or outside < 1:
        raise AcceptanceError(f"{outside} workers were killed from outside and {inside} in a commit: the run proves nothing")
    run.stop(flow, "flow")


def pause(run: Run) -> None:
    """One worker sleeps for longer than its session, wakes as a zombie, and must not do harm."""
    flow = run.start_workers(2)
    run.start_simulator()
    run.wait_until(0.2)
    name = run.random.choice(("execution-0", "execution-1"))
    pid = children(flow.pid)[name]
    os.kill(pid, signal.SIGSTOP)
    slept = time.monotonic()
    run.recover(f"SIGSTOP of {name}")
    time.sleep(max(0.0, slept + run.options.pause_s - time.monotonic()))
    os.kill(pid, signal.SIGCONT)
    woken = time.monotonic()
    run.wait_for(lambda: run.members() == 2, READY_TIMEOUT_S, "two workers own all lanes between them again")
    run.recover(f"SIGCONT of {name}")
    run.notes |= {"zombie_replaced": children(flow.pid).get(name) != pid, "two_workers_again_s": round(time.monotonic() - woken, 1)}
    run.finish_simulator()
    run.settle()
    run.stop(flow, "flow")


def scale(run: Run) -> None:
    """One worker, then two, then one again."""
    flow = run.start_workers(1)
    run.start_simulator()
    run.wait_until(0.25)
    extra = run.command("extra", "run", "execution", "--worker", "execution-1")
    joined = run.wait_for_members(2, extra)
    run.recover("a second worker")
    run.wait_until(0.7)
    run.stop(extra, "extra")
    left = run.wait_for_members(1, flow)
    run.recover("the second worker's leaving")
    run.notes |= {"joined_s": round(joined, 1), "left_s": round(left, 1)}
    run.finish_simulator()
    run.settle()
    run.stop(flow, "flow")


STEPS: dict[str, Callable[[Run], None]] = {"clean": clean, "kill": kill, "pause": pause, "scale": scale}


def accept(options: Options, cluster: Cluster, folder: Path) -> Outcome:
    """Run one scenario against empty topics and judge it; the ledger and logs are left in `folder`.

    Raises AcceptanceError when the run itself did not work, ReadError when the topics cannot be read.
    """
    say(f"{options.scenario}: {options.rate:g} reports/s for {options.seconds:g} s, seed {options.seed}, {options.partitions} lanes")
    run = Run(options, cluster, folder)
    try:
        STEPS[options.scenario](run)
    finally:
        run.end()
    ledger = read_ledger(folder / "ledger.ndjson")
    verdict = judge(cluster, ledger, Path(schemas.__path__[0]) / "simulation.toml", max(1, min(2, os.cpu_count() or 1)))
    if verdict.evidence:
        with (folder / "evidence.ndjson").open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in verdict.evidence)
        say(f"all inputs of orders that differ are in {file.name}")
    return Outcome(options, verdict, run.recoveries, run.notes)


def warm(cluster: Cluster) -> None:
    """Compile the kernels before anything is timed."""
    done = subprocess.run(
        [sys.executable, "-m", "flows", "warm"],
        cwd=ROOT,
        env=environment_of(cluster),
        capture_output=True,
        text=True,
        timeout=WARM_TIMEOUT_S,
    )
    if done.returncode != 0:
        raise AcceptanceError(f"`hedgerow warm` failed:\n{done.stderr}")
    say(done.stdout.strip())


# ---- the command ----------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def broker(folder: Path, wipe: bool) -> Iterator[tuple[Cluster, bool]]:
    """Yield (cluster, whether its topics may be deleted): that of HEDGEROW_KAFKA, or one of our own."""
    given = os.environ.get("HEDGEROW_KAFKA")
    if given:
        yield Cluster(given, json.loads(os.environ.get("HEDGEROW_KAFKA_OPTIONS") or "{}")), wipe
        return
    with KafkaServer(folder / "kafka") as server:
        yield Cluster(server.bootstrap), True


def empty_topics(cluster: Cluster, partitions: int, may_delete: bool) -> None:
    """Have every topic there and empty. Raises AcceptanceError when that would delete what is not ours to delete."""
    if may_delete:
        from tests.conftest import fresh_topics

        fresh_topics(cluster.bootstrap, partitions)
        return
    create_topics(cluster.bootstrap, partitions, client_config=cluster.options)
    places = cluster.places(dict.fromkeys((*EXECUTION_INPUTS, *EXECUTION_OUTPUTS)))
    if any(cluster.ends(places).values()):
        raise AcceptanceError(
            "the topics at HEDGEROW_KAFKA are not empty: give --wipe to delete hedgerow's topics and consumer groups there"
        )


def show(outcome: Outcome) -> None:
    """Print what was compared, and the first of what was wrong."""
    o, verdict = outcome.options, outcome.verdict
    table = Table(title=f"{o.scenario}: {o.rate:g} reports/s for {o.seconds:g} s, seed {o.seed}", title_justify="left")
    table.add_column("compared")
    table.add_column("figures", justify="right")
    table.add_column("")
    for what, figures, held in verdict.checks:
        table.add_row(what, figures, "ok" if held else "[red]WRONG[/red]")
    for name, value in verdict.balance.items():
        table.add_row(f"balance: {name}", f"{value:,}", "")
    Console(width=110 if not sys.stdout.isatty() else None).print(table)
    for text in verdict.problems.texts[:40]:
        print(f"  {text}")


def main(argv: list[str] | None = None) -> int:
    """Run the scenarios named on the command line; return 0 only if nothing was wrong in any."""
    parser = argparse.ArgumentParser(prog="python -m bench.acceptance", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--scenario", choices=(*SCENARIOS, "all"), default="clean")
    parser.add_argument("--rate", type=float, default=5_000.0, metavar="N", help="venue reports per second (5000)")
    parser.add_argument("--seconds", type=float, default=60.0, metavar="S", help="how long orders are routed (60)")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of the simulator and of the moments of faults (1)")
    parser.add_argument("--partitions", type=int, default=8, metavar="N", help="lanes (8)")
    parser.add_argument("--wipe", action="store_true", help="delete hedgerow's topics and all consumer groups at HEDGEROW_KAFKA first")
    parser.add_argument("--keep", action="store_true", help="keep the ledger, the logs and our own broker's data, and say where")
    args = parser.parse_args(argv)
    if not 1 <= args.rate <= 1e6 or not 5 <= args.seconds <= 86_400 or not 2 <= args.partitions <= 256:
        parser.error("--rate must be 1 to 1,000,000, --seconds 5 to 86,400, --partitions 2 to 256")
    folder = Path(tempfile.mkdtemp(prefix="hedgerow-acceptance-"))
    kept = args.keep
    lines: list[dict[str, Any]] = []
    good = True
    try:
        with broker(folder, args.wipe) as (cluster, may_delete):
            warm(cluster)
            for scenario in SCENARIOS if args.scenario == "all" else (args.scenario,):
                empty_topics(cluster, args.partitions, may_delete)
                logs = folder / scenario
                logs.mkdir()
                outcome = accept(Options(scenario, args.rate, args.seconds, args.seed, args.partitions), cluster, logs)
                show(outcome)
                lines.append(outcome.line())
                print(json.dumps(lines[-1]), flush=True)
                good = good and outcome.verdict.good
    except (AcceptanceError, BrokerUnavailable, ReadError) as error:
        print(f"acceptance: {error}", file=sys.stderr)
        good, kept = False, True
    finally:
        if kept or not good:
            shutil.rmtree(folder / "kafka", ignore_errors=True) if not args.keep else None
            say(f"ledger and logs are in {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    if args.scenario == "all" and lines:
        total = {name: sum(line[name] for line in lines) for name in ("inputs", "published", "duplicates", "pending", "dlq", *KINDS)}
        slowest = max(line["recovery_s"] for line in lines)
        print(json.dumps({"scenario": "all", "finished": len(lines), **total, "recovery_s": slowest}), flush=True)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
