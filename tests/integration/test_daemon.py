"""The daemon's life: it drains on SIGTERM, and two of them never share a socket."""

from __future__ import annotations

import threading

import pytest

from tests.integration.scene import PATIENCE_S, Scenes, until
from tests.kit.faultproxy import FaultProxy, Hang
from tests.kit.s3 import S3Server
from walarchiver.assembly import Host
from walarchiver.demo.stage import read_root
from walarchiver.errors import WalarchiverError
from walarchiver.service import Service
from walarchiver.settings import load_settings


def test_sigterm_under_load_drains_and_acknowledges_nothing_by_half(scenes: Scenes) -> None:
    scene = scenes.make(store="s3", settings={"wal_keep_size": "2GB"})
    dsn = scene.cluster.dsn()
    scene.cluster.program("pgbench", "-i", "-q", "-I", "dtGp", "-s", "1", "-d", dsn)
    halt = threading.Event()

    def load() -> None:
        while not halt.is_set():
            scene.cluster.psql("SELECT pg_logical_emit_message(false, 'load', repeat('x', 900000))")

    bench = threading.Thread(target=load)
    bench.start()
    try:
        for _ in range(2):
            count = scene.counted("archived_count")
            until(lambda: scene.counted("archived_count") > count + 2, "segments under way")  # noqa: B023
            assert scene.stage.stop_server() == 0
            scene.stage.serve()
    finally:
        halt.set()
        bench.join()
    scene.archive_all()
    scene.prove_archived()
    assert "unforeseen" not in scene.stage.log_path.read_text()
    (_one_run,) = scene.open().catalog.runs()


def test_sigterm_ends_a_server_whose_store_does_not_answer(scenes: Scenes, s3_server: S3Server) -> None:
    with FaultProxy(s3_server.endpoint) as proxy:
        scene = scenes.make(store="s3", endpoint=proxy.endpoint, server={"drain": '"1s"'})
        scene.archive_all()
        proxy.inject(Hang(), times=None)
        failed = scene.counted("failed_count")
        held = scene.switch()
        until(lambda: proxy.in_flight_most and proxy.log[-1].fault is not None, "a request that hangs")
        server = scene.stage.server
        assert server is not None
        server.terminate()
        assert server.wait(PATIENCE_S) == 0
        until(lambda: scene.counted("failed_count") > failed, "the hook's failure counted")
        assert scene.waiting(held)
        proxy.heal()
        scene.stage.serve()
        scene.archive_all()


def test_a_second_server_on_the_same_socket_is_locked_out(scenes: Scenes) -> None:
    scene = scenes.make()
    told = scene.call("serve")
    assert told.exit_status == 11
    assert "WA-LOCKED" in told.stderr
    scene.archive_all()
    assert scene.counted("failed_count") == 0


def test_what_was_opened_of_a_cluster_is_let_go_while_another_repository_cannot_be(scenes: Scenes) -> None:
    """It is tried every few seconds, for as long as that one is away."""
    scene = scenes.make()
    scene.archive_all()
    keys = f'root = "{read_root(scene.stage.keys)}"\nsigning_key = "{scene.stage.keys / "writer.key"}"\n'
    away = f'[repository.away]\nurl = "file://{scene.stage.folder / "away"}"\n{keys}'
    text = scene.stage.config.read_text().replace('repository = "main"', 'repository = ["main", "away"]')
    reads = f'identity = "{scene.stage.keys / "custodian-ann.key"}"\n\n[cluster.main]'
    config = scene.stage.folder / "two.toml"
    config.write_text(text.replace("[cluster.main]", reads) + away)
    host = Host.here(load_settings(config))
    service = Service(host, version="test")
    for _ in range(2):
        with pytest.raises(WalarchiverError, match="away"):
            service._opener("main", host.settings.cluster("main"))()
    assert not service._sending
    assert not service._fetchers
