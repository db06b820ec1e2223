"""`peek` on the oldest and the newest major: exactly the moment, seen by nobody, nothing left afterwards."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from restore.throwawayfolder import MARKER
from tests.integration.scene import PATIENCE_S, Scene, Scenes, until
from tests.integration.test_refusals import stored
from tests.kit.postgres import as_server_user, seldom
from walarchiver.demo.stage import environment

NAME = '"Größe ""x"" \'y\' %s; --"'
"""A table's name as SQL spells it, with everything that quoting has to survive."""


HARMFUL = {
    "listen_addresses": "127.0.0.1",
    "port": "1",
    "shared_preload_libraries": "no_such_library",
    "session_preload_libraries": "no_such_library",
    "synchronous_standby_names": "nobody",
    "unix_socket_group": "no-such-group",
    "shared_buffers": "7TB",
    "primary_conninfo": "host=127.0.0.1 port=1",
}
"""As ALTER SYSTEM would have written it: backed up, never applied to the original here."""


def harmful(scenes: Scenes, major: int) -> Scene:
    """A cluster whose settings would do harm elsewhere, with a backup and rows deleted after it."""
    scene = scenes.make(major)
    sql = scene.cluster.psql
    sql(f"CREATE TABLE {NAME} AS SELECT n, 'r' || n AS text FROM generate_series(1, 1000) n")
    sql("ALTER DATABASE postgres SET default_transaction_read_only = off")
    space = scene.stage.folder / "space"
    space.mkdir()
    sql(f"CREATE TABLESPACE space LOCATION '{as_server_user(scene.cluster, space)}'")
    sql("CREATE TABLE far TABLESPACE space AS SELECT generate_series(1, 10) AS n")
    with (scene.cluster.data_dir / "postgresql.auto.conf").open("a") as auto:
        auto.writelines(f"{name} = '{value}'\n" for name, value in HARMFUL.items())
    scene.json("backup")
    sql(f"DELETE FROM {NAME} WHERE n > 900")
    return scene


def peek_words(scene: Scene, at: str, *more: str) -> list[str]:
    words = ["peek", "--at", at, "--hook", str(scene.stage.hook), "--bin-dir", str(scene.cluster.bin_dir)]
    return [*words, *(["--owner", "nobody"] if os.geteuid() == 0 else []), *more]


def begun(scene: Scene, config: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        scene.stage.command(*words, config=config),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        start_new_session=True,
    )


def place(config: Path) -> Path:
    """Where throwaways of this configuration live."""
    state = config.with_suffix("")
    return state.with_name(f"{state.name}.throwaway") if os.geteuid() == 0 else state / "throwaway"


def servers(root: Path) -> list[int]:
    """Processes that work below `root`."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdecimal() and os.readlink(entry / "cwd").startswith(f"{root}/"):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def nothing_left(root: Path) -> None:
    """Neither a folder nor, once PostgreSQL's processes have followed the first one, a process."""
    assert list(root.iterdir()) == []
    until(lambda: servers(root) == [], "the end of every process")


def listening(pids: list[int]) -> list[str]:
    """TCP ports that these processes listen on."""
    sockets = set()
    for pid in pids:
        with contextlib.suppress(OSError):  # the process, or its file, has just been closed
            for handle in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    sockets.add(os.readlink(handle))
    lines = [
        line.split()
        for name in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]
    ]
    return [words[1] for words in lines if words[3] == "0A" and f"socket:[{words[9]}]" in sockets]


def sleeping(scene: Scene, config: Path, root: Path) -> subprocess.Popen[str]:
    """A peek that is at work; returns once its session is there."""
    program = begun(scene, config, *peek_words(scene, "latest", "-c", "SELECT pg_sleep(600)"))

    def there() -> bool:
        assert program.poll() is None, program.communicate()
        return bool(sessions(program))

    until(there, "a session")
    assert servers(root)
    return program


def sessions(program: subprocess.Popen[str]) -> list[int]:
    """The psql that a peek has started."""
    below = Path(f"/proc/{program.pid}/task/{program.pid}/children").read_text().split()
    return [int(pid) for pid in below if os.path.basename(program_of(int(pid))) == "psql"]


def program_of(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return ""


@pytest.mark.parametrize("major", [*seldom(14), 18])
def test_a_peek_shows_the_moment_touches_nothing_and_leaves_nothing(scenes: Scenes, major: int) -> None:
    scene = harmful(scenes, major)
    xid = scene.cluster.psql(f"TRUNCATE {NAME}; SELECT pg_current_xact_id()")
    scene.archive_all()
    config = scene.reader()
    root = place(config)
    scene.restorable()  # so that the daemon has nothing to record by itself for some minutes
    before = stored(scene)
    archived = scene.counted("archived_count")

    # Of the cluster paused just before that commit nobody could read this table: its lock is held.
    statements = [
        f"SELECT count(*), max(n), min(text) FROM {NAME}",
        "SHOW listen_addresses",
        "SHOW archive_mode",
        "SHOW shared_preload_libraries",
        "SHOW transaction_read_only",
        "SELECT sum(n), (SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE oid > 9999) FROM far",
        "SELECT NULL::int AS nothing, true AS yes, 2.50 AS exact, '{\"a\": [1]}'::jsonb AS inside",
    ]
    words = [word for statement in statements for word in ("-c", statement)]
    first = begun(scene, config, *peek_words(scene, f"before-xid:{xid}", *words), "--output", "json")
    words = ["-c", f"SELECT count(*) FROM {NAME}", "-c", f"DELETE FROM {NAME}"]
    second = begun(scene, config, *peek_words(scene, "latest", *words))
    told, errors = first.communicate(timeout=PATIENCE_S)
    assert first.returncode == 0, errors
    results = json.loads(told)["results"]
    assert [result["rows"] for result in results[:5]] == [
        [[900, 900, "r1"]],
        [[""]],
        [["off"]],
        [[""]],
        [["on"]],
    ]
    ((total, location),) = results[5]["rows"]
    assert total == 55
    assert Path(location).is_relative_to(root)
    assert results[6]["columns"] == ["nothing", "yes", "exact", "inside"]
    assert results[6]["rows"] == [[None, True, "2.50", {"a": [1]}]]
    shown, errors = second.communicate(timeout=PATIENCE_S)
    assert second.returncode == 1, errors
    assert shown.split() == ["count", "-------", "0", "(1", "row)"]
    assert "a whole cluster is restored for this" in errors
    assert "cannot execute DELETE in a read-only transaction" in errors

    nothing_left(root)
    assert stored(scene) == before
    assert scene.counted("archived_count") == archived


def test_what_a_killed_peek_leaves_is_ended_and_removed(scenes: Scenes) -> None:
    scene = harmful(scenes, 18)
    scene.archive_all()
    config = scene.reader()
    root = place(config)
    scene.restorable()
    before = stored(scene)
    program = sleeping(scene, config, root)
    assert listening(servers(root)) == []
    told = scene.json("peek", "--clean", config=config)
    assert told["removed"] == []  # it is at work
    program.send_signal(signal.SIGTERM)
    _out, errors = program.communicate(timeout=PATIENCE_S)
    assert program.returncode == 130, errors
    nothing_left(root)

    program = sleeping(scene, config, root)
    program.kill()
    assert program.wait(PATIENCE_S) == -signal.SIGKILL
    (folder,) = root.iterdir()
    assert (folder / MARKER).exists()
    assert servers(root)
    told = scene.json("peek", "--clean", config=config)
    (removed,) = told["removed"]
    assert removed["folder"] == str(folder)
    assert removed["ended"]
    program.communicate(timeout=PATIENCE_S)  # the psql that outlived it has lost its server
    nothing_left(root)
    assert stored(scene) == before
