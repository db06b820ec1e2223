"""What records of files and databases tell `find`, and how segments are passed."""

from __future__ import annotations

import struct

import pytest

from tests.core.test_sift import (
    BTREE,
    CATALOG,
    DATABASE,
    DELETE,
    HEAP,
    HEAP2,
    MULTI_INSERT,
    OTHER,
    RELMAP,
    STORAGE,
    TABLE,
    WATCH,
    delete,
    multi,
)
from tests.core.twins import walked_alike
from tests.kit.wal import MIB, PAGE, XLOG, WalWriter, main_data
from walarchiver.core import sift as sifting
from walarchiver.core.relfile import RelFile
from walarchiver.core.scan import Ending
from walarchiver.core.stretch import walk_stretch
from walarchiver.core.touch import DatabaseStep, FileStep, NextXid, Rows, Stopped, Touches, Watch

NOON = 1_795_348_800_000_000


def told(wal: WalWriter, watch: Watch = WATCH) -> Touches:
    wal.commit(NOON, xid=1)
    wal.switch()
    stretch, found = walked_alike(wal.segments(), watch)
    assert stretch.ending is Ending.WHOLE, stretch.problem
    return found


@pytest.mark.parametrize(("major", "drop"), [(14, 0x10), (15, 0x20), (18, 0x20)])
def test_a_database_that_is_dropped_or_moved_is_noted(major: int, drop: int) -> None:
    wal = WalWriter(3, major=major)
    gone = wal.record(DATABASE, drop, main_data(struct.pack("<II", 5, 1)), xid=7)
    wal.record(DATABASE, drop, main_data(struct.pack("<II", 6, 1)), xid=7)
    moved = wal.record(DATABASE, 0x00, main_data(struct.pack("<IIII", 5, 1700, 5, 1663)), xid=8)
    wal.record(DATABASE, drop, main_data(struct.pack("<II", 5, 1)), xid=8)  # of where it was before
    wal.record(
        DATABASE, 0x00, main_data(struct.pack("<IIII", 5, 1663, 1, 1663)), xid=9
    )  # a copy of another one
    if major > 14:
        wal.record(DATABASE, 0x10, main_data(struct.pack("<II", 5, 1663)), xid=9)
    found = told(wal)
    assert found.touches[7].databases == [DatabaseStep(gone.start, 5)]
    assert found.touches[8].databases == [DatabaseStep(moved.start, 5, moved=True)]
    assert 9 not in found.touches or found.touches[9].databases == []
    alone = told(wal, Watch(frozenset({TABLE}), {}))
    assert alone.touches[7].databases == [DatabaseStep(gone.start, 5)]
    assert told(wal, Watch(frozenset(), {})).touches == {}


def test_files_count_where_they_are_of_a_watched_database_or_watched_themselves() -> None:
    wal = WalWriter(3)
    elsewhere = RelFile(1663, 6, 50)
    made = wal.record(STORAGE, 0x10, main_data(struct.pack("<IIIi", *OTHER, 0)), xid=7)
    wal.record(STORAGE, 0x10, main_data(struct.pack("<IIIi", *OTHER, 2)), xid=7)  # its visibility map
    wal.record(STORAGE, 0x10, main_data(struct.pack("<IIIi", *elsewhere, 0)), xid=7)
    cut = wal.record(STORAGE, 0x20, main_data(struct.pack("<IIIIi", 0, *OTHER, 7)), xid=7)
    wal.record(STORAGE, 0x20, main_data(struct.pack("<IIIIi", 3, *OTHER, 7)), xid=7)  # not all of it
    wal.record(STORAGE, 0x20, main_data(struct.pack("<IIIIi", 0, *elsewhere, 7)), xid=7)
    touch = told(wal).touches[7]
    assert touch.created == [FileStep(made.start, OTHER)]
    assert touch.emptied == [FileStep(cut.start, OTHER)]
    assert [step.file for step in told(wal, Watch(frozenset({elsewhere}), {})).touches[7].created] == [
        elsewhere
    ]


def test_catalogs_that_are_rewritten_and_ids_that_were_given_out_are_noted() -> None:
    wal = WalWriter(3)
    mapped = wal.record(RELMAP, 0, main_data(struct.pack("<I", 5)))
    wal.record(RELMAP, 0, main_data(struct.pack("<I", 6)))
    wal.record(HEAP2, MULTI_INSERT, multi(CATALOG, 3), xid=7)  # pg_class rows are written one by one
    online = wal.record(XLOG, 0x10, main_data(struct.pack("<Q16xI60x", 4711, 99)))
    ended = wal.record(XLOG, 0x90, main_data(bytes(24)))
    found = told(wal)
    assert found.remapped == [mapped.start]
    assert 7 not in found.touches
    assert found.next_xids == [NextXid(4711, 99)]  # type: ignore[arg-type]
    assert Stopped(ended.start) in found.ends
    assert Stopped(online.start) not in found.ends


def fill(wal: WalWriter, room: int) -> None:
    """Records of an index until exactly `room` bytes are left in the segment."""
    while wal.size - wal.at % wal.size > 2 * PAGE:
        wal.record(BTREE, 0, main_data(bytes(3000)))
    wal.record(BTREE, 0, main_data(b""))
    left = wal.size - wal.at % wal.size - room  # of raw bytes, and page headers between
    left -= 24 * ((wal.size - wal.at % wal.size - 1) // PAGE)
    wal.record(BTREE, 0, main_data(bytes(left - 29)))
    assert wal.size - wal.at % wal.size == room % wal.size or wal.at % wal.size == 0


@pytest.mark.parametrize("room", [0, 8, 16, 24, 32, 40])
def test_a_record_at_a_segments_border_is_counted_in_the_segment_where_it_starts(room: int) -> None:
    """Its file's name may stand before the border, on it, or behind it."""
    wal = WalWriter(3)
    fill(wal, room)
    placed = wal.record(HEAP, DELETE, delete(TABLE), xid=7)
    found = told(wal)
    assert found.touches[7].rows == {TABLE: Rows(deleted=1)}
    pages = wal.segments()
    number = placed.start // MIB
    alone = walk_stretch(number, number, pages.get, segment_size=MIB, watch=WATCH)
    assert sum(xid == 7 for one in alone.found for xid in (*one.rows.xids, *one.touches)) == 1


def test_a_record_longer_than_segments_is_passed_over() -> None:
    wal = WalWriter(3)
    wal.record(BTREE, 0, main_data(bytes(3 * MIB)))
    wal.record(HEAP, DELETE, delete(TABLE), xid=7)
    assert told(wal).touches[7].rows == {TABLE: Rows(deleted=1)}
    pages = wal.segments()
    whole = walk_stretch(3, 5, pages.get, segment_size=MIB, watch=WATCH)
    assert whole.ending is Ending.WHOLE
    assert whole.end > 6 * MIB
    missing = walk_stretch(3, 9, {3: pages[3]}.get, segment_size=MIB, watch=WATCH)
    assert missing.ending is Ending.OPEN


def test_segments_that_are_not_there_are_no_damage() -> None:
    found = walk_stretch(3, 3, {}.get, segment_size=MIB, watch=WATCH)
    assert (found.ending, found.end) == (Ending.WHOLE, 4 * MIB)


def test_without_the_compiled_part_everything_is_walked(monkeypatch: pytest.MonkeyPatch) -> None:
    wal = WalWriter(3)
    wal.record(HEAP, DELETE, delete(TABLE), xid=7)
    wal.commit(NOON, xid=7)
    wal.switch()
    monkeypatch.setattr(sifting, "COMPILED", False)
    found = walk_stretch(3, 3, wal.segments().get, segment_size=MIB, watch=WATCH)
    assert [touch.rows for one in found.found for touch in one.touches.values()] == [{TABLE: Rows(deleted=1)}]
