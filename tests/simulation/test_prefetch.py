"""Fetching ahead: quicker, and never another answer than without it."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace as with_fields
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import restore.prefetch
from restore.core.plan import Plan
from restore.fetcher import Fetcher
from restore.prefetch import FOLDER_PREFIX, Fate, Prefetch, Window, spool_beside
from restore.turns import Turns
from tests.integration.scene import until
from tests.kit.faultystore import WAIT_S, Fault
from tests.kit.smalldisk import small_disk
from tests.kit.walmaker import MIB
from tests.simulation.test_fetcher import TO_2, Scene
from tests.simulation.test_superseding import replace
from tests.simulation.world import SYSTEM, name_of, segment_bytes, wal_file
from walarchiver.catalog import FileRecord
from walarchiver.core.segment import MAX_SEGMENT_BYTES, SegmentBytes
from walarchiver.errors import (
    FetchInDoubt,
    ObjectDamaged,
    ProvenAbsent,
    StoreUnavailable,
    WalarchiverError,
)

Answer = bytes | tuple[type[WalarchiverError], str]


class Reading:
    """A fetcher that looks ahead, with what a test wants to know of it."""

    def __init__(self, scene: Scene, plan: Plan | None = None, *, spool: Path | None = None) -> None:
        self.scene = scene
        self.fates: list[Fate] = []
        self.fetcher = Fetcher(
            repository=scene.process.repository,
            ledger=scene.process.ledger,
            segment_size=MIB,
            plan=plan,
            spool=spool or scene.spool,
            window=Window(),
            count=self.fates.append,
        )

    @property
    def ahead(self) -> Prefetch:
        assert self.fetcher._ahead is not None
        return self.fetcher._ahead

    def fetch(self, name: str) -> bytes:
        size = self.fetcher.fetch(name, self.scene.destination)
        content = self.scene.destination.read_bytes()
        assert len(content) == size
        return content

    def settled(self) -> list[str]:
        """Wait until everything ordered was fetched or has failed; the names."""
        files = list(self.ahead._files.values())
        for file in files:
            assert file.done.wait(WAIT_S), f"{file.record.name} was never fetched"
        return [file.record.name for file in files]


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    made = Scene(tmp_path)
    made.process.ledger.refresh()
    return made


def key_of(scene: Scene, name: str) -> str:
    (key,) = [key for key in scene.world.keys("/wal/") if name in key]
    return key


def gets(scene: Scene, name: str) -> int:
    """How often an object was read."""
    key = key_of(scene, name)
    return sum(event.operation == "get" and event.key == key for event in scene.world.store.events)


def test_a_process_that_gets_no_more_threads_fetches_nothing_ahead(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_more(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    reading = Reading(scene)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", no_more)
        assert reading.fetch(name_of(1)) == segment_bytes(name_of(1))
    assert reading.fetch(name_of(2)) == segment_bytes(name_of(2))
    assert reading.settled() == [name_of(3), name_of(4)], "once there are threads again"


# --- which files ---------------------------------------------------------------------------------------


def test_the_next_segments_are_ready_when_they_are_asked_for(scene: Scene) -> None:
    reading = Reading(scene)
    assert reading.fetch(name_of(1)) == segment_bytes(name_of(1))
    assert reading.settled() == [name_of(2), name_of(3), name_of(4)], "up to the first that is not recorded"
    scene.world.store.fail(Fault("get", "v1/", times=999))
    for number in (2, 3, 4):
        assert reading.fetch(name_of(number)) == segment_bytes(name_of(number))
        assert scene.destination.stat().st_mode & 0o777 == 0o600
    assert reading.fates == [Fate.USED] * 3
    with pytest.raises(FetchInDoubt, match="a hole, not the end"):
        reading.fetch(name_of(5))


def test_a_plan_is_followed_over_its_fork_and_not_beyond_its_end(scene: Scene) -> None:
    reading = Reading(scene, TO_2)
    reading.fetch(name_of(1))
    assert reading.settled() == [name_of(2), name_of(3, 2), name_of(4, 2)]
    for name in (name_of(2), name_of(3, 2), name_of(4, 2)):
        assert reading.fetch(name) == segment_bytes(name)
    assert reading.fates == [Fate.USED] * 3
    assert reading.settled() == []
    for name in (name_of(3), name_of(4)):
        with pytest.raises(FetchInDoubt):
            reading.fetch(name)
    assert reading.fetch(name_of(5, 2)) == segment_bytes(name_of(5, 2)), "behind the end, asked for"
    assert reading.settled() == []


def test_what_a_plan_begins_with_is_ready_before_anybody_asks(scene: Scene) -> None:
    """Also where recovery reads the checkpoint's segment first and goes back."""
    reading = Reading(scene, TO_2)
    reading.fetcher.begin()
    assert reading.settled() == [name_of(TO_2.first), name_of(2), name_of(3, 2), name_of(4, 2)]
    scene.world.store.fail(Fault("get", "v1/", times=999))
    for name in (name_of(2), name_of(TO_2.first), name_of(3, 2), name_of(4, 2)):
        assert reading.fetch(name) == segment_bytes(name)
    assert reading.fates == [Fate.USED] * 4


def test_without_a_plan_nothing_is_known_before_an_ask(scene: Scene) -> None:
    reading = Reading(scene)
    reading.fetcher.begin()
    assert reading.settled() == []


def test_without_a_plan_no_fork_is_crossed(scene: Scene) -> None:
    """The server asks the newest timeline first; what is ready of the old one answers nothing of it."""
    reading = Reading(scene)
    reading.fetch(name_of(2))
    assert reading.settled() == [name_of(3), name_of(4)]
    for number in (3, 4, 5):
        assert reading.fetch(name_of(number, 2)) == segment_bytes(name_of(number, 2))
        assert name_of(number) not in reading.settled()
    assert reading.fates.count(Fate.DROPPED) == 2


def test_going_back_orders_nothing_and_going_on_finds_what_was_kept(scene: Scene) -> None:
    """Recovery reads the checkpoint's segment, goes back to its redo position, and on from there."""
    reading = Reading(scene)
    reading.fetch(name_of(3))
    assert reading.settled() == [name_of(4)]
    reading.fetch(name_of(1))
    assert reading.settled() == [name_of(4)]
    for number in (2, 3, 4):
        assert reading.fetch(name_of(number)) == segment_bytes(name_of(number))
        reading.settled()
    assert gets(scene, name_of(4)) == 1
    assert gets(scene, name_of(3)) == 2


def test_misses_and_histories_leave_what_is_ready(scene: Scene) -> None:
    reading = Reading(scene)
    reading.fetch(name_of(1))
    before = reading.settled()
    for name in ("00000003.history", name_of(6, 2), "00000001.history"):
        with pytest.raises(ProvenAbsent):
            reading.fetch(name)
    reading.fetch("00000002.history")
    assert reading.settled() == before
    assert reading.fetch(name_of(2)) == segment_bytes(name_of(2))
    assert gets(scene, name_of(2)) == 1


@pytest.mark.parametrize(
    ("size", "files"), [(MIB, 8), (16 * MIB, 8), (64 * MIB, 4), (256 * MIB, 1), (MAX_SEGMENT_BYTES, 1)]
)
def test_the_window_is_bounded_by_count_and_by_bytes(size: int, files: int) -> None:
    assert Window().files_of(SegmentBytes(size)) == files


# --- the same answers ----------------------------------------------------------------------------------


def answered(fetcher: Fetcher, name: str, destination: Path) -> Answer:
    try:
        fetcher.fetch(name, destination)
    except WalarchiverError as error:
        return type(error), error.message
    return destination.read_bytes()


NAMES = [*(name_of(n, tl) for tl in (1, 2, 3) for n in range(8)), "00000002.history", "00000003.history"]


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    asks=st.lists(st.tuples(st.sampled_from(NAMES), st.booleans()), min_size=1, max_size=12),
    planned=st.booleans(),
    spoilt=st.sets(st.sampled_from([name_of(3), name_of(2), name_of(4, 2)]), max_size=2),
)
def test_any_asks_in_any_order_get_the_answers_they_would_get_without_it(
    scene: Scene, asks: list[tuple[str, bool]], planned: bool, spoilt: set[str]
) -> None:
    keys = {
        key_of(scene, name): scene.world.memory.get(key_of(scene, name), bytes_max=2 * MIB) for name in spoilt
    }
    for key in keys:
        scene.world.replace(key, b"x" * 100)
    plan = TO_2 if planned else None
    naive, reading = scene.fetcher(plan), Reading(scene, plan)
    try:
        for name, waits in asks:
            wanted = answered(naive, name, scene.folder / "naive")
            assert answered(reading.fetcher, name, scene.destination) == wanted
            if waits:
                reading.settled()
    finally:
        reading.fetcher.close()
        for key, body in keys.items():
            scene.world.replace(key, body)
    assert list(scene.spool.glob(f"{FOLDER_PREFIX}*")) == []


def test_a_damaged_object_ahead_stops_nothing_until_it_is_asked_for(scene: Scene) -> None:
    scene.world.replace(key_of(scene, name_of(4)), b"x")
    reading = Reading(scene)
    for number in (1, 2, 3):
        assert reading.fetch(name_of(number)) == segment_bytes(name_of(number))
        reading.settled()
    assert Fate.FAILED in reading.fates
    assert reading.fates.count(Fate.FAILED) == 1, "nobody tries it again with every ask"
    alone = answered(scene.fetcher(), name_of(4), scene.folder / "alone")
    assert isinstance(alone, tuple)
    assert alone[0] is ObjectDamaged
    assert answered(reading.fetcher, name_of(4), scene.destination) == alone


def test_a_segment_replaced_by_an_administrator_meanwhile_is_not_served_from_what_is_ready(
    scene: Scene, tmp_path: Path
) -> None:
    before = with_fields(TO_2, ledger=scene.process.catalog.next_seq())
    unplanned, planned = Reading(scene), Reading(scene, before, spool=scene.folder.parent / "other")
    for reading in (unplanned, planned):
        reading.fetch(name_of(1))
        assert name_of(2) in reading.settled()
    new = wal_file(tmp_path / "new", name_of(2), segment_bytes(name_of(2), seed=7))
    writer = scene.world.process(identities=[scene.world.identity()])
    writer.ledger.refresh()
    replace(writer, new)
    scene.process.ledger.refresh()
    assert unplanned.fetch(name_of(2)) == new.read_bytes() != segment_bytes(name_of(2))
    with pytest.raises(FetchInDoubt, match="replaced it after plan"):
        planned.fetch(name_of(2))


def test_an_outage_in_the_middle_is_told_when_what_is_ready_is_used_up(scene: Scene) -> None:
    reading = Reading(scene)
    scene.world.store.fail(Fault("get", key_of(scene, name_of(3)), times=2))
    reading.fetch(name_of(1))
    reading.settled()
    assert reading.fetch(name_of(2)) == segment_bytes(name_of(2))
    with pytest.raises(StoreUnavailable):
        reading.fetch(name_of(3))
    assert reading.fetch(name_of(3)) == segment_bytes(name_of(3))
    assert reading.fetch(name_of(4)) == segment_bytes(name_of(4))


# --- turns -----------------------------------------------------------------------------------------------


def test_what_is_asked_for_is_opened_at_once_and_what_may_be_asked_for_when_there_is_room() -> None:
    turns = Turns(1)
    entered, leave = threading.Event(), threading.Event()

    def ahead() -> None:
        with turns.in_turn():
            entered.set()
            assert leave.wait(WAIT_S)

    with ThreadPoolExecutor(2) as pool:
        with turns.now(), turns.now():
            first = pool.submit(ahead)
        assert entered.wait(WAIT_S), "nobody else is inside"
        entered.clear()
        second = pool.submit(ahead)
        with turns.now():
            assert not second.done()
        assert not entered.is_set(), "the first one is still inside"
        leave.set()
        assert entered.wait(WAIT_S)
        first.result(WAIT_S)
        second.result(WAIT_S)


def test_a_failure_gives_its_turn_back() -> None:
    turns = Turns(1)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), turns.in_turn():
            raise ZeroDivisionError


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
