"""How an entry and a placed row look inside an index: short, and quick to compare.

Rules:
- `Facts` is what a listing says of one entry; `Stored` is a row. Both survive the way there and back.
- Keys are their UTF-8 bytes, so that order is that of S3. Ids and ETags of 32 hex digits are kept as 16
  bytes, an ETag of parts with its number behind; whatever does not come back the same is kept as text.
- A marker has no size. `FOREVER` is the largest number of six bytes.
- `simple` places what needs no thought, just as core/keyhistory.py would; it says None for anything else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from walarchiver.core.version import (
    FOREVER,
    NULL_VERSION,
    Entry,
    EntryKind,
    Placed,
    Row,
    StoreMs,
    Trait,
)

LATEST = 32
"""Beside the traits: the server calls the entry the latest."""
_TRAITS = 31
FACT_FLAGS = LATEST | Trait.NULL.value | Trait.MULTIPART.value
NULL = Trait.NULL.value
_MULTIPART = Trait.MULTIPART.value
_MARKER = EntryKind.MARKER
UNKNOWN_BEGIN = Trait.UNKNOWN_BEGIN.value
ORDER_CONFLICT = Trait.ORDER_CONFLICT.value
REINSTATED = Trait.REINSTATED.value
ENDLESS = 2**47 - 1
"""Stands for FOREVER; the largest integer that SQLite keeps in six bytes."""
LAST_KEY = b"\xff"
"""Behind every key: no UTF-8 has such a byte."""

Packed = str | bytes | None
Facts = tuple[int, int | None, int, Packed, Packed, int]
"""modified, size (None: marker), flags, version id, ETag, number of the storage class."""
Stored = tuple[int, int, int, int | None, int, Packed, Packed, int, int, int, int, int | None, int | None]
"""place, begin, until, size, flags, id, etag, class, first_seen, lag, tie, gone_by, gone_after."""
COLUMNS = "place, begin, until, size, flags, id, etag, class, first_seen, lag, tie, gone_by, gone_after"
"""Of a row behind its key. `place` counts a key's rows from the oldest; `lag` is begin - modified."""


def key_bytes(key: str) -> bytes:
    return key.encode("utf-8", "surrogatepass")


def key_text(key: bytes) -> str:
    return key.decode("utf-8", "surrogatepass")


def packed(text: str) -> Packed:
    if not text:
        return None
    if len(text) == 32:
        try:
            short = bytes.fromhex(text)
        except ValueError:
            return text
        if short.hex() == text:
            return short
    elif len(text) > 33 and text[32] == "-":
        short_or_text, parts = packed(text[:32]), text[33:]
        if isinstance(short_or_text, bytes) and parts.isdecimal() and parts.isascii():
            number = int(parts) if len(parts) < 9 else 0
            if str(number) == parts and number:
                return short_or_text + number.to_bytes(4, "big")
    return text


def unpacked(packed: Packed) -> str:
    if packed is None:
        return ""
    if isinstance(packed, str):
        return packed
    if len(packed) == 16:
        return packed.hex()
    return f"{packed[:16].hex()}-{int.from_bytes(packed[16:], 'big')}"


def facts_of(entry: Entry, class_number: Callable[[str], int]) -> Facts:
    flags = LATEST if entry.is_latest else 0
    version_id, etag = entry.version_id, entry.etag
    if version_id == NULL_VERSION:
        flags |= NULL
    is_marker = entry.kind is _MARKER
    if "-" in etag and not is_marker:
        flags |= _MULTIPART
    size = None if is_marker else entry.size
    number = class_number(entry.storage_class)
    return (entry.modified, size, flags, packed(version_id), packed(etag), number)


def entry_of(key: str, facts: Facts, class_name: Callable[[int], str]) -> Entry:
    modified, size, flags, version_id, etag, number = facts
    return Entry(
        key,
        unpacked(version_id),
        EntryKind.MARKER if size is None else EntryKind.VERSION,
        StoreMs(modified),
        size or 0,
        unpacked(etag),
        class_name(number),
        bool(flags & LATEST),
    )


def facts_in(stored: Stored) -> Facts:
    _, begin, _, size, flags, version_id, etag, number, _, lag, _, _, _ = stored
    return (begin - lag, size, flags & FACT_FLAGS, version_id, etag, number)


def row_of(key: str, stored: Stored, class_name: Callable[[int], str]) -> Row:
    _, begin, until, _, flags, _, _, _, first_seen, _, tie, gone_by, gone_after = stored
    placed = Placed(
        entry_of(key, facts_in(stored), class_name),
        StoreMs(begin),
        FOREVER if until == ENDLESS else StoreMs(until),
        tie,
        Trait(flags & _TRAITS),
    )
    return Row(
        placed,
        StoreMs(first_seen),
        None if gone_by is None else StoreMs(gone_by),
        None if gone_after is None else StoreMs(gone_after),
    )


def stored_rows(rows: Sequence[Row], class_number: Callable[[str], int]) -> list[Stored]:
    """The rows of a key (newest first) as they are kept (oldest first)."""
    kept: list[Stored] = []
    for place, row in enumerate(reversed(rows)):
        placed = row.placed
        modified, size, flags, version_id, etag, number = facts_of(placed.entry, class_number)
        flags = (flags & LATEST) | placed.traits.value
        until = ENDLESS if placed.until == FOREVER else placed.until
        lag, seen, tie = placed.begin - modified, row.first_seen, placed.tie
        facts = (size, flags, version_id, etag, number)
        kept.append((place, placed.begin, until, *facts, seen, lag, tie, row.gone_by, row.gone_after))
    return kept


def simple(listed: Sequence[Facts], asked: int) -> list[Stored] | None:
    """The rows of a key of which nothing was known, or None when its history needs more thought."""
    kept: list[Stored] = []
    place, until = len(listed), ENDLESS
    above = ENDLESS
    for modified, size, flags, version_id, etag, number in listed:
        if modified >= above or (flags & LATEST and above != ENDLESS):
            return None
        above = modified
        place -= 1
        if flags & _MULTIPART:
            flags |= UNKNOWN_BEGIN
        kept.append((place, modified, until, size, flags, version_id, etag, number, asked, 0, 0, None, None))
        until = modified
    kept.reverse()
    return kept


def is_unchanged(listed: Sequence[Facts], stored: Sequence[Stored]) -> bool:
    """Whether a listing says of a key what is known of it: same entries, same order, none gone."""
    if len(listed) != len(stored):
        return False
    at = len(stored)
    above = ENDLESS
    for facts in listed:
        at -= 1
        row = stored[at]
        if facts[0] > above or row[11] is not None or row[4] & REINSTATED or facts_in(row) != facts:
            return False
        above = facts[0]
    return True
