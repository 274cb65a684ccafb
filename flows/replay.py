"""`hedgerow replay`: recorded exchange streams through the execution flow, from files to files, without Kafka.

The trades of a recording stand in for our fills: consecutive trades of one taker become an order, its quotes the tape. Holds no domain
rule: the lanes and the tape are the flow's own. What is assumed of a recording: docs/tca.md, "Replaying a recording".
"""

from __future__ import annotations

import argparse
import io
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import ValidationError

from connectors.recordings import Recording, RecordingError, read_recording
from schemas.chunk import Bytes, Chunk, Ints
from schemas.hashing import partition_of, uuid5, uuid_text_into
from schemas.jit import njit
from schemas.reference import Instrument, Reference, VenueRules

if TYPE_CHECKING:
    from rich.console import Console

CLOCKS = ("receive", "exchange")
OUTCOMES = ("published", "duplicate", "pending", "dlq", "rerouted")
ROUTES = "order.intent.route.v1"
REPORTS = "venue.execution.report.v1"
SNAPSHOTS = "marketdata.snapshot.v1"
FILLS = "execution.event.fill.v1"
DEAD_LETTERS = "dlq.execution"

SLICE_QUOTES = 2_000
"""Quotes given to the tape before the fills they passed are processed; less than half a ring, so no look-up outruns it."""
_UUID_CHARS = 36
_MS = 1_000_000
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "hedgerow/replay")
_FEWEST = 5
"""Orders a size must have to be drawn."""
_PLOTS_MISSING = "--plot needs matplotlib: install hedgerow with the extra `plots`"


class ReplayError(ValueError):
    """The recordings cannot be replayed as asked; the message says why."""


@dataclass(frozen=True)
class Replay:
    """What a replay gave. `fills` has one row per published fill, in time order; `outputs` the records of every output topic, one a line.

    balance: inputs `received` and where each ended (`OUTCOMES`); lane_gaps: lanes whose balance does not close.
    """

    reference: Reference
    fills: pl.DataFrame
    outputs: dict[str, bytes]
    trades: int
    orders: int
    quotes: int
    passed_over: int
    balance: dict[str, int]
    lane_gaps: tuple[int, ...]
    tape: dict[str, int]

    @property
    def closes(self) -> bool:
        """Return whether every trade and order was received and ended in exactly one outcome, none of them in a lane it was not fed to."""
        complete = self.balance["received"] == self.trades + self.orders
        return complete and not self.lane_gaps and not self.balance["rerouted"]


@njit
def _uuid_texts(high: int, low: int, names: Bytes, bounds: Ints, out: Bytes) -> None:
    """Write the UUIDv5 of each name as 36 characters."""
    for i in range(len(bounds) - 1):
        a, b = uuid5(high, low, names, bounds[i], bounds[i + 1] - bounds[i])
        uuid_text_into(a, b, out, 36 * i)


@njit
def _lanes(keys: Bytes, width: int, n_lanes: int, out: Ints) -> None:
    """Write the lane of each key of `width` bytes."""
    for i in range(len(out)):
        out[i] = partition_of(keys, i * width, width, n_lanes)


def _packed(text: pl.Series) -> tuple[Bytes, Ints]:
    """Return the strings of a series end to end, with their bounds."""
    bounds = np.zeros(len(text) + 1, np.int64)
    np.cumsum(text.str.len_bytes().to_numpy(), out=bounds[1:])
    whole = text.str.join("").item() if len(text) else ""
    return np.frombuffer(bytearray(whole.encode()), np.uint8), bounds


def _uuids(names: pl.Series) -> pl.Series:
    """Return the UUIDv5 of each name, so that a replay gives the same ids again."""
    data, bounds = _packed(names)
    out = np.empty(_UUID_CHARS * len(names), np.uint8)
    number = _NAMESPACE.int
    high, low = (int(np.uint64(part).view(np.int64)) for part in (number >> 64, number & (2**64 - 1)))
    _uuid_texts(high, low, data, bounds, out)
    return pl.Series(out.view(f"S{_UUID_CHARS}").astype(str), dtype=pl.String)


def _with_clock(frame: pl.DataFrame, clock: str, what: str, path: Path) -> pl.DataFrame:
    """Add ts_ns and recv_ns, both of the chosen clock. Raises ReplayError where the recording lacks it."""
    if clock == "receive":
        return frame.with_columns(pl.col("receive_ns").alias("ts_ns"), pl.col("receive_ns").alias("recv_ns"))
    if frame["trade_ms"].null_count():
        raise ReplayError(f"{path}: its {what} carry no exchange time; replay it with --clock receive")
    sent = pl.max_horizontal(pl.col("event_ms").fill_null(pl.col("trade_ms")), "trade_ms")
    return frame.with_columns((pl.col("trade_ms") * _MS).alias("ts_ns"), (sent * _MS).alias("recv_ns"))


def _market(recordings: list[Recording], clock: str) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return (trades, quotes) of all recordings in time order, with venue, instrument and, for trades, the key of their order."""
    trades, quotes = [], []
    for number, recording in enumerate(recordings):
        if not len(recording.trades):
            raise ReplayError(f"{recording.path}: no trades in it")
        spot = recording.trades["order_type"].null_count() == len(recording.trades)
        named = [
            pl.lit("BINANCE-SPOT" if spot else "BINANCE-USDM").alias("venue"),
            (pl.col("symbol") + ("" if spot else "-PERP")).alias("instrument"),
            pl.lit(number).alias("file"),
        ]
        other_taker = (pl.col("trade_ms") != pl.col("trade_ms").shift()) | (pl.col("buyer_is_maker") != pl.col("buyer_is_maker").shift())
        taken = _with_clock(recording.trades, clock, "trades", recording.path).with_columns(
            *named,
            other_taker.fill_null(True).cum_sum().over("symbol").alias("taker"),
            pl.when("buyer_is_maker").then(pl.lit("SELL")).otherwise(pl.lit("BUY")).alias("side"),
        )
        first = pl.concat_str("venue", "instrument", pl.col("id").first().over("symbol", "taker"), separator="|")
        trades.append(taken.with_columns(first.alias("order_name")))
        quotes.append(_with_clock(recording.quotes, clock, "book tickers", recording.path).with_columns(*named))
    order = ["ts_ns", "file", "line"]
    return pl.concat(trades).sort(order), pl.concat(quotes).sort(order)


def _decimals(frames: list[pl.DataFrame], columns: tuple[str, ...]) -> dict[str, int]:
    """Return, per instrument, how many decimals its values in these columns need."""
    fraction = r"\.([0-9]*?)0*$"
    needed = [
        frame.select("instrument", pl.col(column).str.extract(fraction, 1).str.len_bytes().fill_null(0).alias("scale"))
        for frame in frames
        for column in columns
        if column in frame.columns
    ]
    return dict(pl.concat(needed).group_by("instrument").agg(pl.col("scale").max()).sort("instrument").iter_rows())


def _reference(trades: pl.DataFrame, quotes: pl.DataFrame) -> Reference:
    """Return the venues and instruments of the recordings, scales as fine as their values need."""
    px = _decimals([trades, quotes], ("price", "bid", "ask"))
    qty = _decimals([trades], ("qty",))
    venues = sorted(trades["venue"].unique())
    try:
        return Reference(
            # Binance numbers the trades of a symbol once and for all, so the date is no part of what names them.
            venues=[VenueRules(name=venue, dated_key=False) for venue in venues],
            instruments=[Instrument(symbol=name, px_scale=scale, qty_scale=qty.get(name, 0)) for name, scale in px.items()],
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise ReplayError(f"no instrument for what was recorded: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error


def _rfc3339(column: str) -> pl.Expr:
    return pl.from_epoch(pl.col(column), time_unit="ns").dt.strftime("%Y-%m-%dT%H:%M:%S%.9fZ")


def _envelope(topic: str, ts: str, correlation: str | None) -> list[pl.Expr]:
    """Return the opening of a message, up to its payload's brace; the frame has msg_id and the idempotency key as `name`."""
    known = [pl.lit('","correlation_id":"'), pl.col(correlation)] if correlation else []
    return [
        pl.lit(f'{{"type":"{topic}","version":"v1","sender":"agent.replay","ttl_ms":60000,"msg_id":"'),
        pl.col("msg_id"),
        *known,
        pl.lit('","idempotency_key":"'),
        pl.col("name"),
        pl.lit('","ts":"'),
        _rfc3339(ts),
        pl.lit('","ts_ns":'),
        pl.col(ts).cast(pl.String),
        pl.lit(',"payload":{'),
    ]


def _quoted(**fields: str) -> list[pl.Expr]:
    """Return `"field":"value of the column",` for each."""
    return [part for field, column in fields.items() for part in (pl.lit(f'"{field}":"'), pl.col(column), pl.lit('",'))]


def _number(field: str, column: str, end: str = ",") -> list[pl.Expr]:
    return [pl.lit(f'"{field}":'), pl.col(column).cast(pl.String), pl.lit(end)]


def _rendered(frame: pl.DataFrame, parts: list[pl.Expr]) -> pl.DataFrame:
    return frame.with_columns(pl.concat_str(parts).alias("value"))


def _snapshots(quotes: pl.DataFrame) -> pl.DataFrame:
    """Render the book tickers as market snapshots."""
    named = quotes.with_columns(
        pl.concat_str(
            "venue", "instrument", pl.col("update_id").cast(pl.String), pl.col("receive_ns").cast(pl.String), separator="|"
        ).alias("name")
    )
    named = named.with_columns(_uuids("quote|" + named["name"]).alias("msg_id"))
    payload = _quoted(
        symbol="instrument", venue="venue", bid="bid", ask="ask", bid_size="bid_size", ask_size="ask_size", snapshot_id="msg_id"
    )
    end = pl.lit('"confidence":1.0}}')
    return _rendered(named, [*_envelope(SNAPSHOTS, "recv_ns", None), *payload, *_number("event_ts_ns", "ts_ns"), end])


def _reports(trades: pl.DataFrame, precision_ns: int) -> pl.DataFrame:
    """Render the trades as the taker's execution reports, the exchange's own JSON as `raw`."""
    named = trades.with_columns(pl.concat_str("venue", "instrument", pl.col("id").cast(pl.String), separator="|").alias("name"))
    named = named.with_columns(
        _uuids("report|" + named["name"]).alias("msg_id"),
        pl.col("id").cast(pl.String).alias("exec_id"),
        pl.col("order_id").str.replace_all("-", "", literal=True).alias("client_order_id"),
        pl.col("raw").str.encode("base64").alias("raw64"),
        pl.from_epoch("ts_ns", time_unit="ns").dt.strftime("%Y%m%d").alias("trade_date"),
    )
    fixed = '"source":"REPLAY","account":"REPLAY","kind":"TRADE","liquidity":"TAKER","dialect":"binance.trade",'
    payload = [
        pl.lit(fixed),
        *_quoted(
            venue="venue", instrument="instrument", exec_id="exec_id", client_order_id="client_order_id", side="side",
            order_qty="order_size", last_qty="qty", last_px="price", raw="raw64",
        ),
        *_number("trade_date", "trade_date"),
        *_number("event_ts_ns", "ts_ns"),
        *_number("recv_ts_ns", "recv_ns"),
        pl.lit(f'"ts_precision_ns":{precision_ns}}}}}'),
    ]  # fmt: skip
    return _rendered(named, [*_envelope(REPORTS, "recv_ns", "order_id"), *payload])


def _routes(orders: pl.DataFrame) -> pl.DataFrame:
    """Render one route intent per taker, decided at the time of its first trade."""
    named = orders.with_columns(pl.col("order_name").alias("name"), _uuids("route|" + orders["order_name"]).alias("msg_id"))
    payload = [
        pl.lit('"time_in_force":"IOC","book":"REPLAY","account":"REPLAY","routing_plan":[{"venue":"'),
        pl.col("venue"),
        pl.lit('","weight":1.0}],'),
        *_quoted(order_id="order_id", symbol="instrument", side="side", size="order_size"),
        *_number("decision_ts_ns", "ts_ns", end="}}"),
    ]
    return _rendered(named, [*_envelope(ROUTES, "ts_ns", "order_id"), *payload])


@dataclass(frozen=True)
class _Input:
    """One input topic, cut into the chunks of (slice, lane), in the order they are taken."""

    topic: str
    data: Bytes
    bounds: Ints
    keys: Bytes
    offsets: Ints
    cuts: Ints
    slices: Ints
    lanes: Ints

    def chunks(self, received_ns: NDArray[np.int64]) -> Iterator[tuple[int, Chunk]]:
        """Yield (slice, chunk); `received_ns` is the clock of each slice."""
        for i in range(len(self.slices)):
            a, b = int(self.cuts[i]), int(self.cuts[i + 1])
            size = b - a
            yield (
                int(self.slices[i]),
                Chunk(
                    topic=self.topic,
                    lane=int(self.lanes[i]),
                    data=self.data[self.bounds[a] : self.bounds[b]],
                    bounds=self.bounds[a : b + 1] - self.bounds[a],
                    offsets=self.offsets[a:b],
                    keys=self.keys[a * _UUID_CHARS : b * _UUID_CHARS],
                    key_bounds=np.arange(size + 1, dtype=np.int64) * _UUID_CHARS,
                    received_ns=int(received_ns[self.slices[i]]),
                ),
            )


def _input(topic: str, frame: pl.DataFrame, n_lanes: int) -> _Input:
    """Place the records of a frame (value, order_id, slice; in time order) in their lanes."""
    keys, _ = _packed(frame["order_id"])
    lanes = np.empty(len(frame), np.int64)
    _lanes(keys, _UUID_CHARS, n_lanes, lanes)
    placed = frame.select("value", "order_id", "slice").with_columns(pl.Series("lane", lanes))
    placed = placed.with_columns(pl.int_range(pl.len()).over("lane").alias("offset")).sort("slice", "lane", "offset")
    slice_of, lane_of = placed["slice"].to_numpy(), placed["lane"].to_numpy()
    starts = np.flatnonzero((np.diff(slice_of, prepend=-1) != 0) | (np.diff(lane_of, prepend=-1) != 0))
    data, bounds = _packed(placed["value"])
    keys, _ = _packed(placed["order_id"])
    cuts = np.append(starts, len(placed)).astype(np.int64)
    return _Input(topic, data, bounds, keys, placed["offset"].to_numpy(), cuts, slice_of[starts], lane_of[starts])


def replay(paths: list[Path], clock: str = "receive", n_lanes: int = 4) -> Replay:
    """Run recordings, together and in time order, through the lanes of the execution flow.

    clock: `receive` (the recorder's) or `exchange` for quotes and fills alike; the two are never mixed. A fill is processed once the tape
    has passed it. Raises RecordingError and ReplayError.
    """
    if clock not in CLOCKS:
        raise ReplayError(f"clock must be one of {', '.join(CLOCKS)}, not {clock!r}")
    if not 1 <= n_lanes <= 1024:
        raise ReplayError(f"lanes must be 1 to 1024, not {n_lanes}")
    recordings = [read_recording(path) for path in paths]
    trades, quotes = _market(recordings, clock)
    reference = _reference(trades, quotes)
    size = pl.col("qty").cast(pl.Decimal(38, 9))
    orders = trades.group_by("file", "order_name", maintain_order=True).agg(
        pl.col("venue", "instrument", "side", "ts_ns").first(), size.sum().cast(pl.String).alias("order_size")
    )
    orders = orders.with_columns(_uuids("order|" + orders["order_name"]).alias("order_id"))
    trades = trades.join(orders.select("file", "order_name", "order_id", "order_size"), on=["file", "order_name"], maintain_order="left")

    edges = np.append(np.arange(0, len(quotes), SLICE_QUOTES), len(quotes)) if len(quotes) else np.zeros(2, np.int64)
    quote_ts = quotes["ts_ns"].to_numpy()
    passed = quote_ts[edges[1:] - 1] if len(quotes) else np.zeros(1, np.int64)  # newest quote of each slice
    last = len(passed) - 1

    def sliced(frame: pl.DataFrame) -> pl.DataFrame:
        place = np.searchsorted(passed, frame["ts_ns"].to_numpy(), side="left")
        return frame.with_columns(pl.Series("slice", np.minimum(place, last)))

    routes, reports = sliced(orders), sliced(trades)
    now = passed.copy()
    np.maximum.at(now, reports["slice"].to_numpy(), reports["recv_ns"].to_numpy())
    if len(quotes):
        np.maximum.at(now, np.minimum(np.arange(len(quotes)) // SLICE_QUOTES, last), quotes["recv_ns"].to_numpy())
    now = np.maximum.accumulate(now)

    precision_ns = 1 if clock == "receive" else _MS
    inputs = [_input(ROUTES, _routes(routes), n_lanes), _input(REPORTS, _reports(reports, precision_ns), n_lanes)]
    snapshots = _packed(_snapshots(quotes)["value"])
    outputs, lane_counters, tape = _run(reference, n_lanes, inputs, snapshots, edges, now)
    balance = {name: sum(counters[name] for counters in lane_counters) for name in ("received", *OUTCOMES)}
    gaps = (lane for lane, c in enumerate(lane_counters) if c["received"] != sum(c[name] for name in OUTCOMES))
    return Replay(
        reference=reference,
        fills=_fills(outputs.get(FILLS, b"")),
        outputs=outputs,
        trades=len(trades),
        orders=len(orders),
        quotes=len(quotes),
        passed_over=sum(recording.other for recording in recordings),
        balance=balance,
        lane_gaps=tuple(gaps),
        tape=tape,
    )


def _run(
    reference: Reference, n_lanes: int, inputs: list[_Input], snapshots: tuple[Bytes, Ints], edges: Ints, now: Ints
) -> tuple[dict[str, bytes], list[dict[str, int]], dict[str, int]]:
    """Feed slice after slice: its quotes to the tape, then its routes and reports to their lanes, then one commit."""
    # imported here: loading the kernels takes seconds, and a file that cannot be read is named before that
    from operators.execution import ExecutionLogic
    from operators.tape import Tape

    tape = Tape(reference)
    lanes = [ExecutionLogic(lane, n_lanes, reference, tape.quotes) for lane in range(n_lanes)]
    outputs: dict[str, list[bytes]] = {}
    data, bounds = snapshots
    none = np.zeros(0, np.uint8)
    queues = [source.chunks(now) for source in inputs]
    heads = [next(queue, None) for queue in queues]
    for step, now_ns in enumerate(now.tolist()):
        a, b = int(edges[step]), int(edges[step + 1])
        if b > a:
            no_keys = np.zeros(b - a + 1, np.int64)
            part = Chunk(
                SNAPSHOTS, 0, data[bounds[a] : bounds[b]], bounds[a : b + 1] - bounds[a], np.arange(a, b), none, no_keys, now_ns
            )  # fmt: skip
            tape.apply(part)
        found = []
        for i, queue in enumerate(queues):
            while (head := heads[i]) is not None and head[0] == step:
                found += lanes[head[1].lane].process(head[1], now_ns)
                heads[i] = next(queue, None)
        for logic in lanes:
            found += logic.tick(now_ns)
            if logic.dirty():
                capture = logic.capture()
                logic.committed(capture.seq, capture.seq)  # nothing is kept of the changelog: a replay is not resumed
        for records in found:
            outputs.setdefault(records.topic, []).append(_as_lines(records.data, records.bounds))
    return {topic: b"".join(parts) for topic, parts in outputs.items()}, [logic.counters() for logic in lanes], tape.counters()


def _as_lines(data: Bytes, bounds: Ints) -> bytes:
    """Return the records one a line (a record is one line: our encoder writes no line breaks)."""
    return np.insert(data, bounds[1:], np.uint8(10)).tobytes()


_TEXT = ("order_id", "fill_id", "symbol", "side", "venue", "exec_id", "status")
_DECIMAL = ("filled_size", "price", "signed_delta", "cum_size", "leaves_size", "avg_price")
_BENCHMARK = pl.Struct(
    {"px": pl.String, "ts_ns": pl.Int64, "status": pl.String, "detail": pl.String, "snapshot_id": pl.String, "age_ms": pl.Float64}
)
_PAYLOAD = pl.Struct(
    {
        **dict.fromkeys((*_TEXT, *_DECIMAL), pl.String),
        "exec_ts_ns": pl.Int64,
        "version": pl.Int64,
        "latency_ms": pl.Float64,
        "benchmark": _BENCHMARK,
        "benchmark_mid": _BENCHMARK,
        "slippage": pl.Struct(dict.fromkeys(("arrival_bps", "mid_bps", "spread_capture"), pl.Float64)),
        "residual": pl.Struct(dict.fromkeys(("order_size", "exposure_notional"), pl.String)),
    }
)


def _fills(lines: bytes) -> pl.DataFrame:
    """Return the published fills as columns: prices and sizes as decimals, benchmarks as `arrival_*` and `mid_*`."""
    whole = pl.read_ndjson(io.BytesIO(lines), schema={"payload": _PAYLOAD}) if lines else pl.DataFrame(schema={"payload": _PAYLOAD})
    fills = whole.unnest("payload")
    number = pl.Decimal(38, 18)
    for prefix, column in (("arrival", "benchmark"), ("mid", "benchmark_mid")):
        fields = [pl.col(column).struct.field(f.name).alias(f"{prefix}_{f.name}") for f in _BENCHMARK.fields]
        fills = fills.with_columns(fields).drop(column).with_columns(pl.col(f"{prefix}_px").cast(number))
    residual = [pl.col("residual").struct.field(name).cast(number).alias(alias) for name, alias in
                (("order_size", "order_residual"), ("exposure_notional", "exposure_notional"))]  # fmt: skip
    fills = fills.with_columns(pl.col(_DECIMAL).cast(number), *residual).drop("residual").unnest("slippage")
    return fills.sort("exec_ts_ns", "venue", "symbol", pl.col("exec_id").str.len_bytes(), "exec_id", "version")


def distribution(fills: pl.DataFrame, kind: str) -> dict[str, float | int | None]:
    """Return n, the notional-weighted mean and percentiles of `arrival_bps` or `mid_bps` over fills whose benchmark is ok."""
    weight = (pl.col("filled_size") * pl.col(f"{kind}_px")).cast(pl.Float64)
    value = pl.col(f"{kind}_bps")
    quantiles = [value.quantile(p / 100, "linear").alias(f"p{p}") for p in (5, 25, 50, 75, 95)]
    mean = ((value * weight).sum() / weight.sum()).alias("mean")
    measured = fills.with_columns(pl.col(f"{kind}_px").cast(pl.Float64), pl.col("filled_size").cast(pl.Float64))
    row: dict[str, float | int | None] = (
        measured.filter(pl.col(f"{kind}_status") == "ok").select(pl.len().alias("n"), mean, *quantiles).row(0, named=True)
    )
    return row if row["n"] else {name: 0 if name == "n" else None for name in row}


def _shown(value: float | int | None) -> str:
    return "–" if value is None else f"{value:+.3f}"


def summarise(result: Replay, console: Console) -> None:
    """Print what was replayed, the distributions, the benchmark statuses and the balance."""
    from rich import box
    from rich.table import Table

    fills = result.fills
    console.print(
        f"[bold]{result.trades:,}[/] trades in [bold]{result.orders:,}[/] orders against [bold]{result.quotes:,}[/] quotes "
        f"({result.passed_over:,} other lines passed over): [bold]{len(fills):,}[/] fills, "
        f"{len(fills) / max(result.orders, 1):.2f} per order",
        soft_wrap=True,
    )
    head = ("instrument", "against", "fills", "mean", "p5", "p25", "p50", "p75", "p95")
    slippage = Table(*head, title="slippage, bps, cost +", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    statuses = Table("instrument", "against", "ok", "stale", "missing", title="benchmarks", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in slippage.columns[2:] + statuses.columns[2:]:
        column.justify = "right"
    for name in (*fills["symbol"].unique().sort(), "all"):
        part = fills if name == "all" else fills.filter(pl.col("symbol") == name)
        for kind in ("arrival", "mid"):
            d = distribution(part, kind)
            slippage.add_row(name, kind, f"{d['n']:,}", *(_shown(d[key]) for key in ("mean", "p5", "p25", "p50", "p75", "p95")))
            counted = [int((part[f"{kind}_status"] == status).sum()) for status in ("ok", "stale", "missing")]
            statuses.add_row(name, kind, *(f"{100 * n / max(len(part), 1):.2f} %" for n in counted))
    console.print(slippage)
    console.print(statuses)
    parts = " + ".join(f"{result.balance[name]:,} {name}" for name in OUTCOMES)
    console.print(
        f"balance: {result.balance['received']:,} received = {parts}: {'closes' if result.closes else '[bold red]DOES NOT CLOSE[/]'}",
        soft_wrap=True,
    )


def write(result: Replay, out: Path) -> list[Path]:
    """Write every output topic as NDJSON and the fills also as Parquet; return the files. A topic without records is an empty file."""
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for topic in sorted({FILLS, DEAD_LETTERS, *result.outputs}):
        path = out / f"{topic}.ndjson"
        path.write_bytes(result.outputs.get(topic, b""))
        written.append(path)
    path = out / f"{FILLS}.parquet"
    result.fills.write_parquet(path)
    return [*written, path]


def plot(result: Replay, path: Path) -> None:
    """Draw the slippage distributions of all fills and the slippage of orders by their size. Needs the extra `plots`."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    fills = result.fills.with_columns(pl.col("filled_size", "price", "arrival_px").cast(pl.Float64))
    figure, axes = pyplot.subplots(1, 3, figsize=(16, 4.5), layout="constrained")
    names = fills["symbol"].unique().sort().to_list()
    for axis, kind in zip(axes[:2], ("arrival", "mid"), strict=True):
        ok = fills.filter(pl.col(f"{kind}_status") == "ok")
        low, high = (ok[f"{kind}_bps"].quantile(p) for p in (0.005, 0.995))
        if low is None or high is None:
            axis.text(0.5, 0.5, "no fill with an ok benchmark", ha="center", transform=axis.transAxes)
        else:
            bins = np.linspace(low, max(high, low + 1e-3), 61)
            for name in names:
                axis.hist(ok.filter(pl.col("symbol") == name)[f"{kind}_bps"].to_numpy(), bins, histtype="step", label=name)
            axis.set_yscale("log")
            axis.legend(fontsize=8)
        axis.set(title=f"slippage against {kind}: {len(ok):,} fills", xlabel="bps, cost +", ylabel="fills")
    weight = pl.col("filled_size") * pl.col("arrival_px")
    orders = (
        fills.filter(pl.col("arrival_status") == "ok")
        .group_by("symbol", "order_id")
        .agg(
            (pl.col("filled_size") * pl.col("price")).sum().alias("notional"),
            ((pl.col("arrival_bps") * weight).sum() / weight.sum()).alias("bps"),
        )
        .with_columns(pl.col("notional").log10().floor().alias("decade"))
    )
    for name in names:
        quantiles = [pl.col("bps").quantile(p / 100).alias(f"p{p}") for p in (50, 95)]
        sizes = orders.filter(pl.col("symbol") == name).group_by("decade").agg(pl.len().alias("n"), pl.col("notional").median(), *quantiles)
        sized = sizes.filter(pl.col("n") >= _FEWEST).sort("decade")
        axes[2].plot(sized["notional"], sized["p50"], marker="o", label=f"{name} median")
        axes[2].plot(sized["notional"], sized["p95"], marker=".", linestyle=":", color=axes[2].lines[-1].get_color(), label=f"{name} p95")
    axes[2].set(
        title=f"arrival slippage by order size: {len(orders):,} orders", xlabel="order notional, quote currency", ylabel="bps, cost +"
    )
    if len(orders):
        axes[2].set_xscale("log")
        axes[2].legend(fontsize=8)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `hedgerow replay`."""
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="recorded streams (plain or gzip), replayed together")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write every output topic as NDJSON, and the fills as Parquet")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw the distributions (needs the extra `plots`)")
    parser.add_argument("--clock", choices=CLOCKS, default="receive", help="whose time orders quotes and fills (default: receive)")
    parser.add_argument("--lanes", type=int, default=4, metavar="N", help="lanes of the flow (default: 4)")


def run(args: argparse.Namespace) -> int:
    """Run the command: 0, 1 when the balance does not close, 2 for input or settings that cannot be used."""
    from rich.console import Console

    if args.plot is not None:
        try:
            import matplotlib  # noqa: F401
        except ImportError:
            print(f"hedgerow replay: {_PLOTS_MISSING}", file=sys.stderr)
            return 2
    try:
        result = replay(args.files, args.clock, args.lanes)
        written = write(result, args.out) if args.out is not None else []
        if args.plot is not None:
            plot(result, args.plot)
            written.append(args.plot)
    except (RecordingError, ReplayError) as error:
        print(f"hedgerow replay: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"hedgerow replay: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    console = Console()
    summarise(result, console)
    for path in written:
        console.print(f"wrote {path}", soft_wrap=True)
    return 0 if result.closes else 1
