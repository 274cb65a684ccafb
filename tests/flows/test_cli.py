"""The `hedgerow` command: fast help, lazy imports, one-line errors with their exit codes, workers' names and ports."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from confluent_kafka import Producer

from connectors.kafka_server import free_port
from connectors.mock_broker import MockBroker
from connectors.topics import partitions_of
from flows import cli
from flows.run import FLOWS, session_config, worker_specs
from flows.runtime import Flow
from flows.settings import load_settings
from flows.supervisor import EXIT_SETTINGS, EXIT_STARTUP, EXIT_STATE, EXIT_UNREACHABLE
from schemas.registry import EXECUTION_CHANGELOG, TOPICS
from state.changelog import FORMAT, MAGIC

ROOT = Path(cli.__file__).parents[1]
HEAVY = ("numba", "bytewax", "polars", "pydantic", "confluent_kafka")


def hedgerow(*args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("HEDGEROW_")} | environment
    return subprocess.run(
        [sys.executable, "-m", "flows", *args], cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=False
    )


def execution_topics(lanes: int) -> dict[str, int]:
    """Return the partition counts of the execution flow's topics."""
    return {name: partitions_of(TOPICS[name], lanes) for name in FLOWS["execution"][1]}


def test_cli_help_lists_every_command_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; from flows.cli import main\n"
        "try: main(['--help'])\n"
        f"except SystemExit: print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)"
    )
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert told.stderr.strip() == "[]"
    for name in cli.COMMANDS:
        assert f"    {name}" in told.stdout


def test_cli_no_command_or_unknown_is_a_usage_error() -> None:
    assert hedgerow().returncode == EXIT_SETTINGS
    assert "invalid choice: 'fly'" in hedgerow("fly").stderr
    assert "invalid choice: 'fly'" in hedgerow("run", "fly").stderr


def test_cli_version_names_what_it_stands_on() -> None:
    told = hedgerow("version")
    assert told.returncode == 0
    assert [line.split()[0] for line in told.stdout.splitlines()][:3] == ["hedgerow", "Python", "bytewax"]


@pytest.mark.parametrize("words", [("run", "execution"), ("run", "execution", "--workers", "2"), ("topics", "check"), ("hedges", "list")])
def test_cli_kafka_not_set_says_so_in_one_line(words: tuple[str, ...]) -> None:
    told = hedgerow(*words)
    assert told.returncode == EXIT_SETTINGS
    assert told.stderr.startswith("hedgerow: HEDGEROW_KAFKA: not set")
    assert told.stderr.count("\n") == 1


@pytest.mark.parametrize("words", [("run", "execution", "--workers", "2"), ("topics", "create"), ("hedges", "list")])
def test_cli_unreachable_broker_says_so_in_one_line(words: tuple[str, ...]) -> None:
    told = hedgerow(*words, HEDGEROW_KAFKA=f"127.0.0.1:{free_port()}")
    assert told.returncode == EXIT_UNREACHABLE
    assert told.stderr.startswith("hedgerow: HEDGEROW_KAFKA: no Kafka broker answers at 127.0.0.1:")
    assert "Connection refused" in told.stderr
    assert told.stderr.count("\n") == 1


def test_cli_bad_settings_are_all_told() -> None:
    told = hedgerow("run", "execution", "--metrics-port", "99999", HEDGEROW_PARTITIONS="0", HEDGEROW_KAFKA="here")
    assert told.returncode == EXIT_SETTINGS
    assert [line.split(":")[1].strip() for line in told.stderr.splitlines()] == [
        "HEDGEROW_KAFKA",
        "HEDGEROW_PARTITIONS",
        "HEDGEROW_METRICS_PORT",
    ]


@pytest.mark.parametrize("workers", [(), ("--workers", "2")])
def test_cli_run_with_missing_topics_says_how_to_create_them(workers: tuple[str, ...]) -> None:
    with MockBroker({"something.else": 1}) as broker:
        told = hedgerow("run", "execution", *workers, HEDGEROW_KAFKA=broker.bootstrap)
    assert told.returncode == EXIT_STARTUP
    assert "topic order.intent.route.v1 is missing: `hedgerow topics create` makes it" in told.stderr
    assert "Traceback" not in told.stderr


def test_cli_run_with_unequal_partition_counts_names_both() -> None:
    counts = execution_topics(4) | {"order.event.ack.v1": 3}
    with MockBroker(counts) as broker:
        told = hedgerow("run", "execution", HEDGEROW_KAFKA=broker.bootstrap)
    assert told.returncode == EXIT_STARTUP
    assert "topic order.event.ack.v1 has 3 partitions, venue.execution.report.v1 has 4" in told.stderr


def test_cli_run_with_another_partition_count_than_was_set_names_both() -> None:
    with MockBroker(execution_topics(4)) as broker:
        told = hedgerow("run", "execution", HEDGEROW_KAFKA=broker.bootstrap, HEDGEROW_PARTITIONS="2")
    assert told.returncode == EXIT_STARTUP
    assert "topic venue.execution.report.v1 has 4 partitions, HEDGEROW_PARTITIONS is 2" in told.stderr


def test_cli_run_with_a_state_of_another_release_says_what_to_do_and_is_not_started_again() -> None:
    with MockBroker(execution_topics(2)) as broker:
        producer = Producer({"bootstrap.servers": broker.bootstrap})
        producer.produce(EXECUTION_CHANGELOG, value=struct.pack("<4sHHQQ", MAGIC, FORMAT, 0, 1, 1), partition=1)
        assert producer.flush(10) == 0
        told = hedgerow("run", "execution", "--workers", "1", HEDGEROW_KAFKA=broker.bootstrap, HEDGEROW_LOG_LEVEL="WARNING")
    assert told.returncode == EXIT_STATE
    lines = told.stderr.splitlines()
    assert len(lines) == 2, lines
    assert f"hedgerow: execution: {EXECUTION_CHANGELOG}[1]: changelog offset 0 was written with other row types" in lines[0]
    assert "another start would not help" in lines[0]
    assert "execution-0 ended with code 6" in lines[1]


@pytest.mark.parametrize(
    ("words", "environment", "expected"),
    [
        (("--workers", "0"), {}, "--workers: must be 1 to 256, not 0"),
        (("--workers", "2"), {"HEDGEROW_WORKER": "w"}, "HEDGEROW_WORKER: cannot be set with several workers"),
        (("--workers", "2"), {"HEDGEROW_METRICS_PORT": "65535"}, "HEDGEROW_METRICS_PORT: 65535 leaves no ports"),
        (("--workers", "2", "--give-up-after", "-1"), {}, "--give-up-after: must be at least 0"),
    ],
)
def test_cli_run_bad_supervision_is_told(words: tuple[str, ...], environment: dict[str, str], expected: str) -> None:
    told = hedgerow("run", "execution", *words, HEDGEROW_KAFKA="127.0.0.1:1", **environment)
    assert told.returncode == EXIT_SETTINGS
    assert expected in told.stderr


def test_worker_specs_have_stable_names_and_ports_of_their_own(tmp_path: Path) -> None:
    settings = load_settings(kafka="h:1", metrics_port=9000, group="g")
    specs = worker_specs(settings, ["execution"], 2, tmp_path / "s.toml")
    assert [spec.name for spec in specs] == ["execution-0", "execution-1"]
    assert [spec.environment["HEDGEROW_METRICS_PORT"] for spec in specs] == ["9000", "9001"]
    assert specs[1].environment["HEDGEROW_WORKER"] == "execution-1"
    assert specs[0].environment["HEDGEROW_SETTINGS"] == str(tmp_path / "s.toml")
    assert {spec.environment["HEDGEROW_KAFKA"] for spec in specs} == {"h:1"}


def test_session_config_takes_names_topics_and_times_from_flow_and_settings() -> None:
    flow = Flow("execution", ("in",), ("out",), ("tape",), "log", make_logic=lambda *_: None, make_broadcast=lambda: None)  # type: ignore[arg-type,return-value]
    config = session_config(
        load_settings(kafka="h:1", commit_interval_ms=50, fetch_wait_ms=3, broadcast_lookback_s=0, kafka_options={"a": "b"}), flow
    )
    assert (config.bootstrap, config.group_id, config.worker) == ("h:1", "hedgerow-execution", "execution-0")
    assert (config.inputs, config.outputs, config.broadcast, config.changelog) == (("in",), ("out",), ("tape",), "log")
    assert (config.commit_interval_ms, config.fetch_wait_ms, config.truncate_interval_ms, config.broadcast_lookback_ms) == (
        50,
        3,
        10_000,
        None,
    )
    assert dict(config.client) == {"a": "b"}


def test_flows_name_only_topics_of_the_registry() -> None:
    for _, topics in FLOWS.values():
        assert set(topics) <= set(TOPICS)


def test_cli_reader_of_output_leaves_ends_quietly() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    told = subprocess.run(
        [sys.executable, "-u", "-m", "flows", "version"],
        cwd=ROOT,
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )
    os.close(writer)
    assert told.returncode == 141
    assert told.stderr == ""
