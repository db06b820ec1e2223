"""Keeps of all transactions what an answer needs, in bounded memory.

Rules:
- Kept are the transactions that changed catalogs or files, and those that did to the watched files what
  was asked for; of the latter at most `limit`, those with the most rows (of equals the earlier ones), and
  the others are counted.
- A transaction that only made and dropped relations of its own and left no file is not kept: temporary
  tables would fill the memory.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import compress, repeat
from operator import add, or_

from restore.core.findings import Kind, raw_kinds
from restore.core.joining import Joiner, Transaction, precedes
from walarchiver.core.lsn import Lsn
from walarchiver.core.moment import POSTGRES_EPOCH_US, CommitTime
from walarchiver.core.relfile import RelFile
from walarchiver.core.touch import NO_END, Ended, NextXid, RowGroups, Touches


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
    """With rows (negative) and LSN, so that the least come last when sorted."""

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
        self._hits.append((-rows, one.lsn, one))

    def _keep_whole(self, stretch: Touches, whole: bytes) -> None:
        """As `_keep`, of transactions that are one row group each.

        There may be 100 000 in a segment, so columns are gone through by what needs no step per row.
        """
        if 1 not in whole:
            return
        rows, bare, asked = stretch.rows, stretch.bare, self.asked
        others = {number for number, file in enumerate(rows.files) if file not in asked.files}
        if not others.isdisjoint(rows.numbers):
            whole = _both(whole, bytes(number not in others for number in rows.numbers))
        done = whole
        if 0 in bare.commits:
            done = _both(whole, bytes(end != NO_END and bare.commits[end] for end in rows.ends))
        self.touched.update(rows.files[number] for number in set(compress(rows.numbers, done)))
        meant = _both(whole if asked.aborted else done, _of_kinds(rows, asked.kinds))
        low, high = asked.from_us - POSTGRES_EPOCH_US, asked.to_us - POSTGRES_EPOCH_US
        if min(bare.times) < low or max(bare.times) > high:
            timely = (end != NO_END and low <= bare.times[end] <= high for end in rows.ends)
            meant = _both(meant, bytes(timely))
        counts = [*map(add, map(add, rows.inserted, rows.updated), rows.deleted)]
        more = meant
        if len(self._hits) == asked.limit:
            more = _both(meant, bytes(map((-self._hits[-1][0]).__lt__, counts)))
        best = list(compress(range(len(more)), more))
        if len(best) > asked.limit:
            best.sort(key=lambda one: (-counts[one], rows.ends[one]))
            del best[asked.limit :]
        self.omitted += meant.count(1) - len(best)
        for one in best:
            end = rows.ends[one]
            time, lsn = CommitTime(bare.times[end] + POSTGRES_EPOCH_US), Lsn(bare.lsns[end])
            done_by = Transaction(rows.xids[one], lsn, time, bool(bare.commits[end]), rows.touch(one), ())
            self._hits.append((-counts[one], lsn, done_by))

    def _trim(self) -> None:
        """Keep the hits with most rows."""
        more = len(self._hits) - self.asked.limit
        if more >= 0:
            self._hits.sort(key=lambda hit: hit[:2])
            del self._hits[self.asked.limit :]
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


def _both(one: bytes, other: bytes) -> bytes:
    """1 where both are."""
    return (int.from_bytes(one, "little") & int.from_bytes(other, "little")).to_bytes(len(one), "little")


def _of_kinds(rows: RowGroups, kinds: frozenset[Kind]) -> bytes:
    """Of each row group, whether it is of the kinds asked for, as `findings.kinds_of_rows` has them."""
    found: Iterable[int] = repeat(0, len(rows.xids))
    if Kind.DELETE in kinds:
        found = map(or_, found, rows.deleted)
    if Kind.UPDATE in kinds:
        found = map(or_, found, rows.updated)
    if Kind.INSERT in kinds:
        found = map(or_, found, map((0).__lt__, rows.inserted))
    return bytes(map(bool, found))


def _changes(one: Transaction) -> bool:
    """Whether it may have changed what files or row places any older relation has."""
    touch = one.touch
    if one.dropped or touch.created or touch.emptied or touch.databases or touch.truncated:
        return True
    born = {step.new for step in touch.steps if step.old is None}
    return any(step.old is not None and step.old not in born for step in touch.steps)
