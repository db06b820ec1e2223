"""The rights of deploy/policies are enough for each role and no more, on a store that enforces them.

The condition on `s3:if-none-match` is left out here: SeaweedFS does not know it, and then denies every PUT.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.kit.s3 import S3Server
from walarchiver.errors import StoreDenied
from walarchiver.storage.credentials import CredentialsFile
from walarchiver.storage.s3 import S3Store

POLICIES = Path(__file__).parents[2] / "deploy" / "policies"
ROLES = ("writer", "reader", "admin")

REPO, KEYRING, READER = "v1/REPO", "v1/keyring/0001.json", "v1/reader/format.md"
CLUSTER = "v1/c/7642011472967116994"
WAL = f"{CLUSTER}/wal/00000001/00000000/000000010000000000000001.0123456789abcdef"
BASE = f"{CLUSTER}/base/20261122T192008Z-c4a2a583/00000000.0123456789abcdef"
PIN = f"{CLUSTER}/pin/20261122T192008Z-c4a2a583/00000000.0123456789abcdef"
INDEX = "v1/b/evidence/index/0123456789abcdef/00000000.0123456789abcdef"
FIRST_WRAP = f"{CLUSTER}/keys/0123456789abcdef.0000.json"
SECOND_WRAP = f"{CLUSTER}/keys/0123456789abcdef.0001.json"
ENTRY = f"{CLUSTER}/ledger/0000000000000000.json"
EVERYTHING = (REPO, KEYRING, READER, WAL, BASE, PIN, INDEX, FIRST_WRAP, SECOND_WRAP, ENTRY)

MAY_CREATE = {
    "writer": {REPO, WAL, BASE, PIN, INDEX, FIRST_WRAP, ENTRY},
    "reader": set(),
    "admin": {REPO, KEYRING, READER, FIRST_WRAP, SECOND_WRAP, ENTRY},
}
MAY_READ = {
    "writer": {REPO, KEYRING, FIRST_WRAP, SECOND_WRAP, ENTRY},
    "reader": set(EVERYTHING),
    "admin": set(EVERYTHING),
}


def granted(role: str, bucket: str, prefix: str = "walarchiver") -> str:
    """The role's policy as one of the bucket's, for SeaweedFS' user `stranger`."""
    text = (POLICIES / f"{role}.json").read_text().replace(":::backups", f":::{bucket}")
    policy = json.loads(text.replace("/walarchiver/", f"/{prefix}/"))
    for statement in policy["Statement"]:
        statement.pop("Condition", None)
        statement["Principal"] = {"AWS": "arn:aws:iam::000000000000:user/stranger"}
    return json.dumps(policy)


@pytest.fixture(scope="module")
def bucket(s3_server: S3Server) -> str:
    return s3_server.make_bucket(versioned=True)


@pytest.fixture(params=ROLES)
def role(request: pytest.FixtureRequest, s3_server: S3Server, bucket: str) -> str:
    s3_server.raw_client().put_bucket_policy(Bucket=bucket, Policy=granted(request.param, bucket))
    return str(request.param)


@pytest.fixture
def store(s3_server: S3Server, bucket: str, role: str) -> Iterator[S3Store]:
    keys = CredentialsFile(s3_server.seaweed.stranger_credentials_file)
    opened = s3_server.open(f"s3://{bucket}/walarchiver", s3_server.options(credentials=keys))
    yield opened
    opened.close()


def allowed(call: Callable[[], object]) -> bool:
    try:
        call()
    except StoreDenied:
        return False
    return True


def test_a_role_may_do_what_it_must_and_nothing_else(
    s3_server: S3Server, bucket: str, role: str, store: S3Store
) -> None:
    admin = s3_server.open(f"s3://{bucket}/walarchiver")
    try:
        for key in EVERYTHING:
            for found in list(admin.list_versions(key)):
                admin.delete_version(found.key, version_id=found.version_id)
        created = {key for key in EVERYTHING if allowed(partial(store.put_new, key, b"x"))}
        for key in set(EVERYTHING) - created:
            admin.put_new(key, b"x")
        read = {key for key in EVERYTHING if allowed(partial(store.get, key, bytes_max=9))}
        versions = list(store.list_versions(CLUSTER))
        deleted = [
            v for v in versions if allowed(partial(store.delete_version, v.key, version_id=v.version_id))
        ]
        by_version = {
            v.key
            for v in versions
            if allowed(partial(store.get, v.key, version_id=v.version_id, bytes_max=9))
        }
    finally:
        admin.close()
    assert created == MAY_CREATE[role]
    assert read == MAY_READ[role]
    assert by_version == {key for key in MAY_READ[role] if key.startswith(CLUSTER)}
    assert not deleted
    assert store.versioning() == "Enabled"
    assert store.harmful_rules() == ()


@pytest.mark.parametrize("name", ROLES)
def test_creating_is_granted_only_where_nothing_is_overwritten(name: str) -> None:
    statements = json.loads((POLICIES / f"{name}.json").read_text())["Statement"]
    actions = {action for one in statements for action in [one["Action"]] if isinstance(action, str)}
    actions |= {action for one in statements if isinstance(one["Action"], list) for action in one["Action"]}
    assert not {action for action in actions if "Delete" in action or "*" in action}
    for one in statements:
        if "s3:PutObject" in one["Action"]:
            assert one["Condition"] == {"Null": {"s3:if-none-match": "false"}}
