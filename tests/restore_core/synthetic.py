"""Synthetic WAL histories, as the planner sees them, and a naive recovery to check it against.

A history is a list of records per timeline. Positions are counted in slots of 64 KiB, 16 to a
segment of 1 MiB, and turned into LSNs that look like PostgreSQL's: the first record of a segment
starts behind the 40-byte page header, and a record that ends with its segment ends at the border.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from random import Random

from restore.core.model import BaseBackup, Horizon, Limits, View, WalKnowledge
from restore.samples import Samples
from walarchiver.catalog import Catalog
from walarchiver.chronology import put
from walarchiver.core.coverage import Runs, add_segment
from walarchiver.core.history import Fork, TimelineHistory
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
from walarchiver.core.tally import PREPARED_KINDS, net_prepared
from walarchiver.format.records import HorizonRecord
from walarchiver.projecting import origin_of

SIZE = SegmentBytes(1 << 20)
SLOT = 1 << 16
SLOTS = SIZE // SLOT
SYSTEM = 7_300_000_000_000_000_001
T0 = 1_795_000_000_000_000
"""A moment in November 2026; synthetic times count microseconds from here."""
SECOND = 1_000_000
LIMITS = Limits(100, 8, 10, 0, 64)


def start_of(slot: int) -> Lsn:
    """LSN of a record that starts in a slot."""
    return Lsn(slot * SLOT + (0x28 if slot % SLOTS == 0 else 0x100))


def end_of(slot: int) -> Lsn:
    """LSN where a record ends whose successor starts in `slot`."""
    return Lsn(slot * SLOT) if slot % SLOTS == 0 else start_of(slot)


INDEXED = False
"""Whether `World.knowledge` has the catalog's index over scans, or asks for every scan."""
UNSCANNED = 7
"""One in so many segments is not in the index."""

Fact = Event | RestorePoint | Checkpoint | ParameterChange


@dataclass(frozen=True)
class Rec:
    """One record: where, its predecessor, and what it says (None: nothing of interest)."""

    lsn: Lsn
    end: Lsn
    prev: Lsn
    fact: Fact | None = None
    switch: bool = False


@dataclass
class World:
    """Everything that was written, and what of it is archived."""

    records: dict[int, list[Rec]]
    histories: dict[int, TimelineHistory]
    present: set[Segment]
    backups: list[BaseBackup] = field(default_factory=list)
    horizons: list[Horizon] = field(default_factory=list)
    damaged: dict[Segment, Lsn] = field(default_factory=dict)
    """Bytes from this LSN on are bad, to the end of the file."""
    current: int = 1

    def path(self, timeline: int) -> TimelineHistory:
        return self.histories.get(timeline, TimelineHistory(timeline))

    def on_path(self, path: TimelineHistory) -> list[Rec]:
        """Every record of a path, archived or not, in order."""
        found = []
        for timeline in path.path:
            begin, end = path.begin(timeline), path.end(timeline)
            found += [
                rec for rec in self.records[timeline] if rec.lsn >= begin and (end is None or rec.lsn < end)
            ]
        return found

    def file(self, path: TimelineHistory, number: int) -> Segment:
        return Segment(path.timeline_of_segment(number, SIZE), number)

    def readable(self, path: TimelineHistory, rec: Rec, only: set[Segment] | None = None) -> bool:
        """Whether every byte of a record can be read, from archived files (or from `only`)."""
        for number in range(rec.lsn // SIZE, (rec.end - 1) // SIZE + 1):
            file = self.file(path, number)
            if file not in (self.present if only is None else only):
                return False
            if min(rec.end, (number + 1) * SIZE) > self.damaged.get(file, (number + 1) * SIZE):
                return False
        return True

    def replayable(self, path: TimelineHistory, start: Lsn, only: set[Segment] | None = None) -> list[Rec]:
        """The records from the segment of `start` on that can be read without a break."""
        found = []
        for rec in self.on_path(path):
            if rec.lsn // SIZE < start // SIZE:
                continue
            if not self.readable(path, rec, only):
                break
            if isinstance(rec.fact, ParameterChange) and rec.fact.wal_level == 0 and rec.lsn >= start:
                break
            found.append(rec)
        return found

    # --- as the planner sees it ------------------------------------------------------------------

    def view(self) -> View:
        runs: Runs = ()
        for segment in self.present:
            runs = add_segment(runs, segment)
        return View(
            cluster="main",
            system=SYSTEM,
            major=15,
            segment_size=SIZE,
            ledger_seq=1,
            runs=runs,
            histories=dict(self.histories),
            backups=tuple(self.backups),
            horizons=tuple(self.horizons),
            current_timeline=self.current,
        )

    def knowledge(self, *, indexed: bool | None = None) -> WalKnowledge:
        plain = WalKnowledge(
            scan=self.scan, events=self.events, last_record=self.last_record, next_record=self.next_record
        )
        if not (INDEXED if indexed is None else indexed):
            return plain
        catalog = Catalog(None)
        records = [HorizonRecord(time=one.time, lsn=one.lsn, timeline=one.timeline) for one in self.horizons]
        catalog.apply(seq=0, sha256="", time_us=0, writer="", records=records)
        for segment in self.present:
            scan = self.scan(self.path(segment.timeline), segment.number)
            if scan.ending is not Ending.OPEN and (segment.number * 5 + segment.timeline) % UNSCANNED:
                put(catalog._db, scan, origin_of(SYSTEM, SIZE))
        return replace(plain, index=catalog.chronology(SYSTEM, SIZE), samples=Samples(catalog))

    def starting_in(self, path: TimelineHistory, number: int) -> list[Rec]:
        """The whole records that start in a segment."""
        assert self.file(path, number) in self.present, "only archived segments are scanned"
        found = []
        for rec in self.on_path(path):
            if rec.lsn // SIZE == number:
                if not self.readable(path, rec):
                    break
                found.append(rec)
        return found

    def scan(self, path: TimelineHistory, number: int) -> SegmentScan:
        recs = self.starting_in(path, number)
        everything = [rec for rec in self.on_path(path) if rec.lsn // SIZE == number]
        ending, problem = Ending.WHOLE, ""
        if self.file(path, number) in self.damaged:
            ending, problem = Ending.BAD, "checksum"
        elif len(recs) < len(everything):
            files = [self.file(path, n) for n in range(number, (everything[len(recs)].end - 1) // SIZE + 1)]
            ending = Ending.OPEN if any(file not in self.present for file in files) else Ending.BAD
            problem = "checksum" if ending is Ending.BAD else ""
        facts = [rec.fact for rec in recs]
        events = [fact for fact in facts if isinstance(fact, Event)]
        commits = [event for event in events if event.kind.is_commit]
        ended = [event.xid for event in events if event.kind.ends_transaction and number % 5]
        return SegmentScan(
            segment=self.file(path, number),
            system=SYSTEM,
            magic=0xD110,
            ending=ending,
            problem=problem,
            first=recs[0].lsn if recs else None,
            first_prev=recs[0].prev if recs else None,
            last=recs[-1].lsn if recs else None,
            end=recs[-1].end if recs else Lsn(number * SIZE),
            records=len(recs),
            commits=len(commits),
            aborts=sum(e.kind in (EventKind.ABORT, EventKind.ABORT_PREPARED) for e in events),
            prepares=sum(e.kind is EventKind.PREPARE for e in events),
            min_time=min((e.time for e in events), default=None),
            max_time=max((e.time for e in events), default=None),
            first_event=events[0] if events else None,
            last_event=events[-1] if events else None,
            last_commit=commits[-1] if commits else None,
            backward_us=max((a.time - b.time for a, b in pairwise(events)), default=0),
            restore_points=tuple(fact for fact in facts if isinstance(fact, RestorePoint)),
            checkpoints=tuple(fact for fact in facts if isinstance(fact, Checkpoint)),
            parameter_changes=tuple(fact for fact in facts if isinstance(fact, ParameterChange)),
            prepared=net_prepared(event for event in events if event.kind in PREPARED_KINDS),
            switched=bool(recs and recs[-1].switch),
            overwritten=(),
            min_xid=min(ended, default=None),  # one scan in five does not say
            max_xid=max(ended, default=None),
        )

    def events(self, path: TimelineHistory, number: int) -> Sequence[Event]:
        return [rec.fact for rec in self.starting_in(path, number) if isinstance(rec.fact, Event)]

    def last_record(self, path: TimelineHistory, number: int) -> Lsn | None:
        return self.scan(path, number).last

    def next_record(self, path: TimelineHistory, lsn: Lsn) -> Lsn | None:
        return next((rec.lsn for rec in self.on_path(path) if rec.lsn >= lsn), None)


class Writer:
    """Writes one timeline's records, slot by slot."""

    def __init__(self, world: World, timeline: int, slot: int, prev: Lsn) -> None:
        self.world = world
        self.timeline = timeline
        self.slot = slot
        self.prev = prev
        world.records.setdefault(timeline, [])

    def write(self, fact: Fact | None = None, slots: int = 1, *, switch: bool = False) -> Rec:
        lsn = start_of(self.slot)
        if switch:
            self.slot = (self.slot // SLOTS + 1) * SLOTS
        else:
            self.slot += slots
        end = end_of(self.slot)
        if fact is not None:
            fact = replace(fact, lsn=lsn)
            if isinstance(fact, Event | RestorePoint):
                fact = replace(fact, end=end)
        rec = Rec(lsn, end, self.prev, fact, switch)
        self.world.records[self.timeline].append(rec)
        self.prev = lsn
        return rec

    def event(
        self, at: int, xid: int, kind: EventKind = EventKind.COMMIT, *, slots: int = 1, gid: str | None = None
    ) -> Event:
        rec = self.write(Event(kind, Lsn(0), Lsn(0), xid, CommitTime(T0 + at), gid), slots)
        assert isinstance(rec.fact, Event)
        return rec.fact

    def commit(self, at: int, xid: int, slots: int = 1) -> Event:
        return self.event(at, xid, slots=slots)

    def point(self, name: str, at: int) -> RestorePoint:
        rec = self.write(RestorePoint(Lsn(0), Lsn(0), name, CommitTime(T0 + at)))
        assert isinstance(rec.fact, RestorePoint)
        return rec.fact

    def checkpoint(self, at: int) -> Rec:
        whole = (T0 + at) // SECOND * SECOND
        return self.write(Checkpoint(Lsn(0), Lsn(0), self.timeline, self.timeline, CommitTime(whole), False))

    def change(self, wal_level: int = 1, *, connections: int = 100) -> Rec:
        return self.write(ParameterChange(Lsn(0), connections, 8, 10, 0, 64, wal_level))

    def switch(self) -> Rec:
        return self.write(switch=True)

    @property
    def position(self) -> Lsn:
        """The insert position: where the next record starts."""
        return start_of(self.slot)

    def sample(self, at: int) -> None:
        self.world.horizons.append(Horizon(CommitTime(T0 + at), self.position, self.timeline))

    def backup(self, name: str, at: int, *, during: int = 1, limits: Limits = LIMITS) -> BaseBackup:
        """A base backup from here on: a record, `during` slots of others' records, its end record."""
        start = self.position
        self.checkpoint(at)
        for _ in range(during):
            self.write()
        return self.finish_backup(name, start, at, limits)

    def finish_backup(self, name: str, start: Lsn, at: int, limits: Limits = LIMITS) -> BaseBackup:
        stop = self.write()
        made = BaseBackup(
            name, self.timeline, start, stop.end, CommitTime(T0 + at), CommitTime(T0 + at), 1000, 500, limits
        )
        self.world.backups.append(made)
        return made

    def archive(self) -> None:
        """Archive every segment of this timeline that is full by now."""
        first = self.world.path(self.timeline).begin(self.timeline) // SIZE or 1
        for number in range(first, self.slot // SLOTS):
            self.world.present.add(Segment(self.timeline, number))

    def fork(self, timeline: int) -> Writer:
        """Another timeline that leaves this one here."""
        parent = self.world.path(self.timeline)
        forks = (*parent.forks, Fork(self.timeline, end_of(self.slot)))
        self.world.histories[timeline] = TimelineHistory(timeline, forks)
        return Writer(self.world, timeline, self.slot, self.prev)


def new_world() -> tuple[World, Writer]:
    world = World(records={}, histories={}, present=set())
    return world, Writer(world, 1, SLOTS, Lsn(0))


# --- at random -------------------------------------------------------------------------------------


def random_world(random: Random) -> World:
    """Clock steps, long records, switches, backups, forks, holes, damage, samples, all at random."""
    world, main = new_world()
    clock = 0
    xid = 700
    writers = [main]
    open_backups: list[tuple[Writer, Lsn]] = []
    for step in range(random.randint(10, 70)):
        writer = random.choice(writers) if random.random() < 0.3 else writers[-1]
        clock += random.choice([0, 1, 1, SECOND, 3 * SECOND, 10 * SECOND])
        if random.random() < 0.06:
            clock += random.choice([-20 * SECOND, -3 * SECOND, -2, 30 * SECOND])
        slots = random.choice([1, 1, 1, 2, 4, 9, 16, 37])
        match random.randint(0, 13):
            case 0 | 1 | 2 | 3:
                xid += 1
                writer.event(clock - random.choice([0, 0, 1, 30]), xid, slots=slots)
            case 4:
                xid += 1
                kind = random.choice(list(EventKind))
                writer.event(clock, random.choice([xid, xid - 1, xid - 2]), kind, slots=slots)
            case 5:
                writer.write(slots=slots)
            case 6:
                writer.switch()
            case 7 | 8:
                writer.sample(clock)
            case 9:
                writer.checkpoint(clock)
            case 10:
                writer.point(random.choice("abc"), clock)
            case 11:
                writer.change(0 if random.random() < 0.15 else 1, connections=random.choice([100, 200, 300]))
            case 12:
                if len(writers) < 4 and random.random() < 0.5:
                    writers.append(writer.fork(len(writers) + 1))
            case _:
                open_backups.append((writer, writer.position))
        if open_backups and random.random() < 0.5:
            owner, start = open_backups.pop()
            owner.finish_backup(f"b{step}", start, clock + random.choice([0, SECOND]))
    for writer in writers:
        for _ in range(random.randint(0, 2)):
            writer.switch()
        writer.archive()
    _spoil(world, random)
    world.current = random.choice([writer.timeline for writer in writers])
    return world


def _spoil(world: World, random: Random) -> None:
    for segment in sorted(world.present):
        if random.random() < 0.04:
            world.present.discard(segment)
        elif random.random() < 0.02:
            world.damaged[segment] = Lsn(segment.number * SIZE + random.randrange(SLOTS) * SLOT + 0x1000)
    if random.random() < 0.05 and world.histories:
        del world.histories[max(world.histories)]
