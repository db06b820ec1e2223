"""What a walk over one WAL segment tells: values only; `commits.py` makes them.

Terms:
- An *event* is a COMMIT, ABORT, COMMIT PREPARED, ABORT PREPARED or PREPARE record.
- The LSN of a record is the start of its header. `end` is where the next record may start.
- A segment's scan covers the records that *start* in it; the last one may end in a later file.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from walarchiver.core.lsn import Lsn
from walarchiver.core.moment import CommitTime
from walarchiver.core.segment import Segment


class EventKind(StrEnum):
    COMMIT = "commit"
    ABORT = "abort"
    COMMIT_PREPARED = "commit_prepared"
    ABORT_PREPARED = "abort_prepared"
    PREPARE = "prepare"

    @property
    def ends_transaction(self) -> bool:
        """Whether PostgreSQL compares this record with a time or xid target."""
        return self is not EventKind.PREPARE

    @property
    def is_commit(self) -> bool:
        return self in (EventKind.COMMIT, EventKind.COMMIT_PREPARED)


@dataclass(frozen=True, slots=True)
class Event:
    """One end (or preparation) of a transaction. `xid` is the transaction's own 32-bit id."""

    kind: EventKind
    lsn: Lsn
    end: Lsn
    xid: int
    time: CommitTime
    gid: str | None = None


@dataclass(frozen=True, slots=True)
class RestorePoint:
    """A point made with pg_create_restore_point()."""

    lsn: Lsn
    end: Lsn
    name: str
    time: CommitTime


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint record. `time` has whole seconds only."""

    lsn: Lsn
    redo: Lsn
    timeline: int
    previous_timeline: int
    time: CommitTime
    shutdown: bool


@dataclass(frozen=True, slots=True)
class ParameterChange:
    """The limits a recovering server must at least have from here on (recovery.md 2.5)."""

    lsn: Lsn
    max_connections: int
    max_worker_processes: int
    max_wal_senders: int
    max_prepared_transactions: int
    max_locks_per_transaction: int
    wal_level: int
    """0 minimal (cannot be recovered through), 1 replica, 2 logical."""


class Ending(StrEnum):
    """How the records that start in a segment end."""

    WHOLE = "whole"
    """The last record ends inside this segment or was completed by later files."""
    OPEN = "open"
    """The last record goes on in a later file that was not given; it is not counted."""
    ZERO = "zero"
    """A zero length where a record should start: an unfinished segment's tail."""
    BAD = "bad"
    """A page header, link, length or checksum does not fit: valid WAL ends there."""


@dataclass(frozen=True, slots=True)
class SegmentScan:
    """The records that start in one segment, summed up.

    `first`/`last` are the LSNs of the first and last whole record that start here (None: the
    segment only carries the middle of a longer record, or nothing valid). `first_prev` is the
    first record's back link: it must equal `last` of the segment before, else they do not belong
    together. `end` is where the next record may start (the segment's end after a switch);
    equals the segment's start + carried bytes when no record starts here.
    """

    segment: Segment
    system: int
    magic: int
    ending: Ending
    problem: str
    """Why, for BAD; empty otherwise."""
    first: Lsn | None
    first_prev: Lsn | None
    last: Lsn | None
    end: Lsn
    records: int
    commits: int
    aborts: int
    prepares: int
    min_time: CommitTime | None
    max_time: CommitTime | None
    first_event: Event | None
    last_event: Event | None
    last_commit: Event | None
    """The last COMMIT or COMMIT PREPARED."""
    backward_us: int
    """Largest step backwards between consecutive event times, 0 when they never fall."""
    restore_points: tuple[RestorePoint, ...]
    checkpoints: tuple[Checkpoint, ...]
    parameter_changes: tuple[ParameterChange, ...]
    prepared: tuple[Event, ...]
    """The PREPAREs that no record of this segment ends, and the COMMIT PREPAREDs and ABORT PREPAREDs of
    transactions prepared in earlier segments: what it takes to know what is open behind it."""
    switched: bool
    """Ended by a SWITCH record (pg_switch_wal, archive_timeout): the rest is padding."""
    overwritten: tuple[Lsn, ...]
    """Starts of torn records that a crash left and OVERWRITE_CONTRECORD abandoned."""
    min_xid: int | None = None
    """Lowest and highest 32-bit id of the transactions that end here, as plain numbers, also where ids
    wrapped around between them. None: no transaction ends here, or a scan that does not say."""
    max_xid: int | None = None
