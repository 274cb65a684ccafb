"""Documents with a changelog: what was captured comes back, whatever was cut off, and old records become obsolete."""

from __future__ import annotations

import random

import pytest

from state.blobs import COPY_FLOOR, Blobs
from state.changelog import VALUE_BYTES, StateMismatch


def commit(blobs: Blobs, log: list[tuple[int, bytes]]) -> None:
    capture = blobs.capture()
    if capture.values:
        first = len(log)
        log += [(first + i, value) for i, value in enumerate(capture.values)]
        blobs.committed(capture.seq, first)


def restored(log: list[tuple[int, bytes]], first: int = 0) -> Blobs:
    found = Blobs("test")
    found.restore(log[first:])
    return found


def test_what_was_captured_comes_back() -> None:
    blobs, log = Blobs("test"), list[tuple[int, bytes]]()
    blobs.put("a", {"x": 0.1 + 0.2, "y": [None, "é\n"]})
    blobs.put("b", [1])
    assert blobs.dirty
    commit(blobs, log)
    assert not blobs.dirty
    blobs.put("a", {"x": 0.1 + 0.2, "y": [None, "é\n"]})
    assert not blobs.dirty
    assert blobs.capture().values == []
    blobs.remove("b")
    blobs.remove("c")
    blobs.put("c", 0)
    commit(blobs, log)
    found = restored(log)
    assert (found.docs, found.seq) == (blobs.docs, 2)


@pytest.mark.parametrize("seed", range(4))
def test_any_cut_restores_to_that_commit_and_goes_on_alike(seed: int) -> None:
    noise = random.Random(seed)
    blobs, log = Blobs("test"), list[tuple[int, bytes]]()
    history = []
    for _ in range(300):
        for _ in range(noise.randrange(1, 4)):
            key = f"k{noise.randrange(20)}"
            if noise.random() < 0.2:
                blobs.remove(key)
            else:
                blobs.put(key, {"n": noise.random(), "pad": "x" * noise.randrange(3_000)})
        commit(blobs, log)
        history.append((len(log), blobs.obsolete_before() or 0, dict(blobs.docs)))
    assert history[-1][1] > 0
    for end, first, docs in history[::7]:
        assert restored(log[:end], first).docs == docs
    again, more = restored(log[: history[150][0]], history[150][1]), list(log[: history[150][0]])
    again.put("new", 1)
    commit(again, more)
    assert restored(more, again.obsolete_before() or history[150][1]).docs == history[150][2] | {"new": 1}


def test_large_states_are_cut_into_values() -> None:
    blobs, log = Blobs("test"), list[tuple[int, bytes]]()
    for i in range(10):
        blobs.put(f"k{i}", "x" * (VALUE_BYTES // 3))
    commit(blobs, log)
    assert len(log) == 5
    assert max(len(value) for _, value in log) < VALUE_BYTES + 200
    assert restored(log).docs == blobs.docs
    blobs.put("big", "x" * VALUE_BYTES)
    with pytest.raises(ValueError, match="document big of test"):
        blobs.capture()


def test_a_copy_that_never_became_durable_makes_nothing_obsolete() -> None:
    blobs, log = Blobs("test"), list[tuple[int, bytes]]()
    blobs.put("a", 1)
    blobs.capture()  # aborted: the lane ends with its transaction, or goes on
    assert blobs.obsolete_before() is None
    while blobs.obsolete_before() is None:
        blobs.put("a", "x" * (COPY_FLOOR // 2) + str(len(log)))
        commit(blobs, log)
    assert restored(log, blobs.obsolete_before() or 0).docs == blobs.docs


def test_foreign_records_are_refused() -> None:
    with pytest.raises(StateMismatch, match="no record of test"):
        restored([(0, b"HGCL\x00")])
    other = Blobs("other")
    other.put("a", 1)
    with pytest.raises(StateMismatch, match="of other format 1"):
        restored([(0, other.capture().values[0])])
