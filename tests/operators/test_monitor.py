"""Who is told, and when: the truth table row by row, Alertmanager's vectors, the lessons, and what holds of every history. L.. are the lessons' numbers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.monitor import CALM, RANK, SEVERITIES, Decision, Entry, Observation, Scope, decide, observations, observe, scope_id
from schemas.canary import CanaryAlert, CanaryAlertMessage
from schemas.parse import parse
from schemas.policy import MonitorRules, load_policies
from tests.operators.monitor_bench import GUARDED, HOUR, MINUTE, SECOND, T0, message, result, signal

RULES = load_policies()["canary-default"].policy.monitor
VECTORS = json.loads((Path(__file__).parent.parent / "golden" / "notify_vectors.json").read_text())["vectors"]
INPUTS = frozenset(("account", "regime"))


def seen(at_ns: int, severity: str = "watch", *signals: str, key: str | None = None, covered: bool = True, **more: Any) -> Observation:
    """Return an observation; severity `observe` is a calm one. Its key is a function of what it says."""
    firing = severity != CALM
    names = frozenset(signals or ("a",)) if firing else frozenset()
    told = f"{severity}{sorted(names)}{sorted(more.items(), key=str)}" if key is None else key
    common = {"direction": "defensive", "stage": severity, "inputs": INPUTS if firing else frozenset(), "current": INPUTS}
    return Observation(at_ns, told, firing, severity, signals=names, covered=covered, **(common | more))  # type: ignore[arg-type]


class Story:
    """One episode of a scope that had its baseline; `at` is the clock."""

    def __init__(self, rules: MonitorRules = RULES, baseline: bool = True) -> None:
        self.rules = rules
        self.at = T0
        self.entry: Entry | None = None
        self.decisions: list[Decision] = []
        if baseline:
            self.say("observe")

    def say(self, severity: str, *signals: str, after: int = MINUTE, **more: Any) -> Decision:
        self.at += after
        return self.see(seen(self.at, severity, *signals, **more))

    def see(self, observation: Observation) -> Decision:
        decision = decide(self.entry, observation, self.at, self.rules)
        self.entry = decision.entry
        self.decisions.append(decision)
        return decision

    @property
    def paged(self) -> list[str]:
        return [d.reason for d in self.decisions if d.notify]


def outcome(decision: Decision) -> tuple[str, bool]:
    return decision.reason, decision.notify


# ---- the table ---------------------------------------------------------------------------------------------------------------------


def test_older_or_conflicting_observation_is_rejected_and_changes_nothing() -> None:
    story = Story()
    story.say("watch")
    for at_ns, key in ((story.at - 1, None), (story.at, "another")):
        decision = decide(story.entry, seen(at_ns, "urgent", key=key), story.at + MINUTE, RULES)
        assert outcome(decision) == ("rejected_out_of_order", False)
        assert decision.entry == story.entry


@pytest.mark.parametrize("severity", ["observe", "watch", "act"])
def test_first_complete_snapshot_is_a_baseline(severity: str) -> None:
    story = Story(baseline=False)
    assert outcome(story.say(severity)) == ("baseline", False)
    assert story.entry is not None
    assert story.entry.open == (severity != "observe")


def test_emergency_at_the_start_pages_at_once() -> None:
    for covered in (True, False):
        story = Story(baseline=False)
        assert outcome(story.say("urgent", covered=covered)) == ("first_notification", True)


def test_baseline_that_still_fires_pages_as_repeat_after_its_ttl() -> None:
    story = Story(baseline=False)
    first = story.say("act")
    assert first.due_ns == story.at + RULES.repeat_act_s * SECOND + 1
    assert outcome(story.say("act", after=RULES.repeat_act_s * SECOND)) == ("unchanged", False)
    assert outcome(story.say("act", after=1)) == ("repeat", True)


def test_baseline_that_was_never_told_ends_without_a_page() -> None:
    story = Story(baseline=False)
    story.say("act")
    assert outcome(story.say("observe")) == ("recovered", False)
    assert outcome(story.say("act")) == ("reopened", True)


def test_incomplete_start_is_told_only_when_it_lasts() -> None:
    story = Story(baseline=False)
    assert outcome(story.say("watch", covered=False)) == ("held_no_coverage", False)
    assert outcome(story.say("watch", covered=False, after=RULES.min_gap_s * SECOND - 1)) == ("held_no_coverage", False)
    assert outcome(story.say("watch", covered=False, after=1)) == ("first_notification", True)


def test_incomplete_start_that_becomes_complete_is_a_baseline() -> None:
    story = Story(baseline=False)
    story.say("watch", covered=False)
    assert outcome(story.say("watch")) == ("baseline", False)
    assert outcome(story.say("act")) == ("escalated", True)


def test_incomplete_and_quieter_is_held() -> None:
    story = Story()
    story.say("act", "a", "b")
    for severity, names, more in (
        ("observe", (), {"covered": False}),
        ("watch", ("a",), {"covered": False}),
        ("act", ("a",), {"covered": False}),
        ("act", ("a", "b"), {"covered": False, "stage": "other"}),
        ("observe", (), {"current": frozenset(("regime",))}),  # every source is there, but not what fired it
    ):
        decision = story.say(severity, *names, **more)
        assert outcome(decision) == ("held_no_coverage", False)
        assert decision.entry.state == "held"
        assert decision.entry.severity == "act"
        assert decision.entry.signals == {"a", "b"}
    assert outcome(story.say("act", "a", "b"))[1] is False
    assert story.entry is not None
    assert story.entry.state == "open"


def test_incomplete_but_louder_pages() -> None:
    story = Story()
    story.say("watch", "a")
    assert outcome(story.say("act", "a", covered=False)) == ("escalated", True)
    assert outcome(story.say("act", "a", "b", covered=False, after=RULES.min_gap_s * SECOND)) == ("new_signal", True)


def test_none_firing_or_not() -> None:
    story = Story()
    assert outcome(story.say("observe")) == ("quiet", False)
    assert outcome(story.say("watch")) == ("first_notification", True)


def test_below_the_floor_is_quiet_and_later_floors_arm_nothing_old() -> None:
    story = Story(RULES.model_copy(update={"notify_floor": "act"}))
    assert outcome(story.say("watch")) == ("quiet", False)
    story.rules = RULES  # the floor is watch now
    assert outcome(story.say("watch", "a", "b")) == ("quiet", False)
    assert outcome(story.say("watch", after=2 * RULES.repeat_watch_s * SECOND)) == ("quiet", False)
    story.say("observe")
    assert outcome(story.say("watch")) == ("first_notification", True)


def test_raised_floor_holds_from_the_next_occurrence() -> None:
    story = Story()
    story.say("watch", "a")
    story.rules = RULES.model_copy(update={"notify_floor": "act"})
    assert outcome(story.say("watch", "a", "b", after=RULES.min_gap_s * SECOND)) == ("new_signal", True)
    assert outcome(story.say("observe", after=RULES.min_gap_s * SECOND)) == ("recovered", True)
    assert outcome(story.say("watch", "a")) == ("quiet", False)


def test_recovered_is_told_once_and_the_same_key_reopens() -> None:
    story = Story()
    first = story.say("watch")
    assert outcome(story.say("observe", after=RULES.min_gap_s * SECOND)) == ("recovered", True)
    assert outcome(story.say("observe", after=HOUR)) == ("quiet", False)
    again = story.say("watch", after=HOUR)
    assert outcome(again) == ("reopened", True)
    assert again.entry.key == first.entry.key
    assert again.fresh
    assert again.entry.occurrences == 2


def test_what_nobody_was_told_of_ends_without_a_page() -> None:
    story = Story()
    story.say("watch")
    story.say("observe", after=RULES.min_gap_s * SECOND)
    story.rules = RULES.model_copy(update={"notify_floor": "act"})
    assert outcome(story.say("watch", after=HOUR)) == ("quiet", False)
    assert outcome(story.say("observe", after=HOUR)) == ("recovered", False)


def test_what_an_episode_rests_on_is_not_forgotten_without_coverage() -> None:
    story = Story()
    both, one = frozenset(("account", "regime")), frozenset(("account",))
    story.say("watch", "a", inputs=both, current=both)
    story.say("act", "b", inputs=one, current=one)
    assert outcome(story.say("observe", after=HOUR, current=one)) == ("held_no_coverage", False)
    assert outcome(story.say("observe", current=both)) == ("recovered", True)


def test_rising_rank_is_a_new_occurrence_and_pages_at_once() -> None:
    story = Story()
    for n, severity in enumerate(("watch", "act", "urgent")):
        decision = story.say(severity, after=SECOND)
        assert outcome(decision) == ("escalated" if n else "first_notification", True)
        assert decision.fresh
        assert decision.entry.state == ("escalated" if n else "open")


def test_new_signal_pages_and_a_subset_does_not() -> None:
    story = Story()
    story.say("watch", "a", "b")
    assert outcome(story.say("watch", "a")) == ("evidence", False)
    assert outcome(story.say("watch", "a", "c", after=RULES.min_gap_s * SECOND)) == ("new_signal", True)


@pytest.mark.parametrize("change", [{"stage": "other"}, {"direction": "mixed"}])
def test_same_severity_with_another_stage_or_direction_pages(change: dict[str, str]) -> None:
    story = Story()
    story.say("act")
    assert outcome(story.say("act", after=RULES.min_gap_s * SECOND, **change)) == ("stage_changed", True)


def test_rest_updates_the_record_only() -> None:
    story = Story()
    story.say("act", "a", "b")
    assert outcome(story.say("act", "a", "b", key=story.entry.key if story.entry else "")) == ("unchanged", False)
    assert outcome(story.say("act", "a", "b", key="other")) == ("evidence", False)
    assert outcome(story.say("watch", "a")) == ("de_escalated", False)
    assert story.entry is not None
    assert story.entry.last_ns == story.at


@pytest.mark.parametrize(
    ("severity", "ttl_s"), [("watch", RULES.repeat_watch_s), ("act", RULES.repeat_act_s), ("urgent", RULES.repeat_urgent_s)]
)
def test_repeats_come_strictly_after_the_ttl_of_the_severity(severity: str, ttl_s: int) -> None:
    story = Story()
    due = story.say(severity).due_ns
    assert due == story.at + ttl_s * SECOND + 1
    assert outcome(story.say(severity, after=ttl_s * SECOND)) == ("unchanged", False)
    assert outcome(story.say(severity, after=1)) == ("repeat", True)


def test_pages_that_do_not_escalate_keep_the_gap_and_are_not_lost() -> None:
    story = Story()
    story.say("watch", "a")
    for names in (("a", "b"), ("a", "b", "c")):
        decision = story.say("watch", *names)
        assert outcome(decision) == ("new_signal", False)
        assert decision.due_ns == T0 + 2 * MINUTE + RULES.min_gap_s * SECOND
    last = seen(story.at, "watch", "a", "b", "c")
    story.at = decision.due_ns  # the lane's clock puts the same observation again
    assert outcome(story.see(last)) == ("new_signal", True)
    assert outcome(story.see(last)) == ("unchanged", False)


def test_recovery_within_the_gap_is_told_at_its_end() -> None:
    story = Story()
    story.say("watch")
    decision = story.say("observe")
    assert outcome(decision) == ("recovered", False)
    assert decision.entry.state == "recovered"
    story.at = decision.due_ns
    assert outcome(story.see(seen(T0 + 3 * MINUTE, "observe"))) == ("recovered", True)
    assert story.paged == ["first_notification", "recovered"]


def test_send_resolved_tells_of_a_signal_that_cleared() -> None:
    story = Story(RULES.model_copy(update={"send_resolved": True}))
    story.say("act", "a", "b")
    assert outcome(story.say("act", "a")) == ("evidence", False)  # within the gap
    assert outcome(story.say("act", "a", after=RULES.min_gap_s * SECOND)) == ("evidence", True)
    assert outcome(story.say("act", "a", after=RULES.min_gap_s * SECOND)) == ("unchanged", False)


# ---- Alertmanager's vectors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vector", VECTORS, ids=[str(n) for n in range(len(VECTORS))])
def test_alertmanager_vectors(vector: dict[str, Any]) -> None:
    """An alert there is a signal here, a group an episode; what is resolved is a signal observed not to fire. The scope is known before."""
    repeat_s = 60 * vector.get("repeat_minutes", 0)
    update = {f"repeat_{name}_s": repeat_s for name in ("watch", "act", "urgent")} | {"send_resolved": vector.get("send_resolved", False)}
    rules = RULES.model_copy(update=update)
    entry = decide(None, seen(T0, "observe"), T0, rules).entry
    now_ns = T0 + HOUR
    before = vector["entry"]
    if before is not None:
        ago = before["minutes_ago"]
        then_ns = 1 if ago is None else now_ns - ago * MINUTE  # 0 stands for never
        firing = frozenset(map(str, before["firing"]))
        if firing:
            entry = decide(entry, seen(T0 + 1, "watch", *firing), then_ns, rules).entry
        else:
            entry = decide(entry, seen(T0 + 1, "watch", *map(str, before["resolved"])), then_ns - HOUR, rules).entry
            entry = decide(entry, seen(T0 + 2, "observe"), then_ns, rules).entry
    names = list(map(str, vector["now"]["firing"]))
    decision = decide(entry, seen(T0 + 3, "watch" if names else "observe", *names), now_ns, rules)
    assert decision.notify is vector["notify"]


# ---- lessons -----------------------------------------------------------------------------------------------------------------------


def test_l13_cleared_and_back_pages_again() -> None:
    story = Story()
    gap = RULES.min_gap_s * SECOND
    for severity in ("act", "observe", "act"):
        story.say(severity, after=gap)
    assert story.paged == ["first_notification", "recovered", "reopened"]


def test_l13_cleared_and_back_within_the_gap_pages_at_its_end() -> None:
    story = Story()
    story.say("act")
    story.say("observe")
    decision = story.say("act")
    assert outcome(decision) == ("reopened", False)
    last_ns, story.at = story.at, decision.due_ns
    assert outcome(story.see(seen(last_ns, "act"))) == ("reopened", True)


@pytest.mark.parametrize("other", [("a", "c"), ("a",), ("c",)])
def test_l13_a_signal_that_went_and_came_back_pages_again(other: tuple[str, ...]) -> None:
    """A → B → A where A has a signal B lacks: also when nobody was told of B, because the signal was seen to be over."""
    story = Story()
    gap = RULES.min_gap_s * SECOND
    story.say("act", "a", "b")
    story.say("act", *other, after=gap)
    assert outcome(story.say("act", "a", "b", after=gap)) == ("new_signal", True)


def test_l13_escalation_inside_one_episode_pages_also_back_to_what_was_told() -> None:
    story = Story()
    story.say("act", "a")
    assert outcome(story.say("watch", "a")) == ("de_escalated", False)
    assert outcome(story.say("act", "a", after=SECOND)) == ("escalated", True)


def test_l14_flapping_coverage_neither_recovers_nor_pages() -> None:
    story = Story()
    story.say("act", "a", "b")
    for n in range(12):
        if n % 2:
            story.say("act", "a", "b", after=5 * SECOND)
        else:
            story.say("observe", after=5 * SECOND, covered=False)
    assert story.paged == ["first_notification"]
    assert all(d.entry.open for d in story.decisions[1:])
    assert outcome(story.say("act", "a", "b", after=RULES.min_gap_s * SECOND)) == ("unchanged", False)


# ---- what holds of every history ---------------------------------------------------------------------------------------------------

STEPS = st.lists(
    st.tuples(
        st.sampled_from(SEVERITIES),
        st.frozensets(st.sampled_from("abc"), min_size=1),
        st.sampled_from(("one", "two")),
        st.booleans(),
        st.sampled_from((1, 30, 60, 299, 300, 900, 3_600, 90_000)),
    ),
    max_size=25,
)
SOME_RULES = st.builds(
    lambda floor, resolved: RULES.model_copy(update={"notify_floor": floor, "send_resolved": resolved}),
    st.sampled_from(("watch", "act", "urgent")),
    st.booleans(),
)


def told(rules: MonitorRules, steps: Any, twice: bool = False) -> list[tuple[Entry | None, Observation, Decision]]:
    """Return (entry before, observation, decision) of a history; twice: each observation is put a second time."""
    entry: Entry | None = None
    now_ns = T0
    found = []
    for severity, names, stage, covered, after_s in steps:
        now_ns += after_s * SECOND
        observation = seen(now_ns, severity, *names, stage=stage, covered=covered)
        for _ in range(1 + twice):
            decision = decide(entry, observation, now_ns, rules)
            found.append((entry, observation, decision))
            entry = decision.entry
    return found


@given(SOME_RULES, STEPS)
def test_putting_an_observation_again_changes_nothing(rules: MonitorRules, steps: Any) -> None:
    once, twice = told(rules, steps), told(rules, steps, twice=True)
    assert [d.notify for _, _, d in twice[::2]] == [d.notify for _, _, d in once]
    for first, second in zip(twice[::2], twice[1::2], strict=True):
        assert not second[2].notify
        assert not second[2].fresh
        assert second[2].entry == first[2].entry


@given(SOME_RULES, STEPS)
def test_nothing_out_of_order_is_taken(rules: MonitorRules, steps: Any) -> None:
    entry: Entry | None = None
    for _, observation, decision in told(rules, steps):
        if entry is not None:
            late = decide(decision.entry, replace(observation, as_of_ns=observation.as_of_ns - 1), observation.as_of_ns, rules)
            assert outcome(late) == ("rejected_out_of_order", False)
            assert late.entry == decision.entry
        entry = decision.entry


@given(SOME_RULES, STEPS)
def test_no_page_is_below_the_floor_of_its_occurrence_and_none_is_of_observe(rules: MonitorRules, steps: Any) -> None:
    for _, observation, decision in told(rules, steps):
        if decision.notify and decision.reason != "recovered":
            assert RANK[observation.severity] >= RANK[decision.entry.floor] >= RANK["watch"]


@given(SOME_RULES, STEPS)
def test_recovery_is_told_at_most_once_per_occurrence_and_only_on_full_evidence(rules: MonitorRules, steps: Any) -> None:
    seen_of: set[int] = set()
    for before, observation, decision in told(rules, steps):
        if decision.reason == "recovered":
            assert not observation.firing
            assert observation.covered or (before is not None and not before.open)
        if decision.reason == "recovered" and decision.notify:
            assert decision.entry.occurrences not in seen_of
            seen_of.add(decision.entry.occurrences)
        if before is not None and before.open and not decision.entry.open:
            assert observation.covered


@given(SOME_RULES, STEPS)
def test_a_rise_to_the_floor_always_pages_at_once(rules: MonitorRules, steps: Any) -> None:
    for before, observation, decision in told(rules, steps):
        if before is None or before.waiting or not before.open:
            continue
        if RANK[observation.severity] > RANK[before.severity] and RANK[observation.severity] >= RANK[rules.notify_floor]:
            assert decision.notify
            assert decision.fresh


@given(SOME_RULES, STEPS)
def test_urgency_pages_when_it_begins(rules: MonitorRules, steps: Any) -> None:
    for before, observation, decision in told(rules, steps):
        if observation.severity == "urgent" and (before is None or (not before.open and before.told in ("", CALM))):
            assert decision.notify


@given(SOME_RULES, STEPS)
def test_pages_that_say_no_more_than_was_told_are_a_gap_apart(rules: MonitorRules, steps: Any) -> None:
    last: int | None = None
    for before, observation, decision in told(rules, steps):
        if not decision.notify:
            continue
        now_ns = observation.as_of_ns
        louder = before is None or before.told == "" or RANK[observation.severity] > RANK[before.told] or decision.reason == "escalated"
        assert louder or last is None or now_ns - last >= rules.min_gap_s * SECOND
        last = now_ns


@given(STEPS)
def test_sequence_numbers_name_each_page_once(steps: Any) -> None:
    scope: Scope | None = None
    now_ns, pages = T0, []
    for severity, names, stage, covered, after_s in steps:
        now_ns += after_s * SECOND
        one = seen(now_ns, severity, *names, stage=stage, covered=covered)
        other = seen(now_ns, "watch" if severity == "act" else "observe", key=one.key, covered=covered)
        scope, decisions = observe(scope, {"portfolio_risk": one, "data_health": other}, now_ns, RULES)
        pages += [(d.entry.occurrence_seq, d.entry.notification_seq) for d in decisions.values() if d.notify]
    assert len(set(pages)) == len(pages)
    assert [n for _, n in pages] == list(range(1, len(pages) + 1))
    assert all(occurrence >= 1 for occurrence, _ in pages)


# ---- from alerts -------------------------------------------------------------------------------------------------------------------


def alert_of(*signals: dict[str, Any], **more: Any) -> CanaryAlert:
    parsed = parse(CanaryAlertMessage, message(result(list(signals), **more)))
    assert not isinstance(parsed, tuple), parsed
    return parsed.payload


def kinds(*signals: dict[str, Any], **more: Any) -> dict[str, Observation]:
    policy = load_policies()[more.get("profile", "canary-default")]
    return dict(observations(alert_of(*signals, **more), policy.policy.switches))


def test_kinds_of_a_calm_alert() -> None:
    assert {kind: one.firing for kind, one in kinds().items()} == {"portfolio_risk": False, "data_health": False}
    assert set(kinds(profile=GUARDED)) == {"portfolio_risk", "margin_safety", "data_health"}


def test_l03_margin_in_a_calm_market_has_an_episode_of_its_own() -> None:
    found = kinds(signal("margin_cushion_low", "urgent"), profile=GUARDED, portfolio={"cushion_pct": 7.0}, stage="forced_defense")
    assert found["margin_safety"].firing
    assert found["margin_safety"].severity == "urgent"
    assert found["margin_safety"].inputs == {"account", "cushion_pct", "any_cushion"}
    assert found["portfolio_risk"].severity == "urgent"


@pytest.mark.parametrize("status", ["partial", "stale", "unknown"])
def test_a_source_worse_than_ok_is_of_data_health(status: str) -> None:
    found = kinds(signal("margin_cushion_low"), status={"positions": status})
    assert found["data_health"].firing
    assert found["data_health"].severity == "watch"
    assert found["data_health"].covered == (status == "partial")
    assert found["portfolio_risk"].firing


def test_bad_data_beside_another_risk_does_not_pass_for_recovered() -> None:
    rows = [{"title": "Options convexity", "direction": "data_quality", "severity": "watch"}]
    greeks = signal("option_greeks_degraded", direction="data_quality")
    story = Story(baseline=False)
    for found in (kinds(as_of_ns=T0), kinds(greeks, rows=rows, as_of_ns=T0 + MINUTE)):
        last = story.see(found["data_health"])
        story.at += MINUTE
    assert outcome(last) == ("first_notification", True)
    held = story.see(kinds(signal("margin_cushion_low"), greeks, rows=rows, as_of_ns=T0 + 2 * MINUTE)["data_health"])
    assert outcome(held) == ("held_no_coverage", False)
    story.at += RULES.min_gap_s * SECOND
    assert outcome(story.see(kinds(as_of_ns=T0 + 9 * MINUTE)["data_health"])) == ("recovered", True)


@pytest.mark.parametrize(
    ("signals", "fired", "gone"),
    [
        ([signal("margin_cushion_low")], {}, {"portfolio": {"cushion_pct": None}}),
        ([signal("market_selloff_violent")], {}, {"market": {"spy_change_pct": None}}),
        ([signal("net_delta_high", direction="rebalance")], {}, {"portfolio": {"net_delta_pct_nlv": None}}),
        ([signal("gamma_red", subject="gamma")], {}, {"market": {"partial_clusters": ["gamma"]}}),
        ([signal("regime_stress_confirmed", "act")], {"market": {"red_clusters": 2, "red_cluster_names": ["credit", "vol"]}},
         {"market": {"stale_clusters": ["vol"]}}),
        ([], {"severity": "watch", "direction": "defensive", "market": {"yellow_cluster_names": ["credit", "funding", "vol"]},
              "rows": [{"title": "Deteriorating tape", "direction": "defensive", "severity": "watch"}]},
         {"market": {"computing_clusters": ["funding"]}}),
        ([signal("single_name_delta_high", direction="rebalance", subject="AAPL")], {}, {"status": {"positions": "stale"}}),
        ([signal("something_new")], {}, {"status": {"regime": "unknown"}}),
    ],
)  # fmt: skip
def test_what_fired_an_episode_must_be_seen_before_it_is_over(signals: list[Any], fired: dict[str, Any], gone: dict[str, Any]) -> None:
    story = Story(baseline=False)
    story.see(kinds(as_of_ns=T0)["portfolio_risk"])
    story.at += MINUTE
    assert outcome(story.see(kinds(*signals, as_of_ns=T0 + MINUTE, **fired)["portfolio_risk"])) == ("first_notification", True)
    story.at += RULES.min_gap_s * SECOND
    assert outcome(story.see(kinds(as_of_ns=T0 + 7 * MINUTE, **gone)["portfolio_risk"])) == ("held_no_coverage", False)
    assert outcome(story.see(kinds(as_of_ns=T0 + 8 * MINUTE)["portfolio_risk"])) == ("recovered", True)


def test_other_clusters_do_not_hold_an_episode() -> None:
    story = Story(baseline=False)
    story.see(kinds(as_of_ns=T0)["portfolio_risk"])
    story.at += MINUTE
    story.see(kinds(signal("margin_cushion_low"), as_of_ns=T0 + MINUTE, market={"yellow_cluster_names": ["funding"]})["portfolio_risk"])
    story.at += RULES.min_gap_s * SECOND
    over = kinds(as_of_ns=T0 + 9 * MINUTE, market={"ambiguous_clusters": ["funding"]}, status={"regime": "partial"})
    assert outcome(story.see(over["portfolio_risk"])) == ("recovered", True)


def test_ids_do_not_show_the_account() -> None:
    one = scope_id("U1234567", "live", "canary-default")
    assert "1234567" not in one
    assert len({scope_id(a, m, p) for a in "xy" for m in ("live", "paper") for p in ("p", "q")}) == 8
