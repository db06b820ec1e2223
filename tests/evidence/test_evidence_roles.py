"""The rights of deploy/policies/evidence-*.json suffice to list, restore and undelete, and for no more."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.kit.chance import RealClock
from tests.kit.models3.fixtures import MakeModel, TestedModel
from tests.kit.models3.policy import DocumentRole, Role
from walarchiver.bucketports import Expected, KeyRange, Versioning
from walarchiver.clock import SystemRandom
from walarchiver.core.version import EntryKind
from walarchiver.errors import StoreDenied
from walarchiver.evidence.openindex import open_index
from walarchiver.evidence.scanning import Scan
from walarchiver.storage import S3Location
from walarchiver.storage.evidence import S3EvidenceBucket

POLICIES = Path(__file__).parents[2] / "deploy" / "policies"
ROLES = ("indexer", "restorer", "undeleter")


@dataclass
class Shipped:
    """The bucket of the shipped policies, and our adapter with each role's keys."""

    model: TestedModel
    opened: ExitStack

    def bucket(self, role: str) -> S3EvidenceBucket:
        one = S3EvidenceBucket(
            S3Location.parse("s3://evidence"), self.model.options(role), RealClock(), SystemRandom()
        )
        self.opened.callback(one.close)
        return one


@pytest.fixture
def shipped(make_model_s3: MakeModel) -> Iterator[Shipped]:
    roles = [
        DocumentRole.of(role.upper(), (POLICIES / f"evidence-{role}.json").read_text()) for role in ROLES
    ]
    model = make_model_s3(running=True, roles=[Role("ADMIN"), *roles])
    model.app("evidence")
    with ExitStack() as stack:
        one = Shipped(model, stack)
        admin = one.bucket("ADMIN")
        admin.put("kept", b"first")
        admin.put("kept", b"second")
        admin.put("deleted", b"body")
        (current,) = [each for each in admin.list_current(KeyRange()) if each.key == "deleted"]
        admin.mark_deleted("deleted", expected=Expected(current.etag))
        yield one


def entries(bucket: S3EvidenceBucket, key: str) -> list[tuple[EntryKind, str, str]]:
    pages = bucket.list_entries(KeyRange(key, key))
    return [(one.kind, one.version_id, one.etag) for page in pages for one in page]


def denied(call: Callable[[], object]) -> bool:
    try:
        call()
    except StoreDenied:
        return True
    return False


def test_the_indexer_lists_everything_and_reads_no_byte(shipped: Shipped, tmp_path: Path) -> None:
    """[scenario 19]"""
    bucket = shipped.bucket("INDEXER")
    index = open_index(tmp_path / "index.sqlite")
    assert Scan(bucket, index).run().entries == 4
    index.close()
    assert bucket.versioning() is Versioning.ENABLED
    (_, newest, etag), *_ = entries(bucket, "kept")
    assert denied(lambda: b"".join(bucket.read("kept", newest)))
    assert denied(lambda: bucket.put("new", b"x"))
    assert denied(lambda: bucket.mark_deleted("kept", expected=Expected(etag)))


def test_the_restorer_brings_versions_back_and_can_destroy_none(shipped: Shipped) -> None:
    bucket = shipped.bucket("RESTORER")
    marker, version = entries(bucket, "deleted")
    bucket.copy(bucket, "deleted", version[1], to="deleted", size=4, expected=Expected(None))
    assert len(entries(bucket, "deleted")) == 3
    newest, older = entries(bucket, "kept")
    bucket.copy(bucket, "kept", older[1], to="kept", size=5, expected=Expected(newest[2]))
    bucket.mark_deleted("kept", expected=Expected(entries(bucket, "kept")[0][2]))
    assert len(entries(bucket, "kept")) == 4
    assert denied(lambda: bucket.remove_marker("deleted", marker[1]))
    raw = shipped.model.raw_client("RESTORER")
    with pytest.raises(raw.exceptions.ClientError) as refused:
        raw.delete_object(Bucket="evidence", Key="kept", VersionId=older[1])
    assert refused.value.response["Error"]["Code"] == "AccessDenied"


def test_the_undeleter_removes_markers(shipped: Shipped) -> None:
    bucket = shipped.bucket("UNDELETER")
    marker, version = entries(bucket, "deleted")
    bucket.remove_marker("deleted", marker[1])
    assert entries(bucket, "deleted") == [version]


@pytest.mark.parametrize("role", ROLES)
def test_nobody_may_weaken_what_protects_the_bucket(shipped: Shipped, role: str) -> None:
    raw = shipped.model.raw_client(role.upper())
    for configure in (
        lambda: raw.put_bucket_versioning(Bucket="evidence", VersioningConfiguration={"Status": "Suspended"}),
        lambda: raw.put_bucket_lifecycle_configuration(
            Bucket="evidence", LifecycleConfiguration={"Rules": []}
        ),
    ):
        with pytest.raises(raw.exceptions.ClientError):
            configure()
