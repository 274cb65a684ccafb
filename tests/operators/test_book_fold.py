"""The fold of fills against a slow oracle, and its corners one by one."""

from __future__ import annotations

import uuid
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.oracle import lane_of
from operators.book_fold import APPLIED, DUPLICATE, REJECTED, REROUTED, SLOTS, fold_fills, position_key
from operators.hedger import _hash, _text
from operators.snapshots import symbol_index
from schemas.chunk import join
from schemas.codec import compile_decoder
from schemas.execution import FillMessage
from schemas.reasons import HedgeReason, Reason
from state.hedges import HedgeLedger
from tests.operators.book_oracle import BookOracle, Leg
from tests.operators.hedger_bench import Bench, uid

SCALES = {"SPOT": 6, "PERP": 0, "ALT": 3}
BOOKS = ("alpha", "epsilon", "gamma")
DECODER = compile_decoder(FillMessage)
ORDERS = [uid(f"leg:{n}") for n in range(3)]
DESK = {("alpha", "DESK"), ("epsilon", "OTHER")}
PLAIN = Bench.__new__(Bench)
PLAIN.now_ns, PLAIN.serial, PLAIN.mids = 1_767_614_400_000_000_000, 0, np.array([100.0, 100.1, 50.0, 20.0])


def fill(size: str, symbol: str = "SPOT", **more: Any) -> bytes:
    known = symbol if symbol in SCALES else "SPOT"
    return PLAIN.fill(size, known, **more).replace(f'"{known}"'.encode(), f'"{symbol}"'.encode())


class Folded:
    """A ledger with three legs, and the kernel on it."""

    def __init__(self, lane: int = 0, lanes: int = 1, desk: set[tuple[str, str]] = frozenset()) -> None:  # type: ignore[assignment]
        self.ledger = HedgeLedger()
        self.where = np.array([lane, lanes, 77, 9], np.int64)
        self.desk = np.array([position_key(*(np.uint64(x) for x in (*_hash(b), *_hash(a)))) for b, a in sorted(desk)], np.uint64).reshape(
            -1, 2
        )
        self.index, self.scale = symbol_index(list(SCALES)), np.array(list(SCALES.values()), np.int64)
        for n, order in enumerate(ORDERS):
            number = uuid.UUID(order).int
            at = self.ledger.legs.insert(number >> 64, number % 2**64)
            self.ledger.legs.arrays.rows[at]["side"] = 1 if n % 2 else -1

    def fold(self, *values: bytes) -> tuple[list[int], list[int], list[int]]:
        data, bounds = join(list(values))
        batch = DECODER.decode(data, bounds)
        ledger, n = self.ledger, len(values)
        ledger.reserve(n)
        outcome, reason, leg_of = np.full((3, n), 99, np.int64)
        fold_fills(
            batch.rows, batch.arena, batch.ok, SLOTS, self.where, self.index, self.scale, self.desk, ledger.books.arrays, ledger.positions.arrays,
            ledger.fills.arrays, ledger.legs.arrays, outcome, reason, leg_of,
        )  # fmt: skip
        return outcome.tolist(), reason.tolist(), leg_of.tolist()

    def positions(self) -> dict[tuple[str, str], tuple[Decimal, Decimal, float]]:
        books, result = self.ledger.books.arrays.rows, {}
        for row in self.ledger.positions.rows:
            unit = Decimal(1).scaleb(-int(row["qty_scale"]))
            key = _text(books[row["book"]], "name"), _text(row, "symbol")
            result[key] = int(row["exposure"]) * unit, int(row["hedge"]) * unit, float(row["moved"])
        return result

    def book(self, name: str = "alpha") -> Any:
        return self.ledger.books.arrays.rows[self.ledger.books.find(*_hash(name))]


RECORDS = st.tuples(
    st.sampled_from([*SCALES, "NONE"]),
    st.sampled_from(["1", "-2", "0", "0.5", "-0.001", "0.0000001", "123456789.25", "9000000000000", "-9000000000000"]),
    st.integers(0, 6),
    st.sampled_from([1, 1, 2, 3, 63, 64, 65, 900]),
    st.sampled_from(BOOKS),
    st.sampled_from(["ACC-1", "DESK", "OTHER"]),
    st.sampled_from([None, None, *ORDERS]),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(RECORDS, min_size=1, max_size=40), st.integers(1, 40), st.integers(1, 2))
def test_fold_is_what_plain_dicts_come_to(records: list[tuple[str, str, int, int, str, str, str | None]], cut: int, lanes: int) -> None:
    oracle = BookOracle(0, lanes, SCALES, DESK, {order: Leg(1 if n % 2 else -1) for n, order in enumerate(ORDERS)})
    kernel = Folded(0, lanes, DESK)
    values = [
        fill(size, symbol, name=name, version=version, book=book, account=account, order=order or uid(f"order:{name}"))
        for symbol, size, name, version, book, account, order in records
    ]
    for part in (values[:cut], values[cut:]):
        if not part:
            continue
        outcome, reason, leg_of = kernel.fold(*part)
        for value, what, why, leg in zip(part, outcome, reason, leg_of, strict=True):
            expected, order = oracle.fold(value)
            told = {APPLIED: "applied", DUPLICATE: "duplicate", REROUTED: "rerouted"}.get(what) or Reason(why).name
            assert told == expected
            number = uuid.UUID(order).int if order is not None else 0
            assert leg == (kernel.ledger.legs.find(number >> 64, number % 2**64) if order is not None else -1)
    found = kernel.positions()
    assert {key: row[:2] for key, row in found.items()} == {key: (row[0], row[1]) for key, row in oracle.positions.items()}
    for key, (_, _, moved) in found.items():
        assert moved == pytest.approx(float(oracle.positions[key][2]))
    for order, leg in oracle.legs.items():
        number = uuid.UUID(order).int
        row = kernel.ledger.legs.arrays.rows[kernel.ledger.legs.find(number >> 64, number % 2**64)]
        # a leg has no scale of its own: its fills come at the scale of their symbol, here of one symbol or of several
        assert row["bought"] == pytest.approx(leg.bought)
        assert row["paid"] == pytest.approx(leg.paid)
    assert {_text(row, "name") for row in kernel.ledger.books.rows} == oracle.books
    for name in oracle.books:
        assert kernel.book(name)["fills"] == len(oracle.applied.get(name, ()))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(list(SCALES)), st.integers(-9, 9), st.integers(1, 4)), min_size=1, max_size=15), st.data())
def test_the_set_of_a_books_fills_does_not_depend_on_their_order(fills: list[tuple[str, int, int]], data: st.DataObject) -> None:
    values = [
        fill(str(size), symbol, name=n, version=version)
        for n, (symbol, size, versions) in enumerate(fills)
        for version in range(1, versions + 1)
    ]
    first, second, fewer = Folded(), Folded(), Folded()
    first.fold(*values)
    second.fold(*data.draw(st.permutations(values)))
    assert (first.book()["set_hi"], first.book()["set_lo"]) == (second.book()["set_hi"], second.book()["set_lo"])
    assert first.positions() == second.positions()
    changed = [value for value in values if b'"signed_delta": "0"' not in value]
    if len(changed) > 1:
        fewer.fold(*changed[:-1])
        assert (first.book()["set_hi"], first.book()["set_lo"]) != (fewer.book()["set_hi"], fewer.book()["set_lo"])


def test_versions_of_a_fill_are_each_booked_once_from_the_64th_on_only_the_first() -> None:
    kernel = Folded()
    for version in range(1, 64):
        assert kernel.fold(fill("1", name="f", version=version))[0] == [APPLIED]
        assert kernel.fold(fill("1", name="f", version=version))[0] == [DUPLICATE]
    assert kernel.fold(fill("1", name="f", version=64), fill("1", name="f", version=65))[0] == [APPLIED, DUPLICATE]
    assert kernel.positions()["alpha", "SPOT"][0] == 64


def test_busts_and_corrections_of_a_legs_fills_come_off_it() -> None:
    kernel = Folded()
    order = ORDERS[1]
    kernel.fold(fill("5", name="f", order=order), fill("-5", name="f", version=2, order=order), fill("3", name="f", version=3, order=order))
    number = uuid.UUID(order).int
    leg = kernel.ledger.legs.arrays.rows[kernel.ledger.legs.find(number >> 64, number % 2**64)]
    assert (leg["filled"], leg["undone"]) == (3_000_000, 5_000_000)
    assert kernel.positions()["alpha", "SPOT"] == (Decimal(0), Decimal(3), 0.0)


def test_an_account_is_the_desks_only_in_its_book() -> None:
    kernel = Folded(desk={("alpha", "DESK")})
    kernel.fold(fill("2", account="DESK"), fill("2", account="DESK", book="gamma"))
    assert kernel.positions()["alpha", "SPOT"][:2] == (Decimal(0), Decimal(2))
    assert kernel.positions()["gamma", "SPOT"][:2] == (Decimal(2), Decimal(0))


def test_nothing_is_booked_of_what_is_rejected_or_belongs_elsewhere() -> None:
    other = next(book for book in BOOKS if lane_of(book.encode(), 2) == 1)
    kernel = Folded(0, 2)
    outcome, reason, _ = kernel.fold(b"{", fill("1", "NONE"), fill("0.0000001"), fill("9000000000000", "SPOT"), fill("1", book=other))
    assert outcome == [REJECTED] * 4 + [REROUTED]
    assert [Reason(x) for x in reason[1:4]] == [Reason.instrument_unknown, Reason.precision_exceeds_scale, Reason.field_invalid]
    assert [len(table) for table in (kernel.ledger.books, kernel.ledger.positions, kernel.ledger.fills)] == [0, 0, 0]


def test_a_fill_triggers_its_book_and_keeps_the_time_of_the_first() -> None:
    kernel = Folded()
    kernel.fold(fill("1"))
    assert kernel.book()["first_ns"] == 77
    assert kernel.book()["triggers"] == 1 << (HedgeReason.fill - HedgeReason.fill)
    kernel.where[2] = 99
    kernel.fold(fill("1"))
    assert kernel.book()["first_ns"] == 77


def test_what_a_fill_without_change_makes_is_in_the_changelog() -> None:
    """A position put on its book's list changes the book's row too."""
    kernel = Folded()
    kernel.fold(fill("1"))
    log = [(0, value) for value in kernel.ledger.changelog.capture().values]
    kernel.fold(fill("0", "PERP"))
    log += [(1, value) for value in kernel.ledger.changelog.capture().values]
    restored = HedgeLedger()
    restored.changelog.restore(log)
    assert restored.books.arrays.rows["head"][0] == kernel.book()["head"] == 1
    assert len(restored.positions) == 2


def test_a_fill_that_changes_nothing_leaves_the_version_as_it_is() -> None:
    kernel = Folded()
    kernel.fold(fill("1"))
    before = kernel.book().copy()
    assert kernel.fold(fill("0"))[0] == [APPLIED]
    assert [kernel.book()[name] for name in ("set_hi", "set_lo", "fills")] == [before[name] for name in ("set_hi", "set_lo", "fills")]
