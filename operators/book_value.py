"""A book as it is at a moment: valued, its risk measured, its inputs hashed; and the record a decision about it fills in.

May not decide. Rules: docs/hedging.md, "The decision". Notionals are signed and in the book's base currency; n exposures, m instruments, s scenarios.
NaN is "not known".
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import NamedTuple, TypeVar

import numpy as np

from operators.book_frame import (
    BookFrame,
    BookView,
    HedgeRules,
    PerBar,
    RatioFacts,
    Sizes,
    Workspace,
    per_bar,
    ratio_facts,
)
from operators.halts import HaltView
from operators.hedge_market import HedgeMarket, PolicyState, RiskState
from operators.proposal import Terms
from operators.ratios import Bools, Floats, Ints, coverage, needed, quadratic
from schemas.hedging import GuardPolicy
from schemas.reasons import HedgeReason

R = HedgeReason
MS = 1e6
_LEAST = np.iinfo(np.int64).min

T = TypeVar("T")


class Leg(NamedTuple):
    """One order of a hedge."""

    instrument: int
    """Its number in the frame."""
    symbol: str
    side: str
    """BUY or SELL."""
    lots: int
    """Above 0."""
    qty: float
    """lots × lot, in units."""
    notional: float
    """Above 0."""
    mid: float
    limit_px: Decimal | None
    """A limit that can be filled at once: the mid, half spread and cost cap away, rounded away from the mid to the price scale."""


class Binding(NamedTuple):
    """A constraint that held the trade back, and how hard."""

    name: str
    """The instrument, `capital`, or `stress:<id>`."""
    reason: HedgeReason
    multiplier: float


class Alert(NamedTuple):
    """Something to be escalated."""

    reason: HedgeReason
    severity: str
    """INFO, WARN or CRITICAL."""
    detail: str


@dataclass(slots=True)
class Decision:
    """What to do, why, and all that the audit record says of it. Also a decision to do nothing has the book's figures, NaN where not known."""

    book: str
    now_ns: int
    exposure_version: str
    outcome: str = "nothing"
    """sent, blocked (a guard or predicate) or nothing (nothing to do). A hedge for a channel that is down is blocked with `channel_queued`, legs and all."""
    reasons: tuple[HedgeReason, ...] = ()
    """The first is the main one; never empty."""
    state: str = "ACTIVE"
    """ACTIVE, REDUCING or HALTED."""
    state_reasons: tuple[HedgeReason, ...] = ()
    """Why REDUCING or HALTED."""
    legs: tuple[Leg, ...] = ()
    reduce_only: bool = False
    """Every leg brings its position toward 0."""
    unwind_id: str | None = None
    ratio_source: str | None = None
    policy_hash: str | None = None
    universe_version: str | None = None
    covariance_ts_ns: int = 0
    """End of the last bar in it; 0 for none."""
    expected: dict[str, float] = field(default_factory=dict)
    """variance_reduction (share of the risk d'Sd), cost_bps, coverage_before, coverage_after, bound_r2, utility (what J falls by), overhedge_share."""
    coverage: float = math.nan
    """Of filled hedges only."""
    coverage_expected: float = math.nan
    """Of hedges in flight too, before this decision."""
    bound_r2: float = math.nan
    effectiveness: float = math.nan
    """Of filled hedges only: R²·(1 − (1 − C)²)."""
    needed_risk: float = math.nan
    """‖Be‖ per bar."""
    open_risk: float = math.nan
    """‖d‖ per bar, hedges in flight counted."""
    dust_risk: float = math.nan
    """Risk per bar that counts as none."""
    exposure_notional: float = math.nan
    """Σ|e|."""
    e: Floats = field(default_factory=lambda: np.zeros(0))
    """(n,)"""
    exposure_reasons: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    """(n,) HedgeReason of an exposure that is not, or not fully, hedged for what it is; 0 for none."""
    p: Floats = field(default_factory=lambda: np.zeros(0))
    """(m,) filled hedges."""
    in_flight: Floats = field(default_factory=lambda: np.zeros(0))
    """(m,)"""
    d: Floats = field(default_factory=lambda: np.zeros(0))
    """(m,) distance from being hedged: p + in flight + B·e."""
    d_after: Floats = field(default_factory=lambda: np.zeros(0))
    """(m,) with `h`."""
    d_filled: Floats = field(default_factory=lambda: np.zeros(0))
    """(m,) distance with filled hedges only: the residual that is reported."""
    h: Floats = field(default_factory=lambda: np.zeros(0))
    """(m,) trades of the legs; zeros when nothing is sent or queued."""
    proposed: Floats = field(default_factory=lambda: np.zeros(0))
    """(m,) what was proposed, also where a predicate stopped it."""
    start: Floats = field(default_factory=lambda: np.zeros(0))
    """(m,) where the next search should begin if this was not sent."""
    lower: Floats = field(default_factory=lambda: np.zeros(0))
    upper: Floats = field(default_factory=lambda: np.zeros(0))
    k: Floats = field(default_factory=lambda: np.zeros(0))
    """(m,) price of trading per notional."""
    leg_reasons: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    """(m,) HedgeReason: why a leg is closed, else what bound it; 0 for neither."""
    multipliers: Floats = field(default_factory=lambda: np.zeros(0))
    """(m,) of each leg's bound."""
    binding: tuple[Binding, ...] = ()
    kkt_violation: float = math.nan
    risk_aversion: float = math.nan
    ages_ms: dict[str, float] = field(default_factory=dict)
    """quote (the oldest that was needed), covariance, allocation, risk_state, policy: those there are."""
    escalations: tuple[Alert, ...] = ()
    tried: tuple[str, ...] = ()
    fallback_strategy: str | None = None
    inputs_sha256: str = "0" * 64
    """Of everything the decision is a function of."""


@dataclass(slots=True)
class Known:
    """A book as it is at a moment: what `decide` works on."""

    view: BookView
    frame: BookFrame
    market: HedgeMarket
    now_ns: int
    rules: HedgeRules
    bar: PerBar
    work: Workspace
    policy: PolicyState | None
    risk: RiskState | None
    halts: HaltView
    facts: RatioFacts
    out: Decision
    mid: Floats
    """(m,) of the instruments; NaN where it cannot be used."""
    unit: Floats
    """(m,) notional of one unit of quantity."""
    e: Floats
    p: Floats
    """(m,) in flight included."""
    be: Floats
    d: Floats
    missing: HedgeReason
    """Why the book's risk is not known; none when it is."""
    norm2: float = math.nan
    """‖Be‖²"""
    risk2: float = math.nan
    """‖d‖²"""
    warm: bool = False
    """Whether the book warms up."""
    degraded: Floats = field(default_factory=lambda: np.zeros(0))
    """(m,) factor on costs."""
    down: Bools = field(default_factory=lambda: np.zeros(0, np.bool_))
    """(m,) whether the venue's order channel is DOWN."""
    unwinding: Bools = field(default_factory=lambda: np.zeros(0, np.bool_))
    """(m,) named by an instruction that has not expired."""
    terms: Terms | None = None


# --- what is known ----------------------------------------------------------------------------------------------------------------


def _derived(frame: BookFrame, kind: str, state: object, make: Callable[[], tuple[bytes, T]]) -> tuple[bytes, T]:
    """Return (digest, what was derived) of a state, kept until a newer one comes."""
    found = frame.known.get(kind)
    if found is None or found[0] is not state:
        digest, value = make()
        frame.known[kind] = (state, digest, value)
        return digest, value
    return found[1], found[2]  # type: ignore[return-value]


def _units(sizes: Sizes, mid: Floats, fx: Floats) -> Floats:
    """Return the notional of one unit of quantity (q,); NaN where a price or a cross it needs is not known."""
    return np.where(sizes.priced, mid, 1.0) * sizes.scale * fx[sizes.currency]


def exposure_units(frame: BookFrame, market: HedgeMarket, now_ns: int) -> Floats:
    """Return the notional of one unit of each exposure (n,); NaN where a price or a cross it needs is not known."""
    fx = np.array([market.fx(now_ns, currency, frame.universe.base_currency) for currency in frame.currencies])
    return _units(frame.exposure_sizes, _of_series(market.mids(now_ns), frame.exposure_series), fx)


def _of_series(values: Floats, series: Ints) -> Floats:
    """Return the values of some series, NaN for −1."""
    return np.where(series >= 0, values[np.maximum(series, 0)], np.nan)


def _times(qty: Floats, unit: Floats) -> Floats:
    """Return qty × unit; no quantity is no notional, whatever its price."""
    return np.where(qty == 0.0, 0.0, qty * unit)


class PositionLimits(NamedTuple):
    """A risk state by instrument of the frame."""

    max_notional: Floats
    headroom: Floats
    total: float
    """Σ of position limits; 0 where there are none."""


def _risk_of(frame: BookFrame, risk: RiskState) -> tuple[bytes, PositionLimits]:
    m = len(frame.instruments)
    most, headroom = np.full((2, m), np.inf)
    for one in risk.payload.limits:
        j = frame.instrument_index.get(one.instrument)
        if j is not None:
            most[j], headroom[j] = min(most[j], one.max_notional), min(headroom[j], one.headroom_notional)
    total = float(most[np.isfinite(most)].sum())
    return hashlib.sha256(risk.payload.model_dump_json().encode()).digest(), PositionLimits(most, headroom, total)


class Shocks(NamedTuple):
    """A policy by instrument and exposure of the frame."""

    windows: tuple[tuple[int, int, int], ...]
    """(instrument, from, to) of do-not-trade."""
    exposure_shock: Floats
    hedge_shock: Floats
    max_loss: Floats


def _policy_of(frame: BookFrame, payload: GuardPolicy) -> tuple[bytes, Shocks]:
    windows = tuple(
        (frame.instrument_index[one.instrument], one.from_ns, one.to_ns)
        for one in payload.do_not_trade
        if one.instrument in frame.instrument_index
    )

    def row(shocks: dict[str, float], names: tuple[str, ...], underlying: tuple[str | None, ...]) -> list[float]:
        return [
            shocks.get(name, shocks.get(under or "", shocks.get("*", 0.0))) for name, under in zip(names, underlying, strict=True)
        ]  # fmt: skip

    scenarios = payload.stress_scenarios
    m, n = frame.shape
    exposure = np.array([row(one.shocks, frame.exposures, frame.exposure_underlying) for one in scenarios]).reshape(len(scenarios), n)
    hedge = np.array([row(one.shocks, frame.instruments, frame.instrument_underlying) for one in scenarios]).reshape(len(scenarios), m)
    loss = np.array([one.max_loss for one in scenarios], np.float64)
    return hashlib.sha256(payload.model_dump_json().encode()).digest(), Shocks(windows, exposure, hedge, loss)


def limits_of(known: Known) -> PositionLimits:
    """Return the position limits by instrument; inf where there are none."""
    frame, risk = known.frame, known.risk
    if risk is None:
        m = len(frame.instruments)
        return PositionLimits(np.full(m, np.inf), np.full(m, np.inf), 0.0)
    return _derived(frame, "risk", risk, lambda: _risk_of(frame, risk))[1]


def shocks_of(known: Known) -> Shocks:
    """Return the policy by instrument and exposure; there must be one."""
    assert known.policy is not None
    frame, policy = known.frame, known.policy
    return _derived(frame, "policy", policy, lambda: _policy_of(frame, policy.payload))[1]


def look(view: BookView, frame: BookFrame, market: HedgeMarket, now_ns: int, rules: HedgeRules) -> Known:
    """Value the book and measure its risk; everything of the decision's record that does not depend on what is decided."""
    bar, facts = per_bar(frame, market), ratio_facts(frame, view.ratios)
    risk, policy = market.risk(view.book), market.policy(view.book)
    scenarios = len(policy.payload.stress_scenarios) if policy is not None else 0
    work = frame.workspace(scenarios + 1)  # and one row that no more than the need be hedged
    m, n = frame.shape
    mids = market.mids(now_ns)
    fx = np.array([market.fx(now_ns, currency, frame.universe.base_currency) for currency in frame.currencies])
    mid = _of_series(mids, frame.instrument_series)
    unit_e = _units(frame.exposure_sizes, _of_series(mids, frame.exposure_series), fx)
    unit = _units(frame.instrument_sizes, mid, fx)
    held, flight = _times(view.held_qty, unit), _times(view.flight_qty, unit)
    target = np.where(view.target_known, view.target, 0.0)
    e = _times(view.exposure_qty, unit_e) - target
    reasons = np.zeros(n, np.int64)
    no_target = ~view.target_known & ((view.exposure_qty != 0.0) | (view.target != 0.0))
    if policy is not None and policy.payload.no_target_no_hedge:
        e[~view.target_known] = 0.0
        reasons[no_target] = R.allocation_missing
    reasons[view.target_stale & view.target_known] = R.stale_allocation
    out = Decision(view.book, now_ns, view.exposure_version)
    p = held + flight
    be, distance = np.zeros((2, m))
    known = Known(
        view=view, frame=frame, market=market, now_ns=now_ns, rules=rules, bar=bar, work=work, policy=policy, risk=risk,
        halts=market.halts(now_ns), facts=facts, out=out, mid=mid, unit=unit, e=e, p=p, be=be, d=distance, missing=R.none,
    )  # fmt: skip
    out.e, out.exposure_reasons, out.p, out.in_flight = e, reasons, held, flight
    out.universe_version, out.covariance_ts_ns = frame.version, market.bar_end_ns
    out.policy_hash = policy.payload.policy_hash if policy is not None else None
    out.h, out.proposed, out.start, out.lower, out.upper, out.k, out.multipliers = np.zeros((7, m))
    out.leg_reasons = np.zeros(m, np.int64)
    channels = {venue: market.channel(venue).status for venue in dict.fromkeys(frame.venues)}
    status = [channels[venue] for venue in frame.venues]
    known.down = np.array([one == "DOWN" for one in status], np.bool_)
    known.degraded = np.array([rules.degraded_cost if one == "DEGRADED" else 1.0 for one in status])
    known.unwinding = np.zeros(m, np.bool_)
    for one in policy.payload.unwind if policy is not None else ():
        if now_ns < one.expires_ns and one.instrument in frame.instrument_index:
            known.unwinding[frame.instrument_index[one.instrument]] = True
    _ages(known)
    _lacking(known)
    out.inputs_sha256 = _digest(known, unit_e, status)
    if known.missing == R.none:
        _figures(known, facts)
    out.d, out.d_after, out.d_filled = known.d, known.d.copy(), held + be
    if known.missing != R.none:
        for unknown in (out.d, out.d_after, out.d_filled):
            unknown[:] = np.nan
    return known


def _ages(known: Known) -> None:
    """Note how old what is known is."""
    frame, market, now, ages = known.frame, known.market, known.now_ns, known.out.ages_ms
    used = np.concatenate([frame.exposure_series[known.e != 0.0], frame.instrument_series[known.p != 0.0]])
    times = market.ts_ns[used[used >= 0]]
    if len(times) and int(times.min()) > _LEAST:
        ages["quote"] = max(now - int(times.min()), 0) / MS
    for name, ts_ns in (
        ("covariance", market.bar_end_ns), ("allocation", known.view.allocation_ts_ns), ("risk_state", known.risk.ts_ns if known.risk else 0),
        ("policy", known.policy.ts_ns if known.policy else 0),
    ):  # fmt: skip
        if ts_ns > 0:
            ages[name] = (now - ts_ns) / MS


def _lacking(known: Known) -> None:
    """Find exposures and hedges without a value: the book's risk is then not known."""
    frame = known.frame
    reasons = known.out.exposure_reasons
    without = np.flatnonzero(np.isnan(known.e))
    for i in without:
        reasons[i] = why_unpriced(known, int(frame.exposure_series[i]), frame.exposure_sizes, int(i))
    why = [HedgeReason(int(reasons[i])) for i in without]
    for j in np.flatnonzero(np.isnan(known.p)):
        why.append(why_unpriced(known, int(frame.instrument_series[j]), frame.instrument_sizes, int(j)))
    if why:
        known.missing = R.price_missing if R.price_missing in why else R.stale_quote
        return
    if not (np.isfinite(known.e).all() and np.isfinite(known.p).all()):
        known.missing = R.price_missing


def why_unpriced(known: Known, series: int, sizes: Sizes, at: int) -> HedgeReason:
    """Return whether a price was never usable, or is only too old."""
    market = known.market
    if series < 0 or (sizes.priced[at] and math.isnan(market.mid[series])):
        return R.price_missing
    base = known.frame.universe.base_currency
    # at the beginning of time no quote is old
    crossed = market.fx(0, known.frame.currencies[sizes.currency[at]], base)
    return R.price_missing if math.isnan(crossed) else R.stale_quote


def _figures(known: Known, facts: RatioFacts) -> None:
    """Measure the book: needed hedge, distance, coverage, bound, effectiveness; and which exposures cannot be hedged for what they are."""
    frame, bar, out, rules = known.frame, known.bar, known.out, known.rules
    e, p, be, held = known.e, known.p, known.be, out.p
    needed(facts.b, e, be)
    np.add(p, be, out=known.d)
    known.norm2 = max(quadratic(bar.s_xx, be), 0.0)
    known.risk2 = max(quadratic(bar.s_xx, known.d), 0.0)
    out.exposure_notional = float(np.abs(e).sum())
    out.needed_risk, out.open_risk = math.sqrt(known.norm2), math.sqrt(known.risk2)
    reference = reference_hedge(known)
    total = float(np.abs(reference).sum())
    volatility = math.sqrt(max(quadratic(bar.s_xx, reference), 0.0)) / total if total > 0.0 else 0.0
    limits = limits_of(known)
    scale = limits.total if limits.total > 0.0 else (frame.universe.reference_notional or total)
    out.dust_risk = dust = rules.dust * scale * volatility
    out.coverage = coverage(bar.s_xx, be, held, dust)
    out.coverage_expected = coverage(bar.s_xx, be, p, dust)
    # what hedges cannot take away: the exposures less the hedge they need, in the distinct series of both
    rest = np.zeros(len(frame.series) + 1)
    np.add.at(rest, frame.exposure_place, e)
    np.subtract.at(rest, frame.instrument_place, be)
    basis = max(quadratic(bar.cov, rest), 0.0)
    whole = known.norm2 + basis
    if whole > 0.0:
        out.bound_r2 = known.norm2 / whole
        left = held + be
        out.effectiveness = 1.0 - (max(quadratic(bar.s_xx, left), 0.0) + basis) / whole
    open_ = e != 0.0
    ready, moving = bar.ready[frame.exposure_place], bar.moving[frame.exposure_place]
    own = frame.direct >= 0
    reasons = out.exposure_reasons
    free = reasons == 0
    reasons[free & facts.unhedged] = R.weak_relation
    reasons[free & facts.unhedged & (frame.exposure_series >= 0) & (len(frame.candidates) == 0)] = R.no_instrument
    reasons[free & ((facts.unhedged & facts.still) | (own & ready & ~moving))] = R.zero_variance
    warm_exposures = (~own & facts.warming & (len(frame.candidates) > 0)) | (own & ~ready)
    reasons[free & warm_exposures] = R.warmup
    reasons[free & ~open_] = 0
    known.warm = bool((warm_exposures & open_).any() or (~bar.ready[frame.instrument_place] & (p != 0.0)).any())
    if known.warm:
        out.ratio_source = "prior"
    elif bool((own | ~open_).all()):
        out.ratio_source = "direct" if bool(open_.any()) else None
    else:
        out.ratio_source = "ewma"


def reference_hedge(known: Known) -> Floats:
    """Return the hedge that reference cost and volatility are those of (m,): what is needed; where nothing is, what is held.

    Not the distance, and what is in flight only where there is nothing else: the band may not move with the hedges that are sent.
    """
    for found in (known.be, known.out.p):
        if found.any():
            return found
    return known.p


def _digest(known: Known, unit_e: Floats, status: list[str]) -> str:
    """Return SHA-256, in hex digits, of everything the decision is a function of."""
    view, frame, market, halts = known.view, known.frame, known.market, known.halts
    risk, policy = known.risk, known.policy
    digest = hashlib.sha256()
    words = (
        view.book, known.now_ns, view.exposure_version, sorted(view.open_versions), view.held_by_desk,
        view.residual_since_ns, sorted(view.unwound.items()), view.allocation_ts_ns, halts.all, sorted(halts.books), sorted(halts.symbols),
        sorted(halts.venues), status, risk.ts_ns if risk else None, policy.ts_ns if policy else None, market.rules.bar_ns,
        market.rules.covariance_bars, market.bar_end_ns, market.bars_closed,
    )  # fmt: skip
    digest.update(repr(words).encode())
    digest.update(frame.digest + known.bar.digest + known.facts.digest)
    digest.update(_derived(frame, "rules", known.rules, lambda: (repr(known.rules).encode(), None))[0])
    if risk is not None:
        digest.update(_derived(frame, "risk", risk, lambda: _risk_of(frame, risk))[0])
    if policy is not None:
        digest.update(_derived(frame, "policy", policy, lambda: _policy_of(frame, policy.payload))[0])
    series = np.maximum(frame.instrument_series, 0)
    for array in (
        unit_e, known.unit, known.mid, market.half_spread_bps[series], market.bid_size[series], market.ask_size[series], view.exposure_qty, view.target,
        view.target_known, view.target_stale, view.held_qty, view.flight_qty, view.traded_today, view.unknown, view.last_send_ns, view.desk_held, view.start,
    ):  # fmt: skip
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def digest_without_frame(view: BookView, now_ns: int) -> str:
    """Return the hash of the inputs of a book without a universe."""
    return hashlib.sha256(repr((view.book, now_ns, view.exposure_version)).encode()).hexdigest()
