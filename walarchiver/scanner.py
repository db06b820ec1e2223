"""Scanner: walks a segment while it is being archived, and makes the ledger's `scan` record of it.

Rules:
- It looks at the very bytes that were digested, never at the file again.
- Only the last record may go on in the next file, which PostgreSQL may still be writing: what is
  there counts if it completes the record, checksum included, and otherwise means "not known yet". Such a
  segment is looked at once more when the next one is archived, if it still lies beside it, unchanged.
- Without the compiled part, and beyond SCANNED_BYTES_MAX, nothing is walked here: a plain walk costs
  several times what compressing does, and a whole segment has to lie in memory. Plans open such
  segments themselves, and `catalog scan` makes up for what is missing.
- A scan that cannot be made stops nothing: the segment is archived without one, and that is told.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from blake3 import blake3

from walarchiver.core.commits import scan_segment
from walarchiver.core.scan import Ending, SegmentScan
from walarchiver.core.segment import Segment, SegmentBytes, SegmentFile
from walarchiver.core.skim import COMPILED
from walarchiver.core.walpage import SegmentIdentity, read_first_page
from walarchiver.errors import CorruptSegment
from walarchiver.format.codec import record_to_json
from walarchiver.format.scans import ScanRecord, scan_record
from walarchiver.log import get_log
from walarchiver.offered import Offered

log = get_log("scanner")

SCANNED_BYTES_MAX = 64 << 20
OPEN_MAX = 4
"""So many segments wait for the next one; there is one, unless archiving is out of order."""
NEXT_BYTES = 1 << 20
"""How far a record is followed into the next file."""


def scans_while_archiving(size: SegmentBytes) -> bool:
    """Whether segments of this size are walked while they are archived."""
    return COMPILED and size <= SCANNED_BYTES_MAX


def scanner_for(size: SegmentBytes) -> Scanner | None:
    """The scanner of segments of this size; None where they are not walked while they are archived."""
    return Scanner(size) if scans_while_archiving(size) else None


@dataclass(slots=True)
class Scanner:
    """Walks the segments of one cluster. Thread-safe; calls block."""

    size: SegmentBytes
    _open: dict[Segment, str] = field(default_factory=dict)
    """Digests of segments whose last record could not be followed yet, oldest first."""

    def scan(self, offered: Offered) -> SegmentScan | None:
        """What the segment alone tells: OPEN when its last record goes on in the next one.

        `offered` is a whole segment that was read and kept. None when that failed, which is logged.
        """
        assert isinstance(offered.file, SegmentFile)
        segment = offered.file.segment
        try:
            return self._walked(segment, {segment.number: _content(offered)})
        except Exception as error:  # noqa: BLE001 - whatever it is, archiving goes on
            log.error("scan failed", segment=segment.name(self.size), reason=repr(error))
            return None

    def record(self, scan: SegmentScan, offered: Offered) -> ScanRecord | None:
        """The ledger's record, once the last record is followed into the next file beside `offered`.

        None when the scan is not final, or has no spelling; that is logged.
        """
        digest = offered.hasher.hexdigest()
        try:
            if scan.ending is Ending.OPEN:
                scan = self._followed(scan, _content(offered), offered.path.parent)
            if scan.ending is Ending.OPEN:
                self._open[scan.segment] = digest
                while len(self._open) > OPEN_MAX:
                    self._open.pop(next(iter(self._open)), None)
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
        digest = self._open.pop(before, None)
        if digest is None:
            return None
        try:
            pages = (offered.path.parent / before.name(self.size)).read_bytes()
            if blake3(pages).hexdigest() != digest:
                return None
            files: dict[int, bytes | bytearray] = {before.number: pages, segment.number: _content(offered)}
            return self._record(self._walked(before, files), digest)
        except OSError:
            return None  # recycled already
        except Exception as error:  # noqa: BLE001 - whatever it is, archiving goes on
            log.error("scan failed", segment=before.name(self.size), reason=repr(error))
            return None

    def _record(self, scan: SegmentScan, digest: str) -> ScanRecord | None:
        """Raises MalformedObject for what has no spelling."""
        name = scan.segment.name(self.size)
        if scan.ending is Ending.BAD:
            log.error("archived WAL cannot be followed", segment=name, problem=scan.problem)
        record = scan_record(scan, name=name, digest=digest)
        if record is None:
            log.info("segment not scanned", segment=name, ending=scan.ending.value)
        else:
            record_to_json(record)
        return record

    def _walked(self, segment: Segment, files: dict[int, bytes | bytearray]) -> SegmentScan:
        return scan_segment(segment, files.get, segment_size=self.size, keep_events=False)[0]

    def _followed(self, scan: SegmentScan, pages: bytearray, folder: Path) -> SegmentScan:
        """The scan with what the next file tells of the last record; as it was, if that completes nothing."""
        segment = scan.segment
        behind = _beginning(folder / Segment(segment.timeline, segment.number + 1).name(self.size), scan)
        if behind is None:
            return scan
        whole = self._walked(segment, {segment.number: pages, segment.number + 1: behind})
        return whole if whole.ending is Ending.WHOLE else scan


def _content(offered: Offered) -> bytearray:
    assert offered.kept is not None
    return offered.kept


def _beginning(path: Path, scan: SegmentScan) -> bytes | None:
    """The first bytes of the next file, if it is that and no recycled one."""
    try:
        with path.open("rb") as file:
            found = file.read(NEXT_BYTES)
        identity = read_first_page(found, name=path.name)
    except (OSError, CorruptSegment):
        return None
    return found if _goes_on(identity, scan) else None


def _goes_on(identity: SegmentIdentity, scan: SegmentScan) -> bool:
    expected = (scan.segment.number + 1) * identity.segment_size
    return identity.address == expected and identity.system == scan.system
