"""Any history, listings and events now and then: at every moment the index says what a reader got then.

What a reader got is asked of the model at the moment itself; the index is asked at the end. Uploads in parts
stay open over other writes, versions are removed for ever, events come twice and in any order. What the index
does not know for certain it says; and there is nothing to be uncertain of but when something was removed.
"""

from __future__ import annotations

from contextlib import closing
from random import Random

import pytest

from tests.kit.chance import RealClock
from tests.kit.evidencescene import Scene
from tests.kit.models3.entries import Upload
from walarchiver.bucketports import Doubt
from walarchiver.clock import SystemRandom
from walarchiver.core.version import MultipartTime, StoreMs
from walarchiver.evidence.events import Follower
from walarchiver.evidence.openfeed import open_feed

NAMES = ("a", "a/b", "b c", "ü")
SEEDS = [*range(3), *(pytest.param(seed, marks=pytest.mark.nightly) for seed in range(3, 80))]


class Life:
    """What happens to the bucket, and what readers got."""

    def __init__(self, scene: Scene, chance: Random) -> None:
        self._scene = scene
        self._chance = chance
        self._open: list[Upload] = []
        self.seen: list[tuple[StoreMs, dict[str, str]]] = []

    def step(self) -> None:
        app, key = self._scene.app, self._scene.key(self._chance.choice(NAMES))
        history = app.history(key)
        match self._chance.randrange(8):
            case 0 | 1 | 2:
                app.put(key, b"%d" % self._chance.randrange(3))
            case 3:
                app.delete(key)
            case 4:
                self._open.append(app.start_upload(key))
            case 5 if self._open:
                upload = self._open.pop(self._chance.randrange(len(self._open)))
                app.finish_upload(upload, b"part")
                self.follow()
            case 6 if history:
                self.follow()
                app.purge_version(key, self._chance.choice(history).version_id)
                self._scene.model.clock.step(seconds=1)
                self.follow()
            case _:
                self._chance.choice((self.follow, self.list))()
        found = {name: app.current(self._scene.key(name)) for name in NAMES}
        moment = self._scene.moment()
        self.seen.append((moment, {name: one.version_id for name, one in found.items() if one is not None}))

    def follow(self) -> None:
        feed = self._scene.model.feed
        feed.repeat()
        feed.shuffle(self._chance.randrange(1000))
        queue = open_feed(
            self._scene.model.queue_url,
            self._scene.evidence.options,
            RealClock(),
            SystemRandom(),
            aside=self._scene.folder / "aside.jsonl",
        )
        with closing(queue):
            followed = Follower(self._scene.bucket, self._scene.side.index, queue).drain()
        assert followed.aside == 0

    def list(self) -> None:
        self._scene.scan(multipart_time=MultipartTime.INITIATION, page_entries=self._chance.choice((2, 1000)))


@pytest.mark.parametrize("modelled", [{"part_bytes_min": 1, "running": False}], indirect=True)
@pytest.mark.parametrize("seed", SEEDS)
def test_every_moment_reads_as_it_did_then(model_scene: Scene, seed: int) -> None:
    """[scenario 1] [scenario 7] [scenario 8]"""
    life = Life(model_scene, Random(seed))
    life.list()
    for _ in range(40):
        life.step()
    life.follow()
    life.list()
    for moment, seen in life.seen:
        told = model_scene.ids_as_of(moment)
        unsure = {one.key: one.doubts for one in model_scene.side.index.uncertain(moment)}
        assert set(unsure.values()) <= {(Doubt.REMOVED,)}
        for name in NAMES:
            if model_scene.key(name) not in unsure:
                assert told.get(name) == seen.get(name), f"{name} at {moment}"
