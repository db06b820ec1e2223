"""One restore at a time in one directory: a lock on the directory itself, which ends with its holder."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from walarchiver.errors import TargetLocked


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Raises TargetLocked when somebody else has it."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TargetLocked(f"another restore works in {folder}") from None
        yield
    finally:
        os.close(handle)
