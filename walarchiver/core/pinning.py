"""Versions that a pin keeps, and whether a bucket's lifecycle rules will leave them alone for so long.

Rules (Amazon S3 User Guide, "Lifecycle configuration elements"; docs/bucket.md tells them again):
- What was current at the cutoff is replaced after it, at the earliest; a rule removes it when its noncurrent
  days have passed since. So it is surely there until cutoff plus days, and nothing is promised behind that.
- A rule for a part of the keys counts for all. `NewerNoncurrentVersions` keeps more, never for sure.
- Where copies lie nothing is ever replaced, so only a rule that expires current objects endangers them.
- Rules may change: this is what holds now. `bucket pin --verify` says what is there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from walarchiver.core.bucketfacts import LifecycleRule, Versioning
from walarchiver.core.bucketwindow import DAY_MS
from walarchiver.core.version import Row, StoreMs


@dataclass(frozen=True, slots=True)
class PinnedVersion:
    """One version of a pin."""

    key: str
    version_id: str
    size: int
    etag: str
    modified: StoreMs
    storage_class: str
    copy: str = ""
    """Name of the same content below the URL that the pin's record says; empty: there is no copy."""

    @classmethod
    def of(cls, row: Row) -> PinnedVersion:
        """As the index knows it."""
        entry = row.entry
        return cls(entry.key, entry.version_id, entry.size, entry.etag, entry.modified, entry.storage_class)


def endangered_by(
    versioning: Versioning, rules: Sequence[LifecycleRule] | None, *, cutoff: StoreMs, until: StoreMs
) -> tuple[str, ...]:
    """Why the versions of `cutoff` may be gone before `until`; nothing when they will be there.

    `rules`: None when they may not be asked for.
    """
    found = []
    if versioning is not Versioning.ENABLED:
        found.append(f"versioning is {versioning.value}: what is replaced or deleted is lost")
    if rules is None:
        found.append("the lifecycle rules may not be asked for")
    for rule in rules or ():
        if rule.noncurrent_days is not None and cutoff + rule.noncurrent_days * DAY_MS < until:
            days = "1 day" if rule.noncurrent_days == 1 else f"{rule.noncurrent_days} days"
            found.append(
                f"lifecycle rule {rule.id!r} removes versions {days} after they were replaced or deleted"
            )
    return tuple(found)


def copies_endangered_by(rules: Sequence[LifecycleRule] | None) -> tuple[str, ...]:
    """Why copies may vanish from a backup bucket."""
    if rules is None:
        return ()
    return tuple(f"lifecycle rule {rule.id!r} expires objects" for rule in rules if rule.expires)
