"""One backup per major for all tests of this folder that only read it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from tests.kit.postgres import MAJORS, QUICK, open_folder
from tests.postgres.taken import Taken, take
from walarchiver.embedded.postgres import MIB, EmbeddedCluster


@pytest.fixture(scope="session", params=MAJORS, ids=lambda major: f"pg{major}")
def taken(request: pytest.FixtureRequest) -> Iterator[Taken]:
    folder = open_folder("wa-taken-")
    cluster = EmbeddedCluster(request.param, folder / "pg", settings=QUICK, durable=False)
    try:
        cluster.create(segment_bytes=MIB)
        yield take(cluster, folder)
    finally:
        cluster.kill()
        shutil.rmtree(folder, ignore_errors=True)
