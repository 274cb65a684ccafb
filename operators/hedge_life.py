"""A hedge from its sending to its end: what its legs' states come to, and what may still be in flight. State in a ledger, no topics, no clock.

May not decide whether to hedge. Rules: hedging §6; docs/hedging.md, "Life cycle". Nothing is guessed: a leg without an answer is UNKNOWN and counts at full
remaining size until a report, a fill, the order agent's answer or the desk says otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from state import hedges as g
from state.hedges import HedgeLedger

SIDES = {1: "BUY", -1: "SELL"}
ENDS = {"REJECTED": g.REFUSED, "CANCELED": g.CANCELED, "EXPIRED": g.EXPIRED, "DONE": g.FILLED}
"""How a leg ended, by the order agent's word."""


class LifeRules(NamedTuple):
    """Times of a hedge's life, ns."""

    ack_ns: int = 1_000_000_000
    """The order agent's time to answer; no answer in twice that makes a leg UNKNOWN."""
    query_ns: int = 5_000_000_000
    """Between two questions about an UNKNOWN leg."""
    unknown_ns: int = 120_000_000_000
    """UNKNOWN for so long is escalated and counts as a failure; it still counts as in flight."""
    expires_ns: int = 30_000_000_000
    """How long an intent may be executed."""
    interval_ns: int = 250_000_000
    """Least time between two decisions of a book; HALT, resume and order channels do not wait."""
    rest_ns: int = 500_000_000
    """Rest of a book after a hedge was refused or expired without a fill; doubled each time in a row."""
    rest_most_ns: int = 10_000_000_000
    idle_ns: int = 1_000_000_000
    """The same while nothing may be decided at all: no universe, no policy, HALT, held by the desk."""
    completion_ns: int = 120_000_000_000
    """A book is to be covered within this time from when it was not."""
    gap_ns: int = 300_000_000_000
    """Not covered for so long is the alert `hedger-coverage-gap`."""


def legs_of(ledger: HedgeLedger, hedge: int) -> Iterator[int]:
    """Yield the rows of a hedge's legs."""
    at = int(ledger.hedges.arrays.rows[hedge]["head"])
    while at >= 0:
        yield at
        at = int(ledger.legs.arrays.rows[at]["next"])


def remaining(leg: Any) -> int:
    """Return what of a leg may still be filled, scaled: all that is not filled; of an ended one what the venue has filled and no fill told yet.

    What was filled and then taken back by a bust is told: it is not waited for again, whether the venue counts it or not.
    """
    if int(leg["end"]):
        return max(int(leg["venue_filled"]) - int(leg["filled"]) - int(leg["undone"]), 0)
    return max(int(leg["size"]) - int(leg["filled"]), 0)


def awaited(ledger: HedgeLedger, hedge: int) -> bool:
    """Return whether fills are awaited of a leg that has ended at the venue."""
    rows = ledger.legs.arrays.rows
    return any(int(rows[at]["end"]) and remaining(rows[at]) > 0 for at in legs_of(ledger, hedge))


def leg_state(leg: Any) -> int:
    """Return the state a leg is in: its end once its fills are here, else what is known of it. A bust of its fills makes no order open again."""
    filled, size, end = int(leg["filled"]), int(leg["size"]), int(leg["end"])
    if filled + int(leg["undone"]) >= size:
        return g.FILLED
    if end and remaining(leg) == 0:
        return end if end != g.FILLED or filled >= size else g.CANCELED  # done at the venue with less than the size: the rest is given up
    state = int(leg["state"])
    if state in (g.SENT, g.ACKED) and filled > 0:
        return g.PARTIAL
    return state


def hedge_state(states: list[int], filled: bool) -> int:
    """Return what the states of the legs come to. filled: whether anything was."""
    still = [state for state in states if state in g.OPEN]
    if g.UNKNOWN in still:
        return g.UNKNOWN
    if still:
        if filled or len(still) < len(states) or g.PARTIAL in still:
            return g.PARTIAL
        return g.SENT if g.SENT in still else g.ACKED
    for end in (g.MANUAL, g.REFUSED, g.EXPIRED, g.CANCELED):
        if end in states:
            return end
    return g.FILLED


def settle(ledger: HedgeLedger, hedge: int) -> tuple[int, int]:
    """Bring a hedge to the state its legs are in; return (state before, state now)."""
    rows = ledger.legs.arrays.rows
    states, filled = [], False
    for at in legs_of(ledger, hedge):
        leg = rows[at]
        state = leg_state(leg)
        if state != int(leg["state"]):
            leg["state"] = state
            ledger.legs.touch(at)
        states.append(state)
        filled = filled or int(leg["filled"]) > 0
    row = ledger.hedges.arrays.rows[hedge]
    before = int(row["state"])
    if before in (g.QUEUED, g.BLOCKED, g.SUPERSEDED, g.MANUAL):
        return before, before
    now = hedge_state(states, filled)
    if now != before:
        row["state"] = now
        ledger.hedges.touch(hedge)
    return before, now


def failed(ledger: HedgeLedger, hedge: int) -> bool:
    """Return whether an ended hedge counts as failed: REFUSED or EXPIRED with less than 95 % of its notional filled (hedging §7)."""
    row = ledger.hedges.arrays.rows[hedge]
    if int(row["state"]) not in (g.REFUSED, g.EXPIRED):
        return False
    return share_filled(ledger, hedge) < 0.95


def share_filled(ledger: HedgeLedger, hedge: int) -> float:
    """Return the share of a hedge's notional that is filled."""
    rows = ledger.legs.arrays.rows
    total = done = 0.0
    for at in legs_of(ledger, hedge):
        leg = rows[at]
        notional = float(leg["notional"])
        total += notional
        done += notional * min(int(leg["filled"]) / max(int(leg["size"]), 1), 1.0)
    return done / total if total > 0 else 1.0


def slippage_bps(leg: Any) -> float | None:
    """Return cost-positive bps of a leg's fills against the mid at decision; None before the first."""
    bought, paid, mid = float(leg["bought"]), float(leg["paid"]), float(leg["mid"])
    if bought == 0.0 or not mid > 0.0:
        return None
    return int(leg["side"]) * (paid / bought - mid) / mid * 1e4


def acked(ledger: HedgeLedger, leg: int) -> None:
    """Note that a leg is at the venue: so the order agent says, or a fill of it; after its end, or said again, it changes nothing."""
    row = ledger.legs.arrays.rows[leg]
    if not int(row["end"]) and int(row["state"]) in (g.SENT, g.UNKNOWN):
        row["state"] = g.ACKED
        ledger.legs.touch(leg)


def ended(ledger: HedgeLedger, leg: int, how: int, venue_filled: int) -> None:
    """Note that a leg ended at the venue with so much filled there, scaled. The first word on how stands; the larger amount filled does."""
    row = ledger.legs.arrays.rows[leg]
    most = max(int(row["venue_filled"]), venue_filled) if int(row["end"]) else venue_filled
    if int(row["end"]) == 0:
        row["end"] = how
    row["venue_filled"] = most
    if int(row["state"]) in (g.SENT, g.UNKNOWN):
        row["state"] = g.ACKED  # it is known now; what the venue filled and we have not seen is on its way
    ledger.legs.touch(leg)


def unknown(ledger: HedgeLedger, leg: int) -> bool:
    """Make an open leg UNKNOWN; return whether it was not before."""
    row = ledger.legs.arrays.rows[leg]
    if int(row["state"]) not in (g.SENT, g.ACKED, g.PARTIAL) or (int(row["end"]) and remaining(row) == 0):
        return False
    row["state"] = g.UNKNOWN
    ledger.legs.touch(leg)
    return True
