"""The `hedgerow` command: finds the subcommand, loads only its module, turns expected failures into one line and an exit code.

May not hold what a subcommand does, and imports nothing heavy itself: `hedgerow --help` answers at once.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Command:
    """A subcommand: the module that offers `run(args) -> int`, and `add_arguments(parser)` if it has arguments.

    settings: it gets `--settings` and `--kafka`, and `args.settings` holds the checked Settings when `run` is called. An argument of a
    setting's name (`--partitions`) overrides that setting.
    """

    module: str
    help: str
    settings: bool = False


COMMANDS: dict[str, Command] = {
    "demo": Command("flows.demo", "market, venues, every flow and a live board on the embedded broker; needs nothing installed"),
    "run": Command("flows.run", "run one worker of a flow, or several under a supervisor", settings=True),
    "simulate": Command("connectors.simulator.command", "send a simulated market's orders, reports and faults to Kafka", settings=True),
    "replay": Command("flows.replay", "run a flow from recorded files to files"),
    "topics": Command("flows.topics", "create the topics, or check those that exist", settings=True),
    "hedges": Command("flows.hedges", "show the hedges, and say the manual desk's word on them", settings=True),
    "canary": Command(
        "flows.canary_cli", "judge risk snapshots, explain and verify results, test a policy on history, watch alerts", settings=True
    ),
    "monitor": Command("flows.monitor", "decide who is told of the canary's alerts, and tell webhooks", settings=True),
    "broker": Command("connectors.kafka_server", "start, stop or look at a one-node Apache Kafka on this machine"),
    "schemas": Command("schemas.export", "write the JSON Schemas and the AsyncAPI document, or check them for drift"),
    "warm": Command("flows.warm", "compile every numba kernel now, so that the first record does not wait for it"),
    "version": Command("flows.cli", "print the versions of hedgerow and of what it stands on"),
}

_VERSIONED = ("bytewax", "confluent-kafka", "polars", "numba", "numpy", "pydantic")


def build_parser(chosen: str | None) -> argparse.ArgumentParser:
    """Return the parser: every subcommand by name, and the arguments of the `chosen` one."""
    parser = argparse.ArgumentParser(
        prog="hedgerow",
        description="Venue fills into hedges and risk signals, exactly once, in milliseconds.",
        epilog="Settings come from the environment (HEDGEROW_*) and an optional TOML file (--settings or HEDGEROW_SETTINGS).",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        sub = commands.add_parser(name, help=command.help, description=command.help[0].upper() + command.help[1:] + ".")
        if name != chosen:
            continue
        if command.settings:
            sub.add_argument("--settings", dest="settings_file", type=Path, metavar="FILE", help="TOML file with settings")
            sub.add_argument("--kafka", metavar="HOST:PORT", help="Kafka brokers (default: HEDGEROW_KAFKA)")
        add_arguments = getattr(importlib.import_module(command.module), "add_arguments", None)
        if add_arguments is not None and command.module != __name__:
            add_arguments(sub)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the `hedgerow` command; return its exit code (flows/supervisor.py names them)."""
    words = list(sys.argv[1:] if argv is None else argv)
    chosen = words[0] if words and words[0] in COMMANDS else None
    try:
        args = build_parser(chosen).parse_args(words)
        command = COMMANDS[args.command]
        if command.settings:
            from flows.settings import Settings, load_settings

            given = {name: value for name, value in vars(args).items() if name in Settings.model_fields}
            args.settings = load_settings(args.settings_file, **given)
        return int(importlib.import_module(command.module).run(args))
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output left (`hedgerow ... | head`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        expected = _expected(error)
        if expected is None:
            raise
        code, lines = expected
        for line in lines:
            print(f"hedgerow: {line}", file=sys.stderr)
        return code


def _expected(error: Exception) -> tuple[int, list[str]] | None:
    """Return exit code and lines of a failure that needs no traceback, None for any other. Looks only at modules already loaded."""
    from flows.supervisor import EXIT_SETTINGS, EXIT_STARTUP, EXIT_STATE, EXIT_UNREACHABLE

    kinds = (
        ("flows.settings", "SettingsError", EXIT_SETTINGS),
        ("schemas.reference", "ReferenceError", EXIT_SETTINGS),
        ("schemas.policy", "PolicyError", EXIT_SETTINGS),
        ("connectors.kafka_server", "BrokerUnavailable", EXIT_UNREACHABLE),
        ("connectors.kafka", "BrokerUnreachable", EXIT_UNREACHABLE),
        ("connectors.kafka", "StartupError", EXIT_STARTUP),
        ("connectors.topics", "TopicsError", EXIT_STARTUP),
        ("state.changelog", "StateMismatch", EXIT_STATE),
    )
    for module, name, code in kinds:
        kind = getattr(sys.modules.get(module), name, None)
        if kind is not None and isinstance(error, kind):
            return code, str(error).splitlines() or [name]
    return None


def run(args: argparse.Namespace) -> int:
    """Carry out `hedgerow version`."""
    import platform
    from importlib.metadata import version

    print(f"hedgerow {version('hedgerow')}")
    print(f"Python {platform.python_version()}")
    for name in _VERSIONED:
        print(f"{name} {version(name)}")
    return 0
