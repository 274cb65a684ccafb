"""The scripted crash through the dashboard and the canary: which stages every account goes through, under each profile. No Kafka: one pass in Python."""

from __future__ import annotations

from collections import defaultdict
from functools import lru_cache
from typing import Any

import pytest

from connectors.simulator import crash
from connectors.simulator.crash import ACCOUNT, ACCOUNTS, INDICATOR, Crash, Scenario
from operators.canary import evaluate
from operators.clusters import from_message
from operators.regime import RegimeBuilder
from schemas.canary import AccountStateMessage, IndicatorMessage, PositionStateMessage
from schemas.parse import parse
from schemas.policy import load_policies

PROFILES = ("canary-default", "canary-guarded")
Trail = list[tuple[str, str]]


@lru_cache(maxsize=2)
def walk(seed: int) -> tuple[dict[tuple[str, str], Trail], dict[str, list[str]], dict[str, list[str]]]:
    """Return the (stage, severity) changes of every (profile, account), the market's stages, and the bands each row had, in order."""
    policies = {name: policy for name, policy in load_policies().items() if name in PROFILES}
    builder = RegimeBuilder(policies)
    accounts: dict[str, Any] = {}
    positions: dict[str, Any] = {}
    trails: dict[tuple[str, str], Trail] = defaultdict(list)
    market: dict[str, list[str]] = defaultdict(list)
    bands: dict[str, list[str]] = defaultdict(list)

    def look(now_ns: int) -> None:
        for name, policy in policies.items():
            regime = builder.build(policy, now_ns)
            assert all(row.band is not None for row in regime.rows), "every row is fed and ranked at every moment"
            if not market[name] or market[name][-1] != regime.lifecycle.stage:
                market[name].append(regime.lifecycle.stage)
            if name == "canary-default":
                for row in regime.rows:
                    if not bands[row.row] or bands[row.row][-1] != row.band:
                        bands[row.row].append(str(row.band))
            dashboard = from_message(regime)
            for account in ACCOUNTS:
                result = evaluate(accounts.get(account), positions.get(account), dashboard, policy, now_ns)
                found = (result.lifecycle.stage, result.severity)
                if not trails[name, account] or trails[name, account][-1] != found:
                    trails[name, account].append(found)

    moment: int | None = None
    for record in Crash(Scenario(seed, step_s=300, calm_step_s=600, chain_s=1800, members=40)).records():
        if moment is not None and record.t_ns != moment:
            look(moment)
        moment = record.t_ns
        if record.topic == INDICATOR:
            message = parse(IndicatorMessage, record.value)
            assert isinstance(message, IndicatorMessage)
            assert builder.take(message.payload, message.ts_ns, record.t_ns) == "applied"
            continue
        kind = AccountStateMessage if record.topic == ACCOUNT else PositionStateMessage
        snapshot = parse(kind, record.value)
        assert not isinstance(snapshot, tuple), snapshot
        (accounts if record.topic == ACCOUNT else positions)[snapshot.payload.account] = snapshot.payload.model_dump()
    assert moment is not None
    look(moment)
    return dict(trails), dict(market), dict(bands)


@pytest.mark.parametrize("seed", [1, 2])
def test_the_stressed_account_goes_all_the_way_and_back(seed: int) -> None:
    trails = walk(seed)[0]
    assert trails["canary-default", crash.STRESSED] == [
        ("quiet", "observe"),
        ("early_warning", "watch"),
        ("confirmed_stress", "act"),
        ("forced_defense", "urgent"),
        ("confirmed_stress", "act"),
        ("early_warning", "watch"),
        ("quiet", "observe"),
    ]
    # guarded: reds that have been confirmed stay red until they are well out of it, so the market is in panic for longer
    assert trails["canary-guarded", crash.STRESSED] == [
        ("quiet", "observe"),
        ("early_warning", "watch"),
        ("confirmed_stress", "act"),
        ("forced_defense", "urgent"),
        ("panic", "act"),
        ("early_warning", "watch"),
        ("quiet", "observe"),
    ]


@pytest.mark.parametrize("seed", [1, 2])
def test_nobody_else_is_forced(seed: int) -> None:
    trails = walk(seed)[0]
    for profile in PROFILES:
        for account in set(ACCOUNTS) - {crash.STRESSED}:
            stages = [stage for stage, _ in trails[profile, account]]
            assert "forced_defense" not in stages
            assert "panic" in stages
            assert (stages[0], stages[-1]) == ("quiet", "quiet")


def test_missing_figures_are_a_state_for_the_guarded_profile_only() -> None:
    trails = walk(1)[0]
    assert ("data_quality", "watch") in trails["canary-guarded", crash.PARTIAL]
    assert ("data_quality", "watch") not in trails["canary-default", crash.PARTIAL]
    assert all(("data_quality", "watch") not in trails[p, a] for p in PROFILES for a in ACCOUNTS if a != crash.PARTIAL)


def test_the_dashboard_reddens_and_clears() -> None:
    _, market, bands = walk(1)
    assert market["canary-default"][0] == market["canary-default"][-1] == "quiet"
    assert "panic" in market["canary-default"]
    for row in ("vix_term_structure", "vol_of_vol", "gamma_zero", "breadth"):
        assert "red" in bands[row], row
    for row, found in bands.items():
        assert (found[0], found[-1]) == ("green", "green"), row
    for row in ("hyg_spy_divergence", "credit_spreads", "usd_jpy"):
        assert bands[row] == ["green", "yellow", "green"], row
    assert bands["funding_stress"] == ["green"]
