"""The hedger: fills, targets and the desk's word in; hedges, their states, figures, escalations and audit out. Wiring only."""

from __future__ import annotations

from flows.runtime import Flow
from flows.settings import Settings
from operators.book_frame import HedgeRules
from operators.hedge_life import LifeRules
from operators.hedge_market import HedgeMarket, MarketRules
from operators.hedger import HedgerLogic
from operators.lane import BroadcastLogic, LaneLogic
from schemas import registry
from schemas.reference import Reference, load_reference


def flow_of(
    reference: Reference,
    worker: str = "hedger-0",
    market: MarketRules | None = None,
    rules: HedgeRules | None = None,
    times: LifeRules | None = None,
) -> Flow:
    """Return the hedger over the given reference data. worker: the name its acknowledgements of HALT carry."""

    def make_logic(lane: int, n_lanes: int, broadcast: BroadcastLogic | None) -> LaneLogic:
        assert isinstance(broadcast, HedgeMarket)
        broadcast.begin()  # every broadcast topic was read up to its end before the first lane
        return HedgerLogic(lane, n_lanes, reference, broadcast, rules, times, worker)

    return Flow(
        name="hedger",
        inputs=registry.HEDGER_INPUTS,
        outputs=registry.HEDGER_OUTPUTS,
        broadcast=registry.HEDGER_BROADCAST,
        changelog=registry.HEDGER_CHANGELOG,
        make_logic=make_logic,
        make_broadcast=lambda: HedgeMarket(reference, market),
        broadcast_whole=registry.HEDGER_STATES,
    )


def build(settings: Settings) -> Flow:
    """Return the hedger as the settings say. Raises ReferenceError when the reference data cannot be used."""
    bar_ns = settings.hedge_bar_s * 1_000_000_000
    return flow_of(
        load_reference(settings.reference),
        settings.worker_of("hedger"),
        MarketRules(bar_ns=bar_ns, fresh_ns=bar_ns),
        HedgeRules(),
        LifeRules(
            ack_ns=settings.hedge_ack_ms * 1_000_000,
            expires_ns=settings.hedge_expires_s * 1_000_000_000,
            interval_ns=settings.hedge_interval_ms * 1_000_000,
        ),
    )
