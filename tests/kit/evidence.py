"""Buckets to try the evidence adapter on: the model, SeaweedFS, and any server named by the environment.

Rules:
- `evidence` gives a fresh, empty prefix of a bucket with versions; tests name what they need of a server, and
  are skipped with the reason where it has not got it.
- WALARCHIVER_TEST_S3_ENDPOINT, _BUCKET (versioned, its content is not touched outside of a fresh prefix),
  _ACCESS_KEY, _SECRET_KEY, and _REGION if need be, add a server of yours.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import botocore.config
import botocore.session
import pytest

from tests.kit.chance import RealClock
from tests.kit.models3.fixtures import MakeModel, TestedModel
from tests.kit.s3 import S3Server
from walarchiver.bucketports import KeyRange
from walarchiver.clock import SystemRandom
from walarchiver.core.version import Entry
from walarchiver.storage import S3Location, S3Options
from walarchiver.storage.credentials import CredentialsFile, parse_keys_file
from walarchiver.storage.evidence import S3EvidenceBucket
from walarchiver.storage.evidencecopy import CopyLimits
from walarchiver.storage.retry import RetryPolicy

NAMED = "WALARCHIVER_TEST_S3_"
NEEDED = ("ENDPOINT", "BUCKET", "ACCESS_KEY", "SECRET_KEY")


@dataclass
class Evidence:
    """A prefix of a versioned bucket, our adapter on it, and a plain client for what the application does."""

    server: str
    location: S3Location
    options: S3Options
    raw: Any
    opened: ExitStack
    model: TestedModel | None = None
    reader: S3Options | None = None
    """Other credentials that may read: then bytes pass through here."""

    def open(
        self, options: S3Options | None = None, *, prefix: str | None = None, limits: CopyLimits | None = None
    ) -> S3EvidenceBucket:
        """Our adapter, closed with the test."""
        location = self.location if prefix is None else replace(self.location, prefix=prefix)
        bucket = S3EvidenceBucket(
            location, options or self.options, RealClock(), SystemRandom(), limits=limits
        )
        self.opened.callback(bucket.close)
        return bucket

    def key(self, name: str) -> str:
        return self.location.prefix + name

    def put(self, name: str, body: bytes = b"", **more: Any) -> str:
        """The application writes; its version id."""
        reply = self.raw.put_object(Bucket=self.location.bucket, Key=self.key(name), Body=body, **more)
        return str(reply["VersionId"])

    def delete(self, name: str) -> str:
        """The application deletes; the marker's id."""
        reply = self.raw.delete_object(Bucket=self.location.bucket, Key=self.key(name))
        return str(reply["VersionId"])

    def purge(self, name: str, version_id: str) -> None:
        """One version or marker is removed for ever."""
        self.raw.delete_object(Bucket=self.location.bucket, Key=self.key(name), VersionId=version_id)

    def listed(self, name: str) -> tuple[Entry, ...]:
        """All entries of one key, newest first."""
        key = self.key(name)
        pages = self.open().list_entries(KeyRange(key, key))
        return tuple(entry for page in pages for entry in page)

    def need(self, *, model: str | None = None, not_seaweed: str | None = None) -> None:
        """Skip, with the reason: `model` only there can this be seen; `not_seaweed` what it lacks."""
        if model is not None and self.model is None:
            pytest.skip(f"only the model shows {model}")
        if not_seaweed is not None and self.server == "seaweedfs":
            pytest.skip(f"SeaweedFS: {not_seaweed}")


def plain_client(options: S3Options) -> Any:
    """A botocore client that asks as botocore does, with the keys of a credentials file."""
    assert isinstance(options.credentials, CredentialsFile)
    path = options.credentials.path
    keys = parse_keys_file(path.read_bytes(), path)
    return botocore.session.get_session().create_client(
        "s3",
        endpoint_url=options.endpoint,
        region_name=options.region or "us-east-1",
        aws_access_key_id=keys.access_key_id,
        aws_secret_access_key=keys.secret_access_key,
        config=botocore.config.Config(s3={"addressing_style": "path"}, proxies={}),
    )


def _fresh_prefix() -> str:
    return f"t/{SystemRandom().token(6).hex()}/"


def _on_model(request: pytest.FixtureRequest, stack: ExitStack, **options: Any) -> Evidence:
    make: MakeModel = request.getfixturevalue("make_model_s3")
    model = make(**{"running": True, **options})
    model.app("evidence")
    return Evidence(
        "model",
        S3Location("evidence", _fresh_prefix()),
        model.options(),
        model.raw_client(),
        stack,
        model=model,
        reader=model.options("READER"),
    )


def _on_seaweed(request: pytest.FixtureRequest, stack: ExitStack) -> Evidence:
    server: S3Server = request.getfixturevalue("s3_server")
    location = S3Location(server.shared_bucket(versioned=True), _fresh_prefix())
    return Evidence(
        "seaweedfs", location, server.options(), server.raw_client(), stack, reader=server.as_reader()
    )


def _on_named(request: pytest.FixtureRequest, stack: ExitStack) -> Evidence:
    missing = [f"{NAMED}{name}" for name in NEEDED if not os.environ.get(f"{NAMED}{name}")]
    assert not missing, f"a server is named by half: {', '.join(missing)} must be set too"
    folder: Path = request.getfixturevalue("tmp_path")
    path = folder / "named.toml"
    path.touch(mode=0o600)
    access, secret = os.environ[f"{NAMED}ACCESS_KEY"], os.environ[f"{NAMED}SECRET_KEY"]
    path.write_text(f'access_key_id = "{access}"\nsecret_access_key = "{secret}"\n')
    options = S3Options(
        endpoint=os.environ[f"{NAMED}ENDPOINT"],
        region=os.environ.get(f"{NAMED}REGION"),
        credentials=CredentialsFile(path),
        retry=RetryPolicy(budget_s=30),
    )
    client = plain_client(options)
    stack.callback(client.close)
    return Evidence(
        "named", S3Location(os.environ[f"{NAMED}BUCKET"], _fresh_prefix()), options, client, stack
    )


_SERVERS: dict[str, Callable[[pytest.FixtureRequest, ExitStack], Evidence]] = {
    "model": _on_model,
    "seaweedfs": _on_seaweed,
    "named": _on_named,
}


def _named() -> bool:
    return any(os.environ.get(f"{NAMED}{name}") for name in NEEDED)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say once, and not with a skip for every test, on what nothing was tried."""
    if not _named() and terminalreporter.verbosity >= 0:
        variables = ", ".join(f"{NAMED}{name}" for name in NEEDED)
        terminalreporter.write_line(f"no other S3 server was tried: none is named by {variables}")


@pytest.fixture(params=[name for name in _SERVERS if name != "named" or _named()])
def evidence(request: pytest.FixtureRequest) -> Iterator[Evidence]:
    """One after another: the model, SeaweedFS, a server named by the environment."""
    with ExitStack() as stack:
        yield _SERVERS[request.param](request, stack)


@pytest.fixture
def modelled(request: pytest.FixtureRequest) -> Iterator[Evidence]:
    """On the model only: for faults and for what no other server shows. Options by indirect parameter."""
    with ExitStack() as stack:
        yield _on_model(request, stack, **getattr(request, "param", {}))
