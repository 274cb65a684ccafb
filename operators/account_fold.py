"""Snapshots into facts, fills into activity: the canary's hot path. One kernel call a chunk and topic; what is late, said before, or belongs elsewhere.

May not judge anything: it keeps what was said, and marks. Rules: docs/canary.md, "Accounts". Null is kept as NaN, 0 or −1 (state/accounts.py), never as 0
of a figure. The facts of an account are a function of its newest snapshot of each kind, in whichever order the two came.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from operators.account_metrics import METRICS, measure
from operators.book_fold import position_key, seen_before
from operators.scaled import POW10
from operators.windows import ACTIVITY_NS, new_york_at, read, sample_account, sample_activity, sample_positions
from schemas.canary import AccountStateMessage, ActivityMessage, Exposure, OptionRow, PositionStateMessage, StockRow
from schemas.chunk import Bytes, Ints
from schemas.execution import FillMessage
from schemas.fields import NULL
from schemas.hashing import _fmix64, hash128, partition_of
from schemas.jit import bare
from schemas.layout import layout_of
from schemas.reasons import Reason
from schemas.words import float_of_bits, i64, move
from state.accounts import F_ACCOUNT, F_ACCOUNT_TIME, F_PORTFOLIO, F_POSITIONS, F_POSITIONS_TIME
from state.table import TableArrays, find, insert, touch

FOLDED, DUPLICATE, LATE, REROUTED, REJECTED, FORWARDED = range(6)
"""What became of a record."""

ACCOUNT = layout_of(AccountStateMessage)
POSITIONS = layout_of(PositionStateMessage)
ACTIVITY = layout_of(ActivityMessage)
FILL = layout_of(FillMessage)
_EXPOSURE, _STOCK, _OPTION = layout_of(Exposure), layout_of(StockRow), layout_of(OptionRow)

FUTURE_NS = 900_000_000_000
"""A snapshot from further ahead of the clock is a dead letter: taken, it would make every true one after it late. Half an hour is the least by which a
time zone taken for another is wrong."""
SYMBOL_BYTES = 20
UNMEASURED = 3
"""Names that are kept of those without a value or a delta."""
CURRENCY_BYTES, TYPE_BYTES = 12, 64

_FUTURE = int(Reason.event_ts_future)
_SENDER = int(Reason.sender_not_allowed)
_K1 = np.uint64(0x9E3779B97F4A7C15)
_K2 = np.uint64(0xC2B2AE3D27D4EB4F)
TRADER_SEED = 2
"""Of the hash of an account in whatever mode; modes are seeds 0 and 1."""


class AccountSlots(NamedTuple):
    """Where the fields of an account snapshot are in a batch row; figures: the first of twelve decimals in the order of FACTS."""

    account: int
    mode: int
    currency: int
    type: int
    figures: int
    as_of: int


class PositionSlots(NamedTuple):
    """Where the fields of a position snapshot are in a batch row."""

    account: int
    mode: int
    as_of: int
    stocks: int
    options: int
    portfolio: int
    dollar_delta: int
    gamma: int
    coverage: int
    total: int
    exposures: int


class ItemSlots(NamedTuple):
    """Where the fields of an exposure are, of a stock and of an option row."""

    underlying: int
    value: int
    pct: int
    delta: int
    stock: int
    option: int


class ActivitySlots(NamedTuple):
    """Where the fields of an activity are in a batch row."""

    sender: int
    account: int
    fills: int
    signed: int
    traded: int
    cost: int
    coverage: int
    first: int
    last: int


class FillSlots(NamedTuple):
    """Where the fields of a fill are in a batch row."""

    fill: int
    side: int
    price: int
    slippage: int
    book: int
    account: int
    exec_ts: int
    version: int
    delta: int


def _slots(layout: Any, *names: str) -> tuple[int, ...]:
    return tuple(layout.slot(f"payload.{name}") for name in names)


ACCOUNT_SLOTS = AccountSlots(*_slots(ACCOUNT, "account", "mode", "base_currency", "account_type", "net_liquidation", "as_of_ns"))
POSITION_SLOTS = PositionSlots(*_slots(
    POSITIONS, "account", "mode", "as_of_ns", "stocks", "options", "portfolio", "portfolio.dollar_delta_base", "portfolio.gamma",
    "portfolio.greeks_coverage", "portfolio.greeks_total", "portfolio.exposure_base",
))  # fmt: skip
ITEM_SLOTS = ItemSlots(
    underlying=_EXPOSURE.slot("underlying"),
    value=_EXPOSURE.slot("market_value_base"),
    pct=_EXPOSURE.slot("market_value_pct_nlv"),
    delta=_EXPOSURE.slot("dollar_delta_base"),
    stock=_STOCK.slot("symbol"),
    option=_OPTION.slot("symbol"),
)
ACTIVITY_SLOTS = ActivitySlots(
    ACTIVITY.slot("sender"),
    *_slots(ACTIVITY, "account", "fills", "signed_notional", "traded_notional", "cost", "coverage", "first_ns", "last_ns"),
)
FILL_SLOTS = FillSlots(*_slots(
    FILL, "fill_id", "side", "price", "slippage_bps", "book", "account", "exec_ts_ns", "version", "signed_delta",
))  # fmt: skip
_BUY = FILL.code("payload.side", "BUY")
_FIGURES = 12
_AGENT = np.frombuffer(b"agent.canary", np.uint8).copy()


# ---- small things -----------------------------------------------------------------------------------------------------------------


@bare
def real_of(mantissa: int, scale: int) -> float:
    """Return a decimal as a float, NaN for null."""
    return np.nan if scale < 0 else mantissa / POW10[scale]


@bare
def _mix(h: Any, x: Any) -> Any:
    """Return a running 64-bit hash with one more word in it."""
    h = (h ^ np.uint64(x)) * _K1
    return h ^ (h >> np.uint64(29))


@bare
def _mix_text(h: Any, arena: Bytes, start: int, length: int) -> Any:
    if length < 0:
        return _mix(h, np.uint64(0xFFFFFFFF))
    hi, lo = hash128(arena, start, length, 0)
    return _mix(_mix(h, hi), lo)


@bare
def _percent(part: float, whole: float) -> float:
    """Return part / whole × 100, NaN when the whole is not above zero."""
    return part / whole * 100.0 if whole > 0.0 else np.nan


@bare
def account_row(accounts: TableArrays, arena: Bytes, start: int, length: int, mode: int) -> int:
    """Return the row of an account in a mode, made if it is not there: nothing known of it yet."""
    hi, lo = hash128(arena, start, length, mode)
    at = find(accounts, hi, lo)
    if at >= 0:
        return int(at)
    at = insert(accounts, hi, lo)
    row = accounts.rows[at]
    row.name_len = length
    move(row.name, 0, arena, start, length)
    row.mode = mode
    row.net_liquidation = np.nan
    row.cushion = np.nan
    row.excess_liquidity = np.nan
    row.available_funds = np.nan
    row.maintenance_margin = np.nan
    row.initial_margin = np.nan
    row.look_ahead_excess_liquidity = np.nan
    row.look_ahead_available_funds = np.nan
    row.look_ahead_maint_margin = np.nan
    row.look_ahead_init_margin = np.nan
    row.gross_position_value = np.nan
    row.daily_pnl = np.nan
    row.dollar_delta = np.nan
    row.gamma = np.nan
    row.gross_delta = np.nan
    row.largest_exposure_pct = np.nan
    row.largest_delta = np.nan
    row.given_pct = np.nan
    row.value = np.nan
    row.greeks_coverage = -1
    row.greeks_total = -1
    row.stocks = -1
    row.options = -1
    return int(at)


@bare
def _settle_largest(row: Any) -> None:
    """Say which exposure is the largest: of the shares that were delivered, and of the values that are shares of the net liquidation now known."""
    own = _percent(row.value, row.net_liquidation)
    takes = not np.isnan(own) and (
        np.isnan(row.given_pct) or abs(own) > abs(row.given_pct) or (abs(own) == abs(row.given_pct) and row.value_at < row.given_at)
    )
    if takes:
        row.largest_exposure_pct = own
        row.largest_exposure_len = row.value_len
        for i in range(SYMBOL_BYTES):
            row.largest_exposure_name[i] = row.value_name[i]
    else:
        row.largest_exposure_pct = row.given_pct
        row.largest_exposure_len = 0 if np.isnan(row.given_pct) else row.given_len
        for i in range(SYMBOL_BYTES):
            row.largest_exposure_name[i] = row.given_name[i]


@bare
def _whole_text(arena: Bytes, start: int, length: int, room: int) -> int:
    """Return how many bytes of a text fit, never part of a character."""
    if length <= room:
        return length
    while room > 0 and (arena[start + room] & 0xC0) == 0x80:
        room -= 1
    return room


@bare
def _admitted(ok: Any, arena: Bytes, start: int, length: int, lane: int, lanes: int, at: int, now: int) -> tuple[int, int]:
    """Return FOLDED for a record this lane may fold, else what becomes of it, with the reason. start, length: its key; at: its time (ns), perhaps NULL."""
    if not ok:
        return REJECTED, 0
    if partition_of(arena, start, length, lanes) != lane:
        return REROUTED, 0
    if at != NULL and at > now + FUTURE_NS:
        return REJECTED, _FUTURE
    return FOLDED, 0


# ---- account snapshots ------------------------------------------------------------------------------------------------------------


@bare
def fold_accounts(
    rows: Ints, arena: Bytes, ok: Any, slots: AccountSlots, where: Ints, days: Ints, metrics: Any, accounts: TableArrays, buckets: TableArrays,
    outcome: Ints, reason: Ints, row_of: Ints,
) -> None:  # fmt: skip
    """Fold a chunk's account snapshots, record by record in order.

    rows, arena, ok: the decoded batch. where `(4,)`: lane, lanes, now (ns), longest pause that is no gap (ns). days `(n,)`: New York dates of `as_of_ns`.
    metrics `(1,)`: scratch. Filled in, `(n,)` each: outcome (FOLDED, …), reason (of a rejected one), row_of (the account's row when folded, else −1).
    Memory for n accounts and 4 n buckets must be reserved.
    """
    lane, lanes, now, gap = where[0], where[1], where[2], where[3]
    for i in range(len(ok)):
        row_of[i] = -1
        said = rows[i]
        start, length, as_of = said[slots.account], said[slots.account + 1], said[slots.as_of]
        timed = as_of != NULL
        outcome[i], reason[i] = _admitted(ok[i], arena, start, length, lane, lanes, as_of, now)
        if outcome[i] != FOLDED:
            continue
        content = np.uint64(1)
        for k in range(2 * _FIGURES):
            content = _mix(content, said[slots.figures + k])
        content = _mix_text(content, arena, said[slots.currency], said[slots.currency + 1])
        content = _mix_text(content, arena, said[slots.type], said[slots.type + 1])
        content = _fmix64(_mix(content, as_of)) | np.uint64(1)
        at = account_row(accounts, arena, start, length, said[slots.mode])
        row = accounts.rows[at]
        if timed and as_of < row.account_mark:
            outcome[i] = LATE
            continue
        if content == row.account_hash:
            outcome[i] = DUPLICATE
            continue
        outcome[i] = FOLDED
        row_of[i] = at
        row.account_hash = content
        base = slots.figures
        row.net_liquidation = real_of(said[base], said[base + 1])
        row.cushion = real_of(said[base + 2], said[base + 3])
        row.excess_liquidity = real_of(said[base + 4], said[base + 5])
        row.available_funds = real_of(said[base + 6], said[base + 7])
        row.maintenance_margin = real_of(said[base + 8], said[base + 9])
        row.initial_margin = real_of(said[base + 10], said[base + 11])
        row.look_ahead_excess_liquidity = real_of(said[base + 12], said[base + 13])
        row.look_ahead_available_funds = real_of(said[base + 14], said[base + 15])
        row.look_ahead_maint_margin = real_of(said[base + 16], said[base + 17])
        row.look_ahead_init_margin = real_of(said[base + 18], said[base + 19])
        row.gross_position_value = real_of(said[base + 20], said[base + 21])
        row.daily_pnl = real_of(said[base + 22], said[base + 23])
        start, length = said[slots.currency], max(said[slots.currency + 1], 0)
        row.currency_len = length
        for k in range(CURRENCY_BYTES):
            row.currency[k] = arena[start + k] if k < length else 0
        start, length = said[slots.type], max(said[slots.type + 1], 0)
        length = _whole_text(arena, start, length, TYPE_BYTES)
        row.type_len = length
        for k in range(TYPE_BYTES):
            row.type[k] = arena[start + k] if k < length else 0
        row.facts = np.uint32(row.facts | F_ACCOUNT)
        _settle_largest(row)
        touch(accounts, at)
        if not timed:
            row.account_ns = 0
            row.facts = np.uint32(row.facts & ~F_ACCOUNT_TIME)
            continue
        row.account_ns = as_of
        row.facts = np.uint32(row.facts | F_ACCOUNT_TIME)
        since = i64(-1)
        if days[i] != row.session_day:
            row.session_day = days[i]
            row.session_ns = as_of
        else:
            since = i64(as_of - row.account_mark)
        row.account_mark = as_of
        measure(row, metrics[0])
        found = metrics[0]
        sample_account(buckets, row.khi, row.klo, as_of, days[i], since, row.daily_pnl, found.cushion_pct, found.gross_exposure_pct, gap)


# ---- position snapshots -----------------------------------------------------------------------------------------------------------


class Seen(NamedTuple):
    """A set of hashes that is emptied by counting on. words `(size, 2)` uint64, size a power of two: hash, and the set it is of; count `(1,)`: the set."""

    words: Any
    count: Any


def new_metrics() -> Any:
    """Return room for the metrics of one account."""
    return np.zeros(1, np.dtype(METRICS))


def new_seen(size: int = 1 << 15) -> Seen:
    """Return an empty set for fewer than `size` hashes: of a snapshot's names there are at most 4096 + 2 × 8192."""
    return Seen(np.zeros((size, 2), np.uint64), np.zeros(1, np.uint64))


@bare
def _first_time(seen: Seen, key: Any) -> bool:
    """Return whether a hash is not in the set yet, and put it there."""
    mask = np.uint64(len(seen.words) - 1)
    at = (key * _K2) >> np.uint64(32) & mask
    while seen.words[at, 1] == seen.count[0]:
        if seen.words[at, 0] == key:
            return False
        at = (at + np.uint64(1)) & mask
    seen.words[at, 0] = key
    seen.words[at, 1] = seen.count[0]
    return True


@bare
def _before(arena: Bytes, start: int, length: int, names: Any, at: int, other: int) -> bool:
    """Return whether a name sorts before one of a row's names, by code point."""
    for k in range(min(length, other)):
        if arena[start + k] != names[at + k]:
            return bool(arena[start + k] < names[at + k])
    return length < other


@bare
def _unmeasured(row: Any, arena: Bytes, start: int, length: int) -> None:
    """Note a name that has no value or no delta: the first three in their order are kept, whatever the order of the lists."""
    known = i64(min(row.unmeasured, UNMEASURED))
    row.unmeasured += 1
    place = known
    while place > 0:
        last = place - 1
        if not _before(arena, start, length, row.unmeasured_name, last * SYMBOL_BYTES, i64(row.unmeasured_len[last])):
            break
        place = last
    if place >= UNMEASURED:
        return
    for n in range(min(known, UNMEASURED - 1), place, -1):
        row.unmeasured_len[n] = row.unmeasured_len[n - 1]
        for k in range(SYMBOL_BYTES):
            row.unmeasured_name[n * SYMBOL_BYTES + k] = row.unmeasured_name[(n - 1) * SYMBOL_BYTES + k]
    row.unmeasured_len[place] = length
    for k in range(SYMBOL_BYTES):
        row.unmeasured_name[place * SYMBOL_BYTES + k] = arena[start + k] if k < length else 0


@bare
def _held(row: Any, items: Ints, first: int, count: int, slot: int, arena: Bytes, seen: Seen) -> None:
    """Note the symbols of stock or option rows that no exposure tells of."""
    for j in range(first, first + count):
        start, length = items[j, slot], items[j, slot + 1]
        hi, _ = hash128(arena, start, length, 0)
        if _first_time(seen, hi):
            _unmeasured(row, arena, start, length)


@bare
def _content_of(items: Ints, first: int, count: int, arena: Bytes, h: Any) -> Any:
    """Return the hash of the rows of a list: every slot as it is but the first, which is a name's place."""
    h = _mix(h, count)
    for j in range(first, first + count):
        h = _mix_text(h, arena, items[j, 0], items[j, 1])
        for k in range(2, items.shape[1]):
            h = _mix(h, items[j, k])
    return h


@bare
def fold_positions(
    rows: Ints, arena: Bytes, ok: Any, slots: PositionSlots, item: ItemSlots, stocks: Ints, options: Ints, exposures: Ints, where: Ints, days: Ints,
    seen: Seen, metrics: Any, accounts: TableArrays, buckets: TableArrays, outcome: Ints, reason: Ints, row_of: Ints,
) -> None:  # fmt: skip
    """Fold a chunk's position snapshots as `fold_accounts` does; stocks, options, exposures: the rows of all their lists, by the batch's first and count."""
    lane, lanes, now = where[0], where[1], where[2]
    for i in range(len(ok)):
        row_of[i] = -1
        said = rows[i]
        start, length, as_of = said[slots.account], said[slots.account + 1], said[slots.as_of]
        timed = as_of != NULL
        outcome[i], reason[i] = _admitted(ok[i], arena, start, length, lane, lanes, as_of, now)
        if outcome[i] != FOLDED:
            continue
        n_stocks, n_options = said[slots.stocks + 1], said[slots.options + 1]
        aggregate = said[slots.portfolio] == 1
        n_exposures = max(said[slots.exposures + 1], 0) if aggregate else 0
        content = _mix(_mix(np.uint64(2), n_stocks), n_options)
        content = _content_of(stocks, said[slots.stocks], max(n_stocks, 0), arena, content)
        content = _content_of(exposures, said[slots.exposures], n_exposures, arena, content)
        for j in range(said[slots.options], said[slots.options] + max(n_options, 0)):
            content = _mix_text(content, arena, options[j, 0], options[j, 1])
            content = _mix_text(content, arena, options[j, 2], options[j, 3])
            for k in range(4, options.shape[1]):
                content = _mix(content, options[j, k])
        for k in range(slots.portfolio, slots.exposures):
            content = _mix(content, said[k])
        content = _fmix64(_mix(content, as_of)) | np.uint64(1)
        at = account_row(accounts, arena, start, length, said[slots.mode])
        row = accounts.rows[at]
        if timed and as_of < row.positions_mark:
            outcome[i] = LATE
            continue
        if content == row.positions_hash:
            outcome[i] = DUPLICATE
            continue
        outcome[i] = FOLDED
        row_of[i] = at
        row.positions_hash = content
        row.stocks = n_stocks
        row.options = n_options
        row.facts = np.uint32((row.facts | F_POSITIONS) & ~(F_PORTFOLIO | F_POSITIONS_TIME))
        row.dollar_delta = np.nan
        row.gamma = np.nan
        row.greeks_coverage = -1
        row.greeks_total = -1
        if aggregate:
            row.facts = np.uint32(row.facts | F_PORTFOLIO)
            row.dollar_delta = real_of(said[slots.dollar_delta], said[slots.dollar_delta + 1])
            row.gamma = float_of_bits(said[slots.gamma])
            row.greeks_coverage = -1 if said[slots.coverage] == NULL else said[slots.coverage]
            row.greeks_total = -1 if said[slots.total] == NULL else said[slots.total]
        row.gross_delta = np.nan
        row.largest_delta = np.nan
        row.largest_delta_len = 0
        row.given_pct = np.nan
        row.value = np.nan
        row.given_at = 0
        row.value_at = 0
        row.given_len = 0
        row.value_len = 0
        row.unmeasured = 0
        for k in range(UNMEASURED):
            row.unmeasured_len[k] = 0
        for k in range(UNMEASURED * SYMBOL_BYTES):
            row.unmeasured_name[k] = 0
        for k in range(SYMBOL_BYTES):
            row.largest_delta_name[k] = 0
            row.given_name[k] = 0
            row.value_name[k] = 0
        seen.count[0] += np.uint64(1)
        first = said[slots.exposures]
        for j in range(first, first + n_exposures):
            one = exposures[j]
            name, size = one[item.underlying], one[item.underlying + 1]
            hi, _ = hash128(arena, name, size, 0)
            _first_time(seen, hi)
            value = real_of(one[item.value], one[item.value + 1])
            pct = float_of_bits(one[item.pct])
            delta = real_of(one[item.delta], one[item.delta + 1])
            if ((np.isnan(value) and np.isnan(pct)) or np.isnan(delta)) and _first_time(seen, hi ^ _K1):
                _unmeasured(row, arena, name, size)
            if not np.isnan(pct):
                if np.isnan(row.given_pct) or abs(pct) > abs(row.given_pct):
                    row.given_pct = pct
                    row.given_at = j - first
                    row.given_len = size
                    for k in range(SYMBOL_BYTES):
                        row.given_name[k] = arena[name + k] if k < size else 0
            elif not np.isnan(value) and (np.isnan(row.value) or abs(value) > abs(row.value)):
                row.value = value
                row.value_at = j - first
                row.value_len = size
                for k in range(SYMBOL_BYTES):
                    row.value_name[k] = arena[name + k] if k < size else 0
            if not np.isnan(delta):
                row.gross_delta = abs(delta) if np.isnan(row.gross_delta) else row.gross_delta + abs(delta)
                if np.isnan(row.largest_delta) or abs(delta) > abs(row.largest_delta):
                    row.largest_delta = delta
                    row.largest_delta_len = size
                    for k in range(SYMBOL_BYTES):
                        row.largest_delta_name[k] = arena[name + k] if k < size else 0
        _held(row, stocks, said[slots.stocks], max(n_stocks, 0), item.stock, arena, seen)
        _held(row, options, said[slots.options], max(n_options, 0), item.option, arena, seen)
        _settle_largest(row)
        touch(accounts, at)
        if not timed:
            row.positions_ns = 0
            continue
        row.positions_ns = as_of
        row.positions_mark = as_of
        row.facts = np.uint32(row.facts | F_POSITIONS_TIME)
        measure(row, metrics[0])
        sample_positions(buckets, row.khi, row.klo, as_of, days[i], metrics[0].net_delta_pct, metrics[0].gross_delta_pct)


# ---- fills and what becomes of them -----------------------------------------------------------------------------------------------


@bare
def _named_row(table: TableArrays, hi: Any, lo: Any, arena: Bytes, start: int, length: int) -> int:
    at = insert(table, hi, lo)
    row = table.rows[at]
    row.name_len = length
    move(row.name, 0, arena, start, length)
    return int(at)


@bare
def fold_fills(
    rows: Ints, arena: Bytes, ok: Any, slots: FillSlots, where: Ints, books: TableArrays, pairs: TableArrays, fills: TableArrays,
    place: Ints, groups: Ints, sums: Any, outcome: Ints, reason: Ints,
) -> int:  # fmt: skip
    """Gather a chunk's fills by pair (book and account) and stretch of time; return how many groups there are.

    where `(4,)`: lane, lanes, now (ns), day of now. place `(power of two ≥ 2 n,)`: scratch, −1 each. Filled in: groups `(≥ n, 5)` int64 (pair row, stretch,
    fills, first and last time), sums `(≥ n, 3)` float64 (Σ notional signed, absolute, Σ cost), outcome and reason `(n,)`. A fill's second version and
    those after it change the notional and are no new fill; a cost is taken back with the size it was of. Memory for n rows of each table must be reserved.
    """
    lane, lanes, now, day = where[0], where[1], where[2], where[3]
    n_groups = 0
    mask = len(place) - 1
    for i in range(len(ok)):
        said = rows[i]
        start, length, done = said[slots.book], said[slots.book + 1], said[slots.exec_ts]
        outcome[i], reason[i] = _admitted(ok[i], arena, start, length, lane, lanes, done, now)
        if outcome[i] != FOLDED:
            continue
        fill_hi, fill_lo = np.uint64(said[slots.fill]), np.uint64(said[slots.fill + 1])
        version = said[slots.version]
        if seen_before(fills, fill_hi, fill_lo, version, day):
            outcome[i] = DUPLICATE
            continue
        book_hi, book_lo = hash128(arena, start, length, 0)
        book = find(books, book_hi, book_lo)
        if book < 0:
            book = _named_row(books, book_hi, book_lo, arena, start, length)
            books.rows[book].head = -1
        name, size = said[slots.account], said[slots.account + 1]
        account_hi, account_lo = hash128(arena, name, size, 0)
        hi, lo = position_key(book_hi, book_lo, account_hi, account_lo)
        pair = find(pairs, hi, lo)
        if pair < 0:
            pair = _named_row(pairs, hi, lo, arena, name, size)
            pairs.rows[pair].book = book
            pairs.rows[pair].next = books.rows[book].head
            books.rows[book].head = pair
            touch(books, book)
        outcome[i] = FORWARDED
        stretch = done // ACTIVITY_NS
        at = np.int64(_fmix64(np.uint64(pair) * _K1 ^ np.uint64(stretch)) & np.uint64(mask))
        while place[at] >= 0 and (groups[place[at], 0] != pair or groups[place[at], 1] != stretch):
            at = (at + 1) & mask
        if place[at] < 0:
            place[at] = n_groups
            groups[n_groups, 0] = pair
            groups[n_groups, 1] = stretch
            groups[n_groups, 2] = 0
            groups[n_groups, 3] = done
            groups[n_groups, 4] = done
            sums[n_groups, 0] = 0.0
            sums[n_groups, 1] = 0.0
            sums[n_groups, 2] = 0.0
            n_groups += 1
        group = place[at]
        notional = real_of(said[slots.delta], said[slots.delta + 1]) * real_of(said[slots.price], said[slots.price + 1])
        if version == 1:
            groups[group, 2] += 1
        groups[group, 3] = min(groups[group, 3], done)
        groups[group, 4] = max(groups[group, 4], done)
        sums[group, 0] += notional
        sums[group, 1] += abs(notional)
        bps = float_of_bits(said[slots.slippage])
        if not np.isnan(bps):
            sums[group, 2] += bps * 1e-4 * (notional if said[slots.side] == _BUY else -notional)
    return n_groups


@bare
def fold_activity(
    rows: Ints, arena: Bytes, ok: Any, slots: ActivitySlots, where: Ints, days: Ints, traders: TableArrays, traded: TableArrays, outcome: Ints,
    reason: Ints,
) -> None:  # fmt: skip
    """Fold what fills and hedges did to this lane's accounts into their windows.

    where `(2,)`: lane, lanes. days `(n,)`: New York dates of `last_ns`. outcome, reason `(n,)` are filled in. Memory for n traders and 4 n stretches must
    be reserved.
    """
    lane, lanes = where[0], where[1]
    for i in range(len(ok)):
        reason[i] = 0
        if not ok[i]:
            outcome[i] = REJECTED
            continue
        said = rows[i]
        start, length = said[slots.account], said[slots.account + 1]
        if partition_of(arena, start, length, lanes) != lane:
            outcome[i] = REROUTED
            continue
        ours = said[slots.sender + 1] == len(_AGENT)
        for k in range(len(_AGENT)):
            ours = ours and arena[said[slots.sender] + k] == _AGENT[k]
        if not ours:
            outcome[i], reason[i] = REJECTED, _SENDER
            continue
        outcome[i] = FOLDED
        hi, lo = hash128(arena, start, length, TRADER_SEED)
        at = find(traders, hi, lo)
        if at < 0:
            at = insert(traders, hi, lo)
        last = said[slots.last]
        if last > traders.rows[at].mark:
            traders.rows[at].mark = last
            touch(traders, at)
        sample_activity(
            traded, hi, lo, last, days[i], said[slots.fills], float_of_bits(said[slots.traded]), float_of_bits(said[slots.signed]),
            float_of_bits(said[slots.cost]), float_of_bits(said[slots.coverage]),
        )  # fmt: skip


@bare
def read_windows(
    accounts: TableArrays, at: int, buckets: TableArrays, traders: TableArrays, traded: TableArrays, times: Ints, offsets: Ints, marks: Ints,
    out: Any,
) -> None:  # fmt: skip
    """Read the windows of an account's row at its watermark. times, offsets: New York's (operators.windows). Filled in: marks `(3,)` (watermark, 0 when no
    time is known, its New York date, when that began in ns) and, with a watermark, out `(4, 15)` as `operators.windows.read` says."""
    row = accounts.rows[at]
    hi, lo = hash128(row.name, 0, i64(row.name_len), TRADER_SEED)
    trader = find(traders, hi, lo)
    marks[0] = max(row.account_mark, row.positions_mark)
    if trader >= 0:
        marks[0] = max(marks[0], traders.rows[trader].mark)
    if marks[0] > 0:
        marks[1], marks[2] = new_york_at(marks[0], times, offsets)
        read(buckets, row.khi, row.klo, traded, hi, lo, marks[0], marks[1], marks[2], out)
