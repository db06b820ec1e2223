"""What AWS documents of multipart uploads, as tests of the model."""

from __future__ import annotations

import hashlib

import pytest

from tests.kit.models3.bodies import Body
from tests.kit.models3.clock import at
from tests.kit.models3.entries import Properties
from tests.kit.models3.refusals import Refusal
from tests.models3.test_versions import model, refusal_of


def test_an_upload_is_listed_under_the_time_it_was_started() -> None:
    """User Guide, "Working with object metadata": Last-Modified of a multipart upload is its initiation."""
    app = model()
    upload = app.start_upload("k", "2026-03-02T10:00:10Z")
    made = app.finish_upload(upload, b"body", when="2026-03-02T10:07:00Z")
    assert made.modified_ms == at("2026-03-02T10:00:10Z")


def test_an_upload_started_before_a_delete_and_ended_after_it_is_never_current() -> None:
    """As reported in boto/boto3#4476: completion answers 200, and the key still reads 404."""
    app = model()
    app.put("k", b"1")
    upload = app.start_upload("k")
    app.server.clock.step(seconds=10)
    marker = app.delete("k")
    app.server.clock.step(seconds=10)
    made = app.finish_upload(upload, b"2")
    assert app.history("k")[:2] == [marker, made]
    assert app.current("k") is None


def test_other_servers_list_the_time_and_place_of_the_end() -> None:
    """As SeaweedFS and StorageGRID do; an option of the model."""
    app = model(multipart_time="completion")
    upload = app.start_upload("k")
    app.server.clock.step(seconds=10)
    app.delete("k")
    made = app.finish_upload(upload, b"2")
    assert app.current("k") is made
    assert made.modified_ms == app.server.clock.now_ms


def test_the_etag_of_an_upload_is_the_digest_of_its_parts_and_their_count() -> None:
    """User Guide, "Checking object integrity": MD5 of the parts' MD5 digests, `-`, number of parts."""
    app = model(part_bytes_min=1)
    made = app.finish_upload(app.start_upload("k"), b"one", b"two")
    digests = hashlib.md5(b"one").digest() + hashlib.md5(b"two").digest()
    assert made.etag == f"{hashlib.md5(digests).hexdigest()}-2"
    copied = app.server.state.copy(("evidence", "k", None), ("evidence", "to"))
    assert copied.etag == hashlib.md5(b"onetwo").hexdigest()


def test_parts_are_checked_when_the_upload_is_completed() -> None:
    """API Reference, CompleteMultipartUpload, errors: EntityTooSmall, InvalidPart, InvalidPartOrder."""
    app = model(part_bytes_min=3)
    uploads = app.server.uploads
    upload = app.start_upload("k")
    first = uploads.add_part("evidence", "k", upload.upload_id, 1, Body.of(b"ab"))
    second = uploads.add_part("evidence", "k", upload.upload_id, 2, Body.of(b"c"))
    for listed, code in (
        ([(1, first.etag), (2, second.etag)], "EntityTooSmall"),
        ([(1, second.etag)], "InvalidPart"),
        ([(2, second.etag), (1, first.etag)], "InvalidPartOrder"),
    ):
        with pytest.raises(Refusal) as raised:
            uploads.complete("evidence", "k", upload.upload_id, listed)
        assert refusal_of(raised) == (400, code)
    made = uploads.complete("evidence", "k", upload.upload_id, [(2, second.etag)])
    assert made.body.content() == b"c"
    with pytest.raises(Refusal) as raised:
        uploads.find("evidence", "k", upload.upload_id)
    assert refusal_of(raised) == (404, "NoSuchUpload")


def test_copied_parts_take_a_range_of_a_version_and_nothing_else() -> None:
    """API Reference, UploadPartCopy; metadata and tags are those of CreateMultipartUpload."""
    app = model(part_bytes_min=1)
    old = app.put("from", b"0123456789", metadata={"m": "1"}, tags={"t": "1"})
    app.delete("from")
    uploads = app.server.uploads
    upload = uploads.start("evidence", "to", Properties())
    source, listed = ("evidence", "from", old.version_id), []
    for number, span in enumerate(((0, 3), (4, 9)), start=1):
        target = ("evidence", "to", upload.upload_id, number)
        part = uploads.copy_part(source, target, first_last=span)
        listed.append((number, part.etag))
    with pytest.raises(Refusal):
        uploads.copy_part(source, ("evidence", "to", upload.upload_id, 3), first_last=(5, 10))
    made = uploads.complete("evidence", "to", upload.upload_id, listed)
    assert made.body.content() == b"0123456789"
    assert (made.props.metadata, made.props.tags) == ({}, {})


def test_more_than_five_gigabytes_are_copied_in_parts_only() -> None:
    """API Reference, CopyObject and UploadPartCopy: 5 GB each at most."""
    app = model()
    app.put("huge", Body.zeros(6 * 2**30))
    uploads = app.server.uploads
    upload = uploads.start("evidence", "to", Properties())
    target = ("evidence", "to", upload.upload_id)
    with pytest.raises(Refusal):
        uploads.copy_part(("evidence", "huge", None), (*target, 1), first_last=None)
    parts = [
        uploads.copy_part(("evidence", "huge", None), (*target, number + 1), first_last=span)
        for number, span in enumerate(((0, 3 * 2**30 - 1), (3 * 2**30, 6 * 2**30 - 1)))
    ]
    made = uploads.complete("evidence", "to", upload.upload_id, [(one.number, one.etag) for one in parts])
    assert made.body.size == 6 * 2**30
