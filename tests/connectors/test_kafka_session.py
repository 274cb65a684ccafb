"""The Kafka session's handling of answers a real broker gives too seldom to be waited for, by clients that give them when told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import OFFSET_INVALID, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import OffsetSpec

from connectors.kafka import Clients, Session, SessionConfig, SessionError

PARTS = [TopicPartition("fills", lane) for lane in range(3)]


class Admin:
    """Answers each question about offsets with the next of `answers`: a list of offsets, or an error."""

    def __init__(self, answers: Iterator[list[int] | KafkaError]) -> None:
        self.answers = answers

    def list_offsets(self, asked: dict[TopicPartition, OffsetSpec], **_: Any) -> dict[TopicPartition, Future[Any]]:
        answer = next(self.answers)
        futures: dict[TopicPartition, Future[Any]] = {}
        for n, part in enumerate(asked):
            futures[part] = Future()
            if isinstance(answer, KafkaError):
                futures[part].set_exception(KafkaException(answer))
            else:
                futures[part].set_result(SimpleNamespace(offset=answer[n]))
        return futures


def session(answers: list[list[int] | KafkaError], last: list[int] | KafkaError) -> tuple[Session, list[float]]:
    """Return a session whose admin gives the answers and then the last one for ever, and the pauses it makes."""
    pauses: list[float] = []

    def every() -> Iterator[list[int] | KafkaError]:
        yield from answers
        while True:
            yield last

    admin: Callable[[dict[str, Any]], Any] = lambda config: Admin(every())  # noqa: E731
    config = SessionConfig(bootstrap="nowhere:1", group_id="g", worker="w", inputs=("fills",), changelog="log")
    clients = Clients(admin=admin, monotonic=lambda: sum(pauses), sleep=pauses.append)
    return Session(config, lambda lost: None, lambda: False, clients), pauses


@pytest.mark.parametrize(
    "before", [[], [[7, OFFSET_INVALID, 9]], [[OFFSET_INVALID] * 3, KafkaError(KafkaError._TRANSPORT), [OFFSET_INVALID, 8, 9]]]
)
def test_an_answer_without_an_offset_is_asked_for_again(before: list[list[int] | KafkaError]) -> None:
    """Taken as an end it would look like a topic that was made anew, after which a worker is not started again."""
    asked, pauses = session(before, [7, 8, 9])
    assert asked.offsets(PARTS, OffsetSpec.latest()) == {("fills", 0): 7, ("fills", 1): 8, ("fills", 2): 9}
    assert len(pauses) == len(before)


def test_no_offset_after_a_time_is_no_record_so_young() -> None:
    asked, _ = session([], [-1, 5, -1])
    assert asked.offsets(PARTS, OffsetSpec.for_timestamp(1)) == {("fills", 0): -1, ("fills", 1): 5, ("fills", 2): -1}


@pytest.mark.parametrize(
    ("last", "said"), [([7, OFFSET_INVALID, 9], r"names no offset of fills\[1\]"), (KafkaError(KafkaError._TRANSPORT), "transport")]
)
def test_a_broker_that_never_says_ends_in_an_error_that_is_tried_again(last: list[int] | KafkaError, said: str) -> None:
    asked, _ = session([], last)
    with pytest.raises(SessionError, match=f"(?i)offsets of fills: .*{said}") as raised:
        asked.offsets(PARTS, OffsetSpec.latest())
    assert type(raised.value) is SessionError
