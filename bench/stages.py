"""A worker that tells where its processor time goes: `hedgerow run execution` with timers around the calls a chunk makes.

`python -m bench.stages FILE run execution`: on every SIGUSR1 it appends one line of JSON to FILE, the totals since the start. The flow's own
code is not changed and knows nothing of it: methods are wrapped here before the command starts. A timer costs about 1 µs and there are about
twenty a chunk, never one a record. Processor time, exclusive: what a stage calls that is a stage itself is not counted twice. librdkafka's
threads are read from /proc (Linux). Not for measuring throughput; bench.execution does that with the command as it is.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

STAGES = {
    "poll": "librdkafka hands messages over (Consumer.consume and its checks)",
    "batch": "messages to columns: value, key and offset of each (chunks_of)",
    "decode": "JSON to rows",
    "fold": "the kernels: joins, repeats, chains, totals, benchmarks",
    "lay": "addresses of tables and inputs for a kernel call",
    "wake": "reports that waited, taken again (per record)",
    "encode": "rows to JSON",
    "chain": "hash chain of the audit records",
    "output": "the rest of turning what a kernel decided into records",
    "produce": "records handed to librdkafka",
    "tick": "clocks and eviction",
    "capture": "state delta for the changelog",
    "commit": "the transaction's calls, in a thread of their own",
    "market": "quotes read and folded into the tape",
    "librdkafka": "its own threads: network, compression, checksums, queues",
    "engine": "Bytewax, the runtime's bookkeeping, the interpreter",
}
"""Stage → what it is."""
KERNELS = ("take",)
"""The kernels of operators/reconcile.py that operators/execution.py calls for a batch."""


class Timers:
    """Exclusive processor time per stage; every thread has a stack of its own."""

    def __init__(self) -> None:
        self.total_ns: dict[str, int] = defaultdict(int)
        self.calls: dict[str, int] = defaultdict(int)
        self._local = threading.local()
        self._lock = threading.Lock()

    def wrap(self, stage: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return `call` with its time counted under `stage`."""

        def timed(*args: Any, **more: Any) -> Any:
            stack: list[int] | None = getattr(self._local, "stack", None)
            if stack is None:
                stack = self._local.stack = []
            stack.append(0)
            begun = time.thread_time_ns()
            try:
                return call(*args, **more)
            finally:
                took = time.thread_time_ns() - begun
                inside = stack.pop()
                if stack:
                    stack[-1] += took
                with self._lock:
                    self.total_ns[stage] += took - inside
                    self.calls[stage] += 1

        return timed

    def method(self, stage: str, owner: Any, name: str) -> None:
        """Count a method or function that is looked up as `owner.name` at every call."""
        setattr(owner, name, self.wrap(stage, getattr(owner, name)))


class _Proxy:
    """A module's names, some of them timed. Kernels call each other by the names they were compiled with, not through this."""

    def __init__(self, module: Any, timers: Timers, timed: dict[str, str]) -> None:
        self._module = module
        for name, stage in timed.items():
            setattr(self, name, timers.wrap(stage, getattr(module, name)))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


def thread_seconds() -> tuple[float, float]:
    """Return the processor time of this process: (all threads, those of librdkafka)."""
    tick = os.sysconf("SC_CLK_TCK")
    every = rdkafka = 0.0
    for task in Path("/proc/self/task").iterdir():
        name, fields = parse_stat((task / "stat").read_text())
        spent = (int(fields[11]) + int(fields[12])) / tick
        every += spent
        if name.startswith("rdk:"):
            rdkafka += spent
    return every, rdkafka


def parse_stat(text: str) -> tuple[str, list[str]]:
    """Return (name, fields after the name) of a /proc stat line; names may hold blanks and brackets."""
    head, _, rest = text.rpartition(")")
    return head.partition("(")[2], rest.split()


def install(timers: Timers) -> None:
    """Wrap the calls of the execution flow."""
    from connectors import kafka
    from flows import runtime
    from operators import execution
    from operators.tape import Tape
    from schemas.codec import Decoder, Encoder

    timers.method("poll", kafka.Session, "poll")
    timers.method("batch", kafka, "chunks_of")
    timers.method("produce", kafka.Session, "produce")
    timers.method("commit", kafka.Session, "commit")
    timers.method("market", kafka.BroadcastReader, "poll")
    timers.method("market", Tape, "apply")
    timers.method("decode", Decoder, "decode")
    timers.method("encode", Encoder, "encode")
    logic = execution.ExecutionLogic
    for stage, name in {
        "lay": "_lay",
        "wake": "_take_again",
        "output": "_flush",
        "tick": "tick",
        "capture": "capture",
    }.items():
        timers.method(stage, logic, name)
    timers.method("output", logic, "_hand_out")
    timers.method("chain", execution, "chain")
    kernels = [name for name in KERNELS if hasattr(execution.reconcile, name)]
    if not kernels:
        raise RuntimeError(f"operators/reconcile.py has none of {', '.join(KERNELS)}: the stage `fold` would not be timed")
    execution.reconcile = _Proxy(execution.reconcile, timers, dict.fromkeys(kernels, "fold"))  # type: ignore[assignment,attr-defined]
    timers.method("engine", runtime.Runtime, "source_step")
    timers.method("engine", runtime.Runtime, "lane_step")
    timers.method("engine", runtime.Runtime, "sink_step")


def main(argv: list[str]) -> int:
    """Run the command with timers."""
    from flows import cli

    target, words = Path(argv[0]), argv[1:]
    timers = Timers()
    install(timers)

    def tell(number: int, frame: object) -> None:
        every, rdkafka = thread_seconds()
        row = {
            "wall_s": time.monotonic(),
            "cpu_s": time.process_time(),
            "threads_s": every,
            "librdkafka_s": rdkafka,
            "stages_ns": dict(timers.total_ns),
            "calls": dict(timers.calls),
        }
        with target.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    signal.signal(signal.SIGUSR1, tell)
    return cli.main(words)


def us_per(before: dict[str, Any], after: dict[str, Any], count: int) -> dict[str, float]:
    """Return µs per `count` by stage between two lines; `engine` takes what no timer saw."""
    spent = {stage: (after["stages_ns"].get(stage, 0) - before["stages_ns"].get(stage, 0)) / 1e3 for stage in STAGES}
    spent["librdkafka"] = (after["librdkafka_s"] - before["librdkafka_s"]) * 1e6
    spent["engine"] += (after["cpu_s"] - before["cpu_s"]) * 1e6 - sum(spent.values())
    return {stage: round(us / count, 3) for stage, us in spent.items()}


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
