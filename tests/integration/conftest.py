"""A stage per test: PostgreSQL, a repository, and `walarchiver serve`, all as real processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.scene import Scenes
from tests.kit.postgres import PostgresFactory
from tests.kit.s3 import S3Server


@pytest.fixture
def scenes(request: pytest.FixtureRequest, postgres: PostgresFactory, pg_folder: Path) -> Iterator[Scenes]:
    """Makes stages; ends their processes after the test. S3 is started only when a scene wants it."""

    def s3() -> S3Server:
        server = request.getfixturevalue("s3_server")
        assert isinstance(server, S3Server)
        return server

    made = Scenes(pg_folder, postgres, s3)
    yield made
    made.close()
