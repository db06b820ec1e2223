"""What a plan must say, told once more and naively: from every line that pg_waldump prints, and nothing else.

No scans, no index, no shortcuts: lists of records in WAL order. What the planner decides must be equal.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from restore.core.horizon import SAMPLE_MARGIN_US
from restore.core.model import (
    AtLatest,
    AtLsn,
    AtName,
    AtTime,
    AtXid,
    BaseBackup,
    Decision,
    Horizon,
    Target,
)
from tests.core.evidence import Line, dumped, events_told
from walarchiver.core.history import TimelineHistory
from walarchiver.core.lsn import Lsn
from walarchiver.core.moment import CommitTime, parse_rfc3339
from walarchiver.core.segment import SegmentBytes
from walarchiver.core.walpage import settled_lsn

ENDS = ("commit", "abort", "commit_prepared", "abort_prepared")


@dataclass(frozen=True, slots=True)
class Told:
    """One event of pg_waldump's list."""

    kind: str
    lsn: Lsn
    xid: int
    time: CommitTime

    @property
    def is_commit(self) -> bool:
        return self.kind.startswith("commit")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the decision must say."""

    backup: str
    lsn: Lsn
    inclusive: bool
    last_commit: tuple[Lsn, int, CommitTime] | None
    disputed: tuple[Lsn, Lsn, int, int] | None
    prepared: tuple[int, ...]
    undone: int
    ahead: tuple[Lsn, CommitTime] | None = None


@dataclass(frozen=True)
class Truth:
    """The WAL of one path, and the base backups on it."""

    path: TimelineHistory
    size: SegmentBytes
    lines: list[Line]
    events: list[Told]
    backups: list[BaseBackup]
    horizons: Sequence[Horizon]
    checkpoints: list[tuple[CommitTime, Lsn]]

    @classmethod
    def of(
        cls,
        bin_dir: Path,
        wal: Path,
        path: TimelineHistory,
        first: Lsn,
        *,
        size: SegmentBytes,
        backups: Iterable[BaseBackup],
        horizons: Sequence[Horizon],
        checkpoints: list[tuple[CommitTime, Lsn]],
    ) -> Truth:
        """Read a path's WAL, which is whole from `first` on."""
        lines: list[Line] = []
        for timeline in path.path:
            end = path.end(timeline)
            lines += dumped(bin_dir, wal, timeline, first, end)
            first = first if end is None else end
        events = [
            Told(kind, lsn, xid, parse_rfc3339(time.removesuffix("+00").replace(" ", "T") + "Z"))
            for kind, lsn, xid, time in events_told(lines)
        ]
        on_path = [
            backup
            for backup in backups
            if backup.timeline in path.path
            and ((end := path.end(backup.timeline)) is None or backup.stop_lsn <= end)
        ]
        on_path.sort(key=lambda backup: backup.start_lsn, reverse=True)
        return cls(path, size, lines, events, on_path, horizons, checkpoints)

    def wanted(self, target: Target, *, include: bool = False) -> Wanted | None:
        """What must be decided; None: a refusal."""
        match target:
            case AtTime(time):
                return self._at_time(time, include=include)
            case AtLsn(lsn):
                backup = next(b for b in self.backups if b.stop_lsn <= lsn)
                found = next((line.lsn for line in self.lines if line.lsn >= lsn), None)
                return self._stop(backup, *((self.lines[-1].lsn, True) if found is None else (found, False)))
            case AtXid(xid, before):
                ends = [event.lsn for event in self.events if event.xid == xid and event.kind in ENDS]
                return self._stop(self._newest(ends[-1]), ends[-1], not before)
            case AtName(name):
                (point,) = [
                    line.lsn
                    for line in self.lines
                    if line.word == "RESTORE_POINT" and line.rest.removeprefix(":").strip() == name
                ]
                return self._stop(self._newest(point), point, inclusive=True)
            case AtLatest():
                return self._stop(self.backups[0], self.lines[-1].lsn, inclusive=True)

    def _newest(self, lsn: Lsn) -> BaseBackup:
        return next(backup for backup in self.backups if backup.stop_lsn <= lsn)

    def _at_time(self, time: CommitTime, *, include: bool) -> Wanted | None:
        for backup in self.backups:
            inside = [event.time for event in self._walked(backup) if event.lsn < backup.stop_lsn]
            if max([backup.stop_time, *inside]) <= time:
                break
        else:
            return None
        behind = [event for event in self.events if event.lsn >= backup.stop_lsn]
        first = next((n for n, event in enumerate(behind) if event.time > time), None)
        if first is None:
            if time > self._proven(backup):
                return None
            wanted = self._stop(backup, self.lines[-1].lsn, inclusive=True)
            return replace(wanted, ahead=self._ahead(backup, time))
        last = max((n for n, event in enumerate(behind) if event.time <= time), default=-1)
        ahead = self._ahead(backup, time)
        if last < first:
            return replace(self._stop(backup, behind[first].lsn, inclusive=False), ahead=ahead)
        out = behind[first : last + 1]
        step = max(one.time - after.time for one, after in pairwise(out))
        disputed = (out[0].lsn, out[-1].lsn, len(out), step)
        wanted = self._stop(backup, out[-1].lsn if include else out[0].lsn, inclusive=include)
        return replace(wanted, disputed=disputed, ahead=ahead)

    def _ahead(self, backup: BaseBackup, time: CommitTime) -> tuple[Lsn, CommitTime] | None:
        """The first event newer than a moment before all that a backup reads, and the newest such time."""
        begin, oldest = (one.start_lsn // self.size * self.size for one in (backup, self.backups[-1]))
        held = [event for event in self.events if oldest <= event.lsn < begin and event.time > time]
        return (held[0].lsn, max(event.time for event in held)) if held else None

    def _walked(self, backup: BaseBackup) -> list[Told]:
        """The events from the beginning of the first segment that a recovery reads."""
        begin = backup.start_lsn // self.size * self.size
        return [event for event in self.events if event.lsn >= begin]

    def _stop(self, backup: BaseBackup, lsn: Lsn, inclusive: bool) -> Wanted:
        high = lsn + inclusive
        walked = self._walked(backup)
        commits = [event for event in walked if event.is_commit]
        kept = [(event.lsn, event.xid, event.time) for event in commits if event.lsn < high]
        prepared: dict[int, None] = {}
        for event in walked:
            if event.lsn < high and event.kind == "prepare":
                prepared[event.xid] = None
            elif event.lsn < high and event.kind.endswith("_prepared"):
                prepared.pop(event.xid, None)
        return Wanted(
            backup.id,
            lsn,
            inclusive,
            kept[-1] if kept else None,
            None,
            tuple(prepared),
            len(commits) - len(kept),
        )

    def _proven(self, backup: BaseBackup) -> int:
        """The newest proven moment, trying every claim against every event."""
        walked, end = self._walked(backup), self.lines[-1].lsn
        claims = [(walked[-1].time, walked[-1].lsn)] if walked else []
        begin = backup.start_lsn // self.size * self.size
        claims += [max((one for one in self.checkpoints if one[1] >= begin), default=(CommitTime(0), Lsn(0)))]
        for sample in self.horizons:
            lsn, left = settled_lsn(sample.lsn, self.size), None
            if sample.timeline in self.path.path:
                left = self.path.end(sample.timeline)
                if lsn <= -(-end // self.size) * self.size and (left is None or lsn <= left):
                    claims.append((CommitTime(sample.time - SAMPLE_MARGIN_US), lsn))
        good = [
            time
            for time, lsn in claims
            if all(event.time >= time - SAMPLE_MARGIN_US for event in walked if event.lsn >= lsn)
        ]
        return max(good, default=0)


def as_wanted(decision: Decision) -> Wanted | None:
    """A decision in the same terms."""
    stop, disputed, backup = decision.stop, decision.disputed, decision.backup
    if stop is None or backup is None:
        return None
    last = stop.last_commit
    return Wanted(
        backup.id,
        stop.lsn,
        stop.inclusive,
        None if last is None else (last.lsn, last.xid, last.time),
        None if disputed is None else (disputed.first, disputed.last, disputed.events, disputed.backward_us),
        tuple(event.xid for event in decision.prepared_open),
        decision.undone_commits,
        None if decision.ahead is None else (decision.ahead.first, decision.ahead.newest),
    )
