"""Projections and keys: canonical JSON byte by byte, the published keys, bucket edges one step either side, order and case never matter."""

from __future__ import annotations

import hashlib
import json
import math
import random
from typing import Any

import numpy as np
import pytest

from operators import canonical
from operators.canary import facts_of
from operators.canonical import (
    EMPTY_KEY,
    RISK_WORDS,
    buckets_of,
    canonical_json,
    clean,
    clean_set,
    decimal,
    key_of,
    listed,
    project_account,
    project_lifecycle,
    project_positions,
    project_regime,
)
from operators.clusters import RegimeInput, from_snapshot
from schemas.policy import CLUSTERS, ROWS

PUBLISHED = {
    "empty": "sha256:74234e98afe7498fb5daf1f36ac2d78acc339464f950703b8c019892f982b90b",
    "stress": "sha256:2adc454d653c9a2c2a7b6ccfae77e98be6c3267bdfaed87ac41421d12bcd561b",
    "account": "sha256:cb5bc382bb5eab737ddd506a1fa9822ad15e09e6f6e7b3a25cfef5a13429ac83",
    "account_act": "sha256:d810ceb82be4228292eda4afc79ddb21252c0531a5f14bcea8c9fbfbfb4423ec",
    "nothing_held": "sha256:c6834a0f9c3a9d0c3853d7df18bea77cd6c7e0fa73dfe40276b414cc51862b06",
    "green": "sha256:f2baad178e162688a0ed2730b15dee29dd168360a3802da0655a92720b4ec217",
    "four_red": "sha256:bae2313d17600590e2917765dd99e9b3cf7482c8d20126d85f91596dba92e6f6",
}
"""Keys the reference published, or that are inputs of keys it published."""
STRESS_JSON = (
    '{"composite":{"verdict":"stress signal present","green_count":0,"yellow_count":0,"red_count":1,"ranked_count":1,"unranked_count":0,'
    '"cluster_green_count":0,"cluster_yellow_count":0,"cluster_red_count":1,"cluster_ranked_count":1,"cluster_unranked_count":0},"indicators":'
    '[{"name":"vix_term_structure","band":"red","status":"ok"},{"name":"vol_of_vol"},{"name":"hyg_spy_divergence"},{"name":"credit_spreads"},'
    '{"name":"funding_stress"},{"name":"usd_jpy"},{"name":"gamma_zero"},{"name":"breadth"}],"lifecycle":{},"sources":[{"source":"vol",'
    '"status":"ok","confidence":"high","fingerprint_stability":"semantic_buckets_only"}]}'
)


def stress() -> dict[str, Any]:
    return {
        "composite": {
            "verdict": "Stress signal present",
            "red_count": 1,
            "ranked_count": 1,
            "cluster_red_count": 1,
            "cluster_ranked_count": 1,
        },
        "vix_term_structure": {"band": "red", "status": "ok"},
        "lifecycle": {},
        "source_health": [{"source": "vol", "status": "ok", "confidence": "high", "fingerprint_stability": "semantic_buckets_only"}],
    }


def green() -> dict[str, Any]:
    snapshot: dict[str, Any] = {name: {"band": "green", "status": "ok"} for name in ROWS}
    snapshot["gamma_zero"]["envelope"] = {"status": "ready", "result": {"quality": {"rankability": "rankable"}}}
    return {**snapshot, "composite": {"cluster_green_count": 6, "cluster_ranked_count": 6}, "lifecycle": {}}


def regime_key(snapshot: dict[str, Any]) -> str:
    return key_of(project_regime(from_snapshot(snapshot)))


# --- encoding ---------------------------------------------------------------------------------------------------------------------


def test_an_absent_source_is_the_hash_of_null() -> None:
    assert PUBLISHED["empty"] == EMPTY_KEY == "sha256:" + hashlib.sha256(b"null").hexdigest()


def test_only_five_characters_are_escaped() -> None:
    text = 'P&L <b>\u2028\u2029 ü€𝄞\u007f\\ " \t'
    encoded = canonical_json([text])
    assert encoded == '["P\\u0026L \\u003cb\\u003e\\u2028\\u2029 ü€𝄞\u007f\\\\ \\" \\t"]'
    assert json.loads(encoded) == [text]
    assert canonical_json({"b": 1, "a": [True, None]}) == '{"b":1,"a":[true,null]}'
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json(math.nan)


@pytest.mark.parametrize(
    ("value", "expected"),
    [("  Normal Regime\n", "normal regime"), ("\u00a0ÄÖ\u3000", "äö"), ("İΣΑΣ", "iσασ"), (None, ""), (False, ""), (True, "true"), (3.0, "3"), ("\x1c", "\x1c"),
     ("a\ud800", "a\ufffd")],
)  # fmt: skip
def test_strings_are_trimmed_and_lower_case_rune_by_rune(value: Any, expected: str) -> None:
    assert clean(value) == expected


def test_sets_are_clean_sorted_by_code_point_and_without_repeats() -> None:
    assert clean_set(["b", "A ", "a", "", " ", "Z", "é", "𝄞", "\uffff"]) == ["a", "b", "z", "é", "\uffff", "𝄞"]
    assert clean_set(None) == []


@pytest.mark.parametrize(
    ("value", "expected"), [(35, "35"), (35.0, "35"), (-1.5, "-1.5"), (0.0, "0"), (0.1, "0.1"), (None, ""), (1e-7, "1e-07")]
)
def test_numbers_are_shortest_decimal_strings(value: float | None, expected: str) -> None:
    assert decimal(value) == expected


def test_lists_of_objects_drop_empty_entries_and_sort_by_every_field() -> None:
    entries: list[dict[str, Any]] = [
        {"a": "X ", "b": ["2"], "c": True}, {"a": "", "b": [], "c": False}, {"b": ["2", "2"], "c": False, "a": "x"}, {"a": "x", "b": ["3", "1"]},
        {"a": "w", "t": 35.0}, {"d": "not asked for"},
    ]  # fmt: skip
    expected = [{"a": "w", "t": "35"}, {"a": "x", "b": ["1", "3"]}, {"a": "x", "b": ["2"]}, {"a": "x", "b": ["2"], "c": True}]
    for order in range(8):
        random.Random(order).shuffle(entries)
        assert listed(entries, ("a", "b", "c", "t")) == expected
    assert listed([{"a": "", "b": "x"}], ("a", "b"), ("a",)) == [{"a": "", "b": "x"}]


# --- regime -----------------------------------------------------------------------------------------------------------------------


def test_the_published_example_byte_by_byte() -> None:
    assert canonical_json(project_regime(from_snapshot(stress()))) == STRESS_JSON
    assert regime_key(stress()) == PUBLISHED["stress"]


def test_published_regime_keys() -> None:
    snapshot = green()
    assert regime_key(snapshot) == PUBLISHED["green"]
    for name in ROWS[:4]:
        snapshot[name]["band"] = "red"
    snapshot["composite"] |= {"cluster_green_count": 4, "cluster_red_count": 2}
    assert regime_key(snapshot) == PUBLISHED["four_red"]


def test_a_lifecycle_block_is_left_out_only_if_there_is_none() -> None:
    bare = project_regime(RegimeInput(rows=from_snapshot({}).rows))
    assert bare is not None
    assert "lifecycle" not in bare
    assert list(bare) == ["composite", "indicators"]
    assert len(bare["composite"]) == len(canonical.COMPOSITE_COUNTS)
    assert project_regime(None) is None
    assert project_regime(from_snapshot({"lifecycle": {}})) == {**bare, "lifecycle": {}}


def test_what_a_regime_key_depends_on() -> None:
    base = regime_key(green())

    def other(**changes: Any) -> str:
        return regime_key({**green(), **changes})

    assert other(as_of="2026-01-02T03:04:05Z", summary={"confidence": "low"}) == base
    assert regime_key(dict(reversed(green().items()))) == base
    row = green()["vix_term_structure"]
    assert other(vix_term_structure={**row, "vix": 44.0, "band": " GREEN ", "as_of": "2026-01-02"}) == base
    assert other(vix_term_structure={**row, "band": "yellow"}) != base
    assert other(vix_term_structure={**row, "status": "stale"}) != base
    assert (
        other(vix_term_structure={**row, "fields_missing": ["b", "a"]})
        == other(vix_term_structure={**row, "fields_missing": ["A", "b", "b"]})
        != base
    )
    assert other(vol_of_vol={**row, "fields_missing": ["a"]}) == base
    warning = {"code": "c", "scope": "s", "severity": "warning", "message": "m"}
    assert other(warning_details=[warning]) == other(warning_details=[{**warning, "message": "n"}, {}]) != base
    assert other(warning_details=[warning]) != other(warning_details=[{**warning, "severity": "data"}])
    pair = [warning, {**warning, "code": "b"}]
    assert other(warning_details=pair) == other(warning_details=pair[::-1])
    quality = {"surface": "gamma", "status": "degraded", "degraded_clusters": ["gamma", "breadth"]}
    assert (
        other(data_quality=[quality])
        == other(data_quality=[{**quality, "degraded_clusters": ["breadth", "Gamma"], "summary": "x"}])
        != base
    )
    envelope = {
        "status": "ready",
        "result": {"quality": {"rankability": "rankable"}, "regime_agreement": "agree", "summary": {"regime": "long"}},
    }
    assert other(gamma_zero={**row, "envelope": envelope}) != base
    sources = [{"source": name, "status": "ok", "confidence": "high"} for name in CLUSTERS]
    assert other(source_health=sources) == other(source_health=sources[::-1]) != base


# --- lifecycle --------------------------------------------------------------------------------------------------------------------


def test_a_lifecycle_is_in_any_order_the_same() -> None:
    evidence = [
        {
            "source": "margin",
            "signal": "margin_cushion_low",
            "bucket": "watch",
            "timing": "forward_warning",
            "severity": "watch",
            "confirmed": False,
        },
        {
            "source": "margin",
            "signal": "lookahead_cushion_low",
            "bucket": "act",
            "timing": "contemporaneous",
            "severity": "act",
            "confirmed": True,
        },
    ]
    block = {
        "stage": "early_warning",
        "severity": "watch",
        "evidence": evidence,
        "confirmed_by": ["vol", "credit"],
        "governors": [{"action": "x"}],
    }
    found = project_lifecycle(block)
    assert found == project_lifecycle({**block, "evidence": evidence[::-1], "confirmed_by": ["Credit", "vol", "vol"], "governors": []})
    assert found["evidence"][0]["confirmed"] is True
    assert "confirmed" not in found["evidence"][1]
    assert project_lifecycle({}) == {}


# --- accounts and positions -------------------------------------------------------------------------------------------------------

ACCOUNT = {"base_currency": "USD", "net_liquidation": 100_000, "cushion": 0.5, "gross_position_value": 60_000, "daily_pnl": 0}


def account_key(**changes: Any) -> str:
    return key_of(project_account(facts_of({**ACCOUNT, **changes}, None)))


def test_published_account_and_positions_keys() -> None:
    assert account_key() == PUBLISHED["account"]
    assert account_key(gross_position_value=100_000) == PUBLISHED["account_act"]
    assert account_key(base_currency=" usd ", net_liquidation="100000.00", cushion="0.36") == PUBLISHED["account"]
    for positions in ({}, {"stocks": None, "options": []}, {"stocks": [], "options": []}):
        assert key_of(project_positions(facts_of(None, positions))) == PUBLISHED["nothing_held"]
    assert project_account(facts_of(None, {})) is None
    assert project_positions(facts_of(ACCOUNT, None)) is None


def test_the_fields_of_an_account_in_order() -> None:
    row = facts_of({**ACCOUNT, "account_type": "Margin", "maintenance_margin": 1, "look_ahead_excess_liquidity": 15_000}, None)
    assert list((project_account(row) or {}).items()) == [
        ("base_currency", "usd"), ("account_type", "margin"), ("margin_cushion", "ok"), ("lookahead_cushion", "act"), ("gross_exposure", "ok"),
        ("daily_pnl", "ok"), ("has_margin_context", True), ("has_net_liquidation", True),
    ]  # fmt: skip
    assert project_account(facts_of({"net_liquidation": 0, "cushion": 0.5, "daily_pnl": 5, "available_funds": -1}, None)) == {
        "has_margin_context": True
    }


def positions(**portfolio: Any) -> dict[str, Any]:
    return {"stocks": [{"symbol": "SPY"}], "options": [], "portfolio": portfolio}


def test_the_fields_of_positions_in_order() -> None:
    names = [
        {"underlying": "SPY", "market_value_pct_nlv": -40, "market_value_base": -40_000, "dollar_delta_base": -50_000},
        {"underlying": "QQQ", "market_value_pct_nlv": 40, "market_value_base": 40_000, "dollar_delta_base": 50_000},
    ]
    row = facts_of(ACCOUNT, positions(dollar_delta_base=-90_000, gamma=-2, greeks_coverage=3, greeks_total=4, exposure_base=names))
    assert list((project_positions(row) or {}).items()) == [
        ("has_portfolio", True), ("net_delta", "act"), ("gross_delta", "act"), ("largest_exposure", "act"), ("largest_exposure_id", "spy"),
        ("largest_delta", "act"), ("largest_delta_id", "spy"), ("gamma", "negative"), ("greeks_coverage", "degraded"), ("stocks", "small"),
        ("options", "zero"),
    ]  # fmt: skip
    flat = [{"underlying": "SPY", "market_value_pct_nlv": 0, "market_value_base": 0, "dollar_delta_base": 0}]
    row = facts_of(ACCOUNT, positions(dollar_delta_base=0, gamma=0, exposure_base=flat))
    assert project_positions(row) == {
            "has_portfolio": True, "net_delta": "ok", "largest_exposure": "ok", "largest_delta": "ok", "gamma": "flat", "stocks": "small",
            "options": "zero",
        }  # fmt: skip


def step(value: float, toward: float) -> float:
    return float(np.nextafter(value, toward))


def bucket_word(account: dict[str, Any], portfolio: dict[str, Any], field: str) -> str:
    row = facts_of({"net_liquidation": 100, **account}, positions(**portfolio))
    return RISK_WORDS[buckets_of(row)[field]]


@pytest.mark.parametrize(("edge", "below", "at"), [(10, "urgent", "act"), (20, "act", "watch"), (35, "watch", "ok")])
def test_cushion_buckets_begin_below_their_edges(edge: float, below: str, at: str) -> None:
    for figure, field in (("excess_liquidity", "margin_cushion"), ("look_ahead_excess_liquidity", "lookahead_cushion")):
        assert bucket_word({figure: step(edge, 0)}, {}, field) == below
        assert bucket_word({figure: edge}, {}, field) == at


@pytest.mark.parametrize(
    ("field", "edges"),
    [("gross_exposure", {100: "act", 150: "urgent"}), ("gross_delta", {100: "act", 150: "urgent"}), ("net_delta", {80: "act", 125: "urgent"}),
     ("largest_exposure", {35: "act", 70: "urgent"}), ("largest_delta", {35: "act", 70: "urgent"})],
)  # fmt: skip
def test_other_buckets_begin_at_their_edges(field: str, edges: dict[float, str]) -> None:
    def word(value: float) -> str:
        if field == "gross_exposure":
            return bucket_word({"gross_position_value": value}, {}, field)
        if field == "net_delta":
            return bucket_word({}, {"dollar_delta_base": -value}, field)
        name = {"underlying": "X", "market_value_pct_nlv": -value, "dollar_delta_base": value}
        return bucket_word({}, {"exposure_base": [name]}, field)

    before = "ok"
    for edge, at in edges.items():
        assert word(step(edge, 0)) == before
        assert word(edge) == at
        before = at


@pytest.mark.parametrize(
    ("edge", "inside", "at"),
    [(5, "ok", "gain_watch"), (10, "gain_watch", "gain_act"), (-5, "ok", "loss_watch"), (-10, "loss_watch", "loss_act")],
)
def test_result_buckets_begin_at_their_edges(edge: float, inside: str, at: str) -> None:
    for value, expected in ((step(edge, 0), inside), (edge, at)):
        projection = project_account(facts_of({"net_liquidation": 100, "daily_pnl": value}, None))
        assert projection is not None
        assert projection["daily_pnl"] == expected


def test_counts_and_coverage() -> None:
    for count, expected in ((0, "zero"), (1, "small"), (5, "small"), (6, "medium"), (25, "medium"), (26, "large")):
        projection = project_positions(facts_of(None, {"stocks": [{"symbol": "A"}] * count, "options": [{"symbol": "A"}] * count}))
        assert projection == {"stocks": expected, "options": expected}
    for have, expected in ((79, "degraded"), (80, "ok"), (100, "ok")):
        projection = project_positions(facts_of(None, positions(greeks_coverage=have, greeks_total=100)))
        assert projection is not None
        assert projection["greeks_coverage"] == expected
