"""`walarchiver ledger supersede NAME`: other bytes take the place of an archived file.

Rule: nothing is changed without --apply; both contents are shown before and after.
"""

from __future__ import annotations

import argparse
import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from walarchiver.archiver import Archiver
from walarchiver.assembly import Archive, Host, depositor_of, open_archive
from walarchiver.budget import ByteBudget
from walarchiver.cli.context import Context
from walarchiver.core.moment import format_rfc3339
from walarchiver.depositor import Depositor
from walarchiver.errors import UsageError
from walarchiver.format.records import SupersedeRecord
from walarchiver.keys.keyfile import KeyRole, read_key_file
from walarchiver.ledger import Ledger, Writer
from walarchiver.ledgerqueue import LedgerQueue
from walarchiver.offered import ClusterFacts
from walarchiver.scanner import scanner_for
from walarchiver.superseding import REASON_CHARS_MAX, Replacement, examine, supersede

if TYPE_CHECKING:
    from walarchiver.cli.main import Subparsers


def add(verbs: Subparsers) -> None:
    """Add the verb."""
    parser = verbs.add_parser("supersede", help="let another file take the place of an archived one")
    parser.add_argument("name", metavar="NAME", help="the archived WAL file")
    parser.add_argument("--file", required=True, type=Path, metavar="PATH", help="the bytes that are right")
    parser.add_argument("--reason", required=True, metavar="TEXT", help="why; recorded for ever, in clear")
    parser.add_argument("--admin-key", type=Path, metavar="FILE", help="an admin's key file; it signs")
    parser.add_argument("--apply", action="store_true", help="do it; without, only say what would be done")
    parser.add_argument("--repository", metavar="NAME", help="default: the cluster's first")
    parser.add_argument("--system", metavar="ID", help="an older system identifier of the same cluster name")


def run(context: Context, args: argparse.Namespace) -> int:
    if not args.reason.strip() or len(args.reason) > REASON_CHARS_MAX:
        raise UsageError(f"a reason of 1 to {REASON_CHARS_MAX} characters is needed")
    if args.apply and args.admin_key is None:
        raise UsageError("an admin's key file is needed to sign", hint="Name it with --admin-key.")
    host = context.host()
    cluster = host.settings.cluster_name(context.cluster)
    repository_name = args.repository or host.settings.cluster(cluster).repositories[0]
    section = host.settings.repository(repository_name)
    archive = open_archive(host, cluster, system=args.system, write=True, repository_name=repository_name)
    try:
        with ThreadPoolExecutor(2) as pool:
            depositor = depositor_of(host, archive, section)
            archiver = _archiver(host, archive, depositor, pool)
            replacement = examine(archiver, args.name, args.file)
            if args.apply:
                _apply(host, archive, archiver, depositor, replacement, args)
    finally:
        archive.repository.store.close()
    context.result(_text(archive, replacement, args), _members(replacement, args))
    return 0


def _archiver(host: Host, archive: Archive, depositor: Depositor, pool: ThreadPoolExecutor) -> Archiver:
    facts = ClusterFacts(
        archive.cluster.name, int(archive.system), archive.cluster.major, archive.segment_size
    )
    return Archiver(
        cluster=facts,
        depositor=depositor,
        queue=LedgerQueue(archive.ledger, pool),
        cpu=pool,
        io=pool,
        budget=ByteBudget(host.settings.server.memory),
        scanner=scanner_for(archive.segment_size),
    )


def _apply(
    host: Host,
    archive: Archive,
    archiver: Archiver,
    depositor: Depositor,
    replacement: Replacement,
    args: argparse.Namespace,
) -> SupersedeRecord:
    key = read_key_file(args.admin_key)
    if key.role is not KeyRole.ADMIN or key.repo != archive.repository.repo:
        raise UsageError(f"{args.admin_key} is not an admin's key of this repository")
    writer = Writer(key.signer(), host.random.token(8).hex(), host.clock)
    admin: Ledger = archive.repository.ledger(archive.system, archive.catalog, writer)
    return asyncio.run(
        supersede(
            archiver,
            depositor,
            ledger=archive.ledger,
            admin=admin,
            replacement=replacement,
            reason=args.reason,
        )
    )


def _text(archive: Archive, replacement: Replacement, args: argparse.Namespace) -> str:
    recorded = archive.catalog.recorded_us(replacement.old.kind, replacement.name)
    since = "" if recorded is None else f", archived {format_rfc3339(recorded)}"
    lines = [
        f"{replacement.name} of cluster {archive.cluster.name} (system {archive.system})",
        f"old  {replacement.old.digest} ({replacement.old.len:,} bytes{since})",
        f"new  {replacement.new_digest} ({replacement.new_len:,} bytes, {replacement.path})",
    ]
    if args.apply:
        lines.append("The new content is in force for every restore from now on; the old one stays stored.")
        lines.append("The archive refuses the old content from now on.")
        lines.append("Where a custodian's key is, `walarchiver plan --at latest` says whether its WAL fits;")
        lines.append("`status` knows only of damage inside it. Take a base backup where it does not fit.")
    else:
        lines.append("Nothing was changed. With --apply every restore over this file replays the new one.")
    return "\n".join(lines)


def _members(replacement: Replacement, args: argparse.Namespace) -> dict[str, object]:
    return {
        "applied": args.apply,
        "name": replacement.name,
        "old": {"digest": replacement.old.digest, "bytes": replacement.old.len},
        "new": {"digest": replacement.new_digest, "bytes": replacement.new_len},
        "reason": args.reason,
    }
