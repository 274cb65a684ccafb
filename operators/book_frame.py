"""What of a book does not change from decision to decision: names, series, sizes, priors, and the memory its decisions are made in.

A `BookFrame` is made per universe and set of exposure symbols; a `RatioState` holds the ratios in use and moves once a bar; a `BookView` is what
the lane knows at a moment, in arrays aligned with the frame. May not hold a position, know a topic or decide. Rules: docs/hedging.md, docs/ratios.md.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from operators.hedge_market import HedgeMarket, UniverseState
from operators.optimiser import Problem, Solution, Space, empty_problem, empty_solution, space_for
from operators.proposal import Exposures, Limits, Reasons
from operators.ratios import (
    ELIGIBLE,
    FAST,
    PRIOR_SAME_UNDERLYING,
    SLOW,
    TAU_SAME_UNDERLYING,
    WARMUP,
    ZERO_VARIANCE,
    Bools,
    Floats,
    Ints,
    Ratios,
    Room,
    Watch,
    condition_psd,
    correlation,
    covariance,
    estimate,
    move_all,
    n_eff,
    new_ratios,
    new_room,
    new_watch,
    watch_correlations,
)
from schemas.hedging import ExposureInstrument, HedgeInstrument, Universe
from schemas.reference import Instrument, Reference


@dataclass(frozen=True, slots=True)
class HedgeRules:
    """Every level of a decision. Times in ns, shares as fractions, costs in bps of notional."""

    horizon_ns: int = 120_000_000_000
    """T: the time over which risk and cost are weighed."""
    uncovered: float = 0.005
    """w: the share of the reference exposure that a direct hedge at reference cost may leave open; from 5 % on costs alone break the coverage target
    (docs/decisions/0009)."""
    dust: float = 1e-4
    """Risk under this share of the book's limit is none."""
    coverage_target: float = 0.95
    min_variance_reduction: float = 0.01
    overhedge: float = 1.02
    """Largest −(Be)ᵀS·p/‖Be‖² after a hedge."""
    spread_tolerance: float = 1.05
    """A spread is wide when above the usual one by more than this factor: one tick is more bps at a lower price."""
    envelope_ns: int = 2_000_000_000
    """A residual older than this is hedged at any spread within the cost cap (docs/decisions/0009)."""
    cooldown_ns: int = 500_000_000
    risk_cut: float = 0.2
    """A hedge that takes more than this share of the risk (σ) away does not wait for the cooldown."""
    risk_age_ns: int = 60_000_000_000
    cost_weight: float = 1.0
    """γ"""
    carry_weight: float = 0.0
    """α; carry itself is 0 until something is known of it."""
    funding_per_year: float = 0.0
    """Price of a unit of margin."""
    impact: float = 0.0
    """Impact, in half spreads: of a quote as it is, not of the trade's size."""
    least_cost_bps: float = 0.01
    """The reference cost is at least this, so that the risk aversion is never 0."""
    limit_share: float = 1e-3
    """Of the sum of position limits: the reference exposure where the universe names none."""
    degraded_cost: float = 2.0
    """Factor on costs while the order channel is DEGRADED."""
    tier_shares: tuple[float, float, float] = (1.0, 0.5, 0.2)
    touches: float = 5.0
    var_z: float = 2.326
    """Normal quantile at 99 %."""
    var_horizon_ns: int = 86_400_000_000_000
    kkt_most: float = 1e-6
    """Violation up to which an answer the solver calls inexact is traded; it is feasible and no worse than no trade in any case."""
    caution_buffer: float = 2.0
    """Factor on a ratio's buffer while its correlation is broken."""
    caution_tau: float = 0.5
    """Factor on its prior's width meanwhile."""


# --- the frame --------------------------------------------------------------------------------------------------------------------


class Sizes(NamedTuple):
    """How quantities of symbols become notionals in the book's base currency: qty × scale × (mid where priced) × fx of the currency; (q,) each."""

    scale: Floats
    """Multiplier; of an inverse contract its value in its quote currency."""
    priced: Bools
    """Whether the mid is a factor: not for inverse contracts (risk is linear in the coin's return) and not for currency pairs (base amount × cross)."""
    currency: Ints
    """int64, place in `BookFrame.currencies`."""


@dataclass(slots=True)
class Workspace:
    """Reusable memory of a book's decisions for m instruments, n exposures and s scenarios; contents mean nothing between decisions."""

    problem: Problem
    solution: Solution
    space: Space
    exposures: Exposures
    limits: Limits
    reasons: Reasons
    distance: Floats
    bound_legs: Ints
    """(m,) int64, what binds at each leg."""
    bound_couplings: Ints
    """(s + 1,) int64, what binds of the scenarios and the capital."""


def new_workspace(m: int, n: int, s: int) -> Workspace:
    """Return memory for m instruments, n exposures and s scenarios."""
    z, whole = np.zeros, np.int64
    exposures = Exposures(z(n), z((m, n)), z((m, m)), z(m), z(m), z(m), z(m), z(m), z(m), z((s, n)), z((s, m)), z(s))
    limits = Limits(z(m), z(m), z(m, whole), z(m), z(m), z(m), z(m), z(m, whole), z(m, whole), z(m, whole), z(m, whole))
    return Workspace(
        empty_problem(m, s), empty_solution(m, s), space_for(m, s), exposures, limits, Reasons(z(m, whole), z(m, whole)), z(m), z(m, whole),
        z(s + 1, whole),
    )  # fmt: skip


@dataclass(slots=True)
class PerBar:
    """What of the market only changes when a bar closes, as a book needs it; u distinct series, and one more without any variance at place u."""

    stamp: tuple[int, int]
    """(bars closed, end of the last one) it was made at."""
    cov: Floats
    """(u + 1, u + 1) covariance per bar, positive semidefinite."""
    s_xx: Floats
    """(m, m) its part of the instruments."""
    ready: Bools
    """(u + 1,) enough bars of its own."""
    moving: Bools
    """(u + 1,) variance above the least."""
    spread_limit_bps: Floats
    """(m,)"""
    digest: bytes
    """SHA-256 of all of it."""


class RatioFacts(NamedTuple):
    """What follows from a `RatioState` alone; kept until one of its arrays has other bits."""

    copies: tuple[NDArray[np.generic], ...]
    """used, b, codes, broken as they were."""
    digest: bytes
    """SHA-256 of them."""
    b: Floats
    """(m, n) ratios in use, 0 where there is none."""
    eligible: Bools
    """(n,) an instrument is eligible."""
    warming: Bools
    """(n,) none is, and one only warms up."""
    still: Bools
    """(n,) none is eligible or warms up, and one has no variance."""
    unhedged: Bools
    """(n,) no direct hedge, nothing eligible, no ratio."""
    broken: bool
    """Whether a relation in use is broken."""


@dataclass(slots=True)
class BookFrame:
    """The unchanging part of a book: n exposures in order of their symbols, m instruments in the universe's order. Made by `frame_of`."""

    book: str
    universe: Universe
    version: str
    """Of the universe: 16 hex digits."""
    exposures: tuple[str, ...]
    instruments: tuple[str, ...]
    venues: tuple[str, ...]
    """(m,)"""
    exposure_index: dict[str, int]
    instrument_index: dict[str, int]
    exposure_series: Ints
    """(n,) int64, −1 where the reference data do not know the symbol."""
    instrument_series: Ints
    """(m,) int64, −1 likewise."""
    exposure_sizes: Sizes
    instrument_sizes: Sizes
    currencies: tuple[str, ...]
    exposure_underlying: tuple[str | None, ...]
    instrument_underlying: tuple[str | None, ...]
    direct: Ints
    """(n,) int64: the instrument the exposure itself is, −1 for none."""
    secondary: Bools
    """(m,) whether only used when the primary cannot take enough."""
    prior: Floats
    """(m, n) given prior of a ratio: 1 on the same underlying, NaN for none."""
    tau: Floats
    """(m, n) its width."""
    lot: Floats
    """(m,) units."""
    lot_units: tuple[Decimal, ...]
    """(m,) the same, exactly."""
    px_scale: Ints
    """(m,) int64."""
    min_notional: Floats
    margin_rate: Floats
    tier: Ints
    cost_bps: Floats
    adv_notional: Floats
    max_adv_pct: Floats
    series: Ints
    """(u,) int64: the distinct series of both."""
    exposure_place: Ints
    """(n,) int64: place in `series`, u where the series is not known."""
    instrument_place: Ints
    """(m,) int64 likewise."""
    indirect: Ints
    """Exposures (numbers) whose ratios are estimated."""
    candidates: Ints
    """Instruments (numbers) they are estimated on: the primaries with a series; all with one when there is no such primary."""
    room: Room
    estimated: Ratios
    digest: bytes = b""
    """SHA-256 of what the frame is of: the universe's version and the exposures."""
    per_bar: PerBar | None = None
    facts: RatioFacts | None = None
    spaces: dict[int, Workspace] = field(default_factory=dict)
    """By number of scenarios."""
    known: dict[str, tuple[object, bytes, object]] = field(default_factory=dict)
    """What was derived from the newest state of each kind: (the state, digest, derived)."""

    @property
    def shape(self) -> tuple[int, int]:
        """Return (instruments, exposures)."""
        return len(self.instruments), len(self.exposures)

    def workspace(self, scenarios: int) -> Workspace:
        """Return the memory for so many scenarios."""
        found = self.spaces.get(scenarios)
        if found is None:
            m, n = self.shape
            found = new_workspace(m, n, scenarios)
            found.exposures.margin_rate[:] = self.margin_rate
            found.limits.tier[:] = self.tier
            found.limits.adv_notional[:] = self.adv_notional
            found.limits.max_adv_pct[:] = self.max_adv_pct
            self.spaces = {scenarios: found}
        return found


def _same_underlying(one: str | None, of_one: Instrument | None, other: str | None, of_other: Instrument | None) -> bool:
    """Return whether two symbols move as one: the underlying both name, or the same pair of currencies where one of them names none."""
    if one is not None and other is not None:
        return one == other
    if of_one is None or of_other is None or not of_one.base or not of_one.quote:
        return False
    return (of_one.base, of_one.quote) == (of_other.base, of_other.quote)


def frame_of(universe: UniverseState, exposure_symbols: Iterable[str], reference: Reference, market: HedgeMarket) -> BookFrame:
    """Return the frame of a book for a universe and the symbols it has exposure in (any order; sorted here, doubles once).

    A symbol the universe lists twice counts as it is listed first. What is in neither list is LINEAR with the reference data's multiplier and
    quote currency; what the reference data do not know either has no series: it is never priced.
    """
    payload = universe.payload
    known = {one.symbol: one for one in reference.instruments}
    listed: dict[str, HedgeInstrument] = {}
    for one in payload.instruments:
        listed.setdefault(one.symbol, one)
    told: dict[str, HedgeInstrument | ExposureInstrument] = {**{one.symbol: one for one in reversed(payload.exposures)}, **listed}
    symbols, instruments = tuple(sorted(set(exposure_symbols))), tuple(listed)
    n, m = len(symbols), len(instruments)
    currencies: dict[str, int] = {}

    def sizes_of(names: tuple[str, ...]) -> Sizes:
        sizes = Sizes(np.ones(len(names)), np.ones(len(names), np.bool_), np.zeros(len(names), np.int64))
        for i, symbol in enumerate(names):
            of, data = told.get(symbol), known.get(symbol)
            if of is None:
                sizes.scale[i] = data.multiplier if data is not None else np.nan
                currency = data.quote if data is not None else ""
            else:
                sizes.scale[i] = of.multiplier
                sizes.priced[i] = of.kind == "LINEAR"
                # an amount of a currency pair is one of its base currency
                currency = data.base if of.kind == "FX" and data is not None and data.base else of.currency
            sizes.currency[i] = currencies.setdefault(currency, len(currencies))
        return sizes

    exposure_sizes, instrument_sizes = sizes_of(symbols), sizes_of(instruments)
    underlying = tuple(of.underlying if (of := told.get(symbol)) is not None else None for symbol in symbols)
    of_instruments = tuple(one.underlying for one in listed.values())
    exposure_series = np.array([market.index.get(symbol, -1) for symbol in symbols], np.int64)
    instrument_series = np.array([market.index.get(symbol, -1) for symbol in instruments], np.int64)
    place = {symbol: j for j, symbol in enumerate(instruments)}
    direct = np.array([place.get(symbol, -1) for symbol in symbols], np.int64)
    prior, tau = np.full((2, m, n), np.nan)
    for i, symbol in enumerate(symbols):
        for j, instrument in enumerate(instruments):
            if _same_underlying(underlying[i], known.get(symbol), of_instruments[j], known.get(instrument)):
                prior[j, i], tau[j, i] = PRIOR_SAME_UNDERLYING, TAU_SAME_UNDERLYING
    series = np.unique(np.concatenate([exposure_series[exposure_series >= 0], instrument_series[instrument_series >= 0]]))
    secondary = np.array([one.secondary_of is not None and one.secondary_of in listed for one in listed.values()], np.bool_)
    usable = instrument_series >= 0
    candidates = np.flatnonzero(usable & ~secondary)
    if not len(candidates):
        candidates = np.flatnonzero(usable)
    return BookFrame(
        book=payload.book, universe=payload, version=universe.version, exposures=symbols, instruments=instruments,
        venues=tuple(one.venue for one in listed.values()),
        exposure_index={symbol: i for i, symbol in enumerate(symbols)}, instrument_index=place,
        exposure_series=exposure_series, instrument_series=instrument_series, exposure_sizes=exposure_sizes, instrument_sizes=instrument_sizes,
        currencies=tuple(currencies), exposure_underlying=underlying, instrument_underlying=of_instruments, direct=direct, secondary=secondary,
        prior=prior, tau=tau, lot=np.array([float(one.lot) for one in listed.values()]), lot_units=tuple(Decimal(one.lot) for one in listed.values()),
        px_scale=np.array([known[symbol].px_scale if symbol in known else 0 for symbol in instruments], np.int64),
        min_notional=np.array([one.min_notional for one in listed.values()]), margin_rate=np.array([one.margin_rate for one in listed.values()]),
        tier=np.array([one.tier for one in listed.values()], np.int64), cost_bps=np.array([one.cost_bps for one in listed.values()]),
        adv_notional=np.array([one.adv_notional for one in listed.values()]), max_adv_pct=np.array([one.max_adv_pct for one in listed.values()]),
        series=series, exposure_place=_places(exposure_series, series), instrument_place=_places(instrument_series, series),
        indirect=np.flatnonzero((direct < 0) & (exposure_series >= 0)), candidates=candidates,
        room=new_room(max(len(candidates), 1)), estimated=new_ratios(len(candidates)),
        digest=hashlib.sha256(repr((universe.version, symbols)).encode()).digest(),
    )  # fmt: skip


def _places(of: Ints, series: Ints) -> Ints:
    """Return where each series is in the sorted `series`; its length for −1."""
    return np.where(of >= 0, np.searchsorted(series, np.maximum(of, 0)), len(series)).astype(np.int64)


@lru_cache(maxsize=64)
def bars_ready(n_ready: float, lam: float) -> int:
    """Return the bars from which a memory of lam is worth `n_ready` bars (33 by default). Raises ValueError where it never is."""
    if n_ready >= (1.0 + lam) / (1.0 - lam):
        raise ValueError(f"ratios: n_ready {n_ready} is never reached with a memory of {lam}")
    bars = 0
    while n_eff(lam, bars) < n_ready:
        bars += 1
    return bars


def per_bar(frame: BookFrame, market: HedgeMarket) -> PerBar:
    """Return what only changes when a bar closes; made anew at the first call after one."""
    stamp = (market.bars_closed, market.bar_end_ns)
    found = frame.per_bar
    if found is not None and found.stamp == stamp:
        return found
    m, u = len(frame.instruments), len(frame.series)
    levels, moments = market.rules.ratio, market.moments
    cov = np.zeros((u + 1, u + 1))
    ready, moving = np.zeros((2, u + 1), np.bool_)
    if u:
        inner = np.zeros((u, u))
        _, same = covariance(moments, levels.memory, frame.series, inner)
        if not same:
            condition_psd(inner, np.zeros((u, u)))
        cov[:u, :u] = inner
        own = moments.n[frame.series * (frame.series + 3) // 2]
        ready[:u] = own >= bars_ready(levels.n_ready, float(moments.lams[levels.memory]))
        moving[:u] = np.diagonal(inner) > levels.variance_least
    spread = np.array([market.spread_limit_bps(int(s)) if s >= 0 else np.inf for s in frame.instrument_series])
    s_xx = np.ascontiguousarray(cov[np.ix_(frame.instrument_place, frame.instrument_place)]) if m else np.zeros((0, 0))
    digest = hashlib.sha256()
    for array in (cov, ready, spread):
        digest.update(array.tobytes())
    frame.per_bar = PerBar(stamp, cov, s_xx, ready, moving, spread, digest.digest())
    return frame.per_bar


# --- ratios -----------------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class RatioState:
    """The ratios of a book's exposures to its instruments, (m, n) each unless said otherwise; kept between decisions, moved once a bar."""

    used: Floats
    """In use; NaN before there is one (counts as 0). 1 for an exposure that is the instrument itself."""
    b: Floats
    """The newest shrunk estimate."""
    raw: Floats
    """Regression without a prior; NaN where not eligible."""
    se: Floats
    """Standard error of b; NaN for none."""
    codes: Ints
    """int64: ELIGIBLE, WARMUP, ZERO_VARIANCE or WEAK_RELATION of operators.ratios."""
    n_eff: Floats
    """(n,) effective bars."""
    broken: Bools
    """Whether the correlation is broken."""
    watch: Watch
    """One row per pair of `watched`."""
    moved_ns: Ints
    """(m, n) end of the bar at which the pair last moved; 0 before."""
    bars: int = -1
    """market.bars_closed at the last estimate; −1: not since the frame was made."""


class Breakdown(NamedTuple):
    """A correlation broke, or is whole again."""

    exposure: str
    instrument: str
    begins: bool
    rho_fast: float
    rho_slow: float
    se: float
    ratio: float
    """In use."""


def new_ratio_state(frame: BookFrame) -> RatioState:
    """Return the ratios of a book before its first bar: unit columns for direct hedges, nothing else."""
    m, n = frame.shape
    used, b, raw, se = np.full((4, m, n), np.nan)
    codes = np.full((m, n), WARMUP)
    for i in np.flatnonzero(frame.direct >= 0):
        used[:, i], b[:, i] = 0.0, 0.0
        used[frame.direct[i], i], b[frame.direct[i], i] = 1.0, 1.0
        codes[frame.direct[i], i] = ELIGIBLE
    pairs = len(frame.indirect) * len(frame.candidates)
    # the window is that of realised effectiveness, which is not watched by pair
    broken, moved_ns = np.zeros((m, n), np.bool_), np.zeros((m, n), np.int64)
    return RatioState(used, b, raw, se, codes.astype(np.int64), np.zeros(n), broken, new_watch(pairs, 1), moved_ns)


def ratio_facts(frame: BookFrame, state: RatioState) -> RatioFacts:
    """Return what follows from the ratios; looked at anew when one of the arrays has changed."""
    arrays = (state.used, state.b, state.codes, state.broken)
    found = frame.facts
    if found is not None and all(
        np.array_equal(one.view(np.uint8), other.view(np.uint8)) for one, other in zip(arrays, found.copies, strict=True)
    ):  # fmt: skip
        return found
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).data)
    b = np.where(np.isnan(state.used), 0.0, state.used)
    eligible = (state.codes == ELIGIBLE).any(axis=0)
    warming = (state.codes == WARMUP).any(axis=0) & ~eligible
    still = (state.codes == ZERO_VARIANCE).any(axis=0) & ~warming & ~eligible
    unhedged = (frame.direct < 0) & ~eligible & ~(b != 0.0).any(axis=0)
    broken = bool((state.broken & (b != 0.0)).any())
    frame.facts = RatioFacts(tuple(array.copy() for array in arrays), digest.digest(), b, eligible, warming, still, unhedged, broken)
    return frame.facts


def carried_over(old: BookFrame, state: RatioState, new: BookFrame) -> RatioState:
    """Return the ratios for another frame of the book: pairs both frames have keep theirs, others start as in `new_ratio_state`.

    The next `update_ratios` estimates all of them, so that what is new need not wait for the bar's end.
    """
    result = new_ratio_state(new)
    exposures = [(i, old.exposure_index[name]) for i, name in enumerate(new.exposures) if name in old.exposure_index]
    instruments = [(j, old.instrument_index[name]) for j, name in enumerate(new.instruments) if name in old.instrument_index]
    to_row = {(int(i), int(j)): row for row, (i, j) in enumerate(watched(new))}
    from_row = {(int(i), int(j)): row for row, (i, j) in enumerate(watched(old))}
    for i, was_i in exposures:
        if (new.direct[i] >= 0) != (old.direct[was_i] >= 0):
            continue
        result.n_eff[i] = state.n_eff[was_i]
        for j, was_j in instruments:
            for array, source in (
                (result.used, state.used), (result.b, state.b), (result.raw, state.raw), (result.se, state.se), (result.codes, state.codes),
                (result.broken, state.broken), (result.moved_ns, state.moved_ns),
            ):  # fmt: skip
                array[j, i] = source[was_j, was_i]
            row, was = to_row.get((i, j)), from_row.get((was_i, was_j))
            if row is not None and was is not None:
                for target, origin in zip(result.watch, state.watch, strict=True):
                    target[row] = origin[was]
    return result


def watched(frame: BookFrame) -> list[tuple[int, int]]:
    """Return the (exposure, instrument) pairs whose correlation is watched, in the order of the rows of `RatioState.watch`."""
    return [(int(i), int(j)) for i in frame.indirect for j in frame.candidates]


def update_ratios(frame: BookFrame, state: RatioState, market: HedgeMarket, rules: HedgeRules) -> list[Breakdown]:
    """Estimate and move the ratios of every exposure that is no direct hedge, once per closed bar; return correlations that broke or mended.

    A second call for the same bar changes nothing; one after the frame was made anew estimates again and moves, and watches, only pairs that did not
    move in this bar. If several bars closed since the last call the ratio moves once, and only the last bar's correlation is looked at.

    Cost: about 15 µs of processor time per exposure with six instruments, 126 µs with forty.
    """
    if state.bars == market.bars_closed or market.bars_closed == 0:
        return []
    state.bars = market.bars_closed
    exposures, candidates, moments = frame.indirect, frame.candidates, market.moments
    if not len(exposures) or not len(candidates):
        return []
    levels, out = market.rules.ratio, frame.estimated
    ys = np.repeat(frame.exposure_series[exposures], len(candidates))
    xs = np.tile(frame.instrument_series[candidates], len(exposures))
    events = np.zeros(len(ys), np.int64)
    settled = np.equal(state.moved_ns[candidates][:, exposures].T, market.bar_end_ns)  # (exposures, candidates): by an earlier call
    due = np.flatnonzero(~settled.ravel())
    if len(due) == len(ys):
        watch_correlations(state.watch, moments, FAST, SLOW, ys, xs, market.last_fresh, levels, events)
    elif len(due):
        part, told = Watch._make(array[due] for array in state.watch), np.zeros(len(due), np.int64)
        watch_correlations(part, moments, FAST, SLOW, ys[due], xs[due], market.last_fresh, levels, told)
        for array, piece in zip(state.watch, part, strict=True):
            array[due] = piece
        events[due] = told
    active = state.watch.active.any(axis=1).reshape(len(exposures), len(candidates))
    series = np.ascontiguousarray(frame.instrument_series[candidates])
    for a, i in enumerate(exposures):
        state.broken[candidates, i] = active[a]
        tighten = np.where(active[a], rules.caution_tau, 1.0)
        patience = np.where(active[a], rules.caution_buffer, 1.0)
        estimate(
            moments, int(frame.exposure_series[i]), series, np.ascontiguousarray(frame.prior[candidates, i]),
            np.ascontiguousarray(frame.tau[candidates, i]), tighten, levels, out, frame.room,
        )  # fmt: skip
        used = np.ascontiguousarray(state.used[candidates, i])
        move_all(used, out, patience, levels)
        moved = ~settled[a] | np.isnan(state.used[candidates, i])
        state.used[candidates[moved], i] = used[moved]
        state.moved_ns[candidates, i] = market.bar_end_ns
        state.b[candidates, i] = out.b
        state.raw[candidates, i] = out.raw
        state.se[candidates, i] = out.b_se
        state.codes[candidates, i] = out.reason
        state.n_eff[i] = out.figures[0]
    result = []
    for row in np.flatnonzero(events):
        i, j = exposures[row // len(candidates)], candidates[row % len(candidates)]
        if state.codes[j, i] != ELIGIBLE and not abs(state.used[j, i]) > 0.0:
            continue
        fast, slow = (correlation(moments, which, int(ys[row]), int(xs[row])) for which in (FAST, SLOW))
        result.append(
            Breakdown(
                frame.exposures[i], frame.instruments[j], bool(events[row] > 0), fast, slow, float(state.se[j, i]), float(state.used[j, i])
            )
        )
    return result


def zero_for_nan(values: Floats) -> Floats:
    """Return the values with 0 for NaN, sooner than numpy's nan_to_num, which looks for infinities too."""
    return np.where(np.isnan(values), 0.0, values)


def largest_pairs(frame: BookFrame, state: RatioState, e: Floats, most: int = 64) -> list[tuple[int, int]]:
    """Return (exposure, instrument) of the ratios that matter most: by the hedge they ask for, |used·e|, then by number; none that ask for nothing.

    e `(n,)`, NaN counts as 0.
    """
    m, n = frame.shape
    weight = np.abs(zero_for_nan(state.used) * zero_for_nan(e)).T.reshape(m * n)
    order = np.argsort(-weight, kind="stable")[:most]
    return [(int(at) // m, int(at) % m) for at in order if weight[at] > 0.0]


# --- what the lane knows ----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class BookView:
    """What the lane knows of a book at a moment; arrays aligned with the frame (n exposures, m instruments), quantities in units.

    Hedges are not in `exposure_qty`. A quantity in flight counts at its full remaining size. Times in ns, 0 for never.
    """

    book: str
    frame: BookFrame | None
    """None: the book has no universe."""
    exposure_qty: Floats
    """(n,) position by fills that are no hedges."""
    target: Floats
    """(n,) notional to be held; not read where not known."""
    target_known: Bools
    """(n,)"""
    target_stale: Bools
    """(n,) whether the allocation is past its time to live."""
    held_qty: Floats
    """(m,) position by fills of hedges."""
    flight_qty: Floats
    """(m,) signed."""
    traded_today: Floats
    """(m,) notional of hedges traded today at the leg's venue, those in flight too."""
    ratios: RatioState
    exposure_version: str
    open_versions: set[str]
    """Exposure versions of hedges that were sent and have not ended."""
    unknown: Bools
    """(m,) whether something in flight is UNKNOWN."""
    last_send_ns: Ints
    """(m,)"""
    held_by_desk: bool
    desk_held: Bools
    """(m,)"""
    residual_since_ns: int
    """Since when the coverage is below 95 %; 0 while it is not."""
    start: Floats
    """(m,) where the search begins: the last decision's h if it was not sent, else zeros."""
    unwound: dict[str, float] = field(default_factory=dict)
    """Notional already sent, by the id of the policy's unwind instruction."""
    allocation_ts_ns: int = 0
    """Of the oldest allocation in force; 0 for none."""
