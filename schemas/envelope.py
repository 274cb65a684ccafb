"""The envelope every message travels in (contracts, "Envelope v1")."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict

from schemas.fields import Rfc3339, Sender, Spec, TimestampNs, Uuid, integer, string
from schemas.reasons import Reason

Version = Annotated[Literal["v1"], Spec("enum", reason=Reason.version_unknown)]


class Strict(BaseModel):
    """Base of objects on topics that outside systems or later minor versions of ours may extend: unknown fields are ignored.

    Types are strict: no coercion of strings to numbers or numbers to strings.
    """

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


class Envelope(Strict):
    """One message: identity, provenance and a payload.

    msg_id and idempotency_key are functions of content (UUIDv5 of the business key), so a replay repeats them. `ttl_ms` is
    replay protection for intents; it never drops a fill. `sig` is a detached signature over the RFC 8785 form without `sig`.
    """

    msg_id: Uuid
    type: str
    version: Version
    ts: Rfc3339
    ts_ns: TimestampNs
    ttl_ms: Annotated[int, integer(1, 600_000)]
    correlation_id: Uuid | None = None
    causation_id: Uuid | None = None
    sender: Sender
    intent: Annotated[str, string(64)] | None = None
    idempotency_key: Annotated[str, string(128, min_len=8)]
    payload: Any
    sig: Annotated[str, string(128)] | None = None
