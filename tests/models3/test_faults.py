"""Faults by script, the request log, roles and the feed of events."""

from __future__ import annotations

import json
import threading

import botocore.exceptions
import pytest

from tests.kit.models3 import faults
from tests.kit.models3.feed import key_of
from tests.kit.models3.fixtures import MakeModel, TestedModel
from tests.kit.models3.policy import INDEXER, RESTORER, Role
from tests.models3.test_requests import code_of


def test_faults_hit_the_requests_they_were_scripted_for(model_s3: TestedModel) -> None:
    model_s3.app("evidence")
    s3 = model_s3.raw_client()
    model_s3.faults.script(faults.Refuse("SlowDown"), operation="PutObject", key="b", times=2, after=1)
    s3.put_object(Bucket="evidence", Key="a")
    s3.put_object(Bucket="evidence", Key="b")
    for _ in range(2):
        with pytest.raises(botocore.exceptions.ClientError) as raised:
            s3.put_object(Bucket="evidence", Key="b")
        assert code_of(raised) == (503, "SlowDown")
    s3.put_object(Bucket="evidence", Key="b")
    assert model_s3.faults.unused == 0
    assert [one.fault for one in model_s3.log.of("PutObject")] == ["", "", "Refuse", "Refuse", ""]


def test_a_lost_answer_leaves_the_write_behind(model_s3: TestedModel) -> None:
    app = model_s3.app("evidence")
    s3 = model_s3.raw_client()
    for fault, written in ((faults.LoseAnswer(), True), (faults.Reset(), False)):
        model_s3.faults.script(fault, operation="PutObject")
        with pytest.raises(botocore.exceptions.HTTPClientError):
            s3.put_object(Bucket="evidence", Key=str(written), Body=b"x")
        assert (app.current(str(written)) is not None) is written


def test_a_cut_body_is_announced_whole(model_s3: TestedModel) -> None:
    app = model_s3.app("evidence")
    app.put("k", b"0123456789")
    model_s3.faults.script(faults.CutBody(4), operation="GetObject")
    got = model_s3.raw_client().get_object(Bucket="evidence", Key="k")
    assert got["ContentLength"] == 10
    with pytest.raises(botocore.exceptions.HTTPClientError):
        got["Body"].read()


def test_somebody_else_can_write_in_between(model_s3: TestedModel) -> None:
    app = model_s3.app("evidence")
    old = app.put("k", b"1")
    model_s3.faults.script(faults.Meanwhile(lambda: app.put("k", b"2")), operation="PutObject")
    with pytest.raises(botocore.exceptions.ClientError) as raised:
        model_s3.raw_client().put_object(Bucket="evidence", Key="k", Body=b"3", IfMatch=old.etag)
    assert code_of(raised) == (412, "PreconditionFailed")
    assert [entry.body.content() for entry in app.history("k")] == [b"2", b"1"]


def test_an_answer_can_be_held_back_after_the_write(model_s3: TestedModel) -> None:
    app = model_s3.app("evidence")
    let_go = threading.Event()
    model_s3.faults.script(faults.HoldAnswer(let_go), operation="PutObject")
    s3 = model_s3.raw_client()
    writer = threading.Thread(target=s3.put_object, kwargs={"Bucket": "evidence", "Key": "k", "Body": b"1"})
    writer.start()
    other = model_s3.raw_client()
    while not other.list_objects_v2(Bucket="evidence")["KeyCount"]:
        pass
    assert writer.is_alive() and app.current("k") is not None
    let_go.set()
    writer.join(timeout=30)
    assert not writer.is_alive()


def test_listing_pages_can_be_lost_repeated_cut_short_or_have_holes(model_s3: TestedModel) -> None:
    app = model_s3.app("evidence")
    for number in range(6):
        app.put(f"k{number}", b"")
    s3 = model_s3.raw_client()

    def keys(**asked: object) -> tuple[list[str], bool]:
        page = s3.list_object_versions(Bucket="evidence", MaxKeys=2, **asked)
        return [one["Key"] for one in page.get("Versions", [])], page["IsTruncated"]

    assert keys() == (["k0", "k1"], True)
    model_s3.faults.script(faults.RepeatPage(), operation="ListObjectVersions")
    assert keys(KeyMarker="k1") == (["k0", "k1"], True)
    model_s3.faults.script(faults.LosePage(), operation="ListObjectVersions")
    assert keys() == (["k2", "k3"], True)
    model_s3.faults.script(faults.EndEarly(), operation="ListObjectVersions")
    assert keys() == (["k0", "k1"], False)
    model_s3.faults.script(faults.DropKeys.of("k1"), operation="ListObjectVersions")
    assert keys() == (["k0"], True)


def test_copy_can_fail_inside_a_200(model_s3: TestedModel) -> None:
    """API Reference, CopyObject: "A 200 OK response can contain either a success or an error"."""
    app = model_s3.app("evidence")
    app.put("k", b"1")
    model_s3.faults.script(faults.ErrorIn200("SlowDown"), operation="CopyObject")
    with pytest.raises(botocore.exceptions.ClientError) as raised:
        model_s3.raw_client().copy_object(
            Bucket="evidence", Key="to", CopySource={"Bucket": "evidence", "Key": "k"}
        )
    assert raised.value.response["Error"]["Code"] == "SlowDown"
    assert app.history("to") == []


def test_keys_may_do_what_their_role_allows_and_nothing_else(make_model_s3: MakeModel) -> None:
    """User Guide, "Required permissions for Amazon S3 API operations"."""
    model = make_model_s3(roles=[Role("INDEXER", INDEXER), Role("RESTORER", RESTORER)])
    app = model.app("evidence")
    old = app.put("k", b"1", tags={"t": "1"})
    app.delete("k")
    source = {"Bucket": "evidence", "Key": "k", "VersionId": old.version_id}
    indexer, restorer = model.raw_client("INDEXER"), model.raw_client("RESTORER")
    indexer.list_object_versions(Bucket="evidence")
    restorer.copy_object(Bucket="evidence", Key="k", CopySource=source, IfNoneMatch="*")
    for refused in (
        lambda: indexer.get_object(**source),
        lambda: indexer.put_object(Bucket="evidence", Key="k"),
        lambda: indexer.copy_object(Bucket="evidence", Key="k", CopySource=source),
        lambda: restorer.delete_object(**source),
        lambda: restorer.put_bucket_versioning(
            Bucket="evidence", VersioningConfiguration={"Status": "Suspended"}
        ),
        lambda: model.raw_client("NOBODY").list_object_versions(Bucket="evidence"),
    ):
        with pytest.raises(botocore.exceptions.ClientError) as raised:
            refused()
        assert code_of(raised) == (403, "AccessDenied")
    assert len(model.log.refused()) == 6
    assert len(app.history("k")) == 3


def test_without_the_right_to_list_absence_is_not_told(make_model_s3: MakeModel) -> None:
    """API Reference, GetObject: 403 in place of 404 without s3:ListBucket."""
    model = make_model_s3(roles=[Role("READER", ("s3:GetObject",))])
    model.app("evidence")
    with pytest.raises(botocore.exceptions.ClientError) as raised:
        model.raw_client("READER").get_object(Bucket="evidence", Key="none")
    assert code_of(raised) == (403, "AccessDenied")


def test_every_change_is_told_with_a_growing_sequencer(model_s3: TestedModel) -> None:
    """User Guide, "Event message structure"."""
    app = model_s3.app("evidence")
    first = app.put("a b+ü", b"1")
    app.delete("a b+ü")
    app.purge_version("a b+ü", first.version_id)
    records = [json.loads(body)["Records"][0] for body in model_s3.feed.bodies()]
    assert [record["eventName"] for record in records] == [
        "ObjectCreated:Put",
        "ObjectRemoved:DeleteMarkerCreated",
        "ObjectRemoved:Delete",
    ]
    assert {record["s3"]["object"]["key"] for record in records} == {"a+b%2B%C3%BC"}
    sequencers = [record["s3"]["object"]["sequencer"] for record in records]
    assert sequencers == sorted(set(sequencers))
    assert records[0]["s3"]["object"]["versionId"] == first.version_id
    assert {key_of(message) for message in model_s3.feed.messages} == {"a b+ü"}


def test_a_feed_can_be_spoiled(model_s3: TestedModel) -> None:
    """User Guide, "Amazon S3 Event Notifications": at least once, in no order."""
    app = model_s3.app("evidence")
    for key in ("a", "b", "c", "d"):
        app.put(key)
    assert model_s3.feed.drop("b") == 1
    model_s3.feed.repeat()
    model_s3.feed.shuffle(7)
    keys = [key_of(message) for message in model_s3.feed.take(100)]
    assert sorted(keys) == ["a", "a", "c", "c", "d", "d"]
    assert keys != sorted(keys) and model_s3.feed.messages == []
