"""`hedgerow simulate`: runs the simulator against a Kafka, and tells what it sent.

Reads the clock once, to say when the simulation begins; everything after that follows from the seed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from connectors.simulator import crash_command, hedging_command
from connectors.simulator.faults import FAULTS, GROUPS, parse_faults
from connectors.simulator.history import SECOND
from connectors.simulator.messages import ACK, HOLD, QUOTE, REPORT, ROUTE
from connectors.simulator.sender import Sender, stop_on_signals
from connectors.simulator.simulator import DRAIN_NS, LEAD_NS, SimConfig, Simulator
from connectors.topics import TopicsError, blocking_problems, connect
from schemas.reference import load_reference

TOPICS = (REPORT, ROUTE, ACK, HOLD, QUOTE)


class Settings(Protocol):
    """What is needed of the command's settings."""

    reference: Path

    @property
    def bootstrap(self) -> str:
        """The Kafka brokers."""

    def client_config(self) -> dict[str, Any]:
        """Return further settings of the Kafka client."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `hedgerow simulate`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--rate", type=float, default=1_000.0, metavar="N", help="venue reports per second, faulty ones included (1000)")
    parser.add_argument("--quotes-rate", type=float, default=20.0, metavar="N", help="quotes per second and instrument (20)")
    parser.add_argument(
        "--seconds", type=float, metavar="S", help="route orders for S seconds (default: until interrupted), then finish them"
    )
    parser.add_argument("--count", type=int, metavar="N", help="or until N venue reports were made")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="same seed, same histories (1)")
    parser.add_argument(
        "--speed", type=float, default=1.0, metavar="X", help="simulated seconds per second; 0: as fast as Kafka takes them (1)"
    )
    parser.add_argument("--life", type=float, default=0.8, metavar="S", help="mean time a resting order is worked (0.8)")
    parser.add_argument(
        "--ledger", type=Path, metavar="PATH", help="write one JSON line per message sent: where it went, its SHA-256, its fault"
    )
    parser.add_argument(
        "--faults",
        type=_faults,
        default={},
        metavar="LIST",
        help="all, none, or names and groups, e.g. all,gap=0.05,bytes=0 (none)",
    )
    parser.add_argument(
        "--crash", action="store_true", help="instead: a scripted market crash (indicators, accounts, positions), in S seconds (0: at once)"
    )
    parser.add_argument(
        "--hedging",
        action="store_true",
        help="instead: clients, markets and an order agent that executes the hedger's orders, for S seconds (600), and what came of it",
    )
    parser.add_argument(
        "--out", type=Path, metavar="PATH", help="with --crash: write it to a file, one JSON line per message, instead of Kafka"
    )
    rows = [f"  {f.name:<22}{f.group:<11}{f.rate:<9g}{f.unit:<9}{f.doc}" for f in FAULTS.values()]
    parser.epilog = "\n".join(["faults: name, group, rate under `all`, of every, what it does", *rows, "groups: " + ", ".join(GROUPS)])


def _faults(text: str) -> dict[str, float]:
    try:
        return parse_faults(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def run(args: argparse.Namespace) -> int:
    """Carry out `hedgerow simulate`; return 0, 1 when Kafka did not take everything, 2 for bad arguments.

    Raises BrokerUnavailable (not reachable), TopicsError (topics missing), ReferenceError (bad reference file).
    """
    settings: Settings = args.settings
    if args.hedging and (args.crash or args.out is not None):
        print(f"hedgerow: --hedging does not go with {'--crash' if args.crash else '--out'}", file=sys.stderr)
        return 2
    if args.crash:
        return crash_command.run(args)
    if args.hedging:
        return hedging_command.run(args)
    problem = _bad_arguments(args)
    reference = load_reference(settings.reference)
    config = None
    if not problem:
        try:
            config = SimConfig(args.seed, args.rate, _start(args), args.quotes_rate, args.life, faults=args.faults)
        except ValueError as error:
            problem = str(error)
    if config is None:
        print(f"hedgerow: {problem}", file=sys.stderr)
        return 2
    bootstrap, options = settings.bootstrap, settings.client_config()
    problems = blocking_problems(bootstrap, options, TOPICS)
    if problems:
        raise TopicsError("\n".join(problems))
    there = connect(bootstrap, options).list_topics(timeout=10.0).topics
    partitions = {name: len(there[name].partitions) for name in TOPICS}
    with contextlib.ExitStack() as stack:
        ledger = None
        if args.ledger is not None:
            try:
                ledger = stack.enter_context(args.ledger.open("w", encoding="utf-8", buffering=1 << 20))
            except OSError as error:
                print(f"hedgerow: --ledger {args.ledger}: {error.strerror}", file=sys.stderr)
                return 2
        sender = Sender(bootstrap, options, partitions, ledger)
        # Only now: what connecting took would be a lead of every receive time over the moment of sending (measured: 135 ms).
        simulator = Simulator(replace(config, start_ns=_start(args)), reference)
        signals = stack.enter_context(stop_on_signals(simulator.stop))
        batches = simulator.steps(args.seconds, args.count)
        sender.pace(batches, simulator.config.start_ns, args.speed, lambda: simulator.over, lambda: len(signals) > 1)
        missing = sender.close()
    return _summary(simulator, sender, missing, stopped=bool(signals))


def _bad_arguments(args: argparse.Namespace) -> str:
    if args.out is not None:
        return "--out goes with --crash"
    if args.seconds is not None and not 0 < args.seconds < 1e7:
        return "--seconds must be above 0"
    if args.count is not None and args.count < 1:
        return "--count must be 1 or more"
    if not 0 <= args.speed <= 1_000:
        return "--speed must be from 0 to 1000"
    if args.speed != 1 and args.seconds is None and args.count is None:
        return "--speed other than 1 needs --seconds or --count"
    return ""


def _start(args: argparse.Namespace) -> int:
    """Return when the simulation begins: now, or so much earlier that it does not run ahead of the clock."""
    now = time.time_ns()
    if args.speed == 1 or args.rate <= 0:
        return now
    spans = [args.seconds] if args.seconds is not None else []
    if args.count is not None:
        spans.append(args.count / args.rate)
    span = int(min(spans) * SECOND) + LEAD_NS + DRAIN_NS
    return now - (span if args.speed == 0 else max(0, int(span * (1 - 1 / args.speed))))


def _summary(simulator: Simulator, sender: Sender, missing: int, stopped: bool) -> int:
    for topic in TOPICS:
        print(f"topic {topic:<28} sent {sender.sent[topic]:>10,}  acknowledged {sender.acked[topic]:>10,}")
    for name in FAULTS:
        if simulator.faults[name] or name in simulator.config.faults:
            print(f"fault {name:<28} {simulator.faults[name]:>10,}")
    for name, count in sender.errors.items():
        print(f"hedgerow: {count:,} messages were not delivered: {name}", file=sys.stderr)
    closing = {
        "sent": {topic: sender.sent[topic] for topic in TOPICS},
        "faults": {name: count for name, count in sorted(simulator.faults.items()) if count},
        "rate": round(sender.rate, 1),
        "behind_ms_max": round(sender.behind_ns / 1e6, 3),
        "undelivered": missing,
        "stopped": stopped,
        "seed": simulator.config.seed,
        "start_ns": simulator.config.start_ns,
    }
    print(json.dumps(closing), flush=True)
    return 1 if missing else 0
