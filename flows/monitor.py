"""The monitor: alerts in; notices, of pages and of what changed, out. Wiring only, and the command `hedgerow monitor`.

The command runs the flow and the webhook deliverer (connectors/webhooks.py) under one supervisor.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from flows.policies import policies_of
from flows.runtime import Flow
from flows.settings import FILE_VARIABLE, Settings, SettingsError, variable
from operators.lane import BroadcastLogic, LaneLogic
from operators.monitor_lane import MonitorLogic
from schemas import registry
from schemas.policy import RiskPolicy

if TYPE_CHECKING:
    from connectors.webhook_targets import Target

DELIVERER = "webhooks-0"


def flow_of(policies: Mapping[str, RiskPolicy]) -> Flow:
    """Return the monitor over the given policies, by profile."""

    def make_logic(lane: int, n_lanes: int, broadcast: BroadcastLogic | None) -> LaneLogic:
        return MonitorLogic(lane, n_lanes, policies)

    return Flow(
        name="monitor",
        inputs=registry.MONITOR_INPUTS,
        outputs=registry.MONITOR_OUTPUTS,
        broadcast=(),
        changelog=registry.MONITOR_CHANGELOG,
        make_logic=make_logic,
        make_broadcast=lambda: None,
    )


def build(settings: Settings) -> Flow:
    """Return the monitor as the settings say. Raises SettingsError when a policy cannot be used."""
    return flow_of(policies_of(settings))


# ---- the command -----------------------------------------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `hedgerow monitor`."""
    parser.add_argument(
        "--targets", dest="webhook_targets", type=Path, metavar="FILE", help="webhooks that are told (TOML; HEDGEROW_WEBHOOK_TARGETS)"
    )
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="workers of the monitor (default 1); the deliverer is one")
    parser.add_argument("--deliver", action="store_true", help="run only the deliverer, in this process")


def run(args: argparse.Namespace) -> int:
    """Run until stopped; return the exit code."""
    settings: Settings = args.settings
    if args.deliver:
        return deliver(settings)
    from connectors.topics import blocking_problems
    from flows.run import FLOWS, worker_specs
    from flows.supervisor import EXIT_STARTUP, Supervisor, WorkerSpec

    policies_of(settings)
    if not 1 <= args.workers <= 256:
        raise SettingsError([f"--workers: must be 1 to 256, not {args.workers}"])
    topics = FLOWS["monitor"][1]
    if settings.webhook_targets is not None:
        _targets(settings)
        topics = tuple(dict.fromkeys((*topics, *registry.DELIVERY_TOPICS)))
    problems = blocking_problems(settings.bootstrap, settings.client_config(), topics)
    for problem in problems:
        print(f"hedgerow: {problem}", file=sys.stderr)
    if problems:
        return EXIT_STARTUP
    specs = worker_specs(settings, ["monitor"], args.workers, args.settings_file)
    if settings.webhook_targets is None:
        print("hedgerow: no webhooks: notices are only published (--targets FILE)", file=sys.stderr)
    else:
        own = {
            variable("worker"): DELIVERER,
            variable("kafka"): settings.bootstrap,
            variable("webhook_targets"): str(settings.webhook_targets.absolute()),
        }
        if args.settings_file is not None:
            own[FILE_VARIABLE] = str(args.settings_file.absolute())
        if settings.metrics_port:
            own[variable("metrics_port")] = "0"
        specs.append(WorkerSpec(DELIVERER, (sys.executable, "-m", "flows", "monitor", "--deliver"), own))
    return Supervisor(specs).run()


def deliver(settings: Settings) -> int:
    """Deliver notices to the webhooks of the settings until stopped; return the exit code."""
    from connectors.kafka import Fenced, SessionError
    from connectors.webhooks import serve
    from flows.supervisor import EXIT_FAILED, EXIT_FENCED, EXIT_OK

    logging.basicConfig(level=settings.log_level, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    if settings.webhook_targets is None:
        raise SettingsError([f"{variable('webhook_targets')}: not set; give the file of the webhooks"])
    try:
        serve(settings.bootstrap, settings.client_config(), _targets(settings), policies_of(settings))
    except SessionError as error:
        print(f"hedgerow: webhooks: {error}", file=sys.stderr, flush=True)
        return EXIT_FENCED if isinstance(error, Fenced) else EXIT_FAILED
    return EXIT_OK


def _targets(settings: Settings) -> list[Target]:
    from connectors.webhook_targets import TargetsError, load_targets

    assert settings.webhook_targets is not None
    try:
        return load_targets(settings.webhook_targets)
    except TargetsError as error:
        raise SettingsError(str(error).splitlines()) from error
