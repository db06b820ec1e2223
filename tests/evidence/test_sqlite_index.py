"""What a version index owes besides right answers: crashes, foreign files, threads and processes."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from tests.evidence.listings import version
from tests.kit.smalldisk import fill, small_disk
from walarchiver.bucketports import KeyRange, Observation
from walarchiver.core.version import Entry, StoreMs
from walarchiver.errors import IndexForeign, IndexUnavailable, StoreMisbehaves
from walarchiver.evidence import sqliteingest
from walarchiver.evidence.indexrow import (
    facts_of,
)
from walarchiver.evidence.openindex import open_index
from walarchiver.evidence.parquetindex import ParquetIndex
from walarchiver.evidence.spool import Spool
from walarchiver.evidence.sqliteindex import SqliteIndex

ASKED = StoreMs(100_000)
ALL = KeyRange()


def entries(count: int, *, prefix: str = "k") -> list[Entry]:
    return [version(f"{prefix}{n:06}", f"v{n}", n * 1000, latest=True, size=n) for n in range(count)]


@pytest.fixture
def index(tmp_path: Path) -> Iterator[SqliteIndex]:
    opened = SqliteIndex(tmp_path / "index.db")
    yield opened
    opened.close()


# --- files -----------------------------------------------------------------------------------------------


def test_everything_is_there_when_it_is_opened_again(tmp_path: Path) -> None:
    index = SqliteIndex(tmp_path / "index.db")
    index.ingest(ALL, entries(10), asked=ASKED)
    index.complete_upload("later", "v1", StoreMs(5))
    index.observe(Observation(ASKED, "scan", "{}"))
    told = [*index.as_of(ASKED)], index.unshipped(keys_max=99), index.observations(), index.changes
    index.close()
    again = SqliteIndex(tmp_path / "index.db")
    assert ([*again.as_of(ASKED)], again.unshipped(keys_max=99), again.observations(), again.changes) == told
    again.ingest(KeyRange("later"), [version("later", "v1", 1, etag="e-2", latest=True)], asked=ASKED)
    assert again.history("later")[0].placed.begin == 5
    again.close()


@pytest.mark.parametrize(
    "content", [b"no database at all, but long enough to be looked at" * 200, b"SQLite format 3\0xx"]
)
def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "index.db"
    path.write_bytes(content)
    with pytest.raises(IndexForeign):
        open_index(path)
    assert path.read_bytes() == content


def test_another_programs_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "index.db"
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE theirs (x)")
    other.close()
    before = path.read_bytes()
    with pytest.raises(IndexForeign, match="another program"):
        open_index(path)
    assert path.read_bytes() == before


def test_an_index_of_another_release_is_refused_with_both_numbers(tmp_path: Path) -> None:
    path = tmp_path / "index.db"
    open_index(path).close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version=77")
    db.close()
    with pytest.raises(IndexForeign, match="schema 77, this release reads 1"):
        open_index(path)


def test_a_folder_that_is_not_there_is_no_traceback(tmp_path: Path) -> None:
    with pytest.raises(IndexUnavailable):
        open_index(tmp_path / "missing" / "index.db")


# --- listings that end badly, and crashes ------------------------------------------------------------------


def test_a_listing_that_fails_on_its_way_changes_nothing(index: SqliteIndex) -> None:
    index.ingest(ALL, entries(5), asked=ASKED)
    before = [*index.as_of(ASKED)], index.changes

    def failing() -> Iterator[Entry]:
        yield version("a", "v1", 5, latest=True)
        raise StoreMisbehaves("a page was cut off")

    with pytest.raises(StoreMisbehaves, match="cut off"):
        index.ingest(ALL, failing(), asked=StoreMs(ASKED + 1))
    assert ([*index.as_of(ASKED)], index.changes) == before


def test_a_key_outside_of_the_range_is_refused(index: SqliteIndex) -> None:
    with pytest.raises(StoreMisbehaves, match="'b'"):
        index.ingest(KeyRange("a", "a"), [version("a"), version("b")], asked=ASKED)
    assert index.history("a") == ()


_CRASHING = """
import os, sys
from pathlib import Path
from tests.evidence.test_sqlite_index import ALL, ASKED, entries
from walarchiver.evidence import sqliteingest
from walarchiver.evidence.sqliteindex import SqliteIndex
steps = int(sys.argv[2])
cover = sqliteingest.cover
def dying(*given):
    global steps
    cover(*given)
    steps -= 1
    if steps == 0:
        os._exit(9)
sqliteingest.cover = dying
SqliteIndex(Path(sys.argv[1]), rows_at_once=100).ingest(ALL, entries(1000), asked=ASKED)
"""


@pytest.mark.parametrize("steps", [1, 4, 10])
def test_a_crash_leaves_whole_steps_and_the_same_listing_does_the_rest(tmp_path: Path, steps: int) -> None:
    path = tmp_path / "index.db"
    done = subprocess.run([sys.executable, "-c", _CRASHING, str(path), str(steps)], check=False)
    assert done.returncode == 9
    index = SqliteIndex(path)
    assert [row.entry for row in index.as_of(StoreMs(10**9))] == entries(1000)[: (steps - 1) * 100]
    told = index.ingest(ALL, entries(1000), asked=ASKED)
    assert (told.added, told.gone) == (1000 - (steps - 1) * 100, 0)
    assert [row.entry for row in index.as_of(StoreMs(10**9))] == entries(1000)
    assert index.unshipped(keys_max=2000) == tuple(entry.key for entry in entries(1000))
    index.close()


def test_a_full_disk_takes_nothing_away_and_afterwards_all_goes_on(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 4 << 20) as disk:
        index = SqliteIndex(disk / "index.db")
        index.ingest(ALL, entries(100), asked=ASKED)
        fill(disk)
        with pytest.raises(IndexUnavailable, match="full"):
            index.ingest(ALL, entries(5000), asked=StoreMs(ASKED + 1))
        assert index.totals(StoreMs(10**9)).objects == 100
        (disk / "ballast").unlink()
        index.ingest(ALL, entries(5000), asked=StoreMs(ASKED + 2))
        assert index.totals(StoreMs(10**9)).objects == 5000
        index.close()


def test_a_merge_onto_a_full_disk_leaves_the_changes_where_they_are(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 8 << 20) as disk:
        index = ParquetIndex(disk / "index.db")
        index.ingest(ALL, entries(3000), asked=ASKED)
        fill(disk)
        with pytest.raises(IndexUnavailable):
            index.merge()
        (disk / "ballast").unlink()
        assert (index.rows_here, index.totals(StoreMs(10**9)).objects) == (3000, 3000)
        index.merge()
        assert (index.rows_here, index.totals(StoreMs(10**9)).objects) == (0, 3000)
        index.close()


def test_a_listing_that_cannot_be_put_aside_is_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from walarchiver.evidence import spool as module

    monkeypatch.setattr(module, "_PIECE", 1000)
    with small_disk(tmp_path / "disk", 1 << 20) as disk:
        index = SqliteIndex(disk / "index.db")
        fill(disk)
        with pytest.raises(IndexUnavailable, match="put aside"):
            index.ingest(ALL, entries(5000), asked=ASKED)
        index.close()


# --- at the same time --------------------------------------------------------------------------------------


def test_a_reader_keeps_the_state_that_it_began_with(index: SqliteIndex) -> None:
    index.ingest(ALL, entries(3000), asked=ASKED)
    reading = index.as_of(StoreMs(10**9))
    first = next(reading)
    index.ingest(ALL, [], asked=StoreMs(ASKED + 1))
    assert [first.entry, *(row.entry for row in reading)] == entries(3000)
    assert index.totals(StoreMs(10**9)).objects == 0


def test_it_can_be_opened_and_asked_while_somebody_writes_for_long(
    index: SqliteIndex, tmp_path: Path
) -> None:
    index.ingest(ALL, entries(5), asked=ASKED)
    with index._file.writing() as db:
        db.execute("DELETE FROM version")
        other = open_index(tmp_path / "index.db")
        assert other.totals(StoreMs(10**9)).objects == 5
        other.close()


def test_threads_write_and_read_beside_one_another(index: SqliteIndex) -> None:
    faults: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for turn in range(20):
                name = f"t{number}-"
                index.ingest(KeyRange(name, f"{name}\uffff"), entries(turn, prefix=name), asked=StoreMs(turn))
                assert index.totals(StoreMs(10**9), prefix=name).objects == turn
        except BaseException as fault:
            faults.append(fault)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults
    assert index.totals(StoreMs(10**9)).objects == 4 * 19


_READING = """
import json, sys
from pathlib import Path
from walarchiver.core.version import StoreMs
from walarchiver.evidence.openindex import open_index
index = open_index(Path(sys.argv[1]))
print(json.dumps([index.totals(StoreMs(10**9)).objects, index.changes]), flush=True)
sys.stdin.readline()
index.complete_upload("other", "v1", StoreMs(7))
print(json.dumps([index.totals(StoreMs(10**9)).objects, index.changes]), flush=True)
index.close()
"""


def test_another_process_reads_and_writes_while_this_one_has_it_open(
    index: SqliteIndex, tmp_path: Path
) -> None:
    index.ingest(ALL, entries(5), asked=ASKED)
    command = [sys.executable, "-c", _READING, str(tmp_path / "index.db")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        first = json.loads(other.stdout.readline())
        index.ingest(ALL, entries(7), asked=StoreMs(ASKED + 1))
        other.stdin.write("\n")
        other.stdin.flush()
        second = json.loads(other.stdout.readline())
    assert (first[0], second[0]) == (5, 7)
    assert second[1] > first[1]
    index.ingest(KeyRange("other"), [version("other", "v1", 1, etag="e-2")], asked=StoreMs(ASKED + 2))
    assert index.history("other")[0].placed.begin == 7


# --- the ends of intervals ---------------------------------------------------------------------------------


@pytest.mark.parametrize("is_merged", [False, True])
def test_a_removal_is_a_change_up_to_the_very_moment_at_which_it_was_missed(
    tmp_path: Path, is_merged: bool
) -> None:
    index = ParquetIndex(tmp_path / "index.db")
    index.ingest(ALL, [version("k", "v1", 1000, latest=True)], asked=StoreMs(5000))
    index.ingest(ALL, [], asked=StoreMs(9000))
    if is_merged:
        index.merge()
    assert [change.key for change in index.diff(StoreMs(8999), StoreMs(9000))] == ["k"]
    assert [change.key for change in index.diff(StoreMs(999), StoreMs(1000))] == ["k"]
    assert list(index.diff(StoreMs(1000), StoreMs(8999))) == []
    assert list(index.diff(StoreMs(9000), StoreMs(9999))) == []
    doubtful = [bool([*index.uncertain(StoreMs(at))]) for at in (1999, 2000, 5000, 5001, 8999, 9000)]
    assert doubtful == [True, False, False, True, True, False]
    index.close()


# --- very much at once -------------------------------------------------------------------------------------


def test_after_very_much_at_once_the_index_by_time_is_made_with_the_scan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqliteingest, "_BULK_ROWS", 1000)
    monkeypatch.setattr(sqliteingest, "_PART_OF_SCAN", 100)
    index = SqliteIndex(tmp_path / "index.db")
    for turn in range(4):
        many = entries(500, prefix=f"p{turn}-")
        index.ingest(KeyRange(f"p{turn}-", f"p{turn}-~"), many, asked=ASKED)
        assert has_by_begin(tmp_path) is (turn < 3), "put off behind 1000 rows"
    late = StoreMs(498_500)
    changed = [change.key for change in index.diff(late, StoreMs(10**9))]
    assert changed == [f"p{turn}-000499" for turn in range(4)]
    index.observe(Observation(ASKED, "scan", "{}"))
    assert has_by_begin(tmp_path)
    assert [change.key for change in index.diff(late, StoreMs(10**9))] == changed
    index.close()


def has_by_begin(folder: Path) -> bool:
    db = sqlite3.connect(folder / "index.db")
    found = db.execute("SELECT 1 FROM sqlite_master WHERE name='by_begin'").fetchone()
    db.close()
    return found is not None


def test_questions_take_the_way_that_they_are_meant_to(tmp_path: Path) -> None:
    """A whole bucket is read in the order of keys, a difference by time; SQLite might choose otherwise."""
    from walarchiver.evidence import sqlitequestions as q

    index = SqliteIndex(tmp_path / "index.db")
    index.close()
    db = sqlite3.connect(tmp_path / "index.db")
    named: dict[str, int | bytes] = {"earlier": 1, "later": 2, "first": b"", "end": b"\xff"}

    def plan(sql: str, values: Sequence[int | bytes] | Mapping[str, int | bytes]) -> str:
        return " ".join(line[3] for line in db.execute(f"EXPLAIN QUERY PLAN {sql}", values))

    for sql in (q._AS_OF, q._TOTALS):
        told = plan(sql, (b"", b"\xff", 1, 1))
        assert "USING PRIMARY KEY" in told
        assert "TEMP B-TREE" not in told
    told = plan(q._DIFF, named)
    assert "by_begin" in told
    assert "SCAN v" not in told
    assert "by_begin" in plan(q._BOUNDARY, (1, 2, b"", b"\xff"))
    db.close()


def test_a_listing_larger_than_memory_may_hold_is_sorted_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from walarchiver.evidence import spool as module

    monkeypatch.setattr(module, "_PIECE", 70)
    monkeypatch.setattr(module, "_BITE", 10)
    facts = facts_of(version(), lambda _name: 1)
    keys = [b"%04d" % (n * 37 % 1000) for n in range(1000)]
    spool = Spool(tmp_path, ((key, facts) for key in keys))
    assert [key for key, _ in spool.groups()] == sorted(keys)
    assert (spool.count, list(tmp_path.iterdir())) == (1000, [])
    spool.close()
