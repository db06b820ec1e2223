"""Fetching ahead: quicker, and never another answer than without it."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace as with_fields
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from restore.fetcher import Fetcher
from restore.prefetch import FOLDER_PREFIX, Fate, Window
from restore.turns import Turns
from tests.kit.faultystore import WAIT_S, Fault
from tests.kit.walmaker import MIB
from tests.simulation.prefetching import Reading, gets, key_of
from tests.simulation.test_fetcher import TO_2, Scene
from tests.simulation.test_superseding import replace
from tests.simulation.world import name_of, segment_bytes, wal_file
from walarchiver.core.segment import MAX_SEGMENT_BYTES, SegmentBytes
from walarchiver.errors import (
    FetchInDoubt,
    ObjectDamaged,
    ProvenAbsent,
    StoreUnavailable,
    WalarchiverError,
)

Answer = bytes | tuple[type[WalarchiverError], str]


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    made = Scene(tmp_path)
    made.process.ledger.refresh()
    return made


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
