"""Peer: Quix Streams with processing_guarantee="exactly-once" (Kafka transactions), the same reconciliation per record with its state.

Run by bench.execution as `python -m bench.peers.quix`; settings come from BENCH_KAFKA, BENCH_OUTPUT and BENCH_STATE. As its documentation
writes it: JSON (de)serializers, the topics concatenated into one frame, one state value per message key, changelog topics on.
"""

from __future__ import annotations

import os
from decimal import Decimal
from typing import Any

from quixstreams import Application, State

from bench.peers.reconcile import INPUTS, REPORT, Order, Report

COMMIT_INTERVAL_S = 1.0
"""Its default is 5 s; with 1 s at most so much of a run's end is waiting, and its throughput is the same."""


def reconcile(message: dict[str, Any], state: State) -> list[dict[str, Any]]:
    """Fold one record into its order; return the fills."""
    told = state.get("order")
    order = Order() if told is None else Order.from_json(told)
    fills: list[dict[str, Any]] = []
    payload = message["payload"]
    if message["type"] == REPORT:
        fills = order.take_report(Report.of(payload))
    elif "routing_plan" in payload:
        fills = order.take_route({"order_id": payload["order_id"], "book": payload["book"], "size": payload["size"]})
    else:
        order.take_ack(payload.get("venue_order_id"))
    state.set("order", order.to_json())
    return [
        {
            "type": "execution.event.fill.v1",
            "correlation_id": message["correlation_id"],
            "payload": {name: format(value, "f") if isinstance(value, Decimal) else value for name, value in fill.items()},
        }
        for fill in fills
    ]


def main() -> None:
    """Run until ended by a signal."""
    app = Application(
        broker_address=os.environ["BENCH_KAFKA"],
        consumer_group="bench-quix",
        auto_offset_reset="earliest",
        processing_guarantee="exactly-once",
        commit_interval=COMMIT_INTERVAL_S,
        state_dir=os.environ["BENCH_STATE"],
        loglevel="WARNING",
    )
    output = app.topic(os.environ["BENCH_OUTPUT"], key_serializer="str", value_serializer="json")
    frames = [app.dataframe(app.topic(name, key_deserializer="str", value_deserializer="json")) for name in INPUTS]
    frame = frames[0].concat(frames[1]).concat(frames[2])
    frame = frame.apply(reconcile, stateful=True, expand=True)
    frame.to_topic(output, key=lambda fill: fill["payload"]["book"])
    app.run()


if __name__ == "__main__":
    main()
