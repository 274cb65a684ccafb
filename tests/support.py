"""What the tests of the execution flow share: messages, reference data, and one harness over the oracle and the real logic.

No rules live here: a harness only feeds records and answers what came of them, in the same words whichever implementation is inside.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Protocol
from uuid import UUID

from bench.oracle import ACK, ALIAS, HOLD, REPORT, ROUTE, FillVersion, LaneOracle, alias_record, lane_of
from schemas.chunk import Chunk, Records, join, split
from schemas.reference import Instrument, Reference, VenueRules
from schemas.registry import TOPICS

FILL, AUDIT, DLQ, ALERT, HALT = (
    "execution.event.fill.v1", "audit.event.execution", "dlq.execution", "compliance.event.alert.v1", "execution.request.halt.v1",
)  # fmt: skip
SECOND = 1_000_000_000
DAY = 86_400 * SECOND
T0 = 1_767_614_400 * SECOND
"""2026-01-05T12:00:00Z, a Monday: when every test history begins."""

REFERENCE = Reference(
    venues=[
        VenueRules(name="ALPHA", accounts=["ACC-1", "ACC-2"]),
        VenueRules(name="BRAVO", key="VAIEO", dated_key=False),
        VenueRules(name="CHARLIE", ref_style="ROOT", dedup_horizon_days=35),
        VenueRules(name="DELTA", carries_client_order_id=False),
        VenueRules(name="ECHO", overfill_policy="apply"),
    ],
    instruments=[
        Instrument(symbol="ACME", px_scale=4, qty_scale=0, quote="USD"),
        Instrument(symbol="BTC-USD", px_scale=2, qty_scale=6, base="BTC", quote="USD"),
        Instrument(symbol="ESZ6", px_scale=2, qty_scale=0, multiplier=50, quote="USD"),
    ],
)

CONFLICTS = frozenset(
    ("exec_conflict", "chain_fork", "chain_cycle", "chain_dead", "ref_cross_order", "ref_not_trade", "correlation_conflict", "conflict")
)


def correlation(n: int) -> str:
    """Return a correlation id made of a number."""
    return f"{n:08x}-0000-4000-8000-{n:012x}"


def client_id(correlation_id: str, leg: str = "") -> str:
    """Return our client order id for a correlation and a leg."""
    return correlation_id.replace("-", "") + (f"-{leg}" if leg else "")


def trade_date(ts_ns: int) -> int:
    """Return the UTC date of a time as yyyymmdd."""
    return int(datetime.fromtimestamp(ts_ns // SECOND, UTC).strftime("%Y%m%d"))


_RAW = base64.b64encode(b"8=FIX.4.2").decode()


def message(topic: str, payload: dict[str, Any], correlation_id: str | None, ts_ns: int, **envelope: Any) -> bytes:
    """Return an enveloped message; payload fields that are None are left out. Its msg_id is a function of its content."""
    body = json.dumps({name: value for name, value in payload.items() if value is not None}, separators=(",", ":"))
    identity = str(UUID(bytes=hashlib.md5(f"{topic}{correlation_id}{body}".encode(), usedforsecurity=False).digest()))
    head = {
        "msg_id": identity, "type": topic, "version": "v1", "ts": "2026-01-05T12:00:00.000Z", "ts_ns": ts_ns, "ttl_ms": 600_000,
        "correlation_id": correlation_id, "sender": "agent.test", "idempotency_key": identity,
    }  # fmt: skip
    return (json.dumps({**head, **envelope}, separators=(",", ":"))[:-1] + f',"payload":{body}}}').encode()


def report(kind: str, correlation_id: str | None, ts_ns: int, **fields: Any) -> bytes:
    """Return a venue report: ALPHA, ACC-1, ACME, BUY (executions only) unless said otherwise."""
    payload = {
        "source": "FIX_DROP_COPY", "venue": "ALPHA", "account": "ACC-1", "instrument": "ACME", "kind": kind,
        "trade_date": trade_date(ts_ns), "side": "BUY" if kind in ("TRADE", "CORRECT", "BUST") else None, "event_ts_ns": ts_ns,
        "recv_ts_ns": ts_ns + 5_000_000, "raw": _RAW, "dialect": "test@1",
    }  # fmt: skip
    return message(REPORT, {**payload, **fields}, correlation_id, ts_ns)


def route(correlation_id: str, size: str = "10000", ts_ns: int = T0 - SECOND, **fields: Any) -> bytes:
    """Return a route intent: BUY ACME for ACC-1 in BOOK-1, DAY, unless said otherwise."""
    payload = {
        "order_id": correlation_id, "symbol": "ACME", "side": "BUY", "size": size, "time_in_force": "DAY",
        "routing_plan": [{"venue": "ALPHA", "weight": 1.0}], "book": "BOOK-1", "account": "ACC-1", "decision_ts_ns": ts_ns,
    }  # fmt: skip
    return message(ROUTE, {**payload, **fields}, correlation_id, ts_ns)


def ack(correlation_id: str, size: str = "10000", ts_ns: int = T0, **fields: Any) -> bytes:
    """Return an acknowledgement: ACKED by ALPHA unless said otherwise."""
    payload = {
        "order_id": correlation_id, "venue": "ALPHA", "client_order_id": client_id(correlation_id), "status": "ACKED", "size": size,
        "ack_ts_ns": ts_ns,
    }  # fmt: skip
    return message(ACK, {**payload, **fields}, correlation_id, ts_ns)


def decision(correlation_id: str, action: str, ts_ns: int = T0) -> bytes:
    """Return an operator's decision on a held order."""
    payload = {"action": action, "operator": "op", "justification": "seen", "decided_ns": ts_ns}
    return message(HOLD, payload, correlation_id, ts_ns)


def alias(correlation_id: str, venue: str, venue_order_id: str, ts_ns: int = T0) -> bytes:
    """Return a record that tells an alias."""
    payload = {"venue": venue, "venue_order_id": venue_order_id, "order_id": correlation_id}
    return message(ALIAS, payload, correlation_id, ts_ns, sender="agent.execution")


def key_of(topic: str, value: bytes) -> bytes:
    """Return the key a producer would give a message; empty for what cannot be read."""
    try:
        found = json.loads(value)
        payload = found["payload"]
        if topic == ALIAS or (topic == REPORT and not found.get("correlation_id")):
            return f"{payload['venue']}|{payload.get('venue_order_id') or ''}".encode()
        return str(found["correlation_id"]).encode()
    except (ValueError, KeyError, TypeError, RecursionError):
        return b""


def chunk_of(topic: str, lane: int, records: list[tuple[int, bytes, bytes]], now_ns: int) -> Chunk:
    """Return a chunk of (offset, key, value) records."""
    import numpy as np

    data, bounds = join([value for _, _, value in records])
    keys, key_bounds = join([key for _, key, _ in records])
    return Chunk(topic, lane, data, bounds, np.array([offset for offset, _, _ in records], np.int64), keys, key_bounds, now_ns)


Fill = dict[str, Any]
"""One published version as a harness shows it: the fields of the fill, numbers as Decimals, `fill` in place of the fill id."""


class Harness(Protocol):
    """Feeds one lane and tells what came of it. `send` returns the record's offset in its topic."""

    now_ns: int
    fills: list[Fill]
    dead: list[tuple[frozenset[str], str, int]]
    alerts: list[tuple[str, str, str]]
    reroutes: list[tuple[str, bytes, bytes]]
    aliases: list[tuple[str, str, str]]
    internal: list[tuple[str, bytes, bytes]]

    def send(self, topic: str, value: bytes, key: bytes | None = None, now_ns: int | None = None) -> int: ...

    def advance(self, seconds: float) -> None: ...

    def fork(self) -> Harness: ...

    def order_state(self, correlation_id: str) -> list[dict[str, Any]]: ...

    def balance(self) -> dict[str, int]: ...

    def notes(self) -> Counter[str]: ...


def shown_holds(held: list[str]) -> list[str]:
    """Return the hold reasons as the tests speak of them: every conflict is `conflict`, its code is on the alert and the dead letter."""
    return sorted({"conflict" if name in CONFLICTS else name for name in held})


class _Base:
    def __init__(self, reference: Reference = REFERENCE, lane: int = 0, n_lanes: int = 1) -> None:
        self.reference, self.lane, self.n_lanes = reference, lane, n_lanes
        self.now_ns = T0
        self.offsets: Counter[str] = Counter()
        self.names: dict[str, str] = {}
        self.log: list[tuple[Any, ...]] = []

    def send(self, topic: str, value: bytes, key: bytes | None = None, now_ns: int | None = None) -> int:
        """Feed one record; the lane's clock moves to `now_ns`, by default to 10 ms after anything the record says happened."""
        key = key_of(topic, value) if key is None else key
        if now_ns is None:
            now_ns = max(self.now_ns, _latest(value) + 10_000_000)
        self.now_ns = now_ns
        offset = self.offsets[topic]
        self.offsets[topic] += 1
        self.log.append((topic, value, key, now_ns))
        self._feed(topic, offset, key, value, now_ns)
        return offset

    def advance(self, seconds: float) -> None:
        """Move the clock on and let the lane's clocks act."""
        self.now_ns += int(seconds * SECOND)
        self.log.append((seconds,))
        self._tick(self.now_ns)

    def fork(self) -> Any:
        """Return a harness that has seen the same and goes its own way from here."""
        other = type(self)(self.reference, self.lane, self.n_lanes)
        for entry in self.log:
            if len(entry) == 1:
                other.advance(entry[0])
            else:
                other.send(entry[0], entry[1], entry[2], entry[3])
        return other

    def name(self, fill_id: str, version: int, *words: object) -> str:
        """Return what a fill is called here: its first execution, the same words for both implementations."""
        if version == 1:
            name = "|".join(map(str, words))
            assert fill_id not in self.names, f"version 1 of {name} twice"
            assert name not in self.names.values(), f"two fill ids for {name}"
            self.names[fill_id] = name
        return self.names[fill_id]

    def _feed(self, topic: str, offset: int, key: bytes, value: bytes, now_ns: int) -> None:
        raise NotImplementedError

    def _tick(self, now_ns: int) -> None:
        raise NotImplementedError


def _latest(value: bytes) -> int:
    try:
        payload = json.loads(value)["payload"]
        times = [payload.get(name) for name in ("recv_ts_ns", "ack_ts_ns", "decision_ts_ns", "decided_ns")]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return 0
    return max((t for t in times if type(t) is int and t < T0 + 400 * DAY), default=0)


class OracleHarness(_Base):
    """The oracle behind the common interface."""

    def __init__(self, reference: Reference = REFERENCE, lane: int = 0, n_lanes: int = 1) -> None:
        super().__init__(reference, lane, n_lanes)
        self.oracle = LaneOracle(lane, n_lanes, reference)
        self.fills: list[Fill] = []
        self.internal: list[tuple[str, bytes, bytes]] = []
        self._told = [0, 0]

    @property
    def dead(self) -> list[tuple[frozenset[str], str, int]]:
        """Return (reasons that would be right, topic, offset) of every dead letter."""
        return [(letter.reasons, letter.topic, letter.offset) for letter in self.oracle.dead]

    @property
    def alerts(self) -> list[tuple[str, str, str]]:
        """Return (rule, severity, order_id) of every alert."""
        return self.oracle.alerts

    @property
    def reroutes(self) -> list[tuple[str, bytes, bytes]]:
        """Return (topic, key, value) of every record passed on to another lane."""
        return self.oracle.reroutes

    @property
    def aliases(self) -> list[tuple[str, str, str]]:
        """Return (venue, venue_order_id, correlation) of every alias told."""
        return self.oracle.aliases

    def order_state(self, correlation_id: str) -> list[dict[str, Any]]:
        """Return the states of the correlation's venue orders."""
        return [{**state, "held": shown_holds(state["held"])} for state in self.oracle.order_state(correlation_id)]

    def balance(self) -> dict[str, int]:
        """Return the balance."""
        return self.oracle.balance()

    def notes(self) -> Counter[str]:
        """Return the audit remarks by reason."""
        return Counter(reason for reason, _ in self.oracle.notes)

    def _feed(self, topic: str, offset: int, key: bytes, value: bytes, now_ns: int) -> None:
        self.oracle.feed(topic, offset, key, value, now_ns)
        self._collect()

    def _tick(self, now_ns: int) -> None:
        self.oracle.advance(now_ns)
        self._collect()

    def _collect(self) -> None:
        for fill in self.oracle.fills[len(self.fills) :]:
            self.fills.append(self._show(fill))
        self.internal += self.oracle.reroutes[self._told[0] :]
        self.internal += [(ALIAS, *alias_record(*told, self.now_ns)) for told in self.oracle.aliases[self._told[1] :]]
        self._told = [len(self.oracle.reroutes), len(self.oracle.aliases)]

    def _show(self, f: FillVersion) -> Fill:
        return {
            "fill": self.name(f.fill_id, f.version, f.venue, f.account, f.symbol, f.exec_id, f.exec_ts_ns, f.correlation_id),
            "version": f.version, "status": f.status, "signed_delta": f.signed_delta, "filled_size": f.filled_size, "price": f.price,
            "cum_size": f.cum_size, "leaves_size": f.leaves_size, "avg_price": f.avg_price, "correlation_id": f.correlation_id,
            "order_id": f.order_id, "symbol": f.symbol, "side": f.side, "venue": f.venue, "account": f.account, "book": f.book,
            "exec_id": f.exec_id, "provisional": f.provisional, "commission": f.commission, "commission_ccy": f.commission_ccy,
            "liquidity_flag": f.liquidity if f.liquidity in ("MAKER", "TAKER") else None, "residual_size": f.residual_size,
            "residual_notional": f.residual_notional, "latency_ms": float(f.latency_ms) if f.version == 1 else None,
        }  # fmt: skip


class LogicHarness(_Base):
    """The real lane logic behind the common interface; every output is checked against its model."""

    def __init__(self, reference: Reference = REFERENCE, lane: int = 0, n_lanes: int = 1) -> None:
        from operators.execution import ExecutionLogic

        super().__init__(reference, lane, n_lanes)
        self.logic = ExecutionLogic(lane, n_lanes, reference)
        self.fills: list[Fill] = []
        self.dead: list[tuple[frozenset[str], str, int]] = []
        self.alerts: list[tuple[str, str, str]] = []
        self.reroutes: list[tuple[str, bytes, bytes]] = []
        self.aliases: list[tuple[str, str, str]] = []
        self.audits: list[dict[str, Any]] = []
        self.halts: list[dict[str, Any]] = []
        self.audit_bytes: list[bytes] = []
        self.internal: list[tuple[str, bytes, bytes]] = []

    def order_state(self, correlation_id: str) -> list[dict[str, Any]]:
        """Return the states of the correlation's venue orders."""
        names = ("venue", "order_qty", "cum", "leaves", "avg_price", "status", "day_order_qty", "day_cum", "held", "gap")
        found = self.logic.order_state(correlation_id)
        return [{name: shown_holds(state[name]) if name == "held" else state[name] for name in names} for state in found]

    def balance(self) -> dict[str, int]:
        """Return the balance."""
        counters = self.logic.counters()
        return {name: counters[name] for name in ("received", "published", "duplicate", "pending", "dlq", "rerouted")}

    def notes(self) -> Counter[str]:
        """Return the audit remarks by reason."""
        return Counter(audit["reason"] for audit in self.audits)

    def commit(self) -> list[bytes]:
        """Capture as the runtime does at a commit; return the changelog's values."""
        self._take(self.logic.tick(self.now_ns))
        return list(self.logic.capture().values)

    def _feed(self, topic: str, offset: int, key: bytes, value: bytes, now_ns: int) -> None:
        self._take(self.logic.process(chunk_of(topic, self.lane, [(offset, key, value)], now_ns), now_ns))

    def _tick(self, now_ns: int) -> None:
        # the runtime ticks many times a second: a clock with several levels may take one level a tick
        for _ in range(3):
            self._take(self.logic.tick(now_ns))

    def _take(self, batches: list[Records]) -> None:
        for batch in batches:
            keys = split(batch.keys, batch.key_bounds)
            for key, value in zip(keys, split(batch.data, batch.bounds), strict=True):
                self._record(batch.topic, key, value)

    def _record(self, topic: str, key: bytes, value: bytes) -> None:
        if topic in (REPORT, ROUTE, ACK, HOLD) or (topic == ALIAS and self.log[-1][1:2] == (value,)):
            self.reroutes.append((topic, key, value))
            self.internal.append((topic, key, value))
            return
        model = TOPICS[topic].model
        assert model is not None
        model.model_validate_json(value)
        found = json.loads(value)
        payload = found["payload"]
        if topic == FILL:
            self.fills.append(self._show(found["correlation_id"], payload))
        elif topic == DLQ:
            source = payload["source"]
            self.dead.append((frozenset((payload["reason"],)), source["topic"], source["offset"]))
        elif topic == ALERT:
            self.alerts.append((payload["rule_id"], payload["severity"], payload["order_id"]))
        elif topic == ALIAS:
            self.aliases.append((payload["venue"], payload["venue_order_id"], found["correlation_id"]))
            self.internal.append((topic, key, value))
        elif topic == AUDIT:
            self.audits.append(payload)
            self.audit_bytes.append(value)
        else:
            assert topic == HALT
            self.halts.append(payload)

    def _show(self, correlation_id: str, p: dict[str, Any]) -> Fill:
        numbers = ("signed_delta", "filled_size", "price", "cum_size", "leaves_size", "avg_price")
        texts = ("order_id", "symbol", "side", "venue", "account", "book", "exec_id", "provisional")
        commission = p.get("commission")
        return {
            "fill": self.name(
                p["fill_id"], p["version"], p["venue"], p["account"], p["symbol"], p["exec_id"], p["exec_ts_ns"], correlation_id
            ),
            "version": p["version"], "status": p["status"], **{name: Decimal(p[name]) for name in numbers},
            "correlation_id": correlation_id, **{name: p[name] for name in texts},
            "commission": None if commission is None else Decimal(commission), "commission_ccy": p.get("commission_ccy"),
            "liquidity_flag": p.get("liquidity_flag"), "residual_size": Decimal(p["residual"]["order_size"]),
            "residual_notional": Decimal(p["residual"]["exposure_notional"]),
            "latency_ms": p["latency_ms"] if p["version"] == 1 else None,
        }  # fmt: skip


class Cluster:
    """All lanes of one implementation; what a lane sends to an input topic is fed to the lane its key belongs to, at once."""

    def __init__(self, make: Callable[..., Harness], n_lanes: int, reference: Reference = REFERENCE) -> None:
        self.lanes = [make(reference, lane, n_lanes) for lane in range(n_lanes)]
        self.now_ns = T0
        self._fed = [0] * n_lanes

    def send(self, topic: str, value: bytes, lane: int | None = None, now_ns: int | None = None) -> None:
        """Feed a record to the lane of its key, or to the wrong one named."""
        key = key_of(topic, value)
        self.now_ns = max(self.now_ns, _latest(value) + 10_000_000) if now_ns is None else now_ns
        self.lanes[lane_of(key, len(self.lanes)) if lane is None else lane].send(topic, value, key, self.now_ns)
        moved = True
        while moved:
            moved = False
            for n, harness in enumerate(self.lanes):
                while self._fed[n] < len(harness.internal):
                    record = harness.internal[self._fed[n]]
                    self._fed[n] += 1
                    moved = True
                    assert self._fed[n] < 1000, f"records go round and round: {record}"
                    self.lanes[lane_of(record[1], len(self.lanes))].send(record[0], record[2], record[1], self.now_ns)

    def order_state(self, correlation_id: str) -> list[dict[str, Any]]:
        """Return the states of a correlation's venue orders."""
        return self.lanes[lane_of(correlation_id, len(self.lanes))].order_state(correlation_id)

    def fills(self) -> list[Fill]:
        """Return every published version of every lane."""
        return [fill for harness in self.lanes for fill in harness.fills]

    def balance(self) -> Counter[str]:
        """Return the balance over all lanes."""
        total: Counter[str] = Counter()
        for harness in self.lanes:
            total.update(harness.balance())
        return total


def last_versions(harness: Harness) -> dict[str, Fill]:
    """Return the last version of every fill."""
    return {fill["fill"]: fill for fill in harness.fills}


def positions(harness: Harness) -> dict[tuple[str, str], Decimal]:
    """Return the sum of every published signed_delta per (account, symbol), zeros left out."""
    found: dict[tuple[str, str], Decimal] = {}
    for fill in harness.fills:
        name = (fill["account"], fill["symbol"])
        found[name] = found.get(name, Decimal(0)) + fill["signed_delta"]
    return {name: value for name, value in found.items() if value}
