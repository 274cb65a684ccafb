"""Fingerprints: what must be the same for two states of the world to count as the same (canary §13). No evaluation, no I/O.

A projection keeps buckets, bands, ids and statuses and drops values, times and prose; its key is the SHA-256 of its canonical JSON. Buckets have edges
of their own, fixed for each version of a projection and the same for every policy, so that keys of different profiles compare: changed
edges or fields need a new version label.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import numpy as np

from operators.account_metrics import METRICS, given, margin_context, measure
from schemas.jit import bare
from schemas.policy import ROWS, shortest
from state.accounts import F_ACCOUNT, F_PORTFOLIO, F_POSITIONS

if TYPE_CHECKING:
    from operators.clusters import MarketView, RegimeInput

ACCOUNT_VERSION = "account-fp-v1"
POSITIONS_VERSION = "positions-fp-v1"
REGIME_VERSION = "regime-fp-v1"
LIFECYCLE_VERSION = "lifecycle-fp-v1"
CANARY_VERSION = "canary-fp-v1"

CUSHION_EDGES = (10.0, 20.0, 35.0)
GROSS_EDGES = (150.0, 100.0, 150.0)
NET_EDGES = (125.0, 80.0, 125.0)
NAME_EDGES = (70.0, 35.0, 35.0)
"""Edges of urgent, act and watch in percent of net liquidation: cushions below them, the others at or above them. act hides watch where it is the lower."""
PNL_EDGES = (5.0, 10.0)
COVERAGE_EDGE = 80.0
COUNT_EDGES = (0, 5, 25)

RISK_WORDS = ("", "ok", "watch", "act", "urgent")
PNL_WORDS = ("", "ok", "gain_watch", "gain_act", "loss_watch", "loss_act")
GAMMA_WORDS = ("", "negative", "positive", "flat")
COVERAGE_WORDS = ("", "degraded", "ok")
COUNT_WORDS = ("zero", "small", "medium", "large")
"""Words of the bucket codes; "" is no field."""

_OK, _WATCH, _ACT, _URGENT = range(1, len(RISK_WORDS))
_PNL_OK, _GAIN_WATCH, _GAIN_ACT, _LOSS_WATCH, _LOSS_ACT = range(1, len(PNL_WORDS))
_NEGATIVE, _POSITIVE, _FLAT = range(1, len(GAMMA_WORDS))
_DEGRADED, _COVERED = range(1, len(COVERAGE_WORDS))

BUCKETS = [
    ("has_account", "u1"), ("has_net_liquidation", "u1"), ("has_margin_context", "u1"), ("margin_cushion", "u1"), ("lookahead_cushion", "u1"),
    ("gross_exposure", "u1"), ("daily_pnl", "u1"), ("has_positions", "u1"), ("has_portfolio", "u1"), ("net_delta", "u1"), ("gross_delta", "u1"),
    ("largest_exposure", "u1"), ("largest_delta", "u1"), ("gamma", "u1"), ("greeks_coverage", "u1"), ("stocks", "u1"), ("options", "u1"),
    ("exposure_held", "u1"), ("delta_held", "u1"),
]  # fmt: skip
"""Fields `bucket` fills in: codes into the word lists above, and flags; *_held: the largest name's figure is above 0
(at 0 it has a bucket and no id). Together with names, currency and type they are all that the keys of an
account and its positions depend on."""

TEXT = "".join(("\t\n\v\f\r \x85\xa0\u1680", *map(chr, range(0x2000, 0x200B)), "\u2028\u2029\u202f\u205f\u3000"))
"""What is trimmed from strings: Unicode's White_Space."""

_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
_WORDS = 1 << 12
"""How many cleaned strings are remembered; nearly all are words of closed lists."""
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)


# --- encoding -------------------------------------------------------------------------------------------------------------------


def canonical_json(value: Any) -> str:
    """Return the canonical JSON of a projection: keys in the order given, no spaces, UTF-8 as it is; only `<`, `>`, `&`, U+2028, U+2029 are escaped.

    Raises ValueError for a number that is not finite.
    """
    text = _ENCODER.encode(value)
    for rune, escape in _ESCAPES.items():  # far faster than translate: most texts have none of them
        text = text.replace(rune, escape)
    return text


def key_of(projection: Any) -> str:
    """Return the key of a projection; None is an absent source."""
    return "sha256:" + hashlib.sha256(canonical_json(projection).encode("utf-8", "replace")).hexdigest()


EMPTY_KEY = key_of(None)
"""Key of a source that was never seen."""


def fingerprint(version: str, projection: Any) -> dict[str, str]:
    """Return a fingerprint as it is carried: version and key."""
    return {"version": version, "key": key_of(projection)}


def clean(value: Any) -> str:
    """Return a string as projections have it: trimmed, lower case rune by rune; "" for none. Booleans and numbers are written as JSON writes them."""
    if value is None or value is False:
        return ""
    return _cleaned(value if isinstance(value, str) else json.dumps(shortest(value)))


@lru_cache(maxsize=_WORDS)
def _cleaned(text: str) -> str:
    if text.isascii():
        return text.strip(TEXT).lower()
    return "".join(c if c < "\ud800" or c > "\udfff" else "\ufffd" for c in map(_lower, text.strip(TEXT)))


def _lower(rune: str) -> str:
    low = rune.lower()
    return low if len(low) == 1 else low[0]


def clean_set(values: Iterable[Any] | None) -> list[str]:
    """Return strings cleaned, without empty ones and repeats, sorted by code point."""
    return sorted({text for value in values or () if (text := clean(value))})


def decimal(value: float | None) -> str:
    """Return a threshold or target as projections have it: the shortest decimal string, `35` and never `35.0`; "" for none."""
    return "" if value is None else json.dumps(shortest(float(value)))


def kept(fields: Mapping[str, Any], always: Sequence[str] = ()) -> dict[str, Any]:
    """Return an object without its empty strings, nulls, empty lists and false values, except the fields named in `always`."""
    return {
        name: value
        for name, value in fields.items()
        if name in always or (value is not None and value is not False and value not in ("", []))
    }


def listed(entries: Iterable[Mapping[str, Any]], names: tuple[str, ...], always: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """Return objects as projections have them in lists: the fields `names`, sorted by every one in order, all-empty objects dropped.

    Strings are cleaned, lists are sets, numbers decimal strings; empty fields are left out except those in `always`. Compared are inner lists joined
    with commas, missing values as "", false before true. The objects are remembered and shared: they may not be changed.
    """
    found = [_entry(names, tuple([_hashable(entry.get(name)) for name in names]), always) for entry in entries]
    return [entry for _, entry in sorted([pair for pair in found if pair is not None], key=itemgetter(0))]


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


@lru_cache(maxsize=_WORDS)
def _entry(names: tuple[str, ...], values: tuple[Any, ...], always: tuple[str, ...]) -> tuple[tuple[str, ...], dict[str, Any]] | None:
    """Return what an object is sorted by, and the object; None if nothing is in it."""
    fields: dict[str, Any] = {}
    for name, value in zip(names, values, strict=True):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        fields[name] = clean_set(value) if isinstance(value, tuple) else decimal(value) if number else value is True or clean(value)
    if not kept(fields):
        return None
    return tuple(map(_rank, fields.values())), kept(fields, always)


def _rank(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(value)
    return ("true" if value else "false") if isinstance(value, bool) else str(value)


# --- accounts and positions -----------------------------------------------------------------------------------------------------


@bare
def risk_bucket(value: float, edges: Any) -> int:
    """Return the bucket code of a figure that is worse the larger it is; 0 for NaN."""
    if not given(value):
        return 0
    if value >= edges[0]:
        return _URGENT
    if value >= edges[1]:
        return _ACT
    return _WATCH if value >= edges[2] else _OK


@bare
def cushion_bucket(value: float) -> int:
    """Return the bucket code of a cushion; 0 for NaN."""
    if not given(value):
        return 0
    if value < CUSHION_EDGES[0]:
        return _URGENT
    if value < CUSHION_EDGES[1]:
        return _ACT
    return _WATCH if value < CUSHION_EDGES[2] else _OK


@bare
def count_bucket(count: int) -> int:
    """Return the bucket code of a list's length; a list that was never fetched (−1) counts as empty here."""
    return int(count > COUNT_EDGES[0]) + int(count > COUNT_EDGES[1]) + int(count > COUNT_EDGES[2])


@bare
def bucket(row: Any, metrics: Any, out: Any) -> None:
    """Fill in the BUCKETS of an account. row: a record with the fields FACTS; metrics: one `measure` has filled in; out: one with the fields BUCKETS."""
    account = (row.facts & F_ACCOUNT) != 0
    positions = (row.facts & F_POSITIONS) != 0
    portfolio = positions and (row.facts & F_PORTFOLIO) != 0
    out.has_account = account
    out.has_net_liquidation = account and row.net_liquidation > 0.0
    out.has_margin_context = account and margin_context(row)
    out.margin_cushion = cushion_bucket(metrics.cushion_pct)
    out.lookahead_cushion = cushion_bucket(metrics.look_ahead_cushion_pct)
    out.gross_exposure = risk_bucket(metrics.gross_exposure_pct, GROSS_EDGES)
    pnl = metrics.daily_pnl_pct
    out.daily_pnl = 0
    if pnl <= -PNL_EDGES[1]:
        out.daily_pnl = _LOSS_ACT
    elif pnl <= -PNL_EDGES[0]:
        out.daily_pnl = _LOSS_WATCH
    elif pnl >= PNL_EDGES[1]:
        out.daily_pnl = _GAIN_ACT
    elif pnl >= PNL_EDGES[0]:
        out.daily_pnl = _GAIN_WATCH
    elif given(pnl):
        out.daily_pnl = _PNL_OK
    out.has_positions = positions
    out.has_portfolio = portfolio
    out.net_delta = risk_bucket(metrics.net_delta_pct, NET_EDGES)
    out.gross_delta = 0
    if metrics.gross_delta_pct > 0.0:
        out.gross_delta = risk_bucket(metrics.gross_delta_pct, GROSS_EDGES)
    largest = abs(metrics.largest_exposure_pct)
    out.largest_exposure = risk_bucket(largest, NAME_EDGES)
    out.exposure_held = largest > 0.0
    out.largest_delta = risk_bucket(metrics.largest_delta_pct, NAME_EDGES)
    out.delta_held = metrics.largest_delta_pct > 0.0
    out.gamma = 0
    if portfolio and given(row.gamma):
        out.gamma = _NEGATIVE if row.gamma < 0.0 else _POSITIVE if row.gamma > 0.0 else _FLAT
    out.greeks_coverage = 0
    if given(metrics.greeks_pct):
        out.greeks_coverage = _DEGRADED if metrics.greeks_pct < COVERAGE_EDGE else _COVERED
    out.stocks = count_bucket(row.stocks)
    out.options = count_bucket(row.options)


@bare
def _bucket_rows(rows: Any, out: Any) -> None:
    for i in range(len(rows)):
        measure(rows[i], out[i])
        bucket(rows[i], out[i], out[i])


def buckets_of(row: Any) -> np.void:
    """Return the metrics and buckets of one account: a record with the fields METRICS and BUCKETS. row: a record with the fields FACTS."""
    rows = np.array([row], dtype=row.dtype)
    out = np.zeros(1, np.dtype(METRICS + BUCKETS))
    _bucket_rows(rows, out)
    found: np.void = out[0]
    return found


def text_of(row: Any, name: str) -> str:
    """Return a text a row holds as bytes: of the fields `<name>` or `<name>_name` and the length `<name>_len`."""
    field = f"{name}_name" if f"{name}_name" in row.dtype.names else name
    return bytes(row[field][: int(row[f"{name}_len"])]).decode("utf-8", "replace")


def project_account(row: Any, buckets: Any = None) -> dict[str, Any] | None:
    """Return the `account-fp-v1` projection of an account (a record with the fields FACTS), None if no account snapshot was seen.

    buckets: a record with the fields BUCKETS, if it is there already.
    """
    found = buckets_of(row) if buckets is None else buckets
    if not found["has_account"]:
        return None
    return kept({
        "base_currency": clean(text_of(row, "currency")),
        "account_type": clean(text_of(row, "type")),
        "margin_cushion": RISK_WORDS[found["margin_cushion"]],
        "lookahead_cushion": RISK_WORDS[found["lookahead_cushion"]],
        "gross_exposure": RISK_WORDS[found["gross_exposure"]],
        "daily_pnl": PNL_WORDS[found["daily_pnl"]],
        "has_margin_context": bool(found["has_margin_context"]),
        "has_net_liquidation": bool(found["has_net_liquidation"]),
    })  # fmt: skip


def project_positions(row: Any, buckets: Any = None) -> dict[str, Any] | None:
    """Return the `positions-fp-v1` projection of an account's positions, None if no position snapshot was seen. Arguments as in `project_account`."""
    found = buckets_of(row) if buckets is None else buckets
    if not found["has_positions"]:
        return None
    counts = {"stocks": COUNT_WORDS[found["stocks"]], "options": COUNT_WORDS[found["options"]]}
    if not found["has_portfolio"]:
        return counts
    return kept({
        "has_portfolio": True,
        "net_delta": RISK_WORDS[found["net_delta"]],
        "gross_delta": RISK_WORDS[found["gross_delta"]],
        "largest_exposure": RISK_WORDS[found["largest_exposure"]],
        "largest_exposure_id": clean(text_of(row, "largest_exposure")) if found["exposure_held"] else "",
        "largest_delta": RISK_WORDS[found["largest_delta"]],
        "largest_delta_id": clean(text_of(row, "largest_delta")) if found["delta_held"] else "",
        "gamma": GAMMA_WORDS[found["gamma"]],
        "greeks_coverage": COVERAGE_WORDS[found["greeks_coverage"]],
        **counts,
    })  # fmt: skip


# --- regime and lifecycle -------------------------------------------------------------------------------------------------------

COMPOSITE_COUNTS = (
    "green_count", "yellow_count", "red_count", "ranked_count", "unranked_count", "cluster_green_count", "cluster_yellow_count",
    "cluster_red_count", "cluster_ranked_count", "cluster_unranked_count",
)  # fmt: skip
_NO_MISSING = "vol_of_vol"
"""The row whose missing fields the reference does not hash."""


def project_composite(composite: Mapping[str, Any]) -> dict[str, Any]:
    """Return verdict and counts as projections have them; a count that is missing is 0, and 0 stays."""
    verdict = clean(composite.get("verdict"))
    return {**({"verdict": verdict} if verdict else {}), **{name: int(composite.get(name) or 0) for name in COMPOSITE_COUNTS}}


def _inner(value: Any, *path: str) -> Any:
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def project_regime(regime: RegimeInput | None, market: MarketView | None = None) -> dict[str, Any] | None:
    """Return the `regime-fp-v1` projection of a regime snapshot; None for none.

    The composite is that of `market`, computed from the rows; without one, as it was delivered. The lifecycle is the block that was delivered; no
    block, no field.
    """
    if regime is None:
        return None
    composite = (market.composite if market is not None else regime.composite) or {}
    indicators = []
    for name in ROWS:
        row = regime.rows.get(name)
        missing = [] if row is None or name == _NO_MISSING else clean_set(row.fields_missing)
        band = clean(row.band) if row is not None else ""
        status = clean(row.status) if row is not None else ""
        indicators.append(kept({"name": name, "band": band, "status": status, "fields_missing": missing}))
    gamma, breadth = (regime.rows[name].envelope if name in regime.rows else None for name in ("gamma_zero", "breadth"))
    summary = _inner(gamma, "result", "summary")
    agreement = _inner(gamma, "horizon_agreement")
    projection: dict[str, Any] = {
        "composite": project_composite(composite),
        "indicators": indicators,
        "gamma": kept({
            "envelope_status": clean(_inner(gamma, "status")),
            "rankability": clean(_inner(gamma, "result", "quality", "rankability")),
            "zero_gamma_status": clean(_inner(summary, "zero_gamma_status")),
            "regime": clean(_inner(summary, "regime")),
            "confidence": clean(_inner(summary, "confidence")),
            "regime_agreement": clean(_inner(gamma, "result", "regime_agreement")),
            "horizon_agreement": clean(agreement if isinstance(agreement, str) else None),
        }),
        "breadth": kept({"state": clean(_inner(breadth, "state"))}),
        "lifecycle": None if regime.lifecycle is None else project_lifecycle(regime.lifecycle),
        "sources": project_sources(regime.source_health),
        "warnings": listed(regime.warnings, ("code", "scope", "severity")),
        "data_quality": listed(regime.data_quality, ("surface", "status", "stale_clusters", "partial_clusters", "degraded_clusters")),
    }  # fmt: skip
    stays = ("composite", "indicators", *(("lifecycle",) if regime.lifecycle is not None else ()))
    return {name: value for name, value in projection.items() if name in stays or value not in (None, {}, [])}


def project_sources(sources: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return what projections keep of sources: name and status always, confidence and stability of the fingerprint."""
    found = listed(sources, ("source", "status", "confidence", "fingerprint_stability"), ("source", "status"))
    return [source for source in found if source["source"] or source["status"] or source.get("confidence")]


def project_lifecycle(lifecycle: Mapping[str, Any]) -> dict[str, Any]:
    """Return the `lifecycle-fp-v1` projection of a market's or a portfolio's lifecycle; an empty block is an empty object."""
    return kept({
        **{name: clean(lifecycle.get(name)) for name in ("stage", "severity", "readiness", "timing", "confidence")},
        "evidence": listed(lifecycle.get("evidence") or (), ("source", "signal", "bucket", "timing", "severity", "confirmed")),
        **{name: clean_set(lifecycle.get(name)) for name in ("confirmed_by", "unconfirmed", "suppressed", "rejected_by")},
    })  # fmt: skip


# --- canary ---------------------------------------------------------------------------------------------------------------------

MARKET_COUNTS = ("red_clusters", "yellow_clusters", "ranked_clusters", "unranked_clusters")
MARKET_LISTS = (
    "red_cluster_names", "yellow_cluster_names", "ambiguous_clusters", "partial_clusters", "computing_clusters", "degraded_clusters", "stale_clusters",
)  # fmt: skip


SIGNAL_FIELDS = (
    "id", "direction", "posture", "severity", "subject", "metric", "threshold", "target", "unit", "confidence", "blocked_by", "confidence_impact",
)  # fmt: skip


def project_canary(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return the `canary-fp-v1` projection of a result: the JSON object of a `schemas.canary.CanaryResult`, keys of its sources included."""
    market = result["market"]
    sources = result["source_fingerprints"]
    plain = (
        "policy",
        "direction",
        "portfolio_posture",
        "severity",
        "planner_mode_hint",
        "planner_readiness",
        "data_confidence",
        "signal_confidence",
    )
    counts = {name: int(market.get(name) or 0) for name in MARKET_COUNTS}
    projection = {
        **{name: clean(result.get(name)) for name in plain},
        "primary_drivers": clean_set(result.get("primary_drivers")),
        "signals": listed(result.get("signals") or (), SIGNAL_FIELDS),
        "rows": listed(result.get("rows") or (), ("title", "direction", "severity")),
        "market": kept(
            {
                "regime_verdict": clean(market.get("regime_verdict")),
                **counts,
                **{name: clean_set(market.get(name)) for name in MARKET_LISTS},
            },
            MARKET_COUNTS,
        ),
        "lifecycle": project_lifecycle(result.get("lifecycle") or {}),
        "sources": project_sources(result.get("source_health") or ()),
        "source": {
            name: {"version": clean(sources[name]["version"]), "key": clean(sources[name]["key"])}
            for name in ("account", "positions", "regime")
        },
    }
    return kept(projection, ("market", "lifecycle"))
