"""The monitor's wiring and its command: what it needs, what it refuses to start with, what it starts."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from connectors.kafka_server import free_port
from connectors.mock_broker import MockBroker
from connectors.topics import partitions_of
from flows import cli, monitor
from flows.run import FLOWS, session_config
from flows.settings import SettingsError, load_settings
from flows.supervisor import EXIT_SETTINGS, EXIT_STARTUP, EXIT_UNREACHABLE, WorkerSpec
from operators.monitor_lane import MonitorLogic
from schemas import registry
from schemas.policy import BUILT_IN, PROFILES
from schemas.registry import TOPICS

ROOT = Path(cli.__file__).parents[1]
TOPICS_NEEDED = dict.fromkeys((*FLOWS["monitor"][1], *registry.DELIVERY_TOPICS))


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("HEDGEROW_")]:
        monkeypatch.delenv(name)


def hedgerow(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "flows", *args], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def targets_file(folder: Path) -> Path:
    (folder / "secret").write_text("whsec_" + base64.b64encode(bytes(32)).decode())
    file = folder / "targets.toml"
    file.write_text(f'[[target]]\nname = "pager"\nurl = "http://127.0.0.1:1/"\nsecrets = ["file:{folder}/secret"]\n')
    return file


def policy_file(folder: Path, **monitor_rules: Any) -> Path:
    found = json.loads((BUILT_IN / "canary-default.json").read_text())
    found["profile"] = "desk"
    found["policy"]["monitor"] |= monitor_rules
    file = folder / "desk.json"
    file.write_text(json.dumps(found))
    return file


def test_the_flow_is_what_the_registry_says() -> None:
    settings = load_settings(kafka="a:1")
    flow = monitor.build(settings)
    assert (flow.name, flow.inputs, flow.changelog) == ("monitor", registry.MONITOR_INPUTS, registry.MONITOR_CHANGELOG)
    assert set(flow.outputs) <= set(FLOWS["monitor"][1]) <= set(TOPICS)
    assert session_config(settings, flow).group_id == "hedgerow-monitor"
    logic = flow.make_logic(0, 4, flow.make_broadcast())
    assert isinstance(logic, MonitorLogic)
    assert set(logic.policies) == set(PROFILES)


def test_policies_are_those_of_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEDGEROW_POLICIES", str(policy_file(tmp_path, notify_floor="act")))
    found = monitor.policies_of(load_settings())
    assert list(found) == ["desk"]
    assert found["desk"].policy.monitor.notify_floor == "act"


def test_policies_that_cannot_be_used_are_told_with_every_problem(tmp_path: Path) -> None:
    settings = load_settings(policies=(policy_file(tmp_path, notify_floor="observe", min_gap_s="soon"), tmp_path / "none.json"))
    with pytest.raises(SettingsError) as error:
        monitor.build(settings)
    told = error.value.problems
    assert all(line.startswith("HEDGEROW_POLICIES: ") for line in told)
    assert [name for name in ("notify_floor", "min_gap_s", "none.json") if any(name in line for line in told)] == [
        "notify_floor",
        "min_gap_s",
        "none.json",
    ]


def test_the_command_refuses_what_it_cannot_use(tmp_path: Path) -> None:
    bad = tmp_path / "bad.toml"
    bad.write_text('[[target]]\nname = "pager"\nurl = "ftp://x"\nsecrets = ["env:NOT_SET_ANYWHERE"]\n')
    told = hedgerow("monitor", "--kafka", "127.0.0.1:1", "--targets", str(bad))
    assert told.returncode == EXIT_SETTINGS
    assert len(told.stderr.splitlines()) == 2
    for args in (("--deliver",), ("--workers", "0")):
        assert hedgerow("monitor", "--kafka", "127.0.0.1:1", *args).returncode == EXIT_SETTINGS
    told = hedgerow("monitor", "--kafka", f"127.0.0.1:{free_port()}")
    assert told.returncode == EXIT_UNREACHABLE
    assert len(told.stderr.splitlines()) == 1


def test_the_command_names_the_topics_that_are_missing(tmp_path: Path) -> None:
    there = {name: partitions_of(TOPICS[name], 2) for name in FLOWS["monitor"][1]}
    with MockBroker(there) as broker:
        told = hedgerow("monitor", "--kafka", broker.bootstrap, "--targets", str(targets_file(tmp_path)))
    assert told.returncode == EXIT_STARTUP
    for name in ("canary.state.delivery.v1", "dlq.webhook"):
        assert name in told.stderr


@pytest.mark.parametrize("with_targets", [False, True])
def test_flow_and_deliverer_run_under_one_supervisor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_targets: bool) -> None:
    started: list[list[WorkerSpec]] = []

    class Stand:
        def __init__(self, specs: list[WorkerSpec]) -> None:
            started.append(specs)

        def run(self) -> int:
            return 0

    monkeypatch.setattr("flows.supervisor.Supervisor", Stand)
    there = {name: partitions_of(TOPICS[name], 2) for name in TOPICS_NEEDED}
    with MockBroker(there) as broker:
        more = ["--targets", str(targets_file(tmp_path))] if with_targets else []
        assert cli.main(["monitor", "--kafka", broker.bootstrap, "--workers", "2", *more]) == 0
    (specs,) = started
    assert [spec.name for spec in specs] == ["monitor-0", "monitor-1", *(["webhooks-0"] if with_targets else [])]
    assert specs[0].command[-2:] == ("run", "monitor")
    if with_targets:
        assert specs[2].command[-2:] == ("monitor", "--deliver")
        assert specs[2].environment["HEDGEROW_WEBHOOK_TARGETS"] == str(tmp_path / "targets.toml")
