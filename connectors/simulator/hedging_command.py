"""`hedgerow simulate --hedging`: the hedging world on Kafka, in step with the clock. Clients trade, the hedger's orders are executed, and both are accounted for.

Closes the loop that bench/hedge_hour.py closes in virtual time, with the same world, account and figures. The flows must run on the world's reference data
(`schemas/simulation_hedging.toml`). May not decide what to hedge.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from connectors.kafka_server import BrokerUnavailable
from connectors.simulator.factors import SECOND
from connectors.simulator.hedge_account import HedgeAccount
from connectors.simulator.hedge_summary import MOST_ACK_MS, Bars, hedge_figures, missed, position_gaps, table_rows
from connectors.simulator.hedging import ALLOCATION, HALT, POLICY, RESUME, RISK, UNIVERSE, HedgeWorld, Scenario, drill, hour
from connectors.simulator.messages import ACK, QUOTE, REPORT, ROUTE, Message
from connectors.simulator.oms import CHANNEL, COVER, HEDGE_EVENT, REQUEST
from connectors.simulator.sender import Sender, stop_on_signals
from connectors.topics import TopicsError, blocking_problems, connect

SENT = (QUOTE, ROUTE, ACK, REPORT, UNIVERSE, RISK, POLICY, ALLOCATION, HALT, RESUME, CHANNEL, HEDGE_EVENT)
"""What the world says."""
ACKS, FILLS = "system.halt.ack.v1", "execution.event.fill.v1"
READ = (
    COVER, REQUEST, FILLS, ACKS, "hedge.state.ratios.v1", "audit.event.hedger", "hedger.event.escalation.v1", "hedger.event.cover",
    "dlq.hedger", "dlq.execution",
)  # fmt: skip
"""What it hears: hedges and questions, which the order agent answers, and what the account is made of."""
USUAL_SECONDS, LEAST_SECONDS, LONG_SECONDS = 600.0, 40.0, 600.0
"""From LONG_SECONDS on it is the standard hour, shorter; below, the drill."""
LEAD_S = 300.0
"""Seconds of quotes that are sent at once before all: what a hedger that starts now makes its covariances of."""
WAIT_S = 20.0
"""Seconds from then until clients trade: in which the flows start."""
SAMPLE_S, WHOLE_S = 0.1, 1.0
POLL_S = 0.004
DRAIN_S = 15.0
MOST_RECORDS = 2_000
LEADER_S = 15.0


def scenario_of(seed: int, seconds: float, now_ns: int, suffix: str = "", wait_s: float = WAIT_S) -> Scenario:
    """Return what happens in so many seconds from `wait_s` after now, with LEAD_S of quotes before now. Raises ValueError when that is too short or
    too long.

    suffix: of the books' names.
    """
    start_ns, lead_s = now_ns - int(LEAD_S * SECOND), LEAD_S + wait_s
    if seconds < LONG_SECONDS:
        return drill(seed, seconds, lead_s, start_ns, suffix)
    scenario = hour(seed, seconds / 60, lead_s, start_ns)
    books = tuple(replace(book, name=book.name + suffix) for book in scenario.books)
    return replace(scenario, books=books, pushes=tuple(push._replace(book=push.book + suffix) for push in scenario.pushes))


@dataclass
class _Halting:
    """A HALT that was sent and is not known to be acknowledged by every lane."""

    scope: str
    effective_ns: int
    lanes: dict[int, int] = field(default_factory=dict)
    """Lane → when it acknowledged."""


class HedgeLoop:
    """The world of a scenario on Kafka. `run` drives it; another thread may look at the world and the account under `lock`, and call `stop` and `figures`.

    Raises BrokerUnavailable when the client refuses its settings, TopicsError when topics are missing.
    """

    def __init__(self, bootstrap: str, options: Mapping[str, Any], scenario: Scenario) -> None:
        there = connect(bootstrap, dict(options)).list_topics(timeout=10.0).topics
        self.lock = threading.Lock()
        self.world = HedgeWorld(scenario)
        self.account = HedgeAccount(self.world.reference, self.world.market.covariance)
        self.sender = Sender(bootstrap, options, {})
        self.lanes = len(there[FILLS].partitions)
        self.behind_s = 0.0
        """The most a round came late."""
        self.unreadable: Counter[str] = Counter()
        self.other_quotes = False
        """Whether there are quotes of another market: covariances would be made of both."""
        self._halting: dict[str, _Halting] = {}
        self._stopped = False
        self._next_sample = self._next_whole = 0.0
        try:
            self._consumer = Consumer({
                "log_level": 0, **options, "bootstrap.servers": bootstrap, "group.id": f"hedgerow-hedging-{uuid.uuid4()}",
                "enable.auto.commit": False, "enable.auto.offset.store": False, "isolation.level": "read_committed", "fetch.wait.max.ms": 5,
                "fetch.queue.backoff.ms": 5,
            })  # fmt: skip
        except (KafkaException, ValueError, TypeError) as error:
            raise BrokerUnavailable(f"HEDGEROW_KAFKA_OPTIONS: the Kafka client refuses its settings: {error}") from error
        quotes = [TopicPartition(QUOTE, p) for p in there[QUOTE].partitions]
        self.other_quotes = any(self._end_of(p) for p in quotes)
        parts = [TopicPartition(topic, p) for topic in READ for p in there[topic].partitions]
        # by number, not by name: OFFSET_END is looked up at the first fetch, and what is written until then would be passed over
        self._consumer.assign([TopicPartition(p.topic, p.partition, self._end_of(p)) for p in parts])

    def _end_of(self, part: TopicPartition) -> int:
        """Return where a partition ends. A topic that was just made has no leader for a moment."""
        deadline = time.monotonic() + LEADER_S
        while True:
            try:
                return int(self._consumer.get_watermark_offsets(part, 5.0)[1])
            except KafkaException as error:
                if time.monotonic() > deadline:
                    raise BrokerUnavailable(f"topic {part.topic}[{part.partition}]: {error.args[0].str()}") from error
                time.sleep(0.1)

    # --- driving it -----------------------------------------------------------------------------------------------------------------

    def lead(self) -> None:
        """Send everything that is due before now: the states and the history of quotes."""
        with self.lock:
            self._advance(time.time_ns())
        self.sender.producer.flush(30.0)

    def run(self, aborted: Callable[[], bool] = lambda: False) -> None:
        """Go on until the scenario is over and every fill has come back, DRAIN_S after its end at the latest, or `aborted()`."""
        before = time.monotonic()
        while not aborted():
            now_ns = time.time_ns()
            self.step(now_ns)
            now = time.monotonic()
            self.behind_s, before = max(self.behind_s, now - before - POLL_S), now
            over_ns = now_ns - self.world.scenario.end_ns
            if over_ns >= 0:
                with self.lock:
                    settled = not position_gaps(self.world, self.account)
                if settled or over_ns > DRAIN_S * SECOND:
                    return

    def stop(self) -> None:
        """Let clients trade no more and the scenario end now; may be called from anywhere, more than once."""
        if not self._stopped:
            self._stopped = True
            now_ns = time.time_ns()
            self.world.scenario = replace(self.world.scenario, close_ns=now_ns, end_ns=now_ns)

    def step(self, now_ns: int) -> None:
        """Send what is due, take in what has come, look at the books now and then."""
        with self.lock:
            self._advance(now_ns)
        messages = self._consumer.consume(MOST_RECORDS, POLL_S)
        with self.lock:
            for message in messages:
                error = message.error()
                if error is None:
                    self._receive(message.topic() or "", message.key() or b"", message.value() or b"")
                elif not error.retriable() and error.code() not in (KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN):
                    raise BrokerUnavailable(f"topic {message.topic()}: {error.str()}")
            self._sample()

    def _advance(self, now_ns: int) -> None:
        messages = self.world.advance(now_ns)
        for message in messages:
            self._told(message)
        self.sender.send(messages)

    def _told(self, message: Message) -> None:
        """Note what the world says itself."""
        if message.topic in (HALT, RESUME):
            self._halt(message)
        elif message.topic in (QUOTE, UNIVERSE, ALLOCATION, HEDGE_EVENT):
            self.account.observe(message.topic, message.value, message.due_ns)

    def _halt(self, message: Message) -> None:
        head = json.loads(message.value)
        payload = head["payload"]
        scope = f"{payload['scope']}|{payload.get('id') or ''}"
        if message.topic == HALT:
            self._halting[head["msg_id"]] = _Halting(scope, payload["effective_ns"])
        elif {a["role"].lower() for a in payload["approvals"]} >= {"risk", "compliance"}:
            self._halting = {name: halting for name, halting in self._halting.items() if halting.scope != scope}
            self.account.halt(scope, message.due_ns, on=False)

    def _receive(self, topic: str, key: bytes, value: bytes) -> None:
        now_ns = time.time_ns()
        if topic in (COVER, REQUEST):
            self._advance(now_ns)
            self.world.receive(topic, key, value, now_ns)
        try:
            self.account.observe(topic, value, now_ns)
            if topic == ACKS:
                payload = json.loads(value)["payload"]
                halting = self._halting.get(payload["halt_msg_id"])
                if halting is not None:
                    halting.lanes[payload["lane"]] = payload["ack_ns"]
        except (ValueError, KeyError, TypeError):
            self.unreadable[topic] += 1

    def _sample(self) -> None:
        now, now_ns = time.monotonic(), time.time_ns()
        for name, halting in list(self._halting.items()):
            # from when on no lane may publish a hedge: the last one has said that it stopped, or should have long ago
            if len(halting.lanes) == self.lanes:
                since_ns = max(halting.lanes.values())
            elif now_ns > halting.effective_ns + MOST_ACK_MS * SECOND // 1_000:
                since_ns = now_ns
            else:
                continue
            del self._halting[name]
            self.account.halt(halting.scope, since_ns, on=True)
        if now >= self._next_sample:
            self._next_sample = now + SAMPLE_S
            whole = now >= self._next_whole
            if whole:
                self._next_whole = now + WHOLE_S
            self.account.sample(now_ns, whole)

    def close(self) -> int:
        """Close the clients; return how many messages Kafka did not take."""
        self._consumer.close()
        return self.sender.close()

    # --- what came of it ------------------------------------------------------------------------------------------------------------

    def figures(self) -> dict[str, Any]:
        """Return the figures of connectors.simulator.hedge_summary."""
        s = self.world.scenario
        began = sum(h.from_ns < s.end_ns for h in s.halts)
        with self.lock:
            return hedge_figures(self.world, self.account, time.time_ns(), wanted_acks=began * self.lanes)


def run(args: argparse.Namespace) -> int:
    """Carry out `hedgerow simulate --hedging`; return 0, 1 when Kafka did not take everything, 2 for bad arguments.

    Raises BrokerUnavailable (not reachable), TopicsError (topics missing).
    """
    seconds = USUAL_SECONDS if args.seconds is None else args.seconds
    if not LEAST_SECONDS <= seconds <= 86_400:
        print(f"hedgerow: --seconds must be from {LEAST_SECONDS:.0f} to 86400 with --hedging", file=sys.stderr)
        return 2
    if not 0 <= args.seed < 2**63:
        print("hedgerow: --seed must be from 0 to 2^63 - 1", file=sys.stderr)
        return 2
    bootstrap, options = args.settings.bootstrap, args.settings.client_config()
    problems = blocking_problems(bootstrap, options, (*SENT, *READ))
    if problems:
        raise TopicsError("\n".join(problems))
    now_ns = time.time_ns()
    # books of a run of its own: those of an earlier one may still have positions
    loop = HedgeLoop(bootstrap, options, scenario_of(args.seed, seconds, now_ns, f"-{now_ns // SECOND % 1_000_000}"))
    if loop.other_quotes:
        print(
            "hedgerow: there are quotes of an earlier market: for an hour hedgers make their covariances of both, and hedge worse; new topics have none",
            file=sys.stderr,
        )
    with stop_on_signals(loop.stop) as received:
        loop.lead()
        print(
            f"{LEAD_S:.0f} s of quotes are there; clients trade in {WAIT_S:.0f} s. Start the hedger now: covariances are made of what was there before it",
            file=sys.stderr,
        )
        loop.run(lambda: len(received) > 1)
        undelivered = loop.close()
    return _summary(loop, undelivered, bool(received))


def _summary(loop: HedgeLoop, undelivered: int, stopped: bool) -> int:
    figures, bars = loop.figures(), Bars()
    bad = missed(figures, bars)
    for name, label, value, bar in table_rows(figures, bars):
        print(f"{label:<52}{value:>12}  {bar}{'  MISSED' if name in bad else ''}".rstrip())
    for name, count in loop.sender.errors.items():
        print(f"hedgerow: {count:,} messages were not delivered: {name}", file=sys.stderr)
    closing = {
        **figures, "missed": bad, "sent": {topic: loop.sender.sent[topic] for topic in SENT}, "unreadable": sum(loop.unreadable.values()),
        "undelivered": undelivered, "behind_ms_max": round(loop.behind_s * 1e3, 1), "stopped": stopped,
        "start_ns": loop.world.scenario.start_ns,
    }  # fmt: skip
    print(json.dumps(closing), flush=True)
    return 1 if undelivered else 0
