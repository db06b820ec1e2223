"""The journal of a bucket restore and the repository: tells where it is kept, and what failed."""

from __future__ import annotations

from pathlib import Path

from restore.bucketjournal import Journal, JournalSink, NoSink
from restore.core.bucketlines import PlanHeader
from walarchiver.assembly import Host
from walarchiver.bucketjournals import journal_sink, restore_id
from walarchiver.bucketports import EvidenceBucket
from walarchiver.cli.context import Context
from walarchiver.errors import WalarchiverError


def sink_of(context: Context, host: Host, header: PlanHeader, target: EvidenceBucket) -> JournalSink:
    """The repository's sink for the restore of a plan; none on a host that may not write there."""
    restore = restore_id(header.id, header.made_at)
    sink = journal_sink(host, context.cluster, bucket=target.name, restore=restore)
    if sink is None:
        context.progress("restore: the journal stays on this host, which has no `signing_key`")
        return NoSink()
    context.progress(f"restore: the journal is kept in the repository as {restore}")
    return sink


def send_rest(context: Context, journal: Journal, path: Path) -> None:
    """What the repository has not got, once more; a failure is told and stops nothing."""
    try:
        journal.send_rest()
    except WalarchiverError as failure:
        context.warning(
            f"the repository has not got all of the journal ({failure.code}: {failure.message}); it is in "
            f"{path}, and is sent when the plan is gone on with"
        )
