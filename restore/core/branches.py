"""Which timeline paths there are, and the shortest one that leads to a stop point."""

from __future__ import annotations

from restore.core.model import BaseBackup, View, WalKnowledge
from restore.core.search import record_end
from restore.core.walk import Branch
from walarchiver.core.history import TimelineHistory
from walarchiver.core.lsn import Lsn


def known_timelines(view: View) -> tuple[int, ...]:
    """Every timeline that anything is recorded of, ascending."""
    found = {view.current_timeline, *view.histories}
    found.update(run.timeline for run in view.runs)
    found.update(backup.timeline for backup in view.backups)
    for history in view.histories.values():
        found.update(history.path)
    return tuple(sorted(found))


def path_to(view: View, timeline: int) -> TimelineHistory | None:
    """The path that ends on `timeline`; None when its history is not recorded.

    PostgreSQL refuses a numeric target timeline above 1 without its history file
    (xlogrecovery.c, validateRecoveryParameters).
    """
    if timeline in view.histories:
        return view.histories[timeline]
    return TimelineHistory(timeline) if timeline == 1 else None


def shortest(knowledge: WalKnowledge, branch: Branch, backup: BaseBackup, stop: Lsn) -> Branch:
    """The branch that ends on the timeline of the record at `stop`, when its files suffice.

    A stop before a fork is the same state on the parent's path and on the child's. The parent's is
    preferred: PostgreSQL writes the new timeline's history as a child of the *target* timeline
    (xlog.c, StartupXLOG), which would claim a descent from a timeline that never got that far. The
    parent's last segment may exist as `.partial` only; then the child's copy is needed.
    """
    view, path = branch.view, branch.path
    timeline = branch.timeline_at(stop)
    if timeline == path.timeline:
        return branch
    ancestor = path_to(view, timeline)
    if ancestor is None:
        return branch
    shorter = Branch(view, ancestor, knowledge)
    needed = record_end(branch, stop)
    return shorter if shorter.walk(backup).end >= needed else branch


def diverge(one: TimelineHistory, other: TimelineHistory) -> Lsn | None:
    """Where two paths part: the first position whose records differ; None when they are the same."""
    if one == other:
        return None
    common: int | None = None
    for mine, theirs in zip(one.path, other.path, strict=False):
        if mine != theirs or one.begin(mine) != other.begin(theirs):
            break
        common = mine
    if common is None:
        return Lsn(0)
    ends = [end for end in (one.end(common), other.end(common)) if end is not None]
    return min(ends)
