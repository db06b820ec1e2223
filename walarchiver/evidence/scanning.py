"""A complete listing of the bucket, or of a prefix, into the index: in parts, at once, and resumable.

Rules:
- The keys are cut into shards, a shard into parts of some 20,000 entries; a part is checked (crosscheck.py),
  corrected and only then ingested. Nothing is taken as removed from a part that did not pass.
- When a part shows that the server loses keys in listings, the parts that were done before count as not
  done: all are listed again, each twice with pages of different sizes. The next scan begins like that.
- `asked` of a part is the store's own time right before its first page was asked for.
- Ended early, by whatever, a scan goes on at its next start, within a week, where each shard had come to.
- The `scan` observation is made at the end, for the time at which the scan began.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from walarchiver.bucketports import EvidenceBucket, KeyRange, Observation, VersionIndex, Versioning
from walarchiver.core.bucketfacts import scan_text
from walarchiver.core.version import Entry, MultipartTime, StoreMs
from walarchiver.errors import BucketNotVersioned, IndexUnavailable, ListingIncomplete, WalarchiverError
from walarchiver.evidence.crosscheck import CrossCheck, Part, histories_of
from walarchiver.evidence.observing import last_entries, look_at_bucket, loses_keys
from walarchiver.evidence.scanplace import Place, Shard, forget_place, read_place, write_place
from walarchiver.evidence.sharding import behind, below, hiding_folders, tiles

_FOLDERS_MAX = 64
"""More folders than this side by side are not made shards of their own."""
_CUTS_MAX = 100
"""Entries at the end of a part among which a place to cut is looked for."""
_KEPT_MS = 7 * 86_400_000
"""A scan that was begun longer ago is not gone on with: it would vouch for a time long past."""
_POLL_S = 0.5
_ENDING_S = 1.0
"""How long who ends it waits for a worker to put its part away."""


@dataclass(frozen=True, slots=True)
class ScanOptions:
    """How a bucket is listed."""

    page_entries: int = 1000
    listings: int = 4
    part_entries: int = 20_000
    multipart_time: MultipartTime = MultipartTime.UNKNOWN
    place: Path | None = None
    """File for how far it has come; None: an ended scan begins anew."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a scan has come."""

    keys: int
    entries: int
    expected: int | None
    """Entries that the last scan found."""


@dataclass(frozen=True, slots=True)
class Scanned:
    """What a scan did."""

    asked: StoreMs
    keys: int
    entries: int
    added: int
    gone: int
    revived: int
    alone: int
    """Keys that had to be listed alone, as the listings did not agree on them."""
    carefully: bool
    """The server loses keys in listings; every part was listed at least twice."""
    resumed: bool
    versioning: Versioning


class _Finished(Exception):
    """A worker is to end: another one failed, or the caller goes."""


@dataclass(slots=True)
class Scan:
    """One scan; `run` does it."""

    bucket: EvidenceBucket
    index: VersionIndex
    options: ScanOptions = field(default_factory=ScanOptions)
    progress: Callable[[Progress], None] = lambda _now: None
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _stop: threading.Event = field(default_factory=threading.Event)
    _work: queue.SimpleQueue[Shard | None] = field(default_factory=queue.SimpleQueue)
    _faults: list[WalarchiverError] = field(default_factory=list)
    _lost: bool = False
    """Seen by a part that was not listed carefully."""
    _under_way: int = 0
    """Entries of parts that are not in the index yet."""
    _added: int = 0
    _gone: int = 0
    _revived: int = 0
    _alone: int = 0

    def run(self, prefix: str | None = None) -> Scanned:
        """List everything below `prefix` (None: the bucket's own).

        Raises BucketNotVersioned, ListingIncomplete, Store…, Index….
        """
        whole = prefix if prefix is not None else self.bucket.prefix
        versioning = look_at_bucket(self.bucket, self.index, multipart_time=self.options.multipart_time)
        if versioning is Versioning.OFF:
            raise BucketNotVersioned(f"{self.bucket.url} never had versioning enabled")
        place, resumed = self._place(whole)
        expected = last_entries(self.index, whole)
        self._list(place, expected)
        if self._lost and not place.carefully:
            place = self._fresh(whole, place.asked)
            self._list(place, expected)
        told = scan_text(whole, keys=place.keys, entries=place.entries, loses_keys=self._lost)
        self.index.observe(Observation(place.asked, "scan", told))
        if self.options.place is not None:
            forget_place(self.options.place)
        return Scanned(
            asked=place.asked,
            keys=place.keys,
            entries=place.entries,
            added=self._added,
            gone=self._gone,
            revived=self._revived,
            alone=self._alone,
            carefully=place.carefully,
            resumed=resumed,
            versioning=versioning,
        )

    # --- where to begin ------------------------------------------------------------------------

    def _place(self, prefix: str) -> tuple[Place, bool]:
        path = self.options.place
        begun = read_place(path, bucket=self.bucket.url, prefix=prefix) if path is not None else None
        now = self.bucket.date()
        if begun is not None and begun.asked > now - _KEPT_MS:
            return begun, True
        return self._fresh(prefix, now), False

    def _fresh(self, prefix: str, asked: StoreMs) -> Place:
        whole = below(prefix)
        carefully = self._lost or loses_keys(self.index)
        return Place(self.bucket.url, prefix, asked, [Shard(whole, whole.first)], carefully=carefully)

    # --- listing -------------------------------------------------------------------------------

    def _list(self, place: Place, expected: int | None) -> None:
        """All shards. A bucket of one shard is cut by its folders once it turns out not to be small."""
        check = CrossCheck(self.bucket, self.index, self._stopped)
        if len(place.shards) == 1:
            self._together(place, check, expected, parts=1)
            left = place.shards[0].left
            if left is not None and not self._given_up(place):
                place.shards = [Shard(keys, keys.first) for keys in self._cut(place.prefix, left)]
        if not self._given_up(place):
            self._together(place, check, expected, parts=None)

    def _cut(self, prefix: str, left: KeyRange) -> tuple[KeyRange, ...]:
        folders = self.bucket.list_folders(prefix)
        if len(folders) == 1:
            folders = self.bucket.list_folders(folders[0]) or folders
        return tiles(left, folders, folders_max=_FOLDERS_MAX)

    def _given_up(self, place: Place) -> bool:
        """Whether what is done so far has to be done again with more care."""
        return self._lost and not place.carefully

    def _together(self, place: Place, check: CrossCheck, expected: int | None, *, parts: int | None) -> None:
        """Workers take shards until none is left, `parts` of each; this thread waits, tells, hears Ctrl-C."""
        shards = [shard for shard in place.shards if shard.left is not None]
        workers = [
            threading.Thread(target=self._worker, args=(place, check, parts), name="bucket-scan", daemon=True)
            for _ in range(min(self.options.listings, len(shards)))
        ]
        for shard in shards:
            self._work.put(shard)
        for worker in workers:
            self._work.put(None)
            worker.start()
        try:
            while any(worker.is_alive() for worker in workers):
                workers[-1].join(_POLL_S)
                workers.sort(key=threading.Thread.is_alive)
                self._tell(place, expected)
        except BaseException:
            self._stop.set()
            for worker in workers:
                worker.join(_ENDING_S / len(workers))
            raise
        if self._faults:
            raise self._faults[0]
        if parts is None and not self._given_up(place) and any(shard.left for shard in place.shards):
            raise ListingIncomplete(f"{self.bucket.url}: a part of it was not listed to its end")

    def _worker(self, place: Place, check: CrossCheck, parts: int | None) -> None:
        try:
            while (shard := self._work.get()) is not None:
                left = parts
                while shard.left is not None and left != 0 and not self._given_up(place):
                    self._part(place, shard, check)
                    left = None if left is None else left - 1
        except _Finished:
            pass
        except WalarchiverError as fault:
            with self._lock:
                self._faults.append(fault)
            self._stop.set()

    def _part(self, place: Place, shard: Shard, check: CrossCheck) -> None:
        """The next part of a shard: listed, checked, ingested, noted."""
        left = shard.left
        assert left is not None
        asked = self.bucket.date()
        entries, keys = self._next_entries(left)
        part = Part(keys, histories_of(entries), asked, self.options.page_entries)
        check.settle(part, carefully=place.carefully)
        self._stopped()
        count = sum(map(len, part.histories.values()))
        done = self.index.ingest(
            keys, (entry for key in sorted(part.histories) for entry in part.histories[key]), asked=asked
        )
        with self._lock:
            shard.next_key = None if keys.last == shard.keys.last else behind(keys.last or "")
            place.keys += len(part.histories)
            place.entries += count
            self._under_way -= len(entries)
            self._added += done.added
            self._gone += done.gone
            self._revived += done.revived
            self._alone += part.alone
            self._lost = self._lost or part.was_lossy
            if self.options.place is not None and not self._given_up(place):
                try:
                    write_place(self.options.place, place)
                except OSError as failure:
                    raise IndexUnavailable(f"{self.options.place}: {failure.strerror}") from failure

    def _next_entries(self, left: KeyRange) -> tuple[list[Entry], KeyRange]:
        """Entries of whole keys, and the range in which they are all there are."""
        entries: list[Entry] = []
        wanted = self.options.part_entries
        for page in self.bucket.list_entries(left, page_entries=self.options.page_entries):
            self._stopped()
            entries += page
            with self._lock:
                self._under_way += len(page)
            if len(entries) >= wanted:
                cut = self._place_to_cut(entries)
                if cut is not None:
                    whole = [entry for entry in entries if entry.key <= cut]
                    with self._lock:
                        self._under_way -= len(entries) - len(whole)
                    return whole, replace(left, last=cut)
                wanted = len(entries) + self.options.part_entries // 4
        return entries, left

    def _place_to_cut(self, entries: list[Entry]) -> str | None:
        """The last key behind which a listing can begin anew; of the very last there may be more to come."""
        last = entries[-1].key
        keys = dict.fromkeys(entry.key for entry in reversed(entries[-_CUTS_MAX:]) if entry.key != last)
        folders: dict[str, bool] = {}
        for key in sorted(keys, key=lambda key: len(hiding_folders(key, self.bucket.prefix))):
            if not any(self._is_there(folder, folders) for folder in hiding_folders(key, self.bucket.prefix)):
                return key
        return None

    def _is_there(self, folder: str, known: dict[str, bool]) -> bool:
        if folder not in known:
            self._stopped()
            pages = self.bucket.list_entries(below(folder), page_entries=1)
            known[folder] = next(iter(pages), None) is not None
        return known[folder]

    # --- telling -------------------------------------------------------------------------------

    def _stopped(self) -> None:
        if self._stop.is_set():
            raise _Finished

    def _tell(self, place: Place, expected: int | None) -> None:
        with self._lock:
            now = Progress(place.keys, place.entries + self._under_way, expected)
        self.progress(now)
