"""Market data the flows look benchmarks up in."""

from __future__ import annotations

from typing import Annotated, Literal

from schemas.envelope import Envelope, Strict
from schemas.fields import Decimal, NonNegativeDecimal, Symbol, TimestampNs, Uuid, Venue, real


class MarketSnapshot(Strict):
    """Best bid and ask at one moment. A null side means that side of the book is empty. `confidence` 1 is full."""

    symbol: Symbol
    bid: Decimal | None = None
    ask: Decimal | None = None
    bid_size: NonNegativeDecimal | None = None
    ask_size: NonNegativeDecimal | None = None
    last: Decimal | None = None
    volume: NonNegativeDecimal | None = None
    venue: Venue | None = None
    event_ts_ns: TimestampNs
    snapshot_id: Uuid
    confidence: Annotated[float, real(0.0, 1.0)]


class MarketSnapshotMessage(Envelope):
    """marketdata.snapshot.v1, keyed by symbol, read whole by every worker."""

    type: Literal["marketdata.snapshot.v1"]
    payload: MarketSnapshot
