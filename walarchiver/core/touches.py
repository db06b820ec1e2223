"""What the records of a stretch of WAL do to watched relation files, per transaction id.

Rules (PostgreSQL heapam_xlog.h, xact.h, storage_xlog.h, dbcommands_xlog.h, standbydefs.h):
- Rows are counted by INSERT, MULTI_INSERT, UPDATE, HOT_UPDATE and DELETE records of a file. Locks,
  pruning, freezing and in-place updates of statistics are nobody's change and do not count. A
  speculative insertion that is taken back (INSERT ... ON CONFLICT) counts as never made; a row that
  an UPDATE moves to another partition counts as updated here, and as inserted there.
- Ids are those of the records: subtransactions have their own. Who belongs together, and whether it
  counts at all, is told by the end of the top-level transaction (`Ending.subxids`).
- Files that a transaction creates stand in SMGR CREATE records, files it gives up in its commit.
- A table's row in pg_class is known by its place; INSERT, UPDATE and DELETE records say how it moves.
- The pieces of consecutive stretches are put together by restore/core/joining.py.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from walarchiver.core.classrow import born_row
from walarchiver.core.decoding import decode
from walarchiver.core.lsn import Lsn, format_lsn
from walarchiver.core.relfile import RelFile, Slot
from walarchiver.core.scan import Event, EventKind
from walarchiver.core.touch import (
    CatalogStep,
    DatabaseStep,
    Ended,
    FileStep,
    NextXid,
    RowOp,
    Rows,
    Stopped,
    Touch,
    Touches,
    Watch,
)
from walarchiver.core.walrecord import RM_TRANSACTION, RM_XLOG, WalRecord, record_kind
from walarchiver.errors import CorruptSegment

RM_STORAGE, RM_DATABASE, RM_RELMAP, RM_STANDBY, RM_HEAP2, RM_HEAP = 2, 4, 7, 8, 9, 10

_OPERATION = 0x70
_INSERT, _DELETE, _UPDATE, _TRUNCATE, _HOT_UPDATE = 0x00, 0x10, 0x20, 0x30, 0x40
_MULTI_INSERT = 0x50
_SMGR_CREATE, _SMGR_TRUNCATE = 0x10, 0x20
_RUNNING_XACTS = 0x10
_CHECKPOINT_SHUTDOWN, _CHECKPOINT_ONLINE, _END_OF_RECOVERY = 0x00, 0x10, 0x90
_DELETE_IS_SUPER, _DELETE_IS_PARTITION_MOVE = 0x08, 0x10
_HAS_IMAGE, _SAME_RELATION = 0x10, 0x80
_IMAGE_HAS_HOLE = 0x01
_IMAGE_COMPRESSED_14, _IMAGE_COMPRESSED = 0x02, 0x1C
_ENDINGS = {
    0x00: EventKind.COMMIT,
    0x10: EventKind.PREPARE,
    0x20: EventKind.ABORT,
    0x30: EventKind.COMMIT_PREPARED,
    0x40: EventKind.ABORT_PREPARED,
}
_HAS_INFO = 0x80
_XINFO_DBINFO, _XINFO_SUBXACTS, _XINFO_FILES, _XINFO_TWOPHASE = 0x01, 0x02, 0x04, 0x10
_NOT_BARE = _XINFO_SUBXACTS | _XINFO_FILES | _XINFO_TWOPHASE


def _kinds(rmid: int, operations: Iterable[int], mask: int) -> frozenset[int]:
    wanted = set(operations)
    return frozenset(record_kind(rmid, info) for info in range(256) if info & mask in wanted)


COMMITS, ABORTS = (_kinds(RM_TRANSACTION, (operation,), _OPERATION) for operation in (0x00, 0x20))
INSERTS, DELETES, UPDATES, TRUNCATES = (
    _kinds(RM_HEAP, operations, _OPERATION)
    for operations in ((_INSERT,), (_DELETE,), (_UPDATE, _HOT_UPDATE), (_TRUNCATE,))
)
MULTI_INSERTS = _kinds(RM_HEAP2, (_MULTI_INSERT,), _OPERATION)

ROWS = INSERTS | DELETES | UPDATES | MULTI_INSERTS
"""The kinds of record that count only where they name a watched file."""

ALWAYS = (
    _kinds(RM_TRANSACTION, _ENDINGS, _OPERATION)
    | _kinds(RM_STORAGE, (_SMGR_CREATE, _SMGR_TRUNCATE), 0xF0)
    | _kinds(RM_DATABASE, (0x00, 0x10, 0x20), 0xF0)
    | _kinds(RM_RELMAP, (0x00,), 0xF0)
    | _kinds(RM_STANDBY, (_RUNNING_XACTS,), 0xF0)
    | _kinds(RM_XLOG, (_CHECKPOINT_SHUTDOWN, _CHECKPOINT_ONLINE, _END_OF_RECOVERY), 0xF0)
    | TRUNCATES
)
"""Those that count wherever they are; a TRUNCATE names OIDs."""


class Gatherer:
    """Takes in records of the kinds ALWAYS and ROWS in WAL order."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._catalogs = frozenset(watch.catalogs.values())
        self.found = Touches()

    def add(self, record: WalRecord) -> None:
        """Take in one record. Raises CorruptSegment when it is not what it claims to be."""
        try:
            match record.rmid:
                case 10 | 9:
                    self._heap(record)
                case 1:
                    self._transaction(record)
                case 2:
                    self._storage(record)
                case 4:
                    self._database(record)
                case 7:
                    if int.from_bytes(record.main[:4], "little") in self._watch.catalogs:
                        self.found.remapped.append(record.start)
                case 8:
                    self.found.next_xids.append(
                        NextXid(record.start, *struct.unpack_from("<II", record.main, 12))
                    )
                case 0:
                    self._xlog(record)
        except (struct.error, IndexError) as error:
            raise CorruptSegment(
                f"record at {format_lsn(record.start)} is too short for what it claims to be"
            ) from error

    def add_rows(self, xid: int, file: RelFile, rows: Rows, first: int, last: int) -> None:
        """Take in rows of a watched file that records first..last of an id changed."""
        self.found.touches.setdefault(xid, Touch()).insert(file, rows, first, last)

    def _touch(self, record: WalRecord) -> Touch:
        touch = self.found.touches.get(record.xid)
        if touch is None:
            touch = self.found.touches[record.xid] = Touch(first=record.start)
        touch.last = record.start
        return touch

    # --- rows -----------------------------------------------------------------------------------

    def _heap(self, record: WalRecord) -> None:
        operation = record.info & _OPERATION
        if record.rmid == RM_HEAP and operation == _TRUNCATE:
            self._heap_truncate(record)
            return
        file = self._watched_file(record)
        if file is None:
            return
        if file in self._catalogs:
            self._catalog(record, file, operation)
        if file in self._watch.files:
            self.add_rows(record.xid, file, _rows(record, operation), record.start, record.start)

    def _watched_file(self, record: WalRecord) -> RelFile | None:
        """The file of the record's first block, if it is watched."""
        body = record.body
        if body[0] == 0 and not body[1] & _SAME_RELATION:  # the usual form, not worth taking apart
            at = 4
            if body[1] & _HAS_IMAGE:
                compressed = _IMAGE_COMPRESSED_14 if record.major < 15 else _IMAGE_COMPRESSED
                at = 11 if body[8] & _IMAGE_HAS_HOLE and body[8] & compressed else 9
            return self._watch.named.get(body[at : at + 12])
        block = record.parts().blocks[0]
        return self._watch.named.get(RelFile(block.tablespace, block.database, block.relation).packed())

    def _catalog(self, record: WalRecord, file: RelFile, operation: int) -> None:
        if record.rmid == RM_HEAP2:
            return  # pg_class rows are written one by one
        parts = record.parts()
        main, blocks = parts.main, parts.blocks
        born = None
        if operation == _INSERT:
            (offset,) = struct.unpack_from("<H", main)
            old, new, op = None, Slot(blocks[0].block, offset), RowOp.INSERT
            born = born_row(record, offset)
        elif operation == _DELETE:
            (offset,) = struct.unpack_from("<H", main, 4)
            old, new, op = Slot(blocks[0].block, offset), None, RowOp.DELETE
        else:
            (before,) = struct.unpack_from("<H", main, 4)
            (after,) = struct.unpack_from("<H", main, 12)
            old, new = Slot(blocks[-1].block, before), Slot(blocks[0].block, after)
            op = RowOp.UPDATE
        self._touch(record).step(CatalogStep(record.start, file.database, op, old, new, born))

    def _heap_truncate(self, record: WalRecord) -> None:
        main = record.main
        database, count = struct.unpack_from("<II", main)
        if database in self._watch.catalogs:
            oids = struct.unpack_from(f"<{count}I", main, 12)
            self._touch(record).truncated.update((database, oid) for oid in oids)

    # --- files and databases --------------------------------------------------------------------

    def _storage(self, record: WalRecord) -> None:
        main = record.main
        if record.info & 0xF0 == _SMGR_CREATE:
            file, fork = RelFile(*struct.unpack_from("<III", main)), struct.unpack_from("<i", main, 12)[0]
            if fork == 0 and self._concerns(file):
                self._touch(record).created.append(FileStep(record.start, file))
            return
        (block,) = struct.unpack_from("<I", main)
        file = RelFile(*struct.unpack_from("<III", main, 4))
        if block == 0 and self._concerns(file):
            self._touch(record).emptied.append(FileStep(record.start, file))

    def _concerns(self, file: RelFile) -> bool:
        return file.database in self._watch.catalogs or file in self._watch.files

    def _database(self, record: WalRecord) -> None:
        main = record.main
        operation = record.info & 0xF0
        (database,) = struct.unpack_from("<I", main)
        if not self._watches_database(database):
            return
        if operation == (0x10 if record.major < 15 else 0x20):
            moved = any(step.database == database and step.moved for step in self._touch(record).databases)
            if not moved:
                self._touch(record).databases.append(DatabaseStep(record.start, database))
        elif operation == 0x00:
            _id, _tablespace, source = struct.unpack_from("<III", main)
            if source == database:
                self._touch(record).databases.append(DatabaseStep(record.start, database, moved=True))

    def _watches_database(self, database: int) -> bool:
        return database in self._watch.catalogs or any(
            file.database == database for file in self._watch.files
        )

    # --- ends -----------------------------------------------------------------------------------

    def _xlog(self, record: WalRecord) -> None:
        operation = record.info & 0xF0
        if operation in (_CHECKPOINT_SHUTDOWN, _END_OF_RECOVERY):
            self.found.ends.append(Stopped(record.start))
        if operation in (_CHECKPOINT_SHUTDOWN, _CHECKPOINT_ONLINE):
            (redo,) = struct.unpack_from("<Q", record.main)
            (next_xid,) = struct.unpack_from("<I", record.main, 24)
            self.found.next_xids.append(NextXid(Lsn(redo), next_xid))

    def _transaction(self, record: WalRecord) -> None:
        kind = _ENDINGS[record.info & _OPERATION]
        if kind in (EventKind.COMMIT, EventKind.ABORT):
            main = record.main
            xinfo = struct.unpack_from("<I", main, 8)[0] if record.info & _HAS_INFO else 0
            if not xinfo & _NOT_BARE:
                (time,) = struct.unpack_from("<q", main)
                self.found.bare.add(record.start, record.xid, time, committed=kind is EventKind.COMMIT)
                return
        event = decode(record)
        assert isinstance(event, Event)
        if kind is EventKind.PREPARE:
            self.found.ends.append(Ended(kind, event.lsn, event.xid, event.time, _subxids_of_prepare(record)))
            return
        subxids, dropped = _subxids_and_drops(record)
        mine = tuple(file for file in dropped if self._concerns(file))
        self.found.ends.append(Ended(kind, event.lsn, event.xid, event.time, subxids, mine))


def _rows(record: WalRecord, operation: int) -> Rows:
    """The rows that a record of a table's file changed."""
    if record.rmid == RM_HEAP2:
        (count,) = struct.unpack_from("<H", record.main, 2)
        return Rows(inserted=count)
    if operation == _INSERT:
        return Rows(inserted=1)
    if operation == _DELETE:
        flags = record.main[7]
        if flags & _DELETE_IS_SUPER:
            return Rows(inserted=-1)
        return Rows(updated=1) if flags & _DELETE_IS_PARTITION_MOVE else Rows(deleted=1)
    return Rows(updated=1)


def _subxids_and_drops(record: WalRecord) -> tuple[tuple[int, ...], tuple[RelFile, ...]]:
    """Subtransactions and removed files of a commit or abort of either form."""
    if not record.info & _HAS_INFO:
        return (), ()
    main = record.main
    (xinfo,) = struct.unpack_from("<I", main, 8)
    at = 20 if xinfo & _XINFO_DBINFO else 12
    subxids: tuple[int, ...] = ()
    if xinfo & _XINFO_SUBXACTS:
        (count,) = struct.unpack_from("<I", main, at)
        subxids = struct.unpack_from(f"<{count}I", main, at + 4)
        at += 4 + 4 * count
    if not xinfo & _XINFO_FILES:
        return subxids, ()
    (count,) = struct.unpack_from("<I", main, at)
    numbers = struct.unpack_from(f"<{3 * count}I", main, at + 4)
    return subxids, tuple(RelFile(*numbers[one : one + 3]) for one in range(0, 3 * count, 3))


def _subxids_of_prepare(record: WalRecord) -> tuple[int, ...]:
    """They follow the two-phase header and the name, each at a multiple of 8 (twophase.c)."""
    main = record.main
    (count,) = struct.unpack_from("<i", main, 28)
    length_at, header = (46, 64) if record.major < 15 else (54, 72)
    (name,) = struct.unpack_from("<H", main, length_at)
    return struct.unpack_from(f"<{count}I", main, header + name + -name % 8)
