"""What the evidence bucket does when the store misbehaves: on the model."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.contracts.modelled import app_of, model_of
from tests.contracts.test_evidence_bucket import PART, PROPERTIES, all_entries, kinds
from tests.kit.evidence import Evidence
from tests.kit.models3 import faults
from walarchiver.bucketports import Expected
from walarchiver.errors import (
    BucketChanged,
    ObjectDamaged,
    StoreDenied,
    StoreMisbehaves,
    StoreUnavailable,
)
from walarchiver.storage.evidence import S3EvidenceBucket
from walarchiver.storage.evidencecopy import CopyLimits
from walarchiver.storage.retry import RetryPolicy

# --- listings --------------------------------------------------------------------------------------


@pytest.fixture
def listed(modelled: Evidence) -> Evidence:
    """Nine keys with two entries each."""
    for number in range(9):
        modelled.put(f"k{number}")
        modelled.put(f"k{number}")
    return modelled


@pytest.mark.parametrize(
    "fault",
    [faults.Refuse("SlowDown"), faults.Reset(), faults.CutBody(300), faults.ErrorIn200("InternalError")],
    ids=lambda fault: type(fault).__name__,
)
def test_a_page_that_did_not_come_is_asked_for_again(listed: Evidence, fault: faults.Fault) -> None:
    bucket = listed.open()
    whole = all_entries(bucket, page=4)
    model_of(listed).faults.script(fault, operation="ListObjectVersions", times=2, after=2)
    assert all_entries(bucket, page=4) == whole
    assert model_of(listed).faults.unused == 0


def test_a_page_that_comes_twice_is_never_taken_for_the_next(listed: Evidence) -> None:
    """[scenario 5]"""
    model_of(listed).faults.script(faults.RepeatPage(), operation="ListObjectVersions", after=1)
    with pytest.raises(StoreMisbehaves):
        all_entries(listed.open(), page=4)


def test_an_answer_to_another_question_is_asked_again(listed: Evidence) -> None:
    model, bucket = model_of(listed), listed.open()
    whole = all_entries(bucket, page=4)

    def of_another_bucket(reply: faults.Reply) -> faults.Reply:
        assert isinstance(reply.body, bytes)
        reply.body = reply.body.replace(b"<Name>evidence</Name>", b"<Name>other</Name>")
        return reply

    model.faults.script(faults.Change(of_another_bucket), operation="ListObjectVersions")
    assert all_entries(bucket, page=4) == whole


@pytest.mark.parametrize(
    "broken",
    [
        lambda page: page[: len(page) // 2],
        lambda page: page.replace(b"<IsTruncated>", b"<Other>").replace(b"</IsTruncated>", b"</Other>"),
        lambda page: page.replace(b"<LastModified>", b"<LastModified>x"),
        lambda page: b'<!DOCTYPE a [<!ENTITY b "c">]>' + page.partition(b"\n")[2],
        lambda page: page.replace(b"NextKeyMarker", b"Ignored"),
        lambda page: page.replace(b"<VersionId>", b"<Nothing>").replace(b"</VersionId>", b"</Nothing>"),
    ],
    ids=["cut", "no end told", "no time", "document type", "no next key", "no version id"],
)
def test_a_page_that_cannot_be_trusted_ends_the_listing(
    listed: Evidence, broken: Callable[[bytes], bytes]
) -> None:
    def change(reply: faults.Reply) -> faults.Reply:
        assert isinstance(reply.body, bytes)
        reply.body = broken(reply.body)
        return reply

    model_of(listed).faults.script(faults.Change(change), operation="ListObjectVersions", times=None)
    hasty = model_of(listed).options(retry=RetryPolicy(budget_s=0.2, first_pause_s=0.01))
    with pytest.raises((StoreMisbehaves, StoreUnavailable)):
        all_entries(listed.open(hasty), page=4)


def test_a_listing_that_is_refused_shows_no_entry_and_is_no_empty_one(listed: Evidence) -> None:
    model_of(listed).faults.script(faults.Refuse("AccessDenied"), operation="ListObjectVersions", times=None)
    with pytest.raises(StoreDenied):
        all_entries(listed.open())
    model_of(listed).faults.heal()
    model_of(listed).faults.script(faults.Refuse("NoSuchBucket"), operation="ListObjectVersions", times=None)
    with pytest.raises(StoreDenied):
        all_entries(listed.open())


# --- writes whose outcome is open ------------------------------------------------------------------


Way = Callable[[Evidence, S3EvidenceBucket], str]


def _put(evidence: Evidence, bucket: S3EvidenceBucket) -> str:
    seen = evidence.listed("k")[0].etag
    return bucket.put(evidence.key("k"), b"ours", expected=Expected(seen)).version_id


def _copy(evidence: Evidence, bucket: S3EvidenceBucket) -> str:
    current, _, wanted = evidence.listed("k")
    key = evidence.key("k")
    return bucket.copy(
        bucket, key, wanted.version_id, to=key, size=wanted.size, expected=Expected(current.etag)
    ).version_id


def _mark(evidence: Evidence, bucket: S3EvidenceBucket) -> str:
    seen = evidence.listed("k")[0].etag
    return bucket.mark_deleted(evidence.key("k"), expected=Expected(seen)).version_id


WAYS = [(_put, "PutObject"), (_copy, "CopyObject"), (_mark, "DeleteObject")]


def _three_versions(evidence: Evidence) -> None:
    for content in (b"wanted", b"in between", b"current"):
        evidence.put("k", content)


@pytest.mark.parametrize(("way", "operation"), WAYS, ids=[name for _, name in WAYS])
@pytest.mark.parametrize(
    "fault",
    [
        faults.Refuse("SlowDown"),
        faults.Refuse("InternalError"),
        faults.Reset(),
        faults.RefuseAfter("InternalError"),
        faults.RefuseAfter("ServiceUnavailable"),
        faults.LoseAnswer(),
    ],
    ids=["503", "500", "reset", "500 after", "503 after", "answer lost"],
)
def test_a_write_is_made_once_whatever_becomes_of_its_answer(
    modelled: Evidence, way: Way, operation: str, fault: faults.Fault
) -> None:
    _three_versions(modelled)
    bucket = modelled.open()
    model_of(modelled).faults.script(fault, operation=operation)
    made = way(modelled, bucket)
    after = modelled.listed("k")
    assert len(after) == 4
    assert after[0].version_id == made
    assert model_of(modelled).faults.unused == 0


@pytest.mark.parametrize("fault", [faults.LoseAnswer(), faults.RefuseAfter("InternalError")])
def test_a_write_on_whatever_is_there_is_made_once_too(modelled: Evidence, fault: faults.Fault) -> None:
    """Without a condition a repeat would not be refused by the store."""
    modelled.put("k", b"before")
    model_of(modelled).faults.script(fault, operation="PutObject")
    made = modelled.open().put(modelled.key("k"), b"ours")
    after = modelled.listed("k")
    assert len(after) == 2
    assert after[0].version_id == made.version_id


@pytest.mark.parametrize("done", [False, True])
def test_an_error_inside_a_200_is_not_taken_for_a_copy(modelled: Evidence, done: bool) -> None:
    _three_versions(modelled)
    model_of(modelled).faults.script(faults.ErrorIn200("InternalError", done=done), operation="CopyObject")
    made = _copy(modelled, modelled.open())
    after = modelled.listed("k")
    assert len(after) == 4
    assert (after[0].version_id, after[0].etag) == (made, after[3].etag)


def test_a_copy_in_parts_is_completed_once_and_leaves_no_upload_behind(modelled: Evidence) -> None:
    content = bytes(PART) + b"end"
    wanted = modelled.put("k", content, **PROPERTIES)
    bucket, key = modelled.open(limits=CopyLimits(whole_max=1, part=PART)), modelled.key("k")
    for number, fault in enumerate(
        (faults.LoseAnswer(), faults.ErrorIn200(done=True), faults.Refuse("SlowDown"))
    ):
        model_of(modelled).faults.script(fault, operation="CompleteMultipartUpload")
        modelled.put("k", b"something else %d" % number)
        current = modelled.listed("k")[0]
        made = bucket.copy(bucket, key, wanted, to=key, size=len(content), expected=Expected(current.etag))
        assert len(modelled.listed("k")) == 2 * number + 3
        entry = app_of(modelled).current(key)
        assert entry is not None and entry.version_id == made.version_id
        assert entry.body.content() == content
    model_of(modelled).faults.script(faults.Refuse("AccessDenied"), operation="UploadPartCopy", after=1)
    with pytest.raises(StoreDenied):
        bucket.copy(bucket, key, wanted, to=key, size=len(content), expected=Expected(made.etag))
    assert model_of(modelled).state.bucket("evidence").uploads == {}


@pytest.mark.parametrize(("way", "operation"), WAYS, ids=[name for _, name in WAYS])
@pytest.mark.parametrize("code", ["ConditionalRequestConflict", "PreconditionFailed"])
def test_a_conflict_is_told_and_nothing_is_written(
    modelled: Evidence, way: Way, operation: str, code: str
) -> None:
    _three_versions(modelled)
    model_of(modelled).faults.script(faults.Refuse(code), operation=operation, times=None)
    with pytest.raises(BucketChanged):
        way(modelled, modelled.open())
    model_of(modelled).faults.heal()
    assert len(modelled.listed("k")) == 3


@pytest.mark.parametrize(("way", "operation"), WAYS, ids=[name for _, name in WAYS])
@pytest.mark.parametrize("act", ["put", "delete"])
def test_what_somebody_else_wrote_in_between_stays_on_top(
    modelled: Evidence, way: Way, operation: str, act: str
) -> None:
    _three_versions(modelled)
    key, app = modelled.key("k"), app_of(modelled)
    theirs = {"put": lambda: app.put(key, b"theirs"), "delete": lambda: app.delete(key)}[act]
    model_of(modelled).faults.script(faults.Meanwhile(theirs), operation=operation)
    with pytest.raises(BucketChanged):
        way(modelled, modelled.open())
    after = modelled.listed("k")
    assert len(after) == 4
    assert kinds(after)[0] == {"put": "v", "delete": "m"}[act]


def test_somebody_who_writes_after_our_lost_answer_is_not_overwritten(modelled: Evidence) -> None:
    """Our write is in; it is then no more the newest, so nothing may be repeated."""
    _three_versions(modelled)
    key, app, model = modelled.key("k"), app_of(modelled), model_of(modelled)
    model.faults.script(faults.LoseAnswer(), operation="PutObject")
    model.faults.script(
        faults.Meanwhile(lambda: app.put(key, b"them")), operation="ListObjectVersions", after=1
    )
    with pytest.raises(BucketChanged):
        _put(modelled, modelled.open())
    contents = [entry.body.content() for entry in app.history(key)]
    assert contents[:2] == [b"them", b"ours"]
    assert len(contents) == 5


def test_a_marker_is_listed_as_one_right_before_it_is_removed(modelled: Evidence) -> None:
    """[scenario 15]"""
    modelled.put("k", b"1")
    marker = modelled.delete("k")
    model = model_of(modelled)
    bucket = modelled.open()
    model.log.mark()
    bucket.remove_marker(modelled.key("k"), marker)
    assert [one.operation for one in model.log] == ["ListObjectVersions", "DeleteObject"]
    version = modelled.listed("k")[0].version_id
    model.log.mark()
    with pytest.raises(BucketChanged):
        bucket.remove_marker(modelled.key("k"), version)
    assert model.log.writes() == []


# --- reading ---------------------------------------------------------------------------------------


def test_a_body_that_ends_early_is_not_taken_for_the_whole(modelled: Evidence) -> None:
    version_id = modelled.put("k", bytes(100_000))
    model_of(modelled).faults.script(faults.CutBody(40_000), operation="GetObject", times=None)
    with pytest.raises((ObjectDamaged, StoreUnavailable)):
        b"".join(modelled.open().read(modelled.key("k"), version_id))


def test_a_copy_through_here_of_a_body_that_ends_early_writes_nothing(modelled: Evidence) -> None:
    content = bytes(PART) + b"end"
    wanted = modelled.put("k", content)
    assert modelled.reader is not None
    for limits in (CopyLimits(), CopyLimits(1, PART, PART)):
        model_of(modelled).faults.script(faults.CutBody(1000), operation="GetObject", times=None)
        bucket, source = modelled.open(limits=limits), modelled.open(modelled.reader)
        with pytest.raises((ObjectDamaged, StoreUnavailable)):
            bucket.copy(
                source,
                modelled.key("k"),
                wanted,
                to=modelled.key("to"),
                size=len(content),
                expected=Expected(None),
            )
        assert modelled.listed("to") == ()
        assert model_of(modelled).state.bucket("evidence").uploads == {}
