"""The planner's rules once more, naively: whole record lists, no scans, no shortcuts.

And PostgreSQL's own behaviour at an LSN target, literally, on exactly the files of a plan.
"""

from __future__ import annotations

from dataclasses import dataclass

from restore.core.horizon import SAMPLE_MARGIN_US
from restore.core.model import BaseBackup, Decision, Verdict
from tests.restore_core.synthetic import SIZE, Rec, World
from walarchiver.core.history import TimelineHistory
from walarchiver.core.lsn import Lsn
from walarchiver.core.scan import Checkpoint, Event
from walarchiver.core.segment import Segment


@dataclass(frozen=True)
class Expected:
    """Where replay must end, or with which verdict the target must be refused."""

    verdict: Verdict
    backup: BaseBackup | None = None
    lsn: Lsn | None = None
    inclusive: bool | None = None


def events_of(recs: list[Rec]) -> list[Event]:
    return [rec.fact for rec in recs if isinstance(rec.fact, Event)]


def candidates(world: World, path: TimelineHistory) -> list[BaseBackup]:
    """Base backups on the path, newest first."""
    on_path = []
    for backup in world.backups:
        if backup.timeline in path.path:
            end = path.end(backup.timeline)
            if end is None or backup.stop_lsn <= end:
                on_path.append(backup)
    return sorted(on_path, key=lambda b: (b.start_lsn, b.stop_lsn, b.id), reverse=True)


def is_usable(recs: list[Rec], backup: BaseBackup) -> bool:
    return bool(recs) and recs[-1].end >= backup.stop_lsn


def past_end(world: World, path: TimelineHistory, recs: list[Rec], start: Lsn) -> Verdict:
    """Whether what follows the last record is the archive's end or a gap."""
    broken_at = next(
        rec
        for rec in [*world.on_path(path), Rec(Lsn(2**40), Lsn(2**40 + 8), Lsn(0))]
        if rec.lsn // SIZE >= start // SIZE and rec not in recs
    )
    cut = recs[-1].end if recs else Lsn(start // SIZE * SIZE)
    following = {world.file(path, n) for n in range((cut - 1) // SIZE, 4000)}
    if (
        broken_at.fact is not None
        and getattr(broken_at.fact, "wal_level", 1) == 0
        and world.readable(path, broken_at)
    ):
        return Verdict.GAP
    missing = next(
        n
        for n in range(cut // SIZE, 4000)
        if world.file(path, n) not in world.present or _bad(world, path, n)
    )
    if _bad(world, path, missing):
        return Verdict.GAP
    later = [file for file in following if file in world.present and file.number > missing]
    return Verdict.GAP if later else Verdict.NOT_PROVEN


def _bad(world: World, path: TimelineHistory, number: int) -> bool:
    file = world.file(path, number)
    return file in world.present and file in world.damaged


def proven(world: World, path: TimelineHistory, recs: list[Rec]) -> int | None:
    """The newest proven moment, trying every claim against every event."""
    end = recs[-1].end
    claims: list[tuple[int, int]] = []
    for sample in world.horizons:
        page = sample.lsn // 8192 * 8192
        header = 40 if page % SIZE == 0 else 24
        lsn = page if sample.lsn - page <= header else sample.lsn
        if sample.timeline in path.path and lsn <= end:
            limit = path.end(sample.timeline)
            if limit is None or lsn <= limit:
                claims.append((sample.time - SAMPLE_MARGIN_US, lsn))
    events = events_of(recs)
    if events:
        claims.append((events[-1].time, events[-1].lsn))
    checkpoints = [rec.fact for rec in recs if isinstance(rec.fact, Checkpoint)]
    if checkpoints:
        claims.append(max((check.time, check.lsn) for check in checkpoints))
    good = [
        time
        for time, lsn in claims
        if all(event.time >= time - SAMPLE_MARGIN_US for event in events if event.lsn >= lsn)
    ]
    return max(good, default=None)


def at_time(world: World, path: TimelineHistory, time: int, *, include: bool = False) -> Expected:
    """The normative rule for a moment, word by word."""
    broken: BaseBackup | None = None
    for backup in candidates(world, path):
        recs = world.replayable(path, backup.start_lsn)
        if not is_usable(recs, backup):
            if backup.stop_time <= time:
                broken = broken or backup
            continue
        before = [event.time for event in events_of(recs) if event.lsn < backup.stop_lsn]
        if max([backup.stop_time, *before]) > time:
            continue
        behind = [event for event in events_of(recs) if event.lsn >= backup.stop_lsn]
        newer = [event for event in behind if event.time > time]
        if newer:
            older_behind = [event for event in behind if event.time <= time and event.lsn > newer[0].lsn]
            if include and older_behind:
                return Expected(Verdict.REACHABLE, backup, older_behind[-1].lsn, True)
            return Expected(Verdict.REACHABLE, backup, newer[0].lsn, False)
        horizon = proven(world, path, recs)
        if horizon is not None and time <= horizon:
            return whole(world, path, backup, recs, Verdict.IDLE)
        return Expected(past_end(world, path, recs, backup.start_lsn))
    if broken is not None:
        recs = world.replayable(path, broken.start_lsn)
        return Expected(past_end(world, path, recs, broken.start_lsn))
    return Expected(Verdict.BEFORE_FIRST_BACKUP)


def ahead(world: World, backup: BaseBackup, path: TimelineHistory, time: int) -> list[Event]:
    """The events newer than a moment in the WAL before a base backup's, as far as older ones' reaches it."""
    low = backup.start_lsn // SIZE * SIZE
    for older in reversed(candidates(world, path)):
        recs = world.replayable(path, older.start_lsn)
        if older.start_lsn < low and recs and recs[-1].end >= low:
            return [event for event in events_of(recs) if event.lsn < low and event.time > time]
    return []


def whole(
    world: World, path: TimelineHistory, backup: BaseBackup, recs: list[Rec], verdict: Verdict
) -> Expected:
    """All that can be replayed: with the last record, or before a change to wal_level=minimal."""
    following = [rec for rec in world.on_path(path) if rec.lsn > recs[-1].lsn]
    if following and getattr(following[0].fact, "wal_level", 1) == 0 and world.readable(path, following[0]):
        return Expected(verdict, backup, following[0].lsn, False)
    return Expected(verdict, backup, recs[-1].lsn, True)


def recover(world: World, decision: Decision) -> list[Rec]:
    """What PostgreSQL replays with the decision's files and target; raises AssertionError for a FATAL.

    Records are read one by one. With inclusive off it stops before the first record that starts at
    or after the target; with on, after it. It must be consistent by then (recovery.md 2.1, 2.2).
    """
    assert decision.stop is not None
    assert decision.backup is not None
    assert decision.wal is not None
    need = decision.wal
    path = decision.path
    files = {
        Segment(path.timeline_of_segment(number, SIZE), number)
        for number in range(need.first.number, need.last.number + 1)
    }
    assert files <= world.present, "the plan names files that are not archived"
    assert need.count == len(files)
    replayed: list[Rec] = []
    for rec in world.on_path(path):
        if rec.lsn < decision.backup.start_lsn:
            continue
        assert world.readable(path, rec, files), "FATAL: recovery ended before the target was reached"
        if not decision.stop.inclusive and rec.lsn >= decision.stop.lsn:
            break
        replayed.append(rec)
        if decision.stop.inclusive and rec.lsn >= decision.stop.lsn:
            break
    consistent = replayed[-1].end if replayed else decision.backup.start_lsn
    assert consistent >= decision.backup.stop_lsn, "FATAL: stop point is before consistent recovery point"
    return replayed
