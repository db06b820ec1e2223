"""Catalog: the SQLite projection of one cluster's ledger.

Rules:
- It is a cache. Every row is made from ledger entries by `apply`; dropping the file loses nothing
  (`catalog rebuild` makes it again, and a test compares).
- `apply` is atomic and idempotent: an entry goes in whole or not at all, and one that another
  process has already applied to the same file is skipped.
- A catalog is replaced whole or not at all, and `snapshot` shows one moment of it, so that nobody
  takes a file for absent while somebody else makes the projection again.
- One file per repository and system identifier, so a catalog never answers for another cluster.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from walarchiver.catalogbucket import BucketRows
from walarchiver.catalogentries import EntryRows
from walarchiver.catalogfile import PROJECTED_TABLES, open_catalog_file, translated
from walarchiver.catalogsamples import SampleRows
from walarchiver.chronology import Chronology
from walarchiver.core.history import TimelineHistory
from walarchiver.core.scan import Ending
from walarchiver.core.segment import (
    Segment,
    SegmentBytes,
)
from walarchiver.errors import CatalogUnavailable, NotAWalFile
from walarchiver.format.canonical import canonical_json
from walarchiver.format.chain import ChainState
from walarchiver.format.codec import record_to_json
from walarchiver.format.entry import NO_ENTRY, VoidMark
from walarchiver.format.records import (
    BackupPart,
    BackupRecord,
    ClusterRecord,
    EpochRecord,
    GapRecord,
    HistoryRecord,
    HorizonRecord,
    KeyringRecord,
    PartRecord,
    Record,
    SupersedeRecord,
    WalRecord,
)
from walarchiver.format.scans import ScanRecord
from walarchiver.format.standing import FileRecord as FileRecord
from walarchiver.format.standing import standings
from walarchiver.projecting import history_of, index_scan, origin_of, parsed_row, record_name, segment_of

_SQLITE_INTEGERS = 2**63


class Catalog(EntryRows, SampleRows, BucketRows):
    """The projection of one ledger. Thread-safe; several processes may share one file."""

    def __init__(self, path: Path | None, warn: Callable[[str], None] = lambda _line: None) -> None:
        """Open (or make) the file; None keeps the catalog in memory, and so does a file that cannot be
        written: then `warn` gets a line."""
        self._lock = threading.RLock()
        self._db = open_catalog_file(path, warn)

    def close(self) -> None:
        with self._lock:
            self._db.close()

    # --- writing -------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _transaction(self, kind: str = "IMMEDIATE") -> Iterator[None]:
        with self._lock, translated():
            begun = not self._db.in_transaction  # else ours, further out
            if begun:
                self._db.execute(f"BEGIN {kind}")
            try:
                yield
                if begun:
                    self._db.execute("COMMIT")
            finally:
                if begun and self._db.in_transaction:
                    self._db.execute("ROLLBACK")

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """What is applied inside goes in whole or, when anything is raised, not at all."""
        with self._transaction():
            yield

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[None]:
        """What is read inside belongs to one moment, whatever other processes do to the file."""
        with self._lock:
            if self._db.in_transaction:  # ours, further out
                yield
            else:
                with self._transaction("DEFERRED"):
                    yield

    def apply(
        self,
        *,
        seq: int,
        sha256: str,
        time_us: int,
        writer: str,
        records: Iterable[Record],
        void: bool = False,
    ) -> bool:
        """Take in the entry at `seq`, or what stands there in vain.

        Returns False when the entry was there already. Raises CatalogUnavailable when entries between
        are missing: another process has begun to make the file anew.
        """
        with self._transaction():
            head = self.next_seq()
            if seq < head:
                return False
            if seq > head:
                raise CatalogUnavailable(f"entry {seq} cannot follow entry {head - 1} in the catalog")
            self._db.execute(
                "INSERT INTO entry VALUES (?,?,?,?,?)", (seq, sha256, time_us, writer, int(void))
            )
            for index, record in enumerate(() if void else records):
                self._apply_record(seq, index, record)
            return True

    def _apply_record(self, seq: int, index: int, record: Record) -> None:
        content = canonical_json(record_to_json(record)).decode("ascii")
        self._db.execute(
            "INSERT INTO record VALUES (?,?,?,?,?)", (record.kind, record_name(record), seq, index, content)
        )
        match record:
            case WalRecord():
                self._apply_segment(record)
            case HorizonRecord(time, lsn, timeline) if lsn < _SQLITE_INTEGERS:
                self._db.execute("INSERT OR IGNORE INTO horizon VALUES (?,?,?,?)", (time, lsn, timeline, seq))
            case _:
                pass
        if isinstance(record, WalRecord | SupersedeRecord | ScanRecord):
            self._apply_scan(record)

    def _apply_scan(self, record: WalRecord | SupersedeRecord | ScanRecord) -> None:
        """Have the index hold what is known of that file now."""
        scans = "SELECT 1 FROM record WHERE kind='scan' AND name=? LIMIT 1"
        if not isinstance(record, ScanRecord) and not self._rows(scans, record.name):
            return
        files = self.file_records(record.name)
        standing = standings(files)[0]
        scan = record if isinstance(record, ScanRecord) else None
        if isinstance(standing, WalRecord):
            if scan is None or scan.digest != standing.digest:
                scan = self.scan(record.name, standing.digest)
            index_scan(self._db, [one for one in files if isinstance(one, WalRecord)], standing, scan)

    def _apply_segment(self, record: WalRecord) -> None:
        segment = segment_of(record)
        if segment is None:
            return
        timeline, number = segment.timeline, segment.number
        cursor = self._db.execute("INSERT OR IGNORE INTO segment VALUES (?,?)", (timeline, number))
        if cursor.rowcount == 0:
            return
        before = self._db.execute(
            "SELECT first FROM run WHERE timeline=? AND last=?", (timeline, number - 1)
        ).fetchone()
        after = self._db.execute(
            "SELECT last FROM run WHERE timeline=? AND first=?", (timeline, number + 1)
        ).fetchone()
        first = before[0] if before else number
        last = after[0] if after else number
        self._db.execute("DELETE FROM run WHERE timeline=? AND first IN (?,?)", (timeline, first, number + 1))
        self._db.execute("INSERT INTO run VALUES (?,?,?)", (timeline, first, last))

    def replace_with(self, other: Catalog) -> None:
        """Take over everything that `other` holds, at once."""
        with self._transaction():
            for table, rows in other.dump().items():
                self._db.execute(f"DELETE FROM {table}")  # noqa: S608 - names are ours
                if rows:
                    marks = ",".join("?" * len(rows[0]))
                    self._db.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)  # noqa: S608

    # --- reading -------------------------------------------------------------------------------

    def _rows(self, sql: str, *values: object) -> list[tuple[object, ...]]:
        with self._lock, translated():
            return self._db.execute(sql, values).fetchall()

    def chain_state(self, repo: str, system: str) -> ChainState:
        """Where the chain stands after the last applied entry."""
        with self.snapshot():  # others may apply entries meanwhile
            return self._chain_state(repo, system)

    def _chain_state(self, repo: str, system: str) -> ChainState:
        valid = self._rows("SELECT seq, sha256, time FROM entry WHERE void=0 ORDER BY seq DESC LIMIT 1")
        last, prev, time = valid[0] if valid else (-1, NO_ENTRY, None)
        marks = self._rows("SELECT seq, sha256 FROM entry WHERE seq>? ORDER BY seq", last)
        clusters = self.clusters()
        return ChainState(
            repo=repo,
            system=system,
            next_seq=self.next_seq(),
            prev=str(prev),
            keyring_n=self.keyring_n(),
            voids=tuple(VoidMark(int(str(seq)), str(sha256)) for seq, sha256 in marks),
            head_time=None if time is None else int(str(time)),
            cluster=clusters[-1] if clusters else None,
        )

    def _records(self, kind: str, name: str | None = None) -> Iterator[Record]:
        if name is None:
            rows = self._rows("SELECT content FROM record WHERE kind=? ORDER BY seq, idx", kind)
        else:
            rows = self._rows(
                "SELECT content FROM record WHERE kind=? AND name=? ORDER BY seq, idx", kind, name
            )
        yield from map(parsed_row, rows)

    def names(self, kind: str) -> list[str]:
        """Everything recorded of a kind, oldest first."""
        sql = "SELECT name FROM record WHERE kind=? GROUP BY name ORDER BY min(seq), min(idx)"
        return [str(row[0]) for row in self._rows(sql, kind)]

    def recorded_us(self, kind: str, name: str) -> int | None:
        """When a fact entered the ledger, on its writer's clock."""
        sql = "SELECT min(time) FROM record JOIN entry USING (seq) WHERE kind=? AND name=?"
        return None if (row := self._rows(sql, kind, name)[0])[0] is None else int(str(row[0]))

    def file(self, name: str) -> FileRecord | None:
        """The record in force of an archived WAL file of any kind, by its name."""
        return standings(self.file_records(name))[0]

    def file_records(self, name: str) -> list[FileRecord | SupersedeRecord]:
        """All that was ever recorded of one file, oldest first."""
        kinds = "('wal','history','label','supersede')"
        sql = f"SELECT content FROM record WHERE kind IN {kinds} AND name=? ORDER BY seq, idx"  # noqa: S608
        found = map(parsed_row, self._rows(sql, name))
        return [one for one in found if isinstance(one, FileRecord | SupersedeRecord)]

    def superseded(self) -> list[SupersedeRecord]:
        """Every replacement of a file that counts, file by file."""
        files = map(self.file_records, self.names(SupersedeRecord.kind))
        return [change for records in files for change in standings(records)[1]]

    def superseded_since(self, name: str, seq: int) -> bool:
        """Whether an administrator's record about a file stands in the entry `seq` or a later one."""
        return bool(
            self._rows("SELECT 1 FROM record WHERE kind='supersede' AND name=? AND seq>=?", name, seq)
        )

    def scan(self, name: str, digest: str) -> ScanRecord | None:
        """What is recorded of walking the segment with that name and digest; the newest, of several."""
        found = [one for one in self._records(ScanRecord.kind, name) if isinstance(one, ScanRecord)]
        return next((one for one in reversed(found) if one.digest == digest), None)

    def chronology(self, system: int, size: SegmentBytes) -> Chronology:
        """The index over the scans of a server's segments."""
        return Chronology(self._rows, origin_of(system, size))

    def bad_scans(self) -> list[ScanRecord]:
        """The scans in force of segments that cannot be followed to their end, by name."""
        sql = (
            "SELECT DISTINCT name FROM record WHERE kind='scan' AND instr(content, '\"ending\":\"bad\"') > 0"
            " ORDER BY name"
        )
        found = []
        for (name,) in self._rows(sql):
            file = self.file(str(name))
            scan = None if file is None else self.scan(file.name, file.digest)
            if scan is not None and scan.ending == Ending.BAD:
                found.append(scan)
        return found

    def misfits(self) -> list[tuple[int, int]]:
        """Timeline and number of segments that are whole, as is the one before, and do not go on from it."""
        sql = (
            "SELECT b.timeline, b.first FROM chain a JOIN chain b"
            " ON b.timeline=a.timeline AND b.first=a.last+1 ORDER BY b.timeline, b.first"
        )
        return [(int(str(timeline)), int(str(first))) for timeline, first in self._rows(sql)]

    def has_segment(self, timeline: int, number: int) -> bool:
        return bool(self._rows("SELECT 1 FROM segment WHERE timeline=? AND number=?", timeline, number))

    def last_segment(self, timeline: int) -> int | None:
        """The highest archived segment number of a timeline."""
        rows = self._rows("SELECT max(last) FROM run WHERE timeline=?", timeline)
        return None if rows[0][0] is None else int(str(rows[0][0]))

    def timelines(self) -> list[int]:
        """Timelines that have any archived segment."""
        return [int(str(row[0])) for row in self._rows("SELECT DISTINCT timeline FROM run ORDER BY timeline")]

    def runs(self) -> list[tuple[int, int, int]]:
        """(timeline, first, last) of unbroken runs of segments."""
        rows = self._rows("SELECT timeline, first, last FROM run ORDER BY timeline, first")
        return [(int(str(a)), int(str(b)), int(str(c))) for a, b, c in rows]

    def newest_segment(self, size: SegmentBytes) -> Segment | None:
        """The segment recorded last in the ledger (not the highest): where production is."""
        newest = (
            "SELECT name FROM record WHERE kind='wal' AND length(name)=24 AND NOT EXISTS (SELECT 1 FROM"
            " record f WHERE f.kind='wal' AND f.name=record.name AND (f.seq,f.idx)<(record.seq,record.idx))"
            " ORDER BY seq DESC, idx DESC"
        )
        with self._lock, translated(), contextlib.closing(self._db.execute(newest)) as rows:
            for (name,) in rows:
                with contextlib.suppress(NotAWalFile):
                    return Segment.parse(str(name), size)
        return None

    def histories(self) -> dict[int, TimelineHistory]:
        """The ancestry of each timeline that has one recorded; as for files, the record in force counts."""
        records = map(self.file, self.names("history"))
        found = (history_of(record) for record in records if isinstance(record, HistoryRecord))
        histories: dict[int, TimelineHistory] = {}
        for history in found:
            if history is not None:
                histories.setdefault(history.timeline, history)
        return histories

    def clusters(self) -> list[ClusterRecord]:
        return [record for record in self._records("cluster") if isinstance(record, ClusterRecord)]

    def epoch(self, epoch: str) -> EpochRecord | None:
        for record in self._records("epoch", epoch):
            if isinstance(record, EpochRecord):
                return record
        return None

    def epoch_revisions(self, epoch: str) -> dict[int, EpochRecord]:
        """What each recorded revision of an epoch's key object has to be; the first record counts."""
        found: dict[int, EpochRecord] = {}
        sql = "SELECT content FROM record WHERE kind='epoch' AND name BETWEEN ? AND ? ORDER BY seq, idx"
        for record in map(parsed_row, self._rows(sql, epoch, f"{epoch}.9999")):
            if isinstance(record, EpochRecord) and record.epoch == epoch:
                found.setdefault(record.rev or 0, record)
        return found

    def epochs(self) -> list[str]:
        """Every epoch that the ledger knows, oldest first."""
        return [name for name in self.names(EpochRecord.kind) if "." not in name]

    def epochs_since_backup(self, backup: str) -> tuple[str, ...]:
        """Epochs in use since the first part of a backup: the one before it, and all begun later."""
        (first,) = self._rows("SELECT min(seq) FROM record WHERE kind='part' AND name=?", backup)[0]
        if first is None:
            return ()
        rows = self._rows(
            "SELECT name FROM record WHERE kind='epoch' AND instr(name,'.')=0 AND seq >= coalesce("
            "(SELECT max(seq) FROM record WHERE kind='epoch' AND instr(name,'.')=0 AND seq<=?), 0)"
            " ORDER BY seq, idx",
            first,
        )
        return tuple(str(name) for (name,) in rows)

    def keyring_n(self) -> int:
        """The number of the keyring in force on the chain; 0 before its first entry."""
        return max((record.n for record in self.keyrings()), default=0)

    def keyrings(self) -> list[KeyringRecord]:
        return [record for record in self._records("keyring") if isinstance(record, KeyringRecord)]

    def gaps(self) -> list[GapRecord]:
        return [record for record in self._records("gap") if isinstance(record, GapRecord)]

    def backups(self) -> list[BackupRecord]:
        """Finished base backups, oldest first."""
        return [record for record in self._records("backup") if isinstance(record, BackupRecord)]

    def backup_parts(self, backup: str) -> list[BackupPart]:
        """Parts that have landed for a backup, in part order."""
        found = [
            part
            for record in self._records("part", backup)
            if isinstance(record, PartRecord)
            for part in record.parts
        ]
        return sorted(found, key=lambda part: part.n)

    def counts(self) -> dict[str, int]:
        rows = self._rows("SELECT kind, count(*) FROM record GROUP BY kind")
        return {str(kind): int(str(count)) for kind, count in rows}

    def dump(self) -> dict[str, list[tuple[object, ...]]]:
        """Every projected row, to compare a rebuilt catalog with a live one."""
        return {
            table: self._rows(f"SELECT * FROM {table} ORDER BY {order}")  # noqa: S608 - names are ours
            for table, order in PROJECTED_TABLES.items()
        }
