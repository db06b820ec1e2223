"""A backlog of a real PostgreSQL is archived ahead of its asking; nothing of that is an acknowledgement."""

from __future__ import annotations

from tests.integration.scene import Scene, Scenes, until
from tests.kit.faultproxy import FaultProxy, s3_error
from tests.kit.s3 import S3Server

FILES = 30
AHEAD = 12
"""The window of a server with two workers."""


def pile_up(scene: Scene) -> list[str]:
    """Segments that PostgreSQL has marked ready and cannot archive."""
    command(scene, "false")
    for _ in range(FILES):
        scene.switch()
    return scene.status_files(".ready")


def command(scene: Scene, text: str) -> None:
    """Have PostgreSQL archive by another command."""
    scene.cluster.configure({"archive_command": text})
    scene.cluster.reload()
    until(lambda: scene.cluster.psql("SHOW archive_command") == text, "archive_command in force")


def hook(scene: Scene) -> str:
    return scene.stage.archive_settings()["archive_command"]


def in_ledger(scene: Scene) -> set[str]:
    return set(scene.open().catalog.names("wal"))


def prove_all(scene: Scene, names: list[str]) -> None:
    """PostgreSQL was told that all these files are archived, and they are."""
    scene.archive_all()
    assert set(names) <= set(scene.status_files(".done"))
    assert scene.prove_archived() > len(names)
    (_one_run,) = scene.open().catalog.runs()
    log = scene.stage.log_path.read_text()
    assert "unforeseen" not in log
    assert "WA-DIVERGENCE" not in log


def test_what_is_archived_ahead_is_not_acknowledged_and_outlives_a_crash(scenes: Scenes) -> None:
    """The command lets one call through: what else is archived, was not asked for."""
    scene = scenes.make(settings={"wal_keep_size": "1GB"})
    names = pile_up(scene)
    assert len(names) == FILES
    command(scene, f"case %f in {names[0]}) {hook(scene)};; *) exit 1;; esac")
    until(lambda: set(names[: AHEAD + 1]) <= in_ledger(scene), "a window of files in the ledger")
    failed = scene.counted("failed_count")
    until(lambda: scene.counted("failed_count") > failed, "PostgreSQL asks for the second")
    assert in_ledger(scene).isdisjoint(names[AHEAD + 1 :]), "no more than a window ahead of the asking"
    assert set(names[1:]) <= set(scene.status_files(".ready")), "acknowledged without a call"
    scene.stage.stop_server(kill=True)
    scene.stage.serve()
    command(scene, hook(scene))
    prove_all(scene, names)


def test_a_server_that_is_told_to_stop_in_a_backlog_loses_nothing(scenes: Scenes) -> None:
    scene = scenes.make(settings={"wal_keep_size": "1GB"})
    names = pile_up(scene)
    count = scene.counted("archived_count")
    command(scene, hook(scene))
    until(lambda: scene.counted("archived_count") > count, "the first of them archived")
    assert scene.stage.stop_server() == 0
    scene.stage.serve()
    prove_all(scene, names)


def test_an_outage_while_files_are_archived_ahead_loses_nothing(scenes: Scenes, s3_server: S3Server) -> None:
    with FaultProxy(s3_server.endpoint) as proxy:
        scene = scenes.make(
            store="s3",
            endpoint=proxy.endpoint,
            server={"push_deadline": '"1s"'},
            settings={"wal_keep_size": "1GB"},
        )
        names = pile_up(scene)
        proxy.inject(s3_error(503, "SlowDown"), times=None)
        failed = scene.counted("failed_count")
        command(scene, hook(scene))
        until(lambda: scene.counted("failed_count") > failed + 1, "calls that fail")
        assert set(names) <= set(scene.status_files(".ready"))
        proxy.heal()
        prove_all(scene, names)
