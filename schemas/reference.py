"""Reference data: which venues, accounts and instruments exist, their scales and rules. A TOML file, checked whole at start.

Rules per venue (dedup horizon, key parts, overfill policy, clocks) come from reconciliation §4, §5 and §9. Risk owns the file.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from schemas.fields import Account, Symbol, Venue


class ReferenceError(ValueError):
    """The reference file cannot be used; the message lists every problem, one a line."""


class VenueRules(BaseModel):
    """One venue. Times in seconds unless the name says otherwise; horizons in calendar days of the trade date."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Venue
    accounts: list[Account] = []
    """Accounts known there; empty accepts any."""
    key: Annotated[str, Field(pattern="^V?A?I?EO?$")] = "VAIE"
    """Parts of the execution key beside the trade date: venue, account, instrument, exec id, order id."""
    dated_key: bool = True
    """Whether the trade date is part of the key (False: the venue's ids never repeat)."""
    ref_style: Literal["PREVIOUS", "ROOT"] = "PREVIOUS"
    """Whether a bust or correct names the link before it, or always the first execution."""
    dedup_horizon_days: Annotated[int, Field(ge=1, le=400)] = 7
    overfill_policy: Literal["hold", "apply"] = "hold"
    carries_client_order_id: bool = True
    """False where the venue's reports cannot carry our id, so that its acknowledgements are also told to the waiting lane."""
    confirm_sla_ms: Annotated[int, Field(ge=1)] = 5_000
    same_clock: bool = True
    """False where execution times and tape times come from different clocks: benchmarks are then stale (`clock_offset`)."""


class Instrument(BaseModel):
    """One instrument. Prices are integers of 10^-px_scale quote per base, quantities of 10^-qty_scale base."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    symbol: Symbol
    px_scale: Annotated[int, Field(ge=0, le=9)]
    qty_scale: Annotated[int, Field(ge=0, le=9)]
    multiplier: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    base: str = ""
    quote: str = ""


class Reference(BaseModel):
    """Everything the execution flow must know beforehand."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    venues: list[VenueRules] = Field(min_length=1, max_length=1000)
    instruments: list[Instrument] = Field(min_length=1, max_length=100_000)

    @property
    def fingerprint(self) -> str:
        """Return 16 hex digits of the content; audit records carry it as `policy_hash`."""
        text = json.dumps(self.model_dump(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def load_reference(path: Path) -> Reference:
    """Read and check a reference file. Raises ReferenceError with all problems at once."""
    try:
        content = tomllib.loads(path.read_text())
    except OSError as error:
        raise ReferenceError(f"reference {path}: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        raise ReferenceError(f"reference {path}: {error}") from error
    try:
        reference = Reference.model_validate(content)
    except ValidationError as error:
        lines = (f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ReferenceError(f"reference {path}:\n" + "\n".join(f"  {line}" for line in lines)) from error
    for kind, names in (
        ("venue", [v.name for v in reference.venues]),
        ("instrument", [i.symbol for i in reference.instruments]),
    ):
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise ReferenceError(f"reference {path}: {kind} given twice: {', '.join(twice)}")
    return reference
