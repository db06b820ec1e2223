"""Pages of listings over connections of our own: how they are asked for, and what they say.

Rules:
- Requests and answers have botocore's names, so that nobody above can tell which way a page came.
- What cannot be read is left out or left as text: `s3.py` believes only what it finds in its place. A page
  that is no XML says nothing at all.
- Keys come percent-encoded where the server says so: XML cannot hold every character of a key.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from urllib.parse import unquote_plus
from xml.etree import ElementTree as ET

PAGE_BYTES_MAX = 32 * 1024 * 1024
"""Of 1000 entries with the longest names, percent-encoded, and as much again."""


class Listing(StrEnum):
    """What is listed, by botocore's name of the request."""

    KEYS = "list_objects_v2"
    VERSIONS = "list_object_versions"


_ASKED: Mapping[Listing, Mapping[str, str]] = {
    Listing.KEYS: {"list-type": "2"},
    Listing.VERSIONS: {"versions": ""},
}
_FIELDS = {
    "Prefix": "prefix",
    "MaxKeys": "max-keys",
    "StartAfter": "start-after",
    "ContinuationToken": "continuation-token",
    "KeyMarker": "key-marker",
    "VersionIdMarker": "version-id-marker",
}
_ENTRIES = {"Contents": "Contents", "Version": "Versions", "DeleteMarker": "DeleteMarkers"}
_TRUTH = {"true": True, "false": False}


def query_of(listing: Listing, request: Mapping[str, object]) -> dict[str, str]:
    """The query of a request."""
    given = {field: str(request[name]) for name, field in _FIELDS.items() if name in request}
    return {**_ASKED[listing], "encoding-type": "url", **given}


def read_page(body: bytes) -> dict[str, object]:
    """A page under botocore's names; empty when it is none."""
    try:
        root = ET.fromstring(body)  # noqa: S314  expat refuses entities that blow up
    except ET.ParseError:
        return {}
    said = {_tag(child): child.text or "" for child in root if not len(child)}
    encoded = said.get("EncodingType") == "url"
    page: dict[str, object] = {
        name: said[name]
        for name in ("Name", "NextContinuationToken", "NextKeyMarker", "NextVersionIdMarker")
        if name in said
    }
    if encoded and "NextKeyMarker" in said:
        page["NextKeyMarker"] = unquote_plus(said["NextKeyMarker"])
    if said.get("IsTruncated") in _TRUTH:
        page["IsTruncated"] = _TRUTH[said["IsTruncated"]]
    entries: dict[str, list[dict[str, object]]] = {}
    for child in root:
        name = _ENTRIES.get(_tag(child))
        if name is not None:
            entries.setdefault(name, []).append(_entry(child, encoded=encoded))
    return {**page, **entries}


def _entry(element: ET.Element, *, encoded: bool) -> dict[str, object]:
    said = {_tag(child): child.text or "" for child in element}
    entry: dict[str, object] = {name: said[name] for name in ("Key", "VersionId") if name in said}
    if encoded and "Key" in said:
        entry["Key"] = unquote_plus(said["Key"])
    if "IsLatest" in said:
        entry["IsLatest"] = _TRUTH.get(said["IsLatest"])
    if "Size" in said:
        entry["Size"] = (
            int(said["Size"]) if said["Size"].isascii() and said["Size"].isdigit() else said["Size"]
        )
    if "LastModified" in said:
        entry["LastModified"] = _instant(said["LastModified"])
    return entry


def _instant(text: str) -> datetime | None:
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        return None
    return instant if instant.tzinfo is not None else instant.replace(tzinfo=UTC)


def _tag(element: ET.Element) -> str:
    """Its name without the namespace, which not every server gives."""
    return element.tag.rpartition("}")[2]
