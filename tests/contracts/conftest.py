"""The stores that the contract suite runs on: memory, folder, and a real S3 server, plain and versioned."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.kit.chance import RealClock, SeededRandom
from walarchiver.ports import ObjectStore
from walarchiver.storage import S3Location
from walarchiver.storage.directory import DirectoryStore
from walarchiver.storage.memory import MemoryStore

if TYPE_CHECKING:
    from tests.kit.s3 import S3Server


@dataclass(frozen=True, slots=True)
class Subject:
    """A fresh, empty store, and what the port itself does not offer."""

    store: ObjectStore
    versioned: bool
    delete_latest: Callable[[str], object]
    """DELETE without a version id: a delete marker where there are versions."""


@pytest.fixture(params=["memory-versioned", "memory-plain", "directory", "s3-versioned", "s3-plain"])
def subject(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Subject]:
    kind, _, mode = request.param.partition("-")
    versioned = mode == "versioned"
    if kind == "memory":
        memory = MemoryStore(RealClock(), versioned=versioned)
        yield Subject(memory, versioned, memory.add_delete_marker)
        memory.close()
    elif kind == "directory":
        folder = DirectoryStore(tmp_path, RealClock(), SeededRandom())
        yield Subject(folder, False, lambda key: folder.delete_version(key, version_id=None))
        folder.close()
    else:
        server: S3Server = request.getfixturevalue("s3_server")
        location = S3Location.parse(server.store_url(versioned=versioned))
        s3 = server.open(location.url)
        raw = server.raw_client()
        yield Subject(
            s3,
            versioned,
            lambda key: raw.delete_object(Bucket=location.bucket, Key=location.prefix + key),
        )
        s3.close()
