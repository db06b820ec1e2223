"""Layout: where each file of a base backup goes, in a data directory and its tablespaces' directories.

Rules:
- Decided before anything is written; every path stays inside the target or a tablespace's directory, else
  the backup is refused.
- Tablespaces go where the caller says, never silently to their old place: that may be the running original.
- pg_control, without which PostgreSQL does not start, lies under another name until all else is done.
- Signal files of the source server are left out: what this copy is to do, the plan says.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from walarchiver.errors import MalformedObject, UsageError
from walarchiver.postgres.backupindex import BackupIndex, StreamIndex
from walarchiver.postgres.tarstream import MemberKind, TarMember

MARKER = "walarchiver-restore-in-progress"
CONTROL = "global/pg_control"
CONTROL_HELD = "global/pg_control.walarchiver-unfinished"
MANIFEST = "backup_manifest"
LEFT_OUT = frozenset({"standby.signal", "recovery.signal"})
_LINK = re.compile(r"pg_tblspc/([1-9][0-9]{0,9})")


@dataclass(frozen=True, slots=True)
class Place:
    """A member of a stream and where it goes; `name` is its path as the manifest writes it."""

    stream: int
    member: TarMember
    name: str
    path: Path


@dataclass(frozen=True, slots=True)
class Layout:
    """Everything that one backup holds, placed."""

    target: Path
    links: Mapping[int, Path]
    """The new directory of each tablespace outside of the data directory, by OID."""
    sizes: Mapping[int, int]
    """Bytes of each stream."""
    folders: list[Place] = field(default_factory=list)
    files: dict[str, Place] = field(default_factory=dict)
    """By name, in stream order."""

    @property
    def roots(self) -> tuple[Path, ...]:
        """The target, then the tablespaces' directories."""
        return (self.target, *self.links.values())

    def root_of(self, path: Path) -> Path:
        """Which of the roots holds a file."""
        return next((root for root in self.links.values() if path.is_relative_to(root)), self.target)


def lay_out(index: BackupIndex, target: Path, tablespaces: Mapping[int, Path]) -> Layout:
    """`tablespaces`: the new directory of each tablespace by OID.

    Raises UsageError when a tablespace has no place or a place does not fit, MalformedObject when the
    index names a path that must not be.
    """
    target = Path(os.path.abspath(target))
    sizes = {stream.stream.number: stream.size for stream in index.streams}
    layout = Layout(target, _tablespace_places(index, target, tablespaces), sizes)
    for stream in index.streams:
        _place_members(layout, stream)
    return layout


def _place_members(layout: Layout, stream: StreamIndex) -> None:
    prefix, root = "", layout.target
    if stream.stream.path is not None:
        prefix = f"pg_tblspc/{stream.stream.oid}/"
        root = layout.links.get(stream.stream.oid, layout.target / prefix)
    free_from = 0
    for member in stream.members:
        if member.header_offset < free_from or member.data_offset + member.size > stream.size:
            raise MalformedObject(f"{member.path!r} overlaps its neighbours in the backup's index")
        free_from = member.data_offset + member.size
        path = member.path.removeprefix("./")  # as PostgreSQL writes ./pg_wal/archive_status
        _check_path(path, member.kind, is_base=not prefix)
        name = prefix + path
        if name in LEFT_OUT or member.kind is MemberKind.SYMLINK:
            continue  # links are made by us
        number = stream.stream.number
        place = Place(number, member, name, root / (CONTROL_HELD if name == CONTROL else path))
        if member.kind is MemberKind.DIRECTORY:
            layout.folders.append(place)
        elif name in layout.files:
            raise MalformedObject(f"{name!r} comes twice in the backup's index")
        else:
            layout.files[name] = place


def _tablespace_places(index: BackupIndex, target: Path, chosen: Mapping[int, Path]) -> dict[int, Path]:
    """The new directory of each tablespace outside the data directory."""
    needed = {
        one.stream.oid: one.stream.path
        for one in index.streams
        if one.stream.path is not None and one.stream.path.startswith("/")
    }
    if unplaced := [f"{oid} (was {path})" for oid, path in needed.items() if oid not in chosen]:
        raise UsageError(f"no directory was given for tablespace {', '.join(unplaced)}")
    places = {oid: Path(os.path.abspath(chosen[oid])) for oid in needed}
    taken = [target]
    for oid, place in places.items():
        for other in taken:
            if place.is_relative_to(other) or other.is_relative_to(place):
                raise UsageError(f"{place} for tablespace {oid} and {other} lie in each other")
        taken.append(place)
    return places


def _check_path(path: str, kind: MemberKind, *, is_base: bool) -> None:
    steps = path.split("/")
    if any(step in ("", ".", "..") for step in steps) or "\0" in path:
        raise MalformedObject(f"{path!r} in the backup leads out of the data directory")
    if kind is MemberKind.SYMLINK and not (is_base and _LINK.fullmatch(path)):
        raise MalformedObject(f"{path!r} in the backup is a symbolic link")
    if is_base and len(steps) > 2 and steps[0] == "pg_tblspc":
        raise MalformedObject(f"{path!r} in the backup lies behind a tablespace's link")
    if is_base and path in (MARKER, CONTROL_HELD, MANIFEST, "postmaster.pid"):
        raise MalformedObject(f"{path!r} does not belong into a backup")
