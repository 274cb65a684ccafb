"""`python -m bench.faults --kills N --seed S`: kills, zombies, broker restarts and scaling by chance, under load; then every record is judged.

What is done, to whom and in which order follows from the seed alone and is printed first. Every blow falls under a load of at least `--rate`
reports a second with all of the simulator's faults; between blows the load rests, because the oracle that judges afterwards takes about a
millisecond an input. When exactly a blow falls among the threads of worker and broker is not in the seed's hand. Ends with a table, a line of
JSON, and exit code 0 only if all kills were done and nothing was lost, repeated, out of balance or unlike the oracle's.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import sys
import tempfile
import time
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from bench.driver import READY_TIMEOUT_S, Driver, DriverError, broker, children, empty_topics, put_away, show_verdict, warm
from bench.latency import stamp_topics
from bench.ledger import Cluster, ReadError
from bench.oracle import REPORT
from bench.verdict import AUDIT, KINDS, Verdict, say
from connectors.kafka_server import BrokerUnavailable, KafkaServer

MARGIN = 1.15
"""The simulator is asked for more than the rate, so that the rate holds in every half second and not only on average."""
WINDOW_S = 0.5
LOAD_TIMEOUT_S = 15.0
LOAD_LONGEST_S = 120.0
AFTER_S = 0.6
"""How long the load goes on after a blow."""
LIFE_S = 0.3
"""Mean life of a simulated order: the shorter, the sooner a burst of orders is a full load."""
STRIKE_TIMEOUT_S = 60.0
GRACE_MS = 500
"""What a dead worker had sent may still be taken by the broker; no other worker is in its place so soon."""
SESSION_S = 6.0
DRAIN_TIMEOUT_S = 180.0
COORDINATOR_S = 3.0
"""Rest of our own questions after a broker's restart: asked of a group whose coordinator still loads, librdkafka 2.16 may crash (a retry in its main thread)."""


# ---- the schedule ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """One thing that is done. `worker`: to whom; `point`: where in a worker's life (flows.run.FAULT_POINTS), or from outside ("")."""

    kind: str
    worker: int = 0
    point: str = ""
    after: int = 1
    """The how manieth time it comes to the point."""
    delay_s: float = 0.0
    """From the point, or from the moment the load is there, to the blow."""
    restart: bool = True
    """Whether the supervisor may start the worker again before others have taken over its lanes."""
    pause_s: float = 0.0

    @property
    def kills(self) -> int:
        """Return how many workers are killed."""
        return KILLS.get(self.kind, 0)

    def __str__(self) -> str:
        return self.words()

    def words(self, flow: str = "execution") -> str:
        """Return what is done in words."""
        words = [self.kind]
        if self.kind not in ("scale", "broker stop", "broker crash", "both"):
            words.append(f"{flow}-{self.worker}")
        if self.point:
            words.append(f"at {self.point}, time {self.after}")
        if self.delay_s:
            words.append(f"{self.delay_s * 1000:.1f} ms later")
        if self.pause_s:
            words.append(f"for {self.pause_s:.1f} s")
        if self.kills and not self.restart:
            words.append("not restarted")
        return " ".join(words)


KILLS = {"before": 1, "inside": 1, "after": 1, "random": 1, "restoring": 2, "rebalancing": 1, "both": 2}
"""Kinds of steps that kill: before, inside and after a commit; at a random time; a worker, and again while it restores; while lanes are taken
away or, by the newcomer, restored; two workers at once."""
DECK = (
    ("before", 0.75), ("inside", 1.0), ("inside", 0.0), ("after", 0.75), ("random", 1.0), ("random", 0.0), ("restoring", 1.0),
    ("rebalancing", 1.0), ("both", 1.0),
)  # fmt: skip
"""What a round of steps is made of: kind, how likely the worker is restarted at once."""
ZOMBIES_EACH, BROKERS_EACH, SCALES_EACH = 10, 16, 50
"""One of them for so many kills, at least one."""


def schedule(seed: int, kills: int, workers: int = 2, with_broker: bool = True) -> list[Step]:
    """Return what is done: a function of the arguments, with exactly so many kills."""
    rng = Random(f"faults|{seed}|{kills}|{workers}")
    steps: list[Step] = []
    left = kills
    while left:
        for kind, restart in rng.sample(DECK, len(DECK)):
            if KILLS[kind] <= left:
                steps.append(_kill(rng, kind, rng.random() < restart, workers))
                left -= KILLS[kind]
    others = [_zombie(rng, workers) for _ in range(max(1, kills // ZOMBIES_EACH))]
    others += [Step("scale") for _ in range(max(1, kills // SCALES_EACH))]
    ways = rng.sample(("broker stop", "broker crash"), 2)
    restarts = [Step(ways[i % 2], delay_s=_moment(rng)) for i in range(max(1, kills // BROKERS_EACH))]
    for step in others + restarts * with_broker:
        steps.insert(rng.randint(0, len(steps)), step)
    return steps


def _moment(rng: Random) -> float:
    return round(rng.uniform(0.01, 0.4), 4)


def _kill(rng: Random, kind: str, restart: bool, workers: int) -> Step:
    worker, after = rng.randrange(workers), rng.randint(1, 5)
    if kind == "before":
        return Step(kind, worker, rng.choice(("before_produce", "before_send_offsets")), after, restart=restart)
    if kind == "inside":
        return Step(kind, worker, "before_commit", after, rng.choice((0.0, round(rng.uniform(0.0005, 0.015), 4))), restart)
    if kind == "after":
        return Step(kind, worker, "after_commit", after, restart=restart)
    if kind == "restoring":
        return Step(kind, worker, "during_restore", rng.randint(1, 3), restart=restart)
    if kind == "rebalancing":
        newcomer = rng.random() < 0.4
        return Step(kind, workers if newcomer else worker, "during_restore" if newcomer else "in_revoke", restart=restart)
    return Step(kind, worker, delay_s=_moment(rng), restart=restart)


def _zombie(rng: Random, workers: int) -> Step:
    point = rng.choice(("", "", "before_commit", "before_produce"))
    pause_s = round(rng.uniform(SESSION_S + 1.5, 22.0), 1)
    return Step("zombie", rng.randrange(workers), point, rng.randint(1, 5), 0.0 if point else _moment(rng), pause_s=pause_s)


# ---- recovery -------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Blow:
    """One thing that was done: `lanes` stood still by it, at `load` reports per second."""

    kind: str
    worker: str
    at_ms: float
    lanes: tuple[int, ...]
    load: float
    restart: bool = True
    kill: bool = True


def recovery_s(blow: Blow, stamps: Mapping[int, Sequence[int]], blows: Sequence[Blow] = ()) -> float | None:
    """Return how long it took until the last of the blow's lanes put something out again; None when it never did, when another blow
    fell on one of the lanes before, or when it was on none. `stamps`: lane → when the broker took each output, ms."""
    ends: list[float] = []
    for lane in blow.lanes:
        at = bisect_left(stamps[lane], blow.at_ms + GRACE_MS)
        if at == len(stamps[lane]):
            return None
        ends.append(stamps[lane][at])
    if not ends:
        return None
    end = max(ends)
    if any(blow.at_ms < other.at_ms < end and set(blow.lanes) & set(other.lanes) for other in blows if other is not blow):
        return None
    return (end - blow.at_ms) / 1000


def quantile(values: Sequence[float], q: float) -> float | None:
    """Return the smallest value that at least a share `q` of the values does not exceed; None of none."""
    return sorted(values)[max(0, math.ceil(q * len(values)) - 1)] if values else None


# ---- the run --------------------------------------------------------------------------------------------------------------------


class Faults(Driver):
    """A run: its workers, each under a supervisor of its own, its bursts of load, and what has been done."""

    loaded = REPORT
    """The topic the load is measured in."""
    variables: Mapping[str, str] = {}
    """Settings of the workers."""

    def __init__(self, options: argparse.Namespace, cluster: Cluster, folder: Path, server: KafkaServer | None) -> None:
        super().__init__(cluster, folder)
        self.options, self._server = options, server
        self.blows: list[Blow] = []
        self.lanes = range(options.partitions)
        self.load = 0.0
        self.other_kills: Counter[str] = Counter()
        """Of what is no worker of the flow."""
        self._orders = folder / "orders"
        self._orders.mkdir()
        self._loaded = cluster.places([self.loaded])
        self._bursts = 0
        self._burst = ""

    # ---- workers ------------------------------------------------------------------------------------------------------------

    def add(self, number: int) -> str:
        """Start a worker under its supervisor; return its name."""
        name = self.name(number)
        self.command(name, name, module="bench.supervised", HEDGEROW_FAULT=f"@{self._orders}", **self.variables)
        return name

    def name(self, number: int) -> str:
        """Return a worker's name."""
        return f"{self.flow}-{number}"

    def all_there(self) -> dict[str, list[int]]:
        """Wait until the usual workers own all lanes; return who owns which."""
        return self.wait_for_members(self.options.workers)

    def pid(self, worker: str) -> int:
        """Return the process of a worker, 0 when it does not run."""
        return children(self._processes[worker].pid).get(worker, 0)

    def order(self, worker: str, step: Step, name: str) -> Path:
        """Have a worker send itself a signal at the step's point; return the file that tells when it did."""
        order = self._orders / f"{worker}.{step.point}"
        scratch = order.with_suffix(".new")
        scratch.write_text(f"{step.after} {name} {step.delay_s}")
        scratch.rename(order)
        return Path(f"{order}.done")

    def done(self, file: Path, delay_s: float = 0.0) -> float:
        """Wait until an order was carried out; return when the signal was sent, ms."""
        self.wait_for(file.exists, STRIKE_TIMEOUT_S, f"{file.stem} was reached", 0.02)
        at_ns = file.stat().st_ctime_ns
        file.unlink()
        return at_ns / 1e6 + delay_s * 1000

    def strike(self, worker: str, step: Step, number: signal.Signals) -> float:
        """Send a worker a signal, as the step says; return when, ms."""
        if step.point:
            return self.done(self.order(worker, step, number.name), step.delay_s)
        time.sleep(step.delay_s)
        self.wait_for(lambda: self.pid(worker) > 0, READY_TIMEOUT_S, f"{worker} is there to be hit", 0.02)
        at = time.time_ns()
        os.kill(self.pid(worker), number)
        return at / 1e6

    # ---- load ---------------------------------------------------------------------------------------------------------------

    def begin_load(self) -> None:
        """Start a burst and return when the broker takes the rate asked for; `load` is what it takes."""
        o = self.options
        self.start_burst()
        deadline = time.monotonic() + LOAD_TIMEOUT_S
        seen: deque[tuple[float, int]] = deque()
        self.load = 0.0
        while self.load < o.rate and time.monotonic() < deadline:
            now, count = time.monotonic(), sum(self.cluster.ends(self._loaded).values())
            seen.append((now, count))
            while now - seen[0][0] > 2 * WINDOW_S or (len(seen) > 1 and now - seen[1][0] >= WINDOW_S):
                seen.popleft()
            since, before = seen[0]
            if now - since >= WINDOW_S:
                self.load = (count - before) / (now - since)
            time.sleep(0.05)
        if self.load < o.rate:
            say(f"the load did not come to {o.rate:g} records/s within {LOAD_TIMEOUT_S:g} s: {self.load:.0f}")

    def end_load(self) -> None:
        """Let the load go on a little, then route no more orders; what is under way is still sent."""
        time.sleep(AFTER_S)
        self.stop_burst()

    def start_burst(self) -> None:
        """Have the load begin."""
        # Of two bursts at a time the older one would make the rate, and the new one be told to end before it can hear it.
        ended = lambda: all(process.poll() is not None for process in self._simulators.values())  # noqa: E731
        self.wait_for(ended, LOAD_LONGEST_S, "the bursts before have ended")
        self._bursts += 1
        self._burst = f"load-{self._bursts:03d}"
        seed = self.options.seed * 1_000 + self._bursts
        self.simulate(self._burst, self.options.rate * MARGIN, LOAD_LONGEST_S, seed, "--life", str(LIFE_S))

    def stop_burst(self) -> None:
        """Have the load end."""
        self._simulators[self._burst].send_signal(signal.SIGINT)

    # ---- what is done -------------------------------------------------------------------------------------------------------

    def do(self, step: Step) -> None:
        """Carry out one step and return when the usual workers are there again and have taken in what there was."""
        if step.kills:
            self._kill(step)
        elif step.kind == "zombie":
            self._zombie(step)
        elif step.kind == "scale":
            self._scale()
        else:
            self._restart_broker(step)
        self.all_there()

    def _blow(self, kind: str, worker: str, at_ms: float, lanes: Sequence[int], step: Step) -> None:
        self.blows.append(Blow(kind, worker, at_ms, tuple(lanes), self.load, step.restart, bool(step.kills)))

    def _kill(self, step: Step) -> None:
        lanes, worker = self.all_there(), self.name(step.worker)
        supervisor = None if step.restart else self._processes[worker]
        if supervisor is not None:
            supervisor.send_signal(signal.SIGSTOP)
        self.begin_load()
        if step.kind == "restoring":
            again = self.order(worker, step, "SIGKILL")
            self._blow("random", worker, self.strike(worker, Step("random"), signal.SIGKILL), lanes[worker], step)
            self._blow(step.kind, worker, self.done(again), lanes[worker], step)
        elif step.kind == "rebalancing":
            order = self.order(worker, step, "SIGKILL")
            newcomer = self.add(self.options.workers)
            # A newcomer dies with lanes that were taken away from everybody.
            stand = self.lanes if worker == newcomer else lanes[worker]
            self._blow(step.kind, worker, self.done(order), stand, step)
        elif step.kind == "both":
            for other in sorted(lanes):
                self._blow("random", other, self.strike(other, step, signal.SIGKILL), lanes[other], step)
        else:
            self._blow(step.kind, worker, self.strike(worker, step, signal.SIGKILL), lanes[worker], step)
        self.end_load()
        self.recover(step.words(self.flow))
        if supervisor is not None:
            supervisor.send_signal(signal.SIGCONT)
        if step.kind == "rebalancing":
            self.wait_for_members(self.options.workers + 1)
            self.stop(newcomer)

    def _zombie(self, step: Step) -> None:
        lanes, worker = self.all_there(), self.name(step.worker)
        pid = self.pid(worker)
        self.begin_load()
        at_ms = self.strike(worker, step, signal.SIGSTOP)
        self._blow("zombie", worker, at_ms, lanes[worker], step)
        self.end_load()
        time.sleep(max(0.0, at_ms / 1000 + step.pause_s - 2.0 - time.time()))  # the next burst takes as long to be a full load
        self.begin_load()
        time.sleep(max(0.0, at_ms / 1000 + step.pause_s - time.time()))
        os.kill(pid, signal.SIGCONT)
        self.end_load()
        self.recover(step.words(self.flow))

    def _restart_broker(self, step: Step) -> None:
        assert self._server is not None
        self.all_there()
        self.begin_load()
        time.sleep(step.delay_s)
        self.cluster.renew()
        at_ms = time.time_ns() / 1e6
        self._server.restart(crash=step.kind == "broker crash")
        self._blow(step.kind, "broker", at_ms, self.lanes, step)
        time.sleep(COORDINATOR_S)
        self.end_load()
        self.recover(step.words(self.flow))

    def _scale(self) -> None:
        """From the usual number down to one worker, two, three, one, and back: every change under load."""
        usual, now = self.options.workers, self.options.workers
        self.all_there()
        for wanted in (1, 2, 3, 1, usual):
            self.begin_load()
            at_ms = time.time_ns() / 1e6
            for number in range(now, wanted):
                self.add(number)
            for number in range(wanted, now):
                self.stop(self.name(number))
            if wanted != now:
                self.wait_for_members(wanted)
                self._blow(f"scale {now} to {wanted}", "all", at_ms, (), Step("scale"))  # when lanes stood still is not known here
            self.end_load()
            self.recover(f"{now} to {wanted} workers")
            now = wanted

    def prepare(self) -> None:
        """Do what must be done before the workers are started."""

    def close(self) -> None:
        """Wait until everything is sent and taken in, and stop the workers."""
        for name in self._simulators:
            self.finish(name, DRAIN_TIMEOUT_S)
        self.settle()
        for number in range(self.options.workers):
            self.stop(self.name(number))


def sum_up(
    options: argparse.Namespace, blows: Sequence[Blow], stamps: Mapping[int, Sequence[int]]
) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """Return the figures of what was done, for the line and for the table."""
    took = {blow: recovery_s(blow, stamps, blows) for blow in blows}
    kills = [blow for blow in blows if blow.kill]

    def told(those: Sequence[Blow]) -> list[float]:
        return [s for blow in those if (s := took[blow]) is not None]

    rows = []
    for kind, restart in sorted({(blow.kind, blow.restart) for blow in blows}):
        those = [blow for blow in blows if (blow.kind, blow.restart) == (kind, restart)]
        seconds = told(those)
        figures = f"{quantile(seconds, 0.5):.1f} / {max(seconds):.1f} s" if seconds else "-"
        rows.append((f"{kind}{'' if restart else ', not restarted'}: {len(those)}; recovery median / longest", figures))
    quantiles = {
        "recovery_p95_s": quantile(told(kills), 0.95),
        "recovery_max_s": max(told(kills), default=None),
        "recovery_restarted_p50_s": quantile(told([blow for blow in kills if blow.restart]), 0.5),
        "recovery_restarted_p95_s": quantile(told([blow for blow in kills if blow.restart]), 0.95),
        "recovery_taken_over_p50_s": quantile(told([blow for blow in kills if not blow.restart]), 0.5),
        "recovery_taken_over_p95_s": quantile(told([blow for blow in kills if not blow.restart]), 0.95),
    }
    line = {
        "kills": len(kills),
        **{name: None if s is None else round(s, 2) for name, s in quantiles.items()},
        "recoveries_measured": len(told(kills)),
        "seed": options.seed,
        "by_kind": dict(sorted(Counter(f"{b.kind}{'' if b.restart else ', not restarted'}" for b in blows).items())),
        "load_min_per_s": round(min((blow.load for blow in blows), default=0.0)),
        "blows_below_rate": sum(blow.load < options.rate for blow in blows),
    }
    return line, rows


def run(options: argparse.Namespace, cluster: Cluster, folder: Path, server: KafkaServer | None, steps: Sequence[Step]) -> bool:
    """Do everything, judge, tell; return whether all was good. Raises DriverError when the run itself did not work."""
    stamp_topics(cluster, (AUDIT,))
    faults = Faults(options, cluster, folder, server)
    ran = carry_out(faults, steps)
    line, rows = sum_up(options, faults.blows, cluster.stamps(AUDIT))
    verdict = faults.judge()
    line |= {kind: verdict.problems.counts[kind] for kind in KINDS}
    line |= {"inputs": verdict.inputs, "balance": dict(verdict.balance), "fills": verdict.fills, "exec_id_not_compared": verdict.unsettled}
    return tell(faults, steps, verdict, line, rows, ran)


def carry_out(faults: Faults, steps: Sequence[Step]) -> float:
    """Start the workers, do everything, stop them in good order; return the seconds it took."""
    options, begun = faults.options, time.monotonic()
    try:
        faults.prepare()
        for number in range(options.workers):
            faults.add(number)
        faults.all_there()
        for number, step in enumerate(steps, 1):
            if time.monotonic() - begun > options.limit:
                say(f"the time limit of {options.limit:g} s is over: {len(steps) - number + 1} steps are left out")
                break
            say(f"step {number} of {len(steps)}, {time.monotonic() - begun:.0f} s: {step.words(faults.flow)}")
            faults.do(step)
        faults.close()
    finally:
        faults.end()
    return time.monotonic() - begun


def tell(faults: Faults, steps: Sequence[Step], verdict: Verdict, line: dict[str, Any], rows: list[tuple[str, str]], ran: float) -> bool:
    """Print the table and the line; return whether everything was done and nothing was wrong."""
    options = faults.options
    line |= {
        "kills_seen_by_supervisors": len(faults.count("was ended by SIGKILL")) - faults.other_kills.total(),
        "ended_with_code": dict(sorted(Counter(faults.count(r"ended with code (\d+) after")).items())),
        "rate": options.rate,
        "workers": options.workers,
        "partitions": options.partitions,
        "ran_s": round(ran, 1),
        "judged_s": round(verdict.seconds, 1),
        "cores": os.cpu_count(),
        "load_1min": round(os.getloadavg()[0], 2),
    }
    show_verdict(f"{line['kills']} kills, seed {options.seed}, {options.rate:g} records/s, {options.workers} workers", verdict, rows)
    print(json.dumps(line), flush=True)
    return verdict.good and line["kills"] == line["kills_seen_by_supervisors"] == sum(step.kills for step in steps)


def main(argv: list[str] | None = None) -> int:
    """Run the faults of a seed; return 0 only if all were done and nothing was wrong."""
    parser = argparse.ArgumentParser(prog="python -m bench.faults", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--flow", choices=("execution", "hedger", "canary"), default="execution")
    parser.add_argument("--kills", type=int, default=50, metavar="N", help="workers killed (50)")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of the schedule and of the load (1)")
    parser.add_argument("--rate", type=float, default=5_000.0, metavar="N", help="venue reports, or fills, per second at every blow (5000)")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="workers, but for the steps that change their number (2)")
    parser.add_argument("--partitions", type=int, default=8, metavar="N", help="lanes (8)")
    parser.add_argument("--limit", type=float, metavar="S", help="most seconds for all steps (120 and 40 for each kill)")
    parser.add_argument("--schedule", action="store_true", help="only print what would be done")
    parser.add_argument("--wipe", action="store_true", help="delete hedgerow's topics and all consumer groups at HEDGEROW_KAFKA first")
    parser.add_argument("--keep", action="store_true", help="keep ledgers, logs and our own broker's data, and say where")
    args = parser.parse_args(argv)
    if not 1 <= args.kills <= 10_000 or not 0 <= args.seed < 2**40 or not 1 <= args.rate <= 1e5:
        parser.error("--kills must be 1 to 10,000, --seed 0 to 2^40, --rate 1 to 100,000")
    if not 2 <= args.workers <= 8 or not args.workers < args.partitions <= 256:
        parser.error("--workers must be 2 to 8, --partitions more than that and at most 256")
    args.limit = args.limit or 120.0 + 40.0 * args.kills
    given = "HEDGEROW_KAFKA" in os.environ
    steps = schedule(args.seed, args.kills, args.workers, with_broker=not given)
    print(f"seed {args.seed}: {args.kills} kills in {len(steps)} steps" + (", no broker restarts: it is not ours" if given else ""))
    for number, step in enumerate(steps, 1):
        print(f"{number:4d}  {step.words(args.flow)}")
    sys.stdout.flush()
    if args.schedule:
        return 0
    folder = Path(tempfile.mkdtemp(prefix="hedgerow-faults-"))
    good = False
    try:
        server = None if given else KafkaServer(folder / "kafka")
        with broker(folder, args.wipe, server) as (cluster, may_delete):
            if args.flow == "hedger":
                from bench import hedge_faults

                hedge_faults.warm(cluster)
                empty_topics(cluster, args.partitions, may_delete)
                good = hedge_faults.run(args, cluster, folder, server, steps)
            elif args.flow == "canary":
                from bench import canary_faults

                warm(cluster)
                empty_topics(cluster, args.partitions, may_delete)
                good = canary_faults.run(args, cluster, folder, server, steps)
            else:
                warm(cluster)
                empty_topics(cluster, args.partitions, may_delete)
                good = run(args, cluster, folder, server, steps)
    except (DriverError, BrokerUnavailable, ReadError) as error:
        say(f"seed {args.seed}: {error}")
    finally:
        put_away(folder, args.keep, good)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
