"""Clones, left-over archive settings, and several clusters under one name."""

from __future__ import annotations

import pytest

from tests.integration.scene import Scenes, until
from tests.matrix.hosts import clone_of, rows, say, successor_of


@pytest.mark.parametrize("major", [18])
def test_clones_never_mix_with_what_they_were_copied_from(scenes: Scenes, major: int) -> None:
    scene = scenes.make(major, settings={"wal_keep_size": "1GB"})
    scene.cluster.psql("CREATE TABLE said (text text)")
    scene.json("backup")

    left_over = clone_of(scenes, scene, serve=False)  # archive_command still calls production's daemon
    say(left_over, "left over")
    left_over.switch()
    until(lambda: left_over.counted("failed_count") > 0, "a refusal")
    assert left_over.counted("archived_count") == 0
    left_over.postgresql_logged("does not lie directly in")

    say(scene, "true")
    scene.archive_all()
    left_over.stage.serve()  # and now with a daemon of its own
    command = left_over.stage.archive_settings()["archive_command"]
    left_over.reload({"archive_command": command})
    left_over.logged("WA-DIVERGENCE")
    left_over.postgresql_logged("WA-DIVERGENCE")
    scene.archive_all()
    scene.prove_archived()
    assert scene.counted("failed_count") == 0
    assert rows(scene, "latest", config=scene.reader())[0] == ["true"]


@pytest.mark.parametrize("major", [15])
def test_another_clusters_name_for_the_same_system_is_refused(scenes: Scenes, major: int) -> None:
    scene = scenes.make(major)
    scene.archive_all()
    clone = clone_of(scenes, scene, cluster_name="other")
    clone.switch()
    config = clone.stage.config
    told = clone.call("backup", "--output", "json", config=config)
    assert told.error["code"] == "WA-WRONG-CLUSTER"
    clone.stage.socket.parent.mkdir(mode=0o755)
    scenes.run(clone.stage.command("serve"), clone.stage.log_path)
    until(lambda: clone.counted("failed_count") > 0, "a refusal")
    clone.logged("WA-WRONG-CLUSTER")
    assert clone.counted("archived_count") == 0


@pytest.mark.parametrize("major", [15])
def test_of_several_systems_under_a_name_the_newest_is_meant(scenes: Scenes, major: int) -> None:
    before = scenes.make(major)
    before.cluster.psql("CREATE TABLE said (text text)")
    before.json("backup")
    say(before, "before the upgrade")
    before.archive_all()
    before.stage.stop_server()
    before.cluster.stop()

    after = successor_of(scenes, before, 18)
    after.cluster.psql("CREATE TABLE said (text text)")
    after.json("backup")
    say(after, "after the upgrade")
    after.archive_all()

    config = after.reader()
    old, new = before.open(before.reader()).repository.systems(), after.open(config).system
    (older,) = set(old) - {new}
    assert after.json("plan", "--at", "latest", config=config)["system"] == new
    (newest,) = after.json("backups", config=config)["backups"]
    (oldest,) = after.json("backups", "--system", older, config=config)["backups"]
    assert newest["id"] != oldest["id"]
    assert after.call("status", "--output", "json", config=config).json["system"] == new
    assert after.call("status", "--system", older, "--output", "json", config=config).json["system"] == older
    told = after.call("plan", "--at", oldest["stop_time"], "--output", "json", config=config)
    assert told.exit_status == 13
    (other,) = told.json["other_systems"]
    assert (other["system"], other["major"]) == (older, 15)
    assert other["earliest"] <= oldest["stop_time"] <= other["latest"]
    assert f"add --system {older}" in told.json["next_step"]
    plan = after.json("plan", "--at", oldest["stop_time"], "--system", older, config=config)
    assert plan["system"] == older
    assert rows(after, "latest", config=config)[0] == ["after the upgrade"]
    assert rows(before, "latest", "--system", older, config=config)[0] == ["before the upgrade"]
