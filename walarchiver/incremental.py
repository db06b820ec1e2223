"""Which base backup an incremental one builds on, and its manifest.

Rules:
- The newest backup of this cluster whose chain is whole and whose timeline the server comes from; no other,
  so that what is skipped never depends on chance.
- A writer opens nothing in the archive, so it keeps the manifest of its last backup in its state folder.
  Without it, the archive is asked where this host has a key that opens it.
- A manifest counts only when its bytes are those that the ledger recorded.
- What cannot be done is IncrementalUnavailable with the reason; the caller takes a full backup, or says so.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from blake3 import blake3

from walarchiver.backup import Prior
from walarchiver.catalog import Catalog
from walarchiver.core.history import TimelineHistory
from walarchiver.errors import IncrementalUnavailable, WalarchiverError
from walarchiver.format.backupchain import whole_chains
from walarchiver.format.records import BackupPart, BackupRecord
from walarchiver.postgres.walsummaries import WalSummaries

MANIFEST = "manifest"


class ManifestShelf:
    """The manifest of the newest backup that this host took into one repository."""

    def __init__(self, folder: Path, warn: Callable[[str], None]) -> None:
        self._folder = folder
        self._warn = warn

    def keep(self, backup: str, manifest: bytes) -> None:
        """Remember it, and forget the one before; a folder that cannot be written costs no backup."""
        new = self._folder / f".{backup}.new"
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as out:
                out.write(manifest)
            new.rename(self._folder / backup)
            for path in self._folder.iterdir():
                if path.name != backup:
                    path.unlink()
        except OSError as error:
            self._warn(
                f"{self._folder} cannot be written ({error.strerror}): the next backup will be a full one"
            )

    def read(self, backup: str) -> bytes | None:
        """None when it is not kept here."""
        with contextlib.suppress(OSError):
            return (self._folder / backup).read_bytes()
        return None


def newest_chain(catalog: Catalog, timeline: int) -> tuple[BackupRecord, ...]:
    """The chain that the server's next incremental backup continues. Raises IncrementalUnavailable."""
    history = catalog.histories().get(timeline, TimelineHistory(timeline))
    chains = [chain for chain in whole_chains(catalog.backups()).values() if _is_below(chain[-1], history)]
    if not chains:
        raise IncrementalUnavailable(f"there is no base backup that one on timeline {timeline} could use")
    return max(chains, key=lambda chain: (chain[-1].start_lsn, chain[-1].backup))


def choose_prior(
    chain: Sequence[BackupRecord],
    *,
    summaries: WalSummaries,
    recorded: Sequence[BackupPart],
    sources: Sequence[Callable[[str], bytes | None]],
) -> Prior:
    """The last of `chain`, with its manifest from the first of `sources` that has it.

    `recorded`: the parts of that backup. Raises IncrementalUnavailable with the reason.
    """
    last = chain[-1]
    if (lacking := summaries.lacking(last.start_lsn)) is not None:
        raise IncrementalUnavailable(lacking)
    wanted = [part for part in recorded if part.role == MANIFEST]
    for source in sources:
        manifest = source(last.backup)
        if manifest is not None and is_recorded(manifest, wanted):
            return Prior(last.backup, manifest)
    raise IncrementalUnavailable(
        f"the manifest of {last.backup} is not kept on this host, and no key here opens the archive"
    )


def is_recorded(content: bytes, parts: Sequence[BackupPart]) -> bool:
    """Whether these are the bytes that the ledger has of a role."""
    view = memoryview(content)
    if not parts or sum(part.raw for part in parts) != len(content):
        return False
    return all(
        blake3(view[part.offset : part.offset + part.raw]).hexdigest() == part.digest for part in parts
    )


def or_none(read: Callable[[str], bytes]) -> Callable[[str], bytes | None]:
    """A source that may fail: then the next one is asked."""

    def source(backup: str) -> bytes | None:
        with contextlib.suppress(WalarchiverError):
            return read(backup)
        return None

    return source


def _is_below(record: BackupRecord, history: TimelineHistory) -> bool:
    """Whether what the backup holds is part of the history that the server is on."""
    if record.timeline not in history.path:
        return False
    end = history.end(record.timeline)
    return end is None or record.stop_lsn <= end
