"""The version index and the repository: ships the one into the other, and makes the index again from it.

Rules:
- The first repository of a cluster holds the index; a host without a signing key ships nothing, and says so.
- A rebuilt index is there whole or not at all. A file that this release cannot use is moved aside, not
  removed: it may know what was never shipped. An index that somebody made meanwhile stays.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from walarchiver.assembly import Archive, Host, depositor_of, open_archive, signer_of
from walarchiver.bucketassembly import bucket_section, index_path
from walarchiver.bucketports import VersionIndex
from walarchiver.errors import IndexForeign, IndexUnavailable
from walarchiver.evidence.openindex import open_index
from walarchiver.evidence.shipping import Kept, Shipped, Shipper, Watched, kept_index, load_index
from walarchiver.storage.options import S3Location


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """An index made again from the repository."""

    path: Path
    generation: str
    rows: int
    asked_us: int
    """Up to when it tells all, microseconds since 1970 on the store's clock."""


def watched_of(host: Host, cluster: str | None) -> Watched:
    """What is watched of which bucket. Raises NoBucket."""
    location = S3Location.parse(bucket_section(host, cluster).url)
    return Watched(location.bucket, location.prefix)


def ship_index(
    host: Host,
    cluster: str | None,
    index: VersionIndex,
    progress: Callable[[Shipped], None] = lambda _shipped: None,
) -> Shipped | None:
    """Ship what is new; None on a host that has no key to sign with.

    Raises NoRepository, WriterRevoked, Store… and their kin; the index is as good as before.
    """
    name = host.settings.cluster_name(cluster)
    section = host.settings.repository(host.settings.cluster(name).repositories[0])
    if section.signing_key is None:
        return None
    archive = open_archive(host, name, write=True)
    folder = _folder(host, cluster)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    shipper = Shipper(
        index,
        watched_of(host, cluster),
        depositor=depositor_of(host, archive, section),
        ledger=archive.ledger,
        writer=signer_of(section).id,
        random=host.random,
        folder=folder,
    )
    try:
        return shipper.ship(progress)
    finally:
        archive.repository.store.close()


def kept_of_bucket(host: Host, cluster: str | None, archive: Archive) -> Kept | None:
    """The index that the repository has of the cluster's bucket. Raises NoBucket."""
    return kept_index(archive.catalog, watched_of(host, cluster))


def needs_rebuilding(host: Host, cluster: str | None) -> bool:
    """Whether there is no index file that this release can use."""
    return not _usable(index_path(host, bucket_section(host, cluster)))


def rebuild_index(
    host: Host,
    cluster: str | None,
    archive: Archive,
    kept: Kept,
    progress: Callable[[int, int], None] = lambda _piece, _pieces: None,
) -> Rebuilt:
    """Make the index file again. Raises KeyCannotOpen, ObjectDamaged, Index…, Store…"""
    path = index_path(host, bucket_section(host, cluster))
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = path.with_name(f"{path.name}.{host.random.token(4).hex()}.rebuilding")
    try:
        with contextlib.closing(open_index(fresh)) as index:
            rows = load_index(
                archive.repository, archive.system, kept, index, folder=path.parent, progress=progress
            )
        _take_place(fresh, path, aside=f".{host.random.token(4).hex()}.aside")
    finally:
        for tail in ("", "-wal", "-shm"):
            fresh.with_name(fresh.name + tail).unlink(missing_ok=True)
    return Rebuilt(path, kept.generation, rows, kept.asked)


def _take_place(fresh: Path, path: Path, *, aside: str) -> None:
    """Give a finished index its name. Raises IndexUnavailable when there is a usable one by now."""
    if not _usable(path):
        for tail in ("", "-wal", "-shm", ".parts"):
            old = path.with_name(path.name + tail)
            with contextlib.suppress(FileNotFoundError):
                old.rename(path.with_name(path.name + aside + tail))
    try:
        os.link(fresh, path)
    except FileExistsError:
        raise IndexUnavailable(
            f"{path} was made by another process meanwhile", hint="Call it again: what is there is used."
        ) from None


def _usable(path: Path) -> bool:
    if not path.exists():
        return False
    try:
        open_index(path).close()
    except IndexForeign:
        return False
    return True


def _folder(host: Host, cluster: str | None) -> Path:
    return index_path(host, bucket_section(host, cluster)).parent
