"""Scenes that take their time: a long outage, a crash during an upload, a restore beside its origin."""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.integration.scene import Scene, Scenes, end, until
from tests.kit.faultproxy import FaultProxy, ResetBefore, WaitFor
from tests.kit.s3 import S3Server
from tests.matrix.hosts import say
from walarchiver.core.segment import parse_wal_file
from walarchiver.embedded.postgres import StopMode

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(900)]

OUTAGE_S = 120


@pytest.fixture
def proxy(s3_server: S3Server) -> Iterator[FaultProxy]:
    with FaultProxy(s3_server.endpoint) as proxy:
        yield proxy


@pytest.mark.parametrize("major", [14, 18])
def test_two_minutes_without_a_store_cost_nothing_but_time(
    scenes: Scenes, proxy: FaultProxy, major: int
) -> None:
    scene = scenes.make(
        major,
        store="s3",
        endpoint=proxy.endpoint,
        server={"push_deadline": '"1s"'},
        settings={"wal_keep_size": "1GB", "log_min_messages": "debug3"},
    )
    first = scene.archive_all()
    failed, stored = scene.counted("failed_count"), scene.counted("archived_count")
    proxy.inject(ResetBefore(), times=None)
    ends, held = time.monotonic() + OUTAGE_S, 0
    rest = threading.Event()
    while time.monotonic() < ends:
        scene.switch()
        held += 1
        rest.wait(2)
    assert scene.counted("failed_count") > failed + OUTAGE_S // 60
    assert scene.counted("archived_count") == stored
    proxy.heal()
    last = scene.archive_all()
    log = scene.cluster.log_text()
    assert set(re.findall(r"archive command failed with exit code (\d+)", log)) == {"1"}
    assert "archive command was terminated" not in log
    assert scene.prove_archived() > held
    archive = scene.open()
    ((_, low, high),) = archive.catalog.runs()
    numbers = [parse_wal_file(one, archive.segment_size).segment.number for one in (first, last)]  # type: ignore[union-attr]
    assert [low, high] == numbers


def test_a_crash_of_postgresql_during_an_upload_leaves_one_good_object(
    scenes: Scenes, proxy: FaultProxy, major: int
) -> None:
    scene = scenes.make(major, store="s3", endpoint=proxy.endpoint, settings={"wal_keep_size": "1GB"})
    scene.archive_all()
    go_on = threading.Event()
    proxy.inject(WaitFor(go_on), method="PUT", path_contains="/wal/")
    name = scene.switch()
    until(lambda: any(f"/{name}." in one.path for one in proxy.log), "the upload")
    scene.cluster.stop(StopMode.IMMEDIATE)
    go_on.set()
    scene.cluster.start()
    until(lambda: scene.archived(name), "the segment offered again")
    assert scene.counted("failed_count") == 0
    scene.archive_all()
    scene.prove_archived()
    archive = scene.open()
    record = archive.catalog.file(name)
    assert record is not None
    recorded = [one.key for one in record.objects]
    stored = {
        one.key
        for one in archive.repository.store.list_keys(f"v1/c/{archive.system}/wal/")
        if f"/{name}." in one.key
    }
    assert stored == set(recorded)


def test_a_restored_server_on_the_same_host_archives_nothing_and_opens_no_port(
    scenes: Scenes, major: int
) -> None:
    scene = scenes.make(major)
    scene.cluster.psql("CREATE TABLE said (text text)")
    scene.json("backup")
    say(scene, "production")
    last = scene.archive_all()
    before = objects(scene)
    into = scene.stage.folder / "r"
    told = scene.restore("latest", into, config=scene.reader())
    try:
        with psycopg.connect(told["dsn"], autocommit=True) as sql:
            for _ in range(3):
                sql.execute("INSERT INTO said VALUES ('copy')")
                sql.execute("SELECT pg_switch_wal()")
            assert sql.execute("SHOW archive_mode").fetchone() == ("off",)
        assert listening_ports(told["pid"]) == set()
    finally:
        end(told["pid"], into)
    assert objects(scene) == before
    say(scene, "production")
    following = scene.archive_all()
    assert following > last
    scene.prove_archived()
    assert objects(scene) > before
    assert all("/wal/00000001/" in name for name in objects(scene) - before if "/wal/" in name)


def objects(scene: Scene) -> set[str]:
    """The sealed objects of production's archive; its ledger may hear of idle seconds at any time."""
    folder = scene.stage.folder / "repository" / "v1" / "c"
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    return {name for name in names if not {"ledger", "keys", "roll"} & set(Path(name).parts)}


def listening_ports(leader: int) -> set[int]:
    """TCP ports that a server's processes listen on: those of its socket descriptors (proc(5))."""
    inodes = set()
    for process in [leader, *children(leader)]:
        with contextlib.suppress(
            FileNotFoundError
        ):  # a process or a descriptor that is gone listens on nothing
            for descriptor in list(Path(f"/proc/{process}/fd").iterdir()):
                with contextlib.suppress(OSError):
                    inodes.update(re.findall(r"socket:\[(\d+)\]", os.readlink(descriptor)))
    ports = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and words[9] in inodes:
                ports.add(int(words[1].rpartition(":")[2], 16))
    return ports


def children(parent: int) -> list[int]:
    text = Path(f"/proc/{parent}/task/{parent}/children").read_text()
    return [int(word) for word in text.split()]
