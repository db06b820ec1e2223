"""`walarchiver timeline [--from --to]`: what the archive holds, on one axis of time."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from restore.core.model import AtTime
from restore.core.planfile import event_to_json
from restore.core.when import parse_when
from walarchiver.assembly import Archive, Host, open_archive
from walarchiver.bucketstatus import bucket_status
from walarchiver.cli.asking import prove_horizon
from walarchiver.cli.backups import backup_members
from walarchiver.cli.context import Context
from walarchiver.clock import host_timezone
from walarchiver.core.lsn import format_lsn
from walarchiver.core.moment import format_rfc3339
from walarchiver.errors import UsageError
from walarchiver.operate.chronicle import Chronicle, Hole, Stretch, chronicle_of
from walarchiver.operate.drawing import UNKNOWN, Axis, draw
from walarchiver.restorable import recoverable, recoverable_members

if TYPE_CHECKING:
    from walarchiver.cli.main import Subparsers


def register(subparsers: Subparsers) -> None:
    """Add `timeline`."""
    parser = subparsers.add_parser("timeline", help="coverage, gaps, forks and backups on one axis")
    parser.add_argument("--from", dest="first", metavar="TIME", help="default: the oldest that is known")
    parser.add_argument("--to", dest="last", metavar="TIME", help="default: now")
    parser.add_argument("--system", metavar="ID", help="an older system identifier of the same cluster name")


def run(context: Context, args: argparse.Namespace) -> int:
    host = context.host()
    now_us = host.clock.now_us()
    first, last = (
        None if text is None else _instant(host, text, option, now_us)
        for option, text in (("--from", args.first), ("--to", args.last))
    )
    prove_horizon(host, context.cluster)
    archive = open_archive(host, context.cluster, system=args.system)
    whole = chronicle_of(archive)
    to_us = now_us if last is None else last
    from_us = first if first is not None else min(to_us, whole.began_us() or to_us)
    if from_us > to_us:
        raise UsageError(
            f"--from {format_rfc3339(from_us)} is later than --to {format_rfc3339(to_us)}",
            hint="Give the earlier moment as --from.",
        )
    shown = whole.within(from_us, to_us)
    axis = Axis(from_us, to_us)
    title = f"cluster {archive.cluster.name} (system {archive.system}) in {archive.repository.store.url}"
    members = _members(archive, shown, axis)
    bucket = bucket_status(host, archive)
    if bucket is None:
        context.result(f"{title}\n{draw(shown, axis)}", members)
        return 0
    spans = (
        [] if bucket.window is None else [(low * 1000, high * 1000) for low, high in bucket.window.reachable]
    )
    picture = draw(shown, axis, bucket=spans, more=["", *bucket.lines])
    context.result(f"{title}\n{picture}", {**members, "bucket": bucket.members()})
    return 0


def _instant(host: Host, text: str, option: str, now_us: int) -> int:
    understood = parse_when(
        text, now_us=now_us, timezone=host.settings.server.timezone, host_timezone=host_timezone()
    )
    if not isinstance(understood.target, AtTime):
        raise UsageError(
            f"{option} {text!r} is not a time", hint="Give a time with its zone, or '2 hours ago'."
        )
    return understood.target.time


def _members(archive: Archive, shown: Chronicle, axis: Axis) -> dict[str, object]:
    return {
        "cluster": archive.cluster.name,
        "system": archive.system,
        "repository": archive.repository.store.url,
        "from": format_rfc3339(axis.from_us),
        "to": format_rfc3339(axis.to_us),
        "timeline": shown.current,
        "backups": [backup_members(record) for record in shown.backups],
        "wal": [{**_stretch(one), **_told(one)} for one in shown.stretches],
        "gaps": [_stretch(one) for one in shown.holes],
        "damaged": [
            {"segment": one.name, "problem": one.problem, "recorded": format_rfc3339(one.at_us)}
            for one in shown.damage
        ],
        "forks": [
            {
                "timeline": fork.timeline,
                "parent": fork.parent,
                "switch_lsn": format_lsn(fork.switch),
                "recorded": format_rfc3339(fork.at_us),
            }
            for fork in shown.forks
        ],
        "restorable": [
            {
                "backup": span.backup,
                "timeline": span.timeline,
                "from": format_rfc3339(span.from_us),
                "to": None if span.to_us is None else format_rfc3339(span.to_us),
                "last_segment": span.last_segment,
            }
            for span in shown.spans
        ],
        "recoverable": recoverable_members(recoverable(shown.spans)),
        "restore_points": [
            {
                "name": point.name,
                "lsn": format_lsn(point.lsn),
                "time": format_rfc3339(point.at_us),
                "timeline": point.timeline,
            }
            for point in shown.points
        ],
        "prepared": [
            {"begun": event_to_json(one.begun), "ended": event_to_json(one.ended)} for one in shown.prepared
        ],
        "not_known": list(UNKNOWN),
    }


def _told(one: Stretch) -> dict[str, object]:
    """What scans tell of a stretch."""
    told = one.told
    return {
        "scanned": told.scanned,
        "commits": told.commits,
        "first_event_time": None if told.first_us is None else format_rfc3339(told.first_us),
        "last_event_time": None if told.last_us is None else format_rfc3339(told.last_us),
        "last_commit": event_to_json(told.last_commit),
    }


def _stretch(one: Stretch | Hole) -> dict[str, object]:
    return {
        "timeline": one.timeline,
        "first": one.first,
        "last": one.last,
        "segments": one.segments,
        "recorded_from": format_rfc3339(one.from_us),
        "recorded_to": format_rfc3339(one.to_us),
    }
