"""The evidence bucket on S3 (botocore): looking at versions, and the few conditional writes.

Rules (the port's are in walarchiver/bucketports.py):
- Nothing is taken as absent but by the server's own word; HEAD has no body to say it in, so a version that
  HEAD does not find is looked for in the listing of its key.
- Every write carries a condition on what the key holds now. After a write whose outcome is open the key is
  looked at before anything is repeated, see evidencewrites.py.
- The only delete by version id is that of a marker which was listed as one just before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import cast

from walarchiver.bucketports import (
    Current,
    EvidenceBucket,
    Expected,
    KeyRange,
    LifecycleRule,
    VersionDetail,
    Versioning,
    Written,
)
from walarchiver.core.version import Entry, EntryKind, StoreMs
from walarchiver.errors import (
    BucketChanged,
    ObjectDamaged,
    StoreMisbehaves,
    StoreUnavailable,
    VersionUnreadable,
)
from walarchiver.ports import Clock, Random
from walarchiver.storage.botocoreerrors import LIBRARY_ERRORS
from walarchiver.storage.evidencecalls import BucketCalls, needed_date_ms
from walarchiver.storage.evidencecopy import Copier, CopyLimits, Wanted
from walarchiver.storage.evidencedetail import detail_of, detail_without_key
from walarchiver.storage.evidencepages import current_objects, entry_pages, folders_below
from walarchiver.storage.evidencewrites import Writes
from walarchiver.storage.lifecycle import removing_rules
from walarchiver.storage.options import S3Location, S3Options
from walarchiver.storage.s3answers import explained, is_absent, refusal_in
from walarchiver.storage.s3client import Body, Reply

_READ_BYTES = 1 << 20
_THAWING = frozenset({"RestoreAlreadyInProgress"})
_NOT_ARCHIVED = frozenset({"InvalidObjectState", "NoSuchKey", "NoSuchVersion", "MethodNotAllowed"})
_PAGE_ENTRIES = 1000


class S3EvidenceBucket(EvidenceBucket):
    """One versioned bucket, or a prefix of it. Thread-safe."""

    def __init__(
        self,
        location: S3Location,
        options: S3Options,
        clock: Clock,
        random: Random,
        *,
        limits: CopyLimits | None = None,
    ) -> None:
        """Makes no request, unless a platform role must be asked for.

        Raises ConfigError for contradictory options, StoreDenied when there are no usable credentials.
        """
        self._calls = BucketCalls(location, options, clock, random)
        self._writes = Writes(self._calls, self.entries_of, self.date)
        self._copier = Copier(self._calls, self._writes, self.detail, limits or CopyLimits())

    @property
    def url(self) -> str:
        return self._calls.location.url

    @property
    def name(self) -> str:
        return self._calls.location.bucket

    @property
    def prefix(self) -> str:
        return self._calls.location.prefix

    @property
    def options(self) -> S3Options:
        """How it is reached."""
        return self._calls.options

    # --- looking -------------------------------------------------------------------------------

    def list_entries(self, keys: KeyRange, *, page_entries: int = 1000) -> Iterator[tuple[Entry, ...]]:
        return entry_pages(self._calls, keys, page_entries)

    def list_current(self, keys: KeyRange, *, page_entries: int = 1000) -> Iterator[Current]:
        return current_objects(self._calls, keys, page_entries)

    def list_folders(self, prefix: str) -> tuple[str, ...]:
        return folders_below(self._calls, prefix, _PAGE_ENTRIES)

    def entries_of(self, key: str) -> tuple[Entry, ...]:
        """All versions and markers of one key, in the server's order."""
        return tuple(entry for page in self.list_entries(KeyRange(key, key)) for entry in page)

    def versioning(self) -> Versioning:
        status = str(self._asked_for_versioning().get("Status") or "Off")
        try:
            return Versioning(status)
        except ValueError:
            raise StoreMisbehaves(f"{self.url} says that versioning is {status[:100]!r}") from None

    def lifecycle(self) -> tuple[LifecycleRule, ...]:
        def ask() -> Reply:
            try:
                return self._calls.client.get_bucket_lifecycle_configuration(Bucket=self.name)
            except LIBRARY_ERRORS as failure:
                refusal = refusal_in(failure)
                if refusal is not None and refusal.code == "NoSuchLifecycleConfiguration":
                    return {}
                raise

        return removing_rules(self._calls.asked("ask for lifecycle rules", ask), self.prefix)

    def date(self) -> StoreMs:
        return needed_date_ms(self._asked_for_versioning(), self.url)

    def detail(self, key: str, version_id: str) -> VersionDetail | None:
        request = self._calls.request(key, version_id, ChecksumMode="ENABLED")

        def head() -> Reply | int:
            try:
                return self._calls.client.head_object(**request)
            except LIBRARY_ERRORS as failure:
                refusal = refusal_in(failure)
                if refusal is not None and refusal.status in (400, 404, 405):
                    return refusal.status  # its reason would stand in a body, which HEAD has not
                raise

        reply = self._calls.asked(f"look at {key}", head)
        if not isinstance(reply, int):
            return detail_of(reply, f"{key} in {self.url}")
        listed = self._listed(key, version_id)
        if reply == 400 and listed is not None and self._needs_a_key(key, version_id):
            return detail_without_key(listed)
        if listed is not None:
            raise StoreUnavailable(
                f"look at {key} in {self.url}: status {reply} for a version that the listing shows"
            )
        return None

    def tags(self, key: str, version_id: str) -> Mapping[str, str]:
        request = self._calls.request(key, version_id)
        reply = self._of_version(
            f"ask for tags of {key}", lambda: self._calls.client.get_object_tagging(**request)
        )
        found = reply.get("TagSet")
        return {str(tag["Key"]): str(tag["Value"]) for tag in found} if isinstance(found, list) else {}

    def read(self, key: str, version_id: str) -> Iterator[bytes]:
        where = f"read {key} in {self.url}"
        request = self._calls.request(key, version_id)
        reply = self._of_version(f"read {key}", lambda: self._calls.client.get_object(**request))
        announced, body = reply.get("ContentLength"), cast("Body", reply["Body"])
        read = 0
        try:
            while piece := body.read(_READ_BYTES):
                read += len(piece)
                yield piece
        except LIBRARY_ERRORS as failure:
            raise explained(f"{where}: after {read} of {announced} bytes", failure) from failure
        finally:
            body.close()
        if read != announced:
            raise ObjectDamaged(f"{where}: {read} bytes came, {announced} were announced")

    def request_thaw(self, key: str, version_id: str, *, days: int) -> None:
        request = self._calls.request(
            key, version_id, RestoreRequest={"Days": days, "GlacierJobParameters": {"Tier": "Standard"}}
        )

        def ask() -> None:
            try:
                self._calls.client.restore_object(**request)
            except LIBRARY_ERRORS as failure:
                refusal = refusal_in(failure)
                if refusal is None or refusal.code not in _THAWING | _NOT_ARCHIVED:
                    raise
                if refusal.code in _NOT_ARCHIVED:
                    raise VersionUnreadable(
                        f"{version_id} of {key} in {self.url} is not in an archive tier: {refusal.code}",
                        hint="Plan again: it is readable, or it is gone.",
                    ) from failure

        self._calls.asked(f"ask for {key} from its archive tier", ask)

    # --- writing -------------------------------------------------------------------------------

    def put(self, key: str, body: bytes, *, expected: Expected | None = None) -> Written:
        return self._writes.put(key, body, expected)

    def copy(
        self, source: EvidenceBucket, key: str, version_id: str, *, to: str, size: int, expected: Expected
    ) -> Written:
        wanted = Wanted(source, key, version_id, to, expected)
        return self._copier.copy(wanted, size, within_store=self._reaches(source))

    def mark_deleted(self, key: str, *, expected: Expected) -> Written:
        return self._writes.mark_deleted(key, expected)

    def remove_marker(self, key: str, version_id: str) -> None:
        listed = self._listed(key, version_id, markers=True)
        if listed is None or listed.kind is not EntryKind.MARKER:
            raise BucketChanged(f"{version_id!r} of {key} in {self.url} is not a delete marker (any more)")
        request = self._calls.request(key, version_id)

        def delete() -> None:
            try:
                self._calls.client.delete_object(**request)
            except LIBRARY_ERRORS as failure:
                if not is_absent(failure, by_version=True):
                    raise

        self._calls.asked(f"remove the marker of {key}", delete)

    def close(self) -> None:
        self._calls.close()

    # --- parts ---------------------------------------------------------------------------------

    def _of_version(self, what: str, ask: Callable[[], Reply]) -> Reply:
        """An answer about one version. Raises VersionUnreadable when there is none."""

        def asked() -> Reply:
            try:
                return ask()
            except LIBRARY_ERRORS as failure:
                if is_absent(failure, by_version=True):
                    raise VersionUnreadable(
                        f"{what} in {self.url}: the version does not exist (any more)",
                        hint="Was it removed since it was listed? Plan again.",
                    ) from failure
                raise

        return self._calls.asked(what, asked)

    def _asked_for_versioning(self) -> Reply:
        return self._calls.asked(
            "ask for versioning", lambda: self._calls.client.get_bucket_versioning(Bucket=self.name)
        )

    def _listed(self, key: str, version_id: str, *, markers: bool = False) -> Entry | None:
        for entry in self.entries_of(key):
            if entry.version_id == version_id and (markers or entry.kind is EntryKind.VERSION):
                return entry
        return None

    def _needs_a_key(self, key: str, version_id: str) -> bool:
        """Whether the store says that the version was encrypted with a customer's key (GET has a body)."""
        request = self._calls.request(key, version_id, Range="bytes=0-0")

        def ask() -> bool:
            try:
                cast("Body", self._calls.client.get_object(**request)["Body"]).close()
            except LIBRARY_ERRORS as failure:
                refusal = refusal_in(failure)
                if refusal is not None and refusal.status == 400:
                    return refusal.code == "InvalidRequest" and "encrypt" in refusal.text.lower()
                raise
            return False

        return self._calls.asked(f"look at {key}", ask)

    def _reaches(self, source: EvidenceBucket) -> bool:
        """Whether the store can copy from there by itself: the same endpoint, and the same credentials."""
        if not isinstance(source, S3EvidenceBucket):
            return False
        ours, theirs = self._calls.options, source.options
        return (ours.endpoint, ours.region, ours.credentials) == (
            theirs.endpoint,
            theirs.region,
            theirs.credentials,
        )
