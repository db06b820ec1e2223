"""Take a listing over into a version index in SQLite.

Rules:
- The listing is read to its end first (spool.py); until then nothing is written and nothing locked.
- Then it is taken over in stretches of keys, each in one transaction and as if only that stretch had been
  listed. A crash leaves whole stretches; giving the same listing again does the rest.
- A key of which nothing changed costs one comparison; only rows that differ are written.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from walarchiver.core.keyhistory import absorb, is_stale
from walarchiver.core.version import StoreMs
from walarchiver.evidence.indexrow import (
    COLUMNS,
    LAST_KEY,
    Facts,
    Stored,
    entry_of,
    is_unchanged,
    key_text,
    row_of,
    simple,
    stored_rows,
)
from walarchiver.evidence.spool import Spool
from walarchiver.evidence.sqliteclasses import Classes
from walarchiver.evidence.sqlitecoverage import Steps, cover, covered_steps
from walarchiver.evidence.sqlitefile import IndexFile

ROWS_AT_ONCE = 50_000
_BULK_ROWS, _PART_OF_SCAN = 50_000, 1_000
_INSERT = f"INSERT OR REPLACE INTO version (key, {COLUMNS}) VALUES ({','.join('?' * 14)})"  # noqa: S608


class Groups:
    """The groups of a listing, with a look at the next one."""

    def __init__(self, groups: Iterator[tuple[bytes, list[Facts]]]) -> None:
        self._groups = groups
        self.head = next(groups, None)

    def up_to(self, end: bytes, rows_max: int) -> Iterator[tuple[bytes, list[Facts]]]:
        """Those before `end`, as long as there were fewer than `rows_max` rows."""
        rows = 0
        while self.head is not None and self.head[0] < end and rows < rows_max:
            taken = self.head
            self.head = next(self._groups, None)
            rows += len(taken[1])
            yield taken


@dataclass
class Counts:
    added: int = 0
    gone: int = 0
    revived: int = 0


class Writes:
    """What one transaction does to the rows of keys."""

    def __init__(self) -> None:
        self._rows: list[tuple[object, ...]] = []
        self._cut: list[tuple[bytes, int]] = []
        self._shadows: list[tuple[object, ...]] = []
        self._changed: list[bytes] = []
        self._more = 0

        self.completions_in_rows: list[tuple[bytes, str]] = []
        """Rows tell from now on when these uploads ended."""

    def put(
        self, key: bytes, old: Sequence[Stored], new: Sequence[Stored], *, is_in_base: bool = False
    ) -> None:
        """`is_in_base`: `old` lies in the base, and nothing of the key here."""
        if is_in_base:
            self._shadows += [(key, row[0], row[1], row[2], row[3], row[11]) for row in old]
            old = ()
        if len(old) > len(new):
            self._cut.append((key, len(new)))
        if old:
            self._rows += [(key, *row) for at, row in enumerate(new) if at >= len(old) or old[at] != row]
        else:
            self._rows += [(key, *row) for row in new]
        self._changed.append(key)
        self._more += len(new) - len(old)

    def write(self, db: sqlite3.Connection, *, is_pending: bool = True) -> None:
        db.executemany("DELETE FROM completion WHERE key=? AND id=?", self.completions_in_rows)
        if not self._changed:
            return
        db.executemany("DELETE FROM version WHERE key=? AND place>=?", self._cut)
        db.executemany(_INSERT, self._rows)
        db.executemany("INSERT OR IGNORE INTO shadow VALUES (?, ?, ?, ?, ?, ?)", self._shadows)
        db.execute("UPDATE counter SET value=value+? WHERE name='rows'", (self._more,))
        if is_pending:
            db.execute("UPDATE counter SET value=value+1 WHERE name='changes'")
            (change,) = db.execute("SELECT value FROM counter WHERE name='changes'").fetchone()
            db.executemany(
                "INSERT OR REPLACE INTO pending VALUES (?, ?)", ((key, change) for key in self._changed)
            )


class Base(Protocol):
    """Rows that lie elsewhere than in the file, as long as nothing of their key changes."""

    def known(self, first: bytes, end: bytes, rows_max: int) -> tuple[dict[bytes, list[Stored]], bytes]:
        """The rows of whole keys from `first` on, about so many; and up to which key these are all."""
        ...


class NoBase:
    """Everything is in the file."""

    def known(self, first: bytes, end: bytes, rows_max: int) -> tuple[dict[bytes, list[Stored]], bytes]:
        del first, rows_max
        return {}, end


class Taking:
    """One listing of a range on its way into the index."""

    def __init__(
        self,
        file: IndexFile,
        classes: Classes,
        base_of: Callable[[sqlite3.Connection], Base],
        *,
        first: bytes,
        end: bytes,
        asked: StoreMs,
    ) -> None:
        self._file, self._classes, self._base_of = file, classes, base_of
        self._from, self._end, self._asked = first, end, asked
        self.counts = Counts()

    def run(self, spool: Spool, *, rows_at_once: int = ROWS_AT_ONCE) -> None:
        groups = Groups(spool.groups())
        self._before_bulk(spool.count)
        while True:
            with self._file.writing() as db:
                upper = self._stretch(db, groups, rows_at_once)
            if upper >= self._end:
                return
            self._from = upper

    def _before_bulk(self, lines: int) -> None:
        """A large B-tree in random order is made much faster at the end: by `observe` of the whole scan."""
        if lines < _PART_OF_SCAN:
            return
        with self._file.reading() as db:
            counters = dict(db.execute("SELECT name, value FROM counter"))
            is_there = db.execute("SELECT 1 FROM sqlite_master WHERE name='by_begin'").fetchone()
        more = counters["rows"] - counters["finished"]
        if is_there and more > max(_BULK_ROWS, counters["finished"] // 4):
            with self._file.writing() as db:
                db.execute("DROP INDEX IF EXISTS by_begin")

    def _stretch(self, db: sqlite3.Connection, groups: Groups, rows_at_once: int) -> bytes:
        """Take over the keys from `_from` on, up to the returned one."""
        known, upper = known_rows(db, self._from, self._end, rows_at_once)
        base, upper = self._base_of(db).known(self._from, upper, rows_at_once)
        taken = dict(groups.up_to(upper, rows_at_once))
        if groups.head is not None and groups.head[0] < upper:
            upper = next(reversed(taken)) + b"\0"
        ended = _completions(db, self._from, upper)
        steps = covered_steps(db, self._from, upper)
        writes = Writes()
        for key, facts in taken.items():
            is_in_base = key in base
            old = base.pop(key) if is_in_base else known.pop(key, [])
            self._key(writes, key, facts, old, ended.get(key), steps, is_in_base=is_in_base)
        for rest in (known, base):
            for key, rows in rest.items():
                if key < upper and any(row[11] is None for row in rows):
                    self._key(writes, key, [], rows, ended.get(key), steps, is_in_base=rest is base)
        writes.write(db)
        cover(db, upper, self._asked, steps)
        return upper

    def _key(
        self,
        writes: Writes,
        key: bytes,
        facts: list[Facts],
        old: list[Stored],
        ended: dict[str, StoreMs] | None,
        steps: Steps,
        *,
        is_in_base: bool,
    ) -> None:
        covered = steps.at(key)
        if is_stale(self._asked, covered):
            return
        if ended is None:
            if old:
                if is_unchanged(facts, old):
                    return
            else:
                new = simple(facts, self._asked)
                if new is not None:
                    self.counts.added += len(new)
                    writes.put(key, old, new)
                    return
        text, name = key_text(key), self._classes.name
        after = absorb(
            [row_of(text, row, name) for row in reversed(old)],
            [entry_of(text, one, name) for one in facts],
            asked=self._asked,
            covered=covered,
            completions=ended,
        )
        if ended is not None:
            there = {row.entry.version_id for row in after.rows}
            writes.completions_in_rows += [(key, version) for version in ended if version in there]
        new = stored_rows(after.rows, self._classes.number)
        if new == old:
            return
        self.counts.added += after.added
        self.counts.gone += after.gone
        self.counts.revived += after.revived
        writes.put(key, old, new, is_in_base=is_in_base)


def known_rows(
    db: sqlite3.Connection, first: bytes, end: bytes, rows_max: int
) -> tuple[dict[bytes, list[Stored]], bytes]:
    """The rows of whole keys from `first` on, about so many; and up to which key these are all."""
    known: dict[bytes, list[Stored]] = {}
    select = f"SELECT key, {COLUMNS} FROM version WHERE key>=? AND key<? ORDER BY key, place LIMIT ?"  # noqa: S608
    last, count = LAST_KEY, 0
    for row in db.execute(select, (first, end, rows_max)):
        key = row[0]
        if key == last:
            known[key].append(row[1:])
        else:
            known[key] = [row[1:]]
            last = key
        count += 1
    if count < rows_max:
        return known, end
    rest = f"SELECT {COLUMNS} FROM version WHERE key=? AND place>=? ORDER BY place"  # noqa: S608
    known[last] += db.execute(rest, (last, len(known[last]))).fetchall()
    return known, last + b"\0"


def _completions(db: sqlite3.Connection, first: bytes, end: bytes) -> dict[bytes, dict[str, StoreMs]]:
    ended: dict[bytes, dict[str, StoreMs]] = {}
    for key, version, at in db.execute("SELECT * FROM completion WHERE key>=? AND key<?", (first, end)):
        ended.setdefault(key, {})[version] = at
    return ended
