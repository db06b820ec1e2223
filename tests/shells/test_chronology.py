"""The index over scans answers as looking at every scan would; and holds only what is in force."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from walarchiver import chronology
from walarchiver.catalog import Catalog
from walarchiver.catalogfile import CatalogFile, open_catalog_file
from walarchiver.chronology import Chronology, drop, put
from walarchiver.core import sums
from walarchiver.core.lsn import Lsn
from walarchiver.core.moment import CommitTime
from walarchiver.core.scan import (
    Checkpoint,
    Ending,
    Event,
    EventKind,
    ParameterChange,
    RestorePoint,
    SegmentScan,
)
from walarchiver.core.segment import Segment, SegmentBytes
from walarchiver.core.tally import PREPARED_KINDS
from walarchiver.format.records import (
    FirstPage,
    Record,
    StoredObject,
    SupersedeRecord,
    WalRecord,
)
from walarchiver.format.scans import scan_record

SIZE = SegmentBytes(1 << 20)
ORIGIN = "7/1048576"
INDEX_TABLES = ("scanned", "span", "chain", "listed")
seeds = st.integers(0, 2**32 - 1)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 3, so that a few dozen segments have blocks of every level."""
    monkeypatch.setattr(sums, "BLOCK", 3)
    monkeypatch.setattr(chronology, "BLOCK", 3)


def scan_of(random: Random, number: int, timeline: int = 1) -> SegmentScan:
    """A segment with a few events, the clock stepping now and then; its links fit to its neighbours'."""
    start = number * SIZE
    clock = number * 100 + random.choice([0, 0, 0, -250, 400])
    events = []
    for position in range(random.choice([0, 0, 1, 2, 5])):
        clock += random.choice([0, 1, 30, -20])
        kind = random.choice(list(EventKind))
        lsn = Lsn(start + 0x100 * (position + 1))
        xid = 700 + number - random.choice([0, 0, 1, 5, 40])
        events.append(Event(kind, lsn, Lsn(lsn + 0x40), xid, CommitTime(clock)))
    ended = [event.xid for event in events if event.kind.ends_transaction and number % 7]
    commits = [event for event in events if event.kind.is_commit]
    times = [event.time for event in events]
    return SegmentScan(
        segment=Segment(timeline, number),
        system=7,
        magic=0xD110,
        ending=Ending.WHOLE,
        problem="",
        first=Lsn(start + 0x28),
        first_prev=Lsn(start - 0x80),
        last=Lsn(start + SIZE - 0x80),
        end=Lsn(start + SIZE),
        records=9,
        commits=len(commits),
        aborts=sum(e.kind in (EventKind.ABORT, EventKind.ABORT_PREPARED) for e in events),
        prepares=sum(e.kind is EventKind.PREPARE for e in events),
        min_time=min(times, default=None),
        max_time=max(times, default=None),
        first_event=events[0] if events else None,
        last_event=events[-1] if events else None,
        last_commit=commits[-1] if commits else None,
        backward_us=max([0, *(one - other for one, other in pairwise(times))]),
        restore_points=tuple(
            RestorePoint(Lsn(start + 0x28), Lsn(start + 0x60), name, CommitTime(clock))
            for name in random.sample("ab", random.choice([0, 0, 1, 2]))
        ),
        checkpoints=tuple(
            Checkpoint(Lsn(start + offset), Lsn(start), 1, 1, CommitTime(clock - offset), False)
            for offset in random.sample([0x30, 0x70], random.choice([0, 0, 1, 2]))
        ),
        parameter_changes=tuple(
            ParameterChange(Lsn(start + 0x90), 100, 8, 10, 0, 64, random.choice([0, 1]))
            for _ in range(random.choice([0, 0, 0, 1]))
        ),
        prepared=tuple(event for event in events if event.kind in PREPARED_KINDS),
        switched=False,
        overwritten=(),
        min_xid=min(ended, default=None),  # one scan in seven does not say
        max_xid=max(ended, default=None),
    )


def fresh() -> tuple[CatalogFile, Chronology]:
    db = open_catalog_file(None)
    return db, Chronology(lambda sql, *values: db.execute(sql, values).fetchall(), ORIGIN)


def contents(db: CatalogFile) -> dict[str, list[tuple[object, ...]]]:
    return {table: db.execute(f"SELECT * FROM {table}").fetchall() for table in INDEX_TABLES}


def spoiled(random: Random, scan: SegmentScan) -> SegmentScan:
    """Mostly the scan itself; at times one that does not fit or must be looked at on its own."""
    match random.randint(0, 30):
        case 0:
            return replace(scan, first_prev=Lsn(1))
        case 1:
            return replace(scan, ending=Ending.BAD, problem="checksum")
        case 2:
            return replace(scan, ending=Ending.ZERO)
        case 3:
            return replace(scan, ending=Ending.ZERO, switched=True)
        case 4:
            return replace(scan, first=None, first_prev=None, last=None)
        case _:
            return scan


@given(seeds)
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@pytest.mark.usefixtures("small_blocks")
def test_the_index_answers_as_every_scan_looked_at_would(seed: int) -> None:
    random = Random(seed)
    db, index = fresh()
    scans = {n: scan_of(random, n) for n in range(5, 5 + random.choice([3, 30, 90]))}
    for scan in random.sample(list(scans.values()), len(scans)) if seed % 2 else scans.values():
        put(db, scan, ORIGIN)
    numbers = sorted(scans)
    for _ in range(10):
        first, last = sorted(random.choices(numbers, k=2))
        inside = [scans[n] for n in range(first, last + 1)]
        events = [one for one in inside if one.first_event is not None]
        check = max(((c.time, c.lsn) for one in inside for c in one.checkpoints), default=None)
        known = [one.min_time for one in inside if one.min_time is not None]
        newest = [one.max_time for one in inside if one.max_time is not None]
        backward = [one.backward_us for one in inside]
        for one, other in pairwise(events):
            assert one.last_event is not None
            assert other.first_event is not None
            backward.append(one.last_event.time - other.first_event.time)
        span = (1, first, last)
        found = index.sums(*span)
        assert found.commits == index.commits(*span) == sum(one.commits for one in inside)
        assert found.events == sum(one.commits + one.aborts + one.prepares for one in inside)
        assert found.backward_us == max(0, *backward)
        assert found.oldest == index.oldest(*span) == min(known, default=None)
        assert found.newest == index.newest(*span) == max(newest, default=None)
        assert found.checkpoint == index.newest_checkpoint(*span) == check
        time = CommitTime(random.choice(numbers) * 100 + random.randint(-60, 60))
        newer = [one.segment.number for one in inside if one.max_time is not None and one.max_time > time]
        assert index.first_newer(*span, time) == (newer[0] if newer else None)
        older = [one.segment.number for one in inside if one.min_time is not None and one.min_time <= time]
        assert index.last_not_newer(*span, time) == (older[-1] if older else None)
        commits = [one.segment.number for one in inside if one.last_commit is not None]
        assert index.last_with_commits(*span) == (commits[-1] if commits else None)
        xid = 700 + random.choice(numbers) - random.choice([0, 3])
        ended = [
            one.segment.number
            for one in inside
            if one.commits + one.aborts and (one.min_xid or 0) <= xid <= (one.max_xid or 2**32)
        ]
        assert index.first_with_xid(*span, xid) == (ended[0] if ended else None)
        assert index.last_with_events(*span) == (events[-1].segment.number if events else None)
        points = [one.segment.number for one in inside if any(p.name == "a" for p in one.restore_points)]
        assert index.listing(*span, "point", "a") == points
        assert index.listing(*span, "limits") == [o.segment.number for o in inside if o.parameter_changes]
        steps = [
            (o.segment.number, [(e.xid, e.kind is EventKind.PREPARE) for e in o.prepared]) for o in inside
        ]
        assert index.prepared(*span) == [one for one in steps if one[1]]
        minimal = [
            one.segment.number for one in inside if any(c.wal_level == 0 for c in one.parameter_changes)
        ]
        assert index.listing(*span, "minimal") == minimal


def fits(one: SegmentScan | None, other: SegmentScan | None) -> bool:
    plain = [s is not None and chronology.indexable(s) for s in (one, other)]
    return all(plain) and one is not None and other is not None and one.last == other.first_prev


@given(seeds)
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@pytest.mark.usefixtures("small_blocks")
def test_chains_are_what_fits_together_and_rows_do_not_depend_on_the_way_there(seed: int) -> None:
    """Scans come, are replaced, and go, in any order; what is left is as if only they had come."""
    random = Random(seed)
    db, index = fresh()
    there: dict[int, SegmentScan] = {}
    for _ in range(random.choice([10, 60, 150])):
        number = random.randint(4, 40)
        if random.random() < 0.15:
            drop(db, Segment(1, number))
            there.pop(number, None)
        else:
            there[number] = spoiled(random, scan_of(random, number))
            put(db, there[number], ORIGIN)
    again, _ = fresh()
    for number in sorted(there):
        put(again, there[number], ORIGIN)
    assert contents(db) == contents(again)
    for number in range(3, 42):
        until = number - 1
        while fits(there.get(until + 1), there.get(until + 2)):
            until += 1
        assert index.whole_until(1, number) == (until if until >= number else None)
    assert index.whole_until(2, 10) is None
    other = Chronology(lambda sql, *values: db.execute(sql, values).fetchall(), "8/1048576")
    assert [other.whole_until(1, number) for number in range(3, 42)] == [None] * 39


# --- in the catalog --------------------------------------------------------------------------------

NAMES = {number: Segment(1, number).name(SIZE) for number in range(1, 5)}


def wal(number: int, digest: str = "aa" * 32) -> WalRecord:
    page = FirstPage(0xD110, "7", 1, Lsn(number * SIZE), SIZE)
    return WalRecord(NAMES[number], digest, SIZE, (StoredObject("k", 1, "00" * 32),), page)


def scanned(number: int, digest: str = "aa" * 32, *, seed: int = 1) -> Record:
    record = scan_record(scan_of(Random(seed), number), name=NAMES[number], digest=digest)
    assert record is not None
    return record


def catalog_of(*records: Record) -> Catalog:
    catalog = Catalog(None)
    for seq, record in enumerate(records):
        catalog.apply(seq=seq, sha256="", time_us=seq, writer="w", records=[record])
    return catalog


def chained(catalog: Catalog) -> list[tuple[object, ...]]:
    return catalog.dump()["chain"]


def test_a_scan_counts_whether_it_comes_before_or_behind_its_file() -> None:
    late = catalog_of(wal(1), wal(2), scanned(1), scanned(2))
    assert chained(late) == [(1, 1, 2)]
    early = catalog_of(scanned(2), wal(2), scanned(1), wal(1))
    assert {t: early.dump()[t] for t in INDEX_TABLES} == {t: late.dump()[t] for t in INDEX_TABLES}
    assert late.chronology(7, SIZE).whole_until(1, 1) == 1
    assert late.chronology(8, SIZE).whole_until(1, 1) is None


def test_the_scan_of_other_bytes_than_those_in_force_does_not_count() -> None:
    second = catalog_of(wal(1), scanned(1), wal(1, "bb" * 32), scanned(1, "bb" * 32, seed=2))
    first = catalog_of(wal(1), scanned(1))
    assert {t: second.dump()[t] for t in INDEX_TABLES} == {t: first.dump()[t] for t in INDEX_TABLES}


def test_a_replaced_file_takes_its_scan_out_and_the_new_ones_scan_in() -> None:
    records = [wal(1), scanned(1), wal(2), scanned(2), wal(3), scanned(3), wal(2, "bb" * 32)]
    change = SupersedeRecord(NAMES[2], "aa" * 32, "bb" * 32, "torn")
    assert chained(catalog_of(*records)) == [(1, 1, 3)]
    assert chained(catalog_of(*records, change)) == [(1, 1, 1), (1, 3, 3)]
    assert chained(catalog_of(*records, change, scanned(2, "bb" * 32))) == [(1, 1, 3)]
    assert chained(catalog_of(*records, scanned(2, "bb" * 32), change)) == [(1, 1, 3)]
