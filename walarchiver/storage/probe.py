"""Does this store do what the repository format needs? Asked of the store itself, never assumed.

Rules:
- `probe_create_once` is safe on a live repository: it sends bytes that are there already, so even
  a store that overwrites changes nothing but a version count. Other bytes are never sent.
- `survey` (for `walarchiver s3 probe`) writes one scratch object and removes it if it may.
- A property that could not be asked is UNKNOWN with the reason, never held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from walarchiver.errors import (
    KeyTaken,
    ObjectDamaged,
    ObjectMissing,
    StoreDenied,
    StoreMisbehaves,
    WalarchiverError,
)
from walarchiver.ports import Clock, ObjectStore

if TYPE_CHECKING:
    from walarchiver.storage.s3 import S3Store

_SKEW_MAX_S = 30


@dataclass(frozen=True, slots=True)
class Capability:
    """Whether a name can be written once only, and how that was seen."""

    create_once: bool
    line: str


class Finding(StrEnum):
    """What became of one question."""

    HELD = "yes"
    MISSING = "no"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Property:
    """One property of a store; `line` is the whole answer in words."""

    name: str
    finding: Finding
    line: str


def probe_create_once(store: ObjectStore, key: str, body: bytes) -> Capability:
    """Create the existing `key` again with the very bytes it has, and expect to be refused.

    Raises ObjectMissing or ObjectDamaged when `key` does not hold `body` (then nothing was sent),
    StoreUnavailable and StoreDenied as any call does.
    """
    stored = store.get(key, bytes_max=len(body))
    if stored is None:
        raise ObjectMissing(f"{key} is not in {store.url}, so create-once cannot be probed with it")
    if stored != body:
        raise ObjectDamaged(f"{key} in {store.url} does not hold the bytes expected")
    before = _versions_of(store, key)
    try:
        store.put_new(key, body)
    except KeyTaken:
        if _versions_of(store, key) == before and store.get(key, bytes_max=len(body)) == body:
            return Capability(True, f"a second create of {key} was refused and changed nothing")
        return Capability(False, f"a second create of {key} was refused, but something was written")
    except StoreMisbehaves as failure:
        return Capability(False, f"conditional creates are not known here: {failure.message}")
    return Capability(False, f"{key} could be created twice: the store ignores If-None-Match")


def survey(store: ObjectStore, scratch_key: str, clock: Clock) -> tuple[Property, ...]:
    """Everything worth knowing about a store, one property after the other.

    `scratch_key` must be new; it is created, read, listed, created again and removed.
    Only its first create raises (StoreUnavailable, StoreDenied): without it nothing can be said.
    """
    body = f"walarchiver probe of {scratch_key}\n".encode("ascii")
    receipt = store.put_new(scratch_key, body)
    return tuple(
        _asked(name, question)
        for name, question in (
            ("read", lambda: _read_back(store, scratch_key, body, receipt.version_id)),
            ("list", lambda: _listed_at_once(store, scratch_key)),
            ("create once", lambda: _created_once(store, scratch_key, body)),
            *_s3_questions(store, clock),
            ("delete", lambda: _removed(store, scratch_key)),
        )
    )


Question = Callable[[], tuple[Finding, str]]


def _asked(name: str, question: Question) -> Property:
    try:
        finding, line = question()
    except WalarchiverError as failure:
        finding, line = Finding.UNKNOWN, failure.message
    return Property(name, finding, line)


def _versions_of(store: ObjectStore, key: str) -> list[str | None]:
    return [found.version_id for found in store.list_versions(key) if found.key == key]


def _read_back(store: ObjectStore, key: str, body: bytes, version_id: str | None) -> tuple[Finding, str]:
    if store.get(key, bytes_max=len(body)) != body:
        return Finding.MISSING, "an object just written does not come back"
    if version_id is not None and store.get(key, version_id=version_id, bytes_max=len(body)) != body:
        return Finding.MISSING, f"version {version_id} just written does not come back"
    return Finding.HELD, "an object just written comes back" + (", by version too" if version_id else "")


def _listed_at_once(store: ObjectStore, key: str) -> tuple[Finding, str]:
    current = any(found.key == key for found in store.list_keys(key))
    versions = any(found.key == key for found in store.list_versions(key))
    if current and versions:
        return Finding.HELD, "an object just written is listed at once, in both listings"
    return Finding.MISSING, "an object just written is not listed, so absence cannot be proven here"


def _created_once(store: ObjectStore, key: str, body: bytes) -> tuple[Finding, str]:
    capability = probe_create_once(store, key, body)
    return (Finding.HELD if capability.create_once else Finding.MISSING), capability.line


def _removed(store: ObjectStore, key: str) -> tuple[Finding, str]:
    try:
        for version_id in _versions_of(store, key):
            store.delete_version(key, version_id=version_id)
    except StoreDenied:
        return Finding.MISSING, f"these credentials cannot delete, as is best for a writer; {key} stays"
    if _versions_of(store, key):
        return Finding.MISSING, f"{key} could not be removed"
    return Finding.HELD, "these credentials can delete versions; a writer should not be able to"


def _s3_questions(store: ObjectStore, clock: Clock) -> Iterator[tuple[str, Question]]:
    from walarchiver.storage.s3 import S3Store  # botocore is loaded by those who need it

    if isinstance(store, S3Store):
        yield "versioning", lambda: _versioning(store)
        yield "lifecycle", lambda: _lifecycle(store)
        yield "clock", lambda: _clock_skew(store, clock)
        yield "checksums", lambda: _checksums(store)
        yield "bodies", lambda: (Finding.HELD, store.body_path)


def _versioning(store: S3Store) -> tuple[Finding, str]:
    state = store.versioning()
    if state == "Enabled":
        return Finding.HELD, "versioning is enabled"
    return Finding.MISSING, f"versioning is {state.lower()}: a deleted object cannot be brought back"


def _lifecycle(store: S3Store) -> tuple[Finding, str]:
    rules = store.harmful_rules()
    if not rules:
        return Finding.HELD, "no lifecycle rule removes or moves objects here"
    return Finding.MISSING, "; ".join(rules)


def _clock_skew(store: S3Store, clock: Clock) -> tuple[Finding, str]:
    """The Date header is floored to the second, so up to one second of skew is not seen."""
    before_us = clock.now_us()
    server_us = store.server_time_us()
    after_us = clock.now_us()
    if server_us is None:
        return Finding.UNKNOWN, "the server does not tell its time"
    ahead_us = max(0, server_us - after_us)
    behind_us = max(0, before_us - server_us - 1_000_000)
    if not ahead_us and not behind_us:
        return Finding.HELD, "the server's clock and this host's agree to the second"
    skew_s = (ahead_us or behind_us) / 1_000_000
    word = "ahead of" if ahead_us else "behind"
    finding = Finding.HELD if skew_s <= _SKEW_MAX_S else Finding.MISSING
    return finding, f"the server's clock is {skew_s:.1f} s {word} this host's"


def _checksums(store: S3Store) -> tuple[Finding, str]:
    if store.sends_crc:
        return Finding.HELD, "objects travel with a CRC that the store is asked to verify"
    return Finding.HELD, "objects travel with their MD5: the store does not take a CRC"
