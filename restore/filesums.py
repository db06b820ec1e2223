"""The sums of files as they are written, for PostgreSQL's manifest.

Rules:
- CRC-32C is made piece by piece, in whatever order pieces come, and joined in the end; a digest that needs
  its bytes in order is made where one part holds a whole file.
- What could not be summed while it was written is read again.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from restore.manifest import (
    CRC32C,
    NO_CHECKSUM,
    BackupManifest,
    ManifestFile,
    crc32c_text,
    has_its_checksum,
    refuse,
)
from walarchiver.core.crc32c import crc32c, joined_crc32c


@dataclass
class FileSums:
    """The sums of what was written, against a manifest's. Thread-safe."""

    listed: Mapping[str, ManifestFile]
    """Files that are written whole, by the names that ranges carry."""
    _pieces: dict[str, list[tuple[int, int, int]]] = field(default_factory=dict)
    """By name: place in the file, length, CRC-32C."""
    _digests: dict[str, str] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def note_crc(self, name: str, at: int, length: int, crc: int) -> None:
        with self._lock:
            self._pieces.setdefault(name, []).append((at, length, crc))

    def note_digest(self, name: str, digest: str) -> None:
        with self._lock:
            self._digests[name] = digest

    def begun(self, name: str, at: int, size: int | None) -> RangeSum | None:
        """A sum of what is written of a file from `at` on, `size` bytes if that is known; None for none."""
        listed = self.listed.get(name)
        if listed is None or listed.algorithm == NO_CHECKSUM:
            return None
        if listed.algorithm != CRC32C and (at or size != listed.size):
            return None  # its bytes are not here from the first one to the last
        return RangeSum(self, listed, name, at)

    def judged(self, names: Iterable[str]) -> tuple[list[str], list[str]]:
        """Files with another checksum than listed; and those that were not summed whole."""
        wrong, unknown = [], []
        for name in names:
            listed = self.listed[name]
            if listed.algorithm == NO_CHECKSUM or listed.size == 0:
                continue
            found = self._digests.get(name) if listed.algorithm != CRC32C else self._joined(name, listed.size)
            if found is None:
                unknown.append(name)
            elif found != listed.checksum:
                wrong.append(name)
        return wrong, unknown

    def _joined(self, name: str, size: int) -> str | None:
        whole, reached = 0, 0
        for at, length, crc in sorted(self._pieces.get(name, ())):
            if at != reached:
                return None
            whole = joined_crc32c(whole, crc, length) if reached else crc
            reached += length
        return crc32c_text(whole) if reached == size else None


class RangeSum:
    """Of the bytes of one file that one part holds."""

    def __init__(self, sums: FileSums, listed: ManifestFile, name: str, at: int) -> None:
        self._sums, self._listed, self._name, self._at = sums, listed, name, at
        self._crc = 0
        self._length = 0
        self._hash = None if listed.algorithm == CRC32C else hashlib.new(listed.algorithm)

    def add(self, piece: memoryview) -> None:
        self._length += len(piece)
        if self._hash is None:
            self._crc = crc32c(piece, self._crc)
        else:
            self._hash.update(piece)

    def note(self) -> None:
        if self._hash is None:
            self._sums.note_crc(self._name, self._at, self._length, self._crc)
        elif self._length == self._listed.size:
            self._sums.note_digest(self._name, self._hash.hexdigest())


def check_contents(
    listed: BackupManifest, names: Iterable[str], paths: Mapping[str, Path], sums: FileSums, workers: int
) -> None:
    """Whether these files have the listed checksums, by what was summed while writing, else by reading.

    Raises RestoreFailed, OSError.
    """
    names = list(names)
    wrong, unknown = sums.judged(name for name in names if name in sums.listed)
    unknown += [name for name in names if name not in sums.listed]

    def differs(name: str) -> bool:
        with paths[name].open("rb") as handle:
            return not has_its_checksum(handle, listed.files[name])

    with ThreadPoolExecutor(workers, thread_name_prefix="verify") as pool:
        wrong += [
            name for name, is_other in zip(unknown, pool.map(differs, unknown), strict=True) if is_other
        ]
    refuse([f"{name} has another checksum" for name in sorted(wrong)])
