"""Snapshots to judge: those of the golden vectors, and valid ones made by a seeded generator with values at and around every edge of the rules."""

from __future__ import annotations

import copy
import json
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tests.canary_oracle import ROWS, STABILITY

Json = dict[str, Any]
GOLDEN = Path(__file__).parent / "golden"
NOW = datetime(2026, 5, 29, 15, 0, tzinfo=UTC)
"""A Friday, 11:00 in New York."""
NOW_NS = int(NOW.timestamp()) * 10**9


def golden(name: str) -> Json:
    """Return a golden file by its name."""
    out: Json = json.loads((GOLDEN / f"canary_{name}.json").read_text())
    return out


def applied(base: Json, vector: Json) -> tuple[Json, Json, Json]:
    """Return account, positions and regime of a unit vector: the base's with its changes, regime rows changed one by one."""
    account = {**base["account"], **vector.get("account", {})}
    positions = {**base["positions"], **vector.get("positions", {})}
    regime = copy.deepcopy(base["regime"])
    for row, change in vector.get("regime", {}).items():
        regime[row].update(change)
    return account, positions, regime


def stamp(seconds: float) -> str:
    """Return the ISO time so long before NOW."""
    return (NOW - timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")


SPY = [
    None,
    0.1,
    0.2,
    1.0,
    1.49,
    1.5,
    2.4,
    2.5,
    3,
    -0.5,
    -0.99,
    -1,
    -1.4,
    -1.49,
    -1.5,
    -1.6,
    -2.4,
    -2.5,
    -2.7,
    -3.9,
    -4,
    -4.2,
    -6.9,
    -7,
    -9,
]
VIX = [None, -1, 2, 9.9, 10, 12, 18, 19.9, 20, 25, 55, -9.9, -10, -12, -19, -20, -30]
SHARE = [None, 0, 5, 20, 34.9, 35, 36, 60, 69, 70, 90, 140, -20, -34, -35, -50, -80]
MONEY = [
    None,
    0,
    1_000,
    5_000,
    9_000,
    10_000,
    18_000,
    20_000,
    30_000,
    35_000,
    50_000,
    79_000,
    80_000,
    90_000,
    100_000,
    120_000,
    125_000,
    140_000,
    150_000,
    200_000,
]
CUSHION = [None, 0, 0.01, 0.07, 0.099, 0.1, 0.15, 0.19, 0.2, 0.25, 0.3, 0.349, 0.35, 0.5, 0.62, -0.05]
PNL = [None, 0, 1_000, 4_900, 5_000, 7_000, 9_900, 10_000, 15_000, -1_000, -4_900, -5_000, -7_000, -9_999, -10_000, -20_000]
STATUSES = ["ok"] * 8 + ["stale", "computing", "unavailable", "error"]
CLASSES = ["fresh"] * 8 + ["not_due", "pending", "stale", "overdue"]


def random_account(rng: random.Random) -> Json | None:
    """Return an account, now and then with fields that were not delivered."""
    if rng.random() < 0.03:
        return None
    account: Json = {"base_currency": rng.choice(["USD", "usd", " Eur ", None]), "account_type": rng.choice([None, "MARGIN", "Reg T"])}
    account["net_liquidation"] = 100_000 if rng.random() < 0.9 else rng.choice([None, 0, -5_000, 37_500, 250_000])
    account["cushion"] = rng.choice(CUSHION) if rng.random() < 0.4 else rng.choice([0.5, 0.6])
    account["gross_position_value"] = rng.choice(MONEY)
    account["daily_pnl"] = rng.choice(PNL) if rng.random() < 0.5 else 0
    for field in ("excess_liquidity", "available_funds", "maintenance_margin", "initial_margin"):
        if rng.random() < 0.4:
            account[field] = rng.choice([*MONEY, -2_000])
    if rng.random() < 0.2:
        for field in ("excess_liquidity", "available_funds", "maint_margin", "init_margin"):
            account[f"look_ahead_{field}"] = rng.choice([*MONEY, -2_000])
    if rng.random() < 0.95:
        account["as_of"] = stamp(rng.choice([0, 30, 599, 600, 601, 5_000, 5_401, 90_000, -60]))
    return account


def random_positions(rng: random.Random) -> Json | None:
    """Return positions, now and then without an aggregate, with names without a value, or with options without greeks."""
    if rng.random() < 0.03:
        return None
    out: Json = {"as_of": stamp(rng.choice([0, 30, 600, 601]))} if rng.random() < 0.95 else {}
    names = rng.sample(["SPY", "QQQ", "AAPL", "MSFT", "GME", "XLF"], rng.randint(0, 4))
    for kind in ("stocks", "options"):
        if rng.random() < 0.85:
            count = rng.choice([0, 1, 2, 5, 6, 25, 26])
            more = ["TLT"] if rng.random() < 0.05 else []
            pool = names + more
            out[kind] = [{"symbol": rng.choice(pool), "quantity": 10} for _ in range(count)] if pool else []
    if rng.random() < 0.05:
        return out
    legs = rng.choice([0, 0, 1, 4, 5, 10])
    out["portfolio"] = {
        "dollar_delta_base": rng.choice([*MONEY, -80_000, -130_000]),
        "gamma": rng.choice([None, 0, 12.5, -0.5, -400]),
        "greeks_total": legs,
        "greeks_coverage": rng.choice([legs, legs, legs * 4 // 5, legs // 2]),
        "exposure_base": [],
    }
    for name in names:
        share = rng.choice(SHARE)
        out["portfolio"]["exposure_base"].append({
            "underlying": name, "market_value_pct_nlv": share, "market_value_base": None if share is None else share * 1_000,
            "dollar_delta_base": rng.choice([*MONEY, -34_000, -35_000, -90_000]),
        })  # fmt: skip
    return out


def random_row(rng: random.Random, name: str, mood: float) -> Json:
    """Return a row; mood 0 to 1: how likely it is not green. Its status, class and eligibility agree with each other."""
    status = rng.choice(STATUSES) if rng.random() < 0.35 else "ok"
    row: Json = {"status": status}
    band = rng.choice(["yellow", "red", "red"]) if rng.random() < mood else "green"
    if status in ("ok", "stale") or rng.random() < 0.2:
        row["band"] = band
        row["band_held"] = status not in ("ok", "stale")
    row["freshness_class"] = "overdue" if status not in ("ok", "stale") else rng.choice(CLASSES) if rng.random() < 0.25 else "fresh"
    if status == "stale" and row["freshness_class"] == "fresh":
        row["freshness_class"] = "stale"
    if row.get("band") == "red":
        reasons = {"not_due": "data_not_due", "pending": "data_refresh_pending", "stale": "data_stale", "overdue": "data_overdue"}
        fresh = rng.choice(["eligible", "eligible", "eligible", "depth_below_min", "streak_1_of_2"])
        row["eligibility"] = reasons.get(row["freshness_class"], fresh)
        row["depth"], row["sessions"] = 1.5, 2
    if rng.random() < 0.2:
        row["fields_missing"] = rng.sample(["hy_oas", "ig_oas", "vix3m"], rng.randint(1, 2))
    if name == "vix_term_structure" and rng.random() < 0.8:
        row["vix"], row["vix3m"] = {"green": (14.2, 16.7), "yellow": (19.2, 20), "red": (30, 28)}[band]
        row["ratio"] = round(row["vix"] / row["vix3m"], 6)
    if name == "vol_of_vol" and rng.random() < 0.8:
        row["last"] = {"green": 80, "yellow": 95.5, "red": rng.choice([110, 112, 119.9, 120, 131])}[band]
    if name == "gamma_zero" and rng.random() < 0.7:
        gap = {"green": 3.1, "yellow": -1.2, "red": -2.5}[band]
        row["envelope"] = {
            "status": {"ok": "ready"}.get(status, "computing"),
            "result": {
                "gap_pct": gap,
                "gamma_sign": 1,
                "regime_agreement": rng.choice([None, "Agree"]),
                "summary": {"confidence": rng.choice(["high", "degraded", "medium"]), "regime": "long"},
                "quality": {"rankability": "rankable"},
            },
        }
        if rng.random() < 0.3:
            row["horizon_agreement"] = rng.choice(["split", " Aligned"])
    if name == "breadth" and rng.random() < 0.7:
        row["envelope"] = {
            "state": "ready" if status == "ok" else "cold",
            "pct_above_50dma": {"green": 61, "yellow": 48.5, "red": 31}[band],
        }
    if name == "usd_jpy" and rng.random() < 0.7:
        row["weekly_change_pct"] = {"green": 0.4, "yellow": -1.3, "red": rng.choice([-2, -3.5, -7.5])}[band]
    if name == "funding_stress" and rng.random() < 0.7:
        row["spread_bps"] = {"green": 12, "yellow": 31, "red": 82}[band]
    if name == "hyg_spy_divergence" and rng.random() < 0.7:
        row["hyg_price"], row["hyg_50dma"], row["spy_price"], row["spy_52w_high"] = {
            "green": (80, 79, 500, 510), "yellow": (78, 79, 450, 510), "red": (78, 79, 505, 510),
        }[band]  # fmt: skip
    if name == "credit_spreads" and rng.random() < 0.7:
        row["hy_oas"], row["hy_oas_20d_change"] = {"green": (3.2, 0.1), "yellow": (4.4, 0.2), "red": (6.1, 1.2)}[band]
    return row


def random_regime(rng: random.Random) -> Json | None:
    """Return a dashboard."""
    if rng.random() < 0.02:
        return None
    mood = rng.choice([0, 0, 0.1, 0.2, 0.4, 0.7, 1])
    calm = rng.random() < 0.5
    regime: Json = {name: random_row(rng, name, mood) for name in ROWS}
    if calm:
        for row in regime.values():
            if row["status"] != "ok" or row["freshness_class"] != "fresh":
                row.update(status="ok", freshness_class="fresh", band_held=False)
                row.setdefault("band", "green")
                if row["band"] == "red":
                    row["eligibility"] = "eligible"
    regime["hyg_spy_divergence"]["spy_change_pct"] = rng.choice(SPY)
    regime["vix_term_structure"]["vix_change_pct"] = rng.choice(VIX)
    if rng.random() < 0.97:
        regime["as_of"] = stamp(rng.choice([0, 30, 600, 601, 5_401]))
    if rng.random() < 0.05:
        regime["closed"] = True
    if rng.random() < 0.3:
        regime["warning_details"] = [{
            "code": rng.choice(["hyg_feed_down", "Gamma_Old"]), "scope": rng.choice(["", "gamma_zero", "credit_spreads"]),
            "severity": rng.choice(["warning", "data_quality", "info"]), "message": "m", "impact": "i", "action": "a",
        } for _ in range(rng.randint(1, 2))]  # fmt: skip
    if rng.random() < 0.3:
        regime["data_quality"] = [{"surface": "gamma", "status": "degraded", "degraded_clusters": ["gamma"]}]
    if rng.random() < 0.3:
        regime["source_health"] = [
            {
                "source": c,
                "status": rng.choice(["ok", "Stale"]),
                "confidence": rng.choice(["high", "low"]),
                "fingerprint_stability": STABILITY,
            }
            for c in rng.sample(["vol", "credit", "fx", "gamma"], 3)
        ]
    if rng.random() < 0.3:
        regime["lifecycle"] = rng.choice([{}, {"stage": "quiet", "severity": "observe", "confirmed_by": ["Vol", "fx"], "evidence": [
            {"source": "vol", "signal": "cluster", "bucket": "red", "confirmed": True}, {"source": "spy", "signal": "tape", "bucket": "green"},
        ]}])  # fmt: skip
    if rng.random() < 0.2:
        regime["composite"] = {
            "verdict": "Normal regime",
            "green_count": 8,
            "cluster_green_count": 6,
            "ranked_count": 8,
            "cluster_ranked_count": 6,
        }
    if rng.random() < 0.05:
        regime[rng.choice(ROWS)].pop("status")
    if rng.random() < 0.05:
        del regime[rng.choice(["vol_of_vol", "usd_jpy", "gamma_zero", "breadth"])]
    if rng.random() < 0.2:
        regime["summary"] = {"confidence": rng.choice(["high", "medium", "low"])}
    return regime


def random_snapshot(rng: random.Random) -> tuple[Json | None, Json | None, Json | None]:
    """Return account, positions and regime."""
    return random_account(rng), random_positions(rng), random_regime(rng)
