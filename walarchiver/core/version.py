"""Object versions and delete markers of one key, and which of them was current at a moment.

Rules (bucket.md of the design is told again in docs/bucket.md; sources: Amazon S3 User Guide, "Working with
object metadata", "Working with delete markers", "ListObjectVersions"):
- Instants are milliseconds since 1970 on the store's clock. A `Last-Modified` of whole seconds was floored:
  what it tells of happened in [modified, modified + 1000).
- Entries of a key are ordered by `modified`, newest first; of equals the one that the server lists first is
  newer. The version id never decides.
- An entry begins when it came into being: for a multipart upload that is its completion, which a store may
  list under the time of its *initiation*. Where the completion is known it counts; else the entry is marked.
  Completions are known by version id, so never for a `null` version: several had that id.
- An entry is current from its begin until the earliest begin of any newer entry; the interval may be empty.
- An entry that was removed for ever (gone) counts until it was; then the newest that had begun and is not
  gone is current again. So an entry may be current in several intervals; the later ones are `REINSTATED`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntFlag, StrEnum
from heapq import heappop, heappush
from itertools import pairwise
from typing import NewType

StoreMs = NewType("StoreMs", int)
"""Milliseconds since 1970-01-01 UTC on the object store's clock."""

FOREVER = StoreMs(253_402_300_799_999)
"""Later than every instant: 9999-12-31T23:59:59.999Z."""

SECOND_MS = 1000
NULL_VERSION = "null"
"""The version id of what was written while versioning was off or suspended."""


class EntryKind(StrEnum):
    """What a line of a version listing stands for."""

    VERSION = "version"
    MARKER = "marker"


class Trait(IntFlag):
    """What must be known of an entry besides its interval."""

    NONE = 0
    NULL = 1
    """Its id is `null`: the next write while versioning is suspended destroys it."""
    MULTIPART = 2
    """Uploaded in parts."""
    UNKNOWN_BEGIN = 4
    """Uploaded in parts, and listed under a time that may be the upload's initiation."""
    ORDER_CONFLICT = 8
    """The server's order is not that of the times, or it calls another entry the latest than they do."""
    REINSTATED = 16
    """Current again since a newer entry was removed for ever."""


class MultipartTime(StrEnum):
    """What a store shows as `Last-Modified` of an object uploaded in parts."""

    INITIATION = "initiation"
    COMPLETION = "completion"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Entry:
    """One version or delete marker as the server lists it."""

    key: str
    version_id: str
    kind: EntryKind
    modified: StoreMs
    size: int
    """Bytes; 0 for a marker."""
    etag: str
    """Without quotation marks; empty for a marker."""
    storage_class: str
    """As the server says; empty for a marker."""
    is_latest: bool

    @property
    def in_parts(self) -> bool:
        """Whether it was uploaded in parts: such an ETag ends in `-N` (S3 API, "Object")."""
        return "-" in self.etag


@dataclass(frozen=True, slots=True)
class Placed:
    """An entry at its place in the history of its key. Current in [begin, until)."""

    entry: Entry
    begin: StoreMs
    until: StoreMs
    tie: int
    """Counts the entries of the key with the same `modified` from the oldest, 0, on."""
    traits: Trait


@dataclass(frozen=True, slots=True)
class Row:
    """A placed entry as an index keeps it."""

    placed: Placed
    first_seen: StoreMs
    """When we asked for the listing that showed it first."""
    gone_by: StoreMs | None = None
    """When we asked for the listing that did not show it any more; None while it is there."""
    gone_after: StoreMs | None = None
    """When we asked for the last listing that showed it."""

    @property
    def entry(self) -> Entry:
        return self.placed.entry

    @property
    def is_gone(self) -> bool:
        """Whether it was removed for ever: only the index remembers it."""
        return self.gone_by is not None

    def was_current(self, moment: StoreMs) -> bool:
        return self.placed.begin <= moment < self.placed.until


def place(
    listed: Sequence[Entry],
    *,
    completions: Mapping[str, StoreMs] | None = None,
    multipart_time: MultipartTime = MultipartTime.UNKNOWN,
    gone: Sequence[StoreMs | None] | None = None,
    contradicted: bool = False,
) -> tuple[Placed, ...]:
    """The history of one key, newest first, from its entries in the server's order.

    `completions`: when multipart uploads ended, by version id, where events told of it. `gone`: for each of
    `listed`, when it had been removed for ever; such entries stand where the server listed them last.
    `contradicted`: the server's own order is known not to be that of the times.

    Every entry is placed once from its begin on, if only with an empty interval; its later intervals come
    before that one, as `REINSTATED`.
    """
    assert all(entry.key == listed[0].key for entry in listed), "entries of one key"
    known = completions or {}
    order = sorted(range(len(listed)), key=lambda at: -listed[at].modified)  # stable
    ordered = [listed[at] for at in order]
    ends = [gone[at] for at in order] if gone is not None else None
    begun = [_begin(entry, known, multipart_time) for entry in ordered]
    if contradicted or is_out_of_order(listed, gone) or _is_order_conflict(ordered, ends):
        begun = [(begin, traits | Trait.ORDER_CONFLICT) for begin, traits in begun]
    ties = _ties(ordered)
    placed: list[Placed] = []
    if ends is None or not any(end is not None for end in ends):
        until = FOREVER
        for entry, (begin, traits), tie in zip(ordered, begun, ties, strict=True):
            placed.append(Placed(entry, begin, max(begin, until), tie, traits))
            until = min(until, begin)
        return tuple(placed)
    spans = _spans([begin for begin, _ in begun], ends)
    for entry, (begin, traits), tie, own in zip(ordered, begun, ties, spans, strict=True):
        later = own[1:] if own and own[0][0] == begin else own
        for since, until in reversed(later):
            placed.append(Placed(entry, since, until, tie, traits | Trait.REINSTATED))
        until = own[0][1] if len(later) < len(own) else begin
        placed.append(Placed(entry, begin, until, tie, traits))
    return tuple(placed)


def _spans(begins: Sequence[StoreMs], ends: Sequence[StoreMs | None]) -> list[list[tuple[StoreMs, StoreMs]]]:
    """When each entry, newest first, was current: a sweep over the instants at which something changed."""
    spans: list[list[tuple[StoreMs, StoreMs]]] = [[] for _ in begins]
    until = [FOREVER if end is None else end for end in ends]
    waiting = sorted((at for at in range(len(begins)) if begins[at] < until[at]), key=lambda at: -begins[at])
    instants = sorted({*begins, *(end for end in ends if end is not None)})
    there: list[int] = []
    """A heap of those that had begun; who is gone leaves when it comes to the top."""
    now: int | None = None
    since = FOREVER
    for instant in instants:
        while waiting and begins[waiting[-1]] <= instant:
            heappush(there, waiting.pop())
        while there and until[there[0]] <= instant:
            heappop(there)
        top = there[0] if there else None
        if top != now:
            if now is not None:
                spans[now].append((since, instant))
            now, since = top, instant
    if now is not None:
        spans[now].append((since, FOREVER))
    return spans


def is_out_of_order(listed: Sequence[Entry], gone: Sequence[StoreMs | None] | None = None) -> bool:
    """Whether the server lists an entry above a newer one, as it does after its clock was set back."""
    there = [entry for at, entry in enumerate(listed) if gone is None or gone[at] is None]
    return any(upper.modified < lower.modified for upper, lower in pairwise(there))


def _is_order_conflict(ordered: Sequence[Entry], ends: Sequence[StoreMs | None] | None) -> bool:
    there = ordered if ends is None else [e for e, end in zip(ordered, ends, strict=True) if end is None]
    return any(entry.is_latest for entry in there[1:])


def _begin(
    entry: Entry, completions: Mapping[str, StoreMs], multipart_time: MultipartTime
) -> tuple[StoreMs, Trait]:
    traits = Trait.NULL if entry.version_id == NULL_VERSION else Trait.NONE
    if entry.kind is EntryKind.MARKER or not entry.in_parts:
        return entry.modified, traits
    traits |= Trait.MULTIPART
    completed = completions.get(entry.version_id)
    if completed is not None and not traits & Trait.NULL:
        return max(entry.modified, completed), traits
    if multipart_time is not MultipartTime.COMPLETION:
        traits |= Trait.UNKNOWN_BEGIN
    return entry.modified, traits


def _ties(ordered: Sequence[Entry]) -> list[int]:
    ties = [0] * len(ordered)
    for at in range(len(ordered) - 2, -1, -1):
        if ordered[at].modified == ordered[at + 1].modified:
            ties[at] = ties[at + 1] + 1
    return ties


def current_at(history: Sequence[Placed], moment: StoreMs) -> Placed | None:
    """The version that a reader at `moment` would have got; None when there was none."""
    for placed in history:
        if placed.begin <= moment < placed.until:
            return placed if placed.entry.kind is EntryKind.VERSION else None
    return None
