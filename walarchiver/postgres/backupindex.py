"""The `index` part of a base backup: where each file lies in the tar streams.

With it any part can be unpacked by itself, so parts are fetched and written side by side.
JSON, one object: `{"v": 1, "streams": [{"number", "oid", "path", "size", "members"}]}`, and a member
is `[path, type, mode, header offset, size]` for files (`f`), `[path, "d", mode, header offset]` for
directories, `[path, "l", mode, header offset, link]` for symbolic links. The content of a file
begins 512 bytes after its header.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from walarchiver.errors import MalformedObject
from walarchiver.postgres.tarstream import MemberKind, TarMember

_VERSION = 1


@dataclass(frozen=True, slots=True)
class TablespaceStream:
    """One tar stream of a backup: the data directory's, or that of a tablespace."""

    number: int
    """0, 1, ... in the order of arrival; the data directory comes last."""
    oid: int
    """0 for the data directory."""
    path: str | None
    """Original location; None for the data directory. A relative one lies inside it."""


@dataclass(frozen=True, slots=True)
class StreamIndex:
    """A stream with its members in stream order."""

    stream: TablespaceStream
    size: int
    members: tuple[TarMember, ...]


@dataclass(frozen=True, slots=True)
class BackupIndex:
    streams: tuple[StreamIndex, ...]

    def stream(self, number: int) -> StreamIndex:
        """Raises MalformedObject when the backup has no such stream."""
        for found in self.streams:
            if found.stream.number == number:
                return found
        raise MalformedObject(f"the backup's index has no stream {number}")


def index_bytes(index: BackupIndex) -> bytes:
    """The part's plain bytes; `parse_index` is the inverse."""
    streams = [
        {
            "number": one.stream.number,
            "oid": one.stream.oid,
            "path": one.stream.path,
            "size": one.size,
            "members": [_member_to_json(member) for member in one.members],
        }
        for one in index.streams
    ]
    # ASCII escapes keep path bytes that are not UTF-8 (surrogates) intact.
    return json.dumps({"v": _VERSION, "streams": streams}, separators=(",", ":")).encode("ascii")


def parse_index(content: bytes) -> BackupIndex:
    """Raises MalformedObject."""
    try:
        document = json.loads(content)
        if document["v"] != _VERSION:
            raise MalformedObject(f"the backup's index has version {document['v']!r}, known is {_VERSION}")
        return BackupIndex(
            tuple(
                StreamIndex(
                    TablespaceStream(int(one["number"]), int(one["oid"]), _path(one["path"])),
                    int(one["size"]),
                    tuple(_member_from_json(member) for member in one["members"]),
                )
                for one in document["streams"]
            )
        )
    except (ValueError, KeyError, TypeError, IndexError) as cause:
        raise MalformedObject(f"the backup's index cannot be read: {cause!r}") from cause


def _path(value: object) -> str | None:
    return None if value is None else str(value)


def _member_to_json(member: TarMember) -> list[str | int]:
    match member.kind:
        case MemberKind.FILE:
            return [member.path, "f", member.mode, member.header_offset, member.size]
        case MemberKind.DIRECTORY:
            return [member.path, "d", member.mode, member.header_offset]
        case MemberKind.SYMLINK:
            return [member.path, "l", member.mode, member.header_offset, member.linkname]


def _member_from_json(value: list[str | int]) -> TarMember:
    path, mode, header = str(value[0]), int(value[2]), int(value[3])
    match value[1]:
        case "f":
            size = int(value[4])
            if min(size, header, mode) < 0:
                raise ValueError(value)
            return TarMember(path, MemberKind.FILE, size, mode, header)
        case "d":
            return TarMember(path, MemberKind.DIRECTORY, 0, mode, header)
        case "l":
            return TarMember(path, MemberKind.SYMLINK, 0, mode, header, str(value[4]))
    raise ValueError(value)
