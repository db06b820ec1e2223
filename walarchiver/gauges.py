"""Keeps the gauges of /metrics true: what waits, what is archived, how far it can be restored."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import Executor
from pathlib import Path

from walarchiver.clusterservice import ClusterService
from walarchiver.core.effort import Effort
from walarchiver.errors import WalarchiverError
from walarchiver.log import get_log
from walarchiver.metrics import Metrics
from walarchiver.ports import Clock
from walarchiver.status import Status, status_of

INTERVAL_S = 10.0
ALARMING = frozenset(
    {
        "WA-DIVERGENCE",
        "WA-WRONG-CLUSTER",
        "WA-SEGMENT-CORRUPT",
        "WA-FILE-MISSING",
        "WA-LEDGER",
        "WA-LEDGER-REWOUND",
        "WA-UNTRUSTED",
        "WA-REVOKED",
    }
)
"""Refusals that a person should look at; each is counted in walarchiver_alarms_total."""

log = get_log("gauges")


def count_ready(data_directory: Path) -> int:
    """WAL files that PostgreSQL waits to have archived (archive_status/*.ready)."""
    try:
        return sum(
            1 for path in (data_directory / "pg_wal" / "archive_status").iterdir() if path.suffix == ".ready"
        )
    except OSError:
        return 0


async def keep_gauges(
    metrics: Metrics, clusters: Mapping[str, ClusterService], *, clock: Clock, executor: Executor
) -> None:
    """Set the gauges of every open cluster, again and again, until cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        for name, service in clusters.items():
            if service.data_directory is not None:
                ready = await loop.run_in_executor(executor, count_ready, service.data_directory)
                metrics.ready_files.labels(cluster=name).set(ready)
                service.note_backlog(ready)
            metrics.ahead_files.labels(cluster=name).set(service.ahead)
            metrics.hurried.labels(cluster=name).set(service.effort is Effort.HURRIED)
            if not service.ready:
                continue
            try:
                status = await loop.run_in_executor(executor, status_of, service.lanes[0].archive, clock)
            except WalarchiverError as error:
                log.warning("gauges not set", cluster=name, code=error.code, reason=error.message)
            else:
                set_gauges(metrics, name, status)
        await asyncio.sleep(INTERVAL_S)


def set_gauges(metrics: Metrics, name: str, status: Status) -> None:
    metrics.ledger_entries.labels(cluster=name).set(status.entries)
    metrics.gaps.labels(cluster=name).set(sum(gap.behind is None for gap in status.gaps))
    if status.latest is not None:
        metrics.restorable_time.labels(cluster=name).set(status.latest / 1e6)
    if status.backups:
        metrics.backup_time.labels(cluster=name).set(status.backups[-1].stop_time / 1e6)
