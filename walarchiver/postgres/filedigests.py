"""The `digests` part of a base backup: what is in each file, in pieces of 4 MiB.

With it a file on disk is checked, and compared with what an earlier restore left, without any other
checksum, and only the pieces that differ need be fetched. Binary (docs/format.md, "The `digests` part"):
BLAKE3-256 of each piece, streams by number, files in the order of the index.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from blake3 import blake3

from walarchiver.errors import MalformedObject
from walarchiver.postgres.backupindex import BackupIndex
from walarchiver.postgres.tarstream import MemberKind, TarMember

DIGEST_CHUNK_BYTES = 4 << 20
"""Plain bytes of a file that share one digest."""
DIGEST_BYTES = 32


@dataclass(frozen=True, slots=True)
class FileDigests:
    """Digests by stream number and path as the index has it."""

    by_file: Mapping[tuple[int, str], bytes]

    def of(self, stream: int, path: str) -> bytes:
        """The file's digests one behind the other. Raises MalformedObject for a file that is not there."""
        found = self.by_file.get((stream, path))
        if found is None:
            raise MalformedObject(f"the backup has no digests of {path!r} in stream {stream}")
        return found


def piece_count(size: int) -> int:
    """How many digests a file of this size has."""
    return -(-size // DIGEST_CHUNK_BYTES)


def piece_digest(piece: bytes | bytearray | memoryview) -> bytes:
    """The digest of one piece."""
    return blake3(piece).digest()


def parse_digests(content: bytes, index: BackupIndex) -> FileDigests:
    """Raises MalformedObject when the content does not fit the index."""
    found: dict[tuple[int, str], bytes] = {}
    at = 0
    for stream in sorted(index.streams, key=lambda one: one.stream.number):
        for member in stream.members:
            if member.kind is MemberKind.FILE:
                end = at + DIGEST_BYTES * piece_count(member.size)
                found[stream.stream.number, member.path] = content[at:end]
                at = end
    if at != len(content):
        raise MalformedObject(f"the backup's digests have {len(content)} bytes, its index asks for {at}")
    return FileDigests(found)


class Pieces:
    """Which pieces of files lie where in one tar stream, while its members come to be known."""

    def __init__(self, members: Sequence[TarMember]) -> None:
        """`members`: the stream's, growing as headers pass; they may be ahead of what is cut."""
        self._members = members
        self._next = 0
        self._done = 0
        """Bytes of the next member that were given out."""

    def cut(self, end: int) -> int:
        """Where a part may end that would end at `end`, so that no piece is torn: there or before."""
        last = next((one for one in reversed(self._members) if one.data_offset < end), None)
        if last is None or end >= last.data_offset + last.size:
            return end
        return end - (end - last.data_offset) % DIGEST_CHUNK_BYTES

    def before(self, end: int) -> Iterator[tuple[int, int]]:
        """The pieces up to `end` that were not given out yet: (offset in the stream, length)."""
        while self._next < len(self._members):
            member = self._members[self._next]
            while self._done < member.size:
                length = min(DIGEST_CHUNK_BYTES, member.size - self._done)
                if member.data_offset + self._done + length > end:
                    return
                yield member.data_offset + self._done, length
                self._done += length
            self._next += 1
            self._done = 0
