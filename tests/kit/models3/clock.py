"""The model's clock: it stands still until it is told to move, unless it was made to run.

Rules:
- Milliseconds since 1970 UTC. It may be set back: servers' clocks are.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
DAY_MS = 86_400_000


def at(text: str) -> int:
    """Milliseconds of an RFC 3339 time with a zone: `at("2026-03-01T12:00:00Z")`."""
    moment = datetime.fromisoformat(text)
    assert moment.tzinfo is not None, "a time without a zone"
    return (moment - _EPOCH) // timedelta(milliseconds=1)


def rfc3339(ms: int) -> str:
    """As S3 writes times in XML: milliseconds and Z."""
    moment = _EPOCH + timedelta(milliseconds=ms)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{ms % 1000:03d}Z"


def http_date(ms: int) -> str:
    """As HTTP headers write times: whole seconds, GMT."""
    return format_datetime(_EPOCH + timedelta(seconds=ms // 1000), usegmt=True)


def floored(ms: int) -> int:
    """The start of its second."""
    return ms - ms % 1000


def next_midnight(ms: int) -> int:
    """The first midnight UTC at or after `ms`."""
    return -(-ms // DAY_MS) * DAY_MS


class ModelClock:
    """See the module. A `running` one goes on by itself from where it was set."""

    def __init__(self, start: str = "2026-03-02T10:00:00Z", *, running: bool = False) -> None:
        self.running = running
        self.now_ms = at(start)

    @property
    def now_ms(self) -> int:
        return self._set_ms + (round((time.monotonic() - self._set_at_s) * 1000) if self.running else 0)

    @now_ms.setter
    def now_ms(self, ms: int) -> None:
        self._set_ms, self._set_at_s = ms, time.monotonic()

    def step(self, *, seconds: float = 0, hours: float = 0, days: float = 0) -> int:
        """Move on (or back) and return the new time."""
        self.now_ms += round((seconds + hours * 3600 + days * 86_400) * 1000)
        return self.now_ms

    def set(self, text: str) -> int:
        """Go to an RFC 3339 time."""
        self.now_ms = at(text)
        return self.now_ms
