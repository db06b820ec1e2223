"""Recoverable windows: from when to when every second of a path can be restored.

Rule: for a base backup b, the window is [newest event time before its end, but not before its stop
time; horizon of the WAL behind it]. Windows of several backups may overlap.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

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


def first_usable(branch: Branch, backups: Iterable[BaseBackup]) -> BaseBackup | None:
    """The first of some base backups that is usable."""
    return next((backup for backup in backups if usable(branch, backup)), None)


def branch_windows(branch: Branch) -> list[Window]:
    """The windows of one path, oldest base backup first."""
    return list(_newest_first(branch, branch.candidates()))[::-1]


def _newest_first(branch: Branch, backups: Sequence[BaseBackup]) -> Iterator[Window]:
    """The windows of base backups that are given newest first; those that are not usable have none."""
    newer: list[Window] = []
    for backup in backups:
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
    for window in _newest_first(branch, branch.candidates()):
        if window.latest is not None:
            return window
        newest_usable = newest_usable or window
    return newest_usable


def nearest_to_time(branch: Branch, time: CommitTime) -> Nearest:
    """The nearest proven moments of a path on each side of `time`."""
    found = _nearest_in_order(branch, time)
    return _nearest_of_all(branch, time) if found is None else found


def _nearest_of_all(branch: Branch, time: CommitTime) -> Nearest:
    """As `nearest_to_time`, going back over the windows.

    No proven window ends later than a newer one (`_clipped`): behind the first that began by `time`
    there is nothing nearer.
    """
    before: CommitTime | None = None
    after: CommitTime | None = None
    for window in _newest_first(branch, branch.candidates()):
        if window.latest is None:
            continue
        if window.latest >= time:
            after = max(window.earliest, time) if after is None else min(after, max(window.earliest, time))
        if window.earliest <= time:
            before = min(window.latest, time)
            break
    return Nearest(before, after)


def _nearest_in_order(branch: Branch, time: CommitTime) -> Nearest | None:
    """As `nearest_to_time`, from the base backups on both sides of `time` only; None when clock steps
    make others count.

    A window begins no earlier than its base backup ended. So where these ended in the order of their
    positions, the oldest window behind `time` begins first, and the newer ones cut nothing off that counts.
    """
    backups = branch.candidates()
    if any(newer.stop_time <= older.stop_time for newer, older in pairwise(backups)):
        return None
    before: CommitTime | None = None
    for window in _newest_first(branch, [backup for backup in backups if backup.stop_time <= time]):
        if window.earliest > time:
            return None
        if window.latest is not None:
            before = min(window.latest, time)
            if window.latest >= time:
                return Nearest(before, time)
            break
    later = [backup for backup in backups if backup.stop_time > time][::-1]
    for position, backup in enumerate(later, 1):
        shown = _window(branch, backup) if usable(branch, backup) else None
        if shown is not None and shown.latest is not None and shown.latest >= shown.earliest:
            cut = any(newer.stop_time <= shown.earliest for newer in later[position : position + 1])
            return None if cut else Nearest(before, shown.earliest)
    return Nearest(before, None)


def nearest_to_lsn(found: list[Window], lsn: Lsn) -> Nearest:
    """The newest proven moment before the position, the earliest of a base backup that ends behind it."""
    before = [w.latest for w in found if w.latest is not None and w.end_lsn <= lsn]
    after = [w.earliest for w in found if w.latest is not None and w.backup.stop_lsn > lsn]
    return Nearest(max(before, default=None), min(after, default=None))
