"""`hedgerow warm`: afterwards nothing is left to compile, whatever the real calls bring."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from flows import warm
from flows.settings import Settings
from operators.execution import ExecutionLogic
from operators.tape import Tape
from schemas.jit import cache_dir
from schemas.reference import Reference, load_reference

ROOT = Path(warm.__file__).parents[1]


@pytest.fixture(scope="module")
def warmed() -> warm.Warmed:
    return warm.warm()


def lanes_of(reference: Reference, seed: int) -> Counter[str]:
    """Drive another history through lanes of their own; return their counters, added up."""
    tape = Tape(reference)
    lanes = warm.drive(reference, tape, lambda lane: ExecutionLogic(lane, 2, reference, tape.quotes), seed)
    total: Counter[str] = Counter()
    for lane in lanes:
        total.update(lane.counters())
    return total


def test_warm_other_histories_need_no_other_signature(warmed: warm.Warmed) -> None:
    reference = load_reference(Path(Settings.model_fields["reference"].default))
    before = warm.signatures()
    for seed in (2, 3):
        assert lanes_of(reference, seed)["balance_mismatch"] == 0
    assert warm.signatures() == before
    assert warm.is_warm()


def test_warm_meets_every_outcome_and_every_clock(warmed: warm.Warmed) -> None:
    total = lanes_of(load_reference(Path(Settings.model_fields["reference"].default)), seed=1)
    wanted = ("published", "duplicate", "dlq", "rerouted", "misrouted", "fills_published", "fills_enriched", "alerts", "orders_held",
              "duplicate_secondary", "dlq_operator_rejected", "dlq_order_unknown_expired", "dlq_uncorrelated_expired", "dlq_exec_conflict",
              "dlq_intent_conflict")  # fmt: skip
    assert [name for name in wanted if not total[name]] == []


def test_warm_twice_takes_all_from_the_cache_and_says_where_it_is(warmed: warm.Warmed) -> None:
    told = subprocess.run([sys.executable, "-m", "flows", "warm"], cwd=ROOT, capture_output=True, text=True, timeout=500, check=True)
    assert told.stderr == ""
    assert told.stdout.startswith("the kernels are warm after ")
    assert ": 0 compiled, " in told.stdout
    assert told.stdout.rstrip().endswith(str(cache_dir()))


def test_warm_marks_the_cache_only_when_it_came_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm, "_marker", lambda: tmp_path / "cache" / "marker")

    def broken(*args: object, **more: object) -> None:
        raise RuntimeError("stopped halfway")

    monkeypatch.setattr(warm, "drive", broken)
    with pytest.raises(RuntimeError, match="halfway"):
        warm.warm()
    assert not warm.is_warm()
