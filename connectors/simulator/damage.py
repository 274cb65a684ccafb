"""Spoiled copies of good records: wrong bytes, wrong fields. The good one is sent as well, so nothing true is lost by it.

Slow and plain (JSON in, JSON out): it touches a few records in a thousand.
"""

from __future__ import annotations

import json
from random import Random
from typing import Any

from connectors.simulator.messages import REPORT, uuid5
from schemas.registry import MAX_RECORD_BYTES

ANY_MESSAGE = (
    "malformed_json", "truncated_json", "invalid_utf8", "hostile_depth", "oversize", "duplicate_keys", "missing_field", "wrong_type",
    "unknown_version",
)  # fmt: skip
ANY_REPORT = (
    *ANY_MESSAGE,
    "unknown_venue", "unknown_account", "unknown_instrument", "correlation_conflict", "timestamp_unit", "timestamp_future",
)  # fmt: skip
TRADES = (*ANY_REPORT, "zero_quantity", "negative_quantity", "non_finite_price", "unknown_side", "extra_decimals")

_DEPTH = 100_000
_HOUR_NS = 3_600_000_000_000
_NON_FINITE = ('"NaN"', '"Infinity"', '"-Infinity"', '"1e999"', "NaN", "Infinity", "1e999", "-1e999")
_MISSING = {
    "venue.execution.report.v1": ("account", "instrument", "venue", "trade_date", "event_ts_ns", "recv_ts_ns", "kind", "raw", "dialect"),
    "order.intent.route.v1": ("symbol", "size", "side", "book", "routing_plan", "decision_ts_ns"),
    "order.event.ack.v1": ("venue", "client_order_id", "status", "size", "ack_ts_ns"),
    "marketdata.snapshot.v1": ("symbol", "event_ts_ns", "snapshot_id", "confidence"),
}
_WRONG: dict[str, tuple[tuple[str, Any], ...]] = {
    "venue.execution.report.v1": (
        ("trade_date", "20260101"), ("recv_ts_ns", "soon"), ("event_ts_ns", 1.5), ("venue", 7), ("account", None), ("raw", {}),
        ("kind", ["TRADE"]),
    ),
    "order.intent.route.v1": (("size", 12.5), ("routing_plan", {}), ("decision_ts_ns", "now"), ("side", 1)),
    "order.event.ack.v1": (("size", 3), ("ack_ts_ns", True), ("status", None)),
    "marketdata.snapshot.v1": (("bid", 100.25), ("event_ts_ns", "now"), ("confidence", "full")),
}  # fmt: skip


def damage(fault: str, topic: str, value: bytes, rng: Random, name: str) -> bytes:
    """Return the record spoiled as `fault` says; `name` makes new ids where it needs any. Raises KeyError for a fault it does not know."""
    if fault in _BYTES:
        return _BYTES[fault](value, rng, topic)
    message = json.loads(value)
    payload = message["payload"]
    if fault == "missing_field":
        del payload[rng.choice(_MISSING[topic])]
    elif fault == "wrong_type":
        field, wrong = rng.choice(_WRONG[topic])
        payload[field] = wrong
    elif fault == "unknown_version":
        message["version"] = rng.choice(("v2", "v0", "", "V1"))
    elif fault == "oversize":
        room = MAX_RECORD_BYTES + 1_000
        if topic == REPORT and rng.random() < 0.5:
            payload["raw"] = "QUFB" * (room // 4)
        else:
            message["padding"] = "x" * room
    else:
        _FIELDS[fault](message, payload, rng, name)
    text = json.dumps(message, separators=(",", ":"), ensure_ascii=False)
    if fault == "non_finite_price":  # json can write only some of these
        text = text.replace('"@px@"', rng.choice(_NON_FINITE))
    return text.encode()


def _malformed(value: bytes, rng: Random, topic: str) -> bytes:
    at = rng.randrange(1, len(value) - 1)
    form = rng.randrange(5)
    if form == 0:
        return value.replace(b":", b"=", 1)
    if form == 1:
        return value[:-1] + b",}"
    if form == 2:
        return value + b"{}"
    if form == 3:
        return b"8=FIX.4.4\x019=5\x0135=0\x0110=161\x01"
    return value[:at] + b"\x00" + value[at:]


def _truncated(value: bytes, rng: Random, topic: str) -> bytes:
    return value[: rng.randrange(0, len(value))]


def _invalid_utf8(value: bytes, rng: Random, topic: str) -> bytes:
    bad = rng.choice((b"\xff\xfe", b"\xc0\xaf", b"\xed\xa0\x80", b"\xe2\x82"))
    return value.replace(b'"payload":{', b'"payload":{"text":"' + bad + b'",', 1)


def _hostile_depth(value: bytes, rng: Random, topic: str) -> bytes:
    if rng.random() < 0.5:
        return b"[" * _DEPTH
    return value.replace(b'"payload":{', b'"payload":{"attributes":{"a":' + b"[" * _DEPTH + b"]" * _DEPTH + b"},", 1)


def _duplicate_keys(value: bytes, rng: Random, topic: str) -> bytes:
    """Give a field twice, the last one the true one, so that who takes the last sees the same message."""
    if topic == REPORT:
        first = b'"payload":{"venue":"NOWHERE",' + (b'"last_qty":"123456789",' if b'"last_qty"' in value else b"")
        return value.replace(b'"payload":{', first, 1)
    return value.replace(b'"version":"v1"', b'"version":"v9","version":"v1"', 1)


_BYTES = {
    "malformed_json": _malformed,
    "truncated_json": _truncated,
    "invalid_utf8": _invalid_utf8,
    "hostile_depth": _hostile_depth,
    "duplicate_keys": _duplicate_keys,
}


def _unknown_venue(message: dict[str, Any], payload: dict[str, Any], rng: Random, name: str) -> None:
    payload["venue"] = "ZULU"


def _unknown_account(message: dict[str, Any], payload: dict[str, Any], rng: Random, name: str) -> None:
    payload["account"] = "ACC-UNKNOWN"


def _unknown_instrument(message: dict[str, Any], payload: dict[str, Any], rng: Random, name: str) -> None:
    payload["instrument"] = "NO-SUCH"


def _correlation_conflict(message: dict[str, Any], payload: dict[str, Any], rng: Random, name: str) -> None:
    message["correlation_id"] = uuid5(f"other|{name}")


def _timestamp_unit(message: dict[str, Any], payload: dict[str, Any], rng: Random, name: str) -> None:
    payload["event_ts_ns"] //= 10 ** rng.choice((3, 6, 9))


def _timestamp_future(message: dict[str, Any], payload: dict[str, Any], rng: Random, name: str) -> None:
    payload["event_ts_ns"] += _HOUR_NS


def _zero_quantity(message: dict[str, Any], payload: dict[str, Any], rng: Random, name: str) -> None:
    payload["last_qty"] = rng.choice(("0", "0.0", "-0"))


def _negative_quantity(message: dict[str, Any], payload: dict[str, Any], rng: Random, name: str) -> None:
    payload["last_qty"] = "-" + payload["last_qty"]


def _non_finite_price(message: dict[str, Any], payload: dict[str, Any], rng: Random, name: str) -> None:
    payload["last_px"] = "@px@"


def _unknown_side(message: dict[str, Any], payload: dict[str, Any], rng: Random, name: str) -> None:
    payload["side"] = rng.choice(("HOLD", "buy", "3", ""))


def _extra_decimals(message: dict[str, Any], payload: dict[str, Any], rng: Random, name: str) -> None:
    field = rng.choice(("last_qty", "last_px"))
    whole, _, fraction = payload[field].partition(".")
    payload[field] = f"{whole}.{fraction[:9].ljust(9, '0')}1"  # ten decimals: no instrument has more than nine


_FIELDS = {
    "unknown_venue": _unknown_venue,
    "unknown_account": _unknown_account,
    "unknown_instrument": _unknown_instrument,
    "correlation_conflict": _correlation_conflict,
    "timestamp_unit": _timestamp_unit,
    "timestamp_future": _timestamp_future,
    "zero_quantity": _zero_quantity,
    "negative_quantity": _negative_quantity,
    "non_finite_price": _non_finite_price,
    "unknown_side": _unknown_side,
    "extra_decimals": _extra_decimals,
}
