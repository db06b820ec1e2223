"""WAL made by hand: pages, records, switches and torn records, as PostgreSQL lays them out.

It is written from the rules, not from the walker, so that each can find the other's mistakes;
tests/core/test_wal_of_postgres.py holds the walker against real servers.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from walarchiver.core.crc32c import crc32c
from walarchiver.core.lsn import Lsn
from walarchiver.core.moment import POSTGRES_EPOCH_US
from walarchiver.core.segment import SegmentBytes

MIB = SegmentBytes(1 << 20)
PAGE = 8192
SYSTEM = 7_290_001_002_003_004_005
MAGIC = {14: 0xD10D, 15: 0xD110, 16: 0xD113, 17: 0xD116, 18: 0xD118}

XLOG, TRANSACTION, HEAP = 0, 1, 10


@dataclass(frozen=True, slots=True)
class Placed:
    """Where a record was put: `raw_end` is behind its last byte, `end` where the next may start."""

    start: Lsn
    raw_end: Lsn
    end: Lsn
    prev: Lsn
    total: int


def main_data(main: bytes) -> bytes:
    """A record body that holds only main data."""
    if not main:
        return b""
    if len(main) < 256:
        return bytes((255, len(main))) + main
    return b"\xfe" + struct.pack("<I", len(main)) + main


class WalWriter:
    """Appends records to a growing WAL that begins at a segment's start."""

    def __init__(
        self,
        number: int = 3,
        *,
        size: SegmentBytes = MIB,
        major: int = 15,
        timeline: int = 1,
        system: int = SYSTEM,
        prev: int = 0,
    ) -> None:
        self.size = size
        self.major = major
        self.timeline = timeline
        self.system = system
        self.first = number
        self.at = number * size
        self.prev = prev
        self.placed: list[Placed] = []
        self._bytes = bytearray()

    def segments(self) -> dict[int, bytes]:
        """Whole segments by number; what was not written is zero."""
        base = self.first * self.size
        whole = bytes(self._bytes).ljust(-(-len(self._bytes) // self.size) * self.size, b"\0")
        return {
            (base + at) // self.size: whole[at : at + self.size] for at in range(0, len(whole), self.size)
        }

    def record(self, rmid: int, info: int, body: bytes = b"", *, xid: int = 0) -> Placed:
        self._align()
        raw = self._raw(rmid, info, body, xid)
        start = self.at
        self._put(raw)
        raw_end = self.at
        self.at += -self.at % 8
        return self._note(start, raw_end, len(raw))

    def filler(self, length: int) -> Placed:
        """A record of `length` bytes in all that means nothing to recovery planning."""
        overhead = 24 + (2 if length < 24 + 2 + 256 else 5)
        return self.record(HEAP, 0x10, main_data(b"f" * (length - overhead)), xid=700)

    def commit(self, time: int, *, xid: int = 800) -> Placed:
        """`time` in microseconds since 1970."""
        return self.record(TRANSACTION, 0x00, main_data(struct.pack("<q", time - POSTGRES_EPOCH_US)), xid=xid)

    def abort(self, time: int, *, xid: int = 800) -> Placed:
        return self.record(TRANSACTION, 0x20, main_data(struct.pack("<q", time - POSTGRES_EPOCH_US)), xid=xid)

    def switch(self) -> Placed:
        """A SWITCH record and its padding."""
        self._align()
        start = self.at
        self._put(self._raw(XLOG, 0x40, b"", 0))
        raw_end = self.at
        self.at += -self.at % self.size
        self._bytes = self._bytes.ljust(self.at - self.first * self.size, b"\0")
        return self._note(start, raw_end, 24)

    def tear(self, length: int, *, pages: int = 1) -> Lsn:
        """A record of which only the first `pages` pages got written before a crash; its start.

        What follows is what a server writes when it comes back.
        """
        self._align()
        start = self.at
        raw = self._raw(HEAP, 0x10, main_data(b"t" * (length - 29)), 700)
        missing_at = (start // PAGE + pages) * PAGE
        self._put(raw, until=missing_at)
        self.at = missing_at
        self._page_header(flags=8)
        body = main_data(struct.pack("<Qq", start, 0))
        self.record(XLOG, 0xD0, body)
        return Lsn(start)

    def room(self) -> int:
        """Bytes left on the current page."""
        return PAGE - self.at % PAGE

    def pad_to(self, room: int) -> None:
        """Write fillers until exactly `room` bytes (a multiple of 8) are left in the segment."""
        while self.size - self.at % self.size > PAGE:
            self._align()
            self.filler(self.room() if self.room() >= 32 else self.room() + 64)
        self._align()
        self.filler(self.room() - room)

    def _note(self, start: int, raw_end: int, total: int) -> Placed:
        placed = Placed(Lsn(start), Lsn(raw_end), Lsn(self.at), Lsn(self.prev), total)
        self.prev = start
        self.placed.append(placed)
        return placed

    def _raw(self, rmid: int, info: int, body: bytes, xid: int) -> bytes:
        head = struct.pack("<IIQBBxx", 24 + len(body), xid, self.prev, info, rmid)
        return head + struct.pack("<I", crc32c(head, crc32c(body))) + body

    def _align(self) -> None:
        """Stand where a record may start: behind the page header at a page's beginning."""
        if self.at % PAGE == 0:
            self._page_header()

    def _page_header(self, *, flags: int = 0, missing: int = 0) -> None:
        first = self.at % self.size == 0
        header = struct.pack(
            "<HHIQIxxxx", MAGIC[self.major], flags | (2 if first else 0), self.timeline, self.at, missing
        )
        if first:
            header += struct.pack("<QII", self.system, self.size, PAGE)
        self._write(header)

    def _put(self, raw: bytes, *, until: int | None = None) -> None:
        while raw:
            if self.at == until:
                return
            if self.at % PAGE == 0:
                self._page_header(flags=1, missing=len(raw))
            piece = raw[: self.room()]
            self._write(piece)
            raw = raw[len(piece) :]

    def _write(self, data: bytes) -> None:
        offset = self.at - self.first * self.size
        self._bytes = self._bytes.ljust(offset, b"\0")
        self._bytes[offset : offset + len(data)] = data
        self.at += len(data)
