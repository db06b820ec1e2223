"""The clear header of a sealed object: what it is, where it belongs, which key opens it.

Rules (docs/format.md, section 3):
- Canonical JSON of at most 64 KiB behind the magic and its length; every member known and typed.
- The header is authenticated only by the stream behind it (its hash is the context): before that
  has opened, a header is a claim.
- A reader says what it asked for (`Expected`); any difference is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from walarchiver.errors import MalformedObject, ObjectMisplaced
from walarchiver.format.canonical import JsonValue, canonical_json, parse_canonical
from walarchiver.format.fields import Fields

MAGIC = b"PITR\x00\x01\r\n"
PREFIX_BYTES = len(MAGIC) + 4
HEADER_BYTES_MAX = 65536
PART_BYTES_MAX = 64 << 20
"""Plain bytes of one object at most; larger files travel in parts of exactly this size."""

WAL_KINDS = frozenset({"wal", "history", "label"})
KINDS = WAL_KINDS | {"base", "pin", "bindex", "bjournal"}
COMPRESSION = "zstd"
_REPO_DIGITS = 32
_MEMBERS = ("comp", "epoch", "kind", "name", "part", "raw", "repo", "system", "tli", "v", "writer")


@dataclass(frozen=True, slots=True)
class Header:
    """The members of docs/format.md, section 3; `tli`, `part` and `raw` are plain numbers."""

    kind: str
    repo: str
    system: str
    tli: int
    name: str
    part: int
    raw: int
    epoch: str
    writer: str
    parts: int | None = None
    """How many parts a WAL file has; None for the other kinds."""
    comp: str = COMPRESSION
    v: int = 1

    def encode(self) -> bytes:
        """Magic, length and canonical JSON. Raises MalformedObject for an illegal value."""
        members: dict[str, JsonValue] = {name: getattr(self, name) for name in _MEMBERS}
        if self.parts is not None:
            members["parts"] = self.parts
        spelled = canonical_json(members)
        if _from_json(members) != self or len(spelled) > HEADER_BYTES_MAX:
            raise MalformedObject(f"header of {self.name!r} cannot be written")
        return MAGIC + len(spelled).to_bytes(4, "big") + spelled


@dataclass(frozen=True, slots=True)
class Expected:
    """What the reader asked for; None means that it does not care."""

    repo: str | None = None
    system: str | None = None
    kind: str | None = None
    name: str | None = None
    tli: int | None = None
    part: int | None = None
    parts: int | None = None
    raw: int | None = None
    epoch: str | None = None
    writer: str | None = None

    def check(self, header: Header) -> None:
        """Raises ObjectMisplaced when `header` is of another object."""
        for field, wanted, found in self._compared(header):
            if wanted is not None and wanted != found:
                raise ObjectMisplaced(f"object is of {field} {found!r}, asked for {wanted!r}")

    def _compared(self, header: Header) -> Iterator[tuple[str, object, object]]:
        yield "repository", self.repo, header.repo
        yield "system", self.system, header.system
        yield "kind", self.kind, header.kind
        yield "name", self.name, header.name
        yield "timeline", self.tli, header.tli
        yield "part", self.part, header.part
        yield "parts", self.parts, header.parts
        yield "length", self.raw, header.raw
        yield "epoch", self.epoch, header.epoch
        yield "writer", self.writer, header.writer


def header_length(prefix: bytes) -> int:
    """Length of the JSON behind the first 12 bytes of an object. Raises MalformedObject."""
    if len(prefix) < PREFIX_BYTES:
        raise MalformedObject(f"object of {len(prefix)} bytes is shorter than its own beginning")
    if prefix[:4] == MAGIC[:4] and prefix[: len(MAGIC)] != MAGIC:
        version = int.from_bytes(prefix[4:6], "big")
        raise MalformedObject(f"sealed object of version {version}, this release reads version 1")
    if prefix[: len(MAGIC)] != MAGIC:
        raise MalformedObject("not a sealed object: it does not begin with PITR")
    length = int.from_bytes(prefix[len(MAGIC) : PREFIX_BYTES], "big")
    if not 0 < length <= HEADER_BYTES_MAX:
        raise MalformedObject(f"header of {length} bytes, {HEADER_BYTES_MAX} is the most")
    return length


def parse_header(spelled: bytes) -> Header:
    """The header that its JSON spells. Raises MalformedObject."""
    return _from_json(parse_canonical(spelled))


def read_header(first_bytes: bytes) -> Header:
    """The header at the beginning of an object, of which `first_bytes` are at least that much.

    Raises MalformedObject. A header read this way is a claim: only opening the object proves it.
    """
    end = PREFIX_BYTES + header_length(first_bytes)
    if len(first_bytes) < end:
        raise MalformedObject(f"object ends inside its header, at {len(first_bytes)} of {end} bytes")
    return parse_header(first_bytes[PREFIX_BYTES:end])


def _from_json(value: JsonValue) -> Header:
    fields = Fields(value, "header")
    version = fields.integer("v", low=1, high=1)
    kind = fields.one_of("kind", KINDS)
    parts = fields.integer("parts", low=1, high=10_000) if kind in WAL_KINDS else None
    header = Header(
        kind=kind,
        repo=fields.hex("repo", _REPO_DIGITS // 2),
        system=fields.system(),
        tli=fields.integer("tli", low=1, high=2**32 - 1),
        name=fields.text("name"),
        part=fields.integer("part", high=99_999_999 if parts is None else parts - 1),
        raw=fields.integer("raw", high=PART_BYTES_MAX),
        epoch=fields.hex("epoch", 8),
        writer=fields.hex("writer", 8),
        parts=parts,
        comp=fields.one_of("comp", frozenset({COMPRESSION})),
        v=version,
    )
    fields.end()
    return header
