"""What is told of the WAL's contents is what its recorded scans say, whether they are in a chain or not."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.shells.test_chronology import SIZE, scan_of, spoiled
from walarchiver.catalog import Catalog
from walarchiver.core.coverage import Run
from walarchiver.core.history import Fork, TimelineHistory
from walarchiver.core.lsn import Lsn
from walarchiver.core.scan import EventKind, SegmentScan
from walarchiver.core.segment import Segment
from walarchiver.core.tally import net_prepared
from walarchiver.format.records import FirstPage, Record, StoredObject, WalRecord
from walarchiver.format.scans import scan_record
from walarchiver.operate import contents
from walarchiver.operate.contents import Contents

seeds = st.integers(0, 2**32 - 1)
DIGEST = "aa" * 32


def recorded(scan: SegmentScan, *, scanned: bool) -> list[Record]:
    segment = scan.segment
    page = FirstPage(0xD110, "7", segment.timeline, Lsn(segment.number * SIZE), SIZE)
    name = segment.name(SIZE)
    found: list[Record] = [WalRecord(name, DIGEST, SIZE, (StoredObject("k", 1, "00" * 32),), page)]
    told = scan_record(scan, name=name, digest=DIGEST) if scanned else None
    return found if told is None else [*found, told]


def catalog_of(scans: dict[Segment, SegmentScan], without: set[Segment]) -> Catalog:
    catalog = Catalog(None)
    for seq, (segment, scan) in enumerate(scans.items()):
        records = recorded(scan, scanned=segment not in without)
        catalog.apply(seq=seq, sha256="", time_us=seq, writer="w", records=records)
    return catalog


@given(seeds)
@settings(max_examples=60, deadline=None)
def test_what_is_told_of_a_run_is_what_its_scans_say(seed: int) -> None:
    random = Random(seed)
    run = Run(1, 5, 5 + random.choice([0, 3, 30]))
    scans = {Segment(1, n): spoiled(random, scan_of(random, n)) for n in range(run.first, run.last + 1)}
    without = {segment for segment in scans if random.random() < 0.1}
    told = Contents(catalog_of(scans, without), 7, SIZE)
    known = [scan for segment, scan in scans.items() if segment not in without]
    found = told.told(run)
    assert (found.scanned, found.commits) == (len(known), sum(scan.commits for scan in known))
    firsts = [scan.first_event.time for scan in known if scan.first_event is not None]
    lasts = [scan.last_event.time for scan in known if scan.last_event is not None]
    assert found.first_us == (firsts[0] if firsts else None)
    assert found.last_us == (lasts[-1] if lasts else None)
    commits = [scan.last_commit for scan in known if scan.last_commit is not None]
    assert found.last_commit == (commits[-1] if commits else None)
    points = {point.lsn for scan in known for point in scan.restore_points}
    assert [point.lsn for point in told.points(run)] == sorted(points)
    times = [time for scan in known for time in (scan.min_time, scan.max_time) if time is not None]
    active = [one for each in told.activity(run) for one in (each.from_us, each.to_us)]
    assert sorted(active) == sorted(times)


def test_many_segments_without_a_chain_count_as_not_scanned(monkeypatch: pytest.MonkeyPatch) -> None:
    scans = {Segment(1, n): replace(scan_of(Random(n), n), overwritten=(Lsn(8),)) for n in range(5, 12)}
    told = Contents(catalog_of(scans, set()), 7, SIZE)
    assert told.told(Run(1, 5, 11)).scanned == 7
    monkeypatch.setattr(contents, "SINGLES_MAX", 6)
    assert told.told(Run(1, 5, 11)).scanned == 0


@given(seeds)
@settings(max_examples=60, deadline=None)
def test_prepared_transactions_are_followed_along_a_path(seed: int) -> None:
    """What the parent prepared before a fork may end on the child; the parent's rest is not on the path."""
    random = Random(seed)
    path = TimelineHistory(2, (Fork(1, Lsn(9 * SIZE + 64)),))
    scans: dict[Segment, SegmentScan] = {}
    for timeline, numbers in ((1, range(5, 12)), (2, range(9, 20))):
        for number in numbers:
            scan = scan_of(random, number, timeline)
            prepared = [replace(one, xid=random.randint(1, 4)) for one in scan.prepared]
            scans[Segment(timeline, number)] = replace(scan, prepared=net_prepared(prepared))
    found = Contents(catalog_of(scans, set()), 7, SIZE).prepared(path, (Run(1, 5, 11), Run(2, 9, 19)))
    begun: dict[int, Lsn] = {}
    spans: list[tuple[Lsn, Lsn | None]] = []
    for segment, scan in scans.items():
        for event in scan.prepared if segment.timeline == 2 or segment.number < 9 else ():
            if event.kind is EventKind.PREPARE:
                begun[event.xid] = event.lsn
            elif event.xid in begun:
                spans.append((begun.pop(event.xid), event.lsn))
    spans += [(lsn, None) for lsn in begun.values()]
    told = [(one.begun.lsn, None if one.ended is None else one.ended.lsn) for one in found]
    assert told == sorted(spans, key=lambda span: span[0])
