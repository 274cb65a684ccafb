"""The canary's logic for one lane: snapshots in, alerts out, state in a ledger. What an account's state means is judged in operators/canary.py.

Rules: docs/canary.md. Snapshots, activity and fills are folded in columns (operators/account_fold.py). Accounts are judged in `tick`, all of a profile
in one pass: those something was said of, those whose clock has run out, and all of them when the market under that profile has changed. What goes out
does so with the memory of it: an alert is published exactly when it is remembered.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from operators import canary, windows
from operators.account_fold import (
    ACCOUNT_SLOTS,
    ACTIVITY_SLOTS,
    DUPLICATE,
    FILL_SLOTS,
    FOLDED,
    FORWARDED,
    ITEM_SLOTS,
    LATE,
    POSITION_SLOTS,
    REJECTED,
    REROUTED,
    fold_accounts,
    fold_activity,
    fold_fills,
    fold_positions,
    new_metrics,
    new_seen,
    read_windows,
)
from operators.clusters import RegimeInput, from_message
from operators.lane import OnLedger, offsets_after
from operators.outbox import Outbox, json_of
from operators.windows import WindowRules
from schemas.canary import AccountStateMessage, ActivityMessage, PositionStateMessage, RegimeMessage
from schemas.chunk import Chunk, Ints, Records
from schemas.codec import Batch, compile_decoder
from schemas.execution import FillMessage
from schemas.hashing import hash128, partition_of
from schemas.hedging import HedgeEventMessage
from schemas.parse import parse
from schemas.policy import RiskPolicy
from schemas.reasons import Reason
from schemas.registry import CANARY_BROADCAST, CANARY_INPUTS, TOPICS
from state import canary as g
from state.canary import CanaryLedger

SENDER = "agent.canary"
BATCH = 8192
"""Records folded between two reservations of memory, and accounts judged in one pass."""
ALERTS_A_ROUND = 1024
LEAST_ALERTS = 16
"""Alerts of all lanes together between two commits, and of one lane at least: when the market turns every account has something to say, and saying it takes
seconds. The most severe go first; what waits is judged again before it is said."""
NAMESPACE = uuid.UUID("0b6f5b0e-6a1c-4c53-9f0a-2d1f6f0c9a37")
SECOND_NS = 1_000_000_000
DAY_NS = 86_400 * SECOND_NS
EPOCH_DAY_2000 = 10_957
KEEP_DAYS = 2
"""A fill is known again for so long: longer than any window."""
EVICT_ROWS = 2048
"""Rows looked at per tick for what is past its time."""
PROFILE_SEED = 7
NEVER = np.iinfo(np.int64).max

ACCOUNTS, POSITIONS, ACTIVITY, FILLS, HEDGES = range(len(CANARY_INPUTS))
_COLUMNAR = (AccountStateMessage, PositionStateMessage, ActivityMessage, FillMessage)
_KEY_SLOTS = (ACCOUNT_SLOTS.account, POSITION_SLOTS.account, ACTIVITY_SLOTS.account)
_MODES = ("live", "paper")
FIRST, CHANGED, HEARTBEAT = range(1, 4)
_REASONS = ("", "first", "changed", "heartbeat")
_COUNTERS = (0, g.S_FIRST, g.S_CHANGED, g.S_HEARTBEAT)


@dataclass(frozen=True, slots=True)
class RegimeView:
    """The market under one profile. scene: at the time it was worked out. content: all that a judgement depends on besides the account and the clock."""

    scene: canary.Scene
    content: tuple[str, bytes]


class RegimeBoard:
    """The newest dashboard of each profile (operators.lane.BroadcastLogic), and the market as each policy reads it, worked out once for all lanes."""

    def __init__(self, policies: Mapping[str, RiskPolicy]) -> None:
        self.policies = dict(policies)
        self._regimes: dict[str, RegimeInput] = {}
        self._order: dict[str, tuple[int, int]] = {}
        self._views: dict[str, RegimeView] = {}
        self._counts = dict.fromkeys(("regimes", "regimes_older", "regimes_other_profile", "regimes_rejected", "views"), 0)

    def apply(self, chunk: Chunk) -> None:
        """Take dashboards in; the newest of a profile by `as_of_ns`, then by message time, is kept, whole."""
        topic = TOPICS[CANARY_BROADCAST[0]]
        for i in range(len(chunk)):
            message = parse(RegimeMessage, chunk.value(i))
            if isinstance(message, tuple) or message.sender not in topic.senders:
                self._counts["regimes_rejected"] += 1
                continue
            profile = message.payload.profile
            if profile not in self.policies:
                self._counts["regimes_other_profile"] += 1
                continue
            order = (message.payload.as_of_ns, message.ts_ns)
            if order < self._order.get(profile, order):
                self._counts["regimes_older"] += 1
                continue
            self._order[profile] = order
            self._regimes[profile] = from_message(message.payload)
            self._views.pop(profile, None)
            self._counts["regimes"] += 1

    def scene(self, profile: str, now_ns: int) -> tuple[canary.Scene, tuple[Any, ...]]:
        """Return (the scene of a profile now, what judgements depend on besides the accounts): when the second is another one, any account may be judged
        otherwise than before."""
        view = self._views.get(profile)
        if view is not None:
            until_ns = view.scene.market.valid_until_ns
            if now_ns < view.scene.now_ns or (until_ns is not None and now_ns > until_ns):
                view = None
        if view is None:
            regime = self._regimes.get(profile)
            scene = canary.Scene(regime, self.policies[profile], now_ns)
            view = self._views[profile] = RegimeView(scene, (canary.market_token(scene), scene.market_signals.tobytes()))
            self._counts["views"] += 1
        timed = view.scene.at(now_ns)
        return timed, (view.content, timed.view._replace(now_ns=0))

    def counters(self) -> dict[str, int]:
        """Return how many dashboards were taken in and how many left out."""
        return dict(self._counts)


class CanaryLogic(OnLedger[CanaryLedger]):
    """One lane of the canary (operators.lane.LaneLogic).

    lane, n_lanes: partition number and count of the inputs. board: the worker's dashboards, with the policies accounts are judged under.
    """

    def __init__(self, lane: int, n_lanes: int, board: RegimeBoard, rules: WindowRules | None = None) -> None:
        self.lane = lane
        self.n_lanes = n_lanes
        self.board = board
        self.rules = WindowRules() if rules is None else rules
        self.ledger = CanaryLedger()
        self._policies = list(board.policies.values())
        self._profile_keys = [_hash(policy.profile, PROFILE_SEED) for policy in self._policies]
        self._decoders = [compile_decoder(model) for model in _COLUMNAR]
        self._seen_names = new_seen()
        self._metrics = new_metrics()
        self._memo = canary.KeyMemo()
        self._budget = max(LEAST_ALERTS, ALERTS_A_ROUND // n_lanes)
        self._out = Outbox(lane, SENDER, NAMESPACE)
        self._judged = 0
        self._figures = np.zeros((len(windows.NAMES), len(windows.FIGURES)))
        self._marks = np.zeros(3, np.int64)
        # by account row, not kept: what a restored lane looks at afresh
        self._dirty = np.zeros(0, np.uint8)
        self._due = np.zeros(0, np.int64)
        self._stream = np.zeros((len(self._policies), 0), np.int32)
        self._waiting = np.zeros((len(self._policies), 0), np.uint8)
        self._n_waiting = 0
        self._next_due = NEVER
        self._market: list[tuple[Any, ...] | None] = [None] * len(self._policies)

    # ---- the lane runtime's side -----------------------------------------------------------------------------------

    def process(self, chunk: Chunk, now_ns: int) -> list[Records]:
        """Fold a chunk into the state; return what to publish: activity, what belongs elsewhere, dead letters."""
        topic = CANARY_INPUTS.index(chunk.topic)
        if topic == HEDGES:
            self._take_hedges(chunk, now_ns)
        else:
            batch = self._decoders[topic].decode(chunk.data, chunk.bounds)
            for start in range(0, len(chunk), BATCH):
                self._take(topic, chunk, batch, start, min(start + BATCH, len(chunk)), now_ns)
        scalars = self.ledger.scalars
        scalars[g.S_RECEIVED] += len(chunk)
        scalars[g.S_NEWEST_DAY] = max(int(scalars[g.S_NEWEST_DAY]), _day(now_ns))
        if len(chunk):
            scalars[g.S_POSITIONS + topic] = int(chunk.offsets[-1]) + 2
        return self._out.hand_out()

    def tick(self, now_ns: int) -> list[Records]:
        """Judge every account that has a reason to be, publish what is new; forget a little of what is past its time."""
        self._judge(now_ns)
        self._evict()
        return self._out.hand_out()

    def restore(self, records: Iterable[tuple[int, bytes]]) -> None:
        """Rebuild the state; at its first tick the lane judges every account."""
        self.ledger.changelog.restore(records)
        self._make_room()
        streams = self.ledger.streams
        live = np.flatnonzero(streams.rows["live"])
        rows = streams.rows["account"][live]
        keys = self.ledger.accounts.rows["khi"][rows] ^ streams.rows["khi"][live]
        for p, (hi, _) in enumerate(self._profile_keys):
            mine = keys == np.uint64(hi)
            self._stream[p, rows[mine]] = live[mine]

    def positions(self) -> dict[str, int]:
        """Return, for each input topic read so far, the offset after the last record folded in."""
        return offsets_after(CANARY_INPUTS, self.ledger.scalars[g.S_POSITIONS : g.S_POSITIONS + len(CANARY_INPUTS)])

    def counters(self) -> dict[str, int]:
        """Return the balance, dead letters by reason as `dlq_<reason>`, and gauges. `evaluations`: since this worker took the lane."""
        scalars = self.ledger.scalars
        result = {name: int(scalars[i]) for i, name in enumerate(g.BALANCE)}
        result["balance_mismatch"] = result["received"] - sum(result[k] for k in g.BALANCE[g.S_FOLDED : g.S_FORWARDED + 1])
        for reason in Reason:
            if 0 < reason < g.S_POSITIONS - g.S_DEAD and scalars[g.S_DEAD + reason]:
                result[f"dlq_{reason.name}"] = int(scalars[g.S_DEAD + reason])
        result["accounts"] = len(self.ledger.accounts)
        result["fills_kept"] = len(self.ledger.fills)
        result["alerts_waiting"] = self._n_waiting
        result["evaluations"] = self._judged
        return result

    # ---- folding -----------------------------------------------------------------------------------------------------

    def _take(self, topic: int, chunk: Chunk, batch: Batch, start: int, stop: int, now_ns: int) -> None:
        n = stop - start
        ledger = self.ledger
        rows, arena, ok = batch.rows[start:stop], batch.arena, batch.ok[start:stop]
        where = np.array([self.lane, self.n_lanes, now_ns, self.rules.gap_ns], np.int64)
        outcome, reason, row_of = np.empty((3, n), np.int64)
        if topic == ACCOUNTS:
            ledger.accounts.reserve(n)
            ledger.buckets.reserve(len(windows.NAMES) * n)
            days = _days(rows[:, ACCOUNT_SLOTS.as_of])
            fold_accounts(
                rows, arena, ok, ACCOUNT_SLOTS, where, days, self._metrics, ledger.accounts.arrays, ledger.buckets.arrays, outcome, reason, row_of
            )  # fmt: skip
            self._touch(row_of)
        elif topic == POSITIONS:
            ledger.accounts.reserve(n)
            ledger.buckets.reserve(len(windows.NAMES) * n)
            days = _days(rows[:, POSITION_SLOTS.as_of])
            stocks, options, exposures = (
                batch.children[f"payload.{path}"].rows for path in ("stocks", "options", "portfolio.exposure_base")
            )
            fold_positions(
                rows, arena, ok, POSITION_SLOTS, ITEM_SLOTS, stocks, options, exposures, where, days, self._seen_names, self._metrics, ledger.accounts.arrays,
                ledger.buckets.arrays, outcome, reason, row_of,
            )  # fmt: skip
            self._touch(row_of)
        elif topic == ACTIVITY:
            ledger.traders.reserve(n)
            ledger.traded.reserve(len(windows.NAMES) * n)
            days = _days(rows[:, ACTIVITY_SLOTS.last])
            fold_activity(rows, arena, ok, ACTIVITY_SLOTS, where, days, ledger.traders.arrays, ledger.traded.arrays, outcome, reason)
        else:
            self._gather(chunk, rows, arena, ok, start, outcome, reason, now_ns)
        counts = np.bincount(outcome, minlength=FORWARDED + 1)
        for counter, kind in ((g.S_FOLDED, FOLDED), (g.S_DUPLICATE, DUPLICATE), (g.S_LATE, LATE), (g.S_FORWARDED, FORWARDED)):
            ledger.scalars[counter] += counts[kind]
        if counts[REJECTED]:
            for i in np.flatnonzero(outcome == REJECTED).tolist():
                if batch.ok[start + i]:
                    why = Reason(int(reason[i]))
                    detail = _DETAIL[why]
                else:
                    why = Reason(int(batch.reason[start + i]))
                    detail = self._decoders[topic].explain(batch, start + i, chunk.data, chunk.bounds)
                self._dead(why, detail, chunk, start + i, now_ns)
        if counts[REROUTED]:
            for i in np.flatnonzero(outcome == REROUTED).tolist():
                if topic == FILLS:
                    self._dead(Reason.misrouted, _DETAIL[Reason.misrouted], chunk, start + i, now_ns)
                    continue
                self._reroute(topic, str(batch.text(start + i, _KEY_SLOTS[topic])), chunk.value(start + i))

    def _touch(self, row_of: Ints) -> None:
        """Note accounts to be judged at the next tick."""
        self._make_room()
        self._dirty[row_of[row_of >= 0]] = 1

    def _make_room(self) -> None:
        """Let what is kept beside the accounts' rows reach as far as these."""
        capacity = len(self.ledger.accounts.arrays.rows)
        more = capacity - len(self._dirty)
        if more > 0:
            profiles = len(self._policies)
            self._dirty = np.concatenate([self._dirty, np.zeros(more, np.uint8)])
            self._due = np.concatenate([self._due, np.full(more, NEVER)])
            self._stream = np.concatenate([self._stream, np.full((profiles, more), -1, np.int32)], axis=1)
            self._waiting = np.concatenate([self._waiting, np.zeros((profiles, more), np.uint8)], axis=1)

    def _gather(self, chunk: Chunk, rows: Ints, arena: Any, ok: Any, start: int, outcome: Ints, reason: Ints, now_ns: int) -> None:
        """Gather fills by account, book and stretch of time, and send what they come to to the accounts' lanes."""
        n = len(rows)
        ledger = self.ledger
        for table in (ledger.books, ledger.pairs, ledger.fills):
            table.reserve(n, 2 * n)
        place = np.full(1 << (2 * n).bit_length(), -1, np.int64)
        groups, sums = np.empty((n, 5), np.int64), np.empty((n, 3))
        where = np.array([self.lane, self.n_lanes, now_ns, _day(now_ns)], np.int64)
        count = fold_fills(
            rows, arena, ok, FILL_SLOTS, where, ledger.books.arrays, ledger.pairs.arrays, ledger.fills.arrays, place, groups, sums, outcome, reason
        )  # fmt: skip
        first = int(chunk.offsets[start])
        for (pair, stretch, fills, first_ns, last_ns), (signed, absolute, cost) in zip(
            groups[:count].tolist(), sums[:count].tolist(), strict=True
        ):
            self._tell_account(
                pair, f"fills:{self.lane}:{first}:{pair}:{stretch}", now_ns,
                fills=fills, signed_notional=signed, traded_notional=absolute, cost=cost, coverage=None, first_ns=first_ns, last_ns=last_ns,
            )  # fmt: skip

    def _tell_account(self, pair: int, name: str, now_ns: int, **payload: Any) -> None:
        row = self.ledger.pairs.arrays.rows[pair]
        account = _text(row, "name")
        book = _text(self.ledger.books.arrays.rows[int(row["book"])], "name")
        self._out.put(
            "canary.state.activity.v1", account.encode(), json_of({"account": account, "book": book, **payload}), f"activity:{name}", now_ns
        )
        self.ledger.scalars[g.S_ACTIVITIES] += 1

    def _take_hedges(self, chunk: Chunk, now_ns: int) -> None:
        """Send what hedges told of their book's coverage to the accounts that have fills in it."""
        scalars = self.ledger.scalars
        books, pairs = self.ledger.books, self.ledger.pairs
        name = CANARY_INPUTS[HEDGES]
        allowed = TOPICS[name].senders
        for i in range(len(chunk)):
            value = chunk.value(i)
            message = parse(HedgeEventMessage, value)
            if isinstance(message, tuple):
                self._dead(message[0], message[1], chunk, i, now_ns)
                continue
            book = message.payload.book
            if self._lane_of(book) != self.lane:
                self._dead(Reason.misrouted, _DETAIL[Reason.misrouted], chunk, i, now_ns)
                continue
            if message.sender not in allowed:
                self._dead(Reason.sender_not_allowed, f"{message.sender} may not send to {name}", chunk, i, now_ns)
                continue
            at = books.find(*_hash(book))
            if at < 0:
                at = books.insert(*_hash(book))
                row, text = books.arrays.rows[at], book.encode()
                row["head"], row["name_len"] = -1, len(text)
                row["name"][: len(text)] = np.frombuffer(text, np.uint8)
            row = books.arrays.rows[at]
            if message.ts_ns < int(row["told_ns"]):
                scalars[g.S_LATE] += 1
                continue
            row["told_ns"] = message.ts_ns
            books.touch(at)
            pair, coverage = int(row["head"]), message.payload.coverage
            if pair < 0 or coverage is None:
                scalars[g.S_FOLDED] += 1
                continue
            scalars[g.S_FORWARDED] += 1
            coverage = min(max(coverage, 0.0), 1.0)
            while pair >= 0:
                self._tell_account(
                    pair, f"hedge:{message.msg_id}:{pair}", now_ns, fills=0, signed_notional=0.0, traded_notional=0.0, cost=0.0, coverage=coverage,
                    first_ns=message.ts_ns, last_ns=message.ts_ns,
                )  # fmt: skip
                pair = int(pairs.arrays.rows[pair]["next"])

    def _lane_of(self, book: str) -> int:
        data = np.frombuffer(book.encode(), np.uint8)
        return int(partition_of(data, 0, len(data), self.n_lanes))

    # ---- judging -----------------------------------------------------------------------------------------------------

    def _judge(self, now_ns: int) -> None:
        """Judge accounts under every profile and publish what is new, at most so many alerts."""
        high = self.ledger.accounts.high
        if now_ns >= self._next_due:
            self._dirty[:high][self._due[:high] <= now_ns] = 1
        dirty = np.flatnonzero(self._dirty[:high])
        judged = False
        left = self._budget
        for p, policy in enumerate(self._policies):
            scene, market = self.board.scene(policy.profile, now_ns)
            which = dirty
            if market != self._market[p]:
                self._market[p] = market
                which = np.flatnonzero(self.ledger.accounts.rows["live"])
            elif self._n_waiting:
                which = np.union1d(dirty, self._next_waiting(p, left))
            if not len(which):
                continue
            judged = True
            left -= self._judge_profile(p, scene, which, left)
        if judged or len(dirty):
            self._dirty[dirty] = 0
            self._next_due = int(self._due[:high].min(initial=NEVER))
            self._n_waiting = int(np.count_nonzero(self._waiting[:, :high]))

    def _next_waiting(self, p: int, count: int) -> Ints:
        """Return the accounts whose alert under a profile waits, the most pressing first, at most `count`."""
        waiting = np.flatnonzero(self._waiting[p])
        order = np.argsort(-self._waiting[p, waiting].astype(np.int64), kind="stable")
        return waiting[order[: max(count, 0)]]

    def _judge_profile(self, p: int, scene: canary.Scene, which: Ints, budget: int) -> int:
        """Judge accounts under one profile, publish the most pressing of what is new; return how many alerts that were."""
        rows, streams = self.ledger.accounts.rows, self.ledger.streams
        now_ns = scene.now_ns
        max_age_ns = scene.max_age_s * SECOND_NS
        heartbeat_ns = scene.policy.policy.cadence.heartbeat_s * SECOND_NS
        found = []
        for start in range(0, len(which), BATCH):
            part = which[start : start + BATCH]
            verdicts = canary.verdicts(len(part))
            canary.evaluate_rows(rows, part, scene, verdicts)
            digests = canary.keys(verdicts, rows, scene, self._memo).view(np.uint64)
            self._judged += len(part)
            stream = self._stream[p, part]
            known = stream >= 0
            last = streams.rows.take(np.where(known, stream, 0)) if streams.high else np.zeros(len(part), g.STREAM)
            changed = (last["digest"] != digests).any(axis=1)
            beat_ns = last["published_ns"] + heartbeat_ns
            why = np.where(~known, FIRST, np.where(changed, CHANGED, np.where(beat_ns <= now_ns, HEARTBEAT, 0)))
            due = np.where(known & (beat_ns > now_ns), beat_ns, NEVER)
            for as_of_ns in (rows["account_ns"][part], rows["positions_ns"][part]):
                old_ns = as_of_ns + (max_age_ns + 1)
                due = np.minimum(due, np.where((as_of_ns > 0) & (old_ns > now_ns), old_ns, NEVER))
            self._due[part] = due if p == 0 else np.minimum(self._due[part], due)
            rank = np.where(why > 0, 1 + 2 * verdicts["severity"].astype(np.int64) + (why != HEARTBEAT), 0)
            self._waiting[p, part] = rank
            for i in np.flatnonzero(why).tolist():
                found.append((-int(rank[i]), int(part[i]), int(why[i]), verdicts, i, digests[i]))
        found.sort(key=lambda one: one[:2])
        for _, row, reason, verdicts, i, digest in found[:budget]:
            self._publish(p, scene, row, _REASONS[reason], verdicts[i], digest)
            self.ledger.scalars[_COUNTERS[reason]] += 1
            self._waiting[p, row] = 0
            self._due[row] = min(int(self._due[row]), now_ns + heartbeat_ns)
        return min(len(found), budget)

    def _publish(self, p: int, scene: canary.Scene, at: int, reason: str, verdict: Any, digest: NDArray[np.uint64]) -> None:
        """Say what the sentinel says of an account, and remember it."""
        row, streams = self.ledger.accounts.arrays.rows[at], self.ledger.streams
        stream = int(self._stream[p, at])
        if stream < 0:
            hi, lo = self._profile_keys[p]
            stream = streams.insert(int(row["khi"]) ^ hi, int(row["klo"]) ^ lo)
            streams.arrays.rows[stream]["account"] = at
            self._stream[p, at] = stream
        memory = streams.arrays.rows[stream]
        seq = int(memory["seq"]) + 1
        now_ns = scene.now_ns
        memory["digest"], memory["published_ns"], memory["seq"], memory["severity"] = digest, now_ns, seq, verdict["severity"]
        streams.touch(stream)
        account, mode = _text(row, "name"), _MODES[int(row["mode"])]
        result = canary.render(row, verdict, scene).model_dump_json(by_alias=True)
        told = json_of(self._windows(at, row, now_ns))
        payload = f'{{"account":{json_of(account)},"mode":"{mode}","reason":"{reason}","seq":{seq},"result":{result},"windows":{told}}}'
        self._out.put("canary.alert.v1", account.encode(), payload, f"{account}|{mode}|{scene.policy.profile}|{seq}", now_ns)

    def _windows(self, at: int, row: Any, now_ns: int) -> list[dict[str, Any]]:
        """Return the figures of an account's windows at its watermark; none of one that no time is known of."""
        ledger, marks = self.ledger, self._marks
        read_windows(
            ledger.accounts.arrays, at, ledger.buckets.arrays, ledger.traders.arrays, ledger.traded.arrays, *windows.new_york_offsets(), marks, self._figures
        )  # fmt: skip
        watermark_ns, day, midnight_ns = marks.tolist()
        if not watermark_ns:
            return []
        began_ns = int(row["session_ns"]) if int(row["session_day"]) == day else 0
        return windows.figures(self._figures, float(row["net_liquidation"]), watermark_ns, midnight_ns, began_ns, now_ns, self.rules)

    # ---- dead letters, other lanes -----------------------------------------------------------------------------------

    def _dead(self, reason: Reason, detail: str, chunk: Chunk, i: int, now_ns: int) -> None:
        self._out.bury("dlq.canary", reason, detail, chunk, i, now_ns)
        scalars = self.ledger.scalars
        scalars[g.S_DLQ] += 1
        scalars[g.S_DEAD + reason] += 1

    def _reroute(self, topic: int, key: str, value: bytes) -> None:
        self._out.pass_on(CANARY_INPUTS[topic], key.encode(), value)
        self.ledger.scalars[g.S_REROUTED] += 1

    # ---- forgetting --------------------------------------------------------------------------------------------------

    def _evict(self) -> None:
        """Forget a little of the fills that are past their time; once through them a day."""
        scalars, fills = self.ledger.scalars, self.ledger.fills
        today = int(scalars[g.S_NEWEST_DAY])
        if int(scalars[g.S_EVICT_DAY]) != today:
            scalars[g.S_EVICT_DAY] = today
            scalars[g.S_EVICTED] = 0
        start = int(scalars[g.S_EVICTED])
        if start >= fills.high:
            return
        rows = fills.rows[start : start + EVICT_ROWS]
        scalars[g.S_EVICTED] = start + len(rows)
        for at in (np.flatnonzero((rows["live"] == 1) & (rows["day"] < today - KEEP_DAYS)) + start).tolist():
            fills.remove(at)

    # ---- for people and tests ----------------------------------------------------------------------------------------

    def account_state(self, account: str, mode: str = "live") -> dict[str, Any]:
        """Return what is known of an account: its facts by name, and seq and time of what was published by profile. KeyError for an unknown one."""
        at = self.ledger.accounts.find(*_hash(account, _MODES.index(mode)))
        if at < 0:
            raise KeyError(account)
        row = self.ledger.accounts.arrays.rows[at]
        streams = {}
        for p, policy in enumerate(self._policies):
            if self._stream[p, at] >= 0:
                memory = self.ledger.streams.arrays.rows[int(self._stream[p, at])]
                streams[policy.profile] = {"seq": int(memory["seq"]), "published_ns": int(memory["published_ns"])}
        return {"row": at, "facts": {name: row[name] for name in row.dtype.names}, "streams": streams}


_DETAIL = {
    Reason.event_ts_future: "as_of_ns, or the time of the fill, is more than 15 minutes after now",
    Reason.sender_not_allowed: "the sender may not say this",
    Reason.misrouted: "not on the partition of its book; whoever owns the topic sends it there, and then it is counted",
}


def _days(times: Ints) -> Ints:
    """Return the New York dates of times; of a null anything."""
    days: Ints = windows.new_york(np.maximum(times, 0))[0]
    return days


def _hash(text: str, seed: int = 0) -> tuple[int, int]:
    data = np.frombuffer(text.encode(), np.uint8)
    high, low = hash128(data, 0, len(data), seed)
    return int(high), int(low)


def _text(row: Any, name: str) -> str:
    return str(bytes(row[name][: int(row[f"{name}_len"])]).decode())


def _day(now_ns: int) -> int:
    return now_ns // DAY_NS - EPOCH_DAY_2000
