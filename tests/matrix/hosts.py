"""More hosts for a scene: streaming standbys and restored copies, each with a daemon of its own.

All archive as the same cluster into the same repository, as after a failover or a restore.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path

import psycopg

from tests.integration.scene import Json, Scene, Scenes, end, until
from tests.kit.postgres import QUICK, as_server_user
from tests.kit.readystage import ReadyStage
from walarchiver.core.moment import CommitTime, format_rfc3339
from walarchiver.demo.stage import Stage, read_root
from walarchiver.embedded.postgres import EmbeddedCluster


def standby_of(scenes: Scenes, scene: Scene, *, archive_mode: str = "on", serve: bool = True) -> Scene:
    """A streaming standby of a scene's server, on a host of its own; it has caught up."""
    stage = _stage(scenes, scene)
    cluster = _cluster(
        scenes,
        scene,
        stage,
        {"archive_mode": archive_mode, "primary_conninfo": scene.cluster.dsn(), "hot_standby": "on"},
    )
    _copy(scenes, scene, cluster)
    as_server_user(cluster, _touched(cluster.data_dir / "standby.signal"))
    return _begun(scenes, Scene(stage, cluster), serve=serve)


def accepted(scenes: Scenes, scene: Scene, told: Json, *, lose: int = 0) -> Scene:
    """A restored instance taken over as production: archiving on, a daemon beside it.

    `lose`: segments that are filled and recycled before archiving is switched on.
    """
    data = Path(told["data_directory"])
    os.kill(told["pid"], signal.SIGINT)
    until(lambda: not (data / "postmaster.pid").exists(), "the end of the restored instance")
    return take_over(scenes, scene, data, lose=lose)


def take_over(scenes: Scenes, scene: Scene, data: Path, *, lose: int = 0) -> Scene:
    """As `accepted`, of a restored data directory that was recovered and ended."""
    auto = data / "postgresql.auto.conf"
    lines = auto.read_text().splitlines()
    lines.remove("archive_mode = 'off'")
    auto.write_text("\n".join(lines) + "\n")
    stage = _stage(scenes, scene)
    more = {"wal_keep_size": "0", "archive_mode": "off"} if lose else {}
    cluster = _cluster(scenes, scene, stage, more, directory=data.parent)
    assert cluster.data_dir == data
    host = _begun(scenes, Scene(stage, cluster), serve=not lose)
    if lose:
        for _ in range(lose):
            host.switch()
        cluster.psql("CHECKPOINT")
        cluster.psql("CHECKPOINT")
        cluster.configure({"archive_mode": "on"})
        cluster.restart()
        stage.serve()
    return host


def successor_of(scenes: Scenes, scene: Scene, major: int) -> Scene:
    """A new cluster (another system identifier) that is archived under the same name."""
    stage = _stage(scenes, scene)
    stage.cluster = scenes.postgres(major, settings=stage.archive_settings(), fresh=True, start=False)
    return _begun(scenes, Scene(stage, stage.cluster), serve=True)


def clone_of(scenes: Scenes, scene: Scene, *, cluster_name: str | None = None, serve: bool = True) -> Scene:
    """A copy of a scene's server that was started as a server of its own, on the same timeline.

    Without a daemon beside it, it keeps the original's archive settings.
    """
    stage = _stage(scenes, scene)
    more = {} if serve else scene.stage.archive_settings()
    cluster = _cluster(scenes, scene, stage, more)
    _copy(scenes, scene, cluster)
    host = _begun(scenes, Scene(stage, cluster), serve=False)
    if cluster_name is not None:
        text = stage.config.read_text()
        stage.config.write_text(text.replace("[cluster.main]", f"[cluster.{cluster_name}]"))
    return host


def place_to_accept(scenes: Scenes) -> Path:
    """Where to restore into, if the instance shall be accepted."""
    return scenes.folder / f"pgr{len(scenes.made)}" / "data"


def promote(scene: Scene) -> int:
    """Promote a standby; its new timeline."""
    scene.cluster.psql("SELECT pg_promote()")
    return int(scene.cluster.psql("SELECT left(pg_walfile_name(pg_current_wal_insert_lsn()), 8)"), 16)


def caught_up(primary: Scene, standby: Scene) -> None:
    """Return once the standby has replayed everything the primary has written."""
    lsn = primary.cluster.psql("SELECT pg_current_wal_insert_lsn()")
    until(
        lambda: standby.cluster.psql(f"SELECT pg_last_wal_replay_lsn() >= '{lsn}'") == "t",
        "a caught-up standby",
    )


def say(scene: Scene, *texts: str) -> str:
    """Insert rows, a transaction each; the LSN behind the last."""
    with psycopg.connect(scene.cluster.dsn(), autocommit=True) as sql:
        for text in texts:
            sql.execute(b"INSERT INTO said VALUES (%s)", (text,))
    return scene.cluster.psql("SELECT pg_current_wal_insert_lsn()")


def now(scene: Scene) -> str:
    """The server's clock, for --at."""
    us = scene.cluster.psql("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint")
    return format_rfc3339(CommitTime(int(us)))


def rows(scene: Scene, at: str, *more: str, config: Path) -> tuple[list[str], Json]:
    """Restore and read; the rows, and what the command told."""
    into = scene.stage.folder / "r"
    told = scene.restore(at, into, *more, config=config)
    try:
        return said(told["dsn"]), told
    finally:
        end(told["pid"], into)
        for folder in (into, into.with_name("r.walarchiver")):
            shutil.rmtree(folder)


def said(dsn: str) -> list[str]:
    with psycopg.connect(dsn) as sql:
        return [row[0] for row in sql.execute(b"SELECT text FROM said ORDER BY ctid")]


def _stage(scenes: Scenes, scene: Scene) -> Stage:
    folder = scenes.folder / f"wa{len(scenes.made)}"
    stage = ReadyStage(folder, scene.stage.url)
    stage.install_hook()
    shutil.copytree(scene.stage.keys, stage.keys)
    return stage


def _cluster(
    scenes: Scenes, scene: Scene, stage: Stage, more: Mapping[str, str], *, directory: Path | None = None
) -> EmbeddedCluster:
    settings = {**QUICK, "wal_keep_size": "1GB", **stage.archive_settings(), **more}
    directory = directory or scenes.folder / f"pgs{len(scenes.made)}"
    stage.cluster = EmbeddedCluster(scene.cluster.major, directory, settings=settings, durable=False)
    return stage.cluster


def _copy(scenes: Scenes, scene: Scene, cluster: EmbeddedCluster) -> None:
    """A base backup of a scene's server, taken with PostgreSQL's own tool."""
    folder = scene.cluster.directory / f"copy{len(scenes.made)}"
    scene.cluster.program(
        "pg_basebackup", "-D", str(folder), "-d", scene.cluster.dsn(), "-X", "stream", "-c", "fast"
    )
    cluster.directory.mkdir()
    shutil.move(folder, cluster.data_dir)


def _begun(scenes: Scenes, host: Scene, *, serve: bool) -> Scene:
    scenes.made.append(host)
    host.cluster.create()
    host.stage.write_config(root=read_root(host.stage.keys))
    host.cluster.start()
    if serve:
        host.stage.serve()
    return host


def _touched(path: Path) -> Path:
    path.touch()
    return path
