"""The newest sample, asked for range by range, is what looking at each of them would give."""

from __future__ import annotations

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from walarchiver.catalog import Catalog
from walarchiver.core.history import Fork, TimelineHistory
from walarchiver.core.lsn import Lsn
from walarchiver.core.moment import CommitTime
from walarchiver.core.segment import SegmentBytes
from walarchiver.core.walpage import settled_lsn
from walarchiver.format.records import HorizonRecord
from walarchiver.pathsamples import PathSamples

SIZE = SegmentBytes(1 << 20)
PAGE = 8192
NOON = 1_795_348_800_000_000


def position(random: Random) -> Lsn:
    """Often at a page's beginning, in its header, or just past that."""
    return Lsn(random.randint(0, 20) * random.choice([PAGE, SIZE]) + random.choice([0, 8, 24, 40, 41, 500]))


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=80, deadline=None)
def test_asking_range_by_range_gives_what_every_sample_looked_at_would(seed: int) -> None:
    random = Random(seed)
    path = TimelineHistory(3, (Fork(1, position(random)), Fork(2, position(random))))
    samples = [
        HorizonRecord(CommitTime(NOON + random.randint(0, 9)), position(random), random.randint(1, 4))
        for _ in range(random.choice([0, 3, 60]))
    ]
    catalog = Catalog(None)
    catalog.apply(seq=0, sha256="", time_us=0, writer="w", records=samples)
    samples_on = PathSamples(catalog, SIZE)
    for _ in range(6):
        high = random.choice([position(random), Lsn(20 * SIZE)])
        for low in sorted((position(random) for _ in range(3)), reverse=random.random() < 0.8):
            found = []
            for sample in samples:
                settled = settled_lsn(sample.lsn, SIZE)
                if sample.timeline in path.path and low <= settled <= high:
                    end = path.end(sample.timeline)
                    if end is None or settled <= end:
                        found.append(sample.time)
            assert samples_on.newest(path, low, high) == max(found, default=None)
    catalog.close()
