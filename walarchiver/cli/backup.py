"""`walarchiver backup`: take a base backup, with progress, and say what it takes to use it.

Of several repositories each gets its own backup; one that fails keeps none of the others from it, and
the exit status is 1 then. What an incremental one builds on is decided in backupprior.py.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from walarchiver.assembly import Archive, Host, depositor_of, join_archive, open_archive
from walarchiver.backup import (
    BackupProgress,
    BackupRequest,
    Prior,
    again_when_lost,
    rates,
    take_backup,
    wait_for_wal,
)
from walarchiver.cli.backupprior import Intended, Mode, intended, shelf_of
from walarchiver.cli.backups import backup_members
from walarchiver.cli.context import Context
from walarchiver.core.lsn import format_lsn
from walarchiver.errors import (
    ConfigError,
    DatabaseUnavailable,
    IncrementalUnavailable,
    UsageError,
    WalarchiverError,
)
from walarchiver.format.records import BackupRecord
from walarchiver.format.relationmap import relation_map_bytes
from walarchiver.heap import share_the_heap
from walarchiver.postgres.outsideconf import read_outside_configuration
from walarchiver.postgres.probe import ServerFacts, backup_facts, probe_server
from walarchiver.postgres.relations import read_relations
from walarchiver.settings_kinds import SIZE
from walarchiver.settings_schema import BackupSettings

if TYPE_CHECKING:
    from walarchiver.cli.main import Subparsers

PROGRESS_INTERVAL_S = 2.0
AGAIN_PAUSE_S = 5.0
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
    parser.add_argument(
        "--incremental",
        nargs="?",
        choices=[Mode.REQUIRE.value, Mode.AUTO.value],
        const=Mode.REQUIRE.value,
        default=Mode.FULL.value,
        help="only what changed since the backup before (PostgreSQL 17 and later); auto: a full one where "
        "that cannot be done",
    )
    parser.add_argument(
        "--max-rate",
        metavar="SIZE",
        help="bytes a second to read at most, such as 50MiB",
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be taken, and do nothing")
    parser.add_argument("--packages", default="", metavar="TEXT", help="package or image ids, for the record")


def run(context: Context, args: argparse.Namespace) -> int:
    share_the_heap()
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
        max_rate=_rate(args.max_rate) or host.settings.cluster(name).backup.max_rate,
        outage_s=host.settings.cluster(name).backup.outage.total_seconds(),
    )
    job = _Job(context, host, name, server, request, Mode(args.incremental))
    if args.dry_run:
        return _dry_run(job)
    repositories = host.settings.cluster(name).repositories
    done: list[tuple[str, BackupRecord]] = []
    failed: list[tuple[str, WalarchiverError]] = []
    usable = True
    for repository in repositories:
        try:
            archive = join_archive(host, name, repository, lambda: server, server.system)
            record = _take(job, archive, repository)
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
        f"{'base' if record.prior is None else 'incremental base'} backup {record.backup} of cluster "
        f"{cluster} is in repository {repository}: "
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


@dataclass(frozen=True, slots=True)
class _Job:
    """What is the same for every repository."""

    context: Context
    host: Host
    cluster: str
    server: ServerFacts
    request: BackupRequest
    mode: Mode

    @property
    def settings(self) -> BackupSettings:
        return self.host.settings.cluster(self.cluster).backup

    def intended(self, archive: Archive, mode: Mode) -> Intended:
        return intended(
            archive,
            shelf_of(self.host, archive),
            self.server,
            self.request.dsn,
            mode,
            chain_max=self.settings.chain,
        )


def _take(job: _Job, archive: Archive, repository: str) -> BackupRecord:
    """One backup into one repository, the kind that was asked for or can be had."""
    context = job.context
    outside = read_outside_configuration(job.request.dsn)
    for path in outside.missing:
        context.warning(f"not readable, so not in the backup: {path}")
    for path in outside.too_large:
        context.warning(f"too large for configuration, so NOT in the backup: {path}; keep a copy of it")
    if not job.server.data_checksums:
        context.warning("this cluster has no page checksums: damaged pages are not noticed by the backup")
    content = outside.archive if outside.files else b""

    def take(mode: Mode) -> BackupRecord:
        kind = job.intended(archive, mode)
        context.progress(f"backup: {kind.reason}")
        return _take_one(job, archive, repository, content, kind.prior)

    def attempt() -> BackupRecord:
        try:
            return take(job.mode)
        except IncrementalUnavailable as error:
            if job.mode is not Mode.AUTO:
                raise
            context.progress(f"backup: PostgreSQL refuses an incremental one: {error.message}")
            return take(Mode.FULL)

    return again_when_lost(
        attempt,
        tries=job.settings.tries,
        pause_s=AGAIN_PAUSE_S,
        say=lambda line: context.warning(f"backup: {line}"),
    )


def _take_one(
    job: _Job, archive: Archive, repository: str, outside: bytes, prior: Prior | None
) -> BackupRecord:
    context, host = job.context, job.host
    last_s = 0.0

    def progress(state: BackupProgress) -> None:
        nonlocal last_s
        if state.elapsed_s - last_s >= PROGRESS_INTERVAL_S:
            last_s = state.elapsed_s
            context.progress(f"backup: {', '.join(rates(state))}")

    return take_backup(
        job.request,
        facts=backup_facts(job.server, packages=job.request.packages),
        outside_configuration=outside,
        relations=lambda: _relations(context, job.request.dsn),
        depositor=depositor_of(host, archive, host.settings.repository(repository)),
        ledger=archive.ledger,
        clock=host.clock,
        random=host.random,
        prior=prior,
        progress=progress,
        say=lambda line: context.warning(f"backup: {line}"),
        keep_manifest=shelf_of(host, archive).keep,
    )


def _dry_run(job: _Job) -> int:
    """Say for every repository what kind of backup would be taken; nothing is written anywhere."""
    lines, members = [], []
    for repository in job.host.settings.cluster(job.cluster).repositories:
        archive = open_archive(
            job.host, job.cluster, system=str(job.server.system % 2**64), repository_name=repository
        )
        kind = job.intended(archive, job.mode)
        lines.append(f"would take into repository {repository}: {kind.reason}")
        members.append({"repository": repository, "prior": kind.prior.backup if kind.prior else None})
    job.context.result("\n".join(lines), {"dry_run": True, "would_take": members})
    return 0


def _rate(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        return SIZE.read(text)
    except ValueError as error:
        raise UsageError(f"--max-rate: {error}") from None


def _relations(context: Context, dsn: str) -> bytes:
    """Every relation's file, for `find`; a backup is worth having without."""
    try:
        return relation_map_bytes(read_relations(dsn, notice=context.progress))
    except DatabaseUnavailable as error:
        context.warning(f"the backup has no list of relations: {error.message}")
        return b""
