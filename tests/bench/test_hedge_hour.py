"""The product's own hedger in the simulated world: a few calm minutes, judged from the records. The hour itself is `python -m bench.hedge_hour`."""

from __future__ import annotations

import pytest

from bench.hedge_hour import Run, make_run
from connectors.simulator.hedging import calm


@pytest.fixture(scope="module")
def run() -> Run:
    scenario = calm(3, seconds=120.0, lead_s=240.0)
    made = make_run(scenario)
    while made.now_ns < scenario.end_ns:
        made.tick()
    return made


def test_books_are_covered_and_the_account_is_the_truth(run: Run) -> None:
    figures = run.figures()
    assert figures["coverage_pct"] > 95
    assert figures["position_gaps"] == 0
    assert figures["repeated_orders"] == 0
    assert figures["failure_pct"] == 0
    assert figures["reasons_pct"] == 100
    assert figures["dead_letters"] == 0
    assert figures["hedges"] > 20


def test_every_lane_is_in_balance(run: Run) -> None:
    for logic in (*run.execution, *run.hedgers):
        assert logic.counters()["balance_mismatch"] == 0


def test_figures_of_the_hedger_agree_with_the_records(run: Run) -> None:
    counted = [logic.counters() for logic in run.hedgers]
    assert sum(counts["hedges_sent"] for counts in counted) == len(run.account.hedges)
    assert sum(counts["hedge_fills"] for counts in counted) == run.account.hedge_fills
