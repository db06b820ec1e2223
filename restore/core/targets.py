"""Choosing base backup and stop point on one path, per kind of target.

Every `choose_*` looks at the base backups newest first. One whose WAL does not reach its own end is
never consistent and is passed over; if nothing else serves, its broken WAL is the reason given.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from restore.core import search
from restore.core.choice import Choice, Refusal, missing_segments, past_the_end
from restore.core.horizon import horizon
from restore.core.model import Ahead, AtXid, BaseBackup, Verdict
from restore.core.walk import Branch, Walk
from restore.core.windows import first_usable, guard, usable
from restore.core.wording import backup_text, branch_text, end_text, moment
from walarchiver.core.lsn import Lsn, format_lsn
from walarchiver.core.moment import CommitTime
from walarchiver.core.scan import Event, RestorePoint
from walarchiver.core.walpage import settled_lsn


@dataclass(slots=True)
class _Trail:
    """What was passed over on the way, newest base backup first."""

    branch: Branch
    notes: list[str] = field(default_factory=list)
    broken: list[BaseBackup] = field(default_factory=list)
    """Those whose WAL does not reach their own end."""

    def usable(self) -> Iterator[BaseBackup]:
        """The base backups whose WAL reaches their end."""
        for backup in self.branch.candidates():
            if usable(self.branch, backup):
                yield backup
            else:
                self.passed(backup)

    def passed(self, backup: BaseBackup) -> None:
        self.broken.append(backup)
        why = end_text(self.branch.walk(backup).finish, self.branch.size)
        self.notes.append(f"base backup {backup_text(backup)} cannot be made consistent: {why}")

    def refuse(self, what: str, would_serve: Callable[[BaseBackup], bool]) -> Refusal:
        """No base backup serves: because of a broken one that would, or because all are too new."""
        broken = next((backup for backup in self.broken if would_serve(backup)), None)
        if broken is not None:
            walk = self.branch.walk(broken)
            why = end_text(walk.finish, self.branch.size)
            return Refusal(
                past_the_end(walk),
                f"{what} needs base backup {broken.id}, whose own WAL is not whole: {why}",
                tuple(self.notes),
                missing=missing_segments(self.branch, walk),
            )
        candidates = self.branch.candidates()
        newest = first_usable(self.branch, candidates)
        oldest = first_usable(self.branch, candidates[::-1])
        if newest is None or oldest is None:
            where = branch_text(self.branch.path)
            reason = f"there is no base backup on {where} that {what} could start from"
            return Refusal(Verdict.BEFORE_FIRST_BACKUP, reason, tuple(self.notes))
        earliest = guard(self.branch, oldest)
        reason = (
            f"{what} lies before the first moment that can be restored, {moment(earliest)}: "
            f"the oldest base backup is {backup_text(oldest)}"
        )
        proven = horizon(self.branch, self.branch.walk(newest))
        return Refusal(Verdict.BEFORE_FIRST_BACKUP, reason, tuple(self.notes), proven)


def choose_time(branch: Branch, time: CommitTime, *, include_disputed: bool) -> Choice | Refusal:
    """The state at a moment: everything before the first event that is newer."""
    trail = _Trail(branch)
    for backup in branch.candidates():
        earliest = backup.stop_time
        if earliest <= time:
            if not usable(branch, backup):
                trail.passed(backup)
                continue
            earliest = guard(branch, backup)
        if earliest > time:
            trail.notes.append(
                f"base backup {backup_text(backup)} is too new: it shows nothing before {moment(earliest)}"
            )
            continue
        trail.notes.append(
            f"base backup {backup_text(backup)} is the newest that ended, with every event before its "
            f"end, by {moment(time)} (at {moment(earliest)})"
        )
        found = _at_time(branch, backup, time, tuple(trail.notes), include_disputed)
        return found if isinstance(found, Refusal) else replace(found, ahead=_ahead(branch, backup, time))
    return trail.refuse(moment(time), lambda backup: backup.stop_time <= time)


def _at_time(
    branch: Branch, backup: BaseBackup, time: CommitTime, notes: tuple[str, ...], include_disputed: bool
) -> Choice | Refusal:
    walk = branch.walk(backup)
    proven = horizon(branch, walk)
    first = search.first_after(branch, walk, backup.stop_lsn, time)
    if first is None:
        return _idle(branch, backup, time, notes, proven)
    last = search.last_not_after(branch, walk, first.lsn, time)
    disputed = None if last is None else search.disputed_range(branch, walk, first, last)
    if last is not None and include_disputed:
        reason = (
            f"{moment(time)} is reachable: replay ends with the last event up to it, {_event_text(last)}; "
            f"the clock was stepped, so newer events are included"
        )
        return Choice(backup, walk, last.lsn, True, Verdict.REACHABLE, reason, notes, proven, last, disputed)
    reason = (
        f"{moment(time)} is reachable: replay ends just before the first newer event, {_event_text(first)}"
    )
    return Choice(backup, walk, first.lsn, False, Verdict.REACHABLE, reason, notes, proven, first, disputed)


def _ahead(branch: Branch, backup: BaseBackup, time: CommitTime) -> Ahead | None:
    """What is newer than a moment and older in the WAL than all that a base backup reads.

    Looked at is the WAL that joins to it, from the oldest base backup on.
    """
    low = Lsn(branch.walk(backup).first * branch.size)
    older = [one for one in reversed(branch.candidates()) if one.start_lsn < low]
    joined = bisect_left(older, True, key=lambda one: branch.walk(one).end >= low)
    if joined == len(older):
        return None
    walk = branch.walk(older[joined])
    first = search.first_after(branch, walk, Lsn(walk.first * branch.size), time)
    newest = search.newest_time_before(branch, walk, low)
    return None if first is None or newest is None or first.lsn >= low else Ahead(first.lsn, newest)


def _idle(
    branch: Branch, backup: BaseBackup, time: CommitTime, notes: tuple[str, ...], proven: CommitTime | None
) -> Choice | Refusal:
    """No newer event: the end of the WAL is the answer, if the moment is proven to be covered."""
    walk = branch.walk(backup)
    if proven is not None and time <= proven:
        lsn, inclusive = _final(walk)
        reason = (
            f"{moment(time)} is reachable: nothing newer is recorded, and everything up to {moment(proven)} "
            f"is proven to be archived, so the end of the WAL, {format_lsn(walk.end)}, is its state"
        )
        return Choice(backup, walk, lsn, inclusive, Verdict.IDLE, reason, notes, proven)
    why = end_text(walk.finish, branch.size)
    if past_the_end(walk) is Verdict.GAP:
        reason = f"{moment(time)} lies behind a gap: WAL is whole up to {format_lsn(walk.end)}, then {why}"
    else:
        reason = (
            f"{moment(time)} is not proven to be archived: what is archived ends at "
            f"{format_lsn(walk.end)}, and {why}"
        )
    reason += f"; the newest proven moment is {moment(proven)}"
    return Refusal(past_the_end(walk), reason, notes, proven, missing_segments(branch, walk))


def choose_lsn(branch: Branch, asked: Lsn) -> Choice | Refusal:
    """Everything whose records start before a position."""
    lsn = settled_lsn(asked, branch.size)
    what = f"position {format_lsn(asked)}"
    trail = _Trail(branch)
    for backup in branch.candidates():
        if settled_lsn(backup.stop_lsn, branch.size) > lsn:
            trail.notes.append(
                f"base backup {backup_text(backup)} is too new: it ends behind {format_lsn(lsn)}"
            )
            continue
        if not usable(branch, backup):
            trail.passed(backup)
            continue
        trail.notes.append(f"base backup {backup_text(backup)} is the newest that ended by {format_lsn(lsn)}")
        return _at_lsn(branch, backup, lsn, what, tuple(trail.notes))
    return trail.refuse(what, lambda backup: backup.stop_lsn <= lsn)


def _at_lsn(
    branch: Branch, backup: BaseBackup, lsn: Lsn, what: str, notes: tuple[str, ...]
) -> Choice | Refusal:
    walk = branch.walk(backup)
    proven = horizon(branch, walk)
    if lsn > walk.end:
        reason = (
            f"{what} is not archived: replay can reach {format_lsn(walk.end)}, then "
            f"{end_text(walk.finish, branch.size)}"
        )
        return Refusal(past_the_end(walk), reason, notes, proven, missing_segments(branch, walk))
    found = None if lsn == walk.end else branch.next_record(lsn)
    if found is None or found >= walk.end:
        final, inclusive = _final(walk)
        reason = f"{what} is reachable: it is the end of the WAL that is archived, so all of it is replayed"
        return Choice(backup, walk, final, inclusive, Verdict.REACHABLE, reason, notes, proven)
    rounded = "" if found == lsn else f", the first one at or after {format_lsn(lsn)}"
    reason = f"{what} is reachable: replay ends just before the record at {format_lsn(found)}{rounded}"
    return Choice(backup, walk, found, False, Verdict.REACHABLE, reason, notes, proven)


def choose_latest(branch: Branch) -> Choice | Refusal:
    """Everything that can be replayed."""
    trail = _Trail(branch)
    for backup in trail.usable():
        walk = branch.walk(backup)
        lsn, inclusive = _final(walk)
        trail.notes.append(f"base backup {backup_text(backup)} is the newest whose WAL reaches its end")
        why = end_text(walk.finish, branch.size)
        reason = f"the newest restorable state is that at {format_lsn(walk.end)}: {why}"
        proven = horizon(branch, walk)
        return Choice(backup, walk, lsn, inclusive, Verdict.REACHABLE, reason, tuple(trail.notes), proven)
    return trail.refuse("the newest state", lambda _: True)


def choose_xid(branch: Branch, target: AtXid) -> Choice | Refusal:
    """Just after, or just before, the commit or abort of a transaction."""
    trail = _Trail(branch)
    what = f"transaction {target.xid}"
    newest: BaseBackup | None = None
    found: list[Event] = []
    searched_from: Lsn | None = None
    for backup in trail.usable():
        newest = newest or backup
        walk = branch.walk(backup)
        high = walk.end if searched_from is None else min(walk.end, searched_from)
        found += search.ends_of(branch, walk, high, target.xid)
        searched_from = min(high, Lsn(walk.first * branch.size))
        serving = [event for event in found if backup.stop_lsn <= event.lsn < walk.end]
        if serving:
            return _at_xid(branch, backup, serving, target, trail)
    if found:
        event = max(found, key=lambda event: event.lsn)
        text = f"{what}, whose end is {_event_text(event)},"
        return trail.refuse(text, lambda backup: backup.stop_lsn <= event.lsn)
    reason = (
        f"{what} did not end in any WAL that can be replayed; a subtransaction that was kept has no end of "
        "its own, but that of the transaction it belongs to"
    )
    return _unknown(branch, trail, reason, newest)


def _at_xid(branch: Branch, backup: BaseBackup, found: list[Event], target: AtXid, trail: _Trail) -> Choice:
    event = max(found, key=lambda event: event.lsn)
    if len(found) > 1:
        trail.notes.append(
            f"transaction id {target.xid} was used {len(found)} times in this WAL; the newest use is meant"
        )
    trail.notes.append(
        f"base backup {backup_text(backup)} is the newest that ended before {_event_text(event)}"
    )
    walk = branch.walk(backup)
    edge = "just before" if target.before else "with"
    reason = f"transaction {target.xid} is reachable: replay ends {edge} its end, {_event_text(event)}"
    proven = horizon(branch, walk)
    return Choice(
        backup,
        walk,
        event.lsn,
        not target.before,
        Verdict.REACHABLE,
        reason,
        tuple(trail.notes),
        proven,
        event,
    )


def choose_name(branch: Branch, name: str) -> Choice | Refusal:
    """Just after a restore point; one of several names is never guessed."""
    trail = _Trail(branch)
    what = f"restore point {name!r}"
    found: dict[Lsn, tuple[RestorePoint, BaseBackup | None]] = {}
    newest: BaseBackup | None = None
    for backup in trail.usable():
        newest = newest or backup
        walk = branch.walk(backup)
        for point in search.restore_points(branch, walk, Lsn(0), walk.end, name):
            serves = backup if point.lsn >= backup.stop_lsn else None
            known = found.get(point.lsn)
            if known is None or known[1] is None:
                found[point.lsn] = (point, serves)
    points = sorted(found.values(), key=lambda pair: pair[0].lsn)
    if len(points) > 1:
        listed = ", ".join(f"{format_lsn(point.end)} of {moment(point.time)}" for point, _ in points)
        return Refusal(
            Verdict.AMBIGUOUS,
            f"{what} was made {len(points)} times ({listed}); choose one of these positions with lsn:",
            tuple(trail.notes),
            None if newest is None else horizon(branch, branch.walk(newest)),
            candidates=tuple(point for point, _ in points),
        )
    if not points:
        return _unknown(branch, trail, f"there is no {what} in any WAL that can be replayed", newest)
    point, backup_of = points[0]
    if backup_of is None:
        text = f"{what} at {format_lsn(point.lsn)}"
        return trail.refuse(text, lambda backup: backup.stop_lsn <= point.lsn)
    trail.notes.append(f"base backup {backup_text(backup_of)} is the newest that ended before it")
    walk = branch.walk(backup_of)
    reason = f"{what} is reachable: it was made at {format_lsn(point.lsn)} ({moment(point.time)})"
    proven = horizon(branch, walk)
    return Choice(backup_of, walk, point.lsn, True, Verdict.REACHABLE, reason, tuple(trail.notes), proven)


def _unknown(branch: Branch, trail: _Trail, reason: str, newest: BaseBackup | None) -> Refusal:
    if newest is None:
        return trail.refuse("it", lambda _: True)
    walk = branch.walk(newest)
    until = f"{format_lsn(walk.end)}, then {end_text(walk.finish, branch.size)}"
    return Refusal(
        Verdict.UNKNOWN_TARGET, f"{reason} (up to {until})", tuple(trail.notes), horizon(branch, walk)
    )


def _final(walk: Walk) -> tuple[Lsn, bool]:
    """Where a replay of all of a walk ends, and whether that record belongs to it."""
    return (walk.end, False) if walk.last is None else (walk.last, True)


def _event_text(event: Event) -> str:
    kind = event.kind.value.replace("_", " ")
    return f"the {kind} of transaction {event.xid} at {format_lsn(event.lsn)} ({moment(event.time)})"
