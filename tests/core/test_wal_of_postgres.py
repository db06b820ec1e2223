"""The record walk and the scans against pg_waldump, on WAL that real servers wrote.

Each major's server is made to write everything that has a form of its own: subtransactions,
two-phase commits, records over many segments, compressed page images, switches, restore points,
dropped databases, torn records of crashes, and a fork in the middle of a segment.
"""

from __future__ import annotations

import contextlib
import random
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import psycopg
import pytest

from tests.kit.postgres import as_server_user, open_folder
from walarchiver.core.commits import scan_segment
from walarchiver.core.history import TimelineHistory
from walarchiver.core.lsn import Lsn, format_lsn, parse_lsn
from walarchiver.core.moment import format_postgres
from walarchiver.core.scan import Ending, Event, EventKind, SegmentScan
from walarchiver.core.segment import Segment, SegmentBytes
from walarchiver.core.walpage import check_pages, check_segment, read_first_page
from walarchiver.core.walreader import CrcPolicy, Walk
from walarchiver.core.walrecord import RMGR_NAMES, WalRecord
from walarchiver.embedded.postgres import MIB, EmbeddedCluster

SIZE = SegmentBytes(MIB)
PAGE = 8192
SETTINGS = {
    "wal_level": "logical",
    "max_prepared_transactions": "20",
    "full_page_writes": "on",
    "wal_compression": "on",
    "wal_buffers": "64kB",
    "wal_keep_size": "1GB",
    "max_wal_size": "32MB",
    "autovacuum": "off",
}

RECORD_LINE = re.compile(
    r"rmgr: (\S+) +len \(rec/tot\): +\d+/ *(\d+), tx: +(\d+), lsn: (\S+), prev (\S+), desc: (\w+)(.*)"
)
TIME = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}) UTC")
EVENT_WORDS = {kind.value.upper() for kind in EventKind}

STATEMENTS = """
create table t(id serial primary key, x text)
begin; insert into t(x) values('a'); savepoint s; insert into t(x) values('b'); savepoint s2; \
    insert into t(x) values('c'); release s2; commit
begin; insert into t(x) values('a'); savepoint s; insert into t(x) values('b'); rollback to s; \
    insert into t(x) values('d'); commit
begin; insert into t(x) select repeat('z', 100) from generate_series(1, 1000); rollback
begin; insert into t(x) values('p'); savepoint q; insert into t(x) values('q'); prepare transaction 'gid one'
begin; create table t2 as select g from generate_series(1, 1000) g; prepare transaction 'gid two'
create table t3(i int)
begin; drop table t3; prepare transaction 'gid three'
rollback prepared 'gid three'
commit prepared 'gid one'
rollback prepared 'gid two'
begin; insert into t(x) values('open'); prepare transaction 'gid open'
select pg_create_restore_point('first point')
select pg_logical_emit_message(true, 'big', repeat('x', 3500000))
create table u as select repeat('y', 500) x from generate_series(1, 3000)
vacuum full u
truncate u
select pg_switch_wal()
insert into u values('after a switch')
select pg_switch_wal()
create database d1
drop database d1
select pg_create_restore_point('second')
select pg_create_restore_point('second')
checkpoint
drop table u
"""


@dataclass(frozen=True, slots=True)
class Line:
    """One record, as pg_waldump prints it."""

    rmgr: str
    total: int
    xid: int
    lsn: Lsn
    prev: Lsn
    word: str
    rest: str


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a server of one major left in pg_wal, and what pg_waldump says of it."""

    major: int
    parent: dict[int, bytes]
    parent_lines: list[Line]
    path: TimelineHistory
    child: dict[int, bytes]
    """Timeline 2, from the segment of the fork on."""
    child_lines: list[Line]

    @property
    def fork(self) -> int:
        return min(self.child)

    def on_path(self, number: int) -> bytes | None:
        return self.child.get(number) if number >= self.fork else self.parent.get(number)


def fill(cluster: EmbeddedCluster) -> None:
    """Write one of everything."""
    for statement in STATEMENTS.strip().replace("\\\n", "").splitlines():
        with psycopg.connect(cluster.dsn(), autocommit=True) as connection:
            connection.execute(statement)  # type: ignore[arg-type]
    with psycopg.connect(cluster.dsn(), autocommit=True) as connection:
        connection.execute("select pg_replication_origin_create('elsewhere')")
        connection.execute("select pg_replication_origin_session_setup('elsewhere')")
        connection.execute("begin")
        connection.execute("select pg_replication_origin_xact_setup('0/12345', now())")
        connection.execute("insert into t(x) values('from elsewhere')")
        connection.execute("commit")
    connect = ("-h", str(cluster.socket_dir), "-p", str(cluster.port), "-U", "postgres")
    cluster.program("pgbench", *connect, "-i", "-q", "postgres")
    cluster.program("pgbench", *connect, "-n", "-c", "4", "-t", "250", "postgres")


def crash_inside_a_record(cluster: EmbeddedCluster) -> None:
    """Kill the server while it writes records of several MB, and start it again."""

    def emit() -> None:
        with contextlib.suppress(psycopg.Error), psycopg.connect(cluster.dsn()) as connection:
            connection.execute(
                "select count(pg_logical_emit_message(false, 't', repeat('q', 7000000)))"
                " from generate_series(1, 200)"
            )

    with psycopg.connect(cluster.dsn(), autocommit=True) as watcher:
        insert_lsn = "select pg_current_wal_insert_lsn() - '0/0'"

        def position() -> int:
            row = watcher.execute(insert_lsn).fetchone()
            assert row is not None
            return int(row[0])

        before = position()
        writer = threading.Thread(target=emit)
        writer.start()
        while position() < before + 8 * MIB and writer.is_alive():
            pass
        cluster.kill()
    writer.join()
    cluster.start()


def read_wal(folder: Path, timeline: int) -> dict[int, bytes]:
    """The segments of one timeline without a break, the first one first."""
    files = sorted(folder.glob(f"{timeline:08X}" + "[0-9A-F]" * 16))
    found = {Segment.parse(file.name, SIZE).number: file.read_bytes() for file in files}
    assert list(found) == list(range(min(found), min(found) + len(found)))
    return found


def waldump(cluster: EmbeddedCluster, first: Segment) -> list[Line]:
    done = subprocess.run(
        [
            str(cluster.bin_dir / "pg_waldump"),
            "-p",
            str(cluster.data_dir / "pg_wal"),
            "-t",
            str(first.timeline),
            "-s",
            format_lsn(first.start(SIZE)),
        ],
        capture_output=True,
        text=True,
        check=False,  # 1 where the WAL ends
        env={"TZ": "UTC"},
        timeout=60,
    )
    lines = []
    for line in done.stdout.splitlines():
        if not line.startswith("rmgr: "):
            continue  # the note about where the first record was found
        match = RECORD_LINE.match(line)
        assert match is not None, line
        rmgr, total, xid, lsn, prev, word, rest = match.groups()
        lines.append(Line(rmgr, int(total), int(xid), parse_lsn(lsn), parse_lsn(prev), word, rest))
    return lines


def gather(major: int, folder: Path) -> Evidence:
    cluster = EmbeddedCluster(major, folder / f"pg{major}", settings=SETTINGS, durable=False)
    cluster.create(segment_bytes=MIB, data_checksums=False)
    try:
        cluster.start()
        fill(cluster)
        for _ in range(10):
            crash_inside_a_record(cluster)
            if torn_in(cluster):
                break
        cluster.psql("create table last(i int)")
        cluster.stop()
        pg_wal = cluster.data_dir / "pg_wal"
        parent = read_wal(pg_wal, 1)
        parent_lines = waldump(cluster, Segment(1, min(parent)))
        signal = cluster.data_dir / "standby.signal"
        signal.touch()
        as_server_user(cluster, signal)
        cluster.start()
        cluster.psql("select pg_promote()")
        cluster.psql("create table on_the_child(i int); select pg_switch_wal()")
        cluster.psql("insert into on_the_child values(1)")
        cluster.stop()
        child = read_wal(pg_wal, 2)
        history = TimelineHistory.parse(2, (pg_wal / "00000002.history").read_bytes())
        child_lines = waldump(cluster, Segment(2, min(child)))
    finally:
        cluster.kill()
    return Evidence(major, parent, parent_lines, history, child, child_lines)


def torn_in(cluster: EmbeddedCluster) -> bool:
    """Whether the server has overwritten a torn record."""
    pages = read_wal(cluster.data_dir / "pg_wal", 1)
    walk = Walk(iter(pages.items()), segment_size=SIZE, crc=CrcPolicy.NONE, wanted=frozenset())
    list(walk)
    return bool(walk.overwritten)


@pytest.fixture(scope="module", params=(14, 15, 16, 17, 18), ids=lambda major: f"pg{major}")
def evidence(request: pytest.FixtureRequest) -> Iterator[Evidence]:
    folder = open_folder("wa-wal-")
    try:
        yield gather(request.param, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def walk(evidence: Evidence, *, crc: CrcPolicy = CrcPolicy.ALL) -> Walk:
    return Walk(iter(evidence.parent.items()), segment_size=SIZE, crc=crc)


def as_lines(records: list[WalRecord]) -> list[tuple[str, int, int, Lsn, Lsn]]:
    return [(RMGR_NAMES[one.rmid], one.total, one.xid, one.start, one.prev) for one in records]


def without_words(lines: list[Line]) -> list[tuple[str, int, int, Lsn, Lsn]]:
    return [(line.rmgr, line.total, line.xid, line.lsn, line.prev) for line in lines]


def expected_events(lines: list[Line]) -> list[tuple[str, Lsn, int, str]]:
    """Kind, LSN, own xid and time of each event, from what pg_waldump prints."""
    found = []
    for line in lines:
        if line.rmgr != "Transaction" or line.word not in EVENT_WORDS:
            continue
        own = re.match(r"[ :]*(\d+):", line.rest)
        xid = int(own[1]) if own is not None and "_PREPARED" in line.word else line.xid
        time = TIME.search(line.rest)
        assert time is not None, line
        found.append((line.word.lower(), line.lsn, xid, time[1] + "+00"))
    return found


def told(events: list[Event]) -> list[tuple[str, Lsn, int, str]]:
    return [(one.kind.value, one.lsn, one.xid, format_postgres(one.time)) for one in events]


def scans(evidence: Evidence) -> tuple[list[SegmentScan], list[Event]]:
    """Every segment of timeline 1 up to the end of what was written, each scanned by itself."""
    found: list[SegmentScan] = []
    events: list[Event] = []
    last = evidence.parent_lines[-1].lsn // SIZE
    for number in range(min(evidence.parent), last + 1):
        scan, more = scan_segment(Segment(1, number), evidence.parent.get, segment_size=SIZE)
        found.append(scan)
        events += more
    return found, events


def test_the_record_list_is_that_of_pg_waldump(evidence: Evidence) -> None:
    found = walk(evidence)
    assert as_lines(list(found)) == without_words(evidence.parent_lines)
    assert (found.ending, found.problem) == (Ending.ZERO, "")


def test_every_record_can_be_taken_apart(evidence: Evidence) -> None:
    blocks = sum(len(record.parts().blocks) for record in walk(evidence, crc=CrcPolicy.NONE))
    printed = sum(line.rest.count("blkref #") for line in evidence.parent_lines)
    assert blocks == printed > 1000


def test_each_record_ends_where_the_next_may_start(evidence: Evidence) -> None:
    records = list(walk(evidence, crc=CrcPolicy.NONE))
    torn = {line.prev for line in evidence.parent_lines if line.word == "OVERWRITE_CONTRECORD"}
    for one, following in pairwise(records):
        header = 40 if one.end % SIZE == 0 else 24 if one.end % PAGE == 0 else 0
        assert following.start == one.end + header or one.start in torn, format_lsn(one.start)


def test_a_record_torn_by_a_crash_is_known_as_overwritten(evidence: Evidence) -> None:
    found = walk(evidence)
    list(found)
    named = [
        parse_lsn(re.search(r"lsn ([0-9A-F]+/[0-9A-F]+)", line.rest)[1])  # type: ignore[index]
        for line in evidence.parent_lines
        if line.word == "OVERWRITE_CONTRECORD"
    ]
    assert found.overwritten == named != []


def test_every_event_has_the_kind_xid_and_time_that_pg_waldump_prints(evidence: Evidence) -> None:
    _, events = scans(evidence)
    expected = expected_events(evidence.parent_lines)
    assert told(events) == expected
    assert {kind for kind, *_ in expected} == {kind.value for kind in EventKind}


def test_prepared_transactions_are_known_by_their_names(evidence: Evidence) -> None:
    _, events = scans(evidence)
    assert [(one.kind, one.gid) for one in events if one.gid is not None] == [
        (EventKind.PREPARE, "gid one"),
        (EventKind.PREPARE, "gid two"),
        (EventKind.PREPARE, "gid three"),
        (EventKind.ABORT_PREPARED, "gid three"),
        (EventKind.COMMIT_PREPARED, "gid one"),
        (EventKind.ABORT_PREPARED, "gid two"),
        (EventKind.PREPARE, "gid open"),
    ]


def test_scans_of_single_segments_join_to_one_chain(evidence: Evidence) -> None:
    found, _ = scans(evidence)
    assert sum(scan.records for scan in found) == len(evidence.parent_lines)
    last = None
    for scan in found:
        assert scan.ending is Ending.WHOLE or scan is found[-1]
        if scan.first is not None:
            assert last is None or scan.first_prev == last
            last = scan.last
    switches = [line.lsn // SIZE for line in evidence.parent_lines if line.word == "SWITCH"]
    assert [scan.segment.number for scan in found if scan.switched] == switches


def test_restore_points_and_limits_are_those_the_server_wrote(evidence: Evidence) -> None:
    found, _ = scans(evidence)
    points = [point for scan in found for point in scan.restore_points]
    assert [point.name for point in points] == ["first point", "second", "second"]
    printed = [line.lsn for line in evidence.parent_lines if line.word == "RESTORE_POINT"]
    assert [point.lsn for point in points] == printed
    changes = [change for scan in found for change in scan.parameter_changes]
    assert [(one.max_prepared_transactions, one.wal_level) for one in changes] == [(20, 2)]
    checkpoints = [check.lsn for scan in found for check in scan.checkpoints]
    words = {"CHECKPOINT_ONLINE", "CHECKPOINT_SHUTDOWN"}
    assert checkpoints == [line.lsn for line in evidence.parent_lines if line.word in words]


def test_finished_segments_pass_the_checks_of_archiving(evidence: Evidence) -> None:
    last = evidence.parent_lines[-1].lsn // SIZE
    system = read_first_page(evidence.parent[last]).system
    for number in range(min(evidence.parent), last):
        data, name = evidence.parent[number], Segment(1, number).name(SIZE)
        identity = read_first_page(data, name=name)
        check_segment(
            name, identity, system=system, segment_size=SIZE, length=len(data), major=evidence.major
        )
        check_pages(data, identity.address, magic=identity.magic, name=name)


def test_a_forks_segment_is_read_from_the_child_and_joins_the_parents_records(evidence: Evidence) -> None:
    assert evidence.path.timeline_of_segment(evidence.fork, SIZE) == 2
    inherited = [line for line in evidence.parent_lines if line.lsn < evidence.path.forks[0].switch]
    numbers = range(min(evidence.parent), max(evidence.child) + 1)
    pieces = [(number, pages) for number in numbers if (pages := evidence.on_path(number)) is not None]
    found = as_lines(list(Walk(iter(pieces), segment_size=SIZE)))
    own = [line for line in evidence.child_lines if line.lsn >= evidence.path.forks[0].switch]
    assert found == without_words(inherited + own)
    scan, _ = scan_segment(Segment(2, evidence.fork), evidence.on_path, segment_size=SIZE)
    assert (scan.first, scan.ending) == (evidence.child_lines[0].lsn, Ending.WHOLE)
    assert inherited[-1].lsn // SIZE == evidence.fork


def test_damage_never_raises_and_never_makes_a_record(evidence: Evidence) -> None:
    chance = random.Random(evidence.major)
    true = without_words(evidence.parent_lines)
    numbers = range(min(evidence.parent), evidence.parent_lines[-1].lsn // SIZE + 1)
    for _ in range(25):
        first = chance.choice(numbers)
        pages = {n: bytearray(evidence.parent[n]) for n in range(first, first + 3) if n in evidence.parent}
        for _ in range(chance.randrange(1, 5)):
            chance.choice(list(pages.values()))[chance.randrange(SIZE)] ^= 1 << chance.randrange(8)
        cut = chance.choice(list(pages))
        if chance.random() < 0.5:
            pages = {n: data for n, data in pages.items() if n <= cut}
            del pages[cut][chance.randrange(SIZE) :]
        damaged = Walk(iter(pages.items()), segment_size=SIZE)
        records = as_lines(list(damaged))
        if records:
            at = true.index(records[0])
            assert records == true[at : at + len(records)]
