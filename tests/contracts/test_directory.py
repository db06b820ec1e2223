"""What is special about a store in a folder: durability, leftovers, a volume that goes away."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tests.kit.chance import RealClock, SeededRandom, SteppingClock
from walarchiver.errors import KeyTaken, ObjectDamaged, StoreDenied, StoreMisbehaves, StoreUnavailable
from walarchiver.storage.directory import DirectoryStore


def opened(root: Path) -> DirectoryStore:
    return DirectoryStore(root, RealClock(), SeededRandom())


def test_keys_sort_as_in_a_bucket_also_where_a_folder_and_a_file_share_a_beginning(tmp_path: Path) -> None:
    store = opened(tmp_path)
    names = ["a-b", "a.b", "a/x", "a/y/z", "a0", "a/y-z", "a/y0"]
    for name in names:
        store.put_new(name, b"x")
    assert [found.key for found in store.list_keys("")] == sorted(names)
    for start in [*names, "a", "a/", "a/y", "a/z"]:
        expected = [name for name in sorted(names) if name > start]
        assert [found.key for found in store.list_keys("", start_after=start)] == expected


def test_a_put_leaves_one_file_and_nothing_else(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.put_new("v1/c/1/a", b"x")
    with pytest.raises(KeyTaken):
        store.put_new("v1/c/1/a", b"y")
    files = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()]
    assert files == ["v1/c/1/a"]


def test_a_put_syncs_the_file_before_it_has_a_name_and_every_new_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened(tmp_path)
    steps: list[str] = []
    real_fsync, real_link = os.fsync, os.link

    def fsync(fd: int) -> None:
        steps.append("fsync " + os.readlink(f"/proc/self/fd/{fd}").removeprefix(str(tmp_path)))
        real_fsync(fd)

    def link(source: Path, target: Path) -> None:
        steps.append("link " + str(target).removeprefix(str(tmp_path)))
        real_link(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "link", link)
    store.put_new("v1/c/a", b"x")
    assert steps[0].startswith("fsync /.incoming/")
    assert steps[1:] == ["link /v1/c/a", "fsync /v1/c", "fsync /v1", "fsync "]
    steps.clear()
    with pytest.raises(KeyTaken):
        store.put_new("v1/c/a", b"x")
    assert steps[1:] == ["link /v1/c/a", "fsync /v1/c"]


@pytest.mark.parametrize(
    ("number", "error"),
    [(errno.EIO, StoreUnavailable), (errno.ENOSPC, StoreUnavailable), (errno.EACCES, StoreDenied)],
)
def test_a_put_whose_sync_fails_is_not_reported_as_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, error: type[Exception]
) -> None:
    store = opened(tmp_path)

    def fsync(fd: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(error, match="create v1/a"):
        store.put_new("v1/a", b"x")
    monkeypatch.undo()
    assert store.get("v1/a", bytes_max=10) is None
    assert list((tmp_path / ".incoming").iterdir()) == []
    store.put_new("v1/a", b"x")


def test_leftovers_are_invisible_and_go_after_a_day(tmp_path: Path) -> None:
    (tmp_path / ".incoming").mkdir()
    leftover = tmp_path / ".incoming" / "0011"
    leftover.write_bytes(b"half an obj")
    written_us = leftover.stat().st_mtime_ns // 1000
    store = DirectoryStore(tmp_path, SteppingClock(written_us + 23 * 3600 * 1_000_000), SeededRandom())
    assert list(store.list_keys("")) == []
    assert leftover.exists()
    DirectoryStore(tmp_path, SteppingClock(written_us + 25 * 3600 * 1_000_000), SeededRandom())
    assert not leftover.exists()


def test_a_root_that_does_not_exist_is_refused_not_made(tmp_path: Path) -> None:
    with pytest.raises(StoreDenied, match="cannot be used"):
        opened(tmp_path / "absent")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreDenied, match="not a folder"):
        opened(tmp_path / "file")
    assert not (tmp_path / "absent").exists()


def test_when_the_volume_is_gone_nothing_is_called_absent(tmp_path: Path) -> None:
    root = tmp_path / "volume"
    root.mkdir()
    store = opened(root)
    store.put_new("v1/a", b"x")
    root.rename(tmp_path / "elsewhere")
    for replaced in (False, True):
        if replaced:
            root.mkdir()
        with pytest.raises(StoreUnavailable):
            store.get("v1/a", bytes_max=10)
        with pytest.raises(StoreUnavailable):
            store.get_range("v1/a", start=0, length=1)
        with pytest.raises(StoreUnavailable):
            list(store.list_keys("v1/"))
        with pytest.raises(StoreUnavailable):
            store.put_new("v1/b", b"y")
        with pytest.raises(StoreUnavailable):
            store.delete_version("v1/a", version_id=None)
    assert list(root.iterdir()) == []


def test_a_symbolic_link_is_named_not_followed(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "outside").write_bytes(b"secret")
    store = opened(root)
    (root / "link").symlink_to(tmp_path / "outside")
    with pytest.raises(StoreDenied):
        store.get("link", bytes_max=100)
    with pytest.raises(StoreMisbehaves, match="neither a file nor a folder"):
        list(store.list_keys(""))


def test_a_file_that_shrinks_while_it_is_read_is_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened(tmp_path)
    store.put_new("a", b"0123456789")
    real_pread = os.pread
    monkeypatch.setattr(
        os, "pread", lambda fd, length, at: real_pread(fd, min(length, 4), at) if at < 8 else b""
    )
    with pytest.raises(ObjectDamaged, match="8 of its 10 bytes"):
        store.get("a", bytes_max=100)


def test_a_closed_store_answers_nothing(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.close()
    with pytest.raises(StoreUnavailable, match="closed"):
        store.get("a", bytes_max=1)
