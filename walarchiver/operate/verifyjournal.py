"""Remembers in the state folder what a verification has read well, so that an interrupted one goes on.

Rules:
- One file per repository and system: a header line that says what kind of run it is, then one mark
  (16 hex digits) a line. A torn last line does not count; a file of another kind or too old is begun anew,
  because bytes that were well long ago prove little.
- Only what verified is remembered: damage is looked at again by every run.
- It is a convenience: when the folder cannot be written, nothing is remembered and the run goes on.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

from walarchiver.core.moment import format_rfc3339, parse_rfc3339
from walarchiver.ports import Clock

AGE_US_MAX = 24 * 3600 * 1_000_000
_MARK = re.compile(r"[0-9a-f]{16}")
_FLUSH_EVERY = 64


class Journal:
    """The marks of one run. Not thread-safe."""

    def __init__(self, path: Path | None, *, deep: bool, clock: Clock, restart: bool = False) -> None:
        """`path` None: nothing is remembered. `restart`: what an earlier run left is thrown away."""
        self.began_us = clock.now_us()
        self.done: set[str] = set()
        self.resumed = False
        self._path = path
        self._deep = deep
        self._file: TextIO | None = None
        self._unflushed = 0
        if path is not None and not restart:
            self._read(path, clock.now_us())

    def __enter__(self) -> Self:
        if self._path is not None:
            try:
                self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._file = self._path.open("a" if self.resumed else "w", encoding="ascii")
                if not self.resumed:
                    header = {"began": format_rfc3339(self.began_us), "deep": self._deep}
                    self._file.write(json.dumps(header) + "\n")
                    self._file.flush()
            except OSError:
                self._file = None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def remember(self, mark: str) -> None:
        """An item verified."""
        self.done.add(mark)
        if self._file is None:
            return
        try:
            self._file.write(mark + "\n")
            self._unflushed += 1
            if self._unflushed >= _FLUSH_EVERY:
                self._file.flush()
                self._unflushed = 0
        except OSError:
            self._file = None

    def finish(self) -> None:
        """The run is over: the next one begins anew."""
        if self._path is not None:
            with contextlib.suppress(OSError):
                self._path.unlink()

    def _read(self, path: Path, now_us: int) -> None:
        try:
            header, *lines = path.read_text("ascii").split("\n")
            told = json.loads(header)
            began_us = parse_rfc3339(told["began"])
            fits = told["deep"] == self._deep and 0 <= now_us - began_us <= AGE_US_MAX
        except (OSError, ValueError, KeyError, TypeError):
            return
        if fits:
            self.began_us = began_us
            self.resumed = True
            self.done = {line for line in lines[:-1] if _MARK.fullmatch(line)}
            if lines and lines[-1]:
                _cut(path, len(lines[-1]))


def _cut(path: Path, torn: int) -> None:
    """Remove a torn last line, so that the next mark stands on a line of its own."""
    os.truncate(path, path.stat().st_size - torn)
