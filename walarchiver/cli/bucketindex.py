"""The bucket's side of a comparison; a host without an index gets it from the repository first."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from restore.jointcheck import Sides, skew_near
from walarchiver.assembly import Archive, Host
from walarchiver.bucketassembly import bucket_of, bucket_section, index_of
from walarchiver.catalog import Catalog
from walarchiver.cli.context import Context
from walarchiver.core.moment import CommitTime

if TYPE_CHECKING:
    from walarchiver.bucketshipping import Rebuilt


def bring_index(context: Context, host: Host, archive: Archive) -> Rebuilt | None:
    """Make the index from the repository's, when this host has none, the repository one, and a key opens it.

    Without it only what a listing shows now is known: nothing of what was removed for ever.
    Raises ObjectDamaged, Store…, Index… and their kin.
    """
    name = archive.cluster.name
    if host.settings.cluster(name).bucket is None:
        return None
    # Loaded only where there is a bucket: the library that reads its index takes a quarter of starting up.
    from walarchiver.bucketshipping import kept_of_bucket, needs_rebuilding, rebuild_index

    if not needs_rebuilding(host, name):
        return None
    kept = kept_of_bucket(host, name, archive)
    if kept is None or not archive.repository.identities:
        why = "the repository has none" if kept is None else "no key here opens the repository's"
        context.warning(f"there is no index of the bucket, and {why}: what was removed for ever is not known")
        return None

    def progress(piece: int, pieces: int) -> None:
        context.progress(f"bucket index: piece {piece + 1} of {pieces}")

    return rebuild_index(host, name, archive, kept, progress)


@contextlib.contextmanager
def sides_of(host: Host, cluster: str | None, catalog: Catalog, time: CommitTime) -> Iterator[Sides]:
    """The bucket and its index, and how its clock stands to the server's near `time`. Raises NoBucket."""
    section = bucket_section(host, cluster)
    with (
        contextlib.closing(bucket_of(host, cluster)) as bucket,
        contextlib.closing(index_of(host, cluster)) as index,
    ):
        yield Sides(section, bucket, index, skew_near(catalog, bucket.name, time))
