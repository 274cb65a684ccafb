"""One lane of the hedger, told by the handful: what is sent, what never is, and that state, clocks and restarts agree. Ids H.. are docs/hedging.md's."""

from __future__ import annotations

import itertools
import json
from decimal import Decimal

import pytest

from operators.hedge_life import LifeRules
from operators.hedger import DECISIONS_A_TICK, hedge_id, order_id
from state import hedges as g
from tests.operators.hedger_bench import BOOK, SECOND, Bench, message, universe

FILLS = "execution.event.fill.v1"
EVENTS = "hedger.event.cover"


def legs(cover: dict) -> dict[str, Decimal]:
    return {leg["instrument"]: Decimal(leg["size"]) * (1 if leg["side"] == "BUY" else -1) for leg in cover["legs"]}


def states(bench: Bench, hedge: str) -> list[str]:
    return [event["state"] for event in bench.out[EVENTS] if event["hedge_id"] == hedge]


def test_exposure_is_hedged_once_and_the_book_is_covered() -> None:
    bench = Bench()
    bench.trade("100")
    (cover,) = bench.covers
    assert legs(cover)["PERP"] < -90
    assert cover["expected"]["coverage_after"] > 0.95
    bench.complete(cover)
    for _ in range(3):
        bench.bar()
    assert len(bench.covers) == 1
    assert states(bench, cover["hedge_id"]) == ["SENT", "FILLED"] or states(bench, cover["hedge_id"]) == ["SENT", "ACKED", "FILLED"]
    last = bench.out[EVENTS][-1]
    assert last["coverage"] > 0.95
    assert last["completion_ms"] is not None


def test_ids_are_functions_of_content() -> None:
    first, second = Bench(), Bench()
    for bench in (first, second):
        bench.trade("100", name="one")
    assert first.covers == second.covers
    cover = first.covers[0]
    assert cover["hedge_id"] == str(hedge_id(BOOK, cover["exposure_version"], 0))
    assert cover["legs"][0]["order_id"] == str(order_id(hedge_id(BOOK, cover["exposure_version"], 0), cover["legs"][0]["instrument"]))
    assert first.values["hedger.intent.cover"] == second.values["hedger.intent.cover"]


def test_h01_a_burst_makes_one_net_hedge() -> None:
    bench = Bench()
    bench.feed(FILLS, bench.fill("60"), bench.fill("-20"), bench.fill("40"))
    bench.tick(0.16)
    assert len(bench.covers) == 1
    assert -80.5 < legs(bench.covers[0])["PERP"] < -75


def test_h02_nothing_is_sent_again_while_fills_are_on_their_way() -> None:
    bench = Bench()
    bench.trade("100")
    for _ in range(5):
        bench.bar()
    assert len(bench.covers) == 1  # it went UNKNOWN meanwhile and still counts in full


@pytest.mark.parametrize("when", ["sent", "acked", "half filled"])
def test_h03_restart_in_mid_flight_sends_nothing_twice(when: str) -> None:
    bench = Bench()
    bench.trade("100")
    cover = bench.covers[0]
    if when != "sent":
        bench.event(cover["legs"][0], cover, "ACKED")
        bench.tick()
    if when == "half filled":
        bench.fill_leg(cover["legs"][0], "0.5")
        bench.tick(0.16)
    before = len(bench.covers)
    bench.restart()
    for _ in range(3):
        bench.bar()
    assert len(bench.covers) == before == 1


def test_h04_own_intents_are_no_requests() -> None:
    bench = Bench()
    bench.trade("100")
    bench.feed("hedger.intent.cover", *bench.values["hedger.intent.cover"])
    audits = len(bench.audits)
    bench.tick(0.16)
    assert len(bench.audits) == audits
    assert bench.lane.counters()["echo"] == 1


def test_a_request_of_the_portfolio_is_answered_by_a_decision() -> None:
    bench = Bench()
    bench.trade("100")
    bench.complete(bench.covers[0])
    request = bench.covers[0] | {"hedge_id": "12345678-1234-5678-1234-567812345678"}
    bench.feed("hedger.intent.cover", message("hedger.intent.cover", request, bench.now_ns, "r", "agent.portfolio"))
    bench.tick(0.16)
    assert bench.audits[-1]["triggers"] == ["request"]
    bench.feed("hedger.intent.cover", message("hedger.intent.cover", request, bench.now_ns, "s", "agent.stranger"))
    bench.feed("hedger.intent.cover", message("hedger.intent.cover", request, bench.now_ns - 700 * SECOND, "t", "agent.portfolio"))
    assert [letter["reason"] for letter in bench.out["dlq.hedger"]] == ["sender_not_allowed", "ttl_expired"]


def test_h07_growth_while_a_hedge_is_open_is_topped_up_net_of_it() -> None:
    bench = Bench()
    bench.trade("100")
    bench.tick(0.6)
    bench.quote()
    bench.trade("50")
    assert len(bench.covers) == 2
    total = sum(legs(cover)["PERP"] for cover in bench.covers)
    assert -151 < total < -140


def test_h11_a_refused_hedge_is_decided_anew_under_the_next_attempt() -> None:
    bench = Bench()
    bench.trade("100")
    first = bench.covers[0]
    bench.event(first["legs"][0], first, "REJECTED", reason="reduce only")
    bench.tick(0.6)
    second = bench.covers[1]
    assert (first["attempt"], second["attempt"]) == (0, 1)
    assert first["exposure_version"] == second["exposure_version"]
    assert first["hedge_id"] != second["hedge_id"]
    assert states(bench, first["hedge_id"])[-1] == "REFUSED"
    assert bench.lane.counters()["hedges_failed"] == 1


def test_h12_refusals_without_end_are_answered_by_longer_and_longer_rests() -> None:
    bench = Bench()
    bench.trade("50")
    sent_ns = [cover["decision_ts_ns"] for cover in bench.covers]
    for _ in range(225):
        for cover in bench.covers:
            if states(bench, cover["hedge_id"])[-1] == "SENT":
                bench.event(cover["legs"][0], cover, "REJECTED")
        bench.quote()
        bench.tick(0.16)
    sent_ns = [cover["decision_ts_ns"] for cover in bench.covers]
    rests = [(b - a) / SECOND for a, b in itertools.pairwise(sent_ns)]
    assert 4 < len(sent_ns) < 10
    assert rests[0] < 0.7
    assert all(later > 1.5 * earlier or later > 9 for earlier, later in itertools.pairwise(rests))


def test_h20_bust_of_the_hedged_fill_reverses_the_residual() -> None:
    bench = Bench()
    bench.trade("100", name="client")
    bench.complete(bench.covers[0])
    bench.tick(0.6)
    bench.quote()
    bench.trade("-100", name="client", version=2)
    assert sum(legs(cover)["PERP"] for cover in bench.covers) == pytest.approx(Decimal(0), abs=3)


def test_bust_of_a_hedges_fill_reopens_the_residual() -> None:
    bench = Bench()
    bench.trade("100")
    cover = bench.covers[0]
    leg = cover["legs"][0]
    bench.event(leg, cover, "ACKED")
    size = bench.fill_leg(leg, name="hedge fill")
    bench.event(leg, cover, "DONE", size)
    bench.tick(0.6)
    bench.quote()
    bench.feed(FILLS, bench.fill(size, leg["instrument"], name="hedge fill", order=leg["order_id"], version=2))
    bench.tick(0.16)
    assert len(bench.covers) == 2
    assert bench.lane.book_state(BOOK)["positions"]["PERP"]["hedge"] == 0


def test_bust_of_a_hedges_fill_in_the_same_chunk_leaves_nothing_in_flight() -> None:
    """As a backlog brings it after a restart: fill and bust first, the order agent's word on the end after both."""
    bench = Bench()
    bench.trade("100")
    cover = bench.covers[0]
    leg = cover["legs"][0]
    size, sign = leg["size"], "" if leg["side"] == "BUY" else "-"
    fill = bench.fill(f"{sign}{size}", leg["instrument"], name="hedge fill", order=leg["order_id"])
    bust = bench.fill(size if sign else f"-{size}", leg["instrument"], name="hedge fill", order=leg["order_id"], version=2)
    bench.feed(FILLS, fill, bust)
    bench.event(leg, cover, "ACKED")
    bench.event(leg, cover, "DONE", size)
    bench.tick(0.6)
    bench.quote()
    bench.tick(0.6)
    assert states(bench, cover["hedge_id"])[-1] == "FILLED"
    assert len(bench.covers) == 2
    assert bench.lane.book_state(BOOK)["positions"]["PERP"]["hedge"] == 0


def test_the_desks_fill_is_a_hedge_also_as_the_first_of_its_book_and_only_there() -> None:
    bench = Bench(desk_accounts=["DESK"])
    bench.say("hedge.state.universe.v1", universe("beta"))
    bench.feed(FILLS, bench.fill("5", "PERP", account="DESK"), bench.fill("7", "PERP", account="DESK", book="beta"))
    for book, exposure, hedge in ((BOOK, 0, 5), ("beta", 7, 0)):
        position = bench.lane.book_state(book)["positions"]["PERP"]
        assert (position["exposure"], position["hedge"]) == (exposure, hedge)


def test_ratios_are_published_once_for_a_bar_also_after_a_restart() -> None:
    bench = Bench()
    bench.trade("100")
    topic = "hedge.state.ratios.v1"
    while not bench.out[topic]:
        bench.bar()
    bench.restart()
    bench.tick(0.16)
    bench.trade("100", "OTHER")  # another frame
    ids = [json.loads(value)["msg_id"] for value in bench.values[topic]]
    assert len(ids) == len(set(ids)) == 1


def test_h21_halt_between_exposure_and_tick_sends_nothing() -> None:
    bench = Bench()
    bench.feed(FILLS, bench.fill("100"))
    bench.say("system.halt.intent.v1", {"scope": "ALL", "reason": "test", "issued_by": "guard"}, name="halt")
    bench.tick(0.16)
    assert not bench.covers
    assert bench.audits[-1]["reasons"][0] == "halted"
    (ack,) = bench.out["system.halt.ack.v1"]
    assert ack["latency_ms"] < 5000
    bench.tick(1.1)
    bench.restart()
    bench.tick(1.1)
    assert len(bench.out["system.halt.ack.v1"]) == 1


def test_h22_halt_of_one_symbol_leaves_others() -> None:
    bench = Bench()
    bench.say("system.halt.intent.v1", {"scope": "SYMBOL", "id": "PERP", "reason": "test", "issued_by": "guard"})
    bench.trade("100")
    assert all("PERP" not in legs(cover) for cover in bench.covers)
    assert [set(legs(cover)) for cover in bench.covers] == [{"ALT"}]


def test_h23_resume_needs_both_approvals() -> None:
    bench = Bench()
    bench.say("system.halt.intent.v1", {"scope": "BOOK", "id": BOOK, "reason": "test", "issued_by": "guard"})
    bench.trade("100")
    resume = {"scope": "BOOK", "id": BOOK, "reason": "test", "issued_by": "guard", "approvals": [{"role": "risk", "approver": "a"}]}
    bench.now_ns += SECOND
    bench.quote()
    bench.say("system.resume.intent.v1", resume)
    bench.tick(0.16)
    assert not bench.covers
    resume["approvals"] = [{"role": "risk", "approver": "a"}, {"role": "compliance", "approver": "b"}]
    bench.say("system.resume.intent.v1", resume)
    bench.tick(0.16)
    assert len(bench.covers) == 1


def test_h24_outage_queues_and_decides_afresh_on_recovery() -> None:
    bench = Bench()
    bench.say("order.channel.status.v1", {"venue": "ALPHA", "status": "DOWN", "since_ns": bench.now_ns})
    bench.trade("100")
    assert not bench.covers
    assert bench.audits[-1]["outcome"] == "queued"
    queued = bench.out[EVENTS][-1]
    assert queued["state"] == "QUEUED"
    bench.now_ns += SECOND
    bench.quote()
    bench.trade("-60")
    bench.now_ns += SECOND
    bench.quote()
    bench.say("order.channel.status.v1", {"venue": "ALPHA", "status": "UP", "since_ns": bench.now_ns})
    bench.tick(0.16)
    (cover,) = bench.covers
    assert -41 < legs(cover)["PERP"] < -37
    assert states(bench, queued["hedge_id"])[-1] in ("SUPERSEDED", "EXPIRED")
    assert [e["reason"] for e in bench.out["hedger.event.escalation.v1"]].count("channel_queued") == 1


def test_no_answer_becomes_unknown_is_asked_about_and_escalated_but_never_sent_again() -> None:
    bench = Bench(times=LifeRules(unknown_ns=20 * SECOND))
    bench.trade("100")
    cover = bench.covers[0]
    for _ in range(6):
        bench.bar()
    assert states(bench, cover["hedge_id"])[:2] == ["SENT", "UNKNOWN"]
    asked = bench.out["hedger.request.order.v1"]
    assert len(asked) >= 4
    assert {request["order_id"] for request in asked} == {leg["order_id"] for leg in cover["legs"]}
    assert [request["attempt"] for request in asked] == list(range(1, len(asked) + 1))
    assert "unknown_inflight" in [e["reason"] for e in bench.out["hedger.event.escalation.v1"]]
    assert len(bench.covers) == 1
    bench.event(cover["legs"][0], cover, "ACKED")
    bench.complete(cover)
    bench.bar()
    assert states(bench, cover["hedge_id"])[-1] == "FILLED"


def test_ended_with_fills_on_the_way_counts_them_as_in_flight() -> None:
    bench = Bench()
    bench.trade("100")
    cover = bench.covers[0]
    leg = cover["legs"][0]
    half = format(Decimal(leg["size"]) / 2, "f")
    bench.event(leg, cover, "CANCELED", half)
    bench.tick(0.6)
    assert len(bench.covers) == 1  # the hedge has not ended: half of it was filled and is not here yet
    bench.quote()
    bench.fill_leg(leg, "0.5")
    bench.tick(0.6)
    assert states(bench, cover["hedge_id"])[-1] == "CANCELED"
    assert len(bench.covers) == 2
    assert -51 < legs(bench.covers[1])["PERP"] < -45


def test_late_fill_of_an_ended_hedge_is_still_the_hedges() -> None:
    bench = Bench()
    bench.trade("100")
    cover = bench.covers[0]
    bench.event(cover["legs"][0], cover, "REJECTED")
    bench.say("order.channel.status.v1", {"venue": "ALPHA", "status": "DOWN", "since_ns": bench.now_ns})
    bench.tick(0.16)
    bench.fill_leg(cover["legs"][0])
    bench.tick(0.16)
    position = bench.lane.book_state(BOOK)["positions"]
    assert position["PERP"]["exposure"] == 0
    assert position["PERP"]["hedge"] < -90
    assert "late_fill" in bench.out[EVENTS][-1]["annotations"]


def test_the_desk_holds_releases_and_takes_over() -> None:
    bench = Bench()
    word = {"book": BOOK, "action": "HOLD", "operator": "ann", "justification": "checking", "decided_ns": bench.now_ns}
    bench.feed("hedger.intent.desk.v1", message("hedger.intent.desk.v1", word, bench.now_ns, "hold"))
    bench.trade("100")
    assert not bench.covers
    assert bench.audits[-1]["reasons"] == ["held_by_desk"]
    bench.restart()
    bench.feed("hedger.intent.desk.v1", message("hedger.intent.desk.v1", word | {"action": "RELEASE"}, bench.now_ns, "release"))
    bench.now_ns += SECOND
    bench.quote()
    bench.tick(0.16)
    (cover,) = bench.covers
    word |= {"action": "MARK_MANUAL", "hedge_id": cover["hedge_id"]}
    bench.feed("hedger.intent.desk.v1", message("hedger.intent.desk.v1", word, bench.now_ns, "manual"))
    bench.say("order.channel.status.v1", {"venue": "ALPHA", "status": "DOWN", "since_ns": bench.now_ns})
    bench.tick(0.16)
    assert states(bench, cover["hedge_id"])[-1] == "MANUAL"
    notes = [audit for audit in bench.audits if audit["outcome"] == "note"]
    assert [note["operator"] for note in notes] == ["ann"] * 3
    bench.feed("hedger.intent.desk.v1", message("hedger.intent.desk.v1", word | {"hedge_id": BOOKLESS}, bench.now_ns, "x"))
    assert bench.out["dlq.hedger"][-1]["reason"] == "hedge_unknown"


BOOKLESS = "00000000-0000-5000-8000-000000000001"


def test_fills_of_desk_accounts_are_hedges() -> None:
    bench = Bench(desk_accounts=["DESK"])
    bench.trade("100")
    bench.complete(bench.covers[0])
    bench.trade("10", "PERP", account="DESK")
    position = bench.lane.book_state(BOOK)["positions"]["PERP"]
    assert position["exposure"] == 0
    assert position["hedge"] > -90


def test_allocations_move_the_target_and_the_newest_wins() -> None:
    bench = Bench()
    topic = "portfolio.intent.allocate.v1"
    wanted = {"book": BOOK, "symbol": "SPOT", "target_size": "10000", "confidence": 1.0, "risk_score": 0.1}
    bench.trade("100")
    bench.complete(bench.covers[0])
    bench.now_ns += SECOND
    bench.quote()
    newest = message(topic, wanted, bench.now_ns, "a")
    older = message(topic, wanted | {"target_size": "77"}, bench.now_ns - 10, "b")
    bench.feed(topic, newest, newest, older)
    bench.tick(0.16)
    assert bench.lane.counters()["duplicate"] == 2
    assert legs(bench.covers[-1])["PERP"] > 90  # the position is what it should be: the hedge comes off
    bench.feed(
        topic,
        message(topic, wanted | {"target_size": "NaN"}, bench.now_ns, "c"),
        message(topic, wanted | {"symbol": "NONE"}, bench.now_ns, "d"),
    )
    assert [letter["reason"] for letter in bench.out["dlq.hedger"]] == ["target_not_finite", "instrument_unknown"]


def test_every_fill_is_booked_once() -> None:
    bench = Bench()
    values = [bench.fill("1", name=i % 5) for i in range(20)]
    bench.feed(FILLS, *values[:10])
    bench.feed(FILLS, *values[10:])
    bench.tick(0.16)
    assert bench.lane.book_state(BOOK)["positions"]["SPOT"]["exposure"] == 5
    counters = bench.lane.counters()
    assert (counters["received"], counters["applied"], counters["duplicate"]) == (20, 5, 15)


def test_bad_fills_are_told_apart_and_the_rest_goes_on() -> None:
    bench = Bench()
    good = bench.fill("1")
    bench.feed(FILLS, b"{", bench.fill("1", symbol="SPOT").replace(b'"SPOT"', b'"NOPE"'), bench.fill("0.0000001"), good)
    assert [letter["reason"] for letter in bench.out["dlq.hedger"]] == ["json_malformed", "instrument_unknown", "precision_exceeds_scale"]
    assert bench.lane.counters()["applied"] == 1
    assert [letter["source"]["offset"] for letter in bench.out["dlq.hedger"]] == [0, 1, 2]


def test_a_book_without_universe_is_told_of_once_and_decided_when_there_is_one() -> None:
    bench = Bench()
    bench.feed(FILLS, bench.fill("100", book="beta"))
    for _ in range(3):
        bench.tick(1.1)
    beta = [audit for audit in bench.audits if audit["book"] == "beta"]
    assert beta
    assert {audit["reasons"][0] for audit in beta} == {"universe_missing"}
    assert [e["reason"] for e in bench.out["hedger.event.escalation.v1"]] == ["universe_missing"]
    bench.say("hedge.state.universe.v1", universe("beta"))
    bench.say("risk.state.context.v1", {
        "book": "beta", "portfolio_var": 0.0, "daily_drawdown_pct": 0.0, "treasury_utilisation": 0.0, "volatility": 0.0, "risk_level": "LOW",
    })  # fmt: skip
    bench.quote()
    bench.tick(0.16)
    assert [cover["book"] for cover in bench.covers] == ["beta"]


def test_coverage_gap_is_told_after_five_minutes_and_ends() -> None:
    bench = Bench()
    bench.policy(do_not_trade=[
        {"instrument": s, "from_ns": bench.now_ns, "to_ns": bench.now_ns + 3600 * SECOND, "reason": "closed"} for s in ("PERP", "ALT")
    ])  # fmt: skip
    bench.trade("100")
    for _ in range(63):
        bench.bar()
    reasons = [e["reason"] for e in bench.out["hedger.event.escalation.v1"]]
    assert reasons.count("completion_late") == reasons.count("coverage_gap") == 1
    assert bench.out["hedger.metric.book.v1"][-1]["coverage_gap"]
    assert bench.lane.counters()["coverage_gaps"] == 1
    bench.policy()
    bench.tick(0.16)
    bench.complete(bench.covers[0])
    assert bench.lane.counters()["coverage_gaps"] == 0


def test_unwinds_go_under_halt_once_and_nothing_else() -> None:
    bench = Bench()
    bench.trade("100")
    bench.complete(bench.covers[0])
    bench.say("system.halt.intent.v1", {"scope": "BOOK", "id": BOOK, "reason": "test", "issued_by": "guard"})
    bench.tick(1.1)
    bench.quote()
    bench.policy(unwind=[{"id": "u1", "instrument": "PERP", "max_notional": 2000.0, "expires_ns": bench.now_ns + 600 * SECOND}])
    bench.tick(1.1)
    cover = bench.covers[-1]
    assert cover["unwind_id"] == "u1"
    assert cover["reduce_only"]
    assert 1900 < cover["legs"][0]["notional"] <= 2000
    assert legs(cover)["PERP"] > 0
    bench.complete(cover)
    bench.quote()
    for _ in range(4):
        bench.tick(1.1)
        bench.quote()
    assert len(bench.covers) == 2
    bench.restart()
    bench.tick(1.1)
    assert len(bench.covers) == 2


def test_audit_is_a_chain_and_every_decision_has_a_reason() -> None:
    bench = Bench()
    bench.trade("100")
    bench.complete(bench.covers[0])
    bench.bar()
    bench.restart()
    bench.bar()
    import hashlib

    before = "0" * 64
    for number, value in enumerate(bench.values["audit.event.hedger"]):
        audit = bench.audits[number]
        assert (audit["seq"], audit["prev_sha256"]) == (number, before)
        assert audit["reasons"]
        assert audit["triggers"]
        before = hashlib.sha256(value).hexdigest()


# --- found by the simulation and the properties: tests/properties/test_hedger.py, bench/simulation.py --logic hedger ----------------------


def test_a_position_that_a_fill_has_made_is_found_before_the_next_tick() -> None:
    bench = Bench()
    bench.trade("1", "OTHER")
    bench.feed(FILLS, bench.fill("1"))
    wanted = {"book": BOOK, "symbol": "SPOT", "target_size": "100", "confidence": 1.0, "risk_score": 0.1}
    bench.feed("portfolio.intent.allocate.v1", message("portfolio.intent.allocate.v1", wanted, bench.now_ns, "a"))
    assert bench.lane.book_state(BOOK)["positions"]["SPOT"] == {"exposure": 1, "hedge": 0, "target": 100.0}


def test_the_desks_account_is_known_from_a_books_first_fill_on_and_only_there() -> None:
    bench = Bench(desk_accounts=["DESK"])
    bench.feed(FILLS, bench.fill("10", "PERP", account="DESK"), bench.fill("10", "PERP", account="DESK", book="beta"))
    assert bench.lane.book_state(BOOK)["positions"]["PERP"]["hedge"] == 10
    assert bench.lane.book_state("beta")["positions"]["PERP"]["exposure"] == 10


def test_a_desks_word_said_again_after_a_newer_one_changes_nothing() -> None:
    bench = Bench()
    word = {"book": BOOK, "action": "HOLD", "operator": "ann", "justification": "checking", "decided_ns": bench.now_ns}
    hold = message("hedger.intent.desk.v1", word, bench.now_ns, "hold")
    release = message("hedger.intent.desk.v1", word | {"action": "RELEASE"}, bench.now_ns + 1, "release")
    bench.feed("hedger.intent.desk.v1", hold, release, hold)
    bench.trade("100")
    assert len(bench.covers) == 1
    assert bench.lane.counters()["duplicate"] == 1
    assert len([audit for audit in bench.audits if audit["outcome"] == "note"]) == 2


def test_the_desk_takes_over_a_hedge_of_the_book_it_names_and_once() -> None:
    bench = Bench()
    bench.trade("100")
    word = {"book": "beta", "action": "MARK_MANUAL", "operator": "ann", "justification": "x", "decided_ns": bench.now_ns}
    word["hedge_id"] = bench.covers[0]["hedge_id"]
    mine = message("hedger.intent.desk.v1", word | {"book": BOOK}, bench.now_ns, "mine")
    bench.feed("hedger.intent.desk.v1", message("hedger.intent.desk.v1", word, bench.now_ns, "other"), mine, mine)
    assert [letter["reason"] for letter in bench.out["dlq.hedger"]] == ["hedge_unknown"]
    assert bench.lane.counters()["duplicate"] == 1


def test_an_old_answer_said_again_does_not_undo_a_silence() -> None:
    bench = Bench()
    bench.trade("100")
    cover = bench.covers[0]
    leg = cover["legs"][0]
    payload = {
        "hedge_id": cover["hedge_id"], "order_id": leg["order_id"], "book": BOOK, "instrument": leg["instrument"], "status": "ACKED",
        "filled_size": "0", "reason": None, "event_ts_ns": bench.now_ns,
    }  # fmt: skip
    answer = message("order.event.hedge.v1", payload, bench.now_ns, "answer", "agent.order")
    bench.feed("order.event.hedge.v1", answer)
    bench.now_ns += 1
    bench.event(leg, cover, "UNKNOWN")
    bench.feed("order.event.hedge.v1", answer)
    bench.tick()
    assert states(bench, cover["hedge_id"])[-1] == "UNKNOWN"


def test_a_fill_of_part_of_an_unknown_leg_says_that_the_venue_knows_it() -> None:
    bench = Bench()
    bench.trade("100")
    cover = bench.covers[0]
    bench.tick(2.1)
    assert states(bench, cover["hedge_id"])[-1] == "UNKNOWN"
    bench.fill_leg(cover["legs"][0], "0.5")
    bench.tick(0.16)
    assert states(bench, cover["hedge_id"])[-1] == "PARTIAL"


def test_fills_that_were_promised_and_never_come_are_told_after_two_minutes_whatever_is_answered() -> None:
    bench = Bench()
    bench.trade("100")
    cover = bench.covers[0]
    leg = cover["legs"][0]
    for _ in range(40):
        bench.event(leg, cover, "CANCELED", leg["size"])
        bench.bar()
    assert [e["reason"] for e in bench.out["hedger.event.escalation.v1"]].count("unknown_inflight") == 1
    assert len(bench.covers) == 1


def test_a_fill_that_was_told_and_busted_is_not_waited_for() -> None:
    bench = Bench()
    bench.trade("100")
    cover = bench.covers[0]
    leg = cover["legs"][0]
    size = bench.fill_leg(leg, name="busted")
    bench.feed(FILLS, bench.fill(size, leg["instrument"], name="busted", order=leg["order_id"], version=2))
    bench.event(leg, cover, "DONE", size)
    bench.tick(0.6)
    assert states(bench, cover["hedge_id"])[-1] == "FILLED"
    assert len(bench.covers) == 2


def test_a_hedges_id_is_not_made_again_once_the_hedge_is_forgotten() -> None:
    bench = Bench(times=LifeRules(rest_ns=0))
    bench.trade("100")
    first = bench.covers[0]
    bench.event(first["legs"][0], first, "REJECTED")
    bench.tick(0.6)
    second = bench.covers[1]
    assert (first["exposure_version"], second["attempt"]) == (second["exposure_version"], 1)
    for at in range(bench.lane.ledger.hedges.high):
        bench.lane.ledger.hedges.rows[at]["day"] -= 20
    bench.lane.ledger.scalars[g.S_EVICT_DAY] = 0
    bench.event(second["legs"][0], second, "REJECTED")
    bench.tick(0.0)
    bench.quote()
    bench.restart()
    bench.tick(0.6)
    third = bench.covers[-1]
    assert third["exposure_version"] == first["exposure_version"]
    assert third["attempt"] == 2
    assert len({cover["hedge_id"] for cover in bench.covers}) == len(bench.covers) == 3


def test_a_new_exposure_has_ratios_before_the_bar_ends_and_others_do_not_move_for_it() -> None:
    bench = Bench()
    bench.trade("100")
    bench.complete(bench.covers[0])
    used = bench.lane._books[BOOK].ratios.used.copy()
    bench.tick(0.6)
    bench.quote()
    bench.trade("-300", "SPOT")
    bench.trade("40", "OTHER")
    book = bench.lane._books[BOOK]
    assert book.frame.exposures == ("OTHER", "SPOT")
    assert bench.audits[-1]["state"] == "ACTIVE"
    assert book.ratios.used[:, 1].tolist() == used[:, 0].tolist()
    before = book.ratios.used.copy()
    bench.restart()
    bench.tick(0.16)
    after = bench.lane._books[BOOK].ratios
    assert after.used.tobytes() == before.tobytes()
    assert after.b.tobytes() == book.ratios.b.tobytes()


def test_a_queued_hedge_ends_when_another_is_sent_or_a_lane_begins_anew() -> None:
    for again in (False, True):
        bench = Bench()
        bench.say("order.channel.status.v1", {"venue": "ALPHA", "status": "DOWN", "since_ns": bench.now_ns})
        bench.trade("100")
        queued = bench.out[EVENTS][-1]["hedge_id"]
        assert states(bench, queued)[-1] == "QUEUED"
        if again:
            bench.restart()
            bench.tick(0.16)
        else:
            found = universe()
            found["instruments"] = [one | {"venue": "BRAVO"} for one in found["instruments"]]
            bench.say("hedge.state.universe.v1", found)
            bench.tick(0.16)
            assert len(bench.covers) == 1
        assert states(bench, queued)[-1] == "SUPERSEDED"


def test_a_restart_changes_no_decision_and_no_record_of_it() -> None:
    """What the last decision left behind is in the ledger: where to search, what is open, when to look again, whose correlation is broken."""
    calm, other = Bench(), Bench()
    for bench in (calm, other):
        bench.trade("100", name="one")
        bench.event(bench.covers[0]["legs"][0], bench.covers[0], "ACKED")
        bench.trade("30", "OTHER", name="two")
        bench.fill_leg(bench.covers[0]["legs"][0], "0.5", name="three")
        bench.tick(0.16)
    other.restart()
    calm.lane.look_again()
    for bench in (calm, other):
        bench.tick(0.2)
        bench.trade("7", name="four")
        for _ in range(3):
            bench.bar()
        bench.fill_leg(bench.covers[0]["legs"][0], "0.25", name="five")
        bench.tick(0.16)
    assert other.values == calm.values


@pytest.mark.parametrize(("over_a", "over_b"), [(1.05, 1.08), (1.08, 1.08), (1.1, 1.15), (1.05, 1.15), (0.9, 0.85)])
@pytest.mark.parametrize("b", [60, 80, 100, 120, 140])
def test_the_way_back_from_too_much_of_two_instruments_that_move_together_is_open(b: int, over_a: float, over_b: float) -> None:
    bench = Bench(desk_accounts=["DESK"])
    bench.feed(
        FILLS,
        bench.fill("-100", "PERP"),
        bench.fill(f"{2 * b}", "ALT"),
        bench.fill(f"{100 * over_a:.1f}", "PERP", account="DESK"),
        bench.fill(f"{-2 * b * over_b:.1f}", "ALT", account="DESK"),
    )
    bench.tick(0.16)
    assert bench.audits[-1]["reasons"][0] in ("hedge_sent", "dust", "within_no_trade_band")
    for cover in bench.covers:
        assert cover["expected"]["coverage_after"] > max(cover["expected"]["coverage_before"], 0.9)


def test_an_instrument_the_reference_data_do_not_know_is_never_traded_and_stops_nothing() -> None:
    unknown = {
        "symbol": "NOWHERE", "venue": "ALPHA", "currency": "USD", "lot": "1", "cost_bps": 0.1, "adv_notional": 1e9,
    }  # fmt: skip
    bench = Bench(instruments=[*universe()["instruments"], unknown])
    bench.trade("100")
    assert [leg["instrument"] for leg in bench.covers[0]["legs"]] == ["PERP"]
    bench.complete(bench.covers[0])
    bench.restart()
    bench.bar()
    assert len(bench.covers) == 1


def test_a_tick_takes_a_few_decisions_and_a_fill_in_a_quiet_book_does_not_wait() -> None:
    bench = Bench()
    names = [f"book{number}" for number in range(20)]
    for name in names:
        bench.say("hedge.state.universe.v1", universe(name))
        bench.feed(FILLS, bench.fill("100", book=name))
    for _ in range(8):
        bench.tick(0.16)
    for cover in list(bench.covers):
        bench.complete(cover)
    for _ in range(20):
        bench.tick(0.2)
    before = len(bench.audits)
    bench.bar()  # ends in a tick
    assert len(bench.audits) - before == DECISIONS_A_TICK
    bench.feed(FILLS, bench.fill("100", book=names[-1]))
    bench.tick(0.16)
    assert names[-1] in [audit["book"] for audit in bench.audits[before + DECISIONS_A_TICK :] if "fill" in audit["triggers"]]
    for _ in range(8):
        bench.tick(0.16)
    assert {audit["book"] for audit in bench.audits[before:]} >= set(names)
