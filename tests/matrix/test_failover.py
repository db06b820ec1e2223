"""A streaming standby is promoted, the old primary writes on: each timeline gives its own rows."""

from __future__ import annotations

import pytest

from tests.integration.scene import Scene, Scenes, until
from tests.kit.postgres import seldom
from tests.matrix.hosts import caught_up, now, promote, rows, say, standby_of
from walarchiver.core.segment import Segment

MAJORS = (*seldom(14), 17)


@pytest.fixture(params=MAJORS, ids=lambda major: f"pg{major}")
def major(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def test_after_a_failover_each_timeline_gives_its_own_rows(scenes: Scenes, major: int) -> None:
    old = scenes.make(major, settings={"wal_keep_size": "1GB"})
    old.cluster.psql("CREATE TABLE said (text text)")
    new = standby_of(scenes, old, archive_mode="always" if major == 17 else "on")
    old.json("backup")
    before_fork = say(old, "both 1")
    old.archive_all()
    say(old, "both 2")
    caught_up(old, new)
    assert promote(new) == 2
    say(old, "old 1")
    say(new, "new 1")
    old.archive_all()
    moment = now(new)
    say(new, "new 2")
    new.archive_all()
    say(old, "old 2")
    old.archive_all()
    until(lambda: not new.waiting(), "everything of the new primary archived")
    check_archive(old)
    new.prove_archived()
    old.prove_archived()

    config = old.reader()
    both = ["both 1", "both 2"]
    found, told = rows(new, "latest", config=config)
    assert found == [*both, "new 1", "new 2"]
    assert told["timeline"] == 3
    assert rows(new, moment, config=config)[0] == [*both, "new 1"]
    assert rows(new, moment, "--timeline", "1", config=config)[0] == [*both, "old 1"]
    plan = old.json("plan", "--at", f"lsn:{before_fork}", "--timeline", "2", config=config)
    assert plan["timeline"]["target"] == 1  # the same state, and no claim to descend from 2
    assert rows(old, f"lsn:{before_fork}", config=config)[0] == ["both 1"]


def check_archive(scene: Scene) -> None:
    """What a promotion leaves: the history, the unfinished segment by its own name, the child's copy."""
    archive = scene.open()
    size, catalog = archive.segment_size, archive.catalog
    (fork,) = catalog.histories()[2].forks
    unfinished = Segment.at(1, fork.switch, size)
    assert catalog.file("00000002.history") is not None
    assert catalog.file(f"{unfinished.name(size)}.partial") is not None
    assert catalog.has_segment(2, unfinished.number)
    assert catalog.has_segment(1, unfinished.number)  # the old primary completed it on its own
