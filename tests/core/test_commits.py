"""What one segment's scan says, over WAL made by hand: sums, borders, forks, damage."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from tests.kit.wal import HEAP, MIB, PAGE, SYSTEM, TRANSACTION, XLOG, WalWriter, main_data
from walarchiver.core.commits import next_record, records_from, scan_segment
from walarchiver.core.decoding import DECODED, decode
from walarchiver.core.lsn import Lsn
from walarchiver.core.moment import POSTGRES_EPOCH_US, CommitTime
from walarchiver.core.scan import (
    Checkpoint,
    Ending,
    Event,
    EventKind,
    ParameterChange,
    RestorePoint,
    SegmentScan,
)
from walarchiver.core.segment import Segment
from walarchiver.core.tally import Tally
from walarchiver.core.walreader import CrcPolicy
from walarchiver.core.walrecord import WalRecord, record_kind

NOON = 1_795_348_800_000_000


def scan(wal: WalWriter, number: int, *, crc: CrcPolicy = CrcPolicy.INTERESTING) -> SegmentScan:
    segments = wal.segments()
    return scan_segment(Segment(wal.timeline, number), segments.get, segment_size=MIB, crc=crc)[0]


def events(wal: WalWriter, number: int) -> tuple[Event, ...]:
    return scan_segment(Segment(wal.timeline, number), wal.segments().get, segment_size=MIB)[1]


def asked_for(wal: WalWriter, number: int) -> list[int]:
    segments, asked = wal.segments(), []

    def pages_of(wanted: int) -> bytes | None:
        asked.append(wanted)
        return segments.get(wanted)

    scan_segment(Segment(1, number), pages_of, segment_size=MIB)
    return asked


# --- sums ------------------------------------------------------------------------------------------


def test_a_scan_sums_up_what_starts_in_its_segment() -> None:
    wal = WalWriter(3, prev=3 * MIB - 4000)
    wal.filler(500)
    first = wal.commit(NOON + 5, xid=801)
    wal.abort(NOON + 9, xid=802)
    wal.commit(NOON + 2, xid=803)
    last = wal.commit(NOON + 4, xid=804)
    final = wal.abort(NOON + 6, xid=805)
    wal.switch()
    found = scan(wal, 3)
    assert (found.segment, found.system, found.magic) == (Segment(1, 3), SYSTEM, 0xD110)
    assert (found.first, found.first_prev) == (3 * MIB + 40, 3 * MIB - 4000)
    assert (found.last, found.end, found.switched) == (wal.placed[-1].start, 4 * MIB, True)
    assert (found.records, found.commits, found.aborts, found.prepares) == (7, 3, 2, 0)
    assert (found.min_time, found.max_time, found.backward_us) == (NOON + 2, NOON + 9, 7)
    assert found.first_event == Event(EventKind.COMMIT, first.start, first.end, 801, CommitTime(NOON + 5))
    assert found.last_event is not None
    assert found.last_commit is not None
    assert (found.last_event.lsn, found.last_commit.lsn) == (final.start, last.start)
    assert (found.ending, found.problem, found.overwritten, found.prepared) == (Ending.WHOLE, "", (), ())
    assert [event.xid for event in events(wal, 3)] == [801, 802, 803, 804, 805]
    assert (found.min_xid, found.max_xid) == (801, 805)


def test_a_segment_without_events_has_no_times() -> None:
    wal = WalWriter(3)
    wal.filler(500)
    found = scan(wal, 3)
    assert (found.min_time, found.max_time, found.backward_us) == (None, None, 0)
    assert (found.first_event, found.last_event, found.last_commit) == (None, None, None)


def test_restore_points_checkpoints_and_limits_are_told() -> None:
    wal = WalWriter(3)
    name = "before the deploy é".encode().ljust(64, b"\0")
    point = wal.record(XLOG, 0x70, main_data(struct.pack("<q", NOON - POSTGRES_EPOCH_US) + name))
    limits = wal.record(XLOG, 0x60, main_data(struct.pack("<6i4x", 100, 8, 10, 20, 64, 1)))
    body = struct.pack("<QII", 0x300028, 2, 1).ljust(64, b"\0") + struct.pack("<q", 1_795_348_800)
    shutdown = wal.record(XLOG, 0x00, main_data(body.ljust(88, b"\0")))
    online = wal.record(XLOG, 0x10, main_data(body.ljust(88, b"\0")))
    found = scan(wal, 3)
    expected = RestorePoint(point.start, point.end, "before the deploy é", CommitTime(NOON))
    assert found.restore_points == (expected,)
    assert found.parameter_changes == (ParameterChange(limits.start, 100, 8, 10, 20, 64, 1),)
    assert found.checkpoints == (
        Checkpoint(shutdown.start, Lsn(0x300028), 2, 1, CommitTime(NOON), shutdown=True),
        Checkpoint(online.start, Lsn(0x300028), 2, 1, CommitTime(NOON), shutdown=False),
    )


@pytest.mark.parametrize("major", [14, 15, 17, 18])
def test_the_prepared_transactions_own_xid_and_name_are_told(major: int) -> None:
    wal = WalWriter(3, major=major)
    time = NOON - POSTGRES_EPOCH_US
    header, length_at = (64, 46) if major == 14 else (72, 54)
    state = bytearray(header) + b"gid one\0" + bytes(20)
    struct.pack_into("<IIIIq", state, 0, 0x57F94534, len(state) + 4, 900, 5, time)
    struct.pack_into("<H", state, length_at, 8)
    wal.record(TRANSACTION, 0x10, main_data(bytes(state)), xid=900)
    stats = b"" if major == 14 else struct.pack("<I", 2) + bytes(2 * (16 if major == 18 else 12))
    xinfo = 0x1 | 0x2 | 0x4 | (0x100 if stats else 0) | 0x8 | 0x10 | 0x80
    body = struct.pack("<qIII", time + 1, xinfo, 5, 1663) + struct.pack("<I2I", 2, 901, 902)
    body += struct.pack("<I", 1) + bytes(12) + stats + struct.pack("<I", 3) + bytes(48)
    wal.record(TRANSACTION, 0x30 | 0x80, main_data(body + struct.pack("<I", 900) + b"gid one\0"), xid=0)
    gone = struct.pack("<qII", time + 2, 0x10, 903)
    wal.record(TRANSACTION, 0x40 | 0x80, main_data(gone), xid=0)
    found = scan(wal, 3)
    assert [(event.kind, event.xid, event.gid, event.time - NOON) for event in events(wal, 3)] == [
        (EventKind.PREPARE, 900, "gid one", 0),
        (EventKind.COMMIT_PREPARED, 900, "gid one", 1),
        (EventKind.ABORT_PREPARED, 903, None, 2),
    ]
    assert [event.xid for event in found.prepared] == [903], "900 is ended where it was prepared"
    assert (found.min_xid, found.max_xid) == (900, 903), "of a prepared transaction, its own id"
    assert (found.commits, found.aborts, found.prepares) == (1, 1, 1)


# --- borders -----------------------------------------------------------------------------------------


def spanning(*, length: int, behind: int = 500) -> WalWriter:
    """Segment 3 ends with a record of `length` bytes that begins 1000 bytes before its end."""
    wal = WalWriter(3)
    wal.pad_to(1000)
    wal.filler(length)
    wal.filler(behind)
    return wal


def test_the_last_record_belongs_to_the_segment_it_starts_in() -> None:
    wal = spanning(length=5000)
    found, after = scan(wal, 3), scan(wal, 4)
    assert (found.last, found.end) == (wal.placed[-2].start, wal.placed[-2].end)
    assert (after.first, after.first_prev) == (wal.placed[-1].start, found.last)
    assert found.records + after.records == len(wal.placed)


def test_the_next_segment_is_asked_for_only_when_a_record_goes_on_there() -> None:
    within = WalWriter(3)
    within.pad_to(0)
    within.filler(100)
    assert asked_for(within, 3) == [3, 3]
    assert asked_for(spanning(length=5000), 3) == [3, 3, 4]
    assert asked_for(spanning(length=2 * MIB), 3) == [3, 3, 4, 5, 6]
    assert asked_for(spanning(length=2 * MIB), 4) == [4, 4]


def test_a_segment_inside_a_huge_record_holds_no_record_and_is_whole() -> None:
    wal = spanning(length=3 * MIB)
    found = scan(wal, 4)
    assert (found.first, found.last, found.records) == (None, None, 0)
    assert (found.ending, found.end) == (Ending.WHOLE, 5 * MIB)


def test_without_the_next_segment_the_last_record_is_open() -> None:
    wal = spanning(length=5000)
    only = {3: wal.segments()[3]}
    found, _ = scan_segment(Segment(1, 3), only.get, segment_size=MIB)
    assert (found.ending, found.problem) == (Ending.OPEN, "")
    assert (found.last, found.end) == (wal.placed[-3].start, wal.placed[-3].end)


def test_the_wrong_next_segment_is_no_end_of_the_record() -> None:
    wal, other = spanning(length=5000), WalWriter(4)
    other.filler(500)
    pages = {3: wal.segments()[3], 4: other.segments()[4]}
    found, _ = scan_segment(Segment(1, 3), pages.get, segment_size=MIB)
    assert found.ending is Ending.BAD
    assert found.problem == "page at 0/400000 does not continue the record at 0/3FFC18"
    assert found.end == wal.placed[-3].end


def test_a_torn_record_is_listed_where_it_starts() -> None:
    wal = WalWriter(3)
    wal.pad_to(1000)
    torn = wal.tear(500_000, pages=3)
    wal.commit(NOON)
    found, after = scan(wal, 3), scan(wal, 4)
    assert (found.overwritten, found.ending) == ((torn,), Ending.WHOLE)
    assert (after.overwritten, after.ending, after.records) == ((), Ending.ZERO, 2)
    assert after.first_prev == found.last


# --- forks ---------------------------------------------------------------------------------------------


def forked() -> tuple[WalWriter, WalWriter]:
    """A parent, and a child that left it in segment 3 and begins with its bytes."""
    parent, child = WalWriter(3), WalWriter(3)
    for wal in (parent, child):
        wal.commit(NOON, xid=801)
        wal.filler(20_000)
    parent.commit(NOON + 1, xid=802)
    child.timeline = 2
    child.filler(PAGE)
    child.commit(NOON + 2, xid=802)
    return parent, child


def test_a_childs_first_segment_begins_with_its_parents_records() -> None:
    parent, child = forked()
    ours, theirs = events(child, 3), events(parent, 3)
    assert ours[0] == theirs[0]
    assert [event.time - NOON for event in ours] == [0, 2]
    assert scan(child, 3).ending is Ending.ZERO


def test_a_childs_page_in_a_file_of_its_parent_is_refused() -> None:
    wal = WalWriter(3, timeline=2)
    wal.commit(NOON)
    found, none = scan_segment(Segment(1, 3), wal.segments().get, segment_size=MIB)
    assert (found.ending, found.records, none) == (Ending.BAD, 0, ())
    assert found.problem.endswith("begins with a page of timeline 2, newer than its name says")


def test_a_record_may_end_in_the_childs_copy_of_the_next_segment() -> None:
    parent, child = spanning(length=5000), spanning(length=5000)
    child.timeline = 2
    child.filler(PAGE)
    path = {3: parent.segments()[3], 4: child.segments()[4]}
    assert path[4] != parent.segments()[4]
    found, _ = scan_segment(Segment(1, 3), path.get, segment_size=MIB)
    assert found == scan(parent, 3)
    assert scan_segment(Segment(2, 4), path.get, segment_size=MIB)[0].records == 2


# --- damage ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spoil", "ending", "problem"),
    [
        (lambda pages: b"", Ending.BAD, "has 0 bytes, too few for a WAL page header"),
        (lambda pages: bytes(MIB), Ending.ZERO, ""),
        (lambda pages: b"\xff" * MIB, Ending.BAD, "begins with page magic 0xffff"),
        (lambda pages: pages + b"\0", Ending.BAD, "is not one of 1048576 bytes"),
        (lambda pages: pages[:30], Ending.BAD, "too few for a WAL page header"),
    ],
)
def test_an_unreadable_segment_is_a_bad_scan_and_no_exception(
    spoil: Callable[[bytes], bytes], ending: Ending, problem: str
) -> None:
    wal = WalWriter(3)
    wal.commit(NOON)
    spoiled = {3: spoil(wal.segments()[3])}
    found, none = scan_segment(Segment(1, 3), spoiled.get, segment_size=MIB)
    assert (found.ending, found.first, found.end, none) == (ending, None, 3 * MIB, ())
    assert problem in found.problem


def test_an_event_that_fails_its_checksum_ends_the_scan() -> None:
    wal = WalWriter(3)
    wal.commit(NOON, xid=801)
    wal.commit(NOON + 1, xid=802)
    pages = bytearray(wal.segments()[3])
    pages[wal.placed[1].start % MIB + 28] ^= 1
    found, seen = scan_segment(Segment(1, 3), {3: bytes(pages)}.get, segment_size=MIB)
    assert (found.ending, found.end) == (Ending.BAD, wal.placed[0].end)
    assert [event.xid for event in seen] == [801]


@pytest.mark.parametrize("before", [0, 2])
def test_an_event_too_short_to_be_one_does_not_count(before: int) -> None:
    wal = WalWriter(3)
    for index in range(before):
        wal.commit(NOON + index)
    bad = wal.record(TRANSACTION, 0x00, main_data(b"\0" * 5))
    wal.commit(NOON)
    found = scan(wal, 3)
    assert (found.ending, found.records, found.end) == (Ending.BAD, before, bad.start)
    assert found.last == (wal.placed[before - 1].start if before else None)
    assert "too short for what it claims to be" in found.problem


# --- finding records ---------------------------------------------------------------------------------------


def test_the_next_record_is_the_first_that_starts_at_or_behind_a_position() -> None:
    wal = WalWriter(3)
    for length in (300, 9000, 8192, 30):
        wal.filler(length)
    wal.switch()
    wal.filler(3 * MIB)
    wal.filler(40)
    segments, starts = wal.segments(), [placed.start for placed in wal.placed]
    positions = {start + shift for start in starts for shift in (-9, -1, 0, 1, 8)}
    positions |= {4 * MIB, 4 * MIB + 30, 5 * MIB, 5 * MIB + 12, 6 * MIB, 3 * MIB, 4 * MIB - 8, 7 * MIB + 8}
    for lsn in sorted(positions - {lsn for lsn in positions if lsn < 3 * MIB}):
        expected = min((start for start in starts if start >= lsn), default=None)
        assert next_record(Lsn(lsn), segments.get, segment_size=MIB) == expected, hex(lsn)


def test_a_record_that_is_not_whole_is_not_the_next_one() -> None:
    wal = spanning(length=5000)
    only = {3: wal.segments()[3]}
    assert next_record(wal.placed[-2].start, only.get, segment_size=MIB) is None
    assert next_record(wal.placed[-3].start, only.get, segment_size=MIB) == wal.placed[-3].start


def test_behind_damage_there_is_no_next_record() -> None:
    wal = spanning(length=5000)
    data = bytearray(wal.segments()[3])
    data[wal.placed[5].start % MIB + 8] ^= 1  # it no longer names the record before it
    pages = {3: bytes(data), 4: wal.segments()[4]}
    assert next_record(Lsn(wal.placed[5].start + 8), pages.get, segment_size=MIB) is None
    assert next_record(wal.placed[4].start, pages.get, segment_size=MIB) == wal.placed[4].start


def test_every_kind_of_record_means_something_to_recovery_exactly_if_it_is_listed() -> None:
    """A walk hops over what is not listed: nothing that counts may be left out."""
    body = main_data(bytes(250))
    for rmid in (XLOG, TRANSACTION, HEAP):
        for info in range(256):
            record = WalRecord(Lsn(8), Lsn(400), 276, 800, Lsn(0), rmid, info, body, 15)
            decoded = decode(record)
            assert (decoded is not None) == (record_kind(rmid, info) in DECODED), (rmid, info)
            tally = Tally(keep_events=True)
            tally.add(decoded)
            assert (tally == Tally(keep_events=True)) == (decoded is None)


def test_records_are_read_from_a_position_until_the_files_end() -> None:
    wal = spanning(length=5000)
    found = records_from(wal.placed[5].start, wal.segments().get, segment_size=MIB)
    assert [record.start for record in found] == [placed.start for placed in wal.placed[5:]]
