"""The model of S3's objects and versions: what each call does to them. Pure of HTTP and of the real time.

Sources: Amazon S3 User Guide, "Retaining multiple versions of objects with S3 Versioning", "Working with
delete markers", "Adding objects to versioning-suspended buckets", "Working with object metadata" (a
multipart upload's Last-Modified), "How to prevent object overwrites with conditional writes", "How to perform
conditional deletes"; Amazon S3 API Reference for the answers.
Rules:
- A refused call changes nothing.
- Where AWS documents nothing, the docstring says so.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Literal

from tests.kit.models3.bodies import Body
from tests.kit.models3.clock import ModelClock, floored
from tests.kit.models3.entries import NULL, Bucket, Properties, Stored
from tests.kit.models3.refusals import Refusal

COPY_BYTES_MAX = 5 * 2**30
METADATA_BYTES_MAX = 2048
KEY_BYTES_MAX = 1024
_VERSION_ID = re.compile(r"[A-Za-z0-9._-]{32}")


@dataclass(frozen=True)
class Happened:
    """A change that S3 would send a notification for."""

    name: str
    bucket: str
    key: str
    version_id: str
    at_ms: int
    size: int
    etag: str
    order: int


@dataclass(frozen=True)
class Conditions:
    """If-Match and If-None-Match of a write, over the key's current version."""

    if_match: str | None = None
    if_none_match: str | None = None

    def check(self, current: Stored | None) -> None:
        """Raises Refusal: 412 when they do not hold; 404 when If-Match finds no current version."""
        if self.if_none_match is not None:
            if self.if_none_match != "*":
                raise Refusal("NotImplemented", "If-None-Match takes * only")
            if current is not None:
                raise Refusal("PreconditionFailed", "the key exists")
        if self.if_match is not None:
            if current is None:
                raise Refusal("NoSuchKey", "If-Match, and no current version")
            if self.if_match not in ("*", current.etag):
                raise Refusal("PreconditionFailed", "the ETag is another")


class State:
    """All buckets. Calls take names and values, and return what they made or raise Refusal."""

    def __init__(
        self,
        clock: ModelClock,
        *,
        multipart_time: Literal["initiation", "completion"] = "initiation",
        whole_seconds: bool = True,
        on_change: Callable[[Happened], None] = lambda _: None,
    ) -> None:
        self.clock = clock
        self.multipart_time = multipart_time
        self.whole_seconds = whole_seconds
        self.restore_takes_s = 0.0
        """How long RestoreObject takes to bring a copy."""
        self.buckets: dict[str, Bucket] = {}
        self._on_change = on_change
        self._drawn = 0

    # --- buckets
    def make_bucket(self, name: str, *, versioned: bool = False, lock: bool = False) -> Bucket:
        if name in self.buckets:
            raise Refusal("BucketAlreadyOwnedByYou")
        bucket = Bucket(name, "Enabled" if versioned or lock else "Off", lock_enabled=lock)
        self.buckets[name] = bucket
        return bucket

    def bucket(self, name: str) -> Bucket:
        if name not in self.buckets:
            raise Refusal("NoSuchBucket")
        return self.buckets[name]

    def set_versioning(self, name: str, status: str) -> None:
        """Enabled or Suspended; a bucket with Object Lock stays enabled."""
        bucket = self.bucket(name)
        if status not in ("Enabled", "Suspended"):
            raise Refusal("MalformedXML")
        if bucket.lock_enabled and status == "Suspended":
            raise Refusal("InvalidBucketState", "Object Lock needs versioning")
        bucket.versioning = "Enabled" if status == "Enabled" else "Suspended"

    # --- looking
    def shown_ms(self, entry: Stored) -> int:
        """Its `Last-Modified` as listings show it."""
        return floored(entry.modified_ms) if self.whole_seconds else entry.modified_ms

    def look(self, name: str, key: str, version_id: str | None = None) -> Stored:
        """The version that GET and HEAD speak of. Raises Refusal: 404, or 405 for a marker by its id."""
        bucket = self.bucket(name)
        entry = bucket.latest(key) if version_id is None else self.version(name, key, version_id)
        if entry is None:
            raise Refusal("NoSuchKey")
        if not entry.is_marker:
            return entry
        headers = {"x-amz-delete-marker": "true", "x-amz-version-id": entry.version_id}
        if version_id is None:
            raise Refusal("NoSuchKey", headers=headers)
        raise Refusal("MethodNotAllowed", headers={**headers, "Allow": "DELETE"})

    def version(self, name: str, key: str, version_id: str) -> Stored:
        """Any entry by its id. Raises Refusal: 404, or 400 for what cannot be an id."""
        if version_id != NULL and not _VERSION_ID.fullmatch(version_id):
            raise Refusal("InvalidArgument", "Invalid version id specified")
        entry = self.bucket(name).find(key, version_id)
        if entry is None:
            raise Refusal("NoSuchVersion")
        return entry

    def readable(self, name: str, key: str, version_id: str | None = None) -> Stored:
        """As `look`, and its bytes can be had now. Raises Refusal: 403 for an archived one."""
        entry = self.look(name, key, version_id)
        if not entry.is_readable(self.clock.now_ms):
            raise Refusal("InvalidObjectState", "The operation is not valid for the object's storage class")
        return entry

    # --- writing
    def put(
        self,
        name: str,
        key: str,
        body: Body,
        props: Properties | None = None,
        *,
        conditions: Conditions | None = None,
        event: str = "ObjectCreated:Put",
    ) -> Stored:
        """Write an object in one go."""
        bucket = self.bucket(name)
        _check_names(key, props)
        (conditions or Conditions()).check(bucket.current(key))
        props = props or Properties()
        entry = Stored(key, "", self.next_order(), self.clock.now_ms, body=body, props=props)
        entry.etag = self.etag_of(body.md5(), props, entry.order)
        if props.checksum_algorithm:
            entry.checksum = f"{props.checksum_algorithm}:{body.checksum(props.checksum_algorithm)}"
        return self.keep(bucket, entry, event)

    def copy(
        self,
        source: tuple[str, str, str | None],
        target: tuple[str, str],
        props: Properties | None = None,
        *,
        replaces_metadata: bool = False,
        replaces_tags: bool = False,
        conditions: Conditions | None = None,
    ) -> Stored:
        """CopyObject: metadata and tags go along unless replaced; storage class and key are the request's."""
        found = self.copy_source(*source)
        if found.body.size > COPY_BYTES_MAX:
            raise Refusal("InvalidRequest", "The specified copy source is larger than the maximum allowable")
        asked = props or Properties()
        changes = replaces_metadata or asked.storage_class != found.props.storage_class
        if source[:2] == target and source[2] is None and not changes:
            raise Refusal("InvalidRequest", "This copy request is illegal: it changes nothing")
        merged = deepcopy(asked)
        if not replaces_metadata:
            merged.headers, merged.metadata = dict(found.props.headers), dict(found.props.metadata)
        if not replaces_tags:
            merged.tags = dict(found.props.tags)
        merged.checksum_algorithm = asked.checksum_algorithm or found.props.checksum_algorithm
        return self.put(*target, found.body, merged, conditions=conditions, event="ObjectCreated:Copy")

    def copy_source(self, name: str, key: str, version_id: str | None) -> Stored:
        """What CopyObject and UploadPartCopy read. Raises Refusal."""
        try:
            found = self.readable(name, key, version_id)
        except Refusal as refusal:
            if refusal.code == "MethodNotAllowed":
                raise Refusal(
                    "InvalidRequest", "The source of a copy request may not refer to a delete marker"
                ) from None
            raise
        if found.props.encryption == "customer":
            raise Refusal("InvalidRequest", "The object was stored using a form of Server Side Encryption")
        return found

    def delete(self, name: str, key: str, *, if_match: str | None = None) -> Stored | None:
        """DELETE without a version id: a marker where versions are kept (also for an unknown key).

        That an If-Match without a current version answers 412 is our reading: the guide names 412 for what
        does not match, and 404 for a race.
        """
        bucket = self.bucket(name)
        current = bucket.current(key)
        if if_match is not None and (current is None or if_match not in ("*", current.etag)):
            raise Refusal("PreconditionFailed")
        if bucket.versioning == "Off":
            if current is not None:
                bucket.remove(current)
                self.tell("ObjectRemoved:Delete", bucket, current)
            return None
        marker = Stored(key, "", self.next_order(), self.clock.now_ms, is_marker=True)
        return self.keep(bucket, marker, "ObjectRemoved:DeleteMarkerCreated")

    def delete_version(
        self, name: str, key: str, version_id: str, *, if_match: str | None = None, bypass: bool = False
    ) -> Stored | None:
        """DELETE of one version or marker, for ever; None when there is none (which is no error)."""
        bucket = self.bucket(name)
        try:
            entry = self.version(name, key, version_id)
        except Refusal as refusal:
            if refusal.code != "NoSuchVersion":
                raise
            return None
        if if_match is not None and (entry.is_marker or if_match not in ("*", entry.etag)):
            raise Refusal("PreconditionFailed")
        if self.is_locked(entry, bypass=bypass):
            raise Refusal("AccessDenied", "Access Denied because object protected by object lock.")
        bucket.remove(entry)
        self.tell("ObjectRemoved:Delete", bucket, entry)
        return entry

    def is_locked(self, entry: Stored, *, bypass: bool = False) -> bool:
        """Whether Object Lock keeps it from being removed for ever."""
        props = entry.props
        if props.legal_hold:
            return True
        held = props.lock_mode and self.clock.now_ms < props.retain_until_ms
        return bool(held) and not (props.lock_mode == "GOVERNANCE" and bypass)

    def restore(self, name: str, key: str, version_id: str | None, *, days: int, takes_s: float = 0) -> bool:
        """RestoreObject of an archived version; False when a restored copy was there already."""
        entry = self.look(name, key, version_id)
        now = self.clock.now_ms
        if entry.props.storage_class not in ("GLACIER", "DEEP_ARCHIVE") and not entry.archive_status:
            raise Refusal(
                "InvalidObjectState", "Restore is not allowed for the object's current storage class"
            )
        if entry.restored_from_ms is not None and now < entry.restored_from_ms:
            raise Refusal("RestoreAlreadyInProgress")
        there = entry.restored_from_ms is not None and now < entry.restored_until_ms
        if not there:
            entry.restored_from_ms = now + round(takes_s * 1000)
        entry.restored_until_ms = (entry.restored_from_ms or now) + days * 86_400_000
        return not there

    def replicate(self, source: tuple[str, str, str], to: str) -> Stored:
        """Bring a version or marker to another bucket as replication does: same id, the source's time."""
        entry = self.version(*source)
        bucket = self.bucket(to)
        arrived = replace(deepcopy(entry))
        bucket.add(arrived)
        self.tell("Replication:OperationReplicatedAfterThreshold", bucket, arrived)
        return arrived

    # --- shared with the modules that finish uploads and purge
    def keep(self, bucket: Bucket, entry: Stored, event: str) -> Stored:
        """Give the entry its id by the bucket's versioning; without it, the `null` before goes for ever."""
        if bucket.versioning == "Enabled":
            entry.version_id = self._version_id(entry.order)
        else:
            entry.version_id = NULL
            before = bucket.find(entry.key, NULL)
            if before is not None:
                bucket.remove(before)
        bucket.add(entry)
        self.tell(event, bucket, entry)
        return entry

    def tell(self, name: str, bucket: Bucket, entry: Stored) -> None:
        self._on_change(
            Happened(
                name,
                bucket.name,
                entry.key,
                entry.version_id,
                self.clock.now_ms,
                entry.body.size,
                entry.etag,
                self.next_order(),
            )
        )

    def next_order(self) -> int:
        self._drawn += 1
        return self._drawn

    def etag_of(self, md5: bytes, props: Properties, order: int) -> str:
        """The MD5 only where the object is in the clear or under S3's own keys."""
        if props.encryption == "AES256":
            return md5.hex()
        return hashlib.md5(md5 + order.to_bytes(8, "big")).hexdigest()

    def _version_id(self, order: int) -> str:
        """Opaque, and not in the order of time."""
        return hashlib.sha256(f"version {order}".encode()).hexdigest()[:32].translate(_SPELLED)


_SPELLED = str.maketrans("0123456789abcdef", "GhJkMnPqR_TvWxY.")


def _check_names(key: str, props: Properties | None) -> None:
    if len(key.encode()) > KEY_BYTES_MAX:
        raise Refusal("KeyTooLongError")
    if props is not None:
        held = sum(len(name.encode()) + len(value.encode()) for name, value in props.metadata.items())
        if held > METADATA_BYTES_MAX:
            raise Refusal("MetadataTooLarge")
