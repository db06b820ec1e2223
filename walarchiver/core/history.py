"""Timeline history files: which timeline came from which, and where it left.

Rules (PostgreSQL src/backend/access/transam/timeline.c, readTimeLineHistory):
- A line is `parent TLI <whitespace> switch LSN <whitespace> reason`; blank lines and lines that
  begin with # do not count. A reason may itself contain a line break, so a line that does not
  begin with two readable fields is the rest of a reason.
- Timelines ascend strictly; the file's own number is greater than every parent.
- Switch points need not ascend: after a recovery along timeline 2 that stopped before 2 had begun,
  PostgreSQL names 2 as the parent all the same. Such a parent gave nothing, and the timelines
  before it were left at the earlier of the two points (tliOfPointInHistory, XLogFileReadAnyTLI).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

from walarchiver.core.lsn import Lsn, parse_lsn
from walarchiver.errors import MalformedObject

_LINE = re.compile(r"\s*(\d+)\s+([0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8})(?:\s|$)")


@dataclass(frozen=True, slots=True)
class Fork:
    """History left `parent` at `switch`: records that start at or after it are not inherited."""

    parent: int
    switch: Lsn


@dataclass(frozen=True, slots=True)
class TimelineHistory:
    """The ancestry of one timeline, oldest ancestor first."""

    timeline: int
    forks: tuple[Fork, ...] = ()

    @classmethod
    def parse(cls, timeline: int, content: bytes) -> Self:
        """Read a `.history` file. Raises MalformedObject when the ancestry makes no sense."""
        forks: list[Fork] = []
        for line in content.decode("utf-8", "replace").splitlines():
            match = _LINE.match(line)
            if match is None or line.lstrip().startswith("#"):
                continue
            fork = Fork(int(match[1]), parse_lsn(match[2]))
            if fork.parent <= (forks[-1].parent if forks else 0):  # there is no timeline 0
                raise MalformedObject(f"history of timeline {timeline} is not in ascending order at {line!r}")
            forks.append(fork)
        if not forks or forks[-1].parent >= timeline:
            raise MalformedObject(f"history of timeline {timeline} names no older parent")
        return cls(timeline, tuple(forks))

    @property
    def path(self) -> tuple[int, ...]:
        """Timelines from the oldest ancestor to this one."""
        return (*(fork.parent for fork in self.forks), self.timeline)

    def begin(self, timeline: int) -> Lsn:
        """Where `timeline` begins on this path: the switch point that made it; 0 for the first.

        Raises KeyError when the timeline is not on the path.
        """
        position = self.path.index(timeline) if timeline in self.path else -1
        if position < 0:
            raise KeyError(timeline)
        return Lsn(0) if position == 0 else self.forks[position - 1].switch

    def end(self, timeline: int) -> Lsn | None:
        """Where this path leaves `timeline`; None for its last one. Raises KeyError as `begin`.

        It lies before `begin` where the path took nothing from the timeline.
        """
        if timeline == self.timeline:
            return None
        if timeline not in self.path:
            raise KeyError(timeline)
        return min(fork.switch for fork in self.forks[self.path.index(timeline) :])

    def timeline_of_segment(self, number: int, size: int) -> int:
        """The timeline whose file holds segment `number` on this path.

        The newest timeline whose begin segment is at or before it: a fork inside a segment is
        served from the child's copy, which begins with the parent's bytes
        (PostgreSQL src/backend/access/transam/xlogrecovery.c, XLogFileReadAnyTLI).
        """
        for fork, child in zip(reversed(self.forks), reversed(self.path[1:]), strict=True):
            if fork.switch // size <= number:
                return child
        return self.path[0]
