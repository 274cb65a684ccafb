"""All settings of hedgerow, each defined once: name, type, bounds, default, meaning. Read from the environment and one optional TOML file.

May not reach out (no broker, no reference file is opened). The command line wins over the environment, the environment over the file.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

import schemas

PREFIX = "HEDGEROW_"
FILE_VARIABLE = "HEDGEROW_SETTINGS"
_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"

RESERVED_KAFKA_OPTIONS = frozenset(
    {
        "acks",
        "auto.offset.reset",
        "bootstrap.servers",
        "enable.auto.commit",
        "enable.auto.offset.store",
        "enable.idempotence",
        "group.id",
        "group.instance.id",
        "group.protocol",
        "isolation.level",
        "max.in.flight",
        "max.in.flight.requests.per.connection",
        "metadata.broker.list",
        "partition.assignment.strategy",
        "partitioner",
        "session.timeout.ms",
        "transaction.timeout.ms",
        "transactional.id",
    }
)
"""Client settings on which exactly-once, co-partitioning or another setting rests; they cannot be set by hand."""


class SettingsError(ValueError):
    """One or more settings cannot be used. `problems`: one line each, naming the setting and what is wrong with it."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(self.problems))


def _parse_options(value: object) -> object:
    if isinstance(value, str):
        try:
            return json.loads(value)
        except json.JSONDecodeError as error:
            raise ValueError(f'not a JSON object such as {{"security.protocol": "SSL"}} ({error})') from error
    return value


def _parse_paths(value: object) -> object:
    return tuple(Path(part) for part in value.split(os.pathsep) if part) if isinstance(value, str) else value


def _parse_names(value: object) -> object:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


class Settings(BaseSettings):
    """The settings, checked. Get them from `load_settings`; the environment variable of `name` is HEDGEROW_NAME."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, extra="forbid", frozen=True, validate_default=False)

    kafka: str | None = Field(None, description="Kafka brokers, host:port, several separated by commas.")
    kafka_options: Annotated[dict[str, str | int | float | bool], NoDecode, BeforeValidator(_parse_options)] = Field(
        {},
        repr=False,
        description="Further settings of the Kafka client (librdkafka names) for TLS and SASL: a TOML table, or JSON in the environment.",
    )
    partitions: int = Field(
        16, ge=1, le=10_000, description="Lanes: partitions of every co-partitioned topic. Bounds how many workers can share a flow."
    )
    replication: int = Field(1, ge=1, le=9, description="Copies of each partition when topics are created; 3 in production.")
    group: str | None = Field(None, pattern=_NAME, description="Consumer group; default hedgerow-FLOW.")
    worker: str | None = Field(
        None,
        pattern=_NAME,
        description="This worker's name, unique in the group and the same after a restart; default FLOW-0. Set by `run --workers`.",
    )
    commit_interval_ms: int = Field(
        10, ge=10, le=10_000, description="Time between commits under load: lower is sooner visible, higher is cheaper."
    )
    fetch_wait_ms: int = Field(
        5,
        ge=1,
        le=1_000,
        description="How long a fetch waits for 64 kB to gather: lower is sooner visible, higher is fewer requests, also of idle workers.",
    )
    tape_wait_ms: int = Field(10, ge=0, le=1_000, description="How long a fill may wait for the market data that belongs to its time.")
    broadcast_lookback_s: int = Field(
        3_600, ge=0, le=604_800, description="How far back market data is read before the lanes start; 0 reads all that is kept."
    )
    transaction_timeout_ms: int = Field(
        8_000,
        ge=2_000,
        le=900_000,
        description="After this the broker aborts a dead worker's transaction; until then readers wait behind it.",
    )
    session_timeout_ms: int = Field(
        6_000, ge=1_000, le=1_800_000, description="After this without a sign of life a worker's lanes go to others."
    )
    max_chunk_records: int = Field(10_000, ge=1, le=1_000_000, description="Most records taken in at one poll.")
    lane_pause_bytes: int = Field(
        16_777_216, ge=65_536, description="A lane with more uncommitted bytes than this is paused until its commit."
    )
    trim_interval_s: int = Field(10, ge=1, le=86_400, description="Time between deletions of obsolete changelog records.")
    hedge_bar_s: int = Field(5, ge=1, le=3_600, description="Hedger: length of a bar of the covariances; the same for all workers.")
    hedge_interval_ms: int = Field(250, ge=0, le=60_000, description="Hedger: least time between two decisions of one book.")
    hedge_ack_ms: int = Field(
        1_000,
        ge=10,
        le=60_000,
        description="Hedger: the order agent's time to answer; after twice that a hedge is UNKNOWN and asked about.",
    )
    hedge_expires_s: int = Field(30, ge=1, le=600, description="Hedger: how long an intent may be executed.")
    metrics_port: int = Field(0, ge=0, le=65_535, description="Port of the Prometheus metrics; worker N of several takes port + N; 0: off.")
    metrics_host: str = Field("127.0.0.1", min_length=1, description="Address the metrics listen on. They are not protected by a password.")
    reference: Path = Field(
        Path(schemas.__path__[0]) / "simulation.toml",
        description="Reference data: venues, accounts, instruments (TOML). Default: the built-in simulator's.",
    )
    policies: Annotated[tuple[Path, ...], NoDecode, BeforeValidator(_parse_paths)] = Field(
        (),
        description="Risk policy files (JSON), one profile each: a TOML list, or separated by colons in the environment. Default: the built-in profiles.",
    )
    canary_profiles: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_parse_names)] = Field(
        ("canary-default",),
        description="Profiles the canary judges accounts under, each a stream of alerts of its own: a TOML list, or separated by commas.",
    )
    webhook_targets: Path | None = Field(None, description="Webhooks the monitor's pages go to (TOML). Default: none.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="Least level of what is logged to stderr.")

    @field_validator("kafka")
    @classmethod
    def _check_kafka(cls, value: str | None) -> str | None:
        if value is None:
            return None
        brokers = [part.strip() for part in value.split(",")]
        for broker in brokers:
            host, _, port = broker.rpartition(":")
            if (
                not re.fullmatch(r"[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]", host)
                or not port.isascii()
                or not port.isdigit()
                or not 1 <= int(port) <= 65_535
            ):
                raise ValueError(f"must be host:port, or several separated by commas, not {value!r}")
        return ",".join(brokers)

    @field_validator("kafka_options")
    @classmethod
    def _check_options(cls, value: dict[str, str | int | float | bool]) -> dict[str, str | int | float | bool]:
        reserved = sorted(RESERVED_KAFKA_OPTIONS & value.keys())
        if reserved:
            raise ValueError(f"{', '.join(reserved)} cannot be set here: hedgerow's guarantees rest on it")
        return value

    @model_validator(mode="after")
    def _check_together(self) -> Settings:
        if self.commit_interval_ms * 4 > self.transaction_timeout_ms:
            raise ValueError(
                f"HEDGEROW_COMMIT_INTERVAL_MS: {self.commit_interval_ms} leaves no room within HEDGEROW_TRANSACTION_TIMEOUT_MS "
                f"{self.transaction_timeout_ms}: at most a quarter of it"
            )
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return the sources, first wins: command line, environment, TOML file. No .env files: one way in is enough."""
        file = cls.model_config.get("toml_file")
        return (init_settings, env_settings, *([TomlConfigSettingsSource(settings_cls, file)] if file else []))

    @property
    def bootstrap(self) -> str:
        """The Kafka brokers; raises SettingsError when none are set."""
        if self.kafka is None:
            raise SettingsError(
                [f"{PREFIX}KAFKA: not set; give host:port of a Kafka broker (`hedgerow broker start` starts one on this machine)"]
            )
        return self.kafka

    def client_config(self) -> dict[str, str | int | float | bool]:
        """Return the settings every Kafka client of hedgerow gets beside its own: `kafka_options`."""
        return dict(self.kafka_options)

    def group_of(self, flow: str) -> str:
        """Return the consumer group of `flow`."""
        return self.group or f"hedgerow-{flow}"

    def worker_of(self, flow: str) -> str:
        """Return this worker's name."""
        return self.worker or f"{flow}-0"


def variable(name: str) -> str:
    """Return the environment variable of setting `name`."""
    return PREFIX + name.upper()


def load_settings(file: Path | str | None = None, **given: Any) -> Settings:
    """Read and check the settings.

    file: TOML file; None: the one HEDGEROW_SETTINGS names, if any. given: settings from the command line (None: not given).
    Raises SettingsError with every problem at once, one line each.
    """
    path = file or os.environ.get(FILE_VARIABLE) or None
    problems = _unknown_variables(os.environ)
    if path is not None:
        path = Path(path)
        problems += _file_problems(path)
        if problems and not path.is_file():
            raise SettingsError(problems)

    class FromFile(Settings):
        model_config = SettingsConfigDict(toml_file=path)

    try:
        settings = FromFile(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        raise SettingsError(problems + [_line(item) for item in error.errors()]) from error
    if problems:
        raise SettingsError(problems)
    return settings


def _file_problems(path: Path) -> list[str]:
    import tomllib

    try:
        tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        return [f"{FILE_VARIABLE}: {path}: {error.strerror}"]
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError([f"{FILE_VARIABLE}: {path} is not TOML: {error}"]) from error
    return []


def _unknown_variables(environment: Mapping[str, str]) -> list[str]:
    """Return a line for each HEDGEROW_ variable that looks like a setting's misspelling; others may belong to tools around hedgerow."""
    known = [variable(name) for name in Settings.model_fields]
    problems = []
    for name in sorted(environment):
        if name.startswith(PREFIX) and name != FILE_VARIABLE and name.upper() not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.85)
            if near:
                problems.append(f"{name}: no such setting; did you mean {near[0]}?")
    return problems


def _line(item: Any) -> str:
    kind, context = item["type"], item.get("ctx", {})
    if not item["loc"]:  # a rule over several settings names them itself
        return str(context.get("error", item["msg"]))
    name = str(item["loc"][0])
    shown = "" if name == "kafka_options" else f", not {item['input']!r}"  # may hold a password
    if kind == "extra_forbidden":
        near = difflib.get_close_matches(name, Settings.model_fields, n=1)
        return f"{name}: no such setting" + (f"; did you mean {near[0]}?" if near else "")
    if kind == "value_error":
        return f"{variable(name)}: {context['error']}"
    if kind in ("int_parsing", "int_type", "int_from_float"):
        return f"{variable(name)}: must be a whole number{shown}"
    if kind == "greater_than_equal":
        return f"{variable(name)}: must be at least {context['ge']}{shown}"
    if kind == "less_than_equal":
        return f"{variable(name)}: must be at most {context['le']}{shown}"
    if kind == "string_pattern_mismatch":
        return f"{variable(name)}: must be letters, digits, '.', '_' or '-', at most 100, beginning with a letter or digit{shown}"
    if kind == "literal_error":
        return f"{variable(name)}: must be {context['expected']}{shown}"
    where = "".join(f" {part}" for part in item["loc"][1:2])
    return f"{variable(name)}:{where} {item['msg'][:1].lower()}{item['msg'][1:]}{shown}"
