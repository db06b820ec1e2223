"""`walarchiver bucket pin --at WHEN`: keeps a moment of database and bucket; `--verify ID`: is it all there?

Rules:
- Only a moment that can be restored is pinned: the planner names the base backup and the stop, the index
  must vouch for the bucket's state.
- Before anything is written the bucket's rules are asked whether the versions will be there for as long as
  the pin shall hold. Where they will not, contents are copied into the backup bucket, or the pin is refused.
- Exit status of --verify: 0 all is there; 3 a copy is gone whose version is still in the bucket; 15 versions
  are gone. Of a new pin: 15 when some versions were gone, or unreadable, already.
"""

from __future__ import annotations

import argparse
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from restore.core.bucketlines import store_time
from restore.core.bucketmoment import database_moment
from restore.core.wording import counted
from restore.jointcheck import Sides
from walarchiver.assembly import Archive, Host, depositor_of, open_archive
from walarchiver.bucketassembly import bucket_of, multipart_time_of
from walarchiver.bucketpins import (
    State,
    copies_beside,
    danger_of,
    keep_by_retention,
    memory_of,
    new_pin_id,
    open_copies,
    pin_folder,
    pin_named,
)
from walarchiver.bucketports import EvidenceBucket
from walarchiver.bucketshipping import watched_of
from walarchiver.cli.asking import Answer, add_question, answer
from walarchiver.cli.bucketindex import bring_index, sides_of
from walarchiver.cli.bucketmoment import Watched as Indexed
from walarchiver.cli.bucketmoment import key_text
from walarchiver.cli.bucketpins import pin_members, pin_text
from walarchiver.cli.bucketwindowlines import vouched
from walarchiver.cli.context import Context
from walarchiver.cli.plan import refusal_of
from walarchiver.core.moment import CommitTime
from walarchiver.core.version import StoreMs
from walarchiver.errors import BucketVersionsLost, BucketWindowOpen, PinIncomplete, PinNotKept, UsageError
from walarchiver.evidence.contentcopies import ContentCopies, Copied
from walarchiver.evidence.pincheck import Found, PinCheck, PinReport
from walarchiver.evidence.pins import Pinned, read_pin, write_pin
from walarchiver.evidence.scanning import Scan, ScanOptions
from walarchiver.format.records import PinRecord
from walarchiver.operate.findings import DEGRADED
from walarchiver.settings_kinds import DURATION
from walarchiver.storage.options import S3Location

if TYPE_CHECKING:
    from walarchiver.cli.main import Subparsers

LISTED = 20
THREADS = 8
PROGRESS_INTERVAL_S = 2.0


def register(subparsers: Subparsers) -> None:
    """Add `pin`."""
    parser = subparsers.add_parser("pin", help="keep a moment of database and bucket, or look at one kept")
    add_question(parser, required=False)
    parser.add_argument("--reason", metavar="TEXT", help="why, for those who read it in ten years")
    parser.add_argument("--keep", metavar="DURATION", help="for how long; default: the longest retention")
    copying = parser.add_mutually_exclusive_group()
    copying.add_argument("--copy", action="store_true", help="copy contents although the rules keep versions")
    copying.add_argument("--no-copy", action="store_true", help="pin although the rules may remove versions")
    parser.add_argument("--no-scan", action="store_true", help="rely on the last scan")
    parser.add_argument("--verify", metavar="ID", help="say whether every version of a pin can still be had")
    parser.add_argument("--deep", action="store_true", help="with --verify: read every byte")
    parser.add_argument("--list", type=int, default=LISTED, metavar="N", help="so many lost ones are shown")


def run(context: Context, args: argparse.Namespace) -> int:
    if args.verify is not None:
        if args.at is not None or args.reason is not None or args.copy or args.no_copy:
            raise UsageError("--verify looks at a pin that was made, and makes none")
        return _verify(context, args)
    if args.at is None or not (args.reason or "").strip():
        raise UsageError("--at and --reason say what is kept, and why")
    if args.deep:
        raise UsageError("--deep goes with --verify")
    return _pin(context, args)


# --- making one --------------------------------------------------------------------------------------------


def _pin(context: Context, args: argparse.Namespace) -> int:
    host = context.host()
    keep = _keep(host, context.cluster, args.keep)
    archive = open_archive(host, context.cluster, system=args.system, write=True)
    found = answer(context, host, args)
    refusal = refusal_of(found)
    if refusal is not None:
        raise refusal
    time = database_moment(found.decision, found.understood.target)
    assert time is not None, "only reachable decisions come here"
    bring_index(context, host, archive)
    with ExitStack() as stack:
        sides = stack.enter_context(sides_of(host, context.cluster, archive.catalog, time))
        job = _Job(context, host, args, archive, found, time, sides, sides.at(time))
        if not args.no_scan:
            job.scan()
        job.check_window()
        backup = job.backup(keep, stack)
        return job.write(backup)


def _keep(host: Host, cluster: str | None, given: str | None) -> timedelta:
    if given is None:
        return keep_by_retention(host, cluster)
    try:
        kept = DURATION.read(given)
    except ValueError as fault:
        raise UsageError(f"--keep: {fault}") from None
    return kept


@dataclass(frozen=True, slots=True)
class _Job:
    """One pin that is made."""

    context: Context
    host: Host
    args: argparse.Namespace
    archive: Archive
    found: Answer
    time: CommitTime
    sides: Sides
    cutoff: StoreMs

    def scan(self) -> None:
        """List the bucket, so that the window reaches up to now."""
        self.context.progress(f"pin: listing {self.sides.bucket.url}")
        section = self.sides.section
        options = ScanOptions(listings=section.listings, multipart_time=multipart_time_of(section))
        Scan(self.sides.bucket, self.sides.index, options).run()

    def check_window(self) -> None:
        """Raises BucketWindowOpen."""
        location = S3Location.parse(self.sides.section.url)
        indexed = Indexed(self.host, self.sides.section, location, self.sides.index)
        window = vouched(indexed, self.cutoff, location.prefix)
        if not window.is_complete:
            raise BucketWindowOpen(
                f"at {store_time(self.cutoff)} the window of {location.url} is {window.certainty}: "
                + "; ".join((*window.causes, window.nearest)),
                hint="Pin a moment that the index can vouch for: `walarchiver bucket as-of` says which.",
            )

    def backup(self, keep: timedelta, stack: ExitStack) -> EvidenceBucket | None:
        """The bucket that gets copies; None: none are made. Raises PinNotKept, Store…"""
        copies = open_copies(self.host, self.context.cluster)
        if copies is not None:
            stack.callback(copies.close)
        danger = danger_of(self.sides.bucket, copies, cutoff=self.cutoff, keep=keep)
        told = f"{self.sides.bucket.url} may lose versions within {keep.days} days: " + "; ".join(
            danger.versions
        )
        if self.args.no_copy:
            if danger.versions:
                self.context.warning(told)
            return None
        if copies is None:
            if self.args.copy:
                raise UsageError("--copy: no backup bucket", hint="Set `copies` in [cluster.NAME.bucket].")
            if danger.versions:
                raise PinNotKept(told)
            return None
        if not danger.versions and not self.args.copy:
            return None
        if danger.copies:
            raise PinNotKept(f"{copies.url} may lose copies: " + "; ".join(danger.copies))
        if danger.versions:
            self.context.progress(f"pin: {told}; contents are copied into {copies.url}")
        return copies

    def write(self, backup: EvidenceBucket | None) -> int:
        """Copy, write, tell."""
        context, host, decision = self.context, self.host, self.found.decision
        assert decision.stop is not None, "it is reachable"
        assert decision.backup is not None, "it is reachable"
        state = State(self.sides.index, self.cutoff, self.sides.bucket.prefix)
        pinned = Pinned(
            pin=new_pin_id(host),
            backup=decision.backup.id,
            timeline=decision.stop.timeline,
            lsn=decision.stop.lsn,
            time=self.time,
            cutoff=self.cutoff,
            kept_in="" if backup is None else backup.url,
            reason=self.args.reason.strip(),
        )
        section = host.settings.repository(host.settings.cluster(self.archive.cluster.name).repositories[0])
        copied = Copied()
        with ExitStack() as stack:
            versions = state.versions()
            if backup is not None:
                memory = stack.enter_context(closing(memory_of(host, context.cluster)))
                copies = ContentCopies(
                    self.sides.bucket, backup, memory, threads=THREADS, progress=self._pace()
                )
                copied, versions = copies.copied, copies.copied_versions(versions)
            record = write_pin(
                pinned,
                watched_of(host, context.cluster),
                versions,
                depositor=depositor_of(host, self.archive, section),
                ledger=self.archive.ledger,
                folder=pin_folder(host, context.cluster),
            )
        return self._tell(record, state, copied)

    def _pace(self) -> _Pace:
        return _Pace(self.context, self.host)

    def _tell(self, record: PinRecord, state: State, copied: Copied) -> int:
        unkept = copied.unreadable if record.kept_in else []
        lines = [pin_text(record)]
        if record.kept_in:
            lines.append(
                f"  {copied.made:,} contents copied, {copied.read:,} bytes read; the others were there"
            )
        if state.uncertain:
            lines.append(f"  the state of {counted(state.uncertain, 'key')} at the moment is not certain")
        lines += [f"  not copied: {key_text(one)}" for one in unkept[: self.args.list]]
        members = {
            **pin_members(record),
            "copied": copied.made,
            "read": copied.read,
            "uncertain": state.uncertain,
            "gone": state.gone,
            "not_copied": unkept,
        }
        self.context.result("\n".join(lines), members)
        if not state.gone and not unkept:
            return 0
        told = f"{counted(state.gone, 'version')} of the moment were removed for ever already"
        if unkept:
            told += f", {counted(len(unkept), 'version')} have no copy"
        failure = BucketVersionsLost(told)
        self.context.failure(failure)
        return failure.exit_status


class _Pace:
    """Tells now and then how far copying is."""

    def __init__(self, context: Context, host: Host) -> None:
        self._context, self._host = context, host
        self._told_s = host.clock.monotonic_s()

    def __call__(self, now: Copied) -> None:
        now_s = self._host.clock.monotonic_s()
        if now_s - self._told_s >= PROGRESS_INTERVAL_S:
            self._told_s = now_s
            self._context.progress(
                f"pin: {now.versions:,} versions ({now.bytes / 1e6:,.0f} MB) kept, {now.read / 1e6:,.0f} MB "
                f"read, {now.made:,} contents copied"
            )


# --- looking at one ----------------------------------------------------------------------------------------


def _verify(context: Context, args: argparse.Namespace) -> int:
    host = context.host()
    archive = open_archive(host, context.cluster, system=args.system)
    record = pin_named(archive.catalog, args.verify)
    with ExitStack() as stack:
        watched = stack.enter_context(closing(bucket_of(host, context.cluster)))
        backup = copies_beside(host, context.cluster, record, context.warning)
        if backup is not None:
            stack.callback(backup.close)
        told_s = host.clock.monotonic_s()

        def progress(count: int) -> None:
            nonlocal told_s
            if host.clock.monotonic_s() - told_s >= PROGRESS_INTERVAL_S:
                told_s = host.clock.monotonic_s()
                context.progress(f"pin: {count:,} of {record.objects:,} versions looked at")

        versions = read_pin(
            archive.repository, archive.system, record, folder=pin_folder(host, context.cluster)
        )
        check = PinCheck(watched, backup, deep=args.deep, threads=THREADS)
        report = check.run(versions, progress)
    return _told(context, args, record, report)


def _told(context: Context, args: argparse.Namespace, record: PinRecord, report: PinReport) -> int:
    counts = report.counts
    lines = [pin_text(record)]
    lines += [f"{counts[found]:>16,}  {_WORDS[found]}" for found in Found if counts[found]]
    lines += [
        f"  {one.found}: {key_text(one.version.key)}, version {one.version.version_id}, "
        f"{one.version.size:,} bytes" + (f", {one.version.copy}" if one.version.copy else "")
        for one in report.listed[: args.list]
    ]
    members = {
        **pin_members(record),
        "deep": args.deep,
        "found": {found.value: counts[found] for found in Found},
        "lost": [
            {
                "key": one.version.key,
                "version": one.version.version_id,
                "size": one.version.size,
                "copy": one.version.copy or None,
                "found": one.found.value,
            }
            for one in report.listed
        ],
    }
    if not report.lost:
        context.result("\n".join(lines), members)
        return DEGRADED if counts[Found.COPY_LOST] else 0
    failure = PinIncomplete(
        f"pin {record.pin}: {counted(report.lost, 'version')} of {report.versions:,} lost"
    )
    context.result("\n".join(lines), {**members, "code": failure.code, "next_step": failure.next_step})
    context.failure(failure)
    return failure.exit_status


_WORDS = {
    Found.COPY: "there as copies",
    Found.VERSION: "there in the watched bucket",
    Found.COPY_LOST: "there in the watched bucket, but their copies are gone",
    Found.ARCHIVED: "in an archive tier of the watched bucket: thaw them first",
    Found.DAMAGED: "DAMAGED",
    Found.MISSING: "MISSING",
}
