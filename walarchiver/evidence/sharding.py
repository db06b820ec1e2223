"""The keys of a bucket cut into ranges that meet without a gap and never overlap.

Rules:
- Order is that of UTF-8 bytes, which is Python's order of texts.
- A key has at most 1024 bytes (S3 API), so behind every key that begins with a prefix stands the prefix with
  256 times the last code point; and right behind a key stands the key with a zero byte.
- Some servers walk their folders instead: `a/x` comes before `a-1` there (SeaweedFS 4.48), although it is
  behind it in bytes. Both of their listings lose `a/x` when asked for what is behind `a-1`. So a range begins
  behind a key only where no such folder exists: `hiding_folders` names the ones to look for.
"""

from __future__ import annotations

from collections.abc import Sequence

from walarchiver.bucketports import KeyRange

_LAST = "\U0010ffff"
_FILL = _LAST * 256


def behind(key: str) -> str:
    """The first name behind a key."""
    return key + "\0"


def below(prefix: str) -> KeyRange:
    """Every key that begins with the prefix."""
    return KeyRange() if prefix == "" else KeyRange(prefix, prefix + _FILL)


def tiles(whole: KeyRange, folders: Sequence[str], *, folders_max: int) -> tuple[KeyRange, ...]:
    """`whole` as consecutive ranges: what lies below each folder, and what lies between folders.

    Of more folders than `folders_max`, several go into one range.
    """
    if len(folders) > folders_max:
        return _groups(whole, folders, folders_max)
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


def _groups(whole: KeyRange, folders: Sequence[str], groups: int) -> tuple[KeyRange, ...]:
    known = frozenset(folders)
    found: list[KeyRange] = []
    first, size = whole.first, -(-len(folders) // groups)
    for count, folder in enumerate(sorted(known)):
        if count % size or folder <= first or not known.isdisjoint(hiding_folders(folder, "")):
            continue
        if whole.last is not None and folder >= whole.last:
            break
        found.append(KeyRange(first, folder))
        first = behind(folder)
    return (*found, KeyRange(first, whole.last))


def hiding_folders(key: str, prefix: str) -> tuple[str, ...]:
    """Folders whose keys, if there are any, some servers do not show behind `key`."""
    return tuple(key[:at] + "/" for at in range(len(prefix), len(key)) if key[at] < "/")


def _after(folder: str) -> str:
    """The first name behind all that begin with the folder's, which ends in `/`."""
    return folder[:-1] + chr(ord(folder[-1]) + 1)


def _before(folder: str) -> str:
    """The last name of 1024 bytes before all that begin with the folder's, which ends in `/`."""
    return folder[:-1] + chr(ord(folder[-1]) - 1) + _FILL
