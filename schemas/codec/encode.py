"""Columns → chunk of bytes: one pass of one kernel over all rows, driven by a compiled list of steps.

Writes the shortest form: no white space, null fields left out. It trusts the rows to hold values the contract allows (bounds,
characters), and checks what would break the JSON or read outside an arena. Rules: schemas/layout.py, schemas/fields.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple, Protocol

import numpy as np
from pydantic import BaseModel

from schemas.chunk import Bytes, Ints
from schemas.codec.table import (
    BASE64,
    BOOL,
    DECIMAL,
    ENUM,
    FLOAT,
    INT,
    JSON,
    KINDS,
    LIST,
    OBJECT,
    RFC3339,
    UUID,
    check_layout,
)
from schemas.codec.write import (
    MAX_NUMBER,
    write_base64,
    write_decimal,
    write_float,
    write_raw,
    write_rfc3339,
    write_text,
)
from schemas.fields import MAX_DECIMAL_DIGITS, NULL, TS_MAX_NS, TS_MIN_NS, Spec
from schemas.hashing import uuid_text_into, write_int_into
from schemas.jit import bare
from schemas.layout import Column, Layout, layout_of
from schemas.words import PAD, bytes_at, float_of_bits, i64, ints_at, pointer

_NO_BYTES = np.zeros(0, np.uint8)

# steps beside the kinds of fields: close an object, close a list element, a text made at compile time
_CLOSE, _NEXT, _MADE = 20, 21, 22
# columns of Steps.steps. S_NAME: where the `"name":` stands (of _MADE the whole member). S_SKIP: the step to go on with when null
_S_KIND, _S_SLOT, _S_NULLABLE, _S_NAME, _S_NAME_LEN, _S_SKIP, _S_VALUES, _S_N_VALUES, _S_COLUMN = range(9)
_S_SIZE = 10
_OK, _FULL, _IS_NULL, _OUTSIDE, _BAD_NUMBER = range(5)


class Steps(NamedTuple):
    """What the kernel follows.

    steps: `(n, 10)` int64. values: `(m, 2)` int64, start and length in `texts` of each enum value, quoted. texts: uint8. room: bytes
    one step may need beside the text of its field.
    """

    steps: Ints
    values: Ints
    texts: Bytes
    room: int


class Source(NamedTuple):
    """What is read, by address: callers' arrays may be read-only or not, and are one kernel's all the same.

    rows: n rows of `width` int64. items: `n_items` list elements of `stride` int64. arena, arena2: uint8 of these sizes.
    """

    rows: int
    n: int
    width: int
    items: int
    n_items: int
    stride: int
    arena: int
    size: int
    arena2: int
    size2: int


@bare
def _write(plan: Steps, source: Source, start: int, array: Bytes, bounds: Ints, found: Ints) -> tuple[int, int]:
    """Write rows from `start` on behind `bounds[start]`; return (the row it stopped before, n when all are written; why).

    found: `(1,)` int64, the step a fault is in.
    """
    n = source.n
    width = source.width
    steps = pointer(plan.steps)
    values = pointer(plan.values)
    texts = pointer(plan.texts)
    texts_size = len(plan.texts)
    n_steps = plan.steps.shape[0]
    out = pointer(array)
    full = len(array) - plan.room - PAD
    stride = source.stride
    sizes0, sizes1 = source.size, source.size2
    slots_of_rows = ints_at(source.rows)
    slots_of_items = ints_at(source.items)
    n_items = source.n_items
    own, other = bytes_at(source.arena), bytes_at(source.arena2)
    pos = bounds[start]
    for r in range(start, n):
        slots = slots_of_rows
        base = r * width
        out[pos] = 123
        pos += 1
        step = 0
        list_step = 0
        left = 0
        item = 0
        while step < n_steps:
            if pos > full:
                return r, _FULL
            s = step * _S_SIZE
            kind = steps[s + _S_KIND]
            if kind == _CLOSE:
                out[pos] = 125
                pos += 1
                step += 1
                continue
            if kind == _NEXT:
                out[pos] = 125
                pos += 1
                left -= 1
                if left > 0:
                    out[pos] = 44
                    out[pos + 1] = 123
                    pos += 2
                    item += 1
                    base = item * stride
                    step = list_step + 1
                else:
                    out[pos] = 93
                    pos += 1
                    slots = slots_of_rows
                    base = r * width
                    step = steps[list_step * _S_SIZE + _S_SKIP]
                continue
            at = base + steps[s + _S_SLOT]
            a = i64(0)
            b = i64(0)
            null = False
            if kind <= JSON or kind in (DECIMAL, LIST):  # texts come first among the kinds
                a = slots[at]
                b = slots[at + 1]
                null = b < 0
            elif kind == UUID:
                a = slots[at]
                b = slots[at + 1]
                null = a == 0 and b == 0
            elif kind == OBJECT:
                null = steps[s + _S_NULLABLE] != 0 and slots[at] == 0
            elif kind == FLOAT:
                a = slots[at]
                null = (a & 0x7FFFFFFFFFFFFFFF) > 0x7FF0000000000000
            elif kind != _MADE:
                a = slots[at]
                null = a == NULL
            if null:
                if steps[s + _S_NULLABLE] == 0:
                    found[0] = steps[s + _S_COLUMN]
                    return r, _IS_NULL
                step = steps[s + _S_SKIP]
                continue
            if out[pos - 1] != 123:
                out[pos] = 44
                pos += 1
            pos = write_raw(texts, texts_size, steps[s + _S_NAME], steps[s + _S_NAME_LEN], out, pos)
            step += 1
            if kind <= JSON:
                mine = a >= 0
                text = own if mine else other
                if not mine:
                    a = -a - 1
                size = sizes0 if mine else sizes1
                if b > size or a > size - b:
                    found[0] = steps[s + _S_COLUMN]
                    return r, _OUTSIDE
                if kind == BASE64:
                    if pos + 4 * (b // 3) + 8 > full:
                        return r, _FULL
                    pos = write_base64(text, a, b, out, pos)
                elif kind == JSON:
                    if pos + b > full:
                        return r, _FULL
                    pos = write_raw(text, size, a, b, out, pos)
                else:
                    if pos + 6 * b > full:
                        return r, _FULL
                    pos = write_text(text, size, a, b, out, pos)
            elif kind == ENUM:
                if a < 0 or a >= steps[s + _S_N_VALUES]:
                    found[0] = steps[s + _S_COLUMN]
                    return r, _BAD_NUMBER
                v = 2 * (steps[s + _S_VALUES] + a)
                pos = write_raw(texts, texts_size, values[v], values[v + 1], out, pos)
            elif kind == INT:
                pos += write_int_into(a, out, pos)
            elif kind == BOOL:
                if a == 0:
                    out[pos] = 102
                    out[pos + 1] = 97
                    out[pos + 2] = 108
                    out[pos + 3] = 115
                    pos += 4
                else:
                    out[pos] = 116
                    out[pos + 1] = 114
                    out[pos + 2] = 117
                    pos += 3
                out[pos] = 101
                pos += 1
            elif kind == FLOAT:
                if (a & 0x7FFFFFFFFFFFFFFF) == 0x7FF0000000000000:
                    found[0] = steps[s + _S_COLUMN]
                    return r, _BAD_NUMBER
                pos = write_float(float_of_bits(a), out, pos)
            elif kind == DECIMAL:
                if b > MAX_DECIMAL_DIGITS or a == NULL:
                    found[0] = steps[s + _S_COLUMN]
                    return r, _BAD_NUMBER
                pos = write_decimal(a, b, out, pos)
            elif kind == UUID:
                out[pos] = 34
                uuid_text_into(a, b, out, pos + 1)
                out[pos + 37] = 34
                pos += 38
            elif kind == RFC3339:
                if a < TS_MIN_NS or a >= TS_MAX_NS:
                    found[0] = steps[s + _S_COLUMN]
                    return r, _BAD_NUMBER
                pos = write_rfc3339(a, out, pos)
            elif kind == OBJECT:
                out[pos] = 123
                pos += 1
            elif kind == LIST:
                out[pos] = 91
                pos += 1
                if b == 0:
                    out[pos] = 93
                    pos += 1
                    step = steps[s + _S_SKIP]
                    continue
                item = steps[s + _S_VALUES] + a  # where the elements of this list begin among all
                if a < 0 or b > n_items or item > n_items - b:
                    found[0] = steps[s + _S_COLUMN]
                    return r, _OUTSIDE
                out[pos] = 123
                pos += 1
                left = b
                list_step = step - 1
                slots = slots_of_items
                base = item * stride
        bounds[r + 1] = pos
    return n, _OK


def _flat(arena: Bytes) -> Bytes:
    if arena.ndim != 1 or arena.dtype != np.uint8:
        raise ValueError(f"an arena must be (n,) uint8, not {arena.shape} {arena.dtype}")
    return np.ascontiguousarray(arena)


class _Plan:
    """Compiles a layout and its constants to steps."""

    def __init__(self, layout: Layout, const: Mapping[str, Any]) -> None:
        self.const = dict(const)
        self.steps: list[list[int]] = []
        self.values: list[tuple[int, int]] = []
        self.texts = bytearray()
        self.columns: list[str] = []
        self.lists: list[int] = []
        self.room = 64
        self.members(layout, -1, "")
        self.step(_CLOSE)
        if self.const:
            raise ValueError(f"{layout.model.__name__}: constants for fields there are not: {', '.join(sorted(self.const))}")

    def text(self, text: str) -> tuple[int, int]:
        raw = text.encode()
        at = len(self.texts)
        self.texts += raw
        self.room = max(self.room, 2 * len(raw) + MAX_NUMBER + 2)  # a name and a value, or a number
        return at, len(raw)

    def step(self, kind: int, slot: int = 0, nullable: bool = False, name: str = "", path: str = "") -> list[int]:
        self.columns.append(path)
        made = [kind, slot, int(nullable), *self.text(name), 0, 0, 0, len(self.columns) - 1, 0]
        self.steps.append(made)
        made[_S_SKIP] = len(self.steps)
        return made

    def members(self, layout: Layout, parent: int, inside: str) -> None:
        for i, column in enumerate(layout.columns):
            if column.parent == parent:
                self.member(layout, i, column, inside)

    def member(self, layout: Layout, i: int, column: Column, inside: str) -> None:
        path = inside + column.path
        name = json.dumps(column.name, ensure_ascii=False) + ":"
        if path in self.const:
            value = self.const.pop(path)
            if value is None and column.nullable:
                return
            self.step(_MADE, name=name + constant(path, column.spec, column.values, value), path=path)
            return
        made = self.step(KINDS.index(column.kind), column.slot, column.nullable, name, path)
        if column.kind == "enum":
            made[_S_VALUES], made[_S_N_VALUES] = len(self.values), len(column.values)
            self.values += [self.text(json.dumps(value, ensure_ascii=False)) for value in column.values]
        elif column.kind == "object":
            self.members(layout, i, inside)
            self.step(_CLOSE)
        elif column.item is not None:
            self.lists.append(len(self.steps) - 1)
            self.members(column.item, -1, path + "[].")
            self.step(_NEXT)
        made[_S_SKIP] = len(self.steps)


def constant(path: str, spec: Spec, values: tuple[str, ...], value: Any) -> str:
    """Return the JSON of a constant of a field; ValueError naming the field when the field cannot hold it."""
    kind = spec.kind
    fits: bool
    if kind == "enum":
        fits = value in values
    elif kind == "bool":
        fits = isinstance(value, bool)
    elif kind in ("int", "float"):
        number = isinstance(value, int if kind == "int" else (int, float)) and not isinstance(value, bool)
        fits = number and (spec.lo is None or value >= spec.lo) and (spec.hi is None or value <= spec.hi)
    else:
        fits = isinstance(value, str) and kind in ("text", "token", "decimal", "uuid", "rfc3339", "base64")
    if not fits:
        raise ValueError(f"{path}: a constant {value!r} is not what a field of kind {kind} holds")
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


class Child(Protocol):
    """The elements of a list field: rows `(m, width)` int64 and the arena their texts point into."""

    @property
    def rows(self) -> Ints:
        """Return the rows."""
        ...

    @property
    def arena(self) -> Bytes:
        """Return the arena."""
        ...


class Encoder:
    """Encodes rows of one layout; get one from `compile_encoder`. Keeps only how long records were, to ask for room once."""

    def __init__(self, layout: Layout, const: Mapping[str, Any] | None = None) -> None:
        check_layout(layout)
        self.layout = layout
        plan = _Plan(layout, const or {})
        texts = np.frombuffer(bytes(plan.texts) + bytes(PAD), np.uint8).copy()
        self._plan = Steps(np.array(plan.steps, np.int64), np.array(plan.values or [(0, 0)], np.int64).reshape(-1, 2), texts, plan.room)
        self._columns = plan.columns
        self._list_steps = plan.lists
        self._lists = tuple(column for column in layout.columns if column.item is not None)
        self._stride = max((column.item.width for column in self._lists if column.item is not None), default=1)
        self._guess = len(plan.texts) + 256

    def encode(
        self,
        rows: Ints,
        arena: Bytes,
        arena2: Bytes | None = None,
        children: Mapping[str, Child] | None = None,
    ) -> tuple[Bytes, Ints]:
        """Return (the records end to end, bounds `(n + 1,)` int64) of rows `(n, layout.width)` int64.

        A text slot `start >= 0` points into `arena`, `start < 0` into `arena2` at `-start - 1`; of list elements into their own arena or
        `arena2`. Raises ValueError, naming row and field, for a required field that is null, an infinite float, a number no
        form exists for, and a slot that points outside its arena or children.
        """
        if rows.ndim != 2 or rows.shape[1] != self.layout.width or rows.dtype != np.int64:
            raise ValueError(f"rows must be (n, {self.layout.width}) int64, not {rows.shape} {rows.dtype}")
        rows = np.ascontiguousarray(rows)
        first = _flat(arena)
        plan, items, second = self._items(arena, _NO_BYTES if arena2 is None else _flat(arena2), children or {})
        n = len(rows)
        source = Source(
            rows.ctypes.data, n, self.layout.width, items.ctypes.data, len(items) // self._stride, self._stride,
            first.ctypes.data, len(first), second.ctypes.data, len(second),
        )  # fmt: skip
        bounds = np.zeros(n + 1, np.int64)
        found = np.zeros(1, np.int64)
        out = np.empty(n * self._guess + plan.room + 4096, np.uint8)
        done = 0
        while True:
            done, why = _write(plan, source, done, out, bounds, found)
            if why == _OK:
                break
            if why != _FULL:
                raise ValueError(self._fault(done, why, int(found[0])))
            longer = np.empty(2 * len(out) + self._longest(rows[done]), np.uint8)
            used = int(bounds[done])
            longer[:used] = out[:used]
            out = longer
        if n:
            self._guess = max(int(bounds[n]) // n * 9 // 8 + 16, self._guess * 15 // 16)
        return out[: bounds[n]], bounds

    def _longest(self, row: Ints) -> int:
        """Return enough room for the texts of one row, so that each record is begun at most twice."""
        texts = [int(row[c.slot + 1]) for c in self.layout.columns if c.kind in ("text", "token", "json", "base64")]
        return 6 * sum(length for length in texts if length > 0)

    def _items(self, arena: Bytes, arena2: Bytes, children: Mapping[str, Child]) -> tuple[Steps, Ints, Bytes]:
        """Lay the elements of all lists end to end, with the texts of foreign arenas moved to the second one."""
        if not self._lists:
            return self._plan, np.zeros(0, np.int64), arena2
        steps = self._plan.steps.copy()
        parts: list[Ints] = []
        first = 0
        for column, step in zip(self._lists, self._list_steps, strict=True):
            steps[step, _S_VALUES] = first
            child = children.get(column.path)
            if child is None or column.item is None:
                continue
            block = np.zeros((len(child.rows), self._stride), np.int64)
            block[:, : column.item.width] = child.rows
            if child.arena is not arena:
                for inner in column.item.columns:
                    if inner.kind in ("text", "token", "base64", "json"):
                        start = block[:, inner.slot]
                        start[start >= 0] = -1 - (start[start >= 0] + len(arena2))
                arena2 = np.concatenate([arena2, _flat(child.arena)])
            parts.append(block)
            first += len(block)
        items = np.concatenate(parts).reshape(-1) if parts else np.zeros(0, np.int64)
        return self._plan._replace(steps=steps), items, arena2

    def _fault(self, row: int, why: int, column: int) -> str:
        what = {
            _IS_NULL: "is required but null",
            _OUTSIDE: "points outside its arena or its children",
            _BAD_NUMBER: "holds a number that cannot be written",
        }[why]
        return f"row {row}: {self._columns[column]} {what}"


@cache
def _compiled(model: type[BaseModel], const: tuple[tuple[str, type, Any], ...]) -> Encoder:
    return Encoder(layout_of(model), {path: value for path, _, value in const})


def compile_encoder(model: type[BaseModel], const: Mapping[str, Any] | None = None) -> Encoder:
    """Return the encoder of a model in which the fields of `const` (by dotted path) always hold the given value.

    The slots of constant fields are not read. Raises TypeError for a model without a columnar form, ValueError for a constant its
    field cannot hold.
    """
    for path, value in (const or {}).items():
        if not isinstance(value, (str, int, float, type(None))):
            raise ValueError(f"{path}: a constant {value!r} is not a text, a number, a bool or None")
    # with the type, because 1 == True
    return _compiled(model, tuple((path, type(const[path]), const[path]) for path in sorted(const)) if const else ())
