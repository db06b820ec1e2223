"""What the catalog says of horizon samples: the server's clock and position, as recorded now and then.

Rules:
- There may be one a segment, over weeks: no question about a moment reads them all.
- Every answer is one statement, so it belongs to one moment by itself.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

from walarchiver.core.lsn import Lsn
from walarchiver.core.moment import CommitTime
from walarchiver.format.records import HorizonRecord

_PAGE = 256
_SQLITE_MAX = 2**63 - 1


class SampleRows(ABC):
    """The part of a catalog that answers about samples. Both ends of every range are included."""

    @abstractmethod
    def _rows(self, sql: str, *values: object) -> list[tuple[object, ...]]: ...

    def horizons(self) -> list[HorizonRecord]:
        """All horizon samples, oldest first."""
        return [
            _sample(row) for row in self._rows("SELECT time, lsn, timeline FROM horizon ORDER BY time, lsn")
        ]

    def samples_by_position(self, timeline: int, low: Lsn, high: Lsn) -> list[HorizonRecord]:
        """The samples of a timeline in a range of positions, newest time first."""
        sql = (
            "SELECT time, lsn, timeline FROM horizon WHERE timeline=? AND lsn BETWEEN ? AND ?"
            " ORDER BY +time DESC, lsn DESC"
        )
        return [_sample(row) for row in self._rows(sql, timeline, *_bounded(low, high))]

    def samples_by_time(self, timeline: int, low: CommitTime, high: CommitTime) -> list[HorizonRecord]:
        """The samples of a timeline in a range of times, newest first."""
        sql = (
            "SELECT time, lsn, timeline FROM horizon INDEXED BY horizon_by_time WHERE timeline=?"
            " AND time BETWEEN ? AND ? ORDER BY time DESC"
        )
        return [_sample(row) for row in self._rows(sql, timeline, *_bounded(low, high))]

    def samples_up_to(self, timeline: int, high: Lsn) -> Iterator[HorizonRecord]:
        """The samples of a timeline up to a position, newest time first, fetched as they are taken."""
        sql = (
            "SELECT time, lsn, timeline FROM horizon INDEXED BY horizon_by_time WHERE timeline=? AND lsn<=?"
            " ORDER BY time DESC, lsn DESC LIMIT ? OFFSET ?"
        )
        offset = 0
        while rows := self._rows(sql, timeline, min(high, _SQLITE_MAX), _PAGE, offset):
            yield from map(_sample, rows)
            offset += len(rows)

    def newest_sample(self, timeline: int, low: Lsn, high: Lsn) -> CommitTime | None:
        """The newest time of the samples of a timeline in a range of positions."""
        sql = "SELECT max(time) FROM horizon WHERE timeline=? AND lsn BETWEEN ? AND ?"
        ((time,),) = self._rows(sql, timeline, *_bounded(low, high))
        return None if time is None else CommitTime(int(str(time)))

    def last_sample_us(self, timeline: int) -> int | None:
        """When the newest horizon sample of a timeline entered the ledger, on its writer's clock."""
        sql = (
            "SELECT entry.time FROM horizon INDEXED BY horizon_in_order JOIN entry USING (seq)"
            " WHERE timeline=? ORDER BY seq DESC LIMIT 1"
        )
        rows = self._rows(sql, timeline)
        return int(str(rows[0][0])) if rows else None


def _bounded(low: int, high: int) -> tuple[int, int]:
    return max(low, -_SQLITE_MAX), min(high, _SQLITE_MAX)


def _sample(row: tuple[object, ...]) -> HorizonRecord:
    time, lsn, timeline = (int(str(value)) for value in row)
    return HorizonRecord(time=CommitTime(time), lsn=Lsn(lsn), timeline=timeline)
