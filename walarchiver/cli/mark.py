"""`walarchiver mark NAME`: give this moment a name that can be restored to."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from restore.core.model import AtName
from restore.core.when import parse_when
from walarchiver.assembly import Host
from walarchiver.cli.context import Context
from walarchiver.core.lsn import format_lsn
from walarchiver.errors import ConfigError, TimeNotUnderstood, UsageError
from walarchiver.operate.waiting import open_part, wait_durable
from walarchiver.postgres.operating import Marked, force_switch, mark_moment, system_of

if TYPE_CHECKING:
    from walarchiver.cli.main import Subparsers

DEGRADED = 3
DEFAULT_WAIT_S = 60.0


def register(subparsers: Subparsers) -> None:
    """Add `mark`."""
    parser = subparsers.add_parser("mark", help="give this moment a name to restore to")
    parser.add_argument("name", metavar="NAME", help="at most 63 bytes; `--at name:NAME` finds it")
    parser.add_argument(
        "--wait",
        nargs="?",
        type=float,
        const=DEFAULT_WAIT_S,
        metavar="SECONDS",
        help="complete the segment and wait until the mark is archived (default 60)",
    )


def run(context: Context, args: argparse.Namespace) -> int:
    check_name(args.name)
    host = context.host()
    cluster = host.settings.cluster_name(context.cluster)
    dsn = host.settings.cluster(cluster).dsn
    if dsn is None:
        raise ConfigError(f"cluster {cluster} has no `dsn`, so nothing can be marked in it")
    mark = mark_moment(dsn, args.name)
    segment = mark.segment.name(mark.size)
    archived: dict[str, bool] = {}
    if args.wait is not None:
        archived = _wait(context, host, cluster, mark, dsn, args.wait)
    usable = bool(archived) and all(archived.values())
    text = (
        f"restore point {mark.name!r} is at {format_lsn(mark.lsn)} on timeline {mark.timeline}, "
        f"in {segment}\n" + _usable_text(mark, segment, archived)
    )
    context.result(
        text,
        {
            "name": mark.name,
            "lsn": format_lsn(mark.lsn),
            "timeline": mark.timeline,
            "segment": segment,
            "archived": archived if args.wait is not None else None,
            "usable": usable if args.wait is not None else None,
        },
    )
    return 0 if args.wait is None or usable else DEGRADED


def check_name(name: str) -> None:
    """Refuse what could not be named again with `--at name:`. Raises UsageError."""
    try:
        target = parse_when(f"name:{name}", now_us=0, timezone=None).target
    except TimeNotUnderstood as error:
        raise UsageError(error.message, hint="Give the mark a name of 1 to 63 bytes.") from None
    odd = not name.isprintable() or name != name.strip() or any(c == "\ufffd" for c in name)
    if odd or target != AtName(name):
        raise UsageError(
            f"{name!r} has spaces at an end, or characters that cannot be printed",
            hint="Give the mark a name that can be typed again at three in the morning.",
        )


def _wait(
    context: Context, host: Host, cluster: str, mark: Marked, dsn: str, wait_s: float
) -> dict[str, bool]:
    system = system_of(dsn)
    archives = {
        name: open_part(host, cluster, name, system) for name in host.settings.cluster(cluster).repositories
    }
    force_switch(dsn)
    segment = mark.segment.name(mark.size)
    until_s = host.clock.monotonic_s() + wait_s
    found = {}
    for name, archive in archives.items():
        context.progress(f"mark: waiting until {segment} is durable in repository {name}")

        def waiting(seconds: float, name: str = name) -> None:
            context.progress(f"mark: {segment} is not in {name} yet ({seconds:.0f} s)")

        durable = wait_durable(archive, segment, clock=host.clock, until_s=until_s, waiting=waiting)
        found[name] = durable is not None
    return found


def _usable_text(mark: Marked, segment: str, archived: dict[str, bool]) -> str:
    command = f"`walarchiver restore --at name:{mark.name}`"
    if not archived:
        return f"it can be restored to with {command} once {segment} is archived (`--wait` waits for that)"
    missing = [name for name, done in archived.items() if not done]
    if missing:
        return f"not usable yet: {segment} is not archived in {', '.join(missing)}; is archiving running?"
    return f"it is archived in {', '.join(archived)}: {command}"
