"""`hedgerow canary`: what the sentinel says of snapshots in files, why, how often it is right, and what it says live.

May not judge anything: operators/canary.py evaluates, operators/clusters.py reads the market, operators/backtest.py counts. Commits and publishes nothing.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from connectors.canary_files import BadLine, CanaryFileError, CanaryRow, files_of, iter_rows, time_ns
from flows.settings import Settings, SettingsError
from flows.supervisor import EXIT_FAILED, EXIT_OK, EXIT_SETTINGS
from operators import clusters
from schemas.canary import CanaryResult
from schemas.policy import PolicyError, RiskPolicy, load_policies

ACTIONS = ("evaluate", "verify", "backtest", "explain", "watch")
DEFAULT = "canary-default"
"""The profile that judges when none is named, and the one the samples were made with."""
WIDEST = 160
"""Columns of what goes to a file or a pipe."""
REPLAY_S = 1.0
REFRESH_S = 0.25
_MOST_NAMED = 20
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_PLOTS_MISSING = "--plot needs matplotlib: install hedgerow with the extra `plots`"


# ---- arguments ---------------------------------------------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `hedgerow canary`. The action `evaluate` may be left out."""
    common = argparse.ArgumentParser(add_help=False)  # may stand before the action or after it
    common.add_argument(
        "--settings", dest="settings_file", type=Path, metavar="FILE", default=argparse.SUPPRESS, help="TOML file with settings"
    )
    common.add_argument("--kafka", metavar="HOST:PORT", default=argparse.SUPPRESS, help="Kafka brokers (default: HEDGEROW_KAFKA)")
    one = argparse.ArgumentParser(add_help=False)
    one.add_argument("--profile", metavar="P", help=f"judge by this profile (default: {DEFAULT}, or the only one of --policy)")
    policies = argparse.ArgumentParser(add_help=False)
    policies.add_argument(
        "--policy",
        type=Path,
        nargs="+",
        action="extend",
        default=[],
        metavar="FILE",
        help="policy files in place of the built-in ones (after the FILE to judge)",
    )
    moment = argparse.ArgumentParser(add_help=False)
    when = moment.add_mutually_exclusive_group()
    when.add_argument(
        "--now",
        type=_time,
        metavar="TIME",
        help="judge at this time (ISO 8601; default: the newest time in the snapshot, or its date's close)",
    )
    when.add_argument(
        "--history",
        action="store_true",
        help="judge the lines as days of one history, as backtest does: with what a builder remembers of the days before",
    )
    moment.add_argument(
        "--reband", action="store_true", help="give the rows their bands anew from raw values, as market days always get them"
    )

    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    shown = actions.add_parser(
        "evaluate", parents=[common, one, policies, moment], help="judge snapshots; the word may be left out: `hedgerow canary FILE`"
    )
    shown.add_argument("file", metavar="FILE", help="lines of JSON, plain or gzip; - for standard input")
    shown.add_argument("--row", type=_positive, metavar="N", help="only the snapshot of line N")
    form = shown.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="a line of JSON for each snapshot: the whole result")
    form.add_argument("--table", action="store_true", help="one line for each snapshot in place of its card")

    checked = actions.add_parser("verify", parents=[common], help="recompute every key and every sample of files or folders")
    checked.add_argument("paths", nargs="+", metavar="PATH", help="files, or folders of .jsonl and .jsonl.gz files")

    tested = actions.add_parser("backtest", parents=[common, policies], help="how often alerts were right, by profile and level")
    tested.add_argument("files", nargs="+", metavar="FILE", help="labelled snapshots or market days, each file judged on its own")
    tested.add_argument("--profile", nargs="+", action="extend", default=[], metavar="P", help="judge by these profiles (default: all)")
    tested.add_argument(
        "--by",
        choices=("category", "group", "year"),
        nargs="+",
        action="extend",
        default=[],
        help="also the figures of each category of days, stretch of history, or year",
    )
    tested.add_argument("--json", action="store_true", help="a line of JSON for each profile and level")
    tested.add_argument("--plot", type=Path, metavar="PNG", help="draw the figures (needs the extra `plots`)")

    why = actions.add_parser("explain", parents=[common, one, policies, moment], help="which rule fired on a snapshot, and why")
    why.add_argument("file", metavar="FILE", help="lines of JSON, plain or gzip; - for standard input")
    which = why.add_mutually_exclusive_group()
    which.add_argument("--row", type=_positive, metavar="N", help="the snapshot of line N")
    which.add_argument("--date", type=_date, metavar="YYYY-MM-DD", help="the snapshot of this date")

    seen = actions.add_parser("watch", parents=[common, one, policies, moment], help="live: the newest alert of every account")
    seen.add_argument("file", nargs="?", metavar="FILE", help="show snapshots of a file one after the other, in place of Kafka's")
    seen.add_argument("--account", metavar="A", help="only this account's")
    seen.add_argument(
        "--since", type=_duration_s, metavar="DURATION", help="begin with alerts of the last 90s, 15m, 2h or 7d (default: two heartbeats)"
    )
    seen.add_argument("--once", action="store_true", help="show what is there now, and end")
    seen.add_argument("--json", action="store_true", help="a line of JSON for each alert")
    seen.add_argument(
        "--every", type=_seconds, metavar="S", help=f"time between two snapshots of FILE on a terminal (default: {REPLAY_S:g})"
    )

    inner = parser.parse_known_args

    def parse(args: Sequence[str] | None = None, namespace: Any = None) -> Any:
        return inner(with_action(list(sys.argv[1:] if args is None else args)), namespace)

    parser.parse_known_args = parse  # type: ignore[method-assign, assignment]


def with_action(words: list[str]) -> list[str]:
    """Return the words with `evaluate` put in where no action stands: before the first word that is neither `--settings` nor `--kafka`."""
    at = 0
    while at < len(words) and re.fullmatch(r"--(settings|kafka)(=.*)?", words[at], re.DOTALL):
        at += 1 if "=" in words[at] else 2
    if at >= len(words) or words[at] in (*ACTIONS, "-h", "--help"):
        return words
    return [*words[:at], "evaluate", *words[at:]]


def _positive(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text, re.ASCII) or int(text) == 0:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1, not {text!r}")
    return int(text)


def _time(text: str) -> int:
    try:
        found = time_ns(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    if found is None:
        raise argparse.ArgumentTypeError("not a time: ''")
    return found


def _date(text: str) -> str:
    try:
        return date.fromisoformat(text).isoformat()
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a date, YYYY-MM-DD, not {text!r}") from None


def _duration_s(text: str) -> int:
    found = re.fullmatch(r"([0-9]{1,9})([smhd])", text)
    if found is None or int(found[1]) == 0:
        raise argparse.ArgumentTypeError(f"must be a number above 0 and s, m, h or d, as 90s or 2h, not {text!r}")
    return int(found[1]) * _UNITS_S[found[2]]


def _seconds(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,4}(\.[0-9]{1,3})?", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"must be seconds from 0 to 9999, not {text!r}")
    return float(text)


def run(args: argparse.Namespace) -> int:
    """Carry out `hedgerow canary`: 0; 1 when a line was left out, a key or a sample does not match, or nothing was found; 2 for input that cannot be
    used at all."""
    actions: dict[str, Callable[[argparse.Namespace], int]] = {
        "evaluate": _evaluate, "verify": _verify, "backtest": _backtest, "explain": _explain, "watch": _watch,
    }  # fmt: skip
    try:
        return actions[args.action](args)
    except CanaryFileError as error:
        _say(str(error))
        return EXIT_SETTINGS


def _say(text: str) -> None:
    print(f"hedgerow: {text}", file=sys.stderr, flush=True)


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else WIDEST, markup=False, highlight=False, emoji=False)


# ---- policies, rows, results -------------------------------------------------------------------------------------------------------


def _policies(files: Sequence[Path], names: Sequence[str] = ()) -> list[RiskPolicy]:
    """Return the policies of these names, or all. Raises SettingsError."""
    try:
        loaded = load_policies(files)
    except PolicyError as error:
        raise SettingsError(str(error).splitlines()) from error
    unknown = [name for name in names if name not in loaded]
    if unknown:
        raise SettingsError([f"--profile: no profile {name!r}; there are {', '.join(loaded)}" for name in unknown])
    return [loaded[name] for name in dict.fromkeys(names)] if names else list(loaded.values())


def _policy(args: argparse.Namespace) -> RiskPolicy:
    if args.profile is not None:
        return _policies(args.policy, [args.profile])[0]
    found = {policy.profile: policy for policy in _policies(args.policy)}
    if DEFAULT not in found and len(found) > 1:
        raise SettingsError([f"--profile: which one: {', '.join(found)}?"])
    return found[DEFAULT] if DEFAULT in found else next(iter(found.values()))


def regime_of(row: CanaryRow, policy: RiskPolicy, reband: bool = False) -> clusters.RegimeInput | None:
    """Return a row's dashboard; a market day's with bands made from its raw values."""
    if row.regime is None:
        return None
    regime = clusters.from_snapshot(row.regime)
    return clusters.rebanded(regime, policy) if reband or row.kind == "panel" else regime


def judged(row: CanaryRow, policy: RiskPolicy, now_ns: int, regime: clusters.RegimeInput | None) -> CanaryResult:
    """Return what the sentinel says of a row's account, its positions and a dashboard at a time."""
    from operators.canary import evaluate

    return evaluate(row.account, row.positions, regime, policy, now_ns)


def history_of(rows: Sequence[CanaryRow], policy: RiskPolicy) -> dict[int, tuple[clusters.RegimeInput, RiskPolicy]]:
    """Return by line the dashboard of each day as the profile's builder would have served it, and the policy as a site without the feeds that never
    spoke would run it: what backtest judges by. Rows without a date or a dashboard have none."""
    from operators.backtest import cases_of, for_history, served

    days = sorted((row for row in rows if row.regime is not None and row.date is not None), key=lambda row: row.date or "")
    cases = cases_of(days)
    used = for_history(policy, cases)
    return {row.line: (regime, used) for row, regime in zip(days, served(cases, used), strict=True)}


def _days(
    rows: Iterable[CanaryRow], policy: RiskPolicy, args: argparse.Namespace, history: bool
) -> Iterator[tuple[CanaryRow, clusters.RegimeInput | None, RiskPolicy, int]]:
    """Yield each row with the dashboard, the policy and the time it is judged by. history: they are days of one history."""
    known: dict[int, tuple[clusters.RegimeInput, RiskPolicy]] = {}
    if history:
        rows = list(rows)
        known = history_of(rows, policy)
    for row in rows:
        regime, used = known.get(row.line) or (regime_of(row, policy, args.reband), policy)
        yield row, regime, used, moment(row, args.now)


def moment(row: CanaryRow, given: int | None = None) -> int:
    """Return the time a row is judged at: the one given, else the row's own, else this machine's clock."""
    return given if given is not None else row.now_ns if row.now_ns is not None else time.time_ns()


def _lines(path: Path | str) -> Iterator[CanaryRow | BadLine]:
    """Yield a file's lines; those whose account or positions cannot be judged as bad ones."""
    from operators.canary import facts_of

    for found in iter_rows(path):
        if isinstance(found, CanaryRow):
            try:
                facts_of(found.account, found.positions)
            except ValueError as error:
                yield BadLine(found.path, found.line, str(error))
                continue
        yield found


def _read(path: Path | str) -> tuple[list[CanaryRow], list[BadLine]]:
    """Return all lines of a file: those that can be judged, and the others."""
    rows: list[CanaryRow] = []
    bad: list[BadLine] = []
    for found in _lines(path):
        if isinstance(found, BadLine):
            bad.append(found)
        else:
            rows.append(found)
    return rows, bad


class _Rows:
    """The snapshots of a file, as they are read. Bad lines are said and counted; regime keys are passed over."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.bad: list[int] = []
        self.taken = self.keys = 0

    def __iter__(self) -> Iterator[CanaryRow]:
        for found in _lines(self.path):
            if isinstance(found, BadLine):
                self.bad.append(found.line)
                if len(self.bad) <= _MOST_NAMED:
                    _say(str(found))
            elif found.kind == "regime_key":
                self.keys += 1
            else:
                self.taken += 1
                yield found

    def only(self, line: int) -> Iterator[CanaryRow]:
        """Yield the snapshot of one line; bad lines are said only up to it."""
        for found in _lines(self.path):
            if found.line == line:
                if isinstance(found, BadLine):
                    self.bad.append(line)
                    _say(str(found))
                elif found.kind != "regime_key":
                    yield found
            if found.line >= line:
                return

    def names(self, line: int) -> bool:
        """Return whether a line was said to be bad."""
        return line in self.bad

    def end(self) -> int:
        """Say what was left out; return the exit code."""
        if self.bad:
            _say(f"{self.path}: {len(self.bad):,} lines left out, {self.taken:,} taken")
        elif not self.taken:
            _say(f"{self.path}: no snapshot in it" + (f", {self.keys:,} regime keys: see `hedgerow canary verify`" if self.keys else ""))
        return EXIT_OK if self.taken and not self.bad else EXIT_FAILED


def _one(path: str, wanted: Callable[[CanaryRow], bool], what: str) -> tuple[CanaryRow, list[CanaryRow]] | None:
    """Return the one snapshot that is wanted and all of the file, or None when there is none and it was said."""
    taken, left_out = _read(path)
    snapshots = [row for row in taken if row.kind != "regime_key"]
    rows = [row for row in snapshots if wanted(row)]
    if len(rows) == 1:
        return rows[0], snapshots
    bad = [problem for problem in left_out if what == f"line {problem.line}"]
    if bad:
        _say(str(bad[0]))
    elif rows:
        _say(f"{path}: {len(rows)} snapshots{' of ' + what if what else ''}: choose one with --row: {_list(row.line for row in rows)}")
    else:
        _say(f"{path}: no snapshot{' of ' + what if what else ''} in it")
    return None


def _list(lines: Iterable[int]) -> str:
    found = [str(line) for line in lines]
    return ", ".join(found[:_MOST_NAMED]) + (", ..." if len(found) > _MOST_NAMED else "")


# ---- evaluate ----------------------------------------------------------------------------------------------------------------------


def _title(row: CanaryRow, policy: str) -> str:
    return " · ".join(part for part in (f"line {row.line}", row.name, policy) if part)


def _evaluate(args: argparse.Namespace) -> int:
    from flows import canary_show as show

    policy = _policy(args)
    rows = _Rows(args.file)
    console = _console()
    entries = []
    found = False
    for row, regime, used, at in _days(rows if args.row is None or args.history else rows.only(args.row), policy, args, args.history):
        if args.row not in (None, row.line):
            continue
        found = True
        result = judged(row, used, at, regime)
        if args.json:
            print(result.model_dump_json(by_alias=True), flush=True)
        elif args.table:
            entries.append(show.Entry(_title(row, ""), "", result, at))
        else:
            console.print(show.card_of(show.Entry("", "", result, at), None, console.width, _title(row, result.policy)))
    if entries:
        console.print(show.accounts_table(entries, None, console.width, first="snapshot"))
    if args.row is None:
        return rows.end()
    if not found and not rows.names(args.row):
        _say(f"{args.file}: no snapshot of line {args.row} in it")
    return EXIT_OK if found else EXIT_FAILED


# ---- explain -----------------------------------------------------------------------------------------------------------------------


def _explain(args: argparse.Namespace) -> int:
    from flows.canary_explain import explain

    policy = _policy(args)
    if args.row is not None:
        found = _one(args.file, lambda row: row.line == args.row, f"line {args.row}")
    elif args.date is not None:
        found = _one(args.file, lambda row: row.date == args.date, args.date)
    else:
        found = _one(args.file, lambda _: True, "")
    if found is None:
        return EXIT_FAILED
    chosen, rows = found
    history = args.history or (chosen.kind == "panel" and args.now is None)
    days = _days(rows if history else [chosen], policy, args, history)
    row, regime, used, at = next(day for day in days if day[0] is chosen)
    shown = clusters.from_snapshot({}) if regime is None else regime  # of which nothing is known
    console = _console()
    head = [row.path, _title(row, f"{policy.profile} version {policy.version}")]
    if row.stress is not None:
        head.append(f"labelled {'stress' if row.stress else 'no stress'}" + (f", {row.category}" if row.category else ""))
    console.print(Text(" · ".join(head), style="bold"))
    if history:
        console.print(Text("judged as a day of this file's history, as backtest judges it", style="grey62"))
    console.print(Text(""))
    console.print(explain(judged(row, used, at, regime), clusters.market_of(shown, used, at), shown, used, at, console.width))
    return EXIT_OK


# ---- verify ------------------------------------------------------------------------------------------------------------------------

_EXPECTED: dict[str, Callable[[CanaryResult], Any]] = {
    "dir": lambda r: r.direction,
    "sev": lambda r: r.severity,
    "posture": lambda r: r.portfolio_posture,
    "stage": lambda r: r.lifecycle.stage,
    "mode": lambda r: r.planner_mode_hint,
    "ready": lambda r: r.planner_readiness,
    "conf": lambda r: r.confidence,
    "data": lambda r: r.data_confidence,
    "signal": lambda r: r.signal_confidence,
    "drivers": lambda r: r.primary_drivers,
    "red": lambda r: sorted(r.market.red_cluster_names),
    "yellow": lambda r: sorted(r.market.yellow_cluster_names),
    "unconf": lambda r: sorted(r.market.unconfirmed_red_cluster_names),
}
"""Short names of a sample's expected result, and what they are of ours. The last three are sets."""
_KEY_CHECKS = ("regime key, its text encoded anew", "regime key, recomputed from the snapshot", "regime key, of the stored composite")
_SAMPLE_CHECK = "result of a sample"


class Verdicts:
    """What verifying came to: counts by (file, check), and a line for each mismatch."""

    def __init__(self) -> None:
        self.counts: dict[tuple[str, str], list[int]] = {}
        self.mismatches: list[str] = []

    def note(self, row: CanaryRow, check: str, problems: Sequence[str]) -> None:
        """Note one check of one row; no problem: it matches."""
        count = self.counts.setdefault((row.path, check), [0, 0])
        count[0] += 1
        count[1] += not problems
        self.mismatches += [f"{row.path}: line {row.line}: {row.name}: {check}: {problem}" for problem in problems]

    def total(self, checks: Sequence[str]) -> tuple[int, int]:
        """Return (how many were checked, how many match) over these checks."""
        found = [count for (_, check), count in self.counts.items() if check in checks]
        return sum(n for n, _ in found), sum(good for _, good in found)


def verified(rows: Sequence[CanaryRow], policy: RiskPolicy) -> Verdicts:
    """Recompute the keys and results of rows. Keys do not depend on a policy's levels except through the counts of the composite (§5.2, §5.3)."""
    from operators.canonical import canonical_json, key_of, project_regime

    verdicts = Verdicts()
    snapshots = {(row.date, row.case): row for row in rows if row.kind == "snapshot" and row.regime is not None}
    for row in rows:
        if row.kind == "regime_key":
            told = row.canonical_json or ""
            try:
                again = json.loads(told)
            except ValueError as error:
                verdicts.note(row, _KEY_CHECKS[0], [f"canonical_json is not JSON: {error}"])
                continue
            verdicts.note(row, _KEY_CHECKS[0], _differs(told, canonical_json(again), row.expected_key or "", key_of(again)))
            found = snapshots.get((row.date, row.case))
            if found is not None:
                regime = clusters.from_snapshot(found.regime or {})
                projection = project_regime(regime, clusters.market_of(regime, policy, moment(found)))
                problems = _differs(told, canonical_json(projection), row.expected_key or "", key_of(projection))
                verdicts.note(row, _KEY_CHECKS[1], problems)
        elif row.stored_key is not None:
            projection = project_regime(clusters.from_snapshot(row.regime or {}))
            key = key_of(projection)
            verdicts.note(row, _KEY_CHECKS[2], [] if key == row.stored_key else [f"stored {row.stored_key}, ours {key}"])
        if row.kind == "sample":
            result = judged(row, policy, moment(row), regime_of(row, policy))
            verdicts.note(row, _SAMPLE_CHECK, _sample_problems(row, result))
    return verdicts


def _differs(told: str, ours: str, told_key: str, our_key: str) -> list[str]:
    if told == ours:
        return [] if told_key == our_key else [f"expected {told_key}, ours {our_key}"]
    at = next((n for n, (a, b) in enumerate(zip(told, ours, strict=False)) if a != b), min(len(told), len(ours)))
    near = slice(max(0, at - 30), at + 30)
    return [f"expected {told_key}, ours {our_key}: from character {at} on ...{ours[near]}... in place of ...{told[near]}..."]


def _sample_problems(row: CanaryRow, result: CanaryResult) -> list[str]:
    problems = []
    for name, told in row.expected.items():
        if name not in _EXPECTED:
            problems.append(f"{name}: no such part of a result")
            continue
        ours = _EXPECTED[name](result)
        wanted = sorted(told) if name in ("red", "yellow", "unconf") and isinstance(told, list) else told
        if ours != wanted:
            problems.append(f"{name}: expected {json.dumps(wanted)}, ours {json.dumps(ours)}")
    if row.signals or "sev" in row.expected:
        ours_signals = tuple((s.id, s.direction, s.severity) for s in result.signals)
        if row.signals != ours_signals:
            problems.append(f"signals: expected {json.dumps(row.signals)}, ours {json.dumps(ours_signals)}")
    return problems


def _verify(args: argparse.Namespace) -> int:
    rows: list[CanaryRow] = []
    bad = 0
    for path in dict.fromkeys(one for given in args.paths for one in files_of(given)):
        taken, left_out = _read(path)
        rows += taken
        bad += len(left_out)
        for problem in left_out[:_MOST_NAMED]:
            _say(str(problem))
    verdicts = verified(rows, _policies([], [DEFAULT])[0])
    table = Table("file", "what", "checked", "match", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in table.columns[2:]:
        column.justify = "right"
    for (path, check), (n, good) in verdicts.counts.items():
        table.add_row(Path(path).name, check, f"{n:,}", Text(f"{good:,}", style="green" if good == n else "bold red"))
    console = _console()
    if verdicts.counts:
        console.print(table)
    else:
        _say("no key and no sample in it")
    for line in verdicts.mismatches:
        print(line)
    keys, matched = verdicts.total(_KEY_CHECKS)
    samples, right = verdicts.total((_SAMPLE_CHECK,))
    good = bool(verdicts.counts) and not verdicts.mismatches and not bad
    told = {"keys": keys, "matched": matched, "samples": samples, "samples_matched": right, "left_out": bad, "pass": good}
    print(json.dumps(told))
    return EXIT_OK if good else EXIT_FAILED


# ---- backtest ----------------------------------------------------------------------------------------------------------------------

LEVELS = ("watch", "act", "urgent")


def _backtest(args: argparse.Namespace) -> int:
    from operators.backtest import Figures, Verdict, cases_of, figures_of, verdicts_of

    if args.plot is not None and importlib.util.find_spec("matplotlib") is None:
        raise SettingsError([_PLOTS_MISSING])
    policies = _policies(args.policy, args.profile)
    console = _console()
    code = EXIT_OK
    judged_days: dict[str, list[Verdict]] = {}
    for name in dict.fromkeys(args.files):
        rows, left_out = _labelled(name)
        if left_out or not rows:
            code = EXIT_FAILED
        if not rows:
            continue
        cases = cases_of(rows)
        verdicts: list[Verdict] = []
        for policy in policies:
            if console.is_terminal:
                print(f"{name}: {len(cases):,} days under {policy.profile} ...", end="\r", file=sys.stderr, flush=True)
            verdicts += verdicts_of(cases, policy)
        if console.is_terminal:
            print(end="\x1b[2K", file=sys.stderr, flush=True)
        judged_days[name] = verdicts
        figures: list[Figures] = figures_of(verdicts, by=dict.fromkeys(args.by))
        if args.json:
            for one in figures:
                print(json.dumps({"file": name, **_rounded(asdict(one))}, ensure_ascii=False))
        else:
            _show_figures(name, figures, console)
    if args.plot is not None and judged_days:
        plot(judged_days, args.plot)
        print(f"wrote {args.plot}", file=sys.stderr if args.json else sys.stdout)
    return code


def _labelled(name: str) -> tuple[list[CanaryRow], int]:
    """Return the rows of a file that can be tested, and how many lines were left out for a fault; says which, and what else was passed over."""
    taken, bad = _read(name)
    for problem in bad[:_MOST_NAMED]:
        _say(str(problem))
    rows = [row for row in taken if row.stress is not None and row.regime is not None and row.date is not None]
    if bad:
        _say(f"{name}: {len(bad):,} lines left out, {len(taken):,} taken")
    if len(rows) < len(taken):
        _say(
            f"{name}: {len(taken) - len(rows):,} lines without a date, a label (`stress`) or a regime are passed over, {len(rows):,} judged"
        )
    elif not rows:
        _say(f"{name}: no snapshot in it")
    return rows, len(bad)


def _rounded(figures: dict[str, Any]) -> dict[str, Any]:
    return {name: round(value, 6) if isinstance(value, float) else value for name, value in figures.items()}


def _show_figures(name: str, figures: Sequence[Any], console: Console) -> None:
    """Print a table of all days, and one for each part asked for."""
    whole = figures[0]
    table = Table(
        "profile", "level", "right", "precision", "recall", "false", "episodes", "early", "lead", box=box.SIMPLE_HEAD, pad_edge=False
    )
    table.title, table.title_justify, table.title_style = (
        Text(f"{Path(name).name}: {whole.days:,} days, {whole.stress_days:,} of stress in {whole.episodes:,} episodes"), "left", "bold",
    )  # fmt: skip
    everything = [one for one in figures if one.part == "all"]
    for level in LEVELS:
        table.add_section()
        for one in everything:
            if one.level == level:
                table.add_row(
                    one.profile.removeprefix("canary-"), level, f"{one.hits}/{one.alerts}", _share(one.precision), _share(one.recall),
                    _share(one.false_alarm_rate), f"{one.caught}/{one.episodes}", str(one.ahead), "–" if one.lead_sessions is None else f"{one.lead_sessions:g}",
                )  # fmt: skip
    _align(table, 2)
    console.print(table)
    console.print(
        Text(
            "right: alerts on stress days, of all alerts; false: of calm days; early: episodes told of before the day; lead: sessions, median",
            "grey62",
        )
    )
    fired = [level for level in LEVELS if level != "urgent" or any(one.alerts for one in everything if one.level == level)]
    for part in dict.fromkeys(one.part for one in figures if one.part != "all"):
        heads = [f"{level}\n{word}" for level in fired for word in ("caught", "false")]
        table = Table(part, "profile", *heads, box=box.SIMPLE_HEAD, pad_edge=False)
        found = {(one.name, one.profile, one.level): one for one in figures if one.part == part}
        for group in dict.fromkeys(one.name for one in figures if one.part == part):
            table.add_section()
            for n, profile in enumerate(dict.fromkeys(one.profile for one in everything)):
                cells = []
                for one in (found[group, profile, level] for level in fired):
                    calm = one.days - one.stress_days
                    cells += [
                        f"{one.hits}/{one.stress_days}" if one.stress_days else "–",
                        f"{one.alerts - one.hits}/{calm}" if calm else "–",
                    ]
                table.add_row((group or "–") if n == 0 else "", profile.removeprefix("canary-"), *cells)
        _align(table, 2)
        console.print(table)


def _align(table: Table, first: int) -> None:
    """Set a table's columns close together, and those of figures to the right, none of them cut."""
    table.padding = (0, 1, 0, 0)
    for column in table.columns[:first]:
        column.overflow = "fold"
    for column in table.columns[first:]:
        column.justify = "right"
        column.no_wrap = True


def _share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}%"


def plot(verdicts_by_file: dict[str, list[Any]], path: Path) -> None:
    """Draw, for each file, recall against false alarms and precision by level, and the days with an alert at act or above. Needs the extra `plots`."""
    import matplotlib

    from operators.backtest import figures_of

    matplotlib.use("Agg")
    from matplotlib import dates, pyplot

    marks = dict(zip(LEVELS, ("o", "s", "^"), strict=True))
    figure, axes = pyplot.subplots(
        len(verdicts_by_file), 3, figsize=(17, 4.8 * len(verdicts_by_file)), squeeze=False, width_ratios=(1, 1, 2), layout="constrained"
    )
    for (rates, right, days), (name, verdicts) in zip(axes, verdicts_by_file.items(), strict=True):
        figures = figures_of(verdicts)
        profiles = list(dict.fromkeys(one.profile for one in figures))
        for n, profile in enumerate(profiles):
            own = [one for one in figures if one.profile == profile]
            known = [
                (one.level, 100 * one.false_alarm_rate, 100 * one.recall)
                for one in own
                if one.recall is not None and one.false_alarm_rate is not None
            ]
            rates.plot([false for _, false, _ in known], [recall for _, _, recall in known], color=f"C{n}", linewidth=0.8)
            for level, false, recall in known:
                rates.scatter([false], [recall], color=f"C{n}", marker=marks[level], label=profile if level == "watch" else None)
            width = 0.8 / len(profiles)
            at = [x + (n - (len(profiles) - 1) / 2) * width for x in range(len(own))]
            bars = right.bar(at, [100 * (one.precision or 0.0) for one in own], width, color=f"C{n}", label=profile)
            right.bar_label(bars, [f"{one.hits}/{one.alerts}" for one in own], fontsize=7, rotation=90, padding=2)
            strips = {"right": ("tab:green", True, True), "false": ("tab:red", False, True), "missed": ("0.75", True, False)}
            mine = [v for v in verdicts if v.profile == profile and v.case.stress is not None]
            for lane, (word, (colour, stress, alert)) in enumerate(strips.items()):
                found = [date.fromisoformat(v.case.date) for v in mine if v.case.stress is stress and v.alerts("act") is alert]
                days.scatter(found, [n + 0.25 * (1 - lane)] * len(found), marker="|", s=60, color=colour, label=word if n == 0 else None)
        rates.set(
            xlabel="false alarms, % of calm days",
            ylabel="recall, % of stress days",
            title=f"{Path(name).name}: ○ watch □ act △ urgent",
            ylim=(-3, 103),
        )
        right.set(xticks=range(len(LEVELS)), xticklabels=LEVELS, ylabel="precision, %", ylim=(0, 118), title="alerts that were right")
        days.set(
            yticks=range(len(profiles)), yticklabels=profiles, ylim=(-0.6, len(profiles) - 0.1), title="days with an alert at act or above"
        )
        days.xaxis.set_major_formatter(dates.ConciseDateFormatter(days.xaxis.get_major_locator()))  # type: ignore[no-untyped-call]
        for axis in (rates, right, days):
            axis.grid(alpha=0.3)
            axis.legend(fontsize=7, ncols=3 if axis is days else 1, loc="upper right" if axis is not rates else "lower right")
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


# ---- watch -------------------------------------------------------------------------------------------------------------------------


def _watch(args: argparse.Namespace) -> int:
    try:
        return _watch_kafka(args) if args.file is None else _watch_file(args)
    except KeyboardInterrupt:  # the way to end it
        return EXIT_OK


def _watch_file(args: argparse.Namespace) -> int:
    from flows import canary_show as show
    from flows.canary_watch import screen

    wrong = [f"--{name}: only for alerts of Kafka, not with FILE" for name in ("account", "since") if getattr(args, name) is not None]
    if wrong:
        raise SettingsError(wrong)
    policy = _policy(args)
    console = _console()
    rows = _Rows(args.file)
    live = console.is_terminal and not args.once and not args.json
    pause = REPLAY_S if args.every is None else args.every

    days = (
        (row, show.Entry(_title(row, ""), "", judged(row, used, at, regime), at))
        for row, regime, used, at in _days(rows, policy, args, args.history)
    )
    if live:
        shown: Any = None
        try:
            with screen(console) as picture:
                for row, one in days:
                    shown = show.card_of(one, None, console.width, _title(row, policy.profile))
                    picture.update(shown, refresh=True)
                    time.sleep(pause)
        finally:  # what it last showed stays
            if shown is not None:
                console.print(shown)
        return rows.end()
    last = None
    for _, last in days:
        if args.json:
            print(last.result.model_dump_json(by_alias=True), flush=True)
        elif not args.once:
            print(show.line_of(last), flush=True)
    if args.once and last is not None and not args.json:
        console.print(show.card_of(last, None, console.width))
    return rows.end()


def _watch_kafka(args: argparse.Namespace) -> int:
    from flows import canary_show as show
    from flows.canary_watch import ALERTS, REGIMES, Watched, records, screen

    wrong = [f"{name}: only with FILE" for name, given in (
        ("--every", args.every is not None), ("--now", args.now is not None), ("--history", args.history), ("--reband", args.reband)) if given]  # fmt: skip
    if wrong:
        raise SettingsError(wrong)
    settings: Settings = args.settings
    policies = _policies(args.policy)  # an alert's profile need not be one of them
    since_s = args.since if args.since is not None else 2 * max(policy.policy.cadence.heartbeat_s for policy in policies)
    since = {REGIMES: None, ALERTS: time.time_ns() // 10**6 - since_s * 1000}
    watched = Watched(args.account, args.profile)
    stream = records(settings.bootstrap, settings.client_config(), since, not args.once, watched)
    console = _console()
    if args.json or (not args.once and not console.is_terminal):
        return _told_in_lines(stream, watched, args.json, show)
    if args.once:
        for record in stream:
            if record is not None:
                watched.take(record)
        console.print(watched.view(time.time_ns(), console.width))
        return EXIT_OK
    picture: Any = None
    try:
        with screen(console) as live:
            drawn = 0.0
            for record in stream:
                if record is not None:
                    watched.take(record)
                if time.monotonic() - drawn >= REFRESH_S or record is None:
                    drawn = time.monotonic()
                    picture = watched.view(time.time_ns(), console.width, console.height)
                    live.update(picture, refresh=True)
    finally:
        if picture is not None:
            console.print(picture)
    return EXIT_OK


def _told_in_lines(stream: Iterable[Any], watched: Any, as_json: bool, show: Any) -> int:
    """Print what is there, the newest of each account, then every alert as it comes."""
    caught_up = False
    for record in stream:
        alert = None if record is None else watched.take(record)
        if record is None and not caught_up:
            caught_up = True
            now = show.ordered(watched.entries.values())
        elif caught_up and alert is not None:
            now = [watched.entries[alert.account, alert.mode, alert.result.policy]]
        else:
            continue
        for entry in now:
            print(entry.alert.model_dump_json(by_alias=True) if as_json else show.line_of(entry), flush=True)
    if not watched.entries:
        _say(watched.nothing())
    return EXIT_OK
