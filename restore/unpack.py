"""Unpack a base backup into a data directory, many parts at a time, and prove it against its manifest.

Rules:
- Nothing is written before every path of the index is known to stay inside the target or its
  tablespaces' directories (`layout.py`); these must be empty or not there, but for a delta (`delta.py`).
- Parts may be applied in any order and from any thread; each byte is written once, and summed for the
  manifest on the way. Only what could not be summed whole is read again.
- What is written is not read back: it would come from the page cache, and prove nothing about the disk.
- Until `publish` the directory carries a marker file, and pg_control, without which PostgreSQL
  does not start, lies under another name.
- The symbolic links of tablespaces and tablespace_map both name the new place.
- As root everything is handed to `owner` once it is complete.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from restore.combine import Chain
from restore.diskspace import unwritable
from restore.durable import sync_path, sync_tree
from restore.filesums import FileSums, check_contents
from restore.layout import CONTROL, CONTROL_HELD, LEFT_OUT, MANIFEST, MARKER, Layout, lay_out
from restore.manifest import BackupManifest, check_same_files, parse_manifest, refuse
from restore.streamwriter import Buffer, Range, StreamWriter
from walarchiver.errors import ServerInTarget, TargetDirectoryInUse
from walarchiver.postgres.backupindex import BackupIndex
from walarchiver.postgres.backuplabel import parse_tablespace_map, tablespace_map_content
from walarchiver.postgres.process import RunAs

_TABLESPACE_MAP = "tablespace_map"
_MODE_MAX = 0o750
"""PostgreSQL refuses data directories that others may read (src/include/common/file_perm.h)."""


class Unpacker:
    """prepare, then apply every part, then finish, then publish."""

    def __init__(
        self,
        index: BackupIndex,
        target: Path,
        tablespaces: Mapping[int, Path],
        *,
        manifest: BackupManifest | None = None,
        chain: Chain | None = None,
        differing: Mapping[str, Sequence[tuple[int, int]]] | None = None,
        owner: RunAs | None = None,
        durable: bool = True,
        system: str = "",
        layout: Layout | None = None,
    ) -> None:
        """`tablespaces`: the new directory of each tablespace by OID. `owner`: for root only.

        `manifest`: lets files be checked while they are written. `differing`: of files that are partly
        there, the pieces (place, length) that are not. `system`: whose cluster it is, for the marker.
        `layout`: of these very places, where it was made before.
        Raises UsageError when a tablespace has no place or a place does not fit, MalformedObject
        when the index names a path outside them.
        """
        self.layout = layout or lay_out(index, target, tablespaces)
        self._target = self.layout.target
        self._owner = owner
        self._durable = durable
        self._system = system
        self._chain = chain
        self._paths = {name: place.path for name, place in self.layout.files.items()}
        """Where each file of the backup is written, by its name."""
        self._kept = frozenset(differing or ())
        if chain is not None:
            self._paths.update(chain.spooled)
        listed = {} if manifest is None else manifest.files
        self._sums = FileSums({name: one for name, one in listed.items() if name not in self._kept})
        wanted: dict[int, list[Range]] = {}
        for name, place in self.layout.files.items():
            begin, size, path = place.member.data_offset, place.member.size, self._paths[name]
            for at, length in ((0, size),) if name not in self._kept else (differing or {})[name]:
                wanted.setdefault(place.stream, []).append(Range(begin + at, length, path, name, at))
        self.writer = StreamWriter(self._target, self.layout.sizes, wanted, self._sums)

    @property
    def room(self) -> dict[Path, int]:
        """Bytes that the backup takes in the target and in each tablespace's directory."""
        needed = dict.fromkeys(self.layout.roots, 0)
        for place in self.layout.files.values():
            needed[self.layout.root_of(place.path)] += place.member.size
        return needed

    def prepare(self) -> None:
        """Make the directories and the marker.

        Raises TargetDirectoryInUse, with nothing written, when a directory is not empty.
        """
        for folder in self.layout.roots:
            check_unused(folder)
        for folder in self.layout.roots:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.close_to_others(folder)
        self.mark()
        self.make_folders()

    def close_to_others(self, folder: Path) -> None:
        """Nobody else has business in there until it is complete."""
        if os.geteuid() == 0:
            os.chown(folder, 0, 0)
        folder.chmod(0o700)

    def mark(self) -> None:
        """Write the marker, durably: whatever comes later is only found beside it."""
        with (self._target / MARKER).open("w") as out:
            out.write(
                "walarchiver is restoring into this directory. If no restore runs, it was interrupted: the\n"
                "directory is not a usable cluster. Remove it and restore again, or give the same restore\n"
                f"once more with --delta.\nsystem={self._system}\n"
            )
            for oid, folder in self.layout.links.items():
                out.write(f"tablespace={oid} {json.dumps(str(folder))}\n")
            out.flush()
            os.fsync(out.fileno())
        self._sync(self._target)

    def make_folders(self) -> None:
        """Every folder of the backup."""
        for place in self.layout.folders:
            place.path.mkdir(mode=0o700, parents=True, exist_ok=True)

    def apply(self, stream: int, offset: int, chunk: Buffer) -> None:
        """Write what a part of a stream holds of each file. Thread-safe.

        Raises MalformedObject for an unknown stream, RestoreFailed when the disk does not take it.
        """
        self.writer.apply(stream, offset, chunk)

    def finish(self, manifest: bytes, *, workers: int = 4) -> None:
        """Complete, check and flush everything, in `workers` threads.

        Raises RestoreFailed when a part was not applied, or a file is not what the manifest says.
        """
        self.writer.check_complete()
        listed = parse_manifest(manifest)
        listed = BackupManifest(
            listed.version, {path: one for path, one in listed.files.items() if path not in LEFT_OUT}
        )
        try:
            for name, place in self.layout.files.items():
                if not place.member.size and not self._paths[name].exists():
                    self._paths[name].touch()
            check_same_files(listed, {name: path.stat().st_size for name, path in self._paths.items()})
            wholes = [name for name in self._paths if name not in self._kept]
            check_contents(listed, wholes, self._paths, self._sums, workers)
            finals = self._finals(workers)
            self._check_no_others(finals.values())
            self._relocate_tablespaces()
            if self._chain is None:
                self._write_file(MANIFEST, manifest)
            else:
                (self._target / MANIFEST).unlink(missing_ok=True)  # it would name files that are not there
            self._hand_over(finals)
            if self._durable:
                sync_tree(self.layout.roots, finals.values(), workers=workers)
        except OSError as cause:
            raise unwritable(self._target, cause) from cause

    def publish(self) -> None:
        """Make it a directory that PostgreSQL starts on; the last act, after all settings are written."""
        held = self._target / CONTROL_HELD
        if held.exists():
            held.rename(self._target / CONTROL)
            self._sync(held.parent)
        (self._target / MARKER).unlink(missing_ok=True)
        self._sync(self._target)

    # --- finishing -------------------------------------------------------------------------------

    def _finals(self, workers: int) -> dict[str, Path]:
        """Every file that belongs into the directory, by name; increments become what they stand for."""
        if self._chain is None:
            return self._paths
        made = self._chain.combine(workers)
        others = {name: path for name, path in self._paths.items() if name not in self._chain.spooled}
        return {**others, **made}

    def _check_no_others(self, files: Iterable[Path]) -> None:
        own = (self._target / MARKER, self._target / MANIFEST)
        known = {os.fspath(path) for path in (*files, *own)}
        unknown = [path for path in files_below(self.layout.roots) if path not in known]
        refuse([f"{path} is there, but is not of the backup" for path in sorted(unknown)])

    def _relocate_tablespaces(self) -> None:
        for oid, folder in self.layout.links.items():
            link = self._target / "pg_tblspc" / str(oid)
            link.parent.mkdir(mode=0o700, exist_ok=True)
            if link.is_symlink():
                link.unlink()
            link.symlink_to(folder)
            if self._owner is not None and os.geteuid() == 0:
                os.chown(link, self._owner.uid, self._owner.gid, follow_symlinks=False)
        path = self._target / _TABLESPACE_MAP
        if path.exists():
            locations = parse_tablespace_map(path.read_bytes())
            locations.update({oid: str(folder) for oid, folder in self.layout.links.items()})
            self._write_file(_TABLESPACE_MAP, tablespace_map_content(locations))

    def _write_file(self, name: str, content: bytes) -> None:
        with (self._target / name).open("wb") as handle:
            handle.write(content)
            os.fchmod(handle.fileno(), 0o600)
            self._give(handle.fileno())

    def _hand_over(self, finals: Mapping[str, Path]) -> None:
        """Owners and modes of files, then of folders, the deepest first."""
        modes = {name: place.member.mode & _MODE_MAX for name, place in self.layout.files.items()}
        for name, path in finals.items():
            state = path.stat()
            if stat.S_IMODE(state.st_mode) != (mode := modes.get(name, 0o600)):
                path.chmod(mode)
            self._give(path)
        for root in (*self.layout.links.values(), self._target):
            for folder, _folders, _files in os.walk(root, topdown=False):
                os.chmod(folder, 0o700)
                self._give(Path(folder))

    def _give(self, what: int | Path) -> None:
        if self._owner is not None and os.geteuid() == 0:
            os.chown(what, self._owner.uid, self._owner.gid)

    def _sync(self, folder: Path) -> None:
        if self._durable:
            sync_path(folder)


def files_below(roots: Iterable[Path]) -> Iterable[str]:
    """The path of everything in these folders that is no folder."""
    for root in roots:
        for folder, _folders, files in os.walk(root):
            yield from (f"{folder}/{name}" for name in files)


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
            hint="If no restore runs there now, remove the directory and restore again, or go on in it with "
            "--delta.",
        )
    if names:
        raise TargetDirectoryInUse(
            f"{folder} is not empty: it has {len(names)} entries, {min(names)!r} among them",
            hint="Name a directory that does not exist yet or is empty. With --delta an earlier copy of the "
            "same cluster is made what was asked for.",
        )
