"""Page after page of a listing, each checked before the next is asked for.

Rules:
- A page must be of our bucket, begin where we asked, keep the order of UTF-8 bytes and repeat nothing; one
  that promises more must say where, and the place must move on. Else StoreMisbehaves.
- Only `IsTruncated` ends a listing; a page without entries does not.
- The range is asked for by the longest prefix that its keys share, and a marker right before its first key;
  what the server says outside of it is passed over, and behind its last key it is not asked any more.
- Not every server lists *current* objects in the order of bytes (SeaweedFS 4.48 walks its folders: `a/x`
  comes before `a-1`). So that listing ends early only where no such order could still bring a key of the
  range, and not at all once this server was seen out of order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from walarchiver.bucketports import Current, KeyRange
from walarchiver.core.version import Entry
from walarchiver.errors import StoreMisbehaves, StoreUnavailable
from walarchiver.storage.evidencecalls import BucketCalls, listing_body
from walarchiver.storage.evidencelisting import Page, parse_page

HIGHEST = "\U0010ffff"
_FOLDER_PAGES_MAX = 50
_SURROGATES = (0xD800, 0xDFFF)


def entry_pages(calls: BucketCalls, keys: KeyRange, page_entries: int) -> Iterator[tuple[Entry, ...]]:
    """All versions and markers of the keys, in the server's order. Raises StoreMisbehaves, Store…."""
    place = _asked_for(calls, keys)
    if place is None:
        return
    prefix, before = place
    request = _request(calls, prefix, page_entries)
    if before:
        request["KeyMarker"] = before
    order = _Order(calls.location.url)
    while True:
        page = _page(calls, "ListObjectVersions", request)
        order.check(page.entries, str(request.get("KeyMarker", "")), "VersionIdMarker" in request)
        inside = tuple(entry for entry in page.entries if entry.key in keys)
        if inside:
            yield inside
        behind = page.entries and keys.last is not None and page.entries[-1].key > keys.last
        if not page.truncated or behind:
            return
        _move_on(calls, request, page, order.last)


def current_objects(calls: BucketCalls, keys: KeyRange, page_entries: int) -> Iterator[Current]:
    """The current objects of the keys. Raises StoreMisbehaves, Store…."""
    place = _asked_for(calls, keys)
    if place is None:
        return
    prefix, before = place
    request = _request(calls, prefix, page_entries)
    if before:
        request["StartAfter"] = before
    last, token = "", None
    while True:
        page = _page(calls, "ListObjectsV2", request)
        for found in page.contents:
            calls.unsorted = calls.unsorted or found.key <= last
            last = found.key
            if found.key in keys:
                yield found
        if not page.truncated or (not calls.unsorted and is_behind(last, keys, len(prefix))):
            return
        if page.next_token is None or page.next_token == token:
            raise StoreMisbehaves(f"{calls.location.url} promises more keys but not where")
        token = page.next_token
        request["ContinuationToken"] = token


def folders_below(calls: BucketCalls, prefix: str, page_entries: int) -> tuple[str, ...]:
    """Common prefixes up to the next `/`, in order; of a folder with very many other keys only the first."""
    request = _request(calls, prefix, page_entries)
    request["Delimiter"] = "/"
    found: dict[str, None] = {}
    for _ in range(_FOLDER_PAGES_MAX):
        page = _page(calls, "ListObjectVersions", request)
        found |= dict.fromkeys(name for name in page.folders if name.startswith(prefix))
        if not page.truncated:
            break
        _move_on(calls, request, page, "")
    return tuple(sorted(found))


# --- requests ------------------------------------------------------------------------------------


def _asked_for(calls: BucketCalls, keys: KeyRange) -> tuple[str, str] | None:
    """The prefix and the marker to ask with; None when the range and the bucket's prefix do not meet."""
    own = calls.location.prefix
    shared = "" if keys.last is None else _shared(keys.first, keys.last)
    if keys.last is not None and keys.last < keys.first:
        return None
    if not shared.startswith(own):
        if keys.last is not None and keys.last < own:
            return None
        if keys.first > own and not keys.first.startswith(own):
            return None  # behind everything that begins with our prefix
        shared = own
    before = _marker_before(keys.first) if keys.first > shared else ""
    return shared, before if before.startswith(shared) else ""


def is_behind(key: str, keys: KeyRange, prefix: int) -> bool:
    """Whether nothing of the range can follow, be it in the order of bytes or of folders."""
    if keys.last is None or key <= keys.last:
        return False
    return "/" not in key[prefix : len(_shared(key, keys.last)) + 1]


def _shared(one: str, other: str) -> str:
    """The longest common prefix of two names."""
    length = 0
    for ours, theirs in zip(one, other, strict=False):
        if ours != theirs:
            break
        length += 1
    return one[:length]


def _marker_before(first: str) -> str:
    """A name as near before `first` as can be: a listing behind it begins with `first`.

    What lies between is passed over. Names with control characters are not used as markers; nor, for a
    folder, `folder` and a sign below `/`, behind which SeaweedFS 4.48 passes over the folder itself.
    """
    first = first.rstrip("/")
    if not first:
        return ""
    code = ord(first[-1])
    if code <= 0x21:
        return first[:-1]
    code -= 1
    if _SURROGATES[0] <= code <= _SURROGATES[1]:
        code = _SURROGATES[0] - 1
    return first[:-1] + chr(code) + HIGHEST


def _request(calls: BucketCalls, prefix: str, page_entries: int) -> dict[str, object]:
    assert 1 <= page_entries <= 1000, page_entries
    return {
        "Bucket": calls.location.bucket,
        "Prefix": prefix,
        "MaxKeys": page_entries,
        "EncodingType": "url",
    }


def _page(calls: BucketCalls, listing: str, request: Mapping[str, object]) -> Page:
    where = calls.location.url
    ask = (
        calls.client.list_object_versions if listing == "ListObjectVersions" else calls.client.list_objects_v2
    )

    def page() -> Page:
        found = parse_page(listing_body(ask(**request)), where)
        if found.bucket != calls.location.bucket:
            raise StoreUnavailable(f"list {where}: what came back is of {found.bucket[:100]!r}")
        asked_behind = request.get("KeyMarker")
        if asked_behind and found.key_marker and found.key_marker != asked_behind:
            raise StoreUnavailable(
                f"list {where}: asked for what is behind {asked_behind!r}, got another page"
            )
        return found

    return calls.asked("list", page)


def _move_on(calls: BucketCalls, request: dict[str, object], page: Page, last: str) -> None:
    before = (request.get("KeyMarker", ""), request.get("VersionIdMarker"))
    after = (page.next_key, page.next_version)
    if page.next_key is None or after == before or page.next_key < max(last, str(before[0])):
        raise StoreMisbehaves(f"{calls.location.url} promises more versions but not where")
    request["KeyMarker"] = page.next_key
    request.pop("VersionIdMarker", None)
    if page.next_version is not None:
        request["VersionIdMarker"] = page.next_version


class _Order:
    """What a listing has shown so far, as far as it matters for what may come next."""

    def __init__(self, where: str) -> None:
        self._where = where
        self.last = ""
        self._versions: set[str] = set()
        """Of the last key."""

    def check(self, entries: tuple[Entry, ...], behind: str, within: bool) -> None:
        """Raises StoreMisbehaves when a page goes back, or says something again."""
        if entries and (entries[0].key < behind or (entries[0].key == behind and not within)):
            self._bad(f"{entries[0].key[:200]!r} when asked for what is behind {behind[:200]!r}")
        for entry in entries:
            if entry.key < self.last:
                self._bad(f"{entry.key[:200]!r} after {self.last[:200]!r}")
            if entry.key != self.last:
                self.last, self._versions = entry.key, set()
            if entry.version_id in self._versions:
                self._bad(f"version {entry.version_id[:100]!r} of {entry.key[:200]!r} twice")
            self._versions.add(entry.version_id)

    def _bad(self, what: str) -> None:
        raise StoreMisbehaves(f"{self._where} lists {what}, so its listings cannot be trusted")
