"""Delivers the monitor's pages to webhooks (canary §15): signed, retried, at most one accepted receipt for each page and target.

Reserve → send → record. A delivery is on `canary.state.delivery.v1` before it is sent, in one transaction with the offset of its notice, and what
became of it in another, with its dead letter if there is one. A crash between sending and recording leaves a reservation: after the restart
it is `interrupted_uncertain` and goes out once more under the same webhook-id, by which the receiver knows it.

`Deliverer` decides and does nothing else; `Sender` speaks HTTP, a few threads for each target, so that one that stalls holds up nobody else;
`Journal` speaks Kafka. The producer is transactional, not only idempotent: its id fences a deliverer that was thought dead before that one can
reserve, and therefore send, again.
"""

from __future__ import annotations

import hashlib
import heapq
import hmac
import json
import logging
import queue
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, TypeVar

import urllib3
from confluent_kafka import Consumer, IsolationLevel, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import OffsetSpec  # type: ignore[attr-defined]
from standardwebhooks import Webhook
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError

from connectors.kafka import Aborted, Fenced, SessionError
from connectors.topics import connect
from connectors.webhook_targets import Target
from schemas.canary import Delivery, DeliveryMessage, Notice, NoticeMessage
from schemas.parse import parse
from schemas.policy import MonitorRules, RiskPolicy
from schemas.times import rfc3339

log = logging.getLogger("hedgerow.webhooks")

NOTICES, DELIVERIES, DEAD = "canary.notice.v1", "canary.state.delivery.v1", "dlq.webhook"
SENDER = "agent.monitor"
SCHEMA = "canary-webhook-v1"
GROUP = "hedgerow-webhooks"
TTL_MS = 600_000
TOLERANCE_S = 300
"""How far a receiver's clock may be from the signature's time."""
RETRIED = frozenset((408, 425, 429))
"""Answers of the 4xx that are tried again, as all 5xx are."""
GONE = 410
ENDED = frozenset(("accepted", "rejected", "gave_up", "target_disabled"))
_DIGEST_BYTES = 16
_PRUNE_NS = 3_600_000_000_000
_COMMIT_NS = 5_000_000_000
"""Offsets of notices that page nobody are committed so often."""
_TELL_NS = 10_000_000_000
"""The health of targets is logged when it changed, at most so often."""
_POLL_S = 0.05
_KAFKA_S = 30.0
_SECOND_NS = 1_000_000_000
_DAY_NS = 86_400 * _SECOND_NS

Health = Literal["healthy", "degraded", "unavailable", "overflow"]
HEALTH: tuple[Health, ...] = ("healthy", "degraded", "overflow", "unavailable")
"""From good to bad."""
Fault = Callable[[str], None]
T = TypeVar("T")


# ---- signatures (Standard Webhooks) --------------------------------------------------------------------------------------------------


class BadSignature(ValueError):
    """A message is not from who it says, or not of now."""


def signature_headers(keys: Sequence[bytes], webhook_id: str, now_s: int, body: bytes) -> dict[str, str]:
    """Return the three headers of a message; with several keys, as in a rotation, a signature by each."""
    at = datetime.fromtimestamp(now_s, UTC)
    signatures = [Webhook(key).sign(webhook_id, at, body.decode()) for key in keys]
    return {"webhook-id": webhook_id, "webhook-timestamp": str(now_s), "webhook-signature": " ".join(signatures)}


def verify(keys: Sequence[bytes], headers: Mapping[str, str], body: bytes, now_s: float, tolerance_s: int = TOLERANCE_S) -> str:
    """Check a message as its receiver must and return its webhook-id, by which it is to be deduplicated. Raises BadSignature.

    keys: every key that is valid now. headers: in any case. The package's own check reads the clock and fails on garbled signatures in other ways.
    """
    given = {name.lower(): value for name, value in headers.items()}
    try:
        webhook_id, stamp, signatures = given["webhook-id"], given["webhook-timestamp"], given["webhook-signature"]
    except KeyError as error:
        raise BadSignature(f"{error.args[0]} is missing") from None
    if not (stamp.isascii() and stamp.isdigit() and len(stamp) < 16):
        raise BadSignature("webhook-timestamp is not a number of seconds")
    if abs(now_s - int(stamp)) > tolerance_s:
        raise BadSignature(f"webhook-timestamp is more than {tolerance_s} s from this clock")
    try:
        expected = signature_headers(keys, webhook_id, int(stamp), body)["webhook-signature"].split(" ")
    except (UnicodeDecodeError, ValueError, OverflowError):
        raise BadSignature("the body cannot be signed") from None
    found = False
    for one in signatures.split(" "):
        for other in expected:  # every pair, so that the time taken does not tell which key matched
            found |= hmac.compare_digest(one.encode(errors="replace"), other.encode())
    if not found:
        raise BadSignature("no signature matches")
    return webhook_id


# ---- what is sent --------------------------------------------------------------------------------------------------------------------


def delivery_ids(notice: Notice, target: str) -> tuple[str, str]:
    """Return (delivery_id, webhook_id) of a page at a target: functions of scope, occurrence, notification and target."""
    parts = (SCHEMA, notice.scope_id, str(notice.occurrence_seq), str(notice.notification_seq), target)
    digest = hashlib.blake2b("\x1f".join(parts).encode(), digest_size=_DIGEST_BYTES).hexdigest()
    return f"dlv_{digest}", f"msg_{digest}"


def body_of(notice: Notice, said_ns: int, include_subjects: bool) -> dict[str, Any]:
    """Return what a receiver gets: codes, keys and times; no account, no figure, no prose, and symbols only where they are asked for."""
    data: dict[str, Any] = {
        "schema": SCHEMA,
        "scope_id": notice.scope_id,
        "profile": notice.profile,
        "policy_version": notice.policy_version,
        "policy_fingerprint": notice.policy_fingerprint,
        "episode_id": notice.episode_id,
        "kind": notice.kind,
        "occurrence_seq": notice.occurrence_seq,
        "notification_seq": notice.notification_seq,
        "reason": notice.reason,
        "severity": notice.severity,
        "direction": notice.direction,
        "portfolio_posture": notice.portfolio_posture,
        "lifecycle_stage": notice.lifecycle_stage,
        "planner_mode_hint": notice.planner_mode_hint,
        "planner_readiness": notice.planner_readiness,
        "signal_ids": notice.signal_ids,
        "fingerprint": notice.fingerprint,
        "lifecycle_fingerprint": notice.lifecycle_fingerprint,
        "source_fingerprints": notice.source_fingerprints.model_dump(),
        "source_status": notice.source_status.model_dump(),
        "as_of": rfc3339(notice.as_of_ns),
        "first_seen": rfc3339(notice.first_seen_ns),
        "last_seen": rfc3339(notice.last_seen_ns),
        "text_code": notice.text_code,
    }
    if include_subjects:
        data["subjects"] = notice.subjects
    return {"type": f"canary.alert.{notice.reason}", "timestamp": rfc3339(said_ns), "data": data}


def raw(body: Mapping[str, Any]) -> bytes:
    """Return the bytes of a body: the same on every attempt, also after it was kept in Kafka."""
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an attempt came to: the answer's status, or None and why there was none."""

    status: int | None
    error: str | None = None

    @property
    def verdict(self) -> Literal["accepted", "retry", "rejected"]:
        """Return what it means: 2xx accepted; no answer, 408, 425, 429 and 5xx to be tried again; all else, redirects too, rejected."""
        if self.status is None or self.status in RETRIED or 500 <= self.status < 600:
            return "retry"
        return "accepted" if 200 <= self.status < 300 else "rejected"


# ---- what is done about it -----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Lane:
    """One target: who waits for it (when, order, delivery), how many are on their way, whether it answers."""

    target: Target
    waiting: list[tuple[int, int, str]] = field(default_factory=list)
    sending: int = 0
    failures: int = 0
    """Attempts that failed since the last that was accepted."""
    disabled: bool = False


class Deliverer:
    """Which page goes to which target, and when again. Pure but for its own memory: the time comes in, what to write and to send goes out.

    `changed` holds what is to be written since it was last taken; `dead` those of them that no target will get.
    """

    def __init__(self, targets: Iterable[Target], policies: Mapping[str, RiskPolicy]) -> None:
        self._lanes = {target.name: _Lane(target) for target in targets}
        self._rules = {name: policy.policy.monitor for name, policy in policies.items()}
        if not self._rules:
            raise ValueError("there must be at least one policy")
        self._open: dict[str, Delivery] = {}
        self._ended: dict[str, int] = {}
        """Delivery → when its receipt may be forgotten, in ns."""
        self._serial = 0
        self.changed: dict[str, Delivery] = {}
        self.dead: list[Delivery] = []
        self.counts = dict.fromkeys(("taken", "known", "attempts", *sorted(ENDED), "interrupted_uncertain", "overflow", "other_profile"), 0)

    def rules_of(self, profile: str) -> MonitorRules:
        """Return the rules a profile's pages are delivered by; those of the first policy for a profile that is not here any more."""
        found = self._rules.get(profile)
        if found is None:
            name, found = next(iter(self._rules.items()))
            self._rules[profile] = found
            self.counts["other_profile"] += 1
            log.warning("no policy of profile %s: its pages are delivered by the rules of %s", profile, name)
        return found

    def restore(self, deliveries: Sequence[Delivery], now_ns: int) -> None:
        """Take up what earlier lives left; each delivery once, as last written. What was on its way is uncertain and is sent again."""
        for one in sorted(deliveries, key=lambda d: (d.changed_ns, d.delivery_id)):
            lane = self._lanes.get(one.target)
            if one.state in ENDED:
                marker = one.http_status == GONE and lane is not None and one.error == _gone(lane.target)
                if marker and lane is not None and one.changed_ns >= lane.target.enabled_since_ns:
                    lane.disabled = True
                self._ended[one.delivery_id] = _never() if marker else self._forget_at(one)
        for one in sorted(deliveries, key=lambda d: (d.next_ns or 0, d.changed_ns, d.delivery_id)):
            if one.state in ENDED:
                continue
            lane = self._lanes.get(one.target)
            self._open[one.delivery_id] = one
            if lane is None:
                self._end(one, "gave_up", now_ns, error="target_removed")
            elif lane.disabled:
                self._end(one, "target_disabled", now_ns, error=_gone(lane.target))
            elif one.next_ns is None:
                again = {
                    "state": "interrupted_uncertain",
                    "attempts": one.attempts + 1,
                    "next_ns": now_ns,
                    "changed_ns": now_ns,
                    "error": "interrupted",
                }
                self.counts["interrupted_uncertain"] += 1
                self._wait(self._change(one, again))
            else:
                self._wait(one)

    def take(self, notice: Notice, said_ns: int, now_ns: int) -> None:
        """Reserve a page for every target that is told of its profile. What was taken before, or pages nobody, is left alone."""
        if not notice.notify:
            return
        for lane in self._lanes.values():
            target = lane.target
            if target.profiles and notice.profile not in target.profiles:
                continue
            delivery_id, webhook_id = delivery_ids(notice, target.name)
            if delivery_id in self._open or delivery_id in self._ended:
                self.counts["known"] += 1
                continue
            self.counts["taken"] += 1
            one = Delivery(
                delivery_id=delivery_id, webhook_id=webhook_id, target=target.name, account=notice.account, episode_id=notice.episode_id,
                occurrence_seq=notice.occurrence_seq, notification_seq=notice.notification_seq, state="reserved", attempts=0, next_ns=now_ns,
                changed_ns=now_ns, body=body_of(notice, said_ns, target.include_subjects),
            )  # fmt: skip
            self._open[delivery_id] = one
            self.changed[delivery_id] = one
            if lane.disabled:
                self._end(one, "target_disabled", now_ns, error=_gone(target))
            elif len(lane.waiting) >= target.max_waiting:
                self.counts["overflow"] += 1
                self._end(one, "gave_up", now_ns, error="overflow")
            else:
                self._wait(one)

    def start(self, now_ns: int) -> list[Delivery]:
        """Return what is to be sent now, each reserved; to be sent once `changed` is written."""
        started = []
        for lane in self._lanes.values():
            while lane.waiting and lane.waiting[0][0] <= now_ns and lane.sending < lane.target.in_flight:
                one = self._open.get(heapq.heappop(lane.waiting)[2])
                if one is None:
                    continue
                lane.sending += 1
                self.counts["attempts"] += 1
                started.append(
                    self._change(one, {"state": "reserved", "next_ns": None, "changed_ns": now_ns, "error": None, "http_status": None})
                )
        return started

    def finished(self, delivery_id: str, outcome: Outcome, now_ns: int) -> None:
        """Take in what became of an attempt."""
        one = self._open[delivery_id]
        lane = self._lanes[one.target]
        lane.sending -= 1
        told = {"attempts": one.attempts + 1, "http_status": outcome.status, "error": outcome.error}
        verdict = outcome.verdict
        lane.failures = 0 if verdict == "accepted" else lane.failures + 1
        one = one.model_copy(update=told)
        rules = self.rules_of(one.body["data"]["profile"])
        if verdict == "accepted":
            self._end(one, "accepted", now_ns)
        elif outcome.status == GONE:
            lane.disabled = True
            log.error("webhook %s answered 410: nothing more is sent to it", one.target)
            self._end(one, "target_disabled", now_ns, error=_gone(lane.target))
            for _, _, waiting in sorted(lane.waiting):
                if waiting in self._open:
                    self._end(self._open[waiting], "target_disabled", now_ns, error=_gone(lane.target))
            lane.waiting.clear()
        elif verdict == "rejected":
            self._end(one, "rejected", now_ns, error=outcome.error or "status")
        elif lane.disabled:
            self._end(one, "target_disabled", now_ns, error=_gone(lane.target))
        elif one.attempts > len(rules.retry_s):
            self._end(one, "gave_up", now_ns, error=outcome.error or "status")
        else:
            later_ns = now_ns + rules.retry_s[one.attempts - 1] * _SECOND_NS
            self._wait(self._change(one, {"state": "retrying", "next_ns": later_ns, "changed_ns": now_ns}))

    def forget(self, now_ns: int) -> list[str]:
        """Return the deliveries whose receipts are past their time, and forget them."""
        old = [name for name, at_ns in self._ended.items() if at_ns <= now_ns]
        for name in old:
            del self._ended[name]
        return old

    def take_changed(self) -> tuple[list[Delivery], list[Delivery]]:
        """Return (deliveries to write, dead letters), and begin anew."""
        changed, dead = list(self.changed.values()), self.dead
        self.changed, self.dead = {}, []
        return changed, dead

    @property
    def sending(self) -> int:
        """Return how many attempts are under way."""
        return sum(lane.sending for lane in self._lanes.values())

    def next_ns(self) -> int | None:
        """Return when the next delivery is due, or None."""
        return min((lane.waiting[0][0] for lane in self._lanes.values() if lane.waiting), default=None)

    def health(self) -> dict[str, Health]:
        """Return how each target does: unavailable after 410, or as many failures in a row as one page is given; overflow: no more may wait."""
        tries = 1 + min(len(rules.retry_s) for rules in self._rules.values())
        found: dict[str, Health] = {}
        for name, lane in self._lanes.items():
            if lane.disabled or lane.failures >= tries:
                found[name] = "unavailable"
            elif len(lane.waiting) >= lane.target.max_waiting:
                found[name] = "overflow"
            else:
                found[name] = "degraded" if lane.failures else "healthy"
        return found

    def _wait(self, one: Delivery) -> None:
        self._serial += 1
        heapq.heappush(self._lanes[one.target].waiting, (one.next_ns or 0, self._serial, one.delivery_id))

    def _change(self, one: Delivery, update: Mapping[str, Any]) -> Delivery:
        after = one.model_copy(update=dict(update))
        self._open[one.delivery_id] = after
        self.changed[one.delivery_id] = after
        return after

    def _end(self, one: Delivery, state: str, now_ns: int, error: str | None = None) -> None:
        after = self._change(one, {"state": state, "next_ns": None, "changed_ns": now_ns, "error": error})
        del self._open[one.delivery_id]
        marker = after.http_status == GONE
        self._ended[one.delivery_id] = _never() if marker else self._forget_at(after)
        self.counts[state] += 1
        if state != "accepted":
            self.dead.append(after)

    def _forget_at(self, one: Delivery) -> int:
        return one.changed_ns + self.rules_of(one.body["data"]["profile"]).keep_days * _DAY_NS


def _gone(target: Target) -> str:
    """Return what marks a target as gone: only under this URL."""
    return "gone:" + hashlib.blake2b(target.url.encode(), digest_size=_DIGEST_BYTES).hexdigest()


def _never() -> int:
    return 2**63 - 1


# ---- HTTP ----------------------------------------------------------------------------------------------------------------------------

_attempt = threading.local()


class _Plain(HTTPConnection):
    def connect(self) -> None:
        super().connect()
        _attempt.sock = self.sock


class _Secure(HTTPSConnection):
    def connect(self) -> None:
        super().connect()
        _attempt.sock = self.sock


class Sender:
    """Sends in threads of each target's own. `submit` returns at once; what became of it comes out of `outcomes`."""

    def __init__(self, targets: Iterable[Target], clock: Callable[[], int] = time.time_ns) -> None:
        self.outcomes: queue.SimpleQueue[tuple[str, Outcome]] = queue.SimpleQueue()
        self._clock = clock
        self._orders: dict[str, queue.SimpleQueue[tuple[Delivery, float] | None]] = {}
        self._threads = []
        for target in targets:
            orders = self._orders[target.name] = queue.SimpleQueue()
            for number in range(target.in_flight):
                name = f"webhook-{target.name}-{number}"
                self._threads.append(threading.Thread(target=self._work, args=(target, orders), name=name, daemon=True))
        for thread in self._threads:
            thread.start()

    def submit(self, one: Delivery, timeout_s: float) -> None:
        """Send a delivery; after `timeout_s` it has failed, however slowly the answer drips."""
        self._orders[one.target].put((one, timeout_s))

    def close(self) -> None:
        """Let every thread end after the attempt it is in."""
        for thread in self._threads:
            self._orders[thread.name.removeprefix("webhook-").rpartition("-")[0]].put(None)

    def _work(self, target: Target, orders: queue.SimpleQueue[tuple[Delivery, float] | None]) -> None:
        pool = pool_of(target)
        path = _path(target.url)
        while (order := orders.get()) is not None:
            one, timeout_s = order
            body = raw(one.body)
            headers = {
                "content-type": "application/json",
                "user-agent": "hedgerow-monitor",
                **signature_headers(target.keys, one.webhook_id, self._clock() // _SECOND_NS, body),
            }
            try:
                outcome = post(pool, path, headers, body, timeout_s)
            except Exception:  # a thread that ends would leave its target one place short for good
                log.exception("webhook %s: an attempt failed in a way nobody thought of", target.name)
                outcome = Outcome(None, "internal_error")
            self.outcomes.put((one.delivery_id, outcome))


def pool_of(target: Target) -> urllib3.HTTPConnectionPool:
    """Return what connects to a target. No proxy is taken from the environment, and certificates are always checked."""
    parts = urllib3.util.parse_url(target.url)
    port = parts.port
    host = (parts.host or "").strip("[]")
    if parts.scheme == "http":
        pool = urllib3.HTTPConnectionPool(host, port, maxsize=1, retries=False)
        pool.ConnectionCls = _Plain
        return pool
    secure = urllib3.HTTPSConnectionPool(host, port, maxsize=1, retries=False, cert_reqs="CERT_REQUIRED", ca_certs=target.ca_file)
    secure.ConnectionCls = _Secure
    return secure


def _path(url: str) -> str:
    return urllib3.util.parse_url(url).request_uri


def post(pool: urllib3.HTTPConnectionPool, path: str, headers: Mapping[str, str], body: bytes, timeout_s: float) -> Outcome:
    """Make one attempt. Redirects are not followed, the answer's body is not read, and all of it together takes `timeout_s` at most."""
    late = threading.Event()
    _attempt.sock = None
    holder = _attempt.__dict__

    def cut() -> None:
        late.set()
        sock = holder.get("sock")
        if sock is not None:
            with suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)  # not the TLS socket's own, which takes its state away under the reader

    timer = threading.Timer(timeout_s, cut)
    timer.daemon = True
    timer.start()
    try:
        answer = pool.urlopen(
            "POST", path, body=body, headers=dict(headers), redirect=False, retries=False, timeout=urllib3.Timeout(total=timeout_s),
            preload_content=False,
        )  # fmt: skip
        status = int(answer.status)
        answer.close()
        return Outcome(status)
    except (HTTPError, OSError, ValueError) as error:
        return Outcome(None, "timeout" if late.is_set() else _said(error))
    finally:
        timer.cancel()


def _said(error: BaseException) -> str:
    """Return what went wrong as a word: never the peer's or the library's text, which may hold a URL."""
    name = type(error).__name__
    if "Timeout" in name:
        return "timeout"
    return {"NewConnectionError": "unreachable", "NameResolutionError": "name_unknown", "SSLError": "tls"}.get(name, "no_answer")


# ---- Kafka ---------------------------------------------------------------------------------------------------------------------------


class Journal:
    """Notices in; deliveries, dead letters and offsets out, each batch one transaction. Used from one thread. One deliverer at a time: the last wins.

    lookback_ns: at the very first start notices are read from so long ago.
    """

    def __init__(self, bootstrap: str, client: Mapping[str, Any], lookback_ns: int, group: str = GROUP) -> None:
        self._group = group
        self._lookback_ns = lookback_ns
        self._admin = connect(bootstrap, client)
        base = {**client, "bootstrap.servers": bootstrap, "logger": log}
        reading = {
            "enable.auto.commit": False, "enable.auto.offset.store": False, "auto.offset.reset": "earliest", "isolation.level": "read_committed",
        }  # fmt: skip
        self._consumer = Consumer(base | reading | {"group.id": group, "client.id": f"{group}-notices"})
        self._reader_settings = (
            base | reading | {"group.id": f"{group}-reader", "client.id": f"{group}-reader", "enable.partition.eof": True}
        )
        self._producer = Producer(
            base
            | {
                "client.id": group,
                "transactional.id": group,
                "partitioner": "murmur2_random",
                "transaction.timeout.ms": round(1000 * _KAFKA_S),
                "linger.ms": 0,
            }
        )
        self._moved: dict[int, int] = {}

    def open(self, now_ns: int) -> list[Delivery]:
        """Fence earlier deliverers, begin to read notices, and return all deliveries as last written."""
        self._transactional(self._producer.init_transactions)
        found: dict[str, Delivery] = {}
        for record in self._whole(DELIVERIES):
            key = (record.key() or b"").decode(errors="replace")
            if not record.value():
                found.pop(key, None)
                continue
            message = parse(DeliveryMessage, record.value() or b"")
            if isinstance(message, tuple):
                log.error("%s[%s] offset %s is left out: %s", DELIVERIES, record.partition(), record.offset(), message[1])
                continue
            found[key] = message.payload
        parts = self._parts(NOTICES)
        try:
            committed = self._consumer.committed(parts, timeout=_KAFKA_S)
        except KafkaException as error:
            raise SessionError(f"committed offsets of group {self._group}: {error.args[0].str()}") from error
        first = {part.partition for part in committed if part.offset < 0}
        starts = self._since(now_ns - self._lookback_ns) if first else {}
        where = [
            TopicPartition(NOTICES, part.partition, starts[part.partition] if part.partition in first else part.offset)
            for part in committed
        ]
        self._moved = {part.partition: part.offset for part in where if part.partition in first}
        self._consumer.assign(where)
        return list(found.values())

    def notices(self, timeout_s: float) -> Iterator[tuple[Notice, int]]:
        """Yield (notice, when it was said) of what came in. What is not as the contract says is logged and left out."""
        for record in self._consumer.consume(500, timeout_s):
            fault = record.error()
            if fault is not None:
                if fault.fatal() or not fault.retriable():
                    raise SessionError(f"{NOTICES}: {fault.str()} ({fault.name()})")
                continue
            self._moved[record.partition() or 0] = (record.offset() or 0) + 1
            message = parse(NoticeMessage, record.value() or b"")
            if isinstance(message, tuple) or message.sender != SENDER:
                why = message[1] if isinstance(message, tuple) else f"sent by {message.sender}"
                log.error("%s[%s] offset %s is left out: %s", NOTICES, record.partition(), record.offset(), why)
                continue
            yield message.payload, message.ts_ns

    @property
    def moved(self) -> bool:
        """Return whether notices were read whose offsets are not committed."""
        return bool(self._moved)

    def write(self, changed: Sequence[Delivery], dead: Sequence[Delivery] = (), forgotten: Sequence[str] = ()) -> None:
        """Write deliveries, dead letters and the offsets read so far, all or nothing. Raises Fenced or Aborted: then nothing of it was written."""
        try:
            self._producer.begin_transaction()
            for one in changed:
                self._producer.produce(DELIVERIES, _message(DELIVERIES, one), one.delivery_id.encode())
            for one in dead:
                self._producer.produce(DEAD, _message(DEAD, one), one.account.encode())
            for name in forgotten:
                self._producer.produce(DELIVERIES, None, name.encode())
            if self._moved:
                offsets = [TopicPartition(NOTICES, partition, offset) for partition, offset in sorted(self._moved.items())]
                # A group without members: nobody is assigned anything, and the offsets are fenced by the producer's id alone.
                metadata = self._consumer.consumer_group_metadata()
                self._transactional(lambda timeout: self._producer.send_offsets_to_transaction(offsets, metadata, timeout))
        except (KafkaException, BufferError) as error:
            raise _failure(error) from error
        self._transactional(self._producer.commit_transaction)
        self._moved = {}

    def close(self) -> None:
        """Close the clients."""
        with suppress(KafkaException, RuntimeError):
            self._consumer.close()

    def _transactional(self, call: Callable[[float], T]) -> T:
        deadline = time.monotonic() + _KAFKA_S
        while True:
            try:
                return call(max(0.1, min(5.0, deadline - time.monotonic())))
            except KafkaException as error:
                cause = error.args[0]
                if cause.retriable() and not cause.fatal() and time.monotonic() < deadline:
                    continue
                if cause.txn_requires_abort():
                    with suppress(KafkaException):
                        self._producer.abort_transaction(5.0)
                raise _failure(error) from error

    def _parts(self, topic: str) -> list[TopicPartition]:
        try:
            known = self._admin.list_topics(topic, timeout=_KAFKA_S).topics[topic]
        except KafkaException as error:
            raise SessionError(f"{topic}: {error.args[0].str()}") from error
        if known.error is not None:
            raise SessionError(f"{topic}: {known.error.str()}")
        return [TopicPartition(topic, partition) for partition in sorted(known.partitions)]

    def _offsets(self, topic: str, spec: Any) -> dict[int, int]:
        asked = self._admin.list_offsets(
            dict.fromkeys(self._parts(topic), spec), isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=_KAFKA_S
        )
        try:
            return {part.partition: answer.result().offset for part, answer in asked.items()}
        except KafkaException as error:
            raise SessionError(f"offsets of {topic}: {error.args[0].str()}") from error

    def _since(self, since_ns: int) -> dict[int, int]:
        """Return each partition's first offset of that time or later; its end when nothing is that young."""
        later = self._offsets(NOTICES, OffsetSpec.for_timestamp(max(0, since_ns // 1_000_000)))
        ends = self._offsets(NOTICES, OffsetSpec.latest())  # type: ignore[no-untyped-call]
        return {partition: offset if offset >= 0 else ends[partition] for partition, offset in later.items()}

    def _whole(self, topic: str) -> Iterator[Message]:
        """Yield the committed records of a topic up to its end."""
        starts = self._offsets(topic, OffsetSpec.earliest())  # type: ignore[no-untyped-call]
        reader = Consumer(self._reader_settings)
        left = set(starts)
        try:
            reader.assign([TopicPartition(topic, partition, offset) for partition, offset in starts.items()])
            heard = time.monotonic()
            while left:
                for record in reader.consume(10_000, _POLL_S):
                    heard = time.monotonic()
                    fault = record.error()
                    if fault is None:
                        yield record
                    elif fault.code() == KafkaError._PARTITION_EOF:
                        left.discard(record.partition() or 0)
                    elif not fault.retriable():
                        raise SessionError(f"{topic}: {fault.str()} ({fault.name()})")
                if time.monotonic() - heard > _KAFKA_S:
                    raise SessionError(f"{topic} could not be read to its end: nothing came for {_KAFKA_S:.0f} s")
        finally:
            reader.close()


def _failure(error: BaseException) -> SessionError:
    cause = error.args[0] if error.args else error
    if not isinstance(cause, KafkaError):
        return Aborted(str(cause))
    fenced = cause.code() in (KafkaError._FENCED, KafkaError.INVALID_PRODUCER_EPOCH, KafkaError.PRODUCER_FENCED)
    return (Fenced if fenced else Aborted)(f"{cause.str()} ({cause.name()})")


def _message(topic: str, one: Delivery) -> bytes:
    name = f"{topic}:{one.delivery_id}:{one.state}:{one.attempts}:{one.changed_ns}"
    digest = hashlib.blake2b(name.encode(), digest_size=_DIGEST_BYTES).hexdigest()
    identity = f"{digest[:8]}-{digest[8:12]}-{digest[12:16]}-{digest[16:20]}-{digest[20:]}"
    message = {
        "msg_id": identity,
        "type": topic,
        "version": "v1",
        "ts": rfc3339(one.changed_ns),
        "ts_ns": one.changed_ns,
        "ttl_ms": TTL_MS,
        "sender": SENDER,
        "idempotency_key": identity,
        "payload": one.model_dump(exclude_none=True),
    }
    return json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode()


# ---- together ------------------------------------------------------------------------------------------------------------------------


def serve(
    bootstrap: str,
    client: Mapping[str, Any],
    targets: Sequence[Target],
    policies: Mapping[str, RiskPolicy],
    *,
    clock: Callable[[], int] = time.time_ns,
    stopping: Callable[[], bool] | None = None,
    fault: Fault = lambda point: None,
    group: str = GROUP,
) -> None:
    """Deliver until `stopping` (default: SIGTERM or SIGINT) says so; attempts under way are waited for and recorded.

    fault(point) is called at before_reserve, before_send, before_record and after_record. Raises Fenced when another deliverer has taken over,
    SessionError when Kafka cannot be used; a new start goes on from what was written.
    """
    rules = [policy.policy.monitor for policy in policies.values()]
    # What is still urgent was said within an urgent page's time to repeat: older pages are history to a deliverer that never ran.
    journal = Journal(bootstrap, client, max(one.repeat_urgent_s for one in rules) * _SECOND_NS, group)
    sender = Sender(targets, clock)
    deliverer = Deliverer(targets, policies)
    with _asked_to_stop(stopping) as asked:
        try:
            deliverer.restore(journal.open(clock()), clock())
            journal.write(*deliverer.take_changed())  # what is uncertain is on record before it is sent again
            _serve(journal, sender, deliverer, clock, asked, fault)
        finally:
            sender.close()
            journal.close()


def _serve(
    journal: Journal, sender: Sender, deliverer: Deliverer, clock: Callable[[], int], asked: Callable[[], bool], fault: Fault
) -> None:
    health: dict[str, Health] = {}
    pruned_ns = committed_ns = told_ns = 0
    while True:
        stop = asked()
        if stop and not deliverer.sending:
            break
        if not stop:
            for notice, said_ns in journal.notices(_POLL_S):
                deliverer.take(notice, said_ns, clock())
        recorded = _collect(sender, deliverer, clock, wait=stop)
        now_ns = clock()
        started = [] if stop else deliverer.start(now_ns)
        forgotten: list[str] = []
        if now_ns - pruned_ns >= _PRUNE_NS:
            pruned_ns, forgotten = now_ns, deliverer.forget(now_ns)
        changed, dead = deliverer.take_changed()
        if changed or dead or forgotten or (journal.moved and now_ns - committed_ns >= _COMMIT_NS):
            fault("before_record" if recorded else "before_reserve")
            journal.write(changed, dead, forgotten)
            committed_ns = now_ns
            if recorded:
                fault("after_record")
        if started:
            fault("before_send")
        for one in started:
            sender.submit(one, deliverer.rules_of(one.body["data"]["profile"]).timeout_s)
        if now_ns - told_ns >= _TELL_NS and deliverer.health() != health:
            health, told_ns = deliverer.health(), now_ns
            log.log(logging.INFO if set(health.values()) <= {"healthy"} else logging.WARNING, "webhooks: %s", health)
    if journal.moved:
        journal.write(*deliverer.take_changed())


def _collect(sender: Sender, deliverer: Deliverer, clock: Callable[[], int], wait: bool) -> int:
    """Take in the outcomes there are; wait: for the first of them, a little. Return how many."""
    count = 0
    while True:
        try:
            delivery_id, outcome = sender.outcomes.get(timeout=_POLL_S) if wait and not count else sender.outcomes.get_nowait()
        except queue.Empty:
            return count
        deliverer.finished(delivery_id, outcome, clock())
        count += 1


@contextmanager
def _asked_to_stop(stopping: Callable[[], bool] | None) -> Iterator[Callable[[], bool]]:
    if stopping is not None:
        yield stopping
        return
    signals: list[int] = []
    before = {number: signal.signal(number, lambda n, frame: signals.append(n)) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: bool(signals)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
