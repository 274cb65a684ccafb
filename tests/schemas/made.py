"""Valid messages of any model by a seeded generator, also of models without a columnar form: made from pydantic's own field annotations.

Scalars come from tests/codec_oracle.py. Holds no rule of its own beyond schemas/fields.py.
"""

from __future__ import annotations

import random
import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import MaxLen, MinLen
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from schemas.fields import Spec
from schemas.layout import Column
from tests.codec_oracle import make_value

LONGEST = 6
"""Elements of a list or an object, unless a list must have more."""


def make_model(rng: random.Random, model: type[BaseModel], fill: float = 0.6) -> dict[str, Any]:
    """Return a valid message of a model as a dict; fields with a default are there with probability `fill`."""
    return {
        info.alias or name: _value(rng, info.annotation, list(info.metadata), fill)
        for name, info in model.model_fields.items()
        if info.is_required() or rng.random() < fill
    }


def _value(rng: random.Random, kind: Any, metadata: list[Any], fill: float) -> Any:
    origin = get_origin(kind)
    if origin is Annotated:
        kind, *extra = get_args(kind)
        more = [part for item in extra for part in (item.metadata if isinstance(item, FieldInfo) else [item])]
        return _value(rng, kind, [*metadata, *more], fill)
    if origin in (Union, types.UnionType):
        members = [member for member in get_args(kind) if member is not type(None)]
        return None if rng.random() < 0.1 else _value(rng, rng.choice(members), metadata, fill)
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return make_model(rng, kind, fill)
    if origin is list:
        low = max((m.min_length for m in metadata if isinstance(m, MinLen)), default=0)
        high = min((m.max_length for m in metadata if isinstance(m, MaxLen)), default=LONGEST)
        return [_value(rng, get_args(kind)[0], [], fill) for _ in range(rng.randint(low, max(low, min(high, LONGEST))))]
    if origin is dict:
        return {f"K{n}": _value(rng, get_args(kind)[1], [], fill) for n in range(rng.randint(0, LONGEST))}
    if origin is Literal:
        return rng.choice(get_args(kind))
    if kind is Any:
        return rng.choice([None, 1, 0.5, "x", [1], {"a": None}])
    spec = next((m for m in metadata if isinstance(m, Spec)), None)
    if spec is None:
        spec = {bool: Spec("bool"), float: Spec("float"), str: Spec("text", max_len=9)}[kind]
    return make_value(rng, Column("", "", spec, 0, True, False, -1))
