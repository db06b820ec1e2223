"""Scanner: walks a segment while it is being archived, and makes the ledger's `scan` record of it.

Rules:
- It looks at the very bytes that were digested: kept in memory, or for a segment beyond KEPT_BYTES_MAX
  mapped by a process of its own, which compares the digest (`mappedscan.py`).
- Only the last record may go on in the next file, which PostgreSQL may still be writing: what is
  there counts if it completes the record, checksum included, and otherwise means "not known yet". Such a
  segment is looked at once more when the next one is archived, if it still lies beside it, unchanged.
- The next file is looked at in the same walk, and once more only if it did not hold the record yet.
- Without the compiled part nothing is walked here: a plain walk costs several times what compressing does.
  Plans open such segments themselves, and `catalog scan` makes up for what is missing.
- A scan that cannot be made stops nothing: the segment is archived without one, and that is told.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Protocol

from blake3 import blake3

from walarchiver.core.commits import PagesOf, scan_segment
from walarchiver.core.scan import Ending, SegmentScan
from walarchiver.core.segment import Segment, SegmentBytes, SegmentFile
from walarchiver.core.skim import COMPILED
from walarchiver.core.walreader import Buffer
from walarchiver.format.codec import record_to_json
from walarchiver.format.scans import ScanRecord, scan_record
from walarchiver.log import get_log
from walarchiver.mappedscan import Job, following, scan_apart
from walarchiver.offered import Offered, open_plainly

log = get_log("scanner")

KEPT_BYTES_MAX = 64 << 20
"""Larger segments are not kept in memory to be scanned."""
OPEN_MAX = 4
"""So many segments wait for the next one; there is one, unless archiving is out of order."""
NEXT_BYTES = 1 << 20
"""How far a record is followed into the next file."""
LATE_BYTES = 64 << 20
"""And once that file is archived, too, where it is not kept."""

Scanned = SegmentScan | ScanRecord
"""What is known of a segment before its last record was followed, or all that will be."""


class Scans(Protocol):
    """Walks the segments of one cluster while they are archived. Thread-safe; calls block."""

    keeps: ClassVar[bool]
    """The segments' content has to be kept in memory for it."""

    def late(self, offered: Offered) -> ScanRecord | None:
        """The record of the segment before `offered`, if it had to wait for this one."""

    def scan(self, offered: Offered) -> Scanned | None:
        """What a whole segment that was read tells. None when there is nothing to record."""

    def waits(self, scan: Scanned, /) -> bool:
        """The last record of the segment is not whole yet: its content is looked at once more."""

    def record(self, scan: Scanned, offered: Offered, /) -> ScanRecord | None:
        """The ledger's record; None when the last record of the segment is still not whole."""


def scanner_for(size: SegmentBytes) -> Scans | None:
    """The scanner of segments of this size; None where they are not walked while they are archived."""
    if not COMPILED:
        return None
    return Scanner(size) if size <= KEPT_BYTES_MAX else MappingScanner(size)


@dataclass(slots=True)
class Waiting:
    """Segments whose last record could not be followed yet, oldest first, with their digests."""

    digests: dict[Segment, str] = field(default_factory=dict)

    def add(self, segment: Segment, digest: str) -> None:
        self.digests[segment] = digest
        while len(self.digests) > OPEN_MAX:
            self.digests.pop(next(iter(self.digests)), None)

    def take(self, segment: Segment) -> str | None:
        return self.digests.pop(segment, None)


@dataclass(slots=True)
class Scanner:
    """Walks segments whose content was kept."""

    keeps: ClassVar[bool] = True
    size: SegmentBytes
    _open: Waiting = field(default_factory=Waiting)

    def scan(self, offered: Offered) -> SegmentScan | None:
        """What the segment tells: OPEN when its last record goes on in a file that does not hold it yet.

        `offered` is a whole segment that was read and kept. None when that failed, which is logged.
        """
        assert isinstance(offered.file, SegmentFile)
        segment = offered.file.segment
        try:
            return self._followed(segment, offered)
        except Exception as error:  # noqa: BLE001 - whatever it is, archiving goes on
            log.error("scan failed", segment=segment.name(self.size), reason=repr(error))
            return None

    def waits(self, scan: Scanned, /) -> bool:
        return isinstance(scan, SegmentScan) and scan.ending is Ending.OPEN

    def record(self, scan: Scanned, offered: Offered, /) -> ScanRecord | None:
        """The ledger's record, once the last record is followed into the next file beside `offered`.

        None when the scan is not final, or has no spelling; that is logged.
        """
        assert isinstance(scan, SegmentScan)
        digest = offered.hasher.hexdigest()
        try:
            if scan.ending is Ending.OPEN:
                scan = self._followed(scan.segment, offered)
            if scan.ending is Ending.OPEN:
                self._open.add(scan.segment, digest)
                return None
            return self._record(scan, digest)
        except Exception as error:  # noqa: BLE001 - whatever it is, archiving goes on
            log.error("scan failed", segment=scan.segment.name(self.size), reason=repr(error))
            return None

    def late(self, offered: Offered) -> ScanRecord | None:
        """The record of the segment before `offered`, if it had to wait for this one."""
        assert isinstance(offered.file, SegmentFile)
        segment = offered.file.segment
        before = Segment(segment.timeline, segment.number - 1)
        digest = self._open.take(before)
        if digest is None:
            return None
        try:
            pages = (offered.path.parent / before.name(self.size)).read_bytes()
            if blake3(pages).hexdigest() != digest:
                return None
            files: dict[int, Buffer] = {before.number: pages, segment.number: _content(offered)}
            return self._record(self._walked(before, files.get), digest)
        except OSError:
            return None  # recycled already
        except Exception as error:  # noqa: BLE001 - whatever it is, archiving goes on
            log.error("scan failed", segment=before.name(self.size), reason=repr(error))
            return None

    def _record(self, scan: SegmentScan, digest: str) -> ScanRecord | None:
        """Raises MalformedObject for what has no spelling."""
        name = scan.segment.name(self.size)
        record = scan_record(scan, name=name, digest=digest)
        if record is None:
            log.info("segment not scanned", segment=name, ending=scan.ending.value)
            return None
        record_to_json(record)
        return _told(record)

    def _walked(self, segment: Segment, pages_of: PagesOf) -> SegmentScan:
        return scan_segment(segment, pages_of, segment_size=self.size, keep_events=False)[0]

    def _followed(self, segment: Segment, offered: Offered) -> SegmentScan:
        """The scan, with what the next file tells of the last record; OPEN where that completes nothing."""
        behind = Segment(segment.timeline, segment.number + 1)
        asked = False

        def pages_of(number: int) -> Buffer | None:
            nonlocal asked
            if number == segment.number:
                return _content(offered)
            asked = True
            if number != behind.number or offered.page is None:
                return None
            path = offered.path.parent / behind.name(self.size)
            return following(path, behind.start(self.size), offered.page.system, NEXT_BYTES)

        scan = self._walked(segment, pages_of)
        return replace(scan, ending=Ending.OPEN) if asked and scan.ending is not Ending.WHOLE else scan


@dataclass(slots=True)
class MappingScanner:
    """Has segments walked whose content was not kept."""

    keeps: ClassVar[bool] = False
    size: SegmentBytes
    _open: Waiting = field(default_factory=Waiting)

    def scan(self, offered: Offered) -> ScanRecord | None:
        """The record, followed into the next file as far as that is written; None also when it failed."""
        assert isinstance(offered.file, SegmentFile)
        fd, digest = offered.handle.fileno(), offered.hasher.hexdigest()
        return self._asked(offered.file.segment, fd, digest, offered.path.parent, NEXT_BYTES)

    def waits(self, _scan: Scanned, /) -> bool:
        return False

    def record(self, scan: Scanned, _offered: Offered, /) -> ScanRecord | None:
        assert isinstance(scan, ScanRecord)
        return scan

    def late(self, offered: Offered) -> ScanRecord | None:
        """As `Scanner.late`, if the record ends within LATE_BYTES of this file."""
        assert isinstance(offered.file, SegmentFile)
        before = Segment(offered.file.segment.timeline, offered.file.segment.number - 1)
        digest = self._open.take(before)
        if digest is None:
            return None
        try:
            with open_plainly(offered.path.parent / before.name(self.size)) as file:
                return self._asked(before, file.fileno(), digest, offered.path.parent, LATE_BYTES)
        except OSError:
            return None  # recycled already
        finally:
            self._open.take(before)  # once is enough

    def _asked(
        self, segment: Segment, fd: int, digest: str, folder: Path, next_bytes: int
    ) -> ScanRecord | None:
        name = segment.name(self.size)
        following = folder / Segment(segment.timeline, segment.number + 1).name(self.size)
        try:
            answer = scan_apart(Job(fd, name, self.size, digest, str(following), next_bytes))
        except Exception as error:  # noqa: BLE001 - whatever it is, archiving goes on
            log.error("scan failed", segment=name, reason=repr(error))
            return None
        if answer.waits:
            self._open.add(segment, digest)
        return None if answer.record is None else _told(answer.record)


def _told(record: ScanRecord) -> ScanRecord:
    if record.ending == Ending.BAD.value:
        log.error("archived WAL cannot be followed", segment=record.name, problem=record.problem)
    return record


def _content(offered: Offered) -> memoryview:
    assert offered.kept is not None
    return offered.kept
