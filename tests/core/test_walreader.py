"""The record walk, over WAL made by hand: borders, switches, torn records, damage, cuts."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.kit.wal import HEAP, MIB, PAGE, Placed, WalWriter, main_data
from walarchiver.core.lsn import Lsn
from walarchiver.core.scan import Ending
from walarchiver.core.walreader import Buffer, CrcPolicy, Walk
from walarchiver.core.walrecord import WalRecord, record_kind
from walarchiver.errors import CorruptSegment

lengths = st.one_of(
    st.integers(26, 300), st.integers(7_900, 8_300), st.integers(15_000, 40_000), st.just(MIB + 20_000)
)


def walk(segments: dict[int, bytes] | Iterable[tuple[int, Buffer]], **options: object) -> Walk:
    given = segments.items() if isinstance(segments, dict) else segments
    return Walk(iter(given), segment_size=MIB, **options)  # type: ignore[arg-type]


def seen(records: Iterable[WalRecord]) -> list[tuple[Lsn, Lsn, Lsn, int]]:
    return [(record.start, record.end, record.prev, record.total) for record in records]


def put(records: Iterable[Placed]) -> list[tuple[Lsn, Lsn, Lsn, int]]:
    return [(record.start, record.end, record.prev, record.total) for record in records]


def written(record_lengths: Iterable[int]) -> WalWriter:
    wal = WalWriter(3)
    for length in record_lengths:
        wal.filler(length)
    return wal


# --- whole WAL -------------------------------------------------------------------------------------


@given(st.lists(lengths, min_size=1, max_size=30))
@example([8192 - 40])  # ends exactly with its page
@example([8192 - 40 - 8, 26])  # the next header is split after its first 8 bytes
@example([8192 - 40 - 24, 26])  # the next header alone fits
@example([MIB - 128 * 24 - 16, 50])  # ends exactly with its segment
@settings(max_examples=40, deadline=None)
def test_every_record_comes_back_from_pages_and_segments(record_lengths: list[int]) -> None:
    wal = written(record_lengths)
    found = walk(wal.segments())
    assert seen(found) == put(wal.placed)
    assert found.records == len(wal.placed)
    assert (found.first, found.last, found.end) == (
        wal.placed[0].start,
        wal.placed[-1].start,
        wal.placed[-1].end,
    )
    assert found.ending is (Ending.WHOLE if wal.at % MIB == 0 else Ending.ZERO)
    assert found.problem == ""


@pytest.mark.parametrize("crc", CrcPolicy)
def test_the_records_are_the_same_under_every_checksum_policy(crc: CrcPolicy) -> None:
    wal = written(range(30, 9000, 37))
    assert seen(walk(wal.segments(), crc=crc)) == put(wal.placed)


def test_a_body_over_several_segments_comes_back_whole() -> None:
    body = main_data(bytes(index % 251 for index in range(3_500_000)))
    wal = WalWriter(3)
    wal.filler(100)
    wal.record(HEAP, 0x10, body, xid=9)
    (_, record) = walk(wal.segments())
    assert record.body == body
    assert (record.xid, record.rmid, record.info) == (9, HEAP, 0x10)
    assert len(record.main) == 3_500_000


def test_mapped_and_mutable_bytes_are_walked_like_any_other() -> None:
    wal = written([100, 9000, 30, 20_000])
    for kind in (bytearray, memoryview):
        assert seen(walk((number, kind(data)) for number, data in wal.segments().items())) == put(wal.placed)


def test_only_wanted_kinds_are_handed_out_but_all_are_counted() -> None:
    wal = WalWriter(3)
    for index in range(40):
        wal.filler(3000)
        wal.commit(1_795_348_800_000_000 + index)
    commits = [placed for placed in wal.placed if placed.total == 34]
    found = walk(wal.segments(), wanted=frozenset([record_kind(1, 0)]))
    assert seen(found) == put(commits)
    assert found.records == 80


@pytest.mark.parametrize("behind", [0, 1, 5, 8])
def test_a_walk_may_start_at_any_record(behind: int) -> None:
    wal = written([8192 - 40, *range(5000, 90_000, 9999)])
    assert seen(walk(wal.segments(), start=wal.placed[behind].start)) == put(wal.placed[behind:])


def test_a_start_inside_a_page_header_means_the_first_record_behind_it() -> None:
    wal = written([8192 - 40, 100, 200])
    for inside in range(25):
        assert seen(walk(wal.segments(), start=Lsn(3 * MIB + PAGE + inside))) == put(wal.placed[1:])


def test_a_walk_that_begins_inside_a_record_skips_to_the_next() -> None:
    wal = written([100, 2 * MIB, 50, 60])
    segments = wal.segments()
    del segments[3]
    found = walk(segments)
    assert seen(found) == put(wal.placed[2:])
    assert (found.first_prev, found.problem) == (wal.placed[1].start, "")


def test_no_segment_is_asked_for_that_holds_only_records_behind_the_stop() -> None:
    wal = WalWriter(3)
    wal.pad_to(0)
    wal.filler(500)
    asked = []

    def segments() -> Iterator[tuple[int, bytes]]:
        for number, data in wal.segments().items():
            asked.append(number)
            yield number, data

    found = walk(segments(), stop=Lsn(4 * MIB))
    assert seen(found) == put(wal.placed[:-1])
    assert (asked, found.ending, found.end) == ([3], Ending.WHOLE, 4 * MIB)


def test_the_record_that_runs_over_the_stop_is_completed() -> None:
    wal = WalWriter(3)
    wal.pad_to(64)
    wal.filler(3000)
    wal.filler(500)
    assert seen(walk(wal.segments(), stop=Lsn(4 * MIB))) == put(wal.placed[:-1])


# --- switches ----------------------------------------------------------------------------------------


def test_a_switch_ends_its_segment_and_the_walk_goes_on_behind_it() -> None:
    wal = WalWriter(3)
    wal.filler(300)
    wal.switch()
    wal.filler(400)
    found = walk(wal.segments())
    assert seen(found) == put(wal.placed)
    assert wal.placed[1].end == 4 * MIB
    assert not found.switched
    only = walk({3: wal.segments()[3]})
    assert seen(only) == put(wal.placed[:2])
    assert (only.switched, only.ending, only.end) == (True, Ending.WHOLE, 4 * MIB)


@pytest.mark.parametrize("room", [8, 16])
def test_a_switch_split_by_a_segment_border_makes_the_next_segment_padding(room: int) -> None:
    wal = WalWriter(3)
    wal.pad_to(room)
    switch = wal.switch()
    wal.filler(100)
    assert (switch.start, switch.end) == (4 * MIB - room, 5 * MIB)
    assert seen(walk(wal.segments())) == put(wal.placed)
    segments = wal.segments()
    del segments[3]
    found = walk(segments)
    assert seen(found) == put(wal.placed[-1:])
    padding = walk({4: segments[4]})
    assert list(padding) == []
    assert (padding.switched, padding.ending, padding.end) == (True, Ending.WHOLE, 5 * MIB)


def test_eight_carried_bytes_of_another_record_are_not_taken_for_a_switch() -> None:
    wal = WalWriter(3)
    wal.pad_to(8)
    wal.record(HEAP, 0x10, b"")
    padding = walk({4: wal.segments()[4]})
    assert list(padding) == []
    assert (padding.switched, padding.ending) == (False, Ending.ZERO)


# --- torn records ------------------------------------------------------------------------------------


@pytest.mark.parametrize("pages", [1, 3])
def test_a_torn_record_is_dropped_when_its_successor_names_it(pages: int) -> None:
    wal = WalWriter(3)
    wal.filler(300)
    torn = wal.tear(200_000, pages=pages)
    wal.filler(500)
    found = walk(wal.segments())
    assert seen(found) == put(wal.placed)
    assert found.overwritten == [torn]


def test_a_torn_record_at_a_segments_end_leaves_the_rest_to_nothing() -> None:
    wal = WalWriter(3)
    wal.pad_to(1000)
    torn = wal.tear(200_000)
    wal.filler(500)
    found = walk(wal.segments(), stop=Lsn(4 * MIB))
    assert seen(found)[-1][0] < torn
    assert (found.overwritten, found.ending, found.end) == ([torn], Ending.WHOLE, 4 * MIB)


def test_a_walk_that_begins_inside_a_torn_record_goes_on_behind_it() -> None:
    wal = WalWriter(3)
    wal.pad_to(1000)
    wal.tear(200_000, pages=4)
    wal.filler(500)
    found = walk({4: wal.segments()[4]})
    assert seen(found) == put(wal.placed[-2:])
    assert found.overwritten == []


def test_a_page_that_overwrites_without_naming_the_torn_record_ends_the_walk() -> None:
    wal = WalWriter(3)
    wal.filler(300)
    torn = wal.tear(200_000)
    data = bytearray(wal.segments()[3])
    at = PAGE + 24 + 26
    assert data[at : at + 8] == struct.pack("<Q", torn)
    data[at] ^= 8
    found = walk({3: bytes(data)})
    assert seen(found) == put(wal.placed[:1])
    assert (found.ending, found.overwritten) == (Ending.BAD, [])
    assert found.problem == "page at 0/302000 overwrites a record it does not name"


def test_a_record_cut_off_where_it_overwrites_another_proves_nothing() -> None:
    wal = WalWriter(3)
    wal.filler(300)
    wal.tear(200_000)
    found = walk({3: wal.segments()[3][: PAGE + 24 + 40]})
    assert seen(found) == put(wal.placed[:1])
    assert found.overwritten == []
    assert found.ending is not Ending.WHOLE


def test_a_page_that_goes_on_with_a_record_nobody_began_ends_the_walk() -> None:
    wal = WalWriter(3)
    wal.filler(PAGE - 40)
    wal.filler(300)
    assert wal.placed[1].start == 3 * MIB + PAGE + 24
    data = bytearray(wal.segments()[3])
    data[PAGE + 2] |= 1  # FIRST_IS_CONTRECORD
    data[PAGE + 16 : PAGE + 20] = struct.pack("<I", 100)
    found = walk({3: bytes(data)})
    assert seen(found) == put(wal.placed[:1])
    assert (found.ending, found.problem) == (Ending.BAD, "page at 0/302000 continues no record")


def test_a_first_block_that_refers_to_the_one_before_it_is_refused() -> None:
    body = bytes((0, 0x80)) + struct.pack("<HI", 0, 7)
    record = WalRecord(Lsn(8), Lsn(48), 24 + len(body), 0, Lsn(0), HEAP, 0, body, 15)
    with pytest.raises(CorruptSegment, match="cannot be taken apart") as refused:
        record.parts()
    assert str(refused.value.__cause__) == "the first block names no relation"
