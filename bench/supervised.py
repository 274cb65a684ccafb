"""One worker of a flow under hedgerow's supervisor, `python -m bench.supervised FLOW-N`; or `hedgerow monitor` with its own, with `monitor` and its options.

As `hedgerow run FLOW --workers N`, but every worker has a supervisor of its own, which can be paused so that nobody restarts it, or stopped
for good; and a worker that ran for `HEALTHY_S` counts as healthy, because faults here come more densely than the supervisor's minute.
"""

from __future__ import annotations

import functools
import sys

from flows import cli, supervisor
from flows.run import spare_of
from flows.settings import variable
from flows.supervisor import Supervisor, WorkerSpec

HEALTHY_S = 0.5
"""A worker killed sooner is started again after 0.4 s, 1.6 s and so on instead of 0.1 s."""


def main(argv: list[str]) -> int:
    """Run the worker until it is stopped; return the supervisor's exit code."""
    if argv[0] == "monitor":
        supervisor.Supervisor = functools.partial(Supervisor, give_up_after=0, healthy_s=HEALTHY_S)  # type: ignore[assignment,misc]
        return cli.main(argv)
    (name,) = argv
    command = (sys.executable, "-m", "flows", "run", name.rpartition("-")[0])
    spec = WorkerSpec(name, command, {variable("worker"): name}, spare_of(name.rpartition("-")[0], {}))
    return Supervisor([spec], give_up_after=0, healthy_s=HEALTHY_S).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
