"""The monitor's logic for one lane: alerts in, notices out. What is said is decided in operators/monitor.py.

A notice is published for every page, for every change of an episode, and once an hour for a scope where nothing changes (canary §15: changes and a
heartbeat, not every tick). Repeats, and pages that wait for `min_gap`, come by the clock, in `tick`: an urgent condition is said again after a
quarter of an hour though its alert is only repeated hourly.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, cast, get_args

import numpy as np

from operators.lane import OnLedger
from operators.monitor import KINDS, RANK, SECOND_NS, Decision, Entry, Observation, Scope, episode_id, observations, observe, scope_id
from operators.outbox import Outbox
from schemas.canary import CanaryAlert, CanaryAlertMessage, Kind, NoticeReason
from schemas.chunk import Chunk, Records
from schemas.hashing import hash128, partition_of
from schemas.parse import parse
from schemas.policy import RiskPolicy
from schemas.reasons import Reason
from schemas.registry import TOPICS
from state import monitor as m
from state.monitor import MonitorLedger

SENDER = "agent.monitor"
NAMESPACE = uuid.UUID("5f2b6f0e-2c5a-4d0b-9d39-7f4f1f1c8e02")
ALERTS, NOTICES, DEAD = "canary.alert.v1", "canary.notice.v1", "dlq.monitor"
REASONS: tuple[NoticeReason, ...] = get_args(NoticeReason)
_POSTURE = {"margin_safety": "threat", "data_health": "confirm_data"}
_STATELESS = ("as_of_ns", "last_ns")
"""Fields of entries and observations that are columns of the scope's row."""


@dataclass(slots=True)
class _Kept:
    """A scope as it stands: who it is, its episodes, the newest observation of each kind, and of its alert what a notice tells."""

    row: int
    account: str
    mode: str
    profile: str
    scope: Scope
    seen: dict[Kind, Observation]
    view: dict[str, Any]
    due: dict[Kind, int]
    key: str
    as_of_ns: int
    stored_ns: int


class MonitorLogic(OnLedger[MonitorLedger]):
    """One lane of the monitor (operators.lane.LaneLogic).

    lane, n_lanes: partition number and count of the input. policies: by profile; an alert of a profile that is not among them is a dead letter,
    to be replayed once its policy is there, because nobody may be told, or not told, by rules that were not chosen for it.
    """

    def __init__(self, lane: int, n_lanes: int, policies: Mapping[str, RiskPolicy]) -> None:
        self.lane = lane
        self.n_lanes = n_lanes
        self.policies = dict(policies)
        self._fingerprints = {name: policy.fingerprint for name, policy in policies.items()}
        self.ledger = MonitorLedger()
        self._scopes: dict[tuple[str, str, str], _Kept] = {}
        self._by_row: dict[int, _Kept] = {}
        self._out = Outbox(lane, SENDER, NAMESPACE)

    # ---- the lane runtime's side -----------------------------------------------------------------------------------

    def process(self, chunk: Chunk, now_ns: int) -> list[Records]:
        """Fold a chunk into the state; return what to publish."""
        for i in range(len(chunk)):
            self._take(chunk, i, now_ns)
        self.ledger.scalars[m.S_RECEIVED] += len(chunk)
        if len(chunk):
            self.ledger.scalars[m.S_POSITION] = int(chunk.offsets[-1]) + 2
        return self._out.hand_out()

    def tick(self, now_ns: int) -> list[Records]:
        """Say again what is due: repeats, and pages that have waited long enough."""
        rows = self.ledger.scopes.rows
        for row in np.flatnonzero((rows["due_ns"] > 0) & (rows["due_ns"] <= now_ns)).tolist():
            kept = self._by_row[row]
            policy = self.policies.get(kept.profile)
            if policy is None:  # its policy was taken away: nothing more is said of it
                self._set_due(kept, {})
                continue
            due = {kind: kept.seen[kind] for kind in KINDS if 0 < kept.due.get(kind, 0) <= now_ns}
            self._decide(kept, due, policy, now_ns, heard=False)
        return self._out.hand_out()

    def restore(self, records: Iterable[tuple[int, bytes]]) -> None:
        """Rebuild the state; nothing is said because of it."""
        self.ledger.changelog.restore(records)
        for row in np.flatnonzero(self.ledger.scopes.rows["live"]).tolist():
            self._register(_unpacked(row, self.ledger.scopes.arrays.rows[row], self.ledger.text(row)))

    def positions(self) -> dict[str, int]:
        """Return the offset after the last alert folded in, if one was."""
        mark = int(self.ledger.scalars[m.S_POSITION])
        return {ALERTS: mark - 1} if mark else {}

    def counters(self) -> dict[str, int]:
        """Return the balance, decisions by reason (`said_<reason>`), dead letters by reason (`dlq_<reason>`), and how many episodes are open."""
        scalars = self.ledger.scalars
        result = {name: int(scalars[i]) for i, name in enumerate(m.BALANCE)}
        result["balance_mismatch"] = result["received"] - sum(result[name] for name in m.BALANCE[1 : m.S_REROUTED + 1])
        for i, name in enumerate(REASONS):
            if scalars[m.S_REASONS + i]:
                result[f"said_{name}"] = int(scalars[m.S_REASONS + i])
        for reason in Reason:
            if 0 < reason < m.S_POSITION - m.S_DEAD and scalars[m.S_DEAD + reason]:
                result[f"dlq_{reason.name}"] = int(scalars[m.S_DEAD + reason])
        entries = [entry for kept in self._scopes.values() for entry in kept.scope.entries.values()]
        result["scopes"] = len(self._scopes)
        result["episodes_open"] = sum(entry.open for entry in entries)
        result["episodes_held"] = sum(entry.state == "held" for entry in entries)
        return result

    # ---- alerts ------------------------------------------------------------------------------------------------------

    def _take(self, chunk: Chunk, i: int, now_ns: int) -> None:
        value = chunk.value(i)
        message = parse(CanaryAlertMessage, value)
        if isinstance(message, tuple):
            self._dead(message[0], message[1], chunk, i, now_ns)
            return
        alert = message.payload
        if self._lane_of(alert.account) != self.lane:
            self._out.pass_on(ALERTS, alert.account.encode(), value)
            self.ledger.scalars[m.S_REROUTED] += 1
            return
        if message.sender not in TOPICS[ALERTS].senders:
            self._dead(Reason.sender_not_allowed, f"{message.sender} may not send to {ALERTS}", chunk, i, now_ns)
            return
        policy = self.policies.get(alert.result.policy)
        if policy is None:
            self._dead(Reason.field_invalid, f"payload.result.policy: no policy of profile {alert.result.policy} here", chunk, i, now_ns)
            return
        if alert.result.policy_fingerprint != self._fingerprints[alert.result.policy]:
            self.ledger.scalars[m.S_DRIFT] += 1
        self._observe(alert, policy, now_ns)

    def _observe(self, alert: CanaryAlert, policy: RiskPolicy, now_ns: int) -> None:
        result = alert.result
        kept = self._scopes.get((alert.account, alert.mode, result.policy))
        scalars = self.ledger.scalars
        if kept is not None:
            if result.as_of_ns == kept.as_of_ns and result.fingerprint.key == kept.key:
                scalars[m.S_DUPLICATE] += 1
                return
            if result.as_of_ns <= kept.as_of_ns:
                scalars[m.S_LATE] += 1
                scalars[m.S_REASONS + REASONS.index("rejected_out_of_order")] += 1
                return
        scalars[m.S_APPLIED] += 1
        seen = observations(alert, policy.policy.switches)
        if kept is None:
            row = self.ledger.scope_row(*_hash(f"{alert.account}|{alert.mode}|{result.policy}"))
            kept = _Kept(row, alert.account, alert.mode, result.policy, Scope(), {}, {}, {}, "", 0, 0)
            self._register(kept)
        kept.view = _view(alert)
        kept.key, kept.as_of_ns = result.fingerprint.key, result.as_of_ns
        kept.seen = seen
        kept.due = {kind: at for kind, at in kept.due.items() if kind in seen}
        self._decide(kept, seen, policy, now_ns, heard=True)

    def _decide(self, kept: _Kept, seen: Mapping[Kind, Observation], policy: RiskPolicy, now_ns: int, heard: bool) -> None:
        """Decide for the kinds in `seen`, publish what is to be stored, keep the rest. heard: there is a new alert, not only a clock."""
        before = kept.scope
        scope, decisions = observe(before, seen, now_ns, policy.policy.monitor)
        kept.scope = scope
        scalars = self.ledger.scalars
        for decision in decisions.values():
            scalars[m.S_REASONS + REASONS.index(decision.reason)] += 1
        told = [kind for kind, decision in decisions.items() if _worth_telling(before.entries.get(kind), decision, kind)]
        if heard and not told and now_ns - kept.stored_ns >= policy.policy.cadence.heartbeat_s * SECOND_NS:
            told = [_foremost(decisions)]
            scalars[m.S_HEARTBEATS] += 1
        for kind in told:
            self._notice(kept, kind, decisions[kind], now_ns)
        if told:
            kept.stored_ns = now_ns
        self._set_due(kept, kept.due | {kind: decision.due_ns for kind, decision in decisions.items()})
        self._keep(kept)

    def _notice(self, kept: _Kept, kind: Kind, decision: Decision, now_ns: int) -> None:
        entry, view, seen = decision.entry, kept.view, kept.seen[kind]
        scope = scope_id(kept.account, kept.mode, kept.profile)
        held = entry.state == "held"
        signals = entry.signals if held else seen.signals
        names = [name.partition("|") for name in sorted(signals) if not name.startswith("source|")]
        payload = {
            "account": kept.account,
            "mode": kept.mode,
            "scope_id": scope,
            "profile": kept.profile,
            "policy_version": view["policy_version"],
            "policy_fingerprint": view["policy_fingerprint"],
            "episode_id": episode_id(scope, kind),
            "kind": kind,
            "episode_state": entry.state,
            "occurrence_seq": entry.occurrence_seq,
            "notification_seq": entry.notification_seq,
            "notify": decision.notify,
            "reason": decision.reason,
            "severity": entry.severity if held else seen.severity,
            "direction": entry.direction if held else seen.direction,
            "portfolio_posture": view["portfolio_posture"] if kind == KINDS[0] else _POSTURE[kind] if entry.open else "neutral",
            "lifecycle_stage": entry.stage if held and entry.stage else view["lifecycle_stage"],
            "planner_mode_hint": view["planner_mode_hint"],
            "planner_readiness": view["planner_readiness"],
            "signal_ids": sorted({name for name, _, _ in names}),
            "subjects": sorted({subject for _, _, subject in names if subject}),
            "fingerprint": kept.key,
            "lifecycle_fingerprint": view["lifecycle_fingerprint"],
            "source_fingerprints": view["source_fingerprints"],
            "source_status": view["source_status"],
            "as_of_ns": kept.as_of_ns,
            "first_seen_ns": entry.first_ns or kept.as_of_ns,
            "last_seen_ns": entry.last_ns or kept.as_of_ns,
            "occurrences": entry.occurrences,
            "text_code": f"{kind}.{decision.reason}",
        }
        name = f"notice:{scope}:{kind}:{decision.reason}:{entry.occurrence_seq}:{entry.notification_seq}:{kept.as_of_ns}:{now_ns}"
        self._out.put(NOTICES, kept.account.encode(), payload, name, now_ns)
        self.ledger.scalars[m.S_NOTICES] += 1
        self.ledger.scalars[m.S_NOTIFIED] += decision.notify

    # ---- keeping -----------------------------------------------------------------------------------------------------

    def _register(self, kept: _Kept) -> None:
        self._scopes[kept.account, kept.mode, kept.profile] = kept
        self._by_row[kept.row] = kept

    def _set_due(self, kept: _Kept, due: Mapping[Kind, int]) -> None:
        kept.due = {kind: at for kind, at in due.items() if at}
        self.ledger.scopes.arrays.rows[kept.row]["due_ns"] = min(kept.due.values(), default=0)
        self.ledger.scopes.touch(kept.row)

    def _keep(self, kept: _Kept) -> None:
        text = _packed(kept)
        row = self.ledger.scopes.arrays.rows[kept.row]
        row["as_of_ns"], row["stored_ns"] = kept.as_of_ns, kept.stored_ns
        row["last_ns"] = [kept.scope.entries[kind].last_ns if kind in kept.scope.entries else 0 for kind in KINDS]
        self.ledger.keep(kept.row, text)
        self.ledger.scopes.touch(kept.row)

    def _lane_of(self, account: str) -> int:
        data = np.frombuffer(account.encode(), np.uint8)
        return int(partition_of(data, 0, len(data), self.n_lanes))

    # ---- out ---------------------------------------------------------------------------------------------------------

    def _dead(self, reason: Reason, detail: str, chunk: Chunk, i: int, now_ns: int) -> None:
        self._out.bury(DEAD, reason, detail, chunk, i, now_ns)
        self.ledger.scalars[m.S_DLQ] += 1
        self.ledger.scalars[m.S_DEAD + reason] += 1

    # ---- for people and tests ----------------------------------------------------------------------------------------

    def episodes(self, account: str, mode: str, profile: str) -> dict[str, Entry]:
        """Return a scope's episodes by kind. KeyError for a scope nothing was heard of."""
        return dict(self._scopes[account, mode, profile].scope.entries)


def _worth_telling(before: Entry | None, decision: Decision, kind: Kind) -> bool:
    """Return whether a decision changes what the feed shows: a page, another state or occurrence, or other evidence of what is open.

    Of a scope that is calm only the headline's kind shows that its picture changed.
    """
    if decision.notify or decision.fresh:
        return True
    after = decision.entry
    if before is None:
        return kind == KINDS[0]
    if before.state != after.state or before.waiting != after.waiting:
        return after.open or before.open or kind == KINDS[0]
    shown = after.open or kind == KINDS[0]
    return shown and before.key != after.key


def _foremost(decisions: Mapping[Kind, Decision]) -> Kind:
    """Return the kind a heartbeat speaks of: the worst open episode, the headline's when none is."""
    return max(decisions, key=lambda kind: RANK[decisions[kind].entry.severity])


def _view(alert: CanaryAlert) -> dict[str, Any]:
    """Return what a notice tells of an alert beside the episode: keys and states, no figures and no prose."""
    result = alert.result
    status: dict[str, str] = {source.source: source.status for source in result.source_health}
    keys = result.source_fingerprints
    names = ("account", "positions", "regime")
    return {
        "policy_version": result.policy_version,
        "policy_fingerprint": result.policy_fingerprint,
        "portfolio_posture": result.portfolio_posture,
        "lifecycle_stage": result.lifecycle.stage,
        "planner_mode_hint": result.planner_mode_hint,
        "planner_readiness": result.planner_readiness,
        "lifecycle_fingerprint": result.lifecycle.fingerprint.key,
        "source_fingerprints": {name: getattr(keys, name).key for name in names},
        "source_status": {name: status.get(name, "unknown") for name in names},
    }


# ---- text of a scope ---------------------------------------------------------------------------------------------------------------


def _packed(kept: _Kept) -> bytes:
    """Return a scope's text: everything but the times that are columns of its row."""
    scope = kept.scope
    text = {
        "who": [kept.account, kept.mode, kept.profile],
        "seq": [scope.occurrences, scope.notifications],
        "key": kept.key,
        "view": kept.view,
        "due": kept.due,
        "seen": {kind: _plain(one) for kind, one in kept.seen.items()},
        "entries": {kind: _plain(one) for kind, one in scope.entries.items()},
    }
    return json.dumps(text, separators=(",", ":")).encode()


def _unpacked(row: int, columns: Any, text: bytes) -> _Kept:
    found = json.loads(text)
    account, mode, profile = found["who"]
    as_of_ns, key = int(columns["as_of_ns"]), found["key"]
    seen = {kind: _rich(Observation, one, key=key, as_of_ns=as_of_ns) for kind, one in found["seen"].items()}
    last = dict(zip(KINDS, columns["last_ns"].tolist(), strict=True))
    entries = {
        kind: _rich(Entry, one, key=key, as_of_ns=as_of_ns, last_ns=last[cast(Kind, kind)]) for kind, one in found["entries"].items()
    }
    occurrences, notifications = found["seq"]
    scope = Scope(occurrences, notifications, entries)
    stored_ns = int(columns["stored_ns"])
    return _Kept(row, account, mode, profile, scope, seen, found["view"], found["due"], key, as_of_ns, stored_ns)


def _plain(one: Entry | Observation) -> dict[str, Any]:
    """Return the fields that are not as in an empty one, sets as sorted lists."""
    result: dict[str, Any] = {}
    for item in fields(one):
        value = getattr(one, item.name)
        if item.name not in (*_STATELESS, "key") and value != item.default:
            result[item.name] = sorted(value) if isinstance(value, frozenset) else value
    return result


def _rich(kind: Any, found: Mapping[str, Any], **columns: Any) -> Any:
    values = {name: frozenset(value) if isinstance(value, list) else value for name, value in found.items()}
    return kind(**values | columns)


def _hash(text: str) -> tuple[int, int]:
    data = np.frombuffer(text.encode(), np.uint8)
    high, low = hash128(data, 0, len(data), 0)
    return int(high), int(low)
