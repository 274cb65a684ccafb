"""The life of a hedge, state by state: what its legs come to, what may still be in flight, what repeats and late words change."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest

from operators import hedge_life as life
from state import hedges as g
from state.hedges import LEG, HedgeLedger


def leg(**fields: Any) -> Any:
    row = np.zeros(1, LEG)[0]
    row["size"], row["side"], row["state"] = 10, 1, g.SENT
    for name, value in fields.items():
        row[name] = value
    return row


def hedge_of(*legs: dict[str, Any], state: int = g.SENT) -> tuple[HedgeLedger, int, list[int]]:
    """Return a ledger with one hedge of these legs."""
    ledger = HedgeLedger()
    hedge = ledger.hedges.insert(7, 7)
    head, rows = -1, []
    for n, fields in enumerate(reversed(legs)):
        at = ledger.legs.insert(1, n)
        row = ledger.legs.arrays.rows[at]
        for name, value in {"size": 10, "side": 1, "state": g.SENT, "notional": 100.0, "hedge": hedge, **fields}.items():
            row[name] = value
        row["next"], head = head, at
        rows.insert(0, at)
    row = ledger.hedges.arrays.rows[hedge]
    row["head"], row["state"] = head, state
    return ledger, hedge, rows


# --- one leg ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "state", "remaining"),
    [
        ({}, g.SENT, 10),
        ({"state": g.ACKED}, g.ACKED, 10),
        ({"filled": 4}, g.PARTIAL, 6),
        ({"state": g.ACKED, "filled": 4}, g.PARTIAL, 6),
        ({"state": g.UNKNOWN}, g.UNKNOWN, 10),
        ({"state": g.UNKNOWN, "filled": 4}, g.UNKNOWN, 6),  # the silence is about the rest
        ({"filled": 10}, g.FILLED, 0),
        ({"filled": 12}, g.FILLED, 0),  # the venue did more than it was asked
        ({"state": g.UNKNOWN, "filled": 10}, g.FILLED, 0),
        ({"state": g.ACKED, "end": g.REFUSED}, g.REFUSED, 0),
        ({"state": g.ACKED, "end": g.CANCELED, "venue_filled": 4, "filled": 4}, g.CANCELED, 0),
        ({"state": g.ACKED, "end": g.CANCELED, "venue_filled": 4}, g.ACKED, 4),  # its fills are on their way
        ({"state": g.ACKED, "end": g.CANCELED, "venue_filled": 4, "filled": 1}, g.PARTIAL, 3),
        ({"state": g.ACKED, "end": g.EXPIRED, "filled": 1}, g.EXPIRED, 0),  # more than the agent knew of
        ({"state": g.ACKED, "end": g.FILLED, "venue_filled": 10, "filled": 10}, g.FILLED, 0),
        ({"state": g.ACKED, "end": g.FILLED, "venue_filled": 9, "filled": 9}, g.CANCELED, 0),  # done with less than the size
        ({"state": g.MANUAL, "end": g.MANUAL}, g.MANUAL, 0),
        ({"state": g.ACKED, "end": g.CANCELED, "venue_filled": 6, "filled": 0, "undone": 6}, g.CANCELED, 0),  # filled, told, and busted
        ({"state": g.ACKED, "end": g.CANCELED, "venue_filled": 6, "filled": 2, "undone": 3}, g.PARTIAL, 1),
        ({"filled": 0, "undone": 6}, g.SENT, 10),  # open: a bust may have given it back to the book of the venue
        ({"filled": -3}, g.SENT, 13),  # a bust before its fill
    ],
)
def test_leg_is_what_is_known_of_it(fields: dict[str, Any], state: int, remaining: int) -> None:
    row = leg(**fields)
    assert g.STATES[life.leg_state(row)] == g.STATES[state]
    assert life.remaining(row) == remaining


def test_remaining_is_never_negative_and_nothing_remains_of_an_ended_leg_whose_fills_are_here() -> None:
    for size, filled, venue, end, undone in product((0, 1, 10), (-2, 0, 1, 10, 12), (0, 1, 10), (0, g.CANCELED, g.FILLED), (0, 3)):
        row = leg(size=size, filled=filled, venue_filled=venue, end=end, undone=undone)
        left = life.remaining(row)
        assert left >= 0
        if end and filled >= venue:
            assert left == 0
        if filled >= size:
            assert life.leg_state(row) == g.FILLED


@pytest.mark.parametrize(
    ("side", "paid", "bought", "mid", "bps"),
    [
        (1, 1001.0, 10.0, 100.0, 10.0),  # bought above the mid: a cost
        (-1, -1001.0, -10.0, 100.0, -10.0),  # sold above it: a gain
        (-1, -999.0, -10.0, 100.0, 10.0),
        (1, 0.0, 0.0, 100.0, None),
        (1, 1001.0, 10.0, 0.0, None),
        (1, 1001.0, 10.0, float("nan"), None),
    ],
)
def test_slippage_is_a_cost_when_above_zero(side: int, paid: float, bought: float, mid: float, bps: float | None) -> None:
    found = life.slippage_bps(leg(side=side, paid=paid, bought=bought, mid=mid))
    assert found == (None if bps is None else pytest.approx(bps))


# --- what the order agent says ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after"),
    [(g.SENT, g.ACKED), (g.UNKNOWN, g.ACKED), (g.ACKED, g.ACKED), (g.PARTIAL, g.PARTIAL), (g.FILLED, g.FILLED), (g.CANCELED, g.CANCELED)],
)
def test_acknowledgement_moves_only_what_was_not_known(before: int, after: int) -> None:
    ledger, _, (at,) = hedge_of({"state": before})
    life.acked(ledger, at)
    assert ledger.legs.arrays.rows[at]["state"] == after


def test_acknowledgement_after_the_end_changes_nothing() -> None:
    ledger, _, (at,) = hedge_of({"state": g.UNKNOWN, "end": g.CANCELED, "venue_filled": 3})
    life.acked(ledger, at)
    assert ledger.legs.arrays.rows[at]["state"] == g.UNKNOWN


def test_first_word_on_the_end_stands_and_so_does_the_larger_amount() -> None:
    ledger, _, (at,) = hedge_of({})
    row = ledger.legs.arrays.rows[at]
    life.ended(ledger, at, g.CANCELED, 4)
    assert (row["end"], row["venue_filled"], row["state"]) == (g.CANCELED, 4, g.ACKED)
    life.ended(ledger, at, g.EXPIRED, 6)
    life.ended(ledger, at, g.REFUSED, 2)
    assert (row["end"], row["venue_filled"]) == (g.CANCELED, 6)


def test_silence_makes_open_legs_unknown_once() -> None:
    for state, end, venue, becomes in (
        (g.SENT, 0, 0, True), (g.ACKED, 0, 0, True), (g.PARTIAL, 0, 0, True), (g.UNKNOWN, 0, 0, False), (g.FILLED, 0, 0, False),
        (g.ACKED, g.CANCELED, 0, False), (g.ACKED, g.CANCELED, 4, True), (g.QUEUED, 0, 0, False), (g.MANUAL, g.MANUAL, 0, False),
    ):  # fmt: skip
        ledger, _, (at,) = hedge_of({"state": state, "end": end, "venue_filled": venue})
        assert life.unknown(ledger, at) is becomes
        assert (ledger.legs.arrays.rows[at]["state"] == g.UNKNOWN) == (becomes or state == g.UNKNOWN)


# --- the hedge --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("states", "filled", "state"),
    [
        ([g.SENT], False, g.SENT),
        ([g.ACKED], False, g.ACKED),
        ([g.SENT, g.ACKED], False, g.SENT),
        ([g.ACKED, g.ACKED], False, g.ACKED),
        ([g.PARTIAL], True, g.PARTIAL),
        ([g.ACKED, g.FILLED], True, g.PARTIAL),
        ([g.SENT, g.REFUSED], False, g.PARTIAL),  # one leg has ended, the other is still open
        ([g.ACKED], True, g.PARTIAL),
        ([g.UNKNOWN, g.FILLED], True, g.UNKNOWN),
        ([g.UNKNOWN, g.SENT], False, g.UNKNOWN),
        ([g.FILLED, g.FILLED], True, g.FILLED),
        ([g.FILLED, g.CANCELED], True, g.CANCELED),
        ([g.CANCELED, g.EXPIRED], False, g.EXPIRED),
        ([g.EXPIRED, g.REFUSED], False, g.REFUSED),
        ([g.REFUSED, g.MANUAL], False, g.MANUAL),
    ],
)
def test_hedge_is_what_its_legs_come_to(states: list[int], filled: bool, state: int) -> None:
    assert g.STATES[life.hedge_state(states, filled)] == g.STATES[state]
    assert g.STATES[life.hedge_state(states[::-1], filled)] == g.STATES[state]


def test_hedge_is_open_exactly_while_a_leg_is() -> None:
    known = (g.SENT, g.ACKED, g.PARTIAL, g.UNKNOWN, g.FILLED, g.REFUSED, g.CANCELED, g.EXPIRED, g.MANUAL)
    for states in product(known, repeat=3):
        for filled in (False, True):
            assert (life.hedge_state(list(states), filled) in g.OPEN) == any(state in g.OPEN for state in states)


def test_settling_brings_legs_and_hedge_to_their_states_and_back_when_a_fill_is_busted() -> None:
    ledger, hedge, (first, second) = hedge_of({"filled": 10}, {"filled": 3, "state": g.ACKED})
    assert life.settle(ledger, hedge) == (g.SENT, g.PARTIAL)
    rows = ledger.legs.arrays.rows
    assert [g.STATES[int(rows[at]["state"])] for at in (first, second)] == ["FILLED", "PARTIAL"]
    life.ended(ledger, second, g.CANCELED, 3)
    assert life.settle(ledger, hedge) == (g.PARTIAL, g.CANCELED)
    rows[first]["filled"] = 0
    assert life.settle(ledger, hedge) == (g.CANCELED, g.CANCELED)  # an ended hedge stays ended: what is open now is a new attempt's


@pytest.mark.parametrize("state", [g.QUEUED, g.BLOCKED, g.SUPERSEDED, g.MANUAL])
def test_settling_leaves_what_was_never_sent_or_is_the_desks(state: int) -> None:
    ledger, hedge, _ = hedge_of({"filled": 10}, state=state)
    assert life.settle(ledger, hedge) == (state, state)


def test_legs_come_in_their_order_and_fills_are_awaited_of_ended_ones_only() -> None:
    ledger, hedge, rows = hedge_of({"state": g.ACKED}, {"end": g.CANCELED, "venue_filled": 4, "filled": 4}, {"filled": 1})
    assert list(life.legs_of(ledger, hedge)) == rows
    assert not life.awaited(ledger, hedge)
    ledger.legs.arrays.rows[rows[1]]["filled"] = 3
    assert life.awaited(ledger, hedge)


@pytest.mark.parametrize(
    ("state", "filled", "failed"),
    [
        (g.REFUSED, 0, True),
        (g.EXPIRED, 9, True),
        (g.EXPIRED, 10, False),
        (g.CANCELED, 0, False),
        (g.MANUAL, 0, False),
        (g.SUPERSEDED, 0, False),
    ],
)
def test_failed_is_refused_or_expired_without_nearly_all_of_it(state: int, filled: int, failed: bool) -> None:
    ledger, hedge, _ = hedge_of({"filled": filled}, {"filled": filled, "notional": 50.0}, state=state)
    assert life.failed(ledger, hedge) is failed


def test_share_filled_is_weighted_by_notional_and_no_leg_counts_for_more_than_itself() -> None:
    ledger, hedge, _ = hedge_of({"filled": 20}, {"filled": 0, "notional": 300.0})
    assert life.share_filled(ledger, hedge) == pytest.approx(0.25)
    ledger, hedge, _ = hedge_of()
    assert life.share_filled(ledger, hedge) == 1.0
