"""`hedgerow topics create|check`: the registry's topics on the cluster of the settings. The work is done in connectors/topics.py."""

from __future__ import annotations

import argparse
import sys

from connectors.topics import check_topics, create_topics
from flows.settings import Settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `hedgerow topics`."""
    parser.add_argument("action", choices=("create", "check"), help="create what is missing, or compare what is there with the registry")
    parser.add_argument("--partitions", type=int, metavar="N", help="lanes: partitions of the co-partitioned topics (HEDGEROW_PARTITIONS)")
    parser.add_argument("--replication", type=int, metavar="N", help="copies of each partition (HEDGEROW_REPLICATION)")


def run(args: argparse.Namespace) -> int:
    """Create or check; return 0, or 1 when a topic differs from the registry."""
    settings: Settings = args.settings
    bootstrap, client = settings.bootstrap, settings.client_config()
    if args.action == "create":
        for name in create_topics(bootstrap, settings.partitions, settings.replication, client):
            print(f"created {name}")
    problems = check_topics(bootstrap, settings.partitions, client)
    for problem in problems:
        print(f"hedgerow: {problem}", file=sys.stderr)
    if not problems:
        print(f"the topics at {bootstrap} are as the registry has them ({settings.partitions} lanes)")
    return 1 if problems else 0
