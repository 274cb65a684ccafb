"""The simulator's messages as bytes: routes, acknowledgements, reports, quotes, hold decisions. JSON by templates, one pass each.

May not decide anything; fields and forms are those of schemas/{orders,execution,market}.py, which the tests hold it to.
"""

from __future__ import annotations

import json
import time
from base64 import b64encode
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha1, sha256
from typing import Any, NamedTuple

REPORT = "venue.execution.report.v1"
ROUTE = "order.intent.route.v1"
ACK = "order.event.ack.v1"
HOLD = "execution.intent.hold.v1"
QUOTE = "marketdata.snapshot.v1"

_SECOND = 1_000_000_000
_NAMESPACE = bytes.fromhex("6f1c7f0e6d0b5a4d9a3c1d2f5a7b9c11")
_VARIANT = "89ab"
_FIX_TYPE = {
    "NEW": "0", "TRADE": "F", "BUST": "H", "CORRECT": "G", "CANCELED": "4", "REPLACED": "5", "EXPIRED": "C", "DONE_FOR_DAY": "3",
    "REJECTED": "8", "RESTATED": "D", "PENDING_NEW": "A", "PENDING_CANCEL": "6", "PENDING_REPLACE": "E", "STOPPED": "7",
    "TRIGGERED": "L", "STATUS": "I", "CANCEL_REJECT": "9",
}  # fmt: skip


class Message(NamedTuple):
    """One record to send. `due_ns` is when; `kind`, `order` and `fault` are the truth about it, for the ledger only."""

    topic: str
    key: bytes
    value: bytes
    due_ns: int
    kind: str
    order: str = ""
    fault: str = ""
    misrouted: bool = False
    """To be produced to another partition than its key says."""


@dataclass(slots=True)
class Report:
    """One execution report before it is written; quantities and prices in the instrument's integer units, -1 for not said."""

    kind: str
    venue: str
    source: str
    account: str
    symbol: str
    px_scale: int
    qty_scale: int
    side: str
    trade_date: int
    event_ns: int
    due_ns: int
    precision_ns: int
    seq: int
    session: str
    status: str
    correlation: str
    """Of the envelope; empty for null."""
    order: str
    """The correlation it truly belongs to."""
    client_id: str = ""
    orig_client_id: str = ""
    venue_order_id: str = ""
    leg: str = ""
    exec_id: str = ""
    exec_ref_id: str = ""
    match_field: str = ""
    match_id: str = ""
    order_qty: int = -1
    last_qty: int = -1
    last_px: int = -1
    cum_qty: int = -1
    leaves_qty: int = -1
    avg_px: int = -1
    """In 10^-(px_scale + 4)."""
    day_order_qty: int = -1
    day_cum_qty: int = -1
    limit_px: int = -1
    fee_micros: int = 0
    fee_ccy: str = ""
    """Empty where the fee is not said."""
    liquidity: str = ""
    restatement_reason: int = -1
    flags: str = ""
    text: str = ""
    """Already JSON, quotes included."""
    attributes: str = ""
    again_ns: int = 0
    """When the same bytes are to be sent once more; 0 for never."""
    withheld: bool = False
    """Happened at the venue, but nobody is told."""
    fault: str = ""

    @property
    def key(self) -> str:
        """Return the record's key: the correlation, else venue|venue_order_id."""
        return self.correlation or f"{self.venue}|{self.venue_order_id}"


def decimal(value: int, scale: int) -> str:
    """Return value × 10^-scale in plain notation with `scale` decimals."""
    if scale == 0:
        return str(value)
    if value < 0:
        return "-" + decimal(-value, scale)
    digits = str(value).zfill(scale + 1)
    return f"{digits[:-scale]}.{digits[-scale:]}"


def uuid5(name: str) -> str:
    """Return the version 5 UUID of a name in the simulator's namespace."""
    h = sha1(_NAMESPACE + name.encode(), usedforsecurity=False).hexdigest()
    return f"{h[:8]}-{h[8:12]}-5{h[13:16]}-{_VARIANT[int(h[16], 16) & 3]}{h[17:20]}-{h[20:32]}"


@lru_cache(maxsize=64)
def _second(s: int) -> tuple[str, str]:
    t = time.gmtime(s)
    return time.strftime("%Y-%m-%dT%H:%M:%S", t), time.strftime("%Y%m%d-%H:%M:%S", t)


def rfc3339(ts_ns: int) -> str:
    """Return a time with nine decimals and Z."""
    s, ns = divmod(ts_ns, _SECOND)
    return f"{_second(s)[0]}.{ns:09d}Z"


def date_of(ts_ns: int) -> int:
    """Return the UTC date as yyyymmdd."""
    return int(_second(ts_ns // _SECOND)[1][:8])


def next_date(ts_ns: int) -> int:
    """Return the UTC date of the day after."""
    return date_of(ts_ns + 86_400 * _SECOND)


def fix_bytes(r: Report) -> bytes:
    """Return a small FIX 4.4 execution report, with a right body length and checksum."""
    s, ns = divmod(r.event_ns, _SECOND)
    body = (
        f"35=8\x0149={r.venue}\x0156=HEDGEROW\x0134={r.seq}\x0137={r.venue_order_id or 'NONE'}\x0117={r.exec_id or 0}\x01"
        f"150={_FIX_TYPE[r.kind]}\x0155={r.symbol}\x0154={1 if r.side == 'BUY' else 2}\x01"
    )
    if r.client_id:
        body += f"11={r.client_id}\x01"
    if r.exec_ref_id:
        body += f"19={r.exec_ref_id}\x01"
    if r.last_qty >= 0:
        body += f"32={decimal(r.last_qty, r.qty_scale)}\x0131={decimal(r.last_px, r.px_scale)}\x01"
    body += f"60={_second(s)[1]}.{ns:09d}\x01"
    head = f"8=FIX.4.4\x019={len(body)}\x01{body}".encode("ascii")
    return b"%b10=%03d\x01" % (head, sum(head) % 256)


def _envelope(topic: str, msg_id: str, ts_ns: int, correlation: str, sender: str, key: str, ttl_ms: int = 60_000) -> str:
    return (
        f'{{"msg_id":"{msg_id}","type":"{topic}","version":"v1","ts":"{rfc3339(ts_ns)}","ts_ns":{ts_ns},"ttl_ms":{ttl_ms},'
        f'"correlation_id":{correlation},"sender":"agent.{sender}","idempotency_key":"{key}","payload":{{'
    )


def report_bytes(r: Report, name: str) -> bytes:
    """Return a venue.execution.report.v1 record; `name` makes its msg_id."""
    q, p = r.qty_scale, r.px_scale
    correlation = f'"{r.correlation}"' if r.correlation else "null"
    out = [
        _envelope(REPORT, uuid5(name), r.due_ns, correlation, f"gateway.{r.venue.lower()}", f"{r.venue}:{name}"),
        f'"source":"{r.source}","venue":"{r.venue}","account":"{r.account}","instrument":"{r.symbol}","kind":"{r.kind}",',
    ]
    add = out.append
    if r.exec_id:
        add(f'"exec_id":"{r.exec_id}",')
    if r.exec_ref_id:
        add(f'"exec_ref_id":"{r.exec_ref_id}",')
    if r.match_id:
        add(f'"{r.match_field}":"{r.match_id}",')
    if r.client_id:
        add(f'"client_order_id":"{r.client_id}",')
        if r.leg:
            add(f'"leg":"{r.leg}",')
    if r.orig_client_id:
        add(f'"orig_client_order_id":"{r.orig_client_id}",')
    if r.venue_order_id:
        add(f'"venue_order_id":"{r.venue_order_id}",')
    if r.side:
        add(f'"side":"{r.side}",')
    if r.status:
        add(f'"ord_status":"{r.status}",')
    if r.order_qty >= 0:
        add(f'"order_qty":"{decimal(r.order_qty, q)}",')
    if r.last_qty >= 0:
        add(f'"last_qty":"{decimal(r.last_qty, q)}","last_px":"{decimal(r.last_px, p)}",')
    if r.cum_qty >= 0:
        add(f'"cum_qty":"{decimal(r.cum_qty, q)}","leaves_qty":"{decimal(r.leaves_qty, q)}","avg_px":"{decimal(r.avg_px, p + 4)}",')
    if r.day_order_qty >= 0:
        add(f'"day_order_qty":"{decimal(r.day_order_qty, q)}","day_cum_qty":"{decimal(r.day_cum_qty, q)}",')
    if r.limit_px >= 0:
        add(f'"limit_px":"{decimal(r.limit_px, p)}",')
    if r.fee_ccy:
        add(f'"fee_amount":"{decimal(r.fee_micros, 6)}","fee_ccy":"{r.fee_ccy}","fee_status":"FINAL",')
    if r.liquidity:
        add(f'"liquidity":"{r.liquidity}",')
    if r.restatement_reason >= 0:
        add(f'"restatement_reason":{r.restatement_reason},')
    if r.session:
        add(f'"session_id":"{r.session}",')
    if r.text:
        add(f'"text":{r.text},')
    if r.attributes:
        add(f'"attributes":{r.attributes},')
    raw = fix_bytes(r)
    if r.precision_ns == 1:
        add(f'"raw_sha256":"{sha256(raw).hexdigest()}",')
    add(
        f'{r.flags}"trade_date":{r.trade_date},"event_ts_ns":{r.event_ns},"recv_ts_ns":{r.due_ns},"ts_precision_ns":{r.precision_ns},'
        f'"seq_num":{r.seq},"raw":"{b64encode(raw).decode()}","dialect":"sim@1"}}}}'
    )
    return "".join(out).encode()


def route_bytes(
    name: str,
    correlation: str,
    ts_ns: int,
    symbol: str,
    side: str,
    size: str,
    tif: str,
    plan: list[tuple[str, float]],
    book: str,
    account: str,
    decision_ns: int,
    decision_px: str,
    limit_px: str,
    risk_score: float,
) -> bytes:
    """Return an order.intent.route.v1 record; sizes and prices as decimal strings, `limit_px` empty for a market order."""
    legs = ",".join(f'{{"venue":"{venue}","weight":{weight:.4f},"max_latency_ms":5000}}' for venue, weight in plan)
    limit = f'"price_limit":"{limit_px}",' if limit_px else ""
    return (
        _envelope(ROUTE, uuid5(name), ts_ns, f'"{correlation}"', "policyguard", f"route:{name}", 30_000)
        + f'"order_id":"{correlation}","symbol":"{symbol}","side":"{side}","size":"{size}","time_in_force":"{tif}","routing_plan":[{legs}],'
        f'{limit}"risk_context":{{"policy_decision_id":"{name}","risk_score":{risk_score:.3f}}},"book":"{book}","account":"{account}",'
        f'"decision_ts_ns":{decision_ns},"decision_px":"{decision_px}"}}}}'
    ).encode()


def ack_bytes(
    name: str, correlation: str, ts_ns: int, venue: str, client_id: str, venue_order_id: str, leg: str, status: str, size: str, ack_ns: int
) -> bytes:
    """Return an order.event.ack.v1 record; `venue_order_id` and `leg` empty where there is none."""
    known = f'"venue_order_id":"{venue_order_id}",' if venue_order_id else ""
    known += f'"leg":"{leg}",' if leg else ""
    return (
        _envelope(ACK, uuid5(name), ts_ns, f'"{correlation}"', "order", f"ack:{name}")
        + f'"order_id":"{correlation}","venue":"{venue}","client_order_id":"{client_id}",{known}"status":"{status}",'
        f'"size":"{size}","ack_ts_ns":{ack_ns}}}}}'
    ).encode()


def quote_bytes(
    name: str, ts_ns: int, symbol: str, bid: str, ask: str, bid_size: str, ask_size: str, event_ns: int, confidence: float
) -> bytes:
    """Return a marketdata.snapshot.v1 record; an empty bid or ask is an empty side of the book."""
    sides = (f'"bid":"{bid}","bid_size":"{bid_size}",' if bid else '"bid":null,') + (
        f'"ask":"{ask}","ask_size":"{ask_size}",' if ask else '"ask":null,'
    )
    msg_id = uuid5(name)
    return (
        _envelope(QUOTE, msg_id, ts_ns, "null", "marketdata", f"quote:{name}", 5_000)
        + f'"symbol":"{symbol}",{sides}"event_ts_ns":{event_ns},"snapshot_id":"{msg_id}","confidence":{confidence}}}}}'
    ).encode()


def json_bytes(topic: str, name: str, ts_ns: int, sender: str, payload: dict[str, Any], ttl_ms: int = 60_000) -> bytes:
    """Return a record of a topic with a low rate; `name` makes its msg_id, `sender` goes without "agent."."""
    body = json.dumps(payload, separators=(",", ":"), ensure_ascii=False)
    return (_envelope(topic, uuid5(f"{topic}|{name}"), ts_ns, "null", sender, f"{topic[:24]}:{name}", ttl_ms)[:-1] + body + "}").encode()


def hold_bytes(name: str, correlation: str, ts_ns: int, action: str) -> bytes:
    """Return an execution.intent.hold.v1 record: an operator's word on a held order."""
    return (
        _envelope(HOLD, uuid5(name), ts_ns, f'"{correlation}"', "compliance", f"hold:{name}")
        + f'"action":"{action}","operator":"simulated desk","justification":"checked with the venue","decided_ns":{ts_ns}}}}}'
    ).encode()
