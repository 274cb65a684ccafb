"""`hedgerow run regime`: what the flow reads and writes, and that bad policies are told before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows import regime
from flows.run import FLOWS
from flows.settings import Settings, SettingsError
from operators.regime_lane import RegimeLogic
from schemas.policy import BUILT_IN, PROFILES
from schemas.registry import TOPICS


def test_the_flow_serves_every_built_in_profile() -> None:
    flow = regime.build(Settings())
    logic = flow.make_logic(0, 1, None)
    assert isinstance(logic, RegimeLogic)
    assert set(logic.policies) == set(PROFILES)
    assert set(FLOWS["regime"][1]) == {*flow.inputs, *flow.outputs, flow.changelog}
    assert all(name in TOPICS for name in FLOWS["regime"][1])
    assert flow.make_broadcast() is None


def test_policies_of_one_s_own_replace_the_built_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEDGEROW_POLICIES", str(BUILT_IN / "canary-guarded.json"))
    logic = regime.build(Settings()).make_logic(0, 1, None)
    assert isinstance(logic, RegimeLogic)
    assert list(logic.policies) == ["canary-guarded"]
    bad = tmp_path / "bad.json"
    bad.write_text("{}")
    with pytest.raises(SettingsError, match=r"bad\.json"):
        regime.build(Settings(policies=(bad,)))
