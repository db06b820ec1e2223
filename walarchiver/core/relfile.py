"""Relation files and catalog rows, as the WAL names them.

Rules (PostgreSQL src/include/storage/relfilelocator.h, relfilenode.h in 14 and 15):
- A relation's file is (tablespace, database, number); a TRUNCATE or rewrite gives the relation a
  new number and never an old one back. The number is not the relation's OID.
- In a record a file is three 4-byte numbers, one behind the other.
"""

from __future__ import annotations

import re
import struct
from typing import NamedTuple, Self

_TEXT = re.compile(r"(\d{1,10})/(\d{1,10})/(\d{1,10})")
_PACKED = struct.Struct("<III")

PG_CLASS = 1259
"""OID of pg_class, and its file's number until somebody rewrites it."""


class RelFile(NamedTuple):
    """One relation's file."""

    tablespace: int
    database: int
    number: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """`1663/5/16384`, as pg_waldump prints it. Raises ValueError."""
        match = _TEXT.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r} is not TABLESPACE/DATABASE/FILE in numbers")
        numbers = [int(part) for part in match.groups()]
        if max(numbers) >= 2**32 or 0 in (numbers[0], numbers[2]):
            raise ValueError(f"{text!r} names no file")
        return cls(*numbers)

    def __str__(self) -> str:
        return f"{self.tablespace}/{self.database}/{self.number}"

    def packed(self) -> bytes:
        """The 12 bytes that stand for it in a record."""
        return _PACKED.pack(*self)


class Slot(NamedTuple):
    """Place of one row version in a table (ctid)."""

    block: int
    offset: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """`(0,12)`. Raises ValueError."""
        block, _, offset = text.strip("()").partition(",")
        return cls(int(block), int(offset))
