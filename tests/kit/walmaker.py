"""WAL segments whose page headers are right and whose records are noise: fast, for the archive path.

tests/kit/wal.py makes real records, where a test walks them.
"""

from __future__ import annotations

import functools
import random
import struct

from walarchiver.core.segment import Segment, SegmentBytes
from walarchiver.core.walpage import LONG_HEADER, PAGE_BYTES, PAGE_HEADER

MIB = SegmentBytes(1 << 20)
MAGIC_15 = 0xD110
_LONG_PART = struct.Struct("<QII")


@functools.lru_cache(maxsize=8)
def _noise(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


def make_segment(
    segment: Segment,
    *,
    system: int,
    size: SegmentBytes = MIB,
    seed: int = 0,
    magic: int = MAGIC_15,
    page_timeline: int | None = None,
    used_pages: int | None = None,
    claimed_size: int | None = None,
    address: int | None = None,
) -> bytes:
    """A complete segment; behind `used_pages` it is zero, as after a switch."""
    pages = size // PAGE_BYTES
    used = pages if used_pages is None else used_pages
    data = bytearray(_noise(seed, size)[: used * PAGE_BYTES].ljust(size, b"\0"))
    start = segment.start(size) if address is None else address
    timeline = segment.timeline if page_timeline is None else page_timeline
    for page in range(used):
        flags = LONG_HEADER if page == 0 else 0
        at = page * PAGE_BYTES
        PAGE_HEADER.pack_into(data, at, magic, flags, timeline, start + at, 0)
    _LONG_PART.pack_into(data, 24, system, claimed_size or size, PAGE_BYTES)
    return bytes(data)
