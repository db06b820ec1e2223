"""First pages and page headers: what may be archived under a name, and what is said if not."""

from __future__ import annotations

import struct

import pytest

from tests.kit.wal import MAGIC, MIB, PAGE, SYSTEM, WalWriter
from walarchiver.core.lsn import Lsn
from walarchiver.core.segment import SegmentBytes
from walarchiver.core.walpage import SegmentIdentity, check_pages, check_segment, read_first_page
from walarchiver.errors import CorruptSegment, NotAWalFile, WrongCluster

NAME = "000000010000000000000003"


def full_segment(*, major: int = 15, timeline: int = 1, size: SegmentBytes = MIB) -> bytes:
    wal = WalWriter(3, major=major, timeline=timeline, size=size)
    wal.filler(size + 5000)
    return wal.segments()[3]


def check(data: bytes, name: str = NAME, **cluster: int) -> None:
    expected = {"system": SYSTEM, "segment_size": MIB, "length": len(data), "major": 15, **cluster}
    size = SegmentBytes(expected.pop("segment_size"))
    check_segment(name, read_first_page(data, name=name), segment_size=size, **expected)


@pytest.mark.parametrize("major", MAGIC)
def test_the_first_40_bytes_identify_a_segment_of_every_supported_major(major: int) -> None:
    data = full_segment(major=major, timeline=7)[:40]
    assert read_first_page(data) == SegmentIdentity(MAGIC[major], major, SYSTEM, 7, Lsn(3 * MIB), MIB, PAGE)


@pytest.mark.parametrize("name", [NAME, NAME + ".partial", "000000020000000000000003"])
def test_a_segment_passes_under_its_own_name_and_that_of_a_child(name: str) -> None:
    check(full_segment(), name)


@pytest.mark.parametrize(
    ("at", "field", "message"),
    [
        (0, struct.pack("<H", 0), "x begins with page magic 0x0000, which is no PostgreSQL 14 to 18"),
        (0, struct.pack("<H", 0xD119), "x begins with page magic 0xd119, which is no PostgreSQL 14 to 18"),
        (2, struct.pack("<H", 1), "x has page flags 0x0001, not those of a segment's first page"),
        (2, struct.pack("<H", 0x12), "x has page flags 0x0012, not those of a segment's first page"),
        (4, struct.pack("<I", 0), "x begins with a page of timeline 0"),
        (32, struct.pack("<I", 3 << 20), "x claims an impossible segment size of 3145728 bytes"),
        (36, struct.pack("<I", 4096), "x has 4096-byte WAL pages; only 8192 is supported"),
    ],
)
def test_a_header_that_is_no_long_page_header_is_refused(at: int, field: bytes, message: str) -> None:
    data = bytearray(full_segment()[:40])
    data[at : at + len(field)] = field
    with pytest.raises(CorruptSegment) as refused:
        read_first_page(data, name="x")
    assert refused.value.message == message


def test_fewer_bytes_than_a_header_are_refused() -> None:
    with pytest.raises(CorruptSegment, match="x has 39 bytes, too few for a WAL page header"):
        read_first_page(full_segment()[:39], name="x")


def test_a_file_of_another_length_is_refused() -> None:
    with pytest.raises(CorruptSegment, match=f"{NAME} has 1048575 bytes instead of 1048576"):
        check(full_segment(), length=MIB - 1)


def test_a_file_under_another_address_is_refused() -> None:
    with pytest.raises(CorruptSegment, match=r"begins with the page of 0/300000 instead of 0/400000"):
        check(full_segment(), "000000010000000000000004")


def test_a_file_of_a_newer_timeline_is_refused() -> None:
    with pytest.raises(CorruptSegment, match="begins with a page of timeline 2, newer than its name says"):
        check(full_segment(timeline=2))


def test_a_file_of_another_cluster_is_refused() -> None:
    with pytest.raises(WrongCluster, match=f"{NAME} belongs to system identifier {SYSTEM}, not {SYSTEM + 1}"):
        check(full_segment(), system=SYSTEM + 1)


def test_a_file_of_another_segment_size_is_refused() -> None:
    with pytest.raises(WrongCluster, match="written with 1048576-byte segments, the cluster has 16777216"):
        check(full_segment(), segment_size=16 * MIB)


def test_a_file_of_another_major_is_refused() -> None:
    with pytest.raises(WrongCluster, match="was written by PostgreSQL 15, the cluster runs 18"):
        check(full_segment(), major=18)


def test_a_name_of_no_segment_is_refused() -> None:
    with pytest.raises(NotAWalFile):
        check(full_segment(), "RECOVERYXLOG")


# --- page headers --------------------------------------------------------------------------------


@pytest.mark.parametrize("pages", [1, 3, 128])
def test_the_pages_of_a_full_segment_pass_in_pieces_of_any_size(pages: int) -> None:
    data, padding = memoryview(full_segment()), False
    for at in range(0, MIB, pages * PAGE):
        piece = data[at : at + pages * PAGE]
        padding = check_pages(piece, Lsn(3 * MIB + at), magic=MAGIC[15], padding=padding)
    assert not padding


def test_the_padding_behind_a_switch_passes_and_is_remembered() -> None:
    wal = WalWriter(3)
    wal.filler(20_000)
    wal.switch()
    data = wal.segments()[3]
    assert not check_pages(data[: 3 * PAGE], Lsn(3 * MIB), magic=MAGIC[15])
    assert check_pages(data[: 4 * PAGE], Lsn(3 * MIB), magic=MAGIC[15])
    assert check_pages(data[8 * PAGE :], Lsn(3 * MIB + 8 * PAGE), magic=MAGIC[15], padding=True)


def test_a_page_behind_padding_is_refused() -> None:
    data = full_segment()
    holed = data[:PAGE] + bytes(PAGE) + data[2 * PAGE :]
    message = r"x has a page with magic 0xd110 and address 0/304000 at 0/304000, behind its zero padding"
    with pytest.raises(CorruptSegment, match=message):
        check_pages(holed, Lsn(3 * MIB), magic=MAGIC[15], name="x")


def test_a_page_of_another_address_is_refused() -> None:
    data = full_segment()
    with pytest.raises(
        CorruptSegment, match="x has a page with magic 0xd110 and address 0/302000 at 0/304000"
    ):
        check_pages(data[PAGE : 2 * PAGE], Lsn(3 * MIB + 2 * PAGE), magic=MAGIC[15], name="x")


def test_a_page_of_another_major_is_refused() -> None:
    with pytest.raises(CorruptSegment, match="magic 0xd110"):
        check_pages(full_segment(), Lsn(3 * MIB), magic=MAGIC[18])


def test_half_a_page_is_refused() -> None:
    with pytest.raises(CorruptSegment, match="ends inside a page"):
        check_pages(full_segment()[: PAGE + 100], Lsn(3 * MIB), magic=MAGIC[15])
