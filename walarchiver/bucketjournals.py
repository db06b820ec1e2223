"""Where a bucket restore's journal is kept besides this host: the first repository of the cluster.

Rule: a restore's id is made of its plan's, so whoever goes on with the plan goes on with the journal.
"""

from __future__ import annotations

from walarchiver.assembly import Host, depositor_of, open_archive
from walarchiver.core.moment import as_datetime
from walarchiver.evidence.journalsink import Keeping, RepositorySink


def restore_id(plan: str, made_at: int) -> str:
    """The id of the restore of a plan (16 hex digits) made at that time of this host's clock."""
    return f"{as_datetime(made_at):%Y%m%dT%H%M%SZ}-{plan[:8]}"


def journal_sink(host: Host, cluster: str | None, *, bucket: str, restore: str) -> RepositorySink | None:
    """None on a host that has no key to sign with. Opens nothing yet. Raises UnknownCluster."""
    name = host.settings.cluster_name(cluster)
    section = host.settings.repository(host.settings.cluster(name).repositories[0])
    if section.signing_key is None:
        return None

    def opened() -> Keeping:
        archive = open_archive(host, name, write=True)
        return Keeping(depositor_of(host, archive, section), archive.ledger)

    return RepositorySink(opened, bucket=bucket, restore=restore)
