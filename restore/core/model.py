"""Values the planner works on and hands out. No rules here; see planner.py.

Times are CommitTime microseconds (the database server's clock) unless the name says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from restore.core.scanindex import Horizon as Horizon
from restore.core.scanindex import SampleIndex, ScanIndex
from walarchiver.core.coverage import Run as Run
from walarchiver.core.history import TimelineHistory
from walarchiver.core.lsn import Lsn
from walarchiver.core.moment import CommitTime
from walarchiver.core.scan import Event, RestorePoint, SegmentScan
from walarchiver.core.segment import Segment, SegmentBytes
from walarchiver.errors import NotAWalFile

# --- what is known (gathered from the catalog by a shell) ------------------------------------


@dataclass(frozen=True, slots=True)
class Limits:
    """Settings that a recovering server must have at least."""

    max_connections: int
    max_worker_processes: int
    max_wal_senders: int
    max_prepared_transactions: int
    max_locks_per_transaction: int


@dataclass(frozen=True, slots=True)
class BackupBelow:
    """A backup that an incremental one builds on."""

    id: str
    raw: int
    stored: int


@dataclass(frozen=True, slots=True)
class BaseBackup:
    """A finished base backup whose chain is whole, as far as planning is concerned."""

    id: str
    timeline: int
    start_lsn: Lsn
    stop_lsn: Lsn
    start_time: CommitTime
    stop_time: CommitTime
    raw: int
    stored: int
    limits: Limits
    below: tuple[BackupBelow, ...] = ()
    """What it builds on, the full backup first; empty for a full one."""

    @property
    def raw_in_all(self) -> int:
        """Plain bytes that a restore reads, its chain included."""
        return self.raw + sum(one.raw for one in self.below)

    @property
    def stored_in_all(self) -> int:
        return self.stored + sum(one.stored for one in self.below)


@dataclass(frozen=True, slots=True)
class Superseded:
    """An administrator put other bytes in the place of an archived file; digests in hex."""

    name: str
    old: str
    new: str
    reason: str


@dataclass(frozen=True, slots=True)
class View:
    """All that the catalog knows about one cluster incarnation (one system identifier)."""

    cluster: str
    system: int
    major: int
    segment_size: SegmentBytes
    ledger_seq: int
    """Head of the ledger that this view was taken from."""
    runs: tuple[Run, ...]
    histories: Mapping[int, TimelineHistory]
    """By timeline; timeline 1 (or the first known) has none recorded."""
    backups: tuple[BaseBackup, ...]
    horizons: Sequence[Horizon]
    current_timeline: int
    """The timeline production is on: that of the newest WAL record or horizon."""
    superseded: tuple[Superseded, ...] = ()
    """Every replacement that counts, file by file."""

    def superseded_on(self, path: TimelineHistory, wal: WalNeed | None) -> tuple[Superseded, ...]:
        """The replacements that a restore along this path meets: of its WAL, and of its histories."""
        names = {f"{timeline:08X}.history" for timeline in (path.timeline, *(f.parent for f in path.forks))}
        return tuple(
            change
            for change in self.superseded
            if change.name in names or (wal is not None and self._reads(path, wal, change.name))
        )

    def _reads(self, path: TimelineHistory, wal: WalNeed, name: str) -> bool:
        """Whether a restore along the path reads the segment with this name."""
        try:
            segment = Segment.parse(name, self.segment_size)
        except NotAWalFile:
            return False
        on_path = path.timeline_of_segment(segment.number, self.segment_size)
        return wal.first.number <= segment.number <= wal.last.number and segment.timeline == on_path


@dataclass(frozen=True, slots=True)
class WalKnowledge:
    """What walking the archived WAL tells; given to the planner as functions, since a shell may
    have to fetch and open segments to answer. All are pure with respect to the planner: same
    arguments, same answer.
    """

    scan: Callable[[TimelineHistory, int], SegmentScan]
    """The scan of segment `number` as found on a path (its file chosen by the path)."""
    events: Callable[[TimelineHistory, int], Sequence[Event]]
    """Every event that starts in segment `number` on a path, in LSN order."""
    last_record: Callable[[TimelineHistory, int], Lsn | None]
    """Start of the last whole record that starts in the segment."""
    next_record: Callable[[TimelineHistory, Lsn], Lsn | None]
    """Start of the first record at or after an LSN on the path; None past the end of coverage."""
    index: ScanIndex | None = None
    """What sums scans up; without it every scan is asked for."""
    samples: SampleIndex | None = None
    """The view's horizon samples, if there is a quicker way to them."""


# --- what is asked -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AtTime:
    time: CommitTime


@dataclass(frozen=True, slots=True)
class AtLsn:
    """Everything whose records start before `lsn`; nothing from `lsn` on."""

    lsn: Lsn


@dataclass(frozen=True, slots=True)
class AtXid:
    """Just after transaction `xid` ended; `before`: just before it ended."""

    xid: int
    before: bool = False


@dataclass(frozen=True, slots=True)
class AtName:
    name: str


@dataclass(frozen=True, slots=True)
class AtLatest:
    pass


Target = AtTime | AtLsn | AtXid | AtName | AtLatest


# --- what is answered ----------------------------------------------------------------------------


class Verdict(StrEnum):
    REACHABLE = "reachable"
    IDLE = "idle"
    """Reachable: nothing happened between the last commit before it and the proven horizon."""
    GAP = "gap"
    BEFORE_FIRST_BACKUP = "before_first_backup"
    NOT_PROVEN = "not_proven"
    """After the newest moment that is proven to be archived."""
    WRONG_BRANCH = "wrong_branch"
    UNKNOWN_TARGET = "unknown_target"
    """No such xid or restore point in what can be restored."""
    AMBIGUOUS = "ambiguous"
    """Several restore points of that name: choose one by LSN."""


@dataclass(frozen=True, slots=True)
class Stop:
    """Where replay ends. `inclusive`: the record that starts at `lsn` is replayed too."""

    lsn: Lsn
    inclusive: bool
    timeline: int
    last_commit: Event | None
    """The last commit that is part of the restored state, when it lies in the walked WAL."""
    stop_event: Event | None
    """The event replay stops before (or at), when the stop is one."""


@dataclass(frozen=True, slots=True)
class Disputed:
    """Clock steps: events out of time order around the asked moment (recovery.md 2.3)."""

    first: Lsn
    last: Lsn
    events: int
    backward_us: int


@dataclass(frozen=True, slots=True)
class Ahead:
    """A clock that was ahead and set back before the base backup, which holds newer events then."""

    first: Lsn
    newest: CommitTime


@dataclass(frozen=True, slots=True)
class WalNeed:
    """The WAL a restore reads, in replay order; `files` are (timeline, number) per address."""

    first: Segment
    last: Segment
    count: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Nearest:
    """The nearest reachable moments on each side of a refused target."""

    before: CommitTime | None
    after: CommitTime | None


@dataclass(frozen=True, slots=True)
class Decision:
    """The planner's answer. `stop`, `backup`, `wal` are None exactly when it is a refusal."""

    verdict: Verdict
    reason: str
    """One or two plain sentences with the values: why, and what was chosen."""
    path: TimelineHistory
    backup: BaseBackup | None = None
    stop: Stop | None = None
    wal: WalNeed | None = None
    disputed: Disputed | None = None
    ahead: Ahead | None = None
    limits: Limits | None = None
    prepared_open: tuple[Event, ...] = ()
    horizon: CommitTime | None = None
    """The newest provable moment on this path."""
    nearest: Nearest = field(default_factory=lambda: Nearest(None, None))
    missing: tuple[Segment, ...] = ()
    """The first missing segment(s), for GAP."""
    candidates: tuple[RestorePoint, ...] = ()
    """For AMBIGUOUS."""
    undone_commits: int = 0
    """Commits after the stop on this path, up to the end of coverage."""
    unseen_segments: int = 0
    """Segments behind the stop that were not looked at (unscanned.py): commits there are not counted."""
    explained: tuple[str, ...] = ()
    """Each choice made, one sentence each."""
