"""How often alerts were right: labelled days through the canary's rules, and what came of them, by profile, level, kind of day and year.

Pure. A day is what connectors/canary_files.py reads: account, positions and a dashboard, which is banded anew from its raw values, so that no stored
verdict of older rules counts. Labels (`stress`, `kind`, `days_to_stress`) are read here and nowhere else; no rule sees them. Rules: docs/canary.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from statistics import median
from typing import Any, Protocol

from operators.canary import evaluate
from operators.clusters import SEVERITY_RANK, RegimeInput, RowInput, from_snapshot, is_weekend, market_of, measured, rebanded
from operators.regime import replayed
from schemas.policy import CLUSTER_OF, CLUSTERS, RiskPolicy

LEVELS = ("watch", "act", "urgent")
ALERTING = ("defensive", "mixed")
"""Directions that warn of stress."""
PORTFOLIO = "portfolio"
EPISODE_DAYS = 7
"""Stress days no further apart than this many calendar days (5 sessions, the label's window) belong to one episode."""


PANEL = "panel"
PANEL_WITHOUT = ("credit_spreads", "gamma_zero", "breadth")
"""Rows that are not read of a market day of a panel: gamma and breadth have no history there, and HY OAS is there on few days only, so that days with and
without it would not be comparable."""


class LabelledRow(Protocol):
    """What is read of a line of a file (connectors.canary_files.CanaryRow has it)."""

    @property
    def kind(self) -> str: ...  # noqa: D102
    @property
    def date(self) -> str | None: ...  # noqa: D102
    @property
    def group(self) -> str: ...  # noqa: D102
    @property
    def now_ns(self) -> int | None: ...  # noqa: D102
    @property
    def account(self) -> Mapping[str, Any] | None: ...  # noqa: D102
    @property
    def positions(self) -> Mapping[str, Any] | None: ...  # noqa: D102
    @property
    def regime(self) -> Mapping[str, Any] | None: ...  # noqa: D102
    @property
    def label(self) -> Mapping[str, Any]: ...  # noqa: D102


@dataclass(frozen=True)
class Case:
    """One day to judge. date: YYYY-MM-DD. now_ns: the time it is judged at. regime: as delivered, not yet banded.

    stress: the label, None without one. scope: `market` or `portfolio`. category: the kind of day (`target.kind`). group: the stretch of history.
    days_to_stress: sessions from the day to its stress, None where the label does not say.
    """

    date: str
    now_ns: int
    account: Mapping[str, Any] | None
    positions: Mapping[str, Any] | None
    regime: RegimeInput
    stress: bool | None
    scope: str
    category: str
    group: str
    days_to_stress: int | None

    @property
    def year(self) -> str:
        """Return the calendar year."""
        return self.date[:4]


@dataclass(frozen=True)
class Verdict:
    """What a profile said of a day. rebalances: some row of the result asks for a rebalance at watch or above. score: None without one."""

    case: Case
    profile: str
    direction: str
    severity: str
    stage: str
    rebalances: bool
    score: float | None

    def alerts(self, level: str) -> bool:
        """Return whether this counts as an alert at a level: defensive or mixed at the level or above; where the label is about the portfolio, at
        watch also a rebalance."""
        if self.direction in ALERTING and SEVERITY_RANK[self.severity] >= SEVERITY_RANK[level]:
            return True
        return level == "watch" and self.case.scope == PORTFOLIO and self.rebalances


@dataclass(frozen=True)
class Figures:
    """How often a profile was right at a level, on all days (part `all`), or those of one `category`, `group` or `year`, by `name`.

    days, stress_days: labelled days, and those of stress. alerts, hits: days with an alert, and those of them that were stress. Rates are None where
    there is nothing to divide by: precision = hits / alerts, recall = hits / stress_days, false_alarm_rate = (alerts − hits) / calm days.

    Lead: sessions from an alert to the stress it warned of (`days_to_stress`), median over hits: lead_sessions; None without hits that have one.
    episodes: runs of stress days no further apart than EPISODE_DAYS. caught: those with an alert on one of their days. ahead: those whose first
    alert came at least a session before its stress. episode_lead_sessions: median lead of the first alerts of the caught ones; where a label does not
    say, weekdays from the first alert of the week before to the first stress day.
    """

    profile: str
    level: str
    part: str
    name: str
    days: int
    stress_days: int
    alerts: int
    hits: int
    precision: float | None
    recall: float | None
    false_alarm_rate: float | None
    lead_sessions: float | None
    episodes: int
    caught: int
    ahead: int
    episode_lead_sessions: float | None


# --- days -------------------------------------------------------------------------------------------------------------------------


def cases_of(rows: Iterable[LabelledRow]) -> tuple[Case, ...]:
    """Return the rows that carry a dashboard, in order of their dates (equal dates as given). Raises ValueError for one without a date."""
    found = []
    for row in rows:
        if row.regime is None:
            continue
        if row.date is None or row.now_ns is None:
            raise ValueError("a day to judge needs a date")
        label = row.label
        stress, days = label.get("stress"), label.get("days_to_stress")
        found.append(
            Case(
                date=row.date,
                now_ns=row.now_ns,
                account=row.account,
                positions=row.positions,
                regime=_without(from_snapshot(row.regime), PANEL_WITHOUT if row.kind == PANEL else ()),
                stress=stress if isinstance(stress, bool) else None,
                scope=str(label.get("scope") or "market"),
                category=str(label.get("kind") or ""),
                group=row.group,
                days_to_stress=days if isinstance(days, int) and not isinstance(days, bool) else None,
            )
        )
    return tuple(sorted(found, key=lambda case: case.date))


def _without(regime: RegimeInput, rows: Iterable[str]) -> RegimeInput:
    return replace(regime, rows=regime.rows | dict.fromkeys(rows, RowInput(status="unavailable")))


# --- as the builder would have served it -------------------------------------------------------------------------------------------


def served(cases: Sequence[Case], policy: RiskPolicy) -> Iterator[RegimeInput]:
    """Yield each day's dashboard as the profile's builder would have served it: banded anew, and with what a gate remembers of the days before.

    A history may have gaps. Memory goes from a day to the next weekday only; after a longer pause (also after a holiday) it is lost, and a red row is
    on its first session: a streak nobody saw is not counted.
    """
    memory: dict[str, Any] = {}
    last = ""
    for case in cases:
        if last not in (case.date, _weekday_before(case.date)):
            memory = {}
        last = case.date
        yield replayed(rebanded(case.regime, policy), policy, memory, case.date, case.now_ns)


def _weekday_before(day: str) -> str:
    found = date.fromisoformat(day) - timedelta(days=1)
    while is_weekend(found.isoformat()):
        found -= timedelta(days=1)
    return found.isoformat()


def for_history(policy: RiskPolicy, cases: Sequence[Case]) -> RiskPolicy:
    """Return the policy as a site without the feeds would run it: clusters no day ever measured are without a feed by design.

    Only profiles with freshness classes care: to them a feed that never spoke would be a defect on every day, and nothing could be said of the rest.
    """
    switches = policy.policy.switches
    if not switches.freshness_classes:
        return policy
    seen = {CLUSTER_OF[name] for case in cases for name, row in case.regime.rows.items() if row.band is not None or measured(name, row)}
    absent = tuple(cluster for cluster in CLUSTERS if cluster in switches.not_configured_clusters or cluster not in seen)
    return policy.model_copy(
        update={"policy": policy.policy.model_copy(update={"switches": switches.model_copy(update={"not_configured_clusters": absent})})}
    )


# --- verdicts ---------------------------------------------------------------------------------------------------------------------


def verdicts_of(cases: Sequence[Case], policy: RiskPolicy) -> list[Verdict]:
    """Return what a profile says of each day, in the order of the cases (which is that of their dates)."""
    used = for_history(policy, cases)
    found = []
    for case, regime in zip(cases, served(cases, used), strict=True):
        result = evaluate(case.account, case.positions, regime, used, case.now_ns)
        score = market_of(regime, used, case.now_ns).score if used.policy.confirmation is not None else None
        found.append(
            Verdict(
                case=case,
                profile=used.profile,
                direction=result.direction,
                severity=result.severity,
                stage=result.lifecycle.stage,
                rebalances=any(
                    row.direction == "rebalance" and SEVERITY_RANK[row.severity] >= SEVERITY_RANK["watch"] for row in result.rows
                ),
                score=score,
            )
        )
    return found


# --- figures ----------------------------------------------------------------------------------------------------------------------

_PARTS: dict[str, Callable[[Case], str]] = {
    "category": lambda case: case.category,
    "group": lambda case: case.group,
    "year": lambda case: case.year,
}


def figures_of(verdicts: Sequence[Verdict], by: Iterable[str] = (), levels: Sequence[str] = LEVELS) -> list[Figures]:
    """Return the figures of each profile and level, on all labelled days and on the parts asked for (`category`, `group`, `year`), in that order.

    Verdicts of one profile must be of distinct days; days without a label are left out. Raises KeyError for a part nobody knows.
    """
    found = []
    for profile in dict.fromkeys(verdict.profile for verdict in verdicts):
        judged = [verdict for verdict in verdicts if verdict.profile == profile and verdict.case.stress is not None]
        parts = [("all", "", judged)]
        for part in by:
            name_of = _PARTS[part]
            parts += [(part, name, [v for v in judged if name_of(v.case) == name]) for name in sorted({name_of(v.case) for v in judged})]
        found += [_figures(profile, level, part, name, chosen) for part, name, chosen in parts for level in levels]
    return found


def _figures(profile: str, level: str, part: str, name: str, verdicts: Sequence[Verdict]) -> Figures:
    stress = [v for v in verdicts if v.case.stress]
    alerts = sum(v.alerts(level) for v in verdicts)
    hits = [v for v in stress if v.alerts(level)]
    leads = [v.case.days_to_stress for v in hits if v.case.days_to_stress is not None]
    episodes = episodes_of(stress)
    caught = [episode for episode in episodes if any(v.alerts(level) for v in episode)]
    first_leads = [_lead_of(episode, verdicts, level) for episode in caught]
    return Figures(
        profile=profile,
        level=level,
        part=part,
        name=name,
        days=len(verdicts),
        stress_days=len(stress),
        alerts=alerts,
        hits=len(hits),
        precision=_ratio(len(hits), alerts),
        recall=_ratio(len(hits), len(stress)),
        false_alarm_rate=_ratio(alerts - len(hits), len(verdicts) - len(stress)),
        lead_sessions=median(leads) if leads else None,
        episodes=len(episodes),
        caught=len(caught),
        ahead=sum(lead >= 1 for lead in first_leads),
        episode_lead_sessions=median(first_leads) if first_leads else None,
    )


def _lead_of(episode: Sequence[Verdict], verdicts: Sequence[Verdict], level: str) -> int:
    """Return the lead of a caught episode in sessions: what the label of its first alert says, else weekdays to its first stress day from the first
    alert of the EPISODE_DAYS up to it; 0 when the alert came later."""
    told = next(v for v in episode if v.alerts(level)).case.days_to_stress
    if told is not None:
        return told
    start = date.fromisoformat(episode[0].case.date)
    since = (start - timedelta(days=EPISODE_DAYS)).isoformat()
    before = min(
        (v.case.date for v in verdicts if since <= v.case.date <= start.isoformat() and v.alerts(level)), default=start.isoformat()
    )
    days = (start - date.fromisoformat(before)).days
    return sum(not is_weekend((start - timedelta(days=k)).isoformat()) for k in range(days))


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def episodes_of(stress: Sequence[Verdict]) -> list[list[Verdict]]:
    """Return the verdicts of stress days, in order of their dates, as runs no further apart than EPISODE_DAYS."""
    found: list[list[Verdict]] = []
    for verdict in sorted(stress, key=lambda v: v.case.date):
        day = date.fromisoformat(verdict.case.date)
        if found and (day - date.fromisoformat(found[-1][-1].case.date)).days <= EPISODE_DAYS:
            found[-1].append(verdict)
        else:
            found.append([verdict])
    return found
