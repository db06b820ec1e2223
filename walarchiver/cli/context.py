"""What every command gets: the global options, and where results, progress and errors go.

Rules:
- stdout is the result and nothing else; stderr is progress, hints and errors.
- JSON carries `schema_version` and is one document, ended by a line end.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from walarchiver.errors import WalarchiverError
from walarchiver.settings import Settings, config_path, load_settings

if TYPE_CHECKING:
    from walarchiver.assembly import Host

SCHEMA_VERSION = 1


class Output(StrEnum):
    """The form of results and errors."""

    TEXT = "text"
    JSON = "json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """The global options of one call, and the streams."""

    config: Path
    cluster: str | None = None
    output: Output = Output.TEXT
    quiet: bool = False
    color: bool = False
    stdout: TextIO
    stderr: TextIO

    @classmethod
    def plain(cls) -> Context:
        """Text on the process's own streams, with the default configuration file."""
        return cls(config=config_path(None), stdout=sys.stdout, stderr=sys.stderr)

    def settings(self) -> Settings:
        """The configuration. Raises ConfigError with every fault in it."""
        return load_settings(self.config)

    def host(self) -> Host:
        """What a command works with; a person waits for it. Raises ConfigError."""
        from walarchiver.assembly import Host  # `--help` and `explain` do without
        from walarchiver.storage.retry import INTERACTIVE

        said: set[str] = set()

        def warn(line: str) -> None:
            if line not in said:  # every part that meets it tells of it
                said.add(line)
                self.warning(line)

        return replace(Host.here(self.settings()), patience=INTERACTIVE, say=self.progress, warn=warn)

    def result(self, text: str, members: Mapping[str, object]) -> None:
        """The answer: `text` for people, or `members` (with `schema_version`) for machines."""
        if self.output is Output.JSON:
            document = {"schema_version": SCHEMA_VERSION, **members}
            text = json.dumps(document, indent=2, ensure_ascii=False)
        print(text, file=self.stdout, end="" if text.endswith("\n") else "\n", flush=True)

    def progress(self, line: str) -> None:
        """Something a waiting person wants to know; --quiet drops it."""
        if not self.quiet:
            print(line, file=self.stderr, flush=True)

    def warning(self, line: str) -> None:
        """Something that did not keep the command from going on; --quiet does not drop it."""
        print(f"warning: {line}", file=self.stderr, flush=True)

    def failure(self, error: WalarchiverError) -> None:
        """What went wrong, and the next step."""
        if self.output is Output.JSON:
            said = {"code": error.code, "message": error.message, "hint": error.next_step}
            print(json.dumps({"schema_version": SCHEMA_VERSION, "error": said}), file=self.stderr, flush=True)
            return
        mark = f"\x1b[31merror[{error.code}]\x1b[0m" if self.color else f"error[{error.code}]"
        print(f"{mark}: {error.message}\nhint: {error.next_step}", file=self.stderr, flush=True)
