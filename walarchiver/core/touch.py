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
    """(LSN, file, rows): so many rows went into a file before the id's change of pg_class at that LSN, and
    after the one before: a rewrite copies before it exchanges files."""
    fresh: dict[RelFile, int] = field(default_factory=dict)
    """Rows that went into files since the id last changed pg_class."""
    truncated: set[tuple[int, int]] = field(default_factory=set)
    """(database, OID) of tables that a TRUNCATE names (wal_level=logical only)."""
    first: int = 0
    last: int = 0
    """LSNs of the first and the last of these records."""

    def insert(self, file: RelFile, rows: Rows, first: int, last: int) -> None:
        """Take in the rows that records first..last changed, of which the pg_class knows nothing yet."""
        self.rows.setdefault(file, Rows()).add(rows)
        self.fresh[file] = self.fresh.get(file, 0) + rows.inserted
        self.first = min(self.first, first) if self.last else first
        self.last = max(self.last, last)

    def step(self, step: CatalogStep) -> None:
        """Take in a change of pg_class."""
        self.steps.append(step)
        self._copied(step.lsn)
        self.fresh = {}

    def _copied(self, lsn: int) -> None:
        self.copies += [(lsn, file, count) for file, count in self.fresh.items() if count]

    def go_on(self, later: Touch) -> None:
        """Take in what the same id did later."""
        if later.steps:
            self._copied(later.steps[0].lsn)
            self.fresh = dict(later.fresh)
        else:
            for file, count in later.fresh.items():
                self.fresh[file] = self.fresh.get(file, 0) + count
        self.add(later)

    def add(self, other: Touch) -> None:
        """Take in what another id of the same transaction did."""
        for file, rows in other.rows.items():
            self.rows.setdefault(file, Rows()).add(rows)
        self.created += other.created
        self.emptied += other.emptied
        self.steps += other.steps
        self.databases += other.databases
        self.copies += other.copies
        self.truncated |= other.truncated
        self.first = min(self.first, other.first) if self.last else other.first
        self.last = max(self.last, other.last)


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
        if not xids or xids.isdisjoint(self.xids):
            return
        for index, xid in enumerate(self.xids):
            if xid in xids:
                kind = EventKind.COMMIT if self.commits[index] else EventKind.ABORT
                time = CommitTime(self.times[index] + POSTGRES_EPOCH_US)
                yield Ended(kind, Lsn(self.lsns[index]), xid, time)


NO_END = 2**32 - 1


@dataclass(slots=True)
class RowGroups:
    """Rows of one file that one id changed, for ids of which a stretch tells nothing else, in columns.

    An id may have several groups, of several files or of one; together they are in WAL order by `firsts`.
    """

    files: tuple[RelFile, ...] = ()
    """What `numbers` count from 0."""
    xids: array[int] = field(default_factory=lambda: array("I"))
    numbers: array[int] = field(default_factory=lambda: array("I"))
    inserted: array[int] = field(default_factory=lambda: array("q"))
    updated: array[int] = field(default_factory=lambda: array("q"))
    deleted: array[int] = field(default_factory=lambda: array("q"))
    firsts: array[int] = field(default_factory=lambda: array("Q"))
    lasts: array[int] = field(default_factory=lambda: array("Q"))
    ends: array[int] = field(default_factory=lambda: array("I"))
    """Which of the stretch's `bare` ends is the id's, or NO_END."""

    def file(self, index: int) -> RelFile:
        return self.files[self.numbers[index]]

    def rows(self, index: int) -> Rows:
        return Rows(self.inserted[index], self.updated[index], self.deleted[index])

    def touch(self, index: int) -> Touch:
        """One group as what its id did."""
        touch = Touch()
        touch.insert(self.file(index), self.rows(index), self.firsts[index], self.lasts[index])
        return touch

    def without(self, xids: set[int]) -> RowGroups:
        """The groups of all other ids."""
        if xids.isdisjoint(self.xids):
            return self
        kept = [index for index, xid in enumerate(self.xids) if xid not in xids]
        mine = (self.xids, self.numbers, self.inserted, self.updated, self.deleted)
        columns = [array(one.typecode, [one[index] for index in kept]) for one in (*mine, self.firsts)]
        more = [array(one.typecode, [one[index] for index in kept]) for one in (self.lasts, self.ends)]
        return RowGroups(self.files, *columns, *more)


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
    rows: RowGroups = field(default_factory=RowGroups)
    """Of ids that are not in `touches`."""


@dataclass(frozen=True, slots=True)
class Watch:
    """What to look for: table files, and of each database the file of its pg_class."""

    files: frozenset[RelFile]
    catalogs: Mapping[int, RelFile]
    """By database OID."""
    named: Mapping[bytes, RelFile] = field(init=False, repr=False, compare=False)
    """By the 12 bytes that stand for them in a record: table files, and behind them those of pg_class."""

    def __post_init__(self) -> None:
        catalogs = sorted(self.catalogs.values())
        tables = sorted(self.files.difference(catalogs))
        object.__setattr__(self, "named", {file.packed(): file for file in (*tables, *catalogs)})

    def counted(self) -> int:
        """How many of `named` are table files and nothing else."""
        return len(self.files.difference(self.catalogs.values()))
