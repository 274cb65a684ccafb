"""What `hedgerow canary watch` knows and shows: the newest alert of every account from `canary.alert.v1`, and the market from `risk.regime.v1`.

Reads, commits nothing, decides nothing: what an alert says was decided by the canary (operators/canary.py).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import OffsetSpec  # type: ignore[attr-defined]
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from connectors.kafka_server import BrokerUnavailable
from connectors.topics import TopicsError, blocking_problems, connect
from flows import canary_show as show
from schemas.canary import CanaryAlert, CanaryAlertMessage, RegimeMessage
from schemas.parse import parse

ALERTS, REGIMES = "canary.alert.v1", "risk.regime.v1"
QUIET_S = 15.0
"""Reading what is there ends with an error when nothing came for so long."""
REFRESH_S = 0.25
_ASK_S = 10.0
_FRAME = 6
"""Lines of a table of accounts beside the accounts, and the line below it."""


@dataclass
class Watched:
    """What was read so far. account, profile: take only these; None: all. unreadable: records that are not as the contract says."""

    account: str | None = None
    profile: str | None = None
    entries: dict[tuple[str, str, str], show.Entry] = field(default_factory=dict)
    regimes: dict[str, show.MarketHead] = field(default_factory=dict)
    read: int = 0
    unreadable: int = 0
    note: str = ""

    def take(self, record: Message) -> CanaryAlert | None:
        """Take a record in; return its alert if it is one that is watched and newer than what was known."""
        value = record.value() or b""
        if record.topic() == REGIMES:
            if not value:  # a compacted topic's tombstone
                return None
            regime = parse(RegimeMessage, value)
            if isinstance(regime, tuple):
                self.unreadable += 1
            elif self.profile in (None, regime.payload.profile):
                self.regimes[regime.payload.profile] = show.head_of(regime.payload)
            return None
        if self.account is not None and record.key() != self.account.encode(errors="surrogateescape"):
            return None
        message = parse(CanaryAlertMessage, value)
        if isinstance(message, tuple):
            self.unreadable += 1
            return None
        alert = message.payload
        if self.profile not in (None, alert.result.policy):
            return None
        self.read += 1
        key = (alert.account, alert.mode, alert.result.policy)
        before = self.entries.get(key)
        if before is not None and before.seq is not None and before.seq > alert.seq:
            return None
        self.entries[key] = show.Entry(
            alert.account, alert.mode, alert.result, message.ts_ns, tuple(alert.windows), alert.reason, alert.seq, alert
        )
        return alert

    def view(self, now_ns: int, width: int, height: int | None = None) -> RenderableType:
        """Return everything known as one picture: a card for one alert, a table for several. height: lines there is room for; None: no end."""
        entries = show.ordered(self.entries.values())
        named = {one.result.policy for one in entries}
        heads = [head for profile, head in self.regimes.items() if profile in named or not named]
        parts: list[RenderableType] = [show.market_lines(heads, now_ns)] if heads else []
        if not entries:
            parts.append(Text(self.nothing(), style=show.QUIET))
        elif len(entries) == 1:
            parts.append(show.card_of(entries[0], now_ns, width))
        else:
            room = None if height is None else max(2, height - show.MARKET_LINES * len(heads) - _FRAME)
            parts.append(show.accounts_table(entries, now_ns, width, room))
        foot = [f"alerts read: {self.read:,}"] + ([f"records not readable: {self.unreadable:,}"] if self.unreadable else [])
        parts.append(Text(" · ".join(foot + ([self.note] if self.note else [])), style=show.QUIET))
        return Group(*parts)

    def nothing(self) -> str:
        """Return what to say when there is no alert."""
        of = ("" if self.account is None else f" of account {self.account}") + ("" if self.profile is None else f" under {self.profile}")
        return f"{ALERTS} tells of no alert{of} in the time that is watched"


def records(
    bootstrap: str, client: Mapping[str, Any], since_ms: Mapping[str, int | None], follow: bool, told: Watched
) -> Iterator[Message | None]:
    """Yield the committed records of topics, each partition in order; None when all that was there is read, and with `follow` then after
    every moment that brings nothing more.

    since_ms: topic → Kafka timestamp before which records are left out, None: all that is kept. told.note: why nothing comes, if something is
    wrong with the connection. Raises BrokerUnavailable, or TopicsError when a topic is not there.
    """
    problems = blocking_problems(bootstrap, client, list(since_ms))
    if problems:
        raise TopicsError("\n".join(problems))
    starts = [start for topic, at in since_ms.items() for start in _starts(bootstrap, client, topic, at)]

    def failed(error: KafkaError) -> None:
        told.note = f"Kafka: {error.str()}"

    consumer = Consumer(
        {
            "log_level": 0,
            **client,
            "bootstrap.servers": bootstrap,
            "group.id": "hedgerow-canary-watch",  # librdkafka wants one; nothing is ever committed under it
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
            "error_cb": failed,
        }
    )
    left = {(start.topic, start.partition) for start in starts}
    try:
        consumer.assign(starts)
        heard = time.monotonic()
        while True:
            for record in consumer.consume(10_000, REFRESH_S if not left else 0.05):
                heard = time.monotonic()
                fault = record.error()
                if fault is None:
                    told.note = ""
                    after = since_ms[record.topic() or ""]
                    if after is None or record.timestamp()[1] >= after:
                        yield record
                elif fault.code() == KafkaError._PARTITION_EOF:
                    left.discard((record.topic() or "", record.partition() or 0))
                elif not fault.retriable():
                    raise BrokerUnavailable(f"HEDGEROW_KAFKA: {record.topic()} cannot be read: {fault.str()}")
            if not left:
                yield None
                if not follow:
                    return
            elif time.monotonic() - heard > QUIET_S:
                raise BrokerUnavailable(f"HEDGEROW_KAFKA: {ALERTS} could not be read to its end: nothing came for {QUIET_S:.0f} s")
    finally:
        consumer.close()


def _starts(bootstrap: str, client: Mapping[str, Any], topic: str, since_ms: int | None) -> list[TopicPartition]:
    """Return where to begin in each partition of a topic."""
    try:
        admin = connect(bootstrap, client)
        parts = [TopicPartition(topic, partition) for partition in admin.list_topics(topic, timeout=_ASK_S).topics[topic].partitions]

        def asked(spec: OffsetSpec) -> dict[int, int]:
            answers = admin.list_offsets(dict.fromkeys(parts, spec), request_timeout=_ASK_S)
            return {part.partition: answer.result().offset for part, answer in answers.items()}

        starts = asked(OffsetSpec.earliest())  # type: ignore[no-untyped-call]
        # Below 0 nothing is that young, or the broker cannot tell (the embedded one): then the records' own times must.
        young = (
            {} if since_ms is None else {partition: at for partition, at in asked(OffsetSpec.for_timestamp(since_ms)).items() if at >= 0}
        )
    except KafkaException as error:
        cause = error.args[0] if error.args else error
        why = cause.str() if isinstance(cause, KafkaError) else str(cause)
        raise BrokerUnavailable(f"HEDGEROW_KAFKA: the offsets of {topic} cannot be read: {why}") from error
    return [TopicPartition(topic, partition, young.get(partition, start)) for partition, start in starts.items()]


@contextmanager
def screen(console: Console) -> Iterator[Live]:
    """Yield a live picture on a terminal of its own; what it last showed stays when it ends."""
    with Live("", console=console, screen=True, auto_refresh=False) as live:
        yield live
