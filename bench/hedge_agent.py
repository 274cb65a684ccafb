"""The order agent of `bench.faults --flow hedger`: takes hedges and questions, answers, refuses or keeps silent, and lets fills come.

`python -m bench.hedge_agent FOLDER PARTITIONS SEED`. An order_id is executed once, whatever comes again; what it was told is in FOLDER/agent.ndjson, what
it has sent and Kafka has acknowledged in FOLDER/agent.sent.ndjson. What becomes of an order follows from its id and the seed. As an execution
flow would, it puts the hedges' fills onto the fills' topic. After the word `freeze` every new order is simply filled. May not know the hedger.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from pathlib import Path
from random import Random
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

from bench.hedge_load import COVERS, DESK, FILLS, MS, ORDERS, PX_SCALES, SCALES, client_options, control, fill_bytes, message, uid, units
from connectors.simulator.messages import Message, decimal
from connectors.simulator.sender import Sender

REQUESTS = "hedger.request.order.v1"
WAYS = (
    ("plain", 60), ("refused", 5), ("partial", 8), ("silent", 6), ("lost", 4), ("late", 6), ("dead", 2), ("bust", 5), ("corrected", 4),
)  # fmt: skip
"""What becomes of an order, and how often: filled; refused; canceled or expired half filled; filled without a word until asked; never answered and,
asked twice, refused; told to be done before its fills come; dead, until the desk takes it over; a fill taken back; a fill made smaller."""
DEAD_NS = 6_000 * MS
REPEATED = 0.05
STATUS_S = 0.2


@dataclass(slots=True)
class Order:
    """One leg of a hedge as the agent has it; sizes in units of the instrument's quantity."""

    hedge_id: str
    order_id: str
    book: str
    instrument: str
    side: int
    size: int
    way: str
    rng: Random
    filled: int = 0
    end: str = ""
    """How it ended; empty while it has not."""
    questions: int = 0
    fills: list[tuple[str, int]] = field(default_factory=list)


class Agent:
    """The order agent without Kafka. `told`: every record it was given; `open`: orders that have not ended or owe a fill or a word."""

    def __init__(self, seed: int) -> None:
        self.orders: dict[str, Order] = {}
        self.plain = False
        self._seed = seed
        self._heap: list[tuple[int, int, Callable[[int], list[Message]]]] = []
        self._pushed = 0

    @property
    def open(self) -> int:
        """Return how much is still to come: orders without an end, and what is due."""
        return len(self._heap) + sum(not one.end for one in self.orders.values())

    def receive(self, topic: str, value: bytes, now_ns: int) -> dict[str, Any]:
        """Take a hedge or a question; return what is to be remembered of it."""
        if b'"sender":"agent.hedger"' not in value:
            return {"kind": "other"}  # a request of the portfolio's, or garbage
        payload = json.loads(value)["payload"]
        if topic == COVERS:
            known = [leg["order_id"] for leg in payload["legs"] if leg["order_id"] in self.orders]
            for leg in payload["legs"]:
                if leg["order_id"] not in self.orders:
                    self._take(payload, leg, now_ns)
            return {
                "kind": "cover",
                "hedge_id": payload["hedge_id"],
                "orders": [leg["order_id"] for leg in payload["legs"]],
                "known": known,
            }
        order = self.orders.get(payload["order_id"])
        if order is not None:
            order.questions += 1
            self._at(now_ns + order.rng.randint(2, 20) * MS, lambda now: self._answer(order, now))
        return {"kind": "question", "order_id": payload["order_id"], "known": order is not None}

    def due(self, now_ns: int) -> list[Message]:
        """Return what is to be sent by now."""
        found: list[Message] = []
        while self._heap and self._heap[0][0] <= now_ns:
            at, _, what = heappop(self._heap)
            found += what(max(at, now_ns))
        return found

    # ---- an order's life --------------------------------------------------------------------------------------------------------

    def _take(self, cover: dict[str, Any], leg: dict[str, Any], now_ns: int) -> None:
        rng = Random(f"{self._seed}|{leg['order_id']}")
        way = "plain" if self.plain else rng.choices([name for name, _ in WAYS], [share for _, share in WAYS])[0]
        symbol = leg["instrument"]
        order = Order(
            cover["hedge_id"],
            leg["order_id"],
            cover["book"],
            symbol,
            1 if leg["side"] == "BUY" else -1,
            units(leg["size"], symbol),
            way,
            rng,
        )
        self.orders[order.order_id] = order
        px = round(float(leg["mid"]) * 10 ** PX_SCALES[symbol])
        after = lambda least, most: now_ns + rng.randint(least, most) * MS  # noqa: E731
        if way == "refused":
            self._at(after(5, 40), lambda now: self._end(order, "REJECTED", now, "not today"))
            return
        if way == "lost":
            return
        if way == "dead":
            self._at(now_ns + DEAD_NS, lambda now: self._take_over(order, now))
            return
        if way not in ("silent", "late"):
            self._at(after(5, 30), lambda now: [self._event(order, "ACKED", now)])
        total = order.size if way != "partial" else int(order.size * rng.uniform(0.3, 0.8))
        pieces = min(rng.choice((1, 1, 2, 3)), max(total, 1))
        parts = [total // pieces] * (pieces - 1)
        parts.append(total - sum(parts))
        if way == "late":
            order.filled = total
            self._at(after(5, 30), lambda now: self._end(order, "DONE", now))
        at = after(20, 60)
        for number, part in enumerate(parts):
            if part:
                self._at(at, lambda now, part=part, number=number: self._fill(order, part, px + number, now))  # type: ignore[misc]
            at += rng.randint(5, 400 if way == "late" else 120) * MS
        if way == "silent":
            self._at(at, lambda now: self._end(order, "DONE", now, quiet=True))
        elif way == "partial":
            self._at(at, lambda now: self._end(order, rng.choice(("CANCELED", "EXPIRED")), now, "no more to be had"))
        elif way != "late":
            self._at(at, lambda now: self._end(order, "DONE", now))
        if way in ("bust", "corrected"):
            self._at(at + rng.randint(-60, 1_500) * MS, lambda now: self._undo(order, px, now))

    def _fill(self, order: Order, size: int, px: int, now_ns: int) -> list[Message]:
        fill = uid(order.rng)
        order.fills.append((fill, size))
        if order.way != "late":
            order.filled += size
        return self._sent(order, FILLS, self._fill_bytes(order, fill, 1, size, size, px, "FILLED", now_ns), now_ns, "FILL")

    def _undo(self, order: Order, px: int, now_ns: int) -> list[Message]:
        """Take the last fill back, or make it smaller."""
        if not order.fills:
            return []
        fill, size = order.fills[-1]
        left = 0 if order.way == "bust" else size // 2
        if left == size:
            return []
        order.filled -= size - left
        status = "BUSTED" if left == 0 else "CORRECTED"
        found = self._sent(order, FILLS, self._fill_bytes(order, fill, 2, left - size, left or size, px, status, now_ns), now_ns, status)
        return found + ([self._event(order, order.end, now_ns)] if order.end else [])

    def _fill_bytes(self, order: Order, fill: str, version: int, delta: int, size: int, px: int, status: str, now_ns: int) -> bytes:
        return fill_bytes(
            uid(order.rng), now_ns, book=order.book, symbol=order.instrument, order_id=order.order_id, fill_id=fill, version=version,
            delta=delta * order.side, size=size, px=px, status=status, account=f"HEDGE-{order.book}", buys=order.side > 0,
        )  # fmt: skip

    def _end(self, order: Order, how: str, now_ns: int, reason: str = "", quiet: bool = False) -> list[Message]:
        order.end = how
        return [] if quiet else self._sent(order, ORDERS, self._event(order, how, now_ns, reason).value, now_ns, how)

    def _answer(self, order: Order, now_ns: int) -> list[Message]:
        """Say how an order stands."""
        if not order.end and order.way == "lost":
            if order.questions >= 2:
                return self._end(order, "REJECTED", now_ns, "it never arrived")
            return [self._event(order, "UNKNOWN", now_ns)]
        if not order.end:
            return [self._event(order, "UNKNOWN" if order.way == "dead" else "ACKED", now_ns)]
        if order.end == "MANUAL":
            return []
        return [self._event(order, order.end, now_ns)]

    def _take_over(self, order: Order, now_ns: int) -> list[Message]:
        """Let the desk take a dead hedge over: all of its legs that nobody answered for."""
        if order.end:
            return []
        mates = [one for one in self.orders.values() if one.hedge_id == order.hedge_id and not one.end]
        if any(one.way != "dead" for one in mates):  # the desk's word is on the whole hedge: wait for the others
            self._at(now_ns + 500 * MS, lambda now: self._take_over(order, now))
            return []
        for one in mates:
            one.end = "MANUAL"
        payload = {
            "book": order.book, "action": "MARK_MANUAL", "hedge_id": order.hedge_id, "operator": "desk", "justification": "nobody answers",
            "decided_ns": now_ns,
        }  # fmt: skip
        return [Message(DESK, order.book.encode(), message(DESK, payload, uid(order.rng), now_ns, "desk"), now_ns, "MARK_MANUAL")]

    def _event(self, order: Order, status: str, now_ns: int, reason: str = "") -> Message:
        filled = decimal(max(order.filled, 0), SCALES[order.instrument])
        payload = {
            "hedge_id": order.hedge_id, "order_id": order.order_id, "book": order.book, "instrument": order.instrument, "status": status,
            "filled_size": filled, "event_ts_ns": now_ns,
        }  # fmt: skip
        if reason:
            payload["reason"] = reason
        value = message(ORDERS, payload, uid(order.rng), now_ns, "order")
        return Message(ORDERS, order.book.encode(), value, now_ns, status)

    def _sent(self, order: Order, topic: str, value: bytes, now_ns: int, kind: str) -> list[Message]:
        """Return a message, now and then twice."""
        one = Message(topic, order.book.encode(), value, now_ns, kind)
        return [one, one._replace(fault="repeated")] if order.rng.random() < REPEATED else [one]

    def _at(self, due_ns: int, what: Callable[[int], list[Message]]) -> None:
        self._pushed += 1
        heappush(self._heap, (due_ns, self._pushed, what))


def main(argv: list[str]) -> int:
    """Work until told to end; the last line out says how much was done."""
    folder, partitions, seed = Path(argv[0]), int(argv[1]), int(argv[2])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    options = client_options()
    agent, told = Agent(seed), 0
    consumer = Consumer(
        {
            "log_level": 0,
            **options,
            "bootstrap.servers": os.environ["HEDGEROW_KAFKA"],
            "group.id": "hedgerow-bench-agent",
            "enable.auto.commit": False,
            "auto.offset.reset": "error",
            "isolation.level": "read_committed",
            "fetch.wait.max.ms": 10,
        }
    )
    consumer.assign([TopicPartition(topic, p, OFFSET_BEGINNING) for topic in (COVERS, REQUESTS) for p in range(partitions)])
    with (folder / "agent.ndjson").open("w") as book, (folder / "agent.sent.ndjson").open("w", encoding="utf-8") as ledger:
        sender = Sender(os.environ["HEDGEROW_KAFKA"], options, dict.fromkeys((FILLS, ORDERS, DESK), partitions), ledger)
        next_status = 0.0
        while (word := control(folder)) != "end":
            agent.plain = word == "freeze"
            for record in consumer.consume(1_000, 0.01):
                if record.error() is None:
                    found = agent.receive(record.topic() or "", record.value() or b"", time.time_ns())
                    found |= {"topic": record.topic(), "partition": record.partition(), "offset": record.offset()}
                    book.write(json.dumps(found) + "\n")
                    told += found["kind"] == "cover"
            sender.send(agent.due(time.time_ns()))
            if time.monotonic() >= next_status:
                next_status = time.monotonic() + STATUS_S
                scratch = folder / "agent.new"
                scratch.write_text(json.dumps({"open": agent.open, "covers": told, "frozen": agent.plain}))
                scratch.rename(folder / "agent.status")
        consumer.close()
        left = sender.close()
    print(json.dumps({"covers": told, "open": agent.open, "undelivered": left}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
