"""Object bodies: bytes, or long runs of zeros that need no memory.

Rules:
- A body is never changed; a copy shares it.
- The ETag of a body with bytes is its MD5; where zeros are only announced, a digest of the description.
"""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Body:
    """Pieces in order: bytes as they are, an int for so many zero bytes."""

    pieces: tuple[bytes | int, ...]

    @classmethod
    def of(cls, content: bytes) -> Body:
        return cls((content,) if content else ())

    @classmethod
    def zeros(cls, size: int) -> Body:
        return cls((size,))

    @classmethod
    def joined(cls, bodies: Iterator[Body]) -> Body:
        return cls(tuple(piece for body in bodies for piece in body.pieces))

    @property
    def size(self) -> int:
        return sum(piece if isinstance(piece, int) else len(piece) for piece in self.pieces)

    @property
    def is_sparse(self) -> bool:
        return any(isinstance(piece, int) for piece in self.pieces)

    def slice(self, first: int, last: int) -> Body:
        """Bytes `first` to `last`, both included."""
        taken: list[bytes | int] = []
        start = 0
        for piece in self.pieces:
            length = piece if isinstance(piece, int) else len(piece)
            low, high = max(first - start, 0), min(last + 1 - start, length)
            if low < high:
                taken.append(high - low if isinstance(piece, int) else piece[low:high])
            start += length
        return Body(tuple(taken))

    def chunks(self) -> Iterator[bytes]:
        for piece in self.pieces:
            if isinstance(piece, int):
                for start in range(0, piece, _CHUNK):
                    yield bytes(min(_CHUNK, piece - start))
            else:
                for start in range(0, len(piece), _CHUNK):
                    yield piece[start : start + _CHUNK]

    def content(self) -> bytes:
        return b"".join(self.chunks())

    def md5(self) -> bytes:
        if self.is_sparse:
            return hashlib.md5(repr(self.pieces).encode()).digest()
        return hashlib.md5(self.content()).digest()

    def checksum(self, algorithm: str) -> str:
        """Base64 of CRC32, SHA1 or SHA256."""
        return base64.b64encode(digest_of(algorithm, self.content())).decode()


def digest_of(algorithm: str, content: bytes) -> bytes:
    """The digest that S3 calls by this name. Raises KeyError for those that are not modelled."""
    if algorithm == "CRC32":
        return zlib.crc32(content).to_bytes(4, "big")
    return {"SHA1": hashlib.sha1, "SHA256": hashlib.sha256}[algorithm](content).digest()
