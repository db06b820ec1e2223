"""Scenarios: the index is lost, and comes back from the repository with what no listing shows any more."""

from __future__ import annotations

from contextlib import closing
from random import Random

import pytest

from tests.evidence.test_scenarios_every_moment import NAMES, Life
from tests.kit.evidencescene import Scene
from tests.simulation.world import SYSTEM, Process, World
from walarchiver.bucketports import VersionIndex
from walarchiver.core.bucketwindow import window_of
from walarchiver.core.version import MultipartTime
from walarchiver.evidence.openindex import open_index
from walarchiver.evidence.scanning import Scan, ScanOptions
from walarchiver.evidence.shipping import Shipper, Watched, kept_index, load_index


def _watched(scene: Scene) -> Watched:
    return Watched(scene.bucket.name, scene.bucket.prefix)


def _shipper(scene: Scene, process: Process, index: VersionIndex) -> Shipper:
    return Shipper(
        index,
        _watched(scene),
        depositor=process.depositor,
        ledger=process.ledger,
        writer=process.signer.id,
        random=process.world.random,
        folder=scene.folder,
        keys_max=3,
    )


def _rebuilt(scene: Scene, world: World) -> VersionIndex:
    """By another host, with the repository and a custodian's key."""
    reader = world.process(write=False, identities=[world.identity()])
    reader.ledger.refresh()
    kept = kept_index(reader.catalog, _watched(scene))
    assert kept is not None
    index = open_index(scene.folder / "rebuilt.sqlite")
    load_index(reader.repository, SYSTEM, kept, index, folder=scene.folder)
    return index


@pytest.mark.parametrize("modelled", [{"part_bytes_min": 1, "running": False}], indirect=True)
@pytest.mark.parametrize("seed", [1])
def test_an_index_from_the_repository_answers_as_the_lost_one_did(model_scene: Scene, seed: int) -> None:
    """[scenario 22]"""
    chance = Random(seed)
    world = World()
    process = world.began()
    life = Life(model_scene, chance)
    life.list()
    shipper = _shipper(model_scene, process, model_scene.side.index)
    for _ in range(25):
        life.step()
        if chance.randrange(4) == 0:
            shipper.ship()
    life.follow()
    life.list()
    shipper.ship()
    with closing(_rebuilt(model_scene, world)) as rebuilt:
        options = ScanOptions(multipart_time=MultipartTime.INITIATION)
        again = Scan(model_scene.bucket, rebuilt, options).run()
        assert (again.added, again.gone, again.revived) == (0, 0, 0)
        for name in NAMES:
            key = model_scene.key(name)
            told = [(row.placed, row.gone_by is None) for row in rebuilt.history(key)]
            assert told == [(row.placed, row.gone_by is None) for row in model_scene.side.index.history(key)]
        for moment, _ in life.seen:
            mine = [row.entry for row in rebuilt.as_of(moment)]
            assert mine == [row.entry for row in model_scene.side.index.as_of(moment)]


def test_the_window_of_a_rebuilt_index_is_that_of_the_lost_one(model_scene: Scene) -> None:
    """[scenario 22]"""
    world = World()
    process = world.began()
    model_scene.evidence.put("k", b"1")
    model_scene.scan()
    model_scene.moment()
    model_scene.app.set_versioning("Suspended")
    model_scene.scan()
    model_scene.moment()
    model_scene.app.set_versioning("Enabled")
    model_scene.scan()
    _shipper(model_scene, process, model_scene.side.index).ship()
    now = model_scene.bucket.date()
    with closing(_rebuilt(model_scene, world)) as rebuilt:
        mine = window_of(rebuilt.observations(), now=now, prefix=model_scene.bucket.prefix)
    theirs = window_of(model_scene.side.index.observations(), now=now, prefix=model_scene.bucket.prefix)
    assert mine == theirs
    assert mine.excluded != ()
