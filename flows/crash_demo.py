"""`hedgerow demo --crash`: a scripted crash through the dashboard, the canary, its monitor and a signed webhook, live, ending in a table of what was reached.

Runs the flows as they are, but on the story's clock: a week passes in less than a minute, and the embedded broker keeps nothing. The receiver here
checks signatures with code of its own. Decides nothing; exactly-once is not proven here (connectors/mock_broker.py lists the broker's limits).
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import hmac
import importlib
import json
import os
import secrets
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from confluent_kafka import Consumer, KafkaException, TopicPartition
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from connectors.mock_broker import MockBroker
from connectors.simulator.crash import ACCOUNTS, PAPER, STRESSED, Crash, Scenario, Timeline
from connectors.simulator.crash_command import batches, tell
from connectors.simulator.sender import Sender
from connectors.topics import partitions_of
from flows import canary_show as show
from flows.demo_process import Child, DemoError, environment_with, seconds_of, to_its_end
from schemas import registry
from schemas.canary import CanaryAlertMessage, NoticeMessage, RegimeMessage
from schemas.parse import parse
from schemas.policy import load_policies

FLOWS = {
    "regime": (*registry.REGIME_INPUTS, *registry.REGIME_OUTPUTS, registry.REGIME_CHANGELOG),
    "canary": (*registry.CANARY_INPUTS, *registry.CANARY_BROADCAST, *registry.CANARY_OUTPUTS, registry.CANARY_CHANGELOG),
    "monitor": (*registry.MONITOR_INPUTS, *registry.MONITOR_OUTPUTS, registry.MONITOR_CHANGELOG),
}
DELIVERER = "webhooks"
PROFILES = ("canary-default", "canary-guarded")
ALERTS, NOTICES, REGIMES = "canary.alert.v1", "canary.notice.v1", "risk.regime.v1"
WALK = ("quiet", "early_warning", "confirmed_stress", "forced_defense", "quiet")
"""Stages the account without margin must be seen in, in this order, under every profile."""
LANES = 2
LEAST_SECONDS, USUAL_SECONDS, MOST_SECONDS = 45.0, 75.0, 600.0
"""Told faster than that, what takes a tenth of a second on the way is more than ten minutes old in the story's time, and rightly stale."""
STEP_S = 120
READY_S, SETTLE_S, STOP_S = 240.0, 15.0, 15.0
REFRESH_S, PLAIN_S = 0.25, 2.0
TOLERANCE_S = 300
_LAST = 5
_SECRET = "HEDGEROW_DEMO_WEBHOOK_SECRET"
_NEW_YORK = ZoneInfo("America/New_York")
_S = 1_000_000_000


def run(args: argparse.Namespace) -> int:
    """Carry out `hedgerow demo --crash`; return 0 when everything was reached, 1 when not, 2 for bad arguments, 130 when interrupted."""
    seconds = seconds_of(args, "--crash", USUAL_SECONDS, LEAST_SECONDS, MOST_SECONDS)
    if seconds is None:
        return 2
    console = Console(highlight=False)
    return to_its_end(_Demo(seconds, args.seed, console, args.plain or not console.is_terminal).run)


def scenario_of(seed: int) -> Scenario:
    """Return the story as it is told here: snapshots every two minutes on every day."""
    return Scenario(seed, step_s=STEP_S, calm_step_s=STEP_S)


# ---- the story's clock -----------------------------------------------------------------------------------------------------------


class StoryClock:
    """The time of the story, for every process of the demo: the file says when it began; until it is there the story has not begun."""

    def __init__(self, scenario: Scenario, seconds: float, began: Path) -> None:
        self._line = Timeline(scenario, seconds)
        self._file = began
        self._began_ns: int | None = None

    def __call__(self) -> int:
        """Return the market time in nanoseconds."""
        if self._began_ns is None:
            try:
                self._began_ns = int(self._file.read_text())
            except FileNotFoundError:
                return self._line.market_ns(0.0)
        return self._line.market_ns((time.time_ns() - self._began_ns) / _S)

    def begin(self) -> None:
        """Let the story begin now."""
        draft = self._file.with_suffix(".new")
        draft.write_text(str(time.time_ns()))
        draft.rename(self._file)


def work(name: str, bootstrap: str, clock: Callable[[], int]) -> int:
    """Run one worker of a flow, or the deliverer, until it is stopped; return its exit code."""
    policies = {profile: policy for profile, policy in load_policies().items() if profile in PROFILES}
    if name == DELIVERER:
        from connectors.webhook_targets import load_targets
        from connectors.webhooks import serve

        # On the true clock: signatures are checked against it.
        serve(bootstrap, {}, load_targets(Path(os.environ["HEDGEROW_DEMO_TARGETS"])), policies)
        return 0
    from flows.run import session_config
    from flows.runtime import run_flow
    from flows.settings import load_settings

    flow = importlib.import_module(f"flows.{name}").flow_of(policies)
    return run_flow(flow, session_config(load_settings(kafka=bootstrap), flow), clock)


# ---- the receiver ----------------------------------------------------------------------------------------------------------------


class Receiver(ThreadingHTTPServer):
    """A webhook's other end, on loopback: checks every signature by the Standard Webhooks scheme, knows repeats by their id, counts."""

    daemon_threads = True

    def __init__(self, secret: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.key = base64.b64decode(secret.removeprefix("whsec_"))
        self.lock = threading.Lock()
        self.bodies: dict[str, dict[str, Any]] = {}
        """webhook-id → what was said."""
        self.refused: Counter[str] = Counter()
        self.repeated = 0

    def take(self, headers: Mapping[str, str], body: bytes, now_s: float) -> int:
        """Return the status a delivery is answered with."""
        problem = signature_problem(self.key, headers, body, now_s)
        with self.lock:
            if problem:
                self.refused[problem] += 1
                return 401
            webhook_id = headers["webhook-id"]
            self.repeated += webhook_id in self.bodies
            self.bodies[webhook_id] = json.loads(body)
        return 204


def signature_problem(key: bytes, headers: Mapping[str, str], body: bytes, now_s: float) -> str:
    """Return what is wrong with a delivery's signature or its time, empty when all is right."""
    names = ("webhook-id", "webhook-timestamp", "webhook-signature")
    webhook_id, stamp, given = (headers.get(name) or "" for name in names)
    if not (webhook_id and stamp.isdigit() and given):
        return "headers missing"
    if abs(now_s - int(stamp)) > TOLERANCE_S:
        return "time too far away"
    wanted = base64.b64encode(hmac.new(key, f"{webhook_id}.{stamp}.".encode() + body, hashlib.sha256).digest()).decode()
    fits = [hmac.compare_digest(f"v1,{wanted}".encode(), one.encode()) for one in given.split(" ")]
    return "" if any(fits) else "wrong signature"


class _Handler(BaseHTTPRequestHandler):
    server: Receiver
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        self.send_response(self.server.take({name.lower(): value for name, value in self.headers.items()}, body, time.time()))
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the counts are shown."""


# ---- what is read ----------------------------------------------------------------------------------------------------------------


@dataclass
class Told:
    """Everything read from the topics so far; `take` runs in the reader's thread, the rest under `lock`.

    trails: (account, profile) → (market time, stage, severity) whenever one of the two changed.
    """

    lock: threading.Lock = field(default_factory=threading.Lock)
    entries: dict[tuple[str, str], show.Entry] = field(default_factory=dict)
    regimes: dict[str, show.MarketHead] = field(default_factory=dict)
    trails: dict[tuple[str, str], list[tuple[int, str, str]]] = field(default_factory=dict)
    alerts: Counter[str] = field(default_factory=Counter)
    notices: Counter[str] = field(default_factory=Counter)
    pages: Counter[str] = field(default_factory=Counter)
    last: list[str] = field(default_factory=list)
    dead: Counter[str] = field(default_factory=Counter)
    unreadable: int = 0

    def take(self, topic: str, value: bytes) -> None:
        """Take a record in."""
        if topic.startswith("dlq."):
            try:
                found = json.loads(value)["payload"]
                self.dead[f"{topic}: {found.get('reason_code') or found.get('reason') or '?'}"] += 1
            except (ValueError, KeyError, AttributeError):
                self.unreadable += 1
            return
        kinds: dict[str, Any] = {ALERTS: CanaryAlertMessage, NOTICES: NoticeMessage, REGIMES: RegimeMessage}
        message = parse(kinds[topic], value)
        if isinstance(message, tuple):
            self.unreadable += 1
        elif topic == REGIMES:
            self.regimes[message.payload.profile] = show.head_of(message.payload)
        elif topic == ALERTS:
            self._alert(message)
        else:
            self._notice(message.payload)

    def _alert(self, message: Any) -> None:
        alert = message.payload
        result = alert.result
        key = (alert.account, result.policy)
        self.alerts[alert.reason] += 1
        self.entries[key] = show.Entry(
            alert.account, alert.mode, result, message.ts_ns, tuple(alert.windows), alert.reason, alert.seq, alert
        )
        trail = self.trails.setdefault(key, [])
        stage = (result.lifecycle.stage, result.severity)
        if not trail or trail[-1][1:] != stage:
            trail.append((result.as_of_ns, *stage))

    def _notice(self, notice: Any) -> None:
        self.notices[notice.reason] += 1
        if not notice.notify:
            return
        self.pages[notice.profile] += 1
        self.last.append(
            f"{moment(notice.as_of_ns)}  {notice.account:<10} {notice.profile.removeprefix('canary-'):<8} {notice.kind:<14} {notice.severity:<8} {notice.reason}"
        )
        del self.last[:-_LAST]


class Reader(threading.Thread):
    """Reads the outputs from their beginning."""

    def __init__(self, bootstrap: str, told: Told) -> None:
        super().__init__(name="reader", daemon=True)
        self.told = told
        self.failure: Exception | None = None
        self.last_read = time.monotonic()
        self._over = threading.Event()
        self._consumer = Consumer({
            "log_level": 0, "bootstrap.servers": bootstrap, "group.id": f"hedgerow-demo-{uuid.uuid4()}", "enable.auto.commit": False,
            "auto.offset.reset": "earliest", "isolation.level": "read_committed", "fetch.wait.max.ms": 5, "fetch.queue.backoff.ms": 5,
        })  # fmt: skip
        topics = self._consumer.list_topics(timeout=10.0).topics
        read = (ALERTS, NOTICES, REGIMES, "dlq.regime", "dlq.canary", "dlq.monitor", "dlq.webhook")
        self._consumer.assign([TopicPartition(topic, p, 0) for topic in read for p in topics[topic].partitions])

    def run(self) -> None:
        """Read until `end`."""
        try:
            while not self._over.is_set():
                for message in self._consumer.consume(500, 0.1):
                    if message.error() is None:
                        self.last_read = time.monotonic()
                        with self.told.lock:
                            self.told.take(message.topic() or "", message.value() or b"")
        except (KafkaException, RuntimeError, ValueError) as error:
            self.failure = error

    def end(self) -> None:
        """Stop reading and close the consumer."""
        if not self._over.is_set():
            self._over.set()
            self.join(timeout=5.0)
            self._consumer.close()


def moment(t_ns: int) -> str:
    """Return a market time as a day of the week and a time in New York."""
    return f"{datetime.fromtimestamp(t_ns // _S, UTC).astimezone(_NEW_YORK):%a %H:%M}"


def walked(stages: Sequence[str], wanted: Sequence[str] = WALK) -> bool:
    """Return whether the wanted stages are among those seen, in order, and the last is the last."""
    rest = iter(stages)
    return all(stage in rest for stage in wanted) and bool(stages) and stages[-1] == wanted[-1]


# ---- the run ---------------------------------------------------------------------------------------------------------------------


class _Demo:
    """One run."""

    def __init__(self, seconds: float, seed: int, console: Console, plain: bool) -> None:
        self.seconds, self.console, self.plain = seconds, console, plain
        self.scenario = scenario_of(seed)
        self.story = Crash(self.scenario)
        self.told = Told()
        self.late = 0.0
        self._shown: dict[tuple[str, str], int] = {}

    def run(self) -> int:
        """Run it; return the exit code."""
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hedgerow-crash-")))
            topics = dict.fromkeys((*(name for names in FLOWS.values() for name in names), *registry.DELIVERY_TOPICS))
            broker = stack.enter_context(MockBroker({name: partitions_of(registry.TOPICS[name], LANES) for name in topics}))
            self._say(f"the embedded broker listens at {broker.bootstrap}: {len(topics)} topics, {LANES} lanes")
            secret = "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()
            receiver = Receiver(secret)
            stack.callback(receiver.server_close)
            threading.Thread(target=receiver.serve_forever, name="receiver", daemon=True).start()
            stack.callback(receiver.shutdown)
            self._say(f"a webhook listens on 127.0.0.1:{receiver.server_port} and checks every signature")
            reader = Reader(broker.bootstrap, self.told)
            stack.callback(reader.end)
            reader.start()
            clock = StoryClock(self.scenario, self.seconds, folder / "began")
            children = self._children(broker.bootstrap, folder, receiver.server_port, secret, stack)
            sender = Sender(broker.bootstrap, {}, {})
            moments = batches(self.story.records())
            sender.send(next(moments)[1])
            sender.producer.flush(30.0)
            self._wait_quiet(children, reader)
            settled = self._tell(clock, sender, moments, children, reader, receiver)
            good = [child.stop(STOP_S) == 0 for child in children]
            reader.end()
            return self._conclude(receiver, settled, all(good))

    def _say(self, text: str) -> None:
        self.console.print(text if self.plain else f"[green]▸[/] {text}")

    def _children(self, bootstrap: str, folder: Path, port: int, secret: str, stack: ExitStack) -> list[Child]:
        targets = folder / "targets.toml"
        targets.write_text(
            f'[[target]]\nname = "demo"\nurl = "http://127.0.0.1:{port}/canary"\nsecrets = ["env:{_SECRET}"]\nprofiles = ["{PROFILES[0]}"]\n'
        )
        environment = environment_with({"METRICS_PORT": "0", "LOG_LEVEL": "WARNING", "DEMO_TARGETS": str(targets)}) | {_SECRET: secret}
        words = ("--kafka", bootstrap, "--seed", str(self.scenario.seed), "--seconds", str(self.seconds), "--began", str(folder / "began"))
        children = []
        for name in (*FLOWS, DELIVERER):
            child = Child(name, (name, *words), environment, folder, module="flows.crash_demo")
            stack.callback(child.kill)
            children.append(child)
        self._say(f"one worker each of {', '.join(FLOWS)}, and the deliverer, start (the first time kernels are compiled: a minute or two)")
        return children

    def _check(self, children: Sequence[Child], reader: Reader) -> None:
        for child in children:
            child.check(may_end=False)
        if reader.failure is not None:
            raise DemoError(f"the outputs cannot be read: {reader.failure}")

    def _wait_quiet(self, children: Sequence[Child], reader: Reader) -> None:
        """Wait until the history is taken in: every account was judged under every profile, and all is quiet."""
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline:
            self._check(children, reader)
            with self.told.lock:
                found = {key: entry.result.lifecycle.stage for key, entry in self.told.entries.items()}
            if len(found) == len(ACCOUNTS) * len(PROFILES) and set(found.values()) == {"quiet"}:
                with self.told.lock:  # what was said while the history came in piece by piece is not part of the story
                    self.told.trails = {key: trail[-1:] for key, trail in self.told.trails.items()}
                self._say(f"the history is taken in: {len(ACCOUNTS)} accounts under {len(PROFILES)} profiles, all quiet; the story begins")
                return
            time.sleep(0.1)
        with self.told.lock:
            found = {key: entry.result.lifecycle.stage for key, entry in self.told.entries.items()}
        raise DemoError(f"not every account was judged quiet within {READY_S:.0f} s: {found or 'no alert at all'}")

    def _tell(
        self, clock: StoryClock, sender: Sender, moments: Iterator[Any], children: Sequence[Child], reader: Reader, receiver: Receiver
    ) -> bool:
        """Tell the story and show what is made of it; return whether all had come to rest in the end."""
        over = threading.Event()
        line = Timeline(self.scenario, self.seconds)
        clock.begin()
        begin = time.monotonic()

        def feed() -> None:
            self.late = tell(sender, moments, line.offset_s, begin, over.is_set)
            sender.producer.flush(10.0)

        feeder = threading.Thread(target=feed, name="feed", daemon=True)
        feeder.start()
        try:
            with self._display() as show_now:
                while feeder.is_alive():
                    self._check(children, reader)
                    show_now(clock(), receiver)
                    time.sleep(REFRESH_S)
                deadline = time.monotonic() + SETTLE_S
                while time.monotonic() < deadline:
                    self._check(children, reader)
                    show_now(clock(), receiver)
                    if self._settled(receiver) and time.monotonic() - reader.last_read > 1.0:
                        return True
                    time.sleep(REFRESH_S)
                return False
        finally:
            over.set()

    def _settled(self, receiver: Receiver) -> bool:
        with self.told.lock, receiver.lock:
            quiet = all(entry.result.lifecycle.stage == WALK[-1] for entry in self.told.entries.values())
            return quiet and len(receiver.bodies) == self.told.pages[PROFILES[0]]

    # -- what is shown --

    @contextmanager
    def _display(self) -> Iterator[Callable[[int, Receiver], None]]:
        if self.plain:
            yield self._lines
            return
        with Live(console=self.console, screen=True, auto_refresh=False) as live:
            yield lambda now_ns, receiver: live.update(self._picture(now_ns, receiver), refresh=True)

    def _lines(self, now_ns: int, receiver: Receiver) -> None:
        """Print every change of stage that was not printed yet, of the other accounts under the first profile only."""
        with self.told.lock:
            for (account, profile), trail in self.told.trails.items():
                if account != STRESSED and profile != PROFILES[0]:
                    continue
                start = self._shown.get((account, profile), 0)
                for t_ns, stage, severity in trail[start:]:
                    print(f"{moment(t_ns)}  {account:<10} {profile:<15} {stage} / {severity}", flush=True)
                self._shown[account, profile] = len(trail)

    def _phase(self, now_ns: int) -> str:
        return [phase.name for phase in self.story.phases() if phase.t_ns <= now_ns][-1]

    def _picture(self, now_ns: int, receiver: Receiver) -> RenderableType:
        width = self.console.width
        with self.told.lock, receiver.lock:
            head = Text.assemble(
                ("A crash, scripted", "bold"), f" · {moment(now_ns)} New York · {self._phase(now_ns)}",
                (f" · alerts {self.told.alerts.total():,} · pages {self.told.pages.total():,} · webhooks accepted {len(receiver.bodies):,}", show.QUIET),
            )  # fmt: skip
            parts: list[RenderableType] = [head, show.market_lines(list(self.told.regimes.values()), now_ns)]
            entries = show.ordered(e for (_, profile), e in self.told.entries.items() if profile == PROFILES[0])
            parts.append(show.accounts_table(entries, now_ns, width))
            parts += [Text(text, style=show.QUIET, no_wrap=True, overflow="ellipsis") for text in self.told.last]
            entry = self.told.entries.get((STRESSED, PROFILES[0]))
            if entry is not None:  # last: on a small terminal its end is cut off
                parts.append(show.card_of(entry, now_ns, width))
        return Group(*parts)

    # -- the end --

    def _conclude(self, receiver: Receiver, settled: bool, ended: bool) -> int:
        with self.told.lock, receiver.lock:
            trails, pages = dict(self.told.trails), self.told.pages[PROFILES[0]]
            rows: list[tuple[str, str, bool]] = []
            for profile in PROFILES:
                stages = [stage for _, stage, _ in trails.get((STRESSED, profile), [])]
                rows.append((f"{STRESSED} under {profile}", " → ".join(_distinct(stages)), walked(stages)))
            others = {key: [stage for _, stage, _ in trail] for key, trail in trails.items() if key[0] != STRESSED}
            calm = [key for key, stages in others.items() if stages[0] == stages[-1] == WALK[0]]
            rows += [
                ("the other accounts", f"{len(calm)} of {len(others)} quiet again", len(calm) == len(others) == (len(ACCOUNTS) - 1) * len(PROFILES)),
                ("never forced, having margin", "", all("forced_defense" not in stages for stages in others.values())),
                ("alerts", ", ".join(f"{reason} {n:,}" for reason, n in sorted(self.told.alerts.items())), bool(self.told.alerts)),
                ("notices", ", ".join(f"{reason} {n:,}" for reason, n in sorted(self.told.notices.items())), bool(self.told.notices)),
                ("pages of canary-default, webhooks accepted", f"{pages:,}, {len(receiver.bodies):,}", 0 < pages == len(receiver.bodies)),
                ("signatures", _counted("refused", receiver.refused), not receiver.refused),
                ("dead letters", _counted("", self.told.dead), not self.told.dead and not self.told.unreadable),
                ("ended in good order", "" if ended else "a worker had to be killed or failed", ended and settled),
            ]  # fmt: skip
        self._table(trails)
        table = Table(title="What was reached", title_justify="left", box=None, pad_edge=False)
        for name in ("", "what", "found"):
            table.add_column(name, overflow="fold")
        for name, found, good in rows:
            if self.plain:
                print(f"{'ok  ' if good else 'FAIL'} {name}: {found}" if found else f"{'ok  ' if good else 'FAIL'} {name}")
            table.add_row(Text("ok", style="green") if good else Text("FAIL", style="bold red"), name, found)
        if not self.plain:
            self.console.print(table)
        self.console.print(
            "A second here is 15 to 30 minutes of the story: what takes half a second on a busy machine is late by the rules of canary-guarded, and it says "
            "so (data_quality); --seconds 150 shows less of it. At night nothing is sent, and data_health pages are right.",
            soft_wrap=self.plain,
        )
        if self.late > 1.0:
            self.console.print(f"The story was up to {self.late:.1f} s late: the machine is busy.")
        good = all(one for *_, one in rows)
        self.console.print("everything was reached" if good else "NOT everything was reached", style="green" if good else "bold red")
        return 0 if good else 1

    def _table(self, trails: Mapping[tuple[str, str], list[tuple[int, str, str]]]) -> None:
        if self.plain:
            return
        table = Table(title="Stages, by market time", title_justify="left", box=None, pad_edge=False)
        for name in ("account", "profile", "stages"):
            table.add_column(name, overflow="fold", no_wrap=name != "stages")
        for account in ACCOUNTS:
            for profile in PROFILES:
                told = Text()
                for t_ns, stage, severity in trails.get((account, profile), []):
                    told.append(f"{moment(t_ns)} ", style=show.QUIET)
                    told.append(f"{stage}  ", style=show.SEVERITY_STYLES[severity])
                name = f"{account} (paper)" if account == PAPER else account
                table.add_row(name, profile, told)
        self.console.print(table)


def _distinct(stages: Sequence[str]) -> list[str]:
    return [stage for n, stage in enumerate(stages) if n == 0 or stages[n - 1] != stage]


def _counted(word: str, counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {n:,}" for name, n in counts.items()) or f"none {word}".strip()


def main(argv: Sequence[str] | None = None) -> int:
    """Run one process of the demo (its workers are started by this)."""
    parser = argparse.ArgumentParser(prog="flows.crash_demo")
    parser.add_argument("name", choices=(*FLOWS, DELIVERER))
    parser.add_argument("--kafka", required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--began", type=Path, required=True)
    args = parser.parse_args(argv)
    return work(args.name, args.kafka, StoryClock(scenario_of(args.seed), args.seconds, args.began))


if __name__ == "__main__":
    sys.exit(main())
