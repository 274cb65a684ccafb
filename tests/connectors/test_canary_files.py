"""Files of risk snapshots: every good line is delivered, every bad one is named, and market days become snapshots without made-up figures."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors import canary_files
from connectors.canary_files import BadLine, CanaryFileError, CanaryRow, files_of, iter_rows, read_file, time_ns
from schemas.policy import ROWS

DAY_NS = 1_485_216_000_000_000_000
"""2017-01-24T00:00:00Z."""
HOUR = 3600 * 10**9


def snapshot(**more: Any) -> dict[str, Any]:
    """Return a snapshot of the smallest size that has everything."""
    return {
        "date": "2017-01-24",
        "case": "calm",
        "market_cluster": "2017 controls",
        "account": {"net_liquidation": 100_000, "cushion": 0.62, "daily_pnl": None},
        "positions": {"stocks": None, "portfolio": {"dollar_delta_base": 1.5, "exposure_base": [{"underlying": "SPY"}]}},
        "regime": {
            "as_of": "2017-01-24T00:00:00Z",
            "usd_jpy": {"band": "red", "status": "ok", "as_of": {"label": "close", "time": "2017-01-24T00:00:00Z", "date": "2017-01-24"}},
            "fingerprint": {"version": "regime-fp-v1", "key": "sha256:" + 64 * "a"},
        },
        "target": {"stress": True, "kind": "crash", "scope": "portfolio"},
        **more,
    }


def panel(**more: Any) -> dict[str, Any]:
    return {
        "date": "2016-05-31",
        "market_cluster": "calm",
        "vix_term_structure": {"source": "Cboe", "vix": 14.19, "vix3m": 16.63, "ratio": 0.853277, "vix_change_pct": 8.1555},
        "vol_of_vol": {"last": 79.43},
        "hyg_spy_divergence": {"hyg_price": 83.61, "hyg_50dma": 83.61, "spy_price": 209.84, "spy_52w_high": 209.84},
        "credit_spreads": {"source": "FRED", "status": "unavailable"},
        "funding_stress": {"cp_3m_rate": 0.59, "tbill_3m_rate": 0.34, "spread_bps": 25.0},
        "usd_jpy": {"last": 110.75, "close_7d_ago": 110.0, "weekly_change_pct": 0.6818},
        "breadth": {"status": "unavailable"},
        "target": {"stress": False},
        "tier1_features": {"forward_20d_spy_drawdown_pct": -5.33},
        **more,
    }


def lines(*values: Any) -> bytes:
    return b"".join((value if isinstance(value, bytes) else json.dumps(value).encode()) + b"\n" for value in values)


def written(path: Path, *values: Any, packed: bool = False) -> Path:
    content = lines(*values)
    path.write_bytes(gzip.compress(content) if packed else content)
    return path


def only(value: Any) -> CanaryRow | BadLine:
    """Return what a file of one line gives."""
    (found,) = iter_rows("-", io.BytesIO(lines(value)))
    return found


def row(value: Any) -> CanaryRow:
    found = only(value)
    assert isinstance(found, CanaryRow), found
    return found


def reason(value: Any) -> str:
    found = only(value)
    assert isinstance(found, BadLine), found
    return found.reason


# ---- kinds -------------------------------------------------------------------------------------------------------------------------


def test_a_snapshot_is_delivered_as_it_is() -> None:
    given = snapshot()
    found = row(given)
    assert (found.kind, found.line, found.date, found.case, found.group) == ("snapshot", 1, "2017-01-24", "calm", "2017 controls")
    assert (found.account, found.positions, found.regime) == (given["account"], given["positions"], given["regime"])
    assert (found.stress, found.scope, found.category) == (True, "portfolio", "crash")
    assert (found.now_ns, found.stored_key) == (DAY_NS, "sha256:" + 64 * "a")
    assert found.name == "2017-01-24 calm"


@pytest.mark.parametrize("part", ["account", "positions", "regime"])
def test_a_snapshot_may_have_only_one_part(part: str) -> None:
    found = row({part: {}})
    assert {name: getattr(found, name) for name in ("account", "positions", "regime")} == {
        **dict.fromkeys(("account", "positions", "regime")), part: {},
    }  # fmt: skip
    assert (found.now_ns, found.stress, found.stored_key, found.name) == (None, None, None, "")


def test_account_and_positions_may_be_as_on_their_topics() -> None:
    account = {"account": "A1", "mode": "paper", "net_liquidation": "100000.50", "cushion": "-0.1", "as_of_ns": DAY_NS + 5}
    positions = {
        "mode": "live",
        "portfolio": {"dollar_delta_base": "12", "exposure_base": [{"underlying": "SPY", "market_value_base": "1.5"}]},
    }
    found = row({"account": account, "positions": positions})
    assert (found.account, found.positions, found.now_ns) == (account, positions, DAY_NS + 5)


def test_it_is_judged_at_the_newest_time_in_it() -> None:
    early, late = {"as_of": "2024-08-05T13:00:00.25Z"}, {"as_of": "2024-08-05T13:30:00+00:00"}
    assert row({"account": early, "positions": late, "regime": early}).now_ns == time_ns(late["as_of"])
    assert row({"account": {}, "date": "2017-01-24"}).now_ns == DAY_NS + 21 * HOUR


def test_a_sample_has_its_input_and_what_is_expected() -> None:
    given = {"date": "2017-08-15", "case": "c", "input": {"account": {"cushion": 0.5}}, "label": {"stress": False}, "expected": {"dir": ""},
             "signals": [["margin_cushion_low", "defensive", "watch"]]}  # fmt: skip
    found = row(given)
    assert (found.kind, found.account, found.regime, found.expected) == ("sample", {"cushion": 0.5}, None, {"dir": ""})
    assert (found.stress, found.signals) == (False, (("margin_cushion_low", "defensive", "watch"),))


def test_a_regime_key_has_the_text_and_its_key() -> None:
    found = row({"date": "2017-01-24", "case": "c", "canonical_json": "{}", "expected_key": "sha256:" + 64 * "0"})
    assert (found.kind, found.canonical_json, found.expected_key) == ("regime_key", "{}", "sha256:" + 64 * "0")


def test_a_market_day_becomes_a_snapshot_of_a_calm_account_without_bands() -> None:
    found = row(panel())
    assert (found.kind, found.now_ns, found.stress) == ("panel", time_ns("2016-05-31T21:00:00Z"), False)
    assert found.account is not None
    assert found.positions is not None
    assert found.regime is not None
    assert (found.account["net_liquidation"], found.account["cushion"], found.account["gross_position_value"], found.account["daily_pnl"]) == (
        100_000.0, 0.6, 50_000.0, 0.0,
    )  # fmt: skip
    portfolio = found.positions["portfolio"]
    assert (portfolio["dollar_delta_base"], portfolio["exposure_base"][0]["market_value_pct_nlv"]) == (40_000.0, 30.0)
    assert found.account["as_of"] == found.positions["as_of"] == found.regime["as_of"] == "2016-05-31T21:00:00Z"
    rows = {name: found.regime[name] for name in ROWS}
    assert not any("band" in one for one in rows.values())
    assert {name: one["status"] for name, one in rows.items() if one["status"] != "ok"} == {
        "credit_spreads": "unavailable", "gamma_zero": "unavailable", "breadth": "unavailable",
    }  # fmt: skip
    assert rows["vix_term_structure"] == {"vix": 14.19, "vix3m": 16.63, "ratio": 0.853277, "vix_change_pct": 8.1555, "status": "ok"}
    assert "target" not in found.regime
    assert "tier1_features" not in found.regime


@pytest.mark.parametrize(
    ("name", "value", "missing"),
    [
        ("funding_stress", {"status": "unavailable"}, ["spread_bps"]),
        ("funding_stress", None, ["spread_bps"]),
        ("vol_of_vol", {"last": None}, ["last"]),
        ("hyg_spy_divergence", {"hyg_price": 83.6}, ["hyg_50dma"]),
    ],
)
def test_a_market_days_missing_figure_is_unavailable_and_never_zero(name: str, value: Any, missing: list[str]) -> None:
    regime = row(panel(**{name: value})).regime
    assert regime is not None
    assert (regime[name]["status"], regime[name]["fields_missing"]) == ("unavailable", missing)
    assert all(item is None for key, item in regime[name].items() if key not in ("status", "fields_missing", "hyg_price"))


def test_a_market_days_high_yield_spread_is_not_read() -> None:
    regime = row(panel(credit_spreads={"hy_oas": 3.43, "hy_oas_20d_change": -0.47, "ig_oas": 1.06})).regime
    assert regime is not None
    assert regime["credit_spreads"] == {"status": "unavailable"}


def test_a_market_day_keeps_the_status_it_comes_with() -> None:
    regime = row(panel(vol_of_vol={"last": 80.0, "status": "stale"})).regime
    assert regime is not None
    assert regime["vol_of_vol"]["status"] == "stale"


# ---- what is wrong with a line -----------------------------------------------------------------------------------------------------


def changed(path: str, value: Any) -> dict[str, Any]:
    """Return a snapshot with the value at a path replaced."""
    found: Any = snapshot()
    at = found
    *parts, last = path.split(".")
    for part in parts:
        at = at[int(part)] if part.isdigit() else at.setdefault(part, {})
    at[last] = value
    return dict(found)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (b"{", "not JSON: "),
        (b'{"account": NaN}', "not JSON: NaN is no number"),
        (b'{"account": {"cushion": 1e999}}', "number 1e999 is too large"),
        (b'{"account": {}, "account": {}}', "key 'account' is given twice"),
        (b'{"account": "\xff"}', "not UTF-8 at byte 13"),
        (b"[" * 100_000, "not JSON that can be read: nested too deep"),
        (b'{"account": {"cushion": ' + b"9" * 5000 + b"}}", "not JSON that can be read: "),
        (b"7", "must be an object, not 7"),
        ({}, "neither a snapshot (account, positions, regime), a sample (input), a regime key nor a market day"),
        ({"vol_of_vol": {}}, "date: a market day needs one"),
        (panel(date="2016-13-31"), "date: must be a date, YYYY-MM-DD, not '2016-13-31'"),
        (panel(vol_of_vol={"last": "80"}), "vol_of_vol.last: must be a number or null, not '80'"),
        (panel(vol_of_vol=80), "vol_of_vol: must be an object or null, not 80"),
        ({"input": None}, "input: must be an object, not null"),
        ({"input": {}, "signals": [["a", "b"]]}, "signals: must be a list of [id, direction, severity] or null, not "),
        ({"canonical_json": "{}", "expected_key": "sha256:0"}, "expected_key: must be sha256: and 64 hexadecimal digits, not 'sha256:0'"),
        ({"expected_key": "sha256:" + 64 * "0"}, "canonical_json: must be a text, not null"),
        (snapshot(date=20170124), "date: must be a date, YYYY-MM-DD, not 20170124"),
        (snapshot(case=1), "line.case: must be a text or null, not 1"),
        (changed("account", []), "account: must be an object or null, not []"),
        (changed("account.cushion", "60 %"), "account.cushion: must be a number, a decimal text or null, not '60 %'"),
        (changed("account.cushion", True), "account.cushion: must be a number, a decimal text or null, not true"),
        (changed("account.as_of", "yesterday"), "account.as_of: not a time: 'yesterday'"),
        (changed("account.as_of", ""), "account.as_of: not a time: ''"),
        (changed("positions.as_of", {"label": "close"}), "positions.as_of: not a time: {"),
        (changed("account.as_of_ns", "1"), "account.as_of_ns: must be nanoseconds since 1970 or null, not '1'"),
        (changed("account.mode", "demo"), "account.mode: must be live, paper or null, not 'demo'"),
        (changed("account.base_currency", 1), "account.base_currency: must be a text or null, not 1"),
        (changed("positions.stocks", {}), "positions.stocks: must be a list of objects or null, not {}"),
        (
            changed("positions.portfolio.greeks_total", -1),
            "positions.portfolio.greeks_total: must be a whole number from 0 or null, not -1",
        ),
        (changed("positions.portfolio.exposure_base", [{}]), "positions.portfolio.exposure_base[0].underlying: must be a name, not null"),
        (
            changed("positions.portfolio.exposure_base.0.dollar_delta_base", "x"),
            "positions.portfolio.exposure_base[0].dollar_delta_base: must be a number, a decimal text or null, not 'x'",
        ),
        (changed("regime.usd_jpy.band", "amber"), "regime.usd_jpy.band: must be green, yellow, red, unranked or null, not 'amber'"),
        (changed("regime.usd_jpy.fields_missing", "x"), "regime.usd_jpy.fields_missing: must be a list of texts or null, not 'x'"),
        (changed("regime.usd_jpy.as_of", {"time": "2017-02-30T00:00:00Z"}), "regime.usd_jpy.as_of: not a time: '2017-02-30T00:00:00Z'"),
        (changed("regime.usd_jpy.band_held", 1), "regime.usd_jpy.band_held: must be true, false or null, not 1"),
        (changed("regime.usd_jpy.sessions", 1.5), "regime.usd_jpy.sessions: must be a whole number from 0 or null, not 1.5"),
        (changed("regime.gamma_zero.envelope", "cold"), "regime.gamma_zero.envelope: must be an object or null, not 'cold'"),
        (changed("regime.composite.red_count", "1"), "regime.composite.red_count: must be a whole number from 0 or null, not '1'"),
        (changed("regime.lifecycle.confirmed_by", [1]), "regime.lifecycle.confirmed_by: must be a list of texts or null, not [1]"),
        (changed("regime.warning_details", [1]), "regime.warning_details: must be a list of objects or null, not [1]"),
        (changed("regime.data_quality.stale_clusters", 1), "regime.data_quality: must be a list of objects or null, not "),
        (changed("regime.fingerprint.key", 1), "regime.fingerprint.key: must be a text or null, not 1"),
        (changed("target.stress", "yes"), "target.stress: must be true, false or null, not 'yes'"),
    ],
)
def test_a_wrong_line_is_named_with_the_place_and_the_reason(value: Any, said: str) -> None:
    assert reason(value).startswith(said)


@given(st.lists(st.sampled_from(["good", "bad", "empty", "panel"]), max_size=30), st.booleans(), st.booleans())
def test_no_good_line_is_lost_among_bad_ones(order: list[str], packed: bool, ends: bool) -> None:
    parts = {"good": json.dumps(snapshot()).encode(), "bad": b"{oops", "empty": b"  ", "panel": json.dumps(panel()).encode()}
    content = b"\n".join(parts[name] for name in order) + (b"\n" if ends else b"")
    found = list(iter_rows("-", io.BytesIO(gzip.compress(content) if packed else content)))
    wanted = [(n, name) for n, name in enumerate(order, 1) if name != "empty"]
    assert [(one.line, isinstance(one, CanaryRow)) for one in found] == [(n, name != "bad") for n, name in wanted]


# ---- files -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [False, True])
def test_read_file_counts_lines_and_names_bad_ones(tmp_path: Path, packed: bool) -> None:
    path = written(tmp_path / "x.jsonl", snapshot(), b"", b"[1", panel(), packed=packed)
    found = read_file(path)
    assert ([one.line for one in found.rows], found.lines) == ([1, 4], 3)
    assert [str(bad).partition(": not JSON")[0] for bad in found.bad] == [f"{path}: line 3"]


def test_blocks_may_cut_a_line_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = lines(snapshot(case="ünï"), snapshot())
    for packed in (content, gzip.compress(content[:700]) + gzip.compress(content[700:]) + b"\0" * 512):
        for block in (1, 2, 7, 700):
            monkeypatch.setattr(canary_files, "_BLOCK", block)
            assert [row.case for row in iter_rows("-", io.BytesIO(packed)) if isinstance(row, CanaryRow)] == ["ünï", "calm"]


def test_damaged_gzip_keeps_what_was_before_it(tmp_path: Path) -> None:
    content = gzip.compress(lines(*(snapshot(case=str(n)) for n in range(5_000))), compresslevel=0)
    cut, spoiled = tmp_path / "cut.gz", tmp_path / "spoiled.gz"
    cut.write_bytes(content[: len(content) // 2])
    spoiled.write_bytes(content[:-8] + b"\1" * 8)
    found = read_file(cut)
    assert len(found.rows) > 2_000
    assert [row.case for row in found.rows] == [str(n) for n in range(len(found.rows))]
    assert [bad.reason for bad in found.bad] == ["damaged gzip: it ends too early; nothing after it can be read"]
    assert found.bad[0].line == len(found.rows) + 1
    assert "damaged gzip" in read_file(spoiled).bad[0].reason


def test_a_document_over_several_lines_is_one_snapshot(tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    path.write_text(json.dumps(snapshot(), indent=2))
    assert [one.case for one in read_file(path).rows] == ["calm"]
    path.write_text(json.dumps([snapshot(), {"account": 1}, snapshot(case="b")], indent=2))
    found = read_file(path)
    assert [(one.line, one.case) for one in found.rows] == [(1, "calm"), (3, "b")]
    assert [(bad.line, bad.reason) for bad in found.bad] == [(2, "account: must be an object or null, not 1")]


def test_a_first_line_that_is_wrong_costs_only_itself() -> None:
    found = list(iter_rows("-", io.BytesIO(lines(b'{"account"', snapshot(), b"", snapshot()))))
    assert [(one.line, isinstance(one, CanaryRow)) for one in found] == [(1, False), (2, True), (4, True)]


def test_a_byte_order_mark_and_windows_line_ends_are_no_fault() -> None:
    content = b"\xef\xbb\xbf" + lines(snapshot(), snapshot()).replace(b"\n", b"\r\n")
    assert [type(one) for one in iter_rows("-", io.BytesIO(content))] == [CanaryRow, CanaryRow]


def test_lines_of_a_pipe_are_judged_as_they_come() -> None:
    class Pipe(io.BytesIO):
        read_blocks = 0

        def read1(self, size: int | None = -1, /) -> bytes:
            self.read_blocks += 1
            return self.readline()

    pipe = Pipe(lines(snapshot(), snapshot(), snapshot()))
    rows = iter_rows("-", pipe)
    assert isinstance(next(rows), CanaryRow)
    assert pipe.read_blocks < 3


def test_files_of_a_folder_are_those_of_lines(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.jsonl.gz", "README.md", "c.json"):
        (tmp_path / name).touch()
    assert files_of(tmp_path) == [tmp_path / "a.jsonl.gz", tmp_path / "b.jsonl"]
    assert files_of("-") == ["-"]
    assert files_of(tmp_path / "c.json") == [tmp_path / "c.json"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(CanaryFileError, match=r"no file in it ends in \.jsonl"):
        files_of(tmp_path / "empty")


def test_a_file_that_cannot_be_opened_is_an_error(tmp_path: Path) -> None:
    for path, why in ((tmp_path / "none", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(CanaryFileError, match=why):
            list(iter_rows(path))
    (tmp_path / "empty").touch()
    assert read_file(tmp_path / "empty").rows == ()


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("2017-01-24", DAY_NS),
        ("2017-01-24T00:00:00Z", DAY_NS),
        ("2017-01-24T01:00:00+01:00", DAY_NS),
        ("2017-01-24 00:00:00.000000001", DAY_NS + 1),
        ("2017-01-24T00:00:00.1234567891z", DAY_NS + 123_456_789),
        ({"label": "close", "time": "2017-01-24T00:00:00Z", "date": "2017-01-23"}, DAY_NS),
        ({"label": "close", "date": "2017-01-24"}, DAY_NS),
        ({"label": "close"}, None),
        (None, None),
        ("", None),
    ],
)
def test_times_of_files(text: Any, ns: int | None) -> None:
    assert time_ns(text) == ns


@pytest.mark.parametrize("text", ["24.01.2017", "2017-01-24T25:00:00Z", 1485216000, "2017-01-24T00:00:00Zx", ["2017"]])
def test_what_is_no_time_is_refused(text: Any) -> None:
    with pytest.raises(ValueError, match="not a time"):
        time_ns(text)
