"""Reads everything again that the ledger records and compares it: by hash without keys, or by digest.

Rules:
- Any version of an object that has the recorded bytes will do, as for every reader.
- Bounded: so many threads that the largest parts fit into `server.memory`, and a few items per thread
  waiting. An answer that may pass (storage down) stops the run, which can go on later; only bytes
  that are wrong or gone are damage.
- Damage never stops the run: the whole list is wanted. Neither does an epoch that no key at hand opens:
  what it seals is compared by hash, and the epoch is named.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

from blake3 import blake3

from restore.plainfile import write_plain
from walarchiver.assembly import Archive
from walarchiver.core.coverage import Run, gap_names
from walarchiver.errors import KeyCannotOpen, ObjectDamaged, ObjectMissing, Untrusted
from walarchiver.format.epoch import EPOCH_OBJECT_BYTES_MAX
from walarchiver.operate.affected import Holdings, affected_by
from walarchiver.operate.inventory import (
    EpochItem,
    FileItem,
    Item,
    PartItem,
    bytes_of,
    incomplete,
    inventory,
    keys_of,
    mark_of,
)
from walarchiver.operate.verifyjournal import Journal
from walarchiver.ports import Clock
from walarchiver.repository import Repository

THREADS_MAX = 16
_TELL_S = 2.0


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is; `seconds_left` is None until it can be told."""

    items: int
    items_total: int
    bytes: int
    bytes_total: int
    seconds_left: float | None


@dataclass(frozen=True, slots=True)
class Damage:
    """One item that does not verify."""

    name: str
    keys: tuple[str, ...]
    code: str
    message: str
    affects: str


@dataclass(frozen=True, slots=True)
class Unopened:
    """Items that no key at hand opens, for one reason; they were compared by their hashes only."""

    message: str
    """Names the epoch."""
    items: int


@dataclass(slots=True)
class Verification:
    """What a run found; `skipped` items had been verified by the interrupted run that it continued."""

    deep: bool
    items: int = 0
    bytes: int = 0
    skipped: int = 0
    seconds: float = 0.0
    damaged: list[Damage] = field(default_factory=list)
    unopened: list[Unopened] = field(default_factory=list)
    gaps: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyRequest:
    """How to read."""

    deep: bool
    workers: int
    memory: int
    """Bytes of stored objects held at once."""
    journal: Journal
    clock: Clock
    progress: Callable[[Progress], None]


def verify(archive: Archive, request: VerifyRequest) -> Verification:
    """Read everything. Raises StoreUnavailable, StoreDenied, KeyCannotOpen (deep without any key)."""
    if request.deep and not archive.repository.identities:
        raise KeyCannotOpen("`verify --deep` opens everything, and no `identity` is configured here")
    return _Run(archive, request).run()


class _Run:
    def __init__(self, archive: Archive, request: VerifyRequest) -> None:
        self._archive = archive
        self._request = request
        self._found = Verification(deep=request.deep)
        self._total_items = self._total_bytes = 0
        self._largest = 1
        self._closed = _ClosedEpochs()
        self._began_s = self._told_s = request.clock.monotonic_s()
        self._holdings = Holdings(
            archive.segment_size,
            archive.catalog.backups(),
            archive.catalog.histories(),
            archive.catalog.horizons(),
        )

    def run(self) -> Verification:
        found, catalog = self._found, self._archive.catalog
        for item in self._items():
            self._total_items += 1
            self._total_bytes += bytes_of(item)
            self._largest = max(self._largest, *(one.stored_len for one in item.objects), 1)
        with self._request.journal as journal:
            self._read_all(journal)
        found.damaged.sort(key=lambda damage: damage.name)
        found.unopened = self._closed.found()
        for backup in incomplete(self._holdings.backups, catalog):
            found.damaged.append(_incomplete(backup))
        found.gaps = gap_names(tuple(Run(*run) for run in catalog.runs()), self._archive.segment_size)
        found.seconds = self._request.clock.monotonic_s() - self._began_s
        return found

    def _items(self) -> Iterator[Item]:
        return inventory(self._archive.catalog, self._archive.system)

    def _read_all(self, journal: Journal) -> None:
        threads = max(1, min(self._request.workers * 2, THREADS_MAX, self._request.memory // self._largest))
        with ThreadPoolExecutor(threads, thread_name_prefix="verify") as pool:
            waiting: dict[Future[Damage | None], Item] = {}
            try:
                for item in self._items():
                    if mark_of(item) in journal.done:
                        self._found.skipped += 1
                        self._count(item)
                        continue
                    waiting[pool.submit(self._read, item)] = item
                    if len(waiting) >= threads * 2:
                        self._collect(journal, waiting)
                while waiting:
                    self._collect(journal, waiting)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _collect(self, journal: Journal, waiting: dict[Future[Damage | None], Item]) -> None:
        """Take in what is done; at least one item."""
        done, _ = wait(waiting, return_when=FIRST_COMPLETED)
        for future in done:
            item = waiting.pop(future)
            damage = future.result()
            if damage is None and self._closed.has(item):
                pass  # a later run with another key may open it
            elif damage is None:
                journal.remember(mark_of(item))
            else:
                self._found.damaged.append(damage)
            self._count(item)

    def _count(self, item: Item) -> None:
        found, now_s = self._found, self._request.clock.monotonic_s()
        found.items += 1
        found.bytes += bytes_of(item)
        if now_s - self._told_s >= _TELL_S:
            self._told_s = now_s
            read, seconds = found.bytes, now_s - self._began_s
            left = (self._total_bytes - read) * seconds / read if read else None
            self._request.progress(Progress(found.items, self._total_items, read, self._total_bytes, left))

    def _read(self, item: Item) -> Damage | None:
        try:
            try:
                read_item(self._archive, item, deep=self._request.deep)
            except KeyCannotOpen as error:
                self._closed.add(item, error)
                read_item(self._archive, item, deep=False)
        except Untrusted as error:
            return Damage(
                item.name, keys_of(item), error.code, error.message, affected_by(item, self._holdings)
            )
        return None


class _ClosedEpochs:
    """What no key at hand opens, as the threads find it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._items: dict[str, KeyCannotOpen] = {}

    def add(self, item: Item, error: KeyCannotOpen) -> None:
        with self._lock:
            self._items[mark_of(item)] = error

    def has(self, item: Item) -> bool:
        with self._lock:
            return mark_of(item) in self._items

    def found(self) -> list[Unopened]:
        """By reason, which names the epoch."""
        counts = Counter(error.message for error in self._items.values())
        return [Unopened(message, count) for message, count in sorted(counts.items())]


def _incomplete(backup: str) -> Damage:
    return Damage(
        backup,
        (),
        ObjectDamaged.code,
        f"the recorded parts of base backup {backup} are not the ones it was finished with",
        f"no restore can begin with base backup {backup}",
    )


def read_item(archive: Archive, item: Item, *, deep: bool) -> None:
    """Read one item and compare it with its record. Raises Untrusted and what the store raises."""
    repository = archive.repository
    match item:
        case EpochItem():
            _check_epoch(repository, item)
            if deep:
                repository.epoch_key(item.system, item.record.epoch)
        case FileItem(record) if deep:
            with open(os.devnull, "wb") as nowhere:
                write_plain(repository, archive.system, record, nowhere)
        case PartItem() if deep:
            _open_part(archive, item)
        case _:
            for stored in item.objects:
                repository.stored_bytes(stored)


def _open_part(archive: Archive, item: PartItem) -> None:
    hasher, length = blake3(), 0
    for chunk in archive.repository.plain_part(archive.system, item.backup, item.part):
        hasher.update(chunk)
        length += len(chunk)
    if (length, hasher.hexdigest()) != (item.part.raw, item.part.digest):
        raise ObjectDamaged(f"{item.name} opens to {length} bytes that do not have the recorded digest")


def _check_epoch(repository: Repository, item: EpochItem) -> None:
    """Some version of the key object has the recorded hash. Raises ObjectMissing, ObjectDamaged."""
    seen = False
    for version in repository.store.list_versions(item.key):
        if version.key != item.key or version.is_delete_marker:
            continue
        seen = True
        if version.size <= EPOCH_OBJECT_BYTES_MAX:
            body = repository.store.get(
                item.key, version_id=version.version_id, bytes_max=EPOCH_OBJECT_BYTES_MAX
            )
            if body is not None and hashlib.sha256(body).hexdigest() == item.record.sha256:
                return
    if seen:
        raise ObjectDamaged(f"no version of {item.key} has the bytes that the ledger recorded")
    raise ObjectMissing(f"{item.key} is recorded in the ledger but is not in {repository.store.url}")
