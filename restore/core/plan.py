"""Plan: what is written beside a restored data directory, and what fetch obeys.

Rules:
- A plan is a value: made once from a Decision, never changed; another target is another plan.
- It names everything a restore needs besides the repository and a key, so that a restart after a
  crash, or another host, goes on with exactly the same choices.
- Its JSON form is in planfile.py.
"""

from __future__ import annotations

from dataclasses import dataclass

from restore.core.model import Decision, Stop, Verdict, View
from restore.core.recoveryconf import Settings
from walarchiver.core.history import TimelineHistory
from walarchiver.core.segment import Segment, SegmentBytes

PLAN_SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class Plan:
    """One restore, decided."""

    id: str
    cluster: str
    system: int
    major: int
    segment_size: SegmentBytes
    repository: str
    """Repository id (v1/REPO), so that a plan is not obeyed against another repository."""
    path: TimelineHistory
    first: int
    """Number of the first segment that recovery reads: the one with the backup's START LSN."""
    last: int
    """Number of the last segment that recovery needs."""
    stop: Stop
    backup: str
    requested: str
    """What was asked, in the words of --at, times in UTC."""
    made_at: int
    """Microseconds since 1970 UTC on the planning host's clock."""
    verdict: Verdict
    keys: tuple[str, ...]
    """Epoch ids that must be opened for this restore."""
    settings: Settings
    ledger: int
    """So many entries of the ledger the plan rests on; they say what every file's bytes are."""

    def segments(self) -> tuple[Segment, ...]:
        """Every segment that recovery needs, in replay order."""
        return tuple(self.segment(number) for number in range(self.first, self.last + 1))

    def segment(self, number: int) -> Segment:
        """The one file that may serve segment `number` under this plan."""
        return Segment(self.path.timeline_of_segment(number, self.segment_size), number)


def make_plan(
    decision: Decision,
    view: View,
    *,
    plan_id: str,
    repository: str,
    requested: str,
    made_at: int,
    keys: tuple[str, ...],
    settings: Settings,
) -> Plan:
    """The plan of a decision that is reachable (a refusal has none: assert)."""
    assert decision.backup is not None, "a refusal has no plan"
    assert decision.stop is not None, "a refusal has no plan"
    assert decision.wal is not None, "a refusal has no plan"
    return Plan(
        id=plan_id,
        cluster=view.cluster,
        system=view.system,
        major=view.major,
        segment_size=view.segment_size,
        repository=repository,
        path=decision.path,
        first=decision.wal.first.number,
        last=decision.wal.last.number,
        stop=decision.stop,
        backup=decision.backup.id,
        requested=requested,
        made_at=made_at,
        verdict=decision.verdict,
        keys=keys,
        settings=settings,
        ledger=view.ledger_seq,
    )
