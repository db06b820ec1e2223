"""Times for people: always in UTC, and in the configured zone beside it."""

from __future__ import annotations

from zoneinfo import ZoneInfo

from walarchiver.core.moment import as_datetime


def both_clocks(us: int, timezone: str | None) -> str:
    """`2026-11-22 13:32:06.123456 UTC = 14:32:06 Europe/Berlin`."""
    moment = as_datetime(us)
    text = f"{moment:%Y-%m-%d %H:%M:%S.%f} UTC"
    if timezone is None:
        return text
    local = moment.astimezone(ZoneInfo(timezone))
    date = "" if local.date() == moment.date() else f"{local:%Y-%m-%d} "
    return f"{text} = {date}{local:%H:%M:%S} {timezone}"
