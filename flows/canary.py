"""The canary: accounts, positions, fills and hedges in; alerts of every profile out. Wiring only."""

from __future__ import annotations

from collections.abc import Mapping

from flows.policies import profiles_of
from flows.runtime import Flow
from flows.settings import Settings
from operators.canary_lane import CanaryLogic, RegimeBoard
from operators.lane import BroadcastLogic, LaneLogic
from operators.windows import WindowRules
from schemas import registry
from schemas.policy import RiskPolicy


def flow_of(policies: Mapping[str, RiskPolicy], rules: WindowRules | None = None) -> Flow:
    """Return the canary under the given policies, by profile."""

    def make_logic(lane: int, n_lanes: int, broadcast: BroadcastLogic | None) -> LaneLogic:
        assert isinstance(broadcast, RegimeBoard)
        return CanaryLogic(lane, n_lanes, broadcast, rules)

    return Flow(
        name="canary",
        inputs=registry.CANARY_INPUTS,
        outputs=registry.CANARY_OUTPUTS,
        broadcast=registry.CANARY_BROADCAST,
        changelog=registry.CANARY_CHANGELOG,
        make_logic=make_logic,
        make_broadcast=lambda: RegimeBoard(policies),
        broadcast_whole=registry.CANARY_BROADCAST,
    )


def build(settings: Settings) -> Flow:
    """Return the canary as the settings say. Raises SettingsError when the policies cannot be used."""
    return flow_of(profiles_of(settings))
