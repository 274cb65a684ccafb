"""Benchmark of the columnar codec: records per second decoded and encoded on one core, against polars' JSON decoder on the same bytes.

Run `python -m bench.codec`; the last line is JSON. Times are processor times of this thread, and the ratios are of one run. polars is
given the message's full schema (texts as strings, no checks), pydantic a part of the records, one at a time.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl

from schemas.chunk import join, split
from schemas.codec import compile_decoder, compile_encoder
from schemas.execution import ExecutionReportMessage
from schemas.layout import Layout, layout_of

CENTS = 100


def report(rng: random.Random, i: int) -> dict[str, Any]:
    """Return a venue's trade report as gateways write it: about 850 bytes, the raw message in it included."""
    now = 1_769_903_999_000_000_000 + i * 1_000_000
    quantity, price = rng.randint(1, 10**9), rng.randint(10**6, 10**8)
    raw = rng.randbytes(24).hex()
    return {
        "msg_id": f"{rng.getrandbits(128) | 1:032x}", "type": "venue.execution.report.v1", "version": "v1",
        "ts": "2026-01-31T23:59:59.123Z",
        "ts_ns": now, "ttl_ms": 60_000, "correlation_id": f"{rng.getrandbits(128) | 1:032x}", "sender": "agent.gateway",
        "idempotency_key": f"BINANCE|acc-1|{i}",
        "payload": {
            "source": "WEBSOCKET", "venue": "BINANCE", "account": "acc-1", "instrument": "BTCUSDT", "kind": "TRADE", "exec_id": f"T{i}",
            "trade_date": 20260131, "client_order_id": f"{rng.getrandbits(128):032x}", "venue_order_id": str(rng.randint(1, 10**9)),
            "side": rng.choice(["BUY", "SELL"]), "order_qty": f"{2 * quantity / 1e8:.8f}", "last_qty": f"{quantity / 1e8:.8f}",
            "cum_qty": f"{quantity / 1e8:.8f}", "leaves_qty": f"{quantity / 1e8:.8f}", "last_px": f"{price / CENTS:.2f}",
            "fee_amount": f"{price / 1e9:.9f}", "fee_ccy": "BNB", "liquidity": rng.choice(["MAKER", "TAKER"]),
            "event_ts_ns": now - 3_000_000,
            "recv_ts_ns": now, "seq_num": i, "poss_dup": False, "raw": f"{raw}{raw[:16]}", "dialect": "binance-ws",
        },
    }  # fmt: skip


def polars_schema(layout: Layout) -> pl.Struct:
    """Return the polars type of the same message."""
    kinds = {"int": pl.Int64, "float": pl.Float64, "bool": pl.Boolean}

    def members(parent: int) -> pl.Struct:
        fields = []
        for i, column in enumerate(layout.columns):
            if column.parent == parent:
                fields.append(pl.Field(column.name, members(i) if column.kind == "object" else kinds.get(column.kind, pl.String)))
        return pl.Struct(fields)

    return members(-1)


def seconds(work: Callable[[], Any], repeats: int) -> float:
    """Return the least processor time of one call."""
    least = float("inf")
    for _ in range(repeats):
        start = time.process_time()
        work()
        least = min(least, time.process_time() - start)
    return least


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=10_000, help="records in the chunk")
    parser.add_argument("--repeats", type=int, default=15, help="calls of each, the best counts")
    args = parser.parse_args()
    rng = random.Random(1)
    made = []
    for i in range(args.records):
        message = report(rng, i)
        for name in ("msg_id", "correlation_id"):
            digits = message[name]
            message[name] = "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
        made.append(json.dumps(message, separators=(",", ":")).encode())
    data, bounds = join(made)
    n = len(made)
    decoder, encoder = compile_decoder(ExecutionReportMessage), compile_encoder(ExecutionReportMessage)
    layout = layout_of(ExecutionReportMessage)
    batch = decoder.decode(data, bounds)
    if not batch.ok.all():
        raise SystemExit(decoder.explain(batch, int(np.flatnonzero(~batch.ok)[0]), data, bounds))
    out, _ = encoder.encode(batch.rows, batch.arena)
    texts = pl.Series([one.decode() for one in made])
    schema = polars_schema(layout)
    some = split(data, bounds)[:1000]
    figures = {
        "decode": n / seconds(lambda: decoder.decode(data, bounds), args.repeats),
        "encode": n / seconds(lambda: encoder.encode(batch.rows, batch.arena), args.repeats),
        "polars": n / seconds(lambda: texts.str.json_decode(schema), max(3, args.repeats // 3)),
        "pydantic": len(some) / seconds(lambda: [ExecutionReportMessage.model_validate_json(one) for one in some], 3),
    }
    print(f"{n} execution reports of {len(data) / n:.0f} bytes in, {len(out) / n:.0f} bytes out; width {layout.width} slots")
    for name, rate in figures.items():
        print(f"{name:>9} {rate:12,.0f} records/s {rate * len(data) / n / 1e6:8.0f} MB/s")
    result = {
        "benchmark": "codec",
        "records": n,
        "bytes_per_record": round(len(data) / n, 1),
        "records_per_s": {name: round(rate) for name, rate in figures.items()},
        "decode_vs_polars": round(figures["decode"] / figures["polars"], 2),
        "encode_vs_polars_decode": round(figures["encode"] / figures["polars"], 2),
        "decode_vs_pydantic": round(figures["decode"] / figures["pydantic"], 2),
    }
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
