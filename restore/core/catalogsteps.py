"""What one transaction did to relations: which got a new file, which were swapped, born, dropped.

Rules (PostgreSQL relcache.c RelationSetNewRelfilenumber, heap.c heap_create_with_catalog, cluster.c
make_new_heap and swap_relation_files; the same on 14 to 18, seen on real servers):
- Whoever makes a file for a relation writes that relation's pg_class row next: an UPDATE when the
  relation was there (TRUNCATE, REINDEX, SET TABLESPACE), an INSERT when it is new.
- A rewrite (VACUUM FULL, CLUSTER, ALTER TABLE, REFRESH) makes a new relation with a file, then updates
  two rows one behind the other, the old relation's and the new one's: they have exchanged files. The
  new one is dropped at the end, with the old file.
- TRUNCATE keeps the tablespace; a move (SET TABLESPACE) changes it and loses no row.
- Drops of files are noted as they are ordered, and the commit lists them newest first. An exchange of
  one relation's file orders the old file's drop and the new file's making together.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from restore.core.joining import Transaction
from walarchiver.core.relfile import RelFile, Slot
from walarchiver.core.touch import Born, CatalogStep, FileStep, RowOp


class Fate(StrEnum):
    """What became of a relation's file."""

    DROP = "drop"
    TRUNCATE = "truncate"
    REWRITE = "rewrite"
    """Harmless: every row went into the new file."""
    MOVE = "move"
    """Harmless: to another tablespace."""
    UNCLEAR = "unclear"


@dataclass(slots=True)
class Row:
    """One pg_class row within a transaction."""

    before: Slot | None
    """Where it was before the transaction; None for a relation that the transaction made."""
    now: Slot | None
    """Where it is after it; None when it was deleted."""
    files: list[RelFile] = field(default_factory=list)
    """Files that it got, in order."""
    fates: list[Fate] = field(default_factory=list)
    """Of what it had before each of them: TRUNCATE stands for any new file, a MOVE included."""
    swaps: list[tuple[int, RelFile]] = field(default_factory=list)
    """LSN of each exchange of files, and the file that came."""
    said: Born | None = None
    """What the WAL says of a relation that was made."""

    @property
    def born(self) -> bool:
        return self.before is None

    @property
    def died(self) -> bool:
        return self.now is None


def rows_of(transaction: Transaction, database: int) -> list[Row]:
    """The pg_class rows of a database that a transaction changed, and the files they got."""
    reading = _Reading()
    steps: list[CatalogStep | FileStep] = [
        *(step for step in transaction.touch.steps if step.database == database),
        *(step for step in transaction.touch.created if step.file.database == database),
    ]
    for step in sorted(steps, key=lambda one: one.lsn):
        reading.add(step)
    return reading.rows


@dataclass(slots=True)
class _Reading:
    rows: list[Row] = field(default_factory=list)
    pending: RelFile | None = None
    """A file made whose relation has not been written yet."""
    updated: Row | None = None
    """The row that the step before updated, without giving it a file."""

    def _row(self, slot: Slot | None) -> Row:
        for row in reversed(self.rows):
            if row.now == slot:
                return row
        row = Row(slot, slot)
        self.rows.append(row)
        return row

    def add(self, step: CatalogStep | FileStep) -> None:
        if isinstance(step, FileStep):
            self.pending = step.file
            return
        made, self.pending = self.pending, None
        before, self.updated = self.updated, None
        if step.op is RowOp.INSERT:
            self.rows.append(Row(None, step.new, [made] if made else [], said=step.born))
            return
        row = self._row(step.old)
        row.now = step.new
        if step.op is RowOp.DELETE:
            return
        if made is not None:
            row.files.append(made)
            row.fates.append(Fate.TRUNCATE)
        elif before is not None and not before.born and row.born and row.files:
            before.files.append(row.files[-1])  # exchanged: the row now has what the other had
            before.fates.append(Fate.REWRITE)
            before.swaps.append((step.lsn, row.files[-1]))
        else:
            self.updated = row


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a transaction made of a relation whose file it gave up."""

    fate: Fate
    file: RelFile | None = None
    """Its file afterwards; None when it has none, or when that is not known."""
    slot: Slot | None = None
    """Its pg_class row afterwards, if known."""
    doubt: str = ""
    swaps: tuple[tuple[int, RelFile], ...] = ()
    """As in `Row`."""


def outcome_of(row: Row, file: RelFile) -> Outcome:
    """What became of the relation with this row, which had `file` before."""
    if row.died:
        return Outcome(Fate.DROP, swaps=tuple(row.swaps))
    if not row.fates:
        return Outcome(Fate.UNCLEAR, slot=row.now, doubt="its file was removed, but it got no other one")
    fate = Fate.REWRITE
    tablespace = file.tablespace
    for next_file, found in zip(row.files[len(row.files) - len(row.fates) :], row.fates, strict=True):
        if found is Fate.TRUNCATE and next_file.tablespace == tablespace:
            fate = Fate.TRUNCATE
        elif found is Fate.TRUNCATE and fate is Fate.REWRITE:
            fate = Fate.MOVE if len(row.fates) == 1 else fate
        tablespace = next_file.tablespace
    return Outcome(fate, row.files[-1], row.now, swaps=tuple(row.swaps))


def outcome_without_row(
    transaction: Transaction, rows: list[Row], file: RelFile, later: frozenset[RelFile], *, stays: bool
) -> Outcome:
    """As `outcome_of` when the relation's row is not known: by what the transaction can have done at all.

    `later`: files the relation is known to have had afterwards; `stays`: whether it is known to have been
    there afterwards, with another file.
    """
    for row in rows:
        if row.files and not row.died and later.intersection(row.files):
            return outcome_of(row, file)
    changed = [row for row in rows if row.fates and not row.died]
    deleted = [row for row in rows if row.died and not row.born]
    if not changed and not deleted:
        return Outcome(Fate.UNCLEAR, doubt="its file was removed, but nothing in pg_class says why")
    if not changed:
        return Outcome(Fate.DROP)
    paired = _paired(transaction, rows, file)
    if paired is not None:
        return outcome_of(paired, file)
    fates = {outcome_of(row, file).fate for row in changed}
    if deleted and not stays:
        return Outcome(Fate.UNCLEAR, doubt="its file was removed while other relations got new files")
    if len(changed) == 1:
        return outcome_of(changed[0], file)
    fate = fates.pop() if len(fates) == 1 else Fate.UNCLEAR
    return Outcome(fate, doubt="which file it has since then is not known")


def _paired(transaction: Transaction, rows: list[Row], file: RelFile) -> Row | None:
    """The row whose new file was made together with the drop of `file`, where all were made that way."""
    changed = sorted((row for row in rows if row.fates), key=lambda row: _made_at(transaction, row.files[-1]))
    plain = all(row.fates == [Fate.TRUNCATE] and not row.born and not row.died for row in changed)
    others = [row for row in rows if (row.born and row.files) or row.died]
    drops = [one for one in reversed(transaction.dropped) if one.database == file.database]
    if not plain or others or len(drops) != len(changed):
        return None
    return changed[drops.index(file)]


def _made_at(transaction: Transaction, file: RelFile) -> int:
    return next((step.lsn for step in transaction.touch.created if step.file == file), 0)


def origin_of(rows: list[Row], file: RelFile) -> Row | None:
    """The row that has `file` at the end of the transaction."""
    return next((row for row in rows if row.files and row.files[-1] == file and not _gave(row, rows)), None)


def _gave(row: Row, rows: list[Row]) -> bool:
    """Whether another row took over this new relation's file."""
    return row.born and any(not one.born and row.files[-1] in one.files for one in rows)
