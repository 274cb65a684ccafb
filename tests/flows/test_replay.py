"""Replay of recordings made here: every fill equals the oracle's, every input is accounted for, ids repeat, bad files are named."""

from __future__ import annotations

import argparse
import gzip
import json
import random
import sys
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import polars as pl
import pytest

from bench.replay_check import compare
from bench.tca_oracle import read
from connectors.recordings import RecordingError, read_recording
from flows import replay as module
from flows.replay import DEAD_LETTERS, FILLS, ReplayError, add_arguments, replay, run
from schemas.execution import FillMessage

T0 = 1_723_000_000_000_000_000
OFFSET_NS = 1_270_000_000
"""The recorder of these recordings, as many a real one, is behind the exchange's clock."""


def record(path: Path, seed: int, trades: int = 300, perp: bool = False, symbol: str = "TSTUSDT") -> Path:
    """Write a recording: a random walk of quotes, takers of one to four trades, and moments without a fit quote.

    It begins with a trade before any quote, pauses for 4 s, and ends with a trade after the last quote.
    """
    rng = random.Random(seed)
    lines: list[str] = []
    now, mid, ident, update = T0, 50_000_00, 1000, 1

    def line(stream: str, data: dict[str, object]) -> None:
        text = json.dumps({"stream": f"{symbol.lower()}@{stream}", "data": data}, separators=(",", ":"))
        lines.append(f"{now} {text}")

    def quote() -> None:
        nonlocal update
        update += 1
        width = rng.choice([1, 1, 1, 2, 5, 0]) if perp else rng.choice([1, 1, 2])
        bid, ask = mid - width // 2 - 1, mid + (width + 1) // 2 - 1
        sides = {"b": f"{Decimal(bid) / 100:.2f}000000", "B": "1.5", "a": f"{Decimal(ask) / 100:.2f}000000", "A": "2.5"}
        fields: dict[str, object] = {"u": update, "s": symbol, **sides}
        exchange_ms = (now + OFFSET_NS) // 1_000_000
        line("bookTicker", {"e": "bookTicker", **fields, "T": exchange_ms, "E": exchange_ms} if perp else fields)

    def taker(size: int) -> None:
        nonlocal ident, now
        seller = rng.random() < 0.5
        exchange_ms = (now + OFFSET_NS) // 1_000_000
        for i in range(size):
            ident += 1
            px = Decimal(mid + (-1 if seller else 1) * (i + rng.choice([0, 0, 1]))) / 100
            data = {
                "e": "trade",
                "E": exchange_ms + 1,
                "T": exchange_ms,
                "s": symbol,
                "t": ident,
                "p": f"{px:.2f}",
                "q": f"0.{rng.randint(1, 99):03d}",
            }
            line("trade", data | ({"X": "MARKET", "m": seller} if perp else {"m": seller, "M": True}))
            now += rng.choice([0, 700, 700, 40_000])

    taker(1)
    lines.append(f'{now} {{"lastUpdateId":7,"bids":[],"asks":[]}}')
    while ident < 1000 + trades:
        now += rng.choice([0, 1_000, 2_000_000, 30_000_000])
        mid += rng.choice([-2, -1, 0, 0, 1, 2])
        kind = rng.random()
        if kind < 0.6:
            quote()
        elif kind < 0.65:
            line("depth@100ms", {"e": "depthUpdate", "U": 1, "u": 2, "b": [], "a": []})
        else:
            taker(rng.choice([1, 1, 2, 4]))
        if len(lines) == 100:
            now += 4_000_000_000
            taker(2)
    now += 5_000_000
    taker(1)
    content = ("\n".join(lines) + "\n").encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.fixture(scope="module")
def spot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("spot") / "a.gz", seed=1)


@pytest.fixture(scope="module")
def perp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("perp") / "b.ndjson", seed=2, perp=True)


def statuses(fills: pl.DataFrame) -> set[str]:
    return set(fills["mid_status"]) | set(fills["mid_detail"].drop_nulls())


@pytest.mark.parametrize("clock", ["receive", "exchange"])
def test_replay_every_fill_equals_the_oracle(spot: Path, perp: Path, clock: str) -> None:
    paths = [perp] if clock == "exchange" else [spot, perp]
    result = replay(paths, clock)
    verdict = compare(result, paths, clock)
    assert verdict["equal"], verdict
    assert statuses(result.fills) >= {"ok", "stale", "missing", "aged", "tape_behind"}
    assert "locked_or_crossed" in statuses(result.fills)
    assert result.balance["published"] == result.trades + result.orders
    assert result.tape["snapshots_rejected"] == 0


def test_replay_100_fills_agree_with_an_exact_loop(spot: Path) -> None:
    fills, quotes = read(spot)
    found = {row["exec_id"]: row for row in replay([spot]).fills.iter_rows(named=True)}
    for fill in fills[20:120]:
        for kind, tau in (("arrival", fill["arrival_ts"]), ("mid", fill["exec_ts"])):
            before = [q for q in quotes if q["ts"] < tau]
            mid = Fraction(before[-1]["bid"] + before[-1]["ask"]) / 2
            bps = fill["sign"] * (Fraction(fill["px"]) - mid) / mid * 10_000
            ours = found[fill["exec_id"]]
            assert ours[f"{kind}_ts_ns"] == before[-1]["ts"]
            assert ours[f"{kind}_bps"] == pytest.approx(float(bps), abs=0.51e-6)


def test_replay_takers_become_orders_of_their_trades(spot: Path) -> None:
    result = replay([spot])
    trades = read_recording(spot).trades
    assert result.trades == len(trades) == len(result.fills)
    assert result.orders == result.fills["order_id"].n_unique() < result.trades
    per_order = result.fills.sort(pl.col("exec_id").cast(pl.Int64)).group_by("order_id").last()
    assert per_order["leaves_size"].abs().sum() == 0, "an order is as large as its trades"
    assert per_order["order_residual"].abs().sum() == 0


def test_replay_again_and_over_other_lanes_gives_the_same_fills(spot: Path) -> None:
    first = replay([spot])
    assert replay([spot]).outputs == first.outputs
    assert replay([spot], n_lanes=1).fills.equals(first.fills)


def test_replay_slices_of_any_size_give_the_same_fills(spot: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = replay([spot])
    monkeypatch.setattr(module, "SLICE_QUOTES", 7)
    assert replay([spot]).fills.equals(first.fills)


def test_replay_same_file_twice_publishes_once(spot: Path) -> None:
    once, twice = replay([spot]), replay([spot, spot])
    assert twice.closes
    assert twice.balance["duplicate"] == once.balance["received"]
    assert twice.fills["fill_id"].to_list() == once.fills["fill_id"].to_list()


def test_replay_spot_by_the_exchange_clock_is_refused(spot: Path) -> None:
    with pytest.raises(ReplayError, match="--clock receive"):
        replay([spot], "exchange")


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "empty"),
        (b"hello\n", "line 1"),
        (b'12 {"a":1}\n13 nothing\n', "line 2"),
        (b'12 {"lastUpdateId":1}\n', "no trades"),
        (b'12 {"stream":"x@trade","data":{"s":"X"}}\n', "line 1 lacks"),
        (b'12 {"stream":"x@trade","data":{"s":"X"}\n', "line 1"),
        (b'12 {"stream":"x@trade","data":{"s":5}}\n', r"line 1 lacks|another type"),
        (b"\x1f\x8b\x08\x00garbage", "gzip"),
    ],
)
def test_replay_bad_recording_is_named(tmp_path: Path, content: bytes, word: str) -> None:
    path = tmp_path / "bad"
    path.write_bytes(content)
    with pytest.raises((RecordingError, ReplayError), match=word) as error:
        replay([path])
    assert str(path) in str(error.value)


@pytest.mark.parametrize(("field", "value"), [("p", "1e5"), ("p", "-1"), ("q", "NaN"), ("p", "1.1234567891")])
def test_replay_odd_decimals_are_refused(tmp_path: Path, field: str, value: str) -> None:
    data = {"s": "XUSDT", "t": 1, "p": "1", "q": "1", "T": T0 // 10**6, "E": T0 // 10**6, "m": True} | {field: value}
    path = tmp_path / "odd"
    path.write_text(f"{T0} " + json.dumps({"stream": "xusdt@trade", "data": data}) + "\n")
    with pytest.raises((RecordingError, ReplayError), match=r"decimal|px_scale"):
        replay([path])


def command(*words: object) -> int:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return run(parser.parse_args([str(word) for word in words]))


def test_command_writes_files_and_prints_the_balance(spot: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert command(spot, "--out", out) == 0
    printed = capsys.readouterr().out
    assert "closes" in printed
    assert "per order" in printed
    lines = (out / f"{FILLS}.ndjson").read_bytes().splitlines()
    models = [FillMessage.model_validate_json(line) for line in lines]
    frame = pl.read_parquet(out / f"{FILLS}.parquet")
    assert {m.payload.fill_id for m in models} == set(frame["fill_id"])
    assert (out / f"{DEAD_LETTERS}.ndjson").read_bytes() == b""


def test_command_draws_a_picture(spot: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert command(spot, "--plot", tmp_path / "p.png") == 0
    assert (tmp_path / "p.png").read_bytes()[:4] == b"\x89PNG"


def test_command_without_matplotlib_says_what_to_install(
    spot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert command(spot, "--plot", tmp_path / "p.png") == 2
    assert "extra `plots`" in capsys.readouterr().err


def test_command_missing_file_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(tmp_path / "none.gz") == 2
    assert capsys.readouterr().err.count("\n") == 1
