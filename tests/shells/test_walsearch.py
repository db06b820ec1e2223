"""Segments made ready ahead of `find`: in order, bounded, and given up at once when nobody waits any more."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from restore import walsearch
from restore.walsearch import Ahead, Source, walk_path
from tests.kit.smalldisk import small_disk
from tests.kit.wal import MIB, PAGE, WalWriter, main_data
from tests.simulation.world import SYSTEM, SYSTEM_ID, Process, World, wal_file
from walarchiver.core.history import TimelineHistory
from walarchiver.core.scan import Ending
from walarchiver.core.segment import Segment
from walarchiver.core.touch import Ended, Watch
from walarchiver.errors import ObjectDamaged, ObjectMissing, Transient
from walarchiver.repository import Repository

NOON = 1_795_348_800_000_000
FIRST = 3
NOTHING = Watch(frozenset(), {})


def written() -> WalWriter:
    """Six segments with a commit in each, and records that go on in the next."""
    wal = WalWriter(FIRST, system=SYSTEM_ID)
    for number in range(6):
        wal.commit(NOON + number, xid=100 + number)
        while wal.at < (FIRST + number + 1) * MIB + PAGE:
            wal.record(11, 0, main_data(bytes(60_000)))
    wal.commit(NOON + 9, xid=109)
    wal.switch()
    return wal


@pytest.fixture(scope="module")
def archived(tmp_path_factory: pytest.TempPathFactory) -> tuple[World, Process]:
    world = World()
    process = world.process(identities=[world.identity()])
    process.begin()
    folder = tmp_path_factory.mktemp("pg_wal")
    paths = [
        wal_file(folder, Segment(1, number).name(MIB), pages)
        for number, pages in written().segments().items()
    ]
    process.archive(*paths)
    return world, process


def source(process: Process) -> Source:
    return Source(process.repository, SYSTEM, process.catalog, TimelineHistory(1), MIB)


def commits(found: Source, first: int, last: int, until: int, *, workers: int = 2) -> list[int]:
    xids = []
    for piece in walk_path(found, first, last, until, NOTHING, workers=workers):
        assert piece.stretch.ending is Ending.WHOLE, piece.stretch.problem
        for touches in piece.stretch.found:
            xids += [*touches.bare.xids, *(end.xid for end in touches.ends if isinstance(end, Ended))]
    return xids


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("large", [64 << 20, 0])
def test_segments_are_walked_in_order_however_many_at_once(
    archived: tuple[World, Process], workers: int, large: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In memory, and in temporary files as large segments are."""
    monkeypatch.setattr(walsearch, "LARGE_BYTES", large)
    found = source(archived[1])
    assert commits(found, FIRST, FIRST + 6, FIRST + 6, workers=workers) == [*range(100, 106), 109]
    assert commits(found, FIRST + 2, FIRST + 3, FIRST + 6, workers=workers) == [102, 103]


def test_a_record_that_goes_on_behind_the_archive_leaves_the_walk_open(
    archived: tuple[World, Process],
) -> None:
    *_before, last = walk_path(source(archived[1]), FIRST, FIRST + 1, FIRST + 1, NOTHING, workers=1)
    assert last.stretch.ending is Ending.OPEN


def test_no_more_segments_are_held_than_there_is_room_for(
    archived: tuple[World, Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    held = most = 0
    order, forget = Ahead.order, Ahead.forget

    def ordered(ahead: Ahead, number: int) -> None:
        nonlocal most
        order(ahead, number)
        most = max(most, len(ahead._ready))

    def forgotten(ahead: Ahead, number: int) -> None:
        nonlocal held
        forget(ahead, number)
        held = len(ahead._ready)

    monkeypatch.setattr(Ahead, "order", ordered)
    monkeypatch.setattr(Ahead, "forget", forgotten)
    monkeypatch.setattr(walsearch, "HELD_BYTES_MAX", 1)
    commits(source(archived[1]), FIRST, FIRST + 6, FIRST + 6, workers=9)
    assert (most, held) == (3, 0)


def test_damaged_and_lost_segments_are_refused_where_they_are_met(archived: tuple[World, Process]) -> None:
    world, process = archived
    name = Segment(1, FIRST + 2).name(MIB)
    (key,) = [key for key in world.keys(name) if "/wal/" in key]
    body = world.memory.get(key, bytes_max=1 << 20)
    assert body is not None
    found = source(process)
    walk = walk_path(found, FIRST, FIRST + 6, FIRST + 6, NOTHING, workers=2)
    world.replace(key, body[:-40] + bytes(40))
    try:
        assert next(walk).number == FIRST
        with pytest.raises(ObjectDamaged):
            list(walk)
        world.replace(key, None)
        with pytest.raises(ObjectMissing):
            commits(found, FIRST, FIRST + 6, FIRST + 6)
    finally:
        world.replace(key, body)
    other = replace(found, path=TimelineHistory(1))
    with pytest.raises(ObjectMissing, match="is not recorded any more"):
        commits(other, FIRST + 7, FIRST + 7, FIRST + 7)


class Silent:
    """A repository whose store gives a little and then says nothing more."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.speaks = threading.Event()

    def plain_file(self, _system: str, _record: object) -> Iterator[bytes]:
        yield b"a little"
        self.asked.set()
        self.speaks.wait(30)
        yield b"more"


def test_ctrl_c_does_not_wait_for_a_store_that_is_silent(archived: tuple[World, Process]) -> None:
    silent = Silent()
    found = replace(source(archived[1]), repository=cast(Repository, silent))
    ahead = Ahead(found, NOTHING, FIRST + 6, 1)
    threads = ahead._threads
    ahead.order(FIRST)
    assert silent.asked.wait(30)
    ahead.__exit__(KeyboardInterrupt, None, None)
    assert any(thread.is_alive() for thread in threads)
    assert all(thread.daemon for thread in threads)
    silent.speaks.set()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()


def test_a_full_disk_is_said_before_a_large_segment_is_fetched(
    archived: tuple[World, Process], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(walsearch, "LARGE_BYTES", 0)
    with small_disk(tmp_path / "small", MIB // 2) as disk:
        monkeypatch.setattr("tempfile.tempdir", str(disk))
        with pytest.raises(Transient, match="cannot be laid out to be read: No space left"):
            commits(source(archived[1]), FIRST, FIRST, FIRST + 6)
