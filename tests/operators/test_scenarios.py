"""The scenarios R01 to R70 of reconciliation, as far as this flow covers them: one test each, on the oracle and on the real logic.

Not here: R29 (the dialect's gateway turns versions into corrects) and R70 (this flow has no HALT input; fills are captured whatever
PolicyGuard says). R69 is the crash property of tests/properties/test_reconcile.py, here once more at every single step.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from bench.oracle import ACK, ALIAS, HOLD, REPORT, ROUTE, lane_of
from tests.properties.histories import History, Message
from tests.support import (
    DAY,
    SECOND,
    T0,
    Cluster,
    Harness,
    LogicHarness,
    OracleHarness,
    ack,
    alias,
    client_id,
    correlation,
    decision,
    key_of,
    last_versions,
    positions,
    report,
    route,
    trade_date,
)


@pytest.fixture(params=["oracle", "logic"])
def h(request: pytest.FixtureRequest) -> Harness:
    return OracleHarness() if request.param == "oracle" else LogicHarness()


class Order:
    """One order and its reports, a second apart unless `at` (seconds after noon) says otherwise."""

    def __init__(self, h: Harness, number: int = 1, size: str = "100", routed: bool = True, venue: str = "ALPHA", **fields: Any) -> None:
        self.h, self.id, self.venue, self.number = h, correlation(number), venue, number
        self.clock = 0
        self.common: dict[str, Any] = {"venue": venue, "venue_order_id": f"V{number}", "client_order_id": client_id(self.id)}
        if "side" in fields:
            self.common["side"] = fields["side"]
        if routed:
            h.send(ROUTE, route(self.id, size, **fields))

    def make(self, kind: str, at: float | None = None, **fields: Any) -> bytes:
        if at is None:
            self.clock += 1
            at = self.clock
        merged = {**self.common, **fields}
        if kind not in ("TRADE", "BUST", "CORRECT") and "side" not in fields:
            merged.pop("side", None)
        return report(kind, merged.pop("correlation", self.id), T0 + int(at * SECOND), **merged)

    def say(self, kind: str, at: float | None = None, **fields: Any) -> int:
        return self.h.send(REPORT, self.make(kind, at, **fields))

    def trade(self, exec_id: str, quantity: str, price: str = "10", at: float | None = None, **fields: Any) -> int:
        return self.say("TRADE", at, exec_id=exec_id, last_qty=quantity, last_px=price, **fields)

    def bust(self, exec_id: str, ref: str, at: float | None = None, **fields: Any) -> int:
        return self.say("BUST", at, exec_id=exec_id, exec_ref_id=ref, **fields)

    def correct(self, exec_id: str, ref: str, quantity: str, price: str = "10", at: float | None = None, **fields: Any) -> int:
        return self.say("CORRECT", at, exec_id=exec_id, exec_ref_id=ref, last_qty=quantity, last_px=price, **fields)

    def decide(self, action: str) -> None:
        self.h.send(HOLD, decision(self.id, action, self.h.now_ns))

    @property
    def state(self) -> dict[str, Any]:
        (found,) = self.h.order_state(self.id)
        return found

    @property
    def totals(self) -> tuple[int, int, str]:
        return int(self.state["cum"]), int(self.state["leaves"]), self.state["status"]


def versions(h: Harness) -> list[tuple[str, int, str, int, str]]:
    """Return (exec id, version, status, signed delta, price) of everything published."""
    return [(f["exec_id"], f["version"], f["status"], int(f["signed_delta"]), str(f["price"].normalize())) for f in h.fills]


def reasons(h: Harness) -> list[set[str]]:
    return [set(found) for found, _, _ in h.dead]


def count(h: Harness, name: str) -> int:
    return h.balance()[name]


def alerted(h: Harness) -> set[tuple[str, str]]:
    return {(rule, severity) for rule, severity, _ in h.alerts}


def one_fill_and_a_duplicate(h: Harness) -> None:
    assert len(h.fills) == 1
    assert count(h, "duplicate") == 1
    assert h.dead == []


# ---- repeats ------------------------------------------------------------------------------------------------------------------


def test_r01_byte_equal_twice_publishes_once(h: Harness) -> None:
    order = Order(h)
    value = order.make("TRADE", exec_id="E1", last_qty="5", last_px="10")
    h.send(REPORT, value)
    h.send(REPORT, value)
    one_fill_and_a_duplicate(h)


def test_r02_possible_duplicate_publishes_once(h: Harness) -> None:
    order = Order(h)
    order.trade("E1", "5", seq_num=7)
    order.trade("E1", "5", at=1, seq_num=7, poss_dup=True, orig_sent_ts_ns=T0)
    one_fill_and_a_duplicate(h)


def test_r03_possible_resend_with_new_number_publishes_once(h: Harness) -> None:
    order = Order(h)
    order.trade("E1", "5", seq_num=7)
    order.trade("E1", "5", seq_num=8, poss_resend=True)
    one_fill_and_a_duplicate(h)


def test_r04_drop_copy_and_stream_publish_once(h: Harness) -> None:
    order = Order(h)
    order.trade("E1", "5", source="FIX_DROP_COPY")
    order.trade("E1", "5", source="WEBSOCKET", text="same fill, other words")
    one_fill_and_a_duplicate(h)


def test_r05_snapshot_overlapping_the_stream_publishes_once(h: Harness) -> None:
    order = Order(h)
    for n in range(5):
        order.trade(f"E{n}", "5", source="WEBSOCKET")
    for n in range(2, 7):
        order.trade(f"E{n}", "5", at=n + 1, source="REST_POLL")
    assert len(h.fills) == 7
    assert count(h, "duplicate") == 3


def test_r06_order_response_and_stream_publish_once(h: Harness) -> None:
    order = Order(h)
    order.trade("E1", "5", source="REST_CALLBACK")
    order.trade("E1", "5", source="WEBSOCKET", cum_qty="5")
    one_fill_and_a_duplicate(h)


def test_r07_lite_then_full_message_publishes_once_and_adds_the_fee(h: Harness) -> None:
    order = Order(h)
    order.trade("E1", "5")
    order.trade("E1", "5", cum_qty="5", fee_amount="0.1", fee_ccy="USD")
    assert [(f["version"], f["signed_delta"], f["commission"]) for f in h.fills] == [(1, 5, None), (2, 0, Decimal("0.1"))]
    assert count(h, "duplicate") == 1


def test_r08_exec_id_reused_next_day_is_a_new_fact(h: Harness) -> None:
    order = Order(h, time_in_force="GTC")
    order.trade("E1", "5")
    order.trade("E1", "7", at=86_400)
    assert order.state["cum"] == 12
    assert len(h.fills) == 2


def test_r08_exec_id_reused_next_day_where_ids_never_repeat_is_a_conflict(h: Harness) -> None:
    order = Order(h, venue="BRAVO", time_in_force="GTC")
    order.trade("E1", "5")
    order.trade("E1", "7", at=86_400)
    assert order.state["cum"] == 5
    assert reasons(h) == [{"exec_conflict"}]


def test_r09_replay_after_the_horizon_is_refused(h: Harness) -> None:
    order = Order(h, time_in_force="GTC")
    order.trade("E1", "5")
    order.trade("E2", "5", at=7 * 86_400)
    assert h.dead == []
    order.trade("E1", "5", at=1)
    assert count(h, "duplicate") == 1
    order.trade("E3", "5", at=8 * 86_400)
    order.trade("E1", "5", at=1)
    assert reasons(h) == [{"beyond_dedup_horizon"}]
    assert order.state["cum"] == 15


def test_r09_replay_within_a_longer_horizon_is_a_duplicate(h: Harness) -> None:
    order = Order(h, time_in_force="GTC", venue="CHARLIE")
    order.trade("E1", "5")
    order.trade("E2", "5", at=35 * 86_400)
    order.trade("E1", "5", at=1)
    assert count(h, "duplicate") == 1


def test_r10_many_facts_later_the_first_is_still_a_duplicate(h: Harness) -> None:
    first = Order(h, number=1)
    first.trade("first", "5")
    facts = 100 if isinstance(h, OracleHarness) else 2_500
    for n in range(2, facts):
        order = Order(h, number=n)
        order.trade(f"E{n}", "5")
    first.trade("first", "5", at=1)
    assert count(h, "duplicate") == 1
    assert len(h.fills) == facts - 1


def test_r11_later_copy_brings_the_fee_and_changes_no_position(h: Harness) -> None:
    order = Order(h)
    order.trade("E1", "5")
    order.trade("E1", "5", fee_amount="-0.25", fee_ccy="USD", liquidity="MAKER")
    order.trade("E1", "5", fee_amount="-0.25", fee_ccy="USD", liquidity="MAKER")
    assert count(h, "duplicate") == 2
    last = h.fills[-1]
    assert (len(h.fills), last["version"], last["signed_delta"], last["filled_size"]) == (2, 2, 0, 5)
    assert (last["commission"], last["commission_ccy"], last["liquidity_flag"]) == (Decimal("-0.25"), "USD", "MAKER")


def test_r11_later_copy_with_another_fee_is_remarked_on_and_nothing_else(h: Harness) -> None:
    order = Order(h)
    order.trade("E1", "5", fee_amount="0.25", fee_ccy="USD")
    order.trade("E1", "5", fee_amount="0.30", fee_ccy="USD")
    assert len(h.fills) == 1
    assert h.notes()["attribute_mismatch"] == 1


def test_r11_later_copy_of_a_corrected_fill_brings_nothing(h: Harness) -> None:
    order = Order(h)
    order.trade("E1", "5")
    order.correct("E2", "E1", "6")
    order.trade("E1", "5", at=1, fee_amount="0.25", fee_ccy="USD")
    assert len(h.fills) == 2
    assert count(h, "duplicate") == 1


def test_r11_fee_update_brings_the_fee(h: Harness) -> None:
    order = Order(h)
    order.trade("E1", "5")
    order.say("FEE_UPDATE", exec_id="E1", fee_amount="0.5", fee_ccy="USD")
    assert [(f["version"], f["signed_delta"], f["commission"]) for f in h.fills] == [(1, 5, None), (2, 0, Decimal("0.5"))]
    assert count(h, "published") == 3


# ---- conflicts ----------------------------------------------------------------------------------------------------------------


def conflict_with(h: Harness, **second: Any) -> Order:
    """Two reports under one exec id: the first fact stands, the second is dead, the order is held, somebody is told."""
    order = Order(h)
    order.trade("E1", "5")
    order.say("TRADE", **{"exec_id": "E1", "last_qty": "5", "last_px": "10", **second})
    assert reasons(h) == [{"exec_conflict"}]
    assert alerted(h) == {("exec_conflict", "CRITICAL")}
    assert order.totals == (5, 95, "PARTIALLY_FILLED")
    assert order.state["held"] == ["conflict"]
    assert len(h.fills) == 1
    return order


def test_r12_same_id_other_price_is_a_conflict(h: Harness) -> None:
    conflict_with(h, last_px="10.5")


def test_r13_same_id_other_quantity_is_a_conflict(h: Harness) -> None:
    conflict_with(h, last_qty="6")


def test_r14_same_id_other_side_is_a_conflict(h: Harness) -> None:
    conflict_with(h, side="SELL")


def test_r14_same_id_other_kind_is_a_conflict(h: Harness) -> None:
    order = Order(h)
    order.say("NEW", exec_id="E1")
    order.trade("E1", "5")
    assert reasons(h) == [{"exec_conflict"}]
    assert order.state["cum"] == 0


def test_r15_same_match_under_two_exec_ids_equal_is_a_duplicate(h: Harness) -> None:
    order = Order(h)
    order.trade("E1", "5", trade_match_id="M1")
    order.trade("E2", "5", trade_match_id="M1")
    one_fill_and_a_duplicate(h)


def test_r15_same_match_under_two_exec_ids_unequal_is_a_conflict(h: Harness) -> None:
    order = Order(h)
    order.trade("E1", "5", secondary_exec_id="M1")
    order.trade("E2", "6", secondary_exec_id="M1")
    assert reasons(h) == [{"exec_conflict"}]
    assert order.state["cum"] == 5


def test_r15a_self_trade_one_trade_id_two_sides_is_two_fills(h: Harness) -> None:
    buy, sell = Order(h, 1, venue="BRAVO"), Order(h, 2, venue="BRAVO", side="SELL")
    buy.trade("T1", "5", trade_match_id="T1")
    sell.trade("T1", "5", trade_match_id="T1")
    assert [int(f["signed_delta"]) for f in h.fills] == [5, -5]
    assert positions(h) == {}


def chain_conflict(h: Harness, order: Order, reason: str, cum: int) -> None:
    assert reasons(h) == [{reason}]
    assert (reason, "CRITICAL") in alerted(h)
    assert order.state["held"] == ["conflict"]
    assert order.state["cum"] == cum


def test_r16_second_link_on_one_parent_is_a_fork(h: Harness) -> None:
    order = Order(h)
    order.trade("E1", "5")
    order.correct("E2", "E1", "6")
    order.correct("E3", "E1", "7")
    chain_conflict(h, order, "chain_fork", 6)


def test_r17_links_that_refer_to_each_other_are_a_cycle(h: Harness) -> None:
    order = Order(h)
    order.correct("E1", "E2", "6")
    order.correct("E2", "E1", "7")
    chain_conflict(h, order, "chain_cycle", 0)
    assert count(h, "pending") == 1


def test_r17_a_link_that_refers_to_itself_is_a_cycle(h: Harness) -> None:
    order = Order(h)
    order.correct("E1", "E1", "6")
    chain_conflict(h, order, "chain_cycle", 0)


def test_r17_a_cycle_over_three_links_is_found(h: Harness) -> None:
    order = Order(h)
    order.correct("E1", "E2", "6")
    order.correct("E2", "E3", "7")
    order.correct("E3", "E1", "8")
    chain_conflict(h, order, "chain_cycle", 0)
    assert count(h, "pending") == 2


def test_r18_correct_of_a_bust_is_dead(h: Harness) -> None:
    order = Order(h)
    order.trade("E1", "5")
    order.bust("E2", "E1")
    order.correct("E3", "E2", "7")
    chain_conflict(h, order, "chain_dead", 0)


def test_r19_bust_of_a_bust_is_dead(h: Harness) -> None:
    order = Order(h)
    order.trade("E1", "5")
    order.bust("E2", "E1")
    order.bust("E3", "E2")
    chain_conflict(h, order, "chain_dead", 0)


def test_r20_reference_into_another_order_is_refused(h: Harness) -> None:
    one, other = Order(h, 1), Order(h, 2)
    one.trade("E1", "5")
    other.bust("E2", "E1")
    assert reasons(h) == [{"ref_cross_order"}]
    assert one.state["cum"] == 5
    assert other.state["held"] == ["conflict"]


def test_r20_reference_to_a_report_that_is_no_trade_is_refused(h: Harness) -> None:
    order = Order(h)
    order.say("NEW", exec_id="E1")
    order.bust("E2", "E1")
    chain_conflict(h, order, "ref_not_trade", 0)


# ---- chains -------------------------------------------------------------------------------------------------------------------


def test_r21_bust_before_its_fill_publishes_both_in_one_go(h: Harness) -> None:
    order = Order(h)
    order.bust("E2", "E1", at=2)
    assert h.fills == []
    assert count(h, "pending") == 1
    order.trade("E1", "5", at=1)
    assert versions(h) == [("E1", 1, "FILLED", 5, "1E+1"), ("E2", 2, "BUSTED", -5, "1E+1")]
    assert count(h, "pending") == 0
    assert order.totals == (0, 100, "PENDING_NEW")


def test_r22_correct_before_its_fill_publishes_both_in_one_go(h: Harness) -> None:
    order = Order(h)
    order.correct("E2", "E1", "7", "11", at=2)
    order.trade("E1", "5", at=1)
    assert versions(h) == [("E1", 1, "FILLED", 5, "1E+1"), ("E2", 2, "CORRECTED", 2, "11")]
    assert h.fills[-1]["filled_size"] == 7


@pytest.mark.parametrize("arrival", list(itertools.permutations(range(3))), ids=str)
def test_r23_chain_of_three_in_any_order_ends_the_same(h: Harness, arrival: tuple[int, int, int]) -> None:
    order = Order(h)
    steps: list[Callable[[], int]] = [
        lambda: order.trade("E1", "5", "10", at=1),
        lambda: order.correct("E2", "E1", "6", "11", at=2),
        lambda: order.correct("E3", "E2", "4", "12", at=3),
    ]
    for n in arrival:
        steps[n]()
    assert versions(h) == [("E1", 1, "FILLED", 5, "1E+1"), ("E2", 2, "CORRECTED", 1, "11"), ("E3", 3, "CORRECTED", -2, "12")]
    assert count(h, "pending") == 0
    assert (order.state["cum"], order.state["avg_price"]) == (4, 12)


def test_r24_bust_on_the_next_day_finds_its_fill(h: Harness) -> None:
    order = Order(h, time_in_force="GTC")
    order.trade("E1", "5")
    order.bust("E2", "E1", at=86_400)
    assert order.state["cum"] == 0
    assert h.fills[-1]["status"] == "BUSTED"


def test_r24_bust_of_yesterdays_fill_when_the_id_was_used_again_today_takes_the_newer(h: Harness) -> None:
    order = Order(h, time_in_force="GTC")
    order.trade("E1", "5")
    order.trade("E1", "7", at=86_400)
    order.bust("E2", "E1", at=86_500)
    assert order.state["cum"] == 5


def test_r25_bust_after_cancel_leaves_the_order_canceled(h: Harness) -> None:
    order = Order(h)
    order.trade("E1", "5")
    order.say("CANCELED")
    order.bust("E2", "E1")
    assert order.totals == (0, 0, "CANCELED")


def test_r26_bust_reopens_a_filled_order(h: Harness) -> None:
    order = Order(h)
    order.trade("E1", "40")
    order.trade("E2", "60")
    assert order.totals == (100, 0, "FILLED")
    order.bust("E3", "E2")
    assert order.totals == (40, 60, "PARTIALLY_FILLED")


def test_r27_price_only_correct_moves_no_position(h: Harness) -> None:
    order = Order(h)
    order.trade("E1", "5", "10")
    order.correct("E2", "E1", "5", "9.5")
    assert versions(h)[-1] == ("E2", 2, "CORRECTED", 0, "9.5")
    assert order.state["avg_price"] == Decimal("9.5")


def test_r28_quantity_correct_over_gtc_days_moves_the_day_it_belongs_to(h: Harness) -> None:
    order = Order(h, time_in_force="GTC")
    order.trade("E1", "20")
    order.say("DONE_FOR_DAY")
    order.trade("E2", "10", at=86_400)
    order.correct("E3", "E1", "15", at=86_401)
    state = order.state
    assert (state["day_order_qty"], state["day_cum"], state["cum"]) == (85, 10, 25)


def test_r30_root_style_siblings_are_ordered_by_time_not_arrival(h: Harness) -> None:
    order = Order(h, venue="CHARLIE")
    order.trade("E1", "5", at=1)
    order.correct("E3", "E1", "7", at=3)
    order.correct("E2", "E1", "6", at=2)
    assert h.dead == []
    assert order.state["cum"] == 7
    last = h.fills[-1]
    assert (last["version"], last["signed_delta"], last["filled_size"]) == (3, 0, 7)


def test_r30_root_style_bust_after_correct_undoes_what_stood(h: Harness) -> None:
    order = Order(h, venue="CHARLIE")
    order.trade("E1", "5")
    order.correct("E2", "E1", "7", "11")
    order.bust("E3", "E1")
    assert versions(h)[-1] == ("E3", 3, "BUSTED", -7, "11")
    assert order.state["cum"] == 0


# ---- life cycle ---------------------------------------------------------------------------------------------------------------


def test_r31_fill_before_new_counts(h: Harness) -> None:
    order = Order(h)
    order.trade("E1", "5", at=2)
    assert len(h.fills) == 1
    order.say("NEW", at=1, order_qty="100")
    assert order.totals == (5, 95, "PARTIALLY_FILLED")


def test_r31_fill_before_its_route_waits_for_it(h: Harness) -> None:
    order = Order(h, routed=False)
    order.trade("E1", "5")
    assert count(h, "pending") == 1
    h.send(ROUTE, route(order.id, "100"))
    assert order.totals == (5, 95, "PARTIALLY_FILLED")
    assert count(h, "pending") == 0


def test_r32_fill_while_a_cancel_is_pending_counts(h: Harness) -> None:
    order = Order(h)
    order.say("NEW")
    order.say("PENDING_CANCEL", client_order_id=client_id(order.id, "b"), orig_client_order_id=client_id(order.id))
    order.trade("E1", "5")
    assert order.totals == (5, 95, "PENDING_CANCEL")


def test_r33_fill_that_crosses_a_replace_counts_on_the_same_order(h: Harness) -> None:
    order = Order(h)
    order.say("NEW", order_qty="100")
    ids = {"client_order_id": client_id(order.id, "b"), "orig_client_order_id": client_id(order.id)}
    order.say("PENDING_REPLACE", **ids)
    order.trade("E1", "5")
    order.say("REPLACED", order_qty="120", **ids)
    assert order.totals == (5, 115, "PARTIALLY_FILLED")


def test_r34_replace_below_cum_fills_the_order_without_overfill(h: Harness) -> None:
    order = Order(h)
    order.trade("E1", "80")
    order.say("REPLACED", order_qty="70")
    assert order.totals == (80, 0, "FILLED")
    assert order.state["held"] == []
    assert h.alerts == []


def test_r35_fill_after_cancel_counts_and_is_remarked_on(h: Harness) -> None:
    order = Order(h)
    order.say("CANCELED")
    order.trade("E1", "5")
    assert order.totals == (5, 0, "CANCELED")
    assert h.notes()["fill_after_terminal"] == 1
    assert len(h.fills) == 1


def test_r36_rejected_request_leaves_a_live_order_alone(h: Harness) -> None:
    order = Order(h)
    order.say("NEW")
    order.trade("E1", "5")
    order.say("REJECTED", ord_status="PARTIALLY_FILLED")
    assert order.totals == (5, 95, "PARTIALLY_FILLED")


def test_r37_stopped_with_a_quantity_is_no_fill(h: Harness) -> None:
    order = Order(h)
    order.say("NEW")
    order.say("STOPPED", exec_id="E1", last_qty="10", last_px="50")
    assert order.totals == (0, 100, "STOPPED")
    assert h.fills == []


def test_r38_split_rescales_what_is_older_and_publishes_it_again(h: Harness) -> None:
    order = Order(h, time_in_force="GTC")
    order.say("NEW", order_qty="100")
    order.trade("E1", "20", "50")
    order.say("RESTATED", order_qty="200", restatement_reason=0, exec_id="S1")
    assert order.totals == (40, 160, "PARTIALLY_FILLED")
    assert order.state["avg_price"] == 25
    assert versions(h) == [("E1", 1, "FILLED", 20, "5E+1"), ("S1", 2, "CORRECTED", 20, "25")]


def test_r38_older_fill_that_comes_after_the_split_is_rescaled(h: Harness) -> None:
    order = Order(h, time_in_force="GTC")
    order.say("NEW", order_qty="100")
    order.say("RESTATED", at=9, order_qty="200", restatement_reason=0, exec_id="S1")
    order.trade("E1", "20", "50", at=5)
    assert (order.state["cum"], order.state["avg_price"]) == (40, 25)
    assert sum(f["signed_delta"] for f in h.fills) == 40


def test_r39_partial_replace_fill_on_the_old_id_is_one_order(h: Harness) -> None:
    order = Order(h)
    order.trade("E1", "5")
    order.say("REPLACED", order_qty="90", client_order_id=client_id(order.id, "b"), orig_client_order_id=client_id(order.id))
    order.trade("E2", "6", venue_order_id=None)
    assert order.totals == (11, 79, "PARTIALLY_FILLED")


def test_r40_fifteen_orders_canceled_yet_filled_all_count(h: Harness) -> None:
    orders = [Order(h, n) for n in range(1, 16)]
    for order in orders:
        order.say("CANCELED")
    for order in orders:
        order.trade(f"E{order.number}", "100")
    assert all(order.state["cum"] == 100 for order in orders)
    assert positions(h) == {("ACC-1", "ACME"): Decimal(1500)}
    assert all(order.state["status"] == "FILLED" for order in orders)


# ---- totals -------------------------------------------------------------------------------------------------------------------


def test_r41_total_that_jumps_opens_one_gap_and_its_clocks_tell(h: Harness) -> None:
    order = Order(h)
    order.trade("E1", "5", cum_qty="5")
    order.trade("E3", "5", cum_qty="15")
    assert order.state["gap"] == 5
    order.trade("E4", "5", cum_qty="25")
    assert order.state["gap"] == 10
    assert h.notes()["gap_opened"] == 1
    assert len(h.fills) == 3
    h.advance(31)
    assert ("gap_opened", "WARN") in alerted(h)
    h.advance(90)
    assert ("gap_expired", "CRITICAL") in alerted(h)


def test_r42_gap_closed_out_of_order_is_closed(h: Harness) -> None:
    order = Order(h)
    order.trade("E3", "5", at=3, cum_qty="15")
    order.trade("E1", "5", at=1, cum_qty="5")
    assert order.state["gap"] == 5
    order.trade("E2", "5", at=2, cum_qty="10")
    assert order.state["gap"] == 0
    assert h.notes()["gap_closed"] == 1
    h.advance(200)
    assert alerted(h) == set()


def test_r43_total_that_falls_without_a_bust_holds_the_order(h: Harness) -> None:
    order = Order(h)
    order.trade("E1", "5", cum_qty="5")
    order.trade("E2", "5", cum_qty="10")
    order.say("STATUS", cum_qty="5")
    assert order.state["held"] == ["cum_regression"]
    assert alerted(h) == {("cum_regression", "CRITICAL")}
    order.trade("E3", "5")
    assert len(h.fills) == 2
    assert count(h, "pending") == 1
    order.bust("E4", "E2", at=2.5)
    assert order.state["held"] == []
    assert len(h.fills) == 4
    assert count(h, "pending") == 0


def test_r44_stale_total_that_arrives_late_is_not_compared(h: Harness) -> None:
    order = Order(h)
    order.trade("E1", "5", at=1, cum_qty="5")
    order.trade("E2", "5", at=3, cum_qty="10")
    order.say("STATUS", at=2, cum_qty="5")
    assert order.state["held"] == []
    assert order.state["gap"] == 0


def test_r45_overfill_is_held_until_a_bust_brings_it_down(h: Harness) -> None:
    order = Order(h)
    order.trade("E1", "60")
    order.trade("E2", "60")
    assert order.state["held"] == ["overfill"]
    assert alerted(h) == {("overfill", "CRITICAL")}
    assert len(h.fills) == 1
    order.bust("E3", "E1")
    assert order.state["held"] == []
    assert order.totals == (60, 40, "PARTIALLY_FILLED")
    assert positions(h) == {("ACC-1", "ACME"): Decimal(60)}


def test_r45_overfill_is_applied_where_the_venue_is_so_set(h: Harness) -> None:
    order = Order(h, venue="ECHO")
    order.trade("E1", "60")
    order.trade("E2", "60")
    assert order.state["held"] == []
    assert order.totals == (120, 0, "FILLED")
    assert alerted(h) == {("overfill", "CRITICAL")}
    assert len(h.fills) == 2


def test_r46_inferred_then_real_counts_once(h: Harness) -> None:
    order = Order(h)
    order.trade("I1", "10", inferred=True)
    order.trade("E1", "4", "11")
    assert order.state["cum"] == 10
    order.trade("E2", "6", "12")
    assert order.state["cum"] == 10
    assert positions(h) == {("ACC-1", "ACME"): Decimal(10)}
    last = {fill["fill"].split("|")[3]: fill["status"] for fill in last_versions(h).values()}
    assert last == {"I1": "BUSTED", "E1": "FILLED", "E2": "FILLED"}


def test_r47_provisional_is_reversed_by_the_real_fill(h: Harness) -> None:
    order = Order(h)
    order.trade("P1", "10", provisional=True)
    assert h.fills[0]["provisional"] is True
    order.trade("E1", "15", "11")
    assert order.state["cum"] == 15
    assert h.notes()["provisional_reversed"] == 1
    assert order.state["avg_price"] == 11


def test_r48_average_is_rounded_half_to_even_once(h: Harness) -> None:
    order = Order(h)
    order.trade("E1", "1", "10")
    order.trade("E2", "2", "10.0001")
    assert order.state["avg_price"] == Decimal("10.00006667")


# ---- identity -----------------------------------------------------------------------------------------------------------------


def delta(h: Harness, routed: bool = True) -> Order:
    """Return an order at the venue that cannot carry our client order id."""
    order = Order(h, venue="DELTA", routed=routed)
    order.common.update(client_order_id=None, correlation=None)
    return order


def test_r49_report_waits_for_its_alias_and_then_counts(h: Harness) -> None:
    order = delta(h)
    order.trade("E1", "5")
    assert h.fills == []
    assert count(h, "pending") == 1
    h.send(ACK, ack(order.id, "100", venue="DELTA", venue_order_id="V1"))
    assert order.totals == (5, 95, "PARTIALLY_FILLED")
    assert count(h, "pending") == 0


def test_r50_report_whose_alias_never_comes_is_dead_after_two_minutes(h: Harness) -> None:
    order = delta(h)
    order.trade("E1", "5")
    h.advance(119)
    assert h.dead == []
    h.advance(2)
    assert reasons(h) == [{"uncorrelated_expired"}]
    assert count(h, "pending") == 0


def keyed(order: Order, key: str, **fields: Any) -> None:
    """Send a trade of 5 that says no correlation, under a key."""
    order.h.send(REPORT, order.make("TRADE", **{"exec_id": "E1", "last_qty": "5", "last_px": "10", **fields}), key.encode())


def test_r49_report_sent_under_its_correlation_needs_no_alias(h: Harness) -> None:
    order = delta(h)
    keyed(order, order.id)
    assert order.totals == (5, 95, "PARTIALLY_FILLED")
    h.send(ACK, ack(order.id, "100", venue="DELTA", venue_order_id="V1"))
    assert order.totals == (5, 95, "PARTIALLY_FILLED")


def test_r49_report_sent_under_its_correlation_waits_for_the_route(h: Harness) -> None:
    order = delta(h, routed=False)
    keyed(order, order.id)
    h.advance(119)
    assert count(h, "pending") == 1
    h.send(ROUTE, route(order.id, "100"))
    assert order.totals == (5, 95, "PARTIALLY_FILLED")
    assert h.dead == []


NO_CORRELATIONS = (
    "DELTA|V1", "", correlation(171).upper(), correlation(171)[:-1], correlation(171) + "0", correlation(171).replace("-", ""),
    correlation(171).replace("-", "_"), correlation(171)[:-1] + "g", "0" * 36, correlation(0).replace("4", "0").replace("8", "0"),
)  # fmt: skip


@pytest.mark.parametrize("key", NO_CORRELATIONS)
def test_r49_other_keys_tell_no_correlation(h: Harness, key: str) -> None:
    order = delta(h)
    h.send(ROUTE, route(correlation(171), "100"))
    keyed(order, key)
    h.advance(121)
    assert reasons(h) == [{"uncorrelated_expired"}]


def test_r49_key_and_alias_that_differ_are_a_conflict(h: Harness) -> None:
    one, other = delta(h), Order(h, 2, venue="DELTA")
    h.send(ACK, ack(one.id, "100", venue="DELTA", venue_order_id="V1"))
    keyed(one, other.id)
    assert reasons(h) == [{"correlation_conflict"}]
    assert (one.state["cum"], h.order_state(other.id)) == (0, [])


def test_r49_key_counts_for_nothing_where_the_report_says_its_correlation(h: Harness) -> None:
    one, other = Order(h, 1), Order(h, 2)
    keyed(one, other.id)
    keyed(one, other.id, exec_id="E2", correlation=None)
    assert one.state["cum"] == 10
    assert h.order_state(other.id) == []


def test_r49_report_sent_under_a_correlation_it_does_not_fit_is_held(h: Harness) -> None:
    order = delta(h)
    keyed(order, order.id, side="SELL")
    assert order.state["held"] == ["side_mismatch"]
    assert h.fills == []
    assert count(h, "pending") == 1


@pytest.mark.parametrize("keyed_only", [False, True])
def test_r49_alias_that_contradicts_comes_too_late_for_a_held_report(h: Harness, keyed_only: bool) -> None:
    order = delta(h) if keyed_only else Order(h, venue="DELTA")
    keyed(order, order.id, last_qty="60")
    keyed(order, order.id, last_qty="60", exec_id="E2")
    assert order.state["held"] == ["overfill"]
    h.send(ALIAS, alias(correlation(2), "DELTA", "V1"))
    order.decide("RELEASE")
    assert h.dead == []
    assert positions(h) == {("ACC-1", "ACME"): Decimal(120)}
    assert order.state["cum"] == 120


@pytest.mark.parametrize("keyed_only", [False, True])
def test_r49_alias_that_contradicts_comes_too_late_for_a_report_that_waits_for_its_route(h: Harness, keyed_only: bool) -> None:
    order = delta(h, routed=False) if keyed_only else Order(h, venue="DELTA", routed=False)
    keyed(order, order.id)
    h.send(ALIAS, alias(correlation(2), "DELTA", "V1"))
    h.send(ROUTE, route(order.id, "100"))
    assert order.totals == (5, 95, "PARTIALLY_FILLED")
    keyed(order, order.id, exec_id="E2")
    assert reasons(h) == [{"correlation_conflict"}]


def afar(n_lanes: int) -> tuple[int, int]:
    """Return (number, lane) of an order whose venue order V1 at DELTA is asked for in another lane."""
    at = lane_of("DELTA|V1", n_lanes)
    return next((n, lane) for n in range(1, 100) if (lane := lane_of(correlation(n), n_lanes)) != at)


@pytest.mark.parametrize("make", [OracleHarness, LogicHarness])
@pytest.mark.parametrize("first", ["alias", "report"])
def test_r49_alias_told_from_outside_leads_a_report_to_its_order(make: type[Harness], first: str) -> None:
    cluster = Cluster(make, 4)
    number, lane = afar(4)
    name = correlation(number)
    cluster.send(ROUTE, route(name, "100"))
    trade = report("TRADE", None, T0, venue="DELTA", venue_order_id="V1", exec_id="E1", last_qty="5", last_px="10")
    told = alias(name, "DELTA", "V1")
    for topic, value in ((ALIAS, told), (REPORT, trade)) if first == "alias" else ((REPORT, trade), (ALIAS, told)):
        cluster.send(topic, value)
    cluster.send(REPORT, trade)
    (state,) = cluster.order_state(name)
    assert state["cum"] == 5
    assert [len(harness.fills) for harness in cluster.lanes] == [n == lane for n in range(4)]
    assert cluster.balance()["rerouted"] == 2
    assert cluster.balance()["duplicate"] == 1


@pytest.mark.parametrize("make", [OracleHarness, LogicHarness])
def test_r49_key_of_another_lane_tells_no_correlation(make: type[Harness]) -> None:
    number, lane = afar(4)
    wrong = next(n for n in range(4) if n not in (lane, lane_of("DELTA|V1", 4)))
    harness = make(lane=wrong, n_lanes=4)  # type: ignore[call-arg]
    order = delta(harness, routed=False)
    order.id = correlation(number)
    keyed(order, order.id)
    assert [(topic, key) for topic, key, _ in harness.reroutes] == [(REPORT, b"DELTA|V1")]


@pytest.mark.parametrize("make", [OracleHarness, LogicHarness])
def test_r49_misplaced_alias_is_sent_to_its_lane_and_told_nowhere_else(make: type[Harness]) -> None:
    number, lane = afar(4)
    harness = make(lane=lane, n_lanes=4)  # type: ignore[call-arg]
    told = alias(correlation(number), "DELTA", "V1")
    harness.send(ALIAS, told)
    assert harness.reroutes == [(ALIAS, key_of(ALIAS, told), told)]
    assert harness.balance()["rerouted"] == 1


def test_r49_alias_of_an_unknown_venue_is_dead(h: Harness) -> None:
    h.send(ALIAS, alias(correlation(1), "NOWHERE", "V1"))
    assert reasons(h) == [{"venue_unknown"}]


def test_r51_wrong_client_id_makes_no_phantom_order(h: Harness) -> None:
    order = Order(h)
    order.trade("E1", "5", correlation=None, client_order_id=client_id(correlation(99)), venue_order_id="V99")
    assert count(h, "pending") == 1
    h.advance(121)
    assert reasons(h) == [{"order_unknown_expired"}]
    assert h.order_state(correlation(99)) == []
    assert h.order_state(order.id) == []


def test_r52_order_id_reused_by_another_order_stays_apart(h: Harness) -> None:
    one, other = Order(h, 1), Order(h, 2)
    one.trade("E1", "5", venue_order_id="SAME")
    other.trade("E2", "7", venue_order_id="SAME")
    assert (one.state["cum"], other.state["cum"]) == (5, 7)


@pytest.mark.parametrize("fields", [{"correlation": None}, {"client_order_id": None}], ids=["from the client id", "from the envelope"])
def test_r53_correlation_is_found_where_it_is_said(h: Harness, fields: dict[str, Any]) -> None:
    order = Order(h)
    order.trade("E1", "5", **fields)
    assert order.state["cum"] == 5


def test_r53_correlation_in_another_case_is_the_same(h: Harness) -> None:
    order = Order(h, number=0xABCDEF)
    order.trade("E1", "5", correlation=None, client_order_id=client_id(order.id).upper() + "-Z9")
    order.trade("E2", "5", correlation=order.id.upper())
    assert sum(state["cum"] for state in h.order_state(order.id)) == 10


def test_r53_two_correlations_in_one_report_are_refused(h: Harness) -> None:
    order = Order(h)
    order.trade("E1", "5", client_order_id=client_id(correlation(2)))
    assert reasons(h) == [{"correlation_conflict"}]


def test_r54_venue_made_order_waits_and_then_is_dead(h: Harness) -> None:
    value = report("TRADE", None, T0, client_order_id="autoclose-17", venue_order_id="V9", exec_id="E1", last_qty="5", last_px="10")
    h.send(REPORT, value)
    h.advance(121)
    assert reasons(h) == [{"uncorrelated_expired"}]


def test_r55_manual_order_without_an_intent_waits_and_then_is_dead(h: Harness) -> None:
    order = Order(h, routed=False)
    order.trade("E1", "5", source="MANUAL")
    h.advance(121)
    assert reasons(h) == [{"order_unknown_expired"}]


def test_r56_two_legs_of_one_correlation_share_the_residual(h: Harness) -> None:
    order = Order(h)
    order.trade("E1", "30", venue_order_id="A", client_order_id=client_id(order.id, "a"))
    order.trade("E2", "50", venue_order_id="B", client_order_id=client_id(order.id, "b"))
    assert sorted(state["cum"] for state in h.order_state(order.id)) == [30, 50]
    assert [int(f["residual_size"]) for f in h.fills] == [70, 20]


# ---- bad input ----------------------------------------------------------------------------------------------------------------

GOOD = {"exec_id": "E1", "last_qty": "5", "last_px": "10"}
REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "unknown venue": ("venue_unknown", {"venue": "NOWHERE"}),
    "unknown account": ("account_unknown", {"account": "ACC-9"}),
    "unknown instrument": ("instrument_unknown", {"instrument": "XYZ"}),
    "extra decimals of a quantity": ("precision_exceeds_scale", {"last_qty": "1.5"}),
    "extra decimals of a total": ("precision_exceeds_scale", {"cum_qty": "0.1"}),
    "extra decimals of a price": ("precision_exceeds_scale", {"last_px": "10.00001"}),
    "quantity of 2^62": ("field_invalid", {"instrument": "BTC-USD", "last_qty": "4611686018427.387904"}),
    "event after receive": ("event_ts_future", {"recv_ts_ns": T0 - 61 * SECOND}),
    "trade date ahead": ("timestamp_invalid", {"trade_date": trade_date(T0 + 2 * DAY)}),
    "no exec id": ("exec_id_missing", {"exec_id": None}),
    "no quantity": ("field_missing", {"last_qty": None}),
    "no side": ("side_invalid", {"side": None}),
    "unknown side": ("side_invalid", {"side": "SHORT"}),
    "zero quantity": ("zero_qty_trade", {"last_qty": "0.0"}),
    "no price": ("price_missing", {"last_px": None}),
    "price of zero": ("price_out_of_contract", {"last_px": "0"}),
    "unknown kind": ("enum_unknown", {"kind": "SETTLED"}),
    "seconds for nanoseconds": ("timestamp_invalid", {"event_ts_ns": T0 // SECOND}),
    "number for a string": ("field_invalid", {"last_qty": 5}),
    "negative quantity": ("field_invalid", {"last_qty": "-5"}),
    "not a number": ("field_invalid", {"last_px": "Infinity"}),
    "no dialect": ("field_missing", {"dialect": None}),
}


@pytest.mark.parametrize("case", REFUSED)
def test_r57_each_fault_gets_its_reason(h: Harness, case: str) -> None:
    reason, fields = REFUSED[case]
    order = Order(h)
    value = order.make("TRADE", **{**GOOD, **{k: v for k, v in fields.items() if k != "kind"}})
    if "kind" in fields:
        value = value.replace(b'"TRADE"', b'"SETTLED"')
    h.send(REPORT, value)
    assert reasons(h) == [{reason}]
    assert h.fills == []


RAW: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "not JSON": ("json_malformed", lambda value: b"hello"),
    "empty": ("json_malformed", lambda value: b""),
    "truncated": ("json_malformed", lambda value: value[:-2]),
    "a list": ("json_malformed", lambda value: b"[]"),
    "hostile depth": ("json_malformed", lambda value: b"[" * 100_000),
    "not UTF-8": ("encoding_invalid", lambda value: value.replace(b"test@1", b"test\xff1")),
    "oversize": ("oversize", lambda value: value.replace(b"test@1", b"x" * 1_048_577)),
    "version 2": ("version_unknown", lambda value: value.replace(b'"v1"', b'"v2"')),
    "no msg_id": ("field_missing", lambda value: value.replace(b'"msg_id"', b'"msgid"')),
}


@pytest.mark.parametrize("case", RAW)
def test_r57_each_spoilt_record_gets_its_reason(h: Harness, case: str) -> None:
    reason, spoil = RAW[case]
    order = Order(h)
    h.send(REPORT, spoil(order.make("TRADE", **GOOD)), key=b"k")
    assert reasons(h) == [{reason}]
    order.trade("E2", "5")
    assert len(h.fills) == 1


def test_r57_bust_without_reference_is_refused(h: Harness) -> None:
    Order(h).say("BUST", exec_id="E1")
    assert reasons(h) == [{"field_missing"}]


def test_r58_zero_quantity_moves_nothing(h: Harness) -> None:
    order = Order(h)
    order.trade("E1", "0")
    assert reasons(h) == [{"zero_qty_trade"}]
    assert h.order_state(order.id) == []


def test_r59_negative_price_is_out_of_contract(h: Harness) -> None:
    Order(h).trade("E1", "5", "-37.63")
    assert reasons(h) == [{"price_out_of_contract"}]


def test_r60_extra_decimals_are_never_rounded(h: Harness) -> None:
    order = Order(h)
    order.trade("E1", "5", "10.00005")
    order.trade("E2", "5", "10.00010")
    assert reasons(h) == [{"precision_exceeds_scale"}]
    assert order.state["avg_price"] == Decimal("10.0001")


def test_r61_receive_time_ahead_of_the_lane_is_refused(h: Harness) -> None:
    order = Order(h)
    h.send(REPORT, order.make("TRADE", at=61.5, **GOOD), now_ns=T0)
    assert reasons(h) == [{"event_ts_future"}]
    h.send(REPORT, order.make("TRADE", at=59, **GOOD), now_ns=T0)
    assert len(h.fills) == 1


def test_r61_event_a_little_after_receive_has_no_negative_latency(h: Harness) -> None:
    order = Order(h)
    order.trade("E1", "5", recv_ts_ns=T0)
    order.trade("E2", "5", recv_ts_ns=T0)
    assert [f["latency_ms"] for f in h.fills] == [0, 0]
    assert h.notes()["clock_skew"] == 1


def test_r62_fee_in_a_third_currency_is_kept_as_it_is(h: Harness) -> None:
    Order(h).trade("E1", "5", fee_amount="0.001", fee_ccy="BNB")
    assert (h.fills[0]["commission"], h.fills[0]["commission_ccy"]) == (Decimal("0.001"), "BNB")


def test_r63_one_bad_item_among_ten_good_costs_only_itself(h: Harness) -> None:
    order = Order(h)
    for n in range(11):
        order.trade(f"E{n}", "0" if n == 5 else "1")
    assert len(h.fills) == 10
    assert reasons(h) == [{"zero_qty_trade"}]


# ---- operations ---------------------------------------------------------------------------------------------------------------


def test_r64_back_fill_after_a_disconnect_closes_the_gap(h: Harness) -> None:
    order = Order(h)
    order.trade("E1", "5", at=1, cum_qty="5")
    order.trade("E4", "5", at=4, cum_qty="20")
    for n in (1, 2, 3, 4):
        order.trade(f"E{n}", "5", at=n, source="REST_POLL")
    assert (order.state["gap"], order.state["cum"]) == (0, 20)
    assert len(h.fills) == 4
    assert count(h, "duplicate") == 2


def test_r65_silent_loss_shows_in_the_totals(h: Harness) -> None:
    order = Order(h)
    for n in range(4):
        order.trade(f"E{n}", "5")
    order.say("STATUS", cum_qty="90")
    assert order.state["gap"] == 70
    h.advance(121)
    assert ("gap_expired", "CRITICAL") in alerted(h)


def test_r66_failover_overlap_counts_once(h: Harness) -> None:
    order = Order(h)
    for n in range(6):
        order.trade(f"E{n}", "5", source="WEBSOCKET")
    for n in range(3, 9):
        order.trade(f"E{n}", "5", at=n + 1, source="FIX_DROP_COPY")
    assert order.state["cum"] == 45
    assert count(h, "duplicate") == 3


def test_r67_mismatch_is_held_and_a_release_publishes_what_the_venue_said(h: Harness) -> None:
    order = Order(h)
    order.trade("E1", "5", side="SELL")
    order.trade("E2", "7")
    assert order.state["held"] == ["side_mismatch"]
    assert alerted(h) == {("side_mismatch", "WARN")}
    assert h.fills == []
    assert count(h, "pending") == 2
    assert order.state["cum"] == 7
    order.decide("RELEASE")
    assert order.state["held"] == []
    assert count(h, "pending") == 0
    assert sorted(int(f["signed_delta"]) for f in h.fills) == [-5, 7]


def test_r67_mismatch_that_is_rejected_is_dead_and_leaves_no_trace(h: Harness) -> None:
    order = Order(h)
    order.trade("E1", "5", account="ACC-2")
    order.trade("E2", "7")
    order.decide("REJECT")
    assert reasons(h) == [{"operator_rejected"}, {"operator_rejected"}]
    assert order.totals == (0, 100, "PENDING_NEW")
    assert order.state["held"] == []
    order.trade("E3", "9")
    assert positions(h) == {("ACC-1", "ACME"): Decimal(9)}


def test_r67_other_instrument_cannot_be_released_only_rejected(h: Harness) -> None:
    order = Order(h)
    order.trade("E1", "5", instrument="ESZ6")
    order.decide("RELEASE")
    assert h.fills == []
    assert count(h, "pending") == 1
    order.decide("REJECT")
    assert reasons(h) == [{"operator_rejected"}]
    assert count(h, "pending") == 0


def test_r67_conflict_is_held_until_released_and_other_orders_flow(h: Harness) -> None:
    order, other = Order(h, 1), Order(h, 2)
    order.trade("E1", "5")
    order.trade("E1", "6")
    order.trade("E2", "7")
    other.trade("E3", "9")
    assert [int(f["signed_delta"]) for f in h.fills] == [5, 9]
    order.decide("RELEASE")
    assert [int(f["signed_delta"]) for f in h.fills] == [5, 9, 7]
    assert h.fills[-1]["cum_size"] == 12


def test_r67_state_report_that_does_not_fit_changes_nothing(h: Harness) -> None:
    order = Order(h)
    order.trade("E1", "5")
    order.say("CANCELED", side="SELL")
    assert order.totals == (5, 95, "PARTIALLY_FILLED")
    assert h.notes()["attribute_mismatch"] == 1
    assert count(h, "published") == 3


def test_r68_dead_letter_replayed_twice_counts_once(h: Harness) -> None:
    order = Order(h, routed=False)
    value = order.make("TRADE", **GOOD)
    h.send(REPORT, value)
    h.advance(121)
    assert reasons(h) == [{"order_unknown_expired"}]
    h.send(ROUTE, route(order.id, "100"))
    h.send(REPORT, value)
    h.send(REPORT, value)
    assert len(h.fills) == 1
    assert count(h, "duplicate") == 1


def test_r68_bust_that_expired_still_meets_its_late_fill(h: Harness) -> None:
    order = Order(h)
    order.bust("E2", "E1", at=2)
    h.advance(86_401)
    assert reasons(h) == [{"ref_unknown_expired"}]
    order.trade("E1", "5", at=1)
    assert [int(f["signed_delta"]) for f in h.fills] == [5, -5]
    assert order.state["cum"] == 0
    assert count(h, "dlq") == 1


def test_r68_conflicting_intent_is_refused_and_the_first_stands(h: Harness) -> None:
    order = Order(h, size="100")
    h.send(ROUTE, route(order.id, "200"))
    h.send(ROUTE, route(order.id, "100"))
    assert reasons(h) == [{"intent_conflict"}]
    assert count(h, "duplicate") == 1
    order.trade("E1", "5")
    assert order.totals == (5, 95, "PARTIALLY_FILLED")


def test_r69_kill_at_every_step_loses_and_repeats_nothing() -> None:
    from tests.properties.test_reconcile import Lane, chunks

    order = Order(OracleHarness(), routed=False)
    values = [
        (ROUTE, route(order.id, "100")),
        (REPORT, order.make("NEW", order_qty="100")),
        (REPORT, order.make("BUST", at=9, exec_id="E3", exec_ref_id="E1")),
        (REPORT, order.make("TRADE", **GOOD)),
        (REPORT, order.make("TRADE", exec_id="E2", last_qty="7", last_px="11", cum_qty="12")),
        (REPORT, order.make("TRADE", exec_id="E2", last_qty="8", last_px="11")),
        (REPORT, order.make("TRADE", exec_id="E4", last_qty="9", last_px="11")),
        (HOLD, decision(order.id, "RELEASE")),
    ]
    work = chunks(History([Message(topic, value, "") for topic, value in values], [order.id], False), b"\x00")
    calm = Lane()
    for topic, records in work:
        calm.process(topic, records)
        calm.commit()
    for dies in range(len(work)):
        lane = Lane()
        for number, (topic, records) in enumerate(work):
            lane.process(topic, records)
            if number == dies:
                lane.crash()
                lane.process(topic, records)
            lane.commit()
        assert lane.out == calm.out
