"""`walarchiver check`: every condition can be seen to hold, and to fail."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.contracts.test_policies import granted
from tests.integration.gaps import lose_segment
from tests.integration.scene import Json, Scene, Scenes, Told
from tests.kit.postgres import seldom
from tests.kit.s3 import S3Server


def finding(told: Told, name: str) -> Json:
    """The worst finding of this name."""
    found = [one for one in told.json["findings"] if one["name"] == name]
    assert found, f"no {name} in {told.stdout} {told.stderr}"
    return max(found, key=lambda one: ("ok", "warn", "fail").index(one["level"]))


def with_identity(scene: Scene) -> Path:
    """The archiving host's configuration, with a custodian's key."""
    config = scene.stage.folder / "whole.toml"
    text = scene.stage.config.read_text()
    key = scene.stage.keys / "custodian-ann.key"
    config.write_text(text.replace('root = "', f'identity = "{key}"\nroot = "', 1))
    return config


def check(scene: Scene, *words: str, config: Path | None = None) -> Told:
    return scene.call("check", "--output", "json", *words, config=config)


@pytest.mark.usefixtures("major")
@pytest.mark.parametrize("major", [18, *seldom(15)], indirect=True)
def test_a_segment_forced_by_check_is_durable_and_opens_with_its_digest(scenes: Scenes) -> None:
    scene = scenes.make(archive_timeout_s=60)
    scene.json("backup")
    scene.archive_all()
    scene.restorable()
    told = check(scene, config=with_identity(scene))
    assert told.exit_status == 0, told.stdout
    assert told.json["schema_version"] == 1
    assert told.json["level"] == "ok"
    segment = told.json["segment"]
    assert scene.open().catalog.file(segment) is not None
    for name in ("database", "settings", "hook", "daemon", "repository main", "switch"):
        assert finding(told, name)["level"] == "ok"
    assert "opens with this host's identity" in finding(told, "opened main")["text"]
    assert "in pg_wal" in finding(told, "original main")["text"]
    assert told.json["restorable_age_seconds"] < 600
    keyless = check(scene)
    assert keyless.exit_status == 0
    assert keyless.json["segment"] > segment
    assert "not opened, as no identity" in finding(keyless, "opened main")["text"]
    text = scene.call("check").stdout
    assert re.search(r"^ok +switch +segment 0000", text, re.MULTILINE)
    assert "next:" not in text


def test_nagios_prints_one_line_with_perfdata_and_thresholds_decide(scenes: Scenes) -> None:
    scene = scenes.make(archive_timeout_s=60)
    bad = scene.call("check", "--nagios", "--quiet")
    assert bad.exit_status == 2
    assert "there is no base backup" in bad.stdout
    assert "restorable_age=U;600;3600;0" in bad.stdout
    scene.json("backup")
    scene.archive_all()
    scene.restorable()
    good = scene.call("check", "--nagios")
    assert good.exit_status == 0, good.stdout
    assert good.stdout.startswith("WALARCHIVER OK: latest restorable second ")
    assert good.stdout.count("\n") == 1
    assert good.stdout.count("|") == 1
    assert re.search(r"\| restorable_age=[0-9.]+s;600;3600;0 backup_age=[0-9.]+s;691200;1296000;0 "
                     r"archive_time=[0-9.]+s;;;0\n", good.stdout)  # fmt: skip
    late = scene.call("check", "--nagios", "--backup-warning", "0s")
    assert late.exit_status == 1
    assert late.stdout.startswith("WALARCHIVER WARNING: the newest base backup")
    later = scene.call("check", "--nagios", "--backup-critical", "0s")
    assert later.exit_status == 2
    broken = scene.call("check", "--nagios", config=scene.stage.folder / "none.toml")
    assert broken.exit_status == 2
    assert broken.stdout.startswith("WALARCHIVER CRITICAL: cannot read")


def test_a_stopped_daemon_is_seen_by_hook_daemon_and_segment(scenes: Scenes) -> None:
    scene = scenes.make()
    scene.json("backup")
    scene.archive_all()
    scene.restorable()
    scene.stage.stop_server()
    told = check(scene, "--wait", "1")
    assert told.exit_status == 1
    assert finding(told, "hook")["level"] == "fail"
    assert finding(told, "daemon")["code"] == "WA-SERVER"
    durable = finding(told, "durable main")
    assert durable["level"] == "fail"
    assert "is not in the ledger after 1 s" in durable["text"]
    assert durable["next_step"]


def test_wrong_archive_settings_are_named(scenes: Scenes) -> None:
    scene = scenes.make(settings={"archive_command": "/bin/true"})
    told = check(scene, "--wait", "0")
    assert told.exit_status == 1
    assert "does not call" in finding(told, "settings")["text"]
    assert finding(told, "hook")["level"] == "fail"
    scene.cluster.configure({"archive_mode": "off"})
    scene.cluster.restart()
    told = check(scene, "--wait", "0")
    faults = [one["text"] for one in told.json["findings"] if one["name"] == "settings"]
    assert any("archive_mode is off" in text for text in faults)


def test_a_gap_decides_the_exit_status(scenes: Scenes) -> None:
    scene = scenes.make(archive_timeout_s=60)
    scene.json("backup")
    scene.archive_all()
    lost = lose_segment(scene)
    told = check(scene)
    assert told.exit_status == 14
    assert lost in finding(told, "gap main")["text"]
    scene.json("backup")
    scene.archive_all()
    scene.restorable()
    told = check(scene)
    assert told.exit_status == 0, told.stdout
    assert lost in finding(told, "gap main")["text"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can call the hook as another user")
def test_a_socket_that_the_servers_user_cannot_reach_is_noticed(scenes: Scenes) -> None:
    scene = scenes.make()
    scene.stage.socket.parent.chmod(0o700)
    told = check(scene, "--wait", "0")
    hook = finding(told, "hook")
    assert hook["level"] == "fail"
    assert "called as nobody" in hook["text"]
    assert finding(told, "daemon")["level"] == "ok"


def test_the_rights_of_a_writer_are_enough_for_check(scenes: Scenes, s3_server: S3Server) -> None:
    scene = scenes.make(store="s3", archive_timeout_s=60)
    scene.json("backup")
    scene.restorable()
    bucket, _, prefix = scene.stage.url.removeprefix("s3://").partition("/")
    client = s3_server.raw_client()
    client.put_bucket_policy(Bucket=bucket, Policy=granted("writer", bucket, prefix))
    config = scene.stage.folder / "writer.toml"
    stranger = str(s3_server.seaweed.stranger_credentials_file)
    config.write_text(scene.stage.config.read_text().replace(str(scene.stage.credentials_file), stranger))
    try:
        told = check(scene, config=config)
    finally:
        client.delete_bucket_policy(Bucket=bucket)
    assert told.exit_status == 0, told.stdout
    assert "was not read back" in finding(told, "opened main")["text"]
    assert finding(told, "durable main")["level"] == "ok"
