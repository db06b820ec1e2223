"""`walarchiver find --table T --from A [--to B]`: who deleted from it, updated, truncated, dropped it."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from restore.core.findings import LOSSES, Kind
from restore.core.model import AtTime
from restore.core.when import parse_when
from restore.finding import Question, find
from restore.planning import view_of
from walarchiver.assembly import Host, open_archive
from walarchiver.cli.asking import prove_horizon
from walarchiver.cli.context import Context
from walarchiver.cli.findtext import Shown
from walarchiver.clock import host_timezone
from walarchiver.core.moment import format_rfc3339
from walarchiver.core.relfile import RelFile
from walarchiver.errors import FindInGap, UsageError

if TYPE_CHECKING:
    from walarchiver.cli.main import Subparsers

DEGRADED = 3
"""Not certain, or not all is listed: the answer says what."""
PROGRESS_INTERVAL_S = 2.0


def register(subparsers: Subparsers) -> None:
    """Add `find`."""
    parser = subparsers.add_parser("find", help="which transactions deleted, updated, truncated or dropped")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--table", metavar="T", help="TABLE or SCHEMA.TABLE, as SQL spells it")
    what.add_argument("--relation", metavar="FILE", help="TABLESPACE/DATABASE/FILE, as in pg_waldump -R")
    parser.add_argument("--database", metavar="NAME", help="where several have such a table")
    parser.add_argument(
        "--kind",
        default=",".join(sorted(LOSSES)),
        metavar="KINDS",
        help="of delete,update,truncate,drop (these by default),insert,rewrite",
    )
    parser.add_argument("--from", dest="first", required=True, metavar="TIME", help="commits from then on")
    parser.add_argument("--to", dest="last", metavar="TIME", help="commits until then; default: now")
    parser.add_argument("--aborted", action="store_true", help="also what was rolled back")
    parser.add_argument(
        "--limit", type=int, default=1000, metavar="N", help="list at most so many, those with most rows"
    )
    parser.add_argument("--timeline", type=int, metavar="N", help="the branch; default: production's")
    parser.add_argument("--system", metavar="ID", help="an older system identifier of the same cluster name")


def run(context: Context, args: argparse.Namespace) -> int:
    host = context.host()
    question = _question(host, args)
    prove_horizon(host, context.cluster)
    archive = open_archive(host, context.cluster, system=args.system)
    view = view_of(archive.catalog, archive.cluster, archive.ledger.state().next_seq)
    pace = _Pace(context, host, archive.segment_size)
    section = host.settings.cluster(host.settings.cluster_name(context.cluster))
    answer = find(
        archive,
        view,
        question,
        dsn=section.dsn,
        workers=host.settings.server.workers,
        progress=pace.report,
    )
    shown = Shown(archive, view, question, answer, host.settings.server.timezone, pace.elapsed_s())
    context.result(shown.text(), shown.members())
    if answer.gap is not None:
        context.failure(FindInGap(answer.gap))
        return FindInGap.exit_status
    return DEGRADED if answer.doubts or answer.omitted else 0


def _question(host: Host, args: argparse.Namespace) -> Question:
    now_us = host.clock.now_us()
    first = _instant(host, args.first, "--from", now_us)
    last = now_us if args.last is None else _instant(host, args.last, "--to", now_us)
    if first > last:
        raise UsageError(
            f"--from {format_rfc3339(first)} is later than --to {format_rfc3339(last)}",
            hint="Give the earlier moment as --from.",
        )
    if args.limit < 1:
        raise UsageError(f"--limit {args.limit} lists nothing")
    relation = None
    if args.relation is not None:
        try:
            relation = RelFile.parse(args.relation)
        except ValueError as error:
            raise UsageError(f"--relation: {error}", hint="For example 1663/16384/16402.") from None
    return Question(
        kinds=_kinds(args.kind),
        from_us=first,
        to_us=last,
        table=args.table,
        relation=relation,
        database=args.database,
        timeline=args.timeline,
        aborted=args.aborted,
        limit=args.limit,
    )


def _kinds(text: str) -> frozenset[Kind]:
    known = {kind.value for kind in Kind if kind is not Kind.UNCLEAR}
    asked = {word.strip().lower() for word in text.split(",") if word.strip()}
    if not asked or asked - known:
        raise UsageError(
            f"--kind {text!r}: {', '.join(sorted(asked - known)) or 'nothing'} is not a kind",
            hint=f"Choose of {', '.join(sorted(known))}.",
        )
    return frozenset(map(Kind, asked))


def _instant(host: Host, text: str, option: str, now_us: int) -> int:
    understood = parse_when(
        text, now_us=now_us, timezone=host.settings.server.timezone, host_timezone=host_timezone()
    )
    if not isinstance(understood.target, AtTime):
        raise UsageError(
            f"{option} {text!r} is not a time", hint="Give a time with its zone, or '2 hours ago'."
        )
    return understood.target.time


class _Pace:
    """Tells a waiting person how far it is."""

    def __init__(self, context: Context, host: Host, segment_bytes: int) -> None:
        self._context = context
        self._clock = host.clock
        self._bytes = segment_bytes
        self._began_s = self._told_s = self._seen_s = self._walk_began_s = host.clock.monotonic_s()
        self._done = self._walk = 0

    def elapsed_s(self) -> float:
        return self._clock.monotonic_s() - self._began_s

    def report(self, done: int, total: int) -> None:
        """So many of so many segments are walked; fewer than before: they are walked once more."""
        now_s = self._clock.monotonic_s()
        if done <= self._done:
            self._walk, self._walk_began_s = self._walk + 1, self._seen_s
        self._done, self._seen_s = done, now_s
        if now_s - self._told_s < PROGRESS_INTERVAL_S:
            return
        self._told_s = now_s
        rate = done * self._bytes / max(now_s - self._walk_began_s, 0.001)
        left_s = (total - done) * self._bytes / rate
        again = " once more, for files met on the way" if self._walk else ""
        self._context.progress(
            f"find: {100 * done // total} %, {done:,} of {total:,} segments{again}, {rate / 1e6:,.0f} MB/s,"
            f" {_duration(left_s)} left"
        )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
    return f"{minutes // 60} h {minutes % 60:02} min"
