"""The shells of unpacking: its pace, what a first failure ends, what is written twice when a copy is bad."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from restore import durable, pipeline
from restore.core.increment import Increment, header_bytes, is_page, parse_increment
from restore.filesums import FileSums
from restore.manifest import CRC32C, ManifestFile, crc32c_text
from restore.pacing import Pace
from restore.partsource import Source
from restore.pipeline import Task, unpack_all
from restore.streamwriter import Range, StreamWriter
from walarchiver.core.crc32c import crc32c
from walarchiver.errors import MalformedObject, ObjectDamaged, RestoreFailed
from walarchiver.format.records import BackupPart, StoredObject


class Waiting:
    """A clock that only waiting moves."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def now_us(self) -> int:
        return round(self.now_s * 1e6)

    def monotonic_s(self) -> float:
        return self.now_s

    def wait(self, seconds: float) -> None:
        self.now_s += seconds


@given(st.lists(st.integers(0, 5000), max_size=40))
def test_no_more_than_the_rate_passes_but_for_a_second_at_first(counts: list[int]) -> None:
    clock = Waiting()
    pace = Pace(1000, clock, clock.wait)
    for count in counts:
        pace.take(count)
    assert clock.now_s - 100 == pytest.approx(max(0.0, sum(counts) / 1000 - 1))


def test_what_was_not_used_while_nothing_came_is_not_saved_up() -> None:
    clock = Waiting()
    pace = Pace(1000, clock, clock.wait)
    pace.take(1000)
    clock.now_s += 3600
    pace.take(3000)
    assert clock.now_s == pytest.approx(100 + 3600 + 2)


def tasks(count: int, writer: StreamWriter | None = None) -> list[Task]:
    stored = StoredObject("part", 1, "0" * 64, None)
    return [
        Task("b", BackupPart(n, "tar", 0, n, 1, "", stored), cast(StreamWriter, writer)) for n in range(count)
    ]


@pytest.mark.parametrize("where", ["fetched", "write_part"])
def test_the_first_failure_is_told_and_ends_all(monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    begun: list[int] = []

    def fetched(_archive: Source, part: BackupPart) -> bytes:
        begun.append(part.n)
        if where == "fetched" and part.n == 3:
            raise ObjectDamaged("part 3")
        return b"x"

    def write_part(_archive: Source, task: Task, _body: bytes) -> None:
        if where == "write_part" and task.part.n == 3:
            raise ObjectDamaged("part 3")

    monkeypatch.setattr(pipeline, "fetched", fetched)
    monkeypatch.setattr(pipeline, "write_part", write_part)
    with pytest.raises(ObjectDamaged, match="part 3"):
        unpack_all(cast(Source, None), tasks(5000), workers=2)
    assert len(begun) < 5000


def test_a_process_that_gets_no_more_threads_ends_instead_of_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    class Short(ThreadPoolExecutor):
        def submit(self, *given: Any, **more: Any) -> Future[Any]:
            if self._thread_name_prefix == "unpack":
                raise RuntimeError("can't start new thread")
            return super().submit(*given, **more)

    monkeypatch.setattr(pipeline, "ThreadPoolExecutor", Short)
    monkeypatch.setattr(pipeline, "fetched", lambda _archive, _part: b"x")
    with ThreadPoolExecutor(1) as aside:
        run = aside.submit(unpack_all, cast(Source, None), tasks(9), workers=2)
        with pytest.raises(RuntimeError, match="start new thread"):
            run.result(20)


def test_every_part_is_written_and_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []
    told: list[tuple[int, int]] = []
    monkeypatch.setattr(pipeline, "fetched", lambda _archive, _part: b"x")
    monkeypatch.setattr(pipeline, "write_part", lambda _archive, task, _body: written.append(task.part.n))
    unpack_all(
        cast(Source, None),
        tasks(300),
        workers=3,
        progress=lambda progress: told.append((progress.done, progress.total)),
    )
    assert sorted(written) == list(range(300))
    assert told == [(n + 1, 300) for n in range(300)]


def test_a_part_that_was_bad_and_comes_again_counts_once(tmp_path: Path) -> None:
    content = os.urandom(1000)
    listed = ManifestFile("a", 1000, CRC32C, crc32c_text(crc32c(content)))
    sums = FileSums({"a": listed})
    writer = StreamWriter(tmp_path, {0: 1512}, {0: [Range(512, 1000, tmp_path / "a", "a")]}, sums)
    writer.apply(0, 0, bytes(512) + content[:100])

    def bad_copy() -> None:
        with writer.part(0, 612, 900) as part:
            part.feed(bytes(500))
            raise ObjectDamaged("its digest")

    with pytest.raises(ObjectDamaged):
        bad_copy()
    with pytest.raises(RestoreFailed, match="stream 0 is not complete"):
        writer.check_complete()
    with writer.part(0, 612, 900) as part:
        part.feed(content[100:101])
        part.feed(content[101:])
    writer.check_complete()
    assert (tmp_path / "a").read_bytes() == content
    assert sums.judged(["a"]) == ([], [])


def test_a_part_that_ends_early_or_goes_on_is_refused(tmp_path: Path) -> None:
    writer = StreamWriter(tmp_path, {0: 1024}, {0: [Range(512, 10, tmp_path / "a", "a")]})
    for length in (511, 513):
        with pytest.raises(MalformedObject), writer.part(0, 0, 512) as part:
            part.feed(bytes(length))


@given(st.sets(st.integers(0, 60)), st.integers(0, 60), st.none() | st.integers(0, 60))
def test_the_runs_of_an_increment_are_its_blocks(
    blocks: set[int], truncation: int, below: int | None
) -> None:
    numbers = sorted(blocks)
    words = [0xD3AE1F0D, len(numbers), truncation, *numbers]
    found = parse_increment(b"".join(word.to_bytes(4, "little") for word in words), 8192)
    runs = list(found.runs(below))
    seen = [run.block + at for run in runs for at in range(run.count)]
    assert seen == [number for number in numbers if below is None or number < below]
    assert all(one.block + one.count < other.block for one, other in pairwise(runs))
    for run in runs:
        assert run.offset == header_bytes(len(numbers), 8192) + numbers.index(run.block) * 8192
    assert found.result_blocks == max(truncation, max(numbers, default=-1) + 1)
    assert isinstance(found, Increment)


@pytest.mark.parametrize("words", [[0xD3AE1F0D, 2, 5, 3, 3], [0xD3AE1F0D, 2, 5, 4, 3], [0xD3AE1F0E, 0, 0]])
def test_an_increment_that_cannot_be_is_refused(words: list[int]) -> None:
    with pytest.raises(MalformedObject):
        parse_increment(b"".join(word.to_bytes(4, "little") for word in words), 8192)


def test_a_page_has_its_size_in_its_header_or_is_new() -> None:
    page = bytearray(8192)
    assert is_page(bytes(page))
    page[14:16] = (8000).to_bytes(2, "little")
    assert not is_page(bytes(page))
    page[18:20] = (8192 + 4).to_bytes(2, "little")
    assert is_page(bytes(page))


def test_every_file_and_folder_is_flushed_where_syncfs_cannot_be_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "root" / "a").mkdir(parents=True)
    (tmp_path / "root" / "a" / "file").touch()
    flushed: list[Path] = []
    monkeypatch.setattr(durable, "_syncfs", lambda: None)
    monkeypatch.setattr(durable, "sync_path", flushed.append)
    root = tmp_path / "root"
    durable.sync_tree([root], [root / "a" / "file"], workers=1)
    assert set(flushed) == {root / "a" / "file", root, root / "a", tmp_path}


def test_a_failed_flush_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing() -> Callable[[int], int]:
        return lambda _handle: -1

    monkeypatch.setattr(durable, "_syncfs", failing)
    monkeypatch.setattr(ctypes, "get_errno", lambda: errno.EIO)
    with pytest.raises(OSError, match="Input/output error"):
        durable.sync_tree([tmp_path], [], workers=1)
