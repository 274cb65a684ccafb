"""The hedger under `bench.faults`: its workers alone, a load and an order agent in processes of their own, and a verdict from everybody's ledgers.

The schedule of blows is that of the execution flow. `python -m bench.hedge_faults warm` compiles what the hedger needs by driving a lane in memory.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from bench.driver import ROOT, WARM_TIMEOUT_S, DriverError, environment_of
from bench.faults import DRAIN_TIMEOUT_S, LOAD_TIMEOUT_S, MARGIN, Faults, Step, carry_out, sum_up, tell
from bench.hedge_load import FILLS, REFERENCE, order
from bench.hedge_verdict import AUDIT, HedgeVerdict, judge, read_told
from bench.latency import stamp_topics
from bench.ledger import Cluster, read_ledger
from bench.verdict import HEDGE_KINDS, KINDS, say
from connectors.kafka_server import KafkaServer

VARIABLES = {
    "HEDGEROW_REFERENCE": str(REFERENCE),
    "HEDGEROW_HEDGE_BAR_S": "1",
    "HEDGEROW_HEDGE_EXPIRES_S": "5",
}
"""Bars of a second, so that covariances are warm within the run."""
QUIET_S = 11.0
"""For so long nothing is sent before the hedger counts as done: a book that was refused rests for up to 10 s."""
STOPS = 5
"""A bar may move a ratio at any time: when a hedge was sent while the workers were being stopped, they are started again."""
LAST_WORD_S = 1.0


class HedgerFaults(Faults):
    """A run of the hedger."""

    flow = "hedger"
    loaded = FILLS
    variables = VARIABLES

    def prepare(self) -> None:
        """Start the load, which says what holds and what prices were, and the order agent."""
        words = (str(self.folder), str(self.options.partitions), str(self.options.seed))
        self.command("load", *words, module="bench.hedge_load")
        self.command("agent", *words, module="bench.hedge_agent")
        self.wait_for((self.folder / "load.ready").exists, LOAD_TIMEOUT_S * 4, "the load is ready")

    def start_burst(self) -> None:
        """Have fills come."""
        order(self.folder, f"{self.options.rate * MARGIN:g}")

    def stop_burst(self) -> None:
        """Have no more fills come; quotes go on."""
        order(self.folder, "0")

    def close(self) -> None:
        """Let prices stand still until every hedge has ended and no more are sent, stop the workers, then the load and the order agent."""
        order(self.folder, "freeze")
        covers, since, begun = -1, time.monotonic(), time.monotonic()

        def at_rest() -> bool:
            nonlocal covers, since
            status = json.loads((self.folder / "agent.status").read_text())
            still = status["covers"] == covers and not status["open"] and status["frozen"]
            if not still:
                covers, since = status["covers"], time.monotonic()
            return still and not self.behind(self.cluster.ends(self.inputs))

        for attempt in range(STOPS):
            self.wait_for(
                lambda: at_rest() and time.monotonic() - since > QUIET_S, DRAIN_TIMEOUT_S, "every hedge has ended and no more are sent", 0.3
            )
            for number in range(self.options.workers):
                self.stop(self.name(number))
            time.sleep(LAST_WORD_S)  # a hedge sent with the last commit is with the order agent by now
            if at_rest():
                break
            if attempt == STOPS - 1:
                raise DriverError("whenever the workers were stopped another hedge had just been sent")
            for number in range(self.options.workers):
                self.add(number)
        say(f"all hedges have ended, and nothing new was sent, {time.monotonic() - begun:.1f} s after the last fill")
        order(self.folder, "end")
        for name in ("load", "agent"):
            self.finished(name, DRAIN_TIMEOUT_S)

    def verdict(self) -> HedgeVerdict:
        """Compare everything that came of what was sent; the workers must have stopped. Raises ReadError."""
        ledger = read_ledger(self.folder / "load.ndjson", self.folder / "agent.sent.ndjson")
        return judge(self.cluster, ledger, read_told(self.folder / "agent.ndjson"), os.cpu_count() or 1)


def run(options: argparse.Namespace, cluster: Cluster, folder: Path, server: KafkaServer | None, steps: Sequence[Step]) -> bool:
    """Do everything, judge, tell; return whether all was good. Raises DriverError when the run itself did not work."""
    stamp_topics(cluster, (AUDIT,))
    faults = HedgerFaults(options, cluster, folder, server)
    ran = carry_out(faults, steps)
    line, rows = sum_up(options, faults.blows, cluster.stamps(AUDIT))
    verdict = faults.verdict()
    line |= {kind: verdict.problems.counts[kind] for kind in (*KINDS, *HEDGE_KINDS)}
    line |= {
        "inputs": verdict.inputs,
        "fills": verdict.fills,
        "balance": dict(verdict.balance),
        "hedges": verdict.hedges.total(),
        "hedges_by_end": dict(sorted(verdict.hedges.items())),
        "decisions": dict(sorted(verdict.decisions.items())),
        "books_under_target_at_rest": dict(sorted(verdict.under_target.items())),
        "committed_after_s": [round(s, 1) for s in sorted(faults.recoveries)],
    }
    return tell(faults, steps, verdict, line, rows, ran)


def warm(cluster: Cluster) -> None:
    """Compile the kernels before anything is timed, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.hedge_faults", "warm"],
        cwd=ROOT, env=environment_of(cluster), capture_output=True, text=True, timeout=WARM_TIMEOUT_S,
    )  # fmt: skip
    if done.returncode != 0:
        raise DriverError(f"the hedger's kernels could not be compiled:\n{done.stderr}")
    say(done.stdout.strip())


def main(argv: list[str]) -> int:
    """Drive a few lanes in memory and judge them, as the run does."""
    from bench.hedge_memory import play

    if argv != ["warm"]:
        print("usage: python -m bench.hedge_faults warm", file=sys.stderr)
        return 2
    begun = time.monotonic()
    run = play(seconds=4.0, lanes=1, restart_every_s=2.0)
    counts: Counter[str] = run.verdict().problems.counts
    print(
        f"the hedger's kernels are warm after {time.monotonic() - begun:.1f} s; {len(run.covers)} hedges, wrong: {dict(counts) or 'nothing'}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
