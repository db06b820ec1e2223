"""At a fork: what is missing is never replaced by another history, and PostgreSQL's oddities are read."""

from __future__ import annotations

import io
import subprocess
from pathlib import Path

import pytest

from restore.instance import Instance, Outcome
from restore.plainfile import write_plain
from tests.integration.scene import PATIENCE_S, Scene, Scenes, until
from tests.kit.postgres import as_server_user, seldom
from tests.matrix.hosts import caught_up, place_to_accept, promote, rows, say, standby_of, take_over
from walarchiver.clock import SystemClock
from walarchiver.core.segment import Segment
from walarchiver.demo.stage import ask


def failover(scenes: Scenes, major: int) -> tuple[Scene, Scene]:
    """An old and a new primary with a few rows of their own; the old one stored the fork's segment too."""
    old = scenes.make(major, settings={"wal_keep_size": "1GB"})
    old.cluster.psql("CREATE TABLE said (text text)")
    old.json("backup")
    new = standby_of(scenes, old)
    say(old, "both")
    caught_up(old, new)
    promote(new)
    say(old, "old")
    old.archive_all()
    say(new, "new")
    new.archive_all()
    say(new, "newer")
    new.archive_all()
    return old, new


@pytest.mark.parametrize("major", [18, *seldom(15)])
def test_a_hidden_first_segment_of_the_child_stops_recovery_until_it_is_back(
    scenes: Scenes, major: int
) -> None:
    old, new = failover(scenes, major)
    archive = old.open()
    size = archive.segment_size
    (fork,) = archive.catalog.histories()[2].forks
    child = Segment.at(2, fork.switch, size).name(size)
    parent = Segment.at(1, fork.switch, size).name(size)
    assert archive.catalog.file(parent) is not None

    config = new.reader()
    into = new.stage.folder / "r"
    plan = new.call(*new.restore_words("latest", into), config=config).json["plan"]
    (body,) = (old.stage.folder / "repository").rglob(f"{child}.*")
    hidden = old.stage.folder / "hidden"
    body.rename(hidden)  # before the plan has a server, which fetches what comes first at once
    scenes.run(new.stage.command("serve", "--plan", plan, config=config), new.stage.folder / "plan.log")
    socket = into.with_name("r.walarchiver") / "wa.sock"
    until(lambda: ask(socket, "/readyz"), "a server for the plan")

    hook = [str(new.stage.hook), "--socket", str(socket), "fetch", "--plan", plan]
    for name in (child, parent):
        done = subprocess.run([*hook, name, "pg_wal/RECOVERYXLOG"], cwd=into, timeout=PATIENCE_S, check=False)
        assert done.returncode == 200, name
    instance = Instance(new.cluster.bin_dir, into, into.with_name("instance"))
    try:
        stopped = instance.start().watch(SystemClock(), timeout_s=PATIENCE_S)
        assert stopped.outcome is Outcome.STOPPED
        assert (into / "recovery.signal").exists()
        hidden.rename(body)
        reached = instance.start().watch(SystemClock(), timeout_s=PATIENCE_S)
        assert reached.outcome is Outcome.PROMOTED
        assert reached.history is not None
        assert reached.history.parent == 2
    finally:
        instance.kill()


def test_without_its_history_file_a_timeline_is_refused_clearly(scenes: Scenes) -> None:
    old = scenes.make(16, settings={"wal_keep_size": "1GB"})
    old.cluster.psql("CREATE TABLE said (text text)")
    old.json("backup")
    say(old, "both")
    old.archive_all()
    new = standby_of(scenes, old, serve=False)
    promote(new)
    pg_wal = new.cluster.data_dir / "pg_wal"
    for lost in ("00000002.history", "archive_status/00000002.history.ready"):
        (pg_wal / lost).unlink()
    new.stage.serve()
    say(new, "new")
    new.archive_all()

    config = new.reader()
    told = new.call("plan", "--at", "latest", "--output", "json", config=config)
    assert told.exit_status == 14
    assert told.json["reason"].startswith("00000002.history is not archived")
    refused = new.call(*new.restore_words("latest", new.stage.folder / "r"), config=config)
    assert (refused.exit_status, refused.error["code"]) == (14, "WA-GAP")
    assert not (new.stage.folder / "r").exists()
    assert rows(new, "latest", "--timeline", "1", config=config)[0] == ["both"]


@pytest.mark.parametrize("major", [14, *seldom(18)])
def test_a_stop_before_a_fork_along_the_childs_path_gives_a_history_that_is_understood(
    scenes: Scenes, major: int
) -> None:
    """By hand: recovery_target_timeline 2 and a stop before 2 began. PostgreSQL calls 2 the parent of 3."""
    old = scenes.make(major, settings={"wal_keep_size": "1GB"})
    old.cluster.psql("CREATE TABLE said (text text)")
    old.json("backup")
    stop = say(old, "kept")
    say(old, "both")
    old.archive_all()
    old.archive_all()
    new = standby_of(scenes, old)
    promote(new)
    say(new, "new")
    new.archive_all()

    into = place_to_accept(scenes)
    told = new.call(*new.restore_words(f"lsn:{stop}", into), config=new.reader()).json
    instance = recover_along(new, into, timeline=2)
    reached = instance.start().watch(SystemClock(), timeout_s=PATIENCE_S)
    assert reached.outcome is Outcome.PROMOTED
    assert told["data_directory"] == str(into)
    lines = (into / "pg_wal" / "00000003.history").read_text().splitlines()
    parents = [line.split("\t")[:2] for line in lines if line]
    assert [int(parent) for parent, _ in parents] == [1, 2]
    assert parents[1][1] < parents[0][1]  # it left 2 before 2 had left 1
    instance.stop()

    new.stage.stop_server()
    third = take_over(scenes, new, into)
    say(third, "third")
    third.archive_all()
    assert third.restorable()["timeline"] == 3
    assert rows(third, "latest", config=third.reader())[0] == ["kept", "third"]
    third.prove_archived()


def recover_along(scene: Scene, into: Path, *, timeline: int) -> Instance:
    """The restored directory, to be recovered from plain files along another timeline's path."""
    archive = scene.open()
    folder = scene.stage.folder / "plain"
    folder.mkdir()
    for kind in ("wal", "history"):
        for name in archive.catalog.names(kind):
            record = archive.catalog.file(name)
            assert record is not None
            content = io.BytesIO()
            write_plain(archive.repository, archive.system, record, content)
            (folder / name).write_bytes(content.getvalue())
            as_server_user(scene.cluster, folder / name)
    with (into / "postgresql.auto.conf").open("a") as auto:
        auto.write(f'restore_command = \'cp "{folder}/%f" "%p"\'\n')
        auto.write(f"recovery_target_timeline = '{timeline}'\n")
    return Instance(scene.cluster.bin_dir, into, into.with_name("instance"))
