"""The canary: does someone have to look now, and why? A pure function of account, positions, regime, policy and time (canary §1).

`evaluate` answers for one account in the shape of files; `evaluate_rows`, `keys` and `render` for any number of them: one kernel pass, keys from a memory,
and a full result only where an alert goes out. Same input, same bytes out. It never plans, sizes or trades. Rules: docs/canary.md.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from decimal import Decimal
from functools import lru_cache
from sys import byteorder
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from operators.canary_kernel import M_EXPOSURE, VERDICT, Scene, judge_rows, max_age_s, verdicts
from operators.canary_render import market_block, outline, policy_key, render
from operators.canonical import (
    ACCOUNT_VERSION,
    BUCKETS,
    MARKET_COUNTS,
    MARKET_LISTS,
    POSITIONS_VERSION,
    REGIME_VERSION,
    canonical_json,
    clean,
    key_of,
    project_account,
    project_canary,
    project_positions,
    text_of,
)  # fmt: skip
from operators.clusters import RegimeInput, from_snapshot, moment_ns
from schemas.canary import CanaryResult
from schemas.policy import PROFILES, RiskPolicy
from state.accounts import F_ACCOUNT, F_ACCOUNT_TIME, F_PORTFOLIO, F_POSITIONS, F_POSITIONS_TIME, FACTS

__all__ = ["KeyMemo", "Scene", "evaluate", "evaluate_rows", "facts_of", "keys", "max_age_s", "render", "verdicts"]

_ROW = np.dtype(FACTS)
_MODES = ("live", "paper")


# --- many accounts --------------------------------------------------------------------------------------------------------------


def evaluate_rows(rows: NDArray[Any], which: NDArray[np.int64], scene: Scene, out: NDArray[Any]) -> None:
    """Evaluate the accounts `rows[which]` in one kernel pass. rows `(n,)` structured, with the fields FACTS; which `(k,)` row numbers; out `(k,)` of
    VERDICT (`verdicts(k)`), filled in."""
    judge_rows(rows, which, scene.limits, scene.view, scene.market_signals, out)


def _offset(dtype: np.dtype[Any], field: str) -> int:
    """Return where in a record a field begins, in bytes."""
    fields = dtype.fields
    assert fields is not None
    return int(fields[field][1])


_CODES = _offset(VERDICT, "missing")
_BUCKETS = _offset(VERDICT, BUCKETS[0][0]) - _CODES
_POSITIONS = _offset(VERDICT, "has_positions") - _CODES
_END = VERDICT.itemsize - _CODES
_MISSING = VERDICT["missing"].itemsize
"""Where in the codes of a verdict (its last fields) the buckets begin, those of the positions, and where they end."""


class _Layout(NamedTuple):
    """Where texts are in a part: the codes of a verdict, then the bytes of its facts from the first text to the last, whatever lies between."""

    begin: int
    end: int
    exposure: int
    delta: int
    unmeasured: int
    currency: int


@lru_cache
def _layout(dtype: np.dtype[Any]) -> _Layout:
    begin = _offset(dtype, "largest_exposure_len")
    places = (
        _END + _offset(dtype, name) - begin for name in ("largest_exposure_name", "largest_delta_name", "unmeasured_len", "currency_len")
    )
    return _Layout(begin, _offset(dtype, "type") + dtype["type"].itemsize, *places)


_MARKS = re.compile(r"(\\u000[1-4])")
_EXPOSURE_MARK, _DELTA_MARK, _ACCOUNT_MARK, _POSITIONS_MARK = (f"\\u000{digit}" for digit in "1234")
"""Places in a text, as JSON writes the control characters 1 to 4, that no name or scope has (where one does, the text is not used)."""


class _Known(NamedTuple):
    """What is known under one market: digests by codes and names, texts by codes."""

    digests: dict[bytes, bytes]
    texts: dict[bytes, list[str] | None]


class KeyMemo:
    """Keys already made, by what they depend on: evaluations with equal codes and names hash once. One for each lane.

    Under each market (what the dashboard adds to a projection) digests by codes and names, and canonical JSON by codes with places for the
    names and the keys of the sources; besides, keys of accounts and of positions. What is full is emptied: nothing but time depends on it.
    """

    MARKETS = 2 * len(PROFILES)
    ENTRIES = 1 << 16

    def __init__(self) -> None:
        self._markets: dict[str, _Known] = {}
        self._sources: dict[bytes, str] = {}
        self.made = 0
        self.described = 0

    def _under(self, scene: Scene) -> _Known:
        token = market_token(scene)
        found = self._markets.pop(token, None) or _Known({}, {})
        while len(self._markets) >= self.MARKETS:
            del self._markets[next(iter(self._markets))]
        self._markets[token] = found  # the newest is last
        return found

    def digests(self, out: NDArray[Any], rows: NDArray[Any], scene: Scene) -> NDArray[np.uint8]:
        """Return the digests `keys` returns."""
        known = self._under(scene)
        layout = _layout(rows.dtype)
        codes = out.view(np.uint8).reshape(len(out), VERDICT.itemsize)[:, _CODES:]
        names = rows.view(np.uint8).reshape(len(rows), rows.dtype.itemsize)[out["row"], layout.begin : layout.end]
        width = _END + layout.end - layout.begin
        data = np.concatenate((codes, names), axis=1).tobytes()
        get, found = known.digests.get, []
        for i in range(len(out)):
            part = data[i * width : (i + 1) * width]
            digest = get(part)
            if digest is None:
                if len(known.digests) >= self.ENTRIES:
                    known.digests.clear()
                digest = known.digests[part] = self._digest(part, layout, rows, out, i, scene, known)
            found.append(digest)
        return (
            np.frombuffer(b"".join(found), np.uint8).reshape(len(out), -1)
            if found
            else np.zeros((0, hashlib.sha256().digest_size), np.uint8)
        )

    def _source(self, token: bytes, make: Any, rows: NDArray[Any], out: NDArray[Any], i: int) -> str:
        key = self._sources.get(token)
        if key is None:
            if len(self._sources) >= self.ENTRIES:
                self._sources.clear()
            key = self._sources[token] = key_of(make(rows[out["row"][i]], out[i]))
        return key

    def _digest(self, part: bytes, at: _Layout, rows: NDArray[Any], out: NDArray[Any], i: int, scene: Scene, known: _Known) -> bytes:
        """Return the digest of evaluation i."""
        self.made += 1
        account = self._source(b"a" + part[_BUCKETS:_POSITIONS] + part[at.currency :], project_account, rows, out, i)
        positions = self._source(b"p" + part[_POSITIONS : at.unmeasured], project_positions, rows, out, i)
        codes = part[:_BUCKETS]
        if int.from_bytes(part[:_MISSING], byteorder) & M_EXPOSURE:
            codes += part[at.unmeasured : at.currency]
        if codes not in known.texts:
            if len(known.texts) >= self.ENTRIES:
                known.texts.clear()
            known.texts[codes] = _pieces(rows[out["row"][i]], out[i], scene)
            self.described += 1
        pieces = known.texts[codes]
        if pieces is None:
            text = canonical_json(project_canary(outline(rows[out["row"][i]], out[i], scene, _keys(account, positions, scene))))
        else:
            filled = {_ACCOUNT_MARK: account, _POSITIONS_MARK: positions}
            if _EXPOSURE_MARK in pieces:
                filled[_EXPOSURE_MARK] = _quoted(part[at.exposure : at.exposure + part[at.exposure - 1]])
            if _DELTA_MARK in pieces:
                filled[_DELTA_MARK] = _quoted(part[at.delta : at.delta + part[at.delta - 1]])
            text = "".join([filled.get(piece, piece) for piece in pieces])
        return hashlib.sha256(text.encode("utf-8", "replace")).digest()


@lru_cache(maxsize=KeyMemo.ENTRIES)
def _quoted(name: bytes) -> str:
    return canonical_json(clean(name.decode("utf-8", "replace")))[1:-1]


def _keys(account: str, positions: str, scene: Scene) -> dict[str, dict[str, str]]:
    return {
        "account": {"version": ACCOUNT_VERSION, "key": account},
        "positions": {"version": POSITIONS_VERSION, "key": positions},
        "regime": {"version": REGIME_VERSION, "key": scene.regime_key},
    }


def _pieces(row: Any, verdict: Any, scene: Scene) -> list[str] | None:
    """Return the canonical JSON of an evaluation cut at the places of its names and its account's and positions' keys; None if a place is not clear."""
    marked = np.array([row], dtype=row.dtype)
    expected = 2
    for field, mark, named in (("largest_exposure", _EXPOSURE_MARK, "exposure_named"), ("largest_delta", _DELTA_MARK, "delta_named")):
        if verdict[named]:
            if not clean(text_of(row, field)):
                return None
            expected += 1
            marked[f"{field}_len"] = 1
            marked[f"{field}_name"][0, 0] = int(mark[-1])
    account, positions = (chr(int(mark[-1])) for mark in (_ACCOUNT_MARK, _POSITIONS_MARK))
    text = canonical_json(project_canary(outline(marked[0], verdict, scene, _keys(account, positions, scene))))
    pieces = _MARKS.split(text)
    marks = pieces[1::2]
    return pieces if len(marks) == expected == len(set(marks)) else None


def market_token(scene: Scene) -> str:
    """Return all that a key depends on besides the account's codes and texts: the policy, what the market adds to signals, rows and lifecycle, and the
    dashboard's key. Day changes are in it only as the levels they reach."""
    p, m = scene.policy.policy, scene.market
    block = market_block(scene)
    falls = (p.spy_drop_pct, p.spy_hard_drop_pct, p.spy_crash_pct)
    rises = (p.vix_spike_pct, p.vix_hard_spike_pct)
    return canonical_json([
        policy_key(scene.policy), scene.policy.profile, scene.regime_key, block["regime_verdict"], *(block[name] for name in (*MARKET_COUNTS, *MARKET_LISTS)),
        [m.spy is not None and m.spy <= level for level in falls], [m.vix is not None and m.vix >= level for level in rises],
        scene.spike_blocked, m.stressed, m.confirming, m.unconfirmed, m.not_current, m.stress_threshold, m.early_threshold, scene.market_row, scene.gate_row,
        [warning["scope"] for warning in scene.data_warnings], scene.degraded_inputs,
    ])  # fmt: skip


def keys(out: NDArray[Any], rows: NDArray[Any], scene: Scene, memo: KeyMemo) -> NDArray[np.uint8]:
    """Return the `canary-fp-v1` keys of evaluations as SHA-256 digests, `(k, 32)` uint8. out, rows, scene: as given to `evaluate_rows`."""
    return memo.digests(out, rows, scene)


# --- one account ----------------------------------------------------------------------------------------------------------------


def _number(value: Any, what: str) -> float:
    """Return a figure as delivered, a number or a decimal string; NaN for none. Raises ValueError for anything else."""
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float | str | Decimal):
        raise ValueError(f"{what}: not a number: {value!r}")
    try:
        found = float(value)
    except ValueError:
        raise ValueError(f"{what}: not a number: {value!r}") from None
    if not math.isfinite(found):
        raise ValueError(f"{what}: not finite")
    return found


def _put(row: Any, name: str, text: str) -> None:
    """Write a text into a row's bytes. Raises ValueError if it does not fit: cut names would be other names."""
    field = f"{name}_name" if f"{name}_name" in row.dtype.names else name
    raw = text.encode()
    if len(raw) > len(row[field]):
        raise ValueError(f"{name}: longer than {len(row[field])} bytes: {text!r}")
    row[field][: len(raw)] = np.frombuffer(raw, np.uint8)
    row[f"{name}_len"] = len(raw)


def _time(snapshot: Mapping[str, Any], what: str) -> int | None:
    given = snapshot.get("as_of_ns") if snapshot.get("as_of_ns") is not None else snapshot.get("as_of")
    found = moment_ns(given)
    if given is not None and found is None:
        raise ValueError(f"{what}: as_of is no time: {given!r}")
    return found


_MONEY = tuple(name for name in (_ROW.names or ())[: (_ROW.names or ()).index("account_ns")])
"""Figures of an account snapshot, by the names both shapes use."""


def facts_of(account: Mapping[str, Any] | None, positions: Mapping[str, Any] | None) -> np.void:
    """Return what is known of an account as a record with the fields FACTS. account, positions: snapshots in the shape of canary §3, numbers plain or as
    decimal strings, times ISO or `as_of_ns`; None: never seen.

    Raises ValueError, with the field, for a figure that is no number, a time that is none, a name longer than 20 bytes.
    """
    rows = np.zeros(1, _ROW)
    row: Any = rows[0]
    for name, kind, *_ in FACTS:
        if kind == "f8":
            row[name] = math.nan
    for name in ("stocks", "options", "greeks_coverage", "greeks_total"):
        row[name] = -1
    if account is not None:
        row["facts"] |= F_ACCOUNT
        for name in _MONEY:
            row[name] = _number(account.get(name), f"account.{name}")
        at = _time(account, "account")
        if at is not None:
            row["facts"] |= F_ACCOUNT_TIME
            row["account_ns"] = at
        _put(row, "currency", str(account.get("base_currency") or ""))
        _put(row, "type", str(account.get("account_type") or ""))
    if positions is not None:
        row["facts"] |= F_POSITIONS
        at = _time(positions, "positions")
        if at is not None:
            row["facts"] |= F_POSITIONS_TIME
            row["positions_ns"] = at
        _positions(row, positions)
    for snapshot in (account, positions):
        if snapshot is not None and snapshot.get("mode") is not None:
            row["mode"] = _MODES.index(snapshot["mode"])
    found: np.void = rows[0]
    return found


def _positions(row: Any, positions: Mapping[str, Any]) -> None:
    """Fold a position snapshot into a row. Names are measured if they have a value and a delta; the largest is the first of equals."""
    held: set[str] = set()
    for name in ("stocks", "options"):
        listed = positions.get(name)
        if listed is not None:
            row[name] = len(listed)
            held |= {str(entry.get("symbol") or entry.get("underlying") or "") for entry in listed if isinstance(entry, Mapping)}
    portfolio = positions.get("portfolio")
    unmeasured = set(held)
    if portfolio is not None:
        row["facts"] |= F_PORTFOLIO
        row["dollar_delta"] = _number(portfolio.get("dollar_delta_base"), "portfolio.dollar_delta_base")
        row["gamma"] = _number(portfolio.get("gamma"), "portfolio.gamma")
        for name in ("greeks_coverage", "greeks_total"):
            if portfolio.get(name) is not None:
                row[name] = int(portfolio[name])
        gross, largest, largest_delta = 0.0, -1.0, -1.0
        for entry in portfolio.get("exposure_base") or ():
            name = str(entry.get("underlying") or "")
            share = _number(entry.get("market_value_pct_nlv"), f"exposure_base.{name}.market_value_pct_nlv")
            value = _number(entry.get("market_value_base"), f"exposure_base.{name}.market_value_base")
            delta = _number(entry.get("dollar_delta_base"), f"exposure_base.{name}.dollar_delta_base")
            if math.isnan(share) and row["net_liquidation"] > 0:
                share = value / row["net_liquidation"] * 100
            if abs(share) > largest:
                largest = abs(share)
                row["largest_exposure_pct"] = share
                _put(row, "largest_exposure", name)
            if not math.isnan(delta):
                gross += abs(delta)
                row["gross_delta"] = gross
                if abs(delta) > largest_delta:
                    largest_delta = abs(delta)
                    row["largest_delta"] = delta
                    _put(row, "largest_delta", name)
            unmeasured.discard(name)
            if (math.isnan(share) and math.isnan(value)) or math.isnan(delta):
                unmeasured.add(name)
    named = sorted(name for name in unmeasured if name)
    row["unmeasured"] = len(named)
    width = len(row["unmeasured_name"]) // len(row["unmeasured_len"])
    for i, name in enumerate(named[: len(row["unmeasured_len"])]):
        raw = name.encode()
        if len(raw) > width:
            raise ValueError(f"name longer than {width} bytes: {name!r}")
        row["unmeasured_name"][i * width : i * width + len(raw)] = np.frombuffer(raw, np.uint8)
        row["unmeasured_len"][i] = len(raw)


def evaluate(
    account: Mapping[str, Any] | None,
    positions: Mapping[str, Any] | None,
    regime: Mapping[str, Any] | RegimeInput | None,
    policy: RiskPolicy,
    now_ns: int,
) -> CanaryResult:
    """Return what the canary says of one account at a time: snapshots in the shape of canary §3, None for one never seen. The same kernel as for many.

    Raises ValueError as `facts_of` does.
    """
    dashboard = from_snapshot(regime) if isinstance(regime, Mapping) else regime
    scene = Scene(dashboard, policy, now_ns)
    rows = np.array([facts_of(account, positions)], _ROW)
    out = verdicts(1)
    evaluate_rows(rows, np.zeros(1, np.int64), scene, out)
    return render(rows[0], out[0], scene)
