"""Walk one stretch of WAL for what it does to watched files.

Rules:
- A segment whose bytes name no watched file is walked for the ends of transactions only: hopping
  over a record costs a fraction of handing it out.
- A file's name may be cut by a page header, so page borders are looked at too; and a record that
  starts in one segment may name its file in the next.
- Checksums are not looked at: the bytes are those that were scanned and hashed when archived.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from walarchiver.core.lsn import Lsn
from walarchiver.core.scan import Ending
from walarchiver.core.segment import SegmentBytes
from walarchiver.core.touch import Touches, Watch
from walarchiver.core.touches import ENDS, ROWS, TRUNCATE_KINDS, Gatherer
from walarchiver.core.walpage import LONG_HEADER_BYTES, PAGE_BYTES, SHORT_HEADER_BYTES
from walarchiver.core.walreader import Buffer, CrcPolicy, Walk
from walarchiver.errors import CorruptSegment

_NAME_BYTES = 12
_HEADERS_BYTES_MAX = PAGE_BYTES
"""A record's block headers take less (33 of at most 25 bytes)."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """What was found, and where and how it ended."""

    found: Touches
    end: Lsn
    """Where the next record may start."""
    ending: Ending
    problem: str


def walk_stretch(
    first: int,
    last: int,
    pages_of: Callable[[int], Buffer | None],
    *,
    segment_size: SegmentBytes,
    watch: Watch,
    start: Lsn | None = None,
) -> Stretch:
    """The records that start in segments first..last; later ones are read where a record goes on there.

    `start`: where a record starts in `first`; None: with the first that does. Never raises on
    damaged bytes: `ending` is BAD then, and ZERO or OPEN where the WAL ends too early.
    """
    gatherer = Gatherer(watch)
    pattern = _pattern(watch)
    at = start
    for number in range(first, last + 1):
        limit = Lsn((number + 1) * segment_size)
        if at is not None and at >= limit:
            continue
        named = pattern is not None and _names(pattern, number, pages_of)
        walk = Walk(
            _from(number, pages_of),
            segment_size=segment_size,
            start=at,
            stop=limit,
            crc=CrcPolicy.NONE,
            wanted=ENDS | (ROWS if named else TRUNCATE_KINDS),
        )
        for record in walk:
            try:
                gatherer.add(record)
            except CorruptSegment as error:
                walk.refuse(error.message, record)
        at = walk.end if walk.end is not None else limit
        if walk.ending is not Ending.WHOLE:
            return Stretch(gatherer.found, at, walk.ending, walk.problem)
    return Stretch(gatherer.found, at or Lsn((last + 1) * segment_size), Ending.WHOLE, "")


def _from(number: int, pages_of: Callable[[int], Buffer | None]) -> Iterator[tuple[int, Buffer]]:
    while (pages := pages_of(number)) is not None:
        yield number, pages
        number += 1


def _pattern(watch: Watch) -> re.Pattern[bytes] | None:
    """Finds any watched file's name: by its common beginning first, which is quick."""
    groups: dict[bytes, list[bytes]] = {}
    for needle in sorted(watch.needles()):
        groups.setdefault(needle[:8], []).append(needle[8:])
    if not groups:
        return None
    branches = [
        re.escape(head) + b"(?:" + b"|".join(re.escape(tail) for tail in tails) + b")"
        for head, tails in groups.items()
    ]
    return re.compile(b"|".join(branches), re.DOTALL)


def _names(pattern: re.Pattern[bytes], number: int, pages_of: Callable[[int], Buffer | None]) -> bool:
    """Whether a record that starts in segment `number` may name a watched file."""
    pages = pages_of(number)
    if pages is None or pattern.search(pages):
        return True
    following = pages_of(number + 1)
    if following is not None and pattern.search(following[:_HEADERS_BYTES_MAX]):
        return True
    return bool(pattern.search(_borders(pages, following)))


def _borders(pages: Buffer, following: Buffer | None) -> bytes:
    """The bytes on both sides of every page header, headers taken out."""
    around = bytearray()
    for at in range(PAGE_BYTES, len(pages), PAGE_BYTES):
        behind = at + SHORT_HEADER_BYTES
        around += pages[at - _NAME_BYTES : at]
        around += pages[behind : behind + _NAME_BYTES]
    if following is not None:
        around += pages[len(pages) - _NAME_BYTES :]
        around += following[LONG_HEADER_BYTES : LONG_HEADER_BYTES + _NAME_BYTES]
    return bytes(around)
