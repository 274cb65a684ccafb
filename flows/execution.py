"""The execution flow: venue reports, routes and acknowledgements in; fills, audit, dead letters and alerts out. Wiring only."""

from __future__ import annotations

from flows.runtime import Flow
from flows.settings import Settings
from operators.execution import ExecutionLogic
from operators.lane import BroadcastLogic, LaneLogic
from operators.tape import Tape
from schemas import registry
from schemas.reference import Reference, load_reference


def flow_of(reference: Reference) -> Flow:
    """Return the execution flow over the given reference data."""

    def make_logic(lane: int, n_lanes: int, broadcast: BroadcastLogic | None) -> LaneLogic:
        return ExecutionLogic(lane, n_lanes, reference, broadcast.quotes if isinstance(broadcast, Tape) else None)

    return Flow(
        name="execution",
        inputs=registry.EXECUTION_INPUTS,
        outputs=registry.EXECUTION_OUTPUTS,
        broadcast=registry.EXECUTION_BROADCAST,
        changelog=registry.EXECUTION_CHANGELOG,
        make_logic=make_logic,
        make_broadcast=lambda: Tape(reference),
    )


def build(settings: Settings) -> Flow:
    """Return the execution flow as the settings say. Raises ReferenceError when the reference data cannot be used."""
    return flow_of(load_reference(settings.reference))
