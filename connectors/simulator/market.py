"""The simulated market: correlated random walks of the mid per instrument, on a fixed grid of quote times.

A model, not a market: no book, no impact, no jumps. The path is extended in blocks and forgotten behind the reader.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from schemas.reference import Instrument

_START_PX = {"BTC-USD": 60_000.0, "ETH-USD": 3_000.0, "SOL-USD": 150.0, "EURUSD": 1.08, "ACME": 42.0, "ESZ6": 6_000.0}
_OTHER_PX = 100.0
_VOL_PER_ROOT_S = 1e-4
"""1 bp per square root of a second, about 56 % a year."""
_COMMON = 0.4
"""Share of the variance that all instruments have in common."""
_SPREAD = 1e-4
_BLOCK = 512
_KEEP_NS = 10_000_000_000
_LOWEST_UNITS = 20


class Touches(Protocol):
    """A market whose touch can be asked for: what venues fill at."""

    def touch(self, instrument: int, ts_ns: int) -> tuple[int, int]:
        """Return (bid, ask) of the instrument at a time, in units of 10^-px_scale."""
        ...


class Market:
    """Mids and touches in units of 10^-px_scale. Instrument i is quoted at `start_ns + phase_i + k · interval_ns`, k = 0, 1, …"""

    def __init__(self, instruments: Sequence[Instrument], start_ns: int, interval_ns: int, seed: int) -> None:
        n = len(instruments)
        self.interval_ns = interval_ns
        self.first_ns = [start_ns + i * interval_ns // n for i in range(n)]
        first = [max(float(_LOWEST_UNITS * 50), _START_PX.get(i.symbol, _OTHER_PX) * 10**i.px_scale) for i in instruments]
        self.spread = [max(2, 2 * round(px * _SPREAD / 2)) for px in first]
        self._log = np.log(np.array(first))
        self._rng = np.random.default_rng([seed, 1])
        self._base = 0
        self._path: list[list[int]] = [[] for _ in instruments]

    def touch(self, instrument: int, ts_ns: int) -> tuple[int, int]:
        """Return (bid, ask) that stood at a time not more than 10 s behind the latest `forget`."""
        return self.quote(instrument, max(0, (ts_ns - self.first_ns[instrument]) // self.interval_ns))

    def quote(self, instrument: int, k: int) -> tuple[int, int]:
        """Return (bid, ask) of the instrument's k-th quote."""
        path = self._path[instrument]
        while k - self._base >= len(path):
            self._extend()
        mid = path[k - self._base]
        half = self.spread[instrument] // 2
        return mid - half, mid + half

    def forget(self, ts_ns: int) -> None:
        """Drop the path more than 10 s before `ts_ns`."""
        old = (ts_ns - _KEEP_NS - self.first_ns[-1]) // self.interval_ns - self._base
        if old >= 2 * _BLOCK:
            self._base += old
            for path in self._path:
                del path[:old]

    def _extend(self) -> None:
        steps = self._rng.standard_normal((_BLOCK, len(self._path) + 1))
        own = np.sqrt(1 - _COMMON) * steps[:, 1:] + np.sqrt(_COMMON) * steps[:, :1]
        logs = self._log + np.cumsum(own * (_VOL_PER_ROOT_S * np.sqrt(self.interval_ns / 1e9)), axis=0)
        self._log = logs[-1]
        floor = np.array(self.spread) + _LOWEST_UNITS
        for path, mids in zip(self._path, np.maximum(np.rint(np.exp(logs)).astype(np.int64), floor).T.tolist(), strict=True):
            path.extend(mids)
