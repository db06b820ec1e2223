"""SIGKILL of the server: nothing that PostgreSQL believes archived is missing or different."""

from __future__ import annotations

import random
import subprocess
import threading
from pathlib import Path

from tests.integration.scene import PATIENCE_S, Scene, Scenes, until
from tests.kit.readystage import helper
from walarchiver.core.segment import Segment
from walarchiver.demo.stage import ask

KILLS = 4
"""A hundred run at night."""
KEEP_ALL_WAL = {"wal_keep_size": "2GB"}
"""So that every archived segment stays in pg_wal, to be compared."""


def crashing(scenes: Scenes, scene: Scene, steps: Path, kill_at: int | None) -> subprocess.Popen[bytes]:
    """A server that dies at step `kill_at`, or only notes its steps."""
    words = [str(scene.stage.config), str(steps), *([] if kill_at is None else [str(kill_at)])]
    scene.stage.socket.parent.mkdir(exist_ok=True)
    with scene.stage.log_path.open("ab") as log:
        server = helper().start(words, log.fileno(), log.fileno(), program="tests.kit.crashing_server")
    scenes.programs.append(server)
    return server


def work_until_dead(scene: Scene, server: subprocess.Popen[bytes]) -> None:
    """One more segment whenever the last is through, until the server's step has come."""
    # Offered too early, three times a second apart, a segment would wait for a minute.
    until(lambda: server.poll() is not None or ask(scene.stage.socket, "/readyz"), "a kill or a ready server")
    while server.poll() is None:
        scene.switch()
        until(lambda: server.poll() is not None or not scene.waiting(), "a kill or an archived segment")


def steps_of_one_life(scenes: Scenes, scene: Scene) -> list[str]:
    """What a server goes through from its start until it has archived a segment."""
    noted = scene.stage.folder / "steps"
    server = crashing(scenes, scene, noted, None)
    until(lambda: ask(scene.stage.socket, "/readyz"), "a server that is ready")
    scene.archive_all()
    server.terminate()
    assert server.wait(PATIENCE_S) == 0
    return noted.read_text().splitlines()


def test_a_server_killed_at_any_step_of_archiving_loses_nothing(scenes: Scenes) -> None:
    example = scenes.make(serve=False)
    steps = steps_of_one_life(scenes, example)
    example.close()
    assert {step.partition(":")[0] for step in steps} == {"archive", "ledger"}
    assert len(set(steps)) >= 8
    scene = scenes.make(serve=False, settings=KEEP_ALL_WAL)
    for number in range(1, len(steps) + 1):
        noted = scene.stage.folder / f"steps{number}"
        server = crashing(scenes, scene, noted, number)
        work_until_dead(scene, server)
        assert server.returncode == -9, scene.stage.log_path.read_text()
        assert len(noted.read_text().splitlines()) == number
        if number % 3 == 0:  # an ordinary server in between; else the next victim has to tidy up
            scene.stage.serve()
            scene.archive_all()
            assert scene.stage.stop_server() == 0
    scene.stage.serve()
    last = scene.archive_all()
    assert scene.prove_archived() > len(steps)
    assert scene.stage.stop_server() == 0
    scene.prove_rebuild()
    prove_unbroken(scene, last)


def test_a_server_killed_at_random_under_load_loses_nothing(scenes: Scenes) -> None:
    kill_at_random(scenes, KILLS, random.Random(7))


def kill_at_random(scenes: Scenes, kills: int, chance: random.Random) -> int:
    """Kill the server again and again under load, compare everything; how many files were compared."""
    scene = scenes.make(store="s3", settings=KEEP_ALL_WAL)
    dsn = scene.cluster.dsn()
    scene.cluster.program("pgbench", "-i", "-q", "-I", "dtGp", "-s", "1", "-d", dsn)
    halt = threading.Event()

    def load() -> None:
        while not halt.is_set():
            scene.cluster.program("pgbench", "-n", "-c", "2", "-T", "1", "-R", "300", dsn)

    bench = threading.Thread(target=load)
    bench.start()
    try:
        for _ in range(kills):
            halt.wait(chance.uniform(0.05, 1.2))
            scene.switch()
            halt.wait(chance.uniform(0.0, 0.05))
            assert scene.stage.stop_server(kill=True) == -9
            scene.stage.serve()
    finally:
        halt.set()
        bench.join()
    last = scene.archive_all()
    compared = scene.prove_archived()
    assert compared > kills
    assert scene.stage.stop_server() == 0
    scene.prove_rebuild()
    prove_unbroken(scene, last)
    return compared


def prove_unbroken(scene: Scene, last: str) -> None:
    """One run of segments without a gap, up to the last; as many were compared as PostgreSQL counted."""
    done = len(scene.status_files(".done"))
    until(lambda: scene.counted("archived_count") == done, "as many .done files as PostgreSQL counted")
    archive = scene.open()
    ((timeline, _first, highest),) = archive.catalog.runs()
    assert Segment(timeline, highest).name(archive.segment_size) == last
