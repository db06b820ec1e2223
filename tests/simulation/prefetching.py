"""What tests of fetching ahead are told by: a fetcher that looks ahead, and what was read."""

from __future__ import annotations

from pathlib import Path

from restore.core.plan import Plan
from restore.fetcher import Fetcher
from restore.prefetch import Fate, Prefetch, Window
from tests.kit.faultystore import WAIT_S
from tests.kit.walmaker import MIB
from tests.simulation.test_fetcher import Scene


class Reading:
    """A fetcher that looks ahead, with what a test wants to know of it."""

    def __init__(self, scene: Scene, plan: Plan | None = None, *, spool: Path | None = None) -> None:
        self.scene = scene
        self.fates: list[Fate] = []
        self.fetcher = Fetcher(
            repository=scene.process.repository,
            ledger=scene.process.ledger,
            segment_size=MIB,
            plan=plan,
            spool=spool or scene.spool,
            window=Window(),
            count=self.fates.append,
        )

    @property
    def ahead(self) -> Prefetch:
        assert self.fetcher._ahead is not None
        return self.fetcher._ahead

    def fetch(self, name: str) -> bytes:
        size = self.fetcher.fetch(name, self.scene.destination)
        content = self.scene.destination.read_bytes()
        assert len(content) == size
        return content

    def settled(self) -> list[str]:
        """Wait until everything ordered was fetched or has failed; the names."""
        files = list(self.ahead._files.values())
        for file in files:
            assert file.done.wait(WAIT_S), f"{file.record.name} was never fetched"
        return [file.record.name for file in files]


def key_of(scene: Scene, name: str) -> str:
    (key,) = [key for key in scene.world.keys("/wal/") if name in key]
    return key


def gets(scene: Scene, name: str) -> int:
    """How often an object was read."""
    key = key_of(scene, name)
    return sum(event.operation == "get" and event.key == key for event in scene.world.store.events)
