"""One worker's Kafka session: a group consumer, two transactional producers that take turns, changelog reads and broadcast reads.

Pure Kafka: it moves bytes and offsets and knows no domain and no lane logic. The rules it keeps are those of the lane runtime
(design page, section 3) and of librdkafka's transactional API (its header: which errors to retry, which to abort on).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_INVALID,
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, OffsetSpec

from schemas.chunk import Chunk, Records, join, split

log = logging.getLogger("hedgerow.kafka")

START_MARK = "start"
"""Metadata of an offset that was committed only to fence a transaction, before anything was read from that partition."""

T = TypeVar("T")

_FENCED = frozenset(
    {
        KafkaError._FENCED,
        KafkaError.INVALID_PRODUCER_EPOCH,
        KafkaError.PRODUCER_FENCED,
        KafkaError.FENCED_INSTANCE_ID,
        KafkaError.ILLEGAL_GENERATION,
        KafkaError.UNKNOWN_MEMBER_ID,
        KafkaError.INVALID_PRODUCER_ID_MAPPING,
    }
)
_PASSING = frozenset(
    {
        KafkaError._TRANSPORT,
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._RESOLVE,
        KafkaError._MAX_POLL_EXCEEDED,
        KafkaError._TIMED_OUT,
        KafkaError._WAIT_COORD,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.NOT_COORDINATOR,
        KafkaError.REBALANCE_IN_PROGRESS,
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.UNSTABLE_OFFSET_COMMIT,
    }
)


class SessionError(Exception):
    """The session cannot go on; the process must end. The message is for the operator."""


class StartupError(SessionError):
    """The settings or the topics are wrong: starting again will not help until somebody changes them."""


class BrokerUnreachable(StartupError):
    """No broker answered at start-up."""


class Fenced(SessionError):
    """Somebody else owns what this worker thought it owned; nothing it had open was committed."""


class Aborted(SessionError):
    """A transaction could not be committed and was aborted; start again from the last commit."""


class OffsetsDisagree(SessionError):
    """State, committed offsets and what the input topics hold do not fit together; somebody must look."""


class Interrupted(SessionError):
    """A stop was asked for during a long wait."""


@dataclass(frozen=True)
class SessionConfig:
    """What one worker needs to know of Kafka and of its pace.

    bootstrap: `host:port,…`. client: further librdkafka settings for every client (TLS, SASL); the session's own win.
    worker: a name that is stable across restarts and unique in the group. inputs: co-partitioned topics; outputs: topics that must exist.
    Times are in ms, sizes in bytes.
    """

    bootstrap: str
    group_id: str
    worker: str
    inputs: tuple[str, ...]
    changelog: str
    outputs: tuple[str, ...] = ()
    broadcast: tuple[str, ...] = ()
    client: Mapping[str, Any] = field(default_factory=dict)
    commit_interval_ms: int = 10
    """How often a transaction is committed while there is input (docs/decisions/0011)."""
    fetch_wait_ms: int = 5
    """How long the broker may hold a fetch back for more records (docs/decisions/0011)."""
    idle_tick_ms: int = 100
    """How often the lanes' clocks are asked while there is none."""
    poll_ms: int = 5
    """How long one poll waits for a record when there is none."""
    max_chunk_records: int = 10_000
    lane_pause_bytes: int = 16 * 1024 * 1024
    """Uncommitted bytes (in and out) above which a lane's partitions are paused until they are committed."""
    max_uncommitted_bytes: int = 64 * 1024 * 1024
    """Uncommitted bytes of all lanes above which a commit does not wait for the interval."""
    session_timeout_ms: int = 6_000
    transaction_timeout_ms: int = 8_000
    assign_timeout_ms: int = 60_000
    """How long a new owner waits for transactions of the old one to end (brokers look for timed-out ones every 10 s)."""
    restore_timeout_ms: int = 120_000
    """How long reading one worker's changelogs or the broadcast topics may take at the start."""
    startup_timeout_ms: int = 8_000
    truncate_interval_ms: int = 10_000
    recount_interval_ms: int = 60_000
    """How often the broker is asked whether the co-partitioned topics still have the partitions they had at the start."""
    broadcast_lookback_ms: int | None = None
    """Read broadcast topics from this long ago instead of from their beginning."""
    broadcast_whole: tuple[str, ...] = ()
    """Those of them that are read from their beginning all the same: what they say holds until it is said otherwise."""
    tape_wait_ms: int = 10
    """How long a chunk may wait for broadcast data it needs, when the flow says it does."""
    max_record_bytes: int = 8 * 1024 * 1024
    metrics_port: int = 0
    metrics_host: str = "127.0.0.1"

    def __post_init__(self) -> None:
        for name in ("bootstrap", "group_id", "worker", "changelog"):
            if not getattr(self, name):
                raise StartupError(f"{name} must not be empty")
        if not self.inputs:
            raise StartupError("a flow needs at least one input topic")
        if not 10 <= self.commit_interval_ms <= self.transaction_timeout_ms // 2:
            raise StartupError(f"commit_interval_ms must be between 10 and half of transaction_timeout_ms, not {self.commit_interval_ms}")
        for name in (
            "idle_tick_ms",
            "poll_ms",
            "fetch_wait_ms",
            "max_chunk_records",
            "lane_pause_bytes",
            "max_uncommitted_bytes",
            "session_timeout_ms",
        ):
            if getattr(self, name) < 1:
                raise StartupError(f"{name} must be positive, not {getattr(self, name)}")
        if self.max_chunk_records > 1_000_000:
            raise StartupError(f"max_chunk_records must be at most 1000000, not {self.max_chunk_records}")

    @property
    def instance(self) -> str:
        """Return the `group.instance.id`."""
        return f"{self.group_id}-{self.worker}"

    @property
    def transactional_ids(self) -> tuple[str, str]:
        """Return the `transactional.id` of both producers."""
        return f"{self.instance}.0", f"{self.instance}.1"


@dataclass(frozen=True)
class Clients:
    """What a session is built on: librdkafka's clients and the clock. A simulation brings its own (bench/simulated_kafka.py)."""

    consumer: Callable[[dict[str, Any]], Any] = Consumer
    producer: Callable[[dict[str, Any]], Any] = Producer
    admin: Callable[[dict[str, Any]], Any] = AdminClient
    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


@dataclass(frozen=True)
class Delta:
    """One lane's part of a commit: changelog values (may be empty) and the offsets `{topic: next offset}` that moved."""

    lane: int
    values: list[bytes]
    moved: dict[str, int]


def chunks_of(messages: Sequence[Message], received_ns: int, on_error: Callable[[KafkaError, Message], None]) -> list[Chunk]:
    """Group messages by topic and partition, offset order kept; messages that carry an error go to `on_error` instead."""
    groups: dict[tuple[str, int], list[Message]] = {}
    for message in messages:
        error = message.error()
        if error is not None:
            on_error(error, message)
            continue
        key = (message.topic(), message.partition())
        group = groups.get(key)
        if group is None:
            groups[key] = [message]
        else:
            group.append(message)
    chunks = []
    for (topic, lane), group in groups.items():
        data, bounds = join([m.value() or b"" for m in group])
        keys, key_bounds = join([m.key() or b"" for m in group])
        offsets = np.fromiter((m.offset() for m in group), np.int64, len(group))
        chunks.append(Chunk(topic, lane, data, bounds, offsets, keys, key_bounds, received_ns))
    return chunks


@dataclass(slots=True)
class _Sender:
    """A transactional producer, whether it has fenced earlier lives, and whether it has a transaction open."""

    client: Producer
    ready: bool = False
    open: bool = False


class Session:
    """The Kafka side of one worker. Used from one thread, except `commit`, which may run in another while the first polls and produces.

    Two producers take turns, a transaction each: after a commit the broker still writes the transaction's markers, and refuses its producer
    the next one until that is done. librdkafka asks again after 20 ms. The other producer can begin at once.

    `on_revoke(lost)` is called inside `poll` or `leave` when the group takes the lanes away; what it raises is raised again by that call.
    """

    def __init__(
        self,
        config: SessionConfig,
        on_revoke: Callable[[bool], None],
        stopping: Callable[[], bool],
        clients: Clients = Clients(),
    ) -> None:
        self.config = config
        self.n_lanes = 0
        self.errors = 0
        self.truncate_errors = 0
        self.flushed = True
        """Whether all records of the transaction handed over last are in their topics: what is produced now comes after them."""
        self._on_revoke = on_revoke
        self._stopping = stopping
        self._clients = clients
        self._monotonic = clients.monotonic
        self._base: dict[str, Any] = {
            "bootstrap.servers": config.bootstrap,
            # By default librdkafka begins anew with the bootstrap servers when no broker answers, and with that gives its coordinators up:
            # send_offsets_to_transaction then hangs (librdkafka issue 5511), and a worker whose broker was away for longer than the session
            # stood still for a minute before it ended. Measured on 2.16: broker away for 9 s, 60 s; without, away for 7 s, 2 s.
            "metadata.recovery.strategy": "none",
            **config.client,
        }
        # its errors come with its answers; log lines would only repeat them
        self._admin = self._clients.admin(self._base | {"client.id": f"{config.instance}-admin", "log_level": 0})
        self._consumer: Consumer | None = None
        self._senders: tuple[_Sender, ...] = ()
        self._filling: _Sender | None = None
        self._closing: _Sender | None = None
        self._reader: Consumer | None = None
        self._rebalances = 0
        self._offered: list[TopicPartition] | None = None
        self._group_metadata: Any = None
        self._callback_error: BaseException | None = None
        self._fatal: KafkaError | None = None
        self._fatal_is_fence = False
        self._fence: TopicPartition | None = None
        self._first_offsets: dict[int, int] = {}
        self._seen_error: tuple[int, float] = (0, 0.0)
        self._truncating: set[Future[Any]] = set()

    # --- start ---

    def check(self) -> int:
        """Return the number of lanes. Raises BrokerUnreachable, or StartupError naming the missing topic or unequal partition counts."""
        config = self.config
        timeout = config.startup_timeout_ms / 1000
        try:
            topics = self._admin.list_topics(timeout=timeout).topics
        except KafkaException as error:
            reason = error.args[0].str()
            raise BrokerUnreachable(
                f"no Kafka broker answered at {config.bootstrap} within {timeout:g} s ({reason}); check HEDGEROW_KAFKA"
            ) from None
        wanted = dict.fromkeys((*config.inputs, config.changelog, *config.outputs, *config.broadcast))
        missing = [name for name in wanted if name not in topics or topics[name].error is not None]
        if missing:
            raise StartupError(f"missing topics: {', '.join(missing)}; create them with `hedgerow topics create`")
        counts = {name: len(topics[name].partitions) for name in (*config.inputs, config.changelog)}
        if len(set(counts.values())) > 1:
            told = ", ".join(f"{name} has {count}" for name, count in counts.items())
            raise StartupError(f"co-partitioned topics must have equal partition counts: {told}; see `hedgerow topics check`")
        self._broadcast_partitions = {name: sorted(topics[name].partitions) for name in config.broadcast}
        self.n_lanes = counts[config.changelog]
        return self.n_lanes

    def recount(self) -> None:
        """Raise StartupError if a co-partitioned topic has not as many partitions as at `check`. May be called from another thread.

        A broker that does not answer within 2 s is no finding: it is left to the next time.
        """
        try:
            topics = self._admin.list_topics(timeout=2.0).topics
        except KafkaException as error:
            self._note(error.args[0], "partition counts")
            return
        for name in (*self.config.inputs, self.config.changelog):
            known = name in topics and topics[name].error is None
            count = len(topics[name].partitions) if known else self.n_lanes  # a topic that is gone has errors of its own
            if count != self.n_lanes:
                raise StartupError(
                    f"topic {name} has {count} partitions now, {self.n_lanes} were expected: keys would change lanes and their state would "
                    'not. Co-partitioned topics in use must keep their count (docs/guarantees.md, "Partition counts")'
                )

    def fence_earlier_lives(self) -> None:
        """Begin to fence earlier lives of this worker: their open transactions end. Call after `check`; the first `offered` waits for it.

        The broker aborts them at once but has the client ask again until that is done, half a second or a whole one later. Meanwhile there
        is market data to read, and a group to join.
        """
        config = self.config
        # lz4, unless the client's options say otherwise: fewer bytes are less work for the broker than they cost here (docs/decisions/0011).
        settings = (
            {"compression.type": "lz4"}
            | self._client("producer")
            | {
                "transaction.timeout.ms": config.transaction_timeout_ms,
                "partitioner": "murmur2_random",
                "linger.ms": 2,
                # The default pause of 100 ms before a refused request is sent again would be paid at many commits (measured: 110 ms against 12).
                "retry.backoff.ms": 2,
                "retry.backoff.max.ms": 50,
                "message.max.bytes": config.max_record_bytes,
            }
        )
        self._senders = tuple(_Sender(self._clients.producer(settings | {"transactional.id": name})) for name in config.transactional_ids)
        self._filling = self._senders[0]
        for sender in self._senders:
            try:
                sender.client.init_transactions(0.01)
                sender.ready = True
            except KafkaException as error:
                if not error.args[0].retriable() or error.args[0].fatal():
                    raise self._failure(error, "init_transactions") from error

    def open(self) -> None:
        """Join the group."""
        config = self.config
        queue_kb = max(1024, config.lane_pause_bytes // 1024 // len(config.inputs))
        self._consumer = self._clients.consumer(
            self._client("consumer")
            | {
                "group.id": config.group_id,
                "group.instance.id": config.instance,
                "group.protocol": "classic",
                "partition.assignment.strategy": "range",
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "auto.offset.reset": "error",
                "session.timeout.ms": config.session_timeout_ms,
                "heartbeat.interval.ms": max(100, min(1000, config.session_timeout_ms // 6)),
                "max.poll.interval.ms": max(300_000, config.session_timeout_ms, config.restore_timeout_ms + 2 * config.assign_timeout_ms),
                **_fetching(config),
                "queued.max.messages.kbytes": queue_kb,
            }
        )
        self._consumer.subscribe(list(config.inputs), on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost)

    def _client(self, kind: str) -> dict[str, Any]:
        def on_error(error: KafkaError) -> None:
            # A classic consumer has one fatal error: another process joined under its instance name.
            if error.fatal() or error.code() == KafkaError._FATAL:
                self._fatal = error
                self._fatal_is_fence = kind == "consumer" or error.code() in _FENCED
            self._note(error, kind)

        return self._base | {"client.id": f"{self.config.instance}-{kind}", "error_cb": on_error, "logger": log}

    def _note(self, error: KafkaError, where: str) -> None:
        """Count a passing error; log it unless the same one was logged within the last 10 s."""
        self.errors += 1
        code, when = self._seen_error
        now = self._monotonic()
        if error.code() != code or now - when > 10:
            self._seen_error = (error.code(), now)
            log.warning("%s: %s (%s)", where, error.str(), error.name())

    # --- source half ---

    def poll(self, limit: int, timeout_s: float, clock: Callable[[], int], committing: bool = False) -> list[Chunk]:
        """Return what came in, at most `limit` records; waits `timeout_s` for the first. Serves rebalances and, unless `committing`, reports.

        Raises Fenced, SessionError for errors that end the worker, and whatever `on_revoke` raised.
        """
        consumer = self._need_consumer()
        for sender in self._senders:
            if sender is self._filling or not committing:
                self._serve(sender, 0)  # a commit in another thread serves its own reports, and counts on having seen them when it ends
        before = self._rebalances
        # consume(n, t) gathers for the whole of t. One record is waited for and the rest taken as it lies: the fetches make the chunks, and
        # what comes in while a chunk is folded makes the next one larger, so that a busy worker still takes much at once.
        first = consumer.poll(timeout_s)
        messages = [] if first is None else [first]
        if first is not None and limit > 1:
            messages += consumer.consume(limit - 1, 0)
        self._raise_callback_error()
        if self._fatal is not None:
            kind = Fenced if self._fatal_is_fence else Aborted
            raise kind(f"fatal client error: {self._fatal.str()} ({self._fatal.name()})")
        if self._rebalances != before:
            return []  # read before the rebalance; the next owner, or this worker again, starts from the committed position
        return chunks_of(messages, clock(), self._consume_error)

    def _consume_error(self, error: KafkaError, message: Message) -> None:
        code = error.code()
        where = f"{message.topic()}[{message.partition()}]" if message.topic() else "consumer"
        if error.fatal() or code == KafkaError._FATAL or code in _FENCED:
            raise Fenced(f"this worker was fenced: {error.str()}")
        if code in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
            raise OffsetsDisagree(
                f"{where}: offset {message.offset()} is not in the topic: records were deleted before they were read, or the topic "
                f"was made anew; nothing was skipped. {error.str()}"
            )
        if error.retriable() or code in _PASSING:
            self._note(error, where)
            return
        raise SessionError(f"{where}: {error.str()} ({error.name()})")

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        # Nothing is fetched until `start_at`: restoring takes time and must not happen inside a callback.
        try:
            consumer.assign([])
            self._rebalances += 1
            self._offered = partitions
            # Kept, not asked for again at commits: after a lost membership librdkafka would hand out an empty one, which brokers accept
            # from a "simple" consumer when the group is empty, and a zombie could commit.
            self._group_metadata = consumer.consumer_group_metadata()
        except BaseException as error:
            self._callback_error = error

    def _revoked(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._taken_away(lost=False)

    def _lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._taken_away(lost=True)

    def _taken_away(self, lost: bool) -> None:
        self._rebalances += 1
        self._offered = None
        try:
            self._on_revoke(lost)
        except BaseException as error:
            self._callback_error = error
        self._group_metadata = None

    def _raise_callback_error(self) -> None:
        if self._callback_error is not None:
            error, self._callback_error = self._callback_error, None
            raise error

    def offered(self) -> list[int] | None:
        """Return the lanes of an assignment that `start_at` has not answered yet, or None. Checks that a lane's topics came together."""
        if self._offered is None:
            return None
        deadline = self._monotonic() + self.config.assign_timeout_ms / 1000
        for sender in self._senders:
            if not sender.ready:
                self._transactional(sender, sender.client.init_transactions, deadline, "init_transactions")
                sender.ready = True
        self.recount()
        lanes = {tp.partition for tp in self._offered}
        got = {(tp.topic, tp.partition) for tp in self._offered}
        torn = sorted(lane for lane in lanes if any((topic, lane) not in got for topic in self.config.inputs))
        beyond = sorted(lane for lane in lanes if lane >= self.n_lanes)
        if torn or beyond:
            raise StartupError(
                f"partitions {torn or beyond} of {', '.join(self.config.inputs)} did not come together: were partitions added "
                '(docs/guarantees.md, "Partition counts")?'
            )
        return sorted(lanes)

    def committed(self, lanes: Sequence[int]) -> dict[tuple[str, int], int]:
        """Return the group's committed offsets `{(topic, lane): offset}`, none pending in a transaction; fence marks left out."""
        asked = [TopicPartition(topic, lane) for lane in lanes for topic in self.config.inputs]
        if not asked:
            return {}
        deadline = self._monotonic() + self.config.assign_timeout_ms / 1000
        while True:
            self._raise_if_stopping()
            try:
                # read_committed makes librdkafka ask for stable offsets: it waits while another owner's transaction holds some.
                answer = self._need_consumer().committed(asked, timeout=1.0)
                break
            except KafkaException as error:
                passing = error.args[0].retriable() or error.args[0].code() in _PASSING
                if not passing or self._monotonic() > deadline:
                    raise SessionError(f"committed offsets of group {self.config.group_id}: {error.args[0].str()}") from error
        for tp in answer:
            if tp.error is not None:
                raise SessionError(f"committed offset of {tp.topic}[{tp.partition}]: {tp.error.str()}")
        return {(tp.topic, tp.partition): tp.offset for tp in answer if tp.offset >= 0 and tp.metadata != START_MARK}

    def wait_settled(self, lanes: Sequence[int]) -> dict[int, tuple[int, int]]:
        """Wait until no transaction is open on the lanes' changelog partitions; return `{lane: (first, end) offset}`."""
        topic = self.config.changelog
        parts = [TopicPartition(topic, lane) for lane in lanes]
        deadline = self._monotonic() + self.config.assign_timeout_ms / 1000
        while True:
            self._raise_if_stopping()
            stable = self.offsets(parts, OffsetSpec.latest(), IsolationLevel.READ_COMMITTED)
            ends = self.offsets(parts, OffsetSpec.latest(), IsolationLevel.READ_UNCOMMITTED)
            waiting = [lane for lane in lanes if stable[topic, lane] != ends[topic, lane]]
            if not waiting:
                break
            if self._monotonic() > deadline:
                raise SessionError(f"a transaction of another worker is still open on {topic} partitions {waiting}")
            self._clients.sleep(0.05)
        firsts = self.offsets(parts, OffsetSpec.earliest())
        return {lane: (firsts[topic, lane], ends[topic, lane]) for lane in lanes}

    def offsets(
        self, parts: Sequence[TopicPartition], spec: OffsetSpec, isolation: IsolationLevel = IsolationLevel.READ_UNCOMMITTED
    ) -> dict[tuple[str, int], int]:
        """Return `{(topic, partition): offset}` by `spec`. Raises SessionError when the broker does not answer in time."""
        if not parts:
            return {}
        deadline = self._monotonic() + self.config.startup_timeout_ms / 1000
        cause: KafkaException | None = None
        while True:
            try:
                asked = self._admin.list_offsets(dict.fromkeys(parts, spec), isolation_level=isolation, request_timeout=5)
                found = {(tp.topic, tp.partition): answer.result().offset for tp, answer in asked.items()}
                # A broker that goes down or comes up may answer without an offset and without an error (seen on 2.16 with Kafka 4.1.2). Taken for
                # an end, it would tell of a topic made anew, and the worker would be given up.
                silent = [f"{topic}[{lane}]" for (topic, lane), offset in found.items() if offset == OFFSET_INVALID]
                if not silent:
                    return found
                reason, cause = f"the broker names no offset of {', '.join(silent)}", None
            except KafkaException as error:
                reason, cause = error.args[0].str(), error
            if self._monotonic() > deadline:
                raise SessionError(f"offsets of {parts[0].topic}: {reason}") from cause
            self._clients.sleep(0.05)

    def read_changelog(self, lane: int, first: int, end: int) -> Generator[tuple[int, bytes], None, None]:
        """Yield (offset, value) of the committed records of a lane's changelog in [first, end). To be closed before the session is."""
        if first >= end:
            return
        if self._reader is None:
            self._reader = self._clients.consumer(_plain_reader(self._client("restore"), self.config))
        reader = self._reader
        deadline = self._monotonic() + self.config.restore_timeout_ms / 1000
        reader.assign([TopicPartition(self.config.changelog, lane, first)])
        try:
            while True:
                self._raise_if_stopping()
                if self._monotonic() > deadline:
                    raise SessionError(f"{self.config.changelog}[{lane}] could not be read within {self.config.restore_timeout_ms} ms")
                for message in reader.consume(10_000, 0.01):
                    error = message.error()
                    if error is None:
                        if message.offset() < end:
                            yield message.offset(), message.value() or b""
                    elif error.code() == KafkaError._PARTITION_EOF:
                        if message.offset() >= end:
                            return
                    elif error.retriable() or error.code() in _PASSING:
                        self._note(error, "restore")
                    else:
                        raise SessionError(f"{self.config.changelog}[{lane}]: {error.str()}")
        finally:
            reader.unassign()

    def start_at(self, known: Mapping[tuple[str, int], int]) -> None:
        """Answer the offered assignment: read each partition from its known position, else from its beginning.

        Raises OffsetsDisagree when a known position is not in the topic any more.
        """
        assert self._offered is not None
        parts = [TopicPartition(tp.topic, tp.partition) for tp in self._offered]
        firsts = self.offsets(parts, OffsetSpec.earliest())
        ends = self.offsets(parts, OffsetSpec.latest())
        for (topic, lane), position in known.items():
            first, end = firsts[topic, lane], ends[topic, lane]
            if position < first:
                raise OffsetsDisagree(
                    f"{topic}[{lane}]: records {position} to {first - 1} were deleted (retention) before this flow had read them"
                )
            if position > end:
                raise OffsetsDisagree(f"{topic}[{lane}]: the flow had read up to {position} but the topic ends at {end}: was it made anew?")
        start = [TopicPartition(tp.topic, tp.partition, known.get((tp.topic, tp.partition), OFFSET_BEGINNING)) for tp in parts]
        # A transaction must carry at least one offset, or the group coordinator is not asked whether this worker is still a member.
        self._fence = None
        if parts:
            place = next(iter(known), (parts[0].topic, parts[0].partition))
            mark = "" if place in known else START_MARK
            self._fence = TopicPartition(*place, known.get(place, firsts[place]), mark)
        self._need_consumer().assign(start)
        self._offered = None

    def pause(self, lane: int) -> None:
        """Stop fetching a lane's partitions."""
        self._need_consumer().pause([TopicPartition(topic, lane) for topic in self.config.inputs])

    def resume(self, lane: int) -> None:
        """Fetch a lane's partitions again."""
        self._need_consumer().resume([TopicPartition(topic, lane) for topic in self.config.inputs])

    def ends(self, lane: int) -> dict[str, int]:
        """Return the last known end offset of each of a lane's topics, from what was fetched (no request is made)."""
        consumer = self._need_consumer()
        found = {topic: consumer.get_watermark_offsets(TopicPartition(topic, lane), cached=True)[1] for topic in self.config.inputs}
        return {topic: end for topic, end in found.items() if end >= 0}

    # --- sink half ---

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open."""
        return any(sender.open for sender in self._senders)

    def produce(self, records: Records) -> None:
        """Send records within the open transaction; opens one if there is none. Raises SessionError for a record Kafka refuses."""
        self._put(self._need(self._filling), records)

    def hand_over(self) -> None:
        """Give the open transaction to the next `commit`; what is produced from now on goes into the next one.

        That must wait for `flushed`: two producers' records may overtake each other on their way into a partition.
        """
        assert not any(sender.open for sender in self._senders if sender is not self._filling), "a commit is under way"
        self._closing = self._need(self._filling)
        self._filling = next(sender for sender in self._senders if sender is not self._closing)
        self.flushed = False

    def commit(self, deltas: Sequence[Delta], fault: Callable[[str], None]) -> dict[int, int]:
        """Commit what was handed over, changelog values and offsets in one transaction; return each lane's first changelog offset.

        May run in another thread while the owner polls and produces. Raises Fenced or Aborted; then nothing of it was committed.
        """
        sender = self._need(self._closing)
        self._begin(sender)
        self._first_offsets = {}
        for delta in deltas:
            for index, value in enumerate(delta.values):
                self._put_changelog(sender, delta.lane, value, report=index == 0)
        fault("before_send_offsets")
        offsets = [TopicPartition(topic, delta.lane, offset) for delta in deltas for topic, offset in delta.moved.items()]
        if offsets:
            self._fence = offsets[0]
        elif self._fence is not None:
            offsets = [self._fence]
        deadline = self._monotonic() + self.config.transaction_timeout_ms / 1000 + 15
        metadata = self._group_metadata
        if metadata is None or not offsets:
            self._abort(sender)
            raise Aborted("a transaction was to be committed without lanes")
        client = sender.client
        self._transactional(
            sender, lambda t: client.send_offsets_to_transaction(offsets, metadata, t), deadline, "send_offsets_to_transaction"
        )
        fault("before_commit")
        try:
            self.flushed = client.flush(min(5.0, max(0.1, deadline - self._monotonic()))) == 0
        except KafkaException as error:
            raise self._failure(error, "flush") from error
        self._transactional(sender, client.commit_transaction, deadline, "commit_transaction")
        sender.open = False
        self.flushed = True
        missing = [delta.lane for delta in deltas if delta.values and delta.lane not in self._first_offsets]
        if missing:
            raise SessionError(f"no delivery report for the changelog of lanes {missing} after the commit")
        return self._first_offsets

    def abort(self) -> None:
        """Abort what is open. Not while a commit is under way. Raises Fenced when another life of this worker has taken over."""
        failures = []
        for sender in self._senders:
            try:
                self._abort(sender)
            except SessionError as error:
                failures.append(error)
        if failures:
            raise failures[0]

    def _abort(self, sender: _Sender) -> None:
        if not sender.open:
            return
        deadline = self._monotonic() + self.config.transaction_timeout_ms / 1000
        sender.open = False
        # Of a transaction whose first records are still on their way the broker may not know yet; ending it then is a fatal
        # INVALID_TXN_STATE (seen in rebalances). What is flushed here is aborted with the rest and seen by nobody.
        try:
            sender.client.flush(2.0)
        except KafkaException as error:  # a fatal error that came meanwhile: nothing is left to abort
            raise self._failure(error, "flush") from error
        self._transactional(sender, sender.client.abort_transaction, deadline, "abort_transaction", abortable=False)

    def _begin(self, sender: _Sender) -> None:
        if not sender.open:
            try:
                sender.client.begin_transaction()
            except KafkaException as error:
                raise self._failure(error, "begin_transaction") from error
            sender.open = True

    def _put(self, sender: _Sender, records: Records) -> None:
        if not len(records):
            return
        self._begin(sender)
        values = split(records.data, records.bounds)
        keys = split(records.keys, records.key_bounds)
        messages: list[dict[str, Any]] = [{"value": value, "key": key or None} for value, key in zip(values, keys, strict=True)]
        # The partition is an argument of the batch: librdkafka ignores the one in a message's dict (measured on 2.16).
        partition = {} if records.partition is None else {"partition": records.partition}
        deadline = self._monotonic() + self.config.transaction_timeout_ms / 1000
        while messages:
            taken = sender.client.produce_batch(records.topic, messages, **partition)
            if taken == len(messages):
                self._serve(sender, 0)
                return
            # What does not fit any more is a tail (librdkafka refuses all that follow), so order is kept.
            refused = [m for m in messages if m.get("_error") is not None]
            for message in refused:
                error = message.pop("_error")
                if error.code() != KafkaError._QUEUE_FULL:
                    size = len(message["value"])
                    raise SessionError(f"{records.topic}: a record of {size} bytes was refused: {error.str()} ({error.name()})")
            if not refused or self._monotonic() > deadline:
                raise SessionError(f"{records.topic}: {len(messages) - taken} records could not be queued in time")
            messages = refused
            self._serve(sender, 0.01)

    def _put_changelog(self, sender: _Sender, lane: int, value: bytes, report: bool) -> None:
        def delivered(error: KafkaError | None, message: Message) -> None:
            if error is None:
                self._first_offsets[lane] = message.offset()

        callback = {"on_delivery": delivered} if report else {}
        deadline = self._monotonic() + self.config.transaction_timeout_ms / 1000
        while True:
            try:
                sender.client.produce(self.config.changelog, value=value, partition=lane, **callback)
                return
            except BufferError:
                if self._monotonic() > deadline:
                    raise SessionError(f"{self.config.changelog}[{lane}]: no room in the send queue") from None
                self._serve(sender, 0.01)
            except KafkaException as error:
                raise SessionError(f"{self.config.changelog}[{lane}]: {len(value)} bytes refused: {error.args[0].str()}") from error

    def _serve(self, sender: _Sender, timeout_s: float) -> None:
        """Let a producer's callbacks run. Raises what ails it for good: confluent-kafka tells of a fatal error here too (seen on 2.16)."""
        try:
            sender.client.poll(timeout_s)
        except KafkaException as error:
            raise self._failure(error, "producer") from error

    def _transactional(self, sender: _Sender, call: Callable[[float], T], deadline: float, what: str, abortable: bool = True) -> T:
        """Run a transactional call as its errors say: retry the retriable, abort on the abortable, give up on the rest."""
        while True:
            try:
                return call(min(5.0, max(0.1, deadline - self._monotonic())))
            except KafkaException as error:
                cause = error.args[0]
                if cause.retriable() and not cause.fatal() and self._monotonic() < deadline:
                    self._note(cause, what)
                    continue
                if cause.txn_requires_abort() and abortable:
                    try:
                        self._abort(sender)
                    except Fenced as second:
                        raise Fenced(f"{what}: {cause.str()} ({cause.name()}); then {second}") from error
                    except SessionError as second:
                        log.warning("after %s: %s", what, second)
                raise self._failure(error, what) from error

    def _failure(self, error: KafkaException, what: str) -> SessionError:
        cause = error.args[0]
        fatal = self._fatal
        text = f"{what}: {cause.str()} ({cause.name()})" + (f"; {fatal.str()}" if fatal is not None else "")
        if cause.code() in _FENCED or (fatal is not None and self._fatal_is_fence):
            return Fenced(text)
        return Aborted(text)

    # --- truncation ---

    def truncate(self, lane: int, before: int) -> None:
        """Ask the broker to delete a lane's changelog records below `before`. Never waits; failures are logged and counted."""

        def done(answer: Future[Any]) -> None:
            self._truncating.discard(answer)
            error = answer.exception()
            if error is not None:
                self.truncate_errors += 1
                log.warning("%s[%d] could not be truncated at %d: %s", self.config.changelog, lane, before, error)

        try:
            asked = self._admin.delete_records([TopicPartition(self.config.changelog, lane, before)])
        except KafkaException as error:
            self.truncate_errors += 1
            log.warning("%s[%d] could not be truncated at %d: %s", self.config.changelog, lane, before, error)
            return
        for answer in asked.values():
            self._truncating.add(answer)
            answer.add_done_callback(done)

    # --- end ---

    def leave(self, timeout_s: float = 5.0) -> bool:
        """Leave the group so that others take over at once; return whether the coordinator confirmed it.

        A static member's `close` does not leave; `unsubscribe` does, once it was served (librdkafka; tested).
        """
        if self._consumer is None:
            return True
        self._consumer.unsubscribe()
        deadline = self._monotonic() + timeout_s
        while self._monotonic() < deadline:
            self._consumer.consume(1, 0.01)
            self._raise_callback_error()
            if not self._consumer.memberid() and not self._is_member():
                return True
        log.warning("the group coordinator did not confirm that %s left; others take over after the session timeout", self.config.instance)
        return False

    def _is_member(self) -> bool:
        try:
            answer = self._admin.describe_consumer_groups([self.config.group_id], request_timeout=2)[self.config.group_id].result()
        except KafkaException:
            return False  # not allowed, or no such group: the member id is gone, more cannot be known
        return any(member.group_instance_id == self.config.instance for member in answer.members)

    def close(self) -> None:
        """Close the clients without leaving the group: a restart takes the same lanes back without a rebalance."""
        self._on_revoke = lambda lost: None
        for client in (self._consumer, self._reader):
            if client is not None:
                try:
                    client.close()
                except (KafkaException, RuntimeError) as error:
                    log.warning("closing a consumer: %s", error)
        self._consumer = self._reader = self._filling = self._closing = None
        self._senders = ()

    def _raise_if_stopping(self) -> None:
        if self._stopping():
            raise Interrupted("stopped")

    def _need_consumer(self) -> Consumer:
        assert self._consumer is not None, "open() first"
        return self._consumer

    @staticmethod
    def _need(sender: _Sender | None) -> _Sender:
        assert sender is not None, "fence_earlier_lives() first"
        return sender

    # --- broadcast ---

    def broadcast_reader(self, now_ns: int) -> BroadcastReader | None:
        """Return a reader of all partitions of the broadcast topics, or None when the flow has none. Call after `check`."""
        config = self.config
        if not config.broadcast:
            return None
        parts = [TopicPartition(topic, p) for topic, numbers in self._broadcast_partitions.items() for p in numbers]
        starts = self.offsets(parts, OffsetSpec.earliest())
        if config.broadcast_lookback_ms is not None:
            since = now_ns // 1_000_000 - config.broadcast_lookback_ms
            later = self.offsets(parts, OffsetSpec.for_timestamp(since))
            latest = self.offsets(parts, OffsetSpec.latest())
            # -1: nothing is that young
            young = {key: later[key] if later[key] >= 0 else latest[key] for key in starts}
            starts = {key: starts[key] if key[0] in config.broadcast_whole else young[key] for key in starts}
        ends = self.offsets(parts, OffsetSpec.latest(), IsolationLevel.READ_COMMITTED)
        settings = _plain_reader(self._client("broadcast"), config)
        return BroadcastReader(self._clients.consumer(settings), starts, ends, self._note, self._stopping)


def _fetching(config: SessionConfig) -> dict[str, int]:
    """Return when a fetch is answered. Without a minimum every arriving record ends one at once, and single quotes are fetches of all partitions."""
    return {"fetch.min.bytes": 65_536, "fetch.wait.max.ms": config.fetch_wait_ms, "fetch.queue.backoff.ms": 5}


def _plain_reader(client: dict[str, Any], config: SessionConfig) -> dict[str, Any]:
    """Return settings of a consumer that reads partitions it assigns itself; its group id is required by librdkafka and never used."""
    return client | {
        "group.id": f"{config.instance}-reader",
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "earliest",
        "isolation.level": "read_committed",
        "enable.partition.eof": True,
        **_fetching(config),
    }


class BroadcastReader:
    """Reads every partition of some topics, outside the group: first up to where they ended at the start, then on and on."""

    def __init__(
        self,
        consumer: Consumer,
        starts: Mapping[tuple[str, int], int],
        ends: Mapping[tuple[str, int], int],
        note: Callable[[KafkaError, str], None],
        stopping: Callable[[], bool],
    ) -> None:
        self._consumer = consumer
        self._note = note
        self._stopping = stopping
        self._behind = {key: end for key, end in ends.items() if starts[key] < end}
        consumer.assign([TopicPartition(topic, p, start) for (topic, p), start in starts.items()])

    def catch_up(self, apply: Callable[[Chunk], None], clock: Callable[[], int], timeout_s: float) -> None:
        """Feed `apply` until every partition was read up to its end at the start. Raises SessionError when that takes too long."""
        deadline = time.monotonic() + timeout_s
        while self._behind:
            if self._stopping():
                raise Interrupted("stopped")
            if time.monotonic() > deadline:
                raise SessionError(f"broadcast topics could not be read within {timeout_s:g} s; still behind: {sorted(self._behind)}")
            for chunk in self.poll(10_000, 0.01, clock):
                apply(chunk)

    def poll(self, limit: int, timeout_s: float, clock: Callable[[], int]) -> list[Chunk]:
        """Return what came in since the last call."""
        messages = self._consumer.consume(limit, timeout_s)
        return chunks_of(messages, clock(), self._on_message_error) if messages else []

    def _on_message_error(self, error: KafkaError, message: Message) -> None:
        if error.code() == KafkaError._PARTITION_EOF:
            key = (message.topic(), message.partition())
            if message.offset() >= self._behind.get(key, 0):
                self._behind.pop(key, None)
        elif error.retriable() or error.code() in _PASSING:
            self._note(error, "broadcast")
        else:
            raise SessionError(f"broadcast {message.topic()}: {error.str()} ({error.name()})")

    def close(self) -> None:
        """Close the consumer."""
        self._consumer.close()
