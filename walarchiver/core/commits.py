"""The records of WAL segments, and what each segment tells as a whole.

Rules:
- A scan covers the records that *start* in one segment; later files are asked for only while the
  last of them goes on there.
- Where the compiled part is there, it passes the plain stretch of the segment first (`skim.py`);
  the walk begins again at the last record so passed and knows all that is unusual.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

from walarchiver.core.decoding import DECODED, decode
from walarchiver.core.lsn import Lsn
from walarchiver.core.scan import Ending, Event, SegmentScan
from walarchiver.core.segment import Segment, SegmentBytes
from walarchiver.core.skim import CRC_WHOLE_SCAN, Skimmed, skim
from walarchiver.core.tally import Tally, net_prepared
from walarchiver.core.walpage import SegmentIdentity, read_first_page
from walarchiver.core.walreader import Buffer, CrcPolicy, Walk
from walarchiver.errors import CorruptSegment

PagesOf = Callable[[int], Buffer | None]
"""The bytes of segment `number` on the path being walked; None when there is no such file."""


def _from(number: int, pages_of: PagesOf) -> Iterator[tuple[int, Buffer]]:
    """Segments of a path from `number` on, each fetched when the walk gets there."""
    while (pages := pages_of(number)) is not None:
        yield number, pages
        number += 1


def records_from(
    start: Lsn,
    pages_of: PagesOf,
    *,
    segment_size: SegmentBytes,
    stop: Lsn | None = None,
    crc: CrcPolicy = CrcPolicy.ALL,
    wanted: frozenset[int] | None = None,
) -> Walk:
    """Every record of a path that starts at or after `start`, where a record must start."""
    segments = _from(start // segment_size, pages_of)
    return Walk(segments, segment_size=segment_size, start=start, stop=stop, crc=crc, wanted=wanted)


def next_record(lsn: Lsn, pages_of: PagesOf, *, segment_size: SegmentBytes) -> Lsn | None:
    """Start of the first whole record at or after `lsn`; None when the WAL at hand has none.

    `lsn` may be any position. Checksums are not looked at.
    """
    segments = _from(lsn // segment_size, pages_of)
    before = Walk(segments, segment_size=segment_size, stop=lsn, crc=CrcPolicy.NONE, wanted=frozenset())
    deque(before, maxlen=0)
    if before.end is None or before.ending is not Ending.WHOLE:
        return None
    after = records_from(before.end, pages_of, segment_size=segment_size, crc=CrcPolicy.NONE)
    return next((record.start for record in after), None)


def scan_segment(
    segment: Segment,
    pages_of: PagesOf,
    *,
    segment_size: SegmentBytes,
    crc: CrcPolicy = CRC_WHOLE_SCAN,
    keep_events: bool = True,
    seen: Callable[[int, int], None] = lambda _low, _high: None,
) -> tuple[SegmentScan, tuple[Event, ...]]:
    """The records that start in `segment`, summed up; and, if kept, every event among them in LSN order.

    `pages_of(segment.number)` must not be None. Never raises on damaged bytes: the scan's
    `ending` is BAD and its `problem` says why. `seen`: see `skim`.
    """
    pages = pages_of(segment.number)
    assert pages is not None
    identity, problem = _identity(segment, pages, segment.name(segment_size))
    passed = None
    if identity is not None and identity.segment_size == segment_size == len(pages):
        passed = skim(pages, segment, identity, crc, keep_events=keep_events, seen=seen)
    skimmed, tally = passed or (None, Tally(keep_events))
    walk = Walk(
        () if problem else _from(segment.number, pages_of),
        segment_size=segment_size,
        start=skimmed.last if skimmed else None,
        stop=segment.end(segment_size),
        crc=crc,
        wanted=DECODED,
    )
    for record in walk:
        if skimmed and record.start == skimmed.last:
            continue
        try:
            tally.add(decode(record))
        except CorruptSegment as error:
            walk.refuse(error.message, record)
    if problem:
        walk.refuse(problem)
    return _summary(segment, segment.start(segment_size), walk, tally, skimmed), tuple(tally.events)


def _identity(segment: Segment, pages: Buffer, name: str) -> tuple[SegmentIdentity | None, str]:
    """What the first page says, if it can be read; and the problem, if it is of a newer timeline."""
    try:
        found = read_first_page(pages, name=name)
    except CorruptSegment:
        return None, ""  # the walk will say so itself
    if found.timeline <= segment.timeline:
        return found, ""
    return None, f"{name} begins with a page of timeline {found.timeline}, newer than its name says"


def _summary(segment: Segment, start: Lsn, walk: Walk, tally: Tally, skimmed: Skimmed | None) -> SegmentScan:
    sums = tally.sums
    return SegmentScan(
        segment=segment,
        system=walk.identity.system if walk.identity else 0,
        magic=walk.identity.magic if walk.identity else 0,
        ending=walk.ending,
        problem=walk.problem,
        first=skimmed.first if skimmed else walk.first,
        first_prev=skimmed.first_prev if skimmed else walk.first_prev,
        last=walk.last,
        end=walk.end if walk.end is not None else start,
        records=walk.records + (skimmed.records - 1 if skimmed else 0),
        commits=sums.commits,
        aborts=sums.aborts,
        prepares=sums.prepares,
        min_time=sums.min_time,
        max_time=sums.max_time,
        first_event=sums.first,
        last_event=sums.last,
        last_commit=sums.last_commit,
        backward_us=sums.backward_us,
        restore_points=tuple(tally.restore_points),
        checkpoints=tuple(tally.checkpoints),
        parameter_changes=tuple(tally.parameter_changes),
        prepared=net_prepared(tally.prepared),
        switched=walk.switched,
        overwritten=tuple(walk.overwritten),
        min_xid=sums.min_xid,
        max_xid=sums.max_xid,
    )
