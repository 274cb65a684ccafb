"""What must hold of the sentinel for any input: keys of buckets, order, monotony, missing data, one voice with the market (canary §13, §6, lessons).

Where the rules themselves make a property false, the test says so and covers the rest. `alarm` is the severity of what threatens: a headline that is
constructive or says nothing alarms nobody, and a mixed one counts as it stands (a watch about margin beside an `act` rally is a `watch`: the rules' own).
"""

from __future__ import annotations

import copy
import itertools
import random
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from operators.canary import evaluate
from operators.card import card
from operators.clusters import from_snapshot, market_of
from schemas.canary import CanaryResult
from schemas.policy import CLUSTERS, ROWS, RiskPolicy, load_policies
from tests.canary_cases import NOW_NS, SPY, VIX, Json, random_snapshot, stamp

POLICIES = load_policies()
DEFAULT, GUARDED = POLICIES["canary-default"], POLICIES["canary-guarded"]
EVERY = sorted(POLICIES)
SEVERITIES = ("observe", "watch", "act", "urgent")
STAGES = {
    s: i
    for i, group in enumerate((("quiet", "stabilization", "opportunity"), ("early_warning",), ("confirmed_stress",), ("panic",)))
    for s in group
}
SEEDS = st.integers(0, 2**32 - 1)
CI = settings(max_examples=150, deadline=None)
FEW = settings(max_examples=60, deadline=None)

Snapshot = tuple[Json | None, Json | None, Json | None]


def alarm(result: CanaryResult) -> int:
    """Return the rank of what a headline warns of; 0 for none and for a constructive one."""
    return 0 if result.direction in ("", "constructive") else SEVERITIES.index(result.severity)


def say(snapshot: Snapshot, policy: RiskPolicy, now_ns: int = NOW_NS) -> CanaryResult:
    return evaluate(*snapshot, policy, now_ns)


def keys(result: CanaryResult) -> tuple[str, ...]:
    """Return every key of a result."""
    sources = result.source_fingerprints
    return (result.fingerprint.key, result.lifecycle.fingerprint.key, sources.account.key, sources.positions.key, sources.regime.key)


def whole(rng: random.Random) -> tuple[Json, Json, Json]:
    """Return a snapshot of which nothing is missing: every figure, every row ok and fresh, reds that may confirm."""
    bands = [rng.choice(["green", "green", "yellow", "red"]) for _ in CLUSTERS]
    return book(rng), holdings(rng), dashboard(dict(zip(CLUSTERS, bands, strict=True)), rng.choice(SPY[1:]), rng.choice(VIX[1:]))


def book(rng: random.Random) -> Json:
    return {
        "base_currency": "USD", "net_liquidation": 100_000, "cushion": rng.choice([0.07, 0.15, 0.3, 0.5]),
        "look_ahead_excess_liquidity": rng.choice([8_000, 15_000, 30_000, 60_000]), "gross_position_value": rng.choice([60_000, 110_000, 160_000]),
        "daily_pnl": rng.choice([0, 2_000, -4_000, -6_000, -12_000]), "as_of": stamp(5),
    }  # fmt: skip


def holdings(rng: random.Random) -> Json:
    values = {"SPY": rng.choice([20_000, 36_000, 72_000]), "GME": rng.choice([10_000, 15_000])}
    return {
        "as_of": stamp(7), "stocks": [{"symbol": name, "quantity": 5} for name in values],
        "options": [{"symbol": "SPY", "quantity": -1} for _ in range(4)],
        "portfolio": {
            "dollar_delta_base": rng.choice([30_000, 85_000, 130_000]), "gamma": rng.choice([3.5, -40.0]), "greeks_total": 4, "greeks_coverage": 4,
            "exposure_base": [
                {"underlying": n, "market_value_base": v, "market_value_pct_nlv": v / 1_000, "dollar_delta_base": v} for n, v in values.items()
            ],
        },
    }  # fmt: skip


MEMBERS = {"vol": ROWS[0:2], "credit": ROWS[2:4], "funding": ROWS[4:5], "fx": ROWS[5:6], "gamma": ROWS[6:7], "breadth": ROWS[7:8]}


def dashboard(bands: dict[str, str], spy: float | None, vix: float | None, provisional: tuple[str, ...] = (), by: int = 2) -> Json:
    """Return a fresh dashboard of these clusters. by: which row of a cluster of two carries its band (0, 1; 2: both); provisional: reds that may not
    confirm."""
    out: Json = {"as_of": stamp(3)}
    for cluster, rows in MEMBERS.items():
        for i, row in enumerate(rows):
            band = bands[cluster] if by == 2 or len(rows) == 1 or i == by else "green"
            out[row] = {"status": "ok", "band": band, "freshness_class": "fresh", "as_of": stamp(3)}
            if band == "red":
                out[row] |= {"depth": 5.0, "sessions": 2, "eligibility": "depth_below_min" if cluster in provisional else "eligible"}
    out["hyg_spy_divergence"]["spy_change_pct"] = spy
    out["vix_term_structure"]["vix_change_pct"] = vix
    return out


# --- keys -----------------------------------------------------------------------------------------------------------------------

SPANS: dict[str, list[tuple[float, float]]] = {
    "cushion": [(0.01, 0.0999), (0.1, 0.1999), (0.2, 0.3499), (0.35, 0.9)],
    "look_ahead_excess_liquidity": [(10, 9_999), (10_000, 19_999), (20_000, 34_999), (35_000, 90_000)],
    "gross_position_value": [(1, 99_999), (100_000, 149_999), (150_000, 400_000)],
    "daily_pnl": [(-40_000, -10_000), (-9_999, -5_000), (-4_999, 4_999), (5_000, 9_999), (10_000, 30_000)],
    "dollar_delta_base": [(0, 79_999), (80_000, 124_999), (125_000, 300_000)],
    "share": [(1, 34.99), (35, 69.99), (70, 200)],
    "delta": [(1, 34_999), (35_000, 69_999), (70_000, 99_999), (100_000, 149_999), (150_000, 300_000)],
    "gamma": [(-500, -0.01), (0, 0), (0.01, 90)],
    "covered": [(0, 0), (1, 7), (8, 10)],
    "stocks": [(0, 0), (1, 5), (6, 25), (26, 60)],
    "spy": [
        (-12, -7),
        (-6.99, -4),
        (-3.99, -3),
        (-2.99, -2.5),
        (-2.49, -1.5),
        (-1.49, -1),
        (-0.99, 0.99),
        (1, 1.49),
        (1.5, 2.49),
        (2.5, 8),
    ],
    "vix": [(-50, -20), (-19.9, -10), (-9.9, 9.9), (10, 19.9), (20, 90)],
}
"""Intervals of each figure within which no rule and no bucket has an edge (net liquidation 100 000). −3 is a level of the calibrated score. No greeks at all is a
state of its own."""


def drawn(rng: random.Random, spans: dict[str, tuple[float, float]], bands: dict[str, str]) -> Snapshot:
    """Return a snapshot with every figure somewhere in its interval."""
    x = {name: low if low == high else round(rng.uniform(low, high), 4) for name, (low, high) in spans.items()}
    account = {
        "base_currency": "USD", "net_liquidation": 100_000, "as_of": stamp(rng.randint(0, 600)),
        **{f: x[f] for f in ("cushion", "look_ahead_excess_liquidity", "gross_position_value", "daily_pnl")},
    }  # fmt: skip
    low, high = spans["stocks"]
    positions = {
        "as_of": stamp(rng.randint(0, 600)), "stocks": [{"symbol": "GME", "quantity": i + 1} for i in range(rng.randint(int(low), int(high)))],
        "options": [],
        "portfolio": {
            "dollar_delta_base": x["dollar_delta_base"] * rng.choice([1, -1]), "gamma": x["gamma"], "greeks_total": 10,
            "greeks_coverage": rng.randint(*map(int, spans["covered"])),
            "exposure_base": [{"underlying": "GME", "market_value_pct_nlv": x["share"], "dollar_delta_base": x["delta"]}],
        },
    }  # fmt: skip
    regime = dashboard(bands, x["spy"], x["vix"])
    regime["as_of"] = stamp(rng.randint(0, 600))
    return account, positions, regime


@pytest.mark.parametrize("profile", EVERY)
@FEW
@given(seed=SEEDS)
def test_values_inside_their_buckets_keep_every_key(profile: str, seed: int) -> None:
    rng = random.Random(seed)
    spans = {name: rng.choice(choices) for name, choices in SPANS.items()}
    bands = {c: rng.choice(["green", "yellow", "red"]) for c in CLUSTERS}
    first = say(drawn(rng, spans, bands), POLICIES[profile])
    for _ in range(3):
        other = say(drawn(rng, spans, bands), POLICIES[profile])
        assert keys(other) == keys(first)
        assert (other.severity, other.lifecycle.stage) == (first.severity, first.lifecycle.stage)


def shuffled(value: Any, rng: random.Random) -> Any:
    """Return the same data with every object's keys and every list in another order."""
    if isinstance(value, dict):
        items = [(k, shuffled(v, rng)) for k, v in value.items()]
        rng.shuffle(items)
        return dict(items)
    if isinstance(value, list):
        out = [shuffled(v, rng) for v in value]
        rng.shuffle(out)
        return out
    return value


def restyled(text: str, rng: random.Random) -> str:
    return rng.choice([text, text.upper(), text.lower(), f" {text}", f"{text}\t", text.capitalize()])


@pytest.mark.parametrize("profile", EVERY)
@CI
@given(seed=SEEDS)
def test_order_case_space_and_time_change_no_key(profile: str, seed: int) -> None:
    """Names of equal size are left out: of those the first wins, so there the order is a fact."""
    rng = random.Random(seed)
    account, positions, regime = random_snapshot(rng)
    exposures = ((positions or {}).get("portfolio") or {}).get("exposure_base") or []
    for field in ("market_value_pct_nlv", "dollar_delta_base"):
        sizes = [abs(e[field]) for e in exposures if e[field] is not None]
        assume(len(set(sizes)) == len(sizes))
    assume(len([e for e in exposures if e["market_value_pct_nlv"] is None or e["dollar_delta_base"] is None]) <= 3)
    before = say((account, positions, regime), POLICIES[profile])
    a, p, r = (shuffled(source, rng) for source in (account, positions, regime))
    if a is not None:
        for field in ("base_currency", "account_type"):
            if a.get(field):
                a[field] = restyled(a[field], rng)
    if r is not None:
        for entry in r.get("warning_details") or []:
            entry.update({f: restyled(entry[f], rng) for f in ("code", "severity") if entry.get(f)}, message="another text")
        for entry in (r.get("source_health") or []) + (r.get("data_quality") or []):
            entry.update({f: restyled(entry[f], rng) for f in ("source", "surface", "status", "confidence") if entry.get(f)})
        for row in ROWS:
            if row in r:
                r[row] |= {"band_reason": "other prose", "freshness_age": 12.5}
                if "as_of" not in r[row]:
                    r[row]["as_of"] = stamp(rng.randint(0, 1_000))
    for source in (a, p, r):
        if source is not None and source.get("as_of") in (stamp(0), stamp(30)):
            source["as_of"] = rng.choice([stamp(3), {"label": "now", "time": stamp(200), "date": stamp(0)[:10]}])
    assert keys(say((a, p, r), POLICIES[profile])) == keys(before)


@FEW
@given(seed=SEEDS)
def test_ageing_within_bounds_changes_no_key_and_past_them_does(seed: int) -> None:
    """L12: ticking ages are in no hash; a source that goes stale is another state."""
    snapshot = whole(random.Random(seed))
    for policy in (DEFAULT, GUARDED):
        before = say(snapshot, policy)
        assert keys(say(snapshot, policy, NOW_NS + 300 * 10**9)) == keys(before)
        late = say(snapshot, policy, NOW_NS + 700 * 10**9)
        assert late.fingerprint.key != before.fingerprint.key
        assert [h.status for h in late.source_health].count("stale") >= 2


@CI
@given(seed=SEEDS)
def test_what_the_rules_do_not_read_changes_no_key(seed: int) -> None:
    """L12: a feed that is irrelevant to the book changes nothing."""
    account, positions, regime = whole(random.Random(seed))
    more = copy.deepcopy((account, positions, regime))
    more[0]["buying_power"] = 12
    more[1]["portfolio"]["vega"] = 4.4
    more[2]["credit_spreads"]["ig_oas"] = 1.3
    more[2]["vol_of_vol"]["change_20d_pct"] = -4.0
    for policy in (DEFAULT, GUARDED):
        assert keys(say(more, policy)) == keys(say((account, positions, regime), policy))


@CI
@given(seed=SEEDS, row=st.sampled_from(ROWS), band=st.sampled_from(["green", "yellow", "red"]))
def test_another_band_warning_or_source_is_another_key(seed: int, row: str, band: str) -> None:
    account, positions, regime = whole(random.Random(seed))
    assume(regime[row]["band"] != band)
    other = copy.deepcopy(regime)
    other[row]["band"] = band
    warned = copy.deepcopy(regime) | {"warning_details": [{"code": "x", "scope": "breadth", "severity": "warning"}]}
    graver = copy.deepcopy(regime) | {"warning_details": [{"code": "x", "scope": "breadth", "severity": "error"}]}
    for policy in POLICIES.values():
        found = [say((account, positions, r), policy) for r in (regime, other, warned, graver)]
        assert len({r.fingerprint.key for r in found}) == 4
        assert len({r.source_fingerprints.regime.key for r in found}) == 4


@FEW
@given(seed=SEEDS)
def test_same_input_same_bytes(seed: int) -> None:
    snapshot = random_snapshot(random.Random(seed))
    for policy in POLICIES.values():
        again = copy.deepcopy(snapshot)
        assert say(snapshot, policy).model_dump_json() == say(again, policy).model_dump_json()
        assert again == snapshot


# --- monotony -------------------------------------------------------------------------------------------------------------------

WORSE: dict[str, list[Any]] = {
    "cushion": [0.9, 0.5, 0.35, 0.349, 0.3, 0.2, 0.199, 0.15, 0.1, 0.099, 0.05, 0.01, -0.1],
    "look_ahead_excess_liquidity": [90_000, 35_000, 34_999, 20_000, 19_999, 10_000, 9_999, 100, -500],
    "gross_position_value": [1_000, 99_999, 100_000, 149_999, 150_000, 300_000],
    "daily_pnl": [4_000, 0, -4_999, -5_000, -9_999, -10_000, -50_000],
    "dollar_delta_base": [0, 79_999, -80_000, 100_000, 124_999, 125_000, -200_000],
    "greeks_coverage": [4, 3, 2, 0],
    "share": [0, 20, 34.9, -35, 60, 70, 150],
    "delta": [0, 20_000, 34_999, -35_000, 90_000, 100_000, 150_000, 200_000],
    "spy": [0.9, 0, -0.99, -1, -1.49, -1.5, -2.49, -2.5, -3.99, -4, -6.99, -7, -12],
    "vix": [-5, 0, 9.9, 10, 19.9, 20, 60],
}
"""Each metric from good to bad. A day's gain is left out of daily_pnl: it also fires (§9), so less of it is calmer; cushion 0 means not delivered."""


def changed(snapshot: tuple[Json, Json, Json], metric: str, value: Any) -> tuple[Json, Json, Json]:
    account, positions, regime = copy.deepcopy(snapshot)
    if metric in account:
        account[metric] = value
    elif metric in positions["portfolio"]:
        positions["portfolio"][metric] = value
    elif metric in ("share", "delta"):
        positions["portfolio"]["exposure_base"][0]["market_value_pct_nlv" if metric == "share" else "dollar_delta_base"] = value
    elif metric == "spy":
        regime["hyg_spy_divergence"]["spy_change_pct"] = value
    else:
        regime["vix_term_structure"]["vix_change_pct"] = value
    return account, positions, regime


@pytest.mark.parametrize("profile", EVERY)
@pytest.mark.parametrize("metric", list(WORSE))
@settings(max_examples=25, deadline=None)
@given(seed=SEEDS)
def test_a_worse_metric_never_lowers_the_alarm(profile: str, metric: str, seed: int) -> None:
    snapshot = whole(random.Random(seed))
    said = [alarm(say(changed(snapshot, metric, value), POLICIES[profile])) for value in WORSE[metric]]
    assert said == sorted(said), dict(zip(WORSE[metric], said, strict=True))


TAPES = [(None, None), (0.1, -1), (1.6, -12), (1.2, -3), (-1.2, 4), (-1.6, 4), (-0.2, 11), (-2.6, 12), (-0.5, 22), (-4.2, 25), (-7.5, 50)]
BANDS = ("green", "yellow", "red")


def pairs(vectors: dict[tuple[str, ...], Any]) -> Any:
    """Yield every pair of band vectors of which the second has one cluster made worse by one step."""
    for vector, before in vectors.items():
        for i, band in enumerate(vector):
            if band != "red":
                worse = (*vector[:i], BANDS[BANDS.index(band) + 1], *vector[i + 1 :])
                yield vector, worse, before, vectors[worse]


@pytest.mark.parametrize("tape", TAPES, ids=str)
@pytest.mark.parametrize("profile", ["canary-default", "canary-guarded"])
def test_a_worse_cluster_never_lowers_stage_or_severity(profile: str, tape: tuple[float | None, float | None]) -> None:
    """L7: all 3^6 band vectors, one cluster made worse. Stages as the rules order them: quiet, stabilization and opportunity are one step, so there the
    `watch` of an opportunity is no severity of a threat. With all rows fresh and every red able to confirm."""
    policy = POLICIES[profile]
    views = {}
    for vector in itertools.product(BANDS, repeat=len(CLUSTERS)):
        regime = dashboard(dict(zip(CLUSTERS, vector, strict=True)), *tape)
        lifecycle = market_of(from_snapshot(regime), policy, NOW_NS).lifecycle
        rank = STAGES[lifecycle["stage"]]
        views[vector] = rank, SEVERITIES.index(lifecycle["severity"]) if rank else 0
    for vector, worse, before, after in pairs(views):
        assert after[0] >= before[0], (vector, worse)
        assert after[1] >= before[1], (vector, worse)


@pytest.mark.parametrize("by", [0, 1, 2])
@pytest.mark.parametrize("provisional", [(), ("vol",), ("credit", "gamma"), ("breadth", "fx", "funding"), CLUSTERS], ids=str)
def test_a_worse_cluster_never_lowers_the_guarded_market(provisional: tuple[str, ...], by: int) -> None:
    """L7 also when some reds may not confirm (yet), and when one row of two carries a cluster's band."""
    for tape in ((0.1, -1), (-1.6, 4), (-4.2, 25)):
        views = {}
        for vector in itertools.product(BANDS, repeat=len(CLUSTERS)):
            regime = dashboard(dict(zip(CLUSTERS, vector, strict=True)), *tape, provisional, by)
            lifecycle = market_of(from_snapshot(regime), GUARDED, NOW_NS).lifecycle
            rank = STAGES[lifecycle["stage"]]
            views[vector] = rank, SEVERITIES.index(lifecycle["severity"]) if rank else 0
        for vector, worse, before, after in pairs(views):
            assert after[0] >= before[0], (tape, vector, worse)
            assert after[1] >= before[1], (tape, vector, worse)


@pytest.mark.parametrize("profile", ["canary-default", "canary-guarded"])
@settings(max_examples=80, deadline=None)
@given(seed=SEEDS, cluster=st.sampled_from(CLUSTERS))
def test_a_worse_cluster_never_lowers_the_headline(profile: str, cluster: str, seed: int) -> None:
    rng = random.Random(seed)
    account, positions, _ = whole(rng)
    bands = {c: rng.choice(BANDS) for c in CLUSTERS}
    tape = rng.choice(TAPES)
    said = [alarm(say((account, positions, dashboard(bands | {cluster: band}, *tape)), POLICIES[profile])) for band in BANDS]
    assert said == sorted(said), (bands, tape, said)


# --- missing data ---------------------------------------------------------------------------------------------------------------


def without(snapshot: tuple[Json, Json, Json], path: tuple[Any, ...]) -> Snapshot:
    """Return a snapshot without one field, or one source."""
    out: list[Any] = [copy.deepcopy(source) for source in snapshot]
    target: Any = out
    for step in path[:-1]:
        target = target[step]
    if isinstance(target, dict):
        target.pop(path[-1])
    else:
        target[path[-1]] = None
    return out[0], out[1], out[2]


FIELDS: list[tuple[Any, ...]] = [
    (0,), (1,), (2,), *((0, f) for f in ("net_liquidation", "gross_position_value", "daily_pnl", "as_of")),
    *((1, f) for f in ("portfolio", "as_of")), *((1, "portfolio", f) for f in ("dollar_delta_base", "gamma", "greeks_total", "greeks_coverage")),
    *((1, "portfolio", "exposure_base", 0, f) for f in ("dollar_delta_base",)), (2, "as_of"),
    *((2, row) for row in ROWS), *((2, row, "band") for row in ROWS[4:]), *((2, row, "status") for row in ROWS),
    *((2, row, "freshness_class") for row in ROWS),
]  # fmt: skip
"""What may be missing, one at a time: a source, a figure, a row of the dashboard or what it says of itself. The band alone only of a row that is its
cluster: beside another row one that says `ok` and has no band is in none of the lists of §7 (with its status it is: next test)."""


@pytest.mark.parametrize("path", FIELDS, ids=lambda p: ".".join(map(str, p)))
@settings(max_examples=25, deadline=None)
@given(seed=SEEDS)
def test_missing_data_never_reads_as_calm(path: tuple[Any, ...], seed: int) -> None:
    """D6, guarded: with any field gone the headline is at least a watch, it is neither quiet nor an invitation to act on an opportunity, and the gap
    is named. A severity above watch can fall to it (nobody can know a cushion that was not delivered); the monitor then holds the episode open."""
    result = say(without(whole(random.Random(seed)), path), GUARDED)
    assert result.severity != "observe"
    assert result.lifecycle.stage not in ("quiet", "opportunity")
    assert result.planner_mode_hint != "deploy"
    assert result.data_confidence == "medium-low"
    named = [signal for signal in result.signals if signal.direction == "data_quality"]
    assert named
    assert any(signal.blocked_by for signal in named)


@pytest.mark.parametrize("status", ["computing", "unavailable", "error"])
@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, row=st.sampled_from(ROWS))
def test_a_row_that_could_not_be_measured_is_never_calm(status: str, seed: int, row: str) -> None:
    """With its band gone, and with the last measured one held."""
    account, positions, regime = whole(random.Random(seed))
    for held in (False, True):
        broken = copy.deepcopy(regime)
        broken[row] |= {"status": status, "freshness_class": "overdue", "eligibility": None, "band_held": held}
        if not held:
            broken[row]["band"] = None
        for policy in (DEFAULT, GUARDED):
            result = say((account, positions, broken), policy)
            assert result.severity != "observe"
            assert result.lifecycle.stage not in ("quiet", "opportunity")
            assert result.data_confidence == "medium-low"
            cluster = next(c for c, rows in MEMBERS.items() if row in rows)
            assert any(cluster in s.blocked_by for s in result.signals if s.id == "risk_data_degraded")


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS)
def test_an_unknown_cushion_clears_nothing(seed: int) -> None:
    """Margin figures are 0 for absent: without any of them the row is data_quality in both profiles, and the guarded one says `unobserved`."""
    account, positions, regime = whole(random.Random(seed))
    for gone in (None, 0):
        bare = account | {"cushion": gone, "look_ahead_excess_liquidity": gone}
        for policy in (DEFAULT, GUARDED):
            result = say((bare, positions, regime), policy)
            row = next(r for r in result.rows if r.title == "Immediate margin safety")
            assert (row.direction, row.severity) == ("data_quality", "watch")
        assert result.margin_alert is not None
        assert result.margin_alert.state == "unobserved"


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS, gone=st.sampled_from(["spy", "vix"]))
def test_one_missing_leg_of_the_tape_only_loses_what_it_said(gone: str, seed: int) -> None:
    """The rules call the tape missing only when both legs are (§8). With one gone, no signal of it fires, and nothing of the account's changes."""
    snapshot = whole(random.Random(seed))
    for policy in (DEFAULT, GUARDED):
        before, after = say(snapshot, policy), say(changed(snapshot, gone, None), policy)
        mine = ("market_selloff_violent", "market_rally_violent") if gone == "spy" else ("vol_spike_confirmed", "vol_crush_confirmed")
        assert not [s for s in after.signals if s.id in mine]
        own = {"margin_cushion_low", "lookahead_cushion_low", "portfolio_pnl_shock"}
        assert [s for s in after.signals if s.id in own] == [s for s in before.signals if s.id in own]
        both = say(changed(changed(snapshot, "spy", None), "vix", None), policy)
        assert any(r.title == "Index tape shock" and r.direction == "data_quality" for r in both.rows)


def test_gaps_that_the_default_profile_keeps() -> None:
    """What v1 calls quiet, kept in `canary-default` on purpose: no daily P&L, no positions, no aggregate, options without greeks. Guarded names each."""
    rng = random.Random(4)
    account, positions, _ = whole(rng)
    account |= {"cushion": 0.6, "look_ahead_excess_liquidity": 60_000, "gross_position_value": 60_000, "daily_pnl": 0}
    positions["portfolio"] |= {"dollar_delta_base": 20_000, "gamma": 1.0}
    positions["portfolio"]["exposure_base"][0] |= {"market_value_pct_nlv": 20, "dollar_delta_base": 20_000}
    regime = dashboard(dict.fromkeys(CLUSTERS, "green"), 0.1, -1)
    calm = (account, positions, regime)
    assert [say(calm, policy).severity for policy in (DEFAULT, GUARDED)] == ["observe", "observe"]
    for path, name in (
        ((0, "daily_pnl"), "daily_pnl"), ((1,), "positions"), ((1, "portfolio"), "portfolio"), ((1, "portfolio", "greeks_total"), "option_greeks"),
        ((1, "portfolio", "exposure_base", 0, "dollar_delta_base"), "SPY"),
    ):  # fmt: skip
        gone = without(calm, path)
        assert say(gone, DEFAULT).direction == "", path
        result = say(gone, GUARDED)
        assert (result.direction, result.severity, result.lifecycle.stage) == ("data_quality", "watch", "data_quality"), path
        assert [s for s in result.signals if s.id == "risk_data_degraded" and name in s.blocked_by], path


# --- lessons --------------------------------------------------------------------------------------------------------------------


@CI
@given(seed=SEEDS)
def test_the_canary_speaks_with_the_markets_voice(seed: int) -> None:
    """L9: the governor holds the regime at watch: the market's evidence stays at watch here too. Only a confirmed tape or the account's own margin may
    say more."""
    rng = random.Random(seed)
    snapshot = whole(rng) if rng.random() < 0.5 else random_snapshot(rng)
    view = market_of(from_snapshot(snapshot[2] or {}), GUARDED, NOW_NS)
    result = say(snapshot, GUARDED)
    if SEVERITIES.index(view.governed_severity) >= SEVERITIES.index("act"):
        return
    for signal in result.signals:
        if signal.id == "regime_stress_confirmed":
            assert signal.severity == "watch"
        assert signal.id != "short_convexity_high"
    for row in result.rows:
        if row.title == "Confirmed market stress":
            assert row.severity == "watch"
    own = {"margin_cushion_low", "lookahead_cushion_low"}
    margin = max((SEVERITIES.index(s.severity) for s in result.signals if s.id in own), default=0)
    if not view.confirmed_tape and margin < SEVERITIES.index("act") and result.direction in ("defensive", "mixed") and not view.any_red:
        assert result.severity in ("watch", "observe")
    if not view.confirmed_tape:
        exposure = {"gross_exposure_high", "net_delta_high", "gross_delta_high", "single_name_exposure_high", "single_name_delta_high"}
        assert all(s.severity == "watch" and s.direction == "rebalance" for s in result.signals if s.id in exposure)


@CI
@given(seed=SEEDS)
def test_own_margin_never_confirms_the_market(seed: int) -> None:
    """L3 and §6.9, guarded: a losing account is not a crash: the market's signals are the same whatever the cushion is."""
    snapshot = whole(random.Random(seed))
    own = {"margin_cushion_low", "lookahead_cushion_low"}
    said = []
    for cushion in (0.6, 0.15, 0.05):
        result = say(changed(changed(snapshot, "cushion", cushion), "look_ahead_excess_liquidity", 60_000), GUARDED)
        said.append([(s.id, s.severity, s.blocked_by) for s in result.signals if s.id not in own])
        if cushion < 0.1:
            assert result.severity == "urgent"
            assert result.lifecycle.stage == "forced_defense"
        elif cushion < 0.2:
            assert result.severity in ("act", "urgent")
    assert said[0] == said[1] == said[2]


def test_margin_in_a_calm_and_in_a_falling_market() -> None:
    """L3: cushion 15 % with SPY −2.7 alone: the sell-off stays blocked. Cushion 7 % in a calm market: the margin alert fires all the same."""
    account, positions, _ = whole(random.Random(1))
    account["look_ahead_excess_liquidity"] = 60_000
    calm = dict.fromkeys(CLUSTERS, "green")
    falling = say((account | {"cushion": 0.15}, positions, dashboard(calm, -2.7, 2)), GUARDED)
    selloff = next(s for s in falling.signals if s.id == "market_selloff_violent")
    assert (selloff.severity, selloff.blocked_by) == ("watch", ["confirmation"])
    quiet = say((account | {"cushion": 0.07}, positions, dashboard(calm, 0.1, -1)), GUARDED)
    assert quiet.margin_alert is not None
    assert (quiet.margin_alert.severity, quiet.margin_alert.state) == ("urgent", "firing")
    assert (quiet.severity, quiet.lifecycle.stage, quiet.planner_mode_hint) == ("urgent", "forced_defense", "defend")


@FEW
@given(seed=SEEDS)
def test_blind_positions_are_never_quiet(seed: int) -> None:
    """L4: positions never fetched, greeks blind, one held name without a value: never quiet, low or clear, and each is named."""
    account, positions, regime = whole(random.Random(seed))
    blind = copy.deepcopy(positions)
    blind["portfolio"] |= {"greeks_total": 0, "greeks_coverage": 0}
    unvalued = copy.deepcopy(positions)
    unvalued["portfolio"]["exposure_base"][1] |= {"market_value_base": None, "market_value_pct_nlv": None}
    unknown = copy.deepcopy(positions)
    unknown["stocks"].append({"symbol": "XYZ", "quantity": 3})
    for given_positions, name in ((None, "positions"), (blind, "option_greeks"), (unvalued, "GME"), (unknown, "XYZ")):
        result = say((account, given_positions, regime), GUARDED)
        assert result.severity != "observe"
        assert result.lifecycle.stage != "quiet"
        assert result.data_confidence == "medium-low"
        assert any(name in s.blocked_by for s in result.signals if s.id == "risk_data_degraded")


@CI
@given(seed=SEEDS)
def test_card_shows_urgent_in_red_and_lists_no_clear_row_as_an_alert(seed: int) -> None:
    """L15: an urgent headline is red; rows that are all clear are never listed as alerts."""
    result = say(random_snapshot(random.Random(seed)), GUARDED)
    lines = card(result)
    state = next(line for line in lines if line.label == "Risk state")
    assert state.style == {"observe": "ok", "watch": "warn", "act": "alarm", "urgent": "alarm"}[result.severity]
    assert result.severity in state.text.lower()
    clear = [row.title for row in result.rows if row.severity == "observe"]
    for line in lines:
        if line.style in ("warn", "alarm"):
            assert not [title for title in clear if title in line.text]
