"""Order histories as venues would report them, and what can go wrong on the way, built from a string of bytes that Hypothesis draws.

A venue's own book is simulated (so totals are right unless a fault is wanted), then messages are repeated, spoilt, dropped and
reordered. Byte 0 is always the plainest choice, so shrinking ends at the plainest history. No rule of the fold lives here.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

from bench.oracle import ACK, ALIAS, HOLD, REPORT, ROUTE
from tests.support import DAY, SECOND, T0, ack, alias, client_id, correlation, decision, report, route

N_BYTES = 400


@dataclass(frozen=True)
class Message:
    """One input; `advance` > 0 is no message but that many seconds passing."""

    topic: str
    value: bytes
    what: str
    advance: float = 0
    about: str = ""
    """The venue order it is about; `weak` reports (STATUS, CANCEL_REJECT) cannot be the first word about one."""
    weak: bool = False


@dataclass
class History:
    """Messages in order of arrival. `clean`: nothing in it conflicts, is held for good, or is lost."""

    messages: list[Message]
    correlations: list[str]
    clean: bool

    def __repr__(self) -> str:
        lines = [f"  {m.what}" if m.advance else f"  {m.topic.split('.')[1]:9} {m.what}" for m in self.messages]
        return "History(\n" + "\n".join(lines) + "\n)"


class Dice:
    """Choices read from bytes; when they are used up every choice is 0."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def pick(self, n: int) -> int:
        """Return a number in [0, n)."""
        if self.at >= len(self.data):
            return 0
        value = self.data[self.at]
        self.at += 1
        if n > 256 and self.at < len(self.data):
            value = value * 256 + self.data[self.at]
            self.at += 1
        return value % n

    def one_in(self, n: int) -> bool:
        """Return True once in n times."""
        return self.pick(n) == n - 1


@dataclass
class _Execution:
    exec_id: str
    kind: str
    quantity: int
    price: str
    trade_date_ns: int


@dataclass
class _Venue:
    """One order as its venue sees it."""

    number: int
    name: str
    correlation: str
    account: str
    instrument: str
    side: str
    quantity: int
    totals: int
    client: str
    chains: list[list[_Execution]] = field(default_factory=list)
    done: bool = False
    canceled: bool = False
    asked: str | None = None
    letters: int = 0

    @property
    def order_id(self) -> str:
        return f"VO{self.number}"

    @property
    def cum(self) -> int:
        return sum(0 if chain[-1].kind == "BUST" else chain[-1].quantity for chain in self.chains)

    def next_client(self) -> str:
        self.letters += 1
        return client_id(self.correlation, f"{self.number % 10}{'abcdefghijklmnopqrstuvwxyz'[self.letters % 26]}")


LIFE = ("STOPPED", "SUSPENDED", "CALCULATED", "TRIGGERED", "PENDING_NEW")
VENUES = ("ALPHA", "CHARLIE", "BRAVO", "DELTA", "ECHO")
PRICES = ("10", "10.5", "9.75", "10.25", "11.5", "10.0125")


class _Builder:
    def __init__(self, data: bytes, clean: bool) -> None:
        self.dice = Dice(data)
        self.clean = clean
        self.clock = T0
        self.seq = 0
        self.execs = 0
        self.rows: list[tuple[int, Message]] = []
        self.venues: list[_Venue] = []
        self.day = 0
        self.tifs: dict[str, str] = {}

    # -- time and rendering

    def now(self) -> tuple[int, int]:
        """Return the next event's (time, sequence number): mostly a second on, sometimes the same time and the next number."""
        self.seq += 1
        if not self.dice.one_in(6):
            self.clock += SECOND
        return self.clock, self.seq

    def put(self, topic: str, value: bytes, what: str, about: str = "", weak: bool = False) -> None:
        self.rows.append((len(self.rows), Message(topic, value, what, 0, about, weak)))

    def report(self, venue: _Venue, kind: str, what: str = "", /, **fields: Any) -> None:
        ts, seq = self.now()
        base: dict[str, Any] = {
            "venue": venue.name, "account": venue.account, "instrument": venue.instrument, "venue_order_id": venue.order_id,
            "client_order_id": venue.client, "seq_num": seq,
        }  # fmt: skip
        if kind not in ("TRADE", "BUST", "CORRECT", "STATUS", "CANCEL_REJECT"):
            base["exec_id"] = self.exec_id() if self.dice.pick(4) else None
        if kind in ("TRADE", "CORRECT", "BUST"):
            base["side"] = venue.side if kind == "TRADE" or self.dice.pick(2) else None
        else:
            base["order_qty"] = str(venue.quantity) if kind in ("NEW", "REPLACED", "RESTATED") or self.dice.one_in(4) else None
        if venue.totals == 1 or (venue.totals == 2 and self.dice.pick(2)):
            base["cum_qty"] = str(venue.cum)
        if self.dice.one_in(8):
            base["recv_ts_ns"] = ts - self.dice.pick(1000) * 1_000_000
        fields = {**base, **fields}
        known: str | None = venue.correlation
        if venue.name == "DELTA":
            fields["client_order_id"] = fields["orig_client_order_id"] = known = None
        elif self.dice.one_in(5):
            known = None
        value = report(kind, known, ts, **fields)
        shown = ", ".join(f"{k}={v}" for k, v in fields.items() if v is not None and k not in ("account", "instrument", "seq_num"))
        self.put(
            REPORT, value, f"{what or kind} t={(ts - T0) // SECOND} seq={seq} {shown}", venue.order_id, kind in ("STATUS", "CANCEL_REJECT")
        )

    def exec_id(self) -> str:
        self.execs += 1
        return f"E{self.execs}"

    # -- the venue's life

    def build(self) -> History:
        dice = self.dice
        names = []
        for n in range(1 + dice.one_in(3)):
            name = correlation(n + 1)
            names.append(name)
            side = ("BUY", "SELL")[dice.pick(2)]
            tif = ("DAY", "GTC", "DAY", "IOC")[dice.pick(4)]
            instrument = ("ACME", "ESZ6")[dice.pick(2)]
            size = 10 * (1 + dice.pick(10))
            self.tifs[name] = tif
            value = route(name, str(size), side=side, time_in_force=tif, symbol=instrument)
            self.put(ROUTE, value, f"ROUTE {n + 1} {side} {size} {tif} {instrument}")
            for _ in range((1, 1, 2, 3)[dice.pick(4)]):
                number = len(self.venues) + 1
                like_before = self.venues and self.venues[-1].correlation == name and dice.pick(2)
                place = self.venues[-1].name if like_before else VENUES[dice.pick(5)]
                venue = _Venue(number, place, name, "ACC-1", instrument, side, size, dice.pick(3), "")
                venue.client = venue.next_client()
                self.venues.append(venue)
                self.open(venue)
        for _ in range(dice.pick(14)):
            self.event(self.venues[dice.pick(len(self.venues))])
        if not self.clean:
            for _ in range(dice.pick(5)):
                self.fault(self.venues[dice.pick(len(self.venues))])
        rows = self.arrange()
        return History(rows, names, self.clean)

    def open(self, venue: _Venue) -> None:
        if venue.name == "DELTA" or self.dice.pick(2):
            self.ack(venue, "ACKED")
        if self.dice.pick(5):
            self.report(venue, "NEW")

    def ack(self, venue: _Venue, status: str) -> None:
        ts, _ = self.now()
        # acknowledgements have no sequence number: keep their times apart from the reports'
        self.clock += SECOND
        value = ack(
            venue.correlation, str(venue.quantity), ts + SECOND // 2, venue=venue.name, client_order_id=venue.client,
            venue_order_id=venue.order_id, status=status,
        )  # fmt: skip
        self.put(ACK, value, f"ACK {status} {venue.order_id} {venue.quantity} t={(ts - T0) / SECOND + 0.5}", venue.order_id)

    def event(self, venue: _Venue) -> None:
        n = self.dice.pick(24)
        live = [chain for chain in venue.chains if venue.name == "CHARLIE" or chain[-1].kind != "BUST"]
        if n < 9:
            self.trade(venue)
        elif n < 12 and live:
            self.follow(venue, live[self.dice.pick(len(live))], "CORRECT")
        elif n < 14 and live:
            self.follow(venue, live[self.dice.pick(len(live))], "BUST")
        elif n == 14:
            self.request(venue, "PENDING_REPLACE")
        elif n < 17 and not venue.canceled:
            self.replaced(venue)
        elif n == 17:
            self.request(venue, "PENDING_CANCEL")
        elif n == 18 and venue.asked:
            self.report(venue, "CANCEL_REJECT", client_order_id=venue.asked, orig_client_order_id=venue.client, order_qty=None)
            venue.asked = None
        elif n == 19 and not venue.canceled:
            venue.canceled = True
            self.report(venue, ("CANCELED", "CANCELED", "EXPIRED")[self.dice.pick(3)])
        elif n == 20:
            self.report(venue, "STATUS")
        elif n == 21 and not venue.canceled:
            self.report(venue, "DONE_FOR_DAY")
            if self.tifs[venue.correlation] == "GTC":
                self.day += 1
                self.clock += DAY
                if self.dice.pick(2):
                    self.report(venue, "RESTATED", restatement_reason=1)
        elif n == 22:
            self.report(venue, LIFE[self.dice.pick(len(LIFE))])
        elif n == 23:
            self.report(venue, "REJECTED", ord_status="NEW", client_order_id=venue.next_client(), orig_client_order_id=venue.client)

    def trade(self, venue: _Venue, **fields: Any) -> None:
        room = venue.quantity - venue.cum
        if room <= 0:
            return
        quantity, price = 1 + self.dice.pick(min(room, 20)), PRICES[self.dice.pick(len(PRICES))]
        if venue.instrument == "ESZ6" and price == "10.0125":
            price = "10.01"
        if self.dice.one_in(4):
            fields.setdefault("fee_amount", "0.25")
            fields.setdefault("fee_ccy", "USD")
        if self.dice.one_in(4):
            fields.setdefault("liquidity", ("MAKER", "TAKER", "AUCTION")[self.dice.pick(3)])
        if self.dice.one_in(5):
            fields.setdefault("trade_match_id", f"M{self.execs}")
        found = _Execution(self.exec_id(), "TRADE", quantity, price, self.clock)
        venue.chains.append([found])
        self.report(venue, "TRADE", exec_id=found.exec_id, last_qty=str(quantity), last_px=price, **fields)

    def follow(self, venue: _Venue, chain: list[_Execution], kind: str) -> None:
        last = next(e for e in reversed(chain) if e.kind != "BUST")
        refers = chain[0] if venue.name == "CHARLIE" else chain[-1]
        others = venue.cum - (0 if chain[-1].kind == "BUST" else chain[-1].quantity)
        room = max(venue.quantity - others, 1)
        quantity = 1 + self.dice.pick(min(room, 20)) if self.dice.pick(3) else min(last.quantity, room)
        price = PRICES[self.dice.pick(3)]
        link = _Execution(self.exec_id(), kind, quantity, price, self.clock)
        chain.append(link)
        fields: dict[str, Any] = {"exec_id": link.exec_id, "exec_ref_id": refers.exec_id}
        if kind == "CORRECT":
            fields.update(last_qty=str(quantity), last_px=price)
        elif self.dice.pick(2):
            fields.update(last_qty="0")
        self.report(venue, kind, **fields)

    def request(self, venue: _Venue, kind: str) -> None:
        if venue.canceled:
            return
        venue.asked = venue.next_client()
        self.report(venue, kind, client_order_id=venue.asked, orig_client_order_id=venue.client, order_qty=None)

    def replaced(self, venue: _Venue) -> None:
        quantity = max(1, venue.quantity + (self.dice.pick(40) - 12))
        asked = venue.asked or venue.next_client()
        venue.quantity = max(quantity, venue.cum)
        old, venue.client, venue.asked = venue.client, asked, None
        if self.dice.one_in(3):
            self.ack(venue, "REPLACED")
        self.report(venue, "REPLACED", orig_client_order_id=old, order_qty=str(quantity))

    # -- what goes wrong

    def fault(self, venue: _Venue) -> None:
        kinds = (
            self._conflict, self._mismatch, self._chain_fault, self._second, self._wrong_total, self._overfill, self._enrich, self._lost,
            self._route_again, self._decision, self._estimate, self._split, self._unknown, self._refused,
        )  # fmt: skip
        kinds[self.dice.pick(len(kinds))](venue)
        if self.dice.one_in(6):
            self._decision(venue)

    def _conflict(self, venue: _Venue) -> None:
        if not venue.chains:
            return self.trade(venue)
        chain = venue.chains[self.dice.pick(len(venue.chains))]
        link = chain[self.dice.pick(len(chain))]
        fields: dict[str, Any] = {"exec_id": link.exec_id, "last_qty": str(link.quantity), "last_px": link.price, "cum_qty": None}
        which = self.dice.pick(4)
        if which == 0:
            fields["last_px"] = "7.25"
        elif which == 1:
            fields["last_qty"] = str(link.quantity + 1)
        elif which == 2 and link.kind == "TRADE":
            fields["side"] = "SELL" if venue.side == "BUY" else "BUY"
        else:
            self.report(venue, "NEW", "CONFLICT kind", exec_id=link.exec_id, cum_qty=None)
            return None
        kind = link.kind if link.kind != "BUST" else "TRADE"
        if kind == "CORRECT":
            fields["exec_ref_id"] = chain[0].exec_id
        self.report(venue, kind, "CONFLICT " + kind, **fields)
        return None

    def _mismatch(self, venue: _Venue) -> None:
        which = self.dice.pick(3)
        fields: dict[str, Any] = ({"side": "SELL" if venue.side == "BUY" else "BUY"}, {"account": "ACC-2"}, {"instrument": "BTC-USD"})[
            which
        ]
        if self.dice.one_in(3):
            self.report(venue, "STATUS", "MISMATCH STATUS", **fields)
            return
        self.report(venue, "TRADE", "MISMATCH TRADE", exec_id=self.exec_id(), last_qty="1", last_px="10", cum_qty=None, **fields)

    def _chain_fault(self, venue: _Venue) -> None:
        which = self.dice.pick(5)
        if which == 0 and venue.chains:
            # a second link on a parent that has one (a fork), or on a bust (dead)
            chain = venue.chains[self.dice.pick(len(venue.chains))]
            if len(chain) == 1 or chain[-1].kind == "CORRECT":
                self.follow(venue, chain, ("CORRECT", "BUST")[self.dice.pick(2)])
            parent = chain[self.dice.pick(len(chain))]
            self.report(venue, "BUST", "CHAIN fork", exec_id=self.exec_id(), exec_ref_id=parent.exec_id, cum_qty=None)
        elif which == 1:
            a, b = self.exec_id(), self.exec_id()
            for one, other in ((a, b), (b, a)):
                self.report(venue, "CORRECT", "CHAIN cycle", exec_id=one, exec_ref_id=other, last_qty="3", last_px="10", cum_qty=None)
        elif which == 2:
            siblings = [v for v in self.venues if v is not venue and v.chains and v.name == venue.name and v.instrument == venue.instrument]
            if siblings:
                sibling = siblings[self.dice.pick(len(siblings))]
                self.report(venue, "BUST", "CHAIN cross", exec_id=self.exec_id(), exec_ref_id=sibling.chains[0][0].exec_id, cum_qty=None)
        elif which == 3:
            name = self.exec_id()
            self.report(venue, "TRIGGERED", exec_id=name)
            self.report(venue, "BUST", "CHAIN not a trade", exec_id=self.exec_id(), exec_ref_id=name, cum_qty=None)
        else:
            self.report(venue, "BUST", "CHAIN nowhere", exec_id=self.exec_id(), exec_ref_id="nothing", cum_qty=None)

    def _second(self, venue: _Venue) -> None:
        if venue.quantity - venue.cum < 2:
            return
        match = f"S{self.execs}"
        self.trade(venue, trade_match_id=match)
        link = venue.chains[-1][0]
        quantity = link.quantity + self.dice.pick(2)
        self.report(
            venue, "TRADE", "SECOND", exec_id=self.exec_id(), last_qty=str(quantity), last_px=link.price, trade_match_id=match, cum_qty=None
        )

    def _wrong_total(self, venue: _Venue) -> None:
        self.report(venue, "STATUS", "WRONG TOTAL", cum_qty=str(max(0, venue.cum + (3, -2, 5, -1)[self.dice.pick(4)])))

    def _overfill(self, venue: _Venue) -> None:
        quantity = max(venue.quantity - venue.cum, 0) + 1 + self.dice.pick(5)
        found = _Execution(self.exec_id(), "TRADE", quantity, "10", self.clock)
        venue.chains.append([found])
        self.report(venue, "TRADE", "OVERFILL", exec_id=found.exec_id, last_qty=str(quantity), last_px="10")
        if self.dice.pick(2):
            self.follow(venue, venue.chains[-1], "BUST")

    def _enrich(self, venue: _Venue) -> None:
        singles = [chain[0] for chain in venue.chains if len(chain) == 1]
        if not singles:
            return
        link = singles[self.dice.pick(len(singles))]
        self.report(
            venue, "TRADE", "ENRICH", exec_id=link.exec_id, last_qty=str(link.quantity), last_px=link.price, fee_amount="-0.5",
            fee_ccy="USD", liquidity="MAKER", cum_qty=None,
        )  # fmt: skip

    def _lost(self, venue: _Venue) -> None:
        if len(self.rows) > 3:
            self.rows.pop(self.dice.pick(len(self.rows)))

    def _route_again(self, venue: _Venue) -> None:
        self.put(ROUTE, route(venue.correlation, "777"), "ROUTE conflict")

    def _decision(self, venue: _Venue) -> None:
        action = ("REJECT", "RELEASE")[self.dice.pick(2)]
        self.put(HOLD, decision(venue.correlation, action, self.clock + len(self.rows)), f"DECISION {action}")

    def _estimate(self, venue: _Venue) -> None:
        room = venue.quantity - venue.cum
        if room < 4 or venue.totals == 1:
            return
        flag = ("inferred", "provisional")[self.dice.pick(2)]
        self.report(
            venue,
            "TRADE",
            "ESTIMATE",
            exec_id=self.exec_id(),
            last_qty=str(1 + self.dice.pick(4)),
            last_px="10",
            cum_qty=None,
            **{flag: True},
        )

    def _split(self, venue: _Venue) -> None:
        if any(chain[-1].kind != "TRADE" for chain in venue.chains):
            return
        venue.quantity *= 2
        for chain in venue.chains:
            chain[-1].quantity *= 2
        self.report(venue, "RESTATED", "SPLIT", exec_id=self.exec_id(), restatement_reason=0)

    def _unknown(self, venue: _Venue) -> None:
        other = correlation(77)
        self.report(venue, "TRADE", "UNKNOWN ORDER", exec_id=self.exec_id(), last_qty="1", last_px="10", client_order_id=client_id(other))

    def _refused(self, venue: _Venue) -> None:
        fields: tuple[dict[str, Any], ...] = (
            {"venue": "NOWHERE"}, {"account": "ACC-9"}, {"instrument": "XYZ"}, {"last_qty": "1.5"}, {"last_qty": "0"}, {"last_px": "-1"},
            {"last_px": None}, {"side": None}, {"exec_id": None}, {"trade_date": 20991231}, {"event_ts_ns": self.clock + 4000 * SECOND},
            {"last_qty": None}, {"last_px": "1.00001"}, {"side": "SHORT"}, {"last_qty": 3}, {"dialect": None},
            {"client_order_id": client_id(correlation(99))},
        )  # fmt: skip
        which = self.dice.pick(len(fields))
        base = {"exec_id": self.exec_id(), "last_qty": "1", "last_px": "10", "cum_qty": None}
        if venue.name != "ALPHA" and "account" in fields[which]:
            return
        self.report(venue, "TRADE", "REFUSED", **{**base, **fields[which]})

    # -- the way there

    def arrange(self) -> list[Message]:
        """Return the messages as they arrive: reordered, repeated, spoilt copies between, aliases told, time passing."""
        dice = self.dice
        messages = [message for _, message in self.rows]
        for venue in self.venues:
            if venue.name == "DELTA" and dice.one_in(3):
                messages.append(Message(ALIAS, alias(venue.correlation, venue.name, venue.order_id), f"ALIAS {venue.order_id}"))
        style = dice.pick(4)
        if style == 1:
            for _ in range(1 + dice.pick(6)):
                a = dice.pick(len(messages))
                b = min(len(messages) - 1, a + 1 + dice.pick(4))
                messages[a], messages[b] = messages[b], messages[a]
        elif style > 1:
            keys = [dice.pick(65_536) for _ in messages]
            if style == 2:
                keys = [n * 2000 + key // 6 for n, key in enumerate(keys)]
            messages = [messages[n] for n in sorted(range(len(messages)), key=lambda n: (keys[n], n))]
        for _ in range((0, 0, 1, 2, 4)[dice.pick(5)]):
            n = dice.pick(len(messages))
            messages.insert(n + dice.pick(len(messages) - n) + 1, messages[n])
        if dice.one_in(4):
            n = dice.pick(len(messages))
            messages.insert(n, _spoilt(messages[n], dice))
        if not self.clean:
            for _ in range((0, 0, 0, 1, 2)[dice.pick(5)]):
                seconds = (6.0, 31.0, 121.0, 90_000.0)[dice.pick(4)]
                messages.insert(dice.pick(len(messages) + 1), Message("", b"", f"-- {seconds} s pass", seconds))
        return _settled(messages) if self.clean else messages


def _settled(messages: list[Message]) -> list[Message]:
    """Move weak reports that would be the first word about their venue order behind the others.

    They never create a venue order, so one that comes first says nothing: the single case where arrival order matters by rule.
    """
    heard: set[str] = set()
    early: list[Message] = []
    rest: list[Message] = []
    for message in messages:
        (early if message.weak and message.about not in heard else rest).append(message)
        if not message.weak:
            heard.add(message.about)
    return rest + early


def _spoilt(message: Message, dice: Dice) -> Message:
    value = message.value
    which = dice.pick(7)
    if which == 0:
        value = value[: dice.pick(len(value))]
    elif which == 1:
        value = value.replace(b'"v1"', b'"v2"', 1)
    elif which == 2:
        value = value.replace(b'"payload"', b'"payl\xffad"', 1)
    elif which == 3:
        found = json.loads(value)
        del found[sorted(found)[dice.pick(2)]]
        value = json.dumps(found).encode()
    elif which == 4:
        value = b"[" * 300
    elif which == 5:
        value = value.replace(b'"ttl_ms":600000', b'"ttl_ms":0', 1)
    else:
        value = value.replace(b"{", b"{{", 1)
    return Message(message.topic, value, f"SPOILT {which}: {message.what}")


def build(data: bytes, clean: bool = False) -> History:
    """Return the history a string of bytes stands for."""
    return _Builder(data, clean).build()


def histories(clean: bool = False) -> st.SearchStrategy[History]:
    """Histories of one or two orders over one to three venue orders each; `clean` ones leave nothing pending, held or lost."""
    return st.binary(min_size=N_BYTES, max_size=N_BYTES).map(lambda data: build(data, clean))


def shuffled(history: History, keys: bytes) -> History:
    """Return the same messages in another order of arrival."""
    dice = Dice(keys)
    order = sorted(range(len(history.messages)), key=lambda n: (dice.pick(65_536), n))
    return History(_settled([history.messages[n] for n in order]), history.correlations, history.clean)
