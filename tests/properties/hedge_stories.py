"""Generated stories of one hedger's lane: what clients, the portfolio, the desk and the order agent say, told to a lane on a market that stands still.

A story is a list of steps. Ids and times of its messages are functions of their place in it, so that a story told in another way (records said
twice, a restart in between) is told in the same words.
"""

from __future__ import annotations

import json
from collections import defaultdict
from decimal import Decimal
from functools import cache
from typing import Any

from hypothesis import strategies as st

from operators.book_frame import HedgeRules
from operators.halts import Halts
from operators.hedge_market import HedgeMarket
from operators.hedger import HedgerLogic
from schemas.hedging import HedgeState
from tests.operators.hedger_bench import BOOK, REFERENCE, SECOND, START_NS, Bench, message, uid, universe

FILLS, TARGETS, ORDERS, DESK, COVERS = (
    "execution.event.fill.v1", "portfolio.intent.allocate.v1", "order.event.hedge.v1", "hedger.intent.desk.v1", "hedger.intent.cover",
)  # fmt: skip
OPEN: frozenset[HedgeState] = frozenset(("SENT", "ACKED", "PARTIAL", "UNKNOWN"))
LONG = 10**15
RULES = HedgeRules(risk_age_ns=LONG)

SIZES = st.integers(-60, 60)
TICKS = st.tuples(st.just("tick"), st.sampled_from([0.06, 0.06, 0.6, 2.5, 11.0]))
ANSWERS = ["ack", "half", "all", "cancel", "reject", "expire", "unknown", "done"]
STEPS = st.one_of(
    st.tuples(st.just("fill"), st.sampled_from(["SPOT", "SPOT", "OTHER", "PERP"]), SIZES, st.sampled_from(["ACC-1", "ACC-1", "DESK"])),
    st.tuples(st.just("version"), st.integers(0, 5), st.sampled_from(["bust", "0", "1.5", "-2"])),
    st.tuples(st.just("target"), st.integers(-30, 30), st.integers(0, 2)),
    st.tuples(st.just("answer"), st.integers(0, 2), st.sampled_from(ANSWERS)),
    st.tuples(st.just("answer"), st.integers(0, 2), st.sampled_from(ANSWERS)),
    st.tuples(st.just("desk"), st.sampled_from(["HOLD", "RELEASE", "RELEASE", "MARK_MANUAL"]), st.sampled_from([None, "PERP"])),
    st.tuples(st.just("request")),
)
BEATS = st.tuples(st.lists(STEPS, min_size=1, max_size=3), TICKS).map(lambda beat: [*beat[0], beat[1]])
STORIES = st.tuples(st.integers(5, 80), st.lists(BEATS, min_size=1, max_size=9)).map(
    lambda drawn: [("fill", "SPOT", drawn[0], "ACC-1"), ("tick", 0.06), *(step for beat in drawn[1] for step in beat)]
)
"""A client's fill, then beats of a few records and a tick."""


@cache
def still_market(instruments: int) -> HedgeMarket:
    """Return a warm market whose quotes and covariances never age, for a book with so many instruments. Shared: only HALTs may be applied to it."""
    bench = Bench(desk_accounts=["DESK"], instruments=universe()["instruments"][:instruments])
    market = bench.market
    market.ts_ns[:] = START_NS + LONG
    market.rules = market.rules._replace(covariance_bars=10**9)
    return market


class Story(Bench):
    """A lane on the market that stands still; `tell` takes a step. `said` holds the records of inputs as they were said."""

    def __init__(self, instruments: int = 2) -> None:
        self.rules, self.times = RULES, None
        self.market = still_market(instruments)
        self.market._halts = Halts()
        self.now_ns = START_NS + 400 * SECOND
        self.mids = self.market.mid
        self._offsets: dict[str, int] = defaultdict(int)
        self.out, self.values = defaultdict(list), defaultdict(list)
        self.log: list[tuple[int, bytes]] = []
        self.serial = 0
        self.said: list[tuple[str, bytes]] = []
        self.fills: list[dict[str, Any]] = []
        self.lane = self.new_lane()

    def new_lane(self) -> HedgerLogic:
        return HedgerLogic(0, 1, REFERENCE, self.market, self.rules, self.times, "hedger-0")

    def put(self, topic: str, value: bytes) -> None:
        """Say one record."""
        self.said.append((topic, value))
        self.feed(topic, value)

    def tell(self, place: int, step: tuple[Any, ...]) -> None:
        """Take the step at a place of the story."""
        getattr(self, f"_{step[0]}")(place, *step[1:])

    def _tick(self, _: int, passed_s: float) -> None:
        self.tick(passed_s)

    def _fill(self, place: int, symbol: str, size: int, account: str) -> None:
        name = f"{place}"
        self.fills.append({"name": name, "symbol": symbol, "account": account, "order": None, "size": Decimal(size), "version": 1})
        self.put(FILLS, self.fill(str(size), symbol, name=name, account=account, order=uid(f"order:{place}")))
        self.fills[-1]["order"] = uid(f"order:{place}")

    def _version(self, _: int, which: int, change: str) -> None:
        if not self.fills:
            return
        fill = self.fills[which % len(self.fills)]
        delta = -fill["size"] if change == "bust" else Decimal(change)
        fill["size"] += delta
        fill["version"] += 1
        self.put(
            FILLS,
            self.fill(
                format(delta, "f"), fill["symbol"], name=fill["name"], account=fill["account"], order=fill["order"], version=fill["version"]
            ),
        )

    def _target(self, place: int, hundreds: int, age_s: int) -> None:
        wanted = {"book": BOOK, "symbol": "SPOT", "target_size": str(100 * hundreds), "confidence": 1.0, "risk_score": 0.1}
        self.put(TARGETS, message(TARGETS, wanted, self.now_ns - age_s * SECOND, f"t{place}"))

    def _answer(self, place: int, which: int, how: str) -> None:
        """Answer one of the newest hedges: the venue fills what is said here and the order agent speaks of all that was filled."""
        if not self.covers:
            return
        cover = self.covers[-1 - which % len(self.covers)]
        for n, leg in enumerate(cover["legs"]):
            mine = [fill for fill in self.fills if fill["order"] == leg["order_id"]]
            sign, size = 1 if leg["side"] == "BUY" else -1, Decimal(leg["size"])
            done = sum((fill["gross"] for fill in mine), Decimal(0))
            if how in ("half", "all"):
                part = size - done if how == "all" else ((size - done) / 2).quantize(Decimal("0.001"))
                if part <= 0:
                    continue
                name = f"{place}:{n}"
                fill = {"name": name, "symbol": leg["instrument"], "account": "ACC-1", "order": leg["order_id"], "size": sign * part}
                self.fills.append(fill | {"version": 1, "gross": part})
                self.put(FILLS, self.fill(format(sign * part, "f"), leg["instrument"], name=name, order=leg["order_id"]))
                continue
            status = {
                "ack": "ACKED",
                "cancel": "CANCELED",
                "reject": "REJECTED",
                "expire": "EXPIRED",
                "unknown": "UNKNOWN",
                "done": "DONE",
            }[how]
            if status == "REJECTED" and done:
                continue
            payload = {
                "hedge_id": cover["hedge_id"], "order_id": leg["order_id"], "book": BOOK, "instrument": leg["instrument"], "status": status,
                "filled_size": format(done, "f"), "reason": None, "event_ts_ns": self.now_ns,
            }  # fmt: skip
            self.put(ORDERS, message(ORDERS, payload, self.now_ns, f"e{place}:{n}", "agent.order"))

    def _desk(self, place: int, action: str, instrument: str | None) -> None:
        word = {
            "book": BOOK,
            "action": action,
            "instrument": instrument,
            "operator": "ann",
            "justification": "x",
            "decided_ns": self.now_ns,
        }
        if action == "MARK_MANUAL":
            if not self.covers:
                return
            word |= {"hedge_id": self.covers[-1]["hedge_id"], "instrument": None}
        self.put(DESK, message(DESK, word, self.now_ns, f"d{place}"))

    def _request(self, place: int) -> None:
        if self.covers:
            asked = self.covers[0] | {"hedge_id": uid(f"asked:{place}")}
            self.put(COVERS, message(COVERS, asked, self.now_ns, f"r{place}", "agent.portfolio"))

    def positions(self) -> dict[tuple[str, str], Decimal]:
        """Return what the lane holds by (symbol, exposure or hedge), zeros left out."""
        if BOOK not in self.lane._books:
            return {}
        return {
            (symbol, kind): row[kind]
            for symbol, row in self.lane.book_state(BOOK)["positions"].items()
            for kind in ("exposure", "hedge")
            if row[kind]
        }

    def by_the_fills(self) -> dict[tuple[str, str], Decimal]:
        """Return the same from the records alone."""
        orders = {leg["order_id"] for cover in self.covers for leg in cover["legs"]}
        result: dict[tuple[str, str], Decimal] = defaultdict(Decimal)
        seen = set()
        for topic, value in self.said:
            if topic != FILLS:
                continue
            fill = json.loads(value)["payload"]
            if (fill["fill_id"], fill["version"]) in seen:
                continue
            seen.add((fill["fill_id"], fill["version"]))
            kind = "hedge" if fill["order_id"] in orders or fill["account"] == "DESK" else "exposure"
            result[fill["symbol"], kind] += Decimal(fill["signed_delta"])
        return {key: size for key, size in result.items() if size}

    def state(self) -> Any:
        """Return every row of the ledger under its key, and the scalars."""
        ledger = self.lane.ledger
        rows = {
            table.name: sorted(repr(dict(zip(table.dtype.names, row, strict=True))) for row in table.rows[table.rows["live"] == 1].tolist())
            for table in ledger.changelog.tables
        }
        return rows, ledger.scalars.tolist()


def told(steps: list[tuple[Any, ...]]) -> Story:
    """Return a story told from its beginning to its end, and a moment more."""
    story = Story()
    for place, step in enumerate(steps):
        story.tell(place, step)
    story.tick(0.06)
    return story
