"""Read the structure of a tar stream while its bytes pass by.

Rules:
- Nothing is kept but the list of members and the content of a few named small files.
- Chunks may be cut anywhere, also inside a header.
- Only what PostgreSQL's base backup sends is understood: ustar headers with octal or base-256
  sizes, plain files, directories and symbolic links (PostgreSQL src/port/tar.c). Any other type,
  a wrong header checksum or bytes after the end are refused.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum

from walarchiver.errors import MalformedObject

BLOCK = 512
KEPT_BYTES_MAX = 16 << 20
"""A file whose content is asked for must not be larger; tablespace_map has a line per tablespace."""

_ZERO_BLOCK = bytes(BLOCK)


class MemberKind(StrEnum):
    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"


_KINDS = {
    b"0": MemberKind.FILE,
    b"\0": MemberKind.FILE,
    b"2": MemberKind.SYMLINK,
    b"5": MemberKind.DIRECTORY,
}


@dataclass(frozen=True, slots=True)
class TarMember:
    """One entry; its content are the stream's bytes data_offset .. data_offset + size."""

    path: str
    """As written in the archive, without the final slash of a directory; bytes that are not UTF-8
    become surrogates, as os.fsdecode does it."""
    kind: MemberKind
    size: int
    mode: int
    header_offset: int
    linkname: str = ""

    @property
    def data_offset(self) -> int:
        return self.header_offset + BLOCK


def parse_header(block: bytes, offset: int) -> TarMember | None:
    """The member that this 512-byte header describes; None for a block of zeros (the end).

    Raises MalformedObject when it is neither.
    """
    if block == _ZERO_BLOCK:
        return None
    unsigned = sum(block) - sum(block[148:156]) + 8 * ord(" ")
    if _number(block[148:156], offset) != unsigned:
        raise MalformedObject(f"the tar header at byte {offset} has a wrong checksum")
    kind = _KINDS.get(block[156:157])
    if kind is None:
        raise MalformedObject(f"the tar header at byte {offset} has type {block[156:157]!r}")
    path = _text(block[0:100])
    if block[257:263] == b"ustar\0" and (prefix := _text(block[345:500])):
        path = f"{prefix}/{path}"
    return TarMember(
        path=path.rstrip("/") if kind is MemberKind.DIRECTORY else path,
        kind=kind,
        size=_number(block[124:136], offset) if kind is MemberKind.FILE else 0,
        mode=_number(block[100:108], offset) & 0o7777,
        header_offset=offset,
        linkname=_text(block[157:257]) if kind is MemberKind.SYMLINK else "",
    )


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _number(field: bytes, offset: int) -> int:
    """Octal text, or base-256 when the first bit is set (src/port/tar.c, read_tar_number)."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b" \0")
    if digits.strip(b"01234567"):
        raise MalformedObject(f"the tar header at byte {offset} has the number {field!r}")
    return int(digits or b"0", 8)


class TarReader:
    """Takes a tar stream in chunks; `members` grows as headers pass."""

    def __init__(self, keep: Collection[str] = ()) -> None:
        """`keep`: paths of small files whose content is wanted in `kept`."""
        self.members: list[TarMember] = []
        self.kept: dict[str, bytearray] = {}
        self.size = 0
        """Bytes fed so far."""
        self._keep = frozenset(keep)
        self._header = bytearray()
        self._skip = 0
        """Bytes of content and padding until the next header."""
        self._wanted: bytearray | None = None
        self._wanted_left = 0
        self._ended = False

    def feed(self, chunk: bytes | bytearray | memoryview) -> None:
        """Take the next bytes. Raises MalformedObject at the first that make no sense."""
        size = len(chunk)
        if size <= self._skip and not self._wanted_left:  # in the middle of a file: nothing to look at
            self._skip -= size
            self.size += size
            return
        view = memoryview(chunk)
        at = 0
        while at < len(view):
            if self._ended:
                if any(view[at:]):
                    raise MalformedObject(f"the tar stream goes on after its end, near byte {self.size + at}")
                break
            if self._skip:
                step = min(self._skip, len(view) - at)
                self._collect(view[at : at + step])
                self._skip -= step
            else:
                step = min(BLOCK - len(self._header), len(view) - at)
                self._header += view[at : at + step]
                if len(self._header) == BLOCK:
                    self._take_header(self.size + at + step - BLOCK)
            at += step
        self.size += len(view)

    def finish(self) -> None:
        """Say that the stream is over. Raises MalformedObject when a member is not whole."""
        if self._skip or self._header:
            raise MalformedObject(f"the tar stream ends in the middle of a member, at byte {self.size}")

    def _take_header(self, offset: int) -> None:
        member = parse_header(bytes(self._header), offset)
        self._header.clear()
        if member is None:
            self._ended = True
            return
        self.members.append(member)
        self._skip = -(-member.size // BLOCK) * BLOCK
        self._wanted = None
        self._wanted_left = 0
        if member.path in self._keep and member.kind is MemberKind.FILE:
            if member.size > KEPT_BYTES_MAX:
                raise MalformedObject(f"{member.path} in the tar stream has {member.size} bytes")
            self._wanted = self.kept[member.path] = bytearray()
            self._wanted_left = member.size

    def _collect(self, piece: memoryview) -> None:
        if self._wanted is not None and self._wanted_left:
            taken = piece[: self._wanted_left]
            self._wanted += taken
            self._wanted_left -= len(taken)
