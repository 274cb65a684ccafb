"""What a run of the hedging world came to: the figures of its account, the bars they must reach, and how they are shown.

The same for virtual time (`python -m bench.hedge_hour`) and for Kafka (`hedgerow simulate --hedging`). Judges; sends nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from connectors.simulator.factors import SECOND
from connectors.simulator.hedge_account import HedgeAccount
from connectors.simulator.hedging import HedgeWorld

MOST_ACK_MS = 5_000


@dataclass(frozen=True)
class Bars:
    """What a run must reach."""

    coverage_pct: float = 98.0
    slippage_bps: float = 3.0
    failure_pct: float = 1.0
    completion_p95_s: float = 120.0
    recovery_s: float = 30.0


def hedge_figures(world: HedgeWorld, account: HedgeAccount, now_ns: int, wanted_acks: int) -> dict[str, Any]:
    """Return what a run came to; None for what could not be measured.

    wanted_acks: acknowledgements of HALT there must be, one for each HALT and lane.
    """
    s, agent = world.scenario, world.agent
    outages = [(o.from_ns, o.to_ns) for o in s.outages]
    halts = [(h.from_ns, h.to_ns) for h in s.halts]
    span = (s.open_ns, s.close_ns)
    completions = account.completions_s(*span, without=[*outages, *halts])
    all_completions = account.completions_s(*span)
    sent = len(account.hedges)
    failed = account.failed(now_ns)
    recovery = [
        account.recovery_s(o.to_ns, [b.name for b in s.books if any(i["venue"] == o.venue for i in b.instruments)]) for o in s.outages
    ]
    decisions = sum(account.outcomes.values())
    acked = [a for a in account.acks if a["latency_ms"] <= MOST_ACK_MS]
    effectiveness, bound = (100 * account.mean(name, *span, outages) for name in ("effectiveness", "bound"))
    return {
        "seed": s.seed,
        "minutes": round((s.close_ns - s.open_ns) / 60 / SECOND, 2),
        "coverage_pct": _round(100 * account.risk_coverage(*span, [*outages, *halts]), 3),
        "slippage_bps": _round(account.slippage_bps(), 3),
        "failure_pct": _round(100 * len(failed) / sent if sent else None, 3),
        "completion_p95_s": _quantile(completions, 0.95),
        "orders_during_halt": len(account.during_halt),
        "completion_p50_s": _quantile(completions, 0.5),
        "completion_all_p95_s": _quantile(all_completions, 0.95),
        "episodes": len(completions),
        "episodes_in_120_s_pct": _round(100 * sum(c <= 120 for c in completions) / len(completions) if completions else None, 2),
        "recovery_s": None if None in recovery or not recovery else _round(max(r for r in recovery if r is not None), 2),
        "coverage_outside_outage_pct": _round(100 * account.risk_coverage(*span, outages), 3),
        "coverage_whole_pct": _round(100 * account.risk_coverage(*span), 3),
        "coverage_mean_pct": _round(100 * account.mean("coverage", *span, [*outages, *halts]), 3),
        "covered_time_pct": _round(100 * account.share_covered(*span, outages), 3),
        "coverage_true_ratios_pct": _round(100 * account.mean("true_coverage", *span, outages), 3),
        "effectiveness_pct": _round(effectiveness, 2),
        "effectiveness_bound_pct": _round(bound, 2),
        "failure_outside_outage_pct": _round(100 * len(account.failed(now_ns, outages)) / sent if sent else None, 3),
        "hedges": sent,
        "legs": len(account.legs),
        "hedge_fills": account.hedge_fills,
        "client_fills": account.client_fills,
        "decisions": decisions,
        "reasons_pct": _round(100 * (1 - account.unexplained / decisions) if decisions else None, 3),
        "halt_acks_pct": _round(100 * len(acked) / wanted_acks if wanted_acks else None, 1),
        "position_gaps": len(position_gaps(world, account)),
        "repeated_orders": agent.counts["legs_repeated"],
        "mid_gap_bps": _round(account.worst_mid_gap_bps, 3),
        "dead_letters": sum(account.letters.values()),
        "escalations": dict(sorted(account.escalations.items())),
    }


def position_gaps(world: HedgeWorld, account: HedgeAccount) -> list[tuple[str, str, float, float]]:
    """Return (book, symbol, the account's position, the truth) where they differ: a fill lost, made up, or taken twice, or still on its way."""
    found = []
    for book in world.scenario.books:
        there = account.books.get(book.name)
        for n, i in enumerate(world.reference.instruments):
            for have, true in (
                (there.exposure[i.symbol] if there else 0.0, world.exposures[book.name, n]),
                (there.hedged[i.symbol] if there else 0.0, world.agent.positions[book.name, n]),
            ):
                if round(have * 10**i.qty_scale) != true:
                    found.append((book.name, i.symbol, have, true / 10**i.qty_scale))
    return found


def missed(figures: dict[str, Any], bars: Bars) -> list[str]:
    """Return the names of the figures that do not reach their bar; a figure that is not known does not."""

    def at_most(name: str, most: float) -> bool:
        return figures[name] is not None and figures[name] <= most

    judged = {
        "coverage_pct": figures["coverage_pct"] is not None and figures["coverage_pct"] >= bars.coverage_pct,
        "slippage_bps": at_most("slippage_bps", bars.slippage_bps),
        "failure_pct": at_most("failure_pct", bars.failure_pct),
        "completion_p95_s": at_most("completion_p95_s", bars.completion_p95_s),
        "recovery_s": at_most("recovery_s", bars.recovery_s),
        "orders_during_halt": figures["orders_during_halt"] == 0,
        "reasons_pct": figures["reasons_pct"] == 100.0,
        "halt_acks_pct": figures["halt_acks_pct"] == 100.0,
        "position_gaps": figures["position_gaps"] == 0,
        "repeated_orders": figures["repeated_orders"] == 0,
    }
    return [name for name, reached in judged.items() if not reached]


def table_rows(figures: dict[str, Any], bars: Bars) -> list[tuple[str, str, str, str]]:
    """Return (figure's name, label, value, bar) of every row of the summary, in order; the bar is empty where there is none."""
    rows = (
        ("coverage_pct", "hedgeable exposure covered, by time and risk, %", f"≥ {bars.coverage_pct:g}"),
        ("coverage_outside_outage_pct", "  the HALT counted in", ""),
        ("coverage_whole_pct", "  the outage too", ""),
        ("coverage_mean_pct", "  mean over time, small exposures as large ones", ""),
        ("covered_time_pct", "  share of time at 95 % or more, %", ""),
        ("coverage_true_ratios_pct", "  by the market's true ratios, %", ""),
        ("effectiveness_pct", "variance taken away, true, %", f"of {figures['effectiveness_bound_pct']}"),
        ("completion_p50_s", "completion p50, s", ""),
        ("completion_p95_s", "completion p95, s", f"≤ {bars.completion_p95_s:g}"),
        ("completion_all_p95_s", "  with outage and HALT", ""),
        ("recovery_s", "recovery after the outage, s", f"≤ {bars.recovery_s:g}"),
        ("slippage_bps", "slippage against the mid at decision, bps", f"≤ {bars.slippage_bps:g}"),
        ("failure_pct", "hedges failed, %", f"≤ {bars.failure_pct:g}"),
        ("failure_outside_outage_pct", "  of those sent outside the outage", ""),
        ("orders_during_halt", "orders during HALT", "0"),
        ("halt_acks_pct", "HALT acknowledged in 5 s, %", "100"),
        ("reasons_pct", "decisions with a reason, %", "100"),
        ("position_gaps", "positions that differ from the truth", "0"),
        ("repeated_orders", "orders sent twice", "0"),
        ("decisions", "decisions", ""),
        ("hedges", "hedges sent", ""),
        ("client_fills", "client fills", ""),
        ("hedge_fills", "hedge fills", ""),
    )
    return [(name, label, "–" if figures[name] is None else f"{figures[name]:,}", bar) for name, label, bar in rows]


def _round(value: float | None, digits: int) -> float | None:
    return None if value is None or value != value else round(float(value), digits)


def _quantile(values: list[float], q: float) -> float | None:
    return round(float(np.quantile(values, q)), 3) if values else None
