"""What it costs to hand n arrays to a kernel that hands them on to others, against one map of addresses: compile time and time of a call.

Run `python -m bench.kernel_arguments`; the last line is JSON. Nothing is cached, times are processor times. The decision that rests on it:
docs/decisions/0003. The kernels here are toys of one shape: an outer one calls `--callees` inner ones, each of which touches two arrays.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import numba
import numpy as np

from operators.memory import _address, carray

INT64 = np.dtype("i8")


def compile_time(source: str, names: dict[str, Any], arguments: tuple[Any, ...]) -> tuple[Any, float]:
    """Return (the kernel `outer` of the source, processor seconds of its first call)."""
    exec(compile(source, "<kernels>", "exec"), names)
    outer = names["outer"]
    began = time.process_time()
    outer(*arguments)
    return outer, time.process_time() - began


def with_arrays(arrays: list[Any], callees: int) -> tuple[Any, tuple[Any, ...], float]:
    """Return (kernel, its arguments, compile seconds) when every array is an argument."""
    n = len(arrays)
    taken = ", ".join(f"a{i}" for i in range(n))
    lines = []
    for k in range(callees):
        lines.append(f"@njit\ndef inner{k}({taken}):\n    a{k % n}[0] += 1\n    return a{(k + 1) % n}[0]\n")
    body = " + ".join(f"inner{k}({taken})" for k in range(callees))
    lines.append(f"@njit\ndef outer({taken}):\n    return {body}\n")
    kernel, seconds = compile_time("\n".join(lines), {"njit": numba.njit}, tuple(arrays))
    return kernel, tuple(arrays), seconds


def with_map(arrays: list[Any], callees: int) -> tuple[Any, tuple[Any, ...], float]:
    """Return (kernel, its arguments, compile seconds) when the one argument holds addresses and lengths."""
    n = len(arrays)
    found = np.array([x for array in arrays for x in (array.ctypes.data, len(array))], np.int64)
    lines = [f"@njit\ndef at{i}(m):\n    return carray(_address(m[{2 * i}]), (m[{2 * i + 1}],), INT64)\n" for i in range(n)]
    for k in range(callees):
        lines.append(f"@njit\ndef inner{k}(m):\n    at{k % n}(m)[0] += 1\n    return at{(k + 1) % n}(m)[0]\n")
    body = " + ".join(f"inner{k}(m)" for k in range(callees))
    lines.append(f"@njit\ndef outer(m):\n    return {body}\n")
    names = {"njit": numba.njit, "carray": carray, "_address": _address, "INT64": INT64}
    kernel, seconds = compile_time("\n".join(lines), names, (found,))
    return kernel, (found,), seconds


def call_us(kernel: Any, arguments: tuple[Any, ...]) -> float:
    """Return the least processor time of a call from Python, in µs."""
    best = float("inf")
    for _ in range(20):
        began = time.process_time()
        for _ in range(1_000):
            kernel(*arguments)
        best = min(best, (time.process_time() - began) / 1_000)
    return best * 1e6


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arrays", type=int, nargs="+", default=[10, 30, 60, 90], help="numbers of arrays")
    parser.add_argument("--callees", type=int, default=20, help="inner kernels")
    args = parser.parse_args()
    with_arrays([np.zeros(4, np.int64)], 1)  # numba's own first use is not what is measured
    with_map([np.zeros(4, np.int64)], 1)
    table = {}
    for n in args.arrays:
        arrays = [np.zeros(4, np.int64) for _ in range(n)]
        row = {}
        for name, make in (("arrays", with_arrays), ("map", with_map)):
            kernel, arguments, seconds = make(arrays, args.callees)
            row[name] = {"compile_s": round(seconds, 2), "call_us": round(call_us(kernel, arguments), 2)}
        table[str(n)] = row
        told = "   ".join(f"{name}: {cost['compile_s']:7.2f} s to compile, {cost['call_us']:7.2f} µs a call" for name, cost in row.items())
        print(f"{n:3} arrays, {args.callees} inner kernels   {told}", flush=True)
    print(json.dumps({"benchmark": "kernel_arguments", "callees": args.callees, "arrays": table}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
