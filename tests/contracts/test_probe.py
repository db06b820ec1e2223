"""What the probes say of good stores and of bad ones."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.contracts.conftest import Subject
from tests.kit.chance import RealClock, SteppingClock
from tests.kit.faultproxy import Change, FaultProxy, Response, s3_error
from tests.kit.s3 import S3Server
from walarchiver.errors import ObjectDamaged, ObjectMissing, StoreDenied
from walarchiver.ports import PutReceipt, StoredVersion
from walarchiver.storage.lifecycle import harmful_rules
from walarchiver.storage.memory import MemoryStore
from walarchiver.storage.probe import Finding, probe_create_once, survey


class OverwritingStore(MemoryStore):
    """Like servers that do not know If-None-Match."""

    def put_new(self, key: str, body: bytes | bytearray | memoryview) -> PutReceipt:
        self.add_delete_marker(key)
        return super().put_new(key, body)


class LateListing(MemoryStore):
    """Like servers whose listings lag behind."""

    def list_versions(self, prefix: str, *, start_after: str = "") -> Iterator[StoredVersion]:
        return iter(())


def test_every_store_of_ours_creates_once(subject: Subject) -> None:
    subject.store.put_new("v1/REPO", b"the repository")
    assert probe_create_once(subject.store, "v1/REPO", b"the repository").create_once
    assert len(list(subject.store.list_versions("v1/REPO"))) == 1


def test_a_store_that_overwrites_is_found_out() -> None:
    store = OverwritingStore(RealClock())
    store.put_new("v1/REPO", b"the repository")
    capability = probe_create_once(store, "v1/REPO", b"the repository")
    assert not capability.create_once
    assert "ignores If-None-Match" in capability.line


def test_a_store_that_does_not_know_conditions_is_found_out(s3_server: S3Server) -> None:
    url = s3_server.store_url()
    s3_server.open(url).put_new("v1/REPO", b"the repository")
    with FaultProxy(s3_server.endpoint) as proxy:
        store = s3_server.open(url, s3_server.options(endpoint=proxy.endpoint))
        proxy.inject(s3_error(501, "NotImplemented"), times=None, method="PUT")
        capability = probe_create_once(store, "v1/REPO", b"the repository")
        store.close()
    assert not capability.create_once
    assert "NotImplemented" in capability.line


def test_a_refusal_that_wrote_all_the_same_is_found_out(s3_server: S3Server) -> None:
    url = s3_server.store_url(versioned=True)
    direct = s3_server.open(url)
    direct.put_new("v1/REPO", b"the repository")

    def written(response: Response) -> Response:
        bucket, _, prefix = url.removeprefix("s3://").partition("/")
        s3_server.raw_client().put_object(Bucket=bucket, Key=f"{prefix}/v1/REPO", Body=b"the repository")
        return response

    with FaultProxy(s3_server.endpoint) as proxy:
        store = s3_server.open(url, s3_server.options(endpoint=proxy.endpoint))
        proxy.inject(Change(written), method="PUT")
        capability = probe_create_once(store, "v1/REPO", b"the repository")
        store.close()
    assert not capability.create_once
    assert "something was written" in capability.line


def test_the_probe_never_sends_other_bytes_than_are_there() -> None:
    store = OverwritingStore(RealClock())
    with pytest.raises(ObjectMissing):
        probe_create_once(store, "v1/REPO", b"the repository")
    store.put_new("v1/REPO", b"THE REPOSITORY")
    with pytest.raises(ObjectDamaged):
        probe_create_once(store, "v1/REPO", b"the repository")
    assert store.get("v1/REPO", bytes_max=100) == b"THE REPOSITORY"


def test_a_survey_of_a_good_bucket_holds_and_leaves_nothing(s3_server: S3Server) -> None:
    store = s3_server.open(s3_server.store_url(versioned=True))
    found = survey(store, "v1/probe/0123", RealClock())
    assert [each.name for each in found] == [
        "read",
        "list",
        "create once",
        "versioning",
        "lifecycle",
        "clock",
        "checksums",
        "bodies",
        "delete",
    ]
    assert {each.finding for each in found} == {Finding.HELD}
    assert list(store.list_versions("")) == []


def test_a_survey_names_what_is_missing(s3_server: S3Server) -> None:
    plain = survey(s3_server.open(s3_server.store_url(versioned=False)), "v1/probe/0123", SteppingClock(0))
    missing = {each.name: each.line for each in plain if each.finding is not Finding.HELD}
    assert missing.keys() == {"versioning", "clock"}
    assert "off" in missing["versioning"]
    assert "ahead of" in missing["clock"]
    bad = {each.name: each.finding for each in survey(LateListing(RealClock()), "v1/probe/1", RealClock())}
    assert bad["list"] is Finding.MISSING
    overwriting = survey(OverwritingStore(RealClock()), "v1/probe/1", RealClock())
    assert {e.name: e.finding for e in overwriting}["create once"] is Finding.MISSING


def test_lifecycle_rules_that_remove_or_hide_objects_are_named(s3_server: S3Server) -> None:
    bucket = s3_server.make_bucket(versioned=True)
    store = s3_server.open(f"s3://{bucket}/repository")
    rules: list[dict[str, object]] = [
        {"ID": "sweep", "Status": "Enabled", "Filter": {"Prefix": "repository/"}, "Expiration": {"Days": 30}},
        {"ID": "others", "Status": "Enabled", "Filter": {"Prefix": "elsewhere/"}, "Expiration": {"Days": 1}},
    ]
    s3_server.raw_client().put_bucket_lifecycle_configuration(
        Bucket=bucket, LifecycleConfiguration={"Rules": rules}
    )
    found = {each.name: each for each in survey(store, "v1/probe/0123", RealClock())}
    store.close()
    assert found["lifecycle"].finding is Finding.MISSING
    assert found["lifecycle"].line == "rule sweep removes objects after 30 days"


@pytest.mark.parametrize(
    ("rule", "act"),
    [
        ({"Prefix": "", "Expiration": {"Days": 7}}, "removes objects after 7 days"),
        (
            {"Filter": {"And": {"Prefix": "re", "Tags": []}}, "Expiration": {"Days": 7}},
            "removes objects after",
        ),
        ({"Filter": {}, "NoncurrentVersionExpiration": {"NoncurrentDays": 3}}, "deleted or replaced after 3"),
        ({"Transitions": [{"Days": 1, "StorageClass": "GLACIER"}]}, "moves objects to GLACIER"),
        ({"Filter": {"Prefix": "repo/v1/c"}, "Expiration": {"Date": "2027-01-01"}}, "on 2027-01-01"),
    ],
)
def test_every_form_of_a_harmful_rule_is_read(rule: dict[str, object], act: str) -> None:
    (line,) = harmful_rules({"Rules": [{"ID": "r", "Status": "Enabled", **rule}]}, "repo/")
    assert act in line
    assert harmful_rules({"Rules": [{"ID": "r", "Status": "Disabled", **rule}]}, "repo/") == ()


def test_rules_that_do_no_harm_are_passed_over() -> None:
    rules = [
        {"Status": "Enabled", "Prefix": "logs/", "Expiration": {"Days": 1}},
        {"Status": "Enabled", "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 1}},
        {"Status": "Enabled", "Transitions": [{"Days": 1, "StorageClass": "STANDARD_IA"}]},
        {"Status": "Enabled", "Expiration": {"ExpiredObjectDeleteMarker": True}},
    ]
    assert harmful_rules({"Rules": rules}, "repo/") == ()
    assert harmful_rules({}, "repo/") == ()


def test_a_survey_without_the_right_to_ask_says_unknown(s3_server: S3Server) -> None:
    url = s3_server.store_url()
    with FaultProxy(s3_server.endpoint) as proxy:
        store = s3_server.open(url, s3_server.options(endpoint=proxy.endpoint))
        proxy.inject(s3_error(403, "AccessDenied"), times=None, path_contains="?versioning")
        proxy.inject(s3_error(403, "AccessDenied"), times=None, method="DELETE")
        found = {each.name: each for each in survey(store, "v1/probe/0123", RealClock())}
        store.close()
    assert found["versioning"].finding is Finding.UNKNOWN
    assert found["delete"].finding is Finding.MISSING
    assert "v1/probe/0123 stays" in found["delete"].line


def test_a_survey_that_cannot_write_fails(s3_server: S3Server) -> None:
    store = s3_server.open(s3_server.store_url(), s3_server.as_reader())
    with pytest.raises(StoreDenied):
        survey(store, "v1/probe/0123", RealClock())
