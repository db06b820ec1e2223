"""Listing every relation's file on a running server."""

from __future__ import annotations

import pytest

from tests.kit.postgres import PostgresFactory
from walarchiver.core.relfile import PG_CLASS
from walarchiver.format.relationmap import DatabaseRelations
from walarchiver.postgres.relations import read_relations


@pytest.mark.usefixtures("major")
def test_files_rows_partitions_and_toast_are_what_the_server_says(postgres: PostgresFactory) -> None:
    cluster = postgres()
    cluster.psql(
        'CREATE SCHEMA "Odd"; CREATE TABLE "Odd"."T x"(i int, x text); CREATE UNLOGGED TABLE u(i int);'
        "CREATE TABLE p(i int) PARTITION BY RANGE (i);"
        "CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (9);"
        "CREATE TABLE rewritten(i int); INSERT INTO rewritten VALUES (1)"
    )
    cluster.psql("VACUUM FULL rewritten")
    cluster.psql("VACUUM FULL pg_class")
    (found,) = read_relations(cluster.dsn(), only="postgres").databases
    by_name = {one.name: one for one in found.relations}
    assert {"T x", "u", "p", "p1", "rewritten", "pg_class"} <= by_name.keys()
    assert (by_name["T x"].schema, by_name["u"].persistence, by_name["p"].file) == ("Odd", "u", 0)
    assert by_name["p1"].parents == (by_name["p"].oid,)
    assert by_name["T x"].toast in {one.oid for one in found.relations if one.kind == "t"}
    assert by_name["rewritten"].file != by_name["rewritten"].oid
    for one in found.relations:
        if one.kind != "p":
            path = cluster.psql(f"SELECT pg_relation_filepath({one.oid})")
            assert path.endswith(f"/{one.file}"), one
            place = cluster.psql(f"SELECT ctid, xmin FROM pg_class WHERE oid = {one.oid}")
            assert place == f"({one.row.block},{one.row.offset})|{one.xmin}"
    assert by_name["pg_class"].oid == PG_CLASS
    assert found.before <= found.after
    assert "public" in dict(found.schemas).values()


def test_a_database_that_lets_nobody_in_is_named_and_fails_nothing(postgres: PostgresFactory) -> None:
    cluster = postgres()
    for statement in (
        "CREATE DATABASE shut",
        "CREATE DATABASE broken",
        "CREATE ROLE lister LOGIN",
        "REVOKE CONNECT ON DATABASE shut FROM PUBLIC",
        "ALTER DATABASE broken CONNECTION LIMIT 0",
    ):
        cluster.psql(statement)
    said: list[str] = []
    dsn = cluster.dsn().replace("user=postgres", "user=lister")
    found = {one.name: one for one in read_relations(dsn, notice=said.append).databases}
    assert found["postgres"].problem == ""
    assert found["postgres"].catalog() is not None
    for name in ("shut", "broken", "template0"):
        assert found[name].problem
        assert found[name].relations == ()
    assert len(said) == 1
    assert "broken" in said[0]


def test_an_empty_list_has_no_catalog() -> None:
    assert DatabaseRelations(1, "x", before=0, after=0).catalog() is None  # type: ignore[arg-type]
