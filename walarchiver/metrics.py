"""What Prometheus reads: every metric, declared in one place.

Rules:
- Names begin with `walarchiver_`, carry their unit, and counters end in `_total`.
- Labels are few and bounded: cluster, repository, outcome, operation. Never a file name.
- Safe to use from several threads (prometheus_client locks inside).
- Each `Metrics` has a registry of its own, so several servers fit into one process (tests do that).
"""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST

_LATENCY_S = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0)


class Metrics:
    """One server's metrics."""

    def __init__(self, version: str, *, only_cluster: str = "") -> None:
        """`only_cluster`: the label of callers that name none; empty where there are several."""
        self.only_cluster = only_cluster
        self._registry = CollectorRegistry()
        self._gauge("build", "Always 1; the label is the version.", "version").labels(version=version).set(1)
        self.pushes = self._counter("pushes", "WAL files offered by PostgreSQL.", "cluster", "outcome")
        self.push_seconds = self._histogram("push_seconds", "From request to answer.", "cluster")
        self.fetches = self._counter("fetches", "WAL files asked for by PostgreSQL.", "cluster", "outcome")
        self.fetch_seconds = self._histogram("fetch_seconds", "From request to answer.", "cluster")
        self.prefetches = self._counter(
            "prefetches", "WAL files fetched before PostgreSQL asked for them.", "cluster", "outcome"
        )
        self.plain_bytes = self._counter("archived_plain_bytes", "WAL bytes archived.", "cluster")
        self.stored_bytes = self._counter("archived_stored_bytes", "The same as stored.", "cluster")
        self.ready_files = self._gauge("ready_files", "WAL files that wait to be archived.", "cluster")
        self.ahead_files = self._gauge("ahead_files", "WAL files being archived ahead.", "cluster")
        self.hurried = self._gauge("compression_hurried", "1 while compressing less, to catch up.", "cluster")
        self.ledger_entries = self._gauge("ledger_entries", "Entries of the verified ledger.", "cluster")
        self.gaps = self._gauge("gaps", "Gaps in the WAL that no base backup begins behind.", "cluster")
        self.restorable_time = self._gauge(
            "latest_restorable_timestamp_seconds", "The latest restorable second, since 1970.", "cluster"
        )
        self.store_requests = self._counter(
            "store_requests", "Calls to object storage.", "repository", "operation", "outcome"
        )
        self.backup_time = self._gauge(
            "latest_backup_timestamp_seconds", "End of the newest base backup, since 1970.", "cluster"
        )
        self.backup_bytes = self._counter("backup_stored_bytes", "Base backup bytes stored.", "cluster")
        self.alarms = self._counter("alarms", "Facts that a person should look at.", "cluster", "code")
        self.bugs = self._counter("bugs", "Requests that ended in an unforeseen error.")

    def render(self) -> bytes:
        """The Prometheus text form of everything; its content type is `CONTENT_TYPE`."""
        return generate_latest(self._registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"walarchiver_{name}", text, labels, registry=self._registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"walarchiver_{name}", text, labels, registry=self._registry)

    def _histogram(self, name: str, text: str, *labels: str) -> Histogram:
        return Histogram(f"walarchiver_{name}", text, labels, registry=self._registry, buckets=_LATENCY_S)
