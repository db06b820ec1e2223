"""The seams: what the shells need from the world, as Protocols.

ObjectStore rules (one contract suite in tests/contracts runs against every implementation):
- Calls block and are thread-safe; shells run them in bounded thread pools. Every call has its
  own time limit inside the adapter.
- `put_new` creates or fails: it never overwrites. It returns only when the bytes are durable.
- An outcome that is open (timeout, reset, 5xx after the body was sent) is never guessed: the
  adapter sends the *identical* bytes again inside its retry budget and reports what the
  conditional create then says: `KeyTaken` means that the name exists, by us or by another.
  What that means is the caller's business (docs/format.md, "Writes").
- Absence is an answer (`None`, empty iteration), and only given when the store said so. A refusal
  or a timeout raises: StoreUnavailable (may pass) or StoreDenied (will not).
- Only walarchiver.errors escape, whatever the library below raises.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol


@dataclass(frozen=True, slots=True)
class StoredVersion:
    """One version of one object, as a listing shows it."""

    key: str
    version_id: str | None
    """None when the store keeps no versions."""
    size: int
    modified: datetime
    is_latest: bool
    is_delete_marker: bool = False


@dataclass(frozen=True, slots=True)
class PutReceipt:
    """What the store said about a finished create."""

    version_id: str | None


class ObjectStore(Protocol):
    """A bucket (with a key prefix) or a directory; keys are '/'-separated ASCII."""

    @property
    def url(self) -> str:
        """Where this is, without secrets, for messages."""
        ...

    def put_new(self, key: str, body: bytes | bytearray | memoryview) -> PutReceipt:
        """Create `key` with exactly these bytes, durably.

        Raises KeyTaken when the name exists (perhaps by an earlier try of this very call);
        StoreUnavailable when the outcome is still open after the retry budget; StoreDenied.
        """
        ...

    def get(self, key: str, *, version_id: str | None = None, bytes_max: int) -> bytes | None:
        """The whole body of the latest (or the named) version; None when there is none.

        Raises ObjectDamaged when the body is longer than `bytes_max` or shorter than announced.
        """
        ...

    def get_range(self, key: str, *, start: int, length: int, version_id: str | None = None) -> bytes | None:
        """Up to `length` bytes from `start`; None when the object does not exist."""
        ...

    def list_keys(self, prefix: str, *, start_after: str = "") -> Iterator[StoredVersion]:
        """Current objects below `prefix` with key > `start_after`, in key order, all pages."""
        ...

    def list_versions(self, prefix: str, *, start_after: str = "") -> Iterator[StoredVersion]:
        """Every version and delete marker below `prefix` with key > `start_after`, in key order;
        a store without versions lists its objects with `version_id` None."""
        ...

    def delete_version(self, key: str, *, version_id: str | None) -> None:
        """Remove one version for ever (only `gc` and the tests call it); absent is fine."""
        ...

    def close(self) -> None: ...


class Clock(Protocol):
    """The only source of time."""

    def now_us(self) -> int:
        """Microseconds since 1970-01-01 UTC on this host's clock."""
        ...

    def monotonic_s(self) -> float:
        """Seconds that never run backwards; only differences mean anything."""
        ...


class Random(Protocol):
    """The only source of chance."""

    def token(self, length: int) -> bytes:
        """`length` unpredictable bytes (secrets are made from these)."""
        ...

    def uniform(self, low: float, high: float) -> float:
        """For jitter only."""
        ...


class Identity(Protocol):
    """A private key that opens epoch keys (a custodian)."""

    @property
    def recipient(self) -> str:
        """The recipient id that stanzas for this key carry."""
        ...

    def unwrap(self, body: str, info: bytes) -> bytes:
        """The 32-byte epoch key in a stanza body. Raises KeyCannotOpen."""
        ...


class Recipient(Protocol):
    """A public key (or a service) that epoch keys are wrapped to."""

    @property
    def recipient(self) -> str: ...

    @property
    def type(self) -> str:
        """The stanza type of docs/format.md: hpke-xwing, master-key, ..."""
        ...

    def wrap(self, epoch_key: bytes, info: bytes) -> str:
        """The stanza body, ASCII."""
        ...
