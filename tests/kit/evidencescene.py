"""Scenes for the scenarios: a bucket of some server, its index, moments on the store's clock, and restores.

    scene.put("k", b"1"); first = scene.moment(); scene.delete("k"); second = scene.moment(); scene.scan()

Rules:
- `moment` returns an instant that lies, by a second and more, behind all that was done before and before all
  that comes: the model's clock is stepped, a real server's is watched until it has moved on (two seconds).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.kit.bucketscene import BucketScene, Side
from tests.kit.evidence import Evidence
from tests.kit.models3.app import App
from tests.kit.models3.fixtures import TestedModel
from walarchiver.core.version import Row, StoreMs
from walarchiver.evidence.openindex import open_index
from walarchiver.evidence.scanning import Scan, Scanned, ScanOptions
from walarchiver.storage.evidence import S3EvidenceBucket

_SECOND_MS = 1000


@dataclass
class Scene:
    """What the application does is done with `evidence`; names are without the prefix."""

    evidence: Evidence
    bucket: S3EvidenceBucket
    side: Side
    restores: BucketScene
    folder: Path
    named: dict[str, str] = field(default_factory=dict)

    @property
    def model(self) -> TestedModel:
        assert self.evidence.model is not None, "on the model only"
        return self.evidence.model

    @property
    def app(self) -> App:
        """The model's own application: it takes times and properties that no request can carry."""
        return App(self.model, self.evidence.location.bucket)

    def key(self, name: str) -> str:
        return self.evidence.key(name)

    def moment(self) -> StoreMs:
        """An instant between what was done and what comes."""
        if self.evidence.model is not None:
            clock = self.evidence.model.clock
            at = clock.step(seconds=5) // _SECOND_MS * _SECOND_MS
            clock.step(seconds=5)
            return StoreMs(at)
        at = StoreMs(self.bucket.date() + _SECOND_MS)
        while self.bucket.date() < at + _SECOND_MS:
            pass
        return at

    def scan(self, **options: object) -> Scanned:
        """List everything into the index."""
        return Scan(self.bucket, self.side.index, ScanOptions(**options)).run()  # type: ignore[arg-type]

    def as_of(self, moment: int) -> dict[str, Row]:
        """What was there, by names without the prefix."""
        rows = self.side.index.as_of(StoreMs(moment), prefix=self.evidence.location.prefix)
        return {row.entry.key.removeprefix(self.evidence.location.prefix): row for row in rows}

    def ids_as_of(self, moment: int) -> dict[str, str]:
        """Names and version ids of what was there."""
        return {name: row.entry.version_id for name, row in self.as_of(moment).items()}

    def content(self, name: str) -> bytes | None:
        """What a reader gets now."""
        listed = self.evidence.listed(name)
        current = next((entry for entry in listed if entry.is_latest), None)
        if current is None or current.etag == "":
            return None
        return b"".join(self.bucket.read(current.key, current.version_id))


def _scene(evidence: Evidence, folder: Path, stack: ExitStack) -> Scene:
    index = open_index(folder / "index.sqlite")
    stack.callback(index.close)
    bucket = evidence.open()
    side = Side(bucket, index)
    return Scene(evidence, bucket, side, BucketScene(side, folder, stack), folder)


@pytest.fixture
def scene(evidence: Evidence, tmp_path: Path) -> Iterator[Scene]:
    """On every server, see tests/kit/evidence.py."""
    with ExitStack() as stack:
        yield _scene(evidence, tmp_path, stack)


@pytest.fixture
def model_scene(modelled: Evidence, tmp_path: Path) -> Iterator[Scene]:
    """On the model only."""
    with ExitStack() as stack:
        yield _scene(modelled, tmp_path, stack)
