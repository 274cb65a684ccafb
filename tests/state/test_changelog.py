"""A lane's state as a log: what was captured comes back, and values of another origin are refused by name instead of being read."""

from __future__ import annotations

import numpy as np
import pytest

from state.changelog import Changelog, StateMismatch
from state.table import Table, row_type

ROW = row_type([("amount", "i8")])


def empty(row: np.dtype[np.void] = ROW) -> Changelog:
    """Return the changelog of one empty table and two scalars."""
    return Changelog({"accounts": Table("accounts", row)}, np.zeros(2, np.int64))


def written() -> list[bytes]:
    """Return the values of one capture of one row."""
    log = empty()
    row = log.tables[0].insert(1, 2)
    log.tables[0].rows[row]["amount"] = 7
    log.scalars[1] = 9
    return list(log.capture().values)


def test_restored_state_is_what_was_captured() -> None:
    log = empty()
    assert log.restore(enumerate(written())) == 1
    (table,) = log.tables
    assert table.rows[table.find(1, 2)]["amount"] == 7
    assert log.scalars.tolist() == [0, 9]
    assert not log.dirty


@pytest.mark.parametrize("value", [b"", b"HGCL", b"HGCL\x01\x00", b'{"a":1}', b"x" * 200, b"HGCL\x02" + bytes(40)])
def test_value_of_another_origin_is_refused(value: bytes) -> None:
    with pytest.raises(StateMismatch, match="offset 12 is not a state record of format 1"):
        empty().restore([(12, value)])


def test_every_value_cut_inside_its_header_is_refused() -> None:
    (value,) = written()
    for length in range(24):
        with pytest.raises(StateMismatch):
            empty().restore([(0, value[:length])])


def test_value_of_other_row_types_is_refused() -> None:
    other = empty(row_type([("amount", "i4")]))
    with pytest.raises(StateMismatch, match="other row types"):
        other.restore(enumerate(written()))
