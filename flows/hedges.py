"""`hedgerow hedges`: the manual desk's view of the hedges, and its word on them: hold, release, taken over by hand.

May not decide anything: what a word does, the hedger does (operators/hedger.py). Reads `hedger.event.cover`, sends `hedger.intent.desk.v1`.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import OffsetSpec  # type: ignore[attr-defined]
from pydantic import ValidationError
from rich import box
from rich.console import Console
from rich.table import Table

from connectors.kafka_server import BrokerUnavailable
from connectors.topics import TopicsError, blocking_problems, connect
from flows.settings import Settings, SettingsError
from schemas.hedging import DeskDecisionMessage, HedgeEvent, HedgeEventMessage
from schemas.parse import parse
from schemas.times import rfc3339

EVENTS, DESK = "hedger.event.cover", "hedger.intent.desk.v1"
OPEN_STATES = frozenset(("QUEUED", "SENT", "ACKED", "PARTIAL", "UNKNOWN"))
"""States in which a hedge has not ended."""
SENDER = "agent.desk"
TTL_MS = 600_000
QUIET_S = 15.0
"""Reading ends with an error when nothing came for so long."""
CONFIRM_S = 15.0
"""Kafka must have confirmed a word after so long."""
_ASK_S = 10.0
_WIDEST = 1_000
"""Columns the table may take: lines too long for a terminal are wrapped by it, but ids stay whole, to be copied."""
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_RULES = {
    "book": ("BOOK", "1 to 48 letters, digits or _.:@/-"),
    "instrument": ("--instrument", "1 to 20 capital letters, digits or _.-"),
    "hedge_id": ("HEDGE_ID", "a UUID"),
    "operator": ("--operator", "1 to 64 characters"),
    "justification": ("--why", "1 to 256 characters"),
}
"""Field of a decision → how the command calls it, and what it must be."""


@dataclass(frozen=True)
class Hedge:
    """A hedge as its newest event has it. first_ns, last_ns: envelope times of the first event of it that was read, and of the newest."""

    event: HedgeEvent
    first_ns: int
    last_ns: int

    @property
    def open(self) -> bool:
        """Return whether it has not ended."""
        return self.event.state in OPEN_STATES


# ---- reading ---------------------------------------------------------------------------------------------------------------------


def read_hedges(
    bootstrap: str, client: Mapping[str, Any], since_ms: int | None = None, wanted: Callable[[Message], bool] = lambda _: True
) -> tuple[list[Hedge], int]:
    """Return (the hedges told of on `hedger.event.cover`, by book and age; how many records could not be read).

    since_ms: leave out records before this Kafka timestamp; None: read all that is kept. wanted: which records are looked into.
    Only what is committed is read. Raises BrokerUnavailable, or TopicsError when the topic is not there.
    """
    _need(bootstrap, client, EVENTS)
    found: dict[str, Hedge] = {}
    unreadable = 0
    for record in _records(bootstrap, client, EVENTS, since_ms):
        if not wanted(record):
            continue
        message = parse(HedgeEventMessage, record.value() or b"")
        if isinstance(message, tuple):
            unreadable += 1
            continue
        event = message.payload
        before = found.get(event.hedge_id)
        found[event.hedge_id] = Hedge(event, message.ts_ns if before is None else before.first_ns, message.ts_ns)
    return sorted(found.values(), key=lambda hedge: (hedge.event.book, hedge.first_ns, hedge.event.hedge_id)), unreadable


def _need(bootstrap: str, client: Mapping[str, Any], topic: str) -> None:
    problems = blocking_problems(bootstrap, client, [topic])
    if problems:
        raise TopicsError("\n".join(problems))


def _records(bootstrap: str, client: Mapping[str, Any], topic: str, since_ms: int | None) -> Iterator[Message]:
    """Yield the committed records of a topic that are there now, each partition in order."""
    try:
        starts = _starts(bootstrap, client, topic, since_ms)
    except KafkaException as error:
        raise BrokerUnavailable(f"HEDGEROW_KAFKA: the offsets of {topic} cannot be read: {_reason(error)}") from error
    consumer = Consumer(
        {
            "log_level": 0,
            **client,
            "bootstrap.servers": bootstrap,
            "group.id": "hedgerow-desk",  # librdkafka wants one; nothing is ever committed under it
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
        }
    )
    left = set(starts)
    try:
        consumer.assign([TopicPartition(topic, partition, start) for partition, start in starts.items()])
        heard = time.monotonic()
        while left:
            for record in consumer.consume(10_000, 0.05):
                heard = time.monotonic()
                fault = record.error()
                if fault is None:
                    if since_ms is None or record.timestamp()[1] >= since_ms:
                        yield record
                elif fault.code() == KafkaError._PARTITION_EOF:
                    left.discard(record.partition() or 0)
                elif not fault.retriable():
                    raise BrokerUnavailable(f"HEDGEROW_KAFKA: {topic} cannot be read: {fault.str()}")
            if time.monotonic() - heard > QUIET_S:
                raise BrokerUnavailable(f"HEDGEROW_KAFKA: {topic} could not be read to its end: nothing came for {QUIET_S:.0f} s")
    finally:
        consumer.close()


def _starts(bootstrap: str, client: Mapping[str, Any], topic: str, since_ms: int | None) -> dict[int, int]:
    """Return where to begin in each partition."""
    admin = connect(bootstrap, client)
    parts = [TopicPartition(topic, partition) for partition in admin.list_topics(topic, timeout=_ASK_S).topics[topic].partitions]

    def asked(spec: OffsetSpec) -> dict[int, int]:
        answers = admin.list_offsets(dict.fromkeys(parts, spec), request_timeout=_ASK_S)
        return {part.partition: answer.result().offset for part, answer in answers.items()}

    starts = asked(OffsetSpec.earliest())  # type: ignore[no-untyped-call]
    if since_ms is None:
        return starts
    # Below 0 nothing is that young, or the broker cannot tell (the embedded one): then the records' own times must.
    return {partition: at if at >= 0 else starts[partition] for partition, at in asked(OffsetSpec.for_timestamp(since_ms)).items()}


def _reason(error: BaseException) -> str:
    cause = error.args[0] if error.args else error
    return str(cause.str()) if isinstance(cause, KafkaError) else str(cause)


# ---- the desk's word -------------------------------------------------------------------------------------------------------------


def decision(
    book: str, action: str, operator: str, justification: str, now_ns: int, instrument: str | None = None, hedge_id: str | None = None
) -> DeskDecisionMessage:
    """Return the message of a word of the desk; its identity is a function of what is said and of `now_ns`.

    Raises SettingsError naming every part that is not as the contract says.
    """
    said = json.dumps([DESK, book, action, instrument, hedge_id, operator, justification, now_ns])
    identity = str(uuid.uuid5(uuid.NAMESPACE_URL, said))
    message = {
        "msg_id": identity,
        "type": DESK,
        "version": "v1",
        "ts": rfc3339(now_ns),
        "ts_ns": now_ns,
        "ttl_ms": TTL_MS,
        "sender": SENDER,
        "idempotency_key": identity,
        "payload": {
            "book": book,
            "action": action,
            "instrument": instrument,
            "hedge_id": hedge_id,
            "operator": operator,
            "justification": justification,
            "decided_ns": now_ns,
        },
    }
    try:
        return DeskDecisionMessage.model_validate(message)
    except ValidationError as error:
        raise SettingsError(_line(problem) for problem in error.errors(include_url=False)) from error


def _line(problem: Any) -> str:
    name = str(problem["loc"][-1])
    if name not in _RULES:
        return f"{name}: {problem['msg']}"
    option, rule = _RULES[name]
    return f"{option}: must be {rule}, not {problem['input']!r}"


def send(bootstrap: str, client: Mapping[str, Any], message: DeskDecisionMessage) -> tuple[int, int | None]:
    """Publish a word of the desk and return where Kafka has it: (partition, offset; None when an answer to a retry did not say).

    Raises BrokerUnavailable when Kafka does not confirm it, or TopicsError when the topic is not there.
    """
    _need(bootstrap, client, DESK)
    try:
        producer = Producer(
            {
                "log_level": 0,
                **client,
                "bootstrap.servers": bootstrap,
                "client.id": "hedgerow-desk",
                "partitioner": "murmur2_random",
                "enable.idempotence": True,
                "acks": "all",
                "message.timeout.ms": round(CONFIRM_S * 1000),
            }
        )
    except (KafkaException, ValueError, TypeError) as error:
        raise BrokerUnavailable(f"HEDGEROW_KAFKA_OPTIONS: the Kafka client refuses its settings: {_reason(error)}") from error
    told: list[tuple[KafkaError | None, Message]] = []
    value = json.dumps(message.model_dump(exclude_none=True), ensure_ascii=False, separators=(",", ":")).encode()
    producer.produce(DESK, value, message.payload.book.encode(), on_delivery=lambda error, record: told.append((error, record)))
    producer.flush(CONFIRM_S + 1.0)
    fault, record = told[0] if told else (None, None)
    if record is None or fault is not None:
        why = f"no answer within {CONFIRM_S:.0f} s" if fault is None else fault.str()
        raise BrokerUnavailable(f"HEDGEROW_KAFKA: {DESK}: not confirmed ({why}); it may be there all the same")
    offset = record.offset()
    return record.partition() or 0, offset if offset is not None and offset >= 0 else None


# ---- what is shown ---------------------------------------------------------------------------------------------------------------


def table(hedges: list[Hedge], now_ns: int) -> Table:
    """Return the hedges as a table: a line for each leg, what is the hedge's own on the first."""
    shown = Table(
        "book",
        "hedge",
        "state",
        "leg",
        "size",
        "filled",
        "age",
        "last word",
        "coverage",
        "slippage, bps",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    for column in shown.columns[4:]:
        column.justify = "right"
    for hedge in hedges:
        event = hedge.event
        own = [event.book, event.hedge_id, event.state]
        ages = [_age(now_ns - hedge.first_ns), _age(now_ns - hedge.last_ns)]
        figures = ["–" if event.coverage is None else f"{100 * event.coverage:.1f} %", _signed(event.slippage_bps)]
        if not event.legs:
            shown.add_row(*own, "–", "", "", *ages, *figures)
        for i, leg in enumerate(event.legs):
            state = "" if leg.state == event.state else f" ({leg.state})"
            parts = [f"{leg.side} {leg.instrument}{state}", leg.size, leg.filled_size]
            shown.add_row(*(own if i == 0 else [""] * 3), *parts, *([*ages, *figures] if i == 0 else [""] * 4))
    return shown


def as_json(hedge: Hedge) -> str:
    """Return a hedge as a line of JSON: the payload of its newest event, when that was, and when the first of it was that was read."""
    return json.dumps({**hedge.event.model_dump(), "first_ts_ns": hedge.first_ns, "last_ts_ns": hedge.last_ns}, ensure_ascii=False)


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.2f}"


def _age(ns: int) -> str:
    """Return a duration in its two largest units; 0 for one that has not begun by this machine's clock."""
    left = max(ns, 0) // 10**9
    parts: list[str] = []
    for unit in ("d", "h", "m", "s"):
        count, left = divmod(left, _UNITS_S[unit])
        if count or parts or unit == "s":
            parts.append(f"{count}{unit}")
    return " ".join(parts[:2])


# ---- the command -----------------------------------------------------------------------------------------------------------------


def _duration_s(text: str) -> int:
    found = re.fullmatch(r"([0-9]{1,9})([smhd])", text)
    if found is None or int(found[1]) == 0:
        raise argparse.ArgumentTypeError(f"must be a number above 0 and s, m, h or d, as 90s or 2h, not {text!r}")
    return int(found[1]) * _UNITS_S[found[2]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `hedgerow hedges`."""
    common = argparse.ArgumentParser(add_help=False)  # may stand before the action or after it
    common.add_argument(
        "--settings", dest="settings_file", type=Path, metavar="FILE", default=argparse.SUPPRESS, help="TOML file with settings"
    )
    common.add_argument("--kafka", metavar="HOST:PORT", default=argparse.SUPPRESS, help="Kafka brokers (default: HEDGEROW_KAFKA)")
    desk = argparse.ArgumentParser(add_help=False)
    desk.add_argument("--operator", required=True, metavar="NAME", help="who says so; audited")
    desk.add_argument("--why", required=True, metavar="TEXT", help="why; audited")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    shown = actions.add_parser("list", parents=[common], help="show the newest state of each hedge")
    shown.add_argument("--book", metavar="B", help="only this book's")
    shown.add_argument("--open", action="store_true", help="only those that have not ended")
    shown.add_argument(
        "--since",
        type=_duration_s,
        metavar="DURATION",
        help="only what was told in the last 90s, 15m, 2h or 7d (default: all that is kept)",
    )
    shown.add_argument("--json", action="store_true", help="a line of JSON for each hedge")
    for name, text in (("hold", "no new hedge of a book, or in one instrument, until release"), ("release", "end a hold")):
        one = actions.add_parser(name, parents=[common, desk], help=text)
        one.add_argument("book", metavar="BOOK")
        one.add_argument("--instrument", metavar="SYM", help="only in this instrument")
    manual = actions.add_parser(
        "mark-manual", parents=[common, desk], help="the desk has taken an open hedge over: nothing more of it is in flight"
    )
    manual.add_argument("hedge_id", metavar="HEDGE_ID")


def run(args: argparse.Namespace) -> int:
    """Show, or say the desk's word; return 0, or 1 for a hedge that is not there or has ended."""
    if args.action == "list":
        return _list(args)
    if args.action == "mark-manual":
        return _mark_manual(args)
    settings: Settings = args.settings
    action = args.action.upper()
    message = decision(args.book, action, args.operator, args.why, time.time_ns(), instrument=args.instrument)
    _say(settings, message, f"{action} of {args.book}" + (f" in {args.instrument}" if args.instrument else ""))
    return 0


def _list(args: argparse.Namespace) -> int:
    settings: Settings = args.settings
    now_ns = time.time_ns()
    since_ms = None if args.since is None else now_ns // 10**6 - args.since * 1000
    key = None if args.book is None else args.book.encode(errors="surrogateescape")
    hedges, unreadable = read_hedges(
        settings.bootstrap, settings.client_config(), since_ms, lambda record: key is None or record.key() == key
    )
    hedges = [hedge for hedge in hedges if hedge.open or not args.open]
    if unreadable:
        print(f"hedgerow: {unreadable} records of {EVENTS} are not as the contract says and are left out", file=sys.stderr)
    if not hedges:
        kind = " open" if args.open else ""
        of = "" if args.book is None else f" of book {args.book}"
        when = "" if args.since is None else f" in the last {_age(args.since * 10**9)}"
        print(f"{EVENTS} tells of no{kind} hedge{of}{when}", file=sys.stderr if args.json else sys.stdout)
    elif args.json:
        for hedge in hedges:
            print(as_json(hedge))
    else:
        Console(width=_WIDEST, markup=False).print(table(hedges, now_ns))
    return 0


def _mark_manual(args: argparse.Namespace) -> int:
    settings: Settings = args.settings
    try:
        hedge_id = str(uuid.UUID(args.hedge_id))
    except ValueError:
        raise SettingsError([f"HEDGE_ID: must be a UUID, not {args.hedge_id!r}"]) from None
    named = hedge_id.encode()
    hedges, _ = read_hedges(settings.bootstrap, settings.client_config(), wanted=lambda record: named in (record.value() or b"").lower())
    found = next((hedge for hedge in hedges if hedge.event.hedge_id == hedge_id), None)
    if found is None:
        print(f"hedgerow: {EVENTS} tells of no hedge {hedge_id}", file=sys.stderr)
        return 1
    if not found.open:
        print(f"hedgerow: hedge {hedge_id} of {found.event.book} has ended: {found.event.state}", file=sys.stderr)
        return 1
    message = decision(found.event.book, "MARK_MANUAL", args.operator, args.why, time.time_ns(), hedge_id=hedge_id)
    _say(settings, message, f"MARK_MANUAL of hedge {hedge_id} of {found.event.book}")
    return 0


def _say(settings: Settings, message: DeskDecisionMessage, what: str) -> None:
    partition, offset = send(settings.bootstrap, settings.client_config(), message)
    at = "" if offset is None else f" at offset {offset}"
    print(f"{what} is on {DESK}[{partition}]{at} as {message.msg_id}; the hedger takes it within {TTL_MS // 60_000} minutes or not at all")
