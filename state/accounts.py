"""What is known of an account: the figures of its newest snapshots, one row each. Columns only; rules: docs/canary.md.

Floats are NaN, times 0 and counts −1 where a figure was not delivered: that is a state, never a zero.
"""

from __future__ import annotations

FACTS = [
    ("net_liquidation", "f8"), ("cushion", "f8"), ("excess_liquidity", "f8"), ("available_funds", "f8"), ("maintenance_margin", "f8"),
    ("initial_margin", "f8"), ("look_ahead_excess_liquidity", "f8"), ("look_ahead_available_funds", "f8"), ("look_ahead_maint_margin", "f8"),
    ("look_ahead_init_margin", "f8"), ("gross_position_value", "f8"), ("daily_pnl", "f8"), ("account_ns", "i8"), ("positions_ns", "i8"),
    ("dollar_delta", "f8"), ("gamma", "f8"), ("gross_delta", "f8"), ("largest_exposure_pct", "f8"), ("largest_delta", "f8"),
    ("greeks_coverage", "i4"), ("greeks_total", "i4"), ("stocks", "i4"), ("options", "i4"), ("unmeasured", "i4"), ("facts", "u4"),
    ("largest_exposure_len", "u1"), ("largest_exposure_name", "u1", (20,)), ("largest_delta_len", "u1"), ("largest_delta_name", "u1", (20,)),
    ("unmeasured_len", "u1", (3,)), ("unmeasured_name", "u1", (60,)), ("currency_len", "u1"), ("currency", "u1", (12,)),
    ("type_len", "u1"), ("type", "u1", (64,)), ("mode", "u1"),
]  # fmt: skip
"""Fields of a row that an evaluation reads. account_ns, positions_ns: `as_of_ns` of the newest snapshot of each kind.

dollar_delta, gamma: of the aggregate, signed. gross_delta: Σ |dollar_delta_base| of the names that have one (NaN: none has). largest_exposure_pct: of the
name with the largest |market_value_pct_nlv| (where null: |market_value_base| over net liquidation × 100), sign kept; largest_delta: largest |dollar delta|; the
first of equals wins; names in ASCII, `*_len` 0 for none. stocks, options: lengths of the lists, −1 for a null list. unmeasured: names of exposure_base without
a value or a delta, and symbols of stock and option rows that are not in it; the first three names in unmeasured_name, 20 bytes each. mode: 0 live, 1 paper.
"""
F_ACCOUNT, F_POSITIONS, F_PORTFOLIO, F_ACCOUNT_TIME, F_POSITIONS_TIME = 1, 2, 4, 8, 16
"""Bits of `facts`: an account snapshot was seen; a position snapshot; it had an aggregate; the snapshots had an `as_of_ns`."""
