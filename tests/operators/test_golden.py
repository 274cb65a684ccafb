"""The published order state matrices against the real lane logic: the same rules the oracle had to pass in test_oracle.py."""

from __future__ import annotations

import pytest

from tests import golden_rules
from tests.golden_states import Line
from tests.support import LogicHarness


@pytest.mark.parametrize("line", golden_rules.LINES, ids=golden_rules.NAMES)
def test_golden_line_step_by_step_shows_the_published_states(line: Line) -> None:
    golden_rules.step_by_step(LogicHarness, line)


@pytest.mark.parametrize("line", golden_rules.LINES, ids=golden_rules.NAMES)
def test_golden_line_every_message_doubled_shows_the_same_states(line: Line) -> None:
    golden_rules.doubled(LogicHarness, line)


@pytest.mark.parametrize("line", golden_rules.CHAINED, ids=[line.name for line in golden_rules.CHAINED])
def test_golden_line_every_arrival_order_of_each_chain_ends_the_same(line: Line) -> None:
    golden_rules.every_chain_order(LogicHarness, line)


def test_golden_averages_derived_from_the_lines_are_exact() -> None:
    golden_rules.derived_averages(LogicHarness)
