"""Joins what consecutive stretches of WAL tell into whole transactions.

Rules:
- A transaction counts when its top-level commit does, with the subtransactions that the commit
  names. A prepared one counts when COMMIT PREPARED comes, however much later and on whichever server.
- What had not ended when the server stopped never will, unless it is prepared.
- Most transactions of a busy table change its rows once and end soon: those stay in columns (`whole`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from walarchiver.core.lsn import Lsn
from walarchiver.core.moment import CommitTime
from walarchiver.core.relfile import RelFile
from walarchiver.core.scan import EventKind
from walarchiver.core.touch import NO_END, Ended, Stopped, Touch, Touches


@dataclass(frozen=True, slots=True)
class Transaction:
    """One top-level transaction with all that its committed parts did; for an aborted one, with all."""

    xid: int
    lsn: Lsn
    """Start of the record that ended it."""
    time: CommitTime
    committed: bool
    touch: Touch
    dropped: tuple[RelFile, ...]
    """In the order of the commit record: the newest drop first."""


def precedes(one: int, other: int) -> bool:
    """Whether 32-bit id `one` was given out before `other` (transam.c, TransactionIdPrecedes)."""
    return (one - other) & 0xFFFFFFFF >= 0x80000000


@dataclass(slots=True)
class Joiner:
    """Takes the stretches of one path in WAL order; gives the transactions that end in each."""

    open: dict[int, Touch] = field(default_factory=dict)
    """What transactions did that have not ended yet."""
    prepared: set[int] = field(default_factory=set)

    def whole(self, stretch: Touches) -> bytes:
        """Of each row group of `stretch`, 1: it is all that a transaction did, which ended there without
        subtransactions; 0: it is not, and was taken in. To be asked before `add`."""
        rows = stretch.rows
        there = set(rows.xids)
        mixed = {
            xid for known in (self.open, stretch.touches, self.prepared) for xid in known if xid in there
        }
        if len(there) < len(rows.xids):
            mixed.update(xid for xid, count in Counter(rows.xids).items() if count > 1)
        if any(isinstance(end, Stopped) for end in stretch.ends):
            mixed = there
        found = bytearray(b"\1") * len(rows.xids)
        if not mixed and NO_END not in rows.ends:
            return bytes(found)
        for index, (xid, end) in enumerate(zip(rows.xids, rows.ends, strict=True)):
            if end == NO_END or xid in mixed:
                self._take(xid, rows.touch(index))
                found[index] = 0
        return bytes(found)

    def _take(self, xid: int, touch: Touch) -> None:
        if xid in self.open:
            self.open[xid].go_on(touch)
        else:
            self.open[xid] = touch

    def add(self, stretch: Touches) -> Iterator[Transaction]:
        """Every other transaction that ends in `stretch` and did anything of interest, in WAL order."""
        for xid, touch in stretch.touches.items():
            self._take(xid, touch)
        ends = [*stretch.ends, *stretch.bare.of(set(self.open))]
        for end in sorted(ends, key=lambda one: one.lsn):
            if isinstance(end, Stopped):
                self._stop(end.lsn)
            elif end.kind is EventKind.PREPARE:
                self.prepared.update((end.xid, *end.subxids))
            else:
                whole = self._end(end)
                if whole is not None:
                    yield whole

    def _end(self, end: Ended) -> Transaction | None:
        touch = Touch()
        for xid in (end.xid, *end.subxids):
            self.prepared.discard(xid)
            part = self.open.pop(xid, None)
            if part is not None:
                touch.add(part)
        if not touch.last and not (end.dropped and end.kind.is_commit):
            return None
        touch.created.sort(key=lambda step: step.lsn)
        touch.steps.sort(key=lambda step: step.lsn)
        dropped = end.dropped if end.kind.is_commit else ()
        return Transaction(end.xid, end.lsn, end.time, end.kind.is_commit, touch, dropped)

    def _stop(self, lsn: Lsn) -> None:
        """A server's start or end: drop what can never commit."""
        for xid, touch in list(self.open.items()):
            if touch.last < lsn and xid not in self.prepared:
                del self.open[xid]
