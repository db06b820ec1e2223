"""A real S3 server for the tests: one SeaweedFS per session, started when first asked for.

`s3_server` gives its endpoint, keys and buckets. Buckets are few (each costs several volumes on
disk), so tests share one per kind and separate themselves by a prefix of their own: `store_url`.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import botocore.config
import botocore.session
import pytest

from tests.kit.chance import RealClock
from walarchiver.clock import SystemRandom
from walarchiver.embedded.binaries import weed_binary
from walarchiver.embedded.seaweed import SeaweedServer
from walarchiver.storage import S3Location, S3Options
from walarchiver.storage.credentials import CredentialsFile, Keys, parse_keys_file
from walarchiver.storage.s3 import S3Store


@dataclass
class S3Server:
    """A running S3 server and how to reach it."""

    seaweed: SeaweedServer
    _shared: dict[bool, str] = field(default_factory=dict)
    _raw_client: Any = None

    @property
    def endpoint(self) -> str:
        return self.seaweed.endpoint

    @property
    def credentials_file(self) -> Path:
        """TOML as `credentials_file` takes it, mode 0600; keys that may do everything."""
        return self.seaweed.credentials_file

    @property
    def reader_credentials_file(self) -> Path:
        """Keys that may only read and list."""
        return self.seaweed.reader_credentials_file

    def options(self, **changes: Any) -> S3Options:
        return replace(self.seaweed.options(), **changes)

    def make_bucket(self, *, versioned: bool) -> str:
        """A new, empty bucket. Prefer `shared_bucket` where a prefix of one's own will do."""
        bucket = f"test-{SystemRandom().token(6).hex()}"
        self.seaweed.make_bucket(bucket, versioned=versioned)
        return bucket

    def shared_bucket(self, *, versioned: bool) -> str:
        """The session's bucket of this kind."""
        if versioned not in self._shared:
            bucket = self.make_bucket(versioned=versioned)
            # The first write makes the volumes, which takes seconds; no test should meet that.
            self.raw_client().put_object(Bucket=bucket, Key="first", Body=b"")
            self._shared[versioned] = bucket
        return self._shared[versioned]

    def store_url(self, *, versioned: bool = True) -> str:
        """s3://BUCKET/PREFIX with a fresh prefix in the shared bucket."""
        return f"s3://{self.shared_bucket(versioned=versioned)}/t/{SystemRandom().token(6).hex()}"

    def open(self, url: str, options: S3Options | None = None) -> S3Store:
        return S3Store(S3Location.parse(url), options or self.options(), RealClock(), SystemRandom())

    def as_reader(self, **changes: Any) -> S3Options:
        return self.options(credentials=CredentialsFile(self.reader_credentials_file), **changes)

    def keys(self) -> Keys:
        return parse_keys_file(self.credentials_file.read_bytes(), self.credentials_file)

    def raw_client(self) -> Any:
        """A plain botocore client, for what the port does not offer; shared, never close it."""
        if self._raw_client is None:
            keys = self.keys()
            self._raw_client = botocore.session.get_session().create_client(
                "s3",
                endpoint_url=self.endpoint,
                region_name="us-east-1",
                aws_access_key_id=keys.access_key_id,
                aws_secret_access_key=keys.secret_access_key,
                config=botocore.config.Config(s3={"addressing_style": "path"}, proxies={}),
            )
        return self._raw_client

    def close(self) -> None:
        if self._raw_client is not None:
            self._raw_client.close()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    folder = Path(tempfile.mkdtemp(prefix="wa-s3-"))
    seaweed = SeaweedServer(weed_binary(), folder, RealClock(), SystemRandom())
    try:
        seaweed.start()
        server = S3Server(seaweed)
        yield server
        server.close()
    finally:
        seaweed.stop()
        shutil.rmtree(folder, ignore_errors=True)
