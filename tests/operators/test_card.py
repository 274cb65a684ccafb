"""The human view: what a person sees first, what is styled as an alarm, and the next step for every mode."""

from __future__ import annotations

import pytest

from operators.canary_kernel import MODES, READINESS, SIGNALS
from operators.card import DRIVERS, Line, card, driver_name, next_step
from schemas.canary import CanaryResult, WindowFigures
from tests.operators.test_canary import GUARDED, HELD, book, calm, judge, regime


def lines(result: CanaryResult, label: str) -> list[Line]:
    return [line for line in card(result) if line.label == label]


def test_an_all_clear_card_has_no_alarm() -> None:
    result = judge(calm(), HELD, daily_pnl=0)
    found = card(result)
    assert [line.label for line in found] == [
        "Risk state", "Posture", "Lifecycle", "Alert ID", "Guidance", "Drivers", "Quality", "Sources", "Sources", "Sources", "Why", "Next step",
    ]  # fmt: skip
    assert {line.style for line in found} == {"ok", "plain"}
    assert found[0].text == "None / Observe"
    assert lines(result, "Why") == [Line("Why", "every check is clear", "ok")]
    assert lines(result, "Next step")[0].text == "No risk-plan"
    assert lines(result, "Lifecycle")[0].text == "quiet · observe · none · current · medium"


def test_an_urgent_card_is_an_alarm_and_says_why_worst_first() -> None:
    result = judge(regime(-1.6, 2), book(("NVDA", 40, 45_000)), cushion=0.07)
    found = card(result)
    assert found[0] == Line("Risk state", "Defensive / Urgent", "alarm")
    assert lines(result, "Alert ID")[0].text == f"canary-fp-v1 {result.fingerprint.key}"
    assert lines(result, "Drivers")[0].text == "margin cushion, market sell-off, one name's value, one name's delta"
    why = lines(result, "Why")
    assert why[0].text.startswith("Immediate margin safety: ")
    assert [line.style for line in why] == ["alarm", "warn", "warn"]
    assert not any("Options convexity" in line.text for line in why)
    assert found[-1] == Line("Next step", "Run risk-plan defend", "alarm")


def test_watch_is_a_warning_and_weak_data_are_said() -> None:
    result = judge(calm(vol_of_vol={"status": "stale"}), cushion=0.3)
    assert card(result)[0] == Line("Risk state", "Defensive / Watch", "warn")
    assert lines(result, "Quality") == [Line("Quality", "data medium-low / signals high", "warn")]
    assert [(line.text, line.style) for line in lines(result, "Sources")] == [
        ("account ok, 10 s old", "ok"), ("positions ok, 10 s old", "ok"), ("market stale, 10 s old", "warn"),
    ]  # fmt: skip


def test_the_margin_line_of_profiles_that_keep_it_apart() -> None:
    assert lines(judge(calm(), HELD, GUARDED, daily_pnl=0), "Margin") == []
    assert lines(judge(calm(), HELD, GUARDED, cushion=0.15), "Margin") == [Line("Margin", "firing: cushion, level 20 %", "alarm")]
    unknown = judge(calm(), HELD, GUARDED, cushion=None, excess_liquidity=None)
    assert lines(unknown, "Margin")[0].text == "unobserved: cushion, level 35 %"


@pytest.mark.parametrize(
    ("mode", "readiness", "expected"),
    [
        ("defend", "ready", "Run risk-plan defend"), ("defend", "blocked", "Confirm data before defend"), ("stage", "prestage", "Stage risk-plan"),
        ("deploy", "ready", "Run risk-plan deploy"), ("rebalance", "ready", "Run risk-plan rebalance"), ("confirm_data", "blocked", "Confirm data"),
        ("none", "watch", "Watch"), ("none", "none", "No risk-plan"),
    ],
)  # fmt: skip
def test_the_next_step_of_every_mode(mode: str, readiness: str, expected: str) -> None:
    assert mode in MODES
    assert readiness in READINESS
    result = judge(calm()).model_copy(update={"planner_mode_hint": mode, "planner_readiness": readiness})
    assert next_step(result) == expected


def test_every_signal_has_a_friendly_name() -> None:
    assert set(DRIVERS) == set(SIGNALS)
    assert driver_name("held_liquidity_degraded") == "held liquidity degraded"


def test_windows_and_ages_are_lines_of_their_own() -> None:
    window = WindowFigures(window="1h", state="gap", span_s=1800.0, samples=12, pnl_pct_nlv=-1.26, min_cushion_pct=21.0, fills=3)
    found = [line for line in card(judge(calm()), [window]) if line.label == "Window"]
    assert found == [Line("Window", "1h (gap): result -1.3 %, lowest cushion 21.0 %, 3 fills", "warn")]
    old = judge(calm(), HELD, now=calm()["as_of_ns"] + 2 * 3_600 * 10**9)
    assert [line.text for line in lines(old, "Sources")] == ["account stale, 2 h old", "positions stale, 2 h old", "market stale, 2 h old"]
    assert lines(judge(calm(), {"stocks": []}), "Sources")[1].text == "positions unknown, age not known"


def test_a_warning_is_shown_sanitised() -> None:
    market = {**calm(), "warning_details": [{"code": "c", "scope": "vol", "message": "GET http://x failed", "impact": "VIX is old"}]}
    assert lines(judge(market), "Warning") == [Line("Warning", "vol: VIX is old", "warn")]
