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
    """The directory to restore into is not empty, or a server runs in it; nothing was written."""

    code = "WA-TARGET-DIR"
    hint = "Name a directory that does not exist yet or is empty."


class NotReachable(WalarchiverError):
    """The asked moment cannot be restored."""

    code = "WA-UNREACHABLE"
    exit_status = 13
    hint = "The answer names the nearest moments that can be restored."


class TargetInGap(NotReachable):
    """WAL is missing between every usable base backup and the asked moment."""

    code = "WA-GAP"
    exit_status = 14
