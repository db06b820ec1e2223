"""Whether a listing of versions is whole: asked of the other listing, of the key itself, of the index.

Rules:
- Some servers lose keys where one page ends and the next begins (docs/bucket.md). So the current objects are
  listed by the other call too. A key on which the two disagree is listed alone; what that says counts. When
  even then they disagree, again and again, it is ListingIncomplete.
- What a key's own listing shows, and the long one did not, was lost by that one, unless it may have been
  written meanwhile. A listing that lost anything may have lost keys that are deleted now, of which the other
  call says nothing: it is made again with pages of other sizes, until one finds nothing new.
- Nothing is taken as removed for ever because one listing does not show it: a key of which the index knows
  more entries, or others although something new was written to it, is listed alone; with many such keys the
  whole part is listed again instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter
from typing import TypeVar

from walarchiver.bucketports import Current, EvidenceBucket, KeyRange, VersionIndex
from walarchiver.core.bucketfacts import parse_scan
from walarchiver.core.version import Entry, EntryKind, Row, StoreMs
from walarchiver.errors import ListingIncomplete

Answer = TypeVar("Answer")
Histories = dict[str, tuple[Entry, ...]]

PAGES = (1000, 613, 389, 241, 127)
"""Page sizes that share few boundaries."""
_ALONE_MAX = 5000
"""Keys of one part that are listed alone; more than this is no accident at the ends of pages."""
_FEW = 50
"""Keys with fewer entries than known that are listed alone; with more, listing all again is cheaper."""
_TRIES = 5
_SECOND_MS = 1000
_UPLOAD_MS = 7 * 86_400_000
"""Uploads in parts that take longer than this are not thought of when keys are compared."""


def histories_of(entries: Iterable[Entry]) -> Histories:
    """Entries by key, in the order of the listing."""
    found: Histories = {}
    for key, own in groupby(entries, key=attrgetter("key")):
        found[key] = (*found.get(key, ()), *own)
    return found


def current_of(history: tuple[Entry, ...]) -> Current | None:
    """What the key holds now, by its entries."""
    for entry in history:
        if entry.is_latest:
            if entry.kind is EntryKind.MARKER:
                return None
            return Current(entry.key, entry.etag, entry.size)
    return None


def disagreeing(histories: Mapping[str, tuple[Entry, ...]], current: Iterable[Current]) -> list[str]:
    """The keys for which the two listings do not say the same."""
    by_entries = {
        key: latest for key, history in histories.items() if (latest := current_of(history)) is not None
    }
    found = [key for key, history in histories.items() if not any(entry.is_latest for entry in history)]
    found += [one.key for one in current if by_entries.pop(one.key, None) != one]
    return sorted({*found, *by_entries})


def lost(listed: tuple[Entry, ...], alone: tuple[Entry, ...], asked: StoreMs) -> bool:
    """Whether a listing asked for at `asked` lacks an entry that was surely there then."""
    seen = {(entry.version_id, entry.modified) for entry in listed}
    return any(
        entry.modified + _SECOND_MS <= asked and (entry.version_id, entry.modified) not in seen
        for entry in alone
    )


def missing(known: Iterable[Row], listed: Iterable[Entry]) -> list[Row]:
    """What the index has as there, and the listing of its key does not show."""
    shown = {(entry.version_id, entry.modified) for entry in listed}
    return [
        row for row in known if not row.is_gone and (row.entry.version_id, row.entry.modified) not in shown
    ]


@dataclass(slots=True)
class Part:
    """A range of keys as it was listed, and corrected since."""

    keys: KeyRange
    histories: Histories
    asked: StoreMs
    page_entries: int
    was_lossy: bool = False
    """A listing of this part lost something: the server is one that does."""
    alone: int = 0
    """Keys that were listed alone."""


@dataclass(slots=True)
class CrossCheck:
    """Makes sure of one part after the other. Safe to use in several threads, one part in each."""

    bucket: EvidenceBucket
    index: VersionIndex
    stopped: Callable[[], None] = field(default=lambda: None)
    """Raises when the scan is to end."""

    def settle(self, part: Part, *, carefully: bool) -> None:
        """Correct the part. Raises ListingIncomplete, Store…."""
        current = self.bucket.list_current(part.keys, page_entries=part.page_entries)
        self._correct(part, disagreeing(part.histories, self._watched(current)))
        if carefully or part.was_lossy:
            self._list_again(part)
            return
        fewer = self._fewer(part)
        if len(fewer) > _FEW or self._correct(part, fewer):
            self._list_again(part)

    def alone(self, key: str) -> tuple[Entry, ...]:
        """A key's entries, agreed on by both listings. Raises ListingIncomplete."""
        only = KeyRange(key, key)
        for _ in range(_TRIES):
            self.stopped()
            history = tuple(entry for page in self.bucket.list_entries(only) for entry in page)
            current = next(iter(self.bucket.list_current(only)), None)
            if current_of(history) == current:
                return history
        raise ListingIncomplete(
            f"{self.bucket.url}: its two listings disagree on {key!r}: one shows"
            f" {_told(current_of(history))}, the other {_told(current)}"
        )

    def _correct(self, part: Part, keys: list[str]) -> bool:
        """List these keys alone; whether one of them had been lost."""
        if len(keys) > _ALONE_MAX:
            raise ListingIncomplete(
                f"{self.bucket.url}: its two listings disagree on {len(keys)} of"
                f" {len(part.histories)} keys between {keys[0]!r} and {keys[-1]!r}"
            )
        was_lost = False
        for key in keys:
            listed, alone = part.histories.get(key, ()), self.alone(key)
            part.alone += 1
            was_lost = lost(listed, alone, part.asked) or was_lost
            if alone:
                part.histories[key] = alone
            else:
                part.histories.pop(key, None)
        part.was_lossy = part.was_lossy or was_lost
        return was_lost

    def _list_again(self, part: Part) -> None:
        for page_entries in PAGES:
            if page_entries == part.page_entries:
                continue
            again = self.list_part(part.keys, page_entries)
            differing = [
                key for key in {*again, *part.histories} if again.get(key) != part.histories.get(key)
            ]
            if not self._correct(part, sorted(differing)):
                return
        raise ListingIncomplete(
            f"{self.bucket.url}: {len(PAGES)} listings of the keys from {part.keys.first[:100]!r} on each"
            " show entries that the ones before did not"
        )

    def list_part(self, keys: KeyRange, page_entries: int) -> Histories:
        """A range as its listing shows it."""
        pages = self.bucket.list_entries(keys, page_entries=page_entries)
        return histories_of(entry for page in self._watched(pages) for entry in page)

    def _fewer(self, part: Part) -> list[str]:
        """Keys of which the index knows an entry that the listing does not show.

        Only where something was written since the last listing can an entry be missing and the number be
        right; an upload in parts may have begun `_UPLOAD_MS` before.
        """
        since = self._listed_before(part.keys.first)
        fewer, written = [], []
        for key, known in self._watched(self.index.entries_there(part.keys)):
            listed = part.histories.get(key, ())
            if known > len(listed):
                fewer.append(key)
            elif any(entry.modified >= since - entry.in_parts * _UPLOAD_MS for entry in listed):
                written.append(key)
        for key, rows in self._watched(self.index.histories(written)):
            if missing(rows, part.histories[key]):
                fewer.append(key)
        return sorted(fewer)

    def _listed_before(self, key: str) -> int:
        """When the last complete listing with this key was asked for, to the second; 0: there was none."""
        scans = (seen for seen in self.index.observations() if seen.kind == "scan")
        return max(
            (seen.at - _SECOND_MS for seen in scans if key.startswith(parse_scan(seen.value))), default=0
        )

    def _watched(self, answers: Iterable[Answer]) -> Iterator[Answer]:
        for number, answer in enumerate(answers):
            if number % 1000 == 0:
                self.stopped()
            yield answer


def _told(current: Current | None) -> str:
    return "nothing" if current is None else f"{current.size} bytes, ETag {current.etag}"
