"""What a book should do now, and why: guards, the joint problem, whole lots, predicates. One pure function of what is known.

May not keep anything between calls but the memory in the book's frame, read a clock, or know a topic. Rules: docs/hedging.md, "The decision".
Notionals are signed and in the book's base currency; n exposures, m instruments, s scenarios. NaN is "not known".
"""

from __future__ import annotations

import math
from decimal import Decimal
from typing import NamedTuple

import numpy as np

from operators.book_frame import BookView, HedgeRules
from operators.book_value import (
    Alert,
    Binding,
    Decision,
    Known,
    Leg,
    digest_without_frame,
    limits_of,
    look,
    reference_hedge,
    shocks_of,
    why_unpriced,
)
from operators.hedge_market import HedgeMarket
from operators.lots import Rounding, round_to_lots
from operators.optimiser import Status, capital_limit, capital_used, objective, solve
from operators.proposal import (
    BINDING,
    BPS,
    Bound,
    Terms,
    binding,
    build_bounds,
    build_coupling,
    build_objective,
    propose,
    risk_aversion,
)
from operators.ratios import Bools, Floats, Ints, needed, quadratic
from schemas.reasons import HedgeReason, hedge_group_of

__all__ = ["Alert", "Binding", "Decision", "HedgeRules", "Leg", "decide"]

R = HedgeReason
YEAR_NS = 365.25 * 86_400e9
_OF_BOUND = tuple(int(HedgeReason[one.name]) for one in Bound)
"""HedgeReason of each Bound."""
_CANNOT_TAKE = frozenset(
    int(one)
    for one in (
        R.limit_bound,
        R.headroom_zero,
        R.liquidity_tier,
        R.adv_cap,
        R.channel_down,
        R.dnt,
        R.stale_quote,
        R.price_missing,
        R.halted,
    )
)
"""Why a primary cannot take enough, so that its secondaries are opened."""
WHOLE = 1e-9
"""A size this close, in lots, below a whole lot is that lot."""


class _Answer(NamedTuple):
    """A proposal in whole lots."""

    h: Floats
    forced: Floats
    status: int
    rounding: int
    value: float
    """J of the whole trade less J of none: below 0 is better."""
    share_capped: bool
    """Whether whole lots that over-hedge were given up."""
    binding: tuple[Binding, ...]
    reasons: Ints
    multipliers: Floats
    violation: float


def decide(view: BookView, market: HedgeMarket, now_ns: int, rules: HedgeRules) -> Decision:
    """Return what the book should do now. A function of its arguments only: equal inputs give equal bits.

    Whoever calls sends the legs of an outcome `sent`, and only those. Of what is not known:

    - An exposure, or a hedge that is held, without a usable price or cross: the book's risk is not known and there is no decision
      (`price_missing`, `stale_quote`), however small the exposure is. Quantity 0 needs no price.
    - An instrument without a usable price that is not held is closed, others go on.
    - While an exposure's ratios, or the covariance of what the book has, warm up: prior ratios, REDUCING. REDUCING (also: risk level CRITICAL, no
      headroom of capital, no risk state or an old one, an old allocation): only trades that lower risk and do not raise capital.
    - No universe, no policy, a risk state made under another policy, a covariance older than it may be: nothing is sent.

    `variance` of the predicate is that of d, the part hedges can take away: with the basis risk in it a book of weak relations could never be
    topped up. Coverage rises exactly when it falls, so that one test covers both.
    """
    frame = view.frame
    if frame is None:
        return Decision(
            view.book, now_ns, view.exposure_version, "blocked", (R.universe_missing,), inputs_sha256=digest_without_frame(view, now_ns)
        )
    known = look(view, frame, market, now_ns, rules)
    out = known.out
    halted = known.halts.stops_book(view.book)
    _set_state(known, halted)
    if known.policy is None:
        return _ended(out, (R.halted,) if halted else (), R.policy_missing)
    unwind, obstacles = _unwind(known)
    if unwind is not None:
        return unwind
    if halted:
        return _ended(out, R.halted, *obstacles)
    guard = _guard(known)
    if guard:
        return _ended(out, *guard)
    return _hedge(known)


def _ended(out: Decision, *reasons: HedgeReason | tuple[HedgeReason, ...]) -> Decision:
    """Close a decision that sends nothing: `nothing` where the main reason is that there is nothing to do, else `blocked`."""
    flat: list[HedgeReason] = []
    for one in reasons:
        flat.extend(one if isinstance(one, tuple) else (one,))
    out.reasons = tuple(dict.fromkeys(one for one in flat if one != R.none))
    out.outcome = "nothing" if hedge_group_of(out.reasons[0]) == "nothing to do" else "blocked"
    return out


# --- guards -----------------------------------------------------------------------------------------------------------------------


def _set_state(known: Known, halted: bool) -> None:
    """Decide between ACTIVE, REDUCING and HALTED, and note why."""
    risk, out = known.risk, known.out
    why: list[HedgeReason] = []
    if risk is None or known.now_ns - risk.ts_ns > known.rules.risk_age_ns:
        why.append(R.stale_risk_state)
    if risk is not None and risk.payload.risk_level == "CRITICAL":
        why.append(R.reducing_only)
    if risk is not None and risk.payload.headroom_capital is not None and risk.payload.headroom_capital <= 0.0:
        why.append(R.headroom_zero)
    if (out.exposure_reasons == R.stale_allocation).any():
        why.append(R.stale_allocation)
    if known.warm or known.market.bars_closed == 0:
        why.append(R.warmup)
    out.state = "HALTED" if halted else "REDUCING" if why else "ACTIVE"
    out.state_reasons = (R.halted,) if halted else tuple(why)


def _guard(known: Known) -> tuple[HedgeReason, ...]:
    """Return why nothing may be decided, or there is nothing to decide; empty to go on."""
    view, market, out = known.view, known.market, known.out
    risk, policy = known.risk, known.policy
    assert policy is not None
    if view.held_by_desk:
        return (R.held_by_desk,)
    if risk is not None and risk.payload.policy_version not in (None, policy.payload.policy_hash):
        return (R.policy_hash_mismatch,)
    if known.missing != R.none:
        return (known.missing,)
    if market.bars_closed == 0 and (known.e.any() or known.p.any()):
        return (R.warmup,)
    if not known.e.any() and not known.p.any():
        if (out.exposure_reasons == R.allocation_missing).any():
            return (R.allocation_missing,)
        return (R.no_exposure,)
    if known.now_ns - market.bar_end_ns > market.rules.covariance_bars * market.rules.bar_ns:
        return (R.stale_covariance,)
    if view.exposure_version in view.open_versions:
        return (R.same_version,)
    if _broken(known).any():
        return ()
    if not known.p.any() and not (known.norm2 > 0.0):
        # nothing that is needed has a variance: say of the largest exposures why
        found = out.exposure_reasons[np.argsort(-np.abs(known.e), kind="stable")]
        told = tuple(dict.fromkeys(HedgeReason(int(x)) for x in found[found != 0] if x != R.stale_allocation))
        return told or (R.zero_variance,)
    if out.open_risk < out.dust_risk or known.risk2 == 0.0:
        filled = math.sqrt(max(quadratic(known.bar.s_xx, out.d_filled), 0.0))
        return (R.inflight_covers,) if out.in_flight.any() and filled >= out.dust_risk and filled > 0.0 else (R.dust,)
    return ()


def _broken(known: Known) -> Bools:
    """Return where more is held than the position limit allows."""
    most = limits_of(known).max_notional
    return np.abs(known.p) > most * (1.0 + WHOLE)


# --- unwinding --------------------------------------------------------------------------------------------------------------------


def _unwind(known: Known) -> tuple[Decision | None, tuple[HedgeReason, ...]]:
    """Return the policy's first unwind that can be made as a decision, or None and why those that are in force cannot.

    Reduce-only: no more than is filled, and than is left with what is in flight; up to the instruction's notional in all. It goes under HALT and
    while the desk holds the book; do-not-trade, a missing price, a channel that is down, an unknown order on the leg, liquidity tier and
    volume limit stop it. It may raise the book's risk: that is what was asked for.
    """
    frame, view, out, policy = known.frame, known.view, known.out, known.policy
    assert policy is not None
    obstacles: list[HedgeReason] = []
    for one in policy.payload.unwind:
        j = frame.instrument_index.get(one.instrument)
        if j is None or known.now_ns >= one.expires_ns:
            continue
        held, p = float(out.p[j]), float(known.p[j])
        left = one.max_notional - view.unwound.get(one.id, 0.0)
        if math.isnan(p):
            obstacles.append(why_unpriced(known, int(frame.instrument_series[j]), frame.instrument_sizes, j))
            continue
        if held * p <= 0.0 or left <= 0.0:
            continue
        why = _closed(known, for_unwind=True)[j]
        if why:
            obstacles.append(HedgeReason(int(why)))
            continue
        touch = _touch(known)[j]
        room = (
            (min(abs(held), abs(p)), R.below_min_notional), (left, R.below_min_notional),
            (known.rules.tier_shares[min(int(frame.tier[j]), 3) - 1] * known.rules.touches * touch, R.liquidity_tier),
            (max(frame.max_adv_pct[j] / 100.0 * frame.adv_notional[j] - view.traded_today[j], 0.0), R.adv_cap),
        )  # fmt: skip
        size, limit = min(room, key=lambda pair: pair[0])
        lot = float(frame.lot[j] * abs(known.unit[j]))
        lots = math.floor(size / lot + WHOLE)
        if lots < 1 or lots * lot < frame.min_notional[j] - WHOLE * lot:
            obstacles.append(limit)
            continue
        h = np.zeros(len(frame.instruments))
        h[j] = -math.copysign(lots * lot, p)
        _price_trades(known)
        out.outcome, out.unwind_id = "sent", one.id
        out.reasons = (R.unwind_by_policy, R.halted) if out.state == "HALTED" else (R.unwind_by_policy,)
        _finish(known, h, math.nan)
        return out, ()
    return None, tuple(dict.fromkeys(obstacles))


# --- legs and prices --------------------------------------------------------------------------------------------------------------


def _touch(known: Known) -> Floats:
    """Return the notional at the touch (m,), the smaller side; 0 where a size or a price is not known: such a leg can take nothing."""
    market, series = known.market, known.frame.instrument_series
    at = np.maximum(series, 0)
    size = np.minimum(market.bid_size[at], market.ask_size[at])
    touch = np.where(series >= 0, size * np.abs(known.unit), 0.0)
    touch[np.isnan(touch)] = 0.0
    return touch


def _closed(known: Known, for_unwind: bool = False, all_up: bool = False) -> Ints:
    """Return (m,) HedgeReason for which a leg is closed, 0 for open; the strongest wins, do-not-trade before all. all_up: were no channel down."""
    frame, view, market, bar = known.frame, known.view, known.market, known.bar
    why = np.zeros(len(frame.instruments), np.int64)
    if not for_unwind:
        assert known.policy is not None
        spread = np.where(frame.instrument_series >= 0, market.half_spread_bps[np.maximum(frame.instrument_series, 0)], np.nan)
        if not _envelope(known):
            why[spread > bar.spread_limit_bps * known.rules.spread_tolerance] = R.predicate_spread
        cost = known.work.exposures
        why[cost.cost_bps + cost.half_spread_bps + cost.impact_bps > known.policy.payload.max_cost_bps] = R.predicate_cost
        ready, moving = bar.ready[frame.instrument_place], bar.moving[frame.instrument_place]
        why[ready & ~moving & (known.p == 0.0)] = R.zero_variance
        if not known.warm:
            why[~ready & (known.p == 0.0)] = R.warmup
        why[view.desk_held] = R.held_by_desk
    why[view.unknown] = R.unknown_inflight
    unpriced = np.isnan(known.mid) | np.isnan(known.unit) | (known.unit == 0.0)
    for j in np.flatnonzero(unpriced):
        series = int(frame.instrument_series[j])
        never = series < 0 or math.isnan(market.mid[series])
        why[j] = R.price_missing if never else why_unpriced(known, series, frame.instrument_sizes, int(j))
    if not all_up:
        why[known.down] = R.channel_down
    if not for_unwind and (known.halts.symbols or known.halts.venues):
        stopped = [known.halts.stops_leg(symbol, venue) for symbol, venue in zip(frame.instruments, frame.venues, strict=True)]
        why[np.array(stopped, np.bool_)] = R.halted
    for leg, from_ns, to_ns in shocks_of(known).windows:
        if from_ns <= known.now_ns < to_ns:
            why[leg] = R.dnt
    return why


def _envelope(known: Known) -> bool:
    """Return whether the residual is old enough to be hedged at any spread within the cost cap."""
    since = known.view.residual_since_ns
    return since > 0 and known.now_ns - since > known.rules.envelope_ns


def _price_trades(known: Known) -> None:
    """Fill the costs of trading: own cost, half spread, impact. None depends on the distance: else the band would narrow with every hedge."""
    frame, market, rules, x = known.frame, known.market, known.rules, known.work.exposures
    half = np.where(frame.instrument_series >= 0, market.half_spread_bps[np.maximum(frame.instrument_series, 0)], np.nan)
    half = np.where(np.isnan(half), 0.0, half)
    x.half_spread_bps[:] = half * known.degraded
    x.cost_bps[:] = frame.cost_bps * known.degraded
    x.impact_bps[:] = rules.impact * x.half_spread_bps


def _set_limits(known: Known) -> None:
    """Fill what each leg may be traded, without what closes it."""
    limits, told = known.work.limits, limits_of(known)
    limits.max_notional[:] = told.max_notional
    limits.headroom_notional[:] = told.headroom
    limits.touch_notional[:] = _touch(known)
    limits.traded_notional[:] = known.view.traded_today


def _calibrate(known: Known) -> Terms | None:
    """Return the scalars of the problem; None where nothing the book needs or holds has a variance."""
    frame, rules, out, x = known.frame, known.rules, known.out, known.work.exposures
    vector = reference_hedge(known)
    weights = np.abs(vector)
    total = float(weights.sum())
    least = frame.universe.reference_notional
    if least is None:
        least = rules.limit_share * limits_of(known).total
    reference = max(float(np.abs(known.be).sum()), least)
    if reference <= 0.0:
        reference = total
    if total <= 0.0:
        return None
    volatility = math.sqrt(max(quadratic(known.bar.s_xx, vector), 0.0)) / total
    costs = x.cost_bps + x.half_spread_bps + x.impact_bps
    cost = max(float((costs * weights).sum()) / total, rules.least_cost_bps) * rules.cost_weight
    bars = rules.horizon_ns / known.market.rules.bar_ns
    aversion = risk_aversion(cost, volatility, bars, rules.uncovered, reference)
    if not math.isfinite(aversion):
        return None
    out.risk_aversion = aversion
    payload = known.risk.payload if known.risk is not None else None
    return Terms(
        risk_aversion=aversion, bars=bars, carry_weight=rules.carry_weight, cost_weight=rules.cost_weight,
        funding=rules.funding_per_year * rules.horizon_ns / YEAR_NS,
        max_capital=math.inf if payload is None or payload.max_capital is None else payload.max_capital,
        headroom_capital=math.inf if payload is None or payload.headroom_capital is None else payload.headroom_capital,
        reducing=out.state == "REDUCING",
    )  # fmt: skip


# --- the proposal -----------------------------------------------------------------------------------------------------------------


def _hedge(known: Known) -> Decision:
    """Solve, round, judge; fill the decision."""
    view, out, frame, rules = known.view, known.out, known.frame, known.rules
    _price_trades(known)
    terms = _calibrate(known)
    if terms is None:
        return _ended(out, R.warmup if known.warm else R.zero_variance)
    known.terms = terms
    _set_limits(known)
    x, shocks = known.work.exposures, shocks_of(known)
    x.e[:], x.s_xx[:], x.ratios[:] = known.e, known.bar.s_xx, known.facts.b
    x.exposure_shock[:-1], x.hedge_shock[:-1], x.max_loss[:-1] = shocks.exposure_shock, shocks.hedge_shock, shocks.max_loss
    _limit_share(known)
    why = _closed(known)
    known.work.solution.h[:] = view.start
    spare = frame.secondary if frame.secondary.any() else None
    answer = _propose(known, why, spare)
    tried = ["primary"]
    short = _short(known, answer, why)
    if spare is not None and (short or known.facts.broken):
        second = _propose(known, why, None)
        tried.append("secondary")
        if (second.h[spare] != answer.h[spare]).any():
            answer, spare = second, None
    waiting = (view.last_send_ns > 0) & (known.now_ns - view.last_send_ns < rules.cooldown_ns)
    if (waiting & (answer.h != 0.0) & (answer.forced == 0.0)).any() and _risk_cut(known, answer.h) <= rules.risk_cut:
        why = np.where(waiting & (why == 0), int(R.cooldown), why)
        answer = _propose(known, why, spare)
    out.tried = tuple(tried)
    return _judge(known, answer, why, spare)


def _limit_share(known: Known) -> None:
    """Let the last stress row hold the share of the need that is hedged, −(Be)ᵀS(p + h)/‖Be‖² ≤ 102 %: it is linear in the trades, as a loss is.

    As a veto on the answer it could block the way back for good: of two instruments that move together, bringing back one moves the share of both.
    """
    x, rules = known.work.exposures, known.rules
    x.exposure_shock[-1] = 0.0
    if known.norm2 > 0.0:
        needed(known.bar.s_xx, known.be, x.hedge_shock[-1])
        x.hedge_shock[-1] /= known.norm2
        x.max_loss[-1] = rules.overhedge
    else:
        x.hedge_shock[-1] = 0.0
        x.max_loss[-1] = math.inf


def _risk_cut(known: Known, h: Floats) -> float:
    """Return the share of the risk (σ of d) that trades take away."""
    if not known.risk2 > 0.0:
        return 0.0
    return 1.0 - math.sqrt(max(quadratic(known.bar.s_xx, known.d + h), 0.0) / known.risk2)


def _short(known: Known, answer: _Answer, why: Ints) -> bool:
    """Return whether coverage stays under the target because a primary cannot take more."""
    if not known.norm2 > 0.0:
        return False
    after = 1.0 - math.sqrt(max(quadratic(known.bar.s_xx, known.d + answer.h), 0.0) / known.norm2)
    primary = ~known.frame.secondary & (answer.multipliers != 0.0)
    return after < known.rules.coverage_target and any(int(x) in _CANNOT_TAKE for x in answer.reasons[primary])


def _propose(known: Known, why: Ints, spare: Bools | None) -> _Answer:
    """Solve and round with some legs closed; `spare`: secondaries that may only be brought toward 0 (None: all may be used).

    Where nothing needs a hedge (‖Be‖ is dust) hedges are only closed: else a cheaper instrument might be bought against them.
    A position above its limit is first brought back to it, as far as the other limits let it (`forced`); the problem begins there.
    """
    frame, work, terms, rules = known.frame, known.work, known.terms, known.rules
    assert terms is not None
    x, limits, problem, solution = work.exposures, work.limits, work.problem, work.solution
    m = len(frame.instruments)
    limits.closed[:] = np.where(why > 0, int(Bound.halted), 0)
    limits.reduce_only[:] = known.unwinding if spare is None else known.unwinding | spare
    if math.sqrt(known.norm2) <= known.out.dust_risk:
        limits.reduce_only[:] = 1
    shares = np.array(rules.tier_shares)
    lot = np.where(np.isnan(known.unit), 0.0, frame.lot * np.abs(known.unit))
    x.p[:] = known.p
    forced = np.zeros(m)
    if _broken(known).any():
        forced = _forced(known, why, lot, shares)
    if forced.any():
        x.p[:] += forced
        lower, upper = problem.lower - forced, problem.upper - forced
        build_objective(x, terms, problem, work.distance)
        build_coupling(x, terms, problem)
        build_bounds(limits, known.now_ns, shares, rules.touches, problem, work.reasons)
        np.maximum(problem.lower, np.where(forced > 0.0, 0.0, lower), out=problem.lower)
        np.minimum(problem.upper, np.where(forced < 0.0, 0.0, upper), out=problem.upper)
        np.minimum(problem.lower, 0.0, out=problem.lower)
        np.maximum(problem.upper, 0.0, out=problem.upper)
        status = solve(problem, solution, work.space)
    else:
        status = propose(x, limits, terms, known.now_ns, shares, rules.touches, problem, work.reasons, work.distance, solution, work.space)
    binding(problem, solution, work.reasons, work.bound_legs, work.bound_couplings)
    bounds, reasons, multipliers = _binding(known, why, spare)
    violation = float(solution.figures[2])
    known.out.lower, known.out.upper, known.out.k = problem.lower + forced, problem.upper + forced, problem.k.copy()
    # the next search begins at the exact answer, not at the rounded one
    exact = solution.h.copy()
    known.out.start = exact
    h = exact.copy()
    rounding = int(Rounding.nothing)
    if status != Status.invalid:
        rounding = round_to_lots(problem, h, lot, frame.min_notional, work.space)
    capped = False
    if rounding == Rounding.traded and _overhedges(known, forced, h):
        capped = True
        h = _toward_zero(known, exact, lot)
        if not h.any() or _overhedges(known, forced, h) or objective(problem, h) >= objective(problem, np.zeros(m)) or not _fits(known, h):
            h[:] = 0.0
    value = objective(problem, h) - objective(problem, np.zeros(m)) if h.any() else 0.0
    return _Answer(h + forced, forced, status, rounding, float(value), capped, bounds, reasons, multipliers, violation)


def _fits(known: Known, h: Floats) -> bool:
    """Return whether trades keep capital and stress."""
    problem = known.work.problem
    if capital_used(problem, h) > capital_limit(problem) * (1.0 + 1e-12):
        return False
    loss = (problem.stress * h).sum(axis=1)
    return bool((loss <= problem.room + 1e-12 * np.abs(problem.stress * h).sum(axis=1)).all())


def _toward_zero(known: Known, h: Floats, lot: Floats) -> Floats:
    """Return h in whole lots, each leg toward zero, legs under their least at 0."""
    whole = np.where(lot > 0.0, np.floor(np.abs(h) / np.where(lot > 0.0, lot, 1.0) + WHOLE) * lot, np.abs(h))
    whole[whole < known.frame.min_notional] = 0.0
    return np.copysign(whole, h)


def _share(known: Known, p: Floats) -> float:
    """Return −(Be)ᵀS·p/‖Be‖²: the part of the need that is hedged, 1 for all of it."""
    if not known.norm2 > 0.0:
        return 0.0
    image = np.zeros(len(p))
    needed(known.bar.s_xx, p, image)
    return -float((known.be * image).sum()) / known.norm2


def _overhedges(known: Known, forced: Floats, h: Floats) -> bool:
    """Return whether more than the need is hedged after the trades, and more than without them."""
    after = _share(known, known.p + forced + h)
    return after > known.rules.overhedge and after > _share(known, known.p + forced)


def _forced(known: Known, why: Ints, lot: Floats, shares: Floats) -> Floats:
    """Return trades that bring positions above their limit back to it: whole lots, at least the least, within tier and volume limits."""
    frame, work, terms = known.frame, known.work, known.terms
    assert terms is not None
    build_objective(work.exposures, terms, work.problem, work.distance)
    build_bounds(work.limits, known.now_ns, shares, known.rules.touches, work.problem, work.reasons)
    forced = np.zeros(len(frame.instruments))
    for j in np.flatnonzero(_broken(known) & (why == 0) & (lot > 0.0)):
        p = float(known.p[j])
        over = abs(p) - float(limits_of(known).max_notional[j])
        room = min(float(-work.problem.lower[j] if p > 0.0 else work.problem.upper[j]), abs(p))
        wanted = max(math.ceil(over / float(lot[j]) - WHOLE), math.ceil(float(frame.min_notional[j] / lot[j]) - WHOLE), 1)
        lots = min(wanted, math.floor(room / float(lot[j]) + WHOLE))
        if lots * lot[j] >= frame.min_notional[j] - WHOLE * lot[j]:
            forced[j] = -math.copysign(lots * float(lot[j]), p)
    return forced


def _binding(known: Known, why: Ints, spare: Bools | None) -> tuple[tuple[Binding, ...], Ints, Floats]:
    """Return what binds, hardest first, and by leg (m,) the reason and the multiplier; legs that only wait for their primary are left out."""
    frame, work, out = known.frame, known.work, known.out
    solution, problem = work.solution, work.problem
    held = work.bound_legs != 0
    multipliers = np.where(held, solution.bound, 0.0)
    reasons = np.where(why > 0, why, np.array(_OF_BOUND)[work.bound_legs])
    if spare is not None:
        quiet = spare & (reasons == R.reducing_only)
        multipliers[quiet], reasons[quiet] = 0.0, 0
    found = [
        Binding(frame.instruments[j], HedgeReason(int(reasons[j])), float(multipliers[j])) for j in np.flatnonzero(multipliers != 0.0)
    ]  # fmt: skip
    count = len(problem.room)
    for s in np.flatnonzero(work.bound_couplings):
        if s == count:
            shut = known.terms is not None and known.terms.reducing and _reducing_is_what_binds(known)
            found.append(Binding("capital", R.reducing_only if shut else R.capital_cap, float(solution.nu[0])))
        elif s == count - 1:
            found.append(Binding("share", R.overhedged, float(solution.mu[s])))
        else:
            assert known.policy is not None
            found.append(Binding(f"stress:{known.policy.payload.stress_scenarios[s].id}", R.stress_bound, float(solution.mu[s])))
    found.sort(key=lambda one: -abs(one.multiplier))
    out.leg_reasons, out.multipliers = reasons.astype(np.int64), multipliers
    return tuple(found), reasons, multipliers


def _reducing_is_what_binds(known: Known) -> bool:
    """Return whether more capital would be allowed if the book were not REDUCING."""
    terms, x = known.terms, known.work.exposures
    assert terms is not None
    used = float((x.margin_rate * np.abs(x.p)).sum())
    return min(terms.max_capital, used + max(terms.headroom_capital, 0.0)) > used


# --- judgement --------------------------------------------------------------------------------------------------------------------


def _judge(known: Known, answer: _Answer, why: Ints, spare: Bools | None) -> Decision:
    """Decide about a proposal: send it, queue it, or say why not."""
    out, rules, policy = known.out, known.rules, known.policy
    assert policy is not None
    out.binding, out.leg_reasons, out.multipliers = answer.binding, answer.reasons.astype(np.int64), answer.multipliers
    out.kkt_violation, out.proposed = answer.violation, answer.h.copy()
    short = _short(known, answer, why)
    if not answer.h.any():
        queued = _queued(known, answer, why, spare)
        return queued if queued is not None else _explain(known, answer, short)
    forced = answer.forced.any()
    if answer.status == Status.inexact and not answer.violation <= rules.kkt_most and not forced:
        return _ended(out, R.solver_inexact)
    after = max(quadratic(known.bar.s_xx, known.d + answer.h), 0.0)
    refused = R.none
    if forced:
        refused = _contradicts(known, answer, after)
    elif not after <= known.risk2 * (1.0 - rules.min_variance_reduction):
        refused = R.predicate_min_var
    if refused != R.none:
        if forced:
            out.escalations += (Alert(refused, "CRITICAL", "a position is above its limit, and bringing it back breaks another limit"),)
        return _ended(out, refused, tuple(one.reason for one in answer.binding))
    told: list[HedgeReason] = [R.limit_forced] if forced else [R.hedge_sent]
    if (answer.h[known.frame.secondary] != 0.0).any() and spare is None:
        told.append(R.secondary_used)
        out.escalations += (Alert(R.liquidity_shortfall, "INFO", "the primary instruments cannot take enough: secondaries are used"),)
    at = np.maximum(known.frame.instrument_series, 0)
    if (known.market.half_spread_bps[at] > known.bar.spread_limit_bps * known.rules.spread_tolerance)[answer.h != 0.0].any():
        told.append(R.envelope_forced)
    if answer.binding:
        told.append(R.hedge_reduced_by_limit)
        told.extend(one.reason for one in answer.binding)
    out.outcome, out.reasons = "sent", tuple(dict.fromkeys(told))
    _fall_back(known, short)
    _finish(known, answer.h, answer.value)
    return out


def _contradicts(known: Known, answer: _Answer, after: float) -> HedgeReason:
    """Return the limit that a forced trade would break, or break further: stress or VaR; none when it breaks none."""
    shocks, payload = shocks_of(known), known.risk.payload if known.risk is not None else None
    if len(shocks.max_loss):
        before = -(shocks.exposure_shock * known.e).sum(axis=1) - (shocks.hedge_shock * known.p).sum(axis=1)
        loss = before - (shocks.hedge_shock * answer.h).sum(axis=1)
        size = np.abs(shocks.hedge_shock * answer.h).sum(axis=1)
        if (loss > np.maximum(shocks.max_loss, before) + 1e-9 * size).any():
            return R.stress_bound
    limit = payload.var_limit if payload is not None else None
    if limit is not None and after > known.risk2:
        basis = known.norm2 / known.out.bound_r2 - known.norm2 if known.out.bound_r2 > 0.0 else 0.0
        bars = known.rules.var_horizon_ns / known.market.rules.bar_ns
        if known.rules.var_z * math.sqrt((after + basis) * bars) > limit:
            return R.predicate_var_limit
    return R.none


def _queued(known: Known, answer: _Answer, why: Ints, spare: Bools | None) -> Decision | None:
    """Return the decision to wait for an order channel, when the book has a worthwhile trade only with the closed channels open; else None.

    It is looked for with all instruments, cooldown or not: it is what a fresh decision may be once the channel is up, and is not sent as it is.
    """
    if not (answer.multipliers[why == R.channel_down] != 0.0).any():
        return None
    out = known.out
    keep = (out.lower, out.upper)
    opened = _propose(known, np.where(why == R.channel_down, _closed(known, all_up=True), why), spare)
    after = max(quadratic(known.bar.s_xx, known.d + opened.h), 0.0)
    if not opened.h.any() or not after <= known.risk2 * (1.0 - known.rules.min_variance_reduction):
        out.lower, out.upper = keep
        out.binding, out.leg_reasons, out.multipliers = answer.binding, answer.reasons.astype(np.int64), answer.multipliers
        return None
    out.binding, out.leg_reasons, out.multipliers = answer.binding, answer.reasons.astype(np.int64), answer.multipliers
    out.outcome, out.reasons, out.proposed = "blocked", (R.channel_queued, R.channel_down), opened.h.copy()
    out.escalations += (Alert(R.channel_queued, "WARN", "no order channel that is up can take the hedge"),)
    _fall_back(known, True)
    _finish(known, opened.h, opened.value)
    return out


def _explain(known: Known, answer: _Answer, short: bool) -> Decision:
    """Say why nothing is traded."""
    out, view = known.out, known.view
    bound_by = tuple(dict.fromkeys(one.reason for one in answer.binding))
    _fall_back(known, short)
    if out.state == "REDUCING" and (R.reducing_only in bound_by or R.capital_cap in bound_by):
        bound_by = tuple(dict.fromkeys((*bound_by, *out.state_reasons)))
    if answer.status == Status.invalid:
        return _ended(out, R.solver_inexact)
    if answer.share_capped:
        return _ended(out, R.overhedged, bound_by)
    covered = bool(out.in_flight.any()) and _outside_band(known, out.d_filled)
    if answer.rounding == Rounding.below_min_notional:
        return _ended(out, R.inflight_covers if covered else R.below_min_notional, R.below_min_notional, bound_by)
    if answer.rounding == Rounding.not_profitable:
        return _ended(out, R.not_profitable, bound_by)
    if bound_by:
        return _ended(out, bound_by)
    if covered:
        return _ended(out, R.inflight_covers)
    newest = np.where(np.isnan(view.ratios.b), known.facts.b, view.ratios.b)
    wanted = np.zeros(len(known.p))
    needed(np.ascontiguousarray(newest), known.e, wanted)
    if _outside_band(known, known.p + wanted):
        return _ended(out, R.within_ratio_buffer)
    return _ended(out, R.within_no_trade_band)


def _outside_band(known: Known, distance: Floats) -> bool:
    """Return whether a trade would pay at this distance, limits aside: no trade is best where |g| ≤ k (+ c) for every leg."""
    problem = known.work.problem
    gradient = np.zeros(len(distance))
    needed(problem.q, distance, gradient)
    unit = float(max(np.abs(gradient).max(initial=0.0), problem.k.max(initial=0.0)))
    open_ = problem.upper > problem.lower
    return bool((np.abs(gradient) > problem.k + problem.c + BINDING * unit)[open_].any())


def _fall_back(known: Known, short: bool) -> None:
    """Escalate that instruments cannot take enough, with the policy's fallback by name; it is not improvised here."""
    out, policy = known.out, known.policy
    if short and policy is not None:
        out.fallback_strategy = policy.payload.fallback_strategy
        text = "hedge instruments cannot take enough"
        out.escalations += (Alert(R.escalated, "WARN", text),)


def _finish(known: Known, h: Floats, value: float) -> None:
    """Make the legs of h, and what they should do."""
    out, frame, x = known.out, known.frame, known.work.exposures
    chosen = np.flatnonzero(h)
    cap = known.policy.payload.max_cost_bps if known.policy is not None else 0.0
    # the half spread as it is: a DEGRADED channel is dear, the quote is not wider for it
    away = known.market.half_spread_bps[frame.instrument_series[chosen]] + cap
    buys = (h[chosen] > 0.0) == (known.unit[chosen] > 0.0)
    lots = np.rint(np.abs(h[chosen]) / (frame.lot[chosen] * np.abs(known.unit[chosen]))).astype(np.int64)
    columns = (chosen, lots, np.abs(h[chosen]), known.mid[chosen], buys, away, frame.px_scale[chosen])
    # plain numbers: a numpy scalar costs several times as much at every step
    legs = [
        Leg(
            j, frame.instruments[j], "BUY" if buy else "SELL", count, float(frame.lot_units[j] * count), notional, mid,
            limit_price(mid, buy, far, scale),
        )
        for j, count, notional, mid, buy, far, scale in zip(*(column.tolist() for column in columns), strict=True)
    ]  # fmt: skip
    out.legs, out.h, out.proposed = tuple(legs), h.copy(), h.copy()
    if out.outcome == "sent":
        out.start = np.zeros(len(h))
    np.add(known.d, h, out=out.d_after)
    out.reduce_only = bool(((h == 0.0) | ((h * known.p < 0.0) & (np.abs(h) <= np.abs(known.p) * (1.0 + WHOLE)))).all())
    traded = float(np.abs(h).sum())
    cost = float((np.abs(h) * (x.cost_bps + x.half_spread_bps + x.impact_bps)).sum()) / traded if traded > 0.0 else 0.0
    after = max(quadratic(known.bar.s_xx, known.d + h), 0.0) if known.missing == R.none else math.nan
    out.expected = {
        "variance_reduction": 1.0 - after / known.risk2 if known.risk2 > 0.0 else math.nan,
        "cost_bps": cost,
        "coverage_before": out.coverage_expected,
        "coverage_after": 1.0 - math.sqrt(after / known.norm2) if known.norm2 > 0.0 else math.nan,
        "bound_r2": out.bound_r2,
        "utility": -value,
        "overhedge_share": _share(known, known.p + h) if known.norm2 > 0.0 else math.nan,
    }


def limit_price(mid: float, buy: bool, away_bps: float, px_scale: int) -> Decimal | None:
    """Return the price `away_bps` beyond the mid, rounded away from it to 10^-px_scale; None where that is not above 0."""
    if not (mid > 0.0 and math.isfinite(mid) and math.isfinite(away_bps)):
        return None
    ticks = mid * (1.0 + (away_bps if buy else -away_bps) / BPS) * 10.0**px_scale
    near = WHOLE * max(1.0, abs(ticks) * 1e-6)
    whole = math.ceil(ticks - near) if buy else math.floor(ticks + near)
    return Decimal(whole).scaleb(-px_scale) if whole > 0 else None
