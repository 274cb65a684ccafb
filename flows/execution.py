"""The execution flow: venue reports, routes and acknowledgements in; fills, audit, dead letters and alerts out. Wiring only."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from flows.runtime import Flow
from flows.settings import Settings
from operators.execution import ExecutionLogic
from operators.lane import BroadcastLogic, LaneLogic
from operators.tape import Tape
from schemas import registry
from schemas.chunk import Chunk
from schemas.codec import compile_decoder
from schemas.execution import ExecutionReportMessage
from schemas.reference import Reference, load_reference

TAPE_SILENT_NS = 1_000_000_000
"""A tape without a quote for this long is not waited for: the market is closed, or its feed is down."""
_TAIL = 64
"""Records looked at from the end of a chunk: reports come nearly in the order they happened, and a larger chunk is a backlog."""
_REPORTS = registry.EXECUTION_INPUTS[0]


def newest_fill_ns(chunks: Sequence[Chunk]) -> int:
    """Return the latest event time (ns) among the last reports of each chunk that a fill may follow from; 0 if there is none.

    Times after the receipt do not count: the venue's clock is ahead, and no tape passes them in time.
    """
    tails = [(chunk, chunk.bounds[-_TAIL - 1 :]) for chunk in chunks if chunk.topic == _REPORTS and len(chunk)]
    if not tails:
        return 0
    decoder = compile_decoder(ExecutionReportMessage)
    layout = decoder.layout
    # all in one batch: most of what a small one takes is its set-up (50 us)
    data = np.concatenate([chunk.data[bounds[0] :] for chunk, bounds in tails])
    batch = decoder.decode(data, np.concatenate([[0], *(np.diff(bounds) for _, bounds in tails)]).cumsum())
    times, kinds = batch.rows[:, layout.slot("payload.event_ts_ns")], batch.rows[:, layout.slot("payload.kind")]
    moving = [layout.code("payload.kind", kind) for kind in ("TRADE", "BUST", "CORRECT")]
    received = max(chunk.received_ns for chunk, _ in tails)
    return int(times[batch.ok & np.isin(kinds, moving) & (times <= received)].max(initial=0))


def hold_for_tape(chunks: Sequence[Chunk], broadcast: BroadcastLogic) -> Callable[[int], bool]:
    """Return whether, at a time (ns), fills in the chunks should wait because the tape has not passed them and is not silent."""
    if not isinstance(broadcast, Tape):
        return lambda now_ns: False
    newest, watermark = newest_fill_ns(chunks), broadcast.quotes.arrays.tape_watermark
    return lambda now_ns: bool(now_ns - TAPE_SILENT_NS < watermark[0] < newest)


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
        # on another clock than the tape's a benchmark is stale whatever the tape says
        hold=hold_for_tape if any(venue.same_clock for venue in reference.venues) else None,
    )


def build(settings: Settings) -> Flow:
    """Return the execution flow as the settings say. Raises ReferenceError when the reference data cannot be used."""
    return flow_of(load_reference(settings.reference))
