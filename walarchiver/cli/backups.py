"""`walarchiver backups`: list the base backups, oldest first."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from walarchiver.assembly import open_archive
from walarchiver.cli.context import Context
from walarchiver.core.lsn import format_lsn
from walarchiver.core.moment import format_rfc3339
from walarchiver.format.backupchain import whole_chains
from walarchiver.format.records import BackupRecord

if TYPE_CHECKING:
    from walarchiver.cli.main import Subparsers


def register(subparsers: Subparsers) -> None:
    """Add `backups`."""
    parser = subparsers.add_parser("backups", help="list the base backups")
    parser.add_argument("--system", metavar="ID", help="an older system identifier of the same cluster name")


def run(context: Context, args: argparse.Namespace) -> int:
    host = context.host()
    archive = open_archive(host, context.cluster, system=args.system)
    found = archive.catalog.backups()
    chains = whole_chains(found)
    lines = [
        f"{record.backup}  {record.method}  {format_rfc3339(record.stop_time)}  timeline {record.timeline}  "
        f"{format_lsn(record.start_lsn)} to {format_lsn(record.stop_lsn)}  {record.raw / 1e6:,.1f} MB "
        f"({record.stored / 1e6:,.1f} MB stored){''.join(_remarks(record, chains))}"
        for record in found
    ]
    text = "\n".join(lines) or "no base backup yet: run `walarchiver backup`"
    listed = [
        {
            **backup_members(record),
            "chain": [one.backup for one in chains.get(record.backup, ())],
            "restorable": record.backup in chains,
        }
        for record in found
    ]
    context.result(text, {"backups": listed})
    return 0


def _remarks(record: BackupRecord, chains: Mapping[str, tuple[BackupRecord, ...]]) -> Iterator[str]:
    """What a reader of the list should know besides."""
    if record.prior is not None:
        yield f", builds on {record.prior}"
    if record.backup not in chains:
        yield ", NOT RESTORABLE: a backup that it builds on is missing"
    elif (length := len(chains[record.backup])) > 1:
        yield f", {length} in its chain"
    if not record.facts.data_checksums:
        yield ", pages without checksums: PostgreSQL could not check them"


def backup_members(record: BackupRecord) -> dict[str, object]:
    """One base backup in JSON output."""
    return {
        "id": record.backup,
        "method": record.method,
        "source": record.source,
        "timeline": record.timeline,
        "start_lsn": format_lsn(record.start_lsn),
        "stop_lsn": format_lsn(record.stop_lsn),
        "start_time": format_rfc3339(record.start_time),
        "stop_time": format_rfc3339(record.stop_time),
        "bytes": record.raw,
        "stored_bytes": record.stored,
        "parts": record.parts,
        "prior": record.prior,
        "page_checksums": record.facts.data_checksums,
        "postgresql": record.facts.version,
    }
