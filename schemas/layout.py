"""The columnar shape of a message: which int64 slots of a batch row hold which field. Compiled from the pydantic model.

A batch is an int64 matrix `(n_records, layout.width)` and a byte arena. A field takes one or two neighbouring slots:

==========  ======  ==========================================================================================
kind        slots   content (null)
==========  ======  ==========================================================================================
text token  2       start, length in bytes, into the arena (length -1)
base64      2       as text; on encode the slots point at the raw bytes
json        2       start, length of the JSON text of the object (length -1)
enum        1       index into `values` (NULL = int64 min)
int bool    1       the number; 0 or 1 (NULL)
float       1       the bits of the float64 (bits of NaN)
decimal     2       mantissa, scale: value = mantissa × 10^-scale, trailing zeros dropped (scale -1)
uuid        2       high, low 64 bits (0, 0)
rfc3339     1       nanoseconds since the epoch (NULL)
object      1       presence of a nullable object: 1, 0; its fields follow as their own columns
list        2       first row, count, into `batch.children[path]` (count -1)
==========  ======  ==========================================================================================
"""

from __future__ import annotations

import types
import typing
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import MaxLen, MinLen
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from schemas.fields import Spec
from schemas.reasons import Reason

_WIDTH = {
    "text": 2, "token": 2, "base64": 2, "json": 2, "enum": 1, "int": 1, "bool": 1, "float": 1, "decimal": 2, "uuid": 2,
    "rfc3339": 1, "object": 1, "list": 2,
}  # fmt: skip


@dataclass(frozen=True)
class Column:
    """One field. `parent` is the index of the object column it lives in, -1 at the top. `item` is the layout of a list's elements."""

    path: str
    name: str
    spec: Spec
    slot: int
    required: bool
    nullable: bool
    parent: int
    values: tuple[str, ...] = ()
    item: Layout | None = None

    @property
    def kind(self) -> str:
        """Return the kind of the field."""
        return self.spec.kind

    @property
    def width(self) -> int:
        """Return how many slots it takes."""
        return _WIDTH[self.spec.kind]


@dataclass(frozen=True)
class Layout:
    """The columns of one model in field order, depth first. `slot("payload.price")` is the first slot of a field."""

    model: type[BaseModel]
    columns: tuple[Column, ...]
    width: int
    forbid_extra: tuple[int, ...]
    """Indices of object columns (and -1 for the top) in which unknown fields are rejected."""

    def column(self, path: str) -> Column:
        """Return the column at a dotted path; KeyError if there is none."""
        for column in self.columns:
            if column.path == path:
                return column
        raise KeyError(path)

    def slot(self, path: str) -> int:
        """Return the first slot of the field at a dotted path."""
        return self.column(path).slot

    def code(self, path: str, value: str) -> int:
        """Return the number an enum value is written as."""
        return self.column(path).values.index(value)


def _unwrap(annotation: Any, metadata: list[Any]) -> tuple[Any, list[Any], bool]:
    """Strip `Annotated` and `| None`; return (type, all metadata, nullable)."""
    nullable = False
    while True:
        origin = get_origin(annotation)
        if origin is Annotated:
            annotation, *extra = get_args(annotation)
            for item in extra:  # pydantic unpacks a Field only outside a union
                metadata = [*metadata, *(item.metadata if isinstance(item, FieldInfo) else [item])]
        elif origin in (Union, types.UnionType):
            members = [m for m in get_args(annotation) if m is not type(None)]
            if len(members) != 1:
                raise TypeError(f"only X | None unions have a columnar form, not {annotation}")
            nullable = nullable or len(members) < len(get_args(annotation))
            annotation = members[0]
        else:
            return annotation, metadata, nullable


def _spec(metadata: list[Any]) -> Spec | None:
    found = [m for m in metadata if isinstance(m, Spec)]
    return found[0] if found else None


class _Builder:
    def __init__(self) -> None:
        self.columns: list[Column] = []
        self.width = 0
        self.forbid: list[int] = []

    def add(self, path: str, name: str, spec: Spec, required: bool, nullable: bool, parent: int, **more: Any) -> int:
        self.columns.append(Column(path, name, spec, self.width, required, nullable, parent, **more))
        self.width += _WIDTH[spec.kind]
        return len(self.columns) - 1

    def model(self, model: type[BaseModel], prefix: str, parent: int) -> None:
        if model.model_config.get("extra") == "forbid":
            self.forbid.append(parent)
        for name, info in model.model_fields.items():
            self.field(prefix + name, name, info, parent)

    def field(self, path: str, name: str, info: FieldInfo, parent: int) -> None:
        kind, metadata, nullable = _unwrap(info.annotation, list(info.metadata))
        required = info.is_required()
        spec = _spec(metadata)
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            index = self.add(path, name, Spec("object"), required, nullable, parent)
            self.model(kind, path + ".", index)
        elif get_origin(kind) is list:
            low = max((m.min_length for m in metadata if isinstance(m, MinLen)), default=0)
            high = max((m.max_length for m in metadata if isinstance(m, MaxLen)), default=0)
            item, _, item_nullable = _unwrap(get_args(kind)[0], [])
            if item_nullable:
                raise TypeError(f"{path}: a list with null elements has no columnar form")
            self.add(path, name, Spec("list", min_len=low, max_len=high), required, nullable, parent, item=layout_of(item))
        elif get_origin(kind) is Literal:
            values = typing.cast(tuple[str, ...], get_args(kind))
            reason = spec.reason if spec else Reason.enum_unknown
            self.add(path, name, Spec("enum", reason=reason), required, nullable, parent, values=values)
        elif kind is bool:
            self.add(path, name, Spec("bool"), required, nullable, parent)
        elif spec is not None:
            self.add(path, name, spec, required, nullable, parent)
        else:
            raise TypeError(f"{path}: {kind} has no columnar form; use a type from schemas.fields")


@cache
def layout_of(model: type[BaseModel]) -> Layout:
    """Compile the layout of a model. Raises TypeError for a field without a columnar form."""
    builder = _Builder()
    builder.model(model, "", -1)
    return Layout(model, tuple(builder.columns), builder.width, tuple(builder.forbid))
