"""`python -m bench.acceptance`: the real commands on a real Kafka under load and faults, then every record and state against the oracle.

Starts `hedgerow run` and `hedgerow simulate` as child processes, kills, pauses and adds workers as the scenario says, waits until all is
taken in, stops the workers and lets bench/verdict.py judge. Prints a table and a last line of JSON; ends with 0 only if nothing was wrong.
Many faults by chance: bench/faults.py.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from bench.driver import RECOVER_TIMEOUT_S, Driver, DriverError, broker, children, empty_topics, put_away, show_verdict, warm
from bench.ledger import Cluster, ReadError
from bench.verdict import KINDS, Verdict, say
from connectors.kafka_server import BrokerUnavailable

SCENARIOS = ("clean", "kill", "pause", "scale")


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


class Run(Driver):
    """A scenario under way: its driver, its load, its clock, its dice."""

    def __init__(self, options: Options, cluster: Cluster, folder: Path) -> None:
        super().__init__(cluster, folder)
        self.options = options
        self.random = Random(options.seed)
        self.notes: dict[str, Any] = {}
        self._began = 0.0

    def start_simulator(self) -> None:
        """Start the simulator; the scenario's clock begins."""
        o = self.options
        self.simulate("simulate", o.rate, o.seconds, o.seed)
        self._began = time.monotonic()

    def wait_until(self, share: float) -> None:
        """Sleep until this share of the simulated time has passed; returns at once when it has."""
        time.sleep(max(0.0, self._began + share * self.options.seconds - time.monotonic()))

    def close(self) -> None:
        """Wait until everything is sent and taken in, and stop the workers."""
        told = self.finish("simulate", self.options.seconds + 180)
        self.notes |= {"sent_per_s": told["rate"], "behind_ms_max": told["behind_ms_max"]}
        self.settle(RECOVER_TIMEOUT_S + 2 * self.options.seconds)
        self.stop("flow")


# ---- the scenarios --------------------------------------------------------------------------------------------------------------


def clean(run: Run) -> None:
    """Two workers, no fault but those in the data."""
    run.start_workers(2)
    run.start_simulator()
    run.close()
    fallen = len(run.count("starting it again in"))
    if fallen:
        raise DriverError(f"{fallen} workers fell, though nothing was done to them:\n{run.tail('flow.err')}")


def kill(run: Run) -> None:
    """One worker dies in the middle of every Nth commit; either is killed from outside at moments of the seed."""
    o, random = run.options, run.random
    nth = random.randint(25, 75)  # of each of its lives: a worker under load commits 5 to 25 times a second
    flow = run.start_workers(2, HEDGEROW_FAULT=f"execution-0/before_commit:{nth}")
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
    run.close()
    inside = len(run.count("was ended by SIGKILL")) - outside
    run.notes |= {"killed_outside": outside, "killed_in_commit": inside}
    if inside < 1 or outside < 1:
        raise DriverError(f"{outside} workers were killed from outside and {inside} in a commit: the run proves nothing")


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
    run.wait_for_members(2)
    run.recover(f"SIGCONT of {name}")
    run.notes |= {"zombie_replaced": children(flow.pid).get(name) != pid, "two_workers_again_s": round(time.monotonic() - woken, 1)}
    run.close()


def scale(run: Run) -> None:
    """One worker, then two, then one again."""
    run.start_workers(1)
    run.start_simulator()
    run.wait_until(0.25)
    run.command("extra", "run", "execution", "--worker", "execution-1")
    began = time.monotonic()
    run.wait_for_members(2)
    joined = time.monotonic() - began
    run.recover("a second worker")
    run.wait_until(0.7)
    run.stop("extra")
    began = time.monotonic()
    run.wait_for_members(1)
    left = time.monotonic() - began
    run.recover("the second worker's leaving")
    run.notes |= {"joined_s": round(joined, 1), "left_s": round(left, 1)}
    run.close()


STEPS: dict[str, Callable[[Run], None]] = {"clean": clean, "kill": kill, "pause": pause, "scale": scale}


def accept(options: Options, cluster: Cluster, folder: Path) -> Outcome:
    """Run one scenario against empty topics and judge it; the ledger and logs are left in `folder`.

    Raises DriverError when the run itself did not work, ReadError when the topics cannot be read.
    """
    say(f"{options.scenario}: {options.rate:g} reports/s for {options.seconds:g} s, seed {options.seed}, {options.partitions} lanes")
    run = Run(options, cluster, folder)
    try:
        STEPS[options.scenario](run)
    finally:
        run.end()
    return Outcome(options, run.judge(), run.recoveries, run.notes)


# ---- the command ----------------------------------------------------------------------------------------------------------------


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
                o = outcome.options
                show_verdict(f"{o.scenario}: {o.rate:g} reports/s for {o.seconds:g} s, seed {o.seed}", outcome.verdict)
                lines.append(outcome.line())
                print(json.dumps(lines[-1]), flush=True)
                good = good and outcome.verdict.good
    except (DriverError, BrokerUnavailable, ReadError) as error:
        say(str(error))
        good = False
    finally:
        put_away(folder, args.keep, good)
    if args.scenario == "all" and lines:
        total = {name: sum(line[name] for line in lines) for name in ("inputs", "published", "duplicates", "pending", "dlq", *KINDS)}
        slowest = max(line["recovery_s"] for line in lines)
        print(json.dumps({"scenario": "all", "finished": len(lines), **total, "recovery_s": slowest}), flush=True)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
