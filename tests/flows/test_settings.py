"""Settings: defaults, sources and their order, every problem at once and named, nothing secret shown."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flows.settings import Settings, SettingsError, load_settings, variable


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("HEDGEROW_")]:
        monkeypatch.delenv(name)


def problems(**given: object) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load_settings(**given)  # type: ignore[arg-type]
    return caught.value.problems


def test_settings_nothing_given_has_the_documented_defaults() -> None:
    settings = load_settings()
    assert (settings.partitions, settings.commit_interval_ms, settings.fetch_wait_ms, settings.tape_wait_ms) == (16, 10, 5, 10)
    assert (settings.transaction_timeout_ms, settings.session_timeout_ms, settings.metrics_port) == (8_000, 6_000, 0)
    assert settings.metrics_host == "127.0.0.1"
    assert settings.reference.is_file()
    assert settings.group_of("execution") == "hedgerow-execution"
    assert settings.worker_of("execution") == "execution-0"


def test_settings_file_environment_command_line_win_in_that_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "hedgerow.toml"
    file.write_text('kafka = "a:1"\npartitions = 4\ntape_wait_ms = 7\n[kafka_options]\n"security.protocol" = "SSL"\n')
    monkeypatch.setenv("HEDGEROW_PARTITIONS", "8")
    monkeypatch.setenv("HEDGEROW_KAFKA", "b:2, c:3")
    settings = load_settings(file, kafka="d:4", group=None)
    assert (settings.kafka, settings.partitions, settings.tape_wait_ms) == ("d:4", 8, 7)
    assert settings.client_config() == {"security.protocol": "SSL"}
    monkeypatch.setenv("HEDGEROW_SETTINGS", str(file))
    assert load_settings().bootstrap == "b:2,c:3"


def test_settings_several_bad_values_are_all_told_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "KAFKA": "localhost",
        "PARTITIONS": "0",
        "METRICS_PORT": "70000",
        "COMMIT_INTERVAL_MS": "soon",
        "WORKER": "a b",
        "LOG_LEVEL": "LOUD",
        "KAFKA_OPTIONS": "{'a': 1}",
    }.items():
        monkeypatch.setenv("HEDGEROW_" + name, value)
    told = problems()
    assert [line.split(":")[0] for line in told] == [
        "HEDGEROW_KAFKA",
        "HEDGEROW_KAFKA_OPTIONS",
        "HEDGEROW_PARTITIONS",
        "HEDGEROW_WORKER",
        "HEDGEROW_COMMIT_INTERVAL_MS",
        "HEDGEROW_METRICS_PORT",
        "HEDGEROW_LOG_LEVEL",
    ]
    assert "HEDGEROW_PARTITIONS: must be at least 1, not '0'" in told
    assert "HEDGEROW_COMMIT_INTERVAL_MS: must be a whole number, not 'soon'" in told
    assert "HEDGEROW_KAFKA: must be host:port, or several separated by commas, not 'localhost'" in told
    assert all("\n" not in line for line in told)


@pytest.mark.parametrize("kafka", ["", "  ", "h:", ":1", "h:0", "h:65536", "h:1,", "h:x", "h:1;i:2", "http://h:1", "h:²"])
def test_settings_bad_broker_list_is_refused_or_unset(kafka: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEDGEROW_KAFKA", kafka)
    with pytest.raises(SettingsError, match=r"^HEDGEROW_KAFKA: "):
        _ = load_settings().bootstrap


@pytest.mark.parametrize("kafka", ["h:1", "10.0.0.1:9092,10.0.0.2:9092", "[::1]:9092", "kafka-0.kafka.svc:9092"])
def test_settings_good_broker_list_is_taken(kafka: str) -> None:
    assert load_settings(kafka=kafka).bootstrap == kafka


def test_settings_reserved_client_option_is_refused() -> None:
    told = problems(kafka_options={"isolation.level": "read_uncommitted", "sasl.password": "secret"})
    assert told == ["HEDGEROW_KAFKA_OPTIONS: isolation.level cannot be set here: hedgerow's guarantees rest on it"]


def test_settings_password_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEDGEROW_KAFKA_OPTIONS", '{"sasl.password": "hunter2"}')
    assert "hunter2" not in repr(load_settings())
    monkeypatch.setenv("HEDGEROW_KAFKA_OPTIONS", '{"sasl.password": ["hunter2"]}')
    assert "hunter2" not in "".join(problems())


def test_settings_misspelt_names_are_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "hedgerow.toml"
    file.write_text("partition = 4\n")
    monkeypatch.setenv("HEDGEROW_COMIT_INTERVAL_MS", "5")
    monkeypatch.setenv("HEDGEROW_NIGHTLY", "1")
    assert problems(file=file) == [
        "HEDGEROW_COMIT_INTERVAL_MS: no such setting; did you mean HEDGEROW_COMMIT_INTERVAL_MS?",
        "partition: no such setting; did you mean partitions?",
    ]


def test_settings_file_missing_or_broken_is_told(tmp_path: Path) -> None:
    assert problems(file=tmp_path / "no.toml") == [f"HEDGEROW_SETTINGS: {tmp_path / 'no.toml'}: No such file or directory"]
    broken = tmp_path / "broken.toml"
    broken.write_text("partitions = \n")
    assert problems(file=broken)[0].startswith(f"HEDGEROW_SETTINGS: {broken} is not TOML: ")
    assert problems(file=tmp_path) == [f"HEDGEROW_SETTINGS: {tmp_path}: Is a directory"]


def test_settings_commit_interval_too_long_for_transaction_is_told() -> None:
    told = problems(commit_interval_ms=1_000, transaction_timeout_ms=2_000)
    assert len(told) == 1
    assert told[0].startswith("HEDGEROW_COMMIT_INTERVAL_MS: 1000 leaves no room within HEDGEROW_TRANSACTION_TIMEOUT_MS 2000")


def test_settings_every_field_is_described() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert field.description.endswith((".", "off", "all that is kept.")), name
        assert variable(name) == f"HEDGEROW_{name.upper()}"
