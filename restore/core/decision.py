"""From a choice on one path to the Decision that is handed out: files, limits, what is undone."""

from __future__ import annotations

from restore.core import search
from restore.core.branches import shortest
from restore.core.choice import Choice
from restore.core.model import Decision, Limits, Stop, WalKnowledge, WalNeed
from restore.core.walk import Branch
from restore.core.wording import branch_text, counted, coverage_text, moment, stop_text
from walarchiver.core.lsn import format_lsn


def build_decision(branch: Branch, choice: Choice, knowledge: WalKnowledge) -> Decision:
    """The decision that carries `choice` out, on the shortest path that reaches its stop."""
    walk, backup = choice.walk, choice.backup
    stop = Stop(
        lsn=choice.lsn,
        inclusive=choice.inclusive,
        timeline=branch.timeline_at(choice.lsn),
        last_commit=search.last_commit_before(branch, walk, choice.high),
        stop_event=choice.event or search.event_at(branch, choice.lsn),
    )
    final = shortest(knowledge, branch, backup, choice.lsn)
    need = _wal_need(final, branch, choice)
    limits = search.limits_until(branch, walk, backup.start_lsn, choice.high, backup.limits)
    prepared = search.prepared_at(branch, walk, choice.high)
    undone = search.commits_from(branch, walk, choice.high)
    explained = [
        *choice.notes,
        f"{coverage_text(walk, need.first.name(branch.size))} on {branch_text(branch.path)}",
        stop_text(stop),
        *_path_notes(branch, final, stop),
        *_notes(choice, limits),
    ]
    if prepared:
        explained.append(
            "still prepared at the stop, and after it: "
            + ", ".join(repr(event.gid) if event.gid else str(event.xid) for event in prepared)
        )
    explained.append(f"{counted(undone, 'archived commit')} behind the stop will not be there")
    return Decision(
        verdict=choice.verdict,
        reason=choice.reason,
        path=final.path,
        backup=backup,
        stop=stop,
        wal=need,
        disputed=choice.disputed,
        ahead=choice.ahead,
        limits=limits,
        prepared_open=prepared,
        horizon=choice.horizon,
        undone_commits=undone,
        explained=tuple(explained),
    )


def _wal_need(final: Branch, branch: Branch, choice: Choice) -> WalNeed:
    """From the segment of the backup's START to the one where the stop's record ends.

    An exclusive stop needs that record too: PostgreSQL has to read it to stop before it.
    """
    first = choice.backup.start_lsn // branch.size
    last = (search.record_end(branch, choice.lsn) - 1) // branch.size
    count = last - first + 1
    return WalNeed(final.segment(first), final.segment(last), count, count * branch.size)


def _path_notes(branch: Branch, final: Branch, stop: Stop) -> list[str]:
    if final is not branch:
        return [
            f"timeline {final.path.timeline} is the target timeline, since the stop lies before "
            f"{branch_text(branch.path)} leaves it"
        ]
    if stop.timeline != branch.path.timeline:
        return [
            f"the stop lies on timeline {stop.timeline}, but its last file is archived only as timeline "
            f"{branch.path.timeline}'s copy, which is the target timeline therefore"
        ]
    return []


def _notes(choice: Choice, limits: Limits) -> list[str]:
    notes = []
    if choice.disputed is not None:
        disputed = choice.disputed
        notes.append(
            f"clocks: {counted(disputed.events, 'event')} from {format_lsn(disputed.first)} to "
            f"{format_lsn(disputed.last)} are not in the order of their times (largest step back "
            f"{disputed.backward_us} microseconds); "
            + ("they are included" if choice.inclusive else "those up to the asked moment are left out too")
        )
    if choice.ahead is not None:
        notes.append(
            f"clocks: base backup {choice.backup.id} holds events newer than the asked moment, from "
            f"{format_lsn(choice.ahead.first)} on, the newest of {moment(choice.ahead.newest)}: the clock "
            f"was set back behind them, and they are part of the state"
        )
    if limits != choice.backup.limits:
        notes.append("the limits of the primary were raised on the way; the larger ones are set")
    notes.append(f"the newest proven moment is {moment(choice.horizon)}")
    return notes
