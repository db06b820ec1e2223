"""`walarchiver status`: one screen, first the latest restorable second and why."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from walarchiver.assembly import Archive, Host, kept_of, open_archive
from walarchiver.cli.context import Context
from walarchiver.cli.when import both_clocks
from walarchiver.status import Status, status_document, status_of

if TYPE_CHECKING:
    from walarchiver.bucketstatus import BucketStatus
    from walarchiver.cli.main import Subparsers

DEGRADED = 3


def register(subparsers: Subparsers) -> None:
    """Add `status`."""
    parser = subparsers.add_parser("status", help="one screen, first the latest restorable second")
    parser.add_argument("--system", metavar="ID", help="an older system identifier of the same cluster name")


def run(context: Context, args: argparse.Namespace) -> int:
    host = context.host()
    archive = open_archive(host, context.cluster, system=args.system)
    kept = kept_of(host, archive)
    status = status_of(archive, host.clock, kept)
    if status.latest is None and status.backups:
        from walarchiver.cli.asking import prove_horizon  # brings the planner, which is not asked here

        prove_horizon(host, context.cluster)  # an idle server's first proof would come a minute later
        archive.ledger.refresh()
        status = status_of(archive, host.clock, kept)
    text = status_text(status, host.settings.server.timezone)
    document = status_document(archive, host.clock, kept)
    bucket = _bucket(host, archive)
    problems = list(status.problems)
    if bucket is not None:
        problems += bucket.problems
        shown = [*bucket.lines, *(f"problem              {problem}" for problem in bucket.problems)]
        text = "\n".join((text, *shown))
        document["bucket"] = bucket.members()
    context.result(text, document)
    return DEGRADED if problems else 0


def _bucket(host: Host, archive: Archive) -> BucketStatus | None:
    """The bucket's part, where there is a bucket."""
    cluster = host.settings.clusters.get(archive.cluster.name)
    if cluster is None or cluster.bucket is None:
        return None
    from walarchiver.bucketstatus import bucket_status  # the library that reads its index takes long to load

    return bucket_status(host, archive)


def status_text(status: Status, timezone: str | None) -> str:
    """The screen."""
    latest = "none yet" if status.latest is None else both_clocks(status.latest, timezone)
    earliest = "none yet" if status.earliest is None else both_clocks(status.earliest, timezone)
    behind = "" if status.latest is None else f" ({_ago(status.now - status.latest)} ago)"
    lines = [
        f"cluster {status.cluster} (PostgreSQL {status.major}, system {status.system})",
        f"repository           {status.repository}",
        f"latest restorable    {latest}{behind}",
        f"                     {status.reason}",
        f"earliest restorable  {earliest}",
        f"base backups         {len(status.backups)}"
        + (f", newest {status.backups[-1].backup}" if status.backups else "")
        + (f", {status.incrementals} incremental since the last full one" if status.incrementals else ""),
        f"WAL                  {status.segments} segments, timeline {status.timeline}, "
        f"last {status.last_segment or 'none'}",
        f"ledger               {status.entries} entries, verified to the head",
        f"checkpoints          {_kept(status)}",
    ]
    lines += [
        f"past gap             {gap.first} to {gap.last}; base backup {gap.behind} begins behind it"
        for gap in status.gaps
        if gap.behind is not None
    ]
    lines += [f"problem              {problem}" for problem in status.problems]
    return "\n".join(lines)


def _kept(status: Status) -> str:
    """Whether it would be seen that the ledger's newest entries were cut off."""
    if status.kept is None:
        return "kept nowhere else: `checkpoints` in the [cluster] section names a second place"
    newest = status.kept.newest
    if newest is None:
        return f"none yet in {status.kept.url}"
    return f"entry {newest.seq}, {_ago(status.now - newest.time)} ago, in {status.kept.url}"


def _ago(us: int) -> str:
    seconds = max(0, us // 1_000_000)
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
