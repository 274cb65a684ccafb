"""Benchmark of reports that come before their route: processor time per fill, against the same reports after it.

Run `python -m bench.parking`; the last line is JSON. One lane is fed chunks as the runtime does, a tick and a capture after each. Every fill is
a TRADE of its own; nothing is broken, repeated or corrected. Each order of arrival is run several times by turns, the least time counts.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from random import Random

import numpy as np

import schemas
from connectors.simulator.messages import REPORT, ROUTE, Report, report_bytes, route_bytes
from operators.execution import ExecutionLogic
from schemas.chunk import Chunk, join
from schemas.reference import Reference, load_reference

NOW_NS = 1_769_904_000_000_000_000
FILL = "execution.event.fill.v1"
Stored = list[tuple[bytes, bytes]]


def load(reference: Reference, orders: int, fills: int) -> tuple[Stored, Stored]:
    """Return (routes, reports) as (key, value); the reports of an order stand among those of the sixteen beside it."""
    rng = Random(1)
    venue = next(v for v in reference.venues if v.carries_client_order_id and v.accounts)
    instrument = reference.instruments[0]
    p, q = instrument.px_scale, instrument.qty_scale
    routes: Stored = []
    reports: list[tuple[float, bytes, bytes]] = []
    for n in range(orders):
        h = f"{rng.getrandbits(128):032x}"
        name = f"{h[:8]}-{h[8:12]}-4{h[13:16]}-a{h[17:20]}-{h[20:]}"
        key = name.encode()
        born = NOW_NS - 60_000_000_000 + n * 1_000_000
        client = f"{name.replace('-', '')}-0"
        value = route_bytes(
            f"r{n}",
            name,
            born,
            instrument.symbol,
            "BUY",
            str(fills),
            "DAY",
            [(venue.name, 1.0)],
            "BOOK-1",
            venue.accounts[0],
            born,
            "100",
            "",
            0.2,
        )
        routes.append((key, value))
        for k in range(fills):
            at = born + (k + 1) * 1_000_000
            status = "FILLED" if k + 1 == fills else "PARTIALLY_FILLED"
            one = Report(
                "TRADE", venue.name, "FIX_DROP_COPY", venue.accounts[0], instrument.symbol, p, q, "BUY", 20260131, at, at + 400_000, 1, n * fills + k,
                "S-1", status, name, name, client, "", f"v{n}", "0", f"x{n}-{k}", order_qty=fills * 10**q, last_qty=10**q, last_px=100 * 10**p,
                cum_qty=(k + 1) * 10**q, leaves_qty=(fills - k - 1) * 10**q, avg_px=100 * 10 ** (p + 4), fee_micros=1, fee_ccy="USD",
                liquidity="MAKER",
            )  # fmt: skip
            reports.append((n + 16 * rng.random(), key, report_bytes(one, f"e{n}-{k}")))
    reports.sort(key=lambda report: report[0])
    return routes, [(key, value) for _, key, value in reports]


def seconds(reference: Reference, topics: list[tuple[str, Stored]], size: int, fills: int) -> float:
    """Return the processor time of a new lane that takes the topics one after the other, in chunks of `size` records."""
    lane = ExecutionLogic(0, 1, reference)
    spent, made = 0.0, 0
    for topic, records in topics:
        for first in range(0, len(records), size):
            part = records[first : first + size]
            data, bounds = join([value for _, value in part])
            keys, key_bounds = join([key for key, _ in part])
            offsets = np.arange(first, first + len(part), dtype=np.int64)
            chunk = Chunk(topic, 0, data, bounds, offsets, keys, key_bounds, NOW_NS)
            begun = time.thread_time()
            out = lane.process(chunk, NOW_NS)
            lane.tick(NOW_NS)
            lane.capture()
            spent += time.thread_time() - begun
            made += sum(len(records) for records in out if records.topic == FILL)
    if made != fills:
        raise SystemExit(f"{made} fills were published, {fills} were sent")
    return spent


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fills", type=int, default=24_000, help="reports in all")
    parser.add_argument("--records", type=int, default=1500, help="records in a chunk")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each, the least time counts")
    args = parser.parse_args()
    reference = load_reference(Path(schemas.__path__[0]) / "simulation.toml")
    result: dict[str, object] = {"benchmark": "parking", "fills": args.fills, "records": args.records}
    for each in (8, 1):
        routes, reports = load(reference, args.fills // each, each)
        orders = {"routes_first": [(ROUTE, routes), (REPORT, reports)], "reports_first": [(REPORT, reports), (ROUTE, routes)]}
        least = dict.fromkeys(orders, float("inf"))
        for _ in range(args.repeats):
            for name, topics in orders.items():
                least[name] = min(least[name], seconds(reference, topics, args.records, len(reports)) / len(reports) * 1e6)
        print(f"{each} fills an order: " + ", ".join(f"{name} {took:.1f} µs/fill" for name, took in least.items()))
        result[f"fills_per_order_{each}"] = {
            **{f"{name}_us": round(took, 2) for name, took in least.items()},
            "ratio": round(least["reports_first"] / least["routes_first"], 2),
        }
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
