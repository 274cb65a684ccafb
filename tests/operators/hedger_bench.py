"""A hedger's lane on a bench: messages by the handful, a market that moves as told, every record that comes out checked against its model."""

from __future__ import annotations

import json
import uuid
from collections import defaultdict
from decimal import Decimal
from typing import Any

import numpy as np

from operators.book_frame import HedgeRules
from operators.hedge_life import LifeRules
from operators.hedge_market import HedgeMarket, MarketRules
from operators.hedger import HedgerLogic
from schemas.chunk import Chunk, join, split
from schemas.reference import Reference
from schemas.registry import HEDGER_INPUTS, TOPICS
from schemas.times import rfc3339

SECOND = 1_000_000_000
START_NS = 1_767_614_400 * SECOND
BOOK = "alpha"

REFERENCE = Reference.model_validate(
    {
        "venues": [{"name": "ALPHA"}, {"name": "BRAVO"}],
        "instruments": [
            {"symbol": symbol, "px_scale": 4, "qty_scale": 6, "base": base, "quote": "USD"}
            for symbol, base in (("SPOT", "SPT"), ("PERP", "SPT"), ("ALT", "ALT"), ("OTHER", "OTH"))
        ],
    }
)
"""SPOT and PERP move as one, ALT by 0.8 of it, OTHER by itself."""


def uid(name: object) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_OID, str(name)))


def message(topic: str, payload: dict[str, Any], now_ns: int, name: object, sender: str = "agent.test", **more: Any) -> bytes:
    identity = uid(f"{topic}:{name}")
    envelope = {
        "msg_id": identity, "type": topic, "version": "v1", "ts": rfc3339(now_ns), "ts_ns": now_ns, "ttl_ms": 600_000, "sender": sender,
        "idempotency_key": identity, "payload": payload,
    }  # fmt: skip
    return json.dumps(envelope | more).encode()


def universe(book: str = BOOK, **changes: Any) -> dict[str, Any]:
    common = {
        "venue": "ALPHA",
        "currency": "USD",
        "lot": "0.001",
        "min_notional": 0.0,
        "margin_rate": 0.05,
        "cost_bps": 0.5,
        "adv_notional": 1e9,
    }
    instruments = [
        {"symbol": "PERP", "underlying": "SPT", **common},
        {"symbol": "ALT", "underlying": "ALT", **common, "cost_bps": 1.0},
    ]
    return {
        "book": book, "base_currency": "USD", "instruments": instruments,
        "exposures": [{"symbol": "SPOT", "currency": "USD", "underlying": "SPT"}], "reference_notional": 10_000.0,
    } | changes  # fmt: skip


class Bench:
    """One lane, one market. `out` holds every payload published by topic; `now_ns` is the clock."""

    def __init__(
        self, rules: HedgeRules | None = None, times: LifeRules | None = None, bars: int = 60, seed: int = 1, **universe_changes: Any
    ) -> None:
        self.rules, self.times = rules, times or LifeRules(interval_ns=150_000_000)  # steps of tests are 200 ms
        self.now_ns = START_NS
        self.market = HedgeMarket(REFERENCE, MarketRules())
        self.mids = np.array([100.0, 100.1, 50.0, 20.0])
        self._random = np.random.default_rng(seed)
        self._offsets: dict[str, int] = defaultdict(int)
        self.out: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.values: dict[str, list[bytes]] = defaultdict(list)
        self.log: list[tuple[int, bytes]] = []
        self.serial = 0
        self.market.begin()
        self.say("hedge.state.universe.v1", universe(**universe_changes))
        self.policy()
        self.lane = self.new_lane()
        for _ in range(bars):
            self.bar()

    def new_lane(self) -> HedgerLogic:
        return HedgerLogic(0, 1, REFERENCE, self.market, self.rules, self.times, "hedger-0")

    # ---- the outside

    def say(self, topic: str, payload: dict[str, Any], sender: str = "agent.test", name: object = None) -> None:
        """Broadcast one message."""
        self.serial += 1
        value = message(topic, payload, self.now_ns, self.serial if name is None else name, sender)
        self.market.apply(self._chunk(topic, [value]))

    def policy(self, **changes: Any) -> None:
        self.say("policy.state.guard.v1", {"policy_hash": "0123456789abcdef", "fallback_strategy": "synthetic_future"} | changes)

    def risk(self, **changes: Any) -> None:
        state = {
            "book": BOOK, "portfolio_var": 0.0, "daily_drawdown_pct": 0.0, "treasury_utilisation": 0.1, "volatility": 0.1, "risk_level": "LOW",
            "limits": [{"instrument": "PERP", "max_notional": 1e6, "headroom_notional": 1e6}, {"instrument": "ALT", "max_notional": 1e6, "headroom_notional": 1e6}],
            "max_capital": 1e6, "headroom_capital": 1e6,
        }  # fmt: skip
        self.say("risk.state.context.v1", state | changes)

    def quote(self, spread_bps: float = 1.0, size: float = 1e4, only: tuple[str, ...] = ("SPOT", "PERP", "ALT", "OTHER")) -> None:
        values = []
        for instrument, mid in zip(REFERENCE.instruments, self.mids, strict=True):
            if instrument.symbol in only:
                bid, ask = round(mid * (1 - spread_bps / 2e4), 4), round(mid * (1 + spread_bps / 2e4), 4)
                self.serial += 1
                payload = {
                    "symbol": instrument.symbol, "bid": str(bid), "ask": str(max(ask, bid + 1e-4)), "bid_size": str(size), "ask_size": str(size),
                    "event_ts_ns": self.now_ns, "snapshot_id": uid(self.serial), "confidence": 1.0,
                }  # fmt: skip
                values.append(message("marketdata.snapshot.v1", payload, self.now_ns, self.serial))
        self.market.apply(self._chunk("marketdata.snapshot.v1", values))

    def bar(self, volatility: float = 1e-4) -> None:
        """Let five seconds pass, in which prices move and the risk agent speaks."""
        for step in range(5):
            self.now_ns += SECOND
            common, noise = self._random.normal(0, volatility), self._random.normal(0, volatility, 4)
            self.mids *= np.exp([common, common + noise[1] * 0.02, 0.8 * common + noise[2] * 0.3, noise[3]])
            self.quote()
            if step == 4:
                self.risk()
        self.tick()

    # ---- the lane

    def _chunk(self, topic: str, values: list[bytes], key: bytes = BOOK.encode()) -> Chunk:
        data, bounds = join(values)
        keys, key_bounds = join([key] * len(values))
        first = self._offsets[topic]
        self._offsets[topic] += len(values)
        return Chunk(topic, 0, data, bounds, np.arange(first, first + len(values)), keys, key_bounds, self.now_ns)

    def feed(self, topic: str, *values: bytes) -> None:
        self._take(self.lane.process(self._chunk(topic, list(values)), self.now_ns))

    def tick(self, passed_s: float = 0.0) -> None:
        self.now_ns += int(passed_s * SECOND)
        self._take(self.lane.tick(self.now_ns))
        if self.lane.dirty():
            capture = self.lane.capture()
            first = len(self.log)
            self.log += [(first + i, value) for i, value in enumerate(capture.values)]
            self.lane.committed(capture.seq, first)
        assert self.lane.counters()["balance_mismatch"] == 0

    def _take(self, records: list[Any]) -> None:
        for one in records:
            model = TOPICS[one.topic].model
            for value in split(one.data, one.bounds):
                if one.topic not in HEDGER_INPUTS or one.topic == "hedger.intent.cover":
                    assert model is not None
                    model.model_validate_json(value)
                self.values[one.topic].append(value)
                self.out[one.topic].append(json.loads(value)["payload"])

    def restart(self) -> None:
        """Replace the lane by one restored from what was captured."""
        old = self.lane.counters()
        self.lane = self.new_lane()
        self.lane.restore(self.log)
        assert dict(self.lane.counters().items()) == old

    def fill(self, size: str, symbol: str = "SPOT", name: object = None, order: str | None = None, version: int = 1, price: float | None = None,
             book: str = BOOK, account: str = "ACC-1") -> bytes:  # fmt: skip
        """Return a fill that changes the position by `size`."""
        self.serial += 1
        fill = uid(f"fill:{self.serial if name is None else name}")
        mid = self.mids[[i.symbol for i in REFERENCE.instruments].index(symbol)] if price is None else price
        absent = {"kind": "arrival", "status": "missing"}
        quantity = abs(Decimal(size)) or Decimal(1)
        payload = {
            "order_id": order or uid(f"order:{fill}"), "fill_id": fill, "symbol": symbol, "side": "SELL" if size.startswith("-") else "BUY",
            "filled_size": format(quantity, "f"), "price": f"{mid:.4f}", "venue": "ALPHA", "latency_ms": 1.0, "idempotency_key": fill,
            "book": book, "account": account, "exec_id": fill, "exec_ts_ns": self.now_ns, "status": "FILLED", "version": version, "signed_delta": size,
            "cum_size": "1", "leaves_size": "0", "avg_price": "1", "provisional": False, "benchmark": absent, "benchmark_mid": absent | {"kind": "mid"},
            "slippage": {}, "residual": {"order_size": "0", "exposure_notional": "0"},
        }  # fmt: skip
        return message("execution.event.fill.v1", payload, self.now_ns, f"{fill}:{version}", "agent.execution", correlation_id=fill)

    def trade(self, size: str, symbol: str = "SPOT", **more: Any) -> None:
        """Let a client's fill come in and the lane look at it."""
        self.feed("execution.event.fill.v1", self.fill(size, symbol, **more))
        self.tick(0.16)

    def event(self, leg: dict[str, Any], cover: dict[str, Any], status: str, filled: str = "0", reason: str | None = None) -> None:
        self.serial += 1
        payload = {
            "hedge_id": cover["hedge_id"], "order_id": leg["order_id"], "book": cover["book"], "instrument": leg["instrument"], "status": status,
            "filled_size": filled, "reason": reason, "event_ts_ns": self.now_ns,
        }  # fmt: skip
        self.feed("order.event.hedge.v1", message("order.event.hedge.v1", payload, self.now_ns, self.serial, "agent.order"))

    def fill_leg(self, leg: dict[str, Any], share: str = "1", name: object = None, price: float | None = None) -> str:
        """Let a share of a leg be filled; return the size."""
        size = Decimal(leg["size"]) * Decimal(share)
        signed = format(size if leg["side"] == "BUY" else -size, "f")
        self.feed("execution.event.fill.v1", self.fill(signed, leg["instrument"], name=name, order=leg["order_id"], price=price))
        return format(size, "f")

    def complete(self, cover: dict[str, Any]) -> None:
        """Acknowledge, fill and end every leg of a hedge."""
        for leg in cover["legs"]:
            self.event(leg, cover, "ACKED")
        for leg in cover["legs"]:
            filled = self.fill_leg(leg)
            self.event(leg, cover, "DONE", filled)
        self.tick(0.16)

    @property
    def covers(self) -> list[dict[str, Any]]:
        return self.out["hedger.intent.cover"]

    @property
    def audits(self) -> list[dict[str, Any]]:
        return self.out["audit.event.hedger"]
