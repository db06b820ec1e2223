"""What the catalog says of the chain's entries themselves, whatever is recorded in them.

Rule: every answer is one statement, so it belongs to one moment by itself.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

_SEQ_MAX = 2**62


class EntryRows(ABC):
    """The part of a catalog that answers about entries. Times are microseconds since 1970, on the clock
    of the entry's writer."""

    @abstractmethod
    def _rows(self, sql: str, *values: object) -> list[tuple[object, ...]]: ...

    def next_seq(self) -> int:
        """The number that the next entry has."""
        ((top,),) = self._rows("SELECT max(seq) FROM entry")
        return 0 if top is None else int(str(top)) + 1

    def entry_sha256(self, seq: int) -> str | None:
        rows = self._rows("SELECT sha256 FROM entry WHERE seq=?", seq)
        return str(rows[0][0]) if rows else None

    def entry_writer(self, seq: int) -> str | None:
        """The key id that signed a valid entry; None when there is none at that number."""
        rows = self._rows("SELECT writer FROM entry WHERE seq=? AND void=0", seq)
        return str(rows[0][0]) if rows else None

    def head_time_us(self) -> int | None:
        rows = self._rows("SELECT time FROM entry WHERE void=0 ORDER BY seq DESC LIMIT 1")
        return int(str(rows[0][0])) if rows else None

    def begun_us(self) -> int | None:
        """When the first valid entry was written, on its writer's clock."""
        rows = self._rows("SELECT time FROM entry WHERE void=0 ORDER BY seq LIMIT 1")
        return int(str(rows[0][0])) if rows else None

    def newest_valid(self, until: int | None = None) -> tuple[int, str] | None:
        """Number and hash of the last valid entry, or of the last one up to number `until`."""
        sql = "SELECT seq, sha256 FROM entry WHERE void=0 AND seq<=? ORDER BY seq DESC LIMIT 1"
        rows = self._rows(sql, _SEQ_MAX if until is None else until)
        return (int(str(rows[0][0])), str(rows[0][1])) if rows else None

    def holds(self, seq: int, sha256: str) -> bool:
        """Whether just that entry stands at that number, and is valid."""
        return bool(self._rows("SELECT 1 FROM entry WHERE seq=? AND sha256=? AND void=0", seq, sha256))

    def recorded_from(self, seq: int) -> list[tuple[str, str]]:
        """Kind and name of what entries from this number on record, in their order."""
        rows = self._rows("SELECT kind, name FROM record WHERE seq>=? ORDER BY seq, idx", seq)
        return [(str(kind), str(name)) for kind, name in rows]

    def newest_checkpoint(self) -> tuple[int, int] | None:
        """Number and time of the last entry that has a checkpoint."""
        sql = (
            "SELECT seq, entry.time FROM record JOIN entry USING (seq) WHERE kind='checkpoint'"
            " ORDER BY seq DESC LIMIT 1"
        )
        rows = self._rows(sql)
        return (int(str(rows[0][0])), int(str(rows[0][1]))) if rows else None

    def keyring_at(self, seq: int) -> int:
        """The keyring in force at an entry, or at the end of a chain without it; 0 before the first."""
        sql = "SELECT max(CAST(name AS INTEGER)) FROM record WHERE kind='keyring' AND seq<=?"
        ((n,),) = self._rows(sql, seq)
        return 0 if n is None else int(str(n))

    def voids(self) -> list[int]:
        return [int(str(row[0])) for row in self._rows("SELECT seq FROM entry WHERE void=1 ORDER BY seq")]
