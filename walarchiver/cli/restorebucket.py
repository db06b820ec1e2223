"""The bucket's part of `restore`: database and bucket brought back to one moment, and compared.

Rules:
- The database comes first. Once it stands at its moment it is asked what it refers to, and each reference
  is looked up by itself: that settles what the two clocks and the application's order leave open.
- Everything else of the bucket is as of the moment. No version is ever removed.
- The verdict is told last: CONSISTENT, or INCONSISTENT with a list and exit status 15; the restored database
  stays as it is in either case.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass

from restore.bucketrestore import Report
from restore.core.bucketmoment import database_moment
from restore.core.bucketstate import Want
from restore.core.buckettext import DEGRADED, OK
from restore.core.jointtext import JointReport, joint_members, joint_text
from restore.core.references import SETTLED, Finding, Standing
from restore.jointcheck import check_joint
from walarchiver.assembly import Host
from walarchiver.bucketassembly import bucket_section
from walarchiver.bucketports import Versioning
from walarchiver.cli.asking import Answer
from walarchiver.cli.bucketindex import bring_index, sides_of
from walarchiver.cli.bucketplaces import gather, open_buckets, others_of
from walarchiver.cli.bucketreport import left_lines, report_members, report_status
from walarchiver.cli.bucketrestore import BucketJob, carry_out, planned
from walarchiver.cli.context import Context
from walarchiver.core.moment import CommitTime, format_rfc3339
from walarchiver.core.version import StoreMs
from walarchiver.errors import BucketNotVersioned, Inconsistent, UsageError
from walarchiver.settings_schema import BucketSettings

LISTED = 20


def check_places(host: Host, cluster: str | None, args: argparse.Namespace) -> None:
    """Everything that can be refused before anything is restored. Raises UsageError, NoBucket, and more."""
    section = bucket_section(host, cluster)
    if section.references is not None and not args.start:
        raise UsageError(
            "the restored database tells what it refers to only once it runs",
            hint="Add --start; or restore the bucket alone with `walarchiver bucket restore`.",
        )
    _check_places(host, section, args)


def _check_places(host: Host, section: BucketSettings, args: argparse.Namespace) -> None:
    """Both buckets can be reached, and the one to be written keeps versions; else no cluster is restored.

    Raises BucketNotVersioned, ConfigError, Store…
    """
    with ExitStack() as stack:
        _, buckets = open_buckets(host, section, others_of(_asked(args, StoreMs(0))), stack)
        for bucket in {id(each): each for each in (buckets.source, buckets.target)}.values():
            versioning = bucket.versioning()
            if bucket is buckets.target and versioning is not Versioning.ENABLED:
                raise BucketNotVersioned(
                    f"versioning of {bucket.url} is not enabled: nothing is written there"
                )


@dataclass(frozen=True, slots=True)
class Joint:
    """What came of the bucket's part."""

    text: str
    members: dict[str, object]
    status: int
    failure: Inconsistent | None


def restore_bucket(
    context: Context, host: Host, args: argparse.Namespace, found: Answer, dsn: str | None
) -> Joint:
    """Restore the bucket to the moment of a restored database; `dsn`: where that runs, None: not asked.

    Raises UsageError, NotReachable, BucketWindowOpen, BucketIndexStale, Store… and their kin.
    """
    time = database_moment(found.decision, found.understood.target)
    assert time is not None, "only reachable decisions are carried out"
    bring_index(context, host, found.archive)
    with sides_of(host, context.cluster, found.archive.catalog, time) as sides:
        moment, skew = sides.at(time), sides.skew
        if sides.clock_warning is not None:
            context.warning(sides.clock_warning)
    with ExitStack() as stack:
        asked = _asked(args, moment)
        gathered = gather(context, host, asked, stack)
        report = None if dsn is None else _compared(context, host, found, time, dsn)
        overrides = {} if report is None else overrides_of(report, accept_older=args.bucket_accept_older)
        context.progress(
            f"restore: bucket as of {format_rfc3339(moment * 1000)} on its store's clock"
            + (
                ""
                if skew is None
                else f" (clocks differ by {skew.low / 1e6:+.1f} to {skew.high / 1e6:+.1f} s)"
            )
        )
        plan = planned(context, host, asked, gathered, overrides)
        job = BucketJob.of(context, host, asked, plan, gathered.buckets)
        done = carry_out(job)
        return _told(job, report, done)


def _compared(context: Context, host: Host, found: Answer, time: CommitTime, dsn: str) -> JointReport:
    with sides_of(host, context.cluster, found.archive.catalog, time) as sides:
        return check_joint(
            sides,
            dsn,
            sides.at(time),
            workers=sides.section.listings,
            progress=lambda count: context.progress(f"restore: {count:,} references compared"),
        )


def overrides_of(report: JointReport, *, accept_older: bool) -> Mapping[str, Want]:
    """The keys that the database knows better than the moment does; of several versions the newest."""
    accepted = {*SETTLED, Standing.OLDER} if accept_older else SETTLED
    chosen: dict[str, Finding] = {}
    for finding in report.findings:
        key = finding.reference.key
        if finding.standing not in accepted or finding.row is None or key in report.held:
            continue
        if finding.plain(report.moment):
            continue
        before = chosen.get(key)
        if before is None or _began(before) < _began(finding):
            chosen[key] = finding
    return {key: finding.want for key, finding in chosen.items()}


def _began(finding: Finding) -> tuple[int, int]:
    assert finding.row is not None, "what stands well, or is older, has a version"
    return finding.row.placed.begin, finding.row.placed.until


def _asked(args: argparse.Namespace, moment: StoreMs) -> argparse.Namespace:
    """The same as options of `bucket restore`."""
    return argparse.Namespace(
        at=format_rfc3339(moment * 1000),
        prefix=None,
        missing_only=False,
        keys=None,
        plan=None,
        into=args.bucket_into,
        in_place=args.bucket_in_place,
        from_bucket=None,
        into_endpoint=None,
        into_credentials=None,
        from_endpoint=None,
        from_credentials=None,
        delete_newer=args.bucket_delete_newer,
        undelete="copy",
        accept_uncertain=False,
        accept_incomplete=args.bucket_accept_incomplete,
        thaw=False,
        thaw_days=7,
        manifest=None,
        no_scan=False,
        apply=True,
        dry_run=False,
    )


def _told(job: BucketJob, report: JointReport | None, done: Report) -> Joint:
    header = job.plan.header
    place = f"{job.buckets.target.url}" + (f" below {header.to_prefix!r}" if header.to_prefix else "")
    restored_status = report_status(done)
    holds = {OK: "holds what was there", DEGRADED: "holds what was there, with what follows,"}.get(
        restored_status, "does NOT hold all that was there"
    )
    text = f"bucket: {place} {holds} at {header.requested}: {job.summary}"
    if restored_status:
        text += "\n" + "\n".join(f"  {line}" for line in left_lines(done))
    members: dict[str, object] = {
        "plan": header.id,
        "target": job.buckets.target.url,
        **report_members(done),
    }
    if report is None:
        return Joint(
            f"{text}\nnot compared with the database", {**members, "joint": None}, restored_status, None
        )
    text = f"{text}\n{joint_text(report, listed=LISTED)}"
    members["joint"] = joint_members(report)
    if report.tally.consistent and not report.unlisted_near:
        return Joint(text, members, restored_status, None)
    if report.tally.consistent:
        wrong = Inconsistent(
            f"{report.unlisted_near:,} references mean another version than the bucket held at the moment, "
            "more than are looked after one by one: these keys hold what they held then"
        )
    else:
        wrong = Inconsistent("the database refers to objects that the bucket does not have as of the moment")
    return Joint(text, members, wrong.exit_status, wrong)
