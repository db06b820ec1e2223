"""WAL file names: segment, partial segment, backup history file, timeline history file.

Rules (PostgreSQL src/include/access/xlog_internal.h):
- A segment is TTTTTTTTXXXXXXXXYYYYYYYY, upper-case hex: timeline, then the byte address as
  X * 2**32 + Y * segment size. Y therefore runs up to 2**32 / size - 1 only.
- The segment size is a power of two from 1 MiB to 1 GiB, fixed at initdb.
- Names of different timelines do not sort by address; sort by `number`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NewType, Self

from walarchiver.core.lsn import Lsn
from walarchiver.errors import NotAWalFile

SegmentBytes = NewType("SegmentBytes", int)
"""WAL segment size in bytes."""

MIN_SEGMENT_BYTES = SegmentBytes(1 << 20)
MAX_SEGMENT_BYTES = SegmentBytes(1 << 30)

_SEGMENT = re.compile(r"([0-9A-F]{8})([0-9A-F]{8})([0-9A-F]{8})")
_HISTORY = re.compile(r"([0-9A-F]{8})\.history")
_BACKUP = re.compile(r"([0-9A-F]{24})\.([0-9A-F]{8})\.backup")


def valid_segment_bytes(size: int) -> bool:
    """Whether PostgreSQL could have been initialised with this WAL segment size."""
    return MIN_SEGMENT_BYTES <= size <= MAX_SEGMENT_BYTES and size & (size - 1) == 0


@dataclass(frozen=True, slots=True, order=True)
class Segment:
    """One WAL segment: a timeline, and a position counted in whole segments."""

    timeline: int
    number: int

    @classmethod
    def parse(cls, name: str, size: SegmentBytes) -> Self:
        """The segment that a 24-digit name means. Raises NotAWalFile."""
        match = _SEGMENT.fullmatch(name)
        if match is None:
            raise NotAWalFile(f"{name!r} is not 24 upper-case hex digits")
        timeline, high, low = (int(part, 16) for part in match.groups())
        per_high = 2**32 // size
        if timeline == 0 or low >= per_high:
            raise NotAWalFile(f"{name!r} cannot exist with {size}-byte segments")
        return cls(timeline, high * per_high + low)

    @classmethod
    def at(cls, timeline: int, lsn: int, size: SegmentBytes) -> Self:
        """The segment of `timeline` that holds the byte at `lsn`."""
        return cls(timeline, lsn // size)

    def name(self, size: SegmentBytes) -> str:
        """The 24-digit file name; inverse of `parse`."""
        high, low = divmod(self.number, 2**32 // size)
        return f"{self.timeline:08X}{high:08X}{low:08X}"

    def start(self, size: SegmentBytes) -> Lsn:
        """LSN of the first byte."""
        return Lsn(self.number * size)

    def end(self, size: SegmentBytes) -> Lsn:
        """LSN just behind the last byte."""
        return Lsn((self.number + 1) * size)


@dataclass(frozen=True, slots=True)
class SegmentFile:
    """A complete WAL segment."""

    segment: Segment


@dataclass(frozen=True, slots=True)
class PartialFile:
    """`NAME.partial`: the last, unfinished segment of an old timeline after a promotion."""

    segment: Segment


@dataclass(frozen=True, slots=True)
class BackupHistoryFile:
    """`SEGMENT.OFFSET.backup`: text about a base backup; never needed by recovery."""

    segment: Segment
    offset: int


@dataclass(frozen=True, slots=True)
class HistoryFile:
    """`TTTTTTTT.history`: the ancestry of a timeline."""

    timeline: int


WalFile = SegmentFile | PartialFile | BackupHistoryFile | HistoryFile


def parse_wal_file(name: str, size: SegmentBytes) -> WalFile:
    """Which of the four kinds `name` is. Raises NotAWalFile for anything else."""
    if match := _HISTORY.fullmatch(name):
        timeline = int(match[1], 16)
        if timeline < 2:
            raise NotAWalFile(f"{name!r}: timeline {timeline} has no history file")
        return HistoryFile(timeline)
    if match := _BACKUP.fullmatch(name):
        offset = int(match[2], 16)
        if offset >= size:
            raise NotAWalFile(f"{name!r}: offset lies outside a {size}-byte segment")
        return BackupHistoryFile(Segment.parse(match[1], size), offset)
    if name.endswith(".partial"):
        return PartialFile(Segment.parse(name.removesuffix(".partial"), size))
    return SegmentFile(Segment.parse(name, size))


def wal_file_name(file: WalFile, size: SegmentBytes) -> str:
    """The name of a WAL file; inverse of `parse_wal_file`."""
    match file:
        case SegmentFile(segment):
            return segment.name(size)
        case PartialFile(segment):
            return segment.name(size) + ".partial"
        case BackupHistoryFile(segment, offset):
            return f"{segment.name(size)}.{offset:08X}.backup"
        case HistoryFile(timeline):
            return f"{timeline:08X}.history"
