"""How a walk over WAL ends, and what damage does to it."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.core.test_walreader import put, seen, walk, written
from tests.kit.wal import MIB, PAGE, WalWriter
from walarchiver.core.scan import Ending
from walarchiver.core.segment import SegmentBytes
from walarchiver.core.walreader import CrcPolicy


def test_a_record_that_goes_on_in_a_file_not_given_is_not_counted() -> None:
    wal = WalWriter(3)
    wal.filler(300)
    wal.filler(MIB)
    found = walk({3: wal.segments()[3]})
    assert seen(found) == put(wal.placed[:1])
    assert (found.ending, found.end) == (Ending.OPEN, wal.placed[0].end)


def test_pages_of_an_older_segment_end_an_unfinished_one() -> None:
    old = WalWriter(2)
    old.filler(MIB)
    wal = written([300, 9000])
    data = wal.segments()[3][: 2 * PAGE] + old.segments()[2][2 * PAGE :]
    found = walk({3: data})
    assert seen(found) == put(wal.placed)
    assert (found.ending, found.end) == (Ending.ZERO, wal.placed[-1].end)


def test_a_segment_that_does_not_follow_ends_the_walk() -> None:
    wal = written([5 * MIB])
    segments = wal.segments()
    del segments[4]
    found = walk(segments)
    assert list(found) == []
    assert (found.ending, found.problem) == (Ending.BAD, "segment 5 does not follow segment 3")


def test_a_segment_of_another_cluster_or_major_ends_the_walk() -> None:
    wal = written([2 * MIB])
    for other in (WalWriter(4, system=5), WalWriter(4, major=16)):
        other.filler(100)
        found = walk({3: wal.segments()[3], 4: other.segments()[4]})
        assert list(found) == []
        assert found.problem == "the segment at 0/400000 belongs to another cluster or major version"


def test_a_segment_of_another_size_ends_the_walk() -> None:
    wal = WalWriter(3, size=SegmentBytes(2 * MIB))
    wal.filler(100)
    found = walk({6: wal.segments()[3]})
    assert list(found) == []
    assert found.problem == "the segment at 0/600000 is not one of 1048576 bytes"


def test_a_page_of_an_older_timeline_behind_a_newer_one_ends_the_walk() -> None:
    wal = WalWriter(3, timeline=2)
    wal.filler(PAGE - 40)
    wal.timeline = 1
    wal.filler(100)
    found = walk(wal.segments())
    assert seen(found) == put(wal.placed[:1])
    assert found.problem == "page at 0/302000 is of timeline 1, behind one of 2"


def test_a_record_that_does_not_name_the_one_before_ends_the_walk() -> None:
    wal = written([100])
    wal.prev -= 8
    wal.filler(100)
    found = walk(wal.segments())
    assert seen(found) == put(wal.placed[:1])
    assert (found.ending, found.problem) == (
        Ending.BAD,
        "record at 0/300090 names 0/300020 as the one before",
    )


def test_a_flipped_bit_in_a_body_is_found_by_the_checksum_alone() -> None:
    wal = written([100, 200, 300])
    data = bytearray(wal.segments()[3])
    data[wal.placed[1].start % MIB + 100] ^= 1
    found = walk({3: bytes(data)})
    assert seen(found) == put(wal.placed[:1])
    assert (found.ending, found.problem) == (Ending.BAD, "record at 0/300090 fails its checksum")
    assert found.last == wal.placed[0].start
    hopped = walk({3: bytes(data)}, crc=CrcPolicy.INTERESTING, wanted=frozenset())
    assert list(hopped) == []
    assert hopped.records == 3


def mixed() -> WalWriter:
    wal = WalWriter(3)
    for index in range(60):
        wal.filler(40 + index * 977 % 20_000)
        wal.commit(1_795_348_800_000_000 + index)
    wal.tear(30_000)
    wal.filler(700)
    wal.switch()
    wal.filler(900)
    return wal


MIXED = mixed()


MIXED_BYTES = b"".join(MIXED.segments().values())


def as_segments(content: bytes, first: int = 3) -> list[tuple[int, bytes]]:
    return [(first + at // MIB, content[at : at + MIB]) for at in range(0, len(content), MIB)]


@given(st.lists(st.integers(0, len(MIXED_BYTES) * 8 - 1), min_size=1, max_size=6), st.sampled_from(CrcPolicy))
@settings(max_examples=150, deadline=None)
def test_flipped_bits_never_raise_and_never_make_a_record(bits: list[int], crc: CrcPolicy) -> None:
    content = bytearray(MIXED_BYTES)
    for bit in bits:
        content[bit // 8] ^= 1 << bit % 8
    records = list(walk(as_segments(bytes(content)), crc=crc))
    if crc is CrcPolicy.ALL:
        true = put(MIXED.placed)
        assert seen(records) == true[: len(records)]
        for record in records:
            record.parts()


@given(st.binary(min_size=1, max_size=400), st.integers(0, len(MIXED_BYTES) - 400))
@settings(max_examples=80, deadline=None)
def test_overwritten_stretches_never_raise_and_never_make_a_record(junk: bytes, at: int) -> None:
    content = MIXED_BYTES[:at] + junk + MIXED_BYTES[at + len(junk) :]
    records = list(walk(as_segments(content)))
    assert seen(records) == put(MIXED.placed)[: len(records)]


@given(st.integers(0, len(MIXED_BYTES)))
@example(cut=PAGE + 20)  # inside a page's header
@example(cut=MIB + 30)  # inside a segment's first header
@settings(max_examples=150, deadline=None)
def test_input_cut_anywhere_gives_exactly_the_records_before_the_cut(cut: int) -> None:
    found = walk(as_segments(MIXED_BYTES[:cut]))
    records = seen(found)
    assert records == put(MIXED.placed)[: len(records)]
    whole = [placed for placed in MIXED.placed if placed.raw_end <= 3 * MIB + cut]
    assert len(records) == len(whole)
    assert found.ending is not Ending.BAD or cut % MIB < 40


@given(st.binary(max_size=3000))
@settings(deadline=None)
def test_arbitrary_bytes_give_no_record(junk: bytes) -> None:
    found = walk([(3, junk)])
    assert list(found) == []
    assert found.records == 0
