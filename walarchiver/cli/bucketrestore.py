"""`walarchiver bucket restore --at WHEN`: what would be done; with --apply it is done.

Rules:
- Without --apply it is a dry run: buckets are listed and versions looked at, nothing is written.
- A plan is a file in the state folder; --plan goes on with it, or carries out just what a dry run had shown.
- Exit status: 0 all is as it was at the moment; 15 versions are lost or need a key; 3 something is not
  certain, archived, or was written meanwhile; 1 something failed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from restore.bucketjournal import Journal, Outcome
from restore.bucketmanifest import export_manifest
from restore.bucketplan import BucketPlan, make_plan, wants_by_name
from restore.bucketrestore import BucketRestore, Pace, Report
from restore.core.bucketactions import Kind, Options, Undelete
from restore.core.bucketlines import PlanHeader
from restore.core.bucketstate import Want
from restore.core.buckettext import Digest, plan_members, plan_text, status_of
from restore.core.buckettotals import Tally
from restore.core.wording import counted
from walarchiver.assembly import Host
from walarchiver.cli.bucketplaces import (
    JOURNAL_FILE,
    PLAN_FILE,
    Buckets,
    Gathered,
    gather,
    note_others,
    plan_folder,
    reopened,
)
from walarchiver.cli.bucketreport import report_members, report_status, report_text
from walarchiver.cli.context import Context
from walarchiver.cli.restorejournal import send_rest, sink_of
from walarchiver.cli.restorepin import restore_pin
from walarchiver.errors import (
    BucketRestoreFailed,
    BucketVersionsLost,
    BucketWindowOpen,
    Interrupted,
    UsageError,
    WalarchiverError,
)

if TYPE_CHECKING:
    from walarchiver.cli.main import Subparsers

PROGRESS_INTERVAL_S = 2.0
THREADS = 8


def register(subparsers: Subparsers) -> None:
    """Add `restore`."""
    parser = subparsers.add_parser(
        "restore",
        help="bring the bucket, or what is missing of it, back to a moment",
        description="Says what would be done (a dry run) unless --apply is given.",
    )
    what = parser.add_argument_group("what")
    what.add_argument("--at", metavar="WHEN", help="a time with its zone, or latest")
    what.add_argument("--prefix", metavar="KEYS", help="only keys that begin so")
    what.add_argument("--missing-only", action="store_true", help="only keys that hold nothing now")
    what.add_argument(
        "--keys",
        type=Path,
        metavar="FILE",
        help="only these keys, one a line: their newest versions until then",
    )
    what.add_argument("--pin", metavar="ID", help="what `bucket pin` kept; with --into, where nothing is yet")
    what.add_argument("--plan", metavar="ID", help="go on with a plan, or carry out one that was shown")
    where = parser.add_argument_group("where")
    place = where.add_mutually_exclusive_group()
    place.add_argument("--into", metavar="BUCKET[/PREFIX]", help="another bucket, with versioning enabled")
    place.add_argument("--in-place", action="store_true", help="the bucket itself; no version is removed")
    where.add_argument("--from-bucket", metavar="S3URL", help="take the bytes from this second bucket")
    for other in ("into", "from"):
        where.add_argument(
            f"--{other}-endpoint", metavar="URL", help=f"how to reach the bucket of --{other}…"
        )
        where.add_argument(f"--{other}-credentials", type=Path, metavar="FILE", help="and with which keys")
    how = parser.add_argument_group("how")
    how.add_argument("--delete-newer", action="store_true", help="delete markers for what did not exist then")
    how.add_argument(
        "--undelete",
        choices=[way.value for way in Undelete],
        default=Undelete.COPY.value,
        help="deleted keys come back by a copy on top (default), or by removing their delete markers",
    )
    how.add_argument("--accept-uncertain", action="store_true", help="restore also what is ambiguous")
    how.add_argument("--accept-incomplete", action="store_true", help="although the window is not complete")
    how.add_argument("--thaw", action="store_true", help="with --apply: have archived versions brought back")
    how.add_argument("--thaw-days", type=int, default=7, metavar="N", help="for how long (default: 7)")
    how.add_argument("--manifest", type=Path, metavar="DIR", help="write S3 Batch Operations manifests there")
    how.add_argument("--no-scan", action="store_true", help="rely on the last scan, if it is recent")
    doing = parser.add_mutually_exclusive_group()
    doing.add_argument("--apply", action="store_true", help="do it; without this it is a dry run")
    doing.add_argument("--dry-run", action="store_true", help="the default: say what would be done")


def run(context: Context, args: argparse.Namespace) -> int:
    if args.pin is not None:
        return restore_pin(context, args)
    _check_usage(args)
    host = context.host()
    with ExitStack() as stack:
        if args.plan is not None:
            plan, buckets = reopened(context, host, args.plan, stack)
        else:
            gathered = gather(context, host, args, stack)
            plan, buckets = planned(context, host, args, gathered), gathered.buckets
        job = BucketJob.of(context, host, args, plan, buckets)
        return _apply(job) if args.apply else _show(job)


@dataclass(frozen=True, slots=True)
class BucketJob:
    """One plan, and what is done with it."""

    context: Context
    host: Host
    args: argparse.Namespace
    plan: BucketPlan
    buckets: Buckets
    digest: Digest

    @classmethod
    def of(
        cls, context: Context, host: Host, args: argparse.Namespace, plan: BucketPlan, buckets: Buckets
    ) -> BucketJob:
        """With the plan's sums."""
        return cls(context, host, args, plan, buckets, _digest(plan))

    @property
    def summary(self) -> str:
        """What the plan does, in a line."""
        tally = self.digest.tally
        copied = tally.keys(Kind.COPY, Kind.COPY_IN_PARTS)
        kept = f"{tally.unchanged:,} keys were as they should be, {copied:,} copied"
        marked, undone = tally.keys(Kind.MARK_DELETED), tally.keys(Kind.REMOVE_MARKERS)
        kept += f", {marked:,} marked deleted" if marked else ""
        return kept + (f", {undone:,} delete markers removed" if undone else "")


def _check_usage(args: argparse.Namespace) -> None:
    if args.plan is not None:
        given = [name for name in ("at", "prefix", "keys", "into", "from_bucket") if getattr(args, name)]
        given += [name for name in ("missing_only", "in_place", "delete_newer") if getattr(args, name)]
        if given:
            raise UsageError(
                f"--plan has its own --{given[0].replace('_', '-')}",
                hint="Leave out what the plan says already.",
            )
        return
    if args.at is None:
        raise UsageError("--at is missing", hint="Say to which moment, for example --at '2 hours ago'.")
    if not args.in_place and args.into is None:
        raise UsageError("neither --in-place nor --into says where to", hint="Choose one of them.")
    if args.delete_newer and (args.missing_only or args.into is not None):
        raise UsageError("--delete-newer is for whole restores in place only")
    if args.undelete == Undelete.MARKERS.value and args.into is not None:
        raise UsageError("--undelete markers is for restores in place only")
    if args.keys is not None and not args.missing_only:
        raise UsageError("--keys goes with --missing-only", hint="Add --missing-only, or leave --keys out.")
    if args.thaw_days < 1:
        raise UsageError(f"--thaw-days {args.thaw_days} is no time")


def planned(
    context: Context,
    host: Host,
    args: argparse.Namespace,
    found: Gathered,
    overrides: Mapping[str, Want] | None = None,
) -> BucketPlan:
    """Make and keep the plan; `overrides`: keys of which something is known better than by the moment.

    Raises BucketWindowOpen, BucketNotVersioned, BucketIndexStale, Store…
    """
    if not found.window.is_complete and not args.accept_incomplete:
        raise BucketWindowOpen(
            f"at {found.moment.text} the window of {found.states_url} is {found.window.certainty}: "
            + "; ".join((*found.window.causes, found.window.nearest))
        )
    header = _header(host, args, found)
    _warn_of_rules(context, found)
    folder = plan_folder(host, header.id)
    folder.mkdir(mode=0o700, parents=True)
    note_others(folder, found.others)
    wants = None
    if args.keys is not None:
        wants = wants_by_name(found.ground.states, _names(args.keys, found.prefix), header.moment)
    told_s = host.clock.monotonic_s()

    def progress(count: int, key: str) -> None:
        nonlocal told_s
        if host.clock.monotonic_s() - told_s >= PROGRESS_INTERVAL_S:
            told_s = host.clock.monotonic_s()
            context.progress(f"restore: {count:,} keys looked at, at {key}")

    return make_plan(
        found.ground,
        header,
        folder / PLAN_FILE,
        wants=wants,
        overrides=overrides,
        threads=THREADS,
        progress=progress,
    )


def _header(host: Host, args: argparse.Namespace, found: Gathered) -> PlanHeader:
    return PlanHeader(
        id=host.random.token(8).hex(),
        states=found.states_url,
        source=found.buckets.source.url,
        target=found.buckets.target.url,
        to_prefix=found.to_prefix,
        prefix=found.prefix,
        moment=found.moment.at,
        requested=found.moment.text,
        options=Options(
            missing_only=args.missing_only,
            delete_newer=args.delete_newer,
            undelete=Undelete(args.undelete),
            accept_uncertain=args.accept_uncertain,
        ),
        made_at=host.clock.now_us(),
        scanned=found.scanned,
        verdict=found.window.certainty.value,
        causes=found.window.causes,
    )


def _warn_of_rules(context: Context, found: Gathered) -> None:
    for rule in found.ground.rules:
        if rule.noncurrent_days is not None:
            context.warning(
                f"lifecycle rule {rule.id!r} removes noncurrent versions after {rule.noncurrent_days} days, "
                "also those that this restore reads or replaces"
            )


def _names(path: Path, prefix: str) -> list[str]:
    try:
        names = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--keys {path}: {error}") from None
    found = [name for name in names if name]
    outside = next((name for name in found if not name.startswith(prefix)), None)
    if outside is not None:
        raise UsageError(f"--keys {path}: {outside!r} does not begin with {prefix!r}")
    return found


def _digest(plan: BucketPlan) -> Digest:
    digest = Digest(Tally(unchanged=plan.end.unchanged))
    for _, action in plan.actions():
        digest.add(action)
    return digest


def _show(job: BucketJob) -> int:
    """The dry run's answer."""
    plan, header, tally = job.plan, job.plan.header, job.digest.tally
    next_step = (
        "this was a dry run, nothing was written; carry it out with\n"
        f"  walarchiver bucket restore --plan {header.id} --apply"
    )
    members = plan_members(header, job.digest, sha256=plan.end.sha256, path=str(plan.path))
    if job.args.manifest is not None:
        exported = export_manifest(
            plan,
            job.args.manifest,
            source_bucket=job.buckets.source.name,
            target_bucket=job.buckets.target.name,
            target_prefix=header.to_prefix,
        )
        next_step += f"\nmanifests for S3 Batch Operations are in {exported.folder}; no job was made"
        members["manifest"] = {
            name: {"rows": total.keys, "bytes": total.bytes} for name, total in exported.files.items()
        }
    job.context.result(plan_text(header, job.digest, next_step=next_step), {**members, "applied": False})
    if tally.keys(Kind.LOST, Kind.NEEDS_KEY):
        job.context.failure(_lost(tally.keys(Kind.LOST), tally.keys(Kind.NEEDS_KEY)))
    return status_of(tally)


def _lost(lost: int, needs_key: int) -> BucketVersionsLost:
    parts = [f"lost: {counted(lost, 'version')}"] if lost else []
    parts += (
        [f"not readable without the customer's key: {counted(needs_key, 'version')}"] if needs_key else []
    )
    return BucketVersionsLost(" and ".join(parts))


def _apply(job: BucketJob) -> int:
    report = carry_out(job)
    header = job.plan.header
    job.context.result(
        report_text(header, job.digest, report),
        {
            **plan_members(header, job.digest, sha256=job.plan.end.sha256, path=str(job.plan.path)),
            "applied": True,
            "report": report_members(report),
        },
    )
    return _ended(job.context, report)


def carry_out(job: BucketJob) -> Report:
    """Do what the plan says, or what is left of it. Raises Interrupted, Store… with the line that goes on."""
    plan, header = job.plan, job.plan.header
    job.context.progress(f"restore: plan {header.id}, {plan.end.actions:,} keys")
    journal = Journal(
        plan.path.with_name(JOURNAL_FILE),
        name=header.id,
        plan_sha256=plan.end.sha256,
        actions=plan.end.actions,
        sink=sink_of(job.context, job.host, header, job.buckets.target),
    )
    restore = BucketRestore(
        plan,
        journal,
        source=job.buckets.source,
        target=job.buckets.target,
        threads=THREADS,
        thaw_days=job.args.thaw_days if job.args.thaw else None,
        progress=_pace(job.context, job.host),
    )
    try:
        return restore.carry_out()
    except KeyboardInterrupt:
        raise Interrupted("interrupted", hint=_go_on(header.id)) from None
    except WalarchiverError as error:
        error.next_step += f"\n{_go_on(header.id)}"
        raise
    finally:
        try:
            send_rest(job.context, journal, plan.path.with_name(JOURNAL_FILE))
        finally:
            journal.close()


def _ended(context: Context, report: Report) -> int:
    failed = report.count(Outcome.FAILED, Outcome.CONTENDED) + report.faults_found - report.by_others
    if failed:
        context.failure(BucketRestoreFailed(f"{failed:,} keys could not be restored"))
    lost, needs_key = report.left.get(Kind.LOST, 0), report.left.get(Kind.NEEDS_KEY, 0)
    if lost or needs_key:
        context.failure(_lost(lost, needs_key))
    return report_status(report)


def _go_on(plan_id: str) -> str:
    return (
        f"What was done is in the journal. Go on with\n  walarchiver bucket restore --plan {plan_id} --apply"
    )


def _pace(context: Context, host: Host) -> Callable[[Pace], None]:
    began_s = told_s = host.clock.monotonic_s()

    def report(pace: Pace) -> None:
        nonlocal told_s
        now_s = host.clock.monotonic_s()
        if now_s - told_s < PROGRESS_INTERVAL_S:
            return
        told_s = now_s
        share = max(pace.done / max(pace.total, 1), 1e-9)
        left_s = (now_s - began_s) * (1 - share) / share
        context.progress(
            f"restore: {pace.done:,} of {pace.total:,} keys, {pace.bytes_done / 1e6:,.0f} of "
            f"{pace.bytes_total / 1e6:,.0f} MB, about {left_s:,.0f} s left"
        )

    return report
