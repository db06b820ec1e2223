"""The ObjectStore port on S3, for AWS and servers that speak like it.

Rules:
- A create is PUT with `If-None-Match: *`. When its outcome is open the identical bytes are sent
  again; if the first try had landed after all, that shows as KeyTaken, which the caller settles.
- Bodies and listings go over connections of our own (`s3direct.py`), everything else through botocore;
  what an answer means does not depend on that.
- Every body travels with a CRC, or with its MD5 where a store does not know that header, so a
  body damaged on the way is refused. (A signature over the body's SHA-256 is not enough: SeaweedFS
  4.48 accepts a body that does not match it.)
- Nothing is believed that S3 did not say: a PUT without an ETag, a listing page without
  IsTruncated or for another bucket, a body shorter than announced count as no answer.
- A listing never ends early: a page without entries does not stop it, a page that promises more
  without saying where is an error, and so are keys that come out of order.
- Requests in flight are bounded by `pool_size`; every request has connect and read limits, and a
  body must keep a minimum rate.
- Version ids: S3 calls "null" what was written without versioning; we pass that on as it is.
  `list_keys` never knows version ids.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar

from walarchiver.errors import ObjectDamaged, StoreMisbehaves, StoreUnavailable
from walarchiver.ports import Clock, PutReceipt, Random, StoredVersion
from walarchiver.storage.lifecycle import harmful_rules
from walarchiver.storage.names import checked_key, checked_prefix
from walarchiver.storage.options import ChecksumMode, S3Location, S3Options
from walarchiver.storage.retry import Retrier
from walarchiver.storage.s3access import Access
from walarchiver.storage.s3answers import (
    explained,
    is_absent,
    is_past_the_end,
    library_errors,
    may_be_about_checksums,
    refusal_in,
)
from walarchiver.storage.s3bodies import (
    Bodies,
    Checksum,
    Incoming,
    ThroughBotocore,
    crc_of,
    drained,
    md5_of,
)
from walarchiver.storage.s3direct import DirectBodies
from walarchiver.storage.s3pages import Listing
from walarchiver.storage.s3wire import Buffer

Answer = TypeVar("Answer")
Reply = Mapping[str, object]


class S3Store:
    """An ObjectStore (see walarchiver.ports) in one bucket, below one prefix."""

    def __init__(self, location: S3Location, options: S3Options, clock: Clock, random: Random) -> None:
        """Makes no request, unless a platform role must be asked for.

        Raises ConfigError for contradictory options, StoreDenied when there are no usable credentials.
        """
        self._location = location
        self._options = options
        self._clock = clock
        self._closing = threading.Event()
        self._retrier = Retrier(options.retry, clock, random, self._closing.wait, options.notice)
        self._slots = threading.BoundedSemaphore(options.pool_size)
        self._sends_crc = options.checksum_mode is not ChecksumMode.WHEN_REQUIRED
        self._crc_settled = options.checksum_mode is not ChecksumMode.AUTO
        self._access = Access(options, clock)
        botocore_path = ThroughBotocore(self._access, location.bucket)
        self._bodies: Bodies = DirectBodies(self._access, location.bucket, options, clock, botocore_path)

    @property
    def url(self) -> str:
        return self._location.url

    @property
    def sends_crc(self) -> bool:
        """Whether objects travel with a CRC (False once the store has refused one)."""
        return self._sends_crc

    @property
    def body_path(self) -> str:
        """Which way bodies take, in words. Raises StoreDenied where that cannot be found out."""
        return self._asked("find the way to objects", self._bodies.told)

    def put_new(self, key: str, body: bytes | bytearray | memoryview) -> PutReceipt:
        name = self._full(checked_key(key))
        return self._asked(f"create {key}", lambda: self._put_settling_checksums(name, body))

    def get(self, key: str, *, version_id: str | None = None, bytes_max: int) -> bytes | None:
        name = self._full(checked_key(key))

        def fetch() -> bytes | None:
            try:
                with self._bodies.opened(name, version_id, None) as incoming:
                    return self._whole_body(key, incoming, bytes_max)
            except library_errors() as failure:
                if is_absent(failure, by_version=version_id is not None):
                    return None
                raise

        return self._asked(f"read {key}", fetch)

    def get_range(self, key: str, *, start: int, length: int, version_id: str | None = None) -> bytes | None:
        assert start >= 0
        assert length > 0
        name, wanted = self._full(checked_key(key)), f"bytes={start}-{start + length - 1}"

        def fetch() -> bytes | None:
            try:
                with self._bodies.opened(name, version_id, wanted) as incoming:
                    return self._part_of_body(key, incoming, start, length)
            except library_errors() as failure:
                if is_past_the_end(failure):
                    return b""
                if is_absent(failure, by_version=version_id is not None):
                    return None
                raise

        return self._asked(f"read {key}", fetch)

    def list_keys(self, prefix: str, *, start_after: str = "") -> Iterator[StoredVersion]:
        request: dict[str, object] = self._listing(checked_prefix(prefix))
        if start_after:
            request["StartAfter"] = self._full(start_after)
        last = start_after
        while True:
            page = self._page(f"list {prefix}", Listing.KEYS, request)
            for entry in _entries(page, "Contents"):
                found = self._version(entry, is_latest=True)
                if found.key > last:
                    yield found
                self._require_order(last, found.key, start_after)
                last = max(last, found.key)
            if not page["IsTruncated"]:
                return
            token = page.get("NextContinuationToken")
            if not token or token == request.get("ContinuationToken"):
                raise StoreMisbehaves(f"{self.url} promises more keys below {prefix} but not where")
            request["ContinuationToken"] = token

    def list_versions(self, prefix: str, *, start_after: str = "") -> Iterator[StoredVersion]:
        request: dict[str, object] = self._listing(checked_prefix(prefix))
        if start_after:
            request["KeyMarker"] = self._full(start_after)
        last = start_after
        while True:
            page = self._page(f"list {prefix}", Listing.VERSIONS, request)
            for found in self._versions_in(page):
                self._require_order(last, found.key, start_after)
                last = max(last, found.key)
                if found.key > start_after:
                    yield found
            if not page["IsTruncated"]:
                return
            marker = (page.get("NextKeyMarker"), page.get("NextVersionIdMarker"))
            if not marker[0] or marker == (request.get("KeyMarker"), request.get("VersionIdMarker")):
                raise StoreMisbehaves(f"{self.url} promises more versions below {prefix} but not where")
            request["KeyMarker"] = marker[0]
            request.pop("VersionIdMarker", None)
            if marker[1]:
                request["VersionIdMarker"] = marker[1]

    def delete_version(self, key: str, *, version_id: str | None) -> None:
        name = self._full(checked_key(key))
        request = {"Bucket": self._location.bucket, "Key": name, "VersionId": version_id or "null"}

        def delete() -> None:
            try:
                self._access.client.delete_object(**request)
            except library_errors() as failure:
                if not is_absent(failure):
                    raise

        self._asked(f"delete {key}", delete)

    def versioning(self) -> str:
        """`Enabled`, `Suspended` or `Off`. Raises StoreDenied without the right to ask."""
        bucket = self._location.bucket
        reply = self._asked(
            "ask for versioning", lambda: self._access.client.get_bucket_versioning(Bucket=bucket)
        )
        return str(reply.get("Status") or "Off")

    def harmful_rules(self) -> tuple[str, ...]:
        """What lifecycle rules do to objects here, a line each. Raises StoreDenied when that is hidden."""

        def ask() -> Reply:
            try:
                return self._access.client.get_bucket_lifecycle_configuration(Bucket=self._location.bucket)
            except library_errors() as failure:
                refusal = refusal_in(failure)
                if refusal is not None and refusal.code == "NoSuchLifecycleConfiguration":
                    return {}
                raise

        return harmful_rules(self._asked("ask for lifecycle rules", ask), self._location.prefix)

    def server_time_us(self) -> int | None:
        """The server's clock, in microseconds and to the second, from the Date header; None without one."""
        request = self._listing("") | {"MaxKeys": 1}
        page = self._page("ask for the time", Listing.KEYS, request)
        meta = page.get("ResponseMetadata")
        headers = meta.get("HTTPHeaders") if isinstance(meta, dict) else None
        try:
            instant = parsedate_to_datetime(headers["date"]) if headers else None
        except (KeyError, ValueError):
            instant = None
        return None if instant is None else int(instant.timestamp()) * 1_000_000

    def close(self) -> None:
        self._closing.set()
        self._bodies.close()

    # --- requests ------------------------------------------------------------------------------

    def _asked(self, what: str, step: Callable[[], Answer]) -> Answer:
        """What `step` answers, asked again while that may help; only our own errors come out."""
        where = f"{what} in {self.url}"

        def attempt() -> Answer:
            with self._slot(where):
                try:
                    return step()
                except library_errors() as failure:
                    raise explained(where, failure) from failure

        return self._retrier.run(where, attempt)

    @contextmanager
    def _slot(self, where: str) -> Iterator[None]:
        if self._closing.is_set():
            raise StoreUnavailable(f"{where}: the store was closed")
        if not self._slots.acquire(timeout=self._options.retry.budget_s):
            raise StoreUnavailable(f"{where}: all {self._options.pool_size} connections stayed busy")
        try:
            yield
        finally:
            self._slots.release()

    def _put_settling_checksums(self, name: str, body: Buffer) -> PutReceipt:
        """One PUT; the first decides, in mode AUTO, which checksum this store takes."""
        if not self._sends_crc:
            return self._put(name, body, md5_of(body))
        try:
            receipt = self._put(name, body, crc_of(body))
        except library_errors() as failure:
            if self._crc_settled or not may_be_about_checksums(failure):
                raise
        else:
            self._crc_settled = True
            return receipt
        receipt = self._put(name, body, md5_of(body))
        self._sends_crc, self._crc_settled = False, True
        return receipt

    def _put(self, name: str, body: Buffer, checksum: Checksum) -> PutReceipt:
        written = self._bodies.create(name, body, checksum)
        if not written.etag:
            raise StoreUnavailable(
                f"{self.url} accepted {name} without an ETag, so it may not be an S3 server"
            )
        return PutReceipt(version_id=written.version_id)

    def _page(self, what: str, listing: Listing, request: Mapping[str, object]) -> Reply:
        def page() -> Reply:
            reply = self._bodies.page(listing, request)
            if not isinstance(reply.get("IsTruncated"), bool) or reply.get("Name") != self._location.bucket:
                raise StoreUnavailable(f"{what} in {self.url}: what came back is not an S3 listing")
            return reply

        return self._asked(what, page)

    # --- bodies --------------------------------------------------------------------------------

    def _whole_body(self, key: str, incoming: Incoming, bytes_max: int) -> bytes:
        announced = incoming.length
        if announced is None:
            raise StoreUnavailable(f"read {key} in {self.url}: the body came without its length")
        if announced > bytes_max:
            raise ObjectDamaged(
                f"{key} in {self.url} has {announced} bytes, more than the {bytes_max} allowed"
            )
        return self._drained(key, incoming, announced)

    def _part_of_body(self, key: str, incoming: Incoming, start: int, length: int) -> bytes:
        announced, given = incoming.length, incoming.content_range
        if given is None and announced is not None and announced <= start + length:
            return self._drained(key, incoming, announced)[start:]  # the whole body: it is that short
        right = given is not None and given.startswith(f"bytes {start}-")
        if not right or announced is None or announced > length:
            raise StoreMisbehaves(f"{self.url} answered another range of {key} than bytes {start}+{length}")
        return self._drained(key, incoming, announced)

    def _drained(self, key: str, incoming: Incoming, announced: int) -> bytes:
        """All of the body. Raises StoreUnavailable when it is cut short or too slow."""
        what = f"read {key} in {self.url}"
        return drained(incoming, announced, what, self._options.read_timeout_s, self._clock)

    # --- names ---------------------------------------------------------------------------------

    def _full(self, key: str) -> str:
        return self._location.prefix + key

    def _listing(self, prefix: str) -> dict[str, object]:
        return {
            "Prefix": self._full(prefix),
            "MaxKeys": self._options.list_page_keys,
        }

    def _versions_in(self, page: Reply) -> list[StoredVersion]:
        """One page's versions and markers in key order; botocore hands them over as two lists."""
        found = [
            self._version(entry, is_latest=entry.get("IsLatest") is True, is_delete_marker=kind != "Versions")
            for kind in ("Versions", "DeleteMarkers")
            for entry in _entries(page, kind)
        ]
        return sorted(found, key=lambda v: (v.key, not v.is_latest, -v.modified.timestamp()))

    def _version(self, entry: Reply, *, is_latest: bool, is_delete_marker: bool = False) -> StoredVersion:
        key, size, modified = entry.get("Key"), entry.get("Size", 0), entry.get("LastModified")
        version_id = entry.get("VersionId")
        if not isinstance(key, str) or not isinstance(size, int) or not isinstance(modified, datetime):
            raise StoreMisbehaves(f"{self.url} lists an entry without key, size or time")
        if not key.startswith(self._location.prefix):
            raise StoreMisbehaves(f"{self.url} lists {key[:200]!r}, which was not asked for")
        return StoredVersion(
            key=key.removeprefix(self._location.prefix),
            version_id=version_id if isinstance(version_id, str) else None,
            size=size,
            modified=modified,
            is_latest=is_latest,
            is_delete_marker=is_delete_marker,
        )

    def _require_order(self, last: str, key: str, start_after: str) -> None:
        if key < last and last != start_after:
            raise StoreMisbehaves(
                f"{self.url} lists {key[:200]!r} after {last[:200]!r}, so its listings cannot be trusted"
            )


def _entries(page: Reply, name: str) -> list[Reply]:
    entries = page.get(name)
    return entries if isinstance(entries, list) else []
