"""Rows or columns for a keyed table: what a commit's gather, an update and a scan cost with one structured array and with 20 arrays.

Run `python -m bench.table_layout`; the last line is JSON. Times are processor times of one thread, the least of several runs; the
ratios are columns over rows, so above 1 means that rows are cheaper. The decision that rests on it: docs/decisions/0002.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.jit import njit

COLUMNS = 20
Ints = NDArray[np.int64]


@njit
def update_rows(rows: Any, where: Ints) -> int:
    """Read and write six fields of each row named."""
    total = 0
    for i in where:
        row = rows[i]
        row.c0 += 1
        row.c3 += row.c0
        row.c7 ^= row.c3
        row.c11 += row.c7
        row.c15 -= row.c11
        row.c19 += row.c15
        total += row.c19
    return total


@njit
def update_columns(c0: Ints, c3: Ints, c7: Ints, c11: Ints, c15: Ints, c19: Ints, where: Ints) -> int:
    """Do the same with six arrays."""
    total = 0
    for i in where:
        c0[i] += 1
        c3[i] += c0[i]
        c7[i] ^= c3[i]
        c11[i] += c7[i]
        c15[i] -= c11[i]
        c19[i] += c15[i]
        total += c19[i]
    return total


def least(work: Callable[[], Any], repeats: int) -> float:
    """Return the least processor time of one call, in seconds, after one call that does not count."""
    work()
    best = float("inf")
    for _ in range(repeats):
        start = time.thread_time()
        work()
        best = min(best, time.thread_time() - start)
    return best


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows in the table")
    parser.add_argument("--dirty", type=int, default=2_000, help="rows changed between two commits")
    parser.add_argument("--repeats", type=int, default=20, help="runs of each, the best counts")
    args = parser.parse_args()
    rng = np.random.default_rng(1)
    rows = np.zeros(args.rows, np.dtype([(f"c{i}", "i8") for i in range(COLUMNS)]))
    columns = [np.zeros(args.rows, np.int64) for _ in range(COLUMNS)]
    for i, column in enumerate(columns):
        column[:] = rows[f"c{i}"] = rng.integers(0, 1 << 40, args.rows)
    # other rows each time: what was touched a moment ago is in the processor's cache, what a commit touches is not
    dirty = [np.sort(rng.choice(args.rows, args.dirty, replace=False)) for _ in range(args.repeats + 1)]
    places = [rng.permutation(args.rows)[: args.rows // 5] for _ in range(4)]

    def turns(sets: list[Ints], work: Callable[[Ints], Any]) -> Callable[[], Any]:
        state = iter(range(10**9))
        return lambda: work(sets[next(state) % len(sets)])

    six = [columns[i] for i in (0, 3, 7, 11, 15, 19)]
    n = len(places[0])
    figures = {
        "gather_take_us": [
            least(turns(dirty, lambda at: rows.take(at).tobytes()), args.repeats) * 1e6,
            least(turns(dirty, lambda at: b"".join([column.take(at).tobytes() for column in columns])), args.repeats) * 1e6,
        ],
        "gather_index_us": [
            least(turns(dirty, lambda at: rows[at].tobytes()), args.repeats) * 1e6,
            least(turns(dirty, lambda at: b"".join([column[at].tobytes() for column in columns])), args.repeats) * 1e6,
        ],
        "update_ns": [
            least(turns(places, lambda at: update_rows(rows, at)), args.repeats) / n * 1e9,
            least(turns(places, lambda at: update_columns(*six, at)), args.repeats) / n * 1e9,
        ],
        "scan_one_field_us": [
            least(lambda: int((rows["c5"] > 1 << 39).sum()), args.repeats) * 1e6,
            least(lambda: int((columns[5] > 1 << 39).sum()), args.repeats) * 1e6,
        ],
    }
    print(f"{args.rows:,} rows of {COLUMNS} int64; {args.dirty:,} dirty rows gathered as bytes; six fields updated in random rows")
    for name, (one, many) in figures.items():
        print(f"{name:>18} rows {one:10.1f}   columns {many:10.1f}   columns / rows {many / one:5.2f}")
    result = {
        "benchmark": "table_layout",
        "rows": args.rows,
        "dirty": args.dirty,
        **{
            name: {"rows": round(one, 1), "columns": round(many, 1), "ratio": round(many / one, 2)} for name, (one, many) in figures.items()
        },
    }
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
