"""What transactions did to the tables asked for, as rows of an answer.

Rules:
- A rewrite or a move of a table loses nothing and is told apart; only if asked for is it a finding.
- The target just before a transaction is the start of the record that ended it; the id says the same
  as long as it was given out once. A dropped database's files go when its own record is replayed, which
  stands before the commit: there the target is that record's start, and no id says it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from restore.core.catalogsteps import Fate
from restore.core.filehistory import FileHistory, Loss
from restore.core.joining import Transaction
from restore.core.tables import Table
from walarchiver.core.lsn import Lsn
from walarchiver.core.relfile import RelFile
from walarchiver.core.touch import Rows


class Kind(StrEnum):
    """What can be asked for."""

    DELETE = "delete"
    UPDATE = "update"
    TRUNCATE = "truncate"
    DROP = "drop"
    INSERT = "insert"
    REWRITE = "rewrite"
    """A new file with the same rows (VACUUM FULL, CLUSTER, ALTER TABLE), or a move."""
    UNCLEAR = "unclear"
    """The file was given up in a way that is not understood: always told."""


LOSSES = frozenset({Kind.DELETE, Kind.UPDATE, Kind.TRUNCATE, Kind.DROP})
_KIND_OF_FATE = {
    Fate.DROP: Kind.DROP,
    Fate.TRUNCATE: Kind.TRUNCATE,
    Fate.REWRITE: Kind.REWRITE,
    Fate.MOVE: Kind.REWRITE,
    Fate.UNCLEAR: Kind.UNCLEAR,
}


@dataclass(slots=True)
class Part:
    """What one transaction did to one table."""

    table: str
    rows: Rows = field(default_factory=Rows)
    kinds: set[Kind] = field(default_factory=set)


@dataclass(slots=True)
class Finding:
    """One transaction."""

    transaction: Transaction
    before: Lsn
    """Replay that stops before the record here has nothing of it."""
    by_xid: bool
    """Whether `before-xid` names the same place."""
    parts: list[Part]

    @property
    def rows(self) -> Rows:
        total = Rows()
        for part in self.parts:
            total.add(part.rows)
        return total

    @property
    def kinds(self) -> frozenset[Kind]:
        return frozenset(kind for part in self.parts for kind in part.kinds)


def kinds_of_rows(rows: Rows) -> set[Kind]:
    found = set()
    if rows.deleted:
        found.add(Kind.DELETE)
    if rows.updated:
        found.add(Kind.UPDATE)
    if rows.inserted > 0:
        found.add(Kind.INSERT)
    return found


def raw_kinds(transaction: Transaction, files: frozenset[RelFile]) -> set[Kind]:
    """The kinds that row counts alone tell, before the files' fates are known."""
    found: set[Kind] = set()
    for file, rows in transaction.touch.rows.items():
        if file in files:
            found |= kinds_of_rows(rows)
    return found


def findings(
    transactions: Iterable[Transaction],
    tables: Sequence[tuple[Table, FileHistory]],
    database: int,
    kinds: frozenset[Kind],
) -> list[Finding]:
    """One finding per transaction that did anything of the `kinds` to any of the tables, in WAL order."""
    copied: dict[tuple[Lsn, RelFile], int] = {}
    for _table, history in tables:
        for loss in history.losses:
            _note_copies(loss, copied)
    by_file = {file: table.name for table, history in tables for file in history.files}
    fates: dict[Lsn, dict[str, set[Kind]]] = {}
    for table, history in tables:
        for loss in history.losses:
            mine = fates.setdefault(loss.transaction.lsn, {}).setdefault(table.name, set())
            mine.add(_KIND_OF_FATE[loss.outcome.fate])
    names = sorted({table.name for table, _ in tables})
    found = []
    for one in transactions:
        finding = _finding(one, by_file, copied, fates.get(one.lsn, {}), names, database)
        if finding.kinds & (kinds | {Kind.UNCLEAR}):
            found.append(finding)
    return found


def _note_copies(loss: Loss, copied: dict[tuple[Lsn, RelFile], int]) -> None:
    """Count the rows that a rewrite copied into the new file before it put it in the old one's place."""
    for lsn, file in loss.outcome.swaps:
        count = sum(rows for at, into, rows in loss.transaction.touch.copies if into == file and at <= lsn)
        copied[loss.transaction.lsn, file] = count


def _finding(
    one: Transaction,
    by_file: Mapping[RelFile, str],
    copied: Mapping[tuple[Lsn, RelFile], int],
    fates: Mapping[str, set[Kind]],
    names: list[str],
    database: int,
) -> Finding:
    parts: dict[str, Part] = {}

    def part(name: str) -> Part:
        return parts.setdefault(name, Part(name))

    for file, rows in one.touch.rows.items():
        if file in by_file:
            mine = part(by_file[file]).rows
            mine.add(rows)
            mine.inserted -= copied.get((one.lsn, file), 0)
    for each in parts.values():
        each.kinds |= kinds_of_rows(each.rows)
    made = {step.file for step in one.touch.created}
    for step in one.touch.emptied:
        if step.file in by_file and step.file in made:  # VACUUM cuts files too, but never new ones
            part(by_file[step.file]).kinds.add(Kind.TRUNCATE)
    for name, kinds in fates.items():
        part(name).kinds |= kinds
    before, by_xid = one.lsn, True
    for gone in one.touch.databases:
        if gone.database == database and not gone.moved and one.committed:
            before, by_xid = gone.lsn, False
            for name in names:
                part(name).kinds.add(Kind.DROP)
    return Finding(one, before, by_xid, sorted(parts.values(), key=lambda each: each.table))
