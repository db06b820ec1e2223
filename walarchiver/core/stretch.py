"""Walk segments of WAL for what they do to watched files.

Rules:
- Where the compiled part is there, it passes the plain stretch of a segment first (`sift.py`); the walk
  begins again at the last record so passed and knows all that is unusual.
- Without it, a segment whose bytes name no watched file is walked for the ends of transactions only:
  hopping over a record costs a fraction of handing it out. A file's name may be cut by a page header, so
  page borders are looked at too; and a record that starts in one segment may name its file in the next.
- Checksums are not looked at: the bytes are those that were scanned and hashed when archived.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from walarchiver.core.lsn import Lsn
from walarchiver.core.scan import Ending
from walarchiver.core.segment import SegmentBytes
from walarchiver.core.sift import Sifted, sift
from walarchiver.core.touch import Touches, Watch
from walarchiver.core.touches import ALWAYS, ROWS, Gatherer
from walarchiver.core.walpage import LONG_HEADER_BYTES, PAGE_BYTES, SHORT_HEADER_BYTES, read_first_page
from walarchiver.core.walreader import Buffer, CrcPolicy, Walk
from walarchiver.errors import CorruptSegment

PagesOf = Callable[[int], Buffer | None]
"""The bytes of segment `number` on the path being walked; None when there is no such file."""

_NAME_BYTES = 12
_HEADERS_BYTES_MAX = PAGE_BYTES
"""A record's block headers take less (33 of at most 25 bytes)."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """What was found, and where and how it ended."""

    found: tuple[Touches, ...]
    """Piece after piece, in WAL order."""
    end: Lsn
    """Where the next record may start."""
    ending: Ending
    problem: str


def walk_stretch(
    first: int,
    last: int,
    pages_of: PagesOf,
    *,
    segment_size: SegmentBytes,
    watch: Watch,
    start: Lsn | None = None,
) -> Stretch:
    """The records that start in segments first..last; later ones are read where a record goes on there.

    `start`: where a record starts in `first`; None: with the first that does. Never raises on
    damaged bytes: `ending` is BAD then, and ZERO or OPEN where the WAL ends too early.
    """
    found: list[Touches] = []
    at = start
    for number in range(first, last + 1):
        if at is not None and at >= (number + 1) * segment_size:
            continue
        pages = pages_of(number)
        passed = None
        if pages is not None:
            passed = sift_segment(number, pages, segment_size=segment_size, watch=watch, start=at)
        one = walk_on(number, pages_of, passed, segment_size=segment_size, watch=watch, start=at)
        found += one.found
        at = one.end
        if one.ending is not Ending.WHOLE:
            return Stretch(tuple(found), at, one.ending, one.problem)
    return Stretch(tuple(found), at or Lsn((last + 1) * segment_size), Ending.WHOLE, "")


def sift_segment(
    number: int, pages: Buffer, *, segment_size: SegmentBytes, watch: Watch, start: Lsn | None = None
) -> Sifted | None:
    """What of a segment the compiled part can pass; None for nothing. Needs no other segment."""
    try:
        identity = read_first_page(pages, name="")
    except CorruptSegment:
        return None  # the walk will say so
    if not identity.segment_size == segment_size == len(pages):
        return None
    return sift(pages, identity, Lsn(number * segment_size), watch, start)


def walk_on(
    number: int,
    pages_of: PagesOf,
    passed: Sifted | None,
    *,
    segment_size: SegmentBytes,
    watch: Watch,
    start: Lsn | None = None,
) -> Stretch:
    """A segment from where it was passed to its end, the last record with what follows of it."""
    limit = Lsn((number + 1) * segment_size)
    gatherer = Gatherer(watch)
    if passed is None:
        pattern = _pattern(watch)
        rows = pattern is not None and _names(pattern, number, pages_of)
    else:
        rows = True
    walk = Walk(
        _from(number, pages_of),
        segment_size=segment_size,
        start=passed.last if passed else start,
        stop=limit,
        crc=CrcPolicy.NONE,
        wanted=ALWAYS | ROWS if rows else ALWAYS,
    )
    for record in walk:
        if passed is not None and record.start == passed.last:
            continue
        try:
            gatherer.add(record)
        except CorruptSegment as error:
            walk.refuse(error.message, record)
    end = walk.end if walk.end is not None else limit
    found = (*(passed.found if passed else ()), gatherer.found)
    return Stretch(found, end, walk.ending, walk.problem)


def _from(number: int, pages_of: PagesOf) -> Iterator[tuple[int, Buffer]]:
    while (pages := pages_of(number)) is not None:
        yield number, pages
        number += 1


def _pattern(watch: Watch) -> re.Pattern[bytes] | None:
    """Finds any watched file's name: by its common beginning first, which is quick."""
    groups: dict[bytes, list[bytes]] = {}
    for needle in sorted(watch.named):
        groups.setdefault(needle[:8], []).append(needle[8:])
    if not groups:
        return None
    branches = [
        re.escape(head) + b"(?:" + b"|".join(re.escape(tail) for tail in tails) + b")"
        for head, tails in groups.items()
    ]
    return re.compile(b"|".join(branches), re.DOTALL)


def _names(pattern: re.Pattern[bytes], number: int, pages_of: PagesOf) -> bool:
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
