"""Choosing anew for one key of a plan, from a listing made just now.

Rules: the choice follows the plan's options and what the plan wanted; only what the key holds, and whether
the wanted version is still there, are looked at again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from restore.core.bucketactions import CUSTOMER_KEY, READS_SOURCE, WRITES, Action, Case, Kind, Source
from restore.core.bucketstate import Flag, Origin, Want, holding_of
from walarchiver.bucketports import VersionDetail
from walarchiver.core.version import FOREVER, NULL_VERSION, Entry, EntryKind, Placed, Row, StoreMs, Trait


def case_again(action: Action, listed: Sequence[Entry], *, in_place: bool, same_bucket: bool) -> Case:
    """The case of a planned action with what its key holds now, newest first as the server lists it."""
    row = None if action.source is None else _row_of(action.key, action.source)
    flags = tuple(flag for flag in action.flags if flag is not Flag.SAME_CONTENT)
    exact = Flag.SAME_CONTENT not in action.flags
    return Case(
        want=Want(action.key, row, flags),
        to=action.to,
        holding=holding_of(listed),
        origin=None if row is None else Origin(row.entry, exact),
        in_place=in_place,
        same_bucket=same_bucket,
    )


def _row_of(key: str, source: Source) -> Row:
    entry = Entry(
        key,
        source.version_id,
        EntryKind.VERSION,
        source.modified,
        source.size,
        source.etag,
        source.storage_class,
        is_latest=False,
    )
    return Row(Placed(entry, source.modified, FOREVER, 0, Trait.NONE), StoreMs(source.modified))


def overrides(action: Action, again: Action) -> bool:
    """Whether carrying out the new choice puts something on top of what the plan had not seen."""
    if again.kind not in WRITES or again.seen == action.seen or again.seen is None:
        return False
    return again.seen.version_id not in {marker.version_id for marker in action.markers}


def cannot_tell(one: VersionDetail | None, other: VersionDetail | None) -> bool:
    """Whether two versions of one size may have equal bytes although HEAD cannot prove it."""
    if one is None or other is None or one.size != other.size:
        return False
    algorithms = [detail.checksum.partition(":")[0] for detail in (one, other) if detail.checksum is not None]
    if len(algorithms) == 2 and algorithms[0] == algorithms[1]:
        return False
    if CUSTOMER_KEY in (one.encryption, other.encryption):
        return False
    return any(detail.encryption.startswith("aws:kms") or "-" in detail.etag for detail in (one, other))


@dataclass(frozen=True, slots=True)
class Fault:
    """A key that was written does not hold what the journal says."""

    key: str
    why: str
    theirs: bool
    """What was written is there; somebody else wrote on top of it, or between our look and our write."""


def fault_of(
    key: str, kind: Kind, version_id: str, *, size: int, replaced: str, listed: Sequence[Entry]
) -> Fault | None:
    """What is wrong with a key of which the journal says that `version_id` is current since.

    `replaced`: what was current when it was written. Not every server holds a condition until the write is
    done, so what lies directly below is compared with it.
    """
    latest = holding_of(listed).latest
    if latest is None:
        return Fault(key, "nothing is listed of the key", theirs=False)
    if latest.version_id != version_id:
        if any(entry.version_id == version_id for entry in listed):
            return Fault(
                key, f"{latest.kind.value} {latest.version_id} was written on top since", theirs=True
            )
        return Fault(key, f"version {version_id} is not listed", theirs=False)
    if (latest.kind is EntryKind.MARKER) != (kind is Kind.MARK_DELETED):
        return Fault(key, f"{version_id} is a {latest.kind.value}", theirs=False)
    if kind in READS_SOURCE and latest.size != size:
        return Fault(key, f"version {version_id} has {latest.size} bytes, not {size}", theirs=False)
    if kind is not Kind.REMOVE_MARKERS and replaced != NULL_VERSION:
        below = listed[1].version_id if len(listed) > 1 else ""
        if listed[0].version_id == version_id and below != replaced:
            said = f"{below or 'nothing'} lies below, although {replaced or 'nothing'} was there"
            return Fault(key, f"{said}: somebody else wrote in that moment", theirs=True)
    return None
