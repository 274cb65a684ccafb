"""What the hedger's workers read whole: quotes, bars and covariances against a slow oracle, restarts, states, HALTs, rates."""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.halts import HaltView, approved
from operators.hedge_market import HedgeMarket, MarketRules
from operators.ratios import LAMBDAS
from schemas.chunk import Chunk, join
from schemas.hedging import Approval, MatrixRowMessage
from schemas.parse import parse
from schemas.reference import Instrument, Reference, VenueRules
from tests.operators.test_tape import snapshot
from tests.support import message

SECOND = 1_000_000_000
T0 = 1_700_000_000 * SECOND
SNAPSHOTS, RISK, POLICY, UNIVERSE, CHANNEL, HALT, RESUME, MATRIX = (
    "marketdata.snapshot.v1", "risk.state.context.v1", "policy.state.guard.v1", "hedge.state.universe.v1", "order.channel.status.v1",
    "system.halt.intent.v1", "system.resume.intent.v1", "hedge.state.matrix.v1",
)  # fmt: skip
NEVER = np.iinfo(np.int64).min
RULES = MarketRules(bar_ns=SECOND, fresh_ns=SECOND, grace_ns=SECOND // 4, patience_ns=2 * SECOND, spread_window_bars=64, bar_buffer=128)


def instrument(symbol: str, base: str = "", quote: str = "USD") -> Instrument:
    return Instrument(symbol=symbol, px_scale=2, qty_scale=3, base=base, quote=quote)


def reference(*instruments: Instrument) -> Reference:
    return Reference(venues=[VenueRules(name="X")], instruments=list(instruments))


FOUR = reference(*(instrument(s) for s in ("AAA", "BBB", "CCC", "DDD")))


def chunk(topic: str, *values: bytes, lane: int = 0, received_ns: int = T0 + SECOND, keys: Sequence[bytes] | None = None) -> Chunk:
    data, bounds = join(list(values))
    key_data, key_bounds = join(list(keys) if keys is not None else [b"k"] * len(values))
    return Chunk(topic, lane, data, bounds, np.arange(len(values), dtype=np.int64), key_data, key_bounds, received_ns)


def market(ref: Reference = FOUR, rules: MarketRules = RULES, begun: bool = True) -> HedgeMarket:
    found = HedgeMarket(ref, rules)
    if begun:
        found.begin()
    return found


def quote(m: HedgeMarket, symbol: str, bid: str | None, ask: str | None, ts: int = T0, lane: int = 0, **payload: Any) -> None:
    m.apply(chunk(SNAPSHOTS, snapshot(symbol, bid, ask, ts, **payload), lane=lane, received_ns=max(ts, T0)))


# --- the newest quotes ------------------------------------------------------------------------------------------------------------


def test_newest_quote_is_by_event_time_and_the_later_record_of_equal_ones() -> None:
    m = market()
    assert m.ts_ns.tolist() == [NEVER] * 4
    assert np.isnan(m.mid).all()
    quote(m, "BBB", "10", "11", T0 + 5, bid_size="3.5", ask_size=None)
    quote(m, "BBB", "8", "9", T0 + 4)
    assert (m.bid[1], m.ask[1], m.bid_size[1], m.ts_ns[1]) == (10.0, 11.0, 3.5, T0 + 5)
    assert math.isnan(m.ask_size[1])
    quote(m, "BBB", "12.25", "12.75", T0 + 5)
    assert (m.mid[1], m.half_spread_bps[1]) == (12.5, pytest.approx(0.25 / 12.5 * 1e4, rel=1e-15))
    assert np.isnan(m.mid[[0, 2, 3]]).all()
    assert m.counters()["quotes_reordered"] == 1
    assert m.index == {"AAA": 0, "BBB": 1, "CCC": 2, "DDD": 3}


@pytest.mark.parametrize(
    ("bid", "ask", "confidence"),
    [(None, "1", 1.0), ("1", None, 1.0), (None, None, 1.0), ("1", "1", 1.0), ("2", "1", 1.0), ("1", "2", 0.99), ("0", "1", 1.0), ("-1", "1", 1.0)],
)  # fmt: skip
def test_quote_without_a_mid_is_the_newest_and_has_none(bid: str | None, ask: str | None, confidence: float) -> None:
    m = market()
    quote(m, "AAA", "5", "6", T0)
    quote(m, "AAA", bid, ask, T0 + 1, confidence=confidence)
    assert m.ts_ns[0] == T0 + 1
    assert math.isnan(m.mid[0])
    assert math.isnan(m.half_spread_bps[0])
    assert np.isnan(m.mids(T0 + 1)[0])
    assert m.counters()["quotes_without_mid"] == 1


def test_mids_know_nothing_older_than_the_limit_and_take_a_clock_ahead_as_new() -> None:
    m = market()
    quote(m, "AAA", "5", "7", T0)
    limit = RULES.quote_age_ns
    assert m.mids(T0 + limit)[0] == 6.0
    assert np.isnan(m.mids(T0 + limit + 1)).all()
    assert m.mids(T0 - 40_000_000)[0] == 6.0


def test_bad_snapshots_are_counted_by_reason_and_the_rest_go_in() -> None:
    m = market()
    far = T0 + SECOND + 60_000_000_001
    m.apply(
        chunk(
            SNAPSHOTS,
            b"nonsense",
            snapshot("NOPE"),
            snapshot("AAA", ts=far),
            snapshot("AAA", confidence=2.0),
            b"",
            snapshot("AAA", "1", "2", ts=far - 1),
            snapshot("BBB", "0.000000001", "123456789012.123456", ts=T0),
        )
    )
    found = m.counters()
    assert (found["snapshots"], found["snapshots_rejected"], found["quotes"]) == (7, 5, 2)
    assert found["snapshots_rejected_json_malformed"] == 2
    assert found["snapshots_rejected_instrument_unknown"] == 1
    assert found["snapshots_rejected_event_ts_future"] == 1
    assert found["snapshots_rejected_field_invalid"] == 1
    assert (m.bid[1], m.ask[1]) == (1e-9, 123456789012.123456)
    assert m.ts_ns[0] == far - 1


# --- bars and covariances ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Seen:
    """One quote: when it happened, of which series, at what mid (in cents), and in which partition."""

    ts: int
    series: int
    cents: int

    @property
    def lane(self) -> int:
        return self.series % 4

    def value(self, symbols: Sequence[str]) -> bytes:
        # bid and ask of whole cents around the mid, so that the mid is exact
        return snapshot(symbols[self.series], f"{(self.cents - 1) / 100:.2f}", f"{(self.cents + 1) / 100:.2f}", self.ts)


@dataclass
class Oracle:
    """Bars and covariances the slow way: every quote kept, every bar looked up from scratch, one dictionary entry per pair."""

    k: int
    rules: MarketRules = RULES
    end: int = 0
    close: dict[int, float] = field(default_factory=dict)
    quotes: list[tuple[int, int, float]] = field(default_factory=list)
    newest: dict[int, int] = field(default_factory=dict)
    mark: int = NEVER
    late: int = 0
    n: dict[tuple[int, int], int] = field(default_factory=dict)
    cov: dict[tuple[int, int, int], float] = field(default_factory=dict)
    returns: dict[int, dict[int, float]] = field(default_factory=dict)
    closed: int = 0

    def take(self, q: Seen) -> None:
        if not self.end:
            self.end = ((q.ts - self.rules.grace_ns) // self.rules.bar_ns + 1) * self.rules.bar_ns
        self.newest[q.lane] = max(self.newest.get(q.lane, NEVER), q.ts)
        mark = max(min(self.newest.values()), max(self.newest.values()) - self.rules.patience_ns)
        self.mark = max(self.mark, mark)
        while self.mark >= self.end + self.rules.grace_ns:
            self._close()
        if q.ts < self.end - self.rules.bar_ns:
            self.late += 1
        else:
            self.quotes.append((q.ts, q.series, q.cents / 100))

    def _close(self) -> None:
        now: dict[int, float] = {}
        for series in range(self.k):
            before = [(ts, i, mid) for i, (ts, s, mid) in enumerate(self.quotes) if s == series and ts < self.end]
            if before and max(before)[0] >= self.end - self.rules.fresh_ns:
                now[series] = max(before)[2]
        bar = {s: math.log(now[s] / self.close[s]) for s in now if s in self.close}
        for i in bar:
            for j in bar:
                if j <= i:
                    self.n[i, j] = self.n.get((i, j), 0) + 1
                    for which, lam in enumerate(LAMBDAS):
                        self.cov[which, i, j] = lam * self.cov.get((which, i, j), 0.0) + (1 - lam) * bar[i] * bar[j]
        self.returns[self.end] = bar
        self.close = now
        self.end += self.rules.bar_ns
        self.closed += 1

    def check(self, m: HedgeMarket) -> None:
        assert m.bar_end_ns == (self.end - self.rules.bar_ns if self.closed else 0)
        for i in range(self.k):
            for j in range(i + 1):
                at = i * (i + 1) // 2 + j
                assert m.moments.n[at] == self.n.get((i, j), 0)
                for which in range(len(LAMBDAS)):
                    assert m.moments.cov[which, at] == pytest.approx(self.cov.get((which, i, j), 0.0), rel=1e-9, abs=1e-18)
        if self.closed:
            last = self.returns[self.end - self.rules.bar_ns]
            assert {int(s) for s in np.flatnonzero(m.last_fresh)} == set(last)
            for s in range(self.k):
                assert m.last_returns[s] == pytest.approx(last.get(s, 0.0), rel=1e-9, abs=1e-15)


def feed(m: HedgeMarket, stream: Iterable[Seen], cuts: Iterable[int] = ()) -> None:
    """Apply quotes in their order, as chunks of one partition each; `cuts` are further places to cut at."""
    quotes, edges = list(stream), set(cuts)
    received = max((q.ts for q in quotes), default=T0)
    run: list[bytes] = []
    for i, q in enumerate(quotes):
        run.append(q.value(m.symbols))
        if i + 1 == len(quotes) or quotes[i + 1].lane != q.lane or i in edges:
            m.apply(chunk(SNAPSHOTS, *run, lane=q.lane, received_ns=received))
            run = []


def bits(m: HedgeMarket) -> tuple[bytes, ...]:
    """Return bars and moments as bytes."""
    arrays = (*m.moments, m.last_returns, m.last_fresh, m.mid, m.half_spread_bps, m.ts_ns)
    return (*(np.ascontiguousarray(a).tobytes() for a in arrays), str((m.bar_end_ns, m.bars_closed, m.watermark_ns)).encode())


@st.composite
def streams(draw: st.DrawFn, late: bool = False, silence: bool = True) -> list[Seen]:
    """Quotes of four series, one a partition, in the order they arrive: each partition's up to 200 ms (or seconds) out of order."""
    steps = draw(
        st.lists(
            st.tuples(
                st.integers(0, 3), st.sampled_from([0, 1, 20, 90, 300, 600, *([5000] if silence else [])]), st.integers(-30, 30), st.integers(0, 200),
                st.integers(0, 30 if late else 0),
            ),
            min_size=1, max_size=90,
        )
    )  # fmt: skip
    now, cents, arrivals = T0 + draw(st.integers(0, 999)) * 1_000_000, [10_000, 20_000, 5_000, 7_000], []
    for i, (series, wait_ms, move, delay_ms, very) in enumerate(steps):
        now += wait_ms * 1_000_000
        cents[series] += move
        delay = delay_ms + (very * 200 if very > 25 else 0)
        arrivals.append((now + delay * 1_000_000, i, Seen(now, series, cents[series])))
    return [q for _, _, q in sorted(arrivals, key=lambda a: a[:2])]


@given(streams(late=True))
@settings(max_examples=60)
def test_bars_and_covariances_are_those_of_the_oracle(stream: list[Seen]) -> None:
    m, oracle = market(), Oracle(4)
    feed(m, stream)
    for q in stream:
        oracle.take(q)
    oracle.check(m)
    assert m.counters()["quotes_late"] == oracle.late
    assert m.bars_closed == oracle.closed


def walk(seconds: int, seed: int = 1, late_share: float = 0.0) -> list[Seen]:
    """Return a long stream: correlated walks, about five quotes a second and series, partitions out of order by up to 100 ms."""
    rng = np.random.default_rng(seed)
    cents = np.array([10_000.0, 20_000.0, 5_000.0, 7_000.0])
    arrivals: list[tuple[int, int, Seen]] = []
    for step in range(seconds * 20):
        now = T0 + step * 50_000_000
        cents *= 1 + 2e-4 * (rng.standard_normal() + 0.5 * rng.standard_normal(4))
        series = int(rng.integers(4))
        ts = now - int(rng.integers(40_000_000))
        delay = int(rng.integers(100_000_000)) + (3 * SECOND if rng.random() < late_share else 0)
        arrivals.append((now + delay, step, Seen(ts, series, round(float(cents[series])))))
    return [q for _, _, q in sorted(arrivals, key=lambda a: a[:2])]


def test_long_walk_is_that_of_the_oracle_and_its_correlation_is_seen() -> None:
    stream = walk(60, late_share=0.02)
    m, oracle = market(), Oracle(4)
    feed(m, stream)
    for q in stream:
        oracle.take(q)
    oracle.check(m)
    assert oracle.late > 5
    assert m.bars_closed > 50
    rows = [parse(MatrixRowMessage, value) for _, value in m.matrix_records()]
    last = rows[-1]
    assert isinstance(last, MatrixRowMessage)
    # 0.8 of walks seen at once, less because the quotes a bar ends with are not of one time
    assert all(rho is not None and 0.25 < rho <= 1.0 for rho in last.payload.correlations)
    assert last.payload.correlations[-1] == pytest.approx(1.0)
    assert last.payload.volatility_bps == pytest.approx(1e4 * 2e-4 * math.sqrt(20 * 1.25), rel=0.5)


@given(streams(late=True), st.lists(st.integers(0, 90)))
@settings(max_examples=40)
def test_how_records_are_cut_into_chunks_makes_no_difference(stream: list[Seen], cuts: list[int]) -> None:
    whole, pieces, single = market(), market(), market()
    feed(whole, stream)
    feed(pieces, stream, cuts)
    feed(single, stream, range(len(stream)))
    assert bits(whole) == bits(pieces) == bits(single)


@given(streams(), st.randoms(use_true_random=False))
@settings(max_examples=40)
def test_order_of_partitions_before_the_begin_makes_no_difference(stream: list[Seen], chance: Any) -> None:
    ahead, sorted_by_lane, mixed = market(begun=False), market(begun=False), market(begun=False)
    feed(ahead, stream)
    feed(sorted_by_lane, sorted(stream, key=lambda q: q.lane))  # stable: each partition's own order stays
    lanes = {lane: [q for q in stream if q.lane == lane] for lane in range(4)}
    merged = []
    while any(lanes.values()):
        merged.append(lanes[chance.choice([lane for lane, left in lanes.items() if left])].pop(0))
    feed(mixed, merged)
    for m in (ahead, sorted_by_lane, mixed):
        assert m.bars_closed == 0
        m.begin()
    assert bits(ahead) == bits(sorted_by_lane) == bits(mixed)


def test_bars_kept_before_the_begin_are_the_newest_ones() -> None:
    stream = walk(200)
    one, other = market(begun=False), market(begun=False)
    feed(one, stream)
    feed(other, sorted(stream, key=lambda q: (q.lane, q.ts)))
    assert other.counters()["quotes_lost"] > 500
    one.begin()
    other.begin()
    assert bits(one) == bits(other)
    assert RULES.bar_buffer - 4 <= one.bars_closed <= RULES.bar_buffer
    through = market()
    feed(through, stream)
    assert through.moments.n[0] > one.moments.n[0] > 100
    assert (through.last_returns.tobytes(), through.bar_end_ns) == (one.last_returns.tobytes(), one.bar_end_ns)


@pytest.mark.parametrize(
    "bars_before", [RULES.bar_buffer - 4, RULES.bar_buffer - 1, RULES.bar_buffer, RULES.bar_buffer + 1, 8 * RULES.bar_buffer]
)
def test_bar_too_old_for_those_kept_is_forgotten_whichever_quote_came_first(bars_before: int) -> None:
    quotes = [Seen(T0 - bars_before * SECOND, 0, 10_000), Seen(T0, 0, 10_100), Seen(T0 + 3 * SECOND, 0, 10_200)]
    one, other = market(begun=False), market(begun=False)
    feed(one, quotes)
    feed(other, quotes[::-1])
    for m in (one, other):
        m.begin()
        assert m.bars_closed == (2 if bars_before > RULES.bar_buffer - 4 else bars_before + 2)
    assert bits(one) == bits(other)


def test_missed_bar_is_a_gap_and_no_zero() -> None:
    m = market()
    for second in range(8):
        quote(m, "AAA", "99", "101", T0 + second * SECOND, lane=0)
        if second not in (3, 4):
            quote(m, "BBB", f"{49 + second}", f"{51 + second}", T0 + second * SECOND + 1, lane=1)
    quote(m, "AAA", "99", "101", T0 + 9 * SECOND, lane=0)
    quote(m, "BBB", "99", "101", T0 + 9 * SECOND, lane=1)
    # the bar before T0 and bars 0 to 7 are closed. A: 7 returns. B: no mid at the ends of 3 and 4, so no return in 3, 4, 5
    assert m.bars_closed == 9
    assert m.moments.n[[0, 1, 2]].tolist() == [7, 4, 4]
    assert m.moments.cov[0, 0] == 0.0
    assert m.last_fresh.tolist() == [True, True, False, False]
    assert m.last_returns[1] == pytest.approx(math.log(57 / 56))


def test_bar_closes_when_the_slowest_partition_is_past_it_and_a_silent_one_has_only_so_much_patience() -> None:
    m = market()
    quote(m, "AAA", "99", "101", T0 + SECOND // 2, lane=0)
    quote(m, "BBB", "99", "101", T0 + SECOND // 2, lane=1)
    quote(m, "AAA", "99", "101", T0 + 2 * SECOND, lane=0)
    assert (m.bars_closed, m.watermark_ns) == (0, T0 + SECOND // 2)
    quote(m, "BBB", "99", "101", T0 + SECOND + 249_999_999, lane=1)
    assert m.bars_closed == 0
    quote(m, "BBB", "99", "101", T0 + SECOND + 250_000_000, lane=1)
    assert (m.bars_closed, m.bar_end_ns) == (1, T0 + SECOND)
    quote(m, "AAA", "99", "101", T0 + 4 * SECOND + 250_000_000, lane=0)
    assert (m.bars_closed, m.watermark_ns) == (2, T0 + 2 * SECOND + 250_000_000)


def test_clock_that_is_ahead_closes_no_bar_early() -> None:
    m = market()
    m.apply(chunk(SNAPSHOTS, snapshot("AAA", "99", "101", T0), received_ns=T0))
    m.apply(chunk(SNAPSHOTS, snapshot("BBB", "99", "101", T0 + 59 * SECOND), received_ns=T0))
    assert m.bars_closed == 0
    for second in range(1, 62):
        now = T0 + second * SECOND
        m.apply(chunk(SNAPSHOTS, snapshot("AAA", "99", "101", now), received_ns=now))
    assert m.bars_closed == 61
    assert m.counters()["quotes_late"] == 0
    assert m.moments.n[0] == 59
    assert m.last_fresh.tolist() == [True, False, False, False]  # B's one quote was in this bar, but it has no bar before it


def test_years_without_quotes_are_passed_in_one_step() -> None:
    m = market()
    old = 1_000_000_000 * SECOND
    quote(m, "AAA", "99", "101", old)
    quote(m, "AAA", "99", "101", T0)
    quote(m, "AAA", "101", "103", T0 + SECOND)
    quote(m, "AAA", "101", "103", T0 + 3 * SECOND)
    assert m.bars_closed == (T0 - old) // SECOND + 3
    assert m.bar_end_ns == T0 + 2 * SECOND
    assert m.moments.n[0] == 1
    assert m.last_returns[0] == pytest.approx(math.log(102 / 100))


def test_spread_limit_is_the_quantile_of_the_window_at_bar_ends() -> None:
    m = market()
    assert m.spread_limit_bps(0) == math.inf
    halves = []
    start = T0 + SECOND // 2
    for second in range(101):
        half = (second * 37) % 100 + 1
        quote(m, "AAA", f"{10000 - half}", f"{10000 + half}", start + second * SECOND)
        halves.append(float(half))
        if second == 29:  # as many bars are closed
            assert m.spread_limit_bps(0) == math.inf
        if second == 30:
            assert m.spread_limit_bps(0) == pytest.approx(sorted(halves[:30])[23])
    closed = halves[: m.bars_closed][-RULES.spread_window_bars :]
    assert m.spread_limit_bps(0) == pytest.approx(sorted(closed)[math.ceil(0.8 * len(closed)) - 1])
    assert m.spread_limit_bps(1) == math.inf
    quote(m, "AAA", "9999", "10001", T0 + 10_000 * SECOND)
    assert m.spread_limit_bps(0) == math.inf  # an hour without quotes, nothing of the window is left


# --- restarts ---------------------------------------------------------------------------------------------------------------------


def rows_of(m: HedgeMarket, received_ns: int) -> Chunk:
    found = m.matrix_records()
    return chunk(MATRIX, *(value for _, value in found), keys=[key for key, _ in found], received_ns=received_ns)


def begun_from(rows: Chunk, since: Iterable[Seen], ref: Reference = FOUR, rules: MarketRules = RULES) -> HedgeMarket:
    m = market(ref, rules, begun=False)
    feed(m, sorted(since, key=lambda q: q.lane))
    m.apply(rows)
    m.begin()
    return m


def end_of(stream: Sequence[Seen]) -> list[Seen]:
    """Return quotes of all partitions so much later that every bar of the stream closes."""
    return [Seen((stream[-1].ts // SECOND + 10) * SECOND, series, 10_000) for series in range(4)]


def learned(m: HedgeMarket) -> tuple[bytes, ...]:
    return (*(np.ascontiguousarray(a).tobytes() for a in (*m.moments, m.last_returns, m.last_fresh)), str(m.bar_end_ns).encode())


@given(streams(silence=False), st.integers(1, 89), st.integers(0, 89), st.sampled_from([0, 1, 3, 50]), st.sampled_from([1, 3]))
@settings(max_examples=60)
def test_market_begun_from_rows_and_the_quotes_since_is_one_that_never_stopped(
    stream: list[Seen], stop: int, start: int, earlier_bars: int, fresh_bars: int
) -> None:
    """fresh_bars 3: quotes count for longer than a bar, so those from before the rows' bar must be read back too."""
    rules = RULES._replace(fresh_ns=fresh_bars * SECOND)
    through = market(rules=rules)
    feed(through, stream[:stop])
    rows, end = rows_of(through, T0 + 1000 * SECOND), through.bar_end_ns
    feed(through, stream[stop:])
    assert through.counters()["quotes_late"] == 0
    since = end - (earlier_bars + fresh_bars - 1) * SECOND
    again = market(rules=rules, begun=False)
    read = [q for q in stream if q.ts >= since]
    known, rest = read[:start], read[start:]
    again.apply(rows)
    feed(again, sorted(known, key=lambda q: q.lane))
    again.begin()
    feed(again, rest)
    # a partition that was not heard yet does not hold the watermark back: the last bars may still be open on one side
    for m in (through, again):
        feed(m, end_of(stream))
    assert learned(through) == learned(again)


@given(streams(silence=False), st.integers(1, 89), st.integers(0, 8000), st.booleans())
@settings(max_examples=60)
def test_quotes_that_begin_after_the_rows_leave_a_gap_and_no_wrong_return(
    stream: list[Seen], stop: int, later_ms: int, before_begin: bool
) -> None:
    through, whole = market(), Oracle(4)
    feed(through, stream[:stop])
    rows, end = rows_of(through, T0 + 1000 * SECOND), through.bar_end_ns
    for q in stream:
        whole.take(q)
    since = [q for q in stream if q.ts >= end + later_ms * 1_000_000] if end else stream
    again, part = market(begun=False), Oracle(4)
    again.apply(rows)
    if before_begin:
        feed(again, since)
    again.begin()
    if not before_begin:
        feed(again, since)
    if end:  # the oracle goes on from the same bar
        cut = Oracle(4)
        for q in stream[:stop]:
            cut.take(q)
        part.end, part.close, part.n, part.cov, part.closed = cut.end, dict(cut.close), dict(cut.n), dict(cut.cov), cut.closed
        assert cut.end == end + SECOND
        part.returns = dict(cut.returns)
    for q in since:
        part.take(q)
    feed(again, end_of(stream))
    for oracle in (part, whole):
        for q in end_of(stream):
            oracle.take(q)
    assert part.end == whole.end
    for bar_end, returns in part.returns.items():
        for series, value in returns.items():
            assert whole.returns[bar_end][series] == value
    assert again.moments.n[0] == part.n.get((0, 0), 0)
    part.check(again)


def test_quotes_from_before_the_rows_serve_the_spreads_and_no_covariance() -> None:
    stream = walk(60)
    through = market()
    feed(through, stream[:900])
    rows, end, closed = rows_of(through, T0 + 100 * SECOND), through.bar_end_ns, through.bars_closed
    feed(through, stream[900:])
    wider = reference(*FOUR.instruments, instrument("NEW"))
    early = [q for q in stream if q.ts < end]
    extra = [Seen(q.ts, 4, q.cents) for q in early if q.series == 0]
    again = begun_from(rows, [*stream, *extra], wider)
    assert again.bars_closed == through.bars_closed - closed
    assert again.spread_limit_bps(0) == through.spread_limit_bps(0) < math.inf
    assert again.moments.n[:10].tolist() == through.moments.n.tolist()
    assert again.moments.n[10:].tolist() == [0] * 5  # its bars before the rows' are none of the covariances


def test_rows_of_other_series_are_mapped_by_symbol_in_either_order() -> None:
    m = market()
    feed(m, walk(20))
    rows = rows_of(m, T0 + 100 * SECOND)
    turned = begun_from(rows, [], reference(*(instrument(s) for s in ("DDD", "NEW", "BBB", "AAA"))))
    assert turned.counters()["matrix_restored"] == 3
    assert turned.bar_end_ns == m.bar_end_ns
    names = ("AAA", "BBB", "DDD")
    from operators.ratios import correlation, volatility_ratio

    for one in names:
        for other in names:
            for which in range(4):
                a, b = (m.index[one], m.index[other]), (turned.index[one], turned.index[other])
                assert correlation(m.moments, which, *a) == correlation(turned.moments, which, *b)
                assert volatility_ratio(m.moments, which, *a) == volatility_ratio(turned.moments, which, *b)
    place = turned.index["NEW"]
    assert all(turned.moments.n[p] == 0 for p in (place * (place + 1) // 2, place * (place + 1) // 2 + 1))


def test_begin_takes_the_newest_bar_that_has_all_its_rows() -> None:
    m = market()
    stream = walk(20)
    feed(m, stream[:200])
    first, end = m.matrix_records(), m.bar_end_ns
    feed(m, stream[200:])
    second = m.matrix_records()
    assert m.bar_end_ns > end
    for mixed, expected in (
        ([*first, *second], m.bar_end_ns),
        ([*second, *first], m.bar_end_ns),
        ([*first, *second[:3]], end),
        (second[1:], 0),
        ([*first, (second[0][0], b""), *second], m.bar_end_ns),
        ([*first, *second, (second[0][0], b"")], 0),
    ):
        again = market(begun=False)
        again.apply(chunk(MATRIX, *(v for _, v in mixed), keys=[k for k, _ in mixed], received_ns=T0 + 100 * SECOND))
        again.begin()
        assert again.bar_end_ns == expected
    again.apply(chunk(MATRIX, second[0][1], received_ns=T0 + 100 * SECOND))
    assert again.counters()["matrix_ignored"] == 1
    again.begin()  # a second one does nothing
    assert again.bar_end_ns == 0


def test_bad_rows_are_counted_and_left_out() -> None:
    m = market()
    feed(m, walk(20))
    good = json.loads(m.matrix_records()[3][1])

    def changed(**payload: Any) -> bytes:
        return json.dumps({**good, "payload": {**good["payload"], **payload}}).encode()

    values = (
        b"{", json.dumps({**good, "sender": "agent.other"}).encode(), changed(n="AAAA"), changed(cov=good["payload"]["n"]),
        changed(symbol="ZZZ"), changed(symbols=["AAA", "AAA", "BBB", "DDD"]), changed(bar_end_ns=good["payload"]["bar_end_ns"] + 1),
        changed(var_row=good["payload"]["cov"].replace("A", "/")), changed(close=0.0), changed(bar_end_ns=T0 + 10**6 * SECOND),
        changed(lambdas=[0.5, 0.6, 0.7, 0.8]), changed(bar_ns=2 * SECOND, bar_end_ns=T0),
    )  # fmt: skip
    again = market(begun=False)
    again.apply(chunk(MATRIX, *values, received_ns=T0 + 100 * SECOND))
    again.begin()
    found = again.counters()
    assert found["matrix"] == len(values)
    assert found["matrix_rejected"] == len(values) - 2
    assert found["matrix_rejected_field_invalid"] == 7
    assert found["matrix_rejected_event_ts_future"] == 1
    assert found["matrix_rejected_sender_not_allowed"] == 1
    assert found["matrix_rejected_json_malformed"] == 1
    assert found["matrix_ignored"] == 2
    assert again.bar_end_ns == 0


def test_matrix_records_are_the_same_whoever_writes_them() -> None:
    one, other = market(), market()
    assert one.matrix_records() == []
    feed(one, walk(20))
    feed(other, walk(20), range(1000))
    assert one.matrix_records() == other.matrix_records()
    assert [key for key, _ in one.matrix_records()] == [b"AAA", b"BBB", b"CCC", b"DDD"]


# --- rates ------------------------------------------------------------------------------------------------------------------------


def test_fx_direct_inverse_cross_unknown_and_stale() -> None:
    ref = reference(
        instrument("EURUSD", "EUR", "USD"),
        instrument("USDJPY", "USD", "JPY"),
        instrument("BTC-USD", "BTC", "USD"),
        instrument("BTC-PERP", "BTC", "USD"),
        instrument("NOBASE", "", "USD"),
    )
    m = market(ref)
    assert m.fx(T0, "USD", "USD") == 1.0
    assert math.isnan(m.fx(T0, "EUR", "USD"))
    quote(m, "EURUSD", "1.07", "1.09", T0)
    quote(m, "USDJPY", "149", "151", T0)
    quote(m, "NOBASE", "1", "3", T0)
    assert m.fx(T0, "EUR", "USD") == pytest.approx(1.08)
    assert m.fx(T0, "USD", "EUR") == pytest.approx(1 / 1.08)
    assert m.fx(T0, "EUR", "JPY") == pytest.approx(1.08 * 150)
    assert m.fx(T0, "JPY", "EUR") == pytest.approx(1 / 150 / 1.08)
    for one, other in (("EUR", "CHF"), ("", "USD"), ("USD", ""), ("", ""), ("BTC", "USD"), ("BTC", "JPY")):
        assert math.isnan(m.fx(T0, one, other))
    quote(m, "BTC-PERP", "30000", "30010", T0)
    assert m.fx(T0, "BTC", "USD") == pytest.approx(30005)  # the first of the reference has no quote
    quote(m, "BTC-USD", "29990", "30000", T0)
    assert m.fx(T0, "BTC", "USD") == pytest.approx(29995)
    later = T0 + RULES.quote_age_ns + 1
    quote(m, "USDJPY", "149", "151", later)
    assert math.isnan(m.fx(later, "EUR", "USD"))
    assert math.isnan(m.fx(later, "EUR", "JPY"))
    assert m.fx(later, "JPY", "USD") == pytest.approx(1 / 150)
    quote(m, "USDJPY", "150", "150", later)  # locked
    assert math.isnan(m.fx(later, "JPY", "USD"))


# --- states -----------------------------------------------------------------------------------------------------------------------


def risk(book: str | None = None, ts: int = T0, level: str = "LOW", **payload: Any) -> bytes:
    body = {
        "book": book, "portfolio_var": 1.0, "daily_drawdown_pct": 0.0, "treasury_utilisation": 0.1, "volatility": 0.2, "risk_level": level,
    }  # fmt: skip
    return message(RISK, {**body, **payload}, None, ts)


def policy(book: str | None = None, ts: int = T0, digest: str = "a" * 16, **payload: Any) -> bytes:
    return message(POLICY, {"book": book, "policy_hash": digest, **payload}, None, ts)


def hedge_instrument(symbol: str, **more: Any) -> dict[str, Any]:
    return {"symbol": symbol, "venue": "X", "currency": "USD", "lot": "1", "cost_bps": 1.0, "adv_notional": 1e9, **more}


def universe(book: str = "B1", ts: int = T0, instruments: Sequence[dict[str, Any]] = (), **payload: Any) -> bytes:
    body = {"book": book, "base_currency": "USD", "instruments": list(instruments) or [hedge_instrument("AAA")]}
    return message(UNIVERSE, {**body, **payload}, None, ts)


def channel(venue: str, status: str, ts: int = T0) -> bytes:
    return message(CHANNEL, {"venue": venue, "status": status, "since_ns": ts}, None, ts)


def test_states_are_the_books_own_or_those_of_all_books() -> None:
    m = market()
    assert (m.risk("B1"), m.policy("B1"), m.universe("B1")) == (None, None, None)
    m.apply(chunk(RISK, risk(level="HIGH"), risk("B1", level="MEDIUM")))
    m.apply(chunk(POLICY, policy(digest="b" * 16), policy("B1", digest="c" * 16)))
    m.apply(chunk(UNIVERSE, universe("B1")))
    for book, level, digest in (("B1", "MEDIUM", "c" * 16), ("B2", "HIGH", "b" * 16)):
        risk_state, policy_state = m.risk(book), m.policy(book)
        assert risk_state is not None
        assert policy_state is not None
        assert (risk_state.payload.risk_level, policy_state.payload.policy_hash) == (level, digest)
    assert m.universe("B1") is not None
    assert m.universe("B2") is None


def test_newest_state_by_time_wins_and_of_equal_ones_the_later_record() -> None:
    m = market()
    m.apply(chunk(RISK, risk(ts=T0 + 5, level="HIGH"), risk(ts=T0 + 4, level="LOW")))
    state = m.risk("B")
    assert state is not None
    assert (state.payload.risk_level, state.ts_ns, m.risk_seq) == ("HIGH", T0 + 5, state.seq)
    m.apply(chunk(RISK, risk(ts=T0 + 5, level="CRITICAL")))
    newer = m.risk("B")
    assert newer is not None
    assert newer.payload.risk_level == "CRITICAL"
    assert newer.seq > state.seq
    before = m.risk_seq
    m.apply(chunk(RISK, risk(ts=T0 + 5, level="CRITICAL")))
    assert m.risk_seq == before
    found = m.counters()
    assert (found["risk"], found["risk_superseded"], found["risk_repeated"]) == (4, 1, 1)


def test_seqs_grow_with_what_they_name_and_with_nothing_else() -> None:
    m = market()
    names = ("risk_seq", "policy_seq", "universe_seq", "channel_seq", "halt_seq")

    def now() -> list[int]:
        return [getattr(m, name) for name in names]

    resume_payload = {**halt_payload("ALL"), "approvals": BOTH}
    for which, value in enumerate((chunk(RISK, risk()), chunk(POLICY, policy()), chunk(UNIVERSE, universe()), chunk(CHANNEL, channel("X", "DOWN")),
                                   chunk(HALT, message(HALT, halt_payload("ALL"), None, T0)),
                                   chunk(RESUME, message(RESUME, resume_payload, None, T0)))):  # fmt: skip
        before = now()
        m.apply(value)
        grown = [name for name, a, b in zip(names, before, now(), strict=True) if b > a]
        assert grown == [names[min(which, 4)]]
        assert max(now()) > max(before)


def test_bad_records_of_low_rate_topics_are_counted_and_left_out() -> None:
    m = market()
    for topic, short in (
        (RISK, "risk"),
        (POLICY, "policy"),
        (UNIVERSE, "universe"),
        (CHANNEL, "channel"),
        (HALT, "halt"),
        (RESUME, "resume"),
    ):
        m.apply(chunk(topic, b"{", b"\xff", b'{"a": 1}', message("other", {}, None, T0)))
        found = m.counters()
        assert found[short] == found[f"{short}_rejected"] == 4
        assert found[f"{short}_rejected_json_malformed"] == 1
        assert found[f"{short}_rejected_encoding_invalid"] == 1
    future = T0 + SECOND + 60 * SECOND + 1
    m.apply(chunk(RISK, risk(ts=future), risk(level="NICE"), b""))
    assert m.counters()["risk_rejected_event_ts_future"] == 1
    assert m.counters()["risk_rejected_enum_unknown"] >= 1
    assert m.counters()["risk_rejected_json_malformed"] == 2
    assert m.risk("B1") is None
    assert m.halts(T0) == HaltView()
    with pytest.raises(ValueError, match="not one of its topics"):
        m.apply(chunk("order.intent.route.v1", b"{}"))


def test_tombstones_delete_what_their_key_names() -> None:
    m = market()
    m.apply(chunk(POLICY, policy(), policy("B1", digest="b" * 16), keys=[b"*", b"B1"]))
    m.apply(chunk(UNIVERSE, universe("B1"), keys=[b"B1"]))
    before = m.policy_seq
    m.apply(chunk(POLICY, b"", keys=[b"B1"]))
    state = m.policy("B1")
    assert state is not None
    assert state.payload.policy_hash == "a" * 16
    assert m.policy_seq > before
    m.apply(chunk(POLICY, b"", b"", keys=[b"*", b"B9"]))
    m.apply(chunk(UNIVERSE, b"", keys=[b"B1"]))
    assert (m.policy("B1"), m.universe("B1")) == (None, None)
    assert m.counters()["policy_deleted"] == 3


def test_risk_limits_of_an_instrument_named_twice_are_the_tighter_ones() -> None:
    m = market()
    limits = [
        {"instrument": "AAA", "max_notional": 5.0, "headroom_notional": 1.0},
        {"instrument": "AAA", "max_notional": 4.0, "headroom_notional": 2.0},
    ]
    m.apply(chunk(RISK, risk(limits=limits)))
    state = m.risk("B")
    assert state is not None
    assert (state.limits["AAA"].max_notional, state.limits["AAA"].headroom_notional) == (4.0, 1.0)


def test_policy_windows_end_before_their_end() -> None:
    m = market()
    windows = [{"instrument": "AAA", "from_ns": T0 + a, "to_ns": T0 + b, "reason": "r"} for a, b in ((10, 20), (30, 40))]
    unwind = [{"id": "U1", "instrument": "BBB", "max_notional": 1.0, "expires_ns": T0 + 5}]
    m.apply(chunk(POLICY, policy(do_not_trade=windows, unwind=unwind)))
    state = m.policy("B")
    assert state is not None
    asked = [state.forbids("AAA", T0 + at) for at in (9, 10, 19, 20, 30, 40)]
    assert asked == [False, True, True, False, True, False]
    assert not state.forbids("BBB", T0 + 10)
    assert state.unwinds["BBB"][0].id == "U1"


def test_universe_version_is_one_of_content() -> None:
    m = market()
    m.apply(chunk(UNIVERSE, universe("B1"), universe("B2", T0 + 1), universe("B3", instruments=[hedge_instrument("QQQ")])))
    m.apply(chunk(UNIVERSE, universe("B1", T0 + 9, tier=1)))
    states = [m.universe(book) for book in ("B1", "B2", "B3")]
    versions = {state.version for state in states if state is not None}
    assert len(versions) == 3
    first, third = states[0], states[2]
    assert first is not None
    assert third is not None
    assert first.ts_ns == T0 + 9
    assert (first.unknown, third.unknown) == (frozenset(), frozenset({"QQQ"}))
    assert third.places == {"QQQ": 0}
    again = market()
    again.apply(chunk(UNIVERSE, universe("B1", T0 + 100)))
    same = again.universe("B1")
    assert same is not None
    assert same.version == first.version
    assert len(same.version) == 16


@pytest.mark.parametrize(
    "instruments",
    [
        [hedge_instrument("AAA"), hedge_instrument("AAA", tier=2)],
        [hedge_instrument("AAA", secondary_of="BBB")],
        [hedge_instrument("AAA", secondary_of="AAA")],
        [hedge_instrument("AAA"), hedge_instrument("BBB", secondary_of="AAA"), hedge_instrument("CCC", secondary_of="BBB")],
    ],
)
def test_universe_that_contradicts_itself_is_left_out(instruments: list[dict[str, Any]]) -> None:
    m = market()
    m.apply(chunk(UNIVERSE, universe("B1"), universe("B1", T0 + 1, instruments)))
    state = m.universe("B1")
    assert state is not None
    assert state.ts_ns == T0
    assert m.counters()["universe_rejected_field_invalid"] == 1


def test_channel_is_up_until_something_else_is_said() -> None:
    m = market()
    assert (m.channel("X").status, m.channel("X").since_ns) == ("UP", 0)
    m.apply(chunk(CHANNEL, channel("X", "DOWN", T0 + 5), channel("X", "UP", T0), channel("Y", "DEGRADED")))
    assert (m.channel("X").status, m.channel("X").since_ns, m.channel("Y").status) == ("DOWN", T0 + 5, "DEGRADED")


# --- HALT -------------------------------------------------------------------------------------------------------------------------

BOTH = [{"role": "Risk", "approver": "R. Iska"}, {"role": "COMPLIANCE", "approver": "C. Omply"}]


def halt_payload(scope: str, ident: str | None = None, effective: int | None = None) -> dict[str, Any]:
    return {"scope": scope, "id": ident, "reason": "r", "issued_by": "guard", "effective_ns": effective}


def halted(m: HedgeMarket, scope: str, ident: str | None = None, ts: int = T0, effective: int | None = None, **more: Any) -> None:
    m.apply(chunk(HALT, message(HALT, halt_payload(scope, ident, effective), None, ts, **more)))


def resumed(
    m: HedgeMarket, scope: str, ident: str | None = None, ts: int = T0 + 1, approvals: Any = None, effective: int | None = None
) -> None:
    payload = {**halt_payload(scope, ident, effective), "approvals": BOTH if approvals is None else approvals}
    m.apply(chunk(RESUME, message(RESUME, payload, None, ts)))


def test_halt_stops_what_it_names() -> None:
    m = market()
    assert m.halts(T0) == HaltView()
    halted(m, "BOOK", "B1")
    halted(m, "SYMBOL", "AAA")
    halted(m, "VENUE", "X")
    view = m.halts(T0)
    assert (view.all, view.books, view.symbols, view.venues) == (False, frozenset({"B1"}), frozenset({"AAA"}), frozenset({"X"}))
    assert [view.stops_book("B1"), view.stops_book("B2")] == [True, False]
    assert [view.stops_leg("AAA", "Y"), view.stops_leg("BBB", "X"), view.stops_leg("BBB", "Y")] == [True, True, False]
    told = m.halted_by
    assert [(record.scope, record.id, record.effective_ns, record.received_ns) for record in told] == [
        (scope, ident, 0, T0 + SECOND) for scope, ident in (("BOOK", "B1"), ("SYMBOL", "AAA"), ("VENUE", "X"))
    ]
    assert [record.seq for record in told] == sorted({record.seq for record in told})
    assert view.records == tuple(told)


@pytest.mark.parametrize(
    ("scope", "ident"), [("ALL", None), ("ALL", "x"), ("BOOK", None), ("SYMBOL", None), ("VENUE", None), ("PLANET", "B1"), ("book", "B1")]
)
def test_halt_of_all_of_nothing_named_or_of_an_unknown_scope_stops_all_and_is_resumed_by_its_own_name(
    scope: str, ident: str | None
) -> None:
    m = market()
    halted(m, scope, ident)
    assert m.halts(T0).all
    for other_scope, other_id in (("BOOK", "B1"), ("ALL", None), ("SYMBOL", None), ("VENUE", "B1"), ("UNIVERSE", "B1")):
        if (other_scope, other_id) != (scope, ident) and not other_scope == scope == "ALL":
            resumed(m, other_scope, other_id, T0 + 5)
    assert m.halts(T0 + SECOND).all
    resumed(m, scope, ident, T0 + 5)
    assert m.halts(T0 + SECOND) == HaltView()
    assert len(m.halted_by) == 1


@pytest.mark.parametrize(
    "approvals",
    [
        [],
        BOTH[:1],
        BOTH[1:],
        [{"role": "risk", "approver": "A. One"}, {"role": "compliance", "approver": " a. ONE"}],
        [{"role": "risk", "approver": "A"}, {"role": "desk", "approver": "B"}],
        [{"role": "compliance", "approver": "A"}, {"role": "compliance", "approver": "B"}],
        [{"role": "risk", "approver": " "}, {"role": "compliance", "approver": "B"}],
    ],
)
def test_resume_without_both_approvals_changes_nothing(approvals: list[dict[str, str]]) -> None:
    m = market()
    halted(m, "ALL")
    before = m.halt_seq
    resumed(m, "ALL", approvals=approvals)
    assert m.halts(T0 + SECOND).all
    assert m.halt_seq == before
    assert m.counters()["resume_rejected_approvals_missing"] == 1


def test_one_person_may_hold_both_roles_if_another_holds_one_too() -> None:
    names = [("risk", "A"), ("compliance", "A"), ("compliance", "B")]
    assert approved([Approval(role=role, approver=name) for role, name in names])


def test_halt_is_effective_at_its_time_and_ends_with_a_resume_stamped_after_it() -> None:
    m = market()
    halted(m, "BOOK", "B1", T0, effective=T0 + 100)
    views = [m.halts(T0 + at).stops_book("B1") for at in (0, 99, 100, 5000, 99)]
    assert views == [False, False, True, True, False]
    resumed(m, "BOOK", "B1", T0)  # not after the halt
    assert m.halts(T0 + 100).stops_book("B1")
    resumed(m, "BOOK", "B1", T0 + 1, effective=T0 + 200)
    assert [m.halts(T0 + at).stops_book("B1") for at in (150, 199, 200)] == [True, True, False]
    halted(m, "BOOK", "B1", T0 + 2)
    assert m.halts(T0 + 300).stops_book("B1")
    halted(m, "ALL", None, T0 + 10**6 * SECOND)  # stamped far ahead: a HALT is never refused for its time
    assert m.halts(T0).all


def test_halt_told_twice_is_one_and_an_id_used_again_is_another() -> None:
    m = market()
    ident = str(uuid.UUID(int=7))
    for _ in range(3):
        halted(m, "BOOK", "B1", msg_id=ident)
    assert len(m.halted_by) == 1
    assert m.counters()["halt_repeated"] == 2
    halted(m, "BOOK", "B2", msg_id=ident)
    assert m.halts(T0).books == {"B1", "B2"}
    resumed(m, "BOOK", "B1")
    before = m.halt_seq
    resumed(m, "BOOK", "B1")
    assert m.halt_seq == before
    assert m.counters()["resume_repeated"] == 1
    halted(m, "BOOK", "B1", msg_id=ident)  # the same HALT again after its resume
    assert m.halts(T0 + SECOND).books == {"B2"}


SCOPES = st.sampled_from([("ALL", None), ("BOOK", "B1"), ("BOOK", "B2"), ("BOOK", None), ("SYMBOL", "AAA"), ("VENUE", "X"), ("MOON", "x")])
TOLD = st.lists(
    st.tuples(st.sampled_from([HALT, RESUME]), SCOPES, st.integers(0, 12), st.none() | st.integers(0, 12), st.sampled_from([True, True, False])),
    max_size=12,
)  # fmt: skip


@given(TOLD, st.randoms(use_true_random=False))
@settings(max_examples=200)
def test_order_in_which_halts_and_resumes_arrive_makes_no_difference(told: list[Any], chance: Any) -> None:
    def value(topic: str, name: tuple[str, str | None], ts: int, effective: int | None, both: bool) -> Chunk:
        payload = halt_payload(*name, None if effective is None else T0 + effective)
        return chunk(topic, message(topic, {**payload, "approvals": BOTH if both else BOTH[:1]}, None, T0 + ts))

    one, other, watched = market(), market(), market()
    for record in told:
        one.apply(value(*record))
        watched.apply(value(*record))
        watched.halts(T0 + chance.randrange(15))  # a view asked for in between is no memory
    for record in chance.sample([*told, *told[: len(told) // 2]], len(told) + len(told) // 2):
        other.apply(value(*record))
    for at in (*range(14), 3):
        now = T0 + at
        stopped = set()
        for topic, name, ts, effective, _ in told:
            if topic == HALT and (effective is None or effective <= at):
                ended = any(t == RESUME and n == name and both and s > ts and (e is None or e <= at) for t, n, s, e, both in told)
                stopped |= set() if ended else {name}
        view = one.halts(now)
        assert view.all == any(name in (("ALL", None), ("BOOK", None), ("MOON", "x")) for name in stopped)
        assert view.books == {ident for scope, ident in stopped if scope == "BOOK" and ident}
        assert ("AAA" in view.symbols, "X" in view.venues) == (("SYMBOL", "AAA") in stopped, ("VENUE", "X") in stopped)
        assert len(view.symbols) + len(view.venues) <= 2
        for m in (other, watched):
            again = m.halts(now)
            assert (again.all, again.books, again.symbols, again.venues) == (view.all, view.books, view.symbols, view.venues)


# --- rules ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"bar_ns": 0}, {"fresh_ns": 0}, {"grace_ns": -1}, {"patience_ns": -1}, {"quote_age_ns": 0}, {"spread_quantile": 0.0},
        {"spread_quantile": 1.1}, {"spread_window_bars": 0}, {"snapshot_bars": 0}, {"bar_buffer": 60}, {"covariance_bars": 0},
    ],
)  # fmt: skip
def test_rules_that_make_no_sense_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        HedgeMarket(FOUR, RULES._replace(**change))


def test_empty_chunk_changes_nothing() -> None:
    m = market()
    m.apply(chunk(SNAPSHOTS))
    m.apply(chunk(HALT))
    assert m.counters()["snapshots"] == 0
