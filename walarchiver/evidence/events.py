"""Notifications as hints: the keys they name are listed again, and the index takes what the listing says.

Rules:
- A notification never changes the index by itself, but for the end of an upload in parts, which nothing else
  tells. So it may come twice, late, in any order, or be wrong: the index equals a fresh listing of the keys.
- One page covers neighbours; a key that it does not show is listed alone before it is taken as removed.
- A key is not listed for a change that surely came before one which it was listed for already.
- A message is done when the index has it. One that is no notification is put aside, and told.
- Where messages may have been lost, as the feed was not read for longer than it keeps them, a `feed_gap` is
  observed: changes since then may be missing until a complete scan was made.
"""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from walarchiver.bucketports import (
    EventFeed,
    EvidenceBucket,
    FeedMessage,
    KeyRange,
    Observation,
    VersionIndex,
)
from walarchiver.core.bucketfacts import gap_text
from walarchiver.core.version import Entry, StoreMs
from walarchiver.evidence.crosscheck import CrossCheck, Histories, histories_of, missing
from walarchiver.evidence.eventmessages import Happened, NotAnEvent, is_later, parse_message
from walarchiver.evidence.sharding import behind

_MESSAGES_MAX = 5000
"""Taken before the keys are listed: neighbours are found among them."""
_REMEMBERED_MAX = 100_000


@dataclass(slots=True)
class Followed:
    """What was done so far."""

    messages: int = 0
    aside: int = 0
    foreign: int = 0
    """Changes of other buckets or prefixes."""
    keys: int = 0
    requests: int = 0
    uploads: int = 0
    """Ends of uploads in parts."""
    added: int = 0
    gone: int = 0
    gap_since: StoreMs | None = None


@dataclass(slots=True)
class Follower:
    """Follows one feed."""

    bucket: EvidenceBucket
    index: VersionIndex
    feed: EventFeed
    place: Path | None = None
    """File with the time at which the feed was last read to its end; None: it is not remembered."""
    warn: Callable[[str], None] = lambda _line: None
    followed: Followed = field(default_factory=Followed)
    _listed: OrderedDict[str, str] = field(default_factory=OrderedDict)
    """The latest sequencer that each key was listed for."""

    _told_removed: set[tuple[str, str]] = field(default_factory=set)
    """Versions that the messages at hand call removed for ever."""

    def drain(self) -> Followed:
        """Follow until the feed was empty once. Raises Store…, Index…, ListingIncomplete."""
        began = self.bucket.date()
        last = self._last_drained()
        kept_ms = self.feed.kept_ms()
        if last is not None and kept_ms is not None and began - last > kept_ms:
            self._observe_gap(last, began)
        while batch := self._batch():
            self.follow(batch)
            if len(batch) < _MESSAGES_MAX:
                break  # the feed was empty; what came since is for the next time
        self._write_drained(began)
        return self.followed

    def follow(self, messages: tuple[FeedMessage, ...]) -> None:
        """Take over what these messages hint at, then say that they are done."""
        good: list[FeedMessage] = []
        changes: list[Happened] = []
        for message in messages:
            try:
                changes += self._ours(parse_message(message.text))
            except NotAnEvent as fault:
                self.followed.aside += 1
                self.warn(f"{self.feed.name}: a message was put aside: {fault}")
                self.feed.put_aside(message, str(fault))
            else:
                good.append(message)
        for change in changes:
            if change.ends_upload and change.version_id is not None:
                self.index.complete_upload(change.key, change.version_id, change.at)
                self.followed.uploads += 1
        self._told_removed = {
            (change.key, change.version_id) for change in changes if change.removes and change.version_id
        }
        self._list_again(self._dirty(changes))
        self.feed.done(good)
        self.followed.messages += len(messages)

    def _batch(self) -> tuple[FeedMessage, ...]:
        found: list[FeedMessage] = []
        while len(found) < _MESSAGES_MAX and (some := self.feed.take()):
            found += some
        return tuple(found)

    def _ours(self, changes: tuple[Happened, ...]) -> list[Happened]:
        ours = [
            change
            for change in changes
            if change.bucket == self.bucket.name and change.key.startswith(self.bucket.prefix)
        ]
        self.followed.foreign += len(changes) - len(ours)
        return ours

    # --- keys ----------------------------------------------------------------------------------

    def _dirty(self, changes: list[Happened]) -> dict[str, str]:
        """The keys to list, each with the latest sequencer that was told of it (or nothing)."""
        found: dict[str, str] = {}
        for change in changes:
            if is_later(change.sequencer, self._listed.get(change.key)) is False:
                continue
            known = found.get(change.key)
            if known is None or is_later(change.sequencer, known) is not False:
                found[change.key] = change.sequencer or ""
        return found

    def _list_again(self, dirty: dict[str, str]) -> None:
        waiting = sorted(dirty)
        at = 0
        while at < len(waiting):
            asked = self.bucket.date()
            shown, until = self._page(waiting[at], waiting[-1], len(waiting) - at)
            first = at
            while at < len(waiting) and (at == first or waiting[at] < until):
                key = waiting[at]
                self._take(key, shown.get(key, ()), asked)
                self._remember(key, dirty[key])
                at += 1

    def _page(self, first: str, last: str, left: int) -> tuple[Histories, str]:
        """A page or more from `first` on, and the key before which it is whole."""
        entries: list[Entry] = []
        size = min(1000, max(20, 10 * left))
        for page in self.bucket.list_entries(KeyRange(first, last), page_entries=size):
            self.followed.requests += 1
            entries += page
            if entries[0].key != entries[-1].key:
                break
        else:
            return histories_of(entries), behind(last)
        return histories_of(entries), entries[-1].key  # of the last there may be more

    def _take(self, key: str, history: tuple[Entry, ...], asked: StoreMs) -> None:
        gone = missing(self.index.history(key), history)
        if not history or any((key, row.entry.version_id) not in self._told_removed for row in gone):
            self.followed.requests += 2
            history = CrossCheck(self.bucket, self.index).alone(key)
        done = self.index.ingest(KeyRange(key, key), history, asked=asked)
        self.followed.keys += 1
        self.followed.added += done.added
        self.followed.gone += done.gone

    def _remember(self, key: str, sequencer: str) -> None:
        if sequencer:
            self._listed[key] = sequencer
            self._listed.move_to_end(key)
            if len(self._listed) > _REMEMBERED_MAX:
                self._listed.popitem(last=False)

    # --- gaps ----------------------------------------------------------------------------------

    def _observe_gap(self, since: StoreMs, now: StoreMs) -> None:
        self.followed.gap_since = since
        self.index.observe(Observation(now, "feed_gap", gap_text(since)))
        self.warn(f"{self.feed.name}: messages may have been lost; make a complete scan")

    def _last_drained(self) -> StoreMs | None:
        if self.place is None:
            return None
        try:
            found = json.loads(self.place.read_text(encoding="ascii"))
        except (OSError, ValueError):
            return None
        at = found.get(self.feed.name) if isinstance(found, dict) else None
        return StoreMs(at) if isinstance(at, int) else None

    def _write_drained(self, at: StoreMs) -> None:
        if self.place is not None:
            self.place.parent.mkdir(parents=True, exist_ok=True)
            fresh = self.place.with_name(self.place.name + ".new")
            fresh.write_text(json.dumps({self.feed.name: at}), encoding="ascii")
            os.replace(fresh, self.place)
