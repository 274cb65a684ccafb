"""The invariants of tca §6 that arrival and mid slippage must keep, and the streaming look-up against the offline oracle."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.tca_oracle import FILL_SCHEMA, QUOTE_SCHEMA, measure
from flows.replay import distribution
from operators.slippage import outside_touch, slippage_vs_mid2_bps, spread_capture
from schemas.fields import NULL
from state.quotes import _DETAILS, _STATUSES, MISSING, Quotes, benchmark

T0 = 1_700_000_000_000_000_000
SIDES = st.sampled_from([1, -1])
PRICES = st.integers(1, 10**9)
Quote = tuple[int, int | None, int | None, bool]
SIDE_PRICES = st.one_of(st.integers(95, 105), st.none(), st.integers(-1, 1))
QUOTES = st.tuples(st.integers(0, 100), SIDE_PRICES, SIDE_PRICES, st.sampled_from([True, True, True, False]))
CI = settings(max_examples=150, deadline=None)


def tape(rows: list[Quote], capacity: int = 256) -> Quotes:
    """Return a tape of one instrument; a second one has passed every moment asked for."""
    quotes = Quotes(2, capacity)
    n = len(rows)
    ids = np.arange(n, dtype=np.int64)
    columns = [[T0 + r[0] for r in rows], *([NULL if r[i] is None else r[i] for r in rows] for i in (1, 2))]
    quotes.insert(np.zeros(n, np.int64), *(np.array(c, np.int64) for c in columns), ids, ids, np.array([r[3] for r in rows], np.bool_))
    one = np.ones(1, np.int64)
    quotes.insert(one, one * (T0 + 10**6), one, one + 1, one, one, np.ones(1, np.bool_))
    return quotes


@CI
@given(side=SIDES, mid=PRICES, px=PRICES)
def test_t01_swapping_the_side_negates_and_the_benchmark_itself_costs_nothing(side: int, mid: int, px: int) -> None:
    assert slippage_vs_mid2_bps(side, mid, 2 * mid) == 0.0
    assert slippage_vs_mid2_bps(side, px, 2 * mid) == -slippage_vs_mid2_bps(-side, px, 2 * mid)
    assert spread_capture(side, px, mid, mid + 2) == -spread_capture(-side, px, mid, mid + 2)


@CI
@given(side=SIDES, bid=PRICES, width=st.integers(1, 1000), px=PRICES, c=st.integers(1, 10**5))
def test_t02_scaling_prices_leaves_every_figure(side: int, bid: int, width: int, px: int, c: int) -> None:
    ask = bid + width
    assert slippage_vs_mid2_bps(side, c * px, c * (bid + ask)) == slippage_vs_mid2_bps(side, px, bid + ask)
    assert spread_capture(side, c * px, c * bid, c * ask) == spread_capture(side, px, bid, ask)
    assert outside_touch(side, c * px, c * bid, c * ask) == outside_touch(side, px, bid, ask)


@CI
@given(
    fills=st.lists(st.tuples(st.integers(1, 1000), st.integers(90, 110), st.floats(-50, 50)), min_size=1, max_size=20),
    c=st.integers(2, 1000),
)
def test_t02_scaling_sizes_leaves_the_weighted_mean(fills: list[tuple[int, int, float]], c: int) -> None:
    def mean(factor: int) -> float | int | None:
        frame = pl.DataFrame(
            {
                "filled_size": [float(q * factor) for q, _, _ in fills],
                "mid_px": [float(p) for _, p, _ in fills],
                "mid_bps": [x for _, _, x in fills],
                "mid_status": ["ok"] * len(fills),
            }
        )
        return distribution(frame, "mid")["mean"]

    assert mean(c) == pytest.approx(mean(1), rel=1e-9, abs=1e-9)


@CI
@given(rows=st.lists(QUOTES, max_size=40), changed=st.lists(QUOTES, max_size=40), tau=st.integers(0, 101))
def test_t07_quotes_at_or_after_the_moment_never_matter(rows: list[Quote], changed: list[Quote], tau: int) -> None:
    before = [row for row in rows if row[0] < tau]
    other = before + [row for row in changed if row[0] >= tau]
    asked = (0, T0 + tau, 30, True, True)
    assert benchmark(tape(rows).arrays, *asked)[:4] == benchmark(tape(other).arrays, *asked)[:4]


@CI
@given(row=QUOTES, tau=st.integers(0, 200), side=SIDES, px=st.integers(95, 105))
def test_t09_any_quote_gives_a_status_and_never_a_false_zero(row: Quote, tau: int, side: int, px: int) -> None:
    _, bid, ask, _ = row
    status, detail, mid2, *_ = benchmark(tape([row]).arrays, 0, T0 + tau, 30, True, True)
    bps = slippage_vs_mid2_bps(side, px, mid2)
    one_sided = bid is None or ask is None or bid <= 0 or ask <= 0
    assert (status == MISSING) == (one_sided or tau <= row[0])
    assert math.isnan(bps) == (status == MISSING)
    assert (detail >= 0) == (_STATUSES[status] == "stale")
    if bps == 0.0:
        assert 2 * px == mid2


@CI
@given(data=st.data(), rows=st.lists(QUOTES, max_size=40, unique_by=lambda row: row[0]), tau=st.integers(0, 101))
def test_t11_order_of_arrival_within_the_lateness_does_not_matter(data: st.DataObject, rows: list[Quote], tau: int) -> None:
    shuffled = data.draw(st.permutations(rows))
    asked = (0, T0 + tau, 30, True, True)
    assert benchmark(tape(sorted(rows)).arrays, *asked)[:4] == benchmark(tape(shuffled).arrays, *asked)[:4]


@CI
@given(bid=PRICES, half=st.integers(1, 1000), side=SIDES)
def test_t12_spread_capture_at_touch_mid_and_crossing(bid: int, half: int, side: int) -> None:
    ask = bid + 2 * half
    passive, crossing = (bid, ask) if side > 0 else (ask, bid)
    assert spread_capture(side, passive, bid, ask) == 1.0
    assert spread_capture(side, crossing, bid, ask) == -1.0
    assert spread_capture(side, bid + half, bid, ask) == 0.0
    assert not outside_touch(side, crossing, bid, ask)
    assert not outside_touch(side, passive, bid, ask)
    assert outside_touch(side, crossing + side, bid, ask)


@CI
@given(
    rows=st.lists(QUOTES, max_size=40),
    fills=st.lists(st.tuples(SIDES, st.integers(95, 105), st.integers(0, 130), st.integers(0, 5)), min_size=1, max_size=20),
)
def test_oracle_every_fill_of_any_tape_agrees_with_the_stream(rows: list[Quote], fills: list[tuple[int, int, int, int]]) -> None:
    rows = sorted(rows, key=lambda row: row[0])
    n = len(rows)
    quotes = Quotes(1, 256)
    ids = np.arange(n, dtype=np.int64)
    columns = [[T0 + r[0] for r in rows], *([NULL if r[i] is None else r[i] for r in rows] for i in (1, 2))]
    quotes.insert(np.zeros(n, np.int64), *(np.array(c, np.int64) for c in columns), ids, ids, np.array([r[3] for r in rows], np.bool_))
    truth = measure(
        pl.DataFrame(
            [("A", str(i), side, px, T0 + ts - early, T0 + ts) for i, (side, px, ts, early) in enumerate(fills)], FILL_SCHEMA, orient="row"
        ),
        pl.DataFrame([("A", T0 + r[0], *r[1:]) for r in rows], QUOTE_SCHEMA, orient="row"),
        max_age_ns=30,
    )
    for (side, px, ts, early), row in zip(fills, truth.iter_rows(named=True), strict=True):
        for kind, tau in (("arrival", T0 + ts - early), ("mid", T0 + ts)):
            status, detail, mid2, quote_ts, _, _, place = benchmark(quotes.arrays, 0, tau, 30, True, True)
            bps = slippage_vs_mid2_bps(side, px, mid2)
            assert _STATUSES[status] == row[f"{kind}_status"]
            assert (_DETAILS[detail] if detail >= 0 else None) == row[f"{kind}_detail"]
            assert (None if math.isnan(bps) else bps) == row[f"{kind}_bps"]
            assert (None if place < 0 else quote_ts) == row[f"{kind}_quote_ts"]
        capture = math.nan if place < 0 else spread_capture(side, px, quotes.arrays.bid[0, place], quotes.arrays.ask[0, place])
        assert (None if math.isnan(capture) else capture) == row["spread_capture"]
