"""A toy flow for tests of the lane runtime: counts records by key, publishes every count once, keeps counts in the changelog.

Runs as a process (`python -m tests.broker.runtime_toy JSON`) so that tests can kill, pause and fence it. Holds no test.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from connectors.kafka import SessionConfig
from flows.runtime import Flow, Runtime
from schemas.chunk import Capture, Chunk, Records, join, split

WHOLE_EVERY = 20
"""Captures between two that carry the whole state."""


class ToyTape:
    """Counts what was broadcast."""

    def __init__(self) -> None:
        self.seen = 0

    def apply(self, chunk: Chunk) -> None:
        self.seen += len(chunk)

    def counters(self) -> dict[str, int]:
        return {"seen": self.seen}


@dataclass
class ToyLane:
    """Value in: an id. Value out: `{"id", "key", "count", "lane", "tape"}`. One record per key on the clock topic each second, if asked."""

    lane: int
    out: str
    tape: ToyTape | None = None
    slow_s: float = 0.0
    ticking: bool = False
    counts: dict[str, int] = field(default_factory=dict)
    read: dict[str, int] = field(default_factory=dict)
    changed: set[str] = field(default_factory=set)
    moved: bool = False
    seq: int = 0
    whole_seq: int | None = None
    whole_at: int | None = None
    ticked: int = 0

    def process(self, chunk: Chunk, now_ns: int) -> list[Records]:
        if self.slow_s:
            time.sleep(self.slow_s)
        values = []
        for key, value in zip(split(chunk.keys, chunk.key_bounds), split(chunk.data, chunk.bounds), strict=True):
            name = key.decode()
            if value.startswith(b"boom"):
                raise ValueError("a defect in the logic")
            self.counts[name] = self.counts.get(name, 0) + 1
            self.changed.add(name)
            told = {"id": int(value.split(b" ")[0]), "key": name, "count": self.counts[name], "lane": self.lane}
            if self.tape is not None:
                told["tape"] = self.tape.seen
            values.append(json.dumps(told).encode())
        self.read[chunk.topic] = int(chunk.offsets[-1]) + 1
        self.moved = True
        return [Records(self.out, *join(values), chunk.keys, chunk.key_bounds)]

    def tick(self, now_ns: int) -> list[Records]:
        if not self.ticking or self.ticked:
            return []
        self.ticked = 1
        return [Records(self.out, *join([json.dumps({"tick": self.lane}).encode()]), *join([b"tick"]), partition=0)]

    def dirty(self) -> bool:
        return self.moved

    def capture(self) -> Capture:
        whole = self.seq % WHOLE_EVERY == 0
        names = self.counts if whole else self.changed
        capture = Capture(
            self.seq, [json.dumps({"whole": whole, "counts": {n: self.counts[n] for n in names}, "read": self.read}).encode()]
        )
        if whole:
            self.whole_seq = self.seq
        self.seq += 1
        self.changed = set()
        self.moved = False
        return capture

    def committed(self, seq: int, offset: int) -> None:
        if seq == self.whole_seq:
            self.whole_at = offset

    def obsolete_before(self) -> int | None:
        return self.whole_at

    def restore(self, records: Iterable[tuple[int, bytes]]) -> None:
        for _, value in records:
            delta = json.loads(value)
            if delta["whole"]:
                self.counts = {}
            self.counts |= delta["counts"]
            self.read = delta["read"]

    def positions(self) -> dict[str, int]:
        return dict(self.read)

    def counters(self) -> dict[str, int]:
        return {"keys": len(self.counts), "records": sum(self.counts.values())}


def names(prefix: str) -> dict[str, str]:
    """Return the topics of a toy flow."""
    return {part: f"{prefix}.{part}" for part in ("a", "b", "out", "changelog", "tape")}


def toy_flow(prefix: str, *, tape: bool = False, slow_s: float = 0.0, ticking: bool = False) -> Flow:
    """Return the flow of the toy."""
    topics = names(prefix)
    return Flow(
        name="toy",
        inputs=(topics["a"], topics["b"]),
        outputs=(topics["out"],),
        broadcast=(topics["tape"],) if tape else (),
        changelog=topics["changelog"],
        make_logic=lambda lane, n, shared: ToyLane(lane, topics["out"], shared if isinstance(shared, ToyTape) else None, slow_s, ticking),
        make_broadcast=ToyTape if tape else lambda: None,
    )


def toy_config(bootstrap: str, prefix: str, worker: str, **more: Any) -> SessionConfig:
    """Return short timeouts for tests."""
    topics = names(prefix)
    settings: dict[str, Any] = {
        "session_timeout_ms": 3000,
        "transaction_timeout_ms": 6000,
        "truncate_interval_ms": 500,
        "broadcast": (topics["tape"],) if more.pop("tape", False) else (),
    }
    return SessionConfig(
        bootstrap=bootstrap,
        group_id=prefix,
        worker=worker,
        inputs=(topics["a"], topics["b"]),
        outputs=(topics["out"],),
        changelog=topics["changelog"],
        **(settings | more),
    )


class FaultAt:
    """Does something to this process the nth time it comes to a point."""

    def __init__(self, point: str | None, nth: int, action: str) -> None:
        self.point, self.left, self.action = point, nth, action

    def __call__(self, point: str) -> None:
        if point != self.point:
            return
        self.left -= 1
        if self.left == 0:
            print(f"fault {point}", flush=True)
            # To this very thread: one sent to the process may be taken by another thread, and this one goes on for a moment. A commit that
            # should not be begun then is, and the worker is no zombie when it wakes.
            signal.pthread_kill(threading.get_ident(), signal.SIGKILL if self.action == "kill" else signal.SIGSTOP)


def main() -> int:
    """Run one worker as the JSON argument says; print a figures line now and then."""
    told = json.loads(sys.argv[1])
    fault = FaultAt(told.get("point"), told.get("nth", 1), told.get("action", "kill"))
    flow = toy_flow(told["prefix"], **told.get("flow", {}))
    config = toy_config(told["bootstrap"], told["prefix"], told["worker"], **told.get("config", {}))
    runtime = Runtime(flow, config, fault=fault)
    peak: dict[str, int] = defaultdict(int)

    def watch() -> None:
        while True:
            now = runtime.snapshot()
            peak["uncommitted_bytes"] = max(peak["uncommitted_bytes"], now["uncommitted_bytes"])
            print(
                json.dumps({"counts": now["counts"], "lanes": sorted(now["lanes"]), "commit_ms": now["commit_ms"], "peak": peak}),
                flush=True,
            )
            time.sleep(0.05)

    threading.Thread(target=watch, daemon=True).start()
    return runtime.run()


if __name__ == "__main__":
    sys.exit(main())
