"""Recoverable windows: from when to when every second of a path can be restored.

Rule: for a base backup b, the window is [newest event time before its end, but not before its stop
time; horizon of the WAL behind it]. Windows of several backups may overlap.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from restore.core.branches import path_to
from restore.core.horizon import horizon
from restore.core.model import BaseBackup, Nearest, View, WalKnowledge
from restore.core.search import newest_time_before
from restore.core.walk import Branch, EndKind
from restore.core.wording import end_text
from walarchiver.core.lsn import Lsn
from walarchiver.core.moment import CommitTime


@dataclass(frozen=True, slots=True)
class Window:
    """What one base backup makes restorable."""

    backup: BaseBackup
    earliest: CommitTime
    latest: CommitTime | None
    """The newest proven moment; None while no moment behind the backup is proven."""
    end_lsn: Lsn
    """End of the WAL that belongs to it: `latest` and `lsn:` targets reach up to here."""
    end_kind: EndKind
    cause: str
    """Why it ends there, as a clause with the file's name."""


def guard(branch: Branch, backup: BaseBackup) -> CommitTime:
    """The earliest moment that `backup` can show without holding anything newer.

    PostgreSQL silently restores the state of the backup's end for older moments when no commit
    happened while it was taken; this is the check it lacks.
    """
    newest = newest_time_before(branch, branch.walk(backup), backup.stop_lsn)
    return backup.stop_time if newest is None else max(backup.stop_time, newest)


def usable(branch: Branch, backup: BaseBackup) -> bool:
    """Whether the WAL up to the backup's end is there: without it the backup is not consistent."""
    return branch.walk(backup).end >= backup.stop_lsn


def branch_windows(branch: Branch) -> list[Window]:
    """The windows of one path, oldest base backup first."""
    return list(_newest_first(branch))[::-1]


def _newest_first(branch: Branch) -> Iterator[Window]:
    newer: list[Window] = []
    for backup in branch.candidates():
        if usable(branch, backup):
            window = _clipped(_window(branch, backup), newer)
            newer.append(window)
            yield window


def _window(branch: Branch, backup: BaseBackup) -> Window:
    walk = branch.walk(backup)
    cause = end_text(walk.finish, branch.size)
    return Window(backup, guard(branch, backup), horizon(branch, walk), walk.end, walk.finish.kind, cause)


def _clipped(window: Window, newer: list[Window]) -> Window:
    """Without the moments for which a newer base backup is chosen that cannot prove them.

    That happens only after clock steps: an event before the newer one may be later than all behind it.
    """
    latest = window.latest
    for other in newer:
        if latest is not None and latest >= other.earliest:
            until = other.latest if other.latest is not None else CommitTime(other.earliest - 1)
            latest = min(latest, until)
    if latest is not None and latest < window.earliest:
        latest = None
    return replace(window, latest=latest)


def windows(view: View, knowledge: WalKnowledge, timeline: int | None = None) -> list[Window]:
    """The windows of the path to `timeline` (default: the one production is on), oldest first."""
    path = path_to(view, view.current_timeline if timeline is None else timeline)
    return [] if path is None else branch_windows(Branch(view, path, knowledge))


def latest_restorable(view: View, knowledge: WalKnowledge) -> Window | None:
    """The window on production's path whose `latest` is the newest restorable second.

    None when no base backup is restorable at all; `latest` is None when one is, but no moment
    behind it is proven yet. Older backups are looked at only while newer ones prove nothing.
    """
    path = path_to(view, view.current_timeline)
    if path is None:
        return None
    branch = Branch(view, path, knowledge)
    newest_usable: Window | None = None
    for window in _newest_first(branch):
        if window.latest is not None:
            return window
        newest_usable = newest_usable or window
    return newest_usable


def nearest_to_time(branch: Branch, time: CommitTime) -> Nearest:
    """The nearest proven moments of a path on each side of `time`.

    Going back, no proven window ends later than a newer one (`_clipped`): behind the first that began
    by `time` there is nothing nearer.
    """
    before: CommitTime | None = None
    after: CommitTime | None = None
    for window in _newest_first(branch):
        if window.latest is None:
            continue
        if window.latest >= time:
            after = max(window.earliest, time) if after is None else min(after, max(window.earliest, time))
        if window.earliest <= time:
            before = min(window.latest, time)
            break
    return Nearest(before, after)


def nearest_to_lsn(found: list[Window], lsn: Lsn) -> Nearest:
    """The newest proven moment before the position, the earliest of a base backup that ends behind it."""
    before = [w.latest for w in found if w.latest is not None and w.end_lsn <= lsn]
    after = [w.earliest for w in found if w.latest is not None and w.backup.stop_lsn > lsn]
    return Nearest(max(before, default=None), min(after, default=None))
