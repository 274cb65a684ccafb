"""Records of a steady load by the million: routes, acknowledgements and trade reports cut from one template each, ids and times patched in.

One venue, no faults, and unless a subclass says otherwise one book that buys one instrument: for costs and latencies; odd input is
bench/acceptance.py's business. All records of a kind have one length, so n of them are an array `(n, length)` and a field of all of them is
patched by one assignment.
"""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.chunk import Bytes, Chunk, Ints

REPORT, ROUTE, ACK, QUOTE = "venue.execution.report.v1", "order.intent.route.v1", "order.event.ack.v1", "marketdata.snapshot.v1"
FILL = "execution.event.fill.v1"
FILLS_EACH = 8
"""Executions of one order; every one of an eighth of its size, so the last fills it."""
EXEC_MARK = b'"exec_id":"'
EXEC_DIGITS = 12
EXEC_BASE = 100_000_000_000
"""Added to numbers so that all have as many digits."""
TIME_DIGITS = 19

_HEX = np.frombuffer(b"0123456789abcdef", np.uint8)
_WIDTHS = {
    "m": 36, "c": 36, "k": 32, "v": EXEC_DIGITS, "x": EXEC_DIGITS, "t": TIME_DIGITS, "q": 8, "l": 8, "d": 8, "n": EXEC_DIGITS, "p": 8,
    "b": 6, "y": 7, "s": 6, "i": 8, "j": 8, "z": 8,
}  # fmt: skip
"""Fields of the templates: message id, correlation, the same without dashes, venue order id, execution id, time, cumulative and leaves
quantity, trade date, sequence number, price; book, symbol, side in quotation marks, bid, ask, size of both."""
BOOK, SYMBOL = b"BOOK-1", b"BTC-USD"
SIDES = np.array([list(b'"BUY" '), list(b'"SELL"')], np.uint8)
"""The blank makes both as long."""
QUOTED_SIZE = b"0.500000"
MID_CENTS = 6_000_000
HALF_SPREAD_CENTS = 100
_RAW = base64.b64encode(b"8=FIX.4.4\x019=174\x0135=8\x0149=ALPHA\x0156=HEDGEROW\x01" + b"37=0620dc-59\x0117=0620dc0000243\x01" * 4).decode()


def _head(topic: str, sender: str) -> str:
    return (
        f'{{"msg_id":"<m>","type":"{topic}","version":"v1","ts":"2026-01-01T00:00:00.000000000Z","ts_ns":<t>,"ttl_ms":600000,'
        f'"correlation_id":"<c>","sender":"agent.{sender}","idempotency_key":"<m>","payload":{{'
    )


_TEXTS = {
    ROUTE: _head(ROUTE, "policyguard")
    + '"order_id":"<c>","symbol":"<y>","side":<s>,"size":"1.000000","time_in_force":"GTC","routing_plan":[{"venue":"ALPHA",'
    '"weight":1.0000,"max_latency_ms":5000}],"risk_context":{"policy_decision_id":"<m>","risk_score":0.419},"book":"<b>",'
    '"account":"ACC-1","decision_ts_ns":<t>,"decision_px":"60000.00"}}',
    ACK: _head(ACK, "order")
    + '"order_id":"<c>","venue":"ALPHA","client_order_id":"<k>-0","venue_order_id":"V<v>","leg":"0","status":"ACKED",'
    '"size":"1.000000","ack_ts_ns":<t>}}',
    REPORT: _head(REPORT, "gateway.alpha")
    + '"source":"FIX_DROP_COPY","venue":"ALPHA","account":"ACC-1","instrument":"<y>","kind":"TRADE","exec_id":"<x>",'
    '"client_order_id":"<k>-0","leg":"0","venue_order_id":"V<v>","side":<s>,"ord_status":"PARTIALLY_FILLED","order_qty":"1.000000",'
    '"last_qty":"0.125000","last_px":"<p>","cum_qty":"<q>","leaves_qty":"<l>","fee_amount":"0.900000","fee_ccy":"USD",'
    '"fee_status":"FINAL","liquidity":"TAKER","session_id":"ALPHA-1","trade_date":<d>,"event_ts_ns":<t>,"recv_ts_ns":<t>,'
    f'"ts_precision_ns":1,"seq_num":<n>,"raw":"{_RAW}","dialect":"bench@1"}}}}',
    QUOTE: _head(QUOTE, "marketdata").replace('"correlation_id":"<c>"', '"correlation_id":null')
    + '"symbol":"<y>","bid":"<i>","bid_size":"<z>","ask":"<j>","ask_size":"<z>","event_ts_ns":<t>,'
    '"snapshot_id":"<m>","confidence":1.0}}',
}
"""Every report says PARTIALLY_FILLED: one length. What the venue says of the order's state is a remark to the flow, not a quantity."""


def _compile(text: str) -> tuple[Bytes, dict[str, list[int]]]:
    places: dict[str, list[int]] = {}
    for name, width in _WIDTHS.items():
        text = text.replace(f"<{name}>", chr(ord("A") + 128 + ord(name) - 97) * width)
    for name, width in _WIDTHS.items():
        run, at = chr(ord("A") + 128 + ord(name) - 97) * width, -1
        while (at := text.find(run, at + 1)) >= 0:
            places.setdefault(name, []).append(at)
            at += width - 1
    return np.frombuffer(text.encode("latin-1"), np.uint8), places


_TEMPLATES = {topic: _compile(text) for topic, text in _TEXTS.items()}


def _put(records: NDArray[np.uint8], topic: str, name: str, text: NDArray[np.uint8]) -> None:
    for at in _TEMPLATES[topic][1].get(name, ()):
        records[:, at : at + text.shape[1]] = text


def digits(values: Ints, width: int) -> NDArray[np.uint8]:
    """Return the decimal digits of each value, `(n, width)` bytes."""
    out = np.empty((len(values), width), np.uint8)
    left = values.astype(np.int64, copy=True)
    for at in range(width - 1, -1, -1):
        out[:, at] = left % 10 + 48
        left //= 10
    return out


def words(text: bytes, n: int) -> NDArray[np.uint8]:
    """Return a text n times, `(n, length)`."""
    return np.broadcast_to(np.frombuffer(text, np.uint8), (n, len(text)))


def prices(cents: Ints) -> NDArray[np.uint8]:
    """Return ddddd.dd of each value."""
    plain = digits(cents, 7)
    return np.concatenate([plain[:, :5], np.full((len(plain), 1), ord("."), np.uint8), plain[:, 5:]], axis=1)


def _scaled(millionths: Ints) -> NDArray[np.uint8]:
    """Return d.dddddd of each value."""
    plain = digits(millionths, 7)
    return np.concatenate([plain[:, :1], np.full((len(plain), 1), ord("."), np.uint8), plain[:, 1:]], axis=1)


def mix(numbers: NDArray[Any]) -> NDArray[np.uint64]:
    """Return splitmix64 of each number."""
    with np.errstate(over="ignore"):
        z = numbers.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def _hex(numbers: Ints, salt: int) -> NDArray[np.uint8]:
    """Return 32 hex digits of a version 4 UUID made of each number and the salt."""
    base = numbers.astype(np.uint64) * np.uint64(2) + np.uint64(salt << 40)
    raw = np.stack([mix(base), mix(base + np.uint64(1))], axis=1).view(np.uint8).reshape(-1, 16).copy()
    raw[:, 6] = raw[:, 6] & 0x0F | 0x40
    raw[:, 8] = raw[:, 8] & 0x3F | 0x80
    return _HEX[np.stack([raw >> 4, raw & 15], axis=2).reshape(-1, 32)]


def _dashed(plain: NDArray[np.uint8]) -> NDArray[np.uint8]:
    dash = np.full((len(plain), 1), ord("-"), np.uint8)
    parts = [plain[:, :8], dash, plain[:, 8:12], dash, plain[:, 12:16], dash, plain[:, 16:20], dash, plain[:, 20:]]
    return np.concatenate(parts, axis=1)


class Load:
    """Numbered orders and their executions: order i has executions 8 i to 8 i + 7. `seed` makes the ids; two loads of one seed are equal."""

    def __init__(self, seed: int = 1) -> None:
        self.seed = seed

    def keys(self, orders: Ints) -> NDArray[np.uint8]:
        """Return the records' keys, the correlation of each order: `(n, 36)` bytes."""
        return _dashed(_hex(orders, 4 * self.seed))

    def books(self, orders: Ints) -> NDArray[np.uint8]:
        """Return the book of each order, `(n, 6)`."""
        return words(BOOK, len(orders))

    def symbols(self, orders: Ints) -> NDArray[np.uint8]:
        """Return what each order trades, `(n, 7)`."""
        return words(SYMBOL, len(orders))

    def sides(self, orders: Ints) -> Ints:
        """Return 0 for an order that buys, 1 for one that sells."""
        return np.zeros(len(orders), np.int64)

    def _records(self, topic: str, orders: Ints, numbers: Ints, kind: int) -> NDArray[np.uint8]:
        template, _ = _TEMPLATES[topic]
        records = np.broadcast_to(template, (len(orders), len(template))).copy()
        plain = _hex(orders, 4 * self.seed)
        _put(records, topic, "k", plain)
        _put(records, topic, "c", _dashed(plain))
        _put(records, topic, "m", _dashed(_hex(numbers, 4 * self.seed + kind)))
        _put(records, topic, "v", digits(orders + EXEC_BASE, EXEC_DIGITS))
        _put(records, topic, "b", self.books(orders))
        _put(records, topic, "y", self.symbols(orders))
        _put(records, topic, "s", SIDES[self.sides(orders)])
        return records

    def routes(self, orders: Ints, ts_ns: int) -> NDArray[np.uint8]:
        """Return a route intent per order."""
        records = self._records(ROUTE, orders, orders, 1)
        patch_times(records, ROUTE, np.full(len(records), ts_ns))
        return records

    def acks(self, orders: Ints, ts_ns: int) -> NDArray[np.uint8]:
        """Return a venue's acknowledgement per order."""
        records = self._records(ACK, orders, orders, 2)
        patch_times(records, ACK, np.full(len(records), ts_ns))
        return records

    def reports(self, executions: Ints, part: Ints, ts_ns: Ints) -> NDArray[np.uint8]:
        """Return a trade report per execution. part: which of its order's executions it is (0 to 7), in the order they will be sent."""
        records = self._records(REPORT, executions // FILLS_EACH, executions, 3)
        cum = (part + 1) * (1_000_000 // FILLS_EACH)
        _put(records, REPORT, "x", digits(executions + EXEC_BASE, EXEC_DIGITS))
        _put(records, REPORT, "n", digits(executions + EXEC_BASE, EXEC_DIGITS))
        _put(records, REPORT, "q", _scaled(cum))
        _put(records, REPORT, "l", _scaled(1_000_000 - cum))
        _put(records, REPORT, "p", prices(MID_CENTS - 10_000 + mix(executions).astype(np.int64) % 20_000))
        patch_times(records, REPORT, ts_ns)
        return records

    def quotes(self, numbers: Ints, ts_ns: Ints) -> NDArray[np.uint8]:
        """Return snapshots of the instrument's best bid and ask, which do not move."""
        n = len(numbers)
        return self.snapshots(numbers, ts_ns, words(SYMBOL, n), np.full(n, MID_CENTS), QUOTED_SIZE)

    def snapshots(self, numbers: Ints, ts_ns: Ints, symbols: NDArray[np.uint8], mid_cents: Ints, size: bytes) -> NDArray[np.uint8]:
        """Return snapshots of best bids and asks: symbols `(n, 7)`, mids in hundredths `(n,)`, `size` (8 characters) on both sides."""
        template, _ = _TEMPLATES[QUOTE]
        records = np.broadcast_to(template, (len(numbers), len(template))).copy()
        _put(records, QUOTE, "m", _dashed(_hex(numbers, 4 * self.seed + 4)))
        _put(records, QUOTE, "y", symbols)
        _put(records, QUOTE, "i", prices(mid_cents - HALF_SPREAD_CENTS))
        _put(records, QUOTE, "j", prices(mid_cents + HALF_SPREAD_CENTS))
        _put(records, QUOTE, "z", words(size, len(numbers)))
        patch_times(records, QUOTE, ts_ns)
        return records


def interleaved(first_order: int, orders: int, open_orders: int) -> tuple[Ints, Ints]:
    """Return (executions, part of each) in the order they happen: so many orders are worked at a time, one execution each in turn."""
    groups = np.arange(orders).reshape(-1, min(open_orders, orders))  # raises unless it comes out even
    parts = np.arange(FILLS_EACH)
    executions = (first_order + groups[:, None, :]) * FILLS_EACH + parts[None, :, None]
    return executions.ravel(), np.broadcast_to(parts[None, :, None], executions.shape).ravel().astype(np.int64)


def patch_times(records: NDArray[np.uint8], topic: str, ts_ns: Ints) -> None:
    """Set every time in the records, and the trade date by the first of them."""
    _put(records, topic, "t", digits(ts_ns, TIME_DIGITS))
    if len(records) and "d" in _TEMPLATES[topic][1]:
        day = int(datetime.fromtimestamp(int(ts_ns[0]) // 10**9, UTC).strftime("%Y%m%d"))
        _put(records, topic, "d", digits(np.array([day]), 8))


def chunk_of(topic: str, lane: int, records: NDArray[np.uint8], keys: NDArray[np.uint8], first_offset: int, now_ns: int) -> Chunk:
    """Return the records as a poll would bring them."""
    n, length = records.shape
    bounds, key_bounds = np.arange(n + 1) * length, np.arange(n + 1) * keys.shape[1]
    offsets = np.arange(first_offset, first_offset + n, dtype=np.int64)
    return Chunk(topic, lane, records.reshape(-1), bounds, offsets, keys.reshape(-1), key_bounds, now_ns)
