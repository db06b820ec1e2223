"""The newest horizon sample of a timeline path between two positions.

Rule: a sample of a parent timeline counts up to the point where the path leaves it.
"""

from __future__ import annotations

from walarchiver.catalog import Catalog
from walarchiver.core.history import TimelineHistory
from walarchiver.core.lsn import Lsn
from walarchiver.core.moment import CommitTime
from walarchiver.core.segment import SegmentBytes
from walarchiver.core.walpage import LONG_HEADER_BYTES, settled_lsn


class PathSamples:
    """Answers about one catalog. Remembers, so that asking for one base backup after the other, newest
    first, goes through the samples once."""

    def __init__(self, catalog: Catalog, size: SegmentBytes) -> None:
        self._catalog = catalog
        self._size = size
        self._known: dict[tuple[int, Lsn], tuple[Lsn, CommitTime | None]] = {}
        """By timeline and highest position: the lowest one asked for, and the newest sample between."""

    def newest(self, path: TimelineHistory, low: Lsn, high: Lsn) -> CommitTime | None:
        """When the newest sample of the path with a settled position low..high (both included) was taken, on
        the server's clock."""
        found: list[CommitTime] = []
        for timeline in path.path:
            end = path.end(timeline)
            newest = self._newest(timeline, low, high if end is None else min(high, end))
            found += [] if newest is None else [newest]
        return max(found, default=None)

    def _newest(self, timeline: int, low: Lsn, high: Lsn) -> CommitTime | None:
        if low > high:
            return None
        known = self._known.get((timeline, high))
        if known is None or known[0] < low:
            newest = self._between(timeline, low, high)
        else:
            earlier = self._between(timeline, low, Lsn(known[0] - 1)) if low < known[0] else None
            newest = max((time for time in (earlier, known[1]) if time is not None), default=None)
        self._known[timeline, high] = (low, newest)
        return newest

    def _between(self, timeline: int, low: Lsn, high: Lsn) -> CommitTime | None:
        """The newest sample whose settled position is low..high. Settling takes a page header off at most."""
        inner = Lsn(low + LONG_HEADER_BYTES)
        found = [self._catalog.newest_sample(timeline, inner, high)]
        for first, last in ((low, Lsn(inner - 1)), (Lsn(high + 1), Lsn(high + LONG_HEADER_BYTES))):
            edge = self._catalog.samples_by_position(timeline, first, last)
            found += [one.time for one in edge if low <= settled_lsn(one.lsn, self._size) <= high]
        return max((time for time in found if time is not None), default=None)
