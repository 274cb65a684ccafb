"""Reads recorded exchange streams: lines of `<receive time, integer ns> <the exchange's JSON>`, plain or gzip, into frames.

Knows Binance's `trade` and `bookTicker` and passes over every other stream; holds no domain rule. Line format: docs/tca.md.
"""

from __future__ import annotations

import gzip
import io
import json
import zlib
from dataclasses import dataclass
from pathlib import Path

import polars as pl

_TRADE = pl.Struct(
    {
        "data": pl.Struct(
            {"s": pl.String, "t": pl.Int64, "p": pl.String, "q": pl.String, "T": pl.Int64, "E": pl.Int64, "m": pl.Boolean, "X": pl.String}
        )
    }
)
_TICKER = pl.Struct(
    {
        "data": pl.Struct(
            {"s": pl.String, "u": pl.Int64, "b": pl.String, "B": pl.String, "a": pl.String, "A": pl.String, "T": pl.Int64, "E": pl.Int64}
        )
    }
)
_TRADE_NAMES = {
    "s": "symbol",
    "t": "id",
    "p": "price",
    "q": "qty",
    "T": "trade_ms",
    "E": "event_ms",
    "m": "buyer_is_maker",
    "X": "order_type",
}
_TICKER_NAMES = {
    "s": "symbol",
    "u": "update_id",
    "b": "bid",
    "B": "bid_size",
    "a": "ask",
    "A": "ask_size",
    "T": "trade_ms",
    "E": "event_ms",
}
_PLAIN = r"^(?:0|[1-9][0-9]{0,17})(?:\.[0-9]{1,18})?$"


class RecordingError(ValueError):
    """A recording cannot be used; the message names the file, and the line where there is one."""


@dataclass(frozen=True)
class Recording:
    """One file. Both frames are in file order.

    trades: line, receive_ns, symbol, id, trade_ms, event_ms (Int64; ms of the exchange's clock), price, qty (decimal strings),
    buyer_is_maker (Boolean), order_type (null on spot), raw (the exchange's JSON as sent).
    quotes: line, receive_ns, symbol, update_id, bid, bid_size, ask, ask_size (decimal strings), trade_ms, event_ms (null on spot).
    lines: how many the file has; other: how many of them are neither.
    """

    path: Path
    trades: pl.DataFrame
    quotes: pl.DataFrame
    lines: int
    other: int


def read_recording(path: Path) -> Recording:
    """Read a recording whole. Raises RecordingError for what is not one."""
    lines = _lines(path)
    split = lines.with_columns(pl.col("text").str.splitn(" ", 2).alias("part")).select(
        "line",
        pl.col("part").struct.field("field_0").cast(pl.Int64, strict=False).alias("receive_ns"),
        pl.col("part").struct.field("field_1").alias("raw"),
    )
    bad = split.filter(pl.col("receive_ns").is_null() | ~pl.col("raw").str.starts_with("{").fill_null(False))
    if len(bad):
        raise RecordingError(f"{path}: line {bad['line'][0]} is not `<receive time in ns> <JSON object>`")
    stream = split.with_columns(pl.col("raw").str.extract(r'^\{\s*"stream"\s*:\s*"[^"@]*@([A-Za-z]+)', 1).alias("stream"))
    trades = _decoded(path, stream.filter(pl.col("stream") == "trade"), _TRADE, _TRADE_NAMES, ("order_type",), ("price", "qty"))
    quotes = _decoded(
        path,
        stream.filter(pl.col("stream") == "bookTicker"),
        _TICKER,
        _TICKER_NAMES,
        ("trade_ms", "event_ms"),
        ("bid", "bid_size", "ask", "ask_size"),
    ).drop("raw")
    return Recording(path, trades, quotes, len(lines), len(lines) - len(trades) - len(quotes))


def _lines(path: Path) -> pl.DataFrame:
    """Return the file's lines, numbered from 1."""
    try:
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise RecordingError(f"{path}: damaged gzip: {error}") from error
    except OSError as error:
        raise RecordingError(f"{path}: {error.strerror}") from error
    if not content.strip():
        raise RecordingError(f"{path}: empty")
    try:
        return pl.read_csv(
            io.BytesIO(content),
            has_header=False,
            new_columns=["text"],
            schema={"text": pl.String},
            separator="\x01",
            quote_char=None,
            row_index_name="line",
            row_index_offset=1,
        )
    except pl.exceptions.PolarsError as error:
        raise RecordingError(f"{path}: not text in lines: {str(error).splitlines()[0]}") from error


def _decoded(
    path: Path, rows: pl.DataFrame, shape: pl.Struct, names: dict[str, str], optional: tuple[str, ...], decimals: tuple[str, ...]
) -> pl.DataFrame:
    """Return the rows of one stream with the fields of its JSON as columns."""
    try:
        found = rows.with_columns(pl.col("raw").str.json_decode(shape).alias("json"))
    except pl.exceptions.PolarsError as error:
        raise RecordingError(_bad_json(path, rows)) from error
    data = pl.col("json").struct.field("data")
    found = found.select(
        pl.col("line").cast(pl.Int64), "receive_ns", "raw", *(data.struct.field(key).alias(name) for key, name in names.items())
    )
    needed = [name for name in names.values() if name not in optional]
    wrong = found.filter(
        pl.any_horizontal(pl.col(name).is_null() for name in needed)
        | pl.any_horizontal(~pl.col(name).str.contains(_PLAIN) for name in decimals).fill_null(True)
    )
    if len(wrong):
        raise RecordingError(f"{path}: line {wrong['line'][0]} lacks one of {', '.join(names)}, or a price or size is not a plain decimal")
    return found


def _bad_json(path: Path, rows: pl.DataFrame) -> str:
    """Return the message for the first line whose JSON cannot be read."""
    for line, text in rows.select("line", "raw").iter_rows():
        try:
            json.loads(text)
        except ValueError as error:
            return f"{path}: line {line}: {error}"
    return f"{path}: a trade or book ticker has a field of another type than Binance's"
