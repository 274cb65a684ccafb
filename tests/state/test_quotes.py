"""The quote rings against a plain list kept in order: look-ups, lateness, overwriting, statuses."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.fields import NULL
from state.quotes import (
    AGED,
    CLOCK_OFFSET,
    LOCKED_OR_CROSSED,
    LOW_CONFIDENCE,
    MISSING,
    NO_DETAIL,
    OK,
    STALE,
    TAPE_BEHIND,
    Quotes,
    as_of,
    benchmark,
)

T0 = 1_700_000_000_000_000_000


def insert(quotes: Quotes, rows: list[tuple[int, int, int, int]], full: bool = True) -> None:
    """Insert (instrument, ts, bid, ask) rows; the snapshot id of a quote is its position on the tape."""
    columns = np.array(rows, np.int64).reshape(-1, 4).T.copy()
    tape = np.arange(len(rows), dtype=np.int64)
    quotes.insert(*columns, tape, tape + 1, np.full(len(rows), full))


@dataclass
class Model:
    """One instrument's quotes as a sorted list: what the ring must agree with."""

    capacity: int
    lateness: int
    kept: list[tuple[int, int]] = field(default_factory=list)
    watermark: int = NULL
    late: int = 0

    def insert(self, ts: int, tape: int) -> None:
        if self.watermark - ts > self.lateness and self.watermark != NULL:
            self.late += 1
            return
        self.watermark = max(self.watermark, ts)
        self.kept.append((ts, tape))
        self.kept.sort(key=lambda q: q[0])  # stable: of equal ts the later on the tape is after
        del self.kept[: max(0, len(self.kept) - self.capacity)]

    def as_of(self, tau: int) -> int:
        before = [tape for ts, tape in self.kept if ts < tau]
        return before[-1] if before else -1


@settings(max_examples=200, deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 60)), max_size=120),
    cut=st.integers(0, 120),
    capacity=st.sampled_from([2, 4, 16, 64]),
    lateness=st.sampled_from([0, 3, 20, 1000]),
)
def test_ring_any_order_of_arrival_agrees_with_a_sorted_list(rows: list[tuple[int, int]], cut: int, capacity: int, lateness: int) -> None:
    quotes = Quotes(3, capacity, lateness)
    models = [Model(capacity, lateness) for _ in range(3)]
    columns = np.array([(k, ts, tape, tape, tape, tape) for tape, (k, ts) in enumerate(rows)], np.int64).reshape(-1, 6)
    full = np.ones(len(rows), np.bool_)
    for part in (slice(0, cut), slice(cut, None)):
        quotes.insert(*columns[part].T.copy(), full[part])
    for tape, (k, ts) in enumerate(rows):
        models[k].insert(ts, tape)
    for k, model in enumerate(models):
        for tau in range(-1, 63):
            place = as_of(quotes.arrays, k, tau)
            assert (-1 if place < 0 else quotes.arrays.snap_hi[k, place]) == model.as_of(tau)
    assert quotes.counters()["late_quote"] == sum(model.late for model in models)
    assert quotes.arrays.tape_watermark[0] == max([NULL, *(ts for _, ts in rows)])


def test_as_of_quote_at_exactly_tau_is_not_used() -> None:
    quotes = Quotes(1)
    insert(quotes, [(0, T0, 99, 101), (0, T0 + 10, 100, 102)])
    assert benchmark(quotes.arrays, 0, T0 + 10, 1000, True, True)[2] == 200
    assert benchmark(quotes.arrays, 0, T0 + 11, 1000, True, False)[2] == 202
    assert benchmark(quotes.arrays, 0, T0, 1000, True, True)[0] == MISSING


def test_as_of_equal_ts_last_in_tape_order_wins() -> None:
    quotes = Quotes(1)
    insert(quotes, [(0, T0, 99, 101), (0, T0 + 5, 90, 91), (0, T0, 100, 102)])
    assert benchmark(quotes.arrays, 0, T0 + 1, 1000, True, True)[2] == 202


@pytest.mark.parametrize(
    ("bid", "ask", "full", "tau", "same_clock", "status", "detail"),
    [
        (99, 101, True, T0 + 1000, True, OK, NO_DETAIL),
        (99, 101, True, T0 + 1001, True, STALE, AGED),
        (99, 101, False, T0 + 1, True, STALE, LOW_CONFIDENCE),
        (101, 101, True, T0 + 1, True, STALE, LOCKED_OR_CROSSED),
        (102, 101, True, T0 + 1, True, STALE, LOCKED_OR_CROSSED),
        (99, 101, True, T0 + 1, False, STALE, CLOCK_OFFSET),
        (99, 101, True, T0 + 5001, True, STALE, TAPE_BEHIND),
        (NULL, 101, True, T0 + 1, True, MISSING, NO_DETAIL),
        (99, NULL, True, T0 + 1, True, MISSING, NO_DETAIL),
        (NULL, NULL, True, T0 + 1, True, MISSING, NO_DETAIL),
        (0, 101, True, T0 + 1, True, MISSING, NO_DETAIL),
        (-5, 101, True, T0 + 1, True, MISSING, NO_DETAIL),
        (99, 101, True, T0, True, MISSING, NO_DETAIL),
        (102, 101, False, T0 + 1001, True, STALE, AGED),
        (NULL, 101, False, T0 + 9000, False, MISSING, NO_DETAIL),
    ],
)
def test_benchmark_quality_of_the_quote_gives_the_status(
    bid: int, ask: int, full: bool, tau: int, same_clock: bool, status: int, detail: int
) -> None:
    quotes = Quotes(2)
    insert(quotes, [(0, T0, bid, ask)], full)
    insert(quotes, [(1, T0 + 5000, 1, 2)])  # the tape as a whole has passed all but one of the moments
    found = benchmark(quotes.arrays, 0, tau, 1000, same_clock, True)
    assert found[:2] == (status, detail)
    if status == MISSING:
        assert found[2:] == (NULL, NULL, 0, 0, -1)
    else:
        assert found[2:6] == (bid + ask, T0, 0, 1)


def test_benchmark_without_watermark_check_does_not_wait_for_the_tape() -> None:
    quotes = Quotes(1)
    insert(quotes, [(0, T0, 99, 101)])
    assert benchmark(quotes.arrays, 0, T0 + 1, 1000, True, True)[:2] == (STALE, TAPE_BEHIND)
    assert benchmark(quotes.arrays, 0, T0 + 1, 1000, True, False)[:2] == (OK, NO_DETAIL)


def test_benchmark_older_than_what_is_kept_is_missing_and_counted() -> None:
    quotes = Quotes(1, capacity=4)
    insert(quotes, [(0, T0 + i, 99, 101) for i in range(6)])
    assert benchmark(quotes.arrays, 0, T0 + 2, 1000, True, True)[0] == MISSING
    assert benchmark(quotes.arrays, 0, T0 + 3, 1000, True, True)[0] == OK
    assert quotes.counters()["benchmark_overrun"] == 1
    assert quotes.counters()["quotes_overwritten"] == 2


def test_benchmark_before_any_quote_is_missing_but_no_overrun() -> None:
    quotes = Quotes(1)
    assert benchmark(quotes.arrays, 0, T0, 1000, True, True)[0] == MISSING
    assert quotes.counters()["benchmark_overrun"] == 0


def test_insert_negative_instrument_is_skipped() -> None:
    quotes = Quotes(1)
    insert(quotes, [(-1, T0 + 99, 1, 2), (0, T0, 99, 101)])
    assert quotes.counters()["quotes"] == 1
    assert quotes.arrays.tape_watermark[0] == T0


def test_insert_unknown_instrument_is_refused() -> None:
    with pytest.raises(ValueError, match="instrument 1 of 1"):
        insert(Quotes(1), [(1, T0, 99, 101)])


@pytest.mark.parametrize(
    ("arguments", "word"),
    [((0,), "n_instruments"), ((1, 0), "capacity"), ((1, 3), "power of two"), ((1, 1), "capacity"), ((1, 4, -1), "allowed_lateness_ns")],
)
def test_quotes_bad_settings_are_named(arguments: tuple[int, ...], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        Quotes(*arguments)
