"""The daemon's life: it drains on SIGTERM, and two of them never share a socket."""

from __future__ import annotations

import threading

from tests.integration.scene import PATIENCE_S, Scenes, until
from tests.kit.faultproxy import FaultProxy, Hang
from tests.kit.s3 import S3Server


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
