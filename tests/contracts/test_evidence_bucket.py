"""The contract of the evidence bucket, on the model of S3, on SeaweedFS, and on a server of yours.

The last one is named by the environment: see tests/kit/evidence.py.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from tests.kit.evidence import Evidence
from walarchiver.bucketports import Expected, KeyRange, Versioning, Written
from walarchiver.core.version import Entry, EntryKind
from walarchiver.errors import BucketChanged, VersionUnreadable
from walarchiver.storage.evidence import S3EvidenceBucket
from walarchiver.storage.evidencecopy import CopyLimits

ODD_NAMES = ("a b+c.txt", "dir/ü&%25?=#.png", "dir/𝄞", "dir/sub/deep", "nl\nx", "plus+", "quote'\"<>", "z")
PART = 5 * 2**20
"""No server takes smaller parts, but the last."""


def all_entries(bucket: S3EvidenceBucket, keys: KeyRange | None = None, page: int = 1000) -> list[Entry]:
    return [entry for found in bucket.list_entries(keys or KeyRange(), page_entries=page) for entry in found]


def kinds(entries: tuple[Entry, ...] | list[Entry]) -> str:
    """`vm`: a version above a marker."""
    return "".join("v" if entry.kind is EntryKind.VERSION else "m" for entry in entries)


# --- looking ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", [1, 3, 1000])
def test_all_versions_and_markers_are_listed_newest_first_whatever_the_page(
    evidence: Evidence, page: int
) -> None:
    written: dict[str, list[str]] = {}
    for name in ODD_NAMES:
        ids = [evidence.put(name, b"one"), evidence.delete(name), evidence.put(name, b"three")]
        written[evidence.key(name)] = ids[::-1]
    evidence.delete("z")
    entries = all_entries(evidence.open(), page=page)
    listed: dict[str, list[Entry]] = {}
    for entry in entries:
        listed.setdefault(entry.key, []).append(entry)
    assert [entry.key for entry in entries] == sorted(entry.key for entry in entries)
    last = listed[evidence.key("z")].pop(0)
    assert (last.kind, last.is_latest, last.size, last.etag) == (EntryKind.MARKER, True, 0, "")
    assert {key: [one.version_id for one in history] for key, history in listed.items()} == written
    for key, history in listed.items():
        assert kinds(history) == "vmv"
        assert [one.is_latest for one in history] == [key != evidence.key("z"), False, False]
        assert [one.size for one in history] == [5, 0, 3]
        assert history[0].etag == "35d6d33467aae9a2e3dccb4b6b027878"


def test_the_order_within_one_second_is_that_of_the_writes(evidence: Evidence) -> None:
    ids = []
    for number in range(12):
        if number % 3 == 1:
            ids.append(evidence.delete("k"))
        else:
            ids.append(evidence.put("k", b"%d" % number))
    listed = evidence.listed("k")
    assert [entry.version_id for entry in listed] == ids[::-1]
    assert [entry.is_latest for entry in listed] == [True] + [False] * 11


def test_a_range_of_keys_holds_both_its_ends_and_nothing_else(evidence: Evidence) -> None:
    names = ("a", "b", "b/1", "b/2", "bb", "c")
    for name in names:
        evidence.put(name)
    bucket = evidence.open()
    for first, last, expected in (
        ("b", "b/2", ["b", "b/1", "b/2"]),
        ("b", "b", ["b"]),
        ("b/", "b0", ["b/1", "b/2"]),
        ("bb", "zz", ["bb", "c"]),
        ("", "zz", list(names)),
        ("d", "zz", []),
    ):
        keys = KeyRange(evidence.key(first), evidence.key(last))
        assert [entry.key for entry in all_entries(bucket, keys)] == [evidence.key(name) for name in expected]
        assert sorted(one.key for one in bucket.list_current(keys)) == sorted(map(evidence.key, expected))


def test_only_what_lies_below_the_prefix_is_listed(evidence: Evidence) -> None:
    evidence.put("in/a")
    evidence.put("inside")
    below = evidence.open(prefix=evidence.key("in/"))
    assert [entry.key for entry in all_entries(below)] == [evidence.key("in/a")]
    assert [one.key for one in below.list_current(KeyRange())] == [evidence.key("in/a")]
    assert all_entries(below, KeyRange(evidence.key("inside"), None)) == []


def test_current_objects_are_those_not_hidden_by_a_marker(evidence: Evidence) -> None:
    evidence.put("a", b"old")
    evidence.put("a", b"newer")
    evidence.put("b", b"x")
    evidence.delete("b")
    for page in (1, 1000):
        (current,) = evidence.open().list_current(KeyRange(), page_entries=page)
        assert (current.key, current.size) == (evidence.key("a"), 5)
        assert current.etag == evidence.listed("a")[0].etag


def test_folders_are_those_that_versions_lie_under_even_deleted_ones(evidence: Evidence) -> None:
    for name in ("one/a", "two/b/c", "two/d", "three"):
        evidence.put(name)
    evidence.put("gone/a")
    evidence.delete("gone/a")
    bucket = evidence.open()
    assert bucket.list_folders(evidence.location.prefix) == tuple(
        evidence.key(name) for name in ("gone/", "one/", "two/")
    )
    assert bucket.list_folders(evidence.key("two/")) == (evidence.key("two/b/"),)


def test_the_bucket_says_that_it_is_versioned_and_what_its_time_is(evidence: Evidence) -> None:
    bucket = evidence.open()
    assert bucket.versioning() is Versioning.ENABLED
    before = bucket.date()
    evidence.put("k")
    after = bucket.date()
    (entry,) = evidence.listed("k")
    assert before % 1000 == 0
    assert before - 1000 <= entry.modified <= after + 1000


def test_detail_tells_what_a_version_is_like(evidence: Evidence) -> None:
    version_id = evidence.put(
        "k",
        b"12345",
        ContentType="image/png",
        CacheControl="max-age=7",
        ContentDisposition='attachment; filename="a.png"',
        ContentLanguage="de",
        ContentEncoding="gzip",
        Metadata={"case": "Ab-7"},
        Tagging="kind=photo&place=a%20b%2Bc",
    )
    evidence.put("k", b"other")
    bucket = evidence.open()
    detail = bucket.detail(evidence.key("k"), version_id)
    assert detail is not None
    assert (detail.size, detail.readable, detail.metadata) == (5, True, {"case": "Ab-7"})
    assert detail.etag == evidence.listed("k")[1].etag
    assert detail.modified == evidence.listed("k")[1].modified // 1000 * 1000
    expected = {
        "Content-Type": "image/png",
        "Cache-Control": "max-age=7",
        "Content-Disposition": 'attachment; filename="a.png"',
        "Content-Language": "de",
        "Content-Encoding": "gzip",
    }
    assert {name: detail.headers[name] for name in expected} == expected
    assert bucket.tags(evidence.key("k"), version_id) == {"kind": "photo", "place": "a b+c"}


def test_a_version_that_is_not_there_has_no_detail_and_cannot_be_read(evidence: Evidence) -> None:
    version_id = evidence.put("k", b"1")
    marker = evidence.delete("k")
    bucket = evidence.open()
    evidence.purge("k", version_id)
    assert bucket.detail(evidence.key("k"), version_id) is None
    assert bucket.detail(evidence.key("k"), marker) is None
    assert bucket.detail(evidence.key("never"), version_id) is None
    with pytest.raises(VersionUnreadable):
        b"".join(bucket.read(evidence.key("k"), version_id))
    with pytest.raises(VersionUnreadable):
        bucket.tags(evidence.key("k"), version_id)


def test_a_body_is_read_by_version(evidence: Evidence) -> None:
    large = bytes(range(256)) * 8192 * 2
    first = evidence.put("k", large)
    second = evidence.put("k", b"")
    bucket = evidence.open()
    assert b"".join(bucket.read(evidence.key("k"), first)) == large
    assert b"".join(bucket.read(evidence.key("k"), second)) == b""


# --- writing ---------------------------------------------------------------------------------------


def etag_of_current(evidence: Evidence, name: str) -> Expected:
    latest = evidence.listed(name)[0]
    assert latest.kind is EntryKind.VERSION
    return Expected(latest.etag)


def test_a_put_says_what_it_wrote(evidence: Evidence) -> None:
    bucket = evidence.open()
    first = bucket.put(evidence.key("k"), b"1")
    second = bucket.put(evidence.key("k"), b"2", expected=Expected(first.etag))
    newest, oldest = evidence.listed("k")
    assert (newest.version_id, newest.etag) == (second.version_id, second.etag)
    assert oldest.version_id == first.version_id
    assert second.date is not None and abs(second.date - newest.modified) <= 1000


Write = Callable[[S3EvidenceBucket, str, Expected], Written]


def _put(bucket: S3EvidenceBucket, key: str, expected: Expected) -> Written:
    return bucket.put(key, b"ours", expected=expected)


def _copy(bucket: S3EvidenceBucket, key: str, expected: Expected) -> Written:
    source = all_entries(bucket, KeyRange(f"{bucket.prefix}source", f"{bucket.prefix}source"))[0]
    return bucket.copy(bucket, source.key, source.version_id, to=key, size=source.size, expected=expected)


def _copy_in_parts(bucket: S3EvidenceBucket, key: str, expected: Expected) -> Written:
    bucket._copier._limits = CopyLimits(whole_max=1, part=PART)
    return _copy(bucket, key, expected)


def _mark(bucket: S3EvidenceBucket, key: str, expected: Expected) -> Written:
    return bucket.mark_deleted(key, expected=expected)


WRITES = [_put, _copy, _copy_in_parts]


@pytest.mark.parametrize("write", WRITES)
def test_a_write_happens_while_the_key_is_as_it_was_seen(evidence: Evidence, write: Write) -> None:
    evidence.put("source", b"source")
    bucket, key = evidence.open(), evidence.key("k")
    first = write(bucket, key, Expected(None))
    second = write(bucket, key, etag_of_current(evidence, "k"))
    evidence.delete("k")
    third = write(bucket, key, Expected(None))
    listed = evidence.listed("k")
    assert kinds(listed) == "vmvv"
    assert [listed[at].version_id for at in (0, 2, 3)] == [
        third.version_id,
        second.version_id,
        first.version_id,
    ]


@pytest.mark.parametrize("write", [*WRITES, _mark])
def test_a_write_is_refused_when_the_key_is_not_as_it_was_seen(evidence: Evidence, write: Write) -> None:
    evidence.put("source", b"source")
    bucket = evidence.open()
    old = evidence.put("k", b"old")
    seen = etag_of_current(evidence, "k")
    evidence.put("k", b"newer")
    evidence.put("hidden", b"old")
    evidence.delete("hidden")
    before = (evidence.listed("k"), evidence.listed("hidden"))
    assert before[0][1].version_id == old
    for name, expected in (("k", seen), ("k", Expected(None)), ("hidden", seen), ("absent", seen)):
        with pytest.raises(BucketChanged):
            write(bucket, evidence.key(name), expected)
    assert (evidence.listed("k"), evidence.listed("hidden")) == before
    assert evidence.listed("absent") == ()


@pytest.mark.parametrize("write", [_put, _copy])
def test_of_many_writers_that_saw_the_same_one_wins(evidence: Evidence, write: Write) -> None:
    evidence.put("source", b"source")
    evidence.put("k", b"seen by all")
    seen, outcomes = etag_of_current(evidence, "k"), []
    bucket = evidence.open()

    def compete() -> None:
        try:
            outcomes.append(write(bucket, evidence.key("k"), seen).version_id)
        except BucketChanged:
            outcomes.append("changed")

    writers = [threading.Thread(target=compete) for _ in range(8)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(timeout=60)
    listed = evidence.listed("k")
    assert kinds(listed) == "vv"
    assert sorted(outcomes) == sorted(["changed"] * 7 + [listed[0].version_id])


def test_a_marker_is_added_on_what_was_seen(evidence: Evidence) -> None:
    evidence.put("k", b"1")
    bucket = evidence.open()
    made = bucket.mark_deleted(evidence.key("k"), expected=etag_of_current(evidence, "k"))
    listed = evidence.listed("k")
    assert kinds(listed) == "mv"
    assert listed[0].version_id == made.version_id
    with pytest.raises(BucketChanged):
        bucket.mark_deleted(evidence.key("k"), expected=Expected(None))
    assert kinds(evidence.listed("k")) == "mv"


def test_markers_are_removed_and_nothing_but_markers(evidence: Evidence) -> None:
    version_id = evidence.put("k", b"1")
    below, above = evidence.delete("k"), evidence.delete("k")
    bucket, key = evidence.open(), evidence.key("k")
    bucket.remove_marker(key, below)
    assert [entry.version_id for entry in evidence.listed("k")] == [above, version_id]
    bucket.remove_marker(key, above)
    (left,) = evidence.listed("k")
    assert (left.version_id, left.is_latest) == (version_id, True)
    for name, gone in (("k", version_id), ("k", above), ("never", above)):
        with pytest.raises(BucketChanged):
            bucket.remove_marker(evidence.key(name), gone)
    assert evidence.listed("k") == (left,)


PROPERTIES = {
    "ContentType": "image/png",
    "CacheControl": "max-age=7",
    "ContentDisposition": 'attachment; filename="a.png"',
    "ContentLanguage": "de",
    "Metadata": {"case": "Ab-7", "other": "x"},
    "Tagging": "kind=photo&place=a%20b%2Bc",
}


@pytest.mark.parametrize("way", ["whole", "in parts", "through here", "through here in parts"])
def test_a_copy_has_the_content_metadata_headers_and_tags_of_its_version(
    evidence: Evidence, way: str
) -> None:
    """[scenario 16]"""
    content = bytes(range(256)) * (PART // 256) + b"and a little more"
    wanted = evidence.put("k", content, **PROPERTIES)
    evidence.put("k", b"what came later", Tagging="kind=other")
    limits = CopyLimits() if way in ("whole", "through here") else CopyLimits(1, PART, PART)
    bucket = source = evidence.open(limits=limits)
    if way.startswith("through"):
        if evidence.reader is None:
            pytest.skip("no second credentials are named")
        source = evidence.open(evidence.reader)
    key = evidence.key("k")
    made = bucket.copy(
        source, key, wanted, to=key, size=len(content), expected=etag_of_current(evidence, "k")
    )
    listed = evidence.listed("k")
    assert kinds(listed) == "vvv"
    assert (listed[0].version_id, listed[2].version_id) == (made.version_id, wanted)
    assert listed[0].in_parts is way.endswith("in parts")
    assert b"".join(bucket.read(key, made.version_id)) == content
    before, after = bucket.detail(key, wanted), bucket.detail(key, made.version_id)
    assert before is not None and after is not None
    assert after.metadata == before.metadata == PROPERTIES["Metadata"]
    assert after.headers == before.headers
    assert before.headers["Content-Type"] == "image/png"
    assert (
        bucket.tags(key, made.version_id) == bucket.tags(key, wanted) == {"kind": "photo", "place": "a b+c"}
    )


def test_a_copy_of_a_version_that_is_gone_is_refused(evidence: Evidence) -> None:
    wanted = evidence.put("k", b"1")
    evidence.purge("k", wanted)
    bucket, key = evidence.open(), evidence.key("k")
    with pytest.raises(VersionUnreadable):
        bucket.copy(bucket, key, wanted, to=key, size=1, expected=Expected(None))
    assert evidence.listed("k") == ()


def test_an_empty_object_is_copied_too(evidence: Evidence) -> None:
    wanted = evidence.put("k", b"")
    evidence.delete("k")
    bucket, key = evidence.open(), evidence.key("k")
    bucket.copy(bucket, key, wanted, to=key, size=0, expected=Expected(None))
    assert kinds(evidence.listed("k")) == "vmv"


def test_a_copy_from_another_prefix_leaves_its_source_alone(evidence: Evidence) -> None:
    wanted = evidence.put("from/k", b"1")
    before = evidence.listed("from/k")
    source, target = evidence.open(prefix=evidence.key("from/")), evidence.open(prefix=evidence.key("to/"))
    target.copy(
        source, evidence.key("from/k"), wanted, to=evidence.key("to/k"), size=1, expected=Expected(None)
    )
    assert evidence.listed("from/k") == before
    assert evidence.listed("to/k")[0].etag == before[0].etag
