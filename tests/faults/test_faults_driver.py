"""`python -m bench.faults`, small: a kill in the middle of a commit and a zombie that wakes in one, under load, judged by the oracle."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from bench.driver import warm
from bench.faults import Step, run
from bench.ledger import Cluster
from tests.conftest import fresh_topics


@pytest.mark.kafka
@pytest.mark.timeout(300)
def test_faults_kill_inside_a_commit_and_a_zombie_in_one_lose_and_repeat_nothing(
    kafka: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = Cluster(kafka)
    warm(cluster)
    fresh_topics(kafka, 4)
    options = argparse.Namespace(seed=3, rate=400.0, workers=2, partitions=4, limit=200.0)
    steps = [Step("inside", 0, "before_commit", 2, 0.003), Step("zombie", 1, "before_commit", pause_s=8.0)]
    good = run(options, cluster, tmp_path, None, steps)
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert good, line
    assert line["kills"] == 1
    assert line["by_kind"] == {"inside": 1, "zombie": 1}
    assert line["recovery_p95_s"] > 0.5
    assert line["blows_below_rate"] == 0
    assert line["inputs"] > 2_000
