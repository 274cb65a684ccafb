"""A hedger worker that tells where its processor time goes: `hedgerow run hedger` with timers around what a chunk, a tick and a decision call.

`python -m bench.profiled FOLDER run hedger`: when it ends it writes FOLDER/stages.json (processor time by part, exclusive, and calls) and, with
HEDGEROW_BENCH_CPROFILE=1, FOLDER/profile.pstats (cProfile of its main thread, which makes it about twice as slow). The flow's own code is not
changed and knows nothing of it. Not for measuring latency.
"""

from __future__ import annotations

import cProfile
import json
import os
import sys
import time
from pathlib import Path

from bench.stages import Timers, thread_seconds


def install(timers: Timers) -> None:
    """Wrap the calls of the hedger's flow."""
    from connectors import kafka
    from flows import runtime
    from operators import book_value, decision, hedger
    from operators.hedge_market import HedgeMarket
    from operators.outbox import Outbox
    from schemas.codec import Decoder

    for part, owner, names in (
        ("poll", kafka.Session, ("poll",)),
        ("batch", kafka, ("chunks_of",)),
        ("produce", kafka.Session, ("produce",)),
        ("commit", kafka.Session, ("commit",)),
        ("market: poll", kafka.BroadcastReader, ("poll",)),
        ("market: apply", HedgeMarket, ("apply",)),
        ("decode", Decoder, ("decode",)),
        ("engine", runtime.Runtime, ("source_step", "lane_step", "sink_step")),
        ("fold fills", hedger.HedgerLogic, ("_take_fills",)),
        ("fold kernel", hedger, ("fold_fills",)),
        ("other inputs", hedger.HedgerLogic, ("_take_each",)),
        ("parse", hedger, ("parse",)),
        ("settle", hedger.HedgerLogic, ("_settle",)),
        ("tick", hedger.HedgerLogic, ("tick",)),
        ("watch", hedger.HedgerLogic, ("_watch",)),
        ("evict", hedger.HedgerLogic, ("_evict",)),
        ("capture", hedger.HedgerLogic, ("capture",)),
        ("minutes", hedger.HedgerLogic, ("_keep_minutes",)),
        ("decide: frame", hedger.HedgerLogic, ("_frame",)),
        ("decide: ratios", hedger, ("update_ratios",)),
        ("decide: keep ratios", hedger.HedgerLogic, ("_keep_ratios",)),
        ("decide: view", hedger.HedgerLogic, ("_view",)),
        ("decide: version", hedger.HedgerLogic, ("_version",)),
        ("decide: decide", hedger, ("decide",)),
        ("decide: look", decision, ("look",)),
        ("decide: digest", book_value, ("_digest",)),
        ("decide: per bar", book_value, ("per_bar",)),
        ("decide: propose", decision, ("_propose",)),
        ("decide: solve", decision, ("propose",)),
        ("decide: lots", decision, ("round_to_lots",)),
        ("decide: rest of a book", hedger.HedgerLogic, ("_decide",)),
        ("decide: account", hedger.HedgerLogic, ("_account",)),
        ("audit", hedger.HedgerLogic, ("_audit",)),
        ("audit: put", hedger.HedgerLogic, ("_put_audit",)),
        ("send", hedger.HedgerLogic, ("_send",)),
        ("tell", hedger.HedgerLogic, ("_tell",)),
        ("message", Outbox, ("message",)),
        ("hand out", Outbox, ("hand_out",)),
    ):
        for name in names:
            timers.method(part, owner, name)


def main(argv: list[str]) -> int:
    """Run the command with timers; write what they say when it ends."""
    from flows import cli

    target, words = Path(argv[0]), argv[1:]
    target.mkdir(parents=True, exist_ok=True)
    timers = Timers()
    install(timers)
    profile = cProfile.Profile(time.thread_time) if os.environ.get("HEDGEROW_BENCH_CPROFILE") == "1" else None
    try:
        return profile.runcall(cli.main, words) if profile else cli.main(words)
    finally:
        every, rdkafka = thread_seconds()
        row = {
            "cpu_s": time.process_time(),
            "threads_s": every,
            "librdkafka_s": rdkafka,
            "stages_ns": dict(timers.total_ns),
            "calls": dict(timers.calls),
        }
        (target / "stages.json").write_text(json.dumps(row))
        if profile:
            profile.dump_stats(target / "profile.pstats")


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
