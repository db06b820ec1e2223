"""What is known of one key, after another listing of it: which entries are new, gone for ever, or back.

Rules:
- Listings of a key count in the order in which they were asked for: one that was asked for before the last
  one that counted says nothing new (`is_stale`).
- A version is known by its id; a `null` version, whose id others had before it, by everything it is listed
  with. Facts that can change in place (storage class, is_latest) are those of the last listing.
- An entry that is known and not listed is gone: removed for ever after the last listing that showed it, and
  before this one was asked for. It keeps its place: among entries of the same time above the one that it
  was listed above.
- An entry that was gone and is listed is there: an earlier listing was not complete.
- When a multipart upload ended is kept in its row: of several times that events tell, the earliest.
- Histories are placed as if nothing were known of what the store shows as the time of a multipart upload;
  who reads them takes the mark away where the store is known to show its end (`shown`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from walarchiver.core.version import (
    NULL_VERSION,
    Entry,
    EntryKind,
    MultipartTime,
    Row,
    StoreMs,
    Trait,
    is_out_of_order,
    place,
)


@dataclass(frozen=True, slots=True)
class Absorbed:
    """A key's rows, newest first, after a listing; and how many entries it brought, missed, or had again."""

    rows: tuple[Row, ...]
    added: int = 0
    gone: int = 0
    revived: int = 0


@dataclass(frozen=True, slots=True)
class _Item:
    entry: Entry
    first_seen: StoreMs
    gone_by: StoreMs | None = None
    gone_after: StoreMs | None = None


_Identity = tuple[object, ...]


def is_stale(asked: StoreMs, covered: StoreMs | None) -> bool:
    """Whether a listing asked for at `asked` is older than the last that counted."""
    return covered is not None and asked < covered


def absorb(
    known: Sequence[Row],
    listed: Sequence[Entry],
    *,
    asked: StoreMs,
    covered: StoreMs | None,
    completions: Mapping[str, StoreMs] | None = None,
) -> Absorbed:
    """The history after a complete listing of the key that is not stale.

    `known` is newest first, `listed` in the server's order; `covered`: when the last listing of the key that
    counted was asked for.
    """
    before = {_identity(row.entry): row for row in known if not row.placed.traits & Trait.REINSTATED}
    there: dict[_Identity, _Item] = {}
    added = revived = 0
    for entry in listed:
        identity = _identity(entry)
        if identity in there:
            continue
        row = before.get(identity)
        added += row is None
        revived += row is not None and row.is_gone
        there[identity] = _Item(entry, asked if row is None else row.first_seen)
    missing: dict[_Identity, _Item] = {}
    gone = 0
    for identity, row in before.items():
        if identity in there:
            continue
        if row.is_gone:
            missing[identity] = _Item(row.entry, row.first_seen, row.gone_by, row.gone_after)
            continue
        gone += 1
        seen = row.first_seen if covered is None else max(covered, row.first_seen)
        missing[identity] = _Item(row.entry, row.first_seen, max(asked, seen), seen)
    ended = {**(completions or {}), **completions_in(known)}
    rows = _placed(_in_order(before, there, missing), ended, contradicted=is_out_of_order(listed))
    return Absorbed(rows, added, gone, revived)


def placed_again(known: Sequence[Row], completions: Mapping[str, StoreMs]) -> tuple[Row, ...]:
    """The same history when more is known of when multipart uploads ended."""
    items = [
        _Item(row.entry, row.first_seen, row.gone_by, row.gone_after)
        for row in known
        if not row.placed.traits & Trait.REINSTATED
    ]
    ended = completions_in(known)
    for version_id, at in completions.items():
        ended[version_id] = min(at, ended.get(version_id, at))
    contradicted = any(row.placed.traits & Trait.ORDER_CONFLICT for row in known)
    return _placed(items, ended, contradicted=contradicted)


def completions_in(rows: Sequence[Row]) -> dict[str, StoreMs]:
    """When multipart uploads ended, as a placed history tells it."""
    return {
        row.entry.version_id: row.placed.begin
        for row in rows
        if row.placed.traits & (Trait.MULTIPART | Trait.UNKNOWN_BEGIN | Trait.REINSTATED) == Trait.MULTIPART
    }


def shown(row: Row, multipart_time: MultipartTime) -> Row:
    """The row as it is to be read where the store's habit is known."""
    if multipart_time is MultipartTime.COMPLETION and row.placed.traits & Trait.UNKNOWN_BEGIN:
        traits = row.placed.traits & ~Trait.UNKNOWN_BEGIN
        return replace(row, placed=replace(row.placed, traits=traits))
    return row


def _identity(entry: Entry) -> _Identity:
    if entry.version_id == NULL_VERSION:
        return (entry.version_id, entry.kind is EntryKind.MARKER, entry.modified, entry.etag, entry.size)
    return (entry.version_id, entry.kind is EntryKind.MARKER)


def _in_order(
    before: Mapping[_Identity, Row],
    there: Mapping[_Identity, _Item],
    missing: Mapping[_Identity, _Item],
) -> list[_Item]:
    """All of them, newest first; `before` is in that order, `there` in the server's."""
    if not missing:
        return list(there.values())
    ranked = []
    rank: dict[_Identity, int] = {}
    for at, (identity, item) in enumerate(reversed(list(there.items())), start=1):
        rank[identity] = at
        ranked.append((item.entry.modified, at, 0, item))
    anchor, at_modified = 0, None
    for turn, (identity, row) in enumerate(reversed(list(before.items())), start=1):
        if row.entry.modified != at_modified:
            anchor, at_modified = 0, row.entry.modified
        lost = missing.get(identity)
        if lost is not None:
            ranked.append((lost.entry.modified, anchor, turn, lost))
        elif there[identity].entry.modified == at_modified:
            anchor = rank[identity]
    ranked.sort(key=lambda one: one[:3], reverse=True)
    return [item for *_, item in ranked]


def _placed(
    items: Sequence[_Item], completions: Mapping[str, StoreMs], *, contradicted: bool
) -> tuple[Row, ...]:
    if len(items) == 1:
        only = items[0]
        (placed, *_) = place([only.entry], completions=completions, gone=[only.gone_by])
        return (Row(placed, only.first_seen, only.gone_by, only.gone_after),)
    if not items:
        return ()
    facts = {_identity(item.entry): item for item in items}
    history = place(
        [item.entry for item in items],
        completions=completions,
        gone=[item.gone_by for item in items],
        contradicted=contradicted,
    )
    rows = []
    for placed in history:
        item = facts[_identity(placed.entry)]
        rows.append(Row(placed, item.first_seen, item.gone_by, item.gone_after))
    return tuple(rows)
