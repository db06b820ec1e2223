"""Status: how far a cluster can be restored, told from the ledger alone.

Rules:
- The headline is the latest restorable second: what the newest horizon sample proves that unbroken
  WAL from a base backup covers. The ledger proves it; no key is needed to say it. The planner, who
  opens the WAL, may know of a later moment, never of an earlier one only: what is promised here
  can be planned, unless the clock was stepped.
- A segment whose scan found damage ends the WAL like a missing one, though it is archived; one that does
  not go on from the segment before it ends it between the two.
- Each shortcoming is said with its cause and the next step.
- A gap is a shortcoming until a base backup begins behind it. Then nothing can be done about it any
  more: it is still told, because no moment inside can be restored, but it degrades nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from restore.core.horizon import SAMPLE_MARGIN_US
from walarchiver.assembly import Archive
from walarchiver.checkpoints import Kept
from walarchiver.core.coverage import Run, gaps, lacking, run_names
from walarchiver.core.history import TimelineHistory
from walarchiver.core.lsn import Lsn
from walarchiver.core.moment import CommitTime, format_rfc3339
from walarchiver.core.segment import Segment, SegmentBytes
from walarchiver.errors import NotAWalFile
from walarchiver.format.backupchain import INCREMENTAL, whole_chains
from walarchiver.format.records import BackupRecord
from walarchiver.pathsamples import PathSamples
from walarchiver.ports import Clock
from walarchiver.production import production_timeline
from walarchiver.restorable import (
    MISFIT,
    Followable,
    Spans,
    before_fork,
    damaged,
    followable,
    misfits,
    recoverable,
    recoverable_members,
)

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class MissingWal:
    """A gap: the names of its first and last segment."""

    first: str
    last: str
    behind: str | None
    """The first base backup that begins behind it; None while there is none."""


@dataclass(frozen=True, slots=True)
class DamagedWal:
    """A segment that is archived and cannot be followed: its scan, or that of the one before it, says so."""

    name: str
    problem: str
    behind: str | None
    """The first base backup that begins behind it; None while there is none."""


@dataclass(frozen=True, slots=True)
class Status:
    """One cluster's condition. Times are the database server's, microseconds since 1970."""

    cluster: str
    system: str
    major: int
    repository: str
    now: int
    entries: int
    void_entries: tuple[int, ...]
    timeline: int
    last_segment: str | None
    segments: int
    earliest: CommitTime | None
    latest: CommitTime | None
    reason: str
    """Why `latest` is what it is, or why there is none."""
    backups: tuple[BackupRecord, ...]
    broken: tuple[str, ...]
    """Those of them whose chain is not whole: nothing can be restored from them."""
    gaps: tuple[MissingWal, ...]
    damaged: tuple[DamagedWal, ...]
    single_writer: bool
    kept: Kept | None
    """What is known of the second place; None when none is configured (or it was not asked)."""
    kept_problem: str | None

    @property
    def incrementals(self) -> int:
        """How many incremental base backups build on the newest full one."""
        return next(
            (n for n, one in enumerate(reversed(self.backups)) if one.method != INCREMENTAL),
            len(self.backups),
        )

    @property
    def problems(self) -> tuple[str, ...]:
        """What an operator should act on, a sentence each."""
        found = []
        if self.latest is None:
            found.append(self.reason)
        found.extend(
            f"WAL is missing from {gap.first} to {gap.last}, and no base backup begins behind it: "
            "run `walarchiver backup` now."
            for gap in self.gaps
            if gap.behind is None
        )
        found.extend(
            f"{one.name} is archived, but {_how(one.problem)}, and no base backup begins "
            f"{'there' if one.problem == MISFIT else 'behind it'} or later: run `walarchiver backup` now."
            for one in self.damaged
            if one.behind is None
        )
        if self.broken:
            found.append(
                f"{len(self.broken)} base backups (first: {self.broken[0]}) lack one that they build on: "
                "run `walarchiver backup`, which takes a full one."
            )
        if self.void_entries:
            found.append(
                f"{len(self.void_entries)} void ledger entries (first: {self.void_entries[0]}): "
                "somebody without a valid key wrote to the repository."
            )
        if self.single_writer:
            found.append(
                "The store does not refuse second creates: let one host only archive into it, "
                "or choose a store with conditional writes."
            )
        if self.kept_problem is not None:
            found.append(self.kept_problem)
        return tuple(found)


def status_of(archive: Archive, clock: Clock, kept: Kept | None = None) -> Status:
    """The condition of an archive whose ledger has just been read; `kept`: what the second place says."""
    catalog, size = archive.catalog, archive.segment_size
    state = archive.ledger.state()
    timeline = production_timeline(catalog, size) or 1
    path = catalog.histories().get(timeline, TimelineHistory(timeline))
    runs = tuple(Run(*run) for run in catalog.runs())
    recorded = tuple(catalog.backups())
    chains = whole_chains(recorded)
    backups = tuple(chain[-1] for chain in chains.values())
    bad = list(damaged(archive))
    earliest, latest, reason = _window(archive, path, followable(archive), backups)
    highest = catalog.last_segment(timeline)
    missing = (*gaps(runs), *_told_gaps(archive, runs))
    return Status(
        cluster=archive.cluster.name,
        system=archive.system,
        major=archive.cluster.major,
        repository=archive.repository.store.url,
        now=clock.now_us(),
        entries=state.next_seq,
        void_entries=tuple(catalog.voids()),
        timeline=timeline,
        last_segment=None if highest is None else Segment(timeline, highest).name(size),
        segments=sum(run.last - run.first + 1 for run in runs),
        earliest=earliest,
        latest=latest,
        reason=reason,
        backups=recorded,
        broken=tuple(one.backup for one in recorded if one.backup not in chains),
        gaps=tuple(
            MissingWal(first, last, _backup_behind(backups, path, gap, size))
            for gap, (first, last) in zip(missing, run_names(missing, size), strict=True)
        ),
        damaged=tuple(
            DamagedWal(
                segment.name(size),
                problem,
                _backup_behind(backups, path, Run(segment.timeline, segment.number, segment.number), size),
            )
            for segment, problem in bad
        )
        + tuple(
            DamagedWal(
                segment.name(size),
                MISFIT,
                _backup_behind(
                    backups, path, Run(segment.timeline, segment.number - 1, segment.number - 1), size
                ),
            )
            for segment in misfits(archive)
        ),
        single_writer=archive.single_writer,
        kept=kept,
        kept_problem=None if kept is None else kept.problem(catalog),
    )


def _told_gaps(archive: Archive, runs: tuple[Run, ...]) -> Iterator[Run]:
    """What `gap` records tell of and is not there to this day, beyond the gaps between segments."""
    seen = gaps(runs)
    for gap in archive.catalog.gaps():
        with contextlib.suppress(NotAWalFile):
            first, last = (Segment.parse(name, archive.segment_size) for name in (gap.first, gap.last))
            told = Run(first.timeline, first.number, last.number)
            yield from (run for run in lacking(runs, told) if run not in seen)


def _backup_behind(
    backups: Sequence[BackupRecord], path: TimelineHistory, gap: Run, size: SegmentBytes
) -> str | None:
    """The first base backup of production's path that begins behind a gap."""
    end = Segment(gap.timeline, gap.last).end(size)
    on_path = [one for one in backups if before_fork(path, one.timeline, one.stop_lsn)]
    found = [one for one in on_path if one.start_lsn >= end]
    return min(found, key=lambda one: one.start_lsn).backup if found else None


def _how(problem: str) -> str:
    return problem.removeprefix("it ") if problem == MISFIT else f"cannot be followed to its end ({problem})"


def _window(
    archive: Archive, path: TimelineHistory, wal: Followable, backups: Sequence[BackupRecord]
) -> tuple[CommitTime | None, CommitTime | None, str]:
    """Earliest and latest restorable moment on a path, and why."""
    size = archive.segment_size
    on_path = [backup for backup in backups if before_fork(path, backup.timeline, backup.stop_lsn)]
    if not on_path:
        return None, None, "There is no base backup: run `walarchiver backup`."
    earliest: CommitTime | None = None
    latest: CommitTime | None = None
    reason = "No base backup has its WAL archived yet: is archiving running, and was the segment switched?"
    samples = PathSamples(archive.catalog, size)
    for backup in sorted(on_path, key=lambda backup: backup.stop_lsn, reverse=True):
        reached = wal.last(path, backup.start_lsn // size)
        if reached is None or (reached + 1) * size < backup.stop_lsn:
            continue
        if earliest is None or backup.stop_time < earliest:
            earliest = backup.stop_time
        seen = samples.newest(path, backup.stop_lsn, Lsn((reached + 1) * size))
        if seen is None or seen - SAMPLE_MARGIN_US < backup.stop_time:
            continue
        proven = CommitTime(seen - SAMPLE_MARGIN_US)
        if latest is None or proven >= latest:
            latest = proven
            reason = (
                f"WAL is unbroken from base backup {backup.backup} to "
                f"{Segment(path.timeline_of_segment(reached, size), reached).name(size)}, and the "
                "server was seen at that point at that time."
            )
    if earliest is not None and latest is None:
        reason = (
            "A base backup is complete (`restore --at latest` works), but no moment behind it is proven yet: "
            "that takes a second, and the server's own report."
        )
    return earliest, latest, reason


def status_document(archive: Archive, clock: Clock, kept: Kept | None = None) -> dict[str, object]:
    """`status --output json` of one cluster."""
    status = status_of(archive, clock, kept)
    return {
        "schema_version": SCHEMA_VERSION,
        "cluster": status.cluster,
        "system": status.system,
        "major": status.major,
        "repository": status.repository,
        "now": format_rfc3339(status.now),
        "latest_restorable": None if status.latest is None else format_rfc3339(status.latest),
        "earliest_restorable": None if status.earliest is None else format_rfc3339(status.earliest),
        "reason": status.reason,
        "recoverable": recoverable_members(recoverable(Spans(archive).all())),
        "timeline": status.timeline,
        "last_segment": status.last_segment,
        "segments": status.segments,
        "ledger": {"entries": status.entries, "void": list(status.void_entries)},
        "backups": [
            {
                "id": backup.backup,
                "method": backup.method,
                "prior": backup.prior,
                "stop_time": format_rfc3339(backup.stop_time),
                "bytes": backup.raw,
                "whole": backup.backup not in status.broken,
            }
            for backup in status.backups
        ],
        "gaps": [{"first": gap.first, "last": gap.last, "backup_behind": gap.behind} for gap in status.gaps],
        "damaged": [
            {"segment": one.name, "problem": one.problem, "backup_behind": one.behind}
            for one in status.damaged
        ],
        "checkpoints": None
        if kept is None
        else {
            "place": kept.url,
            "seq": None if kept.newest is None else kept.newest.seq,
            "time": None if kept.newest is None else format_rfc3339(kept.newest.time),
        },
        "problems": list(status.problems),
    }
