"""A correlated market in virtual time: common factors, noise of one's own, spreads and sizes that follow volatility, and a schedule of upsets.

A model with known covariance, so that hedges can be judged against the truth: no order book, no jumps, no lasting impact of trades. Seeded; it reads
no clock. All times are nanoseconds, all volatilities bps of return per square root of a second.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from connectors.simulator.messages import QUOTE, Message, decimal, quote_bytes
from schemas.reference import Instrument

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

SECOND = 1_000_000_000
MS = 1_000_000
_BLOCK = 512
_HEAT_HALF_LIFE_S = 10.0
_CALM, _HOT = 0.5, 8.0
"""Bounds of the volatility lately, as a multiple of the usual one, that spreads and sizes follow."""
_SIZE_NOISE = 0.35
_QUOTES_AHEAD = 256
_ONE_SIDED = 0.0005
_LOW_CONFIDENCE = 0.001
_PATH, _BOOK, _CLOCK, _RENDER = range(1, 5)
"""Streams of random numbers: what one consumes does not move another."""


@dataclass(frozen=True)
class Series:
    """One instrument of the market. loadings: return in bps per bp of each factor; own_bps: noise of its own.

    touch_notional: size of each side in the quote currency when markets are calm; contract_value: what one unit is worth where that does not depend
    on the price (inverse contracts), else 0. quotes_per_s: mean rate of quotes, which come at uneven times.
    """

    symbol: str
    px: float
    loadings: dict[str, float]
    own_bps: float
    half_spread_bps: float
    touch_notional: float
    quotes_per_s: float = 2.0
    contract_value: float = 0.0


@dataclass(frozen=True)
class Regime:
    """A time in which every volatility is `factor` times the usual one."""

    from_ns: int
    to_ns: int
    factor: float = 3.0


@dataclass(frozen=True)
class Break:
    """A time in which an instrument's loading on a factor is not what it was, or all its loadings where `factor` is empty.

    flip: it changes its sign. decay: it halves every `half_life_s`, and noise of its own takes the place, so that the volatility stays.
    """

    symbol: str
    from_ns: int
    to_ns: int
    factor: str = ""
    kind: Literal["flip", "decay"] = "flip"
    half_life_s: float = 20.0

    def share(self, ts_ns: NDArray[np.int64]) -> Floats:
        """Return what is left of the loading at each time, as a share from -1 to 1."""
        left: Floats = np.full(len(ts_ns), -1.0)
        if self.kind == "decay":
            left = np.exp2(-np.maximum(ts_ns - self.from_ns, 0) / (self.half_life_s * SECOND))
        return np.where((ts_ns >= self.from_ns) & (ts_ns < self.to_ns), left, 1.0)


@dataclass(frozen=True)
class Shortfall:
    """A time in which an instrument's touch sizes are `divisor` times smaller."""

    symbol: str
    from_ns: int
    to_ns: int
    divisor: float = 20.0


@dataclass(frozen=True)
class FactorModel:
    """The whole market: factor volatilities by name, the series, and what upsets it when. Raises ValueError naming what does not fit."""

    factors: dict[str, float]
    series: tuple[Series, ...]
    regimes: tuple[Regime, ...] = ()
    breaks: tuple[Break, ...] = ()
    shortfalls: tuple[Shortfall, ...] = ()
    step_ns: int = 100 * MS
    quote_latency_ns: tuple[int, int] = (1 * MS, 4 * MS)
    symbols: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "symbols", tuple(s.symbol for s in self.series))
        known = set(self.symbols)
        problems = [f"{s.symbol}: factor {name!r} is not known" for s in self.series for name in s.loadings if name not in self.factors]
        problems += [f"{s.symbol}: px, own_bps, sizes and rates must be above 0" for s in self.series
                     if min(s.px, s.own_bps, s.half_spread_bps, s.touch_notional, s.quotes_per_s) <= 0]  # fmt: skip
        named = [b.symbol for b in self.breaks] + [f.symbol for f in self.shortfalls]
        problems += [f"{symbol!r} is not in the market" for symbol in named if symbol not in known]
        for place, upset in enumerate(self.breaks):
            loadings = next((s.loadings for s in self.series if s.symbol == upset.symbol), {})
            if upset.factor and upset.factor not in loadings:
                problems.append(f"{upset.symbol} has no loading on {upset.factor!r} to break")
            for other in self.breaks[:place]:
                apart = upset.from_ns >= other.to_ns or other.from_ns >= upset.to_ns
                if other.symbol == upset.symbol and not apart:
                    problems.append(f"{upset.symbol} has two breaks at one time")
        if self.step_ns < MS:
            problems.append("step_ns must be a millisecond or more")
        if problems:
            raise ValueError("factor market: " + "; ".join(problems))


class Touch(NamedTuple):
    """The best bid and ask at one moment: prices in units of 10^-px_scale, sizes in units of 10^-qty_scale."""

    bid: int
    ask: int
    bid_size: int
    ask_size: int


class FactorMarket:
    """The market's path, extended as it is asked for and forgotten behind the reader (`forget`).

    instruments: the reference's, in its order; each must have a series of its name. run: hex digits that make this run's ids its own.
    """

    def __init__(self, instruments: Sequence[Instrument], model: FactorModel, start_ns: int, seed: int, run: str = "0") -> None:
        by_name = {s.symbol: s for s in model.series}
        missing = [i.symbol for i in instruments if i.symbol not in by_name]
        if missing:
            raise ValueError(f"factor market: no series for {', '.join(missing)}")
        self.instruments = tuple(instruments)
        self.model = model
        self.start_ns = start_ns
        self.run = run
        self._series = [by_name[i.symbol] for i in instruments]
        self._place = {i.symbol: n for n, i in enumerate(instruments)}
        self._factor = {name: n for n, name in enumerate(model.factors)}
        k = len(instruments)
        self._vol = np.array(list(model.factors.values())) * 1e-4
        self._own = np.array([s.own_bps for s in self._series]) * 1e-4
        self._load = np.zeros((k, len(model.factors)))
        for n, s in enumerate(self._series):
            for name, value in s.loadings.items():
                self._load[n, self._factor[name]] = value
        self._usual = (self._load * self._vol) ** 2 @ np.ones(len(self._vol)) + self._own**2
        self._spread = np.array([s.half_spread_bps for s in self._series]) * 1e-4
        self._tick = np.array([10.0**i.px_scale for i in instruments])
        self._unit = np.array([10.0**i.qty_scale for i in instruments])
        self._touch_notional = np.array([s.touch_notional for s in self._series])
        self._worth = np.array([s.contract_value for s in self._series])
        self._multiplier = np.array([float(i.multiplier) for i in instruments])
        self._path = np.random.default_rng([seed, _PATH])
        self._book = np.random.default_rng([seed, _BOOK])
        self._clocks = [np.random.default_rng([seed, _CLOCK, n]) for n in range(k)]
        self._render = [np.random.default_rng([seed, _RENDER, n]) for n in range(k)]
        self._log = np.log(np.array([s.px for s in self._series]))
        self._heat = np.ones(k)
        self._first = 0
        self._blocks: list[tuple[Ints, Ints, Ints, Ints]] = []
        self._pending: list[list[int]] = [[] for _ in range(k)]
        self._last_event = [
            start_ns + int(clock.random() * SECOND / s.quotes_per_s) for clock, s in zip(self._clocks, self._series, strict=True)
        ]
        self._number = [0] * k

    # --- the path -------------------------------------------------------------------------------------------------------------------

    def book(self, instrument: int, ts_ns: int) -> Touch:
        """Return the touch that stands at a time not more than a block (512 steps) behind the latest `forget`."""
        step = max(0, (ts_ns - self.start_ns) // self.model.step_ns)
        block, row = divmod(step, _BLOCK)
        if block < self._first:
            raise ValueError(f"the market at {ts_ns} is forgotten")
        while block - self._first >= len(self._blocks):
            self._extend()
        return Touch(*(int(part[row, instrument]) for part in self._blocks[block - self._first]))

    def touch(self, instrument: int, ts_ns: int) -> tuple[int, int]:
        """Return (bid, ask) at a time."""
        return self.book(instrument, ts_ns)[:2]

    def mid(self, symbol: str, ts_ns: int) -> float:
        """Return the mid as a price."""
        n = self._place[symbol]
        bid, ask = self.touch(n, ts_ns)
        return (bid + ask) / 2 / float(self._tick[n])

    def forget(self, ts_ns: int) -> None:
        """Drop blocks of the path that end more than a block before `ts_ns`."""
        keep = (ts_ns - self.start_ns) // self.model.step_ns // _BLOCK - 1
        while self._first < keep and self._blocks:
            del self._blocks[0]
            self._first += 1

    def covariance(self, ts_ns: int) -> Floats:
        """Return the true covariance `(k, k)` of log returns per second at a time, in the order of the instruments."""
        at = np.array([ts_ns], np.int64)
        load, own2 = self._load.copy(), self._own**2
        for upset in self.model.breaks:
            n = self._place[upset.symbol]
            share = float(upset.share(at)[0])
            for f in self._broken(upset):
                own2[n] += (1 - share**2) * (self._load[n, f] * self._vol[f]) ** 2
                load[n, f] *= share
        scaled = load * self._vol
        out: Floats = (scaled @ scaled.T + np.diag(own2)) * float(self._volatility(at)[0]) ** 2
        return out

    def volatility(self, ts_ns: int) -> float:
        """Return how many times the usual volatility is in force."""
        return float(self._volatility(np.array([ts_ns], np.int64))[0])

    def _volatility(self, ts_ns: NDArray[np.int64]) -> Floats:
        found = np.ones(len(ts_ns))
        for regime in self.model.regimes:
            found[(ts_ns >= regime.from_ns) & (ts_ns < regime.to_ns)] *= regime.factor
        return found

    def _broken(self, upset: Break) -> list[int]:
        n = self._place[upset.symbol]
        return [self._factor[upset.factor]] if upset.factor else [f for f in range(len(self._vol)) if self._load[n, f]]

    def _extend(self) -> None:
        """Draw the next block: logs of mids, then touches around them."""
        model, k = self.model, len(self._series)
        begin = (self._first + len(self._blocks)) * _BLOCK
        at = self.start_ns + (begin + np.arange(_BLOCK)) * model.step_ns
        root = math.sqrt(model.step_ns / SECOND)
        common = self._path.standard_normal((_BLOCK, len(self._vol))) * self._vol
        alone = self._path.standard_normal((_BLOCK, k))
        own2 = np.tile(self._own**2, (_BLOCK, 1))
        moves = common @ self._load.T
        for upset in model.breaks:
            n, share = self._place[upset.symbol], upset.share(at)
            for f in self._broken(upset):
                moves[:, n] += (share - 1) * self._load[n, f] * common[:, f]
                own2[:, n] += (1 - share**2) * (self._load[n, f] * self._vol[f]) ** 2
        moves = (moves + alone * np.sqrt(own2)) * (root * self._volatility(at))[:, None]
        logs = self._log + np.cumsum(moves, axis=0)
        self._log = logs[-1]
        heat = self._heats(moves**2 / (self._usual * root**2))
        mids = np.maximum(np.rint(np.exp(logs) * self._tick), 100.0)
        half = np.maximum(1.0, np.rint(mids * self._spread * (0.4 + 0.6 * heat)))
        worth = np.where(self._worth > 0, self._worth, mids / self._tick * self._multiplier)
        depth = self._touch_notional / worth / heat
        for gone in model.shortfalls:
            depth[(at >= gone.from_ns) & (at < gone.to_ns), self._place[gone.symbol]] /= gone.divisor
        sizes = [
            np.maximum(1.0, np.rint(depth * np.exp(_SIZE_NOISE * self._book.standard_normal((_BLOCK, k))) * self._unit)) for _ in range(2)
        ]
        bid, ask, bid_size, ask_size = (part.astype(np.int64) for part in (mids - half, mids + half, *sizes))
        self._blocks.append((bid, ask, bid_size, ask_size))

    def _heats(self, squares: Floats) -> Floats:
        """Return the volatility lately as a multiple of the usual one `(n, k)`: exponentially weighted squares of the moves."""
        keep = 0.5 ** (self.model.step_ns / SECOND / _HEAT_HALF_LIFE_S)
        out = np.empty_like(squares)
        heat = self._heat
        for t in range(len(squares)):
            heat = keep * heat + (1 - keep) * squares[t]
            out[t] = heat
        self._heat = heat
        return np.clip(np.sqrt(out), _CALM, _HOT)

    # --- quotes ---------------------------------------------------------------------------------------------------------------------

    def quotes(self, end_ns: int) -> list[Message]:
        """Return the quotes of events before `end_ns` that were not returned yet, in order of their due times."""
        out = []
        for n in range(len(self._series)):
            pending = self._pending[n]
            while not pending or pending[-1] < end_ns:
                self._plan(n)
            place = 0
            while pending[place] < end_ns:
                out.append(self._quote(n, pending[place]))
                place += 1
            del pending[:place]
        out.sort(key=lambda message: (message.due_ns, message.key))
        return out

    def _plan(self, n: int) -> None:
        gap = SECOND / self._series[n].quotes_per_s
        gaps = np.maximum(MS, (gap * self._clocks[n].uniform(0.3, 1.7, _QUOTES_AHEAD)).astype(np.int64))
        times = self._last_event[n] + np.cumsum(gaps)
        self._last_event[n] = int(times[-1])
        self._pending[n] += times.tolist()

    def _quote(self, n: int, event_ns: int) -> Message:
        instrument = self.instruments[n]
        touch = self.book(n, event_ns)
        p, q = instrument.px_scale, instrument.qty_scale
        roll, late = self._render[n].random(2)
        low, high = self.model.quote_latency_ns
        due = event_ns + low + int(late * (high - low))
        self._number[n] += 1
        value = quote_bytes(
            f"{self.run}-{instrument.symbol}-{self._number[n]}",
            due,
            instrument.symbol,
            "" if roll < _ONE_SIDED / 2 else decimal(touch.bid, p),
            "" if _ONE_SIDED / 2 <= roll < _ONE_SIDED else decimal(touch.ask, p),
            decimal(touch.bid_size, q),
            decimal(touch.ask_size, q),
            event_ns,
            0.5 if roll > 1 - _LOW_CONFIDENCE else 1.0,
        )
        return Message(QUOTE, instrument.symbol.encode(), value, due, "QUOTE")
