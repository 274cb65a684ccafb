"""Covariances as records of `hedge.state.matrix.v1`, and back, to the bit. Knows no clock: a record is dated by its bar. Rules: docs/ratios.md.

Every row names all series of its set in their order (`symbols`), so that a reader knows whether it has them all; its arrays go up to its own.
"""

from __future__ import annotations

import base64
import json
import math
import uuid
from dataclasses import dataclass

import numpy as np

from operators.ratios import Floats, Ints, Moments, Rules, n_eff, variance
from schemas.hedging import MatrixRow
from schemas.times import rfc3339

_NAMESPACE = uuid.UUID("b7b3a9e2-6f0c-4c53-8d1b-2f64c1f0a7d5")
_TOPIC = "hedge.state.matrix.v1"


@dataclass(frozen=True, slots=True)
class StoredRow:
    """A row with its arrays unpacked: n `(j,)` int64; cov, var_row, var_col `(memories, j)` float64; close NaN where the mid was not fresh."""

    symbols: tuple[str, ...]
    place: int
    close: float
    n: Ints
    cov: Floats
    var_row: Floats
    var_col: Floats


def unpack(row: MatrixRow) -> StoredRow:
    """Return a row's arrays. Raises ValueError where they contradict themselves or hold what no covariance can be."""
    if len(set(row.symbols)) != len(row.symbols) or row.symbol not in row.symbols:
        raise ValueError("a row's symbols must be different and hold its own")
    if row.bar_end_ns % row.bar_ns:
        raise ValueError("a bar must end on the clock's grid")
    place = row.symbols.index(row.symbol)
    sizes = (len(row.lambdas), place + 1)
    if any(len(text) != 4 * ((8 * count + 2) // 3) for text, count in ((row.n, sizes[1]), (row.cov, sizes[0] * sizes[1]))):
        raise ValueError("a row's arrays must be as long as its symbols say")
    n = np.frombuffer(base64.b64decode(row.n), "<i8").astype(np.int64)
    floats = [np.frombuffer(base64.b64decode(text), "<f8").astype(np.float64) for text in (row.cov, row.var_row, row.var_col)]
    if len(n) != sizes[1] or any(len(values) != sizes[0] * sizes[1] for values in floats):
        raise ValueError("a row's arrays must be as long as its symbols say")
    cov, var_row, var_col = (values.reshape(sizes) for values in floats)
    if n.min() < 0 or not np.isfinite([cov, var_row, var_col]).all() or min(var_row.min(), var_col.min()) < 0.0:
        raise ValueError("a row's counts and variances must be finite and not negative")
    close = math.nan if row.close is None else row.close
    if close <= 0.0:
        raise ValueError("a mid must be above zero")
    return StoredRow(tuple(row.symbols), place, close, n, cov, var_row, var_col)


class MatrixSets:
    """The rows of each bar that were read; `newest` is what a market begins with. Keeps no bar before the last whole one."""

    def __init__(self) -> None:
        self._sets: dict[int, dict[str, StoredRow]] = {}

    def put(self, symbol: str, bar_end_ns: int, row: StoredRow) -> None:
        """Take a row; one that comes again counts as it came last."""
        rows = self._sets.setdefault(bar_end_ns, {})
        rows[symbol] = row
        if _whole(rows):
            self._sets = {end: kept for end, kept in self._sets.items() if end >= bar_end_ns}

    def drop(self, symbol: str) -> None:
        """Forget a symbol's rows: it was deleted."""
        for rows in self._sets.values():
            rows.pop(symbol, None)

    def newest(self) -> tuple[int, dict[str, StoredRow]] | None:
        """Return (end of the bar, rows by symbol) of the newest bar that has all its rows, or None."""
        ends = [end for end, rows in self._sets.items() if _whole(rows)]
        return (max(ends), self._sets[max(ends)]) if ends else None


def _whole(rows: dict[str, StoredRow]) -> bool:
    first = next(iter(rows.values()), None)
    return first is not None and len(rows) == len(first.symbols) and all(row.symbols == first.symbols for row in rows.values())


def load(moments: Moments, index: dict[str, int], rows: dict[str, StoredRow]) -> None:
    """Put a whole set of rows into moments. index: number of each series by symbol; pairs with a series that is not in the set stay as they are."""
    for symbol, row in rows.items():
        if symbol not in index:
            continue
        own = index[symbol]
        others = np.array([index.get(name, -1) for name in row.symbols[: row.place + 1]], np.int64)
        known = others >= 0
        turned = others[known] > own  # the pair's row and column have changed places
        high, low = np.maximum(others[known], own), np.minimum(others[known], own)
        at = high * (high + 1) // 2 + low
        moments.n[at] = row.n[known]
        moments.cov[:, at] = row.cov[:, known]
        moments.var_row[:, at] = np.where(turned, row.var_col[:, known], row.var_row[:, known])
        moments.var_col[:, at] = np.where(turned, row.var_row[:, known], row.var_col[:, known])


def records(
    moments: Moments, symbols: tuple[str, ...], close: Floats, bar_end_ns: int, bar_ns: int, rules: Rules
) -> list[tuple[bytes, bytes]]:
    """Return (key, message) of each series' row. close `(k,)`: mids at the bar's end, NaN where not fresh.

    For readers there are the volatility (bps per bar) and the correlations of the memory in use, null below n_ready effective bars.
    """
    lam = float(moments.lams[rules.memory])
    ready = next(n for n in range(1, 100_000) if n_eff(lam, n) >= rules.n_ready) if (1.0 + lam) / (1.0 - lam) > rules.n_ready else 2**62
    head = {
        "type": _TOPIC, "version": "v1", "ts": rfc3339(bar_end_ns), "ts_ns": bar_end_ns, "ttl_ms": 600_000, "sender": "agent.hedger",
    }  # fmt: skip
    found = []
    for i, symbol in enumerate(symbols):
        part = slice(i * (i + 1) // 2, i * (i + 1) // 2 + i + 1)
        n, cov, var_row, var_col = moments.n[part], moments.cov[:, part], moments.var_row[:, part], moments.var_col[:, part]
        scale = np.sqrt(var_row[rules.memory] * var_col[rules.memory])
        known = (n >= ready) & (scale > 0.0)
        rho = np.clip(np.divide(cov[rules.memory], scale, out=np.zeros(i + 1), where=known), -1.0, 1.0)
        payload = {
            "symbol": symbol,
            "bar_end_ns": bar_end_ns,
            "bar_ns": bar_ns,
            "symbols": symbols,
            "lambdas": moments.lams.tolist(),
            "n": _packed(n, "<i8"),
            "cov": _packed(cov, "<f8"),
            "var_row": _packed(var_row, "<f8"),
            "var_col": _packed(var_col, "<f8"),
            "volatility_bps": math.sqrt(variance(moments, rules.memory, i)) * 1e4 if n[i] >= ready else None,
            "correlations": [value if is_known else None for value, is_known in zip(rho.tolist(), known.tolist(), strict=True)],
            "close": None if math.isnan(close[i]) else float(close[i]),
        }
        identity = str(uuid.uuid5(_NAMESPACE, f"matrix:{symbol}:{bar_ns}:{bar_end_ns}"))
        message = {"msg_id": identity, **head, "idempotency_key": identity, "payload": payload}
        found.append((symbol.encode(), json.dumps(message, separators=(",", ":"), allow_nan=False).encode()))
    return found


def _packed(values: Ints | Floats, kind: str) -> str:
    return base64.b64encode(np.ascontiguousarray(values, kind).tobytes()).decode()
