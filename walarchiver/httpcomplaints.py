"""What the HTTP library complains about, as log lines of ours.

Rules:
- Bytes that are no HTTP request are a caller's fault: one warning without a traceback, and at most one in
  `PAUSE_S`; the next one tells how many were left out. So a hostile caller fills no disk.
- Everything else that the library reports is a bug of ours, with its traceback.
"""

from __future__ import annotations

import logging
from typing import Final

from walarchiver.log import Log
from walarchiver.ports import Clock

PAUSE_S: Final = 10.0
_REASON_LENGTH_MAX = 200


class HttpComplaints(logging.Handler):
    """Give `logger` to the library."""

    def __init__(self, log: Log, clock: Clock, malformed: type[BaseException]) -> None:
        """`malformed`: the library's exception for a request that cannot be parsed."""
        super().__init__(logging.WARNING)
        self._log = log
        self._clock = clock
        self._malformed = malformed
        self._said_s: float | None = None
        self._left_out = 0
        self.logger: Final = logging.Logger("http", logging.WARNING)  # noqa: LOG001  nobody else's
        self.logger.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Take one complaint."""
        error = record.exc_info[1] if record.exc_info else None
        if not isinstance(error, self._malformed):
            if error is None:
                self._log.error("http", message=record.getMessage())
            else:
                self._log.bug("unforeseen error in http", error, message=record.getMessage())
            return
        now_s = self._clock.monotonic_s()
        if self._said_s is not None and now_s - self._said_s < PAUSE_S:
            self._left_out += 1
            return
        reason = " ".join(str(error).split())[:_REASON_LENGTH_MAX]
        self._log.warning("malformed request", reason=reason, left_out=self._left_out)
        self._said_s, self._left_out = now_s, 0
