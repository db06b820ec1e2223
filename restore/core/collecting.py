"""Keeps of all transactions what an answer needs, in bounded memory.

Rules:
- Kept are the transactions that changed catalogs or files, and those that did to the watched files what
  was asked for; of the latter at most `limit`, those with the most rows, and the others are counted.
- A transaction that only made and dropped relations of its own and left no file is not kept: temporary
  tables would fill the memory.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

from restore.core.findings import Kind, raw_kinds
from restore.core.joining import Joiner, Transaction, precedes
from walarchiver.core.lsn import Lsn
from walarchiver.core.relfile import RelFile
from walarchiver.core.touch import Ended, NextXid, Touches


@dataclass(frozen=True, slots=True)
class Asked:
    """What to keep."""

    files: frozenset[RelFile]
    kinds: frozenset[Kind]
    from_us: int
    to_us: int
    limit: int
    aborted: bool = False


@dataclass(slots=True)
class Collector:
    """Takes stretches in WAL order."""

    asked: Asked
    complete: bool
    """Whether the WAL given reaches back to where everything began that ends in the asked time."""
    joiner: Joiner = field(default_factory=Joiner)
    changes: list[Transaction] = field(default_factory=list)
    """What changed relations or files, whenever it ended."""
    touched: set[RelFile] = field(default_factory=set)
    """Watched files that committed transactions wrote rows of."""
    omitted: int = 0
    incomplete: int = 0
    """Transactions that ended in the asked time and may have begun before what was read."""
    remapped: list[Lsn] = field(default_factory=list)
    """Where the database's catalogs themselves were rewritten."""
    settled_xid: int | None = None
    _first_mark: NextXid | None = None
    _hits: list[tuple[int, int, Transaction]] = field(default_factory=list)

    def add(self, stretch: Touches) -> None:
        self._marks(stretch)
        self.remapped += stretch.remapped
        for one in self.joiner.add(stretch):
            self._keep(one)

    def transactions(self) -> list[Transaction]:
        """All that was kept and ended in the asked time, in WAL order."""
        found = {one.lsn: one for one in self.changes if self._in_time(one) and one.committed}
        found.update({one.lsn: one for _rows, _lsn, one in self._hits})
        return [found[lsn] for lsn in sorted(found)]

    def _in_time(self, one: Transaction | Ended) -> bool:
        return self.asked.from_us <= one.time <= self.asked.to_us

    def _keep(self, one: Transaction) -> None:
        if one.committed:
            self.touched.update(file for file in one.touch.rows if file in self.asked.files)
            if _changes(one):
                self.changes.append(one)
        elif not self.asked.aborted:
            return
        if not self._in_time(one) or not raw_kinds(one, self.asked.files) & self.asked.kinds:
            return
        rows = sum(each.deleted + each.updated + each.inserted for each in one.touch.rows.values())
        heapq.heappush(self._hits, (rows, one.lsn, one))
        if len(self._hits) > self.asked.limit:
            heapq.heappop(self._hits)
            self.omitted += 1

    def _marks(self, stretch: Touches) -> None:
        marks = sorted(stretch.next_xids, key=lambda mark: mark.lsn)
        for mark in marks:
            if mark.oldest and (self.settled_xid is None or precedes(self.settled_xid, mark.oldest)):
                self.settled_xid = mark.oldest
        if self._first_mark is None and marks:
            self._first_mark = marks[0]
        if not self.complete:
            self._count_older(stretch)

    def _count_older(self, stretch: Touches) -> None:
        """Count the commits in time that are older than the first mark of what was read."""
        mark = self._first_mark
        ends = [one for one in stretch.ends if isinstance(one, Ended)]
        ends += stretch.bare.of({xid for xid in stretch.bare.xids if mark is None or precedes(xid, mark.xid)})
        for one in ends:
            older = mark is None or precedes(one.xid, mark.xid)
            self.incomplete += older and one.kind.is_commit and self._in_time(one)


def _changes(one: Transaction) -> bool:
    """Whether it may have changed what files or row places any older relation has."""
    touch = one.touch
    if one.dropped or touch.created or touch.emptied or touch.databases or touch.truncated:
        return True
    born = {step.new for step in touch.steps if step.old is None}
    return any(step.old is not None and step.old not in born for step in touch.steps)
