"""`hedgerow run`: one worker of a flow in this process, or several processes under the supervisor.

May not hold what a flow or the runtime does. Everything a worker needs is checked before its first heavy import.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from connectors.topics import blocking_problems
from flows.settings import FILE_VARIABLE, Settings, SettingsError, variable
from flows.supervisor import EXIT_STARTUP, GIVE_UP_AFTER, SpareSpec, Supervisor, WorkerSpec
from schemas import registry

if TYPE_CHECKING:
    from connectors.kafka import SessionConfig
    from flows.runtime import Fault, Flow

FAULT_VARIABLE = "HEDGEROW_FAULT"
"""For tests, not a setting: `POINT:N`, or several with commas, each perhaps for one worker only (`WORKER/POINT:N`). The process ends
itself by SIGKILL when it comes to that point of `flows.runtime.Runtime` the Nth time in its life: so it dies in the middle of a commit.
`@FOLDER` instead: what to do is looked up there whenever the worker comes to a point (see `armed`), so that it can be ordered while it runs."""
FAULT_POINTS = ("before_produce", "before_send_offsets", "before_commit", "after_commit", "during_restore", "in_revoke")

FLOWS: dict[str, tuple[str, tuple[str, ...]]] = {
    "execution": (
        "flows.execution",
        (*registry.EXECUTION_INPUTS, *registry.EXECUTION_BROADCAST, *registry.EXECUTION_OUTPUTS, registry.EXECUTION_CHANGELOG),
    ),
    "hedger": (
        "flows.hedger",
        tuple(dict.fromkeys((*registry.HEDGER_INPUTS, *registry.HEDGER_BROADCAST, *registry.HEDGER_OUTPUTS, registry.HEDGER_CHANGELOG))),
    ),
    "regime": ("flows.regime", (*registry.REGIME_INPUTS, *registry.REGIME_OUTPUTS, registry.REGIME_CHANGELOG)),
    "canary": (
        "flows.canary",
        tuple(dict.fromkeys((*registry.CANARY_INPUTS, *registry.CANARY_BROADCAST, *registry.CANARY_OUTPUTS, registry.CANARY_CHANGELOG))),
    ),
    "monitor": (
        "flows.monitor",
        tuple(dict.fromkeys((*registry.MONITOR_INPUTS, *registry.MONITOR_OUTPUTS, registry.MONITOR_CHANGELOG))),
    ),
}
"""The flows: the module that offers `build(settings) -> Flow`, and the topics that must be there."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `hedgerow run`."""
    parser.add_argument("flows", nargs="+", choices=tuple(FLOWS), metavar="FLOW", help=f"one or more of: {', '.join(FLOWS)}")
    parser.add_argument("--workers", type=int, metavar="N", help="run N workers of each flow under a supervisor that restarts them")
    parser.add_argument("--worker", metavar="NAME", help="this worker's name, stable over restarts (HEDGEROW_WORKER; default FLOW-0)")
    parser.add_argument("--group", metavar="NAME", help="consumer group (HEDGEROW_GROUP; default hedgerow-FLOW)")
    parser.add_argument("--metrics-port", type=int, metavar="PORT", help="Prometheus metrics (HEDGEROW_METRICS_PORT; 0: off)")
    parser.add_argument(
        "--spare",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="with --workers: keep one more process of each flow ready that takes a fallen worker's place (on)",
    )
    parser.add_argument(
        "--give-up-after",
        type=int,
        default=GIVE_UP_AFTER,
        metavar="N",
        help=f"with --workers: stop all after N failures of one in a row, each within a minute (default {GIVE_UP_AFTER}; 0: never)",
    )


def run(args: argparse.Namespace) -> int:
    """Run the workers until they end or are asked to; return the exit code."""
    settings: Settings = args.settings
    logging.basicConfig(level=settings.log_level, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    flows = list(dict.fromkeys(args.flows))
    supervised = args.workers is not None or len(flows) > 1
    if supervised:
        _check_supervised(settings, flows, 1 if args.workers is None else args.workers, args.give_up_after)
    # A default says nothing of what is there. A count somebody has set tells that partitions were added to all topics alike.
    lanes = settings.partitions if "partitions" in settings.model_fields_set else None
    for flow in flows:
        problems = blocking_problems(settings.bootstrap, settings.client_config(), FLOWS[flow][1], lanes)
        for problem in problems:
            print(f"hedgerow: {problem}", file=sys.stderr)
        if problems:
            return EXIT_STARTUP
    if supervised:
        specs = worker_specs(settings, flows, args.workers or 1, args.settings_file, args.spare)
        return Supervisor(specs, give_up_after=args.give_up_after).run()
    return run_worker(settings, flows[0])


def run_worker(settings: Settings, flow: str) -> int:
    """Run one worker of `flow` in this process until it ends; return its exit code."""
    gc.disable()  # looking through what is imported for garbage, again and again, is a tenth of a start's processor time; there is none
    from flows.runtime import run_flow

    fault = fault_of(os.environ.get(FAULT_VARIABLE, ""), settings.worker_of(flow))
    built = importlib.import_module(FLOWS[flow][0]).build(settings)
    config = session_config(settings, built)
    gc.freeze()
    gc.enable()
    return run_flow(built, config) if fault is None else run_flow(built, config, fault=fault)


def fault_of(text: str, worker: str) -> Fault | None:
    """Return what `HEDGEROW_FAULT` asks of this worker; None for nothing. Raises SettingsError when it cannot be read."""
    if text.startswith("@"):
        return armed(Path(text[1:]), worker)
    left: dict[str, int] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, slash, order = item.rpartition("/")
        point, _, count = order.partition(":")
        if point not in FAULT_POINTS or not count.isdigit() or int(count) < 1:
            raise SettingsError([f"{FAULT_VARIABLE}: must be [WORKER/]POINT:N with POINT one of {', '.join(FAULT_POINTS)}, not {item!r}"])
        if not slash or name == worker:
            left[point] = int(count)

    def fault(point: str) -> None:
        if point in left:
            left[point] -= 1
            if left[point] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    return fault if left else None


def armed(folder: Path, worker: str) -> Fault:
    """Return a fault that is ordered by a file `WORKER.POINT` in `folder`: `N SIGNAL SECONDS`.

    The Nth time from now the process comes to that point it renames the file to `WORKER.POINT.done` and sends itself the signal, so many
    seconds later: a commit that is under way has gone on meanwhile.
    """
    orders = {point: folder / f"{worker}.{point}" for point in FAULT_POINTS}
    seen = dict.fromkeys(FAULT_POINTS, 0)

    def fault(point: str) -> None:
        order = orders[point]
        try:
            count, name, seconds = order.read_text().split()
            seen[point] += 1
            if seen[point] < int(count):
                return
            order.rename(f"{order}.done")
        except FileNotFoundError:  # nothing is ordered
            return
        seen[point] = 0
        send = partial(os.kill, os.getpid(), signal.Signals[name])
        if float(seconds):
            threading.Timer(float(seconds), send).start()
        else:
            send()

    return fault


def session_config(settings: Settings, flow: Flow) -> SessionConfig:
    """Return what the Kafka session of a worker of `flow` needs, from the settings."""
    from connectors.kafka import SessionConfig

    return SessionConfig(
        bootstrap=settings.bootstrap,
        client=settings.client_config(),
        group_id=settings.group_of(flow.name),
        worker=settings.worker_of(flow.name),
        inputs=flow.inputs,
        outputs=flow.outputs,
        broadcast=flow.broadcast,
        changelog=flow.changelog,
        commit_interval_ms=settings.commit_interval_ms,
        fetch_wait_ms=settings.fetch_wait_ms,
        max_chunk_records=settings.max_chunk_records,
        lane_pause_bytes=settings.lane_pause_bytes,
        session_timeout_ms=settings.session_timeout_ms,
        transaction_timeout_ms=settings.transaction_timeout_ms,
        truncate_interval_ms=settings.trim_interval_s * 1_000,
        broadcast_lookback_ms=settings.broadcast_lookback_s * 1_000 or None,
        broadcast_whole=flow.broadcast_whole,
        tape_wait_ms=settings.tape_wait_ms,
        metrics_port=settings.metrics_port,
        metrics_host=settings.metrics_host,
    )


def _check_supervised(settings: Settings, flows: list[str], workers: int, give_up_after: int) -> None:
    problems = []
    if not 1 <= workers <= 256:
        problems.append(f"--workers: must be 1 to 256, not {workers}")
    if give_up_after < 0:
        problems.append(f"--give-up-after: must be at least 0, not {give_up_after}")
    if settings.worker is not None:
        problems.append(f"{variable('worker')}: cannot be set with several workers; they are named FLOW-0, FLOW-1, ...")
    if settings.group is not None and len(flows) > 1:
        problems.append(f"{variable('group')}: cannot be set with several flows; each needs a group of its own")
    if settings.metrics_port and settings.metrics_port + len(flows) * workers - 1 > 65_535:
        problems.append(f"{variable('metrics_port')}: {settings.metrics_port} leaves no ports for {len(flows) * workers} workers")
    if problems:
        raise SettingsError(problems)


def spare_of(flow: str, environment: Mapping[str, str]) -> SpareSpec:
    """Return the process that can take any of a flow's workers' places."""
    return SpareSpec((sys.executable, "-m", "flows.spare", flow), environment)


def worker_specs(settings: Settings, flows: list[str], workers: int, settings_file: Path | None, spare: bool = True) -> list[WorkerSpec]:
    """Return the supervised workers: named FLOW-0 to FLOW-(workers - 1), worker n of all with metrics port + n; with a spare for each flow."""
    common = {variable("kafka"): settings.bootstrap}
    if settings_file is not None:
        common[FILE_VARIABLE] = str(settings_file.absolute())
    if settings.group is not None:
        common[variable("group")] = settings.group
    specs: list[WorkerSpec] = []
    for flow in flows:
        for number in range(workers):
            name = f"{flow}-{number}"
            port = settings.metrics_port + len(specs) if settings.metrics_port else 0
            own = {variable("worker"): name, variable("metrics_port"): str(port)}
            specs.append(
                WorkerSpec(name, (sys.executable, "-m", "flows", "run", flow), common | own, spare_of(flow, common) if spare else None)
            )
    return specs
