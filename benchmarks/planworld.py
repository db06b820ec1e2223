"""A made-up cluster of 35 days with any number of segments, and its catalog, made in bulk: for plan.py.

Rules: everything follows from the number of segments; rows are those that taking in segment by segment
would make, which plan.py checks with the first 10^4.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from walarchiver.catalogfile import open_catalog_file
from walarchiver.chronology import span_row
from walarchiver.core.lsn import Lsn
from walarchiver.core.moment import CommitTime, format_rfc3339
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
from walarchiver.core.sums import BLOCK, TOP_LEVEL, Sums, sums_of
from walarchiver.format.canonical import canonical_json
from walarchiver.format.codec import record_to_json
from walarchiver.format.records import (
    BackupFacts,
    BackupRecord,
    ClusterRecord,
    FirstPage,
    ForkFact,
    HistoryRecord,
    HorizonRecord,
    LimitFacts,
    Record,
    StoredObject,
    WalRecord,
)
from walarchiver.format.scans import scan_record
from walarchiver.projecting import origin_of, record_name

SIZE = SegmentBytes(16 << 20)
SYSTEM = 7_300_000_000_000_000_001
TIMELINES = 7
DAYS = 35
DAY_US = 86_400_000_000
BEGAN = 1_795_000_000_000_000
FIRST = 1000
STRAY = 20
"""Segments that an old primary still wrote after each fork."""
DIGEST = "ab" * 32
STORED = (StoredObject("c/main/wal/" + "0" * 40, 9_000_000, "cd" * 32),)


@dataclass(frozen=True)
class World:
    """A made-up cluster with `segments` segments; everything follows from that number."""

    segments: int

    @property
    def step_us(self) -> int:
        return DAYS * DAY_US // self.segments

    def fork(self, timeline: int) -> int:
        """The segment in whose middle a timeline begins."""
        return FIRST + self.segments * (timeline - 1) // TIMELINES

    def spans(self) -> Iterator[tuple[int, int, int]]:
        """Timeline, first and last segment."""
        for timeline in range(1, TIMELINES + 1):
            first = FIRST if timeline == 1 else self.fork(timeline)
            last = FIRST + self.segments - 1
            if timeline < TIMELINES:
                last = self.fork(timeline + 1) + STRAY
            yield timeline, first, last

    def history(self, timeline: int) -> HistoryRecord:
        forks = tuple(
            ForkFact(parent, Lsn(self.fork(parent + 1) * SIZE + 0x800000)) for parent in range(1, timeline)
        )
        return HistoryRecord(f"{timeline:08X}.history", DIGEST, 100, STORED, forks)

    def clock(self, number: int) -> int:
        """The server's clock when a segment begins; now and then it is half a minute ahead for a while."""
        ahead = 30_000_000 if number % 5000 in range(20) else 0
        return BEGAN + (number - FIRST) * self.step_us + ahead

    def events(self, timeline: int, number: int) -> list[Event]:
        start, clock = number * SIZE, self.clock(number)
        kinds = [EventKind.COMMIT, EventKind.COMMIT, EventKind.COMMIT]
        if number % 1000 == 1:
            kinds[1] = EventKind.PREPARE
        if number % 1000 == 2:
            kinds[1] = EventKind.COMMIT_PREPARED
        events = []
        for turn, kind in enumerate(kinds):
            lsn = start + 0x100000 + turn * 0x500000
            own = (number - (kind is EventKind.COMMIT_PREPARED)) * 3 + turn
            at = clock + (turn * 2 + 1) * self.step_us // 6
            xid = (own * TIMELINES + timeline) % 2**32
            gid = "g" if kind is not EventKind.COMMIT else None
            events.append(Event(kind, Lsn(lsn), Lsn(lsn + 0x80), xid, CommitTime(at), gid))
        return events

    def scan(self, timeline: int, number: int) -> SegmentScan:
        start, events = number * SIZE, self.events(timeline, number)
        commits = [event for event in events if event.kind.is_commit]
        ended = [event.xid for event in events if event.kind.ends_transaction]
        points: tuple[RestorePoint, ...] = ()
        checks: tuple[Checkpoint, ...] = ()
        changes: tuple[ParameterChange, ...] = ()
        clock = self.clock(number)
        if number % 10_000 == 3:
            points = (RestorePoint(Lsn(start + 0x90000), Lsn(start + 0x90080), "p", CommitTime(clock)),)
        if number % 20 == 4:
            whole = CommitTime(clock // 1_000_000 * 1_000_000)
            checks = (Checkpoint(Lsn(start + 0x80000), Lsn(start), timeline, timeline, whole, False),)
        if number % 100_000 == 5:
            changes = (ParameterChange(Lsn(start + 0x70000), 200, 8, 10, 0, 64, 1),)
        return SegmentScan(
            segment=Segment(timeline, number),
            system=SYSTEM,
            magic=0xD116,
            ending=Ending.WHOLE,
            problem="",
            first=Lsn(start + 0x28),
            first_prev=Lsn(start - 0x80),
            last=Lsn(start + SIZE - 0x80),
            end=Lsn(start + SIZE),
            records=40_000,
            commits=len(commits),
            aborts=0,
            prepares=sum(event.kind is EventKind.PREPARE for event in events),
            min_time=events[0].time,
            max_time=events[-1].time,
            first_event=events[0],
            last_event=events[-1],
            last_commit=commits[-1],
            backward_us=0,
            restore_points=points,
            checkpoints=checks,
            parameter_changes=changes,
            prepared=tuple(event for event in events if event.kind is not EventKind.COMMIT),
            switched=False,
            overwritten=(),
            min_xid=min(ended),
            max_xid=max(ended),
        )

    def records(self, scan: SegmentScan) -> tuple[WalRecord, Record]:
        name = scan.segment.name(SIZE)
        page = FirstPage(0xD116, str(SYSTEM), scan.segment.timeline, Lsn(scan.segment.number * SIZE), SIZE)
        record = scan_record(scan, name=name, digest=DIGEST)
        assert record is not None
        return WalRecord(name, DIGEST, SIZE, STORED, page), record

    def sample(self, timeline: int, number: int) -> HorizonRecord:
        at = self.clock(number) + self.step_us * 5 // 6 + 2_000_000
        return HorizonRecord(CommitTime(at), Lsn((number + 1) * SIZE), timeline)

    def backup(self, day: int) -> BackupRecord:
        number = FIRST + self.segments * day // DAYS + 2
        timeline = max(t for t in range(1, TIMELINES + 1) if t == 1 or self.fork(t) < number)
        limits = LimitFacts(100, 8, 10, 0, 64)
        facts = BackupFacts("18.0", 180000, "x", 8192, 8192, SIZE, True, "UTF8", (), (), limits, "")
        start, stop = Lsn(number * SIZE + 0x80000), Lsn((number + 2) * SIZE + 0x200000)
        times = CommitTime(self.clock(number)), CommitTime(self.clock(number + 2) + self.step_us // 5)
        size = (10**11, 4 * 10**10, 100, "ab" * 32)
        return BackupRecord(
            *(f"b{day:02}", "full", "primary", timeline, start, start, stop, *times, *size, (), facts)
        )


# --- making a catalog --------------------------------------------------------------------------------


def json_of(record: Record) -> str:
    return canonical_json(record_to_json(record)).decode("ascii")


class Templates:
    """The JSON of plain segments' records, made from one example by putting the values that differ."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._example = world.scan(1, 77_777_777_777 // 1000)
        wal, scan = (json_of(record) for record in world.records(self._example))
        self._wal = self._marked(wal, self._example)
        self._scan = self._marked(scan, self._example)

    def _values(self, scan: SegmentScan) -> list[str]:
        start = scan.segment.number * SIZE
        events = self._world.events(scan.segment.timeline, scan.segment.number)
        marks = [start - 0x80, start, start + 0x28, start + SIZE - 0x80, start + SIZE]
        marks += [at for event in events for at in (event.lsn, event.end)]
        texts = [f'"{at >> 32:X}/{at & 0xFFFFFFFF:X}"' for at in marks]
        texts += [f'"{format_rfc3339(event.time)}"' for event in events]
        texts += [f'"xid":{event.xid},' for event in events]
        texts += [f'"{scan.segment.name(SIZE)}"', f'"timeline":{scan.segment.timeline}']
        return texts

    def _marked(self, text: str, scan: SegmentScan) -> str:
        text = text.replace("%", "%%")
        for index, value in enumerate(self._values(scan)):
            text = text.replace(value, f"%({index})s")
        return text

    def of(self, scan: SegmentScan) -> tuple[str, str]:
        if scan.restore_points or scan.checkpoints or scan.parameter_changes or scan.prepared:
            wal, record = self._world.records(scan)
            return json_of(wal), json_of(record)
        values = {str(index): value for index, value in enumerate(self._values(scan))}
        return self._wal % values, self._scan % values


def build(path: Path, world: World) -> None:
    """All of a catalog in bulk."""
    open_catalog_file(path).close()
    db = sqlite3.connect(path)
    db.executescript("PRAGMA synchronous=OFF; PRAGMA cache_size=-300000;")
    templates = Templates(world)
    entries = 0
    for timeline, first, last in world.spans():
        spans: dict[int, dict[int, Sums]] = {level: {} for level in range(1, TOP_LEVEL + 1)}
        for begin in range(first, last + 1, 1000):
            entries += 1
            records: list[tuple[object, ...]] = []
            rows: list[tuple[object, ...]] = []
            links: list[tuple[object, ...]] = []
            lists: list[tuple[object, ...]] = []
            samples: list[tuple[object, ...]] = []
            for number in range(begin, min(begin + 1000, last + 1)):
                scan = world.scan(timeline, number)
                name = scan.segment.name(SIZE)
                wal, told = templates.of(scan)
                index = (number - begin) * 2
                records += [("wal", name, entries, index, wal), ("scan", name, entries, index + 1, told)]
                sums = sums_of(scan)
                rows.append(span_row(timeline, 0, number, number, sums))
                for level in spans:
                    block = spans[level].get(number // BLOCK**level)
                    spans[level][number // BLOCK**level] = block.followed_by(sums) if block else sums
                links.append((timeline, number, origin_of(SYSTEM, SIZE), scan.first_prev, scan.last))
                lists += [(timeline, "point", number, point.name) for point in scan.restore_points]
                steps = (f"{'+' if one.kind is EventKind.PREPARE else '-'}{one.xid}" for one in scan.prepared)
                lists += [(timeline, "prepared", number, " ".join(steps))] * bool(scan.prepared)
                lists += [(timeline, "limits", number, "")] * bool(scan.parameter_changes)
                sample = world.sample(timeline, number)
                samples.append((sample.time, sample.lsn, timeline, entries))
            times = world.clock(number)
            insert(db, "entry", [(entries, "00" * 32, times, "w", 0)])
            for table, what in (("record", records), ("span", rows), ("scanned", links)):
                insert(db, table, what)
            insert(db, "listed", lists)
            insert(db, "horizon", samples)
            insert(db, "segment", [(timeline, link[1]) for link in links])
        for level, blocks in spans.items():
            until = ((min((block + 1) * BLOCK**level - 1, last)) for block in blocks)
            insert(
                db,
                "span",
                [span_row(timeline, level, *b) for b in zip(blocks, until, blocks.values(), strict=True)],
            )
        insert(db, "chain", [(timeline, first, last)])
        insert(db, "run", [(timeline, first, last)])
        db.commit()
    others: list[Record] = [ClusterRecord("main", str(SYSTEM), 18, SIZE, True)]
    others += [world.history(timeline) for timeline in range(2, TIMELINES + 1)]
    others += [world.backup(day) for day in range(DAYS)]
    rows = [(r.kind, record_name(r), entries + 1, index, json_of(r)) for index, r in enumerate(others)]
    insert(db, "record", rows)
    insert(db, "entry", [(entries + 1, "00" * 32, times, "w", 0)])
    db.commit()
    db.close()


def insert(db: sqlite3.Connection, table: str, rows: Sequence[tuple[object, ...]]) -> None:
    if rows:
        marks = ",".join("?" * len(rows[0]))
        db.executemany(f"INSERT OR IGNORE INTO {table} VALUES ({marks})", rows)
