"""Structured logs on stderr: one event a line, as key=value text or as JSON.

Rules:
- An event is a short fixed text; everything that varies is a field, so logs can be counted.
- A field whose name speaks of a secret is masked, whatever its value.
- One line per event: line ends inside values are escaped. A failing stderr never fails the work.
- The time comes from the clock that `configure_logging` was given.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from dataclasses import dataclass
from enum import StrEnum
from typing import TextIO

from walarchiver.core.moment import format_rfc3339
from walarchiver.ports import Clock

_ROOT = "walarchiver"
_SECRET = re.compile(
    r"password|passwd|secret|token|seed|private|credential|signing_key|master_key", re.IGNORECASE
)
_PLAIN = re.compile(r"[A-Za-z0-9_./:@+,%-]+")


class LogFormat(StrEnum):
    """How a log line is written."""

    TEXT = "text"
    JSON = "json"


@dataclass(frozen=True, slots=True)
class Log:
    """Where one part of the program reports; get one with `get_log`."""

    _logger: logging.Logger

    def debug(self, event: str, **fields: object) -> None:
        self._write(logging.DEBUG, event, fields)

    def info(self, event: str, **fields: object) -> None:
        self._write(logging.INFO, event, fields)

    def warning(self, event: str, **fields: object) -> None:
        self._write(logging.WARNING, event, fields)

    def error(self, event: str, **fields: object) -> None:
        self._write(logging.ERROR, event, fields)

    def bug(self, event: str, error: BaseException, **fields: object) -> None:
        """An exception nobody foresaw, with its traceback."""
        self._logger.error(
            event,
            extra={"fields": fields},
            exc_info=(type(error), error, error.__traceback__),
        )

    def _write(self, level: int, event: str, fields: dict[str, object]) -> None:
        self._logger.log(level, event, extra={"fields": fields})


def get_log(part: str) -> Log:
    """The log of one part, for example `get_log("archiver")`."""
    return Log(logging.getLogger(f"{_ROOT}.{part}"))


def configure_logging(
    clock: Clock, *, level: str = "info", form: LogFormat = LogFormat.TEXT, stream: TextIO | None = None
) -> None:
    """Send every walarchiver log line from `level` up to `stream` (stderr); replaces an earlier choice."""
    handler = logging.StreamHandler(stream if stream is not None else sys.stderr)
    handler.setFormatter(_Lines(clock, form))
    logger = logging.getLogger(_ROOT)
    logger.handlers[:] = [handler]
    logger.setLevel(level.upper())
    logger.propagate = False
    logging.raiseExceptions = False


class _Lines(logging.Formatter):
    """Turns one record into one line."""

    def __init__(self, clock: Clock, form: LogFormat) -> None:
        super().__init__()
        self._clock = clock
        self._form = form

    def format(self, record: logging.LogRecord) -> str:
        members: dict[str, object] = {
            "time": format_rfc3339(self._clock.now_us()),
            "level": record.levelname.lower(),
            "part": record.name.removeprefix(f"{_ROOT}."),
            "event": record.getMessage(),
        }
        fields = getattr(record, "fields", {})
        if isinstance(fields, dict):
            for name, value in fields.items():
                members[name] = "***" if _SECRET.search(name) else value
        if record.exc_info is not None and record.exc_info[0] is not None:
            members["traceback"] = self.formatException(record.exc_info)
        if self._form is LogFormat.JSON:
            return json.dumps(members, default=str)
        return " ".join(f"{name}={_text(value)}" for name, value in members.items())


def _text(value: object) -> str:
    text = str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text)
