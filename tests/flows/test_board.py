"""The board: it fits its terminal whatever the figures, says what is wrong, and the closing table decides by correctness alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
from rich.console import Console, RenderableType

from flows.board import (
    HEIGHT,
    WIDTH,
    Figures,
    LastFill,
    Level,
    Spread,
    VenueSlippage,
    board,
    level_lines,
    level_table,
    passed,
    plain_line,
    spark,
)

FULL = Figures(
    phase="orders are routed",
    about="demo: embedded broker, 4 lanes, 1,500 reports/s",
    note="latency: " + "a long explanation " * 10,
    elapsed_s=12.3,
    total_s=30,
    rate_in=2_412.5,
    rate_out=4_105.0,
    history=tuple(range(80)),
    p95_history=(3.0, 2.0, 5.0),
    commits_rate=28.0,
    chunk=2.6,
    commit_ms=7.1,
    latency=Spread(3_546, 12.34, 1_234.5, 61_000.0),
    latency_of=" in 5 s",
    waited=714,
    fills=9_570,
    counts={"received": 28_418, "published": 24_860, "duplicate": 369, "pending": 52, "dlq": 155, "rerouted": 2_982, "orders_held": 21,
            "gaps_open": 23, "balance_mismatch": 0},
    pending={"order_unknown": 20, "uncorrelated": 12, "held": 20},
    duplicates={"replay": 191, "feed_overlap": 90, "secondary": 88},
    dead={f"reason_number_{n}": n for n in range(1, 20)},
    alerts=57,
    venues=tuple(VenueSlippage(f"VENUE-{n}-WITH-A-LONG-NAME", 2_296, -0.08, None, 223, 0, 1_210, 2) for n in range(9)),
    last_fills=9 * (LastFill("09:42:26.538", "CHARLIE", "BTC-USD", "SELL", "0.029061", "59986.74", "CORRECTED", 3, 1.05, 12.0),),
)  # fmt: skip


def shown(what: RenderableType, width: int = WIDTH) -> list[str]:
    console = Console(width=width, height=HEIGHT, force_terminal=True, color_system=None, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(what)
    return console.export_text().splitlines()


@pytest.mark.parametrize("figures", [Figures(), FULL])
def test_board_any_figures_fit_100_by_30(figures: Figures) -> None:
    lines = shown(board(figures))
    assert len(lines) <= HEIGHT
    assert max(map(len, lines)) <= WIDTH


def test_board_full_figures_show_what_was_asked_for() -> None:
    text = "\n".join(shown(board(FULL)))
    wanted = (
        "2,412/s", "4,105/s", "12.3 ms", "1.23 s", "61.00 s", "28,418", "balance closes", "order unknown 20", "uncorrelated 12", "held 20",
        "ref unknown 0", "0.5% of inputs", "23 open gaps", "reason_number_19", "13 other reasons", "-0.08", "CORRECTED v3",
    )  # fmt: skip
    assert [words for words in wanted if words not in text] == []


def test_board_open_balance_is_told_on_board_and_line() -> None:
    broken = replace(FULL, counts={**FULL.counts, "balance_mismatch": 3}, lost=7)
    assert "off by 3" in "\n".join(shown(board(broken)))
    assert "balance OFF BY 3" in plain_line(broken)
    assert plain_line(broken).endswith("LOST 7")


def test_plain_line_is_one_line_without_colours() -> None:
    line = plain_line(FULL)
    assert "\n" not in line
    assert "\x1b" not in line
    assert "p95 1.23 s" in line
    assert "published 24860" in line


@pytest.mark.parametrize(
    ("values", "width", "expected"),
    [((), 5, ""), ((0.0, 0.0), 5, "▁▁"), ((0.0, 4.0, 8.0), 5, "▁▅█"), ((8.0, 8.0, 0.0, 0.0), 2, "█▁"), (range(100), 10, "▁▂▃▃▄▅▆▇▇█")],
)
def test_spark_values_become_bars_of_their_means(values: tuple[float, ...], width: int, expected: str) -> None:
    assert len(spark(values, width)) == len(expected)
    if len(expected) < 10:
        assert spark(values, width) == expected


def test_passed_a_missed_timing_does_not_count_and_a_missed_check_does() -> None:
    check, timing = Level("lost", "0", "0", "ok", correct=True), Level("p50", "20 ms", "99 ms", "missed")
    assert passed([check, timing])
    assert not passed([check, timing, Level("lost", "0", "1", "missed", correct=True)])
    assert not passed([Level("lost", "0", "?", "not measured here", correct=True)])


def test_level_table_fits_and_lines_say_the_same() -> None:
    levels = [Level("good fills sent are published", "or audited why not", "99,999 out, 9,999 waiting, 0 lost", "ok", correct=True),
              Level("fill → published, p50", "20 ms at 20,000/s", "33.3 ms", "missed"),
              Level("fills per second and worker", "100,000", "not measured here", "not measured here")]  # fmt: skip
    lines = shown(level_table(levels))
    assert max(map(len, lines)) <= WIDTH
    assert sum("good fills" in line and line.rstrip().endswith("ok") for line in lines) == 1
    assert sum("p50" in line and line.rstrip().endswith("missed") for line in lines) == 1
    assert level_lines(levels)[1] == "missed            fill → published, p50: 33.3 ms (aim: 20 ms at 20,000/s)"
