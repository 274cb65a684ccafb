"""What a lane has to say between two hand-outs: messages whose identity is a function of their name, dead letters, and records that belong elsewhere.

For lanes with a low rate of output. Knows no rule and no topic but those it is given.
"""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Collection
from typing import Any

from schemas.chunk import Chunk, Records, join
from schemas.reasons import Reason, replayable, stage_of
from schemas.times import rfc3339

TTL_MS = 600_000
DETAIL = 512
"""Characters of a dead letter's explanation."""


def json_of(value: Any) -> str:
    """Return JSON as messages carry it. Raises ValueError for a number that is not finite."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def message(topic: str, payload: str, identity: uuid.UUID, sender: str, now_ns: int, correlation: str | None = None) -> bytes:
    """Return a message around a payload that is JSON already."""
    more = "" if correlation is None else f',"correlation_id":"{correlation}"'
    return (
        f'{{"msg_id":"{identity}","type":"{topic}","version":"v1","ts":"{rfc3339(now_ns)}","ts_ns":{now_ns},"ttl_ms":{TTL_MS},'
        f'"sender":"{sender}","idempotency_key":"{identity}","payload":{payload}{more}}}'
    ).encode()


def dead_letter(
    reason: Reason, detail: str, topic: str, lane: int, offset: int, key: bytes, value: bytes, first_ns: int, now_ns: int
) -> dict[str, Any]:
    """Return the payload of a dead letter: the input with its bytes, where it was read, and why it could not be used."""
    return {
        "reason": reason.name,
        "stage": stage_of(reason).name,
        "detail": detail[:DETAIL],
        "retryable": replayable(reason),
        "original": base64.b64encode(value).decode(),
        "source": {"topic": topic, "partition": lane, "offset": offset},
        "source_key": base64.b64encode(key).decode(),
        "first_ts_ns": first_ns,
        "last_ts_ns": now_ns,
        "attempts": 1,
    }


def dead_letter_name(reason: Reason, topic: str, lane: int, offset: int) -> str:
    """Return what the identity of a dead letter is made of."""
    return f"dlq:{topic}:{lane}:{offset}:{reason.name}"


class Outbox:
    """The messages of one lane until they are handed out. own: topics whose records stay on the lane's own partition."""

    def __init__(self, lane: int, sender: str, namespace: uuid.UUID, own: Collection[str] = ()) -> None:
        self._lane = lane
        self._sender = sender
        self._namespace = namespace
        self._own = frozenset(own)
        self._parts: dict[str, list[tuple[bytes, bytes]]] = {}

    def message(self, topic: str, payload: Any, name: str, now_ns: int, correlation: str | None = None) -> bytes:
        """Return a message; its identity is a function of `name`. payload: JSON text, or what it is made of."""
        text = payload if isinstance(payload, str) else json_of(payload)
        return message(topic, text, uuid.uuid5(self._namespace, name), self._sender, now_ns, correlation)

    def put(self, topic: str, key: bytes, payload: Any, name: str, now_ns: int, correlation: str | None = None) -> None:
        """Add a message, made as `message` says."""
        self.pass_on(topic, key, self.message(topic, payload, name, now_ns, correlation))

    def pass_on(self, topic: str, key: bytes, value: bytes) -> None:
        """Add a record as it is."""
        self._parts.setdefault(topic, []).append((key, value))

    def bury(self, topic: str, reason: Reason, detail: str, chunk: Chunk, i: int, now_ns: int) -> None:
        """Add the dead letter of a chunk's record i."""
        key, offset = chunk.key(i), int(chunk.offsets[i])
        payload = dead_letter(reason, detail, chunk.topic, self._lane, offset, key, chunk.value(i), now_ns, now_ns)
        self.put(topic, key, payload, dead_letter_name(reason, chunk.topic, self._lane, offset), now_ns)

    def hand_out(self) -> list[Records]:
        """Return what was added since the last call, one `Records` per topic in the order of its first record."""
        parts, self._parts = self._parts, {}
        result = []
        for topic, records in parts.items():
            data, bounds = join([value for _, value in records])
            keys, key_bounds = join([key for key, _ in records])
            result.append(Records(topic, data, bounds, keys, key_bounds, self._lane if topic in self._own else None))
        return result
