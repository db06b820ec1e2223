"""Rows taken out of a server come back as they were: every format, value and name."""

from __future__ import annotations

import csv
import io
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from restore.rescue import Form, Wanted, Written, find_tables, load_aside, new_file, write_out
from restore.throwaway import Throwaway
from tests.kit.postgres import QUICK, open_folder
from walarchiver.core.table import TableName
from walarchiver.embedded.postgres import MIB, EmbeddedCluster
from walarchiver.errors import DatabaseUnavailable, RescueFailed, SchemaTaken, UnknownTable, UsageError
from walarchiver.postgres.tablecopy import answers, check_side_schema
from walarchiver.postgres.tables import private_dsn

NASTY = '"Übel ""s"""."Größe \'x\' %s; --"'
ROWS = r"""
INSERT INTO {nasty} ("Text", mood, amount, at, raw, tags, doc, js, fix, span, f, on_off) VALUES
  ('plain', 'gut', 1.50, '2026-11-22 14:32:06.123456+00', '\x00ff5c', '{{a,"b,c",NULL}}',
   '{{"k": [1, null]}}', '[ 1]', 'ab', '1 mon -3 days 00:00:01.5', 1e300, true),
  (E'tab\there\nline\\N \\. \r \b \f \v ''single'' "double" 😀', 'sch''lecht', 'NaN', 'infinity', '', '{{}}',
   '"\\u0022"', '{{"a":1,"a":2}}', '', '-1 year', '-Infinity', false),
  (E'\\N', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 0.1::float8 + 0.2, NULL),
  ('', 'gut', -0.01, '4713-01-01 00:00:00+00 BC', '\x27', ARRAY[E'x\\y', '"'],
   '{{}}', 'null', 'abcde', '0', '-0', true)
"""
TABLES = f'''
CREATE SCHEMA "Übel ""s""";
CREATE TYPE "Übel ""s"""."Laune" AS ENUM ('gut', 'sch''lecht');
CREATE TABLE {NASTY} (
  gone int, id bigint GENERATED ALWAYS AS IDENTITY (START 10) PRIMARY KEY, "Text" text COLLATE "C" NOT NULL,
  mood "Übel ""s"""."Laune", amount numeric(10,2), at timestamptz, raw bytea, tags text[], doc jsonb, js json,
  twice numeric GENERATED ALWAYS AS (amount * 2) STORED, fix char(5), span interval, f float8, on_off boolean
);
ALTER TABLE {NASTY} DROP COLUMN gone;
{ROWS.format(nasty=NASTY)};
CREATE TABLE public.parts (k int, v text, PRIMARY KEY (v, k)) PARTITION BY RANGE (k);
CREATE TABLE public.parts_low PARTITION OF public.parts FOR VALUES FROM (0) TO (100);
CREATE TABLE public.parts_high PARTITION OF public.parts FOR VALUES FROM (100) TO (1000)
  PARTITION BY RANGE (k);
CREATE TABLE public.parts_higher PARTITION OF public.parts_high FOR VALUES FROM (100) TO (1000);
INSERT INTO public.parts SELECT n, 'v' || n FROM generate_series(1, 250) n;
CREATE TABLE public.heap (a int, b text);
INSERT INTO public.heap VALUES (1, 'x'), (1, 'x'), (1, 'x'), (2, NULL), (2, NULL), (3, 'y');
CREATE TABLE public.incomparable (j json);
CREATE TABLE public."Orders" (n int);
CREATE SCHEMA sales;
CREATE TABLE sales.heap (a int);
CREATE TABLE public.far (n int) PARTITION BY RANGE (n);
CREATE FOREIGN DATA WRAPPER elsewhere;
CREATE SERVER elsewhere FOREIGN DATA WRAPPER elsewhere;
CREATE FOREIGN TABLE public.far_away PARTITION OF public.far FOR VALUES FROM (0) TO (9) SERVER elsewhere;
'''
WHOLE = "SELECT count(*), md5(string_agg(t::text, E'\\n' ORDER BY t::text)) FROM {} t"


@pytest.fixture(scope="module", params=(14, 18), ids=lambda major: f"pg{major}")
def cluster(request: pytest.FixtureRequest) -> Iterator[EmbeddedCluster]:
    folder = open_folder("wa-tables-")
    made = EmbeddedCluster(request.param, folder / "pg", settings=QUICK, durable=False)
    try:
        made.create(segment_bytes=MIB).start()
        made.psql("CREATE DATABASE shop")
        made.psql("CREATE DATABASE bare")
        made.psql(TABLES, dbname="shop")
        yield made
    finally:
        made.kill()
        shutil.rmtree(folder, ignore_errors=True)


def as_throwaway(cluster: EmbeddedCluster, bin_dir: Path | None = None) -> Throwaway:
    """A server to take from; that it was restored changes nothing here."""

    def dsn(dbname: str) -> str:
        return private_dsn(cluster.dsn(), user="postgres", dbname=dbname)

    return cast(
        Throwaway, SimpleNamespace(dsn=dsn, order=SimpleNamespace(bin_dir=bin_dir or cluster.bin_dir))
    )


def wanted(cluster: EmbeddedCluster, *names: str, where: str | None = None) -> Wanted:
    parsed = [TableName.parse(name) for name in names]
    return find_tables(as_throwaway(cluster), parsed, database=None, where=where)


def quiet(_line: str) -> None:
    """Nobody waits."""


def written(
    cluster: EmbeddedCluster, found: Wanted, form: Form, path: Path, bin_dir: Path | None = None
) -> Written:
    with new_file(path) as out:
        told = write_out(as_throwaway(cluster, bin_dir), found, form, out, comments=("a\nb",), say=quiet)
    assert path.stat().st_mode & 0o777 == 0o600
    assert told.bytes == path.stat().st_size
    return told


def whole(cluster: EmbeddedCluster, table: str) -> str:
    return cluster.psql(WHOLE.format(table), dbname="shop")


def script(cluster: EmbeddedCluster, path: Path) -> None:
    """Run a file with psql, as a person would."""
    with path.open("rb") as given:
        ran = subprocess.run(
            [str(cluster.bin_dir / "psql"), "-Xq", "-v", "ON_ERROR_STOP=1", cluster.dsn("shop")],
            stdin=given,
            capture_output=True,
            check=False,
        )
    assert ran.returncode == 0, ran.stderr.decode()


def test_rows_as_inserts_come_back_and_what_is_there_stays(cluster: EmbeddedCluster, tmp_path: Path) -> None:
    before = whole(cluster, NASTY)
    found = wanted(cluster, NASTY, where="true -- and nothing else")
    told = written(cluster, found, Form.SQL, tmp_path / "out.sql")
    assert told.rows == (4,)
    cluster.psql(f"DELETE FROM {NASTY} WHERE id > 10", dbname="shop")
    script(cluster, tmp_path / "out.sql")
    assert whole(cluster, NASTY) == before
    cluster.psql(f"UPDATE {NASTY} SET fix = 'new' WHERE id = 10", dbname="shop")
    changed = whole(cluster, NASTY)
    script(cluster, tmp_path / "out.sql")
    assert whole(cluster, NASTY) == changed != before
    cluster.psql(f"UPDATE {NASTY} SET fix = 'ab' WHERE id = 10", dbname="shop")
    assert whole(cluster, NASTY) == before


def test_a_whole_table_comes_back_with_its_definition(cluster: EmbeddedCluster, tmp_path: Path) -> None:
    before = whole(cluster, NASTY), whole(cluster, "public.parts")
    told = written(cluster, wanted(cluster, NASTY, "parts"), Form.SQL, tmp_path / "out.sql")
    assert told.rows == (4, 250)
    assert (tmp_path / "out.sql").read_text().startswith("-- a?b\n")
    cluster.psql(f"DROP TABLE {NASTY}, parts", dbname="shop")
    script(cluster, tmp_path / "out.sql")
    assert (whole(cluster, NASTY), whole(cluster, "public.parts")) == before
    assert cluster.psql("SELECT count(*) FROM parts_higher", dbname="shop") == "151"
    (tmp_path / "empty").mkdir()
    told = written(
        cluster, wanted(cluster, NASTY, "parts"), Form.SQL, tmp_path / "own.sql", tmp_path / "empty"
    )
    assert told.rows == (4, 250)
    cluster.psql(f"TRUNCATE {NASTY}, parts", dbname="shop")
    script(cluster, tmp_path / "own.sql")
    assert (whole(cluster, NASTY), whole(cluster, "public.parts")) == before


def test_copy_and_csv_hold_the_rows(cluster: EmbeddedCluster, tmp_path: Path) -> None:
    before = whole(cluster, NASTY)
    assert written(cluster, wanted(cluster, NASTY), Form.COPY, tmp_path / "out.copy").rows == (4,)
    cluster.psql(f"TRUNCATE {NASTY}", dbname="shop")
    with (tmp_path / "load").open("wb") as load:
        load.write(f"COPY {NASTY} FROM STDIN;\n".encode() + (tmp_path / "out.copy").read_bytes() + b"\\.\n")
    script(cluster, tmp_path / "load")
    assert whole(cluster, NASTY) == before
    told = written(cluster, wanted(cluster, NASTY, where="id <> 11"), Form.CSV, tmp_path / "out.csv")
    assert told.rows == (3,)
    header, *rows = csv.reader(io.StringIO((tmp_path / "out.csv").read_text()))
    assert header[:2] == ["id", "Text"]
    assert "twice" in header
    found = {row[1]: row for row in rows}
    assert {text: row[header.index("twice")] for text, row in found.items()} == {
        "plain": "3.00",
        "\\N": "",
        "": "-0.02",
    }
    assert found["plain"][header.index("at")] == "2026-11-22 14:32:06.123456+00"


def test_a_side_schema_holds_the_rows_and_its_statement_brings_only_missing_ones(
    cluster: EmbeddedCluster,
) -> None:
    names = (NASTY, "public.parts", "public.heap", "incomparable")
    before = {name: whole(cluster, name) for name in (NASTY, "public.parts", "public.heap")}
    told = load_aside(as_throwaway(cluster), wanted(cluster, *names), cluster.dsn("shop"), 'a "side"', quiet)
    assert told.rows == (4, 250, 6, 0)
    assert told.statements[3].startswith("--")
    with pytest.raises(SchemaTaken):
        load_aside(as_throwaway(cluster), wanted(cluster, NASTY), cluster.dsn("shop"), 'a "side"', quiet)
    with pytest.raises(SchemaTaken):
        check_side_schema(cluster.dsn("shop"), 'a "side"')
    check_side_schema(cluster.dsn("shop"), "free")
    shown = cluster.psql(
        'SELECT relkind, count(*) FROM pg_class WHERE relnamespace = \'"a ""side"""\'::regnamespace '
        "GROUP BY 1 ORDER BY 1",
        dbname="shop",
    )
    assert shown == "i|2\nr|4"
    cluster.psql(
        f"DELETE FROM {NASTY} WHERE id = 12; DELETE FROM parts WHERE k % 2 = 0; "
        "DELETE FROM public.heap WHERE a = 2; "
        "DELETE FROM public.heap WHERE ctid = (SELECT min(ctid) FROM public.heap WHERE a = 1)",
        dbname="shop",
    )
    for statement in told.statements:
        cluster.psql(statement, dbname="shop")
    assert {name: whole(cluster, name) for name in before} == before
    for statement in told.statements:
        cluster.psql(statement, dbname="shop")
    assert {name: whole(cluster, name) for name in before} == before
    cluster.psql('DROP SCHEMA "a ""side""" CASCADE', dbname="shop")


def test_a_side_schema_that_fails_leaves_nothing(cluster: EmbeddedCluster) -> None:
    with pytest.raises(RescueFailed, match="Übel"):  # the enum's schema is not there
        load_aside(
            as_throwaway(cluster), wanted(cluster, "parts", NASTY), cluster.dsn("bare"), "aside", quiet
        )
    assert cluster.psql("SELECT count(*) FROM pg_namespace WHERE nspname = 'aside'", dbname="bare") == "0"
    with pytest.raises(UsageError, match="one name"):
        load_aside(
            as_throwaway(cluster),
            wanted(cluster, "public.heap", "sales.heap"),
            cluster.dsn("bare"),
            "aside",
            quiet,
        )
    with pytest.raises(DatabaseUnavailable) as told:
        check_side_schema("host=/nowhere", "aside")
    assert "--into-dsn" in told.value.message


REFUSED: list[tuple[str, type[Exception], str]] = [
    ("ordrs", UnknownTable, 'similar: "public"."Orders"'),
    ("orders", UnknownTable, 'similar: "public"."Orders"'),
    ("public.part", UnknownTable, '"public"."parts"'),
    ("zzzzzz", UnknownTable, 'no database had table "zzzzzz" at that moment'),
    ("heap", UnknownTable, 'several tables are called \'heap\': "public"."heap", "sales"."heap"'),
    ("pg_catalog.pg_class", UnknownTable, "no database"),
    ("far", RescueFailed, "foreign tables below it"),
]


@pytest.mark.parametrize(("name", "kind", "said"), REFUSED)
def test_a_table_that_cannot_be_meant_is_refused_with_the_nearest(
    cluster: EmbeddedCluster, name: str, kind: type[UnknownTable], said: str
) -> None:
    with pytest.raises(kind) as told:
        wanted(cluster, name)
    assert said in told.value.message


def test_a_condition_is_refused_in_postgresqls_words(cluster: EmbeddedCluster) -> None:
    with pytest.raises(RescueFailed, match='column "nonsense" does not exist'):
        wanted(cluster, "public.heap", where="nonsense > 1")
    assert wanted(cluster, "public.heap", where="a > 1").database == "shop"


def test_a_private_session_goes_nowhere_else_and_reads_only(
    cluster: EmbeddedCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGHOSTADDR", "192.0.2.1")
    monkeypatch.setenv("PGOPTIONS", "-c default_transaction_read_only=off")
    dsn = as_throwaway(cluster).dsn("shop")
    (told,) = answers(dsn, "SHOW transaction_read_only")
    assert told.rows == (("on",),)
    told, more = answers(dsn, "SELECT 1 AS one, NULL AS none; SELECT 'a'")
    assert (told.columns, told.rows, more.rows) == (("one", "none"), ((1, None),), (("a",),))


def test_a_file_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    def fail(path: Path) -> None:
        with new_file(path) as out:
            out.write(b"half")
            raise RescueFailed("broken")

    with pytest.raises(RescueFailed):
        fail(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []

    def race(path: Path) -> None:
        with new_file(path) as out:
            out.write(b"ours")
            path.write_bytes(b"theirs")

    with pytest.raises(UsageError):
        race(tmp_path / "out")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("out", b"theirs")]
