"""Databases in other encodings than UTF-8: what we ask them is text all the same."""

from __future__ import annotations

import pytest

from tests.kit.postgres import PostgresFactory
from walarchiver.postgres.connection import connected
from walarchiver.postgres.probe import probe_server


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_a_database_in_another_encoding_is_probed_like_any_other(
    postgres: PostgresFactory, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGCLIENTENCODING", encoding)
    cluster = postgres()
    cluster.psql(
        f"CREATE DATABASE other ENCODING '{encoding}' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'"
    )
    plain, other = probe_server(cluster.dsn()), probe_server(cluster.dsn("other"))
    assert (other.system, other.major) == (plain.system, plain.major)
    with connected(cluster.dsn("other")) as sql:
        row = sql.execute("SELECT pg_current_wal_lsn()::text, chr(65)").fetchone()
        assert row is not None
        assert isinstance(row[0], str)
        assert row[1] == "A"
    with connected(cluster.dsn("other"), replication=True) as sql:
        row = sql.execute("IDENTIFY_SYSTEM").fetchone()
        assert row is not None
        assert row[0] == str(plain.system)
