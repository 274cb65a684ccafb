"""Every threshold is in a policy (canary §2, D1): the rules themselves hold no number that could be one."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PLAIN = {0, 1, 2, 100}
"""Numbers that are arithmetic: nothing, the first, a pair, percent."""
OTHERS: dict[str, dict[float, str]] = {
    "account_metrics": {},
    "canary": {16: "entries of the memo, as a power of two"},
    "canary_kernel": {},
    "canary_render": {},
    "card": {60: "seconds of a minute"},
    "clusters": {
        10**9: "ns of a second", 60: "seconds and minutes", 24: "hours", 86400: "seconds of a day", 1970: "the epoch", 1000: "ns of a µs",
        4096: "dates remembered",
    },
    "monitor": {10**9: "ns of a second", 16: "bytes of a hash"},
    "regime": {300: "values kept of a series", 252: "closes of a year", 60: "minutes of an hour, sessions kept", 10: "dates kept beyond a mean's bars"},
}  # fmt: skip
"""What else there is, and what it is; edges of the fingerprints' buckets are in canonical.py, fixed by version."""


@pytest.mark.parametrize("module", sorted(OTHERS))
def test_rules_hold_no_threshold(module: str) -> None:
    tree = ast.parse((ROOT / "operators" / f"{module}.py").read_text(encoding="utf-8"))
    found = {
        f"line {node.lineno}: {node.value}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, int | float) and not isinstance(node.value, bool)
        if abs(node.value) not in PLAIN and node.value not in OTHERS[module]
    }
    assert found == set()
