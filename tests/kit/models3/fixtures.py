"""Fixtures: `model_s3` is a fresh model server; `make_model_s3` makes them with options.

def test_…(model_s3): app = model_s3.app("evidence")
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import botocore.config
import botocore.session
import pytest

from tests.kit.models3.app import App
from tests.kit.models3.server import ModelOptions, ModelS3
from walarchiver.storage import S3Options
from walarchiver.storage.credentials import CredentialsFile
from walarchiver.storage.retry import RetryPolicy

_SECRET = "a-secret-that-nobody-checks"


class TestedModel(ModelS3):
    """A model server with what tests need to reach it."""

    __test__ = False

    def __init__(self, options: ModelOptions | None, folder: Path) -> None:
        super().__init__(options)
        self._folder = folder
        self._clients: list[Any] = []

    def app(self, bucket: str, *, versioned: bool = True, lock: bool = False) -> App:
        """A new bucket and the application that writes to it."""
        self.state.make_bucket(bucket, versioned=versioned, lock=lock)
        return App(self, bucket)

    def credentials_file(self, access_key: str = "ADMIN") -> Path:
        """As `credentials_file` takes it, mode 0600."""
        path = self._folder / f"{access_key}.toml"
        if not path.exists():
            path.touch(mode=0o600)
            path.write_text(f'access_key_id = "{access_key}"\nsecret_access_key = "{_SECRET}"\n')
        return path

    def options(self, access_key: str = "ADMIN", **changes: Any) -> S3Options:
        """How the product reaches it, with short waits between tries."""
        changes.setdefault("retry", RetryPolicy(budget_s=5, first_pause_s=0.001, longest_pause_s=0.01))
        return S3Options(
            endpoint=self.endpoint, credentials=CredentialsFile(self.credentials_file(access_key)), **changes
        )

    def raw_client(self, access_key: str = "ADMIN") -> Any:
        """A plain botocore client that asks once; closed with the server."""
        client = _session().create_client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=access_key,
            aws_secret_access_key=_SECRET,
            config=botocore.config.Config(
                s3={"addressing_style": "path"}, proxies={}, retries={"total_max_attempts": 1}
            ),
        )
        self._clients.append(client)
        return client

    def stop(self) -> None:
        for client in self._clients:
            client.close()
        super().stop()


@cache
def _session() -> Any:
    """One for all clients: it reads botocore's descriptions once."""
    return botocore.session.get_session()


MakeModel = Callable[..., TestedModel]


@pytest.fixture
def make_model_s3(tmp_path: Path) -> Iterator[MakeModel]:
    """Makes running servers: `make_model_s3(multipart_time="completion", roles=[…])`."""
    with ExitStack() as stack:

        def make(**options: Any) -> TestedModel:
            folder = tmp_path / f"models3-{len(list(tmp_path.glob('models3-*')))}"
            folder.mkdir()
            server = TestedModel(ModelOptions(**options), folder)
            stack.enter_context(server)
            return server

        yield make


@pytest.fixture
def model_s3(make_model_s3: MakeModel) -> TestedModel:
    """A running server as AWS is."""
    return make_model_s3()
