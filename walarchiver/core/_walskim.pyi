# The compiled half of the WAL scan: _walskim.c.

from walarchiver.core.walreader import Buffer

# skim: hop over the records that start in one segment, as far as nothing is unusual.
#
# base: LSN of data[0]; stop: LSN of the first record not to read; crc: 0 none, 1 the wanted kinds,
# 2 all; collect: list every decoded kind, not only the rare ones; at, last, timeline: 0, or where
# an earlier call over the same bytes left off.
#
# None when not one record was passed. Else (at, timeline, records, first, first_prev, last,
# commits, aborts, prepares, min_time, max_time, last_time, backward, events, first_event,
# last_event, last_commit, kept, min_xid, max_xid): positions are offsets in `data` (first_prev: an LSN),
# times count microseconds since 2000; the fields about events mean something only if events > 0,
# last_commit only if commits > 0. min_xid and max_xid are over COMMIT and ABORT records, the PREPARED
# forms, which are in `kept`, left out; min_xid > max_xid when there is none. Releases the GIL.
def skim(
    data: Buffer,
    base: int,
    stop: int,
    magic: int,
    crc: int,
    collect: bool,
    at: int,
    last: int,
    timeline: int,
    /,
) -> (
    tuple[
        *(tuple[int, int, int, int, int, int, int, int, int, int, int, int, int, int, int, int, int]),
        *(tuple[list[int], int, int]),
    ]
    | None
): ...

# sift: hop over the records that start in one segment, as `skim` does but without checksums; count the rows
# of watched files and note bare commits and aborts, and list what else Python is to look at.
#
# actions: what to do with each kind, a table of 65536 bytes; files: 12 bytes each, rows are counted of the
# first `counted`, records of the others are listed; compressed: bits of a compressed page image; at: offset
# of a record's start, 0 for the first that starts; last: of the record before, -1 where that is not known.
#
# None when not one record was passed. Else (at, timeline, last, listed, groups, ends): `listed` holds
# offsets (uint32); `groups` the columns xid, file (uint32), inserted, updated, deleted (int64), first, last
# (uint64 LSNs) and end (uint32: index into ends, or 2**32 - 1), where a listed record of an id begins a new
# group; `ends` the columns lsn (uint64), xid (uint32), time (int64) and committed (uint8). Releases the GIL.
def sift(
    data: Buffer,
    base: int,
    stop: int,
    magic: int,
    actions: bytes,
    files: bytes,
    counted: int,
    compressed: int,
    at: int,
    last: int,
    timeline: int,
    /,
) -> (
    tuple[
        int,
        int,
        int,
        bytes,
        tuple[bytes, bytes, bytes, bytes, bytes, bytes, bytes, bytes],
        tuple[bytes, bytes, bytes, bytes],
    ]
    | None
): ...

# crc32c: as core/crc32c.py has it. Releases the GIL.
def crc32c(data: Buffer, crc: int = 0, /) -> int: ...
