"""Runs hedgerow's real commands on a real Kafka for benchmarks: starts, stops and watches workers and simulators, asks the broker how far they are.

Decides nothing of what is done to them (bench/acceptance.py, bench/faults.py) nor whether the outcome was right (bench/verdict.py).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from confluent_kafka import ConsumerGroupState, ConsumerGroupTopicPartitions, KafkaException, TopicPartition

import schemas
from bench.ledger import Cluster, Place, read_ledger
from bench.verdict import Verdict, judge, say
from connectors.child_process import die_with_parent
from connectors.kafka_server import KafkaServer
from connectors.topics import create_topics
from flows import spare
from schemas.registry import CANARY_INPUTS, CANARY_OUTPUTS, EXECUTION_INPUTS, EXECUTION_OUTPUTS, HEDGER_INPUTS, HEDGER_OUTPUTS

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = Path(schemas.__path__[0]) / "simulation.toml"
TOPICS_OF = {
    "execution": (EXECUTION_INPUTS, EXECUTION_OUTPUTS),
    "hedger": (HEDGER_INPUTS, HEDGER_OUTPUTS),
    "canary": (CANARY_INPUTS, CANARY_OUTPUTS),
}
"""Flow: its inputs by lane, and its outputs."""
READY_TIMEOUT_S = 90.0
RECOVER_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 60.0
WARM_TIMEOUT_S = 900.0
MARKERS = 64
"""Offsets that may be transaction markers and no records: closer than this to the end, the partition is read to know."""


class DriverError(RuntimeError):
    """The run itself did not work, so that there is nothing to judge; the message says what."""


class Driver:
    """The processes of one run of a flow and what the broker says of them. `folder` takes ledgers and logs."""

    flow = "execution"

    def __init__(self, cluster: Cluster, folder: Path, flow: str | None = None) -> None:
        self.cluster, self.folder = cluster, folder
        self.flow = self.flow if flow is None else flow
        self.group = f"hedgerow-{self.flow}"
        self.recoveries: list[float] = []
        """Seconds from each fault until everything that was there at the time had been committed."""
        self.inputs = cluster.places(TOPICS_OF[self.flow][0])
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._simulators: dict[str, subprocess.Popen[bytes]] = {}

    # ---- processes ----------------------------------------------------------------------------------------------------------

    def command(self, name: str, *words: str, module: str = "flows", **environment: str) -> subprocess.Popen[bytes]:
        """Start `hedgerow WORDS` (or another module) with its output in NAME.out and NAME.err."""
        with (self.folder / f"{name}.out").open("ab") as out, (self.folder / f"{name}.err").open("ab") as err:
            process = subprocess.Popen(
                [sys.executable, "-m", module, *words],
                cwd=ROOT,
                env=environment_of(self.cluster, **environment),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                preexec_fn=die_with_parent(signal.SIGTERM),
            )
        self._processes[name] = process
        return process

    def start_workers(self, count: int, **environment: str) -> subprocess.Popen[bytes]:
        """Start `count` supervised workers and return when they own every lane."""
        flow = self.command("flow", "run", "execution", "--workers", str(count), "--give-up-after", "0", **environment)
        self.wait_for_members(count)
        return flow

    def simulate(self, name: str, rate: float, seconds: float, seed: int, *more: str) -> subprocess.Popen[bytes]:
        """Start the simulator with every fault it knows; what it sends is told in NAME.ndjson."""
        words = ("--rate", f"{rate:g}", "--seconds", f"{seconds:g}", "--seed", str(seed), "--faults", "all", *more)
        process = self.command(name, "simulate", *words, "--ledger", str(self.folder / f"{name}.ndjson"))
        self._simulators[name] = process
        return process

    def finish(self, name: str, timeout_s: float) -> dict[str, Any]:
        """Wait until a simulator has sent everything; return what it says of it. Raises DriverError when it could not."""
        try:
            code = self._simulators[name].wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise DriverError(f"`hedgerow simulate` did not end within {timeout_s:.0f} s:\n{self.tail(f'{name}.err')}") from None
        if code != 0:
            raise DriverError(f"`hedgerow simulate` ended with code {code}:\n{self.tail(f'{name}.err')}")
        told: dict[str, Any] = json.loads((self.folder / f"{name}.out").read_text().splitlines()[-1])
        return told

    def stop(self, name: str) -> None:
        """Stop a worker or a supervisor in good order. Raises DriverError when that goes badly."""
        process = self._processes[name]
        process.send_signal(signal.SIGTERM)
        try:
            code = process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise DriverError(f"{name} did not stop within {STOP_TIMEOUT_S:.0f} s of SIGTERM:\n{self.tail(f'{name}.err')}") from None
        if code != 0:
            raise DriverError(f"{name} ended with code {code} when it was stopped:\n{self.tail(f'{name}.err')}")

    def finished(self, name: str, timeout_s: float) -> None:
        """Wait until a process has ended by itself. Raises DriverError when it does not, or ends badly."""
        try:
            code = self._processes[name].wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise DriverError(f"{name} did not end within {timeout_s:.0f} s:\n{self.tail(f'{name}.err')}") from None
        if code:
            raise DriverError(f"{name} ended with code {code}:\n{self.tail(f'{name}.err')}")

    def end(self) -> None:
        """End whatever of ours still runs."""
        running = [process for process in self._processes.values() if process.poll() is None]
        for process in running:
            for pid in (process.pid, *children(process.pid).values()):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)  # whoever is paused hears nothing
            process.terminate()
        for process in running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_TIMEOUT_S)
            if process.poll() is None:
                process.kill()
                process.wait()

    def tail(self, name: str, lines: int = 25) -> str:
        """Return the end of a log."""
        return "\n".join((self.folder / name).read_text(errors="replace").splitlines()[-lines:])

    def logs(self) -> str:
        """Return the ends of the error logs that have something in them."""
        files = [file for file in sorted(self.folder.glob("*.err")) if file.stat().st_size]
        return "\n".join(f"--- {file.name}\n{self.tail(file.name)}" for file in files)

    def count(self, pattern: str) -> list[str]:
        """Return everything in the error logs that a pattern matches."""
        return [found for file in sorted(self.folder.glob("*.err")) for found in re.findall(pattern, file.read_text(errors="replace"))]

    # ---- time ---------------------------------------------------------------------------------------------------------------

    def wait_for(self, ready: Callable[[], bool], timeout_s: float, what: str, every_s: float = 0.1) -> float:
        """Poll until `ready`; return the seconds it took. A broker that does not answer is one not ready. Raises DriverError."""
        begun = time.monotonic()
        while True:
            silent = ""
            try:
                if ready():
                    return time.monotonic() - begun
            except KafkaException as error:
                silent = f" ({error})"
                with contextlib.suppress(KafkaException):  # or the client asks the leaders of before a broker's restart for ever
                    self.cluster.admin.list_topics(timeout=5.0)
            for name, process in self._processes.items():
                if process.poll() not in (None, 0):
                    raise DriverError(f"{name} ended with code {process.returncode} while waiting until {what}: {self.logs()}")
            if time.monotonic() - begun > timeout_s:
                raise DriverError(f"after {timeout_s:.0f} s still not: {what}{silent}. {self.lag()}\n{self.logs()}")
            time.sleep(every_s)

    # ---- the group ----------------------------------------------------------------------------------------------------------

    def wait_for_members(self, count: int) -> dict[str, list[int]]:
        """Wait until so many workers own all lanes between them; return who owns which."""
        found: dict[str, list[int]] = {}

        def there() -> bool:
            found.clear()
            found.update(self.owners())
            return sum(map(bool, found.values())) == count

        self.wait_for(there, READY_TIMEOUT_S, f"{count} workers own all lanes between them")
        return found

    def owners(self) -> dict[str, list[int]]:
        """Return worker → lanes; nothing while the group is not settled."""
        try:
            group = self.cluster.admin.describe_consumer_groups([self.group], request_timeout=5)[self.group].result()
        except KafkaException:
            return {}
        owned = {
            member.group_instance_id.removeprefix(f"{self.group}-"): member.assignment.topic_partitions
            for member in group.members
            if member.assignment and member.group_instance_id
        }
        stable = group.state == ConsumerGroupState.STABLE and sum(map(len, owned.values())) == len(self.inputs)
        return {worker: sorted({part.partition for part in parts}) for worker, parts in owned.items()} if stable else {}

    def committed(self) -> dict[Place, int]:
        """Return the group's committed offset of every input partition; 0 for none."""
        asked = ConsumerGroupTopicPartitions(self.group, [TopicPartition(*place) for place in self.inputs])
        answer = self.cluster.admin.list_consumer_group_offsets([asked], request_timeout=10)[self.group].result()
        return {(part.topic, part.partition): max(part.offset, 0) for part in answer.topic_partitions}

    def behind(self, ends: Mapping[Place, int]) -> list[Place]:
        """Return the input partitions of which not every record below `ends` is committed."""
        committed = self.committed()
        behind = [place for place in self.inputs if committed[place] < ends[place]]
        if not behind or any(ends[place] - committed[place] > MARKERS for place in behind):
            return behind
        first = self.cluster.first_after({place: committed[place] for place in behind})
        return [place for place in behind if first.get(place, ends[place]) < ends[place]]

    def lag(self) -> str:
        """Return in words how far behind the group is."""
        try:
            committed, ends = self.committed(), self.cluster.ends(self.inputs)
        except KafkaException as error:
            return f"The broker does not say how far the workers are: {error}"
        rows = [f"{topic}[{p}] {committed[topic, p]} of {end}" for (topic, p), end in ends.items() if committed[topic, p] < end]
        return f"Behind: {', '.join(rows) or 'nothing'}"

    def recover(self, what: str) -> None:
        """Wait until everything that is in the inputs now is committed; note how long that took."""
        ends: dict[Place, int] = {}

        def recovered() -> bool:
            ends.update(ends or self.cluster.ends(self.inputs))
            return not self.behind(ends)

        took = self.wait_for(recovered, RECOVER_TIMEOUT_S, f"recovered after {what}")
        self.recoveries.append(took)
        say(f"{what}: everything there at the time was committed {took:.1f} s later")

    def settle(self, timeout_s: float = RECOVER_TIMEOUT_S) -> None:
        """Wait until every input is taken in, nothing new comes of it, and no transaction is open."""
        places = list(dict.fromkeys((*self.inputs, *self.cluster.places(TOPICS_OF[self.flow][1]))))

        def settled() -> bool:
            ends = self.cluster.ends(places)
            if self.cluster.ends(places, committed=True) != ends or self.behind({p: ends[p] for p in self.inputs}):
                return False
            time.sleep(1.0)
            return self.cluster.ends(places) == ends

        took = self.wait_for(settled, timeout_s, "all input is taken in")
        say(f"all input was taken in {took:.1f} s after the last was sent")

    # ---- the judgement ------------------------------------------------------------------------------------------------------

    def judge(self) -> Verdict:
        """Compare everything that came of what the simulators sent; the workers must have stopped. Raises ReadError."""
        ledger = read_ledger(*(self.folder / f"{name}.ndjson" for name in self._simulators))
        verdict = judge(self.cluster, ledger, REFERENCE, os.cpu_count() or 1)
        if verdict.evidence:
            with (self.folder / "evidence.ndjson").open("w", encoding="utf-8") as file:
                file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in verdict.evidence)
            say(f"all inputs of orders that differ are in {file.name}")
        return verdict


def environment_of(cluster: Cluster, **more: str) -> dict[str, str]:
    """Return the environment of a child: ours without hedgerow's settings, but for those that say where things are."""
    kept = ("HEDGEROW_NUMBA_CACHE", "HEDGEROW_KAFKA_OPTIONS")
    ours = {name: value for name, value in os.environ.items() if not name.startswith("HEDGEROW_") or name in kept}
    return {**ours, "PYTHONUNBUFFERED": "1", "HEDGEROW_KAFKA": cluster.bootstrap, **more}


def children(parent: int) -> dict[str, int]:
    """Return worker name → process id of the workers a supervisor runs (from /proc). A spare is none until it has become one, by its process's name."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError, ValueError):
            after_name = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(after_name[1]) != parent or after_name[0] == "Z":
                continue
            if b"flows.spare" in (folder / "cmdline").read_bytes().split(b"\0"):
                name = (folder / "comm").read_text().strip()
                name = "" if name == spare.COMM or name.startswith("python") else name
            else:
                variables = (folder / "environ").read_bytes().split(b"\0")
                name = next((v.partition(b"=")[2].decode() for v in variables if v.startswith(b"HEDGEROW_WORKER=")), "")
            if name:
                found[name] = int(folder.name)
    return found


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
        raise DriverError(f"`hedgerow warm` failed:\n{done.stderr}")
    say(done.stdout.strip())


@contextlib.contextmanager
def broker(folder: Path, wipe: bool, server: KafkaServer | None = None) -> Iterator[tuple[Cluster, bool]]:
    """Yield (cluster, whether its topics may be deleted): that of HEDGEROW_KAFKA, or one of our own (`server`, when the caller has one)."""
    given = os.environ.get("HEDGEROW_KAFKA")
    if given:
        yield Cluster(given, json.loads(os.environ.get("HEDGEROW_KAFKA_OPTIONS") or "{}")), wipe
        return
    with server or KafkaServer(folder / "kafka") as ours:
        yield Cluster(ours.bootstrap), True


def empty_topics(cluster: Cluster, partitions: int, may_delete: bool) -> None:
    """Have every topic there and empty. Raises DriverError when that would delete what is not ours to delete."""
    if may_delete:
        from tests.conftest import fresh_topics

        fresh_topics(cluster.bootstrap, partitions)
        return
    create_topics(cluster.bootstrap, partitions, client_config=cluster.options)
    places = cluster.places(dict.fromkeys(name for topics in TOPICS_OF.values() for names in topics for name in names))
    if any(cluster.ends(places).values()):
        raise DriverError("the topics at HEDGEROW_KAFKA are not empty: give --wipe to delete hedgerow's topics and consumer groups there")


def put_away(folder: Path, keep: bool, good: bool) -> None:
    """Delete the folder of a good run; keep any other and say where. Our own broker's data stay only when that is asked for."""
    if good and not keep:
        shutil.rmtree(folder, ignore_errors=True)
        return
    if not keep:
        shutil.rmtree(folder / "kafka" / "topics", ignore_errors=True)
    say(f"logs are in {folder}")


def show_verdict(title: str, verdict: Verdict, rows: Sequence[tuple[str, str]] = ()) -> None:
    """Print what was compared, more rows of figures, and the first of what was wrong."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    table.add_column("compared")
    table.add_column("figures", justify="right")
    table.add_column("")
    for what, figures, held in verdict.checks:
        table.add_row(what, figures, "ok" if held else "[red]WRONG[/red]")
    for name, value in (*((f"balance: {name}", f"{value:,}") for name, value in verdict.balance.items()), *rows):
        table.add_row(name, value, "")
    Console(width=110 if not sys.stdout.isatty() else None).print(table)
    for text in verdict.problems.texts[:40]:
        print(f"  {text}")
