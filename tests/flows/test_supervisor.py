"""The supervisor with real child processes: restart, giving up, start-up errors, outages, stopping, orphans."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from flows import supervisor
from flows.supervisor import EXIT_OK, EXIT_SETTINGS, EXIT_STARTUP, EXIT_STATE, EXIT_UNREACHABLE, SpareSpec, Supervisor, WorkerSpec

ROOT = Path(supervisor.__file__).parents[1]


def worker(code: str, name: str = "w-0", **environment: str) -> WorkerSpec:
    return WorkerSpec(name, (sys.executable, "-c", f"import os, signal, sys, time, pathlib\n{code}"), environment)


def counting(marks: Path, then: str) -> str:
    """Return code that counts its runs in `run` (from 1) with files in `marks`, and then does `then`."""
    return f"m = pathlib.Path({str(marks)!r}); run = len(list(m.iterdir())) + 1; (m / str(run)).touch()\n{then}"


def supervise(*workers: WorkerSpec, **options: float) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    code = Supervisor(workers, out=out, err=err, **options).run()  # type: ignore[arg-type]
    return code, out.getvalue(), err.getvalue()


def test_supervisor_all_workers_end_well_returns_zero_with_prefixed_output() -> None:
    code, out, err = supervise(
        worker("print('hello'); print('oh', file=sys.stderr)", "execution-0"), worker("print(os.environ['WHO'])", "x-10", WHO="me")
    )
    assert code == EXIT_OK
    assert sorted(out.splitlines()) == ["execution-0 | hello", "x-10        | me"]
    assert "execution-0 | oh" in err.splitlines()


def test_supervisor_worker_fails_once_is_started_again(tmp_path: Path) -> None:
    code, _, err = supervise(worker(counting(tmp_path, "sys.exit(7 if run == 1 else 0)")))
    assert code == EXIT_OK
    assert len(list(tmp_path.iterdir())) == 2
    assert "w-0 ended with code 7 after" in err


def test_supervisor_worker_killed_is_started_again(tmp_path: Path) -> None:
    code, _, err = supervise(worker(counting(tmp_path, "if run == 1: os.kill(os.getpid(), signal.SIGKILL)")))
    assert code == EXIT_OK
    assert "w-0 was ended by SIGKILL" in err


def test_supervisor_worker_keeps_failing_gives_up_and_stops_the_others(tmp_path: Path) -> None:
    code, _, err = supervise(worker(counting(tmp_path, "sys.exit(9)")), worker("time.sleep(60)", "w-1"), give_up_after=3)
    assert code == 9
    assert len(list(tmp_path.iterdir())) == 3
    assert "w-0 ended with code 9, 3 times in a row within 60 s of its start: giving up" in err


def test_supervisor_healthy_run_between_failures_does_not_give_up(tmp_path: Path) -> None:
    code, _, _ = supervise(
        worker(counting(tmp_path, "time.sleep(0.4) if run % 2 == 0 else None; sys.exit(0 if run == 5 else 9)")),
        give_up_after=3,
        healthy_s=0.4,
    )
    assert code == EXIT_OK


@pytest.mark.parametrize("final", [EXIT_SETTINGS, EXIT_STARTUP, EXIT_STATE])
def test_supervisor_final_code_stops_all_at_once(tmp_path: Path, final: int) -> None:
    code, _, err = supervise(worker(counting(tmp_path, f"sys.exit({final})")), worker("time.sleep(60)", "w-1"))
    assert code == final
    assert len(list(tmp_path.iterdir())) == 1
    assert f"w-0 ended with code {final}, its message is above: stopping, because another try would not help" in err


def test_supervisor_broker_unreachable_at_first_stops(tmp_path: Path) -> None:
    code, _, _ = supervise(worker(f"sys.exit({EXIT_UNREACHABLE})"))
    assert code == EXIT_UNREACHABLE


def test_supervisor_broker_unreachable_later_is_waited_out(tmp_path: Path) -> None:
    then = f"sys.exit([7, {EXIT_UNREACHABLE}, {EXIT_UNREACHABLE}, 0][run - 1])"
    code, _, _ = supervise(worker(counting(tmp_path, then)), give_up_after=2)
    assert code == EXIT_OK
    assert len(list(tmp_path.iterdir())) == 4


def test_supervisor_two_workers_of_one_name_is_refused() -> None:
    with pytest.raises(ValueError, match="names of their own"):
        Supervisor([worker(""), worker("")])


# --- spares -------------------------------------------------------------------------------------------------------------------------

SPARE = """
import json, os, pathlib, sys, time
marks = pathlib.Path(sys.argv[1])
(marks / f"spare-{len(list(marks.glob('spare-*')))}").touch()
line = sys.stdin.readline()
if not line: sys.exit(0)
print("I am", json.loads(line)["WHO"], flush=True)
"""
DIES_WHEN_A_SPARE_IS_THERE = """
if os.environ["WHO"] == "one":
    while not list(marks.glob("spare-*")): time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)
while not (marks / "over").exists(): time.sleep(0.01)
"""


def with_spare(marks: Path, name: str, who: str, spare: str = SPARE, then: str = DIES_WHEN_A_SPARE_IS_THERE) -> WorkerSpec:
    spec = SpareSpec((sys.executable, "-c", spare, str(marks)), {})
    made = worker(f"marks = pathlib.Path({str(marks)!r})\n{then}", name, WHO=who)
    return WorkerSpec(made.name, made.command, made.environment, spec)


def test_supervisor_spare_takes_a_fallen_workers_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "SPARE_AFTER_S", 0.0)
    spare = SPARE + f"\n(marks / 'over').touch()\nassert marks == pathlib.Path({str(tmp_path)!r})"
    code, out, err = supervise(with_spare(tmp_path, "w-0", "one", spare), with_spare(tmp_path, "w-1", "two", spare))
    assert code == EXIT_OK
    assert "w-0 | I am one" in out.splitlines(), (out, err)
    assert "w-0 was ended by SIGKILL" in err
    assert "w-0 ended" in err


def test_supervisor_spare_that_cannot_start_costs_no_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said once, and fallen workers are started as if there were none."""
    monkeypatch.setattr(supervisor, "SPARE_AFTER_S", 0.0)
    broken = "import pathlib, sys; (pathlib.Path(sys.argv[1]) / 'spare-0').touch(); sys.exit('no such module')"
    then = """
run = len(list(marks.glob("run-*"))); (marks / f"run-{run}").touch()
if run == 0:
    while not list(marks.glob("spare-*")): time.sleep(0.01)
    time.sleep(0.5)
    sys.exit(7)
"""
    code, _, err = supervise(with_spare(tmp_path, "w-0", "one", broken, then))
    assert code == EXIT_OK
    assert err.count("the spare ended with code 1") == 1
    assert "spare | no such module" in err
    assert len(list(tmp_path.glob("run-*"))) == 2


def test_supervisor_no_spare_while_workers_are_young(tmp_path: Path) -> None:
    code, _, _ = supervise(with_spare(tmp_path, "w-0", "two", then="time.sleep(0.5)"))
    assert code == EXIT_OK
    assert not list(tmp_path.glob("spare-*"))


def test_supervisor_takes_its_spare_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "SPARE_AFTER_S", 0.0)
    pid = tmp_path / "pid"
    spare = SPARE.replace("line = ", f"pathlib.Path({str(pid)!r}).write_text(str(os.getpid()))\nline = ")
    code, _, _ = supervise(with_spare(tmp_path, "w-0", "two", spare, f"while not pathlib.Path({str(pid)!r}).exists(): time.sleep(0.01)"))
    assert code == EXIT_OK
    assert eventually(lambda: gone(int(pid.read_text())))


# --- signals: the supervisor in a process of its own --------------------------------------------------------------------------------

DRIVER = """
import sys
from flows.supervisor import Supervisor, WorkerSpec
specs = [WorkerSpec(f"w-{n}", (sys.executable, "-c", code)) for n, code in enumerate(sys.argv[1:])]
sys.exit(Supervisor(specs, stop_timeout_s=2).run())
"""
GRACEFUL = """
import os, signal, sys, time
def stop(*_): print("stopped in order", flush=True); sys.exit(0)
signal.signal(signal.SIGTERM, stop)
print("pid", os.getpid(), flush=True)
time.sleep(60)
"""
STUBBORN = GRACEFUL.replace("def stop(*_):", "def stop(*_): return\ndef never():")


def start(*codes: str) -> tuple[subprocess.Popen[str], list[int]]:
    process = subprocess.Popen([sys.executable, "-c", DRIVER, *codes], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, [int(process.stdout.readline().split()[-1]) for _ in codes]


def gone(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    return True


def eventually(condition: Callable[[], bool], timeout_s: float = 60.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_supervisor_signalled_stops_workers_in_order(number: signal.Signals) -> None:
    process, pids = start(GRACEFUL, GRACEFUL)
    process.send_signal(number)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == EXIT_OK
    assert sorted(out.splitlines()) == ["w-0 | stopped in order", "w-1 | stopped in order"]
    assert all(map(gone, pids))


def test_supervisor_worker_ignores_sigterm_is_killed_after_the_timeout() -> None:
    process, pids = start(STUBBORN)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "killing w-0: still running" in err
    assert gone(pids[0])


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux")
def test_supervisor_killed_takes_its_workers_along() -> None:
    process, pids = start(GRACEFUL, GRACEFUL)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert eventually(lambda: all(map(gone, pids)))
    process.communicate()
