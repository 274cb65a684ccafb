"""The load of `bench.faults --flow hedger`, and its process: fills of many books with faults, targets, the desk's words, quotes, risk, policy, universes.

`python -m bench.hedge_load FOLDER PARTITIONS SEED`: publishes what holds for the whole run and the quotes of a while ago, so that covariances are
warm; then quotes for ever and fills at the rate the file FOLDER/control names. What Kafka has acknowledged is in FOLDER/load.ndjson, with what was
wrong on purpose: the oracle need not find out by itself. May not know what the hedger makes of it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections import deque
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any

from connectors.simulator.messages import Message, decimal
from connectors.simulator.sender import Sender
from schemas.reference import load_reference
from schemas.times import rfc3339

REFERENCE = Path(__file__).with_name("hedge_faults.toml")
FILLS, ALLOCATIONS, ORDERS, DESK, COVERS = (
    "execution.event.fill.v1", "portfolio.intent.allocate.v1", "order.event.hedge.v1", "hedger.intent.desk.v1", "hedger.intent.cover",
)  # fmt: skip
QUOTES, RISK, POLICY, UNIVERSE = "marketdata.snapshot.v1", "risk.state.context.v1", "policy.state.guard.v1", "hedge.state.universe.v1"
SECOND, MS = 1_000_000_000, 1_000_000
BOOKS = 64
DESK_ACCOUNT, CLIENT_ACCOUNT = "DESK-1", "ACC-1"
POLICY_HASH = "00112233445566aa"
PREROLL_S = 50
"""Bars there are before anything else: a covariance is ready after 33."""
QUOTE_EVERY_NS = 200 * MS
RISK_EVERY_NS = 2 * SECOND
SLICE_S = 0.02
LOT_NOTIONAL = 150.0
"""Mean notional of a fill."""
REFERENCE_NOTIONAL = 20_000.0

_INSTRUMENTS = load_reference(REFERENCE).instruments
SCALES = {one.symbol: one.qty_scale for one in _INSTRUMENTS}
PX_SCALES = {one.symbol: one.px_scale for one in _INSTRUMENTS}
START = {"BTC-USD": 60_000.0, "ETH-USD": 3_000.0, "SOL-USD": 150.0, "BTC-PERP": 60_010.0, "ETH-PERP": 3_000.5}
PERPS = ("BTC-PERP", "ETH-PERP")
REPEATED, BUSTED, CORRECTED, ENRICHED, MISROUTED, SPOILED, OF_DESK = 0.01, 0.005, 0.005, 0.002, 0.005, 0.003, 0.005
"""Shares of fills: sent twice, followed by another version, sent to the wrong partition, unusable, of the desk's account."""


def book_name(number: int) -> str:
    """Return a book's name. Even ones have exposure in what they hedge with, odd ones in spot."""
    return f"BOOK-{number:02d}"


def exposures_of(book: str) -> tuple[str, ...]:
    """Return what a book trades."""
    return PERPS if int(book[-2:]) % 2 == 0 else ("BTC-USD", "ETH-USD", "SOL-USD")


def uid(rng: Random) -> str:
    """Return a random UUID of version 4."""
    text = f"{rng.getrandbits(128):032x}"
    return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-8{text[17:20]}-{text[20:]}"


def envelope(topic: str, payload: str, identity: str, now_ns: int, sender: str, ttl_ms: int = 600_000, more: str = "") -> bytes:
    """Return a message around a payload that is JSON already."""
    return (
        f'{{"msg_id":"{identity}","type":"{topic}","version":"v1","ts":"{rfc3339(now_ns)}","ts_ns":{now_ns},"ttl_ms":{ttl_ms},{more}'
        f'"sender":"agent.{sender}","idempotency_key":"{identity}","payload":{payload}}}'
    ).encode()


def message(topic: str, payload: dict[str, Any], identity: str, now_ns: int, sender: str, ttl_ms: int = 600_000) -> bytes:
    """Return a message of one of the topics with a low rate."""
    return envelope(topic, json.dumps(payload, separators=(",", ":")), identity, now_ns, sender, ttl_ms)


def fill_bytes(
    identity: str, now_ns: int, *, book: str, symbol: str, order_id: str, fill_id: str, version: int, delta: int, size: int, px: int,
    status: str = "FILLED", account: str = CLIENT_ACCOUNT, buys: bool | None = None,
) -> bytes:  # fmt: skip
    """Return a version of a fill; delta and size in units of the symbol's quantity, px in those of its price."""
    scale = SCALES[symbol]
    side = "BUY" if (delta > 0 if buys is None else buys) else "SELL"
    price = decimal(px, PX_SCALES[symbol])
    payload = (
        f'{{"order_id":"{order_id}","fill_id":"{fill_id}","symbol":"{symbol}","side":"{side}","filled_size":"{decimal(size, scale)}",'
        f'"price":"{price}","venue":"ALPHA","latency_ms":1.0,"idempotency_key":"{fill_id}","book":"{book}","account":"{account}",'
        f'"exec_id":"{fill_id}","exec_ts_ns":{now_ns},"status":"{status}","version":{version},"signed_delta":"{decimal(delta, scale)}",'
        f'"cum_size":"0","leaves_size":"0","avg_price":"{price}","provisional":false,"benchmark":{{"kind":"arrival","status":"missing"}},'
        '"benchmark_mid":{"kind":"mid","status":"missing"},"slippage":{},"residual":{"order_size":"0","exposure_notional":"0"}}'
    )
    return envelope(FILLS, payload, identity, now_ns, "execution", more=f'"correlation_id":"{order_id}",')


def universe_of(book: str) -> dict[str, Any]:
    """Return what a book hedges with."""
    common = {
        "venue": "ALPHA", "currency": "USD", "lot": "0.0001", "min_notional": 1.0, "margin_rate": 0.05, "cost_bps": 0.5, "adv_notional": 1e13,
    }  # fmt: skip
    return {
        "book": book,
        "base_currency": "USD",
        "instruments": [
            {"symbol": "BTC-PERP", "underlying": "BTC", **common},
            {"symbol": "ETH-PERP", "underlying": "ETH", **common},
        ],
        "exposures": [{"symbol": s, "currency": "USD", "underlying": s[:3]} for s in exposures_of(book) if s not in PERPS],
        "reference_notional": REFERENCE_NOTIONAL,
        "desk_accounts": [DESK_ACCOUNT],
    }


class Market:
    """Five prices that move together."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self.prices = dict(START)
        self.still = False

    def step(self) -> None:
        """Let 200 ms pass."""
        if self.still:
            return
        draw = self._rng.gauss
        common = draw(0.0, 1.5e-4)
        moves = {"BTC-USD": common, "ETH-USD": 1.2 * common + draw(0.0, 6e-5), "SOL-USD": 1.3 * common + draw(0.0, 6e-5)}
        for spot, move in moves.items():
            self.prices[spot] *= 1.0 + move
        for spot, perp in (("BTC-USD", "BTC-PERP"), ("ETH-USD", "ETH-PERP")):
            self.prices[perp] *= 1.0 + moves[spot] + draw(0.0, 6e-6)

    def px(self, symbol: str) -> int:
        """Return the price in units of 10^-px_scale."""
        return max(2, round(self.prices[symbol] * 10 ** PX_SCALES[symbol]))

    def quotes(self, now_ns: int) -> list[Message]:
        """Return a snapshot of each instrument."""
        found = []
        for symbol in START:
            px, scale = self.px(symbol), PX_SCALES[symbol]
            half = max(1, round(px * 2e-5))
            identity = uid(self._rng)
            payload = (
                f'{{"symbol":"{symbol}","bid":"{decimal(px - half, scale)}","ask":"{decimal(px + half, scale)}","bid_size":"100000",'
                f'"ask_size":"100000","event_ts_ns":{now_ns},"snapshot_id":"{identity}","confidence":1.0}}'
            )
            found.append(Message(QUOTES, symbol.encode(), envelope(QUOTES, payload, identity, now_ns, "marketdata"), now_ns, "QUOTE"))
        return found


class Load:
    """What is sent, as a function of the seed and of the times asked for. `fault` of a message: `spoiled:REASON` for what must end in the DLQ."""

    def __init__(self, seed: int, books: int = BOOKS) -> None:
        self._rng = Random(f"hedge load|{seed}")
        self.market = Market(Random(f"hedge market|{seed}"))
        self.books = [book_name(number) for number in range(books)]
        self._later: deque[tuple[int, list[Message]]] = deque()
        self._held: dict[tuple[str, str | None], None] = {}
        self._targets: dict[tuple[str, str], tuple[int, bytes]] = {}

    # ---- what holds for all of the run ------------------------------------------------------------------------------------------

    def beginning(self, now_ns: int) -> list[Message]:
        """Return universes, policy, the first risk state, and quotes of the while before."""
        found = [
            Message(UNIVERSE, book.encode(), message(UNIVERSE, universe_of(book), uid(self._rng), now_ns, "config"), now_ns, "UNIVERSE")
            for book in self.books
        ]
        policy = {"policy_hash": POLICY_HASH, "max_cost_bps": 50.0}
        found.append(Message(POLICY, b"*", message(POLICY, policy, uid(self._rng), now_ns, "policyguard"), now_ns, "POLICY"))
        found.append(self.risk(now_ns))
        first = now_ns - PREROLL_S * SECOND
        for step in range(PREROLL_S * SECOND // QUOTE_EVERY_NS):
            self.market.step()
            found += self.market.quotes(first + step * QUOTE_EVERY_NS)
        return found

    def risk(self, now_ns: int) -> Message:
        """Return the risk agent's word on all books."""
        state = {
            "book": None, "portfolio_var": 0.0, "daily_drawdown_pct": 0.0, "treasury_utilisation": 0.1, "volatility": 0.1, "risk_level": "LOW",
        }  # fmt: skip
        return Message(RISK, b"*", message(RISK, state, uid(self._rng), now_ns, "risk"), now_ns, "RISK")

    # ---- fills ------------------------------------------------------------------------------------------------------------------

    def fills(self, count: int, now_ns: int) -> list[Message]:
        """Return so many fills, and what is due of those before: repeats and further versions."""
        found: list[Message] = []
        rng = self._rng
        for _ in range(count):
            book = self.books[rng.randrange(len(self.books))]
            symbols = exposures_of(book)
            symbol = symbols[rng.randrange(len(symbols))]
            px = self.market.px(symbol)
            one = LOT_NOTIONAL / (px / 10 ** PX_SCALES[symbol]) * 10 ** SCALES[symbol]
            size = max(1, int(one * rng.uniform(0.2, 1.8)))
            found += self._fill(book, symbol, size if rng.random() < 0.5 else -size, px, now_ns)
        return found + self.due(now_ns)

    def due(self, now_ns: int) -> list[Message]:
        """Return what is due by now of what was put off."""
        found: list[Message] = []
        while self._later and self._later[0][0] <= now_ns:
            found += self._later.popleft()[1]
        return found

    def _fill(self, book: str, symbol: str, delta: int, px: int, now_ns: int) -> list[Message]:
        rng = self._rng
        account = DESK_ACCOUNT if symbol in PERPS and rng.random() < OF_DESK else CLIENT_ACCOUNT
        common: dict[str, Any] = {"book": book, "symbol": symbol, "order_id": uid(rng), "fill_id": uid(rng), "px": px, "account": account}
        value = fill_bytes(uid(rng), now_ns, version=1, delta=delta, size=abs(delta), **common)
        key, chance = book.encode(), rng.random()
        if chance < SPOILED:
            bad, reason = spoil(value, symbol, rng)
            return [Message(FILLS, key, bad, now_ns, "FILL", fault=f"spoiled:{reason}")]
        chance -= SPOILED
        first = Message(FILLS, key, value, now_ns, "FILL", misrouted=chance < MISROUTED)
        chance -= MISROUTED
        # All that is put off is so by one span: what is due is then at the head of the queue.
        later_ns = now_ns + 1_500 * MS
        if 0.0 <= chance < REPEATED:
            self._later.append((later_ns, [first._replace(fault="repeated", misrouted=rng.random() < 0.1)]))
            return [first, first._replace(fault="repeated")] if rng.random() < 0.3 else [first]
        chance -= REPEATED
        more: dict[str, Any] | None = None
        if 0.0 <= chance < BUSTED:
            more = {"delta": -delta, "size": abs(delta), "status": "BUSTED"}
        elif 0.0 <= chance - BUSTED < CORRECTED:
            size = max(1, int(abs(delta) * rng.uniform(0.5, 1.5)))
            more = {"delta": (size - abs(delta)) * (1 if delta > 0 else -1), "size": size, "status": "CORRECTED"}
        elif 0.0 <= chance - BUSTED - CORRECTED < ENRICHED:
            more = {"delta": 0, "size": abs(delta), "status": "CORRECTED"}
        if more is not None:
            again = fill_bytes(uid(rng), later_ns, version=2, buys=delta > 0, **common, **more)
            self._later.append((later_ns, [Message(FILLS, key, again, later_ns, "FILL", fault="version 2")]))
        return [first]

    # ---- everything else --------------------------------------------------------------------------------------------------------

    def words(self, now_ns: int) -> list[Message]:
        """Return one or two records of the other topics, good or bad."""
        rng = self._rng
        book = self.books[rng.randrange(len(self.books))]
        key, chance = book.encode(), rng.random()
        if chance < 0.45:
            return self._allocation(book, now_ns)
        if chance < 0.6:
            return self._desk(book, now_ns)
        if chance < 0.75:  # somebody asks for a hedge: rightly, too late, without the right to
            sender, ts_ns, fault = rng.choice(
                (
                    ("portfolio", now_ns, ""),
                    ("portfolio", now_ns, ""),
                    ("portfolio", now_ns - 700 * SECOND, "spoiled:ttl_expired"),
                    ("stranger", now_ns, "spoiled:sender_not_allowed"),
                )
            )
            request = {
                "hedge_id": uid(rng), "book": book, "expires_ns": now_ns + SECOND, "reduce_only": False, "ratio_source": "manual",
                "legs": [{"order_id": uid(rng), "instrument": "BTC-PERP", "venue": "ALPHA", "side": "SELL", "size": "1", "notional": 1.0, "time_in_force": "DAY"}],
                "expected": {"variance_reduction": 0.0, "cost_bps": 0.0}, "decision_ts_ns": now_ns, "exposure_version": "0" * 32, "attempt": 0,
            }  # fmt: skip
            return [Message(COVERS, key, message(COVERS, request, uid(rng), ts_ns, sender), now_ns, "REQUEST", fault=fault)]
        if chance < 0.85:
            event = {
                "hedge_id": uid(rng), "order_id": uid(rng), "book": book, "instrument": "BTC-PERP", "status": "ACKED", "filled_size": "0",
                "event_ts_ns": now_ns,
            }  # fmt: skip
            value = message(ORDERS, event, uid(rng), now_ns, "order")
            return [Message(ORDERS, key, value, now_ns, "EVENT", fault="spoiled:hedge_unknown")]
        topic = rng.choice((ALLOCATIONS, ORDERS, DESK, COVERS))
        value, reason = rng.choice(((b'{"msg_id":', "json_malformed"), (b"", "json_malformed"), (b"\xff\xfe{}", "encoding_invalid")))
        return [Message(topic, key, value, now_ns, "GARBAGE", fault=f"spoiled:{reason}")]

    def _allocation(self, book: str, now_ns: int) -> list[Message]:
        rng = self._rng
        symbol = rng.choice(exposures_of(book))
        known = self._targets.get((book, symbol))
        chance = rng.random()
        if known is not None and chance < 0.15:  # once more, or a late one
            ts_ns, value = known
            if chance < 0.08:
                value = self._target(book, symbol, ts_ns - SECOND, rng.uniform(-2e3, 2e3))
            return [Message(ALLOCATIONS, book.encode(), value, now_ns, "ALLOCATION", fault="old")]
        if chance < 0.25:
            bad, reason = rng.choice(((self._target(book, "NOPE", now_ns, 1.0), "instrument_unknown"), (b"[]", "json_malformed")))
            return [Message(ALLOCATIONS, book.encode(), bad, now_ns, "ALLOCATION", fault=f"spoiled:{reason}")]
        value = self._target(book, symbol, now_ns, rng.uniform(-2e3, 2e3))
        self._targets[book, symbol] = now_ns, value
        return [Message(ALLOCATIONS, book.encode(), value, now_ns, "ALLOCATION", misrouted=rng.random() < 0.05)]

    def _target(self, book: str, symbol: str, ts_ns: int, target: float) -> bytes:
        payload = {"book": book, "symbol": symbol, "target_size": f"{target:.2f}", "confidence": 0.9, "risk_score": 0.1}
        return message(ALLOCATIONS, payload, uid(self._rng), ts_ns, "portfolio")

    def _desk(self, book: str, now_ns: int) -> list[Message]:
        instrument = self._rng.choice((None, "BTC-PERP", "ETH-PERP"))
        name = (book, instrument)
        held = name in self._held
        if held:
            del self._held[name]
        else:
            self._held[name] = None
        return [self._word(book, instrument, "RELEASE" if held else "HOLD", now_ns)]

    def _word(self, book: str, instrument: str | None, action: str, now_ns: int) -> Message:
        payload = {
            "book": book, "action": action, "instrument": instrument, "operator": "desk", "justification": "a test", "decided_ns": now_ns,
        }  # fmt: skip
        return Message(DESK, book.encode(), message(DESK, payload, uid(self._rng), now_ns, "desk"), now_ns, action)

    def ending(self, now_ns: int) -> list[Message]:
        """Release what is held, hold prices still, return all that was put off."""
        self.market.still = True
        found = [one for _, those in self._later for one in those]
        self._later.clear()
        found += [self._word(book, instrument, "RELEASE", now_ns) for book, instrument in self._held]
        self._held.clear()
        return found


def spoil(value: bytes, symbol: str, rng: Random) -> tuple[bytes, str]:
    """Return a fill that cannot be used, and the reason it must be given."""
    way = rng.randrange(6)
    if way == 0:
        return value[: len(value) // 2], "json_malformed"
    if way == 1:
        return value.replace(f'"symbol":"{symbol}"'.encode(), b'"symbol":"NOPE"'), "instrument_unknown"
    if way == 2:
        return value.replace(b'"version":"v1"', b'"version":"v9"'), "version_unknown"
    if way == 3:
        head, _, tail = value.partition(b'"signed_delta":"')
        return head + b'"signed_delta":"0.' + b"0" * 8 + b"1" + tail[tail.index(b'"') :], "precision_exceeds_scale"
    if way == 4:
        return value.replace(f'"symbol":"{symbol}",'.encode(), b""), "field_missing"
    return value.replace(b'"side":"', b'"side":"X'), "side_invalid"


def control(folder: Path) -> str:
    """Return the word in the control file: a rate, `freeze`, or `end`."""
    try:
        return (folder / "control").read_text().strip()
    except FileNotFoundError:
        return "0"


def order(folder: Path, word: str) -> None:
    """Write the control file."""
    scratch = folder / "control.new"
    scratch.write_text(word)
    scratch.rename(folder / "control")


def client_options() -> dict[str, Any]:
    """Return what our clients are told beside: a producer that begins anew with the bootstrap servers may never send again after a broker's restart."""
    return {"metadata.recovery.strategy": "none", **json.loads(os.environ.get("HEDGEROW_KAFKA_OPTIONS") or "{}")}


def main(argv: list[str]) -> int:
    """Send until told to end; the last line out says how much."""
    folder, partitions, seed = Path(argv[0]), int(argv[1]), int(argv[2])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    load = Load(seed)
    topics = dict.fromkeys((FILLS, ALLOCATIONS, ORDERS, DESK, COVERS), partitions)
    options = client_options()
    with (folder / "load.ndjson").open("w", encoding="utf-8") as ledger:
        sender = Sender(os.environ["HEDGEROW_KAFKA"], options, topics, ledger)
        sender.send(load.beginning(time.time_ns()))
        sender.producer.flush(60.0)
        (folder / "load.ready").touch()
        begun, sent, rate, frozen = time.monotonic(), 0, 0.0, False
        next_quote = next_risk = next_word = time.time_ns()
        while (word := control(folder)) != "end":
            now, tick = time.time_ns(), time.monotonic()
            batch: list[Message] = []
            if now >= next_quote:
                load.market.step()
                batch += load.market.quotes(now)
                next_quote = max(next_quote + QUOTE_EVERY_NS, now - SECOND)
            if now >= next_risk:
                batch.append(load.risk(now))
                next_risk = now + RISK_EVERY_NS
            if word == "freeze":
                if not frozen:
                    frozen = True
                    batch += load.ending(now)
            elif float(word) != rate:
                rate, begun, sent = float(word), tick, 0
            if not frozen:
                count = min(int((tick - begun) * rate) - sent, int(rate * 0.2) + 1) if rate else 0
                batch += load.fills(count, now) if count > 0 else load.due(now)
                if int((tick - begun) * rate) - sent > rate:  # it fell a second behind: not made good
                    begun, sent = tick, 0
                else:
                    sent += max(count, 0)
                if rate and now >= next_word:
                    batch += load.words(now)
                    next_word = now + 40 * MS
            sender.send(batch)
            time.sleep(max(0.0, SLICE_S - (time.monotonic() - tick)))
        left = sender.close()
    print(json.dumps({"sent": sum(sender.sent.values()), "undelivered": left, "errors": dict(sender.errors)}), flush=True)
    return 0


def units(text: str, symbol: str) -> int:
    """Return a decimal string in units of a symbol's quantity. Raises ValueError when it does not fit them."""
    scaled = Decimal(text).scaleb(SCALES[symbol])
    if scaled != int(scaled):
        raise ValueError(f"{text} has more decimals than {symbol} allows")
    return int(scaled)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
