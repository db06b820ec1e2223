"""What a stretch of WAL did to watched relation files: values only; `touches.py` makes them."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum

from walarchiver.core.lsn import Lsn
from walarchiver.core.moment import POSTGRES_EPOCH_US, CommitTime
from walarchiver.core.relfile import RelFile, Slot
from walarchiver.core.scan import EventKind


class RowOp(Enum):
    """What happened to a row of pg_class."""

    INSERT = "insert"
    UPDATE = "update"
    DELETE = "delete"


@dataclass(slots=True)
class Rows:
    """Rows of one file that one transaction id changed."""

    inserted: int = 0
    updated: int = 0
    deleted: int = 0

    def add(self, other: Rows) -> None:
        self.inserted += other.inserted
        self.updated += other.updated
        self.deleted += other.deleted


@dataclass(frozen=True, slots=True)
class Born:
    """What a new pg_class row says."""

    oid: int
    name: str
    schema: int
    """OID."""
    kind: str


@dataclass(frozen=True, slots=True)
class CatalogStep:
    """One change of a pg_class, by its row's place before and after."""

    lsn: Lsn
    database: int
    op: RowOp
    old: Slot | None
    new: Slot | None
    born: Born | None = None
    """What an INSERT says of the new relation; None where the record does not show it."""


@dataclass(frozen=True, slots=True)
class FileStep:
    """A file created, or cut to nothing, at `lsn`."""

    lsn: Lsn
    file: RelFile


@dataclass(frozen=True, slots=True)
class DatabaseStep:
    """A database directory removed at `lsn`; `moved`: the database goes on in another tablespace."""

    lsn: Lsn
    database: int
    moved: bool = False


@dataclass(slots=True)
class Touch:
    """What the records of one transaction id did."""

    rows: dict[RelFile, Rows] = field(default_factory=dict)
    created: list[FileStep] = field(default_factory=list)
    emptied: list[FileStep] = field(default_factory=list)
    steps: list[CatalogStep] = field(default_factory=list)
    databases: list[DatabaseStep] = field(default_factory=list)
    copies: list[tuple[int, RelFile, int]] = field(default_factory=list)
    """(LSN, file, rows): so many rows went into a file that is the transaction's own before the change of
    pg_class at that LSN, and after the one before: a rewrite copies before it exchanges files."""
    truncated: set[tuple[int, int]] = field(default_factory=set)
    """(database, OID) of tables that a TRUNCATE names (wal_level=logical only)."""
    first: int = 0
    last: int = 0
    """LSNs of the first and the last of these records."""

    def add(self, later: Touch) -> None:
        """Take in what the same transaction did later, or one of its subtransactions."""
        for file, rows in later.rows.items():
            self.rows.setdefault(file, Rows()).add(rows)
        self.created += later.created
        self.emptied += later.emptied
        self.steps += later.steps
        self.databases += later.databases
        self.copies += later.copies
        self.truncated |= later.truncated
        self.first = min(self.first, later.first) if self.last else later.first
        self.last = max(self.last, later.last)


@dataclass(frozen=True, slots=True)
class Ended:
    """A transaction's end (or PREPARE). `xid` is the transaction's own."""

    kind: EventKind
    lsn: Lsn
    """Start of the record: replay that stops there is just before it."""
    xid: int
    time: CommitTime
    subxids: tuple[int, ...] = ()
    dropped: tuple[RelFile, ...] = ()
    """Files to remove, in the order of the record: the newest of the transaction's drops first."""


@dataclass(frozen=True, slots=True)
class NextXid:
    """Ids from `xid` on were given out behind `lsn` only; `oldest` and none before it ran then.

    `oldest` is 0 where the record does not tell.
    """

    lsn: Lsn
    xid: int
    oldest: int = 0


@dataclass(frozen=True, slots=True)
class Stopped:
    """At `lsn` no transaction ran (start or end of a server): what had not ended never will."""

    lsn: Lsn


@dataclass(slots=True)
class BareEnds:
    """Commits and aborts without subtransactions and dropped files, in WAL order: most of all ends.

    Columns, since there may be millions of them.
    """

    lsns: array[int] = field(default_factory=lambda: array("Q"))
    xids: array[int] = field(default_factory=lambda: array("I"))
    times: array[int] = field(default_factory=lambda: array("q"))
    """Microseconds since 2000."""
    commits: bytearray = field(default_factory=bytearray)

    def add(self, lsn: Lsn, xid: int, time: int, *, committed: bool) -> None:
        self.lsns.append(lsn)
        self.xids.append(xid)
        self.times.append(time)
        self.commits.append(committed)

    def of(self, xids: set[int]) -> Iterator[Ended]:
        """Those of some transactions."""
        if xids.isdisjoint(self.xids):
            return
        for index, xid in enumerate(self.xids):
            if xid in xids:
                kind = EventKind.COMMIT if self.commits[index] else EventKind.ABORT
                time = CommitTime(self.times[index] + POSTGRES_EPOCH_US)
                yield Ended(kind, Lsn(self.lsns[index]), xid, time)


@dataclass(slots=True)
class Touches:
    """All that one stretch of WAL tells. `touches` by transaction id; `ends` in WAL order."""

    touches: dict[int, Touch] = field(default_factory=dict)
    ends: list[Ended | Stopped] = field(default_factory=list)
    """The ends that are not `bare`."""
    bare: BareEnds = field(default_factory=BareEnds)
    next_xids: list[NextXid] = field(default_factory=list)
    remapped: list[Lsn] = field(default_factory=list)
    """Where a watched database's pg_class, or a catalog like it, got a new file: rows moved with it."""


@dataclass(frozen=True, slots=True)
class Watch:
    """What to look for: table files, and of each database the file of its pg_class."""

    files: frozenset[RelFile]
    catalogs: Mapping[int, RelFile]
    """By database OID."""

    def needles(self) -> frozenset[bytes]:
        return frozenset(file.packed() for file in (*self.files, *self.catalogs.values()))
