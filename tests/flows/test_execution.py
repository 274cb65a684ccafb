"""The execution flow's wiring: how long fills wait for the tape."""

from __future__ import annotations

import uuid

import pytest

from bench.oracle import ACK, REPORT
from flows.execution import TAPE_SILENT_NS, flow_of, hold_for_tape, newest_fill_ns
from operators.tape import Tape
from schemas.chunk import Chunk
from schemas.reference import Reference
from schemas.registry import EXECUTION_BROADCAST, EXECUTION_INPUTS
from tests.support import REFERENCE, T0, ack, chunk_of, correlation, message, report

MS = 1_000_000
NOW = T0 + 20 * MS


def chunk(*values: bytes, topic: str = REPORT, received_ns: int = NOW) -> Chunk:
    return chunk_of(topic, 0, [(offset, b"k", value) for offset, value in enumerate(values)], received_ns)


def trade(at_ms: float, kind: str = "TRADE", **fields: object) -> bytes:
    return report(kind, correlation(1), T0 + int(at_ms * MS), exec_id=f"E{at_ms}", last_qty="1", last_px="2", **fields)


def tape_at(ts_ns: int) -> Tape:
    """Return a tape whose newest quote is of that time."""
    tape = Tape(REFERENCE)
    body = {"symbol": "ACME", "bid": "1", "ask": "2", "event_ts_ns": ts_ns, "snapshot_id": str(uuid.UUID(int=1 << 76)), "confidence": 1.0}
    tape.apply(chunk(message(EXECUTION_BROADCAST[0], body, None, ts_ns), topic=EXECUTION_BROADCAST[0], received_ns=ts_ns))
    assert tape.quotes.arrays.tape_watermark[0] == ts_ns
    return tape


def test_newest_fill_is_the_latest_of_all_chunks_whatever_their_order() -> None:
    assert newest_fill_ns([chunk(trade(3), trade(9), trade(4)), chunk(trade(7))]) == T0 + 9 * MS
    assert newest_fill_ns([chunk(trade(3), trade(5, "CORRECT", exec_ref_id="E3"), trade(6, "BUST", exec_ref_id="E3"))]) == T0 + 6 * MS
    assert newest_fill_ns([]) == 0


@pytest.mark.parametrize(
    "other",
    [
        b"\xff not json",
        b"",
        report("NEW", correlation(1), T0 + 9 * MS),
        trade(20.1),  # later than its receipt: the venue's clock is ahead
        trade(9).replace(b'"TRADE"', b'"SNEEZE"'),
    ],
)
def test_newest_fill_leaves_out_what_needs_no_quote_or_cannot_be_waited_for(other: bytes) -> None:
    assert newest_fill_ns([chunk(other)]) == 0
    assert newest_fill_ns([chunk(other, trade(3), other)]) == T0 + 3 * MS


def test_newest_fill_looks_at_reports_only_and_at_no_more_than_a_tail() -> None:
    assert EXECUTION_INPUTS[0] == REPORT
    assert newest_fill_ns([chunk(ack(correlation(1), ts_ns=T0 + 9 * MS), topic=ACK)]) == 0
    assert newest_fill_ns([chunk(trade(9), *[trade(3)] * 63)]) == T0 + 9 * MS
    assert newest_fill_ns([chunk(trade(9), *[trade(3)] * 64)]) == T0 + 3 * MS


@pytest.mark.parametrize(
    ("tape_ns", "now_ns", "waits"),
    [
        (T0 + 8 * MS, NOW, True),
        (T0 + 9 * MS, NOW, False),  # passed
        (T0 + 8_000 * MS, NOW, False),  # a backlog
        (T0 + 8 * MS, T0 + 8 * MS + TAPE_SILENT_NS, False),  # a closed market
    ],
)
def test_fills_wait_only_for_a_tape_that_is_live_and_behind(tape_ns: int, now_ns: int, waits: bool) -> None:
    assert hold_for_tape([chunk(trade(9))], tape_at(tape_ns))(now_ns) == waits


def test_fills_wait_until_the_tape_has_passed_them() -> None:
    tape = tape_at(T0 + 8 * MS)
    should_wait = hold_for_tape([chunk(trade(9))], tape)
    assert should_wait(NOW)
    tape.quotes.arrays.tape_watermark[0] = T0 + 9 * MS
    assert not should_wait(NOW)


def test_fills_wait_for_no_tape_that_has_no_quote_or_runs_by_other_clocks() -> None:
    assert not hold_for_tape([chunk(trade(9))], Tape(REFERENCE))(NOW)
    assert flow_of(REFERENCE).hold is hold_for_tape
    skewed = [venue.model_copy(update={"same_clock": False}) for venue in REFERENCE.venues]
    assert flow_of(Reference(venues=skewed, instruments=REFERENCE.instruments)).hold is None
