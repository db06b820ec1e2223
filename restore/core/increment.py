"""An increment: what an incremental backup has of a relation's file, in place of the file.

Rules:
- Layout, all numbers of 32 bits and little-endian: magic, number of blocks, truncation length in blocks,
  then the blocks' numbers, ascending; zeros up to a whole block, if there are any blocks; then the blocks.
- The file that comes out is as long as the truncation length or the last block here, whichever is more.
  Blocks below the truncation length that are not here are those of the backup before; what no backup
  has is zero, as the server extended the file and never wrote there.

Source: PostgreSQL src/include/backup/basebackup_incremental.h, src/bin/pg_combinebackup/reconstruct.c
(facts only).
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from walarchiver.errors import MalformedObject

PREFIX = "INCREMENTAL."
HEADER_BYTES = 12
_MAGIC = 0xD3AE1F0D
_HEADER = struct.Struct("<III")
_BLOCKS_MAX = 1 << 24
"""Far more than any build of PostgreSQL puts into one file."""
_PAGE = struct.Struct("<14xH2xH")


@dataclass(frozen=True, slots=True)
class Run:
    """Blocks that lie side by side both in an increment and in the file."""

    block: int
    count: int
    offset: int
    """Of the first one, in the increment."""


@dataclass(frozen=True, slots=True)
class Increment:
    """The beginning of an increment, read."""

    blocks: array[int]
    truncation: int
    """In blocks."""
    block_bytes: int

    @property
    def data_offset(self) -> int:
        return header_bytes(len(self.blocks), self.block_bytes)

    @property
    def size(self) -> int:
        """Of the whole increment, in bytes."""
        return self.data_offset + len(self.blocks) * self.block_bytes

    @property
    def result_blocks(self) -> int:
        """Length of the file that this increment is the newest of."""
        return max(self.truncation, self.blocks[-1] + 1 if self.blocks else 0)

    def runs(self, below: int | None = None) -> Iterator[Run]:
        """The blocks, those below `below` only, in as few runs as may be."""
        begin = 0
        count = len(self.blocks)
        if below is not None:
            while count and self.blocks[count - 1] >= below:
                count -= 1
        for at in range(1, count + 1):
            if at == count or self.blocks[at] != self.blocks[at - 1] + 1:
                yield Run(self.blocks[begin], at - begin, self.data_offset + begin * self.block_bytes)
                begin = at


def header_bytes(count: int, block_bytes: int) -> int:
    """Bytes before the first of `count` blocks."""
    length = HEADER_BYTES + 4 * count
    return -(-length // block_bytes) * block_bytes if count else length


def parse_counts(head: bytes) -> tuple[int, int]:
    """Number of blocks and truncation length in the first HEADER_BYTES bytes. Raises MalformedObject."""
    if len(head) < HEADER_BYTES:
        raise MalformedObject(f"an increment ends inside its header, after {len(head)} bytes")
    magic, count, truncation = _HEADER.unpack_from(head)
    if magic != _MAGIC:
        raise MalformedObject(f"an increment begins with {magic:#x}, not {_MAGIC:#x}")
    if count > _BLOCKS_MAX or truncation > _BLOCKS_MAX:
        raise MalformedObject(f"an increment speaks of {count} blocks in {truncation}")
    return count, truncation


def parse_increment(head: bytes, block_bytes: int) -> Increment:
    """`head`: the increment up to its first block at least. Raises MalformedObject."""
    count, truncation = parse_counts(head)
    if len(head) < HEADER_BYTES + 4 * count:
        raise MalformedObject(f"an increment of {count} blocks ends inside their numbers")
    numbers = array("I", struct.unpack_from(f"<{count}I", head, HEADER_BYTES))
    if any(later <= earlier for earlier, later in pairwise(numbers)):
        raise MalformedObject("the block numbers of an increment do not ascend")
    if count and numbers[-1] >= _BLOCKS_MAX:
        raise MalformedObject(f"an increment has a block {numbers[-1]}")
    return Increment(numbers, truncation, block_bytes)


def is_page(block: bytes) -> bool:
    """Whether this can be a page: a new one, or one whose header has the size of the block."""
    upper, size_and_version = _PAGE.unpack_from(block)
    return bool(upper == 0 or size_and_version & 0xFF00 == len(block))
