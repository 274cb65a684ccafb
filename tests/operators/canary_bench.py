"""The canary on a bench: any number of lanes, a clock, a market as told; what lanes send to each other arrives, every record out is checked."""

from __future__ import annotations

import json
import uuid
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np

from operators.canary_lane import CanaryLogic, RegimeBoard
from operators.clusters import from_snapshot, market_of
from schemas.chunk import Chunk, join, split
from schemas.hashing import partition_of
from schemas.policy import ROWS, RiskPolicy, load_policies
from schemas.registry import CANARY_BROADCAST, CANARY_INPUTS, TOPICS
from schemas.times import rfc3339

SECOND = 1_000_000_000
NEW_YORK = ZoneInfo("America/New_York")
START_NS = int(datetime(2026, 1, 5, 11, 0, tzinfo=NEW_YORK).timestamp()) * SECOND
ACCOUNT_TOPIC, POSITION_TOPIC, ACTIVITY_TOPIC, FILL_TOPIC, HEDGE_TOPIC = CANARY_INPUTS
POLICIES = load_policies()
DEFAULT, GUARDED = "canary-default", "canary-guarded"
KEY = "sha256:" + "0" * 64


def uid(name: object) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_OID, str(name)))


def message(topic: str, payload: dict[str, Any], now_ns: int, name: object, sender: str = "agent.broker", **more: Any) -> bytes:
    identity = uid(f"{topic}:{name}")
    envelope = {
        "msg_id": identity, "type": topic, "version": "v1", "ts": rfc3339(now_ns), "ts_ns": now_ns, "ttl_ms": 600_000, "sender": sender,
        "idempotency_key": identity, "payload": payload,
    }  # fmt: skip
    return json.dumps(envelope | more).encode()


def account_state(account: str, as_of_ns: int | None, mode: str = "live", **changes: Any) -> dict[str, Any]:
    """Return an account that nothing is wrong with."""
    return {
        "account": account, "mode": mode, "base_currency": "USD", "account_type": "margin", "net_liquidation": "100000", "cushion": "0.62",
        "excess_liquidity": "62000", "available_funds": "60000", "maintenance_margin": "38000", "initial_margin": "40000",
        "look_ahead_excess_liquidity": "61000", "look_ahead_available_funds": "59000", "look_ahead_maint_margin": "38500",
        "look_ahead_init_margin": "40500", "gross_position_value": "60000", "daily_pnl": "120.5", "as_of_ns": as_of_ns,
    } | changes  # fmt: skip


def position_state(account: str, as_of_ns: int | None, mode: str = "live", **changes: Any) -> dict[str, Any]:
    """Return positions in two names."""
    exposures = [
        {"underlying": "SPY", "market_value_base": "30000", "market_value_pct_nlv": 30.0, "dollar_delta_base": "30000", "daily_pnl_base": "80"},
        {"underlying": "QQQ", "market_value_base": "20000", "market_value_pct_nlv": 20.0, "dollar_delta_base": "20000", "daily_pnl_base": "40.5"},
    ]  # fmt: skip
    stocks = [
        {"symbol": "SPY", "quantity": "50", "market_value_base": "30000"},
        {"symbol": "QQQ", "quantity": "40", "market_value_base": "20000"},
    ]
    portfolio = {"dollar_delta_base": "50000", "gamma": 0.0, "greeks_coverage": 0, "greeks_total": 0, "exposure_base": exposures}
    return {"account": account, "mode": mode, "as_of_ns": as_of_ns, "stocks": stocks, "options": [], "portfolio": portfolio} | changes


def regime_state(
    profile: str, as_of_ns: int, red: Sequence[str] = (), yellow: Sequence[str] = (), spy: float | None = 0.1, vix: float | None = -1.0, **changes: Any
) -> dict[str, Any]:  # fmt: skip
    """Return a dashboard of a profile: all rows green and fresh but those named; the composite is the one these rows have."""
    rows = []
    for name in ROWS:
        band = "red" if name in red else "yellow" if name in yellow else "green"
        envelope = {
            "gamma_zero": {"status": "ready", "result": {"quality": {"rankability": "rankable"}}},
            "breadth": {"state": "ready"},
        }.get(name)
        rows.append({
            "row": name, "band": band, "status": "ok", "as_of_ns": as_of_ns, "freshness_class": "fresh", "envelope": envelope,
            "eligibility": "eligible" if band == "red" else None,
        })  # fmt: skip
    snapshot = {row["row"]: row for row in rows} | {"as_of": rfc3339(as_of_ns)}
    view = market_of(from_snapshot(snapshot), POLICIES[profile], as_of_ns)
    lifecycle = view.lifecycle | {"governors": []}
    return {
        "profile": profile, "policy_version": "1", "policy_fingerprint": KEY, "as_of_ns": as_of_ns, "rows": rows, "spy_change_pct": spy,
        "vix_change_pct": vix, "composite": view.composite, "lifecycle": lifecycle, "confidence": "high", "source_health": [],
        "fingerprint": {"version": "regime-fp-v1", "key": KEY},
    } | changes  # fmt: skip


def lane_of(key: str, lanes: int) -> int:
    data = np.frombuffer(key.encode(), np.uint8)
    return int(partition_of(data, 0, len(data), lanes))


class Bench:
    """Some lanes and one board. `alerts` holds every alert published, in order; `logs` the changelog of each lane."""

    def __init__(self, lanes: int = 1, profiles: Sequence[str] = (DEFAULT,), policies: dict[str, RiskPolicy] | None = None) -> None:
        found = POLICIES if policies is None else policies
        self.policies = {profile: found[profile] for profile in profiles}
        self.now_ns = START_NS
        self.board = RegimeBoard(self.policies)
        self.lanes = [CanaryLogic(lane, lanes, self.board) for lane in range(lanes)]
        self.logs: list[list[tuple[int, bytes]]] = [[] for _ in self.lanes]
        self.values: dict[str, list[bytes]] = defaultdict(list)
        self._offsets: dict[tuple[str, int], int] = defaultdict(int)
        self._sent: list[tuple[str, int, bytes, bytes]] = []
        self.serial = 0
        self.dashboards: list[bytes] = []

    # ---- what comes in

    def market(self, profile: str | None = None, as_of_ns: int | None = None, **changes: Any) -> None:
        """Broadcast a dashboard, to every profile or to one."""
        at = self.now_ns if as_of_ns is None else as_of_ns
        for one in self.policies if profile is None else (profile,):
            self.serial += 1
            value = message(CANARY_BROADCAST[0], regime_state(one, at, **changes), at, self.serial, "agent.regime")
            self.dashboards.append(value)
            for board in {id(lane.board): lane.board for lane in self.lanes}.values():
                board.apply(self._chunk(CANARY_BROADCAST[0], 0, [(b"regime", value)]))

    def account(self, account: str, as_of_ns: int | None = None, name: object = None, **changes: Any) -> bytes:
        self.serial += 1
        payload = account_state(account, self.now_ns if as_of_ns is None else as_of_ns, **changes)
        return message(ACCOUNT_TOPIC, payload, self.now_ns, self.serial if name is None else name)

    def positions(self, account: str, as_of_ns: int | None = None, name: object = None, **changes: Any) -> bytes:
        self.serial += 1
        payload = position_state(account, self.now_ns if as_of_ns is None else as_of_ns, **changes)
        return message(POSITION_TOPIC, payload, self.now_ns, self.serial if name is None else name)

    def fill(self, account: str, book: str, size: str = "10", price: str = "100", name: object = None, version: int = 1, exec_ns: int | None = None,
             slippage_bps: float | None = 2.0, side: str | None = None) -> bytes:  # fmt: skip
        self.serial += 1
        fill = uid(f"fill:{self.serial if name is None else name}")
        absent = {"kind": "arrival", "status": "missing"}
        payload = {
            "order_id": fill, "fill_id": fill, "symbol": "SPOT", "side": side or ("SELL" if size.startswith("-") else "BUY"),
            "filled_size": size.lstrip("-"), "price": price, "venue": "ALPHA", "latency_ms": 1.0, "idempotency_key": fill, "book": book,
            "account": account, "exec_id": fill, "exec_ts_ns": self.now_ns if exec_ns is None else exec_ns, "status": "FILLED", "version": version,
            "signed_delta": size, "cum_size": "1", "leaves_size": "0", "avg_price": "1", "provisional": False, "slippage_bps": slippage_bps,
            "benchmark": absent, "benchmark_mid": absent | {"kind": "mid"}, "slippage": {}, "residual": {"order_size": "0", "exposure_notional": "0"},
        }  # fmt: skip
        return message(FILL_TOPIC, payload, self.now_ns, f"{fill}:{version}", "agent.execution", correlation_id=fill)

    def hedge(self, book: str, coverage: float | None, ts_ns: int | None = None, sender: str = "agent.hedger") -> bytes:
        self.serial += 1
        payload = {"hedge_id": uid(self.serial), "book": book, "state": "SENT", "legs": [], "coverage": coverage}
        return message(HEDGE_TOPIC, payload, self.now_ns if ts_ns is None else ts_ns, self.serial, sender)

    # ---- the lanes

    def _chunk(self, topic: str, lane: int, records: Sequence[tuple[bytes, bytes]]) -> Chunk:
        data, bounds = join([value for _, value in records])
        keys, key_bounds = join([key for key, _ in records])
        first = self._offsets[topic, lane]
        self._offsets[topic, lane] += len(records)
        return Chunk(topic, lane, data, bounds, np.arange(first, first + len(records)), keys, key_bounds, self.now_ns)

    def feed(self, topic: str, *values: bytes, lane: int | None = None) -> None:
        """Let records come in, each on the partition of its key (or all on `lane`), and what they make lanes send to each other too."""
        by_lane: dict[int, list[tuple[bytes, bytes]]] = defaultdict(list)
        for value in values:
            key = key_of(topic, value)
            by_lane[lane_of(key, len(self.lanes)) if lane is None else lane].append((key.encode(), value))
        for number, records in by_lane.items():
            self._take(self.lanes[number].process(self._chunk(topic, number, records), self.now_ns))
        sent, self._sent = self._sent, []
        for one, number, key_bytes, value in sent:
            self._take(self.lanes[number].process(self._chunk(one, number, [(key_bytes, value)]), self.now_ns))
        assert not self._sent

    def tick(self, passed_s: float = 0.0) -> None:
        """Let time pass, and every lane commit."""
        self.now_ns += int(passed_s * SECOND)
        for number, lane in enumerate(self.lanes):
            self._take(lane.tick(self.now_ns))
            if lane.dirty():
                capture = lane.capture()
                log = self.logs[number]
                first = len(log)
                log += [(first + i, value) for i, value in enumerate(capture.values)]
                lane.committed(capture.seq, first)
            assert lane.counters()["balance_mismatch"] == 0

    def _take(self, records: list[Any]) -> None:
        for one in records:
            model = TOPICS[one.topic].model
            for key, value in zip(split(one.keys, one.key_bounds), split(one.data, one.bounds), strict=True):
                self.values[one.topic].append(value)
                if one.topic in CANARY_INPUTS:
                    self._sent.append((one.topic, lane_of(key.decode(), len(self.lanes)), key, value))
                else:
                    assert model is not None
                    model.model_validate_json(value)

    def restart(self, lane: int = 0, board: bool = False) -> None:
        """Replace a lane by one restored from what was captured; with `board`, on another worker, which has read the dashboards from their beginning."""
        old = self.lanes[lane]
        again = old.board
        if board:
            again = RegimeBoard(self.policies)
            for value in self.dashboards:
                again.apply(self._chunk(CANARY_BROADCAST[0], 0, [(b"regime", value)]))
        new = CanaryLogic(lane, len(self.lanes), again)
        new.restore(self.logs[lane])
        assert state_of(new) == state_of(old)
        self.lanes[lane] = new

    # ---- what came out

    @property
    def alerts(self) -> list[dict[str, Any]]:
        return [json.loads(value)["payload"] for value in self.values["canary.alert.v1"]]

    @property
    def dead(self) -> list[str]:
        return [json.loads(value)["payload"]["reason"] for value in self.values["dlq.canary"]]

    def said(self) -> list[tuple[str, str, int, str]]:
        """Return (account, reason, seq, severity) of every alert."""
        return [(a["account"], a["reason"], a["seq"], a["result"]["severity"]) for a in self.alerts]

    def total(self, name: str) -> int:
        return sum(lane.counters().get(name, 0) for lane in self.lanes)


def state_of(lane: CanaryLogic) -> dict[str, bytes]:
    """Return the whole state of a lane as bytes: equal for equal histories."""
    return {name: table.rows.tobytes() for name, table in lane.ledger.tables.items()} | {"scalars": lane.ledger.scalars.tobytes()}


def key_of(topic: str, value: bytes) -> str:
    """Return the key a record is sent under."""
    try:
        payload = json.loads(value)["payload"]
        return str(payload["book" if topic in (FILL_TOPIC, HEDGE_TOPIC) else "account"])
    except (ValueError, KeyError, TypeError):
        return "?"
