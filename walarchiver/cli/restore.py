"""`walarchiver restore --at WHEN --into DIR`: a new cluster, stopped at exactly that moment."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from restore.core.estimate import Part
from restore.core.plan import Plan
from restore.core.plandocument import plan_document
from restore.core.plantext import plan_text
from restore.instance import Instance, Reached, check_work_dir, find_programs
from restore.pipeline import Progress
from restore.placing import DeltaReport, Options, Placement
from restore.rates import note_span
from restore.restoring import judge
from restore.unpack import check_unused
from restore.workplace import Workplace, note_plan
from walarchiver.assembly import Host
from walarchiver.cli import restorebucketoptions, restoredelta
from walarchiver.cli.asking import Answer, add_question, answer, hook_path, plan_of
from walarchiver.cli.context import Context, Output
from walarchiver.cli.plan import refusal_of
from walarchiver.cli.restorelines import (
    Commands,
    commands_of,
    interrupted_placing,
    interrupted_recovery,
    outside_lines,
    pg_ctl_line,
)
from walarchiver.cli.restoretarget import check_hook, owner_of, tablespaces_of
from walarchiver.core.lsn import format_lsn
from walarchiver.embedded.binaries import find_postgres_bin
from walarchiver.errors import BinariesMissing, Interrupted, UsageError, WalarchiverError
from walarchiver.heap import share_the_heap
from walarchiver.postgres.process import RunAs, find_system_bin

if TYPE_CHECKING:
    from restore.planserver import PlanHandlers
    from walarchiver.assembly import Archive
    from walarchiver.cli.main import Subparsers
    from walarchiver.cli.restorebucket import Joint
    from walarchiver.postgres.probe import RecoveryState

PROGRESS_INTERVAL_S = 2.0


def register(subparsers: Subparsers) -> None:
    """Add `restore`."""
    parser = subparsers.add_parser("restore", help="restore a cluster to a moment, into a directory")
    add_question(parser)
    parser.add_argument("--into", required=True, type=Path, metavar="DIR", help="new or empty data directory")
    restoredelta.add_options(parser)
    parser.add_argument("--start", action="store_true", help="start PostgreSQL and watch it reach the moment")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
    parser.add_argument(
        "--tablespace",
        action="append",
        default=[],
        metavar="OID=DIR",
        help="where a tablespace goes (default: DIR.tablespaces/OID)",
    )
    parser.add_argument(
        "--owner", metavar="USER", help="as root: who owns the new cluster (default: postgres)"
    )
    parser.add_argument(
        "--bin-dir", type=Path, metavar="DIR", help="PostgreSQL's programs, of the right major"
    )
    parser.add_argument(
        "--user", default="postgres", metavar="ROLE", help="with --start: a role to watch recovery with"
    )
    parser.add_argument(
        "--no-space-check", action="store_true", help="begin although the disk looks too small"
    )
    parser.add_argument("--hook", metavar="PATH", help="the hook's launcher (default: beside this program)")
    parser.add_argument(
        "--timeout", type=int, default=86400, metavar="SECONDS", help="with --start: give up watching after"
    )
    restorebucketoptions.add_options(parser)


@dataclass(frozen=True, slots=True)
class _Job:
    """One restore, everything known."""

    context: Context
    host: Host
    found: Answer
    plan: Plan
    place: Workplace
    owner: RunAs | None
    args: argparse.Namespace


def run(context: Context, args: argparse.Namespace) -> int:
    share_the_heap()
    host = context.host()
    restorebucketoptions.check_usage(host, context.cluster, args)
    began_s = host.clock.monotonic_s()
    place = Workplace.beside(args.into)
    if not args.delta:
        check_unused(place.target)
        place.check_unused()
    if args.start:
        check_work_dir(place.instance)
    owner = owner_of(args.owner)
    tablespaces = tablespaces_of(args.tablespace)
    hook = hook_path(args.hook)
    check_hook(hook, owner)
    found = answer(context, host, args)
    refusal = refusal_of(found)
    if refusal is not None:
        context.result(
            plan_text(found.decision, found.view, requested=found.understood),
            plan_document(found.decision, found.view, requested=found.understood),
        )
        raise refusal
    plan = plan_of(host, found, place, hook)
    if args.start:
        find_programs(plan.major, bin_dir=args.bin_dir, search=(find_system_bin, find_postgres_bin))
    job = _Job(context, host, found, plan, place, owner, args)
    if args.dry_run:
        _show_plan(job, _placement(job, tablespaces).report if args.delta else None)
        return 0
    context.progress(f"restore: {found.decision.reason}")
    try:
        _place(job, _placement(job, tablespaces))
    except KeyboardInterrupt:
        raise (restoredelta.interrupted_delta if args.delta else interrupted_placing)(place) from None
    except WalarchiverError as error:
        restoredelta.unfinished(place, error)
        raise
    placed_s = host.clock.monotonic_s() - began_s
    context.progress(f"restore: files are in place and verified after {placed_s:.1f} s")
    commands = _commands(job)
    if not args.start:
        return _tell_how_to_start(job, commands, placed_s, _bucket(job, None))
    try:
        import asyncio  # only --start has an event loop

        ran = asyncio.run(_run_to_target(job))
    except KeyboardInterrupt:
        raise interrupted_recovery(place, commands) from None
    except WalarchiverError as error:
        if place.recovering:
            error.next_step += f"\nTo go on:\n{commands.indented}"
        raise
    seconds = {"files": round(placed_s, 3), "total": round(host.clock.monotonic_s() - began_s, 3)}
    joint = _bucket(job, ran.instance.dsn(user=args.user))  # in this thread, which an interrupt reaches
    return _tell_restored(job, ran, joint, seconds)


@dataclass(frozen=True, slots=True)
class _Ran:
    """A recovery that stopped where it was planned."""

    instance: Instance
    reached: Reached
    fetched: int


def _placement(job: _Job, tablespaces: dict[int, Path]) -> Placement:
    """What is to be written; an earlier copy is compared for it."""
    found, host = job.found, job.host
    if job.args.delta:
        job.context.progress(f"restore: comparing what is in {job.place.target}")
    options = Options(
        owner=job.owner,
        tablespaces=tablespaces,
        workers=host.settings.server.workers,
        comments=(f"walarchiver restore --at {found.requested}: plan {job.plan.id}", found.decision.reason),
        check_space=not job.args.no_space_check,
        delta=job.args.delta,
        pace=restoredelta.pace_of(job.args, host.clock),
        progress=_progress(job.context, host),
    )
    return Placement(found.archive, job.plan, job.place, options)


def _place(job: _Job, placement: Placement) -> None:
    """Make the target directory, and let `serve --plan ID` find the plan."""
    host = job.host
    began_s = host.clock.monotonic_s()
    if (report := placement.report) is not None:
        job.context.progress(f"restore: {restoredelta.report_text(report)}")
    placement.carry_out()
    backup = job.found.decision.backup
    assert backup is not None, "only reachable decisions are carried out"
    state, spent_s = host.settings.server.state, host.clock.monotonic_s() - began_s
    if report is None and job.args.max_rate is None:  # else it says nothing of the next one
        note_span(state, host.clock, Part.FILES, backup.raw_in_all, spent_s)
    note_plan(job.plan, job.place, state)


def _show_plan(job: _Job, report: DeltaReport | None) -> None:
    found, plan = job.found, job.plan
    text = plan_text(
        found.decision,
        found.view,
        requested=found.understood,
        settings=plan.settings,
        duration=found.duration,
    )
    document = plan_document(
        found.decision,
        found.view,
        requested=found.understood,
        settings=plan.settings,
        keys=plan.keys,
        plan_id=plan.id,
        duration=found.duration,
    )
    if report is not None:
        text += f"\n{job.place.target}: {restoredelta.report_text(report)}"
        document = {**document, "delta": restoredelta.report_members(report)}
    job.context.result(text, document)


def _progress(context: Context, host: Host) -> Callable[[Progress], None]:
    last_s = host.clock.monotonic_s()

    def report(progress: Progress) -> None:
        nonlocal last_s
        now_s = host.clock.monotonic_s()
        if now_s - last_s >= PROGRESS_INTERVAL_S:
            last_s = now_s
            context.progress(
                f"restore: {progress.done / 1e6:,.0f} of {progress.total / 1e6:,.0f} MB unpacked"
            )

    return report


def plan_served(
    host: Host, plan: Plan, place: Workplace, archive: Archive
) -> AbstractAsyncContextManager[PlanHandlers]:
    """What serves the plan's WAL; loaded only with --start, as its HTTP server is a third of starting up."""
    from restore.planserver import plan_served as served

    return served(host, plan, place, archive)


async def _run_to_target(job: _Job) -> _Ran:
    """Serve the plan, start PostgreSQL, watch, judge; leave it running when it is what was asked."""
    import asyncio

    bin_dir = find_programs(
        job.plan.major, bin_dir=job.args.bin_dir, search=(find_system_bin, find_postgres_bin)
    )
    instance = Instance(bin_dir, job.place.target, job.place.instance)
    began_s = job.host.clock.monotonic_s()

    def replaying(state: RecoveryState) -> None:
        if state.replay_lsn is not None:
            job.context.progress(f"restore: replayed to {format_lsn(state.replay_lsn)}")

    async with plan_served(job.host, job.plan, job.place, job.found.archive) as handlers:
        starting = asyncio.create_task(asyncio.to_thread(instance.start))
        try:
            await asyncio.shield(starting)
            reached = await asyncio.to_thread(
                instance.watch,
                job.host.clock,
                timeout_s=job.args.timeout,
                user=job.args.user,
                progress=replaying,
            )
            judge(job.plan, reached, instance)
        except BaseException:
            await asyncio.gather(starting, return_exceptions=True)  # a thread: interrupted, it goes on
            await asyncio.to_thread(instance.stop)
            raise
        recovered_s = job.host.clock.monotonic_s() - began_s
        handlers.note_rates(job.host.settings.server.state, recovery_s=recovered_s)
    instance.detach()
    return _Ran(instance, reached, handlers.fetched)


def _bucket(job: _Job, dsn: str | None) -> Joint | None:
    """The bucket's part, if it was asked for."""
    if not restorebucketoptions.wanted(job.args):
        return None
    from walarchiver.cli import restorebucket  # all of restoring a bucket, and its index

    left = f"The database is restored, in {job.place.target}; only its bucket is not."
    try:
        return restorebucket.restore_bucket(job.context, job.host, job.args, job.found, dsn)
    except KeyboardInterrupt:
        raise Interrupted("interrupted", hint=left) from None
    except WalarchiverError as error:
        error.next_step += f"\n{left}"
        raise


def _tell_restored(job: _Job, ran: _Ran, joint: Joint | None, seconds: dict[str, float]) -> int:
    """The answer; the exit status: 0, or what the bucket's part says."""
    instance, reached, fetched = ran.instance, ran.reached, ran.fetched
    stop, commit = job.plan.stop, job.plan.stop.last_commit
    timeline = reached.history.timeline if reached.history else stop.timeline
    text = [
        f"restored: PostgreSQL {job.plan.major} runs in {job.place.target}, recovered to exactly "
        f"{'after' if stop.inclusive else 'before'} {format_lsn(stop.lsn)}, promoted to timeline {timeline}",
        f"asked: {job.found.understood.text}",
        f"took {seconds['total']:.1f} s ({seconds['files']:.1f} s for files, {fetched} WAL files fetched)",
        f'look: psql "{instance.dsn(user=job.args.user)}"',
        f"stop: {pg_ctl_line(instance.bin_dir, job.place, _owner_name(job), 'stop')}",
        *outside_lines(job.place),
        "archiving is off on this copy; accept it by removing the last `archive_mode = off` from "
        "postgresql.auto.conf and taking a base backup",
        *([] if joint is None else [joint.text]),
    ]
    job.context.result(
        "\n".join(text),
        {
            "plan": job.plan.id,
            "data_directory": str(job.place.target),
            "dsn": instance.dsn(user=job.args.user),
            "pid": instance.pid,
            "timeline": timeline,
            "stop_lsn": format_lsn(stop.lsn),
            "last_commit_xid": None if commit is None else commit.xid,
            "seconds": seconds,
            "wal_files_fetched": fetched,
            **({} if joint is None else {"bucket": joint.members}),
        },
    )
    if joint is None:
        return 0
    if joint.failure is not None:
        job.context.failure(joint.failure)
    return joint.status


def _owner_name(job: _Job) -> str | None:
    """The new cluster's owner, when that is not the one who runs this."""
    return None if job.owner is None else job.args.owner or "postgres"


def _commands(job: _Job) -> Commands:
    bin_dir = None
    with contextlib.suppress(BinariesMissing):  # then the line names a pg_ctl on PATH
        bin_dir = find_programs(
            job.plan.major, bin_dir=job.args.bin_dir, search=(find_system_bin, find_postgres_bin)
        )
    settings = None
    if bin_dir is not None and not (job.place.target / "postgresql.conf").exists():
        with contextlib.suppress(UsageError):  # a path too long for its socket
            settings = Instance(bin_dir, job.place.target, job.place.instance).prepare()
    return commands_of(
        job.place, job.context.config, owner=_owner_name(job), bin_dir=bin_dir, settings=settings
    )


def _tell_how_to_start(job: _Job, commands: Commands, placed_s: float, joint: Joint | None) -> int:
    """Without --start: the commands that go on from here."""
    if job.context.output is Output.TEXT:
        job.context.progress("restore: PostgreSQL replays the WAL once it is started")
    job.context.result(
        f"the files of {job.plan.backup} are in {job.place.target}, verified, with the settings for "
        f"{job.found.understood.text}\n"
        f"next, in this order:\n{commands.indented}\n"
        "PostgreSQL promotes itself when it has reached the moment; then the server ends by itself."
        + "".join(f"\n{line}" for line in outside_lines(job.place))
        + ("" if joint is None else f"\n{joint.text}"),
        {
            "plan": job.plan.id,
            "data_directory": str(job.place.target),
            "commands": [commands.serve, commands.start],
            "seconds": {"files": round(placed_s, 3)},
            **({} if joint is None else {"bucket": joint.members}),
        },
    )
    return 0 if joint is None else joint.status
