"""What the monitor's tests share: alerts by the handful, and a lane whose every record is checked against its model."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections import defaultdict
from typing import Any

import numpy as np

from operators.monitor_lane import MonitorLogic
from schemas.canary import CanaryAlertMessage, MonitorDeadLetterMessage, NoticeMessage
from schemas.chunk import Chunk, Records, join, split
from schemas.policy import RiskPolicy, load_policies
from schemas.times import rfc3339

SECOND = 1_000_000_000
MINUTE, HOUR, DAY = 60 * SECOND, 3_600 * SECOND, 86_400 * SECOND
T0 = 1_767_614_400 * SECOND
ALERTS, NOTICES, DEAD = "canary.alert.v1", "canary.notice.v1", "dlq.monitor"
GUARDED = "canary-guarded"
POSTURES = {
    "defensive": "threat",
    "rebalance": "rebalance",
    "constructive": "opportunity",
    "mixed": "threat_opportunity",
    "data_quality": "confirm_data",
    "": "neutral",
}
STAGES = {"observe": "quiet", "watch": "early_warning", "act": "confirmed_stress", "urgent": "panic"}


def key_of(*parts: object) -> str:
    return "sha256:" + hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def signal(name: str, severity: str = "watch", direction: str = "defensive", subject: str | None = None, **more: Any) -> dict[str, Any]:
    return {
        "id": name,
        "direction": direction,
        "posture": POSTURES[direction],
        "severity": severity,
        "subject": subject,
        "confidence": "high",
    } | more


def result(
    signals: list[dict[str, Any]] | None = None, severity: str | None = None, direction: str | None = None, *, as_of_ns: int = T0, stage: str | None = None,
    profile: str = "canary-default", status: dict[str, str] | None = None, market: dict[str, Any] | None = None, portfolio: dict[str, Any] | None = None,
    rows: list[dict[str, Any]] | None = None, margin: str | None = None, policies: dict[str, RiskPolicy] | None = None, salt: object = None,
) -> dict[str, Any]:  # fmt: skip
    """Return a CanaryResult as JSON: calm unless said otherwise. severity, direction: of the headline, from the signals when not given."""
    signals = [] if signals is None else signals
    rank = ["observe", "watch", "act", "urgent"]
    directions = {s["direction"] for s in signals}
    if direction is None:
        direction = next((d for d in ("defensive", "rebalance", "constructive", "data_quality") if d in directions), "")
    if severity is None:
        severity = max((s["severity"] for s in signals), key=rank.index, default="observe")
    stage = stage or ("data_quality" if direction == "data_quality" else STAGES[severity])
    statuses = {"account": "ok", "positions": "ok", "regime": "ok"} | (status or {})
    known = policies or load_policies()
    calm_market = {
        "regime_verdict": "Normal regime", "red_clusters": 0, "yellow_clusters": 0, "ranked_clusters": 6, "unranked_clusters": 0,
        "spy_change_pct": 0.1, "vix_change_pct": -1.0,
    }  # fmt: skip
    calm_portfolio = {
        "base_currency": "USD", "cushion_pct": 50.0, "look_ahead_cushion_pct": 50.0, "gross_exposure_pct_nlv": 60.0, "net_delta_pct_nlv": 10.0,
        "gross_delta_pct_nlv": 10.0, "largest_exposure_pct_nlv": 10.0, "largest_delta_pct_nlv": 10.0, "daily_pnl_pct_nlv": 0.0,
    }  # fmt: skip
    told = [{k: v for k, v in s.items() if k in ("id", "direction", "severity", "subject")} for s in signals]
    key = key_of(profile, direction, severity, stage, told, statuses, salt)
    source_keys = {name: {"version": f"{name}-fp-v1", "key": key_of(name, state)} for name, state in statuses.items()}
    policy = known.get(profile)
    return {
        "as_of_ns": as_of_ns,
        "source_as_of_ns": dict.fromkeys(statuses, as_of_ns),
        "fingerprint": {"version": "canary-fp-v1", "key": key},
        "source_fingerprints": source_keys,
        "source_health": [
            {"source": name, "status": state, "confidence": "high", "max_age_seconds": 600.0, "fingerprint": source_keys[name]["key"]}
            for name, state in statuses.items()
        ],
        "policy": profile,
        "policy_version": "1" if policy is None else policy.version,
        "policy_fingerprint": key_of(profile) if policy is None else policy.fingerprint,
        "lifecycle": {
            "stage": stage, "severity": severity, "readiness": "none", "timing": "current", "confidence": "high",
            "fingerprint": {"version": "lifecycle-fp-v1", "key": key_of("lifecycle", stage, severity)},
        },
        "direction": direction,
        "portfolio_posture": POSTURES[direction],
        "severity": severity,
        "planner_mode_hint": "none",
        "planner_readiness": "none",
        "summary": "",
        "confidence": "high",
        "data_confidence": "high",
        "signal_confidence": "high",
        "signals": [{k: v for k, v in s.items() if v is not None} for s in signals],
        "rows": [{"title": "Portfolio canary", "direction": direction, "severity": severity}, *(rows or [])],
        "portfolio": calm_portfolio | (portfolio or {}),
        "market": calm_market | (market or {}),
        "margin_alert": None if margin is None else {"severity": margin, "metric": "cushion", "threshold": 20.0, "state": "open"},
    }  # fmt: skip


def message(
    payload: dict[str, Any], account: str = "A1", mode: str = "live", seq: int = 1, now_ns: int = T0, sender: str = "agent.canary"
) -> bytes:
    """Return a record of canary.alert.v1, checked against its model."""
    identity = str(uuid.uuid5(uuid.NAMESPACE_OID, f"{account}{mode}{seq}{now_ns}{key_of(payload)}"))
    envelope = {
        "msg_id": identity, "type": ALERTS, "version": "v1", "ts": rfc3339(now_ns), "ts_ns": now_ns, "ttl_ms": 600_000, "sender": sender,
        "idempotency_key": identity, "payload": {"account": account, "mode": mode, "reason": "changed", "seq": seq, "result": payload},
    }  # fmt: skip
    value = json.dumps(envelope).encode()
    CanaryAlertMessage.model_validate_json(value)
    return value


class Bench:
    """One lane. `notices` holds every notice published; `now_ns` is the clock, and the as_of of what is said unless told otherwise."""

    def __init__(
        self, profile: str = "canary-default", lane: int = 0, n_lanes: int = 1, policies: dict[str, RiskPolicy] | None = None
    ) -> None:
        self.policies = load_policies() if policies is None else policies
        self.profile, self.lane_number, self.n_lanes = profile, lane, n_lanes
        self.now_ns = T0
        self.offset = 0
        self.seq = 0
        self.log: list[tuple[int, bytes]] = []
        self.out: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.values: dict[str, list[bytes]] = defaultdict(list)
        self.keys: dict[str, list[bytes]] = defaultdict(list)
        self.lane = MonitorLogic(lane, n_lanes, self.policies)

    @property
    def notices(self) -> list[dict[str, Any]]:
        return self.out[NOTICES]

    @property
    def pages(self) -> list[dict[str, Any]]:
        return [one for one in self.notices if one["notify"]]

    def told(self, kind: str | None = None) -> list[str]:
        """Return the reasons of the pages so far."""
        return [one["reason"] for one in self.pages if kind in (None, one["kind"])]

    def say(
        self, *signals: dict[str, Any], after_s: float = 60.0, account: str = "A1", mode: str = "live", **more: Any
    ) -> list[dict[str, Any]]:
        """Feed one alert, `after_s` later; return the notices it made. Ticks before and after, as the runtime does."""
        self.wait(after_s)
        self.seq += 1
        more.setdefault("as_of_ns", self.now_ns)
        payload = result(list(signals), profile=more.pop("profile", self.profile), **more)
        return self.feed(message(payload, account, mode, self.seq, self.now_ns))

    def feed(self, *values: bytes, key: bytes = b"A1") -> list[dict[str, Any]]:
        before = len(self.notices)
        data, bounds = join(list(values))
        keys, key_bounds = join([key] * len(values))
        offsets = np.arange(self.offset, self.offset + len(values), dtype=np.int64)
        self.offset += len(values)
        self._collect(self.lane.process(Chunk(ALERTS, self.lane_number, data, bounds, offsets, keys, key_bounds, self.now_ns), self.now_ns))
        self.tick()
        return self.notices[before:]

    def wait(self, seconds: float, step_s: float = 10.0) -> None:
        """Let time go on, with a tick every so often and a commit after each."""
        until = self.now_ns + round(seconds * SECOND)
        while self.now_ns < until:
            self.now_ns = min(until, self.now_ns + round(step_s * SECOND))
            self.tick()

    def tick(self) -> None:
        self._collect(self.lane.tick(self.now_ns))
        if self.lane.dirty():
            capture = self.lane.capture()
            first = len(self.log)
            self.log += [(first + i, value) for i, value in enumerate(capture.values)]
            self.lane.committed(capture.seq, first)
            below = self.lane.obsolete_before()
            self.kept = [] if below is None else [entry for entry in self.log if entry[0] >= below]

    def restart(self) -> None:
        """Go on with a lane restored from what the changelog still needs."""
        below = self.lane.obsolete_before() or 0
        other = MonitorLogic(self.lane_number, self.n_lanes, self.policies)
        other.restore([entry for entry in self.log if entry[0] >= below])
        assert other.counters() == self.lane.counters()
        assert other.positions() == self.lane.positions()
        self.lane = other

    def _collect(self, records: list[Records]) -> None:
        models: dict[str, Any] = {NOTICES: NoticeMessage, DEAD: MonitorDeadLetterMessage, ALERTS: CanaryAlertMessage}
        for group in records:
            for value, key in zip(split(group.data, group.bounds), split(group.keys, group.key_bounds), strict=True):
                models[group.topic].model_validate_json(value)
                self.values[group.topic].append(value)
                self.keys[group.topic].append(key)
                self.out[group.topic].append(json.loads(value)["payload"])
