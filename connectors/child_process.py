"""Child processes that do not outlive their parent. Used for brokers in tests and for supervised workers.

Linux does this in the kernel (PR_SET_PDEATHSIG, prctl(2)); elsewhere it is left to the parent's own clean-up.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable

_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15
_LONGEST_NAME = 15
# Loaded here, not in the child: between fork and exec only what is already there may be used.
_PRCTL = ctypes.CDLL(None, use_errno=True).prctl if sys.platform == "linux" else None


def name_process(name: str) -> None:
    """Let `ps -o comm` and the like show a name for this process, its first 15 bytes; does nothing but on Linux."""
    if _PRCTL is not None:
        _PRCTL(_PR_SET_NAME, name.encode()[:_LONGEST_NAME], 0, 0, 0)


def die_with_parent(number: signal.Signals) -> Callable[[], None]:
    """Return a `preexec_fn` for subprocess.Popen after which the kernel sends `number` to the child when its parent dies.

    The kernel means the parent *thread*: start the child from a thread that lives as long as the process.
    """
    parent = os.getpid()

    def prepare() -> None:
        if _PRCTL is not None:
            _PRCTL(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
            if os.getppid() != parent:  # it died before the call above
                os._exit(1)

    return prepare
