"""What every worker of the hedger reads whole: quotes and covariances, risk, policy, universe, HALTs, channels. The broadcast logic of its flow.

Holds no lane's state and takes no decision. No clock: a chunk says when it was received, a question says what time it is. Snapshots are taken in
columns, the other topics one by one; a bad record is counted by reason and left out, never raised. Rules: hedging §2, §3, §5, §6; docs/ratios.md.

Before `begin` topics are being read up to their end, each partition as fast as it comes: quotes are kept by bar and no bar is closed. `begin` takes
the newest covariances that were published, applies the bars since, and from then on bars close as the tape passes them.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

import numpy as np

from operators import hedge_matrix
from operators.halts import HaltRecord, Halts, HaltView
from operators.hedge_bars import BAR_END, BEGUN, CLOSED, COUNTERS, WATERMARK, Levels, advance, close_until, new_tape, take_rows
from operators.hedge_matrix import MatrixSets
from operators.ratios import LAMBDAS, Bools, Floats, Moments, Rules
from operators.snapshots import MAX_AHEAD_NS, SLOTS, symbol_index
from schemas.chunk import Chunk, split
from schemas.codec import compile_decoder
from schemas.fields import NULL
from schemas.hedging import (
    ChannelStatusMessage,
    DoNotTrade,
    GuardPolicy,
    GuardPolicyMessage,
    HaltMessage,
    HedgeInstrument,
    InstrumentLimit,
    MatrixRowMessage,
    ResumeMessage,
    RiskContext,
    RiskContextMessage,
    Universe,
    UniverseMessage,
    Unwind,
)
from schemas.market import MarketSnapshotMessage
from schemas.parse import M, parse
from schemas.reasons import Reason
from schemas.reference import Reference
from schemas.registry import TOPICS

SPREAD_SAMPLES = 30
"""Below so many half spreads in the window nobody knows what a usual one is."""
_SNAPSHOTS = "marketdata.snapshot.v1"
_FREE = -1


class MarketRules(NamedTuple):
    """Levels of the market; times in ns.

    bar_ns: a bar's length. fresh_ns: how old a quote may be at a bar's end to count. grace_ns: a bar closes when the tape's watermark is this far
    past its end. patience_ns: how long a partition without quotes may hold the watermark back. quote_age_ns: an older mid is not known.
    covariance_bars: how many bars old covariances may be (for decisions). spread_window_bars, spread_quantile: see `spread_limit_bps`.
    snapshot_bars: how often `matrix_records` is to be published. bar_buffer: bars kept before the begin. ratio: which memory and how many bars.
    """

    bar_ns: int = 5_000_000_000
    fresh_ns: int = 5_000_000_000
    grace_ns: int = 250_000_000
    patience_ns: int = 2_000_000_000
    quote_age_ns: int = 3_000_000_000
    covariance_bars: int = 3
    spread_window_bars: int = 720
    spread_quantile: float = 0.8
    snapshot_bars: int = 12
    bar_buffer: int = 4096
    ratio: Rules = Rules()


@dataclass(frozen=True, slots=True)
class RiskState:
    """The risk agent's word. limits: by instrument; of an instrument named twice the tighter of each figure."""

    payload: RiskContext
    ts_ns: int
    seq: int
    limits: dict[str, InstrumentLimit]


@dataclass(frozen=True, slots=True)
class PolicyState:
    """PolicyGuard's word. windows: do-not-trade windows by instrument. unwinds: by instrument, in their order."""

    payload: GuardPolicy
    ts_ns: int
    seq: int
    windows: dict[str, tuple[DoNotTrade, ...]]
    unwinds: dict[str, tuple[Unwind, ...]]

    def forbids(self, instrument: str, now_ns: int) -> bool:
        """Return whether an instrument is in a do-not-trade window: from_ns ≤ now < to_ns."""
        return any(window.from_ns <= now_ns < window.to_ns for window in self.windows.get(instrument, ()))


@dataclass(frozen=True, slots=True)
class UniverseState:
    """What a book hedges with. version: 16 hex digits of its content. places: of each instrument in the list. unknown: those without a series."""

    payload: Universe
    ts_ns: int
    seq: int
    version: str
    places: dict[str, int]
    unknown: frozenset[str]


@dataclass(frozen=True, slots=True)
class ChannelState:
    """The order channel of a venue: UP, DEGRADED or DOWN. UP, all else 0, when nothing was ever said."""

    status: str = "UP"
    since_ns: int = 0
    ts_ns: int = 0
    seq: int = 0


S = TypeVar("S", RiskState, PolicyState, UniverseState, ChannelState)


@dataclass(slots=True)
class _Newest(Generic[S]):
    """The newest state under each name (None: of all books) by ts_ns; of equal times the later record. changed: seq of the last change."""

    held: dict[str | None, S] = field(default_factory=dict)
    changed: int = 0


class HedgeMarket:
    """The broadcast logic of the hedger. Series number = position in `Reference.instruments`, k of them.

    bid, ask, bid_size, ask_size, mid, half_spread_bps `(k,)` float64 and ts_ns `(k,)` int64 (event time; the least int64 before the first): the
    newest quote of each series, of equal times the later record. mid and half spread are NaN where a side is missing, the quote is locked or
    crossed or its confidence below 1; what is not given is NaN. last_returns float64, last_fresh bool `(k,)`: of the last closed bar. All
    of them are live: later chunks change them in place.
    moments: covariances as of the last closed bar. bars_closed: bars closed since the begin, gaps included. bar_end_ns: end of the last one, or of the
    one the covariances were taken over from; 0 before. risk_seq, policy_seq, universe_seq, channel_seq, halt_seq grow with each change of
    what they name; halt_seq not when a HALT or resume told earlier comes into effect.

    Raises ValueError for rules that make no sense.
    """

    def __init__(self, reference: Reference, rules: MarketRules | None = None) -> None:
        self.rules = rules = MarketRules() if rules is None else rules
        _check(rules)
        self.symbols: tuple[str, ...] = tuple(instrument.symbol for instrument in reference.instruments)
        self.index: dict[str, int] = {symbol: i for i, symbol in enumerate(self.symbols)}
        self._levels = Levels(rules.bar_ns, rules.fresh_ns, rules.grace_ns, rules.patience_ns)
        self._tape = tape = new_tape(len(self.symbols), LAMBDAS, rules.bar_buffer, rules.spread_window_bars)
        self.moments: Moments = tape.moments
        self.bid, self.ask, self.bid_size, self.ask_size, self.mid, self.half_spread_bps, self.ts_ns = tape.latest
        self.last_returns: Floats = tape.returns
        self.last_fresh: Bools = tape.fresh
        self.risk_seq = self.policy_seq = self.universe_seq = self.channel_seq = self.halt_seq = 0
        self._seq = 0
        self._decoder = compile_decoder(MarketSnapshotMessage)
        self._symbol_index = symbol_index(self.symbols)
        self._rejected = np.zeros(max(Reason) + 1, np.int64)
        self._snapshots = 0
        self._counts: Counter[str] = Counter()
        self._risk: _Newest[RiskState] = _Newest()
        self._policy: _Newest[PolicyState] = _Newest()
        self._universe: _Newest[UniverseState] = _Newest()
        self._channel: _Newest[ChannelState] = _Newest()
        self._halts = Halts()
        self._matrix = MatrixSets()
        self._spread_limits: tuple[int, dict[int, float]] = (-1, {})
        self._pairs = [(i.base, i.quote) for i in reference.instruments]
        self._routes: dict[tuple[str, str], list[tuple[tuple[int, bool], ...]]] = {}
        self._topics: dict[str, Callable[[Chunk], None]] = {
            _SNAPSHOTS: self._take_snapshots,
            "risk.state.context.v1": self._take_risk,
            "policy.state.guard.v1": self._take_policy,
            "hedge.state.universe.v1": self._take_universe,
            "order.channel.status.v1": self._take_channel,
            "system.halt.intent.v1": self._take_halts,
            "system.resume.intent.v1": self._take_resumes,
            "hedge.state.matrix.v1": self._take_matrix,
        }

    # --- what is asked ------------------------------------------------------------------------------------------------------------

    @property
    def bars_closed(self) -> int:
        """Return how many bars were closed since the begin."""
        return int(self._tape.at[CLOSED])

    @property
    def bar_end_ns(self) -> int:
        """Return the end of the bar the covariances are of, 0 before the first."""
        return int(self._tape.at[BAR_END])

    @property
    def watermark_ns(self) -> int:
        """Return the event time up to which the tape is taken to be complete; the least int64 before the begin."""
        return int(self._tape.at[WATERMARK])

    @property
    def halted_by(self) -> list[HaltRecord]:
        """Return every HALT told, in order of arrival, also those that have ended: each is to be acknowledged."""
        return self._halts.told

    def mids(self, now_ns: int) -> Floats:
        """Return the mids `(k,)`, NaN where there is none or the quote is older than quote_age_ns. A quote ahead of now has no age."""
        return np.where(self.ts_ns >= now_ns - self.rules.quote_age_ns, self.mid, np.nan)

    def fx(self, now_ns: int, currency: str, base: str) -> float:
        """Return what one unit of a currency is worth in base; NaN where no rate is known or all are stale.

        From instruments of the reference whose base and quote are these: quoted so, the other way round, or over one third currency. The first
        that is fresh counts, in this order and in that of the reference: a stale rate gives way to a fresh one further down.
        """
        if not currency or not base:
            return float("nan")
        if currency == base:
            return 1.0
        routes = self._routes.get((currency, base))
        if routes is None:
            routes = self._routes[currency, base] = self._find_routes(currency, base)
        for route in routes:
            rate = 1.0
            for series, inverse in route:
                mid = float(self.mid[series]) if self.ts_ns[series] >= now_ns - self.rules.quote_age_ns else float("nan")
                rate = rate / mid if inverse else rate * mid
            if rate == rate:
                return rate
        return float("nan")

    def _find_routes(self, currency: str, base: str) -> list[tuple[tuple[int, bool], ...]]:
        """Return ways from a currency to another as ((series, whether its price divides), …), the preferred first."""

        def steps(one: str, other: str) -> list[tuple[int, bool]]:
            straight = [(i, False) for i, pair in enumerate(self._pairs) if pair == (one, other)]
            return straight + [(i, True) for i, pair in enumerate(self._pairs) if pair == (other, one)]

        routes: list[tuple[tuple[int, bool], ...]] = [(step,) for step in steps(currency, base)]
        thirds = dict.fromkeys(name for pair in self._pairs if currency in pair for name in pair if name not in ("", currency, base))
        routes += [(first, second) for third in thirds for first in steps(currency, third) for second in steps(third, base)]
        return routes

    def spread_limit_bps(self, series: int) -> float:
        """Return the least half spread that spread_quantile of those seen at bar ends in the window did not exceed; inf below 30 of them."""
        bars, limits = self._spread_limits
        if bars != self.bars_closed:
            self._spread_limits = (self.bars_closed, limits := {})
        if series not in limits:
            seen = self._tape.spreads[:, series]
            seen = np.sort(seen[~np.isnan(seen)])
            rank = int(np.ceil(self.rules.spread_quantile * len(seen) - 1e-9)) - 1
            limits[series] = float(seen[rank]) if len(seen) >= SPREAD_SAMPLES else float("inf")
        return limits[series]

    def risk(self, book: str) -> RiskState | None:
        """Return a book's risk state: its own, else the one of all books, else None."""
        return self._risk.held.get(book) or self._risk.held.get(None)

    def policy(self, book: str) -> PolicyState | None:
        """Return a book's policy: its own, else the one of all books, else None."""
        return self._policy.held.get(book) or self._policy.held.get(None)

    def universe(self, book: str) -> UniverseState | None:
        """Return what a book hedges with, None if nobody said. There is none of all books: it carries the book's currency."""
        return self._universe.held.get(book)

    def universes(self) -> list[UniverseState]:
        """Return what every book hedges with."""
        return list(self._universe.held.values())

    def channel(self, venue: str) -> ChannelState:
        """Return the state of a venue's order channel."""
        return self._channel.held.get(venue) or ChannelState()

    def halts(self, now_ns: int) -> HaltView:
        """Return what is stopped now. Rules of scopes and resumes: `Halts`."""
        return self._halts.view(now_ns)

    def matrix_records(self) -> list[tuple[bytes, bytes]]:
        """Return (symbol, `hedge.state.matrix.v1` message) of each series as of the last closed bar; none before there is one."""
        if not self.bar_end_ns:
            return []
        return hedge_matrix.records(self.moments, self.symbols, self._tape.bars.close, self.bar_end_ns, self.rules.bar_ns, self.rules.ratio)

    # --- life ---------------------------------------------------------------------------------------------------------------------

    def apply(self, chunk: Chunk) -> None:
        """Fold a chunk of one of the hedger's broadcast topics in. Raises ValueError for another topic."""
        take = self._topics.get(chunk.topic)
        if take is None:
            raise ValueError(f"hedge market: {chunk.topic} is not one of its topics")
        if len(chunk):
            take(chunk)

    def begin(self) -> None:
        """Take over the covariances that were published, and close the bars since. Called when all topics were read up to their end.

        The newest bar counts of which all rows were read, with our length and memories. Where quotes begin later than that bar's end there is a gap;
        quotes from before it serve the spreads, and freshness where that is longer than a bar. Without rows the first bar is the oldest quote's.
        A second call does nothing.
        """
        tape, levels, grid = self._tape, self._levels, self._tape.grid
        if tape.at[BEGUN]:
            return
        grid.bar[grid.bar <= grid.bar.max() - self.rules.bar_buffer] = _FREE
        kept = grid.bar[grid.bar != _FREE]
        if len(kept):
            tape.bars.end_ns[0] = (int(kept.min()) + 1) * levels.bar_ns
        found = self._matrix.newest()
        if found is not None:
            end_ns, rows = found
            if len(kept) and kept.min() < end_ns // levels.bar_ns:
                close_until(tape, levels, end_ns // levels.bar_ns, False)
            hedge_matrix.load(self.moments, self.index, rows)
            for symbol, row in rows.items():
                if symbol in self.index:
                    tape.bars.close[self.index[symbol]] = row.close
                    self._counts["matrix_restored"] += 1
            tape.bars.end_ns[0] = end_ns + levels.bar_ns
            tape.at[BAR_END] = end_ns
            tape.returns[:] = 0.0
            tape.fresh[:] = False
        self._matrix = MatrixSets()
        tape.at[BEGUN] = 1
        advance(tape, levels)

    def counters(self) -> dict[str, int]:
        """Return what was read and what became of it.

        `snapshots`, and `risk`, `policy`, `universe`, `channel`, `halt`, `resume`, `matrix`: records read; `…_rejected`, `…_rejected_<reason>`: left out.
        `…_repeated`: said before, word for word; `…_superseded`: older than what is known; `…_deleted`: tombstones. `matrix_ignored`: rows that came
        after the begin, or are of other bars or memories; `matrix_restored`: series taken over. `bars_closed`, and those of operators/hedge_bars.py.
        """
        found = {"snapshots": self._snapshots, "snapshots_rejected": int(self._rejected.sum())}
        found |= {f"snapshots_rejected_{Reason(i).name}": int(self._rejected[i]) for i in np.flatnonzero(self._rejected).tolist()}
        found |= {name: int(value) for name, value in zip(COUNTERS, self._tape.counters, strict=True)}
        return found | {"bars_closed": self.bars_closed} | dict(sorted(self._counts.items()))

    # --- topics -------------------------------------------------------------------------------------------------------------------

    def _take_snapshots(self, chunk: Chunk) -> None:
        batch = self._decoder.decode(chunk.data, chunk.bounds)
        self._snapshots += len(chunk)
        self._rejected += np.bincount(batch.reason[~batch.ok], minlength=len(self._rejected))
        missing = chunk.lane + 1 - len(self._tape.lanes)
        if missing > 0:
            self._tape = self._tape._replace(lanes=np.append(self._tape.lanes, np.full(missing, NULL)))
        take_rows(
            self._tape, self._levels, chunk.lane, chunk.received_ns, MAX_AHEAD_NS, batch.rows, batch.arena, batch.ok, SLOTS, self._symbol_index,
            self._rejected,
        )  # fmt: skip

    def _take_risk(self, chunk: Chunk) -> None:
        for message in self._parsed(chunk, "risk", RiskContextMessage):
            payload: RiskContext = message.payload
            limits: dict[str, InstrumentLimit] = {}
            for limit in payload.limits:
                other = limits.get(limit.instrument, limit)
                most = min(limit.max_notional, other.max_notional)
                room = min(limit.headroom_notional, other.headroom_notional)
                limits[limit.instrument] = limit.model_copy(update={"max_notional": most, "headroom_notional": room})
            self._keep("risk", self._risk, payload.book, RiskState(payload, message.ts_ns, self._seq + 1, limits))
        self.risk_seq = self._risk.changed

    def _take_policy(self, chunk: Chunk) -> None:
        for message in self._parsed(chunk, "policy", GuardPolicyMessage, self._policy):
            payload: GuardPolicy = message.payload
            windows: dict[str, tuple[DoNotTrade, ...]] = {}
            for window in payload.do_not_trade:
                windows[window.instrument] = (*windows.get(window.instrument, ()), window)
            unwinds: dict[str, tuple[Unwind, ...]] = {}
            for unwind in payload.unwind:
                unwinds[unwind.instrument] = (*unwinds.get(unwind.instrument, ()), unwind)
            self._keep("policy", self._policy, payload.book, PolicyState(payload, message.ts_ns, self._seq + 1, windows, unwinds))
        self.policy_seq = self._policy.changed

    def _take_universe(self, chunk: Chunk) -> None:
        for message in self._parsed(chunk, "universe", UniverseMessage, self._universe):
            payload: Universe = message.payload
            places = {instrument.symbol: i for i, instrument in enumerate(payload.instruments)}
            if not _consistent(payload.instruments, places):
                self._reject("universe", Reason.field_invalid)
                continue
            text = json.dumps(payload.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
            version = hashlib.sha256(text.encode()).hexdigest()[:16]
            unknown = frozenset(symbol for symbol in places if symbol not in self.index)
            self._keep(
                "universe", self._universe, payload.book, UniverseState(payload, message.ts_ns, self._seq + 1, version, places, unknown)
            )
        self.universe_seq = self._universe.changed

    def _take_channel(self, chunk: Chunk) -> None:
        for message in self._parsed(chunk, "channel", ChannelStatusMessage):
            payload = message.payload
            state = ChannelState(payload.status, payload.since_ns, message.ts_ns, self._seq + 1)
            self._keep("channel", self._channel, payload.venue, state)
        self.channel_seq = self._channel.changed

    def _take_halts(self, chunk: Chunk) -> None:
        for message in self._parsed(chunk, "halt", HaltMessage, ahead_ns=None):
            if self._halts.halt(message.msg_id, message.ts_ns, message.payload, chunk.received_ns, self._seq + 1):
                self._seq += 1
                self.halt_seq = self._seq
            else:
                self._counts["halt_repeated"] += 1

    def _take_resumes(self, chunk: Chunk) -> None:
        for message in self._parsed(chunk, "resume", ResumeMessage):
            try:
                new = self._halts.resume(message.msg_id, message.ts_ns, message.payload)
            except ValueError:
                self._reject("resume", Reason.approvals_missing)
                continue
            if new:
                self._seq += 1
                self.halt_seq = self._seq
            else:
                self._counts["resume_repeated"] += 1

    def _take_matrix(self, chunk: Chunk) -> None:
        if self._tape.at[BEGUN]:
            self._counts["matrix"] += len(chunk)
            self._counts["matrix_ignored"] += len(chunk)
            return
        for message in self._parsed(chunk, "matrix", MatrixRowMessage, self._matrix):
            row = message.payload
            if row.bar_end_ns > chunk.received_ns + MAX_AHEAD_NS:
                self._reject("matrix", Reason.event_ts_future)
            elif row.bar_ns != self.rules.bar_ns or tuple(row.lambdas) != LAMBDAS:
                self._counts["matrix_ignored"] += 1
            else:
                try:
                    self._matrix.put(row.symbol, row.bar_end_ns, hedge_matrix.unpack(row))
                except ValueError:
                    self._reject("matrix", Reason.field_invalid)

    def _parsed(
        self,
        chunk: Chunk,
        short: str,
        model: type[M],
        compacted: _Newest[S] | MatrixSets | None = None,
        ahead_ns: int | None = MAX_AHEAD_NS,
    ) -> Iterable[M]:
        """Yield the messages of a chunk, one by one; count what cannot be used.

        compacted: where an empty value deletes what its key names, as it does for who reads the topic after its compaction. ahead_ns: how far ahead
        of its arrival a message may be stamped (it would win over all that follow); None: a HALT is never refused for its time.
        """
        keys, senders = split(chunk.keys, chunk.key_bounds), TOPICS[chunk.topic].senders
        for key, value in zip(keys, split(chunk.data, chunk.bounds), strict=True):
            self._counts[short] += 1
            if not value and compacted is not None:
                self._counts[f"{short}_deleted"] += 1
                self._delete(key.decode(errors="replace"), compacted)
                continue
            message = parse(model, value)
            if isinstance(message, tuple):
                self._reject(short, message[0])
            elif senders and message.sender not in senders:
                self._reject(short, Reason.sender_not_allowed)
            elif ahead_ns is not None and message.ts_ns > chunk.received_ns + ahead_ns:
                self._reject(short, Reason.event_ts_future)
            else:
                yield message

    def _reject(self, short: str, reason: Reason) -> None:
        self._counts[f"{short}_rejected"] += 1
        self._counts[f"{short}_rejected_{reason.name}"] += 1

    def _delete(self, key: str, states: _Newest[S] | MatrixSets) -> None:
        if isinstance(states, MatrixSets):
            states.drop(key)
        elif states.held.pop(None if key == "*" else key, None) is not None:
            self._seq += 1
            states.changed = self._seq

    def _keep(self, short: str, states: _Newest[S], name: str | None, state: S) -> None:
        """Keep a state unless a newer one is known."""
        known = states.held.get(name)
        if known is not None and state.ts_ns < known.ts_ns:
            self._counts[f"{short}_superseded"] += 1
        elif known is not None and state.ts_ns == known.ts_ns and _said(state) == _said(known):
            self._counts[f"{short}_repeated"] += 1
        else:
            self._seq += 1
            states.changed = self._seq
            states.held[name] = state


def _said(state: RiskState | PolicyState | UniverseState | ChannelState) -> object:
    return (state.status, state.since_ns) if isinstance(state, ChannelState) else state.payload


def _consistent(instruments: list[HedgeInstrument], places: dict[str, int]) -> bool:
    """Return whether no instrument is there twice and each primary is one of them, and no secondary itself."""
    primaries = {instrument.symbol for instrument in instruments if instrument.secondary_of is None}
    return len(places) == len(instruments) and all(i.secondary_of is None or i.secondary_of in primaries for i in instruments)


def _check(rules: MarketRules) -> None:
    """Raise ValueError for rules that make no sense."""
    for name in ("bar_ns", "fresh_ns", "quote_age_ns", "covariance_bars", "spread_window_bars", "snapshot_bars", "bar_buffer"):
        if getattr(rules, name) < 1:
            raise ValueError(f"hedge market: {name} must be at least 1, not {getattr(rules, name)}")
    for name in ("grace_ns", "patience_ns"):
        if getattr(rules, name) < 0:
            raise ValueError(f"hedge market: {name} must not be negative, not {getattr(rules, name)}")
    if not 0.0 < rules.spread_quantile <= 1.0:
        raise ValueError(f"hedge market: spread_quantile must be above 0 and at most 1, not {rules.spread_quantile}")
    least = (MAX_AHEAD_NS + rules.grace_ns + rules.patience_ns) // rules.bar_ns + 3
    if rules.bar_buffer < least:
        raise ValueError(f"hedge market: bar_buffer must be at least {least}: quotes may be so many bars ahead of the open one")
