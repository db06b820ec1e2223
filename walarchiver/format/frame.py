"""One zstd frame, read block by block, so that no input can make us hold much or go on after it.

Rules (docs/format.md, section 3; layout in RFC 8878, section 3.1.1):
- Exactly one frame with content size, checksum, no dictionary and a window of at most 8 MiB.
- Where the frame ends is read from its blocks, before any byte of them is decompressed: what lies behind it
  never reaches the decompressor.
- Output is at most one small buffer at a time, whatever the input claims, and ends at the announced size.
- A frame counts only when it has ended, nothing followed, and its checksum was compared. zstd reads the
  checksum after it has given every byte, so it is asked until it has nothing more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import IO, cast

import zstandard

from walarchiver.errors import ObjectDamaged

WINDOW_BYTES_MAX = 1 << 23
PIECE_BYTES_MAX = 512 << 10
"""Plain bytes given at a time: they are still in the cache when they are hashed and written, and each step
gives up the interpreter rarely. Of 128 KiB to 1 MiB this was the cheapest by measurement."""
_ROOMS_MAX = 4
_rooms: list[bytearray] = []
"""Buffers of just that size, for whoever opens the next frame: fresh memory has to be cleared."""
_MAGIC = b"\x28\xb5\x2f\xfd"
_FRAME_HEADER_MAX = 18
_BLOCK_HEADER = 3
_CHECKSUM_BYTES = 4
_RLE, _RESERVED = 1, 3


def announced_bytes(stored: bytes) -> int:
    """The content size in the header of the frame that `stored` begins with. Raises ObjectDamaged."""
    return _facts(stored[:_FRAME_HEADER_MAX]).content_size


def _facts(head: bytes) -> zstandard.FrameParameters:
    if head[:4] != _MAGIC:
        raise ObjectDamaged("not a zstd frame")
    try:
        facts = zstandard.get_frame_parameters(head)
    except zstandard.ZstdError as error:
        raise ObjectDamaged("zstd frame header is damaged") from error
    if facts.content_size in (zstandard.CONTENTSIZE_UNKNOWN, zstandard.CONTENTSIZE_ERROR):
        raise ObjectDamaged("zstd frame without content size")
    return facts


def frame_views(raw: int, source: Iterable[bytes]) -> Iterator[memoryview]:
    """The plain bytes of the one frame in `source`, which are `raw`.

    Each view is valid until the next one is asked for, or the end. Raises ObjectDamaged, at the latest at the
    end; what `source` raises passes through.
    """
    frame = _Frame(raw, iter(source))
    reader = zstandard.ZstdDecompressor(max_window_size=WINDOW_BYTES_MAX).stream_reader(
        cast("IO[bytes]", frame)  # only read() is called
    )
    given = 0
    with _room(min(PIECE_BYTES_MAX, raw + 1)) as buffer:
        while length := _filled(reader, buffer):
            given += length
            if given > raw:
                raise ObjectDamaged(f"zstd frame gives more than the {raw} bytes announced")
            yield buffer[:length]
    frame.end()
    if given != raw:
        raise ObjectDamaged(f"zstd frame ends after {given} of {raw} bytes")


@contextmanager
def _room(size: int) -> Iterator[memoryview]:
    """A buffer for one frame at a time, with anything in it."""
    room = bytearray()
    if size == PIECE_BYTES_MAX:
        with suppress(IndexError):
            room = _rooms.pop()
    room = room or bytearray(size)
    try:
        yield memoryview(room)
    finally:
        if size == PIECE_BYTES_MAX and len(_rooms) < _ROOMS_MAX:
            _rooms.append(room)


def _filled(reader: zstandard.ZstdDecompressionReader, buffer: memoryview) -> int:
    try:
        return reader.readinto(buffer)
    except zstandard.ZstdError as error:
        raise ObjectDamaged("zstd frame is damaged") from error


class _Frame:
    """The stored bytes of a frame as a file to read, followed block by block up to its end."""

    def __init__(self, raw: int, source: Iterator[bytes]) -> None:
        self._raw = raw
        self._source = source
        self._head: bytes | None = b""
        """What is there of the frame's header, until it was judged."""
        self._left = 0
        """Bytes up to the next block header, or up to the end of the frame."""
        self._header = b""
        """What is there of a block header that is cut in two."""
        self._last = False
        self._ended = False

    def read(self, _size: int = -1) -> bytes:
        """The next bytes of the frame; empty when there are no more."""
        for piece in self._source:
            if self._head is not None:
                piece = self._head = self._head + piece
                if len(piece) < _FRAME_HEADER_MAX:
                    continue
                self._begin(piece)
            self._follow(piece)
            if piece:
                return piece
        if self._head is not None:  # a short one: header and one small block may fit in fewer bytes
            piece = self._head
            self._begin(piece)
            self._follow(piece)
            return piece
        return b""

    def end(self) -> None:
        """Raises ObjectDamaged unless the whole frame was read and nothing is behind it."""
        while self.read():
            pass
        if not self._ended:
            raise ObjectDamaged(f"zstd frame of {self._raw} bytes is cut off")

    def _begin(self, piece: bytes) -> None:
        head = piece[:_FRAME_HEADER_MAX]
        facts = _facts(head)
        if facts.content_size != self._raw:
            raise ObjectDamaged(f"zstd frame of {facts.content_size} bytes, {self._raw} announced")
        if not facts.has_checksum or facts.dict_id or facts.window_size > WINDOW_BYTES_MAX:
            raise ObjectDamaged(
                f"zstd frame with checksum {facts.has_checksum}, dictionary {facts.dict_id}, "
                f"window {facts.window_size} is not allowed"
            )
        self._head = None
        self._left = zstandard.frame_header_size(head)

    def _follow(self, piece: bytes) -> None:
        """Step over the blocks in `piece`. Raises ObjectDamaged."""
        at, end = 0, len(piece)
        while at < end:
            if self._left:
                step = min(self._left, end - at)
                self._left -= step
                at += step
                self._ended = self._last and not self._left
                continue
            if self._ended:
                raise ObjectDamaged("bytes behind the zstd frame")
            taken = piece[at : at + _BLOCK_HEADER - len(self._header)]
            self._header += taken
            at += len(taken)
            if len(self._header) == _BLOCK_HEADER:
                self._block(int.from_bytes(self._header, "little"))
                self._header = b""

    def _block(self, head: int) -> None:
        kind, size = head >> 1 & 3, head >> 3
        if kind == _RESERVED:
            raise ObjectDamaged("zstd block of a reserved type")
        self._last = bool(head & 1)
        self._left = (1 if kind == _RLE else size) + (_CHECKSUM_BYTES if self._last else 0)
