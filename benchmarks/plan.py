"""What planning costs as the catalog grows: a curve over catalogs of 35 days, 7 timelines, 35 base backups.

Run by `./dev shell python benchmarks/plan.py [--full] [--questions 100]`. It makes catalogs of 10^4, 10^5 and
10^6 (with --full also 3 * 10^6) scanned segments, each timeline leaving the one before it, with a horizon
sample per segment, prepared transactions, restore points, raised limits and clock steps here and there; then
it asks for seconds at random over all of the time and a little more, and prints Markdown.

- No WAL exists: where a plan opens a segment, its events are made up on the spot. How many segments a plan
  opens is in the table, since that is what it costs on top with a real archive.
- `cold`: the catalog file newly opened, its pages dropped from the system's cache. `warm`: opened before.
  Both hold the whole of it: reading the view from the catalog, and deciding.
- `taking in` is measured with the product's own code, segment by segment, for 10^4 segments. Larger
  catalogs get the same rows in bulk; that these are the same is checked with the first 10^4.
- Times are wall clock; `CPU` is the process's own time, which says more on a machine that is busy.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import cast

from restore.core.model import AtTime, Decision
from restore.core.planner import decide
from restore.planning import view_of
from restore.walreader import WalReader
from walarchiver.catalog import Catalog
from walarchiver.catalogfile import open_catalog_file
from walarchiver.chronology import put
from walarchiver.core.history import TimelineHistory
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
from walarchiver.repository import Repository

SIZE = SegmentBytes(16 << 20)
SYSTEM = 7_300_000_000_000_000_001
TIMELINES = 7
DAYS = 35
DAY_US = 86_400_000_000
BEGAN = 1_795_000_000_000_000
FIRST = 1000
STRAY = 20
"""Segments that an old primary still wrote after each fork."""
TAKEN_IN = 10_000
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
                rows.append(row_of(timeline, 0, number, number, sums))
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
                [row_of(timeline, level, *b) for b in zip(blocks, until, blocks.values(), strict=True)],
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


def row_of(timeline: int, level: int, number: int, until: int, sums: Sums) -> tuple[object, ...]:
    check = sums.checkpoint or (None, None)
    times = (sums.oldest, sums.newest, sums.first_time, sums.last_time)
    return (timeline, level, number, until, sums.commits, sums.events, *times, sums.backward_us, *check)


# --- measuring ---------------------------------------------------------------------------------------


def taken_in(folder: Path) -> tuple[float, float, float]:
    """Microseconds a segment: all of its records; of that the index; and CPU time of the index."""
    world = World(TAKEN_IN)
    scans = [
        world.scan(timeline, n) for timeline, first, last in world.spans() for n in range(first, last + 1)
    ]
    records = [world.records(scan) for scan in scans]
    catalog = Catalog(folder / "taken-in.db")
    began = time.perf_counter()
    for seq in range(0, len(records), 50):
        some = [record for pair in records[seq : seq + 50] for record in pair]
        catalog.apply(seq=seq // 50, sha256="", time_us=1, writer="w", records=some)
    whole = time.perf_counter() - began
    catalog.close()
    db = open_catalog_file(folder / "index.db")
    began, cpu = time.perf_counter(), time.process_time()
    for at in range(0, len(scans), 50):
        db.execute("BEGIN IMMEDIATE")
        for scan in scans[at : at + 50]:
            put(db, scan, origin_of(SYSTEM, SIZE))
        db.execute("COMMIT")
    spent, cpu = time.perf_counter() - began, time.process_time() - cpu
    db.close()
    build(folder / "bulk.db", world)
    for table in ("span", "scanned", "chain", "listed"):
        one, other = (
            sqlite3.connect(folder / name).execute(f"SELECT * FROM {table}").fetchall()
            for name in ("bulk.db", "taken-in.db")
        )
        assert one == other, f"{table}: rows made in bulk differ"
    per = 1e6 / len(scans)
    return whole * per, spent * per, cpu * per


@dataclass
class Opened:
    """Counts the segments whose events a plan asks for."""

    world: World
    segments: set[Segment]

    def events(self, path: TimelineHistory, number: int) -> Sequence[Event]:
        timeline = path.timeline_of_segment(number, SIZE)
        self.segments.add(Segment(timeline, number))
        return self.world.events(timeline, number)


def plan(catalog: Catalog, world: World, at: int) -> tuple[Decision, int]:
    """One plan from scratch; and how many segments it opened."""
    cluster = catalog.clusters()[-1]
    view = view_of(catalog, cluster, 1)
    reader = WalReader(
        repository=cast(Repository, None), system=cluster.system, catalog=catalog, segment_size=SIZE
    )
    opened = Opened(world, set())
    knowledge = replace(reader.knowledge(), events=opened.events)
    return decide(view, AtTime(CommitTime(at)), knowledge), len(opened.segments)


def measure(path: Path, world: World, questions: int) -> str:
    """One line of the table."""
    random = Random(4)
    moments = [BEGAN - 60_000_000 + random.randrange(DAYS * DAY_US + 240_000_000) for _ in range(questions)]
    moments += [BEGAN, BEGAN + DAYS * DAY_US - world.step_us // 3, BEGAN + DAYS * DAY_US + 3_600_000_000]
    cold: list[float] = []
    for at in moments[: max(3, questions // 5)]:
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        began = time.perf_counter()
        catalog = Catalog(path)
        plan(catalog, world, at)
        cold.append(time.perf_counter() - began)
        catalog.close()
    catalog = Catalog(path)
    plan(catalog, world, moments[0])
    warm: list[float] = []
    cpu: list[float] = []
    opened: list[int] = []
    verdicts: dict[str, int] = {}
    for at in moments:
        began, spent = time.perf_counter(), time.process_time()
        decision, count = plan(catalog, world, at)
        warm.append(time.perf_counter() - began)
        cpu.append(time.process_time() - spent)
        opened.append(count)
        verdicts[decision.verdict.value] = verdicts.get(decision.verdict.value, 0) + 1
    catalog.close()
    told = ", ".join(f"{count} {verdict}" for verdict, count in sorted(verdicts.items()))
    return (
        f"| {world.segments:,} | {path.stat().st_size / 2**20:,.0f} | {spread(cold)} | {spread(warm)} |"
        f" {spread(cpu)} | {sorted(opened)[len(opened) // 2]} / {max(opened)} | {told} |"
    )


def spread(seconds: list[float]) -> str:
    ordered = sorted(seconds)
    p99 = ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]
    return f"{ordered[len(ordered) // 2] * 1e3:.1f} / {p99 * 1e3:.1f}"


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--full", action="store_true", help="3 * 10^6 segments too")
    arguments.add_argument("--most", type=int, default=1_000_000, help="largest catalog otherwise")
    arguments.add_argument("--questions", type=int, default=100)
    args = arguments.parse_args()
    sizes = [size for size in (10_000, 100_000, 1_000_000) if size <= args.most]
    folder = Path(tempfile.mkdtemp(prefix="walarchiver-plan-"))
    try:
        whole, index, cpu = taken_in(folder)
        print(
            f"Taking in a segment and its scan: {whole:.0f} µs; the index alone: {index:.0f} ({cpu:.0f} CPU)."
        )
        heads = ("cold, ms p50 / p99", "warm, ms p50 / p99", "CPU warm, ms", "opened p50 / max", "verdicts")
        print(f"\n| segments | MiB | {' | '.join(heads)} |")
        print("|---|---|---|---|---|---|---|")
        for size in [*sizes, *([3_000_000] if args.full else [])]:
            path = folder / f"{size}.db"
            build(path, World(size))
            print(measure(path, World(size), args.questions), flush=True)
            path.unlink()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
