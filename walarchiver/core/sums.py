"""Sums over consecutive segments, and how a long range falls into blocks that are summed up already.

Rules:
- `followed_by` is associative, so the sums of a block may be kept and put together in any grouping,
  as long as the order stays that of the WAL.
- A block of level k holds BLOCK ** k segments, its number being that of its first one / BLOCK ** k.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from walarchiver.core.lsn import Lsn
from walarchiver.core.moment import CommitTime
from walarchiver.core.scan import Event, SegmentScan

BLOCK = 64
TOP_LEVEL = 3
"""The largest blocks hold 64 ** 3 segments: 4 TiB of WAL in files of 16 MiB."""
ANY_XID = (0, 2**32 - 1)
"""The range of a scan that does not say which transactions end."""


@dataclass(frozen=True, slots=True)
class Sums:
    """What the events and checkpoints of some segments tell together. Times are None without any event."""

    commits: int
    events: int
    oldest: CommitTime | None
    newest: CommitTime | None
    first_time: CommitTime | None
    """Of the first event in WAL order; `last_time` likewise."""
    last_time: CommitTime | None
    backward_us: int
    """Largest step backwards between consecutive event times."""
    checkpoint: tuple[CommitTime, Lsn] | None
    """The newest checkpoint by (time, position)."""
    xids: tuple[int, int] | None = None
    """Lowest and highest 32-bit id of the transactions that end, as plain numbers; None: none ends."""

    def followed_by(self, later: Sums) -> Sums:
        """The sums over these segments and the ones behind them."""
        step = 0
        if self.last_time is not None and later.first_time is not None:
            step = self.last_time - later.first_time
        return Sums(
            commits=self.commits + later.commits,
            events=self.events + later.events,
            oldest=min(_there(self.oldest, later.oldest), default=None),
            newest=max(_there(self.newest, later.newest), default=None),
            first_time=later.first_time if self.first_time is None else self.first_time,
            last_time=self.last_time if later.last_time is None else later.last_time,
            backward_us=max(self.backward_us, later.backward_us, step),
            checkpoint=max((one for one in (self.checkpoint, later.checkpoint) if one), default=None),
            xids=_both(self.xids, later.xids),
        )


NOTHING = Sums(0, 0, None, None, None, None, 0, None)


def _both(one: tuple[int, int] | None, other: tuple[int, int] | None) -> tuple[int, int] | None:
    if one is None or other is None:
        return one or other
    return min(one[0], other[0]), max(one[1], other[1])


def _there(*times: CommitTime | None) -> list[CommitTime]:
    return [time for time in times if time is not None]


def sums_of(scan: SegmentScan) -> Sums:
    """The sums over one whole segment."""
    return Sums(
        commits=scan.commits,
        events=scan.commits + scan.aborts + scan.prepares,
        oldest=scan.min_time,
        newest=scan.max_time,
        first_time=scan.first_event.time if scan.first_event else None,
        last_time=scan.last_event.time if scan.last_event else None,
        backward_us=scan.backward_us,
        checkpoint=max(((one.time, one.lsn) for one in scan.checkpoints), default=None),
        xids=xids_of(scan),
    )


def xids_of(scan: SegmentScan) -> tuple[int, int] | None:
    """Between which ids lie those of all transactions that end in a segment; None when none does."""
    if not scan.commits and not scan.aborts:
        return None
    if scan.min_xid is None or scan.max_xid is None:
        return ANY_XID
    return scan.min_xid, scan.max_xid


def sums_of_events(events: Sequence[Event]) -> Sums:
    """The sums over some events in WAL order, no checkpoint being known."""
    sums = NOTHING
    for event in events:
        time = event.time
        xids = (event.xid, event.xid) if event.kind.ends_transaction else None
        sums = sums.followed_by(Sums(int(event.kind.is_commit), 1, time, time, time, time, 0, None, xids))
    return sums


def blocks(first: int, last: int) -> list[tuple[int, int, int]]:
    """Segments first..last as (level, first block, last block), in order and as large as they fit.

    At most two entries a level; empty when last < first.
    """
    before: list[tuple[int, int, int]] = []
    behind: list[tuple[int, int, int]] = []
    low, high = first, last + 1
    for level in range(TOP_LEVEL):
        up = min(high, -(-low // BLOCK) * BLOCK)
        if low < up:
            before.append((level, low, up - 1))
        down = max(up, high // BLOCK * BLOCK)
        if down < high:
            behind.append((level, down, high - 1))
        low, high = -(-up // BLOCK), down // BLOCK
        if low >= high:
            return before + behind[::-1]
    return [*before, (TOP_LEVEL, low, high - 1), *behind[::-1]]
