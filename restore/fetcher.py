"""Fetcher: serves restore_command, with a plan or without.

Rules (docs/format.md "Proven absent"; PostgreSQL xlogarchive.c, RestoreArchivedFile):
- Absent is an answer only when it is proven: the chain is verified to its head and neither the
  name nor any later segment on the path is recorded. Everything else that keeps a file from being
  served is doubt, and doubt stops recovery instead of ending it.
- With a plan, only what the plan allows is served (restore/core/policy.py).
- A recorded file that does not verify is an error wherever it lies: a record stands for bytes, and "absent"
  would deny it (docs/format.md). So damage behind a plan's last segment, which PostgreSQL meets
  only by reading ahead, stops recovery too; the hint says how to reach the target without that file.
- The catalog is asked in one snapshot, at the head that was just verified: another process may be
  making it anew meanwhile.
- A file becomes visible under its final name only whole and verified: written beside, renamed. It is not
  synced: what a power cut takes is fetched again, and PostgreSQL checks every record that it replays.
  PostgreSQL uses one destination for everything, so of several requests for it only the newest may
  place its file: an older one's caller has gone away.
- After a segment was served, the next ones on the plan's path (without a plan the recorded ones of the same
  timeline) are fetched ahead (prefetch.py), and what a plan begins with before anybody asks. That decides
  nothing: every ask is answered as if it were the first.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import tempfile
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from restore.core.plan import Plan
from restore.core.policy import FIRST_TIMELINE_HISTORY, Absent, Doubt, FetchFacts, Serve, answer
from restore.plainfile import lay_plain
from restore.prefetch import Fate, Prefetch, Window
from restore.turns import Turns
from walarchiver.catalog import Catalog, FileRecord
from walarchiver.core.history import TimelineHistory
from walarchiver.core.segment import (
    HistoryFile,
    Segment,
    SegmentBytes,
    SegmentFile,
    WalFile,
    parse_wal_file,
)
from walarchiver.errors import FetchInDoubt, ProvenAbsent, Untrusted, WalarchiverError
from walarchiver.ledger import Ledger
from walarchiver.repository import Repository

READ_AHEAD_HINT = (
    "The target lies before this file: set `recovery_prefetch = off` in postgresql.auto.conf and start "
    "PostgreSQL again; it then asks for nothing behind the target."
)


NO_WINDOW = Window(files=0)


@dataclass(frozen=True, slots=True)
class _Paths:
    """What the catalog said about timelines when its head was this one."""

    head: tuple[int, str | None]
    last_segments: Mapping[int, int]
    histories: Mapping[int, TimelineHistory]


class Fetcher:
    """Fetches WAL files of one cluster. Thread-safe; calls block."""

    def __init__(
        self,
        *,
        repository: Repository,
        ledger: Ledger,
        segment_size: SegmentBytes,
        plan: Plan | None,
        spool: Path | None = None,
        window: Window = NO_WINDOW,
        count: Callable[[Fate], None] = lambda _fate: None,
    ) -> None:
        """`spool`: a folder on the destination's file system, outside pg_wal; without one, and without a
        window, nothing is fetched ahead. `count` is told what became of each file that was."""
        self._repository = repository
        self._ledger = ledger
        self._size = segment_size
        self._plan = plan
        self._spool = spool
        self._lock = threading.Lock()
        self._requests = itertools.count()
        self._newest: dict[Path, int] = {}
        self._paths: _Paths | None = None
        self._window = window
        self._turns = Turns(window.open)
        self._ahead: Prefetch | None = None
        if spool is not None and window.files:
            self._ahead = Prefetch(self._lay_ahead, spool, window=window, count=count)
        self._last_asked: Segment | None = None

    def close(self) -> None:
        """Remove what was fetched ahead, and fetch nothing ahead any more."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            ahead.close()

    def begin(self) -> None:
        """Order what a plan begins with, before anybody asks. Without a plan nothing is known."""
        ahead, plan = self._ahead, self._plan
        if ahead is not None and plan is not None:
            self._order(ahead, plan.segment(plan.first))

    @property
    def _catalog(self) -> Catalog:
        return self._ledger.catalog

    def fetch(self, name: str, destination: Path) -> int:
        """Put the file at `destination`; its length in bytes.

        Raises ProvenAbsent, FetchInDoubt, and whatever keeps it from being read.
        """
        request = self._begin(destination)
        try:
            if name == FIRST_TIMELINE_HISTORY:
                raise ProvenAbsent(f"{name} cannot exist: timeline 1 has no parents")
            file = parse_wal_file(name, self._size)
            record, facts = self._asked(name, file)
            match answer(self._plan, file, facts):
                case Serve(read_ahead):
                    assert record is not None
                    try:
                        self._serve(file, record, destination, request)
                    except Untrusted as error:
                        if read_ahead:
                            raise type(error)(error.message, hint=READ_AHEAD_HINT) from error
                        raise
                    return record.len
                case Absent(proof):
                    raise ProvenAbsent(f"{name} is not in the archive: {proof}")
                case Doubt(reason):
                    raise FetchInDoubt(f"{name}: {reason}")
        finally:
            self._end(destination, request)

    def _begin(self, destination: Path) -> int:
        with self._lock:
            self._newest[destination] = request = next(self._requests)
            return request

    def _end(self, destination: Path, request: int) -> None:
        with self._lock:
            if self._newest.get(destination) == request:
                del self._newest[destination]

    def _asked(self, name: str, file: WalFile) -> tuple[FileRecord | None, FetchFacts]:
        """What is known of a file; read to the head unless it is recorded already."""
        if not isinstance(file, HistoryFile):
            with self._catalog.snapshot():
                record = self._catalog.file(name)
                if record is not None:
                    return record, self._facts(record)
        head = self._ledger.refresh().next_seq
        with self._catalog.snapshot():
            if self._catalog.next_seq() < head:
                raise FetchInDoubt(f"{name}: the catalog is being made anew; ask again")
            record = self._catalog.file(name)
            return record, self._facts(record)

    def _facts(self, record: FileRecord | None) -> FetchFacts:
        paths = self._paths_now()
        return FetchFacts(
            recorded=record is not None,
            verified_to_head=True,  # an unrecorded file is judged at the head, or not at all
            last_segments=paths.last_segments,
            histories=paths.histories,
            segment_size=self._size,
            replaced=self._replaced(record),
        )

    def _paths_now(self) -> _Paths:
        """Read again when the head is another one; its hash is over all that is before it."""
        catalog = self._catalog
        head = catalog.next_seq()
        key = (head, catalog.entry_sha256(head - 1))
        paths = self._paths
        if paths is None or paths.head != key:
            newest = {timeline: catalog.last_segment(timeline) for timeline in catalog.timelines()}
            last = {timeline: number for timeline, number in newest.items() if number is not None}
            self._paths = paths = _Paths(key, last, catalog.histories())
        return paths

    def _replaced(self, record: FileRecord | None) -> bool:
        """Whether the plan may rest on other bytes under this name."""
        if self._plan is None or record is None:
            return False
        return self._catalog.superseded_since(record.name, self._plan.ledger)

    def _serve(self, file: WalFile, record: FileRecord, destination: Path, request: int) -> None:
        """From what was fetched ahead, or now; and have the next ones fetched."""
        segment = file.segment if isinstance(file, SegmentFile) else None
        ready = self._taken_ahead(record, destination)
        if ready is not None and self._place_ready(ready, record, destination, request):
            self._look_ahead(segment)
        else:
            self._look_ahead(segment)
            self._place(record, destination, request)

    def _taken_ahead(self, record: FileRecord, destination: Path) -> Path | None:
        ahead, spool = self._ahead, self._spool
        if ahead is None or spool is None:
            return None
        try:
            if _device(spool) != destination.parent.stat().st_dev:
                self._no_spool()
                return None
        except OSError:
            return None
        return ahead.take(record)

    def _place_ready(self, ready: Path, record: FileRecord, destination: Path, request: int) -> bool:
        """False when it cannot be had from there; then it is fetched, which says why if that fails, too."""
        try:
            self._move(ready, record, destination, request)
        except OSError as error:
            if error.errno == errno.EXDEV:
                self._no_spool()
            return False
        finally:
            with contextlib.suppress(OSError):
                ready.unlink(missing_ok=True)
        return True

    def _no_spool(self) -> None:
        """pg_wal may be a link to another file system: then only beside the target works."""
        self._spool = None
        self.close()

    def _look_ahead(self, segment: Segment | None) -> None:
        """Order what recovery is going to ask next; going backwards (pg_rewind does) tells nothing."""
        ahead = self._ahead
        if segment is None or ahead is None:
            return
        last, self._last_asked = self._last_asked, segment
        if last is not None and segment.number < last.number:
            return
        if last is None and self._plan is not None:
            ordered = self._window.files_of(self._size)
            if self._plan.first < segment.number < self._plan.first + ordered:
                return  # the checkpoint's: recovery goes back from it to where the plan begins
        self._order(ahead, Segment(segment.timeline, segment.number + 1))

    def _order(self, ahead: Prefetch, first: Segment) -> None:
        try:
            ahead.order(list(self._next(first, ahead.known)))
        except WalarchiverError:  # the next ask meets it itself
            return

    def _next(self, first: Segment, known: Mapping[str, FileRecord]) -> Iterator[FileRecord]:
        """The records of the segments from `first` on, up to the window or the first that is not there."""
        for number in range(first.number, first.number + self._window.files_of(self._size)):
            following = Segment(first.timeline, number)
            if self._plan is not None:
                if number > self._plan.last:
                    return
                following = self._plan.segment(number)
            name = following.name(self._size)
            record = known.get(name) or self._catalog.file(name)
            if record is None:
                return
            yield record

    def _lay(self, record: FileRecord, out: BinaryIO) -> None:
        lay_plain(self._repository, self._ledger.system, record, out, self._turns.now)

    def _lay_ahead(self, record: FileRecord, out: BinaryIO) -> None:
        lay_plain(self._repository, self._ledger.system, record, out, self._turns.in_turn)

    def _place(self, record: FileRecord, destination: Path, request: int) -> None:
        """Write beside, verify, rename. Raises FetchInDoubt when the file system does not let us."""
        spool = self._spool if self._spool is not None else destination.parent
        try:
            spool.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                self._write_and_rename(record, spool, destination, request)
            except OSError as error:
                if error.errno == errno.EXDEV:
                    self._no_spool()
                    spool = destination.parent
                elif error.errno == errno.ENOSPC and self._ahead is not None:
                    self._ahead.order([])  # what is asked for goes before what may be asked for
                else:
                    raise
                self._write_and_rename(record, spool, destination, request)
        except OSError as error:
            raise FetchInDoubt(
                f"{record.name} cannot be placed at {destination}: {error.strerror or error}"
            ) from error

    def _write_and_rename(self, record: FileRecord, folder: Path, destination: Path, request: int) -> None:
        with self._lock:
            self._check_newest(record, destination, request)
            temporary = _beside(folder, destination)
        try:
            with temporary.open("wb") as out:
                self._lay(record, out)
            self._move(temporary, record, destination, request)
        finally:
            with contextlib.suppress(FileNotFoundError):
                temporary.unlink()

    def _move(self, made: Path, record: FileRecord, destination: Path, request: int) -> None:
        """Give a whole, verified file to PostgreSQL."""
        owner = destination.parent.stat()
        if os.geteuid() == 0 and owner.st_uid != 0:
            os.chown(made, owner.st_uid, owner.st_gid, follow_symlinks=False)  # the spool may be its
        with self._lock:
            self._check_newest(record, destination, request)
            made.rename(destination)

    def _check_newest(self, record: FileRecord, destination: Path, request: int) -> None:
        if self._newest.get(destination) != request:
            raise FetchInDoubt(f"{record.name}: a newer request has taken over {destination}")


def _device(folder: Path) -> int:
    """Of a folder that is made where it is missing."""
    try:
        return folder.stat().st_dev
    except FileNotFoundError:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder.stat().st_dev


def _beside(folder: Path, destination: Path) -> Path:
    """A new, empty file (mode 0600) for `destination`; its earlier ones, left by the killed, are removed."""
    prefix = f".walarchiver-{zlib.crc32(os.fsencode(destination)):08x}-"
    for left in folder.glob(f"{prefix}*.tmp"):
        left.unlink(missing_ok=True)
    handle, name = tempfile.mkstemp(prefix=prefix, suffix=".tmp", dir=folder)
    os.close(handle)
    return Path(name)
