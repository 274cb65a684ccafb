"""The scripted crash: valid messages, the same bytes for the same seed, and a story that goes through the levels it promises, whatever the seed."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import UTC, date, datetime
from functools import lru_cache
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from connectors.simulator import crash
from connectors.simulator.crash import ACCOUNT, ACCOUNTS, INDICATOR, POSITION, Crash, Record, Scenario, Timeline
from operators.breadth import pct_above_mean
from operators.gamma import gamma_of
from schemas.canary import INDICATORS, AccountState, AccountStateMessage, Indicator, IndicatorMessage, PositionState, PositionStateMessage
from schemas.parse import parse
from schemas.registry import TOPICS

MODELS: dict[str, Any] = {INDICATOR: IndicatorMessage, ACCOUNT: AccountStateMessage, POSITION: PositionStateMessage}
COARSE = Scenario(step_s=300, calm_step_s=600, chain_s=1800, members=40, history=260)
NEW_YORK = ZoneInfo("America/New_York")


def coarse(seed: int) -> Scenario:
    return Scenario(seed, step_s=300, calm_step_s=600, chain_s=1800, members=40)


@lru_cache(maxsize=4)
def told(scenario: Scenario = COARSE) -> list[tuple[Record, Any]]:
    """Return every record with its payload; fails on one that is not valid."""
    found = []
    for record in Crash(scenario).records():
        message = parse(MODELS[record.topic], record.value)
        assert not isinstance(message, tuple), message
        assert message.ts_ns == record.t_ns
        assert message.type == record.topic
        found.append((record, message.payload))
    return found


def indicators(scenario: Scenario = COARSE) -> Iterator[tuple[Record, Indicator]]:
    return ((record, payload) for record, payload in told(scenario) if record.topic == INDICATOR)


def hour(t_ns: int) -> str:
    return f"{datetime.fromtimestamp(t_ns / 1e9, UTC).astimezone(NEW_YORK):%a %H:%M}"


def test_records_are_valid_in_order_and_keyed() -> None:
    story = Crash(COARSE)
    last = story.start_ns
    ids = set()
    for record, payload in told():
        assert record.t_ns >= last
        last = record.t_ns
        assert record.key.decode() == (payload.indicator if record.topic == INDICATOR else payload.account)
        assert payload.as_of_ns <= record.t_ns
        assert len(record.value) < TOPICS[record.topic].max_message_bytes
        ids.add(record.value[11:47])
    assert last == story.end_ns
    assert len(ids) == len(told())
    assert {payload.indicator for _, payload in indicators()} == set(INDICATORS)
    assert {(p.account, p.mode) for r, p in told() if r.topic == ACCOUNT} == {
        (a, "paper" if a == crash.PAPER else "live") for a in ACCOUNTS
    }


def digest(scenario: Scenario) -> str:
    whole = hashlib.sha256()
    for record in Crash(scenario).records():
        whole.update(record.topic.encode() + record.key + record.value + record.t_ns.to_bytes(8, "big"))
    return whole.hexdigest()


def test_the_same_seed_gives_the_same_bytes() -> None:
    assert digest(COARSE) == digest(Scenario(step_s=300, calm_step_s=600, chain_s=1800, members=40))
    assert digest(COARSE) != digest(coarse(2))
    story = Crash(COARSE)
    assert list(story.records()) == list(story.records())


@pytest.mark.parametrize(
    "wrong", [{"first": date(2026, 3, 10)}, {"step_s": 0}, {"calm_step_s": 601}, {"members": 5}, {"history": 10}, {"chain_s": 0}]
)
def test_scenarios_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="crash: "):
        Scenario(**wrong)


def test_phases_are_in_order() -> None:
    story = Crash()
    times = [phase.t_ns for phase in story.phases()]
    assert times == sorted(set(times))
    assert (times[0], times[-1]) == (story.start_ns, story.end_ns)


def test_what_a_row_needs_is_known_at_the_start() -> None:
    """History for 50-bar means, 52-week highs, 20-observation and 7-day changes; and every indicator once."""
    start = Crash(COARSE).start_ns
    days: dict[str, set[str]] = defaultdict(set)
    for record, payload in indicators():
        if record.t_ns == start and payload.close and payload.as_of_date:
            days[payload.indicator].add(payload.as_of_date)
    least = {
        "spy": 252,
        "hyg": 50,
        "sp500_closes": 50,
        "hy_oas": 21,
        "vvix": 21,
        "usd_jpy": 8,
        "vix": 2,
        "vix3m": 2,
        "cp_3m": 1,
        "tbill_3m": 1,
    }
    assert all(len(days[name]) >= n for name, n in least.items()), {name: len(found) for name, found in days.items()}
    assert all(date.fromisoformat(day).weekday() < 5 for found in days.values() for day in found)


def test_no_observation_is_told_before_its_day_is_over() -> None:
    for record, payload in indicators():
        if payload.close and payload.as_of_date and payload.indicator != "session":
            assert payload.as_of_date <= f"{datetime.fromtimestamp(record.t_ns / 1e9, UTC).astimezone(NEW_YORK):%Y-%m-%d}"


def changes(name: str, scenario: Scenario) -> list[tuple[int, float]]:
    return [
        (record.t_ns, (payload.value / payload.prev_close - 1) * 100)
        for record, payload in indicators(scenario)
        if payload.indicator == name and payload.value is not None and payload.prev_close
    ]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_index_falls_by_4_percent_and_the_vix_rises_by_40(seed: int) -> None:
    spy, vix = changes("spy", coarse(seed)), changes("vix", coarse(seed))
    assert -4.3 < min(change for _, change in spy) <= -4.0
    assert 40.0 <= max(change for _, change in vix) < 44.0
    day = [x for t, x in spy if hour(t).startswith("Tue")]
    assert -4.1 < day[-1] < -3.9
    later = [x for name in ("Wed", "Thu", "Fri") for t, x in spy if hour(t).startswith(name)]
    assert 0 < min(later) < max(later) < 1.5, "a rally of its own would be another story"
    assert min(x for t, x in vix if not hour(t).startswith("Tue")) > -10


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_dealers_are_long_in_calm_and_short_in_the_crash(seed: int) -> None:
    gaps: dict[str, list[tuple[int, float, int]]] = defaultdict(list)
    for record, payload in indicators(coarse(seed)):
        if payload.chain is not None:
            found = gamma_of(payload.chain, payload.as_of_ns or 0)
            assert (found.status, found.rankability) == ("ready", "rankable")
            gaps[payload.indicator].append((record.t_ns, found.gap_pct, found.sign))
    for series in gaps.values():
        times = {hour(t): (gap, sign) for t, gap, sign in series}
        assert times["Mon 16:10"][0] > 3
        assert times["Mon 16:10"][1] == 1
        assert times["Tue 09:30"][0] > 2
        assert -2 < times["Tue 10:30"][0] < 2
        assert all(gap < -2 and sign == -1 for at, (gap, sign) in times.items() if at.startswith("Tue") and at >= "Tue 12:30")
        assert times["Fri 16:10"][0] > 2
    assert set(gaps) == {"spx_options", "spy_options"}


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_breadth_goes_from_green_to_red_and_back(seed: int) -> None:
    days: dict[str, dict[str, float]] = {}
    for _, payload in indicators(coarse(seed)):
        if payload.closes is not None:
            days[payload.as_of_date or ""] = {member.symbol: member.close for member in payload.closes}
    names = sorted({name for closes in days.values() for name in closes})
    found = []
    for n in range(len(days) - 5, len(days)):
        table = np.array([[closes.get(name, np.nan) for closes in list(days.values())[: n + 1]] for name in names])
        pct, counted = pct_above_mean(table, 50)
        assert counted >= 0.9 * len(names)
        found.append(pct)
    assert found[0] > 60
    assert max(found[1], found[2]) < 40
    assert found[4] > 57


def last_before(states: list[AccountState], t_ns: int) -> AccountState:
    return [s for s in states if (s.as_of_ns or 0) <= t_ns][-1]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_stressed_accounts_cushion_goes_through_20_and_10_and_back(seed: int) -> None:
    states = [p for r, p in told(coarse(seed)) if r.topic == ACCOUNT and p.account == crash.STRESSED]
    bands = []
    for s in states:
        cushion = 100 * float(s.excess_liquidity) / float(s.net_liquidation)
        assert cushion == pytest.approx(100 * float(s.cushion), abs=0.01)
        band = sum(cushion < level for level in (35, 20, 10))
        if not bands or bands[-1] != band:
            bands.append(band)
    assert bands in ([0, 1, 2, 3, 2, 1, 0], [0, 1, 3, 2, 1, 0]), "the coarse steps may jump over one on the way down"
    assert {p.account for r, p in told(coarse(seed)) if r.topic == ACCOUNT and float(p.cushion) < 0.35} == {crash.STRESSED}
    under = next(s.as_of_ns for s in states if float(s.cushion) < 0.10)
    assert all(t >= under for t, x in changes("vix", coarse(seed)) if x >= 20), "a panic of the market would come before the margin's stage"
    assert all(t >= under for t, x in changes("spy", coarse(seed)) if x <= -4)


def test_accounts_are_calm_in_a_calm_market() -> None:
    """Within every limit of canary-default on the calm day and on the last evening, so that what happens between is the crash."""
    for when in (Crash(COARSE).start_ns, Crash(COARSE).end_ns):
        states = {p.account: p for r, p in told() if r.topic == ACCOUNT and r.t_ns == when}
        held = {p.account: p for r, p in told() if r.topic == POSITION and r.t_ns == when}
        assert set(states) == set(held) == set(ACCOUNTS)
        for account, state in states.items():
            net = float(state.net_liquidation)
            book: PositionState = held[account]
            assert book.portfolio is not None
            assert float(state.cushion) > 0.35
            assert float(state.gross_position_value) / net < 1.4
            assert abs(float(book.portfolio.dollar_delta_base or 0)) / net < 1.2
            assert sum(abs(float(row.dollar_delta_base or 0)) for row in book.portfolio.exposure_base) / net < 1.4
            assert all(abs(row.market_value_pct_nlv or 0) < 33 for row in book.portfolio.exposure_base)
            assert abs(float(state.daily_pnl or 0)) / net < 0.03
            assert book.portfolio.greeks_coverage == book.portfolio.greeks_total == len(book.options or ())


def test_what_is_missing_is_missing_for_a_while() -> None:
    states = [p for r, p in told() if r.topic == ACCOUNT and p.account == crash.PARTIAL]
    assert Counter(s.daily_pnl is None for s in states)[True] > 0
    assert states[-1].daily_pnl is not None
    assert {s.gross_position_value is None for s in states} == {True, False}
    books = [p for r, p in told() if r.topic == POSITION and p.account == crash.PARTIAL]
    assert {b.portfolio is None for b in books} == {True, False}
    assert len(books) < len(states)
    legs = [p.portfolio for r, p in told() if r.topic == POSITION and p.account == crash.SHORT_VOL]
    assert {p.greeks_coverage for p in legs} == {6, 10}
    assert all(p.gamma < 0 for p in legs)


def test_the_stressed_account_sells_and_loses_what_its_delta_says() -> None:
    states = [p for r, p in told() if r.topic == ACCOUNT and p.account == crash.STRESSED]
    grosses = [float(s.gross_position_value) for s in states]
    assert grosses[-1] < 0.6 * grosses[0]
    low = min(float(s.net_liquidation) for s in states)
    assert 0.93 < low / float(states[0].net_liquidation) < 0.97
    for s in states:  # a day's profit is the change since the evening before
        evening = [t for t in states if hour(t.as_of_ns)[:3] != hour(s.as_of_ns)[:3] and t.as_of_ns < s.as_of_ns]
        if evening:
            assert float(s.daily_pnl) == pytest.approx(float(s.net_liquidation) - float(evening[-1].net_liquidation), abs=0.02)


@pytest.mark.parametrize("seconds", [1.0, 30.0, 3600.0])
def test_a_timeline_goes_both_ways(seconds: float) -> None:
    story, line = Crash(COARSE), Timeline(COARSE, seconds)
    times = [record.t_ns for record, _ in told()]
    offsets = [line.offset_s(t) for t in times]
    assert offsets == sorted(offsets)
    assert (offsets[0], offsets[-1]) == (0.0, pytest.approx(seconds))
    assert all(abs(line.market_ns(offset) - t) <= 100_000 for t, offset in zip(times, offsets, strict=True))
    assert line.market_ns(-5.0) == line.market_ns(0.0) == story.start_ns
    assert line.market_ns(seconds + 2.0) == pytest.approx(story.end_ns + 2 * crash.SECOND, abs=100, rel=0)
    assert line.offset_s(story.end_ns + crash.SECOND) == pytest.approx(seconds + 1.0)
    gaps = [b - a for a, b in pairwise(offsets) if b > a]
    assert max(gaps) < 0.05 * seconds, "no part of the story is a long silence"


def test_a_timeline_takes_a_second_at_least() -> None:
    with pytest.raises(ValueError, match="a second or more"):
        Timeline(COARSE, 0.5)
