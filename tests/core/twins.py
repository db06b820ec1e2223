"""Scans made twice: with the compiled part, and without."""

from __future__ import annotations

from unittest import mock

from walarchiver.core import commits
from walarchiver.core.commits import PagesOf, scan_segment
from walarchiver.core.scan import SegmentScan
from walarchiver.core.segment import Segment, SegmentBytes
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
