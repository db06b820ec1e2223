"""Fetching: only whole files become visible, whatever fails."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import restore.fetcher
from tests.kit.walmaker import MIB
from tests.simulation.test_fetcher import Scene
from tests.simulation.test_fetcher import scene as scene
from tests.simulation.world import SYSTEM, name_of, segment_bytes, wal_file
from walarchiver.errors import (
    FetchInDoubt,
    ObjectDamaged,
    ObjectMissing,
    ProvenAbsent,
    WalarchiverError,
)
from walarchiver.format.header import Expected


class Killed(BaseException):
    pass


@pytest.mark.parametrize("seen", [0, 1, 300_000])
def test_a_kill_in_the_middle_leaves_nothing_under_the_final_name(
    scene: Scene, seen: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = scene.process.repository.opened
    visible: list[bool] = []

    def dying(body: bytes, expect: Expected) -> Iterator[memoryview]:
        done = 0
        for chunk in opened(body, expect):
            visible.append(scene.destination.exists())  # kill -9 would leave it like this
            if done >= seen:
                raise Killed
            done += len(chunk)
            yield chunk

    monkeypatch.setattr(scene.process.repository, "opened", dying)
    with pytest.raises(Killed):
        scene.fetch(name_of(1))
    assert visible and not any(visible)
    assert not scene.destination.exists()
    assert scene.leftovers() == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_root_gives_away_no_file_that_a_link_in_the_spool_leads_to(scene: Scene) -> None:
    """The spool may belong to the cluster's owner, who may put a link in the place of what was fetched."""
    scene.process.ledger.refresh()
    record = scene.process.ledger.catalog.file(name_of(1))
    assert record is not None
    os.chown(scene.folder, 65534, 65534)
    important, made = scene.folder.with_name("important"), scene.folder.with_name("made")
    important.touch()
    made.symlink_to(important)
    fetcher = scene.fetcher()
    fetcher._move(made, record, scene.destination, fetcher._begin(scene.destination))
    assert important.stat().st_uid == 0


def test_what_a_killed_process_left_is_removed_by_the_next_request(scene: Scene) -> None:
    """kill -9 runs no `finally`; the name tells whose it was."""
    fetcher = scene.fetcher()
    unlink = Path.unlink
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "unlink", lambda _path, missing_ok=False: None)
        patch.setattr(restore.fetcher, "lay_plain", _raise(Killed()))
        with pytest.raises(Killed):
            fetcher.fetch(name_of(1), scene.destination)
    assert unlink is Path.unlink
    assert len(scene.leftovers()) == 1
    stranger = scene.spool / ".walarchiver-00000000-other.tmp"
    stranger.write_bytes(b"of another destination")
    assert scene.fetch(name_of(1)) == segment_bytes(name_of(1))
    assert scene.leftovers() == [stranger.name]


def _raise(error: BaseException) -> Callable[..., None]:
    def raising(*_arguments: object) -> None:
        raise error

    return raising


@pytest.mark.parametrize(
    ("change", "error"), [("flipped", ObjectDamaged), ("gone", ObjectMissing), ("cut", ObjectDamaged)]
)
def test_a_damaged_object_is_never_placed(scene: Scene, change: str, error: type[WalarchiverError]) -> None:
    (key,) = [key for key in scene.world.keys("/wal/") if name_of(2) in key]
    body = scene.world.memory.get(key, bytes_max=1 << 30)
    assert body is not None
    bad = {"flipped": body[:-3] + b"???", "cut": body[:-100], "gone": None}
    scene.world.replace(key, bad[change])
    scene.destination.write_bytes(b"before")
    with pytest.raises(error):
        scene.fetch(name_of(2))
    assert scene.destination.read_bytes() == b"before"
    assert scene.leftovers() == []


def test_a_spool_on_another_file_system_falls_back_to_the_targets_folder(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename
    refused = []

    def across(self: Path, target: Path) -> Path:
        if self.parent == scene.spool:
            refused.append(self)
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", across)
    assert scene.fetch(name_of(1)) == segment_bytes(name_of(1))
    assert refused
    assert scene.leftovers() == []


def test_a_full_or_forbidden_file_system_is_doubt(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        restore.fetcher, "lay_plain", _raise(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    )
    with pytest.raises(FetchInDoubt, match="No space left"):
        scene.fetch(name_of(1))
    blocked = scene.folder / "file"
    blocked.write_bytes(b"")
    with pytest.raises(FetchInDoubt):
        scene.fetcher(spool=blocked / "spool").fetch(name_of(1), scene.destination)
    assert not scene.destination.exists()


def test_an_abandoned_request_never_overwrites_what_a_newer_one_placed(scene: Scene) -> None:
    """PostgreSQL uses one name for everything: a request whose caller has gone must not change it."""
    fetcher = scene.fetcher()
    gate = scene.world.store.hold("get", f"v1/c/{SYSTEM}/wal/00000001/00000000/{name_of(1)}")
    with ThreadPoolExecutor(1) as pool:
        abandoned = pool.submit(fetcher.fetch, name_of(1), scene.destination)
        gate.wait_reached()
        fetcher.fetch(name_of(2), scene.destination)
        gate.open()
        with pytest.raises(FetchInDoubt, match="newer request"):
            abandoned.result(20)
    assert scene.destination.read_bytes() == segment_bytes(name_of(2))
    assert scene.leftovers() == []


def test_requests_for_one_destination_at_once_never_mix_their_bytes(scene: Scene) -> None:
    fetcher = scene.fetcher()
    start = threading.Barrier(4)

    def ask(number: int) -> int:
        start.wait(20)
        try:
            return fetcher.fetch(name_of(number), scene.destination)
        except FetchInDoubt:
            return 0

    for _ in range(5):
        with ThreadPoolExecutor(4) as pool:
            sizes = list(pool.map(ask, (1, 2, 3, 4)))
        assert MIB in sizes
        assert scene.destination.read_bytes() in [segment_bytes(name_of(n)) for n in (1, 2, 3, 4)]
    assert scene.leftovers() == []


def test_requests_for_different_destinations_do_not_disturb_each_other(scene: Scene) -> None:
    fetcher = scene.fetcher()

    def ask(number: int) -> bytes:
        destination = scene.folder / f"to-{number}"
        fetcher.fetch(name_of(number), destination)
        return destination.read_bytes()

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ask, (1, 2, 3, 4))) == [segment_bytes(name_of(n)) for n in (1, 2, 3, 4)]


def test_a_timeline_of_which_only_the_history_is_there_ends_nothing(scene: Scene) -> None:
    """A promotion that has archived nothing yet: what lies behind the parent's end stays what it was."""
    path = wal_file(scene.folder.parent / "pg_wal", "00000003.history", b"1\t0/400000\tx\n2\t0/500000\ty\n")
    scene.writer.archive(path)
    with pytest.raises((ProvenAbsent, FetchInDoubt)):
        scene.fetch(name_of(7, 3))
    with pytest.raises(FetchInDoubt):
        scene.fetch(name_of(5))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_file_belongs_to_whom_the_folder_belongs(scene: Scene) -> None:
    """PostgreSQL has to be able to read and remove what a server that runs as root puts there."""
    os.chown(scene.folder, 65_534, 65_533)
    scene.fetch(name_of(1))
    found = scene.destination.stat()
    assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (65_534, 65_533, 0o600)
