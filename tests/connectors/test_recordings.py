"""Reading recorded streams: what is kept, what is passed over, what is refused."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from connectors.recordings import RecordingError, read_recording

LINES = [
    '100 {"stream":"ausdt@bookTicker","data":{"u":7,"s":"AUSDT","b":"1.50","B":"2","a":"1.60","A":"3"}}',
    '101 {"lastUpdateId":1,"bids":[],"asks":[]}',
    '102 { "stream" : "ausdt@trade","data":{"e":"trade","E":5,"s":"AUSDT","t":9,"p":"1.60","q":"0.1","T":4,"m":false,"M":true}}',
    '103 {"stream":"ausdt@depth@100ms","data":{"U":1,"u":2}}',
    '103 {"stream":"ausdt@trade","data":{"e":"trade","E":5,"s":"AUSDT","t":10,"p":"1.61","q":"0.2","T":4,"m":false,"X":"MARKET"}}',
]


@pytest.mark.parametrize("packed", [False, True])
def test_read_known_streams_are_kept_in_file_order(tmp_path: Path, packed: bool) -> None:
    content = "\n".join(LINES).encode()
    path = tmp_path / "r"
    path.write_bytes(gzip.compress(content) if packed else content)
    recording = read_recording(path)
    assert (recording.lines, recording.other) == (5, 2)
    assert recording.trades.select("line", "receive_ns", "id", "price", "qty", "trade_ms", "buyer_is_maker", "order_type").rows() == [
        (3, 102, 9, "1.60", "0.1", 4, False, None),
        (5, 103, 10, "1.61", "0.2", 4, False, "MARKET"),
    ]
    assert recording.trades["raw"].to_list() == [LINES[2].split(" ", 1)[1], LINES[4].split(" ", 1)[1]]
    assert recording.quotes.row(0, named=True) == {
        "line": 1, "receive_ns": 100, "symbol": "AUSDT", "update_id": 7, "bid": "1.50", "bid_size": "2", "ask": "1.60", "ask_size": "3",
        "trade_ms": None, "event_ms": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("number", "line", "word"),
    [
        (2, "x {}", "line 2"),
        (4, '103 {"stream":"ausdt@trade","data":{}}', "line 4 lacks"),
        (5, '103 {"stream":"ausdt@trade","data":{', "line 5"),
        (1, '100 {"stream":"ausdt@bookTicker","data":{"u":7,"s":"AUSDT","b":"1e3","B":"2","a":"1.60","A":"3"}}', "line 1"),
    ],
)
def test_read_bad_line_is_named(tmp_path: Path, number: int, line: str, word: str) -> None:
    path = tmp_path / "r"
    path.write_text("\n".join([*LINES[: number - 1], line, *LINES[number:]]))
    with pytest.raises(RecordingError, match=word):
        read_recording(path)


def test_read_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match=r"nothing\.gz: No such file"):
        read_recording(tmp_path / "nothing.gz")


def test_read_binary_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "b"
    path.write_bytes(bytes(range(256)) * 4)
    with pytest.raises(RecordingError):
        read_recording(path)
