"""What the lane runtime asks of a domain logic, and nothing more. The runtime knows Kafka and no domain; a logic the reverse."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Generic, Protocol, TypeVar

from schemas.chunk import Capture, Chunk, Ints, Records
from state.changelog import Changelog


class LaneLogic(Protocol):
    """The logic and the state of one lane. The clock comes in as `now_ns`; nothing is read from outside."""

    def process(self, chunk: Chunk, now_ns: int) -> list[Records]:
        """Fold a chunk into the state; return what to publish. Bad records are published as dead letters, never raised."""
        ...

    def tick(self, now_ns: int) -> list[Records]:
        """Let due clocks act; called once before each capture, and now and then while idle."""
        ...

    def capture(self) -> Capture:
        """Return the state change since the last capture and start the next one. Called at a commit, after `tick`."""
        ...

    def committed(self, seq: int, offset: int) -> None:
        """Learn that capture `seq` is durable in the changelog, its first record at `offset`."""
        ...

    def obsolete_before(self) -> int | None:
        """Return the changelog offset below which nothing is needed for a restore any more, or None."""
        ...

    def restore(self, records: Iterable[tuple[int, bytes]]) -> None:
        """Rebuild the state from the changelog's (offset, value) pairs, oldest first. Called once, before anything else."""
        ...

    def positions(self) -> dict[str, int]:
        """Return, for each input topic, the offset after the last record folded into the state (absent: none yet)."""
        ...

    def counters(self) -> dict[str, int]:
        """Return the balance counters (monotone totals and gauges) for metrics."""
        ...

    def dirty(self) -> bool:
        """Return whether a capture now would write anything."""
        ...


class BroadcastLogic(Protocol):
    """A table every lane of a worker reads: market data, policies. Written only by the runtime's broadcast reader."""

    def apply(self, chunk: Chunk) -> None:
        """Fold a chunk of a broadcast topic in. Bad records are counted and left out."""
        ...

    def counters(self) -> dict[str, int]:
        """Return counters for metrics."""
        ...


class Ledger(Protocol):
    """A lane's tables, with the changelog they are restored from."""

    changelog: Changelog


def offsets_after(topics: Sequence[str], marks: Ints) -> dict[str, int]:
    """Return, by topic, the offset after the last record folded in. marks `(topics,)`: that offset + 1, 0 for a topic nothing was read of."""
    return {topic: int(mark) - 1 for topic, mark in zip(topics, marks, strict=True) if mark > 0}


L = TypeVar("L", bound=Ledger)


class OnLedger(Generic[L]):
    """The part of a LaneLogic that is the same for all that keep their state in a ledger."""

    ledger: L

    def capture(self) -> Capture:
        """Return the state change since the last capture."""
        return self.ledger.changelog.capture()

    def committed(self, seq: int, offset: int) -> None:
        """Learn that a capture is durable at an offset of the changelog."""
        self.ledger.changelog.committed(seq, offset)

    def obsolete_before(self) -> int | None:
        """Return the changelog offset below which nothing is needed."""
        return self.ledger.changelog.obsolete_before()

    def dirty(self) -> bool:
        """Return whether a capture now would write anything."""
        return self.ledger.changelog.dirty
