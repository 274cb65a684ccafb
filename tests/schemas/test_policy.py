"""Policies are data: loaded whole or not at all, told apart by a hash over what they say, and nothing else holds a threshold."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from schemas.policy import (
    BUILT_IN,
    PROFILES,
    Confirmation,
    PolicyError,
    RiskPolicy,
    Term,
    load_policies,
    policy_fingerprint,
    read_policy,
    shortest,
)

THRESHOLDS = 28


@pytest.fixture(scope="module")
def policies() -> dict[str, RiskPolicy]:
    return load_policies()


def content(profile: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((BUILT_IN / f"{profile}.json").read_text())
    return loaded


def written(path: Path, what: Any) -> Path:
    path.write_text(json.dumps(what))
    return path


def test_every_profile_that_comes_with_hedgerow_loads(policies: dict[str, RiskPolicy]) -> None:
    assert tuple(policies) == PROFILES
    assert len({policy.fingerprint for policy in policies.values()}) == len(PROFILES)


def test_thresholds_of_the_profiles_that_follow_counts_are_equal(policies: dict[str, RiskPolicy]) -> None:
    default, guarded = (policies[name].policy.model_dump() for name in ("canary-default", "canary-guarded"))
    assert {name for name in default if default[name] != guarded[name]} == {"switches"}
    assert policies["canary-default"].policy.confirmation is None


def test_recipe_gives_the_published_key_of_the_reference() -> None:
    flat = {name: value for name, value in content("canary-default")["policy"].items() if isinstance(value, int | float)}
    assert len(flat) == THRESHOLDS
    held = {
        "held_stress_material_pct": 25, "held_underlying_pnl_watch_pct": 2, "held_underlying_pnl_act_pct": 5, "held_option_near_dte": 7,
        "held_option_delta_watch_pct": 25, "held_option_delta_act_pct": 50, "held_liquidity_stock_spread_pct": 1,
        "held_liquidity_option_spread_pct_of_mid": 25,
    }  # fmt: skip
    reduce = {
        "front_dte": 21, "mid_dte": 60, "hedge_offset_min_pct": 20, "hedge_offset_max_pct": 120, "max_option_spread_abs": 0.3,
        "max_option_spread_pct_of_mid": 25, "order_type": "LMT", "tif": "DAY", "allow_market_orders": False,
    }  # fmt: skip
    key = policy_fingerprint("active-v1", "risk-policy-v1", flat | held | {"reduce": reduce})
    assert key == "sha256:f96224085e73308e514f49a1f457bd3a19086d4fd398f2f71588273fc790ed25"


def test_fingerprint_follows_every_field_and_the_version_but_not_how_a_number_is_written(tmp_path: Path) -> None:
    base = content("canary-default")
    known = {read_policy(written(tmp_path / "p.json", base)).fingerprint}
    for change in ({"version": "2"}, {"profile": "other"}):
        known.add(read_policy(written(tmp_path / "p.json", base | change)).fingerprint)
    for group, field, value in (("bands", "vvix_red", 111), ("switches", "row_gates", True), ("monitor", "timeout_s", 11)):
        changed = json.loads(json.dumps(base))
        changed["policy"][group][field] = value
        known.add(read_policy(written(tmp_path / "p.json", changed)).fingerprint)
    assert len(known) == 6
    changed = json.loads(json.dumps(base))
    changed["policy"]["margin_act_pct"] = 20.0
    assert read_policy(written(tmp_path / "p.json", changed)).fingerprint in known


@pytest.mark.parametrize(
    "spoil",
    [
        lambda policy: policy.pop("margin_act_pct"),
        lambda policy: policy.update(margin_panic_pct=5),
        lambda policy: policy["gates"]["usd_jpy"].pop("sessions"),
        lambda policy: policy["bands"].update(vvix_red="110"),
        lambda policy: policy["switches"].update(row_gates=1),
        lambda policy: policy.update(margin_act_pct=9),
        lambda policy: policy.update(spy_drop_pct=-9),
        lambda policy: policy["monitor"].update(notify_floor="observe"),
    ],
)
def test_a_missing_unknown_mistyped_or_contradictory_field_is_an_error_that_names_the_file(tmp_path: Path, spoil: Any) -> None:
    wrong = content("canary-default")
    spoil(wrong["policy"])
    with pytest.raises(PolicyError, match=r"p\.json: policy"):
        read_policy(written(tmp_path / "p.json", wrong))


def test_all_problems_of_all_files_are_told_at_once(tmp_path: Path) -> None:
    one, other = content("canary-default"), content("canary-guarded")
    del one["policy"]["margin_act_pct"], one["policy"]["vix_spike_pct"]
    other["version"] = ""
    paths = [written(tmp_path / "one.json", one), written(tmp_path / "other.json", other), tmp_path / "none.json"]
    with pytest.raises(PolicyError) as error:
        load_policies(paths)
    told = str(error.value).splitlines()
    assert [line.split(": ")[0].rsplit("/", 1)[-1] for line in told] == ["one.json", "one.json", "other.json", "none.json"]


def test_one_profile_twice_is_an_error(tmp_path: Path) -> None:
    paths = [written(tmp_path / f"{n}.json", content("canary-default")) for n in "ab"]
    with pytest.raises(PolicyError, match="given twice"):
        load_policies(paths)


def test_a_term_must_rise_with_stress() -> None:
    good = {"id": "x", "feature": "vvix", "side": "above", "levels": (90, 110), "points": (1, 2)}
    Term.model_validate(good)
    for change in (
        {"levels": (110, 90)},
        {"points": (2, 1)},
        {"points": (1,)},
        {"levels": (), "points": ()},
        {"points": (-1, 2)},
        {"side": "below"},
    ):
        with pytest.raises(ValueError, match="levels"):
            Term.model_validate(good | change)
    with pytest.raises(ValueError, match="watch < act"):
        Confirmation.model_validate({"watch": 3, "act": 2, "urgent": 5, "terms": (good,)})
    with pytest.raises(ValueError, match="an id of its own"):
        Confirmation.model_validate({"watch": 1, "act": 2, "urgent": 5, "terms": (good, good)})


def test_numbers_are_written_shortest() -> None:
    assert (
        json.dumps(shortest({"a": 10.0, "b": [-1.5, 0.3, 2], "c": True, "d": None}))
        == '{"a": 10, "b": [-1.5, 0.3, 2], "c": true, "d": null}'
    )


def test_the_built_in_files_are_in_declared_order() -> None:
    for profile in PROFILES:
        given = content(profile)["policy"]
        declared = RiskPolicy.model_fields["policy"].annotation.model_fields  # type: ignore[union-attr]
        assert list(given) == list(declared)
        places = {name: at for at, name in enumerate(declared)}
        assert all(places[a] < places[b] for a, b in pairwise(given))
