"""A run of the hedger's lanes in memory and in virtual time, with the load and the order agent of `bench.hedge_faults`: to warm kernels and test the verdict.

No broker: topics are lists, a transaction is a step of the loop. Restarts restore lanes from their changelogs. It proves nothing of exactly-once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import numpy as np

from bench.hedge_agent import REQUESTS, Agent
from bench.hedge_load import COVERS, MS, QUOTE_EVERY_NS, REFERENCE, RISK_EVERY_NS, SECOND, Load
from bench.hedge_verdict import HedgeVerdict, judge
from bench.ledger import Place, Record, Sent, SimulatorLedger
from bench.oracle import lane_of
from connectors.simulator.messages import Message
from operators.hedge_life import LifeRules
from operators.hedge_market import HedgeMarket, MarketRules
from operators.hedger import HedgerLogic
from schemas.chunk import Chunk, join, split
from schemas.reference import load_reference
from schemas.registry import HEDGER_BROADCAST, HEDGER_CHANGELOG, HEDGER_INPUTS

START_NS = 1_767_614_400 * SECOND
STEP_NS = 50 * MS
QUIET_NS, PATIENCE_NS = 11 * SECOND, 60 * SECOND
RULES = MarketRules(bar_ns=SECOND, fresh_ns=SECOND)
TIMES = LifeRules(expires_ns=5 * SECOND)


@dataclass
class Topics:
    """Every topic as lists of records by partition; answers what the verdict asks a `bench.ledger.Cluster`."""

    lanes: int
    there: dict[Place, list[Record]] = field(default_factory=lambda: defaultdict(list))

    def places(self, topics: Collection[str]) -> list[Place]:
        """Return every partition of the topics."""
        return [(topic, lane) for topic in topics for lane in range(self.lanes)]

    def ends(self, places: Collection[Place], committed: bool = False) -> dict[Place, int]:
        """Return the end offset of every partition."""
        return {place: len(self.there[place]) for place in places}

    def read(self, places: Collection[Place]) -> Iterator[tuple[Place, Record]]:
        """Yield every record of some partitions."""
        for place in places:
            for record in self.there[place]:
                yield place, record

    def read_lane(self, topics: Collection[str], lane: int) -> dict[str, list[Record]]:
        """Return every record of one partition number of some topics."""
        return {topic: list(self.there[topic, lane]) for topic in topics}

    def append(self, topic: str, key: bytes, value: bytes, lane: int | None = None) -> Place:
        """Write a record where its key belongs, or where told; return where."""
        place = topic, lane_of(key, self.lanes) if lane is None else lane
        self.there[place].append(Record(len(self.there[place]), key, value))
        return place


@dataclass
class Run:
    """A finished run: its topics, and the ledgers of whoever took part. What is changed in it the verdict must find."""

    topics: Topics
    ledger: SimulatorLedger
    told: list[dict[str, Any]]
    counters: list[dict[str, int]]

    @property
    def covers(self) -> list[Record]:
        """Return the records of hedges."""
        return [record for _, record in self.topics.read(self.topics.places([COVERS])) if b'"sender":"agent.hedger"' in record.value]

    def verdict(self) -> HedgeVerdict:
        """Judge it."""
        return judge(self.topics, self.ledger, self.told, 0)  # type: ignore[arg-type]


class _Worker:
    """All lanes over one market; made anew at every restart."""

    def __init__(self, topics: Topics, now_ns: int) -> None:
        reference = load_reference(REFERENCE)
        self.topics, self.market = topics, HedgeMarket(reference, RULES)
        self._read: dict[Place, int] = {}
        self.broadcast(now_ns)
        self.market.begin()
        self.lanes = [HedgerLogic(lane, topics.lanes, reference, self.market, None, TIMES) for lane in range(topics.lanes)]
        for lane, logic in enumerate(self.lanes):
            logic.restore((record.offset, record.value) for record in topics.there[HEDGER_CHANGELOG, lane])
            for topic, position in logic.positions().items():
                self._read[topic, lane] = position

    def broadcast(self, now_ns: int) -> None:
        """Take in what every worker reads whole."""
        for place in self.topics.places(HEDGER_BROADCAST):
            for chunk in self._new(place, now_ns):
                self.market.apply(chunk)

    def step(self, now_ns: int) -> None:
        """Take in what there is, let clocks act, and write it all down."""
        self.broadcast(now_ns)
        for lane, logic in enumerate(self.lanes):
            out = []
            for topic in HEDGER_INPUTS:
                for chunk in self._new((topic, lane), now_ns):
                    out += logic.process(chunk, now_ns)
            out += logic.tick(now_ns)
            for records in out:
                keys = split(records.keys, records.key_bounds)
                for key, value in zip(keys, split(records.data, records.bounds), strict=True):
                    self.topics.append(records.topic, key, value, records.partition)
            if logic.dirty():
                capture = logic.capture()
                first = len(self.topics.there[HEDGER_CHANGELOG, lane])
                for value in capture.values:
                    self.topics.append(HEDGER_CHANGELOG, b"", value, lane)
                logic.committed(capture.seq, first)

    def _new(self, place: Place, now_ns: int) -> list[Chunk]:
        start, there = self._read.get(place, 0), self.topics.there[place]
        if start == len(there):
            return []
        self._read[place] = len(there)
        part = there[start:]
        data, bounds = join([record.value for record in part])
        keys, key_bounds = join([record.key for record in part])
        return [Chunk(place[0], place[1], data, bounds, np.arange(start, len(there)), keys, key_bounds, now_ns)]


def play(seconds: float, lanes: int = 2, books: int = 8, rate: float = 200.0, seed: int = 1, restart_every_s: float = 0.0) -> Run:
    """Let so many seconds of load pass and everything come to rest; what is not at rest after a minute stays so for the verdict to find."""
    topics, load, agent = Topics(lanes), Load(seed, books), Agent(seed)
    ledger, told = SimulatorLedger({}, 0), list[dict[str, Any]]()
    sent: dict[Place, dict[int, Sent]] = defaultdict(dict)

    def send(messages: list[Message]) -> None:
        for one in messages:
            there = lane_of(one.key, lanes)
            place = topics.append(one.topic, one.key, one.value, (there + 1) % lanes if one.misrouted else there)
            sent[place][len(topics.there[place]) - 1] = Sent(sha256(one.value).digest(), one.fault)

    now = START_NS
    send(load.beginning(now))
    worker = _Worker(topics, now)
    heard: dict[Place, int] = defaultdict(int)
    end, covers, since = now + int(seconds * SECOND), 0, now
    next_restart = now + int(restart_every_s * SECOND)
    while now - max(since, end) < QUIET_NS or agent.open:
        if now > end + PATIENCE_NS:
            break
        now += STEP_NS
        if now % QUOTE_EVERY_NS == 0:
            load.market.step()
            send(load.market.quotes(now))
        if now % RISK_EVERY_NS == 0:
            send([load.risk(now)])
        if now < end:
            send(load.fills(int(rate * STEP_NS / SECOND), now))
            if now % (200 * MS) == 0:
                send(load.words(now))
        elif not agent.plain:
            agent.plain = True
            send(load.ending(now))
        if restart_every_s and now >= next_restart:
            next_restart += int(restart_every_s * SECOND)
            worker = _Worker(topics, now)
        worker.step(now)
        for place in topics.places((COVERS, REQUESTS)):
            for record in topics.there[place][heard[place] :]:
                told.append(agent.receive(place[0], record.value, now))
            heard[place] = len(topics.there[place])
        send(agent.due(now))
        if len(told) != covers or agent.open:
            covers, since = len(told), now
    worker.step(now + STEP_NS)
    ledger.sent |= sent
    return Run(topics, ledger, told, [logic.counters() for logic in worker.lanes])
