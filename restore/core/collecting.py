"""Keeps of all transactions what an answer needs, in bounded memory.

Rules:
- Kept are the transactions that changed catalogs or files, and those that did to the watched files what
  was asked for; of the latter at most `limit`, those with the most rows, and the others are counted.
- A transaction that only made and dropped relations of its own and left no file is not kept: temporary
  tables would fill the memory.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

from restore.core.findings import Kind, raw_kinds
from restore.core.joining import Joiner, Transaction, precedes
from walarchiver.core.lsn import Lsn
from walarchiver.core.moment import POSTGRES_EPOCH_US, CommitTime
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
    remapped: list[Lsn] = field(default_factory=list)
    """Where the database's catalogs themselves were rewritten."""
    settled_xid: int | None = None
    _first_mark: NextXid | None = None
    _older: int = 0
    _unmarked: array[int] = field(default_factory=lambda: array("I"))
    """Ids that committed in the asked time, before the WAL told which was the next one."""
    _hits: list[tuple[int, int, Transaction]] = field(default_factory=list)
    """With rows and LSN, so that the least come first when sorted."""

    @property
    def incomplete(self) -> int:
        """Transactions that ended in the asked time and may have begun before what was read."""
        return self._older + len(self._unmarked)

    def add(self, stretch: Touches) -> None:
        self._marks(stretch)
        self.remapped += stretch.remapped
        self._keep_whole(stretch, self.joiner.whole(stretch))
        for one in self.joiner.add(stretch):
            self._keep(one)
        self._trim()

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
        self._hits.append((rows, one.lsn, one))

    def _keep_whole(self, stretch: Touches, whole: Sequence[int]) -> None:
        """As `_keep`, of transactions that are one row group each: there may be thousands in a segment."""
        if not whole:
            return
        rows, bare, asked = stretch.rows, stretch.bare, self.asked
        numbers, ends, lsns = rows.numbers, rows.ends, bare.lsns
        deletes, updates, inserts = (kind in asked.kinds for kind in (Kind.DELETE, Kind.UPDATE, Kind.INSERT))
        low, high = asked.from_us - POSTGRES_EPOCH_US, asked.to_us - POSTGRES_EPOCH_US
        watched = [file in asked.files for file in rows.files]
        committed: set[int] = set()
        hits: list[tuple[int, int, int]] = []
        for index in whole:
            number, end = numbers[index], ends[index]
            if not watched[number]:
                continue
            if bare.commits[end]:
                committed.add(number)
            elif not asked.aborted:
                continue
            inserted, updated, deleted = rows.inserted[index], rows.updated[index], rows.deleted[index]
            meant = (deletes and deleted) or (updates and updated) or (inserts and inserted > 0)
            if meant and low <= bare.times[end] <= high:
                hits.append((inserted + updated + deleted, lsns[end], index))
        self.touched.update(rows.files[number] for number in committed)
        if len(hits) > asked.limit:
            self.omitted += len(hits) - asked.limit
            hits.sort()
            del hits[: -asked.limit]
        for count, lsn, index in hits:
            end = ends[index]
            time = CommitTime(bare.times[end] + POSTGRES_EPOCH_US)
            done = bool(bare.commits[end])
            one = Transaction(rows.xids[index], Lsn(lsn), time, done, rows.touch(index), ())
            self._hits.append((count, lsn, one))

    def _trim(self) -> None:
        """Keep the hits with most rows."""
        more = len(self._hits) - self.asked.limit
        if more > 0:
            self._hits.sort(key=lambda hit: hit[:2])
            del self._hits[:more]
            self.omitted += more

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
        bare = stretch.bare
        low, high = self.asked.from_us - POSTGRES_EPOCH_US, self.asked.to_us - POSTGRES_EPOCH_US
        timely = (
            xid
            for xid, time, committed in zip(bare.xids, bare.times, bare.commits, strict=True)
            if committed and low <= time <= high
        )
        ends = (one for one in stretch.ends if isinstance(one, Ended))
        self._unmarked.extend(timely)
        self._unmarked.extend(one.xid for one in ends if one.kind.is_commit and self._in_time(one))
        mark = self._first_mark
        if mark is not None:
            self._older += sum(precedes(xid, mark.xid) for xid in self._unmarked)
            self._unmarked = array("I")


def _changes(one: Transaction) -> bool:
    """Whether it may have changed what files or row places any older relation has."""
    touch = one.touch
    if one.dropped or touch.created or touch.emptied or touch.databases or touch.truncated:
        return True
    born = {step.new for step in touch.steps if step.old is None}
    return any(step.old is not None and step.old not in born for step in touch.steps)
