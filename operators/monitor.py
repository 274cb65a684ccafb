"""Who is told of an alert, and when (canary §14): one pure decision over the last notification and the newest observation.

An account under a profile (live or paper) is a scope; a scope has an episode of each kind. May not publish, keep anything, or read a clock: the
lane (operators/monitor_lane.py) does the first two and hands the time in. Every length of time and the floor come from the profile's policy.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from schemas.canary import CanaryAlert, CanaryResult, Kind, NoticeReason, Severity, Signal
from schemas.policy import CLUSTERS, MonitorRules, Switches

SECOND_NS = 1_000_000_000
_DIGEST_BYTES = 16
KINDS: tuple[Kind, ...] = ("portfolio_risk", "margin_safety", "data_health")
"""In the order of the persisted state."""
SEVERITIES: tuple[Severity, ...] = ("observe", "watch", "act", "urgent")
RANK: dict[str, int] = {name: n for n, name in enumerate(SEVERITIES)}
CALM: Severity = "observe"
URGENT = SEVERITIES[-1]
COVERED = frozenset(("ok", "partial"))
"""Statuses of a source that do not hold an episode open."""
EMPTY: frozenset[str] = frozenset()

MARGIN_SIGNALS = {"margin_cushion_low": "cushion_pct", "lookahead_cushion_low": "look_ahead_cushion_pct"}
_ACCOUNT, _POSITIONS, _REGIME = "account", "positions", "regime"
_ANY_CUSHION, _GOOD_DATA = "any_cushion", "good_data"
"""Inputs that are no figure: that a cushion is known at all; that no signal and no row finds fault with the data."""
_RESTS_ON = {
    "margin_cushion_low": (_ACCOUNT, "cushion_pct"),
    "lookahead_cushion_low": (_ACCOUNT, "look_ahead_cushion_pct"),
    "portfolio_pnl_shock": (_ACCOUNT, "daily_pnl_pct_nlv"),
    "market_selloff_violent": (_REGIME, "spy_change_pct"),
    "market_rally_violent": (_REGIME, "spy_change_pct"),
    "vol_spike_confirmed": (_REGIME, "vix_change_pct"),
    "vol_crush_confirmed": (_REGIME, "vix_change_pct"),
    "regime_stress_confirmed": (_REGIME,),
    "regime_stress_early": (_REGIME,),
    "fx_carry_unwind": (_REGIME, "cluster:fx"),
    "gamma_red": (_REGIME, "cluster:gamma"),
    "gross_exposure_high": (_ACCOUNT, "gross_exposure_pct_nlv"),
    "net_delta_high": (_ACCOUNT, _POSITIONS, "net_delta_pct_nlv"),
    "gross_delta_high": (_ACCOUNT, _POSITIONS, "gross_delta_pct_nlv"),
    "single_name_exposure_high": (_ACCOUNT, _POSITIONS, "largest_exposure_pct_nlv"),
    "single_name_delta_high": (_ACCOUNT, _POSITIONS, "largest_delta_pct_nlv"),
    "short_convexity_high": (_ACCOUNT, _POSITIONS, _REGIME),
}  # fmt: skip
"""What a signal was seen in: sources, a cluster, the metric it is measured by. An unknown signal rests on every source."""
_BY_REDS = frozenset(("regime_stress_confirmed", "regime_stress_early", "short_convexity_high"))
_MARKET_ROWS = frozenset(("Confirmed market stress", "Fast carry unwind", "Early stress filtered", "Deteriorating tape"))
"""Rows that are about the clusters; without them a profile's `Market stress` row observes only."""
_PORTFOLIO_METRICS = (
    "cushion_pct", "look_ahead_cushion_pct", "daily_pnl_pct_nlv", "gross_exposure_pct_nlv", "net_delta_pct_nlv", "gross_delta_pct_nlv",
    "largest_exposure_pct_nlv", "largest_delta_pct_nlv",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Observation:
    """What one alert says of one kind. as_of_ns: when it was true; key: the alert's fingerprint.

    signals: `id`, or `id|subject`. inputs: what a firing condition rests on; current: what this alert has observed and current. covered: every
    source is ok or partial. direction, stage: what counts as `stage_changed` of this kind.
    """

    as_of_ns: int
    key: str
    firing: bool
    severity: Severity = CALM
    direction: str = ""
    stage: str = ""
    signals: frozenset[str] = EMPTY
    inputs: frozenset[str] = EMPTY
    current: frozenset[str] = EMPTY
    covered: bool = True


@dataclass(frozen=True, slots=True)
class Entry:
    """An episode: how it stands, and what was last said of it.

    severity, direction, stage, signals, inputs: as last accepted; a held episode keeps them. floor: the least severity that is told, frozen when
    the occurrence began. first_ns, last_ns: as_of of the occurrence's first and newest firing observation. said_*: the last notification, which a
    baseline counts as; said_ns 0: none. Of said_signals those are taken out that have cleared since, so that they are news when they come back.
    paged_ns, told: when somebody was last told, and which severity (empty: never; `observe`: that it is over). cleared: signals that were told and have
    cleared, which is still to be told (`send_resolved`). pending: a page that waits for `min_gap`. waiting: the scope has had no complete
    snapshot since began_ns, its first.
    """

    as_of_ns: int = 0
    key: str = ""
    state: str = "recovered"
    severity: Severity = CALM
    direction: str = ""
    stage: str = ""
    signals: frozenset[str] = EMPTY
    inputs: frozenset[str] = EMPTY
    floor: Severity = CALM
    occurrence_seq: int = 0
    notification_seq: int = 0
    occurrences: int = 0
    first_ns: int = 0
    last_ns: int = 0
    said_ns: int = 0
    said_severity: Severity = CALM
    said_direction: str = ""
    said_stage: str = ""
    said_signals: frozenset[str] = EMPTY
    paged_ns: int = 0
    told: str = ""
    cleared: frozenset[str] = EMPTY
    pending: str = ""
    escalated: bool = False
    waiting: bool = False
    began_ns: int = 0

    @property
    def open(self) -> bool:
        """Return whether the condition is on, as far as is known."""
        return self.state != "recovered"


@dataclass(frozen=True, slots=True)
class Decision:
    """What is done about an observation. entry: the episode after it (sequence numbers are the scope's to give); fresh: a new occurrence began.

    due_ns: when to ask again with the same observation, 0 for not before the next one.
    """

    reason: NoticeReason
    notify: bool
    entry: Entry
    fresh: bool = False
    due_ns: int = 0


def decide(entry: Entry | None, seen: Observation, now_ns: int, rules: MonitorRules) -> Decision:
    """Return what is done about an observation: the first row of canary §14's table that matches.

    entry: None when nothing is known of the scope. The same observation may be put again later: then only clocks (repeat, min_gap) can act.
    """
    if entry is None:
        return _without_baseline(Entry(waiting=True, began_ns=now_ns), seen, now_ns, rules)
    if seen.as_of_ns < entry.as_of_ns or (seen.as_of_ns == entry.as_of_ns and seen.key != entry.key):
        return Decision("rejected_out_of_order", False, entry)
    if entry.waiting:
        return _without_baseline(entry, seen, now_ns, rules)
    if not entry.open:
        return _not_open(entry, seen, now_ns, rules)
    if not _complete(entry, seen) and _quieter(entry, seen):
        return Decision("held_no_coverage", False, replace(entry, as_of_ns=seen.as_of_ns, key=seen.key, state="held"))
    if not seen.firing:
        return _over(entry, seen, now_ns, rules)
    return _still_firing(entry, seen, now_ns, rules)


def _complete(entry: Entry, seen: Observation) -> bool:
    """Return whether an observation may end or lower an episode: all sources covered, all that fired it observed and current."""
    return seen.covered and entry.inputs <= seen.current


def _quieter(entry: Entry, seen: Observation) -> bool:
    """Return whether an observation says less than the record: a lower severity, or as severe with signals lost or another stage and none gained."""
    if not seen.firing or RANK[seen.severity] < RANK[entry.severity]:
        return True
    if RANK[seen.severity] > RANK[entry.severity] or not seen.signals <= entry.signals:
        return False
    return seen.signals != entry.signals or (seen.direction, seen.stage) != (entry.direction, entry.stage)


def _without_baseline(entry: Entry, seen: Observation, now_ns: int, rules: MonitorRules) -> Decision:
    """Decide while the scope has had no complete snapshot: the first one is stored, not told, unless it is urgent.

    Sources come one after the other at a start, so what is incomplete is told only once it has lasted `min_gap`; an emergency at once.
    """
    complete = seen.covered
    fresh = False
    if seen.firing:
        fresh = not entry.open or RANK[seen.severity] > RANK[entry.severity]
        after = _opened(entry, seen, rules) if fresh else _updated(entry, seen)
    elif complete:
        after = _closed(entry, seen)
    else:
        after = replace(entry, as_of_ns=seen.as_of_ns, key=seen.key)
    loud = seen.firing and RANK[seen.severity] >= RANK[after.floor]
    grace_ns = entry.began_ns + rules.min_gap_s * SECOND_NS
    if loud and (seen.severity == URGENT or (not complete and now_ns >= grace_ns)):
        return _paged("first_notification", replace(after, waiting=False), seen, now_ns, rules, fresh)
    if complete:
        said = replace(_said(after, seen, now_ns) if seen.firing else after, waiting=False)
        return Decision("baseline", False, said, fresh, _repeat_due(said, rules) if loud else 0)
    return Decision("held_no_coverage", False, after, fresh, grace_ns if loud else 0)


def _not_open(entry: Entry, seen: Observation, now_ns: int, rules: MonitorRules) -> Decision:
    """Decide where nothing was firing: first, again, or not at all."""
    if not seen.firing:
        after = replace(entry, as_of_ns=seen.as_of_ns, key=seen.key)
        if entry.pending != "recovered":
            return Decision("quiet", False, after)
        if _may(entry, CALM, now_ns, rules):
            return _paged("recovered", after, seen, now_ns, rules)
        return Decision("quiet", False, after, due_ns=_gap_end(entry, rules))
    after = _opened(entry, seen, rules)
    if RANK[seen.severity] < RANK[after.floor]:
        return Decision("quiet", False, after, True)
    reason: NoticeReason = "reopened" if entry.said_ns else "first_notification"  # once told, or a baseline
    if _may(entry, seen.severity, now_ns, rules):
        return _paged(reason, after, seen, now_ns, rules, True)
    return Decision(reason, False, replace(after, pending="reopened"), True, _gap_end(entry, rules))


def _over(entry: Entry, seen: Observation, now_ns: int, rules: MonitorRules) -> Decision:
    """Close an episode that is explicitly over, and say so once to those who were told of it."""
    after = _closed(entry, seen)
    if entry.told in ("", CALM):
        return Decision("recovered" if entry.said_ns else "quiet", False, after)
    if _may(entry, CALM, now_ns, rules):
        return _paged("recovered", after, seen, now_ns, rules)
    return Decision("recovered", False, replace(after, pending="recovered"), due_ns=_gap_end(entry, rules))


def _still_firing(entry: Entry, seen: Observation, now_ns: int, rules: MonitorRules) -> Decision:
    """Decide where it was firing and is: louder, other, again, or nothing new."""
    rose = RANK[seen.severity] > RANK[entry.severity]
    if rose:
        after = _opened(entry, seen, rules, escalated=bool(entry.said_ns))
        if RANK[seen.severity] < RANK[after.floor]:
            return Decision("escalated" if entry.said_ns else "quiet", False, after, True)
        return _paged("escalated" if entry.said_ns else "first_notification", after, seen, now_ns, rules, True)
    after = _updated(entry, seen)
    loud = RANK[seen.severity] >= RANK[entry.floor]
    reason = _news(entry, after, seen, now_ns, rules) if loud else None
    if reason is not None:
        if _may(entry, seen.severity, now_ns, rules):
            return _paged(reason, after, seen, now_ns, rules)
        return Decision(reason, False, after, due_ns=_gap_end(entry, rules))
    quiet: NoticeReason = "quiet"
    if entry.said_ns:
        fell = RANK[seen.severity] < RANK[entry.severity]
        quiet = "de_escalated" if fell else "evidence" if seen.key != entry.key else "unchanged"
    return Decision(quiet, False, after, due_ns=_repeat_due(after, rules) if loud else 0)


def _news(entry: Entry, after: Entry, seen: Observation, now_ns: int, rules: MonitorRules) -> NoticeReason | None:
    """Return why a firing episode that did not rise is told again, or None."""
    if not entry.said_ns:
        return "first_notification"
    if entry.pending == "reopened":
        return "reopened"
    if not seen.signals <= entry.said_signals:
        return "new_signal"
    said = (entry.said_direction, entry.said_stage)
    if seen.severity == entry.said_severity and (seen.direction, seen.stage) != said:
        return "stage_changed"
    if rules.send_resolved and after.cleared:
        return "de_escalated" if RANK[seen.severity] < RANK[entry.said_severity] else "evidence"
    due_ns = _repeat_due(after, rules)
    return "repeat" if due_ns and now_ns >= due_ns else None


def _opened(entry: Entry, seen: Observation, rules: MonitorRules, escalated: bool = False) -> Entry:
    """Return the episode with a new occurrence: its floor is the one of now, whatever the policy says later."""
    return replace(
        _updated(entry, seen), state="escalated" if escalated else "open", floor=rules.notify_floor, occurrences=entry.occurrences + 1,
        first_ns=seen.as_of_ns, pending="", escalated=escalated,
    )  # fmt: skip


def _updated(entry: Entry, seen: Observation) -> Entry:
    """Return the episode with what was observed; without full coverage nothing it rests on, and nothing that was said, is taken away."""
    complete = _complete(entry, seen)
    escalated = entry.escalated and RANK[seen.severity] >= RANK[entry.severity]
    gone = entry.said_signals - seen.signals if complete else EMPTY
    return replace(
        entry, as_of_ns=seen.as_of_ns, key=seen.key, state="escalated" if escalated else "open", severity=seen.severity, direction=seen.direction,
        stage=seen.stage, signals=seen.signals, inputs=seen.inputs if complete else entry.inputs | seen.inputs, last_ns=seen.as_of_ns,
        escalated=escalated, said_signals=entry.said_signals - gone, cleared=(entry.cleared | gone) - seen.signals,
    )  # fmt: skip


def _closed(entry: Entry, seen: Observation) -> Entry:
    return replace(
        entry, as_of_ns=seen.as_of_ns, key=seen.key, state="recovered", severity=CALM, direction="", stage="", signals=EMPTY, inputs=EMPTY,
        pending="", escalated=False, cleared=EMPTY,
    )  # fmt: skip


def _said(entry: Entry, seen: Observation, now_ns: int) -> Entry:
    """Return the episode with this observation as its last notification."""
    return replace(
        entry, said_ns=now_ns, said_severity=seen.severity, said_direction=seen.direction, said_stage=seen.stage, said_signals=seen.signals,
        cleared=EMPTY, pending="",
    )  # fmt: skip


def _paged(reason: NoticeReason, entry: Entry, seen: Observation, now_ns: int, rules: MonitorRules, fresh: bool = False) -> Decision:
    told = replace(_said(entry, seen, now_ns), paged_ns=now_ns, told=seen.severity if seen.firing else CALM)
    return Decision(reason, True, told, fresh, _repeat_due(told, rules) if seen.firing else 0)


def _may(entry: Entry, severity: Severity, now_ns: int, rules: MonitorRules) -> bool:
    """Return whether a page may go now: it says more than the receivers believe, or `min_gap` has passed since the last."""
    return entry.told == "" or RANK[severity] > RANK[entry.told] or now_ns >= _gap_end(entry, rules)


def _gap_end(entry: Entry, rules: MonitorRules) -> int:
    return entry.paged_ns + rules.min_gap_s * SECOND_NS


def _repeat_due(entry: Entry, rules: MonitorRules) -> int:
    """Return when an episode is said again if nothing changes: the first moment past the TTL of its severity; 0 for never."""
    ttl_s = {"watch": rules.repeat_watch_s, "act": rules.repeat_act_s, "urgent": rules.repeat_urgent_s}.get(entry.severity)
    return 0 if ttl_s is None else entry.said_ns + ttl_s * SECOND_NS + 1


# ---- a scope: its episodes together -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Scope:
    """An account under a profile. Sequence numbers count over all its episodes, so that (scope, occurrence, notification) names one page."""

    occurrences: int = 0
    notifications: int = 0
    entries: Mapping[str, Entry] = field(default_factory=dict)


def observe(scope: Scope | None, seen: Mapping[Kind, Observation], now_ns: int, rules: MonitorRules) -> tuple[Scope, dict[Kind, Decision]]:
    """Return (the scope after an alert, the decision for each kind in `seen`). The caller has refused what is out of order."""
    known = scope or Scope()
    occurrences, notifications = known.occurrences, known.notifications
    entries = dict(known.entries)
    decisions: dict[Kind, Decision] = {}
    for kind, observation in seen.items():
        decision = decide(entries.get(kind), observation, now_ns, rules)
        entry = decision.entry
        if decision.fresh:
            occurrences += 1
            entry = replace(entry, occurrence_seq=occurrences)
        if decision.notify:
            notifications += 1
            entry = replace(entry, notification_seq=notifications)
        entries[kind] = entry
        decisions[kind] = replace(decision, entry=entry)
    return Scope(occurrences, notifications, entries), decisions


def scope_id(account: str, mode: str, profile: str) -> str:
    """Return the id a scope has outside: a hash that does not show the account."""
    return "scp_" + _digest("hedgerow-scope-v1", account, mode, profile)


def episode_id(scope: str, kind: str) -> str:
    """Return the id of a scope's episode of one kind: the same over all its occurrences."""
    return "eps_" + _digest("hedgerow-episode-v1", scope, kind)


def _digest(*parts: str) -> str:
    return hashlib.blake2b("\x1f".join(parts).encode(), digest_size=_DIGEST_BYTES).hexdigest()


# ---- from an alert to observations -------------------------------------------------------------------------------------------------


def observations(alert: CanaryAlert, switches: Switches) -> dict[Kind, Observation]:
    """Return what an alert says of each kind; of `margin_safety` only where the profile keeps it (canary §6.9)."""
    result = alert.result
    found: dict[Kind, Observation] = {"portfolio_risk": _portfolio_risk(result)}
    if switches.margin_episode:
        found["margin_safety"] = _margin_safety(result)
    found["data_health"] = _data_health(result)
    return found


def _portfolio_risk(result: CanaryResult) -> Observation:
    firing = result.direction not in ("", "data_quality") and result.severity != CALM
    signals = [s for s in result.signals if s.direction != "data_quality"]
    inputs: set[str] = set()
    if firing:
        rows = {row.title for row in result.rows if row.title in _MARKET_ROWS and row.severity != CALM}
        inputs = _inputs(signals, result)
        if rows:
            market = result.market
            clusters = {*market.red_cluster_names, *market.unconfirmed_red_cluster_names}
            if rows & {"Deteriorating tape", "Early stress filtered"}:
                clusters |= set(market.yellow_cluster_names)
            inputs |= {_REGIME, *(f"cluster:{name}" for name in clusters)}
        if not inputs:
            inputs = {_ACCOUNT, _POSITIONS, _REGIME}
    return Observation(
        result.as_of_ns, result.fingerprint.key, firing, result.severity if firing else CALM, result.direction if firing else "",
        result.lifecycle.stage if firing else "", _names(signals) if firing else EMPTY, frozenset(inputs), _current(result), _all_covered(result),
    )  # fmt: skip


def _margin_safety(result: CanaryResult) -> Observation:
    signals = [s for s in result.signals if s.id in MARGIN_SIGNALS]
    severities = [s.severity for s in signals] + ([result.margin_alert.severity] if result.margin_alert is not None else [])
    worst = max(severities, key=RANK.__getitem__, default=CALM)
    firing = worst != CALM
    inputs: set[str] = set()
    if firing:
        inputs = _inputs(signals, result) | {_ACCOUNT, _ANY_CUSHION}
    return Observation(
        result.as_of_ns, result.fingerprint.key, firing, worst, "defensive" if firing else "", "", _names(signals), frozenset(inputs),
        _current(result), _all_covered(result),
    )  # fmt: skip


def _data_health(result: CanaryResult) -> Observation:
    bad = {source.source for source in result.source_health if source.status != "ok"}
    signals = [s for s in result.signals if s.direction == "data_quality"]
    firing = result.direction == "data_quality" or bool(bad)
    severity = CALM
    if firing:
        severities = [s.severity for s in signals] + [row.severity for row in result.rows if row.direction == "data_quality"]
        if result.direction == "data_quality":
            severities.append(result.severity)
        # a source worse than ok is worth a look even where the profile only informs
        severity = max((SEVERITIES[1], *severities), key=RANK.__getitem__)
    # with other risks in the headline bad data does not show there, but it is no less bad
    clear = not signals and not any(row.direction == "data_quality" and row.severity != CALM for row in result.rows)
    names = _names(signals) | {f"source|{name}" for name in bad}
    return Observation(
        result.as_of_ns, result.fingerprint.key, firing, severity, "data_quality" if firing else "", "", names if firing else EMPTY,
        frozenset((_GOOD_DATA,)) if firing else EMPTY, frozenset((_GOOD_DATA,)) if clear else EMPTY, _all_covered(result),
    )  # fmt: skip


def _names(signals: Iterable[Signal]) -> frozenset[str]:
    return frozenset(s.id if s.subject is None else f"{s.id}|{s.subject}" for s in signals)


def _inputs(signals: Iterable[Signal], result: CanaryResult) -> set[str]:
    """Return what signals rest on: sources, metrics, and the clusters that were red where the market decides."""
    found: set[str] = set()
    reds = {f"cluster:{name}" for name in (*result.market.red_cluster_names, *result.market.unconfirmed_red_cluster_names)}
    for signal in signals:
        found.update(_RESTS_ON.get(signal.id, (_ACCOUNT, _POSITIONS, _REGIME)))
        # an exposure is defensive only in a stressed market
        if signal.id in _BY_REDS or (signal.direction == "defensive" and signal.id.endswith("_high")):
            found |= {_REGIME, *reds}
    return found


def _current(result: CanaryResult) -> frozenset[str]:
    """Return what an alert has observed and current: sources, metrics, clusters (`cluster:` and its name)."""
    found: set[str] = {source.source for source in result.source_health if source.status in COVERED}
    found |= {name for name in _PORTFOLIO_METRICS if getattr(result.portfolio, name) is not None}
    if found & set(MARGIN_SIGNALS.values()):
        found.add(_ANY_CUSHION)
    market = result.market
    found |= {name for name in ("spy_change_pct", "vix_change_pct") if getattr(market, name) is not None}
    lists: tuple[list[Any], ...] = (
        market.ambiguous_clusters, market.partial_clusters, market.computing_clusters, market.stale_clusters, market.degraded_clusters,
    )  # fmt: skip
    doubtful = {name for names in lists for name in names}
    return frozenset(found | {f"cluster:{name}" for name in CLUSTERS if name not in doubtful})


def _all_covered(result: CanaryResult) -> bool:
    """Return whether account, positions and regime are all there, each ok or partial."""
    status: dict[str, str] = {source.source: source.status for source in result.source_health}
    return all(status.get(name) in COVERED for name in (_ACCOUNT, _POSITIONS, _REGIME))
