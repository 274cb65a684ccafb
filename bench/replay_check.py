"""`python -m bench.replay_check FILE...`: replays each recording and compares every fill with the offline as-of oracle.

Prints a line a file and a last line of JSON; ends with 1 if any figure, status or balance differs. Rules: tca §6.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import polars as pl

from bench.tca_oracle import measure, recorded
from connectors.recordings import RecordingError
from flows.replay import CLOCKS, Replay, ReplayError, replay

FIGURES = ("arrival_bps", "mid_bps", "spread_capture", "arrival_age_ms", "mid_age_ms")
EXACT = ("arrival_status", "mid_status", "arrival_detail", "mid_detail", "arrival_ts_ns", "mid_ts_ns", "arrival_mid2", "mid_mid2")
TOLERANCE = 1e-9
"""Relative. Published bps and ratios have six decimals, so equal figures are equal to the last bit."""
DECIMALS = 9


def compare(result: Replay, paths: list[Path], clock: str) -> dict[str, object]:
    """Return how the fills of a replay differ from the oracle over the same recordings; `equal` says whether not at all."""
    fills, quotes = recorded(paths, clock, DECIMALS)
    truth = measure(fills, quotes).select(
        "symbol", "exec_id", "arrival_bps", "mid_bps", "spread_capture", "arrival_age_ms", "mid_age_ms",
        "arrival_status", "mid_status", "arrival_detail", "mid_detail",
        pl.col("arrival_quote_ts").alias("arrival_ts_ns"), pl.col("mid_quote_ts").alias("mid_ts_ns"),
        "arrival_mid2", "mid_mid2",
    )  # fmt: skip
    twice = 2 * 10**DECIMALS
    found = result.fills.with_columns((pl.col(f"{kind}_px") * twice).cast(pl.Int64).alias(f"{kind}_mid2") for kind in ("arrival", "mid"))
    both = found.join(truth, on=["symbol", "exec_id"], how="inner", suffix="_truth")
    worst: dict[str, float] = {}
    apart = 0
    for name in FIGURES:
        ours, theirs = pl.col(name), pl.col(f"{name}_truth")
        gap = (ours - theirs).abs()
        worst[name] = float(both.select(gap.max()).item() or 0.0)
        bad = (gap > TOLERANCE * pl.max_horizontal(theirs.abs(), pl.lit(1.0))).fill_null(False) | (ours.is_null() != theirs.is_null())
        apart += int(both.select(bad.sum()).item())
    mismatched = sum(int(both.select(pl.col(name).ne_missing(pl.col(f"{name}_truth")).sum()).item()) for name in EXACT)
    whole = len(both) == len(truth) == len(found)
    return {
        "fills": len(found),
        "expected": len(truth),
        "compared": len(both),
        "max_abs_difference_bps": max(worst["arrival_bps"], worst["mid_bps"]),
        "max_abs_difference": max(worst.values()),
        "different_figures": apart,
        "mismatched_statuses": mismatched,
        "balance_closes": result.closes,
        "equal": whole and not apart and not mismatched and result.closes,
    }


def main(argv: list[str] | None = None) -> int:
    """Run the check over the files named on the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.replay_check", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--clock", choices=CLOCKS, default="receive")
    parser.add_argument("--lanes", type=int, default=4)
    parser.add_argument("--together", action="store_true", help="replay all files in one run instead of one after the other")
    args = parser.parse_args(argv)
    rows = []
    for paths in [args.files] if args.together else [[path] for path in args.files]:
        name = " + ".join("/".join(path.parts[-2:]) for path in paths)
        begun = time.perf_counter()
        try:
            result = replay(paths, args.clock, args.lanes)
        except (RecordingError, ReplayError) as error:
            print(f"replay_check: {error}", file=sys.stderr)
            return 1
        seconds = time.perf_counter() - begun
        row = {"file": name, **compare(result, paths, args.clock), "balance": result.balance, "seconds": round(seconds, 2)}
        rows.append(row)
        print(
            f"{name}: {row['fills']} fills of {row['expected']}, {row['compared']} compared, "
            f"max difference {row['max_abs_difference_bps']:g} bps ({row['max_abs_difference']:g} over all figures), "
            f"{row['different_figures']} figures and {row['mismatched_statuses']} statuses differ, "
            f"balance {'closes' if row['balance_closes'] else 'DOES NOT CLOSE'}, replayed in {seconds:.1f} s"
        )
    equal = all(row["equal"] for row in rows)
    print(json.dumps({"equal": equal, "fills": sum(int(str(row["fills"])) for row in rows), "files": rows}))
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main())
