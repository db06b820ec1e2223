"""Room on disk for a restore: asked before anything is written, and named when it ends all the same.

Rules:
- A restore that cannot fit fails in its first second, not in its last. What is counted is the backup alone:
  the WAL replayed afterwards may need more, and a file system that compresses less (then the check can
  be left out).
- Whatever the disk refuses later leaves a directory that PostgreSQL does not start on, and says so.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from pathlib import Path

from walarchiver.errors import RestoreFailed, TargetDiskFull

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def check_room(needed: Mapping[Path, int]) -> None:
    """Whether the file systems below these folders have room for so many bytes in each folder.

    Raises TargetDiskFull; writes nothing.
    """
    wanted: dict[int, int] = {}
    free: dict[int, int] = {}
    places: dict[int, Path] = {}
    for folder, count in needed.items():
        existing = _existing(folder)
        device = existing.stat().st_dev
        state = os.statvfs(existing)
        blocks = state.f_bfree if os.geteuid() == 0 else state.f_bavail
        wanted[device] = wanted.get(device, 0) + count
        free[device] = blocks * state.f_frsize
        places.setdefault(device, folder)
    for device, count in wanted.items():
        if count > free[device]:
            raise TargetDiskFull(
                f"the backup needs {count / 1e6:,.1f} MB on the file system of {places[device]}, where "
                f"{free[device] / 1e6:,.1f} MB are free",
                hint="Nothing was written. Make room there or name another place; with a file system that "
                "compresses, add --no-space-check.",
            )


def unwritable(target: Path, cause: OSError) -> RestoreFailed:
    """The error for a target that could not be written to its end."""
    full = cause.errno in _FULL
    kind = TargetDiskFull if full else RestoreFailed
    return kind(
        f"{target} could not be written: {cause.strerror or cause}",
        hint=f"{target} is unfinished, and PostgreSQL does not start on it. "
        f"{'Make room' if full else 'Mend that'}, and give the same restore again with --delta; or remove it "
        "and what stands beside it under the same name, and restore again. The repository was not changed.",
    )


def _existing(folder: Path) -> Path:
    return next(place for place in (folder, *folder.parents) if place.exists())
