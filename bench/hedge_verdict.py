"""Whether a finished run of the hedger was right: every topic on the broker against the senders' ledgers, the order agent's, and the slow oracle.

Each lane is judged by itself. A decision's exposure version tells after exactly which fill and which target it was made, so that what its audit record
says of exposures, hedges and hedges in flight is held against the truth at that moment; nothing is left out for depending on the order of topics.
"""

from __future__ import annotations

import base64
import json
import math
import multiprocessing
import time
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import product
from pathlib import Path
from typing import Any

from bench.hedge_load import COVERS, FILLS, PERPS, QUOTES, REFERENCE, REFERENCE_NOTIONAL
from bench.hedge_oracle import OPEN, Book, Hedge, LaneOracle, hedge_id, in_units, order_id
from bench.ledger import Cluster, Record, SimulatorLedger
from bench.oracle import lane_of
from bench.verdict import (
    LaneTask,
    LaneVerdict,
    Letter,
    Problems,
    Verdict,
    check_open_transactions,
    check_passed_on,
    check_sent,
    read_chain,
    say,
)
from schemas.reference import load_reference
from schemas.registry import HEDGER_CHANGELOG, HEDGER_INPUTS, HEDGER_OUTPUTS

AUDIT, EVENTS, DLQ = "audit.event.hedger", "hedger.event.cover", "dlq.hedger"
UNIQUE = (
    "hedger.request.order.v1", EVENTS, "hedger.metric.book.v1", "hedger.event.escalation.v1", AUDIT, DLQ, "system.halt.ack.v1",
    "hedge.state.ratios.v1", "hedge.state.matrix.v1",
)  # fmt: skip
"""Topics in which no msg_id may be there twice; the hedger's own intents are looked at apart."""
BALANCE = ("received", "applied", "duplicate", "echo", "dlq", "rerouted")
FROM_HEDGER = b'"sender":"agent.hedger"'
AT_REST = frozenset(
    (
        "dust",
        "within_no_trade_band",
        "within_ratio_buffer",
        "no_exposure",
        "not_profitable",
        "below_min_notional",
        "predicate_min_var",
        "overhedged",
    )
)
"""Reasons for which a book that is left alone may stay as it is under its target of coverage; how many did, and why, is told."""
COVERAGE = 0.95
CLOSE = 1e-9
"""Relative error of a notional that was made of a quantity and a price."""
QUOTE_SPAN_NS = 4_000_000_000
"""A decision rests on quotes of at most this age (3 s, and clocks)."""
NOISE = 1.25
"""Our covariance of a bar is made of all quotes, the hedger's of those it had when it closed the bar, and begins anew where it began anew: risks may
differ by this factor."""
BAR_NS = 1_000_000_000
"""As the faults' settings have it."""
MEMORY = 0.97
"""Of covariances, per bar (hedging §2)."""
REST = 5.0
"""What may be open at rest, in multiples of the target and of the band: the difference of two instruments that move together is worth little by one
covariance and more by another, and a trade of under 1 % of the variance is not made. What is exact about a book is compared exactly elsewhere."""
OVERHEDGE = 1.02
BAND = 0.02
"""Share of the reference exposure that costs may leave open (hedging §4, w)."""


Covariance = Mapping[tuple[str, str], float]
"""(instrument, instrument) → covariance of their returns."""


@dataclass(frozen=True)
class HedgeTask(LaneTask):
    """What the judge of a hedger's lane is given beside. spoiled: see LaneOracle. mids: symbol → (times, mids), in order of time. covariance: of what is
    hedged with, over the whole run and to any scale. by_bar: the same by the end of each bar, ascending, as it was known then."""

    spoiled: Mapping[bytes, str] = field(default_factory=dict)
    mids: Mapping[str, tuple[list[int], list[float]]] = field(default_factory=dict)
    covariance: Covariance = field(default_factory=dict)
    by_bar: Mapping[int, Covariance] = field(default_factory=dict)


@dataclass
class HedgeLaneVerdict(LaneVerdict):
    """What a lane's judge found; `hedges`: how many it looked at, by the state they ended in."""

    hedges: Counter[str] = field(default_factory=Counter)
    decisions: Counter[str] = field(default_factory=Counter)
    under_target: Counter[str] = field(default_factory=Counter)
    """Books by why they were covered by less than the target at the end."""
    covers: list[tuple[str, str]] = field(default_factory=list)
    """(book, hedge_id) of every intent there is."""


@dataclass
class HedgeVerdict(Verdict):
    """The judgement of a run of the hedger."""

    hedges: Counter[str] = field(default_factory=Counter)
    decisions: Counter[str] = field(default_factory=Counter)
    under_target: Counter[str] = field(default_factory=Counter)


def judge(cluster: Cluster, ledger: SimulatorLedger, told: list[dict[str, Any]], processes: int = 2) -> HedgeVerdict:
    """Compare everything; the hedger must have stopped. told: the order agent's ledger. processes 0: all lanes in this process.

    Raises ReadError when the broker cannot be read.
    """
    begun = time.monotonic()
    verdict = HedgeVerdict()
    n_lanes = len(cluster.places([HEDGER_CHANGELOG]))
    check_open_transactions(cluster, (*HEDGER_INPUTS, *HEDGER_OUTPUTS, HEDGER_CHANGELOG), verdict)
    for topic in UNIQUE:
        check_unique(cluster, topic, verdict)
    letters = _read_letters(cluster, verdict)
    mids = read_mids(cluster)
    covariance, by_bar = covariance_of(mids), covariances_of(mids)
    if ledger.undelivered:
        verdict.problems.add("lost", f"{ledger.undelivered} messages could not be delivered to Kafka", ledger.undelivered)
    spoiled = {
        sent.sha256: sent.fault.removeprefix("spoiled:")
        for there in ledger.sent.values()
        for sent in there.values()
        if sent.fault.startswith("spoiled:")
    }
    tasks = [
        HedgeTask(
            cluster, lane, n_lanes, REFERENCE, ledger.of_lane(HEDGER_INPUTS, lane), [], letters.get(lane, []),
            {topic: found for (topic, partition), found in ledger.unplaced.items() if partition == lane}, spoiled, mids, covariance, by_bar,
        )
        for lane in range(n_lanes)
    ]  # fmt: skip
    found: list[HedgeLaneVerdict] = []
    if not processes:
        found = [judge_lane(task) for task in tasks]
    else:
        # spawn: a forked child would share this process's Kafka clients
        with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
            for done in as_completed([pool.submit(judge_lane, task) for task in tasks]):
                judged = done.result()
                found.append(judged)
                say(
                    f"lane {judged.lane}: {sum(judged.inputs.values()):,} inputs, {judged.audits:,} audit records, "
                    f"{judged.hedges.total():,} hedges in {judged.seconds:.0f} s, {judged.problems.counts.total()} problems"
                )
    _sum_up(verdict, sorted(found, key=lambda lane: lane.lane), told, n_lanes)
    verdict.seconds = time.monotonic() - begun
    return verdict


# ---- topics as a whole ----------------------------------------------------------------------------------------------------------


def check_unique(cluster: Cluster, topic: str, verdict: Verdict) -> None:
    """No msg_id may be in an output twice."""
    seen: set[bytes] = set()
    twice = count = 0
    for _, record in cluster.read(cluster.places([topic])):
        count += 1
        at = record.value.index(b'"msg_id":"') + 10
        name = record.value[at : at + 36]
        if name in seen:
            twice += 1
            verdict.problems.add("repeated", f"{topic}: msg_id {name.decode()} is there twice")
        seen.add(name)
    verdict.checks.append((f"msg_id twice in {topic}", f"{twice} of {count:,}", not twice))


def _read_letters(cluster: Cluster, verdict: Verdict) -> dict[int, list[Letter]]:
    """Return the dead letters by the lane they were read in; no input may be in the DLQ twice."""
    letters: dict[int, list[Letter]] = defaultdict(list)
    seen: set[tuple[str, int, int]] = set()
    for _, record in cluster.read(cluster.places([DLQ])):
        p = json.loads(record.value)["payload"]
        source = p["source"]
        place = (source["topic"], source["partition"], source["offset"])
        if place in seen:
            verdict.problems.add("repeated", f"the DLQ has {place} twice")
        seen.add(place)
        key, value = base64.b64decode(p.get("source_key") or ""), base64.b64decode(p["original"])
        letters[source["partition"]].append(Letter(source["topic"], source["offset"], p["reason"], key, value))
    return letters


def read_mids(cluster: Cluster) -> dict[str, tuple[list[int], list[float]]]:
    """Return the mids of all quotes: symbol → (times, mids), in order of time."""
    found: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for _, record in cluster.read(cluster.places([QUOTES])):
        p = json.loads(record.value)["payload"]
        found[p["symbol"]].append((p["event_ts_ns"], 0.5 * (float(p["bid"]) + float(p["ask"]))))
    return {symbol: ([t for t, _ in sorted(rows)], [m for _, m in sorted(rows)]) for symbol, rows in found.items()}


def covariances_of(mids: Mapping[str, tuple[list[int], list[float]]]) -> dict[int, Covariance]:
    """Return, by the end of each bar in which both were quoted, the weighted covariances of the last mids' returns of the bars so far (hedging §2)."""
    last: dict[str, dict[int, float]] = {symbol: {} for symbol in PERPS}
    for symbol in PERPS:
        for time_ns, mid in zip(*mids[symbol], strict=True):
            last[symbol][time_ns // BAR_NS] = mid
    found: dict[int, Covariance] = {}
    sums, before, bars = dict.fromkeys(product(PERPS, PERPS), 0.0), dict[str, float](), 0
    for bar in sorted(set.intersection(*(set(there) for there in last.values()))):
        now = {symbol: last[symbol][bar] for symbol in PERPS}
        if before:
            returns, bars = {symbol: math.log(now[symbol] / before[symbol]) for symbol in PERPS}, bars + 1
            sums = {(a, b): MEMORY * x + (1.0 - MEMORY) * returns[a] * returns[b] for (a, b), x in sums.items()}
            found[(bar + 1) * BAR_NS] = {pair: x / (1.0 - MEMORY**bars) for pair, x in sums.items()}
        before = now
    return found


def covariance_of(mids: Mapping[str, tuple[list[int], list[float]]]) -> Covariance:
    """Return the covariances of what is hedged with, from one quote to the next; the load's prices are stationary until they stand still."""
    returns: dict[str, dict[int, float]] = {}
    for symbol in PERPS:
        times, there = mids[symbol]
        returns[symbol] = {times[i]: math.log(there[i] / there[i - 1]) for i in range(1, len(there)) if there[i] != there[i - 1]}
    both = sorted(set.intersection(*(set(found) for found in returns.values())))
    return {(a, b): sum(returns[a][t] * returns[b][t] for t in both) / max(len(both), 1) for a in PERPS for b in PERPS}


def _inner(s: Covariance, a: Mapping[str, float], b: Mapping[str, float]) -> float:
    """Return a'Sb as a notional, squared, of the first instrument to hedge with."""
    return sum(a.get(i, 0.0) * s[i, j] * b.get(j, 0.0) for i in PERPS for j in PERPS) / s[PERPS[0], PERPS[0]]


def _risk(s: Covariance, x: Mapping[str, float]) -> float:
    """Return the risk of some notionals, as the notional of the first instrument to hedge with that has the same."""
    return math.sqrt(max(_inner(s, x, x), 0.0))


def share_hedged(s: Covariance, needed: Mapping[str, float], held: Mapping[str, float]) -> float:
    """Return the share of what is needed that is hedged: 1 when all is, above 1 when more is (hedging §4)."""
    return -_inner(s, needed, held) / max(_inner(s, needed, needed), 1e-18)


# ---- one lane -------------------------------------------------------------------------------------------------------------------


def judge_lane(task: HedgeTask) -> HedgeLaneVerdict:
    """Judge one lane: inputs, dead letters, audit chain, every decision, every hedge, and the state it ended with."""
    begun = time.monotonic()
    verdict = HedgeLaneVerdict(task.lane)
    records = task.cluster.read_lane((*HEDGER_INPUTS, AUDIT, EVENTS, HEDGER_CHANGELOG), task.lane)
    inputs = {topic: records[topic] for topic in HEDGER_INPUTS}
    for topic, there in inputs.items():
        verdict.inputs[topic] = len(there)
        check_sent(task, topic, [r for r in there if topic != COVERS or FROM_HEDGER not in r.value], verdict)
    oracle = LaneOracle(task.lane, task.n_lanes, task.spoiled)
    oracle.fold(inputs)
    for topic, key, value in oracle.rerouted:
        verdict.passed_on[topic, key, sha256(value).digest(), lane_of(key, task.n_lanes)] += 1
    _check_covers(task, inputs[COVERS], verdict)
    _check_letters(task, inputs, oracle, verdict.problems)
    events = _read_events(records[EVENTS])
    Replay(task, oracle, events, verdict).run(records[AUDIT])
    _check_ends(oracle, events, verdict)
    _check_state(task, inputs, records[HEDGER_CHANGELOG], oracle, verdict)
    verdict.seconds = time.monotonic() - begun
    return verdict


def _check_covers(task: HedgeTask, records: list[Record], verdict: HedgeLaneVerdict) -> None:
    """Every intent of the hedger's is in the topic once, in the lane of its book."""
    seen: set[str] = set()
    for record in records:
        if FROM_HEDGER not in record.value:
            continue
        p = json.loads(record.value)["payload"]
        verdict.covers.append((p["book"], p["hedge_id"]))
        if p["hedge_id"] in seen:
            verdict.problems.add("hedged_twice", f"{p['book']}: hedge {p['hedge_id']} was sent again, offset {record.offset}")
        seen.add(p["hedge_id"])
        if lane_of(p["book"], task.n_lanes) != task.lane:
            verdict.problems.add("state_mismatch", f"hedge {p['hedge_id']} of {p['book']} is in lane {task.lane}")


def _check_letters(task: HedgeTask, inputs: dict[str, list[Record]], oracle: LaneOracle, problems: Problems) -> None:
    """The dead letters are the inputs that were spoiled on purpose, one for one, with their bytes and the reason."""
    expected = dict(oracle.dead)
    there = {topic: {record.offset: record for record in records} for topic, records in inputs.items()}
    for letter in task.letters:
        where = f"{letter.topic}[{task.lane}] offset {letter.offset}"
        source = there.get(letter.topic, {}).get(letter.offset)
        reason = expected.pop((letter.topic, letter.offset), None)
        if source is None or reason is None:
            problems.add("state_mismatch", f"the DLQ has {where} ({letter.reason}), which was not spoiled")
        elif reason != letter.reason:
            problems.add("state_mismatch", f"the DLQ has {where} as {letter.reason}, it was spoiled as {reason}")
        if source is not None and (source.key, source.value) != (letter.key, letter.value):
            problems.add("lost", f"the DLQ has other bytes than {where}")
    for (topic, offset), reason in expected.items():
        problems.add("lost", f"{topic}[{task.lane}] offset {offset} ({reason}) is not in the DLQ")


def _read_events(records: list[Record]) -> dict[str, list[tuple[int, str]]]:
    """Return hedge → (time, state) told, in order."""
    events: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for record in records:
        message = json.loads(record.value)
        events[message["payload"]["hedge_id"]].append((message["ts_ns"], message["payload"]["state"]))
    return events


def _check_ends(oracle: LaneOracle, events: dict[str, list[tuple[int, str]]], verdict: HedgeLaneVerdict) -> None:
    """The end of every hedge was told, and is the oracle's."""
    for name, hedge in oracle.hedges.items():
        verdict.hedges[hedge.state] += 1
        told = events.get(name)
        if hedge.state == "OPEN":
            left = {leg.instrument: leg.remaining for leg in hedge.legs}
            verdict.problems.add("hedges_lost", f"{hedge.book}: hedge {name} has no end, {left} of it are open")
        elif not told or told[-1][1] != hedge.state:
            last = told[-1][1] if told else "nothing"
            verdict.problems.add("hedges_lost", f"{hedge.book}: hedge {name} ended as {hedge.state}, told last was {last}")
    for name in events.keys() - oracle.hedges.keys():
        if any(state not in ("QUEUED", "BLOCKED", "SUPERSEDED", "EXPIRED") for _, state in events[name]):
            verdict.problems.add("hedges_lost", f"hedge {name} was told of and is not in {COVERS}")


class Replay:
    """A lane's decisions in order, each held against the book as it was at that moment."""

    def __init__(self, task: HedgeTask, oracle: LaneOracle, events: dict[str, list[tuple[int, str]]], verdict: HedgeLaneVerdict) -> None:
        self.task, self.oracle, self.events, self.verdict = task, oracle, events, verdict
        self.problems = verdict.problems
        self._at: dict[str, tuple[int, int]] = {}
        self._exposure: dict[str, Counter[str]] = defaultdict(Counter)
        self._held: dict[str, Counter[str]] = defaultdict(Counter)
        self._filled: Counter[str] = Counter()
        self._undone: Counter[str] = Counter()
        self._open: dict[str, list[Hedge]] = defaultdict(list)
        self._of_version: dict[tuple[str, str], list[Hedge]] = defaultdict(list)
        self._audited: set[str] = set()
        self._bars = list(task.by_bar)

    def run(self, chain: list[Record]) -> None:
        """Check every record of the chain, then that nothing is missing from it."""
        last: dict[str, dict[str, Any]] = {}
        for message in read_chain(self.task.lane, chain, self.problems):
            payload = message["payload"]
            self.verdict.audits += 1
            self.verdict.decisions[payload["outcome"]] += 1
            if payload["outcome"] != "note" and payload.get("universe_version") is not None:
                self._check(payload)
                last[payload["book"]] = payload
        for name in self.oracle.hedges.keys() - self._audited:
            self.problems.add("hedges_lost", f"no audit record says that hedge {name} was sent")
        for name, book in self.oracle.books.items():
            self._check_rest(book, last.get(name))

    # ---- one decision -----------------------------------------------------------------------------------------------------------

    def _check(self, p: dict[str, Any]) -> None:
        book = self.oracle.books.get(p["book"])
        if book is None:
            self._wrong(p, "nobody has spoken of the book")
            return
        steps, targets = self._at.get(book.name, (0, 0))
        at = self.oracle.find(book, p["exposure_version"], p["universe_version"], p["policy_hash"] or "", steps, targets)
        if at is None:
            self._wrong(p, f"its exposure version is of no state the book was in after {steps} fills and {targets} targets")
            return
        self._advance(book, steps, at[0])
        self._at[book.name] = at
        e = self._check_exposures(p, book, book.targets[at[1]])
        p_held, flight = self._check_legs(p, book)
        if p["outcome"] == "sent":
            self._check_sent(p, book, e, p_held, flight)

    def _advance(self, book: Book, steps: int, to: int) -> None:
        for step in book.steps[steps:to]:
            if not step.order_id:
                self._exposure[book.name][step.symbol] += step.delta
                continue
            self._held[book.name][step.symbol] += step.delta
            leg = self.oracle.legs.get(step.order_id)
            if leg is not None:
                self._filled[leg.order_id] += step.delta * leg.side
                self._undone[leg.order_id] += max(-step.delta * leg.side, 0)

    def _check_exposures(self, p: dict[str, Any], book: Book, targets: dict[str, float]) -> dict[str, float]:
        """Hold the exposures against positions and targets; return them."""
        found: dict[str, float] = {}
        for row in p["exposures"]:
            symbol, target = row["symbol"], row["target"]
            if target != targets.get(symbol, 0.0):
                self._wrong(p, f"target of {symbol} is {target}, in the inputs {targets.get(symbol, 0.0)}")
            if row["notional"] is None:
                continue
            found[symbol] = row["notional"]
            self._priced(p, f"exposure in {symbol}", symbol, self._exposure[book.name][symbol], row["notional"] + target)
        for symbol, quantity in self._exposure[book.name].items():
            if quantity and symbol not in {row["symbol"] for row in p["exposures"]}:
                self._wrong(p, f"it does not know of {in_units(quantity, symbol)} {symbol}")
        return found

    def _check_legs(self, p: dict[str, Any], book: Book) -> tuple[dict[str, float], dict[str, float]]:
        """Hold what is held and in flight against fills and hedges; return both."""
        held, flight = {}, {}
        open_ = [hedge for hedge in self._open[book.name] if not self._ended(hedge, p["decision_ts_ns"])]
        self._open[book.name] = open_
        for row in p["legs"]:
            symbol = row["instrument"]
            held[symbol], flight[symbol] = row["held"], row["in_flight"]
            if row["distance"] is None and row["held"] == 0.0 and row["in_flight"] == 0.0:
                continue  # no price
            self._priced(p, f"hedge in {symbol}", symbol, self._held[book.name][symbol], row["held"])
            sums = self._possible(open_, symbol)
            if not any(self._is(p, symbol, quantity, row["in_flight"]) for quantity in sums):
                told = sorted(in_units(quantity, symbol) for quantity in sums)
                self._wrong(p, f"{row['in_flight']} of {symbol} in flight, possible were {told} units", "hedged_twice")
        return held, flight

    def _possible(self, hedges: list[Hedge], symbol: str) -> set[int]:
        """Return what may be in flight of an instrument: of each open leg all that is not filled, or what its end left, if that was heard."""
        options = []
        for hedge in hedges:
            for leg in hedge.legs:
                if leg.instrument == symbol:
                    filled = self._filled[leg.order_id]
                    amounts = {max(leg.size - filled, 0)}
                    if leg.end:
                        amounts.add(max(leg.venue_filled - filled - self._undone[leg.order_id], 0))
                    options.append([leg.side * amount for amount in amounts])
        return {sum(choice) for choice in product(*options)}

    def _ended(self, hedge: Hedge, now_ns: int) -> bool:
        """Return whether a hedge had ended at a time, by what was told: a state is told in the tick in which decisions see it first."""
        told = self.events.get(hedge.hedge_id, [])
        at = bisect_right(told, now_ns, key=lambda event: event[0])
        return at > 0 and told[at - 1][1] not in OPEN

    def _check_sent(self, p: dict[str, Any], book: Book, e: dict[str, float], held: dict[str, float], flight: dict[str, float]) -> None:
        """A hedge that was sent is the one intent of its name, the next attempt, alone for its exposure version, and not too much."""
        name = p["hedge_id"]
        hedge = self.oracle.hedges.get(name)
        if hedge is None:
            self.problems.add("hedges_lost", f"{book.name}: hedge {name} was sent, says audit record {p['seq']}, and is not in {COVERS}")
            return
        if name in self._audited:
            self._wrong(p, f"hedge {name} was sent before", "hedged_twice")
        self._audited.add(name)
        before = self._of_version[book.name, p["exposure_version"]]
        for one in before:
            if not self._ended(one, p["decision_ts_ns"]):
                self._wrong(p, f"hedge {one.hedge_id} of the same exposure version was still open", "hedged_twice")
        self._open[book.name].append(hedge)
        wanted = {
            "exposure_version": p["exposure_version"], "attempt": len(before), "decision_ts_ns": p["decision_ts_ns"], "book": book.name,
            "policy_hash": p["policy_hash"], "hedge_id": hedge_id(book.name, hedge.version, len(before)),
        }  # fmt: skip
        for what, value in wanted.items():
            if hedge.payload[what] != value:
                self._wrong(p, f"{what} of hedge {name} is {hedge.payload[what]}, not {value}")
        before.append(hedge)
        trades: dict[str, float] = {}
        for leg in hedge.payload["legs"]:
            if leg["order_id"] != order_id(name, leg["instrument"]):
                self._wrong(p, f"order_id of {leg['instrument']} of hedge {name} is not the one it must have")
            trades[leg["instrument"]] = leg["notional"] * (1 if leg["side"] == "BUY" else -1)
        if {row["instrument"]: row["trade"] for row in p["legs"] if row["trade"]} != trades:
            self._wrong(p, f"the legs of hedge {name} are not the trades of its audit record")
        needed: Counter[str] = Counter()
        for ratio in p["ratios"]:
            needed[ratio["instrument"]] += ratio["used"] * e.get(ratio["exposure"], 0.0)
        p_before = {j: held[j] + flight[j] for j in held}
        p_after = {j: x + trades.get(j, 0.0) for j, x in p_before.items()}
        bar = max(bisect_right(self._bars, p["covariance_ts_ns"] or 0) - 1, 0)  # a bar without quotes changes nothing
        s = self.task.by_bar[self._bars[bar]]
        first, after = (_risk(s, {j: needed[j] + x for j, x in there.items()}) for there in (p_before, p_after))
        need = _risk(s, needed)
        if after > NOISE * first:
            self._wrong(p, f"hedge {name} takes the book's risk from {first:.0f} to {after:.0f}", "hedged_twice")
        shares = [share_hedged(s, needed, there) for there in (p_before, p_after)]
        if need > BAND * REFERENCE_NOTIONAL and shares[1] > max(shares[0], OVERHEDGE) * NOISE:
            self._wrong(p, f"hedge {name} takes the share that is hedged from {shares[0]:.3f} to {shares[1]:.3f}", "hedged_twice")

    # ---- figures ----------------------------------------------------------------------------------------------------------------

    def _priced(self, p: dict[str, Any], what: str, symbol: str, quantity: int, notional: float) -> None:
        if not self._is(p, symbol, quantity, notional):
            self._wrong(p, f"{what} is {notional}, of {in_units(quantity, symbol)} units")

    def _is(self, p: dict[str, Any], symbol: str, quantity: int, notional: float) -> bool:
        """Return whether a notional is a quantity at a mid there was at the time."""
        if quantity == 0:
            return abs(notional) < 1e-6
        mid = notional / in_units(quantity, symbol)
        times, mids = self.task.mids[symbol]
        now = p["decision_ts_ns"]
        near = range(bisect_left(times, now - QUOTE_SPAN_NS), bisect_right(times, now + QUOTE_SPAN_NS))
        return any(math.isclose(mids[at], mid, rel_tol=CLOSE, abs_tol=1e-6 / abs(in_units(quantity, symbol))) for at in near)

    def _wrong(self, p: dict[str, Any], text: str, kind: str = "state_mismatch") -> None:
        self.problems.add(kind, f"{p['book']}, audit record {p['seq']} of lane {self.task.lane} ({p['outcome']}): {text}")

    def _check_rest(self, book: Book, p: dict[str, Any] | None) -> None:
        """When all is quiet, the last decision of a book knows everything, nothing is in flight, and the book is covered, or it says why not."""
        moved = book.steps or len(book.targets) > 1
        if p is None:
            if moved:
                self.problems.add("hedges_lost", f"{book.name}: no decision at all")
            return
        end = (len(book.steps), len(book.targets) - 1)
        if self._at.get(book.name) != end:
            self._wrong(p, f"the last decision rests on {self._at.get(book.name)} fills and targets of {end}", "lost")
        if any(row["in_flight"] for row in p["legs"]):
            self._wrong(p, "there is something in flight at the end", "hedges_lost")
        coverage = p["expected"].get("coverage")
        if coverage is None or coverage < COVERAGE:
            self.verdict.under_target[p["reasons"][0]] += 1
            if not AT_REST & set(p["reasons"]):
                self._wrong(p, f"covered by {coverage} at the end, for {p['reasons']}", "hedges_lost")
        last = {symbol: mids[-1] for symbol, (_, mids) in self.task.mids.items()}
        symbols = book.exposure.keys() | book.targets[-1].keys()
        if symbols <= set(PERPS):  # hedged by what it is exposed in: nothing of the product is needed to know how well
            s = self.task.covariance
            need = {one: in_units(book.exposure[one], one) * last[one] - book.targets[-1].get(one, 0.0) for one in PERPS}
            left = {one: need[one] + in_units(book.hedge[one], one) * last[one] for one in PERPS}
            risk, whole, total = _risk(s, left), _risk(s, need), sum(map(abs, need.values()))
            # Nothing is traded while the gradient is under the price of trading: with hedges that move together much can be left to each other.
            band = BAND * max(total, REFERENCE_NOTIONAL) * (whole / total) ** 2 if total else 0.0
            steepest = max(abs(_inner(s, {one: 1.0}, left)) for one in PERPS)
            if risk > REST * (1.0 - COVERAGE) * whole and steepest > REST * band and risk > 1.0:
                self._wrong(p, f"risk {risk:.0f} of {whole:.0f} is not hedged at the end", "hedges_lost")


def _check_state(
    task: HedgeTask, inputs: dict[str, list[Record]], changelog: list[Record], oracle: LaneOracle, verdict: HedgeLaneVerdict
) -> None:
    """The state restored from the changelog: its balance, where it stands, positions, targets and every hedge, against the oracle."""
    from operators.hedge_market import HedgeMarket
    from operators.hedger import HedgerLogic

    problems, lane = verdict.problems, task.lane
    reference = load_reference(task.reference)
    logic = HedgerLogic(lane, task.n_lanes, reference, HedgeMarket(reference))
    logic.restore((record.offset, record.value) for record in changelog)
    counters = verdict.counters = logic.counters()
    verdict.balance = {name: counters[name] for name in BALANCE}
    received = sum(map(len, inputs.values()))
    if counters["received"] != received:
        problems.add("unbalanced", f"lane {lane} received {counters['received']} of {received} inputs")
    if counters["balance_mismatch"]:
        problems.add("unbalanced", f"lane {lane}: {verdict.balance} do not add up")
    theirs = {name: oracle.balance[name] for name in BALANCE}
    if theirs != verdict.balance:
        problems.add("state_mismatch", f"lane {lane}: balance {verdict.balance}, oracle {theirs}")
    positions = logic.positions()
    for topic, records in inputs.items():
        end = records[-1].offset + 1 if records else positions.get(topic, 0)
        if positions.get(topic, 0) != end:
            problems.add("state_mismatch", f"lane {lane}: the state ends at {positions.get(topic)} of {topic}, the topic at {end}")
    for book in oracle.books.values():
        try:
            state = logic.book_state(book.name)
        except KeyError:
            problems.add("lost", f"{book.name} is not in the state")
            continue
        verdict.orders += len(book.hedges)
        for text in compare_book(book, state):
            problems.add("state_mismatch", f"{book.name}: {text}")


def compare_book(book: Book, state: dict[str, Any]) -> list[str]:
    """Return in words where a restored book differs from the oracle's."""
    odd: list[str] = []
    theirs = state["positions"]
    for symbol in sorted(theirs.keys() | book.exposure.keys() | book.hedge.keys() | book.targets[-1].keys()):
        mine = theirs.get(symbol, {"exposure": 0, "hedge": 0, "target": None})
        wanted = {"exposure": book.exposure[symbol], "hedge": book.hedge[symbol]}
        for what, quantity in wanted.items():
            if not math.isclose(float(mine[what]), in_units(quantity, symbol), rel_tol=1e-15, abs_tol=1e-12):
                odd.append(f"{what} in {symbol} is {mine[what]}, oracle {in_units(quantity, symbol)}")
        if mine["target"] != book.targets[-1].get(symbol):
            odd.append(f"target of {symbol} is {mine['target']}, oracle {book.targets[-1].get(symbol)}")
    hedges = state["hedges"]
    for name in hedges.keys() - {hedge.hedge_id for hedge in book.hedges}:
        if hedges[name]["state"] in OPEN:
            odd.append(f"hedge {name} is in the state as {hedges[name]['state']} and was never sent")
    for hedge in book.hedges:
        found = hedges.get(hedge.hedge_id)
        if found is None:
            odd.append(f"hedge {hedge.hedge_id} is not in the state")
            continue
        if found["state"] != hedge.state or found["attempt"] != hedge.attempt:
            odd.append(f"hedge {hedge.hedge_id} is {found['state']}, attempt {found['attempt']}, oracle {hedge.state}, {hedge.attempt}")
        for leg in hedge.legs:
            mine = found["legs"][leg.instrument]
            shown = (float(mine["size"]), float(mine["filled"]))
            if shown != (leg.side * in_units(leg.size, leg.instrument), leg.side * in_units(leg.filled, leg.instrument)):
                odd.append(f"hedge {hedge.hedge_id}, {leg.instrument}: size and filled {shown}, oracle {leg.side * leg.size} {leg.filled}")
            # of a hedge the desk took over the legs that had ended before are as they were, or taken over too: its word may come before theirs
            if not hedge.manual and mine["state"] != leg.state:
                odd.append(f"hedge {hedge.hedge_id}, {leg.instrument} is {mine['state']}, oracle {leg.state}")
            if mine["remaining"]:
                odd.append(f"hedge {hedge.hedge_id}, {leg.instrument}: {mine['remaining']} remain")
    return odd


# ---- all lanes ------------------------------------------------------------------------------------------------------------------


def _sum_up(verdict: HedgeVerdict, lanes: list[HedgeLaneVerdict], told: list[dict[str, Any]], n_lanes: int) -> None:
    problems, checks = verdict.problems, verdict.checks
    arrived: Counter[tuple[str, bytes, bytes, int]] = Counter()
    passed_on: Counter[tuple[str, bytes, bytes, int]] = Counter()
    covers: Counter[str] = Counter()
    by_lane: Counter[str] = Counter()
    for lane in lanes:
        verdict.balance.update(lane.balance)
        verdict.inputs += sum(lane.inputs.values())
        verdict.fills += lane.inputs[FILLS]
        verdict.hedges.update(lane.hedges)
        verdict.decisions.update(lane.decisions)
        verdict.under_target.update(lane.under_target)
        arrived.update(lane.arrived)
        passed_on.update(lane.passed_on)
        covers.update(name for _, name in lane.covers)
        by_lane.update(lane.problems.counts)
        problems.merge(lane.problems)
    heard = Counter(row["hedge_id"] for row in told if row["kind"] == "cover")
    for name in covers - heard:
        problems.add("hedges_lost", f"hedge {name} never reached the order agent")
    for name in heard - covers:
        problems.add(
            "hedged_twice" if name in covers else "state_mismatch", f"the order agent was told of hedge {name} {heard[name]} times"
        )
    decided = f"{verdict.decisions.total():,} decisions, {verdict.decisions['sent']:,} hedges sent"
    checks.append(("inputs in the topics; sent = there", f"{verdict.inputs:,} in {n_lanes} lanes", not by_lane["lost"]))
    checks.append(("every decision = the book at its moment", decided, not by_lane["state_mismatch"] and not by_lane["hedged_twice"]))
    checks.append(("every hedge has its end, and it was told", f"{verdict.hedges.total():,}", not by_lane["hedges_lost"]))
    checks.append(("every hedge reached the order agent once", f"{heard.total():,}", covers == heard))
    checks.append(
        ("positions, targets, hedges of books = oracle's", f"{sum(v.orders for v in lanes):,} hedges", not by_lane["state_mismatch"])
    )
    checks.append(("lanes out of balance", f"{by_lane['unbalanced']} of {n_lanes}", not by_lane["unbalanced"]))
    check_passed_on(passed_on, arrived, verdict)


def read_told(file: Path) -> list[dict[str, Any]]:
    """Read the order agent's ledger of what it was told."""
    with file.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]
