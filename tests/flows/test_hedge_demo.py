"""The hedging demo: what its board and table say, and the whole of it on the embedded broker."""

from __future__ import annotations

import argparse
from typing import Any

import pytest
from rich.console import Console

from flows import demo as demos
from flows import hedge_demo as demo
from flows.board import HEIGHT, WIDTH, passed
from flows.hedge_board import BookNow, HedgeFigures, HedgeLine, hedge_board, hedge_levels, hedge_line

FIGURES = HedgeFigures(
    phase="clients trade", about="demo: hedging, embedded broker, 2 lanes", elapsed_s=31.0, total_s=60.0,
    going_on="no channel to PERP · correlation breaks SOL-USD decay",
    books=tuple(BookNow(name, "USD", 1_234_567.0, 999_999_999.0, share, 123, "variance_reduction_small") for name, share in
                (("CRYPTO-1", 0.97), ("CRYPTO-2", -0.4), ("EQUITY-1", None), ("MACRO-EUR", 1.0))),
    client_fills=12_345, hedge_fills=2_345, hedges=1_234, decisions=123_456, completion_p50_s=0.12, completion_p95_s=2.5, slippage_bps=0.61,
    coverage_pct=97.3, reasons={f"reason_number_{n}": n for n in range(20)},
    last=tuple(HedgeLine("12:00:00.000", "CRYPTO-1", "BTC-PERP", "BUY", "0.123", 1_234_567.0, "PARTIALLY_FILLED") for _ in range(9)),
)  # fmt: skip
GOOD: dict[str, Any] = {
    "position_gaps": 0, "repeated_orders": 0, "legs": 10, "orders_during_halt": 0, "halt_acks_pct": 100.0, "reasons_pct": 100.0, "decisions": 50,
    "coverage_pct": 97.0, "completion_p95_s": 1.0, "recovery_s": 0.4, "slippage_bps": 0.5, "failure_outside_outage_pct": 0.0,
}  # fmt: skip
BALANCES = {"execution": 0, "hedger": 0}


@pytest.mark.parametrize("figures", [FIGURES, HedgeFigures()])
def test_the_board_fits_a_terminal_of_100_by_30(figures: HedgeFigures) -> None:
    console = Console(width=WIDTH, record=True, file=None, force_terminal=True, no_color=True)
    with console.capture() as captured:
        console.print(hedge_board(figures))
    lines = captured.get().rstrip("\n").split("\n")
    assert len(lines) <= HEIGHT
    assert max(len(line) for line in lines) <= WIDTH


def test_the_board_says_what_is_going_on() -> None:
    console = Console(width=WIDTH, no_color=True)
    with console.capture() as captured:
        console.print(hedge_board(FIGURES))
    said = captured.get()
    for text in ("no channel to PERP", "CRYPTO-2", "-40.0 %", "variance_reduction_small", "reason_number_19", "PARTIALLY_FILLED", "97.3 %"):
        assert text in said, text
    assert "reason_number_1 " not in said  # the commonest only
    assert "no channel to PERP" in hedge_line(FIGURES)
    assert "EQUITY-1 –" in hedge_line(FIGURES)


@pytest.mark.parametrize(
    "wrong",
    [{"position_gaps": 1}, {"repeated_orders": 1}, {"orders_during_halt": 1}, {"halt_acks_pct": 50.0}, {"halt_acks_pct": None}, {"reasons_pct": 99.0}],
)  # fmt: skip
def test_correctness_decides(wrong: dict[str, Any]) -> None:
    assert passed(hedge_levels(GOOD, BALANCES, {}))
    assert not passed(hedge_levels(GOOD | wrong, BALANCES, {}))


@pytest.mark.parametrize(("balances", "dead"), [({"execution": 1}, {}), ({"hedger": None}, {}), (BALANCES, {"payload_invalid": 1})])
def test_balances_and_dead_letters_decide(balances: dict[str, int | None], dead: dict[str, int]) -> None:
    assert not passed(hedge_levels(GOOD, balances, dead))


def test_qualities_never_decide() -> None:
    bad = dict.fromkeys(("coverage_pct", "completion_p95_s", "recovery_s", "slippage_bps", "failure_outside_outage_pct"))
    for figures in (GOOD | bad, GOOD | dict.fromkeys(bad, 1e6) | {"coverage_pct": 1.0}):
        levels = hedge_levels(figures, BALANCES, {})
        assert passed(levels)
        assert {level.verdict for level in levels if not level.correct} <= {"missed", "not measured here"}


def arguments(**given: Any) -> argparse.Namespace:
    return argparse.Namespace(**({"crash": False, "hedge": True, "kafka": None, "seconds": None, "seed": 1, "plain": True} | given))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [({"seconds": 5.0}, "--seconds"), ({"seconds": 1e6}, "--seconds"), ({"seed": -1}, "--seed"), ({"crash": True}, "one at a time"),
     ({"kafka": "127.0.0.1:1"}, "simulate --hedging")],
)  # fmt: skip
def test_bad_arguments_end_with_2(wrong: dict[str, Any], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert demos.run(arguments(**wrong)) == 2
    assert said in capsys.readouterr().err


def test_the_whole_demo(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """Both flows, the world and its order agent: positions agree, nothing is sent twice or during HALT, every decision has a reason."""
    monkeypatch.setattr(demo, "Console", lambda **_: Console(highlight=False, width=200))
    code = demo.run(arguments(seconds=40.0, seed=2))
    said = capfd.readouterr().out
    assert code == 0, said
    assert "every correctness row holds" in said
    assert "HALT of ALL" in said
    assert "no channel to PERP" in said
