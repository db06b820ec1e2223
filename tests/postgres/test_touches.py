"""What `find` reads from WAL that real servers wrote, against what the test itself did, on every major."""

from __future__ import annotations

import random
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import psycopg
import pytest

from restore.core.collecting import Asked, Collector
from restore.core.filehistory import Follower, Range
from restore.core.findings import Kind, findings
from restore.core.namesakes import namesakes, unlisted, unseen
from restore.core.tables import Listed, tables_named
from tests.core.evidence import SIZE, Line, read_wal, waldump
from tests.core.twins import joined, walked_alike
from tests.kit.postgres import QUICK, open_folder, seldom
from tests.postgres.deeds import TABLES, Deeds, Doer
from walarchiver.core.lsn import Lsn
from walarchiver.core.relfile import RelFile
from walarchiver.core.scan import Ending
from walarchiver.core.stretch import walk_stretch
from walarchiver.core.touch import Touches, Watch
from walarchiver.embedded.postgres import MIB, EmbeddedCluster
from walarchiver.postgres.relations import read_relations

KINDS = frozenset(kind for kind in Kind if kind is not Kind.UNCLEAR)
STEPS = 90
COMPRESSED = 17
"""On this major names in page images cannot be read, so that tables between two lists may be missed."""


@dataclass
class Played:
    """What was done on a server, the WAL of it, and lists of relations taken on the way."""

    major: int
    done: Deeds
    aborted: Deeds
    wal: dict[int, bytes]
    lines: list[Line]
    lists: list[Listed]
    other: Listed
    """Of a database that was dropped."""


def play(major: int, cluster: EmbeddedCluster) -> Played:
    lists: list[Listed] = []

    def listed(source: str) -> None:
        found = read_relations(cluster.dsn(), only="postgres").databases
        lists.extend(Listed(source, one) for one in found)

    with psycopg.connect(cluster.dsn(), autocommit=True) as connection:
        doer = Doer(connection, random.Random(major))
        doer.make()
        cluster.psql("CHECKPOINT")
        listed("the first list")
        cluster.psql("SELECT pg_switch_wal()")
        for step in range(STEPS):
            doer.anything()
            if step % 30 == 29:
                listed(f"the list after {step}")
    cluster.psql("CREATE DATABASE other")
    cluster.psql("CREATE TABLE gone(i int)", dbname="other")
    (other,) = read_relations(cluster.dsn(), only="other").databases
    cluster.psql("DROP DATABASE other")
    cluster.psql("SELECT pg_switch_wal()")
    cluster.stop()
    wal = read_wal(cluster.data_dir / "pg_wal", 1)
    first = lists[0].database.after // SIZE
    wal = {number: data for number, data in wal.items() if number >= first}
    return Played(
        major, doer.done, doer.aborted, wal, waldump(cluster, 1, wal), lists, Listed("its list", other)
    )


@pytest.fixture(
    scope="module", params=(14, *seldom(15, 16), COMPRESSED, *seldom(18)), ids=lambda major: f"pg{major}"
)
def played(request: pytest.FixtureRequest) -> Iterator[Played]:
    folder = open_folder("wa-find-")
    level = "logical" if request.param in (15, 17) else "replica"
    settings = {
        **QUICK,
        "wal_level": level,
        "max_prepared_transactions": "5",
        "wal_keep_size": "2GB",
        "full_page_writes": "on",
        "wal_compression": "on" if request.param == COMPRESSED else "off",
    }
    cluster = EmbeddedCluster(request.param, folder / "pg", settings=settings, durable=False)
    try:
        cluster.create(segment_bytes=MIB).start()
        yield play(request.param, cluster)
    finally:
        cluster.kill()
        shutil.rmtree(folder, ignore_errors=True)


def pieces(played: Played, watch: Watch, sizes: Sequence[int], first: int | None = None) -> Iterator[Touches]:
    """The WAL walked in pieces of so many segments, in turn."""
    number, turn = min(played.wal) if first is None else first, 0
    while number <= max(played.wal):
        last = min(number + sizes[turn % len(sizes)] - 1, max(played.wal))
        stretch = walk_stretch(number, last, played.wal.get, segment_size=SIZE, watch=watch)
        assert stretch.ending in (Ending.WHOLE, Ending.ZERO), stretch.problem
        yield from stretch.found
        if stretch.ending is Ending.ZERO:
            return
        number, turn = last + 1, turn + 1


def told(
    played: Played,
    table: str,
    lists: Sequence[Listed],
    *,
    sizes: Sequence[int] = (4,),
    aborted: bool = False,
    first: int | None = None,
) -> tuple[dict[int, Counter[str]], list[str]]:
    """What is found of a table, by transaction id, and what is not certain."""
    wanted = tables_named(lists, table, None)
    files = frozenset(file for one in wanted.tables for file in one.files)
    while True:
        collector = Collector(Asked(files, KINDS, 0, 2**62, 10**6, aborted=aborted), complete=True)
        for found in pieces(played, Watch(files, {wanted.database: wanted.catalog}), sizes, first):
            collector.add(found)
        start = Lsn((min(played.wal) if first is None else first) * SIZE)
        span = Range(start, Lsn((max(played.wal) + 1) * SIZE), collector.settled_xid)
        follower = Follower(collector.changes, wanted.database, span)
        tables, unread = namesakes(collector.changes, wanted)
        histories = [
            (
                one,
                follower.follow(
                    one.name, one.sightings, frozenset(collector.touched), oid=one.oid, files=one.files
                ),
            )
            for one in (*wanted.tables, *tables)
        ]
        met = {file for _one, history in histories for file in history.files} - files
        if not met:
            break
        files |= met
    answer: dict[int, Counter[str]] = {}
    for finding in findings(collector.transactions(), histories, wanted.database, KINDS):
        if not aborted and not finding.transaction.committed:
            continue
        rows = finding.rows
        count = Counter(inserted=rows.inserted, updated=rows.updated, deleted=rows.deleted)
        for kind in finding.kinds & {Kind.DROP, Kind.TRUNCATE, Kind.UNCLEAR}:
            count[str(kind)] = 1
        if +count:
            answer[finding.transaction.xid] = +count
    doubts = [doubt for _one, history in histories for doubt in history.doubts]
    doubts += unseen(histories, unread) + unlisted(histories, wanted, collector.changes, 0)
    return answer, doubts


def test_a_dropped_database_takes_its_tables_along_before_the_commit(played: Played) -> None:
    """Its files go when the record of the drop is replayed, so that is where to stop."""
    wanted = tables_named([played.other], "gone", "other")
    (table,) = wanted.tables
    files = frozenset(table.files)
    collector = Collector(Asked(files, KINDS, 0, 2**62, 10), complete=True)
    for found in pieces(played, Watch(files, {wanted.database: wanted.catalog}), (4,)):
        collector.add(found)
    span = Range(Lsn(min(played.wal) * SIZE), Lsn((max(played.wal) + 1) * SIZE), collector.settled_xid)
    follower = Follower(collector.changes, wanted.database, span)
    history = follower.follow(table.name, table.sightings, frozenset(collector.touched), oid=table.oid)
    kinds = frozenset({Kind.DROP})
    (finding,) = findings(collector.transactions(), [(table, history)], wanted.database, kinds)
    (line,) = (line for line in played.lines if line.rmgr == "Database" and line.word == "DROP")
    assert (finding.before, finding.by_xid, finding.kinds) == (line.lsn, False, {Kind.DROP})
    assert finding.transaction.xid == line.xid
    assert finding.transaction.lsn > line.lsn


def expected(deeds: Deeds, table: str) -> dict[int, Counter[str]]:
    found = {}
    for (xid, name), count in deeds.items():
        if name == table:
            one = Counter(count)
            del one["rewrite"]
            for once in ("drop", "truncate"):
                one[once] = min(1, one[once])
            if one["drop"]:
                one["truncate"] = 0  # a file that ends in a drop is told as dropped
            if +one:
                found[xid] = +one
    return found


def without_truncate_beside_drop(found: dict[int, Counter[str]]) -> dict[int, Counter[str]]:
    for one in found.values():
        if one["drop"]:
            del one["truncate"]
    return found


@pytest.mark.parametrize("table", TABLES)
def test_with_all_lists_everything_done_is_found_and_nothing_else(played: Played, table: str) -> None:
    found, doubts = told(played, table, played.lists)
    if doubts:
        assert played.major == COMPRESSED
        assert "names cannot be read" in doubts[0]
        return
    assert without_truncate_beside_drop(found) == expected(played.done, table)


def test_the_pieces_in_which_wal_is_walked_do_not_matter(played: Played) -> None:
    for table in TABLES:
        whole = told(played, table, played.lists, sizes=(10**6,))
        assert told(played, table, played.lists, sizes=(1, 2, 1, 3)) == whole


def test_with_fewer_lists_the_answer_is_the_same_or_said_to_be_uncertain(played: Played) -> None:
    certain = 0
    for lists in (
        played.lists[:1],
        played.lists[-1:],
        [played.lists[0], played.lists[-1]],
        played.lists[1:2],
    ):
        for table in TABLES:
            found, doubts = told(played, table, lists)
            if not doubts:
                certain += 1
                assert without_truncate_beside_drop(found) == expected(played.done, table), (
                    table,
                    lists[0].source,
                )
    assert certain > 4


def test_what_was_rolled_back_is_shown_when_asked_for(played: Played) -> None:
    for table in ("keyed", "parted"):
        found, _doubts = told(played, table, played.lists, aborted=True)
        for (xid, name), count in played.aborted.items():
            if name == table and not {"truncate", "rewrite", "drop"} & count.keys():
                assert found[xid] == count


def test_the_records_counted_are_those_that_pg_waldump_prints(played: Played) -> None:
    """Per transaction id and file: by the words and the first block reference of each line."""
    wanted = tables_named(played.lists, "keyed", None)
    files = frozenset(file for one in wanted.tables for file in one.files)
    assert files
    printed: Counter[tuple[int, RelFile, str]] = Counter()
    for line in played.lines:
        block = re.search(r"blkref #0: rel (\d+/\d+/\d+)", line.rest)
        if line.rmgr not in ("Heap", "Heap2") or block is None or RelFile.parse(block[1]) not in files:
            continue
        word = line.word.removesuffix("+INIT")
        count = 1
        if word == "MULTI_INSERT":
            tuples = re.search(r"(?:ntuples: |)(\d+) tuples|ntuples: (\d+)", line.rest)
            assert tuples is not None, line
            count = int(tuples[1] or tuples[2])
        kind = {"INSERT": "inserted", "MULTI_INSERT": "inserted", "DELETE": "deleted"}.get(word)
        kind = kind or {"UPDATE": "updated", "HOT_UPDATE": "updated"}.get(word)
        if kind is not None:
            printed[line.xid, RelFile.parse(block[1]), kind] += count
    counted: Counter[tuple[int, RelFile, str]] = Counter()
    for found in pieces(played, Watch(files, {}), (3,)):
        for xid, touch in joined([found]).touches.items():
            for file, rows in touch.rows.items():
                for kind in ("inserted", "updated", "deleted"):
                    counted[xid, file, kind] += getattr(rows, kind)
    assert +counted == printed != Counter()


@pytest.mark.parametrize("table", [*TABLES, ""])
def test_the_compiled_part_tells_what_the_plain_walk_tells(played: Played, table: str) -> None:
    wanted = tables_named(played.lists, table or TABLES[0], None)
    files = frozenset(file for one in wanted.tables for file in one.files) if table else frozenset()
    watch = Watch(files, {wanted.database: wanted.catalog})
    stretch, found = walked_alike(played.wal, watch)
    assert stretch.ending in (Ending.WHOLE, Ending.ZERO), stretch.problem
    assert len(found.ends) > STEPS // 2
    for number, pages in played.wal.items():  # each alone, as they are sifted
        walked_alike({number: pages}, watch)


def test_damaged_and_cut_wal_is_told_alike(played: Played) -> None:
    wanted = tables_named(played.lists, "keyed", None)
    files = frozenset(file for one in wanted.tables for file in one.files)
    watch = Watch(files, {wanted.database: wanted.catalog})
    chance = random.Random(played.major)
    first = min(played.wal)
    bad = bytearray(played.wal[first])
    bad[8192] ^= 1  # of a page's magic
    assert walked_alike({first: bytes(bad)}, watch)[0].ending is Ending.BAD
    cut_off = walked_alike({first: played.wal[first][: 3 * 8192]}, watch)[0]
    assert cut_off.ending is not Ending.BAD  # cut off is not damaged
    for _turn in range(60):
        number = chance.choice(sorted(played.wal))
        content = bytearray(played.wal[number])
        for _ in range(chance.choice((0, 1, 3))):
            content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        cut = len(content) if chance.random() < 0.7 else chance.randrange(len(content))
        walked_alike({number: bytes(content[:cut])}, watch)
