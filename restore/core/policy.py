"""What fetch may answer to restore_command: serve, proven absent, or doubt.

PostgreSQL takes "absent" (exit 1) as the end of the archive and may open the database; any doubt
(exit 200) stops it, loses nothing, and a restart goes on. So absence needs proof, and doubt is
the answer wherever proof is missing (docs/format.md, "Proven absent").

What PostgreSQL asks, and why the answers are what they are:
- For every address it tries the timelines of its path from the newest down, skipping those that
  begin later, and takes the first file that it gets (xlogrecovery.c, XLogFileReadAnyTLI). It does
  not skip timelines that had *ended* by then: after "absent" for the child's segment it asks for
  the parent's segment of the same address.
- Inside a plan, therefore, the child's missing segment is doubt, never absent, and the parent's
  copy of an address that the plan takes from the child is doubt too, even when it is recorded:
  replayed, it would bring records that never were on the planned timeline, and an LSN target
  inside them would count as reached.
- Behind a plan's last segment PostgreSQL only reads ahead; nothing there is needed. The planned
  timeline's file is served when recorded (damaged, it is an error like every recorded file that cannot be
  had: never "absent"; `read_ahead` lets the caller say how to do without it), else absent; its parent's
  copy is absent (doubt would stop a recovery that needs nothing more, serving would show it another
  history).
- A timeline off the plan's path is asked only when somebody changed recovery_target_timeline:
  doubt. A path timeline that begins later than the address is skipped by PostgreSQL; asked
  nevertheless, it is absent unless recorded, which would contradict the plan: doubt.
- Segments before a plan's first are never needed by it (pg_rewind may ask): served if recorded on
  the path, else doubt, since later ones are recorded.
- Without a plan a missing segment is a hole exactly when on some known path that would read this
  very file a later segment is recorded; then it is doubt. A timeline whose history is not recorded
  might be anybody's child: any later segment of it is doubt too. Otherwise it is the end.
- Without a plan a recorded segment is served, although a parent's copy past the fork may lead a
  server astray whose child segment is not archived yet; which path the server follows cannot be
  seen from one request. That is what plans are for.
- `.history` is answered from the verified head, plan or not: recovery looks for a free timeline
  number by asking upwards until the first miss, so one false "absent" would use a number twice.
  The history of the plan's own timelines is therefore doubt, and so is, without a plan, that of a timeline
  which has segments but no recorded history. With a plan the latter is absent: where a history is lost for
  good, nothing could be restored any more. The number is then used again by a copy that archives nothing;
  once it does, it meets the other branch's files under its own names, and is refused.
- A plan rests on the bytes that were in force when it was made. What an administrator puts in the place of a
  file later (`supersede`) may end otherwise: doubt.
- `.partial` is never asked by PostgreSQL (the callers decide to use one): doubt. `.backup` is text
  about a backup and never needed: served if recorded, else absent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from restore.core.plan import Plan
from walarchiver.core.history import TimelineHistory
from walarchiver.core.segment import (
    BackupHistoryFile,
    HistoryFile,
    PartialFile,
    Segment,
    SegmentBytes,
    SegmentFile,
    WalFile,
)

FIRST_TIMELINE_HISTORY = "00000001.history"
"""PostgreSQL asks for it at the end of recovery; timeline 1 has no parents, so it never exists."""


@dataclass(frozen=True, slots=True)
class FetchFacts:
    """What the repository says, read in one go."""

    recorded: bool
    """The ledger records the file that is asked."""
    verified_to_head: bool
    """The chain is verified and nothing follows its newest entry."""
    last_segments: Mapping[int, int]
    """Newest recorded segment number of every timeline that has one."""
    histories: Mapping[int, TimelineHistory]
    segment_size: SegmentBytes
    replaced: bool = False
    """An administrator's record about the file came after the plan was made."""


@dataclass(frozen=True, slots=True)
class Serve:
    """Hand out the recorded file, or fail.

    `read_ahead`: it lies behind the plan's last segment, so recovery can do without it. It is no less an
    error when it is damaged; only the next step differs.
    """

    read_ahead: bool = False


@dataclass(frozen=True, slots=True)
class Absent:
    """The file does not exist; `proof` says how that is known."""

    proof: str


@dataclass(frozen=True, slots=True)
class Doubt:
    """Neither: recovery must stop and wait."""

    reason: str


Answer = Serve | Absent | Doubt


def answer(plan: Plan | None, file: WalFile, facts: FetchFacts) -> Answer:
    """What to answer for `file`; see the module's rules."""
    if plan is not None and facts.replaced:
        return Doubt(f"an administrator replaced it after plan {plan.id} was made: make a new plan")
    match file:
        case HistoryFile(timeline):
            return _history(plan, timeline, facts)
        case PartialFile():
            return Doubt("a partial segment is never part of a recovery by itself")
        case BackupHistoryFile():
            return Serve() if facts.recorded else Absent("it is not recorded and never needed")
        case SegmentFile(segment) if plan is not None:
            return _planned(plan, segment, facts)
        case SegmentFile(segment):
            return _unplanned(segment, facts)


def _history(plan: Plan | None, timeline: int, facts: FetchFacts) -> Answer:
    if facts.recorded:
        return Serve()
    if plan is not None and timeline in plan.path.path[1:]:
        return Doubt(f"timeline {timeline} is on the plan's path, but its history is not recorded")
    if plan is None and timeline in facts.last_segments:
        return Doubt(f"segments of timeline {timeline} are recorded, but its history is not")
    if not facts.verified_to_head:
        return Doubt("the ledger is not verified to its head")
    return Absent(f"no history of timeline {timeline} is recorded")


def _planned(plan: Plan, segment: Segment, facts: FetchFacts) -> Answer:
    size = plan.segment_size
    if segment.timeline not in plan.path.path:
        return Doubt(
            f"timeline {segment.timeline} is not on the path of plan {plan.id}; was "
            "recovery_target_timeline changed?"
        )
    if segment.number < plan.path.begin(segment.timeline) // size:
        if facts.recorded:
            return Doubt(f"the plan knows timeline {segment.timeline} only from a later segment on")
        return Absent(f"timeline {segment.timeline} begins later")
    planned = Segment(plan.path.timeline_of_segment(segment.number, size), segment.number)
    inside = segment.number <= plan.last
    if segment != planned:
        if inside:
            return Doubt(f"plan {plan.id} takes this address from timeline {planned.timeline}")
        return Absent(f"on the plan's path this address belongs to timeline {planned.timeline}")
    if facts.recorded:
        return Serve(read_ahead=not inside)
    if segment.number < plan.first:
        return Doubt(f"it lies before the first segment of plan {plan.id} and is not recorded")
    if inside:
        return Doubt(f"plan {plan.id} needs it, but it is not recorded")
    return Absent(f"plan {plan.id} ends before it and it is not recorded")


def _unplanned(segment: Segment, facts: FetchFacts) -> Answer:
    if facts.recorded:
        return Serve()
    if not facts.verified_to_head:
        return Doubt("the ledger is not verified to its head")
    for timeline in sorted({segment.timeline, *facts.histories, *facts.last_segments}):
        later = _later_on_path(segment, timeline, facts)
        if later is not None:
            return Doubt(
                f"it is missing, but {later.name(facts.segment_size)} is recorded: a hole, not the end"
            )
    return Absent("neither it nor a later segment on its path is recorded")


def _later_on_path(segment: Segment, timeline: int, facts: FetchFacts) -> Segment | None:
    """A recorded segment behind `segment` on the path to `timeline`, if that path reads `segment`."""
    size = facts.segment_size
    path = facts.histories.get(timeline)
    if path is None:
        # Unknown ancestry: a younger timeline might descend from this one anywhere.
        last = facts.last_segments.get(timeline, -1)
        related = timeline == segment.timeline or (timeline > max(1, segment.timeline))
        return Segment(timeline, last) if related and last > segment.number else None
    if (
        segment.timeline not in path.path
        or path.timeline_of_segment(segment.number, size) != segment.timeline
    ):
        return None
    for member in reversed(path.path):
        last = facts.last_segments.get(member, -1)
        end = path.end(member)
        # Past its end on this path a member may have been written on, by an old primary.
        within = last if end is None else min(last, end // size - 1)
        if within > segment.number and within >= path.begin(member) // size:
            return Segment(member, within)
    return None
