"""Pages of S3's two listings, read from the bytes as they came.

Rules (S3 API, ListObjectVersions and ListObjectsV2):
- The order of a page is the order of the document: versions and delete markers stay mixed as they are.
- Names are URL-encoded where the page says so, and are decoded before anything is compared.
- A document has a bounded size, no document type (so no entities of its own), and every element that is
  relied on; else StoreMisbehaves. Unknown elements are passed over.
- `Last-Modified` is taken to the millisecond, rounded down.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import NoReturn
from urllib.parse import unquote, unquote_plus
from xml.parsers import expat

from walarchiver.bucketports import Current
from walarchiver.core.version import Entry, EntryKind, StoreMs
from walarchiver.errors import StoreMisbehaves

PAGE_BYTES_MAX = 16 << 20
"""A page of 1000 names of 1024 bytes, each byte as %XX, and all the rest take less than 5 MiB."""
_DEPTH_MAX = 8

_KINDS = {"Version": EntryKind.VERSION, "DeleteMarker": EntryKind.MARKER}
_ITEMS = frozenset(("Version", "DeleteMarker", "Contents", "CommonPrefixes"))
_INSTANT = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(?:Z|\+00:00)")


@dataclass(frozen=True, slots=True)
class Page:
    """One page of either listing; what it does not hold is empty."""

    bucket: str
    truncated: bool
    key_marker: str | None
    """As the page repeats it; None when it does not."""
    next_key: str | None
    next_version: str | None
    next_token: str | None
    entries: tuple[Entry, ...]
    contents: tuple[Current, ...]
    folders: tuple[str, ...]


def parse_page(body: bytes, where: str) -> Page:
    """The page in `body`; `where` names the bucket for errors. Raises StoreMisbehaves."""
    if len(body) > PAGE_BYTES_MAX:
        raise StoreMisbehaves(f"a page of the listing of {where} has {len(body)} bytes")
    return _Reader(where).page(body)


def instant_ms(text: str) -> StoreMs | None:
    """Milliseconds of an ISO 8601 time in UTC, rounded down; None when it is none."""
    match = _INSTANT.fullmatch(text)
    if match is None:
        return None
    second = _second_ms(match[1])
    return None if second is None else StoreMs(second + int(((match[2] or "") + "000")[:3]))


@lru_cache(maxsize=4096)
def _second_ms(text: str) -> int | None:
    try:
        return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1000
    except ValueError:
        return None


class _Reader:
    """Collects the texts of one document: of its top, and of each item below it."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._path: list[str] = []
        self._text: list[str] = []
        self._top: dict[str, str] = {}
        self._item: dict[str, str] = {}
        self._items: list[tuple[str, dict[str, str]]] = []

    def page(self, body: bytes) -> Page:
        parser = expat.ParserCreate()
        parser.buffer_text = True
        parser.StartDoctypeDeclHandler = self._doctype
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._text.append
        try:
            parser.Parse(body, True)
        except (expat.ExpatError, ValueError, LookupError) as fault:
            raise StoreMisbehaves(f"a page of the listing of {self._where} is not XML: {fault}") from fault
        if self._top.get("IsTruncated") not in ("true", "false") or "Name" not in self._top:
            self._bad("does not say which bucket it is of and whether it is the last")
        encoded = self._top.get("EncodingType") == "url"
        return Page(
            bucket=self._top["Name"],
            truncated=self._top["IsTruncated"] == "true",
            key_marker=self._name(self._top.get("KeyMarker"), encoded),
            next_key=self._name(self._top.get("NextKeyMarker"), encoded) or None,
            next_version=self._top.get("NextVersionIdMarker") or None,
            next_token=self._top.get("NextContinuationToken") or None,
            entries=tuple(self._entry(kind, item, encoded) for kind, item in self._items if kind in _KINDS),
            contents=tuple(self._current(item, encoded) for kind, item in self._items if kind == "Contents"),
            folders=tuple(
                self._name(item.get("Prefix"), encoded) or self._bad("has a folder without a name")
                for kind, item in self._items
                if kind == "CommonPrefixes"
            ),
        )

    # --- the document --------------------------------------------------------------------------

    def _doctype(self, *_: object) -> None:
        self._bad("declares a document type")

    def _start(self, name: str, _attributes: object) -> None:
        self._path.append(name.rpartition(":")[2])
        self._text.clear()
        if len(self._path) > _DEPTH_MAX:
            self._bad("is nested too deeply")
        if len(self._path) == 2:
            self._item = {}

    def _end(self, _name: str) -> None:
        depth, name = len(self._path), self._path.pop()
        if depth == 2 and name in _ITEMS:
            self._items.append((name, self._item))
        elif depth == 2:
            self._top[name] = "".join(self._text)
        elif depth == 3:
            self._item[name] = "".join(self._text)
        self._text.clear()

    # --- its parts -----------------------------------------------------------------------------

    def _entry(self, kind: str, item: dict[str, str], encoded: bool) -> Entry:
        key, version_id = self._name(item.get("Key"), encoded), item.get("VersionId")
        modified = instant_ms(item.get("LastModified", ""))
        latest = item.get("IsLatest")
        if not key or not version_id or modified is None or latest not in ("true", "false"):
            self._bad(f"lists {(key or '')[:200]!r} without version id, time or whether it is the latest")
        is_marker = _KINDS[kind] is EntryKind.MARKER
        return Entry(
            key=key,
            version_id=version_id,
            kind=_KINDS[kind],
            modified=modified,
            size=0 if is_marker else self._size(item, key),
            etag="" if is_marker else _bare(item.get("ETag", "")),
            storage_class="" if is_marker else item.get("StorageClass", ""),
            is_latest=latest == "true",
        )

    def _current(self, item: dict[str, str], encoded: bool) -> Current:
        key = self._name(item.get("Key"), encoded)
        if not key:
            self._bad("lists an object without a key")
        return Current(key, _bare(item.get("ETag", "")), self._size(item, key))

    def _size(self, item: dict[str, str], key: str) -> int:
        text = item.get("Size", "")
        if not (text.isascii() and text.isdigit()) or len(text) > 18:
            self._bad(f"lists {key[:200]!r} without its size")
        return int(text)

    def _name(self, text: str | None, encoded: bool) -> str | None:
        if text is None or not encoded:
            return text
        try:
            return decoded(text)
        except UnicodeDecodeError:
            self._bad(f"lists {text[:200]!r}, which is not the name of anything in UTF-8")

    def _bad(self, what: str) -> NoReturn:
        raise StoreMisbehaves(f"a page of the listing of {self._where} {what}")


def decoded(name: str) -> str:
    """A URL-encoded name; S3 writes a blank as `+` (and a plus sign as %2B). Raises UnicodeDecodeError."""
    return unquote_plus(name, errors="strict") if "+" in name else unquote(name, errors="strict")


def _bare(etag: str) -> str:
    return etag.strip().removeprefix('"').removesuffix('"')
