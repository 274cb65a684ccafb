"""Imports run one way: schemas, then state, then operators, then flows; connectors know schemas only; nobody imports bench or tests."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OURS = ("schemas", "state", "operators", "connectors", "flows", "bench", "tests")
MAY_IMPORT = {
    "schemas": {"schemas"},
    "state": {"state", "schemas"},
    "operators": {"operators", "state", "schemas"},
    "connectors": {"connectors", "schemas"},
    "flows": {"flows", "connectors", "operators", "state", "schemas"},
    "bench": {"bench", "flows", "connectors", "operators", "state", "schemas", "tests"},
}
OUTSIDE = {
    "schemas": {"socket", "subprocess", "confluent_kafka", "bytewax", "threading", "asyncio"},
    "state": {"socket", "subprocess", "confluent_kafka", "bytewax", "threading", "asyncio", "os", "pathlib", "pydantic"},
    "operators": {"socket", "subprocess", "confluent_kafka", "bytewax", "threading", "asyncio", "os", "pathlib"},
}
"""What a package may not know of the outside world."""


def imports_of(source: str) -> Iterator[tuple[int, str]]:
    """Yield (line, top-level module) of every import, in functions and under TYPE_CHECKING too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name.partition(".")[0]
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, "." if node.level else (node.module or "").partition(".")[0]


def files_of(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_package_imports_only_what_stands_below_it(package: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in files_of(package)
        for line, module in imports_of(path.read_text(encoding="utf-8"))
        if module in OURS and module not in MAY_IMPORT[package]
    ]
    assert wrong == []


@pytest.mark.parametrize("package", OUTSIDE)
def test_package_knows_nothing_of_the_outside_world(package: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in files_of(package)
        for line, module in imports_of(path.read_text(encoding="utf-8"))
        if module in OUTSIDE[package] and path != ROOT / "schemas" / "jit.py"
    ]
    assert wrong == []


@pytest.mark.parametrize("package", [name for name in OURS if name != "tests"])
def test_imports_are_absolute(package: str) -> None:
    relative = [f"{path}:{line}" for path in files_of(package) for line, module in imports_of(path.read_text()) if module == "."]
    assert relative == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import state.table", ["state"]),
        ("from operators import fold", ["operators"]),
        ("def f():\n    from flows.run import run", ["flows"]),
        ("if TYPE_CHECKING:\n    import bench.codec as b", ["bench"]),
        ("from . import x", ["."]),
        ("text = 'import flows'", []),
    ],
)
def test_imports_of_finds_every_form(source: str, found: list[str]) -> None:
    assert [module for _, module in imports_of(source)] == found
