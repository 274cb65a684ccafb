"""The regime builder: observations in, the dashboard of each policy profile out. Memory is plain JSON documents (state/blobs.py), no clock, no I/O.

Rules: docs/canary.md. Shared by all profiles: the newest observation of each indicator, its daily series, members' closes, known trading dates. Kept for each
profile: what a gate must remember of a row. Bands, clusters and lifecycle are those of operators/clusters.py; here is where their inputs come from.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import Any

import numpy as np

from operators.breadth import pct_above_mean, trailing_mean
from operators.clusters import (
    BREADTH,
    DAY_NS,
    ELIGIBLE,
    FRESH,
    FUNDING,
    GAMMA,
    HYG,
    JPY,
    MINUTE_NS,
    NOT_DUE,
    NS,
    OAS,
    OVERDUE,
    PENDING,
    STALE,
    VIX_TERM,
    VVIX,
    MarketView,
    RegimeInput,
    RowInput,
    band_of,
    class_of,
    exact,
    features_of,
    from_message,
    funding_bps,
    gamma_legs,
    gamma_weights,
    gap_band,
    gate_of,
    is_weekend,
    judge,
    market_of,
    max_age_ns,
    may_rank,
    new_york_date,
    wall_ns,
)
from operators.gamma import gamma_of
from schemas.canary import (
    Composite,
    DataQuality,
    Evidence,
    Fingerprint,
    Governor,
    Indicator,
    Lifecycle,
    Regime,
    RegimeRow,
    RegimeWarning,
    SourceHealth,
)
from schemas.policy import CLUSTER_OF, ROWS, Bands, Freshness, RiskPolicy
from schemas.reasons import Reason
from state.blobs import Blobs

CHAINS = ("spy_options", "spx_options")
PRICES = ("vix", "vix3m", "hyg", "spy")
DAILY = ("vvix", "hy_oas", "ig_oas", "cp_3m", "tbill_3m")
VALUES = (*PRICES, *DAILY, "usd_jpy")
POSITIVE = ("vix", "vix3m", "vvix", "hyg", "spy", "usd_jpy")
CLOSES, SESSION = "sp500_closes", "session"
KEEP_SERIES = 300
"""Daily values kept of an indicator: the longest reach is a year."""
YEAR_BARS = 252
"""Closes a 52-week high is made of, when the feed does not tell it."""
KEEP_SESSIONS = 60
SPARE_DATES = 10
"""Dates of members' closes kept beyond the bars of a mean, for members that miss some."""
HOUR_NS = 60 * MINUTE_NS
FUTURE_NS = MINUTE_NS
"""Observations further ahead of the clock than this are not believed."""
_STATUS_RANK = ("ok", "stale", "computing", "unavailable", "error")
_CLASS_RANK = (FRESH, NOT_DUE, PENDING, STALE, OVERDUE)
_SIGN_WORDS = {1: "long", -1: "short", 0: "flat"}

Problem = tuple[Reason, str]
Keys = Callable[[RegimeInput, MarketView], tuple[Fingerprint, Fingerprint]]
"""Returns the fingerprints of a dashboard (`regime-fp-v1`) and of its lifecycle (`lifecycle-fp-v1`)."""


def keys_of(regime: RegimeInput, view: MarketView) -> tuple[Fingerprint, Fingerprint]:
    """Return the fingerprints by the projections of operators/canonical.py."""
    from operators import canonical

    lifecycle = canonical.key_of(canonical.project_lifecycle(view.lifecycle))
    return (
        Fingerprint(version=canonical.REGIME_VERSION, key=canonical.key_of(canonical.project_regime(regime, view))),
        Fingerprint(version=canonical.LIFECYCLE_VERSION, key=lifecycle),
    )


# --- trading dates --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Sessions:
    """Which dates have a US equity session: weekdays, except those known to be closed. An unknown calendar counts as open.

    known: by date, as the indicator `session` said. rules: hours of the session, by minutes of the day in New York.
    """

    known: Mapping[str, bool]
    rules: Freshness

    def is_open(self, day: str) -> bool:
        """Return whether a date has a session."""
        return not is_weekend(day) and self.known.get(day, True)

    def before(self, day: str) -> str:
        """Return the last date with a session before a date."""
        found = date.fromisoformat(day)
        for _ in range(KEEP_SESSIONS):
            found -= timedelta(days=1)
            if self.is_open(found.isoformat()):
                break
        return found.isoformat()

    def opens_ns(self, day: str) -> int:
        """Return when a date's session begins."""
        return wall_ns(day, self.rules.session_open_minute)

    def closes_ns(self, day: str) -> int:
        """Return when a date's session ends."""
        return wall_ns(day, self.rules.session_close_minute)

    def current(self, now_ns: int) -> str:
        """Return the date of the session that is on, or was last."""
        day = new_york_date(now_ns)
        return day if self.is_open(day) and now_ns >= self.opens_ns(day) else self.before(day)

    def ended(self, now_ns: int) -> str:
        """Return the date of the newest session that is over."""
        day = new_york_date(now_ns)
        return day if self.is_open(day) and now_ns >= self.closes_ns(day) else self.before(day)

    def due(self, now_ns: int, sessions: int, minutes: float) -> str:
        """Return the date whose daily value must have been published: so many sessions ago, so many minutes after the close of the last one."""
        day = self.ended(now_ns - int(minutes * MINUTE_NS))
        for _ in range(sessions):
            day = self.before(day)
        return day


# --- gates: what is remembered of a row -----------------------------------------------------------------------------------------


def depth_of(name: str, row: RowInput, policy: RiskPolicy) -> float | None:
    """Return how deep a row is, in the unit of its gate (canary §6.1); None when it was not measured. Larger is always deeper."""
    if name == VIX_TERM:
        vix, vix3m = row.value("vix"), row.value("vix3m")
        return float(exact(vix) / exact(vix3m)) if vix is not None and vix3m is not None and vix3m > 0 else row.value("ratio")
    if name == VVIX:
        return row.value("last")
    if name == OAS:
        return row.value("hy_oas")
    if name == GAMMA:
        return _gamma_depth(row, policy.policy.bands, policy.policy.gates.gamma_one_sided_depth)
    if name == BREADTH:
        pct = row.value("pct_above_50dma")
        return None if pct is None else float(exact(policy.policy.bands.breadth_red_pct) - exact(pct))
    features = features_of(RegimeInput(rows=dict.fromkeys(ROWS, RowInput()) | {name: row}))
    return features[{HYG: "hyg_below_mean_pct", FUNDING: "funding_bps", JPY: "yen_move_pct"}[name]]


def _gamma_depth(row: RowInput, bands: Bands, one_sided: float) -> float | None:
    def of(leg: Mapping[str, float | None]) -> float | None:
        gap, sign = leg.get("gap_pct"), leg.get("gamma_sign")
        if gap is not None:
            return -gap
        return one_sided if sign is not None and sign < 0 else None

    legs = gamma_legs(row)
    depths = {name: depth for name, leg in legs.items() if (depth := of(leg)) is not None}
    if not depths:
        return of(row.values)
    weights = gamma_weights({name: legs[name] for name in depths}, bands)
    return math.fsum(depths[name] * weights[name] for name in depths) / math.fsum(weights.values())


def may_leave(name: str, row: RowInput, depth: float | None, policy: RiskPolicy) -> bool:
    """Return whether a row that was red may be served its measured band again (canary §6.1, last column). A figure it needs and lacks keeps it red."""
    gate = gate_of(policy, name)
    if gate.leave is None:
        return True
    if name == HYG:  # back at its mean
        return depth is not None and depth <= gate.leave
    if name == BREADTH:
        pct = row.value("pct_above_50dma")
        return pct is not None and pct >= gate.leave
    if depth is None:
        # of gamma: no level and not wholly short, so wholly long, which is as far from red as can be
        return name == GAMMA
    if gate.leave_change is not None:
        change = row.value("hy_oas_20d_change")
        return depth < gate.leave and change is not None and change < gate.leave_change
    return depth < gate.leave


def gated(
    name: str, row: RowInput, policy: RiskPolicy, memory: Mapping[str, Any] | None, day: str | None, now_ns: int
) -> tuple[RowInput, dict[str, Any] | None]:
    """Return a row as a profile with gates serves it, and what to remember of it (canary §6.1 to §6.3).

    row: with its measured band (None: not measured) and freshness class. memory: of the last time, None for none. day: the trading date the reading
    belongs to. Without any of the switches the row comes back as it was, and nothing is remembered.
    """
    switches = policy.policy.switches
    if not (switches.row_gates or switches.exit_hysteresis or switches.hold_last_band):
        return row, None
    gate = gate_of(policy, name)
    fresh = class_of(name, row, policy, now_ns) == FRESH
    depth = depth_of(name, row, policy)
    if row.band is None:
        if memory is None or not switches.hold_last_band:
            return row, dict(memory) if memory is not None else None
        held = _with(row, band=memory["band"], band_held=True, sessions=memory["sessions"], depth=None)
        if switches.row_gates and held.band == "red":
            found = class_of(name, held, policy, now_ns)
            held = _with(held, eligibility=judge(gate, STALE if found == FRESH else found, None, memory["sessions"], False))
        return held, dict(memory)
    band = row.band
    if (
        switches.exit_hysteresis
        and memory is not None
        and memory["band"] == "red"
        and band != "red"
        and not may_leave(name, row, depth, policy)
    ):
        band = "red"
    if memory is None or memory["band"] != band:
        kept: dict[str, Any] = {"band": band, "date": day, "sessions": 1, "counted": day if fresh else None, "latched": False}
    else:
        kept = {**memory, "date": day}
        if fresh and day is not None and (kept["counted"] is None or day > kept["counted"]):
            kept["sessions"] += int(kept["counted"] is not None)
            kept["counted"] = day
    served = _with(row, band=band, depth=depth, sessions=kept["sessions"])
    if switches.row_gates and band == "red":
        found = judge(gate, class_of(name, row, policy, now_ns), depth, kept["sessions"], kept["latched"])
        kept["latched"] = kept["latched"] or found == ELIGIBLE
        served = _with(served, eligibility=found)
    return served, kept


def replayed(regime: RegimeInput, policy: RiskPolicy, memory: dict[str, Any], day: str, now_ns: int) -> RegimeInput:
    """Return a dashboard of a replay as this profile would have served it on a date, and update `memory` (by row; begin with an empty one).

    For series of snapshots that carry no classes, depths and sessions: what a row measured on its date counts as fresh. Dates must not go backward.
    """
    rows = {}
    for name, row in regime.rows.items():
        known = row
        if row.freshness_class is None and row.band is not None and not row.band_held and row.status in ("ok", "stale"):
            known = _with(row, freshness_class=FRESH if row.status == "ok" else STALE)
        rows[name], kept = gated(name, known, policy, memory.get(name), day, now_ns)
        if kept is not None:
            memory[name] = kept
    return replace(regime, rows=rows)


def _with(row: RowInput, **changes: Any) -> RowInput:
    return replace(row, **changes)


# --- the builder ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Seen:
    """What is known of one indicator at a time. status: of its newest message, or `unavailable`, or `stale` by age; value None: not usable now."""

    value: float | None
    status: str
    ns: int | None
    day: str | None
    doc: Mapping[str, Any]


_NOTHING = _Seen(None, "unavailable", None, None, {})


class RegimeBuilder:
    """Memory and construction of the dashboards.

    policies: by profile. docs: where the memory is kept; what is there is continued. keys: how fingerprints are made.
    """

    def __init__(self, policies: Mapping[str, RiskPolicy], docs: Blobs | None = None, keys: Keys = keys_of) -> None:
        self.policies = dict(policies)
        self.docs = Blobs("regime") if docs is None else docs
        self._keys = keys
        self._mean_bars = sorted({p.policy.bands.breadth_mean_bars for p in self.policies.values()})

        self._prints: dict[int, tuple[RiskPolicy, str]] = {}

    def _print_of(self, policy: RiskPolicy) -> str:
        """Return a policy's fingerprint, made once for each policy object (it hashes the whole policy)."""
        known = self._prints.get(id(policy))
        if known is None or known[0] is not policy:
            known = self._prints[id(policy)] = (policy, policy.fingerprint)
        return known[1]

    def _doc(self, key: str) -> Any:
        return self.docs.docs.get(key)

    # ---- in

    def take(self, seen: Indicator, ts_ns: int, now_ns: int) -> str | Problem:
        """Take one observation sent at `ts_ns`. Return what became of it: `applied`, `duplicate`, `late` (older than what is known; a daily value still
        goes to its date), `ignored` (an indicator the dashboard is not made of), or (reason, detail) when it cannot be used."""
        name = seen.indicator
        if name == SESSION:
            return self._take_session(seen)
        if name not in (*VALUES, *CHAINS, CLOSES):
            return "ignored"
        problem = _problem(seen)
        if problem is not None:
            return problem
        ns = seen.as_of_ns
        if ns is None:
            rules = next(iter(self.policies.values())).policy.freshness
            ns = ts_ns if seen.as_of_date is None else min(ts_ns, wall_ns(seen.as_of_date, rules.session_close_minute))
        if ns > now_ns + FUTURE_NS:
            return Reason.event_ts_future, f"{name} is of {(ns - now_ns) // NS} s ahead of the clock"
        day = seen.as_of_date or new_york_date(ns)
        empty = seen.value is None and seen.chain is None and seen.closes is None
        if name == CLOSES:
            return self._take_failure(name, seen, ts_ns) if empty else self._take_closes(seen, ns, day, ts_ns)
        if empty:
            return self._take_failure(name, seen, ts_ns)
        return self._take_value(name, seen, ns, day, ts_ns)

    def _take_session(self, seen: Indicator) -> str | Problem:
        if seen.as_of_date is None or seen.open is None:
            return Reason.field_missing, "session: as_of_date and open must be there"
        if _date_problem(seen.as_of_date):
            return Reason.field_invalid, f"session: {seen.as_of_date} is no date"
        known = dict(self._doc("sessions") or {})
        if known.get(seen.as_of_date) == seen.open:
            return "duplicate"
        known[seen.as_of_date] = seen.open
        self.docs.put("sessions", {day: known[day] for day in sorted(known)[-KEEP_SESSIONS:]})
        return "applied"

    def _take_failure(self, name: str, seen: Indicator, ts_ns: int) -> str:
        """Note that a source could not tell its value. It stands until the source tells one again, be it the old one."""
        doc = dict(self._doc(f"indicator|{name}") or {})
        failure = {"status": seen.status, "ts": ts_ns}
        if doc.get("failure") == failure:
            return "duplicate"
        if ts_ns < max(doc.get("ts") or 0, (doc.get("failure") or {}).get("ts", 0)):
            return "late"
        self.docs.put(f"indicator|{name}", doc | {"failure": failure})
        return "applied"

    def _take_value(self, name: str, seen: Indicator, ns: int, day: str, ts_ns: int) -> str:
        if name == "vvix" and not seen.close:
            return "ignored"  # only the official close is read
        key = f"indicator|{name}"
        doc = dict(self._doc(key) or {})
        fresh: dict[str, Any] = {
            "ns": ns, "day": day, "status": seen.status, "close": seen.close, "due": seen.due, "source": seen.source, "value": seen.value,
            "prev": seen.prev_close, "high": seen.high_52w,
        }  # fmt: skip
        if seen.chain is not None:
            fresh["gamma"] = _gamma_doc(gamma_of(seen.chain, ns))
        daily = seen.value is not None and (seen.close or name in DAILY)
        newer = doc.get("ns") is None or ns >= doc["ns"]
        new_day = daily and self._put_series(name, day, seen.value, newer)
        if not newer:
            return "applied" if new_day else "late"
        failure = doc.get("failure")
        cleared = failure is not None and failure["ts"] <= ts_ns
        if not cleared and all(doc.get(field) == value for field, value in fresh.items()):
            return "duplicate"
        fresh["ts"] = max(ts_ns, doc.get("ts") or 0)
        fresh["failure"] = None if cleared else failure
        if name == "vix3m":
            fresh["vix_then"] = (self._doc("indicator|vix") or {}).get("value")
        self.docs.put(key, fresh)
        return "applied"

    def _put_series(self, name: str, day: str, value: float | None, newer: bool) -> bool:
        """Put a daily value to its date; return whether it was not there. What comes late does not replace what is there."""
        series = dict(self._doc(f"series|{name}") or [])
        if day in series and not newer:
            return False
        changed = series.get(day) != value
        series[day] = value
        self.docs.put(f"series|{name}", [[d, series[d]] for d in sorted(series)[-KEEP_SERIES:]])
        return changed

    def _take_closes(self, seen: Indicator, ns: int, day: str, ts_ns: int) -> str:
        assert seen.closes is not None
        closes = {one.symbol: one.close for one in sorted(seen.closes, key=lambda one: one.symbol) if one.close > 0}
        key = f"closes|{day}"
        known = sorted(k for k in self.docs.docs if k.startswith("closes|"))
        keep = (self._mean_bars[-1] if self._mean_bars else 0) + SPARE_DATES
        doc = dict(self._doc(f"indicator|{CLOSES}") or {})
        failure = doc.get("failure")
        late = doc.get("ns") is not None and day < doc["day"]
        cleared = not late and failure is not None and failure["ts"] <= ts_ns
        if self._doc(key) == closes and not cleared:
            return "duplicate"
        if len(known) >= keep and key < known[-keep]:
            return "late"
        self.docs.put(key, closes)
        known = sorted({*known, key})
        for old in known[:-keep]:
            self.docs.remove(old)
        known = known[-keep:]
        members = sorted(self._doc(known[-1]))
        matrix = np.array([[self._doc(k).get(symbol, math.nan) for k in known] for symbol in members], np.float64).reshape(
            len(members), len(known)
        )
        found = {str(bars): _breadth_doc(matrix, bars, len(members)) for bars in self._mean_bars}
        if not late:
            doc |= {"ns": ns, "day": day, "status": seen.status, "due": seen.due, "source": seen.source, "close": True}
            doc |= {"ts": max(ts_ns, doc.get("ts") or 0), "failure": None if cleared else failure}
        self.docs.put(f"indicator|{CLOSES}", doc | {"breadth": found})
        return "applied"

    # ---- what is known at a time

    def _seen(self, name: str, now_ns: int, bands: Bands) -> _Seen:
        doc = self._doc(f"indicator|{name}")
        if doc is None:
            return _NOTHING
        failure = doc.get("failure")
        if failure is not None:
            return _Seen(None, failure["status"], doc.get("ns"), doc.get("day"), doc)
        status = doc["status"]
        if status == "ok" and now_ns - doc["ns"] > bands.daily_stale_days * DAY_NS:
            status = "stale"
        return _Seen(doc.get("value"), status, doc["ns"], doc["day"], doc)

    def _series(self, name: str, until: str | None) -> list[tuple[str, float]]:
        return [(day, value) for day, value in self._doc(f"series|{name}") or [] if until is None or day <= until]

    def _change_pct(self, seen: _Seen, name: str, session: str) -> float | None:
        """Return the day change of an index, None when the newest price is of an earlier session than the current one."""
        if seen.value is None or seen.day is None or seen.day < session:
            return None
        before = seen.doc.get("prev")
        if before is None:
            earlier = [value for day, value in self._series(name, None) if day < seen.day]
            before = earlier[-1] if earlier else None
        if before is None or before <= 0:
            return None
        return float((exact(seen.value) - exact(before)) * 100 / exact(before))

    def _class(self, name: str, seen: _Seen, cluster: str, sessions: Sessions, policy: RiskPolicy, now_ns: int) -> str:
        """Return the freshness class of one indicator (canary §6.4)."""
        rules = policy.policy.freshness
        if seen.ns is None or seen.day is None or seen.status not in ("ok", "stale") or now_ns - seen.ns > max_age_ns(policy, cluster):
            return OVERDUE
        today = new_york_date(now_ns)
        due = seen.doc.get("due")
        if due is not None and new_york_date(seen.ns) == today:
            return str(due)  # the feed knows its schedule; what it said holds for that day
        if not sessions.is_open(today):
            return NOT_DUE
        age = now_ns - seen.ns
        recent = age <= rules.price_fresh_minutes * MINUTE_NS
        opens, closes = sessions.opens_ns(today), sessions.closes_ns(today)
        if name in CHAINS:
            if seen.day >= today:
                return FRESH
            if now_ns < opens:
                return NOT_DUE if seen.day >= sessions.before(today) else STALE
            return PENDING if now_ns - opens <= rules.pending_gamma_minutes * MINUTE_NS else STALE
        if name == CLOSES:
            newest = sessions.ended(now_ns)
            if seen.day >= newest:
                return FRESH
            waiting = now_ns - sessions.closes_ns(newest) <= rules.pending_breadth_minutes * MINUTE_NS
            return PENDING if waiting and seen.day >= sessions.before(newest) else STALE
        if name in DAILY:
            lag = {"vol": rules.vvix_publish_sessions, "credit": rules.credit_publish_sessions, "funding": rules.funding_publish_sessions}[
                cluster
            ]
            return FRESH if seen.day >= sessions.due(now_ns, lag, rules.publish_minutes) else STALE
        if name == "usd_jpy":  # traded round the clock
            return FRESH if recent or (seen.doc["close"] and seen.day >= sessions.ended(now_ns)) else STALE
        if now_ns < opens:
            return NOT_DUE if seen.day >= sessions.before(today) else STALE
        if seen.day < today:
            return STALE
        if now_ns >= closes:
            whole = seen.doc["close"] or seen.ns >= closes - int(rules.price_fresh_minutes * MINUTE_NS)
            return FRESH if whole else STALE
        return FRESH if recent or (name == "vix3m" and self._carried(seen, age, rules)) else STALE

    def _carried(self, vix3m: _Seen, age_ns: int, rules: Freshness) -> bool:
        """Return whether a VIX3M that has not moved for a while may still stand beside the VIX."""
        then, now = vix3m.doc.get("vix_then"), (self._doc("indicator|vix") or {}).get("value")
        if not then or now is None or age_ns > rules.vix3m_carry_minutes * MINUTE_NS:
            return False
        return abs(exact(now) - exact(then)) * 100 < exact(rules.vix3m_carry_vix_pct) * exact(then)

    # ---- rows

    def rows_of(self, policy: RiskPolicy, now_ns: int) -> dict[str, tuple[RowInput, str | None]]:
        """Return every row as measured now, before gates: (row, trading date of its reading)."""
        sessions = Sessions(self._doc("sessions") or {}, policy.policy.freshness)
        at = _At(policy, now_ns, sessions, sessions.current(now_ns))
        return {
            VIX_TERM: self._vix_term(at),
            VVIX: self._vvix(at),
            HYG: self._hyg(at),
            OAS: self._oas(at),
            FUNDING: self._funding(at),
            JPY: self._jpy(at),
            GAMMA: self._gamma(at),
            BREADTH: self._breadth(at),
        }

    def _row(
        self,
        at: _At,
        name: str,
        legs: Mapping[str, _Seen],
        values: Mapping[str, float | None],
        missing: tuple[str, ...] = (),
        envelope: dict[str, Any] | None = None,
        status: str | None = None,
    ) -> tuple[RowInput, str | None]:
        """Return a row of its legs: the worst status and class, the oldest time and date."""
        cluster = CLUSTER_OF[name]
        found = status or max((leg.status for leg in legs.values()), key=_STATUS_RANK.index)
        times = [leg.ns for leg in legs.values() if leg.ns is not None]
        days = [leg.day for leg in legs.values() if leg.day is not None]
        freshness = None
        if at.policy.policy.switches.freshness_classes:
            classes = [self._class(leg, seen, cluster, at.sessions, at.policy, at.now_ns) for leg, seen in legs.items()]
            freshness = max(classes, key=_CLASS_RANK.index)
        row = RowInput(
            status=found,
            fields_missing=missing,
            as_of_ns=min(times, default=None),
            freshness_class=freshness,
            values=dict(values),
            envelope=envelope,
        )
        band = band_of(name, row, at.policy.policy.bands) if may_rank(name, row) else None
        return _with(row, band=band), min(days, default=None)

    def _vix_term(self, at: _At) -> tuple[RowInput, str | None]:
        vix, vix3m = (self._seen(name, at.now_ns, at.bands) for name in ("vix", "vix3m"))
        known = vix.value is not None and vix3m.value is not None
        values = {
            "vix": vix.value,
            "vix3m": vix3m.value,
            "ratio": float(exact(vix.value) / exact(vix3m.value)) if vix.value is not None and vix3m.value is not None and known else None,
            "vix_change_pct": self._change_pct(vix, "vix", at.session),
        }
        return self._row(at, VIX_TERM, {"vix": vix, "vix3m": vix3m}, values, _missing(values, ("vix", "vix3m", "vix_change_pct")))

    def _vvix(self, at: _At) -> tuple[RowInput, str | None]:
        vvix = self._seen("vvix", at.now_ns, at.bands)
        series = self._series("vvix", vvix.day)
        back = at.bands.hy_oas_change_observations
        before = series[-1 - back][1] if len(series) > back else None
        change = None if vvix.value is None or not before else float((exact(vvix.value) - exact(before)) * 100 / exact(before))
        return self._row(
            at, VVIX, {"vvix": vvix}, {"last": vvix.value, "change_20d_pct": change}, _missing({"last": vvix.value}, ("last",))
        )

    def _hyg(self, at: _At) -> tuple[RowInput, str | None]:
        hyg, spy = (self._seen(name, at.now_ns, at.bands) for name in ("hyg", "spy"))
        closes = np.array([value for _, value in self._series("hyg", hyg.day)], np.float64)
        mean = _known(trailing_mean(closes, at.bands.hyg_mean_bars)) if hyg.value is not None else None
        values = {
            "hyg_price": hyg.value,
            "hyg_50dma": mean,
            "spy_price": spy.value,
            "spy_52w_high": self._year_high(spy),
            "spy_change_pct": self._change_pct(spy, "spy", at.session),
        }
        legs = {"hyg": hyg}
        if hyg.value is None or mean is None or hyg.value < mean:
            legs["spy"] = spy  # at its mean or above HYG does not need it
        status = "computing" if hyg.value is not None and mean is None else None
        return self._row(at, HYG, legs, values, _missing(values, tuple(values)), status=status)

    def _year_high(self, spy: _Seen) -> float | None:
        if spy.value is None:
            return None
        told = spy.doc.get("high")
        if told is not None:
            return float(told)
        closes = [value for _, value in self._series("spy", spy.day)][-YEAR_BARS:]
        return max(*closes, spy.value) if len(closes) >= YEAR_BARS else None

    def _oas(self, at: _At) -> tuple[RowInput, str | None]:
        high, investment = (self._seen(name, at.now_ns, at.bands) for name in ("hy_oas", "ig_oas"))
        series = self._series("hy_oas", high.day)
        back = at.bands.hy_oas_change_observations
        known = high.value is not None and len(series) > back
        change = float(exact(series[-1][1]) - exact(series[-1 - back][1])) if known else None
        values = {"hy_oas": high.value, "ig_oas": investment.value, "hy_oas_20d_change": change}
        return self._row(at, OAS, {"hy_oas": high}, values, _missing(values, tuple(values)))

    def _funding(self, at: _At) -> tuple[RowInput, str | None]:
        paper, bill = (self._seen(name, at.now_ns, at.bands) for name in ("cp_3m", "tbill_3m"))
        spread = None if paper.value is None or bill.value is None else funding_bps(paper.value, bill.value)
        values = {"cp_3m_rate": paper.value, "tbill_3m_rate": bill.value, "spread_bps": spread}
        return self._row(at, FUNDING, {"cp_3m": paper, "tbill_3m": bill}, values, _missing(values, ("cp_3m_rate", "tbill_3m_rate")))

    def _jpy(self, at: _At) -> tuple[RowInput, str | None]:
        yen = self._seen("usd_jpy", at.now_ns, at.bands)
        earlier = [value for day, value in self._series("usd_jpy", None) if yen.day is not None and day < yen.day]
        back = at.bands.usd_jpy_days
        before = earlier[-back] if len(earlier) >= back else None
        change = None
        if yen.value is not None and before is not None and before > 0:
            change = float((exact(yen.value) - exact(before)) * 100 / exact(before))
        values = {"last": yen.value, "close_7d_ago": before, "weekly_change_pct": change}
        status = "computing" if yen.value is not None and before is None else None
        return self._row(at, JPY, {"usd_jpy": yen}, values, _missing(values, ("last", "close_7d_ago")), status=status)

    def _gamma(self, at: _At) -> tuple[RowInput, str | None]:
        legs = {name: leg for name in CHAINS if (leg := self._seen(name, at.now_ns, at.bands)) is not _NOTHING}
        if not legs:
            return self._row(at, GAMMA, {"spy_options": _NOTHING}, {}, ("spy_options", "spx_options"), {"status": "cold"})
        good = {
            name: leg for name, leg in legs.items() if leg.status in ("ok", "stale") and leg.doc.get("gamma", {}).get("status") == "ready"
        }
        missing = tuple(name for name in CHAINS if name not in good)
        if not good:
            status = max((leg.status for leg in legs.values()), key=_STATUS_RANK.index)
            status = status if status in ("error", "unavailable", "computing") else "error"
            return self._row(at, GAMMA, legs, {}, missing, {"status": "computing" if status == "computing" else "error"}, status)
        each = {name.partition("_")[0].upper(): leg.doc["gamma"] for name, leg in good.items()}
        ranked = {name: one for name, one in each.items() if one["rankability"] == "rankable"}
        per_index = {name: {key: one[key] for key in ("gap_pct", "zero", "gamma_sign", "gamma_total_abs")} for name, one in ranked.items()}
        numbers = gamma_legs(RowInput(envelope={"result": {"per_index": per_index}}))
        weights = gamma_weights(numbers, at.bands)
        gaps = {name: gap for name, leg in numbers.items() if (gap := leg["gap_pct"]) is not None}
        gap = math.fsum(gaps[n] * weights[n] for n in gaps) / math.fsum(weights[n] for n in gaps) if gaps else None
        main = max(sorted(weights), key=lambda name: weights[name], default=None)
        sign = numbers[main]["gamma_sign"] if main is not None else None
        total = math.fsum(one["gamma_total_abs"] or 0.0 for one in each.values())
        said = {gap_band(leg["gap_pct"], leg["gamma_sign"], at.bands) for leg in numbers.values()}
        broken = len(ranked) < len(legs)
        alone = len(legs) < len(CHAINS)
        envelope = {
            "status": "ready",
            "result": {
                "gap_pct": gap,
                "gamma_sign": None if sign is None else _SIGN_WORDS[int(sign)],
                "gamma_total_abs": total,
                "per_index": per_index,
                "regime_agreement": "single" if len(numbers) < len(CHAINS) else "agree" if len(said) == 1 else "disagree",
                "quality": {"rankability": "rankable" if ranked else "not_rankable"},
                "summary": {
                    "zero_gamma_status": "crossing" if gaps else "no_crossing",
                    "regime": "unknown" if sign is None else {1: "positive", -1: "negative", 0: "flat"}[int(sign)],
                    "confidence": "degraded" if broken else "medium" if alone else "high",
                },
            },
        }
        values = {"gap_pct": gap, "gamma_sign": sign, "gamma_total_abs": total}
        if not ranked:
            values = dict.fromkeys(values)
        old = any(leg.day is None or leg.day < at.session for leg in good.values())
        return self._row(at, GAMMA, good, values, missing, envelope, "stale" if old else None)

    def _breadth(self, at: _At) -> tuple[RowInput, str | None]:
        seen = self._seen(CLOSES, at.now_ns, at.bands)
        found = seen.doc.get("breadth", {}).get(str(at.bands.breadth_mean_bars))
        if found is None:
            return self._row(at, BREADTH, {CLOSES: seen}, {}, ("pct_above_50dma",), {"state": "cold"})
        counted, members = found["counted"], found["members"]
        state = "computing" if not counted else "ready" if counted * 100 >= at.bands.breadth_min_coverage_pct * members else "degraded"
        usable = seen.status in ("ok", "stale")
        pct = found["pct"] if counted and usable else None
        envelope = {"state": state if usable else "error", "pct_above_50dma": pct, "counted": counted, "members": members}
        status = None
        if usable and state == "computing":
            status = "computing"
        elif usable and seen.day is not None:
            ended = at.sessions.closes_ns(seen.day)
            limit = at.bands.breadth_stale_hours * HOUR_NS
            status = "stale" if at.now_ns - ended > limit else None
        return self._row(
            at, BREADTH, {CLOSES: seen}, {"pct_above_50dma": pct}, () if pct is not None else ("pct_above_50dma",), envelope, status
        )

    # ---- out

    def build(self, policy: RiskPolicy, now_ns: int) -> Regime:
        """Return the dashboard of a profile at a time, and remember what its gates must (canary §5, §6). Asking twice changes nothing."""
        measured = self.rows_of(policy, now_ns)
        judged_by = self._print_of(policy)
        rows: dict[str, RowInput] = {}
        dates: dict[str, tuple[str | None, str | None]] = {}
        warnings: list[dict[str, Any]] = []
        for name, (row, day) in measured.items():
            key = f"row|{policy.profile}|{name}"
            memory = self._doc(key)
            if memory is not None and memory.get("policy") != judged_by:
                memory = None  # judged by other levels: lost state counts as the first session
            rows[name], kept = gated(name, row, policy, memory, day, now_ns)
            if kept is not None:
                self.docs.put(key, kept | {"policy": judged_by})
            held_date = kept["date"] if rows[name].band_held and kept is not None else None
            dates[name] = (day, held_date)
            if rows[name].band_held:
                warnings.append(
                    {
                        "code": "band_held",
                        "scope": name,
                        "severity": "warning",
                        "message": f"{name} cannot be measured; its last band is shown",
                        "impact": "may not confirm",
                        "action": "look at its feed",
                    }
                )
        sessions = Sessions(self._doc("sessions") or {}, policy.policy.freshness)
        today = new_york_date(now_ns)
        quality: list[dict[str, Any]] = []
        gamma, breadth = rows[GAMMA].envelope or {}, rows[BREADTH].envelope or {}
        if gamma.get("result", {}).get("summary", {}).get("confidence") == "degraded":
            quality.append({"surface": "gamma", "status": "degraded", "degraded_clusters": ["gamma"]})
        if breadth.get("state") == "degraded":
            quality.append({"surface": "breadth", "status": "degraded", "degraded_clusters": ["breadth"]})
        regime = RegimeInput(
            rows=rows,
            spy_change_pct=rows[HYG].value("spy_change_pct"),
            vix_change_pct=rows[VIX_TERM].value("vix_change_pct"),
            as_of_ns=now_ns,
            session_date=sessions.current(now_ns),
            closed=not sessions.is_open(today),
            warnings=tuple(warnings),
            data_quality=tuple(quality),
        )
        view = market_of(regime, policy, now_ns)
        regime = replace(regime, lifecycle=view.lifecycle, composite=view.composite, source_health=view.source_health)
        print_, lifecycle_print = self._keys(regime, view)
        return _message(regime, view, policy, judged_by, dates, print_, lifecycle_print, now_ns)


@dataclass(frozen=True, slots=True)
class _At:
    """For whom and when a row is made. session: the date whose day changes count."""

    policy: RiskPolicy
    now_ns: int
    sessions: Sessions
    session: str

    @property
    def bands(self) -> Bands:
        return self.policy.policy.bands


def _message(
    regime: RegimeInput,
    view: MarketView,
    policy: RiskPolicy,
    policy_print: str,
    dates: Mapping[str, tuple[str | None, str | None]],
    key: Fingerprint,
    lifecycle_key: Fingerprint,
    now_ns: int,
) -> Regime:
    lifecycle = view.lifecycle
    return Regime(
        profile=policy.profile,
        policy_version=policy.version,
        policy_fingerprint=policy_print,
        as_of_ns=now_ns,
        session_date=regime.session_date,
        closed=regime.closed,
        rows=[_row_message(name, row, policy, *dates[name], view.eligibility.get(name)) for name, row in regime.rows.items()],
        spy_change_pct=regime.spy_change_pct,
        vix_change_pct=regime.vix_change_pct,
        composite=Composite(**view.composite),
        lifecycle=Lifecycle(
            stage=lifecycle["stage"],
            severity=lifecycle["severity"],
            readiness=lifecycle["readiness"],
            timing=lifecycle["timing"],
            confidence=lifecycle["confidence"],
            confirmed_by=lifecycle["confirmed_by"],
            unconfirmed=lifecycle["unconfirmed"],
            suppressed=lifecycle["suppressed"],
            rejected_by=lifecycle["rejected_by"],
            evidence=[Evidence(**item) for item in lifecycle["evidence"]],
            governors=[Governor.model_validate(item) for item in lifecycle["governors"]],
            fingerprint=lifecycle_key,
        ),
        confidence=lifecycle["confidence"],
        score=view.score,
        score_terms=[{"id": i, "feature": feature, "value": value, "points": points} for i, feature, value, points in view.score_terms],
        source_health=[SourceHealth(**item) for item in view.source_health],
        warning_details=[RegimeWarning(**item) for item in regime.warnings],
        data_quality=[DataQuality(**item) for item in regime.data_quality],
        fingerprint=key,
    )


def _row_message(name: str, row: RowInput, policy: RiskPolicy, day: str | None, held: str | None, judged: str | None) -> RegimeRow:
    return RegimeRow(
        row=name,  # type: ignore[arg-type]  # one of ROWS
        band=row.band,  # type: ignore[arg-type]
        status=row.status,  # type: ignore[arg-type]
        as_of_ns=row.as_of_ns,
        as_of_date=day,
        fields_missing=list(row.fields_missing),
        freshness_class=row.freshness_class,
        depth=row.depth,
        sessions=row.sessions,
        eligibility=judged if policy.policy.switches.row_gates else None,
        band_held=row.band_held,
        held_date=held,
        values=dict(row.values),
        envelope=None if row.envelope is None else dict(row.envelope),
        why=_why(name, row, policy, day, held, judged),
    )


_TOLD = {
    VIX_TERM: ("VIX {vix} / VIX3M {vix3m} = {ratio}", ("vix", "vix3m", "ratio")),
    VVIX: ("VVIX close {last}", ("last",)),
    HYG: (
        "HYG {hyg_price}, mean {hyg_50dma}; SPY {spy_price}, 52-week high {spy_52w_high}",
        ("hyg_price", "hyg_50dma", "spy_price", "spy_52w_high"),
    ),
    OAS: ("HY OAS {hy_oas} %, change {hy_oas_20d_change} points", ("hy_oas", "hy_oas_20d_change")),
    FUNDING: ("CP {cp_3m_rate} % − bill {tbill_3m_rate} % = {spread_bps} bp", ("cp_3m_rate", "tbill_3m_rate", "spread_bps")),
    JPY: ("USD/JPY {last} after {close_7d_ago}: {weekly_change_pct} %", ("last", "close_7d_ago", "weekly_change_pct")),
    GAMMA: ("gap to the zero level {gap_pct} %, sign {gamma_sign}", ("gap_pct", "gamma_sign")),
    BREADTH: ("{pct_above_50dma} % of the members above their mean", ("pct_above_50dma",)),
}


def _edges(name: str, b: Bands) -> str:
    return {
        VIX_TERM: f"yellow from {b.vix_term_yellow:g}, red from {b.vix_term_red:g}",
        VVIX: f"yellow from {b.vvix_yellow:g}, red from {b.vvix_red:g}",
        HYG: f"yellow below the mean, red when SPY is also at {b.spy_near_high_ratio:g} of its high or above",
        OAS: f"yellow from {b.hy_oas_yellow_pct:g} or +{b.hy_oas_change_yellow_pts:g}, red from {b.hy_oas_red_pct:g} or +{b.hy_oas_change_red_pts:g}",
        FUNDING: f"yellow from {b.funding_yellow_bps:g}, red from {b.funding_red_bps:g}",
        JPY: f"yellow from −{b.usd_jpy_yellow_pct:g}, red from −{b.usd_jpy_red_pct:g}",
        GAMMA: f"yellow within ±{b.gamma_gap_pct:g}, red below or wholly short",
        BREADTH: f"green above {b.breadth_green_pct:g}, red below {b.breadth_red_pct:g}",
    }[name]


def _why(name: str, row: RowInput, policy: RiskPolicy, day: str | None, held: str | None, judged: str | None) -> str:
    """Return why a row has its band, in a sentence: its figures, the edges, and what a gate says of it."""
    text, fields = _TOLD[name]
    told = text.format(**{key: _figure(row.value(key)) for key in fields})
    parts = [f"{row.band or 'unranked'}: {told} ({_edges(name, policy.policy.bands)})"]
    if row.status != "ok":
        parts.append(f"status {row.status}")
    if day is not None:
        parts.append(f"of {day}")
    if row.band_held:
        parts.append(f"band held from {held}")
    elif row.band is not None and band_of(name, row, policy.policy.bands) != row.band:
        parts.append(f"measured {band_of(name, row, policy.policy.bands)}, but it has not left red yet")
    if row.freshness_class is not None:
        parts.append(f"data {row.freshness_class}")
    if judged is not None and policy.policy.switches.row_gates:
        parts.append(f"red {judged}, session {row.sessions}, depth {_figure(row.depth)}")
    return "; ".join(parts)


def _figure(value: float | None) -> str:
    return "?" if value is None else f"{value:.6g}"


def _missing(values: Mapping[str, float | None], fields: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for name in fields if values.get(name) is None)


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _gamma_doc(found: Any) -> dict[str, Any]:
    return {
        "status": found.status,
        "gap_pct": _known(found.gap_pct),
        "zero": _known(found.zero),
        "gamma_sign": _SIGN_WORDS[int(found.sign)],
        "gamma_total_abs": _known(found.total_abs),
        "rankability": found.rankability,
        "reasons": list(found.reasons),
        "used": found.n_used,
        "dropped": found.n_dropped,
    }


def _breadth_doc(matrix: Any, bars: int, members: int) -> dict[str, Any]:
    pct, counted = pct_above_mean(matrix, bars)
    return {"pct": _known(float(pct)), "counted": int(counted), "members": members}


def _date_problem(day: str) -> bool:
    try:
        return date.fromisoformat(day).isoformat() != day
    except ValueError:
        return True


def _problem(seen: Indicator) -> Problem | None:
    """Return why an observation of a known indicator cannot be used."""
    name = seen.indicator
    carried = {"value": seen.value, "chain": seen.chain, "closes": seen.closes, "open": seen.open}
    wanted = "chain" if name in CHAINS else "closes" if name == CLOSES else "value"
    wrong = sorted(key for key, item in carried.items() if item is not None and key != wanted)
    if wrong:
        return Reason.field_invalid, f"{name} carries {', '.join(wrong)}; it must carry {wanted}"
    if carried[wanted] is None and seen.status == "ok":
        return Reason.field_missing, f"{name} is ok but has no {wanted}"
    if seen.value is not None and name in POSITIVE and seen.value <= 0:
        return Reason.field_invalid, f"{name} must be above zero, not {seen.value}"
    for key in ("prev_close", "high_52w"):
        value = getattr(seen, key)
        if value is not None and value <= 0:
            return Reason.field_invalid, f"{name}: {key} must be above zero, not {value}"
    if seen.as_of_date is not None and _date_problem(seen.as_of_date):
        return Reason.field_invalid, f"{name}: {seen.as_of_date} is no date"
    return None


def shape_of(regime: Regime, view: MarketView, policy: RiskPolicy) -> str:
    """Return a hash of all that readers of a dashboard act on: when it changes the dashboard is published at once, else with the heartbeat."""
    p = policy.policy
    spy, vix = view.spy, view.vix
    tape = [
        *(None if spy is None else spy <= level for level in (p.spy_drop_pct, p.spy_hard_drop_pct, p.spy_crash_pct)),
        *(None if spy is None else spy >= level for level in (p.spy_rally_pct, p.spy_hard_rally_pct)),
        *(None if vix is None else vix >= level for level in (p.vix_spike_pct, p.vix_hard_spike_pct)),
        *(None if vix is None else vix <= level for level in (p.vix_crush_pct, p.vix_hard_crush_pct)),
    ]
    told = [
        regime.fingerprint.key, regime.lifecycle.fingerprint.key if regime.lifecycle.fingerprint else "", regime.policy_fingerprint, view.governed_severity,
        regime.closed, tape, view.eligibility, view.classes, view.confirming, view.provisional, view.fast_carry, view.confirmed_tape, view.stressed,
        view.selloff_by_market, view.spike_confirmed, view.stress_confirmed, view.stress_early, view.score,
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def view_of(regime: Regime, policy: RiskPolicy, now_ns: int) -> MarketView:
    """Return the market of a dashboard as its readers see it."""
    return market_of(from_message(regime), policy, now_ns)
