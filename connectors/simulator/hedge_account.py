"""An independent account of what the hedger did: positions, coverage, slippage, failures and recovery, from the records alone.

Shares no code with the hedger: plain dicts, floats, the true covariance of the simulated market in place of an estimate. Formulas: docs/hedging.md and
the contracts in schemas/hedging.py. It judges; it may not send anything.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from schemas.reference import Reference

SECOND = 1_000_000_000
COVERED = 0.95
LATE_NS = 120 * SECOND
DUST_SHARE = 0.1
"""Risk below this share of the risk of the universe's reference notional is not judged: costs, not the hedger, decide there."""
ENDS = ("REJECTED", "CANCELED", "EXPIRED", "DONE")
FAILED_ENDS = ("REJECTED", "EXPIRED")
Covariance = Callable[[int], np.ndarray]


@dataclass
class Sent:
    """One leg of a hedge as it was sent, and what became of it. quantities signed, notionals in the book's base currency."""

    hedge_id: str
    order_id: str
    book: str
    symbol: str
    size: float
    mid: float
    told_mid: float | None
    notional: float
    decided_ns: int
    filled: float = 0.0
    status: str = ""
    ended_ns: int = 0


@dataclass
class Episode:
    """A time in which a book was covered less than 95 %: from `from_ns`, `to_ns` 0 while it lasts."""

    book: str
    from_ns: int
    to_ns: int = 0


@dataclass
class Sample:
    """One look at a book. Risks are per root second; coverage is NaN when there is too little to hedge; `published` by the ratios the hedger uses."""

    ts_ns: int
    coverage: float
    true_coverage: float
    needed: float
    distance: float
    exposure: float
    hedged: float
    effectiveness: float
    bound: float


@dataclass
class _Book:
    name: str
    universe: dict[str, Any]
    exposure: Counter[str] = field(default_factory=Counter)
    hedged: Counter[str] = field(default_factory=Counter)
    ratios: dict[tuple[str, str], float] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)
    changed: bool = True
    sent: int = 0
    """Hedges of it."""
    reason: str = ""
    """The first reason of its last decision."""


class HedgeAccount:
    """The account of a run. `observe` takes every record anybody can read, in order; `sample` looks at all books.

    covariance: the true covariance per second of the reference's instruments at a time.
    """

    def __init__(self, reference: Reference, covariance: Covariance) -> None:
        self.reference = reference
        self.covariance = covariance
        self.books: dict[str, _Book] = {}
        self.mids: dict[str, float] = {}
        self.targets: dict[str, dict[str, float]] = {}
        self.legs: dict[str, Sent] = {}
        self.hedges: dict[str, list[str]] = {}
        self.slips: list[tuple[float, float]] = []
        self.episodes: list[Episode] = []
        self.reasons: Counter[str] = Counter()
        self.outcomes: Counter[str] = Counter()
        self.unexplained = 0
        self.escalations: Counter[str] = Counter()
        self.states: Counter[str] = Counter()
        self.letters: Counter[str] = Counter()
        self.acks: list[dict[str, Any]] = []
        self.during_halt: list[str] = []
        self.client_fills = self.hedge_fills = 0
        self.worst_mid_gap_bps = 0.0
        self._halted: dict[str, int] = {}
        self._halts: list[tuple[int, int]] = []
        self._open: dict[str, Episode] = {}
        self._place = {i.symbol: n for n, i in enumerate(reference.instruments)}
        self._takes = {
            "marketdata.snapshot.v1": self._quote, "hedge.state.universe.v1": self._universe, "portfolio.intent.allocate.v1": self._target,
            "execution.event.fill.v1": self._fill, "hedger.intent.cover": self._cover, "order.event.hedge.v1": self._event,
            "hedge.state.ratios.v1": self._ratios, "audit.event.hedger": self._audit, "hedger.event.escalation.v1": self._escalation,
            "hedger.event.cover": self._state, "dlq.hedger": self._letter, "dlq.execution": self._letter, "system.halt.ack.v1": self._ack,
        }  # fmt: skip

    # --- records --------------------------------------------------------------------------------------------------------------------

    def observe(self, topic: str, value: bytes, now_ns: int) -> None:
        """Take a record that can be read from `now_ns` on."""
        take = self._takes.get(topic)
        if take is not None:
            message = json.loads(value)
            take(message["payload"], message, now_ns)

    def halt(self, scope: str, now_ns: int, on: bool) -> None:
        """Learn that workers know of a HALT of all, or of its end, from now on; what was decided meanwhile may come in later."""
        if on:
            self._halted[scope] = now_ns
        elif scope in self._halted:
            self._halts.append((self._halted.pop(scope), now_ns))

    def _in_halt(self, ts_ns: int) -> bool:
        return any(ts_ns >= since for since in self._halted.values()) or any(since <= ts_ns < until for since, until in self._halts)

    def _quote(self, p: dict[str, Any], _: dict[str, Any], now_ns: int) -> None:
        if p.get("bid") is not None and p.get("ask") is not None and p["confidence"] == 1.0:
            self.mids[p["symbol"]] = (float(p["bid"]) + float(p["ask"])) / 2

    def _universe(self, p: dict[str, Any], _: dict[str, Any], now_ns: int) -> None:
        if p["book"] in self.books:
            self.books[p["book"]].universe = p
        else:
            self.books[p["book"]] = _Book(p["book"], p)

    def _target(self, p: dict[str, Any], _: dict[str, Any], now_ns: int) -> None:
        self.targets.setdefault(p["book"], {})[p["symbol"]] = float(p["target_size"])  # may come before the book's universe
        if p["book"] in self.books:
            self.books[p["book"]].changed = True

    def _fill(self, p: dict[str, Any], _: dict[str, Any], now_ns: int) -> None:
        book = self.books.get(p["book"])
        if book is None:
            return
        delta = float(p["signed_delta"])
        leg = self.legs.get(p["order_id"])
        book.changed = True
        if leg is None and not p["account"].startswith("DESK-"):
            self.client_fills += 1
            book.exposure[p["symbol"]] += delta
            return
        self.hedge_fills += 1
        book.hedged[p["symbol"]] += delta
        if leg is not None:
            leg.filled += delta
            if p["status"] == "FILLED" and delta and leg.mid == leg.mid:
                weight = abs(self.notional(book, p["symbol"], delta))
                self.slips.append((weight, float(np.sign(delta)) * (float(p["price"]) - leg.mid) / leg.mid * 1e4))

    def _cover(self, p: dict[str, Any], message: dict[str, Any], now_ns: int) -> None:
        if message["sender"] != "agent.hedger" or p["book"] not in self.books:  # on a Kafka there may be others
            return
        if self._in_halt(p["decision_ts_ns"]) and p.get("unwind_id") is None:
            self.during_halt.append(p["hedge_id"])
        if p["hedge_id"] not in self.hedges:
            self.hedges[p["hedge_id"]] = []
            self.books[p["book"]].sent += 1
        for leg in p["legs"]:
            sign = 1.0 if leg["side"] == "BUY" else -1.0
            mid = self.mids.get(leg["instrument"], np.nan)
            told = None if leg.get("mid") is None else float(leg["mid"])
            if told is not None and mid == mid:
                self.worst_mid_gap_bps = max(self.worst_mid_gap_bps, abs(told - mid) / mid * 1e4)
            if leg["order_id"] not in self.legs:
                self.hedges[p["hedge_id"]].append(leg["order_id"])
                self.legs[leg["order_id"]] = Sent(p["hedge_id"], leg["order_id"], p["book"], leg["instrument"], sign * float(leg["size"]), mid,
                                                  told, leg["notional"], p["decision_ts_ns"])  # fmt: skip
        for ratio in p.get("ratios", ()):
            self.books[p["book"]].ratios[ratio["exposure"], ratio["instrument"]] = ratio["h"]

    def _event(self, p: dict[str, Any], _: dict[str, Any], now_ns: int) -> None:
        leg = self.legs.get(p["order_id"])
        if leg is not None:
            leg.status = p["status"]
            if p["status"] in ENDS and not leg.ended_ns:
                leg.ended_ns = now_ns

    def _ratios(self, p: dict[str, Any], _: dict[str, Any], now_ns: int) -> None:
        if p["book"] in self.books:
            self.books[p["book"]].ratios = {(r["exposure"], r["instrument"]): r["used"] for r in p["ratios"]}

    def _audit(self, p: dict[str, Any], _: dict[str, Any], now_ns: int) -> None:
        if p["book"] not in self.books:
            return
        self.outcomes[p["outcome"]] += 1
        named = [reason for reason in p["reasons"] if reason != "none"]
        self.unexplained += not named
        self.books[p["book"]].reason = named[0] if named else ""
        self.reasons.update(named[:1])

    def _escalation(self, p: dict[str, Any], _: dict[str, Any], now_ns: int) -> None:
        self.escalations[p["reason"]] += 1

    def _state(self, p: dict[str, Any], _: dict[str, Any], now_ns: int) -> None:
        self.states[p["state"]] += 1

    def _letter(self, p: dict[str, Any], _: dict[str, Any], now_ns: int) -> None:
        self.letters[p["reason"]] += 1

    def _ack(self, p: dict[str, Any], _: dict[str, Any], now_ns: int) -> None:
        self.acks.append(p)

    # --- figures --------------------------------------------------------------------------------------------------------------------

    def fx(self, currency: str, base: str) -> float:
        """Return what one unit of a currency is worth in another by the newest mids, NaN when no instrument tells."""
        if currency == base:
            return 1.0
        for i in self.reference.instruments:
            if (i.base, i.quote) == (currency, base):
                return self.mids.get(i.symbol, np.nan)
            if (i.base, i.quote) == (base, currency):
                return 1 / self.mids.get(i.symbol, np.nan)
        return np.nan

    def notional(self, book: _Book, symbol: str, quantity: float) -> float:
        """Return the signed notional of a quantity in the book's base currency."""
        i = self.reference.instruments[self._place[symbol]]
        listed = (*book.universe["instruments"], *book.universe["exposures"])
        found = next((x for x in listed if x["symbol"] == symbol), {"kind": "LINEAR", "multiplier": i.multiplier, "currency": i.quote})
        kind, multiplier = found.get("kind", "LINEAR"), found.get("multiplier", 1.0)
        base = book.universe["base_currency"]
        if kind == "FX":
            return quantity * self.fx(i.base, base)
        price = 1.0 if kind == "INVERSE" else self.mids.get(symbol, np.nan)
        return float(quantity * multiplier * price * self.fx(found["currency"], base))

    def sample(self, now_ns: int, everything: bool) -> None:
        """Look at the books that changed since the last look, or at all."""
        covariance: np.ndarray | None = None
        for book in self.books.values():
            if book.changed or everything:
                if covariance is None:
                    covariance = self.covariance(now_ns)
                book.changed = False
                self._sample(book, covariance, now_ns)

    def _sample(self, book: _Book, covariance: np.ndarray, now_ns: int) -> None:
        xs = [x["symbol"] for x in book.universe["instruments"]]
        targets = self.targets.get(book.name, {})
        ys = sorted({*book.exposure, *(s for s, target in targets.items() if target)})
        e = np.array([self.notional(book, s, book.exposure[s]) - targets.get(s, 0.0) for s in ys])
        p = np.array([self.notional(book, s, book.hedged[s]) for s in xs])
        px, py = [self._place[s] for s in xs], [self._place[s] for s in ys]
        s_xx, s_xy = covariance[np.ix_(px, px)], covariance[np.ix_(px, py)]
        s_yy = covariance[np.ix_(py, py)]
        true = np.linalg.solve(s_xx, s_xy)
        used = true.copy()
        known = {y for y, _ in book.ratios}
        for k, y in enumerate(ys):
            if y in xs:
                true[:, k] = used[:, k] = np.eye(len(xs))[xs.index(y)]
            elif y in known:
                used[:, k] = [book.ratios.get((y, x), 0.0) for x in xs]

        def risk(v: np.ndarray) -> float:
            return float(np.sqrt(max(0.0, v @ s_xx @ v)))

        dust = DUST_SHARE * float(book.universe.get("reference_notional") or 0.0) * float(np.sqrt(s_xx[0, 0]))
        needed, distance = risk(used @ e), risk(p + used @ e)
        true_needed, true_distance = risk(true @ e), risk(p + true @ e)
        judged = needed > dust
        unhedged = float(e @ s_yy @ e)
        left = float(unhedged + 2 * p @ s_xy @ e + p @ s_xx @ p)
        book.samples.append(
            Sample(
                now_ns,
                1 - distance / needed if judged else np.nan,
                1 - true_distance / true_needed if judged and true_needed > 0 else np.nan,
                needed,
                distance,
                float(np.abs(e).sum()),
                float(np.abs(p).sum()),
                1 - left / unhedged if judged and unhedged > 0 else np.nan,
                true_needed**2 / unhedged if judged and unhedged > 0 else np.nan,
            )
        )
        gap = book.samples[-1].coverage < COVERED
        if gap and book.name not in self._open:
            self._open[book.name] = Episode(book.name, now_ns)
            self.episodes.append(self._open[book.name])
        elif not gap and book.name in self._open:
            self._open.pop(book.name).to_ns = now_ns

    def mean(self, figure: str, from_ns: int, to_ns: int, without: Iterable[tuple[int, int]] = ()) -> float:
        """Return the time-weighted mean over all books of a figure of `Sample` where it is judged, in a span less the spans left out."""
        return self._weighted(lambda s: getattr(s, figure), from_ns, to_ns, without)

    def share_covered(self, from_ns: int, to_ns: int, without: Iterable[tuple[int, int]] = ()) -> float:
        """Return the share of the judged time in which coverage was 95 % or more."""
        return self._weighted(lambda s: float(s.coverage >= COVERED) if s.coverage == s.coverage else np.nan, from_ns, to_ns, without)

    def risk_coverage(self, from_ns: int, to_ns: int, without: Iterable[tuple[int, int]] = ()) -> float:
        """Return 1 - (distance by time) / (needed risk by time), by book and then their mean weighted by nothing: large needs count more."""
        needed = self._weighted(lambda s: s.needed if s.coverage == s.coverage else np.nan, from_ns, to_ns, without)
        distance = self._weighted(lambda s: s.distance if s.coverage == s.coverage else np.nan, from_ns, to_ns, without)
        return 1 - distance / needed if needed else np.nan

    def _weighted(self, value: Callable[[Sample], float], from_ns: int, to_ns: int, without: Iterable[tuple[int, int]]) -> float:
        left_out = list(without)
        total = weight = 0.0
        for book in self.books.values():
            ends = [*(s.ts_ns for s in book.samples[1:]), to_ns]
            for sample, end in zip(book.samples, ends, strict=False):
                begin, end = max(sample.ts_ns, from_ns), min(end, to_ns)
                span = max(0, end - begin)
                span -= sum(max(0, min(end, b) - max(begin, a)) for a, b in left_out)
                figure = value(sample)
                if span > 0 and figure == figure:
                    total += figure * span
                    weight += span
        return total / weight if weight else np.nan

    def recovery_s(self, up_ns: int, books: Iterable[str]) -> float | None:
        """Return the seconds from `up_ns` until the last of some books is covered by 95 % (or has nothing to hedge), None if one never is."""
        worst = 0.0
        for name in books:
            before = [s for s in self.books[name].samples if s.ts_ns <= up_ns][-1:]
            after = [s for s in self.books[name].samples if s.ts_ns > up_ns]
            found = next((s for s in [*before, *after] if not s.coverage < COVERED), None)
            if found is None:
                return None
            worst = max(worst, (found.ts_ns - up_ns) / SECOND)
        return worst

    def completions_s(self, from_ns: int, to_ns: int, without: Iterable[tuple[int, int]] = ()) -> list[float]:
        """Return the length in seconds of each episode that began in a span and touches none of the spans left out; open ones last to its end."""
        left_out = list(without)
        found = []
        for episode in self.episodes:
            end = episode.to_ns or to_ns
            if from_ns <= episode.from_ns < to_ns and not any(episode.from_ns < b and end > a for a, b in left_out):
                found.append((end - episode.from_ns) / SECOND)
        return sorted(found)

    def slippage_bps(self) -> float | None:
        """Return the cost-positive slippage of hedge fills against the mid at decision, weighted by notional."""
        weight = sum(w for w, _ in self.slips)
        return sum(w * bps for w, bps in self.slips) / weight if weight else None

    def failed(self, end_ns: int, without: Iterable[tuple[int, int]] = ()) -> list[str]:
        """Return the hedges that ended refused or expired, or without an end after 2 minutes, and not 95 % filled; sent outside some spans."""
        left_out = list(without)
        found = []
        for hedge_id, order_ids in self.hedges.items():
            legs = [self.legs[o] for o in order_ids]
            size = sum(abs(leg.notional) for leg in legs)
            filled = sum(abs(leg.notional) * min(1.0, abs(leg.filled / leg.size)) for leg in legs)
            bad = any(leg.status in FAILED_ENDS or (not leg.ended_ns and end_ns - leg.decided_ns > LATE_NS) for leg in legs)
            if bad and filled < 0.95 * size and not any(a <= legs[0].decided_ns < b for a, b in left_out):
                found.append(hedge_id)
        return found
