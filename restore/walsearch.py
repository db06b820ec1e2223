"""Walks many archived segments of a path, several stretches at once, and hands out what they tell in order.

Rules:
- Segments are fetched, opened and verified here, on a few threads, into a private folder, whose size is
  bounded by the stretches under way; processes that hold no key walk them.
- A record may go on behind its stretch: each stretch has the segment that follows, and more where needed.
"""

from __future__ import annotations

import os
import tempfile
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

from restore.findworker import Job, quiet, work
from restore.plainfile import write_plain
from walarchiver.catalog import Catalog
from walarchiver.core.coverage import segment_on_path
from walarchiver.core.history import TimelineHistory
from walarchiver.core.scan import Ending
from walarchiver.core.segment import SegmentBytes
from walarchiver.core.stretch import Stretch
from walarchiver.core.touch import Watch
from walarchiver.errors import ObjectMissing, Transient
from walarchiver.repository import Repository

STRETCH_BYTES = 64 << 20
"""Walked as one piece: large enough to make what crosses its border rare."""
FETCHERS = 2


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
    """A stretch that was walked: segments first..last."""

    first: int
    last: int
    stretch: Stretch


@dataclass(slots=True)
class _Folder:
    """Plain segments on disk, by number, fetched ahead."""

    source: Source
    place: Path
    until: int
    """The last segment that is archived."""
    fetchers: ThreadPoolExecutor
    files: dict[int, Future[Path]] = field(default_factory=dict)

    def order(self, first: int, last: int) -> None:
        for number in range(first, min(last, self.until) + 1):
            if number not in self.files:
                self.files[number] = self.fetchers.submit(self._fetch, number)

    def _fetch(self, number: int) -> Path:
        source = self.source
        name = segment_on_path(source.path, number, source.segment_size).name(source.segment_size)
        record = source.catalog.file(name)
        if record is None:
            raise ObjectMissing(f"{name} is not recorded any more")
        path = self.place / name
        try:
            with path.open("wb") as out:
                write_plain(source.repository, source.system, record, out)
        except OSError as error:
            raise Transient(
                f"{name} cannot be laid out to be read: {error.strerror or error}",
                hint="Free space where temporary files go, or name another folder in TMPDIR.",
            ) from error
        return path

    def ready(self, first: int, last: int) -> tuple[Path, ...]:
        """Wait for first..last, as far as archived."""
        self.order(first, last)
        return tuple(self.files[number].result() for number in range(first, min(last, self.until) + 1))

    def forget(self, before: int) -> None:
        """Remove the segments before a number."""
        for number in [each for each in self.files if each < before]:
            future = self.files.pop(number)
            if future.cancel():
                continue
            future.result().unlink(missing_ok=True)


def walk_path(
    source: Source, first: int, last: int, until: int, watch: Watch, *, workers: int
) -> Iterator[Piece]:
    """The stretches of segments first..last in order; records may go on up to segment `until`.

    Ends early after a stretch whose WAL does. Raises ObjectDamaged, ObjectMissing, Store…, Transient.
    """
    size = source.segment_size
    each = max(1, STRETCH_BYTES // size)
    pieces = [(low, min(low + each - 1, last)) for low in range(first, last + 1, each)]
    processes = min(workers, len(pieces), os.cpu_count() or 1)
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="walarchiver-find-")))
        fetchers = ThreadPoolExecutor(FETCHERS, thread_name_prefix="find")
        stack.callback(fetchers.shutdown, wait=True, cancel_futures=True)
        folder = _Folder(source, place, until, fetchers)
        pool: ProcessPoolExecutor | None = None
        if processes > 1:
            pool = ProcessPoolExecutor(processes, mp_context=get_context("spawn"), initializer=quiet)
            stack.callback(pool.shutdown, wait=True, cancel_futures=True)
        yield from _walk(folder, pieces, watch, pool, ahead=processes)


def _walk(
    folder: _Folder,
    pieces: list[tuple[int, int]],
    watch: Watch,
    pool: ProcessPoolExecutor | None,
    *,
    ahead: int,
) -> Iterator[Piece]:
    under_way: deque[tuple[int, int, Future[Stretch]]] = deque()
    size = folder.source.segment_size
    for index, (low, high) in enumerate(pieces):
        files = folder.ready(low, high + 1)
        for later_low, later_high in pieces[index + 1 : index + 2]:
            folder.order(later_low, later_high)
        job = Job(low, high, files, size, watch)
        if pool is None:
            done: Future[Stretch] = Future()
            done.set_result(work(job))
        else:
            done = pool.submit(work, job)
        under_way.append((low, high, done))
        if len(under_way) > (ahead if pool is not None else 0):
            piece = _finish(folder, watch, *under_way.popleft())
            yield piece
            if piece.stretch.ending is not Ending.WHOLE:
                return
    while under_way:
        piece = _finish(folder, watch, *under_way.popleft())
        yield piece
        if piece.stretch.ending is not Ending.WHOLE:
            return


def _finish(folder: _Folder, watch: Watch, low: int, high: int, done: Future[Stretch]) -> Piece:
    """The result of a stretch; with more segments behind it where its last record needs them."""
    try:
        stretch = done.result()
    except BrokenProcessPool as error:
        raise Transient(
            "a process that reads WAL was ended from outside", hint="Is memory short? Give the command again."
        ) from error
    more = 1
    while stretch.ending is Ending.OPEN and high + more < folder.until:
        more *= 4
        job = Job(low, high, folder.ready(low, high + more), folder.source.segment_size, watch)
        stretch = work(job)
    folder.forget(high + 1)
    return Piece(low, high, stretch)
