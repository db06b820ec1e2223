"""Production: on which timeline the cluster lives now, told from the ledger alone.

Rules:
- A timeline is alive while files or horizon samples of it keep coming. Of the living ones the
  highest number is production: whoever was promoted last. So an old primary that writes on after a
  failover does not take the default back with its next segment.
- Dead is what has been silent for `SILENCE_US` while another timeline was heard of: a promotion that
  was thrown away gives the default back. Time is the ledger's own, so every reader agrees.
"""

from __future__ import annotations

from walarchiver.catalog import Catalog
from walarchiver.core.segment import Segment, SegmentBytes

SILENCE_US = 3600 * 1_000_000
"""Longer than the longest pause between the horizon samples of an idle server (horizon.py)."""


def production_timeline(catalog: Catalog, size: SegmentBytes) -> int | None:
    """The timeline that production is on; None while no segment is archived."""
    heard: dict[int, int] = {}
    for timeline in catalog.timelines():
        last = catalog.last_segment(timeline)
        if last is not None:
            segment_us = catalog.recorded_us("wal", Segment(timeline, last).name(size)) or 0
            heard[timeline] = max(segment_us, catalog.last_sample_us(timeline) or 0)
    if not heard:
        return None
    newest_us = max(heard.values())
    return max(timeline for timeline, us in heard.items() if us >= newest_us - SILENCE_US)
