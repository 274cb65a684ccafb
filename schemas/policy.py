"""Risk policies: versioned files with every threshold the sentinel and the planner judge by (canary §2). Data, loaded whole or not at all.

A file is `{"schema": "risk-policy-v1", "profile": ..., "version": ..., "policy": {...}}`. No field has a default: a missing or unknown one is an
error. Field order is part of the contract: the fingerprint is a hash over the fields as they are declared.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

POLICY_SCHEMA = "risk-policy-v1"
FINGERPRINT_VERSION = "policy-fp-v1"
BUILT_IN = Path(__file__).parent / "policies"
"""Where the profiles that come with hedgerow lie, one file each."""
PROFILES = ("canary-default", "canary-guarded", "canary-calibrated")

CLUSTERS = ("vol", "credit", "funding", "fx", "gamma", "breadth")
"""In their fixed order."""
ROWS = ("vix_term_structure", "vol_of_vol", "hyg_spy_divergence", "credit_spreads", "funding_stress", "usd_jpy", "gamma_zero", "breadth")
"""Rows of the dashboard in their fixed order (also that of `regime-fp-v1`)."""
CLUSTER_OF = dict(zip(ROWS, ("vol", "vol", "credit", "credit", "funding", "fx", "gamma", "breadth"), strict=True))

Cluster = Literal["vol", "credit", "funding", "fx", "gamma", "breadth"]
Row = Literal[
    "vix_term_structure", "vol_of_vol", "hyg_spy_divergence", "credit_spreads", "funding_stress", "usd_jpy", "gamma_zero", "breadth"
]  # fmt: skip
Severity = Literal["observe", "watch", "act", "urgent"]
Number = Annotated[int | float, Field(allow_inf_nan=False)]


class PolicyError(ValueError):
    """A policy file cannot be used; the message names the file and every wrong field."""


class _Group(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Switches(_Group):
    """What distinguishes the profiles in kind (canary §2, second table)."""

    margin_confirms_market: bool
    row_gates: bool
    exit_hysteresis: bool
    hold_last_band: bool
    freshness_classes: bool
    not_configured_clusters: tuple[Cluster, ...]
    severity_governor: bool
    closed_date_tape_off: bool
    count_at_least_yellow: bool
    missing_is_state: bool
    margin_episode: bool


class Bands(_Group):
    """Edges of the rows (canary §5.1): green ends and yellow ends; upper bounds of green and yellow are exclusive, red is inclusive.

    Of breadth green begins above `breadth_green_pct` and red ends below `breadth_red_pct`; of gamma the gap is yellow within ± `gamma_gap_pct`.
    breadth_min_coverage_pct: share of the members with a close that must have a mean too, for breadth to be ranked.
    """

    vix_term_yellow: Number
    vix_term_red: Number
    vvix_yellow: Number
    vvix_red: Number
    hyg_mean_bars: int
    spy_near_high_ratio: Number
    hy_oas_yellow_pct: Number
    hy_oas_red_pct: Number
    hy_oas_change_yellow_pts: Number
    hy_oas_change_red_pts: Number
    hy_oas_change_observations: int
    funding_yellow_bps: Number
    funding_red_bps: Number
    usd_jpy_yellow_pct: Number
    usd_jpy_red_pct: Number
    usd_jpy_days: int
    gamma_gap_pct: Number
    gamma_dominant_pct: Number
    gamma_weight_spx: Number
    gamma_weight_spy: Number
    breadth_red_pct: Number
    breadth_green_pct: Number
    breadth_mean_bars: int
    breadth_min_coverage_pct: Number
    daily_stale_days: Number
    breadth_stale_hours: Number


class Downgrades(_Group):
    """When an isolated red cluster is served yellow (canary §5.2 c); levels that keep it red."""

    vvix_red_alone: Number
    vix_day_pct: Number
    spy_day_pct: Number


class Stages(_Group):
    """Stage selection of the market and its verdicts (canary §5.3); tape levels in day change %, counts in clusters."""

    min_ranked: int
    panic_reds: int
    panic_red_spy_pct: Number
    panic_spy_pct: Number
    confirmed_reds: int
    confirmed_red_spy_pct: Number
    confirmed_yellows: int
    confirmed_yellow_spy_pct: Number
    confirmed_red_vix_pct: Number
    early_reds: int
    early_yellows: int
    early_spy_pct: Number
    early_vix_pct: Number
    opportunity_max_yellows: int
    opportunity_spy_pct: Number
    opportunity_vix_pct: Number
    stabilization_max_yellows: int
    stabilization_spy_pct: Number
    stabilization_vix_pct: Number
    evidence_spy_red_pct: Number
    evidence_vix_red_pct: Number
    evidence_spy_yellow_pct: Number
    evidence_vix_yellow_pct: Number
    broad_reds: int
    elevated_yellows: int


class Gate(_Group):
    """Which red of a row may confirm (canary §6.1). Depths in the row's own unit; None: the row has none. sessions: red trading dates needed.

    pending_backtest: the values are heuristic, not measured. leave, leave_change: where the row leaves red (`exit_hysteresis`).
    """

    min_depth: Number | None
    fast_depth: Number | None
    sessions: int
    leave: Number | None
    leave_change: Number | None
    pending_backtest: bool


class Gates(_Group):
    """One gate for each row."""

    vix_term_structure: Gate
    vol_of_vol: Gate
    hyg_spy_divergence: Gate
    credit_spreads: Gate
    funding_stress: Gate
    usd_jpy: Gate
    gamma_zero: Gate
    breadth: Gate
    gamma_one_sided_depth: Number


class Freshness(_Group):
    """Ages in days by cluster past which an observation is overdue, and how long a refresh may be in flight (canary §6.4).

    session_*_minute: of the US equity session, minutes of the day in New York. price_fresh_minutes: how long a price is fresh while its venue is open.
    *_publish_sessions, publish_minutes: a daily observation is due so many sessions after its own, so many minutes after that one's close.
    """

    max_age_vol_days: Number
    max_age_credit_days: Number
    max_age_funding_days: Number
    max_age_fx_days: Number
    max_age_gamma_days: Number
    max_age_breadth_days: Number
    pending_gamma_minutes: Number
    pending_breadth_minutes: Number
    vix3m_carry_minutes: Number
    vix3m_carry_vix_pct: Number
    defects_for_data_quality: int
    session_open_minute: int
    session_close_minute: int
    price_fresh_minutes: Number
    publish_minutes: Number
    vvix_publish_sessions: int
    credit_publish_sessions: int
    funding_publish_sessions: int


class Governor(_Group):
    """What co-signs a confirmation whose thresholds are heuristic (canary §6.5), and what needs no co-sign."""

    cosign_spy_pct: Number
    cosign_vix_pct: Number
    cosign_vix_term: Number
    exempt_spy_pct: Number


class Rules(_Group):
    """Counts and tape levels of the portfolio's side (canary §7 to §10) that have no name among the thresholds."""

    stressed_reds: int
    stress_min_ranked: int
    gate_min_ranked: int
    early_yellows: int
    convexity_reds: int
    urgent_reds: int
    urgent_max_ambiguous: int
    panic_reds: int
    guarded_provisional_reds: int
    max_drivers: int


class Health(_Group):
    """Maximum ages of the sources (canary §11), New York hours on weekdays."""

    max_age_s: int
    max_age_closed_s: int
    open_hour: int
    close_hour: int


class Cadence(_Group):
    """How often an unchanged alert is said again, and how far apart evaluations without news are."""

    heartbeat_s: int
    evaluate_s: int


class Term(_Group):
    """One thing that speaks for stress: points for the value of `field` of `row` (or of a derived feature) at or past each level.

    side `above`: points[i] for value >= levels[i]; `below`: for value <= levels[i]; the last level that holds counts. levels in the order of growing
    stress; points never fall. A missing value gives none.
    """

    id: Annotated[str, Field(pattern=r"^[a-z0-9_]{1,40}$")]
    feature: Literal[
        "vix_term", "vix", "vvix", "vvix_change_20d_pct", "hyg_below_mean_pct", "spy_below_high_pct", "spy_change_pct", "vix_change_pct",
        "hy_oas_pct", "hy_oas_change_pts", "funding_bps", "yen_move_pct", "gamma_gap_pct", "breadth_pct",
    ]  # fmt: skip
    side: Literal["above", "below"]
    levels: tuple[Number, ...]
    points: tuple[Number, ...]

    @model_validator(mode="after")
    def _ordered(self) -> Term:
        if not self.levels or len(self.levels) != len(self.points):
            raise ValueError("levels and points must be of one length, at least 1")
        steps = list(self.levels) if self.side == "above" else [-level for level in self.levels]
        if any(b <= a for a, b in pairwise(steps)) or any(b < a for a, b in pairwise((0, *self.points))):
            raise ValueError("levels must go toward more stress, points must not fall and not be negative")
        return self


class Confirmation(_Group):
    """Confirmation by a score instead of by counts of reds: the sum of the terms' points, against a level for each severity.

    The score at or past `act` confirms (stage confirmed_stress), past `urgent` is panic, past `watch` is an early warning.
    """

    watch: Number
    act: Number
    urgent: Number
    terms: tuple[Term, ...]

    @model_validator(mode="after")
    def _rising(self) -> Confirmation:
        if not 0 < self.watch < self.act < self.urgent:
            raise ValueError("levels must be 0 < watch < act < urgent")
        if not self.terms or len({term.id for term in self.terms}) < len(self.terms):
            raise ValueError("at least one term, each with an id of its own")
        return self


class MonitorRules(_Group):
    """Who is told, and how often (canary §14): floor of severity, repeat TTLs, least time between pages of an episode that do not escalate."""

    notify_floor: Literal["watch", "act", "urgent"]
    min_gap_s: int
    repeat_urgent_s: int
    repeat_act_s: int
    repeat_watch_s: int
    send_resolved: bool
    retry_s: tuple[int, ...]
    timeout_s: int
    keep_days: int


class Policy(_Group):
    """The thresholds in declared order, then the groups."""

    margin_urgent_pct: Number
    margin_act_pct: Number
    margin_watch_pct: Number
    margin_target_pct: Number
    gross_exposure_watch_pct: Number
    net_delta_watch_pct: Number
    gross_delta_watch_pct: Number
    gross_exposure_stress_act_pct: Number
    net_delta_stress_act_pct: Number
    gross_delta_stress_act_pct: Number
    gross_exposure_stress_urgent_pct: Number
    net_delta_stress_urgent_pct: Number
    gross_delta_stress_urgent_pct: Number
    single_name_exposure_watch_pct: Number
    single_name_delta_watch_pct: Number
    single_name_target_pct: Number
    option_greeks_min_coverage_pct: Number
    spy_drop_pct: Number
    spy_hard_drop_pct: Number
    spy_crash_pct: Number
    spy_rally_pct: Number
    spy_hard_rally_pct: Number
    vix_spike_pct: Number
    vix_hard_spike_pct: Number
    vix_crush_pct: Number
    vix_hard_crush_pct: Number
    daily_pnl_watch_pct: Number
    daily_pnl_act_pct: Number
    switches: Switches
    bands: Bands
    downgrades: Downgrades
    stages: Stages
    gates: Gates
    freshness: Freshness
    governor: Governor
    rules: Rules
    health: Health
    cadence: Cadence
    confirmation: Confirmation | None
    monitor: MonitorRules

    @model_validator(mode="after")
    def _consistent(self) -> Policy:
        rising = (
            ("margin_urgent_pct", "margin_act_pct", "margin_target_pct", "margin_watch_pct"),
            ("gross_exposure_stress_act_pct", "gross_exposure_stress_urgent_pct"),
            ("net_delta_stress_act_pct", "net_delta_stress_urgent_pct"),
            ("gross_delta_stress_act_pct", "gross_delta_stress_urgent_pct"),
            ("single_name_target_pct", "single_name_exposure_watch_pct"),
            ("spy_crash_pct", "spy_hard_drop_pct", "spy_drop_pct", "spy_rally_pct", "spy_hard_rally_pct"),
            ("vix_hard_crush_pct", "vix_crush_pct", "vix_spike_pct", "vix_hard_spike_pct"),
            ("daily_pnl_watch_pct", "daily_pnl_act_pct"),
        )
        wrong = [" < ".join(names) for names in rising if any(getattr(self, a) >= getattr(self, b) for a, b in pairwise(names))]
        if wrong:
            raise ValueError("must hold: " + "; ".join(wrong))
        return self


class RiskPolicy(_Group):
    """One profile at one version."""

    policy_schema: Annotated[Literal["risk-policy-v1"], Field(alias="schema")]
    profile: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$")]
    version: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,39}$")]
    policy: Policy

    @property
    def fingerprint(self) -> str:
        """Return the `policy-fp-v1` key: a hash over profile, version and every field in declared order."""
        return policy_fingerprint(self.profile, self.version, self.policy.model_dump(mode="json"))


def shortest(value: Any) -> Any:
    """Return a JSON value with numbers as the fingerprints write them: 10 for 10.0, 0.3, -1.5."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, Mapping):
        return {key: shortest(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [shortest(item) for item in value]
    return value


def policy_fingerprint(profile: str, version: str, policy: Mapping[str, Any]) -> str:
    """Return `sha256:` and the hash of a policy's canonical JSON (canary §2): fields in the order given, nothing left out."""
    content = {"profile": profile, "version": version, "policy": shortest(policy)}
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def read_policy(path: Path) -> RiskPolicy:
    """Read one policy file. Raises PolicyError with every wrong field."""
    try:
        return RiskPolicy.model_validate_json(path.read_bytes())
    except OSError as error:
        raise PolicyError(f"{path}: cannot be read: {error.strerror}") from error
    except ValidationError as error:
        lines = [
            f"{path}: {'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors(include_url=False, include_input=False)
        ]
        raise PolicyError("\n".join(lines)) from error


def load_policies(paths: Iterable[Path] = ()) -> dict[str, RiskPolicy]:
    """Return the policies by profile: those of the files, else all that come with hedgerow. Raises PolicyError, all problems at once."""
    found: dict[str, RiskPolicy] = {}
    problems: list[str] = []
    for path in list(paths) or [BUILT_IN / f"{name}.json" for name in PROFILES]:
        try:
            policy = read_policy(path)
        except PolicyError as error:
            problems.append(str(error))
            continue
        if policy.profile in found:
            problems.append(f"{path}: profile {policy.profile} is given twice")
        found[policy.profile] = policy
    if problems:
        raise PolicyError("\n".join(problems))
    return found
