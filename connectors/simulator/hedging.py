"""A world to hedge in: correlated markets, clients who trade, an order agent with venues, and the agents that say what is allowed. Virtual time.

Pull-driven and seeded: `advance` hands out what is sent until a time, `receive` takes what the hedger publishes. The truth (positions of clients and
hedges, covariance, events) can be read from outside and is on no topic. May not decide what to hedge. `hour` is the standard scenario.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np

import schemas
from connectors.simulator.factors import MS, SECOND, Break, FactorMarket, FactorModel, Regime, Series, Shortfall
from connectors.simulator.faults import Dice
from connectors.simulator.history import Leg, Order, World, venue_of
from connectors.simulator.messages import ACK, REPORT, ROUTE, Message, ack_bytes, date_of, decimal, json_bytes, report_bytes, route_bytes
from connectors.simulator.oms import COVER, REQUEST, OmsRules, OrderAgent, Outage
from schemas.reference import Reference, load_reference

UNIVERSE = "hedge.state.universe.v1"
RISK = "risk.state.context.v1"
POLICY = "policy.state.guard.v1"
ALLOCATION = "portfolio.intent.allocate.v1"
HALT = "system.halt.intent.v1"
RESUME = "system.resume.intent.v1"

REFERENCE_FILE = Path(schemas.__path__[0]) / "simulation_hedging.toml"
MINUTE = 60 * SECOND
START_NS = 1_767_614_400 * SECOND
"""2026-01-05T12:00:00Z, a Monday."""
_Z99 = 2.326
_HORIZON_S = 120.0
_APPROVED_BY = ({"role": "risk", "approver": "r.moreau"}, {"role": "compliance", "approver": "c.okafor"})


@dataclass(frozen=True)
class Flow:
    """How clients trade a symbol in a book: mean size as a notional in the quote currency, orders per minute, where.

    appetite: notional at which clients clearly prefer to come back; keeps the exposure from wandering off.
    """

    symbol: str
    venue: str
    mean_notional: float
    per_minute: float
    appetite: float


@dataclass(frozen=True)
class BookSetup:
    """One book: its universe as the hedger reads it, and what its clients do. `targets`: what the portfolio wants it to hold, notional by symbol."""

    name: str
    base_currency: str
    instruments: tuple[dict[str, Any], ...]
    exposures: tuple[dict[str, Any], ...]
    flows: tuple[Flow, ...]
    reference_notional: float
    max_notional: float
    max_capital: float
    targets: dict[str, float] = field(default_factory=dict)

    def universe(self) -> dict[str, Any]:
        """Return the payload of hedge.state.universe.v1."""
        return {
            "book": self.name,
            "base_currency": self.base_currency,
            "instruments": list(self.instruments),
            "exposures": list(self.exposures),
            "reference_notional": self.reference_notional,
            "desk_accounts": [f"DESK-{self.name}"],
        }


class Push(NamedTuple):
    """A client's large trade at a given moment: a signed notional in the quote currency, in three orders."""

    at_ns: int
    book: str
    symbol: str
    notional: float


@dataclass(frozen=True)
class HaltPlan:
    """A HALT: sent at `from_ns`; at `half_ns` a resume that only Risk approved (0: none), which must change nothing; at `to_ns` a full one."""

    from_ns: int
    to_ns: int
    scope: str = "ALL"
    id: str | None = None
    half_ns: int = 0


@dataclass(frozen=True)
class Scenario:
    """Everything that happens, planned. Clients trade from `open_ns` to `close_ns`; before and after there are quotes and states only."""

    seed: int
    start_ns: int
    open_ns: int
    close_ns: int
    end_ns: int
    model: FactorModel
    books: tuple[BookSetup, ...]
    oms: OmsRules = field(default_factory=OmsRules)
    outages: tuple[Outage, ...] = ()
    halts: tuple[HaltPlan, ...] = ()
    pushes: tuple[Push, ...] = ()
    risk_every_ns: int = 2 * SECOND
    policy_every_ns: int = 5 * MINUTE
    allocate_every_ns: int = 2 * MINUTE
    burst_rate: float = 0.08
    bust_rate: float = 0.004
    correct_rate: float = 0.004
    retarget_per_hour: float = 6.0


class Event(NamedTuple):
    """Something planned: what, from when to when, and about what."""

    kind: str
    from_ns: int
    to_ns: int
    detail: str


class HedgeWorld:
    """The world of a scenario. `exposures` counts clients' fills, `agent.positions` filled hedges, both by (book, instrument) in units."""

    def __init__(self, scenario: Scenario, reference: Reference | None = None) -> None:
        self.scenario = scenario
        self.reference = reference or load_reference(REFERENCE_FILE)
        run = hashlib.sha256(f"hedging|{scenario.seed}|{scenario.start_ns}".encode()).hexdigest()[:6]
        self.market = FactorMarket(self.reference.instruments, scenario.model, scenario.start_ns, scenario.seed, run)
        self.rng = Random(f"{scenario.seed}|clients")
        self._ids = Random(f"{scenario.seed}|{scenario.start_ns}|ids")
        dice = Dice({"bust": scenario.bust_rate, "correct": scenario.correct_rate}, self.rng)
        venues = [venue_of(rules, n) for n, rules in enumerate(self.reference.venues)]
        self._venues = {v.name: v for v in venues}
        self.world = World(self.reference, venues, self.market, self.rng, dice, run, SECOND)
        self.agent = OrderAgent(self.world, self.market, scenario.oms, scenario.outages, scenario.seed, scenario.start_ns)
        self.exposures: Counter[tuple[str, int]] = Counter()
        self.client_orders = 0
        self.sent: Counter[str] = Counter()
        self.targets = {(book.name, symbol): value for book in scenario.books for symbol, value in book.targets.items()}
        self._place = {i.symbol: n for n, i in enumerate(self.reference.instruments)}
        self._heap: list[tuple[int, int, Message]] = []
        self._moves: list[tuple[int, int, str, int, int]] = []
        self._pushed = 0
        self._now = scenario.start_ns
        self._acts: list[tuple[int, int, str, int]] = []
        self._check()
        for act, first in (("universe", 0), ("policy", 0), ("allocate", 0), ("risk", 0)):
            self._plan(scenario.start_ns + first, act)
        for b, book in enumerate(scenario.books):
            for f, flow in enumerate(book.flows):
                self._plan(scenario.open_ns + self._gap(flow), "client", b * 100 + f)
        for n, push in enumerate(scenario.pushes):
            self._plan(push.at_ns, "push", n)
        if scenario.retarget_per_hour > 0:
            self._plan(scenario.open_ns + self._wait(scenario.retarget_per_hour), "retarget")
        for halt in scenario.halts:
            self._halt(halt)

    # --- what drives it -------------------------------------------------------------------------------------------------------------

    def advance(self, until_ns: int) -> list[Message]:
        """Let everything happen that is due before `until_ns`; return what is sent, in due order. Times may not go back."""
        while self._acts and self._acts[0][0] < until_ns:
            at, _, act, which = heappop(self._acts)
            self._now = max(self._now, at)
            getattr(self, f"_act_{act}")(at, which)
        for message in (*self.market.quotes(until_ns), *self.agent.advance(until_ns)):
            self._push(message)
        while self._moves and self._moves[0][0] < until_ns:
            _, _, book, n, delta = heappop(self._moves)
            self.exposures[book, n] += delta
        out = []
        while self._heap and self._heap[0][0] < until_ns:
            out.append(heappop(self._heap)[2])
        for message in out:
            self.sent[message.topic] += 1
        self._now = max(self._now, until_ns)
        self.market.forget(until_ns - MINUTE)
        return out

    def receive(self, topic: str, key: bytes, value: bytes, now_ns: int) -> None:
        """Take a record the hedger published; topics the order agent does not read are left."""
        if topic in (COVER, REQUEST):
            self.agent.receive(topic, value, now_ns)

    def events(self) -> list[Event]:
        """Return what upsets the world, in order of time."""
        s = self.scenario
        found = [Event("break", b.from_ns, b.to_ns, f"{b.symbol} {b.kind}") for b in s.model.breaks]
        found += [Event("regime", r.from_ns, r.to_ns, f"volatility × {r.factor:g}") for r in s.model.regimes]
        found += [Event("shortfall", f.from_ns, f.to_ns, f"{f.symbol} sizes / {f.divisor:g}") for f in s.model.shortfalls]
        found += [Event("outage", o.from_ns, o.to_ns, o.venue) for o in s.outages]
        found += [Event("halt", h.from_ns, h.to_ns, h.scope if h.id is None else f"{h.scope} {h.id}") for h in s.halts]
        return sorted(found, key=lambda event: event.from_ns)

    # --- the truth ------------------------------------------------------------------------------------------------------------------

    def value(self, book: BookSetup, instrument: int, units: int, ts_ns: int) -> float:
        """Return the notional of a quantity in the book's base currency at the market's mids."""
        i = self.reference.instruments[instrument]
        inverse = self._kind(book, i.symbol) == "INVERSE"
        amount = units / 10.0**i.qty_scale
        if self._kind(book, i.symbol) == "FX":
            return amount * self.fx(i.base, book.base_currency, ts_ns)
        price = 1.0 if inverse else self.market.mid(i.symbol, ts_ns)
        return amount * i.multiplier * price * self.fx(i.quote, book.base_currency, ts_ns)

    def fx(self, currency: str, base: str, ts_ns: int) -> float:
        """Return what one unit of a currency is worth in another, by the instruments that trade them."""
        if currency == base:
            return 1.0
        for i in self.reference.instruments:
            if (i.base, i.quote) == (currency, base):
                return self.market.mid(i.symbol, ts_ns)
            if (i.base, i.quote) == (base, currency):
                return 1 / self.market.mid(i.symbol, ts_ns)
        raise ValueError(f"no instrument tells {currency} in {base}")

    def _kind(self, book: BookSetup, symbol: str) -> str:
        found = next((x for x in (*book.instruments, *book.exposures) if x["symbol"] == symbol), {})
        return str(found.get("kind", "LINEAR"))

    # --- clients --------------------------------------------------------------------------------------------------------------------

    def _gap(self, flow: Flow) -> int:
        return int(self.rng.expovariate(flow.per_minute / 60) * SECOND)

    def _wait(self, per_hour: float) -> int:
        return int(self.rng.expovariate(per_hour / 3600) * SECOND)

    def _act_client(self, at: int, which: int) -> None:
        book = self.scenario.books[which // 100]
        flow = book.flows[which % 100]
        if at >= self.scenario.close_ns:
            return
        if not self._halted(book.name, flow, at):
            pieces = self.rng.randint(3, 6) if self.rng.random() < self.scenario.burst_rate else 1
            n = self._place[flow.symbol]
            held = self.value(book, n, self.exposures[book.name, n], at)
            side = "BUY" if self.rng.random() < 0.5 - 0.45 * math.tanh(held / flow.appetite) else "SELL"
            for piece in range(pieces):
                self._order(book, flow, n, side, at + piece * self.rng.randint(50 * MS, 400 * MS))
        self._plan(at + self._gap(flow), "client", which)

    def _act_push(self, at: int, which: int) -> None:
        push = self.scenario.pushes[which]
        book = next(b for b in self.scenario.books if b.name == push.book)
        flow = next(f for f in book.flows if f.symbol == push.symbol)
        for piece in range(3):
            side = "BUY" if push.notional > 0 else "SELL"
            self._order(book, flow, self._place[flow.symbol], side, at + piece * SECOND, abs(push.notional) / 3)

    def _halted(self, book: str, flow: Flow, at: int) -> bool:
        """Return whether PolicyGuard routes no client orders there: a HALT holds for everybody."""
        named = {"ALL": None, "BOOK": book, "SYMBOL": flow.symbol, "VENUE": flow.venue}
        return any(h.from_ns <= at < h.to_ns and h.scope in named and named[h.scope] == h.id for h in self.scenario.halts)

    def _order(self, book: BookSetup, flow: Flow, n: int, side: str, at: int, notional: float = 0.0) -> None:
        """Let a client order live its life at the venue, as history.py tells it, and send what that gives."""
        i = self.reference.instruments[n]
        unit = self.value(replace(book, base_currency=i.quote), n, 1, at)
        notional = notional or flow.mean_notional * self.rng.lognormvariate(-0.245, 0.7)
        size = max(1, int(notional / unit))
        rounded = 10 ** max(0, len(str(size)) - 3)
        size = max(rounded, size // rounded * rounded)
        tif = self.rng.choice(("DAY", "DAY", "IOC"))
        account = f"CLIENT-{self.rng.randint(1, 4)}"
        order = Order(self._uuid(), i, n, side, size, tif, account, book.name, -1, at, date_of(at))
        venue = self._venues[flow.venue]
        leg = Leg(self.world, order, venue, 0, size, at + self.rng.randint(200_000, 2 * MS))
        leg.run()
        self.client_orders += 1
        bid, ask = self.market.touch(n, at)
        key, name = order.correlation.encode(), f"{self.world.run}-C{self.client_orders}"
        value = route_bytes(name, order.correlation, at, i.symbol, side, decimal(size, i.qty_scale), tif, [(venue.name, 1.0)], book.name, account,
                            at - MS, decimal((bid + ask) // 2, i.px_scale), "", 0.1)  # fmt: skip
        self._push(Message(ROUTE, key, value, at, "ROUTE", order.correlation))
        for k, ack in enumerate(leg.acks):
            value = ack_bytes(f"{name}-A{k}", order.correlation, ack.due_ns, venue.name, ack.client_id, ack.venue_order_id, ack.leg, ack.status,
                              decimal(ack.size, i.qty_scale), ack.ack_ns)  # fmt: skip
            self._push(Message(ACK, key, value, ack.due_ns, ack.status, order.correlation))
        cum = 0
        for k, report in enumerate(leg.reports):
            self._push(Message(REPORT, key, report_bytes(report, f"{name}-R{k}"), report.due_ns, report.kind, order.correlation))
            if report.kind in ("TRADE", "BUST", "CORRECT"):
                self._pushed += 1
                heappush(self._moves, (report.due_ns, self._pushed, book.name, n, (report.cum_qty - cum) * (1 if side == "BUY" else -1)))
                cum = report.cum_qty

    def _uuid(self) -> str:
        h = f"{self._ids.getrandbits(128):032x}"
        return f"{h[:8]}-{h[8:12]}-4{h[13:16]}-a{h[17:20]}-{h[20:]}"

    # --- the agents that say what is allowed ----------------------------------------------------------------------------------------

    def _act_universe(self, at: int, which: int) -> None:
        for book in self.scenario.books:
            self._say(UNIVERSE, book.name, at, "config", book.universe())

    def _act_policy(self, at: int, which: int) -> None:
        content: dict[str, Any] = {
            "do_not_trade": [],
            "stress_scenarios": [
                {"id": "crypto-crash", "shocks": {"BTC": -0.12, "ETH": -0.15, "SOL": -0.2}, "max_loss": 400_000.0},
                {
                    "id": "equity-gap",
                    "shocks": {"ES": -0.05, "ESX": -0.06, "ACME": -0.06, "BETA": -0.05, "EUCO": -0.06},
                    "max_loss": 400_000.0,
                },
            ],
            "unwind": [],
            "max_residual_exposure_pct": 1.0,
            "max_cost_bps": 10.0,
            "fallback_strategy": "synthetic_future",
        }
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
        self._say(POLICY, "*", at, "policyguard", {"book": None, "policy_hash": digest, **content})
        self._plan(at + self.scenario.policy_every_ns, "policy")

    def _act_risk(self, at: int, which: int) -> None:
        volatility = self.market.volatility(at)
        for book in self.scenario.books:
            limits, used = [], 0.0
            for hedge in book.instruments:
                n = self._place[hedge["symbol"]]
                held = abs(self.value(book, n, self.agent.positions[book.name, n], at))
                used += hedge["margin_rate"] * held
                limits.append({"instrument": hedge["symbol"], "max_notional": book.max_notional,
                               "headroom_notional": round(max(0.0, book.max_notional - held), 2)})  # fmt: skip
            payload = {
                "book": book.name,
                "portfolio_var": round(_Z99 * self.risk(book, at), 2),
                "daily_drawdown_pct": 0.4,
                "treasury_utilisation": round(min(1.0, used / book.max_capital), 4),
                "volatility": round(0.15 * volatility, 4),
                "risk_level": "HIGH" if volatility > 1.5 else "MEDIUM",
                "limits": limits,
                "max_capital": book.max_capital,
                "headroom_capital": round(max(0.0, book.max_capital - used), 2),
            }
            self._say(RISK, book.name, at, "risk", payload)
        self._plan(at + self.scenario.risk_every_ns, "risk")

    def risk(self, book: BookSetup, at: int) -> float:
        """Return the standard deviation over the hedge horizon (120 s) of the book's positions, hedges included, in its base currency."""
        x = np.array([
            self.value(book, n, units, at) if (units := self.exposures[book.name, n] + self.agent.positions[book.name, n]) else 0.0
            for n in range(len(self.reference.instruments))
        ])  # fmt: skip
        return float(np.sqrt(max(0.0, x @ self.market.covariance(at) @ x) * _HORIZON_S))

    def _act_allocate(self, at: int, which: int) -> None:
        for book in self.scenario.books:
            for flow in book.flows:
                self._target(book.name, flow.symbol, at)
        self._plan(at + self.scenario.allocate_every_ns, "allocate")

    def _act_retarget(self, at: int, which: int) -> None:
        """The portfolio changes its mind about one symbol of one book."""
        if at >= self.scenario.close_ns:
            return
        book = self.rng.choice(self.scenario.books)
        flow = self.rng.choice(book.flows)
        self.targets[book.name, flow.symbol] = round(flow.mean_notional * self.rng.uniform(-3, 3), -3)
        self._target(book.name, flow.symbol, at)
        self._plan(at + self._wait(self.scenario.retarget_per_hour), "retarget")

    def _target(self, book: str, symbol: str, at: int) -> None:
        payload = {"book": book, "symbol": symbol, "target_size": f"{self.targets.get((book, symbol), 0.0):.2f}", "confidence": 0.8,
                   "risk_score": 0.3, "ttl_ms": 3 * self.scenario.allocate_every_ns // MS}  # fmt: skip
        self._say(ALLOCATION, book, at, "portfolio", payload, f"{book}|{symbol}")

    def _halt(self, plan: HaltPlan) -> None:
        scope = {"scope": plan.scope, **({"id": plan.id} if plan.id is not None else {})}
        key = f"{plan.scope}|{plan.id or ''}"
        halt = {**scope, "reason": "drill: everything stops", "issued_by": "policyguard", "effective_ns": plan.from_ns}
        self._say(HALT, key, plan.from_ns, "policyguard", halt)
        resume = {**scope, "reason": "drill over", "issued_by": "policyguard"}
        if plan.half_ns:
            self._say(RESUME, key, plan.half_ns, "policyguard", {**resume, "approvals": [_APPROVED_BY[0]]})
        self._say(RESUME, key, plan.to_ns, "policyguard", {**resume, "approvals": list(_APPROVED_BY)})

    def _say(self, topic: str, key: str, at: int, sender: str, payload: dict[str, Any], name: str = "") -> None:
        due = at + self.rng.randint(MS // 2, 3 * MS)
        value = json_bytes(topic, f"{self.world.run}|{name or key}|{at}", due, sender, payload)
        self._push(Message(topic, key.encode(), value, due, topic))

    # --- helpers --------------------------------------------------------------------------------------------------------------------

    def _push(self, message: Message) -> None:
        self._pushed += 1
        heappush(self._heap, (message.due_ns, self._pushed, message))

    def _plan(self, at: int, act: str, which: int = 0) -> None:
        self._pushed += 1
        heappush(self._acts, (at, self._pushed, act, which))

    def _check(self) -> None:
        """Raise ValueError when a book names what the reference data does not have."""
        named: Iterable[tuple[str, str]] = [
            (book.name, symbol)
            for book in self.scenario.books
            for symbol in (
                *(x["symbol"] for x in book.instruments),
                *(x["symbol"] for x in book.exposures),
                *(f.symbol for f in book.flows),
            )
        ]
        missing = sorted({f"{book}: {symbol}" for book, symbol in named if symbol not in self._place})
        traded = {(b.name, f.symbol) for b in self.scenario.books for f in b.flows}
        missing += sorted({f"{p.book}: {p.symbol}" for p in self.scenario.pushes if (p.book, p.symbol) not in traded})
        missing += sorted({f"{b.name}: {f.venue}" for b in self.scenario.books for f in b.flows if f.venue not in self._venues})
        if missing:
            raise ValueError(f"not in the reference data: {', '.join(missing)}")


# --- the standard scenario --------------------------------------------------------------------------------------------------------------

FACTORS = {"CRYPTO": 0.8, "BTC": 0.4, "ETH": 0.6, "SOL": 0.9, "EQ": 0.35, "EU": 0.25, "FX": 0.15}
SERIES = (
    Series("BTC-USD", 60_000.0, {"CRYPTO": 1.0, "BTC": 1.0}, 0.12, 0.5, 400_000.0, 4.0),
    Series("ETH-USD", 3_000.0, {"CRYPTO": 1.1, "ETH": 1.0}, 0.14, 0.7, 250_000.0, 4.0),
    Series("SOL-USD", 150.0, {"CRYPTO": 1.3, "SOL": 1.0}, 0.2, 1.2, 100_000.0, 3.0),
    Series("BTC-PERP", 60_010.0, {"CRYPTO": 1.0, "BTC": 1.0}, 0.1, 0.25, 500_000.0, 4.0),
    Series("ETH-PERP", 3_001.0, {"CRYPTO": 1.1, "ETH": 1.0}, 0.12, 0.35, 300_000.0, 4.0),
    Series("SOL-PERP", 150.1, {"CRYPTO": 1.3, "SOL": 1.0}, 0.16, 0.8, 150_000.0, 3.0),
    Series("BTC-INV", 60_020.0, {"CRYPTO": 1.0, "BTC": 1.0}, 0.14, 0.5, 200_000.0, 2.0, contract_value=100.0),
    Series("BTCZ6", 60_900.0, {"CRYPTO": 1.0, "BTC": 1.0}, 0.15, 0.7, 250_000.0, 2.0),
    Series("ACME", 42.0, {"EQ": 1.1}, 0.2, 1.5, 120_000.0),
    Series("BETA", 118.0, {"EQ": 0.9}, 0.2, 1.5, 120_000.0),
    Series("MESZ6", 6_000.0, {"EQ": 1.0}, 0.03, 0.25, 900_000.0, 3.0),
    Series("EUCO", 64.0, {"EQ": 0.6, "EU": 1.1}, 0.12, 1.8, 100_000.0),
    Series("FESXZ6", 5_000.0, {"EQ": 0.6, "EU": 1.0}, 0.04, 0.5, 500_000.0, 3.0),
    Series("EURUSD", 1.08, {"FX": 1.0}, 0.03, 0.2, 3_000_000.0, 4.0),
)
IMPACT_BPS = {
    "BTC-PERP": 0.5, "ETH-PERP": 0.6, "SOL-PERP": 0.9, "BTC-INV": 0.7, "BTCZ6": 0.8, "MESZ6": 0.3, "FESXZ6": 0.5, "EURUSD": 0.2,
}  # fmt: skip


def _hedge(symbol: str, venue: str, currency: str, lot: str, tier: int, adv: float, **more: Any) -> dict[str, Any]:
    base = {"symbol": symbol, "venue": venue, "currency": currency, "lot": lot, "tier": tier, "adv_notional": adv, "margin_rate": 0.05,
            "min_notional": 200.0, "cost_bps": 0.5}  # fmt: skip
    return {**base, **more}


_BTC_PERP = _hedge("BTC-PERP", "PERP", "USD", "0.001", 1, 2e10, underlying="BTC", cost_bps=0.4)
_ETH_PERP = _hedge("ETH-PERP", "PERP", "USD", "0.01", 1, 1e10, underlying="ETH", cost_bps=0.4)
_SOL_PERP = _hedge("SOL-PERP", "PERP", "USD", "0.1", 2, 2e9, underlying="SOL", cost_bps=0.6)
_BTC_INV = _hedge(
    "BTC-INV", "PERP", "USD", "1", 2, 2e9, kind="INVERSE", multiplier=100.0, underlying="BTC", secondary_of="BTC-PERP", cost_bps=0.6
)
_BTCZ6 = _hedge("BTCZ6", "FUT", "USD", "0.1", 2, 3e9, underlying="BTC", secondary_of="BTC-PERP", cost_bps=0.8, min_notional=6_000.0)
_MES = _hedge("MESZ6", "FUT", "USD", "1", 1, 2e10, multiplier=5.0, underlying="ES", margin_rate=0.06, cost_bps=0.3)
_FESX = _hedge("FESXZ6", "FUT", "EUR", "1", 2, 8e9, underlying="ESX", margin_rate=0.08, cost_bps=0.4)
_EURUSD = _hedge("EURUSD", "FXALL", "USD", "1000", 1, 1e11, kind="FX", underlying="EURUSD", margin_rate=0.02, cost_bps=0.1)


def _exposure(symbol: str, currency: str, underlying: str, kind: str = "LINEAR", multiplier: float = 1.0) -> dict[str, Any]:
    return {"symbol": symbol, "kind": kind, "multiplier": multiplier, "currency": currency, "underlying": underlying}


BOOKS = (
    BookSetup(
        "CRYPTO-1", "USD", (_BTC_PERP, _ETH_PERP, _BTC_INV, _BTCZ6), (_exposure("BTC-USD", "USD", "BTC"), _exposure("ETH-USD", "USD", "ETH")),
        (Flow("BTC-USD", "SPOT", 120_000.0, 2.0, 900_000.0), Flow("ETH-USD", "SPOT", 80_000.0, 1.5, 600_000.0)),
        100_000.0, 2e7, 4e6,
    ),
    BookSetup(
        "CRYPTO-2", "USD", (_ETH_PERP, _SOL_PERP, _BTC_PERP),
        (_exposure("SOL-USD", "USD", "SOL"), _exposure("ETH-USD", "USD", "ETH"), _exposure("BTC-INV", "USD", "BTC", "INVERSE", 100.0)),
        (Flow("SOL-USD", "SPOT", 50_000.0, 1.5, 400_000.0), Flow("ETH-USD", "SPOT", 60_000.0, 1.0, 400_000.0),
         Flow("BTC-INV", "PERP", 50_000.0, 0.5, 300_000.0)),
        60_000.0, 1e7, 2e6,
    ),
    BookSetup(
        "EQUITY-1", "USD", (_MES, _FESX),
        (_exposure("ACME", "USD", "ACME"), _exposure("BETA", "USD", "BETA"), _exposure("EUCO", "EUR", "EUCO")),
        (Flow("ACME", "EQ", 200_000.0, 1.2, 1_500_000.0), Flow("BETA", "EQ", 200_000.0, 1.0, 1_500_000.0),
         Flow("EUCO", "EQ", 150_000.0, 1.0, 1_000_000.0)),
        300_000.0, 3e7, 5e6, {"ACME": 600_000.0},
    ),
    BookSetup(
        "MACRO-EUR", "EUR", (_EURUSD, _BTC_PERP), (_exposure("BTC-USD", "USD", "BTC"),),
        (Flow("EURUSD", "FXALL", 300_000.0, 1.2, 2_000_000.0), Flow("BTC-USD", "SPOT", 60_000.0, 0.6, 500_000.0)),
        200_000.0, 2e7, 4e6,
    ),
)  # fmt: skip
"""Two books with the same and with related underlyings, one of equities in two currencies, one with another base currency and a direct hedge."""


def hour(seed: int = 1, minutes: float = 60.0, lead_s: float = 300.0, start_ns: int = START_NS) -> Scenario:
    """Return the standard hour: four books, volatility × 3 for four minutes, a loading that decays and one that flips, sizes / 20 for five minutes in
    one instrument, 60 s without the channel to a venue, and a HALT of two minutes with a resume half-approved in between. Clients trade large while the
    channel is down and while sizes are small.

    Events stand at fixed shares of the time clients trade; with fewer minutes all but the outage (60 s) and the HALT (120 s, at most a tenth)
    shrink with it. lead_s: seconds of quotes before, in which ratios become known. Raises ValueError for fewer than 10 minutes.
    """
    if not 10 <= minutes <= 24 * 60:
        raise ValueError("minutes must be from 10 to 1440")
    span = int(minutes * MINUTE)
    open_ns = start_ns + int(lead_s * SECOND)

    return _story(seed, start_ns, open_ns, span, MINUTE, min(2 * MINUTE, span // 10), BOOKS)


def drill(seed: int = 1, seconds: float = 60.0, lead_s: float = 300.0, start_ns: int = START_NS, suffix: str = "") -> Scenario:
    """Return the hour's upsets within some seconds, for people who watch: clients trade ten times as often, outage and HALT last a tenth of it each.

    suffix: of the books' names, where books of an earlier run still have positions. Raises ValueError for fewer than 40 seconds or more than an hour.
    """
    if not 40 <= seconds <= 3_600:
        raise ValueError("seconds must be from 40 to 3600")
    span = int(seconds * SECOND)
    books = tuple(
        replace(book, name=book.name + suffix, flows=tuple(replace(flow, per_minute=10 * flow.per_minute) for flow in book.flows))
        for book in BOOKS
    )
    story = _story(seed, start_ns, start_ns + int(lead_s * SECOND), span, span // 10, span // 10, books)
    return replace(story, policy_every_ns=span, allocate_every_ns=max(10 * SECOND, span // 6), retarget_per_hour=3_600 * 2 / seconds)


def _story(seed: int, start_ns: int, open_ns: int, span: int, outage_ns: int, halt_ns: int, books: tuple[BookSetup, ...]) -> Scenario:
    """Return the standard upsets at their shares of the time clients trade."""

    def at(share: float) -> int:
        return open_ns + int(share * span)

    crypto_1, crypto_2, _, macro = (book.name for book in books)
    model = FactorModel(
        FACTORS,
        SERIES,
        regimes=(Regime(at(0.27), at(0.335)),),
        breaks=(Break("SOL-USD", at(0.15), at(0.25), kind="decay"), Break("EUCO", at(0.75), at(0.85), "EU", "flip")),
        shortfalls=(Shortfall("BTC-PERP", at(0.5), at(0.585)),),
    )
    return Scenario(
        seed,
        start_ns,
        open_ns,
        open_ns + span,
        open_ns + span + 5 * SECOND,
        model,
        books,
        OmsRules(impact_bps=dict(IMPACT_BPS), bust_rate=0.001),
        outages=(Outage("PERP", at(0.4), at(0.4) + outage_ns),),
        halts=(HaltPlan(at(0.65), at(0.65) + halt_ns, half_ns=at(0.65) + halt_ns // 2),),
        pushes=(
            Push(at(0.4) + outage_ns // 5, crypto_1, "ETH-USD", 600_000.0),
            Push(at(0.4) + outage_ns // 4, crypto_2, "SOL-USD", -300_000.0),
            Push(at(0.4) + outage_ns // 3, crypto_1, "BTC-USD", -800_000.0),
            Push(at(0.51), crypto_1, "BTC-USD", 1_500_000.0),
            Push(at(0.53), macro, "BTC-USD", 500_000.0),
        ),
    )


def calm(seed: int = 1, seconds: float = 60.0, lead_s: float = 5.0, start_ns: int = START_NS) -> Scenario:
    """Return the same books without any upset: clients trade for some seconds."""
    open_ns = start_ns + int(lead_s * SECOND)
    close_ns = open_ns + int(seconds * SECOND)
    oms = OmsRules(impact_bps=dict(IMPACT_BPS), refuse_rate=0.0, lost_ack_rate=0.0, partial_rate=0.0)
    return Scenario(
        seed, start_ns, open_ns, close_ns, close_ns + 5 * SECOND, FactorModel(FACTORS, SERIES), BOOKS, oms, bust_rate=0.0, correct_rate=0.0
    )
