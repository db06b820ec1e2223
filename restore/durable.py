"""Make written files survive a power cut: a call for each file system where that is as safe, else one a file.

Rules (ADR 0023):
- syncfs() reports write errors only since Linux 5.8; before that, and elsewhere, each file is flushed by
  itself.
- An error means that nothing is known to be on disk; it is never tried again.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

_TELLS_ERRORS = (5, 8)


def _syncfs() -> Callable[[int], int] | None:
    """The C library's, where it tells of errors."""
    version = re.match(r"(\d+)\.(\d+)", os.uname().release)
    if sys.platform != "linux" or version is None or tuple(map(int, version.groups())) < _TELLS_ERRORS:
        return None
    found = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    return found if callable(found) else None


def sync_tree(roots: Iterable[Path], files: Iterable[Path], *, workers: int) -> None:
    """Flush these files, all below `roots`, and the folders there. Raises OSError."""
    call = _syncfs()
    if call is None:
        with ThreadPoolExecutor(workers, thread_name_prefix="flush") as pool:
            list(pool.map(sync_path, files))
            for root in roots:
                list(pool.map(sync_path, [Path(folder) for folder, _folders, _files in os.walk(root)]))
                sync_path(root.parent)
        return
    seen: set[int] = set()
    for folder in (place for root in roots for place in (root, root.parent)):
        device = folder.stat().st_dev
        if device not in seen:
            seen.add(device)
            _sync_file_system(folder, call)


def sync_path(path: Path) -> None:
    """Flush one file or folder. Raises OSError."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync_file_system(folder: Path, call: Callable[[int], int]) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if call(handle) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(folder))
    finally:
        os.close(handle)
