"""The canary's rules for accounts as one kernel: metrics, evidence rows, signals, headline, lifecycle, health of the sources (canary §4, §8 to §11).

May not build texts or hash anything: what comes out are codes, from which operators/canary_render.py builds results. Every level is the policy's;
everything about the market is decided in operators/clusters.py.
"""

from __future__ import annotations

import calendar
from functools import cached_property
from typing import Any, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from operators.account_metrics import METRICS, given, measure
from operators.canonical import BUCKETS, bucket, key_of, project_regime
from operators.clusters import NS, MarketView, RegimeInput, from_snapshot, market_of, new_york
from schemas.canary import Stage
from schemas.jit import bare
from schemas.policy import Health, RiskPolicy
from state.accounts import F_ACCOUNT, F_ACCOUNT_TIME, F_PORTFOLIO, F_POSITIONS, F_POSITIONS_TIME

SEVERITIES = ("observe", "watch", "act", "urgent")
OBSERVE, WATCH, ACT, URGENT = range(len(SEVERITIES))
DIRECTIONS = ("", "defensive", "constructive", "rebalance", "data_quality", "mixed")
NONE, DEFENSIVE, CONSTRUCTIVE, REBALANCE, DATA_QUALITY, MIXED = range(len(DIRECTIONS))
MODES = ("none", "defend", "rebalance", "deploy", "stage", "confirm_data")
NO_MODE, DEFEND, TO_REBALANCE, DEPLOY, PREPARE, CONFIRM_DATA = range(len(MODES))
READINESS = ("none", "ready", "blocked", "prestage", "watch")
NOT_NEEDED, READY, BLOCKED, PRESTAGE, TO_WATCH = range(len(READINESS))
STAGES = get_args(Stage)
UNDEFINED, FORCED_DEFENSE, PANIC, CONFIRMED_STRESS, EARLY_WARNING, OPPORTUNITY, STABILIZATION, QUIET = range(len(STAGES))
CONFIDENCES = ("high", "medium", "medium-low")
HIGH, MEDIUM, MEDIUM_LOW = range(len(CONFIDENCES))
STATUSES = ("ok", "partial", "stale", "unknown", "degraded")
OK, PARTIAL, STALE, UNKNOWN, DEGRADED = range(len(STATUSES))

SIGNALS = (
    "margin_cushion_low", "lookahead_cushion_low", "portfolio_pnl_shock", "market_selloff_violent", "market_rally_violent", "vol_spike_confirmed",
    "vol_crush_confirmed", "regime_stress_confirmed", "fx_carry_unwind", "regime_stress_early", "gamma_red", "gross_exposure_high", "net_delta_high",
    "gross_delta_high", "single_name_exposure_high", "single_name_delta_high", "option_greeks_degraded", "short_convexity_high",
    "risk_data_degraded", "market_data_stale", "risk_data_degraded",
)  # fmt: skip
"""Ids in the order they are emitted. The last one is one signal for each warning of the dashboard about data."""
(
    S_CUSHION, S_AHEAD, S_PNL, S_SELLOFF, S_RALLY, S_SPIKE, S_CRUSH, S_STRESS, S_CARRY, S_EARLY, S_GAMMA, S_GROSS, S_NET, S_DELTA,
    S_NAME, S_NAME_DELTA, S_GREEKS, S_CONVEXITY, S_DEGRADED, S_STALE, S_WARNING,
) = range(len(SIGNALS))  # fmt: skip
MARKET_SIGNALS = (S_SELLOFF, S_RALLY, S_SPIKE, S_CRUSH, S_STRESS, S_CARRY, S_EARLY, S_GAMMA, S_STALE, S_WARNING)
"""Those that are the same for every account (the sell-off but for its confirmation by margin)."""
DATA_SIGNALS = (S_GREEKS, S_DEGRADED, S_STALE, S_WARNING)
HIGH_SIGNALS = (S_CUSHION, S_AHEAD, S_PNL, S_GROSS, S_NET, S_DELTA, S_NAME, S_NAME_DELTA)
"""Signals of confidence high: the account's own figures."""
STRESS_SIGNALS = (S_GROSS, S_NET, S_DELTA, S_NAME, S_NAME_DELTA)
"""Signals that are defensive in a stressed market and rebalance in a calm one."""
RESERVED = ("held_underlying_pnl_shock", "held_option_expiry_concentration", "held_liquidity_degraded")
"""Ids nothing may use for anything else; they are not computed yet."""

_CALM_DIRECTION = np.full(len(SIGNALS), DEFENSIVE, np.uint8)
_CALM_DIRECTION[[S_RALLY, S_CRUSH]] = CONSTRUCTIVE
_CALM_DIRECTION[list(DATA_SIGNALS)] = DATA_QUALITY
_STRESSED_DIRECTION = _CALM_DIRECTION.copy()
_CALM_DIRECTION[list(STRESS_SIGNALS)] = REBALANCE
SIGNAL_DIRECTIONS = (_CALM_DIRECTION, _STRESSED_DIRECTION)
"""Direction of each signal in a calm and in a stressed market."""
_HIGH = np.isin(np.arange(len(SIGNALS)), HIGH_SIGNALS)

ROW_NAMES = ("portfolio", "margin", "pnl", "tape", "market", "exposure", "concentration", "convexity", "data")
R_PORTFOLIO, R_MARGIN, R_PNL, R_TAPE, R_MARKET, R_EXPOSURE, R_NAME, R_CONVEXITY, R_DATA = range(len(ROW_NAMES))

MISSING = (
    "account", "net_liquidation", "cushion", "gross_position_value", "daily_pnl", "positions", "portfolio", "dollar_delta", "exposure",
    "option_greeks", "account_as_of", "positions_as_of", "regime", "regime_as_of",
)  # fmt: skip
"""What an evaluation may find not delivered, as `blocked_by` names it; `exposure` stands for the names of held underlyings."""
(
    M_ACCOUNT, M_NET, M_CUSHION, M_GROSS, M_PNL, M_POSITIONS, M_PORTFOLIO, M_NET_DELTA, M_EXPOSURE, M_GREEKS, M_ACCOUNT_TIME,
    M_POSITIONS_TIME, M_REGIME, M_REGIME_TIME,
) = tuple(1 << bit for bit in range(len(MISSING)))  # fmt: skip

DISCRETE = [
    ("missing", "u2"), ("direction", "u1"), ("severity", "u1"), ("mode", "u1"), ("readiness", "u1"), ("stage", "u1"),
    ("data_confidence", "u1"), ("signal_confidence", "u1"), ("account_status", "u1"), ("account_confidence", "u1"), ("positions_status", "u1"),
    ("positions_confidence", "u1"), ("regime_status", "u1"), ("regime_confidence", "u1"), ("pnl_hard", "u1"), ("pnl_gain", "u1"),
    ("selloff_blocked", "u1"), ("exposure_named", "u1"), ("delta_named", "u1"), ("more_unmeasured", "u1"),
    ("signals", "u1", (len(SIGNALS),)), ("row_direction", "u1", (len(ROW_NAMES),)), ("row_severity", "u1", (len(ROW_NAMES),)), *BUCKETS,
]  # fmt: skip
"""What a key may depend on, beside names, currency and type: codes into the lists above. signals: severity, 0 for one that does not fire. The buckets, last,
matter to the keys of account and positions only."""
VERDICT = np.dtype([("row", "i8"), *METRICS, ("danger", "u1"), ("press", "u1"), *DISCRETE])
"""One evaluation: the account's row number, its metrics, whether its cushion is in danger or under pressure, its codes."""


def verdicts(n: int) -> NDArray[Any]:
    """Return memory for n evaluations, `(n,)` of VERDICT."""
    return np.zeros(n, VERDICT)


class Limits(NamedTuple):
    """Levels of the policy that a kernel compares an account with (schemas.policy.Policy), and switches as 0 or 1."""

    margin_urgent: float
    margin_act: float
    margin_watch: float
    gross_watch: float
    net_watch: float
    delta_watch: float
    gross_act: float
    net_act: float
    delta_act: float
    gross_urgent: float
    net_urgent: float
    delta_urgent: float
    name_watch: float
    name_delta_watch: float
    coverage: float
    pnl_watch: float
    pnl_act: float
    margin_confirms: bool
    missing_is_state: bool
    margin_episode: bool


class View(NamedTuple):
    """What a kernel reads of the market, the clock and the regime snapshot. Severities as codes, 0 for a signal or row that does not fire.

    fall: how deep SPY fell (OBSERVE: not to a level, WATCH, ACT for the hard levels). panic_tape: SPY or VIX at a level of panic. data_issue: a quality
    list is not empty; weak: that, or a cluster has no band or is late. gate: severity of the row about data. max_age: of sources, ns. regime_status:
    of the regime but for its age. blind: bits of MISSING that concern the regime.
    """

    stressed: bool
    any_red: bool
    two_red: bool
    three_red: bool
    confirmed_tape: bool
    convexity: bool
    selloff_by_market: bool
    tape_known: bool
    fall: int
    spike: int
    panic_tape: bool
    many_ambiguous: bool
    data_issue: bool
    weak: bool
    market_row: int
    gate: int
    pnl_due: bool
    now_ns: int
    max_age: int
    regime_status: int
    regime_aged: bool
    blind: int


def max_age_s(health: Health, now_ns: int) -> int:
    """Return the age in seconds past which a source is stale at a time (canary §11): shorter on weekdays while New York trades, early hours included."""
    return health.max_age_s if _in_hours(health, now_ns) else health.max_age_closed_s


def _in_hours(health: Health, now_ns: int) -> bool:
    at = new_york(now_ns)
    return at.weekday() < calendar.SATURDAY and health.open_hour <= at.hour < health.close_hour


_TIMELESS = (
    "limits", "tape_off", "regime_status", "data_warnings", "market_signals", "fall", "spike", "spike_blocked", "late", "degraded_inputs", "market_row",
    "gate_row", "regime_key",
)  # fmt: skip
"""What is worked out of a scene and depends on no clock."""


class Scene:
    """One market under one policy at one time: what the evaluations of any number of accounts share.

    regime: the dashboard, None if none was ever seen. market: as `market_of` made it for exactly this regime, policy and time; made here if not
    given.
    """

    def __init__(self, regime: RegimeInput | None, policy: RiskPolicy, now_ns: int, market: MarketView | None = None) -> None:
        self.regime = regime
        self.policy = policy
        self.now_ns = now_ns
        self.market = market_of(from_snapshot({}) if regime is None else regime, policy, now_ns) if market is None else market
        self.max_age_s = max_age_s(policy.policy.health, now_ns)

    def at(self, now_ns: int) -> Scene:
        """Return the scene at another time, while its market holds: what no clock changes is worked out once for both."""
        other = Scene(self.regime, self.policy, now_ns, self.market)
        for name in _TIMELESS:
            other.__dict__[name] = getattr(self, name)
        return other

    @cached_property
    def regime_key(self) -> str:
        """Return the key of the dashboard, its composite made from its rows."""
        return key_of(project_regime(self.regime, self.market))

    @cached_property
    def limits(self) -> Limits:
        """Return the policy's levels for the kernel."""
        p, s = self.policy.policy, self.policy.policy.switches
        levels = [float(level) for level in (
            p.margin_urgent_pct, p.margin_act_pct, p.margin_watch_pct, p.gross_exposure_watch_pct, p.net_delta_watch_pct, p.gross_delta_watch_pct,
            p.gross_exposure_stress_act_pct, p.net_delta_stress_act_pct, p.gross_delta_stress_act_pct, p.gross_exposure_stress_urgent_pct,
            p.net_delta_stress_urgent_pct, p.gross_delta_stress_urgent_pct, p.single_name_exposure_watch_pct, p.single_name_delta_watch_pct,
            p.option_greeks_min_coverage_pct, p.daily_pnl_watch_pct, p.daily_pnl_act_pct,
        )]  # fmt: skip
        return Limits._make([*levels, s.margin_confirms_market, s.missing_is_state, s.margin_episode])

    @cached_property
    def tape_off(self) -> bool:
        """Return whether the tape does not count because its date is closed."""
        return self.market.closed and self.policy.policy.switches.closed_date_tape_off

    @cached_property
    def regime_age_ns(self) -> int | None:
        """Return the regime's age, never below 0; None if it is not known."""
        return None if self.regime is None or self.regime.as_of_ns is None else max(self.now_ns - self.regime.as_of_ns, 0)

    @cached_property
    def regime_status(self) -> int:
        """Return how far the regime can be believed (canary §11), but for its age. One that does not say when it was true is unknown, whatever it says."""
        m = self.market
        if self.regime_age_ns is None:
            return UNKNOWN
        partial = bool(m.partial or m.ambiguous or m.unranked_defects)
        worst = ((bool(m.stale), STALE), (bool(m.degraded), DEGRADED), (partial, PARTIAL))
        if self.policy.policy.switches.missing_is_state:
            worst = ((partial, PARTIAL), (bool(m.degraded), DEGRADED), (bool(m.stale), STALE))
        return next((status for holds, status in worst if holds), OK)

    @cached_property
    def data_warnings(self) -> tuple[dict[str, Any], ...]:
        """Return the warnings of the regime that are signals: those about a scope whose severity speaks of data."""
        return tuple(
            w for w in self.market.warnings if str(w.get("scope") or "").strip() and "data" in str(w.get("severity") or "").lower()
        )

    @cached_property
    def market_signals(self) -> NDArray[np.uint8]:
        """Return the severities of the signals that are the market's, `(len(SIGNALS),)`; the sell-off as if nothing confirmed it."""
        p, m = self.policy.policy, self.market
        found = np.zeros(len(SIGNALS), np.uint8)
        fall, rally = self.fall, m.spy is not None and m.spy >= p.spy_rally_pct
        found[S_SELLOFF] = min(fall, WATCH)
        found[S_RALLY] = 0 if not rally else ACT if m.spy is not None and m.spy >= p.spy_hard_rally_pct else WATCH
        found[S_SPIKE] = self.spike
        if m.vix is not None and m.vix <= p.vix_crush_pct:
            found[S_CRUSH] = ACT if m.vix <= p.vix_hard_crush_pct else WATCH
        if m.stress_confirmed:
            found[S_STRESS] = SEVERITIES.index(m.stress_severity)
        elif m.fast_carry:
            found[S_CARRY] = ACT
        elif m.stress_early:
            found[S_EARLY] = WATCH
        found[S_GAMMA] = WATCH * m.gamma_red
        found[S_DEGRADED] = WATCH * bool(self.degraded_inputs or m.unranked_defects)
        found[S_STALE] = WATCH * bool(m.stale)
        found[S_WARNING] = WATCH * bool(self.data_warnings)
        return found

    @cached_property
    def fall(self) -> int:
        """Return how deep SPY fell: OBSERVE, WATCH, or ACT at the hard levels."""
        p, spy = self.policy.policy, self.market.spy
        return OBSERVE if spy is None or spy > p.spy_drop_pct else ACT if spy <= p.spy_hard_drop_pct else WATCH

    @cached_property
    def spike(self) -> int:
        """Return the severity of VIX's rise: ACT only where it is confirmed."""
        p, m = self.policy.policy, self.market
        if m.vix is None or m.vix < p.vix_spike_pct:
            return OBSERVE
        return ACT if m.vix >= p.vix_hard_spike_pct and m.spike_confirmed else WATCH

    @cached_property
    def spike_blocked(self) -> bool:
        """Return whether VIX rose to the hard level and nothing confirms it."""
        vix = self.market.vix
        return vix is not None and vix >= self.policy.policy.vix_hard_spike_pct and not self.market.spike_confirmed

    @cached_property
    def late(self) -> tuple[str, ...]:
        """Return the clusters that are late by their schedule, of profiles with freshness classes: no better known than one without a band."""
        m = self.market
        return tuple(sorted((*m.defects, *m.impaired))) if self.policy.policy.switches.freshness_classes else ()

    @cached_property
    def degraded_inputs(self) -> tuple[str, ...]:
        """Return the clusters that are missing, partial, degraded, being computed or late, sorted."""
        m = self.market
        return tuple(sorted({*m.ambiguous, *m.partial, *m.degraded, *m.computing, *self.late}))

    @cached_property
    def market_row(self) -> tuple[str, int]:
        """Return title and severity of the row about the market; every one that is not observe is defensive."""
        m = self.market
        if m.stress_confirmed:
            return "Confirmed market stress", SEVERITIES.index(m.stress_severity)
        if m.fast_carry:
            return "Fast carry unwind", ACT
        if m.early_filtered:
            return "Early stress filtered", WATCH
        return ("Deteriorating tape", WATCH) if m.deteriorating else ("Market stress", OBSERVE)

    @cached_property
    def gate_row(self) -> tuple[str, int]:
        """Return title and severity of the row about the market's data; every one that is not observe is data_quality."""
        m = self.market
        if m.data_issue:  # gamma or breadth being computed is one
            return "Ambiguity filter", WATCH
        return "Data quality gate", WATCH if m.ranked < self.policy.policy.rules.gate_min_ranked else OBSERVE

    @cached_property
    def view(self) -> View:
        """Return what the kernel reads."""
        p, m, age = self.policy.policy, self.market, self.regime_age_ns
        blind = 0
        if self.regime is None:
            blind = M_REGIME
        elif age is None:
            blind = M_REGIME_TIME
        crash = m.spy is not None and m.spy <= p.spy_crash_pct
        return View(
            stressed=m.stressed, any_red=m.any_red, two_red=m.two_red, three_red=m.three_red, confirmed_tape=m.confirmed_tape,
            convexity=m.convexity, selloff_by_market=m.selloff_by_market,
            tape_known=self.tape_off or m.spy is not None or m.vix is not None, fall=self.fall, spike=self.spike,
            panic_tape=crash or (m.vix is not None and m.vix >= p.vix_hard_spike_pct and m.any_red),
            many_ambiguous=len(m.ambiguous) > p.rules.urgent_max_ambiguous, data_issue=m.data_issue, weak=m.unranked_defects > 0 or m.data_issue or bool(self.late),
            market_row=self.market_row[1], gate=self.gate_row[1],
            pnl_due=_in_hours(p.health, self.now_ns) and not m.closed, now_ns=self.now_ns, max_age=self.max_age_s * NS,
            regime_status=self.regime_status, regime_aged=age is not None and age > self.max_age_s * NS, blind=blind,
        )  # fmt: skip


@bare
def _cushion_severity(value: float, limits: Limits) -> int:
    if value < limits.margin_urgent:
        return URGENT
    if value < limits.margin_act:
        return ACT
    return WATCH if value < limits.margin_watch else OBSERVE


@bare
def _exposure_severity(value: float, watch: float, act: float, urgent: float, stressed: bool) -> int:
    if stressed:
        if value >= urgent:
            return URGENT
        if value >= act:
            return ACT
    return WATCH if value >= watch else OBSERVE


@bare
def _missing(row: Any, v: Any, view: View) -> int:
    """Return what was not delivered, as bits of MISSING: each cause once, not what follows from it."""
    found = view.blind
    if (row.facts & F_ACCOUNT) == 0:
        found |= M_ACCOUNT
    else:
        if (row.facts & F_ACCOUNT_TIME) == 0:
            found |= M_ACCOUNT_TIME
        if not row.net_liquidation > 0.0:
            found |= M_NET
        elif not given(v.worst_cushion_pct):
            found |= M_CUSHION
        if not given(row.gross_position_value):
            found |= M_GROSS
        if view.pnl_due and not given(row.daily_pnl):
            found |= M_PNL
    if (row.facts & F_POSITIONS) == 0:
        return found | M_POSITIONS
    if (row.facts & F_POSITIONS_TIME) == 0:
        found |= M_POSITIONS_TIME
    if row.unmeasured > 0:
        found |= M_EXPOSURE
    if (row.facts & F_PORTFOLIO) == 0:
        return found | M_PORTFOLIO
    if not given(row.dollar_delta):
        found |= M_NET_DELTA
    if row.greeks_total > 0:
        if row.greeks_coverage <= 0 or not given(row.gamma):
            found |= M_GREEKS
    elif row.options > 0:
        found |= M_GREEKS
    return found


_NO_EXPOSURE = M_ACCOUNT | M_NET | M_GROSS | M_POSITIONS | M_PORTFOLIO | M_NET_DELTA | M_EXPOSURE
_NO_NAME = M_ACCOUNT | M_NET | M_POSITIONS | M_PORTFOLIO | M_EXPOSURE
_NO_OPTIONS = M_POSITIONS | M_PORTFOLIO | M_GREEKS
_NO_ACCOUNT = M_ACCOUNT | M_NET | M_PNL


@bare
def _signals(row: Any, v: Any, limits: Limits, view: View) -> None:
    """Fill in the severities of the signals that depend on the account; those of the market are there."""
    signals = v.signals
    signals[S_CUSHION] = _cushion_severity(v.cushion_pct, limits)
    signals[S_AHEAD] = _cushion_severity(v.look_ahead_cushion_pct, limits)
    move = abs(v.daily_pnl_pct)
    v.pnl_hard = move >= limits.pnl_act
    v.pnl_gain = v.pnl_hard != 0 and v.daily_pnl_pct > 0.0
    signals[S_PNL] = WATCH if move >= limits.pnl_watch else OBSERVE
    if v.pnl_hard > v.pnl_gain:
        signals[S_PNL] = ACT
    v.selloff_blocked = 0
    if view.fall == ACT:
        if view.selloff_by_market or (limits.margin_confirms and v.press != 0):
            signals[S_SELLOFF] = ACT
        else:
            v.selloff_blocked = 1
    stressed = view.stressed
    signals[S_GROSS] = _exposure_severity(v.gross_exposure_pct, limits.gross_watch, limits.gross_act, limits.gross_urgent, stressed)
    signals[S_NET] = _exposure_severity(v.net_delta_pct, limits.net_watch, limits.net_act, limits.net_urgent, stressed)
    signals[S_DELTA] = _exposure_severity(v.gross_delta_pct, limits.delta_watch, limits.delta_act, limits.delta_urgent, stressed)
    alarm = ACT if stressed else WATCH
    signals[S_NAME] = alarm if abs(v.largest_exposure_pct) >= limits.name_watch else OBSERVE
    signals[S_NAME_DELTA] = alarm if v.largest_delta_pct >= limits.name_delta_watch else OBSERVE
    blind = v.greeks_pct < limits.coverage
    if limits.missing_is_state and (v.missing & M_GREEKS) != 0:
        blind = True
    signals[S_GREEKS] = WATCH if blind else OBSERVE
    short = (row.facts & F_POSITIONS) != 0 and (row.facts & F_PORTFOLIO) != 0 and row.gamma < 0.0
    signals[S_CONVEXITY] = ACT if short and view.convexity else OBSERVE
    if v.missing != 0:
        signals[S_DEGRADED] = WATCH
    v.exposure_named = signals[S_NAME] != OBSERVE and row.largest_exposure_len > 0
    v.delta_named = signals[S_NAME_DELTA] != OBSERVE and row.largest_delta_len > 0


@bare
def _say(v: Any, row: int, direction: int, severity: int) -> None:
    v.row_direction[row] = direction
    v.row_severity[row] = severity


@bare
def _rows(row: Any, v: Any, limits: Limits, view: View) -> None:
    """Fill in the evidence rows but the first. A figure that is missing clears nothing where the policy calls that a state."""
    signals, gaps = v.signals, v.missing
    for i in range(len(ROW_NAMES)):
        _say(v, i, NONE, OBSERVE)
    if not given(v.worst_cushion_pct):
        _say(v, R_MARGIN, DATA_QUALITY, WATCH)
    else:
        severity = _cushion_severity(v.worst_cushion_pct, limits)
        if severity != OBSERVE:
            _say(v, R_MARGIN, DEFENSIVE, severity)
    if signals[S_PNL] != OBSERVE:
        _say(v, R_PNL, DEFENSIVE, signals[S_PNL])
    elif (gaps & _NO_ACCOUNT) != 0:
        _say(v, R_PNL, DATA_QUALITY, WATCH)
    if not view.tape_known:
        _say(v, R_TAPE, DATA_QUALITY, WATCH)
    else:
        severity = max(signals[S_SELLOFF], view.spike)
        if severity != OBSERVE:
            _say(v, R_TAPE, DEFENSIVE, severity)
    if view.market_row != OBSERVE:
        _say(v, R_MARKET, DEFENSIVE, view.market_row)
    severity = max(signals[S_GROSS], signals[S_NET], signals[S_DELTA])
    if severity != OBSERVE:
        _say(v, R_EXPOSURE, DEFENSIVE if view.stressed else REBALANCE, severity)
    elif (gaps & _NO_EXPOSURE) != 0:
        _say(v, R_EXPOSURE, DATA_QUALITY, WATCH)
    severity = max(signals[S_NAME], signals[S_NAME_DELTA])
    if severity != OBSERVE:
        _say(v, R_NAME, DEFENSIVE if view.stressed else REBALANCE, severity)
    elif (gaps & _NO_NAME) != 0:
        _say(v, R_NAME, DATA_QUALITY, WATCH)
    if signals[S_GREEKS] != OBSERVE or (gaps & _NO_OPTIONS) != 0:
        _say(v, R_CONVEXITY, DATA_QUALITY, WATCH)
    elif signals[S_CONVEXITY] != OBSERVE and row.greeks_total > 0:
        _say(v, R_CONVEXITY, DEFENSIVE, signals[S_CONVEXITY])
    if view.gate != OBSERVE:
        _say(v, R_DATA, DATA_QUALITY, view.gate)


@bare
def _headline(v: Any, limits: Limits, view: View) -> None:
    """Fill in direction, severity, confidences, mode and readiness (canary §10, 1 to 7) and the first row."""
    defensive, constructive, rebalance, data, any_signal, sure = False, False, False, False, False, False
    severity = OBSERVE
    directions = _STRESSED_DIRECTION if view.stressed else _CALM_DIRECTION
    for i in range(len(SIGNALS)):
        if v.signals[i] != OBSERVE:
            any_signal = True
            severity = max(severity, v.signals[i])
            defensive |= directions[i] == DEFENSIVE
            constructive |= directions[i] == CONSTRUCTIVE
            rebalance |= directions[i] == REBALANCE
            data |= directions[i] == DATA_QUALITY
            sure |= _HIGH[i]
    for i in range(len(ROW_NAMES)):
        severity = max(severity, v.row_severity[i])
        defensive |= v.row_direction[i] == DEFENSIVE
        rebalance |= v.row_direction[i] == REBALANCE
        data |= v.row_direction[i] == DATA_QUALITY
    if defensive:
        direction = MIXED if constructive else DEFENSIVE
    elif constructive:
        direction = CONSTRUCTIVE
    elif rebalance:
        direction = REBALANCE
    else:
        direction = DATA_QUALITY if data else NONE
    threat = direction in (DEFENSIVE, MIXED)
    danger, press = v.danger != 0, v.press != 0
    if severity == URGENT and not danger and (not view.two_red or view.many_ambiguous):
        severity = ACT
    if severity == ACT and threat and not view.any_red and not press and not view.confirmed_tape:
        severity = WATCH
    v.direction, v.severity = direction, severity
    v.row_direction[R_PORTFOLIO], v.row_severity[R_PORTFOLIO] = direction, severity
    v.data_confidence = MEDIUM_LOW if view.weak or v.missing != 0 else HIGH
    v.signal_confidence = HIGH if sure else MEDIUM

    mode = NO_MODE
    if direction == DATA_QUALITY:
        mode = CONFIRM_DATA
    elif direction == REBALANCE and severity >= WATCH:
        mode = TO_REBALANCE
    elif threat and severity >= ACT:
        mode = DEFEND
    elif threat and severity == WATCH and any_signal:
        mode = PREPARE
    elif direction == CONSTRUCTIVE and severity >= ACT:
        if v.data_confidence == HIGH and not press and not view.data_issue:
            mode = DEPLOY
    elif direction == CONSTRUCTIVE and severity == WATCH:
        mode = PREPARE
    v.mode = mode
    if mode == CONFIRM_DATA or (mode == DEFEND and v.data_confidence == MEDIUM_LOW and not danger):
        v.readiness = BLOCKED
    elif mode == PREPARE:
        v.readiness = PRESTAGE
    elif mode != NO_MODE:
        v.readiness = READY
    else:
        v.readiness = TO_WATCH if severity == WATCH else NOT_NEEDED


@bare
def _stage(v: Any, limits: Limits, view: View) -> int:
    """Return the lifecycle stage (canary §10, 8), first match."""
    direction, severity = v.direction, v.severity
    if direction == DATA_QUALITY:
        return UNDEFINED
    if v.danger != 0:
        return FORCED_DEFENSE
    if direction in (DEFENSIVE, MIXED):
        if severity == URGENT:
            return PANIC if view.three_red or view.confirmed_tape else FORCED_DEFENSE
        if severity == ACT:
            if view.three_red or view.panic_tape:
                return PANIC
            # an account's own trouble does not confirm the market
            alone = limits.margin_episode and not view.any_red and not view.confirmed_tape
            return FORCED_DEFENSE if alone else CONFIRMED_STRESS
        if severity == WATCH:
            return EARLY_WARNING
    if direction == CONSTRUCTIVE:
        return OPPORTUNITY if v.mode == DEPLOY and v.readiness == READY else STABILIZATION
    return EARLY_WARNING if direction == REBALANCE else QUIET


@bare
def _health(row: Any, v: Any, view: View) -> None:
    """Fill in status and confidence of the three sources (canary §11)."""
    v.account_status, v.account_confidence = OK, HIGH
    if (row.facts & F_ACCOUNT) == 0 or (row.facts & F_ACCOUNT_TIME) == 0:
        v.account_status, v.account_confidence = UNKNOWN, MEDIUM_LOW
    elif not row.net_liquidation > 0.0:
        v.account_status, v.account_confidence = PARTIAL, MEDIUM_LOW
    elif view.now_ns - row.account_ns > view.max_age:
        v.account_status, v.account_confidence = STALE, MEDIUM
    v.positions_status, v.positions_confidence = OK, HIGH
    if (row.facts & F_POSITIONS) == 0 or (row.facts & F_POSITIONS_TIME) == 0:
        v.positions_status, v.positions_confidence = UNKNOWN, MEDIUM_LOW
    elif view.now_ns - row.positions_ns > view.max_age:
        v.positions_status, v.positions_confidence = STALE, MEDIUM
    v.regime_status, v.regime_confidence = view.regime_status, v.data_confidence
    if view.regime_status == UNKNOWN:
        v.regime_confidence = MEDIUM_LOW
    elif view.regime_status == OK and view.regime_aged:
        v.regime_status = STALE
        if v.regime_confidence == HIGH:
            v.regime_confidence = MEDIUM


@bare
def judge_rows(rows: Any, which: Any, limits: Limits, view: View, market_signals: Any, out: Any) -> None:
    """Evaluate the accounts `rows[which]`: fill in `out`, one VERDICT each. rows `(n,)` with the fields FACTS; which `(k,)` int64; market_signals as
    `Scene.market_signals`."""
    for i in range(len(which)):
        row = rows[which[i]]
        v = out[i]
        v.row = which[i]
        measure(row, v)
        bucket(row, v, v)
        v.danger = v.worst_cushion_pct < limits.margin_urgent
        v.press = v.worst_cushion_pct < limits.margin_act
        v.missing = _missing(row, v, view) if limits.missing_is_state else 0
        v.more_unmeasured = limits.missing_is_state and row.unmeasured > len(row.unmeasured_len)
        for s in range(len(SIGNALS)):
            v.signals[s] = market_signals[s]
        _signals(row, v, limits, view)
        _rows(row, v, limits, view)
        _headline(v, limits, view)
        v.stage = _stage(v, limits, view)
        _health(row, v, view)
