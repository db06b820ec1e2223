"""Fetch parts on threads that wait, open and write them on threads that work, with bounded memory.

Rules:
- Parts are asked for in order; a part's stored bytes are all that is held of it, as it is written while it is
  opened. What is under way is bounded in number and in bytes, one part excepted.
- The first failure, or an interrupt, ends everything: what has not begun never does.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from restore.pacing import Pace
from restore.partsource import Pour, Source, fetched, opened
from restore.streamwriter import StreamWriter
from walarchiver.format.records import BackupPart
from walarchiver.repository import Body

BYTES_UNDER_WAY_MAX = 64 << 20
"""Stored bytes that were asked for and are not written yet."""
FETCHES_MAX = 6


@dataclass(frozen=True, slots=True)
class Progress:
    """How far unpacking is, in plain bytes."""

    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Task:
    """A part and what takes it."""

    backup: str
    part: BackupPart
    writer: StreamWriter


def tasks_of(backup: str, parts: Sequence[BackupPart], writer: StreamWriter) -> list[Task]:
    """The tar parts of a backup that hold something wanted."""
    return [
        Task(backup, part, writer)
        for part in parts
        if part.role == "tar" and writer.needs(part.stream, part.offset, part.raw)
    ]


@dataclass
class _Gate:
    """Lets a bounded number of parts and bytes in; closed by the first failure."""

    parts_max: int
    bytes_max: int = BYTES_UNDER_WAY_MAX
    parts: int = 0
    bytes: int = 0
    failure: BaseException | None = None
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def enter(self, count: int) -> None:
        """Wait for room. Raises the first failure."""
        with self._changed:
            self._changed.wait_for(lambda: self.failure is not None or self._has_room(count))
            self._raise()
            self.parts += 1
            self.bytes += count

    def leave(self, count: int, failure: BaseException | None) -> None:
        with self._changed:
            self.parts -= 1
            self.bytes -= count
            self.failure = self.failure or failure
            self._changed.notify_all()

    def drain(self) -> None:
        """Wait until everybody has left. Raises the first failure."""
        with self._changed:
            self._changed.wait_for(lambda: self.failure is not None or not self.parts)
            self._raise()

    def close(self, failure: BaseException) -> None:
        with self._changed:
            self.failure = self.failure or failure
            self._changed.notify_all()

    def _has_room(self, count: int) -> bool:
        return not self.parts or (self.parts < self.parts_max and self.bytes + count <= self.bytes_max)

    def _raise(self) -> None:
        if self.failure is not None:
            raise self.failure


class _Run:
    """One unpacking under way."""

    def __init__(
        self, archive: Source, total: int, workers: int, progress: Callable[[Progress], None]
    ) -> None:
        fetches = min(FETCHES_MAX, workers + 2)
        self._archive = archive
        self._total, self._done = total, 0
        self._progress = progress
        self._lock = threading.Lock()
        self.gate = _Gate(parts_max=workers + 2 * fetches)
        self.fetching = ThreadPoolExecutor(fetches, thread_name_prefix="fetch")
        self.writing = ThreadPoolExecutor(workers, thread_name_prefix="unpack")

    def begin(self, task: Task) -> None:
        """Fetch a part on a thread that waits, then write it on one that works."""
        fetching = self.fetching.submit(self._fetch, task)
        fetching.add_done_callback(lambda done: self._fetched(task, done))

    def _fetch(self, task: Task) -> Body | None:
        return None if self.gate.failure is not None else fetched(self._archive, task.part)

    def _fetched(self, task: Task, done: Future[Body | None]) -> None:
        failure = None if done.cancelled() else done.exception()
        body = None if done.cancelled() or failure is not None else done.result()
        if body is None or self.gate.failure is not None:
            self.gate.leave(task.part.object.stored_len, failure)
            return
        try:
            writing = self.writing.submit(self._write, task, body)
        except RuntimeError as error:  # no more threads for this process; nobody else would tell
            self.gate.leave(task.part.object.stored_len, error)
            return
        writing.add_done_callback(lambda done: self._written(task, done))

    def _write(self, task: Task, body: Body) -> None:
        if self.gate.failure is None:
            write_part(self._archive, task, body)
            self._tell(task.part.raw)

    def _written(self, task: Task, done: Future[None]) -> None:
        self.gate.leave(task.part.object.stored_len, None if done.cancelled() else done.exception())

    def _tell(self, count: int) -> None:
        with self._lock:
            self._done += count
            self._progress(Progress(self._done, self._total))

    def shut_down(self) -> None:
        self.fetching.shutdown(cancel_futures=True)
        self.writing.shutdown(cancel_futures=True)


def write_part(archive: Source, task: Task, body: Body) -> None:
    """Open one part and write what is wanted of it."""
    part = task.part

    def take(pour: Pour) -> None:
        with task.writer.part(part.stream, part.offset, part.raw) as writing:
            pour(writing.feed)

    opened(archive, task.backup, part, body, take)


def unpack_all(
    archive: Source,
    tasks: Sequence[Task],
    *,
    workers: int,
    pace: Pace | None = None,
    progress: Callable[[Progress], None] = lambda _progress: None,
) -> None:
    """Write all of it. Raises the first failure, once nothing is under way any more."""
    run = _Run(archive, sum(task.part.raw for task in tasks), workers, progress)
    try:
        for task in tasks:
            run.gate.enter(task.part.object.stored_len)
            try:
                if pace is not None:
                    pace.take(task.part.raw)
                run.begin(task)
            except BaseException:
                run.gate.leave(task.part.object.stored_len, None)
                raise
        run.gate.drain()
    except BaseException as error:  # Ctrl-C too: else what is left would be unpacked first
        run.gate.close(error)
        raise
    finally:
        run.shut_down()
