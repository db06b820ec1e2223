"""Prefetch: the next WAL files of a recovery, opened and verified before PostgreSQL asks for them.

Rules:
- It only has bytes ready. What is answered is decided anew at every ask (restore/core/policy.py), and a
  file that is ready here goes out for the very record it was fetched for, or not at all.
- Which file is ready is known in memory alone. They lie in a folder of this process's own in the spool,
  locked for as long as it lives; what a killed one left is removed by the next and never used.
- No more than the window is held. An order replaces the window: what is no longer in it is removed.
- One that is being fetched is waited for instead of fetched twice. One that failed is forgotten: PostgreSQL
  may never ask for it, and when it does, the error of that ask is the answer.
- Nothing here is needed: without room, rights or a lock there is no prefetch, and that is all.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from pathlib import Path
from typing import BinaryIO

from walarchiver.catalog import FileRecord
from walarchiver.core.segment import SegmentBytes
from walarchiver.errors import WalarchiverError
from walarchiver.log import get_log

log = get_log("prefetch")

FOLDER_PREFIX = ".walarchiver-ahead-"
IDLE_S = 600.0
"""Nothing ordered or taken for so long: the server was promoted, streams, or is down."""
PATIENCE_S = 60.0
"""An ask waits so long for a file that is on its way; then it tries itself, on another connection."""


@dataclass(frozen=True, slots=True)
class Window:
    """How far ahead is fetched, by how many threads, and how many bodies are opened at a time."""

    files: int = 8
    bytes: int = 256 << 20
    threads: int = 3
    open: int = 2

    def files_of(self, size: SegmentBytes) -> int:
        """How many segments of that size: at least one."""
        return max(1, min(self.files, self.bytes // size))


class Fate(StrEnum):
    """What became of a file that was fetched ahead."""

    USED = "used"
    FAILED = "failed"
    DROPPED = "dropped"
    """Fetched, and not asked for."""


class _State(Enum):
    WAITING = 0
    RUNNING = 1
    READY = 2
    FAILED = 3


@dataclass(eq=False, slots=True)
class _File:
    """One file of the window."""

    record: FileRecord
    path: Path
    state: _State = _State.WAITING
    dropped: bool = False
    done: threading.Event = field(default_factory=threading.Event)


class Prefetch:
    """The window of one fetcher. Thread-safe; `take` may wait, nothing else does."""

    def __init__(
        self,
        lay: Callable[[FileRecord, BinaryIO], None],
        spool: Path,
        *,
        window: Window = Window(),
        count: Callable[[Fate], None] = lambda _fate: None,
        idle_s: float = IDLE_S,
    ) -> None:
        """`lay` writes a file's verified bytes, or raises; `count` is told what became of each."""
        self._lay = lay
        self._spool = spool
        self._window = window
        self._count = count
        self._idle_s = idle_s
        self._changed = threading.Condition()
        self._files: dict[str, _File] = {}
        """The window, in the order in which it is fetched."""
        self._numbers = itertools.count()
        self._threads = 0
        self._folder: Path | None = None
        self._lock: int | None = None
        self._closed = False
        with contextlib.suppress(OSError):
            _sweep(spool)

    @property
    def known(self) -> Mapping[str, FileRecord]:
        """The records of the window, by name."""
        with self._changed:
            return {name: file.record for name, file in self._files.items()}

    def order(self, records: Sequence[FileRecord]) -> None:
        """Have these ready, in this order, and nothing else."""
        with self._changed:
            if self._closed or not self._have_folder():
                return
            assert self._folder is not None
            before, self._files = self._files, {}
            for record in records:
                file = before.get(record.name)
                if file is None or file.record != record:
                    file = _File(record, self._folder / f"{record.name}.{next(self._numbers)}")
                else:
                    del before[record.name]
                self._files[record.name] = file
            for file in before.values():
                self._drop(file)
            waiting = sum(file.state is _State.WAITING for file in self._files.values())
            while self._threads < min(self._window.threads, waiting):
                try:
                    threading.Thread(target=self._work, name="prefetch", daemon=True).start()
                except RuntimeError as error:  # no more threads for this process
                    log.info("nothing is fetched ahead", reason=str(error))
                    break
                self._threads += 1  # it waits for the lock that we hold
            self._changed.notify_all()

    def take(self, record: FileRecord) -> Path | None:
        """The verified file of this record, which is the caller's now; None when there is none."""
        with self._changed:
            file = self._files.pop(record.name, None)
            if file is None:
                return None
            if file.record != record or file.state in (_State.WAITING, _State.FAILED):
                self._drop(file)
                return None
        file.done.wait(PATIENCE_S)
        with self._changed:
            if file.state is not _State.READY or file.dropped:
                self._drop(file)
                return None
            self._count(Fate.USED)
            return file.path

    def close(self) -> None:
        """Remove everything and fetch nothing more; what is under way ends in its own time, in vain."""
        with self._changed:
            self._closed = True
            self._forget()
            self._changed.notify_all()

    # --- inside, with the lock held ----------------------------------------------------------------

    def _drop(self, file: _File) -> None:
        if file.dropped:
            return
        file.dropped = True
        if file.state is _State.READY:
            self._count(Fate.DROPPED)
        with contextlib.suppress(OSError):
            file.path.unlink(missing_ok=True)

    def _forget(self) -> None:
        for file in self._files.values():
            self._drop(file)
        self._files.clear()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _have_folder(self) -> bool:
        if self._folder is not None and not self._folder.is_dir():
            self._forget()  # somebody tidied up
        if self._folder is None:
            try:
                self._folder, self._lock = _own_folder(self._spool)
            except OSError as error:
                log.info("nothing is fetched ahead", spool=self._spool, reason=error.strerror or str(error))
        return self._folder is not None

    def _leave(self) -> None:
        """One thread fewer; the last one takes with it what nobody asked for."""
        self._threads -= 1
        if not self._threads:
            self._forget()

    # --- inside, in threads of its own ---------------------------------------------------------------

    def _work(self) -> None:
        try:
            while (file := self._next()) is not None:
                self._fetch(file)
        except BaseException:  # a mistake of ours: the next order begins another thread
            with self._changed:
                self._leave()
            raise

    def _next(self) -> _File | None:
        """The next file to fetch; None when this thread is not needed any more."""
        with self._changed:
            while not self._closed:
                for file in self._files.values():
                    if file.state is _State.WAITING:
                        file.state = _State.RUNNING
                        return file
                if not self._changed.wait(self._idle_s):
                    break
            self._leave()
            return None

    def _fetch(self, file: _File) -> None:
        state = _State.FAILED
        try:
            with open(os.open(file.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
                self._lay(file.record, out)
            state = _State.READY
        except (WalarchiverError, OSError) as error:
            reason = error.message if isinstance(error, WalarchiverError) else str(error)
            log.info("not fetched ahead", file=file.record.name, reason=reason)
        finally:  # also after a mistake of ours, so that nobody waits for it
            self._ended(file, state)

    def _ended(self, file: _File, state: _State) -> None:
        with self._changed:
            file.state = state
            if state is _State.FAILED:
                self._count(Fate.FAILED)
            elif file.dropped:
                self._count(Fate.DROPPED)
            if file.dropped or state is _State.FAILED:
                with contextlib.suppress(OSError):
                    file.path.unlink(missing_ok=True)
            file.done.set()


def spool_beside(data_directory: Path | None) -> Path | None:
    """The spool of a cluster that names none; None where this user may not make one.

    Beside the data directory, not in it: pg_rewind and backups take whatever lies there.
    """
    if data_directory is None:
        return None
    spool = data_directory.with_name(f"{data_directory.name}.walarchiver-spool")
    try:
        spool.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        log.info("nothing is fetched ahead", spool=spool, reason=error.strerror or str(error))
        return None
    return spool


def _own_folder(spool: Path) -> tuple[Path, int]:
    """A new folder for this process alone, and the descriptor that holds it. Raises OSError."""
    spool.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _locked(spool):
        folder = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX, dir=spool))
        return folder, _lock(folder)


def _sweep(spool: Path) -> None:
    """Remove what processes that live no more have left. Raises OSError."""
    with _locked(spool):
        for folder in spool.glob(f"{FOLDER_PREFIX}*"):
            try:
                descriptor = _lock(folder)
            except OSError:
                continue  # somebody's
            shutil.rmtree(folder, ignore_errors=True)
            os.close(descriptor)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    descriptor = _lock(folder)
    try:
        yield
    finally:
        os.close(descriptor)


def _lock(folder: Path) -> int:
    """Raises OSError when another process has it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
