"""What a key of the bucket should hold, what it holds now, and which version the bytes can be taken from.

Rules:
- Wanted is what was current at the asked moment. Where something happened in that very second, a version is
  kept rather than an absence: a needless object costs bytes, a missing one costs evidence.
- A multipart upload that had been seen by the moment was there; whether one that was seen only later had
  ended by then is not known, and nothing here guesses.
- What a key holds now is what the server calls the latest. If that is not the first in order, it is in doubt.
- A wanted version that was removed for ever is replaced by one with equal ETag and size, if there is one;
  else it is lost, with when it existed and between which listings it went.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from walarchiver.bucketports import Doubt, LifecycleRule
from walarchiver.core.version import FOREVER, NULL_VERSION, SECOND_MS, Entry, EntryKind, Row, StoreMs, Trait

DAY_MS = 86_400_000


class Flag(StrEnum):
    """What somebody should know of a key besides what is done with it."""

    BOUNDARY = "boundary"
    """Something happened in the asked second; the version is kept."""
    MULTIPART = "multipart"
    ORDER = "order"
    NULL = "null"
    REMOVED = "removed"
    SAME_CONTENT = "same_content"
    """The wanted version is gone; another one has its ETag and size."""
    LAST_VERSION = "last_version"
    """Asked for by name and absent at the moment: the newest version before it is taken."""
    LATE = "late"
    """Stored after the moment by a transaction that had committed before."""
    EARLY_DELETE = "early_delete"
    """Deleted before the moment by a transaction that committed after it."""
    MISMATCH = "mismatch"
    """At the moment the key held other bytes than the database says; a version near it has the right ones."""
    OLDER = "older"
    """Only a version far from the moment has the bytes that the database says."""


_FLAG_OF = {
    Doubt.BOUNDARY: Flag.BOUNDARY,
    Doubt.MULTIPART: Flag.MULTIPART,
    Doubt.ORDER: Flag.ORDER,
    Doubt.NULL: Flag.NULL,
    Doubt.REMOVED: Flag.REMOVED,
}
BLOCKING = frozenset({Flag.MULTIPART, Flag.ORDER, Flag.NULL, Flag.REMOVED})
"""With one of these the state at the moment is not known."""


@dataclass(frozen=True, slots=True)
class Want:
    """What one key should hold."""

    key: str
    row: Row | None
    """The version; None: nothing."""
    flags: tuple[Flag, ...] = ()
    history: tuple[Row, ...] = ()
    """All that is known of the key in the bucket whose past is wanted, newest first; may be left out."""
    needed: bool = False
    """It is known to be needed: holding nothing would be a loss."""

    @property
    def uncertain(self) -> bool:
        return any(flag in BLOCKING for flag in self.flags)


@dataclass(frozen=True, slots=True)
class Holding:
    """What one key holds now."""

    markers: tuple[Entry, ...] = ()
    """Delete markers on top, newest first."""
    version: Entry | None = None
    """The newest version, below the markers if there are any."""
    latest: Entry | None = None
    """What the server calls the latest; None: the key has nothing."""
    contradicted: bool = False
    """The server calls another entry the latest than comes first in order, or none, or several."""

    @property
    def current(self) -> Entry | None:
        """The version that a reader gets."""
        return self.latest if self.latest is not None and self.latest.kind is EntryKind.VERSION else None


NOTHING_THERE = Holding()


def holding_of(entries: Iterable[Entry]) -> Holding:
    """What a key holds by its entries, newest first. Reads no more of them than it needs to tell."""
    markers: list[Entry] = []
    version: Entry | None = None
    first: Entry | None = None
    latest: list[Entry] = []
    for entry in entries:
        first = first or entry
        if entry.is_latest:
            latest.append(entry)
        if version is None:
            if entry.kind is EntryKind.VERSION:
                version = entry
            else:
                markers.append(entry)
    if first is None:
        return NOTHING_THERE
    agreed = len(latest) == 1 and latest[0] is first
    return Holding(tuple(markers), version, latest[0] if latest else first, not agreed)


def live(history: Iterable[Row]) -> Iterable[Entry]:
    """The entries that were there at the newest listing, each once."""
    return (row.entry for row in history if not row.is_gone and not row.placed.traits & Trait.REINSTATED)


def want_of(
    key: str,
    at: Row | None,
    doubts: Sequence[Doubt],
    history: tuple[Row, ...],
    moment: StoreMs,
    *,
    by_name: bool = False,
    band_ms: int = SECOND_MS,
) -> Want:
    """What `key` should hold: `at` is what the index says was current at `moment`.

    `by_name`: the key is known to be needed, so its newest version before the moment is wanted even if the
    key was absent then.
    """
    flags = [_FLAG_OF[doubt] for doubt in doubts]
    if Flag.MULTIPART in flags and not any(_began_unseen(row, moment) for row in history):
        flags.remove(Flag.MULTIPART)
    row = at
    if row is None and Flag.BOUNDARY in flags:
        row = _current_within(history, StoreMs(moment - band_ms), moment)
    if row is None and by_name:
        row = _newest_before(history, moment)
        if row is not None:
            flags.append(Flag.LAST_VERSION)
    return Want(key, row, tuple(dict.fromkeys(flags)), history, needed=by_name)


def _began_unseen(row: Row, moment: StoreMs) -> bool:
    """Whether it may have come into being after the moment although it is listed as older."""
    return (
        bool(row.placed.traits & Trait.UNKNOWN_BEGIN)
        and row.placed.begin <= moment < row.placed.until
        and row.first_seen > moment
    )


def _current_within(history: Sequence[Row], after: StoreMs, until: StoreMs) -> Row | None:
    """The newest version that may have been current in (after, until], if only within one second of it."""
    for row in history:
        placed = row.placed
        if placed.entry.kind is EntryKind.VERSION and placed.begin <= until and placed.until > after:
            return row
    return None


def _newest_before(history: Sequence[Row], moment: StoreMs) -> Row | None:
    versions = [row for row in history if row.entry.kind is EntryKind.VERSION and row.placed.begin <= moment]
    return next((row for row in versions if not row.is_gone), versions[0] if versions else None)


# --- where the bytes come from ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Origin:
    """The version to take the bytes from."""

    entry: Entry
    exact: bool
    """It is the wanted version itself; else another one with its ETag and size."""


def origin_in(wanted: Row, entries: Iterable[Entry], *, same_bucket: bool) -> Origin | None:
    """Where the wanted version's bytes are among a key's entries; None: nowhere.

    In another bucket a version id proves nothing by itself: size and ETag must be equal, too.
    """
    mine = wanted.entry
    equal: Entry | None = None
    for entry in entries:
        if entry.kind is not EntryKind.VERSION:
            continue
        alike = bool(mine.etag) and (entry.etag, entry.size) == (mine.etag, mine.size)
        if entry.version_id == mine.version_id and (
            alike or (same_bucket and mine.version_id != NULL_VERSION)
        ):
            return Origin(entry, exact=True)
        if alike and equal is None:
            equal = entry
    return None if equal is None else Origin(equal, exact=not same_bucket)


# --- what is lost ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Loss:
    """A wanted version that nobody can bring back."""

    version_id: str
    existed_from: StoreMs
    existed_until: StoreMs
    purged_after: StoreMs | None
    """It was still listed then; None: not known."""
    purged_by: StoreMs | None
    """It was listed no more then; None: it went since the newest listing."""
    cause: str


def loss_of(wanted: Row, rules: Sequence[LifecycleRule], *, second_bucket: bool = False) -> Loss:
    """When a wanted version existed, when it went, and why, as far as that can be told."""
    placed = wanted.placed
    if second_bucket:
        cause = "the second bucket has no version with its ETag and size"
    else:
        cause = _cause(wanted, rules)
    return Loss(placed.entry.version_id, placed.begin, placed.until, wanted.gone_after, wanted.gone_by, cause)


def _cause(wanted: Row, rules: Sequence[LifecycleRule]) -> str:
    if wanted.entry.version_id == NULL_VERSION:
        return "a `null` version, which the next write while versioning is suspended destroys"
    replaced = wanted.placed.until
    for rule in rules:
        if rule.noncurrent_days is None or not wanted.entry.key.startswith(rule.prefix):
            continue
        due = replaced + rule.noncurrent_days * DAY_MS
        if replaced != FOREVER and wanted.gone_by is not None and wanted.gone_by >= due:
            return (
                f"lifecycle rule {rule.id!r} removes versions {rule.noncurrent_days} days after they were "
                "replaced or deleted"
            )
    return "removed by its version id"
