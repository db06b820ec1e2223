"""Planning: gathers what the repository knows, asks the planner, and makes a plan of its answer.

Gather → decide (restore/core/planner.py, pure) → write down. Changes nothing anywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from restore.core.model import BackupBelow, BaseBackup, Decision, Limits, Run, Superseded, Target, View
from restore.core.planner import decide
from restore.samples import Samples
from restore.walreader import WalReader
from walarchiver.catalog import Catalog
from walarchiver.core.segment import Segment, SegmentBytes
from walarchiver.format.backupchain import whole_chains
from walarchiver.format.records import BackupRecord, ClusterRecord
from walarchiver.production import production_timeline
from walarchiver.repository import Repository


@dataclass(frozen=True, slots=True)
class Question:
    """One question to the planner."""

    target: Target
    timeline: int | None = None


def view_of(catalog: Catalog, cluster: ClusterRecord, ledger_seq: int) -> View:
    """What the catalog knows of a cluster, in the planner's terms."""
    size = SegmentBytes(cluster.segment_size)
    histories = catalog.histories()
    return View(
        cluster=cluster.name,
        system=int(cluster.system),
        major=cluster.major,
        segment_size=size,
        ledger_seq=ledger_seq,
        runs=tuple(Run(timeline, first, last) for timeline, first, last in catalog.runs()),
        histories=histories,
        backups=tuple(_backup(chain) for chain in whole_chains(catalog.backups()).values()),
        horizons=Samples(catalog),
        current_timeline=production_timeline(catalog, size) or max(histories, default=1),
        superseded=tuple(
            Superseded(change.name, change.old, change.new, change.reason) for change in catalog.superseded()
        ),
    )


def _backup(chain: tuple[BackupRecord, ...]) -> BaseBackup:
    record = chain[-1]
    limits = record.facts.limits
    return BaseBackup(
        id=record.backup,
        timeline=record.timeline,
        start_lsn=record.start_lsn,
        stop_lsn=record.stop_lsn,
        start_time=record.start_time,
        stop_time=record.stop_time,
        raw=record.raw,
        stored=record.stored,
        limits=Limits(
            max_connections=limits.max_connections,
            max_worker_processes=limits.max_worker_processes,
            max_wal_senders=limits.max_wal_senders,
            max_prepared_transactions=limits.max_prepared_transactions,
            max_locks_per_transaction=limits.max_locks_per_transaction,
        ),
        below=tuple(BackupBelow(one.backup, one.raw, one.stored) for one in chain[:-1]),
    )


def ask(
    repository: Repository,
    catalog: Catalog,
    view: View,
    question: Question,
    *,
    progress: Callable[[Segment], None] = lambda _segment: None,
) -> Decision:
    """The planner's decision, opening the WAL segments it needs to see."""
    reader = WalReader(
        repository=repository,
        system=str(view.system),
        catalog=catalog,
        segment_size=view.segment_size,
        progress=progress,
    )
    try:
        return decide(view, question.target, reader.knowledge(), timeline=question.timeline)
    finally:
        reader.close()
