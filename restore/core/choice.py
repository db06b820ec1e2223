"""What looking at one path for one target gives: a Choice of stop point, or a Refusal."""

from __future__ import annotations

from dataclasses import dataclass

from restore.core.model import Ahead, BaseBackup, Disputed, Verdict
from restore.core.walk import Branch, EndKind, Walk
from walarchiver.core.lsn import Lsn
from walarchiver.core.moment import CommitTime
from walarchiver.core.scan import Event, RestorePoint
from walarchiver.core.segment import Segment

MISSING_NAMES_MAX = 16


@dataclass(frozen=True, slots=True)
class Choice:
    """A base backup and the record where replay ends."""

    backup: BaseBackup
    walk: Walk
    lsn: Lsn
    inclusive: bool
    verdict: Verdict
    reason: str
    notes: tuple[str, ...]
    """Why this base backup, and whatever else was weighed, a sentence each."""
    horizon: CommitTime | None
    event: Event | None = None
    """The event that replay ends before (or with), when known already."""
    disputed: Disputed | None = None
    ahead: Ahead | None = None

    @property
    def high(self) -> Lsn:
        """Everything that starts before this is replayed, nothing from it on."""
        return Lsn(self.lsn + 1) if self.inclusive else self.lsn


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why this path cannot give the target."""

    verdict: Verdict
    reason: str
    notes: tuple[str, ...]
    horizon: CommitTime | None = None
    missing: tuple[Segment, ...] = ()
    candidates: tuple[RestorePoint, ...] = ()


def past_the_end(walk: Walk) -> Verdict:
    """The verdict on something behind a walk's end."""
    return Verdict.NOT_PROVEN if walk.finish.kind is EndKind.ARCHIVE else Verdict.GAP


def missing_segments(branch: Branch, walk: Walk) -> tuple[Segment, ...]:
    """The files whose absence or damage ends a walk; at most the first 16 of a hole."""
    finish = walk.finish
    match finish.kind:
        case EndKind.ARCHIVE | EndKind.MINIMAL:
            return ()
        case EndKind.DAMAGE:
            return (finish.segment,)
        case EndKind.HOLE:
            assert finish.later is not None
            until = min(finish.later.number, finish.segment.number + MISSING_NAMES_MAX)
            return tuple(branch.segment(number) for number in range(finish.segment.number, until))
