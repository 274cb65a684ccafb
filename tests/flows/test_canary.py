"""The canary's wiring: topics, policies from settings, and the flow's own logic behind it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flows.canary import build, flow_of
from flows.policies import profiles_of
from flows.run import FLOWS, session_config
from flows.settings import SettingsError, load_settings
from operators.canary_lane import CanaryLogic, RegimeBoard
from schemas import registry
from schemas.policy import BUILT_IN, load_policies


def test_the_flow_reads_and_writes_what_the_registry_says() -> None:
    flow = build(load_settings(None))
    assert flow.inputs == registry.CANARY_INPUTS
    assert flow.broadcast == flow.broadcast_whole == registry.CANARY_BROADCAST
    assert flow.changelog == registry.CANARY_CHANGELOG
    assert set(FLOWS["canary"][1]) == {*flow.inputs, *flow.broadcast, *flow.outputs, flow.changelog}
    lanes = [name for name in (*flow.inputs, flow.changelog) if not registry.TOPICS[name].lanes]
    assert lanes == []  # what is keyed by book and what is keyed by account have equally many partitions
    assert session_config(load_settings(None, kafka="localhost:9092"), flow).inputs == flow.inputs


def test_every_worker_has_one_board_for_all_its_lanes() -> None:
    flow = flow_of(load_policies())
    board = flow.make_broadcast()
    assert isinstance(board, RegimeBoard)
    one, two = flow.make_logic(0, 4, board), flow.make_logic(1, 4, board)
    assert isinstance(one, CanaryLogic)
    assert isinstance(two, CanaryLogic)
    assert one.board is two.board is board
    assert (one.lane, two.lane, one.n_lanes) == (0, 1, 4)


def test_profiles_come_from_the_settings_in_their_order() -> None:
    assert list(profiles_of(load_settings(None))) == ["canary-default"]
    assert list(profiles_of(load_settings(None, canary_profiles="canary-guarded, canary-default,"))) == ["canary-guarded", "canary-default"]


def test_a_policy_file_of_ones_own(tmp_path: Path) -> None:
    own = json.loads((BUILT_IN / "canary-default.json").read_text()) | {"profile": "house"}
    path = tmp_path / "house.json"
    path.write_text(json.dumps(own))
    settings = load_settings(None, policies=f"{path}:{BUILT_IN / 'canary-guarded.json'}", canary_profiles="house,canary-guarded")
    found = profiles_of(settings)
    assert list(found) == ["house", "canary-guarded"]
    assert found["house"].fingerprint != load_policies()["canary-default"].fingerprint


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"canary_profiles": "canary-default,nobody"}, "HEDGEROW_CANARY_PROFILES: nobody is in none of the policies"),
        ({"canary_profiles": " , "}, "HEDGEROW_CANARY_PROFILES: no profile"),
        ({"policies": "/nowhere/p.json"}, "HEDGEROW_POLICIES: /nowhere/p.json: cannot be read"),
    ],
)
def test_what_cannot_be_used_is_said_by_setting(given: dict[str, str], told: str) -> None:
    with pytest.raises(SettingsError, match=told.replace(".", r"\.")):
        profiles_of(load_settings(None, **given))
