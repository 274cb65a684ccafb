"""What the simulated workers run: a toy lane on the real tables and changelog, the execution flow or the hedger; and what is fed to them.

The toy keeps just enough to make mistakes visible: counts that go on or begin anew (a lost deletion shows), records that wait for another
topic, ids that are forgotten again, records of another lane, broken ones, and a clock.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict, deque
from collections.abc import Iterable
from decimal import Decimal
from random import Random
from typing import Any, Protocol

import numpy as np

from bench.simulated_kafka import Broker, Entry
from flows.runtime import Flow
from operators.lane import LaneLogic
from schemas.chunk import Capture, Chunk, Records, join, split
from state.changelog import Changelog
from state.table import Table, row_type

MS = 1_000_000
EPOCH_NS = 1_777_614_400 * 1_000_000_000
"""When every episode begins."""


class Kit(Protocol):
    """A flow to simulate: its logic, what is fed to it, and how two states are compared."""

    n_lanes: int
    flow: Flow

    def logic(self, lane: int) -> LaneLogic:
        """Return an empty lane."""
        ...

    def again(self, logic: Any) -> None:
        """Do to the calm lane what, beside its state, a restore does to a lane."""
        ...

    def changelog(self, logic: Any) -> Changelog:
        """Return the changelog inside a logic."""
        ...

    def state(self, logic: Any) -> Any:
        """Return everything a logic knows, in a form in which equal states are equal whatever their rows' places."""
        ...

    def partition(self, topic: str, key: bytes) -> int:
        """Return the producer's partition of a key."""
        ...

    def feed(self, broker: Broker, chance: Random) -> None:
        """Let producers outside write a little more input."""
        ...

    def fed(self) -> bool:
        """Return whether nothing more must be fed before the end."""
        ...

    def verdict(self, broker: Broker) -> str | None:
        """Say what is wrong with everything a read_committed consumer can see at the end, by other means than the logic."""
        ...


def visible(broker: Broker, topic: str, lane: int) -> list[tuple[int, Entry]]:
    """Return what a read_committed consumer sees of a partition."""
    log = broker.logs[topic, lane]
    return list(log.committed(0, log.stable()))


# ---- the toy --------------------------------------------------------------------------------------------------------------------

A, B, OUT, DEAD, LATE, CHANGELOG = "a", "b", "out", "dead", "late", "changelog"
INPUTS = (A, B)
ACCOUNT = row_type([("count", "i8"), ("total", "i8")])
SEEN = row_type([("id", "i8")])
WAITING = row_type([("account", "i8"), ("amount", "i8"), ("arrival", "i8"), ("due", "i8"), ("close", "u1"), ("level", "u1")])
RECEIVED, PUBLISHED, DUPLICATE, PENDING, DLQ, REROUTED, ARRIVALS = range(2, 9)
BALANCE = ("received", "published", "duplicate", "pending", "dlq", "rerouted")
WINDOW = 24
"""Ids of a topic that are remembered."""
K_ACCOUNT, K_OPEN, K_SEEN, K_RING, K_WAITING = range(1, 6)


class ToyLogic:
    """A lane (operators.lane.LaneLogic). Topic a: `A id amount` counts for an account, `C id 0` closes it; both wait until topic b has
    said `O id 0` about the account. A waiting record is told once on `late` when its time has come."""

    def __init__(self, lane: int, n_lanes: int) -> None:
        self.lane, self.n_lanes = lane, n_lanes
        self.accounts, self.seen, self.waiting = Table("accounts", ACCOUNT), Table("seen", SEEN), Table("waiting", WAITING)
        self.scalars = np.zeros(12, np.int64)
        self.log = Changelog({t.name: t for t in (self.accounts, self.seen, self.waiting)}, self.scalars)

    def process(self, chunk: Chunk, now_ns: int) -> list[Records]:
        """Fold a chunk."""
        topic = INPUTS.index(chunk.topic)
        out: list[tuple[bytes, bytes]] = []
        dead: list[tuple[bytes, bytes]] = []
        away: list[tuple[bytes, bytes]] = []
        scalars = self.scalars
        values = zip(split(chunk.keys, chunk.key_bounds), split(chunk.data, chunk.bounds), chunk.offsets.tolist(), strict=True)
        for key, value, offset in values:
            scalars[RECEIVED] += 1
            try:
                kind, name, amount = value.split(b" ")
                number, record, size = int(key[1:]), int(name), int(amount)
            except ValueError:
                scalars[DLQ] += 1
                dead.append((key, b"%s %d %d" % (chunk.topic.encode(), self.lane, offset)))
                continue
            if number % self.n_lanes != self.lane:
                scalars[REROUTED] += 1
                away.append((key, value))
            elif self._known(topic, record):
                scalars[DUPLICATE] += 1
            elif kind == b"O":
                self._open(key, number, record, out)
            elif self.accounts.find(K_OPEN, number) < 0:
                self._park(number, record, size, kind == b"C", now_ns)
            else:
                out.append((key, self._count(number, record, size, kind == b"C")))
                scalars[PUBLISHED] += 1
        scalars[topic] = int(chunk.offsets[-1]) + 2
        return [_records(to, rows) for to, rows in ((OUT, out), (DEAD, dead), (chunk.topic, away)) if rows]

    def _known(self, topic: int, record: int) -> bool:
        """Remember an id; forget the one that came WINDOW ids before."""
        if self.seen.find(K_SEEN, record) >= 0:
            return True
        self.seen.insert(K_SEEN, record)
        at = topic * WINDOW + int(self.scalars[ARRIVALS + topic]) % WINDOW
        self.scalars[ARRIVALS + topic] += 1
        ring = self.seen.find(K_RING, at)
        if ring < 0:
            ring = self.seen.insert(K_RING, at)
        else:
            self.seen.remove(self.seen.find(K_SEEN, int(self.seen.rows[ring]["id"])))
            self.seen.touch(ring)
        self.seen.rows[ring]["id"] = record
        return False

    def _count(self, number: int, record: int, size: int, close: bool) -> bytes:
        row = self.accounts.find(K_ACCOUNT, number)
        if row < 0:
            row = self.accounts.insert(K_ACCOUNT, number)
        account = self.accounts.rows[row]
        account["count"] += 1
        account["total"] += size
        told = b"%d %d %d" % (record, account["count"], account["total"])
        if close:
            self.accounts.remove(row)
            return told + b" closed"
        self.accounts.touch(row)
        return told

    def _park(self, number: int, record: int, size: int, close: bool, now_ns: int) -> None:
        self.scalars[PENDING] += 1
        self.scalars[11] += 1
        row = self.waiting.insert(K_WAITING + int(self.scalars[11]), record)
        wait = self.waiting.rows[row]
        wait["account"], wait["amount"], wait["arrival"], wait["close"] = number, size, self.scalars[11], close
        wait["due"] = now_ns + (5 + record % 8 * 30) * MS

    def _open(self, key: bytes, number: int, record: int, out: list[tuple[bytes, bytes]]) -> None:
        self.scalars[PUBLISHED] += 1
        if self.accounts.find(K_OPEN, number) >= 0:
            out.append((key, b"%d again" % record))
            return
        self.accounts.insert(K_OPEN, number)
        out.append((key, b"%d open" % record))
        rows = self.waiting.rows
        mine = np.flatnonzero((rows["live"] == 1) & (rows["account"] == number))
        for row in sorted(mine.tolist(), key=lambda row: int(rows[row]["arrival"])):
            wait = rows[row]
            out.append((key, self._count(number, int(wait["klo"]), int(wait["amount"]), bool(wait["close"]))))
            self.waiting.remove(row)
            self.scalars[PENDING] -= 1
            self.scalars[PUBLISHED] += 1

    def tick(self, now_ns: int) -> list[Records]:
        """Tell of records that have waited long."""
        if not len(self.waiting):
            return []
        rows = self.waiting.rows
        late = []
        for row in np.flatnonzero((rows["live"] == 1) & (rows["level"] == 0) & (rows["due"] <= now_ns)).tolist():
            rows[row]["level"] = 1
            self.waiting.touch(row)
            late.append((b"k%d" % rows[row]["account"], b"%d %d" % (rows[row]["klo"], rows[row]["arrival"])))
        return [_records(LATE, late)]

    def capture(self) -> Capture:
        """Return the state change."""
        return self.log.capture()

    def committed(self, seq: int, offset: int) -> None:
        """Learn where a capture is."""
        self.log.committed(seq, offset)

    def obsolete_before(self) -> int | None:
        """Return what may be deleted."""
        return self.log.obsolete_before()

    def restore(self, records: Iterable[tuple[int, bytes]]) -> None:
        """Rebuild the state."""
        self.log.restore(records)

    def positions(self) -> dict[str, int]:
        """Return the offsets folded."""
        return {topic: int(self.scalars[i]) - 1 for i, topic in enumerate(INPUTS) if self.scalars[i]}

    def counters(self) -> dict[str, int]:
        """Return the balance."""
        found = {name: int(self.scalars[RECEIVED + i]) for i, name in enumerate(BALANCE)}
        return found | {"balance_mismatch": found["received"] - sum(found[name] for name in BALANCE[1:])}

    def dirty(self) -> bool:
        """Return whether anything changed."""
        return self.log.dirty


def _records(topic: str, rows: list[tuple[bytes, bytes]]) -> Records:
    return Records(topic, *join([value for _, value in rows]), *join([key for key, _ in rows]))


class ToyKit:
    """The toy with three lanes, and producers that write to it for ever."""

    def __init__(self, chance: Random) -> None:
        self.n_lanes = 3
        self.flow = Flow("toy", INPUTS, (OUT, DEAD, LATE), (), CHANGELOG, lambda lane, n, _: self.logic(lane), lambda: None)
        self._sent = self._transactions = 0
        self._recent: deque[tuple[str, bytes, bytes]] = deque(maxlen=8)

    def logic(self, lane: int) -> ToyLogic:
        """Return an empty lane."""
        return ToyLogic(lane, self.n_lanes)

    def again(self, logic: ToyLogic) -> None:
        """Nothing: all it knows is in its state."""

    def changelog(self, logic: ToyLogic) -> Changelog:
        """Return the changelog inside."""
        return logic.log

    def state(self, logic: ToyLogic) -> Any:
        """Return scalars and live rows by key."""
        tables = []
        for table in logic.log.tables:
            rows = table.rows[table.rows["live"] == 1]
            tables.append(rows[np.lexsort((rows["klo"], rows["khi"]))].tolist())
        return logic.scalars.tolist(), tables

    def partition(self, topic: str, key: bytes) -> int:
        """Return the lane of an account."""
        try:
            return int(key[1:]) % self.n_lanes
        except ValueError:
            return 0

    def feed(self, broker: Broker, chance: Random) -> None:
        """Write some records: mostly plainly, sometimes in a transaction of their own that may be aborted; some twice, broken or misplaced."""
        records = [self._record(chance) for _ in range(1 + int(chance.random() * 3))]
        if chance.random() < 0.06:
            self._transactions += 1
            tid = f"outside{self._transactions}"
            epoch = broker.init_producer(tid, 60.0)
            assert epoch is not None
            for topic, key, value in records:
                broker.append(tid, epoch, "outside", (topic, self.partition(topic, key)), [(key, value)])
            broker.end(tid, epoch, 1 + (chance.random() < 0.5))
            return
        for topic, key, value in records:
            lane = self.partition(topic, key)
            broker.append_plain((topic, (lane + 1) % self.n_lanes if chance.random() < 0.04 else lane), key, value)

    def _record(self, chance: Random) -> tuple[str, bytes, bytes]:
        luck = chance.random()
        if luck < 0.05 and self._recent:
            return self._recent[int(chance.random() * len(self._recent))]
        self._sent += 1
        key = b"k%d" % (self._sent // 25 + int(chance.random() * 12))
        if luck < 0.08:
            return A, key, b"broken"
        topic, kind = (B, b"O") if luck < 0.3 else (A, b"C" if luck < 0.42 else b"A")
        record = (topic, key, b"%b %d %d" % (kind, self._sent, self._sent % 7))
        self._recent.append(record)
        return record

    def fed(self) -> bool:
        """Return True: there is no end to it."""
        return True

    def verdict(self, broker: Broker) -> str | None:
        """Fold the inputs with plain dicts and compare everything visible with that."""
        for lane in range(self.n_lanes):
            out = self._plain(broker, lane)[0]
            seen: dict[bytes, list[bytes]] = defaultdict(list)
            for _, entry in visible(broker, OUT, lane):
                seen[entry.key].append(entry.value)
            if {k: sorted(v) for k, v in seen.items()} != {k: sorted(v) for k, v in out.items()}:
                return f"out[{lane}]: {_odd(seen, out)}"
            for key, values in seen.items():
                # topics are read in any order, so what b says of an account may stand anywhere between what a says
                if [v for v in values if v[-1:].isdigit() or v.endswith(b"d")] != [
                    v for v in out[key] if v[-1:].isdigit() or v.endswith(b"d")
                ]:
                    return f"out[{lane}]: {key!r} out of order: {values}"
            late = Counter(entry.value for _, entry in visible(broker, LATE, lane))
            if late and max(late.values()) > 1:
                return f"late[{lane}]: told twice: {[name for name, n in late.items() if n > 1]}"
            arrived = Counter(
                (t, e.key, e.value) for t in INPUTS for _, e in visible(broker, t, lane) if e.txn and not e.txn.tid.startswith("outside")
            )
            sent = sum((self._plain(broker, other)[2] for other in range(self.n_lanes) if other != lane), Counter[Any]())
            sent = Counter({record: n for record, n in sent.items() if self.partition(record[0], record[1]) == lane})
            if arrived != sent:
                return f"lane {lane} was passed {dict(arrived - sent)} too many, {dict(sent - arrived)} too few"
        told = Counter(entry.value for lane in range(self.n_lanes) for _, entry in visible(broker, DEAD, lane))
        expected = sum((self._plain(broker, lane)[1] for lane in range(self.n_lanes)), Counter[bytes]())
        return None if told == expected else f"dead letters: {dict(told - expected)} too many, {dict(expected - told)} too few"

    def _plain(self, broker: Broker, lane: int) -> tuple[dict[bytes, list[bytes]], Counter[bytes], Counter[Any], int]:
        """Return (outputs by key, dead letters, passed on, waiting) of a lane, b read before a."""
        out: dict[bytes, list[bytes]] = defaultdict(list)
        dead: Counter[bytes] = Counter()
        away: Counter[Any] = Counter()
        opened: set[bytes] = set()
        accounts: dict[bytes, tuple[int, int]] = {}
        waiting = 0
        for topic in (B, A):
            window: deque[bytes] = deque(maxlen=WINDOW)
            for offset, entry in visible(broker, topic, lane):
                key = entry.key
                if entry.value == b"broken":
                    dead[b"%s %d %d" % (topic.encode(), lane, offset)] += 1
                    continue
                kind, record, amount = entry.value.split(b" ")
                if self.partition(topic, key) != lane:
                    away[topic, key, entry.value] += 1
                elif record in window:
                    continue
                else:
                    window.append(record)
                    if kind == b"O":
                        out[key].append(record + (b" again" if key in opened else b" open"))
                        opened.add(key)
                    elif key not in opened:
                        waiting += 1
                    else:
                        count, total = accounts.pop(key, (0, 0))
                        count, total = count + 1, total + int(amount)
                        told = b"%b %d %d" % (record, count, total)
                        if kind == b"C":
                            told += b" closed"
                        else:
                            accounts[key] = (count, total)
                        out[key].append(told)
        return out, dead, away, waiting


def _odd(seen: dict[bytes, list[bytes]], expected: dict[bytes, list[bytes]]) -> str:
    for key in sorted(seen.keys() | expected.keys()):
        mine, theirs = Counter(seen.get(key, [])), Counter(expected.get(key, []))
        if mine != theirs:
            return f"{key!r}: {dict(mine - theirs)} too many, {dict(theirs - mine)} too few"
    return ""


# ---- the execution flow ---------------------------------------------------------------------------------------------------------

HISTORIES = 9
"""Order histories of an episode, told one after the other."""


class ExecutionKit:
    """The real execution logic on two lanes, fed with a few generated order histories (tests.properties.histories), some misplaced."""

    def __init__(self, chance: Random) -> None:
        from bench.oracle import lane_of
        from flows.execution import flow_of
        from tests.properties.histories import N_BYTES, build
        from tests.support import REFERENCE, correlation, key_of

        self.n_lanes = 2
        self._reference = REFERENCE
        self._lane_of = lane_of
        self._lanes: dict[bytes, int] = {}
        found = flow_of(REFERENCE)
        self.flow = Flow(found.name, found.inputs, found.outputs, (), found.changelog, lambda lane, n, _: self.logic(lane), lambda: None)
        self._todo: list[tuple[str, bytes, bytes]] = []
        self._correlations: list[str] = []
        for number in range(HISTORIES):
            for message in build(chance.randbytes(N_BYTES)).messages:
                if message.advance:
                    continue
                value = message.value
                for n in (1, 2):
                    # each history gets orders, venue orders and executions of its own
                    old, new = correlation(n), correlation(n + 10 * number)
                    value = value.replace(old.encode(), new.encode()).replace(old.replace("-", "").encode(), new.replace("-", "").encode())
                    self._correlations.append(new)
                value = value.replace(b'"VO', b'"V%dO' % number).replace(b'exec_id":"E', b'exec_id":"E%d-' % number)
                value = value.replace(b'exec_ref_id":"E', b'exec_ref_id":"E%d-' % number)
                self._todo.append((message.topic, key_of(message.topic, value), value))
        self._correlations = sorted(set(self._correlations))
        self._todo.reverse()

    def logic(self, lane: int) -> Any:
        """Return an empty lane."""
        from operators.execution import ExecutionLogic

        return ExecutionLogic(lane, self.n_lanes, self._reference)

    def again(self, logic: Any) -> None:
        """Nothing: all it knows is in its state."""

    def changelog(self, logic: Any) -> Changelog:
        """Return the changelog inside."""
        found: Changelog = logic.ledger.changelog
        return found

    def state(self, logic: Any) -> Any:
        """Return balance, positions, everything known of the orders, how much of everything there is, and what waits."""
        rows = logic.ledger.pendings.rows
        waits = sorted(rows[rows["live"] == 1][["offset", "reason", "level", "due_ns"]].tolist())
        sizes = [(table.name, len(table)) for table in logic.ledger.changelog.tables]
        orders = [sorted(logic.order_state(name), key=repr) for name in self._correlations]
        return logic.counters(), logic.positions(), orders, sizes, waits, logic.ledger.scalars.tolist()

    def partition(self, topic: str, key: bytes) -> int:
        """Return murmur2's partition."""
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = self._lane_of(key, self.n_lanes)
        return lane

    def feed(self, broker: Broker, chance: Random) -> None:
        """Write the next message or two of a history."""
        for _ in range(1 + int(chance.random() * 2)):
            if self._todo:
                topic, key, value = self._todo.pop()
                lane = self.partition(topic, key)
                broker.append_plain((topic, 1 - lane if chance.random() < 0.05 else lane), key, value)

    def fed(self) -> bool:
        """Return whether every history is told."""
        return not self._todo

    def verdict(self, broker: Broker) -> str | None:
        """Return None: the calm lanes (bench.simulation.Judge) are the judge of every byte."""
        return None


# ---- the hedger -------------------------------------------------------------------------------------------------------------------

PACE = 20
"""The hedger's clock goes so much faster than the simulation's: its bars, cooldowns and minutes then fit into an episode."""
WARM_S = 200
"""Seconds of quotes before an episode begins."""
RECORDS = 140
"""Records of an episode, answers to hedges not counted."""
ENDED = frozenset(("FILLED", "REFUSED", "CANCELED", "EXPIRED", "MANUAL"))


def lane_time_ns(now_ns: int) -> int:
    """Return the hedger's time at a time of the simulation."""
    return EPOCH_NS + (now_ns - EPOCH_NS) * PACE


class Timeline:
    """What every worker of an episode reads whole, second by second: quotes, risk, policies, universes, order channels, HALTs and resumes.

    A lane's market is a function of its clock: that of the calm lane is the same. Broadcast topics themselves are not simulated.
    """

    def __init__(self, books: tuple[str, ...], chance: Random) -> None:
        from operators.hedge_market import MarketRules
        from tests.operators.hedger_bench import REFERENCE

        self.books, self.reference = books, REFERENCE
        self.rules = MarketRules(bar_buffer=64)
        self._chance = Random(chance.random())
        self._random = np.random.default_rng(int(chance.random() * 2**32))
        self._mids = np.array([100.0, 100.1, 50.0, 20.0])
        self._seconds: list[list[tuple[str, bytes]]] = []
        self._quotes: list[list[bytes]] = []
        self._serial = 0
        self.stops: list[tuple[str, str, int, int]] = []
        """(scope, id, from, to) of HALTs, ns."""
        self._policies = 0
        self._down_until = -1

    def time_ns(self, second: int) -> int:
        """Return the time of a second of the timeline."""
        return EPOCH_NS + (second - WARM_S) * 1_000_000_000

    def at(self, now_ns: int) -> int:
        """Return how many seconds have been told at a time."""
        return max((now_ns - EPOCH_NS) // 1_000_000_000, 0) + WARM_S + 1

    def _say(self, topic: str, payload: dict[str, Any], now_ns: int, told: list[tuple[str, bytes]]) -> None:
        from tests.operators.hedger_bench import message

        self._serial += 1
        told.append((topic, message(topic, payload, now_ns, self._serial)))

    def _policy(self, now_ns: int, told: list[tuple[str, bytes]]) -> None:
        self._policies += 1
        closed = (
            [{"instrument": "ALT", "from_ns": now_ns, "to_ns": now_ns + 20_000_000_000, "reason": "x"}] if self._policies % 3 == 0 else []
        )
        unwind = [{"id": f"u{self._policies}", "instrument": "PERP", "max_notional": 500.0, "expires_ns": now_ns + 60_000_000_000}]
        payload = {
            "policy_hash": f"{self._policies:016x}", "fallback_strategy": "synthetic_future", "do_not_trade": closed,
            "unwind": unwind if self._policies % 4 == 2 else [],
        }  # fmt: skip
        self._say("policy.state.guard.v1", payload, now_ns, told)

    def _universe(self, book: str, now_ns: int, told: list[tuple[str, bytes]]) -> None:
        from tests.operators.hedger_bench import universe

        found = universe(book, desk_accounts=["DESK"] if book != self.books[0] else [])
        if self._chance.random() < 0.4:
            found["instruments"] = found["instruments"][: 1 + int(self._chance.random() * 2)]
        if self._chance.random() < 0.3:
            found["reference_notional"] = 100.0
        self._say("hedge.state.universe.v1", found, now_ns, told)

    def _risk(self, now_ns: int, told: list[tuple[str, bytes]]) -> None:
        limits = [{"instrument": name, "max_notional": 2e4, "headroom_notional": 1e4} for name in ("PERP", "ALT")]
        payload = {
            "portfolio_var": 0.0, "daily_drawdown_pct": 0.0, "treasury_utilisation": 0.1, "volatility": 0.1, "limits": limits,
            "risk_level": "CRITICAL" if self._chance.random() < 0.05 else "LOW", "max_capital": 1e6, "headroom_capital": 1e6,
        }  # fmt: skip
        self._say("risk.state.context.v1", payload, now_ns, told)

    def _tell(self) -> None:
        """Make what one more second brings."""
        from tests.operators.hedger_bench import message, uid

        second = len(self._seconds)
        now_ns, luck = self.time_ns(second), self._chance.random
        told: list[tuple[str, bytes]] = []
        quotes = []
        common, noise = self._random.normal(0, 1e-4), self._random.normal(0, 1e-4, 4)
        other = 0.8 if (second // 90) % 3 < 2 else -0.5  # the relation breaks, and mends
        self._mids *= np.exp([common, common + noise[1] * 0.02, other * common + noise[2] * 0.3, noise[3]])
        for instrument, mid in zip(self.reference.instruments, self._mids, strict=True):
            self._serial += 1
            payload = {
                "symbol": instrument.symbol, "bid": f"{mid * 0.99995:.4f}", "ask": f"{mid * 1.00005:.4f}", "bid_size": "10000", "ask_size": "10000",
                "event_ts_ns": now_ns, "snapshot_id": uid(self._serial), "confidence": 1.0,
            }  # fmt: skip
            quotes.append(message("marketdata.snapshot.v1", payload, now_ns, self._serial))
        if second == 0:
            self._policy(now_ns, told)
            for book in self.books[:-1]:  # the last one has no universe for a while
                self._universe(book, now_ns, told)
        if second % 5 == 0:
            self._risk(now_ns, told)
        if second > WARM_S:
            if luck() < 0.01:
                self._policy(now_ns, told)
            if luck() < 0.01:
                self._universe(self.books[int(luck() * len(self.books))], now_ns, told)
            if luck() < 0.02 and second > self._down_until:
                self._down_until = second + int(2 + luck() * 8)
                self._say("order.channel.status.v1", {"venue": "ALPHA", "status": "DOWN", "since_ns": now_ns}, now_ns, told)
            if second == self._down_until:
                self._say("order.channel.status.v1", {"venue": "ALPHA", "status": "UP", "since_ns": now_ns}, now_ns, told)
            if luck() < 0.015:
                self._halt(now_ns, told)
        self._seconds.append(told)
        self._quotes.append(quotes)

    def _halt(self, now_ns: int, told: list[tuple[str, bytes]]) -> None:
        """A HALT, and the resume that ends it, in effect later."""
        luck = self._chance.random
        scope, name = (("ALL", None), ("BOOK", self.books[int(luck() * len(self.books))]), ("SYMBOL", "PERP"))[int(luck() * 3)]
        end_ns = now_ns + int(1 + luck() * 15) * 1_000_000_000
        payload = {"scope": scope, "id": name, "reason": "test", "issued_by": "guard"}
        self._say("system.halt.intent.v1", payload | {"effective_ns": now_ns}, now_ns, told)
        approvals = [{"role": "risk", "approver": "a"}, {"role": "compliance", "approver": "b"}]
        self._say("system.resume.intent.v1", payload | {"effective_ns": end_ns, "approvals": approvals}, now_ns + 1, told)
        self.stops.append((scope, name or "", now_ns, end_ns))

    def stopped(self, book: str, instruments: list[str], now_ns: int) -> bool:
        """Return whether a hedge of a book may not go out at a time."""
        return any(
            start <= now_ns < end and (scope == "ALL" or (scope == "BOOK" and name == book) or (scope == "SYMBOL" and name in instruments))
            for scope, name, start, end in self.stops
        )

    def follow(self, market: Any, told: int, now_ns: int) -> int:
        """Bring a market that has heard `told` seconds to a time; return how many it has heard then."""
        upto = self.at(now_ns)
        if upto <= told:
            return told
        while len(self._seconds) < upto:
            self._tell()
        quotes = [value for second in self._quotes[told:upto] for value in second]
        market.apply(_chunk_of("marketdata.snapshot.v1", quotes, told * 4, self.time_ns(upto - 1)))
        for second in range(told, upto):
            for topic, value in self._seconds[second]:
                market.apply(_chunk_of(topic, [value], second, self.time_ns(second)))
        return upto


def _chunk_of(topic: str, values: list[bytes], first: int, received_ns: int) -> Chunk:
    data, bounds = join(values)
    keys, key_bounds = join([b"k"] * len(values))
    return Chunk(topic, 0, data, bounds, np.arange(first, first + len(values)), keys, key_bounds, received_ns)


class HedgerKit:
    """The real hedger on two lanes: fills of a few books, targets, the desk's word, and an order agent that answers hedges in every way."""

    def __init__(self, chance: Random) -> None:
        from bench.oracle import lane_of
        from flows.hedger import flow_of

        self.n_lanes = 2
        self.books = ("alpha", "epsilon", "gamma", "kappa")
        self._lane_of = lane_of
        self.timeline = Timeline(self.books, chance)
        found = flow_of(self.timeline.reference)
        self.flow = Flow(found.name, found.inputs, found.outputs, (), found.changelog, lambda lane, n, _: self.logic(lane), lambda: None)
        self._said = self._serial = 0
        self._heard = [0] * self.n_lanes
        self._asked = [0] * self.n_lanes
        self._answers: list[tuple[str, str, bytes]] = []
        self._fills: list[dict[str, Any]] = []
        self._recent: deque[tuple[str, str, bytes]] = deque(maxlen=30)
        self._legs: dict[str, tuple[dict[str, Any], dict[str, Any], Decimal]] = {}
        self._hedges: list[dict[str, Any]] = []

    def logic(self, lane: int) -> Any:
        """Return an empty lane whose market follows its clock."""
        from operators.hedge_market import HedgeMarket
        from operators.hedger import HedgerLogic

        timeline = self.timeline

        class Lane(HedgerLogic):
            """A lane that brings its market to the time it is given."""

            told = 0

            def process(self, chunk: Chunk, now_ns: int) -> list[Records]:
                self._follow(lane_time_ns(now_ns))
                return super().process(chunk, lane_time_ns(now_ns))

            def tick(self, now_ns: int) -> list[Records]:
                self._follow(lane_time_ns(now_ns))
                return super().tick(lane_time_ns(now_ns))

            def _follow(self, now_ns: int) -> None:
                if not self.told:
                    self.market = HedgeMarket(timeline.reference, timeline.rules)
                    self.market.begin()
                self.told = timeline.follow(self.market, self.told, now_ns)

        return Lane(lane, self.n_lanes, timeline.reference, None)  # type: ignore[arg-type]  # a market when it is first needed

    def again(self, logic: Any) -> None:
        """Tell the calm lane that a restored one has taken its place: nothing of the outside is known then."""
        logic.look_again()

    def changelog(self, logic: Any) -> Changelog:
        """Return the changelog inside a logic."""
        found: Changelog = logic.ledger.changelog
        return found

    def state(self, logic: Any) -> Any:
        """Return the balance, the offsets and every row of the ledger under its key."""
        rows = [
            [table.name, *sorted(dict(zip(table.dtype.names, row, strict=True)).__repr__() for row in table.rows[table.rows["live"] == 1].tolist())]
            for table in logic.ledger.changelog.tables
        ]  # fmt: skip
        return logic.counters(), logic.positions(), rows, logic.ledger.scalars.tolist()

    def partition(self, topic: str, key: bytes) -> int:
        """Return murmur2's partition."""
        return self._lane_of(key, self.n_lanes)

    # -- what is fed

    def _now_ns(self, broker: Broker) -> int:
        return lane_time_ns(EPOCH_NS + int(broker.now * 1e9))

    def _put(self, broker: Broker, topic: str, book: str, value: bytes, misplaced: bool = False) -> None:
        lane = self.partition(topic, book.encode())
        broker.append_plain((topic, 1 - lane if misplaced else lane), book.encode(), value)

    def feed(self, broker: Broker, chance: Random) -> None:
        """Write a record or two: what clients, the portfolio, the desk and the order agent say; some twice, some misplaced, some broken."""
        luck = chance.random
        self._hear(broker, chance)
        if self._answers and luck() < 0.6:
            self._put(broker, *self._answers.pop(int(luck() * min(len(self._answers), 3))), misplaced=luck() < 0.03)
        if self._said < RECORDS and luck() < 0.5:
            self._said += 1
            if self._recent and luck() < 0.12:
                topic, book, value = self._recent[int(luck() * len(self._recent))]
            else:
                topic, book, value = self._record(self._now_ns(broker), chance)
                self._recent.append((topic, book, value))
            self._put(broker, topic, book, value, misplaced=luck() < 0.05)

    def fed(self) -> bool:
        """Return whether everything was said."""
        return self._said >= RECORDS

    def _message(self, topic: str, payload: dict[str, Any], now_ns: int, sender: str, **more: Any) -> bytes:
        from tests.operators.hedger_bench import message

        self._serial += 1
        return message(topic, payload, now_ns, f"kit:{self._serial}", sender, **more)

    def _record(self, now_ns: int, chance: Random) -> tuple[str, str, bytes]:
        luck, book = chance.random, self.books[int(chance.random() ** 2 * len(self.books))]
        kind = luck()
        if kind < 0.42:
            symbol = ("SPOT", "SPOT", "OTHER", "ALT")[int(luck() * 4)]
            return FILL_TOPIC, book, self._fill(book, symbol, Decimal(int(luck() * 200) - 80), now_ns)
        if kind < 0.46 and book != self.books[-1]:
            return FILL_TOPIC, book, self._fill(book, "PERP", Decimal(int(luck() * 20) - 10), now_ns, account="DESK")
        if kind < 0.56 and self._fills:
            old = self._fills[int(luck() * len(self._fills))]
            change = (-old["size"], Decimal(1), Decimal(0), Decimal(-1))[int(luck() * 4)]
            old["size"] += change
            old["version"] += 1
            return FILL_TOPIC, old["book"], self._version(old, change, now_ns)
        if kind < 0.66:
            wanted = {"book": book, "symbol": "SPOT", "target_size": str(int(luck() * 4000) - 2000), "confidence": 1.0, "risk_score": 0.1}
            if luck() < 0.5:
                wanted["ttl_ms"] = 5000
            when = now_ns - int(luck() * 2) * 1_000_000_000
            return "portfolio.intent.allocate.v1", book, self._message("portfolio.intent.allocate.v1", wanted, when, "agent.portfolio")
        if kind < 0.76:
            word = {"book": book, "action": "RELEASE", "operator": "ann", "justification": "x", "decided_ns": now_ns}
            if luck() < 0.4:
                word["action"] = "HOLD"
            if luck() < 0.4:
                word["instrument"] = "ALT"
            if luck() < 0.3 and self._hedges:
                cover = self._hedges[int(luck() * len(self._hedges))]
                word |= {"action": "MARK_MANUAL", "hedge_id": cover["hedge_id"]}
                word["book"] = book = cover["book"] if luck() < 0.8 else book
            return "hedger.intent.desk.v1", book, self._message("hedger.intent.desk.v1", word, now_ns, "agent.desk")
        if kind < 0.82 and self._hedges:
            asked = self._hedges[0] | {"book": book, "hedge_id": "12345678-1234-5678-1234-567812345678"}
            sender = "agent.portfolio" if luck() < 0.7 else "agent.stranger"
            when = now_ns if luck() < 0.8 else now_ns - 700_000_000_000
            return "hedger.intent.cover", book, self._message("hedger.intent.cover", asked, when, sender)
        broken = (
            (FILL_TOPIC, b"{"), (FILL_TOPIC, self._fill(book, "NOPE", Decimal(1), now_ns)), ("portfolio.intent.allocate.v1", b"nothing"),
            (FILL_TOPIC, self._fill(book, "SPOT", Decimal("0.0000001"), now_ns)), ("order.event.hedge.v1", b""),
        )  # fmt: skip
        topic, value = broken[int(luck() * len(broken))]
        return topic, book, value

    def _fill(self, book: str, symbol: str, size: Decimal, now_ns: int, account: str = "ACC-1", order: str | None = None) -> bytes:
        from tests.operators.hedger_bench import uid

        self._serial += 1
        name = uid(f"fill:{self._serial}")
        fill = {
            "book": book,
            "symbol": symbol,
            "account": account,
            "fill_id": name,
            "order_id": order or uid(f"order:{name}"),
            "size": size,
        }
        fill["version"] = 1
        if symbol != "NOPE" and size == size.to_integral_value():
            self._fills.append(fill)
        return self._version(fill, size, now_ns)

    def _version(self, fill: dict[str, Any], change: Decimal, now_ns: int) -> bytes:
        absent = {"kind": "arrival", "status": "missing"}
        payload = {
            "order_id": fill["order_id"], "fill_id": fill["fill_id"], "symbol": fill["symbol"], "side": "SELL" if change < 0 else "BUY",
            "filled_size": format(abs(change) or Decimal(1), "f"), "price": "100.5", "venue": "ALPHA", "latency_ms": 1.0,
            "idempotency_key": fill["fill_id"], "book": fill["book"], "account": fill["account"], "exec_id": fill["fill_id"], "exec_ts_ns": now_ns,
            "status": "FILLED", "version": fill["version"], "signed_delta": format(change, "f"), "cum_size": "1", "leaves_size": "0",
            "avg_price": "1", "provisional": False, "benchmark": absent, "benchmark_mid": absent | {"kind": "mid"}, "slippage": {},
            "residual": {"order_size": "0", "exposure_notional": "0"},
        }  # fmt: skip
        return self._message(FILL_TOPIC, payload, now_ns, "agent.execution", correlation_id=fill["fill_id"])

    def _hear(self, broker: Broker, chance: Random) -> None:
        """Make up what the order agent and the venue will say to hedges and questions that are visible by now."""
        now_ns, luck = self._now_ns(broker), chance.random
        for lane in range(self.n_lanes):
            seen = visible(broker, "hedger.intent.cover", lane)
            for _, entry in seen[self._heard[lane] :]:
                cover = _own_cover(entry)
                if cover is None or self.partition("", cover["book"].encode()) != lane:
                    continue
                self._hedges.append(cover)
                for leg in cover["legs"]:
                    self._answer(leg, cover, now_ns, chance)
            self._heard[lane] = len(seen)
            asked = visible(broker, "hedger.request.order.v1", lane)
            for _, entry in asked[self._asked[lane] :]:
                request = json.loads(entry.value)["payload"]
                if request["order_id"] not in self._legs or luck() < 0.3:
                    continue
                leg, cover, done = self._legs[request["order_id"]]
                status = ("ACKED", "CANCELED", "EXPIRED", "UNKNOWN")[int(luck() * 4)]
                self._answers.append(self._event(leg, cover, status, done, now_ns))
            self._asked[lane] = len(asked)

    def _answer(self, leg: dict[str, Any], cover: dict[str, Any], now_ns: int, chance: Random) -> None:
        luck = chance.random
        fate, size = luck(), Decimal(leg["size"])
        sign = 1 if leg["side"] == "BUY" else -1
        done = Decimal(0)
        told = []
        if fate > 0.2:
            if luck() < 0.8:
                told.append(self._event(leg, cover, "ACKED", done, now_ns))
            parts = [size] if fate > 0.7 else [(size / 2).quantize(Decimal("0.001"))] if fate > 0.35 else []
            for part in parts:
                if part > 0:
                    done += part
                    told.append(
                        (
                            FILL_TOPIC,
                            cover["book"],
                            self._fill(cover["book"], leg["instrument"], sign * part, now_ns, "ACC-1", leg["order_id"]),
                        )
                    )
            if luck() < 0.8:
                how = "DONE" if done == size else ("CANCELED", "EXPIRED", "DONE")[int(luck() * 3)]
                told.append(self._event(leg, cover, how, done, now_ns + 1))
        elif fate > 0.08:
            told.append(self._event(leg, cover, "REJECTED", done, now_ns))
        self._legs[leg["order_id"]] = (leg, cover, done)
        if told and luck() < 0.2:
            told.append(told[int(luck() * len(told))])  # said twice
        if luck() < 0.2:
            told.reverse()
        self._answers += told

    def _event(self, leg: dict[str, Any], cover: dict[str, Any], status: str, done: Decimal, now_ns: int) -> tuple[str, str, bytes]:
        payload = {
            "hedge_id": cover["hedge_id"], "order_id": leg["order_id"], "book": cover["book"], "instrument": leg["instrument"], "status": status,
            "filled_size": format(done, "f"), "reason": None, "event_ts_ns": now_ns,
        }  # fmt: skip
        return "order.event.hedge.v1", cover["book"], self._message("order.event.hedge.v1", payload, now_ns, "agent.order")

    # -- the end

    def verdict(self, broker: Broker) -> str | None:
        """Fold the fills with plain dicts and compare every position; look at every hedge that went out."""
        covers = []
        ends: dict[str, int] = {}
        for lane in range(self.n_lanes):
            covers += [c for _, entry in visible(broker, "hedger.intent.cover", lane) if (c := _own_cover(entry)) is not None]
            for _, entry in visible(broker, "hedger.event.cover", lane):
                told = json.loads(entry.value)
                if told["payload"]["state"] in ENDED:
                    ends.setdefault(told["payload"]["hedge_id"], told["ts_ns"])
        names = Counter(cover["hedge_id"] for cover in covers)
        if names and max(names.values()) > 1:
            return f"hedges sent twice: {[name for name, n in names.items() if n > 1]}"
        last: dict[tuple[str, str], dict[str, Any]] = {}
        for cover in sorted(covers, key=lambda cover: cover["decision_ts_ns"]):
            key = cover["book"], cover["exposure_version"]
            if cover["unwind_id"] is None and key in last and ends.get(last[key]["hedge_id"], 2**63) > cover["decision_ts_ns"]:
                return f"{cover['hedge_id']} was sent while {last[key]['hedge_id']} of the same exposure was open"
            last[key] = cover
            legs = [leg["instrument"] for leg in cover["legs"]]
            if cover["unwind_id"] is None and self.timeline.stopped(cover["book"], legs, cover["decision_ts_ns"]):
                return f"{cover['hedge_id']} was sent under a HALT"
        expected = self._plain(broker, {leg["order_id"] for cover in covers for leg in cover["legs"]})
        for lane in range(self.n_lanes):
            logic = self.logic(lane)
            log = broker.logs[self.flow.changelog, lane]
            logic.restore((offset, entry.value) for offset, entry in log.committed(log.start, len(log.entries)))
            for book in self.books:
                if self.partition("", book.encode()) != lane or book not in logic._books:
                    continue
                found = {
                    (symbol, kind): row[kind]
                    for symbol, row in logic.book_state(book)["positions"].items()
                    for kind in ("exposure", "hedge")
                    if row[kind]
                }
                wanted = {(symbol, kind): size for (name, symbol, kind), size in expected.items() if name == book and size}
                if found != wanted:
                    return f"{book}: positions {found}, by the fills {wanted}"
        return None

    def _plain(self, broker: Broker, orders: set[str]) -> dict[tuple[str, str, str], Decimal]:
        """Return positions by (book, symbol, kind): fills of hedges' orders and of the desk's accounts are hedges."""
        result: dict[tuple[str, str, str], Decimal] = defaultdict(Decimal)
        seen: set[tuple[str, int]] = set()
        symbols = {instrument.symbol for instrument in self.timeline.reference.instruments}
        for lane in range(self.n_lanes):
            for _, entry in visible(broker, FILL_TOPIC, lane):
                try:
                    fill = json.loads(entry.value)["payload"]
                except ValueError:
                    continue
                size, name = Decimal(fill["signed_delta"]), (fill["fill_id"], fill["version"])
                if (
                    self.partition("", fill["book"].encode()) != lane
                    or fill["symbol"] not in symbols
                    or size != round(size, 6)
                    or name in seen
                ):
                    continue
                seen.add(name)
                desk = fill["account"] == "DESK" and fill["book"] != self.books[0]
                kind = "hedge" if fill["order_id"] in orders or desk else "exposure"
                result[fill["book"], fill["symbol"], kind] += size
        return result


FILL_TOPIC = "execution.event.fill.v1"


def _own_cover(entry: Entry) -> dict[str, Any] | None:
    """Return the payload of a hedge the hedger itself has sent."""
    message = json.loads(entry.value)
    payload: dict[str, Any] = message["payload"]
    return payload if message["sender"] == "agent.hedger" else None


KITS: dict[str, Any] = {"toy": ToyKit, "execution": ExecutionKit, "hedger": HedgerKit}
