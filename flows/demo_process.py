"""What every demo is made of: processes that end with it, one way to say why it cannot go on, and one to be interrupted."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from connectors.child_process import die_with_parent
from flows import warm
from flows.settings import PREFIX


class DemoError(RuntimeError):
    """The demo cannot go on; the message says why."""


def to_its_end(demo: Callable[[], int]) -> int:
    """Run a demo, stopped by SIGTERM as by Ctrl-C; return its exit code, 1 with the message of a DemoError, 130 when interrupted."""
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        return demo()
    except DemoError as error:
        print(f"hedgerow: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("hedgerow: the demo was interrupted; everything it started has ended", file=sys.stderr)
        return 130
    finally:
        signal.signal(signal.SIGTERM, before)


def seconds_of(args: argparse.Namespace, option: str, usual: float, least: float, most: float) -> float | None:
    """Return how long a demo is to last; None, after saying why, when that or the seed cannot be."""
    seconds = usual if args.seconds is None else float(args.seconds)
    problem = ""
    if not least <= seconds <= most:
        problem = f"--seconds must be from {least:.0f} to {most:.0f} with {option}"
    elif not 0 <= args.seed < 2**63:
        problem = "--seed must be from 0 to 2^63 - 1"
    if problem:
        print(f"hedgerow: {problem}", file=sys.stderr)
        return None
    return seconds


def compile_kernels(say: Callable[[str], None]) -> None:
    """Compile what is not in numba's cache, so that no worker does it while it is watched. Raises DemoError when that fails."""
    if warm.is_warm():
        return
    say("compiling the kernels, once for this version: about a minute on two free cores")
    process = subprocess.Popen(
        [sys.executable, "-m", "flows", "warm"], env=environment_with({}), preexec_fn=die_with_parent(signal.SIGKILL)
    )
    try:
        code = process.wait()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    if code:
        raise DemoError(f"the kernels could not be compiled (code {code})")


def environment_with(own: Mapping[str, str], settings: bool = False) -> dict[str, str]:
    """Return the environment of a demo's process: hedgerow's settings in it are `own` (without their prefix), and with `settings` those given to us."""
    kept = f"{PREFIX}NUMBA_CACHE"
    given = {name: value for name, value in os.environ.items() if settings or not name.startswith(PREFIX) or name == kept}
    return {**given, **{PREFIX + name: value for name, value in own.items()}, "PYTHONUNBUFFERED": "1"}


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


class Child:
    """A process of a demo, `python -m module words`, with its output in files. It is killed when this process ends, however that happens."""

    def __init__(self, name: str, words: Iterable[str], environment: Mapping[str, str], folder: Path, module: str = "flows") -> None:
        self.name = name
        self.output, self.log = folder / f"{name}.out", folder / f"{name}.log"
        with self.output.open("wb") as out, self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module, *words],
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the demo, which stops its children in order
                preexec_fn=die_with_parent(signal.SIGKILL),
            )

    def check(self, may_end: bool = True) -> None:
        """Raise DemoError, with what the child said last, when it has ended badly, or at all if it may not."""
        code = self.process.poll()
        if code or (code is not None and not may_end):
            raise DemoError(f"the {self.name} ended with code {code}: {self.said()}")

    def said(self) -> str:
        """Return the last lines of the child's log."""
        return " / ".join(self.log.read_text(errors="replace").splitlines()[-3:]) or "it said nothing"

    def stop(self, timeout_s: float) -> int | None:
        """Ask the child to end and wait; return its exit code, None when it had to be killed."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            return None

    def kill(self) -> None:
        """End the child at once."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
