"""Records on the move, in bulk: what one poll brought in, and what one step sends out. Never one object per record."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Bytes: TypeAlias = NDArray[np.uint8]
Ints: TypeAlias = NDArray[np.int64]


def join(parts: list[bytes]) -> tuple[Bytes, Ints]:
    """Return (bytes end to end, bounds `(n + 1,)` int64): part i is `data[bounds[i]:bounds[i + 1]]`."""
    bounds = np.zeros(len(parts) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, parts), np.int64, len(parts)), out=bounds[1:])
    return np.frombuffer(b"".join(parts), np.uint8), bounds


def split(data: Bytes, bounds: Ints) -> list[bytes]:
    """Return the parts as bytes objects: the inverse of `join`."""
    whole = data.tobytes()
    edges = bounds.tolist()
    return [whole[a:b] for a, b in pairwise(edges)]


@dataclass(frozen=True, slots=True)
class Chunk:
    """Everything one poll returned for one partition of one topic, n records in offset order.

    data, bounds: the values end to end (a tombstone is an empty value). offsets: `(n,)` int64, not always consecutive.
    keys, key_bounds: the keys end to end (a missing key is empty). received_ns: when the poll returned.
    """

    topic: str
    lane: int
    data: Bytes
    bounds: Ints
    offsets: Ints
    keys: Bytes
    key_bounds: Ints
    received_ns: int

    def __len__(self) -> int:
        return len(self.offsets)

    def key(self, i: int) -> bytes:
        """Return the key of record i."""
        return self.keys[self.key_bounds[i] : self.key_bounds[i + 1]].tobytes()

    def value(self, i: int) -> bytes:
        """Return the value of record i."""
        return self.data[self.bounds[i] : self.bounds[i + 1]].tobytes()


@dataclass(frozen=True, slots=True)
class Records:
    """n records for one topic. Without `partition` the producer's partitioner (murmur2 of the key) places each."""

    topic: str
    data: Bytes
    bounds: Ints
    keys: Bytes
    key_bounds: Ints
    partition: int | None = None

    def __len__(self) -> int:
        return len(self.bounds) - 1


@dataclass(slots=True)
class Capture:
    """A lane's state change since the last capture, as changelog values; `seq` counts captures of the lane's life."""

    seq: int
    values: list[bytes] = field(default_factory=list)
