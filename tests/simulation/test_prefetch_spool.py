"""Fetching ahead: who waits for what, and what is left behind."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import restore.prefetch
from restore.prefetch import FOLDER_PREFIX, Fate, Prefetch, Window, spool_beside
from tests.integration.scene import until
from tests.kit.faultystore import WAIT_S, Fault
from tests.kit.smalldisk import small_disk
from tests.simulation.prefetching import Reading, gets, key_of
from tests.simulation.test_fetcher import Scene
from tests.simulation.world import SYSTEM, name_of, segment_bytes
from walarchiver.catalog import FileRecord
from walarchiver.errors import (
    FetchInDoubt,
    StoreUnavailable,
)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    made = Scene(tmp_path)
    made.process.ledger.refresh()
    return made


# --- one at a time -------------------------------------------------------------------------------------


def test_one_that_is_on_its_way_is_waited_for(scene: Scene) -> None:
    reading = Reading(scene)
    gate = scene.world.store.hold("get", key_of(scene, name_of(2)))
    reading.fetch(name_of(1))
    gate.wait_reached()
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(reading.fetch, name_of(2))
        gate.open()
        assert asked.result(WAIT_S) == segment_bytes(name_of(2))
    assert gets(scene, name_of(2)) == 1


def test_one_that_does_not_come_is_asked_for_again_and_leaves_nothing(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restore.prefetch, "PATIENCE_S", 0.01)
    reading = Reading(scene)
    gate = scene.world.store.hold("get", key_of(scene, name_of(2)))
    reading.fetch(name_of(1))
    gate.wait_reached()
    late = reading.ahead._files[name_of(2)]
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(reading.fetch, name_of(2))
        until(lambda: late.dropped, "the ask has no more patience")
        gate.open()
        assert asked.result(WAIT_S) == segment_bytes(name_of(2))
    assert late.done.wait(WAIT_S)
    assert not late.path.exists()


def test_a_request_that_nobody_waits_for_any_more_takes_nothing_away_from_a_newer_one(scene: Scene) -> None:
    reading = Reading(scene)
    gate = scene.world.store.hold("get", key_of(scene, name_of(2)))
    reading.fetch(name_of(1))
    gate.wait_reached()
    with ThreadPoolExecutor(1) as pool:
        abandoned = pool.submit(reading.fetch, name_of(2))
        until(lambda: name_of(2) not in reading.ahead.known, "it waits for what is on its way")
        assert reading.fetch(name_of(3)) == segment_bytes(name_of(3))
        gate.open()
        with pytest.raises(FetchInDoubt, match="newer request"):
            abandoned.result(WAIT_S)
    assert scene.destination.read_bytes() == segment_bytes(name_of(3))


# --- what is left behind -------------------------------------------------------------------------------


def test_closing_leaves_nothing_in_the_spool_not_even_of_what_is_on_its_way(scene: Scene) -> None:
    reading = Reading(scene)
    gate = scene.world.store.hold("get", key_of(scene, name_of(3)))
    reading.fetch(name_of(1))
    gate.wait_reached()
    files = list(reading.ahead._files.values())
    reading.fetcher.close()
    assert list(scene.spool.iterdir()) == []
    gate.open()
    for file in files:
        if file.path.name.startswith(name_of(3)):
            assert file.done.wait(WAIT_S)
    assert list(scene.spool.iterdir()) == []
    assert reading.fetch(name_of(2)) == segment_bytes(name_of(2)), "what is asked for is served all the same"


def test_what_a_killed_server_left_is_removed_and_what_a_living_one_has_is_not(scene: Scene) -> None:
    living = Reading(scene)
    living.fetch(name_of(1))
    living.settled()
    dead = scene.spool / f"{FOLDER_PREFIX}dead"
    dead.mkdir()
    (dead / f"{name_of(2)}.0").write_bytes(b"stale" * 1000)
    stranger = scene.spool / "of-somebody-else"
    stranger.mkdir()
    next_one = Reading(scene)
    assert not dead.exists()
    assert stranger.exists()
    scene.world.store.fail(Fault("get", key_of(scene, name_of(2)), times=999))
    with pytest.raises(StoreUnavailable):
        next_one.fetch(name_of(2))
    assert living.fetch(name_of(2)) == segment_bytes(name_of(2))


def test_what_nobody_asks_for_is_removed_after_a_while(scene: Scene) -> None:
    ended = threading.Event()
    record = scene.process.catalog.file(name_of(2))
    assert record is not None
    fates: list[Fate] = []

    def told(fate: Fate) -> None:
        fates.append(fate)
        ended.set()

    ahead = Prefetch(lambda _record, out: None, scene.spool, count=told, idle_s=0.05)
    ahead.order([record])
    assert ended.wait(WAIT_S)
    assert fates == [Fate.DROPPED]
    assert ahead.take(record) is None
    ahead.order([record])
    ready = ahead.take(record)
    assert ready is None or ready.exists()
    ahead.close()


def test_a_mistake_of_ours_costs_one_file_and_nobody_waits_for_it(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[object] = []
    monkeypatch.setattr(threading, "excepthook", seen.append)
    record, other = (scene.process.catalog.file(name_of(number)) for number in (2, 3))
    assert record is not None
    assert other is not None

    def lay(asked: FileRecord, _out: object) -> None:
        if asked == record:
            raise ZeroDivisionError

    ahead = Prefetch(lay, scene.spool, window=Window(threads=1))
    ahead.order([record])
    assert ahead._files[record.name].done.wait(WAIT_S)
    assert ahead.take(record) is None
    until(lambda: seen, "the thread ends loudly")
    ahead.order([other])
    file = ahead._files[other.name]
    assert file.done.wait(WAIT_S)
    assert ahead.take(other) == file.path
    ahead.close()


def test_a_spool_that_somebody_tidied_up_costs_only_what_was_in_it(scene: Scene) -> None:
    reading = Reading(scene)
    reading.fetch(name_of(1))
    reading.settled()
    (folder,) = scene.spool.glob(f"{FOLDER_PREFIX}*")
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    assert reading.fetch(name_of(2)) == segment_bytes(name_of(2))
    reading.settled()
    assert reading.fetch(name_of(3)) == segment_bytes(name_of(3))
    assert gets(scene, name_of(2)) == 2


def test_a_spool_on_another_file_system_is_not_used(scene: Scene, tmp_path: Path) -> None:
    with small_disk(tmp_path / "elsewhere", 4 << 20) as disk:
        reading = Reading(scene, spool=disk / "spool")
        for number in (1, 2, 3):
            assert reading.fetch(name_of(number)) == segment_bytes(name_of(number))
        assert list(disk.rglob("*")) == [disk / "spool"]
        assert reading.fates == []
    assert [path.name for path in scene.folder.iterdir()] == [scene.destination.name]


def test_on_a_full_disk_what_is_asked_for_goes_before_what_is_ready(scene: Scene, tmp_path: Path) -> None:
    with small_disk(tmp_path / "full", (4 << 20) + (1 << 19)) as disk:
        (disk / "pg_wal").mkdir()
        scene.folder = disk / "pg_wal"
        reading = Reading(scene, spool=disk / "spool")
        reading.fetch(name_of(1))
        assert len(reading.settled()) == 3
        assert reading.fetch(name_of(3, 2)) == segment_bytes(name_of(3, 2))
        reading.fetcher.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_file_that_was_ready_belongs_to_whom_the_folder_belongs(scene: Scene) -> None:
    os.chown(scene.folder, 65_534, 65_533)
    reading = Reading(scene)
    reading.fetch(name_of(1))
    reading.settled()
    reading.fetch(name_of(2))
    assert reading.fates == [Fate.USED]
    found = scene.destination.stat()
    assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (65_534, 65_533, 0o600)


def test_the_spool_lies_beside_the_data_directory_and_is_done_without_where_it_cannot(tmp_path: Path) -> None:
    data = tmp_path / "main"
    assert spool_beside(None) is None
    spool = spool_beside(data)
    assert spool is not None
    assert (spool.parent, spool.stat().st_mode & 0o777) == (tmp_path, 0o700)
    blocked = tmp_path / "file"
    blocked.write_bytes(b"")
    assert spool_beside(blocked / "data") is None


def test_the_system_is_part_of_what_is_asked_for(scene: Scene) -> None:
    """A spool that serves another cluster now holds nothing of the first one that could answer."""
    assert key_of(scene, name_of(2)).startswith(f"v1/c/{SYSTEM}/")
    first = Reading(scene)
    first.fetch(name_of(1))
    first.settled()
    other = Scene(scene.folder.parent / "other")
    other.process.ledger.refresh()
    reading = Reading(other, spool=scene.spool)
    other.world.store.fail(Fault("get", "v1/c/", times=999))
    with pytest.raises(StoreUnavailable):
        reading.fetch(name_of(2))
