"""The hedger's logic for one lane: chunks in, records out, state in a ledger. What a book should do is decided in operators/decision.py.

Rules: docs/hedging.md. Fills are booked in columns (operators/book_fold.py); everything else comes at a low rate, one record at a time. Decisions are made
in `tick`, at most one for each book, and go out with the state they rest on: a hedge is sent exactly when it is remembered.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import numpy as np

from operators import hedge_life as life
from operators import kpi
from operators.book_fold import APPLIED, DUPLICATE, REJECTED, REROUTED, SLOTS, fold_fills, position_key
from operators.book_frame import (
    BookFrame,
    BookView,
    Breakdown,
    HedgeRules,
    RatioState,
    carried_over,
    frame_of,
    new_ratio_state,
    update_ratios,
    watched,
)
from operators.book_value import Decision, Leg, exposure_units
from operators.decision import decide
from operators.hedge_audit import known as _none
from operators.hedge_audit import ratios_of, record_of, residual_of
from operators.hedge_audit import zero as _finite
from operators.hedge_life import SIDES, LifeRules
from operators.hedge_market import HedgeMarket
from operators.lane import OnLedger, offsets_after
from operators.outbox import Outbox
from operators.ratios import CORRELATION, ELIGIBLE
from operators.snapshots import symbol_index
from schemas.chunk import Chunk, Records
from schemas.codec import compile_decoder
from schemas.execution import FillMessage
from schemas.fields import decimal_parts
from schemas.hashing import hash128, partition_of
from schemas.hedging import AllocationMessage, CoverMessage, DeskDecisionMessage, HedgeOrderEventMessage
from schemas.parse import parse
from schemas.reasons import HedgeReason, Reason
from schemas.reference import Reference
from schemas.registry import HEDGER_INPUTS, TOPICS
from state import hedges as g
from state.changelog import StateMismatch
from state.hedges import HedgeLedger

SENDER = "agent.hedger"
BATCH = 8192
"""Fills booked between two reservations of memory."""
NAMESPACE = uuid.UUID("8d3a8a3e-58a2-4b7e-9a55-0c6f0b8a4d11")
EPOCH_DAY_2000 = 10_957
DAY_NS = 86_400_000_000_000
KEEP_DAYS = 8
"""A fill is known again for so long, a hedge's late fills find it."""
EVICT_ROWS = 2048
"""Rows looked at per tick for what is past its time."""

FILLS, ALLOCATIONS, ORDERS, DESK, COVERS = range(5)
MODELS = (FillMessage, AllocationMessage, HedgeOrderEventMessage, DeskDecisionMessage, CoverMessage)
_EXPIRING = (DESK, COVERS)
"""Intents that mean nothing after their ttl."""
_FIRST_TRIGGER = HedgeReason.fill
DECISIONS_A_TICK = 3
"""A decision takes a millisecond and more, and everything that came meanwhile waits for the tick's end. The book that has not decided for longest
comes first, so that a fill in a quiet book does not wait for busy ones."""
PATIENCE_NS = 5_000_000_000
"""Books that only look again because a bar ended or the risk agent spoke come as if they had decided so much later."""
_TRIGGERS = tuple(r for r in HedgeReason if r >= _FIRST_TRIGGER)
_BITS = {reason: 1 << (reason - _FIRST_TRIGGER) for reason in _TRIGGERS}
_PATIENT = _BITS[HedgeReason.bar] | _BITS[HedgeReason.risk_state]
_PRESSING = _BITS[HedgeReason.halt] | _BITS[HedgeReason.resume] | _BITS[HedgeReason.channel]

_TOLD = {
    reason: 1 << i
    for i, reason in enumerate(
        (
            HedgeReason.liquidity_shortfall, HedgeReason.escalated, HedgeReason.coverage_gap, HedgeReason.completion_late,
            HedgeReason.correlation_breakdown, HedgeReason.channel_queued, HedgeReason.policy_missing, HedgeReason.universe_missing,
            HedgeReason.stale_risk_state, HedgeReason.solver_inexact, HedgeReason.no_instrument, HedgeReason.overhedged,
        )
    )
}  # fmt: skip
"""What is told once in an episode of missing coverage."""


@dataclass(slots=True)
class _Book:
    """What is kept of a book beside its row: indexes into the tables, the frame of its problem, what was seen of the outside."""

    row: int
    name: str
    head: int = -1
    positions: dict[str, int] = field(default_factory=dict)
    hedges: dict[int, None] = field(default_factory=dict)
    """Rows of hedges that are open or queued, oldest first."""
    frame: BookFrame | None = None
    frame_key: tuple[Any, ...] = ()
    ratios: RatioState | None = None
    exposure_rows: Any = None
    exposure_unit: Any = None
    held_rows: Any = None
    held_unit: Any = None
    untold: dict[int, tuple[dict[HedgeReason, None], str]] = field(default_factory=dict)
    """Hedges to be told of at the end of the tick: why, and the order agent's word."""
    seen: tuple[int, ...] = ()
    minute: int = -1


class HedgerLogic(OnLedger[HedgeLedger]):
    """One lane of the hedger (operators.lane.LaneLogic).

    lane, n_lanes: partition number and count of the inputs. market: the worker's broadcast tables over the same reference. worker: this worker's
    name, told in acknowledgements of HALT.
    """

    def __init__(
        self,
        lane: int,
        n_lanes: int,
        reference: Reference,
        market: HedgeMarket,
        rules: HedgeRules | None = None,
        times: LifeRules | None = None,
        worker: str = "hedger-0",
    ) -> None:
        self.lane = lane
        self.n_lanes = n_lanes
        self.reference = reference
        self.market = market
        self.rules = HedgeRules() if rules is None else rules
        self.times = LifeRules() if times is None else times
        self.worker = worker
        self.ledger = HedgeLedger()
        self._decoder = compile_decoder(FillMessage)
        self._index = symbol_index([i.symbol for i in reference.instruments])
        self._series = {i.symbol: n for n, i in enumerate(reference.instruments)}
        self._scale = np.array([i.qty_scale for i in reference.instruments], np.int64)
        self._books: dict[str, _Book] = {}
        self._by_row: dict[int, _Book] = {}
        self._out = Outbox(lane, SENDER, NAMESPACE, own=("audit.event.hedger",))
        self._halts_seen = 0
        self._awake: set[int] = set()
        """Rows of books with hedges."""
        self._outside: tuple[int, ...] = ()
        self._again = False
        self._desk_of: tuple[int, Any] = (-1, None)

    # ---- the lane runtime's side -----------------------------------------------------------------------------------

    def process(self, chunk: Chunk, now_ns: int) -> list[Records]:
        """Fold a chunk into the state; return what to publish."""
        topic = HEDGER_INPUTS.index(chunk.topic)
        if topic == FILLS:
            self._take_fills(chunk, now_ns)
        else:
            self._take_each(topic, chunk, now_ns)
        scalars = self.ledger.scalars
        scalars[g.S_RECEIVED] += len(chunk)
        scalars[g.S_NEWEST_DAY] = max(int(scalars[g.S_NEWEST_DAY]), _day(now_ns))
        if len(chunk):
            scalars[g.S_POSITIONS + topic] = int(chunk.offsets[-1]) + 2
        return self._out.hand_out()

    def tick(self, now_ns: int) -> list[Records]:
        """Let clocks act, decide for every book that has a reason to, keep the figures; forget a little of what is past its time."""
        if self._again:
            self._look_again(now_ns)
        self._acknowledge_halts(now_ns)
        self._follow_bars(now_ns)
        visited = self._to_visit(now_ns)
        for book in visited:
            self._watch(book, now_ns)
        for book in self._to_decide(visited, now_ns):
            self._decide(book, now_ns)
        for book in visited:
            untold, book.untold = book.untold, {}
            for hedge, (reasons, detail) in untold.items():
                self._tell(hedge, now_ns, list(reasons), detail)
            (self._awake.add if book.hedges else self._awake.discard)(book.row)
        self._evict()
        return self._out.hand_out()

    def _to_visit(self, now_ns: int) -> list[_Book]:
        """Return the books with something to do: all after a change outside and at the turn of a minute, else those with triggers or clocks."""
        market = self.market
        outside = (market.risk_seq, market.policy_seq, market.universe_seq, market.channel_seq, market.halt_seq, now_ns // kpi.MINUTE_NS)
        if outside != self._outside:
            self._outside = outside
            return [self._by_row[row] for row in sorted(self._by_row)]
        rows = self.ledger.books.rows
        due = np.flatnonzero((rows["triggers"] != 0) | ((rows["retry_ns"] > 0) & (rows["retry_ns"] <= now_ns)))
        return [self._by_row[row] for row in sorted({*due.tolist(), *self._awake})]

    def restore(self, records: Iterable[tuple[int, bytes]]) -> None:
        """Rebuild the state; raises StateMismatch when the reference data lacks an instrument some book has a position in."""
        self.ledger.changelog.restore(records)
        positions = self.ledger.positions
        for at in np.flatnonzero(positions.rows["live"]).tolist():
            row = positions.arrays.rows[at]
            symbol = _text(row, "symbol")
            series = self._series.get(symbol, -1)
            scale = int(self._scale[series]) if series >= 0 else 0
            if int(row["series"]) >= 0 and (series < 0 or scale != int(row["qty_scale"])):
                what = "does not list" if series < 0 else f"gives another qty_scale than {int(row['qty_scale'])}"
                raise StateMismatch(f"lane {self.lane} has positions in {symbol}, which the reference data {what}: put it back as it was")
            if int(row["series"]) != series:
                row["series"], row["qty_scale"] = series, scale
                positions.touch(at)
        for at in np.flatnonzero(self.ledger.books.rows["live"]).tolist():
            self._book_of(at)
        hedges = self.ledger.hedges.rows
        for at in np.flatnonzero(hedges["live"]).tolist():
            if int(hedges[at]["state"]) in g.OPEN or int(hedges[at]["state"]) == g.QUEUED:
                self._by_row[int(hedges[at]["book"])].hedges[at] = None
        for book in self._books.values():
            book.hedges = dict.fromkeys(sorted(book.hedges, key=lambda at: (int(hedges[at]["decided_ns"]), at)))
        self.look_again()

    def look_again(self) -> None:
        """Let every book look at the outside afresh at the next tick, as after a restore: anything may have changed while nobody ran."""
        self._again = True

    def positions(self) -> dict[str, int]:
        """Return, for each input topic read so far, the offset after the last record folded in."""
        return offsets_after(HEDGER_INPUTS, self.ledger.scalars[g.S_POSITIONS : g.S_POSITIONS + len(HEDGER_INPUTS)])

    def counters(self) -> dict[str, int]:
        """Return the balance, and dead letters by reason as `dlq_<reason>`."""
        scalars = self.ledger.scalars
        result = {name: int(scalars[i]) for i, name in enumerate(g.BALANCE)}
        result["balance_mismatch"] = result["received"] - sum(result[k] for k in g.BALANCE[1:6])
        for reason in Reason:
            if 0 < reason < 92 and scalars[g.S_DEAD + reason]:
                result[f"dlq_{reason.name}"] = int(scalars[g.S_DEAD + reason])
        result["books"] = len(self.ledger.books)
        result["positions_kept"] = len(self.ledger.positions)
        result["fills_kept"] = len(self.ledger.fills)
        result["hedges_open"] = sum(len(book.hedges) for book in self._books.values())
        result["coverage_gaps"] = sum(int(self.ledger.books.arrays.rows[b.row]["gap_ns"]) > 0 for b in self._books.values())
        return result

    # ---- fills -------------------------------------------------------------------------------------------------------

    def _take_fills(self, chunk: Chunk, now_ns: int) -> None:
        batch = self._decoder.decode(chunk.data, chunk.bounds)
        desk = self._desk_accounts()
        where = np.array([self.lane, self.n_lanes, now_ns, _day(now_ns)], np.int64)
        for start in range(0, len(chunk), BATCH):
            part = slice(start, min(start + BATCH, len(chunk)))
            n = part.stop - start
            self.ledger.reserve(n)
            outcome, reason, leg_of = np.empty((3, n), np.int64)
            ledger = self.ledger
            fold_fills(
                batch.rows[part], batch.arena, batch.ok[part], SLOTS, where, self._index, self._scale, desk, ledger.books.arrays,
                ledger.positions.arrays, ledger.fills.arrays, ledger.legs.arrays, outcome, reason, leg_of,
            )  # fmt: skip
            if len(ledger.books) != len(self._by_row):
                for row in np.flatnonzero(ledger.books.rows["live"]).tolist():
                    self._book_of(row)
            counts = np.bincount(outcome, minlength=4)
            ledger.scalars[g.S_APPLIED] += counts[APPLIED]
            ledger.scalars[g.S_DUPLICATE] += counts[DUPLICATE]
            for i in np.flatnonzero(outcome == REJECTED).tolist():
                if batch.ok[start + i]:
                    why = Reason(int(reason[i]))
                    detail = _DETAIL[why]
                else:
                    why = Reason(int(batch.reason[start + i]))
                    detail = self._decoder.explain(batch, start + i, chunk.data, chunk.bounds)
                self._dead(why, detail, chunk, start + i, now_ns)
            for i in np.flatnonzero(outcome == REROUTED).tolist():
                value = chunk.value(start + i)
                self._reroute(FILLS, json.loads(value)["payload"]["book"], value)
            touched = leg_of[leg_of >= 0]
            if len(touched):
                ledger.scalars[g.S_HEDGE_FILLS] += len(touched)
                for leg in dict.fromkeys(touched.tolist()):
                    life.acked(ledger, leg)  # a fill says that the venue knows it
                for hedge in dict.fromkeys(ledger.legs.arrays.rows["hedge"][touched].tolist()):
                    self._settle(hedge, now_ns, HedgeReason.fill)

    def _desk_accounts(self) -> Any:
        """Return the keys of the desk's accounts `(d, 2)` of every book there is a universe of, also of those not heard of yet."""
        known, keys = self._desk_of
        if known != self.market.universe_seq:
            found = [
                position_key(*(np.uint64(x) for x in (*_hash(one.payload.book), *_hash(account))))
                for one in self.market.universes()
                for account in one.payload.desk_accounts
            ]
            keys = np.array(found, np.uint64).reshape(-1, 2)
            self._desk_of = (self.market.universe_seq, keys)
        return keys

    # ---- everything else ---------------------------------------------------------------------------------------------

    def _take_each(self, topic: int, chunk: Chunk, now_ns: int) -> None:
        name = HEDGER_INPUTS[topic]
        allowed = TOPICS[name].senders
        for i in range(len(chunk)):
            value = chunk.value(i)
            message: Any = parse(MODELS[topic], value)
            if isinstance(message, tuple):
                self._dead(message[0], message[1], chunk, i, now_ns)
                continue
            book = message.payload.book
            if self._lane_of(book) != self.lane:
                self._reroute(topic, book, value)
                continue
            if topic == COVERS and message.sender == SENDER:
                self.ledger.scalars[g.S_ECHO] += 1
                continue
            if allowed and message.sender not in allowed:
                self._dead(Reason.sender_not_allowed, f"{message.sender} may not send to {name}", chunk, i, now_ns)
                continue
            if topic in _EXPIRING and message.ts_ns + message.ttl_ms * 1_000_000 < now_ns:
                self._dead(Reason.ttl_expired, f"older than its ttl of {message.ttl_ms} ms", chunk, i, now_ns)
                continue
            problem = (self._allocate, self._order_event, self._desk, self._request)[topic - 1](message, now_ns)
            if problem is None:
                self.ledger.scalars[g.S_APPLIED] += 1
            elif problem is Reason.none:
                self.ledger.scalars[g.S_DUPLICATE] += 1
            else:
                self._dead(problem, _DETAIL[problem], chunk, i, now_ns)

    def _allocate(self, message: AllocationMessage, now_ns: int) -> Reason | None:
        """Take a target; None when taken, Reason.none when it was known or a newer one is."""
        wanted = message.payload
        series = self._series.get(wanted.symbol, -1)
        if series < 0:
            return Reason.instrument_unknown
        target = float(wanted.target_size)
        book = self._book_named(wanted.book)
        at = self._position(book, wanted.symbol)
        row = self.ledger.positions.arrays.rows[at]
        order = _first64(message.msg_id)
        if int(row["flags"]) & g.P_TARGET and (int(row["target_ns"]), int(row["target_order"])) >= (message.ts_ns, order):
            return Reason.none
        row["target"], row["target_ns"], row["target_order"] = target, message.ts_ns, order
        row["target_ttl_ns"] = (wanted.ttl_ms or 0) * 1_000_000
        row["flags"] = int(row["flags"]) | g.P_TARGET
        self.ledger.positions.touch(at)
        self._trigger(book, HedgeReason.allocation, now_ns)
        return None

    def _order_event(self, message: HedgeOrderEventMessage, now_ns: int) -> Reason | None:
        """Take the order agent's word on a leg."""
        event = message.payload
        legs = self.ledger.legs
        leg = legs.find(*_halves(event.order_id))
        if leg < 0:
            return Reason.hedge_unknown
        row = legs.arrays.rows[leg]
        hedge = int(row["hedge"])
        scale = int(self.ledger.positions.arrays.rows[int(row["position"])]["qty_scale"])
        mantissa, digits = decimal_parts(event.filled_size)
        if digits > scale:
            return Reason.precision_exceeds_scale
        filled = mantissa * 10 ** (scale - digits)
        said, before = (message.ts_ns, _first64(message.msg_id)), (int(row["event_ns"]), int(row["event_order"]))
        if message.ts_ns < before[0] or said == before:
            # Said before: only an end that is not known, or a larger amount filled, is news.
            if event.status not in life.ENDS or (int(row["end"]) and filled <= int(row["venue_filled"])):
                return Reason.none
        else:
            row["event_ns"], row["event_order"] = said
            legs.touch(leg)
        if event.status == "ACKED":
            life.acked(self.ledger, leg)
        elif event.status == "UNKNOWN":
            life.unknown(self.ledger, leg)
        else:
            life.ended(self.ledger, leg, life.ENDS[event.status], filled)
        self._settle(hedge, now_ns, HedgeReason.hedge_state, event.reason or "")
        return None

    def _desk(self, message: DeskDecisionMessage, now_ns: int) -> Reason | None:
        """Take the desk's word: hold, release, taken over."""
        word = message.payload
        hedge = -1
        if word.action == "MARK_MANUAL":
            hedge = self.ledger.hedges.find(*_halves(word.hedge_id)) if word.hedge_id is not None else -1
            if hedge < 0 or self._by_row[int(self.ledger.hedges.arrays.rows[hedge]["book"])].name != word.book:
                return Reason.hedge_unknown
        if word.instrument is not None and word.instrument not in self._series:
            return Reason.instrument_unknown
        book = self._book_named(word.book)
        if word.action == "MARK_MANUAL":
            taken = self.ledger.hedges.arrays.rows[hedge]
            if int(taken["flags"]) & g.H_MANUAL:
                return Reason.none
            taken["flags"] = int(taken["flags"]) | g.H_MANUAL
            self.ledger.hedges.touch(hedge)
        if word.action == "MARK_MANUAL" and int(self.ledger.hedges.arrays.rows[hedge]["state"]) == g.QUEUED:
            self._close(hedge, g.MANUAL, now_ns, HedgeReason.manual)
        elif word.action == "MARK_MANUAL":
            for leg in life.legs_of(self.ledger, hedge):
                row = self.ledger.legs.arrays.rows[leg]
                if not int(row["end"]) or life.remaining(row):
                    row["end"], row["venue_filled"], row["state"] = g.MANUAL, int(row["filled"]), g.MANUAL
                    self.ledger.legs.touch(leg)
            self._settle(hedge, now_ns, HedgeReason.manual)
        else:
            held = word.action == "HOLD"
            if word.instrument is None:
                row = self.ledger.books.arrays.rows[book.row]
                if not _newer(row, message):
                    return Reason.none
                row["flags"] = int(row["flags"]) | g.B_HELD if held else int(row["flags"]) & ~g.B_HELD
                self.ledger.books.touch(book.row)
            else:
                at = self._position(book, word.instrument)
                row = self.ledger.positions.arrays.rows[at]
                if not _newer(row, message):
                    return Reason.none
                row["flags"] = int(row["flags"]) | g.P_HELD if held else int(row["flags"]) & ~g.P_HELD
                self.ledger.positions.touch(at)
        self._audit_note(book, now_ns, HedgeReason.desk, word.operator, f"{word.action}: {word.justification}"[:256], hedge)
        self._trigger(book, HedgeReason.desk, now_ns)
        return None

    def _request(self, message: CoverMessage, now_ns: int) -> Reason | None:
        """Take a hedge somebody else asks for: it makes the hedger look, and the answer is its own decision."""
        self._trigger(self._book_named(message.payload.book), HedgeReason.request, now_ns)
        return None

    # ---- books and positions -----------------------------------------------------------------------------------------

    def _lane_of(self, book: str) -> int:
        data = np.frombuffer(book.encode(), np.uint8)
        return int(partition_of(data, 0, len(data), self.n_lanes))

    def _book_named(self, name: str) -> _Book:
        book = self._books.get(name)
        if book is None:
            hi, lo = _hash(name)
            at = self.ledger.books.find(hi, lo)
            if at < 0:
                at = self.ledger.books.insert(hi, lo)
                row = self.ledger.books.arrays.rows[at]
                row["head"] = -1
                text = name.encode()
                row["name_len"] = len(text)
                row["name"][: len(text)] = np.frombuffer(text, np.uint8)
            book = self._book_of(at)
        return book

    def _book_of(self, row: int) -> _Book:
        book = self._by_row.get(row)
        if book is None:
            book = _Book(row, _text(self.ledger.books.arrays.rows[row], "name"))
            self._books[book.name] = self._by_row[row] = book
        self._sync(book)
        return book

    def _sync(self, book: _Book) -> None:
        """Learn the positions a kernel has put on the book's list since."""
        head = int(self.ledger.books.arrays.rows[book.row]["head"])
        at, rows = head, self.ledger.positions.arrays.rows
        while at >= 0 and at != book.head:
            book.positions[_text(rows[at], "symbol")] = at
            at = int(rows[at]["next"])
        book.head = head

    def _position(self, book: _Book, symbol: str) -> int:
        """Return the row of a book's symbol, made if it is not there; one the reference data do not know has series −1 and never a quantity."""
        at = book.positions.get(symbol, -1)
        if at < 0:
            self._sync(book)  # a fill may have made it since
            at = book.positions.get(symbol, -1)
        if at >= 0:
            return at
        owner = self.ledger.books.arrays.rows[book.row]
        hi, lo = position_key(owner["khi"], owner["klo"], *(np.uint64(x) for x in _hash(symbol)))
        at = self.ledger.positions.insert(int(hi), int(lo))
        row = self.ledger.positions.arrays.rows[at]
        text = symbol.encode()
        series = self._series.get(symbol, -1)
        row["book"], row["series"], row["qty_scale"] = book.row, series, self._scale[series] if series >= 0 else 0
        row["symbol_len"] = len(text)
        row["symbol"][: len(text)] = np.frombuffer(text, np.uint8)
        owner = self.ledger.books.arrays.rows[book.row]
        row["next"] = owner["head"]
        owner["head"] = at
        self.ledger.books.touch(book.row)
        self._sync(book)
        return at

    def _trigger(self, book: _Book, reason: HedgeReason, now_ns: int) -> None:
        row = self.ledger.books.arrays.rows[book.row]
        triggers = int(row["triggers"])
        if triggers & _BITS[reason]:
            return
        if not triggers:
            row["first_ns"] = now_ns
        row["triggers"] = triggers | _BITS[reason]
        self.ledger.books.touch(book.row)

    # ---- looking again -----------------------------------------------------------------------------------------------

    def _look_again(self, now_ns: int) -> None:
        """Take nothing of the outside for known: decide for every book, drop what was queued, begin the figures' clock anew."""
        self._again = False
        for book in self._books.values():
            book.seen, book.minute = (), -1
            self._drop_stored(book, now_ns)
            self._trigger(book, HedgeReason.restart, now_ns)

    def _drop_stored(self, book: _Book, now_ns: int) -> None:
        """End what is queued: it is never sent as stored, whatever is needed now is decided afresh."""
        for hedge in [at for at in book.hedges if int(self.ledger.hedges.arrays.rows[at]["state"]) == g.QUEUED]:
            self._close(hedge, g.SUPERSEDED, now_ns, HedgeReason.superseded)

    def _watch(self, book: _Book, now_ns: int) -> None:
        """Do for one book what its clocks and changes outside ask for."""
        self._sync(book)
        self._look_outside(book, now_ns)
        self._ask_about(book, now_ns)
        self._keep_minutes(book, now_ns)

    def _to_decide(self, visited: list[_Book], now_ns: int) -> list[_Book]:
        """Return the books that decide in this tick: all for which something pressing happened, then others that have rested, as many as a tick takes."""
        rows = self.ledger.books.arrays.rows
        pressing, due = [], []
        for book in visited:
            row = rows[book.row]
            triggers, decided_ns = int(row["triggers"]), int(row["decided_ns"])
            if triggers & _PRESSING:
                pressing.append(book)
            elif triggers or 0 < int(row["retry_ns"]) <= now_ns:
                if now_ns >= max(decided_ns + self.times.interval_ns, int(row["idle_ns"]), int(row["rest_ns"])):
                    patient = triggers and not triggers & ~_PATIENT
                    due.append((decided_ns + (PATIENCE_NS if patient else 0), book.row))
        due.sort()
        return pressing + [self._by_row[row] for _, row in due[:DECISIONS_A_TICK]]

    def _look_outside(self, book: _Book, now_ns: int) -> None:
        """Turn changes of what every worker reads whole into triggers of the book."""
        market = self.market
        risk, policy, universe = market.risk(book.name), market.policy(book.name), market.universe(book.name)
        seen = (
            -1 if risk is None else risk.seq,
            -1 if policy is None else policy.seq,
            -1 if universe is None else universe.seq,
            market.channel_seq,
            market.halt_seq,
        )
        if seen == book.seen:
            return
        before, book.seen = book.seen, seen
        if not before:
            return
        causes = (HedgeReason.risk_state, HedgeReason.policy, HedgeReason.universe, HedgeReason.channel, HedgeReason.halt)
        for cause, old, new in zip(causes, before, seen, strict=True):
            if old != new:
                self._trigger(book, cause, now_ns)
        if seen[3] != before[3]:
            self._drop_stored(book, now_ns)

    def _ask_about(self, book: _Book, now_ns: int) -> None:
        """Let the clocks of the book's hedges act: no answer, UNKNOWN for long, queued past its time."""
        if not book.hedges:
            return
        for hedge in list(book.hedges):
            row = self.ledger.hedges.arrays.rows[hedge]
            if int(row["state"]) == g.QUEUED:
                if now_ns >= int(row["expires_ns"]):
                    self._close(hedge, g.EXPIRED, now_ns, HedgeReason.expired)
                    self._trigger(book, HedgeReason.hedge_state, now_ns)
                continue
            if now_ns < int(row["query_ns"]):
                continue
            asked = 0
            for leg in life.legs_of(self.ledger, hedge):
                if life.leg_state(self.ledger.legs.arrays.rows[leg]) in g.OPEN:
                    life.unknown(self.ledger, leg)
                    self._question(book, hedge, leg, now_ns)
                    asked += 1
            row["query_ns"] = now_ns + self.times.query_ns
            row["queries"] = int(row["queries"]) + 1
            if int(row["unknown_ns"]) == 0:
                row["unknown_ns"] = now_ns
            long = now_ns - int(row["unknown_ns"]) >= self.times.unknown_ns and not int(row["flags"]) & g.H_ESCALATED
            if asked and long:
                row["flags"] = int(row["flags"]) | g.H_ESCALATED
                self._failed(book, hedge, now_ns)
                self._escalate(
                    book, HedgeReason.unknown_inflight, "CRITICAL", "no answer for two minutes; it still counts as in flight", now_ns, hedge
                )
            self.ledger.hedges.touch(hedge)
            self._settle(hedge, now_ns, HedgeReason.unknown_inflight)

    def _question(self, book: _Book, hedge: int, leg: int, now_ns: int) -> None:
        row = self.ledger.legs.arrays.rows[leg]
        attempt = int(self.ledger.hedges.arrays.rows[hedge]["queries"]) + 1
        order = _uuid(row)
        payload = {
            "hedge_id": str(_uuid(self.ledger.hedges.arrays.rows[hedge])),
            "order_id": str(order),
            "book": book.name,
            "instrument": _text(self.ledger.positions.arrays.rows[int(row["position"])], "symbol"),
            "action": "QUERY",
            "attempt": attempt,
            "asked_ns": now_ns,
        }
        self._out.put("hedger.request.order.v1", book.name.encode(), payload, f"query:{order}:{attempt}", now_ns)

    # ---- HALT --------------------------------------------------------------------------------------------------------

    def _acknowledge_halts(self, now_ns: int) -> None:
        """Drop what waits under a HALT that has taken effect, and say that this lane has stopped."""
        for halt in self.market.halted_by[self._halts_seen :]:
            if halt.effective_ns > now_ns:
                continue
            key = _halves(halt.msg_id)
            if self.ledger.acks.find(*key) >= 0:
                continue
            at = self.ledger.acks.insert(*key)
            self.ledger.acks.arrays.rows[at]["day"] = _day(now_ns)
            self._drop_queued(now_ns)
            text = f"{halt.scope}|{halt.id or ''}"
            payload = {
                "halt_msg_id": halt.msg_id,
                "scope": halt.scope,
                "agent": SENDER,
                "worker": self.worker,
                "lane": self.lane,
                "ack_ns": now_ns,
                "latency_ms": (now_ns - max(halt.effective_ns, halt.received_ns)) / 1e6,
            }
            self._out.put("system.halt.ack.v1", text.encode(), payload, f"ack:{halt.msg_id}:{self.lane}", now_ns)
            self.ledger.scalars[g.S_HALT_ACKS] += 1
        while self._halts_seen < len(self.market.halted_by) and self.market.halted_by[self._halts_seen].effective_ns <= now_ns:
            self._halts_seen += 1

    def _drop_queued(self, now_ns: int) -> None:
        halts = self.market.halts(now_ns)
        for book in self._books.values():
            for hedge in list(book.hedges):
                if int(self.ledger.hedges.arrays.rows[hedge]["state"]) == g.QUEUED and halts.stops_book(book.name):
                    self._close(hedge, g.BLOCKED, now_ns, HedgeReason.halted)

    # ---- decisions ---------------------------------------------------------------------------------------------------

    def _frame(self, book: _Book) -> BookFrame | None:
        """Return the frame of the book's problem, made anew when its universe or the symbols it is exposed in have changed."""
        universe = self.market.universe(book.name)
        if universe is None:
            return None
        rows = self.ledger.positions.arrays.rows
        symbols = tuple(
            sorted(
                symbol
                for symbol, at in book.positions.items()
                if int(rows[at]["exposure"]) or int(rows[at]["flags"]) & (g.P_TARGET | g.P_EXPOSED)
            )
        )
        key = (universe.version, symbols)
        if book.frame is not None and key == book.frame_key:
            return book.frame
        frame = frame_of(universe, symbols, self.reference, self.market)
        for symbol in (*frame.exposures, *frame.instruments):
            self._position(book, symbol)
        for symbol in frame.exposures:
            row = self.ledger.positions.arrays.rows[book.positions[symbol]]
            if not int(row["flags"]) & g.P_EXPOSED:
                row["flags"] = int(row["flags"]) | g.P_EXPOSED
                self.ledger.positions.touch(book.positions[symbol])
        for symbol, at in book.positions.items():
            if symbol not in frame.instrument_index and float(self.ledger.positions.arrays.rows[at]["residual"]):
                self.ledger.positions.arrays.rows[at]["residual"] = 0.0  # no instrument of the problem any more
                self.ledger.positions.touch(at)
        if book.frame is None or book.ratios is None:
            book.ratios = new_ratio_state(frame)
        else:
            book.ratios = carried_over(book.frame, book.ratios, frame)
        self._recall_ratios(book, frame, book.ratios)
        book.frame, book.frame_key = frame, key
        book.exposure_rows = np.array([book.positions[s] for s in frame.exposures], np.int64)
        book.held_rows = np.array([book.positions[s] for s in frame.instruments], np.int64)
        scale = self.ledger.positions.arrays.rows["qty_scale"]
        book.exposure_unit = 10.0 ** -scale[book.exposure_rows].astype(np.float64)
        book.held_unit = 10.0 ** -scale[book.held_rows].astype(np.float64)
        return frame

    def _follow_bars(self, now_ns: int) -> None:
        """After a bar's end: every book looks again; lane 0 keeps the covariances for stores and restarts."""
        market = self.market
        if not market.bars_closed:
            return
        seen = self.ledger.books.rows["bar_ns"]
        for row in np.flatnonzero((seen != 0) & (seen != market.bar_end_ns)).tolist():
            self._trigger(self._by_row[row], HedgeReason.bar, now_ns)
        scalars = self.ledger.scalars
        due = market.bar_end_ns - int(scalars[g.S_MATRIX_BAR]) >= market.rules.snapshot_bars * market.rules.bar_ns
        if self.lane == 0 and due:
            scalars[g.S_MATRIX_BAR] = market.bar_end_ns
            for key, value in market.matrix_records():
                self._out.pass_on("hedge.state.matrix.v1", key, value)

    def _view(self, book: _Book, frame: BookFrame, policy_hash: str, now_ns: int) -> BookView:
        assert book.ratios is not None
        rows = self.ledger.positions.arrays.rows
        mine = self.ledger.books.arrays.rows[book.row]
        exposed, held = rows.take(book.exposure_rows), rows.take(book.held_rows)  # whole rows, not field by field
        ttl = exposed["target_ttl_ns"]
        known = (exposed["flags"] & g.P_TARGET) != 0
        today = held["traded_day"] == now_ns // DAY_NS
        flight, unknown, versions = self._in_flight(book, frame)
        policy = self.market.policy(book.name)
        unwound = {}
        for one in [] if policy is None else policy.payload.unwind:
            at = self.ledger.unwinds.find(*_hash(f"{book.name}\x1f{one.id}"))
            if at >= 0:
                unwound[one.id] = float(self.ledger.unwinds.arrays.rows[at]["sent"])
        return BookView(
            book=book.name,
            frame=frame,
            exposure_qty=exposed["exposure"] * book.exposure_unit,
            target=np.where(known, exposed["target"], 0.0),
            target_known=known,
            target_stale=known & (ttl > 0) & (exposed["target_ns"] + ttl < now_ns),
            held_qty=held["hedge"] * book.held_unit,
            flight_qty=flight,
            traded_today=np.where(today, held["traded"], 0.0),
            ratios=book.ratios,
            exposure_version=self._version(book, frame.version, policy_hash),
            open_versions=versions,
            unknown=unknown,
            last_send_ns=held["sent_ns"].copy(),
            held_by_desk=bool(int(mine["flags"]) & g.B_HELD),
            desk_held=(held["flags"] & g.P_HELD) != 0,
            residual_since_ns=int(mine["gap_ns"]),
            start=held["start"].copy(),
            unwound=unwound,
            allocation_ts_ns=int(exposed["target_ns"][known].min(initial=np.iinfo(np.int64).max)) if known.any() else 0,
        )

    def _in_flight(self, book: _Book, frame: BookFrame) -> tuple[Any, Any, set[str]]:
        """Return (signed units in flight, which legs are UNKNOWN, exposure versions of hedges sent and not ended), per instrument of the frame."""
        flight, unknown = np.zeros(len(frame.instruments)), np.zeros(len(frame.instruments), np.bool_)
        versions = set()
        place = {int(at): j for j, at in enumerate(book.held_rows.tolist())}
        for hedge in book.hedges:
            row = self.ledger.hedges.arrays.rows[hedge]
            if int(row["state"]) not in g.OPEN:
                continue
            versions.add(f"{int(row['version_hi']):016x}{int(row['version_lo']):016x}")
            for leg in life.legs_of(self.ledger, hedge):
                one = self.ledger.legs.arrays.rows[leg]
                j = place.get(int(one["position"]), -1)
                left = life.remaining(one)
                if j >= 0 and left:  # an instrument that left the universe is no leg of the problem any more
                    flight[j] += int(one["side"]) * left * book.held_unit[j]
                    unknown[j] |= int(one["state"]) == g.UNKNOWN
        return flight, unknown, versions

    def _version(self, book: _Book, universe: str, policy_hash: str) -> str:
        """Return the exposure version, 32 hex digits: equal for equal fills, targets, universe and policy, in whatever order they came."""
        rows = self.ledger.positions.arrays.rows
        mine = self.ledger.books.arrays.rows[book.row]
        targets = [
            f"{symbol}={float(rows[at]['target'])!r}"
            for symbol, at in sorted(book.positions.items())
            if int(rows[at]["flags"]) & g.P_TARGET
        ]
        text = f"{book.name}|{int(mine['set_hi']):x}.{int(mine['set_lo']):x}|{';'.join(targets)}|{universe}|{policy_hash}"
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def _decide(self, book: _Book, now_ns: int) -> None:
        row = self.ledger.books.arrays.rows[book.row]
        triggers, first_ns = int(row["triggers"]), int(row["first_ns"])
        row["triggers"], row["decided_ns"], row["retry_ns"] = 0, now_ns, 0
        self.ledger.books.touch(book.row)
        names = [reason.name for reason in _TRIGGERS if triggers & _BITS[reason]] or [HedgeReason.timer.name]
        frame = self._frame(book)
        if frame is None:
            if int(row["bar_ns"]):
                row["bar_ns"] = self.market.bar_end_ns  # nothing is learnt from it, but it was looked at
            rows = self.ledger.positions.arrays.rows
            if any(int(rows[at]["exposure"]) or int(rows[at]["flags"]) & g.P_TARGET for at in book.positions.values()):
                self._audit_missing(book, names, now_ns)
                self._escalate_once(
                    book, HedgeReason.universe_missing, "CRITICAL", "no universe says what this book may hedge with", now_ns
                )
                self.ledger.books.arrays.rows[book.row]["idle_ns"] = now_ns + self.times.idle_ns
            return
        assert book.ratios is not None
        if book.ratios.bars != self.market.bars_closed:
            for one in update_ratios(frame, book.ratios, self.market, self.rules):
                self._tell_breakdown(book, one, now_ns)
            self._keep_ratios(book, frame, book.ratios, now_ns)
        policy = self.market.policy(book.name)
        view = self._view(book, frame, "" if policy is None else policy.payload.policy_hash, now_ns)
        decision = decide(view, self.market, now_ns, self.rules)
        self.ledger.scalars[g.S_DECISIONS] += 1
        self._keep_residual(book, residual_of(decision, frame))
        self._account(book, decision, now_ns)
        hedge, ratios = -1, ratios_of(decision, frame, view, self.market)
        if decision.outcome == "sent":
            self._drop_stored(book, now_ns)
            hedge = self._send(book, frame, view, decision, ratios, first_ns or now_ns, now_ns)
        elif HedgeReason.channel_queued in decision.reasons and decision.legs:
            hedge = self._queue(book, frame, view, decision, now_ns)
        self._audit(book, frame, view, decision, ratios, names, hedge, now_ns)
        for alert in decision.escalations:
            self._escalate_once(book, alert.reason, alert.severity, alert.detail, now_ns, decision, frame)
        start = np.zeros(len(frame.instruments)) if decision.outcome == "sent" else decision.start
        for j in np.flatnonzero(start != view.start).tolist():
            at = int(book.held_rows[j])
            self.ledger.positions.arrays.rows[at]["start"] = start[j]
            self.ledger.positions.touch(at)
        row = self.ledger.books.arrays.rows[book.row]
        if HedgeReason.cooldown in decision.reasons or (decision.leg_reasons == HedgeReason.cooldown).any():
            waiting = view.last_send_ns[view.last_send_ns > 0]
            row["retry_ns"] = int(waiting.max(initial=now_ns)) + self.rules.cooldown_ns
        idle = decision.reasons[0] in (HedgeReason.halted, HedgeReason.held_by_desk, HedgeReason.policy_missing)
        row["idle_ns"] = now_ns + self.times.idle_ns if idle else 0
        self.ledger.books.touch(book.row)

    def _keep_residual(self, book: _Book, residual: dict[str, float]) -> None:
        """Write what is open by instrument of the frame into the ledger."""
        assert book.frame is not None
        rows = self.ledger.positions.arrays.rows
        for symbol, at in zip(book.frame.instruments, book.held_rows.tolist(), strict=True):
            now = residual.get(symbol, 0.0)
            if float(rows[at]["residual"]) != now:
                rows[at]["residual"] = now
                self.ledger.positions.touch(at)

    def _residual(self, book: _Book) -> dict[str, float]:
        """Return what was open by instrument at the last decision; nothing of what was not."""
        rows = self.ledger.positions.arrays.rows
        names = book.positions if book.frame is None else book.frame.instruments
        return {name: float(rows[book.positions[name]]["residual"]) for name in sorted(names) if rows[book.positions[name]]["residual"]}

    def _account(self, book: _Book, decision: Decision, now_ns: int) -> None:
        """Keep the coverage a decision measured: over time, and as an episode that begins under the target and ends above it."""
        self._pass_time(book, now_ns)
        row = self.ledger.books.arrays.rows[book.row]
        row["exposure_notional"], row["needed"] = _finite(decision.exposure_notional), _finite(decision.needed_risk)
        row["bound_r2"], row["effectiveness"], row["coverage"] = decision.bound_r2, decision.effectiveness, decision.coverage
        row["expected"] = decision.coverage_expected
        flags = int(row["flags"]) & ~(g.B_KNOWN | g.B_COVERED)
        coverage, gap = decision.coverage, int(row["gap_ns"])
        if decision.needed_risk > max(decision.dust_risk, 0.0) and not np.isnan(coverage):
            flags |= g.B_KNOWN
            if coverage >= self.rules.coverage_target:
                flags |= g.B_COVERED
        row["flags"] = flags
        short = bool(flags & g.B_KNOWN) and not flags & g.B_COVERED
        minute = self._minute(book, now_ns)
        if short and not gap:
            row["gap_ns"] = now_ns
            self.ledger.minutes.arrays.rows[minute]["episodes"] += 1
        elif not short and gap and not np.isnan(decision.needed_risk):
            took_s = (now_ns - gap) / 1e9
            figures = self.ledger.minutes.arrays.rows[minute]
            figures["completion"][kpi.bucket(kpi.COMPLETION_S, took_s)] += 1
            if took_s * 1e9 <= self.times.completion_ns:
                figures["met"] += 1
            row["gap_ns"], row["escalated"] = 0, 0
        elif short:
            waited = now_ns - gap
            if waited >= self.times.completion_ns:
                self._escalate_once(
                    book, HedgeReason.completion_late, "WARN", f"coverage {coverage:.1%} after two minutes", now_ns, decision
                )
            if waited >= self.times.gap_ns:
                self._escalate_once(
                    book, HedgeReason.coverage_gap, "CRITICAL", "hedger-coverage-gap: under 95 % for five minutes", now_ns, decision
                )
        self.ledger.books.touch(book.row)
        self.ledger.minutes.touch(minute)

    def _send(
        self, book: _Book, frame: BookFrame, view: BookView, decision: Decision, ratios: list[dict[str, Any]], first_ns: int, now_ns: int
    ) -> int:
        hedge, identity, attempt = self._remember(book, frame, view, decision, g.SENT, first_ns, now_ns)
        policy = self.market.policy(book.name)
        payload = {
            "hedge_id": str(identity),
            "book": book.name,
            "legs": [self._leg_payload(identity, frame, one) for one in decision.legs],
            "expires_ns": now_ns + self.times.expires_ns,
            "reduce_only": decision.reduce_only,
            "ratio_source": decision.ratio_source or "prior",
            "ratios": [{"exposure": r["exposure"], "instrument": r["instrument"], "h": r["used"], "se": r["se"]} for r in ratios],
            "expected": {
                "variance_reduction": _finite(decision.expected["variance_reduction"]),
                "cost_bps": _finite(decision.expected["cost_bps"]),
                "coverage_before": _none(decision.expected["coverage_before"]),
                "coverage_after": _none(decision.expected["coverage_after"]),
            },
            "policy_hash": None if policy is None else policy.payload.policy_hash,
            "decision_ts_ns": now_ns,
            "exposure_version": view.exposure_version,
            "attempt": attempt,
            "unwind_id": decision.unwind_id,
        }
        self._out.put("hedger.intent.cover", book.name.encode(), payload, f"cover:{identity}", now_ns, correlation=str(identity))
        minute = self._minute(book, now_ns)
        figures = self.ledger.minutes.arrays.rows[minute]
        figures["sent"] += 1
        figures["latency"][kpi.bucket(kpi.LATENCY_MS, max(now_ns - first_ns, 0) / 1e6)] += 1
        for one in decision.legs:
            at = int(book.held_rows[one.instrument])
            position = self.ledger.positions.arrays.rows[at]
            if int(position["traded_day"]) != now_ns // DAY_NS:
                position["traded"], position["traded_day"] = 0.0, now_ns // DAY_NS
            position["traded"] += one.notional
            position["sent_ns"] = now_ns
            self.ledger.positions.touch(at)
        self.ledger.minutes.touch(minute)
        if decision.unwind_id is not None:
            key = _hash(f"{book.name}\x1f{decision.unwind_id}")
            at = self.ledger.unwinds.find(*key)
            if at < 0:
                at = self.ledger.unwinds.insert(*key)
            one = self.ledger.unwinds.arrays.rows[at]
            one["sent"] += sum(leg.notional for leg in decision.legs)
            one["day"] = _day(now_ns)
            self.ledger.unwinds.touch(at)
        self.ledger.scalars[g.S_SENT] += 1
        self._tell(hedge, now_ns, [HedgeReason.hedge_sent])
        return hedge

    def _queue(self, book: _Book, frame: BookFrame, view: BookView, decision: Decision, now_ns: int) -> int:
        """Remember what would have been sent: it holds the book's slot and is looked at afresh when the channel is back."""
        queued = [at for at in book.hedges if int(self.ledger.hedges.arrays.rows[at]["state"]) == g.QUEUED]
        if queued:
            return queued[0]
        hedge, _, _ = self._remember(book, frame, view, decision, g.QUEUED, now_ns, now_ns)
        self.ledger.scalars[g.S_QUEUED] += 1
        self._tell(hedge, now_ns, [HedgeReason.channel_queued])
        self._escalate_once(
            book,
            HedgeReason.channel_queued,
            "WARN",
            "no order channel is open for what is needed; decided afresh when one is",
            now_ns,
            decision,
            frame,
        )
        return hedge

    def _remember(
        self, book: _Book, frame: BookFrame, view: BookView, decision: Decision, state: int, first_ns: int, now_ns: int
    ) -> tuple[int, uuid.UUID, int]:
        """Write a hedge and its legs into the ledger; return (row, hedge_id, attempt)."""
        hedges, legs = self.ledger.hedges, self.ledger.legs
        attempt = int(self.ledger.books.arrays.rows[book.row]["attempts"])
        while True:
            identity = hedge_id(book.name, view.exposure_version, attempt)
            if hedges.find(*_halves(str(identity))) < 0:
                break
            attempt += 1
        hedge = hedges.insert(*_halves(str(identity)))
        head = -1
        for one in reversed(decision.legs):
            at = int(book.held_rows[one.instrument])
            scale = int(self.ledger.positions.arrays.rows[at]["qty_scale"])
            leg = legs.insert(*_halves(str(order_id(identity, frame.instruments[one.instrument]))))
            row = legs.arrays.rows[leg]
            row["size"] = round(one.qty * 10**scale)
            row["notional"], row["mid"], row["side"] = one.notional, one.mid, 1 if one.side == "BUY" else -1
            row["hedge"], row["position"], row["next"], row["state"] = hedge, at, head, state
            head = leg
        row = hedges.arrays.rows[hedge]
        row["version_hi"], row["version_lo"] = int(view.exposure_version[:16], 16), int(view.exposure_version[16:], 16)
        row["decided_ns"], row["trigger_ns"], row["changed_ns"] = now_ns, first_ns, now_ns
        row["expires_ns"], row["query_ns"] = now_ns + self.times.expires_ns, now_ns + 2 * self.times.ack_ns
        row["coverage"] = decision.coverage
        row["book"], row["head"], row["attempt"], row["state"], row["day"] = book.row, head, attempt, state, _day(now_ns)
        row["flags"] = (g.H_REDUCE_ONLY if decision.reduce_only else 0) | (g.H_UNWIND if decision.unwind_id else 0)
        book.hedges[hedge] = None
        return hedge, identity, attempt

    def _leg_payload(self, identity: uuid.UUID, frame: BookFrame, leg: Leg) -> dict[str, Any]:
        symbol = frame.instruments[leg.instrument]
        instrument = self.reference.instruments[self._series[symbol]]
        return {
            "order_id": str(order_id(identity, symbol)),
            "instrument": symbol,
            "venue": frame.venues[leg.instrument],
            "side": leg.side,
            "size": _decimal(round(leg.qty * 10**instrument.qty_scale), instrument.qty_scale),
            "notional": leg.notional,
            "mid": _shortest(leg.mid),
            "limit_px": None if leg.limit_px is None else format(leg.limit_px, "f"),
            "time_in_force": "IOC" if leg.limit_px is not None else "DAY",
        }

    # ---- a hedge's life ----------------------------------------------------------------------------------------------

    def _settle(self, hedge: int, now_ns: int, cause: HedgeReason, detail: str = "") -> None:
        """Bring a hedge to the state its legs are in, tell of it when it changed or a fill came, and let the book look again."""
        before, state = life.settle(self.ledger, hedge)
        row = self.ledger.hedges.arrays.rows[hedge]
        book = self._by_row[int(row["book"])]
        ended = state not in g.OPEN and state != g.QUEUED
        reasons = [cause]
        if ended and hedge in book.hedges:
            del book.hedges[hedge]
            self._count_end(book, hedge, now_ns)
            self._rest(book, state, life.share_filled(self.ledger, hedge), now_ns)
        elif cause is HedgeReason.fill and before not in g.OPEN:
            reasons.append(HedgeReason.late_fill)
        if state not in (g.UNKNOWN, g.SENT) and not ended:
            row["query_ns"] = max(int(row["expires_ns"]) + 2 * self.times.ack_ns, now_ns + self.times.query_ns)
            if not life.awaited(self.ledger, hedge):
                row["unknown_ns"] = 0  # else answers come, but not the fills they speak of: that is to be told, too
            self.ledger.hedges.touch(hedge)
        if before != state or cause is HedgeReason.fill:
            row["changed_ns"] = now_ns
            self.ledger.hedges.touch(hedge)
            told, words = book.untold.setdefault(hedge, ({}, ""))
            told.update(dict.fromkeys(reasons))
            book.untold[hedge] = (told, detail or words)
        self._trigger(book, HedgeReason.hedge_state, now_ns)

    def _rest(self, book: _Book, state: int, filled: float, now_ns: int) -> None:
        """Let a book rest after a refusal, longer each time in a row: whoever refuses because there is too much gets less of it."""
        row = self.ledger.books.arrays.rows[book.row]
        if state in (g.REFUSED, g.EXPIRED) and filled == 0.0:
            rest_ns = min(self.times.rest_ns << min(int(row["refusals"]), 32), self.times.rest_most_ns)
            row["refusals"], row["rest_ns"] = int(row["refusals"]) + 1, now_ns + rest_ns
        else:
            row["refusals"], row["rest_ns"] = 0, 0
        self.ledger.books.touch(book.row)

    def _close(self, hedge: int, state: int, now_ns: int, reason: HedgeReason) -> None:
        """End a hedge that was never sent."""
        row = self.ledger.hedges.arrays.rows[hedge]
        row["state"], row["changed_ns"] = state, now_ns
        self.ledger.hedges.touch(hedge)
        for leg in life.legs_of(self.ledger, hedge):
            self.ledger.legs.arrays.rows[leg]["state"] = state
            self.ledger.legs.touch(leg)
        book = self._by_row[int(row["book"])]
        book.hedges.pop(hedge, None)
        if state == g.BLOCKED:
            self.ledger.scalars[g.S_BLOCKED] += 1
        self._tell(hedge, now_ns, [reason])

    def _count_end(self, book: _Book, hedge: int, now_ns: int) -> None:
        minute = self._minute(book, now_ns)
        self.ledger.minutes.arrays.rows[minute]["ended"] += 1
        self.ledger.minutes.touch(minute)
        self.ledger.scalars[g.S_ENDED] += 1
        if life.failed(self.ledger, hedge):
            self._failed(book, hedge, now_ns)

    def _failed(self, book: _Book, hedge: int, now_ns: int) -> None:
        row = self.ledger.hedges.arrays.rows[hedge]
        if int(row["flags"]) & g.H_COUNTED:
            return
        row["flags"] = int(row["flags"]) | g.H_COUNTED
        self.ledger.hedges.touch(hedge)
        minute = self._minute(book, now_ns)
        self.ledger.minutes.arrays.rows[minute]["failed"] += 1
        self.ledger.minutes.touch(minute)
        self.ledger.scalars[g.S_FAILED] += 1

    def _tell(self, hedge: int, now_ns: int, reasons: list[HedgeReason], detail: str = "") -> None:
        """Publish the state of a hedge; what its fills cost since it was last told goes into the figures."""
        row = self.ledger.hedges.arrays.rows[hedge]
        book = self._by_row[int(row["book"])]
        mine = self.ledger.books.arrays.rows[book.row]
        positions = self.ledger.positions.arrays.rows
        legs, costs, weights = [], 0.0, 0.0
        for at in life.legs_of(self.ledger, hedge):
            leg = self.ledger.legs.arrays.rows[at]
            position = positions[int(leg["position"])]
            scale = int(position["qty_scale"])
            filled, size = max(int(leg["filled"]), 0), int(leg["size"])
            notional = float(leg["notional"]) * filled / size if size else 0.0
            bps = life.slippage_bps(leg)
            if bps is not None:
                costs, weights = costs + bps * notional, weights + notional
            legs.append(
                {
                    "order_id": str(_uuid(leg)),
                    "instrument": _text(position, "symbol"),
                    "side": SIDES[int(leg["side"])],
                    "state": g.STATES[life.leg_state(leg) if int(row["state"]) in g.OPEN else int(leg["state"])],
                    "size": _decimal(size, scale),
                    "filled_size": _decimal(filled, scale),
                    "filled_notional": notional,
                    "slippage_bps": bps,
                }
            )
        state = int(row["state"])
        if HedgeReason.fill in reasons or (state not in g.OPEN and weights):
            self._count_fills(book, hedge, costs, weights, now_ns)
        identity = _uuid(row)
        payload = {
            "hedge_id": str(identity),
            "book": book.name,
            "state": g.STATES[state],
            "legs": legs,
            "slippage_bps": costs / weights if weights else None,
            "coverage": _none(mine["coverage"]) if int(mine["flags"]) & g.B_KNOWN else None,
            "coverage_expected": _none(mine["expected"]),
            "residual": self._residual(book),
            "effectiveness": _none(mine["effectiveness"]),
            "bound_r2": _none(mine["bound_r2"]),
            "completion_ms": (now_ns - int(row["trigger_ns"])) / 1e6 if state == g.FILLED else None,
            "annotations": [reason.name for reason in reasons] + ([detail[:64]] if detail else []),
        }
        filled_all = sum(int(self.ledger.legs.arrays.rows[at]["filled"]) for at in life.legs_of(self.ledger, hedge))
        self._out.put(
            "hedger.event.cover", book.name.encode(), payload, f"event:{identity}:{g.STATES[state]}:{filled_all}:{now_ns}", now_ns
        )

    def _count_fills(self, book: _Book, hedge: int, costs: float, weights: float, now_ns: int) -> None:
        """Add to the minute what the hedge's fills are worth and cost beyond what was counted before."""
        row = self.ledger.hedges.arrays.rows[hedge]
        minute = self._minute(book, now_ns)
        figures = self.ledger.minutes.arrays.rows[minute]
        figures["hedged"] += max(weights - float(row["told_notional"]), 0.0)
        figures["slippage"] += costs - float(row["told_cost"])
        row["told_cost"], row["told_notional"] = costs, weights
        self.ledger.hedges.touch(hedge)
        self.ledger.minutes.touch(minute)

    # ---- figures by the minute ---------------------------------------------------------------------------------------

    def _minute(self, book: _Book, now_ns: int) -> int:
        """Return the row of a book's minute, made if it is not there."""
        minute = now_ns // kpi.MINUTE_NS
        owner = self.ledger.books.arrays.rows[book.row]
        key = int(owner["khi"]) ^ (minute * 0x9E3779B97F4A7C15 % 2**64), int(owner["klo"])
        at = self.ledger.minutes.find(*key)
        if at < 0:
            at = self.ledger.minutes.insert(*key)
            row = self.ledger.minutes.arrays.rows[at]
            row["minute"], row["book"] = minute, book.row
        return at

    def _pass_time(self, book: _Book, now_ns: int) -> None:
        """Count the time since the last decision with the coverage that one measured."""
        row = self.ledger.books.arrays.rows[book.row]
        since, flags = int(row["since_ns"]), int(row["flags"])
        row["since_ns"] = now_ns
        self.ledger.books.touch(book.row)
        if not since or book.minute < 0 or not flags & g.B_KNOWN or now_ns <= since:
            return
        passed_s = (now_ns - since) / 1e9
        at = self._minute(book, now_ns)
        figures = self.ledger.minutes.arrays.rows[at]
        figures["known_s"] += passed_s
        figures["coverage_s"] += passed_s * float(row["coverage"])
        if flags & g.B_COVERED:
            figures["covered_s"] += passed_s
        self.ledger.minutes.touch(at)

    def _keep_minutes(self, book: _Book, now_ns: int) -> None:
        """At the turn of a minute publish the book's figures over each window."""
        minute = now_ns // kpi.MINUTE_NS
        if minute == book.minute:
            return
        first, book.minute = book.minute < 0, minute
        if first:
            self.ledger.books.arrays.rows[book.row]["since_ns"] = now_ns  # what was while nobody ran is not known
            self.ledger.books.touch(book.row)
            return
        self._pass_time(book, now_ns)
        self._count_moves(book, now_ns)
        mine = self.ledger.books.arrays.rows[book.row]
        rows = self.ledger.minutes.rows
        own = rows[(rows["live"] == 1) & (rows["book"] == book.row)]
        for window_s in kpi.WINDOWS_S:
            part = own[(own["minute"] > minute - window_s // 60 - 1) & (own["minute"] < minute)]
            payload = {
                "book": book.name,
                "window_s": window_s,
                "to_ns": minute * kpi.MINUTE_NS,
                "exposure_notional": _finite(mine["exposure_notional"]),
                "needed_risk": _finite(mine["needed"]),
                "coverage": _none(mine["coverage"]),
                "bound_r2": _none(mine["bound_r2"]),
                "effectiveness": _none(mine["effectiveness"]),
                "coverage_gap": bool(int(mine["gap_ns"]) and now_ns - int(mine["gap_ns"]) >= self.times.gap_ns),
                **kpi.summed(part),
            }
            self._out.put("hedger.metric.book.v1", book.name.encode(), payload, f"metric:{book.name}:{window_s}:{minute}", now_ns)
        for at in np.flatnonzero((rows["live"] == 1) & (rows["book"] == book.row) & (rows["minute"] < minute - kpi.KEEP_MINUTES)).tolist():
            self.ledger.minutes.remove(at)

    def _count_moves(self, book: _Book, now_ns: int) -> None:
        """Turn what exposures moved, in units, into notional at the mids of the minute's end."""
        frame = self._frame(book)
        if frame is None or not len(book.exposure_rows):
            return
        rows = self.ledger.positions.arrays.rows
        moved = rows["moved"][book.exposure_rows]
        if not moved.any():
            return
        worth = moved * np.abs(exposure_units(frame, self.market, now_ns))
        rows["moved"][book.exposure_rows] = 0.0
        for at in book.exposure_rows.tolist():
            self.ledger.positions.touch(at)
        minute = self._minute(book, now_ns - kpi.MINUTE_NS)
        self.ledger.minutes.arrays.rows[minute]["moved"] += float(np.nansum(worth))
        self.ledger.minutes.touch(minute)

    # ---- ratios ------------------------------------------------------------------------------------------------------

    def _recall_ratios(self, book: _Book, frame: BookFrame, ratios: RatioState) -> None:
        """Take ratios that are not in use, and what is known of their correlations, from the ledger.

        They are where they were, not where the newest estimate would put them, and do not move twice in a bar.
        """
        table = self.ledger.ratios
        if not len(table):
            return
        bar_ns = int(self.ledger.books.arrays.rows[book.row]["bar_ns"])
        for pair, (i, j) in enumerate(watched(frame)):
            at = table.find(*_ratio_key(book.name, frame.exposures[i], frame.instruments[j]))
            if at < 0 or not np.isnan(ratios.used[j, i]) or ratios.moved_ns[j, i]:
                continue
            row = table.arrays.rows[at]
            ratios.used[j, i], ratios.moved_ns[j, i] = float(row["used"]), bar_ns
            watch = ratios.watch
            watch.run[pair, CORRELATION], watch.calm[pair, CORRELATION] = int(row["run"]), int(row["calm"])
            watch.active[pair, CORRELATION] = ratios.broken[j, i] = bool(row["broken"])

    def _keep_ratios(self, book: _Book, frame: BookFrame, ratios: RatioState, now_ns: int) -> None:
        """Write what moved of the ratios and their correlations into the ledger, and publish the book's ratios once in a while."""
        table = self.ledger.ratios
        watch = ratios.watch
        for pair, (i, j) in enumerate(watched(frame)):
            used, broken, run = float(ratios.used[j, i]), bool(watch.active[pair, CORRELATION]), int(watch.run[pair, CORRELATION])
            calm = int(watch.calm[pair, CORRELATION]) if broken else 0  # before, it is begun anew at the break
            key = _ratio_key(book.name, frame.exposures[i], frame.instruments[j])
            at = table.find(*key)
            if at < 0:
                if np.isnan(used) and not broken and not run:
                    continue
                at = table.insert(*key)
                row = table.arrays.rows[at]
                row["book"], row["exposure"], row["instrument"] = book.row, book.exposure_rows[i], book.held_rows[j]
            row = table.arrays.rows[at]
            same = used == float(row["used"]) or (np.isnan(used) and np.isnan(row["used"]))
            if not same or (broken, run, calm) != (bool(row["broken"]), int(row["run"]), int(row["calm"])):
                row["used"], row["broken"], row["run"], row["calm"] = used, broken, run, calm
                table.touch(at)
        market = self.market
        mine = self.ledger.books.arrays.rows[book.row]
        if int(mine["bar_ns"]) == market.bar_end_ns:
            return
        mine["bar_ns"] = market.bar_end_ns
        self.ledger.books.touch(book.row)
        if not market.bar_end_ns or (market.bar_end_ns // market.rules.bar_ns) % market.rules.snapshot_bars:
            return
        rows = []
        for j, i in np.argwhere(ratios.used != 0.0).tolist():
            used = float(ratios.used[j, i])
            if np.isnan(used):
                continue
            direct = frame.direct[i] == j
            rows.append(
                {
                    "exposure": frame.exposures[i],
                    "instrument": frame.instruments[j],
                    "used": used,
                    "shrunk": _none(ratios.b[j, i]),
                    "raw": _none(ratios.raw[j, i]),
                    "se": _none(ratios.se[j, i]),
                    "n_eff": _none(ratios.n_eff[i]),
                    "source": "direct" if direct else "ewma" if ratios.codes[j, i] == ELIGIBLE else "prior",
                    "breakdown": bool(ratios.broken[j, i]),
                }
            )
        payload = {"book": book.name, "bar_end_ns": market.bar_end_ns, "universe_version": frame.version, "ratios": rows}
        self._out.put("hedge.state.ratios.v1", book.name.encode(), payload, f"ratios:{book.name}:{market.bar_end_ns}", now_ns)

    def _tell_breakdown(self, book: _Book, one: Breakdown, now_ns: int) -> None:
        """Tell PolicyGuard that a correlation broke, or is whole again."""
        detail = (
            f"{one.exposure} by {one.instrument}: correlation {one.rho_slow:.2f} {'is' if one.begins else 'was'} {one.rho_fast:.2f} now; "
            f"ratio in use {one.ratio:.3f}, standard error {one.se:.3f}"
        )
        severity = "WARN" if one.begins else "INFO"
        self._escalate(book, HedgeReason.correlation_breakdown, severity, detail, now_ns, about=f"{one.exposure}:{one.instrument}")

    # ---- audit, escalations, dead letters ----------------------------------------------------------------------------

    def _audit(
        self,
        book: _Book,
        frame: BookFrame,
        view: BookView,
        decision: Decision,
        ratios: list[dict[str, Any]],
        triggers: list[str],
        hedge: int,
        now_ns: int,
    ) -> None:
        policy = self.market.policy(book.name)
        outcome = "queued" if HedgeReason.channel_queued in decision.reasons and hedge >= 0 else decision.outcome
        self._put_audit(
            book,
            now_ns,
            {
                "hedge_id": str(_uuid(self.ledger.hedges.arrays.rows[hedge])) if hedge >= 0 else None,
                "triggers": triggers,
                "outcome": outcome,
                "reasons": [reason.name for reason in decision.reasons],
                "state": decision.state,
                "exposure_version": view.exposure_version,
                "policy_hash": None if policy is None else policy.payload.policy_hash,
                "universe_version": frame.version,
                **record_of(decision, frame, view, ratios),
                "inputs_sha256": decision.inputs_sha256,
            },
        )

    def _audit_missing(self, book: _Book, triggers: list[str], now_ns: int) -> None:
        version = self._version(book, "", "")
        body: dict[str, Any] = {
            "triggers": triggers,
            "outcome": "blocked",
            "reasons": [HedgeReason.universe_missing.name],
            "state": "REDUCING",
            "exposure_version": version,
            "ages": {},
            "inputs_sha256": hashlib.sha256(f"{version}|universe_missing".encode()).hexdigest(),
        }
        self._put_audit(book, now_ns, body)

    def _audit_note(self, book: _Book, now_ns: int, reason: HedgeReason, operator: str, text: str, hedge: int) -> None:
        version = self._version(book, "", "")
        body: dict[str, Any] = {
            "hedge_id": str(_uuid(self.ledger.hedges.arrays.rows[hedge])) if hedge >= 0 else None,
            "triggers": [reason.name],
            "outcome": "note",
            "reasons": [HedgeReason.manual.name if hedge >= 0 else reason.name],
            "state": "ACTIVE",
            "exposure_version": version,
            "ages": {},
            "operator": operator,
            "justification": text,
            "inputs_sha256": hashlib.sha256(f"{version}|{operator}|{text}".encode()).hexdigest(),
        }
        self._put_audit(book, now_ns, body)

    def _put_audit(self, book: _Book, now_ns: int, body: dict[str, Any]) -> None:
        scalars = self.ledger.scalars
        seq = int(scalars[g.S_AUDIT_SEQ])
        before = scalars[g.S_AUDIT_HASH : g.S_AUDIT_HASH + 4]
        payload = {
            "lane": self.lane,
            "seq": seq,
            "prev_sha256": before.tobytes().hex(),
            "book": book.name,
            "decision_id": str(uuid.uuid5(NAMESPACE, f"decision:{self.lane}:{seq}:{book.name}")),
            "decision_ts_ns": now_ns,
            **body,
        }
        value = self._out.message("audit.event.hedger", payload, f"audit:{self.lane}:{seq}", now_ns)
        before[:] = np.frombuffer(hashlib.sha256(value).digest(), np.int64)
        scalars[g.S_AUDIT_SEQ] += 1
        scalars[g.S_AUDITS] += 1
        self._out.pass_on("audit.event.hedger", str(self.lane).encode(), value)

    def _escalate_once(
        self,
        book: _Book,
        reason: HedgeReason,
        severity: str,
        detail: str,
        now_ns: int,
        decision: Decision | None = None,
        frame: BookFrame | None = None,
    ) -> None:
        """Escalate, unless the same was told in this episode of missing coverage."""
        row = self.ledger.books.arrays.rows[book.row]
        bit = _TOLD.get(reason, 0)
        if bit and int(row["escalated"]) & bit:
            return
        row["escalated"] = int(row["escalated"]) | bit
        self.ledger.books.touch(book.row)
        self._escalate(book, reason, severity, detail, now_ns, -1, decision, frame)

    def _escalate(
        self,
        book: _Book,
        reason: HedgeReason,
        severity: str,
        detail: str,
        now_ns: int,
        hedge: int = -1,
        decision: Decision | None = None,
        frame: BookFrame | None = None,
        about: str = "",
    ) -> None:
        policy = self.market.policy(book.name)
        identity = str(_uuid(self.ledger.hedges.arrays.rows[hedge])) if hedge >= 0 else None
        used = book.frame if frame is None else frame
        payload = {
            "book": book.name,
            "severity": severity,
            "reason": reason.name,
            "detail": detail[:512],
            "to": ["agent.portfolio", "agent.risk"] + (["desk"] if severity == "CRITICAL" else []),
            "hedge_id": identity,
            "residual": {} if decision is None or used is None else residual_of(decision, used),
            "proposed": []
            if decision is None or used is None
            else [self._leg_payload(uuid.uuid5(NAMESPACE, f"proposed:{book.name}:{now_ns}"), used, one) for one in decision.legs],
            "tried": [] if decision is None else [*decision.tried, *(r.name for r in decision.reasons)],
            "fallback_strategy": None if policy is None else policy.payload.fallback_strategy,
        }
        self._out.put(
            "hedger.event.escalation.v1",
            book.name.encode(),
            payload,
            f"escalation:{book.name}:{reason.name}:{identity}:{about}:{now_ns}",
            now_ns,
        )
        self.ledger.scalars[g.S_ESCALATIONS] += 1

    def _dead(self, reason: Reason, detail: str, chunk: Chunk, i: int, now_ns: int) -> None:
        self._out.bury("dlq.hedger", reason, detail, chunk, i, now_ns)
        scalars = self.ledger.scalars
        scalars[g.S_DLQ] += 1
        scalars[g.S_DEAD + reason] += 1

    def _reroute(self, topic: int, book: str, value: bytes) -> None:
        self._out.pass_on(HEDGER_INPUTS[topic], book.encode(), value)
        self.ledger.scalars[g.S_REROUTED] += 1

    # ---- forgetting --------------------------------------------------------------------------------------------------

    def _evict(self) -> None:
        """Forget a little of what is past its time: fills, and hedges that ended, with their legs; once through each table a day."""
        scalars = self.ledger.scalars
        today = int(scalars[g.S_NEWEST_DAY])
        if int(scalars[g.S_EVICT_DAY]) != today:
            scalars[g.S_EVICT_DAY] = today
            scalars[g.S_EVICTED : g.S_EVICTED + 3] = 0
        before = today - KEEP_DAYS
        for number, table in enumerate((self.ledger.fills, self.ledger.hedges, self.ledger.acks)):
            high, start = table.high, int(scalars[g.S_EVICTED + number])
            if start >= high:
                continue
            rows = table.arrays.rows[start : min(start + EVICT_ROWS, high)]
            scalars[g.S_EVICTED + number] = start + len(rows)
            old = np.flatnonzero((rows["live"] == 1) & (rows["day"] < before - (400 if table is self.ledger.acks else 0)))
            for at in (old + start).tolist():
                if table is self.ledger.hedges:
                    if int(table.arrays.rows[at]["state"]) in g.OPEN:
                        continue
                    for leg in list(life.legs_of(self.ledger, at)):
                        self.ledger.legs.remove(leg)
                    gone = table.arrays.rows[at]
                    owner = self.ledger.books.arrays.rows[int(gone["book"])]
                    if int(owner["attempts"]) <= int(gone["attempt"]):
                        # its id must not be made again: whoever executes hedges knows it as ended
                        owner["attempts"] = int(gone["attempt"]) + 1
                        self.ledger.books.touch(int(gone["book"]))
                table.remove(at)

    # ---- for people and tests ----------------------------------------------------------------------------------------

    def book_state(self, name: str) -> dict[str, Any]:
        """Return a book's positions, targets and hedges: quantities as Decimals, states by name. KeyError for a book nobody has spoken of."""
        book = self._books[name]
        self._sync(book)
        rows = self.ledger.positions.arrays.rows
        positions = {}
        for symbol, at in sorted(book.positions.items()):
            unit = Decimal(1).scaleb(-int(rows[at]["qty_scale"]))
            positions[symbol] = {
                "exposure": int(rows[at]["exposure"]) * unit,
                "hedge": int(rows[at]["hedge"]) * unit,
                "target": float(rows[at]["target"]) if int(rows[at]["flags"]) & g.P_TARGET else None,
            }
        hedges = {}
        table = self.ledger.hedges
        for at in np.flatnonzero((table.rows["live"] == 1) & (table.rows["book"] == book.row)).tolist():
            row = table.arrays.rows[at]
            legs = {}
            for leg in life.legs_of(self.ledger, at):
                one = self.ledger.legs.arrays.rows[leg]
                position = rows[int(one["position"])]
                unit = Decimal(1).scaleb(-int(position["qty_scale"]))
                legs[_text(position, "symbol")] = {
                    "size": int(one["side"]) * int(one["size"]) * unit,
                    "filled": int(one["side"]) * int(one["filled"]) * unit,
                    "remaining": life.remaining(one) * unit if int(row["state"]) in g.OPEN else Decimal(0),
                    "state": g.STATES[life.leg_state(one)],
                }
            hedges[str(_uuid(row))] = {"state": g.STATES[int(row["state"])], "attempt": int(row["attempt"]), "legs": legs}
        return {"positions": positions, "hedges": hedges}


_DETAIL = {
    Reason.instrument_unknown: "the instrument is not in the reference data",
    Reason.precision_exceeds_scale: "a quantity has more decimals than the instrument allows; nothing is ever rounded",
    Reason.field_invalid: "a scaled quantity is 2^62 or more",
    Reason.hedge_unknown: "no hedge of this lane has this id",
    Reason.sender_not_allowed: "the sender may not say this",
}


def hedge_id(book: str, exposure_version: str, attempt: int) -> uuid.UUID:
    """Return the id of a hedge: a function of the book, its exposure version and the attempt, so that a replay makes the same one."""
    return uuid.uuid5(NAMESPACE, f"hedge:{book}:{exposure_version}:{attempt}")


def order_id(hedge: uuid.UUID, instrument: str) -> uuid.UUID:
    """Return the id of the order of one leg; it is also the order's correlation_id."""
    return uuid.uuid5(hedge, instrument)


def _newer(row: Any, message: DeskDecisionMessage) -> bool:
    """Return whether the desk's word is newer than the one a book's or position's row knows, and note it there."""
    said = (message.ts_ns, _first64(message.msg_id))
    if said <= (int(row["desk_ns"]), int(row["desk_order"])):
        return False
    row["desk_ns"], row["desk_order"] = said
    return True


def _ratio_key(book: str, exposure: str, instrument: str) -> tuple[int, int]:
    return _hash(f"{book}\x1f{exposure}\x1f{instrument}")


def _hash(text: str) -> tuple[int, int]:
    data = np.frombuffer(text.encode(), np.uint8)
    high, low = hash128(data, 0, len(data), 0)
    return int(high), int(low)


def _halves(text: str) -> tuple[int, int]:
    number = uuid.UUID(text).int
    return number >> 64, number % 2**64


def _first64(text: str) -> int:
    return uuid.UUID(text).int >> 64


def _uuid(row: Any) -> uuid.UUID:
    return uuid.UUID(int=(int(row["khi"]) << 64) | int(row["klo"]))


def _text(row: Any, name: str) -> str:
    return str(bytes(row[name][: int(row[f"{name}_len"])]).decode())


def _day(now_ns: int) -> int:
    return now_ns // DAY_NS - EPOCH_DAY_2000


def _decimal(scaled: int, scale: int) -> str:
    """Return a scaled integer as a decimal string without trailing zeros."""
    text = format(Decimal(scaled).scaleb(-scale), "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def _shortest(price: float) -> str:
    """Return a price as a decimal string of at most 15 significant digits, in plain notation."""
    return format(Decimal(f"{price:.15g}"), "f")
