"""Keeps several workers running on one machine: starts them, restarts the fallen, stops them in order, shows what they say.

May not know Kafka or a flow: a worker is a name and a command. A worker's exit code says whether another try is worth it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import IO, TextIO

from connectors.child_process import die_with_parent

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_SETTINGS = 2
"""Bad settings or arguments: the same again would fail the same way."""
EXIT_STARTUP = 3
"""Topics missing, wrong or changed while the flow runs: somebody must act first."""
EXIT_UNREACHABLE = 4
"""No broker answers. Final for a worker's first start; later it is an outage, and the worker is started again until it is over."""
EXIT_FENCED = 5
"""Another worker owns the lanes or the name; nothing was published. Start again."""
EXIT_STATE = 6
"""State, offsets, topics and reference data do not fit together: somebody must look first."""
_FINAL = (EXIT_SETTINGS, EXIT_STARTUP, EXIT_STATE)

GIVE_UP_AFTER = 5
HEALTHY_S = 60.0
STOP_TIMEOUT_S = 30.0
SPARE_AFTER_S = 5.0
"""How long all workers must have been running before a spare is made ready: a worker that has just been started needs the processor more."""
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 10.0
_POLL_S = 0.05


@dataclass(frozen=True)
class SpareSpec:
    """A process that can become any of some workers: it makes itself ready, reads one line from its standard input, a JSON object of what its
    environment is to have, and is then that worker; at the end of its input it ends. (flows/spare.py)"""

    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class WorkerSpec:
    """A worker: its stable name, the command that runs it, what its environment has beside ours, and the spare that can take its place."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    spare: SpareSpec | None = None


class _Running:
    """A process and the threads that pass on what it says, under a name that may change."""

    def __init__(self, name: str, process: subprocess.Popen[str]) -> None:
        self.name = name
        self.process = process
        self.readers: list[threading.Thread] = []

    def finish_reading(self) -> None:
        """Wait for its last lines, so that they come before what is said about its end."""
        for reader in self.readers:
            reader.join(timeout=1.0)


class _Spare:
    """A spare over all its lives. `due`: when the next one may be started."""

    def __init__(self, spec: SpareSpec) -> None:
        self.spec = spec
        self.running: _Running | None = None
        self.due = 0.0


class _Child:
    """One worker over all its restarts."""

    def __init__(self, spec: WorkerSpec) -> None:
        self.spec = spec
        self.running: _Running | None = None
        self.began = 0.0
        self.runs = 0
        self.failures = 0
        """Failures in a row, each after less than a healthy time."""
        self.due: float | None = 0.0
        """When to start (again); None: running, or ended for good."""


class Supervisor:
    """Runs workers until all have ended or a signal asks it to stop. Use from the main thread, once.

    give_up_after: failures of one worker in a row, each within `healthy_s` of its start, after which all are stopped; 0: never.
    stop_timeout_s: how long workers may take to end on SIGTERM before they are killed.
    """

    def __init__(
        self,
        workers: Sequence[WorkerSpec],
        *,
        give_up_after: int = GIVE_UP_AFTER,
        healthy_s: float = HEALTHY_S,
        stop_timeout_s: float = STOP_TIMEOUT_S,
        out: TextIO | None = None,
        err: TextIO | None = None,
    ) -> None:
        if len({worker.name for worker in workers}) != len(workers) or not workers:
            raise ValueError("workers need names of their own, and there must be at least one")
        self._children = [_Child(worker) for worker in workers]
        self._spares = {worker.spare.command: _Spare(worker.spare) for worker in workers if worker.spare is not None}
        self._width = max(len(worker.name) for worker in workers)
        self._give_up_after = give_up_after
        self._healthy_s = healthy_s
        self._stop_timeout_s = stop_timeout_s
        self._out = out or sys.stdout
        self._err = err or sys.stderr
        self._write_lock = threading.Lock()
        self._signals = 0

    def run(self) -> int:
        """Run; return the exit code: 0 when every worker ended well or stopped when asked, else the code that ended it."""
        before = {number: signal.signal(number, self._on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
        code = EXIT_FAILED
        try:
            code = self._watch()
        finally:
            code = self._stop_all(code)
            for number, handler in before.items():
                signal.signal(number, handler)
        return code

    def pids(self) -> dict[str, int]:
        """Return the process ids of the workers that run."""
        return {child.spec.name: child.running.process.pid for child in self._children if child.running is not None}

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._signals += 1  # no more than this: handlers run between any two instructions

    def _watch(self) -> int:
        while not self._signals:
            now = time.monotonic()
            for child in self._children:
                if child.running is not None:
                    code = child.running.process.poll()
                    if code is not None:
                        final = self._ended(child, code, now)
                        if final is not None:
                            return final
                elif child.due is not None and now >= child.due:
                    self._start(child)
            if all(child.running is None and child.due is None for child in self._children):
                return EXIT_OK
            self._keep_spares(now)
            time.sleep(_POLL_S)
        return EXIT_OK

    def _start(self, child: _Child) -> None:
        child.running = self._from_spare(child.spec) or self._launch(
            child.spec.name, child.spec.command, child.spec.environment, subprocess.DEVNULL
        )
        child.began, child.due = time.monotonic(), None
        child.runs += 1

    def _launch(self, name: str, command: Sequence[str], environment: Mapping[str, str], stdin: int) -> _Running:
        process = subprocess.Popen(
            list(command),
            env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C reaches only the supervisor, which then stops the workers in order
            preexec_fn=die_with_parent(signal.SIGTERM),
        )
        running = _Running(name, process)
        assert process.stdout is not None
        assert process.stderr is not None
        running.readers = [
            threading.Thread(target=self._relay, args=(running, source, target), daemon=True)
            for source, target in ((process.stdout, self._out), (process.stderr, self._err))
        ]
        for reader in running.readers:
            reader.start()
        return running

    def _relay(self, running: _Running, source: IO[str], target: TextIO) -> None:
        for line in source:
            with self._write_lock:
                target.write(f"{running.name:<{self._width}} | " + line.rstrip("\n") + "\n")
                target.flush()
        source.close()

    def _keep_spares(self, now: float) -> None:
        """Start the spare that is missing once every worker has been running for a while."""
        quiet = all(child.running is not None and now - child.began >= SPARE_AFTER_S for child in self._children)
        for spare in self._spares.values():
            if spare.running is not None:
                code = spare.running.process.poll()
                if code is not None:  # workers are started without it; what ailed it is above
                    spare.running.finish_reading()
                    self._say(f"the spare ended with code {code}")
                    spare.running, spare.due = None, now + self._healthy_s
            elif quiet and now >= spare.due:
                spare.running = self._launch("spare", spare.spec.command, spare.spec.environment, subprocess.PIPE)

    def _from_spare(self, spec: WorkerSpec) -> _Running | None:
        """Let the spare become a worker, if there is one that lives."""
        spare = self._spares.get(spec.spare.command) if spec.spare is not None else None
        if spare is None or spare.running is None or spare.running.process.poll() is not None:
            return None
        running, spare.running = spare.running, None
        assert running.process.stdin is not None
        try:
            running.process.stdin.write(json.dumps(dict(spec.environment)) + "\n")
            running.process.stdin.close()
        except OSError:  # it ended just now
            running.process.wait()
            return None
        running.name = spec.name
        return running

    def _ended(self, child: _Child, code: int, now: float) -> int | None:
        """Decide what an ended worker means: None: go on; else the exit code to stop with."""
        assert child.running is not None
        child.running.finish_reading()
        child.running = None
        name, lasted = child.spec.name, now - child.began
        if code == EXIT_OK:
            self._say(f"{name} ended")
            return None
        if lasted >= self._healthy_s:
            child.failures = 0
        child.failures += 1
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        if code in _FINAL or (code == EXIT_UNREACHABLE and child.runs == 1):
            self._say(f"{name} {how}, its message is above: stopping, because another try would not help")
            return code
        if code == EXIT_UNREACHABLE:
            child.failures -= 1  # an outage is not the worker's failure; it is waited out
            pause_s = _LONGEST_PAUSE_S / 5
        else:
            if self._give_up_after and child.failures >= self._give_up_after:
                self._say(f"{name} {how}, {child.failures} times in a row within {self._healthy_s:.0f} s of its start: giving up")
                return code if code > 0 else EXIT_FAILED
            pause_s = min(_FIRST_PAUSE_S * 2 ** (2 * (child.failures - 1)), _LONGEST_PAUSE_S)
        child.due = now + pause_s
        self._say(f"{name} {how} after {lasted:.1f} s: starting it again in {pause_s:.1f} s")
        return None

    def _stop_all(self, code: int) -> int:
        """Stop what runs: SIGTERM, then SIGKILL after the timeout or a second signal. Return `code`, or EXIT_FAILED if that went badly."""
        for spare in self._spares.values():
            if spare.running is not None:
                spare.running.process.kill()
                spare.running.process.wait()
        self._signal_all(signal.SIGTERM)
        deadline = time.monotonic() + self._stop_timeout_s
        signals = self._signals
        while self.pids():
            for child in self._children:
                if child.running is not None and (ended := child.running.process.poll()) is not None:
                    child.running.finish_reading()
                    child.running = None
                    if ended not in (EXIT_OK, -signal.SIGTERM):
                        self._say(f"{child.spec.name} ended with code {ended} while stopping")
                        code = code or EXIT_FAILED
            if self.pids() and (time.monotonic() > deadline or self._signals > max(signals, 1)):
                self._say(f"killing {', '.join(self.pids())}: still running")
                self._signal_all(signal.SIGKILL)
                deadline = float("inf")
                signals = self._signals
                code = code or EXIT_FAILED
            time.sleep(_POLL_S)
        return code

    def _signal_all(self, number: signal.Signals) -> None:
        for child in self._children:
            if child.running is not None:
                child.running.process.send_signal(number)

    def _say(self, text: str) -> None:
        with self._write_lock:
            self._err.write(f"hedgerow: {text}\n")
            self._err.flush()
