"""Instants, exact to the microsecond, as integers since 1970-01-01 UTC.

Two clocks meet in this product and must never be mixed: the database server's (`CommitTime`)
and the object store's (`StoreTime`). They are two types; converting needs the skew.

PostgreSQL counts microseconds since 2000-01-01 UTC (src/include/datatype/timestamp.h).
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import NewType

CommitTime = NewType("CommitTime", int)
"""Microseconds since 1970-01-01 UTC on the database server's clock."""

StoreTime = NewType("StoreTime", int)
"""Microseconds since 1970-01-01 UTC on the object store's clock."""

POSTGRES_EPOCH_US = 946_684_800_000_000
"""2000-01-01 UTC, in microseconds since 1970."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_RFC3339 = re.compile(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d\.\d{6})Z")


def micros(moment: datetime) -> int:
    """Microseconds since 1970 of an aware datetime, exact (no floats)."""
    if moment.tzinfo is None:
        raise ValueError("naive datetime")
    return (moment - _EPOCH) // timedelta(microseconds=1)


def as_datetime(us: int) -> datetime:
    """The aware UTC datetime of a count of microseconds since 1970."""
    return _EPOCH + timedelta(microseconds=us)


def format_rfc3339(us: int) -> str:
    """`2026-11-22T14:32:06.000000Z`: always UTC, always six digits, so text order is time order."""
    return as_datetime(us).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def parse_rfc3339(text: str) -> int:
    """Inverse of `format_rfc3339`; accepts only that one form. Raises ValueError."""
    if _RFC3339.fullmatch(text) is None:
        raise ValueError(f"{text!r} is not of the form 2026-11-22T14:32:06.000000Z")
    return micros(datetime.fromisoformat(f"{text[:-1]}+00:00"))


def format_postgres(us: int) -> str:
    """`2026-11-22 14:32:06.000000+00`, the form written into recovery settings and comments."""
    return as_datetime(us).strftime("%Y-%m-%d %H:%M:%S.%f+00")
