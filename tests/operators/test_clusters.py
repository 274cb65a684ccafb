"""Bands, clusters, stages and gates: every edge exactly and one step either side, and the worked cases of the rules."""

from __future__ import annotations

import ast
import itertools
import math
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from operators import clusters
from operators.clusters import (
    BREADTH,
    FUNDING,
    GAMMA,
    HYG,
    JPY,
    OAS,
    SEVERITY_RANK,
    VIX_TERM,
    VVIX,
    MarketView,
    RowInput,
    band_of,
    from_message,
    from_snapshot,
    judge,
    market_of,
    moment_ns,
    rebanded,
)
from schemas.canary import Regime
from schemas.policy import CLUSTERS, ROWS, Confirmation, RiskPolicy, Term, load_policies

POLICIES = load_policies()
DEFAULT, GUARDED = POLICIES["canary-default"], POLICIES["canary-guarded"]
BANDS = DEFAULT.policy.bands
NOW = moment_ns("2026-03-04T15:00:00-05:00")
assert NOW is not None
SATURDAY = NOW + 3 * clusters.DAY_NS


def snapshot(spy: float | None = None, vix: float | None = None, **rows: Any) -> dict[str, Any]:
    """Return a snapshot with all rows green, ok and fresh, but for what is given: a band, or fields, by row."""
    found: dict[str, Any] = {name: {"band": "green", "status": "ok", "freshness_class": "fresh"} for name in ROWS}
    for name, change in rows.items():
        found[name] |= {"band": change} if isinstance(change, str) else change
    found[HYG]["spy_change_pct"], found[VIX_TERM]["vix_change_pct"] = spy, vix
    return found


def look(policy: RiskPolicy, spy: float | None = None, vix: float | None = None, now_ns: int = NOW, **rows: Any) -> MarketView:
    return market_of(from_snapshot(snapshot(spy, vix, **rows)), policy, now_ns)


def red(depth: float | None = None, sessions: int | None = 9, **more: Any) -> dict[str, Any]:
    return {"band": "red", "depth": depth, "sessions": sessions} | more


DEEP = {VIX_TERM: 1.06, VVIX: 121.0, HYG: 1.5, OAS: 7.0, FUNDING: 110.0, JPY: 8.0, GAMMA: 5.0, BREADTH: 12.0}


# --- bands ----------------------------------------------------------------------------------------------------------------------


def row(**values: float | None) -> RowInput:
    return RowInput(values=values)


def gamma(gap: float | None = None, sign: float | None = None) -> RowInput:
    return row(gap_pct=gap, gamma_sign=sign)


EDGES: list[tuple[str, Callable[[float], RowInput], float, str, str]] = [
    # row, value → row, the edge, band below it, band at it and above
    (VIX_TERM, lambda x: row(vix=x, vix3m=20.0), 18.4, "green", "yellow"),
    (VIX_TERM, lambda x: row(vix=x, vix3m=20.0), 20.0, "yellow", "red"),
    (VIX_TERM, lambda x: row(ratio=x), 0.92, "green", "yellow"),
    (VVIX, lambda x: row(last=x), 90.0, "green", "yellow"),
    (VVIX, lambda x: row(last=x), 110.0, "yellow", "red"),
    (HYG, lambda x: row(hyg_price=x, hyg_50dma=80.0, spy_price=400.0, spy_52w_high=500.0), 80.0, "yellow", "green"),
    (HYG, lambda x: row(hyg_price=79.0, hyg_50dma=80.0, spy_price=x, spy_52w_high=500.0), 485.0, "yellow", "red"),
    (OAS, lambda x: row(hy_oas=x, hy_oas_20d_change=0.0), 4.0, "green", "yellow"),
    (OAS, lambda x: row(hy_oas=x, hy_oas_20d_change=0.0), 5.5, "yellow", "red"),
    (OAS, lambda x: row(hy_oas=3.0, hy_oas_20d_change=x), 0.5, "green", "yellow"),
    (OAS, lambda x: row(hy_oas=3.0, hy_oas_20d_change=x), 1.0, "yellow", "red"),
    (FUNDING, lambda x: row(cp_3m_rate=x, tbill_3m_rate=0.34), 0.59, "green", "yellow"),
    (FUNDING, lambda x: row(cp_3m_rate=x, tbill_3m_rate=0.34), 1.09, "yellow", "red"),
    (FUNDING, lambda x: row(spread_bps=x), 25.0, "green", "yellow"),
    (JPY, lambda x: row(last=100.0, close_7d_ago=x), 100 / 0.99, "green", "yellow"),
    (JPY, lambda x: row(weekly_change_pct=-x), 2.0, "yellow", "red"),
    (GAMMA, lambda x: gamma(-x), -2.0, "green", "yellow"),
    (BREADTH, lambda x: row(pct_above_50dma=x), 40.0, "red", "yellow"),
]


@pytest.mark.parametrize(("name", "make", "edge", "below", "from_edge"), EDGES)
def test_a_band_changes_exactly_at_its_edge(name: str, make: Callable[[float], RowInput], edge: float, below: str, from_edge: str) -> None:
    low, high = edge * 0.99 if edge > 0 else edge * 1.01, edge * 1.01 if edge > 0 else edge * 0.99
    assert band_of(name, make(low), BANDS) == below
    assert band_of(name, make(high), BANDS) == from_edge
    while math.nextafter(low, high) < high:
        middle = (low + high) / 2
        if band_of(name, make(middle), BANDS) == below:
            low = middle
        else:
            high = middle
    assert high == pytest.approx(edge, rel=1e-15, abs=0)
    assert band_of(name, make(low), BANDS) == below
    if name != JPY:  # there the edge is no decimal
        assert high == edge


@pytest.mark.parametrize(
    ("name", "found", "band"),
    [
        (GAMMA, gamma(2.0), "yellow"),
        (GAMMA, gamma(math.nextafter(2.0, 3)), "green"),
        (GAMMA, gamma(-2.0), "yellow"),
        (GAMMA, gamma(math.nextafter(-2.0, -3)), "red"),
        (GAMMA, gamma(None, 1), "green"),
        (GAMMA, gamma(None, -1), "red"),
        (GAMMA, gamma(None, 0), None),
        (GAMMA, gamma(), None),
        (BREADTH, row(pct_above_50dma=55.0), "yellow"),
        (BREADTH, row(pct_above_50dma=math.nextafter(55.0, 56)), "green"),
        (BREADTH, row(pct_above_50dma=40.0), "yellow"),
        (BREADTH, row(pct_above_50dma=math.nextafter(40.0, 39)), "red"),
        (JPY, row(last=99.0, close_7d_ago=100.0), "yellow"),
        (JPY, row(last=108.9, close_7d_ago=110.0), "yellow"),  # exactly 1 %, which no float division gives
        (JPY, row(last=107.8, close_7d_ago=110.0), "red"),
        (JPY, row(last=103.0, close_7d_ago=100.0), "green"),
        (FUNDING, row(cp_3m_rate=0.59, tbill_3m_rate=0.34), "yellow"),  # 25 bp; the difference of the floats is less
        (FUNDING, row(cp_3m_rate=None, tbill_3m_rate=0.34), None),
        (HYG, row(hyg_price=80.0, hyg_50dma=80.0), "green"),
        (HYG, row(hyg_price=79.99, hyg_50dma=80.0), None),
        (HYG, row(hyg_price=79.99, hyg_50dma=80.0, spy_price=485.0, spy_52w_high=500.0), "red"),
        (HYG, row(hyg_price=79.99), None),
        (OAS, row(hy_oas=4.2), "yellow"),
        (OAS, row(hy_oas_20d_change=2.0), None),
        (VIX_TERM, row(vix=20.0), None),
        (VVIX, row(), None),
        (BREADTH, row(pct_above_50dma=math.nan), None),
    ],
)
def test_bands_of_single_values(name: str, found: RowInput, band: str | None) -> None:
    assert band_of(name, found, BANDS) == band


def combined(spy: dict[str, Any], spx: dict[str, Any]) -> RowInput:
    return RowInput(status="ok", envelope={"status": "ready", "result": {"per_index": {"SPY": spy, "SPX": spx}}})


@pytest.mark.parametrize(
    ("spy", "spx", "band"),
    [
        ({"gap_pct": 3.0}, {"gap_pct": 4.0}, "green"),
        ({"gap_pct": -9.0}, {"gap_pct": 1.0}, "yellow"),  # the stand-in weights: SPX is all
        ({"gap_pct": 1.0}, {"gap_pct": -9.0}, "red"),
        ({"gap_pct": -9.0, "gamma_total_abs": 50.0}, {"gap_pct": 1.0, "gamma_total_abs": 50.0}, "red"),  # half suffices
        ({"gap_pct": -9.0, "gamma_total_abs": 49.9}, {"gap_pct": 1.0, "gamma_total_abs": 50.0}, "yellow"),
        ({"gap_pct": -9.0, "gamma_total_abs": 50.0}, {"gap_pct": 9.0}, "yellow"),  # a weight is missing: stand-ins for both
        ({"gap_pct": 3.0}, {"gap_pct": 1.0}, "yellow"),
        ({"gamma_sign": "short"}, {"gamma_sign": "short"}, "red"),
        ({"gap_pct": 3.0}, {}, "green"),
        ({}, {}, None),
    ],
)
def test_combined_gamma(spy: dict[str, Any], spx: dict[str, Any], band: str | None) -> None:
    assert band_of(GAMMA, combined(spy, spx), BANDS) == band


def test_rebanding_uses_raw_values_and_leaves_rows_without_them_alone() -> None:
    obj = snapshot(
        vix_term_structure={"band": "green", "vix": 30.0, "vix3m": 25.0},
        vol_of_vol={"band": "red"},
        funding_stress={"band": "green", "status": "error", "cp_3m_rate": 5.0, "tbill_3m_rate": 3.0},
        usd_jpy={"band": "yellow", "band_held": True, "last": 100.0, "close_7d_ago": 100.0},
        breadth={"band": None, "envelope": {"state": "ready", "pct_above_50dma": 39.0}},
        gamma_zero={"band": "red", "status": "stale", "envelope": {"status": "ready", "result": {"gap_pct": 5.0}}},
    )
    obj[OAS] = {"hy_oas": 6.0}
    obj["composite"] = {"verdict": "x"}
    found = rebanded(from_snapshot(obj), DEFAULT)
    assert [found.rows[name].band for name in ROWS] == ["red", "red", "green", "red", None, "yellow", None, "red"]
    assert found.rows[OAS].status == "ok"
    assert found.composite is None


# --- snapshots ------------------------------------------------------------------------------------------------------------------


def test_a_snapshot_is_read_and_nothing_is_made_up() -> None:
    found = from_snapshot(
        {
            "as_of": {"label": "close", "time": "2026-03-04T20:00:00.5Z", "date": "2026-03-04"},
            VIX_TERM: {
                "band": " RED ",
                "status": "ok",
                "vix": 20,
                "vix3m": None,
                "vix_change_pct": 3.5,
                "as_of": "2026-03-04",
                "symbol": "VIX",
                "x": True,
            },
            HYG: {"band": "unranked", "status": "stale", "spy_change_pct": -1, "fields_missing": ["spy_price"]},
            GAMMA: {
                "status": "ok",
                "envelope": {"status": "ready", "result": {"gap_pct": -1.5, "gamma_sign": "short", "gamma_total_abs": 2e9}},
            },
            BREADTH: {"envelope": {"state": "cold", "pct_above_50dma": None}},
            "usd_jpy": None,
            "summary": {"confidence": "medium"},
            "fingerprint": {"key": "sha256:1"},
            "warning_details": [{"code": "a"}, 3],
        }
    )
    assert tuple(found.rows) == ROWS
    assert (found.spy_change_pct, found.vix_change_pct, found.session_date) == (-1.0, 3.5, "2026-03-04")
    assert found.as_of_ns == moment_ns("2026-03-04T20:00:00+00:00") + 500_000_000  # type: ignore[operator]
    term = found.rows[VIX_TERM]
    assert (term.band, term.values["vix"], term.values["vix3m"], "x" in term.values) == ("red", 20.0, None, False)
    assert (found.rows[HYG].band, found.rows[HYG].fields_missing) == (None, ("spy_price",))
    assert (found.rows[GAMMA].value("gap_pct"), found.rows[GAMMA].value("gamma_sign")) == (-1.5, -1.0)
    assert found.rows[BREADTH].value("pct_above_50dma") is None
    assert found.rows[JPY] == RowInput()
    assert (found.summary_confidence, found.fingerprint_key, found.warnings) == ("medium", "sha256:1", ({"code": "a"},))
    assert found.composite is found.lifecycle is None


def test_a_row_nobody_spoke_of_is_ambiguous() -> None:
    view = market_of(from_snapshot({}), DEFAULT, NOW)
    assert (view.ranked, view.ambiguous, view.verdict) == (0, tuple(sorted(CLUSTERS)), clusters.VERDICT_NONE)
    assert view.lifecycle["stage"] == "data_quality"


# --- clusters and downgrades ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "served", "unconfirmed"),
    [
        ({"rows": {HYG: "red"}}, {"credit": "yellow"}, ("credit",)),
        ({"rows": {HYG: "red", OAS: "red"}}, {"credit": "red"}, ()),
        ({"rows": {HYG: "red", FUNDING: "red"}}, {"credit": "red", "funding": "red"}, ()),
        ({"rows": {JPY: "red"}}, {"fx": "yellow"}, ("fx",)),
        ({"rows": {JPY: "red", HYG: "red"}}, {"fx": "red", "credit": "red"}, ()),
        ({"rows": {VVIX: red(last=112.0)}, "spy": 0.2}, {"vol": "yellow"}, ("vol",)),
        ({"rows": {VVIX: red(last=120.0)}, "spy": 0.2}, {"vol": "red"}, ()),
        ({"rows": {VVIX: red(last=119.99)}}, {"vol": "yellow"}, ("vol",)),
        ({"rows": {VVIX: "red"}}, {"vol": "yellow"}, ("vol",)),
        ({"rows": {VVIX: "red"}, "spy": -1.0}, {"vol": "red"}, ()),
        ({"rows": {VVIX: "red"}, "spy": -0.99}, {"vol": "yellow"}, ("vol",)),
        ({"rows": {VVIX: "red"}, "vix": 20.0}, {"vol": "red"}, ()),
        ({"rows": {VVIX: "red", VIX_TERM: "red"}}, {"vol": "red"}, ()),
        ({"rows": {VVIX: "red", HYG: "red"}}, {"vol": "red", "credit": "red"}, ()),  # both raw reds stand: (c) looks after (a)
        ({"rows": {VVIX: "red", GAMMA: "red"}}, {"vol": "red", "gamma": "red"}, ()),
        ({"rows": {BREADTH: "red"}}, {"breadth": "red"}, ()),
    ],
)  # fmt: skip
def test_isolated_reds_are_served_yellow(given: dict[str, Any], served: dict[str, str], unconfirmed: tuple[str, ...]) -> None:
    view = look(DEFAULT, given.get("spy"), given.get("vix"), **given["rows"])
    assert view.served == dict.fromkeys(CLUSTERS, "green") | served
    assert view.unconfirmed == unconfirmed
    assert view.red_names == tuple(sorted(name for name, band in served.items() if band == "red"))


def test_quality_lists() -> None:
    view = look(
        DEFAULT,
        vix_term_structure={"status": "stale"},
        credit_spreads={"band": None, "status": "error"},
        funding_stress={"band": None, "status": "error"},
        gamma_zero={"band": "red", "envelope": {"result": {"summary": {"confidence": "degraded"}}}},
        breadth={"band": None, "status": "computing"},
    )
    assert (view.stale, view.partial, view.ambiguous) == (("vol",), ("credit",), ("breadth", "funding"))
    assert (view.computing, view.degraded, view.data_issue, view.unranked) == (("breadth",), ("gamma",), True, 2)
    health = {entry["source"]: (entry["status"], entry["confidence"]) for entry in view.source_health}
    assert health == {
        "vol": ("stale", "medium"), "credit": ("partial", "medium"), "funding": ("error", "low"), "fx": ("ok", "high"), "gamma": ("ok", "high"),
        "breadth": ("computing", "low"),
    }  # fmt: skip


def test_a_composite_that_disagrees_is_told_and_not_believed() -> None:
    obj = snapshot(breadth="red") | {"composite": {"verdict": "Normal regime", "cluster_red_count": 0, "ranked_count": 8}}
    view = market_of(from_snapshot(obj), DEFAULT, NOW)
    assert view.verdict == clusters.VERDICT_STRESS
    assert [w["code"] for w in view.warnings] == ["composite_mismatch"]
    assert "ranked_count" not in view.warnings[0]["message"]


def test_clusters_without_a_feed_by_design_are_no_defect() -> None:
    policy = changed(GUARDED, switches={"not_configured_clusters": ("gamma",)})
    view = look(policy, gamma_zero={"band": None, "status": "unavailable", "freshness_class": None})
    assert (view.not_configured, view.ambiguous, view.unranked, view.unranked_defects, view.defects) == (("gamma",), (), 1, 0, ())
    assert view.lifecycle["stage"] == "quiet"
    assert view.source_health[4]["status"] == "not_configured"


def changed(policy: RiskPolicy, **groups: Any) -> RiskPolicy:
    """Return a policy with fields of groups replaced."""
    inner = policy.policy.model_copy(
        update={
            name: item if not isinstance(item, dict) else getattr(policy.policy, name).model_copy(update=item)
            for name, item in groups.items()
        }
    )
    return policy.model_copy(update={"policy": inner})


# --- stages and verdicts --------------------------------------------------------------------------------------------------------

ALL_RED = dict.fromkeys(ROWS, "red")
FUND_BREADTH = {FUNDING: "red", BREADTH: "red"}


@pytest.mark.parametrize(
    ("spy", "vix", "rows", "stage", "verdict"),
    [
        (None, None, {}, "quiet", clusters.VERDICT_NORMAL),
        (-4.0, 30.0, {key: {"band": None} for key in ROWS[:6]}, "data_quality", clusters.VERDICT_FEW),
        (None, None, ALL_RED, "panic", clusters.VERDICT_FULL),
        (None, None, FUND_BREADTH | {GAMMA: "red"}, "panic", clusters.VERDICT_BROAD),
        (-4.0, None, {BREADTH: "red"}, "panic", clusters.VERDICT_STRESS),
        (-7.0, None, {}, "panic", clusters.VERDICT_NORMAL),
        (-6.99, None, {}, "early_warning", clusters.VERDICT_NORMAL),
        (None, None, FUND_BREADTH, "confirmed_stress", clusters.VERDICT_STRESS),
        (-2.5, None, {BREADTH: "red"}, "confirmed_stress", clusters.VERDICT_STRESS),
        (-2.49, None, {BREADTH: "red"}, "early_warning", clusters.VERDICT_STRESS),
        (None, 20.0, {BREADTH: "red"}, "confirmed_stress", clusters.VERDICT_STRESS),
        (None, 19.99, {BREADTH: "red"}, "early_warning", clusters.VERDICT_STRESS),
        (-4.0, None, {BREADTH: "yellow", FUNDING: "yellow"}, "confirmed_stress", clusters.VERDICT_NORMAL),
        (None, None, {BREADTH: "yellow", FUNDING: "yellow", JPY: "yellow"}, "early_warning", clusters.VERDICT_ELEVATED),
        (None, None, {JPY: "red"}, "early_warning", clusters.VERDICT_NORMAL),
        (-1.5, None, {}, "early_warning", clusters.VERDICT_NORMAL),
        (-1.49, None, {}, "quiet", clusters.VERDICT_NORMAL),
        (None, 10.0, {}, "early_warning", clusters.VERDICT_NORMAL),
        (1.5, -10.0, {BREADTH: "yellow"}, "opportunity", clusters.VERDICT_NORMAL),
        (1.5, -9.99, {BREADTH: "yellow"}, "stabilization", clusters.VERDICT_NORMAL),
        (1.5, -9.99, {}, "quiet", clusters.VERDICT_NORMAL),
        (1.0, None, {BREADTH: "yellow", FUNDING: "yellow"}, "stabilization", clusters.VERDICT_NORMAL),
        (0.99, None, {BREADTH: "yellow"}, "quiet", clusters.VERDICT_NORMAL),
        (None, -10.0, {BREADTH: "yellow"}, "stabilization", clusters.VERDICT_NORMAL),
    ],
)  # fmt: skip
def test_stage_and_verdict(spy: float | None, vix: float | None, rows: dict[str, Any], stage: str, verdict: str) -> None:
    view = look(DEFAULT, spy, vix, **rows)
    assert (view.lifecycle["stage"], view.verdict) == (stage, verdict)


def test_lifecycle_of_a_quiet_market_names_what_was_rejected() -> None:
    view = look(DEFAULT, 0.1, -1.0, breadth="yellow", funding_stress={"band": None})
    life = view.lifecycle
    assert (life["rejected_by"], life["suppressed"], life["confidence"]) == (["breadth"], [], "medium")
    assert [item["source"] for item in life["evidence"]] == ["vol", "credit", "fx", "gamma", "breadth", "spy", "vix"]
    assert look(DEFAULT, 1.0, None, breadth="yellow", usd_jpy="red").lifecycle["stage"] == "early_warning"


def test_evidence_of_red_clusters_and_tape() -> None:
    view = look(DEFAULT, -2.5, 10.0, breadth="red", usd_jpy="green")
    by = {item["source"]: item for item in view.lifecycle["evidence"]}
    assert by["breadth"] == {
        "source": "breadth",
        "signal": "cluster",
        "bucket": "red",
        "timing": "contemporaneous",
        "severity": "act",
        "confirmed": True,
    }
    assert by["spy"] == {
        "source": "spy",
        "signal": "tape",
        "bucket": "red",
        "timing": "contemporaneous",
        "severity": "act",
        "confirmed": True,
    }
    assert by["vix"] == {
        "source": "vix",
        "signal": "tape",
        "bucket": "yellow",
        "timing": "forward_warning",
        "severity": "watch",
        "confirmed": False,
    }


def test_tape_rules() -> None:
    assert look(DEFAULT, -2.5, 10.0).confirmed_tape
    assert not look(DEFAULT, -2.5, 9.9).confirmed_tape
    assert look(DEFAULT, -2.5, None, breadth="red").confirmed_tape
    assert look(DEFAULT, -1.5, 20.0).confirmed_tape
    assert not look(DEFAULT, -1.4, 20.0).confirmed_tape
    assert look(DEFAULT, -1.5, 10.0, breadth="red").confirmed_tape
    assert not look(DEFAULT, -1.5, 10.0).confirmed_tape
    carry = look(DEFAULT, -2.0, 16.0, usd_jpy="red", vix_term_structure="yellow", breadth="yellow")
    assert carry.fast_carry
    assert carry.confirmed_tape
    assert carry.stressed
    assert (carry.stress_confirmed, carry.stress_early, carry.red) == (False, False, 0)
    assert look(DEFAULT, None, None, usd_jpy="red", breadth="yellow").fast_carry
    assert not look(DEFAULT, None, None, usd_jpy="red").fast_carry
    assert look(DEFAULT, -1.5, 10.0).selloff_by_market
    assert not look(DEFAULT, -2.6, 9.0).selloff_by_market
    assert look(DEFAULT, None, None, breadth="red").selloff_by_market
    assert look(DEFAULT, -1.5).spike_confirmed
    assert not look(DEFAULT, -1.4).spike_confirmed


def test_early_stress() -> None:
    view = look(DEFAULT, vix_term_structure="red", vol_of_vol="red", breadth="yellow")
    assert (view.stress_early, view.early_filtered, view.early_observed, view.stress_confirmed) == (True, True, 1.0, False)
    assert not look(DEFAULT, breadth="red").stress_early
    assert look(DEFAULT, breadth="yellow", funding_stress="yellow", usd_jpy="yellow").deteriorating


def test_a_confirming_red_is_not_its_own_second_opinion() -> None:
    """Where yellow counts mean yellow or worse, the red itself is not the yellow beside it."""
    alone = look(GUARDED, 0.1, 0.0, breadth=red(5.0, 2))
    assert (alone.confirming, alone.stress_early, alone.early_filtered) == (("breadth",), False, False)
    beside = look(GUARDED, 0.1, 0.0, breadth=red(5.0, 2), funding_stress="yellow")
    assert (beside.stress_early, beside.early_filtered) == (True, True)
    shallow = look(GUARDED, 0.1, 0.0, breadth=red(5.0, 2), gamma_zero=red(0.1, 1))
    assert (shallow.stress_early, shallow.early_filtered, shallow.provisional) == (True, True, ("gamma",))


# --- gates ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "freshness", "depth", "sessions", "latched", "found"),
    [
        (HYG, "fresh", 0.07, 1, False, "depth_below_min"),
        (HYG, "fresh", 0.4, 1, False, "streak_1_of_2"),
        (HYG, "fresh", 0.4, 2, False, "eligible"),
        (HYG, "fresh", 1.3, 1, False, "eligible"),
        (HYG, "fresh", 0.1, 1, True, "eligible"),
        (HYG, "fresh", 0.25, 2, False, "eligible"),
        (HYG, "fresh", 1.0, 1, False, "eligible"),
        (HYG, "fresh", math.nextafter(1.0, 0), 1, False, "streak_1_of_2"),
        (HYG, "fresh", None, 5, False, "depth_missing"),
        (VIX_TERM, "fresh", 1.01, 1, False, "streak_1_of_2"),
        (VIX_TERM, "fresh", 1.06, 1, False, "eligible"),
        (GAMMA, "fresh", 0.2, 1, False, "depth_below_min"),
        (GAMMA, "fresh", 0.5, None, False, "eligible"),
        (FUNDING, "fresh", None, 1, False, "eligible"),
        (BREADTH, "fresh", 3.0, None, False, "streak_1_of_2"),
        (HYG, "not_due", 9.0, 9, True, "data_not_due"),
        (HYG, "pending", 9.0, 9, True, "data_refresh_pending"),
        (HYG, "stale", 9.0, 9, True, "data_stale"),
        (HYG, "overdue", 9.0, 9, True, "data_overdue"),
        (HYG, "fresher_than_fresh", 9.0, 9, True, "data_overdue"),
    ],
)
def test_gate(name: str, freshness: str, depth: float | None, sessions: int | None, latched: bool, found: str) -> None:
    assert judge(clusters.gate_of(GUARDED, name), freshness, depth, sessions, latched) == found
    if not latched:
        row = red(depth, sessions, freshness_class=freshness)
        assert look(GUARDED, **{name: row}).eligibility == {name: found}
    else:  # the builder knows of the latch and says so
        row = red(depth, sessions, freshness_class=freshness, eligibility="eligible")
        assert look(GUARDED, **{name: row}).eligibility == {name: found}


def test_a_row_without_a_class_and_a_held_row_confirm_nothing() -> None:
    assert look(GUARDED, breadth=red(12.0, freshness_class=None)).eligibility == {BREADTH: "data_overdue"}
    assert look(GUARDED, breadth=red(12.0, band_held=True, status="error")).eligibility == {BREADTH: "data_overdue"}
    assert look(GUARDED, breadth=red(12.0, band_held=True)).eligibility == {BREADTH: "data_stale"}


def test_l1_neither_a_shallow_nor_an_old_red_confirms_or_rescues_the_other() -> None:
    view = look(GUARDED, 0.1, 1.0, hyg_spy_divergence=red(0.07, 1), gamma_zero=red(3.0, 1, freshness_class="stale"))
    assert view.eligibility == {HYG: "depth_below_min", GAMMA: "data_stale"}
    assert (view.confirming, view.unconfirmed) == ((), ("credit", "gamma"))
    assert (view.stressed, view.stress_confirmed, view.any_red) == (False, False, False)
    assert SEVERITY_RANK[view.lifecycle["severity"]] < SEVERITY_RANK["act"]
    assert view.served["credit"] == "yellow"


def test_l2_an_isolated_vvix_red_is_normal() -> None:
    for policy in (DEFAULT, GUARDED):
        view = look(policy, 0.2, 1.0, vol_of_vol=red(112.0, 1, last=112.0))
        assert (view.served["vol"], view.verdict, view.unconfirmed) == ("yellow", "Normal regime", ("vol",))


def test_l5_on_closed_dates_the_tape_is_silent() -> None:
    open_view, closed = look(GUARDED, -3.0, 25.0), look(GUARDED, -3.0, 25.0, now_ns=SATURDAY)
    assert open_view.confirmed_tape
    assert (closed.spy, closed.vix, closed.confirmed_tape, closed.lifecycle["stage"]) == (None, None, False, "quiet")
    assert look(DEFAULT, -3.0, 25.0, now_ns=SATURDAY).confirmed_tape
    holiday = market_of(from_snapshot(snapshot(-3.0, 25.0) | {"closed": True}), GUARDED, NOW)
    assert (holiday.closed, holiday.spy) == (True, None)


def test_a_replay_dated_by_midnight_utc_is_of_its_own_date() -> None:
    regime = from_snapshot(snapshot(-3.0, 25.0) | {"session_date": "2026-03-09"})  # a Monday; midnight UTC is Sunday evening in New York
    moment = moment_ns("2026-03-09T00:00:00Z")
    assert moment is not None
    assert not market_of(regime, GUARDED, moment).closed
    assert market_of(replace(regime, session_date=None), GUARDED, moment).closed


def test_l6_one_feed_down_is_degraded_two_are_no_state() -> None:
    down = {"band": None, "status": "error", "freshness_class": "overdue"}
    one = look(GUARDED, 0.1, 0.0, gamma_zero=down)
    assert (one.lifecycle["stage"], one.lifecycle["readiness"], one.lifecycle["confidence"]) == ("quiet", "degraded", "medium")
    assert one.lifecycle["governors"] == [
        {"action": "cap_readiness", "from": "ready", "to": "degraded", "reason": "input_currency", "clusters": ["gamma"]}
    ]
    two = look(GUARDED, 0.1, 0.0, gamma_zero=down, usd_jpy={"freshness_class": "stale"})
    life = two.lifecycle
    assert (life["stage"], life["severity"], life["readiness"], life["confidence"]) == ("data_quality", "watch", "blocked", "low")
    assert two.verdict == clusters.VERDICT_UNDEFINED
    assert life["governors"][0]["clusters"] == ["fx", "gamma"]
    lost = market_of(from_snapshot(snapshot(0.1) | {"data_quality": [{"surface": "feeds", "status": "degraded"}]}), GUARDED, NOW)
    assert lost.lifecycle["stage"] == "data_quality"


def test_a_stage_that_rests_on_a_defective_cluster_is_no_state() -> None:
    rows = {BREADTH: "yellow", FUNDING: "yellow", HYG: "yellow", OAS: {"band": None, "status": "error", "freshness_class": "overdue"}}
    assert look(GUARDED, 0.1, 0.0, **rows).lifecycle["stage"] == "data_quality"
    assert look(GUARDED, 0.1, 0.0, **rows, usd_jpy="yellow").lifecycle["stage"] == "early_warning"  # it stands without it


def test_l9_the_governor_holds_a_stress_nobody_co_signs() -> None:
    rows = {FUNDING: red(80.0, 1), BREADTH: red(5.0, 2), VIX_TERM: {"vix": 17.0, "vix3m": 20.0}}
    held = look(GUARDED, 0.2, -1.0, **rows)
    assert (held.lifecycle["stage"], held.governed_severity, held.verdict) == ("confirmed_stress", "watch", clusters.VERDICT_CONFIRMED)
    assert held.lifecycle["governors"] == [
        {
            "action": "cap_severity",
            "from": "act",
            "to": "watch",
            "reason": "pending_backtest_no_tape_cosign",
            "clusters": ["breadth", "funding"],
        }
    ]
    assert (held.stress_confirmed, held.stress_severity, held.stressed, held.convexity) == (True, "watch", False, False)
    for spy, vix, term in ((-1.6, -1.0, 17.0), (0.2, 10.0, 17.0), (0.2, -1.0, 20.0)):
        signed = look(GUARDED, spy, vix, **(rows | {VIX_TERM: {"vix": term, "vix3m": 20.0}}))
        assert (signed.governed_severity, signed.stressed, signed.stress_severity) == ("act", True, "act")
    assert (
        look(GUARDED, 0.2, -1.0, **(rows | {VIX_TERM: {"vix": 20.0, "vix3m": 20.0, "freshness_class": "stale"}})).governed_severity
        == "watch"
    )


def test_the_governor_s_other_cases() -> None:
    three = {FUNDING: red(80.0, 1), BREADTH: red(5.0, 2), GAMMA: red(1.0, 1)}
    assert (look(GUARDED, 0.2, 0.0, **three).lifecycle["stage"], look(GUARDED, 0.2, 0.0, **three).governed_severity) == ("panic", "act")
    crash = look(GUARDED, -4.2, 0.0, breadth=red(5.0, 2))
    assert (crash.lifecycle["stage"], crash.governed_severity, crash.lifecycle["governors"]) == ("panic", "urgent", [])
    late = look(GUARDED, -1.6, 0.0, funding_stress=red(80.0, 1), vix_term_structure=red(1.06, 1), vol_of_vol={"freshness_class": "not_due"})
    assert (late.not_current, late.governed_severity) == (("vol",), "watch")
    assert late.lifecycle["governors"][0]["reason"] == "confirming_cluster_quality"


def test_a_builder_s_severity_is_never_outdone() -> None:
    obj = snapshot(-1.6, 0.0, funding_stress=red(80.0, 1), breadth=red(5.0, 2))
    obj["lifecycle"] = {"severity": "watch", "governors": [{"action": "cap_severity", "reason": "x"}]}
    view = market_of(from_snapshot(obj), GUARDED, NOW)
    assert (view.governed_severity, view.stress_severity, view.stressed) == ("watch", "watch", False)


def test_l10_a_class_does_not_outlive_the_maximum_age() -> None:
    old = NOW - 3 * clusters.DAY_NS
    row = red(5.0, 1, freshness_class="not_due", as_of_ns=old)
    assert look(GUARDED, gamma_zero=row).eligibility == {GAMMA: "data_not_due"}
    view = look(GUARDED, gamma_zero=row, now_ns=NOW + 1)
    assert (view.eligibility, view.defects) == ({GAMMA: "data_overdue"}, ("gamma",))
    assert look(GUARDED, gamma_zero=row).valid_until_ns == NOW


def test_fast_carry_needs_a_fresh_row_when_classes_count() -> None:
    assert look(GUARDED, -2.0, 16.0, usd_jpy=red(2.5, 1)).fast_carry
    assert not look(GUARDED, -2.0, 16.0, usd_jpy=red(2.5, 1, freshness_class="pending")).fast_carry


def test_overdue_reds_are_shown_but_do_not_warn() -> None:
    view = look(GUARDED, 0.1, 0.0, breadth=red(9.0, 3, status="error", band_held=True))
    assert (view.red_names, view.unconfirmed, view.lifecycle["stage"], view.partial) == (("breadth",), ("breadth",), "quiet", ("breadth",))
    assert view.lifecycle["readiness"] == "degraded"


ORDER = {"quiet": 0, "stabilization": 0, "opportunity": 0, "early_warning": 1, "confirmed_stress": 2, "panic": 3}
TAPES = ((None, None), (0.2, -1.0), (-1.6, 4.0), (-2.6, 25.0), (-4.2, 12.0), (1.2, 0.0), (1.6, -12.0))


@pytest.mark.parametrize("tape", TAPES)
@pytest.mark.parametrize("kind", ["eligible", "shallow", "mixed", "one row red"])
def test_l7_a_worse_cluster_never_makes_the_market_calmer(tape: tuple[float | None, float | None], kind: str) -> None:
    members = {cluster: clusters.MEMBERS[cluster] if kind != "one row red" else clusters.MEMBERS[cluster][-1:] for cluster in CLUSTERS}

    def rows_of(vector: tuple[str, ...]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for number, (cluster, band) in enumerate(zip(CLUSTERS, vector, strict=True)):
            sure = kind in ("eligible", "one row red") or (kind == "mixed" and number % 2 == 0)
            for name in members[cluster]:
                found[name] = {"band": band} | (
                    {"depth": DEEP[name], "sessions": 2} if sure else {"depth": 0.0, "sessions": 1, "eligibility": "depth_below_min"}
                )
        return found

    seen: dict[tuple[str, ...], tuple[int, int, str]] = {}
    for vector in itertools.product(clusters.BANDS, repeat=6):
        view = look(GUARDED, *tape, **rows_of(vector))
        stage = view.lifecycle["stage"]
        seen[vector] = ORDER[stage], SEVERITY_RANK[view.governed_severity], stage
    for vector, (stage_rank, severity, stage) in seen.items():
        for i, band in enumerate(vector):
            for worse in clusters.BANDS[clusters.BANDS.index(band) + 1 :]:
                after = seen[(*vector[:i], worse, *vector[i + 1 :])]
                assert after[0] >= stage_rank, (vector, i, worse)
                # an opportunity is a `watch` that ends when the market gets a little worse: good news, not an alarm
                assert after[1] >= severity or stage == "opportunity", (vector, i, worse)


# --- score ----------------------------------------------------------------------------------------------------------------------


def scored(**levels: float) -> RiskPolicy:
    terms = (
        Term(id="curve", feature="vix_term", side="above", levels=(0.92, 1.0), points=(1, 3)),
        Term(id="day", feature="spy_change_pct", side="below", levels=(-1.5, -2.5), points=(1, 3)),
        Term(id="funding", feature="funding_bps", side="above", levels=(25,), points=(2,)),
    )
    return changed(DEFAULT, confirmation=Confirmation(watch=2, act=4, urgent=8, terms=terms).model_copy(update=levels))


@pytest.mark.parametrize(
    ("spy", "vix", "cp", "score", "stage"),
    [
        (0.0, 10.0, None, 0.0, "quiet"),
        (-1.5, 18.4, None, 2.0, "early_warning"),
        (-2.5, 18.4, None, 4.0, "confirmed_stress"),
        (-2.5, 20.0, 0.59, 8.0, "panic"),
        (-2.5, 20.0, 0.58, 6.0, "confirmed_stress"),
        (None, None, None, 0.0, "quiet"),
    ],
)
def test_score(spy: float | None, vix: float | None, cp: float | None, score: float, stage: str) -> None:
    rows = {VIX_TERM: {"vix": vix, "vix3m": 20.0}, FUNDING: {"cp_3m_rate": cp, "tbill_3m_rate": 0.34}}
    view = look(scored(), spy, None, **rows)
    assert (view.score, view.lifecycle["stage"]) == (score, stage)
    sure = score >= 4
    assert (view.any_red, view.stressed, view.selloff_by_market, view.spike_confirmed, view.stress_confirmed, view.two_red) == (sure,) * 6
    assert (view.three_red, view.stress_early, view.verdict) == (score >= 8, 2 <= score < 4, "Normal regime")
    assert [term[0] for term in view.score_terms] == ["curve", "day", "funding"]
    assert sum(term[3] for term in view.score_terms) == score
    if sure:
        assert (view.stress_threshold, view.stress_observed, view.stress_severity) == (4.0, score, "act")
        assert view.lifecycle["confirmed_by"] == [term[0] for term in view.score_terms if term[3] > 0]


def test_by_score_reds_alone_confirm_nothing() -> None:
    view = look(scored(), 0.0, 0.0, funding_stress="red", breadth="red", gamma_zero="red")
    assert (view.red, view.confirming, view.any_red, view.lifecycle["stage"], view.verdict) == (
        3,
        (),
        False,
        "quiet",
        "Broad stress regime",
    )


# --- messages -------------------------------------------------------------------------------------------------------------------


def test_messages_and_snapshots_give_the_same_view() -> None:
    obj = snapshot(-1.6, 0.0, funding_stress=red(80.0, 1), breadth=red(5.0, 2, envelope={"state": "ready", "pct_above_50dma": 35.0}))
    first = market_of(from_snapshot(obj), GUARDED, NOW)
    message = Regime.model_validate(
        {
            "profile": "canary-guarded", "policy_version": "1", "policy_fingerprint": GUARDED.fingerprint, "as_of_ns": NOW,
            "rows": [
                {"row": name, "band": row["band"], "status": "ok", "freshness_class": "fresh", "depth": row.get("depth"), "sessions": row.get("sessions"),
                 "envelope": row.get("envelope"), "values": {key: row[key] for key in ("spy_change_pct", "vix_change_pct") if key in row}}
                for name, row in obj.items()
            ],
            "spy_change_pct": -1.6, "vix_change_pct": 0.0, "composite": first.composite, "confidence": "high",
            "lifecycle": first.lifecycle, "source_health": list(first.source_health), "fingerprint": {"version": "regime-fp-v1", "key": "sha256:" + "0" * 64},
        }
    )  # fmt: skip
    found = from_message(message)
    second = market_of(found, GUARDED, NOW)
    assert found.rows[BREADTH].value("pct_above_50dma") == 35.0
    assert (second.lifecycle, second.composite, second.eligibility, second.warnings) == (
        first.lifecycle,
        first.composite,
        first.eligibility,
        (),
    )


def test_the_lifecycle_of_the_worked_example_has_its_published_key() -> None:
    canonical = pytest.importorskip("operators.canonical")
    regime = from_snapshot(snapshot(0.1, -1.0))
    view = market_of(regime, DEFAULT, NOW)
    whole = replace(regime, lifecycle=view.lifecycle, source_health=view.source_health)
    key = canonical.key_of(canonical.project_regime(whole, view))
    assert key == "sha256:f893445bf2e823d75d3e9f00314a7940b28d90520cbfa50110b7c4f58a548e28"


@pytest.mark.parametrize("name", ["clusters", "regime", "regime_lane"])
def test_levels_are_in_the_policy_and_not_in_the_code(name: str) -> None:
    source = Path(clusters.__file__).with_name(f"{name}.py").read_text()
    allowed = {0, 1, -1, 2, 100}
    found = []
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id.isupper():
            continue  # sizes and units
        found += [
            (item.lineno, item.value)
            for item in ast.walk(node)
            if isinstance(item, ast.Constant)
            and isinstance(item.value, int | float)
            and not isinstance(item.value, bool)
            and item.value not in allowed
        ]
    assert [entry for entry in found if entry[1] not in (60, 512, 3, 4096, 1_000, 1970)] == []


@pytest.mark.parametrize("seed", range(4))
def test_l7_holds_whatever_the_data_are_worth(seed: int) -> None:
    """Random dashboards with rows of every class, missing and shallow ones: one row made worse."""
    noise = random.Random(seed)
    compared = 0
    for _ in range(600):
        rows: dict[str, Any] = {}
        for name in ROWS:
            band = noise.choice(("green", "yellow", "red", None) if noise.random() < 0.2 else clusters.BANDS)
            freshness = noise.choices(("fresh", "not_due", "pending", "stale", "overdue"), (12, 1, 1, 1, 1))[0]
            deep = noise.random() < 0.6
            rows[name] = {
                "band": band,
                "freshness_class": freshness,
                "status": "ok" if band else "error",
                "depth": DEEP[name] if deep else 0.0,
            }
            rows[name] |= {"sessions": 2} if deep else {"sessions": 1, "eligibility": "depth_below_min"}
        better = [name for name in ROWS if rows[name]["band"] in ("green", "yellow")]
        if not better:
            continue
        name, tape = noise.choice(better), noise.choice(TAPES)
        worse = rows | {name: rows[name] | {"band": clusters.BANDS[clusters.BANDS.index(rows[name]["band"]) + 1]}}
        before, after = look(GUARDED, *tape, **rows), look(GUARDED, *tape, **worse)
        stage, then = before.lifecycle["stage"], after.lifecycle["stage"]
        if "data_quality" in (stage, then):  # not in the order, but no confirmed market falls into it
            assert stage == then or ORDER.get(stage, 0) < ORDER["confirmed_stress"], (rows, name, tape)
            continue
        compared += 1
        assert ORDER[then] >= ORDER[stage], (rows, name, tape)
        assert SEVERITY_RANK[after.governed_severity] >= SEVERITY_RANK[before.governed_severity] or stage == "opportunity", (
            rows,
            name,
            tape,
        )
    assert compared > 150


def test_a_red_that_is_not_current_does_not_undo_what_the_others_confirm() -> None:
    others = {FUNDING: red(80.0, 1), BREADTH: red(5.0, 2)}
    view = look(GUARDED, -1.6, 0.0, **others, vix_term_structure=red(1.06, 1), vol_of_vol={"freshness_class": "not_due"})
    assert (view.lifecycle["stage"], view.governed_severity) == ("panic", "act")
    assert view.lifecycle["governors"] == [
        {"action": "cap_severity", "from": "urgent", "to": "act", "reason": "confirming_cluster_quality", "clusters": ["vol"]}
    ]
