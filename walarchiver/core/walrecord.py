"""One WAL record: its header, and its body taken apart on demand.

Rules (PostgreSQL src/include/access/xlogrecord.h, rmgrlist.h):
- A record is a 24-byte header (length, xid, back link, info, resource manager, CRC) and a body.
- The CRC-32C covers the body first, then the header without the CRC itself.
- The body is block headers, optional origin and top-level xid, one main data header; then the
  blocks' images and data; then the main data.
- 14 describes page images with other flag bits than 15 and later (BKPIMAGE_*).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from walarchiver.core.crc32c import crc32c
from walarchiver.core.lsn import Lsn, format_lsn
from walarchiver.errors import CorruptSegment

RECORD_HEADER_BYTES = 24
RECORD_BYTES_MAX = 1020 << 20
"""XLogRecordMaxSize."""

RECORD_HEADER = struct.Struct("<IIQH2xI")
"""total length, xid, back link, kind, crc; kind is `record_kind(rmid, info)`."""

RM_XLOG = 0
RM_TRANSACTION = 1
RMGR_NAMES = (
    "XLOG", "Transaction", "Storage", "CLOG", "Database", "Tablespace", "MultiXact", "RelMap", "Standby",
    "Heap2", "Heap", "Btree", "Hash", "Gin", "Gist", "Sequence", "SPGist", "BRIN", "CommitTs",
    "ReplicationOrigin", "Generic", "LogicalMessage",
)  # fmt: skip
"""Built-in resource managers, the same on 14 to 18; 128 and more are extensions' own (15+)."""
_CUSTOM_RM_MIN = 128

_BLOCK_ID_MAX = 32
_TOP_XID, _ORIGIN, _LONG_DATA, _SHORT_DATA = 252, 253, 254, 255
_FORK_BITS, _HAS_IMAGE, _SAME_RELATION = 0x0F, 0x10, 0x80
_IMAGE_HAS_HOLE = 0x01
_IMAGE_COMPRESSED_14, _IMAGE_COMPRESSED = 0x02, 0x1C


@dataclass(frozen=True, slots=True)
class BlockRef:
    """One page that a record changes."""

    id: int
    fork: int
    tablespace: int
    database: int
    relation: int
    """File number of the relation, not its OID."""
    block: int
    has_image: bool
    data_length: int


@dataclass(frozen=True, slots=True)
class RecordParts:
    """A record's body, taken apart."""

    main: bytes
    origin: int
    """Replication origin, 0 for none."""
    top_xid: int
    """Top-level transaction of a subtransaction's first record (wal_level=logical), 0 for none."""
    blocks: tuple[BlockRef, ...]


@dataclass(frozen=True, slots=True)
class WalRecord:
    """One whole record. `end` is where the next one may start: 8-aligned, or a segment's end."""

    start: Lsn
    end: Lsn
    total: int
    """Length in bytes with the header, without page headers and padding."""
    xid: int
    prev: Lsn
    """Start of the record before."""
    rmid: int
    info: int
    body: bytes
    """Everything behind the 24-byte header."""
    major: int

    def parts(self) -> RecordParts:
        """The body taken apart. Raises CorruptSegment when it does not follow the layout."""
        try:
            return _take_apart(self.body, self.major)
        except (struct.error, IndexError, ValueError) as error:
            raise CorruptSegment(f"record at {format_lsn(self.start)} cannot be taken apart") from error

    @property
    def main(self) -> bytes:
        """The main data alone. Raises CorruptSegment as `parts`."""
        return self.parts().main


def record_kind(rmid: int, info: int) -> int:
    """Resource manager and info byte as the one number that stands in the header."""
    return rmid << 8 | info


def is_switch(kind: int) -> bool:
    """Whether it is the record behind which the rest of the segment is padding (XLOG_SWITCH)."""
    return kind & 0xFFF0 == 0x0040


def is_possible_rmid(rmid: int) -> bool:
    return rmid < len(RMGR_NAMES) or rmid >= _CUSTOM_RM_MIN


def checksum_fits(header: bytes | bytearray | memoryview, body_crc: int) -> bool:
    """Whether the CRC in a 24-byte record header fits the header and the CRC of the body."""
    return crc32c(header[:20], body_crc) == int.from_bytes(header[20:24], "little")


def _take_apart(body: bytes, major: int) -> RecordParts:
    """Raises struct.error, IndexError or ValueError when the body does not follow the layout."""
    compressed_bits = _IMAGE_COMPRESSED_14 if major < 15 else _IMAGE_COMPRESSED
    blocks: list[BlockRef] = []
    relation: tuple[int, int, int] | None = None
    origin = top_xid = main_length = payload = at = 0
    while len(body) - at > payload + main_length:
        block_id = body[at]
        at += 1
        if block_id == _SHORT_DATA:
            main_length = body[at]
            at += 1
            break
        if block_id == _LONG_DATA:
            (main_length,) = struct.unpack_from("<I", body, at)
            at += 4
            break
        if block_id == _ORIGIN:
            (origin,) = struct.unpack_from("<H", body, at)
            at += 2
            continue
        if block_id == _TOP_XID:
            (top_xid,) = struct.unpack_from("<I", body, at)
            at += 4
            continue
        if block_id > _BLOCK_ID_MAX:
            raise ValueError(f"block id {block_id}")
        flags, data_length = struct.unpack_from("<BH", body, at)
        at += 3
        image_length = 0
        if flags & _HAS_IMAGE:
            image_length, _hole, image_flags = struct.unpack_from("<HHB", body, at)
            at += 5
            if image_flags & _IMAGE_HAS_HOLE and image_flags & compressed_bits:
                at += 2  # the hole's length; otherwise it follows from the image's
        if not flags & _SAME_RELATION:
            relation = struct.unpack_from("<III", body, at)
            at += 12
        if relation is None:
            raise ValueError("the first block names no relation")
        (block,) = struct.unpack_from("<I", body, at)
        at += 4
        blocks.append(
            BlockRef(block_id, flags & _FORK_BITS, *relation, block, bool(flags & _HAS_IMAGE), data_length)
        )
        payload += image_length + data_length
    if at + payload + main_length != len(body):
        raise ValueError(f"{len(body) - at} bytes of data instead of {payload + main_length}")
    return RecordParts(body[len(body) - main_length :], origin, top_xid, tuple(blocks))
