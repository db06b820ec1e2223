"""Parts of a version index in Parquet: sorted by key, never changed, read by DuckDB in process.

Rules:
- DuckDB is a library here: it works in memory, opens only the files named, and never reaches the network.
- A part holds whole keys; parts do not overlap. What is selected comes in the order of keys, part by part, so
  that one part's rows are what lies in memory at most.
- Whatever fails in a part leaves as IndexUnavailable.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb

from walarchiver.errors import IndexUnavailable, MalformedObject
from walarchiver.evidence.indexrow import COLUMNS, LAST_KEY, Stored, key_bytes, key_text, packed, unpacked
from walarchiver.evidence.parquetrows import write_table
from walarchiver.evidence.sqlitequestions import Bounds

PART_ROWS = 250_000
_GROUP_ROWS = 20_480
"""What is opened for one key."""
_FETCH = 5_000
_MEMORY = "1GB"
_THREADS = 2
_NAMES = ("key", *COLUMNS.split(", "))
_SELECT_ALL = f"SELECT {', '.join(_NAMES)} FROM"
_TEXTS = frozenset({"key", "id", "etag"})
Value = str | int | list[str] | None
Column = str | int | None


@dataclass(frozen=True, slots=True)
class Part:
    """A file, with its first and last key."""

    name: str
    first: bytes
    last: bytes
    rows: int

    def meets(self, within: Bounds) -> bool:
        return self.last >= within[0] and self.first < within[1]


class Shelf:
    """The folder of the parts. Thread-safe."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._db = duckdb.connect(
            ":memory:",
            config={
                "threads": _THREADS,
                "memory_limit": _MEMORY,
                "temp_directory": str(folder / "spill"),
                "preserve_insertion_order": True,
                "autoinstall_known_extensions": False,
                "autoload_known_extensions": False,
            },
        )

    def select(
        self,
        parts: Sequence[Part],
        columns: str,
        condition: str,
        values: Sequence[Value],
        within: Bounds,
        *,
        tail: str = "",
    ) -> Iterator[tuple[Column, ...]]:
        """Columns of the rows that meet the condition, in key order. The texts are ours, `values` are not."""
        for part in parts:
            if part.meets(within):
                yield from self._run(f"SELECT {columns} FROM", [part], condition, values, within, tail)

    def sums(
        self,
        parts: Sequence[Part],
        columns: Sequence[str],
        condition: str,
        values: Sequence[Value],
        within: Bounds,
    ) -> tuple[int, ...]:
        """Aggregates over all rows that meet the condition."""
        met = [part for part in parts if part.meets(within)]
        if not met:
            return tuple(0 for _ in columns)
        select = f"SELECT {', '.join(columns)} FROM"
        (line,) = self._run(select, met, condition, values, within, "")
        return tuple(int(value or 0) for value in line)

    def _run(
        self,
        select: str,
        parts: Sequence[Part],
        condition: str,
        values: Sequence[Value],
        within: Bounds,
        tail: str,
    ) -> Iterator[tuple[Column, ...]]:
        first, end = within
        conditions, bound = [condition], [*values]
        if any(part.first < first for part in parts):
            conditions.append("key >= ?")
            bound.append(key_text(first))
        if end != LAST_KEY and any(part.last >= end for part in parts):
            conditions.append("key < ?")
            bound.append(key_text(end))
        paths = [str(self.folder / part.name) for part in parts]
        sql = f"{select} read_parquet(?) WHERE {' AND '.join(conditions)} {tail}"
        with self._failing(), contextlib.closing(self._db.cursor()) as cursor:
            cursor.execute(sql, [paths, *bound])
            while lines := cursor.fetchmany(_FETCH):
                yield from lines

    def histories(self, parts: Sequence[Part], keys: Sequence[bytes]) -> dict[bytes, list[Stored]]:
        """All rows of several keys."""
        found: dict[bytes, list[Stored]] = {}
        within = (min(keys), max(keys) + b"\0")
        wanted = sorted(keys)
        for part in parts:
            if not part.meets(within):
                continue
            texts = [key_text(key) for key in wanted if part.first <= key <= part.last]
            if texts:
                marks = "key IN (SELECT unnest(?))" if len(texts) > 1 else "key = ?"
                value = texts if len(texts) > 1 else texts[0]
                order = "ORDER BY key, place"
                for line in self._run(_SELECT_ALL, [part], marks, [value], within, order):
                    key, stored = stored_of(line)
                    found.setdefault(key, []).append(stored)
        return found

    def rows(
        self,
        parts: Sequence[Part],
        within: Bounds,
        *,
        condition: str = "true",
        values: Sequence[Value] = (),
        rows_max: int | None = None,
    ) -> Iterator[tuple[bytes, Stored]]:
        """Whole rows in key order; of each part at most `rows_max`."""
        tail = "" if rows_max is None else f"LIMIT {rows_max}"
        for part in parts:
            if part.meets(within):
                for line in self._run(_SELECT_ALL, [part], condition, values, within, tail):
                    yield stored_of(line)

    def write(self, name: str, rows: Iterable[tuple[bytes, Stored]]) -> int:
        """Write a part, durably; how many rows."""
        target = self.folder / name
        spelled = (_spelled(key, stored) for key, stored in rows)
        try:
            self.folder.mkdir(exist_ok=True)
            count = write_table(_NAMES, _TEXTS, spelled, target, group_rows=_GROUP_ROWS)
            for path in (target, self.folder):
                handle = os.open(path, os.O_RDONLY)
                try:
                    os.fsync(handle)
                finally:
                    os.close(handle)
        except (OSError, MalformedObject) as fault:
            raise IndexUnavailable(f"a part cannot be written in {self.folder}: {fault}") from fault
        return count

    def files(self) -> list[str]:
        return sorted(path.name for path in self.folder.glob("*.parquet"))

    def remove(self, name: str) -> None:
        (self.folder / name).unlink(missing_ok=True)

    def close(self) -> None:
        self._db.close()

    @contextlib.contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except duckdb.Error as error:
            told = str(error).splitlines()[0]
            raise IndexUnavailable(f"a part in {self.folder} cannot be read: {told}") from error


def stored_of(line: tuple[Column, ...]) -> tuple[bytes, Stored]:
    """A row as SQLite has it, behind its key."""
    key = line[0]
    row: list[object] = [*line[1:]]
    row[5], row[6] = packed(str(row[5] or "")), packed(str(row[6] or ""))
    return key_bytes(str(key)), tuple(row)  # type: ignore[return-value]  # the columns of COLUMNS


def _spelled(key: bytes, stored: Stored) -> tuple[Column, ...]:
    place, begin, until, size, flags, version_id, etag, *rest = stored
    return (key_text(key), place, begin, until, size, flags, unpacked(version_id), unpacked(etag), *rest)
