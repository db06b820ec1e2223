"""A bucket with a past on the model, and restores of it to one moment."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.kit.bucketscene import BucketScene, Side
from tests.kit.chance import RealClock
from tests.kit.models3 import at
from tests.kit.models3.app import App
from tests.kit.models3.fixtures import MakeModel, TestedModel
from walarchiver.clock import SystemRandom
from walarchiver.evidence.openindex import open_index
from walarchiver.storage import S3Location
from walarchiver.storage.evidence import S3EvidenceBucket
from walarchiver.storage.evidencecopy import CopyLimits

T = "2026-03-01T12:00:00Z"
BEFORE, AFTER, NOW = "2026-03-01T11:00:00Z", "2026-03-01T13:00:00Z", "2026-03-01T14:00:00Z"


@dataclass
class World:
    """A model server, the application, and the scene."""

    server: TestedModel
    app: App
    scene: BucketScene
    stack: ExitStack = field(repr=False)

    def bucket(self, name: str, *, limits: CopyLimits | None = None) -> S3EvidenceBucket:
        bucket = S3EvidenceBucket(
            S3Location.parse(f"s3://{name}"),
            self.server.options(),
            RealClock(),
            SystemRandom(),
            limits=limits,
        )
        self.stack.callback(bucket.close)
        return bucket

    def now(self, when: str = NOW) -> None:
        self.server.clock.now_ms = at(when)

    def content(self, key: str, app: App | None = None) -> bytes | None:
        current = (app or self.app).current(key)
        return None if current is None else b"".join(current.body.chunks())


@pytest.fixture
def world(make_model_s3: MakeModel, tmp_path: Path) -> Iterator[World]:
    server = make_model_s3()
    with ExitStack() as stack:
        app = server.app("evidence")
        index = open_index(tmp_path / "index.sqlite")
        stack.callback(index.close)
        found = World(server, app, None, stack)  # type: ignore[arg-type]
        found.scene = BucketScene(Side(found.bucket("evidence"), index), tmp_path, stack)
        yield found


def lay_out(world: World) -> None:
    """One key of each fate between T and now."""
    app = world.app
    app.put("kept", b"kept", BEFORE)
    app.put("changed", b"old", BEFORE)
    app.put("deleted", b"deleted", BEFORE)
    app.put("same", b"same", BEFORE)
    app.put("changed", b"new", AFTER)
    app.delete("deleted", AFTER)
    app.put("same", b"same", AFTER)
    app.put("later", b"later", AFTER)
    world.now()
