"""Which timeline production is on, when several are heard of."""

from __future__ import annotations

from walarchiver.catalog import Catalog
from walarchiver.core.lsn import Lsn
from walarchiver.core.moment import CommitTime
from walarchiver.core.segment import Segment, SegmentBytes
from walarchiver.format.records import FirstPage, HorizonRecord, Record, StoredObject, WalRecord
from walarchiver.production import SILENCE_US, production_timeline

SIZE = SegmentBytes(1 << 20)
MINUTE_US = 60_000_000


def segment(timeline: int, number: int) -> WalRecord:
    name = Segment(timeline, number).name(SIZE)
    stored = StoredObject(key=name, stored_len=1, stored_sha256="00" * 32, version_id=None)
    page = FirstPage(0xD118, "1", timeline, Lsn(number * SIZE), SIZE)
    return WalRecord(name=name, digest="00" * 32, len=SIZE, objects=(stored,), page=page)


def sample(timeline: int) -> HorizonRecord:
    return HorizonRecord(time=CommitTime(5), lsn=Lsn(3 * SIZE), timeline=timeline)


def production(*entries: tuple[int, Record]) -> int | None:
    """Of a ledger with these entries: time, record."""
    catalog = Catalog(None)
    try:
        for seq, (time_us, record) in enumerate(entries):
            catalog.apply(seq=seq, sha256="00" * 32, time_us=time_us, writer="w", records=[record])
        return production_timeline(catalog, SIZE)
    finally:
        catalog.close()


def test_nothing_archived_is_nowhere() -> None:
    assert production() is None
    assert production((0, sample(1))) is None


def test_an_old_primary_does_not_take_the_default_back_by_writing_on() -> None:
    failover = [(0, segment(1, 1)), (MINUTE_US, segment(2, 2))]
    assert production(*failover) == 2
    assert production(*failover, (2 * MINUTE_US, segment(1, 2)), (3 * MINUTE_US, segment(1, 3))) == 2


def test_an_idle_primary_stays_production_while_it_is_sampled() -> None:
    begun = [(0, segment(1, 1)), (MINUTE_US, segment(2, 2))]
    later = (2 * SILENCE_US, segment(1, 2))
    assert production(*begun, later) == 1
    assert production(*begun, (2 * SILENCE_US - MINUTE_US, sample(2)), later) == 2


def test_a_promotion_that_was_thrown_away_gives_the_default_back() -> None:
    thrown = [(0, segment(1, 1)), (MINUTE_US, segment(2, 2))]
    assert production(*thrown, (MINUTE_US + SILENCE_US, segment(1, 2))) == 2
    assert production(*thrown, (MINUTE_US + SILENCE_US + 1, segment(1, 2))) == 1
