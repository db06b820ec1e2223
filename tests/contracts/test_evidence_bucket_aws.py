"""The evidence bucket where only the model shows what AWS does: sizes, tiers, keys, rules, roles."""

from __future__ import annotations

import threading

import pytest

from tests.contracts.modelled import app_of, model_of
from tests.contracts.test_evidence_bucket import all_entries, kinds
from tests.kit.evidence import Evidence
from tests.kit.models3 import faults
from tests.kit.models3.bodies import Body
from tests.kit.models3.entries import LifecycleRule
from tests.kit.models3.policy import INDEXER, RESTORER, UNDELETER, Role
from walarchiver.bucketports import Expected, KeyRange, Versioning
from walarchiver.bucketports import LifecycleRule as Told
from walarchiver.errors import (
    StoreDenied,
    VersionUnreadable,
)

# --- what only AWS shows ---------------------------------------------------------------------------


@pytest.mark.parametrize("modelled", [{}, {"multipart_time": "completion"}], indirect=True)
def test_more_than_five_gigabytes_are_copied_in_parts(modelled: Evidence) -> None:
    """API Reference, CopyObject: up to 5 GB in one request."""
    app, key = app_of(modelled), modelled.key("film")
    wanted = app.put(key, Body.zeros(6 * 2**30), metadata={"case": "7"}, tags={"t": "1"})
    current = app.put(key, b"")
    bucket = modelled.open()
    made = bucket.copy(
        bucket, key, wanted.version_id, to=key, size=6 * 2**30, expected=Expected(current.etag)
    )
    newest = app.current(key)
    assert newest is not None and newest.version_id == made.version_id
    assert (newest.body.size, newest.props.metadata, newest.props.tags) == (
        6 * 2**30,
        {"case": "7"},
        {"t": "1"},
    )
    assert model_of(modelled).log.count("CopyObject") == 0
    assert model_of(modelled).log.body_reads() == []


@pytest.mark.parametrize("tier", ["GLACIER", "DEEP_ARCHIVE", "INTELLIGENT_TIERING"])
def test_an_archived_version_is_told_apart_and_copied_once_it_is_back(modelled: Evidence, tier: str) -> None:
    """[scenario 17] User Guide, "Working with archived objects"; no byte of it is asked for."""
    app, key = app_of(modelled), modelled.key("k")
    wanted = app.put(key, b"frozen", storage_class=tier)
    if tier == "INTELLIGENT_TIERING":
        wanted.archive_status = "DEEP_ARCHIVE_ACCESS"
    app.delete(key)
    model, bucket = model_of(modelled), modelled.open()
    model.state.restore_takes_s = 3600

    def copy() -> object:
        return bucket.copy(bucket, key, wanted.version_id, to=key, size=6, expected=Expected(None))

    detail = bucket.detail(key, wanted.version_id)
    assert detail is not None and (detail.readable, detail.storage_class) == (False, tier)
    with pytest.raises(VersionUnreadable):
        copy()
    bucket.request_thaw(key, wanted.version_id, days=3)
    bucket.request_thaw(key, wanted.version_id, days=3)
    detail = bucket.detail(key, wanted.version_id)
    assert detail is not None and not detail.readable
    model.clock.step(hours=1)
    detail = bucket.detail(key, wanted.version_id)
    assert detail is not None and detail.readable
    copy()
    current = app.current(key)
    assert current is not None and current.body.content() == b"frozen"
    assert model.log.body_reads() == []


def test_what_is_not_archived_cannot_be_asked_back(modelled: Evidence) -> None:
    version_id = modelled.put("k", b"1")
    with pytest.raises(VersionUnreadable):
        modelled.open().request_thaw(modelled.key("k"), version_id, days=1)


def test_a_version_under_a_customers_key_is_told_apart_and_not_copied(modelled: Evidence) -> None:
    """User Guide, "Using server-side encryption with customer-provided keys": not without the key."""
    app, key = app_of(modelled), modelled.key("k")
    wanted = app.put(key, b"1", encryption="customer")
    app.put(key, b"2")
    bucket = modelled.open()
    detail = bucket.detail(key, wanted.version_id)
    assert detail is not None and detail.encryption == "customer"
    current = Expected(modelled.listed("k")[0].etag)
    with pytest.raises(VersionUnreadable):
        bucket.copy(bucket, key, wanted.version_id, to=key, size=1, expected=current)
    assert len(app.history(key)) == 2


def test_detail_names_the_kms_key(modelled: Evidence) -> None:
    app, key = app_of(modelled), modelled.key("k")
    entry = app.put(key, b"1", encryption="aws:kms", key_id="arn:aws:kms:eu-1:1:key/a")
    detail = modelled.open().detail(key, entry.version_id)
    assert detail is not None
    assert (detail.encryption, detail.key_id) == ("aws:kms", "arn:aws:kms:eu-1:1:key/a")


def test_versioning_is_told_as_it_is(modelled: Evidence) -> None:
    bucket, model = modelled.open(), model_of(modelled)
    model.state.set_versioning("evidence", "Suspended")
    assert bucket.versioning() is Versioning.SUSPENDED
    model.state.bucket("evidence").versioning = "Off"
    assert bucket.versioning() is Versioning.OFF


def test_the_rules_that_remove_versions_below_the_prefix_are_told(modelled: Evidence) -> None:
    """[scenario 18] Those of other prefixes, and disabled ones, are not."""
    app, prefix = app_of(modelled), modelled.location.prefix
    bucket = modelled.open()
    assert bucket.lifecycle() == ()
    app.set_lifecycle(
        LifecycleRule("all", noncurrent_days=7),
        LifecycleRule("below", prefix=prefix + "tmp/", noncurrent_days=1, newer_noncurrent=3),
        LifecycleRule("off", enabled=False, noncurrent_days=1),
        LifecycleRule("elsewhere", prefix="other/", noncurrent_days=1),
        LifecycleRule("some", tags={"a": "b"}, noncurrent_days=2),
        LifecycleRule("hides", prefix=prefix, expire_days=30),
    )
    assert set(bucket.lifecycle()) == {
        Told("all", "", 7, None, expires=False, filtered=False),
        Told("below", prefix + "tmp/", 1, 3, expires=False, filtered=False),
        Told("some", "", 2, None, expires=False, filtered=True),
        Told("hides", prefix, None, None, expires=True, filtered=False),
    }
    model_of(modelled).faults.script(
        faults.Refuse("AccessDenied"), operation="GetBucketLifecycleConfiguration", times=None
    )
    with pytest.raises(StoreDenied):
        bucket.lifecycle()


def test_the_stores_clock_is_read_from_its_answers(modelled: Evidence) -> None:
    bucket = modelled.open()
    model_of(modelled).clock.set("2031-05-06T07:08:09.123Z")
    assert abs(bucket.date() - model_of(modelled).clock.now_ms) < 60_000


# --- roles -----------------------------------------------------------------------------------------


ROLES = {
    "roles": [
        Role("ADMIN"),
        Role("INDEXER", INDEXER),
        Role("RESTORER", RESTORER),
        Role("UNDELETER", UNDELETER),
        Role("APPLICATION", ("s3:PutObject", "s3:GetObject")),
    ]
}


@pytest.mark.parametrize("modelled", [ROLES], indirect=True)
def test_an_index_needs_no_body_and_no_write(modelled: Evidence) -> None:
    """User Guide, "Required permissions for Amazon S3 API operations"."""
    version_id = modelled.put("k", b"1")
    modelled.delete("k")
    bucket = modelled.open(model_of(modelled).options("INDEXER"))
    assert kinds(all_entries(bucket)) == "mv"
    assert list(bucket.list_current(KeyRange())) == []
    assert bucket.list_folders(modelled.location.prefix) == ()
    assert (bucket.versioning(), bucket.lifecycle(), bucket.date() > 0) == (Versioning.ENABLED, (), True)
    key = modelled.key("k")
    for refused in (
        lambda: b"".join(bucket.read(key, version_id)),
        lambda: bucket.put(key, b"2"),
        lambda: bucket.copy(bucket, key, version_id, to=key, size=1, expected=Expected(None)),
    ):
        with pytest.raises(StoreDenied):
            refused()
    assert kinds(modelled.listed("k")) == "mv"


@pytest.mark.parametrize("modelled", [ROLES], indirect=True)
def test_a_restore_needs_no_right_to_remove_versions(modelled: Evidence) -> None:
    wanted = modelled.put("k", b"1", Tagging="a=b")
    marker = modelled.delete("k")
    bucket, key = modelled.open(model_of(modelled).options("RESTORER")), modelled.key("k")
    made = bucket.copy(bucket, key, wanted, to=key, size=1, expected=Expected(None))
    bucket.mark_deleted(key, expected=Expected(made.etag))
    with pytest.raises(StoreDenied):
        bucket.remove_marker(key, marker)
    assert kinds(modelled.listed("k")) == "mvmv"
    other = modelled.open(model_of(modelled).options("UNDELETER"))
    other.remove_marker(key, modelled.listed("k")[0].version_id)
    assert kinds(modelled.listed("k")) == "vmv"


@pytest.mark.parametrize("modelled", [ROLES], indirect=True)
def test_who_may_not_list_is_denied_and_nothing_counts_as_absent(modelled: Evidence) -> None:
    version_id = modelled.put("k", b"1")
    modelled.purge("k", version_id)
    bucket = modelled.open(model_of(modelled).options("APPLICATION"))
    with pytest.raises(StoreDenied):
        bucket.detail(modelled.key("k"), version_id)


def test_writers_of_one_key_do_not_hold_up_listings(modelled: Evidence) -> None:
    """A held answer keeps one connection, not the bucket."""
    modelled.put("k", b"1")
    let_go = threading.Event()
    model_of(modelled).faults.script(faults.HoldAnswer(let_go), operation="PutObject")
    bucket = modelled.open()
    writer = threading.Thread(target=bucket.put, args=(modelled.key("k"), b"2"))
    writer.start()
    try:
        while len(all_entries(bucket)) < 2:
            pass
        assert writer.is_alive()
    finally:
        let_go.set()
        writer.join(timeout=60)
    assert not writer.is_alive()
