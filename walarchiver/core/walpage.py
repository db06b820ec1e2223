"""WAL page headers: what a segment's first page says it is, and whether that fits its name.

Rules (PostgreSQL src/include/access/xlog_internal.h, XLogPageHeaderData, XLogLongPageHeaderData):
- Every 8 KiB page begins with a 24-byte header: magic, flags, timeline, its own address, and how
  many bytes of a record begun earlier are still missing. A segment's first page has 16 bytes
  more: system identifier, segment size, page size. Little-endian builds only.
- The magic number tells the major version.
- A segment in which a timeline was born begins with pages of its parent, so the page's timeline
  may be older than the one in the file name, never newer.
- After a switch the rest of the segment is zero, page headers included. A segment still being
  written may hold pages of a recycled, older one; a complete, archived one never does.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from walarchiver.core.lsn import Lsn, format_lsn
from walarchiver.core.scan import Ending
from walarchiver.core.segment import (
    PartialFile,
    SegmentBytes,
    SegmentFile,
    parse_wal_file,
    valid_segment_bytes,
)
from walarchiver.errors import CorruptSegment, WrongCluster

PAGE_BYTES = 8192
SHORT_HEADER_BYTES = 24
LONG_HEADER_BYTES = 40

MAJOR_OF_MAGIC = {0xD10D: 14, 0xD110: 15, 0xD113: 16, 0xD116: 17, 0xD118: 18}

FIRST_IS_CONTRECORD = 0x0001
LONG_HEADER = 0x0002
FIRST_IS_OVERWRITE_CONTRECORD = 0x0008
KNOWN_FLAGS = 0x000F

PAGE_HEADER = struct.Struct("<HHIQI")
"""magic, flags, timeline, address, missing bytes of the record that began earlier."""
_LONG_PART = struct.Struct("<QII")


@dataclass(frozen=True, slots=True)
class SegmentIdentity:
    """What the first page of a segment says about the whole file."""

    magic: int
    major: int
    system: int
    """System identifier of the cluster."""
    timeline: int
    """Timeline of the first page: the file's own, or an ancestor's."""
    address: Lsn
    segment_size: SegmentBytes
    block_size: int


def read_first_page(data: bytes | bytearray | memoryview, *, name: str = "the file") -> SegmentIdentity:
    """The identity in the first 40 bytes of a segment; `name` is for messages only.

    Raises CorruptSegment when they are not the long page header of a supported version.
    """
    if len(data) < LONG_HEADER_BYTES:
        raise CorruptSegment(f"{name} has {len(data)} bytes, too few for a WAL page header")
    magic, flags, timeline, address, _missing = PAGE_HEADER.unpack_from(data)
    system, segment_size, block_size = _LONG_PART.unpack_from(data, SHORT_HEADER_BYTES)
    major = MAJOR_OF_MAGIC.get(magic)
    if major is None:
        raise CorruptSegment(f"{name} begins with page magic {magic:#06x}, which is no PostgreSQL 14 to 18")
    if not flags & LONG_HEADER or flags & ~KNOWN_FLAGS:
        raise CorruptSegment(f"{name} has page flags {flags:#06x}, not those of a segment's first page")
    if block_size != PAGE_BYTES:
        raise CorruptSegment(f"{name} has {block_size}-byte WAL pages; only {PAGE_BYTES} is supported")
    if not valid_segment_bytes(segment_size):
        raise CorruptSegment(f"{name} claims an impossible segment size of {segment_size} bytes")
    if timeline == 0:
        raise CorruptSegment(f"{name} begins with a page of timeline 0")
    return SegmentIdentity(
        magic, major, system, timeline, Lsn(address), SegmentBytes(segment_size), block_size
    )


def check_segment(
    name: str, identity: SegmentIdentity, *, system: int, segment_size: SegmentBytes, length: int, major: int
) -> None:
    """Whether a file of `length` bytes with this first page may be archived as `name`.

    `system`, `segment_size` and `major` are the cluster's. Raises NotAWalFile for a name that is
    no segment or partial segment; WrongCluster for another system identifier, segment size or
    major version; CorruptSegment when length, address or timeline does not fit the name.
    """
    match parse_wal_file(name, segment_size):
        case SegmentFile(segment) | PartialFile(segment):
            pass
        case _:
            raise AssertionError(f"{name} has no pages to check")
    if identity.system != system:
        raise WrongCluster(f"{name} belongs to system identifier {identity.system}, not {system}")
    if identity.segment_size != segment_size:
        raise WrongCluster(
            f"{name} was written with {identity.segment_size}-byte segments, the cluster has {segment_size}"
        )
    if identity.major != major:
        raise WrongCluster(f"{name} was written by PostgreSQL {identity.major}, the cluster runs {major}")
    if length != segment_size:
        raise CorruptSegment(f"{name} has {length} bytes instead of {segment_size}")
    if identity.address != segment.start(segment_size):
        raise CorruptSegment(
            f"{name} begins with the page of {format_lsn(identity.address)}"
            f" instead of {format_lsn(segment.start(segment_size))}"
        )
    if identity.timeline > segment.timeline:
        raise CorruptSegment(
            f"{name} begins with a page of timeline {identity.timeline}, newer than its name says"
        )


def settled_lsn(lsn: Lsn, size: SegmentBytes) -> Lsn:
    """`lsn`, but a page's start for a position inside its header (the end of the header included).

    After a switch the insert position already stands behind the next page's header, where no
    record has ended yet (PostgreSQL xlog.c, XLogBytePosToRecPtr).
    """
    header = LONG_HEADER_BYTES if lsn % size < PAGE_BYTES else SHORT_HEADER_BYTES
    inside = lsn % PAGE_BYTES
    return Lsn(lsn - inside) if inside <= header else lsn


def check_pages(
    chunk: bytes | bytearray | memoryview,
    first_address: Lsn,
    *,
    magic: int,
    padding: bool = False,
    name: str = "the file",
) -> bool:
    """Whether every page header in a piece of a complete segment is where it belongs.

    `first_address` and the length of `chunk` are whole pages. `padding` says that the zero tail
    after a switch began before this piece; the answer says whether it has begun by its end.
    Not for partial segments, whose tail may hold anything. Raises CorruptSegment.
    """
    assert first_address % PAGE_BYTES == 0
    if len(chunk) % PAGE_BYTES:
        raise CorruptSegment(
            f"{name} ends inside a page, {len(chunk)} bytes behind {format_lsn(first_address)}"
        )
    for at in range(0, len(chunk), PAGE_BYTES):
        found, _flags, _timeline, address, _missing = PAGE_HEADER.unpack_from(chunk, at)
        expected = first_address + at
        if found == magic and address == expected and not padding:
            continue
        if found == 0 and not any(chunk[at : at + SHORT_HEADER_BYTES]):
            padding = True
            continue
        raise CorruptSegment(
            f"{name} has a page with magic {found:#06x} and address {format_lsn(Lsn(address))}"
            f" at {format_lsn(Lsn(expected))}" + (", behind its zero padding" if padding else "")
        )
    return padding


def page_fault(
    data: bytes | bytearray | memoryview, at: int, address: Lsn, *, magic: int, timeline: int
) -> tuple[Ending, str] | None:
    """Why a walk cannot read the page at `data[at]`, which should be that of `address`.

    `timeline` is that of the page before: it never falls. ZERO for a page never written or left
    over in a recycled file, which is how an unfinished segment ends.
    """
    found, flags, page_timeline, page_address, _missing = PAGE_HEADER.unpack_from(data, at)
    if found == 0 and not any(data[at : at + SHORT_HEADER_BYTES]):
        return Ending.ZERO, ""
    here = format_lsn(address)
    if found != magic:
        return Ending.BAD, f"page at {here} has magic {found:#06x}"
    if page_address < address and page_address % PAGE_BYTES == 0:
        return Ending.ZERO, ""
    if page_address != address:
        return Ending.BAD, f"page at {here} has the address {format_lsn(Lsn(page_address))}"
    if flags & ~KNOWN_FLAGS or bool(flags & LONG_HEADER) != (at == 0):
        return Ending.BAD, f"page at {here} has flags {flags:#06x}"
    if page_timeline < timeline:
        return Ending.BAD, f"page at {here} is of timeline {page_timeline}, behind one of {timeline}"
    return None
