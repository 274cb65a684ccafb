"""The core both peers run for every record: join reports to their order, drop repeats, follow busts and corrections, keep the totals.

Plain Python as a user of those frameworks would write it, with exact decimals. Standard library only. It knows less than hedgerow's: no
benchmarks and slippage, audit trail, aliases, holds, gaps, conflicts, splits, dead letters or clocks.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid5

NAMESPACE = UUID("6f2d5c8e-1b3a-4f70-95e3-c1a08462f1dc")
INPUTS = ("order.intent.route.v1", "order.event.ack.v1", "venue.execution.report.v1")
ROUTE, ACK, REPORT = INPUTS


@dataclass(slots=True)
class Report:
    """What the core reads of a report: taken from parsed JSON, or a model with these fields."""

    venue: str
    account: str
    instrument: str
    kind: str
    exec_id: str | None
    exec_ref_id: str | None
    trade_date: int
    side: str | None
    order_qty: Decimal | None
    last_qty: Decimal | None
    last_px: Decimal | None
    event_ts_ns: int
    recv_ts_ns: int
    fee_amount: Decimal | None
    fee_ccy: str | None
    liquidity: str | None

    @classmethod
    def of(cls, payload: dict[str, Any]) -> Report:
        """Return the report of a message's payload."""
        get = payload.get
        return cls(
            payload["venue"], payload["account"], payload["instrument"], payload["kind"], get("exec_id"), get("exec_ref_id"),
            payload["trade_date"], get("side"), _decimal(get("order_qty")), _decimal(get("last_qty")), _decimal(get("last_px")),
            payload["event_ts_ns"], payload["recv_ts_ns"], _decimal(get("fee_amount")), get("fee_ccy"), get("liquidity"),
        )  # fmt: skip


@dataclass(slots=True)
class Execution:
    """One link of a chain. `root` is the execution key of its first link; `followed`: it was corrected or busted."""

    root: str
    kind: str
    qty: Decimal
    px: Decimal
    version: int
    ref: str | None = None
    followed: bool = False


@dataclass(slots=True)
class Order:
    """All that is known under one correlation id. `early`: reports that came before the route, or before what they refer to."""

    route: dict[str, str] | None = None
    venue_order_id: str | None = None
    order_qty: Decimal = Decimal(0)
    cum: Decimal = Decimal(0)
    paid: Decimal = Decimal(0)
    closed: bool = False
    executions: dict[str, Execution] = field(default_factory=dict)
    early: list[Any] = field(default_factory=list)

    def take_route(self, route: dict[str, str]) -> list[dict[str, Any]]:
        """Learn what was ordered; return the fills of reports that waited for it."""
        if self.route is not None:
            return []
        self.route = route
        self.order_qty = self.order_qty or Decimal(route["size"])
        return self._again()

    def take_ack(self, venue_order_id: str | None) -> None:
        """Learn the venue's name of the order."""
        self.venue_order_id = venue_order_id

    def take_report(self, report: Report) -> list[dict[str, Any]]:
        """Fold a report; return what is to be published."""
        if self.route is None:
            self.early.append(report)
            return []
        fills = self._fold(report)
        return fills + self._again() if fills and self.early else fills

    def _again(self) -> list[dict[str, Any]]:
        waiting, self.early = self.early, []
        return [fill for report in waiting for fill in self.take_report(report)]

    def _fold(self, report: Report) -> list[dict[str, Any]]:
        kind = report.kind
        if kind not in ("TRADE", "BUST", "CORRECT"):
            if kind in ("NEW", "REPLACED", "RESTATED") and report.order_qty is not None:
                self.order_qty = report.order_qty
            elif kind in ("CANCELED", "EXPIRED", "REJECTED"):
                self.closed = True
            return []
        key = f"{report.venue}|{report.account}|{report.instrument}|{report.exec_id}|{report.trade_date}"
        known = self.executions.get(key)
        if known is not None:
            same = known.kind == kind and (kind == "BUST" or (known.qty == report.last_qty and known.px == report.last_px))
            if not same:
                raise ValueError(f"{key} came again with other content")
            return []
        sign = 1 if report.side == "BUY" else -1
        if kind == "TRADE":
            qty, px = report.last_qty or Decimal(0), report.last_px or Decimal(0)
            link = self.executions[key] = Execution(key, kind, qty, px, 1)
            self.cum += qty
            self.paid += qty * px
            return [self._fill(report, link, "FILLED", qty, px, sign * qty)]
        ref = f"{report.venue}|{report.account}|{report.instrument}|{report.exec_ref_id}|{report.trade_date}"
        old = self.executions.get(ref)
        if old is None:
            self.early.append(report)
            return []
        if old.followed:
            raise ValueError(f"{ref} was corrected or busted before")
        old.followed = True
        qty, px = (Decimal(0), Decimal(0)) if kind == "BUST" else (report.last_qty or Decimal(0), report.last_px or Decimal(0))
        link = self.executions[key] = Execution(old.root, kind, qty, px, old.version + 1, ref)
        self.cum += qty - old.qty
        self.paid += qty * px - old.qty * old.px
        status, size, price = ("BUSTED", old.qty, old.px) if kind == "BUST" else ("CORRECTED", qty, px)
        return [self._fill(report, link, status, size, price, sign * (qty - old.qty))]

    def _fill(self, report: Report, link: Execution, status: str, size: Decimal, price: Decimal, signed: Decimal) -> dict[str, Any]:
        assert self.route is not None
        fill_id = str(uuid5(NAMESPACE, link.root))
        return {
            "order_id": self.route["order_id"],
            "fill_id": fill_id,
            "symbol": report.instrument,
            "side": report.side,
            "filled_size": size,
            "price": price,
            "venue": report.venue,
            "latency_ms": max(0, report.recv_ts_ns - report.event_ts_ns) / 1e6,
            "idempotency_key": f"{fill_id}:{link.version}",
            "commission": report.fee_amount,
            "commission_ccy": report.fee_ccy,
            "liquidity_flag": report.liquidity,
            "book": self.route["book"],
            "account": report.account,
            "exec_id": report.exec_id,
            "exec_ts_ns": report.event_ts_ns,
            "status": status,
            "version": link.version,
            "signed_delta": signed,
            "cum_size": self.cum,
            "leaves_size": Decimal(0) if self.closed else max(self.order_qty - self.cum, Decimal(0)),
            "avg_price": self.paid / self.cum if self.cum else Decimal(0),
        }

    def to_json(self) -> dict[str, Any]:
        """Return the order as JSON types; decimals as strings."""
        return {
            "route": self.route,
            "venue_order_id": self.venue_order_id,
            "order_qty": str(self.order_qty),
            "cum": str(self.cum),
            "paid": str(self.paid),
            "closed": self.closed,
            "executions": {k: [e.root, e.kind, str(e.qty), str(e.px), e.version, e.ref, e.followed] for k, e in self.executions.items()},
            "early": [
                {name: str(value) if isinstance(value, Decimal) else value for name, value in asdict(report).items()}
                for report in self.early
            ],
        }

    @classmethod
    def from_json(cls, told: dict[str, Any]) -> Order:
        """Return the order `to_json` told."""
        executions = {
            k: Execution(r, kind, Decimal(q), Decimal(p), v, ref, f) for k, (r, kind, q, p, v, ref, f) in told["executions"].items()
        }
        return cls(
            told["route"], told["venue_order_id"], Decimal(told["order_qty"]), Decimal(told["cum"]), Decimal(told["paid"]), told["closed"],
            executions, [Report.of(report) for report in told["early"]],
        )  # fmt: skip


def _decimal(text: str | None) -> Decimal | None:
    return None if text is None else Decimal(text)
