"""`restore` from an empty machine: by hand with the printed commands, and its refusals."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

from restore.unpack import MARKER
from tests.integration.scene import PATIENCE_S, Scene, Scenes, Told, end, until
from tests.integration.test_refusals import stored
from tests.kit.postgres import as_server_user
from tests.kit.smalldisk import small_disk
from walarchiver.demo.stage import ask, environment, read_root


def paste(command: str) -> None:
    """Run a printed line as it stands, in a shell without our environment."""
    done = subprocess.run(
        ["/bin/sh", "-c", command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd=Path.home(),
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_printed_commands_lead_to_the_planned_moment(scenes: Scenes) -> None:
    scene = scenes.make(store="s3")
    place = as_server_user(scene.cluster, made(scene.stage.folder / "space"))
    scene.cluster.psql(f"CREATE TABLESPACE elsewhere LOCATION '{place}'")
    scene.cluster.psql("CREATE TABLE far TABLESPACE elsewhere AS SELECT generate_series(1, 1000) AS n")
    scene.json("backup")
    scene.cluster.psql("INSERT INTO far VALUES (1001)")
    xid = scene.cluster.psql("WITH gone AS (DELETE FROM far) SELECT pg_current_xact_id()")
    scene.archive_all()
    oid = scene.cluster.psql("SELECT oid FROM pg_tablespace WHERE spcname = 'elsewhere'")
    scene.cluster.kill()
    scene.stage.stop_server(kill=True)

    into, space = scene.stage.folder / "restored", scene.stage.folder / "new-space"
    config = scene.reader()
    words = scene.restore_words(f"before-xid:{xid}", into, "--tablespace", f"{oid}={space}")
    told = scene.call(*words, config=config)
    assert told.exit_status == 0, told.stderr
    serve, start = told.json["commands"]
    assert (into / "pg_tblspc" / oid).readlink() == space
    go_on_by_hand(scenes, scene, into, serve, start)

    # Ctrl-C while PostgreSQL replays: nothing is lost, and the message has the lines to go on or undo.
    again, gate = (
        scene.stage.folder / "again",
        as_server_user(scene.cluster, made(scene.stage.folder / "gate")),
    )
    hook = scene.stage.hook.with_name("held-hook")
    hook.write_text(
        f'#!/bin/sh\ncd "{gate}" || exit 200\n[ $# -lt 3 ] || : >asked\n'
        "while [ -e asked ] && ! [ -e open ]; do sleep 0.1; done\n"
        f'cd "$OLDPWD" || exit 200\nexec "{scene.stage.hook}" "$@"\n'
    )
    hook.chmod(0o755)
    words = [str(hook) if word == str(scene.stage.hook) else word for word in words]
    words[words.index(str(into))] = str(again)
    words[words.index(f"{oid}={space}")] = f"{oid}={space}2"
    with (scene.stage.folder / "interrupted.log").open("w+") as log:
        restore = subprocess.Popen(
            scene.stage.command(*words, "--start", config=config),
            stdout=subprocess.DEVNULL,
            stderr=log,
            env=environment(),
        )
        until((gate / "asked").exists, "PostgreSQL asks for its first WAL file")
        restore.send_signal(signal.SIGINT)
        (gate / "open").touch()
        assert restore.wait(PATIENCE_S) == 130
        log.seek(0)
        error = Told(130, "", log.read()).error
    assert error["code"] == "WA-INTERRUPTED"
    assert not (again / "postmaster.pid").exists()
    _to_go_on, serve, start, undo = error["hint"].splitlines()
    go_on_by_hand(scenes, scene, again, serve.strip().removesuffix(" &"), start)
    paste(undo.partition(": ")[2].partition(" (and")[0])
    assert not again.exists()
    assert not again.with_name("again.walarchiver").exists()
    assert into.exists()


def go_on_by_hand(scenes: Scenes, scene: Scene, into: Path, serve: str, start: str) -> None:
    """Run the printed lines; the cluster is that of the moment. Ends what it starts."""
    server = scenes.run(["/bin/sh", "-c", f"exec {serve}"], scene.stage.folder / "plan.log")
    socket = into.with_name(f"{into.name}.walarchiver") / "wa.sock"
    until(lambda: ask(socket, "/readyz"), "the plan's server")
    paste(start)
    pid = int((into / "postmaster.pid").read_text().split()[0])
    try:
        until(lambda: scene.cluster.psql("SELECT pg_is_in_recovery()") == "f", "promotion")
        assert scene.cluster.psql("SELECT count(*), max(n) FROM far") == "1001|1001"
        assert scene.cluster.psql("SHOW archive_mode") == "off"
        assert scene.cluster.psql("SHOW data_directory") == str(into)
        assert scene.cluster.psql("SELECT timeline_id FROM pg_control_checkpoint()") == "2"
    finally:
        end(pid, into)
    assert server.wait(PATIENCE_S) == 0, "it ends by itself once it has seen the promotion"


def made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_restore_refuses_before_it_writes(scenes: Scenes) -> None:
    scene = scenes.make()
    scene.json("backup")
    scene.archive_all()
    config, into = scene.reader(), made(scene.stage.folder / "taken")
    (into / "precious").write_text("keep me")
    told = scene.call(*scene.restore_words("latest", into), config=config)
    assert told.exit_status == 2
    assert told.error["code"] == "WA-TARGET-DIR"
    assert [path.name for path in into.iterdir()] == ["precious"]
    assert (into / "precious").read_text() == "keep me"
    assert not into.with_name("taken.walarchiver").exists()
    (into / "precious").rename(scene.stage.folder / "precious")
    (into / "postmaster.pid").write_text("1\n")
    for place in (scene.cluster.data_dir, into):  # one that runs, one that crashed
        told = scene.call(*scene.restore_words("latest", place), config=config)
        assert told.exit_status == 2
        assert told.error["code"] == "WA-TARGET-SERVER"
    assert [path.name for path in into.iterdir()] == ["postmaster.pid"]
    assert scene.cluster.psql("SELECT 1") == "1"

    before = stored(scene)
    with small_disk(scene.stage.folder / "small", 12 << 20) as disk:
        cramped = disk / "r"
        told = scene.call(*scene.restore_words("latest", cramped), config=config)
        assert told.exit_status == 1
        assert told.error["code"] == "WA-RESTORE-DISK"
        assert "--no-space-check" in told.error["hint"]
        assert list(disk.iterdir()) == []
        told = scene.call(
            *scene.restore_words("latest", cramped, "--no-space-check", "--start"), config=config
        )
        assert told.exit_status == 1
        assert told.error["code"] == "WA-RESTORE-DISK"
        assert "No space left on device" in told.error["message"]
        assert f"{cramped} is unfinished" in told.error["hint"]
        assert "log" not in told.error["hint"]
        assert (cramped / MARKER).exists()
        assert not (cramped / "global" / "pg_control").exists()
        told = scene.call(*scene.restore_words("latest", cramped), config=config)
        assert told.error["code"] == "WA-TARGET-DIR"
        assert "interrupted restore" in told.error["message"]
    assert stored(scene) == before

    dry = scene.stage.folder / "dry"
    told = scene.call(*scene.restore_words("latest", dry, "--dry-run"), config=config)
    assert told.exit_status == 0
    assert told.json["verdict"] == "reachable"
    assert told.json["duration"]["parts"].keys() == {"files", "wal_fetch", "replay"}
    assert not dry.exists()

    nowhere = made(scene.stage.folder / "nothing-here")
    text = config.read_text()
    empty = scene.stage.folder / "empty.toml"
    empty.write_text(text.replace(f"{scene.stage.folder}/repository", str(nowhere)))
    for command in ("status", "backups"):
        assert scene.call(command, config=empty).exit_status == 10
    told = scene.call(*scene.restore_words("latest", dry), config=empty)
    assert told.exit_status == 10
    assert told.error["code"] == "WA-NO-REPOSITORY"
    assert list(nowhere.iterdir()) == []


def test_a_key_that_opens_nothing_is_told_apart_from_damage(scenes: Scenes) -> None:
    scene = scenes.make()
    scene.json("backup")
    scene.archive_all()
    other = scene.stage.folder / "other-keys"
    elsewhere = scene.stage.folder / "elsewhere.toml"
    made(scene.stage.folder / "elsewhere")
    config = scene.reader()
    mine = str(scene.stage.keys / "custodian-ann.key")
    elsewhere.write_text(
        config.read_text()
        .replace(f"{scene.stage.folder}/repository", str(scene.stage.folder / "elsewhere"))
        .replace(f'identity = "{mine}"\n', "")
    )
    assert (
        scene.call(
            "keys", "init", "--out", str(other), "--custodian", "ann", "--custodian", "x", config=elsewhere
        )
    ).exit_status == 0
    wrong = scene.stage.folder / "wrong.toml"
    root = read_root(scene.stage.keys)
    text = config.read_text().replace(mine, str(other / "custodian-ann.key"))
    into = scene.stage.folder / "r"
    wrong.write_text(text.replace("[repository.main]\n", f'[repository.main]\nroot = "{root}"\n'))
    told = scene.call(*scene.restore_words("latest", into), config=wrong)
    assert told.exit_status == 12
    assert told.error["code"] == "WA-KEY"
    assert not into.exists()
    identity = f'identity = "{other / "custodian-ann.key"}"\n'
    for missing in ("", identity.replace("ann", "nobody")):
        none = scene.stage.folder / "none.toml"
        none.write_text(wrong.read_text().replace(identity, missing))
        told = scene.call(*scene.restore_words("latest", into), config=none)
        assert told.exit_status == 12
        assert told.error["code"] == "WA-KEY-MISSING"
        assert not into.exists()
    wrong.write_text(text)  # the other repository's root comes with its key
    assert scene.call(*scene.restore_words("latest", into), config=wrong).exit_status == 15
    assert not into.exists()


def test_any_other_custodian_restores_everything_too(scenes: Scenes) -> None:
    scene = scenes.make()
    scene.cluster.psql("CREATE TABLE t AS SELECT generate_series(1, 10) AS n")
    scene.json("backup")
    scene.cluster.psql("INSERT INTO t VALUES (11)")
    scene.archive_all()
    scene.close()
    into = scene.stage.folder / "r"
    config = scene.reader(custodian="bob")
    before = scene.json("plan", "--at", "latest", config=config)["duration"]["parts"]
    assert {part["measured"] for part in before.values()} == {None}
    told = scene.restore("latest", into, config=config)
    after = scene.json("plan", "--at", "latest", config=config)["duration"]["parts"]
    assert after["files"]["measured"]["bytes"] == after["files"]["bytes"] == before["files"]["bytes"]
    assert all(part["measured"] for part in after.values()), "a restore was measured here"
    try:
        psql = [str(scene.cluster.bin_dir / "psql"), "-XAt", told["dsn"], "-c", "SELECT count(*) FROM t"]
        shown = subprocess.run(psql, capture_output=True, text=True, env=environment(), check=True).stdout
        assert shown.strip() == "11"
    finally:
        end(told["pid"], into)
    assert os.path.exists(into)
