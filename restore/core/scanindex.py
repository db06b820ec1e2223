"""What the planner asks of an index over scans, so that it need not look at every segment of a walk.

Rules:
- An index speaks of *stretches*: segments first..last of one timeline that are whole and fit together.
  What lies between stretches is looked at segment by segment, so no answer rests on how far they reach.
- Without an index every segment is looked at: the answers are the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from walarchiver.core.lsn import Lsn
from walarchiver.core.moment import CommitTime
from walarchiver.core.sums import Sums


@dataclass(frozen=True, slots=True)
class Horizon:
    """At `time` the server's insert position was `lsn` on `timeline`."""

    time: CommitTime
    lsn: Lsn
    timeline: int


class ScanIndex(Protocol):
    """Sums over segments. Ranges first..last, both included, lie inside one stretch."""

    def whole_until(self, timeline: int, number: int) -> int | None:
        """The last segment such that `number` up to it are whole and each fits to the one before, the one
        behind it fitting too; None when that cannot be said of `number` itself."""
        ...

    def sums(self, timeline: int, first: int, last: int) -> Sums:
        """All sums of a range."""
        ...

    def commits(self, timeline: int, first: int, last: int) -> int:
        """How many commits a range holds."""
        ...

    def oldest(self, timeline: int, first: int, last: int) -> CommitTime | None:
        """The oldest event time of a range; None without any event."""
        ...

    def newest(self, timeline: int, first: int, last: int) -> CommitTime | None:
        """The newest event time of a range; None without any event."""
        ...

    def newest_checkpoint(self, timeline: int, first: int, last: int) -> tuple[CommitTime, Lsn] | None:
        """Time and position of the newest checkpoint of a range."""
        ...

    def first_newer(self, timeline: int, first: int, last: int, time: CommitTime) -> int | None:
        """The first segment of a range that holds an event after `time`."""
        ...

    def last_not_newer(self, timeline: int, first: int, last: int, time: CommitTime) -> int | None:
        """The last segment of a range that holds an event up to `time`."""
        ...

    def last_with_commits(self, timeline: int, first: int, last: int) -> int | None:
        """The last segment of a range with a commit."""
        ...

    def last_with_events(self, timeline: int, first: int, last: int) -> int | None:
        """The last segment of a range with any event."""
        ...

    def first_with_xid(self, timeline: int, first: int, last: int, xid: int) -> int | None:
        """The first segment of a range in which a transaction of that 32-bit id can have ended."""
        ...

    def listing(self, timeline: int, first: int, last: int, what: str, name: str = "") -> Sequence[int]:
        """The segments from first to last (any numbers) that are in the index and have `what`: `limits`,
        `minimal` (a change to wal_level=minimal), or a `point` (restore point) of that name."""
        ...

    def chains(self, timeline: int, first: int, last: int) -> Sequence[tuple[int, int]]:
        """The parts of a range (any numbers) that are in the index and fit together, in order."""
        ...

    def prepared(self, timeline: int, first: int, last: int) -> Sequence[tuple[int, list[tuple[int, bool]]]]:
        """What a range's segments say of prepared transactions, in order: the segment's number, and each
        transaction id with whether it was prepared there (else a transaction prepared before was ended)."""
        ...


class SampleIndex(Protocol):
    """Horizon samples, newest time first."""

    def by_position(self, timeline: int, low: Lsn, high: Lsn) -> Iterable[Horizon]:
        """Those of a timeline with positions low..high, both included."""
        ...

    def by_time(self, timeline: int, low: CommitTime, high: CommitTime) -> Iterable[Horizon]:
        """Those of a timeline with times low..high, both included."""
        ...

    def up_to(self, timeline: int, high: Lsn) -> Iterable[Horizon]:
        """Those of a timeline with positions up to `high`."""
        ...


class ListedSamples:
    """The samples of a list."""

    def __init__(self, samples: Iterable[Horizon]) -> None:
        self._samples = sorted(samples, key=lambda sample: sample.time, reverse=True)

    def by_position(self, timeline: int, low: Lsn, high: Lsn) -> Iterable[Horizon]:
        """Those of a timeline with positions low..high, both included."""
        return (one for one in self._samples if one.timeline == timeline and low <= one.lsn <= high)

    def by_time(self, timeline: int, low: CommitTime, high: CommitTime) -> Iterable[Horizon]:
        """Those of a timeline with times low..high, both included."""
        return (one for one in self._samples if one.timeline == timeline and low <= one.time <= high)

    def up_to(self, timeline: int, high: Lsn) -> Iterable[Horizon]:
        """Those of a timeline with positions up to `high`."""
        return self.by_position(timeline, Lsn(0), high)
