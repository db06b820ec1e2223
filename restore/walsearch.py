"""Walks many archived segments of a path, several at once, and hands out what they tell in order.

Rules:
- Threads fetch, open, verify and sift segments ahead (`core/sift.py`): unpacking, deciphering and sifting
  leave the interpreter to the others. What needs the segment behind is walked here, in order.
- Not more than `Ahead.room` segments are held: in memory up to LARGE_BYTES each, larger ones in unlinked
  temporary files, which nobody else can open.
- The threads end with the caller: they are daemons, and look at every chunk whether they are to stop.
"""

from __future__ import annotations

import mmap
import os
import queue
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import BinaryIO, cast

from restore.plainfile import write_plain
from walarchiver.catalog import Catalog, FileRecord
from walarchiver.core.coverage import segment_on_path
from walarchiver.core.history import TimelineHistory
from walarchiver.core.scan import Ending
from walarchiver.core.segment import SegmentBytes
from walarchiver.core.sift import Sifted
from walarchiver.core.stretch import Stretch, sift_segment, walk_on
from walarchiver.core.touch import Watch
from walarchiver.errors import ObjectMissing, Transient, WalarchiverError
from walarchiver.repository import Repository

LARGE_BYTES = 64 << 20
HELD_BYTES_MAX = 256 << 20
"""Of segments held at once; at least three are."""
FETCHES_PER_WORKER = 2
"""While one thread waits for the store another one sifts."""


@dataclass(frozen=True, slots=True)
class Source:
    """One path of one archive."""

    repository: Repository
    system: str
    catalog: Catalog
    path: TimelineHistory
    segment_size: SegmentBytes


@dataclass(frozen=True, slots=True)
class Piece:
    """A segment that was walked."""

    number: int
    stretch: Stretch


class _Stopped(Exception):
    """Nobody wants the segment any more: control flow inside this module, no error."""


@dataclass(frozen=True, slots=True)
class _Opened:
    """A segment's plain bytes, and what sifting them alone tells."""

    pages: memoryview
    sifted: Sifted | None


@dataclass(slots=True)
class _Sink:
    """Takes a segment's bytes for as long as somebody wants them, and none behind its end."""

    pages: memoryview
    stop: threading.Event
    at: int = 0

    def write(self, chunk: bytes) -> int:
        if self.stop.is_set():
            raise _Stopped
        end = min(self.at + len(chunk), len(self.pages))
        self.pages[self.at : end] = chunk[: end - self.at]
        self.at = end
        return len(chunk)


class Ahead(AbstractContextManager["Ahead"]):
    """The segments of a path up to `until`, made ready ahead of who takes them."""

    def __init__(self, source: Source, watch: Watch, until: int, workers: int) -> None:
        self._source = source
        self._watch = watch
        self._until = until
        self._ready: dict[int, Future[_Opened]] = {}
        self._orders: queue.SimpleQueue[tuple[FileRecord, int, Future[_Opened]] | None] = queue.SimpleQueue()
        self._free: queue.SimpleQueue[memoryview] = queue.SimpleQueue()
        self._stop = threading.Event()
        threads = max(1, workers) * FETCHES_PER_WORKER
        self.room = max(3, min(threads + 2, HELD_BYTES_MAX // source.segment_size))
        self._threads = [
            threading.Thread(target=self._work, name=f"find-{number}", daemon=True)
            for number in range(min(threads, self.room))
        ]
        for thread in self._threads:
            thread.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        for _thread in self._threads:
            self._orders.put(None)
        self._ready.clear()
        if kind is not KeyboardInterrupt:  # who is interrupted does not wait for a store that is silent
            for thread in self._threads:
                thread.join()

    def order(self, number: int) -> None:
        """Have a segment made ready."""
        if number in self._ready:
            return
        source = self._source
        name = segment_on_path(source.path, number, source.segment_size).name(source.segment_size)
        record = source.catalog.file(name)
        if record is None:
            raise ObjectMissing(f"{name} is not recorded any more")
        made: Future[_Opened] = Future()
        self._ready[number] = made
        self._orders.put((record, number, made))

    def pages(self, number: int) -> memoryview | None:
        """The bytes of a segment; None behind what is archived."""
        if number > self._until:
            return None
        self.order(number)
        return self._ready[number].result().pages

    def sifted(self, number: int) -> Sifted | None:
        """What of a segment was passed already."""
        self.order(number)
        return self._ready[number].result().sifted

    def forget(self, number: int) -> None:
        """Let go of the segments up to `number`."""
        for each in [one for one in self._ready if one <= number]:
            pages = self._ready.pop(each).result().pages
            if len(pages) <= LARGE_BYTES:
                self._free.put(pages)  # new memory costs as much as half of unpacking

    def _work(self) -> None:
        while (order := self._orders.get()) is not None and not self._stop.is_set():
            record, number, made = order
            try:
                made.set_result(self._open(record, number))
            except _Stopped:
                return
            except WalarchiverError as error:
                made.set_exception(error)
            finally:
                made.cancel()  # so that after a mistake of ours nobody waits for it

    def _open(self, record: FileRecord, number: int) -> _Opened:
        source = self._source
        pages = self._room_for(record)
        write_plain(source.repository, source.system, record, cast(BinaryIO, _Sink(pages, self._stop)))
        return _Opened(
            pages, sift_segment(number, pages, segment_size=source.segment_size, watch=self._watch)
        )

    def _room_for(self, record: FileRecord) -> memoryview:
        if record.len <= LARGE_BYTES:
            try:
                return self._free.get_nowait()
            except queue.Empty:
                return memoryview(bytearray(record.len))
        try:
            with tempfile.TemporaryFile(prefix="walarchiver-find-") as out:
                os.posix_fallocate(out.fileno(), 0, record.len)
                return memoryview(mmap.mmap(out.fileno(), record.len))
        except OSError as error:
            raise Transient(
                f"{record.name} cannot be laid out to be read: {error.strerror or error}",
                hint="Free space where temporary files go, or name another folder in TMPDIR.",
            ) from error


def walk_path(
    source: Source, first: int, last: int, until: int, watch: Watch, *, workers: int
) -> Iterator[Piece]:
    """Segments first..last in order; records may go on up to segment `until`.

    Ends early after a segment whose WAL does. Raises ObjectDamaged, ObjectMissing, Store…, Transient.
    """
    with Ahead(source, watch, until, workers) as ahead:
        for number in range(first, last + 1):
            for later in range(number, min(number + ahead.room - 1, last) + 1):
                ahead.order(later)
            passed = ahead.sifted(number)
            stretch = walk_on(number, ahead.pages, passed, segment_size=source.segment_size, watch=watch)
            ahead.forget(number)
            yield Piece(number, stretch)
            if stretch.ending is not Ending.WHOLE:
                return
