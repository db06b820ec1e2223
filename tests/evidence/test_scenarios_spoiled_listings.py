"""Listings with holes, lost and repeated pages, early ends, while a bucket is scanned and followed.

Nothing that is there ever counts as removed, and once the store behaves the index is as a fresh one.
"""

from __future__ import annotations

from contextlib import closing, suppress
from random import Random

import pytest

from tests.evidence.test_scenarios_every_moment import NAMES, Life
from tests.kit.evidencescene import Scene
from tests.kit.models3 import faults
from walarchiver.core.version import MultipartTime
from walarchiver.errors import ListingIncomplete, StoreMisbehaves, StoreUnavailable
from walarchiver.evidence.openindex import open_index
from walarchiver.evidence.scanning import Scan, ScanOptions

SEEDS = [*range(4), *(pytest.param(seed, marks=pytest.mark.nightly) for seed in range(4, 80))]


def _spoil(scene: Scene, chance: Random) -> None:
    """One listing of each kind is not whole; were it two of one kind, both could hide the same key."""
    names = [scene.key(name) for name in NAMES]
    for operation in ("ListObjectVersions", "ListObjectsV2"):
        fault = chance.choice(
            [
                faults.DropKeys(frozenset(chance.sample(names, chance.randrange(1, 3)))),
                faults.LosePage(),
                faults.EndEarly(),
                faults.RepeatPage(),
            ]
        )
        scene.model.faults.script(fault, operation=operation, after=chance.randrange(6))


def _wrongly_gone(scene: Scene) -> list[str]:
    """What the index calls removed, and is there."""
    found = []
    for name in NAMES:
        there = {entry.version_id for entry in scene.app.history(scene.key(name))}
        for row in scene.side.index.history(scene.key(name)):
            if row.is_gone and row.entry.version_id in there:
                found.append(f"{name} {row.entry.version_id}")  # noqa: PERF401 - plainer so
    return found


@pytest.mark.parametrize("modelled", [{"part_bytes_min": 1, "running": False}], indirect=True)
@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_that_is_there_counts_as_removed_whatever_listings_say(model_scene: Scene, seed: int) -> None:
    """[scenario 5] [scenario 7]"""
    chance = Random(seed)
    life = Life(model_scene, chance)
    life.list()
    for _ in range(15):
        life.step()
        model_scene.moment()
        _spoil(model_scene, chance)
        with suppress(ListingIncomplete, StoreMisbehaves, StoreUnavailable):
            chance.choice((life.follow, life.list))()
        model_scene.model.faults.heal()
        assert _wrongly_gone(model_scene) == []
    life.follow()
    life.list()
    assert _wrongly_gone(model_scene) == []
    with closing(open_index(model_scene.folder / "fresh.sqlite")) as fresh:
        Scan(model_scene.bucket, fresh, ScanOptions(multipart_time=MultipartTime.INITIATION)).run()
        for name in NAMES:
            key = model_scene.key(name)
            mine = {row.entry for row in model_scene.side.index.history(key) if not row.is_gone}
            assert mine == {row.entry for row in fresh.history(key)}
