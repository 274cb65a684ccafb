"""What the sentinel must say, slowly: one snapshot at a time, plain dicts and exact fractions, one rule after the other as they are written down.

Shares nothing with the operators but the policy file. A snapshot is three dicts (account, positions, regime) with plain numbers and ISO times.
Not here: prose, the builder's memory (hysteresis, sessions, latches: rows carry their eligibility), windows, the monitor.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any
from zoneinfo import ZoneInfo

from schemas.policy import RiskPolicy

Json = dict[str, Any]

CLUSTERS = ["vol", "credit", "funding", "fx", "gamma", "breadth"]
MEMBERS = {
    "vol": ["vix_term_structure", "vol_of_vol"],
    "credit": ["hyg_spy_divergence", "credit_spreads"],
    "funding": ["funding_stress"],
    "fx": ["usd_jpy"],
    "gamma": ["gamma_zero"],
    "breadth": ["breadth"],
}
ROWS = [row for cluster in CLUSTERS for row in MEMBERS[cluster]]
BAND_RANK = {"green": 1, "yellow": 2, "red": 3}
STATUS_RANK = {"ok": 0, "stale": 1, "computing": 2, "unavailable": 3, "error": 4}
CLASS_RANK = {"fresh": 0, "not_due": 1, "pending": 2, "stale": 3, "overdue": 4}
SEVERITIES = ["observe", "watch", "act", "urgent"]
POSTURES = {
    "defensive": "threat", "constructive": "opportunity", "rebalance": "rebalance", "mixed": "threat_opportunity",
    "data_quality": "confirm_data", "": "neutral",
}  # fmt: skip
SIGNAL_SOURCES = {
    "margin_cushion_low": "margin", "lookahead_cushion_low": "margin",
    "gross_exposure_high": "portfolio_exposure", "net_delta_high": "portfolio_exposure", "gross_delta_high": "portfolio_exposure",
    "single_name_exposure_high": "concentration", "single_name_delta_high": "concentration",
    "option_greeks_degraded": "options", "short_convexity_high": "options",
    "risk_data_degraded": "data_quality", "market_data_stale": "data_quality",
    "regime_stress_confirmed": "regime", "fx_carry_unwind": "regime", "regime_stress_early": "regime", "gamma_red": "regime",
}  # fmt: skip
NEW_YORK = ZoneInfo("America/New_York")
STABILITY = "semantic_buckets_only"


# --- values -----------------------------------------------------------------------------------------------------------------------


def num(value: Any) -> Fraction | None:
    """Return a JSON number exactly as it is written; None for none."""
    return None if value is None or isinstance(value, bool) else Fraction(repr(value))


def at_most(value: Fraction | None, level: Any) -> bool:
    return value is not None and value <= num(level)  # type: ignore[operator]


def at_least(value: Fraction | None, level: Any) -> bool:
    return value is not None and value >= num(level)  # type: ignore[operator]


def below(value: Fraction | None, level: Any) -> bool:
    return value is not None and value < num(level)  # type: ignore[operator]


def above(value: Fraction | None, level: Any) -> bool:
    return value is not None and value > num(level)  # type: ignore[operator]


def time_ns(value: Any) -> int | None:
    """Return an ISO time, or the `time` (else the `date`) of a {label, time, date}, in nanoseconds."""
    if isinstance(value, Mapping):
        value = value.get("time") or value.get("date")
    if not value:
        return None
    moment = datetime.fromisoformat(value.replace("Z", "+00:00"))
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    since = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * 10**9 + since.microseconds * 1_000


def worst(*severities: str) -> str:
    return max(severities, key=SEVERITIES.index, default="observe")


# --- rows: bands from raw values ------------------------------------------------------------------------------------------------


def band_of(row: str, values: Mapping[str, Any], policy: RiskPolicy) -> str | None:
    """Return the band of a row from its raw values, None if they do not say."""
    edges = policy.policy.bands
    if row == "vix_term_structure":
        ratio = vix_term(values)
        return None if ratio is None else upward(ratio, edges.vix_term_yellow, edges.vix_term_red)
    if row == "vol_of_vol":
        last = num(values.get("last"))
        return None if last is None else upward(last, edges.vvix_yellow, edges.vvix_red)
    if row == "hyg_spy_divergence":
        price, mean = num(values.get("hyg_price")), num(values.get("hyg_50dma"))
        if price is None or mean is None:
            return None
        if price >= mean:
            return "green"
        spy, high = num(values.get("spy_price")), num(values.get("spy_52w_high"))
        if spy is None or high is None:
            return None
        return "red" if spy >= num(edges.spy_near_high_ratio) * high else "yellow"  # type: ignore[operator]
    if row == "credit_spreads":
        level, change = num(values.get("hy_oas")), num(values.get("hy_oas_20d_change"))
        if level is None:
            return None
        if at_least(level, edges.hy_oas_red_pct) or at_least(change, edges.hy_oas_change_red_pts):
            return "red"
        return "yellow" if at_least(level, edges.hy_oas_yellow_pct) or at_least(change, edges.hy_oas_change_yellow_pts) else "green"
    if row == "funding_stress":
        spread = funding_bps(values)
        return None if spread is None else upward(spread, edges.funding_yellow_bps, edges.funding_red_bps)
    if row == "usd_jpy":
        move = yen_move(values)
        return None if move is None else upward(move, edges.usd_jpy_yellow_pct, edges.usd_jpy_red_pct)
    if row == "gamma_zero":
        envelope = values.get("envelope") or {}
        if envelope.get("status") != "ready":
            return None
        result = envelope.get("result") or {}
        gap, sign, edge = num(result.get("gap_pct")), num(result.get("gamma_sign")), num(edges.gamma_gap_pct)
        if gap is None:
            return {1: "green", -1: "red"}.get(0 if sign is None else (sign > 0) - (sign < 0))
        return "green" if gap > edge else "red" if gap < -edge else "yellow"  # type: ignore[operator]
    envelope = values.get("envelope") or {}
    value = num(envelope.get("pct_above_50dma"))
    if envelope.get("state") != "ready" or value is None:
        return None
    return "green" if above(value, edges.breadth_green_pct) else "red" if below(value, edges.breadth_red_pct) else "yellow"


def upward(value: Fraction, yellow: Any, red: Any) -> str:
    return "red" if at_least(value, red) else "yellow" if at_least(value, yellow) else "green"


def vix_term(values: Mapping[str, Any]) -> Fraction | None:
    vix, vix3m = num(values.get("vix")), num(values.get("vix3m"))
    return vix / vix3m if vix is not None and vix3m else num(values.get("ratio"))


def funding_bps(values: Mapping[str, Any]) -> Fraction | None:
    paper, bill = num(values.get("cp_3m_rate")), num(values.get("tbill_3m_rate"))
    return (paper - bill) * 100 if paper is not None and bill is not None else num(values.get("spread_bps"))


def yen_move(values: Mapping[str, Any]) -> Fraction | None:
    """Return how much stronger the yen got in a week, in percent."""
    last, before, change = num(values.get("last")), num(values.get("close_7d_ago")), num(values.get("weekly_change_pct"))
    if last is not None and before:
        return -(last - before) / before * 100
    return None if change is None else -change


RAW = {
    "vix_term_structure": ["vix", "vix3m", "ratio"],
    "vol_of_vol": ["last"],
    "hyg_spy_divergence": ["hyg_price", "hyg_50dma"],
    "credit_spreads": ["hy_oas", "hy_oas_20d_change"],
    "funding_stress": ["cp_3m_rate", "tbill_3m_rate", "spread_bps"],
    "usd_jpy": ["last", "close_7d_ago", "weekly_change_pct"],
}


def rebanded(regime: Json, policy: RiskPolicy) -> Json:
    """Return a snapshot with each row that has raw values banded anew from them, if its status allows a band; without a status it is `ok`.

    Rows without raw values and held bands stay as they are.
    """
    again = {name: value for name, value in regime.items() if name not in ("composite", "lifecycle")}
    for row in ROWS:
        values = dict(regime.get(row) or {})
        if row == "gamma_zero":
            has = any(dig(values, "envelope", "result", f) is not None for f in ("gap_pct", "gamma_sign"))
        elif row == "breadth":
            has = dig(values, "envelope", "pct_above_50dma") is not None
        else:
            has = any(values.get(f) is not None for f in RAW[row])
        if has and not values.get("band_held"):
            values["status"] = values.get("status") or "ok"
            allowed = values["status"] == "ok" or (values["status"] == "stale" and row != "gamma_zero")
            values["band"] = band_of(row, values, policy) if allowed else None
        again[row] = values
    return again


def gate(row: str, policy: RiskPolicy, freshness: str | None, depth: float | None, sessions: int, latched: bool) -> str:
    """Return whether a red row may confirm: `eligible`, or the first reason why not."""
    late = {"fresh": "", "not_due": "data_not_due", "pending": "data_refresh_pending", "stale": "data_stale"}.get(
        freshness or "", "data_overdue"
    )
    if late:
        return late
    rule = getattr(policy.policy.gates, row)
    deep = num(depth)
    if latched or (rule.fast_depth is not None and at_least(deep, rule.fast_depth)):
        return "eligible"
    if rule.min_depth is not None:
        if deep is None:
            return "depth_missing"
        if below(deep, rule.min_depth):
            return "depth_below_min"
    return "eligible" if sessions >= rule.sessions else f"streak_{sessions}_of_{rule.sessions}"


def combined_gamma(legs: Iterable[tuple[str, float]], bands: Mapping[str, str], policy: RiskPolicy) -> str:
    """Return the band of several indices' gamma: (index, gross gamma) and each one's band."""
    legs = list(legs)
    if len({bands[name] for name, _ in legs}) == 1:
        return bands[legs[0][0]]
    total = sum(Fraction(repr(gross)) for _, gross in legs)
    red = sum(Fraction(repr(gross)) for name, gross in legs if bands[name] == "red")
    return "red" if total and red * 100 >= num(policy.policy.bands.gamma_dominant_pct) * total else "yellow"  # type: ignore[operator]


# --- the market's side ------------------------------------------------------------------------------------------------------------


class Row:
    """A row of the dashboard as delivered: its band, how fresh it is, and whether its red may confirm."""

    def __init__(self, name: str, given: Mapping[str, Any] | None, policy: RiskPolicy, now_ns: int) -> None:
        given = given or {}
        self.name, self.given = name, given
        self.band: str | None = given.get("band") if given.get("band") in BAND_RANK else None
        said = given.get("status")
        # Of a row that does not say how it is, a band says that it was measured; how fresh it is nobody knows.
        self.status: str = said if said in STATUS_RANK else "ok" if self.band else "unavailable"
        word, seen = given.get("freshness_class"), time_ns(given.get("as_of"))
        cluster = next(c for c in CLUSTERS if name in MEMBERS[c])
        longest = getattr(policy.policy.freshness, f"max_age_{cluster}_days") * 86_400 * 10**9
        late = seen is not None and now_ns - seen > longest
        self.freshness = word if word in CLASS_RANK and said in ("ok", "stale") and not late else "overdue"
        # A held band, or one on data that is not the newest, may warn but not confirm, whatever else the row says.
        may = given.get("eligibility") or gate(name, policy, self.freshness, given.get("depth"), given.get("sessions") or 1, False)
        held = bool(given.get("band_held"))
        self.eligible = self.band == "red" and may == "eligible" and self.freshness == "fresh" and not held


def market(regime: Json | None, policy: RiskPolicy, now_ns: int) -> Json:
    """Return what the market's side comes to: bands, counts, verdict, lifecycle and the tape rules."""
    rule = policy.policy
    switches, stages = rule.switches, rule.stages
    given = regime or {}
    rows = {name: Row(name, given.get(name), policy, now_ns) for name in ROWS}
    guarded = switches.row_gates
    raw: dict[str, str | None] = {}
    for cluster in CLUSTERS:
        bands = [rows[r].band for r in MEMBERS[cluster] if rows[r].band]
        raw[cluster] = max(bands, key=lambda b: BAND_RANK[b or ""]) if bands else None

    def confirms(cluster: str, band: str | None) -> bool:
        """Return whether a cluster of this band counts as red when it comes to confirming."""
        return band == "red" and (not guarded or any(rows[r].eligible for r in MEMBERS[cluster]))

    spy_said = num((given.get("hyg_spy_divergence") or {}).get("spy_change_pct"))
    vix_said = num((given.get("vix_term_structure") or {}).get("vix_change_pct"))
    weekend = datetime.fromtimestamp(now_ns // 10**9, UTC).astimezone(NEW_YORK).weekday() >= 5
    closed_date = bool(given.get("closed")) or weekend
    closed = switches.closed_date_tape_off and closed_date
    spy, vix = (None, None) if closed else (spy_said, vix_said)

    served = dict(raw)
    downgraded = []
    if rows["hyg_spy_divergence"].band == "red" and rows["credit_spreads"].band != "red":
        if not any(confirms(c, raw[c]) for c in CLUSTERS if c != "credit"):
            served["credit"] = "yellow"
            downgraded.append("credit")
    if raw["fx"] == "red" and not any(confirms(c, raw[c]) for c in CLUSTERS if c != "fx"):
        served["fx"] = "yellow"
        downgraded.append("fx")
    if raw["vol"] == "red" and not any(confirms(c, served[c]) for c in CLUSTERS if c != "vol"):
        vvix = num(rows["vol_of_vol"].given.get("last"))
        alone = rows["vix_term_structure"].band != "red" and not at_least(vvix, rule.downgrades.vvix_red_alone)
        if alone and not at_least(vix, rule.downgrades.vix_day_pct) and not at_most(spy, rule.downgrades.spy_day_pct):
            served["vol"] = "yellow"
            downgraded.append("vol")

    reds = [c for c in CLUSTERS if served[c] == "red"]
    yellows = [c for c in CLUSTERS if served[c] == "yellow"]
    ranked = [c for c in CLUSTERS if served[c]]
    gated = [c for c in reds if confirms(c, served[c])]
    provisional = [c for c in CLUSTERS if raw[c] == "red" and c not in gated] if guarded else []
    unconfirmed = sorted({*downgraded, *provisional})
    freshness = {c: max((rows[r].freshness for r in MEMBERS[c]), key=CLASS_RANK.__getitem__) for c in CLUSTERS}
    # What is overdue may not even warn: such a cluster says what its other rows say.
    speaking = {}
    for c in CLUSTERS:
        fit = [rows[r].band for r in MEMBERS[c] if rows[r].band and not (switches.freshness_classes and rows[r].freshness == "overdue")]
        loudest = max(fit, key=lambda b: BAND_RANK[b or ""]) if fit else None
        speaking[c] = served[c] if loudest == "red" else loudest if switches.freshness_classes else served[c]
    warning_reds = [
        c for c in unconfirmed
        if any(rows[r].band == "red" and not (switches.freshness_classes and rows[r].freshness == "overdue") for r in MEMBERS[c])
    ]  # fmt: skip

    def warned(without: Iterable[str] = ()) -> int:
        """Return how many clusters count in a test for yellows: the yellow ones, and where a red counts too also those."""
        if switches.count_at_least_yellow:
            return sum(speaking[c] in ("yellow", "red") for c in CLUSTERS if c not in without)
        return sum(c not in without for c in yellows)

    yellowish = warned()
    weakest = {c: max((rows[r].status for r in MEMBERS[c]), key=lambda s: STATUS_RANK.get(s, 4)) for c in CLUSTERS}
    ambiguous = sorted(c for c in CLUSTERS if not raw[c])
    # A row that says it was measured and has no band: nobody knows why, so it is a gap where gaps are states.
    silent = {
        c for c in CLUSTERS if switches.missing_is_state and any(rows[r].status in ("ok", "stale") and not rows[r].band for r in MEMBERS[c])
    }
    partial = sorted(c for c in CLUSTERS if raw[c] and (c in silent or weakest[c] not in ("ok", "stale")))
    computing = sorted(c for c in CLUSTERS if weakest[c] == "computing")
    stale = sorted(c for c in CLUSTERS if weakest[c] == "stale")
    summary = dig(rows["gamma_zero"].given, "envelope", "result", "summary") or {}
    degraded = ["gamma"] if clean(summary.get("confidence")) == "degraded" else []
    data_issue = bool(ambiguous or partial or computing or stale or degraded)

    score, terms = None, []
    if rule.confirmation is not None:
        terms = [(t.id, points(t, feature(t.feature, rows, spy, vix))) for t in rule.confirmation.terms]
        score = sum((Fraction(repr(p)) for _, p in terms), Fraction(0))
    counts = len(gated)
    confirming = gated
    if score is None:
        any_red, two_red, three_red = counts >= 1, counts >= rule.rules.stressed_reds, counts >= rule.rules.panic_reds
    else:
        levels = rule.confirmation
        assert levels is not None
        any_red = two_red = at_least(score, levels.act)
        three_red = at_least(score, levels.urgent)
        confirming = gated if any_red else []

    # The market's own lifecycle.
    unconfigured = set(switches.not_configured_clusters)
    defects = [c for c in CLUSTERS if freshness[c] == "overdue" and c not in unconfigured] if switches.freshness_classes else []
    impaired = [c for c in CLUSTERS if freshness[c] == "stale" and c not in unconfigured] if switches.freshness_classes else []

    def select(without: Iterable[str] = (), unproven: Iterable[str] = ()) -> str:
        """Return the stage that follows from all clusters but those, where some reds do not confirm: the first that matches."""
        n = sum(c not in without and c not in unproven for c in gated)
        many = warned(without)
        if len(ranked) < stages.min_ranked:
            return "data_quality"
        if score is not None:
            assert rule.confirmation is not None
            for level, stage in (
                (rule.confirmation.urgent, "panic"), (rule.confirmation.act, "confirmed_stress"), (rule.confirmation.watch, "early_warning")
            ):  # fmt: skip
                if at_least(score, level):
                    return stage
        else:
            if n >= stages.panic_reds or (at_most(spy, stages.panic_red_spy_pct) and n >= 1) or at_most(spy, stages.panic_spy_pct):
                return "panic"
            if (
                n >= stages.confirmed_reds
                or (n >= 1 and at_most(spy, stages.confirmed_red_spy_pct))
                or (at_most(spy, stages.confirmed_yellow_spy_pct) and many >= stages.confirmed_yellows)
                or (n >= 1 and at_least(vix, stages.confirmed_red_vix_pct))
            ):
                return "confirmed_stress"
            if (
                n >= stages.early_reds
                or many >= stages.early_yellows
                or any(c not in without for c in warning_reds)
                or at_most(spy, stages.early_spy_pct)
                or at_least(vix, stages.early_vix_pct)
            ):
                return "early_warning"
        few, rally, crush = len(yellows), at_least(spy, stages.opportunity_spy_pct), at_most(vix, stages.opportunity_vix_pct)
        if not reds and few <= stages.opportunity_max_yellows and rally and crush:
            return "opportunity"
        calmer = at_least(spy, stages.stabilization_spy_pct) or at_most(vix, stages.stabilization_vix_pct)
        return "stabilization" if not reds and 1 <= few <= stages.stabilization_max_yellows and calmer else "quiet"

    stage, broken = select(), False
    if switches.freshness_classes and stage != "data_quality":
        # A stage may not rest on defective clusters: without them a confirmation may be a lesser one, anything else is unknown.
        kept = select(defects)
        serious = ("confirmed_stress", "panic")
        broken = len(defects) + len(impaired) >= rule.freshness.defects_for_data_quality
        broken = broken or (kept not in serious if stage in serious else kept != stage)
        stage = "data_quality" if broken else kept
    severity, readiness, timing = {
        "data_quality": ("watch", "blocked", "data_quality"),
        "panic": ("urgent", "ready", "contemporaneous"),
        "confirmed_stress": ("act", "ready", "contemporaneous"),
        "early_warning": ("watch", "ready", "forward_warning"),
        "opportunity": ("watch", "ready", "recovery"),
        "stabilization": ("observe", "ready", "recovery"),
        "quiet": ("observe", "ready", "current"),
    }[stage]
    said = clean((given.get("summary") or {}).get("confidence"))
    confidence = said or ("low" if len(ranked) < stages.min_ranked else "medium" if len(ranked) < len(CLUSTERS) else "high")
    if broken:
        confidence = "low"
    elif stage != "data_quality" and len(defects) + len(impaired) == 1:
        readiness = "degraded"
        confidence = {"high": "medium"}.get(confidence, confidence)

    not_current = [c for c in confirming if freshness[c] != "fresh"] if switches.freshness_classes else []
    if switches.severity_governor and stage in ("confirmed_stress", "panic") and not at_most(spy, rule.governor.exempt_spy_pct):
        term = rows["vix_term_structure"]
        cosigned = (
            at_most(spy, rule.governor.cosign_spy_pct)
            or at_least(vix, rule.governor.cosign_vix_pct)
            or (term.freshness == "fresh" and at_least(vix_term(term.given), rule.governor.cosign_vix_term))
        )
        full = {"confirmed_stress": "act", "panic": "urgent"}

        def governed_of(stage: str, by: list[str]) -> str:
            """Return the severity of a stage that those clusters confirm: one less where heuristic levels have no co-sign."""
            heuristic = any(rows[r].eligible and getattr(rule.gates, r).pending_backtest for c in by for r in MEMBERS[c])
            return SEVERITIES[SEVERITIES.index(full[stage]) - (heuristic and not cosigned)]

        severity = governed_of(stage, confirming)
        if not_current:
            # What current data confirm without the others stays confirmed: one more red may not make the market calmer.
            rest = select(unproven=not_current)
            cap = governed_of(rest, [c for c in confirming if c not in not_current]) if rest in full else "watch"
            severity = min(severity, cap, key=SEVERITIES.index)

    verdict = None
    if not ranked:
        verdict = "No ranked indicators — see rows below for state"
    elif len(ranked) < stages.min_ranked:
        verdict = "Insufficient signal — too few indicators ranked"
    elif guarded and stage == "data_quality":
        verdict = "Market state undefined"
    elif counts == len(CLUSTERS):
        verdict = "Full risk-off conditions"
    elif counts >= stages.broad_reds:
        verdict = "Broad stress regime"
    elif guarded and stage == "confirmed_stress":
        verdict = "Confirmed stress regime"
    elif counts >= 1:
        verdict = "Stress signal present"
    elif yellowish >= stages.elevated_yellows:
        verdict = "Elevated stress watch"
    else:
        verdict = "Normal regime"

    # The tape rules of the account's side.
    carry = raw["fx"] == "red" and (not guarded or rows["usd_jpy"].freshness == "fresh")
    carry = carry and (at_most(spy, rule.spy_drop_pct) or at_least(vix, rule.vix_spike_pct) or speaking["breadth"] in ("yellow", "red"))
    tape = (
        (at_most(spy, rule.spy_hard_drop_pct) and (at_least(vix, rule.vix_spike_pct) or any_red))
        or (at_least(vix, rule.vix_hard_spike_pct) and (at_most(spy, rule.spy_drop_pct) or any_red))
        or (at_most(spy, rule.spy_drop_pct) and at_least(vix, rule.vix_spike_pct) and any_red)
        or carry
    )
    governed = SEVERITIES.index(severity) >= SEVERITIES.index("act") or not switches.severity_governor
    selloff = (at_most(spy, rule.spy_drop_pct) and at_least(vix, rule.vix_spike_pct)) or any_red
    spike = at_most(spy, rule.spy_drop_pct) or any_red
    if score is None:
        stressed = (two_red and governed) or tape
        confirmed = counts >= rule.rules.stressed_reds and len(ranked) >= rule.rules.stress_min_ranked
        # One red beside at least one other cluster that is yellow (or worse, where a red counts as a yellow).
        others = yellowish - (counts if switches.count_at_least_yellow else 0)
        filtered = counts == 1 and others >= 1
        loose = [c for c in provisional if c in warning_reds]
        early = filtered or (guarded and len(loose) >= rule.rules.guarded_provisional_reds)
        threshold, seen, early_threshold = num(rule.rules.stressed_reds), Fraction(counts or len(loose)), Fraction(1)
    else:
        # With a score, the score alone confirms.
        assert rule.confirmation is not None
        carry, tape = carry and any_red, tape and any_red
        stressed = selloff = spike = confirmed = any_red
        filtered = early = at_least(score, rule.confirmation.watch) and not any_red
        threshold, seen, early_threshold = num(rule.confirmation.act), score, num(rule.confirmation.watch)  # type: ignore[assignment]
    row_counts = {b: sum(row.band == b for row in rows.values()) for b in BAND_RANK}
    composite = {
        "verdict": verdict,
        **{f"{b}_count": row_counts[b] for b in ("green", "yellow", "red")},
        "ranked_count": sum(row_counts.values()), "unranked_count": len(ROWS) - sum(row_counts.values()),
        **{f"cluster_{b}_count": sum(served[c] == b for c in CLUSTERS) for b in ("green", "yellow", "red")},
        "cluster_ranked_count": len(ranked), "cluster_unranked_count": len(CLUSTERS) - len(ranked),
    }  # fmt: skip
    evidence = []
    for c in ranked:
        up = c in gated
        evidence.append({
            "source": c, "signal": "cluster", "bucket": raw[c], "timing": "contemporaneous" if up else "forward_warning",
            "severity": "act" if up else "watch", "confirmed": up,
        })  # fmt: skip
    for name, value, red, yellow, hit in (
        ("spy", spy, stages.evidence_spy_red_pct, stages.evidence_spy_yellow_pct, at_most),
        ("vix", vix, stages.evidence_vix_red_pct, stages.evidence_vix_yellow_pct, at_least),
    ):
        if value is None:
            continue
        bucket, when, how = (
            ("red", "contemporaneous", "act") if hit(value, red)
            else ("yellow", "forward_warning", "watch") if hit(value, yellow) else ("green", "current", "observe")
        )  # fmt: skip
        evidence.append({"source": name, "signal": "tape", "bucket": bucket, "timing": when, "severity": how, "confirmed": bucket == "red"})
    lifecycle = {
        "stage": stage, "severity": severity, "readiness": readiness, "timing": timing, "confidence": confidence, "evidence": evidence,
        "confirmed_by": confirming, "unconfirmed": unconfirmed, "suppressed": unconfirmed if stage in ("quiet", "opportunity", "stabilization") else [],
        "rejected_by": yellows if stage == "quiet" else [],
    }  # fmt: skip
    return {
        "rows": rows, "raw": raw, "served": served, "composite": composite, "lifecycle": lifecycle, "score": score, "score_terms": terms,
        "reds": reds, "yellows": yellows, "ranked": ranked, "confirming": confirming, "provisional": provisional, "unconfirmed": unconfirmed,
        "ambiguous": ambiguous, "partial": partial, "computing": computing, "stale": stale, "degraded": degraded, "data_issue": data_issue,
        "spy": spy, "vix": vix, "closed": closed, "closed_date": closed_date, "freshness": freshness,
        "defects": defects, "impaired": impaired, "not_current": sorted(not_current),
        "fast_carry": bool(carry), "confirmed_tape": bool(tape), "stressed": bool(stressed), "selloff": bool(selloff), "spike": bool(spike),
        "confirmed": bool(confirmed), "filtered": bool(filtered), "early": bool(early), "threshold": threshold, "seen": seen,
        "early_threshold": early_threshold, "any_red": any_red, "two_red": two_red, "three_red": three_red, "governed": governed,
        "deteriorating": yellowish >= rule.rules.early_yellows, "n_red": len(reds), "n_confirming": counts,
        "gamma_red": served["gamma"] == "red" and not (switches.freshness_classes and freshness["gamma"] == "overdue"),
    }  # fmt: skip


def dig(value: Any, *path: str) -> Any:
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def feature(name: str, rows: Mapping[str, Row], spy: Fraction | None, vix: Fraction | None) -> Fraction | None:
    """Return the value that a term of a score judges."""
    of = {r: rows[r].given for r in ROWS}
    hyg, high = of["hyg_spy_divergence"], num(of["hyg_spy_divergence"].get("spy_52w_high"))
    mean, hyg_price, spy_price = num(hyg.get("hyg_50dma")), num(hyg.get("hyg_price")), num(hyg.get("spy_price"))
    values = {
        "vix_term": vix_term(of["vix_term_structure"]),
        "vix": num(of["vix_term_structure"].get("vix")),
        "vvix": num(of["vol_of_vol"].get("last")),
        "vvix_change_20d_pct": num(of["vol_of_vol"].get("change_20d_pct")),
        "hyg_below_mean_pct": (mean - hyg_price) / mean * 100 if mean and hyg_price is not None else None,
        "spy_below_high_pct": (high - spy_price) / high * 100 if high and spy_price is not None else None,
        "spy_change_pct": spy,
        "vix_change_pct": vix,
        "hy_oas_pct": num(of["credit_spreads"].get("hy_oas")),
        "hy_oas_change_pts": num(of["credit_spreads"].get("hy_oas_20d_change")),
        "funding_bps": funding_bps(of["funding_stress"]),
        "yen_move_pct": yen_move(of["usd_jpy"]),
        "gamma_gap_pct": num(dig(of["gamma_zero"], "envelope", "result", "gap_pct")),
        "breadth_pct": num(dig(of["breadth"], "envelope", "pct_above_50dma")),
    }
    return values[name]


def points(term: Any, value: Fraction | None) -> float:
    """Return a term's points for a value: those of the last level that holds."""
    hit = at_least if term.side == "above" else at_most
    return max([0.0, *(float(p) for level, p in zip(term.levels, term.points, strict=True) if hit(value, level))])


# --- the account's side -----------------------------------------------------------------------------------------------------------


def margin_context(account: Mapping[str, Any]) -> bool:
    excess, free = num(account.get("excess_liquidity")), num(account.get("available_funds"))
    need, first = num(account.get("maintenance_margin")), num(account.get("initial_margin"))
    return below(excess, 0) or below(free, 0) or above(need, 0) or above(first, 0)


def metrics_of(account: Mapping[str, Any] | None, positions: Mapping[str, Any] | None) -> Json:
    """Return the metrics in percent of net liquidation; None for absent."""
    account, book = account or {}, (positions or {}).get("portfolio")
    out: Json = dict.fromkeys((
        "cushion_pct", "look_ahead_cushion_pct", "gross_exposure_pct_nlv", "net_delta_pct_nlv", "gross_delta_pct_nlv", "largest_exposure",
        "largest_exposure_pct_nlv", "largest_delta_exposure", "largest_delta_pct_nlv", "daily_pnl_pct_nlv", "greeks_pct", "gamma", "worst",
    ))  # fmt: skip
    total, covered = (book or {}).get("greeks_total") or 0, (book or {}).get("greeks_coverage") or 0
    out["greeks"] = f"{covered}/{total} legs"
    if total > 0:
        out["greeks_pct"] = Fraction(covered, total) * 100
    out["gamma"] = num((book or {}).get("gamma"))
    whole = num(account.get("net_liquidation"))
    if whole is None or whole <= 0:
        return out
    cushion, excess = num(account.get("cushion")), num(account.get("excess_liquidity"))
    if cushion:
        out["cushion_pct"] = cushion * 100
    elif excess:
        out["cushion_pct"] = excess / whole * 100
    elif margin_context(account):
        out["cushion_pct"] = Fraction(0)
    ahead = num(account.get("look_ahead_excess_liquidity"))
    if ahead:
        out["look_ahead_cushion_pct"] = ahead / whole * 100
    elif (
        above(num(account.get("look_ahead_maint_margin")), 0)
        or above(num(account.get("look_ahead_init_margin")), 0)
        or below(num(account.get("look_ahead_available_funds")), 0)
    ):
        out["look_ahead_cushion_pct"] = Fraction(0)
    out["worst"] = min((v for v in (out["cushion_pct"], out["look_ahead_cushion_pct"]) if v is not None), default=None)
    gross = num(account.get("gross_position_value"))
    if above(gross, 0):
        out["gross_exposure_pct_nlv"] = gross / whole * 100  # type: ignore[operator]
    pnl = num(account.get("daily_pnl"))
    if pnl is not None:
        out["daily_pnl_pct_nlv"] = pnl / whole * 100
    if book is None:
        return out
    delta = num(book.get("dollar_delta_base"))
    if delta is not None:
        out["net_delta_pct_nlv"] = abs(delta) / whole * 100
    names = book.get("exposure_base") or []
    deltas = [(n.get("underlying"), num(n.get("dollar_delta_base"))) for n in names]
    known = [(name, value) for name, value in deltas if value is not None]
    if known:
        out["gross_delta_pct_nlv"] = sum((abs(v) for _, v in known), Fraction(0)) / whole * 100
        name, value = max(known, key=lambda pair: abs(pair[1]))
        out["largest_delta_exposure"], out["largest_delta_pct_nlv"] = name, abs(value) / whole * 100
    shares = []
    for n in names:
        share, worth = num(n.get("market_value_pct_nlv")), num(n.get("market_value_base"))
        # A value without its percentage still says how large the name is.
        share = worth / whole * 100 if share is None and worth is not None else share
        if share is not None:
            shares.append((n.get("underlying"), share))
    if shares:
        out["largest_exposure"], out["largest_exposure_pct_nlv"] = max(shares, key=lambda pair: abs(pair[1]))
    return out


def missing_inputs(account: Json | None, positions: Json | None, regime: Json | None, got: Json, pnl_due: bool) -> list[str]:
    """Return what was not delivered, each cause by its name: inputs, and held names without a value or a delta."""
    out = []
    if account is None:
        out.append("account")
    else:
        if not above(num(account.get("net_liquidation")), 0):
            out.append("net_liquidation")
        elif got["worst"] is None:
            out.append("cushion")
        if account.get("gross_position_value") is None:
            out.append("gross_position_value")
        if account.get("daily_pnl") is None and pnl_due:
            out.append("daily_pnl")
        if time_ns(account.get("as_of")) is None:
            out.append("account_as_of")
    if regime is None:
        out.append("regime")
    elif time_ns(regime.get("as_of")) is None:
        out.append("regime_as_of")
    if positions is None:
        return [*out, "positions"]
    if time_ns(positions.get("as_of")) is None:
        out.append("positions_as_of")
    names = unmeasured_names(positions)
    out += names[:3] + (["more_names"] if len(names) > 3 else [])
    book = positions.get("portfolio")
    if book is None:
        return [*out, "portfolio"]
    if book.get("dollar_delta_base") is None:
        out.append("dollar_delta")
    legs = book.get("greeks_total") or 0
    if (legs > 0 and (not book.get("greeks_coverage") or book.get("gamma") is None)) or (legs == 0 and positions.get("options")):
        out.append("option_greeks")
    return out


def unmeasured_names(positions: Mapping[str, Any]) -> list[str]:
    """Return the held names of which a value or a delta is not known, sorted, so that the order of the book does not matter."""
    names = (positions.get("portfolio") or {}).get("exposure_base") or []
    known = {n.get("underlying") for n in names}
    bad = [
        n.get("underlying") for n in names
        if (n.get("market_value_pct_nlv") is None and n.get("market_value_base") is None) or n.get("dollar_delta_base") is None
    ]  # fmt: skip
    held = [row.get("symbol") for kind in ("stocks", "options") for row in positions.get(kind) or [] if row.get("symbol")]
    return sorted({*bad, *(name for name in held if name not in known)})


def evaluate(account: Json | None, positions: Json | None, regime: Json | None, policy: RiskPolicy, now_ns: int) -> Json:
    """Return all that must follow from one snapshot. Observed numbers are fractions or None."""
    rule = policy.policy
    switches = rule.switches
    view = market(regime, policy, now_ns)
    got = metrics_of(account, positions)
    spy, vix = view["spy"], view["vix"]
    w = got["worst"]
    danger, press = below(w, rule.margin_urgent_pct), below(w, rule.margin_act_pct)
    stressed = view["stressed"]
    selloff = view["selloff"] or (switches.margin_confirms_market and press)
    open_hours = in_hours(policy, now_ns) and not view["closed_date"]
    missing = missing_inputs(account, positions, regime, got, open_hours) if switches.missing_is_state else []
    nameless = bool(switches.missing_is_state and positions and unmeasured_names(positions))
    gone = set(missing)
    # A cluster that is late by its schedule is no better known than one without a band.
    late = [*view["defects"], *view["impaired"]] if switches.missing_is_state else []

    # Rows.
    rows: list[Json] = []

    def row(title: str, direction: str = "", severity: str = "observe") -> None:
        rows.append({"title": title, "direction": direction, "severity": severity})

    title = "Immediate margin safety"
    if w is None:
        row(title, "data_quality", "watch")
    elif danger:
        row(title, "defensive", "urgent")
    elif press:
        row(title, "defensive", "act")
    elif below(w, rule.margin_watch_pct):
        row(title, "defensive", "watch")
    else:
        row(title)

    title, pnl = "Portfolio P&L shock", got["daily_pnl_pct_nlv"]
    if pnl is None:
        row(title, *(("data_quality", "watch") if gone & {"account", "net_liquidation", "daily_pnl"} else ()))
    elif pnl <= -num(rule.daily_pnl_act_pct):  # type: ignore[operator]
        row(title, "defensive", "act")
    elif abs(pnl) >= rule.daily_pnl_watch_pct:
        row(title, "defensive", "watch")
    else:
        row(title)

    title = "Index tape shock"
    if spy is None and vix is None and not view["closed"]:
        row(title, "data_quality", "watch")
    elif (at_most(spy, rule.spy_hard_drop_pct) and selloff) or (at_least(vix, rule.vix_hard_spike_pct) and view["spike"]):
        row(title, "defensive", "act")
    elif at_most(spy, rule.spy_drop_pct) or at_least(vix, rule.vix_spike_pct):
        row(title, "defensive", "watch")
    else:
        row(title)

    stress_severity = "act" if view["governed"] else "watch"
    if view["confirmed"]:
        row("Confirmed market stress", "defensive", stress_severity)
    elif view["fast_carry"]:
        row("Fast carry unwind", "defensive", "act")
    elif view["filtered"]:
        row("Early stress filtered", "defensive", "watch")
    elif view["deteriorating"]:
        row("Deteriorating tape", "defensive", "watch")
    else:
        row("Market stress")

    title = "US equity/options exposure"
    sums = [
        (
            got["gross_exposure_pct_nlv"],
            rule.gross_exposure_watch_pct,
            rule.gross_exposure_stress_act_pct,
            rule.gross_exposure_stress_urgent_pct,
        ),
        (got["net_delta_pct_nlv"], rule.net_delta_watch_pct, rule.net_delta_stress_act_pct, rule.net_delta_stress_urgent_pct),
        (got["gross_delta_pct_nlv"], rule.gross_delta_watch_pct, rule.gross_delta_stress_act_pct, rule.gross_delta_stress_urgent_pct),
    ]
    no_name = nameless or bool(gone & {"account", "net_liquidation", "positions", "portfolio"})
    if stressed and any(at_least(v, urgent) for v, _, _, urgent in sums):
        row(title, "defensive", "urgent")
    elif stressed and any(at_least(v, act) for v, _, act, _ in sums):
        row(title, "defensive", "act")
    elif any(at_least(v, watch) for v, watch, _, _ in sums):
        row(title, "rebalance", "watch")
    elif no_name or gone & {"gross_position_value", "dollar_delta"}:
        row(title, "data_quality", "watch")
    else:
        row(title)

    title = "Largest concentration"
    share, delta = got["largest_exposure_pct_nlv"], got["largest_delta_pct_nlv"]
    if (share is not None and abs(share) >= rule.single_name_exposure_watch_pct) or at_least(delta, rule.single_name_delta_watch_pct):
        row(title, *(("defensive", "act") if stressed else ("rebalance", "watch")))
    elif no_name:
        row(title, "data_quality", "watch")
    else:
        row(title)

    title, covered, gamma = "Options convexity", got["greeks_pct"], got["gamma"]
    convex = below(gamma, 0) and view["two_red"] and view["governed"]
    few = below(covered, rule.option_greeks_min_coverage_pct) or "option_greeks" in missing
    if few or gone & {"positions", "portfolio"}:
        row(title, "data_quality", "watch")
    elif covered is None:
        row(title)
    elif convex:
        row(title, "defensive", "act")
    else:
        row(title)

    if view["data_issue"]:
        row("Ambiguity filter", "data_quality", "watch")
    elif len(view["ranked"]) < rule.rules.gate_min_ranked or {"gamma", "breadth"} & set(view["computing"]):
        row("Data quality gate", "data_quality", "watch")
    else:
        row("Data quality gate")

    # Signals.
    signals: list[Json] = []

    def signal(id: str, direction: str, severity: str, confidence: str, **more: Any) -> None:
        blank = dict.fromkeys(("subject", "metric", "observed", "threshold", "target", "unit", "confidence_impact"))
        signals.append({
            "id": id, "direction": direction, "posture": POSTURES[direction], "severity": severity, **blank, "confidence": confidence,
            "blocked_by": [], **more,
        })  # fmt: skip

    for id, metric, value in (
        ("margin_cushion_low", "cushion", got["cushion_pct"]),
        ("lookahead_cushion_low", "lookahead_cushion", got["look_ahead_cushion_pct"]),
    ):
        for severity, level in (("urgent", rule.margin_urgent_pct), ("act", rule.margin_act_pct), ("watch", rule.margin_watch_pct)):
            if below(value, level):
                target = None if severity == "watch" else rule.margin_target_pct
                signal(id, "defensive", severity, "high", metric=metric, observed=value, threshold=level, target=target, unit="pct_nlv")
                break
    if pnl is not None and abs(pnl) >= rule.daily_pnl_watch_pct:
        large = abs(pnl) >= rule.daily_pnl_act_pct
        signal(
            "portfolio_pnl_shock", "defensive", "act" if large and pnl < 0 else "watch", "high", metric="daily_pnl_pct_nlv", observed=pnl,
            threshold=rule.daily_pnl_act_pct if large else rule.daily_pnl_watch_pct, unit="pct_nlv",
            confidence_impact="protect_gains_not_deployable" if large and pnl > 0 else None,
        )  # fmt: skip
    unproven = {"blocked_by": ["confirmation"], "confidence_impact": "needs_independent_confirmation"}
    for level in (rule.spy_crash_pct, rule.spy_hard_drop_pct, rule.spy_drop_pct):
        if at_most(spy, level):
            hard = level != rule.spy_drop_pct
            signal(
                "market_selloff_violent", "defensive", "act" if hard and selloff else "watch", "medium", metric="spy_change_pct", observed=spy,
                threshold=level, unit="pct", **(unproven if hard and not selloff else {}),
            )  # fmt: skip
            break
    for severity, level in (("act", rule.spy_hard_rally_pct), ("watch", rule.spy_rally_pct)):
        if at_least(spy, level):
            signal(
                "market_rally_violent",
                "constructive",
                severity,
                "medium",
                metric="spy_change_pct",
                observed=spy,
                threshold=level,
                unit="pct",
            )
            break
    for level in (rule.vix_hard_spike_pct, rule.vix_spike_pct):
        if at_least(vix, level):
            hard = level == rule.vix_hard_spike_pct
            signal(
                "vol_spike_confirmed", "defensive", "act" if hard and view["spike"] else "watch", "medium", metric="vix_change_pct", observed=vix,
                threshold=level, unit="pct", **(unproven if hard and not view["spike"] else {}),
            )  # fmt: skip
            break
    for severity, level in (("act", rule.vix_hard_crush_pct), ("watch", rule.vix_crush_pct)):
        if at_most(vix, level):
            signal(
                "vol_crush_confirmed",
                "constructive",
                severity,
                "medium",
                metric="vix_change_pct",
                observed=vix,
                threshold=level,
                unit="pct",
            )
            break
    if view["confirmed"]:
        signal(
            "regime_stress_confirmed", "defensive", stress_severity, "medium", metric="red_clusters", observed=view["seen"],
            threshold=float(view["threshold"]), blocked_by=view["not_current"],
        )  # fmt: skip
    elif view["fast_carry"]:
        metric = "red_fx_cluster_with_tape_confirmation"
        signal("fx_carry_unwind", "defensive", "act", "medium", subject="fx", metric=metric, observed=Fraction(1), threshold=1)
    elif view["early"]:
        signal(
            "regime_stress_early", "defensive", "watch", "medium", metric="red_clusters", observed=view["seen"],
            threshold=float(view["early_threshold"]),
        )  # fmt: skip
    if view["gamma_red"]:
        signal(
            "gamma_red", "defensive", "watch", "medium", subject="gamma", metric="red_cluster", confidence_impact="weaker_if_gamma_degraded"
        )  # fmt: skip
    for id, metric, (value, watch, act, urgent) in zip(
        ("gross_exposure_high", "net_delta_high", "gross_delta_high"),
        ("gross_exposure_pct_nlv", "net_delta_pct_nlv", "gross_delta_pct_nlv"),
        sums, strict=True,
    ):  # fmt: skip
        steps = [("urgent", urgent), ("act", act)] if stressed else [("watch", watch)]
        for severity, level in steps:
            if at_least(value, level):
                direction = "defensive" if stressed else "rebalance"
                signal(id, direction, severity, "high", metric=metric, observed=value, threshold=level, unit="pct_nlv")
                break
    for id, metric, value, subject, level in (
        ("single_name_exposure_high", "market_value_pct_nlv", share, got["largest_exposure"], rule.single_name_exposure_watch_pct),
        ("single_name_delta_high", "delta_pct_nlv", delta, got["largest_delta_exposure"], rule.single_name_delta_watch_pct),
    ):
        if value is not None and abs(value) >= level:
            signal(
                id, "defensive" if stressed else "rebalance", "act" if stressed else "watch", "high", subject=subject, metric=metric, observed=value,
                threshold=level, target=rule.single_name_target_pct, unit="pct_nlv",
            )  # fmt: skip
    if few:
        signal(
            "option_greeks_degraded", "data_quality", "watch", "medium-low", metric="option_greeks_coverage_pct", observed=covered,
            threshold=rule.option_greeks_min_coverage_pct, unit="pct", confidence_impact="blocks_option_planning",
        )  # fmt: skip
    if convex:
        signal("short_convexity_high", "defensive", "act", "medium", metric="portfolio_gamma", observed=gamma)
    affected = sorted({*view["ambiguous"], *view["partial"], *view["degraded"], *view["computing"], *missing, *late})
    if affected:
        signal(
            "risk_data_degraded", "data_quality", "watch", "medium-low", metric="degraded_inputs", observed=Fraction(len(affected)),
            blocked_by=affected, confidence_impact="confirm_before_severe_action",
        )  # fmt: skip
    if view["stale"]:
        signal(
            "market_data_stale", "data_quality", "watch", "medium-low", metric="stale_clusters", observed=Fraction(len(view["stale"])),
            blocked_by=view["stale"], confidence_impact="needs_fresh_data",
        )  # fmt: skip
    for warning in (regime or {}).get("warning_details") or []:
        if warning.get("scope") and "data" in clean(warning.get("severity")):
            signal(
                "risk_data_degraded", "data_quality", "watch", "medium-low", subject=warning["scope"], confidence_impact="source_warning"
            )  # fmt: skip

    # The whole.
    seen = {x["direction"] for x in [*rows, *signals]}
    if {"defensive", "constructive"} <= seen:
        direction = "mixed"
    else:
        direction = next((d for d in ("defensive", "constructive", "rebalance", "data_quality") if d in seen), "")
    severity = worst(*(x["severity"] for x in [*rows, *signals]))
    if severity == "urgent" and not danger and (not view["two_red"] or len(view["ambiguous"]) > rule.rules.urgent_max_ambiguous):
        severity = "act"
    threat = direction in ("defensive", "mixed")
    if severity == "act" and threat and not view["any_red"] and not press and not view["confirmed_tape"]:
        severity = "watch"
    acting = severity in ("act", "urgent")
    real = [s for s in signals if s["direction"] != "data_quality"]
    drivers: list[str] = []
    for s in sorted(real or signals, key=lambda s: -SEVERITIES.index(s["severity"])):
        if s["id"] not in drivers:
            drivers.append(s["id"])
    drivers = drivers[: rule.rules.max_drivers]
    data_confidence = "medium-low" if len(view["ranked"]) < len(CLUSTERS) or view["data_issue"] or missing or late else "high"
    signal_confidence = "high" if any(s["confidence"] == "high" for s in real) else "medium"
    confidence = "medium-low" if data_confidence == "medium-low" else "high" if signal_confidence == "high" else "medium"
    mode = "none"
    if direction == "data_quality":
        mode = "confirm_data"
    elif direction == "rebalance":
        mode = "rebalance" if severity != "observe" else "none"
    elif threat:
        mode = "defend" if acting else "stage" if severity == "watch" and signals else "none"
    elif direction == "constructive":
        if acting:
            mode = "deploy" if data_confidence == "high" and not press and not view["data_issue"] else "none"
        elif severity == "watch":
            mode = "stage"
    if mode == "confirm_data":
        readiness = "blocked"
    elif mode == "defend":
        readiness = "blocked" if data_confidence == "medium-low" and not danger else "ready"
    elif mode == "stage":
        readiness = "prestage"
    elif mode in ("deploy", "rebalance"):
        readiness = "ready"
    else:
        readiness = "watch" if severity == "watch" else "none"
    if direction == "data_quality":
        stage, timing = "data_quality", "data_quality"
    elif danger:
        stage, timing = "forced_defense", "contemporaneous"
    elif threat and severity == "urgent":
        stage, timing = "panic" if view["three_red"] or view["confirmed_tape"] else "forced_defense", "contemporaneous"
    elif threat and severity == "act":
        timing = "contemporaneous"
        if view["three_red"] or at_most(spy, rule.spy_crash_pct) or (at_least(vix, rule.vix_hard_spike_pct) and view["any_red"]):
            stage = "panic"
        else:
            alone = switches.margin_episode and not view["any_red"] and not view["confirmed_tape"]
            stage = "forced_defense" if alone else "confirmed_stress"
    elif threat and severity == "watch":
        stage, timing = "early_warning", "forward_warning"
    elif direction == "constructive":
        stage, timing = "opportunity" if mode == "deploy" and readiness == "ready" else "stabilization", "recovery"
    elif direction == "rebalance":
        stage, timing = "early_warning", "forward_warning"
    else:
        stage, timing = "quiet", "current"
    evidence = []
    for s in signals:
        sure = s["severity"] in ("act", "urgent") and not s["blocked_by"]
        evidence.append({
            "source": SIGNAL_SOURCES.get(s["id"], "market_tape"), "signal": s["id"], "bucket": s["severity"],
            "timing": "contemporaneous" if sure else "forward_warning", "severity": s["severity"], "confirmed": sure,
        })  # fmt: skip
    sure_ids = {e["signal"] for e, s in zip(evidence, signals, strict=True) if e["confirmed"] and s["direction"] != "data_quality"}
    lifecycle = {
        "stage": stage, "severity": severity, "readiness": readiness, "timing": timing, "confidence": confidence, "evidence": evidence,
        "confirmed_by": sorted({*view["confirming"], *sure_ids}), "unconfirmed": view["unconfirmed"],
        "suppressed": [] if stage in ("early_warning", "confirmed_stress", "panic") else view["unconfirmed"], "rejected_by": [],
    }  # fmt: skip
    posture = POSTURES[direction] if severity != "observe" else "neutral"
    rows.insert(0, {"title": "Portfolio canary", "direction": direction, "severity": severity})
    worst_margin = worst(*(s["severity"] for s in signals if s["id"] in ("margin_cushion_low", "lookahead_cushion_low")))
    result = {
        "policy": policy.profile, "direction": direction, "portfolio_posture": posture, "severity": severity, "planner_mode_hint": mode,
        "planner_readiness": readiness, "confidence": confidence, "data_confidence": data_confidence, "signal_confidence": signal_confidence,
        "primary_drivers": drivers, "signals": signals, "rows": rows, "lifecycle": lifecycle, "portfolio": got, "view": view,
        "missing": missing, "margin_severity": worst_margin,
        "market": {
            "regime_verdict": view["composite"]["verdict"], "red_clusters": view["n_red"], "yellow_clusters": len(view["yellows"]),
            "ranked_clusters": len(view["ranked"]), "unranked_clusters": len(CLUSTERS) - len(view["ranked"]),
            "red_cluster_names": sorted(view["reds"]), "yellow_cluster_names": sorted(view["yellows"]),
            "unconfirmed_red_cluster_names": view["unconfirmed"], "ambiguous_clusters": view["ambiguous"], "partial_clusters": view["partial"],
            "computing_clusters": view["computing"], "degraded_clusters": view["degraded"], "stale_clusters": view["stale"],
        },
    }  # fmt: skip
    result["source_health"] = health(account, positions, regime, view, data_confidence, policy, now_ns)
    result["source_fingerprints"] = {
        "account": key_of(project_account(account, positions)),
        "positions": key_of(project_positions(account, positions)),
        "regime": key_of(project_regime(regime, view["composite"])),
    }
    result["fingerprint"] = key_of(project_canary(result))
    result["lifecycle_fingerprint"] = key_of(project_lifecycle(lifecycle))
    return result


def in_hours(policy: RiskPolicy, now_ns: int) -> bool:
    """Return whether it is a weekday between the hours of the policy in New York."""
    rule, local = policy.policy.health, datetime.fromtimestamp(now_ns // 10**9, UTC).astimezone(NEW_YORK)
    return local.weekday() < 5 and rule.open_hour <= local.hour < rule.close_hour


def health(
    account: Json | None, positions: Json | None, regime: Json | None, view: Json, data_confidence: str, policy: RiskPolicy, now_ns: int
) -> list[Json]:
    """Return how far each source can be believed: status, confidence, age."""
    rule = policy.policy.health
    limit = rule.max_age_s if in_hours(policy, now_ns) else rule.max_age_closed_s
    whole = num((account or {}).get("net_liquidation"))
    regime_status = "ok"
    order = [("stale", view["stale"]), ("degraded", view["degraded"]), ("partial", view["partial"] or view["ambiguous"])]
    for word, clusters in reversed(order) if policy.policy.switches.missing_is_state else order:
        if clusters:
            regime_status = word
            break
    said = [
        ("account", account, ("ok", "high") if above(whole, 0) else ("partial", "medium-low")),
        ("positions", positions, ("ok", "high")),
        ("regime", regime, (regime_status, data_confidence)),
    ]
    out = []
    for source, snapshot, (status, confidence) in said:
        as_of = time_ns((snapshot or {}).get("as_of"))
        age = None if as_of is None else max(0, now_ns - as_of)
        if age is None:
            # Never seen is worse than anything that is seen.
            status, confidence = "unknown", "medium-low"
        elif age > limit * 10**9 and status == "ok":
            status, confidence = "stale", "medium" if confidence == "high" else confidence
        out.append({
            "source": source, "status": status, "confidence": confidence, "as_of_ns": as_of, "age_ns": age, "max_age_seconds": limit,
            "fingerprint_stability": STABILITY,
        })  # fmt: skip
    return out


# --- fingerprints -----------------------------------------------------------------------------------------------------------------


def clean(text: Any) -> str:
    return "" if text is None else str(text).strip().lower()


def word_set(words: Iterable[Any] | None) -> list[str]:
    return sorted({clean(w) for w in words or []} - {""})


def encode(value: Any) -> str:
    """Return canonical JSON: no spaces, keys in the order given, only the five characters escaped."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def key_of(value: Any) -> str:
    return "sha256:" + hashlib.sha256(encode(value).encode("utf-8")).hexdigest()


def shown(pairs: Iterable[tuple[str, Any]], never_omitted: Iterable[str] = ()) -> Json:
    """Return an object without what is empty."""
    kept = set(never_omitted)
    return {name: value for name, value in pairs if name in kept or value not in ("", None, [], {}, False)}


def ordered(entries: Iterable[Json], fields: list[str], never_omitted: Iterable[str] = ()) -> list[Json]:
    """Return entries without the all-empty ones, sorted by every field in order (inner lists joined by a comma)."""
    full = [e for e in entries if any(e.get(f) for f in fields)]

    def sort_key(entry: Json) -> list[str]:
        out = []
        for f in fields:
            value = entry.get(f)
            out.append(",".join(value) if isinstance(value, list) else "true" if value is True else "" if not value else str(value))
        return out

    return [shown(((f, e.get(f)) for f in fields), never_omitted) for e in sorted(full, key=sort_key)]


def decimal_text(value: Any) -> str:
    """Return a number's shortest decimal text."""
    if value is None:
        return ""
    return str(int(value)) if float(value).is_integer() else repr(float(value))


def first_bucket(steps: list[tuple[bool, str]]) -> str:
    return next((name for hit, name in steps if hit), "ok")


def cushion_bucket(value: Fraction | None) -> str:
    return "" if value is None else first_bucket([(value < 10, "urgent"), (value < 20, "act"), (value < 35, "watch")])


def gross_bucket(value: Fraction | None) -> str:
    return "" if not value else first_bucket([(value >= 150, "urgent"), (value >= 100, "act")])


def name_bucket(value: Fraction | None) -> str:
    return "" if value is None else first_bucket([(abs(value) >= 70, "urgent"), (abs(value) >= 35, "act")])


def count_bucket(rows: Any) -> str:
    n = len(rows or [])
    return "zero" if n == 0 else "small" if n <= 5 else "medium" if n <= 25 else "large"


def project_account(account: Json | None, positions: Json | None = None) -> Json | None:
    if account is None:
        return None
    got = metrics_of(account, positions)
    pnl = got["daily_pnl_pct_nlv"]
    steps = [] if pnl is None else [(pnl <= -10, "loss_act"), (pnl <= -5, "loss_watch"), (pnl >= 10, "gain_act"), (pnl >= 5, "gain_watch")]
    return shown([
        ("base_currency", clean(account.get("base_currency"))),
        ("account_type", clean(account.get("account_type"))),
        ("margin_cushion", cushion_bucket(got["cushion_pct"])),
        ("lookahead_cushion", cushion_bucket(got["look_ahead_cushion_pct"])),
        ("gross_exposure", gross_bucket(got["gross_exposure_pct_nlv"])),
        ("daily_pnl", "" if pnl is None else first_bucket(steps)),
        ("has_margin_context", margin_context(account)),
        ("has_net_liquidation", above(num(account.get("net_liquidation")), 0)),
    ])  # fmt: skip


def project_positions(account: Json | None, positions: Json | None) -> Json | None:
    if positions is None:
        return None
    counts = [("stocks", count_bucket(positions.get("stocks"))), ("options", count_bucket(positions.get("options")))]
    if positions.get("portfolio") is None:
        return shown(counts)
    got = metrics_of(account, positions)
    net, gamma, covered = got["net_delta_pct_nlv"], got["gamma"], got["greeks_pct"]
    share, delta = got["largest_exposure_pct_nlv"], got["largest_delta_pct_nlv"]
    return shown([
        ("has_portfolio", True),
        ("net_delta", "" if net is None else first_bucket([(net >= 125, "urgent"), (net >= 80, "act")])),
        ("gross_delta", gross_bucket(got["gross_delta_pct_nlv"])),
        ("largest_exposure", name_bucket(share)),
        ("largest_exposure_id", clean(got["largest_exposure"]) if share else ""),
        ("largest_delta", name_bucket(delta)),
        ("largest_delta_id", clean(got["largest_delta_exposure"]) if delta else ""),
        ("gamma", "" if gamma is None else "negative" if gamma < 0 else "positive" if gamma > 0 else "flat"),
        ("greeks_coverage", "" if covered is None else "degraded" if covered < 80 else "ok"),
        *counts,
    ])  # fmt: skip


COUNTERS = [
    "green_count", "yellow_count", "red_count", "ranked_count", "unranked_count", "cluster_green_count", "cluster_yellow_count",
    "cluster_red_count", "cluster_ranked_count", "cluster_unranked_count",
]  # fmt: skip


def project_regime(regime: Json | None, composite: Json | None = None) -> Json | None:
    """Return what `regime-fp-v1` hashes; composite: the recomputed one, else that of the snapshot."""
    if regime is None:
        return None
    counted = composite if composite is not None else regime.get("composite") or {}
    indicators = []
    for name in ROWS:
        row = regime.get(name) or {}
        fields: list[tuple[str, Any]] = [("name", name), ("band", clean(row.get("band"))), ("status", clean(row.get("status")))]
        if name != "vol_of_vol":
            fields.append(("fields_missing", word_set(row.get("fields_missing"))))
        indicators.append(shown(fields))
    gamma = regime.get("gamma_zero") or {}
    result = dig(gamma, "envelope", "result") or {}
    summary = result.get("summary") or {}
    sources = [
        {f: clean(s.get(f)) for f in ("source", "status", "confidence", "fingerprint_stability")} for s in regime.get("source_health") or []
    ]
    warnings = [{f: clean(w.get(f)) for f in ("code", "scope", "severity")} for w in regime.get("warning_details") or []]
    lists = ("stale_clusters", "partial_clusters", "degraded_clusters")
    quality = [
        {"surface": clean(q.get("surface")), "status": clean(q.get("status")), **{f: word_set(q.get(f)) for f in lists}}
        for q in regime.get("data_quality") or []
    ]
    pairs: list[tuple[str, Any]] = [
        ("composite", shown([("verdict", clean(counted.get("verdict"))), *((c, counted.get(c) or 0) for c in COUNTERS)], COUNTERS)),
        ("indicators", indicators),
        ("gamma", shown([
            ("envelope_status", clean(dig(gamma, "envelope", "status"))),
            ("rankability", clean(dig(result, "quality", "rankability"))),
            ("zero_gamma_status", clean(summary.get("zero_gamma_status"))),
            ("regime", clean(summary.get("regime"))),
            ("confidence", clean(summary.get("confidence"))),
            ("regime_agreement", clean(result.get("regime_agreement"))),
            ("horizon_agreement", clean(gamma.get("horizon_agreement"))),
        ])),
        ("breadth", shown([("state", clean(dig(regime.get("breadth") or {}, "envelope", "state")))])),
        ("lifecycle", project_lifecycle(regime.get("lifecycle"))),
        ("sources", ordered(sources, ["source", "status", "confidence", "fingerprint_stability"], ["source", "status"])),
        ("warnings", ordered(warnings, ["code", "scope", "severity"])),
        ("data_quality", ordered(quality, ["surface", "status", *lists])),
    ]  # fmt: skip
    kept = ["composite", "indicators"] + (["lifecycle"] if regime.get("lifecycle") is not None else [])
    return shown(pairs, kept)


def project_lifecycle(lifecycle: Json | None) -> Json:
    lifecycle = lifecycle or {}
    fields = ["source", "signal", "bucket", "timing", "severity", "confirmed"]
    evidence = [{f: e.get(f) if f == "confirmed" else clean(e.get(f)) for f in fields} for e in lifecycle.get("evidence") or []]
    return shown([
        *((f, clean(lifecycle.get(f))) for f in ("stage", "severity", "readiness", "timing", "confidence")),
        ("evidence", ordered(evidence, fields, ["source"])),
        *((f, word_set(lifecycle.get(f))) for f in ("confirmed_by", "unconfirmed", "suppressed", "rejected_by")),
    ])  # fmt: skip


def project_canary(result: Json) -> Json:
    """Return what `canary-fp-v1` hashes, from a result of `evaluate`."""
    fields = [
        "id", "direction", "posture", "severity", "subject", "metric", "threshold", "target", "unit", "confidence", "blocked_by", "confidence_impact",
    ]  # fmt: skip
    signals = []
    for s in result["signals"]:
        entry: Json = {f: clean(s[f]) for f in fields if f not in ("threshold", "target", "blocked_by")}
        entry.update(threshold=decimal_text(s["threshold"]), target=decimal_text(s["target"]), blocked_by=word_set(s["blocked_by"]))
        signals.append(entry)
    rows = [{f: clean(r[f]) for f in ("title", "direction", "severity")} for r in result["rows"]]
    shown_market = result["market"]
    counts = ["red_clusters", "yellow_clusters", "ranked_clusters", "unranked_clusters"]
    lists = [
        "red_cluster_names", "yellow_cluster_names", "ambiguous_clusters", "partial_clusters", "computing_clusters", "degraded_clusters", "stale_clusters",
    ]  # fmt: skip
    source_fields = ["source", "status", "confidence", "fingerprint_stability"]
    sources = [{f: clean(s[f]) for f in source_fields} for s in result["source_health"]]
    heads = [
        "policy", "direction", "portfolio_posture", "severity", "planner_mode_hint", "planner_readiness", "data_confidence", "signal_confidence",
    ]  # fmt: skip
    versions = {"account": "account-fp-v1", "positions": "positions-fp-v1", "regime": "regime-fp-v1"}
    return shown([
        *((f, clean(result[f])) for f in heads),
        ("primary_drivers", word_set(result["primary_drivers"])),
        ("signals", ordered(signals, fields)),
        ("rows", ordered(rows, ["title", "direction", "severity"])),
        ("market", shown([
            ("regime_verdict", clean(shown_market["regime_verdict"])), *((c, shown_market[c]) for c in counts),
            *((f, word_set(shown_market[f])) for f in lists),
        ], counts)),
        ("lifecycle", project_lifecycle(result["lifecycle"])),
        ("sources", ordered(sources, source_fields, ["source", "status"])),
        ("source", {name: {"version": version, "key": result["source_fingerprints"][name]} for name, version in versions.items()}),
    ], ["market", "lifecycle"])  # fmt: skip
