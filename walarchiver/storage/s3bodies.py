"""How bodies go to S3 and come back: the seam between the store and its two paths, and botocore's path.

Rules:
- Two paths, one behaviour: `s3direct.py` over connections of our own, and `ThroughBotocore` here, many
  times dearer, for what the first one leaves to botocore (proxies, redirects, other signatures).
- A body travels with a checksum that the store verifies: CRC-32C where it is compiled (the cheapest), else
  CRC-32; or MD5 for stores that know neither.
- A body comes into one buffer of its announced size, which becomes the `bytes` that is returned.
"""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Protocol, cast

from walarchiver.core.crc32c import crc32c, plain_crc32c
from walarchiver.errors import StoreUnavailable
from walarchiver.ports import Clock
from walarchiver.storage.s3access import Access
from walarchiver.storage.s3pages import Listing
from walarchiver.storage.s3wire import SLOWEST_BODY_BYTES_PER_S, Buffer

if TYPE_CHECKING:
    from walarchiver.storage.s3client import Body

_READ_BYTES = 1 << 18
_PARAMETERS = {
    "x-amz-checksum-crc32c": "ChecksumCRC32C",
    "x-amz-checksum-crc32": "ChecksumCRC32",
    "content-md5": "ContentMD5",
}


@dataclass(frozen=True, slots=True)
class Checksum:
    """A header by which the store verifies a body."""

    header: str
    value: str


@dataclass(frozen=True, slots=True)
class Written:
    """What a store said about a PUT that it accepted."""

    etag: str | None
    version_id: str | None


class Incoming(Protocol):
    """A body on its way."""

    @property
    def length(self) -> int | None:
        """As announced; None when it was not."""
        ...

    @property
    def content_range(self) -> str | None: ...

    def readinto(self, view: memoryview, /) -> int:
        """Bytes of the body; 0 only at its end. Raises one of `library_errors()`."""
        ...


class Bodies(Protocol):
    """The requests that carry bodies; whatever fails is one of `library_errors()`, or an error of ours."""

    def told(self) -> str:
        """Which way bodies take, in words."""
        ...

    def create(self, name: str, body: Buffer, checksum: Checksum) -> Written:
        """PUT on the condition that the name is free."""
        ...

    def opened(
        self, name: str, version_id: str | None, byte_range: str | None
    ) -> AbstractContextManager[Incoming]:
        """GET; `byte_range` is the value of a Range header."""
        ...

    def page(self, listing: Listing, request: Mapping[str, object]) -> Mapping[str, object]:
        """A page of a listing; request and answer have botocore's names."""
        ...

    def close(self) -> None: ...


def crc_of(body: Buffer) -> Checksum:
    """The cheapest CRC that stores know."""
    if crc32c is not plain_crc32c:
        return Checksum("x-amz-checksum-crc32c", _base64(crc32c(body).to_bytes(4, "big")))
    return Checksum("x-amz-checksum-crc32", _base64(zlib.crc32(body).to_bytes(4, "big")))


def md5_of(body: Buffer) -> Checksum:
    """The checksum that every S3 server knows."""
    return Checksum("content-md5", _base64(hashlib.md5(body, usedforsecurity=False).digest()))


def drained(incoming: Incoming, announced: int, what: str, limit_s: float, clock: Clock) -> bytes:
    """All of the body. Raises StoreUnavailable when it is cut short or takes longer than the limit allows.

    The limit grows with the body: `SLOWEST_BODY_BYTES_PER_S` is the slowest that is waited for.
    """
    limit_s += announced / SLOWEST_BODY_BYTES_PER_S
    began_s = clock.monotonic_s()
    room = _room(announced)
    read = 0
    with room.getbuffer() as view:
        while read < announced:
            count = incoming.readinto(view[read : read + _READ_BYTES])
            read += count
            took_s = clock.monotonic_s() - began_s
            if not count or (took_s > limit_s and read < announced):
                raise StoreUnavailable(f"{what}: {read} of {announced} bytes came in {took_s:.1f} s")
    return room.getvalue()


def _room(size: int) -> BytesIO:
    """A buffer of this size that gives its content away uncopied."""
    room = BytesIO()
    if size:
        room.seek(size - 1)
        room.write(b"\0")
    return room


class ThroughBotocore:
    """The path through botocore's client."""

    def __init__(self, access: Access, bucket: str) -> None:
        self._access = access
        self._bucket = bucket

    def told(self) -> str:
        return "objects travel through botocore"

    def create(self, name: str, body: Buffer, checksum: Checksum) -> Written:
        reply = self._access.client.put_object(
            Bucket=self._bucket,
            Key=name,
            Body=bytes(body) if isinstance(body, memoryview) else body,
            IfNoneMatch="*",
            ContentType="application/octet-stream",
            **{_PARAMETERS[checksum.header]: checksum.value},
        )
        return Written(etag=_text(reply.get("ETag")), version_id=_text(reply.get("VersionId")))

    @contextmanager
    def opened(self, name: str, version_id: str | None, byte_range: str | None) -> Iterator[Incoming]:
        request: dict[str, object] = {"Bucket": self._bucket, "Key": name}
        if version_id is not None:
            request["VersionId"] = version_id
        if byte_range is not None:
            request["Range"] = byte_range
        reply = self._access.client.get_object(**request)
        length, body = reply.get("ContentLength"), cast("Body", reply["Body"])
        try:
            yield _Streamed(
                length=length if isinstance(length, int) else None,
                content_range=_text(reply.get("ContentRange")),
                readinto=body.readinto,
            )
        finally:
            body.close()  # what was read to its end has left its connection to the pool

    def page(self, listing: Listing, request: Mapping[str, object]) -> Mapping[str, object]:
        client = self._access.client
        ask = client.list_objects_v2 if listing is Listing.KEYS else client.list_object_versions
        return ask(Bucket=self._bucket, **request)

    def close(self) -> None:
        self._access.close()


@dataclass(frozen=True, slots=True)
class _Streamed:
    length: int | None
    content_range: str | None
    readinto: Callable[[memoryview], int]


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _base64(digest: bytes) -> str:
    return base64.b64encode(digest).decode("ascii")
