"""Recoveries of real servers with WAL fetched ahead: killed in the middle, behind a fork, on a standby."""

from __future__ import annotations

import shlex
import socket
from pathlib import Path

from restore.prefetch import FOLDER_PREFIX
from tests.integration.scene import Scene, Scenes, end, until
from tests.integration.test_restore_command import made
from tests.kit.postgres import as_server_user
from tests.matrix.hosts import caught_up, promote, say, standby_of
from walarchiver.demo.stage import ask

AHEAD = 'walarchiver_prefetches_total{cluster="main",outcome="used"}'


def used(server: Path) -> int:
    """How many files were ready when PostgreSQL asked for them."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(20)
        connection.connect(str(server))
        connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
        with connection.makefile("r", encoding="utf-8") as answer:
            found = [line for line in answer if line.startswith(AHEAD)]
    return int(float(found[0].split()[-1])) if found else 0


def in_spool(spool: Path) -> list[Path]:
    return [path for path in spool.rglob("*") if path.is_file()]


def filled(scene: Scene, segments: int) -> None:
    """So many segments with a row each, archived."""
    for number in range(segments - 1):
        say(scene, f"row {number}")
        scene.switch()
    say(scene, "the last row")
    scene.archive_all()


def held_hook(scene: Scene, gate: Path, name: str) -> Path:
    """A launcher that stops at one file until the gate is open."""
    hook = scene.stage.hook.with_name("gated-hook")
    hook.write_text(
        f'#!/bin/sh\ncase "$*" in *" {name} "*)\n  : >"{gate}/asked"\n'
        f'  while ! [ -e "{gate}/open" ]; do sleep 0.05; done ;;\nesac\n'
        f'exec "{scene.stage.hook}" "$@"\n'
    )
    hook.chmod(0o755)
    return hook


def test_a_plans_server_killed_in_the_middle_goes_on_and_ends_by_itself_after_promotion(
    scenes: Scenes,
) -> None:
    scene = scenes.make(18)
    scene.cluster.psql("CREATE TABLE said (text text)")
    scene.json("backup")
    first = int(scene.cluster.psql("SELECT pg_walfile_name(pg_current_wal_lsn())")[16:], 16)
    filled(scene, 7)
    scene.cluster.kill()
    scene.stage.stop_server(kill=True)
    gate = as_server_user(scene.cluster, made(scene.stage.folder / "gate"))
    hook = held_hook(scene, gate, f"0000000100000000{first + 2:08X}")
    into, config = scene.stage.folder / "r", scene.reader()
    words = scene.restore_words("latest", into)
    words[words.index(str(scene.stage.hook))] = str(hook)
    told = scene.call(*words, config=config)
    assert told.exit_status == 0, told.stderr
    serve, start = told.json["commands"]
    place = into.with_name("r.walarchiver")
    asked, spool = place / "wa.sock", place / "spool"

    killed = scenes.run(shlex.split(serve), scene.stage.folder / "plan1.log")
    until(lambda: ask(asked, "/readyz"), "the plan's server")
    starting = scenes.run(["/bin/sh", "-c", start], scene.stage.folder / "start.log")
    until((gate / "asked").exists, "PostgreSQL asks for the segment at the gate")
    until(lambda: in_spool(spool), "something fetched ahead")
    killed.kill()
    killed.wait(20)
    (left,) = spool.glob(f"{FOLDER_PREFIX}*")  # kill -9 cleans nothing up
    server = scenes.run(shlex.split(serve), scene.stage.folder / "plan2.log")
    until(lambda: ask(asked, "/readyz"), "the plan's next server")
    assert not left.exists()
    assert used(asked) == 0
    (gate / "open").touch()
    assert starting.wait(60) == 0
    pid = int((into / "postmaster.pid").read_text().split()[0])
    try:
        until(lambda: scene.cluster.psql("SELECT pg_is_in_recovery()") == "f", "promotion")
        assert scene.cluster.psql("SELECT count(*), max(text) FROM said") == "7|the last row"
        assert server.wait(20) == 0, "nobody ends it"
        assert "recovery is over" in (scene.stage.folder / "plan2.log").read_text()
        assert list(spool.iterdir()) == []
        assert not list((into / "pg_wal").glob(".walarchiver*"))
    finally:
        end(pid, into)


def test_a_standby_catches_up_from_what_was_fetched_ahead_and_streams_on(scenes: Scenes) -> None:
    old = scenes.make(18, settings={"wal_keep_size": "1GB"})
    old.cluster.psql("CREATE TABLE said (text text)")
    new = standby_of(scenes, old, serve=False)
    new.cluster.stop()
    filled(old, 6)
    config = new.stage.config
    identity = f'identity = "{old.stage.keys / "custodian-ann.key"}"'
    config.write_text(config.read_text().replace("[repository.main]\n", f"[repository.main]\n{identity}\n"))
    new.stage.serve()
    fetch = f'"{new.stage.hook}" --socket "{new.stage.socket}" fetch %f %p'
    new.cluster.configure({"restore_command": fetch})
    new.cluster.start()
    caught_up(old, new)
    until(lambda: used(new.stage.socket) >= 3, "files were ready when they were asked for")
    say(old, "streamed")
    caught_up(old, new)
    assert new.cluster.psql("SELECT count(*) FROM said WHERE text = 'streamed'") == "1"
    spool = new.cluster.data_dir.with_name("data.walarchiver-spool")
    assert spool.is_dir()
    until(lambda: not in_spool(spool), "nothing ahead of what was asked for last")
    assert not list((new.cluster.data_dir / "pg_wal").glob(".walarchiver*"))
    assert promote(new) == 2
