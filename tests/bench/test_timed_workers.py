"""The workers with timers wrap calls of the product by name: a name that has moved must be noticed here, not in the middle of a benchmark."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("module", ["stages", "profiled"])
def test_every_call_that_is_timed_is_there(module: str) -> None:
    # in a process of its own: what is wrapped stays so
    words = f"from bench import {module}; from bench.stages import Timers; {module}.install(Timers())"
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
