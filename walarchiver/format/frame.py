"""One zstd frame, read block by block, so that no input can make us hold much or go on after it.

Rules (docs/format.md, section 3; layout in RFC 8878, section 3.1.1):
- Exactly one frame with content size, checksum, no dictionary and a window of at most 8 MiB.
- A block gives at most 128 KiB, so output is bounded by what was fed, whatever it claims.
- `finish` raises unless the frame ended and nothing followed.
"""

from __future__ import annotations

from collections.abc import Iterator

import zstandard

from walarchiver.errors import ObjectDamaged

WINDOW_BYTES_MAX = 1 << 23
_MAGIC = b"\x28\xb5\x2f\xfd"
_FRAME_HEADER_MAX = 18
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


class FrameReader:
    """Decompresses one frame of `raw` plain bytes, pushed in as it arrives."""

    def __init__(self, raw: int) -> None:
        self._raw = raw
        self._given = 0
        self._pending = bytearray()
        self._frame: zstandard.ZstdDecompressionObj | None = None
        self._last_block = False
        self._ended = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The plain bytes that `data` completes, in pieces. Raises ObjectDamaged."""
        self._pending += data
        if self._frame is None and len(self._pending) >= _FRAME_HEADER_MAX:
            yield from self._begin()
        if self._frame is not None:
            yield from self._blocks()

    def finish(self) -> Iterator[bytes]:
        """The rest; raises ObjectDamaged unless all of the frame and nothing else was fed."""
        if self._frame is None:  # a short frame: header and one small block fit in 18 bytes
            yield from self._begin()
            yield from self._blocks()
        whole = self._ended and self._frame is not None and self._frame.eof
        if not whole or self._pending or self._given != self._raw:
            raise ObjectDamaged(f"zstd frame ends after {self._given} of {self._raw} bytes")

    def _begin(self) -> Iterator[bytes]:
        head = bytes(self._pending[:_FRAME_HEADER_MAX])
        facts = _facts(head)
        length = zstandard.frame_header_size(head)
        if facts.content_size != self._raw:
            raise ObjectDamaged(f"zstd frame of {facts.content_size} bytes, {self._raw} announced")
        if not facts.has_checksum or facts.dict_id or facts.window_size > WINDOW_BYTES_MAX:
            raise ObjectDamaged(
                f"zstd frame with checksum {facts.has_checksum}, dictionary {facts.dict_id}, "
                f"window {facts.window_size} is not allowed"
            )
        self._frame = zstandard.ZstdDecompressor(max_window_size=WINDOW_BYTES_MAX).decompressobj()
        yield from self._decompress(length)

    def _blocks(self) -> Iterator[bytes]:
        while not self._ended:
            if self._last_block:
                wanted = _CHECKSUM_BYTES
            elif len(self._pending) < 3:
                return
            else:
                head = int.from_bytes(self._pending[:3], "little")
                kind, size = head >> 1 & 3, head >> 3
                if kind == _RESERVED:
                    raise ObjectDamaged("zstd block of a reserved type")
                wanted = 3 + (1 if kind == _RLE else size)
            if len(self._pending) < wanted:
                return
            self._ended = self._last_block
            self._last_block = self._last_block or bool(self._pending[0] & 1)
            yield from self._decompress(wanted)
        if self._pending:
            raise ObjectDamaged("bytes behind the zstd frame")

    def _decompress(self, length: int) -> Iterator[bytes]:
        assert self._frame is not None
        piece = bytes(memoryview(self._pending)[:length])
        del self._pending[:length]
        try:
            plain = self._frame.decompress(piece)
        except zstandard.ZstdError as error:
            raise ObjectDamaged("zstd frame is damaged") from error
        self._given += len(plain)
        if self._given > self._raw:
            raise ObjectDamaged(f"zstd frame gives more than the {self._raw} bytes announced")
        if plain:
            yield plain
