"""The seams to the application's versioned bucket ("evidence"): the bucket, and an index of its versions.

Rules for a bucket (one suite in tests/contracts runs against every implementation and server):
- Calls block and are thread-safe; every call has its own time limit and retries inside the adapter.
- A listing keeps the server's order, in every detail; it never ends early and never concludes absence from an
  error. A page that cannot be trusted raises StoreMisbehaves.
- A write is conditional: it happens only while the current state of the key is the one that was seen, else
  BucketChanged. Nothing here can remove a data version: `remove_marker` takes only what was listed as a
  marker, and lists it again just before.
Rules for an index (one property-tested suite against a naive model):
- It is a cache: everything but `gone` rows and completion times comes again from a listing, and those travel
  into the repository as deltas.
- `ingest` is idempotent, and reads the listing to its end before it changes anything: one that fails on the
  way changes nothing. It is then written in bounded steps, each of whole keys; a crash leaves some done.
- Of each key listings count in the order they were asked for; an older one than the last that counted is
  passed over. So an event's listing of one key may overtake that of the whole bucket.
- `observe` of a `scan` tells that a listing of everything was taken over; before it, after very much was
  taken over, questions may be slow.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from walarchiver.core.bucketfacts import LifecycleRule as LifecycleRule
from walarchiver.core.bucketfacts import Observation as Observation
from walarchiver.core.bucketfacts import Versioning as Versioning
from walarchiver.core.version import Entry, Row, StoreMs


@dataclass(frozen=True, slots=True)
class KeyRange:
    """Keys from `first` to `last`, both included; `last` None: to the end. Order is that of UTF-8 bytes."""

    first: str = ""
    last: str | None = None

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and key >= self.first and (self.last is None or key <= self.last)


@dataclass(frozen=True, slots=True)
class Current:
    """What a key holds now, by ListObjectsV2."""

    key: str
    etag: str
    size: int


@dataclass(frozen=True, slots=True)
class VersionDetail:
    """What HEAD says of one version."""

    size: int
    etag: str
    modified: StoreMs
    storage_class: str
    readable: bool
    """False while it lies in an archive tier and no restored copy is there."""
    encryption: str
    """``, `AES256`, `aws:kms`, `aws:kms:dsse` or `customer` (SSE-C: cannot be copied without its key)."""
    key_id: str
    """KMS key, if any."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Content-Type, Cache-Control, Content-Disposition, Content-Encoding, Content-Language, Expires."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """User metadata, without `x-amz-meta-`."""
    checksum: str | None = None
    """Full-object checksum as `ALGORITHM:base64`, where the store has one."""


@dataclass(frozen=True, slots=True)
class Written:
    """What the store said about a finished write."""

    version_id: str
    etag: str
    modified: StoreMs | None = None
    date: StoreMs | None = None
    """The answer's Date header."""


@dataclass(frozen=True, slots=True)
class Expected:
    """The state of a key that a write relies on: `etag` of the current version; None: none is current."""

    etag: str | None


class EvidenceBucket(Protocol):
    """One versioned bucket, or a prefix of it. Keys are whole (with the prefix)."""

    @property
    def url(self) -> str: ...

    @property
    def name(self) -> str: ...

    @property
    def prefix(self) -> str:
        """Everything watched lies below it; may be empty."""
        ...

    # --- looking
    def list_entries(self, keys: KeyRange, *, page_entries: int = 1000) -> Iterator[tuple[Entry, ...]]:
        """All versions and markers of the keys in the range, page by page, in the server's document order."""
        ...

    def list_current(self, keys: KeyRange, *, page_entries: int = 1000) -> Iterator[Current]:
        """The current objects by the other listing call: the cross-check."""
        ...

    def list_folders(self, prefix: str) -> tuple[str, ...]:
        """The common prefixes up to the next `/` that versions lie under (for shards)."""
        ...

    def versioning(self) -> Versioning: ...

    def lifecycle(self) -> tuple[LifecycleRule, ...]:
        """Enabled rules that meet the prefix. Raises StoreDenied when that is hidden."""
        ...

    def date(self) -> StoreMs:
        """The store's clock, to the second."""
        ...

    def detail(self, key: str, version_id: str) -> VersionDetail | None:
        """None when the store says that this version does not exist."""
        ...

    def tags(self, key: str, version_id: str) -> Mapping[str, str]: ...

    def read(self, key: str, version_id: str) -> Iterator[bytes]:
        """The body in pieces. Raises ObjectDamaged when it is shorter or longer than announced."""
        ...

    # --- writing
    def put(self, key: str, body: bytes, *, expected: Expected | None = None) -> Written:
        """A small object. Raises BucketChanged when the key is not as `expected` (None: whatever it is)."""
        ...

    def copy(
        self, source: EvidenceBucket, key: str, version_id: str, *, to: str, size: int, expected: Expected
    ) -> Written:
        """Copy one version to `to` in this bucket, with metadata, headers and tags; above 5 GB in parts.

        Stays inside the store when both buckets are reached with the same endpoint and credentials; else
        the bytes pass through here. Raises BucketChanged, VersionUnreadable (archive tier, customer's key),
        Store….
        """
        ...

    def mark_deleted(self, key: str, *, expected: Expected) -> Written:
        """Add a delete marker. Raises BucketChanged."""
        ...

    def remove_marker(self, key: str, version_id: str) -> None:
        """Remove one delete marker, listed again as one just before. Raises BucketChanged when it is none."""
        ...

    def request_thaw(self, key: str, version_id: str, *, days: int) -> None:
        """Ask for a readable copy of an archived version, for so many days (RestoreObject, standard tier).

        Returns when the store took the request or is at it already; the copy takes hours. Raises
        VersionUnreadable when the version is not archived or does not exist.
        """
        ...

    def close(self) -> None: ...


# --- the bucket's notifications ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FeedMessage:
    """One message; `handle` is the feed's own."""

    handle: str
    text: str


class EventFeed(Protocol):
    """A queue of notifications. Calls block for seconds at most. Raises StoreUnavailable, StoreDenied."""

    @property
    def name(self) -> str: ...

    def take(self) -> tuple[FeedMessage, ...]:
        """Some messages that were not taken yet; none when the feed is empty now."""
        ...

    def done(self, messages: Iterable[FeedMessage]) -> None:
        """What they tell is in the index."""
        ...

    def put_aside(self, message: FeedMessage, reason: str) -> None:
        """Keep it where a person finds it; it does not come again."""
        ...

    def kept_ms(self) -> int | None:
        """How long an untaken message is kept; None: for ever."""
        ...

    def close(self) -> None: ...


# --- the index ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ingested:
    """What one ingest changed."""

    added: int
    gone: int
    revived: int
    """Rows that had been gone and are listed again: an earlier listing was not complete."""


@dataclass(frozen=True, slots=True)
class Totals:
    """Objects that were current at a moment."""

    objects: int
    bytes: int
    gone: int
    """Of these, how many are removed for ever since."""


@dataclass(frozen=True, slots=True)
class Change:
    """A key whose current version differs between two moments; None: there was none."""

    key: str
    before: Row | None
    after: Row | None


class Doubt(StrEnum):
    """Why the state of a key at a moment is not certain."""

    BOUNDARY = "boundary"
    """Something happened in the very second."""
    MULTIPART = "multipart"
    """A multipart upload whose end is unknown may or may not have been there."""
    ORDER = "order"
    """The server's own order contradicts the times."""
    NULL = "null"
    """A `null` version may have replaced another one."""
    REMOVED = "removed"
    """An entry that mattered was removed for ever at a time that is known as a range only."""


@dataclass(frozen=True, slots=True)
class Uncertain:
    """A key whose state at the moment is not certain."""

    key: str
    doubts: tuple[Doubt, ...]


class VersionIndex(Protocol):
    """All versions of one bucket with their intervals. Thread-safe; calls block."""

    def ingest(self, keys: KeyRange, entries: Iterable[Entry], *, asked: StoreMs) -> Ingested:
        """Take over a complete listing of a key range, in the server's order.

        Rows in the range that are not listed become `gone`, unless a listing of their key counted that was
        asked for after `asked`. Raises StoreMisbehaves for a key outside of the range.
        """
        ...

    def complete_upload(self, key: str, version_id: str, at: StoreMs) -> None:
        """An event told when a multipart upload ended (kept also when the version is not known yet)."""
        ...

    def history(self, key: str) -> tuple[Row, ...]:
        """Newest first, gone ones included."""
        ...

    def histories(self, keys: Iterable[str]) -> Iterator[tuple[str, tuple[Row, ...]]]:
        """The history of each of many keys, in the order asked; read ahead, so better than one by one."""
        ...

    def entries_there(self, keys: KeyRange) -> Iterator[tuple[str, int]]:
        """Each key of the range with the number of its entries that are not gone, in key order."""
        ...

    def as_of(self, moment: StoreMs, *, prefix: str = "", after: str = "") -> Iterator[Row]:
        """The versions current at `moment`, in key order from behind `after`; gone ones included."""
        ...

    def totals(self, moment: StoreMs, *, prefix: str = "") -> Totals: ...

    def diff(self, earlier: StoreMs, later: StoreMs, *, prefix: str = "") -> Iterator[Change]:
        """Keys whose current version differs, in key order."""
        ...

    def uncertain(self, moment: StoreMs, *, prefix: str = "", band_ms: int = 1000) -> Iterator[Uncertain]:
        """Keys with an entry that began in (moment - band, moment], or another doubt, in key order."""
        ...

    def observe(self, seen: Observation) -> None: ...

    def observations(self) -> tuple[Observation, ...]:
        """All of them, oldest first."""
        ...

    def unshipped(self, *, keys_max: int) -> tuple[str, ...]:
        """Keys changed since they were last marked as shipped, in key order."""
        ...

    def mark_shipped(self, keys: Iterable[str], *, changes_before: int) -> None:
        """These keys are durable in the repository as they were at change number `changes_before`."""
        ...

    def unship_all(self) -> None:
        """Every key is as if it had never been shipped: the repository is to hold all of it anew."""
        ...

    @property
    def changes(self) -> int:
        """Counts changes; grows only."""
        ...

    def load(self, key: str, rows: Iterable[Row]) -> None:
        """Put a key's rows, as shipped before, in place of what is known of it."""
        ...

    def load_many(self, histories: Iterable[tuple[str, tuple[Row, ...]]]) -> int:
        """`load` for many keys, some thousands in a transaction; the number of rows."""
        ...

    def close(self) -> None: ...
