"""What AWS documents of lifecycle rules, as tests of the model."""

from __future__ import annotations

from tests.kit.models3.entries import LifecycleRule
from tests.kit.models3.fixtures import TestedModel
from tests.models3.test_versions import model


def test_noncurrent_days_count_from_the_successor_to_the_next_midnight() -> None:
    """User Guide, "Lifecycle configuration elements": from the successor's creation, up to midnight UTC."""
    app = model()
    app.set_lifecycle(LifecycleRule("old", noncurrent_days=7))
    old = app.put("k", b"1", "2026-01-01T00:00:00Z")
    app.put("k", b"2", "2026-03-02T10:00:00Z")
    assert app.run_lifecycle("2026-03-09T23:59:59Z") == []
    assert app.run_lifecycle("2026-03-10T00:00:00Z") == [old]
    assert len(app.history("k")) == 1


def test_newer_noncurrent_versions_are_kept_beyond_their_age() -> None:
    """User Guide, ibid.: NewerNoncurrentVersions keeps so many."""
    app = model()
    app.set_lifecycle(LifecycleRule("old", noncurrent_days=1, newer_noncurrent=2))
    made = [app.put("k", b"%d" % number) for number in range(5)]
    app.server.clock.step(days=30)
    assert app.run_lifecycle() == [made[1], made[0]]


def test_expiration_hides_current_versions_and_removes_nothing() -> None:
    """User Guide, "Expiring objects": in a versioned bucket a delete marker is added."""
    app = model()
    app.set_lifecycle(LifecycleRule("hide", prefix="tmp/", expire_days=1))
    hidden, kept = app.put("tmp/k", b"1"), app.put("k", b"1")
    app.server.clock.step(days=3)
    assert app.run_lifecycle() == []
    assert [entry.is_marker for entry in app.history("tmp/k")] == [True, False]
    assert app.history("tmp/k")[1] is hidden and app.current("k") is kept


def test_a_marker_with_nothing_below_goes_where_the_rule_says_so() -> None:
    """User Guide, "Removing expired object delete markers"."""
    app = model()
    app.set_lifecycle(LifecycleRule("lone", expired_marker=True))
    app.put("two", b"1")
    app.delete("two")
    lone = app.delete("one")
    assert app.run_lifecycle() == [lone]
    assert len(app.history("two")) == 2


def test_filters_and_locks_keep_versions() -> None:
    """User Guide, "Filter element"; "Object Lock considerations": lifecycle leaves locked versions."""
    app = model()
    app.set_lifecycle(LifecycleRule("some", tags={"drop": "yes"}, noncurrent_days=1))
    until = app.server.clock.now_ms + 90 * 86_400_000
    app.put("locked", b"1", tags={"drop": "yes"}, lock_mode="GOVERNANCE", retain_until_ms=until)
    gone = app.put("tagged", b"1", tags={"drop": "yes"})
    app.put("plain", b"1")
    for key in ("locked", "tagged", "plain"):
        app.delete(key)
    app.server.clock.step(days=9)
    assert app.run_lifecycle() == [gone]


def test_rules_survive_the_way_over_the_wire(model_s3: TestedModel) -> None:
    """API Reference, PutBucketLifecycleConfiguration and Get…; 404 when there are none."""
    app = model_s3.app("evidence")
    s3 = model_s3.raw_client()
    rules = [
        {
            "ID": "all",
            "Status": "Enabled",
            "Filter": {"Prefix": "a/"},
            "NoncurrentVersionExpiration": {"NoncurrentDays": 7, "NewerNoncurrentVersions": 3},
        },
        {
            "ID": "some",
            "Status": "Disabled",
            "Filter": {
                "And": {"Prefix": "", "Tags": [{"Key": "a", "Value": "b"}], "ObjectSizeGreaterThan": 9}
            },
            "Expiration": {"Days": 30},
            "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 2},
        },
    ]
    s3.put_bucket_lifecycle_configuration(Bucket="evidence", LifecycleConfiguration={"Rules": rules})
    assert s3.get_bucket_lifecycle_configuration(Bucket="evidence")["Rules"] == rules
    app.set_lifecycle()
    assert model_s3.state.bucket("evidence").lifecycle == []
