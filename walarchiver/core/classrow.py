"""What the record of an INSERT into pg_class says of the new relation: OID, name, schema and kind.

Rules (PostgreSQL catalog/pg_class.h, heapam_xlog.h xl_heap_header, storage/bufpage.h):
- The record holds the row behind a header of 5 bytes, unless it holds a picture of the whole page, where
  the row stands at its line pointer. A compressed picture is not opened: then nothing is said.
- All columns up to relkind have a fixed place; 18 has one column of 4 bytes more before it.
"""

from __future__ import annotations

import struct

from walarchiver.core.touch import Born
from walarchiver.core.walrecord import WalRecord

_HAS_IMAGE, _HAS_DATA = 0x10, 0x20
_IMAGE_HAS_HOLE = 0x01
_COMPRESSED_14, _COMPRESSED = 0x02, 0x1C
_TUPLE_HEADER_BYTES = 23
_NAME_AT, _NAME_BYTES = 4, 64
_SCHEMA_AT = 68
_KIND_AT, _KIND_AT_18 = 115, 119
_PAGE_BYTES = 8192
_POINTERS_AT = 24


def born_row(record: WalRecord, offset: int) -> Born | None:
    """None where the record does not show it. Raises struct.error or IndexError for a broken record."""
    body = record.body
    flags, length = struct.unpack_from("<xBH", body)
    parts = record.parts()
    data_at = len(body) - len(parts.main) - length
    if flags & _HAS_IMAGE:
        image, hole, bits = struct.unpack_from("<HHB", body, 4)
        if bits & (_COMPRESSED_14 if record.major < 15 else _COMPRESSED):
            return None
        raw = body[data_at - image : data_at]
        page = raw[:hole] + bytes(_PAGE_BYTES - image) + raw[hole:] if bits & _IMAGE_HAS_HOLE else raw
        (pointer,) = struct.unpack_from("<I", page, _POINTERS_AT + 4 * (offset - 1))
        at = pointer & 0x7FFF
        return _born(page, at + page[at + 22], record.major)
    row = body[data_at : data_at + length]
    return _born(row, 5 + row[4] - _TUPLE_HEADER_BYTES, record.major)


def _born(data: bytes, at: int, major: int) -> Born | None:
    (oid,) = struct.unpack_from("<I", data, at)
    name = data[at + _NAME_AT : at + _NAME_AT + _NAME_BYTES].split(b"\0")[0]
    (schema,) = struct.unpack_from("<I", data, at + _SCHEMA_AT)
    kind = chr(data[at + (_KIND_AT_18 if major >= 18 else _KIND_AT)])
    return Born(oid, name.decode("utf-8", "replace"), schema, kind)
