"""The offline oracle of arrival and mid slippage: one polars as-of join over the whole tape, then the formulas in plain expressions.

Shares no code with the product: it also reads recordings and groups takers its own, slow way. Rules: tca §2, §3 and §6.
"""

from __future__ import annotations

import gzip
import json
from decimal import Decimal
from pathlib import Path

import polars as pl

QUOTE_SCHEMA = {"symbol": pl.String, "ts": pl.Int64, "bid": pl.Int64, "ask": pl.Int64, "full": pl.Boolean}
FILL_SCHEMA = {"symbol": pl.String, "exec_id": pl.String, "sign": pl.Int64, "px": pl.Int64, "arrival_ts": pl.Int64, "exec_ts": pl.Int64}


def look_up(fills: pl.DataFrame, quotes: pl.DataFrame, tau: str, max_age_ns: int = 3_000_000_000) -> pl.DataFrame:
    """Return the fills with mid2, quote_ts, bid, ask, status and detail of the market just before the time in column `tau`.

    quotes: `QUOTE_SCHEMA`, in tape order; bid and ask scaled integers, null for an empty side.
    """
    tape_end = quotes["ts"].max()
    last_of_ts = quotes.unique(["symbol", "ts"], keep="last", maintain_order=True)
    by_time = last_of_ts.with_columns(pl.col("ts").alias("quote_ts")).sort("ts")
    joined = (
        fills.with_row_index("row")
        .sort(tau)
        .join_asof(by_time, left_on=tau, right_on="ts", by="symbol", strategy="backward", allow_exact_matches=False, check_sortedness=False)
        .sort("row")
    )
    bid, ask = pl.col("bid"), pl.col("ask")
    missing = bid.is_null() | ask.is_null() | (bid <= 0) | (ask <= 0)
    behind = pl.lit(True) if tape_end is None else pl.col(tau) > tape_end
    detail = (
        pl.when(missing)
        .then(None)
        .when(behind)
        .then(pl.lit("tape_behind"))
        .when(pl.col(tau) - pl.col("quote_ts") > max_age_ns)
        .then(pl.lit("aged"))
        .when(~pl.col("full"))
        .then(pl.lit("low_confidence"))
        .when(bid >= ask)
        .then(pl.lit("locked_or_crossed"))
    )
    status = pl.when(missing).then(pl.lit("missing")).when(detail.is_not_null()).then(pl.lit("stale")).otherwise(pl.lit("ok"))
    return joined.select(
        "row",
        pl.when(~missing).then(bid + ask).alias("mid2"),
        pl.when(~missing).then("quote_ts").alias("quote_ts"),
        pl.when(~missing).then(bid).alias("bid"),
        pl.when(~missing).then(ask).alias("ask"),
        status.alias("status"),
        detail.alias("detail"),
    )


def measure(fills: pl.DataFrame, quotes: pl.DataFrame, max_age_ns: int = 3_000_000_000) -> pl.DataFrame:
    """Return the fills (`FILL_SCHEMA`; prices at the quotes' scale) with `arrival_*`, `mid_*` and spread_capture."""
    found = fills
    for kind, tau in (("arrival", "arrival_ts"), ("mid", "exec_ts")):
        part = look_up(fills, quotes, tau, max_age_ns).drop("row")
        found = found.hstack(part.rename({name: f"{kind}_{name}" for name in part.columns}))
    twice, sign = 2 * pl.col("px"), pl.col("sign")
    spread = pl.col("mid_ask") - pl.col("mid_bid")
    return found.with_columns(
        *(
            (sign * (twice - pl.col(f"{kind}_mid2")) / pl.col(f"{kind}_mid2") * 1e4).round(6).alias(f"{kind}_bps")
            for kind in ("arrival", "mid")
        ),
        *(
            ((pl.col(tau) - pl.col(f"{kind}_quote_ts")) / 1e6).alias(f"{kind}_age_ms")
            for kind, tau in (("arrival", "arrival_ts"), ("mid", "exec_ts"))
        ),
        pl.when(spread > 0).then((sign * (pl.col("mid_mid2") - twice) / spread).round(6)).alias("spread_capture"),
    )


def read(path: Path, clock: str = "receive") -> tuple[list[dict[str, object]], list[dict[str, object]]]:
    """Return (fills, quotes) of one recording as rows, prices as Decimal: one json.loads a line, takers grouped by a plain loop."""
    fills: list[dict[str, object]] = []
    quotes: list[dict[str, object]] = []
    taker: dict[str, tuple[object, ...]] = {}
    raw = path.read_bytes()
    for line in (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode().splitlines():
        received, _, text = line.partition(" ")
        message = json.loads(text)
        kind = message.get("stream", "@").split("@")[1]
        if kind not in ("trade", "bookTicker"):
            continue
        data = message["data"]
        ts = int(received) if clock == "receive" else data["T"] * 1_000_000
        if kind == "bookTicker":
            symbol = data["s"] + ("-PERP" if "T" in data else "")
            quotes.append({"symbol": symbol, "ts": ts, "bid": Decimal(data["b"]), "ask": Decimal(data["a"]), "full": True})
            continue
        symbol = data["s"] if "X" not in data else data["s"] + "-PERP"
        same = taker.get(symbol, (None, None, None))
        arrival = same[2] if same[:2] == (data["T"], data["m"]) else ts
        taker[symbol] = (data["T"], data["m"], arrival)
        sign = -1 if data["m"] else 1
        fills.append(
            {"symbol": symbol, "exec_id": str(data["t"]), "sign": sign, "px": Decimal(data["p"]), "arrival_ts": arrival, "exec_ts": ts}
        )
    return fills, quotes


def recorded(paths: list[Path], clock: str = "receive", decimals: int = 9) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return (fills, quotes) of recordings as frames in time order, prices in units of 10^-decimals."""
    fills: list[dict[str, object]] = []
    quotes: list[dict[str, object]] = []
    for path in paths:
        some_fills, some_quotes = read(path, clock)
        fills += some_fills
        quotes += some_quotes
    for row, names in [(f, ("px",)) for f in fills] + [(q, ("bid", "ask")) for q in quotes]:
        for name in names:
            scaled = Decimal(str(row[name])).scaleb(decimals)
            if scaled != int(scaled):
                raise ValueError(f"{name} {row[name]} has more than {decimals} decimals")
            row[name] = int(scaled)
    return (
        pl.DataFrame(fills, schema=FILL_SCHEMA).sort("exec_ts", maintain_order=True),
        pl.DataFrame(quotes, schema=QUOTE_SCHEMA).sort("ts", maintain_order=True),
    )
