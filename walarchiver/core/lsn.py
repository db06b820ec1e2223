"""LSN: a byte position in the WAL, as PostgreSQL prints it (`16/B374D848`).

Source: PostgreSQL src/include/access/xlogdefs.h (XLogRecPtr), pg_lsn type documentation.
"""

from __future__ import annotations

import re
from typing import NewType

from walarchiver.errors import UsageError

Lsn = NewType("Lsn", int)
"""Byte position in the WAL stream of a cluster; 64-bit, starts near 0/1000000."""

MAX_LSN = Lsn(2**64 - 1)

_TEXT = re.compile(r"([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})")


def parse_lsn(text: str) -> Lsn:
    """The LSN that `text` (for example `0/3000148`) names.

    Raises UsageError for anything else.
    """
    match = _TEXT.fullmatch(text)
    if match is None:
        raise UsageError(f"{text!r} is not an LSN", hint="An LSN looks like 0/3000148 or 16/B374D848.")
    high, low = match.groups()
    return Lsn(int(high, 16) << 32 | int(low, 16))


def format_lsn(lsn: Lsn) -> str:
    """`lsn` as PostgreSQL prints it; `parse_lsn` is the inverse."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"
