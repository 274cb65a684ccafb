"""The oracle itself: it reproduces the published order state matrices, in every order of arrival, before it may judge anything else.

The same rules run against the real logic in tests/operators/test_golden.py.
"""

from __future__ import annotations

import numpy as np
import pytest

from bench.oracle import lane_of
from schemas.hashing import partition_of
from tests import golden_rules
from tests.golden_states import Line
from tests.support import OracleHarness


@pytest.mark.parametrize("line", golden_rules.LINES, ids=golden_rules.NAMES)
def test_golden_line_step_by_step_shows_the_published_states(line: Line) -> None:
    golden_rules.step_by_step(OracleHarness, line)


@pytest.mark.parametrize("line", golden_rules.LINES, ids=golden_rules.NAMES)
def test_golden_line_every_message_doubled_shows_the_same_states(line: Line) -> None:
    golden_rules.doubled(OracleHarness, line)


@pytest.mark.parametrize("line", golden_rules.CHAINED, ids=[line.name for line in golden_rules.CHAINED])
def test_golden_line_every_arrival_order_of_each_chain_ends_the_same(line: Line) -> None:
    golden_rules.every_chain_order(OracleHarness, line)


def test_golden_averages_derived_from_the_lines_are_exact() -> None:
    golden_rules.derived_averages(OracleHarness)


def test_golden_file_holds_every_published_report() -> None:
    expected = [step.expect for line in golden_rules.LINES for step in (*line.steps, *(pair[1] for pair in line.alternatives))]
    reports = [expect for expect in expected if expect is not None]
    totals = [expect for expect in reports if None not in (expect.cum, expect.leaves)]
    assert len(golden_rules.LINES) == 50
    assert (len(reports), len(totals)) == golden_rules.COUNTS


def test_lane_of_any_key_agrees_with_the_kernel() -> None:
    for n in range(40):
        key = ("k" * n + str(n)).encode()
        assert lane_of(key, 16) == partition_of(np.frombuffer(key, np.uint8), 0, len(key), 16)
