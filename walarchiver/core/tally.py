"""The running sums of a segment's scan."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from walarchiver.core.decoding import Decoded
from walarchiver.core.moment import CommitTime
from walarchiver.core.scan import Checkpoint, Event, EventKind, ParameterChange, RestorePoint

PREPARED_KINDS = frozenset({EventKind.PREPARE, EventKind.COMMIT_PREPARED, EventKind.ABORT_PREPARED})


def net_prepared(events: Iterable[Event]) -> tuple[Event, ...]:
    """The PREPAREs that are not ended in `events`, and the ends of those prepared before, in order."""
    left: dict[int, list[Event]] = {}
    for event in events:
        mine = left.setdefault(event.xid, [])
        if event.kind is not EventKind.PREPARE and mine and mine[-1].kind is EventKind.PREPARE:
            mine.pop()
        else:
            mine.append(event)
    return tuple(sorted((event for mine in left.values() for event in mine), key=lambda event: event.lsn))


def _least(*values: int | None) -> int | None:
    return min((value for value in values if value is not None), default=None)


def _most(*values: int | None) -> int | None:
    return max((value for value in values if value is not None), default=None)


@dataclass(slots=True)
class EventSums:
    """What a scan tells of the events so far, in LSN order."""

    commits: int = 0
    aborts: int = 0
    prepares: int = 0
    min_time: CommitTime | None = None
    max_time: CommitTime | None = None
    backward_us: int = 0
    """Largest step backwards between consecutive times."""
    first: Event | None = None
    last: Event | None = None
    last_commit: Event | None = None
    min_xid: int | None = None
    """Lowest and highest id of the transactions that ended."""
    max_xid: int | None = None

    def add(self, event: Event) -> None:
        time = event.time
        if self.last is None or self.min_time is None or self.max_time is None:
            self.first, self.min_time, self.max_time = event, time, time
        else:
            self.min_time = min(self.min_time, time)
            self.max_time = max(self.max_time, time)
            self.backward_us = max(self.backward_us, self.last.time - time)
        self.last = event
        self.end_of(event)
        if event.kind.is_commit:
            self.commits += 1
            self.last_commit = event
        elif event.kind is EventKind.PREPARE:
            self.prepares += 1
        else:
            self.aborts += 1

    def end_of(self, event: Event) -> None:
        """Take in the id of a transaction that ended, whatever else is known of it."""
        if event.kind.ends_transaction:
            self.min_xid = _least(self.min_xid, event.xid)
            self.max_xid = _most(self.max_xid, event.xid)

    def followed_by(self, more: EventSums) -> EventSums:
        """The sums over these events and the later ones of `more`."""
        if self.last is None or more.first is None:
            return more if self.last is None else self
        times = [
            time for time in (self.min_time, self.max_time, more.min_time, more.max_time) if time is not None
        ]
        return EventSums(
            commits=self.commits + more.commits,
            aborts=self.aborts + more.aborts,
            prepares=self.prepares + more.prepares,
            min_time=min(times),
            max_time=max(times),
            backward_us=max(self.backward_us, more.backward_us, self.last.time - more.first.time),
            first=self.first,
            last=more.last,
            last_commit=more.last_commit or self.last_commit,
            min_xid=_least(self.min_xid, more.min_xid),
            max_xid=_most(self.max_xid, more.max_xid),
        )


@dataclass(slots=True)
class Tally:
    """The decoded records of one segment, summed up as they come; all `events` only when kept."""

    keep_events: bool
    sums: EventSums = field(default_factory=EventSums)
    events: list[Event] = field(default_factory=list)
    prepared: list[Event] = field(default_factory=list)
    restore_points: list[RestorePoint] = field(default_factory=list)
    checkpoints: list[Checkpoint] = field(default_factory=list)
    parameter_changes: list[ParameterChange] = field(default_factory=list)

    def add(self, found: Decoded | None) -> None:
        if isinstance(found, Event):
            self.sums.add(found)
        self.list(found)

    def list(self, found: Decoded | None) -> None:
        """As `add`, for what the sums hold already."""
        match found:
            case Event():
                if self.keep_events:
                    self.events.append(found)
                if found.kind in PREPARED_KINDS:
                    self.prepared.append(found)
            case RestorePoint():
                self.restore_points.append(found)
            case Checkpoint():
                self.checkpoints.append(found)
            case ParameterChange():
                self.parameter_changes.append(found)
            case None:
                pass
