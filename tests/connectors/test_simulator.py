"""The simulator's promises: same seed same bytes, messages its models accept, histories that close, faults that are what they say."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

import schemas
from bench.oracle import Oracle
from connectors.simulator import FAULTS, Message, SimConfig, Simulator, parse_faults
from connectors.simulator.market import Market
from connectors.simulator.messages import ACK, HOLD, QUOTE, REPORT, ROUTE, fix_bytes
from connectors.simulator.sender import murmur2
from schemas.reference import load_reference
from schemas.registry import MAX_RECORD_BYTES, TOPICS

REFERENCE = load_reference(Path(schemas.__path__[0]) / "simulation.toml")
VENUES = {venue.name: venue for venue in REFERENCE.venues}
SCALES = {i.symbol: i for i in REFERENCE.instruments}
REFUSED_BY_MODEL = {
    "malformed_json", "truncated_json", "invalid_utf8", "hostile_depth", "missing_field", "wrong_type", "unknown_version", "timestamp_unit",
    "negative_quantity", "non_finite_price", "unknown_side",
}  # fmt: skip
FIT_THE_MODEL = {
    "duplicate_keys", "unknown_venue", "unknown_account", "unknown_instrument", "correlation_conflict", "timestamp_future", "zero_quantity",
    "extra_decimals",
}  # fmt: skip


def simulate(faults: str = "none", count: int = 3_000, **config: Any) -> tuple[list[Message], Simulator]:
    simulator = Simulator(SimConfig(**{"rate": 5_000.0, "faults": parse_faults(faults), **config}), REFERENCE)
    return [message for batch in simulator.steps(count=count) for message in batch], simulator


def fault_names(message: Message) -> set[str]:
    return set(message.fault.split("+")) if message.fault else set()


def is_spoiled(message: Message) -> bool:
    return any(FAULTS[name].group in ("bytes", "field") for name in fault_names(message))


def payloads(messages: list[Message], topic: str) -> list[tuple[Message, dict[str, Any]]]:
    return [(m, json.loads(m.value)["payload"]) for m in messages if m.topic == topic and not is_spoiled(m)]


def scaled(text: str, scale: int) -> int:
    whole, _, fraction = text.partition(".")
    return int(whole + fraction.ljust(scale, "0"))


def by_venue_order(messages: list[Message]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    found: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for _, payload in payloads(messages, REPORT):
        found[payload["venue"], payload["venue_order_id"]].append(payload)
    for reports in found.values():
        reports.sort(key=lambda r: (r["event_ts_ns"], r["seq_num"]))
    return found


def effective(reports: list[dict[str, Any]]) -> int:
    """Fold fills, busts and corrects the slow way; return what is filled in the end."""
    root_of: dict[str, str] = {}
    quantity: dict[str, int] = {}
    for r in reports:
        scale = SCALES[r["instrument"]].qty_scale
        if r["kind"] == "TRADE":
            root_of[r["exec_id"]] = r["exec_id"]
            quantity[r["exec_id"]] = scaled(r["last_qty"], scale)
        elif r["kind"] in ("BUST", "CORRECT"):
            root = root_of[r["exec_id"]] = root_of[r["exec_ref_id"]]
            quantity[root] = scaled(r["last_qty"], scale) if r["kind"] == "CORRECT" else 0
        elif r.get("restatement_reason") == 0:
            quantity = {root: 2 * q for root, q in quantity.items()}
    return sum(quantity.values())


# --- determinism --------------------------------------------------------------------------------------------------------------------


def test_simulator_same_seed_gives_same_bytes() -> None:
    first, _ = simulate("all", seed=7)
    second, _ = simulate("all", seed=7)
    assert first == second


def test_simulator_other_seed_gives_other_histories() -> None:
    first, _ = simulate(seed=7, count=300)
    second, _ = simulate(seed=8, count=300)
    assert {m.order for m in first if m.order}.isdisjoint({m.order for m in second if m.order})


def test_simulator_same_seed_at_another_time_shares_no_ids() -> None:
    first, _ = simulate(count=300)
    second, _ = simulate(count=300, start_ns=SimConfig().start_ns + 1_000_000_000)
    for topic, field in ((REPORT, "exec_id"), (REPORT, "venue_order_id"), (ROUTE, "order_id")):
        ids = [{p.get(field) for _, p in payloads(messages, topic)} - {None, "0"} for messages in (first, second)]
        assert ids[0].isdisjoint(ids[1])
    assert {json.loads(m.value)["msg_id"] for m in first}.isdisjoint({json.loads(m.value)["msg_id"] for m in second})


# --- form ---------------------------------------------------------------------------------------------------------------------------


def test_simulator_undamaged_messages_validate_against_their_models() -> None:
    messages, _ = simulate("all,history=0.1,order=0.1", count=6_000)
    seen = Counter()
    for message in messages:
        if not is_spoiled(message):
            model = TOPICS[message.topic].model
            assert model is not None
            model.model_validate_json(message.value)
            seen[message.topic] += 1
    assert set(seen) == {REPORT, ROUTE, ACK, QUOTE, HOLD}


def test_simulator_covers_the_kinds_of_reports() -> None:
    messages, _ = simulate("all,split=0.5", count=20_000)
    kinds = {m.kind for m in messages if m.topic == REPORT}
    assert kinds >= {"NEW", "TRADE", "BUST", "CORRECT", "CANCELED", "REPLACED", "EXPIRED", "DONE_FOR_DAY", "REJECTED", "RESTATED", "STATUS",
                     "PENDING_NEW", "PENDING_CANCEL", "PENDING_REPLACE", "CANCEL_REJECT", "TRIGGERED", "STOPPED"}  # fmt: skip


def test_simulator_batches_come_in_due_order_and_slices() -> None:
    simulator = Simulator(SimConfig(rate=5_000, faults=parse_faults("all")), REFERENCE)
    slack = 1_000_000  # a spoiled copy comes up to 1 ms before its original, perhaps born a slice earlier
    latest = 0
    for batch in simulator.steps(count=3_000):
        due = [m.due_ns for m in batch]
        assert due == sorted(due)
        assert due[-1] - due[0] <= simulator.config.slice_ns + slack
        assert due[0] >= latest - slack
        latest = due[-1]


def test_simulator_keys_are_the_correlation_else_the_venue_order() -> None:
    messages, _ = simulate()
    for message in messages:
        whole = json.loads(message.value)
        payload = whole["payload"]
        if message.topic == QUOTE:
            assert message.key.decode() == payload["symbol"]
        elif whole["correlation_id"]:
            assert message.key.decode() == whole["correlation_id"] == message.order
        else:
            assert message.key.decode() == f"{payload['venue']}|{payload['venue_order_id']}"


def test_simulator_reports_of_a_venue_without_client_ids_are_tied_by_acknowledgements_alone() -> None:
    messages, _ = simulate()
    aliases = {(p["venue"], p.get("venue_order_id")): json.loads(m.value)["correlation_id"] for m, p in payloads(messages, ACK)}
    delta = [(m, p) for m, p in payloads(messages, REPORT) if not VENUES[p["venue"]].carries_client_order_id]
    assert delta
    for message, payload in delta:
        assert not {"client_order_id", "orig_client_order_id", "leg"} & payload.keys()
        assert aliases[payload["venue"], payload["venue_order_id"]] == message.order


def test_simulator_client_order_ids_name_correlation_and_leg() -> None:
    messages, _ = simulate()
    replaced = set()
    for message, payload in payloads(messages, REPORT):
        if "client_order_id" in payload:
            digits, _, leg = payload["client_order_id"].partition("-")
            assert digits == message.order.replace("-", "")
            assert leg == payload["leg"]
            assert 1 <= len(leg) <= 3
        if payload["kind"] == "REPLACED" and "client_order_id" in payload:
            assert payload["orig_client_order_id"] != payload["client_order_id"]
            replaced.add(payload["venue_order_id"])
    assert replaced


def test_simulator_times_are_those_of_venue_and_gateway() -> None:
    messages, _ = simulate()
    for message, payload in payloads(messages, REPORT):
        assert payload["recv_ts_ns"] == message.due_ns
        assert payload["event_ts_ns"] <= payload["recv_ts_ns"]
        assert payload["event_ts_ns"] % payload["ts_precision_ns"] == 0


def test_fix_bytes_body_length_and_checksum_are_right() -> None:
    messages, _ = simulate(count=200)
    from base64 import b64decode

    for _, payload in payloads(messages, REPORT):
        raw = b64decode(payload["raw"])
        head, _, rest = raw.partition(b"\x0135=")
        body, _, check = rest.rpartition(b"10=")
        assert int(head.rpartition(b"9=")[2]) == len(b"35=" + body)
        assert int(check[:3]) == sum(raw[: -len(b"10=000\x01")]) % 256
    assert fix_bytes.__doc__


# --- histories ----------------------------------------------------------------------------------------------------------------------


def test_simulator_without_faults_every_venue_order_closes() -> None:
    messages, simulator = simulate(count=8_000)
    assert not simulator.faults
    assert not any(m.fault for m in messages)
    for reports in by_venue_order(messages).values():
        scale = SCALES[reports[0]["instrument"]].qty_scale
        cum = 0
        for r in reports:
            cum += scaled(r["last_qty"], scale) if r["kind"] == "TRADE" else 0
            assert scaled(r["cum_qty"], scale) == cum <= scaled(r["order_qty"], scale)
            if r["ord_status"] in ("NEW", "PARTIALLY_FILLED", "FILLED"):
                assert scaled(r["leaves_qty"], scale) == scaled(r["order_qty"], scale) - cum


def test_simulator_without_faults_average_price_is_that_of_the_fills() -> None:
    messages, _ = simulate()
    for reports in by_venue_order(messages).values():
        instrument = SCALES[reports[0]["instrument"]]
        q = [scaled(r["last_qty"], instrument.qty_scale) for r in reports if r["kind"] == "TRADE"]
        p = [scaled(r["last_px"], instrument.px_scale) for r in reports if r["kind"] == "TRADE"]
        if q:
            exact = sum(a * b for a, b in zip(q, p, strict=True)) * 10_000 / sum(q)
            assert abs(scaled(reports[-1]["avg_px"], instrument.px_scale + 4) - exact) <= 0.5 + 1e-6 * exact


def test_simulator_without_faults_execution_keys_are_unique_and_orders_routed_before_their_reports() -> None:
    messages, _ = simulate(count=8_000)
    routed = {m.order: m.due_ns for m in messages if m.topic == ROUTE}
    seen = set()
    for message, p in payloads(messages, REPORT):
        assert message.due_ns > routed[message.order]
        if p.get("exec_id", "0") != "0":
            rules = VENUES[p["venue"]]
            parts = [p["venue"], p["account"], p["instrument"], p["exec_id"]]
            key = (*parts, p["venue_order_id"] if "O" in rules.key else "", p["trade_date"] if rules.dated_key else 0)
            assert key not in seen
            seen.add(key)


def test_simulator_self_trades_share_an_id_where_ids_name_the_trade() -> None:
    messages, _ = simulate(count=20_000)
    sides: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for _, p in payloads(messages, REPORT):
        if p["kind"] == "TRADE" and "O" in VENUES[p["venue"]].key:
            sides[p["account"], p["instrument"], p["exec_id"]].append(p["side"])
    assert any(len(s) == 2 for s in sides.values())
    assert all(sorted(s) in (["BUY"], ["SELL"], ["BUY", "SELL"]) for s in sides.values())


@pytest.mark.parametrize("faults", ["bust=0.5", "correct=0.5", "bust=0.5,correct=0.5,replace_crossing=0.5,late_fill=0.5,split=0.5"])
def test_simulator_busts_and_corrects_close_by_their_chains(faults: str) -> None:
    messages, simulator = simulate(faults, count=6_000)
    assert all(simulator.faults[name] for name in parse_faults(faults))
    for reports in by_venue_order(messages).values():
        assert effective(reports) == scaled(reports[-1]["cum_qty"], SCALES[reports[0]["instrument"]].qty_scale)


def test_simulator_references_name_the_link_before_or_the_first_by_venue() -> None:
    messages, _ = simulate("correct=0.8,bust=0.3", count=8_000)
    longest = Counter()
    for (venue, _), reports in by_venue_order(messages).items():
        kinds = {r["exec_id"]: r["kind"] for r in reports if "exec_id" in r}
        parents = [r["exec_ref_id"] for r in reports if r["kind"] in ("BUST", "CORRECT")]
        if VENUES[venue].ref_style == "ROOT":
            assert all(kinds[parent] == "TRADE" for parent in parents)
        else:
            assert len(parents) == len(set(parents))
            assert all(kinds[parent] in ("TRADE", "CORRECT") for parent in parents)
        longest[venue] = max(longest[venue], len(parents))
    assert min(longest.values()) >= 3


def test_simulator_crossing_replace_may_ask_for_less_than_is_filled() -> None:
    messages, _ = simulate("replace_crossing=1", count=6_000)
    below = 0
    for reports in by_venue_order(messages).values():
        scale = SCALES[reports[0]["instrument"]].qty_scale
        below += sum(r["kind"] == "REPLACED" and scaled(r["order_qty"], scale) < scaled(r["cum_qty"], scale) for r in reports)
    assert below


# busts, corrects, crossings, splits, repeats and every order of arrival are legal: they must leave no order held, short or pending
LEGAL = (
    "bust=0.1,correct=0.1,replace_crossing=0.1,late_fill=0.1,split=0.3,clock_skew=0.1,duplicate=0.02,reorder=0.05,reorder_chain=0.5,"
    "delay=0.01,misrouted=0.02,duplicate_route=0.02,duplicate_ack=0.02,duplicate_keys=0.01"
)


@pytest.mark.parametrize("faults", ["none", LEGAL])
def test_simulator_legal_histories_leave_the_oracle_nothing_to_complain_of(faults: str) -> None:
    messages, _ = simulate(faults, seed=11)
    n_lanes = 4
    oracle = Oracle(n_lanes, REFERENCE)
    offsets: Counter[tuple[str, int]] = Counter()
    for message in messages:
        if message.topic != QUOTE:
            lane = (murmur2(message.key) + message.misrouted) % n_lanes
            oracle.feed(message.topic, lane, offsets[message.topic, lane], message.key, message.value, message.due_ns)
            offsets[message.topic, lane] += 1
    balance = oracle.balance()
    assert balance["pending"] == balance["dlq"] == 0
    assert balance["received"] == balance["published"] + balance["duplicate"] + balance["rerouted"]
    symbols = {m.order: p["symbol"] for m, p in payloads(messages, ROUTE)}
    histories = by_venue_order(messages)
    checked = 0
    for message, p in payloads(messages, ACK):
        if p["status"] == "ACKED" and not message.fault:
            [state] = [s for s in oracle.order_state(message.order) if s["venue"] == p["venue"]]
            assert state["held"] == []
            assert state["gap"] == 0
            stated = histories[p["venue"], p["venue_order_id"]][-1]["cum_qty"]
            assert state["cum"].scaleb(SCALES[symbols[message.order]].qty_scale) == scaled(stated, SCALES[symbols[message.order]].qty_scale)
            checked += 1
    assert checked > 100


# --- faults -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(FAULTS))
def test_simulator_each_fault_is_committed_counted_and_tagged(name: str) -> None:
    rate = {"oversize": 0.005, "hostile_depth": 0.02, "split": 1, "hold_decision": 1}.get(name, 0.3)
    helper = {"reorder_chain": "bust=0.5,", "hold_decision": "conflict=0.3,"}.get(name, "")
    messages, simulator = simulate(f"{helper}{name}={rate}", count=2_500)
    tagged = sum(name in fault_names(m) for m in messages)
    assert simulator.faults[name] > 0
    assert tagged > 0
    assert tagged <= simulator.faults[name] + (simulator.faults[name] * 20 if FAULTS[name].unit in ("leg", "order") else 0)
    assert {n for m in messages for n in fault_names(m)} <= {name, *parse_faults(helper)}


@pytest.mark.parametrize("name", sorted(REFUSED_BY_MODEL))
def test_simulator_spoiled_message_is_refused_by_the_model(name: str) -> None:
    messages, _ = simulate(f"{name}=0.1", count=1_500)
    spoiled = [m for m in messages if m.fault == name]
    assert spoiled
    for message in spoiled:
        model = TOPICS[message.topic].model
        assert model is not None
        with pytest.raises(ValidationError):
            model.model_validate_json(message.value)


@pytest.mark.parametrize("name", sorted(FIT_THE_MODEL))
def test_simulator_spoiled_message_that_only_the_rules_can_tell_fits_the_model(name: str) -> None:
    messages, _ = simulate(f"{name}=0.1", count=1_500)
    spoiled = [m for m in messages if m.fault == name]
    assert spoiled
    for message in spoiled:
        model = TOPICS[message.topic].model
        assert model is not None
        model.model_validate_json(message.value)


def test_simulator_bytes_and_field_faults_are_all_in_the_two_lists() -> None:
    assert {f.name for f in FAULTS.values() if f.group in ("bytes", "field")} == REFUSED_BY_MODEL | FIT_THE_MODEL | {"oversize"}


def test_simulator_spoiled_copies_leave_the_good_history_whole() -> None:
    messages, simulator = simulate("bytes=0.05,field=0.05,oversize=0", count=4_000)
    assert sum(simulator.faults.values()) == sum(is_spoiled(m) for m in messages)
    for reports in by_venue_order(messages).values():
        assert effective(reports) == scaled(reports[-1]["cum_qty"], SCALES[reports[0]["instrument"]].qty_scale)


def test_simulator_oversize_messages_are_over_the_limit_but_within_their_topic() -> None:
    messages, _ = simulate("oversize=0.01", count=1_500)
    large = [m for m in messages if m.fault == "oversize"]
    assert large
    for message in large:
        assert MAX_RECORD_BYTES < len(message.value) < TOPICS[message.topic].max_message_bytes - 100_000


def test_simulator_exact_duplicates_repeat_the_bytes_of_an_earlier_message() -> None:
    messages, _ = simulate("duplicate_exact=0.2,duplicate_route=0.2,duplicate_ack=0.2")
    seen = set()
    for message in messages:
        if message.fault:
            assert (message.topic, message.key, message.value) in seen
        seen.add((message.topic, message.key, message.value))


def test_simulator_resends_and_overlaps_repeat_the_content_under_a_new_msg_id() -> None:
    messages, _ = simulate("duplicate_resend=0.1,duplicate_feed=0.1,duplicate_fee=0.1,duplicate_renumbered=0.1", count=4_000)
    good = {(p["venue"], p["venue_order_id"], p.get("exec_id")): (m, p) for m, p in payloads(messages, REPORT) if not m.fault}
    names = Counter()
    for message, p in payloads(messages, REPORT):
        if not message.fault:
            continue
        names[message.fault] += 1
        exec_id = p["exec_id"].removeprefix("R") if message.fault == "duplicate_renumbered" else p["exec_id"]
        original, q = good[p["venue"], p["venue_order_id"], exec_id]
        assert all(p.get(f) == q.get(f) for f in ("kind", "side", "last_qty", "last_px", "exec_ref_id", "cum_qty"))
        assert json.loads(message.value)["msg_id"] != json.loads(original.value)["msg_id"]
        if message.fault == "duplicate_resend":
            assert p.get("poss_dup") or p.get("poss_resend")
        elif message.fault == "duplicate_feed":
            assert p["source"] != q["source"]
        elif message.fault == "duplicate_fee":
            assert "fee_amount" in p
            assert "fee_amount" not in q
        else:
            field = "trade_match_id" if "trade_match_id" in p else "secondary_exec_id"
            assert p[field] == q[field]
    assert len(names) == 4


def test_simulator_conflicts_repeat_an_exec_id_with_another_price() -> None:
    messages, _ = simulate("conflict=0.3")
    good = {(p["venue"], p["venue_order_id"], p.get("exec_id")): p for m, p in payloads(messages, REPORT) if not m.fault}
    conflicts = [p for m, p in payloads(messages, REPORT) if m.fault == "conflict"]
    assert conflicts
    for p in conflicts:
        assert p["last_px"] != good[p["venue"], p["venue_order_id"], p["exec_id"]]["last_px"]


def test_simulator_mismatches_differ_from_the_intent_in_one_of_three_fields() -> None:
    messages, _ = simulate("mismatch=0.5")
    intents = {m.order: p for m, p in payloads(messages, ROUTE)}
    differs = Counter()
    for message, p in payloads(messages, REPORT):
        if message.fault == "mismatch":
            intent = intents[message.order]
            wrong = [a for a, b in (("side", "side"), ("account", "account"), ("instrument", "symbol")) if p[a] != intent[b]]
            assert len(wrong) == 1
            differs[wrong[0]] += 1
    assert set(differs) == {"side", "account", "instrument"}


def test_simulator_gaps_show_in_the_totals_only_or_are_filled_late() -> None:
    messages, simulator = simulate("gap=0.5", count=4_000)
    short = 0
    for reports in by_venue_order(messages).values():
        stated = scaled(reports[-1]["cum_qty"], SCALES[reports[0]["instrument"]].qty_scale)
        assert effective(reports) <= stated
        short += effective(reports) < stated
    late = sum(m.fault == "gap" for m in messages)
    assert short
    assert late
    assert short + late == simulator.faults["gap"]


def test_simulator_regressions_show_in_the_totals_only_or_are_healed_late() -> None:
    messages, simulator = simulate("regression=0.5", count=4_000)
    over = 0
    for reports in by_venue_order(messages).values():
        stated = scaled(reports[-1]["cum_qty"], SCALES[reports[0]["instrument"]].qty_scale)
        assert effective(reports) >= stated
        over += effective(reports) > stated
    healed = sum(m.fault == "regression" for m in messages)
    assert over
    assert healed
    assert over + healed == simulator.faults["regression"]


def test_simulator_overfills_exceed_the_order_and_late_fills_follow_the_cancel() -> None:
    messages, _ = simulate("overfill=0.5,late_fill=0.5", count=4_000)
    seen = Counter()
    for reports in by_venue_order(messages).values():
        scale = SCALES[reports[0]["instrument"]].qty_scale
        kinds = [r["kind"] for r in reports]
        if "CANCELED" in kinds and "TRADE" in kinds[kinds.index("CANCELED") :]:
            seen["late"] += 1
        if any(scaled(r["cum_qty"], scale) > scaled(r["order_qty"], scale) for r in reports):
            seen["over"] += 1
    assert seen["late"]
    assert seen["over"]


def test_simulator_strangers_are_never_routed_or_acknowledged() -> None:
    messages, _ = simulate("foreign=0.5", count=4_000)
    routed = {m.order for m in messages if m.topic == ROUTE}
    known = {(p["venue"], p.get("venue_order_id")) for _, p in payloads(messages, ACK)}
    for message, p in payloads(messages, REPORT):
        if message.fault:
            assert message.order not in routed
            assert (p["venue"], p["venue_order_id"]) not in known
            assert (json.loads(message.value)["correlation_id"] is None) == (message.fault == "uncorrelated")
    assert {m.fault for m in messages} == {"", "unknown_order", "uncorrelated"}


def test_simulator_reorders_put_fills_before_what_they_need() -> None:
    messages, _ = simulate("reorder_new=0.5,reorder_route=0.5,reorder_chain=1,bust=0.5,correct=0.5", count=4_000)
    routed = {m.order: m.due_ns for m in messages if m.topic == ROUTE}
    seen = Counter()
    arrived: dict[tuple[str, str], set[str]] = defaultdict(set)
    for message, p in payloads(messages, REPORT):
        ids = arrived[p["venue"], p["venue_order_id"]]
        if p["kind"] == "TRADE":
            seen["before route"] += message.due_ns < routed[message.order]
            seen["before NEW"] += "NEW" not in ids
        if p["kind"] in ("BUST", "CORRECT"):
            seen["link first"] += p["exec_ref_id"] not in ids
        ids |= {p.get("exec_id", ""), p["kind"]}
    assert all(seen[name] for name in ("before route", "before NEW", "link first"))


def test_simulator_skewed_clocks_are_ahead_by_at_most_a_second_and_a_third() -> None:
    messages, _ = simulate("clock_skew=1")
    ahead = [p["event_ts_ns"] - p["recv_ts_ns"] for _, p in payloads(messages, REPORT)]
    assert max(ahead) > 1_000_000_000
    assert max(ahead) <= 1_310_000_000


# --- amounts, ends, settings ----------------------------------------------------------------------------------------------------------


def test_simulator_reports_come_at_the_rate_asked_for() -> None:
    messages, simulator = simulate("all", count=30_000, rate=6_000.0, life_s=0.1)
    start = simulator.config.start_ns
    per_second = Counter((m.due_ns - start) // 1_000_000_000 for m in messages if m.topic == REPORT)
    assert all(5_400 <= per_second[s] <= 6_600 for s in (2, 3, 4))
    assert simulator.reports == sum(m.topic == REPORT for m in messages)
    assert 30_000 <= simulator.reports <= 30_100


def test_simulator_seconds_and_stop_end_the_routing_but_not_what_is_under_way() -> None:
    simulator = Simulator(SimConfig(rate=500), REFERENCE)
    whole = [m for batch in simulator.steps(seconds=2.0) for m in batch]
    routes = [m.due_ns - simulator.config.start_ns for m in whole if m.topic == ROUTE]
    assert 2.3e9 < max(routes) <= 2.5e9
    assert whole[-1].topic == QUOTE
    stopped = Simulator(SimConfig(rate=500), REFERENCE)
    some: list[Message] = []
    for batch in stopped.steps():
        some += batch
        if batch[-1].due_ns > stopped.config.start_ns + 1_000_000_000:
            stopped.stop()
    for reports in by_venue_order(some).values():
        assert effective(reports) == scaled(reports[-1]["cum_qty"], SCALES[reports[0]["instrument"]].qty_scale)


def test_simulator_quotes_every_instrument_at_the_rate_asked_for() -> None:
    messages, simulator = simulate(count=5_000, quotes_rate=50.0)
    quotes = payloads(messages, QUOTE)
    span = (messages[-1].due_ns - simulator.config.start_ns) / 1e9
    counts = Counter(p["symbol"] for _, p in quotes)
    assert set(counts) == set(SCALES)
    assert all(abs(n - span * 50) <= 2 for n in counts.values())
    for _, p in quotes:
        if p["bid"] is not None and p["ask"] is not None:
            assert 0 < float(p["bid"]) < float(p["ask"])


def test_market_forgets_the_past_and_keeps_the_path() -> None:
    one = Market(REFERENCE.instruments, 0, 50_000_000, 3)
    two = Market(REFERENCE.instruments, 0, 50_000_000, 3)
    far = 20_000
    for k in range(0, far, 100):
        one.quote(0, k)
        one.forget(k * 50_000_000)
    assert one.quote(2, far) == two.quote(2, far)
    assert len(one._path[0]) < 4 * 512


def test_parse_faults_lists_groups_and_rates_later_ones_winning() -> None:
    assert parse_faults("none") == {}
    assert parse_faults("all")["bust"] == FAULTS["bust"].rate
    assert set(parse_faults("all,bytes=0")) == {n for n, f in FAULTS.items() if f.group != "bytes"}
    assert parse_faults("all,none, bust=0.25 ,gap") == {"bust": 0.25, "gap": FAULTS["gap"].rate}


@pytest.mark.parametrize("text", ["busts", "bust=2", "bust=x", "bust=-1", "bust=nan", "none=1"])
def test_parse_faults_bad_text_says_what_is_wrong(text: str) -> None:
    with pytest.raises(ValueError, match=r"^faults: '" + text):
        parse_faults(text)


def test_sim_config_bad_values_are_all_named() -> None:
    with pytest.raises(ValueError, match=r"rate must be above 0.*legs_max must be above 0.*seed must be.*fault 'nope' is not known"):
        SimConfig(rate=0, legs_max=0, seed=-1, faults={"nope": 0.1})
