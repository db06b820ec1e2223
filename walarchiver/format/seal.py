"""Sealed objects: header, then one zstd frame inside an authenticated stream.

Rules (docs/format.md, section 3):
- The stream is Cobblestone-256 (C2SP chunked-encryption) under the epoch key, with the hash of
  everything before it as context: another header under the same body does not open.
- Both ways stream: sealing holds the stored body and small pieces, opening only small pieces. What lies in
  memory anyway is compressed at once (`seal_whole`), which spares the compressor a copy of everything;
  its body is made once, as long as it will be: one that grows is copied over and over, under the heap's lock.
- A sealed body is not opened again before it is sent: on WAL that costs some 40 % of sealing,
  where a tenth was the bound; the stored SHA-256 covers the way to the store.
- Truncation shows only at the end. Nothing from `open_sealed` is handed on before the iterator
  has ended without raising and the plain bytes have the recorded digest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import blake3
import zstandard
from cryptography.cobblestone import Cobblestone256Decryptor, Cobblestone256Encryptor
from cryptography.exceptions import InvalidTag

from walarchiver.errors import MalformedObject, ObjectDamaged
from walarchiver.format.frame import frame_views
from walarchiver.format.header import PREFIX_BYTES, Expected, Header, header_length, parse_header

Buffer: TypeAlias = "bytes | bytearray | memoryview"

_PIECE_BYTES = 256 << 10
"""Plain bytes worked on at a time."""
_OPENED_BYTES = 512 << 10
"""Stored bytes opened at a time."""
_SEALED_BYTES = 1 << 20
"""Compressed bytes sealed at a time: of one shot over everything the caches would hold nothing."""
_STREAM_BEGINNING = 56
"""Salt and commitment, before the first chunk."""
_CHUNK_BYTES = 16 << 10
_TAG_BYTES = 16


@dataclass(frozen=True, slots=True)
class ZstdParams:
    """How hard to compress. The default is the "fast" setting that suits WAL best by measurement:
    single hash table of 2**13 entries, matches from 5 bytes, a window of 512 KiB."""

    level: int = 1
    window_log: int = 19
    hash_log: int = 13
    min_match: int = 5

    def compressor(self) -> zstandard.ZstdCompressor:
        """A compressor with content size and checksum on; one per object."""
        parameters = zstandard.ZstdCompressionParameters.from_level(
            self.level,
            window_log=self.window_log,
            hash_log=self.hash_log,
            min_match=self.min_match,
            strategy=zstandard.STRATEGY_FAST,
            write_content_size=1,
            write_checksum=1,
            write_dict_id=0,
        )
        return zstandard.ZstdCompressor(compression_params=parameters)


FAST = ZstdParams()
HURRIED = ZstdParams(level=-3, min_match=6)
"""A third less work than FAST, a quarter to two fifths larger: for an archive that falls behind."""


@dataclass(frozen=True, slots=True)
class SealedBody:
    """The bytes to store, and their SHA-256 in hex."""

    body: bytearray
    sha256: str


class Digest:
    """BLAKE3-256 of plain bytes: the digest that ledger records carry."""

    __slots__ = ("_hasher",)

    def __init__(self) -> None:
        self._hasher = blake3.blake3()

    def update(self, data: Buffer) -> None:
        self._hasher.update(data)

    def hexdigest(self) -> str:
        """64 lower-case hex digits."""
        return self._hasher.hexdigest()


def plain_digest(plain: Iterable[Buffer]) -> str:
    """BLAKE3-256 of the concatenation of `plain`, in hex."""
    digest = Digest()
    for piece in plain:
        digest.update(piece)
    return digest.hexdigest()


def seal(key: bytes, header: Header, plain: Iterable[Buffer], *, params: ZstdParams = FAST) -> SealedBody:
    """Compress and seal `plain`, which must be exactly `header.raw` bytes.

    Raises MalformedObject when it is not, or when the header cannot be written.
    """
    body = bytearray(header.encode())
    encryptor = Cobblestone256Encryptor(key, hashlib.sha256(body).digest())
    frame = params.compressor().compressobj(size=header.raw)
    taken = 0
    for piece in _pieces(plain):
        taken += len(piece)
        if taken > header.raw:
            raise MalformedObject(f"{header.name!r}: more than the {header.raw} plain bytes announced")
        if compressed := frame.compress(piece):
            body += encryptor.update(compressed)
    if taken != header.raw:
        raise MalformedObject(f"{header.name!r}: {taken} plain bytes, {header.raw} announced")
    body += encryptor.update(frame.flush())
    body += encryptor.finalize()
    return SealedBody(body, hashlib.sha256(body).hexdigest())


def seal_whole(key: bytes, header: Header, plain: Buffer, *, params: ZstdParams = FAST) -> SealedBody:
    """As `seal`, for plain bytes that lie in memory at once: a quarter less work.

    Raises MalformedObject when they are not `header.raw` bytes, or when the header cannot be written.
    """
    if memoryview(plain).nbytes != header.raw:
        raise MalformedObject(f"{header.name!r}: {len(plain)} plain bytes, {header.raw} announced")
    beginning = header.encode()
    encryptor = Cobblestone256Encryptor(key, hashlib.sha256(beginning).digest())
    frame = params.compressor().compress(plain)
    body = bytearray(len(beginning) + stream_bytes(len(frame)))
    with memoryview(body) as view:
        view[: len(beginning)] = beginning
        end = len(beginning)
        for piece in _pieces([frame], _SEALED_BYTES):
            end += encryptor.update_into(piece, view[end:])
        del frame, piece
        view[end:] = encryptor.finalize()
    return SealedBody(body, hashlib.sha256(body).hexdigest())


def stream_bytes(count: int) -> int:
    """The length of the authenticated stream over so many bytes (C2SP chunked-encryption)."""
    return _STREAM_BEGINNING + count + _TAG_BYTES * (count // _CHUNK_BYTES + 1)


def open_sealed(
    key_of: Callable[[Header], bytes], stored: Iterable[Buffer], expect: Expected
) -> Iterator[bytes]:
    """The plain bytes of a sealed object, in pieces of at most 512 KiB, as `stored` arrives.

    As `sealed_views`, but the pieces may be kept.
    """
    return map(bytes, sealed_views(key_of, stored, expect))


def sealed_views(
    key_of: Callable[[Header], bytes], stored: Iterable[Buffer], expect: Expected
) -> Iterator[memoryview]:
    """The plain bytes of a sealed object, each view valid until the next one is asked for, or the end.

    `key_of` gives the epoch key for a header that agrees with `expect`. Nothing may be published
    before the iterator has ended: truncation shows only there. Raises MalformedObject (not a
    sealed object of this version), ObjectMisplaced (another object than expected) and
    ObjectDamaged (does not open); whatever `stored` and `key_of` raise passes through.
    """
    source = _pieces(stored, _OPENED_BYTES)
    beginning, rest = _beginning(source)
    header = parse_header(beginning[PREFIX_BYTES:])
    expect.check(header)
    decryptor = Cobblestone256Decryptor(key_of(header), hashlib.sha256(beginning).digest())
    yield from frame_views(header.raw, _opened(decryptor, header.name, _then(rest, source)))


def _opened(
    decryptor: Cobblestone256Decryptor, name: str, stream: Iterable[bytes | memoryview]
) -> Iterator[bytes]:
    """What is in the authenticated stream; it has ended well only when the iterator has."""
    for piece in stream:
        try:
            opened = decryptor.update(piece)
        except InvalidTag as error:
            raise ObjectDamaged(f"{name!r}: sealed stream does not verify") from error
        yield opened
    try:
        opened = decryptor.finalize()
    except InvalidTag as error:
        raise ObjectDamaged(f"{name!r}: sealed stream is cut off or damaged at its end") from error
    yield opened


def _beginning(source: Iterator[memoryview]) -> tuple[bytes, bytes]:
    """Magic, length and header; and what of the stream has come along."""
    seen = bytearray()
    end = PREFIX_BYTES
    while True:
        if len(seen) >= PREFIX_BYTES:
            end = PREFIX_BYTES + header_length(bytes(seen[:PREFIX_BYTES]))
            if len(seen) >= end:
                return bytes(seen[:end]), bytes(seen[end:])
        piece = next(source, None)
        if piece is None:
            raise MalformedObject(f"object ends inside its beginning, at {len(seen)} of {end} bytes")
        seen += piece


def _pieces(buffers: Iterable[Buffer], piece_bytes: int = _PIECE_BYTES) -> Iterator[memoryview]:
    """The same bytes in pieces small enough that no step holds much."""
    for buffer in buffers:
        view = memoryview(buffer).cast("B")
        for start in range(0, len(view), piece_bytes):
            yield view[start : start + piece_bytes]


def _then(first: bytes, rest: Iterator[memoryview]) -> Iterator[bytes | memoryview]:
    if first:
        yield first
    yield from rest
