"""What to do with one key of the bucket so that it holds what it should; every choice explained.

Rules:
- Nothing here ever removes a version. The only thing that may be removed is a delete marker, when asked for.
- What holds the wanted bytes already is left alone: the same version, a copy of it that an earlier restore
  made, an equal full checksum, or equal ETag and size where the ETag tells of the bytes (not with SSE-KMS,
  not with a customer's key).
- What is there although nothing should be is left and reported; with `delete_newer` it gets a delete marker,
  below which its versions stay.
- What is not certain is not guessed: it is listed, and written only when `accept_uncertain` says so.
- A version that the store cannot read at once, or not without the customer's key, is not tried.
- Every write relies on what was seen to be current (`Action.seen`); the executor makes it conditional.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from restore.core.bucketstate import BLOCKING, Flag, Holding, Loss, Origin, Want, loss_of
from walarchiver.bucketports import Expected, LifecycleRule, VersionDetail
from walarchiver.core.version import Entry, EntryKind, StoreMs

COPY_BYTES_MAX = 5_000_000_000
"""One CopyObject takes no more than 5 GB (S3 API, "CopyObject"), here of 10**9 bytes."""
ARCHIVED = frozenset({"GLACIER", "DEEP_ARCHIVE"})
"""Storage classes that are read only after RestoreObject (S3 User Guide, "Restoring an archived object")."""
CUSTOMER_KEY = "customer"
MARKERS_MAX = 1000
"""A key below more delete markers than this is copied on top instead of uncovered."""


class Kind(StrEnum):
    """What is done with a key."""

    NOTHING = "nothing"
    COPY = "copy"
    COPY_IN_PARTS = "copy_in_parts"
    MARK_DELETED = "mark_deleted"
    REMOVE_MARKERS = "remove_markers"
    EXTRA = "extra"
    """It holds something although it should not; left alone, reported."""
    THAW = "thaw"
    NEEDS_KEY = "needs_key"
    LOST = "lost"
    AMBIGUOUS = "ambiguous"


WRITES = frozenset({Kind.COPY, Kind.COPY_IN_PARTS, Kind.MARK_DELETED, Kind.REMOVE_MARKERS})
READS_SOURCE = frozenset({Kind.COPY, Kind.COPY_IN_PARTS})


class Undelete(StrEnum):
    """How a deleted key comes back when its version lies directly below delete markers."""

    COPY = "copy"
    """Copy the version on top: needs no right to delete."""
    MARKERS = "markers"
    """Remove the markers: moves no bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What whoever restores has chosen."""

    missing_only: bool = False
    """Only keys that hold nothing now."""
    delete_newer: bool = False
    undelete: Undelete = Undelete.COPY
    accept_uncertain: bool = False


@dataclass(frozen=True, slots=True)
class Source:
    """The version that the bytes are taken from."""

    version_id: str
    size: int
    etag: str
    storage_class: str
    modified: StoreMs

    @classmethod
    def of(cls, entry: Entry) -> Source:
        return cls(entry.version_id, entry.size, entry.etag, entry.storage_class, entry.modified)


@dataclass(frozen=True, slots=True)
class Seen:
    """What was current when the action was chosen."""

    version_id: str
    etag: str
    """Empty for a marker."""
    marker: bool


@dataclass(frozen=True, slots=True)
class Marker:
    """A delete marker to remove."""

    version_id: str
    modified: StoreMs


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """What is done with one key, and why."""

    kind: Kind
    key: str
    """Where the wanted version lies."""
    to: str
    """The key that is written."""
    why: str
    flags: tuple[Flag, ...] = ()
    source: Source | None = None
    seen: Seen | None = None
    """None: the key had nothing."""
    markers: tuple[Marker, ...] = ()
    """Newest first."""
    loss: Loss | None = None

    @property
    def expected(self) -> Expected:
        """What a conditional write may rely on."""
        return Expected(None if self.seen is None or self.seen.marker else self.seen.etag)

    @property
    def size(self) -> int:
        """Bytes that are copied."""
        return self.source.size if self.source is not None and self.kind in READS_SOURCE else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Everything that is known of one key."""

    want: Want
    to: str
    holding: Holding
    origin: Origin | None
    """Where the wanted bytes are; None also when nothing is wanted."""
    in_place: bool
    """The key that is written is the one whose past is wanted: the same bucket, the same name."""
    same_bucket: bool = True
    """The bytes come from the bucket whose past is wanted, not from a second one."""
    rules: Sequence[LifecycleRule] = ()
    examined: bool = False
    """Whether HEAD was asked; then the two below count."""
    origin_detail: VersionDetail | None = None
    """None: the store says that the version does not exist any more."""
    current_detail: VersionDetail | None = None
    copied_before: bool = False
    """A journal says that what is current is a copy of the wanted version."""


def wants_examination(case: Case, action: Action) -> bool:
    """Whether HEAD has to be asked before the action is certain."""
    return not case.examined and action.kind in (*READS_SOURCE, Kind.THAW)


def decide(case: Case, options: Options) -> Action:
    """The one action for the key."""
    current = case.holding.current
    if options.missing_only and current is not None:
        return _action(case, Kind.NOTHING, "it holds an object; only missing ones are restored")
    doubtful = _doubtful(case)
    if doubtful and not options.accept_uncertain:
        return _uncertain(case, doubtful)
    if case.want.row is None:
        return _unwanted(case, options)
    return _wanted(case, options)


def _doubtful(case: Case) -> tuple[Flag, ...]:
    found = tuple(flag for flag in case.want.flags if flag in BLOCKING)
    if case.holding.contradicted and Flag.ORDER not in found:
        found = (*found, Flag.ORDER)
    return found


_DOUBT_TEXT = {
    Flag.MULTIPART: "it was uploaded in parts, and whether the upload had ended at the moment is not known",
    Flag.ORDER: "the server's order of its versions contradicts their times",
    Flag.NULL: "a `null` version may have replaced another one",
    Flag.REMOVED: "an entry that decides was removed for ever, and it is not known exactly when",
}


def _uncertain(case: Case, doubtful: tuple[Flag, ...]) -> Action:
    why = "; ".join(_DOUBT_TEXT[flag] for flag in doubtful)
    row, current = case.want.row, case.holding.current
    settled = not case.holding.contradicted and case.in_place
    if settled and row is None and current is None:
        return _action(case, Kind.NOTHING, f"nothing is there and nothing is wanted, although {why}")
    if settled and row is not None and current is not None and _same_version(case, current):
        return _action(case, Kind.NOTHING, f"the version is current, although {why}")
    return _action(case, Kind.AMBIGUOUS, why, reading=True)


def _unwanted(case: Case, options: Options) -> Action:
    current = case.holding.current
    if current is None and case.want.needed:
        known = "all its versions are newer than the moment" if case.want.history else "it was never listed"
        return _action(case, Kind.LOST, known)
    if current is None:
        return _action(case, Kind.NOTHING, "nothing is there and nothing is wanted")
    if not options.delete_newer or not case.in_place or case.want.needed:
        return _action(case, Kind.EXTRA, "it did not exist at the moment; left as it is")
    return _action(
        case, Kind.MARK_DELETED, "it did not exist at the moment; its versions stay below a marker"
    )


def _wanted(case: Case, options: Options) -> Action:
    current, origin = case.holding.current, case.origin
    if current is not None and _same_version(case, current):
        return _action(case, Kind.NOTHING, "the version is current")
    if origin is None or (case.examined and case.origin_detail is None):
        assert case.want.row is not None
        loss = loss_of(case.want.row, case.rules, second_bucket=not case.same_bucket)
        return _action(case, Kind.LOST, loss.cause, loss=loss)
    if current is not None and (case.copied_before or same_content(case, current)):
        return _action(case, Kind.NOTHING, "what is current has the same content")
    markers = case.holding.markers
    few = 0 < len(markers) <= MARKERS_MAX
    if options.undelete is Undelete.MARKERS and current is None and few and case.in_place:
        below = case.holding.version
        if (
            below is not None
            and below.version_id == origin.entry.version_id
            and not case.holding.contradicted
        ):
            why = f"the version lies directly below {len(markers)} delete marker(s)"
            return _action(case, Kind.REMOVE_MARKERS, why, reading=True, markers=_markers(markers))
    return _copied(case, origin)


def _copied(case: Case, origin: Origin) -> Action:
    detail = case.origin_detail
    if detail is not None and detail.encryption == CUSTOMER_KEY:
        return _action(
            case, Kind.NEEDS_KEY, "it is encrypted with a key of the customer (SSE-C)", reading=True
        )
    archived = origin.entry.storage_class in ARCHIVED if detail is None else not detail.readable
    if archived:
        tier = origin.entry.storage_class if detail is None else detail.storage_class
        why = f"it lies in {tier or 'an archive tier'} and must be brought back first, which takes hours"
        return _action(case, Kind.THAW, why, reading=True)
    why = "it is missing" if case.holding.current is None else "another version is current"
    if case.holding.markers and case.holding.current is None:
        why = "it was deleted"
    kind = Kind.COPY if origin.entry.size <= COPY_BYTES_MAX else Kind.COPY_IN_PARTS
    return _action(case, kind, why, reading=True)


def _same_version(case: Case, entry: Entry) -> bool:
    """Whether an entry of the written key is the wanted version, or the one that stands for it."""
    row, origin = case.want.row, case.origin
    if row is None or not case.in_place:
        return False
    if case.same_bucket:
        return origin is not None and entry.version_id == origin.entry.version_id
    return not row.is_gone and entry.version_id == row.entry.version_id


def same_content(case: Case, current: Entry) -> bool:
    """Whether what is current has the wanted bytes beyond doubt; False also when that cannot be told."""
    assert case.origin is not None
    if current.kind is not EntryKind.VERSION or current.size != case.origin.entry.size or not case.examined:
        return False
    return same_bytes(case.origin_detail, case.current_detail)


def same_bytes(one: VersionDetail | None, other: VersionDetail | None) -> bool:
    """Whether two versions have equal bytes beyond doubt, by what HEAD says of them."""
    if one is None or other is None or one.size != other.size:
        return False
    if one.checksum is not None and other.checksum is not None:
        mine, theirs = one.checksum.partition(":"), other.checksum.partition(":")
        if mine[0] == theirs[0]:
            return mine[2] == theirs[2]
    opaque = any(detail.encryption.startswith(("aws:kms", CUSTOMER_KEY)) for detail in (one, other))
    return not opaque and bool(one.etag) and one.etag == other.etag


def _markers(entries: Sequence[Entry]) -> tuple[Marker, ...]:
    return tuple(Marker(entry.version_id, entry.modified) for entry in entries)


def _action(
    case: Case,
    kind: Kind,
    why: str,
    *,
    reading: bool = False,
    markers: tuple[Marker, ...] = (),
    loss: Loss | None = None,
) -> Action:
    latest, origin = case.holding.latest, case.origin
    flags = case.want.flags
    if case.holding.contradicted and Flag.ORDER not in flags:
        flags = (*flags, Flag.ORDER)
    if origin is not None and not origin.exact:
        flags = (*flags, Flag.SAME_CONTENT)
    return Action(
        kind=kind,
        key=case.want.key,
        to=case.to,
        why=why,
        flags=flags,
        source=Source.of(origin.entry) if reading and origin is not None else None,
        seen=None
        if latest is None
        else Seen(latest.version_id, latest.etag, latest.kind is EntryKind.MARKER),
        markers=markers,
        loss=loss,
    )
