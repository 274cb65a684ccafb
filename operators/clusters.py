"""The market side of the sentinel: rows of the dashboard → clusters → counts, verdict, lifecycle and tape rules. The only place of these rules.

Rules: docs/canary.md. Everything is a function of its arguments; every level comes from the policy. "Red" means two things where a profile gates
rows: a red that is shown, and a red that confirms. Null figures never fire and never clear.
"""

from __future__ import annotations

import calendar
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo

from schemas.canary import Regime
from schemas.policy import CLUSTER_OF, CLUSTERS, ROWS, Bands, Gate, RiskPolicy, Stages, Term

NS = 1_000_000_000
MINUTE_NS = 60 * NS
DAY_NS = 86_400 * NS
_HOUR = 60  # minutes
NEW_YORK = ZoneInfo("America/New_York")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
BANDS = ("green", "yellow", "red")
_RANK = {name: rank for rank, name in enumerate(BANDS)}
SEVERITIES = ("observe", "watch", "act", "urgent")
SEVERITY_RANK = {name: rank for rank, name in enumerate(SEVERITIES)}
MEMBERS = {cluster: tuple(row for row in ROWS if CLUSTER_OF[row] == cluster) for cluster in CLUSTERS}
"""Rows of each cluster, in order."""
VIX_TERM, VVIX, HYG, OAS, FUNDING, JPY, GAMMA, BREADTH = ROWS
_WORST_STATUS = ("error", "unavailable", "computing", "stale")
_KNOWN_STATUS = ("ok", *_WORST_STATUS)

FRESH, NOT_DUE, PENDING, STALE, OVERDUE = "fresh", "not_due", "pending", "stale", "overdue"
_CLASSES = (FRESH, NOT_DUE, PENDING, STALE, OVERDUE)
"""Freshness classes from best to worst. The list is closed: a word that is not in it counts as the last."""
_NOT_FRESH = {NOT_DUE: "data_not_due", PENDING: "data_refresh_pending", STALE: "data_stale", OVERDUE: "data_overdue"}
ELIGIBLE = "eligible"

_STAGE = {
    "data_quality": ("watch", "blocked", "data_quality"),
    "panic": ("urgent", "ready", "contemporaneous"),
    "confirmed_stress": ("act", "ready", "contemporaneous"),
    "early_warning": ("watch", "ready", "forward_warning"),
    "opportunity": ("watch", "ready", "recovery"),
    "stabilization": ("observe", "ready", "recovery"),
    "quiet": ("observe", "ready", "current"),
}
"""Severity, readiness and timing of each stage (canary §5.3)."""
CONFIRMED_STAGES = ("confirmed_stress", "panic")
_CALM_STAGES = ("opportunity", "stabilization", "quiet")

VERDICT_NONE = "No ranked indicators — see rows below for state"
VERDICT_FEW = "Insufficient signal — too few indicators ranked"
VERDICT_UNDEFINED = "Market state undefined"
VERDICT_FULL = "Full risk-off conditions"
VERDICT_BROAD = "Broad stress regime"
VERDICT_CONFIRMED = "Confirmed stress regime"
VERDICT_STRESS = "Stress signal present"
VERDICT_ELEVATED = "Elevated stress watch"
VERDICT_NORMAL = "Normal regime"


@dataclass(frozen=True, slots=True)
class RowInput:
    """One row of a dashboard as it was delivered.

    band: green, yellow, red, or None (unranked). status: one of the row statuses, "" when nothing is known of the row. as_of_ns: when its value was true.
    freshness_class, depth, sessions, eligibility, band_held: of profiles with gates. values: its figures by the field names of canary §3 (also those
    of its envelope: pct_above_50dma, gap_pct, gamma_sign as 1, -1 or 0, gamma_total_abs); None or absent: not delivered. envelope: gamma's or breadth's.
    """

    band: str | None = None
    status: str = ""
    fields_missing: tuple[str, ...] = ()
    as_of_ns: int | None = None
    freshness_class: str | None = None
    depth: float | None = None
    sessions: int | None = None
    eligibility: str | None = None
    band_held: bool = False
    values: Mapping[str, float | None] = field(default_factory=dict)
    envelope: Mapping[str, Any] | None = None

    def value(self, name: str) -> float | None:
        """Return a figure; None when it was not delivered or is not finite."""
        found = self.values.get(name)
        return found if found is not None and math.isfinite(found) else None


@dataclass(frozen=True, slots=True)
class RegimeInput:
    """A dashboard as it was delivered. rows: all eight, in order. composite, lifecycle, fingerprint_key: as delivered, None when absent.

    session_date: the New York trading date of the tape, YYYY-MM-DD. closed: that date's market is known to be shut.
    """

    rows: dict[str, RowInput]
    spy_change_pct: float | None = None
    vix_change_pct: float | None = None
    as_of_ns: int | None = None
    session_date: str | None = None
    closed: bool = False
    warnings: tuple[dict[str, Any], ...] = ()
    data_quality: tuple[dict[str, Any], ...] = ()
    composite: dict[str, Any] | None = None
    lifecycle: dict[str, Any] | None = None
    source_health: tuple[dict[str, Any], ...] = ()
    summary_confidence: str | None = None
    fingerprint_key: str | None = None


# --- in: the two shapes of a dashboard ------------------------------------------------------------------------------------------


def moment_ns(value: object) -> int | None:
    """Return nanoseconds since the epoch of an ISO time, a date (its midnight UTC), a `{time, date}` object, or an integer of ns; else None."""
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, Mapping):
        found = moment_ns(value.get("time"))
        return moment_ns(value.get("date")) if found is None else found
    if not isinstance(value, str) or not value:
        return None
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return None
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    whole = int(moment.replace(microsecond=0).timestamp())
    return whole * NS + moment.microsecond * 1_000


def date_of(value: object) -> str | None:
    """Return the date a `{date}` object or a plain date says; a time of day says none (its zone's date need not be New York's)."""
    if isinstance(value, Mapping):
        return date_of(value.get("date"))
    if isinstance(value, str):
        try:
            return date.fromisoformat(value).isoformat()
        except ValueError:
            return None
    return None


@lru_cache(maxsize=4096)
def _new_york(second: int) -> datetime:
    return (_EPOCH + timedelta(seconds=second)).astimezone(NEW_YORK)


def new_york(ns: int) -> datetime:
    """Return the New York wall time of a moment, to the second."""
    return _new_york(ns // NS)


def new_york_date(ns: int) -> str:
    """Return the date in New York at a moment, YYYY-MM-DD."""
    return new_york(ns).date().isoformat()


def next_day_ns(ns: int) -> int:
    """Return when the next day begins in New York."""
    return wall_ns((new_york(ns).date() + timedelta(days=1)).isoformat(), 0)


def wall_ns(day: str, minute: int) -> int:
    """Return the moment of a minute of a day (YYYY-MM-DD) on New York's clocks."""
    start = date.fromisoformat(day)
    hours, minutes = divmod(minute, _HOUR)
    return int(datetime(start.year, start.month, start.day, hours, minutes, tzinfo=NEW_YORK).timestamp()) * NS


def is_weekend(day: str) -> bool:
    """Return whether a date is a Saturday or Sunday."""
    return date.fromisoformat(day).weekday() in (calendar.SATURDAY, calendar.SUNDAY)


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return None
    found = float(value)
    return found if math.isfinite(found) else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _band(value: object) -> str | None:
    """Return the band a snapshot carries, trimmed and in lower case; anything else, also the literal `unranked`, is none."""
    name = value.strip().lower() if isinstance(value, str) else ""
    return name if name in _RANK else None


def _objects(value: object) -> tuple[dict[str, Any], ...]:
    return tuple(dict(item) for item in value if isinstance(item, Mapping)) if isinstance(value, list | tuple) else ()


_SIGNS = {"long": 1.0, "positive": 1.0, "short": -1.0, "negative": -1.0, "flat": 0.0, "neutral": 0.0, "mixed": 0.0}


def gamma_sign(value: object) -> float | None:
    """Return a dealer gamma sign as 1 (long), -1 (short) or 0, from a number or a word; None when it says nothing."""
    if isinstance(value, str):
        return _SIGNS.get(value.strip().lower())
    found = _number(value)
    return None if found is None else math.copysign(1.0, found) if found else 0.0


def _envelope_values(row: str, envelope: Mapping[str, Any]) -> dict[str, float | None]:
    if row == BREADTH:
        return {"pct_above_50dma": _number(envelope.get("pct_above_50dma"))}
    result = envelope.get("result")
    if row != GAMMA or not isinstance(result, Mapping):
        return {}
    return {
        "gap_pct": _number(result.get("gap_pct")),
        "gamma_sign": gamma_sign(result.get("gamma_sign")),
        "gamma_total_abs": _number(result.get("gamma_total_abs")),
    }


def _row_of(name: str, obj: Mapping[str, Any]) -> RowInput:
    values = {key: _number(item) for key, item in obj.items() if item is None or _number(item) is not None}
    envelope = obj.get("envelope")
    envelope = envelope if isinstance(envelope, Mapping) else None
    if envelope is not None:
        values |= _envelope_values(name, envelope)
    if isinstance(obj.get("horizon_agreement"), str):  # a field of gamma's row; messages carry it in the envelope
        envelope = {**(envelope or {}), "horizon_agreement": obj["horizon_agreement"]}
    missing = obj.get("fields_missing")
    sessions = _number(obj.get("sessions"))
    return RowInput(
        band=_band(obj.get("band")),
        status=(_text(obj.get("status")) or "").strip().lower(),
        fields_missing=tuple(str(item) for item in missing) if isinstance(missing, list | tuple) else (),
        as_of_ns=moment_ns(obj["as_of_ns"]) if obj.get("as_of_ns") is not None else moment_ns(obj.get("as_of")),
        freshness_class=_text(obj.get("freshness_class")),
        depth=_number(obj.get("depth")),
        sessions=None if sessions is None else int(sessions),
        eligibility=_text(obj.get("eligibility")),
        band_held=obj.get("band_held") is True,
        values=values,
        envelope=envelope,
    )


def from_snapshot(obj: Mapping[str, Any]) -> RegimeInput:
    """Return the dashboard of a snapshot in the shape of canary §3: plain numbers, ISO times or `{label, time, date}` objects, rows by name.

    A row that is absent, or no object, is one of which nothing is known. The day changes are those of the rows, else `spy_change_pct` and
    `vix_change_pct` of the snapshot. Nothing is judged here and nothing raises: figures that cannot be read count as not delivered.
    """
    rows = {name: _row_of(name, obj[name]) if isinstance(obj.get(name), Mapping) else RowInput() for name in ROWS}
    spy, vix = rows[HYG].value("spy_change_pct"), rows[VIX_TERM].value("vix_change_pct")
    session = date_of(obj.get("session_date"))
    if session is None and isinstance(obj.get("as_of"), Mapping):
        session = date_of(obj["as_of"])
    if session is None:  # the date of the rows that carry the tape
        sources = [obj[name] for name in (HYG, VIX_TERM) if isinstance(obj.get(name), Mapping)]
        dates = [found for source in sources for found in (date_of(source.get("as_of_date")), date_of(source.get("as_of"))) if found]
        session = max(dates, default=None)
    summary, fingerprint = obj.get("summary"), obj.get("fingerprint")
    return RegimeInput(
        rows=rows,
        spy_change_pct=_number(obj.get("spy_change_pct")) if spy is None else spy,
        vix_change_pct=_number(obj.get("vix_change_pct")) if vix is None else vix,
        as_of_ns=moment_ns(obj["as_of_ns"]) if obj.get("as_of_ns") is not None else moment_ns(obj.get("as_of")),
        session_date=session,
        closed=obj.get("closed") is True,
        warnings=_objects(obj.get("warning_details")),
        data_quality=_objects(obj.get("data_quality")),
        composite=dict(obj["composite"]) if isinstance(obj.get("composite"), Mapping) else None,
        lifecycle=dict(obj["lifecycle"]) if isinstance(obj.get("lifecycle"), Mapping) else None,
        source_health=_objects(obj.get("source_health")),
        summary_confidence=_text(summary.get("confidence")) if isinstance(summary, Mapping) else None,
        fingerprint_key=_text(fingerprint.get("key")) if isinstance(fingerprint, Mapping) else None,
    )


def from_message(regime: Regime) -> RegimeInput:
    """Return the dashboard of a message of risk.regime.v1."""
    rows = dict.fromkeys(ROWS, RowInput())
    for row in regime.rows:
        values: dict[str, float | None] = dict(row.values)
        if row.envelope is not None:
            values |= {key: item for key, item in _envelope_values(row.row, row.envelope).items() if values.get(key) is None}
        rows[row.row] = RowInput(
            band=row.band,
            status=row.status,
            fields_missing=tuple(row.fields_missing),
            as_of_ns=row.as_of_ns,
            freshness_class=row.freshness_class,
            depth=row.depth,
            sessions=row.sessions,
            eligibility=row.eligibility,
            band_held=row.band_held,
            values=values,
            envelope=row.envelope,
        )
    dump: dict[str, Any] = regime.model_dump(
        mode="json", by_alias=True, include={"composite", "lifecycle", "source_health", "warning_details", "data_quality"}
    )
    return RegimeInput(
        rows=rows,
        spy_change_pct=regime.spy_change_pct,
        vix_change_pct=regime.vix_change_pct,
        as_of_ns=regime.as_of_ns,
        session_date=regime.session_date,
        closed=regime.closed,
        warnings=tuple(dump["warning_details"]),
        data_quality=tuple(dump["data_quality"]),
        composite=dump["composite"],
        lifecycle=dump["lifecycle"],
        source_health=tuple(dump["source_health"]),
        summary_confidence=regime.confidence,
        fingerprint_key=regime.fingerprint.key,
    )


# --- bands of the rows (canary §5.1) --------------------------------------------------------------------------------------------


def exact(value: float) -> Decimal:
    """Return a figure as the decimal it was written as: 0.59 − 0.34 is then exactly 0.25."""
    return Decimal(repr(float(value)))


def _level(value: Decimal, yellow: float, red: float) -> str:
    """Return the band of a value that stresses upward: bounds of green and yellow exclusive, red inclusive."""
    return "red" if value >= exact(red) else "yellow" if value >= exact(yellow) else "green"


def _ratio_band(above: Decimal, below: Decimal, yellow: float, red: float) -> str:
    """Return the band of above / below (positive) without a division, so that a value on an edge is on it."""
    return "red" if above >= exact(red) * below else "yellow" if above >= exact(yellow) * below else "green"


def funding_bps(cp_pct: float, bill_pct: float) -> float:
    """Return the funding spread in basis points of two rates in percent, exact to the last digit of both."""
    return float((exact(cp_pct) - exact(bill_pct)) * 100)


def _vix_term_band(row: RowInput, bands: Bands) -> str | None:
    vix, vix3m, ratio = row.value("vix"), row.value("vix3m"), row.value("ratio")
    if vix is not None and vix3m is not None and vix3m > 0:
        return _ratio_band(exact(vix), exact(vix3m), bands.vix_term_yellow, bands.vix_term_red)
    return None if ratio is None else _level(exact(ratio), bands.vix_term_yellow, bands.vix_term_red)


def _vvix_band(row: RowInput, bands: Bands) -> str | None:
    last = row.value("last")
    return None if last is None else _level(exact(last), bands.vvix_yellow, bands.vvix_red)


def _hyg_band(row: RowInput, bands: Bands) -> str | None:
    price, mean = row.value("hyg_price"), row.value("hyg_50dma")
    if price is None or mean is None:
        return None
    if price >= mean:
        return "green"
    spy, high = row.value("spy_price"), row.value("spy_52w_high")
    if spy is None or high is None or high <= 0:
        return None
    return "red" if exact(spy) >= exact(bands.spy_near_high_ratio) * exact(high) else "yellow"


def _oas_band(row: RowInput, bands: Bands) -> str | None:
    level, change = row.value("hy_oas"), row.value("hy_oas_20d_change")
    if level is None:
        return None
    by_level = _level(exact(level), bands.hy_oas_yellow_pct, bands.hy_oas_red_pct)
    if change is None:  # a change that is not known does not fire; the level still speaks
        return by_level
    by_change = _level(exact(change), bands.hy_oas_change_yellow_pts, bands.hy_oas_change_red_pts)
    return max(by_level, by_change, key=_RANK.__getitem__)


def _funding_band(row: RowInput, bands: Bands) -> str | None:
    cp, bill, spread = row.value("cp_3m_rate"), row.value("tbill_3m_rate"), row.value("spread_bps")
    if cp is not None and bill is not None:
        return _level((exact(cp) - exact(bill)) * 100, bands.funding_yellow_bps, bands.funding_red_bps)
    return None if spread is None else _level(exact(spread), bands.funding_yellow_bps, bands.funding_red_bps)


def _jpy_band(row: RowInput, bands: Bands) -> str | None:
    last, before, change = row.value("last"), row.value("close_7d_ago"), row.value("weekly_change_pct")
    if last is not None and before is not None and before > 0:
        return _ratio_band((exact(before) - exact(last)) * 100, exact(before), bands.usd_jpy_yellow_pct, bands.usd_jpy_red_pct)
    return None if change is None else _level(-exact(change), bands.usd_jpy_yellow_pct, bands.usd_jpy_red_pct)


def gap_band(gap_pct: float | None, sign: float | None, bands: Bands) -> str | None:
    """Return the band of one index's gamma: by the gap to the zero level, without a crossing by the sign of the dealers' gamma."""
    if gap_pct is not None:
        edge = exact(bands.gamma_gap_pct)
        gap = exact(gap_pct)
        return "green" if gap > edge else "red" if gap < -edge else "yellow"
    return None if not sign else "green" if sign > 0 else "red"


def gamma_legs(row: RowInput) -> dict[str, dict[str, float | None]]:
    """Return gap_pct, gamma_sign and gamma_total_abs of each index of a combined gamma, by symbol in upper case; empty: it is not combined."""
    result = row.envelope.get("result") if row.envelope is not None else None
    each = result.get("per_index") if isinstance(result, Mapping) else None
    if not isinstance(each, Mapping):
        return {}
    return {str(name).upper(): _envelope_values(GAMMA, {"result": leg}) for name, leg in sorted(each.items()) if isinstance(leg, Mapping)}


def gamma_weights(legs: Mapping[str, Mapping[str, float | None]], bands: Bands) -> dict[str, float]:
    """Return the gross gamma of each index; when one of them lacks it, the stand-in weights of all."""
    gross = {name: leg.get("gamma_total_abs") for name, leg in legs.items()}
    if all(value is not None and value > 0 for value in gross.values()):
        return {name: float(value) for name, value in gross.items() if value is not None}
    return {name: float(bands.gamma_weight_spx if name == "SPX" else bands.gamma_weight_spy) for name in legs}


def _gamma_band(row: RowInput, bands: Bands) -> str | None:
    legs = gamma_legs(row)
    ranked = {name: band for name, leg in legs.items() if (band := gap_band(leg["gap_pct"], leg["gamma_sign"], bands)) is not None}
    if not ranked:
        return gap_band(row.value("gap_pct"), row.value("gamma_sign"), bands)
    found = set(ranked.values())
    if len(found) == 1:
        return found.pop()
    weights = gamma_weights({name: legs[name] for name in ranked}, bands)
    share = sum(weights[name] for name, band in ranked.items() if band == "red") * 100
    return "red" if "red" in found and share >= bands.gamma_dominant_pct * sum(weights.values()) else "yellow"


def _breadth_band(row: RowInput, bands: Bands) -> str | None:
    pct = row.value("pct_above_50dma")
    if pct is None:
        return None
    return "green" if pct > bands.breadth_green_pct else "red" if pct < bands.breadth_red_pct else "yellow"


_BAND_OF = {
    VIX_TERM: (_vix_term_band, ("vix", "vix3m", "ratio")),
    VVIX: (_vvix_band, ("last",)),
    HYG: (_hyg_band, ("hyg_price", "hyg_50dma")),
    OAS: (_oas_band, ("hy_oas", "hy_oas_20d_change")),
    FUNDING: (_funding_band, ("cp_3m_rate", "tbill_3m_rate", "spread_bps")),
    JPY: (_jpy_band, ("last", "close_7d_ago", "weekly_change_pct")),
    GAMMA: (_gamma_band, ("gap_pct", "gamma_sign")),
    BREADTH: (_breadth_band, ("pct_above_50dma",)),
}


def measured(name: str, row: RowInput) -> bool:
    """Return whether a row has any of the raw values its band is made of."""
    return any(row.value(key) is not None for key in _BAND_OF[name][1]) or (name == GAMMA and bool(gamma_legs(row)))


def may_rank(name: str, row: RowInput) -> bool:
    """Return whether a row's status lets it have a band: ok or stale; of gamma only ok, of breadth also a ready envelope."""
    if name == GAMMA:
        return row.status == "ok"
    if name == BREADTH and row.envelope is not None and row.envelope.get("state") != "ready":
        return False
    return row.status in ("ok", "stale")


def band_of(name: str, row: RowInput, bands: Bands) -> str | None:
    """Return the band of a row's raw values (canary §5.1), whatever its status; None when they do not suffice."""
    return _BAND_OF[name][0](row, bands)


def rebanded(regime: RegimeInput, policy: RiskPolicy) -> RegimeInput:
    """Return the dashboard with the bands of all rows that carry raw values made anew; rows without are as they were.

    A row with raw values and no status becomes `ok`, so that plain series of values can be replayed. Held bands stay: nothing was measured.
    The delivered composite, lifecycle and key are dropped, as they spoke of other bands.
    """
    rows = {}
    for name, row in regime.rows.items():
        if row.band_held or not measured(name, row):
            rows[name] = row
            continue
        known = replace(row, status="ok") if not row.status else row
        rows[name] = replace(known, band=band_of(name, known, policy.policy.bands) if may_rank(name, known) else None)
    return replace(regime, rows=rows, composite=None, lifecycle=None, fingerprint_key=None)


# --- gates and freshness (canary §6.1, §6.4) ------------------------------------------------------------------------------------


def gate_of(policy: RiskPolicy, row: str) -> Gate:
    """Return the gate of a row."""
    gate: Gate = getattr(policy.policy.gates, row)
    return gate


def max_age_ns(policy: RiskPolicy, cluster: str) -> int:
    """Return the age past which an observation of a cluster is overdue."""
    return int(getattr(policy.policy.freshness, f"max_age_{cluster}_days") * DAY_NS)


def class_of(name: str, row: RowInput, policy: RiskPolicy, now_ns: int) -> str:
    """Return a row's freshness class at a time: as delivered, `overdue` once its value is past its cluster's maximum age or its status is none to be
    believed, `fresh` for all when the profile has no classes. Words nobody knows are `overdue`."""
    if not policy.policy.switches.freshness_classes:
        return FRESH
    if row.freshness_class not in _CLASSES or row.status not in ("ok", "stale"):
        return OVERDUE
    if row.as_of_ns is not None and now_ns - row.as_of_ns > max_age_ns(policy, CLUSTER_OF[name]):
        return OVERDUE
    return row.freshness_class


def judge(gate: Gate, freshness: str, depth: float | None, sessions: int | None, latched: bool) -> str:
    """Return `eligible`, or the first reason why a red row may not confirm (canary §6.1). sessions None counts as the first."""
    if freshness != FRESH:
        return _NOT_FRESH.get(freshness, _NOT_FRESH[OVERDUE])
    if latched:
        return ELIGIBLE
    if gate.fast_depth is not None and depth is not None and depth >= gate.fast_depth:
        return ELIGIBLE
    if gate.min_depth is not None:
        if depth is None:
            return "depth_missing"
        if depth < gate.min_depth:
            return "depth_below_min"
    n = 1 if sessions is None else sessions
    return ELIGIBLE if n >= gate.sessions else f"streak_{n}_of_{gate.sessions}"


def eligibility_of(name: str, row: RowInput, policy: RiskPolicy, now_ns: int) -> str | None:
    """Return whether a row's red may confirm: `eligible`, a reason why not, None when it is not red. Freshness first, then what the builder
    remembered (the row's `eligibility`: it knows of latches), else depth and sessions as the row carries them."""
    if row.band != "red":
        return None
    if not policy.policy.switches.row_gates:
        return ELIGIBLE
    freshness = class_of(name, row, policy, now_ns)
    if row.band_held and freshness == FRESH:
        freshness = STALE  # what was not measured now may not confirm, whatever it is called
    latched = row.eligibility == ELIGIBLE
    if freshness == FRESH and row.eligibility and not latched and not row.eligibility.startswith("data_"):
        return row.eligibility
    return judge(gate_of(policy, name), freshness, row.depth, row.sessions, latched)


# --- clusters -------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MarketView:
    """The market under one policy at one time. All tuples of names are sorted, except where it says otherwise.

    bands: of the rows. raw, served: of the clusters, before and after downgrades, None for unranked. classes: freshness of each cluster (its worst
    row). eligibility: of red rows only. red, yellow, ranked, unranked: served clusters, also those that do not confirm. confirming: clusters whose red
    confirms (without gates: every served red; by score: those when the score confirms). provisional: other raw reds of a profile with gates, also the
    downgraded. unconfirmed: downgraded reds, and the provisional ones. not_configured: clusters without a feed by design, in no other list of defects;
    unranked_defects: unranked without them. spy, vix: day changes in percent, None also when the tape is off.

    any_red, two_red, three_red: enough confirming reds for the "0 red", "2 red" and "3 red" tests of canary §10; convexity: for short gamma (§8, §9).
    selloff_by_market: sell-off confirmed, without the account's margin. stress_confirmed, _severity, _threshold, _observed: signal
    regime_stress_confirmed and the row of that name; stress_early, early_threshold, early_observed: signal regime_stress_early; early_filtered: the
    row of that name; deteriorating: enough yellow clusters. not_current: confirming clusters whose data are not fresh (`blocked_by`).
    composite: counts and verdict made from the rows. lifecycle: the market's own (canary §5.3), without its fingerprint. governed_severity: what is left
    of its severity. defects: clusters whose freshness is overdue; impaired: stale. score, score_terms (id, feature, value, points): None and () without
    a confirmation by score. warnings: delivered ones, then own. valid_until_ns: the view holds up to and including that time; None: whenever.
    """

    profile: str
    bands: dict[str, str | None]
    raw: dict[str, str | None]
    served: dict[str, str | None]
    classes: dict[str, str]
    eligibility: dict[str, str]
    red_names: tuple[str, ...]
    yellow_names: tuple[str, ...]
    unconfirmed: tuple[str, ...]
    ambiguous: tuple[str, ...]
    partial: tuple[str, ...]
    computing: tuple[str, ...]
    stale: tuple[str, ...]
    degraded: tuple[str, ...]
    not_configured: tuple[str, ...]
    red: int
    yellow: int
    ranked: int
    unranked: int
    unranked_defects: int
    confirming: tuple[str, ...]
    provisional: tuple[str, ...]
    spy: float | None
    vix: float | None
    closed: bool
    verdict: str
    data_issue: bool
    fast_carry: bool
    confirmed_tape: bool
    stressed: bool
    selloff_by_market: bool
    spike_confirmed: bool
    stress_confirmed: bool
    stress_severity: str
    stress_threshold: float
    stress_observed: float
    stress_early: bool
    early_threshold: float
    early_observed: float
    early_filtered: bool
    deteriorating: bool
    gamma_red: bool
    any_red: bool
    two_red: bool
    three_red: bool
    convexity: bool
    composite: dict[str, Any]
    lifecycle: dict[str, Any]
    governed_severity: str
    not_current: tuple[str, ...]
    defects: tuple[str, ...]
    impaired: tuple[str, ...]
    score: float | None
    score_terms: tuple[tuple[str, str, float | None, float], ...]
    warnings: tuple[dict[str, Any], ...]
    source_health: tuple[dict[str, Any], ...]
    valid_until_ns: int | None


@dataclass(frozen=True, slots=True)
class _Tape:
    """Day changes that may speak; None never fires."""

    spy: float | None
    vix: float | None

    def spy_at_most(self, level: float) -> bool:
        return self.spy is not None and self.spy <= level

    def spy_at_least(self, level: float) -> bool:
        return self.spy is not None and self.spy >= level

    def vix_at_most(self, level: float) -> bool:
        return self.vix is not None and self.vix <= level

    def vix_at_least(self, level: float) -> bool:
        return self.vix is not None and self.vix >= level


@dataclass(frozen=True, slots=True)
class _Counts:
    """What the stages are selected by: confirming reds, yellows (where the profile says so yellow or worse), whether a red is unconfirmed."""

    reds: int
    yellows: int
    yellows_only: int
    shown_reds: int
    unconfirmed: bool


def worst_band(bands: Iterable[str | None]) -> str | None:
    """Return the worst of the ranked bands, None when none is."""
    return max((band for band in bands if band is not None), key=_RANK.__getitem__, default=None)


def market_of(regime: RegimeInput, policy: RiskPolicy, now_ns: int) -> MarketView:
    """Return the market as one policy sees a dashboard at a time: clusters, counts, verdict, lifecycle and tape rules, at once (canary §5.2 to §7)."""
    p = policy.policy
    switches = p.switches
    rows = regime.rows
    closed = is_closed(regime, now_ns)
    off = closed and switches.closed_date_tape_off
    tape = _Tape(None if off else regime.spy_change_pct, None if off else regime.vix_change_pct)
    absent = tuple(cluster for cluster in CLUSTERS if cluster in switches.not_configured_clusters)

    bands = {name: None if CLUSTER_OF[name] in absent else rows[name].band for name in ROWS}
    classes_of_rows = {name: class_of(name, rows[name], policy, now_ns) for name in ROWS}
    eligibility = {
        name: found for name in ROWS if bands[name] is not None and (found := eligibility_of(name, rows[name], policy, now_ns)) is not None
    }
    raw = {cluster: worst_band(bands[name] for name in MEMBERS[cluster]) for cluster in CLUSTERS}
    able = {cluster for cluster in CLUSTERS if any(eligibility.get(name) == ELIGIBLE for name in MEMBERS[cluster])}
    served = _downgraded(rows, bands, raw, able, tape, p.downgrades)
    # What may warn: of profiles with freshness classes a cluster whose rows in that band are not overdue.
    warn = {
        cluster: worst_band(bands[name] for name in MEMBERS[cluster] if classes_of_rows[name] != OVERDUE)
        if switches.freshness_classes
        else served[cluster]
        for cluster in CLUSTERS
    }
    for cluster in CLUSTERS:
        if warn[cluster] == "red" and served[cluster] != "red":
            warn[cluster] = served[cluster]

    downgraded = tuple(c for c in CLUSTERS if raw[c] == "red" and served[c] != "red")
    gated = tuple(c for c in CLUSTERS if served[c] == "red" and c in able)
    provisional = tuple(c for c in CLUSTERS if raw[c] == "red" and c not in gated) if switches.row_gates else ()
    unconfirmed = tuple(c for c in CLUSTERS if c in downgraded or c in provisional)
    may_warn = _may_warn(unconfirmed, bands, classes_of_rows)
    ranked = sum(band is not None for band in served.values())
    reds = sum(band == "red" for band in served.values())
    yellows = sum(band == "yellow" for band in served.values())
    yellow_or_worse = sum(band in ("yellow", "red") for band in warn.values())
    counts = _Counts(len(gated), yellow_or_worse if switches.count_at_least_yellow else yellows, yellows, reds, bool(may_warn))

    score, terms = _score(regime, policy, classes_of_rows, off)
    c = p.confirmation
    confirmed_by_score = c is not None and score is not None and score >= c.act
    confirming = (gated if confirmed_by_score else ()) if c is not None else gated

    classes = {cluster: max((classes_of_rows[name] for name in MEMBERS[cluster]), key=_CLASSES.index) for cluster in CLUSTERS}
    defects = tuple(cluster for cluster in CLUSTERS if classes[cluster] == OVERDUE and cluster not in absent)
    impaired = tuple(cluster for cluster in CLUSTERS if classes[cluster] == STALE and cluster not in absent)

    selected = (
        _stage(p.stages, counts, ranked, tape)
        if c is None
        else _score_stage(c.watch, c.act, c.urgent, score, p.stages, counts, ranked, tape)
    )
    stage, governors = selected, list[dict[str, Any]]()
    broken = False
    if switches.freshness_classes and stage != "data_quality":
        sound = _without(counts, defects, gated, warn, may_warn, switches.count_at_least_yellow, served)
        rests = c is None and stage not in CONFIRMED_STAGES and _stage(p.stages, sound, ranked, tape) != stage
        if c is None and stage in CONFIRMED_STAGES:
            kept = _stage(p.stages, sound, ranked, tape)
            rests = kept not in CONFIRMED_STAGES
            stage = kept if kept in CONFIRMED_STAGES else stage
        bad = tuple(cluster for cluster in CLUSTERS if cluster in defects or cluster in impaired)
        broken = len(bad) >= p.freshness.defects_for_data_quality or _unattributable(regime) or rests
        if broken:
            governors.append(_governor("cap_stage", stage, "data_quality", "input_currency", bad))
            stage = "data_quality"
    severity, readiness, timing = _STAGE[stage]

    # --- governor: what a confirmation that rests on heuristic levels is worth ---
    exempt = tape.spy_at_most(p.governor.exempt_spy_pct) and not closed
    not_current = tuple(sorted(cluster for cluster in confirming if classes[cluster] != FRESH))
    if switches.severity_governor and stage in CONFIRMED_STAGES and not exempt:
        pending = tuple(
            cluster
            for cluster in confirming
            if any(eligibility.get(name) == ELIGIBLE and gate_of(policy, name).pending_backtest for name in MEMBERS[cluster])
        )
        term = rows[VIX_TERM]
        cosigned = (
            tape.spy_at_most(p.governor.cosign_spy_pct)
            or tape.vix_at_least(p.governor.cosign_vix_pct)
            or (classes_of_rows[VIX_TERM] == FRESH and _vix_term_at(term, p.governor.cosign_vix_term))
        )
        lowered = 1 if c is None and not cosigned else 0
        if pending and lowered:
            lower = SEVERITIES[SEVERITY_RANK[severity] - lowered]
            governors.append(_governor("cap_severity", severity, lower, "pending_backtest_no_tape_cosign", tuple(sorted(pending))))
            severity = lower
        if not_current and c is None:
            # What current data confirm without them stays confirmed: one more red never makes the market calmer (canary §6.7).
            alone = _stage(p.stages, replace(counts, reds=counts.reds - len(not_current)), ranked, tape)
            cap = "watch"
            if alone in CONFIRMED_STAGES:
                cap = SEVERITIES[SEVERITY_RANK[_STAGE[alone][0]] - (lowered if set(pending) - set(not_current) else 0)]
            if SEVERITY_RANK[cap] < SEVERITY_RANK[severity]:
                governors.append(_governor("cap_severity", severity, cap, "confirming_cluster_quality", not_current))
                severity = cap
    told = regime.lifecycle or {}
    if switches.severity_governor and told.get("governors") and stage in CONFIRMED_STAGES and told.get("severity") in SEVERITIES:
        severity = min(severity, str(told["severity"]), key=SEVERITY_RANK.__getitem__)  # the builder's word: two surfaces never disagree
    confidence = _confidence(
        regime.summary_confidence, ranked, p.stages.min_ranked, [x for x in CLUSTERS if served[x] is None and x not in absent]
    )
    if broken:
        confidence = "low"
    elif switches.freshness_classes and stage != "data_quality" and (defects or impaired):
        governors.append(_governor("cap_readiness", readiness, "degraded", "input_currency", tuple(sorted((*defects, *impaired)))))
        readiness = "degraded"
        confidence = "medium" if confidence == "high" else confidence

    verdict = _verdict(p.stages, counts, ranked, len(CLUSTERS), stage, switches.row_gates)
    row_counts = [bands[name] for name in ROWS]
    composite = {
        "verdict": verdict,
        **{f"{band}_count": sum(found == band for found in row_counts) for band in BANDS},
        "ranked_count": sum(found is not None for found in row_counts),
        "unranked_count": sum(found is None for found in row_counts),
        **{f"cluster_{band}_count": sum(found == band for found in served.values()) for band in BANDS},
        "cluster_ranked_count": ranked,
        "cluster_unranked_count": len(CLUSTERS) - ranked,
    }
    given = sum(points > 0 for *_, points in terms)
    lifecycle = {
        "stage": stage,
        "severity": severity,
        "readiness": readiness,
        "timing": timing,
        "confidence": confidence,
        "evidence": _evidence(raw, confirming if c is None else tuple(x for x in CLUSTERS if served[x] == "red"), tape, p.stages),
        "confirmed_by": sorted(confirming)
        if c is None
        else sorted(name for name, _, _, points in terms if points > 0)
        if confirmed_by_score and given
        else [],
        "unconfirmed": sorted(unconfirmed),
        "suppressed": sorted(unconfirmed) if stage in _CALM_STAGES else [],
        "rejected_by": sorted(x for x in CLUSTERS if served[x] == "yellow") if stage == "quiet" else [],
        "governors": governors,
    }

    # --- tape rules (canary §7), with red = confirming red ---
    drop, spike = tape.spy_at_most(p.spy_drop_pct), tape.vix_at_least(p.vix_spike_pct)
    some = len(confirming) > 0 if c is None else confirmed_by_score
    governed_act = not switches.severity_governor or SEVERITY_RANK[severity] >= SEVERITY_RANK["act"]
    fx_alarm = raw["fx"] == "red" and classes_of_rows[JPY] == FRESH
    fast_carry = fx_alarm and (drop or spike or warn["breadth"] in ("yellow", "red")) and (c is None or confirmed_by_score)
    confirmed_tape = fast_carry or (
        (c is None or confirmed_by_score)
        and (
            (tape.spy_at_most(p.spy_hard_drop_pct) and (spike or some))
            or (tape.vix_at_least(p.vix_hard_spike_pct) and (drop or some))
            or (drop and spike and some)
        )
    )
    enough = ranked >= p.rules.stress_min_ranked
    at_stress = len(confirming) >= p.rules.stressed_reds
    stress_confirmed = confirmed_by_score if c is not None else at_stress and enough
    others = counts.yellows - len(confirming) if switches.count_at_least_yellow else counts.yellows
    filtered = len(confirming) > 0 and others > 0
    warned = tuple(x for x in may_warn if x in provisional)
    early = filtered or (switches.row_gates and len(warned) >= p.rules.guarded_provisional_reds)
    if c is not None:
        early = score is not None and c.watch <= score < c.act

    statuses = {cluster: _weakest(rows, cluster) for cluster in CLUSTERS}
    defined = [cluster for cluster in CLUSTERS if cluster not in absent]
    ambiguous = _sorted(x for x in defined if raw[x] is None)
    # With `missing_is_state` a row that says it was measured and has no band is a gap too, also beside one that has.
    bandless = {CLUSTER_OF[name] for name, row in rows.items() if row.band is None and row.status in ("ok", "stale")}
    gaps = bandless if switches.missing_is_state else set()
    partial = _sorted(x for x in defined if raw[x] is not None and (x in gaps or statuses[x] in ("error", "unavailable", "computing")))
    computing = _sorted(x for x in defined if statuses[x] == "computing")
    stale = _sorted(x for x in defined if statuses[x] == "stale")
    degraded = ("gamma",) if _gamma_confidence(rows[GAMMA]) == "degraded" and "gamma" not in absent else ()
    warnings = list(regime.warnings)
    mismatch = _mismatch(regime.composite, composite)
    if mismatch:
        warnings.append(
            {
                "code": "composite_mismatch",
                "scope": "",
                "severity": "warning",
                "message": "the delivered composite disagrees with the rows: " + ", ".join(mismatch),
                "impact": "counts are those of the rows",
                "action": "look at the producer of the dashboard",
            }
        )
    return MarketView(
        profile=policy.profile,
        bands=bands,
        raw=raw,
        served=served,
        classes=classes,
        eligibility=eligibility,
        red_names=_sorted(x for x in CLUSTERS if served[x] == "red"),
        yellow_names=_sorted(x for x in CLUSTERS if served[x] == "yellow"),
        unconfirmed=_sorted(unconfirmed),
        ambiguous=ambiguous,
        partial=partial,
        computing=computing,
        stale=stale,
        degraded=degraded,
        not_configured=_sorted(absent),
        red=reds,
        yellow=yellows,
        ranked=ranked,
        unranked=len(CLUSTERS) - ranked,
        unranked_defects=sum(served[x] is None for x in defined),
        confirming=_sorted(confirming),
        provisional=_sorted(provisional),
        spy=tape.spy,
        vix=tape.vix,
        closed=closed,
        verdict=verdict,
        data_issue=bool(ambiguous or partial or computing or stale or degraded),
        fast_carry=fast_carry,
        confirmed_tape=confirmed_tape,
        stressed=confirmed_by_score if c is not None else (at_stress and governed_act) or confirmed_tape,
        selloff_by_market=confirmed_by_score if c is not None else (drop and spike) or some,
        spike_confirmed=confirmed_by_score if c is not None else drop or some,
        stress_confirmed=stress_confirmed,
        stress_severity="act" if c is not None or governed_act else "watch",
        stress_threshold=float(p.rules.stressed_reds if c is None else c.act),
        stress_observed=float(len(confirming)) if c is None or score is None else score,
        stress_early=early and not stress_confirmed and not fast_carry,
        early_threshold=float(p.stages.early_reds if c is None else c.watch),
        early_observed=float(len(confirming) or len(warned)) if c is None or score is None else score,
        early_filtered=filtered if c is None else early,
        deteriorating=counts.yellows >= p.rules.early_yellows,
        gamma_red=served["gamma"] == "red" and classes_of_rows[GAMMA] != OVERDUE,
        any_red=some,
        two_red=len(confirming) >= p.rules.urgent_reds if c is None else confirmed_by_score,
        three_red=len(confirming) >= p.rules.panic_reds if c is None else score is not None and score >= c.urgent,
        convexity=(len(confirming) >= p.rules.convexity_reds and governed_act) if c is None else confirmed_by_score,
        composite=composite,
        lifecycle=lifecycle,
        governed_severity=severity,
        not_current=not_current,
        defects=_sorted(defects),
        impaired=_sorted(impaired),
        score=score,
        score_terms=terms,
        warnings=tuple(warnings),
        source_health=source_health_of(regime, raw, absent),
        valid_until_ns=_valid_until(regime, policy, now_ns, closed),
    )


def is_closed(regime: RegimeInput, now_ns: int) -> bool:
    """Return whether the tape is frozen: the dashboard says so, or it is a weekend in New York. A dashboard dated after `now_ns` (a replay dated by
    midnight UTC) is judged by its own date."""
    today = new_york_date(now_ns)
    day = today if regime.session_date is None else max(today, regime.session_date)
    return regime.closed or is_weekend(day)


def _sorted(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(names))


def _downgraded(
    rows: Mapping[str, RowInput], bands: Mapping[str, str | None], raw: Mapping[str, str | None], able: set[str], tape: _Tape, levels: Any
) -> dict[str, str | None]:
    """Return the served bands of the clusters: isolated reds become yellow (canary §5.2 a to c). able: clusters with a row that may confirm; only
    such a red keeps another one red."""
    served = dict(raw)

    def alone(cluster: str, among: Mapping[str, str | None]) -> bool:
        return not any(among[other] == "red" and other in able for other in CLUSTERS if other != cluster)

    if raw["credit"] == "red" and bands[HYG] == "red" and bands[OAS] != "red" and alone("credit", raw):
        served["credit"] = "yellow"
    if raw["fx"] == "red" and alone("fx", raw):
        served["fx"] = "yellow"
    vvix = rows[VVIX].value("last")
    if (
        raw["vol"] == "red"
        and alone("vol", dict(served))
        and bands[VIX_TERM] != "red"
        and (vvix is None or vvix < levels.vvix_red_alone)
        and not tape.vix_at_least(levels.vix_day_pct)
        and not tape.spy_at_most(levels.spy_day_pct)
    ):
        served["vol"] = "yellow"
    return served


def _may_warn(clusters: Sequence[str], bands: Mapping[str, str | None], classes: Mapping[str, str]) -> tuple[str, ...]:
    """Return the clusters with a red row that is not overdue."""
    return tuple(c for c in clusters if any(bands[name] == "red" and classes[name] != OVERDUE for name in MEMBERS[c]))


def _without(
    counts: _Counts,
    defects: Sequence[str],
    gated: Sequence[str],
    warn: Mapping[str, str | None],
    may_warn: Sequence[str],
    at_least: bool,
    served: Mapping[str, str | None],
) -> _Counts:
    """Return the counts without what defective clusters say."""
    sound = [cluster for cluster in CLUSTERS if cluster not in defects]
    yellows_only = sum(served[cluster] == "yellow" for cluster in sound)
    return _Counts(
        sum(cluster in gated for cluster in sound),
        sum(warn[cluster] in ("yellow", "red") for cluster in sound) if at_least else yellows_only,
        counts.yellows_only,  # upper bounds: a defect never makes the market calmer
        counts.shown_reds,
        any(cluster in may_warn for cluster in sound),
    )


def _stage(s: Stages, n: _Counts, ranked: int, tape: _Tape) -> str:
    """Return the market's stage by counts and tape (canary §5.3), first match."""
    if ranked < s.min_ranked:
        return "data_quality"
    red = n.reds > 0
    if n.reds >= s.panic_reds or (red and tape.spy_at_most(s.panic_red_spy_pct)) or tape.spy_at_most(s.panic_spy_pct):
        return "panic"
    if (
        n.reds >= s.confirmed_reds
        or (red and tape.spy_at_most(s.confirmed_red_spy_pct))
        or (n.yellows >= s.confirmed_yellows and tape.spy_at_most(s.confirmed_yellow_spy_pct))
        or (red and tape.vix_at_least(s.confirmed_red_vix_pct))
    ):
        return "confirmed_stress"
    if (
        n.reds >= s.early_reds
        or n.yellows >= s.early_yellows
        or n.unconfirmed
        or tape.spy_at_most(s.early_spy_pct)
        or tape.vix_at_least(s.early_vix_pct)
    ):
        return "early_warning"
    return _calm_stage(s, n, ranked, tape)


def _calm_stage(s: Stages, n: _Counts, ranked: int, tape: _Tape) -> str:
    if n.shown_reds == 0:
        rally, crush = tape.spy_at_least(s.opportunity_spy_pct), tape.vix_at_most(s.opportunity_vix_pct)
        if n.yellows_only <= s.opportunity_max_yellows and ranked >= s.min_ranked and rally and crush:
            return "opportunity"
        recovering = tape.spy_at_least(s.stabilization_spy_pct) or tape.vix_at_most(s.stabilization_vix_pct)
        if 1 <= n.yellows_only <= s.stabilization_max_yellows and recovering:
            return "stabilization"
    return "quiet"


def _score_stage(watch: float, act: float, urgent: float, score: float | None, s: Stages, n: _Counts, ranked: int, tape: _Tape) -> str:
    if ranked < s.min_ranked:
        return "data_quality"
    if score is not None:
        for level, stage in ((urgent, "panic"), (act, "confirmed_stress"), (watch, "early_warning")):
            if score >= level:
                return stage
    return _calm_stage(s, n, ranked, tape)


def _verdict(s: Stages, n: _Counts, ranked: int, clusters: int, stage: str, gated: bool) -> str:
    """Return the verdict, first match. gated: the profile's reds are those that confirm, and it has two verdicts more."""
    if ranked == 0:
        return VERDICT_NONE
    if ranked < s.min_ranked:
        return VERDICT_FEW
    if gated and stage == "data_quality":
        return VERDICT_UNDEFINED
    reds = n.reds
    if ranked == clusters and reds == clusters:
        return VERDICT_FULL
    if reds >= s.broad_reds:
        return VERDICT_BROAD
    if gated and stage == "confirmed_stress":
        return VERDICT_CONFIRMED
    if reds >= s.early_reds:
        return VERDICT_STRESS
    return VERDICT_ELEVATED if n.yellows >= s.elevated_yellows else VERDICT_NORMAL


def _governor(action: str, before: str, after: str, reason: str, clusters: Sequence[str]) -> dict[str, Any]:
    return {"action": action, "from": before, "to": after, "reason": reason, "clusters": list(clusters)}


def _confidence(summary: str | None, ranked: int, min_ranked: int, unranked: Sequence[str]) -> str:
    if summary in ("high", "medium", "medium-low", "low"):
        return summary
    return "low" if ranked < min_ranked else "medium" if unranked else "high"


def _evidence(raw: Mapping[str, str | None], confirming: Sequence[str], tape: _Tape, s: Stages) -> list[dict[str, Any]]:
    """Return what the stage rests on: every ranked cluster in order, then the tape where it is known."""
    found: list[dict[str, Any]] = []
    for cluster in CLUSTERS:
        if raw[cluster] is not None:
            sure = cluster in confirming
            found.append(_item(cluster, "cluster", raw[cluster], sure))
    for source, value, red, yellow in (
        ("spy", tape.spy, tape.spy_at_most(s.evidence_spy_red_pct), tape.spy_at_most(s.evidence_spy_yellow_pct)),
        ("vix", tape.vix, tape.vix_at_least(s.evidence_vix_red_pct), tape.vix_at_least(s.evidence_vix_yellow_pct)),
    ):
        if value is None:
            continue
        if red or yellow:
            found.append(_item(source, "tape", "red" if red else "yellow", red))
        else:
            found.append(
                {"source": source, "signal": "tape", "bucket": "green", "timing": "current", "severity": "observe", "confirmed": False}
            )
    return found


def _item(source: str, signal: str, bucket: str | None, sure: bool) -> dict[str, Any]:
    timing, severity = ("contemporaneous", "act") if sure else ("forward_warning", "watch")
    return {"source": source, "signal": signal, "bucket": bucket, "timing": timing, "severity": severity, "confirmed": sure}


def _weakest(rows: Mapping[str, RowInput], cluster: str) -> str:
    """Return the weakest status of a cluster's rows. A row of which nothing is known, and a status nobody knows without a band, are unavailable."""
    found = []
    for name in MEMBERS[cluster]:
        row = rows[name]
        found.append(row.status if row.status in _KNOWN_STATUS else "ok" if row.band is not None else "unavailable")
    return next((status for status in _WORST_STATUS if status in found), "ok")


def _gamma_confidence(row: RowInput) -> str:
    result = row.envelope.get("result") if row.envelope is not None else None
    summary = result.get("summary") if isinstance(result, Mapping) else None
    found = summary.get("confidence") if isinstance(summary, Mapping) else None
    return found.strip().lower() if isinstance(found, str) else ""


def source_health_of(regime: RegimeInput, raw: Mapping[str, str | None], absent: Sequence[str] = ()) -> tuple[dict[str, Any], ...]:
    """Return `source_health[]` of the dashboard, one entry for each cluster in order (canary §5.3); absent: clusters without a feed by design."""
    named: set[str] = set()
    for entry in regime.data_quality:
        named.update(str(name) for key in ("stale_clusters", "partial_clusters", "degraded_clusters") for name in entry.get(key) or ())
        named.add(str(entry.get("surface")))
    found = []
    for cluster in CLUSTERS:
        weakest = _weakest(regime.rows, cluster)
        if cluster in absent:
            status = "not_configured"
        elif cluster in ("gamma", "breadth") and cluster in named:
            status = "degraded"
        elif raw[cluster] is not None and weakest not in ("ok", "stale"):
            status = "partial"
        else:
            status = weakest
        confidence = "high" if status == "ok" else "medium" if status in ("stale", "partial", "degraded") else "low"
        times = [row.as_of_ns for row in (regime.rows[name] for name in MEMBERS[cluster]) if row.as_of_ns is not None]
        found.append(
            {
                "source": cluster,
                "status": status,
                "confidence": confidence,
                "as_of_ns": min(times, default=None),
                "fingerprint_stability": "semantic_buckets_only",
            }
        )
    return tuple(found)


def _unattributable(regime: RegimeInput) -> bool:
    """Return whether the dashboard tells of a defect without saying whose it is."""
    known = {*CLUSTERS, *ROWS}
    for entry in regime.data_quality:
        lists = [name for key in ("stale_clusters", "partial_clusters", "degraded_clusters") for name in entry.get(key) or ()]
        if not lists and entry.get("surface") not in known and entry.get("status") not in (None, "", "ok", "ready", "fresh"):
            return True
    return False


def _mismatch(delivered: Mapping[str, Any] | None, own: Mapping[str, Any]) -> list[str]:
    if delivered is None:
        return []
    return [key for key, value in own.items() if key in delivered and delivered[key] not in (None, "") and delivered[key] != value]


def _vix_term_at(row: RowInput, level: float) -> bool:
    vix, vix3m, ratio = row.value("vix"), row.value("vix3m"), row.value("ratio")
    if vix is not None and vix3m is not None and vix3m > 0:
        return exact(vix) >= exact(level) * exact(vix3m)
    return ratio is not None and exact(ratio) >= exact(level)


def _valid_until(regime: RegimeInput, policy: RiskPolicy, now_ns: int, closed: bool) -> int | None:
    """Return the last time at which this view holds: until a row passes its maximum age, or a weekend begins or ends."""
    p = policy.policy.switches
    ends = []
    if p.freshness_classes:
        for name, row in regime.rows.items():
            if row.as_of_ns is not None and row.freshness_class in _CLASSES and row.freshness_class != OVERDUE:
                end = row.as_of_ns + max_age_ns(policy, CLUSTER_OF[name])
                if end >= now_ns:
                    ends.append(end)
    if p.closed_date_tape_off:  # until the end of the day in New York
        ends.append(next_day_ns(now_ns) - 1)
    return min(ends, default=None)


# --- confirmation by score ------------------------------------------------------------------------------------------------------

_FEATURES = {
    "vix_term": VIX_TERM, "vix": VIX_TERM, "vvix": VVIX, "vvix_change_20d_pct": VVIX, "hyg_below_mean_pct": HYG, "spy_below_high_pct": HYG,
    "spy_change_pct": None, "vix_change_pct": None, "hy_oas_pct": OAS, "hy_oas_change_pts": OAS, "funding_bps": FUNDING, "yen_move_pct": JPY,
    "gamma_gap_pct": GAMMA, "breadth_pct": BREADTH,
}  # fmt: skip
"""The row each feature of a score is read from; None: the tape."""


def features_of(regime: RegimeInput) -> dict[str, float | None]:
    """Return what a score is made of: every feature by name, None where a figure it needs was not delivered (schemas.policy.Term)."""
    rows = regime.rows
    term, hyg, jpy, funding = rows[VIX_TERM], rows[HYG], rows[JPY], rows[FUNDING]
    vix, vix3m = term.value("vix"), term.value("vix3m")
    cp, bill = funding.value("cp_3m_rate"), funding.value("tbill_3m_rate")
    last, before, weekly = jpy.value("last"), jpy.value("close_7d_ago"), jpy.value("weekly_change_pct")
    return {
        "vix_term": float(exact(vix) / exact(vix3m)) if vix is not None and vix3m is not None and vix3m > 0 else term.value("ratio"),
        "vix": vix,
        "vvix": rows[VVIX].value("last"),
        "vvix_change_20d_pct": rows[VVIX].value("change_20d_pct"),
        "hyg_below_mean_pct": _below_pct(hyg.value("hyg_price"), hyg.value("hyg_50dma")),
        "spy_below_high_pct": _below_pct(hyg.value("spy_price"), hyg.value("spy_52w_high")),
        "spy_change_pct": regime.spy_change_pct,
        "vix_change_pct": regime.vix_change_pct,
        "hy_oas_pct": rows[OAS].value("hy_oas"),
        "hy_oas_change_pts": rows[OAS].value("hy_oas_20d_change"),
        "funding_bps": funding_bps(cp, bill) if cp is not None and bill is not None else funding.value("spread_bps"),
        "yen_move_pct": _below_pct(last, before) if last is not None and before is not None else None if weekly is None else -weekly,
        "gamma_gap_pct": rows[GAMMA].value("gap_pct"),
        "breadth_pct": rows[BREADTH].value("pct_above_50dma"),
    }


def _below_pct(value: float | None, anchor: float | None) -> float | None:
    """Return how far a value is below an anchor in percent of it, to within the last digits of both."""
    if value is None or anchor is None or anchor <= 0:
        return None
    return float((exact(anchor) - exact(value)) * 100 / exact(anchor))


def points_of(term: Term, value: float | None) -> float:
    """Return the points a term gives for a value: of the last level that holds; 0 for none, and for a value that is missing."""
    points = 0.0
    if value is not None:
        for level, given in zip(term.levels, term.points, strict=True):
            if value >= level if term.side == "above" else value <= level:
                points = float(given)
    return points


def _score(
    regime: RegimeInput, policy: RiskPolicy, classes: Mapping[str, str], tape_off: bool
) -> tuple[float | None, tuple[tuple[str, str, float | None, float], ...]]:
    """Return the sum of the points and what each term gave. Figures that may not confirm count as missing: those that are not fresh where the profile
    has freshness classes, and the tape where it is off."""
    c = policy.policy.confirmation
    if c is None:
        return None, ()
    features = features_of(regime)
    found = []
    for term in c.terms:
        row = _FEATURES[term.feature]
        usable = not tape_off if row is None else classes[row] == FRESH
        value = features[term.feature] if usable else None
        found.append((term.id, term.feature, value, points_of(term, value)))
    return math.fsum(points for *_, points in found), tuple(found)
