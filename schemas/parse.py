"""Messages of topics with a low rate, parsed one by one with pydantic: the message, or the reason code and what is wrong with it.

Reason codes as the columnar codec gives them (schemas/codec): what is wrong goes before what is missing. Only of several wrong fields the codec
names the first in the bytes, and this the first in the model. Tests hold the two together where a model has both forms.
"""

from __future__ import annotations

from typing import TypeVar, get_args

from pydantic import BaseModel, ValidationError

from schemas.envelope import Envelope
from schemas.fields import Spec
from schemas.layout import _spec
from schemas.reasons import Reason

M = TypeVar("M", bound=Envelope)

MAX_BYTES = 1_048_576
"""Values above this are `oversize`, whatever is in them."""
_KINDS = {"literal_error": Reason.enum_unknown}


def parse(model: type[M], value: bytes) -> M | tuple[Reason, str]:
    """Return the message in a record's value, or (reason code, explanation)."""
    if not value:
        return Reason.json_malformed, "the record is empty"
    if len(value) > MAX_BYTES:
        return Reason.oversize, f"{len(value)} bytes; at most {MAX_BYTES} are taken"
    try:
        value.decode()
    except UnicodeDecodeError as error:
        return Reason.encoding_invalid, f"not UTF-8 at byte {error.start}"
    try:
        return model.model_validate_json(value)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False)
        first = next((problem for problem in problems if problem["type"] != "missing"), problems[0])
        where = ".".join(str(part) for part in first["loc"])
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        return _reason(model, first["type"], tuple(first["loc"])), f"{where + ': ' if where else ''}{first['msg']}{more}"[:512]


def _reason(model: type[Envelope], kind: str, where: tuple[int | str, ...]) -> Reason:
    if not where:  # not JSON, or no object
        return Reason.json_malformed
    if kind == "missing":
        return Reason.field_missing
    spec = _field_spec(model, where)
    if spec is not None and spec.reason is not Reason.field_invalid:
        return spec.reason
    return _KINDS.get(kind, Reason.field_invalid)


def _field_spec(model: type[Envelope], where: tuple[int | str, ...]) -> Spec | None:
    """Return the spec of the field at an error's place, if it has one of its own."""
    current: object = model
    spec = None
    for part in where:
        if isinstance(part, int):
            continue
        if not (isinstance(current, type) and issubclass(current, BaseModel)) or part not in current.model_fields:
            return None
        info = current.model_fields[part]
        pending: list[object] = [info.annotation, *info.metadata]
        spec, current = _spec(list(info.metadata)), None
        while pending:
            item = pending.pop(0)
            if isinstance(item, type) and issubclass(item, BaseModel):
                current = item
            elif isinstance(item, Spec):
                spec = item
            else:
                pending += get_args(item)
    return spec
