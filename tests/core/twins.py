"""Scans and walks made twice: with the compiled part, and without."""

from __future__ import annotations

from collections.abc import Iterable
from unittest import mock

from walarchiver.core import commits, stretch
from walarchiver.core.commits import PagesOf, scan_segment
from walarchiver.core.scan import SegmentScan
from walarchiver.core.segment import Segment, SegmentBytes
from walarchiver.core.stretch import Stretch, walk_stretch
from walarchiver.core.touch import Ended, Stopped, Touch, Touches, Watch
from walarchiver.core.walreader import Buffer, CrcPolicy


def scanned_plainly(
    segment: Segment, pages_of: PagesOf, *, segment_size: SegmentBytes, crc: CrcPolicy
) -> tuple[SegmentScan, object]:
    with mock.patch.object(commits, "skim", return_value=None):
        return scan_segment(segment, pages_of, segment_size=segment_size, crc=crc)


def scanned_alike(
    segments: dict[int, bytes],
    *,
    timeline: int = 1,
    segment_size: SegmentBytes | None = None,
    crc: CrcPolicy = CrcPolicy.INTERESTING,
) -> int:
    """Scan every segment both ways, kept events and not; how many records the scans counted."""
    records = 0
    size = segment_size or SegmentBytes(1 << 20)
    pages: dict[int, Buffer] = dict(segments)
    for number in segments:
        segment = Segment(timeline, number)
        plain, events = scanned_plainly(segment, pages.get, segment_size=size, crc=crc)
        fast, fast_events = scan_segment(segment, pages.get, segment_size=size, crc=crc)
        assert fast == plain
        assert fast_events == events
        sums, none = scan_segment(segment, pages.get, segment_size=size, crc=crc, keep_events=False)
        assert (sums, none) == (plain, ())
        records += plain.records
    return records


def joined(pieces: Iterable[Touches]) -> Touches:
    """Pieces as one, without columns of rows: the same whichever way the WAL was walked."""
    whole = Touches()
    ends: list[Ended | Stopped] = []
    for one in pieces:
        touches = [(xid, one.rows.touch(index)) for index, xid in enumerate(one.rows.xids)]
        for xid, touch in (*touches, *one.touches.items()):
            whole.touches.setdefault(xid, Touch()).go_on(touch)
        ends += [*one.ends, *one.bare.of(set(one.bare.xids))]
        whole.next_xids += one.next_xids
        whole.remapped += one.remapped
    whole.ends = sorted(ends, key=lambda end: end.lsn)
    for touch in whole.touches.values():
        copies: dict[tuple[int, object], int] = {}
        for lsn, file, count in touch.copies:
            copies[lsn, file] = copies.get((lsn, file), 0) + count
        touch.copies = [(lsn, file, count) for (lsn, file), count in copies.items() if count]  # type: ignore[misc]
        touch.copies.sort()
        touch.fresh = {file: count for file, count in touch.fresh.items() if count}
    return whole


def walked_alike(
    segments: dict[int, bytes], watch: Watch, *, segment_size: SegmentBytes | None = None
) -> tuple[Stretch, Touches]:
    """Walk the segments both ways for what they do to watched files; how that went, and what was found."""
    size = segment_size or SegmentBytes(1 << 20)
    pages: dict[int, Buffer] = dict(segments)
    first, last = min(segments), max(segments)
    fast = walk_stretch(first, last, pages.get, segment_size=size, watch=watch)
    with mock.patch.object(stretch, "sift_segment", return_value=None):
        plain = walk_stretch(first, last, pages.get, segment_size=size, watch=watch)
    assert (fast.end, fast.ending, fast.problem) == (plain.end, plain.ending, plain.problem)
    found = joined(plain.found)
    assert joined(fast.found) == found
    return fast, found
