"""`walarchiver backup`: take a base backup, with progress, and say what it takes to use it."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from walarchiver.assembly import Archive, Host, depositor_of, join_archive
from walarchiver.backup import BackupProgress, BackupRequest, rates, take_backup, wait_for_wal
from walarchiver.cli.backups import backup_members
from walarchiver.cli.context import Context
from walarchiver.core.lsn import format_lsn
from walarchiver.errors import ConfigError
from walarchiver.format.records import BackupRecord
from walarchiver.postgres.outsideconf import read_outside_configuration
from walarchiver.postgres.probe import ServerFacts, backup_facts, probe_server

if TYPE_CHECKING:
    from walarchiver.cli.main import Subparsers

PROGRESS_INTERVAL_S = 2.0
DEGRADED = 3


def register(subparsers: Subparsers) -> None:
    """Add `backup`."""
    parser = subparsers.add_parser("backup", help="take a base backup")
    parser.add_argument(
        "--spread-checkpoint",
        action="store_true",
        help="wait for a gentle checkpoint instead of forcing one at once",
    )
    parser.add_argument(
        "--wait", type=int, default=60, metavar="SECONDS", help="for the backup's WAL to be archived"
    )
    parser.add_argument("--packages", default="", metavar="TEXT", help="package or image ids, for the record")


def run(context: Context, args: argparse.Namespace) -> int:
    host = Host.here(context.settings())
    name = host.settings.cluster_name(context.cluster)
    dsn = host.settings.cluster(name).dsn
    if dsn is None:
        raise ConfigError(f"cluster {name} has no `dsn`, so it cannot be backed up")
    server = probe_server(dsn)
    request = BackupRequest(
        dsn,
        workers=host.settings.server.workers,
        memory=host.settings.server.memory,
        fast_checkpoint=not args.spread_checkpoint,
        packages=args.packages,
    )
    done, usable = [], True
    for repository in host.settings.cluster(name).repositories:
        archive = join_archive(host, name, repository, lambda: server, server.system)
        record = _take(context, host, archive, repository, server, request)
        context.progress(f"backup: waiting until its WAL is archived up to {format_lsn(record.stop_lsn)}")
        usable = usable and wait_for_wal(
            archive.ledger, record, archive.segment_size, tries=args.wait * 2 + 1, pause_s=0.5
        )
        done.append((repository, record))
    text = "\n".join(
        f"base backup {record.backup} of cluster {name} is in repository {repository}: {record.raw:,} bytes, "
        f"{record.stored:,} stored, {record.parts} parts"
        for repository, record in done
    )
    if not usable:
        text += (
            f"\nnot restorable yet: its WAL was not archived within {args.wait} s. Is archiving running? "
            "`walarchiver status` tells when it is."
        )
    context.result(text, {"backups": [backup_members(record) for _, record in done], "restorable": usable})
    return 0 if usable else DEGRADED


def _take(
    context: Context,
    host: Host,
    archive: Archive,
    repository: str,
    server: ServerFacts,
    request: BackupRequest,
) -> BackupRecord:
    outside = read_outside_configuration(request.dsn)
    for path in outside.missing:
        context.progress(f"not readable, so not in the backup: {path}")
    last_s = 0.0

    def progress(state: BackupProgress) -> None:
        nonlocal last_s
        if state.elapsed_s - last_s >= PROGRESS_INTERVAL_S:
            last_s = state.elapsed_s
            context.progress(f"backup: {', '.join(rates(state))}")

    return take_backup(
        request,
        facts=backup_facts(server, packages=request.packages),
        outside_configuration=outside.archive if outside.files else b"",
        depositor=depositor_of(host, archive, host.settings.repository(repository)),
        ledger=archive.ledger,
        clock=host.clock,
        random=host.random,
        progress=progress,
    )
