"""What `walarchiver backup --incremental` builds on, and what it says when it cannot.

Rules:
- `require` (a plain `--incremental`) fails with the reason where no incremental backup can be taken; `auto`
  takes a full one and says why. In both, a chain that has its full length is followed by a full backup.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from walarchiver.assembly import Archive, Host
from walarchiver.backup import Prior
from walarchiver.errors import IncrementalUnavailable
from walarchiver.incremental import MANIFEST, ManifestShelf, choose_prior, newest_chain, or_none
from walarchiver.postgres.probe import ServerFacts
from walarchiver.postgres.walsummaries import wal_summaries


class Mode(StrEnum):
    """What was asked for."""

    FULL = "full"
    REQUIRE = "require"
    AUTO = "auto"


@dataclass(frozen=True, slots=True)
class Intended:
    """What kind of backup to take, and why that one."""

    prior: Prior | None
    reason: str


def intended(
    archive: Archive,
    shelf: ManifestShelf,
    server: ServerFacts,
    dsn: str,
    mode: Mode,
    *,
    chain_max: int,
) -> Intended:
    """Full, or incremental on which backup. Raises IncrementalUnavailable, DatabaseUnavailable."""
    if mode is Mode.FULL:
        return Intended(None, "a full backup")
    try:
        chain = newest_chain(archive.catalog, server.timeline)
        last = chain[-1]
        if len(chain) >= chain_max:
            return Intended(
                None, f"a full backup: the chain of {last.backup} has {len(chain)} of {chain_max} members"
            )
        prior = choose_prior(
            chain,
            summaries=wal_summaries(dsn, timeline=last.timeline),
            recorded=archive.catalog.backup_parts(last.backup),
            sources=(shelf.read, or_none(_from_archive(archive))),
        )
    except IncrementalUnavailable as error:
        if mode is Mode.REQUIRE:
            raise
        return Intended(None, f"a full backup: {error.message}")
    return Intended(prior, f"an incremental backup on {prior.backup}, number {len(chain) + 1} of its chain")


def shelf_of(host: Host, archive: Archive) -> ManifestShelf:
    """Where this user keeps the last manifest of a cluster in a repository."""
    name = f"{archive.repository.repo}-{archive.system}-{os.geteuid()}"
    return ManifestShelf(host.settings.server.state / "manifests" / name, host.warn)


def _from_archive(archive: Archive) -> Callable[[str], bytes]:
    """The manifest as the archive has it, where a key is at hand."""

    def read(backup: str) -> bytes:
        parts = [part for part in archive.catalog.backup_parts(backup) if part.role == MANIFEST]
        return b"".join(
            piece for part in parts for piece in archive.repository.plain_part(archive.system, backup, part)
        )

    return read
