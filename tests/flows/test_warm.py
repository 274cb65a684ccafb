"""`hedgerow warm`: afterwards nothing is left to compile, whatever the real calls bring; the hedger's kernels cost the execution flow nothing."""

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


def in_a_process(code: str) -> str:
    """Run code in a new process; return what it printed."""
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=500, check=True)
    return told.stdout


def test_warm_other_books_need_no_other_signature_even_in_a_new_process(warmed: warm.Warmed) -> None:
    told = in_a_process(
        "from flows import warm\n"
        "made = []\n"
        "for warm._HEDGED, seed in ((2, 2), (4, 3), (9, 4)):\n"
        "    made += [warm.hedge_ratios(seed) == warm._HEDGED - 1, warm.hedge_trades(seed), warm.hedge_lots()]\n"
        "print(made, warm._tally()[0], len([name for name in warm.signatures() if 'operators.ratios' in name]) > 20)"
    )
    assert told.split("\n")[0] == f"{[True, 0, 0] * 3} 0 True"


def test_every_kernel_of_the_hedger_is_warm_or_called_by_kernels_only(warmed: warm.Warmed) -> None:
    """A new kernel has to be put into `warm`, or here."""
    inner = {
        "book_fold": ("book_row", "position_row", "seen_before"),
        "hedge_bars": (),
        "lots": (),
        "optimiser": ("complementarity", "infeasibility", "leg_minimum", "optimality_violation"),
        "proposal": (),
        "ratios": (
            "book_variance", "fisher_z", "is_psd", "kappas", "log_ratio", "move", "ols", "pair_place", "power", "realised_over_expected",
            "shrink", "volatility_ratio", "watch_correlation",
        ),
        "snapshots": ("find_symbol",),
    }  # fmt: skip
    ready = in_a_process(
        "from flows import warm\n"
        "warm.hedge_ratios(), warm.hedge_trades(), warm.hedge_lots(), warm.hedge_book()\n"
        "print(*(name for name, count in warm.signatures().items() if not count))"
    )
    cold = {tuple(name.rsplit(".", 2)[1:]) for name in ready.split() if name.split(".")[1] in inner}
    assert {one for one in cold if not one[1].startswith("_")} == {(module, name) for module, names in inner.items() for name in names}


def test_execution_flow_does_without_the_hedgers_kernels() -> None:
    loaded = in_a_process(
        "import sys\n"
        "import flows.run, flows.execution, flows.runtime\n"
        "print(*(name for name in sys.modules if name.startswith('operators.')))"
    ).split()  # fmt: skip
    assert "operators.execution" in loaded
    assert {"operators.ratios", "operators.optimiser", "operators.proposal", "operators.lots"}.isdisjoint(loaded)


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
