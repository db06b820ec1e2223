"""Moments that cannot be restored are refused, with the cause and the nearest ones that can."""

from __future__ import annotations

from tests.integration.scene import Json, Scene, Scenes, instant, until
from tests.integration.test_refusals import stored
from walarchiver.core.moment import CommitTime, format_rfc3339

SECOND_US = 1_000_000


def server_now(scene: Scene) -> CommitTime:
    return CommitTime(
        int(scene.cluster.psql("SELECT (extract(epoch from clock_timestamp()) * 1000000)::bigint"))
    )


def refused(scene: Scene, at: str, code: str, *more: str, exit_status: int = 13) -> Json:
    """`plan` and `restore` both refuse, alike, and change nothing; the plan's document."""
    config = scene.reader()
    before = stored(scene)
    told = scene.call("plan", "--at", at, *more, "--output", "json", config=config)
    assert told.exit_status == exit_status, told.stdout
    assert told.json["code"] == code
    into = scene.stage.folder / "never"
    restore = scene.call(*scene.restore_words(at, into, *more), config=config)
    assert restore.exit_status == exit_status
    assert restore.error["code"] == code
    assert restore.error["message"] == told.json["reason"]
    assert restore.error["hint"] == told.json["next_step"]
    assert not into.exists()
    assert not into.with_name("never.walarchiver").exists()
    assert stored(scene) == before
    assert told.json["stop"] is None
    return told.json


def test_moments_outside_the_window_are_refused_with_the_nearest_inside(scenes: Scenes) -> None:
    scene = scenes.make()
    scene.cluster.psql("CREATE TABLE t AS SELECT 1 AS n")
    early = server_now(scene)
    (backup,) = scene.json("backup")["backups"]
    scene.cluster.psql("CREATE TABLE u AS SELECT 1 AS n")
    scene.archive_all()
    told = scene.restorable()

    before = refused(scene, format_rfc3339(early), "WA-BEFORE-BACKUP")
    assert before["verdict"] == "before_first_backup"
    assert backup["id"] in before["reason"]
    assert before["nearest"]["before"] is None
    after = before["nearest"]["after"]
    assert instant(after) >= early
    assert scene.call("plan", "--at", after, config=scene.reader()).exit_status == 0

    scene.cluster.psql("CREATE TABLE v AS SELECT 1 AS n")  # stays in the unfinished segment
    late = server_now(scene)
    beyond = refused(scene, format_rfc3339(late), "WA-NOT-PROVEN")
    newest = beyond["nearest"]["before"]
    assert beyond["horizon"] == newest
    assert newest in beyond["reason"]
    assert instant(told["latest_restorable"]) <= instant(newest) < late
    assert scene.call("plan", "--at", newest, config=scene.reader()).exit_status == 0
    position = scene.cluster.psql("SELECT pg_current_wal_lsn()")
    for at, code in (
        (f"lsn:{position}", "WA-NOT-PROVEN"),
        ("name:never_made", "WA-UNKNOWN-TARGET"),
        ("xid:4000000000", "WA-UNKNOWN-TARGET"),
    ):
        told = scene.call("plan", "--at", at, "--output", "json", config=scene.reader())
        assert (told.exit_status, told.json["code"]) == (13, code), at
    refused(scene, newest, "WA-BRANCH", "--timeline", "7")
    text = scene.call("plan", "--at", format_rfc3339(late), config=scene.reader()).stdout
    assert "error code WA-NOT-PROVEN" in text
    assert "next step: " in text


def test_seconds_of_an_idle_server_are_restorable(scenes: Scenes) -> None:
    scene = scenes.make()
    scene.json("backup")
    scene.cluster.psql("CREATE TABLE t AS SELECT 1 AS n")
    last = server_now(scene)
    scene.archive_all()
    wanted = CommitTime(server_now(scene) + SECOND_US // 2)  # nothing is committed behind the switch
    at = format_rfc3339(wanted)

    # `plan` on the host that archives has the running server record what it has seen.
    config = scene.reader(socket=f'"{scene.stage.socket}"')

    def proven() -> Json | None:
        told = scene.call("plan", "--at", at, "--output", "json", config=config)
        return told.json if told.exit_status == 0 else None

    plan = until(proven, "an idle moment is proven")
    assert plan is not None
    assert plan["verdict"] == "idle"
    assert plan["undone"]["commits"] == 0
    assert instant(plan["horizon"]) >= wanted > last
    same = scene.json("plan", "--at", at, config=scene.reader())
    assert same["stop"] == plan["stop"]


def test_a_hole_is_named_and_a_later_backup_ends_it(scenes: Scenes) -> None:
    scene = scenes.make()
    scene.json("backup")
    last_good = scene.archive_all()
    inside = scene.restorable()["latest_restorable"]
    scene.cluster.configure({"archive_mode": "off"})
    scene.cluster.restart()
    lost = scene.switch()
    also_lost = scene.switch()
    scene.cluster.configure({"archive_mode": "on"})
    scene.cluster.restart()
    scene.archive_all()
    after = server_now(scene)
    scene.archive_all()

    status = scene.call("status", "--output", "json")
    assert status.exit_status == 3
    (gap,) = status.json["gaps"]
    assert last_good < gap["first"] <= lost
    assert gap["last"] >= also_lost
    refusal = refused(scene, format_rfc3339(after), "WA-GAP", exit_status=14)
    assert refusal["verdict"] == "gap"
    assert gap["first"] in refusal["reason"]
    assert refusal["missing"][0] == gap["first"]
    assert lost in refusal["missing"]
    assert also_lost in refusal["missing"]
    assert instant(inside) <= instant(refusal["nearest"]["before"]) < after
    assert scene.call("plan", "--at", inside, config=scene.reader()).exit_status == 0

    (backup,) = scene.json("backup")["backups"]
    scene.archive_all()
    later = scene.json("plan", "--at", "latest", config=scene.reader())
    assert later["base_backup"]["id"] == backup["id"]
    still = refused(scene, format_rfc3339(after), "WA-GAP", exit_status=14)
    assert instant(still["nearest"]["after"]) > after
    # Nothing is left to do about it: it is told, and degrades nothing any more.
    assert scene.restorable()["gaps"] == [{**gap, "backup_behind": backup["id"]}]
    assert f"base backup {backup['id']} begins behind it" in scene.call("status").stdout
