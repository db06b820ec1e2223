"""What stands at the ledger's names in a store, whatever it is.

Rules:
- Every version counts. An object that is too long for an entry is hashed piece by piece, never held.
- A delete marker is nothing; a version that is gone by the time it is read is nothing.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from walarchiver.core.objectname import ledger_key, ledger_prefix, parse_ledger_key
from walarchiver.errors import ObjectDamaged
from walarchiver.format.entry import ENTRY_BYTES_MAX
from walarchiver.ports import ObjectStore, StoredVersion

_PIECE_BYTES = 8 << 20
"""How much of an object too long to be an entry is held at a time."""
_FEW = 5
"""Fewer names than this are fetched one by one, without threads."""
_AT_ONCE = 8
_AHEAD = 32
_AHEAD_BYTES = 64 << 20
"""Bounds of what is fetched ahead: threads, names, bytes."""


@dataclass(frozen=True, slots=True)
class Content:
    """What one version of a ledger name holds; `body` is None when it is too long for an entry."""

    sha256: str
    body: bytes | None


Entries = tuple[int, list[StoredVersion], Callable[[], list[Content]]]
"""A number, the versions of its name, and what gives (or fetches) their distinct contents."""


class EntryStore:
    """Reads one cluster's ledger names. Blocking, without state."""

    def __init__(self, store: ObjectStore, system: str) -> None:
        self.store = store
        self.system = system

    def listed(self, first: int) -> Iterator[tuple[int, list[StoredVersion]]]:
        """Numbers from `first` on with the versions of their names, delete markers among them."""
        after = ledger_key(self.system, first - 1) if first else ""
        found: list[StoredVersion] = []
        for version in self.store.list_versions(ledger_prefix(self.system), start_after=after):
            if found and found[0].key != version.key:
                yield from _numbered(found)
                found = []
            found.append(version)
        yield from _numbered(found)

    def read(self, first: int, *, fetched: int, until: int | None) -> Generator[Entries, None, None]:
        """As `listed`, from `first` to before `until`, with what stands there from `fetched` on.

        Where much is listed it is fetched ahead, several names at once: a cold catalog reads thousands.
        Close it when it is not read to its end.
        """
        listing = itertools.takewhile(lambda one: until is None or one[0] < until, self.listed(first))
        few = list(itertools.islice(listing, _FEW))
        if len(few) < _FEW:
            yield from ((seq, versions, partial(self.distinct, versions)) for seq, versions in few)
            return
        ahead: deque[Entries] = deque()
        held = 0
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="entries") as pool:
            try:
                for seq, versions in itertools.chain(few, listing):
                    while ahead and (len(ahead) == _AHEAD or held + _size(versions) > _AHEAD_BYTES):
                        held -= _size(ahead[0][1])
                        yield ahead.popleft()
                    held += _size(versions)
                    read = partial(self.distinct, versions)
                    ahead.append((seq, versions, read if seq < fetched else pool.submit(read).result))
                yield from ahead
            finally:
                pool.shutdown(cancel_futures=True)

    def at(self, seq: int) -> list[Content]:
        """The distinct contents of a number's name, the oldest first."""
        key = ledger_key(self.system, seq)
        return self.distinct([v for v in self.store.list_versions(key) if v.key == key])

    def distinct(self, versions: Sequence[StoredVersion]) -> list[Content]:
        """The distinct contents among the versions of a name (a listing gives the newest first)."""
        found = (self.content(version) for version in reversed(versions) if not version.is_delete_marker)
        return list({content.sha256: content for content in found if content is not None}.values())

    def content(self, version: StoredVersion) -> Content | None:
        """What a version holds; None when it is gone by now. Raises ObjectDamaged, Store…"""
        key, version_id = version.key, version.version_id
        if version.size <= ENTRY_BYTES_MAX:
            body = self.store.get(key, version_id=version_id, bytes_max=ENTRY_BYTES_MAX)
            return None if body is None else Content(hashlib.sha256(body).hexdigest(), body)
        hasher = hashlib.sha256()
        start = 0
        while start < version.size:
            piece = self.store.get_range(key, start=start, length=_PIECE_BYTES, version_id=version_id)
            if piece is None:
                return None
            if not piece:
                raise ObjectDamaged(f"{key} gave {start} of its {version.size} bytes")
            hasher.update(piece)
            start += len(piece)
        return Content(hasher.hexdigest(), None)


def _numbered(versions: list[StoredVersion]) -> Iterator[tuple[int, list[StoredVersion]]]:
    """One name's versions with its number; nothing when it is no ledger name."""
    name = parse_ledger_key(versions[0].key) if versions else None
    if name is not None:
        yield name.seq, versions


def _size(versions: Sequence[StoredVersion]) -> int:
    """The most that is held of a name."""
    return sum(min(version.size, ENTRY_BYTES_MAX) for version in versions)


def holds_anything(versions: Sequence[StoredVersion]) -> bool:
    """Whether there is more under a name than delete markers."""
    return any(not version.is_delete_marker for version in versions)
