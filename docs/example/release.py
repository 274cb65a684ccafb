"""Decides on a held order: `python docs/example/release.py CORRELATION_ID RELEASE|REJECT OPERATOR JUSTIFICATION`, with HEDGEROW_KAFKA set.

Sends one `execution.intent.hold.v1`; what it does is said in docs/reconciliation.md, "Holds". An example: a desk will have its own tool.
"""

from __future__ import annotations

import json
import sys
import time
import uuid
from datetime import UTC, datetime

from confluent_kafka import Producer

from flows.settings import load_settings
from schemas.execution import HoldDecisionMessage

TOPIC = "execution.intent.hold.v1"


def decision(correlation_id: str, action: str, operator: str, justification: str, now_ns: int) -> bytes:
    """Return the message. Raises pydantic's ValidationError when a part of it is not as the contract says."""
    identity = str(uuid.uuid5(uuid.NAMESPACE_URL, f"{TOPIC}|{correlation_id}|{action}|{operator}|{now_ns}"))
    message = {
        "msg_id": identity, "type": TOPIC, "version": "v1",
        "ts": datetime.fromtimestamp(now_ns // 10**9, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), "ts_ns": now_ns, "ttl_ms": 600_000,
        "correlation_id": correlation_id, "sender": "agent.desk", "idempotency_key": identity,
        "payload": {"action": action, "operator": operator, "justification": justification, "decided_ns": now_ns},
    }  # fmt: skip
    value = json.dumps(message).encode()
    HoldDecisionMessage.model_validate_json(value)
    return value


def main() -> int:
    """Send the decision; return 0 when Kafka has it."""
    if len(sys.argv) != 5:
        print(__doc__, file=sys.stderr)
        return 2
    correlation_id = sys.argv[1].lower()
    value = decision(correlation_id, *sys.argv[2:], now_ns=time.time_ns())
    settings = load_settings()
    # keyed and partitioned as the flow's inputs are: murmur2 of the correlation
    producer = Producer({**settings.client_config(), "bootstrap.servers": settings.bootstrap, "partitioner": "murmur2_random"})
    failed: list[str] = []
    producer.produce(TOPIC, value, correlation_id, on_delivery=lambda error, _: failed.append(error.str()) if error else None)
    left = producer.flush(15)
    for reason in failed or (["no answer within 15 s"] if left else []):
        print(f"not sent: {reason}", file=sys.stderr)
    return 1 if failed or left else 0


if __name__ == "__main__":
    raise SystemExit(main())
