"""The regime flow's logic: observations in, dashboards of every policy profile out, memory in a changelog. Rules: docs/canary.md.

Observations are few, so they are parsed one by one and the state is JSON documents (state/blobs.py): indicators, their daily series, members' closes, and
for each profile its rows' memory and what was published last. A dashboard goes out in the transaction that keeps the memory it rests on.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping

from operators.clusters import NS
from operators.outbox import Outbox
from operators.regime import Keys, RegimeBuilder, keys_of, shape_of, view_of
from schemas.canary import IndicatorMessage, Regime
from schemas.chunk import Capture, Chunk, Records
from schemas.parse import parse
from schemas.policy import RiskPolicy
from schemas.reasons import Reason
from schemas.registry import REGIME_INPUTS, REGIME_OUTPUTS, TOPICS
from state.blobs import Blobs

SENDER = "agent.regime"
NAMESPACE = uuid.UUID("2f1c6a54-9f0b-4f59-8a6e-6f1f3f0f6d20")
INDICATORS = REGIME_INPUTS[0]
REGIMES, DEAD_LETTERS = REGIME_OUTPUTS
BALANCE = ("received", "applied", "duplicate", "late", "ignored", "dlq")
"""Every observation received is in exactly one of the others. late: older than what is known; ignored: of no row of the dashboard."""


class RegimeLogic:
    """The lane of the regime flow (operators.lane.LaneLogic); its input has one partition.

    policies: by profile; each gets a dashboard of its own. keys: how fingerprints are made. Raises ValueError without a policy.
    """

    def __init__(self, lane: int, n_lanes: int, policies: Mapping[str, RiskPolicy], keys: Keys = keys_of) -> None:
        if not policies:
            raise ValueError("the regime flow needs at least one policy")
        self.lane = lane
        self.n_lanes = n_lanes
        self.policies = dict(sorted(policies.items()))
        self.docs = Blobs("regime")
        self.builder = RegimeBuilder(self.policies, self.docs, keys)
        self._out = Outbox(lane, SENDER, NAMESPACE)
        self._moved = True
        """Whether something was learned since the last look at it: everything, right after a start."""
        self._counts = dict.fromkeys((*BALANCE, "published"), 0)
        self._dead_by: dict[str, int] = {}
        self._positions: dict[str, int] = {}

    def process(self, chunk: Chunk, now_ns: int) -> list[Records]:
        """Take in a chunk of observations; return dead letters. Dashboards are made in `tick`."""
        allowed = TOPICS[INDICATORS].senders
        for i in range(len(chunk)):
            message = parse(IndicatorMessage, chunk.value(i))
            if isinstance(message, tuple):
                self._dead(*message, chunk, i, now_ns)
                continue
            if allowed and message.sender not in allowed:
                self._dead(Reason.sender_not_allowed, f"{message.sender} may not send to {INDICATORS}", chunk, i, now_ns)
                continue
            found = self.builder.take(message.payload, message.ts_ns, now_ns)
            if isinstance(found, tuple):
                self._dead(*found, chunk, i, now_ns)
                continue
            self._counts[found] += 1
            self._moved |= found == "applied"
        self._counts["received"] += len(chunk)
        if len(chunk):
            self._positions[chunk.topic] = int(chunk.offsets[-1]) + 1
        self._note()
        return self._out.hand_out()

    def tick(self, now_ns: int) -> list[Records]:
        """Make the dashboards anew when something was learned or their time has come; return those that say something new or are due again."""
        for profile, policy in self.policies.items():
            said = self.docs.docs.get(f"published|{profile}")
            due = said is None or now_ns >= said["ns"] + policy.policy.cadence.evaluate_s * NS
            if not (self._moved or due):
                continue
            regime = self.builder.build(policy, now_ns)
            shape = shape_of(regime, view_of(regime, policy, now_ns), policy)
            if due or said is None or said["shape"] != shape:
                self._publish(profile, regime, shape, 1 if said is None else said["seq"] + 1, now_ns)
        self._moved = False
        return self._out.hand_out()

    def capture(self) -> Capture:
        """Return the state change since the last capture."""
        return self.docs.capture()

    def committed(self, seq: int, offset: int) -> None:
        """Learn that a capture is durable at an offset of the changelog."""
        self.docs.committed(seq, offset)

    def obsolete_before(self) -> int | None:
        """Return the changelog offset below which nothing is needed."""
        return self.docs.obsolete_before()

    def restore(self, records: Iterable[tuple[int, bytes]]) -> None:
        """Rebuild the state. Raises StateMismatch for a changelog of something else."""
        self.docs.restore(records)
        kept = self.docs.docs.get("lane")
        if kept is not None:
            self._counts |= kept["counts"]
            self._dead_by = dict(kept["dead"])
            self._positions = dict(kept["positions"])
        self._moved = True

    def positions(self) -> dict[str, int]:
        """Return the offset after the last observation taken in."""
        return dict(self._positions)

    def counters(self) -> dict[str, int]:
        """Return the balance, what was published, dead letters by reason as `dlq_<reason>`, and `balance_mismatch`: 0 when every input is accounted for."""
        counts = self._counts
        rest = counts["received"] - sum(counts[name] for name in BALANCE[1:])
        return {**counts, **{f"dlq_{name}": n for name, n in sorted(self._dead_by.items())}, "balance_mismatch": rest}

    def dirty(self) -> bool:
        """Return whether a capture now would write anything."""
        return self.docs.dirty

    # ---- out

    def _publish(self, profile: str, regime: Regime, shape: str, seq: int, now_ns: int) -> None:
        self._out.put(
            REGIMES, f"regime|{profile}".encode(), regime.model_dump(mode="json", by_alias=True), f"regime:{profile}:{seq}:{now_ns}", now_ns
        )
        self.docs.put(f"published|{profile}", {"shape": shape, "seq": seq, "ns": now_ns})
        self._counts["published"] += 1
        self._note()

    def _note(self) -> None:
        self.docs.put("lane", {"counts": dict(self._counts), "dead": dict(self._dead_by), "positions": dict(self._positions)})

    def _dead(self, reason: Reason, detail: str, chunk: Chunk, i: int, now_ns: int) -> None:
        self._out.bury(DEAD_LETTERS, reason, detail, chunk, i, now_ns)
        self._counts["dlq"] += 1
        self._dead_by[reason.name] = self._dead_by.get(reason.name, 0) + 1
