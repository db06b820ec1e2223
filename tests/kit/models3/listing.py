"""Listing pages: ListObjectVersions and ListObjectsV2, with markers, delimiters and limits.

Source: API Reference, "ListObjectVersions", "ListObjectsV2".
Rules:
- Keys in the order of their UTF-8 bytes; the entries of a key newest first, versions and markers mixed.
- A key marker alone goes on behind *all* entries of that key; with a version id marker, behind that entry.
- A common prefix counts as one against the limit.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.kit.models3.entries import Bucket, Stored
from tests.kit.models3.refusals import Refusal

PAGE_MAX = 1000


@dataclass(frozen=True)
class Asked:
    """What a listing request asks for."""

    prefix: str = ""
    delimiter: str = ""
    after_key: str = ""
    after_version: str = ""
    limit: int = PAGE_MAX


@dataclass
class Page:
    """One page: entries and common prefixes in order."""

    entries: list[Stored] = field(default_factory=list)
    prefixes: list[str] = field(default_factory=list)
    truncated: bool = False
    next_key: str = ""
    next_version: str = ""

    @property
    def count(self) -> int:
        return len(self.entries) + len(self.prefixes)


def versions(bucket: Bucket, asked: Asked) -> Page:
    """A page of all versions and markers."""
    if asked.after_version and not asked.after_key:
        raise Refusal("InvalidArgument", "A version-id marker cannot be specified without a key marker.")
    return _page(_all_entries(bucket, asked), asked)


def objects(bucket: Bucket, asked: Asked) -> Page:
    """A page of current objects."""
    return _page(_current_entries(bucket, asked), asked)


def _page(found: Iterator[Stored], asked: Asked) -> Page:
    page = Page()
    limit = min(asked.limit, PAGE_MAX)
    if limit == 0:
        return page
    for entry in found:
        rolled = _rolled_up(entry.key, asked)
        if rolled is not None:
            passed = bool(asked.after_key) and rolled <= asked.after_key
            if passed or (page.prefixes and page.prefixes[-1] == rolled):
                continue
        if page.count == limit:
            page.truncated = True
            return page
        if rolled is not None:
            page.prefixes.append(rolled)
            page.next_key, page.next_version = rolled, ""
        else:
            page.entries.append(entry)
            page.next_key, page.next_version = entry.key, entry.version_id
    return page


def _rolled_up(key: str, asked: Asked) -> str | None:
    if not asked.delimiter:
        return None
    end = key.find(asked.delimiter, len(asked.prefix))
    return None if end < 0 else key[: end + len(asked.delimiter)]


def _keys(bucket: Bucket, asked: Asked, *, start: int) -> Iterator[str]:
    for index in range(max(start, bisect_left(bucket.keys, asked.prefix)), len(bucket.keys)):
        key = bucket.keys[index]
        if not key.startswith(asked.prefix):
            return
        yield key


def _current_entries(bucket: Bucket, asked: Asked) -> Iterator[Stored]:
    for key in _keys(bucket, asked, start=bisect_right(bucket.keys, asked.after_key)):
        current = bucket.current(key)
        if current is not None:
            yield current


def _all_entries(bucket: Bucket, asked: Asked) -> Iterator[Stored]:
    if not asked.after_version:
        start = bisect_right(bucket.keys, asked.after_key) if asked.after_key else 0
        for key in _keys(bucket, asked, start=start):
            yield from bucket.history(key)
        return
    behind = bucket.orders.get((asked.after_key, asked.after_version))
    if behind is None:
        raise Refusal("InvalidArgument", "Invalid version id specified")
    for key in _keys(bucket, asked, start=bisect_left(bucket.keys, asked.after_key)):
        for entry in bucket.history(key):
            if key != asked.after_key or entry.order < behind:
                yield entry
