"""The messages of the regime dashboard, the canary and the monitor: what is optional may be missing, what a sentinel must not say cannot be said."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from schemas.canary import DENIED, CanaryAlertMessage, CanaryResult, Indicator, NoticeMessage, Regime
from schemas.parse import parse
from schemas.policy import ROWS, Row
from schemas.reasons import Reason
from schemas.registry import (
    CANARY_BROADCAST,
    CANARY_CHANGELOG,
    CANARY_INPUTS,
    CANARY_OUTPUTS,
    DELIVERY_TOPICS,
    MONITOR_CHANGELOG,
    MONITOR_INPUTS,
    MONITOR_OUTPUTS,
    REGIME_CHANGELOG,
    REGIME_INPUTS,
    REGIME_OUTPUTS,
    TOPICS,
)
from tests.schemas.made import make_model

OWN = tuple(
    name
    for name in dict.fromkeys((*REGIME_INPUTS, *REGIME_OUTPUTS, *CANARY_OUTPUTS, *MONITOR_OUTPUTS, *DELIVERY_TOPICS))
    if TOPICS[name].model is not None
)


def models_in(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """Yield a model and every model inside it."""
    pending: list[Any] = [model]
    seen = set()
    while pending:
        found = pending.pop()
        if isinstance(found, type) and issubclass(found, BaseModel):
            if found not in seen:
                seen.add(found)
                yield found
                pending += [part for info in found.model_fields.values() for part in (info.annotation, *info.metadata)]
        else:
            pending += get_args(found)


@given(st.sampled_from(OWN), st.integers(0, 2**32), st.floats(0.0, 1.0))
def test_what_is_made_by_the_model_is_taken(topic: str, seed: int, fill: float) -> None:
    model = TOPICS[topic].model
    assert model is not None
    made = make_model(random.Random(seed), model, fill)
    found = parse(model, json.dumps(made).encode())
    assert not isinstance(found, tuple), found
    again = parse(model, found.model_dump_json(by_alias=True).encode())
    assert again == found


def test_topics_fit_together() -> None:
    flows = (
        (REGIME_INPUTS, (), REGIME_OUTPUTS, REGIME_CHANGELOG),
        (CANARY_INPUTS, CANARY_BROADCAST, CANARY_OUTPUTS, CANARY_CHANGELOG),
        (MONITOR_INPUTS, (), MONITOR_OUTPUTS, MONITOR_CHANGELOG),
    )
    for inputs, broadcast, outputs, changelog in flows:
        assert {*inputs, *broadcast, *outputs, changelog} <= TOPICS.keys()
        assert not set(inputs) & set(broadcast)
        counted = [TOPICS[name] for name in (*inputs, changelog)]
        assert len({(topic.lanes, None if topic.lanes else topic.partitions) for topic in counted}) == 1
        assert TOPICS[changelog].cleanup == "offset"
    assert [TOPICS[name].key for name in CANARY_INPUTS] == ["account"] * 3 + ["book"] * 2
    assert tuple(get_args(Row)) == ROWS


def test_a_sentinel_has_no_field_for_what_it_must_not_say() -> None:
    for top in (CanaryAlertMessage, NoticeMessage):
        payload = top.model_fields["payload"].annotation
        assert payload is not None
        for model in models_in(payload):
            assert model.model_config.get("extra") == "forbid", model
            assert not {name.lower() for name in model.model_fields} & set(DENIED), model
            assert not {(info.alias or "").lower() for info in model.model_fields.values()} & set(DENIED)


def test_nothing_can_be_smuggled_into_an_alert() -> None:
    alert = CanaryAlertMessage.model_fields["payload"].annotation
    assert alert is not None
    rng = random.Random(1)
    good = make_model(rng, alert, 1.0)
    alert.model_validate_json(json.dumps(good))

    def objects(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
        if isinstance(value, dict):
            yield path
            for name, item in value.items():
                yield from objects(item, (*path, name))
        elif isinstance(value, list):
            for at, item in enumerate(value[:1]):
                yield from objects(item, (*path, at))

    places = list(objects(good))
    assert len(places) > 10
    for denied in DENIED:
        for path in places:
            spoiled = json.loads(json.dumps(good))
            where = spoiled
            for step in path:
                where = where[step]
            where[denied] = "1"
            with pytest.raises(ValidationError):
                alert.model_validate_json(json.dumps(spoiled))


def test_not_execution_cannot_be_denied() -> None:
    good = make_model(random.Random(2), CanaryResult, 1.0)
    with pytest.raises(ValidationError, match="not_execution"):
        CanaryResult.model_validate_json(json.dumps(good | {"not_execution": False}))


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        ({"indicator": "vix", "source": "x", "value": "18"}, Reason.field_invalid),
        ({"indicator": "VIX", "source": "x"}, Reason.field_invalid),
        ({"source": "x"}, Reason.field_missing),
        ({"indicator": "vix", "source": "x", "status": "fine"}, Reason.enum_unknown),
        ({"indicator": "vix", "source": "x", "as_of_ns": 18}, Reason.timestamp_invalid),
    ],
)
def test_bad_observation_is_refused_with_its_reason(payload: dict[str, Any], reason: Reason) -> None:
    model = TOPICS["market.indicator.v1"].model
    assert model is not None
    made = make_model(random.Random(3), model) | {"payload": payload}
    found = parse(model, json.dumps(made).encode())
    assert isinstance(found, tuple)
    assert found[0] is reason


def test_an_observation_of_nothing_is_one() -> None:
    assert Indicator(indicator="vix", source="cboe", status="unavailable").value is None


def test_a_regime_has_all_rows() -> None:
    made = make_model(random.Random(4), Regime, 1.0)
    with pytest.raises(ValidationError, match="rows"):
        Regime.model_validate_json(json.dumps(made | {"rows": made["rows"][:7]}))
