"""Who has been told to stop: HALTs and resumes, whatever order they come in. Knows no topic and no clock. Rules: hedging §6, "HALT rule".

Both are only collected; what holds at a moment is derived from all of them, so that two topics read side by side, or anew after a restart, come
to the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from schemas.hedging import Approval, Halt

ALL, BOOK, SYMBOL, VENUE = "ALL", "BOOK", "SYMBOL", "VENUE"
_FIRST, _LAST = -(2**63), 2**63 - 1


class HaltRecord(NamedTuple):
    """A HALT as it was told. effective_ns 0: at once. id "" where none was given (or the scope is ALL). seq: grows with each record."""

    msg_id: str
    scope: str
    id: str
    effective_ns: int
    ts_ns: int
    received_ns: int
    seq: int


@dataclass(frozen=True, slots=True)
class HaltView:
    """What is stopped at a moment. all: everything. records: the HALTs behind it, in order of arrival."""

    all: bool = False
    books: frozenset[str] = frozenset()
    symbols: frozenset[str] = frozenset()
    venues: frozenset[str] = frozenset()
    records: tuple[HaltRecord, ...] = ()

    def stops_book(self, book: str) -> bool:
        """Return whether nothing of a book may be traded."""
        return self.all or book in self.books

    def stops_leg(self, symbol: str, venue: str) -> bool:
        """Return whether an instrument may not be traded at a venue, whatever the book."""
        return self.all or symbol in self.symbols or venue in self.venues


def approved(approvals: list[Approval]) -> bool:
    """Return whether two different people agreed, one for risk and one for compliance; case and outer blanks make no difference."""
    names: dict[str, set[str]] = {"risk": set(), "compliance": set()}
    for approval in approvals:
        role, name = approval.role.strip().casefold(), approval.approver.strip().casefold()
        if role in names and name:
            names[role].add(name)
    return any(one != other for one in names["risk"] for other in names["compliance"])


class Halts:
    """All HALTs and valid resumes told so far. `told`: the HALTs in order of arrival, also those that have ended.

    A HALT ends with a resume of the same scope and id that is stamped after it and in effect itself. A scope is taken as it is written: one
    that is not known stops everything, as does a BOOK, SYMBOL or VENUE without an id, and is resumed under its own name. The id of ALL says nothing.
    """

    def __init__(self) -> None:
        self.told: list[HaltRecord] = []
        self._resumes: dict[tuple[str, str], list[tuple[int, int]]] = {}
        self._seen: set[tuple[str, ...]] = set()
        self._view = HaltView()
        self._from_ns, self._until_ns = _FIRST, _LAST

    def halt(self, msg_id: str, ts_ns: int, payload: Halt, received_ns: int, seq: int) -> bool:
        """Take a HALT; return False for one that is known. A message id that comes again with other content is another HALT."""
        name = _name(payload)
        if self._known("halt", msg_id, ts_ns, payload):
            return False
        self.told.append(HaltRecord(msg_id, *name, payload.effective_ns or 0, ts_ns, received_ns, seq))
        self._until_ns = _FIRST
        return True

    def resume(self, msg_id: str, ts_ns: int, payload: Halt) -> bool:
        """Take a resume; return False for one that is known. Raises ValueError without the approvals of risk and compliance."""
        if not approved(payload.approvals):
            raise ValueError("a resume needs approvals of risk and of compliance, by two people")
        if self._known("resume", msg_id, ts_ns, payload):
            return False
        self._resumes.setdefault(_name(payload), []).append((ts_ns, payload.effective_ns or 0))
        self._until_ns = _FIRST
        return True

    def view(self, now_ns: int) -> HaltView:
        """Return what is stopped at a time."""
        if not self._from_ns <= now_ns < self._until_ns:
            self._derive(now_ns)
        return self._view

    def _known(self, kind: str, msg_id: str, ts_ns: int, payload: Halt) -> bool:
        identity = (kind, msg_id, str(ts_ns), *_name(payload), str(payload.effective_ns))
        known = identity in self._seen
        self._seen.add(identity)
        return known

    def _derive(self, now_ns: int) -> None:
        """Make the view of a time, and find from when to when it holds."""
        effects = [record.effective_ns for record in self.told]
        effects += [effective_ns for resumes in self._resumes.values() for _, effective_ns in resumes]
        self._from_ns = max((at for at in effects if at <= now_ns), default=_FIRST)
        self._until_ns = min((at for at in effects if at > now_ns), default=_LAST)
        last = {
            name: max((ts_ns for ts_ns, effective_ns in resumes if effective_ns <= now_ns), default=_FIRST)
            for name, resumes in self._resumes.items()
        }
        active = tuple(r for r in self.told if r.effective_ns <= now_ns and r.ts_ns >= last.get((r.scope, r.id), _FIRST))
        ids: dict[str, set[str]] = {BOOK: set(), SYMBOL: set(), VENUE: set()}
        everything = False
        for record in active:
            if record.scope in ids and record.id:
                ids[record.scope].add(record.id)
            else:
                everything = True
        self._view = HaltView(everything, frozenset(ids[BOOK]), frozenset(ids[SYMBOL]), frozenset(ids[VENUE]), active)


def _name(payload: Halt) -> tuple[str, str]:
    """Return (scope, id) as halts and resumes are matched by."""
    return payload.scope, "" if payload.scope == ALL else payload.id or ""
