"""`walarchiver bucket check`: do the objects that the database refers to exist, now or as of a moment?"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from restore.core.bucketmoment import database_moment
from restore.core.jointtext import joint_members, joint_text
from restore.jointcheck import Sides, check_joint
from walarchiver.assembly import Host, open_archive
from walarchiver.bucketassembly import multipart_time_of
from walarchiver.cli.aside import add_options, ask, made, show_dry_run
from walarchiver.cli.bucketindex import bring_index, sides_of
from walarchiver.cli.context import Context
from walarchiver.core.moment import CommitTime
from walarchiver.core.version import StoreMs
from walarchiver.errors import Inconsistent, UsageError
from walarchiver.evidence.scanning import Progress, Scan, ScanOptions

if TYPE_CHECKING:
    from walarchiver.cli.main import Subparsers

LISTED = 20
PROGRESS_INTERVAL_S = 2.0


def register(subparsers: Subparsers) -> None:
    """Add `check` to the group `bucket`."""
    parser = subparsers.add_parser(
        "check", help="whether what the database refers to is in the bucket, now or as of a moment"
    )
    add_options(parser)
    parser.add_argument(
        "--dsn",
        metavar="DSN",
        help="the database to ask: without --at the live one is (default: `dsn`); with --at one restored to "
        "that moment (default: a throwaway instance)",
    )
    parser.add_argument(
        "--deep",
        action="store_true",
        help="read the bytes wherever a digest is known and a listing cannot tell",
    )
    parser.add_argument("--no-scan", action="store_true", help="rely on the last scan of the bucket")
    parser.add_argument(
        "--no-orphans", action="store_true", help="do not count objects that nothing refers to"
    )
    parser.add_argument(
        "--list", type=int, default=LISTED, metavar="N", help=f"findings shown as text (default: {LISTED})"
    )


def run(context: Context, args: argparse.Namespace) -> int:
    """Exit status 0: consistent; 15: not."""
    if args.at is None:
        if args.dry_run:
            raise UsageError("--dry-run goes with --at", hint="Without --at nothing is restored to check.")
        return _check_now(context, args)
    if args.dsn is not None:
        raise UsageError(
            "--at and --dsn together leave open which moment the database stands at",
            hint="Leave --dsn out: a throwaway instance is made for the moment.",
        )
    asked = ask(context, args, "check")
    if args.dry_run:
        return show_dry_run(asked)
    time = database_moment(asked.found.decision, asked.found.understood.target)
    assert time is not None, "`ask` gives reachable decisions only"
    bring_index(context, asked.host, asked.found.archive)
    with sides_of(asked.host, context.cluster, asked.found.archive.catalog, time) as sides:
        _ = sides.query  # asked for before a cluster is restored
        _list(context, args, asked.host, sides)
        with made(asked) as one:
            return tell(context, args, sides, one.dsn(sides.section.database or "postgres"), sides.at(time))


def _check_now(context: Context, args: argparse.Namespace) -> int:
    host = context.host()
    dsn = args.dsn or host.settings.cluster(host.settings.cluster_name(context.cluster)).dsn
    if dsn is None:
        raise UsageError("no database to ask", hint="Set `dsn` in the cluster's section, or give --dsn.")
    archive = open_archive(host, context.cluster)
    bring_index(context, host, archive)
    with sides_of(host, context.cluster, archive.catalog, CommitTime(host.clock.now_us())) as sides:
        _list(context, args, host, sides)
        return tell(context, args, sides, dsn, sides.now())


def _list(context: Context, args: argparse.Namespace, host: Host, sides: Sides) -> None:
    """List the bucket: what was deleted or removed since the last scan would pass for being there."""
    if args.no_scan:
        return
    options = ScanOptions(listings=sides.section.listings, multipart_time=multipart_time_of(sides.section))
    told_s = host.clock.monotonic_s()

    def progress(now: Progress) -> None:
        nonlocal told_s
        if host.clock.monotonic_s() - told_s >= PROGRESS_INTERVAL_S:
            told_s = host.clock.monotonic_s()
            context.progress(f"check: {now.entries:,} versions listed")

    Scan(sides.bucket, sides.index, options, progress).run()


def tell(context: Context, args: argparse.Namespace, sides: Sides, dsn: str, moment: StoreMs) -> int:
    """Compare, print, and give the exit status."""

    def progress(references: int) -> None:
        context.progress(f"check: {references:,} references compared")

    if sides.clock_warning is not None:
        context.warning(sides.clock_warning)
    report = check_joint(
        sides,
        dsn,
        moment,
        deep=args.deep,
        orphans=not args.no_orphans,
        workers=sides.section.listings,
        progress=progress,
    )
    text, members = joint_text(report, listed=args.list), joint_members(report)
    if report.tally.consistent:
        context.result(text, members)
        return 0
    wrong = Inconsistent("the database refers to objects that the bucket does not have as of the moment")
    context.result(
        f"{text}\nerror code {wrong.code}\nnext step: {wrong.next_step}",
        {**members, "code": wrong.code, "next_step": wrong.next_step},
    )
    return wrong.exit_status
