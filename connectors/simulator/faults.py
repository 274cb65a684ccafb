"""Every fault the simulator can commit: its name, its rate under `--faults all`, what the rate is a share of, what it does.

Defined once, here; the command's help and the summary read this table. May not decide what becomes of a faulty message.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import accumulate
from random import Random


@dataclass(frozen=True)
class Fault:
    """One fault. `rate` is the default under `all`, per `unit`: report, fill, leg (venue order), order, message (any topic), conflict."""

    name: str
    group: str
    unit: str
    rate: float
    doc: str


FAULTS: dict[str, Fault] = {
    fault.name: fault
    for fault in (
        Fault("duplicate_exact", "duplicate", "report", 0.006, "the same bytes once more"),
        Fault("duplicate_resend", "duplicate", "report", 0.006, "resent with poss_dup or poss_resend and a new msg_id"),
        Fault("duplicate_feed", "duplicate", "report", 0.006, "the same event from the venue's other feed"),
        Fault("duplicate_fee", "duplicate", "fill", 0.006, "first without the fee, a later copy brings it"),
        Fault("duplicate_renumbered", "duplicate", "fill", 0.003, "the same fill under a new exec_id, same match id"),
        Fault("reorder_report", "reorder", "report", 0.01, "comes up to 3 s late, behind later reports"),
        Fault("reorder_chain", "reorder", "chain", 0.2, "a bust or correct comes before its fill"),
        Fault("reorder_new", "reorder", "leg", 0.01, "fills come before NEW"),
        Fault("reorder_route", "reorder", "order", 0.01, "the route comes after acknowledgements and fills"),
        Fault("reorder_ack", "reorder", "leg", 0.01, "the acknowledgements come after the fills"),
        Fault("delay", "delay", "report", 0.002, "this and what follows it on the venue order come up to 2 s late"),
        Fault("bust", "history", "leg", 0.02, "the venue cancels a fill"),
        Fault("correct", "history", "leg", 0.03, "the venue corrects a fill, up to three times"),
        Fault("replace_crossing", "history", "leg", 0.02, "a fill crosses a replace, which may end below what is filled"),
        Fault("late_fill", "history", "leg", 0.01, "a fill after the cancel"),
        Fault("split", "history", "leg", 0.002, "a 2:1 corporate action on a GTC order"),
        Fault("mismatch", "history", "leg", 0.002, "a fill on another side, account or instrument than the intent"),
        Fault("conflict", "history", "leg", 0.002, "the same exec_id with another price"),
        Fault("overfill", "history", "leg", 0.003, "a fill beyond the order quantity, half of them busted later"),
        Fault("regression", "history", "leg", 0.003, "a bust shows in the totals only; half of them come seconds later"),
        Fault("gap", "history", "leg", 0.004, "a fill shows in the totals only; half of them come seconds later"),
        Fault("clock_skew", "history", "leg", 0.01, "the venue's clock is up to 1.3 s ahead of the gateway's"),
        Fault("unknown_order", "foreign", "order", 0.003, "reports of an order nobody routed"),
        Fault("uncorrelated", "foreign", "order", 0.002, "venue-made reports that no alias ever explains"),
        Fault("duplicate_route", "order", "order", 0.005, "the same route once more"),
        Fault("conflicting_route", "order", "order", 0.001, "another route under the same correlation"),
        Fault("duplicate_ack", "order", "leg", 0.005, "the same acknowledgement once more"),
        Fault("hold_decision", "order", "conflict", 0.5, "an operator releases or rejects a conflict or mismatch"),
        Fault("misrouted", "transport", "message", 0.002, "produced to the wrong partition"),
        Fault("malformed_json", "bytes", "message", 0.0005, "not JSON"),
        Fault("truncated_json", "bytes", "message", 0.0005, "cut short"),
        Fault("invalid_utf8", "bytes", "message", 0.0005, "bytes that are not UTF-8"),
        Fault("hostile_depth", "bytes", "message", 0.00005, "100,000 open brackets"),
        Fault("oversize", "bytes", "message", 0.00001, "more than 1 MiB"),
        Fault("duplicate_keys", "bytes", "message", 0.0005, "a field given twice"),
        Fault("missing_field", "bytes", "message", 0.0005, "a required field left out"),
        Fault("wrong_type", "bytes", "message", 0.0005, "a field of another JSON type"),
        Fault("unknown_version", "bytes", "message", 0.0005, "an envelope version nobody knows"),
        Fault("unknown_venue", "field", "report", 0.0005, "a venue not in the reference data"),
        Fault("unknown_account", "field", "report", 0.0005, "an account not in the reference data"),
        Fault("unknown_instrument", "field", "report", 0.0005, "an instrument not in the reference data"),
        Fault("correlation_conflict", "field", "report", 0.0003, "envelope and client_order_id disagree"),
        Fault("timestamp_unit", "field", "report", 0.0005, "seconds where nanoseconds belong"),
        Fault("timestamp_future", "field", "report", 0.0005, "one hour in the future"),
        Fault("zero_quantity", "field", "fill", 0.0005, "a trade of nothing"),
        Fault("negative_quantity", "field", "fill", 0.0005, "a trade of less than nothing"),
        Fault("non_finite_price", "field", "fill", 0.001, "NaN, 1e999, Infinity"),
        Fault("unknown_side", "field", "fill", 0.0005, "a side that is none"),
        Fault("extra_decimals", "field", "fill", 0.0005, "more decimals than the instrument has"),
    )
}  # fmt: skip

GROUPS = sorted({fault.group for fault in FAULTS.values()})


def parse_faults(text: str) -> dict[str, float]:
    """Read `all`, `none`, `name`, `name=rate`, or a comma-separated list of these, later ones winning.

    A group's name stands for its members. Raises ValueError, naming what is wrong.
    """
    rates: dict[str, float] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, equals, number = item.partition("=")
        members = [f for f in FAULTS.values() if name in ("all", f.name, f.group)]
        if name == "none" and not equals:
            rates.clear()
            continue
        if not members:
            raise ValueError(f"faults: {item!r} is none of all, none, {', '.join((*GROUPS, *FAULTS))}")
        for fault in members:
            try:
                rate = float(number) if equals else fault.rate
            except ValueError:
                rate = -1.0
            if not 0.0 <= rate <= 1.0:
                raise ValueError(f"faults: {item!r} must give a rate from 0 to 1")
            rates[fault.name] = rate
    return {name: rate for name, rate in rates.items() if rate > 0.0}


class Dice:
    """Decides where faults fall, and counts them."""

    def __init__(self, rates: dict[str, float], rng: Random) -> None:
        self.rates = rates
        self.rng = rng
        self.counts: Counter[str] = Counter()
        self._tables: dict[tuple[str, ...], tuple[float, list[float]]] = {}

    def hit(self, name: str) -> bool:
        """Return whether this fault falls here; the caller counts it once it is done."""
        rate = self.rates.get(name, 0.0)
        return rate > 0.0 and self.rng.random() < rate

    def one_of(self, names: tuple[str, ...]) -> str:
        """Return at most one of the named faults, with one draw for all; an empty string for none."""
        table = self._tables.get(names)
        if table is None:
            steps = list(accumulate(self.rates.get(name, 0.0) for name in names))
            table = self._tables[names] = (steps[-1] if steps else 0.0, steps)
        total, steps = table
        if total == 0.0:
            return ""
        drawn = self.rng.random() * max(1.0, total)  # rates that add up to more than 1 keep their proportions
        if drawn >= total:
            return ""
        return names[next(i for i, step in enumerate(steps) if drawn < step)]
