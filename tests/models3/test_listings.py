"""What AWS documents of listings, as tests of the model; and that pages of any size tell the same."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.kit.models3.app import App
from tests.kit.models3.entries import Stored
from tests.kit.models3.fixtures import TestedModel
from tests.kit.models3.listing import Asked, Page, objects, versions
from tests.kit.models3.refusals import Refusal
from tests.models3.test_versions import model, refusal_of


def pages(app: App, limit: int, **asked: str) -> list[Page]:
    """All pages, following the markers."""
    bucket, found = app.server.state.bucket(app.bucket), []
    key, version = "", ""
    while True:
        found.append(versions(bucket, Asked(after_key=key, after_version=version, limit=limit, **asked)))
        if not found[-1].truncated:
            return found
        key, version = found[-1].next_key, found[-1].next_version


def filled() -> App:
    app = model()
    for key in ("a", "a/b", "a/c", "a-b", "b", "ü", "𝄞", "z"):
        app.put(key, key.encode())
        app.delete(key)
        app.put(key, b"again")
    app.delete("z")
    return app


@given(st.integers(1, 30))
def test_pages_of_any_size_tell_the_same_in_the_same_order(limit: int) -> None:
    """API Reference, ListObjectVersions: a page goes on behind NextKeyMarker and NextVersionIdMarker."""
    app = filled()
    (whole,) = pages(app, 1000)
    told = [entry for page in pages(app, limit) for entry in page.entries]
    assert told == whole.entries
    assert all(page.count <= limit for page in pages(app, limit))


def test_keys_are_in_the_order_of_their_bytes() -> None:
    """API Reference, ListObjectsV2: UTF-8 binary order."""
    app = filled()
    page = objects(app.server.state.bucket("evidence"), Asked())
    keys = [entry.key for entry in page.entries]
    assert keys == sorted(keys, key=lambda key: key.encode()) == ["a", "a-b", "a/b", "a/c", "b", "ü", "𝄞"]


def test_a_key_marker_alone_goes_on_behind_the_whole_key() -> None:
    """API Reference, ListObjectVersions: key-marker "specifies the key to start with", exclusively."""
    app = filled()
    page = versions(app.server.state.bucket("evidence"), Asked(after_key="a"))
    assert page.entries[0].key == "a-b"
    with pytest.raises(Refusal) as raised:
        versions(app.server.state.bucket("evidence"), Asked(after_version="x"))
    assert refusal_of(raised) == (400, "InvalidArgument")


@given(st.integers(1, 6))
def test_common_prefixes_count_as_one_and_are_told_once(limit: int) -> None:
    """API Reference, ListObjectVersions: delimiter rolls keys up; each counts once against max-keys."""
    app = filled()
    found = pages(app, limit, delimiter="/")
    assert [prefix for page in found for prefix in page.prefixes] == ["a/"]
    assert {entry.key for page in found for entry in page.entries} == {"a", "a-b", "b", "ü", "𝄞", "z"}


def test_a_listing_goes_on_behind_an_entry_that_was_removed_meanwhile() -> None:
    app = model()
    made = [app.put("k", b"%d" % number) for number in range(4)]
    first = versions(app.server.state.bucket("evidence"), Asked(limit=2))
    app.purge_version("k", first.next_version)
    rest = versions(
        app.server.state.bucket("evidence"), Asked(after_key=first.next_key, after_version=first.next_version)
    )
    assert rest.entries == made[1::-1]


def _listed(model_s3: TestedModel, **asked: object) -> bytes:
    held: list[bytes] = []
    s3 = model_s3.raw_client()
    s3.meta.events.register(
        "before-parse.s3.ListObjectVersions", lambda response_dict, **_: held.append(response_dict["body"])
    )
    s3.list_object_versions(Bucket="evidence", **asked)
    return held[0]


def test_versions_and_markers_are_mixed_in_the_document(model_s3: TestedModel) -> None:
    """API Reference, ListObjectVersions, examples: Version and DeleteMarker in the order of the versions."""
    app = model_s3.app("evidence")
    for write in (app.put, app.delete, app.put, app.put, app.delete):
        write("k")
    document = _listed(model_s3)
    names = re.findall(rb"<(Version|DeleteMarker)>", document)
    assert names == [b"DeleteMarker", b"Version", b"Version", b"DeleteMarker", b"Version"]


def test_keys_are_url_encoded_when_asked(model_s3: TestedModel) -> None:
    """API Reference, encoding-type: `test_file(3).png` appears as `test_file%283%29.png`."""
    app = model_s3.app("evidence")
    entry: Stored = app.put("dir/test_file(3) +.png", b"")
    assert b"<Key>dir/test_file%283%29+%2B.png</Key>" in _listed(model_s3)
    assert model_s3.raw_client().list_objects_v2(Bucket="evidence")["Contents"][0]["Key"] == entry.key
