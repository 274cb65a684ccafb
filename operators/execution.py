"""The execution flow's logic for one lane: chunks in, records out, state in a ledger. Wiring of the kernels; decides nothing itself.

Rules: docs/reconciliation.md. The hot path is decode (one call a chunk), reconcile (one kernel call a chunk, more only when a report wakes
others), encode (one call an output). Per-record Python runs only for dead letters, records sent to another lane, and operators' decisions.
Reports that wait for a route are decoded before the routes of a batch are taken, and taken by the same kernel call (operators/parking.py).
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np

from operators import context as c
from operators import fold, parking, reconcile
from operators import slots as s
from operators.context import HOLDS, REPORTS, ROUTES
from operators.lane import OnLedger, offsets_after
from operators.memory import Map, Memory
from operators.normalise import DAY_NS, EPOCH_DAY_2000
from operators.outbox import TTL_MS, dead_letter, dead_letter_name, json_of, message
from operators.publish import LEVEL_EXPIRED, QUERIES, audit, wait_counter
from operators.scaled import average
from schemas.chunk import Bytes, Chunk, Ints, Records, join
from schemas.codec import Batch, Decoder, compile_decoder, compile_encoder
from schemas.execution import AliasMessage, AuditMessage, ComplianceAlertMessage, ExecutionReportMessage, FillMessage, HoldDecisionMessage
from schemas.fields import NULL
from schemas.hashing import hex_into, sha256_into
from schemas.jit import bare, njit
from schemas.orders import OrderAckMessage, RouteIntentMessage
from schemas.reasons import Reason
from schemas.reference import Reference
from schemas.registry import EXECUTION_INPUTS
from schemas.words import move
from state import ledger as g
from state.changelog import StateMismatch
from state.ledger import ExecutionLedger
from state.quotes import Quotes

SENDER = "agent.execution"
BATCH = 2048
"""Records reconciled between two reservations of memory."""
EVICT_ROWS = 2048
"""Rows looked at per tick for what is past its horizon."""
KEEP_ORDER_DAYS = 40

TOPICS = list(EXECUTION_INPUTS)
MODELS = (ExecutionReportMessage, RouteIntentMessage, OrderAckMessage, HoldDecisionMessage, AliasMessage)
_REASONS = frozenset(Reason)
NAMESPACE = uuid.UUID("2b7e1516-28ae-42a6-9b1c-f0d35d8a4e52")
_DETAIL = {
    Reason.venue_unknown: "the venue is not in the reference data",
    Reason.account_unknown: "the reference data does not list this account at this venue",
    Reason.instrument_unknown: "the instrument is not in the reference data",
    Reason.precision_exceeds_scale: "a quantity or price has more decimals than the instrument allows; nothing is ever rounded",
    Reason.field_invalid: "a scaled quantity or price is 2^62 or more",
    Reason.event_ts_future: "event_ts_ns is more than 60 s after recv_ts_ns, or recv_ts_ns more than 60 s after now",
    Reason.timestamp_invalid: "trade_date is no date, or more than a day after the UTC date of event_ts_ns",
    Reason.exec_id_missing: "exec_id is required on TRADE, BUST, CORRECT and FEE_UPDATE",
    Reason.field_missing: "exec_ref_id (BUST, CORRECT) or last_qty (TRADE, CORRECT) is missing",
    Reason.side_invalid: "side is required on TRADE",
    Reason.zero_qty_trade: "last_qty is 0",
    Reason.price_missing: "last_px is required on TRADE and CORRECT",
    Reason.price_out_of_contract: "last_px is not above zero",
    Reason.beyond_dedup_horizon: "trade_date is older than the venue's dedup horizon: a repeat could not be told from a new fill",
    Reason.correlation_conflict: "correlation_id, client_order_id, the alias of the venue's order id and the record's key do not agree",
    Reason.intent_conflict: "another order was already routed under this correlation_id",
    Reason.exec_conflict: "the execution id is known with other content; the first fact stands, the order is held",
    Reason.chain_fork: "what it refers to was already corrected or busted by another report",
    Reason.chain_cycle: "it refers to itself, or to a report that waits for it",
    Reason.chain_dead: "what it refers to was busted",
    Reason.ref_not_trade: "what it refers to is not an execution",
    Reason.ref_cross_order: "what it refers to belongs to another order",
    Reason.order_unknown_expired: "no routed order with its correlation came within 120 s",
    Reason.uncorrelated_expired: "no acknowledgement told what order it belongs to within 120 s",
    Reason.ref_unknown_expired: "what it refers to did not come within 24 h; if it comes, it will still be met",
    Reason.operator_rejected: "an operator rejected it",
}


@njit
def gather(first: Bytes, second: Bytes, rows: Ints, slot: int) -> tuple[Bytes, Ints]:
    """Return (bytes end to end, bounds) of a text column: the keys of the records."""
    n = len(rows)
    bounds = np.zeros(n + 1, np.int64)
    for i in range(n):
        bounds[i + 1] = bounds[i] + rows[i, slot + 1]
    out = np.empty(bounds[n], np.uint8)
    for i in range(n):
        start, length = rows[i, slot], rows[i, slot + 1]
        if start >= 0:
            move(out, bounds[i], first, start, length)
        else:
            move(out, bounds[i], second, -start - 1, length)
    return out, bounds


@bare
def same_bytes(data: Bytes, at: int, text: Bytes) -> bool:
    """Return whether a text stands at byte `at`."""
    for j in range(len(text)):
        if data[at + j] != text[j]:
            return False
    return True


@bare
def chain(data: Bytes, bounds: Ints, marker: Bytes, previous: Ints) -> None:
    """Write the hash of the record before into each record; `previous` `(4,)` holds the last one's hash as raw bytes, before and after."""
    raw = previous.view(np.uint8)
    m = len(marker)
    before = 0
    for i in range(len(bounds) - 1):
        at = bounds[i] + before  # mostly where it was in the record before; it stands nowhere else, quotes in texts being escaped
        if at + m > bounds[i + 1] or not same_bytes(data, at, marker):
            at = bounds[i]
            while not same_bytes(data, at, marker):
                at += 1
        before = at - bounds[i]
        if previous[0] != 0 or previous[1] != 0:
            hex_into(raw, 0, 32, data, at + m)
        sha256_into(data, bounds[i], bounds[i + 1] - bounds[i], raw, 0)


_QUOTE_ENTRIES = (
    "q_ts", "q_bid", "q_ask", "q_snap_hi", "q_snap_lo", "q_full", "q_head", "q_kept", "q_watermark", "q_overwritten", "q_tape", "q_counters",
)  # fmt: skip
_INPUT_ENTRIES = tuple(f"in_{name}" for name in c.Input._fields)
_AHEAD_ENTRIES = tuple(f"ahead_{name}" for name in c.Input._fields)
_MARKER = np.frombuffer(b'"prev_sha256":"', np.uint8)
_NO_BYTES = np.zeros(0, np.uint8)


class Work(NamedTuple):
    """Records to be taken, and what they were decoded from: record i of `inp` is record `first + i` of `batch`, values and keys."""

    inp: c.Input
    topic: int
    decoder: Decoder
    batch: Batch
    first: int
    data: Bytes
    bounds: Ints
    keys: Bytes
    key_bounds: Ints

    def original(self, record: int) -> tuple[bytes, bytes]:
        """Return (key, value) of a record as it came."""
        i = self.first + record
        key = self.keys[self.key_bounds[i] : self.key_bounds[i + 1]]
        return key.tobytes(), self.data[self.bounds[i] : self.bounds[i + 1]].tobytes()

    def explain(self, record: int) -> str:
        """Return what is wrong with a record that could not be decoded."""
        return self.decoder.explain(self.batch, self.first + record, self.data, self.bounds)


class ExecutionLogic(OnLedger[ExecutionLedger]):
    """One lane of the execution flow (operators.lane.LaneLogic).

    lane, n_lanes: partition number and count of the inputs. quotes: the worker's tape, indexed as `reference.instruments`; None: every
    benchmark is missing.
    """

    def __init__(self, lane: int, n_lanes: int, reference: Reference, quotes: Quotes | None = None) -> None:
        self.lane = lane
        self.n_lanes = n_lanes
        self.reference = reference
        self.quotes = quotes or Quotes(len(reference.instruments), 2)
        self.ledger = ExecutionLedger()
        self._ref = c.compile_reference(reference)
        self._names = [Reason(i).name if i in _REASONS else "" for i in range(max(Reason) + 1)]
        self._out = c.make_output(self._names, TOPICS)
        self._decoders = [compile_decoder(model) for model in MODELS]
        common = {"version": "v1", "sender": SENDER, "ttl_ms": TTL_MS}
        self._fills = compile_encoder(FillMessage, {**common, "type": "execution.event.fill.v1"})
        self._audits = compile_encoder(
            AuditMessage, {**common, "type": "audit.event.execution", "payload.policy_hash": reference.fingerprint}
        )
        self._alerts = compile_encoder(ComplianceAlertMessage, {**common, "type": "compliance.event.alert.v1"})
        self._aliases = compile_encoder(AliasMessage, {**common, "type": "execution.state.alias.v1"})
        self._evicted = [0, 0, 0, 0]
        self._evicted_day = -1
        self._records: list[Records] = []
        self._blank = np.zeros((1, s.REPORT.width), np.int64)
        self._idle = c.Input(
            self._blank,
            _NO_BYTES,
            np.zeros(1, np.bool_),
            np.zeros(1, np.int16),
            np.full(1, -1, np.int64),
            np.full(1, -1, np.int64),
            _NO_BYTES,
            np.zeros(2, np.int64),
            np.array([lane, n_lanes, REPORTS, 0], np.int64),
        )
        self._no_ahead = c.Ahead(self._idle, np.zeros((0, 3), np.int64), np.zeros(3, np.int64))
        no_batch = self._decoders[REPORTS].decode(_NO_BYTES, np.zeros(1, np.int64))
        none = np.zeros(1, np.int64)
        self._no_work = Work(self._idle, REPORTS, self._decoders[REPORTS], no_batch, 0, _NO_BYTES, none, _NO_BYTES, none)
        self._memory = Memory()
        self._memory.put_table("reference", self._ref.index)
        self._memory.put("venues", self._ref.venues)
        self._memory.put("instruments", self._ref.instruments)
        self._memory.put("scalars", self.ledger.scalars)
        for name, array in zip(_QUOTE_ENTRIES, self.quotes.arrays, strict=True):
            self._memory.put(name, array)
        self._lay_output()

    # ---- the lane runtime's side -----------------------------------------------------------------------------------

    def process(self, chunk: Chunk, now_ns: int) -> list[Records]:
        """Fold a chunk into the state; return what to publish."""
        topic = TOPICS.index(chunk.topic)
        self._records = []
        batch = self._decoders[topic].decode(chunk.data, chunk.bounds)
        start = 0
        while start < len(chunk):
            start = self._take(topic, chunk, batch, start, now_ns)
        if len(chunk):
            self.ledger.scalars[g.S_POSITIONS + topic] = int(chunk.offsets[-1]) + 2
        return self._hand_out()

    def tick(self, now_ns: int) -> list[Records]:
        """Let due clocks act, and forget a little of what is past its horizon."""
        self._records = []
        self._ring(now_ns)
        self._evict()
        return self._hand_out()

    def restore(self, records: Iterable[tuple[int, bytes]]) -> None:
        """Rebuild the state; raises StateMismatch when the reference data lacks a venue or instrument the state has orders in."""
        self.ledger.changelog.restore(records)
        missing = int(reconcile.remap(self._lay(self._nothing(0))))
        if missing >= 0:
            row = self.ledger.intents.rows[missing]
            name = row["symbol"][: row["symbol_len"]].tobytes().decode()
            raise StateMismatch(f"lane {self.lane} has orders in {name}, which the reference data does not list: add it back")
        if missing < -1:
            row = self.ledger.orders.rows[-2 - missing]
            name = row["venue_name"][: row["venue_len"]].tobytes().decode()
            raise StateMismatch(f"lane {self.lane} has orders at {name}, which the reference data does not list: add it back")

    def positions(self) -> dict[str, int]:
        """Return, for each input topic read so far, the offset after the last record folded in."""
        return offsets_after(TOPICS, self.ledger.scalars[g.S_POSITIONS : g.S_POSITIONS + len(TOPICS)])

    def counters(self) -> dict[str, int]:
        """Return the balance, and dead letters by reason as `dlq_<reason>`."""
        scalars = self.ledger.scalars
        result = {name: int(scalars[i]) for i, name in enumerate(g.BALANCE)}
        result["balance_mismatch"] = result["received"] - sum(result[k] for k in g.BALANCE[1:6])
        for reason in Reason:
            if 0 < reason < 92 and scalars[g.S_DEAD + reason]:
                result[f"dlq_{reason.name}"] = int(scalars[g.S_DEAD + reason])
        result["executions_kept"] = len(self.ledger.execs)
        result["orders_kept"] = len(self.ledger.orders)
        return result

    # ---- taking a chunk ----------------------------------------------------------------------------------------------

    def _take(self, topic: int, chunk: Chunk, batch: Batch, start: int, now_ns: int) -> int:
        """Take a piece of a chunk from record `start` on; return where it ends."""
        part = slice(start, start + BATCH)
        inp = self._input(topic, batch, part, chunk.offsets[part], None, chunk.keys, chunk.key_bounds[start:], now_ns)
        ahead: Work | None = None
        lists = self._no_ahead.lists
        if topic == ROUTES and self.ledger.scalars[g.S_WAIT_ORDER]:
            lists, waiting, stop = parking.foresee(self._lay(inp), BATCH)
            if len(waiting):
                ahead = self._awake(waiting, now_ns, inp.arena)
                inp = inp._replace(rows=inp.rows[:stop], arena=ahead.inp.arena, ok=inp.ok[:stop], reason=inp.reason[:stop])
                inp = inp._replace(offsets=inp.offsets[:stop], pend=inp.pend[:stop])
        work = Work(inp, topic, self._decoders[topic], batch, start, chunk.data, chunk.bounds, chunk.keys, chunk.key_bounds)
        if topic == HOLDS:
            self._decide_holds(work)
        else:
            legs = batch.children["payload.routing_plan"].rows if topic == ROUTES else self._blank
            self._run(work, legs, ahead, lists)
        return start + len(inp.ok)

    def _input(
        self, topic: int, batch: Batch, part: slice, offsets: Ints, pend: Ints | None, keys: Bytes, key_bounds: Ints, now_ns: int
    ) -> c.Input:
        return c.Input(
            batch.rows[part],
            batch.arena,
            batch.ok[part],
            batch.reason[part],
            offsets,
            np.full(len(offsets), -1, np.int64) if pend is None else pend,
            keys,
            key_bounds,
            np.array([self.lane, self.n_lanes, topic, now_ns], np.int64),
        )

    def _run(self, work: Work, legs: Ints, ahead: Work | None, lists: Ints) -> None:
        """Take new records; those that wait for them too, if they were decoded `ahead`, else with a stop for each list."""
        inp = work.inp
        foreseen = self._no_ahead if ahead is None else c.Ahead(ahead.inp, lists, np.zeros(3, np.int64))
        at = 0
        while at < len(inp.ok) or foreseen.at[0] < foreseen.at[1]:
            self.ledger.reserve(len(inp.ok) - at + (0 if ahead is None else len(ahead.inp.ok)))
            inside = int(foreseen.at[0])
            done = int(reconcile.take(self._lay(inp, legs, foreseen), at, 0))
            woken = self._flush(work, ahead)
            if done == at and inside == foreseen.at[0] and not len(woken):
                self._grow()
            at = done
            if len(woken):
                self._take_again(woken, int(inp.where[3]), 0)

    def _take_again(self, heads: Ints, now_ns: int, again: int) -> None:
        """Take waiting reports whose time has come, in the order they came; what one of them wakes comes right after it."""
        if again:  # of several venue orders, the one whose first report came first; the keys are serial numbers
            heads = heads[np.argsort(self.ledger.pendings.rows["khi"][heads])]
        stack = [(self._wake(heads, now_ns), 0)]
        while stack:
            work, at = stack[-1]
            count = len(work.inp.ok)
            if at == count:
                stack.pop()
                continue
            self.ledger.reserve(count - at)
            done = int(reconcile.take(self._lay(work.inp), at, again))
            woken = self._flush(work)
            stack[-1] = (work, done)
            if len(woken):
                stack.append((self._wake(woken, now_ns), 0))
            elif done == at:
                self._grow()

    def _wake(self, heads: Ints, now_ns: int) -> Work:
        return self._awake(parking.unlist(self._lay_tables(), heads), now_ns)

    def _awake(self, waiting: Ints, now_ns: int, before: Bytes = _NO_BYTES) -> Work:
        """Return waiting reports, by their rows, to be taken; their arena begins with the bytes of `before`."""
        data, bounds, keys, key_bounds = parking.kept(self._lay_tables(), waiting, before)
        batch = self._decoders[REPORTS].decode(data, bounds)
        offsets = self.ledger.pendings.rows["offset"][waiting]
        inp = self._input(REPORTS, batch, slice(None), offsets, waiting, keys, key_bounds, now_ns)
        return Work(inp, REPORTS, self._decoders[REPORTS], batch, 0, data, bounds, keys, key_bounds)

    def _kept(self, pend: int) -> tuple[bytes, bytes]:
        """Return (key, value) of one waiting report."""
        data, _, keys, _ = parking.kept(self._lay_tables(), np.array([pend], np.int64), _NO_BYTES)
        return keys.tobytes(), data.tobytes()

    def _grow(self) -> None:
        rows = 2 * len(self._out.wakes)
        self._out = c.make_output(self._names, TOPICS, rows)
        self._lay_output()

    def _lay(self, inp: c.Input, legs: Ints | None = None, ahead: c.Ahead | None = None) -> Map:
        """Return the map for a kernel call. Valid until memory is reserved again."""
        put = self._memory.put
        self._lay_tables()
        for name, array in zip(_INPUT_ENTRIES, inp, strict=True):
            put(name, array)
        foreseen = self._no_ahead if ahead is None else ahead
        for name, array in zip(_AHEAD_ENTRIES, foreseen.inp, strict=True):
            put(name, array)
        put("ahead_lists", foreseen.lists)
        put("ahead_at", foreseen.at)
        put("legs", self._blank if legs is None else legs)
        return self._memory.map

    def _lay_tables(self) -> Map:
        """Return the map for a kernel that asks for no input."""
        for name, table in self.ledger.tables.items():
            self._memory.put_table(name, table.arrays)
        return self._memory.map

    def _lay_output(self) -> None:
        for name, array in zip(c.Output._fields, self._out, strict=True):
            self._memory.put(name, array)

    # ---- what the kernels decided ------------------------------------------------------------------------------------

    def _flush(self, work: Work, ahead: Work | None = None) -> Ints:
        """Turn the outputs into records, keep parked bytes, forget what is done; return the heads of lists to take next.

        ahead: what was decoded ahead and taken with the work; only that has waited then.
        """
        inp = work.inp
        out = self._out
        n = out.n
        now_ns = int(inp.where[3])
        if n[c.N_FILL]:
            rows = out.fills[: n[c.N_FILL]]
            data, bounds = self._fills.encode(rows, inp.arena, out.text)
            keys, key_bounds = gather(inp.arena, out.text, rows, s.F_BOOK)
            self._records.append(Records("execution.event.fill.v1", data, bounds, keys, key_bounds))
        if n[c.N_AUDIT]:
            self._put_audits(inp.arena)
        if n[c.N_ALERT]:
            rows = out.alerts[: n[c.N_ALERT]]
            data, bounds = self._alerts.encode(rows, inp.arena, out.text)
            keys, key_bounds = join([str(uuid_of(*row)).encode() for row in rows[:, s.C_ORDER : s.C_ORDER + 2].tolist()])
            self._records.append(Records("compliance.event.alert.v1", data, bounds, keys, key_bounds))
        if n[c.N_ALIAS]:
            rows = out.alias_rows[: n[c.N_ALIAS]]
            data, bounds = self._aliases.encode(rows, inp.arena, out.text)
            texts = [[out_text(inp.arena, out.text, row, slot) for slot in (s.L_VENUE, s.L_VENUE_ORDER)] for row in rows]
            keys, key_bounds = join([b"|".join(pair) for pair in texts])
            self._records.append(Records("execution.state.alias.v1", data, bounds, keys, key_bounds))
        if n[c.N_REROUTE]:
            self._put_reroutes(work, ahead)
        letters = []
        for record, reason, pend in out.dlqs[: n[c.N_DLQ]].tolist():
            source = ahead if ahead is not None and pend >= 0 else work
            key, value = source.original(record)
            detail = _DETAIL.get(Reason(reason), "") if source.inp.ok[record] else source.explain(record)
            first = int(self.ledger.pendings.arrays.rows[pend]["first_ns"]) if pend >= 0 else now_ns
            offset = int(source.inp.offsets[record])
            letters.append(self._letter(Reason(reason), detail, key, value, source.topic, offset, first, now_ns))
        self._put_letters(letters)
        woken = out.wakes[: n[c.N_WAKE]].copy()
        if n[c.N_PARK] or n[c.N_DONE]:
            self._park_and_forget(work)
        fixed = n[c.N_FIXED]
        n[:] = 0
        n[c.N_TEXT] = n[c.N_FIXED] = fixed
        return woken

    def _put_reroutes(self, work: Work, ahead: Work | None) -> None:
        moved: list[list[int]] = self._out.reroutes[: self._out.n[c.N_REROUTE]].tolist()
        for source, mine in ((work, [row for row in moved if ahead is None or row[1] < 0]), (ahead, [row for row in moved if row[1] >= 0])):
            if source is not None and mine:
                data, bounds = join([source.original(record)[1] for record, *_ in mine])
                keys, key_bounds = join([self._out.text[start : start + length].tobytes() for _, _, start, length, _ in mine])
                self._records.append(Records(TOPICS[source.topic], data, bounds, keys, key_bounds))

    def _park_and_forget(self, work: Work) -> None:
        for name in ("data", "bounds", "keys", "key_bounds"):
            self._memory.put(f"from_{name}", getattr(work, name))
        if self._out.n[c.N_PARK]:
            need = int(parking.pages_needed(self._memory.map, work.first))
            self.ledger.pages.reserve(need, 2 * need)
            parking.keep(self._lay_tables(), work.first)
        parking.forget_done(self._lay_tables())

    def _put_audits(self, arena: Bytes) -> None:
        out = self._out
        count = out.n[c.N_AUDIT]
        data, bounds = self._audits.encode(out.audits[:count], arena, out.text)
        chain(data, bounds, _MARKER, self.ledger.scalars[g.S_AUDIT_HASH : g.S_AUDIT_HASH + 4])
        key = str(self.lane).encode()
        keys = np.frombuffer(key * count, np.uint8)
        key_bounds = np.arange(count + 1, dtype=np.int64) * len(key)
        self._records.append(Records("audit.event.execution", data, bounds, keys, key_bounds, self.lane))

    def _letter(
        self, reason: Reason, detail: str, key: bytes, value: bytes, topic: int, offset: int, first_ns: int, now_ns: int
    ) -> tuple[bytes, bytes]:
        """Return (key, value) of a dead letter."""
        name = TOPICS[topic]
        payload = dead_letter(reason, detail, name, self.lane, offset, key, value, first_ns, now_ns)
        correlation = _correlation_of(key)
        if correlation:
            payload["correlation_id"] = correlation
        identity = uuid.uuid5(NAMESPACE, dead_letter_name(reason, name, self.lane, offset))
        return key, message("dlq.execution", json_of(payload), identity, SENDER, now_ns, correlation or None)

    def _put_letters(self, letters: list[tuple[bytes, bytes]]) -> None:
        if letters:
            data, bounds = join([value for _, value in letters])
            keys, key_bounds = join([key for key, _ in letters])
            self._records.append(Records("dlq.execution", data, bounds, keys, key_bounds))

    def _hand_out(self) -> list[Records]:
        """Return the records made since the call began, one `Records` per topic, audit in chain order."""
        by_topic: dict[tuple[str, int | None], list[Records]] = {}
        for records in self._records:
            by_topic.setdefault((records.topic, records.partition), []).append(records)
        self._records = []
        return [_merge(parts) for parts in by_topic.values()]

    # ---- clocks ------------------------------------------------------------------------------------------------------

    def _note(self, reason: Reason, outcome: int, order: int, now_ns: int, offset: int = -1) -> None:
        """Write one audit record that no input at hand caused."""
        inp = self._nothing(now_ns)
        work = self._out.work
        work[c.W_REC], work[c.W_INTENT] = -1, -1
        audit(self._lay(inp), int(reason), outcome, order, -1, 0, NULL, NULL)
        self._out.audits[self._out.n[c.N_AUDIT] - 1, s.U_OFFSET] = offset

    def _nothing(self, now_ns: int) -> c.Input:
        """Return the input of no records at a time; the same arrays every time."""
        self._idle.where[3] = now_ns
        return self._idle

    def _ring(self, now_ns: int) -> None:
        if not len(self.ledger.pendings) and not len(self.ledger.clocks):
            return
        due, rung = parking.due(self._lay_tables(), now_ns)
        if not len(due) and not len(rung):
            return
        due = due[np.argsort(self.ledger.pendings.rows["khi"][due])]
        letters: list[tuple[bytes, bytes]] = []
        at = 0
        while at < len(due):
            asked = int(parking.ask(self._lay(self._nothing(now_ns)), due, at, reconcile.WAIT_ORDER_NS))
            self._flush_notes(now_ns)
            if asked == at:
                self._expire(int(due[at]), now_ns, letters)
                at += 1
            else:
                at = asked
        for clock in rung.tolist():
            self._flush_notes(now_ns)
            self._ring_clock(clock, now_ns)
        self._flush_notes(now_ns)
        self._put_letters(letters)

    def _flush_notes(self, now_ns: int) -> None:
        self._nothing(now_ns)
        self._flush(self._no_work)

    def _expire(self, pend: int, now_ns: int, letters: list[tuple[bytes, bytes]]) -> None:
        """Send a report that has waited too long to the DLQ."""
        row = self.ledger.pendings.arrays.rows[pend]
        reason = Reason(int(row["reason"]))
        order = int(row["order"])
        expired = {
            Reason.order_unknown: Reason.order_unknown_expired,
            Reason.uncorrelated: Reason.uncorrelated_expired,
            Reason.ref_unknown: Reason.ref_unknown_expired,
        }[reason]
        key, value = self._kept(pend)
        letters.append(self._letter(expired, _DETAIL[expired], key, value, REPORTS, int(row["offset"]), int(row["first_ns"]), now_ns))
        self._note(expired, s.OUT_DLQ, order, now_ns, int(row["offset"]))
        scalars = self.ledger.scalars
        scalars[g.S_PENDING] -= 1
        scalars[wait_counter(int(reason))] -= 1
        scalars[g.S_DLQ] += 1
        scalars[g.S_DEAD + expired] += 1
        if reason == Reason.ref_unknown:
            row["level"], row["due_ns"] = LEVEL_EXPIRED, 0
            self.ledger.pendings.touch(pend)
            if order >= 0:
                reconcile.alert_once(self._lay(self._nothing(now_ns)), int(expired), s.SEV_CRITICAL, order)
            return
        reconcile.leave_list(self._lay(self._nothing(now_ns)), pend)
        parking.forget(self._lay_tables(), pend)

    def _ring_clock(self, clock: int, now_ns: int) -> None:
        row = self.ledger.clocks.arrays.rows[clock]
        order, level, since = int(row["order"]), int(row["level"]), int(row["since_ns"])
        m = self._lay(self._nothing(now_ns))
        self.ledger.clocks.touch(clock)
        row["level"] = level + 1
        if row["what"] == g.CLOCK_GAP:
            if level == 0:
                self._note(Reason.pending_query, s.OUT_NOTE, order, now_ns)
                row["due_ns"] = since + 30 * QUERIES
            elif level == 1:
                reconcile.alert_once(m, int(Reason.gap_opened), s.SEV_WARN, order)
                row["due_ns"] = since + 120 * QUERIES
            else:
                self._note(Reason.gap_expired, s.OUT_NOTE, order, now_ns)
                reconcile.alert_once(m, int(Reason.gap_expired), s.SEV_CRITICAL, order)
                row["due_ns"] = 0
            return
        if level == 0:
            self._note(Reason.confirm_late, s.OUT_NOTE, order, now_ns)
            row["due_ns"] = int(row["due_ns"]) + max(int(row["due_ns"]) - since, 1)
        else:
            self._note(Reason.confirm_expired, s.OUT_NOTE, order, now_ns)
            reconcile.alert_once(m, int(Reason.confirm_expired), s.SEV_WARN, order)
            row["due_ns"] = 0
            self._request_halt(order, now_ns)

    def _request_halt(self, order: int, now_ns: int) -> None:
        row = self.ledger.orders.arrays.rows[order]
        venue = row["venue_name"][: row["venue_len"]].tobytes().decode()
        identity = uuid.uuid5(NAMESPACE, f"halt:{int(row['khi']):x}:{int(row['klo']):x}")
        intent = self.ledger.intents.arrays.rows[row["intent"]]
        payload = {
            "venue": venue,
            "reason": Reason.confirm_expired.name,
            "order_id": str(uuid_of(int(intent["order_hi"]), int(intent["order_lo"]))),
            "requested_ns": now_ns,
        }
        correlation = str(uuid_of(int(row["corr_hi"]), int(row["corr_lo"])))
        value = message("execution.request.halt.v1", json_of(payload), identity, SENDER, now_ns, correlation)
        data, bounds = join([value])
        keys, key_bounds = join([venue.encode()])
        self._records.append(Records("execution.request.halt.v1", data, bounds, keys, key_bounds))

    def _evict(self) -> None:
        """Look at the next rows of each table; a whole round is made after each new trade date."""
        newest = int(self.ledger.scalars[g.S_NEWEST_DAY])
        tables = (self.ledger.execs, self.ledger.matches, self.ledger.intents, self.ledger.aliases)
        if newest != self._evicted_day:
            self._evicted_day = newest
            self._evicted = [0, 0, 0, 0]
        if all(start >= table.high for start, table in zip(self._evicted, tables, strict=True)):
            return
        m = self._lay(self._nothing(0))
        for i, table in enumerate(tables):
            start = self._evicted[i]
            if start >= table.high:
                continue
            stop = start + EVICT_ROWS
            if i == 0:
                reconcile.evict_executions(m, start, stop)
            elif i == 1:
                reconcile.evict_matches(m, start, stop)
            elif i == 2:
                reconcile.evict_orders(m, start, stop, KEEP_ORDER_DAYS)
            else:
                reconcile.evict_aliases(m, start, stop, KEEP_ORDER_DAYS)
            self._evicted[i] = stop

    # ---- operators' decisions ----------------------------------------------------------------------------------------

    def _decide_holds(self, taken: Work) -> None:
        """Take operators' decisions; rare, so one at a time."""
        inp = taken.inp
        scalars = self.ledger.scalars
        now_ns = int(inp.where[3])
        for i in range(len(inp.ok)):
            self.ledger.reserve(1)
            scalars[g.S_RECEIVED] += 1
            work = self._out.work
            work[c.W_REC], work[c.W_PEND], work[c.W_INTENT] = i, -1, -1
            m = self._lay(inp)
            reason = Reason(int(inp.reason[i]))
            row = inp.rows[i]
            high, low = int(row[HOLD_CORR]), int(row[HOLD_CORR + 1])
            intent = self.ledger.intents.find(high % 2**64, low % 2**64) if inp.ok[i] else -1
            if inp.ok[i]:
                work[c.W_CORR_HI], work[c.W_CORR_LO], work[c.W_CORR_FROM] = high, low, 1
                if not reconcile.route_by_correlation(m, i):
                    self._flush(taken)
                    continue
            if inp.ok[i] and self.ledger.execs.find(int(row[0]) % 2**64, int(row[1]) % 2**64) >= 0:
                scalars[g.S_DUPLICATE] += 1
                scalars[g.S_DUP_KIND + Reason.duplicate_replay - Reason.duplicate_transport] += 1
                continue
            if inp.ok[i] and intent < 0:
                reason = Reason.order_unknown_expired
            if reason != Reason.none:
                audit(m, int(reason), s.OUT_DLQ, -1, -1, 0, NULL, NULL)
                key, value = taken.original(i)
                detail = taken.explain(i) if not inp.ok[i] else "no routed order with this correlation_id is known"
                self._put_letters([self._letter(reason, detail, key, value, HOLDS, int(inp.offsets[i]), now_ns, now_ns)])
                scalars[g.S_DLQ] += 1
                scalars[g.S_DEAD + reason] += 1
                self._flush(taken)
                continue
            mark = self.ledger.execs.insert(int(row[0]) % 2**64, int(row[1]) % 2**64)
            mark_row = self.ledger.execs.arrays.rows[mark]
            for name in ("order", "root", "parent", "child", "next_exec"):
                mark_row[name] = -1
            mark_row["kind"], mark_row["root"] = s.K_ACK, mark
            mark_row["expires"] = max(int(scalars[g.S_NEWEST_DAY]), now_ns // DAY_NS - EPOCH_DAY_2000) + KEEP_ORDER_DAYS
            work[c.W_INTENT] = intent
            reject = int(row[HOLD_ACTION]) == s.HOLD.code("payload.action", "REJECT")
            verdict = Reason.operator_rejected if reject else Reason.hold_released
            m = self._lay(inp)
            audit(m, int(verdict), s.OUT_PUBLISHED, -1, -1, 0, NULL, NULL)
            scalars[g.S_PUBLISHED] += 1
            if reject:
                who = f"{_DETAIL[Reason.operator_rejected]}: {self._text(inp, row, HOLD_OPERATOR)}: {self._text(inp, row, HOLD_WHY)}"
                self._flush(taken)
                self._reject(intent, now_ns, who)
                work[c.W_REC], work[c.W_INTENT] = i, intent
            reconcile.release(self._lay(inp), intent)
            if reject:  # what was taken back may not be all that was wrong
                order = int(self.ledger.intents.arrays.rows[intent]["first_order"])
                while order >= 0:
                    reconcile.check_totals(self._lay(inp), order)
                    order = int(self.ledger.orders.arrays.rows[order]["next_order"])
            woken = self._flush(taken)
            if len(woken):
                self._take_again(woken, now_ns, 1)

    def _text(self, inp: c.Input, row: Ints, slot: int) -> str:
        return inp.arena[row[slot] : row[slot] + row[slot + 1]].tobytes().decode()

    def _reject(self, intent: int, now_ns: int, detail: str) -> None:
        """Send everything the orders of an intent hold to the DLQ, newest first so that chains come apart link by link."""
        letters: list[tuple[bytes, bytes]] = []
        order = int(self.ledger.intents.arrays.rows[intent]["first_order"])
        scalars = self.ledger.scalars
        while order >= 0:
            o = self.ledger.orders.arrays.rows[order]
            wait = self.ledger.waits.find(int(o["khi"]), int(o["klo"]) ^ g.TAG_HELD)
            held = parking.listed(self._lay_tables(), wait)
            for at, pend in enumerate(held[::-1].tolist()):
                if at % 256 == 255:
                    self._flush_notes(now_ns)
                row = self.ledger.pendings.arrays.rows[pend]
                if row["level"] != LEVEL_EXPIRED:  # that one is in the DLQ already
                    key, value = self._kept(pend)
                    first_ns, offset = int(row["first_ns"]), int(row["offset"])
                    letters.append(self._letter(Reason.operator_rejected, detail, key, value, REPORTS, offset, first_ns, now_ns))
                    self._note(Reason.operator_rejected, s.OUT_DLQ, order, now_ns, offset)
                    scalars[g.S_PENDING] -= 1
                    scalars[g.S_WAIT_HELD] -= 1
                    scalars[g.S_DLQ] += 1
                    scalars[g.S_DEAD + Reason.operator_rejected] += 1
                if row["exec"] >= 0:
                    reconcile.take_back(self._lay(self._nothing(now_ns)), int(row["exec"]))
                reconcile.leave_list(self._lay(self._nothing(now_ns)), pend)
                parking.forget(self._lay_tables(), pend)
            fold.back_to_firm_total(self._lay(self._nothing(now_ns)), order)
            self._flush_notes(now_ns)
            order = int(o["next_order"])
        self._put_letters(letters)

    # ---- for people and tests ----------------------------------------------------------------------------------------

    def order_state(self, correlation_id: str) -> list[dict[str, Any]]:
        """Return the venue orders of a correlation, in no particular order: quantities as Decimals, status and holds by name."""
        number = uuid.UUID(correlation_id).int
        intent = self.ledger.intents.find(number >> 64, number % 2**64)
        if intent < 0:
            return []
        m = self._lay(self._nothing(0))
        t = self.ledger.intents.arrays.rows[intent]
        unit = Decimal(1).scaleb(-int(t["qty_scale"]))
        result = []
        order = int(t["first_order"])
        while order >= 0:
            o = self.ledger.orders.arrays.rows[order]
            cum, qty = int(o["cum"]), int(fold.order_qty(m, order))
            mantissa, scale = average(o["not_hi"], o["not_lo"], cum, int(t["px_scale"]))
            result.append(
                {
                    "venue": o["venue_name"][: o["venue_len"]].tobytes().decode(),
                    "order_qty": qty * unit,
                    "cum": cum * unit,
                    "leaves": int(fold.leaves(m, order)) * unit,
                    "avg_price": Decimal(int(mantissa)).scaleb(-int(scale)),
                    "status": s.ORD_STATUSES[int(fold.status(m, order))],
                    "day_cum": int(o["day_cum"]) * unit,
                    "day_order_qty": (qty - cum + int(o["day_cum"])) * unit,
                    "held": [HOLD_NAMES[bit] for bit in HOLD_NAMES if int(o["holds"]) & bit],
                    "gap": int(o["gap"]) * unit,
                }
            )
            order = int(o["next_order"])
        return result


HOLD_NAMES = {
    g.H_OVERFILL: "overfill",
    g.H_REGRESSION: "cum_regression",
    g.H_CONFLICT: "conflict",
    g.H_SIDE: "side_mismatch",
    g.H_INSTRUMENT: "instrument_mismatch",
    g.H_ACCOUNT: "account_mismatch",
}
HOLD_CORR = s.HOLD.slot("correlation_id")
HOLD_ACTION, HOLD_OPERATOR, HOLD_WHY = (s.HOLD.slot(f"payload.{name}") for name in ("action", "operator", "justification"))


def uuid_of(high: int, low: int) -> uuid.UUID:
    """Return a UUID from the two int64 or uint64 halves of a batch."""
    return uuid.UUID(int=((high % 2**64) << 64) | (low % 2**64))


def out_text(first: Bytes, second: Bytes, row: Ints, slot: int) -> bytes:
    """Return the bytes of a text slot of an output row."""
    start, length = int(row[slot]), int(row[slot + 1])
    return (first[start : start + length] if start >= 0 else second[-start - 1 : -start - 1 + length]).tobytes()


def _correlation_of(key: bytes) -> str | None:
    """Return the correlation an input was keyed by, if it was."""
    try:
        return str(uuid.UUID(key.decode())) if len(key) == 36 and any(key.strip(b"0-")) else None
    except (ValueError, UnicodeDecodeError):
        return None


def _merge(parts: list[Records]) -> Records:
    if len(parts) == 1:
        return parts[0]
    first = parts[0]
    data, bounds = _end_to_end([(p.data, p.bounds) for p in parts])
    keys, key_bounds = _end_to_end([(p.keys, p.key_bounds) for p in parts])
    return Records(first.topic, data, bounds, keys, key_bounds, first.partition)


def _end_to_end(parts: list[tuple[Bytes, Ints]]) -> tuple[Bytes, Ints]:
    sizes = np.cumsum([0] + [int(bounds[-1]) for _, bounds in parts])
    bounds = [b[1:] + base for (_, b), base in zip(parts, sizes[:-1].tolist(), strict=True)]
    return np.concatenate([d for d, _ in parts]), np.concatenate([np.zeros(1, np.int64), *bounds])
