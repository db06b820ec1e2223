"""Tables of the asked name that were made and dropped between two lists of relations.

Rules:
- The record that makes a table says its name, unless it holds a compressed picture of the page instead:
  such a relation is `unread`. Where the name was free for a while, one of those might have borne it.
- A table that was renamed to the asked name and dropped before any list is not recognised.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from restore.core.catalogsteps import Fate, rows_of
from restore.core.filehistory import FileHistory
from restore.core.joining import Transaction
from restore.core.tables import Table, Wanted
from walarchiver.core.lsn import format_lsn
from walarchiver.core.touch import Born

_KINDS = "rm"


def namesakes(
    transactions: Iterable[Transaction], wanted: Wanted
) -> tuple[tuple[Table, ...], tuple[Transaction, ...]]:
    """More tables of the name; and the transactions that made relations whose names cannot be read."""
    if wanted.relname is None:
        return (), ()
    known = {table.oid for table in wanted.tables}
    found: list[Table] = []
    unread: list[Transaction] = []
    for one in transactions:
        if not one.committed:
            continue
        for row in rows_of(one, wanted.database):
            if not row.born or row.died or not row.files:
                continue
            said = row.said
            if said is None:
                if not wanted.listed.intersection(row.files):
                    unread.append(one)
            elif _is_meant(said, wanted) and said.oid not in known:
                name = f"{wanted.relname} (made by xid {one.xid})"
                found.append(Table(name, said.oid, set(row.files)))
    return tuple(found), tuple(unread)


def _is_meant(said: Born, wanted: Wanted) -> bool:
    in_schema = said.schema in wanted.schemas or said.schema not in wanted.other_schemas
    return said.name == wanted.relname and said.kind in _KINDS and in_schema


def unlisted(
    histories: Sequence[tuple[Table, FileHistory]],
    wanted: Wanted,
    transactions: Iterable[Transaction],
    from_us: int,
) -> list[str]:
    """A doubt, where relations were dropped before the first list that may have had the name."""
    if wanted.relname is None or not wanted.list_lsns:
        return []
    if any(history.at_start for _table, history in histories):
        return []
    first = min(wanted.list_lsns)
    dropped = [
        one
        for one in transactions
        if one.committed and one.time >= from_us and one.lsn < first and _drops(one, wanted.database)
    ]
    if not dropped:
        return []
    ids = _ids(dropped)
    return [
        f"the first list of relations is of {format_lsn(first)}; transactions {ids} dropped relations before "
        f"it, and one of them may have been called {wanted.relname}"
    ]


def _drops(one: Transaction, database: int) -> bool:
    return any(row.died and not row.born for row in rows_of(one, database))


def _ids(transactions: Sequence[Transaction]) -> str:
    more = " and more" if len(transactions) > 5 else ""
    return ", ".join(str(one.xid) for one in transactions[:5]) + more


def unseen(histories: Sequence[tuple[Table, FileHistory]], unread: Sequence[Transaction]) -> list[str]:
    """A doubt, where the name was free for a while and relations were made that cannot be told."""
    free = any(
        any(loss.outcome.fate is Fate.DROP for loss in history.losses)
        or any(not one.there for one in table.sightings)
        for table, history in histories
    )
    if not free or not unread:
        return []
    return [
        f"transactions {_ids(unread)} made relations that are in no list and whose names cannot be read "
        "(compressed page images); if one of them was a table of this name, what happened to it is not told"
    ]
