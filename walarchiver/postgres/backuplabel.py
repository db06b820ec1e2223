"""backup_label and tablespace_map, the two small files that PostgreSQL adds to a base backup.

Sources: PostgreSQL src/backend/access/transam/xlogbackup.c (build_backup_content) and xlog.c
(do_pg_backup_start: in tablespace_map a backslash stands before every line end and backslash
of a path).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from walarchiver.core.lsn import Lsn, parse_lsn
from walarchiver.errors import MalformedObject

_START = re.compile(r"^START WAL LOCATION: ([0-9A-F]+/[0-9A-F]+) \(file [0-9A-F]{24}\)$", re.MULTILINE)
_CHECKPOINT = re.compile(r"^CHECKPOINT LOCATION: ([0-9A-F]+/[0-9A-F]+)$", re.MULTILINE)
_TIMELINE = re.compile(r"^START TIMELINE: (\d+)$", re.MULTILINE)
_FROM = re.compile(r"^BACKUP FROM: (\w+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class BackupLabel:
    """Where recovery from the backup begins."""

    start_lsn: Lsn
    """Redo position: the first WAL that is read."""
    checkpoint_lsn: Lsn
    timeline: int
    from_standby: bool

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises MalformedObject when a line is missing."""
        start, checkpoint = _START.search(text), _CHECKPOINT.search(text)
        timeline, source = _TIMELINE.search(text), _FROM.search(text)
        if start is None or checkpoint is None or timeline is None or source is None:
            raise MalformedObject(f"backup_label is not complete: {text!r}")
        return cls(parse_lsn(start[1]), parse_lsn(checkpoint[1]), int(timeline[1]), source[1] == "standby")


def parse_tablespace_map(content: bytes) -> dict[int, str]:
    """Tablespace locations by OID. Raises MalformedObject."""
    found: dict[int, str] = {}
    text = content.decode("utf-8", "surrogateescape")
    for line in re.findall(r"(?:[^\\\n\r]|\\[\s\S])+", text):
        oid, space, path = line.partition(" ")
        if not (oid.isdecimal() and oid.isascii() and space and path):
            raise MalformedObject(f"tablespace_map has the line {line!r}")
        found[int(oid)] = re.sub(r"\\([\s\S])", r"\1", path)
    return found


def tablespace_map_content(locations: Mapping[int, str]) -> bytes:
    """The inverse of `parse_tablespace_map`."""
    lines = (f"{oid} " + re.sub(r"([\n\r\\])", r"\\\1", path) + "\n" for oid, path in locations.items())
    return "".join(lines).encode("utf-8", "surrogateescape")
