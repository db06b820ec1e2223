"""Moments at the edges: a microsecond around a commit, inside a backup, idle, beyond a hole, named twice."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from tests.integration.oracle import SETTINGS, Oracle, read_state
from tests.integration.scene import Json, Scene, Scenes, end, instant, until
from tests.kit.faultproxy import FaultProxy, Hang
from tests.kit.s3 import S3Server
from tests.matrix.hosts import now, rows, said, say
from walarchiver.core.moment import CommitTime, as_datetime, format_rfc3339


@pytest.fixture
def scene(scenes: Scenes, major: int) -> Scene:
    """A table, and a base backup behind it."""
    scene = scenes.make(major, settings={**SETTINGS, "wal_keep_size": "1GB"})
    scene.cluster.psql("CREATE TABLE said (text text)")
    scene.json("backup")
    return scene


def committed(scene: Scene, text: str) -> tuple[int, CommitTime]:
    """Who said it, and when that was committed."""
    us = "(extract(epoch FROM pg_xact_commit_timestamp(xmin)) * 1000000)::bigint"
    xid, time = scene.cluster.psql(f"SELECT xmin, {us} FROM said WHERE text = '{text}'").split("|")
    return int(xid), CommitTime(int(time))


def whole_config(scene: Scene) -> Path:
    """The archiving host's configuration, with a custodian's key."""
    config = scene.stage.folder / "whole.toml"
    key = scene.stage.keys / "custodian-ann.key"
    config.write_text(scene.stage.config.read_text().replace('root = "', f'identity = "{key}"\nroot = "', 1))
    return config


@pytest.mark.parametrize("major", [16])
def test_a_microsecond_decides_in_every_zone(scene: Scene) -> None:
    say(scene, "one", "two", "three")
    (one, _), (two, time), (_, third) = (committed(scene, text) for text in ("one", "two", "three"))
    scene.archive_all()
    config = scene.reader()

    def last_commit(at: str) -> int:
        plan = scene.json("plan", "--at", at, config=config)
        return int(plan["stop"]["xid"])

    assert third - time > 1
    for moment, wanted in ((time, two), (CommitTime(time - 1), one), (CommitTime(time + 1), two)):
        for zone, hours in (("-05:00", -5), ("+05:45", 5.75)):
            local = as_datetime(CommitTime(int(moment + hours * 3600_000_000)))
            assert last_commit(f"{local:%Y-%m-%dT%H:%M:%S.%f}{zone}") == wanted
    assert rows(scene, format_rfc3339(time), config=config)[0] == ["one", "two"]
    assert rows(scene, format_rfc3339(CommitTime(time - 1)), config=config)[0] == ["one"]


@pytest.mark.parametrize("major", [14])
def test_idle_seconds_are_restorable_once_proven_and_refused_before(scene: Scene) -> None:
    say(scene, "last")
    _, committed_at = committed(scene, "last")
    scene.archive_all()
    config, here = scene.reader(), whole_config(scene)
    idle = now(scene)
    assert instant(idle) > committed_at

    def proven() -> Json | None:
        """Each plan made beside the daemon has it record how far the idle server got."""
        plan = scene.call("plan", "--at", idle, "--output", "json", config=here)
        return plan.json if plan.exit_status == 0 else None

    plan = until(proven, "an idle second proven")
    assert plan is not None
    assert plan["verdict"] == "idle"
    assert rows(scene, idle, config=config)[0] == ["last"]

    scene.stage.stop_server()
    later = now(scene)
    told = scene.call("plan", "--at", later, "--output", "json", config=config)
    assert told.exit_status == 13
    assert told.json["verdict"] == "not_proven"
    assert instant(idle) <= instant(told.json["horizon"]) < instant(later)
    assert told.json["horizon"] in told.json["reason"]


@pytest.mark.parametrize("major", [15])
def test_a_moment_inside_a_backup_needs_an_older_one(scenes: Scenes, major: int) -> None:
    scene = scenes.make(major, settings=SETTINGS)
    dsn = scene.cluster.dsn()
    Oracle.make_tables(dsn)
    oracle = Oracle(dsn, seed=1)
    oracle.start()
    try:
        for _ in range(2):
            scene.json("backup")
    finally:
        oracle.stop()
    scene.archive_all()
    config = scene.reader()
    first, second = scene.json("backups")["backups"]

    def inside(backup: Json) -> str:
        start, stop = instant(backup["start_time"]), instant(backup["stop_time"])
        times = sorted(time for time in oracle.times.values() if start < time < stop)
        return format_rfc3339(times[len(times) // 2])

    refused = scene.call("plan", "--at", inside(first), "--output", "json", config=config)
    assert refused.exit_status == 13
    assert refused.json["verdict"] == "before_first_backup"
    at = inside(second)
    plan = scene.json("plan", "--at", at, config=config)
    assert plan["base_backup"]["id"] == first["id"]
    into = scene.stage.folder / "r"
    told = scene.restore(at, into, config=config)
    found = read_state(told["dsn"])
    end(told["pid"], into)
    assert found == oracle.state(oracle.until(instant(at)))


@pytest.mark.parametrize("major", [17])
def test_a_moment_behind_a_hole_is_refused_by_the_segments_name(scene: Scene) -> None:
    say(scene, "before")
    scene.archive_all()
    command = scene.cluster.psql("SHOW archive_command")
    scene.reload({"archive_command": "true"})  # somebody "fixed" archiving
    lost = scene.archive_all()
    scene.reload({"archive_command": command})
    behind = now(scene)
    say(scene, "behind")
    scene.archive_all()
    config = scene.reader()
    into = scene.stage.folder / "r"
    told = scene.call(*scene.restore_words(behind, into), config=config)
    assert (told.exit_status, told.error["code"]) == (14, "WA-GAP")
    assert lost in told.error["message"]
    assert told.json["missing"] == [lost]
    assert not into.exists()
    assert rows(scene, "latest", config=config)[0] == ["before"]


@pytest.mark.parametrize("major", [18])
def test_a_name_used_twice_is_asked_back_and_each_one_can_be_restored(scene: Scene) -> None:
    for text in ("first", "second"):
        say(scene, text)
        scene.cluster.psql("SELECT pg_create_restore_point('twice')")
    say(scene, "after")
    scene.archive_all()
    config = scene.reader()
    told = scene.call("plan", "--at", "name:twice", "--output", "json", config=config)
    assert told.exit_status == 13
    assert told.json["verdict"] == "ambiguous"
    assert told.json["code"] == "WA-SEVERAL-TARGETS"
    points = told.json["candidates"]
    assert [point["name"] for point in points] == ["twice", "twice"]
    found = [rows(scene, f"lsn:{point['lsn']}", config=config)[0] for point in points]
    assert found == [["first"], ["first", "second"]]


@pytest.mark.parametrize("major", [14])  # later ones read far ahead before they let anybody in
def test_a_server_that_is_up_is_not_yet_restored(scenes: Scenes, s3_server: S3Server, major: int) -> None:
    """PostgreSQL answers, and `pg_ctl start` succeeded, while replay still waits for a segment."""
    with FaultProxy(s3_server.endpoint) as proxy:
        scene = scenes.make(major, store="s3", endpoint=proxy.endpoint)
        scene.cluster.psql("CREATE TABLE said (text text)")
        scene.json("backup")
        say(scene, "first")
        scene.archive_all()
        say(scene, "last")
        last = scene.archive_all()
        config = scene.reader()
        into = scene.stage.folder / "r"
        words = scene.restore_words("latest", into, "--start")
        plan = scene.call("plan", "--at", "latest", config=config)
        assert plan.exit_status == 0
        check_unfinished(scenes, scene, proxy, words, into, last, config)


def check_unfinished(
    scenes: Scenes, scene: Scene, proxy: FaultProxy, words: list[str], into: Path, last: str, config: Path
) -> None:
    log = scene.stage.folder / "restore.log"
    program = scenes.run(scene.stage.command(*words, config=config), log)
    until(into.exists, "the end of planning")
    proxy.inject(Hang(), times=None, method="GET", path_contains=last)
    socket = into.with_name("r.walarchiver") / "instance" / "socket"
    dsn = f"host='{socket}' port=5432 user=postgres dbname=postgres"

    def replaying() -> bool:
        try:
            with psycopg.connect(dsn) as sql:
                return sql.execute("SELECT pg_is_in_recovery()").fetchone() == (True,) and said(dsn) == [
                    "first"
                ]
        except psycopg.Error:
            return False

    until(replaying, "a server that lets people in and still replays")
    assert program.poll() is None
    assert "stop_lsn" not in log.read_text()
    proxy.heal()
    until(lambda: program.poll() == 0, "the end of the restore")
    assert "stop_lsn" in log.read_text()
    assert said(dsn) == ["first", "last"]
    end(int((into / "postmaster.pid").read_text().split()[0]), into)
