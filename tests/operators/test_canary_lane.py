"""Lanes of the canary, told by the handful: what is folded, what is said and how often, and that a restored lane goes on as the calm one does."""

from __future__ import annotations

import json
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators import canary
from operators.canary_lane import CanaryLogic
from operators.canonical import text_of
from schemas.canary import DENIED, CanaryAlertMessage
from state.accounts import FACTS
from tests.operators.canary_bench import (
    ACCOUNT_TOPIC,
    ACTIVITY_TOPIC,
    DEFAULT,
    FILL_TOPIC,
    GUARDED,
    HEDGE_TOPIC,
    POSITION_TOPIC,
    SECOND,
    Bench,
    account_state,
    lane_of,
    message,
    position_state,
    state_of,
)

HOUR = 3_600


def seen(bench: Bench, *accounts: str) -> None:
    """Let accounts be known, with positions, in a calm market, and said once."""
    bench.market()
    for name in accounts:
        bench.feed(ACCOUNT_TOPIC, bench.account(name))
        bench.feed(POSITION_TOPIC, bench.positions(name))
    bench.tick()


def facts_of_row(lane: CanaryLogic, account: str, mode: str = "live") -> dict[str, Any]:
    found = lane.account_state(account, mode)["facts"]
    return {name: found[name] for name, *_ in FACTS}


# --- what is said, and how often --------------------------------------------------------------------------------------------------


def test_an_account_is_said_once_and_again_when_it_changes() -> None:
    bench = Bench()
    seen(bench, "U1")
    assert bench.said() == [("U1", "first", 1, "observe")]
    for step in range(5):
        bench.now_ns += SECOND
        bench.feed(ACCOUNT_TOPIC, bench.account("U1", daily_pnl=str(100 + step)))  # other values, the same buckets
        bench.tick()
    assert len(bench.alerts) == 1
    bench.now_ns += SECOND
    bench.feed(ACCOUNT_TOPIC, bench.account("U1", cushion="0.15"))
    bench.tick()
    assert bench.said()[1:] == [("U1", "changed", 2, "act")]
    signals = [signal["id"] for signal in bench.alerts[-1]["result"]["signals"]]
    assert signals == ["margin_cushion_low"]
    bench.tick(1)
    assert len(bench.alerts) == 2


def test_profiles_are_streams_of_their_own() -> None:
    bench = Bench(profiles=(DEFAULT, GUARDED))
    seen(bench, "U1")
    assert sorted(alert["result"]["policy"] for alert in bench.alerts) == [DEFAULT, GUARDED]
    assert [alert["seq"] for alert in bench.alerts] == [1, 1]
    bench.feed(ACCOUNT_TOPIC, bench.account("U1", daily_pnl=None, as_of_ns=bench.now_ns + 1))
    bench.tick()
    changed = [alert for alert in bench.alerts if alert["reason"] == "changed"]
    assert {alert["result"]["policy"] for alert in changed} == {DEFAULT, GUARDED}
    assert {alert["seq"] for alert in changed} == {2}


def test_live_and_paper_are_accounts_of_their_own() -> None:
    bench = Bench()
    bench.market()
    bench.feed(ACCOUNT_TOPIC, bench.account("U1"), bench.account("U1", mode="paper", cushion="0.05"))
    bench.feed(POSITION_TOPIC, bench.positions("U1"), bench.positions("U1", mode="paper"))
    bench.tick()
    assert {(a["mode"], a["result"]["severity"]) for a in bench.alerts} == {("live", "observe"), ("paper", "urgent")}


def test_an_unchanged_state_is_said_again_every_heartbeat_and_never_more_often() -> None:
    bench = Bench()
    seen(bench, "U1")
    for _ in range(25 * 60):
        bench.now_ns += 60 * SECOND
        bench.market()
        bench.feed(ACCOUNT_TOPIC, bench.account("U1"))
        bench.feed(POSITION_TOPIC, bench.positions("U1"))
        bench.tick()
        bench.tick(1)
    beats = [alert for alert in bench.alerts if alert["reason"] == "heartbeat"]
    assert len(beats) in (24, 25)
    assert len(bench.alerts) == 1 + len(beats)


def test_silence_of_a_source_is_said_when_it_is_too_old_not_when_something_comes() -> None:
    bench = Bench()
    seen(bench, "U1")
    before = len(bench.alerts)
    bench.tick(600)
    assert len(bench.alerts) == before
    bench.tick(1)
    status = {s["source"]: s["status"] for s in bench.alerts[-1]["result"]["source_health"]}
    assert bench.alerts[-1]["reason"] == "changed"
    assert status["account"] == status["positions"] == status["regime"] == "stale"
    bench.tick(100)
    assert len(bench.alerts) == before + 1


def test_the_end_of_trading_hours_is_noticed_without_news() -> None:
    bench = Bench()
    seen(bench, "U1")
    bench.tick(4 * HOUR)  # 15:00 in New York: all is stale
    stale = len(bench.alerts)
    bench.tick(59 * 60)
    bench.market(as_of_ns=bench.now_ns - 1_000 * SECOND)
    bench.feed(ACCOUNT_TOPIC, bench.account("U1", as_of_ns=bench.now_ns - 1_000 * SECOND))
    bench.feed(POSITION_TOPIC, bench.positions("U1", as_of_ns=bench.now_ns - 1_000 * SECOND))
    bench.tick()
    assert {s["status"] for s in bench.alerts[-1]["result"]["source_health"]} == {"stale"}
    bench.tick(60)  # 16:00: what is 1,060 s old is current again
    assert {s["status"] for s in bench.alerts[-1]["result"]["source_health"]} == {"ok"}
    assert len(bench.alerts) > stale


def test_missing_is_said_not_waited_for() -> None:
    bench = Bench(profiles=(GUARDED,))
    bench.feed(ACCOUNT_TOPIC, bench.account("U1"))
    bench.tick()
    result = bench.alerts[-1]["result"]
    assert result["direction"] == "data_quality"
    assert {s["source"]: s["status"] for s in result["source_health"]}["positions"] == "unknown"
    assert {s["source"]: s["status"] for s in result["source_health"]}["regime"] == "unknown"


def test_a_turn_of_the_market_is_said_for_every_account_and_the_worst_come_first() -> None:
    bench = Bench()
    names = [f"U{n}" for n in range(40)]
    seen(bench, *names)
    bench.feed(ACCOUNT_TOPIC, bench.account("U39", as_of_ns=bench.now_ns + 1, cushion="0.05"))
    bench.tick()
    before = len(bench.alerts)
    bench.market(
        as_of_ns=bench.now_ns + 1, red=("vix_term_structure", "vol_of_vol", "hyg_spy_divergence", "credit_spreads"), spy=-3.0, vix=25.0
    )
    bench.tick(1)
    said = bench.alerts[before:]
    assert len(said) == 40
    assert said[0]["account"] == "U39"
    assert {alert["reason"] for alert in said} == {"changed"}


def test_a_dashboard_with_the_same_content_judges_nobody() -> None:
    bench = Bench()
    seen(bench, *(f"U{n}" for n in range(10)))
    judged = bench.total("evaluations")
    for _ in range(5):
        bench.now_ns += 60 * SECOND
        bench.market()
        bench.tick()
    assert bench.total("evaluations") == judged
    bench.market(as_of_ns=bench.now_ns + 1, spy=-0.2)  # no level is reached
    bench.tick()
    assert bench.total("evaluations") == judged
    bench.market(as_of_ns=bench.now_ns + 2, spy=-1.6)
    bench.tick()
    assert bench.total("evaluations") == judged + 10


def test_more_alerts_than_a_round_takes_all_go_out_once() -> None:
    bench = Bench()
    lane = bench.lanes[0]
    lane._budget = 7
    seen(bench, *(f"U{n}" for n in range(30)))
    assert bench.lanes[0].counters()["alerts_waiting"] > 0
    for _ in range(6):
        bench.tick(0.025)
    assert sorted(account for account, *_ in bench.said()) == sorted(f"U{n}" for n in range(30))
    assert bench.lanes[0].counters()["alerts_waiting"] == 0


def test_what_waits_is_judged_again_before_it_is_said() -> None:
    bench = Bench()
    bench.lanes[0]._budget = 1
    seen(bench, "U1", "U2", "U3")
    assert len(bench.alerts) == 1
    waiting = [name for name in ("U1", "U2", "U3") if name != bench.alerts[0]["account"]]
    bench.feed(ACCOUNT_TOPIC, bench.account(waiting[1], as_of_ns=bench.now_ns + 1, cushion="0.05"))
    bench.tick()
    assert bench.said()[1] == (waiting[1], "first", 1, "urgent")
    bench.tick()
    assert bench.said()[2] == (waiting[0], "first", 1, "observe")
    bench.tick()
    assert len(bench.alerts) == 3


def test_ids_are_functions_of_account_mode_profile_and_number() -> None:
    one, two = Bench(), Bench()
    for bench in (one, two):
        seen(bench, "U1")
        bench.feed(ACCOUNT_TOPIC, bench.account("U1", as_of_ns=bench.now_ns + 1, cushion="0.15"))
        bench.tick()
    assert one.values["canary.alert.v1"] == two.values["canary.alert.v1"]
    envelopes = [json.loads(value) for value in one.values["canary.alert.v1"]]
    assert len({e["msg_id"] for e in envelopes}) == 2
    for envelope in envelopes:
        assert envelope["idempotency_key"] == envelope["msg_id"]
        assert (envelope["sender"], envelope["ttl_ms"]) == ("agent.canary", 600_000)


def test_an_alert_says_what_its_parts_say_and_nothing_that_is_forbidden() -> None:
    bench = Bench(profiles=(GUARDED,))
    seen(bench, "U1")
    alert = CanaryAlertMessage.model_validate_json(bench.values["canary.alert.v1"][0]).payload
    row = bench.lanes[0].ledger.accounts.rows[bench.lanes[0].account_state("U1")["row"]]
    scene = canary.Scene(bench.board._regimes[GUARDED], bench.policies[GUARDED], bench.now_ns)
    verdicts = canary.verdicts(1)
    canary.evaluate_rows(bench.lanes[0].ledger.accounts.rows, np.zeros(1, np.int64), scene, verdicts)
    assert alert.result == canary.render(row, verdicts[0], scene)
    memory = bench.lanes[0].ledger.streams.rows[0]
    assert alert.result.fingerprint.key == "sha256:" + memory["digest"].tobytes().hex()

    def names(value: Any) -> set[str]:
        if isinstance(value, dict):
            return set(value) | {name for inner in value.values() for name in names(inner)}
        return {name for inner in value for name in names(inner)} if isinstance(value, list) else set()

    assert not names(bench.alerts[0]) & set(DENIED)


# --- what comes in ----------------------------------------------------------------------------------------------------------------


def test_late_and_repeated_snapshots_change_nothing_and_are_counted() -> None:
    bench = Bench()
    seen(bench, "U1")
    state = state_of(bench.lanes[0])
    same = bench.account("U1", name="again")
    old = bench.account("U1", as_of_ns=bench.now_ns - 1, cushion="0.01")
    bench.feed(ACCOUNT_TOPIC, same, old, same)
    bench.feed(POSITION_TOPIC, bench.positions("U1"), bench.positions("U1", as_of_ns=bench.now_ns - 1, options=None))
    bench.tick()
    counters = bench.lanes[0].counters()
    assert (counters["folded"], counters["duplicate"], counters["late"]) == (2, 3, 2)
    after = state_of(bench.lanes[0])
    assert {name for name in state if state[name] != after[name]} == {"scalars"}
    assert len(bench.alerts) == 1


def test_a_snapshot_of_the_same_time_with_another_content_counts_and_one_without_time_is_the_newest() -> None:
    bench = Bench()
    seen(bench, "U1")
    bench.feed(ACCOUNT_TOPIC, bench.account("U1", cushion="0.15"))
    bench.tick()
    assert bench.said()[-1][3] == "act"
    timeless = account_state("U1", None, cushion="0.62")
    bench.feed(ACCOUNT_TOPIC, message(ACCOUNT_TOPIC, timeless, bench.now_ns, "x"), message(ACCOUNT_TOPIC, timeless, bench.now_ns, "y"))
    bench.tick()
    assert bench.alerts[-1]["result"]["source_as_of_ns"]["account"] is None
    assert bench.lanes[0].counters()["duplicate"] == 1
    bench.feed(ACCOUNT_TOPIC, bench.account("U1", as_of_ns=bench.now_ns - 1))
    assert bench.lanes[0].counters()["late"] == 1


def test_a_snapshot_from_the_future_is_a_dead_letter_and_bad_ones_too() -> None:
    bench = Bench()
    seen(bench, "U1")
    good = bench.account("U1", as_of_ns=bench.now_ns + 1, daily_pnl="7")
    bench.feed(
        ACCOUNT_TOPIC, bench.account("U1", as_of_ns=bench.now_ns + 901 * SECOND), b"{", bench.account("U1", net_liquidation="1e5"), good
    )
    bench.feed(POSITION_TOPIC, bench.positions("U1", mode="demo"))
    assert bench.dead == ["event_ts_future", "json_malformed", "field_invalid", "enum_unknown"]
    counters = bench.lanes[0].counters()
    assert (counters["dlq"], counters["folded"], counters["dlq_event_ts_future"]) == (4, 3, 1)
    assert facts_of_row(bench.lanes[0], "U1")["daily_pnl"] == 7.0


def test_what_came_to_the_wrong_lane_goes_to_the_right_one() -> None:
    bench = Bench(lanes=3)
    bench.market()
    home = lane_of("U1", 3)
    wrong = (home + 1) % 3
    bench.feed(ACCOUNT_TOPIC, bench.account("U1"), lane=wrong)
    bench.feed(POSITION_TOPIC, bench.positions("U1"), lane=wrong)
    bench.tick()
    assert bench.lanes[wrong].counters()["rerouted"] == 2
    assert bench.lanes[home].counters()["folded"] == 2
    assert bench.said() == [("U1", "first", 1, "observe")]


def test_facts_are_those_of_the_slow_way_whatever_order_the_snapshots_come_in() -> None:
    random.seed(5)
    symbols = ["SPY", "QQQ", "IBM", "AAPL", "X"]

    def maybe(value: Any) -> Any:
        return None if random.random() < 0.3 else value

    def number() -> Any:
        return maybe(str(random.choice([0, 1, -1, 20_000, -35_000, 12.5])))

    for trial in range(60):
        exposures = [
            {"underlying": s, "market_value_base": number(), "market_value_pct_nlv": maybe(random.choice([0.0, 12.5, -35.0])), "dollar_delta_base": number()}
            for s in random.sample(symbols, random.randint(0, 4))
        ]  # fmt: skip
        stocks = maybe([{"symbol": s, "quantity": "1"} for s in random.sample(symbols, random.randint(0, 3))])
        options = maybe([
            {"symbol": s, "expiry": "2026-02-20", "strike": "100", "right": "C", "quantity": "1"} for s in random.choices(symbols, k=random.randint(0, 3))
        ])  # fmt: skip
        total = random.randint(0, 3)
        portfolio = maybe(
            {
                "dollar_delta_base": number(),
                "gamma": maybe(-1.5),
                "greeks_coverage": maybe(1),
                "greeks_total": maybe(total),
                "exposure_base": exposures,
            }
        )
        bench = Bench()
        figures = {name: number() for name in ("cushion", "excess_liquidity", "maintenance_margin", "daily_pnl", "gross_position_value")}
        account = account_state(
            "U1", bench.now_ns, net_liquidation=maybe("100000"), account_type=maybe("márgin"), base_currency=maybe("EUR"), **figures
        )
        positions = position_state("U1", bench.now_ns, stocks=stocks, options=options, portfolio=portfolio)
        records = [
            (ACCOUNT_TOPIC, message(ACCOUNT_TOPIC, account, bench.now_ns, "a")),
            (POSITION_TOPIC, message(POSITION_TOPIC, positions, bench.now_ns, "p")),
        ]
        random.shuffle(records)
        for topic, value in records:
            bench.feed(topic, value)
        ours = facts_of_row(bench.lanes[0], "U1")
        theirs = canary.facts_of(plain(account), plain(positions))
        for name, *_ in FACTS:
            if name == "mode":
                continue
            if np.asarray(theirs[name]).dtype.kind == "f":
                assert float(ours[name]) == pytest.approx(float(theirs[name]), nan_ok=True), (trial, name)
            elif not name.endswith("_name") and name not in ("currency", "type"):
                assert np.array_equal(ours[name], theirs[name]), (trial, name, ours[name], theirs[name])
        row = bench.lanes[0].ledger.accounts.rows[0]
        for name in ("currency", "type", "largest_exposure", "largest_delta"):
            assert text_of(row, name) == text_of(theirs, name), (trial, name)
        assert bytes(row["unmeasured_name"]) == bytes(theirs["unmeasured_name"])


def plain(payload: dict[str, Any]) -> dict[str, Any]:
    """Return a payload with numbers for its decimal strings, as files have them."""
    keep = ("account", "mode", "symbol", "underlying", "expiry", "right", "base_currency", "account_type")

    def number(name: str, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: number(key, inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [number(name, inner) for inner in value]
        return float(value) if isinstance(value, str) and name not in keep else value

    found = number("", payload)
    found["as_of"] = found.pop("as_of_ns")
    assert isinstance(found, dict)
    return found


# --- fills and hedges -------------------------------------------------------------------------------------------------------------


def windows_of(bench: Bench) -> dict[str, dict[str, Any]]:
    return {one["window"]: one for one in bench.alerts[-1]["windows"]}


def test_fills_and_hedges_reach_their_account_whatever_lane_their_book_is_on() -> None:
    bench = Bench(lanes=4)
    accounts, books = ["U1", "U2"], ["alpha", "beta", "gamma"]
    bench.market()
    for account in accounts:
        bench.feed(ACCOUNT_TOPIC, bench.account(account))
        bench.feed(POSITION_TOPIC, bench.positions(account))
    for book in books:
        bench.feed(FILL_TOPIC, bench.fill("U1", book, "10"), bench.fill("U1", book, "-4"), bench.fill("U2", book, "1", slippage_bps=None))
    bench.feed(HEDGE_TOPIC, bench.hedge("alpha", 0.9), bench.hedge("beta", 0.7), bench.hedge("nobody", 0.1), bench.hedge("gamma", None))
    bench.tick()
    found = {alert["account"]: {one["window"]: one for one in alert["windows"]} for alert in bench.alerts}
    for window in ("1m", "5m", "1h", "session"):
        one = found["U1"][window]
        assert one["fills"] == 6
        assert one["traded_pct_nlv"] == pytest.approx(3 * 1_400 / 1e5 * 100)
        assert one["net_traded_pct_nlv"] == pytest.approx(3 * 600 / 1e5 * 100)
        assert one["cost_bps"] == pytest.approx(2.0)
        assert one["min_coverage"] == 0.7
        assert found["U2"][window]["fills"] == 3
        assert found["U2"][window]["cost_bps"] == pytest.approx(0.0)
    assert bench.total("forwarded") == 9 + 2
    assert bench.total("activities") == bench.total("folded") - 4 - 2  # snapshots, and hedges nobody is told of


def test_fills_are_counted_once_and_what_is_taken_back_is_no_fill() -> None:
    bench = Bench(lanes=2)
    bench.market()
    first = bench.fill("U1", "alpha", "10", name="one")
    bench.feed(FILL_TOPIC, first, first, bench.fill("U1", "alpha", "-10", name="one", version=2, side="BUY"))
    bench.feed(FILL_TOPIC, first)
    bench.feed(ACCOUNT_TOPIC, bench.account("U1"))
    bench.tick()
    one = windows_of(bench)["session"]
    assert (one["fills"], one["net_traded_pct_nlv"], one["cost_bps"]) == (1, 0.0, 0.0)
    assert one["traded_pct_nlv"] == pytest.approx(2.0)
    assert bench.total("duplicate") == 2


def test_fills_of_other_times_are_in_the_windows_of_their_times() -> None:
    bench = Bench()
    bench.market()
    bench.feed(FILL_TOPIC, *(bench.fill("U1", "alpha", exec_ns=bench.now_ns - back * SECOND) for back in (0, 5, 100, 1_000, 7_000)))
    bench.feed(ACCOUNT_TOPIC, bench.account("U1"))
    bench.tick()
    assert {name: one["fills"] for name, one in windows_of(bench).items()} == {"1m": 2, "5m": 3, "1h": 4, "session": 5}


def test_what_may_not_speak_of_fills_is_a_dead_letter() -> None:
    bench = Bench(lanes=2)
    home = lane_of("alpha", 2)
    bench.feed(FILL_TOPIC, bench.fill("U1", "alpha"), lane=1 - home)
    bench.feed(HEDGE_TOPIC, bench.hedge("alpha", 0.5), lane=1 - home)
    bench.feed(HEDGE_TOPIC, bench.hedge("alpha", 0.5, sender="agent.stranger"), b"{}")
    act = {
        "account": "U1",
        "book": "alpha",
        "fills": 1,
        "signed_notional": 1.0,
        "traded_notional": 1.0,
        "cost": 0.0,
        "first_ns": bench.now_ns,
        "last_ns": bench.now_ns,
    }
    bench.feed(ACTIVITY_TOPIC, message(ACTIVITY_TOPIC, act, bench.now_ns, "a", "agent.stranger"))
    bench.feed(FILL_TOPIC, bench.fill("U1", "alpha", exec_ns=bench.now_ns + 1_000 * SECOND))
    assert sorted(bench.dead) == ["event_ts_future", "field_missing", "misrouted", "misrouted", "sender_not_allowed", "sender_not_allowed"]
    assert bench.total("forwarded") == 0
    bench.feed(HEDGE_TOPIC, bench.hedge("alpha", 0.5), bench.hedge("alpha", 0.5, ts_ns=bench.now_ns - 1))
    assert bench.total("late") == 1
    bench.tick()


def test_a_fill_is_forgotten_after_days_and_not_before() -> None:
    bench = Bench()
    fill = bench.fill("U1", "alpha", name="one")
    bench.feed(FILL_TOPIC, fill)
    bench.tick(2 * 24 * HOUR)
    bench.feed(FILL_TOPIC, fill)
    assert bench.total("duplicate") == 1
    for _ in range(2):
        bench.tick(24 * HOUR + 1)
        bench.feed(FILL_TOPIC, bench.fill("U1", "alpha"))
        bench.tick()
    bench.tick(2 * 24 * HOUR)
    bench.feed(FILL_TOPIC, bench.fill("U1", "alpha"))
    bench.tick()
    assert len(bench.lanes[0].ledger.fills) < 4


# --- crash and restore ------------------------------------------------------------------------------------------------------------


def story(bench: Bench, steps: int, seed: int, restart: Any) -> None:
    """Drive a bench through a random but repeatable history; `restart(step)` is called after each commit."""
    rng = random.Random(seed)
    names = [f"U{n}" for n in range(12)]
    kept: list[tuple[str, bytes]] = []
    for step in range(steps):
        for _ in range(rng.randint(0, 6)):
            name, mode = rng.choice(names), rng.choice(["live", "live", "paper"])
            as_of = rng.choice([bench.now_ns, bench.now_ns, bench.now_ns - rng.randint(0, 900) * SECOND, None])
            kind = rng.random()
            if kind < 0.35:
                values = {
                    "cushion": rng.choice(["0.62", "0.30", "0.15", "0.05", "0", None]),
                    "daily_pnl": rng.choice(["0", "-6000", "-12000", None]),
                }
                payload = account_state(name, as_of, mode, **values, net_liquidation=rng.choice(["100000", "0", None, "100000"]))
                record = (ACCOUNT_TOPIC, message(ACCOUNT_TOPIC, payload, bench.now_ns, f"{seed}:{step}:{rng.random()}"))
            elif kind < 0.65:
                payload = position_state(
                    name, as_of, mode, options=rng.choice([None, []]), portfolio=rng.choice([None, position_state(name, 1)["portfolio"]])
                )
                record = (POSITION_TOPIC, message(POSITION_TOPIC, payload, bench.now_ns, f"{seed}:{step}:{rng.random()}"))
            elif kind < 0.85:
                record = (
                    FILL_TOPIC,
                    bench.fill(name, f"B{rng.randint(0, 3)}", rng.choice(["10", "-3"]), name=f"{seed}:{step}:{rng.random()}"),
                )
            elif kind < 0.95:
                record = (HEDGE_TOPIC, bench.hedge(f"B{rng.randint(0, 3)}", rng.choice([0.5, 0.99, None])))
            else:
                record = (
                    rng.choice([ACCOUNT_TOPIC, POSITION_TOPIC, FILL_TOPIC, HEDGE_TOPIC]),
                    rng.choice([b"{", b"", b"[1]", b'{"payload":{}}']),
                )
            kept.append(record)
            if rng.random() < 0.15:
                record = rng.choice(kept)  # said before
            lane = rng.randrange(len(bench.lanes)) if rng.random() < 0.1 else None
            bench.feed(record[0], record[1], lane=lane)
        turn = rng.random()
        if turn < 0.2:
            bench.market()
        elif turn < 0.3:
            bench.market(
                red=rng.choice([(), ("usd_jpy",), ("vix_term_structure", "credit_spreads")]),
                spy=rng.choice([0.1, -2.7]),
                vix=rng.choice([-1.0, 22.0]),
            )
        bench.tick(rng.choice([0.025, 1, 1, 60, 601, 3_700]))
        restart(step)


@pytest.mark.parametrize("board", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_a_restored_lane_is_the_calm_one_and_says_what_it_would_have_said(seed: int, board: bool) -> None:
    calm, other = (Bench(lanes=3, profiles=(DEFAULT, GUARDED)) for _ in range(2))
    for bench in (calm, other):
        for lane in bench.lanes:
            lane._budget = 5 + seed
    rng = random.Random(seed)

    def crash(step: int) -> None:
        if rng.random() < 0.5:
            lane = rng.randrange(3)
            other.restart(lane, board=board)
            other.lanes[lane]._budget = 5 + seed

    story(calm, 60, seed, lambda step: None)
    story(other, 60, seed, crash)
    assert other.values == calm.values
    for one, two in zip(other.lanes, calm.lanes, strict=True):
        assert state_of(one) == state_of(two)
        assert one.positions() == two.positions()


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.integers(1, 5))
def test_everything_that_enters_is_accounted_for_and_every_stream_is_without_gaps(seed: int, lanes: int) -> None:
    bench = Bench(lanes=lanes, profiles=(DEFAULT, GUARDED))
    story(bench, 25, seed, lambda step: None)
    for lane in bench.lanes:
        counters = lane.counters()
        parts = ("folded", "duplicate", "late", "dlq", "rerouted", "forwarded")
        assert counters["received"] == sum(counters[name] for name in parts)
        assert counters["dlq"] == sum(value for name, value in counters.items() if name.startswith("dlq_"))
    assert bench.total("received") == sum(bench._offsets[topic, lane] for topic, lane in bench._offsets if topic != "risk.regime.v1")
    assert bench.total("dlq") == len(bench.values["dlq.canary"])
    assert bench.total("activities") == len(bench.values[ACTIVITY_TOPIC]) - sum(
        1 for value in bench.values[ACTIVITY_TOPIC] if json.loads(value)["sender"] != "agent.canary"
    )
    seqs: dict[tuple[str, str, str], list[int]] = {}
    last: dict[tuple[str, str, str], str] = {}
    for alert in bench.alerts:
        stream = (alert["account"], alert["mode"], alert["result"]["policy"])
        seqs.setdefault(stream, []).append(alert["seq"])
        key = alert["result"]["fingerprint"]["key"]
        assert alert["reason"] == ("first" if stream not in last else "heartbeat" if last[stream] == key else "changed")
        last[stream] = key
    for numbers in seqs.values():
        assert numbers == list(range(1, len(numbers) + 1))
    assert bench.total("alerts_first") == len(seqs)


def test_at_rest_nothing_is_missed_every_account_is_as_last_said() -> None:
    bench = Bench(lanes=2, profiles=(DEFAULT, GUARDED))
    story(bench, 80, 11, lambda step: None)
    for _ in range(200):
        bench.tick(0.025)
    told = {(a["account"], a["mode"], a["result"]["policy"]): a["result"]["fingerprint"]["key"] for a in bench.alerts}
    for lane in bench.lanes:
        accounts = lane.ledger.accounts.rows
        which = np.flatnonzero(accounts["live"])
        for profile, policy in bench.policies.items():
            scene = canary.Scene(bench.board._regimes.get(profile), policy, bench.now_ns)
            verdicts = canary.verdicts(len(which))
            canary.evaluate_rows(accounts, which, scene, verdicts)
            for verdict in verdicts:
                row = accounts[int(verdict["row"])]
                name, mode = text_of(row, "name"), ("live", "paper")[int(row["mode"])]
                assert told[name, mode, profile] == canary.render(row, verdict, scene).fingerprint.key


def test_a_commit_costs_what_changed() -> None:
    bench = Bench()
    bench.market()
    bench.feed(ACCOUNT_TOPIC, *(bench.account(f"U{n}") for n in range(3_000)))
    for _ in range(5):
        bench.tick(0.025)
    before = bench.total("evaluations")
    bench.feed(ACCOUNT_TOPIC, bench.account("U7", as_of_ns=bench.now_ns + 1, daily_pnl="3"))
    bench.tick()
    assert bench.total("evaluations") == before + 1
    whole = sum(table.rows.nbytes for table in bench.lanes[0].ledger.tables.values())
    assert len(bench.logs[0][-1][1]) < whole / 50
    captures = len(bench.logs[0])
    for _ in range(10):
        bench.tick(0.025)
    assert len(bench.logs[0]) == captures


def test_profiles_come_and_go_and_what_was_published_under_them_is_remembered() -> None:
    bench = Bench(profiles=(DEFAULT,))
    seen(bench, "U1")
    other = Bench(profiles=(GUARDED,))
    other.now_ns = bench.now_ns
    other.market()
    other.lanes[0].restore(bench.logs[0])
    other.tick()
    assert [(a["result"]["policy"], a["reason"], a["seq"]) for a in other.alerts] == [(GUARDED, "first", 1)]
    assert len(other.lanes[0].ledger.streams) == 2


def test_memory_of_what_was_published_is_not_the_profile_order() -> None:
    bench = Bench(profiles=(DEFAULT, GUARDED))
    seen(bench, "U1")
    other = Bench(profiles=(GUARDED, DEFAULT))
    other.now_ns = bench.now_ns
    other.market()
    other.lanes[0].restore(bench.logs[0])
    other.tick()
    assert other.alerts == []
