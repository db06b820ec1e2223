"""Fetcher: serves restore_command, with a plan or without.

Rules (docs/format.md "Proven absent"; PostgreSQL xlogarchive.c, RestoreArchivedFile):
- Absent is an answer only when it is proven: the chain is verified to its head and neither the
  name nor any later segment on the path is recorded. Everything else that keeps a file from being
  served is doubt, and doubt stops recovery instead of ending it.
- With a plan, only what the plan allows is served (restore/core/policy.py).
- A file becomes visible under its final name only whole and verified: written beside, renamed.
"""

from __future__ import annotations

import contextlib
import errno
import os
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
from walarchiver.errors import FetchInDoubt, ProvenAbsent
from walarchiver.ledger import Ledger
from walarchiver.repository import Repository


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

    @property
    def _catalog(self) -> Catalog:
        return self._ledger.catalog

    def fetch(self, name: str, destination: Path) -> int:
        """Put the file at `destination`; its length in bytes.

        Raises ProvenAbsent, FetchInDoubt, and whatever keeps it from being read.
        """
        if name == FIRST_TIMELINE_HISTORY:
            raise ProvenAbsent(f"{name} cannot exist: timeline 1 has no parents")
        file = parse_wal_file(name, self._size)
        record = self._catalog.file(name)
        if record is None or isinstance(file, HistoryFile):
            self._ledger.refresh()
            record = self._catalog.file(name)
        match answer(self._plan, file, self._facts(file, record)):
            case Serve():
                assert record is not None
                self._place(record, destination)
                return record.len
            case Absent(proof):
                raise ProvenAbsent(f"{name} is not in the archive: {proof}")
            case Doubt(reason):
                raise FetchInDoubt(f"{name}: {reason}")

    def _facts(self, file: WalFile, record: FileRecord | None) -> FetchFacts:
        last: dict[int, int] = {}
        if isinstance(file, SegmentFile | PartialFile):
            for timeline in self._catalog.timelines():
                newest = self._catalog.last_segment(timeline)
                if newest is not None:
                    last[timeline] = newest
        return FetchFacts(
            recorded=record is not None,
            verified_to_head=True,  # fetch() has read the chain to its head, or raised
            last_segments=last,
            histories=self._catalog.histories(),
            segment_size=self._size,
        )

    def _place(self, record: FileRecord, destination: Path) -> None:
        """Write beside, verify, rename."""
        spool = self._spool if self._spool is not None else destination.parent
        spool.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            self._write_and_rename(record, spool, destination)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            # pg_wal may be a link to another file system: then only beside the target works.
            self._write_and_rename(record, destination.parent, destination)

    def _write_and_rename(self, record: FileRecord, folder: Path, destination: Path) -> None:
        temporary = folder / f".walarchiver-{os.getpid()}-{destination.name}.tmp"
        try:
            with temporary.open("wb") as out:
                os.fchmod(out.fileno(), 0o600)
                write_plain(self._repository, self._ledger.system, record, out)
            owner = destination.parent.stat()
            if os.geteuid() == 0 and owner.st_uid != 0:
                os.chown(temporary, owner.st_uid, owner.st_gid)
            temporary.rename(destination)
        finally:
            with contextlib.suppress(FileNotFoundError):
                temporary.unlink()
