"""A spare is a worker's equal: it takes a killed worker's name, port and lanes on the embedded broker, and knows nothing before."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.driver import children
from connectors.kafka_server import free_port
from connectors.mock_broker import MockBroker
from connectors.topics import partitions_of
from flows import spare, supervisor
from flows.run import FLOWS
from flows.watch import scrape
from schemas.registry import TOPICS

ROOT = Path(supervisor.__file__).parents[1]
LANES = 2


def environment(**more: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("HEDGEROW_") or name == "HEDGEROW_NUMBA_CACHE"} | more


def wait_for(what: str, true: object, seconds: float = 90.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():  # type: ignore[operator]
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


@pytest.fixture
def broker() -> Iterator[MockBroker]:
    with MockBroker({name: partitions_of(TOPICS[name], LANES) for name in FLOWS["execution"][1]}) as made:
        yield made


@pytest.mark.skipif(sys.platform != "linux", reason="processes are told apart by /proc")
def test_a_spare_becomes_the_worker_that_was_killed(broker: MockBroker, tmp_path: Path) -> None:
    port = free_port()
    words = ("run", "execution", "--workers", "1", "--metrics-port", str(port), "--kafka", broker.bootstrap)
    start = f"from flows import cli, supervisor; supervisor.SPARE_AFTER_S = 0.5; import sys; sys.exit(cli.main({list(words)!r}))"
    with (tmp_path / "said").open("w") as said:
        process = subprocess.Popen(
            [sys.executable, "-c", start], cwd=ROOT, env=environment(HEDGEROW_LOG_LEVEL="WARNING"), stdout=said, stderr=subprocess.STDOUT
        )
    killer = threading.Timer(300, process.kill)
    killer.start()

    def owns() -> bool:
        found = scrape(port)
        return found is not None and found.runtime["hedgerow_lanes_owned"] == LANES

    def spares() -> list[int]:
        comms = {int(p.name): (p / "comm").read_text().strip() for p in Path("/proc").glob("[0-9]*") if parent_of(p) == process.pid}
        return [pid for pid, comm in comms.items() if comm == spare.COMM]

    try:
        wait_for("the worker owns its lanes", owns)
        wait_for("a spare is there", spares)
        ready = spares()[0]
        first = children(process.pid)
        assert list(first) == ["execution-0"]
        os.kill(first["execution-0"], signal.SIGKILL)
        wait_for("the spare has its place", lambda: children(process.pid) == {"execution-0": ready})
        wait_for("it owns the lanes", owns)
        wait_for("there is another spare", lambda: spares() and spares()[0] != ready)
    finally:
        process.terminate()
        code = process.wait(60)
        killer.cancel()
    assert code == 0, (tmp_path / "said").read_text()
    assert "execution-0 was ended by SIGKILL" in (tmp_path / "said").read_text()


def parent_of(process: Path) -> int:
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


@pytest.mark.parametrize("flow", FLOWS)
def test_a_spare_nobody_needs_ends_well(flow: str) -> None:
    """At the end of its input; whatever flow it is for, it has loaded that without a broker or a setting."""
    done = subprocess.run(
        [sys.executable, "-m", "flows.spare", flow], cwd=ROOT, env=environment(), stdin=subprocess.DEVNULL, capture_output=True, timeout=300
    )
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout == b""
