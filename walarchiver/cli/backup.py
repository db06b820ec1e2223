"""`walarchiver backup`: take a base backup, with progress, and say what it takes to use it.

Of several repositories each gets its own backup; one that fails keeps none of the others from it, and
the exit status is 1 then.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from walarchiver.assembly import Archive, Host, depositor_of, join_archive
from walarchiver.backup import BackupProgress, BackupRequest, rates, take_backup, wait_for_wal
from walarchiver.cli.backups import backup_members
from walarchiver.cli.context import Context
from walarchiver.core.lsn import format_lsn
from walarchiver.errors import ConfigError, DatabaseUnavailable, WalarchiverError
from walarchiver.format.records import BackupRecord
from walarchiver.format.relationmap import relation_map_bytes
from walarchiver.postgres.outsideconf import read_outside_configuration
from walarchiver.postgres.probe import ServerFacts, backup_facts, probe_server
from walarchiver.postgres.relations import read_relations

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
    host = context.host()
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
    repositories = host.settings.cluster(name).repositories
    done: list[tuple[str, BackupRecord]] = []
    failed: list[tuple[str, WalarchiverError]] = []
    usable = True
    for repository in repositories:
        try:
            archive = join_archive(host, name, repository, lambda: server, server.system)
            record = _take(context, host, archive, repository, server, request)
            done.append((repository, record))
            context.progress(f"backup: waiting until its WAL is archived up to {format_lsn(record.stop_lsn)}")
            usable &= wait_for_wal(
                archive.ledger, record, archive.segment_size, tries=args.wait * 2 + 1, pause_s=0.5
            )
        except WalarchiverError as error:
            if len(repositories) == 1:
                raise
            context.progress(f"backup: repository {repository} failed: {error.message}")
            failed.append((repository, error))  # the others' backups are worth having
    return _report(context, args, name, done, failed, usable=usable)


def _report(
    context: Context,
    args: argparse.Namespace,
    cluster: str,
    done: Sequence[tuple[str, BackupRecord]],
    failed: Sequence[tuple[str, WalarchiverError]],
    *,
    usable: bool,
) -> int:
    """Say what became of each repository; the exit status."""
    lines = [
        f"base backup {record.backup} of cluster {cluster} is in repository {repository}: "
        f"{record.raw:,} bytes, {record.stored:,} stored, {record.parts} parts"
        for repository, record in done
    ]
    lines += [
        f"FAILED in repository {repository}: {error.code}: {error.message}\n  next: {error.next_step}"
        for repository, error in failed
    ]
    if not usable:
        lines.append(
            f"not restorable yet: its WAL was not archived within {args.wait} s. Is archiving running? "
            "`walarchiver status` tells when it is."
        )
    context.result(
        "\n".join(lines),
        {
            "backups": [{"repository": repository, **backup_members(record)} for repository, record in done],
            "failed": [
                {
                    "repository": repository,
                    "code": error.code,
                    "message": error.message,
                    "hint": error.next_step,
                }
                for repository, error in failed
            ],
            "restorable": usable and bool(done),
        },
    )
    if failed:
        return WalarchiverError.exit_status
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
        context.warning(f"not readable, so not in the backup: {path}")
    for path in outside.too_large:
        context.warning(f"too large for configuration, so NOT in the backup: {path}; keep a copy of it")
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
        relations=lambda: _relations(context, request.dsn),
        depositor=depositor_of(host, archive, host.settings.repository(repository)),
        ledger=archive.ledger,
        clock=host.clock,
        random=host.random,
        progress=progress,
    )


def _relations(context: Context, dsn: str) -> bytes:
    """Every relation's file, for `find`; a backup is worth having without."""
    try:
        return relation_map_bytes(read_relations(dsn, notice=context.progress))
    except DatabaseUnavailable as error:
        context.warning(f"the backup has no list of relations: {error.message}")
        return b""
