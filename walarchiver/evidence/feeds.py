"""Messages that lie in files of JSON lines: imports, tests, and queues that others read.

Rules:
- What was taken and is not said to be done, or put aside, comes again with the next opening.
- In a folder, files `*.jsonl` are read in the order of their names; a file whose lines are all done is moved
  into `done/`, and lines that were put aside stand, with the reason, in `aside/`. Write a file under another
  name and rename it when it is complete.
- A single file, named as such, is read once and stays where it is; its lines that were put aside stand beside
  it in `NAME.aside`.
- A line is a message's text, or an object with it as `Body`, as SQS hands it over.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from walarchiver.bucketports import FeedMessage
from walarchiver.errors import StoreUnavailable

_LINE_BYTES_MAX = 1 << 20


class FolderFeed:
    """A folder of files with JSON lines, or one such file."""

    def __init__(self, place: Path) -> None:
        self._single = place if place.is_file() else None
        self._folder = place.parent if self._single is not None else place
        self._read: set[str] = set()
        self._open: dict[str, set[int]] = {}
        """Lines of each file that were taken and are not done."""

    @property
    def name(self) -> str:
        return f"file://{self._single or self._folder}"

    def take(self) -> tuple[FeedMessage, ...]:
        try:
            found = [self._single] if self._single is not None else sorted(self._folder.glob("*.jsonl"))
            for path in found:
                if path.name in self._read:
                    continue
                self._read.add(path.name)
                with path.open(encoding="utf-8", errors="surrogateescape", newline="\n") as file:
                    lines = [line.strip() for line in file]
                self._open[path.name] = {number for number, line in enumerate(lines) if line}
                if not self._open[path.name]:
                    self._leave(path.name)
                    continue
                return tuple(
                    FeedMessage(f"{number}:{path.name}", _body(line))
                    for number, line in enumerate(lines)
                    if line
                )
        except OSError as failure:
            raise StoreUnavailable(f"{self.name}: {failure.strerror}") from failure
        return ()

    def done(self, messages: Iterable[FeedMessage]) -> None:
        for message in messages:
            number, _, name = message.handle.partition(":")
            waiting = self._open.get(name)
            if waiting is not None:
                waiting.discard(int(number))
                if not waiting:
                    self._leave(name)

    def put_aside(self, message: FeedMessage, reason: str) -> None:
        name = message.handle.partition(":")[2]
        try:
            aside = self._folder / "aside" / name
            if self._single is not None:
                aside = self._single.with_name(name + ".aside")
            aside.parent.mkdir(exist_ok=True)
            with aside.open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(json.dumps({"reason": reason, "Body": message.text}) + "\n")
        except OSError as failure:
            raise StoreUnavailable(f"{self.name}: {failure.strerror}") from failure
        self.done([message])

    def kept_ms(self) -> int | None:
        return None

    def close(self) -> None:
        pass

    def _leave(self, name: str) -> None:
        del self._open[name]
        if self._single is not None:
            return
        try:
            done = self._folder / "done"
            done.mkdir(exist_ok=True)
            (self._folder / name).replace(done / name)
        except OSError as failure:
            raise StoreUnavailable(f"{self.name}: {failure.strerror}") from failure


def _body(line: str) -> str:
    """The message's text: the line, or its `Body`."""
    if len(line) <= _LINE_BYTES_MAX and line.startswith("{"):
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            return line
        if isinstance(found, dict) and isinstance(found.get("Body"), str):
            return str(found["Body"])
    return line
