"""Each of PostgreSQL 14 to 18: archive, back up, plan and restore, compared row by row."""

from __future__ import annotations

import functools
import shutil
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from tests.integration.oracle import SETTINGS, Oracle, State, read_state
from tests.integration.scene import PATIENCE_S, Json, Scene, Scenes, end
from tests.kit.postgres import as_server_user, seldom
from walarchiver.core.moment import CommitTime, format_rfc3339
from walarchiver.core.segment import Segment

WITHOUT_CHECKSUMS = (14, 17)
SEGMENTS = 50
_NOW = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
_XID = "SELECT pg_current_xact_id()::text::bigint & 4294967295"


@dataclass
class Live:
    """A cluster that has lived through everything that a restore must bring back."""

    scene: Scene
    oracle: Oracle
    config: Path
    moment: CommitTime
    """When transaction `early` was prepared already, and `late` not yet."""
    deleted_by: int
    """The transaction that deleted the kept rows while others were at work."""
    tablespace: int
    restored: int = 0

    def restore(self, at: str, *more: str) -> tuple[Json, Path]:
        self.restored += 1
        into = self.scene.stage.folder / f"r{self.restored}"
        return self.scene.restore(at, into, *more, config=self.config), into


def play(scenes: Scenes, major: int) -> Live:
    """A base backup under load, then work, a deletion amid it, and two prepared transactions."""
    if major in WITHOUT_CHECKSUMS:
        scenes.postgres = functools.partial(scenes.postgres, data_checksums=False)
    scene = scenes.make(major, settings={**SETTINGS, "wal_keep_size": "1GB"})
    dsn = scene.cluster.dsn()
    place = scene.cluster.directory / "elsewhere"
    place.mkdir(mode=0o700)
    as_server_user(scene.cluster, place)
    scene.cluster.psql(f"CREATE TABLESPACE elsewhere LOCATION '{place}'")
    Oracle.make_tables(dsn)
    scene.cluster.psql(
        "CREATE TABLE far TABLESPACE elsewhere AS SELECT generate_series(1, 1000) AS n;"
        "CREATE UNLOGGED TABLE fleeting AS SELECT generate_series(1, 1000) AS n;"
        "CREATE TABLE kept AS SELECT generate_series(1, 100) AS n"
    )
    oracle = Oracle(dsn, seed=major)
    oracle.start()
    try:
        scene.json("backup")
        deleted_by = delete_amid_work(dsn)
        moment = prepare_around_a_moment(dsn)
    finally:
        oracle.stop()
    tablespace = scene.cluster.psql("SELECT oid FROM pg_tablespace WHERE spcname = 'elsewhere'")
    return Live(scene, oracle, scene.reader(), moment, deleted_by, int(tablespace))


def delete_amid_work(dsn: str) -> int:
    """Begin before two others and commit before them; the deleting transaction's id."""
    with (
        psycopg.connect(dsn) as deleting,
        psycopg.connect(dsn) as before,
        psycopg.connect(dsn) as one,
        psycopg.connect(dsn) as other,
    ):
        for number, sql in enumerate((before, one, other)):
            sql.execute(b"INSERT INTO kept VALUES (%s)", (1001 + number,))
        row = deleting.execute(_XID.encode()).fetchone()
        assert row is not None
        before.commit()  # later to begin, earlier to commit: it stays
        deleting.execute(b"DELETE FROM kept WHERE n <= 100")
        deleting.commit()
        one.commit()
        other.commit()
    return int(row[0])


def prepare_around_a_moment(dsn: str) -> CommitTime:
    """Prepare `early`, look at the clock, prepare `late`: neither is committed."""
    with psycopg.connect(dsn, autocommit=True) as sql:
        sql.execute(b"BEGIN; INSERT INTO far VALUES (2001)")
        sql.execute(b"PREPARE TRANSACTION 'early'")
        sql.execute(b"INSERT INTO far VALUES (3001)")
        row = sql.execute(_NOW.encode()).fetchone()
        assert row is not None
        sql.execute(b"BEGIN; INSERT INTO far VALUES (2002)")
        sql.execute(b"PREPARE TRANSACTION 'late'")
        sql.execute(b"INSERT INTO far VALUES (3002)")
    return CommitTime(int(row[0]))


@pytest.mark.parametrize("major", [14, 18, *seldom(15, 16, 17)])
def test_everything_archived_comes_back_exactly(scenes: Scenes, major: int) -> None:
    live = play(scenes, major)
    scene = live.scene
    write_segments(scene, SEGMENTS)
    check_archive(scene)
    check_backup(live, major)
    check_moment(live)
    check_transactions(live)
    scene.stage.stop_server()
    scene.prove_rebuild()


def write_segments(scene: Scene, count: int, *, patience_s: float = PATIENCE_S) -> None:
    with psycopg.connect(scene.cluster.dsn(), autocommit=True) as sql:
        for _ in range(count):
            sql.execute(b"SELECT pg_logical_emit_message(true, 'test', repeat('x', 10000))")
            sql.execute(b"SELECT pg_switch_wal()")
    scene.archive_all(patience_s=patience_s)


def check_archive(scene: Scene) -> None:
    """Every segment once, byte-equal to its source, in one unbroken run."""
    assert scene.prove_archived() > SEGMENTS
    assert scene.counted("failed_count") == 0
    archive = scene.open()
    ((timeline, first, last),) = archive.catalog.runs()
    wal = scene.stage.folder / "repository" / "v1" / "c" / archive.system / "wal"
    stored = sorted(path.name.split(".")[0] for path in wal.rglob("*") if path.is_file())
    size = archive.segment_size
    assert stored == [Segment(timeline, number).name(size) for number in range(first, last + 1)]


def check_backup(live: Live, major: int) -> None:
    archive = live.scene.open()
    (record,) = archive.catalog.backups()
    assert (record.source, record.timeline, record.facts.version_num // 10000) == ("primary", 1, major)
    assert record.facts.data_checksums is (major not in WITHOUT_CHECKSUMS)
    assert live.tablespace in [place.oid for place in record.tablespaces]


def check_moment(live: Live) -> None:
    """The rows of that moment, in a moved tablespace; unlogged ones gone; one transaction prepared."""
    scene, at = live.scene, format_rfc3339(live.moment)
    moved = scene.stage.folder / "moved"
    plan = scene.json("plan", "--at", at, config=live.config)
    assert [one["gid"] for one in plan["prepared"]] == ["early"]
    told, into = live.restore(at, "--tablespace", f"{live.tablespace}={moved}")
    try:
        found = read_state(told["dsn"])
        with psycopg.connect(told["dsn"], autocommit=True) as sql:
            rows = {row[0] for row in sql.execute(b"SELECT n FROM far")}
            (fleeting,) = sql.execute(b"SELECT count(*) FROM fleeting").fetchone() or (None,)
            prepared = [row[0] for row in sql.execute(b"SELECT gid FROM pg_prepared_xacts")]
            place = sql.execute(
                b"SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 'elsewhere'"
            ).fetchone()
            sql.execute(b"COMMIT PREPARED 'early'")
            after = {row[0] for row in sql.execute(b"SELECT n FROM far")}
    finally:
        end(told["pid"], into)
    assert found == live.oracle.state(live.oracle.until(live.moment))
    assert told["stop_lsn"] == plan["stop"]["lsn"]
    assert rows == {*range(1, 1001), 3001}
    assert after == {*rows, 2001}
    assert fleeting == 0
    assert prepared == ["early"]
    assert place == (str(moved),)
    shutil.rmtree(into)


def check_transactions(live: Live) -> None:
    """Just before the deletion; and just after some commit of the load."""
    kept, _ = rows_of_kept(live, f"before-xid:{live.deleted_by}")
    assert kept == {*range(1, 101), 1001}
    ordered = sorted(live.oracle.times, key=live.oracle.times.__getitem__)
    xid = ordered[-10]
    _, state = rows_of_kept(live, f"xid:{xid}")
    assert xid in state.xids
    assert state == live.oracle.state(state.xids)
    assert live.oracle.until(CommitTime(live.oracle.times[ordered[-12]] - 100_000)) <= state.xids
    assert len(live.oracle.times) - len(state.xids) in range(1, 20)


def rows_of_kept(live: Live, at: str) -> tuple[set[int], State]:
    told, into = live.restore(at)
    try:
        with psycopg.connect(told["dsn"]) as sql:
            return {row[0] for row in sql.execute(b"SELECT n FROM kept")}, read_state(told["dsn"])
    finally:
        end(told["pid"], into)
        shutil.rmtree(into)
