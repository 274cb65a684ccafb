"""`hedgerow simulate --crash`: sends the scripted crash to Kafka, or writes it to a file; tells what was sent.

Times in the messages are the story's, not the clock's: what reads them must run on the story's time, as `hedgerow demo --crash` does.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from pathlib import Path

from connectors.simulator.crash import TOPICS, Crash, Record, Scenario, Timeline
from connectors.simulator.messages import Message
from connectors.simulator.sender import Sender
from connectors.topics import TopicsError, blocking_problems

_LONGEST_SLEEP_S = 0.05


def batches(records: Iterable[Record]) -> Iterator[tuple[int, list[Message]]]:
    """Return (market time, messages) of each moment of the story."""
    for t_ns, group in groupby(records, key=lambda record: record.t_ns):
        yield t_ns, [Message(r.topic, r.key, r.value, r.t_ns, "CRASH") for r in group]


def tell(
    sender: Sender,
    moments: Iterable[tuple[int, list[Message]]],
    offset_s: Callable[[int], float] | None,
    begin: float,
    stopped: Callable[[], bool] = lambda: False,
) -> float:
    """Send moments of the story when they are due; return the most one was late, in seconds.

    offset_s: a market time as seconds after `begin` (of time.monotonic()); None: as fast as Kafka takes them.
    """
    late = 0.0
    for t_ns, messages in moments:
        if offset_s is not None:
            due = begin + offset_s(t_ns)
            while (early := due - time.monotonic()) > 0 and not stopped():
                sender.producer.poll(0)
                time.sleep(min(early, _LONGEST_SLEEP_S))
            late = max(late, time.monotonic() - due)
        if stopped():
            break
        sender.send(messages)
    return late


def write(path: Path, scenario: Scenario) -> int:
    """Write the story as JSON lines (t_ns, topic, key, and value in base64); return how many. Raises OSError when the file cannot be written."""
    number = 0
    with path.open("w", encoding="utf-8") as out:
        for number, record in enumerate(Crash(scenario).records(), 1):  # noqa: B007 — how many there were
            line = {"t_ns": record.t_ns, "topic": record.topic, "key": record.key.decode(), "value": b64encode(record.value).decode()}
            out.write(json.dumps(line, separators=(",", ":")) + "\n")
    return number


def run(args: argparse.Namespace) -> int:
    """Carry out `hedgerow simulate --crash`; return 0, or 1 when Kafka did not take everything, 2 for bad arguments.

    Raises BrokerUnavailable (not reachable), TopicsError (topics missing).
    """
    seconds = 0.0 if args.seconds is None else args.seconds
    if not (seconds == 0.0 or 1.0 <= seconds <= 1e7):
        print("hedgerow: --seconds must be 1 or more, or 0 for at once", file=sys.stderr)
        return 2
    scenario = Scenario(args.seed)
    if args.out is not None:
        try:
            print(json.dumps({"written": write(args.out, scenario), "path": str(args.out), "seed": args.seed}))
        except OSError as error:
            print(f"hedgerow: --out {args.out}: {error.strerror}", file=sys.stderr)
            return 2
        return 0
    bootstrap, options = args.settings.bootstrap, args.settings.client_config()
    problems = blocking_problems(bootstrap, options, TOPICS)
    if problems:
        raise TopicsError("\n".join(problems))
    sender = Sender(bootstrap, options, {})
    offset_s = Timeline(scenario, seconds).offset_s if seconds else None
    late = tell(sender, batches(Crash(scenario).records()), offset_s, time.monotonic())
    missing = sender.close()
    for name, count in sender.errors.items():
        print(f"hedgerow: {count:,} messages were not delivered: {name}", file=sys.stderr)
    story = Crash(scenario)
    closing = {"sent": {topic: sender.sent[topic] for topic in TOPICS}, "undelivered": missing, "late_ms_max": round(late * 1e3, 1), "seed": args.seed,
               "start_ns": story.start_ns, "end_ns": story.end_ns}  # fmt: skip
    print(json.dumps(closing), flush=True)
    return 1 if missing else 0
