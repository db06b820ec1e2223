"""The fast way through a segment's plain stretch, where the compiled part is there.

Rules:
- The compiled part (_walskim.c) goes on while everything is as it must be, and stops before the
  first thing that is not. It never judges: `commits.py` walks on from its last record with
  `walreader.Walk`, which is the one description of what WAL is.
- With or without it a scan is the same, to the last field.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from walarchiver.core.decoding import decode
from walarchiver.core.lsn import Lsn
from walarchiver.core.moment import POSTGRES_EPOCH_US, CommitTime
from walarchiver.core.scan import Event
from walarchiver.core.segment import Segment
from walarchiver.core.tally import EventSums, Tally
from walarchiver.core.walpage import LONG_HEADER_BYTES, PAGE_BYTES, SHORT_HEADER_BYTES, SegmentIdentity
from walarchiver.core.walreader import Buffer, CrcPolicy
from walarchiver.core.walrecord import RECORD_HEADER, RECORD_HEADER_BYTES, WalRecord
from walarchiver.errors import CorruptSegment

try:
    from walarchiver.core import _walskim
except ImportError:
    COMPILED = False
else:
    COMPILED = True
"""Whether the compiled part is in use."""

CRC_WHOLE_SCAN = CrcPolicy.ALL if COMPILED else CrcPolicy.INTERESTING
"""As much as can be afforded of every record of a segment."""

_CRC = {CrcPolicy.NONE: 0, CrcPolicy.INTERESTING: 1, CrcPolicy.ALL: 2}


SLICE_BYTES = 64 << 20
"""So much is passed at once; `seen` hears of each slice, and may let go of its memory."""


@dataclass(frozen=True, slots=True)
class Skimmed:
    """The records of a segment that were passed; the last of them is to be walked once more."""

    records: int
    first: Lsn
    first_prev: Lsn
    last: Lsn


def skim(
    pages: Buffer,
    segment: Segment,
    identity: SegmentIdentity,
    crc: CrcPolicy,
    *,
    keep_events: bool,
    seen: Callable[[int, int], None] = lambda _low, _high: None,
) -> tuple[Skimmed, Tally] | None:
    """What could be passed at once of a whole segment; None for nothing.

    `seen(low, high)`: pages[low:high] will not be looked at again before the walk.
    """
    if not COMPILED:
        return None
    size = identity.segment_size
    base = segment.start(size)
    reading = Reading(pages, base, identity)
    tally = Tally(keep_events)
    at = last = timeline = records = first = first_prev = 0
    for low in range(0, size, SLICE_BYTES):
        high = min(low + SLICE_BYTES, size)
        state = (at, last, timeline)
        found = _walskim.skim(pages, base, base + high, identity.magic, _CRC[crc], keep_events, *state)
        if found is None:
            break
        at, timeline, passed, slice_first, prev, last = found[:6]
        if not records:
            first, first_prev = slice_first, prev
        records += passed
        try:
            reading.add(tally, found)
        except CorruptSegment:
            return None  # the walk will stop there, and say so
        seen(low, high - PAGE_BYTES)
        if at < high:
            break
    if not records:
        return None
    return Skimmed(records, Lsn(base + first), Lsn(first_prev), Lsn(base + last)), tally


@dataclass(frozen=True, slots=True)
class Reading:
    """Records that are known to lie whole in one segment, by their offsets."""

    pages: Buffer
    base: Lsn
    identity: SegmentIdentity

    def add(self, tally: Tally, found: tuple[Any, ...]) -> None:
        """Decode what _walskim.skim left to be decoded. Raises CorruptSegment."""
        commits, aborts, prepares, low, high, _time, backward = found[6:13]
        events, first_event, last_event, last_commit, kept, min_xid, max_xid = found[13:]
        rare = [decode(self.record(offset)) for offset in kept]
        for one in rare:
            tally.list(one)
        if events:
            sums = EventSums(
                commits=commits,
                aborts=aborts,
                prepares=prepares,
                min_time=CommitTime(low + POSTGRES_EPOCH_US),
                max_time=CommitTime(high + POSTGRES_EPOCH_US),
                backward_us=backward,
                first=self.event(first_event),
                last=self.event(last_event),
                last_commit=self.event(last_commit) if commits else None,
                min_xid=min_xid if min_xid <= max_xid else None,
                max_xid=max_xid if min_xid <= max_xid else None,
            )
            for one in rare:
                if isinstance(one, Event):
                    sums.end_of(one)
            tally.sums = tally.sums.followed_by(sums)

    def record(self, offset: int) -> WalRecord:
        data, at = self.pages, offset
        total = int.from_bytes(data[at : at + 4], "little")
        room = PAGE_BYTES - at % PAGE_BYTES
        raw = bytearray(data[at : at + min(total, room)])
        at += len(raw)
        while len(raw) < total:
            at += SHORT_HEADER_BYTES if at else LONG_HEADER_BYTES
            piece = data[at : at + min(total - len(raw), PAGE_BYTES - SHORT_HEADER_BYTES)]
            raw += piece
            at += len(piece)
        _total, xid, prev, kind, _crc = RECORD_HEADER.unpack_from(raw)
        end = self.base + at + -at % 8  # a switch, which ends elsewhere, is not decoded
        body = bytes(raw[RECORD_HEADER_BYTES:])
        major = self.identity.major
        start = Lsn(self.base + offset)
        return WalRecord(start, Lsn(end), total, xid, Lsn(prev), kind >> 8, kind & 0xFF, body, major)

    def event(self, offset: int) -> Event:
        found = decode(self.record(offset))
        assert isinstance(found, Event)
        return found
