"""An object store in a folder: one file per object, created once, durable before it is reported.

Rules:
- A new object is written to `.incoming/`, fsynced, and given its name with link(2), which fails
  when the name exists. Then the folder of the name is fsynced, and once per process every folder
  above it up to the root. Only then `put_new` returns, also when it reports KeyTaken: what is
  said to exist must not be lost by a power cut.
- Names that begin with '.' are ours and never listed; leftovers in `.incoming/` of processes that
  died are removed a day later.
- There are no versions: version ids are None, and an object asked for by version id is absent.
- The root folder is remembered by device and inode. When another one stands at its path (a volume
  that was unmounted), every call raises StoreUnavailable; nothing is then called absent.
- Listing sorts one folder at a time and skips folders that cannot hold an answer.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from walarchiver.errors import KeyTaken, ObjectDamaged, StoreDenied, StoreMisbehaves, StoreUnavailable
from walarchiver.ports import Clock, PutReceipt, Random, StoredVersion
from walarchiver.storage.names import checked_key, checked_prefix

_INCOMING = ".incoming"
_STALE_AFTER_US = 24 * 3600 * 1_000_000
_FOLDERS_REMEMBERED_MAX = 8192
_DENIED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ELOOP})
_ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR})


class DirectoryStore:
    """An ObjectStore (see walarchiver.ports) in a folder that exists already."""

    def __init__(self, root: Path, clock: Clock, random: Random) -> None:
        """Raises StoreDenied when `root` is not a folder that can be used."""
        self._root = root
        self._clock = clock
        self._random = random
        self._lock = threading.Lock()
        self._durable_folders: set[Path] = set()
        self._closed = False
        try:
            self._identity = _identity(root.stat())
        except OSError as failure:
            raise StoreDenied(
                f"{root} cannot be used as a store: {failure.strerror}",
                hint="Create the folder on the volume that is meant to hold the repository.",
            ) from failure
        if not root.is_dir():
            raise StoreDenied(f"{root} is not a folder", hint="Name a folder as the repository's url.")
        self._remove_stale()

    @property
    def url(self) -> str:
        return self._root.absolute().as_uri()

    def put_new(self, key: str, body: bytes | bytearray | memoryview) -> PutReceipt:
        target = self._root / checked_key(key)
        self._require_root()
        with self._translated(f"create {key}"):
            incoming = self._write_incoming(body)
            try:
                self._make_folders(target.parent)
                created = _linked(incoming, target)
                self._sync_folders(target.parent)
            finally:
                incoming.unlink(missing_ok=True)
        if not created:
            raise KeyTaken(f"{key} exists already in {self.url}")
        return PutReceipt(version_id=None)

    def get(self, key: str, *, version_id: str | None = None, bytes_max: int) -> bytes | None:
        with self._opened(key, version_id) as fd:
            if fd is None:
                return None
            size = os.fstat(fd).st_size
            if size > bytes_max:
                raise ObjectDamaged(
                    f"{key} in {self.url} has {size} bytes, more than the {bytes_max} allowed"
                )
            body = _read_at(fd, 0, size)
        if len(body) != size:
            raise ObjectDamaged(f"{key} in {self.url} gave {len(body)} of its {size} bytes")
        return body

    def get_range(self, key: str, *, start: int, length: int, version_id: str | None = None) -> bytes | None:
        with self._opened(key, version_id) as fd:
            return None if fd is None else _read_at(fd, start, length)

    def list_keys(self, prefix: str, *, start_after: str = "") -> Iterator[StoredVersion]:
        checked_prefix(prefix)
        folder = prefix.rpartition("/")[0]
        for key, found in self._walk(f"{folder}/" if folder else "", prefix, start_after):
            yield StoredVersion(
                key=key,
                version_id=None,
                size=found.st_size,
                modified=datetime.fromtimestamp(found.st_mtime_ns / 1e9, tz=UTC),
                is_latest=True,
            )

    def list_versions(self, prefix: str, *, start_after: str = "") -> Iterator[StoredVersion]:
        return self.list_keys(prefix, start_after=start_after)

    def delete_version(self, key: str, *, version_id: str | None) -> None:
        target = self._root / checked_key(key)
        self._require_root()
        if version_id is not None:
            return
        with self._translated(f"delete {key}"):
            try:
                target.unlink()
            except (FileNotFoundError, NotADirectoryError):
                return
            _sync_folder(target.parent)

    def close(self) -> None:
        self._closed = True

    def _require_root(self) -> None:
        if self._closed:
            raise StoreUnavailable(f"{self.url} was closed")
        try:
            identity = _identity(self._root.stat())
        except OSError as failure:
            raise StoreUnavailable(f"{self._root} is gone: {failure.strerror}") from failure
        if identity != self._identity:
            raise StoreUnavailable(
                f"another folder stands at {self._root} than when the store was opened",
                hint="Was the volume unmounted? Mount it again, or restart walarchiver.",
            )

    @contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as failure:
            message = f"{what} in {self.url}: {failure.strerror or failure}"
            if failure.errno in _DENIED:
                raise StoreDenied(
                    message, hint="Check the owner, the mode and the mount of the folder."
                ) from failure
            raise StoreUnavailable(message, hint="Is the volume full, or failing?") from failure

    @contextmanager
    def _opened(self, key: str, version_id: str | None) -> Iterator[int | None]:
        path = self._root / checked_key(key)
        self._require_root()
        with self._translated(f"read {key}"):
            try:
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW) if version_id is None else None
            except OSError as failure:
                if failure.errno not in _ABSENT:
                    raise
                self._require_root()
                fd = None
            try:
                is_object = fd is not None and stat.S_ISREG(os.fstat(fd).st_mode)
                yield fd if is_object else None
            finally:
                if fd is not None:
                    os.close(fd)

    def _write_incoming(self, body: bytes | bytearray | memoryview) -> Path:
        folder = self._root / _INCOMING
        folder.mkdir(exist_ok=True)
        path = folder / self._random.token(12).hex()
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
        try:
            rest = memoryview(body).cast("B")
            while rest:
                rest = rest[os.write(fd, rest) :]
            os.fsync(fd)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        finally:
            os.close(fd)
        return path

    def _make_folders(self, folder: Path) -> None:
        if not folder.is_dir():
            folder.mkdir(parents=True, exist_ok=True)

    def _sync_folders(self, folder: Path) -> None:
        """fsync `folder`, and those above it that this process has not fsynced yet."""
        _sync_folder(folder)
        while folder != self._root:
            with self._lock:
                known = folder in self._durable_folders
            if known:
                return
            above = folder.parent
            _sync_folder(above)
            with self._lock:
                if len(self._durable_folders) >= _FOLDERS_REMEMBERED_MAX:
                    self._durable_folders.clear()
                self._durable_folders.add(folder)
            folder = above

    def _walk(self, folder: str, prefix: str, start_after: str) -> Iterator[tuple[str, os.stat_result]]:
        """Files below `folder` ('' or ending in '/') in key order."""
        for path in self._entries(folder):
            if path.endswith("/"):
                may_match = path.startswith(prefix) or prefix.startswith(path)
                all_before = path < start_after and not start_after.startswith(path)
                if may_match and not all_before:
                    yield from self._walk(path, prefix, start_after)
            elif path.startswith(prefix) and path > start_after:
                with self._translated(f"list {path}"):
                    try:
                        found = os.stat(self._root / path, follow_symlinks=False)
                    except FileNotFoundError:
                        continue  # deleted since the folder was read
                if not stat.S_ISREG(found.st_mode):
                    raise StoreMisbehaves(
                        f"{path} in {self.url} is neither a file nor a folder",
                        hint="Symbolic links are not followed inside a store; move the files themselves.",
                    )
                yield path, found

    def _entries(self, folder: str) -> list[str]:
        """What a folder holds, in the order that its keys sort: sub-folders end in '/'."""
        self._require_root()
        with self._translated(f"list {folder or 'the store'}"):
            try:
                with os.scandir(self._root / folder) as entries:
                    return sorted(
                        f"{folder}{entry.name}/"
                        if entry.is_dir(follow_symlinks=False)
                        else folder + entry.name
                        for entry in entries
                        if not entry.name.startswith(".")
                    )
            except OSError as failure:
                if failure.errno not in _ABSENT:
                    raise
        self._require_root()
        return []

    def _remove_stale(self) -> None:
        """Drop what processes that died left in `.incoming/`; a reader without the right to leaves it."""
        oldest_us = self._clock.now_us() - _STALE_AFTER_US
        try:
            with os.scandir(self._root / _INCOMING) as entries:
                for entry in entries:
                    if entry.stat(follow_symlinks=False).st_mtime_ns // 1000 < oldest_us:
                        os.unlink(entry.path)
        except OSError:
            return


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def _linked(incoming: Path, target: Path) -> bool:
    """Give the file its name; False when the name is another file's.

    Over NFS a repeated request may report "exists" for our own success: then the link count is 2.
    """
    try:
        os.link(incoming, target)
    except FileExistsError:
        return incoming.stat().st_nlink == 2
    return True


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _read_at(fd: int, start: int, length: int) -> bytes:
    pieces: list[bytes] = []
    while length > 0:
        piece = os.pread(fd, min(length, 1 << 24), start)
        if not piece:
            break
        pieces.append(piece)
        start += len(piece)
        length -= len(piece)
    return b"".join(pieces)
