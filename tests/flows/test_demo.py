"""`hedgerow demo` as people start it: it ends with its table and code 0, and leaves nothing running however it is ended."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows import demo, warm

ROOT = Path(demo.__file__).parents[1]
COMMAND = [sys.executable, "-m", "flows", "demo"]
SHORT = ("--seconds", "2", "--rate", "300")
SETTINGS = {name: value for name, value in os.environ.items() if not name.startswith("HEDGEROW_") or name == "HEDGEROW_NUMBA_CACHE"}


@pytest.fixture(scope="module", autouse=True)
def kernels() -> None:
    """Compile beforehand, so that the tests' time limits are about the demo."""
    warm.warm()


def environment(**more: str) -> dict[str, str]:
    return {**SETTINGS, **more}


@pytest.fixture
def started() -> Iterator[subprocess.Popen[str]]:
    """Yield a demo that routes orders by now."""
    process = subprocess.Popen([*COMMAND, "--plain", "--seconds", "60"], cwd=ROOT, env=environment(), stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)  # fmt: skip
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if "orders are routed" in line:
                break
        yield process
    finally:
        process.kill()
        process.communicate()


def children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in found.read_text().split()] if found.exists() else []


def runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"  # ended, only not yet asked for by whoever inherited it


def end_within(pids: list[int], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while any(runs(pid) for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def test_demo_plain_ends_with_every_correctness_row_and_code_0() -> None:
    told = subprocess.run([*COMMAND, "--plain", *SHORT, "--seed", "5"], cwd=ROOT, env=environment(HEDGEROW_KAFKA="nowhere:1"),
                          capture_output=True, text=True, timeout=200, check=False)  # fmt: skip
    assert told.returncode == 0, told.stdout + told.stderr
    assert told.stderr == ""
    assert "\x1b" not in told.stdout
    lines = told.stdout.splitlines()
    assert lines[-1] == "every correctness row holds"
    rows = {line[18:].split(":")[0]: line[:18].strip() for line in lines if " (aim: " in line}
    checks = ("inputs taken in", "each ends in one outcome", "good fills sent are published", "fills on the topic",
              "versions repeated, skipped", "duplicates let through", "spoiled kept as dead letters", "market data taken in",
              "dropped unread by the broker")  # fmt: skip
    assert {rows[name] for name in checks} == {"ok"}
    assert rows["exactly once through crashes"] == "not measured here"
    assert any("exactly-once is not proven here" in line for line in lines)


def test_demo_on_a_terminal_shows_the_board_and_then_the_table() -> None:
    primary, secondary = pty.openpty()
    process = subprocess.Popen([*COMMAND, *SHORT], cwd=ROOT, env=environment(TERM="xterm-256color", COLUMNS="100", LINES="30"),
                               stdin=secondary, stdout=secondary, stderr=subprocess.PIPE)  # fmt: skip
    os.close(secondary)
    shown = bytearray()
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline:
        if select.select([primary], [], [], 1.0)[0]:
            try:
                part = os.read(primary, 65_536)
            except OSError:  # the other side is closed: Linux says EIO
                break
            if not part:
                break
            shown += part
    assert process.wait(timeout=120) == 0
    os.close(primary)
    text = shown.decode()
    for words in ("every input ends in one of", "slippage by venue", "dead letters by reason", "last fills", "service levels of this run"):
        assert words in text
    assert text.index("slippage by venue") < text.index("service levels of this run")
    assert "\x1b[?1049l" in text  # the terminal is given back as it was


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_demo_interrupted_ends_at_once_and_leaves_nothing_running(started: subprocess.Popen[str], number: signal.Signals) -> None:
    pids = children(started.pid)
    assert len(pids) == 2
    started.send_signal(number)
    _, err = started.communicate(timeout=120)
    assert started.returncode == 130
    assert err == "hedgerow: the demo was interrupted; everything it started has ended\n"
    assert end_within(pids, 5)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel ends the children only on Linux")
def test_demo_killed_takes_its_children_with_it(started: subprocess.Popen[str]) -> None:
    pids = children(started.pid)
    assert len(pids) == 2
    started.kill()
    assert end_within(pids, 10)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_demo_worker_that_dies_is_told_with_code_1(started: subprocess.Popen[str]) -> None:
    pids = children(started.pid)
    worker = next(pid for pid in pids if b"run" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"))
    os.kill(worker, signal.SIGKILL)
    _, err = started.communicate(timeout=120)
    assert started.returncode == 1
    assert err.startswith("hedgerow: the worker ended with code -9")
    assert end_within(pids, 5)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--seconds", "0"), "--seconds must be from 1 to 600"),
        (("--rate", "100000"), "--rate must be from 1 to 4000"),
        (("--seed", "-1"), "--seed must be"),
        (("--faults", "gremlins"), "--faults: 'gremlins' is none of"),
    ],
)
def test_demo_bad_arguments_give_one_line_and_code_2(words: tuple[str, ...], said: str) -> None:
    told = subprocess.run([*COMMAND, *words], cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=60, check=False)
    assert told.returncode == 2
    assert said in told.stderr
    assert told.stderr.count("\n") == 1
