"""What the execution kernels are handed: reference data, the batch at hand, and room for what they decide.

Kernels may not allocate or grow: the caller (operators/execution.py) reserves room for a record before it is taken, and flushes the outputs.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from operators import memory as mem
from operators import slots
from operators.memory import REFERENCE, Map, copy_bytes
from schemas.chunk import Bytes, Ints
from schemas.fields import NULL
from schemas.hashing import hash128
from schemas.jit import bare
from schemas.layout import Layout
from schemas.reference import Reference
from state.table import Table, TableArrays

REPORTS, ROUTES, ACKS, HOLDS, ALIASES = range(5)
"""The inputs by number, in the order of EXECUTION_INPUTS; `where[2]` of an Input."""
# Columns of Ref.venues
V_KEY, V_DATED, V_ROOT, V_HORIZON, V_HOLD, V_CARRIES, V_SLA, V_CLOCK, V_ACCOUNTS = range(9)
# Columns of Ref.instruments
I_PX, I_QTY, I_MULT = range(3)
KEY_V, KEY_A, KEY_I, KEY_E, KEY_O = 1, 2, 4, 8, 16
SEED_VENUE, SEED_INSTRUMENT, SEED_ACCOUNT = 1, 2, 3


class Ref(NamedTuple):
    """Reference data for kernels. index: names by 128-bit hash → position; venues `(n, 9)` int64; instruments `(n, 3)` int64."""

    index: TableArrays
    venues: Ints
    instruments: Ints


def compile_reference(reference: Reference) -> Ref:
    """Turn reference data into arrays. Positions are those in the lists."""
    index = Table("reference", REFERENCE)

    def enter(text: str, seed: int, position: int) -> None:
        data = np.frombuffer(text.encode(), np.uint8)
        hi, lo = hash128(data, 0, len(data), seed)
        row = index.insert(int(hi), int(lo))
        index.arrays.rows[row]["position"] = position

    venues = np.zeros((len(reference.venues), 9), np.int64)
    for i, venue in enumerate(reference.venues):
        enter(venue.name, SEED_VENUE, i)
        for account in venue.accounts:
            enter(account, SEED_ACCOUNT + 16 * (i + 1), i)
        bits = dict(zip("VAIEO", (KEY_V, KEY_A, KEY_I, KEY_E, KEY_O), strict=True))
        venues[i] = (
            sum(bits[part] for part in venue.key), venue.dated_key, venue.ref_style == "ROOT", venue.dedup_horizon_days,
            venue.overfill_policy == "hold", venue.carries_client_order_id, venue.confirm_sla_ms * 1_000_000, venue.same_clock,
            bool(venue.accounts),
        )  # fmt: skip
    instruments = np.zeros((len(reference.instruments), 3), np.int64)
    for i, instrument in enumerate(reference.instruments):
        enter(instrument.symbol, SEED_INSTRUMENT, i)
        instruments[i] = (instrument.px_scale, instrument.qty_scale, instrument.multiplier)
    return Ref(index.arrays, venues, instruments)


class Input(NamedTuple):
    """A decoded batch, as the map's `in_*`. rows, arena: see schemas/layout.py. ok `(n,)`; offsets `(n,)`; pend `(n,)`: the waiting report this record was, or -1.

    keys, key_bounds: the records' keys end to end, record i's from `key_bounds[i]` to `key_bounds[i + 1]`.
    where `(4,)`: lane, number of lanes, topic number, now in ns.
    """

    rows: Ints
    arena: Bytes
    ok: NDArray[np.bool_]
    reason: NDArray[np.int16]
    offsets: Ints
    pend: Ints
    keys: Bytes
    key_bounds: Ints
    where: Ints


class Ahead(NamedTuple):
    """Waiting reports decoded before the routes that wake them are taken, so that the kernel takes them without a stop (operators/parking.py).

    inp: the reports, with the arena of the routes' input. lists `(k, 3)` int64: head of a list of pending rows, its first record in `inp`, the
    one after its last. at `(3,)` int64: the next record to be taken and the end of its list, equal when none is; where in `lists` to look first.
    """

    inp: Input
    lists: Ints
    at: Ints


N_FILL, N_AUDIT, N_DLQ, N_ALERT, N_ALIAS, N_REROUTE, N_PARK, N_WAKE, N_DONE, N_TEXT = range(10)
N_FIXED = 15


class Output(NamedTuple):
    """Room for decisions; `n` counts what is used of each, `n[N_TEXT]` the bytes of `text`.

    fills, audits, alerts, aliases: rows of their layouts. dlqs: (record, reason, pending row or -1). reroutes: (record, pending row or -1,
    key start in text, key length, reason). parks: (pending row, record). wakes: heads of lists of pending rows to take next. done: pending rows
    to forget. topics `(n + 1, 2)`: where the input topics' names stand in `text`, then 64 zeros. names: reason names, as (start, length) by number.
    """

    fills: Ints
    audits: Ints
    dlqs: Ints
    alerts: Ints
    alias_rows: Ints
    reroutes: Ints
    parks: Ints
    wakes: Ints
    done: Ints
    text: Bytes
    n: Ints
    topics: Ints
    names: Ints
    scratch: Bytes
    work: Ints
    blank_fill: Ints
    blank_audit: Ints
    blank_alert: Ints
    blank_alias: Ints


# The parsed record at hand, in Output.work
(
    W_REC, W_PEND, W_KIND, W_VENUE, W_INSTRUMENT, W_QTY, W_PX, W_CUM, W_ORDER_QTY, W_CORR_HI, W_CORR_LO, W_CORR_FROM, W_TS, W_SEQ,
    W_DATE, W_DAY, W_KEY_HI, W_KEY_LO, W_SIDE, W_INTENT, W_ORDER, W_SETTLED, W_MOVES,
) = range(23)  # fmt: skip
WORK = 32

TEXT_PER_RECORD = 4096
ROWS_PER_RECORD = 12
"""Room a record may need beyond what its order's size adds: outputs of each kind, bytes of text."""


def blank_row(layout: Layout) -> Ints:
    """Return a row of a layout in which everything that can be null is, and objects that cannot are there."""
    row = np.zeros(layout.width, np.int64)
    for column in layout.columns:
        if column.kind in ("text", "token", "base64", "json", "decimal", "list"):
            row[column.slot + 1] = -1
        elif column.kind in ("enum", "int", "bool", "rfc3339"):
            row[column.slot] = NULL
        elif column.kind == "float":
            row[column.slot] = np.array([np.nan]).view(np.int64)[0]
        elif column.kind == "object":
            row[column.slot] = 0 if column.nullable else 1
    return row


def make_output(names: list[str], topics: list[str], rows: int = 4096) -> Output:
    """Allocate outputs for `rows` rows of each kind; names, topics and 64 zeros (`topics[-1]`) stand at the start of `text` for good."""
    fixed = b""
    where_names = np.zeros((max(len(names), 1), 2), np.int64)
    where_topics = np.zeros((len(topics) + 1, 2), np.int64)
    for table, texts in ((where_names, names), (where_topics, [*topics, "0" * 64])):
        for i, text in enumerate(texts):
            table[i] = len(fixed), len(text)
            fixed += text.encode()
    text_area = np.zeros(len(fixed) + rows * 640 + 4 * TEXT_PER_RECORD, np.uint8)
    text_area[: len(fixed)] = np.frombuffer(fixed, np.uint8)
    n = np.zeros(16, np.int64)
    n[N_TEXT] = n[N_FIXED] = len(fixed)
    return Output(
        fills=np.zeros((rows, slots.F_WIDTH), np.int64),
        audits=np.zeros((rows, slots.U_WIDTH), np.int64),
        dlqs=np.zeros((rows, 3), np.int64),
        alerts=np.zeros((rows, slots.C_WIDTH), np.int64),
        alias_rows=np.zeros((rows, slots.ALIAS_IN.width), np.int64),
        reroutes=np.zeros((rows, 5), np.int64),
        parks=np.zeros((rows, 2), np.int64),
        wakes=np.zeros(rows, np.int64),
        done=np.zeros(rows, np.int64),
        text=text_area,
        n=n,
        topics=where_topics,
        names=where_names,
        scratch=np.zeros(2048, np.uint8),
        work=np.zeros(WORK, np.int64),
        blank_fill=blank_row(slots.FILL),
        blank_audit=blank_row(slots.AUDIT),
        blank_alert=blank_row(slots.ALERT),
        blank_alias=blank_row(slots.ALIAS_IN),
    )


@bare
def has_room(m: Map, extra: int) -> bool:
    """Return whether one more record, with `extra` rows beyond the usual, fits every output."""
    need = ROWS_PER_RECORD + extra
    n = mem.n(m)
    rows = len(mem.wakes(m))
    for i in range(N_TEXT):
        if n[i] + need > rows:
            return False
    return bool(n[N_TEXT] + TEXT_PER_RECORD + 512 * extra <= len(mem.text(m)))


@bare
def put_text(m: Map, source: Bytes, start: int, length: int) -> int:
    """Copy bytes into the outputs' text and return the slot value that points there (negative: the encoder's second arena)."""
    n = mem.n(m)
    at = n[N_TEXT]
    copy_bytes(mem.text(m), at, source, start, length)
    n[N_TEXT] = at + length
    return -at - 1
