"""Horizon: remembers when the server's insert position was where, so that idle seconds are provable.

Rules (docs/format.md, `horizon`):
- A sample (server time, insert LSN) proves that a second is over once the archive covers the LSN.
  An LSN inside a page header counts as that page's start: after a switch the insert position
  already stands behind the next page's header and would otherwise never be covered.
- The newest covered sample rides along with the next `wal` entry. On an idle server it is
  appended alone, first after a minute, then at doubling intervals up to ten minutes, and at once
  when a plan asks.
- Memory is bounded: of samples with one LSN only the newest time is kept; too many are thinned.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

from walarchiver.core.lsn import Lsn
from walarchiver.core.moment import CommitTime
from walarchiver.core.segment import SegmentBytes
from walarchiver.core.walpage import settled_lsn
from walarchiver.format.records import HorizonRecord

SAMPLES_MAX = 4096
FIRST_IDLE_S = 60.0
LONGEST_IDLE_S = 600.0


@dataclass(frozen=True, slots=True)
class Sample:
    """The server's clock and insert position at one moment."""

    time: CommitTime
    lsn: Lsn
    timeline: int


class HorizonSamples:
    """Samples not yet proven or newer than what the ledger has. Thread-safe, pure of clocks."""

    def __init__(self, size: SegmentBytes) -> None:
        self._size = size
        self._lock = threading.Lock()
        self._samples: list[Sample] = []
        self._recorded: Sample | None = None
        self._recorded_s = 0.0
        self._interval_s = FIRST_IDLE_S

    def add(self, sample: Sample) -> None:
        """Take a sample; positions never fall while a timeline lasts."""
        with self._lock:
            while (
                self._samples
                and self._samples[-1].lsn >= sample.lsn
                and (self._samples[-1].timeline == sample.timeline)
            ):
                self._samples.pop()
            self._samples.append(sample)
            if len(self._samples) > SAMPLES_MAX:
                self._samples[: SAMPLES_MAX // 2] = self._samples[: SAMPLES_MAX // 2 : 2]

    def newest_covered(self, timeline: int, end: Lsn) -> HorizonRecord | None:
        """The newest sample that WAL up to `end` proves, when it is newer than the recorded one."""
        with self._lock:
            found = None
            for sample in self._samples:
                if sample.timeline == timeline and settled_lsn(sample.lsn, self._size) <= end:
                    found = sample
            if found is None or (self._recorded is not None and found.time <= self._recorded.time):
                return None
            return HorizonRecord(time=found.time, lsn=found.lsn, timeline=found.timeline)

    def recorded(self, record: HorizonRecord, now_s: float, *, alone: bool) -> None:
        """A sample is in the ledger; `alone` when no WAL came with it (the server is idle)."""
        with self._lock:
            if self._recorded is not None and record.time <= self._recorded.time:
                return  # a newer one came first
            self._recorded = Sample(record.time, record.lsn, record.timeline)
            self._recorded_s = now_s
            self._interval_s = min(LONGEST_IDLE_S, self._interval_s * 2) if alone else FIRST_IDLE_S
            self._samples = [kept for kept in self._samples if kept.time > record.time]

    def due(self, now_s: float) -> bool:
        """Whether an idle server's sample should be appended alone now."""
        with self._lock:
            return now_s - self._recorded_s >= self._interval_s
