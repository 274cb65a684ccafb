"""The regime flow's lane on a bench: observations by the handful, a clock that moves as told, every record that comes out checked by its model."""

from __future__ import annotations

import json
import uuid
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np

from operators.clusters import MINUTE_NS, NS, wall_ns
from operators.regime_lane import RegimeLogic
from schemas.canary import Indicator, Regime
from schemas.chunk import Chunk, join, split
from schemas.policy import RiskPolicy, load_policies
from schemas.registry import REGIME_INPUTS, TOPICS
from schemas.times import rfc3339

POLICIES = load_policies()
DEFAULT, GUARDED = POLICIES["canary-default"], POLICIES["canary-guarded"]
DAY = "2026-03-04"
"""A Wednesday."""
DAYS = [str(day) for day in np.arange("2025-10-01", "2026-03-05", dtype="datetime64[D]") if np.is_busday(day)]
"""Trading dates up to DAY."""


def at(day: str, clock: str = "15:00") -> int:
    """Return a time of day in New York."""
    hours, minutes = clock.split(":")
    return wall_ns(day, 60 * int(hours) + int(minutes))


def chain(spot: float, zero: float, gross: float = 1.0) -> dict[str, Any]:
    """Return a chain whose zero-gamma level is near `zero`: puts under it and as many calls over it."""
    options = []
    for step in range(1, 21):
        for side, right in ((-1, "P"), (1, "C")):
            strike = zero * (1 + side * 0.01 * step)
            options.append({"expiry": "2026-06-19", "strike": strike, "right": right, "open_interest": 5_000.0 * gross, "iv": 0.2})
    return {"spot": spot, "options": options}


class Bench:
    """One lane. `out` holds every payload published by topic, `now_ns` is the clock."""

    def __init__(self, policies: Mapping[str, RiskPolicy] | None = None, day: str = DAY, clock: str = "15:00") -> None:
        self.policies = {"canary-guarded": GUARDED} if policies is None else dict(policies)
        self.now_ns = at(day, clock)
        self.lane = RegimeLogic(0, 1, self.policies)
        self.out: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.values: list[tuple[str, bytes]] = []
        self.log: list[tuple[int, bytes]] = []
        self.serial = 0
        self._offset = 0

    def to(self, day: str, clock: str = "15:00") -> None:
        self.now_ns = at(day, clock)

    def say(
        self, indicator: str, /, value: Any = None, tick: bool = False, sender: str = "agent.feed", ts_ns: int | None = None, **more: Any
    ) -> bytes:
        """Send one observation, true now unless told otherwise."""
        payload = {"indicator": indicator, "source": "test", "as_of_ns": self.now_ns} | ({} if value is None else {"value": value}) | more
        found = self.message(payload, sender, ts_ns)
        self.feed(found)
        if tick:
            self.tick()
        return found

    def message(self, payload: dict[str, Any], sender: str = "agent.feed", ts_ns: int | None = None) -> bytes:
        self.serial += 1
        identity = str(uuid.uuid5(uuid.NAMESPACE_OID, str(self.serial)))
        ts = self.now_ns if ts_ns is None else ts_ns
        envelope = {
            "msg_id": identity, "type": "market.indicator.v1", "version": "v1", "ts": rfc3339(ts), "ts_ns": ts, "ttl_ms": 600_000, "sender": sender,
            "idempotency_key": identity, "payload": payload,
        }  # fmt: skip
        return json.dumps(envelope).encode()

    def feed(self, *values: bytes) -> None:
        data, bounds = join(list(values))
        keys, key_bounds = join([b"k"] * len(values))
        offsets = np.arange(self._offset, self._offset + len(values))
        self._offset += len(values)
        self._take(self.lane.process(Chunk(REGIME_INPUTS[0], 0, data, bounds, offsets, keys, key_bounds, self.now_ns), self.now_ns))

    def tick(self, passed_s: float = 0.0) -> None:
        self.now_ns += int(passed_s * NS)
        self._take(self.lane.tick(self.now_ns))
        if self.lane.dirty():
            capture = self.lane.capture()
            first = len(self.log)
            self.log += [(first + i, value) for i, value in enumerate(capture.values)]
            self.lane.committed(capture.seq, first)
        assert self.lane.counters()["balance_mismatch"] == 0
        assert not self.lane.dirty()

    def _take(self, records: list[Any]) -> None:
        for one in records:
            model = TOPICS[one.topic].model
            assert model is not None
            for value in split(one.data, one.bounds):
                model.model_validate_json(value)
                self.values.append((one.topic, value))
                self.out[one.topic].append(json.loads(value)["payload"])

    def restart(self) -> None:
        """Replace the lane by one restored from what is still needed of the log."""
        counters, positions = self.lane.counters(), self.lane.positions()
        first = self.lane.obsolete_before() or 0
        self.lane = RegimeLogic(0, 1, self.policies)
        self.lane.restore(self.log[first:])
        assert (self.lane.counters(), self.lane.positions()) == (counters, positions)

    def regime(self, profile: str = "canary-guarded") -> Regime:
        """Return the dashboard as it would be built now."""
        return self.lane.builder.build(self.policies[profile], self.now_ns)

    def row(self, name: str, profile: str = "canary-guarded") -> Any:
        return next(row for row in self.regime(profile).rows if row.row == name)

    def counts(self) -> dict[str, int]:
        return self.lane.counters()

    # ---- a market

    def history(self, until: str = DAY, days: int = 80) -> None:
        """Let the daily series of a quiet market come in, up to the date before `until`."""
        before = [day for day in DAYS if day < until][-days:]
        for day in before:
            stamp = {"as_of_ns": at(day, "16:00"), "as_of_date": day, "close": True}
            for name, value in (("hyg", 80.0), ("spy", 500.0), ("vvix", 85.0), ("usd_jpy", 150.0), ("vix", 15.0), ("vix3m", 18.0)):
                self.say(name, value, **stamp)
            for name, value in (("hy_oas", 3.0), ("ig_oas", 1.0), ("cp_3m", 4.6), ("tbill_3m", 4.5)):
                self.say(name, value, **stamp)
            closes = [{"symbol": f"S{i}", "close": 100.0 + (i if i % 10 < 7 else -i) * (day == before[-1])} for i in range(1, 51)]
            self.say("sp500_closes", closes=closes, **stamp)

    def quiet(self) -> None:
        """Let today's prices and chains come in: nothing to see."""
        stamp = {"as_of_date": str(np.datetime64(self.now_ns, "ns").astype("datetime64[D]"))}
        self.say("vix", 15.0, prev_close=15.0, **stamp)
        self.say("vix3m", 18.0, **stamp)
        self.say("hyg", 80.5, **stamp)
        self.say("spy", 500.0, prev_close=500.0, high_52w=520.0, **stamp)
        self.say("usd_jpy", 150.0, **stamp)
        self.say("spy_options", chain=chain(500.0, 480.0), **stamp)
        self.say("spx_options", chain=chain(5000.0, 4800.0, 10.0), **stamp)

    def minutes(self, n: float) -> None:
        self.now_ns += int(n * MINUTE_NS)


def indicator(**fields: Any) -> Indicator:
    return Indicator.model_validate({"source": "test"} | fields)
