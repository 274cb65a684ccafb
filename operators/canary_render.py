"""What the canary says, in full: from the codes of one evaluation to a `schemas.canary.CanaryResult` (canary §9 to §12). Only when an alert goes out.

May not decide anything: directions, severities and stages are those of operators/canary_kernel.py; here are ids, levels, words and texts. Nothing of
canary §12's "must never carry" can be in it: the result's models allow no field that is not theirs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import cache
from typing import Any, get_args

from operators.canary_kernel import (
    ACT,
    BLOCKED,
    CONFIDENCES,
    CONFIRMED_STRESS,
    DATA_QUALITY,
    DATA_SIGNALS,
    DEFEND,
    DEPLOY,
    DIRECTIONS,
    EARLY_WARNING,
    HIGH,
    HIGH_SIGNALS,
    M_EXPOSURE,
    MEDIUM_LOW,
    MISSING,
    MODES,
    OBSERVE,
    PANIC,
    PREPARE,
    R_CONVEXITY,
    R_DATA,
    R_EXPOSURE,
    R_MARGIN,
    R_MARKET,
    R_NAME,
    R_PNL,
    R_PORTFOLIO,
    R_TAPE,
    READINESS,
    ROW_NAMES,
    S_AHEAD,
    S_CARRY,
    S_CONVEXITY,
    S_CRUSH,
    S_CUSHION,
    S_DEGRADED,
    S_DELTA,
    S_EARLY,
    S_GAMMA,
    S_GREEKS,
    S_GROSS,
    S_NAME,
    S_NAME_DELTA,
    S_NET,
    S_PNL,
    S_RALLY,
    S_SELLOFF,
    S_SPIKE,
    S_STALE,
    S_STRESS,
    S_WARNING,
    SEVERITIES,
    SIGNAL_DIRECTIONS,
    SIGNALS,
    STAGES,
    STATUSES,
    TO_REBALANCE,
    URGENT,
    WATCH,
    Scene,
)  # fmt: skip
from operators.canonical import (
    ACCOUNT_VERSION,
    CANARY_VERSION,
    LIFECYCLE_VERSION,
    POSITIONS_VERSION,
    REGIME_VERSION,
    fingerprint,
    project_account,
    project_canary,
    project_lifecycle,
    project_positions,
    text_of,
)  # fmt: skip
from operators.clusters import NS
from schemas.canary import CanaryResult, Label, Text
from schemas.policy import RiskPolicy
from state.accounts import F_ACCOUNT, F_ACCOUNT_TIME, F_POSITIONS, F_POSITIONS_TIME

POSTURES = {
    "": "neutral", "defensive": "threat", "constructive": "opportunity", "rebalance": "rebalance", "mixed": "threat_opportunity",
    "data_quality": "confirm_data",
}  # fmt: skip
TIMINGS = {
    "data_quality": "data_quality", "forced_defense": "contemporaneous", "panic": "contemporaneous", "confirmed_stress": "contemporaneous",
    "early_warning": "forward_warning", "opportunity": "recovery", "stabilization": "recovery", "quiet": "current",
}  # fmt: skip
"""When the thing a stage speaks of happens."""

_REGIME_SIGNALS = (S_STRESS, S_CARRY, S_EARLY, S_GAMMA)
_SOURCES = {
    **dict.fromkeys(range(len(SIGNALS)), "market_tape"),
    **dict.fromkeys((S_CUSHION, S_AHEAD), "margin"),
    **dict.fromkeys((S_GROSS, S_NET, S_DELTA), "portfolio_exposure"),
    **dict.fromkeys((S_NAME, S_NAME_DELTA), "concentration"),
    **dict.fromkeys((S_GREEKS, S_CONVEXITY), "options"),
    **dict.fromkeys((S_DEGRADED, S_STALE, S_WARNING), "data_quality"),
    **dict.fromkeys(_REGIME_SIGNALS, "regime"),
}
"""Where the evidence of each signal comes from."""

TITLES = {
    R_PORTFOLIO: "Portfolio canary", R_MARGIN: "Immediate margin safety", R_PNL: "Portfolio P&L shock", R_TAPE: "Index tape shock",
    R_EXPOSURE: "US equity/options exposure", R_NAME: "Largest concentration", R_CONVEXITY: "Options convexity",
}  # fmt: skip
"""Titles of the rows; those of the market and of its data vary."""

GUIDANCE = {
    "blocked": "Confirm the inputs that are missing or weak before any large change.",
    "data": "Check the data first; the state is not known well enough to act on.",
    "defend_now": "Defend now: liquidity and margin first.",
    "defend": "Cut the largest confirmed risk.",
    "stage": "Add no risk; prepare, and wait for confirmation.",
    "deploy": "Use spare risk budget only if budget and data are clean.",
    "rebalance": "Bring the book back inside its limits.",
    "hold": "Hold; nothing calls for a change.",
}
"""The guidance texts, by cause."""

_ROW_GUIDANCE = {
    R_MARGIN: ("Margin is not a constraint.", "Watch margin.", "Raise the cushion before anything else.", "Raise liquidity now."),
    R_PNL: ("The day's result is within bounds.", "The day's result is large; add no risk.", "The day's loss is at the limit; cut risk.", ""),
    R_TAPE: ("The tape is quiet.", "The tape is moving; wait for confirmation.", "The move is confirmed; defend.", ""),
    R_MARKET: ("No market stress.", "Stress is building and not confirmed.", "Market stress is confirmed.", ""),
    R_EXPOSURE: ("Exposure is within limits.", "Bring exposure back inside its limits.", "Cut exposure to its limits under stress.", "Cut exposure now."),
    R_NAME: ("No name is too large.", "Bring the largest name back inside its limit.", "Cut the largest name first.", ""),
    R_CONVEXITY: ("Options call for nothing.", "", "Reduce short gamma first.", ""),
    R_DATA: ("The market's data suffice.", "", "", ""),
}  # fmt: skip
_DATA_GUIDANCE = "Check the data; what is missing clears nothing."
SOURCES = ("account", "positions", "regime")
NOT_CURRENT = "older_than_max_age"
NO_TIME = "as_of_missing"
NEVER_SEEN = "never_seen"
NO_NET_LIQUIDATION = "net_liquidation_missing"
IN_FUTURE = "as_of_in_future"
"""Notes of the sources' health."""

LABEL_LENGTH = int(get_args(Label)[1].max_len)
TEXT_LENGTH = int(get_args(Text)[1].max_len)
"""Longest texts a result may have."""
_UPSTREAM = re.compile(r"[a-z][a-z0-9+.-]*://|\bwww\.|\bhttps?\b|time[d\s-]*out|deadline exceeded", re.IGNORECASE)
"""What marks a text as an upstream error that nobody should read."""


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _pct(value: float | None, digits: str = ".1f") -> str:
    return "not known" if value is None else f"{value:{digits}} %"


def unmeasured_of(row: Any) -> list[str]:
    """Return the names of held underlyings without a value or a delta that a row of facts holds (at most three)."""
    lengths, names = row["unmeasured_len"], row["unmeasured_name"]
    width = len(names) // len(lengths)
    return [bytes(names[i * width : i * width + int(n)]).decode("ascii", "replace") for i, n in enumerate(lengths) if n]


def missing_of(row: Any, verdict: Any) -> list[str]:
    """Return what an evaluation found not delivered, by the names `blocked_by` uses: held names without exposure by their symbols."""
    bits = int(verdict["missing"])
    found = [name for bit, name in enumerate(MISSING) if bits & (1 << bit) and bits & (1 << bit) != M_EXPOSURE]
    if bits & M_EXPOSURE:
        found += unmeasured_of(row) or ["exposure"]
        if verdict["more_unmeasured"]:
            found.append("more_names")
    return found


def sanitised(warning: Mapping[str, Any]) -> str:
    """Return the text of a warning of the dashboard: an upstream error (a URL, HTTP, a timeout) is replaced by impact, action or code. "" for none."""
    fields = [str(warning.get(name) or "").strip() for name in ("message", "impact", "action", "code")]
    text = next((field for field in fields if field and not _UPSTREAM.search(field)), "source unavailable" if any(fields) else "")
    scope = str(warning.get("scope") or warning.get("code") or "").strip()
    return f"{scope}: {text}" if text and scope and scope != text else text


# --- signals --------------------------------------------------------------------------------------------------------------------


def signals_of(row: Any, verdict: Any, scene: Scene) -> list[tuple[int, dict[str, Any]]]:
    """Return the signals that fire, in the order of the catalogue, each with its number in SIGNALS (canary §9)."""
    found = []
    for number, code in enumerate(verdict["signals"]):
        if code != OBSERVE:
            for detail in _details(number, int(code), row, verdict, scene):
                direction = DIRECTIONS[SIGNAL_DIRECTIONS[scene.market.stressed][number]]
                confidence = "high" if number in HIGH_SIGNALS else "medium-low" if number in DATA_SIGNALS else "medium"
                signal = {
                    "id": SIGNALS[number], "direction": direction, "posture": POSTURES[direction], "severity": SEVERITIES[code],
                    "confidence": confidence, **detail,
                }  # fmt: skip
                found.append((number, signal))
    return found


def _details(number: int, code: int, row: Any, v: Any, scene: Scene) -> list[dict[str, Any]]:
    """Return what a signal says beside id, direction, severity and confidence; one entry for each signal of that number."""
    p, m = scene.policy.policy, scene.market
    if number in (S_CUSHION, S_AHEAD):
        metric, observed = ("cushion", v["cushion_pct"]) if number == S_CUSHION else ("lookahead_cushion", v["look_ahead_cushion_pct"])
        level = {WATCH: p.margin_watch_pct, ACT: p.margin_act_pct, URGENT: p.margin_urgent_pct}[code]
        detail = _levels(
            metric, observed, level, "pct_nlv", f"{metric.replace('_', ' ')} {observed:.1f} % of net liquidation, below {level:g} %"
        )
        return [{**detail, "target": float(p.margin_target_pct)} if code >= ACT else detail]
    if number == S_PNL:
        observed, hard = v["daily_pnl_pct"], bool(v["pnl_hard"])
        detail = _levels(
            "daily_pnl_pct_nlv", observed, p.daily_pnl_act_pct if hard else p.daily_pnl_watch_pct, "pct_nlv", f"day {observed:+.1f} %"
        )
        return [{**detail, "confidence_impact": "protect_gains_not_deployable"} if hard and v["pnl_gain"] else detail]
    if number in (S_SELLOFF, S_RALLY) and m.spy is not None:
        falls = (p.spy_crash_pct, p.spy_hard_drop_pct, p.spy_drop_pct)
        level = next(x for x in falls if m.spy <= x) if number == S_SELLOFF else p.spy_hard_rally_pct if code == ACT else p.spy_rally_pct
        return [
            _blockable(
                _levels("spy_change_pct", m.spy, level, "pct", f"SPY {m.spy:+.2f} %"), number == S_SELLOFF and bool(v["selloff_blocked"])
            )
        ]
    if number in (S_SPIKE, S_CRUSH) and m.vix is not None:
        rises = (p.vix_hard_spike_pct, p.vix_spike_pct)
        level = next(x for x in rises if m.vix >= x) if number == S_SPIKE else p.vix_hard_crush_pct if code == ACT else p.vix_crush_pct
        return [
            _blockable(_levels("vix_change_pct", m.vix, level, "pct", f"VIX {m.vix:+.1f} %"), number == S_SPIKE and scene.spike_blocked)
        ]
    if number in _REGIME_SIGNALS:
        return [_regime_detail(number, scene)]
    if number in (S_GROSS, S_NET, S_DELTA):
        metric, observed, *levels = {
            S_GROSS: ("gross_exposure_pct_nlv", v["gross_exposure_pct"], p.gross_exposure_watch_pct, p.gross_exposure_stress_act_pct,
                      p.gross_exposure_stress_urgent_pct),
            S_NET: ("net_delta_pct_nlv", v["net_delta_pct"], p.net_delta_watch_pct, p.net_delta_stress_act_pct, p.net_delta_stress_urgent_pct),
            S_DELTA: ("gross_delta_pct_nlv", v["gross_delta_pct"], p.gross_delta_watch_pct, p.gross_delta_stress_act_pct,
                      p.gross_delta_stress_urgent_pct),
        }[number]  # fmt: skip
        name = metric.removesuffix("_pct_nlv").replace("_", " ")
        return [_levels(metric, observed, levels[code - WATCH], "pct_nlv", f"{name} {observed:.0f} % of net liquidation")]
    if number in (S_NAME, S_NAME_DELTA):
        field, metric, observed, level = (
            ("largest_exposure", "market_value_pct_nlv", abs(v["largest_exposure_pct"]), p.single_name_exposure_watch_pct)
            if number == S_NAME
            else ("largest_delta", "delta_pct_nlv", v["largest_delta_pct"], p.single_name_delta_watch_pct)
        )
        subject = text_of(row, field)
        detail = _levels(metric, observed, level, "pct_nlv", f"{subject or 'one name'} {observed:.0f} % of net liquidation")
        return [{**detail, "subject": subject or None, "target": float(p.single_name_target_pct)}]
    if number == S_GREEKS:
        share = _or_none(v["greeks_pct"])
        text = "no option has greeks" if share is None else f"{share:.0f} % of option legs have greeks"
        detail = _levels("option_greeks_coverage_pct", share, p.option_greeks_min_coverage_pct, "pct", text)
        return [{**detail, "confidence_impact": "blocks_option_planning"}]
    if number == S_CONVEXITY:
        return [{"metric": "portfolio_gamma", "observed": float(row["gamma"]), "evidence": "short gamma in a confirmed stress"}]
    return _data_details(number, row, v, scene)


def _levels(metric: str, observed: float | None, threshold: float, unit: str, evidence: str) -> dict[str, Any]:
    seen = None if observed is None else float(observed)
    return {"metric": metric, "observed": seen, "threshold": float(threshold), "unit": unit, "evidence": evidence}


def _blockable(detail: dict[str, Any], blocked: bool) -> dict[str, Any]:
    return {**detail, "blocked_by": ["confirmation"], "confidence_impact": "needs_independent_confirmation"} if blocked else detail


def _regime_detail(number: int, scene: Scene) -> dict[str, Any]:
    m = scene.market
    if number == S_STRESS:
        return {"metric": "red_clusters", "observed": m.stress_observed, "threshold": m.stress_threshold, "evidence": _clusters_text(scene),
                "blocked_by": list(m.not_current)}  # fmt: skip
    if number == S_CARRY:
        return {"subject": "fx", "metric": "red_fx_cluster_with_tape_confirmation", "observed": 1.0, "threshold": 1.0,
                "evidence": "yen rising while the tape or breadth weakens"}  # fmt: skip
    if number == S_EARLY:
        return {"metric": "red_clusters", "observed": m.early_observed, "threshold": m.early_threshold, "evidence": _clusters_text(scene)}
    return {"subject": "gamma", "metric": "red_cluster", "observed": 1.0, "evidence": "dealer gamma is red",
            "confidence_impact": "weaker_if_gamma_degraded"}  # fmt: skip


def _data_details(number: int, row: Any, v: Any, scene: Scene) -> list[dict[str, Any]]:
    m = scene.market
    if number == S_DEGRADED:
        inputs = sorted({*scene.degraded_inputs, *missing_of(row, v)})
        return [{"metric": "degraded_inputs", "observed": float(len(inputs)), "evidence": "missing or weak: " + ", ".join(inputs), "blocked_by": inputs,
                 "confidence_impact": "confirm_before_severe_action"}]  # fmt: skip
    if number == S_STALE:
        return [{"metric": "stale_clusters", "observed": float(len(m.stale)), "evidence": "stale: " + ", ".join(m.stale), "blocked_by": list(m.stale),
                 "confidence_impact": "needs_fresh_data"}]  # fmt: skip
    return [
        {"subject": str(w["scope"]).strip()[:LABEL_LENGTH], "evidence": sanitised(w)[:TEXT_LENGTH], "confidence_impact": "source_warning"}
        for w in scene.data_warnings
    ]


def _clusters_text(scene: Scene) -> str:
    m = scene.market
    reds, yellows = ", ".join(m.red_names) or "none", ", ".join(m.yellow_names) or "none"
    text = f"red: {reds}; yellow: {yellows}; {m.ranked} ranked"
    return text if m.score is None else f"{text}; score {m.score:g}"


# --- rows -----------------------------------------------------------------------------------------------------------------------


def prose_of(row: Any, v: Any, scene: Scene, summary: str) -> list[dict[str, str]]:
    """Return guidance and evidence of the rows in order (canary §8)."""
    texts = _row_texts(row, v, scene)
    found = []
    for number in range(len(ROW_NAMES)):
        direction, severity = int(v["row_direction"][number]), int(v["row_severity"][number])
        guidance = summary if number == R_PORTFOLIO else _DATA_GUIDANCE if direction == DATA_QUALITY else _row_guidance(number, severity)
        found.append({"guidance": guidance, "evidence": texts[number][:TEXT_LENGTH]})
    return found


def _row_guidance(number: int, severity: int) -> str:
    words = _ROW_GUIDANCE[number]
    return words[min(severity, len(words) - 1)]


def _row_texts(row: Any, v: Any, scene: Scene) -> dict[int, str]:
    m = scene.market
    name, delta_name = text_of(row, "largest_exposure"), text_of(row, "largest_delta")
    largest, largest_delta = _or_none(v["largest_exposure_pct"]), _or_none(v["largest_delta_pct"])
    cushions = f"cushion {_pct(_or_none(v['cushion_pct']))}, look-ahead {_pct(_or_none(v['look_ahead_cushion_pct']))}"
    exposure = ", ".join(
        f"{word} {_pct(_or_none(v[field]), '.0f')}"
        for word, field in (("gross", "gross_exposure_pct"), ("net delta", "net_delta_pct"), ("gross delta", "gross_delta_pct"))
    )
    missing = missing_of(row, v)
    tape = "closed date, day changes are frozen" if scene.tape_off else f"SPY {_pct(m.spy, '+.2f')}, VIX {_pct(m.vix, '+.1f')}"
    weak = "; ".join(
        f"{word}: {', '.join(names)}"
        for word, names in (
            ("no band", m.ambiguous), ("partial", m.partial), ("computing", m.computing), ("stale", m.stale), ("degraded", m.degraded),
        )
        if names
    )  # fmt: skip
    return {
        R_PORTFOLIO: f"{cushions}; {exposure}; {_clusters_text(scene)}" + (f"; not delivered: {', '.join(missing)}" if missing else ""),
        R_MARGIN: cushions,
        R_PNL: f"day {_pct(_or_none(v['daily_pnl_pct']), '+.1f')}",
        R_TAPE: tape,
        R_MARKET: _clusters_text(scene),
        R_EXPOSURE: exposure,
        R_NAME: f"largest value {name or 'none'} {_pct(largest, '.0f')}, largest delta {delta_name or 'none'} {_pct(largest_delta, '.0f')}",
        R_CONVEXITY: f"greeks of {option_greeks(row) or 'no legs'}",
        R_DATA: weak or f"{m.ranked} clusters ranked",
    }


def option_greeks(row: Any) -> str:
    """Return how many option legs have greeks, `n/m legs`; "" without option legs."""
    total = int(row["greeks_total"])
    return f"{max(int(row['greeks_coverage']), 0)}/{total} legs" if total > 0 else ""


# --- the whole ------------------------------------------------------------------------------------------------------------------


def summary_of(direction: int, severity: int, mode: int, readiness: int) -> str:
    """Return the guidance, first match (canary §12)."""
    if readiness == BLOCKED:
        return GUIDANCE["blocked"]
    if direction == DATA_QUALITY:
        return GUIDANCE["data"]
    if mode == DEFEND:
        return GUIDANCE["defend_now" if severity == URGENT else "defend"]
    return GUIDANCE[{PREPARE: "stage", DEPLOY: "deploy", TO_REBALANCE: "rebalance"}.get(mode, "hold")]


def drivers_of(signals: list[tuple[int, dict[str, Any]]], most: int) -> list[str]:
    """Return up to `most` distinct ids, the most severe first; those about data only when there is nothing else (canary §10, 4)."""
    risks = [(number, signal) for number, signal in signals if number not in DATA_SIGNALS] or signals
    ranked = sorted(risks, key=lambda item: -SEVERITIES.index(item[1]["severity"]))
    return list(dict.fromkeys(signal["id"] for _, signal in ranked))[:most]


def lifecycle_of(v: Any, signals: list[tuple[int, dict[str, Any]]], scene: Scene, confidence: str) -> dict[str, Any]:
    """Return where the portfolio stands (canary §10, 8), without its fingerprint."""
    m, stage = scene.market, int(v["stage"])
    evidence, confirmed = [], set(m.confirming)
    for number, signal in signals:
        sure = SEVERITIES.index(signal["severity"]) >= ACT and not signal.get("blocked_by")
        evidence.append({
            "source": _SOURCES[number], "signal": signal["id"], "bucket": signal["severity"],
            "timing": "contemporaneous" if sure else "forward_warning", "severity": signal["severity"], "confirmed": sure,
        })  # fmt: skip
        if sure and number not in DATA_SIGNALS:
            confirmed.add(signal["id"])
    return {
        "stage": STAGES[stage], "severity": SEVERITIES[v["severity"]], "readiness": READINESS[v["readiness"]], "timing": TIMINGS[STAGES[stage]],
        "confidence": confidence, "evidence": evidence, "confirmed_by": sorted(confirmed), "unconfirmed": list(m.unconfirmed),
        "suppressed": [] if stage in (EARLY_WARNING, CONFIRMED_STRESS, PANIC) else list(m.unconfirmed), "rejected_by": [],
        "governors": [dict(governor) for governor in m.lifecycle.get("governors") or ()],
    }  # fmt: skip


def confidence_of(v: Any) -> str:
    """Return the headline's confidence (canary §10, 5)."""
    if v["data_confidence"] == MEDIUM_LOW:
        return "medium-low"
    return "high" if v["signal_confidence"] == HIGH else "medium"


def reasons_of(row: Any, v: Any, scene: Scene) -> list[str]:
    """Return why the confidence is not higher, each cause by name."""
    m = scene.market
    lists = (
        ("unranked_clusters", m.unranked_defects), ("ambiguous_clusters", m.ambiguous), ("partial_clusters", m.partial),
        ("computing_clusters", m.computing), ("stale_clusters", m.stale), ("degraded_clusters", m.degraded), ("late_clusters", scene.late),
    )  # fmt: skip
    found = [name for name, some in lists if some] + [f"missing_{name}"[:LABEL_LENGTH] for name in missing_of(row, v)]
    if v["severity"] == WATCH and not v["press"] and not m.confirmed_tape and not m.two_red:
        found.append("no_independent_market_confirmation")
    return found


def health_of(row: Any, v: Any, scene: Scene, keys: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return how old account, positions and regime are, and what is to be said of them (canary §11). keys: of the sources."""
    facts = int(row["facts"])
    seen = {"account": facts & F_ACCOUNT, "positions": facts & F_POSITIONS, "regime": scene.regime is not None}
    times = {
        "account": int(row["account_ns"]) if facts & F_ACCOUNT and facts & F_ACCOUNT_TIME else None,
        "positions": int(row["positions_ns"]) if facts & F_POSITIONS and facts & F_POSITIONS_TIME else None,
        "regime": None if scene.regime is None else scene.regime.as_of_ns,
    }
    guarded = scene.policy.policy.switches.missing_is_state
    found = []
    for source, at in times.items():
        age = None if at is None else max(scene.now_ns - at, 0)
        late = age is not None and age > scene.max_age_s * NS
        causes = (
            (NEVER_SEEN, not seen[source]), (NO_TIME, bool(seen[source]) and at is None), (NOT_CURRENT, late),
            (IN_FUTURE, at is not None and at > scene.now_ns), (NO_NET_LIQUIDATION, source == "account" and bool(seen[source]) and not row["net_liquidation"] > 0),
        )  # fmt: skip
        found.append({
            "source": source, "as_of_ns": at,
            "age_seconds": None if age is None else age / NS, "max_age_seconds": float(scene.max_age_s), "fingerprint": keys[source],
            "notes": [note for note, holds in causes if holds],
            "refresh_state": None if not guarded else "current" if at is not None and not late else "pending",
        })  # fmt: skip
    return found


def market_block(scene: Scene) -> dict[str, Any]:
    """Return the market's summary (canary §7)."""
    m = scene.market
    return {
        "regime_verdict": m.verdict, "red_clusters": m.red, "yellow_clusters": m.yellow, "ranked_clusters": m.ranked, "unranked_clusters": m.unranked,
        "red_cluster_names": list(m.red_names), "yellow_cluster_names": list(m.yellow_names),
        "unconfirmed_red_cluster_names": list(m.unconfirmed), "ambiguous_clusters": list(m.ambiguous), "partial_clusters": list(m.partial),
        "computing_clusters": list(m.computing), "stale_clusters": list(m.stale), "degraded_clusters": list(m.degraded),
        "spy_change_pct": m.spy, "vix_change_pct": m.vix, "score": m.score,
    }  # fmt: skip


def portfolio_block(row: Any, v: Any) -> dict[str, Any]:
    """Return the metrics of the account (canary §4)."""
    fields = {
        "cushion_pct": "cushion_pct", "look_ahead_cushion_pct": "look_ahead_cushion_pct", "gross_exposure_pct_nlv": "gross_exposure_pct",
        "net_delta_pct_nlv": "net_delta_pct", "gross_delta_pct_nlv": "gross_delta_pct", "largest_exposure_pct_nlv": "largest_exposure_pct",
        "largest_delta_pct_nlv": "largest_delta_pct", "daily_pnl_pct_nlv": "daily_pnl_pct",
    }  # fmt: skip
    found: dict[str, Any] = {name: _or_none(v[field]) for name, field in fields.items()}
    return {
        "base_currency": text_of(row, "currency"),
        "net_liquidation": _or_none(row["net_liquidation"]),
        **found,
        "largest_exposure": (text_of(row, "largest_exposure") or None) if found["largest_exposure_pct_nlv"] is not None else None,
        "largest_delta_exposure": (text_of(row, "largest_delta") or None) if found["largest_delta_pct_nlv"] is not None else None,
        "option_greeks": option_greeks(row),
    }


def margin_alert_of(v: Any, scene: Scene) -> dict[str, Any] | None:
    """Return the account's own margin trouble (canary §6.9), of profiles that keep it apart from the market: state `firing`, `clear`, or `unobserved`
    when no cushion is known. metric: the worse of the two cushions; threshold: the level that matched, else that of a watch."""
    p = scene.policy.policy
    if not p.switches.margin_episode:
        return None
    levels = {OBSERVE: p.margin_watch_pct, WATCH: p.margin_watch_pct, ACT: p.margin_act_pct, URGENT: p.margin_urgent_pct}
    code = max(int(v["signals"][S_CUSHION]), int(v["signals"][S_AHEAD]))
    ahead = math.isnan(v["cushion_pct"]) or v["look_ahead_cushion_pct"] < v["cushion_pct"]
    unobserved = math.isnan(v["worst_cushion_pct"])
    return {
        "severity": SEVERITIES[code], "metric": "lookahead_cushion" if ahead and not unobserved else "cushion", "threshold": float(levels[code]),
        "state": "unobserved" if unobserved else "firing" if code != OBSERVE else "clear",
    }  # fmt: skip


def source_keys(row: Any, v: Any, scene: Scene) -> dict[str, dict[str, str]]:
    """Return the fingerprints of the three sources."""
    return {
        "account": fingerprint(ACCOUNT_VERSION, project_account(row, v)),
        "positions": fingerprint(POSITIONS_VERSION, project_positions(row, v)),
        "regime": {"version": REGIME_VERSION, "key": scene.regime_key},
    }


def outline(row: Any, v: Any, scene: Scene, keys: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    """Return of a result what its key depends on, as plain data. row: the account's facts (a record); v: its VERDICT; keys: of the sources."""
    policy = scene.policy
    direction, severity = int(v["direction"]), int(v["severity"])
    numbered = signals_of(row, v, scene)
    confidence, titles = confidence_of(v), {**TITLES, R_MARKET: scene.market_row[0], R_DATA: scene.gate_row[0]}
    return {
        "policy": policy.profile,
        "direction": DIRECTIONS[direction],
        "portfolio_posture": POSTURES[DIRECTIONS[direction]] if severity >= WATCH else "neutral",
        "severity": SEVERITIES[severity],
        "planner_mode_hint": MODES[v["mode"]],
        "planner_readiness": READINESS[v["readiness"]],
        "confidence": confidence,
        "data_confidence": CONFIDENCES[v["data_confidence"]],
        "signal_confidence": CONFIDENCES[v["signal_confidence"]],
        "primary_drivers": drivers_of(numbered, policy.policy.rules.max_drivers),
        "signals": [signal for _, signal in numbered],
        "rows": [
            {"title": titles[number], "direction": DIRECTIONS[way], "severity": SEVERITIES[level]}
            for number, (way, level) in enumerate(zip(v["row_direction"].tolist(), v["row_severity"].tolist(), strict=True))
        ],
        "market": market_block(scene),
        "lifecycle": lifecycle_of(v, numbered, scene, confidence),
        "source_health": [
            {
                "source": source, "status": STATUSES[v[f"{source}_status"]], "confidence": CONFIDENCES[v[f"{source}_confidence"]],
                "fingerprint_stability": "semantic_buckets_only",
            }
            for source in SOURCES
        ],
        "source_fingerprints": {name: dict(found) for name, found in keys.items()},
    }  # fmt: skip


def describe(row: Any, v: Any, scene: Scene) -> dict[str, Any]:
    """Return a result as plain data, without its fingerprint. Arguments as in `outline`."""
    policy = scene.policy
    keys = source_keys(row, v, scene)
    found = outline(row, v, scene, keys)
    summary = summary_of(*(int(v[name]) for name in ("direction", "severity", "mode", "readiness")))
    health = health_of(row, v, scene, {name: made["key"] for name, made in keys.items()})
    warnings = (sanitised(warning)[:TEXT_LENGTH] for warning in scene.market.warnings)
    return {
        **found,
        "as_of_ns": scene.now_ns,
        "source_as_of_ns": {entry["source"]: entry["as_of_ns"] for entry in health},
        "source_health": [{**plain, **entry} for plain, entry in zip(found["source_health"], health, strict=True)],
        "policy_version": policy.version,
        "policy_fingerprint": policy_key(policy),
        "summary": summary,
        "confidence_reasons": reasons_of(row, v, scene),
        "rows": [{**plain, **prose} for plain, prose in zip(found["rows"], prose_of(row, v, scene, summary), strict=True)],
        "portfolio": portfolio_block(row, v),
        "margin_alert": margin_alert_of(v, scene),
        "warnings": list(dict.fromkeys(text for text in warnings if text)),
    }


@cache
def _policy_key(policy: RiskPolicy) -> str:
    return policy.fingerprint


def policy_key(policy: RiskPolicy) -> str:
    """Return the policy's fingerprint, computed once for each policy."""
    return _policy_key(policy)


def render(row: Any, v: Any, scene: Scene) -> CanaryResult:
    """Return the result of one evaluation. row: the account's facts, a record with the fields FACTS; v: its VERDICT; scene: the one it was made in."""
    plain = describe(row, v, scene)
    plain["lifecycle"]["fingerprint"] = fingerprint(LIFECYCLE_VERSION, project_lifecycle(plain["lifecycle"]))
    plain["fingerprint"] = fingerprint(CANARY_VERSION, project_canary(plain))
    return CanaryResult.model_validate(plain)
