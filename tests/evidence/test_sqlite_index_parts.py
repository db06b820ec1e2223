"""The index with parts: opened, merged, lost and asked from threads."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from tests.evidence.listings import marker, version
from tests.evidence.test_sqlite_index import ALL, ASKED, entries
from tests.evidence.test_sqlite_index import index as index
from walarchiver.bucketports import KeyRange
from walarchiver.core.version import StoreMs
from walarchiver.errors import IndexUnavailable
from walarchiver.evidence.openindex import open_index
from walarchiver.evidence.parquetindex import ParquetIndex, folder_of
from walarchiver.evidence.sqliteindex import SqliteIndex


def test_a_large_index_is_opened_with_parts_and_keeps_its_answers(tmp_path: Path) -> None:
    path = tmp_path / "index.db"
    small = open_index(path)
    assert isinstance(small, SqliteIndex) and not isinstance(small, ParquetIndex)
    small.ingest(ALL, entries(500), asked=ASKED)
    answers = [*small.as_of(StoreMs(250_000))], small.totals(StoreMs(250_000)), small.unshipped(keys_max=600)
    small.close()
    large = open_index(path, parquet_from_rows=400)
    assert isinstance(large, ParquetIndex)
    large.merge()
    assert large.rows_here == 0
    assert (
        [*large.as_of(StoreMs(250_000))],
        large.totals(StoreMs(250_000)),
        large.unshipped(keys_max=600),
    ) == answers
    large.close()
    again = open_index(path)
    assert isinstance(again, ParquetIndex), "once there are parts they are used"
    again.ingest(KeyRange("k000007", "k000007"), [marker("k000007", "m", 300_000)], asked=StoreMs(400_000))
    assert again.totals(StoreMs(250_000)).objects == answers[1].objects, (
        "covered from 300 on, and gone only now"
    )
    assert again.totals(StoreMs(300_000)).objects == 300
    again.close()


def test_parts_that_nobody_names_are_removed_by_the_next_merge_but_one(tmp_path: Path) -> None:
    path = tmp_path / "index.db"
    index = ParquetIndex(path, part_rows=100)
    index.ingest(ALL, entries(300), asked=ASKED)
    index.merge()
    first = sorted(file.name for file in folder_of(path).iterdir())
    assert len(first) == 3
    (folder_of(path) / "99999999.parquet").write_bytes(b"left by a crash")
    reading = index.as_of(StoreMs(10**9))
    next(reading)
    index.ingest(
        KeyRange("k000001", "k000001"), [version("k000001", "new", 5, latest=True)], asked=StoreMs(ASKED + 1)
    )
    index.merge()
    second = sorted(file.name for file in folder_of(path).iterdir())
    assert set(first) < set(second), "who reads keeps his"
    assert len(list(reading)) == 299
    index.merge()
    third = {file.name for file in folder_of(path).iterdir()}
    assert third == set(second) - {first[0]}, "the part that was written anew"
    index.close()


def test_a_part_that_is_lost_is_an_error_and_no_absence(tmp_path: Path) -> None:
    path = tmp_path / "index.db"
    index = ParquetIndex(path)
    index.ingest(ALL, entries(10), asked=ASKED)
    index.merge()
    for file in folder_of(path).iterdir():
        file.unlink()
    with pytest.raises(IndexUnavailable, match="part"):
        index.totals(StoreMs(10**9))
    with pytest.raises(IndexUnavailable, match="part"):
        index.history("k000001")
    index.close()


def test_threads_ask_parts_while_one_merges(tmp_path: Path) -> None:
    index = ParquetIndex(tmp_path / "index.db", part_rows=200, changes_max=300)
    index.ingest(ALL, entries(1000), asked=ASKED)
    faults: list[BaseException] = []
    names = [entry.key for entry in entries(1000)]

    def ask() -> None:
        try:
            for _ in range(6):
                assert index.totals(StoreMs(10**9), prefix="k").objects == 1000
                assert [row.entry.key for row in index.as_of(StoreMs(10**9))] == names
                assert [key for key, rows in index.histories(names[::50]) if rows] == names[::50]
        except BaseException as fault:
            faults.append(fault)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    newer = [version(name, "new", 10**6, latest=True) for name in names]
    shown = [entry for pair in zip(newer, entries(1000), strict=True) for entry in pair]
    index.ingest(ALL, shown, asked=StoreMs(ASKED + 1))
    assert index.rows_here == 0, "merged"
    for thread in threads:
        thread.join()
    index.close()
    assert not faults
