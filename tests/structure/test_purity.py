"""operators/ and state/ read no clock and roll no dice: the time and the ids come in, so that a replay gives the same bytes."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULES = {"random", "secrets", "time"}
"""Modules that offer nothing else worth having there."""
NAMES = {
    "now", "utcnow", "today", "fromtimestamp", "uuid1", "uuid4", "uuid6", "uuid7", "urandom", "getrandom", "time_ns", "monotonic",
    "monotonic_ns", "perf_counter", "perf_counter_ns", "process_time", "default_rng", "getrandbits", "shuffle",
}  # fmt: skip
"""Attributes and names that read a clock or are random, whatever they are called on."""


def impurities(source: str) -> Iterator[tuple[int, str]]:
    """Yield (line, what) of every use of a clock or of randomness."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names if MODULES & set(alias.name.split(".")))
        elif isinstance(node, ast.ImportFrom):
            if MODULES & set((node.module or "").split(".")):
                yield node.lineno, str(node.module)
            yield from ((node.lineno, alias.name) for alias in node.names if alias.name in NAMES | MODULES)
        elif isinstance(node, ast.Attribute) and (node.attr in NAMES or node.attr == "random"):
            yield node.lineno, node.attr
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in NAMES:
            yield node.lineno, node.func.id


@pytest.mark.parametrize("package", ["operators", "state"])
def test_package_uses_no_clock_and_no_randomness(package: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line} uses {what}"
        for path in sorted((ROOT / package).rglob("*.py"))
        for line, what in impurities(path.read_text(encoding="utf-8"))
    ]
    assert found == []


@pytest.mark.parametrize(
    "source",
    [
        "import time",
        "import random as r",
        "import numpy.random",
        "from time import monotonic",
        "from numpy import random",
        "from numpy.random import default_rng",
        "from uuid import uuid4",
        "x = datetime.now(UTC)",
        "x = datetime.datetime.utcnow()",
        "x = date.today()",
        "x = uuid.uuid4()",
        "x = np.random.rand(3)",
        "x = os.urandom(8)",
        "x = t.time_ns()",
        "x = uuid4()",
    ],
)
def test_impurities_finds_every_form(source: str) -> None:
    assert list(impurities(source))


@pytest.mark.parametrize(
    "source", ["def tick(self, now_ns: int) -> None: ...", "x = uuid.uuid5(space, name)", "from schemas.times import rfc3339"]
)
def test_impurities_lets_the_rest_be(source: str) -> None:
    assert not list(impurities(source))
