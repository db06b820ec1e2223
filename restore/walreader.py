"""WalReader: the plain bytes of archived WAL, and what walking them tells.

Rules:
- Bytes are handed out only after length and digest equal what the ledger recorded.
- Opened segments live in unlinked temporary files that are mapped, so memory does not grow with
  the segment size; only a few are kept.
- A scan that the ledger has is taken from there; events are always read from the WAL itself.
- A scan is remembered under the digests of the files it was read from: the same bytes give the
  same scan, on whichever path they are met.
"""

from __future__ import annotations

import mmap
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path

from restore.core.model import WalKnowledge
from restore.plainfile import write_plain
from restore.samples import Samples
from walarchiver.catalog import Catalog
from walarchiver.core.commits import next_record, scan_segment
from walarchiver.core.history import TimelineHistory
from walarchiver.core.lsn import Lsn
from walarchiver.core.scan import Ending, Event, SegmentScan
from walarchiver.core.segment import Segment, SegmentBytes
from walarchiver.errors import Transient
from walarchiver.format.records import WalRecord
from walarchiver.format.scans import segment_scan
from walarchiver.repository import Repository

TOLD_MAX = 4096
"""Recorded scans kept in memory."""


class WalReader:
    """Reads and walks the WAL of one cluster. Thread-safe; calls block."""

    def __init__(
        self,
        *,
        repository: Repository,
        system: str,
        catalog: Catalog,
        segment_size: SegmentBytes,
        spool: Path | None = None,
        kept: int = 6,
        progress: Callable[[Segment], None] = lambda _segment: None,
    ) -> None:
        self._repository = repository
        self._system = system
        self._catalog = catalog
        self._size = segment_size
        self._spool = spool
        self._kept = kept
        self._progress = progress
        self._lock = threading.RLock()
        self._open: OrderedDict[str, mmap.mmap] = OrderedDict()
        self._events: OrderedDict[str, Sequence[Event]] = OrderedDict()
        self._scans: dict[str, SegmentScan] = {}
        self._told: OrderedDict[Segment, tuple[Lsn, SegmentScan]] = OrderedDict()
        """Of recorded scans: where the last record ends, and the scan."""

    def close(self) -> None:
        with self._lock:
            self._open.clear()  # mappings end with their last view
            self._events.clear()

    def segment(self, segment: Segment) -> mmap.mmap | None:
        """The plain bytes of a complete segment; None when the archive has no record of it."""
        record = self._catalog.file(segment.name(self._size))
        if record is None:
            return None
        with self._lock:
            found = self._open.get(record.name)
            if found is not None:
                self._open.move_to_end(record.name)
                return found
            self._progress(segment)
            try:
                with tempfile.TemporaryFile(dir=self._spool) as out:
                    write_plain(self._repository, self._system, record, out)
                    out.flush()
                    mapped = mmap.mmap(out.fileno(), record.len, access=mmap.ACCESS_READ)
            except OSError as error:
                raise Transient(
                    f"{record.name} cannot be laid out to be read: {error.strerror or error}",
                    hint="Free space where temporary files go, or name another folder in TMPDIR.",
                ) from error
            self._open[record.name] = mapped
            while len(self._open) > self._kept:
                self._open.popitem(last=False)
            return mapped

    # --- walking -------------------------------------------------------------------------------

    def on_path(self, path: TimelineHistory, number: int) -> Segment:
        """The file that a path reads for an address."""
        return Segment(path.timeline_of_segment(number, self._size), number)

    def _cache_key(self, path: TimelineHistory, number: int) -> str:
        """Names the bytes a scan of `number` can depend on: the file, and the one behind it."""
        digests = []
        for position in (number, number + 1):
            record = self._catalog.file(self.on_path(path, position).name(self._size))
            digests.append(record.digest if record else "-")
        return "+".join(digests)

    def _walk(self, path: TimelineHistory, number: int) -> tuple[SegmentScan, Sequence[Event]]:
        return scan_segment(self.on_path(path, number), self._pages_of(path), segment_size=self._size)

    def _pages_of(self, path: TimelineHistory) -> Callable[[int], memoryview | None]:
        def pages(number: int) -> memoryview | None:
            mapped = self.segment(self.on_path(path, number))
            return None if mapped is None else memoryview(mapped)

        return pages

    def recorded(self, path: TimelineHistory, number: int) -> SegmentScan | None:
        """The scan that the ledger has of a segment, if it holds on this path.

        Its last record may end in later files: they must be archived, and the path may not leave the
        segment's timeline before that end.
        """
        segment = self.on_path(path, number)
        told = self._told_of(segment)
        if told is None:
            return None
        end, scan = told
        left = path.end(segment.timeline)
        if left is not None and end > left and end > segment.end(self._size):
            return None
        for later in range(number + 1, -(-end // self._size)):
            if self._catalog.file(self.on_path(path, later).name(self._size)) is None:
                return None
        return scan

    def _told_of(self, segment: Segment) -> tuple[Lsn, SegmentScan] | None:
        """What the ledger says of the file in force, remembered: paths have most segments in common."""
        with self._lock:
            if segment in self._told:
                return self._told[segment]
        file = self._catalog.file(segment.name(self._size))
        record = self._catalog.scan(file.name, file.digest) if isinstance(file, WalRecord) else None
        if record is None or not isinstance(file, WalRecord):
            return None
        scan = segment_scan(record, segment, system=int(file.page.system), magic=file.page.magic)
        if scan is None:
            return None
        with self._lock:
            self._told[segment] = record.end, scan
            while len(self._told) > TOLD_MAX:
                self._told.popitem(last=False)
        return record.end, scan

    def scan(self, path: TimelineHistory, number: int) -> SegmentScan:
        """The scan of segment `number` as found on a path."""
        recorded = self.recorded(path, number)
        if recorded is not None:
            return recorded
        with self._lock:
            key = self._cache_key(path, number)
            if key in self._scans:
                return self._scans[key]
            scan, events = self._walk(path, number)
            if scan.ending is not Ending.OPEN:  # an open one may go on in files still to come
                self._scans[key] = scan
                self._remember_events(key, events)
            return scan

    def _remember_events(self, key: str, events: Sequence[Event]) -> None:
        self._events[key] = events
        while len(self._events) > self._kept:
            self._events.popitem(last=False)

    def events(self, path: TimelineHistory, number: int) -> Sequence[Event]:
        """Every event that starts in segment `number` on a path, in LSN order."""
        with self._lock:
            key = self._cache_key(path, number)
            if key in self._events:
                return self._events[key]
            scan, events = self._walk(path, number)
            if scan.ending is not Ending.OPEN:
                self._remember_events(key, events)
            return events

    def last_record(self, path: TimelineHistory, number: int) -> Lsn | None:
        """Start of the last whole record that starts in the segment."""
        return self.scan(path, number).last

    def next_record(self, path: TimelineHistory, lsn: Lsn) -> Lsn | None:
        """Start of the first record at or after `lsn`; None past the end of what is archived."""
        with self._lock:
            return next_record(lsn, self._pages_of(path), segment_size=self._size)

    def knowledge(self) -> WalKnowledge:
        """The planner's view of this reader."""
        return WalKnowledge(
            scan=self.scan,
            events=self.events,
            last_record=self.last_record,
            next_record=self.next_record,
            index=self._catalog.chronology(int(self._system), self._size),
            samples=Samples(self._catalog),
        )
