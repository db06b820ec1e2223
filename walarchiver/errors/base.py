"""The root of the tree: what every failure says."""

from __future__ import annotations

from typing import ClassVar


class WalarchiverError(Exception):
    """Something went wrong that the user should know about."""

    code: ClassVar[str] = "WA-ERROR"
    exit_status: ClassVar[int] = 1
    hint: ClassVar[str] = "Look at the log of `walarchiver serve` for the lines before this one."

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.next_step = hint if hint is not None else type(self).hint
