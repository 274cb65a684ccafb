"""Names and numbers others rely on stay: the dataflow's step ids, reason numbers in persisted state, commands, exit codes."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from flows import cli, run, runtime, supervisor
from schemas.hedging import HedgeState
from schemas.reasons import HedgeReason, Reason
from state import hedges

HERE = Path(__file__).resolve().parent


def test_step_ids_are_the_golden_ones() -> None:
    assert runtime.STEP_IDS == ("input", "lanes", "output")


def test_flows_are_the_golden_ones() -> None:
    assert list(run.FLOWS) == ["execution", "hedger", "regime", "canary", "monitor"]


def test_reason_numbers_are_only_ever_added() -> None:
    golden = dict(line.split() for line in (HERE / "reason_numbers.txt").read_text().splitlines())
    now = {reason.name: str(int(reason)) for reason in Reason}
    assert {name: now.get(name) for name in golden} == golden, "numbers are part of persisted state: append, never renumber"
    assert sorted(now.keys() - golden.keys()) == [], "add the new ones to tests/structure/reason_numbers.txt"


def test_hedge_reason_numbers_are_only_ever_added() -> None:
    golden = dict(line.split() for line in (HERE / "hedge_reason_numbers.txt").read_text().splitlines())
    now = {reason.name: str(int(reason)) for reason in HedgeReason}
    assert {name: now.get(name) for name in golden} == golden, "numbers are part of persisted state: append, never renumber"
    assert sorted(now.keys() - golden.keys()) == [], "add the new ones to tests/structure/hedge_reason_numbers.txt"


def test_hedge_states_are_numbered_as_the_contract_lists_them() -> None:
    assert get_args(HedgeState) == hedges.STATES


def test_exit_codes_are_the_golden_ones() -> None:
    codes = {name: code for name, code in vars(supervisor).items() if name.startswith("EXIT_")}
    assert codes == {
        "EXIT_OK": 0, "EXIT_FAILED": 1, "EXIT_SETTINGS": 2, "EXIT_STARTUP": 3, "EXIT_UNREACHABLE": 4, "EXIT_FENCED": 5, "EXIT_STATE": 6,
    }  # fmt: skip


def test_commands_are_the_golden_ones() -> None:
    assert list(cli.COMMANDS) == [
        "demo",
        "run",
        "simulate",
        "replay",
        "topics",
        "hedges",
        "canary",
        "monitor",
        "broker",
        "schemas",
        "warm",
        "version",
    ]
