"""A process that is ready to be any worker of a flow: `python -m flows.spare FLOW`, started and told by the supervisor.

Everything is imported and every kernel taken from the cache; then it waits on its standard input for who it is to be (flows.supervisor.SpareSpec). Most of a
worker's start is behind it then. Until that moment it knows no broker, no state and no name, so that nobody can mistake it for a worker.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
from collections.abc import Sequence

from connectors.child_process import name_process
from flows import cli
from flows.run import FLOWS
from flows.settings import variable
from flows.supervisor import EXIT_OK

COMM = "hedgerow-spare"
"""The process's name while it waits; then it is the worker's."""


def main(argv: Sequence[str]) -> int:
    """Make ready, wait, and be the worker; return its exit code, or 0 when nobody needed one."""
    (flow,) = argv
    name_process(COMM)
    gc.disable()  # as in flows.run: what is loaded is kept
    importlib.import_module("flows.runtime")
    importlib.import_module(FLOWS[flow][0])
    from flows import warm

    warm.load(flow)
    line = sys.stdin.readline()
    if not line:
        return EXIT_OK
    environment = json.loads(line)
    os.environ.update(environment)
    name_process(environment.get(variable("worker"), flow))
    return cli.main(["run", flow])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
