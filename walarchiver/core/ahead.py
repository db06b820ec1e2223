"""Which files are archived before PostgreSQL asks for them: a choice among the names it has marked ready.

Rules (PostgreSQL src/backend/postmaster/pgarch.c, ready_file_comparator):
- PostgreSQL asks for timeline histories first, then in the order of the names. So is chosen here: what
  it asks for next is begun first.
- Only what PostgreSQL itself marked, by `NAME.ready` in pg_wal/archive_status, and only names of WAL files.
- Nothing that is in work already, and never more than there is room for.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from walarchiver.core.segment import HistoryFile, SegmentBytes, parse_wal_file
from walarchiver.errors import NotAWalFile

READY = ".ready"


def ready_names(entries: Iterable[str], size: SegmentBytes) -> list[str]:
    """The WAL files that these entries of archive_status mark as ready, in PostgreSQL's order."""
    found = []
    for entry in entries:
        if not entry.endswith(READY):
            continue
        name = entry.removesuffix(READY)
        try:
            file = parse_wal_file(name, size)
        except NotAWalFile:
            continue
        found.append((not isinstance(file, HistoryFile), name))
    return [name for _, name in sorted(found)]


def next_names(ready: Iterable[str], *, busy: Collection[str], room: int) -> list[str]:
    """The first of `ready` that are not `busy`, as many as there is room for."""
    found: list[str] = []
    for name in ready:
        if len(found) >= room:
            break
        if name not in busy:
            found.append(name)
    return found
