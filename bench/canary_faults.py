"""The canary under `bench.faults`: its workers, the monitor and the webhook deliverer behind them, a receiver that fails, and a verdict from all they said.

The schedule of blows is that of the execution flow, on the canary's workers; after every second step the monitor's worker or the deliverer is killed too.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Sequence
from hashlib import blake2b
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random
from typing import Any

from bench.canary_load import ACCOUNT
from bench.canary_verdict import CanaryVerdict, Told, judge
from bench.driver import READY_TIMEOUT_S, children
from bench.faults import DRAIN_TIMEOUT_S, LOAD_TIMEOUT_S, MARGIN, Faults, Step, carry_out, sum_up, tell
from bench.hedge_load import order
from bench.latency import stamp_topics
from bench.ledger import Cluster, read_ledger
from bench.verdict import CANARY_KINDS, KINDS, say
from connectors.kafka_server import KafkaServer
from connectors.webhooks import BadSignature, verify
from schemas.policy import BUILT_IN
from schemas.registry import DELIVERY_TOPICS, MONITOR_INPUTS

ALERTS = "canary.alert.v1"
PROFILES = ("canary-default", "canary-guarded")
KEY = bytes(range(32))
RETRY_S, TIMEOUT_S = [1, 2, 4], 2
"""Of the policies of a run: the built-in quarter of an hour between two attempts would outlast it."""
FAILS, STALLS = 0.15, 0.01
"""Shares of requests that are answered with 500, and that are not answered in time."""
QUIET_S = 12.0
"""Without an alert, a notice or a request for so long a run counts as over: longer than the longest wait between two attempts."""


class Receiver:
    """A webhook's other end: a real HTTP server on 127.0.0.1 that verifies every signature, and fails or stalls by the id and the count of requests."""

    def __init__(self, seed: int) -> None:
        self.requests: list[tuple[float, str, bool, int]] = []
        self._seen: Counter[str] = Counter()
        self._seed = seed
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                outer._take(self)

            def log_message(self, *args: Any) -> None:
                pass

            def handle(self) -> None:
                with contextlib.suppress(ConnectionError):  # the deliverer was killed between two requests
                    super().handle()

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()

    @property
    def url(self) -> str:
        """Return where it listens."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/canary"

    def close(self) -> None:
        """Listen no more."""
        self._server.shutdown()
        self._server.server_close()

    def _take(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers["content-length"]))
        headers = dict(request.headers.items())
        webhook_id = headers.get("webhook-id", "")
        try:
            verify([KEY], headers, body, time.time())
            signed = True
        except BadSignature:
            signed = False
        with self._lock:
            self._seen[webhook_id] += 1
            digest = blake2b(f"{self._seed}|{webhook_id}|{self._seen[webhook_id]}".encode(), digest_size=8).digest()
            chance = int.from_bytes(digest, "big") / 2**64
            answer = 0 if chance < STALLS else 500 if chance < STALLS + FAILS else 204
            self.requests.append((time.time(), webhook_id, signed, answer))
        if not answer:
            time.sleep(TIMEOUT_S + 1.0)
            request.close_connection = True
            return
        try:
            request.send_response(answer)
            request.send_header("content-length", "0")
            request.end_headers()
        except OSError:  # the deliverer was killed meanwhile
            request.close_connection = True


class CanaryFaults(Faults):
    """A run of the canary and of what hangs on it."""

    flow = "canary"
    loaded = ACCOUNT

    def __init__(self, options: argparse.Namespace, cluster: Cluster, folder: Path, server: KafkaServer | None) -> None:
        super().__init__(options, cluster, folder, server)
        self.policies = [_policy(folder, name) for name in PROFILES]
        self.receiver = Receiver(options.seed)
        self._rng = Random(f"canary faults|{options.seed}")
        self._steps = 0
        self.variables = {
            "HEDGEROW_POLICIES": os.pathsep.join(map(str, self.policies)),
            "HEDGEROW_CANARY_PROFILES": ",".join(PROFILES),
            "HEDGEROW_PARTITIONS": str(options.partitions),
        }

    def prepare(self) -> None:
        """Start the load, and the monitor with its deliverer."""
        words = (str(self.folder), str(self.options.partitions), str(self.options.seed))
        self.command("load", *words, module="bench.canary_load", **self.variables)
        self.wait_for((self.folder / "load.ready").exists, LOAD_TIMEOUT_S * 4, "the load is ready")
        targets = self.folder / "targets.toml"
        targets.write_text(
            f'[[target]]\nname = "pager"\nurl = "{self.receiver.url}"\nsecrets = ["env:PAGER"]\nin_flight = 8\nmax_waiting = 1000000\n'
        )
        secret = "whsec_" + base64.b64encode(KEY).decode()
        self.command("monitor", "monitor", "--targets", str(targets), module="bench.supervised", PAGER=secret, **self.variables)
        self.wait_for(lambda: len(children(self._processes["monitor"].pid)) == 2, READY_TIMEOUT_S, "the monitor and the deliverer run")

    def do(self, step: Step) -> None:
        """Carry out a step, and now and then kill what hangs on the canary."""
        super().do(step)
        self._steps += 1
        if self._steps % 2 == 0:
            there = children(self._processes["monitor"].pid)
            name = self._rng.choice(("monitor-0", "webhooks-0"))
            if name in there:
                os.kill(there[name], signal.SIGKILL)
                self.other_kills[name] += 1

    def start_burst(self) -> None:
        """Have snapshots come."""
        order(self.folder, f"{self.options.rate * MARGIN:g}")

    def stop_burst(self) -> None:
        """Have no more snapshots come."""
        order(self.folder, "0")

    def close(self) -> None:
        """Say everything once more, let all come to rest, stop everybody in good order."""
        order(self.folder, "freeze")
        begun, seen, since = time.monotonic(), -1, time.monotonic()
        places = self.cluster.places((*MONITOR_INPUTS, *DELIVERY_TOPICS))

        def at_rest() -> bool:
            nonlocal seen, since
            count = sum(self.cluster.ends(places).values()) + len(self.receiver.requests)
            if count != seen or self.behind(self.cluster.ends(self.inputs)):
                seen, since = count, time.monotonic()
            return time.monotonic() - since > QUIET_S

        self.wait_for(at_rest, DRAIN_TIMEOUT_S * 2, "no alert, notice or request comes any more", 0.3)
        say(f"everything was at rest {time.monotonic() - begun:.0f} s after the last snapshots")
        for number in range(self.options.workers):
            self.stop(self.name(number))
        self.stop("monitor")
        order(self.folder, "end")
        self.finished("load", DRAIN_TIMEOUT_S)
        self.receiver.close()

    def verdict(self) -> CanaryVerdict:
        """Compare everything that came of what was sent. Raises ReadError."""
        return judge(
            self.cluster, read_ledger(self.folder / "load.ndjson"), self.policies, Told(self.receiver.requests), os.cpu_count() or 1
        )


def _policy(folder: Path, profile: str) -> Path:
    """Write a built-in policy with the run's retries; return where."""
    content = json.loads((BUILT_IN / f"{profile}.json").read_text())
    content["policy"]["monitor"] |= {"retry_s": RETRY_S, "timeout_s": TIMEOUT_S}
    path = folder / f"{profile}.json"
    path.write_text(json.dumps(content))
    return path


def run(options: argparse.Namespace, cluster: Cluster, folder: Path, server: KafkaServer | None, steps: Sequence[Step]) -> bool:
    """Do everything, judge, tell; return whether all was good. Raises DriverError when the run itself did not work."""
    stamp_topics(cluster, (ALERTS,))
    faults = CanaryFaults(options, cluster, folder, server)
    ran = carry_out(faults, steps)
    line, rows = sum_up(options, faults.blows, cluster.stamps(ALERTS))
    verdict = faults.verdict()
    line |= {kind: verdict.problems.counts[kind] for kind in (*KINDS, *CANARY_KINDS)}
    line |= {
        "inputs": verdict.inputs,
        "balance": dict(verdict.balance),
        "alerts": dict(sorted(verdict.alerts.items())),
        "notices": dict(sorted(verdict.notices.items())),
        "deliveries": dict(sorted(verdict.deliveries.items())),
        "requests": verdict.requests,
        "sent_again_after_a_lost_answer": verdict.sent_again,
        "monitor_kills": dict(sorted(faults.other_kills.items())),
    }
    return tell(faults, steps, verdict, line, rows, ran)
