"""What the catalog says of the application's bucket: tie points, pieces of its index, pins, journals."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

from walarchiver.core.moment import CommitTime
from walarchiver.format.records import (
    BucketIndexRecord,
    BucketJournalRecord,
    PinRecord,
    Record,
    TieRecord,
)
from walarchiver.projecting import parsed_row

HOUR_US = 3_600_000_000


class BucketRows(ABC):
    """The part of a catalog that answers about the bucket."""

    @abstractmethod
    def _rows(self, sql: str, *values: object) -> list[tuple[object, ...]]: ...

    @abstractmethod
    def _records(self, kind: str, name: str | None = None) -> Iterator[Record]: ...

    @abstractmethod
    def names(self, kind: str) -> list[str]: ...

    def ties_near(self, bucket: str, time: CommitTime, *, within_us: int = HOUR_US) -> list[TieRecord]:
        """The tie points whose entries are not further from `time` than that, and a minute; oldest first."""
        sql = (
            "SELECT content FROM record JOIN entry USING (seq) WHERE kind='tie' AND name=?"
            " AND time BETWEEN ? AND ? ORDER BY seq, idx"
        )
        margin = within_us + HOUR_US // 60
        found = map(parsed_row, self._rows(sql, bucket, time - margin, time + margin))
        return [one for one in found if isinstance(one, TieRecord) and abs(one.before - time) <= within_us]

    def index_generations(self, bucket: str) -> list[str]:
        """The generations of a bucket's index of which pieces are recorded, oldest first."""
        names = self.names(BucketIndexRecord.kind)
        return [name.removeprefix(f"{bucket}/") for name in names if name.startswith(f"{bucket}/")]

    def index_pieces(self, bucket: str, generation: str) -> list[BucketIndexRecord]:
        """The pieces of one generation by number; of several with one number the first."""
        found: dict[int, BucketIndexRecord] = {}
        for record in self._records(BucketIndexRecord.kind, f"{bucket}/{generation}"):
            if isinstance(record, BucketIndexRecord):
                found.setdefault(record.n, record)
        return [found[n] for n in sorted(found)]

    def index_writer(self, bucket: str, generation: str) -> str | None:
        """The signer of the newest piece of a generation; None without any."""
        sql = (
            "SELECT writer FROM record JOIN entry USING (seq) WHERE kind='bucket_index' AND name=?"
            " ORDER BY seq DESC, idx DESC LIMIT 1"
        )
        rows = self._rows(sql, f"{bucket}/{generation}")
        return str(rows[0][0]) if rows else None

    def pins(self) -> list[PinRecord]:
        """All pins, oldest first."""
        return [one for one in self._records(PinRecord.kind) if isinstance(one, PinRecord)]

    def bucket_journals(self, journal: str) -> list[BucketJournalRecord]:
        """The pieces of one restore's journal, oldest first."""
        found = self._records(BucketJournalRecord.kind, journal)
        return [one for one in found if isinstance(one, BucketJournalRecord)]
