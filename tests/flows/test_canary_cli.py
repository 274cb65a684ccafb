"""`hedgerow canary`: what it prints of snapshots in files and of alerts on the embedded broker, what it recomputes, and what it refuses."""

from __future__ import annotations

import copy
import gzip
import importlib.util
import io
import json
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from connectors.canary_files import BadLine, iter_rows, time_ns
from connectors.mock_broker import MockBroker
from connectors.topics import partitions_of
from flows import canary_show
from flows.canary_cli import ACTIONS, judged, regime_of, with_action
from flows.canary_explain import explain
from flows.canary_watch import ALERTS, REGIMES, Watched
from flows.cli import main
from flows.supervisor import EXIT_FAILED, EXIT_SETTINGS, EXIT_STARTUP, EXIT_UNREACHABLE
from operators.canary import evaluate, facts_of
from operators.clusters import from_snapshot, market_of
from schemas.canary import CanaryAlertMessage, CanaryResult, RegimeMessage
from schemas.parse import parse
from schemas.policy import BUILT_IN, ROWS, load_policies
from schemas.registry import TOPICS
from schemas.times import rfc3339

POLICIES = load_policies()
DEFAULT = POLICIES["canary-default"]
DAY = "2024-08-05"
AS_OF = "2024-08-05T15:00:00Z"
LANES = 4
COUNTS = {name: partitions_of(TOPICS[name], LANES) for name in (ALERTS, REGIMES)}
GOLDEN_TEXT = (
    '{"composite":{"verdict":"stress signal present","green_count":0,"yellow_count":0,"red_count":1,"ranked_count":1,"unranked_count":0,'
    '"cluster_green_count":0,"cluster_yellow_count":0,"cluster_red_count":1,"cluster_ranked_count":1,"cluster_unranked_count":0},'
    '"indicators":[{"name":"vix_term_structure","band":"red","status":"ok"},{"name":"vol_of_vol"},{"name":"hyg_spy_divergence"},'
    '{"name":"credit_spreads"},{"name":"funding_stress"},{"name":"usd_jpy"},{"name":"gamma_zero"},{"name":"breadth"}],"lifecycle":{},'
    '"sources":[{"source":"vol","status":"ok","confidence":"high","fingerprint_stability":"semantic_buckets_only"}]}'
)
GOLDEN_KEY = "sha256:2adc454d653c9a2c2a7b6ccfae77e98be6c3267bdfaed87ac41421d12bcd561b"
GOLDEN_REGIME = {
    "composite": {
        "verdict": "Stress signal present", "red_count": 1, "ranked_count": 1, "cluster_red_count": 1, "cluster_ranked_count": 1,
    },
    "vix_term_structure": {"band": "red", "status": "ok"},
    "source_health": [{"source": "vol", "status": "ok", "confidence": "high", "fingerprint_stability": "semantic_buckets_only"}],
    "lifecycle": {},
    "fingerprint": {"version": "regime-fp-v1", "key": GOLDEN_KEY},
}  # fmt: skip
"""A published golden key, the text it is of, and a snapshot that has it."""


def snapshot(spy: float | None = 0.1, vix: float | None = -1.0, red: tuple[str, ...] = (), **account: Any) -> dict[str, Any]:
    """Return a snapshot of a calm account in a calm market, but for what is asked for."""
    rows: dict[str, Any] = {name: {"band": "red" if name in red else "green", "status": "ok"} for name in ROWS}
    rows["gamma_zero"]["envelope"] = {"status": "ready"}
    rows["breadth"]["envelope"] = {"state": "ready"}
    rows["hyg_spy_divergence"]["spy_change_pct"] = spy
    rows["vix_term_structure"]["vix_change_pct"] = vix
    return {
        "date": DAY,
        "case": "made up",
        "account": {
            "base_currency": "USD", "net_liquidation": 100_000, "excess_liquidity": 50_000, "cushion": 0.5, "gross_position_value": 60_000,
            "as_of": AS_OF, **account,
        },
        "positions": {"as_of": AS_OF, "stocks": [], "options": [], "portfolio": {"dollar_delta_base": 1_000, "exposure_base": []}},
        "regime": {"as_of": AS_OF, "session_date": DAY, **rows},
    }  # fmt: skip


def day(date: str, stress: bool, ratio: float = 0.85, spy: float = 0.2, vix: float = -1.0, **more: Any) -> dict[str, Any]:
    """Return a market day."""
    return {
        "date": date, "case": "d", "market_cluster": "made up",
        "vix_term_structure": {"vix": 100 * ratio, "vix3m": 100.0, "ratio": ratio, "vix_change_pct": vix},
        "vol_of_vol": {"last": 80.0},
        "hyg_spy_divergence": {"hyg_price": 84.0, "hyg_50dma": 83.0, "spy_price": 210.0, "spy_52w_high": 211.0, "spy_change_pct": spy},
        "credit_spreads": {"status": "unavailable"},
        "funding_stress": {"cp_3m_rate": 0.4, "tbill_3m_rate": 0.3, "spread_bps": 10.0},
        "usd_jpy": {"last": 110.75, "close_7d_ago": 110.0, "weekly_change_pct": 0.68},
        "breadth": {"status": "unavailable"},
        "target": {"stress": stress, "scope": "market", "kind": "market stress" if stress else "calm/control"}, **more,
    }  # fmt: skip


def written(path: Path, *values: Any) -> str:
    """Write lines to a file, packed if its name says so; return its name."""
    content = b"".join((value if isinstance(value, bytes) else json.dumps(value).encode()) + b"\n" for value in values)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return str(path)


class Told:
    """Runs commands and keeps what they say."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys
        self.out = self.err = ""

    def __call__(self, *words: str) -> int:
        self.capsys.readouterr()
        try:
            code = main(["canary", *words])
        except SystemExit as end:
            code = int(end.code or 0)
        self.out, self.err = self.capsys.readouterr()
        return code

    def lines(self) -> list[dict[str, Any]]:
        """Return the lines of JSON."""
        return [json.loads(line) for line in self.out.splitlines()]


@pytest.fixture
def hedgerow(capsys: pytest.CaptureFixture[str]) -> Told:
    return Told(capsys)


# ---- the words -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "at"),
    [
        (["x.jsonl"], 0), (["--json", "x"], 0), (["-"], 0), (["--profile", "watch", "x"], 0), (["--kafka", "h:1", "x"], 2),
        (["--kafka=h:1", "--settings", "f", "x"], 3), (["./verify"], 0),
    ],
)  # fmt: skip
def test_the_word_evaluate_may_be_left_out(words: list[str], at: int) -> None:
    assert with_action(words) == [*words[:at], "evaluate", *words[at:]]


@pytest.mark.parametrize(
    "words", [[], ["-h"], ["--help"], ["--kafka", "h:1"], ["--kafka", "h:1", "watch"], *([one, "x"] for one in ACTIONS)]
)
def test_nothing_is_put_in_where_an_action_stands(words: list[str]) -> None:
    assert with_action(words) == words


def test_help_lists_the_actions(hedgerow: Told) -> None:
    assert hedgerow("--help") == 0
    assert all(f"    {action} " in hedgerow.out for action in ACTIONS)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("explain", "x", "--row", "0"), "argument --row: must be a whole number from 1, not '0'"),
        (("explain", "x", "--row", "1", "--date", DAY), "not allowed with argument"),
        (("explain", "x", "--date", "5.8.2024"), "argument --date: must be a date, YYYY-MM-DD, not '5.8.2024'"),
        (("x", "--now", "noon"), "argument --now: not a time: 'noon'"),
        (("x", "--now", ""), "argument --now: not a time: ''"),
        (("x", "--json", "--table"), "not allowed with argument"),
        (("watch", "--since", "2 hours"), "argument --since: must be a number above 0 and s, m, h or d"),
        (("watch", "x", "--every", "soon"), "argument --every: must be seconds from 0 to 9999, not 'soon'"),
    ],
)
def test_words_that_are_wrong_are_refused(hedgerow: Told, words: tuple[str, ...], said: str) -> None:
    assert hedgerow(*words) == EXIT_SETTINGS
    assert said in hedgerow.err


# ---- evaluate --------------------------------------------------------------------------------------------------------------------------


def test_json_is_the_whole_result_of_each_snapshot(tmp_path: Path, hedgerow: Told) -> None:
    given = [snapshot(), snapshot(cushion=0.3), snapshot(spy=-2.7, vix=2)]
    assert hedgerow(written(tmp_path / "x.jsonl.gz", *given), "--json") == 0
    assert hedgerow.err == ""
    found = [CanaryResult.model_validate_json(line) for line in hedgerow.out.splitlines()]
    assert found == [evaluate(x["account"], x["positions"], x["regime"], DEFAULT, time_ns(AS_OF) or 0) for x in given]
    assert [(one.direction, one.severity, one.lifecycle.stage) for one in found] == [
        ("", "observe", "quiet"), ("defensive", "watch", "early_warning"), ("defensive", "watch", "early_warning"),
    ]  # fmt: skip
    assert hedgerow.lines()[0]["market"]["score"] is None


def test_the_same_file_gives_the_same_bytes(tmp_path: Path, hedgerow: Told) -> None:
    path = written(tmp_path / "x.jsonl", snapshot(), day("2018-02-05", True))
    assert hedgerow(path, "--json") == 0
    before = hedgerow.out
    assert hedgerow("evaluate", "--json", path) == 0
    assert hedgerow.out == before


def test_standard_input_is_a_file_too(tmp_path: Path, hedgerow: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "x", snapshot(cushion=0.07))
    with open(path) as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        assert hedgerow("-", "--json") == 0
    assert hedgerow.lines()[0]["severity"] == "urgent"


def test_the_card_says_what_matters_without_colours_in_a_pipe(tmp_path: Path, hedgerow: Told) -> None:
    path = written(tmp_path / "x.jsonl", snapshot(cushion=0.15, spy=-2.7, vix=25))
    for columns in ("80", "160"):
        assert hedgerow(path) == 0
        assert "\x1b" not in hedgerow.out
        for text in ("line 1", "2024-08-05 made up", "canary-default", "canary-fp-v1", "sha256:"):
            assert text in hedgerow.out, (columns, text)


def test_the_table_has_a_line_for_each_snapshot(tmp_path: Path, hedgerow: Told) -> None:
    assert hedgerow(written(tmp_path / "x.jsonl", snapshot(), snapshot(cushion=0.3)), "--table") == 0
    lines = [line for line in hedgerow.out.splitlines() if "line " in line]
    assert ["quiet" in line for line in lines] == [True, False]
    assert "margin cushion" in lines[1]


def test_bad_lines_are_named_and_good_ones_judged(tmp_path: Path, hedgerow: Told) -> None:
    path = written(tmp_path / "x.jsonl", snapshot(), b"{", {"account": 1}, snapshot(cushion=0.3))
    assert hedgerow(path, "--json") == EXIT_FAILED
    assert [one["severity"] for one in hedgerow.lines()] == ["observe", "watch"]
    first, second, last = hedgerow.err.splitlines()
    assert first.startswith(f"hedgerow: {path}: line 2: not JSON")
    assert second == f"hedgerow: {path}: line 3: account: must be an object or null, not 1"
    assert last == f"hedgerow: {path}: 2 lines left out, 2 taken"


@pytest.mark.parametrize("action", ["evaluate", "explain", "verify", "backtest", "watch"])
def test_a_name_that_is_too_long_is_a_bad_line(tmp_path: Path, hedgerow: Told, action: str) -> None:
    given = snapshot()
    given["positions"]["portfolio"]["exposure_base"] = [{"underlying": "S" * 21, "market_value_base": 1.0}]
    path = written(tmp_path / "x.jsonl", given)
    words = ("--row", "1") if action == "explain" else ()
    assert hedgerow(action, path, *words) == EXIT_FAILED
    assert hedgerow.err.splitlines()[0].startswith(f"hedgerow: {path}: line 1: ")


def test_one_line_may_be_chosen(tmp_path: Path, hedgerow: Told) -> None:
    path = written(tmp_path / "x.jsonl", snapshot(), b"{", snapshot(cushion=0.3))
    assert hedgerow(path, "--json", "--row", "3") == 0
    assert [one["severity"] for one in hedgerow.lines()] == ["watch"]
    for row, said in (("2", f"{path}: line 2: not JSON"), ("9", f"{path}: no snapshot of line 9 in it")):
        assert hedgerow(path, "--json", "--row", row) == EXIT_FAILED, row
        assert hedgerow.out == ""
        assert hedgerow.err.startswith(f"hedgerow: {said}")


def test_a_profile_is_chosen_by_name(tmp_path: Path, hedgerow: Told) -> None:
    path = written(tmp_path / "x.jsonl", snapshot())
    for name in POLICIES:
        assert hedgerow(path, "--json", "--profile", name) == 0
        assert hedgerow.lines()[0]["policy"] == name
    assert hedgerow(path, "--profile", "canary-bold") == EXIT_SETTINGS
    assert hedgerow.err.startswith("hedgerow: --profile: no profile 'canary-bold'; there are canary-default, ")


def test_policy_files_take_the_place_of_the_built_in_ones(tmp_path: Path, hedgerow: Told) -> None:
    content = json.loads((BUILT_IN / "canary-default.json").read_text())
    content["profile"], content["policy"]["margin_watch_pct"] = "mine", 60
    mine = tmp_path / "mine.json"
    mine.write_text(json.dumps(content))
    path = written(tmp_path / "x.jsonl", snapshot())
    assert hedgerow(path, "--json", "--policy", str(mine)) == 0
    assert [(one["policy"], one["severity"]) for one in hedgerow.lines()] == [("mine", "watch")]
    content["profile"] = "other"
    (tmp_path / "other.json").write_text(json.dumps(content))
    assert hedgerow(path, "--policy", str(mine), str(tmp_path / "other.json")) == EXIT_SETTINGS
    assert hedgerow.err == "hedgerow: --profile: which one: mine, other?\n"
    content["policy"]["margin_watch_pct"] = "high"
    mine.write_text(json.dumps(content))
    assert hedgerow(path, "--policy", str(mine)) == EXIT_SETTINGS
    assert f"hedgerow: {mine}: policy.margin_watch_pct." in hedgerow.err


def test_a_snapshot_is_judged_at_its_own_time_or_the_one_given(tmp_path: Path, hedgerow: Told) -> None:
    path = written(tmp_path / "x.jsonl", snapshot())
    assert hedgerow(path, "--json") == 0
    assert hedgerow.lines()[0]["as_of_ns"] == time_ns(AS_OF)
    assert hedgerow(path, "--json", "--now", "2024-08-05T16:00:00Z") == 0
    assert [one["status"] for one in hedgerow.lines()[0]["source_health"]] == ["stale"] * 3
    timeless = snapshot()
    del timeless["date"]
    for part in ("account", "positions", "regime"):
        del timeless[part]["as_of"]
    before = time.time_ns()
    assert hedgerow(written(tmp_path / "y.jsonl", timeless), "--json") == 0
    assert before <= hedgerow.lines()[0]["as_of_ns"] <= time.time_ns()


def test_bands_are_taken_as_delivered_unless_asked_for_anew(tmp_path: Path, hedgerow: Told) -> None:
    given = snapshot()
    given["regime"]["vix_term_structure"] |= {"vix": 30.0, "vix3m": 29.0}
    given["regime"]["vol_of_vol"]["last"] = 130.0
    path = written(tmp_path / "x.jsonl", given)
    for words, red in (((), []), (("--reband",), ["vol"])):
        assert hedgerow(path, "--json", *words) == 0
        assert hedgerow.lines()[0]["market"]["red_cluster_names"] == red


def test_days_of_a_history_are_judged_with_what_came_before(tmp_path: Path, hedgerow: Told) -> None:
    """A profile with gates knows nothing of a lone day; of a history it counts the days a row was red."""
    days = [day(f"2018-02-0{n}", True, ratio=1.02, vix=1.0) for n in (7, 5, 6)]
    path = written(tmp_path / "x.jsonl", *days)
    guarded = ("--profile", "canary-guarded")
    assert hedgerow(path, "--json", *guarded) == 0
    alone = hedgerow.lines()
    assert hedgerow(path, "--json", "--history", *guarded) == 0
    assert [one["as_of_ns"] for one in hedgerow.lines()] == [one["as_of_ns"] for one in alone]
    assert hedgerow.lines() != alone
    for line, sessions in ((1, 3), (2, 1), (3, 2)):
        said = told_of(hedgerow, path, "--row", str(line), *guarded)
        assert "judged as a day of this file's history" in said
        assert f"data fresh; session {sessions}; depth 1.02" in said
        assert hedgerow(path, "--json", "--history", "--row", str(line), *guarded) == 0
        (result,) = hedgerow.lines()
        assert result["fingerprint"]["key"] in said
    assert hedgerow(path, "--history", "--now", AS_OF) == EXIT_SETTINGS


def test_explain_says_of_a_day_what_backtest_counts(tmp_path: Path, hedgerow: Told) -> None:
    path = history(tmp_path)
    for name in POLICIES:
        assert hedgerow(path, "--json", "--history", "--profile", name) == 0
        alerts = [one for one in hedgerow.lines() if one["direction"] in ("defensive", "mixed") and one["severity"] in ("act", "urgent")]
        assert hedgerow("backtest", path, "--json", "--profile", name) == 0
        assert [one["alerts"] for one in hedgerow.lines() if one["level"] == "act"] == [len(alerts)]


@pytest.mark.parametrize("action", ["evaluate", "explain", "verify", "backtest", "watch"])
def test_a_file_that_is_not_there_is_one_line(tmp_path: Path, hedgerow: Told, action: str) -> None:
    assert hedgerow(action, str(tmp_path / "none")) == EXIT_SETTINGS
    assert (hedgerow.out, hedgerow.err) == ("", f"hedgerow: {tmp_path / 'none'}: No such file or directory\n")


@pytest.mark.parametrize("action", ["evaluate", "explain", "verify", "backtest", "watch"])
def test_a_file_with_nothing_in_it_is_said(tmp_path: Path, hedgerow: Told, action: str) -> None:
    assert hedgerow(action, written(tmp_path / "x.jsonl")) == EXIT_FAILED
    assert hedgerow.err.startswith("hedgerow: ")


def test_regime_keys_are_for_verify(tmp_path: Path, hedgerow: Told) -> None:
    path = written(tmp_path / "x.jsonl", {"canonical_json": "{}", "expected_key": GOLDEN_KEY})
    assert hedgerow(path) == EXIT_FAILED
    assert hedgerow.err == f"hedgerow: {path}: no snapshot in it, 1 regime keys: see `hedgerow canary verify`\n"


# ---- explain ---------------------------------------------------------------------------------------------------------------------------


def told_of(hedgerow: Told, *words: str) -> str:
    """Return what explain says, in single spaces."""
    assert hedgerow("explain", *words) == 0, hedgerow.err
    assert "\x1b" not in hedgerow.out
    return " ".join(hedgerow.out.split())


def test_explain_goes_from_the_rows_to_the_keys(tmp_path: Path, hedgerow: Told) -> None:
    path = written(tmp_path / "x.jsonl", day("2018-02-05", True, ratio=1.2, spy=-4.1, vix=115.6))
    said = told_of(hedgerow, path)
    for text in (
        "2018-02-05 d · canary-default version 1 · labelled stress, market stress",
        "VIX/VIX3M 1.2 yellow ≥ 0.92, red ≥ 1",
        "vol vix_term_structure red, vol_of_vol green red red yes",
        "verdict Stress signal present",
        "SPY -4.10 %, VIX +115.60 %, 1 red cluster, breadth unranked",
        "→ panic ≥ 3 reds; SPY ≤ -4 with a red; or SPY ≤ -7",
        "market_selloff_violent defensive / act observed -4.1, level -4 confidence medium",
        "canary canary-fp-v1 sha256:",
    ):
        assert text in said, text


def test_explain_says_why_a_red_does_not_count(tmp_path: Path, hedgerow: Told) -> None:
    given = snapshot(red=("vol_of_vol",), spy=0.2)
    given["regime"]["vol_of_vol"]["last"] = 112
    said = told_of(hedgerow, written(tmp_path / "x.jsonl", given))
    assert "vol vix_term_structure green, vol_of_vol red red yellow downgraded, unconfirmed: VVIX red alone" in said
    guarded = snapshot(red=("hyg_spy_divergence", "usd_jpy"))
    for name in ROWS:
        guarded["regime"][name] |= {"freshness_class": "fresh", "as_of": AS_OF}
    guarded["regime"]["hyg_spy_divergence"] |= {"depth": 0.07, "sessions": 1, "eligibility": "depth_below_min"}
    said = told_of(hedgerow, written(tmp_path / "y.jsonl", guarded), "--profile", "canary-guarded")
    assert "may confirm: depth_below_min; data fresh; session 1; depth 0.07" in said
    assert "provisional: depth_below_min" in said


def test_explain_says_what_blocked_a_signal_and_what_held_the_headline(tmp_path: Path, hedgerow: Told) -> None:
    said = told_of(hedgerow, written(tmp_path / "x.jsonl", snapshot(spy=-2.7, vix=2)))
    assert "market_selloff_violent defensive / watch observed -2.7, level -2.5" in said
    assert "blocked by confirmation; needs_independent_confirmation" in said
    said = told_of(hedgerow, written(tmp_path / "y.jsonl", snapshot(daily_pnl=-12_000)))
    assert "highest act (Portfolio P&L shock, portfolio_pnl_shock); held at watch: act against the market needs" in said


def test_explain_has_every_term_of_a_score(tmp_path: Path, hedgerow: Told) -> None:
    policy = next((one for one in POLICIES.values() if one.policy.confirmation is not None), None)
    if policy is None or policy.policy.confirmation is None:
        pytest.skip("no profile that comes with hedgerow confirms by a score")
    row = day("2018-02-05", True, ratio=1.2, spy=-4.1, vix=115.6)
    said = told_of(hedgerow, written(tmp_path / "x.jsonl", row), "--profile", policy.profile)
    for term in policy.policy.confirmation.terms:
        assert f"{term.id} {term.feature}" in said


def test_explain_chooses_by_date_and_refuses_to_guess(tmp_path: Path, hedgerow: Told) -> None:
    path = written(tmp_path / "x.jsonl", day("2018-02-05", True), day("2018-02-06", True), day("2018-02-06", False))
    assert "2018-02-05" in told_of(hedgerow, path, "--date", "2018-02-05")
    assert "line 3" in told_of(hedgerow, path, "--row", "3")
    for words, said in (
        (("--date", "2018-02-06"), "2 snapshots of 2018-02-06: choose one with --row: 2, 3"),
        ((), "3 snapshots: choose one with --row: 1, 2, 3"),
        (("--date", "2018-02-07"), "no snapshot of 2018-02-07 in it"),
    ):
        assert hedgerow("explain", path, *words) == EXIT_FAILED
        assert hedgerow.err == f"hedgerow: {path}: {said}\n"


@pytest.mark.parametrize("name", list(POLICIES))
@pytest.mark.parametrize(
    "given",
    [
        {"account": None, "positions": None, "regime": None},
        {"account": {}}, {"positions": {}}, {"regime": {}}, snapshot(), snapshot(red=ROWS, spy=-8, vix=90, cushion=0.05, daily_pnl=-20_000),
        snapshot(spy=None, vix=None), snapshot(spy=3, vix=-25), day("2018-02-05", False, ratio=1.1),
    ],
)  # fmt: skip
def test_explain_agrees_with_the_result_whatever_it_is_given(tmp_path: Path, hedgerow: Told, name: str, given: dict[str, Any]) -> None:
    path = written(tmp_path / "x.jsonl", given)
    now = ("--now", AS_OF)
    said = told_of(hedgerow, path, "--profile", name, *now)
    assert hedgerow(path, "--json", "--profile", name, *now) == 0
    (result,) = hedgerow.lines()
    assert f"risk state {result['direction'] or 'none'} / {result['severity']}" in said
    assert result["fingerprint"]["key"] in said
    assert all(signal["id"] in said for signal in result["signals"])
    assert all(row["title"] in said for row in result["rows"])


# ---- verify ----------------------------------------------------------------------------------------------------------------------------

KEY = {"date": DAY, "case": "golden", "canonical_json": GOLDEN_TEXT, "expected_key": GOLDEN_KEY}
SNAPSHOT = {"date": DAY, "case": "golden", "regime": GOLDEN_REGIME}
SAMPLE: dict[str, Any] = {
    "date": DAY, "case": "margin", "input": snapshot(cushion=0.3),
    "expected": {"dir": "defensive", "sev": "watch", "stage": "early_warning", "mode": "stage", "ready": "prestage", "drivers": ["margin_cushion_low"],
                 "posture": "threat", "data": "high", "signal": "high", "conf": "high", "red": [], "yellow": [], "unconf": []},
    "signals": [["margin_cushion_low", "defensive", "watch"]],
}  # fmt: skip


def test_verify_recomputes_keys_and_samples_of_a_folder(tmp_path: Path, hedgerow: Told) -> None:
    alone = {**KEY, "case": "without a snapshot"}
    written(tmp_path / "keys.jsonl", alone)
    written(tmp_path / "rows.jsonl.gz", SNAPSHOT, SAMPLE)
    assert hedgerow("verify", str(tmp_path)) == 0, hedgerow.out
    *table, last = hedgerow.out.splitlines()
    assert json.loads(last) == {"keys": 2, "matched": 2, "samples": 1, "samples_matched": 1, "left_out": 0, "pass": True}
    assert [line.split()[0] for line in table if "jsonl" in line] == ["keys.jsonl", "rows.jsonl.gz", "rows.jsonl.gz"]


def test_verify_recomputes_a_key_from_the_snapshot_of_the_same_day(tmp_path: Path, hedgerow: Told) -> None:
    regime = snapshot()["regime"]
    from operators.canonical import canonical_json, key_of, project_regime

    given = from_snapshot(regime)
    projection = project_regime(given, market_of(given, DEFAULT, time_ns(AS_OF) or 0))
    key = {"date": DAY, "case": "made up", "canonical_json": canonical_json(projection), "expected_key": key_of(projection)}
    path = written(tmp_path / "x.jsonl", key, snapshot())
    assert hedgerow("verify", path) == 0
    assert hedgerow.out.splitlines()[-1].startswith('{"keys": 2, "matched": 2,')
    changed = copy.deepcopy(snapshot())
    changed["regime"]["usd_jpy"]["band"] = "yellow"
    assert hedgerow("verify", written(tmp_path / "y.jsonl", key, changed)) == EXIT_FAILED
    assert hedgerow.out.splitlines()[-1].startswith('{"keys": 2, "matched": 1,')
    assert "recomputed from the snapshot: expected sha256:" in hedgerow.out
    assert "in place of" in hedgerow.out


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({**KEY, "expected_key": "sha256:" + 64 * "0"}, f"expected sha256:{64 * '0'}, ours {GOLDEN_KEY}"),
        ({**KEY, "canonical_json": GOLDEN_TEXT.replace('":0', '": 0', 1)}, "from character"),
        ({**KEY, "canonical_json": "{"}, "canonical_json is not JSON"),
        (
            {**SNAPSHOT, "case": "other", "regime": {**GOLDEN_REGIME, "vix_term_structure": {"band": "yellow"}}},
            f"stored {GOLDEN_KEY}, ours sha256:",
        ),
        ({**SAMPLE, "expected": {**SAMPLE["expected"], "sev": "act"}}, 'sev: expected "act", ours "watch"'),
        ({**SAMPLE, "expected": {"mood": "bad"}}, "mood: no such part of a result"),
        ({**SAMPLE, "signals": []}, "signals: expected []"),
    ],
)
def test_verify_names_each_mismatch(tmp_path: Path, hedgerow: Told, wrong: dict[str, Any], said: str) -> None:
    path = written(tmp_path / "x.jsonl", KEY, wrong)
    assert hedgerow("verify", path) == EXIT_FAILED
    assert f"{path}: line 2: {wrong['date']}" in hedgerow.out
    assert said in hedgerow.out
    told = json.loads(hedgerow.out.splitlines()[-1])
    assert not told["pass"]
    assert told["keys"] + told["samples"] == told["matched"] + told["samples_matched"] + 1 == 2


def test_verify_fails_for_a_line_it_cannot_read(tmp_path: Path, hedgerow: Told) -> None:
    path = written(tmp_path / "x.jsonl", KEY, b"{")
    assert hedgerow("verify", path) == EXIT_FAILED
    assert json.loads(hedgerow.out.splitlines()[-1]) == {
        "keys": 1, "matched": 1, "samples": 0, "samples_matched": 0, "left_out": 1, "pass": False,
    }  # fmt: skip
    assert hedgerow.err.startswith(f"hedgerow: {path}: line 2: not JSON")


# ---- watch -----------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Iterator[MockBroker]:
    """Yield a broker with the two topics; the commands find it."""
    with MockBroker(COUNTS) as broker:
        monkeypatch.setenv("HEDGEROW_KAFKA", broker.bootstrap)
        yield broker


def alert(account: str, seq: int = 1, policy: str = "canary-default", told_ns: int | None = None, **given: Any) -> bytes:
    """Return an alert as the canary publishes it."""
    made = snapshot(**given)
    result = evaluate(made["account"], made["positions"], made["regime"], POLICIES[policy], time_ns(AS_OF) or 0)
    at = time.time_ns() if told_ns is None else told_ns
    identity = str(uuid.uuid5(uuid.NAMESPACE_OID, f"{account}{seq}{policy}"))
    window = {"window": "5m", "state": "ok", "span_s": 300.0, "samples": 12, "pnl_pct_nlv": -1.25}
    message = {
        "msg_id": identity, "type": ALERTS, "version": "v1", "ts": rfc3339(at), "ts_ns": at, "ttl_ms": 600_000, "sender": "agent.canary",
        "idempotency_key": identity,
        "payload": {"account": account, "mode": "live", "reason": "first" if seq == 1 else "changed", "seq": seq, "windows": [window],
                    "result": result.model_dump(mode="json", by_alias=True)},
    }  # fmt: skip
    value = json.dumps(message).encode()
    assert isinstance(parse(CanaryAlertMessage, value), CanaryAlertMessage), parse(CanaryAlertMessage, value)
    return value


def publish(broker: MockBroker, *values: tuple[str, bytes], topic: str = ALERTS, timestamp_ms: int | None = None) -> None:
    producer = Producer({"bootstrap.servers": broker.bootstrap, "partitioner": "murmur2_random", "acks": "all", "log_level": 0})
    for key, value in values:
        producer.produce(topic, value, key.encode(), timestamp=int(time.time() * 1000) if timestamp_ms is None else timestamp_ms)
    assert producer.flush(10) == 0


def test_watch_once_shows_the_newest_alert_of_each_account(broker: MockBroker, hedgerow: Told) -> None:
    publish(
        broker,
        ("A1", alert("A1", cushion=0.05)),
        ("A1", alert("A1", 2)),
        ("B2", alert("B2", cushion=0.15)),
        ("C3", alert("C3", cushion=0.3)),
    )
    assert hedgerow("watch", "--once") == 0
    assert hedgerow.err == ""
    rows = [line.split() for line in hedgerow.out.splitlines() if line[1:3] in ("A1", "B2", "C3")]
    assert [(row[0], row[3]) for row in rows] == [("B2", "act"), ("C3", "watch"), ("A1", "observe")]
    assert "alerts read: 4" in hedgerow.out
    assert hedgerow("watch", "--once", "--account", "B2") == 0
    for text in ("B2 · live · canary-default", "alert 1, first", "alerts read: 1"):
        assert text in hedgerow.out
    assert hedgerow("watch", "--once", "--profile", "canary-guarded") == 0
    assert f"{ALERTS} tells of no alert under canary-guarded" in hedgerow.out


def regime(red: tuple[str, ...] = (), policy: str = "canary-default") -> bytes:
    """Return a regime snapshot as the regime flow publishes it."""
    made = from_snapshot(snapshot(red=red)["regime"])
    view = market_of(made, POLICIES[policy], time_ns(AS_OF) or 0)
    key = {"version": "v", "key": GOLDEN_KEY}
    at = time.time_ns()
    identity = str(uuid.uuid5(uuid.NAMESPACE_OID, f"{policy}{at}"))
    message = {
        "msg_id": identity, "type": REGIMES, "version": "v1", "ts": rfc3339(at), "ts_ns": at, "ttl_ms": 600_000, "sender": "agent.regime",
        "idempotency_key": identity,
        "payload": {
            "profile": policy, "policy_version": "1", "policy_fingerprint": GOLDEN_KEY, "as_of_ns": at - 5 * 60 * 10**9, "fingerprint": key,
            "rows": [{"row": name, "band": view.bands[name], "status": "ok"} for name in ROWS], "spy_change_pct": view.spy,
            "vix_change_pct": view.vix, "composite": view.composite, "lifecycle": {**view.lifecycle, "fingerprint": key}, "confidence": "high",
            "source_health": list(view.source_health),
        },
    }  # fmt: skip
    value = json.dumps(message).encode()
    assert isinstance(parse(RegimeMessage, value), RegimeMessage), parse(RegimeMessage, value)
    return value


def test_watch_has_the_market_above_the_accounts(broker: MockBroker, hedgerow: Told) -> None:
    market = [("regime|canary-default", regime()), ("regime|canary-default", regime(("usd_jpy", "vix_term_structure")))]
    publish(broker, *market, ("regime|canary-guarded", regime(policy="canary-guarded")), ("regime|gone", b""), topic=REGIMES)
    assert hedgerow("watch", "--once") == 0
    assert sum(" · canary-" in line for line in hedgerow.out.splitlines()) == 2
    publish(broker, ("A1", alert("A1")), ("B2", alert("B2")))
    assert hedgerow("watch", "--once") == 0
    head, clusters, tape, *rest = hedgerow.out.splitlines()
    assert head.rstrip() == "Stress signal present · canary-default · confirmed_stress / act"
    assert clusters.rstrip() == "  vol red · credit green · funding green · fx red · gamma green · breadth green"
    assert tape.rstrip() == "  SPY +0.10 %, VIX -1.00 %, 5m old"
    assert not any("canary-guarded" in line for line in rest)
    publish(broker, ("regime|canary-default", regime(("usd_jpy",))), topic=REGIMES)
    assert hedgerow("watch", "--once") == 0
    assert "fx red, unconfirmed" in hedgerow.out


def test_watch_as_json_has_the_alerts_themselves(broker: MockBroker, hedgerow: Told) -> None:
    publish(broker, ("A1", alert("A1")), ("A1", alert("A1", 2, cushion=0.05)))
    assert hedgerow("watch", "--once", "--json") == 0
    (found,) = hedgerow.lines()
    assert (found["account"], found["seq"], found["reason"], found["result"]["severity"]) == ("A1", 2, "changed", "urgent")
    assert found["windows"][0]["pnl_pct_nlv"] == -1.25


def test_watch_leaves_out_what_is_too_old_and_counts_what_cannot_be_read(broker: MockBroker, hedgerow: Told) -> None:
    now_ms = int(time.time() * 1000)
    publish(broker, ("A1", alert("A1", cushion=0.05)), timestamp_ms=now_ms - 3 * 3_600_000)
    publish(broker, ("B2", alert("B2", cushion=0.05)), ("B2", b"{"), ("B2", b""))
    assert hedgerow("watch", "--once", "--json", "--since", "1h") == 0
    assert [one["account"] for one in hedgerow.lines()] == ["B2"]
    assert hedgerow("watch", "--once", "--json", "--since", "4h") == 0
    assert [one["account"] for one in hedgerow.lines()] == ["A1", "B2"]
    assert hedgerow("watch", "--once", "--since", "1h") == 0
    assert "records not readable: 2" in hedgerow.out


def test_watch_without_a_terminal_prints_a_line_for_each_alert(broker: MockBroker, hedgerow: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ends as a person ends it."""
    publish(broker, ("A1", alert("A1")), ("B2", alert("B2", cushion=0.05)))
    taken = Watched.take

    def take(self: Watched, record: Any) -> Any:
        found = taken(self, record)
        if found is not None and found.seq == 2:
            ended.append(found)
        if found is not None and self.read == 2:
            publish(broker, ("A1", alert("A1", 2, cushion=0.3)))
        return found

    ended: list[Any] = []
    told = canary_show.line_of

    def line_of(entry: canary_show.Entry) -> str:
        if entry.seq == 2:
            print(told(entry))
            raise KeyboardInterrupt
        return told(entry)

    monkeypatch.setattr(Watched, "take", take)
    monkeypatch.setattr(canary_show, "line_of", line_of)
    assert hedgerow("watch") == 0
    assert hedgerow.err == ""
    assert ended
    lines = hedgerow.out.splitlines()
    assert lines[0].startswith("B2 canary-default | defensive/urgent | forced_defense | defend/ready | ")
    assert lines[-1].startswith("A1 canary-default | defensive/watch | early_warning | stage/prestage | ")
    assert lines[-1].endswith("| alert 2 changed")


def test_a_view_fits_the_terminal() -> None:
    watched = Watched()
    for number in range(40):
        made = snapshot(cushion=(0.05, 0.15, 0.3, 0.6)[number % 4])
        result = evaluate(made["account"], made["positions"], made["regime"], DEFAULT, time_ns(AS_OF) or 0)
        watched.entries[f"A{number}", "live", "canary-default"] = canary_show.Entry(f"A{number}", "live", result, 0)
    for width, height in ((80, 24), (160, 50), (80, 10)):
        console = Console(width=width, height=height, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
        console.print(watched.view(10**9, width, height))
        lines = console.export_text().splitlines()
        assert len(lines) <= height
        assert max(map(len, lines)) <= width
        assert sum("urgent" in line for line in lines) >= min(10, height - 8)
    assert "and " in console.export_text(clear=False) or "more" in "\n".join(lines)


def test_watch_of_a_file_goes_through_its_snapshots(tmp_path: Path, hedgerow: Told) -> None:
    path = written(tmp_path / "x.jsonl", snapshot(), snapshot(cushion=0.3), b"{", snapshot(cushion=0.05))
    assert hedgerow("watch", path) == EXIT_FAILED
    assert [line.split(" | ")[1] for line in hedgerow.out.splitlines()] == ["none/observe", "defensive/watch", "defensive/urgent"]
    assert "1 lines left out, 3 taken" in hedgerow.err
    assert hedgerow("watch", path, "--json") == EXIT_FAILED
    assert [one["severity"] for one in hedgerow.lines()] == ["observe", "watch", "urgent"]
    assert hedgerow("watch", path, "--once") == EXIT_FAILED
    assert "line 4" in hedgerow.out
    assert "line 1" not in hedgerow.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("watch", "x", "--account", "A"), "--account: only for alerts of Kafka, not with FILE"),
        (("watch", "x", "--since", "1h"), "--since: only for alerts of Kafka, not with FILE"),
        (("watch", "--every", "1"), "--every: only with FILE"),
        (("watch", "--reband"), "--reband: only with FILE"),
        (("watch", "--history"), "--history: only with FILE"),
    ],
)
def test_watch_refuses_words_of_its_other_form(hedgerow: Told, words: tuple[str, ...], said: str) -> None:
    assert hedgerow(*words) == EXIT_SETTINGS
    assert hedgerow.err == f"hedgerow: {said}\n"


def test_watch_says_which_topic_is_missing_and_which_broker_is_not_there(hedgerow: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HEDGEROW_KAFKA", raising=False)
    assert hedgerow("watch", "--once") == EXIT_SETTINGS
    assert "HEDGEROW_KAFKA" in hedgerow.err
    with MockBroker({REGIMES: 1}) as without:
        assert hedgerow("watch", "--once", "--kafka", without.bootstrap) == EXIT_STARTUP
        assert ALERTS in hedgerow.err
    assert hedgerow("watch", "--once", "--kafka", "127.0.0.1:1") == EXIT_UNREACHABLE


# ---- backtest --------------------------------------------------------------------------------------------------------------------------


def history(tmp_path: Path, name: str = "days.jsonl") -> str:
    """Write four days: stress foreseen, stress missed, calm with a false alarm, calm."""
    return written(
        tmp_path / name,
        day("2018-02-05", True, ratio=1.2, spy=-4.1, vix=60),
        day("2019-05-13", True),
        day("2020-06-11", False, ratio=1.1, spy=-2.6, vix=15),
        day("2021-07-01", False),
    )


def test_backtest_counts_alerts_by_profile_and_level(tmp_path: Path, hedgerow: Told) -> None:
    path = history(tmp_path)
    assert hedgerow("backtest", path, "--json", "--profile", "canary-default") == 0
    assert hedgerow.err == ""
    assert [(one["profile"], one["level"]) for one in hedgerow.lines()] == [
        ("canary-default", level) for level in ("watch", "act", "urgent")
    ]
    watch, act, urgent = hedgerow.lines()
    wanted = {"days": 4, "stress_days": 2, "alerts": 2, "hits": 1, "precision": 0.5, "recall": 0.5, "false_alarm_rate": 0.5, "file": path}
    for one in (watch, act):
        assert {name: one[name] for name in wanted} == wanted
    assert (urgent["alerts"], urgent["precision"], urgent["recall"]) == (0, None, 0.0)
    assert hedgerow("backtest", path, "--json") == 0
    assert [one["profile"] for one in hedgerow.lines()] == [name for name in POLICIES for _ in range(3)]


def test_backtest_judges_each_file_on_its_own(tmp_path: Path, hedgerow: Told) -> None:
    paths = [history(tmp_path, "a.jsonl"), history(tmp_path, "b.jsonl.gz")]
    assert hedgerow("backtest", *paths, paths[0], "--json", "--profile", "canary-default", "canary-guarded") == 0
    assert [(one["file"], one["days"]) for one in hedgerow.lines()] == [(path, 4) for path in paths for _ in range(6)]


@pytest.mark.parametrize(
    ("by", "names"),
    [("year", ["2018", "2019", "2020", "2021"]), ("category", ["calm/control", "market stress"]), ("group", ["made up"])],
)
def test_backtest_has_figures_of_parts(tmp_path: Path, hedgerow: Told, by: str, names: list[str]) -> None:
    path = history(tmp_path)
    assert hedgerow("backtest", path, "--json", "--profile", "canary-default", "--by", by) == 0
    parts = [one for one in hedgerow.lines() if one["part"] == by]
    assert [(one["name"], one["level"]) for one in parts] == [(name, level) for name in names for level in ("watch", "act", "urgent")]
    assert hedgerow("backtest", path, "--by", by) == 0
    assert "\x1b" not in hedgerow.out
    assert all(name in hedgerow.out for name in names)
    assert "days.jsonl: 4 days, 2 of stress in 2 episodes" in hedgerow.out


def test_backtest_tables_fit_a_narrow_terminal(tmp_path: Path, hedgerow: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.canary_cli.WIDEST", 80)
    assert hedgerow("backtest", history(tmp_path), "--by", "year", "category") == 0
    assert max(map(len, hedgerow.out.splitlines())) <= 80
    assert "…" not in hedgerow.out
    assert " calibrated  watch " in hedgerow.out or "canary-calibrated" not in POLICIES


def test_backtest_says_what_it_passes_over(tmp_path: Path, hedgerow: Told) -> None:
    dateless = snapshot()
    del dateless["date"]
    path = written(tmp_path / "x.jsonl", day("2018-02-05", True), snapshot(), {**dateless, "target": {"stress": True}}, b"{")
    assert hedgerow("backtest", path, "--json", "--profile", "canary-default") == EXIT_FAILED
    assert [one["days"] for one in hedgerow.lines()] == [1, 1, 1]
    bad, left, passed = hedgerow.err.splitlines()
    assert bad.startswith(f"hedgerow: {path}: line 4: not JSON")
    assert left == f"hedgerow: {path}: 1 lines left out, 3 taken"
    assert passed == f"hedgerow: {path}: 2 lines without a date, a label (`stress`) or a regime are passed over, 1 judged"


def test_backtest_draws_the_figures(tmp_path: Path, hedgerow: Told) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "x.png"
    assert hedgerow("backtest", history(tmp_path), "--plot", str(picture)) == 0
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert f"wrote {picture}" in hedgerow.out


def test_backtest_draws_only_with_matplotlib(tmp_path: Path, hedgerow: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = tmp_path / "x.png"
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "matplotlib" else find(name, *more))
    assert hedgerow("backtest", history(tmp_path), "--plot", str(picture)) == EXIT_SETTINGS
    assert (hedgerow.out, hedgerow.err) == ("", "hedgerow: --plot needs matplotlib: install hedgerow with the extra `plots`\n")


# ---- whatever a file holds -----------------------------------------------------------------------------------------------------------

ODD = st.one_of(
    st.none(), st.booleans(), st.integers(-(10**25), 10**25), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=30),
    st.sampled_from(["red", "unranked", "ok", "error", "fresh", "2024-08-05", "2024-08-05T15:00:00+09:00", -0.0, 1e308, 5e-324, "SPY" * 20, [], {}, [{}]]),
    st.lists(st.text(max_size=3), max_size=2), st.dictionaries(st.sampled_from(["time", "date", "band", "status"]), st.text(max_size=12), max_size=2),
)  # fmt: skip


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every value in a snapshot."""
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield (*at, key)
        yield from places(item, (*at, key))


FULL = snapshot(maintenance_margin=1.0, look_ahead_excess_liquidity=1.0, daily_pnl=1.0)
FULL["positions"]["portfolio"] |= {
    "gamma": -1.0, "greeks_coverage": 1, "greeks_total": 2,
    "exposure_base": [{"underlying": "SPY", "market_value_base": 1.0, "market_value_pct_nlv": 1.0, "dollar_delta_base": 1.0}],
}  # fmt: skip
FULL["positions"] |= {"stocks": [{"symbol": "SPY"}], "options": [{"symbol": "SPY"}]}
FULL["regime"] |= {
    "composite": {"verdict": "Normal regime", "red_count": 0}, "lifecycle": {"stage": "quiet", "severity": "observe", "evidence": [{"source": "vol"}]},
    "source_health": [{"source": "vol", "status": "ok"}], "warning_details": [{"code": "c", "scope": "vol", "severity": "data"}],
    "data_quality": [{"surface": "gamma", "status": "degraded", "stale_clusters": ["gamma"]}], "summary": {"confidence": "high"}, "closed": False,
}  # fmt: skip
for _row in ROWS:
    FULL["regime"][_row] |= {
        "fields_missing": [], "as_of": AS_OF, "freshness_class": "fresh", "depth": 1.0, "sessions": 1, "eligibility": "eligible", "band_held": False,
    }  # fmt: skip
FULL["regime"]["gamma_zero"]["envelope"] = {
    "status": "ready", "result": {"gap_pct": -3.0, "gamma_sign": "short", "per_index": {"SPX": {"gap_pct": 1.0}}, "summary": {"confidence": "degraded"}},
}  # fmt: skip
FULL["regime"]["vix_term_structure"] |= {"vix": 15.0, "vix3m": 16.0, "ratio": 0.9}
PLACES = sorted(places(FULL), key=str)
FIGURES = st.one_of(
    st.none(), st.integers(-200, 200), st.floats(-200, 200), st.floats(allow_nan=False, allow_infinity=False), st.integers(-(10**25), 10**25),
    st.sampled_from([0.0, -0.0, 1e308, -1e308, 5e-324, 35, 20, 10, 0.35, 150, -1.5, -4.0]),
)  # fmt: skip
WORDS = st.one_of(
    st.none(), st.text(max_size=30),
    st.sampled_from(["", "red", "YELLOW", "unranked", "ok", "stale", "error", "computing", "fresh", "overdue", "eligible", "data", "SPY", "2024-08-03"]),
)  # fmt: skip


def change(place: tuple[Any, ...]) -> st.SearchStrategy[tuple[tuple[Any, ...], Any]]:
    """Return changes of one place, mostly to what could stand there."""
    value: Any = FULL
    for part in place:
        value = value[part]
    like = (
        st.booleans()
        if isinstance(value, bool)
        else FIGURES
        if isinstance(value, int | float)
        else WORDS
        if isinstance(value, str)
        else ODD
    )
    return st.tuples(st.just(place), st.integers(0, 7).flatmap(lambda n: ODD if n == 0 else like))


@given(st.lists(st.sampled_from(PLACES).flatmap(change), min_size=1, max_size=4), st.sampled_from(sorted(POLICIES)), st.booleans())
def test_a_line_is_judged_and_explained_or_named(changes: list[tuple[tuple[Any, ...], Any]], name: str, reband: bool) -> None:
    made = copy.deepcopy(FULL)
    for path, value in changes:
        at: Any = made
        try:
            for part in path[:-1]:
                at = at[part]
            at[path[-1]] = value
        except (KeyError, IndexError, TypeError):  # an earlier change took the place away
            continue
    (row,) = iter_rows("-", io.BytesIO(json.dumps(made).encode()))
    if isinstance(row, BadLine):
        assert row.reason
        return
    try:
        facts_of(row.account, row.positions)
    except ValueError:  # the command names it as it names a bad line
        return
    policy, now_ns = POLICIES[name], time_ns(AS_OF) or 0
    dashboard = regime_of(row, policy, reband)
    result = judged(row, policy, now_ns, dashboard)
    console = Console(width=100, file=io.StringIO())
    known = from_snapshot({}) if dashboard is None else dashboard
    console.print(explain(result, market_of(known, policy, now_ns), known, policy, now_ns, 100))
    console.print(canary_show.card_of(canary_show.Entry("", "", result, now_ns), None, 100))
    assert CanaryResult.model_validate_json(result.model_dump_json(by_alias=True)) == result
