"""The tape: snapshots on the wire become quotes, bad ones are counted by reason and left out."""

from __future__ import annotations

import json
import uuid
from typing import Any

import numpy as np
import pytest

from operators.tape import Tape
from schemas.chunk import Chunk, join
from schemas.reference import Instrument, Reference, VenueRules
from state.quotes import MISSING, OK, STALE, benchmark

T0 = 1_700_000_000_000_000_000
REFERENCE = Reference(
    venues=[VenueRules(name="X")],
    instruments=[Instrument(symbol="AAA", px_scale=2, qty_scale=0), Instrument(symbol="BBB-LONG.NAME_1234", px_scale=9, qty_scale=0)],
)


def snapshot(symbol: str = "AAA", bid: str | None = "99.5", ask: str | None = "100.5", ts: int = T0, **payload: Any) -> bytes:
    """Return one valid snapshot; fields of the payload may be replaced."""
    ident = str(uuid.uuid5(uuid.NAMESPACE_URL, f"{symbol}{ts}"))
    body = {"symbol": symbol, "bid": bid, "ask": ask, "event_ts_ns": ts, "snapshot_id": ident, "confidence": 1.0, **payload}
    message = {
        "msg_id": ident, "type": "marketdata.snapshot.v1", "version": "v1", "ts": "2023-11-14T22:13:20Z", "ts_ns": ts, "ttl_ms": 1000,
        "sender": "agent.test", "idempotency_key": f"snapshot-{ident}", "payload": body,
    }  # fmt: skip
    return json.dumps(message).encode()


def chunk(*values: bytes, received_ns: int = T0 + 10**9) -> Chunk:
    """Return a chunk of snapshots."""
    data, bounds = join(list(values))
    keys, key_bounds = join([b"k"] * len(values))
    return Chunk("marketdata.snapshot.v1", 0, data, bounds, np.arange(len(values), dtype=np.int64), keys, key_bounds, received_ns)


def test_apply_valid_snapshots_are_scaled_to_their_instrument() -> None:
    tape = Tape(REFERENCE)
    tape.apply(chunk(snapshot(), snapshot("BBB-LONG.NAME_1234", "0.000000001", "1", T0 + 1)))
    status, _, mid2, ts, high, low, place = benchmark(tape.quotes.arrays, 0, T0 + 1, 10**9, True, True)
    assert (status, mid2, ts) == (OK, 20000, T0)
    assert (high % 2**64) << 64 | low % 2**64 == uuid.uuid5(uuid.NAMESPACE_URL, f"AAA{T0}").int
    assert (tape.quotes.arrays.bid[0, place], tape.quotes.arrays.ask[0, place]) == (9950, 10050)
    assert benchmark(tape.quotes.arrays, 1, T0 + 2, 10**9, True, False)[2] == 1_000_000_001
    assert tape.counters()["snapshots_rejected"] == 0


def test_apply_bad_snapshots_are_counted_by_reason_and_the_rest_go_in() -> None:
    tape = Tape(REFERENCE)
    tape.apply(
        chunk(
            b"not json",
            snapshot("NOPE"),
            snapshot(bid="99.501"),
            snapshot("BBB-LONG.NAME_1234", ask="999999999999999999"),
            snapshot(ts=T0 + 10**9 + 60_000_000_001),
            snapshot(confidence=2.0),
            b"",
            snapshot(ts=T0 + 5),
        )
    )
    counters = tape.counters()
    assert counters["snapshots"] == 8
    assert counters["snapshots_rejected"] == 7
    assert counters["quotes"] == 1
    assert counters["snapshots_rejected_json_malformed"] == 2
    assert counters["snapshots_rejected_instrument_unknown"] == 1
    assert counters["snapshots_rejected_precision_exceeds_scale"] == 1
    assert counters["snapshots_rejected_event_ts_future"] == 1
    assert counters["snapshots_rejected_field_invalid"] == 2
    assert tape.quotes.arrays.tape_watermark[0] == T0 + 5


@pytest.mark.parametrize(
    ("bid", "ask", "confidence", "status"), [(None, "1", 1.0, MISSING), ("1", None, 1, MISSING), ("1", "2", 0.99, STALE)]
)
def test_apply_one_sided_or_doubtful_snapshots_are_kept_as_such(bid: str | None, ask: str | None, confidence: float, status: int) -> None:
    tape = Tape(REFERENCE)
    tape.apply(chunk(snapshot(bid=bid, ask=ask, confidence=confidence)))
    assert benchmark(tape.quotes.arrays, 0, T0 + 1, 10**9, True, False)[0] == status


def test_apply_late_snapshots_are_put_in_order_or_dropped() -> None:
    tape = Tape(REFERENCE, allowed_lateness_ns=100)
    tape.apply(chunk(snapshot(ts=T0 + 200), snapshot(ts=T0 + 100, bid="50"), snapshot(ts=T0 + 99)))
    assert benchmark(tape.quotes.arrays, 0, T0 + 200, 10**9, True, False)[2] == 15050
    assert tape.counters()["late_quote"] == 1


def test_apply_empty_chunk_changes_nothing() -> None:
    tape = Tape(REFERENCE)
    tape.apply(chunk())
    assert tape.counters()["snapshots"] == 0


def test_apply_many_symbols_each_finds_its_own_instrument() -> None:
    symbols = [f"S{i}" for i in range(500)]
    tape = Tape(Reference(venues=[VenueRules(name="X")], instruments=[Instrument(symbol=s, px_scale=0, qty_scale=0) for s in symbols]), 2)
    tape.apply(chunk(*(snapshot(s, str(i + 1), str(i + 2)) for i, s in enumerate(symbols))))
    assert tape.quotes.arrays.bid[:, 0].tolist() == list(range(1, 501))
