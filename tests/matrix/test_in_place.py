"""A restored cluster becomes production and goes on archiving, more than once."""

from __future__ import annotations

import pytest

from tests.integration.scene import Scene, Scenes, until
from tests.kit.postgres import seldom
from tests.matrix.hosts import accepted, now, place_to_accept, rows, say
from walarchiver.core.segment import Segment
from walarchiver.format.records import GapRecord


def recorded(scene: Scene, name: str) -> bool:
    return scene.open().catalog.file(name) is not None


def succeed(scenes: Scenes, scene: Scene, at: str, *, lose: int = 0) -> Scene:
    """Restore, take the copy over, end the one before."""
    told = scene.restore(at, place_to_accept(scenes), config=scene.reader())
    scene.stage.stop_server()
    scene.cluster.kill()
    return accepted(scenes, scene, told, lose=lose)


@pytest.mark.parametrize("major", [16])
def test_restores_over_two_accepted_restores_are_exact(scenes: Scenes, major: int) -> None:
    first = scenes.make(major)
    first.cluster.psql("CREATE TABLE said (text text)")
    first.json("backup")
    say(first, "one")
    moment = now(first)
    say(first, "undone")
    first.archive_all()

    second = succeed(scenes, first, moment)
    until(lambda: recorded(second, "00000002.history"), "the history of timeline 2")
    say(second, "two")
    middle = now(second)
    say(second, "later two")
    second.archive_all()

    third = succeed(scenes, second, "latest")
    until(lambda: recorded(third, "00000003.history"), "the history of timeline 3")
    say(third, "three")
    third.archive_all()
    assert third.restorable()["problems"] == []  # nothing was lost, no base backup is needed

    config = third.reader()
    wanted = {
        "latest": ["one", "two", "later two", "three"],
        middle: ["one", "two"],
        moment: ["one"],
    }
    for at, expected in wanted.items():
        assert rows(third, at, config=config)[0] == expected, at
    assert rows(third, "latest", "--timeline", "1", config=config)[0] == ["one", "undone"]


@pytest.mark.parametrize("major", [18, *seldom(15)])
def test_what_was_written_before_archiving_went_on_is_a_gap_that_is_told(scenes: Scenes, major: int) -> None:
    first = scenes.make(major)
    first.cluster.psql("CREATE TABLE said (text text)")
    first.json("backup")
    say(first, "one")
    first.archive_all()
    second = succeed(scenes, first, "latest", lose=3)

    def told_gaps() -> list[GapRecord]:
        return second.open().catalog.gaps()

    (gap,) = until(told_gaps, "a gap record")
    archive = second.open()
    (fork,) = archive.catalog.histories()[2].forks
    assert gap.first == Segment.at(2, fork.switch, archive.segment_size).name(archive.segment_size)
    status = second.call("status", "--output", "json")
    assert status.exit_status == 3
    (problem,) = [each for each in status.json["problems"] if "run `walarchiver backup` now" in each]
    say(second, "two")
    second.archive_all()
    config = second.reader()
    plan = second.call("plan", "--at", "latest", "--output", "json", config=config)
    assert plan.json["stop"]["timeline"] == 1  # so far "latest" is what was archived before the gap
    second.logged("gap: take a base backup")

    second.json("backup")
    say(second, "three")
    second.archive_all()
    assert problem not in second.call("status", "--output", "json").json["problems"]
    assert rows(second, "latest", config=config)[0] == ["one", "two", "three"]
    second.stage.stop_server()
    second.stage.serve()
    assert len(told_gaps()) == 1
