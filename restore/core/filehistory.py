"""Which files one table had during a range of WAL, and what ended each.

Rules:
- A *sighting* is what a list of relations (of the running server, or saved with a base backup) says of the
  table: its file and the place of its pg_class row. Between sightings the WAL is followed.
- A file belongs to one relation from its making to its end; a number is never given to another one. So one
  proof that the file was the table's is enough for all the time between the two.
- The row is followed from every place where it is surely the table's, forwards and backwards.
- What the range's beginning saw must be proved too: the file is dropped, written or seen inside the range,
  or was seen on both sides of it, or the row has not changed since before. Else there is a *doubt*, which
  is said; nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from restore.core.catalogsteps import Fate, Outcome, Row, origin_of, outcome_of, outcome_without_row, rows_of
from restore.core.joining import Transaction, precedes
from walarchiver.core.lsn import Lsn, format_lsn
from walarchiver.core.relfile import RelFile, Slot


@dataclass(frozen=True, slots=True)
class Sighting:
    """What one complete list of a database's relations says of one table."""

    lsn: Lsn
    """Where the WAL was when the list had just been made."""
    source: str
    """For people: which list."""
    file: RelFile | None
    """None: the table was not there, or has no file of its own (`there` tells)."""
    there: bool = True
    slot: Slot | None = None
    xmin: int = 0
    """Id that wrote the row as it stands; 0 when not known."""


@dataclass(frozen=True, slots=True)
class Loss:
    """A file of the table that a transaction gave up, and what became of the table."""

    transaction: Transaction
    file: RelFile | None
    outcome: Outcome


@dataclass(slots=True)
class FileHistory:
    """The files of one table in a range, what ended them, and what is not certain."""

    files: set[RelFile] = field(default_factory=set)
    losses: list[Loss] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    at_start: bool = False
    """Whether some file is proved to be the table's where the range begins."""
    found: set[RelFile] = field(default_factory=set)
    """Files that no sighting names: met while following the WAL."""


@dataclass(frozen=True, slots=True)
class Range:
    """The WAL that was read: from `start` to `end`."""

    start: Lsn
    end: Lsn
    settled_xid: int | None
    """Every older transaction id had ended somewhere in the range or before; None: the WAL does not tell."""


class Follower:
    """Follows the tables of one database through the transactions of a range, in commit order."""

    def __init__(self, transactions: Iterable[Transaction], database: int, span: Range) -> None:
        self._span = span
        self._database = database
        self._transactions = [one for one in transactions if one.committed and self._concerns(one)]
        self._rows = [rows_of(one, database) for one in self._transactions]
        self._created = {step.file: one for one in self._transactions for step in one.touch.created}

    def _concerns(self, one: Transaction) -> bool:
        return any(
            file.database == self._database
            for file in (*one.dropped, *(step.file for step in one.touch.created))
        ) or any(step.database == self._database for step in one.touch.steps)

    def follow(
        self,
        name: str,
        sightings: Sequence[Sighting],
        touched: frozenset[RelFile],
        *,
        oid: int = 0,
        files: Iterable[RelFile] = (),
    ) -> FileHistory:
        """The table's files; `touched`: files that any transaction of the range wrote rows of.

        `files`: more that it is known to have had.
        """
        seen = sorted(sightings, key=lambda one: one.lsn)
        history = FileHistory(files={*files, *(one.file for one in seen if one.file is not None)})
        known = frozenset(history.files)
        lineage, proven = self._lineage(seen, known)
        for index, transaction in enumerate(self._transactions):
            self._one(name, history, seen, index, transaction, lineage.get(index), proven=proven, oid=oid)
        history.found = history.files - known
        born = any(row.born for row in lineage.values())
        history.at_start = any(self._at_start(file, history, seen, touched) for file in history.files)
        if history.files and seen and not born and not history.at_start:
            self._doubt_start(name, history, seen)
        return history

    def _one(
        self,
        name: str,
        history: FileHistory,
        seen: Sequence[Sighting],
        index: int,
        transaction: Transaction,
        row: Row | None,
        *,
        proven: bool,
        oid: int,
    ) -> None:
        """What a transaction did to the table's file, if anything."""
        made = {step.file for step in transaction.touch.created}
        given_up = min(
            (file for file in transaction.dropped if file in history.files),
            key=lambda file: file in made,
            default=None,
        )
        lost = row is not None and not row.born and (row.died or bool(row.fates))
        if given_up is None and not lost:
            if row is not None:
                history.files.update(row.files)
            return
        later = frozenset(one.file for one in seen if one.lsn > transaction.lsn and one.file is not None)
        outcome = self._outcome(index, transaction, row, given_up, later, proven=proven)
        if outcome is None:
            return
        if oid and (self._database, oid) in transaction.touch.truncated and outcome.fate is not Fate.DROP:
            outcome = Outcome(Fate.TRUNCATE, outcome.file, outcome.slot, outcome.doubt)
        if outcome.doubt and not (outcome.file is not None and outcome.file in later):
            history.doubts.append(
                f"{name}: transaction {transaction.xid} at {format_lsn(transaction.lsn)}: {outcome.doubt}"
            )
        if outcome.file is not None:
            history.files.add(outcome.file)
        history.losses.append(Loss(transaction, given_up, outcome))

    def _outcome(
        self,
        index: int,
        transaction: Transaction,
        row: Row | None,
        given_up: RelFile | None,
        later: frozenset[RelFile],
        *,
        proven: bool,
    ) -> Outcome | None:
        """What a transaction that gave up the table's file, or changed its row, made of the table."""
        if row is not None and proven:
            return outcome_of(row, given_up or RelFile(row.files[0].tablespace if row.files else 0, 0, 0))
        if given_up is None:
            return None
        stays = bool(later - {given_up})
        found = outcome_without_row(transaction, self._rows[index], given_up, later, stays=stays)
        if row is None or not found.doubt:
            return found
        return replace(outcome_of(row, given_up), doubt="its row in pg_class was last seen before the range")

    # --- the row of pg_class ----------------------------------------------------------------------

    def _lineage(self, seen: Sequence[Sighting], known: frozenset[RelFile]) -> tuple[dict[int, Row], bool]:
        """The table's row in each transaction that changed it; and whether that is proved."""
        found: dict[int, Row] = {}
        for index, rows in enumerate(self._rows):
            for file in known:
                row = origin_of(rows, file)
                if row is not None:
                    found[index] = row
                    self._back(index - 1, row.before, found)
                    self._forth(index + 1, row.now, found)
        for one in seen:
            if one.slot is not None and self._span.start <= one.lsn <= self._span.end:
                at = next(
                    (i for i, each in enumerate(self._transactions) if each.lsn > one.lsn),
                    len(self._transactions),
                )
                # Its list may lack a transaction that had just ended: then the row is met again here.
                self._back(at - 1, one.slot, found)
                self._forth(self._last_at(at, one.slot) + 1, one.slot, found)
        if found:
            return found, True
        before = [one for one in seen if one.slot is not None and one.lsn < self._span.start]
        if before:
            self._forth(0, before[-1].slot, found)
        return found, False

    def _last_at(self, at: int, slot: Slot) -> int:
        """The last transaction before `at` that put a row into `slot`; -1 for none."""
        for index in range(at - 1, -1, -1):
            if any(row.now == slot for row in self._rows[index]):
                return index
        return -1

    def _forth(self, index: int, slot: Slot | None, found: dict[int, Row]) -> None:
        while slot is not None and index < len(self._rows):
            row = next((row for row in self._rows[index] if row.before == slot), None)
            if row is not None:
                found[index] = row
                slot = row.now
            index += 1

    def _back(self, index: int, slot: Slot | None, found: dict[int, Row]) -> None:
        while slot is not None and index >= 0:
            row = next((row for row in self._rows[index] if row.now == slot), None)
            if row is not None:
                found[index] = row
                slot = row.before
            index -= 1

    # --- the beginning ----------------------------------------------------------------------------

    def _doubt_start(self, name: str, history: FileHistory, seen: Sequence[Sighting]) -> None:
        """Say that no file is proved to be the table's at the start of the range, if it was there."""
        before = [one for one in seen if one.lsn <= self._span.start]
        if before and not before[-1].there:
            return  # it was made in the range, or is not of this database at all
        hint = (
            "look again with an earlier --from or a later --to, so that one of these lists lies inside: "
            + ", ".join(f"{one.source} at {format_lsn(one.lsn)}" for one in seen)
        )
        history.doubts.append(
            f"{name}: which file it had at {format_lsn(self._span.start)} is not proved; {hint}"
        )

    def _at_start(
        self, file: RelFile, history: FileHistory, seen: Sequence[Sighting], touched: frozenset[RelFile]
    ) -> bool:
        if file in self._created:
            return False
        if file in touched or any(loss.file == file for loss in history.losses):
            return True
        sights = [one for one in seen if one.file == file]
        if any(self._span.start <= one.lsn <= self._span.end for one in sights):
            return True
        before = any(one.lsn < self._span.start for one in sights)
        after = [one for one in sights if one.lsn > self._span.end]
        if before and after:
            return True
        settled = self._span.settled_xid
        return settled is not None and any(
            one.xmin == 2 or (one.xmin >= 3 and precedes(one.xmin, settled)) for one in after
        )
