"""The planner's sentences: how moments, files and choices are put into words.

Rules: times in UTC, LSNs as PostgreSQL prints them, files by name; a reason never blames, and
says what can be done where something can.
"""

from __future__ import annotations

from restore.core.model import BaseBackup, Stop
from restore.core.walk import EndKind, Walk, WalkEnd
from walarchiver.core.history import TimelineHistory
from walarchiver.core.lsn import format_lsn
from walarchiver.core.moment import CommitTime, format_rfc3339
from walarchiver.core.segment import SegmentBytes


def moment(time: CommitTime | None) -> str:
    """An instant, or `none`."""
    return "none" if time is None else format_rfc3339(time)


def branch_text(path: TimelineHistory) -> str:
    """A path such as `timeline 3 (1 until 0/5000000, 2 until 0/7000000)`."""
    if not path.forks:
        return f"timeline {path.timeline}"
    parents = ", ".join(f"{fork.parent} until {format_lsn(fork.switch)}" for fork in path.forks)
    return f"timeline {path.timeline} ({parents})"


def backup_text(backup: BaseBackup) -> str:
    """A base backup and where it begins and ends."""
    return f"{backup.id} ({format_lsn(backup.start_lsn)} to {format_lsn(backup.stop_lsn)})"


def end_text(finish: WalkEnd, size: SegmentBytes) -> str:
    """Why replay cannot go on, as the rest of a sentence about the WAL."""
    name = finish.segment.name(size)
    match finish.kind:
        case EndKind.ARCHIVE:
            return f"{name} is not archived yet"
        case EndKind.HOLE:
            assert finish.later is not None
            return f"{name} is missing, while {finish.later.name(size)} is there"
        case EndKind.DAMAGE:
            return f"{name} does not fit: {finish.detail}"
        case EndKind.MINIMAL:
            return f"in {name} the server changed to wal_level=minimal, which recovery cannot follow"


def coverage_text(walk: Walk, first: str) -> str:
    """How far the WAL reaches."""
    return f"WAL is unbroken from {first} to {format_lsn(walk.end)}"


def stop_text(stop: Stop) -> str:
    """Where replay ends, with the last commit that is kept."""
    edge = "with" if stop.inclusive else "just before"
    where = f"replay ends {edge} the record at {format_lsn(stop.lsn)} on timeline {stop.timeline}"
    if stop.last_commit is None:
        return f"{where}; the last commit kept is older than the base backup's WAL"
    commit = stop.last_commit
    return f"{where}; the last commit kept is transaction {commit.xid} of {moment(commit.time)}"


def counted(number: int, noun: str) -> str:
    """`1 commit`, `2 commits`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
