"""Walk the records of consecutive WAL segments, across pages and files.

Rules (PostgreSQL src/backend/access/transam/xlogreader.c, src/include/access/xlog_internal.h):
- Records start at multiples of 8. A record goes on behind the next page's header, which says how
  many bytes are missing; it may go on over many files.
- A walk that begins in the middle of a record skips to the first one that starts.
- Each record names the start of the one before; the first record of a walk is taken on trust.
- Behind a SWITCH record the rest of the segment is zero, page headers included. A zero length
  anywhere else is the end of what was written.
- A crash may leave a torn record. The server then writes on at the page where the missing part
  should have been: that page is flagged, and its first record (OVERWRITE_CONTRECORD) names the
  torn one, which never counts.
- Damaged input never raises: the walk ends, and says why.
"""

from __future__ import annotations

import struct
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum

from walarchiver.core import walpage
from walarchiver.core.crc32c import crc32c
from walarchiver.core.lsn import MAX_LSN, Lsn, format_lsn
from walarchiver.core.scan import Ending
from walarchiver.core.segment import SegmentBytes
from walarchiver.core.walpage import PAGE_BYTES, PAGE_HEADER, SegmentIdentity, page_fault, read_first_page
from walarchiver.core.walrecord import (
    RECORD_BYTES_MAX,
    RECORD_HEADER,
    RECORD_HEADER_BYTES,
    WalRecord,
    checksum_fits,
    is_possible_rmid,
    is_switch,
)
from walarchiver.errors import CorruptSegment

Buffer = bytes | bytearray | memoryview

_OVERWRITE = struct.Struct("<BBQ")
_OVERWRITE_KIND = 0x00D0
_OVERWRITE_TOTAL = RECORD_HEADER_BYTES + 2 + 16
_SWITCH_TAIL = b"\x40\0\0\0"
"""Info, resource manager and padding of a SWITCH record, as they stand in its last 8 bytes."""


class CrcPolicy(Enum):
    """Which records must prove their checksum."""

    ALL = "all"
    INTERESTING = "interesting"
    """Only those handed out: back links and lengths alone vouch for the ones hopped over."""
    NONE = "none"


class _End(Exception):
    """The walk is over: control flow inside this module, no error."""

    def __init__(self, ending: Ending, problem: str = "") -> None:
        super().__init__(problem)
        self.ending = ending
        self.problem = problem


@dataclass(slots=True)
class _Page:
    """One page: its records are data[pos:limit], and data[i] stands at LSN shift + i."""

    data: Buffer
    shift: int
    pos: int
    limit: int
    flags: int
    missing: int

    @property
    def address(self) -> Lsn:
        return Lsn((self.shift + self.pos) // PAGE_BYTES * PAGE_BYTES)


@dataclass(slots=True)
class _Torn:
    """A record of which a later page holds the rest; `start` None: it began before the walk."""

    start: Lsn | None
    need: int
    header: bytearray = field(default_factory=bytearray)
    keeps: bool = False
    crc: int | None = None
    """Of the body so far; None when the policy does not ask."""
    body: bytearray = field(default_factory=bytearray)


class Walk:
    """One pass over the records of consecutive segments, given as (number, bytes).

    `start`: where a record starts (or a place in a page header before one); without it the walk
    begins at the first record that starts in the first segment. `stop`: records from there on
    are not read, and a segment that could hold only such records is not asked for. `wanted`:
    kinds (`walrecord.record_kind`) to hand out; the others are hopped over and counted.
    The last segment's bytes may be cut anywhere.

    What was seen so far stands in the attributes. `ending` and `problem` hold once the iteration is
    over, in the meaning of `scan.Ending`; input that ends at a record border is WHOLE.
    """

    def __init__(
        self,
        segments: Iterable[tuple[int, Buffer]],
        *,
        segment_size: SegmentBytes,
        start: Lsn | None = None,
        stop: Lsn | None = None,
        crc: CrcPolicy = CrcPolicy.ALL,
        wanted: frozenset[int] | None = None,
    ) -> None:
        self._segments = segments
        self._size = segment_size
        self._start = start
        self._stop = MAX_LSN if stop is None else stop
        self._crc = crc
        self._wanted = wanted
        self._torn: _Torn | None = None
        self._skip_to = 0 if start is None else start // PAGE_BYTES * PAGE_BYTES
        self._began = False
        self._timeline = 0
        self.identity: SegmentIdentity | None = None
        """Of the first segment; None when it could not be read."""
        self.ending = Ending.WHOLE
        self.problem = ""
        self.first: Lsn | None = None
        self.first_prev: Lsn | None = None
        self.last: Lsn | None = None
        self.end: Lsn | None = start
        """Where the next record may start."""
        self.records = 0
        self.switched = False  # whether the last thing seen was a SWITCH record
        self.overwritten: list[Lsn] = []
        self._iterator = self._records()

    def __iter__(self) -> Iterator[WalRecord]:
        return self._iterator

    def refuse(self, problem: str, record: WalRecord | None = None) -> None:
        """End the walk as BAD; `record`, the one handed out last, does not count."""
        self._iterator.close()
        self.ending, self.problem = Ending.BAD, problem
        if record is not None:
            self.records -= 1
            self.end, self.switched = record.start, False
            if record.start == self.first:
                self.first = self.first_prev = self.last = None
            else:
                self.last = record.prev

    # --- segments and pages -------------------------------------------------------------------

    def _pages(self) -> Iterator[_Page]:
        expected: int | None = None
        for number, data in self._segments:
            base = number * self._size
            if expected is not None and number != expected:
                raise _End(Ending.BAD, f"segment {number} does not follow segment {expected - 1}")
            expected = number + 1
            self._open(base, data)
            for at in range(0, min(len(data), self._size), PAGE_BYTES):
                if base + at < self._skip_to:
                    continue
                header = walpage.SHORT_HEADER_BYTES if at else walpage.LONG_HEADER_BYTES
                if len(data) - at < header:
                    break
                yield self._page(data, base, at, header)
            carried = self._torn is None or self._torn.start is None
            if carried and base + self._size >= self._stop:
                raise _End(Ending.WHOLE)
            if len(data) < self._size and self._skip_to < base + self._size:
                raise _End(Ending.ZERO if carried else Ending.OPEN)
        raise _End(Ending.WHOLE if self._torn is None or self._torn.start is None else Ending.OPEN)

    def _open(self, base: int, data: Buffer) -> None:
        """Check a segment's first page; ends the walk when it is not the segment at `base`."""
        if self.end is None:
            self.end = Lsn(base)
        name = f"the segment at {format_lsn(Lsn(base))}"
        if len(data) >= PAGE_HEADER.size and not any(data[: PAGE_HEADER.size]):
            raise _End(Ending.ZERO)
        try:
            identity = read_first_page(data, name=name)
        except CorruptSegment as error:
            raise _End(Ending.BAD, error.message) from error
        if self.identity is None:
            self.identity = identity
        first = self.identity
        if (identity.system, identity.magic) != (first.system, first.magic):
            raise _End(Ending.BAD, f"{name} belongs to another cluster or major version")
        if identity.segment_size != self._size or len(data) > self._size:
            raise _End(Ending.BAD, f"{name} is not one of {self._size} bytes")

    def _page(self, data: Buffer, base: int, at: int, header: int) -> _Page:
        assert self.identity is not None
        magic = self.identity.magic
        fault = page_fault(data, at, Lsn(base + at), magic=magic, timeline=self._timeline)
        if fault is not None:
            raise _End(*fault)
        _magic, flags, timeline, _address, missing = PAGE_HEADER.unpack_from(data, at)
        self._timeline = timeline
        return _Page(data, base, at + header, min(at + PAGE_BYTES, len(data)), flags, missing)

    # --- records ------------------------------------------------------------------------------

    def _records(self) -> Generator[WalRecord, None, None]:
        try:
            for page in self._pages():
                pos = page.pos
                if not self._began:
                    pos = self._begin(page)
                elif self._torn is None and page.flags & walpage.FIRST_IS_CONTRECORD:
                    raise _End(Ending.BAD, f"page at {format_lsn(page.address)} continues no record")
                if self._torn is not None:
                    pos = self._continue(self._torn, page)
                    if pos < 0:
                        continue
                    record = self._complete(page, pos)
                    if record is not None:
                        yield record
                    if self.switched:
                        continue
                yield from self._within(page, pos)
        except _End as end:
            self.ending, self.problem = end.ending, end.problem

    def _begin(self, page: _Page) -> int:
        """Position of the first record, or set up the rest of one that began before the walk."""
        self._began = True
        start = 0 if self._start is None else self._start + -self._start % 8 - page.shift
        if start > page.pos:
            return start
        if page.flags & walpage.FIRST_IS_CONTRECORD:
            self._torn = _Torn(None, page.missing)
        return page.pos

    def _within(self, page: _Page, pos: int) -> Iterator[WalRecord]:
        """The records that start in `page` from `pos` on; an unfinished one is left in _torn."""
        data, shift, limit, wanted = page.data, page.shift, page.limit, self._wanted
        unpack, check_all = RECORD_HEADER.unpack_from, self._crc is CrcPolicy.ALL
        check_kept = self._crc is not CrcPolicy.NONE
        edge = min(limit, self._stop - shift)
        while pos < edge:
            if limit - pos < RECORD_HEADER_BYTES:
                self._tear(page, pos)
                return
            total, xid, prev, kind, _crc = unpack(data, pos)
            if prev != self.last or total < RECORD_HEADER_BYTES or kind >= 0x1600:
                self._check_header(shift + pos, total, prev, kind)
            after = pos + total
            if after > limit:
                self._tear(page, pos)
                return
            keep = wanted is None or kind in wanted
            if check_all or (keep and check_kept):
                body_crc = crc32c(data[pos + RECORD_HEADER_BYTES : after])
                if not checksum_fits(data[pos : pos + RECORD_HEADER_BYTES], body_crc):
                    raise _End(Ending.BAD, f"record at {format_lsn(Lsn(shift + pos))} fails its checksum")
            end = self._accept(shift + pos, shift + after + -after % 8, prev, kind)
            if keep:
                body = bytes(data[pos + RECORD_HEADER_BYTES : after])
                yield self._record(shift + pos, end, (total, xid, prev, kind), body)
            pos = end - shift
        if shift + pos >= self._stop:
            raise _End(Ending.WHOLE)

    def _accept(self, start: int, end: int, prev: int, kind: int) -> int:
        """Count a record that has proved itself; where the next may start."""
        self.switched = is_switch(kind)
        if self.switched:
            end += -end % self._size
            self._skip_to = end
        if self.first is None:
            self.first, self.first_prev = Lsn(start), Lsn(prev)
        self.last, self.end = Lsn(start), Lsn(end)
        self.records += 1
        return end

    def _record(self, start: int, end: int, head: tuple[int, int, int, int], body: bytes) -> WalRecord:
        assert self.identity is not None
        total, xid, prev, kind = head
        major = self.identity.major
        return WalRecord(Lsn(start), Lsn(end), total, xid, Lsn(prev), kind >> 8, kind & 0xFF, body, major)

    def _check_header(self, start: int, total: int, prev: int, kind: int) -> None:
        """End the walk unless a record with this header may stand at `start`."""
        here = format_lsn(Lsn(start))
        if total == 0:
            raise _End(Ending.ZERO)
        if not RECORD_HEADER_BYTES <= total <= RECORD_BYTES_MAX:
            raise _End(Ending.BAD, f"record at {here} claims a length of {total} bytes")
        if prev != self.last if self.last is not None else prev >= start:
            raise _End(Ending.BAD, f"record at {here} names {format_lsn(Lsn(prev))} as the one before")
        if not is_possible_rmid(kind >> 8):
            raise _End(Ending.BAD, f"record at {here} has the unknown resource manager {kind >> 8}")

    # --- records over several pages -----------------------------------------------------------

    def _tear(self, page: _Page, pos: int) -> None:
        """Begin a record that goes on behind `page`."""
        room = page.limit - pos
        if room < 8:  # only where the input itself is cut
            raise _End(Ending.ZERO)
        start = page.shift + pos
        total = int.from_bytes(page.data[pos : pos + 4], "little")
        if not RECORD_HEADER_BYTES <= total <= RECORD_BYTES_MAX:
            self._check_header(start, total, 0, 0)
        self._torn = _Torn(Lsn(start), total)
        self._add(self._torn, page.data[pos : pos + min(room, total)])

    def _add(self, torn: _Torn, piece: Buffer) -> None:
        """Take the next bytes of an unfinished record."""
        torn.need -= len(piece)
        if torn.start is None:
            return
        lacking = RECORD_HEADER_BYTES - len(torn.header)
        if lacking > 0:
            torn.header += piece[:lacking]
            if len(torn.header) < RECORD_HEADER_BYTES:
                return
            piece = piece[lacking:]
            total, _xid, prev, kind, _crc = RECORD_HEADER.unpack(torn.header)
            self._check_header(torn.start, total, prev, kind)
            torn.keeps = self._wanted is None or kind in self._wanted
            if self._crc is CrcPolicy.ALL or (torn.keeps and self._crc is CrcPolicy.INTERESTING):
                torn.crc = 0
        if torn.crc is not None:
            torn.crc = crc32c(piece, torn.crc)
        if torn.keeps:
            torn.body += piece

    def _continue(self, torn: _Torn, page: _Page) -> int:
        """Take what `page` holds of `torn`; the position behind it, or -1 when more is missing."""
        if page.flags & walpage.FIRST_IS_OVERWRITE_CONTRECORD:
            self._abandon(torn, page)
            return page.pos
        if not page.flags & walpage.FIRST_IS_CONTRECORD or page.missing != torn.need:
            start = "before the walk" if torn.start is None else f"at {format_lsn(torn.start)}"
            raise _End(Ending.BAD, f"page at {format_lsn(page.address)} does not continue the record {start}")
        after = min(page.pos + torn.need, page.limit)
        self._add(torn, page.data[page.pos : after])
        pos = after + -after % 8
        if torn.start is None:
            self.end = Lsn(page.shift + pos)
            if _ends_a_switch(page, after):
                self.switched = True
                self.end = Lsn(self.end + -self.end % self._size)
                self._skip_to = self.end
                pos = self.end - page.shift
        return -1 if torn.need else pos

    def _complete(self, page: _Page, pos: int) -> WalRecord | None:
        """Count the record that ends at `pos`, if one does and the walk saw its start."""
        torn, self._torn = self._torn, None
        if torn is None or torn.start is None:
            return None
        total, xid, prev, kind, _crc = RECORD_HEADER.unpack(torn.header)
        if torn.crc is not None and not checksum_fits(torn.header, torn.crc):
            raise _End(Ending.BAD, f"record at {format_lsn(torn.start)} fails its checksum")
        end = self._accept(torn.start, page.shift + pos, prev, kind)
        return (
            self._record(torn.start, end, (total, xid, prev, kind), bytes(torn.body)) if torn.keeps else None
        )

    def _abandon(self, torn: _Torn, page: _Page) -> None:
        """Drop a record torn by a crash, on the word of the record written in its place."""
        here = page.pos
        record = page.data[here : here + _OVERWRITE_TOTAL]
        proven = False
        if len(record) == _OVERWRITE_TOTAL:
            total, _xid, _prev, kind, _crc = RECORD_HEADER.unpack_from(record)
            _id, _length, start = _OVERWRITE.unpack_from(record, RECORD_HEADER_BYTES)
            proven = (
                (total, kind) == (_OVERWRITE_TOTAL, _OVERWRITE_KIND)
                and torn.start in (start, None)
                and checksum_fits(record, crc32c(record[RECORD_HEADER_BYTES:]))
            )
        if not proven:
            raise _End(Ending.BAD, f"page at {format_lsn(page.address)} overwrites a record it does not name")
        if torn.start is not None:
            self.overwritten.append(torn.start)
        self.switched = False
        self.end = page.address
        self._torn = None


def _ends_a_switch(page: _Page, after: int) -> bool:
    """Whether the rest of a record that began before the walk is that of a SWITCH record.

    It has no body, so its rest is 8 or 16 bytes; then comes padding, which begins with a zero length.
    """
    tail = page.data[after - 8 : after - 4]
    return page.missing in (8, 16) and tail == _SWITCH_TAIL and not any(page.data[after : after + 4])
