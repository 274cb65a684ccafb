"""A webhook deliverer as a process of its own, which ends itself by SIGKILL at a point it is told: `python -m tests.broker.webhook_child JSON`."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from pathlib import Path

from connectors.kafka import Fenced, SessionError
from connectors.webhook_targets import load_targets
from connectors.webhooks import serve
from flows.supervisor import EXIT_FAILED, EXIT_FENCED
from schemas.policy import load_policies


def main(argv: list[str]) -> int:
    told = json.loads(argv[0])
    logging.basicConfig(level="INFO", stream=sys.stderr)
    left = {told.get("point"): told.get("nth", 1)}

    def fault(point: str) -> None:
        if point in left:
            left[point] -= 1
            if left[point] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    try:
        serve(told["bootstrap"], {}, load_targets(Path(told["targets"])), load_policies(), fault=fault)
    except SessionError as error:
        print(error, file=sys.stderr)
        return EXIT_FENCED if isinstance(error, Fenced) else EXIT_FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
