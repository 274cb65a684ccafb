"""`python -m bench.faults --flow hedger`, small: a kill in the middle of a commit and one between restores, under load, judged by the oracle."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from bench import hedge_faults
from bench.faults import Step
from bench.ledger import Cluster
from tests.conftest import fresh_topics


@pytest.mark.kafka
@pytest.mark.timeout(600)
def test_kills_inside_a_commit_and_while_restoring_hedge_nothing_twice_and_lose_no_hedge(
    kafka: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = Cluster(kafka)
    hedge_faults.warm(cluster)
    fresh_topics(kafka, 4)
    options = argparse.Namespace(seed=5, rate=300.0, workers=2, partitions=4, limit=300.0)
    steps = [Step("inside", 0, "before_commit", 2, 0.003), Step("restoring", 1, "during_restore", 1)]
    good = hedge_faults.run(options, cluster, tmp_path, None, steps)
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert good, line
    assert line["kills"] == 3
    assert line["hedged_twice"] == line["hedges_lost"] == line["lost"] == line["repeated"] == 0
    assert line["hedges"] > 10
    assert line["decisions"]["sent"] == line["hedges"]
    assert line["blows_below_rate"] == 0
