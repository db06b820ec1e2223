"""One WAL file that PostgreSQL offers: opened, checked, digested, read once from front to back.

Rules:
- Every file is checked against the cluster before a byte is handed on: size, long page header (magic,
  system identifier, segment size, page address, timeline), every page's header.
- What was read counts only if the file is still the one that was opened, unchanged.
- No link is followed, and neither pipe nor device is waited for.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from blake3 import blake3

from walarchiver.core.history import TimelineHistory
from walarchiver.core.lsn import Lsn
from walarchiver.core.segment import (
    BackupHistoryFile,
    HistoryFile,
    PartialFile,
    SegmentBytes,
    SegmentFile,
    WalFile,
    wal_file_name,
)
from walarchiver.core.walpage import (
    LONG_HEADER_BYTES,
    SegmentIdentity,
    check_pages,
    check_segment,
    read_first_page,
)
from walarchiver.errors import (
    CorruptHistory,
    CorruptSegment,
    FileForbidden,
    FileMissing,
    MalformedObject,
    NotARegularFile,
    Refused,
    SegmentChanged,
)
from walarchiver.format.records import (
    FirstPage,
    ForkFact,
    HistoryRecord,
    LabelRecord,
    StoredObject,
    WalRecord,
)
from walarchiver.format.standing import FileRecord

READ_BYTES = 1 << 20
HISTORY_BYTES_MAX = 1 << 20
"""A line per ancestor: a few hundred bytes; anything near this is not a history."""

Unchanged = tuple[int, int, int, int]
"""Device, inode, size and modification time (ns) of a file."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """All that the file system tells of a file without reading it."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @property
    def unchanged(self) -> Unchanged:
        return self.device, self.inode, self.size, self.mtime_ns


@dataclass(frozen=True, slots=True)
class ClusterFacts:
    """What every WAL file of the cluster must agree with."""

    name: str
    system: int
    major: int
    segment_size: SegmentBytes


@dataclass(slots=True)
class Offered:
    """A WAL file being read once from front to back."""

    file: WalFile
    size: SegmentBytes
    handle: FileIO
    path: Path
    stamp: Stamp
    length: int
    left: int
    hasher: blake3
    page: SegmentIdentity | None = None
    padding: bool = False
    """The zero tail behind a switch has begun."""
    steady: bool = False
    """It was read to its end, and its stamp is the same to the last field."""
    history: TimelineHistory | None = None
    """The ancestry in a history that was read whole."""
    kept: memoryview | None = None
    """The content of a file that was read in one piece, as long as the piece lives."""

    def read(self, into: memoryview) -> None:
        """Fill a piece of memory with what comes next, digested and checked on its way.

        Raises CorruptSegment, SegmentChanged, CorruptHistory.
        """
        if len(into) == self.length:
            self.kept = into
        done = 0
        while done < len(into):
            chunk = into[done : done + READ_BYTES]
            self._fill(chunk)
            if isinstance(self.file, SegmentFile) and self.page is not None:
                self.padding = check_pages(
                    chunk,
                    Lsn(self.file.segment.start(self.size) + self.length - self.left),
                    magic=self.page.magic,
                    padding=self.padding,
                    name=self.file.segment.name(self.size),
                )
            self.hasher.update(chunk)
            self.left -= len(chunk)
            done += len(chunk)
        if not self.left:
            self._check_end()

    def _fill(self, chunk: memoryview) -> None:
        done = 0
        while done < len(chunk):
            try:
                count = self.handle.readinto(chunk[done:])
            except OSError as error:
                raise unreadable(self.path, error) from error
            if not count:
                raise SegmentChanged(f"{self.path} became shorter than {self.length} bytes while it was read")
            done += count

    def digest(self, *, keep: bool = False) -> tuple[str, int]:
        """Digest and length of a file of which nothing was read; `keep` its content in memory."""
        whole = keep or isinstance(self.file, HistoryFile)
        scratch = memoryview(bytearray(self.length if whole else min(READ_BYTES, self.length)))
        while self.left:
            self.read(scratch[: self.left])
        if not self.length:
            self.read(scratch)
        return self.hasher.hexdigest(), self.length

    def record(self, name: str, objects: tuple[StoredObject, ...]) -> FileRecord:
        """The ledger's record of a file that was read whole."""
        digest = self.hasher.hexdigest()
        match self.file:
            case SegmentFile() | PartialFile():
                page = self._first_page()
                return WalRecord(name=name, digest=digest, len=self.length, objects=objects, page=page)
            case HistoryFile():
                assert self.history is not None
                forks = tuple(ForkFact(fork.parent, fork.switch) for fork in self.history.forks)
                return HistoryRecord(name=name, digest=digest, len=self.length, objects=objects, forks=forks)
            case BackupHistoryFile():
                return LabelRecord(name=name, digest=digest, len=self.length, objects=objects)

    def _first_page(self) -> FirstPage:
        page = self.page
        assert page is not None
        return FirstPage(page.magic, str(page.system), page.timeline, page.address, page.segment_size)

    def _check_end(self) -> None:
        """Whether what was read is a whole, unchanged file. Raises SegmentChanged, CorruptHistory."""
        try:
            now = stamp_of(self.path)
        except Refused as error:
            raise SegmentChanged(f"{self.path} went away while it was read") from error
        if now.unchanged != self.stamp.unchanged:
            raise SegmentChanged(f"{self.path} changed while it was read")
        self.steady = now == self.stamp
        if isinstance(self.file, HistoryFile):
            self.history = self._ancestry(self.file.timeline)

    def _ancestry(self, timeline: int) -> TimelineHistory:
        """The ancestry in a history that was read whole. Raises CorruptHistory.

        PostgreSQL ends every line that it writes; one without its end was cut off, perhaps inside a
        position.
        """
        assert self.kept is not None
        content = bytes(self.kept)
        if not content.endswith(b"\n"):
            raise CorruptHistory(f"{self.path.name} is cut off: its last line has no end")
        try:
            return TimelineHistory.parse(timeline, content)
        except MalformedObject as error:
            raise CorruptHistory(error.message) from error


def open_offered(cluster: ClusterFacts, file: WalFile, path: Path) -> Offered:
    """Open a file and check what its length and first page say.

    Raises FileMissing, FileForbidden, CorruptSegment, CorruptHistory, WrongCluster, NotARegularFile.
    """
    try:
        handle = open_plainly(path)
    except OSError as error:
        raise unreadable(path, error) from error
    try:
        stamp = _stamp(os.fstat(handle.fileno()), path)
        length = stamp.size
        offered = Offered(file, cluster.segment_size, handle, path, stamp, length, length, blake3())
        match file:
            case SegmentFile() | PartialFile():
                first = handle.read(LONG_HEADER_BYTES)
                handle.seek(0)
                offered.page = read_first_page(first, name=path.name)
                check_segment(
                    wal_file_name(file, cluster.segment_size),
                    offered.page,
                    length=length,
                    system=cluster.system,
                    major=cluster.major,
                    segment_size=cluster.segment_size,
                )
            case HistoryFile():
                if not 0 < length <= HISTORY_BYTES_MAX:
                    raise CorruptHistory(f"{path.name} has {length} bytes, which no timeline history has")
            case BackupHistoryFile():
                pass  # informative only: kept as it is, so that a bad one never blocks WAL
    except BaseException:
        handle.close()
        raise
    return offered


def open_plainly(path: Path) -> FileIO:
    """The file itself: no link is followed, and neither pipe nor device is waited for. Raises OSError."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    return FileIO(handle, "rb")


def stamp_of(path: Path) -> Stamp:
    """What tells a file from another, or from itself after a change.

    Raises FileMissing, FileForbidden, CorruptSegment, NotARegularFile.
    """
    try:
        found = path.stat(follow_symlinks=False)
    except OSError as error:
        raise unreadable(path, error) from error
    return _stamp(found, path)


def unreadable(path: Path, error: OSError) -> Refused:
    """What it means that a file cannot be read."""
    match error:
        case FileNotFoundError():
            return FileMissing(f"{path} is not there")
        case PermissionError():
            return FileForbidden(f"{path} cannot be read: {error.strerror}")
        case _:
            return CorruptSegment(f"{path} cannot be read: {error.strerror}")


def _stamp(found: os.stat_result, path: Path) -> Stamp:
    if not stat.S_ISREG(found.st_mode):
        raise NotARegularFile(f"{path} is not a regular file")
    return Stamp(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
