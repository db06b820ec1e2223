"""Rows deleted from a busy database come back by `rescue`, exactly those, and nothing else is touched."""

from __future__ import annotations

import os
import re
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from tests.integration.scene import Scene, Scenes, until
from tests.kit.smalldisk import small_disk
from tests.matrix.test_peek import place, servers

ORDERS = 'sales."Bestellungen €"'


@contextmanager
def busy(scene: Scene) -> Iterator[list[int]]:
    """Somebody inserts and updates all the time; the list grows with every commit."""
    done: list[int] = []
    failures: list[BaseException] = []
    halt = threading.Event()

    def work() -> None:
        try:
            with psycopg.connect(scene.cluster.dsn(), autocommit=True) as sql:
                while not halt.is_set():
                    n = 100_000 + len(done)
                    sql.execute(f"INSERT INTO {ORDERS} VALUES ({n}, 1, 'new')")
                    sql.execute(f"UPDATE {ORDERS} SET note = 'seen' WHERE id = {n}")
                    done.append(n)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield done
    finally:
        halt.set()
        thread.join()
    assert not failures, failures


def more(done: list[int]) -> None:
    have = len(done)
    until(lambda: len(done) > have + 3, "further commits")


def words(scene: Scene, *more: str) -> list[str]:
    given = ["rescue", "--hook", str(scene.stage.hook), "--bin-dir", str(scene.cluster.bin_dir), *more]
    return given + (["--owner", "nobody"] if os.geteuid() == 0 else [])


def psql(scene: Scene, path: Path) -> None:
    subprocess.run(
        [scene.cluster.bin_dir / "psql", "-Xq", "-v", "ON_ERROR_STOP=1", "-f", path, scene.cluster.dsn()],
        check=True,
    )


def test_exactly_the_deleted_rows_come_back_into_a_busy_database(scenes: Scenes) -> None:
    scene = scenes.make()
    sql = scene.cluster.psql
    sql("CREATE SCHEMA sales")
    sql(f"CREATE TABLE {ORDERS} (id int PRIMARY KEY, customer int NOT NULL, note text)")
    sql(f"INSERT INTO {ORDERS} SELECT n, n % 10, 'old ' || n FROM generate_series(1, 2000) n")
    sql("CREATE TABLE untouched AS SELECT generate_series(1, 10) AS n")
    scene.json("backup")
    with busy(scene) as done:
        more(done)
        xid = sql(f"DELETE FROM {ORDERS} WHERE customer = 7; SELECT pg_current_xact_id()")
        more(done)
        sql(f"DELETE FROM {ORDERS} WHERE id = 1")  # meant
        more(done)
    scene.archive_all()
    everything = f"SELECT md5(string_agg(t::text, ',' ORDER BY id)) FROM {ORDERS} t"
    others = f"SELECT md5(string_agg(t::text, ',' ORDER BY id)) FROM {ORDERS} t WHERE customer <> 7"
    before, before_others = sql(everything), sql(others)
    config, out = scene.reader(), scene.stage.folder / "rows.sql"

    found = ["--at", f"before-xid:{xid}", "--table", 'sales."Bestellungen €"']
    rows = ["--where", "customer = 7", "--out", str(out), "--into-dsn", scene.cluster.dsn()]
    told = scene.json(*words(scene, *found, *rows), config=config)
    assert told["tables"] == [{"table": '"sales"."Bestellungen €"', "rows": 200}]
    assert told["database"] == "postgres"
    assert told["out"] == {"file": str(out), "format": "sql", "bytes": out.stat().st_size}
    assert out.stat().st_mode & 0o777 == 0o600
    assert re.fullmatch(r"rescued_\d{8}t\d{6}z", told["into"]["schema"])
    assert sql(everything) == before  # nothing was brought back yet
    assert sql(f'SELECT count(*) FROM {told["into"]["schema"]}."Bestellungen €"') == "200"
    assert list(place(config).iterdir()) == []
    assert servers(place(config)) == []
    psql(scene, out)
    assert sql(others) == before_others
    assert sql(f"SELECT count(*), min(id), max(id) FROM {ORDERS} WHERE customer = 7") == "200|7|1997"
    after = sql(everything)
    sql(f"DELETE FROM {ORDERS} WHERE customer = 7")
    for statement in told["into"]["statements"]:
        sql(statement)
    assert sql(everything) == after

    again = scene.call(*words(scene, *found, *rows, "--output", "json"), config=config)
    assert (again.exit_status, again.error["code"]) == (2, "WA-USAGE")  # the file is there
    rows = ["--into-dsn", scene.cluster.dsn(), "--output", "json"]
    again = scene.call(*words(scene, *found, *rows), config=config)
    assert (again.exit_status, again.error["code"]) == (2, "WA-SCHEMA-TAKEN")
    left_alone = sql(everything), sql("SELECT count(*) FROM pg_namespace")
    refuses(scene, config)
    assert (sql(everything), sql("SELECT count(*) FROM pg_namespace")) == left_alone


def refuses(scene: Scene, config: Path) -> None:
    """What cannot be is said, with its code, and leaves nothing."""
    out = scene.stage.folder / "rows.csv"

    def refused(*given: str) -> tuple[int, str, str]:
        told = scene.call(*words(scene, *given, "--output", "json"), config=config)
        assert not out.exists()
        assert list(place(config).iterdir()) == []
        return told.exit_status, told.error["code"], told.error["message"]

    latest = ["--at", "latest", "--out", str(out)]
    status, code, message = refused(*latest, "--table", "untuched")
    assert (status, code) == (2, "WA-TABLE")
    assert 'similar: "public"."untouched"' in message
    assert refused("--at", "2001-01-01T00:00:00Z", "--out", str(out), "--table", "untouched")[0] == 13
    told = scene.json(*words(scene, *latest, "--table", "untouched", "--dry-run"), config=config)
    assert told["bytes_on_disk"] > 1_000_000
    assert not out.exists()
    with small_disk(scene.stage.folder / "small", 4 << 20) as disk:
        status, code, message = refused(*latest, "--table", "untouched", "--workdir", str(disk))
        assert (status, code) == (1, "WA-RESTORE-DISK"), message
        assert list(disk.iterdir()) == []
