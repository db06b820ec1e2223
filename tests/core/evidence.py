"""WAL that real servers wrote, with what pg_waldump says of it.

Each major's server is made to write everything that has a form of its own: subtransactions,
two-phase commits, records over many segments, compressed page images, switches, restore points,
dropped databases, torn records of crashes, and a fork in the middle of a segment.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path

import psycopg

from tests.kit.postgres import as_server_user
from walarchiver.core.history import TimelineHistory
from walarchiver.core.lsn import Lsn, format_lsn, parse_lsn
from walarchiver.core.scan import EventKind
from walarchiver.core.segment import Segment, SegmentBytes
from walarchiver.core.walreader import CrcPolicy, Walk
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
            connection.execute(statement)
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


def waldump(cluster: EmbeddedCluster, timeline: int, segments: dict[int, bytes]) -> list[Line]:
    """What pg_waldump prints for these segments.

    It takes the segment size from any file it finds first, so it must not see empty ones, which
    servers keep ready in pg_wal.
    """
    folder = cluster.directory / f"timeline{timeline}"
    folder.mkdir()
    for number, data in segments.items():
        if any(data[:PAGE]):
            (folder / Segment(timeline, number).name(SIZE)).write_bytes(data)
    start = Segment(timeline, min(segments)).start(SIZE)
    return dumped(cluster.bin_dir, folder, timeline, start)


def dumped(
    bin_dir: Path, folder: Path, timeline: int, start: Lsn, end: Lsn | None = None, *, timeout_s: float = 60
) -> list[Line]:
    """What pg_waldump prints of a folder's WAL, from one position on, perhaps up to another."""
    words = [str(bin_dir / "pg_waldump"), "-p", str(folder), "-t", str(timeline), "-s", format_lsn(start)]
    words += [] if end is None else ["-e", format_lsn(end)]
    done = subprocess.run(
        words,
        capture_output=True,
        text=True,
        check=False,  # 1 where the WAL ends
        env={"TZ": "UTC"},
        timeout=timeout_s,
    )
    lines = []
    for line in done.stdout.splitlines():
        if not line.startswith("rmgr: "):
            continue  # the note about where the first record was found
        match = RECORD_LINE.match(line)
        assert match is not None, line
        rmgr, total, xid, lsn, prev, word, rest = match.groups()
        lines.append(Line(rmgr, int(total), int(xid), parse_lsn(lsn), parse_lsn(prev), word, rest))
    assert lines, done.stderr
    return lines


def events_told(lines: list[Line]) -> list[tuple[str, Lsn, int, str]]:
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
        parent_lines = waldump(cluster, 1, parent)
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
        child_lines = waldump(cluster, 2, child)
    finally:
        cluster.kill()
    return Evidence(major, parent, parent_lines, history, child, child_lines)


def torn_in(cluster: EmbeddedCluster) -> bool:
    """Whether the server has overwritten a torn record."""
    pages = read_wal(cluster.data_dir / "pg_wal", 1)
    walk = Walk(iter(pages.items()), segment_size=SIZE, crc=CrcPolicy.NONE, wanted=frozenset())
    list(walk)
    return bool(walk.overwritten)
