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
- A file becomes visible under its final name only whole and verified: written beside, renamed.
  PostgreSQL uses one destination for everything, so of several requests for it only the newest may
  place its file: an older one's caller has gone away.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import tempfile
import threading
import zlib
from pathlib import Path

from restore.core.plan import Plan
from restore.core.policy import FIRST_TIMELINE_HISTORY, Absent, Doubt, FetchFacts, Serve, answer
from restore.plainfile import write_plain
from walarchiver.catalog import Catalog, FileRecord
from walarchiver.core.segment import (
    HistoryFile,
    PartialFile,
    SegmentBytes,
    SegmentFile,
    WalFile,
    parse_wal_file,
)
from walarchiver.errors import FetchInDoubt, ProvenAbsent, Untrusted
from walarchiver.ledger import Ledger
from walarchiver.repository import Repository

READ_AHEAD_HINT = (
    "The target lies before this file: set `recovery_prefetch = off` in postgresql.auto.conf and start "
    "PostgreSQL again; it then asks for nothing behind the target."
)


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
    ) -> None:
        """`spool`: a folder on the destination's file system, outside pg_wal."""
        self._repository = repository
        self._ledger = ledger
        self._size = segment_size
        self._plan = plan
        self._spool = spool
        self._lock = threading.Lock()
        self._requests = itertools.count()
        self._newest: dict[Path, int] = {}

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
                        self._place(record, destination, request)
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
        head = 0
        if isinstance(file, HistoryFile) or self._catalog.file(name) is None:
            head = self._ledger.refresh().next_seq
        with self._catalog.snapshot():
            if self._catalog.next_seq() < head:
                raise FetchInDoubt(f"{name}: the catalog is being made anew; ask again")
            record = self._catalog.file(name)
            return record, self._facts(file, record)

    def _facts(self, file: WalFile, record: FileRecord | None) -> FetchFacts:
        last: dict[int, int] = {}
        if isinstance(file, SegmentFile | PartialFile):
            for timeline in self._catalog.timelines():
                newest = self._catalog.last_segment(timeline)
                if newest is not None:
                    last[timeline] = newest
        return FetchFacts(
            recorded=record is not None,
            verified_to_head=True,  # an unrecorded file is judged at the head, or not at all
            last_segments=last,
            histories=self._catalog.histories(),
            segment_size=self._size,
            replaced=self._replaced(record),
        )

    def _replaced(self, record: FileRecord | None) -> bool:
        """Whether the plan may rest on other bytes under this name."""
        if self._plan is None or record is None:
            return False
        return self._catalog.superseded_since(record.name, self._plan.ledger)

    def _place(self, record: FileRecord, destination: Path, request: int) -> None:
        """Write beside, verify, rename. Raises FetchInDoubt when the file system does not let us."""
        spool = self._spool if self._spool is not None else destination.parent
        try:
            spool.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                self._write_and_rename(record, spool, destination, request)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                # pg_wal may be a link to another file system: then only beside the target works.
                self._write_and_rename(record, destination.parent, destination, request)
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
                write_plain(self._repository, self._ledger.system, record, out)
            owner = destination.parent.stat()
            if os.geteuid() == 0 and owner.st_uid != 0:
                os.chown(temporary, owner.st_uid, owner.st_gid)
            with self._lock:
                self._check_newest(record, destination, request)
                temporary.rename(destination)
        finally:
            with contextlib.suppress(FileNotFoundError):
                temporary.unlink()

    def _check_newest(self, record: FileRecord, destination: Path, request: int) -> None:
        if self._newest.get(destination) != request:
            raise FetchInDoubt(f"{record.name}: a newer request has taken over {destination}")


def _beside(folder: Path, destination: Path) -> Path:
    """A new, empty file (mode 0600) for `destination`; its earlier ones, left by the killed, are removed."""
    prefix = f".walarchiver-{zlib.crc32(os.fsencode(destination)):08x}-"
    for left in folder.glob(f"{prefix}*.tmp"):
        left.unlink(missing_ok=True)
    handle, name = tempfile.mkstemp(prefix=prefix, suffix=".tmp", dir=folder)
    os.close(handle)
    return Path(name)
