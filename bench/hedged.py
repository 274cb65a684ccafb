"""What `bench.latency --flow hedger` adds: busy books and books of probes, a market that moves, what the hedger must know, and who answers its hedges.

A probe is one report in a book that is covered, and has rested for seconds: a purchase the first time, its sale the second, and so on. The hedger must
answer each with one hedge. Its latency begins when the broker took the report and ends when a read_committed consumer has the hedge in hand; both
flows lie between. docs/benchmarks.md, "Latency".
"""

from __future__ import annotations

import json
import time
from collections import Counter
from decimal import Decimal
from typing import Any
from uuid import NAMESPACE_OID, uuid5

import numpy as np
from confluent_kafka import TopicPartition
from numpy.typing import NDArray

from bench.ledger import Cluster
from bench.load import FILL, FILLS_EACH, MID_CENTS, QUOTE, Load, digits, mix, patch_times
from bench.open_loop import COVER, PROBE_BASE, Gate, Step, cut, probe_books, producer_of, quantiles, reader_of, send_all
from schemas.chunk import Ints
from schemas.times import rfc3339

SPOTS = (b"BTC-USD", b"ETH-USD", b"SOL-USD", b"ADA-USD")
FUTURES = (b"BTC-FUT", b"ETH-FUT", b"SOL-FUT", b"ADA-FUT")
"""Clients trade the spots, books hedge with the futures. All cost about 60,000: a template has one length."""
SYMBOLS = (*SPOTS, *FUTURES)
REFERENCE = '[[venues]]\nname = "ALPHA"\naccounts = ["ACC-1"]\n\n' + "\n".join(
    f'[[instruments]]\nsymbol = "{symbol.decode()}"\npx_scale = 2\nqty_scale = 6\nbase = "{symbol[:3].decode()}"\nquote = "USD"\n'
    for symbol in SYMBOLS
)
DEPTH = b"50.00000"
BUSY_REFERENCE, PROBE_REFERENCE = 1e7, 2e4
"""`reference_notional` of the universes: a busy book is hedged a few times a second, a probe (7,500) always."""
BAR_S = 5
PREROLL_BARS = 700
"""Within the hour that a worker reads back at its start: covariances are warm when it joins."""
BAR_VOLATILITY, BASIS_VOLATILITY = 3e-4, 3e-5
COMMON = 0.8
"""Correlation of the spots."""
MARKET_TICK_S = 0.01
RISK_EVERY_S = 20.0
"""A risk state is old after 60 s."""
UNIVERSE, POLICY, RISK, ANSWER, AUDIT = (
    "hedge.state.universe.v1",
    "policy.state.guard.v1",
    "risk.state.context.v1",
    "order.event.hedge.v1",
    "audit.event.hedger",
)
COUNTED = ("decisions", "hedges_sent", "audit_records")
TARGETS = {5_000: {"p50_ms": 60.0, "p95_ms": 100.0}}
STAGES = (
    "due to taken by the broker",
    "taken to folded by execution",
    "folded to the fill written",
    "fill written to decided",
    "decided to the hedge written",
    "hedge written to visible",
)


class HedgedLoad(Load):
    """Orders of both sides, by chance, in four instruments and some busy books; from PROBE_BASE on those of probes, in their books in turn."""

    def __init__(self, seed: int, busy_books: int, probe_books: int) -> None:
        super().__init__(seed)
        self.busy_books, self.probe_books = busy_books, probe_books

    def books(self, orders: Ints) -> NDArray[np.uint8]:
        """Return B and a number for orders of busy books, P and a number for those of probes."""
        probe = orders >= PROBE_BASE
        plain = digits(np.where(probe, (orders - PROBE_BASE) % self.probe_books, orders % self.busy_books), 5)
        return np.concatenate([np.where(probe, ord("P"), ord("B")).astype(np.uint8)[:, None], plain], axis=1)

    def symbols(self, orders: Ints) -> NDArray[np.uint8]:
        """Return one of the spots: always the same one for a probes' book."""
        by_chance, by_book = mix(orders + 7) % np.uint64(len(SPOTS)), (orders - PROBE_BASE) % self.probe_books % len(SPOTS)
        return _names(SPOTS)[np.where(orders >= PROBE_BASE, by_book, by_chance.astype(np.int64))]

    def sides(self, orders: Ints) -> Ints:
        """Return a side: what one probe buys in a book the next sells."""
        by_chance, by_turn = (mix(orders + 11) & np.uint64(1)).astype(np.int64), (orders - PROBE_BASE) // self.probe_books % 2
        return np.where(orders >= PROBE_BASE, by_turn, by_chance)

    def names(self) -> dict[bytes, float]:
        """Return every book and the reference notional of its universe."""
        busy = {b"B%05d" % number: BUSY_REFERENCE for number in range(self.busy_books)}
        return busy | {b"P%05d" % number: PROBE_REFERENCE for number in range(self.probe_books)}


def _names(symbols: tuple[bytes, ...]) -> NDArray[np.uint8]:
    return np.frombuffer(b"".join(symbols), np.uint8).reshape(len(symbols), -1)


# ---- the market -----------------------------------------------------------------------------------------------------------------


class Prices:
    """Mids of all instruments, hundredths: the spots share a factor, every future follows its spot but for a little."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._logs = np.zeros(len(SPOTS))

    def move(self, seconds: float, steps: int) -> Ints:
        """Return the mids after each of so many steps of a length, `(steps, instruments)`."""
        size = BAR_VOLATILITY * np.sqrt(seconds / BAR_S)
        common = self._random.normal(0.0, size, (steps, 1))
        own = self._random.normal(0.0, size, (steps, len(SPOTS)))
        path = self._logs + np.cumsum(np.sqrt(COMMON) * common + np.sqrt(1.0 - COMMON) * own, axis=0)
        self._logs = path[-1]
        basis = self._random.normal(0.0, BASIS_VOLATILITY, path.shape)
        cents: Ints = np.rint(MID_CENTS * np.exp(np.concatenate([path, path + basis], axis=1))).astype(np.int64)
        return cents


def run_market(cluster: Cluster, seed: int, quotes_per_s: float, ready: Gate, stop: Any, sent: Any) -> None:
    """Process: an hour's quotes at once, then so many a second until told to stop, and the risk agent's word now and then.

    sent: how many live quotes went out. One that is late goes out late; what should have been sent meanwhile goes out with it.
    """
    producer = producer_of(cluster, "hedgerow-bench-market", idempotent=False)
    load, prices, k = Load(seed), Prices(seed), len(SYMBOLS)
    names, keys = _names(SYMBOLS), list(SYMBOLS)
    now_ns = time.time_ns()
    ends = (now_ns // (BAR_S * 10**9) - PREROLL_BARS + np.arange(PREROLL_BARS)) * BAR_S * 10**9
    mids = prices.move(BAR_S, PREROLL_BARS)
    for i, row in enumerate(mids):
        records = load.snapshots(np.arange(i * k, (i + 1) * k), np.array([ends[i] - 10**9]), names, row, DEPTH)
        send_all(producer, QUOTE, cut(records), keys)
    send_all(producer, POLICY, [message(POLICY, "*", {"policy_hash": "0123456789abcdef"}, now_ns)], [b"*"])
    producer.flush(60)
    start_ns = time.time_ns()
    ready.announce()
    number, next_risk, block, at = PREROLL_BARS * k, 0.0, np.zeros((0, 0), np.uint8), 0
    places = np.zeros(0, np.int64)
    while not stop.is_set():
        now_ns = time.time_ns()
        if now_ns / 1e9 >= next_risk:
            next_risk = now_ns / 1e9 + RISK_EVERY_S
            send_all(producer, RISK, [message(RISK, str(now_ns), RISK_STATE, now_ns)], [b"*"])
        due = int((now_ns - start_ns) * quotes_per_s / 1e9) - sent.value
        while due > 0:
            if at == len(block):  # a second ahead
                n, at = max(int(quotes_per_s), k), 0
                places = (number + np.arange(n)) % k
                mids = prices.move(1.0 / quotes_per_s, n)[np.arange(n), places]
                block = load.snapshots(number + np.arange(n), np.array([now_ns]), names[places], mids, DEPTH)
                number += n
            part = slice(at, min(at + due, len(block)))
            patch_times(block[part], QUOTE, np.array([now_ns]))
            send_all(producer, QUOTE, cut(block[part]), [SYMBOLS[i] for i in places[part]])
            at, due = part.stop, due - (part.stop - part.start)
            sent.value += part.stop - part.start
        producer.poll(0)
        time.sleep(MARKET_TICK_S)
    producer.flush(10)


# ---- what the hedger must know --------------------------------------------------------------------------------------------------

RISK_STATE: dict[str, Any] = {
    "book": None, "portfolio_var": 0.0, "daily_drawdown_pct": 0.0, "treasury_utilisation": 0.1, "volatility": 0.1, "risk_level": "LOW", "limits": [],
}  # fmt: skip


def message(topic: str, name: str, payload: dict[str, Any], now_ns: int, sender: str = "agent.bench", **more: Any) -> bytes:
    """Return a message; its id is a function of topic and name."""
    identity = str(uuid5(NAMESPACE_OID, f"{topic}:{name}"))
    envelope = {
        "msg_id": identity, "type": topic, "version": "v1", "ts": rfc3339(now_ns), "ts_ns": now_ns, "ttl_ms": 600_000, "sender": sender,
        "idempotency_key": identity, **more, "payload": payload,
    }  # fmt: skip
    return json.dumps(envelope, separators=(",", ":")).encode()


def universe(book: bytes, reference_notional: float, now_ns: int) -> bytes:
    """Return what a book hedges with: the four futures."""
    underlying = [symbol[:3].decode() for symbol in SPOTS]
    common = {"venue": "ALPHA", "currency": "USD", "lot": "0.01", "margin_rate": 0.05, "cost_bps": 0.5, "adv_notional": 1e12}
    payload = {
        "book": book.decode(),
        "base_currency": "USD",
        "instruments": [{"symbol": s.decode(), "underlying": u, **common} for s, u in zip(FUTURES, underlying, strict=True)],
        "exposures": [{"symbol": s.decode(), "currency": "USD", "underlying": u} for s, u in zip(SPOTS, underlying, strict=True)],
        "reference_notional": reference_notional,
    }
    return message(UNIVERSE, f"{book.decode()}:{now_ns}", payload, now_ns)


def publish_universes(cluster: Cluster, load: HedgedLoad) -> None:
    """Publish the universe of every book."""
    now_ns = time.time_ns()
    producer = producer_of(cluster, "hedgerow-bench-universes")
    books = load.names()
    send_all(producer, UNIVERSE, [universe(book, most, now_ns) for book, most in books.items()], list(books))
    producer.flush(30)


# ---- who answers hedges ---------------------------------------------------------------------------------------------------------


def answer_hedges(cluster: Cluster, ready: Gate, stop: Any, answered: Any) -> None:
    """Process: every leg of every hedge is done and filled at its mid at once. answered: how many legs."""
    consumer, producer = reader_of(cluster), producer_of(cluster, "hedgerow-bench-orders")
    ends = cluster.ends(cluster.places([COVER]), committed=True)
    consumer.assign([TopicPartition(topic, partition, end) for (topic, partition), end in ends.items()])
    consumer.consume(1, 0.5)
    ready.announce()
    while not stop.is_set():
        one = consumer.poll(0.1)
        if one is None or one.error() is not None:
            continue
        cover = json.loads(one.value() or b"")["payload"]
        now_ns = time.time_ns()
        for leg in cover["legs"]:
            for topic, value in answers(cover, leg, now_ns):
                producer.produce(topic, value, cover["book"].encode())
            answered.value += 1
        producer.poll(0)
    producer.flush(10)
    consumer.close()


def answers(cover: dict[str, Any], leg: dict[str, Any], now_ns: int) -> list[tuple[str, bytes]]:
    """Return the order agent's word that a leg is done, and its fill, as (topic, message)."""
    order, book = leg["order_id"], cover["book"]
    done = {
        "hedge_id": cover["hedge_id"], "order_id": order, "book": book, "instrument": leg["instrument"], "status": "DONE",
        "filled_size": leg["size"], "event_ts_ns": now_ns,
    }  # fmt: skip
    fill_id = str(uuid5(NAMESPACE_OID, f"fill:{order}"))
    price = leg["mid"] or "60000"
    absent = {"kind": "arrival", "status": "missing"}
    fill = {
        "order_id": order, "fill_id": fill_id, "symbol": leg["instrument"], "side": leg["side"], "filled_size": leg["size"], "price": price,
        "venue": leg["venue"], "latency_ms": 1.0, "idempotency_key": fill_id, "book": book, "account": "ACC-1", "exec_id": f"H{order}",
        "exec_ts_ns": now_ns, "status": "FILLED", "version": 1, "signed_delta": leg["size"] if leg["side"] == "BUY" else f"-{leg['size']}",
        "cum_size": leg["size"], "leaves_size": "0", "avg_price": price, "provisional": False, "benchmark": absent,
        "benchmark_mid": absent | {"kind": "mid"}, "slippage": {},
        "residual": {"order_size": "0", "exposure_notional": format(Decimal(0), "f")},
    }  # fmt: skip
    return [
        (ANSWER, message(ANSWER, order, done, now_ns, "agent.order")),
        (FILL, message(FILL, fill_id, fill, now_ns, "agent.execution", correlation_id=order)),
    ]


# ---- what came of it ------------------------------------------------------------------------------------------------------------


def judge_probes(step: Step, start_ns: int, taken: Ints) -> tuple[dict[str, Any], dict[str, NDArray[np.float64]], list[str], list[bytes]]:
    """Return (figures, stages, what is wrong, books of probes without a hedge). taken: when the broker took each report (ns), in the order sent."""
    executions, _, due_ns = step.plan()
    sent = np.flatnonzero(executions // FILLS_EACH >= PROBE_BASE)
    number = executions[sent] // FILLS_EACH - PROBE_BASE - step.first_probe
    taken_ns, due = np.empty((2, step.probes), np.int64)
    taken_ns[number], due[number] = taken[sent], start_ns + due_ns[sent]
    folded, fill_written, fill_visible = _fills_of_probes(step)
    (decided, written, visible), again, busy = _hedges_of_probes(step, folded)
    there = (decided > 0) & (folded > 0)
    moments = (due, taken_ns, folded, fill_written * 10**6, decided, written * 10**6, visible)
    stages = {name: ((b - a) / 1e6)[there] for name, a, b in zip(STAGES, moments, moments[1:], strict=False)}
    parts = {
        "report_to_fill": quantiles(((fill_visible - taken_ns) / 1e6)[there]),
        "fill_to_intent": quantiles((written - fill_written)[there].astype(np.float64)),
    }
    line = {
        **quantiles(((visible - taken_ns) / 1e6)[there]),
        **quantiles(((visible - due) / 1e6)[there], "due_"),
        "probes": step.probes,
        "answered": int(there.sum()),
        "answered_again": again,
        "busy_hedges": busy,
        **{f"{part}_{name}": values[name] for part, values in parts.items() for name in ("p50_ms", "p95_ms")},
    }
    books = probe_books(step)
    lost = [books[i] for i in np.flatnonzero(~there)]
    return line, stages, [f"{len(lost)} of {step.probes} probes were not answered by a hedge"] if lost else [], lost


def _fills_of_probes(step: Step) -> NDArray[np.int64]:
    """Return when the fill of each probe was made (ns), written (ms) and visible (ns), `(3, probes)`; 0 where there is none."""
    seen, found = np.load(step.folder / "seen.npz"), np.zeros((3, step.probes), np.int64)
    number = seen["number"] // FILLS_EACH - PROBE_BASE - step.first_probe
    ours = (number >= 0) & (number < step.probes)
    for row, name in enumerate(("made", "written", "visible")):
        found[row, number[ours]] = seen[name][ours]
    return found


def _hedges_of_probes(step: Step, folded: Ints) -> tuple[NDArray[np.int64], int, int]:
    """Return (made, written and visible of each probe's hedge, `(3, probes)`, 0 for none; further hedges of their books; hedges of busy books).

    A hedge answers the last probe of its book whose fill was there when it was decided; of several the first counts.
    """
    covers, found, again = np.load(step.folder / "covers.npz"), np.zeros((3, step.probes), np.int64), 0
    books = (step.first_probe + np.arange(step.probes)) % step.probe_books
    rows = np.stack([covers[name] for name in ("number", "made", "written", "visible")], axis=1)
    for book, made, written, visible in rows[np.argsort(rows[:, 1], kind="stable")].tolist():
        before = np.flatnonzero((books == book) & (folded > 0) & (folded <= made))
        if len(before) and not found[0, before[-1]]:
            found[:, before[-1]] = made, written, visible
        else:
            again += int(book >= 0)
    return found, again, int((covers["number"] < 0).sum())


def why_unanswered(cluster: Cluster, books: list[bytes]) -> dict[str, int]:
    """Return how many books the hedger gave which main reason in its last decision about them; `never decided` without one."""
    last = {book.decode(): "never decided" for book in books}
    for _, record in cluster.read(cluster.places([AUDIT])):
        payload = json.loads(record.value)["payload"]
        if payload["book"] in last:
            last[payload["book"]] = payload["reasons"][0]
    return dict(Counter(last.values()))
