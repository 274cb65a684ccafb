"""A scripted crash: what the regime flow and the canary read while a market falls by 4 % within a day and recovers over the three that follow. Market time.

Every row of the dashboard is fed, with the history its means and highs need; six accounts live through it, one of them with too little margin. Seeded: the
same scenario gives the same bytes; the seed moves levels a little, never the story. May not decide anything: no band, stage or gap is computed here.
Weekdays are sessions, without holidays. Numbers are made up, orders of magnitude are not.
"""

from __future__ import annotations

import hashlib
import heapq
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from itertools import count, pairwise
from random import Random
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from connectors.simulator.messages import json_bytes

INDICATOR, ACCOUNT, POSITION = "market.indicator.v1", "portfolio.state.account.v1", "portfolio.state.position.v1"
TOPICS = (INDICATOR, ACCOUNT, POSITION)
SECOND = 1_000_000_000
_NEW_YORK = ZoneInfo("America/New_York")
_OPEN, _CLOSE = time(9, 30), time(16, 0)
_DAY_MINUTES = 390
_AFTER, _OFFICIAL = 10, 5
"""Minutes after the close at which the day's official figures are told, and of which they are."""

STRESSED, DIVERSIFIED, OPTIONS, SHORT_VOL, PARTIAL, PAPER = "LEVERED-1", "BALANCED-1", "OVERLAY-1", "CONVEX-1", "PARTIAL-1", "BALANCED-2"
ACCOUNTS = (STRESSED, DIVERSIFIED, OPTIONS, SHORT_VOL, PARTIAL, PAPER)
"""Short of margin in the crash; spread over many names; stocks with puts bought against them; puts sold, and greeks that fail in the crash;
figures missing; a paper account."""


class Record(NamedTuple):
    """One message: when it is sent, in market time, and what."""

    t_ns: int
    topic: str
    key: bytes
    value: bytes


@dataclass(frozen=True)
class Scenario:
    """What can be chosen. Raises ValueError naming what does not fit.

    first: the calm day, a Monday: the story is Monday's close to Friday's evening, without a weekend in it. step_s: seconds between the messages of
    an account or a quoted index on the day of the crash, calm_step_s: on the other days; chain_s: between option chains. members: of the index.
    """

    seed: int = 1
    first: date = date(2026, 3, 9)
    step_s: int = 120
    calm_step_s: int = 300
    chain_s: int = 600
    members: int = 60
    history: int = 260

    def __post_init__(self) -> None:
        problems = []
        if self.first.weekday() != 0:
            problems.append(f"first must be a Monday, not {self.first:%A}")
        if min(self.step_s, self.calm_step_s, self.chain_s) < 1 or max(self.step_s, self.calm_step_s) > 600:
            problems.append("step_s and calm_step_s must be 1 to 600, chain_s 1 or more: older snapshots are stale")
        if not 10 <= self.members <= 500:
            problems.append("members must be 10 to 500")
        if not 60 <= self.history <= 1_000:
            problems.append("history must be 60 to 1000 sessions")
        if problems:
            raise ValueError("crash: " + "; ".join(problems))


class Phase(NamedTuple):
    """A part of the story, and when it begins."""

    t_ns: int
    name: str


Points = Sequence[tuple[float, float]]


class _Day(NamedTuple):
    """How a session goes: (minutes after the open, value) of the day changes in percent; official figures of the day."""

    spy: Points
    vix: Points
    hyg: float
    yen: float
    vvix: float
    hy_oas: float
    cp: float


# Levels are kept away from the edges of the rules while they stand still, and cross them at once when they move.
_DAYS = (
    _Day(((0, 0.05), (390, 0.10)), ((0, -0.5), (390, -1.0)), 80.60, 157.0, 86.0, 2.90, 4.35),
    _Day(
        ((0, -0.10), (25, -0.70), (40, -1.70), (60, -2.10), (70, -2.75), (94, -3.10), (110, -3.35), (150, -3.80), (210, -4.20), (270, -3.70), (390, -4.00)),
        ((0, 1.0), (25, 5.0), (40, 11.5), (60, 13.5), (70, 16.0), (94, 18.5), (110, 24.0), (150, 34.0), (210, 42.0), (270, 36.0), (390, 40.0)),
        79.85, 154.3, 121.0, 3.25, 4.38,
    ),
    _Day(((0, 0.40), (120, 1.00), (390, 1.30)), ((0, -2.0), (120, -6.0), (390, -9.0)), 80.30, 154.9, 107.0, 3.45, 4.39),
    _Day(((0, 0.30), (390, 1.20)), ((0, -3.0), (390, -9.0)), 80.55, 155.9, 96.0, 3.25, 4.37),
    _Day(((0, 0.40), (390, 0.90)), ((0, -3.0), (390, -8.5)), 80.75, 156.40, 88.0, 3.00, 4.35),
)  # fmt: skip
_CRASH = 1
_PUTS_BOUGHT = 1.5
"""Open interest in puts gained per 100 % of rise of the VIX, as estimates within the day have it."""
_CUT = 270.0
"""Minutes into the crash at which the account without margin begins to sell."""
_CUSHION: Points = (
    (0, 0.395), (390, 0.395), (400, 0.390), (415, 0.370), (440, 0.340), (460, 0.290), (468, 0.230), (474, 0.185), (482, 0.088), (540, 0.058),
    (390 + _CUT, 0.055), (780, 0.078), (900, 0.090), (940, 0.105), (1050, 0.185), (1080, 0.215), (1170, 0.250), (1180, 0.270), (1560, 0.330),
    (1600, 0.372), (1950, 0.400),
)  # fmt: skip
"""Margin cushion of the stressed account by minutes of session since the open of the calm day."""
_SIZE: Points = ((0, 1.0), (390 + _CUT, 1.0), (780, 0.85), (900, 0.80), (1080, 0.60), (1560, 0.50), (1950, 0.50))
"""What it still holds, as a share of what it held."""


def _at(points: Points, x: float) -> float:
    """Return the value at x of a line through points, flat beyond its ends."""
    if x <= points[0][0]:
        return points[0][1]
    for (x0, y0), (x1, y1) in pairwise(points):
        if x <= x1:
            return y0 + (y1 - y0) * (x - x0) / (x1 - x0)
    return points[-1][1]


def _moment(day: date, at: time, minutes: float = 0.0) -> int:
    """Return a New York time of a day, and minutes later, as nanoseconds."""
    return int(datetime.combine(day, at, _NEW_YORK).timestamp()) * SECOND + int(minutes * 60) * SECOND


def _sessions_before(day: date, n: int) -> list[date]:
    """Return the n weekdays before a day, oldest first."""
    found: list[date] = []
    while len(found) < n:
        day -= timedelta(1)
        if day.weekday() < 5:
            found.append(day)
    return found[::-1]


def _money(value: float) -> str:
    return f"{value:.2f}"


class Crash:
    """One run of the story. `records` can be read again and again, and is the same every time."""

    def __init__(self, scenario: Scenario | None = None) -> None:
        self.scenario = scenario or Scenario()
        s = self.scenario
        self._run = hashlib.sha256(f"crash|{s.seed}|{s.first}|{s.step_s}|{s.calm_step_s}".encode()).hexdigest()[:8]
        self.days = [s.first + timedelta(n) for n in range(len(_DAYS))]
        rng = Random(f"{s.seed}|levels")
        self._spy0, self._spx_ratio = 690.0 * rng.uniform(0.97, 1.03), 10.03
        self._vix0 = rng.uniform(14.0, 14.5)
        self._days = [self._moved(day, rng) for day in _DAYS]
        self._spy_closes = [self._spy0]
        self._vix_closes = [self._vix0]
        for day in self._days:
            self._spy_closes.append(self._spy_closes[-1] * (1 + day.spy[-1][1] / 100))
            self._vix_closes.append(self._vix_closes[-1] * (1 + day.vix[-1][1] / 100))
        self._anchor = self._spy_closes[1]
        """What strikes and open interest are laid around: the close of the calm day."""
        self._loads = [rng.uniform(0.8, 1.2) for _ in range(s.members)]
        self._closes = self._members()
        self._interest = {root: self._open_interest(root, rng) for root in ("spy", "spx")}
        self._shares = {account: rng.uniform(0.995, 1.005) for account in ACCOUNTS}

    @staticmethod
    def _moved(day: _Day, rng: Random) -> _Day:
        """Move every level of a day a little, so that seeds differ."""
        spy = [(x, y * rng.uniform(0.99, 1.01)) for x, y in day.spy]
        vix = [(x, y * rng.uniform(0.99, 1.01)) for x, y in day.vix]
        return day._replace(spy=spy, vix=vix)

    # --- the story ------------------------------------------------------------------------------------------------------------------

    @property
    def start_ns(self) -> int:
        """When the first message is sent: after the close of the calm day."""
        return _moment(self.days[0], _CLOSE, _AFTER)

    @property
    def end_ns(self) -> int:
        """When the last message is sent."""
        return _moment(self.days[-1], _CLOSE, _AFTER)

    def phases(self) -> list[Phase]:
        """Return the parts of the story in order."""
        crash = self.days[_CRASH]
        return [
            Phase(self.start_ns, "calm"),
            Phase(_moment(crash, _OPEN, 25), "falling"),
            Phase(_moment(crash, _OPEN, 70), "sell-off"),
            Phase(_moment(crash, _OPEN, 97), "margin below 10 %"),
            Phase(_moment(crash, _OPEN, _CUT), "positions are cut"),
            *(Phase(_moment(day, _OPEN), f"recovery, day {n}") for n, day in enumerate(self.days[_CRASH + 1 :], 1)),
            Phase(self.end_ns, "over"),
        ]

    def records(self) -> Iterator[Record]:
        """Return every message in order of time: the history first, at the start."""
        number = count(1)
        pending: list[tuple[int, int, str, str, dict[str, Any]]] = []
        streams: Iterable[Iterator[tuple[int, str, str, dict[str, Any]]]] = (self._history(), self._sessions())
        for stream in streams:
            for t_ns, topic, key, payload in stream:
                heapq.heappush(pending, (t_ns, next(number), topic, key, payload))
                while pending and pending[0][0] < t_ns:
                    yield self._record(heapq.heappop(pending))
        while pending:
            yield self._record(heapq.heappop(pending))

    def _record(self, item: tuple[int, int, str, str, dict[str, Any]]) -> Record:
        t_ns, number, topic, key, payload = item
        sender = "marketdata" if topic == INDICATOR else "portfolio"
        return Record(t_ns, topic, key.encode(), json_bytes(topic, f"{self._run}-{number}", t_ns, sender, payload))

    # --- market ---------------------------------------------------------------------------------------------------------------------

    def spy(self, day: int, minutes: float) -> float:
        """Return SPY at a time of a day of the story."""
        return self._spy_closes[day] * (1 + _at(self._days[day].spy, minutes) / 100)

    def vix(self, day: int, minutes: float) -> float:
        """Return the VIX at a time of a day of the story."""
        return self._vix_closes[day] * (1 + _at(self._days[day].vix, minutes) / 100)

    def _vix3m(self, vix: float) -> float:
        """Three months move by three tenths of what one month does."""
        return 1.21 * self._vix0 * (1 + 0.3 * (vix / self._vix0 - 1))

    def _daily(
        self, name: str, day: date, value: float, at: time = _CLOSE, minutes: float = 0.0, **more: Any
    ) -> tuple[str, dict[str, Any]]:
        payload = {"indicator": name, "source": "simulated", "status": "ok", "as_of_ns": _moment(day, at, minutes), "as_of_date": day.isoformat(),
                   "close": True, "value": round(value, 4), **more}  # fmt: skip
        return name, payload

    def _now(self, name: str, day: int, t_ns: int, value: float, prev: float) -> tuple[str, dict[str, Any]]:
        payload = {"indicator": name, "source": "simulated", "status": "ok", "as_of_ns": t_ns, "as_of_date": self.days[day].isoformat(),
                   "close": False, "value": round(value, 4), "prev_close": round(prev, 4)}  # fmt: skip
        return name, payload

    def _members(self) -> dict[date, list[float]]:
        """Return the closes of the index's members on the last 60 days before the story and on its days."""
        s = self.scenario
        past = _sessions_before(self.days[0], 60)
        closes: dict[date, list[float]] = {}
        rngs = [Random(f"{s.seed}|member|{n}") for n in range(s.members)]
        prices = [rng.uniform(40, 400) for rng in rngs]
        for day in past:
            prices = [p * (1 + 0.0006 + rng.gauss(0, 0.0035)) for p, rng in zip(prices, rngs, strict=True)]
            closes[day] = prices
        for n, day in enumerate(self.days):
            move = self._days[n].spy[-1][1] / 100
            prices = [p * (1 + load * move + rng.gauss(0, 0.0035)) for p, load, rng in zip(prices, self._loads, rngs, strict=True)]
            closes[day] = prices
        return closes

    def _closes_of(self, day: date) -> tuple[str, dict[str, Any]]:
        """Return a day's closes; a member here and there is missing on some days, as feeds have it, never on two in a row."""
        gaps = day.toordinal() % 2 * (day.toordinal() % 7 + 1)
        listed = [
            {"symbol": f"M{n:03d}", "close": round(price, 2)} for n, price in enumerate(self._closes[day]) if not gaps or n % 20 != gaps
        ]
        _, payload = self._daily("sp500_closes", day, 0.0)
        return "sp500_closes", {**payload, "value": None, "closes": listed}

    def _history(self) -> Iterator[tuple[int, str, str, dict[str, Any]]]:
        """What was before: daily closes up to and with the calm day, all sent at the start."""
        s, t_ns = self.scenario, self.start_ns
        rng = Random(f"{s.seed}|history")
        past = _sessions_before(self.days[0], s.history)
        drift = 0.0004
        for n, day in enumerate(past):
            left = len(past) - 1 - n  # sessions to the last one before the story
            wave = 1 + 0.0015 * math.sin(n / 5) * min(1.0, left / 10)
            spy = self._spy0 * math.exp(-drift * left) * wave
            hyg = 80.55 - 0.027 * left + rng.uniform(-0.02, 0.02)
            yield t_ns, INDICATOR, *self._daily("spy", day, spy)
            if left >= 70:
                continue
            vix = self._vix0 * (1 + 0.03 * math.sin(n / 3) * min(1.0, left / 3))
            yield t_ns, INDICATOR, *self._daily("hyg", day, hyg)
            yield t_ns, INDICATOR, *self._daily("vix", day, vix, minutes=_OFFICIAL)
            yield t_ns, INDICATOR, *self._daily("vix3m", day, self._vix3m(vix), minutes=_OFFICIAL)
            yield t_ns, INDICATOR, *self._daily("vvix", day, 85 + 2 * math.sin(n / 4), minutes=_OFFICIAL)
            yield t_ns, INDICATOR, *self._daily("usd_jpy", day, 156.8 + 0.4 * math.sin(n / 6), time(17, 0))
            yield t_ns, INDICATOR, *self._daily("hy_oas", day, 2.90 + 0.05 * math.sin(n / 7))
            yield t_ns, INDICATOR, *self._daily("ig_oas", day, 0.85 + 0.01 * math.sin(n / 7))
            yield t_ns, INDICATOR, *self._daily("cp_3m", day, 4.35)
            yield t_ns, INDICATOR, *self._daily("tbill_3m", day, 4.20)
            if day in self._closes:
                yield t_ns, INDICATOR, *self._closes_of(day)
        yield from self._evening(0)

    def _sessions(self) -> Iterator[tuple[int, str, str, dict[str, Any]]]:
        """The days of the story, from the open to the evening; the calm one is history."""
        for day in range(_CRASH, len(self.days)):
            step = self.scenario.step_s if day == _CRASH else self.scenario.calm_step_s
            chains = -1
            for second in range(0, _DAY_MINUTES * 60, step):
                minutes, t_ns = second / 60, _moment(self.days[day], _OPEN) + second * SECOND
                if second // self.scenario.chain_s > chains:
                    chains = second // self.scenario.chain_s
                    for root in ("spx", "spy"):
                        yield t_ns, INDICATOR, *self._chain(root, day, minutes, t_ns)
                yield from self._quotes(day, minutes, t_ns)
                if second == 0:
                    yield from self._morning(day, t_ns)
                yield from self._accounts(day, minutes, t_ns)
            yield from self._evening(day)

    def _quotes(self, day: int, minutes: float, t_ns: int) -> Iterator[tuple[int, str, str, dict[str, Any]]]:
        """What is quoted all day. The slow legs of a ratio come before the fast ones."""
        vix, today, before = self.vix(day, minutes), self._days[day], self._days[day - 1]
        done = minutes / _DAY_MINUTES
        fall = _at(today.spy, minutes) / today.spy[-1][1]  # credit and the yen go with the index
        yield t_ns, INDICATOR, *self._now("vix3m", day, t_ns, self._vix3m(vix), self._vix3m(self._vix_closes[day]))
        yield t_ns, INDICATOR, *self._now("vix", day, t_ns, vix, self._vix_closes[day])
        yield t_ns, INDICATOR, *self._now("hyg", day, t_ns, before.hyg + (today.hyg - before.hyg) * fall, before.hyg)
        yield (
            t_ns,
            INDICATOR,
            *self._now("usd_jpy", day, t_ns, before.yen + (today.yen - before.yen) * max(done, min(1.0, fall)), before.yen),
        )
        yield t_ns, INDICATOR, *self._now("spy", day, t_ns, self.spy(day, minutes), self._spy_closes[day])

    def _morning(self, day: int, t_ns: int) -> Iterator[tuple[int, str, str, dict[str, Any]]]:
        """What is known at the open: that there is a session, and the figures of the day before that are published overnight."""
        before, figures = self.days[day - 1], self._days[day - 1]
        session = {
            "indicator": "session",
            "source": "simulated",
            "status": "ok",
            "as_of_ns": t_ns,
            "as_of_date": self.days[day].isoformat(),
            "open": True,
        }
        yield t_ns, INDICATOR, "session", session
        yield t_ns, INDICATOR, *self._daily("hy_oas", before, figures.hy_oas)
        yield t_ns, INDICATOR, *self._daily("ig_oas", before, 0.85 + (figures.hy_oas - 2.9) / 5)
        yield t_ns, INDICATOR, *self._daily("cp_3m", before, figures.cp)
        yield t_ns, INDICATOR, *self._daily("tbill_3m", before, 4.20)

    def _evening(self, day: int) -> Iterator[tuple[int, str, str, dict[str, Any]]]:
        """The official figures of a day, a little after the close, and the accounts as they are then."""
        today, t_ns, figures = self.days[day], _moment(self.days[day], _CLOSE, _AFTER), self._days[day]
        before = self._days[day - 1] if day else None
        vix = self._vix_closes[day + 1]
        if day == 0:
            session = {
                "indicator": "session",
                "source": "simulated",
                "status": "ok",
                "as_of_ns": t_ns,
                "as_of_date": today.isoformat(),
                "open": True,
            }
            yield t_ns, INDICATOR, "session", session
        for root in ("spx", "spy"):
            yield t_ns, INDICATOR, *self._chain(root, day, _DAY_MINUTES, t_ns)
        yield (
            t_ns,
            INDICATOR,
            *self._daily("vix3m", today, self._vix3m(vix), minutes=_OFFICIAL, prev_close=round(self._vix3m(self._vix_closes[day]), 4)),
        )
        yield t_ns, INDICATOR, *self._daily("vix", today, vix, minutes=_OFFICIAL, prev_close=round(self._vix_closes[day], 4))
        yield t_ns, INDICATOR, *self._daily("vvix", today, figures.vvix, minutes=_OFFICIAL)
        yield t_ns, INDICATOR, *self._daily("hyg", today, figures.hyg, prev_close=before.hyg if before else None)
        yield t_ns, INDICATOR, *self._daily("usd_jpy", today, figures.yen, prev_close=before.yen if before else None)
        yield t_ns, INDICATOR, *self._daily("spy", today, self._spy_closes[day + 1], prev_close=round(self._spy_closes[day], 4))
        yield t_ns, INDICATOR, *self._closes_of(today)
        yield from self._accounts(day, _DAY_MINUTES, t_ns)

    # --- option chains --------------------------------------------------------------------------------------------------------------

    def _expiries(self) -> list[date]:
        """Return the Fridays listed: this week's and the next, and those 3, 5, 9 and 13 weeks later."""
        friday = self.days[0] + timedelta(4)
        return [friday + timedelta(weeks=n) for n in (0, 1, 3, 5, 9, 13)]

    def _open_interest(self, root: str, rng: Random) -> list[tuple[date, float, str, int]]:
        """Return (expiry, strike, right, contracts) of a root: puts below the calm day's close, calls around it, more puts than calls."""
        ratio, step, most = (self._spx_ratio, 50.0, 9_000) if root == "spx" else (1.0, 5.0, 30_000)
        anchor, listed = self._anchor * ratio, []
        first = math.ceil(anchor * 0.84 / step)
        for expiry in self._expiries():
            for k in range(first, int(anchor * 1.08 / step) + 1):
                strike = k * step
                x = math.log(strike / anchor)
                for right, centre, width, share in (("C", -0.017, 0.030, 1.0), ("P", -0.073, 0.034, 1.25)):
                    contracts = int(most * share * math.exp(-0.5 * ((x - centre) / width) ** 2) * rng.uniform(0.9, 1.1))
                    if contracts >= 10:
                        listed.append((expiry, strike, right, contracts))
        return listed

    def _chain(self, root: str, day: int, minutes: float, t_ns: int) -> tuple[str, dict[str, Any]]:
        """Return an index's options at a time: volatilities from the VIX and a skew, open interest of the calm day and what is bought in fear."""
        spot = self.spy(day, minutes) * (self._spx_ratio if root == "spx" else 1.0)
        vix = self.vix(day, minutes)
        near, far = vix / 100, self._vix3m(vix) / 100
        today = self.days[day]
        fear = 1 + _PUTS_BOUGHT * max(0.0, vix / self._vix0 - 1)
        options = []
        for expiry, strike, right, contracts in self._interest[root]:
            days = (expiry - today).days
            weight = min(1.0, max(0.0, (days - 30) / 60))
            level = math.sqrt((1 - weight) * near**2 + weight * far**2) * 0.92
            skew = 1 - 2.2 * max(-0.2, min(0.1, math.log(strike / spot)))
            quote = {"expiry": expiry.isoformat(), "strike": strike, "right": right,
                     "open_interest": int(contracts * fear) if right == "P" else contracts, "iv": round(level * skew, 4)}  # fmt: skip
            options.append(quote)
        chain = {"spot": round(spot, 2), "rate": 0.041, "dividend_yield": 0.012, "options": options}
        payload = {"indicator": f"{root}_options", "source": "simulated", "status": "ok", "as_of_ns": t_ns, "as_of_date": today.isoformat(),
                   "close": minutes >= _DAY_MINUTES, "chain": chain}  # fmt: skip
        return f"{root}_options", payload

    # --- accounts -------------------------------------------------------------------------------------------------------------------

    def _accounts(self, day: int, minutes: float, t_ns: int) -> Iterator[tuple[int, str, str, dict[str, Any]]]:
        for account in ACCOUNTS:
            for topic, payload in self._snapshots(account, day, minutes, t_ns):
                yield t_ns, topic, account, payload

    def _snapshots(self, account: str, day: int, minutes: float, t_ns: int) -> Iterator[tuple[str, dict[str, Any]]]:
        """Return an account's state and its positions, as far as they are known at that time."""
        setup = _SETUPS[account]
        clock = day * _DAY_MINUTES + minutes
        size = _at(_SIZE, clock) if account == STRESSED else 1.0
        base = setup.net_liquidation * self._shares[account]
        net = self._net(setup, base, day, minutes, account)
        before = self._net(setup, base, day - 1, _DAY_MINUTES, account) if day else base
        index = self.spy(day, minutes) / self._anchor
        names = [(symbol, share * base * size * (1 + load * (index - 1)) / net) for symbol, share, load in setup.names]
        gross = sum(abs(share) for _, share in names) + setup.option_gross * size
        cushion = (
            _at(_CUSHION, clock)
            if account == STRESSED
            else setup.cushion - setup.strain * max(0.0, self.vix(day, minutes) / self._vix0 - 1)
        )
        blind = account == PARTIAL and day == _CRASH and 60 <= minutes < 150
        state: dict[str, Any] = {
            "account": account, "mode": "paper" if account == PAPER else "live", "base_currency": "USD", "account_type": setup.kind,
            "net_liquidation": _money(net), "cushion": f"{cushion:.4f}", "excess_liquidity": _money(net * cushion),
            "available_funds": _money(net * cushion * 0.9), "maintenance_margin": _money(net * (1 - cushion)),
            "initial_margin": _money(net * (1 - 0.9 * cushion)), "look_ahead_excess_liquidity": _money(net * (cushion - 0.002)),
            "look_ahead_available_funds": _money(net * cushion * 0.9), "look_ahead_maint_margin": _money(net * (1.002 - cushion)),
            "look_ahead_init_margin": _money(net * (1 - 0.9 * cushion)), "gross_position_value": _money(net * gross),
            "daily_pnl": None if account == PARTIAL and day == _CRASH else _money(net - before), "as_of_ns": t_ns,
        }  # fmt: skip
        if blind:
            state |= dict.fromkeys(("gross_position_value", *(name for name in state if name.startswith("look_ahead"))))
        yield ACCOUNT, state
        if blind and minutes < 120:
            return  # nothing is heard of its positions for an hour
        yield POSITION, self._positions(account, setup, names, net, size, day, minutes, t_ns, blind)

    def _net(self, setup: _Setup, base: float, day: int, minutes: float, account: str) -> float:
        """Return the net liquidation: what it was, plus what its delta made of the index's moves, at the size held in each."""
        clock, total, last = day * _DAY_MINUTES + minutes, 0.0, 1.0
        marks = [x for x, _ in _SIZE if x < clock] if account == STRESSED else []
        for x in [*marks, clock]:
            d, m = min(int(x // _DAY_MINUTES), day), 0.0
            m = x - d * _DAY_MINUTES
            index = self.spy(d, m) / self._anchor if x > _DAY_MINUTES else 1.0
            total += (index - last) * (_at(_SIZE, x) if account == STRESSED else 1.0)
            last = index
        return base * (1 + setup.delta * total + setup.convexity * (last - 1) ** 2)

    def _positions(
        self,
        account: str,
        setup: _Setup,
        names: list[tuple[str, float]],
        net: float,
        size: float,
        day: int,
        minutes: float,
        t_ns: int,
        blind: bool,
    ) -> dict[str, Any]:
        index = self.spy(day, minutes) / self._anchor
        stocks = [
            {"symbol": symbol, "quantity": str(round(share * net / 100)), "market_value_base": _money(share * net)}
            for symbol, share in names
        ]
        options: list[dict[str, Any]] = []
        for n in range(setup.legs):
            strike = round(self._anchor * (0.90 + 0.015 * n) / 5) * 5
            distance = (index * self._anchor / strike - 1) / 0.06
            delta = -0.5 * math.exp(-0.5 * max(0.0, distance) ** 2) * (1 if distance > 0 else 2 - math.exp(-0.5 * distance**2))
            options.append({
                "symbol": "SPY", "expiry": self._expiries()[2].isoformat(), "strike": str(strike), "right": "P",
                "quantity": str(round(setup.contracts * size)), "multiplier": 100.0, "delta": round(delta, 4),
                "gamma": round(0.02 * math.exp(-0.5 * distance**2), 5), "market_value_base": None,
            })  # fmt: skip
        failing = account == SHORT_VOL and day == _CRASH and 100 <= minutes < 180
        covered = round(setup.legs * 0.6) if failing else setup.legs
        for leg in options[covered:]:
            leg |= {"delta": None, "gamma": None}
        exposure: list[dict[str, Any]] = [
            {"underlying": symbol, "market_value_base": _money(share * net), "market_value_pct_nlv": round(share * 100, 3),
             "dollar_delta_base": _money(share * net * setup.stock_delta), "daily_pnl_base": None} for symbol, share in names
        ]  # fmt: skip
        if setup.legs:
            hedge = setup.option_delta * size * _hedged(net, index)
            exposure.append({"underlying": "SPY", "market_value_base": _money(setup.option_gross * net * size), "market_value_pct_nlv":
                             round(setup.option_gross * size * 100, 3), "dollar_delta_base": _money(hedge), "daily_pnl_base": None})  # fmt: skip
        exposure.sort(key=lambda row: -abs(float(row["market_value_base"])))
        portfolio: dict[str, Any] | None = {
            "dollar_delta_base": _money(sum(float(row["dollar_delta_base"]) for row in exposure)),
            "gamma": round(sum((leg["gamma"] or 0.0) * float(leg["quantity"]) * 100 for leg in options), 3) if options else None,
            "greeks_coverage": covered, "greeks_total": setup.legs, "exposure_base": exposure,
        }  # fmt: skip
        if blind:
            portfolio = None
        mode = "paper" if account == PAPER else "live"
        return {"account": account, "mode": mode, "as_of_ns": t_ns, "stocks": stocks, "options": options, "portfolio": portfolio}


def _hedged(net: float, index: float) -> float:
    """Return what option deltas are shares of: net liquidation, more of it the further the index has fallen."""
    return net * (1 + 2.0 * max(0.0, 1 - index))


@dataclass(frozen=True)
class _Setup:
    """An account as it is on the calm day. Shares are of net liquidation; names: (symbol, share, load on the index).

    delta, convexity: of net liquidation on the index's return and its square. strain: margin cushion lost per 100 % of rise of the VIX.
    option_delta: dollar delta of the options, contracts: of each of `legs` puts, negative sold.
    """

    net_liquidation: float
    names: tuple[tuple[str, float, float], ...]
    cushion: float
    delta: float
    convexity: float = 0.0
    strain: float = 0.0
    legs: int = 0
    contracts: int = 0
    option_delta: float = 0.0
    option_gross: float = 0.0
    stock_delta: float = 1.0
    kind: str = "INDIVIDUAL"


_MANY = tuple((symbol, 0.055, 0.9) for symbol in ("AAPL", "MSFT", "JPM", "XOM", "UNH", "PG", "HD", "CVX", "KO", "WMT", "CAT", "LIN"))
_FEW = (("NVDA", 0.29, 1.3), ("AAPL", 0.28, 1.1), ("AMZN", 0.24, 1.2), ("META", 0.20, 1.2), ("XOM", 0.15, 0.7))
_SETUPS = {
    STRESSED: _Setup(1_000_000, _FEW, 0.395, 1.10, legs=6, contracts=-12, option_delta=0.05, option_gross=0.12, stock_delta=0.85, kind="MARGIN"),
    DIVERSIFIED: _Setup(5_000_000, _MANY, 0.62, 0.60, strain=0.06),
    OPTIONS: _Setup(2_000_000, _MANY, 0.55, 0.35, 2.0, 0.05, legs=8, contracts=15, option_delta=-0.20, option_gross=0.04),
    SHORT_VOL: _Setup(800_000, _MANY[:8], 0.58, 0.55, -4.0, 0.30, legs=10, contracts=-10, option_delta=0.10, option_gross=0.08, kind="MARGIN"),
    PARTIAL: _Setup(1_500_000, _MANY[:10], 0.60, 0.50, strain=0.05),
    PAPER: _Setup(250_000, _MANY, 0.62, 0.60, strain=0.06),
}  # fmt: skip


class Timeline:
    """How market time runs when the story is told in so many seconds: fast on the day of the crash, twice as fast on the others, in no time at night.

    Before the beginning it stands still; after the end it runs as the clock does. Raises ValueError for less than a second.
    """

    _CRASH_SHARE, _DAY_SHARE, _NIGHT_SHARE = 0.34, 0.19, 0.01

    def __init__(self, scenario: Scenario, seconds: float) -> None:
        if not seconds >= 1.0:
            raise ValueError(f"crash: the story takes a second or more, not {seconds}")
        story = Crash(scenario)
        marks, shares = [story.start_ns], [0.0]
        for n, day in enumerate(story.days[_CRASH:]):
            for moment, share in (
                (_moment(day, _OPEN), self._NIGHT_SHARE),
                (_moment(day, _CLOSE), self._DAY_SHARE if n else self._CRASH_SHARE),
                (_moment(day, _CLOSE, _AFTER), self._NIGHT_SHARE),
            ):
                marks.append(moment)
                shares.append(shares[-1] + share)
        self._marks = marks
        self._offsets = [seconds * share / shares[-1] for share in shares]

    def offset_s(self, t_ns: int) -> float:
        """Return how many seconds after the beginning a market time comes."""
        return self._between(t_ns, self._marks, self._offsets) + max(0, t_ns - self._marks[-1]) / SECOND

    def market_ns(self, offset_s: float) -> int:
        """Return the market time so many seconds after the beginning."""
        return int(self._between(offset_s, self._offsets, self._marks)) + int(max(0.0, offset_s - self._offsets[-1]) * SECOND)

    @staticmethod
    def _between(x: float, xs: Sequence[float], ys: Sequence[float]) -> float:
        if x <= xs[0]:
            return ys[0]
        for n in range(1, len(xs)):
            if x <= xs[n]:
                # of the whole and the part apart: nanoseconds since 1970 do not fit a float
                return ys[n - 1] + type(ys[n])((ys[n] - ys[n - 1]) * (x - xs[n - 1]) / (xs[n] - xs[n - 1]))
        return ys[-1]
