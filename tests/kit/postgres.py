"""Real PostgreSQL servers for tests: a factory, and a parameter over the supported majors.

- `postgres(major=None, ...)` makes and starts a cluster (1 MiB segments, no fsync). It is a copy of
  one initdb per session and major; copies of one template share the system identifier, so ask
  for `fresh=True` where two clusters must differ.
- A test that asks for `major` runs on every major in MAJORS, and `postgres()` then uses that one.
- Clusters live in a short folder of their own: a Unix socket name has at most 107 bytes, and as
  root the folder must be open to the ordinary user that PostgreSQL runs as.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pytest

from walarchiver.embedded.postgres import MIB, EmbeddedCluster

if TYPE_CHECKING:
    from _pytest.mark.structures import ParameterSet

MAJORS = (15, 18)


def seldom(*majors: int) -> list[ParameterSet]:
    """Majors on which a test runs at night only: parametrize("major", [18, *seldom(15)])."""
    return [pytest.param(major, marks=pytest.mark.nightly) for major in majors]


class PostgresFactory(Protocol):
    def __call__(
        self,
        major: int | None = None,
        *,
        settings: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
        segment_bytes: int = MIB,
        data_checksums: bool = True,
        fresh: bool = False,
        start: bool = True,
    ) -> EmbeddedCluster: ...


@pytest.fixture(params=MAJORS, ids=lambda major: f"pg{major}")
def major(request: pytest.FixtureRequest) -> int:
    """Each supported major version that the suite runs on."""
    return int(request.param)


def open_folder(prefix: str = "wa-") -> Path:
    """A new folder with a short name that every user may enter; the caller removes it."""
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir="/tmp"))
    folder.chmod(0o755)
    return folder


@pytest.fixture
def pg_folder() -> Iterator[Path]:
    """A folder for clusters and restores of one test."""
    folder = open_folder()
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def pg_templates() -> Iterator[dict[tuple[int, int, bool], Path]]:
    """Data directories to copy, by (major, segment bytes, checksums); filled by the factory."""
    templates: dict[tuple[int, int, bool], Path] = {}
    yield templates
    for data_dir in templates.values():
        shutil.rmtree(data_dir.parent, ignore_errors=True)


@pytest.fixture
def postgres(
    request: pytest.FixtureRequest, pg_folder: Path, pg_templates: dict[tuple[int, int, bool], Path]
) -> Iterator[PostgresFactory]:
    clusters: list[EmbeddedCluster] = []

    def make(
        major: int | None = None,
        *,
        settings: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
        segment_bytes: int = MIB,
        data_checksums: bool = True,
        fresh: bool = False,
        start: bool = True,
    ) -> EmbeddedCluster:
        if major is None:
            major = request.getfixturevalue("major") if "major" in request.fixturenames else MAJORS[-1]
        cluster = EmbeddedCluster(
            major,
            pg_folder / f"pg{len(clusters)}",
            settings={**QUICK, "min_wal_size": f"{2 * segment_bytes // MIB}MB", **(settings or {})},
            environment=environment,
            durable=False,
        )
        clusters.append(cluster)
        kind = (major, segment_bytes, data_checksums)
        if not fresh and kind not in pg_templates:
            original = EmbeddedCluster(major, open_folder("wa-template-"), durable=False)
            original.create(segment_bytes=segment_bytes, data_checksums=data_checksums)
            pg_templates[kind] = original.data_dir
        cluster.create(
            segment_bytes=segment_bytes,
            data_checksums=data_checksums,
            template=None if fresh else pg_templates[kind],
        )
        return cluster.start() if start else cluster

    yield make
    for cluster in clusters:
        cluster.kill()


QUICK = {
    "max_wal_size": "128MB",
    "min_wal_size": "2MB",  # PostgreSQL wants two segments at least
    "shared_buffers": "16MB",
    "autovacuum": "off",
    "wal_level": "replica",
}


def as_server_user(cluster: EmbeddedCluster, path: Path) -> Path:
    """Give a file or folder to the user the cluster runs as, so that it may write there."""
    if cluster.run_as is not None:
        os.chown(path, cluster.run_as.uid, cluster.run_as.gid)
    return path
