"""Reads what a person writes after `--at` as exactly one instant or WAL position, or refuses.

Rules (the grammar is WHEN in `walarchiver plan --help`):
- A time has a zone: `Z`, a numeric offset, an IANA name (`Europe/Berlin`) or UTC. Without one it
  is refused and both readings are shown, unless the caller passes a configured `timezone`.
- A local time that happened twice or never (clocks changed) is refused with the two instants.
- Nothing is guessed: year first, no slashes, no month names, no zone abbreviations but UTC and
  GMT, no 24:00, no 60th second, nothing finer than a microsecond, nothing in the future.
- Zone rules come from the IANA database (RFC 9557 and RFC 3339 for the written forms).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from restore.core.model import AtLatest, AtLsn, AtName, AtTime, AtXid, Target
from walarchiver.core.lsn import Lsn, format_lsn, parse_lsn
from walarchiver.core.moment import CommitTime, as_datetime, format_rfc3339, micros
from walarchiver.errors import TimeAmbiguous, TimeInFuture, TimeNotUnderstood, TimeWithoutZone, UsageError

_STAMP = re.compile(
    r"(?P<date>\d{4}-\d\d-\d\d)(?:[Tt]| +)(?P<clock>\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?)"
    r"(?: *(?P<offset>[Zz]|[+-]\d\d(?::?\d\d)?)| +(?P<zone>[A-Za-z]\S*))?"
)
_DAY = re.compile(
    r"(?P<day>today|yesterday) +(?P<clock>\d\d?:\d\d(?::\d\d(?:\.\d+)?)?)(?: +(?P<zone>\S+))?", re.IGNORECASE
)
_AGO = re.compile(r"(?P<count>\d{1,9}) *(?P<unit>[a-z]+) +ago", re.IGNORECASE)
_CLOCK = re.compile(r"(\d\d?):(\d\d)(?::(\d\d)(?:[.,](\d+))?)?")
_MONTH = r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?"
_YEAR_NOT_FIRST = re.compile(
    rf"\d{{1,2}}[-.]\d{{1,2}}[-.]\d{{2,4}}|{_MONTH} +\d{{1,2}}\b|\d{{1,2}}\.? +{_MONTH} +\d{{4}}",
    re.IGNORECASE,
)
_UNITS_S = {
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), 1),
    **dict.fromkeys(("min", "mins", "minute", "minutes"), 60),
    **dict.fromkeys(("h", "hour", "hours"), 3600),
    **dict.fromkeys(("d", "day", "days"), 86_400),
}
_FIRST_NORMAL_XID = 3
"""0 invalid, 1 bootstrap, 2 frozen (PostgreSQL src/include/access/transam.h)."""
_NAME_BYTES_MAX = 63
"""MAXFNAMELEN - 1 (PostgreSQL src/include/access/xlog_internal.h, xl_restore_point)."""
_MAX_OFFSET = timedelta(hours=15, minutes=59)
"""PostgreSQL accepts no larger displacement (src/include/datatype/timestamp.h, MAX_TZDISP_HOUR)."""


@dataclass(frozen=True, slots=True)
class Understood:
    """What was understood; the answer always shows it. `utc`, `local` are None unless it is a time."""

    target: Target
    utc: str | None = None
    """RFC 3339, UTC, six digits."""
    local: str | None = None
    """The same instant on the wall clock of the zone that was given, configured, or of this host."""

    @property
    def text(self) -> str:
        """One line for people."""
        if self.utc is None:
            return describe_target(self.target)
        return self.utc if self.local is None else f"{self.utc} ({self.local})"


def parse_when(text: str, *, now_us: int, timezone: str | None, host_timezone: str = "UTC") -> Understood:
    """The one instant or position that `text` means.

    `now_us`: microseconds since 1970, for the relative forms and to refuse the future. `timezone`:
    the configured zone for times without one. `host_timezone`: only to show what an unzoned time
    could have meant here. Raises TimeNotUnderstood, TimeWithoutZone, TimeAmbiguous, TimeInFuture;
    UsageError when a configured zone does not exist.
    """
    configured = None if timezone is None else _configured_zone(timezone)
    shown = configured or _configured_zone(host_timezone)
    if position := _position(text):
        return Understood(position)
    words = text.strip()
    if match := _AGO.fullmatch(words):
        return _understood(_ago(match, now_us), shown, now_us, text)
    if match := _DAY.fullmatch(words):
        return _relative_day(match, text, configured, now_us, host_timezone)
    if match := _STAMP.fullmatch(words):
        return _stamp(match, text, configured, shown, now_us, host_timezone)
    raise _not_understood(words)


def describe_target(target: Target) -> str:
    """`target` in the words of the grammar; `parse_when` reads it back to the same target."""
    match target:
        case AtTime(time):
            return format_rfc3339(time)
        case AtLsn(lsn):
            return f"lsn:{format_lsn(lsn)}"
        case AtXid(xid, before):
            return f"{'before-' if before else ''}xid:{xid}"
        case AtName(name):
            return f"name:{name}"
        case AtLatest():
            return "latest"


# --- positions -----------------------------------------------------------------------------------


def _position(text: str) -> Target | None:
    """The target of `latest`, `lsn:`, `xid:`, `before-xid:` and `name:`; None for anything else."""
    words = text.strip()
    if words.lower() == "latest":
        return AtLatest()
    kind, colon, value = text.lstrip().partition(":")
    if not colon:
        return None
    match kind.lower():
        case "lsn":
            return AtLsn(_lsn(value.strip()))
        case "xid":
            return AtXid(_xid(value.strip()))
        case "before-xid":
            return AtXid(_xid(value.strip()), before=True)
        case "name":
            return AtName(_name(value))
        case _:
            return None


def _lsn(value: str) -> Lsn:
    try:
        return parse_lsn(value)
    except UsageError as error:
        raise TimeNotUnderstood(error.message, hint=error.next_step) from None


def _xid(value: str) -> int:
    """The 32-bit xid; of a 64-bit one (`pg_current_xact_id()`) the low half, as PostgreSQL does."""
    if re.fullmatch(r"\d{1,20}", value, re.ASCII) is None or int(value) >= 2**64:
        raise TimeNotUnderstood(f"{value!r} is not a transaction id", hint="Write it as in xid:739.")
    xid = int(value) & 0xFFFFFFFF
    if xid < _FIRST_NORMAL_XID:
        raise TimeNotUnderstood(
            f"transaction id {xid} is reserved by PostgreSQL and never ends", hint="Ids begin at 3."
        )
    return xid


def _name(value: str) -> str:
    if not value.strip() or "\0" in value or len(value.encode()) > _NAME_BYTES_MAX:
        raise TimeNotUnderstood(
            f"{value!r} cannot be the name of a restore point", hint="Names have 1 to 63 bytes."
        )
    return value


# --- times ---------------------------------------------------------------------------------------


def _understood(us: int, shown: tzinfo, now_us: int, text: str) -> Understood:
    if us > now_us:
        raise TimeInFuture(
            f"{text.strip()!r} is {format_rfc3339(us)}, which has not happened yet "
            f"(it is now {format_rfc3339(now_us)})"
        )
    if us < 0:
        raise TimeNotUnderstood(f"{text.strip()!r} lies before 1970")
    return Understood(AtTime(CommitTime(us)), format_rfc3339(us), _on_wall_clock(us, shown))


def _ago(match: re.Match[str], now_us: int) -> int:
    unit_s = _UNITS_S.get(match["unit"].lower())
    if unit_s is None:
        raise TimeNotUnderstood(
            f"{match['unit']!r} is not a unit of time here",
            hint="Use seconds, minutes, hours or days (of 24 hours), for example '10 minutes ago'.",
        )
    return now_us - int(match["count"]) * unit_s * 1_000_000


def _relative_day(
    match: re.Match[str], text: str, configured: tzinfo | None, now_us: int, host_timezone: str
) -> Understood:
    zone = _named_zone(match["zone"], text) if match["zone"] else configured
    if zone is None:
        raise _without_zone(text, lambda reading: _day(match, reading, now_us, text), host_timezone)
    return _understood(_day(match, zone, now_us, text), zone, now_us, text)


def _day(match: re.Match[str], zone: tzinfo, now_us: int, text: str) -> int:
    today = as_datetime(now_us).astimezone(zone).date()
    day = today if match["day"].lower() == "today" else today - timedelta(days=1)
    return _instant(_clock(match["clock"], day, text), zone, text)


def _stamp(
    match: re.Match[str], text: str, configured: tzinfo | None, shown: tzinfo, now_us: int, host_timezone: str
) -> Understood:
    try:
        day = date.fromisoformat(match["date"])
    except ValueError:
        raise TimeNotUnderstood(f"{match['date']!r} is not a day of the calendar") from None
    if not 1970 <= day.year <= 2999:
        raise TimeNotUnderstood(f"the year of {match['date']!r} lies outside 1970 to 2999")
    naive = _clock(match["clock"], day, text)
    if match["offset"]:
        fixed = _offset(match["offset"], text)
        return _understood(micros(naive.replace(tzinfo=fixed)), shown, now_us, text)
    zone = _named_zone(match["zone"], text) if match["zone"] else configured
    if zone is None:
        raise _without_zone(text, lambda reading: _instant(naive, reading, text), host_timezone)
    return _understood(_instant(naive, zone, text), zone, now_us, text)


def _clock(clock: str, day: date, text: str) -> datetime:
    """The naive local time; refuses what a clock does not show. (No tzinfo yet on purpose.)"""
    match = _CLOCK.fullmatch(clock)
    assert match is not None, "the outer patterns contain this one"
    hour, minute, second = (int(part or 0) for part in match.group(1, 2, 3))
    fraction = match[4] or ""
    if second == 60:
        raise TimeNotUnderstood(
            f"{text.strip()!r} names a 60th second, which PostgreSQL's clock does not have",
            hint="Write second 59 or the next minute.",
        )
    if hour == 24:
        raise TimeNotUnderstood(f"{text.strip()!r} has hour 24", hint="Write 00:00 of the next day.")
    if hour > 23 or minute > 59 or second > 59:
        raise TimeNotUnderstood(f"{clock!r} is not a time of day")
    if len(fraction) > 6:
        raise TimeNotUnderstood(
            f"{text.strip()!r} is finer than a microsecond, the resolution of commit times",
            hint="Write at most six digits after the point.",
        )
    microsecond = int(fraction.ljust(6, "0"))
    return datetime(day.year, day.month, day.day, hour, minute, second, microsecond)  # noqa: DTZ001


def _offset(offset: str, text: str) -> timezone:
    if offset in "Zz":
        return UTC
    digits = offset[1:].replace(":", "").ljust(4, "0")
    size = timedelta(hours=int(digits[:2]), minutes=int(digits[2:]))
    if int(digits[2:]) > 59 or size > _MAX_OFFSET:
        raise TimeNotUnderstood(f"{text.strip()!r}: {offset} is not an offset from UTC")
    return timezone(-size if offset[0] == "-" else size)


def _named_zone(name: str, text: str) -> tzinfo:
    """The zone of an IANA name; abbreviations are refused, since several zones share most of them."""
    if name.upper() in ("UTC", "GMT", "Z"):
        return UTC
    zone = _zone(name) if "/" in name else None
    if zone is None:
        raise TimeNotUnderstood(
            f"{text.strip()!r}: {name!r} is not a zone",
            hint="Name the zone by area and city, as in Europe/Berlin, or give the offset.",
        )
    return zone


def _configured_zone(name: str) -> tzinfo:
    zone = UTC if name.upper() == "UTC" else _zone(name)
    if zone is None:
        raise UsageError(
            f"there is no time zone {name!r}", hint="Name the zone by area and city, as in Europe/Berlin."
        )
    return zone


def _zone(name: str) -> tzinfo | None:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        # ValueError: not a relative path; OSError: a directory of the database, such as Europe
        return None


def _instant(naive: datetime, zone: tzinfo, text: str) -> int:
    """The instant when clocks in `zone` showed `naive`. Raises TimeAmbiguous for two or none."""
    earlier, later = sorted(micros(naive.replace(tzinfo=zone, fold=fold)) for fold in (0, 1))
    if earlier == later:
        return earlier
    both = f"{format_rfc3339(earlier)} and {format_rfc3339(later)}"
    shown = as_datetime(earlier).astimezone(zone).replace(tzinfo=None)
    if shown == naive:
        raise TimeAmbiguous(f"{text.strip()!r} happened twice, when clocks went back: it is both {both}")
    raise TimeAmbiguous(
        f"{text.strip()!r} never happened, clocks were put forward over it: it would be {both}"
    )


def _on_wall_clock(us: int, zone: tzinfo) -> str:
    moment = as_datetime(us).astimezone(zone)
    name = zone.key if isinstance(zone, ZoneInfo) else "UTC"
    offset = moment.strftime("%z")
    return f"{moment.strftime('%Y-%m-%d %H:%M:%S.%f')}{offset[:3]}:{offset[3:5]} {name}"


# --- refusals ------------------------------------------------------------------------------------


def _without_zone(text: str, read: Callable[[tzinfo], int], host_timezone: str) -> TimeWithoutZone:
    """The refusal of an unzoned time, showing what it could mean."""
    readings = [_reading("in UTC", UTC, read)]
    host = _configured_zone(host_timezone)
    if host is not UTC:
        readings.append(_reading(f"in {host_timezone}", host, read))
    return TimeWithoutZone(f"{text.strip()!r} has no zone: {', '.join(readings)}")


def _reading(label: str, zone: tzinfo, read: Callable[[tzinfo], int]) -> str:
    try:
        return f"{label} it is {format_rfc3339(read(zone))}"
    except TimeAmbiguous as error:
        return f"{label} it does not name one instant ({error.message})"


def _not_understood(words: str) -> TimeNotUnderstood:
    """The refusal of anything else, with the likely cause where there is one."""
    if re.search(r"\d{1,4}/\d{1,2}/\d{1,4}", words):
        return TimeNotUnderstood(
            f"{words!r}: dates with slashes are not read, since day and month cannot be told apart",
            hint="Write year-month-day, as in 2026-11-22T14:32:06Z.",
        )
    if _YEAR_NOT_FIRST.match(words):
        return TimeNotUnderstood(
            f"{words!r}: the year does not come first, so day and month cannot be told apart",
            hint="Write year-month-day, as in 2026-11-22T14:32:06Z.",
        )
    if re.fullmatch(r"\d{4}-\d\d-\d\d", words):
        return TimeNotUnderstood(
            f"{words!r} is a day, not a moment", hint="Add the time of day and its zone."
        )
    return TimeNotUnderstood(f"{words!r} is not a moment or position that can be restored to")
