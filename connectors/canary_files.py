"""Reads files of risk snapshots: JSON lines, plain or gzip, or standard input. Shape is checked here; what the figures mean is not decided here.

Four kinds of line are known, also mixed in one file. A line that is none of them, or whose shape is wrong, is named with its number and the reason;
every other line is delivered. Formats: docs/canary.md; shapes and units of account, positions and regime: canary §3. Account and positions may also
be as they are on their topics (decimal texts, `as_of_ns`).
"""

from __future__ import annotations

import json
import math
import re
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import IO, Any, Literal

from schemas.policy import ROWS

STDIN = "-"
Kind = Literal["snapshot", "sample", "panel", "regime_key"]

CALM_ACCOUNT: Mapping[str, Any] = {
    "base_currency": "USD", "net_liquidation": 100_000.0, "cushion": 0.60, "gross_position_value": 50_000.0, "daily_pnl": 0.0,
}  # fmt: skip
"""The account that market days without one are judged with: nothing of its own speaks for stress."""
CALM_POSITIONS: Mapping[str, Any] = {
    "stocks": [{"symbol": "SPY"}],
    "options": [],
    "portfolio": {
        "dollar_delta_base": 40_000.0, "greeks_coverage": 0, "greeks_total": 0,
        "exposure_base": [
            {"underlying": "SPY", "market_value_base": 30_000.0, "market_value_pct_nlv": 30.0, "dollar_delta_base": 30_000.0},
        ],
    },
}  # fmt: skip
"""Its positions."""
PANEL_WITHOUT = ("credit_spreads", "gamma_zero", "breadth")
"""Rows that are not read of a market day: gamma and breadth have no history there, and high-yield spreads are there on so few days that days with and
without them would not compare. The published figures leave them out too."""
CLOSE = "T21:00:00Z"
"""Time of day of a market day that gives none: no earlier than the New York close."""

_BANDS = ("green", "yellow", "red", "unranked", "")
_ACCOUNT_NUMBERS = (
    "net_liquidation", "cushion", "excess_liquidity", "available_funds", "maintenance_margin", "initial_margin", "look_ahead_excess_liquidity",
    "look_ahead_available_funds", "look_ahead_maint_margin", "look_ahead_init_margin", "gross_position_value", "daily_pnl",
)  # fmt: skip
_ROW_NUMBERS: Mapping[str, tuple[str, ...]] = {
    "vix_term_structure": ("vix", "vix3m", "ratio", "vix_change_pct"),
    "vol_of_vol": ("last", "change_20d_pct"),
    "hyg_spy_divergence": ("hyg_price", "hyg_50dma", "spy_price", "spy_52w_high", "spy_change_pct"),
    "credit_spreads": ("hy_oas", "ig_oas", "hy_oas_20d_change"),
    "funding_stress": ("cp_3m_rate", "tbill_3m_rate", "spread_bps"),
    "usd_jpy": ("last", "close_7d_ago", "weekly_change_pct"),
    "gamma_zero": (),
    "breadth": (),
}
_PANEL_NEEDS: Mapping[str, tuple[str, ...]] = {
    "vix_term_structure": ("ratio",),
    "vol_of_vol": ("last",),
    "hyg_spy_divergence": ("hyg_price", "hyg_50dma"),
    "funding_stress": ("spread_bps",),
    "usd_jpy": ("weekly_change_pct",),
}
"""Without one of these a row of a market day is unavailable."""
_TIME = re.compile(r"(\d{4}-\d{2}-\d{2})(?:[T ](\d{2}:\d{2}(?::\d{2})?)(?:\.(\d{1,9})\d*)?(Z|z|[+-]\d{2}:?\d{2})?)?")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_BLOCK = 1 << 16
_DECIMAL = re.compile(r"-?[0-9]{1,30}(\.[0-9]{1,30})?")
_KEY = re.compile(r"sha256:[0-9a-f]{64}")


class CanaryFileError(ValueError):
    """A file cannot be read at all; the message names it."""


@dataclass(frozen=True)
class BadLine:
    """A line that is left out. line: from 1."""

    path: str
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: line {self.line}: {self.reason}"


@dataclass(frozen=True)
class CanaryRow:
    """One line. account, positions, regime: in the shape of canary §3, None where the line has none.

    now_ns: the time it is judged at: the newest `as_of` in it, else its date's close, None when it has neither. label: what became of the
    market or the portfolio (`stress`, `scope`, `kind`, ...), never an input. group: the stretch of history it belongs to, as the file calls
    it. expected, signals: a sample's result. canonical_json, expected_key: a regime key's.
    """

    kind: Kind
    path: str
    line: int
    date: str | None
    case: str
    group: str
    now_ns: int | None
    account: Mapping[str, Any] | None = None
    positions: Mapping[str, Any] | None = None
    regime: Mapping[str, Any] | None = None
    label: Mapping[str, Any] = field(default_factory=dict)
    expected: Mapping[str, Any] = field(default_factory=dict)
    signals: tuple[tuple[str, str, str], ...] = ()
    canonical_json: str | None = None
    expected_key: str | None = None

    @property
    def stress(self) -> bool | None:
        """Return the label, None without one."""
        found = self.label.get("stress")
        return found if isinstance(found, bool) else None

    @property
    def scope(self) -> str:
        """Return what the label is about: `market`, or `portfolio`."""
        return str(self.label.get("scope") or "market")

    @property
    def category(self) -> str:
        """Return the kind of day the label says it was, '' without one."""
        return str(self.label.get("kind") or "")

    @property
    def stored_key(self) -> str | None:
        """Return the fingerprint key that came with the regime."""
        fingerprint = (self.regime or {}).get("fingerprint")
        key = fingerprint.get("key") if isinstance(fingerprint, Mapping) else None
        return key if isinstance(key, str) else None

    @property
    def name(self) -> str:
        """Return what a person calls it."""
        return " ".join(part for part in (self.date, self.case if self.date is None else self.case.replace(self.date, "").strip()) if part)


@dataclass(frozen=True)
class CanaryFile:
    """A file read whole: its rows in order, the lines that were left out, and how many lines it has (empty ones not counted)."""

    path: str
    rows: tuple[CanaryRow, ...]
    bad: tuple[BadLine, ...]
    lines: int


def read_file(path: Path | str, stdin: IO[bytes] | None = None) -> CanaryFile:
    """Read a file whole; `-` is standard input. Raises CanaryFileError when it cannot be read at all."""
    rows: list[CanaryRow] = []
    bad: list[BadLine] = []
    for found in iter_rows(path, stdin):
        if isinstance(found, BadLine):
            bad.append(found)
        else:
            rows.append(found)
    return CanaryFile(str(path), tuple(rows), tuple(bad), len(rows) + len({problem.line for problem in bad}))


def files_of(path: Path | str) -> list[Path | str]:
    """Return the files a path means: itself, or of a folder those that end in .jsonl or .jsonl.gz, by name.

    Raises CanaryFileError for a folder without one.
    """
    place = Path(path)
    if str(path) == STDIN or not place.is_dir():
        return [path]
    found: list[Path | str] = [one for one in sorted(place.iterdir()) if one.is_file() and one.name.endswith((".jsonl", ".jsonl.gz"))]
    if not found:
        raise CanaryFileError(f"{place}: no file in it ends in .jsonl or .jsonl.gz")
    return found


def iter_rows(path: Path | str, stdin: IO[bytes] | None = None) -> Iterator[CanaryRow | BadLine]:
    """Yield a file's lines as they are read: rows, and lines that are left out.

    A file that is one JSON document over several lines is taken as one line, an array as a line for each of its items, numbered on from where it begins.
    Raises CanaryFileError when the file cannot be opened.
    """
    name = str(path)
    lines = _lines(name, stdin)
    for item in lines:
        if isinstance(item, BadLine):
            yield item
            continue
        number, line = item
        text = line.strip()
        if not text:
            continue
        try:
            parsed = _json(text)
        except _ShapeError as error:
            yield from _not_a_line(name, number, line, str(error), lines)
            return
        yield from _items(name, number, parsed)
        break
    for item in lines:
        if isinstance(item, BadLine):
            yield item
        elif item[1].strip():
            yield _row_of(name, *item)


def _not_a_line(
    name: str, first: int, line: bytes, reason: str, lines: Iterable[tuple[int, bytes] | BadLine]
) -> Iterator[CanaryRow | BadLine]:
    """Yield what a file holds whose first line is no JSON: one document over several lines, or lines of which the first is wrong."""
    rest = list(lines)
    texts = [line, *(item[1] for item in rest if not isinstance(item, BadLine))]
    if line.lstrip()[:1] in (b"{", b"["):
        try:
            whole = _json(b"".join(texts).strip())
        except _ShapeError:
            pass
        else:
            yield from _items(name, first, whole)
            yield from (item for item in rest if isinstance(item, BadLine))
            return
    yield BadLine(name, first, reason)
    for item in rest:
        if isinstance(item, BadLine):
            yield item
        elif item[1].strip():
            yield _row_of(name, *item)


def _items(name: str, number: int, parsed: Any) -> Iterator[CanaryRow | BadLine]:
    if isinstance(parsed, list):
        for n, item in enumerate(parsed):
            yield _checked(name, number + n, item)
    else:
        yield _checked(name, number, parsed)


def _row_of(name: str, number: int, line: bytes) -> CanaryRow | BadLine:
    try:
        return _checked(name, number, _json(line.strip()))
    except _ShapeError as error:
        return BadLine(name, number, str(error))


# ---- bytes into lines --------------------------------------------------------------------------------------------------------------


def _lines(name: str, stdin: IO[bytes] | None) -> Iterator[tuple[int, bytes] | BadLine]:
    """Yield (number, line with its end); a BadLine where compressed data is damaged, after every whole line before it."""
    try:
        source: IO[bytes] = (stdin or sys.stdin.buffer) if name == STDIN else Path(name).open("rb")  # noqa: SIM115 - closed below
    except OSError as error:
        raise CanaryFileError(f"{name}: {error.strerror}") from error
    number = 0
    rest = b""
    try:
        for block in _blocks(source):
            if isinstance(block, str):
                yield BadLine(name, number + 1, block)
                return
            parts = (rest + block).split(b"\n")
            rest = parts.pop()
            for part in parts:
                number += 1
                yield number, (part if number > 1 else part.removeprefix(b"\xef\xbb\xbf")) + b"\n"
        if rest:
            yield number + 1, rest if number else rest.removeprefix(b"\xef\xbb\xbf")
    except OSError as error:
        raise CanaryFileError(f"{name}: {error.strerror or error}") from error
    finally:
        if name != STDIN:
            source.close()


def _blocks(source: IO[bytes]) -> Iterator[bytes | str]:
    """Yield a stream's bytes, decompressed if they are gzip; a text in their place where they are damaged."""
    read: Callable[[int], bytes] = getattr(source, "read1", source.read)  # what is there now: a pipe's line is judged when it comes
    block = read(_BLOCK)
    if block[:1] == b"\x1f":
        while len(block) < 2 and (more := read(_BLOCK)):
            block += more
    if block[:2] != b"\x1f\x8b":
        while block:
            yield block
            block = read(_BLOCK)
        return
    member = zlib.decompressobj(31)
    while block:
        try:
            yield member.decompress(block)
        except zlib.error as error:
            yield f"damaged gzip: {error}; nothing after it can be read"
            return
        if member.eof and (block := member.unused_data):
            if not block.strip(b"\0"):  # padding
                block = b""
                continue
            member = zlib.decompressobj(31)
            continue
        block = read(_BLOCK)
        if block and member.eof:
            member = zlib.decompressobj(31)
    if not member.eof:
        yield "damaged gzip: it ends too early; nothing after it can be read"


# ---- JSON --------------------------------------------------------------------------------------------------------------------------


class _ShapeError(ValueError):
    pass


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise _ShapeError(f"key {next(name for name in names if names.count(name) > 1)!r} is given twice")
    return found


def _constant(text: str) -> Any:
    raise _ShapeError(f"not JSON: {text} is no number")


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _ShapeError(f"number {text} is too large")
    return value


def _json(text: bytes) -> Any:
    try:
        return json.loads(text.decode(), object_pairs_hook=_pairs, parse_constant=_constant, parse_float=_number)
    except UnicodeDecodeError as error:
        raise _ShapeError(f"not UTF-8 at byte {error.start}") from error
    except json.JSONDecodeError as error:
        raise _ShapeError(f"not JSON: {error.msg} at column {error.colno}") from error
    except RecursionError as error:
        raise _ShapeError("not JSON that can be read: nested too deep") from error
    except _ShapeError:
        raise
    except ValueError as error:  # a whole number of thousands of digits
        raise _ShapeError(f"not JSON that can be read: {error}") from error


# ---- shape -------------------------------------------------------------------------------------------------------------------------


def time_ns(value: Any) -> int | None:
    """Return a time of a file as nanoseconds since the epoch: an ISO 8601 text (without a zone: UTC), a date, or {label, time, date}; None for
    none. Raises ValueError for what is no time."""
    if isinstance(value, Mapping):
        return time_ns(value.get("time") or value.get("date"))
    if value is None or value == "":
        return None
    found = _TIME.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None:
        raise ValueError(f"not a time: {_shown(value)}")
    day, clock, fraction, zone = found.groups()
    try:
        at = datetime.fromisoformat(f"{day}T{clock or '00:00'}{'+00:00' if zone in (None, 'Z', 'z') else zone}")
    except ValueError as error:
        raise ValueError(f"not a time: {_shown(value)}") from error
    return (at - _EPOCH) // timedelta(microseconds=1) * 1000 + int((fraction or "").ljust(9, "0"))


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return repr(text if len(text) <= 40 else text[:39] + "…") if isinstance(value, str) else text[:40]


def _is_number(value: Any) -> bool:
    return isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**300)


class _Check:
    """Walks one object; the first wrong place ends it."""

    def fail(self, where: str, need: str, value: Any) -> None:
        raise _ShapeError(f"{where}: must be {need}, not {_shown(value)}")

    def object(self, value: Any, where: str) -> Mapping[str, Any] | None:
        if value is not None and not isinstance(value, dict):
            self.fail(where, "an object or null", value)
        return value  # type: ignore[no-any-return]

    def objects(self, value: Any, where: str) -> list[Mapping[str, Any]]:
        if value is not None and (not isinstance(value, list) or not all(isinstance(item, dict) for item in value)):
            self.fail(where, "a list of objects or null", value)
        return value or []

    def numbers(self, value: Mapping[str, Any], names: Iterable[str], where: str) -> None:
        for name in names:
            if value.get(name) is not None and not _is_number(value[name]):
                self.fail(f"{where}.{name}", "a number or null", value[name])

    def money(self, value: Mapping[str, Any], names: Iterable[str], where: str) -> None:
        for name in names:
            found = value.get(name)
            if found is not None and not _is_number(found) and not (isinstance(found, str) and _DECIMAL.fullmatch(found)):
                self.fail(f"{where}.{name}", "a number, a decimal text or null", found)

    def counts(self, value: Mapping[str, Any], names: Iterable[str], where: str) -> None:
        for name in names:
            found = value.get(name)
            if found is not None and (not isinstance(found, int) or isinstance(found, bool) or not 0 <= found < 2**31):
                self.fail(f"{where}.{name}", "a whole number from 0 or null", found)

    def texts(self, value: Mapping[str, Any], names: Iterable[str], where: str) -> None:
        for name in names:
            if value.get(name) is not None and not isinstance(value[name], str):
                self.fail(f"{where}.{name}", "a text or null", value[name])

    def text_lists(self, value: Mapping[str, Any], names: Iterable[str], where: str) -> None:
        for name in names:
            found = value.get(name)
            if found is not None and (not isinstance(found, list) or not all(isinstance(item, str) for item in found)):
                self.fail(f"{where}.{name}", "a list of texts or null", found)

    def flags(self, value: Mapping[str, Any], names: Iterable[str], where: str) -> None:
        for name in names:
            if value.get(name) is not None and not isinstance(value[name], bool):
                self.fail(f"{where}.{name}", "true, false or null", value[name])

    def time(self, value: Mapping[str, Any], where: str, known: bool = False) -> int | None:
        """known: an `as_of` that is there must say a time."""
        ns = value.get("as_of_ns")
        if ns is not None:
            if not isinstance(ns, int) or isinstance(ns, bool) or not 0 <= ns < 2**63:
                self.fail(f"{where}.as_of_ns", "nanoseconds since 1970 or null", ns)
            return int(ns)
        try:
            found = time_ns(value.get("as_of"))
        except ValueError as error:
            raise _ShapeError(f"{where}.as_of: {error}") from error
        if known and found is None and value.get("as_of") is not None:
            raise _ShapeError(f"{where}.as_of: not a time: {_shown(value['as_of'])}")
        return found


_CHECK = _Check()


def _mode(snapshot: Mapping[str, Any], where: str) -> None:
    if snapshot.get("mode") not in (None, "live", "paper"):
        _CHECK.fail(f"{where}.mode", "live, paper or null", snapshot["mode"])


def _account(value: Any) -> tuple[Mapping[str, Any] | None, int | None]:
    account = _CHECK.object(value, "account")
    if account is None:
        return None, None
    _CHECK.money(account, _ACCOUNT_NUMBERS, "account")
    _mode(account, "account")
    _CHECK.texts(account, ("account_id", "account_type", "base_currency"), "account")
    return account, _CHECK.time(account, "account", known=True)


def _positions(value: Any) -> tuple[Mapping[str, Any] | None, int | None]:
    positions = _CHECK.object(value, "positions")
    if positions is None:
        return None, None
    _mode(positions, "positions")
    for name in ("stocks", "options"):
        for n, held in enumerate(_CHECK.objects(positions.get(name), f"positions.{name}")):
            _CHECK.texts(held, ("symbol", "underlying"), f"positions.{name}[{n}]")
    portfolio = _CHECK.object(positions.get("portfolio"), "positions.portfolio")
    if portfolio is not None:
        where = "positions.portfolio"
        _CHECK.money(portfolio, ("dollar_delta_base", "gamma"), where)
        _CHECK.counts(portfolio, ("greeks_coverage", "greeks_total"), where)
        for n, exposure in enumerate(_CHECK.objects(portfolio.get("exposure_base"), f"{where}.exposure_base")):
            place = f"{where}.exposure_base[{n}]"
            if not isinstance(exposure.get("underlying"), str) or not exposure["underlying"].strip():
                _CHECK.fail(f"{place}.underlying", "a name", exposure.get("underlying"))
            _CHECK.money(exposure, ("market_value_base", "market_value_pct_nlv", "dollar_delta_base", "daily_pnl_base"), place)
    return positions, _CHECK.time(positions, "positions", known=True)


def _regime_row(name: str, value: Any, where: str) -> Mapping[str, Any] | None:
    row = _CHECK.object(value, where)
    if row is None:
        return None
    if row.get("band") is not None and row["band"] not in _BANDS:
        _CHECK.fail(f"{where}.band", "green, yellow, red, unranked or null", row["band"])
    _CHECK.texts(row, ("status", "freshness_class", "eligibility"), where)
    _CHECK.text_lists(row, ("fields_missing",), where)
    _CHECK.numbers(row, ("depth", *_ROW_NUMBERS[name]), where)
    _CHECK.counts(row, ("sessions",), where)
    _CHECK.flags(row, ("band_held",), where)
    _CHECK.time(row, where)
    envelope = _CHECK.object(row.get("envelope"), f"{where}.envelope")
    if envelope is not None:
        _CHECK.texts(envelope, ("status", "state", "horizon_agreement"), f"{where}.envelope")
        _CHECK.numbers(envelope, ("pct_above_50dma",), f"{where}.envelope")
        _gamma(_CHECK.object(envelope.get("result"), f"{where}.envelope.result"), f"{where}.envelope.result")
    return row


def _gamma(result: Mapping[str, Any] | None, where: str) -> None:
    if result is None:
        return
    for part in ("quality", "summary"):
        found = _CHECK.object(result.get(part), f"{where}.{part}")
        if found is not None:
            _CHECK.texts(found, ("rankability", "zero_gamma_status", "regime", "confidence"), f"{where}.{part}")
    _CHECK.texts(result, ("regime_agreement",), where)
    legs = _CHECK.object(result.get("per_index"), f"{where}.per_index") or {}
    for place, leg in ((where, result), *((f"{where}.per_index.{name}", _CHECK.object(one, name)) for name, one in legs.items())):
        if leg is not None:
            _CHECK.numbers(leg, ("gap_pct", "gamma_total_abs"), place)
            if not isinstance(leg.get("gamma_sign"), str | None) and not _is_number(leg["gamma_sign"]):
                _CHECK.fail(f"{place}.gamma_sign", "a number, a word or null", leg["gamma_sign"])


def _regime(value: Any) -> tuple[Mapping[str, Any] | None, int | None]:
    regime = _CHECK.object(value, "regime")
    if regime is None:
        return None, None
    for name in ROWS:
        _regime_row(name, regime.get(name), f"regime.{name}")
    composite = _CHECK.object(regime.get("composite"), "regime.composite")
    if composite is not None:
        _CHECK.texts(composite, ("verdict",), "regime.composite")
        _CHECK.counts(composite, [name for name in composite if name.endswith("_count")], "regime.composite")
    lifecycle = _CHECK.object(regime.get("lifecycle"), "regime.lifecycle")
    if lifecycle is not None:
        _CHECK.texts(lifecycle, ("stage", "severity", "readiness", "timing", "confidence"), "regime.lifecycle")
        for n, item in enumerate(_CHECK.objects(lifecycle.get("evidence"), "regime.lifecycle.evidence")):
            _CHECK.texts(item, ("source", "signal", "bucket", "timing", "severity"), f"regime.lifecycle.evidence[{n}]")
            _CHECK.flags(item, ("confirmed",), f"regime.lifecycle.evidence[{n}]")
        _CHECK.text_lists(lifecycle, ("confirmed_by", "unconfirmed", "suppressed", "rejected_by"), "regime.lifecycle")
    for name, texts, lists in (
        ("source_health", ("source", "status", "confidence", "fingerprint_stability"), ()),
        ("warning_details", ("code", "scope", "severity", "message", "impact", "action"), ()),
        ("data_quality", ("surface", "status"), ("stale_clusters", "partial_clusters", "degraded_clusters")),
    ):
        for n, item in enumerate(_CHECK.objects(regime.get(name), f"regime.{name}")):
            _CHECK.texts(item, texts, f"regime.{name}[{n}]")
            _CHECK.text_lists(item, lists, f"regime.{name}[{n}]")
    for name in ("fingerprint", "summary"):
        part = _CHECK.object(regime.get(name), f"regime.{name}")
        if part is not None:
            _CHECK.texts(part, ("version", "key", "confidence"), f"regime.{name}")
    _CHECK.texts(regime, ("session_date",), "regime")
    _CHECK.flags(regime, ("closed",), "regime")
    return regime, _CHECK.time(regime, "regime")


def _checked(name: str, number: int, value: Any) -> CanaryRow | BadLine:
    """Return one parsed line as a row, or what is wrong with it."""
    try:
        return _row(name, number, value)
    except _ShapeError as error:
        return BadLine(name, number, str(error))


def _row(name: str, number: int, value: Any) -> CanaryRow:
    if not isinstance(value, dict):
        raise _ShapeError(f"must be an object, not {_shown(value)}")
    day = value.get("date")
    if day is not None:
        try:
            date.fromisoformat(day)
        except (TypeError, ValueError):
            _CHECK.fail("date", "a date, YYYY-MM-DD", day)
    _CHECK.texts(value, ("case", "market_cluster"), "line")
    case, group = value.get("case") or "", value.get("market_cluster") or ""
    if "canonical_json" in value or "expected_key" in value:
        if not isinstance(value.get("canonical_json"), str):
            _CHECK.fail("canonical_json", "a text", value.get("canonical_json"))
        key = value.get("expected_key")
        if not isinstance(key, str) or not _KEY.fullmatch(key):
            _CHECK.fail("expected_key", "sha256: and 64 hexadecimal digits", key)
        return CanaryRow(
            "regime_key",
            name,
            number,
            day,
            case,
            group,
            _at(day),
            canonical_json=value["canonical_json"],
            expected_key=value["expected_key"],
        )
    kind: Kind = "snapshot"
    given: Mapping[str, Any] = value
    if "input" in value:
        kind = "sample"
        if not isinstance(value["input"], dict):
            _CHECK.fail("input", "an object", value["input"])
        given = value["input"]
    elif not {"account", "positions", "regime"} & value.keys():
        if not set(ROWS) & value.keys():
            raise _ShapeError("neither a snapshot (account, positions, regime), a sample (input), a regime key nor a market day")
        if day is None:
            raise _ShapeError("date: a market day needs one")
        kind = "panel"
        given = {
            "account": {**CALM_ACCOUNT, "as_of": day + CLOSE},
            "positions": {**CALM_POSITIONS, "as_of": day + CLOSE},
            "regime": _panel_regime(value, day),
        }
    account, account_ns = _account(given.get("account"))
    positions, positions_ns = _positions(given.get("positions"))
    regime, regime_ns = _regime(given.get("regime"))
    label = _CHECK.object(value.get("target", value.get("label")), "target" if "target" in value else "label") or {}
    _CHECK.flags(label, ("stress",), "target" if "target" in value else "label")
    _CHECK.texts(label, ("scope", "kind"), "target" if "target" in value else "label")
    times = [at for at in (account_ns, positions_ns, regime_ns) if at is not None]
    return CanaryRow(
        kind, name, number, day, case, group, max(times) if times else _at(day), account, positions, regime, label,
        _CHECK.object(value.get("expected"), "expected") or {}, _signals(value.get("signals")),
    )  # fmt: skip


def _at(day: str | None) -> int | None:
    return None if day is None else time_ns(day + CLOSE)


def _signals(value: Any) -> tuple[tuple[str, str, str], ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not all(
        isinstance(item, list) and len(item) == 3 and all(isinstance(part, str) for part in item) for item in value
    ):
        _CHECK.fail("signals", "a list of [id, direction, severity] or null", value)
    return tuple((item[0], item[1], item[2]) for item in value)


def _panel_regime(value: Mapping[str, Any], day: str) -> Mapping[str, Any]:
    """Return a market day's raw values as a regime snapshot without bands: they are for operators.clusters to give.

    A row without its values is unavailable: a null is "not available that day", never a zero.
    """
    regime: dict[str, Any] = {"as_of": day + CLOSE, "session_date": day}
    for name in ROWS:
        given = _CHECK.object(value.get(name), name) or {}
        _CHECK.numbers(given, _ROW_NUMBERS[name], name)
        if name in PANEL_WITHOUT:
            given = {"status": "unavailable"}
        row = {key: item for key, item in given.items() if key not in ("source", "band")}
        missing = [needed for needed in _PANEL_NEEDS.get(name, ()) if given.get(needed) is None]
        if missing:
            row["status"] = given.get("status") or "unavailable"
            row["fields_missing"] = missing
        else:
            row["status"] = given.get("status") or "ok"
        regime[name] = row
    return regime
