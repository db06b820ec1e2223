"""Delta: make an earlier copy of a cluster what a backup says, and write only what differs.

Rules (ADR 0024):
- The copy must be a stopped cluster with the same system identifier, or what an interrupted restore of that
  cluster left. Anything that could be somebody else's (a running server, links, hard links, devices, what
  lies in a tablespace's new place, WAL that the archive lacks) refuses it before anything is changed.
- What is kept is proven by a strong digest of its bytes, read here and now: the backup's own digests of
  4 MiB pieces, or for older backups the manifest's checksum of the whole file. Times and sizes prove nothing.
- Before the first change the marker is written and pg_control is held back, durably, as in a new directory: a
  delta that is killed leaves a directory that does not start, and is given again.
- What the backup does not have is removed.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from blake3 import blake3

from restore.combine import final_name
from restore.durable import sync_path
from restore.layout import CONTROL, CONTROL_HELD, MANIFEST, MARKER, Layout, Place
from restore.manifest import CRC32C, NO_CHECKSUM, BackupManifest, has_its_checksum
from walarchiver.errors import (
    DatabaseUnavailable,
    DeltaDoubtful,
    DeltaForeign,
    DeltaWalUnarchived,
    ServerInTarget,
)
from walarchiver.postgres.control import read_data_directory
from walarchiver.postgres.filedigests import DIGEST_BYTES, DIGEST_CHUNK_BYTES, FileDigests

_READ_BYTES = 256 << 10
_PIECES_AT_ONCE = 16
"""Pieces of one file that one thread compares in a row."""
_SYSTEM_LINE = re.compile(r"^system=(\d+)$", re.MULTILINE)
_SPACE_LINE = re.compile(r"^tablespace=(\d+) (\".*\")$", re.MULTILINE)
_OWN_FILES = (MARKER, MANIFEST)


@dataclass
class Survey:
    """What is there, compared with what a backup says."""

    differing: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    """Files of which something is kept, by name, with the pieces (place, length) that are to be written."""
    kept_bytes: int = 0
    written_bytes: int = 0
    """To be written, in files that are there or not; increments count by their own size."""
    kept_files: int = 0
    """Files that stay as they are."""
    written_files: int = 0
    cut: dict[Path, int] = field(default_factory=dict)
    """Files that are longer than they are to be, or not to be trusted at all, and where to cut them."""
    extra: list[Path] = field(default_factory=list)
    """Files and links that the backup does not have."""
    extra_bytes: int = 0
    extra_folders: list[Path] = field(default_factory=list)
    """The deepest first."""
    control: tuple[int, int] | None = None
    """When pg_control was changed last, and its number, before anything was compared."""
    growth: dict[Path, int] = field(default_factory=dict)
    """Bytes that each root needs more than it has now."""


def check_delta_target(
    layout: Layout, *, system: int, major: int, socket_path: Path, archived: Callable[[str], bool]
) -> bool:
    """Whether there is an earlier copy; False for a directory that is empty or not there.

    `archived`: whether the archive has a WAL file of this name. Changes nothing. Raises ServerInTarget,
    DeltaForeign, DeltaDoubtful, DeltaWalUnarchived, TargetLocked.
    """
    target = layout.target
    if not os.path.lexists(target) or (target.is_dir() and not os.listdir(target)):
        return False
    if target.is_symlink() or not target.is_dir():
        raise DeltaForeign(f"{target} is not a directory")
    if (target / "postmaster.pid").exists():
        raise ServerInTarget(
            f"a PostgreSQL server runs, or crashed, in {target}",
            hint="Stop it. If it crashed, start and stop it, so that nothing of it is lost.",
        )
    if _answers(socket_path):
        raise DeltaDoubtful(
            f"a server still serves WAL to an earlier restore into {target}, at {socket_path}",
            hint="End that `walarchiver serve --plan`, then restore again.",
        )
    unfinished = _check_identity(target, system, major)
    _check_tablespaces(layout, _marked_places(target) if unfinished else {})
    check_kinds(layout)
    if not unfinished:
        _check_wal(target, archived)
    return True


def survey(layout: Layout, manifest: BackupManifest, digests: FileDigests | None, *, workers: int) -> Survey:
    """Compare everything, in `workers` threads. Changes nothing. Raises OSError."""
    found = Survey(control=_control_stamp(layout))
    jobs: list[tuple[Place, Path, int, int]] = []
    expected = {target for one in layout.files.values() for target in _finals(layout, one)}
    for place in layout.files.values():
        size = place.member.size
        path = _there(layout, place)
        length = None if final_name(place.name) is not None else _regular_bytes(path)
        proves = digests is not None or manifest.files[place.name].algorithm not in (CRC32C, NO_CHECKSUM)
        root = layout.root_of(place.path)
        found.growth[root] = found.growth.get(root, 0) + size - (length or 0)
        if length is None or not proves:
            found.cut.update({one: 0 for one in _finals(layout, place) if _regular_bytes(one)})
            found.written_files += 1
            found.written_bytes += size
            continue
        if length > size:
            found.cut[place.path] = size
        found.differing[place.name] = []
        step = DIGEST_CHUNK_BYTES * _PIECES_AT_ONCE if digests is not None else max(size, 1)
        jobs += [(place, path, at, length) for at in range(0, size, step)]
    with ThreadPoolExecutor(workers, thread_name_prefix="compare") as pool:
        try:
            compared = pool.map(lambda job: _compared(*job, manifest=manifest, digests=digests), jobs)
            for (place, *_), pieces in zip(jobs, compared, strict=True):
                found.differing[place.name] += pieces
        except BaseException:  # Ctrl-C too: else all that is left would be read first
            pool.shutdown(cancel_futures=True)
            raise
    _count(found, layout)
    _find_extra(found, layout, expected)
    return found


def check_unchanged(layout: Layout, found: Survey) -> None:
    """Whether no server ran there since. Raises ServerInTarget, DeltaDoubtful."""
    if (layout.target / "postmaster.pid").exists():
        raise ServerInTarget(f"a PostgreSQL server was started in {layout.target}", hint="Stop it.")
    if _control_stamp(layout) != found.control:
        raise DeltaDoubtful(
            f"{layout.target} was used while it was compared", hint="Stop what uses it, and restore again."
        )


def make_ready(layout: Layout, found: Survey) -> None:
    """Hold pg_control back, remove what does not belong, cut what is too long. Once the marker is there.

    Raises OSError.
    """
    control, held = layout.target / CONTROL, layout.target / CONTROL_HELD
    if control.exists():
        control.replace(held)
        sync_path(held.parent)
    for path in found.extra:
        path.unlink(missing_ok=True)
    for folder in found.extra_folders:
        folder.rmdir()
    for path, length in found.cut.items():
        with contextlib.suppress(FileNotFoundError):  # pg_control, under the name that it no longer has
            os.truncate(path, length)


# --- refusing --------------------------------------------------------------------------------------


def _check_identity(target: Path, system: int, major: int) -> bool:
    """Whether an interrupted restore of this very cluster is there. Raises DeltaForeign."""
    try:
        marked = _SYSTEM_LINE.search((target / MARKER).read_text("utf-8", "replace"))
    except FileNotFoundError:
        pass
    else:
        if marked is None or int(marked[1]) != system:
            raise DeltaForeign(
                f"{target} holds an interrupted restore of another cluster, or of no known one"
            )
        return True
    try:
        there = read_data_directory(target)
    except DatabaseUnavailable as error:
        raise DeltaForeign(f"{target} holds no copy of a cluster: {error.message}") from error
    if (there.system, there.major) != (system, major):
        raise DeltaForeign(
            f"{target} is of the cluster {there.system} (PostgreSQL {there.major}), and the backup of "
            f"{system} (PostgreSQL {major})"
        )
    return False


def _marked_places(target: Path) -> dict[int, Path]:
    """Where the interrupted restore put each tablespace: it found these directories empty, or as a copy's."""
    text = (target / MARKER).read_text("utf-8", "replace")
    with contextlib.suppress(ValueError):
        return {int(oid): Path(json.loads(place)) for oid, place in _SPACE_LINE.findall(text)}
    return {}


def _check_tablespaces(layout: Layout, marked: Mapping[int, Path]) -> None:
    for oid, place in layout.links.items():
        link = layout.target / "pg_tblspc" / str(oid)
        if link.is_symlink():
            if (leads := Path(os.path.abspath(link.parent / link.readlink()))) != place:
                raise DeltaDoubtful(
                    f"tablespace {oid} of {layout.target} lies in {leads}, and would be restored to {place}",
                    hint=f"If {leads} belongs to this copy alone, add --tablespace {oid}={leads}. If another "
                    f"cluster uses it, remove the link {link} first.",
                )
        elif place != marked.get(oid) and place.exists() and any(place.iterdir()):
            raise DeltaDoubtful(f"{place} is not empty, and {layout.target} has no link to it")


def close_folders(layout: Layout) -> None:
    """As root: whose they were can put nothing into them from now on. Raises OSError, DeltaDoubtful."""
    if os.geteuid() == 0:
        for root in layout.roots:
            for *_, handle in os.fwalk(root):
                os.fchown(handle, 0, 0)
    check_kinds(layout)  # what was put there since it was compared


def check_kinds(layout: Layout) -> None:
    """No links but those of tablespaces, nothing but files and folders, and no file with a second name.

    Raises DeltaDoubtful.
    """
    links = layout.target / "pg_tblspc"
    for root in layout.roots:
        for entry in _entries(root):
            known_link = entry.is_symlink() and Path(entry.path).parent == links and entry.name.isdecimal()
            if not known_link and not entry.is_file(follow_symlinks=False) and not _is_folder(entry):
                raise DeltaDoubtful(f"{entry.path} is neither a file nor a directory")
            if entry.is_file(follow_symlinks=False) and entry.stat(follow_symlinks=False).st_nlink > 1:
                raise DeltaDoubtful(
                    f"{entry.path} has another name somewhere (a hard link), where it would be changed, too",
                    hint="Restore into a new directory, or replace this one by a copy without hard links.",
                )


def _check_wal(target: Path, archived: Callable[[str], bool]) -> None:
    status = target / "pg_wal" / "archive_status"
    waiting = sorted(path.stem for path in status.glob("*.ready")) if status.is_dir() else []
    lost = [name for name in waiting if not archived(name)]
    if lost:
        raise DeltaWalUnarchived(
            f"{len(lost)} WAL files in {target / 'pg_wal'} wait to be archived and are not in the archive, "
            f"{lost[0]} among them"
        )


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as caller:
        try:
            caller.connect(os.fspath(path))
        except OSError:
            return False
    return True


# --- comparing -------------------------------------------------------------------------------------


def _control_stamp(layout: Layout) -> tuple[int, int] | None:
    try:
        state = (layout.target / CONTROL).stat()
    except FileNotFoundError:
        return None
    return state.st_mtime_ns, state.st_ino


def _there(layout: Layout, place: Place) -> Path:
    """Where a file is now; pg_control lies under its own name, unless a restore was interrupted."""
    own = layout.target / CONTROL
    return own if place.name == CONTROL and own.exists() else place.path


def _regular_bytes(path: Path) -> int | None:
    try:
        state = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return state.st_size if stat.S_ISREG(state.st_mode) else None


def _compared(
    place: Place, path: Path, at: int, length: int, *, manifest: BackupManifest, digests: FileDigests | None
) -> list[tuple[int, int]]:
    """The pieces from `at` on, as many as are compared at once, that are not as they should be."""
    size = place.member.size
    if digests is None:
        if length != size:
            return [(0, size)]
        with path.open("rb") as whole:
            return [] if has_its_checksum(whole, manifest.files[place.name]) else [(0, size)]
    wanted = digests.of(place.stream, place.member.path)
    pieces = []
    buffer = memoryview(bytearray(_READ_BYTES))
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        for begin in range(at, min(size, at + DIGEST_CHUNK_BYTES * _PIECES_AT_ONCE), DIGEST_CHUNK_BYTES):
            count = min(DIGEST_CHUNK_BYTES, size - begin)
            number = begin // DIGEST_CHUNK_BYTES * DIGEST_BYTES
            if _digest(handle, buffer, begin, count) != wanted[number : number + DIGEST_BYTES]:
                pieces.append((begin, count))
    finally:
        os.close(handle)
    return pieces


def _digest(handle: int, buffer: memoryview, begin: int, count: int) -> bytes:
    hasher = blake3()
    end = begin + count
    while begin < end:
        read = os.preadv(handle, [buffer[: min(len(buffer), end - begin)]], begin)
        if not read:
            return b""
        hasher.update(buffer[:read])
        begin += read
    return hasher.digest()


def _count(found: Survey, layout: Layout) -> None:
    """Sum up, and let go of what is to be written whole: it is checked as a new file is."""
    for name, pieces in list(found.differing.items()):
        size = layout.files[name].member.size
        wrong = sum(length for _, length in pieces)
        found.written_bytes += wrong
        found.kept_bytes += size - wrong
        if wrong or layout.files[name].path in found.cut:
            found.written_files += 1
        else:
            found.kept_files += 1
        if size and wrong == size:
            del found.differing[name]


def _finals(layout: Layout, place: Place) -> Iterator[Path]:
    """Every path that stands for this file of the backup, now or in the end."""
    final = final_name(place.name)
    yield place.path if final is None else place.path.with_name(final.rpartition("/")[2])
    if place.name == CONTROL:
        yield layout.target / CONTROL


def _find_extra(found: Survey, layout: Layout, expected: set[Path]) -> None:
    files = {os.fspath(path) for path in expected} | {f"{layout.target}/{name}" for name in _OWN_FILES}
    folders = {os.fspath(place.path) for place in layout.folders} | _above(files)
    links = {f"{layout.target}/pg_tblspc/{oid}" for oid in layout.links}
    folders.add(f"{layout.target}/pg_tblspc")
    for root in layout.roots:
        for entry in _entries(root):
            if _is_folder(entry):
                if entry.path not in folders:
                    found.extra_folders.append(Path(entry.path))
            elif entry.path not in files and entry.path not in links:
                count = entry.stat(follow_symlinks=False).st_size
                found.extra.append(Path(entry.path))
                found.extra_bytes += count
                found.growth[root] = found.growth.get(root, 0) - count
    found.extra_folders.reverse()


def _above(files: Iterable[str]) -> set[str]:
    """Every folder that one of these absolute paths lies in, near or far."""
    above: set[str] = set()
    for path in files:
        folder = path.rpartition("/")[0]
        while folder and folder not in above:
            above.add(folder)
            folder = folder.rpartition("/")[0]
    return above


def _is_folder(entry: os.DirEntry[str]) -> bool:
    return entry.is_dir(follow_symlinks=False)


def _entries(folder: Path | str) -> Iterator[os.DirEntry[str]]:
    """Everything below a folder, folders before what is in them; links are not followed."""
    try:
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except FileNotFoundError:
        return
    for entry in found:
        yield entry
        if _is_folder(entry):
            yield from _entries(entry.path)
