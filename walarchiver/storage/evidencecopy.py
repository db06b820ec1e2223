"""Copies of one version onto a key: inside the store, in parts, or through here.

Rules (S3 API, CopyObject, UploadPartCopy; user guide, "Copying objects"):
- Inside the store one request copies content, metadata, headers and tags, up to 5 GB. More goes in parts, and
  then metadata, headers and tags are sent again, as they stand on the source version.
- Between stores or credentials the bytes pass through here, a part at a time.
- The condition on the destination is sent with the request that makes the object visible. An upload in parts
  that does not end so is aborted.
- A version that lies in an archive tier, needs a customer's key or is gone is VersionUnreadable: asked for
  once a copy was refused, so that the usual copy costs one request.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from urllib.parse import urlencode

from walarchiver.bucketports import EvidenceBucket, Expected, VersionDetail, Written
from walarchiver.core.version import Entry, EntryKind
from walarchiver.errors import (
    BucketChanged,
    ObjectDamaged,
    StoreDenied,
    StoreMisbehaves,
    VersionUnreadable,
    WalarchiverError,
)
from walarchiver.storage.evidencecalls import BucketCalls
from walarchiver.storage.evidencedetail import CUSTOMER, HEADERS
from walarchiver.storage.evidencewrites import Attempt, Writes, condition, written
from walarchiver.storage.s3client import Reply

_PARTS_MAX = 10_000
_PARTS_AT_ONCE = 4
"""Of one copy inside the store."""
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class CopyLimits:
    """Sizes in bytes. The defaults are S3's; tests take smaller ones."""

    whole_max: int = 5_000_000_000
    """More than this is copied in parts."""
    part: int = 512 * _MIB
    """Of a copy inside the store."""
    streamed_part: int = 16 * _MIB
    """Of a copy that passes through here; it is held in memory."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """One version, and where it should go."""

    source: EvidenceBucket
    key: str
    version_id: str
    to: str
    expected: Expected

    @property
    def copied_from(self) -> Mapping[str, str]:
        return {"Bucket": self.source.name, "Key": self.key, "VersionId": self.version_id}

    def has_size(self, size: int, wanted: int) -> None:
        """Raises ObjectDamaged."""
        if size != wanted:
            raise ObjectDamaged(f"{self.key} in {self.source.url} has {size} bytes, not {wanted}")


class Copier:
    """Copies into one bucket."""

    def __init__(
        self,
        calls: BucketCalls,
        writes: Writes,
        detail: Callable[[str, str], VersionDetail | None],
        limits: CopyLimits,
    ) -> None:
        self._calls = calls
        self._writes = writes
        self._detail = detail
        self._limits = limits

    def copy(self, wanted: Wanted, size: int, *, within_store: bool) -> Written:
        """As EvidenceBucket.copy."""
        try:
            if within_store and size <= self._limits.whole_max:
                return self._whole(wanted, size)
            detail = _readable(wanted)
            if within_store:
                return self._in_parts(wanted, detail)
            return self._streamed(wanted, detail)
        except (StoreDenied, BucketChanged):
            _readable(wanted)
            raise

    def _whole(self, wanted: Wanted, size: int) -> Written:
        request = self._calls.request(
            wanted.to,
            CopySource=wanted.copied_from,
            MetadataDirective="COPY",
            TaggingDirective="COPY",
            **condition(wanted.expected),
        )
        return self._writes.made(
            Attempt(wanted.to, EntryKind.VERSION, size, lambda entry: self._has_content(wanted, entry)),
            lambda: written(self._calls.client_for(size).copy_object(**request), "CopyObjectResult"),
        )

    def _has_content(self, wanted: Wanted, entry: Entry) -> bool:
        """Whether an entry of the key has the source's content, as far as ETags and checksums tell."""
        detail = _readable(wanted)
        if detail.etag == entry.etag:
            return True
        if detail.checksum is None:
            return False
        theirs = self._detail(wanted.to, entry.version_id)
        return theirs is not None and theirs.checksum == detail.checksum

    # --- in parts ------------------------------------------------------------------------------

    def _in_parts(self, wanted: Wanted, detail: VersionDetail) -> Written:
        ranges = _parts(detail.size, self._limits.part)

        def copy_part(upload: str, number: int) -> str:
            start, end = ranges[number - 1]
            request = self._calls.request(
                wanted.to,
                CopySource=wanted.copied_from,
                CopySourceRange=f"bytes={start}-{end - 1}",
                UploadId=upload,
                PartNumber=number,
            )
            send = self._calls.client_for(end - start).upload_part_copy
            told = self._part(number, wanted.to, send, request).get("CopyPartResult")
            return _part_tag(told.get("ETag") if isinstance(told, dict) else None, wanted.to)

        def copied(upload: str) -> Iterator[str]:
            with ThreadPoolExecutor(min(_PARTS_AT_ONCE, len(ranges)), "bucket-copy") as pool:
                yield from pool.map(partial(copy_part, upload), range(1, len(ranges) + 1))

        return self._upload(wanted, detail, copied)

    def _streamed(self, wanted: Wanted, detail: VersionDetail) -> Written:
        part_bytes = _part_bytes(detail.size, self._limits.streamed_part)
        if detail.size <= part_bytes:
            return self._put(wanted, detail)

        def sent(upload: str) -> Iterator[str]:
            total = 0
            body = wanted.source.read(wanted.key, wanted.version_id)
            for number, piece in enumerate(_pieces(body, part_bytes), 1):
                total += len(piece)
                request = self._calls.request(
                    wanted.to, UploadId=upload, PartNumber=number, Body=piece, ContentMD5=_md5(piece)
                )
                reply = self._part(number, wanted.to, self._calls.client.upload_part, request)
                yield _part_tag(reply.get("ETag"), wanted.to)
            wanted.has_size(total, detail.size)

        return self._upload(wanted, detail, sent)

    def _part(self, number: int, to: str, send: Callable[..., Reply], request: Mapping[str, object]) -> Reply:
        return self._calls.asked(f"send part {number} of {to}", lambda: send(**request))

    def _put(self, wanted: Wanted, detail: VersionDetail) -> Written:
        body = b"".join(wanted.source.read(wanted.key, wanted.version_id))
        wanted.has_size(len(body), detail.size)
        etag = hashlib.md5(body, usedforsecurity=False).hexdigest()
        request = {
            **self._calls.request(wanted.to, Body=body, ContentMD5=_md5(body), **condition(wanted.expected)),
            **_properties(detail, wanted.source.tags(wanted.key, wanted.version_id)),
        }
        return self._writes.made(
            Attempt(wanted.to, EntryKind.VERSION, len(body), lambda entry: entry.etag == etag),
            lambda: written(self._calls.client.put_object(**request)),
        )

    def _upload(self, wanted: Wanted, detail: VersionDetail, send: Callable[[str], Iterator[str]]) -> Written:
        """An upload in parts; `send` sends them and yields their ETags."""
        client, to = self._calls.client, wanted.to
        begin = {
            **self._calls.request(to),
            **_properties(detail, wanted.source.tags(wanted.key, wanted.version_id)),
        }
        started = self._calls.asked(f"begin to write {to}", lambda: client.create_multipart_upload(**begin))
        upload = str(started["UploadId"])
        try:
            tags = tuple(send(upload))
            parts = [{"ETag": tag, "PartNumber": number} for number, tag in enumerate(tags, 1)]
            request = self._calls.request(
                to, UploadId=upload, MultipartUpload={"Parts": parts}, **condition(wanted.expected)
            )
            etag = _joined_tag(tags)
            return self._writes.made(
                Attempt(to, EntryKind.VERSION, detail.size, lambda entry: entry.etag == etag),
                lambda: written(self._calls.client_for(detail.size).complete_multipart_upload(**request)),
            )
        except BaseException:
            self._abort(to, upload)
            raise

    def _abort(self, to: str, upload: str) -> None:
        """Asked once: what is left is the store's to clear away (AbortIncompleteMultipartUpload)."""
        request = self._calls.request(to, UploadId=upload)
        try:
            self._calls.once(
                f"abort the upload of {to}",
                lambda: self._calls.client.abort_multipart_upload(**request),
            )
        except WalarchiverError as failure:
            self._calls.options.notice(f"{failure.message}; its parts stay until the store clears them")


def _readable(wanted: Wanted) -> VersionDetail:
    """Raises VersionUnreadable."""
    detail = wanted.source.detail(wanted.key, wanted.version_id)
    where = f"version {wanted.version_id} of {wanted.key} in {wanted.source.url}"
    if detail is None:
        raise VersionUnreadable(
            f"{where} does not exist (any more)", hint="Was it removed since it was listed? Plan again."
        )
    if not detail.readable:
        raise VersionUnreadable(f"{where} lies in {detail.storage_class}")
    if detail.encryption == CUSTOMER:
        raise VersionUnreadable(f"{where} was encrypted with a customer's key")
    return detail


def _properties(detail: VersionDetail, tags: Mapping[str, str]) -> dict[str, object]:
    """Headers, metadata and tags of a version as parameters of a request that writes it again."""
    fields = {name: field.removesuffix("String") for field, name in HEADERS.items()}
    found: dict[str, object] = {
        fields[name]: value for name, value in detail.headers.items() if name in fields
    }
    if detail.metadata:
        found["Metadata"] = dict(detail.metadata)
    if tags:
        found["Tagging"] = urlencode(tags)
    return found


def _part_bytes(size: int, wanted: int) -> int:
    """At most 10,000 parts, whole MiB where that means more than was wanted."""
    least = -(-size // _PARTS_MAX)
    return wanted if least <= wanted else -(-least // _MIB) * _MIB


def _parts(size: int, wanted: int) -> list[tuple[int, int]]:
    step = _part_bytes(size, wanted)
    return [(start, min(start + step, size)) for start in range(0, size, step)]


def _pieces(body: Iterator[bytes], part_bytes: int) -> Iterator[bytes]:
    """The body in pieces of `part_bytes`, the last one shorter."""
    held = bytearray()
    for piece in body:
        held += piece
        while len(held) >= part_bytes:
            yield bytes(held[:part_bytes])
            del held[:part_bytes]
    if held:
        yield bytes(held)


def _md5(piece: bytes) -> str:
    return base64.b64encode(hashlib.md5(piece, usedforsecurity=False).digest()).decode("ascii")


def _joined_tag(tags: tuple[str, ...]) -> str:
    """The ETag of an upload in parts: MD5 over the parts' MD5s; empty where those are something else."""
    try:
        digests = b"".join(bytes.fromhex(tag.strip('"')) for tag in tags)
    except ValueError:
        return ""
    return f"{hashlib.md5(digests, usedforsecurity=False).hexdigest()}-{len(tags)}"


def _part_tag(tag: object, to: str) -> str:
    if not isinstance(tag, str) or not tag:
        raise StoreMisbehaves(f"the store took a part of {to} without an ETag")
    return tag
