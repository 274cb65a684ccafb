"""`hedgerow demo --hedge`: clients trade, the execution flow makes fills of it, the hedger hedges them, an order agent executes that, and its fills come back.

Embedded broker, one worker of each flow, the hedging world of the simulator in this process, a live board, and a table of what was reached. Starts, shows
and stops; the world's own account judges (connectors/simulator/hedge_summary.py). Exactly-once is not proven here (connectors/mock_broker.py).
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live

from connectors.kafka_server import free_port
from connectors.mock_broker import MockBroker
from connectors.simulator.factors import SECOND
from connectors.simulator.hedge_account import HedgeAccount
from connectors.simulator.hedging import REFERENCE_FILE, HedgeWorld
from connectors.simulator.hedging_command import LEAD_S, LEAST_SECONDS, LONG_SECONDS, READ, SENT, HedgeLoop, scenario_of
from connectors.topics import partitions_of
from flows.board import level_lines, level_table, passed
from flows.demo_process import Child, DemoError, compile_kernels, environment_with, seconds_of, to_its_end
from flows.hedge_board import HEDGES_SHOWN, BookNow, HedgeFigures, HedgeLine, hedge_board, hedge_levels, hedge_line
from flows.run import FLOWS
from flows.watch import scrape
from schemas.registry import TOPICS

WORKERS = ("execution", "hedger")
LANES = 2
USUAL_SECONDS = 60.0
START_S, READY_S, STOP_S = 10.0, 60.0, 20.0
REFRESH_S, PLAIN_S = 0.5, 2.0
_EVENTS = {
    "break": "correlation breaks:",
    "regime": "",
    "shortfall": "liquidity is short:",
    "outage": "no channel to",
    "halt": "HALT of",
}


def run(args: argparse.Namespace) -> int:
    """Carry out `hedgerow demo --hedge`; return 0 when every correctness row holds, 1 when not, 2 for bad arguments, 130 when interrupted."""
    seconds = seconds_of(args, "--hedge", USUAL_SECONDS, LEAST_SECONDS, LONG_SECONDS)
    if seconds is None:
        return 2
    console = Console(highlight=False)
    return to_its_end(_Demo(seconds, args.seed, console, args.plain or not console.is_terminal).run)


# ---- what is shown ---------------------------------------------------------------------------------------------------------------


def look(loop: HedgeLoop, now_ns: int) -> dict[str, Any]:
    """Return what a moment's HedgeFigures are made of, from the world and its account."""
    with loop.lock:
        world, account = loop.world, loop.account
        scenario = world.scenario
        completions = account.completions_s(scenario.open_ns, now_ns)
        covered = account.risk_coverage(scenario.open_ns, now_ns)
        return {
            "going_on": going_on(world, now_ns),
            "books": tuple(_book_now(account, book.name) for book in scenario.books),
            "client_fills": account.client_fills,
            "hedge_fills": account.hedge_fills,
            "hedges": len(account.hedges),
            "decisions": sum(account.outcomes.values()),
            "completion_p50_s": completions[len(completions) // 2] if completions else None,
            "completion_p95_s": completions[int(0.95 * len(completions))] if completions else None,
            "slippage_bps": account.slippage_bps(),
            "coverage_pct": None if covered != covered else 100 * covered,
            "reasons": dict(account.reasons),
            "last": _last_hedges(account),
        }


def going_on(world: HedgeWorld, now_ns: int) -> str:
    """Return the upsets in force, in words."""
    return " · ".join(f"{_EVENTS[event.kind]} {event.detail}".strip() for event in world.events() if event.from_ns <= now_ns < event.to_ns)


def _book_now(account: HedgeAccount, name: str) -> BookNow:
    book = account.books.get(name)
    if book is None or not book.samples:
        return BookNow(name, "", 0.0, 0.0, None, 0, "")
    sample = book.samples[-1]
    coverage = None if sample.coverage != sample.coverage else sample.coverage
    return BookNow(name, book.universe["base_currency"], sample.exposure, sample.hedged, coverage, book.sent, book.reason)


def _last_hedges(account: HedgeAccount) -> tuple[HedgeLine, ...]:
    found = []
    for order_id in reversed(account.legs):
        leg = account.legs[order_id]
        at = datetime.fromtimestamp(leg.decided_ns / SECOND, UTC).strftime("%H:%M:%S.%f")[:12]
        size = f"{abs(leg.size):g}"
        found.append(HedgeLine(at, leg.book, leg.symbol, "BUY" if leg.size > 0 else "SELL", size, abs(leg.notional), leg.status or "sent"))
        if len(found) == HEDGES_SHOWN:
            break
    return tuple(found)


# ---- the run ---------------------------------------------------------------------------------------------------------------------


class _Demo:
    """One run."""

    def __init__(self, seconds: float, seed: int, console: Console, plain: bool) -> None:
        self.seconds, self.seed, self.console, self.plain = seconds, seed, console, plain
        self.ports = {name: free_port() for name in WORKERS}
        self.figures = HedgeFigures(total_s=seconds, about=f"demo: hedging, embedded broker, {LANES} lanes")
        self._shown = 0.0

    def run(self) -> int:
        """Run it; return the exit code."""
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hedgerow-hedge-")))
            compile_kernels(self._say)
            topics = dict.fromkeys((*(name for flow in WORKERS for name in FLOWS[flow][1]), *SENT, *READ))
            broker = stack.enter_context(MockBroker({name: partitions_of(TOPICS[name], LANES) for name in topics}))
            self._say(f"the embedded broker listens at {broker.bootstrap}: {len(topics)} topics, {LANES} lanes")
            loop = HedgeLoop(broker.bootstrap, {}, scenario_of(self.seed, self.seconds, time.time_ns(), wait_s=START_S))
            loop.lead()
            self._say(f"{LEAD_S / 60:.0f} minutes of quotes are there, for covariances; one worker each of {' and '.join(WORKERS)} starts")
            children = [self._worker(name, broker.bootstrap, folder, stack) for name in WORKERS]
            self._drive(loop, children)
            balances = {child.name: self._balance(child.name) for child in children}
            ended = [child.stop(STOP_S) for child in children]
            undelivered = loop.close()
            return self._tell(loop, balances, children, ended, undelivered)

    def _say(self, text: str) -> None:
        self.console.print(text if self.plain else f"[green]▸[/] {text}")

    def _worker(self, name: str, bootstrap: str, folder: Path, stack: ExitStack) -> Child:
        own = {
            "KAFKA": bootstrap, "REFERENCE": str(REFERENCE_FILE), "METRICS_PORT": str(self.ports[name]), "METRICS_HOST": "127.0.0.1",
            "LOG_LEVEL": "WARNING", "BROADCAST_LOOKBACK_S": "0",  # from the beginning: the mock cluster finds no offset by its time
        }  # fmt: skip
        child = Child(name, ("run", name), environment_with(own), folder)
        stack.callback(child.kill)
        return child

    def _wait_ready(self, children: list[Child]) -> None:
        deadline = time.monotonic() + READY_S
        waiting = list(children)
        with nullcontext() if self.plain else self.console.status("waiting until both flows own their lanes"):
            while time.monotonic() < deadline:
                for child in children:
                    child.check(may_end=False)
                waiting = [child for child in waiting if not self._owns(child.name)]
                if not waiting:
                    return
                time.sleep(0.2)
        raise DemoError(f"{', '.join(child.name for child in waiting)} not ready within {READY_S:.0f} s: {waiting[0].said()}")

    def _owns(self, name: str) -> bool:
        found = scrape(self.ports[name])
        return found is not None and found.runtime["hedgerow_lanes_owned"] == LANES

    def _balance(self, name: str) -> int | None:
        found = scrape(self.ports[name])
        return None if found is None else found.lanes["balance_mismatch"]

    def _drive(self, loop: HedgeLoop, children: list[Child]) -> None:
        """Let the world go on in a thread and show it, until it is over. Raises DemoError when a part has failed."""
        failures: list[BaseException] = []

        def drive() -> None:
            try:
                loop.run()
            except BaseException as error:
                failures.append(error)

        driver = threading.Thread(target=drive, name="world", daemon=True)
        driver.start()
        try:
            self._wait_ready(children)
            self._say(f"{len(loop.world.scenario.books)} books; clients trade for {self.seconds:.0f} s, and the market has its upsets")
            with self._display() as show:
                while driver.is_alive():
                    for child in children:
                        child.check(may_end=False)
                    now_ns = time.time_ns()
                    scenario = loop.world.scenario
                    phase = (
                        "it begins"
                        if now_ns < scenario.open_ns
                        else "clients trade"
                        if now_ns < scenario.close_ns
                        else "the last fills come back"
                    )
                    elapsed_s = max(0.0, (now_ns - scenario.open_ns) / SECOND)
                    self.figures = HedgeFigures(
                        phase=phase, about=self.figures.about, elapsed_s=elapsed_s, total_s=self.seconds, **look(loop, now_ns)
                    )
                    show(self.figures)
                    driver.join(REFRESH_S)
        finally:
            loop.stop()
            driver.join(30.0)
        if failures:
            raise DemoError(f"the hedging world has failed: {failures[0]}") from failures[0]

    @contextmanager
    def _display(self) -> Iterator[Callable[[HedgeFigures], None]]:
        if self.plain:
            yield self._line
            return
        with Live(hedge_board(self.figures), console=self.console, screen=True, auto_refresh=False) as live:
            yield lambda figures: live.update(hedge_board(figures), refresh=True)

    def _line(self, figures: HedgeFigures) -> None:
        if time.monotonic() - self._shown >= PLAIN_S:
            self._shown = time.monotonic()
            print(hedge_line(figures), flush=True)

    # -- the end --

    def _tell(
        self, loop: HedgeLoop, balances: dict[str, int | None], children: list[Child], ended: list[int | None], undelivered: int
    ) -> int:
        figures = loop.figures()
        levels = hedge_levels(figures, balances, dict(loop.account.letters))
        if self.plain:
            print(hedge_line(self.figures))
            print("decisions by first reason: " + ", ".join(f"{reason} {n:,}" for reason, n in loop.account.reasons.most_common()))
            for line in level_lines(levels):
                print(line)
        else:
            self.console.print(hedge_board(self.figures))
            self.console.print(level_table(levels))
        notes = [
            f"{figures['decisions']:,} decisions, {figures['hedges']:,} hedges, {figures['hedge_fills']:,} fills of them, for {figures['client_fills']:,} fills of "
            f"clients. Hedges took {_known(figures['effectiveness_pct'])} % of the variance away, by the market's own covariance, of "
            f"{_known(figures['effectiveness_bound_pct'])} % that could be.",
            "An hour's upsets in a minute: coverage and failures are of that, and never decide the exit code. `python -m bench.hedge_hour` is the whole hour.",
            "The embedded broker has no real transactions: exactly-once is not proven here. On a real Kafka `make test` proves it.",
        ]  # fmt: skip
        if loop.behind_s > 0.25:
            notes.append(f"The world was up to {loop.behind_s:.1f} s behind the clock: the machine is busy, and the timings show it.")
        if undelivered:
            notes.append(f"{undelivered:,} messages did not reach the broker.")
        notes += [
            f"The {child.name} worker {'had to be killed' if code is None else f'ended with code {code}'} when asked to stop: {child.said()}"
            for child, code in zip(children, ended, strict=True)
            if code != 0
        ]
        for note in notes:
            self.console.print(note, soft_wrap=self.plain)
        good = passed(levels) and not undelivered and all(code == 0 for code in ended)
        self.console.print(
            "every correctness row holds" if good else "NOT every correctness row holds", style="green" if good else "bold red"
        )
        return 0 if good else 1


def _known(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"
