"""What a worker tells Prometheus: the runtime's figures and every lane's counters, on loopback unless set otherwise.

Only reads `Runtime.snapshot()`, when it is scraped; nothing is counted here. METRICS is the one place a metric is named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from connectors.kafka import StartupError

Snapshot = Callable[[], dict[str, Any]]

METRICS: dict[str, tuple[str, str]] = {
    "hedgerow_records_in": ("counter", "records taken in from the co-partitioned inputs"),
    "hedgerow_bytes_in": ("counter", "their bytes"),
    "hedgerow_chunks": ("counter", "chunks they came in"),
    "hedgerow_records_out": ("counter", "records handed to the producer (an aborted transaction's included)"),
    "hedgerow_bytes_out": ("counter", "their bytes"),
    "hedgerow_broadcast_records": ("counter", "records read from broadcast topics after the start"),
    "hedgerow_broadcast_wait_seconds": ("counter", "seconds chunks waited for broadcast data, at most the tape wait at a time"),
    "hedgerow_commits": ("counter", "transactions committed"),
    "hedgerow_aborts": ("counter", "transactions aborted"),
    "hedgerow_rebalances": ("counter", "assignments taken over"),
    "hedgerow_lanes_restored": ("counter", "lanes restored from the changelog"),
    "hedgerow_restore_seconds": ("counter", "seconds spent taking lanes over"),
    "hedgerow_pauses": ("counter", "times a lane was paused because too much was uncommitted"),
    "hedgerow_truncations": ("counter", "requests to delete obsolete changelog records"),
    "hedgerow_truncate_errors": ("counter", "of these, refused"),
    "hedgerow_kafka_errors": ("counter", "passing client errors (retried)"),
    "hedgerow_uncommitted_bytes": ("gauge", "bytes in and out that no commit covers yet"),
    "hedgerow_lanes_paused": ("gauge", "lanes paused now"),
    "hedgerow_lanes_owned": ("gauge", "lanes this worker owns"),
    "hedgerow_commit_seconds": ("histogram", "from the last lane's answer to the commit's confirmation"),
    "hedgerow_chunk_records": ("histogram", "records per chunk"),
    "hedgerow_lane_lag": ("gauge", "records behind the end of the lane's inputs, as last fetched"),
    "hedgerow_lane_count": ("gauge", "a lane logic's own counters, by name"),
    "hedgerow_broadcast_count": ("gauge", "the broadcast table's own counters, by name"),
}
"""Name (counters are exposed with `_total`) → kind, what it counts."""


class RuntimeCollector(Collector):
    """Turns a snapshot into metric families, labelled with flow and worker."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        """Yield every family of METRICS."""
        now = self._snapshot()
        names, values = ["flow", "worker"], [str(now["flow"]), str(now["worker"])]
        gauges = {"uncommitted_bytes": now["uncommitted_bytes"], "lanes_paused": now["paused"], "lanes_owned": len(now["lanes"])}
        for metric, (kind, doc) in METRICS.items():
            short = metric.removeprefix("hedgerow_")
            if short in now["counts"]:
                counter = CounterMetricFamily(metric, doc, labels=names)
                counter.add_metric(values, now["counts"][short])
                yield counter
            elif short in gauges:
                gauge = GaugeMetricFamily(metric, doc, labels=names)
                gauge.add_metric(values, gauges[short])
                yield gauge
            elif kind == "histogram":
                yield _histogram(metric, doc, names, values, now["histograms"])
        lag = GaugeMetricFamily("hedgerow_lane_lag", METRICS["hedgerow_lane_lag"][1], labels=[*names, "lane"])
        count = GaugeMetricFamily("hedgerow_lane_count", METRICS["hedgerow_lane_count"][1], labels=[*names, "lane", "name"])
        for lane, counters in now["lanes"].items():
            for name, value in counters.items():
                if name == "lag":
                    lag.add_metric([*values, str(lane)], value)
                else:
                    count.add_metric([*values, str(lane), name], value)
        yield lag
        yield count
        shared = GaugeMetricFamily("hedgerow_broadcast_count", METRICS["hedgerow_broadcast_count"][1], labels=[*names, "name"])
        for name, value in now["broadcast"].items():
            shared.add_metric([*values, name], value)
        yield shared


def _histogram(metric: str, doc: str, names: list[str], values: list[str], histograms: dict[str, Any]) -> HistogramMetricFamily:
    scale = 1000.0 if metric.endswith("_seconds") else 1.0
    bounds, counts, total = histograms["commit_ms" if scale == 1000.0 else "chunk_records"]
    family = HistogramMetricFamily(metric, doc, labels=names)
    buckets, seen = [], 0
    for bound, number in zip([*(str(b / scale) for b in bounds), "+Inf"], counts, strict=True):
        seen += number
        buckets.append((bound, float(seen)))
    family.add_metric(values, buckets, total / scale)
    return family


def serve_metrics(snapshot: Snapshot, port: int, host: str = "127.0.0.1") -> Callable[[], None]:
    """Serve /metrics at host:port; return what ends it. Raises StartupError when the port is taken."""
    registry = CollectorRegistry()
    registry.register(RuntimeCollector(snapshot))
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        raise StartupError(f"metrics cannot be served at {host}:{port} ({error.strerror}); change HEDGEROW_METRICS_PORT") from None

    def close() -> None:
        server.shutdown()
        server.server_close()
        thread.join(timeout=2)

    return close
