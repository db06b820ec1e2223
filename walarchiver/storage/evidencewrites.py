"""Conditional writes whose outcome is never guessed.

Rules:
- Every request is made once. What may pass is repeated only after the key was looked at: when its newest
  entry is what we tried to write, the write has happened and is not made again. Our entry is told by its
  content (ETag or checksum), and by not being older than our first try on the store's clock. (Whoever wrote
  the same content in the same seconds is taken for us; nothing is lost by that.) Where the content cannot
  be told it counts as not ours, and the condition of the repeat refuses it.
- A repeat carries the same condition, so a first try that lands late makes it fail, not write twice.
- 412 and the conflicts of conditions are BucketChanged. So is 404 of a key that should have been there.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from walarchiver.bucketports import Expected, Written
from walarchiver.core.version import Entry, EntryKind, StoreMs
from walarchiver.errors import BucketChanged, StoreMisbehaves, StoreUnavailable
from walarchiver.storage.botocoreerrors import LIBRARY_ERRORS
from walarchiver.storage.evidencecalls import BucketCalls, date_ms
from walarchiver.storage.s3answers import refusal_in
from walarchiver.storage.s3client import Reply

Answer = TypeVar("Answer")

_CLOCK_MS = 2000
"""The store's clock is read to the second, and times in listings are rounded down."""
_CLOCK_KEPT_S = 300.0


@dataclass(frozen=True, slots=True)
class Attempt:
    """What a write leaves as the newest entry of its key."""

    key: str
    kind: EntryKind
    size: int
    is_ours: Callable[[Entry], bool] = lambda _entry: True
    """Whether an entry of that kind and size has the content that we tried to write."""


class Writes:
    """Writes to one bucket."""

    def __init__(
        self,
        calls: BucketCalls,
        entries_of: Callable[[str], tuple[Entry, ...]],
        date: Callable[[], StoreMs],
    ) -> None:
        self._calls = calls
        self._entries_of = entries_of
        self._date = date
        self._read: tuple[StoreMs, float] | None = None
        """The store's clock, and ours when it was read."""

    def put(self, key: str, body: bytes, expected: Expected | None) -> Written:
        digest = hashlib.md5(body, usedforsecurity=False)
        request = self._calls.request(
            key,
            Body=body,
            ContentMD5=base64.b64encode(digest.digest()).decode("ascii"),
            **condition(expected),
        )
        etag = digest.hexdigest()
        attempt = Attempt(key, EntryKind.VERSION, len(body), lambda entry: entry.etag == etag)
        return self.made(attempt, lambda: written(self._calls.client.put_object(**request)))

    def mark_deleted(self, key: str, expected: Expected) -> Written:
        if expected.etag is None:
            raise BucketChanged(f"{key} in {self._calls.location.url} holds nothing that could be deleted")
        request = self._calls.request(key, **condition(expected))

        def delete() -> Written:
            reply = self._calls.client.delete_object(**request)
            version_id = reply.get("VersionId")
            if not isinstance(version_id, str) or not version_id:
                raise StoreMisbehaves(f"{self._calls.location.url} deleted {key} without naming its marker")
            return Written(version_id, "", date=date_ms(reply))

        return self.made(Attempt(key, EntryKind.MARKER, 0), delete)

    def made(self, attempt: Attempt, step: Callable[[], Written]) -> Written:
        """What `step` wrote, or what an earlier try of it turns out to have written. Raises BucketChanged."""
        began = self._now()
        open_tries = 0

        def tried() -> Written:
            nonlocal open_tries
            if open_tries:
                found = self._found(attempt, began)
                if found is not None:
                    return found
            try:
                return self._calls.once(f"write {attempt.key}", lambda: refused_as_changed(step))
            except StoreUnavailable:
                open_tries += 1
                raise
            except BucketChanged:
                found = self._found(attempt, began) if open_tries else None
                if found is None:
                    raise
                return found

        return self._calls.repeated(f"write {attempt.key}", tried)

    def _now(self) -> StoreMs:
        """The store's clock, asked for now and then and counted on in between."""
        known, now_s = self._read, self._calls.clock.monotonic_s()
        if known is None or now_s - known[1] > _CLOCK_KEPT_S:
            known = self._read = (self._date(), now_s)
        return StoreMs(known[0] + int((now_s - known[1]) * 1000))

    def _found(self, attempt: Attempt, began: StoreMs) -> Written | None:
        """The newest entry of the key when it is what we tried to write."""
        newest = next((entry for entry in self._entries_of(attempt.key) if entry.is_latest), None)
        if (
            newest is None
            or newest.kind is not attempt.kind
            or newest.modified < began - _CLOCK_MS
            or newest.size != attempt.size
            or not attempt.is_ours(newest)
        ):
            return None
        return Written(newest.version_id, newest.etag, modified=newest.modified)


def refused_as_changed(step: Callable[[], Answer]) -> Answer:
    """`step`, with the refusals of its condition as BucketChanged."""
    try:
        return step()
    except LIBRARY_ERRORS as failure:
        refusal = refusal_in(failure)
        if refusal is not None and (refusal.status, refusal.code) in _CHANGED:
            raise BucketChanged(
                f"the key is not as it was seen: {refusal.status} {refusal.code}"
            ) from failure
        raise


_CHANGED = frozenset(
    {
        (412, "PreconditionFailed"),
        (409, "ConditionalRequestConflict"),
        (404, "NoSuchKey"),
        (404, "NoSuchVersion"),  # what was to be copied
        (404, "NoSuchUpload"),  # completed by a try whose answer did not come, or aborted by somebody
    }
)


def condition(expected: Expected | None) -> Mapping[str, str]:
    """The condition of a write as request parameters."""
    if expected is None:
        return {}
    return {"IfNoneMatch": "*"} if expected.etag is None else {"IfMatch": f'"{expected.etag}"'}


def written(reply: Reply, part: str | None = None) -> Written:
    """What a finished write says; for a copy it stands in `part`. Raises StoreUnavailable without an ETag."""
    told = reply.get(part) if part is not None else reply
    fields: Mapping[str, object] = told if isinstance(told, dict) else {}
    etag, version_id, modified = fields.get("ETag"), reply.get("VersionId"), fields.get("LastModified")
    if not isinstance(etag, str) or not etag:
        raise StoreUnavailable("the store took the object without an ETag, so it may not be there")
    if not isinstance(version_id, str) or not version_id:
        raise StoreMisbehaves("the store took the object without naming its version: is versioning on?")
    return Written(
        version_id,
        etag.strip('"'),
        modified=StoreMs(int(modified.timestamp() * 1000)) if isinstance(modified, datetime) else None,
        date=date_ms(reply),
    )
