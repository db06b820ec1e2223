"""The request is wrong, or the asked moment cannot be had: ask for something else."""

from __future__ import annotations

from walarchiver.errors.base import WalarchiverError


class UsageError(WalarchiverError):
    """The command line or request asks for something that does not exist or does not fit."""

    code = "WA-USAGE"
    exit_status = 2
    hint = "See `walarchiver COMMAND --help`."


class ConfigError(UsageError):
    """The configuration file has faults; all of them are listed and nothing was started."""

    code = "WA-CONFIG"
    hint = "Correct the lines named and run `walarchiver config validate`."


class UnknownCode(UsageError):
    """`walarchiver explain` was asked about a code that no release ever printed."""

    code = "WA-UNKNOWN-CODE"
    hint = "Run `walarchiver explain` without a code for the list."


class TimeNotUnderstood(UsageError):
    """The text after --at cannot be read as exactly one instant or position."""

    code = "WA-WHEN"
    hint = (
        "Write a time with its zone, for example 2026-11-22T14:32:06Z or '2026-11-22 14:32:06 Europe/Berlin'."
    )


class TimeWithoutZone(TimeNotUnderstood):
    """A time without a zone means different instants on different machines, so it is refused."""

    code = "WA-WHEN-ZONE"
    hint = "Add Z or a zone name to the time, or set `timezone` in the [server] section."


class TimeAmbiguous(TimeNotUnderstood):
    """This local time happened twice or never, because the clocks were changed in that hour."""

    code = "WA-WHEN-DST"
    hint = "Write the time in UTC, or with its numeric offset."


class TimeInFuture(TimeNotUnderstood):
    """The asked moment has not happened yet."""

    code = "WA-WHEN-FUTURE"
    hint = "Use --at latest for the newest restorable state."


class TargetDirectoryInUse(UsageError):
    """The directory to restore into is not empty; nothing was written."""

    code = "WA-TARGET-DIR"
    hint = "Name a directory that does not exist yet or is empty."


class ServerInTarget(TargetDirectoryInUse):
    """A PostgreSQL server runs in the directory to restore into, or crashed there; nothing was written."""

    code = "WA-TARGET-SERVER"
    hint = "Name another directory. Is this the cluster in production?"


class NotReachable(WalarchiverError):
    """The asked moment cannot be restored."""

    code = "WA-UNREACHABLE"
    exit_status = 13
    hint = "The answer names the nearest moments that can be restored."


class TargetInGap(NotReachable):
    """WAL is missing between every usable base backup and the asked moment."""

    code = "WA-GAP"
    exit_status = 14


class BeforeFirstBackup(NotReachable):
    """The asked moment lies before the end of the first usable base backup."""

    code = "WA-BEFORE-BACKUP"
    hint = "Ask for the earliest moment that the answer names, or a later one: nothing older is kept."


class NotProven(NotReachable):
    """The asked moment lies behind the newest one that is proven to be archived."""

    code = "WA-NOT-PROVEN"
    hint = (
        "Ask for the moment that the answer names, or for latest. To get further, let the segment in use be "
        "archived (`walarchiver check` switches it) and ask again on the host that archives."
    )


class WrongBranch(NotReachable):
    """The asked moment is not part of the asked timeline's history, or there is no such timeline."""

    code = "WA-BRANCH"
    hint = "Name the timeline that it is on with --timeline N; `walarchiver timeline` shows the forks."


class UnknownTarget(NotReachable):
    """No transaction or restore point of that name lies in what can be restored."""

    code = "WA-UNKNOWN-TARGET"
    hint = "Is it written correctly, and was it in this cluster? Ask for a time or an LSN instead."


class SeveralTargets(NotReachable):
    """Several restore points have the asked name."""

    code = "WA-SEVERAL-TARGETS"
    hint = "Choose one of those that the answer lists, by --at lsn:...."
