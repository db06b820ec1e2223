"""Keys that notifications name, listed by pages of neighbours: no page is taken for more than it shows."""

from __future__ import annotations

import pytest

from tests.kit.evidencescene import Scene
from tests.kit.models3 import faults
from walarchiver.bucketports import FeedMessage
from walarchiver.evidence.events import Follower
from walarchiver.evidence.feeds import FolderFeed


@pytest.fixture
def follower(model_scene: Scene) -> Follower:
    """Six keys, indexed; what happens from now on is in the model's feed."""
    for number in range(6):
        model_scene.app.put(model_scene.key(f"k{number}"))
    model_scene.moment()
    model_scene.scan()
    model_scene.model.feed.take(1000)
    folder = model_scene.folder / "empty"
    folder.mkdir()
    return Follower(model_scene.bucket, model_scene.side.index, FolderFeed(folder))


def _told(scene: Scene) -> tuple[FeedMessage, ...]:
    return tuple(FeedMessage(f"{n}:x", body) for n, body in enumerate(scene.model.feed.bodies()))


def _ids(scene: Scene, name: str) -> list[str]:
    return [row.entry.version_id for row in scene.side.index.history(scene.key(name)) if not row.is_gone]


def test_a_key_with_more_entries_than_a_page_holds_is_whole_in_the_index(
    model_scene: Scene, follower: Follower
) -> None:
    for _ in range(50):
        model_scene.app.put(model_scene.key("k1"))
    model_scene.app.put(model_scene.key("k0"))
    model_scene.moment()
    follower.follow(_told(model_scene))
    everything = [entry.version_id for entry in model_scene.app.history(model_scene.key("k1"))]
    assert sorted(_ids(model_scene, "k1")) == sorted(everything)
    assert len(everything) == 51
    assert follower.followed.gone == 0


def test_a_key_that_a_page_lost_is_listed_alone_before_it_counts_as_removed(
    model_scene: Scene, follower: Follower
) -> None:
    for name in ("k1", "k2", "k3"):
        model_scene.app.put(model_scene.key(name))
    model_scene.moment()
    lost = faults.DropKeys.of(model_scene.key("k2"))
    model_scene.model.faults.script(lost, operation="ListObjectVersions")
    follower.follow(_told(model_scene))
    assert [len(_ids(model_scene, name)) for name in ("k1", "k2", "k3")] == [2, 2, 2]
    assert follower.followed.gone == 0


def test_neighbours_share_a_request_and_an_old_change_asks_for_nothing(
    model_scene: Scene, follower: Follower
) -> None:
    for number in range(6):
        model_scene.app.put(model_scene.key(f"k{number}"))
    model_scene.moment()
    told = _told(model_scene)
    follower.follow(told)
    assert (follower.followed.keys, follower.followed.requests) == (6, 2), "of the last there may be more"
    follower.follow(told)
    assert (follower.followed.keys, follower.followed.requests) == (6, 2)
