"""One lane of the monitor: what is published of alerts and of the clock, what never is, and that state, clocks and restarts agree. L.. are the lessons' numbers."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.monitor import scope_id
from operators.monitor_lane import MonitorLogic
from schemas.canary import DENIED
from schemas.policy import load_policies
from schemas.reasons import Reason
from state.monitor import PIECE_BYTES, MonitorLedger
from tests.operators.monitor_bench import ALERTS, DAY, DEAD, GUARDED, HOUR, MINUTE, NOTICES, SECOND, T0, Bench, message, result, signal

MARGIN = signal("margin_cushion_low", "act")
POLICY = load_policies()["canary-default"]
RULES = POLICY.policy.monitor


def test_a_page_tells_the_episode_and_nothing_else() -> None:
    bench = Bench()
    bench.say()
    bench.say(MARGIN, signal("single_name_delta_high", "watch", "rebalance", subject="AAPL"), after_s=600)
    (page,) = bench.pages
    assert page["scope_id"] == scope_id("A1", "live", "canary-default")
    assert "A1" not in page["scope_id"] + page["episode_id"]
    expected = {
        "kind": "portfolio_risk", "reason": "first_notification", "episode_state": "open", "occurrence_seq": 1, "notification_seq": 1,
        "severity": "act", "direction": "defensive", "portfolio_posture": "threat", "lifecycle_stage": "confirmed_stress",
        "signal_ids": ["margin_cushion_low", "single_name_delta_high"], "subjects": ["AAPL"], "text_code": "portfolio_risk.first_notification",
        "source_status": {"account": "ok", "positions": "ok", "regime": "ok"}, "policy_fingerprint": POLICY.fingerprint,
    }  # fmt: skip
    assert {name: page[name] for name in expected} == expected
    assert bench.keys[NOTICES] == [b"A1"] * len(bench.notices)
    words = set(re.findall(r'"([a-z_]+)":', json.dumps(page)))
    assert not words & set(DENIED)


def test_first_complete_snapshot_is_in_the_feed_and_pages_nobody() -> None:
    bench = Bench()
    assert [(n["kind"], n["reason"], n["notify"]) for n in bench.say(MARGIN)] == [("portfolio_risk", "baseline", False)]
    assert bench.pages == []
    bench.wait(RULES.repeat_act_s + 10)
    assert bench.told() == ["repeat"]


def test_emergency_at_the_start_pages_every_kind_it_is_of() -> None:
    bench = Bench(GUARDED)
    bench.say(signal("margin_cushion_low", "urgent"))
    assert bench.told("margin_safety") == bench.told("portfolio_risk") == ["first_notification"]
    assert sorted((page["occurrence_seq"], page["notification_seq"]) for page in bench.pages) == [(1, 1), (2, 2)]


def test_repeats_come_by_the_clock_without_another_alert() -> None:
    bench = Bench()
    bench.say()
    bench.say(signal("margin_cushion_low", "urgent"))
    bench.wait(HOUR / SECOND)
    assert bench.told() == ["first_notification", "repeat", "repeat", "repeat"]
    said = [page["as_of_ns"] for page in bench.pages]
    assert len(set(said)) == 1  # nothing newer is known, and the notice says so


def test_pages_that_wait_for_the_gap_come_by_the_clock() -> None:
    bench = Bench()
    bench.say()
    bench.say(MARGIN)
    bench.say(MARGIN, signal("portfolio_pnl_shock"))
    bench.wait(RULES.min_gap_s - 70)
    assert bench.told() == ["first_notification"]
    bench.wait(20)
    assert bench.told() == ["first_notification", "new_signal"]


def test_l03_margin_pages_in_a_calm_market_and_an_unseen_cushion_holds_it() -> None:
    bench = Bench(GUARDED)
    bench.say()
    bench.say(signal("margin_cushion_low", "urgent"), portfolio={"cushion_pct": 7.0}, stage="forced_defense")
    assert bench.told("margin_safety") == ["first_notification"]
    held = bench.say(portfolio={"cushion_pct": None}, after_s=600)
    assert {n["kind"]: n["reason"] for n in held}["margin_safety"] == "held_no_coverage"
    bench.say(after_s=600)
    assert bench.told("margin_safety")[-1] == "recovered"


def test_the_default_profile_has_no_margin_episode() -> None:
    bench = Bench()
    bench.say(MARGIN)
    assert set(bench.lane.episodes("A1", "live", "canary-default")) == {"portfolio_risk", "data_health"}


def test_profiles_and_modes_are_streams_of_their_own() -> None:
    bench = Bench()
    for profile in ("canary-default", GUARDED):
        for mode in ("live", "paper"):
            bench.say(MARGIN, profile=profile, mode=mode)
    assert bench.lane.counters()["scopes"] == 4
    assert len({n["scope_id"] for n in bench.notices}) == 4


def test_l13_a_clear_a_pages_again() -> None:
    bench = Bench()
    bench.say()
    for signals in ((MARGIN,), (), (MARGIN,)):
        bench.say(*signals, after_s=RULES.min_gap_s)
    assert bench.told("portfolio_risk") == ["first_notification", "recovered", "reopened"]


@pytest.mark.parametrize("status", ["stale", "unknown"])
def test_l14_flapping_coverage_for_a_minute_neither_recovers_nor_pages(status: str) -> None:
    bench = Bench()
    bench.say()
    bench.say(MARGIN, after_s=600)
    for n in range(6):
        signals = [] if n % 2 == 0 else [MARGIN]
        bench.say(*signals, after_s=10, status={"account": "ok" if n % 2 else status})
    assert bench.told("portfolio_risk") == ["first_notification"]
    assert bench.lane.episodes("A1", "live", "canary-default")["portfolio_risk"].state == "open"
    assert len(bench.told("data_health")) == 1  # that a feed is gone is told once, its coming and going within the gap is not
    bench.wait(600)
    assert bench.told("data_health") == ["first_notification", "recovered"]


def test_l15_calm_alerts_are_never_listed_as_alerts() -> None:
    bench = Bench(GUARDED)
    for _ in range(120):
        bench.say()
    assert bench.pages == []
    assert {n["severity"] for n in bench.notices} == {"observe"}
    assert {n["episode_state"] for n in bench.notices} == {"recovered"}
    bench.say(signal("margin_cushion_low", "urgent"))
    assert {page["severity"] for page in bench.pages} == {"urgent"}


def test_l16_a_day_of_heartbeats_stores_24_notices() -> None:
    bench = Bench(GUARDED)
    for _ in range(1440):
        bench.say()
    assert len(bench.notices) == 24
    assert bench.lane.counters()["heartbeats"] == 23
    assert {n["reason"] for n in bench.notices[1:]} == {"quiet"}


def test_a_heartbeat_speaks_of_the_worst_open_episode() -> None:
    bench = Bench()
    bench.say(signal("risk_data_degraded", "watch", "data_quality"), status={"regime": "partial"})
    for _ in range(61):
        bench.say(signal("risk_data_degraded", "watch", "data_quality"), status={"regime": "partial"})
    assert [(n["kind"], n["reason"]) for n in bench.notices[2:]] == [("data_health", "unchanged")]


def test_what_changes_is_in_the_feed_without_a_page() -> None:
    bench = Bench()
    bench.say()
    bench.say(MARGIN)
    for signals, reason in (
        ([signal("margin_cushion_low", "watch")], "de_escalated"),
        ([signal("margin_cushion_low", "watch")], "evidence"),
    ):
        (notice,) = bench.say(*signals, salt=reason)
        assert (notice["reason"], notice["notify"]) == (reason, False)
    (calm,) = bench.say(account="A2", salt=1)
    (other,) = bench.say(account="A2", salt=2)
    assert (calm["reason"], other["reason"]) == ("baseline", "quiet")


def test_replayed_and_late_alerts_are_counted_and_say_nothing() -> None:
    bench = Bench()
    first = message(result([MARGIN], as_of_ns=T0), seq=1)
    newer = message(result([MARGIN], as_of_ns=T0 + MINUTE), seq=2)
    assert len(bench.feed(first)) == 1
    bench.feed(newer)
    before = len(bench.notices)
    bench.feed(newer, first, message(result([], as_of_ns=T0 + MINUTE), seq=3))
    assert len(bench.notices) == before
    counters = bench.lane.counters()
    assert (counters["duplicate"], counters["late"], counters["said_rejected_out_of_order"]) == (1, 2, 2)
    assert counters["balance_mismatch"] == 0


def test_what_cannot_be_used_is_a_dead_letter_and_the_balance_closes() -> None:
    bench = Bench()
    good = message(result(as_of_ns=T0))
    stranger = message(result(as_of_ns=T0), sender="agent.stranger")
    unknown = message(result(as_of_ns=T0, profile="canary-unheard-of"))
    bench.feed(b"{", b"", stranger, unknown, good.replace(b'"severity": "observe"', b'"severity": "loud"'), good)
    assert [letter["reason"] for letter in bench.out[DEAD]] == [
        "json_malformed", "json_malformed", "sender_not_allowed", "field_invalid", "enum_unknown",
    ]  # fmt: skip
    assert "canary-unheard-of" in bench.out[DEAD][3]["detail"]
    assert bench.out[DEAD][3]["retryable"]
    counters = bench.lane.counters()
    assert counters["balance_mismatch"] == 0
    assert (counters["received"], counters["applied"], counters["dlq"], counters["dlq_field_invalid"]) == (6, 1, 5, 1)
    assert sum(counters[f"dlq_{reason.name}"] for reason in Reason if f"dlq_{reason.name}" in counters) == counters["dlq"]


def test_an_alert_in_the_wrong_lane_goes_to_the_right_one() -> None:
    lanes = [Bench(lane=lane, n_lanes=2) for lane in range(2)]
    value = message(result([MARGIN]))
    for bench in lanes:
        bench.feed(value)
    wrong = next(bench for bench in lanes if bench.values[ALERTS])
    assert wrong.values[ALERTS] == [value]
    assert wrong.keys[ALERTS] == [b"A1"]
    assert wrong.lane.counters()["balance_mismatch"] == 0
    assert sum(bench.lane.counters()["applied"] for bench in lanes) == 1


def test_other_policies_than_here_are_counted() -> None:
    bench = Bench()
    bench.feed(message(result() | {"policy_fingerprint": "sha256:" + "0" * 64}))
    assert bench.lane.counters()["policy_drift"] == 1


def test_a_policy_that_is_gone_says_nothing_more() -> None:
    bench = Bench()
    bench.say(signal("margin_cushion_low", "urgent"))
    del bench.policies["canary-default"]
    bench.restart()
    bench.wait(DAY / SECOND, 3600)
    assert len(bench.pages) == 1
    assert bench.lane.counters()["episodes_open"] == 1


def test_ids_are_functions_of_what_is_said() -> None:
    first, second = Bench(), Bench()
    for bench in (first, second):
        for n in range(10):
            bench.say(*([MARGIN] if n % 3 else []), salt=n)
    assert first.values == second.values
    ids = [json.loads(value)["msg_id"] for value in first.values[NOTICES]]
    assert len(set(ids)) == len(ids)


SIGNALS = (
    signal("margin_cushion_low", "watch"), MARGIN, signal("margin_cushion_low", "urgent"), signal("market_selloff_violent"),
    signal("single_name_delta_high", "watch", "rebalance", subject="AAPL"), signal("risk_data_degraded", "watch", "data_quality"),
)  # fmt: skip
STEPS = st.lists(
    st.tuples(
        st.lists(st.sampled_from(SIGNALS), max_size=3, unique_by=lambda s: s["id"]),
        st.sampled_from(("A1", "A2")),
        st.sampled_from(("ok", "ok", "partial", "stale")),
        st.sampled_from((1, 60, 400, 4_000)),
        st.booleans(),
    ),
    max_size=15,
)


@settings(max_examples=40)
@given(STEPS, st.sampled_from(("canary-default", GUARDED)))
def test_restored_lanes_go_on_as_the_calm_one(steps: list, profile: str) -> None:
    calm, restarted = Bench(profile), Bench(profile)
    for n, (signals, account, status, after_s, again) in enumerate(steps):
        for bench in (calm, restarted):
            bench.say(*signals, account=account, status={"positions": status}, after_s=after_s, salt=n // 2)
        if again:
            restarted.restart()
    for bench in (calm, restarted):
        bench.wait(7_200, 300)
    assert calm.values == restarted.values
    assert calm.lane.counters() == restarted.lane.counters()
    assert calm.lane.counters()["balance_mismatch"] == 0


def test_restoring_says_nothing_and_leaves_nothing_to_write() -> None:
    bench = Bench()
    bench.say(MARGIN)
    bench.restart()
    assert not bench.lane.dirty()
    assert bench.lane.tick(bench.now_ns) == []
    assert isinstance(bench.lane, MonitorLogic)


def test_an_alert_without_news_writes_one_row() -> None:
    bench = Bench()
    bench.say(MARGIN)
    bench.say(MARGIN)
    before = sum(len(value) for _, value in bench.log)
    pieces = bench.lane.ledger.pieces
    bench.say(MARGIN)
    written = sum(len(value) for _, value in bench.log) - before
    assert not pieces.dirty
    assert written < 12_000  # mostly the slice of what is kept


@given(st.lists(st.tuples(st.integers(0, 3), st.binary(max_size=3 * PIECE_BYTES)), max_size=20))
def test_texts_in_pieces_are_what_was_kept(steps: list[tuple[int, bytes]]) -> None:
    ledger, kept = MonitorLedger(), {}
    for key, text in steps:
        row = ledger.scope_row(7, 2**64 - 1 - 10 * key)
        ledger.keep(row, text)
        kept[row] = text
        assert {at: ledger.text(at) for at in kept} == kept
    assert len(ledger.pieces) == sum(-(-len(text) // PIECE_BYTES) for text in kept.values())
