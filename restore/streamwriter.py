"""Write the bytes of tar streams where they belong, from any part and in any order, and sum them on the way.

Rules:
- What is wanted of a stream is a list of ranges; all else that passes (headers, padding, files that are
  not wanted) is dropped. Each byte is written once, by pwrite, from the buffer that it came in.
- A file is opened once for each part that holds some of it, not for each piece, and created closed to others.
- The sums for PostgreSQL's manifest are made from the very buffers that are written.
"""

from __future__ import annotations

import os
import threading
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeAlias

from restore.diskspace import unwritable
from restore.filesums import FileSums, RangeSum
from walarchiver.errors import MalformedObject, RestoreFailed

Buffer: TypeAlias = "bytes | bytearray | memoryview"


@dataclass(frozen=True, slots=True)
class Range:
    """`size` bytes of a stream from `start` on, which are those of a file from `at` on."""

    start: int
    size: int
    path: Path
    name: str
    at: int = 0

    @property
    def end(self) -> int:
        return self.start + self.size


class StreamWriter:
    """Takes the parts of one backup's streams; `target` is for messages."""

    def __init__(
        self,
        target: Path,
        sizes: Mapping[int, int],
        wanted: Mapping[int, Iterable[Range]],
        sums: FileSums | None = None,
    ) -> None:
        self.target = target
        self.sums = sums
        self._sizes = sizes
        self._ranges = {
            stream: sorted((one for one in wanted.get(stream, ()) if one.size), key=lambda one: one.start)
            for stream in sizes
        }
        self._starts = {stream: [one.start for one in ranges] for stream, ranges in self._ranges.items()}
        self._lock = threading.Lock()
        self._applied: dict[int, list[tuple[int, int]]] = {}

    def needs(self, stream: int, offset: int, length: int) -> bool:
        """Whether these bytes of a stream hold anything that is wanted."""
        return bool(self._ranges_in(stream, offset, offset + length))

    def _ranges_in(self, stream: int, begin: int, end: int) -> list[Range]:
        """What is wanted of the bytes from `begin` to `end`. Raises MalformedObject for an unknown stream."""
        if stream not in self._sizes:
            raise MalformedObject(f"the backup's index has no stream {stream}")
        ranges, starts = self._ranges[stream], self._starts[stream]
        first = bisect_right(starts, begin)
        if first and ranges[first - 1].end > begin:
            first -= 1
        return ranges[first : bisect_left(starts, end, first)]

    def apply(self, stream: int, offset: int, chunk: Buffer) -> None:
        """Write one part that is held whole. Thread-safe."""
        with self.part(stream, offset, len(chunk)) as part:
            part.feed(chunk)

    def part(self, stream: int, offset: int, length: int) -> PartWriter:
        """What writes one part, fed in order. Raises MalformedObject when it lies outside of its stream."""
        end = offset + length
        ranges, size = self._ranges_in(stream, offset, end), self._sizes[stream]
        if offset < 0 or end > size:
            raise MalformedObject(f"bytes {offset} to {end} lie outside stream {stream} of {size} bytes")
        return PartWriter(self, ranges, stream, offset, end)

    def note_applied(self, stream: int, begin: int, end: int) -> None:
        with self._lock:
            self._applied.setdefault(stream, []).append((begin, end))

    def check_complete(self) -> None:
        """Raises RestoreFailed when something that is wanted did not come."""
        for stream, ranges in self._ranges.items():
            came = _joined(self._applied.get(stream, []))
            begins = [begin for begin, _ in came]
            for one in ranges:
                before = bisect_right(begins, one.start)
                if not before or came[before - 1][1] < one.end:
                    raise RestoreFailed(
                        f"stream {stream} is not complete: only {came} of {self._sizes[stream]} bytes came"
                    )


class PartWriter:
    """Writes one part of a stream; a context, so that nothing stays open. Counts only when left in peace."""

    def __init__(self, writer: StreamWriter, ranges: list[Range], stream: int, offset: int, end: int) -> None:
        self._writer = writer
        self._ranges = iter(ranges)
        self._current = next(self._ranges, None)
        self._stream, self._begin, self._end = stream, offset, end
        self._offset = offset
        self._handle: int | None = None
        self._sum: RangeSum | None = None
        self._sums: list[RangeSum] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_more: object) -> None:
        self._leave()
        if kind is None:
            if self._offset != self._end:
                raise MalformedObject(f"a part ends at byte {self._offset}, not {self._end}, of its stream")
            for one in self._sums:
                one.note()
            self._writer.note_applied(self._stream, self._begin, self._end)

    def feed(self, chunk: Buffer) -> None:
        """The next bytes. Raises RestoreFailed when the disk does not take them."""
        view = memoryview(chunk)
        begin, end = self._offset, self._offset + len(view)
        if end > self._end:
            raise MalformedObject(f"a part goes on after byte {self._end} of its stream")
        self._offset = end
        while self._current is not None and self._current.start < end:
            one = self._current
            start, stop = max(one.start, begin), min(one.end, end)
            piece = view[start - begin : stop - begin]
            try:
                self._write(one, start - one.start, piece)
            except OSError as cause:
                raise unwritable(self._writer.target, cause) from cause
            if stop < one.end:
                return
            self._leave()
            self._current = next(self._ranges, None)

    def _write(self, one: Range, done: int, piece: memoryview) -> None:
        if self._handle is None:
            self._handle = opened_for_writing(one.path)
            self._sum = (
                None
                if self._writer.sums is None
                else self._writer.sums.begun(one.name, one.at + done, one.size if not done else None)
            )
        if self._sum is not None:
            self._sum.add(piece)
        write_all(self._handle, one.at + done, piece)

    def _leave(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
        if self._sum is not None:
            self._sums.append(self._sum)
            self._sum = None


def opened_for_writing(path: Path) -> int:
    """A descriptor; the file, and its folder, are made where they are not there. Raises OSError."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(path, flags, 0o600)
    except FileNotFoundError:  # a folder that the archive does not list by itself
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return os.open(path, flags, 0o600)


def write_all(handle: int, offset: int, piece: memoryview) -> None:
    """Raises OSError."""
    while len(piece):
        written = os.pwrite(handle, piece, offset)
        offset += written
        piece = piece[written:]


def _joined(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Sorted ranges with touching ones made one."""
    found: list[tuple[int, int]] = []
    for begin, end in sorted(ranges):
        if found and begin <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((begin, end))
    return found
