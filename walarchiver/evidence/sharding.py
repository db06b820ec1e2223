"""The keys of a bucket cut into ranges that meet without a gap and never overlap.

Rules:
- Order is that of UTF-8 bytes, which is Python's order of texts.
- A key has at most 1024 bytes (S3 API), so behind every key that begins with a prefix stands the prefix with
  256 times the last code point; and right behind a key stands the key with a zero byte.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from walarchiver.bucketports import KeyRange

_LAST = "\U0010ffff"
_FILL = _LAST * 256


def behind(key: str) -> str:
    """The first name behind a key."""
    return key + "\0"


def below(prefix: str) -> KeyRange:
    """Every key that begins with the prefix."""
    return KeyRange() if prefix == "" else KeyRange(prefix, prefix + _FILL)


def tiles(whole: KeyRange, folders: Iterable[str]) -> tuple[KeyRange, ...]:
    """`whole` as consecutive ranges: what lies below each folder, and what lies between folders."""
    found: list[KeyRange] = []
    first = whole.first
    for folder in sorted(set(folders)):
        inner = below(folder)
        if not folder or inner.last is None or inner.last < first:
            continue
        if whole.last is not None and inner.last > whole.last:
            break
        if first < folder:
            found.append(KeyRange(first, _before(folder)))
        found.append(KeyRange(max(first, folder), inner.last))
        first = _after(folder)
    if whole.last is None or first <= whole.last:
        found.append(KeyRange(first, whole.last))
    return tuple(found)


def runs(keys: Iterable[str], *, most: int) -> Iterator[tuple[str, ...]]:
    """Neighbours among keys, at most so many together; in order, each once."""
    waiting: list[str] = []
    for key in sorted(set(keys)):
        if len(waiting) == most:
            yield tuple(waiting)
            waiting = []
        waiting.append(key)
    if waiting:
        yield tuple(waiting)


def _after(folder: str) -> str:
    """The first name behind all that begin with the folder's, which ends in `/`."""
    return folder[:-1] + chr(ord(folder[-1]) + 1)


def _before(folder: str) -> str:
    """The last name of 1024 bytes before all that begin with the folder's, which ends in `/`."""
    return folder[:-1] + chr(ord(folder[-1]) - 1) + _FILL
