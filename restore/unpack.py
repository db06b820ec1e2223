"""Unpack a base backup into a data directory, many parts at a time, and prove it against its manifest.

Rules:
- Nothing is written before every path of the index is known to stay inside the target or its
  tablespaces' directories; these must be empty or not there.
- Parts may be applied in any order and from any thread; each byte is written once, by pwrite.
- Until `publish` the directory carries a marker file, and pg_control, without which PostgreSQL
  does not start, lies under another name.
- Tablespaces go where the caller says, never silently to their old place: that may be the
  running original. The symbolic links and tablespace_map both name the new place.
- Signal files of the source server are left out: what this copy is to do, the plan says.
- As root everything is handed to `owner` once it is complete.
"""

from __future__ import annotations

import os
import re
import stat
import threading
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from restore.diskspace import unwritable
from restore.manifest import BackupManifest, check_same_files, has_its_checksum, parse_manifest, refuse
from walarchiver.errors import (
    MalformedObject,
    RestoreFailed,
    ServerInTarget,
    TargetDirectoryInUse,
    UsageError,
)
from walarchiver.postgres.backupindex import BackupIndex, StreamIndex
from walarchiver.postgres.backuplabel import parse_tablespace_map, tablespace_map_content
from walarchiver.postgres.process import RunAs
from walarchiver.postgres.tarstream import MemberKind, TarMember

MARKER = "walarchiver-restore-in-progress"
_CONTROL = "global/pg_control"
_CONTROL_HELD = "global/pg_control.walarchiver-unfinished"
_MANIFEST = "backup_manifest"
_TABLESPACE_MAP = "tablespace_map"
_LEFT_OUT = frozenset({"standby.signal", "recovery.signal"})
_LINK = re.compile(r"pg_tblspc/([1-9][0-9]{0,9})")
_MODE_MAX = 0o750
"""PostgreSQL refuses data directories that others may read (src/include/common/file_perm.h)."""


@dataclass(frozen=True, slots=True)
class _Place:
    """A member and where it goes; `name` is its path as the manifest writes it."""

    member: TarMember
    name: str
    path: Path


class Unpacker:
    """prepare, then apply every part, then finish, then publish."""

    def __init__(
        self,
        index: BackupIndex,
        target: Path,
        tablespaces: Mapping[int, Path],
        *,
        owner: RunAs | None = None,
        durable: bool = True,
    ) -> None:
        """`tablespaces`: the new directory of each tablespace by OID. `owner`: for root only.

        Raises UsageError when a tablespace has no place or a place does not fit, MalformedObject
        when the index names a path outside them.
        """
        self._target = Path(os.path.abspath(target))
        self._index = index
        self._owner = owner
        self._durable = durable
        self._links = _tablespace_places(index, self._target, tablespaces)
        self._places: dict[int, list[_Place]] = {}
        """By stream: files with content, in stream order."""
        self._starts: dict[int, list[int]] = {}
        self._empty: list[_Place] = []
        self._folders: list[_Place] = []
        self._files: dict[str, Path] = {}
        """Every file by its manifest name."""
        self._lock = threading.Lock()
        self._applied: dict[int, list[tuple[int, int]]] = {}
        for stream in index.streams:
            self._plan(stream)

    @property
    def bytes_total(self) -> int:
        """Bytes of all streams."""
        return sum(stream.size for stream in self._index.streams)

    @property
    def room(self) -> dict[Path, int]:
        """Bytes that the backup takes in the target and in each tablespace's directory."""
        needed = {self._target: 0}
        for stream in self._index.streams:
            folder = self._links.get(stream.stream.oid, self._target) if stream.stream.path else self._target
            needed[folder] = needed.get(folder, 0) + stream.size
        return needed

    def prepare(self) -> None:
        """Make the directories and the marker.

        Raises TargetDirectoryInUse, with nothing written, when a directory is not empty.
        """
        for folder in (self._target, *self._links.values()):
            check_unused(folder)
        for folder in (self._target, *self._links.values()):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if os.geteuid() == 0:
                os.chown(folder, 0, 0)  # nobody else has business in there until it is complete
            folder.chmod(0o700)
        (self._target / MARKER).write_text(
            "walarchiver is restoring into this directory. If no restore runs, it was interrupted:\n"
            "the directory is not a usable cluster, remove it and restore again.\n"
        )
        for place in self._folders:
            place.path.mkdir(mode=0o700, parents=True, exist_ok=True)

    def apply(self, stream: int, offset: int, chunk: bytes | bytearray | memoryview) -> None:
        """Write what the bytes `offset`... of a stream hold of each file. Thread-safe.

        Raises MalformedObject for an unknown stream, RestoreFailed when the disk does not take it.
        """
        size = self._index.stream(stream).size
        view = memoryview(chunk)
        end = offset + len(view)
        if offset < 0 or end > size:
            raise MalformedObject(f"bytes {offset} to {end} lie outside stream {stream} of {size} bytes")
        places = self._places[stream]
        first = max(0, bisect_right(self._starts[stream], offset) - 1)
        try:
            for place in places[first:] if len(view) else ():
                begins = place.member.data_offset
                if begins >= end:
                    break
                start, stop = max(begins, offset), min(begins + place.member.size, end)
                if start < stop:
                    _write_at(place.path, start - begins, view[start - offset : stop - offset])
        except OSError as cause:
            raise unwritable(self._target, cause) from cause
        with self._lock:
            self._applied[stream] = _joined([*self._applied.get(stream, []), (offset, end)])

    def finish(self, manifest: bytes, *, workers: int = 4) -> None:
        """Complete, flush and check everything, in `workers` threads.

        Raises RestoreFailed when a part was not applied, or a file is not what the manifest says.
        """
        self._check_all_applied()
        listed = parse_manifest(manifest)
        listed = BackupManifest(
            listed.version, {path: one for path, one in listed.files.items() if path not in _LEFT_OUT}
        )
        try:
            for place in self._empty:
                place.path.touch()
            self._check_files(listed, workers)
            self._relocate_tablespaces()
            self._write_file(_MANIFEST, manifest)
            self._finish_folders()
        except OSError as cause:
            raise unwritable(self._target, cause) from cause

    def publish(self) -> None:
        """Make it a directory that PostgreSQL starts on; the last act, after all settings are written."""
        held = self._target / _CONTROL_HELD
        if held.exists():
            held.rename(self._target / _CONTROL)
            self._sync(held.parent)
        (self._target / MARKER).unlink(missing_ok=True)
        self._sync(self._target)

    # --- planning --------------------------------------------------------------------------------

    def _plan(self, stream: StreamIndex) -> None:
        """Decide where each member goes; refuse what must not be."""
        prefix, root = "", self._target
        if stream.stream.path is not None:
            prefix = f"pg_tblspc/{stream.stream.oid}/"
            root = self._links.get(stream.stream.oid, self._target / prefix)
        files = self._places[stream.stream.number] = []
        free_from = 0
        for member in stream.members:
            if member.header_offset < free_from or member.data_offset + member.size > stream.size:
                raise MalformedObject(f"{member.path!r} overlaps its neighbours in the backup's index")
            free_from = member.data_offset + member.size
            path = member.path.removeprefix("./")  # as PostgreSQL writes ./pg_wal/archive_status
            _check_path(path, member.kind, is_base=not prefix)
            name = prefix + path
            if name in _LEFT_OUT or member.kind is MemberKind.SYMLINK:
                continue  # links are made by us
            place = _Place(member, name, root / (_CONTROL_HELD if name == _CONTROL else path))
            if member.kind is MemberKind.DIRECTORY:
                self._folders.append(place)
                continue
            if name in self._files:
                raise MalformedObject(f"{name!r} comes twice in the backup's index")
            self._files[name] = place.path
            (files if member.size else self._empty).append(place)
        self._starts[stream.stream.number] = [place.member.data_offset for place in files]

    # --- finishing -------------------------------------------------------------------------------

    def _check_all_applied(self) -> None:
        for stream in self._index.streams:
            ranges = self._applied.get(stream.stream.number, [])
            if stream.size and ranges != [(0, stream.size)]:
                number = stream.stream.number
                raise RestoreFailed(
                    f"stream {number} is not complete: only {ranges} of {stream.size} bytes came"
                )

    def _check_files(self, listed: BackupManifest, workers: int) -> None:
        check_same_files(listed, {name: path.stat().st_size for name, path in self._files.items()})
        modes = {place.name: place.member.mode for place in (*self._empty, *self._all_places())}

        def check(name: str) -> str | None:
            with self._files[name].open("rb") as handle:
                sound = has_its_checksum(handle, listed.files[name])
                os.fchmod(handle.fileno(), modes[name] & _MODE_MAX)
                self._give(handle.fileno())
                if self._durable:
                    os.fsync(handle.fileno())
            return None if sound else f"{name} has another checksum"

        with ThreadPoolExecutor(workers, thread_name_prefix="verify") as pool:
            refuse(sorted(fault for fault in pool.map(check, self._files, chunksize=1) if fault))
        self._check_no_others()

    def _all_places(self) -> Iterator[_Place]:
        for places in self._places.values():
            yield from places

    def _check_no_others(self) -> None:
        known = {*self._files.values(), self._target / MARKER}
        unknown: list[str] = []
        for root in (self._target, *self._links.values()):
            for folder, _folders, files in os.walk(root):
                unknown += [path for name in files if Path(path := os.path.join(folder, name)) not in known]
        refuse([f"{path} is there, but is not of the backup" for path in sorted(unknown)])

    def _relocate_tablespaces(self) -> None:
        for oid, folder in self._links.items():
            link = self._target / "pg_tblspc" / str(oid)
            link.parent.mkdir(mode=0o700, exist_ok=True)
            link.symlink_to(folder)
            if self._owner is not None and os.geteuid() == 0:
                os.chown(link, self._owner.uid, self._owner.gid, follow_symlinks=False)
        path = self._target / _TABLESPACE_MAP
        if path.exists():
            locations = parse_tablespace_map(path.read_bytes())
            locations.update({oid: str(folder) for oid, folder in self._links.items()})
            self._write_file(_TABLESPACE_MAP, tablespace_map_content(locations))

    def _write_file(self, name: str, content: bytes) -> None:
        with (self._target / name).open("wb") as handle:
            handle.write(content)
            handle.flush()
            os.fchmod(handle.fileno(), 0o600)
            self._give(handle.fileno())
            if self._durable:
                os.fsync(handle.fileno())

    def _finish_folders(self) -> None:
        """Owners, modes and durability of folders, the deepest first."""
        for root in (*self._links.values(), self._target):
            for folder, _folders, _files in os.walk(root, topdown=False):
                handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
                try:
                    os.fchmod(handle, 0o700)
                    self._give(handle)
                    if self._durable:
                        os.fsync(handle)
                finally:
                    os.close(handle)
            self._sync(root.parent)

    def _give(self, handle: int) -> None:
        if self._owner is not None and os.geteuid() == 0:
            os.fchown(handle, self._owner.uid, self._owner.gid)

    def _sync(self, folder: Path) -> None:
        if self._durable:
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)


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
    if is_base and path in (MARKER, _CONTROL_HELD, _MANIFEST, "postmaster.pid"):
        raise MalformedObject(f"{path!r} does not belong into a backup")


def check_unused(folder: Path) -> None:
    """Raises TargetDirectoryInUse unless `folder` is empty or not there; writes nothing."""
    try:
        state = folder.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(state.st_mode):
        raise TargetDirectoryInUse(f"{folder} is not a directory")
    names = set(os.listdir(folder))
    if "postmaster.pid" in names:
        raise ServerInTarget(f"a PostgreSQL server runs, or crashed, in {folder}")
    if MARKER in names:
        raise TargetDirectoryInUse(
            f"{folder} holds an interrupted restore",
            hint="If no restore runs there now, remove the directory and restore again.",
        )
    if names:
        raise TargetDirectoryInUse(
            f"{folder} is not empty: it has {len(names)} entries, {min(names)!r} among them"
        )


def _write_at(path: Path, offset: int, piece: memoryview) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        handle = os.open(path, flags, 0o600)
    except FileNotFoundError:  # a folder that the archive does not list by itself
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(path, flags, 0o600)
    try:
        while len(piece):
            written = os.pwrite(handle, piece, offset)
            offset += written
            piece = piece[written:]
    finally:
        os.close(handle)


def _joined(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Sorted ranges with touching ones made one."""
    found: list[tuple[int, int]] = []
    for begin, end in sorted(ranges):
        if found and begin <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((begin, end))
    return found
