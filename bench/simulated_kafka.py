"""Kafka in memory, as far as exactly-once depends on it: logs with transactions, the group and transaction coordinators, and their clients.

`Broker` holds the truth and is changed only by whole steps; `SimConsumer`, `SimProducer` and `SimAdmin` stand where librdkafka's clients
stand (connectors.kafka.Clients), so the real `Session` runs on them. Every place where a real client would wait for the network is a call
of `Host.step` or `Host.wait`: there the scheduler (bench/simulation.py) may let anybody else go first, or end the process.

What is modelled and what is not: docs/simulation.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from random import Random
from types import SimpleNamespace
from typing import Any, NamedTuple, Protocol

from confluent_kafka import OFFSET_BEGINNING, IsolationLevel, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import OffsetSpec  # type: ignore[attr-defined]

Place = tuple[str, int]
OFFSETS: Place = ("__consumer_offsets", 0)
OPEN, COMMITTED, ABORTED = range(3)


class Host(Protocol):
    """The process a client lives in, as the scheduler sees it."""

    name: str
    chance: Random
    silent_since: float | None
    """Since when the process sends no heartbeats: it is stopped, dead or has closed its consumer."""

    def now(self) -> float:
        """Return the simulated time in seconds."""
        ...

    def step(self, what: str) -> None:
        """Let others go first. Ends the fiber when the process was killed meanwhile."""
        ...

    def wait(self, ready: Callable[[], bool], timeout_s: float, what: str) -> bool:
        """Let others go until `ready`; return False when the time is over first."""
        ...


def failure(code: int, text: str, *, fatal: bool = False, retriable: bool = False, abort: bool = False) -> KafkaException:
    """Return a client error as librdkafka would classify it."""
    return KafkaException(KafkaError(code, text, fatal, retriable, abort))


# ---- the broker -----------------------------------------------------------------------------------------------------------------


class Entry(NamedTuple):
    """One offset of a log: a record, or a transaction marker (`marker`). `txn` None: written outside transactions."""

    key: bytes
    value: bytes
    txn: Txn | None
    marker: bool = False


class Txn:
    """One transaction, from its first record or offset until its last marker is written."""

    __slots__ = ("began", "client", "epoch", "first", "offsets", "records", "state", "tid", "unmarked")

    def __init__(self, tid: str, epoch: int, client: str, began: float) -> None:
        self.tid, self.epoch, self.client, self.began = tid, epoch, client, began
        self.state = OPEN
        self.first: dict[Place, int] = {}
        self.records: list[tuple[str, int, int, bytes, bytes]] = []
        self.offsets: dict[Place, tuple[int, str, int]] = {}
        """Offset, metadata, and when it was written, counted over all transactions."""
        self.unmarked: list[Place] = []


class Log:
    """One partition. Offsets are list indices; `start` is the log start after deletions."""

    __slots__ = ("entries", "open", "start")

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.start = 0
        self.open: dict[Txn, int] = {}

    def stable(self) -> int:
        """Return the last stable offset: the first of a transaction whose marker is not written yet, or the end."""
        return next(iter(self.open.values())) if self.open else len(self.entries)

    def committed(self, first: int, end: int) -> Iterator[tuple[int, Entry]]:
        """Yield the records in [first, end) that a read_committed reader is given, decided transactions only."""
        for offset in range(max(first, self.start), end):
            entry = self.entries[offset]
            if not entry.marker and (entry.txn is None or entry.txn.state == COMMITTED):
                yield offset, entry


class _Coordinated:
    """What the transaction coordinator knows of a transactional id."""

    __slots__ = ("epoch", "last", "timeout_s", "txn")

    def __init__(self) -> None:
        self.epoch = -1
        self.txn: Txn | None = None
        self.last = OPEN
        self.timeout_s = 60.0


class Refused(Exception):
    """The broker says no; `code` is Kafka's."""

    def __init__(self, code: int) -> None:
        super().__init__(KafkaError(code).name())
        self.code = code


class Broker:
    """All partitions and both coordinators. `decided(txn)` is called at the moment a transaction is committed or aborted."""

    def __init__(
        self, topics: dict[str, int], group: Group, decided: Callable[[Txn], None], partitioner: Callable[[str, bytes], int]
    ) -> None:
        self.topics = topics
        self.logs: dict[Place, Log] = {(topic, n): Log() for topic, count in topics.items() for n in range(count)}
        self.group = group
        self.partitioner = partitioner
        self.producers: dict[str, _Coordinated] = {}
        self.deciding: list[Txn] = []
        self.offsets: dict[Place, tuple[int, str, int]] = {}
        self.written = 0
        self.pending: dict[Place, int] = {}
        self.deletions: list[tuple[Place, int, Future[Any]]] = []
        self.away_until = 0.0
        self.now = 0.0
        self._decided = decided

    def away(self) -> bool:
        """Return whether the coordinators do not answer at the moment."""
        return self.now < self.away_until

    # -- transactions

    def init_producer(self, tid: str, timeout_s: float) -> int | None:
        """Fence every earlier producer of an id and return the new epoch; None: its transaction is being ended, ask again."""
        known = self.producers.setdefault(tid, _Coordinated())
        known.timeout_s = timeout_s
        if known.txn is not None:
            if known.txn.state == OPEN:
                known.epoch += 1
                self._decide(known, ABORTED)
            return None
        known.epoch += 1
        known.last = OPEN
        return known.epoch

    def busy(self, tid: str, epoch: int) -> bool:
        """Return whether markers of this producer's last transaction are still to be written (CONCURRENT_TRANSACTIONS)."""
        known = self.producers[tid]
        return known.epoch == epoch and known.txn is not None and known.txn.state != OPEN

    def _txn(self, tid: str, epoch: int, client: str) -> Txn:
        known = self.producers[tid]
        if known.epoch != epoch:
            raise Refused(KafkaError.INVALID_PRODUCER_EPOCH)
        if known.txn is None:
            known.txn = Txn(tid, epoch, client, self.now)
        elif known.txn.state != OPEN:
            raise Refused(KafkaError.CONCURRENT_TRANSACTIONS)
        return known.txn

    def append(self, tid: str, epoch: int, client: str, place: Place, records: Sequence[tuple[bytes, bytes]]) -> int:
        """Write records within a transaction; return the first offset."""
        txn = self._txn(tid, epoch, client)
        log = self.logs[place]
        first = len(log.entries)
        if txn not in log.open:
            log.open[txn] = txn.first[place] = first
        for at, (key, value) in enumerate(records, first):
            log.entries.append(Entry(key, value, txn))
            txn.records.append((*place, at, key, value))
        return first

    def append_plain(self, place: Place, key: bytes, value: bytes) -> int:
        """Write a record outside any transaction."""
        log = self.logs[place]
        log.entries.append(Entry(key, value, None))
        return len(log.entries) - 1

    def add_offsets(self, tid: str, epoch: int, client: str, offsets: Sequence[tuple[Place, int, str]], member: Membership) -> None:
        """Make group offsets part of a transaction, if who asks is still a member of the group."""
        txn = self._txn(tid, epoch, client)
        self.group.check(member)
        for place, offset, metadata in offsets:
            if place not in txn.offsets:
                self.pending[place] = self.pending.get(place, 0) + 1
            self.written += 1
            txn.offsets[place] = (offset, metadata, self.written)

    def end(self, tid: str, epoch: int, state: int) -> None:
        """Commit or abort; asking again for what was already decided is no error."""
        known = self.producers[tid]
        if known.epoch != epoch:
            raise Refused(KafkaError.PRODUCER_FENCED)
        if known.txn is None or known.txn.state != OPEN:
            if known.last != state:
                raise Refused(KafkaError.INVALID_TXN_STATE)
            return
        self._decide(known, state)

    def _decide(self, known: _Coordinated, state: int) -> None:
        txn = known.txn
        assert txn is not None
        txn.state = known.last = state
        txn.unmarked = [*txn.first, *([OFFSETS] if txn.offsets else [])]
        self.deciding.append(txn)
        self._decided(txn)
        if not txn.unmarked:
            self._finish(txn)

    def mark(self, chance: Random) -> None:
        """Write one marker of some decided transaction: until then readers and other owners of its offsets wait."""
        txn = self.deciding[int(chance.random() * len(self.deciding))]
        place = txn.unmarked.pop(int(chance.random() * len(txn.unmarked)))
        if place == OFFSETS:
            for at, told in txn.offsets.items():
                self.pending[at] -= 1
                # of two transactions whose markers come in the other order, the offset written later stays
                if txn.state == COMMITTED and (at not in self.offsets or self.offsets[at][2] < told[2]):
                    self.offsets[at] = told
        else:
            log = self.logs[place]
            del log.open[txn]
            log.entries.append(Entry(b"", b"", txn, True))
        if not txn.unmarked:
            self._finish(txn)

    def _finish(self, txn: Txn) -> None:
        self.deciding.remove(txn)
        known = self.producers[txn.tid]
        if known.txn is txn:
            known.txn = None

    def expire(self) -> None:
        """Abort transactions that are open for too long, and remove members that are silent for too long."""
        for known in self.producers.values():
            if known.txn is not None and known.txn.state == OPEN and self.now - known.txn.began > known.timeout_s:
                known.epoch += 1
                self._decide(known, ABORTED)
        self.group.expire(self.now)

    def delete_some(self, chance: Random) -> Place:
        """Do one of the deletions that were asked for."""
        place, before, future = self.deletions.pop(int(chance.random() * len(self.deletions)))
        log = self.logs[place]
        if before > len(log.entries):
            future.set_exception(failure(KafkaError.OFFSET_OUT_OF_RANGE, "beyond the end"))
        else:
            log.start = max(log.start, before)
            future.set_result(None)
        return place


class Membership(NamedTuple):
    """What a consumer's group metadata says; generation -1 without a member id is what a client outside any group sends."""

    generation: int
    member_id: str
    instance: str


NOBODY = Membership(-1, "", "")


class Member:
    """One member of the group, as the coordinator sees it."""

    __slots__ = ("host", "id", "joined", "lanes")

    def __init__(self, member_id: str, host: Host) -> None:
        self.id = member_id
        self.host = host
        self.joined = True
        self.lanes: list[int] = []


class Group:
    """The consumer group: classic protocol, eager, range assignor, static members."""

    def __init__(self, n_lanes: int, session_timeout_s: float) -> None:
        self.n_lanes = n_lanes
        self.session_timeout_s = session_timeout_s
        self.generation = 0
        self.joining = False
        self.members: dict[str, Member] = {}
        self._ids = 0

    def join(self, instance: str, member_id: str, host: Host) -> str:
        """Join, or join again; return the member id. A new process of a known static member takes its place without a rebalance."""
        member = self.members.get(instance)
        if member is not None and member_id != "" and member.id != member_id:
            raise Refused(KafkaError.FENCED_INSTANCE_ID)
        if member is None and member_id != "":
            raise Refused(KafkaError.UNKNOWN_MEMBER_ID)
        if member is None:
            self._ids += 1
            member = self.members[instance] = Member(f"{instance}#{self._ids}", host)
            self._rebalance()
        elif member_id == "":
            self._ids += 1
            member.id, member.host = f"{instance}#{self._ids}", host
        member.joined = True
        self._complete()
        return member.id

    def leave(self, instance: str, member_id: str) -> None:
        """Leave, and let the others share the lanes."""
        member = self.members.get(instance)
        if member is not None and member.id == member_id:
            del self.members[instance]
            self._rebalance()

    def expire(self, now: float) -> None:
        """Remove silent members."""
        for instance, member in list(self.members.items()):
            since = member.host.silent_since
            if since is not None and now - since > self.session_timeout_s:
                del self.members[instance]
                self._rebalance()

    def check(self, member: Membership) -> None:
        """Refuse offsets from anybody but a member of this generation; outside any group there is nothing to check."""
        if member == NOBODY:
            return
        known = self.members.get(member.instance)
        if known is None:
            raise Refused(KafkaError.UNKNOWN_MEMBER_ID)
        if known.id != member.member_id:
            raise Refused(KafkaError.FENCED_INSTANCE_ID)
        if member.generation != self.generation:
            raise Refused(KafkaError.ILLEGAL_GENERATION)

    def _rebalance(self) -> None:
        if not self.joining:
            self.joining = True
            for member in self.members.values():
                member.joined = False
        self._complete()

    def _complete(self) -> None:
        if not self.joining or not all(member.joined for member in self.members.values()):
            return
        self.joining = False
        self.generation += 1
        names = sorted(self.members)
        at = 0
        for number, name in enumerate(names):
            count = self.n_lanes // len(names) + (number < self.n_lanes % len(names))
            self.members[name].lanes = list(range(at, at + count))
            at += count


# ---- the clients ----------------------------------------------------------------------------------------------------------------


class Msg:
    """A message as a consumer or a delivery report hands it out."""

    __slots__ = ("_error", "_key", "_offset", "_place", "_value")

    def __init__(self, place: Place, offset: int, key: bytes, value: bytes, error: KafkaError | None = None) -> None:
        self._place, self._offset, self._key, self._value, self._error = place, offset, key, value, error

    def topic(self) -> str:
        """Return the topic."""
        return self._place[0]

    def partition(self) -> int:
        """Return the partition."""
        return self._place[1]

    def offset(self) -> int:
        """Return the offset."""
        return self._offset

    def key(self) -> bytes:
        """Return the key."""
        return self._key

    def value(self) -> bytes:
        """Return the value."""
        return self._value

    def error(self) -> KafkaError | None:
        """Return what went wrong instead of a message."""
        return self._error


class SimConsumer:
    """A group consumer (with `group.instance.id`), or a plain reader of assigned partitions."""

    def __init__(self, broker: Broker, host: Host, settings: dict[str, Any]) -> None:
        self.broker, self.host = broker, host
        self._instance = settings.get("group.instance.id", "")
        self._error_cb = settings["error_cb"]
        self._eof = bool(settings.get("enable.partition.eof"))
        self._state = "none"
        self._member_id = ""
        self._generation = -1
        self._lanes: list[int] = []
        self._at: dict[Place, int] = {}
        self._ready: list[Msg] = []
        self._paused: set[Place] = set()
        self._told_end: dict[Place, int] = {}

    # -- membership

    def subscribe(self, topics: list[str], on_assign: Any, on_revoke: Any, on_lost: Any) -> None:
        """Want lanes; they come in `consume`."""
        self._topics, self._on_assign, self._on_revoke, self._on_lost = topics, on_assign, on_revoke, on_lost
        self._state = "join"

    def unsubscribe(self) -> None:
        """Leave, within the next `consume`."""
        self._state = "leave"

    def memberid(self) -> str:
        """Return the member id, empty outside the group."""
        return self._member_id

    def consumer_group_metadata(self) -> Membership:
        """Return what a transactional producer shows the group coordinator."""
        return Membership(self._generation, self._member_id, self._instance) if self._member_id else NOBODY

    def _parts(self) -> list[TopicPartition]:
        return [TopicPartition(topic, lane) for topic in self._topics for lane in self._lanes]

    def _serve(self) -> None:
        """Learn what the group coordinator says, one message at a time, and call back."""
        group = self.broker.group
        if self._state == "leave":
            self._give_up(self._on_revoke)
            group.leave(self._instance, self._member_id)
            self._member_id, self._state = "", "none"
            return
        if self._state == "join":
            try:
                self._member_id = group.join(self._instance, self._member_id, self.host)
                self._state = "wait"
            except Refused as refused:
                self._told(refused.code)
            return
        member = group.members.get(self._instance)
        if member is None or member.id != self._member_id:
            self._told(KafkaError.UNKNOWN_MEMBER_ID if member is None else KafkaError.FENCED_INSTANCE_ID)
        elif self._state == "wait":
            if not group.joining:
                self._lanes, self._generation, self._state = list(member.lanes), group.generation, "member"
                self._on_assign(self, self._parts())
            elif not member.joined:
                self._state = "join"
        elif group.joining and not member.joined:
            self._give_up(self._on_revoke)
            self._state = "join"

    def _told(self, code: int) -> None:
        if code == KafkaError.FENCED_INSTANCE_ID:
            self._state = "fenced"
            self._error_cb(KafkaError(code, "another process joined under this name", True))
        else:
            self._give_up(self._on_lost)
            self._member_id, self._state = "", "join"

    def _give_up(self, callback: Any) -> None:
        if self._state == "member" or (self._state == "leave" and self._lanes):
            callback(self, self._parts())
        self._lanes, self._at = [], {}

    # -- records

    def assign(self, parts: list[TopicPartition]) -> None:
        """Read these partitions from their offsets."""
        logs = self.broker.logs
        self._at = {}
        for tp in parts:
            place = (tp.topic, tp.partition)
            self._at[place] = logs[place].start if tp.offset == OFFSET_BEGINNING else tp.offset
        self._paused, self._told_end = set(), {}

    def unassign(self) -> None:
        """Read nothing."""
        self._at = {}

    def pause(self, parts: list[TopicPartition]) -> None:
        """Read nothing from these for the time being."""
        self._paused.update((tp.topic, tp.partition) for tp in parts)

    def resume(self, parts: list[TopicPartition]) -> None:
        """Read from these again."""
        self._paused.difference_update((tp.topic, tp.partition) for tp in parts)

    def poll(self, timeout: float) -> Msg | None:
        """Return the first of what `consume` would; the rest lies ready for a `consume` that does not wait."""
        found = self._gather()
        self._ready = found[1:]
        return found[0] if found else None

    def consume(self, limit: int, timeout: float) -> list[Msg]:
        """Return committed records, in order per partition, some of what there is; without waiting what `poll` left ready. Serves the group."""
        ready, self._ready = self._ready, []
        return ready if timeout == 0 else self._gather()

    def _gather(self) -> list[Msg]:
        host = self.host
        host.step("poll")
        chance = host.chance
        if self._state != "none" and chance.random() < (0.3 if self._state == "member" else 0.8):
            self._serve()
        found: list[Msg] = []
        for place, at in list(self._at.items()):
            log = self.broker.logs[place]
            stable = log.stable()
            if at < log.start:
                at = log.start
            if at < stable:
                if place not in self._paused and chance.random() < 0.7:
                    self._fetch(place, log, at, min(stable, at + int(1 + chance.random() * 12)), found)
            elif self._eof and self._told_end.get(place) != at:
                self._told_end[place] = at
                found.append(Msg(place, at, b"", b"", KafkaError(KafkaError._PARTITION_EOF)))
        return found

    def _fetch(self, place: Place, log: Log, at: int, end: int, found: list[Msg]) -> None:
        for offset, entry in log.committed(at, end):
            found.append(Msg(place, offset, entry.key, entry.value))
        self._at[place] = end

    def committed(self, asked: list[TopicPartition], timeout: float) -> list[TopicPartition]:
        """Return the group's offsets; waits while transactions hold some back."""
        broker = self.broker
        self.host.step("committed")

        def held() -> bool:
            return any(broker.pending.get((tp.topic, tp.partition)) for tp in asked)

        if broker.away() or held():
            self.host.wait(lambda: not broker.away() and not held(), timeout, "stable offsets")
            if broker.away() or held():
                raise failure(KafkaError.UNSTABLE_OFFSET_COMMIT, "offsets are pending", retriable=True)
        answer = []
        for tp in asked:
            offset, metadata, _ = broker.offsets.get((tp.topic, tp.partition), (-1001, "", 0))
            answer.append(TopicPartition(tp.topic, tp.partition, offset, metadata))
        return answer

    def get_watermark_offsets(self, tp: TopicPartition, cached: bool) -> tuple[int, int]:
        """Return (first, end) offset."""
        log = self.broker.logs[tp.topic, tp.partition]
        return log.start, log.stable()

    def close(self) -> None:
        """Stop heartbeats without leaving: a static member's seat is kept until the session timeout."""
        self.host.step("close")
        if self._instance and self._member_id:
            self.host.silent_since = self.host.now()


class SimProducer:
    """A transactional producer. Records wait in its queue until they are delivered, partition by partition, at the scheduler's pleasure."""

    def __init__(self, broker: Broker, host: Host, settings: dict[str, Any]) -> None:
        self.broker, self.host = broker, host
        self.tid: str = settings["transactional.id"]
        self._timeout_s = settings["transaction.timeout.ms"] / 1000
        self._error_cb = settings["error_cb"]
        self.epoch = -1
        self.queue: dict[Place, list[tuple[bytes, bytes, Any]]] = {}
        self._reports: list[tuple[Any, Msg]] = []
        self._fatal: KafkaError | None = None
        self._abortable = False
        self._committing = False

    def init_transactions(self, timeout: float) -> None:
        """Fence earlier producers of this id; their open transaction is aborted."""
        deadline = self.host.now() + timeout
        while True:
            self.host.step("init_transactions")
            epoch = None if self.broker.away() else self.broker.init_producer(self.tid, self._timeout_s)
            if epoch is not None:
                self.epoch = epoch
                return
            if not self.host.wait(self._can_begin, deadline - self.host.now(), "init"):
                raise failure(KafkaError._TIMED_OUT, "init_transactions timed out", retriable=True)

    def _can_begin(self) -> bool:
        known = self.broker.producers.get(self.tid)
        return not self.broker.away() and (known is None or known.txn is None)

    def begin_transaction(self) -> None:
        """Begin; the broker hears of it with the first record or offset."""
        self._check()
        self._abortable = False

    def produce(self, topic: str, value: bytes, partition: int = -1, key: bytes | None = None, on_delivery: Any = None) -> None:
        """Queue one record."""
        self._put(topic, key or b"", value, partition, on_delivery)

    def produce_batch(self, topic: str, messages: list[dict[str, Any]], partition: int = -1) -> int:
        """Queue records; return how many there was room for."""
        for message in messages:
            self._put(topic, message["key"] or b"", message["value"], partition, None)
        return len(messages)

    def _put(self, topic: str, key: bytes, value: bytes, partition: int, on_delivery: Any) -> None:
        place = (topic, self.broker.partitioner(topic, key) if partition < 0 else partition)
        self.queue.setdefault(place, []).append((key, value, on_delivery))

    def deliver(self) -> bool:
        """Bring some records of one partition to the broker; return whether anything moved. Called by the scheduler too."""
        if not self.queue or self.broker.busy(self.tid, self.epoch):
            return False
        chance = self.host.chance
        places = list(self.queue)
        place = places[int(chance.random() * len(places))]
        records = self.queue[place]
        part = records[: 1 + int(chance.random() * 2 * len(records))]
        if len(part) == len(records):
            del self.queue[place]
        else:
            self.queue[place] = records[len(part) :]
        try:
            first = self.broker.append(self.tid, self.epoch, self.host.name, place, [(key, value) for key, value, _ in part])
        except Refused as refused:
            self._refuse(refused)
            return True
        for offset, (key, value, report) in enumerate(part, first):
            if report is not None:
                self._reports.append((report, Msg(place, offset, key, value)))
        return True

    def lose_some(self) -> bool:
        """Give up on records that could not be delivered in time, as librdkafka does: the transaction can only be aborted."""
        if not self.queue:
            return False
        del self.queue[next(iter(self.queue))]
        self._abortable = True
        return True

    def _refuse(self, refused: Refused) -> None:
        if self._fatal is None:
            self._fatal = KafkaError(KafkaError._FENCED, f"fenced by the broker: {refused}", True)
            self._error_cb(KafkaError(refused.code, str(refused), True))

    def _check(self) -> None:
        if self._fatal is not None:
            raise KafkaException(self._fatal)

    def poll(self, timeout: float) -> int:
        """Serve delivery reports."""
        reports, self._reports = self._reports, []
        for report, message in reports:
            report(None, message)
        return len(reports)

    def flush(self, timeout: float) -> int:
        """Deliver what is queued; return how many records are left when the time is over."""
        deadline = self.host.now() + timeout
        while self.queue and self._fatal is None:
            self.host.step("flush")
            if (
                not self.deliver()
                and self.queue
                and not self.host.wait(
                    lambda: not self.queue or not self.broker.busy(self.tid, self.epoch), deadline - self.host.now(), "flush"
                )
            ):
                break
        self.poll(0)
        return sum(map(len, self.queue.values()))

    def _coordinator(self, call: Callable[[], None], timeout: float, what: str) -> None:
        """Ask the transaction coordinator; the request or the answer may be lost while it is away, and is sent again when it is back."""
        host, broker = self.host, self.broker
        deadline = host.now() + timeout
        while True:
            host.step(what)
            self._check()
            if not broker.away() and not (what != "end" and broker.busy(self.tid, self.epoch)):
                try:
                    call()
                except Refused as refused:
                    if refused.code in (KafkaError.INVALID_PRODUCER_EPOCH, KafkaError.PRODUCER_FENCED):
                        self._refuse(refused)
                        self._check()
                    raise failure(refused.code, str(refused), abort=True) from None
                host.step(f"{what} done")
                if not broker.away():
                    return
            if not host.wait(
                lambda: not broker.away() and not (what != "end" and broker.busy(self.tid, self.epoch)), deadline - host.now(), what
            ):
                raise failure(KafkaError._TIMED_OUT, f"{what} timed out", retriable=True)

    def send_offsets_to_transaction(self, offsets: list[TopicPartition], member: Membership, timeout: float) -> None:
        """Make the group's offsets part of the transaction."""
        told = [((tp.topic, tp.partition), tp.offset, tp.metadata or "") for tp in offsets]
        self._coordinator(lambda: self.broker.add_offsets(self.tid, self.epoch, self.host.name, told, member), timeout, "offsets")

    def commit_transaction(self, timeout: float) -> None:
        """Deliver what is queued and commit. After a time-out, calling again goes on with the same commit."""
        self._check()
        if not self._committing:
            if self.flush(timeout) and self._fatal is None:
                raise failure(KafkaError._TIMED_OUT, "records are not delivered yet", retriable=True)
            self._check()
            if self._abortable:
                raise failure(KafkaError._MSG_TIMED_OUT, "records could not be delivered", abort=True)
        known = self.broker.producers[self.tid]
        if known.epoch == self.epoch and known.txn is None and not self._committing:
            return  # nothing was written: there is no transaction
        self._committing = True
        self._coordinator(lambda: self.broker.end(self.tid, self.epoch, COMMITTED), timeout, "end")
        self._committing = False
        self.poll(0)

    def abort_transaction(self, timeout: float) -> None:
        """Drop what is queued and abort."""
        if self._committing:
            raise failure(KafkaError._STATE, "a commit of unknown outcome is under way", fatal=True)
        self.queue.clear()
        self._check()
        known = self.broker.producers[self.tid]
        if known.epoch != self.epoch or (known.txn is not None and known.txn.state == OPEN):
            self._coordinator(lambda: self.broker.end(self.tid, self.epoch, ABORTED), timeout, "end")
        self._abortable = False


class _Known:
    """An answer that is already there."""

    __slots__ = ("_value",)

    def __init__(self, value: Any) -> None:
        self._value = value

    def result(self) -> Any:
        """Return it."""
        return self._value


class SimAdmin:
    """The admin client."""

    def __init__(self, broker: Broker, host: Host, settings: dict[str, Any]) -> None:
        self.broker, self.host = broker, host

    def list_topics(self, timeout: float) -> Any:
        """Return every topic with its partitions."""
        topics = {name: SimpleNamespace(partitions=dict.fromkeys(range(n)), error=None) for name, n in self.broker.topics.items()}
        return SimpleNamespace(topics=topics)

    def list_offsets(self, asked: dict[TopicPartition, Any], isolation_level: Any, request_timeout: float) -> dict[TopicPartition, Any]:
        """Return first, end or last stable offsets."""
        self.host.step("list_offsets")
        if self.broker.away() and self.host.chance.random() < 0.5:
            raise failure(KafkaError._TIMED_OUT, "no answer", retriable=True)
        answers = {}
        for tp, spec in asked.items():
            log = self.broker.logs[tp.topic, tp.partition]
            if spec == OffsetSpec.earliest():  # type: ignore[no-untyped-call]
                offset = log.start
            else:
                offset = log.stable() if isolation_level == IsolationLevel.READ_COMMITTED else len(log.entries)
            answers[tp] = _Known(SimpleNamespace(offset=offset))
        return answers

    def delete_records(self, parts: list[TopicPartition]) -> dict[TopicPartition, Future[Any]]:
        """Ask for records to be deleted; the broker does it some time later."""
        answers: dict[TopicPartition, Future[Any]] = {}
        for tp in parts:
            answers[tp] = Future()
            self.broker.deletions.append(((tp.topic, tp.partition), tp.offset, answers[tp]))
        return answers

    def describe_consumer_groups(self, names: list[str], request_timeout: float) -> dict[str, Any]:
        """Return the members."""
        members = [SimpleNamespace(group_instance_id=instance) for instance in self.broker.group.members]
        return {name: _Known(SimpleNamespace(members=members)) for name in names}
