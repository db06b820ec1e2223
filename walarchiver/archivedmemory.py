"""ArchivedMemory: what this process archived itself, so that nothing unchanged is read again to be compared.

Rules (ADR 0019):
- It never says that a file is archived: the ledger's record does. It only says which digest a file has that
  was read here before, and is the very same file, unchanged, by all that the file system tells of it.
- A file that may have been written in the same instant in which it was read is not remembered: a change right
  behind the reading could leave its times as they were. So both times have to be clearly older.
- A few names only: PostgreSQL asks soon, or never.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from walarchiver.offered import Stamp

SETTLED_US = 2_000_000
"""A file's times are that much older than its reading: coarser than any file system counts (FAT: 2 s)."""
NAMES_MAX = 64


class ArchivedMemory:
    """Digests of files, by name, path and stamp. Lives in one event loop."""

    def __init__(self, now_us: Callable[[], int], *, names_max: int = NAMES_MAX) -> None:
        self.now_us = now_us
        self._names_max = names_max
        self._known: OrderedDict[str, tuple[Path, Stamp, str]] = OrderedDict()

    def remember(self, name: str, path: Path, stamp: Stamp, digest: str, *, read_us: int) -> None:
        """A file had this stamp when reading it began at `read_us`, and when it ended."""
        self._known.pop(name, None)
        if not is_settled(stamp, read_us):
            return
        self._known[name] = (path, stamp, digest)
        while len(self._known) > self._names_max:
            self._known.popitem(last=False)

    def digest(self, name: str, path: Path, stamp: Stamp) -> str | None:
        """The digest of what lies there, if it was read here and is unchanged."""
        known = self._known.get(name)
        return known[2] if known is not None and known[:2] == (path, stamp) else None


def is_settled(stamp: Stamp, read_us: int) -> bool:
    """Whether any later change of the file would show in its times."""
    return max(stamp.mtime_ns, stamp.ctime_ns) // 1000 < read_us - SETTLED_US
