"""A model's layout as small int64 arrays, which is what the codec's kernels read: one compiled kernel serves every model.

Holds no parsing and no rendering. Rules: schemas/layout.py says which fields there are, schemas/fields.py what is checked of each.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from schemas.chunk import Bytes, Ints
from schemas.fields import INT64_MAX, INT64_MIN, NULL
from schemas.jit import bare
from schemas.layout import Column, Layout
from schemas.words import PAD, i64, load64, pointer

TEXT, TOKEN, BASE64, JSON, ENUM, INT, BOOL, FLOAT, DECIMAL, UUID, RFC3339, OBJECT, LIST = range(13)
KINDS = ("text", "token", "base64", "json", "enum", "int", "bool", "float", "decimal", "uuid", "rfc3339", "object", "list")

# columns of Table.fields
(F_KIND, F_SLOT, F_NULLABLE, F_REQUIRED, F_NODE, F_NAME, F_NAME_LEN, F_COLUMN, F_REASON, F_MIN, F_MAX, F_LO, F_HI, F_CHARSET,
 F_PREFIX, F_PREFIX_LEN) = range(16)  # fmt: skip
F_SIZE = 16
# columns of Table.nodes
N_SIZE = 5
N_FIRST, N_COUNT, N_REQUIRED, N_FORBID, N_COLUMN = range(5)
# columns of Table.lookup
I_SIZE = 4
I_SPACE, I_AT, I_LEN, I_VALUE = range(4)


class Table(NamedTuple):
    """What the kernels read.

    fields: `(n_fields, 16)` int64, the fields of one object next to each other. nodes: `(n_nodes, 5)` int64, one row per object
    (0 the message). lookup: `(2^bits, 4)` int64, open addressing, of names (space = node) and enum values (space = -1 - field);
    an empty place has value -1. names: uint8, what they point into. charsets: `(n, 256)` uint8, 1 for an allowed byte.
    bounds: `(n_fields, 2)` float64, of float fields. template: `(width,)` int64, a row of nulls; stride, template_item: the same
    of list elements (the widest list's stride).
    """

    fields: Ints
    nodes: Ints
    lookup: Ints
    names: Bytes
    charsets: Bytes
    bounds: NDArray[np.float64]
    template: Ints
    template_item: Ints


class View(NamedTuple):
    """A `Table` inside a kernel: pointers to the same arrays, flat, and their sizes."""

    fields: Any
    nodes: Any
    lookup: Any
    names: Any
    charsets: Any
    bounds: Any
    template: Any
    template_item: Any
    n_fields: int
    lookup_size: int
    width: int
    stride: int


@bare
def view(table: Table) -> View:
    """Return the view of a table."""
    return View(
        pointer(table.fields),
        pointer(table.nodes),
        pointer(table.lookup),
        pointer(table.names),
        pointer(table.charsets),
        pointer(table.bounds),
        pointer(table.template),
        pointer(table.template_item),
        table.fields.shape[0],
        table.lookup.shape[0],
        table.template.shape[0],
        table.template_item.shape[1],
    )


@dataclass(frozen=True, slots=True)
class FieldInfo:
    """What is said of a field to people: dotted path, its column and the list column it is an element's field of (or None)."""

    path: str
    column: Column


@dataclass(slots=True)
class _Names:
    data: bytearray = field(default_factory=bytearray)

    def add(self, text: bytes) -> int:
        at = len(self.data)
        self.data += text
        return at


@bare
def find(t: View, space: int, buf: Bytes, at: int, length: int) -> int:
    """Return the value of the name `buf[at:at + length]` in a space of the index, -1 if it is not there."""
    mask = t.lookup_size - 1
    place = _hash(space, buf, at, length) & mask
    while True:
        entry = place * I_SIZE
        value = t.lookup[entry + I_VALUE]
        if value < 0:
            return -1
        if (
            t.lookup[entry + I_SPACE] == space
            and t.lookup[entry + I_LEN] == length
            and same(buf, at, t.names, t.lookup[entry + I_AT], length)
        ):
            return int(value)
        place = (place + 1) & mask


@bare
def _hash(space: int, buf: Bytes, at: int, length: int) -> int:
    if length >= 8:
        a = load64(buf, at)
        b = load64(buf, at + length - 8)
    else:
        a = load64(buf, at) & ((np.uint64(1) << np.uint64(8 * length)) - np.uint64(1))
        b = np.uint64(0)
    h = a ^ (b * np.uint64(0x9E3779B97F4A7C15)) ^ (np.uint64(length + 64 * space) * np.uint64(0xD6E8FEB86659FD93))
    h ^= h >> np.uint64(32)
    h *= np.uint64(0xFF51AFD7ED558CCD)
    return i64(h >> np.uint64(40))


@bare
def same(buf: Bytes, at: int, names: Bytes, name: int, length: int) -> bool:
    """Return whether `length` bytes are the same; reads up to 7 more of either."""
    k = 0
    while k + 8 <= length:
        if load64(buf, at + k) != load64(names, name + k):
            return False
        k += 8
    if k == length:
        return True
    differ = load64(buf, at + k) ^ load64(names, name + k)
    return bool((differ << np.uint64(64 - 8 * (length - k))) == np.uint64(0))


@dataclass(frozen=True, slots=True)
class Compiled:
    """A layout ready for the decoder: the table, what each of its fields is called, and the slots that need care afterwards.

    follow: `(n_fields + n_nodes,)` int64, which field is expected after a field, and first in an object: the one defined next, -1
    for none. lists: (path, column index, slot, element width) of each list. text_slots, item_text_slots: first slots of texts in a row and,
    by list path, in an element.
    """

    layout: Layout
    table: Table
    follow: Ints
    fields: tuple[FieldInfo, ...]
    lists: tuple[tuple[str, int, int, int], ...]
    text_slots: tuple[int, ...]
    item_text_slots: dict[str, tuple[int, ...]]


_TEXTS = ("text", "token", "base64", "json")


def text_slots(layout: Layout) -> tuple[int, ...]:
    """Return the first slots of the fields whose value is text in an arena."""
    return tuple(c.slot for c in layout.columns if c.kind in _TEXTS)


def null_row(layout: Layout) -> Ints:
    """Return a row `(width,)` int64 in which every field is null."""
    row = np.zeros(layout.width, np.int64)
    nan = int(np.array(np.nan).view(np.int64))
    for column in layout.columns:
        kind, slot = column.kind, column.slot
        if kind in _TEXTS or kind == "list" or kind == "decimal":
            row[slot + 1] = -1
        elif kind in ("enum", "int", "bool", "rfc3339"):
            row[slot] = NULL
        elif kind == "float":
            row[slot] = nan
    return row


def check_layout(layout: Layout, inside: str = "") -> None:
    """Raise TypeError for what the codec has no form for, naming the field."""
    for column in layout.columns:
        where = inside + column.path
        if not column.required and not column.nullable:
            raise TypeError(f"{where}: a default other than null has no columnar form; make it required or X | None = None")
        if column.item is not None:
            if inside:
                raise TypeError(f"{where}: a list inside a list has no columnar form")
            check_layout(column.item, where + "[].")
        if column.kind == "int" and (column.spec.lo is None or column.spec.hi is None):
            raise TypeError(f"{where}: an integer needs both bounds")
        if column.kind == "token" and set(column.spec.charset + column.spec.prefix) & set(
            b'"\\' + bytes(range(32)) + bytes(range(128, 256))
        ):
            raise TypeError(f"{where}: the characters of a token are printable ASCII without quote and backslash")
    _check_model(layout.model, inside)


def _check_model(model: type[BaseModel], inside: str) -> None:
    for name, info in model.model_fields.items():
        if info.alias or info.validation_alias or info.serialization_alias:
            raise TypeError(f"{inside}{name}: aliases have no columnar form")
        if not info.is_required() and info.default is not None:
            raise TypeError(f"{inside}{name}: a default other than null has no columnar form")


class _Compiler:
    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.rows: list[list[int]] = []
        self.bounds: list[tuple[float, float]] = []
        self.nodes: list[list[int]] = []
        self.infos: list[FieldInfo] = []
        self.charsets: dict[bytes, int] = {}
        self.names = _Names()
        self.entries: list[tuple[int, int, int, int]] = []

    def node(self, layout: Layout, parent: int, inside: str, column: int) -> int:
        """Add the object `parent` of a layout and everything below it; `column` ≥ 0 is the list column elements are told as."""
        index = len(self.nodes)
        members = [(i, c) for i, c in enumerate(layout.columns) if c.parent == parent]
        first = len(self.rows)
        self.nodes.append([first, len(members), sum(c.required for _, c in members), int(parent in layout.forbid_extra),
                           column if column >= 0 else parent])  # fmt: skip
        for i, c in members:
            self.rows.append(self.field(index, c, column if column >= 0 else i))
            lo, hi = (c.spec.lo, c.spec.hi) if c.kind == "float" else (None, None)
            self.bounds.append((-np.inf if lo is None else float(lo), np.inf if hi is None else float(hi)))
            self.infos.append(FieldInfo(inside + c.path, c))
            for number, value in enumerate(c.values):
                self.entry(-1 - (len(self.rows) - 1), value.encode(), number)
        for k, (i, c) in enumerate(members):
            if c.kind == "object":
                self.rows[first + k][F_NODE] = self.node(layout, i, inside, column)
            elif c.item is not None:
                self.rows[first + k][F_NODE] = self.node(c.item, -1, f"{c.path}[].", i)
        return index

    def field(self, node: int, c: Column, column: int) -> list[int]:
        spec = c.spec
        key = json.dumps(c.name, ensure_ascii=False).encode()
        at = self.names.add(key + b":")
        if key[1:-1] != c.name.encode():
            raise TypeError(f"{c.path}: a field name that needs escapes has no columnar form")
        self.entries.append((node, at + 1, len(key) - 2, len(self.rows)))
        charset = -1
        if spec.kind == "token":
            charset = self.charsets.setdefault(bytes(sorted(set(spec.charset))), len(self.charsets))
        lo, hi = (spec.lo, spec.hi) if spec.kind in ("int", "decimal") else (None, None)
        return [KINDS.index(spec.kind), c.slot, int(c.nullable), int(c.required), -1, at, len(key) + 1, column, int(spec.reason),
                spec.min_len, spec.max_len, INT64_MIN if lo is None else int(lo), INT64_MAX if hi is None else int(hi),
                charset, self.names.add(spec.prefix), len(spec.prefix)]  # fmt: skip

    def entry(self, space: int, text: bytes, value: int) -> None:
        self.entries.append((space, self.names.add(text), len(text), value))

    def compiled(self) -> Compiled:
        self.node(self.layout, -1, "", -1)
        names = np.frombuffer(bytes(self.names.data) + bytes(PAD), np.uint8).copy()
        index = np.full((1 << (4 * len(self.entries)).bit_length(), 4), -1, np.int64)
        for space, at, length, value in self.entries:
            place = _hash(space, names, at, length) & (len(index) - 1)
            while index[place, I_VALUE] >= 0:
                place = (place + 1) & (len(index) - 1)
            index[place] = (space, at, length, value)
        charsets = np.zeros((max(1, len(self.charsets)), 256), np.uint8)
        for charset, row in self.charsets.items():
            charsets[row, list(charset)] = 1
        lists = tuple((c.path, i, c.slot, c.item.width) for i, c in enumerate(self.layout.columns) if c.item is not None)
        stride = max((width for *_, width in lists), default=1)
        items = np.zeros((len(self.nodes), stride), np.int64)
        for (_, i, _, width), node in zip(lists, self.list_nodes(), strict=True):
            items[node, :width] = null_row(_item(self.layout.columns[i]))
        table = Table(
            np.array(self.rows, np.int64), np.array(self.nodes, np.int64), index, names, charsets,
            np.array(self.bounds, np.float64), null_row(self.layout), items,
        )  # fmt: skip
        # guesses stay inside one object: a name of another object must not match
        follow = np.arange(1, len(self.rows) + len(self.nodes) + 1, dtype=np.int64)
        for k, (first, count, *_) in enumerate(self.nodes):
            follow[first + count - 1 : first + count] = first
            follow[len(self.rows) + k] = first if count else -1
        item_texts = {c.path: text_slots(c.item) for c in self.layout.columns if c.item is not None}
        return Compiled(self.layout, table, follow, tuple(self.infos), lists, text_slots(self.layout), item_texts)

    def list_nodes(self) -> list[int]:
        """Return the element node of each list, in the order of their columns."""
        found = sorted((row[F_COLUMN], row[F_NODE]) for row in self.rows if row[F_KIND] == LIST)
        return [node for _, node in found]


def _item(column: Column) -> Layout:
    assert column.item is not None
    return column.item


def compile_layout(layout: Layout) -> Compiled:
    """Compile a layout for the decoder. Raises TypeError for what has no columnar form."""
    check_layout(layout)
    return _Compiler(layout).compiled()
