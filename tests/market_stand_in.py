"""A market and the broadcast states as decisions read them, set directly: no topic, no clock. For tests of decisions and their benchmarks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from operators.book_frame import BookFrame, BookView, HedgeRules, RatioState, frame_of, new_ratio_state, update_ratios
from operators.halts import HaltView
from operators.ratios import Moments, Rules, new_moments, update_all
from schemas.hedging import ExposureInstrument, GuardPolicy, HedgeInstrument, InstrumentLimit, RiskContext, Universe
from schemas.reference import Instrument, Reference, VenueRules

NOW_NS = 1_769_904_000_000_000_000
BAR_NS = 5_000_000_000
HASH = "ab" * 8
BOOK = "B1"

WIDE = HedgeRules(uncovered=0.02, envelope_ns=60_000_000_000)
"""Levels with a no-trade band wider than dust, and a wait for a better spread that is seen: the default ones leave little of both."""


class Levels(NamedTuple):
    bar_ns: int = BAR_NS
    quote_age_ns: int = 3_000_000_000
    covariance_bars: int = 3
    ratio: Rules = Rules()


@dataclass(frozen=True)
class State:
    """A risk state, a policy or a universe."""

    payload: Any
    ts_ns: int = NOW_NS - 1_000_000_000
    version: str = "cd" * 8


@dataclass(frozen=True)
class Channel:
    status: str = "UP"
    since_ns: int = 0


class StandIn:
    """Series are the symbols of the reference. The first six letters of a symbol as long as that are base and quote; others are quoted in USD."""

    def __init__(self, symbols: list[str], rules: Levels = Levels()) -> None:  # noqa: B008
        self.rules = rules
        pairs = {s: (s[:3], s[3:6]) if len(s) >= 6 and s[:6].isalpha() else (s, "USD") for s in symbols}
        self.reference = Reference(
            venues=[VenueRules(name="V")],
            instruments=[Instrument(symbol=s, px_scale=2, qty_scale=4, base=b, quote=q) for s, (b, q) in pairs.items()],
        )
        self.pairs = pairs
        self.index = {s: i for i, s in enumerate(symbols)}
        k = len(symbols)
        self.mid = np.full(k, 100.0)
        self.bid_size, self.ask_size = np.full(k, 1e6), np.full(k, 1e6)
        self.ts_ns = np.full(k, NOW_NS - 100_000_000)
        self.half_spread_bps = np.full(k, 0.5)
        self.moments: Moments = new_moments(k)
        self.bars_closed, self.bar_end_ns = 0, 0
        self.last_fresh = np.ones(k, np.bool_)
        self.spread_limit = np.full(k, 2.0)
        self.risks: dict[str, State] = {}
        self.policies: dict[str, State] = {}
        self.universes: dict[str, State] = {}
        self.channels: dict[str, Channel] = {}
        self.halted = HaltView()

    def quote(self, symbol: str, mid: float, age_ns: int = 100_000_000, half_spread_bps: float = 0.5, size: float = 1e6) -> None:
        s = self.index[symbol]
        self.mid[s], self.ts_ns[s], self.half_spread_bps[s] = mid, NOW_NS - age_ns, half_spread_bps
        self.bid_size[s] = self.ask_size[s] = size

    def bars(self, returns: np.ndarray, fresh: np.ndarray | None = None) -> None:
        """Take bars (T, k)."""
        fresh = np.ones(returns.shape, np.bool_) if fresh is None else fresh
        update_all(self.moments, np.ascontiguousarray(returns), fresh)
        self.bars_closed += len(returns)
        self.bar_end_ns = NOW_NS - 1_000_000_000
        self.last_fresh = fresh[-1].copy()

    def mids(self, now_ns: int) -> np.ndarray:
        return np.where(now_ns - self.ts_ns > self.rules.quote_age_ns, np.nan, self.mid)

    def fx(self, now_ns: int, currency: str, base: str) -> float:
        if currency == base:
            return 1.0
        mids = self.mids(now_ns)
        for symbol, (of, quote) in self.pairs.items():
            if (of, quote) == (currency, base):
                return float(mids[self.index[symbol]])
            if (of, quote) == (base, currency):
                return float(1.0 / mids[self.index[symbol]])
        return float("nan")

    def spread_limit_bps(self, series: int) -> float:
        return float(self.spread_limit[series])

    def risk(self, book: str) -> State | None:
        return self.risks.get(book)

    def policy(self, book: str) -> State | None:
        return self.policies.get(book)

    def universe(self, book: str) -> State | None:
        return self.universes.get(book)

    def channel(self, venue: str) -> Channel:
        return self.channels.get(venue, Channel())

    def halts(self, now_ns: int) -> HaltView:
        return self.halted


def instrument(symbol: str, **given: Any) -> HedgeInstrument:
    told = {
        "symbol": symbol, "venue": "V", "currency": "USD", "lot": "0.01", "cost_bps": 0.5, "adv_notional": 1e12, "margin_rate": 0.1, **given,
    }  # fmt: skip
    return HedgeInstrument(**told)


def universe(instruments: list[HedgeInstrument], exposures: list[ExposureInstrument] | None = None, **given: Any) -> State:
    told = {"book": BOOK, "base_currency": "USD", "instruments": instruments, "exposures": exposures or [], **given}
    return State(Universe(**told))


def risk(limits: dict[str, float | tuple[float, float]] | None = None, ts_ns: int = NOW_NS - 1_000_000_000, **given: Any) -> State:
    """limits: max_notional by instrument, or (max_notional, headroom)."""
    pairs = {name: x if isinstance(x, tuple) else (x, x) for name, x in (limits or {}).items()}
    told = {
        "portfolio_var": 0.0, "daily_drawdown_pct": 0.0, "treasury_utilisation": 0.0, "volatility": 0.0, "risk_level": "LOW",
        "limits": [InstrumentLimit(instrument=name, max_notional=float(a), headroom_notional=float(b)) for name, (a, b) in pairs.items()],
        **given,
    }  # fmt: skip
    return State(RiskContext(**told), ts_ns)


def policy(**given: Any) -> State:
    return State(GuardPolicy(**{"policy_hash": HASH, **given}))


@dataclass
class Desk:
    """A book, its market and its view, ready to be decided."""

    market: StandIn
    frame: BookFrame
    view: BookView
    rules: HedgeRules = field(default_factory=HedgeRules)

    def bar(self, returns: np.ndarray) -> None:
        """Close bars (T, k), one ratio update each."""
        for one in returns:
            self.market.bars(one[None])
            update_ratios(self.frame, self.view.ratios, self.market, self.rules)


def new_view(frame: BookFrame, ratios: RatioState | None = None) -> BookView:
    """Return a view of a book that holds nothing: to be filled in, arrays in place."""
    m, n = frame.shape
    flags = np.zeros((3, m), np.bool_)
    return BookView(
        book=frame.book, frame=frame, exposure_qty=np.zeros(n), target=np.zeros(n), target_known=np.zeros(n, np.bool_),
        target_stale=np.zeros(n, np.bool_), held_qty=np.zeros(m), flight_qty=np.zeros(m), traded_today=np.zeros(m),
        ratios=new_ratio_state(frame) if ratios is None else ratios, exposure_version="0" * 16, open_versions=set(), unknown=flags[0],
        last_send_ns=np.zeros(m, np.int64), held_by_desk=False, desk_held=flags[1], residual_since_ns=0, start=np.zeros(m),
    )  # fmt: skip


def book_of(
    market: StandIn, told: State, exposures: dict[str, float], held: dict[str, float] | None = None, risk_state: State | None = None,
    policy_state: State | None = None, rules: HedgeRules | None = None, settle: bool = True,
) -> Desk:  # fmt: skip
    """Return a book with exposures and hedges in units. settle: the ratios are those of the covariance as it is, as after many bars."""
    rules = WIDE if rules is None else rules
    market.universes[BOOK] = told
    market.risks[BOOK] = risk() if risk_state is None else risk_state
    market.policies[BOOK] = policy() if policy_state is None else policy_state
    frame = frame_of(told, exposures, market.reference, market)
    view = new_view(frame, new_ratio_state(frame))
    for name, qty in exposures.items():
        view.exposure_qty[frame.exposure_index[name]] = qty
        view.target_known[frame.exposure_index[name]] = True
    for name, qty in (held or {}).items():
        view.held_qty[frame.instrument_index[name]] = qty
    view.exposure_version = "ef" * 8
    if settle:
        update_ratios(frame, view.ratios, market, rules)
    return Desk(market, frame, view, rules)


def factor_returns(rng: np.random.Generator, bars: int, loadings: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Return (bars, k) returns: loadings (k, f) on factors of 10 bps per bar, and a part of their own, own (k,)."""
    k, f = loadings.shape
    return 1e-3 * rng.normal(size=(bars, f)) @ loadings.T + own * rng.normal(size=(bars, k))
