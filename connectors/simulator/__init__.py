"""A seeded market, order system and set of venues: what `hedgerow simulate` sends, and every way it can go wrong.

It lives beside the connectors because the product command needs it, and like them it imports `schemas` only. It knows which messages venues
may send (docs/reconciliation.md) but not what the flow makes of them: the verdict belongs to those who read the topics.
"""

from __future__ import annotations

from connectors.simulator.faults import FAULTS, Fault, parse_faults
from connectors.simulator.messages import Message
from connectors.simulator.simulator import SimConfig, Simulator

__all__ = ["FAULTS", "Fault", "Message", "SimConfig", "Simulator", "parse_faults"]
