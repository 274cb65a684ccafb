"""The webhooks notices go to: one TOML file, checked whole, secrets from the environment or from files, never from this one.

    [[target]]
    name = "pager"
    url = "https://example.com/hooks/canary"
    secrets = ["env:PAGER_SECRET", "file:/run/secrets/pager-old"]   # rotation: every one signs, the newest first
    profiles = ["canary-guarded"]                                  # default: every profile
    include_subjects = false                                       # symbols of single-name signals

May not open a connection.
"""

from __future__ import annotations

import base64
import binascii
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError

SECRET_PREFIX = "whsec_"
MIN_SECRET_BYTES, MAX_SECRET_BYTES = 24, 64
"""Standard Webhooks, "signature scheme": the size of a symmetric secret."""
LOCAL_HOSTS = frozenset(("127.0.0.1", "::1", "localhost"))


class TargetsError(ValueError):
    """The file of the webhooks cannot be used; a line for each problem."""


@dataclass(frozen=True)
class Target:
    """One webhook. keys: its secrets, decoded, the newest first. profiles: those it is told of; empty: every one.

    in_flight: how many notifications are on their way to it at once. max_waiting: how many may wait; more are given up (`overflow`).
    enabled_since_ns: an answer 410 from before is forgotten.
    """

    name: str
    url: str
    keys: tuple[bytes, ...]
    include_subjects: bool = False
    profiles: tuple[str, ...] = ()
    in_flight: int = 2
    max_waiting: int = 10_000
    ca_file: str | None = None
    enabled_since_ns: int = 0

    def __repr__(self) -> str:
        return f"Target({self.name!r})"  # neither the secrets nor what a URL may hold


class _Item(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,39}$")]
    url: Annotated[str, Field(max_length=2048)]
    secrets: Annotated[list[str], Field(min_length=1, max_length=8)]
    include_subjects: bool = False
    profiles: list[str] = []
    in_flight: Annotated[int, Field(ge=1, le=64)] = 2
    max_waiting: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000
    ca_file: str | None = None
    allow_http: bool = False
    enabled_since: datetime | None = None


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    target: Annotated[list[_Item], Field(min_length=1)]


def load_targets(path: Path, environment: Mapping[str, str] | None = None) -> list[Target]:
    """Return the webhooks of a file. Raises TargetsError naming every problem; a secret's value is never in it.

    environment: where `env:` secrets are; None: the process's.
    """
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise TargetsError(f"{path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise TargetsError(f"{path}: is not TOML: {error}") from error
    try:
        items = _File.model_validate(found).target
    except ValidationError as error:
        raise TargetsError("\n".join(f"{path}: {_line(e)}" for e in error.errors(include_url=False, include_input=False))) from error
    problems: list[str] = []
    targets = [_target(item, os.environ if environment is None else environment, problems) for item in items]
    names = [target.name for target in targets]
    problems += [f"{name}: the name is used {names.count(name)} times" for name in sorted(set(names)) if names.count(name) > 1]
    if problems:
        raise TargetsError("\n".join(f"{path}: {problem}" for problem in problems))
    return targets


def _line(problem: Any) -> str:
    where = ".".join(map(str, problem["loc"]))
    return f"{where}: {problem['msg'][:1].lower()}{problem['msg'][1:]}"


def _target(item: _Item, environment: Mapping[str, str], problems: list[str]) -> Target:
    problems += [f"{item.name}: {problem}" for problem in _url_problems(item)]
    keys = []
    for source in item.secrets:
        key = _key(source, environment)
        if isinstance(key, str):
            problems.append(f"{item.name}: secret {source}: {key}")
        else:
            keys.append(key)
    if item.ca_file is not None and not Path(item.ca_file).is_file():
        problems.append(f"{item.name}: ca_file: {item.ca_file} is not a file")
    since = item.enabled_since
    if since is not None and since.tzinfo is None:
        problems.append(f"{item.name}: enabled_since: must say its offset from UTC, as 2026-01-31T12:00:00Z")
    since_ns = 0 if since is None or since.tzinfo is None else int(since.timestamp() * 1_000_000) * 1_000
    return Target(
        item.name,
        item.url,
        tuple(keys),
        item.include_subjects,
        tuple(item.profiles),
        item.in_flight,
        item.max_waiting,
        item.ca_file,
        since_ns,
    )


def _url_problems(item: _Item) -> list[str]:
    try:
        parts = urlsplit(item.url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        return [f"url: {error}"]
    problems = []
    if parts.scheme not in ("https", "http") or not host:
        problems.append("url: must be https://host/path")
    elif parts.scheme == "http" and host not in LOCAL_HOSTS and not item.allow_http:
        problems.append("url: must be https (allow_http = true sends alerts over an open line)")
    if parts.username is not None or parts.password is not None:
        problems.append("url: must not hold a user or a password; the signature says who speaks")
    if parts.fragment:
        problems.append("url: a fragment is never sent")
    return problems


def _key(source: str, environment: Mapping[str, str]) -> bytes | str:
    """Return the key of a secret, or what is wrong with it."""
    kind, _, name = source.partition(":")
    if kind == "env" and name:
        text = environment.get(name)
        if not text:
            return "the variable is not set"
    elif kind == "file" and name:
        try:
            text = Path(name).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            return "the file cannot be read"
    else:
        return "must be env:NAME or file:PATH"
    return decode_secret(text)


def decode_secret(text: str) -> bytes | str:
    """Return the key of a Standard Webhooks secret (`whsec_` and base64), or what is wrong with it."""
    if not text.startswith(SECRET_PREFIX):
        return f"must begin with {SECRET_PREFIX}"
    try:
        key = base64.b64decode(text[len(SECRET_PREFIX) :], validate=True)
    except binascii.Error:
        return "is not base64"
    if not MIN_SECRET_BYTES <= len(key) <= MAX_SECRET_BYTES:
        return f"must have {MIN_SECRET_BYTES} to {MAX_SECRET_BYTES} bytes, not {len(key)}"
    return key
