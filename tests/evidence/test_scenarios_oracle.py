"""Any history of an application, any moment, and faults on the way: the restored bucket is what the
application remembers of that moment, nothing was removed, and a second run writes nothing.

The oracle knows nothing of listings: it is the application's own notebook. A seed that fails becomes a named
test.
"""

from __future__ import annotations

from random import Random

import pytest

from restore.bucketjournal import Outcome
from restore.core.bucketactions import Undelete
from tests.kit.evidencescene import Scene
from tests.kit.models3 import faults
from walarchiver.core.version import MultipartTime, StoreMs
from walarchiver.errors import StoreUnavailable

NAMES = ("a", "a/b", "a/b c+d", "a-b", "b/ü", "b/𝄞", "c", "d")
FAULTS = (
    faults.Refuse("SlowDown"),
    faults.Refuse("InternalError"),
    faults.Reset(),
    faults.LoseAnswer(),
    faults.RefuseAfter("InternalError"),
    faults.ErrorIn200(),
    faults.ErrorIn200(done=True),
)
OPERATIONS = (
    "CopyObject",
    "DeleteObject",
    "ListObjectVersions",
    "ListObjectsV2",
    "HeadObject",
    "GetBucketVersioning",
)


class Notebook:
    """What the application did, and so what a reader saw at every moment."""

    def __init__(self, scene: Scene, chance: Random) -> None:
        self._scene = scene
        self._chance = chance
        self.now: dict[str, bytes] = {}
        self.pages: list[tuple[StoreMs, dict[str, bytes]]] = []
        self.written: set[tuple[str, str]] = set()

    def live(self, steps: int) -> None:
        """One thing per step, some seconds apart; what was seen is noted in between."""
        for step in range(steps):
            self.do(f"step {step}".encode())
            self.pages.append((self._scene.moment(), dict(self.now)))

    def do(self, content: bytes) -> None:
        app, name = self._scene.app, self._chance.choice(NAMES)
        key = self._scene.key(name)
        what = self._chance.randrange(6)
        if what <= 2:
            self._note(key, app.put(key, content if what else b"same").version_id)
            self.now[name] = content if what else b"same"
        elif what == 3:
            upload = app.start_upload(key)
            app.server.clock.step(seconds=1)
            self._note(key, app.finish_upload(upload, content).version_id)
            self.now[name] = content
        else:
            marker = app.delete(key)
            assert marker is not None
            self._note(key, marker.version_id)
            self.now.pop(name, None)

    def _note(self, key: str, version_id: str) -> None:
        self.written.add((key, version_id))


def _read(scene: Scene) -> dict[str, bytes]:
    found = {name: scene.app.current(scene.key(name)) for name in NAMES}
    return {name: entry.body.content() for name, entry in found.items() if entry is not None}


def _kept(scene: Scene) -> set[tuple[str, str]]:
    return {(key, entry.version_id) for key in map(scene.key, NAMES) for entry in scene.app.history(key)}


def _spoil(scene: Scene, chance: Random) -> None:
    for _ in range(chance.randrange(4)):
        operation = chance.choice(OPERATIONS)
        fault = chance.choice(FAULTS)
        if isinstance(fault, faults.ErrorIn200) and operation != "CopyObject":
            fault = faults.Refuse("SlowDown")
        scene.model.faults.script(fault, operation=operation, after=chance.randrange(3))


SEEDS = [*range(5), *(pytest.param(seed, marks=pytest.mark.nightly) for seed in range(5, 100))]


@pytest.mark.parametrize("modelled", [{"part_bytes_min": 1}], indirect=True)
@pytest.mark.parametrize("seed", SEEDS)
def test_the_restored_bucket_is_what_the_application_remembers(model_scene: Scene, seed: int) -> None:
    """[scenario 1] [scenario 12] [scenario 14]"""
    chance = Random(seed)
    notebook = Notebook(model_scene, chance)
    notebook.live(30)
    moment, remembered = chance.choice(notebook.pages)
    model_scene.scan(multipart_time=MultipartTime.COMPLETION)
    undelete = chance.choice(list(Undelete))
    options = {"delete_newer": True, "undelete": undelete, "accept_uncertain": True}
    _spoil(model_scene, chance)
    plan = model_scene.restores.plan(moment, **options)
    _spoil(model_scene, chance)
    report = model_scene.restores.carry_out(plan, threads=chance.choice((1, 4)))
    model_scene.model.faults.heal()
    assert report.faults == []
    assert _read(model_scene) == remembered
    gone = notebook.written - _kept(model_scene)
    markers = {(action.to, marker.version_id) for _, action in plan.actions() for marker in action.markers}
    assert gone <= markers
    model_scene.model.log.mark()
    again = model_scene.restores.carry_out(model_scene.restores.plan(moment, **options))
    assert model_scene.model.log.writes() == []
    assert again.count(Outcome.DONE) == 0


@pytest.mark.parametrize("modelled", [{"part_bytes_min": 1}], indirect=True)
@pytest.mark.parametrize("seed", SEEDS)
def test_whoever_writes_while_a_restore_runs_loses_no_version(model_scene: Scene, seed: int) -> None:
    """Every version ever written is there afterwards, but for markers that were to be removed."""
    chance = Random(1000 + seed)
    notebook = Notebook(model_scene, chance)
    notebook.live(20)
    moment, _ = chance.choice(notebook.pages)
    plan = model_scene.restores.plan(moment, delete_newer=True, accept_uncertain=True)
    for _ in range(chance.randrange(1, 6)):
        content = f"meanwhile {chance.random()}".encode()
        model_scene.model.faults.script(
            faults.Meanwhile(lambda content=content: notebook.do(content)),
            operation=chance.choice(("CopyObject", "DeleteObject", "ListObjectVersions")),
            after=chance.randrange(4),
        )
    _spoil(model_scene, chance)
    try:
        model_scene.restores.carry_out(plan, threads=1)
    except StoreUnavailable:
        pytest.fail("the faults end before the patience does")
    assert notebook.written <= _kept(model_scene)
