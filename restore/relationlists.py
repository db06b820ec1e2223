"""Lists of relations: those saved with base backups on a path, and the running server's.

Of the saved ones only those are opened that bound the searched WAL or lie inside it.
"""

from __future__ import annotations

from collections.abc import Sequence

from restore.core.tables import Listed
from restore.core.walk import Branch
from restore.layers import backup_of, part_bytes
from walarchiver.assembly import Archive
from walarchiver.core.lsn import Lsn
from walarchiver.errors import DatabaseUnavailable
from walarchiver.format.relationmap import DatabaseRelations, parse_relation_map
from walarchiver.postgres.operating import system_of
from walarchiver.postgres.probe import recovery_state
from walarchiver.postgres.relations import read_relations


def saved_lists(archive: Archive, branch: Branch, start: Lsn, end: Lsn, notes: list[str]) -> list[Listed]:
    """What the base backups around and inside start..end list, oldest first."""
    on_path = sorted(branch.candidates(), key=lambda backup: backup.start_lsn)
    before = [backup for backup in on_path if backup.start_lsn < start][-1:]
    inside = [backup for backup in on_path if start <= backup.start_lsn <= end]
    behind = [backup for backup in on_path if backup.start_lsn > end][:1]
    found: list[Listed] = []
    for backup in (*before, *inside, *behind):
        _record, parts = backup_of(archive, backup.id)
        raw = part_bytes(archive, backup.id, parts, "facts")
        if not raw:
            notes.append(f"base backup {backup.id} has no list of relations")
            continue
        source = f"base backup {backup.id}"
        found += [Listed(source, one) for one in parse_relation_map(raw).databases]
    return found


def live_lists(
    dsn: str, archive: Archive, timeline: int, database: str | None, notes: list[str]
) -> list[Listed]:
    """What the running server lists, when it is the archived one and on this timeline."""
    try:
        system = system_of(dsn)
        state = recovery_state(dsn)
        if system != int(archive.system) or state.timeline != timeline:
            notes.append(
                f"the running server is system {system} on timeline {state.timeline}, not what was searched"
            )
            return []
        listed = read_relations(dsn, only=database)
    except DatabaseUnavailable as error:
        notes.append(f"the running server could not be asked: {error.message}")
        return []
    return [Listed("the running server", one) for one in listed.databases]


def asked_ones(lists: Sequence[Listed], notes: list[str]) -> list[Listed]:
    """Without the databases that could not be asked, which are noted (template0 never can be)."""
    notes += [
        f"{one.source} does not list database {one.database.name}: {one.database.problem}"
        for one in lists
        if one.database.problem and one.database.name != "template0"
    ]
    return [one for one in lists if _useful(one.database)]


def _useful(database: DatabaseRelations) -> bool:
    return not database.problem and database.catalog() is not None
