"""Slippage kernels: the closed form, signs, extremes, and a plain Decimal loop."""

from __future__ import annotations

import math
import random
from decimal import ROUND_HALF_EVEN, Decimal

import pytest

from operators.slippage import outside_touch, round6, slippage_vs_mid2_bps, spread_capture


def test_slippage_closed_form_gives_the_textbook_figures() -> None:
    assert slippage_vs_mid2_bps(1, 101, 99 + 101) == 100.0
    assert spread_capture(1, 101, 99, 101) == -1.0
    assert not outside_touch(1, 101, 99, 101)


@pytest.mark.parametrize(
    ("side", "px", "bps"), [(1, 101, 100.0), (-1, 99, 100.0), (1, 99, -100.0), (-1, 101, -100.0), (1, 100, 0.0), (-1, 100, 0.0)]
)
def test_slippage_sign_is_positive_for_a_cost(side: int, px: int, bps: float) -> None:
    found = slippage_vs_mid2_bps(side, px, 200)
    assert found == bps
    assert math.copysign(1, found) > 0 or found < 0, "never a negative zero"


@pytest.mark.parametrize("mid2", [0, -1, -(2**63)])
def test_slippage_without_a_benchmark_is_no_figure(mid2: int) -> None:
    assert math.isnan(slippage_vs_mid2_bps(1, 100, mid2))


@pytest.mark.parametrize(("bid", "ask"), [(101, 101), (102, 101), (0, 5), (-(2**63), 5), (5, -(2**63))])
def test_spread_capture_without_a_spread_is_no_figure(bid: int, ask: int) -> None:
    assert math.isnan(spread_capture(1, 100, bid, ask))


def test_slippage_at_the_largest_scaled_prices_does_not_overflow() -> None:
    px = 2**62 - 1
    assert slippage_vs_mid2_bps(1, px, 2 * px) == 0.0
    assert slippage_vs_mid2_bps(1, px, px) == pytest.approx(1e4)
    assert slippage_vs_mid2_bps(-1, 1, 2 * px) == pytest.approx(1e4)
    assert slippage_vs_mid2_bps(1, px, 1) == pytest.approx(1e4 * 2.0**63)


def test_slippage_one_unit_of_a_large_price_is_seen_exactly() -> None:
    px = 10**17
    assert slippage_vs_mid2_bps(1, px, 2 * px - 2 * 10**9) == pytest.approx(1e-4)


def test_round6_ties_go_to_even() -> None:
    assert round6(0.0000005) == 0.0
    assert round6(1.0000015) == pytest.approx(1.000002, abs=1e-12)


def test_slippage_100_fills_agree_with_a_decimal_loop() -> None:
    rng = random.Random(7)
    for _ in range(100):
        bid = rng.randint(1, 10**11)
        ask = bid + rng.randint(1, 10**6)
        px = rng.randint(bid - min(bid, 10**6) + 1, ask + 10**6)
        side = rng.choice((1, -1))
        mid = Decimal(bid + ask) / 2
        bps = (side * (px - mid) / mid * 10_000).quantize(Decimal("0.000001"), ROUND_HALF_EVEN)
        capture = (side * (mid - px) / (Decimal(ask - bid) / 2)).quantize(Decimal("0.000001"), ROUND_HALF_EVEN)
        assert slippage_vs_mid2_bps(side, px, bid + ask) == pytest.approx(float(bps), rel=1e-9, abs=1.01e-6)
        assert spread_capture(side, px, bid, ask) == pytest.approx(float(capture), rel=1e-9, abs=1.01e-6)
        assert outside_touch(side, px, bid, ask) == (side * (px - mid) > Decimal(ask - bid) / 2)
