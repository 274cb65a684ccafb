"""The regime flow: market observations in, the dashboard of every risk policy out. Wiring only."""

from __future__ import annotations

from collections.abc import Mapping

from flows.policies import policies_of
from flows.runtime import Flow
from flows.settings import Settings
from operators.regime_lane import RegimeLogic
from schemas import registry
from schemas.policy import RiskPolicy


def flow_of(policies: Mapping[str, RiskPolicy]) -> Flow:
    """Return the regime flow over the given policies, by profile."""
    return Flow(
        name="regime",
        inputs=registry.REGIME_INPUTS,
        outputs=registry.REGIME_OUTPUTS,
        broadcast=(),
        changelog=registry.REGIME_CHANGELOG,
        make_logic=lambda lane, n_lanes, _: RegimeLogic(lane, n_lanes, policies),
        make_broadcast=lambda: None,
    )


def build(settings: Settings) -> Flow:
    """Return the regime flow as the settings say. Raises SettingsError when a policy cannot be used."""
    return flow_of(policies_of(settings))
