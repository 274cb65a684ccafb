"""The load of `bench.faults --flow canary`, and its process: accounts that walk through their buckets, positions, dashboards, fills, and what is wrong on purpose.

`python -m bench.canary_load FOLDER PARTITIONS SEED`: dashboards now and then for ever, snapshots at the rate the file FOLDER/control names. What Kafka
has acknowledged is in FOLDER/load.ndjson. May not know what the canary makes of it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections import deque
from pathlib import Path
from random import Random
from typing import Any

from bench.hedge_load import client_options, control, envelope, fill_bytes, message, uid
from connectors.simulator.messages import Message
from connectors.simulator.sender import Sender
from schemas.policy import CLUSTER_OF, CLUSTERS, ROWS

ACCOUNT, POSITION, FILLS, REGIME = (
    "portfolio.state.account.v1", "portfolio.state.position.v1", "execution.event.fill.v1", "risk.regime.v1",
)  # fmt: skip
SECOND, MS = 1_000_000_000, 1_000_000
ACCOUNTS = 400
PROFILES = ("canary-default", "canary-guarded")
REGIME_EVERY_NS = 6 * SECOND
SLICE_S = 0.02
REPEATED, LATE, MISROUTED, SPOILED, OF_POSITIONS, OF_FILLS = 0.01, 0.01, 0.005, 0.003, 0.3, 0.02
"""Shares of snapshots: said twice, older than what was said, on the wrong partition, unusable; positions among them; fills beside them."""
NAMES = ("SPY", "QQQ", "IWM", "AAPL")
MARKETS = (
    ({}, 0.2, -1.0),
    ({"vix_term_structure": "yellow", "hyg_spy_divergence": "yellow"}, -0.4, 4.0),
    ({"vix_term_structure": "red", "vol_of_vol": "red", "hyg_spy_divergence": "yellow"}, -1.8, 12.0),
    ({"vix_term_structure": "red", "vol_of_vol": "red", "hyg_spy_divergence": "red", "credit_spreads": "red"}, -3.1, 24.0),
)
"""What the market may be like: rows that are not green, SPY and VIX day changes."""


def account_name(number: int) -> str:
    """Return an account's name."""
    return f"ACC-{number:04d}"


def regime_payload(profile: str, policy: tuple[str, str], state: int, as_of_ns: int) -> dict[str, Any]:
    """Return a dashboard of contract's form: all rows measured and fresh, the bands of a state of the market. policy: version and fingerprint."""
    bands, spy, vix = MARKETS[state]
    rows = [
        {
            "row": row, "band": bands.get(row, "green"), "status": "ok", "as_of_ns": as_of_ns, "freshness_class": "fresh", "sessions": 3, "depth": 1e3,
            "eligibility": "eligible" if bands.get(row) == "red" else None,
            "envelope": {"status": "ready"} if row == "gamma_zero" else {"state": "ready"} if row == "breadth" else None,
        }
        for row in ROWS
    ]  # fmt: skip
    worst = {c: max((bands.get(r, "green") for r in ROWS if CLUSTER_OF[r] == c), key=("green", "yellow", "red").index) for c in CLUSTERS}
    counts = {f"{band}_count": sum(r["band"] == band for r in rows) for band in ("green", "yellow", "red")}
    counts |= {f"cluster_{band}_count": sum(found == band for found in worst.values()) for band in ("green", "yellow", "red")}
    key = {"version": "regime-fp-v1", "key": "sha256:" + "0" * 64}
    return {
        "profile": profile, "policy_version": policy[0], "policy_fingerprint": policy[1], "as_of_ns": as_of_ns, "rows": rows,
        "spy_change_pct": spy, "vix_change_pct": vix,
        "composite": {"verdict": "as the rows say", **counts, "ranked_count": 8, "unranked_count": 0, "cluster_ranked_count": 6, "cluster_unranked_count": 0},
        "lifecycle": {"stage": "quiet", "severity": "observe", "readiness": "ready", "timing": "current", "confidence": "high"},
        "confidence": "high",
        "source_health": [
            {"source": c, "status": "ok", "confidence": "high", "fingerprint_stability": "semantic_buckets_only"} for c in CLUSTERS
        ],
        "fingerprint": key,
    }  # fmt: skip


class Load:
    """What is sent, as a function of the seed and of the times asked for. `fault` of a message: `spoiled:REASON` for what must end in the DLQ."""

    def __init__(self, seed: int, policies: dict[str, tuple[str, str]], accounts: int = ACCOUNTS) -> None:
        self._rng = Random(f"canary load|{seed}")
        self._policies = policies
        self.accounts = [account_name(number) for number in range(accounts)]
        self._cushion = {account: self._rng.uniform(0.05, 0.7) for account in self.accounts}
        self._gross = {account: self._rng.uniform(4e4, 1.8e5) for account in self.accounts}
        self._delta = {account: self._rng.uniform(-1.4e5, 1.4e5) for account in self.accounts}
        self._pnl = dict.fromkeys(self.accounts, 0.0)
        self._last_ns = 0
        self._said: dict[tuple[str, str], bytes] = {}
        self._later: deque[tuple[int, Message]] = deque()

    def regimes(self, now_ns: int, state: int | None = None) -> list[Message]:
        """Return a dashboard of each profile."""
        state = self._rng.randrange(len(MARKETS)) if state is None else state
        found = []
        for profile in PROFILES:
            payload = regime_payload(profile, self._policies[profile], state, now_ns)
            found.append(
                Message(REGIME, f"regime|{profile}".encode(), message(REGIME, payload, uid(self._rng), now_ns, "regime"), now_ns, "REGIME")
            )
        return found

    def snapshots(self, count: int, now_ns: int) -> list[Message]:
        """Return so many snapshots, some fills beside them, and what is due of what was put off."""
        rng, found = self._rng, []
        for _ in range(count):
            account = self.accounts[rng.randrange(len(self.accounts))]
            if rng.random() < OF_FILLS:
                found.append(self._fill(account, now_ns))
            found += self._snapshot(POSITION if rng.random() < OF_POSITIONS else ACCOUNT, account, now_ns)
        while self._later and self._later[0][0] <= now_ns:
            found.append(self._later.popleft()[1])
        return found

    def ending(self, now_ns: int) -> list[Message]:
        """Return one good snapshot of each kind of every account, and the last dashboards."""
        found = [message for _, message in self._later]
        self._later.clear()
        for account in self.accounts:
            for topic in (ACCOUNT, POSITION):
                found.append(Message(topic, account.encode(), self._value(topic, account, now_ns), now_ns, "LAST"))
        return found + self.regimes(now_ns)

    def _snapshot(self, topic: str, account: str, now_ns: int) -> list[Message]:
        rng = self._rng
        key, chance = account.encode(), rng.random()
        before = self._said.get((topic, account))
        if chance < SPOILED:
            bad, reason = rng.choice(
                (
                    (b'{"msg_id":', "json_malformed"), (b"\xff\xfe", "encoding_invalid"),
                    (self._value(topic, account, now_ns).replace(b'"version":"v1"', b'"version":"v7"'), "version_unknown"),
                    (self._value(topic, account, now_ns).replace(b'"mode":"live"', b'"mode":"other"'), "enum_unknown"),
                )
            )  # fmt: skip
            return [Message(topic, key, bad, now_ns, "GARBAGE", fault=f"spoiled:{reason}")]
        value = self._value(topic, account, now_ns)
        found = [Message(topic, key, value, now_ns, "SNAPSHOT", misrouted=SPOILED <= chance < SPOILED + MISROUTED)]
        chance -= SPOILED + MISROUTED
        if 0.0 <= chance < LATE and before is not None:
            found.append(Message(topic, key, before, now_ns, "SNAPSHOT", fault="late"))
        elif 0.0 <= chance - LATE < REPEATED:
            self._later.append((now_ns + 500 * MS, found[0]._replace(fault="repeated")))
        self._said[topic, account] = value
        return found

    def _value(self, topic: str, account: str, now_ns: int) -> bytes:
        """Return a snapshot; no two of a run have one `as_of_ns`, so that an alert names those it rests on."""
        rng = self._rng
        self._last_ns = as_of_ns = max(now_ns, self._last_ns + 1)
        payload: dict[str, Any] = {"account": account, "mode": "live", "as_of_ns": as_of_ns}
        if topic == ACCOUNT:
            cushion = self._cushion[account] = min(0.9, max(0.02, self._cushion[account] + rng.gauss(0.0, 0.01)))
            gross = self._gross[account] = min(2e5, max(1e4, self._gross[account] + rng.gauss(0.0, 2e3)))
            pnl = self._pnl[account] = 0.99 * self._pnl[account] + rng.gauss(0.0, 500.0)
            payload |= {
                "base_currency": "USD", "net_liquidation": "100000", "cushion": f"{cushion:.4f}", "excess_liquidity": f"{cushion * 1e5:.2f}",
                "gross_position_value": f"{gross:.2f}", "daily_pnl": None if rng.random() < 0.002 else f"{pnl:.2f}",
            }  # fmt: skip
        else:
            delta = self._delta[account] = min(1.6e5, max(-1.6e5, self._delta[account] + rng.gauss(0.0, 2e3)))
            shares = [0.5, 0.25, 0.15, 0.1]
            rng.shuffle(shares)
            exposures = [
                {
                    "underlying": name, "market_value_base": f"{delta * share:.2f}", "market_value_pct_nlv": round(delta * share / 1e3, 4),
                    "dollar_delta_base": f"{delta * share:.2f}",
                }
                for name, share in zip(NAMES, shares, strict=True)
            ]  # fmt: skip
            payload |= {
                "stocks": [{"symbol": name, "quantity": "10"} for name in NAMES], "options": [],
                "portfolio": {"dollar_delta_base": f"{delta:.2f}", "gamma": round(rng.gauss(10.0, 5.0), 3), "greeks_coverage": 0, "greeks_total": 0,
                              "exposure_base": exposures},
            }  # fmt: skip
        identity = uid(rng)
        return envelope(topic, json.dumps(payload, separators=(",", ":")), identity, as_of_ns, "broker")

    def _fill(self, account: str, now_ns: int) -> Message:
        rng = self._rng
        book = f"BOOK-{int(account[-4:]) % 32:02d}"
        order_id, fill_id = uid(rng), uid(rng)
        value = fill_bytes(
            uid(rng), now_ns, book=book, symbol="BTC-USD", order_id=order_id, fill_id=fill_id, version=1, delta=rng.choice((-1, 1)) * 1_000, size=1_000,
            px=6_000_000, account=account,
        )  # fmt: skip
        return Message(FILLS, book.encode(), value, now_ns, "FILL")


def main(argv: list[str]) -> int:
    """Send until told to end; the last line out says how much."""
    from schemas.policy import load_policies

    folder, partitions, seed = Path(argv[0]), int(argv[1]), int(argv[2])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    policies = load_policies([Path(path) for path in os.environ["HEDGEROW_POLICIES"].split(os.pathsep)])
    load = Load(seed, {name: (policy.version, policy.fingerprint) for name, policy in policies.items()})
    topics = dict.fromkeys((ACCOUNT, POSITION, FILLS), partitions)
    with (folder / "load.ndjson").open("w", encoding="utf-8") as ledger:
        sender = Sender(os.environ["HEDGEROW_KAFKA"], client_options(), topics, ledger)
        sender.send(load.regimes(time.time_ns(), 0))
        sender.producer.flush(60.0)
        (folder / "load.ready").touch()
        begun, sent, rate, frozen = time.monotonic(), 0, 0.0, False
        next_regime = time.time_ns() + REGIME_EVERY_NS
        while (word := control(folder)) != "end":
            now, tick = time.time_ns(), time.monotonic()
            batch: list[Message] = []
            if word == "freeze":
                if not frozen:
                    frozen = True
                    batch += load.ending(now)
            elif float(word) != rate:
                rate, begun, sent = float(word), tick, 0
            if not frozen:
                if rate and now >= next_regime:
                    batch += load.regimes(now)
                    next_regime = now + REGIME_EVERY_NS
                count = min(int((tick - begun) * rate) - sent, int(rate * 0.2) + 1) if rate else 0
                batch += load.snapshots(max(count, 0), now)
                if int((tick - begun) * rate) - sent > rate:  # it fell a second behind: not made good
                    begun, sent = tick, 0
                else:
                    sent += max(count, 0)
            sender.send(batch)
            time.sleep(max(0.0, SLICE_S - (time.monotonic() - tick)))
        left = sender.close()
    print(json.dumps({"sent": sum(sender.sent.values()), "undelivered": left, "errors": dict(sender.errors)}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
